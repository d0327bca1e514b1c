//! Accesses: addresses, bounds and masks of tensors, and tiles in the scratch.

use smallvec::SmallVec;

use super::{
    conversion::{machine_of, memory_machine_of},
    emitter::{Comparison, Machine, Ssa},
    evaluate::{Guard, Index},
    features::Level,
    lower::{Buffer, Lowering},
};
use crate::tile::{ArgumentIndex, Coordinate, Dimension, Element, Literal, Value};

/// Where the elements of an access lie.
pub(super) enum Address<'a> {
    /// One element, or consecutive ones.
    Contiguous(Ssa<'a>),
    /// A pointer for each lane.
    Scattered(Ssa<'a>),
}

/// An access at given indices.
pub(super) struct Place<'a> {
    pub(super) address: Address<'a>,
    /// Whether it is done at all; for every lane if a vector. None: always.
    pub(super) condition: Option<Ssa<'a>>,
    /// Lanes of the access.
    pub(super) lanes: u32,
}

impl<'a> Lowering<'_, 'a> {
    /// Address and condition of a tensor access.
    pub(super) fn place(
        &self,
        tensor: ArgumentIndex,
        coordinates: &[Coordinate],
        mask: Option<Value>,
        indices: &[Index<'a>],
        guard: Guard,
    ) -> Place<'a> {
        let e = self.emitter;
        let argument = self.analysis.tensor(tensor);
        let width = argument.element.bytes() as i64;
        let mut offset = e.index(0);
        let mut lane_offset: Option<Ssa<'a>> = None;
        let mut conditions: SmallVec<[Ssa<'a>; 4]> = SmallVec::new();
        let mut remaining = indices.iter();
        let mut lanes = 1;
        for (dimension, coordinate) in coordinates.iter().enumerate() {
            let extent = argument.extents[dimension];
            let stride = argument.strides[dimension];
            let extent32 = || e.resize_signed(self.dimension(extent), Machine::I32);
            match *coordinate {
                Coordinate::At(index) => {
                    let at = self.scalar_index(index);
                    offset = e.add(offset, self.scaled(at, stride));
                    // No part of the tile is inside if this is not, so that no guard has looked at it.
                    if !self.analysis.always_at(index, extent) {
                        conditions.push(e.compare(Comparison::Below, at, self.dimension(extent)));
                    }
                }
                Coordinate::Block { start, length } => {
                    let index = *remaining.next().expect("verified: an index for each dimension of the tile");
                    let first = e.add(self.scalar_index(start), index.first());
                    offset = e.add(offset, self.scaled(first, stride));
                    let inside = self.analysis.always_inside(start, length, extent);
                    match index {
                        Index::At(_) if guard == Guard::Checked && !inside => {
                            conditions.push(e.compare(Comparison::Below, first, self.dimension(extent)));
                        }
                        Index::At(_) => {}
                        Index::Lanes(_) => {
                            lanes = self.lanes;
                            // The last vector of a tile may reach beyond it.
                            let whole = inside && length.is_multiple_of(self.lanes);
                            if guard == Guard::Checked && !whole {
                                let lane =
                                    e.add(e.resize_signed(first, Machine::I32), e.iota(Machine::I32, self.lanes));
                                conditions.push(e.compare(Comparison::Below, lane, extent32()));
                            }
                            if stride != Dimension::Constant(1) {
                                lane_offset = Some(self.scaled(e.iota(Machine::I64, self.lanes), stride));
                            }
                        }
                    }
                }
                Coordinate::Gather(rows) => {
                    let index = *remaining.next().expect("verified: an index for each dimension of the tile");
                    let row = self.evaluate(rows, &[index], guard);
                    conditions.push(e.compare(Comparison::Below, row, extent32()));
                    let scaled = self.scaled(e.convert("sext", row, Machine::I64), stride);
                    if matches!(index, Index::Lanes(_)) {
                        lanes = self.lanes;
                        lane_offset = Some(e.splat(scaled, self.lanes));
                    } else {
                        offset = e.add(offset, scaled);
                    }
                }
            }
        }
        if let Some(mask) = mask {
            conditions.push(self.evaluate(mask, indices, guard));
        }
        let pointer = e.offset(self.arguments[tensor.0 as usize], e.multiply(offset, e.index(width)));
        let address = match lane_offset {
            None => Address::Contiguous(pointer),
            Some(lane_offset) => {
                let bytes = e.multiply(lane_offset, e.integer(Machine::I64, self.lanes, width));
                Address::Scattered(e.offset(pointer, bytes))
            }
        };
        let condition = conditions.into_iter().reduce(|a, b| e.and(a, b));
        Place { address, condition, lanes }
    }

    fn scaled(&self, index: Ssa<'a>, stride: Dimension) -> Ssa<'a> {
        match stride {
            Dimension::Constant(1) => index,
            _ => self.emitter.multiply(index, self.dimension(stride)),
        }
    }

    /// Elements of a tensor; `other` where the access is masked off.
    pub(super) fn load(
        &self,
        tensor: ArgumentIndex,
        coordinates: &[Coordinate],
        mask: Option<Value>,
        other: Literal,
        indices: &[Index<'a>],
        guard: Guard,
    ) -> Ssa<'a> {
        let element = self.analysis.tensor(tensor).element;
        let place = self.place(tensor, coordinates, mask, indices, guard);
        let memory = memory_machine_of(element);
        let lanes = place.lanes.max(place.condition.map_or(1, |condition| condition.lanes));
        let value = match (place.address, place.condition) {
            (Address::Contiguous(pointer), None) => self.emitter.load(pointer, memory, place.lanes),
            (Address::Contiguous(pointer), Some(condition)) => {
                let other = self.memory_literal(other, element, lanes.max(place.lanes));
                self.load_if(pointer, memory, place.lanes, condition, other)
            }
            (Address::Scattered(pointers), condition) => {
                let other = self.memory_literal(other, element, lanes);
                self.gather(pointers, condition, other)
            }
        };
        self.in_register(value, element)
    }

    fn memory_literal(&self, literal: Literal, element: Element, lanes: u32) -> Ssa<'a> {
        let value = self.emitter.splat(self.literal(literal, element, 1), lanes);
        self.in_memory(value, element)
    }

    /// A contiguous load under a condition for the whole (scalar) or for each lane (vector).
    pub(super) fn load_if(
        &self,
        pointer: Ssa<'a>,
        memory: Machine,
        lanes: u32,
        condition: Ssa<'a>,
        other: Ssa<'a>,
    ) -> Ssa<'a> {
        let e = self.emitter;
        if condition.lanes == 1 {
            // Where it is masked off, it reads the start of the scratch instead, and drops what it read.
            let safe = e.select(condition, pointer, self.scratch);
            let loaded = e.load(safe, memory, lanes);
            return e.select(condition, loaded, other);
        }
        if lanes == 1 {
            // One element under a mask that differs by lane.
            let pointers = e.splat(pointer, condition.lanes);
            return self.gather(pointers, Some(condition), other);
        }
        e.masked_load(pointer, condition, other)
    }

    fn gather(&self, pointers: Ssa<'a>, condition: Option<Ssa<'a>>, other: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let condition = condition.map(|condition| e.splat(condition, pointers.lanes));
        if self.features.level() >= Level::V4 && other.machine.bytes() >= 4 {
            let mask = condition.unwrap_or_else(|| e.integer(Machine::I1, pointers.lanes, 1));
            return e.gather(pointers, mask, other);
        }
        let safe = match condition {
            Some(condition) => e.select(condition, pointers, e.splat(self.scratch, pointers.lanes)),
            None => pointers,
        };
        let mut vector = e.poison(other.machine, pointers.lanes);
        for lane in 0..pointers.lanes {
            let element = e.load(e.extract(safe, lane), other.machine, 1);
            vector = e.insert(vector, lane, element);
        }
        match condition {
            Some(condition) => e.select(condition, vector, other),
            None => vector,
        }
    }

    /// From the lane in memory to the lane in registers: truth values are bytes in memory.
    pub(super) fn in_register(&self, value: Ssa<'a>, element: Element) -> Ssa<'a> {
        let e = self.emitter;
        if memory_machine_of(element) == machine_of(element) {
            return value;
        }
        e.compare(Comparison::NotEqual, value, e.integer(value.machine, value.lanes, 0))
    }

    pub(super) fn in_memory(&self, value: Ssa<'a>, element: Element) -> Ssa<'a> {
        if memory_machine_of(element) == machine_of(element) {
            return value;
        }
        self.emitter.convert("zext", value, memory_machine_of(element))
    }

    /// Address of an element of a buffer.
    pub(super) fn buffer_pointer(&self, buffer: &Buffer<'a>, indices: &[Ssa<'a>]) -> Ssa<'a> {
        let e = self.emitter;
        let mut offset = e.index(0);
        for (&index, &stride) in indices.iter().zip(&buffer.strides) {
            let bytes = i64::from(stride) * buffer.element.bytes() as i64;
            offset = e.add(offset, e.multiply(index, e.index(bytes)));
        }
        e.offset(buffer.pointer, offset)
    }

    pub(super) fn read_buffer(&self, buffer: &Buffer<'a>, indices: &[Index<'a>]) -> Ssa<'a> {
        let e = self.emitter;
        let firsts: SmallVec<[Ssa<'a>; 3]> = indices.iter().map(|index| index.first()).collect();
        let pointer = self.buffer_pointer(buffer, &firsts);
        let memory = memory_machine_of(buffer.element);
        let lane = indices.iter().position(|index| matches!(index, Index::Lanes(_)));
        let value = match lane {
            None => e.load(pointer, memory, 1),
            Some(dimension) if buffer.strides[dimension] == 1 => e.load(pointer, memory, self.lanes),
            Some(dimension) => {
                let bytes = i64::from(buffer.strides[dimension]) * buffer.element.bytes() as i64;
                // The last vector of a tile may reach beyond it: those lanes repeat the last element.
                let last = e.subtract(e.index(i64::from(buffer.shape[dimension]) - 1), firsts[dimension]);
                let lane = e.integer_minimum(e.iota(Machine::I64, self.lanes), last);
                let offsets = e.multiply(lane, e.integer(Machine::I64, self.lanes, bytes));
                self.gather_rows(e.offset(pointer, offsets), memory)
            }
        };
        self.in_register(value, buffer.element)
    }

    fn gather_rows(&self, pointers: Ssa<'a>, memory: Machine) -> Ssa<'a> {
        let other = self.emitter.number(memory, pointers.lanes, 0.0);
        self.gather(pointers, None, other)
    }
}
