//! Left-hand sides as integers, for products with columns of four or eight bits.
//!
//! A dot product of bytes takes twice the elements of one of bf16, and on many processors four or eight times as many in a second. Columns that are
//! integers of a byte, or become such by a table, are therefore multiplied as integers. What they are multiplied with is not rounded to
//! bytes for that: in blocks of 32 its numbers become multiples of a unit, a power of two, and these multiples are written in digits to the base
//! 256, each a signed byte, that are multiplied in turn. The unit is 2⁻¹³ of the power of two of the largest number in the block for bf16, in two digits, and
//! 2⁻²⁰ of it for f32, in three: bf16 within a factor of 64 of the largest stay what they are, and what is smaller is off by no more than
//! the rounding of the largest to 15 bits. The sums over four or eight products are exact.
//!
//! The instruction takes unsigned bytes from one side. These are the columns', raised by a bias; what the bias adds is known from the left-hand side alone,
//! and taken off before.

use super::{
    super::{
        emitter::{Comparison, Machine, Ssa},
        features::{Extension, Level},
        kept::Keys,
        lower::Lowering,
    },
    Arithmetic, Extents, Staged, Streamed,
};

/// Elements that share a unit.
const BLOCK: i64 = 32;
/// 1.5 · 2²³: added to a number below 2²² it leaves the nearest integer in the lowest bits.
pub(super) const ROUNDING: f64 = 12_582_912.0;

/// How the elements of a column lie in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Two in each, the even one in the lower half, multiplied as twice their value, raised to be no less than 0.
    Pairs,
    /// One in each, raised by 128.
    Single,
}

impl Packing {
    /// Elements in a byte.
    pub(super) const fn elements(self) -> i64 {
        match self {
            Self::Pairs => 2,
            Self::Single => 1,
        }
    }

    /// What the elements of columns are raised by.
    const fn bias(self) -> i64 {
        match self {
            Self::Pairs => 12,
            Self::Single => 128,
        }
    }
}

/// Rows of a left-hand side in steps of four bytes of a column for each lane.
pub(super) struct Digits<'a> {
    /// Digits of a number.
    pub(super) count: i64,
    /// For each step the digits of all its elements, the least one first; for pairs those of the even elements before those of the odd ones.
    pub(super) pointer: Ssa<'a>,
    pub(super) row_bytes: i64,
    /// For each step and lane what the bias adds to the sum, negated.
    pub(super) corrections: Ssa<'a>,
    pub(super) correction_row_bytes: i64,
    /// The units: for pairs halved, since their elements are doubled, and one for each block; else one for each lane of each step.
    pub(super) units: Ssa<'a>,
    pub(super) unit_row_bytes: i64,
}

impl<'a> Lowering<'_, 'a> {
    /// Whether products of bytes are worth it.
    pub(super) fn multiplies_bytes(&self, packing: Packing) -> bool {
        match packing {
            Packing::Pairs => self.features.level() >= Level::V3,
            // Without the instruction, sums of two such products do not fit their 16 bits.
            Packing::Single => self.has(Extension::Vnni),
        }
    }

    /// Bytes of a column in a step.
    pub(super) fn step_bytes(&self) -> i64 {
        4 * i64::from(self.lanes)
    }

    /// sums + Σ of four products of unsigned with signed bytes in each lane.
    pub(super) fn byte_products(&self, sums: Ssa<'a>, unsigned: Ssa<'a>, signed: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let lanes = self.lanes;
        if self.has(Extension::Vnni) {
            return e.intrinsic("llvm.x86.avx512.vpdpbusd.512", &[sums, unsigned, signed], (Machine::I32, lanes));
        }
        let [pairs, quads] = match lanes {
            16 => ["llvm.x86.avx512.pmaddubs.w.512", "llvm.x86.avx512.pmaddw.d.512"],
            _ => ["llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd"],
        };
        let pairs = e.intrinsic(pairs, &[unsigned, signed], (Machine::I16, 2 * lanes));
        let ones = e.integer(Machine::I16, 2 * lanes, 1);
        e.add(sums, e.intrinsic(quads, &[pairs, ones], (Machine::I32, lanes)))
    }

    /// The rows of a product in digits, from f32 or bf16, kept where there are keys.
    pub(super) fn digits_of(
        &self,
        product: &Streamed<'_, 'a>,
        keys: Option<&Keys<'a>>,
        arithmetic: Arithmetic,
        packing: Packing,
    ) -> Digits<'a> {
        self.keep(
            keys,
            || self.room_for_digits(arithmetic, packing, product.extents),
            |digits| {
                self.with_scratch(|| {
                    self.fill_digits(digits, &self.left(product, arithmetic), arithmetic, packing, product.extents);
                });
            },
        )
    }

    fn room_for_digits(&self, arithmetic: Arithmetic, packing: Packing, extents: Extents) -> Digits<'a> {
        let lanes = i64::from(self.lanes);
        let elements = self.step_bytes() * packing.elements();
        let steps = i64::from(extents.inner).unsigned_abs().div_ceil(elements as u64) as i64;
        let count = if arithmetic == Arithmetic::F32 { 3 } else { 2 };
        let row_bytes = steps * count * elements;
        let correction_row_bytes = steps * lanes * 4;
        // Units of pairs are read for as many blocks as there are lanes.
        let unit_row_bytes = (steps * self.step_units(packing) * 4).unsigned_abs().next_multiple_of(lanes as u64 * 4);
        let room = |row_bytes: i64| self.reserve((row_bytes * i64::from(extents.rows)) as u64);
        Digits {
            count,
            pointer: room(row_bytes),
            row_bytes,
            corrections: room(correction_row_bytes),
            correction_row_bytes,
            units: room(unit_row_bytes as i64),
            unit_row_bytes: unit_row_bytes as i64,
        }
    }

    /// Units of a step.
    fn step_units(&self, packing: Packing) -> i64 {
        match packing {
            Packing::Pairs => self.step_bytes() * packing.elements() / BLOCK,
            Packing::Single => i64::from(self.lanes),
        }
    }

    fn fill_digits(
        &self,
        digits: &Digits<'a>,
        left: &Staged<'a>,
        arithmetic: Arithmetic,
        packing: Packing,
        extents: Extents,
    ) {
        let e = self.emitter;
        let lanes = i64::from(self.lanes);
        let &Digits { count, row_bytes, correction_row_bytes, unit_row_bytes, .. } = digits;
        let precision = if arithmetic == Arithmetic::F32 { 20 } else { 13 };
        let width = arithmetic.element().bytes() as i64;
        let (inner, rows) = (i64::from(extents.inner), i64::from(extents.rows));
        let step_bytes = self.step_bytes();
        let elements = step_bytes * packing.elements();
        let step_units = self.step_units(packing);
        let whole = inner / elements;
        let line = self.reserve((count * elements) as u64);
        let place = |pointer: Ssa<'a>, row: Ssa<'a>, row_bytes: i64, step: Ssa<'a>, bytes: i64| {
            e.offset(e.offset(pointer, e.multiply(row, e.index(row_bytes))), e.multiply(step, e.index(bytes)))
        };
        let step = |row: Ssa<'a>, step: Ssa<'a>, valid: i64| {
            let source = place(left.pointer, row, left.row_bytes, step, elements * width);
            let target = place(digits.pointer, row, row_bytes, step, count * elements);
            let units = place(digits.units, row, unit_row_bytes, step, step_units * 4);
            let written = if packing == Packing::Pairs { line } else { target };
            for block in 0..elements / BLOCK {
                let number = |first: i64| match first {
                    first if first >= valid => e.float(Machine::F32, self.lanes, 0.0),
                    first => {
                        let machine = if arithmetic == Arithmetic::F32 { Machine::F32 } else { Machine::I16 };
                        let stored = e.load(e.offset(source, e.index(first * width)), machine, self.lanes);
                        self.converter().widen_f32(stored, arithmetic.element())
                    }
                };
                let places: Vec<i64> = (block * BLOCK..(block + 1) * BLOCK).step_by(lanes as usize).collect();
                let numbers: Vec<Ssa<'a>> = places.iter().map(|&first| number(first)).collect();
                let nothing = e.integer(Machine::I32, self.lanes, 0);
                let largest = numbers.iter().fold(nothing, |largest, &number| self.larger_magnitude(largest, number));
                let (unit, inverse) = self.unit_of(largest, precision);
                for (first, number) in places.into_iter().zip(numbers) {
                    let rounding = e.float(Machine::F32, self.lanes, ROUNDING);
                    let integer = |value| e.bitcast(value, Machine::I32, self.lanes);
                    let scaled = e.multiply_add(number, inverse, rounding);
                    let mut rest = e.subtract(integer(scaled), integer(rounding));
                    for digit in 0..count {
                        let byte = e.convert("trunc", rest, Machine::I8);
                        e.store(byte, e.offset(written, e.index(digit * elements + first)));
                        // A digit from 128 on is negative, and adds one to the next.
                        let carried = e.add(rest, e.integer(Machine::I32, self.lanes, 128));
                        rest = e.shift_right_arithmetic(carried, e.integer(Machine::I32, self.lanes, 8));
                    }
                }
                if packing == Packing::Pairs {
                    let half = e.multiply(e.extract(unit, 0), e.float(Machine::F32, 1, 0.5));
                    e.store(half, e.offset(units, e.index(block * 4)));
                } else {
                    let repeated = e.shuffle(unit, unit, &[0; BLOCK as usize / 4]);
                    e.store(repeated, e.offset(units, e.index(block * BLOCK)));
                }
            }
            if packing == Packing::Pairs {
                for digit in 0..count {
                    let words = e.load(e.offset(line, e.index(digit * elements)), Machine::I16, step_bytes as u32);
                    let upper = e.shift_right_logical(words, e.integer(Machine::I16, words.lanes, 8));
                    for (half, words) in [words, upper].into_iter().enumerate() {
                        let place = e.offset(target, e.index(digit * elements + half as i64 * step_bytes));
                        e.store(e.convert("trunc", words, Machine::I8), place);
                    }
                }
            }
            let bias = e.integer(Machine::I8, step_bytes as u32, packing.bias());
            let mut raised = e.integer(Machine::I32, self.lanes, 0);
            for digit in (0..count).rev() {
                raised = e.shift_left(raised, e.integer(Machine::I32, self.lanes, 8));
                for part in 0..packing.elements() {
                    let place = e.offset(target, e.index(digit * elements + part * step_bytes));
                    raised = self.byte_products(raised, bias, e.load(place, Machine::I8, step_bytes as u32));
                }
            }
            let correction = e.subtract(e.integer(Machine::I32, self.lanes, 0), raised);
            e.store(correction, place(digits.corrections, row, correction_row_bytes, step, lanes * 4));
        };
        self.each(e.index(0), e.index(rows), e.index(1), &[], |row, _| {
            self.each(e.index(0), e.index(whole), e.index(1), &[], |index, _| {
                step(row, index, elements);
                vec![]
            });
            if inner % elements > 0 {
                self.memo.scope(|| step(row, e.index(whole), inner % elements));
            }
            vec![]
        });
    }

    /// In each lane the larger of a magnitude, as bits, and that of a number.
    pub(super) fn larger_magnitude(&self, largest: Ssa<'a>, number: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let magnitude = e.integer(Machine::I32, self.lanes, 0x7fff_ffff);
        e.integer_maximum(largest, e.and(e.bitcast(number, Machine::I32, self.lanes), magnitude))
    }

    /// The unit of numbers, 2^−`precision` of the power of two of the largest, and its inverse, in all lanes; `largest` has the magnitudes, as bits, of the largest
    /// in each lane. The unit of numbers which are not all finite is NaN.
    pub(super) fn unit_of(&self, mut largest: Ssa<'a>, precision: i64) -> (Ssa<'a>, Ssa<'a>) {
        let e = self.emitter;
        let lanes = self.lanes;
        let integer = |value: i64| e.integer(Machine::I32, lanes, value);
        let mut distance = lanes / 2;
        while distance > 0 {
            let others: Vec<i32> = (0..lanes).map(|lane| (lane ^ distance) as i32).collect();
            largest = e.integer_maximum(largest, e.shuffle(largest, largest, &others));
            distance /= 2;
        }
        let exponent = e.and(largest, integer(0x7f80_0000));
        let is_special = e.compare(Comparison::Equal, exponent, integer(0x7f80_0000));
        // So that neither the unit nor its inverse leaves the range of normal numbers.
        let exponent = e.integer_maximum(exponent, integer(64 << 23));
        let unit = e.bitcast(e.subtract(exponent, integer(precision << 23)), Machine::F32, lanes);
        let unit = e.select(is_special, e.float(Machine::F32, lanes, f64::NAN), unit);
        let inverse = integer(i64::from(((254 + precision as u32) << 23) as i32));
        (unit, e.bitcast(e.subtract(inverse, exponent), Machine::F32, lanes))
    }

    /// The sums of a step's products with the digits of a row, in units: `columns` are the raised bytes, for pairs those of the even elements first.
    pub(super) fn digit_products(&self, digits: &Digits<'a>, row: i64, step: Ssa<'a>, columns: &[Ssa<'a>]) -> Ssa<'a> {
        let e = self.emitter;
        let bytes = self.step_bytes();
        let parts = columns.len() as i64;
        let place = |pointer: Ssa<'a>, row_bytes: i64, step_bytes: i64| {
            e.offset(e.offset(pointer, e.index(row * row_bytes)), e.multiply(step, e.index(step_bytes)))
        };
        let first = place(digits.pointer, digits.row_bytes, digits.count * parts * bytes);
        let correction = place(digits.corrections, digits.correction_row_bytes, bytes);
        let mut total: Option<Ssa<'a>> = None;
        for digit in (0..digits.count).rev() {
            let mut sum = match digit {
                0 => e.load(correction, Machine::I32, self.lanes),
                _ => e.integer(Machine::I32, self.lanes, 0),
            };
            for (part, &column) in columns.iter().enumerate() {
                let place = e.offset(first, e.index((digit * parts + part as i64) * bytes));
                sum = self.byte_products(sum, column, e.load(place, Machine::I8, bytes as u32));
            }
            total = Some(match total {
                None => sum,
                Some(total) => e.add(e.shift_left(total, e.integer(Machine::I32, self.lanes, 8)), sum),
            });
        }
        let total = total.unwrap_or_else(|| unreachable!("numbers have digits"));
        e.convert("sitofp", total, Machine::F32)
    }
}
