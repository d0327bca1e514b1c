//! MXFP4 as the right-hand side of a product.
//!
//! With few rows it is read once. Doubled, the numbers of E2M1 are integers up to 12, which a table in a register gives for the lower and
//! for the upper halves of bytes; they are multiplied as such ([`super::digits`]). Lanes of the sums belong to one block each, and are scaled
//! once for eight elements.
//!
//! With many rows it is packed as pairs of bf16. The two elements of a byte are a pair: words of 16 columns are transposed, and each byte of them is
//! looked up twice.

use super::{
    super::{
        dequantize::Blocks,
        emitter::{Machine, Ssa},
        features::Extension,
        lower::{Buffer, Lowering},
    },
    Arithmetic, Extents, Streamed,
    columns::columns_ahead,
    digits::{Digits, Packing},
};
use crate::tile::{Element, Operation, Value};

/// Elements that share a scale.
const BLOCK: i64 = 32;
/// Columns of a tile whose programs put a row into digits themselves.
const WIDE: u32 = 256;
/// Twice the numbers of E2M1, raised by 12.
const RAISED: [i64; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

impl<'a> Lowering<'_, 'a> {
    /// A right-hand side that is the transpose of MXFP4 in memory, every row of it as long as its tensor's or inside of it.
    pub(super) fn nibbles_of(&self, rhs: Value) -> Option<Blocks> {
        let Some(Operation::Transpose(stored)) = self.analysis.definition(self.peeled(rhs)) else { return None };
        let blocks = self.blocks_of(self.peeled(*stored))?;
        let is_mxfp4 = blocks.is_packed && blocks.scale == Element::U8 && i64::from(blocks.block) == BLOCK;
        let is_there = is_mxfp4 && self.rows_in_memory(blocks.elements) && self.rows_in_memory(blocks.scales);
        is_there.then_some(blocks)
    }

    /// sums += staged · rhs.
    pub(super) fn stream_nibbles(&self, product: &Streamed<'_, 'a>, blocks: &Blocks, arithmetic: Arithmetic) {
        // One row is soon in digits, and beside kept ones the weights of wide tiles were read a fifth slower.
        let is_wide = product.extents.rows == 1 && product.extents.columns >= WIDE;
        let keys = product.keys.as_ref().filter(|_| !is_wide);
        let digits = self.digits_of(product, keys, arithmetic, Packing::Pairs);
        let columns = self.columns_inside(product);
        self.each_column(self.emitter.index(0), columns, |column| {
            self.nibble_column(blocks, &digits, product.sums, column, product.extents)
        });
    }

    /// Sums of products of all rows with a column.
    fn nibble_column(
        &self,
        blocks: &Blocks,
        digits: &Digits<'a>,
        sums: &Buffer<'a>,
        column: Ssa<'a>,
        extents: Extents,
    ) {
        let e = self.emitter;
        let (rows, lanes) = (i64::from(extents.rows), i64::from(self.lanes));
        let inner = i64::from(extents.inner);
        let step_bytes = self.step_bytes();
        let step_elements = 2 * step_bytes;
        // Scales are read for as many blocks as there are lanes.
        let group_elements = lanes * BLOCK;
        let [elements, scales] = [blocks.elements, blocks.scales].map(|value| self.column_pointer(value, column));
        let later = e.add(column, e.index(columns_ahead(inner / 2)));
        let later = self.column_pointer(blocks.elements, later);
        let group = |index: Ssa<'a>, valid: i64, carried: &[Ssa<'a>]| {
            let at = |pointer: Ssa<'a>, bytes: i64| e.offset(pointer, e.multiply(index, e.index(bytes)));
            // For each row the factors of the blocks. The byte 0 gives 0 for 2^(−127), and 255 an infinity for NaN.
            let scales = self.column_bytes(at(scales, lanes), lanes, valid / BLOCK);
            let scales = e.convert("zext", scales, Machine::I32);
            let scales = e.shift_left(scales, e.integer(Machine::I32, self.lanes, 23));
            let scales = e.bitcast(scales, Machine::F32, self.lanes);
            let factors = (0..rows).map(|row| {
                let units = at(e.offset(digits.units, e.index(row * digits.unit_row_bytes)), lanes * 4);
                e.multiply(scales, e.load(units, Machine::F32, self.lanes))
            });
            let factors: Vec<Ssa<'a>> = factors.collect();
            let mut totals = carried.to_vec();
            for step in 0..group_elements / step_elements {
                let left = (valid - step * step_elements).min(step_elements);
                if left <= 0 {
                    break;
                }
                let number = e.add(e.multiply(index, e.index(group_elements / step_elements)), e.index(step));
                let lane_factors: Vec<i32> = (0..lanes).map(|lane| ((step * lanes + lane) / 4) as i32).collect();
                let offset = |pointer: Ssa<'a>| e.offset(at(pointer, group_elements / 2), e.index(step * step_bytes));
                self.prefetch_line(offset(later));
                let halves = self.raised_halves(self.column_bytes(offset(elements), step_bytes, left / 2));
                for ((row, &factors), total) in (0..).zip(&factors).zip(&mut totals) {
                    let sum = self.digit_products(digits, row, number, &halves);
                    *total = e.multiply_add(sum, e.shuffle(factors, factors, &lane_factors), *total);
                }
            }
            totals
        };
        let mut totals = vec![e.float(Machine::F32, self.lanes, 0.0); rows as usize];
        if inner >= group_elements {
            totals = self.each(e.index(0), e.index(inner / group_elements), e.index(1), &totals, |index, carried| {
                group(index, group_elements, carried)
            });
        }
        if inner % group_elements > 0 {
            totals = self.memo.scope(|| group(e.index(inner / group_elements), inner % group_elements, &totals));
        }
        self.add_totals(&totals, sums, column);
    }

    /// Of bytes of two elements the lower and the upper ones, doubled and raised to be no less than 0.
    fn raised_halves(&self, bytes: Ssa<'a>) -> [Ssa<'a>; 2] {
        let e = self.emitter;
        let lanes = bytes.lanes;
        let words = e.bitcast(bytes, Machine::I16, lanes / 2);
        let upper = e.shift_right_logical(words, e.integer(Machine::I16, words.lanes, 4));
        let upper = e.bitcast(upper, Machine::I8, lanes);
        let table: Vec<i64> = (0..lanes as usize).map(|lane| RAISED[lane % RAISED.len()]).collect();
        let table = e.integers(Machine::I8, &table);
        [bytes, upper].map(|codes| {
            if self.has(Extension::Vnni) {
                // Looks at six bits of each; the table repeats itself.
                return e.intrinsic("llvm.x86.avx512.permvar.qi.512", &[table, codes], (Machine::I8, lanes));
            }
            let shuffle = if lanes == 64 { "llvm.x86.avx512.pshuf.b.512" } else { "llvm.x86.avx2.pshuf.b" };
            let codes = e.and(codes, e.integer(Machine::I8, lanes, 15));
            e.intrinsic(shuffle, &[table, codes], (Machine::I8, lanes))
        })
    }

    /// Packs 16 columns from `first` on, fewer than `limit`, as pairs of bf16: for each two rows a word of each column, `row_bytes` after that
    /// of the rows before. Columns have at least four blocks.
    pub(super) fn pack_nibbles(&self, blocks: &Blocks, [first, limit]: [Ssa<'a>; 2], target: Ssa<'a>, row_bytes: i64) {
        let e = self.emitter;
        let count = i64::from(blocks.columns) / BLOCK;
        // Scales are read four at a time.
        const SCALES: i64 = 4;
        debug_assert!(count >= SCALES);
        let lanes = self.lanes;
        let last = e.integer_maximum(e.subtract(limit, e.index(1)), e.index(0));
        // Columns beyond the last repeat it; nothing looks at them.
        let column = |lane: i64| e.integer_minimum(e.add(first, e.index(lane)), last);
        let start = |value: Value, lane: i64| self.column_pointer(value, column(lane));
        let columns: Vec<Ssa<'a>> = (0..i64::from(lanes)).map(|lane| start(blocks.elements, lane)).collect();
        let scales = (0..lanes).fold(e.poison(Machine::Pointer, lanes), |pointers, lane| {
            e.insert(pointers, lane, start(blocks.scales, i64::from(lane)))
        });
        let group = |from: Ssa<'a>, skipped: i64| {
            let zeros = e.integer(Machine::I32, lanes, 0);
            let four = e.gather(e.offset(scales, e.splat(from, lanes)), e.integer(Machine::I1, lanes, 1), zeros);
            self.each(e.index(skipped), e.index(SCALES), e.index(1), &[], |member, _| {
                let shift = e.resize_signed(e.multiply(member, e.index(8)), Machine::I32);
                let scale = e.shift_right_logical(four, e.splat(shift, lanes));
                let scale = self.e8m0_of_word(e.and(scale, e.integer(Machine::I32, lanes, 255)));
                let block = e.add(from, member);
                let offset = e.multiply(block, e.index(BLOCK / 2));
                let loaded: Vec<Ssa<'a>> =
                    columns.iter().map(|&column| e.load(e.offset(column, offset), Machine::I32, 4)).collect();
                let target = e.offset(target, e.multiply(block, e.index(BLOCK / 2 * row_bytes)));
                for (word, words) in self.transposed_words(&loaded).into_iter().enumerate() {
                    for byte in 0..4 {
                        let element = |shift: i64| {
                            let code = e.shift_right_logical(words, e.integer(Machine::I32, lanes, shift));
                            // The lookup heeds four bits of each lane.
                            let number = e.multiply(self.e2m1(code), scale);
                            e.bitcast(number, Machine::I32, lanes)
                        };
                        let even = e.shift_right_logical(element(8 * byte), e.integer(Machine::I32, lanes, 16));
                        let odd = e.and(element(8 * byte + 4), e.integer(Machine::I32, lanes, -0x1_0000));
                        let row = 4 * word as i64 + byte;
                        e.store(e.or(even, odd), e.offset(target, e.index(row * row_bytes)));
                    }
                }
                vec![]
            });
        };
        self.each(e.index(0), e.index(count - SCALES + 1), e.index(SCALES), &[], |from, _| {
            group(from, 0);
            vec![]
        });
        if count % SCALES > 0 {
            self.memo.scope(|| group(e.index(count - SCALES), SCALES - count % SCALES));
        }
    }

    /// Of four words of each of 16 columns: for each word a vector over the columns.
    fn transposed_words(&self, columns: &[Ssa<'a>]) -> Vec<Ssa<'a>> {
        let e = self.emitter;
        let joined = |a: Ssa<'a>, b: Ssa<'a>| {
            let all: Vec<i32> = (0..2 * a.lanes as i32).collect();
            e.shuffle(a, b, &all)
        };
        let quads: Vec<Ssa<'a>> =
            columns.chunks(4).map(|four| joined(joined(four[0], four[1]), joined(four[2], four[3]))).collect();
        // Two words of eight columns, one word after the other.
        let halves = |a: Ssa<'a>, b: Ssa<'a>, first: i32| {
            let lanes: Vec<i32> =
                [first, first + 1].iter().flat_map(|word| (0..8).map(move |column| 4 * column + word)).collect();
            e.shuffle(a, b, &lanes)
        };
        [0, 2]
            .into_iter()
            .flat_map(|first| {
                let (low, high) = (halves(quads[0], quads[1], first), halves(quads[2], quads[3], first));
                [0, 8].map(|from| {
                    let lanes: Vec<i32> = (from..from + 8).chain(from + 16..from + 24).collect();
                    e.shuffle(low, high, &lanes)
                })
            })
            .collect()
    }
}
