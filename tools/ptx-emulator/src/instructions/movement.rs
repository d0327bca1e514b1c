//! Moving values between registers, and addresses between spaces.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::decode::builder::Builder;
use crate::decode::draft::rows_of;
use crate::decode::form::Form;
use crate::decode::generic;
use crate::decode::scope::Place;
use crate::diagnostic::Problem;
use crate::machine::context::Context;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::Kind;
use crate::memory::access::{Space, specific};
use crate::memory::window;
use crate::parse::ast::Operand;

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "mov.pred",
        section: "9.7.9.3 mov",
        build: |b| {
            b.predicate_destination()?;
            if let [Operand::Name("%is_explicit_cluster")] = b.rest() {
                b.source::<u32>()?;
                return Ok(|context, instruction| {
                    let value = context.row(instruction.operands[1]).0[0];
                    context.set_predicate(instruction.predicate(0), if value == 0 { 0 } else { u32::MAX });
                    Step::Next
                });
            }
            b.predicate_source()?;
            Ok(|context, instruction| {
                let value = super::logic::predicate_value(context, instruction.operands[1]);
                context.set_predicate(instruction.predicate(0), value);
                Step::Next
            })
        },
    },
    Form { pattern: "mov.b16|u16|s16|b32|u32|s32|f32|b64|u64|s64|f64|b128", section: "9.7.9.3 mov", build: mov },
    Form {
        pattern: "mov.v2|v4.b16|u16|s16|b32|u32|s32|f32|b64|u64|s64|f64",
        section: "9.7.9.3 mov",
        build: move_vector,
    },
    Form {
        pattern: "cvta.global|const|shared|shared::cta|shared::cluster|local|param|param::entry.u64",
        section: "9.7.9.20 cvta",
        build: |b| cvta(b, 0),
    },
    Form {
        pattern: "cvta.to.global|const|shared|shared::cta|shared::cluster|local|param|param::entry.u64",
        section: "9.7.9.20 cvta",
        build: |b| cvta(b, 1),
    },
    Form {
        pattern: "isspacep.global|const|shared|shared::cta|shared::cluster|local|param|param::entry",
        section: "9.7.9.19 isspacep",
        build: isspacep,
    },
    Form {
        pattern: "mapa[.shared::cluster].u32|u64",
        section: "9.7.9.23 mapa",
        build: |b| match b.last() {
            "u32" => lanes!(b; (address: u32, rank: u32) -> u32 { address & 0xff_ffff | rank << 24 }),
            _ => lanes!(b; (address: u64, rank: u32) -> u64 { address & !0xff00_0000 | u64::from(rank) << 24 }),
        },
    },
    Form {
        pattern: "getctarank[.shared::cluster].u32|u64",
        section: "9.7.9.24 getctarank",
        build: |b| match b.last() {
            "u32" => lanes!(b; (address: u32) -> u32 { address >> 24 }),
            _ => lanes!(b; (address: u64) -> u32 { address as u32 >> 24 }),
        },
    },
];

fn mov(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let bytes = match b.last() {
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b64" | "u64" | "s64" | "f64" => 8,
        "b128" => 16,
        _ => 4,
    };
    match b.rest() {
        [Operand::Vector(_), _] => return unpack(b, bytes),
        [_, Operand::Vector(_)] => return pack(b, bytes),
        [_, Operand::Name(name)] => {
            if let Some(volatile) = volatile(name, bytes) {
                if bytes == 8 {
                    b.destination::<u64>()?;
                } else {
                    b.destination::<u32>()?;
                }
                b.take()?;
                return Ok(volatile);
            }
        }
        _ => {}
    }
    match b.last() {
        "b16" | "u16" | "s16" => lanes!(b; (x: u16) -> u16 { x }),
        "f16" => lanes!(b; (x: half::f16) -> half::f16 { x }),
        "bf16" => lanes!(b; (x: half::bf16) -> half::bf16 { x }),
        "b64" | "u64" | "s64" => lanes!(b; (x: u64) -> u64 { x }),
        "f64" => lanes!(b; (x: f64) -> f64 { x }),
        "f32" => lanes!(b; (x: f32) -> f32 { x }),
        "b128" => lanes!(b; (x: u128) -> u128 { x }),
        _ => lanes!(b; (x: u32) -> u32 { x }),
    }
}

/// Moves a vector of registers, or the four components of a special register such as `%tid`.
fn move_vector(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let count = if b.has("v2") { 2 } else { 4 };
    let bytes = match b.last() {
        "b16" | "u16" | "s16" => 2,
        "b64" | "u64" | "s64" | "f64" => 8,
        _ => 4,
    };
    b.registers(count, bytes, Kind::Integer, true)?;
    match b.rest() {
        [Operand::Name(name)] if count == 4 && b.is_special_vector(name) => {
            b.take()?;
            let components = ["x", "y", "z", "w"].map(|component| Operand::Component(name, component));
            b.vector(&Operand::Vector(components.to_vec()), bytes, Kind::Integer, false)?;
        }
        _ => b.registers(count, bytes, Kind::Integer, false)?,
    }
    b.made.modifiers = bytes;
    Ok(|context, instruction| {
        let list = context.list(instruction);
        let (to, from) = list.split_at(list.len() / 2);
        // All are read before one is written: they may be the same registers in another order.
        let mut values = [[0u64; 32]; 4];
        for (values, slot) in values.iter_mut().zip(from) {
            *values = read_part(context, *slot, instruction.modifiers);
        }
        for (values, slot) in values.iter().zip(to) {
            match instruction.modifiers {
                8 => context.write(*slot, values),
                4 => context.write(*slot, &values.map(|value| value as u32)),
                _ => context.write(*slot, &values.map(|value| value as u16)),
            }
        }
        Step::Next
    })
}

/// Special registers that change while a thread runs.
fn volatile(name: &str, bytes: u32) -> Option<Execute> {
    fn put(context: &mut Context<'_>, instruction: &Instruction, value: u64, wide: bool) -> Step {
        if wide {
            context.write(instruction.operands[0], &[value; 32]);
        } else {
            context.write(instruction.operands[0], &[value as u32; 32]);
        }
        Step::Next
    }
    fn nanoseconds() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
    }
    Some(match (name, bytes) {
        // The clock counts what the warp has executed: it grows, and says nothing about time.
        ("%clock", 4) => |context, instruction| {
            let executed = context.warp.clock();
            put(context, instruction, executed, false)
        },
        ("%clock_hi", 4) => |context, instruction| {
            let executed = context.warp.clock();
            put(context, instruction, executed >> 32, false)
        },
        ("%clock64", 8) => |context, instruction| {
            let executed = context.warp.clock();
            put(context, instruction, executed, true)
        },
        ("%globaltimer", 8) => |context, instruction| put(context, instruction, nanoseconds(), true),
        ("%globaltimer_lo", 4) => |context, instruction| put(context, instruction, nanoseconds(), false),
        ("%globaltimer_hi", 4) => |context, instruction| put(context, instruction, nanoseconds() >> 32, false),
        _ => return None,
    })
}

/// The bytes of a part of a vector of `count` that makes up a register of `bytes`.
fn part(b: &Builder<'_, '_>, bytes: u32, count: usize) -> Result<u32, Problem> {
    match (bytes, count) {
        (2..=16, 2) => Ok(bytes / 2),
        (4..=16, 4) => Ok(bytes / 4),
        (8, 8) => Ok(1),
        _ => b.problem(format!("{count} registers do not make up {} bits", 8 * bytes)),
    }
}

fn read_part(context: &Context<'_>, slot: crate::machine::row::Slot, bytes: u32) -> [u64; 32] {
    match bytes {
        8 => context.read(slot),
        4 => context.read::<u32>(slot).map(u64::from),
        2 => context.read::<u16>(slot).map(u64::from),
        _ => context.read::<u8>(slot).map(u64::from),
    }
}

fn pack(b: &mut Builder<'_, '_>, bytes: u32) -> Result<Execute, Problem> {
    match bytes {
        2 => b.destination::<u16>()?,
        4 => b.destination::<u32>()?,
        8 => b.destination::<u64>()?,
        _ => b.destination::<u128>()?,
    }
    let operand = b.take()?;
    let count = if let Operand::Vector(parts) = operand { parts.len() } else { 0 };
    let each = part(b, bytes, count)?;
    b.vector(operand, each, Kind::Integer, false)?;
    b.made.modifiers = each;
    b.made.immediate = i64::from(rows_of(bytes));
    if (bytes, each) == (8, 4) {
        return Ok(|context, instruction| {
            let list = context.list(instruction);
            let (low, high): ([u32; 32], [u32; 32]) = (context.read(list[0]), context.read(list[1]));
            let mut result = [0u64; 32];
            for lane in 0..32 {
                result[lane] = u64::from(low[lane]) | u64::from(high[lane]) << 32;
            }
            context.write(instruction.operands[0], &result);
            Step::Next
        });
    }
    Ok(|context, instruction| {
        let each = instruction.modifiers;
        let mut result = [0u128; 32];
        for (at, slot) in context.list(instruction).iter().enumerate() {
            let values = read_part(context, *slot, each);
            for lane in 0..32 {
                result[lane] |= u128::from(values[lane]) << (8 * each * at as u32);
            }
        }
        match instruction.immediate {
            1 => context.write(instruction.operands[0], &result.map(|value| value as u32)),
            2 => context.write(instruction.operands[0], &result.map(|value| value as u64)),
            _ => context.write(instruction.operands[0], &result),
        }
        Step::Next
    })
}

fn unpack(b: &mut Builder<'_, '_>, bytes: u32) -> Result<Execute, Problem> {
    let operand = b.take()?;
    let count = if let Operand::Vector(parts) = operand { parts.len() } else { 0 };
    let each = part(b, bytes, count)?;
    b.vector(operand, each, Kind::Integer, true)?;
    match bytes {
        2 => b.source::<u16>()?,
        4 => b.source::<u32>()?,
        8 => b.source::<u64>()?,
        _ => b.source::<u128>()?,
    }
    b.made.modifiers = each;
    b.made.immediate = i64::from(rows_of(bytes));
    Ok(|context, instruction| {
        let each = instruction.modifiers;
        let values: [u128; 32] = match instruction.immediate {
            1 => context.read::<u32>(instruction.operands[0]).map(u128::from),
            2 => context.read::<u64>(instruction.operands[0]).map(u128::from),
            _ => context.read(instruction.operands[0]),
        };
        for (at, slot) in context.list(instruction).iter().enumerate() {
            let shift = 8 * each * at as u32;
            match each {
                8 => context.write(*slot, &values.map(|value| (value >> shift) as u64)),
                4 => context.write(*slot, &values.map(|value| (value >> shift) as u32)),
                2 => context.write(*slot, &values.map(|value| (value >> shift) as u16)),
                _ => context.write(*slot, &values.map(|value| (value >> shift) as u8)),
            }
        }
        Step::Next
    })
}

fn place(name: &str) -> Place {
    match name {
        "shared" | "shared::cta" | "shared::cluster" => Place::Shared,
        "local" => Place::Local,
        "param" | "param::entry" => Place::Parameter,
        _ => Place::Global,
    }
}

fn cvta(b: &mut Builder<'_, '_>, at: usize) -> Result<Execute, Problem> {
    let (space, to) = (place(b.modifier(at)), at == 1);
    let base = generic(space, 0);
    b.made.immediate = if to { (base as i64).wrapping_neg() } else { base as i64 };
    fn execute(context: &mut Context<'_>, instruction: &Instruction) -> Step {
        let addresses: [u64; 32] = context.read(instruction.operands[1]);
        context.write(
            instruction.operands[0],
            &addresses.map(|address| address.wrapping_add_signed(instruction.immediate)),
        );
        Step::Next
    }
    b.destination::<u64>()?;
    b.source::<u64>()?;
    Ok(execute)
}

fn isspacep(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.predicate_destination()?;
    b.source::<u64>()?;
    let space = place(b.last());
    b.made.immediate = generic(space, 0) as i64;
    b.made.modifiers = match b.last() {
        "shared" | "shared::cta" => OWN,
        "const" => CONSTANT,
        _ => 0,
    };
    Ok(|context, instruction| {
        let addresses: [u64; 32] = context.read(instruction.operands[1]);
        let base = instruction.immediate as u64;
        let own = context.cta as u64;
        let holds = (0..32).fold(0, |all, lane| {
            let address = addresses[lane];
            let inside = match (base, instruction.modifiers) {
                (_, CONSTANT) => window::constant(address),
                (0, _) => specific(address).0 == Space::Global && !window::constant(address),
                (_, OWN) => window::holds(base, address) && address >> 24 & 0xff == own,
                _ => window::holds(base, address),
            };
            all | u32::from(inside) << lane
        });
        context.set_predicate(instruction.predicate(0), holds);
        Step::Next
    })
}

/// The shared memory of the CTA alone.
const OWN: u32 = 1;
/// Constants, which are in memory like global variables.
const CONSTANT: u32 = 2;
