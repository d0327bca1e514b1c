//! What is known about a program's values before it runs: ranges and divisors of scalars, runs of equal elements of tiles, definitions and uses.

use smallvec::SmallVec;

use crate::tile::{
    Argument, ArgumentIndex, BinaryOperation, Block, Coordinate, Dimension, GridExtent, Instruction, Literal,
    Operation, Program, Value,
};

/// A loop, numbered in the order of entry; zero is the program's body.
pub(super) type LoopIndex = usize;

/// What is known about an I32 scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// Power of two that divides it.
    pub divisor: u64,
    /// Not below this.
    pub minimum: i64,
    /// Not above this.
    pub maximum: i64,
    /// Not above this integer argument less a constant.
    pub below: Option<(ArgumentIndex, i64)>,
}

/// Divisor of zero, and the largest that is tracked.
const LARGEST_DIVISOR: u64 = 1 << 32;

impl Range {
    const UNKNOWN: Self = Self { divisor: 1, minimum: i32::MIN as i64, maximum: i32::MAX as i64, below: None };

    fn constant(value: i64) -> Self {
        let divisor = if value == 0 { LARGEST_DIVISOR } else { 1 << value.trailing_zeros().min(32) };
        Self { divisor, minimum: value, maximum: value, below: None }
    }

    /// Its value, if only one is possible.
    pub fn value(self) -> Option<i64> {
        (self.minimum == self.maximum).then_some(self.minimum)
    }

    fn add(self, other: Self) -> Self {
        let below = match (self.below, self.value(), other.below, other.value()) {
            (Some((argument, slack)), _, _, Some(constant)) => Some((argument, slack - constant)),
            (_, Some(constant), Some((argument, slack)), _) => Some((argument, slack - constant)),
            _ => None,
        };
        Self {
            divisor: self.divisor.min(other.divisor),
            minimum: self.minimum + other.minimum,
            maximum: self.maximum + other.maximum,
            below,
        }
        .clamped()
    }

    fn negate(self) -> Self {
        Self { minimum: -self.maximum, maximum: -self.minimum, below: None, ..self }
    }

    fn multiply(self, other: Self) -> Self {
        let products = [
            self.minimum * other.minimum,
            self.minimum * other.maximum,
            self.maximum * other.minimum,
            self.maximum * other.maximum,
        ];
        Self {
            divisor: self.divisor.saturating_mul(other.divisor).min(LARGEST_DIVISOR),
            minimum: products.into_iter().min().unwrap_or(i64::MIN),
            maximum: products.into_iter().max().unwrap_or(i64::MAX),
            below: None,
        }
        .clamped()
    }

    /// Bounds of an index do not leave 32 bits: programs compute no index that wraps.
    fn clamped(self) -> Self {
        Self {
            minimum: self.minimum.clamp(Self::UNKNOWN.minimum, Self::UNKNOWN.maximum),
            maximum: self.maximum.clamp(Self::UNKNOWN.minimum, Self::UNKNOWN.maximum),
            ..self
        }
    }
}

/// What defines a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Definition<'p> {
    /// An operation.
    Operation(&'p Operation),
    /// The induction variable of a loop.
    Induction,
    /// A carried value of a loop.
    Carried,
    /// Nothing: the program never defines it.
    Nothing,
}

/// One operand position that reads a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Use<'p> {
    /// An operation; which operand does not matter.
    Operation(&'p Instruction),
    /// Handed back at the end of a loop's body, or carried into a loop.
    Carried,
}

/// Facts about all values of a program.
pub(super) struct Analysis<'p> {
    pub program: &'p Program,
    ranges: Vec<Range>,
    runs: Vec<SmallVec<[u32; 3]>>,
    definitions: Vec<Definition<'p>>,
    uses: Vec<Vec<Use<'p>>>,
    scopes: Vec<LoopIndex>,
    parents: Vec<LoopIndex>,
}

impl<'p> Analysis<'p> {
    /// Analyses a verified program.
    pub fn new(program: &'p Program) -> Self {
        let count = program.types.len();
        let mut analysis = Self {
            program,
            ranges: vec![Range::UNKNOWN; count],
            runs: program.types.iter().map(|tile| SmallVec::from_elem(1, tile.shape.len())).collect(),
            definitions: vec![Definition::Nothing; count],
            uses: vec![Vec::new(); count],
            scopes: vec![0; count],
            parents: vec![0],
        };
        analysis.block(&program.body, 0);
        analysis
    }

    pub fn range(&self, value: Value) -> Range {
        self.ranges[value.0 as usize]
    }

    /// How many neighbours along a dimension, from a multiple of that number on, are equal.
    pub fn run(&self, value: Value, dimension: usize) -> u32 {
        self.runs[value.0 as usize].get(dimension).copied().unwrap_or(1)
    }

    pub fn definition(&self, value: Value) -> Definition<'p> {
        self.definitions[value.0 as usize]
    }

    pub fn uses(&self, value: Value) -> &[Use<'p>] {
        &self.uses[value.0 as usize]
    }

    /// The loop whose body defines a value.
    pub fn scope(&self, value: Value) -> LoopIndex {
        self.scopes[value.0 as usize]
    }

    /// The loop of a body: that of its induction variable.
    pub fn loop_of(&self, body: &Block) -> LoopIndex {
        body.parameters.first().map_or(0, |&induction| self.scope(induction))
    }

    /// Whether a loop is another or lies inside of it.
    pub fn is_inside(&self, mut inner: LoopIndex, outer: LoopIndex) -> bool {
        loop {
            if inner == outer {
                return true;
            }
            if inner == 0 {
                return false;
            }
            inner = self.parents[inner];
        }
    }

    /// Power of two that divides a dimension.
    pub fn divisor(&self, dimension: Dimension) -> u64 {
        match dimension {
            Dimension::Constant(value) => Range::constant(value as i64).divisor,
            Dimension::Argument(index) => match self.program.arguments.get(index.0 as usize) {
                Some(Argument::Integer { divisor, .. }) => u64::from(*divisor),
                _ => 1,
            },
        }
    }

    /// Whether `length` indices from `start` are surely inside an extent.
    pub fn inside(&self, start: Value, length: u32, extent: Dimension) -> bool {
        let range = self.range(start);
        let last = i64::from(length) - 1;
        range.minimum >= 0
            && match extent {
                Dimension::Constant(extent) => range.maximum + last < extent as i64,
                Dimension::Argument(argument) => {
                    matches!(range.below, Some((bound, slack)) if bound == argument && slack > last)
                }
            }
    }

    fn block(&mut self, block: &'p Block, scope: LoopIndex) {
        for instruction in &block.instructions {
            for operand in instruction.operation.operands() {
                self.uses[operand.0 as usize].push(Use::Operation(instruction));
            }
            for &result in &instruction.results {
                self.definitions[result.0 as usize] = Definition::Operation(&instruction.operation);
                self.scopes[result.0 as usize] = scope;
            }
            if let Operation::For { lower, upper, step, initial, body } = &instruction.operation {
                for &value in initial {
                    self.uses[value.0 as usize].push(Use::Carried);
                }
                let inner = self.parents.len();
                self.parents.push(scope);
                for (position, &parameter) in body.parameters.iter().enumerate() {
                    self.scopes[parameter.0 as usize] = inner;
                    self.definitions[parameter.0 as usize] =
                        if position == 0 { Definition::Induction } else { Definition::Carried };
                }
                if let Some(&induction) = body.parameters.first() {
                    self.ranges[induction.0 as usize] = self.induction(*lower, *upper, *step);
                }
                self.block(body, inner);
                for &value in &body.yields {
                    self.uses[value.0 as usize].push(Use::Carried);
                }
            } else if let Some(&result) = instruction.results.first() {
                self.ranges[result.0 as usize] = self.derive_range(&instruction.operation);
                self.runs[result.0 as usize] = self.derive_runs(&instruction.operation, result);
            }
        }
    }

    fn induction(&self, lower: Value, upper: Value, step: u32) -> Range {
        let (low, high) = (self.range(lower), self.range(upper));
        let step_divisor = Range::constant(i64::from(step)).divisor;
        let divisor = low.divisor.min(step_divisor);
        // With bounds that are multiples of the step, the last value lies a whole step below the upper one.
        let aligned = step.is_power_of_two() && low.divisor.min(high.divisor) >= u64::from(step);
        let slack = if aligned { i64::from(step) } else { 1 };
        let below = match self.definition(upper) {
            Definition::Operation(Operation::Argument(index)) => Some((*index, slack)),
            _ => high.below.map(|(argument, more)| (argument, more + slack)),
        };
        Range { divisor, minimum: low.minimum, maximum: (high.maximum - slack).max(low.minimum), below }
    }

    fn derive_range(&self, operation: &Operation) -> Range {
        match operation {
            Operation::ProgramId(axis) => {
                let GridExtent::Tiles { dimension, block } = self.program.grid[usize::from(*axis).min(2)];
                match dimension {
                    Dimension::Constant(extent) => Range {
                        minimum: 0,
                        maximum: (extent.div_ceil(u64::from(block.max(1))) as i64 - 1).max(0),
                        ..Range::UNKNOWN
                    },
                    Dimension::Argument(argument) => {
                        Range { minimum: 0, below: (block == 1).then_some((argument, 1)), ..Range::UNKNOWN }
                    }
                }
            }
            Operation::Argument(index) => Range {
                divisor: self.divisor(Dimension::Argument(*index)),
                minimum: 0,
                below: Some((*index, 0)),
                ..Range::UNKNOWN
            },
            // Beyond 32 bits it is a constant of another type, which is no index.
            Operation::Constant(Literal::Integer(value)) if i32::try_from(*value).is_ok() => Range::constant(*value),
            Operation::Iota => Range { minimum: 0, ..Range::UNKNOWN },
            Operation::Binary(BinaryOperation::Add, a, b) => self.range(*a).add(self.range(*b)),
            Operation::Binary(BinaryOperation::Subtract, a, b) => self.range(*a).add(self.range(*b).negate()),
            Operation::Binary(BinaryOperation::Multiply, a, b) => {
                let mut product = self.range(*a).multiply(self.range(*b));
                if let Some(start) = self.block_start(*a, *b).or_else(|| self.block_start(*b, *a)) {
                    product = Range { divisor: product.divisor, ..start };
                }
                product
            }
            Operation::Binary(BinaryOperation::Divide, a, b) => match (self.range(*a), self.range(*b).value()) {
                (range, Some(constant)) if constant > 0 && range.minimum >= 0 => Range {
                    divisor: if constant.count_ones() == 1 { (range.divisor / constant as u64).max(1) } else { 1 },
                    minimum: range.minimum / constant,
                    maximum: range.maximum / constant,
                    below: range.below.filter(|&(_, slack)| slack >= 0),
                },
                _ => Range::UNKNOWN,
            },
            Operation::Binary(BinaryOperation::Remainder, a, b) => match (self.range(*a), self.range(*b).value()) {
                (range, Some(constant)) if constant > 0 && range.minimum >= 0 => Range {
                    divisor: range.divisor.min(Range::constant(constant).divisor),
                    minimum: 0,
                    maximum: range.maximum.min(constant - 1),
                    below: range.below,
                },
                _ => Range::UNKNOWN,
            },
            Operation::Binary(BinaryOperation::Minimum, a, b) => {
                let (a, b) = (self.range(*a), self.range(*b));
                Range {
                    divisor: a.divisor.min(b.divisor),
                    minimum: a.minimum.min(b.minimum),
                    maximum: a.maximum.min(b.maximum),
                    below: a.below.or(b.below),
                }
            }
            Operation::Binary(BinaryOperation::Maximum, a, b) => {
                let (a, b) = (self.range(*a), self.range(*b));
                Range {
                    divisor: a.divisor.min(b.divisor),
                    minimum: a.minimum.max(b.minimum),
                    maximum: a.maximum.max(b.maximum),
                    below: None,
                }
            }
            _ => Range::UNKNOWN,
        }
    }

    /// The range of `program · block` where the grid cuts a dimension into such blocks.
    fn block_start(&self, program: Value, block: Value) -> Option<Range> {
        let Definition::Operation(Operation::ProgramId(axis)) = self.definition(program) else { return None };
        let GridExtent::Tiles { dimension: Dimension::Argument(argument), block: size } =
            self.program.grid[usize::from(*axis).min(2)]
        else {
            return None;
        };
        let factor = self.range(block).value()?;
        (factor == i64::from(size)).then(|| {
            let whole = self.divisor(Dimension::Argument(argument)) >= factor as u64 && factor.count_ones() == 1;
            Range { minimum: 0, below: Some((argument, if whole { factor } else { 1 })), ..Range::UNKNOWN }
        })
    }

    fn derive_runs(&self, operation: &Operation, result: Value) -> SmallVec<[u32; 3]> {
        let shape = &self.program.type_of(result).shape;
        let rank = shape.len();
        match operation {
            Operation::Constant(_) => shape.clone(),
            Operation::Broadcast { value, axes } => (0..rank)
                .map(|dimension| match axes.iter().position(|&axis| usize::from(axis) == dimension) {
                    Some(position) => self.run(*value, position),
                    None => shape[dimension],
                })
                .collect(),
            Operation::Transpose(value) => {
                let mut runs = self.runs[value.0 as usize].clone();
                runs.reverse();
                runs
            }
            Operation::Reduce { value, axis, .. } => {
                (0..=rank).filter(|&d| d != usize::from(*axis)).map(|d| self.run(*value, d)).collect()
            }
            Operation::Unary(..)
            | Operation::Binary(..)
            | Operation::Compare(..)
            | Operation::Select(..)
            | Operation::Cast(_)
            | Operation::Bitcast(_) => {
                let operands = operation.operands();
                (0..rank).map(|d| operands.iter().map(|&operand| self.run(operand, d)).min().unwrap_or(1)).collect()
            }
            _ => SmallVec::from_elem(1, rank),
        }
    }
}

/// Which dimension of the tile each dimension of the tensor spans, if any.
pub(super) fn tile_dimensions(coordinates: &[Coordinate]) -> SmallVec<[Option<usize>; 4]> {
    let mut next = 0;
    coordinates
        .iter()
        .map(|coordinate| match coordinate {
            Coordinate::At(_) => None,
            Coordinate::Block { .. } | Coordinate::Gather(_) => {
                next += 1;
                Some(next - 1)
            }
        })
        .collect()
}
