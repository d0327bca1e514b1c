//! Fragments: matrices spread over the registers of a warp.
//!
//! A register of operands holds eight rows, each in four lanes: taken as 32 words it is eight rows of four words, one after the other.
//! Registers of accumulators hold eight rows of eight columns: two registers the even and the odd columns in f32, one both in f16.

use super::element::Element;
use super::mma::single;
use crate::machine::context::Context;
use crate::machine::row::{LANES, Slot};
use crate::numeric::format;

/// Decodes operands into rows of `depth` values. `bits` is what an element takes, which may be more than it has.
///
/// Registers of A, unless the matrix has just eight rows, hold rows 0 to 7 and rows 8 to 15 in turn; those of B, whose rows are columns of
/// the product, follow each other along the depth.
pub fn gather(
    context: &Context<'_>,
    slots: &[Slot],
    element: Element,
    bits: usize,
    depth: usize,
    is_a: bool,
    into: &mut [f32],
) {
    let across = 4 * 32 / bits;
    let tall = is_a && into.len() > 8 * depth;
    for (register, slot) in slots.iter().enumerate() {
        let (row, block) = if tall { (8 * (register & 1), register >> 1) } else { (0, register) };
        decode(&context.row(*slot).0, element, bits, depth, &mut into[row * depth + across * block..]);
    }
}

widest! {
    /// Decodes a register into eight rows that are `stride` values apart.
    fn decode(words: &[u32; LANES], element: Element, bits: usize, stride: usize, into: &mut [f32]) {
        match (element, bits) {
            (Element::BF16, _) => halves(words, stride, into, |bits| f32::from_bits(bits << 16)),
            (Element::F16, _) => halves(words, stride, into, format::f16_to_f32),
            (Element::TF32, _) => rows(words, stride, into, |word| [f32::from_bits(word & !0x1fff)]),
            (_, 8) => {
                // A byte each: fp6 in its low six bits, fp4 in its bits 2 to 5.
                let shift = if element == Element::E2M1 { 2 } else { 0 };
                rows(words, stride, into, |word| word.to_le_bytes().map(|byte| element.decode(u32::from(byte >> shift))));
            }
            _ => {
                let each = 32 / bits;
                for (row, words) in words.chunks_exact(4).enumerate() {
                    for (word, values) in words.iter().zip(into[row * stride..].chunks_exact_mut(each)) {
                        element.unpack(*word, values);
                    }
                }
            }
        }
    }

    /// Decodes a register into rows of eight values, one of each of its rows.
    fn decode_columns(words: &[u32; LANES], element: Element, bits: usize, into: &mut [f32]) {
        match (element, bits) {
            (Element::BF16, _) => columns::<2>(words, into, |word, at| f32::from_bits(word >> (16 * at) << 16)),
            (Element::F16, _) => columns::<2>(words, into, |word, at| format::f16_to_f32(word >> (16 * at) & 0xffff)),
            (Element::TF32, _) => columns::<1>(words, into, |word, _| f32::from_bits(word & !0x1fff)),
            (_, 8) => {
                // A byte each: fp6 in its low six bits, fp4 in its bits 2 to 5.
                let shift = if element == Element::E2M1 { 2 } else { 0 };
                columns::<4>(words, into, |word, at| element.decode(word >> (8 * at + shift) & 0xff >> shift));
            }
            _ => columns::<8>(words, into, |word, at| element.decode(word >> (4 * at) & 0xf)),
        }
    }

    /// Reads eight rows of eight sums, `stride` apart, from a register with their even columns and one with their odd ones.
    fn spread(even: &[u32; LANES], odd: &[u32; LANES], stride: usize, into: &mut [f64]) {
        for row in 0..8 {
            let values = &mut into[row * stride..][..8];
            for pair in 0..4 {
                values[2 * pair] = f64::from(f32::from_bits(even[4 * row + pair]));
                values[2 * pair + 1] = f64::from(f32::from_bits(odd[4 * row + pair]));
            }
        }
    }

    /// Rounds eight rows of eight sums to the registers that [`spread`] reads.
    fn collect(from: &[f64], stride: usize, even: &mut [u32; LANES], odd: &mut [u32; LANES]) {
        for row in 0..8 {
            let values = &from[row * stride..][..8];
            for pair in 0..4 {
                even[4 * row + pair] = single(values[2 * pair]);
                odd[4 * row + pair] = single(values[2 * pair + 1]);
            }
        }
    }
}

/// Decodes 16-bit elements, which are as many to a row as a vector has lanes.
#[inline(always)]
fn halves(words: &[u32; LANES], stride: usize, into: &mut [f32], decode: impl Fn(u32) -> f32) {
    for (row, words) in words.as_chunks::<4>().0.iter().enumerate() {
        let into = &mut into[row * stride..][..8];
        for (at, value) in into.iter_mut().enumerate() {
            *value = decode(words[at / 2] >> (16 * (at % 2)) & 0xffff);
        }
    }
}

#[inline(always)]
fn columns<const EACH: usize>(words: &[u32; LANES], into: &mut [f32], decode: impl Fn(u32, usize) -> f32) {
    for (word, into) in into.chunks_exact_mut(8 * EACH).enumerate().take(4) {
        for (at, into) in into.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            for (row, value) in into.iter_mut().enumerate() {
                *value = decode(words[4 * row + word], at);
            }
        }
    }
}

#[inline(always)]
fn rows<const EACH: usize>(words: &[u32; LANES], stride: usize, into: &mut [f32], decode: impl Fn(u32) -> [f32; EACH]) {
    for (row, words) in words.as_chunks::<4>().0.iter().enumerate() {
        for (word, values) in words.iter().zip(into[row * stride..].as_chunks_mut::<EACH>().0) {
            *values = decode(*word);
        }
    }
}

/// Decodes operands of B into `depth` rows of eight values.
pub fn gather_columns(context: &Context<'_>, slots: &[Slot], element: Element, bits: usize, into: &mut [f32]) {
    for (slot, into) in slots.iter().zip(into.chunks_mut(8 * 4 * 32 / bits)) {
        decode_columns(&context.row(*slot).0, element, bits, into);
    }
}

/// Reads accumulators, in blocks of eight columns, into 16 rows of `columns` sums.
pub fn read_sums(context: &Context<'_>, slots: &[Slot], half: bool, columns: usize, d: &mut [f64]) {
    for (block, slots) in slots.chunks_exact(if half { 2 } else { 4 }).enumerate() {
        for below in 0..2 {
            let d = &mut d[8 * below * columns + 8 * block..];
            if half {
                for (lane, word) in context.row(slots[below]).0.iter().enumerate() {
                    let at = lane / 4 * columns + 2 * (lane % 4);
                    d[at] = half::f16::from_bits(*word as u16).to_f64();
                    d[at + 1] = half::f16::from_bits((*word >> 16) as u16).to_f64();
                }
            } else {
                spread(&context.row(slots[2 * below]).0, &context.row(slots[2 * below + 1]).0, columns, d);
            }
        }
    }
}

/// Rounds 16 rows of sums into accumulators.
pub fn write_sums(context: &mut Context<'_>, slots: &[Slot], half: bool, columns: usize, d: &[f64]) {
    for (block, slots) in slots.chunks_exact(if half { 2 } else { 4 }).enumerate() {
        for below in 0..2 {
            let d = &d[8 * below * columns + 8 * block..];
            if half {
                let words: [u32; LANES] = std::array::from_fn(|lane| {
                    let at = lane / 4 * columns + 2 * (lane % 4);
                    u32::from(format::double_to_f16(d[at])) | u32::from(format::double_to_f16(d[at + 1])) << 16
                });
                context.write(slots[below], &words);
            } else {
                let (mut even, mut odd) = ([0; LANES], [0; LANES]);
                collect(d, columns, &mut even, &mut odd);
                context.write(slots[2 * below], &even);
                context.write(slots[2 * below + 1], &odd);
            }
        }
    }
}
