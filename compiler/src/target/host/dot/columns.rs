//! Columns of a right-hand side that lie in memory as they are stored, each a run of bytes.

use super::{
    super::{
        emitter::{Comparison, Machine, Ssa},
        evaluate::{Guard, Index},
        lower::{Buffer, Lowering},
        memory::Address,
    },
    Streamed,
};
use crate::tile::{Coordinate, Dimension, Operation, Value};

/// How far ahead of where it reads a stream is fetched into the second cache: more than a memory access takes, at the speed of the memory.
const BYTES_AHEAD: i64 = 16 << 10;

impl<'a> Lowering<'_, 'a> {
    /// What a value is cast from.
    pub(super) fn peeled(&self, mut value: Value) -> Value {
        while let Some(Operation::Cast(inner)) = self.analysis.definition(value) {
            value = *inner;
        }
        value
    }

    /// Whether a tile of rows is loaded from memory, every row of it as long as its tensor's or inside of it.
    pub(super) fn rows_in_memory(&self, value: Value) -> bool {
        let Some(Operation::Load { tensor, coordinates, mask: None, .. }) = self.analysis.definition(value) else {
            return false;
        };
        let argument = self.analysis.tensor(*tensor);
        let Some(last) = argument.extents.len().checked_sub(1) else { return false };
        let fits = coordinates.iter().zip(&argument.extents).enumerate().all(|(position, (coordinate, &extent))| {
            match *coordinate {
                Coordinate::At(index) => self.analysis.always_at(index, extent),
                Coordinate::Block { start, length } => {
                    position < last || self.analysis.always_inside(start, length, extent)
                }
                Coordinate::Gather(_) => false,
            }
        });
        let is_run = argument.strides.last() == Some(&Dimension::Constant(1));
        let is_elsewhere = self.buffers.borrow().contains_key(&value) || self.analysis.is_materialized(value);
        self.program.type_of(value).shape.len() == 2 && fits && is_run && !is_elsewhere
    }

    /// Where a row of such a tile, which is a column of the right-hand side, starts in memory.
    pub(super) fn column_pointer(&self, value: Value, column: Ssa<'a>) -> Ssa<'a> {
        let Some(Operation::Load { tensor, coordinates, .. }) = self.analysis.definition(value) else {
            unreachable!("seen to be a load")
        };
        let indices = [Index::At(column), Index::At(self.emitter.index(0))];
        match self.place(*tensor, coordinates, None, &indices, Guard::Unchecked).address {
            Address::Contiguous(pointer) | Address::Scattered(pointer) => pointer,
        }
    }

    /// How many columns are wanted and lie inside of the tensor. The others are zeros, and add nothing.
    pub(super) fn columns_inside(&self, product: &Streamed<'_, 'a>) -> Ssa<'a> {
        let e = self.emitter;
        let wanted = product.columns.unwrap_or_else(|| e.index(i64::from(product.extents.columns)));
        self.bounds_of(product.rhs)[1].map_or(wanted, |count| e.integer_minimum(wanted, count))
    }

    /// Visits the columns from `first` on, in the order in which they lie in memory: one stream that is fetched far ahead is read faster than several side by side.
    pub(super) fn each_column(&self, first: Ssa<'a>, columns: Ssa<'a>, visit: impl Fn(Ssa<'a>)) {
        let e = self.emitter;
        self.each(first, columns, e.index(1), &[], |column, _| {
            visit(column);
            vec![]
        });
    }

    /// `lanes` bytes of a column, those from `valid` on zero and not read.
    pub(super) fn column_bytes(&self, pointer: Ssa<'a>, lanes: i64, valid: i64) -> Ssa<'a> {
        let e = self.emitter;
        if valid >= lanes {
            return e.load(pointer, Machine::I8, lanes as u32);
        }
        let (number, zero) = (e.iota(Machine::I8, lanes as u32), e.integer(Machine::I8, lanes as u32, 0));
        let inside = e.compare(Comparison::Less, number, e.integer(Machine::I8, lanes as u32, valid));
        if self.has_masks() {
            return e.masked_load(pointer, inside, zero);
        }
        // Without masks of bytes, one by one.
        (0..valid).fold(zero, |vector, lane| {
            let byte = e.load(e.offset(pointer, e.index(lane)), Machine::I8, 1);
            e.insert(vector, lane as u32, byte)
        })
    }

    /// Asks for a line of memory.
    pub(super) fn prefetch_line(&self, pointer: Ssa<'a>) {
        let immediate = |value| self.emitter.integer(Machine::I32, 1, value);
        let operands = [pointer, immediate(0), immediate(2), immediate(1)];
        self.emitter.intrinsic_effect("llvm.prefetch", &operands);
    }

    /// Adds the lanes of the totals of a column, one for each row, to the sums.
    pub(super) fn add_totals(&self, totals: &[Ssa<'a>], sums: &Buffer<'a>, column: Ssa<'a>) {
        let e = self.emitter;
        let lanes = self.lanes as usize;
        for (part, group) in totals.chunks(lanes).enumerate() {
            let added = self.add_lanes(group);
            for (lane, _) in (0..).zip(group) {
                let row = (part * lanes) as i64 + i64::from(lane);
                let pointer = self.buffer_pointer(sums, &[e.index(row), column]);
                e.store(e.add(e.load(pointer, Machine::F32, 1), e.extract(added, lane)), pointer);
            }
        }
    }
}

/// How many columns of so many bytes later that is fetched which a step is followed by.
pub(super) const fn columns_ahead(bytes: i64) -> i64 {
    // A column may have no bytes.
    BYTES_AHEAD / if bytes > 0 { bytes } else { 1 } + 1
}
