//! Columns of eight bits as the right-hand side of a product with few rows: read once, as they lie in memory.
//!
//! Integers are multiplied as such ([`super::digits`]). Small floats become binary16, which holds all of theirs, and from that f32 by the processor: 32 of even
//! place and 32 of odd place from 64 bytes, in the order of which the left-hand side is put before.

use super::{
    super::{
        emitter::{Comparison, Machine, Ssa},
        features::Level,
        lower::{Buffer, Lowering},
    },
    Arithmetic, Extents, Staged, Streamed,
    columns::columns_ahead,
    digits::{Digits, Packing},
};
use crate::tile::{Element, Operation, Value};

/// Up to this many rows the sums of products with floats have several chains of additions.
const MOST_ROWS_IN_CHAINS: u32 = 4;
/// An e4m3 over the binary16 that has its bits: their exponents are biased by 7 and 15.
const E4M3_OF_HALF: f64 = 256.0;

impl<'a> Lowering<'_, 'a> {
    /// The rows in memory of which a right-hand side of eight-bit elements is the transpose, and their element.
    pub(super) fn bytes_of(&self, rhs: Value) -> Option<(Value, Element)> {
        let Some(Operation::Transpose(stored)) = self.analysis.definition(self.peeled(rhs)) else { return None };
        let stored = self.peeled(*stored);
        let element = self.program.type_of(stored).element;
        let is_narrow = matches!(element, Element::I8 | Element::Fp8E4M3 | Element::Fp8E5M2);
        (is_narrow && self.rows_in_memory(stored)).then_some((stored, element))
    }

    /// Whether [`Self::stream_floats`] takes an element.
    pub(super) fn streams_floats(&self, element: Element) -> bool {
        matches!(element, Element::Fp8E4M3 | Element::Fp8E5M2) && self.features.level() >= Level::V4
    }

    /// sums += lhs · rhs, whose columns are signed bytes.
    pub(super) fn stream_integers(&self, product: &Streamed<'_, 'a>, stored: Value, arithmetic: Arithmetic) {
        let e = self.emitter;
        let columns = self.columns_inside(product);
        let one_by_one = |first: Ssa<'a>| {
            let digits = self.digits_of(product, product.keys.as_ref(), arithmetic, Packing::Single);
            self.each_column(first, columns, |column| {
                self.integer_column(stored, &digits, product.sums, column, product.extents)
            });
        };
        if !self.multiplies_integer_tiles(product.rhs, product.extents) {
            return one_by_one(e.index(0));
        }
        let done = self.multiply_integer_tiles(product, stored, columns, arithmetic);
        let is_left = e.compare(Comparison::Less, done, columns);
        e.when(is_left, || self.memo.scope(|| one_by_one(done)));
    }

    fn integer_column(&self, stored: Value, digits: &Digits<'a>, sums: &Buffer<'a>, column: Ssa<'a>, extents: Extents) {
        let e = self.emitter;
        let bytes = self.step_bytes();
        let initial = vec![e.float(Machine::F32, self.lanes, 0.0); extents.rows as usize];
        let totals = self.column_steps(stored, column, extents, &initial, |step, column, totals| {
            let raised = e.xor(column, e.integer(Machine::I8, bytes as u32, -128));
            for (row, total) in (0..).zip(totals) {
                let sum = self.digit_products(digits, row, step, &[raised]);
                let units = e.offset(digits.units, e.index(row * digits.unit_row_bytes));
                let units = e.load(e.offset(units, e.multiply(step, e.index(bytes))), Machine::F32, self.lanes);
                *total = e.multiply_add(sum, units, *total);
            }
        });
        self.add_totals(&totals, sums, column);
    }

    /// sums += lhs · rhs, whose columns are floats of eight bits.
    pub(super) fn stream_floats(&self, product: &Streamed<'_, 'a>, stored: Value) {
        let extents = product.extents;
        let left = self.keep(
            product.keys.as_ref(),
            || self.room_for_parts(extents),
            |parts| self.with_scratch(|| self.part(&self.left(product, Arithmetic::F32), parts, extents)),
        );
        let columns = self.columns_inside(product);
        self.each_column(self.emitter.index(0), columns, |column| {
            self.float_column(stored, &left, product.sums, column, extents)
        });
    }

    fn room_for_parts(&self, extents: Extents) -> Staged<'a> {
        let elements = self.step_bytes();
        let row_bytes = i64::from(extents.inner).unsigned_abs().next_multiple_of(elements as u64) as i64 * 4;
        Staged { pointer: self.reserve((row_bytes * i64::from(extents.rows)) as u64), row_bytes }
    }

    /// Copies rows of f32 with the elements of each step in another order: those of even place before the others.
    fn part(&self, left: &Staged<'a>, parts: &Staged<'a>, extents: Extents) {
        let e = self.emitter;
        let lanes = i64::from(self.lanes);
        let elements = self.step_bytes();
        let inner = i64::from(extents.inner);
        let whole = inner / elements;
        let step = |row: Ssa<'a>, step: Ssa<'a>, valid: i64| {
            let place = |rows: &Staged<'a>| {
                let row = e.offset(rows.pointer, e.multiply(row, e.index(rows.row_bytes)));
                e.offset(row, e.multiply(step, e.index(elements * 4)))
            };
            let (source, target) = (place(left), place(parts));
            for part in 0..elements / (2 * lanes) {
                let pairs = match part * 2 * lanes {
                    first if first >= valid => e.integer(Machine::I64, self.lanes, 0),
                    first => e.load(e.offset(source, e.index(first * 4)), Machine::I64, self.lanes),
                };
                let odd = e.shift_right_logical(pairs, e.integer(Machine::I64, self.lanes, 32));
                for (half, words) in [pairs, odd].into_iter().enumerate() {
                    let words = e.convert("trunc", words, Machine::I32);
                    let first = half as i64 * elements / 2 + part * lanes;
                    e.store(words, e.offset(target, e.index(first * 4)));
                }
            }
        };
        self.each(e.index(0), e.index(i64::from(extents.rows)), e.index(1), &[], |row, _| {
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

    fn float_column(&self, stored: Value, left: &Staged<'a>, sums: &Buffer<'a>, column: Ssa<'a>, extents: Extents) {
        let e = self.emitter;
        let element = self.program.type_of(stored).element;
        let bytes = self.step_bytes() as u32;
        let rows = extents.rows as usize;
        // Additions in a row wait for one another; of few rows each of the four vectors of a step has a total of its own.
        let chains = if extents.rows <= MOST_ROWS_IN_CHAINS { 4 } else { 1 };
        let mut carried = vec![e.float(Machine::F32, self.lanes, 0.0); rows * chains];
        // The column's largest magnitude, by which a NaN is known.
        let has_largest = element == Element::Fp8E4M3;
        if has_largest {
            carried.push(e.integer(Machine::I8, bytes, 0));
        }
        let mut carried = self.column_steps(stored, column, extents, &carried, |step, column, carried| {
            let (totals, largest) = carried.split_at_mut(rows * chains);
            if let [largest] = largest {
                let magnitude = e.and(column, e.integer(Machine::I8, bytes, 0x7f));
                *largest = e.integer_maximum(*largest, magnitude);
            }
            let numbers: Vec<Ssa<'a>> = self.halves_of(column, element).map(|half| e.half_extend(half)).collect();
            for (row, totals) in (0..).zip(totals.chunks_mut(chains)) {
                let left = e.offset(left.pointer, e.index(row * left.row_bytes));
                let left = e.offset(left, e.multiply(step, e.index(i64::from(bytes) * 4)));
                for (part, &number) in numbers.iter().enumerate() {
                    let place = e.offset(left, e.index(part as i64 * i64::from(bytes)));
                    let total = &mut totals[part % chains];
                    *total = e.multiply_add(e.load(place, Machine::F32, self.lanes), number, *total);
                }
            }
        });
        let largest = carried.split_off(rows * chains).pop();
        let sum = |totals: &[Ssa<'a>]| totals.iter().copied().reduce(|a, b| e.add(a, b));
        let mut totals: Vec<Ssa<'a>> = carried.chunks(chains).filter_map(sum).collect();
        if let Some(largest) = largest {
            let is_nan = e.compare(Comparison::Equal, largest, e.integer(Machine::I8, bytes, 0x7f));
            let any = e.bitcast(is_nan, Machine::I64, 1);
            let any = e.compare(Comparison::NotEqual, any, e.integer(Machine::I64, 1, 0));
            for total in &mut totals {
                let scaled = e.multiply(*total, e.float(Machine::F32, self.lanes, E4M3_OF_HALF));
                *total = e.select(any, e.float(Machine::F32, self.lanes, f64::NAN), scaled);
            }
        }
        self.add_totals(&totals, sums, column);
    }

    /// Bytes of floats as binary16, of e4m3 [`E4M3_OF_HALF`] times too small: those of even place, then the others, in vectors of lanes.
    fn halves_of(&self, bytes: Ssa<'a>, element: Element) -> impl Iterator<Item = Ssa<'a>> + use<'a> {
        let e = self.emitter;
        let words = e.bitcast(bytes, Machine::I16, bytes.lanes / 2);
        let number = |value: i64| e.integer(Machine::I16, words.lanes, value);
        let even = e.shift_left(words, number(8));
        let halves = match element {
            Element::Fp8E4M3 => {
                // The sign is shifted into the first bit of the exponent too, which is cleared.
                [even, words].map(|word| e.and(e.shift_right_arithmetic(word, number(1)), number(-0x4080)))
            }
            _ => [even, e.and(words, number(-0x100))],
        };
        let lanes = self.lanes as i32;
        let vectors = halves.map(|half| {
            [0, lanes].map(|first| {
                let part: Vec<i32> = (first..first + lanes).collect();
                e.shuffle(half, half, &part)
            })
        });
        vectors.into_iter().flatten()
    }

    /// Carries values over the steps of a column. The body gets the number of the step and the bytes.
    fn column_steps(
        &self,
        stored: Value,
        column: Ssa<'a>,
        extents: Extents,
        initial: &[Ssa<'a>],
        body: impl Fn(Ssa<'a>, Ssa<'a>, &mut [Ssa<'a>]),
    ) -> Vec<Ssa<'a>> {
        let e = self.emitter;
        let bytes = self.step_bytes();
        let inner = i64::from(extents.inner);
        let pointer = self.column_pointer(stored, column);
        let later = self.column_pointer(stored, e.add(column, e.index(columns_ahead(inner))));
        let step = |index: Ssa<'a>, valid: i64, carried: &[Ssa<'a>]| {
            let at = |pointer: Ssa<'a>| e.offset(pointer, e.multiply(index, e.index(bytes)));
            self.prefetch_line(at(later));
            let mut next = carried.to_vec();
            body(index, self.column_bytes(at(pointer), bytes, valid), &mut next);
            next
        };
        let mut carried = initial.to_vec();
        if inner >= bytes {
            carried = self.each(e.index(0), e.index(inner / bytes), e.index(1), &carried, |index, carried| {
                step(index, bytes, carried)
            });
        }
        if inner % bytes > 0 {
            carried = self.memo.scope(|| step(e.index(inner / bytes), inner % bytes, &carried));
        }
        carried
    }
}
