//! Lowering of a program's instructions, in order and on demand.
//!
//! Every value is a list of registers in some layout. Values with a home are computed where the program defines them; virtual ones, and
//! anything pure inside a *replay*, are computed where they are wanted. What is computed is remembered for the scope that it was computed in.

use std::collections::HashMap;
use std::rc::Rc;

use melior::ir::BlockRef;
use melior::ir::ValueLike;
use smallvec::SmallVec;

use super::analysis::{Analysis, Definition, LoopIndex};
use super::emit::{Emitter, IntegerPredicate, Scalar, Val};
use super::error::Error;
use super::fragments::Side;
use super::layout::{Bits, Layout, project_index, rearranged_index, transpose_index};
use super::origins::is_pure;
use super::plan::Plan;
use super::shared::{SharedMemory, SharedTile};
use crate::target::Chip;
use crate::tile::{ArgumentIndex, Block, Instruction, Literal, Operation, Program, Value};

/// The registers of a value: one for each register number of its layout.
pub(super) type Registers<'a> = Rc<[Val<'a>]>;

/// What is known inside a loop's body, or inside a replay of parts of it.
#[derive(Default)]
struct Scope<'a> {
    values: HashMap<(Value, Layout), Registers<'a>>,
    staged: HashMap<Value, SharedTile<'a>>,
    fragments: HashMap<(Value, Side, Layout), Registers<'a>>,
    /// In a replay: the loop whose values outside of the replay stand for another iteration and must not be used.
    replays: Option<LoopIndex>,
}

/// A kernel being lowered.
pub(super) struct Lowering<'r, 'a> {
    pub program: &'r Program,
    pub analysis: &'r Analysis<'r>,
    pub plan: &'r Plan,
    pub chip: Chip,
    pub emitter: Emitter<'a>,
    pub shared: SharedMemory<'a>,
    parameters: Vec<Val<'a>>,
    scopes: Vec<Scope<'a>>,
    thread: Option<Val<'a>>,
    linear: HashMap<Vec<u32>, Val<'a>>,
    program_ids: [Option<Val<'a>>; 3],
    /// The first halves of the tables that E2M1 is looked up in.
    pub table_halves: Option<[Val<'a>; 2]>,
    /// The first block after the preamble.
    pub first: BlockRef<'a, 'a>,
}

impl<'r, 'a> Lowering<'r, 'a> {
    pub fn new(
        analysis: &'r Analysis<'r>,
        plan: &'r Plan,
        chip: Chip,
        emitter: Emitter<'a>,
        parameters: Vec<Val<'a>>,
    ) -> Self {
        let first = emitter.block();
        Self {
            program: analysis.program,
            analysis,
            plan,
            chip,
            emitter,
            shared: SharedMemory::default(),
            parameters,
            scopes: vec![Scope::default()],
            thread: None,
            linear: HashMap::new(),
            program_ids: [None; 3],
            table_halves: None,
            first,
        }
    }

    /// Lowers the whole program.
    pub fn lower(&mut self) -> Result<(), Error> {
        self.block(&self.program.body)
    }

    /// Lowers the instructions of a block in order.
    pub fn block(&mut self, block: &'r Block) -> Result<(), Error> {
        for instruction in &block.instructions {
            self.instruction(instruction)?;
        }
        Ok(())
    }

    fn instruction(&mut self, instruction: &'r Instruction) -> Result<(), Error> {
        match &instruction.operation {
            Operation::For { .. } => return self.for_loop(instruction),
            Operation::Store { tensor, coordinates, mask, value } => {
                return self.store(*tensor, coordinates, *mask, *value);
            }
            _ => {}
        }
        let Some(&result) = instruction.results.first() else { return Ok(()) };
        if self.plan.staged.contains_key(&result) {
            return self.stage_in_order(result);
        }
        if self.plan.is_virtual(result) {
            return Ok(());
        }
        let home = self.home(result)?;
        if let Operation::Dot { lhs, rhs, accumulator } = instruction.operation {
            let registers = self.dot(result, lhs, rhs, accumulator)?;
            self.remember(result, home, registers);
            return Ok(());
        }
        let registers = self.compute(result, &home)?;
        self.remember(result, home, registers);
        Ok(())
    }

    /// The layout of a value where it is defined.
    pub fn home(&self, value: Value) -> Result<Layout, Error> {
        self.plan.home(value).cloned().ok_or(Error::Internal { value, what: "a value without a layout was asked for" })
    }

    /// The layout of scalars.
    pub fn uniform(&self) -> Layout {
        Layout::dealt(&[], 0, self.plan.warps)
    }

    pub fn shape(&self, value: Value) -> &'r [u32] {
        &self.program.type_of(value).shape
    }

    pub fn scalar_of(&self, value: Value) -> Scalar {
        Scalar::of(self.program.type_of(value).element)
    }

    /// Remembers a value in the innermost scope.
    pub fn remember(&mut self, value: Value, layout: Layout, registers: Registers<'a>) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.values.insert((value, layout), registers);
        }
    }

    /// Remembers where a staged load lies.
    pub fn remember_staged(&mut self, value: Value, tile: SharedTile<'a>) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.staged.insert(value, tile);
        }
    }

    /// Where a staged load lies, if it has been staged.
    pub fn staged(&self, value: Value) -> Option<SharedTile<'a>> {
        self.visible(value).find_map(|scope| scope.staged.get(&value).cloned())
    }

    /// Remembers the fragments of an operand of dots with an accumulator of this layout.
    pub fn remember_fragments(&mut self, value: Value, side: Side, accumulator: &Layout, words: Registers<'a>) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.fragments.insert((value, side, accumulator.clone()), words);
        }
    }

    /// The fragments of an operand, if they are in registers.
    pub fn fragments(&self, value: Value, side: Side, accumulator: &Layout) -> Option<Registers<'a>> {
        let key = (value, side, accumulator.clone());
        self.visible(value).find_map(|scope| scope.fragments.get(&key).cloned())
    }

    /// Runs `body` in a scope of its own; with `replays`, values of that loop are computed anew.
    pub fn scoped<T>(
        &mut self,
        replays: Option<LoopIndex>,
        body: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.scopes.push(Scope { replays, ..Scope::default() });
        let result = body(self);
        self.scopes.pop();
        result
    }

    /// The scopes in which a value may be remembered, innermost first.
    fn visible(&self, value: Value) -> impl Iterator<Item = &Scope<'a>> {
        let definer = self.analysis.scope(value);
        let mut hidden = false;
        self.scopes.iter().rev().take_while(move |scope| {
            let seen = !hidden;
            hidden |= scope.replays == Some(definer);
            seen
        })
    }

    fn replayed(&self, value: Value) -> bool {
        let definer = self.analysis.scope(value);
        self.scopes.iter().any(|scope| scope.replays == Some(definer))
    }

    /// The registers of a value in a layout.
    pub fn get(&mut self, value: Value, layout: &Layout) -> Result<Registers<'a>, Error> {
        let key = (value, layout.clone());
        if let Some(registers) = self.visible(value).find_map(|scope| scope.values.get(&key).cloned()) {
            return Ok(registers);
        }
        let registers = if self.plan.is_virtual(value) || self.replayed(value) {
            self.compute(value, layout)?
        } else {
            let home = self.home(value)?;
            let key = (value, home.clone());
            let source = self
                .visible(value)
                .find_map(|scope| scope.values.get(&key).cloned())
                .ok_or(Error::Internal { value, what: "a value is used before it is computed" })?;
            self.convert_layout(value, &source, &home, layout)?
        };
        self.remember(value, key.1, registers.clone());
        Ok(registers)
    }

    /// The single register of a scalar.
    pub fn get_scalar(&mut self, value: Value) -> Result<Val<'a>, Error> {
        let uniform = self.uniform();
        let registers = self.get(value, &uniform)?;
        registers.first().copied().ok_or(Error::Internal { value, what: "a scalar has one register" })
    }

    /// Computes a value in a layout from its operands.
    fn compute(&mut self, value: Value, layout: &Layout) -> Result<Registers<'a>, Error> {
        let definition = self.analysis.definition(value);
        let Definition::Operation(operation) = definition else {
            return Err(Error::Internal { value, what: "a loop's value is wanted outside of the loop" });
        };
        if self.replayed(value) && !is_pure(self.analysis, definition) {
            return Err(Error::Internal { value, what: "an impure value is replayed" });
        }
        let shape = self.shape(value);
        let count = layout.register_count();
        let scalar = self.scalar_of(value);
        let registers: Registers<'a> = match operation {
            Operation::ProgramId(axis) => Rc::new([self.program_id(*axis)]),
            Operation::Argument(index) => Rc::new([self.parameters[index.0 as usize]]),
            Operation::Constant(literal) => {
                let constant = self.literal(*literal, value);
                std::iter::repeat_n(constant, count).collect()
            }
            Operation::Iota => {
                let thread = self.coordinate(layout, shape, 0);
                (0..count)
                    .map(|register| {
                        let offset = Bits(shape).coordinate(0, layout.register_index(register));
                        self.add_constant(thread, i64::from(offset))
                    })
                    .collect()
            }
            Operation::Unary(..)
            | Operation::Binary(..)
            | Operation::Compare(..)
            | Operation::Select(..)
            | Operation::Cast(_)
            | Operation::Bitcast(_) => self.elementwise(value, operation, layout)?,
            Operation::Broadcast { value: operand, axes } => {
                let axes: SmallVec<[usize; 3]> = axes.iter().map(|&axis| usize::from(axis)).collect();
                let operand_shape = self.shape(*operand);
                let source_layout = layout.project(shape, &axes);
                let source = self.get(*operand, &source_layout)?;
                (0..count)
                    .map(|register| {
                        let index = project_index(shape, &axes, operand_shape, layout.register_index(register));
                        source[source_layout.register_of(index)]
                    })
                    .collect()
            }
            Operation::Transpose(operand) => {
                let source_layout = layout.transpose(shape);
                let source = self.get(*operand, &source_layout)?;
                (0..count)
                    .map(|register| {
                        let index = transpose_index(shape, layout.register_index(register));
                        source[source_layout.register_of(index)]
                    })
                    .collect()
            }
            Operation::Rearrange { value: operand, extents, permutation } => {
                let source_layout = layout.rearrange(extents, permutation);
                let source = self.get(*operand, &source_layout)?;
                (0..count)
                    .map(|register| {
                        let index = rearranged_index(extents, permutation, layout.register_index(register));
                        source[source_layout.register_of(index)]
                    })
                    .collect()
            }
            Operation::Reduce { reduction, value: operand, axis } => {
                let source_layout = match self.plan.home(*operand) {
                    Some(home) => home.clone(),
                    None => {
                        let shape = self.shape(*operand);
                        Layout::blocked(shape, shape.len() - 1, 1, self.plan.warps)
                    }
                };
                let source = self.get(*operand, &source_layout)?;
                let reduced = self.reduce(*reduction, *operand, &source, &source_layout, usize::from(*axis), scalar)?;
                let reduced_layout = source_layout.reduce(self.shape(*operand), usize::from(*axis));
                self.convert_layout(value, &reduced, &reduced_layout, layout)?
            }
            Operation::Load { tensor, coordinates, mask, other } => match self.staged(value) {
                Some(tile) => self.read_shared(&tile, layout, 0).into(),
                None => self.load(value, *tensor, coordinates, *mask, *other, layout)?,
            },
            Operation::Dequantize { elements, scales } => self.dequantize(value, *elements, *scales, layout)?,
            Operation::Dot { .. } | Operation::Store { .. } | Operation::For { .. } => {
                return Err(Error::Internal { value, what: "it cannot be computed on demand" });
            }
        };
        Ok(registers)
    }

    /// Applies an elementwise operation to each register, once to equal operands.
    fn elementwise(&mut self, value: Value, operation: &Operation, layout: &Layout) -> Result<Registers<'a>, Error> {
        let operands: SmallVec<[Value; 4]> = operation.operands();
        let sources =
            operands.iter().map(|&operand| self.get(operand, layout)).collect::<Result<SmallVec<[_; 3]>, _>>()?;
        if let Operation::Cast(operand) = operation {
            let (from, to) = (self.program.type_of(*operand).element, self.program.type_of(value).element);
            return self.cast(value, &sources[0], from, to);
        }
        let mut done: HashMap<SmallVec<[usize; 3]>, Val<'a>> = HashMap::new();
        (0..layout.register_count())
            .map(|register| {
                let arguments: SmallVec<[Val<'a>; 3]> = sources.iter().map(|source| source[register]).collect();
                let key = arguments.iter().map(|argument| argument.to_raw().ptr as usize).collect();
                if let Some(&result) = done.get(&key) {
                    return Ok(result);
                }
                let result = self.scalar_operation(value, operation, operands[0], &arguments)?;
                done.insert(key, result);
                Ok(result)
            })
            .collect()
    }

    fn program_id(&mut self, axis: u8) -> Val<'a> {
        let axis = usize::from(axis).min(2);
        if let Some(id) = self.program_ids[axis] {
            return id;
        }
        let id = self.emitter.preamble(|e| {
            let word = e.scalar_type(Scalar::I32);
            e.intrinsic(&format!("llvm.nvvm.read.ptx.sreg.ctaid.{}", ["x", "y", "z"][axis]), &[], word)
        });
        self.program_ids[axis] = Some(id);
        id
    }

    /// A kernel parameter.
    pub fn parameter(&self, index: ArgumentIndex) -> Val<'a> {
        self.parameters[index.0 as usize]
    }

    /// A literal as a register of a value's element.
    pub fn literal(&mut self, literal: Literal, value: Value) -> Val<'a> {
        let element = self.program.type_of(value).element;
        self.literal_of(literal, element)
    }

    /// Number of the thread in its block.
    pub fn thread(&mut self) -> Val<'a> {
        if let Some(thread) = self.thread {
            return thread;
        }
        let thread = self.emitter.preamble(|e| {
            let word = e.scalar_type(Scalar::I32);
            e.intrinsic("llvm.nvvm.read.ptx.sreg.tid.x", &[], word)
        });
        self.thread = Some(thread);
        thread
    }

    /// The exclusive or of the images of the set bits of the thread number, made once in the preamble.
    pub fn thread_linear(&mut self, images: &[u32]) -> Val<'a> {
        if let Some(&value) = self.linear.get(images) {
            return value;
        }
        let thread = self.thread();
        // Runs of thread bits that move to runs of result bits are masked and shifted together.
        let mut runs: Vec<(usize, u32, u32)> = Vec::new();
        for (bit, &image) in images.iter().enumerate() {
            for target in (0..32).filter(|target| image >> target & 1 == 1) {
                match runs
                    .iter_mut()
                    .find(|(from, to, length)| from + *length as usize == bit && to + *length == target)
                {
                    Some((_, _, length)) => *length += 1,
                    None => runs.push((bit, target, 1)),
                }
            }
        }
        let bits = images.len();
        let value = self.emitter.preamble(|e| {
            let mut result: Option<Val<'a>> = None;
            for (from, to, length) in runs {
                let from_bits = from as u32;
                let whole = from + length as usize == bits;
                let mut part = thread;
                if !(whole && to <= from_bits && from_bits == 0) {
                    let mask = e.i32(i64::from(((1u32 << length) - 1) << from_bits));
                    part = e.and(part, mask);
                }
                part = if to >= from_bits { e.shl(part, to - from_bits) } else { e.lshr(part, from_bits - to) };
                result = Some(match result {
                    None => part,
                    Some(previous) => e.xor(previous, part),
                });
            }
            result.unwrap_or_else(|| e.i32(0))
        });
        self.linear.insert(images.to_vec(), value);
        value
    }

    /// The part of a coordinate that the thread number gives.
    pub fn coordinate(&mut self, layout: &Layout, shape: &[u32], dimension: usize) -> Val<'a> {
        let images: Vec<u32> =
            layout.lanes.iter().chain(&layout.warps).map(|&basis| Bits(shape).coordinate(dimension, basis)).collect();
        self.thread_linear(&images)
    }

    /// `value` plus a constant.
    pub fn add_constant(&mut self, value: Val<'a>, constant: i64) -> Val<'a> {
        if constant == 0 {
            return value;
        }
        let constant = self.emitter.i32(constant);
        self.emitter.add(value, constant)
    }

    /// True in one of the threads that hold copies of each element, or None if there are no copies.
    pub fn first_copy(&mut self, layout: &Layout) -> Option<Val<'a>> {
        let mask = layout.replicated_threads();
        if mask == 0 {
            return None;
        }
        let thread = self.thread();
        Some(self.emitter.preamble(|e| {
            let (mask, zero) = (e.i32(i64::from(mask)), e.i32(0));
            let copy = e.and(thread, mask);
            e.compare_integers(IntegerPredicate::Equal, copy, zero)
        }))
    }
}
