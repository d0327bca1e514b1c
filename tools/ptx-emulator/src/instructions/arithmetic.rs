//! Arithmetic with a carry, for numbers of several words.

use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::Context;
use crate::machine::instruction::{CARRY, Execute, Instruction, Step};
use crate::machine::row::Lane;

/// The forms.
pub const FORMS: &[Form] = &[
    Form { pattern: "add.cc.u32|s32|u64|s64", section: "9.7.2.1 add.cc", build: |b| build(b, Operation::Add) },
    Form { pattern: "addc[.cc].u32|s32|u64|s64", section: "9.7.2.2 addc", build: |b| build(b, Operation::Add) },
    Form { pattern: "sub.cc.u32|s32|u64|s64", section: "9.7.2.3 sub.cc", build: |b| build(b, Operation::Subtract) },
    Form { pattern: "subc[.cc].u32|s32|u64|s64", section: "9.7.2.4 subc", build: |b| build(b, Operation::Subtract) },
    Form {
        pattern: "mad.lo|hi.cc.u32|s32|u64|s64",
        section: "9.7.2.5 mad.cc",
        build: |b| build(b, Operation::MultiplyAdd),
    },
    Form {
        pattern: "madc.lo|hi[.cc].u32|s32|u64|s64",
        section: "9.7.2.6 madc",
        build: |b| build(b, Operation::MultiplyAdd),
    },
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Add,
    Subtract,
    MultiplyAdd,
}

const TAKES_CARRY: u32 = 1;
const SETS_CARRY: u32 = 2;
const HIGH: u32 = 4;

fn build(b: &mut Builder<'_, '_>, operation: Operation) -> Result<Execute, Problem> {
    if b.name().ends_with('c') {
        b.made.modifiers |= TAKES_CARRY;
    }
    if b.has("cc") {
        b.made.modifiers |= SETS_CARRY;
    }
    if b.has("hi") {
        b.made.modifiers |= HIGH;
    }
    fn operands<T: Lane>(b: &mut Builder<'_, '_>, operation: Operation) -> Result<(), Problem> {
        b.destination::<T>()?;
        for _ in 0..if operation == Operation::MultiplyAdd { 3 } else { 2 } {
            b.source::<T>()?;
        }
        Ok(())
    }
    macro_rules! pick {
        ($type:ty, $bits:literal, $signed:literal) => {{
            operands::<$type>(b, operation)?;
            Ok(match operation {
                Operation::Add => execute::<$type, 0, $bits, $signed>,
                Operation::Subtract => execute::<$type, 1, $bits, $signed>,
                Operation::MultiplyAdd => execute::<$type, 2, $bits, $signed>,
            })
        }};
    }
    match b.last() {
        "u32" => pick!(u32, 32, false),
        "s32" => pick!(u32, 32, true),
        "u64" => pick!(u64, 64, false),
        _ => pick!(u64, 64, true),
    }
}

fn execute<T: Lane + Into<u64> + TryFrom<u64>, const OPERATION: u8, const BITS: u32, const SIGNED: bool>(
    context: &mut Context<'_>,
    instruction: &Instruction,
) -> Step {
    let a: [T; 32] = context.read(instruction.operands[1]);
    let b: [T; 32] = context.read(instruction.operands[2]);
    let c: [T; 32] = if OPERATION == 2 { context.read(instruction.operands[3]) } else { [T::default(); 32] };
    let takes = instruction.modifiers & TAKES_CARRY != 0;
    let carry = context.predicate(CARRY as usize);
    let mask = if BITS == 64 { u64::MAX } else { (1 << BITS) - 1 };
    let (mut result, mut out) = ([T::default(); 32], 0u32);
    for lane in 0..32 {
        let (a, b, c): (u64, u64, u64) = (a[lane].into(), b[lane].into(), c[lane].into());
        let carry = u128::from(takes && carry >> lane & 1 != 0);
        let sum = match OPERATION {
            0 => u128::from(a) + u128::from(b) + carry,
            // A borrow is a carry that is there when it is missing.
            1 => u128::from(a).wrapping_sub(u128::from(b)).wrapping_sub(carry) & ((1 << (BITS + 1)) - 1),
            _ => {
                let product = if SIGNED && BITS == 32 {
                    (i64::from(a as i32) * i64::from(b as i32)) as u64 as u128
                } else if SIGNED {
                    (i128::from(a as i64) * i128::from(b as i64)) as u128
                } else {
                    u128::from(a) * u128::from(b)
                };
                let half = if instruction.modifiers & HIGH != 0 { (product >> BITS) as u64 } else { product as u64 };
                u128::from(half & mask) + u128::from(c) + carry
            }
        };
        out |= u32::from(sum >> BITS & 1 != 0) << lane;
        result[lane] = T::try_from(sum as u64 & mask).unwrap_or_default();
    }
    context.write(instruction.operands[0], &result);
    if instruction.modifiers & SETS_CARRY != 0 {
        context.set_predicate(CARRY as usize, out);
    }
    Step::Next
}
