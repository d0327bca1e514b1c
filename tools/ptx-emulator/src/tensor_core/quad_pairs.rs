//! `mma.m8n8k4` of f16: four products at once, each of a pair of quads: lanes `4 p` to `4 p + 3` and those 16 above them.

use super::accumulation;
use super::element::Element;
use super::mma;
use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::Context;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::{Kind, LANES, Slot};
use crate::numeric::format;

/// The forms.
pub const FORMS: &[Form] = &[Form {
    pattern: "mma.sync.aligned.m8n8k4.row|col.row|col.f16|f32.f16.f16.f16|f32",
    section: "9.7.14.5.14 mma",
    build,
}];

const HALF_RESULT: u32 = 1;
const HALF_ADDEND: u32 = 2;
const COLUMN_A: u32 = 4;
const COLUMN_B: u32 = 8;

fn build(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let (half_result, half_addend) = (b.modifier(5) == "f16", b.modifier(8) == "f16");
    if half_result && !half_addend {
        return b.problem("where C is .f32, D has to be .f32 too");
    }
    let registers = |half: bool| if half { (4, Kind::Integer) } else { (8, Kind::F32) };
    b.registers(registers(half_result).0, 4, registers(half_result).1, true)?;
    b.registers(2, 4, Kind::Integer, false)?;
    b.registers(2, 4, Kind::Integer, false)?;
    b.registers(registers(half_addend).0, 4, registers(half_addend).1, false)?;
    for (set, bit) in [
        (half_result, HALF_RESULT),
        (half_addend, HALF_ADDEND),
        (b.modifier(3) == "col", COLUMN_A),
        (b.modifier(4) == "col", COLUMN_B),
    ] {
        if set {
            b.made.modifiers |= bit;
        }
    }
    Ok(execute)
}

/// Where a lane's element of an accumulator is: row and column.
fn place(lane: usize, element: usize, half: bool) -> (usize, usize) {
    let upper = lane / 16 * 4;
    if half {
        (lane % 4 + upper, element)
    } else {
        ((lane & 1) + (element & 2) + upper, (element & 4) + (lane & 2) + (element & 1))
    }
}

/// The elements of f16 that a lane has in some registers.
fn halves(context: &Context<'_>, slots: &[Slot], lane: usize) -> impl Iterator<Item = f32> {
    slots.iter().flat_map(move |slot| {
        let word = context.row(*slot).0[lane];
        [word as u16, (word >> 16) as u16].map(|bits| half::f16::from_bits(bits).to_f32())
    })
}

fn execute(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    if !context.assembled(u32::MAX) {
        return Step::Converge;
    }
    let modifiers = instruction.modifiers;
    let (half_result, half_addend) = (modifiers & HALF_RESULT != 0, modifiers & HALF_ADDEND != 0);
    let list = context.list(instruction);
    let (d_slots, rest) = list.split_at(if half_result { 4 } else { 8 });
    let (a_slots, rest) = rest.split_at(2);
    let (b_slots, c_slots) = rest.split_at(2);
    let rule = mma::rule(context, Element::F16, Element::F16, 4, half_result);
    let mut results = [[0u32; LANES]; 8];
    for pair in 0..4 {
        let lanes = || (4 * pair..4 * pair + 4).chain(4 * pair + 16..4 * pair + 20);
        let (mut a, mut b, mut d) = ([0f32; 32], [0f32; 32], [0f64; 64]);
        for lane in lanes() {
            let (own, upper) = (lane % 4, lane / 16 * 4);
            for (at, value) in halves(context, a_slots, lane).enumerate() {
                let (row, k) = if modifiers & COLUMN_A != 0 { (at + upper, own) } else { (own + upper, at) };
                a[row * 4 + k] = value;
            }
            for (at, value) in halves(context, b_slots, lane).enumerate() {
                let (k, column) = if modifiers & COLUMN_B != 0 { (at, own + upper) } else { (own, at + upper) };
                b[k * 8 + column] = value;
            }
            for element in 0..8 {
                let (row, column) = place(lane, element, half_addend);
                d[row * 8 + column] = if half_addend {
                    let word = context.row(c_slots[element / 2]).0[lane];
                    half::f16::from_bits((word >> (16 * (element % 2))) as u16).to_f64()
                } else {
                    f64::from(f32::from_bits(context.row(c_slots[element]).0[lane]))
                };
            }
        }
        accumulation::multiply(rule, &a, &b, &mut d, 8, 4);
        for lane in lanes() {
            for element in 0..8 {
                let (row, column) = place(lane, element, half_result);
                let value = d[row * 8 + column];
                if half_result {
                    results[element / 2][lane] |= u32::from(format::double_to_f16(value)) << (16 * (element % 2));
                } else {
                    results[element][lane] = mma::single(value);
                }
            }
        }
    }
    for (slot, words) in d_slots.iter().zip(&results) {
        context.write(*slot, words);
    }
    Step::Next
}
