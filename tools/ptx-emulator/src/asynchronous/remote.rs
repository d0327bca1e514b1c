//! Stores and reductions that complete by themselves: into the shared memory of another CTA, which an mbarrier is told, or into global
//! memory.

use super::bulk::issue_load;
use super::bulk_reduction::Reduction;
use super::mbarrier;
use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::lanes;
use crate::machine::fault::FaultKind;
use crate::machine::instruction::{Execute, Step};
use crate::machine::row::{Kind, LANES};
use crate::memory::access::{Space, shared};

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "red.async.relaxed.cluster[.shared::cluster].mbarrier::complete_tx::bytes.inc|dec|min|max|and|or|xor|add.u32|s32|b32|u64",
        section: "9.7.13.7 red.async",
        build: reduce,
    },
    Form {
        pattern: "red.async[.mmio].release.gpu|sys[.global].add.u32|s32|u64|s64",
        section: "9.7.13.7 red.async",
        build: reduce,
    },
    Form {
        pattern: "st.async[.mmio].release.gpu|sys[.global].b8|b16|b32|b64|u8|u16|u32|u64|s8|s16|s32|s64|f32|f64",
        section: "9.7.9.12 st.async",
        build: store,
    },
    Form {
        pattern: "st.async[.weak][.cluster][.shared::cluster].mbarrier::complete_tx::bytes[.v2|v4].b32|b64|u32|u64|s32|s64|f32|f64",
        section: "9.7.9.12 st.async",
        build: store_async,
    },
    Form { pattern: "st.bulk[.weak][.shared::cta]", section: "9.7.9.13 st.bulk", build: clear },
];

/// The bytes of a type, by the digits at the end of its name.
fn bytes_of(kind: &str) -> u32 {
    kind.trim_start_matches(|letter: char| letter.is_ascii_alphabetic()).parse().unwrap_or(32) / 8
}

/// Reads a register of a size into the list; a narrow one is in a wider register.
fn put_value(b: &mut Builder<'_, '_>, bytes: u32) -> Result<(), Problem> {
    let operand = b.take()?;
    let register = b.register_bytes(operand).unwrap_or(bytes).max(bytes);
    b.vector(operand, register, Kind::Integer, false).map(drop)
}

const NAMES: [&str; 8] = ["and", "or", "xor", "add", "inc", "dec", "min", "max"];
const KINDS: [&str; 5] = ["b32", "u32", "s32", "u64", "s64"];
const TELLS: u32 = 1 << 8;

fn reduce(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let operation = NAMES.iter().position(|name| b.has(name)).unwrap_or(0);
    let kind = KINDS.iter().position(|name| *name == b.last()).unwrap_or(0);
    if Reduction::named(NAMES[operation], KINDS[kind]).is_none() {
        return b.problem(format!("`{}` does not take .{}", NAMES[operation], KINDS[kind]));
    }
    b.listed_address()?;
    put_value(b, bytes_of(KINDS[kind]))?;
    b.made.modifiers = operation as u32 | (kind as u32) << 4;
    if b.has("relaxed") {
        b.listed_address()?;
        b.made.modifiers |= TELLS;
    }
    Ok(|context, instruction| {
        let (modifiers, list) = (instruction.modifiers as usize, context.list(instruction));
        let kind = KINDS[(modifiers >> 4 & 15) % KINDS.len()];
        let Some(reduction) = Reduction::named(NAMES[modifiers & 7], kind) else { return Step::Next };
        let tells = instruction.modifiers & TELLS != 0;
        for lane in lanes(context.mask) {
            let value = if reduction.bytes() == 8 {
                context.read::<u64>(list[3])[lane]
            } else {
                u64::from(context.row(list[3]).0[lane])
            };
            let address = context.listed_address(list, lane);
            let address = if tells { crate::memory::window::SHARED + shared(address) } else { address };
            if tells {
                issue_load(context, lane, shared(context.listed_address(&list[4..], lane)));
                let place = context.shared_of(Space::Generic, address);
                context.check_reduced(place, reduction.bytes());
            } else {
                context.check_tells(Space::Generic, &[address; LANES]);
                context.check_race(lane, address, reduction.bytes(), true, true);
            }
            if let Err(refused) =
                reduction.apply(context, (Space::Generic, address), &value.to_le_bytes()[..reduction.bytes()])
            {
                return context.refuse(lane, refused, "reduction");
            }
            if tells {
                let barrier = shared(context.listed_address(&list[4..], lane));
                if let Err(step) = mbarrier::complete(context, lane, barrier, reduction.bytes()) {
                    return step;
                }
            }
        }
        Step::Next
    })
}

fn store(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let bytes = bytes_of(b.last());
    b.listed_address()?;
    put_value(b, bytes)?;
    b.made.modifiers = bytes;
    Ok(|context, instruction| {
        let list = context.list(instruction);
        for lane in lanes(context.mask) {
            let address = context.listed_address(list, lane);
            let narrow = context.row(list[3]).0[lane];
            context.check_tells(Space::Generic, &[address; LANES]);
            context.check_race(lane, address, instruction.modifiers as usize, true, true);
            let stored = match instruction.modifiers {
                1 => context.store(Space::Generic, lane, address, narrow as u8),
                2 => context.store(Space::Generic, lane, address, narrow as u16),
                4 => context.store(Space::Generic, lane, address, narrow),
                _ => {
                    let value = context.read::<u64>(list[3])[lane];
                    context.store(Space::Generic, lane, address, value)
                }
            };
            if let Err(refused) = stored {
                return context.refuse(lane, refused, "write");
            }
        }
        Step::Next
    })
}

fn store_async(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let bytes = if b.last().ends_with("64") { 8 } else { 4 };
    b.listed_address()?;
    let values = b.take()?;
    let before = b.made.list_length;
    b.vector(values, bytes, Kind::Integer, false)?;
    let count = b.made.list_length - before;
    b.listed_address()?;
    b.made.modifiers = count | bytes << 8;
    Ok(|context, instruction| {
        let (count, bytes) = ((instruction.modifiers & 0xff) as usize, (instruction.modifiers >> 8) as usize);
        let list = context.list(instruction);
        for lane in lanes(context.mask) {
            let to = shared(context.listed_address(list, lane));
            let barrier = shared(context.listed_address(&list[3 + count..], lane));
            issue_load(context, lane, barrier);
            let place = context.shared_place(to);
            context.check_stretch(place, count * bytes, Some(false));
            for at in 0..count {
                let address = to + (at * bytes) as u64;
                let stored = if bytes == 8 {
                    let value = context.read::<u64>(list[3 + at])[lane];
                    context.store(Space::Shared, lane, address, value)
                } else {
                    let value = context.row(list[3 + at]).0[lane];
                    context.store(Space::Shared, lane, address, value)
                };
                if let Err(refused) = stored {
                    return context.refuse(lane, refused, "write");
                }
            }
            if let Err(step) = mbarrier::complete(context, lane, barrier, count * bytes) {
                return step;
            }
        }
        Step::Next
    })
}

/// The most bytes that `st.bulk` clears.
const MOST: u64 = 1 << 24;

fn clear(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.listed_address()?;
    let size = b.take()?;
    let bytes = b.register_bytes(size).unwrap_or(8);
    b.vector(size, bytes, Kind::Integer, false)?;
    b.made.modifiers = bytes;
    if b.integer()? != 0 {
        return b.problem("`st.bulk` stores zeros only");
    }
    Ok(|context, instruction| {
        let list = context.list(instruction);
        for lane in lanes(context.mask) {
            let address = shared(context.listed_address(list, lane));
            let size = match instruction.modifiers {
                8 => context.read::<u64>(list[3])[lane],
                _ => u64::from(context.row(list[3]).0[lane]),
            };
            if !size.is_multiple_of(8) || size > MOST {
                let message = format!("`st.bulk` of {size} bytes: it takes a multiple of 8 up to {MOST}");
                return context.fail(FaultKind::IllegalInstruction, lane, message);
            }
            context.issue(lane, |_, _| None);
            let place = context.shared_place(address);
            context.check_stretch(place, size as usize, Some(false));
            for at in (0..size).step_by(8) {
                if let Err(refused) = context.store(Space::Shared, lane, address + at, 0u64) {
                    return context.refuse(lane, refused, "write");
                }
            }
        }
        Step::Next
    })
}
