//! What several programs of a kernel compute alike, kept in the scratch from one program to the next.
//!
//! In decode a program is a part of the columns of a product, and all of them multiply the same few rows: normalized, staged, in digits. That is
//! computed where a thread's first program needs it. What it was computed from, coordinates of the grid and counters of loops, is written down in a cell of the
//! part of the scratch that a launch finds cleared, and the programs after that, also in other calls, use it as long as theirs are the same.

use std::cell::Cell;

use smallvec::SmallVec;
use tessera_runtime::host::CLEARED_SCRATCH_BYTES;

use super::{
    analysis::{Origins, join},
    emitter::{Comparison, Machine, Ssa},
    lower::{Lowering, SAFE_BYTES},
};
use crate::tile::{Block, Dimension, GridExtent, Operation, Value};

/// Bytes of a cell: whether there is something, and what it was computed from.
const CELL_BYTES: u64 = 64;
/// The most numbers that a cell has room for.
const MOST_KEYS: usize = CELL_BYTES as usize / 8 - 1;

/// What a kept value depends on, all of it: coordinates of the grid and counters of loops.
pub(super) type Keys<'a> = SmallVec<[Ssa<'a>; MOST_KEYS]>;

/// State of the lowering of one program.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// How many cells there are.
    cells: Cell<u64>,
    /// How many of them are taken.
    taken: Cell<u64>,
    /// Scratch bytes that stay reserved.
    floor: Cell<u64>,
    /// Whether what is reserved is to stay so.
    is_reserving: Cell<bool>,
}

impl Kept {
    pub(super) fn floor(&self) -> u64 {
        self.floor.get()
    }

    pub(super) fn is_reserving(&self) -> bool {
        self.is_reserving.get()
    }

    pub(super) fn raise_floor(&self, end: u64) {
        self.floor.set(end);
    }
}

impl<'a> Lowering<'_, 'a> {
    /// Makes room for the cells, before anything else is reserved.
    pub(super) fn prepare_cells(&self) {
        // A product may keep its rows in two forms.
        let count = 2 * self.streamed_products(&self.program.body) + self.analysis.kept_values();
        if count > 0 {
            self.reserve(CLEARED_SCRATCH_BYTES - SAFE_BYTES);
            self.kept.cells.set(count.min((CLEARED_SCRATCH_BYTES - SAFE_BYTES) / CELL_BYTES));
        }
    }

    fn streamed_products(&self, block: &Block) -> u64 {
        let count = |operation: &Operation| match operation {
            Operation::Dot { lhs, rhs, .. } => u64::from(self.extents(*lhs, *rhs).is_streamed()),
            Operation::For { body, .. } => self.streamed_products(body),
            _ => 0,
        };
        block.instructions.iter().map(|instruction| count(&instruction.operation)).sum()
    }

    /// What all of the values depend on, if that is known, and programs differ in something else.
    pub(super) fn keys(&self, values: &[Value]) -> Option<Keys<'a>> {
        let mut origins = Origins::new();
        for &value in values {
            join(&mut origins, &self.analysis.origins(value)?);
        }
        let axis = |origin: &Value| match self.analysis.definition(*origin) {
            Some(Operation::ProgramId(axis)) => Some(usize::from(*axis)),
            _ => None,
        };
        let axes: SmallVec<[usize; 3]> = origins.iter().filter_map(axis).collect();
        let is_shared = (0..self.program.grid.len()).any(|axis| {
            let GridExtent::Tiles { dimension, block } = self.program.grid[axis];
            let is_one = matches!(dimension, Dimension::Constant(extent) if extent <= u64::from(block));
            !is_one && !axes.contains(&axis)
        });
        let known = origins.len() <= MOST_KEYS && origins.iter().all(|origin| self.is_defined(*origin));
        (is_shared && known).then(|| origins.iter().map(|&origin| self.scalar_index(origin)).collect())
    }

    fn take_cell(&self) -> Option<Ssa<'a>> {
        let cell = self.kept.taken.get();
        self.kept.taken.set(cell + 1);
        let offset = SAFE_BYTES + cell * CELL_BYTES;
        (cell < self.kept.cells.get()).then(|| self.emitter.offset(self.scratch, self.emitter.index(offset as i64)))
    }

    fn is_defined(&self, scalar: Value) -> bool {
        self.scalars.borrow().contains_key(&scalar)
    }

    /// Something in the scratch that depends on nothing but the keys: reserves it, and fills it unless it was filled for the same keys. Without keys it is
    /// filled in any case, and reserved as usual.
    pub(super) fn keep<T>(&self, keys: Option<&Keys<'a>>, reserve: impl FnOnce() -> T, fill: impl FnOnce(&T)) -> T {
        let e = self.emitter;
        let Some((cell, keys)) = keys.and_then(|keys| Some((self.take_cell()?, keys))) else {
            let place = reserve();
            fill(&place);
            return place;
        };
        self.kept.is_reserving.set(true);
        let place = reserve();
        self.kept.is_reserving.set(false);
        let key_at = |number: usize| e.offset(cell, e.index(8 * (number as i64 + 1)));
        let known = |pointer: Ssa<'a>| e.load(pointer, Machine::I64, 1);
        let is_empty = e.compare(Comparison::Equal, known(cell), e.index(0));
        let is_other = keys.iter().enumerate().fold(is_empty, |is_other, (number, &key)| {
            e.or(is_other, e.compare(Comparison::NotEqual, known(key_at(number)), key))
        });
        e.when(is_other, || {
            self.memo.scope(|| fill(&place));
            e.store(e.index(1), cell);
            for (number, &key) in keys.iter().enumerate() {
                e.store(key, key_at(number));
            }
        });
        place
    }
}
