//! Block-scaled elements as numbers.

use smallvec::SmallVec;

use super::{
    emitter::{Comparison, Machine, Ssa},
    evaluate::{Guard, Index},
    features::Level,
    lower::Lowering,
    memory::Address,
};
use crate::tile::{Coordinate, Element, Operation, Value};

/// Magnitudes of E2M1, by the lower three bits; the fourth is the sign.
const MAGNITUDES: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// The operands of a `dequantize` and what its blocks are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    pub(super) elements: Value,
    pub(super) scales: Value,
    /// Extent of the result's last dimension.
    pub(super) columns: u32,
    /// Elements that share a scale.
    pub(super) block: u32,
    /// Whether two elements share a byte.
    pub(super) is_packed: bool,
    /// Element of the scales.
    pub(super) scale: Element,
    /// Element of the result.
    result: Element,
}

impl<'a> Lowering<'_, 'a> {
    /// What defines a value, if that is a `dequantize`.
    pub(super) fn blocks_of(&self, value: Value) -> Option<Blocks> {
        let Some(&Operation::Dequantize { elements, scales }) = self.analysis.definition(value) else { return None };
        let [result, stored, factors] = [value, elements, scales].map(|value| self.program.type_of(value));
        let columns = *result.shape.last()?;
        Some(Blocks {
            elements,
            scales,
            columns,
            block: columns / factors.shape.last()?,
            is_packed: stored.element == Element::U8,
            scale: factors.element,
            result: result.element,
        })
    }

    /// The elements of a `dequantize` at the indices.
    pub(super) fn dequantize(&self, blocks: &Blocks, indices: &[Index<'a>], guard: Guard) -> Ssa<'a> {
        let e = self.emitter;
        let (leading, k) = match indices {
            [leading @ .., Index::At(k)] => return self.dequantize_at(blocks, leading, *k, guard),
            [leading @ .., Index::Lanes(k)] => (leading, *k),
            [] => unreachable!("verified: blocks lie along a dimension"),
        };
        if blocks.block.is_multiple_of(self.lanes)
            && let Some(numbers) = self.run_of_elements(blocks, leading, k, guard)
        {
            let scale = self.scale_of(blocks, leading, k, guard);
            return self.scaled_numbers(blocks, numbers, scale);
        }
        // One by one; lanes beyond the last element repeat it.
        let last = e.index(i64::from(blocks.columns) - 1);
        let mut vector: Option<Ssa<'a>> = None;
        for lane in 0..self.lanes {
            let at = e.integer_minimum(e.add(k, e.index(i64::from(lane))), last);
            let number = self.dequantize_at(blocks, leading, at, guard);
            let whole = vector.unwrap_or_else(|| e.poison(number.machine, self.lanes));
            vector = Some(e.insert(whole, lane, number));
        }
        vector.unwrap_or_else(|| unreachable!("vectors have lanes"))
    }

    /// One column; a vector where an index before it is one.
    fn dequantize_at(&self, blocks: &Blocks, leading: &[Index<'a>], k: Ssa<'a>, guard: Guard) -> Ssa<'a> {
        let e = self.emitter;
        let stored = self.program.type_of(blocks.elements).element;
        let number = if blocks.is_packed {
            let byte = self.evaluate(blocks.elements, &with(leading, e.shift_right_logical(k, e.index(1))), guard);
            let byte = e.convert("zext", byte, Machine::I32);
            let shift = e.shift_left(e.and(k, e.index(1)), e.index(2));
            let bits = e.shift_right_logical(byte, e.resize_signed(shift, Machine::I32));
            self.e2m1(e.and(bits, e.integer(Machine::I32, byte.lanes, 15)))
        } else {
            let element = self.evaluate(blocks.elements, &with(leading, k), guard);
            self.converter().cast(element, stored, Element::F32)
        };
        let scale = self.scale_of(blocks, leading, k, guard);
        self.scaled_numbers(blocks, number, scale)
    }

    /// A vector of elements from `k`, a multiple of the lanes, as f32 without their scale, if they can be read at once.
    fn run_of_elements(&self, blocks: &Blocks, leading: &[Index<'a>], k: Ssa<'a>, guard: Guard) -> Option<Ssa<'a>> {
        let e = self.emitter;
        let stored = self.program.type_of(blocks.elements).element;
        if !blocks.is_packed {
            let elements = self.evaluate(blocks.elements, &with_lanes(leading, k), guard);
            return Some(self.converter().cast(e.splat(elements, self.lanes), stored, Element::F32));
        }
        let bytes =
            self.run_of_bytes(blocks.elements, leading, e.shift_right_logical(k, e.index(1)), self.lanes / 2, guard)?;
        let twice: Vec<i32> = (0..self.lanes as i32).map(|lane| lane / 2).collect();
        let words = e.convert("zext", e.shuffle(bytes, bytes, &twice), Machine::I32);
        let shifts: Vec<i64> = (0..self.lanes).map(|lane| i64::from(lane % 2 * 4)).collect();
        let bits = e.shift_right_logical(words, e.integers(Machine::I32, &shifts));
        Some(self.e2m1(e.and(bits, e.integer(Machine::I32, self.lanes, 15))))
    }

    /// `count` bytes of a tile of bytes from the column `first` on, if they are consecutive in memory and all can be read or none.
    pub(super) fn run_of_bytes(
        &self,
        value: Value,
        leading: &[Index<'a>],
        first: Ssa<'a>,
        count: u32,
        guard: Guard,
    ) -> Option<Ssa<'a>> {
        let Operation::Load { tensor, coordinates, mask: None, other } = self.analysis.definition(value)? else {
            return None;
        };
        if self.buffers.borrow().contains_key(&value) {
            return None;
        }
        let (Some(&Coordinate::Block { start, length }), Some(&extent)) =
            (coordinates.last(), self.analysis.tensor(*tensor).extents.last())
        else {
            return None;
        };
        let inside = self.analysis.always_inside(start, length, extent) && length.is_multiple_of(count);
        if guard == Guard::Checked && !inside {
            return None;
        }
        let place = self.place(*tensor, coordinates, None, &with(leading, first), guard);
        let Address::Contiguous(pointer) = place.address else { return None };
        Some(match place.condition {
            None => self.emitter.load(pointer, Machine::I8, count),
            Some(condition) => {
                let other = self.literal(*other, Element::U8, count);
                self.load_if(pointer, Machine::I8, count, condition, other)
            }
        })
    }

    /// The scale of the block that holds column `k`, as f32.
    fn scale_of(&self, blocks: &Blocks, leading: &[Index<'a>], k: Ssa<'a>, guard: Guard) -> Ssa<'a> {
        let e = self.emitter;
        let place = e.unsigned_divide(k, e.index(i64::from(blocks.block)));
        let scale = self.evaluate(blocks.scales, &with(leading, place), guard);
        match blocks.scale {
            Element::U8 => self.e8m0(scale),
            element => self.converter().cast(scale, element, Element::F32),
        }
    }

    /// Elements times their scale, in the element of the result.
    fn scaled_numbers(&self, blocks: &Blocks, numbers: Ssa<'a>, scale: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let numbers = e.multiply(numbers, scale);
        if blocks.result == Element::BF16 && blocks.is_packed && blocks.scale == Element::U8 {
            // Two bits of significand: nothing is rounded.
            let bits = e.bitcast(numbers, Machine::I32, numbers.lanes);
            let upper = e.shift_right_logical(bits, e.integer(Machine::I32, bits.lanes, 16));
            return e.convert("trunc", upper, Machine::I16);
        }
        self.converter().cast(numbers, Element::F32, blocks.result)
    }

    /// Scales 2^(b − 127) of bytes; 255 is NaN.
    pub(super) fn e8m0(&self, bytes: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        self.e8m0_of_word(e.convert("zext", bytes, Machine::I32))
    }

    /// As [`Self::e8m0`], of bytes in I32 lanes.
    pub(super) fn e8m0_of_word(&self, wide: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let number = |value: i64| e.integer(Machine::I32, wide.lanes, value);
        let exponent = e.shift_left(wide, number(23));
        // 2^(−127) is a denormal, and NaN wants a bit: the same one.
        let special =
            e.or(e.compare(Comparison::Equal, wide, number(0)), e.compare(Comparison::Equal, wide, number(255)));
        let bits = e.or(exponent, e.select(special, number(1 << 22), number(0)));
        e.bitcast(bits, Machine::F32, wide.lanes)
    }

    /// E2M1 of four bits in I32 lanes, as f32. With 16 lanes of AVX-512 other bits are not heeded.
    pub(super) fn e2m1(&self, bits: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let number = |value: i64| e.integer(Machine::I32, bits.lanes, value);
        if bits.lanes == 16 && self.features.level() >= Level::V4 {
            let table: Vec<f64> = MAGNITUDES.iter().copied().chain(MAGNITUDES.map(|x| -x)).collect();
            let table = e.floats(Machine::F32, &table);
            return e.intrinsic("llvm.x86.avx512.permvar.sf.512", &[table, bits], (Machine::F32, 16));
        }
        let magnitude = if bits.lanes == 8 && self.features.level() >= Level::V3 {
            // Looks at three bits of each index.
            let table = e.floats(Machine::F32, &MAGNITUDES);
            e.intrinsic("llvm.x86.avx2.permps", &[table, bits], (Machine::F32, 8))
        } else {
            // As binary16 with the exponent 14 too small: its denormals convert without the penalty that f32's have.
            let half = e.shift_left(e.and(bits, number(7)), number(9));
            let half = e.convert("trunc", half, Machine::I16);
            let small = self.converter().widen_f32(half, Element::F16);
            e.multiply(small, e.float(Machine::F32, bits.lanes, 16384.0))
        };
        let sign = e.shift_left(e.and(bits, number(8)), number(28));
        e.bitcast(e.or(e.bitcast(magnitude, Machine::I32, bits.lanes), sign), Machine::F32, bits.lanes)
    }
}

/// Indices with one column.
fn with<'a>(leading: &[Index<'a>], column: Ssa<'a>) -> SmallVec<[Index<'a>; 3]> {
    leading.iter().copied().chain([Index::At(column)]).collect()
}

/// Indices with a vector of columns.
fn with_lanes<'a>(leading: &[Index<'a>], first: Ssa<'a>) -> SmallVec<[Index<'a>; 3]> {
    leading.iter().copied().chain([Index::Lanes(first)]).collect()
}
