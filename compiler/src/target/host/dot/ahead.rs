//! Rows that are gathered from memory, as the pages of a cache are: they lie too far from one another for a processor to foresee them.
//!
//! In a loop they are fetched one round ahead, a few lines at a time between all else that a round does: a core waits for few lines at once,
//! and does nothing more while it asks for many.

use super::super::{
    emitter::{Comparison, Machine, Ssa},
    evaluate::{Guard, Index},
    lower::{Buffer, Lowering},
    memory::Address,
    nest::Inside,
};
use crate::tile::{ArgumentIndex, Block, Coordinate, Dimension, Operation, Value};

/// Bytes that come from memory at a time.
pub(super) const LINE: usize = 64;

/// What the next round of a loop gathers.
#[derive(Clone)]
pub(in super::super) struct Ahead<'a> {
    /// Right-hand sides of products that gather by the same indices.
    products: Vec<Value>,
    /// The indices.
    rows: Value,
    /// Those of the next round.
    next: Buffer<'a>,
    /// Where the number of those that are fetched is kept.
    fetched: Ssa<'a>,
    /// Whether this is the first round, whose rows nobody has fetched.
    is_first: Ssa<'a>,
}

impl<'a> Lowering<'_, 'a> {
    /// Runs `round`, a round of a loop, and meanwhile fetches what its products will gather in the next.
    pub(in super::super) fn looking_ahead(
        &self,
        body: &Block,
        index: Ssa<'a>,
        lower: Value,
        step: u32,
        round: impl FnOnce(),
    ) {
        let found = self.find_ahead(body, index, lower, step);
        let outer = self.ahead.replace(found);
        round();
        self.ahead.replace(outer);
    }

    fn find_ahead(&self, body: &Block, index: Ssa<'a>, lower: Value, step: u32) -> Option<Ahead<'a>> {
        let e = self.emitter;
        let mut gathers = body.instructions.iter().filter_map(|instruction| match instruction.operation {
            Operation::Dot { lhs, rhs, .. } if self.extents(lhs, rhs).is_streamed() => {
                self.gathered(rhs).map(|(_, _, rows)| (rhs, rows))
            }
            _ => None,
        });
        let (first, rows) = gathers.next()?;
        if !self.is_inside(rows, body) || !self.follows(rows, body) {
            return None;
        }
        let others = gathers.filter(|&(_, other)| other == rows).map(|(rhs, _)| rhs);
        let products = std::iter::once(first).chain(others).collect();
        let induction = *body.parameters.first()?;
        let following = e.resize_signed(e.add(index, e.index(i64::from(step))), Machine::I32);
        let current = self.scalars.borrow_mut().insert(induction, following)?;
        let next = self.memo.scope(|| self.indices(rows));
        self.scalars.borrow_mut().insert(induction, current);
        let fetched = self.reserve(8);
        e.store(e.index(0), fetched);
        let is_first = e.compare(Comparison::Equal, index, self.scalar_index(lower));
        Some(Ahead { products, rows, next, fetched, is_first })
    }

    /// Asks for one more row of each product of the next round.
    pub(in super::super) fn fetch_ahead(&self) {
        let e = self.emitter;
        let Some(ahead) = self.ahead.borrow().clone() else { return };
        let number = e.load(ahead.fetched, Machine::I64, 1);
        let last = i64::from(self.program.type_of(ahead.rows).shape[0]) - 1;
        e.store(e.integer_minimum(e.add(number, e.index(1)), e.index(last)), ahead.fetched);
        let current = self.buffers.borrow_mut().insert(ahead.rows, ahead.next);
        self.memo.scope(|| {
            for rhs in ahead.products {
                self.fetch_row(rhs, number);
            }
        });
        match current {
            Some(current) => self.buffers.borrow_mut().insert(ahead.rows, current),
            None => self.buffers.borrow_mut().remove(&ahead.rows),
        };
    }

    /// Asks for the rows of a right-hand side, if they are gathered from memory and were not fetched a round ago.
    pub(super) fn prefetch_gathered(&self, rhs: Value) {
        let e = self.emitter;
        let Some((_, _, rows)) = self.gathered(rhs) else { return };
        let count = i64::from(self.program.type_of(rows).shape[0]);
        let fetch = || {
            self.each(e.index(0), e.index(count), e.index(1), &[], |row, _| {
                self.fetch_row(rhs, row);
                vec![]
            });
        };
        match self.ahead.borrow().clone() {
            Some(ahead) if ahead.products.contains(&rhs) => e.when(ahead.is_first, fetch),
            _ => fetch(),
        }
    }

    /// Asks for one of the gathered rows, if it lies inside of its tensor.
    fn fetch_row(&self, rhs: Value, row: Ssa<'a>) {
        let e = self.emitter;
        let Some((tensor, coordinates, rows)) = self.gathered(rhs) else { return };
        let elements: u32 = self.program.type_of(rhs).shape.iter().product();
        let bytes = elements as usize / self.program.type_of(rows).shape[0] as usize
            * self.analysis.tensor(tensor).element.bytes();
        let indices = [Index::At(row), Index::At(e.index(0))];
        let place = self.place(tensor, coordinates, None, &indices, Guard::Unchecked);
        let (Address::Contiguous(pointer) | Address::Scattered(pointer)) = place.address;
        let pointer = place.condition.map_or(pointer, |inside| e.select(inside, pointer, self.scratch));
        for line in (0..bytes).step_by(LINE) {
            self.prefetch_line(e.offset(pointer, e.index(line as i64)));
        }
    }

    /// The tensor, the coordinates and the indices of a right-hand side whose rows or columns are gathered runs of memory.
    pub(super) fn gathered(&self, rhs: Value) -> Option<(ArgumentIndex, &[Coordinate], Value)> {
        let mut source = rhs;
        while let Some(Operation::Cast(inner) | Operation::Transpose(inner)) = self.analysis.definition(source) {
            source = *inner;
        }
        let Some(Operation::Load { tensor, coordinates, .. }) = self.analysis.definition(source) else { return None };
        let strides = &self.analysis.tensor(*tensor).strides;
        let mut tile = coordinates.iter().zip(strides).filter(|(c, _)| !matches!(c, Coordinate::At(_)));
        let (Some((&Coordinate::Gather(rows), _)), Some((Coordinate::Block { .. }, Dimension::Constant(1)))) =
            (tile.next(), tile.next())
        else {
            return None;
        };
        let is_elsewhere = self.buffers.borrow().contains_key(&source) || self.analysis.is_materialized(source);
        (!is_elsewhere).then_some((*tensor, coordinates, rows))
    }

    /// Whether a value is defined in a block.
    fn is_inside(&self, value: Value, body: &Block) -> bool {
        body.instructions.iter().any(|instruction| instruction.results.contains(&value))
    }

    /// Whether a value in a loop is known from the round alone.
    fn follows(&self, value: Value, body: &Block) -> bool {
        if let Some(position) = body.parameters.iter().position(|&parameter| parameter == value) {
            return position == 0;
        }
        if !self.is_inside(value, body) {
            return true;
        }
        match self.analysis.definition(value) {
            None | Some(Operation::Reduce { .. } | Operation::Dot { .. } | Operation::For { .. }) => false,
            // Scalars are defined in their turn.
            Some(_) if self.program.type_of(value).is_scalar() => false,
            Some(operation) => operation.operands().iter().all(|&operand| self.follows(operand, body)),
        }
    }

    /// Computes gathered indices into a buffer of their own.
    fn indices(&self, rows: Value) -> Buffer<'a> {
        let tile = self.program.type_of(rows);
        let (strides, elements) = self.buffer_layout(&tile.shape, tile.element);
        let pointer = self.reserve(elements * tile.element.bytes() as u64);
        let buffer = Buffer { pointer, element: tile.element, shape: tile.shape.clone(), strides };
        let mut inside = Inside::everywhere(1);
        self.collect_bounds(rows, &[0], &mut inside, &mut Vec::new());
        self.nest(&tile.shape, &[None], Self::lane_dimension(&tile.shape), &[], true, &inside, &|visit| {
            let index = self.evaluate(rows, visit.indices, visit.guard);
            self.write_buffer(&buffer, visit.indices, index);
        });
        buffer
    }
}
