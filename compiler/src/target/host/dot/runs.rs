//! Right-hand sides of bf16 whose rows or columns are runs of memory, 16 of them at a time as a tile.
//!
//! Of gathered runs those of a page follow one another at one distance: a tile of them is read where it lies. Others are copied.

use super::{
    super::{
        emitter::{Comparison, Machine, Ssa},
        evaluate::{Guard, Index},
        lower::Lowering,
        memory::Address,
    },
    amx::{DEPTH, TILE},
};
use crate::tile::{ArgumentIndex, Coordinate, Element, Value};

/// A right-hand side as runs of memory.
pub(super) struct Runs<'a> {
    rhs: Value,
    /// Whether runs are columns.
    are_columns: bool,
    /// How many runs there are.
    count: u32,
    /// Elements of a run.
    length: u32,
    /// Where copies go, and their bytes from one run to the next.
    copies: Ssa<'a>,
    pitch: i64,
}

impl<'a> Lowering<'_, 'a> {
    /// `count` runs of `length` elements.
    pub(super) fn runs(&self, rhs: Value, count: u32, length: u32, are_columns: bool) -> Runs<'a> {
        let pitch = 2 * i64::from(length.next_multiple_of(DEPTH as u32));
        // Whole pairs of tiles.
        let copies = self.reserve(u64::from(count.next_multiple_of(DEPTH as u32)) * pitch as u64);
        Runs { rhs, are_columns, count, length, copies, pitch }
    }

    /// Where 16 runs lie, and their bytes from one to the next. Runs beyond the last are zero, and elements up to a multiple of 32.
    pub(super) fn tile_of_runs(&self, runs: &Runs<'a>, first: Ssa<'a>) -> (Ssa<'a>, Ssa<'a>) {
        let e = self.emitter;
        let copy = e.offset(runs.copies, e.multiply(first, e.index(runs.pitch)));
        let pitch = e.index(runs.pitch);
        let Some((in_place, pointer, distance)) = self.runs_in_place(runs, first) else {
            self.copy_runs(runs, first, copy);
            return (copy, pitch);
        };
        let place = e.branch(
            in_place,
            || vec![pointer, distance],
            || {
                self.memo.scope(|| self.copy_runs(runs, first, copy));
                vec![copy, pitch]
            },
        );
        (place[0], place[1])
    }

    /// Of 16 gathered runs: whether they follow one another in their tensor, where the first lies, and the bytes from one to the next.
    fn runs_in_place(&self, runs: &Runs<'a>, first: Ssa<'a>) -> Option<(Ssa<'a>, Ssa<'a>, Ssa<'a>)> {
        let e = self.emitter;
        let (tensor, coordinates, rows) = self.gathered(runs.rhs)?;
        let argument = self.analysis.tensor(tensor);
        let is_whole = argument.element == Element::BF16
            && runs.length.is_multiple_of(DEPTH as u32)
            && runs.count.is_multiple_of(DEPTH as u32)
            && self.lies_inside(tensor, coordinates);
        if !is_whole {
            return None;
        }
        let gathered = coordinates.iter().position(|coordinate| matches!(coordinate, Coordinate::Gather(_)))?;
        let extent = e.resize_signed(self.dimension(argument.extents[gathered]), Machine::I32);
        let indices = self.evaluate(rows, &[Index::Lanes(first)], Guard::Checked);
        let indices = e.splat(indices, self.lanes);
        let follow = e.add(e.splat(e.extract(indices, 0), self.lanes), e.iota(Machine::I32, self.lanes));
        let right = e.and(e.compare(Comparison::Equal, indices, follow), e.compare(Comparison::Below, indices, extent));
        let all = e.integer(Machine::I16, 1, -1);
        let in_place = e.compare(Comparison::Equal, e.bitcast(right, Machine::I16, 1), all);
        let origin = [Index::At(first), Index::At(e.index(0))];
        let (Address::Contiguous(pointer) | Address::Scattered(pointer)) =
            self.place(tensor, coordinates, None, &origin, Guard::Unchecked).address;
        let stride = self.dimension(argument.strides[gathered]);
        Some((in_place, pointer, e.multiply(stride, e.index(2))))
    }

    /// Whether all of an access but what it gathers lies inside of the tensor.
    fn lies_inside(&self, tensor: ArgumentIndex, coordinates: &[Coordinate]) -> bool {
        let extents = &self.analysis.tensor(tensor).extents;
        coordinates.iter().zip(extents).all(|(coordinate, &extent)| match *coordinate {
            Coordinate::At(index) => self.analysis.always_at(index, extent),
            Coordinate::Block { start, length } => self.analysis.always_inside(start, length, extent),
            Coordinate::Gather(_) => true,
        })
    }

    /// Copies 16 runs from `first` on.
    fn copy_runs(&self, runs: &Runs<'a>, first: Ssa<'a>, target: Ssa<'a>) {
        let e = self.emitter;
        let lanes = i64::from(self.lanes);
        let length = i64::from(runs.length);
        let zero = e.integer(Machine::I16, self.lanes, 0);
        let count = e.index(i64::from(runs.count));
        self.each(e.index(0), e.index(TILE), e.index(1), &[], |ahead, _| {
            let run = e.add(first, ahead);
            let exists = e.compare(Comparison::Less, run, count);
            let run = Index::At(e.integer_minimum(run, e.index(i64::from(runs.count) - 1)));
            let target = e.offset(target, e.multiply(ahead, e.index(runs.pitch)));
            for start in (0..runs.pitch / 2).step_by(lanes as usize) {
                let mut value = zero;
                if start < length {
                    let along = Index::Lanes(e.index(start));
                    let indices = if runs.are_columns { [along, run] } else { [run, along] };
                    value = e.splat(self.evaluate(runs.rhs, &indices, Guard::Checked), self.lanes);
                    value = e.select(exists, value, zero);
                }
                if start < length && start + lanes > length {
                    let rest = e.integer(Machine::I32, self.lanes, length - start);
                    let inside = e.compare(Comparison::Less, e.iota(Machine::I32, self.lanes), rest);
                    value = e.select(inside, value, zero);
                }
                e.store(value, e.offset(target, e.index(2 * start)));
            }
            vec![]
        });
    }
}
