//! Arithmetic of mixed precision: f16 or bf16 operands, an f32 addend and result.

use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::Context;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::Lane;
use crate::numeric::rounding::{Directed, Rounding};

/// The forms.
pub const FORMS: &[Form] = &[
    Form { pattern: "add[.ROUNDING][.sat].f32.f16|bf16", section: "9.7.5.1 add", build: |b| build(b, ADD) },
    Form { pattern: "sub[.ROUNDING][.sat].f32.f16|bf16", section: "9.7.5.2 sub", build: |b| build(b, SUBTRACT) },
    Form { pattern: "fma.ROUNDING[.sat].f32.f16|bf16", section: "9.7.5.3 fma", build: |b| build(b, FUSED) },
];

const ADD: u8 = 0;
const SUBTRACT: u8 = 1;
const FUSED: u8 = 2;
const SATURATE: u32 = 1 << 8;

/// A type that is widened to f32.
trait Narrow: Lane {
    fn widen(self) -> f32;
}

impl Narrow for half::f16 {
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Narrow for half::bf16 {
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

fn build(b: &mut Builder<'_, '_>, operation: u8) -> Result<Execute, Problem> {
    fn operands<T: Narrow>(b: &mut Builder<'_, '_>, operation: u8) -> Result<Execute, Problem> {
        b.destination::<f32>()?;
        b.source::<T>()?;
        if operation == FUSED {
            b.source::<T>()?;
        }
        b.source::<f32>()?;
        Ok(match operation {
            ADD => execute::<T, ADD>,
            SUBTRACT => execute::<T, SUBTRACT>,
            _ => execute::<T, FUSED>,
        })
    }
    let saturate = if b.has("sat") { SATURATE } else { 0 };
    b.made.modifiers = Rounding::named(b.modifier(0)).code() | saturate;
    if b.last() == "bf16" { operands::<half::bf16>(b, operation) } else { operands::<half::f16>(b, operation) }
}

fn execute<T: Narrow, const OPERATION: u8>(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    let rounding = Rounding::from_code(instruction.modifiers & 7);
    let first = context.read::<T>(instruction.operands[1]).map(T::widen);
    let last: [f32; 32] = context.read(instruction.operands[if OPERATION == FUSED { 3 } else { 2 }]);
    let second = if OPERATION == FUSED { context.read::<T>(instruction.operands[2]).map(T::widen) } else { last };
    let result: [f32; 32] = std::array::from_fn(|lane| {
        let (x, y) = (first[lane], last[lane]);
        let value = match OPERATION {
            ADD => x.add(y, rounding),
            SUBTRACT => x.add(-y, rounding),
            _ => x.fused(second[lane], y, rounding),
        };
        match (instruction.modifiers & SATURATE != 0, value.is_nan()) {
            (true, true) => 0.0,
            (true, false) => value.clamp(0.0, 1.0) + 0.0,
            (false, true) => f32::from_bits(0x7fff_ffff),
            _ => value,
        }
    });
    context.write(instruction.operands[0], &result);
    Step::Next
}
