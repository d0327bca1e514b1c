//! From a tile program to a function: the loop over programs, blocks, scalars, loops with carried tiles.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
};

use melior::{Context, ir::Region};
use smallvec::SmallVec;

use super::{
    analysis::{Analysis, Demand},
    conversion::Converter,
    emitter::{Comparison, Emitter, Machine, Ssa},
    evaluate::{Guard, Index, Memo},
    features::{CpuFeatures, Extension, Level},
    kept::Kept,
    math::Math,
};
use crate::tile::{Argument, Block, Dimension, Element, Instruction, Operation, Program, Value};

/// Bytes at the start of the scratch that loads may touch in place of an address outside of a tensor.
pub(super) const SAFE_BYTES: u64 = 256;

/// A tile in the scratch memory.
#[derive(Clone, Debug)]
pub(super) struct Buffer<'a> {
    pub(super) pointer: Ssa<'a>,
    pub(super) element: Element,
    pub(super) shape: SmallVec<[u32; 3]>,
    /// In elements. The dimension of stride one has room for whole vectors.
    pub(super) strides: SmallVec<[u32; 3]>,
}

/// State of the lowering of one program.
pub(super) struct Lowering<'p, 'a> {
    pub(super) program: &'p Program,
    pub(super) analysis: Analysis<'p>,
    pub(super) features: &'p CpuFeatures,
    pub(super) emitter: &'p Emitter<'a>,
    /// f32 lanes of a vector register; the number of lanes of every vector.
    pub(super) lanes: u32,
    /// Tensor pointers, integers as I64, floats.
    pub(super) arguments: Vec<Ssa<'a>>,
    /// Programs along each axis, as I64.
    grid: [Ssa<'a>; 3],
    pub(super) scratch: Ssa<'a>,
    scratch_bytes: Cell<u64>,
    scratch_peak: Cell<u64>,
    pub(super) scalars: RefCell<HashMap<Value, Ssa<'a>>>,
    pub(super) buffers: RefCell<HashMap<Value, Buffer<'a>>>,
    /// Where to materialize values that a loop carries.
    destinations: RefCell<HashMap<Value, Ssa<'a>>>,
    /// Right-hand sides of dots that were packed ahead of their use.
    pub(super) packed: RefCell<HashMap<Value, super::dot::Packed<'a>>>,
    /// What the next round of the loop that is being lowered gathers.
    pub(super) ahead: RefCell<Option<super::dot::Ahead<'a>>>,
    pub(super) memo: Memo<'a>,
    pub(super) kept: Kept,
}

/// Machine types of the parameters of a kernel's inner function: its arguments, the grid, the range of programs, the scratch.
pub(super) fn parameters(program: &Program) -> Vec<(Machine, u32)> {
    let arguments = program.arguments.iter().map(|argument| match argument {
        Argument::Tensor(_) => (Machine::Pointer, 1),
        Argument::Integer { .. } => (Machine::I64, 1),
        Argument::Float { .. } => (Machine::F32, 1),
    });
    arguments.chain([(Machine::I64, 1); 5]).chain([(Machine::Pointer, 1)]).collect()
}

/// Writes the body of the inner function into `region`; the scratch bytes that it needs.
pub(super) fn lower<'a>(
    program: &Program,
    features: &CpuFeatures,
    context: &'a Context,
    region: &'a Region<'a>,
) -> u64 {
    let (emitter, mut values) = Emitter::new(context, region, &parameters(program));
    let tail = values.split_off(program.arguments.len());
    let &[grid_x, grid_y, grid_z, begin, end, scratch] = tail.as_slice() else {
        unreachable!("six parameters follow the arguments");
    };
    let lowering = Lowering {
        program,
        analysis: Analysis::new(program),
        features,
        emitter: &emitter,
        lanes: match features.level() {
            Level::Baseline => 4,
            Level::V3 => 8,
            Level::V4 => 16,
        },
        arguments: values,
        grid: [grid_x, grid_y, grid_z],
        scratch,
        scratch_bytes: Cell::new(SAFE_BYTES),
        scratch_peak: Cell::new(SAFE_BYTES),
        scalars: RefCell::default(),
        buffers: RefCell::default(),
        destinations: RefCell::default(),
        packed: RefCell::default(),
        ahead: RefCell::default(),
        memo: Memo::default(),
        kept: Kept::default(),
    };
    lowering.programs(begin, end);
    emitter.finish();
    lowering.scratch_peak.get()
}

impl<'p, 'a> Lowering<'p, 'a> {
    pub(super) fn math(&self) -> Math<'_, 'a> {
        Math { emitter: self.emitter, features: self.features }
    }

    pub(super) fn converter(&self) -> Converter<'_, 'a> {
        Converter { emitter: self.emitter, features: self.features }
    }

    pub(super) fn has_masks(&self) -> bool {
        self.features.level() >= Level::V4
    }

    pub(super) fn has(&self, extension: Extension) -> bool {
        self.features.has(extension)
    }

    // Scratch memory.

    /// Reserves scratch bytes, 64-byte aligned, until the enclosing block ends, or for good where something is kept.
    pub(super) fn reserve(&self, bytes: u64) -> Ssa<'a> {
        // What stays lies where nothing has been before: the next program writes that again.
        let offset = if self.kept.is_reserving() { self.scratch_peak.get() } else { self.scratch_bytes.get() };
        let end = offset + bytes.next_multiple_of(64);
        self.scratch_bytes.set(end);
        if self.kept.is_reserving() {
            self.kept.raise_floor(end);
        }
        self.scratch_peak.set(self.scratch_peak.get().max(end));
        self.emitter.offset(self.scratch, self.emitter.index(offset as i64))
    }

    /// Gives back what was reserved while `body` ran.
    pub(super) fn with_scratch<T>(&self, body: impl FnOnce() -> T) -> T {
        let before = self.scratch_bytes.get();
        let result = body();
        self.scratch_bytes.set(before.max(self.kept.floor()));
        result
    }

    /// The dimension along which vectors run: the last one that is not of extent one.
    pub(super) fn lane_dimension(shape: &[u32]) -> Option<usize> {
        shape.iter().rposition(|&extent| extent > 1)
    }

    /// Strides of a tile in memory, and its elements with padding. Rows are padded to whole vectors and kept from falling on the
    /// same cache sets.
    pub(super) fn buffer_layout(&self, shape: &[u32], element: Element) -> (SmallVec<[u32; 3]>, u64) {
        let mut strides = SmallVec::from_elem(1, shape.len());
        let Some(lane) = Self::lane_dimension(shape) else {
            return (strides, u64::from(self.lanes));
        };
        let mut row = shape[lane].next_multiple_of(self.lanes);
        if lane > 0 && (row as usize * element.bytes()).is_multiple_of(2048) {
            row += 64 / element.bytes() as u32;
        }
        let mut stride = row;
        for dimension in (0..lane).rev() {
            strides[dimension] = stride;
            stride *= shape[dimension];
        }
        (strides, u64::from(stride))
    }

    /// A buffer for a value: where a loop wants it, or new.
    pub(super) fn allocate(&self, value: Value) -> Buffer<'a> {
        let tile = self.program.type_of(value);
        let (strides, elements) = self.buffer_layout(&tile.shape, tile.element);
        let destination = self.destinations.borrow().get(&value).copied();
        let pointer = destination.unwrap_or_else(|| self.reserve(elements * tile.element.bytes() as u64));
        Buffer { pointer, element: tile.element, shape: tile.shape.clone(), strides }
    }

    fn allocate_like(&self, value: Value) -> Buffer<'a> {
        let tile = self.program.type_of(value);
        let (strides, elements) = self.buffer_layout(&tile.shape, tile.element);
        let pointer = self.reserve(elements * tile.element.bytes() as u64);
        Buffer { pointer, element: tile.element, shape: tile.shape.clone(), strides }
    }

    // Scalars.

    /// A scalar of the program.
    pub(super) fn scalar(&self, value: Value) -> Ssa<'a> {
        self.scalars.borrow()[&value]
    }

    /// An integer scalar as a 64-bit index.
    pub(super) fn scalar_index(&self, value: Value) -> Ssa<'a> {
        match self.analysis.constant(value) {
            Some(constant) => self.emitter.index(constant),
            None => self.emitter.resize_signed(self.scalar(value), Machine::I64),
        }
    }

    /// An extent or stride as a 64-bit index.
    pub(super) fn dimension(&self, dimension: Dimension) -> Ssa<'a> {
        match dimension {
            Dimension::Constant(value) => self.emitter.index(value as i64),
            Dimension::Argument(index) => self.arguments[index.0 as usize],
        }
    }

    /// How many elements along a dimension are wanted, if that may be fewer than there are.
    pub(super) fn wanted(&self, value: Value, dimension: usize) -> Option<Ssa<'a>> {
        let Demand::Inside { start, extent } = self.analysis.demand(value, dimension) else {
            return None;
        };
        if !self.scalars.borrow().contains_key(&start) {
            return None;
        }
        let length = self.program.type_of(value).shape[dimension];
        Some(self.inside(start, length, extent))
    }

    /// How many of `length` indices from `start` lie below an extent: 0 to `length`.
    pub(super) fn inside(&self, start: Value, length: u32, extent: Dimension) -> Ssa<'a> {
        let e = self.emitter;
        let rest = e.subtract(self.dimension(extent), self.scalar_index(start));
        e.integer_maximum(e.integer_minimum(rest, e.index(i64::from(length))), e.index(0))
    }

    // The loop over programs.

    fn programs(&self, begin: Ssa<'a>, end: Ssa<'a>) {
        let e = self.emitter;
        let zero = e.index(0);
        let one = e.index(1);
        let grid_x = self.grid[0];
        let (steady, varying) = self.split_steady(&self.program.body);
        self.prepare_cells();
        self.prepare_machine();
        // Rows of programs along x: what does not vary along x is computed once for each row.
        let first_row = e.unsigned_divide(begin, grid_x);
        let last_row = e.unsigned_divide(e.subtract(end, one), grid_x);
        let rows_end = e.select(e.compare(Comparison::Less, begin, end), e.add(last_row, one), first_row);
        self.each(first_row, rows_end, one, &[], |row, _| {
            let row_start = e.multiply(row, grid_x);
            let from = e.integer_maximum(e.subtract(begin, row_start), zero);
            let to = e.integer_minimum(e.subtract(end, row_start), grid_x);
            let z = e.unsigned_divide(row, self.grid[1]);
            let y = e.subtract(row, e.multiply(z, self.grid[1]));
            let narrow = |value| e.resize_signed(value, Machine::I32);
            let steady_ids = [narrow(from), narrow(y), narrow(z)];
            for instruction in steady {
                self.instruction(instruction, &steady_ids);
            }
            let range = |ids: Ssa<'a>| [narrow(ids), narrow(y), narrow(z)];
            match self.split_by_loops(&varying) {
                None => self.along_x([from, to], &range, &[], &varying),
                Some((scalars, loops)) => {
                    for instruction in loops {
                        self.loop_outside([from, to], &range, &scalars, instruction);
                    }
                }
            }
            vec![]
        });
        self.release_machine();
    }

    /// The instructions of a block that can run once for a row of programs, and the others.
    fn split_steady(&self, block: &'p Block) -> (Vec<&'p Instruction>, Vec<&'p Instruction>) {
        block.instructions.iter().partition(|instruction| {
            // What has no result is dead or stores; it may well use what varies.
            self.analysis.is_pure(instruction)
                && !instruction.results.is_empty()
                && instruction.results.iter().all(|&result| !self.analysis.varies_along_x(result))
        })
    }

    /// Runs instructions for each program of a row of the grid, after packing what they share. `scalars` come first and are cheap.
    fn along_x(
        &self,
        [from, to]: [Ssa<'a>; 2],
        ids: &dyn Fn(Ssa<'a>) -> [Ssa<'a>; 3],
        scalars: &[&'p Instruction],
        instructions: &[&'p Instruction],
    ) {
        self.pack_ahead(instructions);
        self.each(from, to, self.emitter.index(1), &[], |x, _| {
            let ids = ids(x);
            self.with_scratch(|| {
                for instruction in scalars.iter().chain(instructions) {
                    self.instruction(instruction, &ids);
                }
            });
            vec![]
        });
    }

    /// If what varies along x is nothing but scalars and loops that carry nothing and run equally often along x: those. (Kernels with several
    /// results, of which a program computes the one that its y coordinate says, are made so.) Such loops can enclose the one along x.
    fn split_by_loops(&self, varying: &[&'p Instruction]) -> Option<(Vec<&'p Instruction>, Vec<&'p Instruction>)> {
        let is_loop = |instruction: &Instruction| matches!(instruction.operation, Operation::For { .. });
        let (loops, scalars): (Vec<_>, Vec<_>) = varying.iter().copied().partition(|instruction| is_loop(instruction));
        let cheap = scalars.iter().all(|instruction| {
            self.analysis.is_pure(instruction)
                && !matches!(instruction.operation, Operation::Load { .. } | Operation::Reduce { .. })
                && instruction.results.iter().all(|&result| self.program.type_of(result).is_scalar())
        });
        let interchangeable = loops.iter().all(|instruction| match &instruction.operation {
            Operation::For { lower, upper, initial, .. } => {
                let steady = |bound: &Value| !self.analysis.varies_along_x(*bound);
                initial.is_empty() && steady(lower) && steady(upper)
            }
            _ => false,
        });
        (cheap && interchangeable && !loops.is_empty()).then_some((scalars, loops))
    }

    /// A loop around the one along x: what does not vary along x is computed once for each of its iterations.
    fn loop_outside(
        &self,
        range: [Ssa<'a>; 2],
        ids: &dyn Fn(Ssa<'a>) -> [Ssa<'a>; 3],
        scalars: &[&'p Instruction],
        instruction: &'p Instruction,
    ) {
        let Operation::For { lower, upper, step, body, .. } = &instruction.operation else { return };
        let (steady, varying) = self.split_steady(body);
        let step = self.emitter.index(i64::from(*step));
        let packed = self.packed.borrow().clone();
        self.with_scratch(|| {
            self.each(self.scalar_index(*lower), self.scalar_index(*upper), step, &[], |index, _| {
                if let Some(&induction) = body.parameters.first() {
                    self.scalars.borrow_mut().insert(induction, self.emitter.resize_signed(index, Machine::I32));
                }
                for instruction in steady {
                    self.instruction(instruction, &ids(range[0]));
                }
                self.along_x(range, ids, scalars, &varying);
                vec![]
            });
        });
        // What was packed for this loop is gone with its scratch.
        *self.packed.borrow_mut() = packed;
    }

    /// A loop with its own scope of memoized expressions.
    pub(super) fn each(
        &self,
        lower: Ssa<'a>,
        upper: Ssa<'a>,
        step: Ssa<'a>,
        initial: &[Ssa<'a>],
        body: impl FnOnce(Ssa<'a>, &[Ssa<'a>]) -> Vec<Ssa<'a>>,
    ) -> Vec<Ssa<'a>> {
        self.emitter.for_range(lower, upper, step, initial, |index, carried| self.memo.scope(|| body(index, carried)))
    }

    // Instructions.

    fn block(&self, block: &'p Block, ids: &[Ssa<'a>; 3]) {
        for instruction in &block.instructions {
            self.instruction(instruction, ids);
        }
    }

    fn instruction(&self, instruction: &'p Instruction, ids: &[Ssa<'a>; 3]) {
        match &instruction.operation {
            Operation::Store { tensor, coordinates, mask, value } => self.store(*tensor, coordinates, *mask, *value),
            Operation::For { lower, upper, step, initial, body } => {
                self.for_loop(instruction, [*lower, *upper], *step, initial, body, ids);
            }
            operation => {
                for &result in &instruction.results {
                    self.define(result, operation, ids);
                }
            }
        }
    }

    fn define(&self, result: Value, operation: &'p Operation, ids: &[Ssa<'a>; 3]) {
        if !self.analysis.is_used(result) {
            return;
        }
        let tile = self.program.type_of(result);
        if tile.is_scalar() {
            let scalar = match operation {
                Operation::ProgramId(axis) => ids[usize::from(*axis)],
                Operation::Argument(index) => {
                    let argument = self.arguments[index.0 as usize];
                    self.emitter.resize_signed_or_float(argument)
                }
                Operation::Reduce { reduction, value, .. } => self.reduce_to_scalar(*reduction, *value),
                _ => self.compute(result, operation, &[], Guard::Checked),
            };
            self.scalars.borrow_mut().insert(result, scalar);
            return;
        }
        if self.analysis.is_kept(result)
            && let Some(keys) = self.keys(&[result])
            && !self.destinations.borrow().contains_key(&result)
        {
            let bytes = self.buffer_layout(&tile.shape, tile.element).1 * tile.element.bytes() as u64;
            self.keep(
                Some(&keys),
                || {
                    let place = self.reserve(bytes);
                    self.destinations.borrow_mut().insert(result, place);
                },
                |()| self.define_tile(result, operation),
            );
            self.destinations.borrow_mut().remove(&result);
            return;
        }
        self.define_tile(result, operation);
    }

    fn define_tile(&self, result: Value, operation: &'p Operation) {
        match operation {
            Operation::Reduce { reduction, value, axis } => self.reduce(result, *reduction, *value, usize::from(*axis)),
            Operation::Dot { lhs, rhs, accumulator } => self.dot(result, *lhs, *rhs, *accumulator),
            _ if self.analysis.is_materialized(result) => {
                self.materialize(result);
            }
            _ => {}
        }
    }

    fn for_loop(
        &self,
        instruction: &Instruction,
        [lower, upper]: [Value; 2],
        step: u32,
        initial: &'p [Value],
        body: &'p Block,
        ids: &[Ssa<'a>; 3],
    ) {
        let e = self.emitter;
        let (induction, parameters) =
            body.parameters.split_first().expect("verified: a loop has an induction variable");
        // A carried scalar is one value of the loop; a carried tile is two pointers, to the tile and to where the next one goes.
        let mut entry = Vec::new();
        for (&first, &parameter) in initial.iter().zip(parameters) {
            if self.program.type_of(parameter).is_scalar() {
                entry.push(self.scalar(first));
            } else {
                let buffer = self.allocate_like(parameter);
                self.copy_tile(first, &buffer);
                entry.push(buffer.pointer);
                entry.push(self.allocate_like(parameter).pointer);
            }
        }
        let buffer_at = |value: Value, pointer: Ssa<'a>| {
            let tile = self.program.type_of(value);
            let (strides, _) = self.buffer_layout(&tile.shape, tile.element);
            Buffer { pointer, element: tile.element, shape: tile.shape.clone(), strides }
        };
        let packed = self.packed.borrow().clone();
        let last = self.with_scratch(|| {
            // What is the same in every round.
            self.pack_all(&body.instructions.iter().collect::<Vec<_>>(), |_| true);
            self.each(
                self.scalar_index(lower),
                self.scalar_index(upper),
                e.index(i64::from(step)),
                &entry,
                |index, carried| {
                    self.scalars.borrow_mut().insert(*induction, e.resize_signed(index, Machine::I32));
                    let mut position = 0;
                    let mut spare = Vec::new();
                    for (&parameter, &next) in parameters.iter().zip(&body.yields) {
                        if self.program.type_of(parameter).is_scalar() {
                            self.scalars.borrow_mut().insert(parameter, carried[position]);
                            spare.push(None);
                            position += 1;
                        } else {
                            self.buffers.borrow_mut().insert(parameter, buffer_at(parameter, carried[position]));
                            spare.push(Some(carried[position + 1]));
                            if self.defined_in(body, next) {
                                self.destinations.borrow_mut().entry(next).or_insert(carried[position + 1]);
                            }
                            position += 2;
                        }
                    }
                    self.looking_ahead(body, index, lower, step, || self.block(body, ids));
                    let mut yields = Vec::new();
                    for ((&parameter, &next), spare) in parameters.iter().zip(&body.yields).zip(spare) {
                        match spare {
                            None => yields.push(self.scalar(next)),
                            Some(spare) if next == parameter => {
                                yields.extend([self.buffers.borrow()[&parameter].pointer, spare]);
                            }
                            Some(spare) => {
                                let in_place = self.destinations.borrow().get(&next).map(|s| s.identity())
                                    == Some(spare.identity());
                                if !in_place {
                                    self.copy_tile(next, &buffer_at(parameter, spare));
                                }
                                yields.extend([spare, self.buffers.borrow()[&parameter].pointer]);
                            }
                        }
                    }
                    for next in &body.yields {
                        self.destinations.borrow_mut().remove(next);
                    }
                    yields
                },
            )
        });
        *self.packed.borrow_mut() = packed;
        let mut position = 0;
        for &result in &instruction.results {
            if self.program.type_of(result).is_scalar() {
                self.scalars.borrow_mut().insert(result, last[position]);
                position += 1;
            } else {
                self.buffers.borrow_mut().insert(result, buffer_at(result, last[position]));
                position += 2;
            }
        }
    }

    fn defined_in(&self, block: &Block, value: Value) -> bool {
        block.instructions.iter().any(|instruction| {
            instruction.results.contains(&value) && !matches!(instruction.operation, Operation::For { .. })
        })
    }

    /// Indices of a tile's first element.
    pub(super) fn origin(&self, rank: usize) -> SmallVec<[Index<'a>; 3]> {
        SmallVec::from_elem(Index::At(self.emitter.index(0)), rank)
    }
}
