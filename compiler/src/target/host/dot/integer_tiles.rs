//! Columns of signed bytes times two to eight rows, on AMX: tiles of 16 columns × 64 bytes, as they lie in memory, times 64 × 16 digits.
//!
//! The rows become digits to the base 256 as in [`super::digits`], but all numbers of a row are multiples of one unit, 2⁻²¹ of the power of
//! two of the largest, and have three digits: so the sums over a whole column are integers, which the tiles hold, and are scaled once. The digits of all rows are
//! the columns of one or two tiles: the lower two of each row, and the third.

use super::{
    super::{
        emitter::{Machine, Ssa},
        features::Extension,
        lower::{Buffer, Lowering},
    },
    Arithmetic, Extents, STREAMED_ROWS, Staged, Streamed,
    columns::columns_ahead,
};
use crate::tile::{Element, Value};

/// Columns of a tile of weights, and of a tile of digits.
const TILE: i64 = 16;
/// Bytes of a row of every tile, which are elements of the inner dimension.
const STEP: i64 = 64;
/// Bytes of a tile.
const TILE_BYTES: i64 = TILE * STEP;
/// Rows that the tiles of digits have room for.
const ROWS: i64 = STREAMED_ROWS as i64;
/// The unit is so many binary places below the power of two of the largest number.
const PRECISION: i64 = 21;
/// Up to this length of columns their sums of products of bytes fit 32 bits.
const LONGEST: u32 = 1 << 16;

/// Rows of a left-hand side as tiles of digits.
struct DigitTiles<'a> {
    /// For each step the tile of the lower two digits, that of the first row and so on, and the tile of the third.
    pointer: Ssa<'a>,
    /// The units of [`ROWS`] rows.
    units: Ssa<'a>,
}

impl<'a> Lowering<'_, 'a> {
    /// Whether the product with columns of signed bytes is one of tiles.
    pub(super) fn multiplies_integer_tiles(&self, rhs: Value, extents: Extents) -> bool {
        self.has(Extension::AmxInt8)
            && (2..=STREAMED_ROWS).contains(&extents.rows)
            && extents.inner <= LONGEST
            && matches!(self.bytes_of(rhs), Some((_, Element::I8)))
    }

    /// sums += lhs · rhs, for whole tiles of columns. How many columns these are.
    pub(super) fn multiply_integer_tiles(
        &self,
        product: &Streamed<'_, 'a>,
        stored: Value,
        columns: Ssa<'a>,
        arithmetic: Arithmetic,
    ) -> Ssa<'a> {
        let e = self.emitter;
        let &Streamed { extents, sums, ref keys, .. } = product;
        let digits = self.keep(
            keys.as_ref(),
            || self.room_for_tiles(extents),
            |digits| {
                self.with_scratch(|| self.fill_tiles(digits, &self.left(product, arithmetic), arithmetic, extents))
            },
        );
        let inner = i64::from(extents.inner);
        let (whole, rest) = (inner / STEP, inner % STEP);
        let [products, last] = [2 * TILE_BYTES, TILE_BYTES].map(|bytes| self.reserve(bytes as u64));
        let register = |number: i64| e.integer(Machine::I8, 1, number);
        let load = |tile: i64, pointer: Ssa<'a>, stride: i64| {
            e.intrinsic_effect("llvm.x86.tileloadd64", &[register(tile), pointer, e.index(stride)]);
        };
        let end = e.subtract(columns, e.index(TILE - 1));
        let done = self.each(e.index(0), end, e.index(TILE), &[e.index(0)], |column, _| {
            let start = |column: Ssa<'a>| self.column_pointer(stored, column);
            let pointer = start(column);
            let pitch = e.subtract(
                e.convert("ptrtoint", start(e.add(column, e.index(1))), Machine::I64),
                e.convert("ptrtoint", pointer, Machine::I64),
            );
            let later = start(e.add(column, e.index(columns_ahead(inner).max(TILE))));
            // Registers 0, 1: sums; 2: weights; 3, 4: digits.
            for tile in 0..2 {
                e.intrinsic_effect("llvm.x86.tilezero", &[register(tile)]);
            }
            let multiply = |step: Ssa<'a>| {
                let right = e.offset(digits.pointer, e.multiply(step, e.index(2 * TILE_BYTES)));
                for tile in 0..2 {
                    load(3 + tile, e.offset(right, e.index(tile * TILE_BYTES)), STEP);
                    e.intrinsic_effect("llvm.x86.tdpbssd", &[register(tile), register(2), register(3 + tile)]);
                }
            };
            self.each(e.index(0), e.index(whole), e.index(1), &[], |step, _| {
                // As many bytes later, in the order in which they lie in memory if columns follow one another.
                let following = e.offset(later, e.multiply(step, e.index(TILE_BYTES)));
                for line in 0..TILE {
                    self.prefetch_line(e.offset(following, e.index(line * STEP)));
                }
                let weights = e.offset(pointer, e.multiply(step, e.index(STEP)));
                e.intrinsic_effect("llvm.x86.tileloadd64", &[register(2), weights, pitch]);
                multiply(step);
                vec![]
            });
            if rest > 0 {
                self.each(e.index(0), e.index(TILE), e.index(1), &[], |ahead, _| {
                    let weights = e.offset(start(e.add(column, ahead)), e.index(whole * STEP));
                    let bytes = self.column_bytes(weights, STEP, rest);
                    e.store(bytes, e.offset(last, e.multiply(ahead, e.index(STEP))));
                    vec![]
                });
                load(2, last, STEP);
                multiply(e.index(whole));
            }
            for tile in 0..2 {
                let pointer = e.offset(products, e.index(tile * TILE_BYTES));
                e.intrinsic_effect("llvm.x86.tilestored64", &[register(tile), pointer, e.index(STEP)]);
            }
            self.add_products(products, &digits, sums, column, extents);
            vec![e.add(column, e.index(TILE))]
        });
        done[0]
    }

    /// Adds the products of [`TILE`] columns from `first` on, by digits, to the sums.
    fn add_products(
        &self,
        products: Ssa<'a>,
        digits: &DigitTiles<'a>,
        sums: &Buffer<'a>,
        first: Ssa<'a>,
        extents: Extents,
    ) {
        let e = self.emitter;
        let lanes = self.lanes;
        let halves = |low: f64, high: f64| {
            let values: Vec<f64> = (0..i64::from(lanes)).map(|lane| if lane < ROWS { low } else { high }).collect();
            e.floats(Machine::F32, &values)
        };
        let (lower, third) = (halves(1.0, 256.0), halves(65536.0, 0.0));
        let units = e.load(digits.units, Machine::F32, ROWS as u32);
        self.each(e.index(0), e.index(TILE), e.index(1), &[], |ahead, _| {
            let row = |tile: i64| {
                let place = e.add(e.multiply(ahead, e.index(STEP)), e.index(tile * TILE_BYTES));
                e.convert("sitofp", e.load(e.offset(products, place), Machine::I32, lanes), Machine::F32)
            };
            let sum = e.multiply_add(row(1), third, e.multiply(row(0), lower));
            let [low, high] = [0, ROWS as i32].map(|from| {
                let part: Vec<i32> = (from..from + ROWS as i32).collect();
                e.shuffle(sum, sum, &part)
            });
            let total = e.multiply(e.add(low, high), units);
            for m in 0..extents.rows {
                let pointer = self.buffer_pointer(sums, &[e.index(i64::from(m)), e.add(first, ahead)]);
                e.store(e.add(e.load(pointer, Machine::F32, 1), e.extract(total, m)), pointer);
            }
            vec![]
        });
    }

    fn room_for_tiles(&self, extents: Extents) -> DigitTiles<'a> {
        let bytes = tile_bytes(extents);
        DigitTiles { pointer: self.reserve(bytes as u64), units: self.reserve(ROWS as u64 * 4) }
    }

    /// Writes the rows of a left-hand side of f32 or bf16 in digits.
    fn fill_tiles(&self, digits: &DigitTiles<'a>, left: &Staged<'a>, arithmetic: Arithmetic, extents: Extents) {
        let e = self.emitter;
        let lanes = i64::from(self.lanes);
        let width = arithmetic.element().bytes() as i64;
        let inner = i64::from(extents.inner);
        let bytes = tile_bytes(extents);
        let zero = e.integer(Machine::I8, STEP as u32, 0);
        self.each(e.index(0), e.index(bytes), e.index(STEP), &[], |place, _| {
            e.store(zero, e.offset(digits.pointer, place));
            vec![]
        });
        e.store(e.float(Machine::F32, ROWS as u32, 0.0), digits.units);
        let rounding = e.float(Machine::F32, self.lanes, super::digits::ROUNDING);
        let integer = |value| e.bitcast(value, Machine::I32, self.lanes);
        self.each(e.index(0), e.index(i64::from(extents.rows)), e.index(1), &[], |row, _| {
            let source = e.offset(left.pointer, e.multiply(row, e.index(left.row_bytes)));
            let number = |first: Ssa<'a>| {
                let machine = if arithmetic == Arithmetic::F32 { Machine::F32 } else { Machine::I16 };
                let stored = e.load(e.offset(source, e.multiply(first, e.index(width))), machine, self.lanes);
                self.converter().widen_f32(stored, arithmetic.element())
            };
            let nothing = e.integer(Machine::I32, self.lanes, 0);
            let largest = self.each(e.index(0), e.index(inner), e.index(lanes), &[nothing], |first, largest| {
                vec![self.larger_magnitude(largest[0], number(first))]
            });
            let (unit, inverse) = self.unit_of(largest[0], PRECISION);
            e.store(e.extract(unit, 0), e.offset(digits.units, e.multiply(row, e.index(4))));
            // Four consecutive digits are a word of a tile, which has a row for each four.
            self.each(e.index(0), e.index(inner), e.index(lanes), &[], |first, _| {
                let scaled = e.multiply_add(number(first), inverse, rounding);
                let mut rest = e.subtract(integer(scaled), integer(rounding));
                let step = e.unsigned_divide(first, e.index(STEP));
                let inside = e.subtract(first, e.multiply(step, e.index(STEP)));
                let target = e.offset(digits.pointer, e.multiply(step, e.index(2 * TILE_BYTES)));
                // Sixteen bytes of a row become the words of four of the tile's.
                let target = e.offset(target, e.multiply(inside, e.index(STEP / 4)));
                let target = e.offset(target, e.multiply(row, e.index(4)));
                for digit in 0..3 {
                    let bytes = e.convert("trunc", rest, Machine::I8);
                    let words = e.bitcast(bytes, Machine::I32, self.lanes / 4);
                    let place = match digit {
                        2 => TILE_BYTES,
                        digit => digit * ROWS * 4,
                    };
                    for word in 0..self.lanes / 4 {
                        let place = e.index(place + i64::from(word) * STEP);
                        e.store(e.extract(words, word), e.offset(target, place));
                    }
                    // A digit from 128 on is negative, and adds one to the next.
                    let carried = e.add(rest, e.integer(Machine::I32, self.lanes, 128));
                    rest = e.shift_right_arithmetic(carried, e.integer(Machine::I32, self.lanes, 8));
                }
                vec![]
            });
            vec![]
        });
    }
}

/// Bytes of the tiles of digits of all steps.
const fn tile_bytes(extents: Extents) -> i64 {
    (extents.inner as i64 + STEP - 1) / STEP * 2 * TILE_BYTES
}
