//! MXFP4 as the right-hand side of a product.
//!
//! With few rows it is read once, and its elements become bf16 by a table in a register. 64 bytes of a column are 128 elements of four
//! blocks. Seen as 32 words of four elements, a lookup by the low bits of each word gives every fourth element; three shifts give the
//! others. So the left-hand side is put in that order first, as bf16, or as three bf16 that add up to the f32 exactly. Lanes of the sum belong
//! to one block each, and are scaled once for the four.
//!
//! With many rows it is packed as pairs of bf16. The two elements of a byte are a pair: words of 16 columns are transposed, and each byte of them is
//! looked up twice.

use super::{
    super::{
        dequantize::Blocks,
        emitter::{Comparison, Machine, Ssa},
        evaluate::{Guard, Index},
        features::Level,
        lower::{Buffer, Lowering},
        memory::Address,
    },
    Arithmetic, Extents, Staged,
};
use crate::tile::{Coordinate, Dimension, Element, Operation, Value};

/// Elements that one step takes.
const STEP: i64 = 128;
/// Bytes of a column in a step.
const STEP_BYTES: i64 = STEP / 2;
/// Elements that share a scale.
const BLOCK: i64 = 32;
/// Elements of a word of a column.
const WORD: i64 = 4;
/// The numbers of E2M1 as bf16.
const CODES: [i64; 16] = [
    0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0, -0x8000, -0x4100, -0x4080, -0x4040, -0x4000,
    -0x3fc0, -0x3f80, -0x3f40,
];

impl<'a> Lowering<'_, 'a> {
    /// A right-hand side that is the transpose of MXFP4 in memory, every row of it as long as its tensor's or inside of it.
    pub(super) fn nibbles_of(&self, rhs: Value) -> Option<Blocks> {
        if self.features.level() < Level::V4 {
            return None;
        }
        let peeled = |mut value: Value| {
            while let Some(Operation::Cast(inner)) = self.analysis.definition(value) {
                value = *inner;
            }
            value
        };
        let Some(Operation::Transpose(stored)) = self.analysis.definition(peeled(rhs)) else { return None };
        let blocks = self.blocks_of(peeled(*stored))?;
        let is_mxfp4 = blocks.is_packed && blocks.scale == Element::U8 && i64::from(blocks.block) == BLOCK;
        let in_memory = |value: Value| {
            let Some(Operation::Load { tensor, coordinates, mask: None, .. }) = self.analysis.definition(value) else {
                return false;
            };
            let argument = self.analysis.tensor(*tensor);
            let last = argument.extents.len() - 1;
            let fits =
                coordinates.iter().zip(&argument.extents).enumerate().all(|(position, (coordinate, &extent))| {
                    match *coordinate {
                        Coordinate::At(index) => self.analysis.always_at(index, extent),
                        Coordinate::Block { start, length } => {
                            position < last || self.analysis.always_inside(start, length, extent)
                        }
                        Coordinate::Gather(_) => false,
                    }
                });
            let is_run = argument.strides.last() == Some(&Dimension::Constant(1));
            fits && is_run && !self.buffers.borrow().contains_key(&value) && !self.analysis.is_materialized(value)
        };
        let shape = &self.program.type_of(blocks.elements).shape;
        (is_mxfp4 && shape.len() == 2 && in_memory(blocks.elements) && in_memory(blocks.scales)).then_some(blocks)
    }

    /// Where a column starts in memory.
    fn column_pointer(&self, value: Value, column: Ssa<'a>) -> Ssa<'a> {
        let Some(Operation::Load { tensor, coordinates, .. }) = self.analysis.definition(value) else {
            unreachable!("seen to be a load")
        };
        let indices = [Index::At(column), Index::At(self.emitter.index(0))];
        match self.place(*tensor, coordinates, None, &indices, Guard::Unchecked).address {
            Address::Contiguous(pointer) | Address::Scattered(pointer) => pointer,
        }
    }

    /// The left-hand side as bf16 in the order that columns are looked up in: parts of all rows, one after another.
    fn spread_left(&self, left: &Staged<'a>, arithmetic: Arithmetic, extents: Extents) -> Vec<Staged<'a>> {
        let e = self.emitter;
        let steps = i64::from(extents.inner).div_euclid(STEP) + i64::from(i64::from(extents.inner) % STEP > 0);
        let row_bytes = steps * STEP * 2;
        let is_wide = arithmetic == Arithmetic::F32;
        let parts: Vec<Staged<'a>> = (0..if is_wide { 3 } else { 1 })
            .map(|_| Staged { pointer: self.reserve((row_bytes * i64::from(extents.rows)) as u64), row_bytes })
            .collect();
        let lanes = i64::from(self.lanes);
        let width = if is_wide { 4 } else { 2 };
        let line: Vec<Ssa<'a>> = parts.iter().map(|_| self.reserve(STEP as u64 * 2)).collect();
        let step = |row: Ssa<'a>, step: Ssa<'a>, valid: i64| {
            let source = e.offset(left.pointer, e.multiply(row, e.index(left.row_bytes)));
            let source = e.offset(source, e.multiply(step, e.index(STEP * width)));
            for first in (0..STEP).step_by(lanes as usize) {
                let place = |line: Ssa<'a>| e.offset(line, e.index(first * 2));
                if first >= valid {
                    line.iter().for_each(|&line| e.store(e.integer(Machine::I16, self.lanes, 0), place(line)));
                    continue;
                }
                let from = e.offset(source, e.index(first * width));
                if !is_wide {
                    e.store(e.load(from, Machine::I16, self.lanes), place(line[0]));
                    continue;
                }
                // Eight bits of the significand at a time: every difference is exact.
                let mut rest = e.load(from, Machine::F32, self.lanes);
                for &line in &line {
                    let bits = e.bitcast(rest, Machine::I32, self.lanes);
                    let upper = e.shift_right_logical(bits, e.integer(Machine::I32, self.lanes, 16));
                    e.store(e.convert("trunc", upper, Machine::I16), place(line));
                    let part = e.and(bits, e.integer(Machine::I32, self.lanes, -0x1_0000));
                    rest = e.subtract(rest, e.bitcast(part, Machine::F32, self.lanes));
                }
            }
            for (part, &line) in parts.iter().zip(&line) {
                let words = e.load(line, Machine::I64, (STEP / WORD) as u32);
                let target = e.offset(part.pointer, e.multiply(row, e.index(part.row_bytes)));
                let target = e.offset(target, e.multiply(step, e.index(STEP * 2)));
                for element in 0..WORD {
                    let shifted = e.shift_right_logical(words, e.integer(Machine::I64, words.lanes, 16 * element));
                    let every = e.convert("trunc", shifted, Machine::I16);
                    e.store(every, e.offset(target, e.index(element * STEP / WORD * 2)));
                }
            }
        };
        let whole = i64::from(extents.inner) / STEP;
        self.each(e.index(0), e.index(i64::from(extents.rows)), e.index(1), &[], |row, _| {
            self.each(e.index(0), e.index(whole), e.index(1), &[], |index, _| {
                step(row, index, STEP);
                vec![]
            });
            if whole < steps {
                step(row, e.index(whole), i64::from(extents.inner) % STEP);
            }
            vec![]
        });
        parts
    }

    /// sums += staged · rhs.
    #[expect(clippy::too_many_arguments, reason = "one caller, which has them all")]
    pub(super) fn stream_nibbles(
        &self,
        rhs: Value,
        blocks: &Blocks,
        left: &Staged<'a>,
        sums: &Buffer<'a>,
        columns: Option<Ssa<'a>>,
        extents: Extents,
        arithmetic: Arithmetic,
    ) {
        let e = self.emitter;
        let parts = self.spread_left(left, arithmetic, extents);
        // Columns outside of the tensor are zeros.
        let mut total = columns.unwrap_or_else(|| e.index(i64::from(extents.columns)));
        if let Some(count) = self.bounds_of(rhs)[1] {
            total = e.integer_minimum(total, count);
        }
        let group = (4 / i64::from(extents.rows)).max(1);
        let end = e.subtract(total, e.index(group - 1));
        let done = self.each(e.index(0), end, e.index(group), &[e.index(0)], |column, _| {
            self.nibble_columns(blocks, &parts, sums, column, group, extents);
            vec![e.add(column, e.index(group))]
        });
        if group > 1 {
            self.each(done[0], total, e.index(1), &[], |column, _| {
                self.nibble_columns(blocks, &parts, sums, column, 1, extents);
                vec![]
            });
        }
    }

    /// Sums of products of all rows with `count` columns.
    fn nibble_columns(
        &self,
        blocks: &Blocks,
        parts: &[Staged<'a>],
        sums: &Buffer<'a>,
        column: Ssa<'a>,
        count: i64,
        extents: Extents,
    ) {
        let e = self.emitter;
        let rows = i64::from(extents.rows);
        let table: Vec<i64> = CODES.iter().chain(&CODES).copied().collect();
        let table = e.integers(Machine::I16, &table);
        let zero = e.float(Machine::F32, self.lanes, 0.0);
        let start = |value: Value, ahead: i64| self.column_pointer(value, e.add(column, e.index(ahead)));
        let pointers: Vec<[Ssa<'a>; 3]> = (0..count)
            .map(|ahead| {
                [start(blocks.elements, ahead), start(blocks.scales, ahead), start(blocks.elements, ahead + count)]
            })
            .collect();
        let step = |index: Ssa<'a>, valid: i64, carried: &[Ssa<'a>]| {
            let at = |pointer: Ssa<'a>, bytes: i64| e.offset(pointer, e.multiply(index, e.index(bytes)));
            let masked = |pointer: Ssa<'a>, lanes: i64, valid: i64| {
                if valid == lanes {
                    return e.load(pointer, Machine::I8, lanes as u32);
                }
                let inside = e.compare(
                    Comparison::Less,
                    e.iota(Machine::I8, lanes as u32),
                    e.integer(Machine::I8, lanes as u32, valid),
                );
                e.masked_load(pointer, inside, e.integer(Machine::I8, lanes as u32, 0))
            };
            let mut next = Vec::new();
            for [elements, scales, ahead] in &pointers {
                let immediate = |value| e.integer(Machine::I32, 1, value);
                let coming = at(*ahead, STEP_BYTES);
                e.intrinsic_effect("llvm.prefetch", &[coming, immediate(0), immediate(2), immediate(1)]);
                let words = masked(at(*elements, STEP_BYTES), STEP_BYTES, valid / 2);
                let words = e.bitcast(words, Machine::I16, (STEP / WORD) as u32);
                let numbers: Vec<Ssa<'a>> = (0..WORD)
                    .map(|element| {
                        let shift = e.integer(Machine::I16, words.lanes, 4 * element);
                        let code = if element == 0 { words } else { e.shift_right_logical(words, shift) };
                        let found =
                            e.intrinsic("llvm.x86.avx512.permvar.hi.512", &[table, code], (Machine::I16, words.lanes));
                        e.bitcast(found, Machine::F32, self.lanes)
                    })
                    .collect();
                // A scale for every four lanes. The byte 0 gives 0 for 2^(−127), and 255 an infinity for NaN.
                let scales = masked(at(*scales, STEP / BLOCK), STEP / BLOCK, valid / BLOCK);
                let repeated: Vec<i32> = (0..self.lanes as i32).map(|lane| lane / 4).collect();
                let scales = e.convert("zext", e.shuffle(scales, scales, &repeated), Machine::I32);
                let scales = e.shift_left(scales, e.integer(Machine::I32, self.lanes, 23));
                let scales = e.bitcast(scales, Machine::F32, self.lanes);
                for row in 0..rows {
                    let mut sum = zero;
                    for part in parts {
                        let left = at(e.offset(part.pointer, e.index(row * part.row_bytes)), STEP * 2);
                        for (element, &number) in numbers.iter().enumerate() {
                            let place = e.offset(left, e.index(element as i64 * STEP / WORD * 2));
                            let left = e.load(place, Machine::F32, self.lanes);
                            sum = e.dot_bf16_pairs(sum, left, number);
                        }
                    }
                    let known = carried[next.len()];
                    next.push(e.multiply_add(sum, scales, known));
                }
            }
            next
        };
        let inner = i64::from(extents.inner);
        let mut totals = vec![zero; (count * rows) as usize];
        if inner >= STEP {
            totals = self.each(e.index(0), e.index(inner / STEP), e.index(1), &totals, |index, carried| {
                step(index, STEP, carried)
            });
        }
        if inner % STEP > 0 {
            totals = self.memo.scope(|| step(e.index(inner / STEP), inner % STEP, &totals));
        }
        for (place, &total) in totals.iter().enumerate() {
            let (ahead, row) = (place as i64 / rows, place as i64 % rows);
            let pointer = self.buffer_pointer(sums, &[e.index(row), e.add(column, e.index(ahead))]);
            e.store(e.add(e.load(pointer, Machine::F32, 1), self.add_lanes(total)), pointer);
        }
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
