//! Reductions: along the vector dimension with partial results in lanes, along others a vector of results at a time.

use std::cell::Cell;

use smallvec::SmallVec;

use super::{
    conversion::{arithmetic_machine, machine_of},
    emitter::{Comparison, Machine, Ssa},
    evaluate::{Guard, Index},
    lower::Lowering,
    nest::Inside,
};
use crate::tile::{BinaryOperation, Element, Reduction, Value};

impl<'a> Lowering<'_, 'a> {
    /// The element in which a reduction is kept: small floats in f32.
    fn accumulator_element(element: Element) -> Element {
        match element {
            Element::F16 | Element::BF16 | Element::Fp8E4M3 | Element::Fp8E5M2 => Element::F32,
            other => other,
        }
    }

    fn identity(&self, reduction: Reduction, element: Element, lanes: u32) -> Ssa<'a> {
        let e = self.emitter;
        let element = Self::accumulator_element(element);
        if element.is_float() {
            let value = match reduction {
                Reduction::Sum => 0.0,
                Reduction::Maximum => f64::NEG_INFINITY,
                Reduction::Minimum => f64::INFINITY,
            };
            return e.float(arithmetic_machine(element), lanes, value);
        }
        let (least, largest) = element.integer_range().unwrap_or((0, 0));
        let value = match reduction {
            Reduction::Sum => 0,
            Reduction::Maximum => least,
            Reduction::Minimum => largest,
        };
        // As the bit pattern of a signed lane.
        let bits = 8 * element.bytes() as u32;
        let signed = if bits < 64 { value << (64 - bits) >> (64 - bits) } else { value };
        e.integer(machine_of(element), lanes, signed)
    }

    fn combine(&self, reduction: Reduction, a: Ssa<'a>, b: Ssa<'a>, element: Element) -> Ssa<'a> {
        let kind = match reduction {
            Reduction::Sum => BinaryOperation::Add,
            Reduction::Maximum => BinaryOperation::Maximum,
            Reduction::Minimum => BinaryOperation::Minimum,
        };
        self.binary(kind, a, b, Self::accumulator_element(element), false)
    }

    /// Combines the lanes of a vector by halves.
    fn combine_lanes(&self, reduction: Reduction, vector: Ssa<'a>, element: Element) -> Ssa<'a> {
        let mut value = vector;
        while value.lanes > 1 {
            let half = (value.lanes / 2) as i32;
            let (a, b) = if half == 1 {
                (self.emitter.extract(value, 0), self.emitter.extract(value, 1))
            } else {
                let low: Vec<i32> = (0..half).collect();
                let high: Vec<i32> = (half..2 * half).collect();
                (self.emitter.shuffle(value, value, &low), self.emitter.shuffle(value, value, &high))
            };
            value = self.combine(reduction, a, b, element);
        }
        value
    }

    fn widen_accumulator(&self, value: Ssa<'a>, element: Element) -> Ssa<'a> {
        if element.is_float() { self.converter().widen_arithmetic(value, element) } else { value }
    }

    fn narrow_accumulator(&self, value: Ssa<'a>, element: Element) -> Ssa<'a> {
        if element.is_float() { self.converter().narrow_arithmetic(value, element) } else { value }
    }

    /// Reduces a rank-1 tile.
    pub(super) fn reduce_to_scalar(&self, reduction: Reduction, value: Value) -> Ssa<'a> {
        let mut inside = Inside::everywhere(1);
        self.collect_bounds(value, &[0], &mut inside, &mut Vec::new());
        let clear = None;
        self.reduce_lanes(reduction, value, &self.origin(1), 0, &inside, clear)
    }

    /// Reduces along the vector dimension `axis` at fixed other indices.
    fn reduce_lanes(
        &self,
        reduction: Reduction,
        value: Value,
        indices: &[Index<'a>],
        axis: usize,
        inside: &Inside<'a>,
        clear: Option<Ssa<'a>>,
    ) -> Ssa<'a> {
        let e = self.emitter;
        let tile = self.program.type_of(value);
        let element = tile.element;
        let length = tile.shape[axis];
        let lanes = i64::from(self.lanes);
        let at = |index: Index<'a>| {
            let mut indices: SmallVec<[Index<'a>; 3]> = SmallVec::from_slice(indices);
            indices[axis] = index;
            indices
        };
        let whole_vectors = i64::from(length / self.lanes * self.lanes);
        let simple = inside.counts[axis].is_none() && clear.is_none();
        let mut fast_end = e.index(whole_vectors);
        if let Some(count) = inside.counts[axis] {
            fast_end = e.integer_minimum(fast_end, e.and(count, e.index(-lanes)));
        }
        if let Some(clear) = clear {
            fast_end = e.select(clear, fast_end, e.index(0));
        }
        let step = |index: Ssa<'a>, accumulator: Ssa<'a>| {
            let vector = self.evaluate(value, &at(Index::Lanes(index)), Guard::Unchecked);
            let vector = e.splat(self.widen_accumulator(vector, element), self.lanes);
            self.combine(reduction, accumulator, vector, element)
        };
        let start = self.identity(reduction, element, self.lanes);
        // Four accumulators hide the latency of the combination.
        let mut accumulator = start;
        let position = Cell::new(e.index(0));
        if whole_vectors >= 8 * lanes {
            let unrolled_end = e.and(fast_end, e.index(-4 * lanes));
            let results = self.each(e.index(0), unrolled_end, e.index(4 * lanes), &[start; 4], |index, carried| {
                carried
                    .iter()
                    .enumerate()
                    .map(|(copy, &sum)| step(e.add(index, e.index(copy as i64 * lanes)), sum))
                    .collect()
            });
            let low = self.combine(reduction, results[0], results[1], element);
            let high = self.combine(reduction, results[2], results[3], element);
            accumulator = self.combine(reduction, low, high, element);
            position.set(unrolled_end);
        }
        if whole_vectors > 0 {
            accumulator = self.each(position.get(), fast_end, e.index(lanes), &[accumulator], |index, carried| {
                vec![step(index, carried[0])]
            })[0];
        }
        let rest_from = if whole_vectors > 0 { fast_end } else { e.index(0) };
        let total = e.index(i64::from(length));
        if simple && whole_vectors == i64::from(length) {
            return self.narrow_accumulator(self.combine_lanes(reduction, accumulator, element), element);
        }
        if self.has_masks() {
            accumulator = self.each(rest_from, total, e.index(lanes), &[accumulator], |index, carried| {
                let vector = self.evaluate(value, &at(Index::Lanes(index)), Guard::Checked);
                let vector = e.splat(self.widen_accumulator(vector, element), self.lanes);
                let rest = e.resize_signed(e.subtract(total, index), Machine::I32);
                let active = e.compare(Comparison::Less, e.iota(Machine::I32, self.lanes), rest);
                let vector = e.select(active, vector, self.identity(reduction, element, self.lanes));
                vec![self.combine(reduction, carried[0], vector, element)]
            })[0];
            return self.narrow_accumulator(self.combine_lanes(reduction, accumulator, element), element);
        }
        let first = self.combine_lanes(reduction, accumulator, element);
        let last = self.each(rest_from, total, e.index(1), &[first], |index, carried| {
            let scalar = self.evaluate(value, &at(Index::At(index)), Guard::Checked);
            let scalar = self.widen_accumulator(scalar, element);
            vec![self.combine(reduction, carried[0], scalar, element)]
        });
        self.narrow_accumulator(last[0], element)
    }

    /// Reduces along an axis into a buffer.
    pub(super) fn reduce(&self, result: Value, reduction: Reduction, value: Value, axis: usize) {
        let e = self.emitter;
        let tile = self.program.type_of(value);
        let element = tile.element;
        let rank = tile.shape.len();
        let buffer = self.allocate(result);
        let axes: SmallVec<[usize; 3]> = (0..rank).collect();
        let mut inside = Inside::everywhere(rank);
        self.collect_bounds(value, &axes, &mut inside, &mut Vec::new());
        let mut limits = self.limits(result, rank - 1);
        limits.insert(axis, None);
        let drop_axis = |indices: &[Index<'a>]| {
            let mut indices: SmallVec<[Index<'a>; 3]> = SmallVec::from_slice(indices);
            indices.remove(axis);
            indices
        };
        if Self::lane_dimension(&tile.shape).is_none_or(|lane| lane == axis) {
            // Along the rows of memory: a vector of partial results for each, whose lanes combine in the end.
            let mut shape = tile.shape.clone();
            shape[axis] = 1;
            let mut outside = Inside { counts: inside.counts.clone() };
            outside.counts[axis] = None;
            let clear_of = |indices: &[Index<'a>]| {
                let mut clear = None;
                for (dimension, count) in inside.counts.iter().enumerate() {
                    if let (Some(count), true) = (count, dimension != axis) {
                        clear = self.both(clear, e.compare(Comparison::Less, indices[dimension].first(), *count));
                    }
                }
                clear
            };
            self.nest(&shape, &limits, None, &[], false, &outside, &|visit| {
                let clear = clear_of(visit.indices);
                let scalar = self.reduce_lanes(reduction, value, visit.indices, axis, &inside, clear);
                self.write_buffer(&buffer, &drop_axis(visit.indices), scalar);
            });
        } else {
            let lane = Self::lane_dimension(&tile.shape);
            self.nest(&tile.shape, &limits, lane, &[axis], true, &inside, &|visit| {
                let vector = visit.indices.iter().any(|index| matches!(index, Index::Lanes(_)));
                let lanes = if vector { self.lanes } else { 1 };
                let start = self.identity(reduction, element, lanes);
                let upper = e.index(i64::from(tile.shape[axis]));
                let total = self.each(e.index(0), upper, e.index(1), &[start], |index, carried| {
                    let mut indices: SmallVec<[Index<'a>; 3]> = SmallVec::from_slice(visit.indices);
                    indices[axis] = Index::At(index);
                    let next = self.evaluate(value, &indices, visit.guard);
                    let next = e.splat(self.widen_accumulator(next, element), lanes);
                    vec![self.combine(reduction, carried[0], next, element)]
                });
                let total = self.narrow_accumulator(total[0], element);
                self.write_buffer(&buffer, &drop_axis(visit.indices), total);
            });
        }
        self.buffers.borrow_mut().insert(result, buffer);
    }
}
