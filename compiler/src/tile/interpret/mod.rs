//! Executes tile programs: the oracle that both targets are held against.
//!
//! Every value is kept as f64 or i64 and rounded to its element after each operation; dots and sums are taken in f64 and rounded
//! once. So a target agrees with the interpreter up to the order and the precision of its sums and the error of its elementary
//! functions. What no target can afford to check is checked here: see [`Problem`].

mod arithmetic;
mod memory;
#[cfg(test)]
mod tests;

use thiserror::Error;

pub use memory::TensorData;

use super::program::{
    Argument, Block, Coordinate, Dimension, GridExtent, Instruction, Literal, Operation, Program, TileType, Value,
};
use super::verify::{VerifyError, verify};
use arithmetic::Tile;
use memory::{Indices, Memory};

/// What is passed for one argument of a program.
#[derive(Clone, Debug, PartialEq)]
pub enum ArgumentData {
    /// For a tensor argument.
    Tensor(TensorData),
    /// For an integer argument.
    Integer(i64),
    /// For a float argument.
    Float(f32),
}

impl ArgumentData {
    /// The tensor, if it is one.
    pub fn tensor(&self) -> Option<&TensorData> {
        match self {
            Self::Tensor(data) => Some(data),
            _ => None,
        }
    }
}

/// What a program did that no program may do, or what it was given that it cannot be given.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum Problem {
    /// The program breaks a rule of the IR.
    #[error(transparent)]
    Invalid(Box<VerifyError>),
    /// The arguments do not fit the program's declaration.
    #[error("{0}")]
    Arguments(String),
    /// A tensor's memory is smaller than its extents and strides say.
    #[error("@{argument} has {elements} elements in memory, its extents and strides reach over {needed}")]
    Memory {
        /// The tensor.
        argument: String,
        /// What there is.
        elements: usize,
        /// What there should be.
        needed: u64,
    },
    /// [`Coordinate::At`] outside the tensor, in an access that is not masked off.
    #[error("index {index} of dimension {dimension} of @{argument} is outside of its {extent}")]
    OutOfBounds {
        /// The tensor.
        argument: String,
        /// Which dimension.
        dimension: usize,
        /// The index.
        index: i64,
        /// Extent of the dimension.
        extent: i64,
    },
    /// An element was accessed at an index whose computation left the range of its integer type.
    #[error("an index into @{argument} comes from integer arithmetic that wrapped")]
    WrappedIndex {
        /// The tensor.
        argument: String,
    },
    /// A loop bound whose computation left the range of its integer type.
    #[error("a loop bound comes from integer arithmetic that wrapped")]
    WrappedBound,
    /// An element was written a second time.
    #[error("element {offset} of @{argument} is written twice")]
    WrittenTwice {
        /// The tensor.
        argument: String,
        /// Offset in memory, in elements.
        offset: usize,
    },
    /// An element was read after it had been written.
    #[error("element {offset} of @{argument} is read after it is written")]
    ReadAfterWrite {
        /// The tensor.
        argument: String,
        /// Offset in memory, in elements.
        offset: usize,
    },
    /// An element that another program reads was written.
    #[error("element {offset} of @{argument} is written by one program and read by another")]
    WrittenAfterRead {
        /// The tensor.
        argument: String,
        /// Offset in memory, in elements.
        offset: usize,
    },
    /// A shift by a negative amount or by the width or more.
    #[error("shift by {amount} of a type of {width} bits")]
    Shift {
        /// By how much.
        amount: i64,
        /// Bits of the type.
        width: u32,
    },
}

/// An error of [`interpret`], and where it arose.
#[derive(Clone, Debug, Error, PartialEq)]
#[error("kernel @{kernel}{}: {problem}", position(.place))]
pub struct InterpretError {
    /// Name of the program.
    pub kernel: String,
    /// The program's position in the grid and the instruction, by its first result or its kind; none where it did not start.
    pub place: Option<([u32; 3], String)>,
    /// What is wrong.
    pub problem: Problem,
}

fn position(place: &Option<([u32; 3], String)>) -> String {
    place
        .as_ref()
        .map_or_else(String::new, |([x, y, z], instruction)| format!(", program ({x}, {y}, {z}), {instruction}"))
}

/// Runs every program of the grid.
///
/// Tensors are written in place. `arguments` are as many as [`Program::arguments`], in the same order.
///
/// # Errors
/// The first [`Problem`]. Tensors may have been written in part by then.
pub fn interpret(program: &Program, arguments: &mut [ArgumentData]) -> Result<(), InterpretError> {
    let error = |problem| InterpretError { kernel: program.name.clone(), place: None, problem };
    verify(program).map_err(|problem| error(Problem::Invalid(Box::new(problem))))?;
    let scalars = scalars(program, arguments).map_err(error)?;
    let grid = grid(program, &scalars).map_err(error)?;
    let mut machine = Machine {
        program,
        memories: memories(program, arguments, &scalars).map_err(error)?,
        scalars,
        values: vec![None; program.types.len()],
        position: [0; 3],
        number: 0,
    };
    for z in 0..grid[2] {
        for y in 0..grid[1] {
            for x in 0..grid[0] {
                machine.position = [x, y, z];
                machine.number += 1;
                machine.block(&program.body).map_err(|(instruction, problem)| InterpretError {
                    kernel: program.name.clone(),
                    place: Some((machine.position, instruction)),
                    problem,
                })?;
            }
        }
    }
    Ok(())
}

/// Value of each integer and float argument; none for tensors.
fn scalars(program: &Program, data: &[ArgumentData]) -> Result<Vec<Option<Literal>>, Problem> {
    if program.arguments.len() != data.len() {
        let counts = (program.arguments.len(), data.len());
        return Err(Problem::Arguments(format!("takes {} arguments and got {}", counts.0, counts.1)));
    }
    let scalar = |(argument, data): (&Argument, &ArgumentData)| match (argument, data) {
        (Argument::Integer { name, divisor }, &ArgumentData::Integer(value)) => {
            match i32::try_from(value).is_ok_and(|value| value >= 0) && value % i64::from(*divisor) == 0 {
                true => Ok(Some(Literal::Integer(value))),
                false => {
                    Err(Problem::Arguments(format!("@{name} = {value} is not a multiple of {divisor} in 31 bits")))
                }
            }
        }
        (Argument::Float { .. }, &ArgumentData::Float(value)) => Ok(Some(Literal::Float(value.into()))),
        (Argument::Tensor(tensor), ArgumentData::Tensor(data)) if tensor.element == data.element() => Ok(None),
        _ => Err(Problem::Arguments(format!("@{} got an argument of another type", argument.name()))),
    };
    program.arguments.iter().zip(data).map(scalar).collect()
}

fn dimension(dimension: Dimension, scalars: &[Option<Literal>]) -> u64 {
    match dimension {
        Dimension::Constant(value) => value,
        Dimension::Argument(index) => match scalars[index.0 as usize] {
            Some(Literal::Integer(value)) => value as u64,
            _ => 0,
        },
    }
}

fn grid(program: &Program, scalars: &[Option<Literal>]) -> Result<[u32; 3], Problem> {
    let extents = program
        .grid
        .map(|GridExtent::Tiles { dimension: extent, block }| dimension(extent, scalars).div_ceil(block.into()));
    let programs: u128 = extents.iter().map(|&extent| u128::from(extent)).product();
    if programs >= u128::from(u32::MAX) {
        return Err(Problem::Arguments(format!("a grid of {programs} programs is too large")));
    }
    // An axis may be long where another is empty.
    Ok(extents.map(|extent| if programs == 0 { 0 } else { extent as u32 }))
}

fn memories<'a>(
    program: &'a Program,
    data: &'a mut [ArgumentData],
    scalars: &[Option<Literal>],
) -> Result<Vec<Option<Memory<'a>>>, Problem> {
    let memory = |(argument, data): (&'a Argument, &'a mut ArgumentData)| match (argument, data) {
        (Argument::Tensor(tensor), ArgumentData::Tensor(data)) => {
            let extents = tensor.extents.iter().map(|&extent| dimension(extent, scalars)).collect();
            let strides = tensor.strides.iter().map(|&stride| dimension(stride, scalars)).collect();
            Memory::new(&tensor.name, data, extents, strides, tensor.access).map(Some)
        }
        _ => Ok(None),
    };
    program.arguments.iter().zip(data).map(memory).collect()
}

/// Runs one program after another.
struct Machine<'a> {
    program: &'a Program,
    scalars: Vec<Option<Literal>>,
    memories: Vec<Option<Memory<'a>>>,
    /// Of the program that runs; those of the program before are overwritten before they are used.
    values: Vec<Option<Tile>>,
    position: [u32; 3],
    /// Counts programs from 1.
    number: u32,
}

impl<'a> Machine<'a> {
    fn tile(&self, value: Value) -> &Tile {
        self.values[value.0 as usize].as_ref().expect("the verifier sees that values are defined before they are used")
    }

    fn scalar(&self, value: Value) -> i64 {
        self.tile(value).as_integers()[0]
    }

    fn set(&mut self, value: Value, tile: Tile) {
        self.values[value.0 as usize] = Some(tile);
    }

    fn block(&mut self, block: &Block) -> Result<(), (String, Problem)> {
        for instruction in &block.instructions {
            if let Operation::For { lower, upper, step, initial, body } = &instruction.operation {
                self.run_loop(&instruction.results, [*lower, *upper], *step, initial, body)?;
            } else {
                self.instruction(instruction).map_err(|problem| {
                    let name = instruction.results.first().map_or_else(|| "store".to_string(), Value::to_string);
                    (name, problem)
                })?;
            }
        }
        Ok(())
    }

    fn run_loop(
        &mut self,
        results: &[Value],
        bounds: [Value; 2],
        step: u32,
        initial: &[Value],
        body: &Block,
    ) -> Result<(), (String, Problem)> {
        if bounds.iter().any(|&bound| self.tile(bound).wrapped) {
            return Err(("for".into(), Problem::WrappedBound));
        }
        let [lower, upper] = bounds.map(|bound| self.scalar(bound));
        let mut carried: Vec<Tile> = initial.iter().map(|&value| self.tile(value).clone()).collect();
        for induction in (lower..upper).step_by(step as usize) {
            self.set(body.parameters[0], Tile::integers(vec![induction]));
            for (&parameter, tile) in body.parameters[1..].iter().zip(carried) {
                self.set(parameter, tile);
            }
            self.block(body)?;
            carried = body.yields.iter().map(|&value| self.tile(value).clone()).collect();
        }
        for (&result, tile) in results.iter().zip(carried) {
            self.set(result, tile);
        }
        Ok(())
    }

    fn instruction(&mut self, instruction: &Instruction) -> Result<(), Problem> {
        if let Operation::Store { tensor, coordinates, mask, value } = &instruction.operation {
            let (indices, mask) = (self.indices(coordinates), mask.map(|mask| self.tile(mask).clone()));
            let value = self.tile(*value).clone();
            let memory = self.memory(tensor.0);
            return memory.1.store(memory.0, &indices, mask.as_ref(), &value);
        }
        let result = instruction.results[0];
        let tile = self.evaluate(&instruction.operation, self.program.type_of(result))?;
        self.set(result, tile);
        Ok(())
    }

    fn indices(&self, coordinates: &[Coordinate]) -> Vec<Indices> {
        coordinates.iter().map(|&coordinate| Indices::new(coordinate, |value| self.tile(value).clone())).collect()
    }

    /// The number of the program that runs and a tensor argument.
    fn memory(&mut self, argument: u32) -> (u32, &mut Memory<'a>) {
        let memory = self.memories[argument as usize].as_mut();
        (self.number, memory.expect("the verifier sees that accesses name tensors"))
    }

    /// The result of an operation that has one.
    fn evaluate(&mut self, operation: &Operation, result: &TileType) -> Result<Tile, Problem> {
        let kind = |value: &Value| self.program.type_of(*value);
        Ok(match operation {
            Operation::ProgramId(axis) => Tile::integers(vec![self.position[usize::from(*axis)].into()]),
            Operation::Argument(index) => {
                let literal = self.scalars[index.0 as usize].unwrap_or(Literal::Integer(0));
                constant(literal, result)
            }
            Operation::Constant(literal) => constant(*literal, result),
            Operation::Iota => Tile::integers((0..result.len() as i64).collect()),
            Operation::Unary(operation, value) => arithmetic::unary(*operation, self.tile(*value), result.element),
            Operation::Binary(operation, a, b) => {
                arithmetic::binary(*operation, self.tile(*a), self.tile(*b), result.element)?
            }
            Operation::Compare(predicate, a, b) => arithmetic::compare(*predicate, self.tile(*a), self.tile(*b)),
            Operation::Select(condition, a, b) => {
                arithmetic::select(self.tile(*condition), self.tile(*a), self.tile(*b))
            }
            Operation::Cast(value) => arithmetic::cast(self.tile(*value), result.element),
            Operation::Bitcast(value) => arithmetic::bitcast(self.tile(*value), kind(value).element, result.element),
            Operation::Broadcast { value, axes } => {
                let source: Vec<usize> = axes.iter().map(|&axis| usize::from(axis)).collect();
                self.tile(*value).pick((0..result.len()).map(|position| project(position, &result.shape, &source)))
            }
            Operation::Transpose(value) => {
                let (rows, columns) = (result.shape[0] as usize, result.shape[1] as usize);
                self.tile(*value).pick((0..result.len()).map(|p| p % columns * rows + p / columns))
            }
            Operation::Rearrange { value, extents, permutation } => {
                let order = rearranged(extents, permutation);
                self.tile(*value).pick((0..result.len()).map(order))
            }
            Operation::Reduce { reduction, value, axis } => {
                arithmetic::reduce(*reduction, self.tile(*value), kind(value), usize::from(*axis))
            }
            Operation::Dequantize { elements, scales } => {
                let [stored, factors] = [elements, scales].map(|value| (self.tile(*value), kind(value)));
                arithmetic::dequantize(stored, factors, result)
            }
            Operation::Dot { lhs, rhs, accumulator } => {
                let [m, n, k] = [result.shape[0], result.shape[1], kind(lhs).shape[1]].map(|extent| extent as usize);
                arithmetic::dot(self.tile(*lhs), self.tile(*rhs), self.tile(*accumulator), [m, n, k], result.element)
            }
            Operation::Load { tensor, coordinates, mask, other } => {
                let (indices, mask) = (self.indices(coordinates), mask.map(|mask| self.tile(mask).clone()));
                let (number, memory) = self.memory(tensor.0);
                memory.load(number, &indices, mask.as_ref(), *other)?
            }
            Operation::Store { .. } | Operation::For { .. } => unreachable!("these have no single result"),
        })
    }
}

fn constant(literal: Literal, tile: &TileType) -> Tile {
    match literal {
        Literal::Float(value) => Tile::floats(vec![arithmetic::round(tile.element, value); tile.len()]),
        Literal::Integer(value) => Tile::integers(vec![value; tile.len()]),
    }
}

/// For each position of a rearranged tile the position in the operand.
fn rearranged(extents: &[u32], permutation: &[u8]) -> impl Fn(usize) -> usize {
    let strides: Vec<usize> =
        (0..extents.len()).map(|axis| extents[axis + 1..].iter().map(|&extent| extent as usize).product()).collect();
    let dimensions: Vec<(usize, usize)> =
        permutation.iter().map(|&axis| (extents[usize::from(axis)] as usize, strides[usize::from(axis)])).collect();
    move |position| {
        let mut rest = position;
        dimensions.iter().rev().fold(0, |sum, (extent, stride)| {
            let place = rest % extent;
            rest /= extent;
            sum + place * stride
        })
    }
}

/// Position in an operand whose dimensions are the dimensions `source` of `shape`, of what becomes `position` of the result.
fn project(position: usize, shape: &[u32], source: &[usize]) -> usize {
    let (mut rest, mut stride, mut projected) = (position, 1, 0);
    for (axis, &extent) in shape.iter().enumerate().rev() {
        if source.contains(&axis) {
            projected += rest % extent as usize * stride;
            stride *= extent as usize;
        }
        rest /= extent as usize;
    }
    projected
}
