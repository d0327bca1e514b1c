//! `mma.sync`: products of matrices in the registers of a warp.
//!
//! In all shapes from m16n8k4 up, with `g = lane / 4` and `t = lane % 4`, register `r` of A holds elements of row `g + 8 (r & 1)` from
//! column `E t + 4 E (r >> 1)` on, where `E` elements fit in a register; register `r` of B holds elements of column `g` from row
//! `E t + 4 E r` on; the accumulator has columns `2 t` and `2 t + 1` of rows `g` and `g + 8`.

use super::accumulation::{self, Accumulation, Rule, Unit};
use super::element::Element;
use super::fragment;
use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::Context;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::{Kind, LANES, Slot};
use crate::numeric::rounding::{Directed, Rounding};

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "mma.sync.aligned.m16n8k8|m16n8k16.row.col.f16|f32.f16.f16.f16|f32",
        section: "9.7.14.5.14 mma",
        build: |b| build(b, 5, 6, 7),
    },
    Form {
        pattern: "mma.sync.aligned.m16n8k8|m16n8k16.row.col.f32.bf16.bf16.f32",
        section: "9.7.14.5.14 mma",
        build: |b| build(b, 5, 6, 7),
    },
    Form {
        pattern: "mma.sync.aligned.m16n8k4|m16n8k8.row.col.f32.tf32.tf32.f32",
        section: "9.7.14.5.14 mma",
        build: |b| build(b, 5, 6, 7),
    },
    Form {
        pattern: "mma.sync.aligned.m16n8k16|m16n8k32.row.col[.kind::f8f6f4].f16|f32.e4m3|e5m2|e3m2|e2m3|e2m1.e4m3|e5m2|e3m2|e2m3|e2m1.f16|f32",
        section: "9.7.14.5.14 mma",
        build: |b| build(b, 6, 7, 8),
    },
    Form {
        pattern: "mma.sync.aligned.m8n8k16|m16n8k16|m16n8k32.row.col[.satfinite].s32.u8|s8.u8|s8.s32",
        section: "9.7.14.5.14 mma",
        build: |b| build(b, 6, 7, 8),
    },
    Form {
        pattern: "mma.sync.aligned.m8n8k32|m16n8k32|m16n8k64.row.col[.satfinite].s32.u4|s4.u4|s4.s32",
        section: "9.7.14.5.14 mma",
        build: |b| build(b, 6, 7, 8),
    },
    Form {
        pattern: "mma.sync.aligned.m8n8k128|m16n8k128|m16n8k256.row.col.s32.b1.b1.s32.xor|and.popc",
        section: "9.7.14.5.14 mma",
        build: |b| build(b, 5, 6, 7),
    },
    Form {
        pattern: "mma.sync.aligned.m8n8k4|m16n8k4|m16n8k8|m16n8k16.row.col.f64.f64.f64.f64[.ROUNDING]",
        section: "9.7.14.5.14 mma",
        build: build_double,
    },
];

/// What an instruction keeps in its modifiers: bits 0–3 and 4–7 A's and B's element, 8–16 the depth, then these.
const HALF_RESULT: u32 = 1 << 17;
const HALF_ADDEND: u32 = 1 << 18;
const SATURATE: u32 = 1 << 19;
const AND: u32 = 1 << 20;
const SMALL: u32 = 1 << 21;
/// fp6 and fp4 elements take a byte each.
const PADDED: u32 = 1 << 22;

/// The largest matrices: 16 × 256 and 256 × 8.
const LARGEST: usize = 16 * 256;

pub(super) fn shape(name: &str) -> (usize, usize) {
    let rows = if name.starts_with("m8") { 8 } else { 16 };
    (rows, name.split('k').next_back().and_then(|depth| depth.parse().ok()).unwrap_or(8))
}

fn build(b: &mut Builder<'_, '_>, result: usize, first: usize, second: usize) -> Result<Execute, Problem> {
    let (rows, depth) = shape(b.modifier(2));
    let (a_kind, b_kind) = (b.modifier(first), b.modifier(second));
    let (Some(a_element), Some(b_element)) = (Element::named(a_kind), Element::named(b_kind)) else {
        return b.problem("unknown element type");
    };
    let addend = b.modifier(second + 1);
    let (half_result, half_addend) = (b.modifier(result) == "f16", addend == "f16");
    let padded = a_element.bits() < 8 && !a_element.is_integer() || b_element.bits() < 8 && !b_element.is_integer();
    let padded = padded || b.has("kind::f8f6f4");
    let bits = if padded { 8 } else { a_element.bits() };
    if (padded || a_element.bits() == 8) && !a_element.is_integer() && depth == 16 && b.has("kind::f8f6f4") {
        return b.problem("kind::f8f6f4 has shape m16n8k32");
    }
    let accumulators = |half: bool| rows * 8 / LANES / if half { 2 } else { 1 };
    let kind = |half: bool| if half || a_element.is_integer() { Kind::Integer } else { Kind::F32 };
    b.registers(accumulators(half_result), 4, kind(half_result), true)?;
    b.registers(rows * depth * bits / 32 / LANES, 4, Kind::Integer, false)?;
    b.registers(8 * depth * bits / 32 / LANES, 4, Kind::Integer, false)?;
    b.registers(accumulators(half_addend), 4, kind(half_addend), false)?;
    b.made.modifiers = a_element as u32 | (b_element as u32) << 4 | (depth as u32) << 8;
    for (set, bit) in [
        (half_result, HALF_RESULT),
        (half_addend, HALF_ADDEND),
        (b.has("satfinite"), SATURATE),
        (b.has("and"), AND),
        (rows == 8, SMALL),
        (padded, PADDED),
    ] {
        if set {
            b.made.modifiers |= bit;
        }
    }
    Ok(match depth {
        _ if a_element.is_integer() => execute_integer,
        0..=16 => execute::<16>,
        _ => execute::<64>,
    })
}

/// The parts of the operand list: result, A, B, addend.
fn parts<'k>(context: &Context<'k>, instruction: &Instruction) -> [&'k [Slot]; 4] {
    let modifiers = instruction.modifiers;
    let rows = if modifiers & SMALL != 0 { 8 } else { 16 };
    let depth = (modifiers >> 8 & 0x1ff) as usize;
    let bits = if modifiers & PADDED != 0 { 8 } else { Element::from_code(modifiers & 15).bits() };
    let accumulators = |half: u32| rows * 8 / LANES / if modifiers & half != 0 { 2 } else { 1 };
    let list = context.list(instruction);
    let (d, rest) = list.split_at(accumulators(HALF_RESULT));
    let (a, rest) = rest.split_at(rows * depth * bits / 32 / LANES);
    let (b, rest) = rest.split_at(8 * depth * bits / 32 / LANES);
    [d, a, b, &rest[..accumulators(HALF_ADDEND)]]
}

/// How a warp's products are added up, where not in the default way.
pub(super) fn rule(context: &Context<'_>, a: Element, b: Element, depth: usize, half: bool) -> Option<Rule> {
    let target = &context.kernel.target;
    (context.grid.accumulation == Accumulation::Hardware).then(|| Rule::of(target, Unit::Warp, a, b, depth, half))
}

/// The addend's matrix of integers as f64, which holds them exactly.
pub(super) fn read_integers(context: &Context<'_>, slots: &[Slot], d: &mut [f64]) {
    for (register, slot) in slots.iter().enumerate() {
        for (lane, word) in context.row(*slot).0.iter().enumerate() {
            d[(lane / 4 + 8 * (register >> 1)) * 8 + 2 * (lane % 4) + (register & 1)] = f64::from(*word as i32);
        }
    }
}

/// Writes a matrix of integers, wrapped or clamped to 32 bits.
pub(super) fn write_integers(context: &mut Context<'_>, slots: &[Slot], saturate: bool, d: &[f64]) {
    for (register, slot) in slots.iter().enumerate() {
        let words: [u32; LANES] = std::array::from_fn(|lane| {
            integer(d[(lane / 4 + 8 * (register >> 1)) * 8 + 2 * (lane % 4) + (register & 1)] as i64, saturate)
        });
        context.write(*slot, &words);
    }
}

/// A sum as 32 bits, wrapped or clamped.
#[inline(always)]
pub(super) fn integer(total: i64, saturate: bool) -> u32 {
    if saturate { total.clamp(i32::MIN.into(), i32::MAX.into()) as u32 } else { total as u32 }
}

/// The bits of an accumulator in f32; NaN is the machine's.
#[inline(always)]
pub fn single(value: f64) -> u32 {
    let bits = (value as f32).to_bits();
    if value.is_nan() { 0x7fff_ffff } else { bits }
}

fn execute<const DEPTH: usize>(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    if !context.assembled(u32::MAX) {
        return Step::Converge;
    }
    let modifiers = instruction.modifiers;
    let (a_element, b_element) = (Element::from_code(modifiers & 15), Element::from_code(modifiers >> 4 & 15));
    let depth = (modifiers >> 8 & 0x1ff) as usize;
    let rows = if modifiers & SMALL != 0 { 8 } else { 16 };
    let bits = if modifiers & PADDED != 0 { 8 } else { a_element.bits() };
    let [d_slots, a_slots, b_slots, c_slots] = parts(context, instruction);
    let (mut a, mut b, mut d) = ([[0f32; DEPTH]; 16], [[0f32; DEPTH]; 8], [0f64; 128]);
    let (a, b) = (&mut a.as_flattened_mut()[..rows * depth], &mut b.as_flattened_mut()[..8 * depth]);
    fragment::gather(context, a_slots, a_element, bits, depth, true, a);
    fragment::gather_columns(context, b_slots, b_element, bits, b);
    fragment::read_sums(context, c_slots, modifiers & HALF_ADDEND != 0, 8, &mut d);
    let half = modifiers & HALF_RESULT != 0;
    let rule = rule(context, a_element, b_element, depth, half);
    accumulation::multiply(rule, a, b, &mut d[..rows * 8], 8, depth);
    fragment::write_sums(context, d_slots, half, 8, &d);
    Step::Next
}

fn integers(context: &Context<'_>, slots: &[Slot], element: Element, depth: usize, is_a: bool, into: &mut [i32]) {
    let bits = element.bits();
    let each = 32 / bits;
    for (register, slot) in slots.iter().enumerate() {
        let words = &context.row(*slot).0;
        let (row_offset, block) = match is_a {
            true if into.len() == 8 * depth => (0, register),
            true => (8 * (register & 1), register >> 1),
            false => (0, register),
        };
        for (lane, word) in words.iter().enumerate() {
            let start = (lane / 4 + row_offset) * depth + each * (lane % 4) + 4 * each * block;
            for (at, value) in into[start..start + each].iter_mut().enumerate() {
                *value = element.decode(word >> (at * bits) & ((1 << bits) - 1)) as i32;
            }
        }
    }
}

fn execute_integer(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    if !context.assembled(u32::MAX) {
        return Step::Converge;
    }
    let modifiers = instruction.modifiers;
    let (a_element, b_element) = (Element::from_code(modifiers & 15), Element::from_code(modifiers >> 4 & 15));
    let depth = (modifiers >> 8 & 0x1ff) as usize;
    let rows = if modifiers & SMALL != 0 { 8 } else { 16 };
    let [d_slots, a_slots, b_slots, c_slots] = parts(context, instruction);
    let (mut a, mut b) = ([0i32; LARGEST], [0i32; 8 * 256]);
    integers(context, a_slots, a_element, depth, true, &mut a[..rows * depth]);
    integers(context, b_slots, b_element, depth, false, &mut b[..8 * depth]);
    for (register, slot) in d_slots.iter().enumerate() {
        let addend = context.row(c_slots[register]).0;
        let mut words = [0u32; LANES];
        for (lane, word) in words.iter_mut().enumerate() {
            let (row, column) = (lane / 4 + 8 * (register >> 1), 2 * (lane % 4) + (register & 1));
            let pairs = a[row * depth..][..depth].iter().zip(&b[column * depth..][..depth]);
            let sum: i64 = pairs
                .map(|(a, b)| match a_element {
                    Element::B1 if modifiers & AND != 0 => i64::from(a & b),
                    Element::B1 => i64::from(a ^ b),
                    _ => i64::from(a * b),
                })
                .sum();
            let total = sum + i64::from(addend[lane] as i32);
            *word = integer(total, modifiers & SATURATE != 0);
        }
        context.write(*slot, &words);
    }
    Step::Next
}

fn build_double(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let (rows, depth) = shape(b.modifier(2));
    let accumulators = rows * 8 / LANES;
    b.registers(accumulators, 8, Kind::F64, true)?;
    b.registers(rows * depth / LANES, 8, Kind::F64, false)?;
    b.registers(8 * depth / LANES, 8, Kind::F64, false)?;
    b.registers(accumulators, 8, Kind::F64, false)?;
    b.made.modifiers = (depth as u32) << 8 | if rows == 8 { SMALL } else { 0 };
    b.made.immediate = i64::from(Rounding::named(b.modifier(9)).code());
    Ok(|context, instruction| {
        if !context.assembled(u32::MAX) {
            return Step::Converge;
        }
        let rows = if instruction.modifiers & SMALL != 0 { 8 } else { 16 };
        let depth = (instruction.modifiers >> 8 & 0x1ff) as usize;
        let rounding = Rounding::from_code(instruction.immediate as u32);
        let list = context.list(instruction);
        let (d, rest) = list.split_at(rows * 8 / LANES);
        let (a_slots, rest) = rest.split_at(rows * depth / LANES);
        let (b_slots, c_slots) = rest.split_at(8 * depth / LANES);
        let (mut a, mut b) = ([[0f64; 16]; 16], [[0f64; 16]; 8]);
        for (register, slot) in a_slots.iter().enumerate() {
            let values: [f64; LANES] = context.read(*slot);
            let (row_offset, block) = if rows == 8 { (0, register) } else { (8 * (register & 1), register >> 1) };
            for (lane, value) in values.into_iter().enumerate() {
                a[lane / 4 + row_offset][lane % 4 + 4 * block] = value;
            }
        }
        for (register, slot) in b_slots.iter().enumerate() {
            let values: [f64; LANES] = context.read(*slot);
            for (lane, value) in values.into_iter().enumerate() {
                b[lane / 4][lane % 4 + 4 * register] = value;
            }
        }
        for (register, (d, c)) in d.iter().zip(c_slots).enumerate() {
            let mut values: [f64; LANES] = context.read(*c);
            for (lane, value) in values.iter_mut().enumerate() {
                let (row, column) = (lane / 4 + 8 * (register >> 1), 2 * (lane % 4) + (register & 1));
                *value = (0..depth).fold(*value, |sum, k| a[row][k].fused(b[column][k], sum, rounding));
            }
            context.write(*d, &values);
        }
        Step::Next
    })
}
