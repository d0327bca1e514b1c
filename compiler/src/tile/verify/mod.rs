//! Checks that a program keeps the rules of the Tile IR.

#[cfg(test)]
mod tests;

use smallvec::SmallVec;
use thiserror::Error;

use crate::tile::E2M1_PER_WORD;
use crate::tile::program::{
    Access, Argument, ArgumentIndex, BinaryOperation, Block, Coordinate, Dimension, Element, GridExtent, Instruction,
    Literal, Operation, Program, TensorArgument, TileType, UnaryOperation, Value,
};

/// What is wrong with a program, and in which instruction.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("kernel @{kernel}: {instruction}: {problem}")]
pub struct VerifyError {
    /// Name of the program.
    pub kernel: String,
    /// The instruction, by its result or its kind.
    pub instruction: String,
    /// Position of the instruction among all of the program in the order of the text, loops before their bodies.
    pub position: Option<usize>,
    /// What is wrong.
    pub problem: String,
}

/// Elements of the largest tile: more than any target keeps at hand.
pub(crate) const LARGEST_TILE: usize = 1 << 24;

/// Checks a program; every pass that makes or changes one does so.
///
/// # Errors
/// The first rule that is broken.
pub fn verify(program: &Program) -> Result<(), VerifyError> {
    let mut verifier = Verifier { program, state: vec![State::Undefined; program.types.len()], instructions: 0 };
    let failure = match verifier.header() {
        Err(problem) => Failure { position: None, instruction: "header".into(), problem },
        Ok(()) => match verifier.block(&program.body) {
            Err(failure) => failure,
            Ok(()) => return Ok(()),
        },
    };
    let Failure { position, instruction, problem } = failure;
    Err(VerifyError { kernel: program.name.clone(), instruction, position, problem })
}

type Check = Result<(), String>;

/// A broken rule and the instruction that breaks it.
struct Failure {
    position: Option<usize>,
    instruction: String,
    problem: String,
}

struct Verifier<'a> {
    program: &'a Program,
    state: Vec<State>,
    /// Instructions met so far.
    instructions: usize,
}

/// Where the verifier stands with a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Undefined,
    Visible,
    /// Of a loop's body that has ended.
    OutOfScope,
}

fn require(condition: bool, problem: impl FnOnce() -> String) -> Check {
    if condition { Ok(()) } else { Err(problem()) }
}

/// Letters, digits and underscores.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

impl<'a> Verifier<'a> {
    fn header(&self) -> Check {
        let program = self.program;
        require(is_word(&program.name) && !program.name.starts_with(|c: char| c.is_ascii_digit()), || {
            format!("`{}` is no symbol: a name is letters, digits and underscores, no digit first", program.name)
        })?;
        require(program.summary.iter().all(|line| !line.contains(['\n', '\r'])), || {
            "a line of the summary contains a line break".into()
        })?;
        for (position, argument) in program.arguments.iter().enumerate() {
            let name = argument.name();
            require(name.split('.').all(is_word), || {
                format!(
                    "`{name}` names no argument: a name is letters, digits, underscores and single dots between them"
                )
            })?;
            require(program.arguments[..position].iter().all(|other| other.name() != name), || {
                format!("there are two arguments @{name}")
            })?;
            match argument {
                Argument::Tensor(tensor) => self.tensor(tensor)?,
                Argument::Integer { divisor, .. } => {
                    require(divisor.is_power_of_two(), || format!("@{name}: divisor is not a power of two"))?;
                }
                Argument::Float { .. } => {}
            }
        }
        for GridExtent::Tiles { dimension, block } in program.grid {
            self.dimension(dimension)?;
            require(block > 0, || "a grid block is empty".into())?;
        }
        for (position, tile) in program.types.iter().enumerate() {
            require(!tile.is_empty(), || format!("%{position} has no elements"))?;
            require(tile.len() <= LARGEST_TILE, || format!("%{position} has more than {LARGEST_TILE} elements"))?;
        }
        let schedule = &program.schedule;
        require(schedule.warps > 0 && schedule.stages > 0, || "warps and stages are at least 1".into())
    }

    fn tensor(&self, tensor: &TensorArgument) -> Check {
        let (name, extents, strides) = (&tensor.name, tensor.extents.len(), tensor.strides.len());
        require(extents == strides, || format!("@{name} has {extents} extents and {strides} strides"))?;
        require(tensor.alignment.is_power_of_two(), || format!("@{name}: alignment is not a power of two"))?;
        tensor.extents.iter().chain(&tensor.strides).try_for_each(|&dimension| self.dimension(dimension))
    }

    fn dimension(&self, dimension: Dimension) -> Check {
        let Dimension::Argument(index) = dimension else {
            return Ok(());
        };
        match self.program.arguments.get(index.0 as usize) {
            Some(Argument::Integer { .. }) => Ok(()),
            _ => Err(format!("argument {} is used as an extent and is not an integer", index.0)),
        }
    }

    fn block(&mut self, block: &Block) -> Result<(), Failure> {
        for instruction in &block.instructions {
            let position = self.instructions;
            self.instructions += 1;
            let at = |problem| {
                let name = instruction.results.first().map(Value::to_string);
                let instruction = name.unwrap_or_else(|| instruction.operation.name().to_string());
                Failure { position: Some(position), instruction, problem }
            };
            instruction.operation.operands().into_iter().try_for_each(|operand| self.used(operand)).map_err(at)?;
            if let Operation::For { body, .. } = &instruction.operation {
                body.parameters.iter().try_for_each(|&parameter| self.define(parameter)).map_err(at)?;
                self.check(instruction).map_err(at)?;
                self.block(body)?;
                body.yields.iter().try_for_each(|&value| self.used(value)).map_err(at)?;
                self.end_scope(body);
            } else {
                self.check(instruction).map_err(at)?;
            }
            instruction.results.iter().try_for_each(|&result| self.define(result)).map_err(at)?;
        }
        Ok(())
    }

    /// What a loop's body defines is not visible after the loop.
    fn end_scope(&mut self, block: &Block) {
        for value in block.parameters.iter().chain(block.instructions.iter().flat_map(|i| i.results.iter())) {
            self.state[value.0 as usize] = State::OutOfScope;
        }
    }

    fn used(&self, value: Value) -> Check {
        match self.state.get(value.0 as usize) {
            Some(State::Visible) => Ok(()),
            Some(_) => Err(format!("{value} is not defined here")),
            None => Err(format!("{value} has no type")),
        }
    }

    fn define(&mut self, value: Value) -> Check {
        match self.state.get_mut(value.0 as usize) {
            Some(state @ State::Undefined) => {
                *state = State::Visible;
                Ok(())
            }
            Some(_) => Err(format!("{value} is defined twice")),
            None => Err(format!("{value} has no type")),
        }
    }

    fn type_of(&self, value: Value) -> &'a TileType {
        self.program.type_of(value)
    }

    fn is(&self, value: Value, shape: &[u32], element: Element) -> Check {
        let expected = TileType::new(shape, element);
        require(*self.type_of(value) == expected, || {
            format!("{value} is {} where {expected} is needed", self.type_of(value))
        })
    }

    fn same(&self, a: Value, b: Value) -> Check {
        require(self.type_of(a) == self.type_of(b), || {
            format!("{a} is {} and {b} is {}", self.type_of(a), self.type_of(b))
        })
    }

    fn literal(&self, literal: Literal, element: Element) -> Check {
        let fits = match (literal, element.integer_range()) {
            (Literal::Integer(value), Some((least, largest))) => (least..=largest).contains(&value),
            (literal, range) => matches!(literal, Literal::Float(_)) && range.is_none(),
        };
        require(fits, || format!("{literal} is no constant of {}", element.name()))
    }

    fn access(
        &self,
        tensor: ArgumentIndex,
        coordinates: &[Coordinate],
        mask: Option<Value>,
        store: bool,
    ) -> Result<TileType, String> {
        let argument = self.program.tensor(tensor).ok_or_else(|| format!("argument {} is not a tensor", tensor.0))?;
        let allowed = match argument.access {
            Access::Read => !store,
            Access::Write => store,
            Access::ReadWrite => true,
        };
        require(allowed, || format!("@{} is declared {}", argument.name, argument.access.name()))?;
        require(coordinates.len() == argument.extents.len(), || {
            format!("@{} has {} dimensions, the access {}", argument.name, argument.extents.len(), coordinates.len())
        })?;
        let mut shape: SmallVec<[u32; 3]> = SmallVec::new();
        for coordinate in coordinates {
            match *coordinate {
                Coordinate::At(value) => self.is(value, &[], Element::I32)?,
                Coordinate::Block { start, length } => {
                    self.is(start, &[], Element::I32)?;
                    shape.push(length);
                }
                Coordinate::Gather(value) => {
                    let tile = self.type_of(value);
                    require(tile.shape.len() == 1, || format!("{value} gathers and is {tile}, not of rank 1"))?;
                    self.is(value, &tile.shape, Element::I32)?;
                    shape.push(tile.shape[0]);
                }
            }
        }
        if let Some(mask) = mask {
            self.is(mask, &shape, Element::Bool)?;
        }
        Ok(TileType { shape, element: argument.element })
    }

    fn check(&self, instruction: &Instruction) -> Check {
        let operation = &instruction.operation;
        if let Operation::For { lower, upper, step, initial, body } = operation {
            return self.check_loop(&instruction.results, [*lower, *upper], *step, initial, body);
        }
        if let Operation::Store { tensor, coordinates, mask, value } = operation {
            let tile = self.access(*tensor, coordinates, *mask, true)?;
            require(instruction.results.is_empty(), || "a store has no result".into())?;
            return self.is(*value, &tile.shape, tile.element);
        }
        let &[result] = instruction.results.as_slice() else {
            return Err(format!("{} results where there is one", instruction.results.len()));
        };
        let tile = self.types(result)?;
        match operation {
            Operation::ProgramId(axis) => {
                require(*axis < 3, || format!("a grid has no axis {axis}"))?;
                self.is(result, &[], Element::I32)
            }
            Operation::Argument(index) => match self.program.arguments.get(index.0 as usize) {
                Some(Argument::Integer { .. }) => self.is(result, &[], Element::I32),
                Some(Argument::Float { .. }) => self.is(result, &[], Element::F32),
                _ => Err(format!("argument {} is not a scalar", index.0)),
            },
            Operation::Constant(literal) => self.literal(*literal, tile.element),
            Operation::Iota => require(tile.shape.len() == 1 && tile.element == Element::I32, || {
                format!("iota gives i32 of rank 1, not {tile}")
            }),
            Operation::Unary(kind, value) => {
                let integer = matches!(kind, UnaryOperation::Negate | UnaryOperation::Absolute);
                let fits = match kind {
                    UnaryOperation::Not => tile.element == Element::Bool,
                    _ => tile.element.is_float() || (integer && tile.element != Element::Bool),
                };
                require(fits, || format!("{} does not take {}", kind.name(), tile.element.name()))?;
                self.same(*value, result)
            }
            Operation::Binary(kind, a, b) => {
                use BinaryOperation as B;
                let fits = match kind {
                    B::Power => tile.element.is_float(),
                    B::And | B::Or | B::Xor => !tile.element.is_float(),
                    B::ShiftLeft | B::ShiftRightLogical => !tile.element.is_float() && tile.element != Element::Bool,
                    B::MultiplyHighUnsigned => tile.element == Element::I32,
                    _ => tile.element != Element::Bool,
                };
                require(fits, || format!("{} does not take {}", kind.name(), tile.element.name()))?;
                self.same(*a, result)?;
                self.same(*b, result)
            }
            Operation::Compare(_, a, b) => {
                self.same(*a, *b)?;
                self.is(result, &self.type_of(*a).shape, Element::Bool)
            }
            Operation::Select(condition, a, b) => {
                self.is(*condition, &tile.shape, Element::Bool)?;
                self.same(*a, result)?;
                self.same(*b, result)
            }
            Operation::Cast(value) => self.is(result, &self.type_of(*value).shape, tile.element),
            Operation::Bitcast(value) => {
                let from = self.type_of(*value);
                let has_bits = from.element != Element::Bool && tile.element != Element::Bool;
                require(has_bits, || "bool has no bits of its own: cast it".into())?;
                require(from.element.bytes() == tile.element.bytes(), || format!("{from} and {tile} differ in width"))?;
                self.is(result, &from.shape, tile.element)
            }
            Operation::Broadcast { value, axes } => {
                let from = self.type_of(*value);
                require(from.element == tile.element, || format!("{from} becomes {tile}"))?;
                require(axes.len() == from.shape.len(), || format!("{} axes for {from}", axes.len()))?;
                require(axes.windows(2).all(|pair| pair[0] < pair[1]), || "axes must increase".into())?;
                for (axis, extent) in axes.iter().zip(&from.shape) {
                    require(tile.shape.get(usize::from(*axis)) == Some(extent), || {
                        format!("dimension of {extent} does not fit axis {axis} of {tile}")
                    })?;
                }
                Ok(())
            }
            Operation::Rearrange { value, extents, permutation } => {
                let from = self.type_of(*value);
                let count = |extents: &[u32]| extents.iter().try_fold(1u64, |n, &extent| n.checked_mul(extent.into()));
                let elements = count(extents);
                require(from.element == tile.element, || format!("{from} becomes {tile}"))?;
                require(elements == count(&from.shape) && elements == count(&tile.shape), || {
                    format!("{from}, the extents {extents:?} and {tile} differ in their number of elements")
                })?;
                let mut dimensions = permutation.to_vec();
                dimensions.sort_unstable();
                let is_permutation = dimensions.iter().map(|&dimension| usize::from(dimension)).eq(0..extents.len());
                require(is_permutation, || format!("{permutation:?} is no permutation of {} dimensions", extents.len()))
            }
            Operation::Transpose(value) => {
                let from = self.type_of(*value);
                require(from.shape.len() == 2, || format!("{from} has not two dimensions"))?;
                self.is(result, &[from.shape[1], from.shape[0]], from.element)
            }
            Operation::Reduce { value, axis, .. } => {
                let from = self.type_of(*value);
                let mut shape = from.shape.clone();
                require(usize::from(*axis) < shape.len(), || format!("{from} has no axis {axis}"))?;
                require(from.element != Element::Bool, || "bool does not reduce: cast it".into())?;
                shape.remove(usize::from(*axis));
                self.is(result, &shape, from.element)
            }
            Operation::Dequantize { elements, scales } => self.check_blocks(*elements, *scales, tile),
            Operation::Dot { lhs, rhs, accumulator } => self.check_dot(*lhs, *rhs, *accumulator, result),
            Operation::Load { tensor, coordinates, mask, other } => {
                let loaded = self.access(*tensor, coordinates, *mask, false)?;
                self.literal(*other, loaded.element)?;
                self.is(result, &loaded.shape, loaded.element)
            }
            Operation::Store { .. } | Operation::For { .. } => unreachable!("checked above"),
        }
    }

    fn types(&self, value: Value) -> Result<&'a TileType, String> {
        self.program.types.get(value.0 as usize).ok_or_else(|| format!("{value} has no type"))
    }

    fn check_blocks(&self, elements: Value, scales: Value, tile: &TileType) -> Check {
        let (stored, factors) = (self.type_of(elements), self.type_of(scales));
        let holds = match stored.element {
            Element::U8 => 2,
            Element::U32 => E2M1_PER_WORD,
            Element::Fp8E4M3 | Element::Fp8E5M2 | Element::I8 => 1,
            other => return Err(format!("no elements of blocks are {}", other.name())),
        };
        let is_scale = matches!(factors.element, Element::U8 | Element::Fp8E4M3 | Element::F16 | Element::F32);
        require(is_scale && tile.element.is_float(), || {
            format!("no blocks scaled by {} give {}", factors.element.name(), tile.element.name())
        })?;
        let (Some((columns, rows)), Some((bytes, stored_rows)), Some((blocks, scaled_rows))) =
            (tile.shape.split_last(), stored.shape.split_last(), factors.shape.split_last())
        else {
            return Err("blocks lie along a dimension".into());
        };
        require(
            rows == stored_rows && rows == scaled_rows && *columns == bytes * holds && columns % blocks == 0,
            || format!("{stored} scaled by {factors} is not {tile}"),
        )
    }

    fn check_dot(&self, lhs: Value, rhs: Value, accumulator: Value, result: Value) -> Check {
        let (a, b, c) = (self.type_of(lhs), self.type_of(rhs), self.type_of(accumulator));
        let fits = match (a.shape.as_slice(), b.shape.as_slice(), c.shape.as_slice()) {
            ([m, k], [k2, n], [m2, n2]) => k == k2 && m == m2 && n == n2,
            _ => false,
        };
        require(fits, || format!("{a} times {b} does not add to {c}"))?;
        let sum = if a.element == Element::F64 { Element::F64 } else { Element::F32 };
        require(a.element == b.element && a.element.is_float() && c.element == sum, || {
            format!("no dot of {} and {} into {}", a.element.name(), b.element.name(), c.element.name())
        })?;
        self.same(accumulator, result)
    }

    fn check_loop(&self, results: &[Value], bounds: [Value; 2], step: u32, initial: &[Value], body: &Block) -> Check {
        for bound in bounds {
            self.is(bound, &[], Element::I32)?;
        }
        require(step > 0, || "the step is zero".into())?;
        let Some((induction, carried)) = body.parameters.split_first() else {
            return Err("the body has no induction variable".into());
        };
        self.is(*induction, &[], Element::I32)?;
        let counts = [carried.len(), initial.len(), body.yields.len(), results.len()];
        require(counts.iter().all(|&count| count == counts[0]), || {
            format!("carried values, initial values, yields and results differ in number: {counts:?}")
        })?;
        for position in 0..carried.len() {
            self.types(body.yields[position])?;
            self.types(results[position])?;
            self.same(carried[position], initial[position])?;
            self.same(carried[position], body.yields[position])?;
            self.same(carried[position], results[position])?;
        }
        Ok(())
    }
}
