//! Loop nests over tiles: materialization and stores.
//!
//! The innermost loop runs along one dimension, a vector at a time. It has two versions: the first for whole vectors that lie inside of all tensors,
//! with no masks; the second for what is left, masked where the processor has masks, else one element at a time.

use smallvec::SmallVec;

use super::{
    emitter::{Comparison, Machine, Ssa},
    evaluate::{Guard, Index},
    features::Level,
    lower::{Buffer, Lowering},
    memory::{Address, Place},
};
use crate::tile::{ArgumentIndex, Coordinate, Dimension, Element, Operation, Value};

/// One visit of a nest's innermost loop.
pub(super) struct Visit<'n, 'a> {
    /// One for each dimension of the nest.
    pub(super) indices: &'n [Index<'a>],
    pub(super) guard: Guard,
    /// Lanes that belong to the nest, where not all do.
    pub(super) active: Option<Ssa<'a>>,
}

/// How many indices of each nest dimension lie inside of all tensors.
pub(super) struct Inside<'a> {
    /// None: all of them, always.
    pub(super) counts: SmallVec<[Option<Ssa<'a>>; 3]>,
}

impl<'a> Inside<'a> {
    pub(super) fn everywhere(rank: usize) -> Self {
        Self { counts: SmallVec::from_elem(None, rank) }
    }
}

impl<'a> Lowering<'_, 'a> {
    /// Finds the bounds of all loads that evaluating `value` makes. `axes` maps dimensions of the value to those of the nest.
    pub(super) fn collect_bounds(
        &self,
        value: Value,
        axes: &[usize],
        inside: &mut Inside<'a>,
        seen: &mut Vec<(Value, Vec<usize>)>,
    ) {
        if axes.is_empty() || self.buffers.borrow().contains_key(&value) {
            return;
        }
        let entry = (value, axes.to_vec());
        if seen.contains(&entry) {
            return;
        }
        seen.push(entry);
        let Some(operation) = self.analysis.definition(value) else { return };
        match operation {
            Operation::Load { tensor, coordinates, mask, .. } => {
                self.collect_access(*tensor, coordinates, *mask, axes, inside, seen);
            }
            Operation::Broadcast { value, axes: result_axes } => {
                let picked: SmallVec<[usize; 3]> = result_axes.iter().map(|&axis| axes[usize::from(axis)]).collect();
                self.collect_bounds(*value, &picked, inside, seen);
            }
            Operation::Transpose(value) => self.collect_bounds(*value, &[axes[1], axes[0]], inside, seen),
            Operation::Reduce { .. } | Operation::Dot { .. } => {}
            Operation::Dequantize { elements, scales } => {
                let Some((&last, leading)) = axes.split_last() else { return };
                let columns = self.program.type_of(value).shape[leading.len()];
                for operand in [*elements, *scales] {
                    // Bytes and scales are fewer than the elements that they are of.
                    let mut own = Inside::everywhere(axes.len());
                    let places: SmallVec<[usize; 3]> = (0..axes.len()).collect();
                    self.collect_bounds(operand, &places, &mut own, &mut Vec::new());
                    let share = columns / self.program.type_of(operand).shape[leading.len()];
                    for (place, count) in own.counts.into_iter().enumerate() {
                        let Some(mut count) = count else { continue };
                        let axis = if place == leading.len() { last } else { leading[place] };
                        if place == leading.len() {
                            count = self.emitter.multiply(count, self.emitter.index(i64::from(share)));
                        }
                        let slot = &mut inside.counts[axis];
                        *slot = Some(slot.map_or(count, |known| self.emitter.integer_minimum(known, count)));
                    }
                }
            }
            elementwise => {
                for operand in elementwise.operands() {
                    if !self.program.type_of(operand).is_scalar() {
                        self.collect_bounds(operand, axes, inside, seen);
                    }
                }
            }
        }
    }

    fn collect_access(
        &self,
        tensor: ArgumentIndex,
        coordinates: &[Coordinate],
        mask: Option<Value>,
        axes: &[usize],
        inside: &mut Inside<'a>,
        seen: &mut Vec<(Value, Vec<usize>)>,
    ) {
        let e = self.emitter;
        let extents = &self.analysis.tensor(tensor).extents;
        let mut dimension = 0;
        for (coordinate, &extent) in coordinates.iter().zip(extents) {
            match *coordinate {
                Coordinate::At(_) => {}
                Coordinate::Block { start, length } => {
                    if !self.analysis.always_inside(start, length, extent) {
                        let count = self.count_inside(start, length, extent);
                        let slot = &mut inside.counts[axes[dimension]];
                        *slot = Some(slot.map_or(count, |known| e.integer_minimum(known, count)));
                    }
                    dimension += 1;
                }
                Coordinate::Gather(rows) => {
                    self.collect_bounds(rows, &[axes[dimension]], inside, seen);
                    dimension += 1;
                }
            }
        }
        if let Some(mask) = mask {
            self.collect_bounds(mask, axes, inside, seen);
        }
    }

    /// How many leading indices of each dimension of a value can be evaluated unguarded; none: all.
    pub(super) fn bounds_of(&self, value: Value) -> SmallVec<[Option<Ssa<'a>>; 3]> {
        let rank = self.program.type_of(value).shape.len();
        let axes: SmallVec<[usize; 3]> = (0..rank).collect();
        let mut inside = Inside::everywhere(rank);
        self.collect_bounds(value, &axes, &mut inside, &mut Vec::new());
        inside.counts
    }

    /// Visits a rank-2 tile along its rows, the first `rows` of them, in whole vectors.
    pub(super) fn visit_tile(&self, value: Value, rows: Ssa<'a>, visit: &dyn Fn(Visit<'_, 'a>)) {
        let shape = &self.program.type_of(value).shape;
        let inside = Inside { counts: self.bounds_of(value) };
        self.nest(shape, &[Some(rows), None], Some(1), &[], true, &inside, visit);
    }

    /// Fetches what an expression will load at given indices into the second-level cache: what streams ahead of its use may be more than
    /// the first level holds.
    pub(super) fn prefetch(&self, value: Value, indices: [Index<'a>; 2]) {
        if self.buffers.borrow().contains_key(&value) {
            return;
        }
        let e = self.emitter;
        match self.analysis.definition(value) {
            Some(Operation::Load { tensor, coordinates, .. })
                if coordinates.iter().all(|c| !matches!(c, Coordinate::Gather(_))) =>
            {
                let place = self.place(*tensor, coordinates, None, &indices, Guard::Unchecked);
                if let Address::Contiguous(pointer) = place.address {
                    // Read, second level, data.
                    let immediate = |value| e.integer(Machine::I32, 1, value);
                    e.intrinsic_effect("llvm.prefetch", &[pointer, immediate(0), immediate(2), immediate(1)]);
                }
            }
            Some(Operation::Unary(_, inner) | Operation::Cast(inner)) => self.prefetch(*inner, indices),
            Some(Operation::Dequantize { elements, .. }) => {
                let is_packed = self.program.type_of(*elements).element == Element::U8;
                let column = indices[1].first();
                let column = if is_packed { e.shift_right_logical(column, e.index(1)) } else { column };
                self.prefetch(*elements, [indices[0], Index::At(column)]);
            }
            Some(Operation::Transpose(inner)) => self.prefetch(*inner, [indices[1], indices[0]]),
            Some(Operation::Binary(_, a, _)) => self.prefetch(*a, indices),
            _ => {}
        }
    }

    /// Leading indices of a block that are inside; none of a block that starts before the tensor.
    fn count_inside(&self, start: Value, length: u32, extent: Dimension) -> Ssa<'a> {
        let e = self.emitter;
        let count = self.inside(start, length, extent);
        let negative = e.compare(Comparison::Less, self.scalar_index(start), e.index(0));
        e.select(negative, e.index(0), count)
    }

    /// Visits every index of `shape` up to `limits`. `lane`: the dimension that vectors run along. `whole`: dimensions that a visit runs
    /// through by itself, and that must lie inside entirely for it to be unguarded. `padded`: visits may reach beyond the last index to
    /// the end of a vector.
    #[expect(clippy::too_many_arguments, reason = "one call per kind of nest, all below")]
    pub(super) fn nest(
        &self,
        shape: &[u32],
        limits: &[Option<Ssa<'a>>],
        lane: Option<usize>,
        whole: &[usize],
        padded: bool,
        inside: &Inside<'a>,
        visit: &dyn Fn(Visit<'_, 'a>),
    ) {
        let indices = self.origin(shape.len());
        let outer: Vec<usize> =
            (0..shape.len()).filter(|dimension| Some(*dimension) != lane && !whole.contains(dimension)).collect();
        let mut clear = None;
        for &dimension in whole {
            if let Some(count) = inside.counts[dimension] {
                let all = self.emitter.index(i64::from(shape[dimension]));
                clear = self.both(clear, self.emitter.compare(Comparison::GreaterEqual, count, all));
            }
        }
        let nest = Nest { shape, limits, lane, padded, inside, visit };
        self.nest_outer(&nest, &outer, indices, clear);
    }

    pub(super) fn both(&self, a: Option<Ssa<'a>>, b: Ssa<'a>) -> Option<Ssa<'a>> {
        Some(a.map_or(b, |a| self.emitter.and(a, b)))
    }

    fn nest_outer(
        &self,
        nest: &Nest<'_, 'a>,
        outer: &[usize],
        indices: SmallVec<[Index<'a>; 3]>,
        clear: Option<Ssa<'a>>,
    ) {
        let e = self.emitter;
        let Some((&dimension, rest)) = outer.split_first() else {
            return self.nest_lanes(nest, indices, clear);
        };
        let body = |index: Ssa<'a>| {
            let mut indices = indices.clone();
            indices[dimension] = Index::At(index);
            let clear = match nest.inside.counts[dimension] {
                Some(count) => self.both(clear, e.compare(Comparison::Less, index, count)),
                None => clear,
            };
            self.nest_outer(nest, rest, indices, clear);
        };
        if nest.shape[dimension] == 1 && nest.limits[dimension].is_none() {
            return body(e.index(0));
        }
        let upper = nest.limits[dimension].unwrap_or_else(|| e.index(i64::from(nest.shape[dimension])));
        self.each(e.index(0), upper, e.index(1), &[], |index, _| {
            self.fetch_ahead();
            body(index);
            vec![]
        });
    }

    /// The innermost dimension: whole vectors inside of all tensors, then the rest.
    fn nest_lanes(&self, nest: &Nest<'_, 'a>, indices: SmallVec<[Index<'a>; 3]>, clear: Option<Ssa<'a>>) {
        let e = self.emitter;
        let visit = |index: Option<Index<'a>>, guard: Guard, active: Option<Ssa<'a>>| {
            let mut indices = indices.clone();
            if let (Some(lane), Some(index)) = (nest.lane, index) {
                indices[lane] = index;
            }
            (nest.visit)(Visit { indices: &indices, guard, active });
        };
        let Some(lane) = nest.lane else {
            return visit(None, Guard::Checked, None);
        };
        let length = nest.shape[lane];
        let lanes = i64::from(self.lanes);
        let limit = nest.limits[lane];
        let count = nest.inside.counts[lane];
        let total = limit.unwrap_or_else(|| e.index(i64::from(length)));
        let floor = |value| e.and(value, e.index(-lanes));
        let whole_vectors = length / self.lanes * self.lanes;
        let simple = limit.is_none() && count.is_none() && clear.is_none();
        let fast_end = if simple {
            e.index(i64::from(whole_vectors))
        } else {
            let mut end = floor(total);
            if let Some(count) = count {
                end = e.integer_minimum(end, floor(count));
            }
            match clear {
                Some(clear) => e.select(clear, end, e.index(0)),
                None => end,
            }
        };
        if whole_vectors > 0 {
            let step = e.index(lanes);
            if simple && whole_vectors == self.lanes {
                visit(Some(Index::Lanes(e.index(0))), Guard::Unchecked, None);
            } else {
                self.each(e.index(0), fast_end, step, &[], |index, _| {
                    visit(Some(Index::Lanes(index)), Guard::Unchecked, None);
                    vec![]
                });
            }
        }
        if simple && whole_vectors == length {
            return;
        }
        let fast_end = if whole_vectors > 0 { fast_end } else { e.index(0) };
        if self.has_masks() {
            self.each(fast_end, total, e.index(lanes), &[], |index, _| {
                let active = (!nest.padded).then(|| {
                    let rest = e.integer_minimum(e.subtract(total, index), e.index(lanes));
                    e.compare(Comparison::Less, e.iota(Machine::I32, self.lanes), e.resize_signed(rest, Machine::I32))
                });
                visit(Some(Index::Lanes(index)), Guard::Checked, active);
                vec![]
            });
        } else {
            self.each(fast_end, total, e.index(1), &[], |index, _| {
                visit(Some(Index::At(index)), Guard::Checked, None);
                vec![]
            });
        }
    }

    pub(super) fn limits(&self, value: Value, rank: usize) -> SmallVec<[Option<Ssa<'a>>; 3]> {
        (0..rank).map(|dimension| self.wanted(value, dimension)).collect()
    }

    // Materialization.

    /// Computes a tile into a buffer of its own.
    pub(super) fn materialize(&self, value: Value) -> Buffer<'a> {
        let buffer = self.allocate(value);
        let definition = self.analysis.definition(value);
        let tile = self.program.type_of(value);
        let axes: SmallVec<[usize; 3]> = (0..tile.shape.len()).collect();
        let mut inside = Inside::everywhere(tile.shape.len());
        self.collect_bounds(value, &axes, &mut inside, &mut Vec::new());
        let limits = self.limits(value, tile.shape.len());
        let lane = Self::lane_dimension(&tile.shape);
        self.nest(&tile.shape, &limits, lane, &[], true, &inside, &|visit| {
            let element = match definition {
                Some(operation) => self.compute(value, operation, visit.indices, visit.guard),
                None => self.evaluate(value, visit.indices, visit.guard),
            };
            self.write_buffer(&buffer, visit.indices, element);
        });
        self.buffers.borrow_mut().insert(value, buffer.clone());
        buffer
    }

    /// Copies a tile, in memory or not, into a buffer.
    pub(super) fn copy_tile(&self, value: Value, buffer: &Buffer<'a>) {
        let tile = self.program.type_of(value);
        let axes: SmallVec<[usize; 3]> = (0..tile.shape.len()).collect();
        let mut inside = Inside::everywhere(tile.shape.len());
        self.collect_bounds(value, &axes, &mut inside, &mut Vec::new());
        let limits = self.limits(value, tile.shape.len());
        let lane = Self::lane_dimension(&tile.shape);
        self.nest(&tile.shape, &limits, lane, &[], true, &inside, &|visit| {
            let element = self.evaluate(value, visit.indices, visit.guard);
            self.write_buffer(buffer, visit.indices, element);
        });
    }

    /// Writes an element or a vector; a scalar value is repeated where the indices are a vector.
    pub(super) fn write_buffer(&self, buffer: &Buffer<'a>, indices: &[Index<'a>], value: Ssa<'a>) {
        let firsts: SmallVec<[Ssa<'a>; 3]> = indices.iter().map(|index| index.first()).collect();
        let pointer = self.buffer_pointer(buffer, &firsts);
        let vector = indices.iter().any(|index| matches!(index, Index::Lanes(_)));
        let value = self.emitter.splat(value, if vector { self.lanes } else { 1 });
        self.emitter.store(self.in_memory(value, buffer.element), pointer);
    }

    // Stores.

    /// Writes a tile to a tensor.
    pub(super) fn store(&self, tensor: ArgumentIndex, coordinates: &[Coordinate], mask: Option<Value>, value: Value) {
        let tile = self.program.type_of(value);
        let rank = tile.shape.len();
        let argument = self.analysis.tensor(tensor);
        let axes: SmallVec<[usize; 3]> = (0..rank).collect();
        let mut inside = Inside::everywhere(rank);
        let mut limits: SmallVec<[Option<Ssa<'a>>; 3]> = SmallVec::from_elem(None, rank);
        let mut seen = Vec::new();
        let mut dimension = 0;
        let mut lane = Self::lane_dimension(&tile.shape);
        let mut before_first = None;
        for (position, (coordinate, &extent)) in coordinates.iter().zip(&argument.extents).enumerate() {
            match *coordinate {
                Coordinate::At(_) => continue,
                Coordinate::Block { start, length } => {
                    if !self.analysis.always_inside(start, length, extent) {
                        limits[dimension] = Some(self.inside(start, length, extent));
                        let negative =
                            self.emitter.compare(Comparison::Less, self.scalar_index(start), self.emitter.index(0));
                        before_first = Some(before_first.map_or(negative, |known| self.emitter.or(known, negative)));
                    }
                    // Vectors run along what is consecutive in memory.
                    if argument.strides[position] == Dimension::Constant(1) && length > 1 {
                        lane = Some(dimension);
                    }
                }
                Coordinate::Gather(rows) => self.collect_bounds(rows, &[dimension], &mut inside, &mut seen),
            }
            dimension += 1;
        }
        // A block that starts before the tensor is rare: all of it then takes the guarded path.
        if let Some(negative) = before_first {
            let count = self.emitter.select(negative, self.emitter.index(0), self.emitter.index(i64::from(u32::MAX)));
            for slot in &mut inside.counts {
                *slot = Some(slot.map_or(count, |known| self.emitter.integer_minimum(known, count)));
            }
        }
        if let Some(mask) = mask {
            self.collect_bounds(mask, &axes, &mut inside, &mut seen);
        }
        self.collect_bounds(value, &axes, &mut inside, &mut seen);
        // Without masked stores, a condition that differs by lane is met one element at a time.
        let by_lane = mask.is_some()
            || lane.is_some_and(|lane| {
                let tile_coordinates = coordinates.iter().filter(|c| !matches!(c, Coordinate::At(_)));
                tile_coordinates.clone().nth(lane).is_some_and(|c| matches!(c, Coordinate::Gather(_)))
            });
        let visit = |visit: Visit<'_, 'a>| {
            let place = self.place(tensor, coordinates, mask, visit.indices, visit.guard);
            let element = self.evaluate(value, visit.indices, visit.guard);
            self.store_at(place, visit.active, self.in_memory(element, argument.element));
        };
        if by_lane && !self.has_masks() {
            for (limit, &extent) in limits.iter_mut().zip(&tile.shape) {
                limit.get_or_insert_with(|| self.emitter.index(i64::from(extent)));
            }
            self.nest_scalar(&limits, &visit);
        } else {
            self.nest(&tile.shape, &limits, lane, &[], false, &inside, &visit);
        }
    }

    /// Visits every index by itself.
    fn nest_scalar(&self, limits: &[Option<Ssa<'a>>], visit: &dyn Fn(Visit<'_, 'a>)) {
        self.scalar_loops(limits, &mut SmallVec::new(), visit);
    }

    fn scalar_loops(
        &self,
        limits: &[Option<Ssa<'a>>],
        indices: &mut SmallVec<[Index<'a>; 3]>,
        visit: &dyn Fn(Visit<'_, 'a>),
    ) {
        let Some((limit, rest)) = limits.split_first() else {
            return visit(Visit { indices, guard: Guard::Checked, active: None });
        };
        let upper = limit.unwrap_or_else(|| self.emitter.index(1));
        self.each(self.emitter.index(0), upper, self.emitter.index(1), &[], |index, _| {
            indices.push(Index::At(index));
            self.scalar_loops(rest, indices, visit);
            indices.pop();
            vec![]
        });
    }

    fn store_at(&self, place: Place<'a>, active: Option<Ssa<'a>>, value: Ssa<'a>) {
        let e = self.emitter;
        let condition = match (place.condition, active) {
            (Some(a), Some(b)) => Some(e.and(a, b)),
            (a, b) => a.or(b),
        };
        match place.address {
            Address::Contiguous(pointer) => {
                let lanes = place.lanes;
                let value = e.splat(value, lanes.max(value.lanes));
                match condition {
                    None => e.store(value, pointer),
                    Some(condition) if condition.lanes == 1 => e.when(condition, || e.store(value, pointer)),
                    Some(condition) => {
                        // LLVM 22 makes one store of a masked store of narrowed lanes, and where the mask turns out to be one lane
                        // alone it forgets the narrowing and writes 32 bits. So it must not see both.
                        let is_narrow = value.machine.bytes() < 4 && self.features.level() >= Level::V4;
                        let value = if is_narrow { e.opaque(value) } else { value };
                        e.masked_store(value, pointer, condition);
                    }
                }
            }
            Address::Scattered(pointers) => {
                let mask = condition.unwrap_or_else(|| e.integer(Machine::I1, 1, 1));
                let mask = e.splat(mask, pointers.lanes);
                e.scatter(e.splat(value, pointers.lanes), pointers, mask);
            }
        }
    }
}

/// What stays the same in all loops of a nest.
struct Nest<'n, 'a> {
    shape: &'n [u32],
    limits: &'n [Option<Ssa<'a>>],
    lane: Option<usize>,
    padded: bool,
    inside: &'n Inside<'a>,
    visit: &'n dyn Fn(Visit<'_, 'a>),
}
