//! Writing programs instruction by instruction.

use smallvec::{SmallVec, smallvec};

use super::E2M1_PER_WORD;
use super::program::{
    Access, Argument, ArgumentIndex, BinaryOperation, Block, Coordinate, Dimension, Element, GridExtent, Instruction,
    Literal, Operation, Predicate, Program, Reduction, Schedule, TensorArgument, TileType, UnaryOperation, Value,
};

/// Builds a [`Program`]. Result types follow from the operands; what does not fit together is found by [`verify`](super::verify).
#[derive(Clone)]
pub struct Builder {
    program: Program,
    /// Blocks under construction, innermost last. The first is the program's body.
    blocks: Vec<Block>,
    /// Loops under construction, innermost last.
    loops: Vec<OpenLoop>,
}

/// What is known of a loop before its body is built.
#[derive(Clone)]
struct OpenLoop {
    lower: Value,
    upper: Value,
    step: u32,
    initial: Vec<Value>,
}

impl Builder {
    /// Starts a program with no arguments and a grid of one.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            program: Program {
                name: name.into(),
                summary: Vec::new(),
                arguments: Vec::new(),
                grid: [GridExtent::fixed(1); 3],
                schedule: Schedule::default(),
                types: Vec::new(),
                body: Block::default(),
            },
            blocks: vec![Block::default()],
            loops: Vec::new(),
        }
    }

    /// Adds a line to the summary that heads the kernel.
    pub fn summary(&mut self, line: impl Into<String>) -> &mut Self {
        self.program.summary.push(line.into());
        self
    }

    /// Sets the grid.
    pub fn grid(&mut self, grid: [GridExtent; 3]) -> &mut Self {
        self.program.grid = grid;
        self
    }

    /// Sets the schedule.
    pub fn schedule(&mut self, schedule: Schedule) -> &mut Self {
        self.program.schedule = schedule;
        self
    }

    /// Adds a tensor argument.
    pub fn tensor(&mut self, tensor: TensorArgument) -> ArgumentIndex {
        self.argument(Argument::Tensor(tensor))
    }

    /// Adds a row-major contiguous tensor argument with 16-byte alignment. All extents but the first must be constants.
    ///
    /// # Panics
    /// If an inner extent is not a constant: its stride would need an argument of its own.
    pub fn contiguous(&mut self, name: &str, element: Element, extents: &[Dimension], access: Access) -> ArgumentIndex {
        let mut strides: SmallVec<[Dimension; 4]> = smallvec![];
        let mut stride = 1;
        for (position, extent) in extents.iter().enumerate().rev() {
            strides.insert(0, Dimension::Constant(stride));
            match extent {
                Dimension::Constant(extent) => stride *= extent,
                Dimension::Argument(_) => {
                    assert!(position == 0, "inner extent of {name} is not a constant")
                }
            }
        }
        self.tensor(TensorArgument {
            name: name.into(),
            element,
            extents: SmallVec::from_slice(extents),
            strides,
            access,
            alignment: 16,
        })
    }

    /// Adds an integer argument of which `divisor`, a power of two, is known to be a divisor.
    pub fn integer(&mut self, name: &str, divisor: u32) -> ArgumentIndex {
        self.argument(Argument::Integer { name: name.into(), divisor })
    }

    /// Adds a float argument.
    pub fn float(&mut self, name: &str) -> ArgumentIndex {
        self.argument(Argument::Float { name: name.into() })
    }

    fn argument(&mut self, argument: Argument) -> ArgumentIndex {
        self.program.arguments.push(argument);
        ArgumentIndex(self.program.arguments.len() as u32 - 1)
    }

    /// Type of a value built so far.
    pub fn type_of(&self, value: Value) -> &TileType {
        self.program.type_of(value)
    }

    fn value(&mut self, tile: TileType) -> Value {
        self.program.types.push(tile);
        Value(self.program.types.len() as u32 - 1)
    }

    fn current(&mut self) -> &mut Block {
        self.blocks.last_mut().expect("the body stays on the stack until finish")
    }

    fn push(&mut self, operation: Operation, tile: TileType) -> Value {
        let result = self.value(tile);
        self.current().instructions.push(Instruction { results: smallvec![result], operation });
        result
    }

    /// Position in the grid along an axis.
    pub fn program_id(&mut self, axis: u8) -> Value {
        self.push(Operation::ProgramId(axis), TileType::scalar(Element::I32))
    }

    /// Value of an integer or float argument.
    pub fn argument_value(&mut self, index: ArgumentIndex) -> Value {
        let element = match self.program.arguments.get(index.0 as usize) {
            Some(Argument::Float { .. }) => Element::F32,
            _ => Element::I32,
        };
        self.push(Operation::Argument(index), TileType::scalar(element))
    }

    /// An extent as an I32 scalar.
    pub fn dimension(&mut self, dimension: Dimension) -> Value {
        match dimension {
            Dimension::Constant(extent) => self.index(extent as i64),
            Dimension::Argument(index) => self.argument_value(index),
        }
    }

    /// An I32 scalar constant.
    pub fn index(&mut self, value: i64) -> Value {
        self.constant(Literal::Integer(value), &[], Element::I32)
    }

    /// A tile with every element equal to the literal.
    pub fn constant(&mut self, literal: Literal, shape: &[u32], element: Element) -> Value {
        self.push(Operation::Constant(literal), TileType::new(shape, element))
    }

    /// A float tile with every element equal to `value`.
    pub fn splat(&mut self, value: f64, shape: &[u32], element: Element) -> Value {
        self.constant(Literal::Float(value), shape, element)
    }

    /// 0, 1, … length − 1.
    pub fn iota(&mut self, length: u32) -> Value {
        self.push(Operation::Iota, TileType::new(&[length], Element::I32))
    }

    /// Elementwise operation of one operand.
    pub fn unary(&mut self, operation: UnaryOperation, value: Value) -> Value {
        let tile = self.type_of(value).clone();
        self.push(Operation::Unary(operation, value), tile)
    }

    /// Elementwise operation of two operands of one type.
    pub fn binary(&mut self, operation: BinaryOperation, a: Value, b: Value) -> Value {
        let tile = self.type_of(a).clone();
        self.push(Operation::Binary(operation, a, b), tile)
    }

    /// a + b
    pub fn add(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOperation::Add, a, b)
    }

    /// a − b
    pub fn subtract(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOperation::Subtract, a, b)
    }

    /// a · b
    pub fn multiply(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOperation::Multiply, a, b)
    }

    /// a / b
    pub fn divide(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOperation::Divide, a, b)
    }

    /// The larger.
    pub fn maximum(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOperation::Maximum, a, b)
    }

    /// The smaller.
    pub fn minimum(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOperation::Minimum, a, b)
    }

    /// Both (Bool or bits).
    pub fn and(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOperation::And, a, b)
    }

    /// A scalar times a constant.
    pub fn scale(&mut self, value: Value, factor: i64) -> Value {
        let factor = self.index(factor);
        self.multiply(value, factor)
    }

    /// Comparison; the result is Bool.
    pub fn compare(&mut self, predicate: Predicate, a: Value, b: Value) -> Value {
        let tile = TileType { shape: self.type_of(a).shape.clone(), element: Element::Bool };
        self.push(Operation::Compare(predicate, a, b), tile)
    }

    /// `a` where the condition holds, else `b`.
    pub fn select(&mut self, condition: Value, a: Value, b: Value) -> Value {
        let tile = self.type_of(a).clone();
        self.push(Operation::Select(condition, a, b), tile)
    }

    /// Numeric conversion; the value itself where it has the element already.
    pub fn cast(&mut self, value: Value, element: Element) -> Value {
        let tile = self.type_of(value).clone();
        if tile.element == element {
            return value;
        }
        self.push(Operation::Cast(value), TileType { element, ..tile })
    }

    /// The same bits as another element.
    pub fn bitcast(&mut self, value: Value, element: Element) -> Value {
        let tile = TileType { element, ..self.type_of(value).clone() };
        self.push(Operation::Bitcast(value), tile)
    }

    /// Operand dimension `i` becomes dimension `axes[i]` of `shape`; the value itself where nothing changes.
    pub fn broadcast(&mut self, value: Value, axes: &[u8], shape: &[u32]) -> Value {
        let tile = self.type_of(value).clone();
        if tile.shape.as_slice() == shape {
            return value;
        }
        let result = TileType::new(shape, tile.element);
        self.push(Operation::Broadcast { value, axes: SmallVec::from_slice(axes) }, result)
    }

    /// Repeats a scalar over a shape.
    pub fn fill(&mut self, scalar: Value, shape: &[u32]) -> Value {
        self.broadcast(scalar, &[], shape)
    }

    /// Swap of the two dimensions.
    pub fn transpose(&mut self, value: Value) -> Value {
        let mut tile = self.type_of(value).clone();
        tile.shape.reverse();
        self.push(Operation::Transpose(value), tile)
    }

    /// The elements in another order; see [`Operation::Rearrange`].
    pub fn rearrange(&mut self, value: Value, extents: &[u32], permutation: &[u8], shape: &[u32]) -> Value {
        let tile = TileType::new(shape, self.type_of(value).element);
        let (extents, permutation) = (SmallVec::from_slice(extents), SmallVec::from_slice(permutation));
        self.push(Operation::Rearrange { value, extents, permutation }, tile)
    }

    /// Combines along an axis.
    pub fn reduce(&mut self, reduction: Reduction, value: Value, axis: u8) -> Value {
        let mut tile = self.type_of(value).clone();
        if usize::from(axis) < tile.shape.len() {
            tile.shape.remove(usize::from(axis));
        }
        self.push(Operation::Reduce { reduction, value, axis }, tile)
    }

    /// Block-scaled elements as numbers of a float.
    pub fn dequantize(&mut self, elements: Value, scales: Value, element: Element) -> Value {
        let mut tile = self.type_of(elements).clone();
        if let Some(last) = tile.shape.last_mut() {
            *last *= match tile.element {
                Element::U8 => 2,
                Element::U32 => E2M1_PER_WORD,
                _ => 1,
            };
        }
        tile.element = element;
        self.push(Operation::Dequantize { elements, scales }, tile)
    }

    /// accumulator + lhs · rhs
    pub fn dot(&mut self, lhs: Value, rhs: Value, accumulator: Value) -> Value {
        let tile = self.type_of(accumulator).clone();
        self.push(Operation::Dot { lhs, rhs, accumulator }, tile)
    }

    /// Loads with zeros where the tensor ends.
    pub fn load(&mut self, tensor: ArgumentIndex, coordinates: &[Coordinate]) -> Value {
        self.load_masked(tensor, coordinates, None, None)
    }

    /// Loads with a mask and a value for what is not read (zero if None).
    pub fn load_masked(
        &mut self,
        tensor: ArgumentIndex,
        coordinates: &[Coordinate],
        mask: Option<Value>,
        other: Option<Literal>,
    ) -> Value {
        let element = self.program.tensor(tensor).map_or(Element::F32, |tensor| tensor.element);
        let shape: SmallVec<[u32; 3]> = coordinates
            .iter()
            .filter_map(|coordinate| match coordinate {
                Coordinate::At(_) => None,
                Coordinate::Block { length, .. } => Some(*length),
                Coordinate::Gather(indices) => self.type_of(*indices).shape.first().copied(),
            })
            .collect();
        let other = other.unwrap_or(if element.is_float() { Literal::Float(0.0) } else { Literal::Integer(0) });
        let coordinates = SmallVec::from_slice(coordinates);
        self.push(Operation::Load { tensor, coordinates, mask, other }, TileType { shape, element })
    }

    /// Stores what lies inside the tensor.
    pub fn store(&mut self, tensor: ArgumentIndex, coordinates: &[Coordinate], value: Value) {
        self.store_masked(tensor, coordinates, value, None);
    }

    /// Stores where the mask holds.
    pub fn store_masked(
        &mut self,
        tensor: ArgumentIndex,
        coordinates: &[Coordinate],
        value: Value,
        mask: Option<Value>,
    ) {
        let coordinates = SmallVec::from_slice(coordinates);
        let operation = Operation::Store { tensor, coordinates, mask, value };
        self.current().instructions.push(Instruction { results: smallvec![], operation });
    }

    /// A loop. `body` gets the induction variable and the carried values and returns those of the next iteration; the loop's
    /// results are the carried values after the last one.
    pub fn for_loop(
        &mut self,
        lower: Value,
        upper: Value,
        step: u32,
        initial: &[Value],
        body: impl FnOnce(&mut Self, Value, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        let (induction, carried) = self.open_loop(lower, upper, step, initial);
        let yields = body(self, induction, &carried);
        self.close_loop(yields)
    }

    /// Starts a loop whose body is what is built until [`Builder::close_loop`]; gives the induction variable and the carried
    /// values.
    pub fn open_loop(&mut self, lower: Value, upper: Value, step: u32, initial: &[Value]) -> (Value, Vec<Value>) {
        let induction = self.value(TileType::scalar(Element::I32));
        let types: Vec<TileType> = initial.iter().map(|&value| self.type_of(value).clone()).collect();
        let carried: Vec<Value> = types.into_iter().map(|tile| self.value(tile)).collect();
        let mut parameters = vec![induction];
        parameters.extend(&carried);
        self.blocks.push(Block { parameters, ..Block::default() });
        self.loops.push(OpenLoop { lower, upper, step, initial: initial.to_vec() });
        (induction, carried)
    }

    /// Ends the loop that was opened last; `yields` are the carried values of the next iteration. Gives the loop's results.
    ///
    /// # Panics
    /// If no loop is open.
    pub fn close_loop(&mut self, yields: Vec<Value>) -> Vec<Value> {
        let open = self.loops.pop().expect("a loop is open");
        let mut body = self.blocks.pop().expect("an open loop has a block");
        body.yields = yields;
        let types: Vec<TileType> = open.initial.iter().map(|&value| self.type_of(value).clone()).collect();
        let results: Vec<Value> = types.into_iter().map(|tile| self.value(tile)).collect();
        let OpenLoop { lower, upper, step, initial } = open;
        let operation = Operation::For { lower, upper, step, initial, body };
        self.current().instructions.push(Instruction { results: SmallVec::from_slice(&results), operation });
        results
    }

    /// How many values there are so far: what is built from now on gets higher numbers.
    pub fn value_count(&self) -> u32 {
        self.program.types.len() as u32
    }

    /// The finished program.
    pub fn finish(mut self) -> Program {
        self.program.body = self.blocks.pop().expect("the body stays on the stack until finish");
        self.program
    }
}
