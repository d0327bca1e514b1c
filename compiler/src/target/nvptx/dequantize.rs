//! Numbers of block-scaled elements, made in registers.
//!
//! E2M1 is looked up: `prmt` takes a byte for each of four nibbles from a table of eight, which is what the magnitudes of E2M1 are; one table has
//! the upper bytes of their bf16, one the lower. A product with the scale is exact in bf16 but for what leaves its range.

use std::collections::HashMap;

use super::emit::{FloatPredicate, Scalar, Val};
use super::error::Error;
use super::layout::Layout;
use super::lower::{Lowering, Registers};
use super::origins::block_shift;
use crate::tile::{E2M1_PER_WORD, Element, Value};

/// Upper bytes of the bf16 of 0 ½ 1 1½, and of 2 3 4 6.
const UPPER_BYTES: [u32; 2] = [0x3f3f_3f00, 0x4040_4040];
/// Their lower bytes.
const LOWER_BYTES: [u32; 2] = [0xc080_0000, 0xc080_4000];
/// The highest bit of every byte.
const SIGNS: u32 = 0x8080_8080;
/// −0 twice in bf16: what a product adds to stay as it is.
const NEGATIVE_ZEROS: u32 = 0x8000_8000;
/// 2⁻¹²⁷ twice in bf16, the least scale, which is subnormal.
const LEAST_SCALES: u32 = 0x0040_0040;
/// Most elements that are looked up together.
const LONGEST_RUN: u32 = 8;

/// Neighbours along the last dimension: their numbers without scales, two bf16 in each word. One that is alone lies in the lower half.
struct Run<'a> {
    /// Index of the first.
    first: u32,
    length: u32,
    words: Vec<Val<'a>>,
}

impl<'a> Lowering<'_, 'a> {
    /// The registers of block-scaled elements as numbers.
    pub fn dequantize(
        &mut self,
        value: Value,
        elements: Value,
        scales: Value,
        layout: &Layout,
    ) -> Result<Registers<'a>, Error> {
        let shape = self.shape(value);
        let to = self.program.type_of(value).element;
        let from = self.program.type_of(elements).element;
        if self.is_packed(value, elements) {
            let neighbours = layout.vector(shape, shape.len() - 1, LONGEST_RUN) > 1;
            if to == Element::BF16 && neighbours && self.program.type_of(scales).element == Element::U8 {
                let words = self.dequantized_words(value, elements, scales, layout)?;
                let mut registers = vec![None; layout.register_count()];
                for (index, word) in words {
                    let pair = self.emitter.unpack(Scalar::BF16, &[word], 2);
                    for (step, number) in pair.into_iter().enumerate() {
                        registers[layout.register_of(index | step as u32)] = Some(number);
                    }
                }
                return Ok(registers.into_iter().flatten().collect());
            }
        }
        let numbers: Vec<Val<'a>> = if self.is_packed(value, elements) {
            let mut registers = vec![None; layout.register_count()];
            for Run { first, length, words } in self.looked_up(value, elements, layout)? {
                let numbers = self.emitter.unpack(Scalar::BF16, &words, 2 * words.len());
                for (index, number) in (first..first + length).zip(numbers) {
                    registers[layout.register_of(index)] = Some(self.widened(number, Element::BF16));
                }
            }
            registers.into_iter().flatten().collect()
        } else {
            let stored = self.get(elements, layout)?;
            self.cast(value, &stored, from, Element::F32)?.to_vec()
        };
        let (scale_layout, shift) = self.scale_layout(value, scales, layout);
        let factors = self.get(scales, &scale_layout)?;
        let kind = self.program.type_of(scales).element;
        let factors = match kind {
            Element::U8 => factors.iter().map(|&byte| self.scale_of_exponent(byte)).collect(),
            _ => self.cast(value, &factors, kind, Element::F32)?,
        };
        let products: Registers<'a> = numbers
            .into_iter()
            .enumerate()
            .map(|(register, number)| {
                let factor = factors[scale_layout.register_of(layout.register_index(register) >> shift)];
                self.emitter.fmul(number, factor)
            })
            .collect();
        if to == Element::F32 { Ok(products) } else { self.cast(value, &products, Element::F32, to) }
    }

    /// Whether two E2M1 elements share a byte.
    pub fn is_packed(&self, value: Value, elements: Value) -> bool {
        block_shift(self.analysis, value, elements) > 0
    }

    /// MXFP4 as words of two bf16, each with the index of its first element; the layout has neighbours of the last dimension in a thread.
    pub fn dequantized_words(
        &mut self,
        value: Value,
        elements: Value,
        scales: Value,
        layout: &Layout,
    ) -> Result<Vec<(u32, Val<'a>)>, Error> {
        let (scale_layout, shift) = self.scale_layout(value, scales, layout);
        let exponents = self.get(scales, &scale_layout)?;
        let factors: Vec<Val<'a>> = exponents.iter().map(|&byte| self.scale_pair(byte)).collect();
        let mut words = Vec::with_capacity(layout.register_count() / 2);
        for Run { first, words: numbers, .. } in self.looked_up(value, elements, layout)? {
            for (index, number) in (first..).step_by(2).zip(numbers) {
                let factor = factors[scale_layout.register_of(index >> shift)];
                let none = self.emitter.i32(i64::from(NEGATIVE_ZEROS));
                words.push((index, self.fused_pair(number, factor, none)));
            }
        }
        Ok(words)
    }

    /// The layout of the scales of tiles of a layout, and the bits of an index that elements of one block differ in.
    fn scale_layout(&self, value: Value, scales: Value, layout: &Layout) -> (Layout, u32) {
        let shift = block_shift(self.analysis, value, scales);
        (layout.map(|basis| basis >> shift), shift)
    }

    /// E2M1 without scales.
    fn looked_up(&mut self, value: Value, elements: Value, layout: &Layout) -> Result<Vec<Run<'a>>, Error> {
        let shape = self.shape(value);
        let run = layout.vector(shape, shape.len() - 1, LONGEST_RUN);
        if self.program.type_of(elements).element == Element::U32 {
            return self.looked_up_words(value, elements, layout, run);
        }
        let bytes_layout = layout.map(|basis| basis >> 1);
        let stored = self.get_words(elements, &bytes_layout, (run / 2).max(1))?;
        let odd = (run == 1).then(|| self.coordinate(layout, shape, shape.len() - 1));
        let mut found = Vec::new();
        for first in (0..layout.register_count()).map(|register| layout.register_index(register)) {
            if first & (run - 1) != 0 {
                continue;
            }
            let mut word = stored[&(first >> 1)];
            if let Some(coordinate) = odd {
                // The element's place in the byte is the thread's.
                let e = &mut self.emitter;
                let one = e.i32(1);
                let half = e.and(coordinate, one);
                let bits = e.shl(half, 2);
                word = e.binary("llvm.lshr", Scalar::I32, word, bits);
            }
            found.push(Run { first, length: run, words: self.look_up(word, run) });
        }
        Ok(found)
    }

    /// As [`Self::looked_up`], of words in the order of [`E2M1_WORD`](crate::tile::E2M1_WORD).
    fn looked_up_words(
        &mut self,
        value: Value,
        elements: Value,
        layout: &Layout,
        run: u32,
    ) -> Result<Vec<Run<'a>>, Error> {
        if run < E2M1_PER_WORD {
            let what = format!("eight E2M1 in a word, of which a thread has {run}");
            return Err(Error::Unsupported { value, what });
        }
        let word_layout = layout.map(|basis| basis / E2M1_PER_WORD);
        let stored = self.get(elements, &word_layout)?;
        let runs = stored.iter().enumerate().map(|(register, &word)| {
            let e = &mut self.emitter;
            let signs = [word, e.shl(word, 4)];
            let words = self.look_up_signed(word, &signs);
            Run { first: word_layout.register_index(register) * E2M1_PER_WORD, length: E2M1_PER_WORD, words }
        });
        Ok(runs.collect())
    }

    /// The bf16 of the nibbles of a word, the lowest first, two in each word.
    fn look_up(&mut self, word: Val<'a>, count: u32) -> Vec<Val<'a>> {
        let e = &mut self.emitter;
        let mut signed = word;
        let mut signs = Vec::new();
        for four in 0..count.div_ceil(4) {
            if four > 0 {
                signed = e.lshr(signed, 16);
            }
            // A nibble's high bit repeats the sign of the byte that it chooses, here always set: 0x80 becomes 0xff, whose second
            // bit is moved to the first.
            let set = e.i32(i64::from(SIGNS));
            let repeated = e.permute_bytes(set, set, signed);
            signs.push(e.shl(repeated, 1));
        }
        let mut words = self.look_up_signed(word, &signs);
        words.truncate(count.div_ceil(2) as usize);
        words
    }

    /// The bf16 of four nibbles of a word for each word of signs, which are the highest bits of its bytes; two in each word.
    fn look_up_signed(&mut self, word: Val<'a>, signs: &[Val<'a>]) -> Vec<Val<'a>> {
        let [upper_half, lower_half] = self.halves_of_tables();
        let e = &mut self.emitter;
        let magnitudes = e.i32(0x7777_7777);
        let mut codes = e.and(word, magnitudes);
        let mut words = Vec::new();
        for (four, &signs) in signs.iter().enumerate() {
            if four > 0 {
                codes = e.lshr(codes, 16);
            }
            let [upper, lower] = [(UPPER_BYTES, upper_half), (LOWER_BYTES, lower_half)].map(|([_, high], low)| {
                let high = e.i32(i64::from(high));
                e.permute_bytes(low, high, codes)
            });
            let set = e.i32(i64::from(SIGNS));
            let signs = e.and(signs, set);
            let upper = e.binary("llvm.or", Scalar::I32, upper, signs);
            for selector in [0x5140, 0x7362] {
                let selector = e.i32(selector);
                words.push(e.permute_bytes(lower, upper, selector));
            }
        }
        words
    }

    /// The first halves of the tables, in registers. An instruction takes one constant at most, and what ptxas sees to be another it makes anew for
    /// every instruction. That no lane is both before and after another it does not see.
    fn halves_of_tables(&mut self) -> [Val<'a>; 2] {
        if let Some(halves) = self.table_halves {
            return halves;
        }
        let halves = self.emitter.preamble(|e| {
            let word = e.scalar_type(Scalar::I32);
            let [before, after] =
                ["lt", "gt"].map(|side| e.intrinsic(&format!("llvm.nvvm.read.ptx.sreg.lanemask.{side}"), &[], word));
            let none = e.and(before, after);
            [UPPER_BYTES, LOWER_BYTES].map(|[low, _]| {
                let low = e.i32(i64::from(low));
                e.binary("llvm.or", Scalar::I32, low, none)
            })
        });
        self.table_halves = Some(halves);
        halves
    }

    /// 2^(byte − 127) twice in bf16; NaN of 255.
    fn scale_pair(&mut self, byte: Val<'a>) -> Val<'a> {
        let e = &mut self.emitter;
        let word = e.scalar_type(Scalar::I32);
        let wide = e.convert("llvm.zext", byte, word);
        let places = e.i32(1 << 7 | 1 << 23);
        let exponents = e.binary("llvm.mul", Scalar::I32, wide, places);
        let least = e.i32(i64::from(LEAST_SCALES));
        let exponents = self.assembled("max.bf16x2 \t$0, $1, $2;", &[exponents, least]);
        // ∞ · 0 is NaN; what else is scaled by 0 and added stays.
        let none = self.emitter.i32(0);
        self.fused_pair(exponents, none, exponents)
    }

    /// 2^(byte − 127); NaN of 255.
    fn scale_of_exponent(&mut self, byte: Val<'a>) -> Val<'a> {
        let e = &mut self.emitter;
        let word = e.scalar_type(Scalar::I32);
        let wide = e.convert("llvm.zext", byte, word);
        let bits = e.shl(wide, 23);
        let least = e.i32(1 << 22);
        let bits = e.intrinsic("llvm.umax.i32", &[bits, least], word);
        let scale = e.bitcast(bits, Scalar::F32);
        let infinity = e.f32(f64::INFINITY);
        let nan = e.f32(f64::NAN);
        let is_infinite = e.compare_floats(FloatPredicate::OrderedEqual, scale, infinity);
        e.select(Scalar::F32, is_infinite, nan, scale)
    }

    /// a · b + c of two bf16 each.
    fn fused_pair(&mut self, a: Val<'a>, b: Val<'a>, c: Val<'a>) -> Val<'a> {
        self.assembled("fma.rn.bf16x2 \t$0, $1, $2, $3;", &[a, b, c])
    }

    /// One instruction on 32-bit registers, written out: LLVM would widen arithmetic of bf16 that a chip has in part.
    fn assembled(&mut self, text: &str, operands: &[Val<'a>]) -> Val<'a> {
        let constraints = format!("=r{}", ",r".repeat(operands.len()));
        let word = self.emitter.scalar_type(Scalar::I32);
        self.emitter.assembly(text, &constraints, operands, Some(word), false).unwrap_or(operands[0])
    }

    /// Bytes in a layout as words of `length` neighbours along the last dimension, by the index of the first; the rest of each is zero.
    fn get_words(&mut self, value: Value, layout: &Layout, length: u32) -> Result<HashMap<u32, Val<'a>>, Error> {
        let last = self.shape(value).len() - 1;
        let mut words = HashMap::new();
        if let Some(tile) = self.staged(value).filter(|tile| tile.fastest == last && length == 4) {
            for (registers, read) in self.read_vectors(&tile, layout, 0) {
                words.extend(registers.chunks(4).map(|four| layout.register_index(four[0])).zip(read));
            }
            return Ok(words);
        }
        let registers = self.get(value, layout)?;
        let word = self.emitter.scalar_type(Scalar::I32);
        let starts = (0..layout.register_count()).map(|register| layout.register_index(register));
        for first in starts.filter(|index| index & (length - 1) == 0) {
            let bytes: Vec<_> = (first..first + length).map(|index| registers[layout.register_of(index)]).collect();
            let packed = self.emitter.pack(Scalar::I8, &bytes)[0];
            let packed = if length == 4 { packed } else { self.emitter.convert("llvm.zext", packed, word) };
            words.insert(first, packed);
        }
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables against the numbers that the codes stand for.
    #[test]
    fn tables_hold_the_magnitudes() {
        let numbers = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0f32];
        for (code, number) in numbers.into_iter().enumerate() {
            let byte = |table: [u32; 2]| table[code / 4] >> (code % 4 * 8) & 0xff;
            assert_eq!(byte(UPPER_BYTES) << 8 | byte(LOWER_BYTES), number.to_bits() >> 16, "{number}");
        }
    }
}
