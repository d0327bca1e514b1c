//! The state of writing one tile program, and arithmetic on blocks.
//!
//! A [`Block`] is a tile together with the kernel's axes that its dimensions run along. Blocks combine by their axes: a bias that varies
//! along the columns and a sum that varies along the rows meet in a tile of both, and nothing is repeated before it must be.

use std::collections::HashMap;

use smallvec::SmallVec;
use tessera_ir::{Graph, Type, ValueId};
use tessera_runtime::plan::Extent;

use super::arguments::Arguments;
use super::error::Cut;
use super::experts::ExpertRows;
use super::index::{Atom, Axis, Divisor, Index, Position};
use super::packing::PackedParameter;
use super::symbols::Symbols;
use crate::tile::{BinaryOperation, Builder, Dimension, Element, Literal, Predicate, Reduction, UnaryOperation, Value};

/// A tile whose dimension `i` runs along `axes[i]` of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The tile.
    pub value: Value,
    /// An axis for each of its dimensions.
    pub axes: SmallVec<[Axis; 3]>,
}

/// Which of the blocks that belong to a value at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The value itself.
    Whole,
    /// What it needs of each row, for the ops that reduce on the way: a maximum, a mean.
    First,
    /// A second such.
    Second,
}

/// What a block holds: a part of a value at a position.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// A value of the region.
    pub value: ValueId,
    /// Which part of what belongs to it.
    pub part: Part,
    /// Where.
    pub position: Position,
}

/// Which of the kernels of a region that takes two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The only one.
    Whole,
    /// Of an attention: looks at one part of so many of the keys and leaves the state of its softmax in memory. The third axis of the grid counts the parts.
    Part(u32),
    /// Merges the states of so many parts.
    Merge(u32),
    /// Of a grouped product: puts the rows in the order of their experts.
    Order,
    /// The same in three kernels: counts the rows of each expert,
    Count,
    /// adds the counts up,
    Scan,
    /// and writes the rows where they belong.
    Place,
    /// Multiplies rows that are in order.
    Ordered,
}

/// What the target wants of tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shaping {
    /// Whether every extent of a tile must be a power of two.
    pub powers_of_two: bool,
    /// Most elements of a row that are reduced at once; longer rows are looped over.
    pub longest_chunk: u32,
    /// Most elements of several rows that are reduced at once: of more rows shorter chunks are taken.
    pub largest_chunk: u32,
    /// Length of the chunks that a dot product sums over.
    pub dot_chunk: u32,
    /// Whether tiles of one expert's rows get programs of their own; otherwise a program takes all rows of an expert, in turns.
    pub rows_apart: bool,
    /// Keys that attention looks at in one step.
    pub attention_chunk: u32,
    /// Which of the region's kernels it is.
    pub phase: Phase,
}

/// An input of the region, in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputMemory {
    /// Power of two that divides the address.
    pub alignment: u32,
    /// Of a cache: its number of pages.
    pub pages: Option<Extent>,
    /// How its bytes are packed, if they are.
    pub packed: Option<PackedParameter>,
}

/// Writes one program.
#[derive(Clone)]
pub struct Emitter<'a> {
    /// What is computed.
    pub graph: &'a Graph,
    /// The symbols of its shapes.
    pub symbols: &'a Symbols,
    /// What the target wants.
    pub shaping: Shaping,
    /// Where the inputs of the graph are.
    pub inputs: &'a [InputMemory],
    /// The program so far.
    pub builder: Builder,
    /// The parameters so far.
    pub arguments: Arguments,
    /// Length of every axis.
    axes: Vec<u32>,
    /// Blocks that exist, by what they hold, one map for each open loop.
    blocks: Vec<HashMap<Key, Block>>,
    /// Tiles of indices that exist, likewise.
    indices: Vec<HashMap<Index, Block>>,
    /// While a body is tried out: what it computes that is worth computing once.
    trial: Option<Vec<Key>>,
    /// Number of scopes that do not repeat what is in them.
    unrepeated: usize,
    /// The rows that a grouped product is being computed for.
    pub expert_rows: Option<ExpertRows>,
}

impl<'a> Emitter<'a> {
    /// An empty program. Symbols of the region's shapes become its first values.
    pub fn new(
        graph: &'a Graph,
        symbols: &'a Symbols,
        inputs: &'a [InputMemory],
        shaping: Shaping,
        name: &str,
    ) -> Self {
        let mut emitter = Self {
            graph,
            symbols,
            shaping,
            inputs,
            builder: Builder::new(name),
            arguments: Arguments::default(),
            axes: Vec::new(),
            blocks: vec![HashMap::new()],
            indices: vec![HashMap::new()],
            trial: None,
            unrepeated: 1,
            expert_rows: None,
        };
        let nodes = graph.node_ids().flat_map(|id| graph.node(id).results());
        let mut used: Vec<usize> = nodes
            .filter_map(Type::as_tensor)
            .flat_map(|ty| ty.shape.iter())
            .filter_map(|dim| symbols.position(dim.as_symbol()?))
            .collect();
        used.sort_unstable();
        used.dedup();
        let pages = inputs.iter().filter_map(|input| input.pages.clone());
        for extent in used.into_iter().map(Extent::symbol).chain(pages) {
            emitter.arguments.declare(&mut emitter.builder, &extent);
        }
        emitter
    }

    /// A new axis.
    pub fn axis(&mut self, length: u32) -> Axis {
        self.axes.push(length);
        (self.axes.len() - 1) as Axis
    }

    /// A new axis and its lanes.
    pub fn lanes(&mut self, length: u32) -> Index {
        let axis = self.axis(length);
        Index::lane(axis, length)
    }

    /// Length of an axis.
    pub fn length(&self, axis: Axis) -> u32 {
        self.axes[usize::from(axis)]
    }

    /// Tile shape of a list of axes.
    pub fn shape(&self, axes: &[Axis]) -> SmallVec<[u32; 3]> {
        axes.iter().map(|axis| self.length(*axis)).collect()
    }

    /// The tile extent that covers `length` elements.
    pub fn covering(&self, length: u64) -> u32 {
        let length = u32::try_from(length.max(1)).unwrap_or(u32::MAX / 2);
        if self.shaping.powers_of_two { length.next_power_of_two() } else { length }
    }

    /// What exists already.
    pub fn known(&self, key: &Key) -> Option<Block> {
        self.blocks.iter().rev().find_map(|scope| scope.get(key)).cloned()
    }

    /// Remembers a block for as long as the present loop's body lasts.
    pub fn remember(&mut self, key: Key, block: Block) {
        if let Some(scope) = self.blocks.last_mut() {
            scope.insert(key, block);
        }
    }

    /// The block for `key`, computed at most once. Expensive ones are kept out of loops that they do not depend on.
    pub fn once(&mut self, key: Key, compute: impl FnOnce(&mut Self) -> Result<Block, Cut>) -> Result<Block, Cut> {
        if let Some(block) = self.known(&key) {
            return Ok(block);
        }
        if let Some(trial) = &mut self.trial {
            trial.push(key.clone());
        }
        let block = compute(self)?;
        self.remember(key, block.clone());
        Ok(block)
    }

    /// What `body` asks for that is worth computing before it, in order, without keeping what it builds.
    pub fn wanted(&self, body: impl FnOnce(&mut Self) -> Result<(), Cut>) -> Result<Vec<Key>, Cut> {
        let mut trial = self.clone();
        trial.trial = Some(Vec::new());
        body(&mut trial)?;
        let newest = self.builder.value_count();
        let axes = self.axes.len();
        let exists = |index: &Index| {
            index.newest_value().is_none_or(|value| value.0 < newest)
                && index.axes().iter().all(|axis| usize::from(*axis) < axes)
        };
        let keys = trial.trial.unwrap_or_default();
        Ok(keys.into_iter().filter(|key| key.position.iter().all(exists)).collect())
    }

    /// for i in (0..upper).step_by(step): `body` gets i and the carried blocks and gives the next ones. What the body needs and
    /// does not depend on i is computed before the loop.
    pub fn for_each(
        &mut self,
        upper: Dimension,
        step: u32,
        initial: &[Block],
        body: impl Fn(&mut Self, &Index, &[Block]) -> Result<Vec<Block>, Cut>,
    ) -> Result<Vec<Block>, Cut> {
        let limit = match upper {
            Dimension::Constant(upper) => Some(upper.div_ceil(step.into()).max(1)),
            Dimension::Argument(_) => None,
        };
        let upper = self.extent(upper);
        let bounds = [self.builder.index(0), self.lower_scalar(&upper)];
        self.for_range(bounds, step, limit, initial, body)
    }

    /// As [`Emitter::for_each`] between scalars; `limit` bounds the number of iterations, and the lower one is a multiple of
    /// the step.
    pub fn for_range(
        &mut self,
        bounds: [Value; 2],
        step: u32,
        limit: Option<u64>,
        initial: &[Block],
        body: impl Fn(&mut Self, &Index, &[Block]) -> Result<Vec<Block>, Cut>,
    ) -> Result<Vec<Block>, Cut> {
        let run = |emitter: &mut Self| {
            let values: Vec<Value> = initial.iter().map(|block| block.value).collect();
            let (induction, carried) = emitter.builder.open_loop(bounds[0], bounds[1], step, &values);
            emitter.open_scope();
            let index = Index::stepped(induction, step, limit);
            let carried: Vec<Block> = carried
                .into_iter()
                .zip(initial)
                .map(|(value, from)| Block { value, axes: from.axes.clone() })
                .collect();
            let yields = body(emitter, &index, &carried)?;
            let yields = yields.iter().zip(initial).map(|(block, from)| emitter.spread(block, &from.axes)).collect();
            emitter.close_scope();
            let results = emitter.builder.close_loop(yields);
            Ok(results.into_iter().zip(initial).map(|(value, from)| Block { value, axes: from.axes.clone() }).collect())
        };
        if self.trial.is_none() {
            let wanted = self.wanted(|emitter| {
                let _: Vec<Block> = run(emitter)?;
                Ok(())
            })?;
            self.prepare(&wanted)?;
        }
        run(self)
    }

    /// What is remembered from here on is forgotten at [`Emitter::close_scope`].
    pub fn open_scope(&mut self) {
        self.blocks.push(HashMap::new());
        self.indices.push(HashMap::new());
    }

    /// Ends the scope that was opened last.
    pub fn close_scope(&mut self) {
        self.blocks.pop();
        self.indices.pop();
    }

    /// Axes of a length, the oldest first.
    pub fn axes_of_length(&self, length: u32) -> impl Iterator<Item = Axis> + '_ {
        (0..self.axes.len() as Axis).filter(move |axis| self.length(*axis) == length)
    }

    /// Whether what is built now is built inside a loop that repeats it.
    pub fn is_repeated(&self) -> bool {
        self.blocks.len() > self.unrepeated
    }

    /// Does `body` only where the scalar condition holds.
    pub fn conditionally(
        &mut self,
        condition: &Block,
        body: impl FnOnce(&mut Self) -> Result<(), Cut>,
    ) -> Result<(), Cut> {
        let times = self.cast(condition, Element::I32);
        let zero = self.builder.index(0);
        self.builder.open_loop(zero, times.value, 1, &[]);
        self.open_scope();
        self.unrepeated += 1;
        body(self)?;
        self.unrepeated -= 1;
        self.close_scope();
        self.builder.close_loop(Vec::new());
        Ok(())
    }

    // Arithmetic.

    /// Element of a block.
    pub fn element(&self, block: &Block) -> Element {
        self.builder.type_of(block.value).element
    }

    /// A scalar block.
    pub fn scalar(&self, value: Value) -> Block {
        Block { value, axes: SmallVec::new() }
    }

    /// A number as a block of the element.
    pub fn number(&mut self, number: f64, element: Element) -> Block {
        let literal = if element.is_float() { Literal::Float(number) } else { Literal::Integer(number as i64) };
        self.literal(literal, element)
    }

    /// A literal as a scalar block of the element.
    pub fn literal(&mut self, literal: Literal, element: Element) -> Block {
        let value = self.builder.constant(literal, &[], element);
        self.scalar(value)
    }

    /// The tile of the block with the dimensions in the order of `axes`, repeated along those it lacks.
    ///
    /// `axes` must contain all axes of the block.
    pub fn spread(&mut self, block: &Block, axes: &[Axis]) -> Value {
        if block.axes.as_slice() == axes {
            return block.value;
        }
        let positions: SmallVec<[u8; 3]> = block
            .axes
            .iter()
            .filter_map(|axis| axes.iter().position(|other| other == axis).map(|position| position as u8))
            .collect();
        let shape = self.shape(axes);
        if positions.windows(2).all(|pair| pair[0] < pair[1]) {
            return self.builder.broadcast(block.value, &positions, &shape);
        }
        // Two dimensions in the other order: there are no tiles of which more could be out of order.
        let turned = self.builder.transpose(block.value);
        let reversed: SmallVec<[u8; 3]> = positions.iter().rev().copied().collect();
        self.builder.broadcast(turned, &reversed, &shape)
    }

    /// Axes for a result of these operands: those of the widest operand, or all in increasing order.
    pub fn union(&self, blocks: &[&Block]) -> SmallVec<[Axis; 3]> {
        let mut all: SmallVec<[Axis; 3]> = blocks.iter().flat_map(|block| block.axes.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        blocks.iter().map(|block| &block.axes).find(|axes| axes.len() == all.len()).cloned().unwrap_or(all)
    }

    /// Elementwise operation of one operand.
    pub fn unary(&mut self, operation: UnaryOperation, block: &Block) -> Block {
        Block { value: self.builder.unary(operation, block.value), axes: block.axes.clone() }
    }

    /// Elementwise operation of two operands of one element.
    pub fn binary(&mut self, operation: BinaryOperation, a: &Block, b: &Block) -> Block {
        let axes = self.union(&[a, b]);
        let (a, b) = (self.spread(a, &axes), self.spread(b, &axes));
        Block { value: self.builder.binary(operation, a, b), axes }
    }

    /// a + b
    pub fn add(&mut self, a: &Block, b: &Block) -> Block {
        self.binary(BinaryOperation::Add, a, b)
    }

    /// a − b
    pub fn subtract(&mut self, a: &Block, b: &Block) -> Block {
        self.binary(BinaryOperation::Subtract, a, b)
    }

    /// a · b
    pub fn multiply(&mut self, a: &Block, b: &Block) -> Block {
        self.binary(BinaryOperation::Multiply, a, b)
    }

    /// a / b
    pub fn divide(&mut self, a: &Block, b: &Block) -> Block {
        self.binary(BinaryOperation::Divide, a, b)
    }

    /// The larger.
    pub fn maximum(&mut self, a: &Block, b: &Block) -> Block {
        self.binary(BinaryOperation::Maximum, a, b)
    }

    /// Both.
    pub fn and(&mut self, a: &Block, b: &Block) -> Block {
        self.binary(BinaryOperation::And, a, b)
    }

    /// A block times a number.
    pub fn scale(&mut self, block: &Block, factor: f64) -> Block {
        let factor = self.number(factor, self.element(block));
        self.multiply(block, &factor)
    }

    /// A block plus a number.
    pub fn shift(&mut self, block: &Block, term: f64) -> Block {
        let term = self.number(term, self.element(block));
        self.add(block, &term)
    }

    /// Comparison.
    pub fn compare(&mut self, predicate: Predicate, a: &Block, b: &Block) -> Block {
        let axes = self.union(&[a, b]);
        let (a, b) = (self.spread(a, &axes), self.spread(b, &axes));
        Block { value: self.builder.compare(predicate, a, b), axes }
    }

    /// `a` where the condition holds, else `b`.
    pub fn select(&mut self, condition: &Block, a: &Block, b: &Block) -> Block {
        let axes = self.union(&[condition, a, b]);
        let [condition, a, b] = [condition, a, b].map(|block| self.spread(block, &axes));
        Block { value: self.builder.select(condition, a, b), axes }
    }

    /// Numeric conversion.
    pub fn cast(&mut self, block: &Block, element: Element) -> Block {
        Block { value: self.builder.cast(block.value, element), axes: block.axes.clone() }
    }

    /// The block in the element that arithmetic is done in.
    pub fn wide(&mut self, block: &Block) -> Block {
        let element = arithmetic_element(self.element(block));
        self.cast(block, element)
    }

    /// Combines a block along one of its axes; along one it lacks, it is repeated first.
    pub fn reduce(&mut self, reduction: Reduction, block: &Block, axis: Axis) -> Block {
        let mut axes = block.axes.clone();
        if !axes.contains(&axis) {
            axes.push(axis);
        }
        let value = self.spread(block, &axes);
        let position = axes.iter().position(|other| *other == axis).unwrap_or(0);
        axes.remove(position);
        Block { value: self.builder.reduce(reduction, value, position as u8), axes }
    }

    // Indices.

    /// An extent as an index.
    pub fn extent(&mut self, dimension: Dimension) -> Index {
        match dimension {
            Dimension::Constant(extent) => Index::constant(extent as i64),
            Dimension::Argument(index) => match self.arguments.value(index) {
                Some(value) => Index::scalar(value),
                None => Index::scalar(self.builder.argument_value(index)),
            },
        }
    }

    /// The scalar that an index without axes stands for.
    pub fn lower_scalar(&mut self, index: &Index) -> Value {
        self.lower(index).value
    }

    /// An index as a block of I32 along its axes.
    pub fn lower(&mut self, index: &Index) -> Block {
        if let Some(block) = self.indices.iter().rev().find_map(|scope| scope.get(index)) {
            return block.clone();
        }
        let mut sum: Option<Block> = None;
        for (atom, coefficient) in index.terms() {
            let (block, factor) = match atom {
                Atom::Scalar { value, step, .. } if coefficient % i64::from(*step) == 0 => {
                    (self.scalar(*value), coefficient / i64::from(*step))
                }
                atom => (self.lower_atom(atom), *coefficient),
            };
            let block = if factor == 1 { block } else { self.scale(&block, factor as f64) };
            sum = Some(match sum {
                Some(sum) => self.add(&sum, &block),
                None => block,
            });
        }
        let block = match (sum, index.offset()) {
            (Some(sum), 0) => sum,
            (Some(sum), offset) => self.shift(&sum, offset as f64),
            (None, offset) => self.number(offset as f64, Element::I32),
        };
        if let Some(scope) = self.indices.last_mut() {
            scope.insert(index.clone(), block.clone());
        }
        block
    }

    fn lower_atom(&mut self, atom: &Atom) -> Block {
        match atom {
            Atom::Scalar { value, step, .. } => {
                let step = self.number(f64::from(*step), Element::I32);
                let value = self.scalar(*value);
                self.divide(&value, &step)
            }
            Atom::Lane { axis, .. } => {
                let length = self.length(*axis);
                Block { value: self.builder.iota(length), axes: SmallVec::from_slice(&[*axis]) }
            }
            Atom::Vector { value, axis } => Block { value: *value, axes: SmallVec::from_slice(&[*axis]) },
            Atom::Quotient(inner, divisor) => {
                let (inner, divisor) = (self.lower(inner), self.divisor(*divisor));
                self.divide(&inner, &divisor)
            }
            Atom::Remainder(inner, divisor) => {
                let (inner, divisor) = (self.lower(inner), self.divisor(*divisor));
                self.binary(BinaryOperation::Remainder, &inner, &divisor)
            }
            Atom::Product(inner, factor) => {
                let (inner, factor) = (self.lower(inner), self.scalar(*factor));
                self.multiply(&inner, &factor)
            }
        }
    }

    fn divisor(&mut self, divisor: Divisor) -> Block {
        match divisor {
            Divisor::Constant(number) => self.number(number as f64, Element::I32),
            Divisor::Scalar(value) => self.scalar(value),
        }
    }

    /// A block of integers as an index: a scalar, or one for each position along its axis. `None` if it has more axes.
    pub fn index_of(&mut self, block: &Block) -> Option<Index> {
        let block = self.cast(block, Element::I32);
        match block.axes.as_slice() {
            [] => Some(Index::scalar(block.value)),
            [axis] => Some(Index::atom(Atom::Vector { value: block.value, axis: *axis })),
            _ => None,
        }
    }

    /// Whether an axis of the index is longer than what counts of it.
    pub fn overhangs(&self, index: &Index) -> bool {
        index.lanes().iter().any(|(axis, length)| self.length(*axis) > *length)
    }

    /// Whether an index lies below an extent: `None` where that is certain.
    pub fn inside(&mut self, index: &Index, extent: Dimension) -> Option<Block> {
        if let Dimension::Constant(extent) = extent
            && index.is_within(extent)
            && !self.overhangs(index)
        {
            return None;
        }
        let extent = self.extent(extent);
        let (index, extent) = (self.lower(index), self.lower(&extent));
        Some(self.compare(Predicate::Less, &index, &extent))
    }
}

/// The element that arithmetic on an element of memory is done in: f32 for the narrow floats.
pub fn arithmetic_element(element: Element) -> Element {
    match element {
        Element::F16 | Element::BF16 | Element::Fp8E4M3 | Element::Fp8E5M2 => Element::F32,
        other => other,
    }
}
