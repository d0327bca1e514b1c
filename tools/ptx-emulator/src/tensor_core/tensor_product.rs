//! `tcgen05.mma`: products whose accumulator is in tensor memory.
//!
//! Row `i` of D is in lane `i` of tensor memory, for 128 rows; 64 rows take the first 16 lanes of each quarter. Of a pair of CTAs
//! each holds half of the rows of A and D, and half of the columns of B.

use super::element::Element;
use super::mma::single;
use super::product;
use super::shared_matrix::{Descriptor, Matrix, Packing};
use super::tcgen05::group;
use super::tensor_memory_access::unallocated;
use crate::asynchronous::copy::{listed_address, put_address};
use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::{Context, lanes};
use crate::machine::fault::FaultKind;
use crate::machine::instruction::{Execute, FALSE, Instruction, Step};
use crate::machine::row::{Kind, Slot};
use crate::numeric::format;
use crate::parse::ast::Operand;

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "tcgen05.mma.cta_group::1|cta_group::2.kind::f16|kind::tf32|kind::f8f6f4|kind::i8[.ashift][.collector::a::fill|collector::a::use|collector::a::lastuse|collector::a::discard][.ashift]",
        section: "9.7.16.10.9.1 tcgen05.mma",
        build,
    },
    Form {
        pattern: "tcgen05.mma.cta_group::1|cta_group::2.kind::mxf8f6f4|kind::mxf4|kind::mxf4nvf4.block_scale[.scale_vec::1X|scale_vec::2X|scale_vec::4X|block16|block32][.collector::a::fill|collector::a::use|collector::a::lastuse|collector::a::discard]",
        section: "9.7.16.10.9.1 tcgen05.mma",
        build,
    },
];

/// Kinds by number.
const KINDS: [&str; 7] =
    ["kind::f16", "kind::tf32", "kind::f8f6f4", "kind::i8", "kind::mxf8f6f4", "kind::mxf4", "kind::mxf4nvf4"];
const PAIR: u32 = 1 << 8;
const A_IN_TENSOR_MEMORY: u32 = 1 << 9;
const SCALED_DOWN: u32 = 1 << 10;

fn build(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let kind = KINDS.iter().position(|kind| b.has(kind)).unwrap_or(0);
    b.made.modifiers = kind as u32 | if b.has("cta_group::2") { PAIR } else { 0 };
    if b.has("ashift") {
        return b.problem("`.ashift` is not emulated");
    }
    let d = b.take()?;
    put_address(b, d)?;
    if let [Operand::Address(_), ..] = b.rest() {
        b.made.modifiers |= A_IN_TENSOR_MEMORY;
        let a = b.take()?;
        put_address(b, a)?;
        b.put(Slot::register(0));
    } else {
        b.source::<u64>()?;
    }
    b.source::<u64>()?;
    b.source::<u32>()?;
    let scaled = kind >= 4;
    if scaled {
        for _ in 0..2 {
            let scales = b.take()?;
            put_address(b, scales)?;
        }
        // How many elements share a scale: 32, but for those that have 16.
        let per_16 = b.has("scale_vec::4X") || b.has("block16");
        b.made.immediate = if per_16 { 16 } else { 32 };
    } else if let [Operand::Vector(_), ..] = b.rest() {
        // Lanes that are not to be written, four words for each CTA.
        let mask = b.take()?;
        let words = b.vector(mask, 4, Kind::Integer, false)?;
        if words != if b.has("cta_group::2") { 8 } else { 4 } {
            return b.problem("disable-output-lane has 4 words, or 8 for a pair of CTAs");
        }
        b.made.immediate = words as i64;
    }
    if b.left() > 0 {
        b.predicate_source()?;
    } else {
        b.put(Slot::register(FALSE << 1 | 1));
    }
    if b.left() > 0 {
        let shift = b.integer()?;
        if !(0..=15).contains(&shift) {
            return b.problem("scale-input-d is from 0 to 15");
        }
        b.made.modifiers |= SCALED_DOWN | (shift as u32) << 16;
    }
    Ok(execute)
}

/// What the instruction descriptor says.
struct Shape {
    rows: usize,
    columns: usize,
    depth: usize,
    a: Element,
    b: Element,
    half_result: bool,
    negate: bool,
    transpose_a: bool,
    transpose_b: bool,
    packing: Packing,
    scale_ids: (usize, usize),
    scales_are_powers: bool,
    saturate: bool,
}

impl Shape {
    fn decode(kind: usize, bits: u32) -> Result<Shape, String> {
        let scaled = kind >= 4;
        let fp4 = kind >= 5;
        let element = |code: u32| {
            Some(match (kind, code) {
                (0, 0) => Element::F16,
                (0, 1) => Element::BF16,
                (1, 2) => Element::TF32,
                (2 | 4, 0) => Element::E4M3,
                (2 | 4, 1) => Element::E5M2,
                (2 | 4, 3) => Element::E2M3,
                (2 | 4, 4) => Element::E3M2,
                (2 | 4, 5) => Element::E2M1,
                (3, 0) => Element::U8,
                (3, 1) => Element::S8,
                (5 | 6, 1) => Element::E2M1,
                _ => return None,
            })
        };
        let name = KINDS[kind];
        let element = |at: u32| {
            element(bits >> at & 7)
                .ok_or_else(|| format!("the instruction descriptor 0x{bits:08x} has no type of {name}"))
        };
        if bits >> 2 & 1 != 0 {
            return Err("sparse products of tcgen05 are not emulated".into());
        }
        let (a, b) = (element(7)?, if fp4 { Element::E2M1 } else { element(10)? });
        let width = if fp4 {
            4
        } else if kind == 2 || kind == 4 {
            8
        } else {
            a.bits()
        };
        Ok(Shape {
            rows: if scaled { (bits >> 27 & 3) as usize * 128 } else { (bits >> 24 & 31) as usize * 16 },
            columns: (bits >> 17 & 63) as usize * 8,
            depth: if fp4 && bits >> 31 != 0 { 96 } else { 256 / width },
            a,
            b,
            half_result: !scaled && kind != 3 && bits >> 4 & 3 == 0,
            negate: (bits >> 13 ^ bits >> 14) & 1 != 0,
            transpose_a: bits >> 15 & 1 != 0,
            transpose_b: bits >> 16 & 1 != 0,
            packing: if fp4 { Packing::Tight } else { Packing::Padded },
            scale_ids: ((bits >> 29 & 3) as usize, (bits >> 4 & 3) as usize),
            scales_are_powers: bits >> 23 & 1 != 0,
            saturate: bits >> 3 & 1 != 0,
        })
    }
}

/// The lane of tensor memory that holds a row of a CTA.
fn lane_of(row: usize, rows: usize) -> usize {
    if rows == 64 { row / 16 * 32 + row % 16 } else { row }
}

/// Most columns and deepest rows.
const COLUMNS: usize = 256;
const DEPTH: usize = 96;

fn execute(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    for lane in lanes(context.mask) {
        if let Err(step) = product_of(context, instruction, lane) {
            return step;
        }
    }
    Step::Next
}

/// Does the product that one thread asks for.
fn product_of(context: &mut Context<'_>, instruction: &Instruction, lane: usize) -> Result<(), Step> {
    let modifiers = instruction.modifiers;
    let kind = modifiers as usize & 0xff;
    let pair = modifiers & PAIR != 0;
    let shape = match Shape::decode(kind, context.row(instruction.operands[2]).0[lane]) {
        Ok(shape) => shape,
        Err(message) => return Err(context.fail(FaultKind::IllegalInstruction, lane, message)),
    };
    let allowed: &[usize] = match (pair, kind >= 4) {
        (false, false) => &[64, 128],
        (false, true) => &[128],
        (true, _) => &[128, 256],
    };
    if !allowed.contains(&shape.rows) || !(8..=COLUMNS).contains(&shape.columns) {
        let message = format!(
            "the instruction descriptor asks for M {} and N {}; M is one of {allowed:?}",
            shape.rows, shape.columns
        );
        return Err(context.fail(FaultKind::IllegalInstruction, lane, message));
    }
    let list = context.list(instruction);
    let d_address = listed_address(context, list, lane) as usize;
    let (list, a_address) = if modifiers & A_IN_TENSOR_MEMORY != 0 {
        (&list[6..], Some(listed_address(context, &list[3..], lane) as usize))
    } else {
        (&list[3..], None)
    };
    context.issue(lane, |checker, actor| Some(checker.tensor_product(actor)));
    let members = group(context, pair);
    let rows_each = shape.rows / members.len();
    let mut b = [0f32; COLUMNS * DEPTH];
    read_b(context, instruction, lane, &shape, members.clone(), &mut b)?;
    if kind >= 4 {
        let address = listed_address(context, &list[3..], lane) as usize;
        let (block, id) = (instruction.immediate as usize, shape.scale_ids.1);
        // Each CTA of a pair has the scales of all columns.
        let cta = context.cta;
        scale(context, cta, lane, address, (block, id), &shape, &mut b[..shape.columns * shape.depth])?;
    }
    let mut b_columns = [0f32; COLUMNS * DEPTH];
    product::transpose(&b[..shape.columns * shape.depth], &mut b_columns, shape.columns, shape.depth);
    let counts = crate::instructions::logic::predicate_value(context, instruction.operands[3]) >> lane & 1 != 0;
    let down = if modifiers & SCALED_DOWN != 0 { 0.5f64.powi((modifiers >> 16) as i32) } else { 1.0 };
    for (member, cta) in members.clone().enumerate() {
        let mut a = [0f32; 128 * DEPTH];
        let a = &mut a[..rows_each * shape.depth];
        match a_address {
            Some(address) => read_a(context, cta, lane, address, &shape, rows_each, a)?,
            None => {
                let bits = context.read::<u64>(instruction.operands[0])[lane];
                matrix(context, lane, bits, shape.a, &shape, shape.transpose_a)?.read(
                    context,
                    cta,
                    0,
                    shape.depth,
                    a,
                )?;
            }
        }
        if kind >= 4 {
            let address = listed_address(context, list, lane) as usize;
            scale(context, cta, lane, address, (instruction.immediate as usize, shape.scale_ids.0), &shape, a)?;
        }
        if shape.negate {
            a.iter_mut().for_each(|value| *value = -*value);
        }
        let mask: [u32; 4] = if kind < 4 && instruction.immediate > 0 {
            std::array::from_fn(|word| context.row(list[4 * member + word]).0[lane])
        } else {
            [0; 4]
        };
        let accumulator = Accumulator { address: d_address, counts, down, mask, split: pair && shape.rows == 128 };
        accumulate(context, cta, lane, &shape, rows_each, &accumulator, a, &b_columns[..shape.columns * shape.depth])?;
    }
    Ok(())
}

fn matrix(
    context: &mut Context<'_>,
    lane: usize,
    bits: u64,
    element: Element,
    shape: &Shape,
    transposed: bool,
) -> Result<Matrix, Step> {
    match Descriptor::of_tensor_memory(bits) {
        Some(descriptor) => Ok(Matrix { descriptor, element, packing: shape.packing, transposed }),
        None => {
            let message = "the matrix descriptor has a swizzle that does not exist";
            Err(context.fail(FaultKind::IllegalInstruction, lane, message))
        }
    }
}

/// Reads B in rows of `depth`, a row for each column: of a pair, each CTA has half of them.
fn read_b(
    context: &mut Context<'_>,
    instruction: &Instruction,
    lane: usize,
    shape: &Shape,
    members: std::ops::Range<usize>,
    into: &mut [f32],
) -> Result<(), Step> {
    let bits = context.read::<u64>(instruction.operands[1])[lane];
    let matrix = matrix(context, lane, bits, shape.b, shape, shape.transpose_b)?;
    let each = shape.columns / members.len();
    for (member, cta) in members.enumerate() {
        let part = &mut into[member * each * shape.depth..][..each * shape.depth];
        matrix.read(context, cta, 0, shape.depth, part)?;
    }
    Ok(())
}

/// Reads A from tensor memory: elements packed into the words of a lane.
fn read_a(
    context: &mut Context<'_>,
    cta: usize,
    lane: usize,
    address: usize,
    shape: &Shape,
    rows: usize,
    into: &mut [f32],
) -> Result<(), Step> {
    let (first_lane, first) = (address >> 16, address & 0xffff);
    let bits = if shape.packing == Packing::Padded { shape.a.bits().max(8) } else { shape.a.bits() };
    let words = shape.depth * bits / 32;
    let held = context.cluster.ctas[cta].tensor.as_ref().filter(|tensor| tensor.holds(first, words));
    let Some(tensor) = held else { return Err(unallocated(context, lane, first, words)) };
    for (row, values) in into.chunks_exact_mut(shape.depth).enumerate() {
        let stored = &tensor.lane((first_lane + lane_of(row, rows)) % 128)[first..first + words];
        for (word, values) in stored.iter().zip(values.chunks_mut(32 / bits)) {
            if bits == shape.a.bits() {
                shape.a.unpack(*word, values);
            } else {
                // A byte each: fp4 in its bits 2 to 5.
                let shift = if shape.a == Element::E2M1 { 2 } else { 0 };
                for (at, value) in values.iter_mut().enumerate() {
                    *value = shape.a.decode(word >> (8 * at + shift) & 0xff);
                }
            }
        }
    }
    Ok(())
}

/// Multiplies rows by their scales: that of row `i` is in lane `i % 32`, column `i / 32`, a byte for each block along K.
fn scale(
    context: &mut Context<'_>,
    cta: usize,
    lane: usize,
    address: usize,
    (block, id): (usize, usize),
    shape: &Shape,
    rows: &mut [f32],
) -> Result<(), Step> {
    let (first_lane, first) = (address >> 16 & 0x7f, address & 0xffff);
    // The top bits of the address may name the byte too.
    let id = id.max(address >> 30 & 3);
    let columns = (rows.len() / shape.depth).div_ceil(32);
    let held = context.cluster.ctas[cta].tensor.as_ref().filter(|tensor| tensor.holds(first, columns));
    let Some(tensor) = held else { return Err(unallocated(context, lane, first, columns)) };
    for (row, values) in rows.chunks_exact_mut(shape.depth).enumerate() {
        let word = tensor.lane((first_lane + row % 32) % 128)[first + row / 32];
        for (at, values) in values.chunks_mut(block).enumerate() {
            let bits = (word >> (8 * ((id + at) & 3))) as u8;
            let scale = if shape.scales_are_powers {
                format::ue8m0(bits)
            } else {
                format::UE4M3.decode(u32::from(bits & 0x7f))
            };
            values.iter_mut().for_each(|value| *value *= scale);
        }
    }
    Ok(())
}

/// Where D is, and what of it counts.
struct Accumulator {
    address: usize,
    counts: bool,
    down: f64,
    mask: [u32; 4],
    /// Rows of 128 over a pair: a CTA's 64 rows have the second half of their columns in lanes 64 and up.
    split: bool,
}

#[expect(clippy::too_many_arguments, reason = "a matrix product has its operands")]
fn accumulate(
    context: &mut Context<'_>,
    cta: usize,
    lane: usize,
    shape: &Shape,
    rows: usize,
    accumulator: &Accumulator,
    a: &[f32],
    b: &[f32],
) -> Result<(), Step> {
    let (first_lane, first) = (accumulator.address >> 16, accumulator.address & 0xffff);
    let columns = shape.columns;
    let stored = if accumulator.split { columns / 2 } else { columns };
    let held = context.cluster.ctas[cta].tensor.as_mut().filter(|tensor| tensor.holds(first, stored));
    let Some(tensor) = held else { return Err(unallocated(context, lane, first, stored)) };
    let integers = shape.a.is_integer();
    let value = |word: u32| match (integers, shape.half_result) {
        (true, _) => f64::from(word as i32),
        (_, true) => half::f16::from_bits(word as u16).to_f64(),
        _ => f64::from(f32::from_bits(word)),
    };
    let mut d = [0f64; COLUMNS];
    let d = &mut d[..columns];
    for row in 0..rows {
        let place = |column: usize| match (accumulator.split, column >= stored) {
            (false, _) => ((first_lane + lane_of(row, rows)) % 128, first + column),
            (true, false) => (row, first + column),
            (true, true) => (row + 64, first + column - stored),
        };
        for (column, d) in d.iter_mut().enumerate() {
            let (lane, at) = place(column);
            *d = if accumulator.counts { value(tensor.lane(lane)[at]) * accumulator.down } else { 0.0 };
        }
        product::multiply(&a[row * shape.depth..][..shape.depth], b, d, columns, shape.depth);
        for (column, d) in d.iter().enumerate() {
            let (lane, at) = place(column);
            if accumulator.mask[lane / 32] >> (lane % 32) & 1 != 0 {
                continue;
            }
            tensor.lane_mut(lane)[at] = if integers {
                let total = *d as i64;
                if shape.saturate { total.clamp(i32::MIN.into(), i32::MAX.into()) as u32 } else { total as u32 }
            } else if shape.half_result {
                u32::from(format::double_to_f16(*d))
            } else {
                single(*d)
            };
        }
    }
    Ok(())
}
