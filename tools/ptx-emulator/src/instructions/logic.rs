//! Logic and shifts.

use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::Context;
use crate::machine::instruction::{Execute, Instruction, Step, Undefined};
use crate::machine::row::Slot;

/// An instruction of bits that is the same for all of the types in `BITS`.
macro_rules! bits {
    ($builder:ident; ($($source:ident),*) { $($body:tt)* }) => {
        match $builder.last() {
            "b16" => lanes!($builder; ($($source: u16),*) -> u16 { $($body)* }),
            "b32" => lanes!($builder; ($($source: u32),*) -> u32 { $($body)* }),
            _ => lanes!($builder; ($($source: u64),*) -> u64 { $($body)* }),
        }
    };
}

/// The forms.
pub const FORMS: &[Form] = &[
    Form { pattern: "and.pred", section: "9.7.8.1 and", build: |b| combining(b, |b| predicates(b, |x, y| x & y)) },
    Form { pattern: "and.BITS", section: "9.7.8.1 and", build: |b| combining(b, |b| bits!(b; (x, y) { x & y })) },
    Form { pattern: "or.pred", section: "9.7.8.2 or", build: |b| predicates(b, |x, y| x | y) },
    Form { pattern: "or.BITS", section: "9.7.8.2 or", build: |b| bits!(b; (x, y) { x | y }) },
    Form { pattern: "xor.pred", section: "9.7.8.3 xor", build: |b| predicates(b, |x, y| x ^ y) },
    Form { pattern: "xor.BITS", section: "9.7.8.3 xor", build: |b| bits!(b; (x, y) { x ^ y }) },
    Form {
        pattern: "not.pred",
        section: "9.7.8.4 not",
        build: |b| {
            b.predicate_destination()?;
            b.predicate_source()?;
            Ok(|context, instruction| {
                let value = predicate_value(context, instruction.operands[1]);
                context.set_predicate(instruction.predicate(0), !value);
                Step::Next
            })
        },
    },
    Form { pattern: "not.BITS", section: "9.7.8.4 not", build: |b| bits!(b; (x) { !x }) },
    Form { pattern: "cnot.BITS", section: "9.7.8.5 cnot", build: |b| bits!(b; (x) { if x == 0 { 1 } else { 0 } }) },
    Form { pattern: "lop3.b32", section: "9.7.8.6 lop3", build: lop3 },
    Form { pattern: "lop3.and|or.b32", section: "9.7.8.6 lop3", build: lop3 },
    Form {
        pattern: "shf.l|r.clamp|wrap.b32",
        section: "9.7.8.7 shf",
        build: |b| match (b.modifier(0), b.modifier(1)) {
            ("l", "clamp") => lanes!(b; (x: u32, y: u32, by: u32) -> u32 { (wide(x, y) << by.min(32) >> 32) as u32 }),
            ("l", _) => lanes!(b; (x: u32, y: u32, by: u32) -> u32 { (wide(x, y) << (by & 31) >> 32) as u32 }),
            (_, "clamp") => lanes!(b; (x: u32, y: u32, by: u32) -> u32 { (wide(x, y) >> by.min(32)) as u32 }),
            _ => lanes!(b; (x: u32, y: u32, by: u32) -> u32 { (wide(x, y) >> (by & 31)) as u32 }),
        },
    },
    Form {
        pattern: "shl.BITS",
        section: "9.7.8.8 shl",
        build: |b| match b.last() {
            "b16" => lanes!(b; (x: u16, by: u32) -> u16 { x.checked_shl(by).unwrap_or(0) }),
            "b32" => lanes!(b; (x: u32, by: u32) -> u32 { if by > 31 { 0 } else { x << (by & 31) } }),
            _ => lanes!(b; (x: u64, by: u32) -> u64 { if by > 63 { 0 } else { x << (by & 63) } }),
        },
    },
    Form {
        pattern: "shr.b16|b32|b64|u16|u32|u64|s16|s32|s64",
        section: "9.7.8.9 shr",
        build: |b| match b.last() {
            "s16" => lanes!(b; (x: i16, by: u32) -> i16 { x >> by.min(15) }),
            "s32" => lanes!(b; (x: i32, by: u32) -> i32 { x >> by.min(31) }),
            "s64" => lanes!(b; (x: i64, by: u32) -> i64 { x >> by.min(63) }),
            "b16" | "u16" => lanes!(b; (x: u16, by: u32) -> u16 { x.checked_shr(by).unwrap_or(0) }),
            "b32" | "u32" => lanes!(b; (x: u32, by: u32) -> u32 { if by > 31 { 0 } else { x >> (by & 31) } }),
            _ => lanes!(b; (x: u64, by: u32) -> u64 { if by > 63 { 0 } else { x >> (by & 63) } }),
        },
    },
    Form { pattern: "prmt.b32[.f4e|b4e|rc8|ecl|ecr|rc16]", section: "9.7.9.7 prmt", build: prmt },
];

#[inline(always)]
fn wide(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// The value of an operand that [`Builder::predicate_source`] read.
#[inline(always)]
pub fn predicate_value(context: &Context<'_>, slot: Slot) -> u32 {
    let packed = slot.place().0;
    let value = context.predicate(packed >> 1);
    if packed & 1 != 0 { !value } else { value }
}

/// A mask: where one side is undefined, the other may still say what comes out.
fn combining(
    b: &mut Builder<'_, '_>,
    build: fn(&mut Builder<'_, '_>) -> Result<Execute, Problem>,
) -> Result<Execute, Problem> {
    b.traits.undefined = Undefined::Combines;
    build(b)
}

fn predicates(b: &mut Builder<'_, '_>, operation: fn(u32, u32) -> u32) -> Result<Execute, Problem> {
    b.predicate_destination()?;
    b.predicate_source()?;
    b.predicate_source()?;
    // The three operations, told apart by what they make of (0, 1) and (1, 1).
    b.made.modifiers = operation(0b0110, 0b1100) & 0xf;
    Ok(|context, instruction| {
        let x = predicate_value(context, instruction.operands[1]);
        let y = predicate_value(context, instruction.operands[2]);
        let value = match instruction.modifiers {
            0b0100 => x & y,
            0b1110 => x | y,
            _ => x ^ y,
        };
        context.set_predicate(instruction.predicate(0), value);
        Step::Next
    })
}

fn lookup(table: u32, x: u32, y: u32, z: u32) -> u32 {
    (0..8).filter(|row| table >> row & 1 != 0).fold(0, |all, row| {
        let pick = |value: u32, bit: u32| if row >> bit & 1 != 0 { value } else { !value };
        all | pick(x, 2) & pick(y, 1) & pick(z, 0)
    })
}

fn lop3(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    fn execute(context: &mut Context<'_>, instruction: &Instruction) -> Step {
        let [x, y, z]: [[u32; 32]; 3] = [1, 2, 3].map(|operand| context.read(instruction.operands[operand]));
        let mut result = [0; 32];
        for lane in 0..32 {
            result[lane] = lookup(instruction.modifiers & 0xff, x[lane], y[lane], z[lane]);
        }
        if instruction.modifiers & 0x300 != 0 {
            let nonzero = (0..32).fold(0, |all, lane| all | u32::from(result[lane] != 0) << lane);
            let with = predicate_value(context, instruction.operands[5]);
            let value = if instruction.modifiers & 0x100 != 0 { nonzero & with } else { nonzero | with };
            context.set_predicate(instruction.predicate(4), value);
        }
        context.write(instruction.operands[0], &result);
        Step::Next
    }
    use crate::parse::ast::Operand;
    let with_predicate = b.has("and") || b.has("or");
    let mut predicate = None;
    match b.take()? {
        Operand::Pair(first, second) if with_predicate => {
            b.destination_from::<u32>(first)?;
            predicate = Some(second);
        }
        first => b.destination_from::<u32>(first)?,
    }
    for _ in 0..3 {
        b.source::<u32>()?;
    }
    let table = b.integer()?;
    b.made.modifiers = table as u32 & 0xff;
    if with_predicate {
        b.made.modifiers |= if b.has("and") { 0x100 } else { 0x200 };
        b.predicate_destination_from(predicate.map_or(&Operand::Sink, |operand| operand))?;
        b.predicate_source()?;
    }
    Ok(execute)
}

fn prmt(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.traits.undefined = Undefined::Combines;
    fn byte(bytes: u64, at: u32) -> u32 {
        (bytes >> (8 * (at & 7))) as u32 & 0xff
    }
    fn pick(bytes: u64, selectors: [u32; 4]) -> u32 {
        selectors.iter().rev().fold(0, |all, at| all << 8 | byte(bytes, *at))
    }
    match b.modifier(1) {
        "f4e" => {
            lanes!(b; (x: u32, y: u32, by: u32) -> u32 { let n = by & 3; pick(wide(x, y), [n, n + 1, n + 2, n + 3]) })
        }
        "b4e" => {
            lanes!(b; (x: u32, y: u32, by: u32) -> u32 { let n = by & 3; pick(wide(x, y), [n, n + 7, n + 6, n + 5]) })
        }
        "rc8" => lanes!(b; (x: u32, y: u32, by: u32) -> u32 { pick(wide(x, y), [by & 3; 4]) }),
        "ecl" => {
            lanes!(b; (x: u32, y: u32, by: u32) -> u32 { let n = by & 3; pick(wide(x, y), [n, n.max(1), n.max(2), 3]) })
        }
        "ecr" => {
            lanes!(b; (x: u32, y: u32, by: u32) -> u32 { let n = by & 3; pick(wide(x, y), [0, n.min(1), n.min(2), n]) })
        }
        "rc16" => {
            lanes!(b; (x: u32, y: u32, by: u32) -> u32 { let n = 2 * (by & 1); pick(wide(x, y), [n, n + 1, n, n + 1]) })
        }
        _ => lanes!(b; (x: u32, y: u32, by: u32) -> u32 {
            (0..4).fold(0, |all, at| {
                let selector = by >> (4 * at) & 0xf;
                let picked = byte(wide(x, y), selector);
                // The selector's top bit asks for the byte's sign, eight times.
                let picked = if selector & 8 == 0 { picked } else if picked & 0x80 != 0 { 0xff } else { 0 };
                all | picked << (8 * at)
            })
        }),
    }
}
