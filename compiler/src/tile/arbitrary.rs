//! Random valid programs, for property tests.

use super::interpret::{ArgumentData, TensorData};
use super::parts::noise;
use super::{
    Access, Argument, ArgumentIndex, BinaryOperation, Builder, Coordinate, Dimension, Element, GridExtent, Literal,
    Predicate, Program, Reduction, Schedule, TensorArgument, TileType, UnaryOperation, Value,
};

/// Arguments of every program made here: `n`, a float, and the tensors [`ROWS`], then outputs of the program's own.
pub(crate) const ROWS: [(&str, Element, u64); 4] = [
    ("floats", Element::F32, 8),
    ("halves", Element::BF16, 16),
    ("integers", Element::I32, 8),
    ("bytes", Element::U8, 4),
];

/// Which operations a program may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operations {
    /// All.
    Any,
    /// Those with one right answer to the last bit: no elementary functions, no sums of floats, no bits of NaN.
    Exact,
}

/// A program that its choices decide; all zeros, as after the last one, makes a short one.
///
/// It keeps every rule that the interpreter checks, with any number of rows in its inputs. Outputs are [n, 2, …].
pub(crate) fn program(choices: &[u16], operations: Operations) -> Program {
    let mut b = Builder::new("random");
    b.summary("A random program.").summary("").summary("  With a summary.");
    b.schedule(Schedule { warps: 2, stages: 3 });
    let n = Dimension::Argument(b.integer("n", 1));
    let scale = b.float("scale");
    let tensors = ROWS
        .map(|(name, element, columns)| b.contiguous(name, element, &[n, Dimension::Constant(columns)], Access::Read));
    b.grid([GridExtent::Tiles { dimension: n, block: 4 }, GridExtent::fixed(2), GridExtent::fixed(1)]);
    let programs = [b.program_id(0), b.program_id(1)];
    let scale = b.argument_value(scale);
    let mut generator =
        Generator { b, operations, choices: choices.iter(), tensors, row: programs[0], pool: vec![scale], depth: 0 };
    generator.instructions(40);
    let Generator { mut b, pool, .. } = generator;
    for (number, value) in pool.into_iter().rev().take(3).enumerate() {
        let TileType { shape, element } = b.type_of(value).clone();
        let inner: Vec<Dimension> = shape.iter().map(|&extent| Dimension::Constant(extent.into())).collect();
        let extents = [&[n, Dimension::Constant(2)], inner.as_slice()].concat();
        let output = b.contiguous(&format!("output.{number}"), element, &extents, Access::Write);
        let start = b.index(0);
        let inner = shape.iter().map(|&length| Coordinate::Block { start, length });
        let coordinates: Vec<Coordinate> = programs.map(Coordinate::At).into_iter().chain(inner).collect();
        b.store(output, &coordinates, value);
    }
    b.tensor(TensorArgument {
        name: "unused".into(),
        element: Element::F16,
        extents: [n, n].into_iter().collect(),
        strides: [n, Dimension::Constant(1)].into_iter().collect(),
        access: Access::ReadWrite,
        alignment: 2,
    });
    b.finish()
}

/// Arguments for `n` rows: numbers in the inputs, nothing in the outputs.
pub(crate) fn arguments(program: &Program, n: usize, seed: u64) -> Vec<ArgumentData> {
    let argument = |(position, argument): (usize, &Argument)| match argument {
        Argument::Integer { .. } => ArgumentData::Integer(n as i64),
        Argument::Float { .. } => ArgumentData::Float(0.75),
        Argument::Tensor(tensor) => {
            let extents = tensor.extents.iter().map(|extent| match extent {
                Dimension::Constant(extent) => *extent as usize,
                Dimension::Argument(_) => n,
            });
            let count = extents.product();
            ArgumentData::Tensor(match ROWS.iter().any(|(name, ..)| *name == tensor.name) {
                false => TensorData::unwritten(tensor.element, count),
                true => {
                    let numbers: Vec<f64> = noise(count, seed + position as u64).iter().map(|x| x * 100.0).collect();
                    TensorData::from_floats(tensor.element, &numbers)
                }
            })
        }
    };
    program.arguments.iter().enumerate().map(argument).collect()
}

struct Generator<'a> {
    b: Builder,
    operations: Operations,
    choices: std::slice::Iter<'a, u16>,
    tensors: [ArgumentIndex; 4],
    row: Value,
    /// Values that are visible.
    pool: Vec<Value>,
    depth: u32,
}

impl Generator<'_> {
    fn choose(&mut self, below: usize) -> usize {
        self.choices.next().map_or(0, |&choice| usize::from(choice) % below)
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.choose(items.len())]
    }

    /// A value of the pool whose type fits.
    fn value(&mut self, fits: impl Fn(&TileType) -> bool) -> Option<Value> {
        let fitting: Vec<Value> = self.pool.iter().copied().filter(|&value| fits(self.b.type_of(value))).collect();
        (!fitting.is_empty()).then(|| self.pick(&fitting))
    }

    fn same(&mut self, value: Value) -> Value {
        let tile = self.b.type_of(value).clone();
        self.value(|other| *other == tile).unwrap_or(value)
    }

    fn shape(&mut self, rank: usize) -> Vec<u32> {
        (0..rank).map(|_| self.pick(&[1, 2, 4, 8])).collect()
    }

    fn instructions(&mut self, count: usize) {
        for _ in 0..count {
            if self.choices.len() == 0 {
                return;
            }
            if let Some(values) = self.instruction() {
                self.pool.extend(values);
            }
        }
    }

    /// None where no value fits what was chosen.
    fn instruction(&mut self) -> Option<Vec<Value>> {
        let value = match self.choose(15) {
            0 => self.constant(),
            1 => {
                let length = self.pick(&[1, 2, 4, 8]);
                self.b.iota(length)
            }
            2 => self.unary()?,
            3 => self.binary()?,
            4 => {
                let a = self.value(|_| true)?;
                let b = self.same(a);
                let predicate = self.pick(Predicate::ALL);
                self.b.compare(predicate, a, b)
            }
            5 => {
                let condition = self.value(|tile| tile.element == Element::Bool)?;
                let shape = self.b.type_of(condition).shape.clone();
                let a = self.value(|tile| tile.shape == shape)?;
                let b = self.same(a);
                self.b.select(condition, a, b)
            }
            6 => {
                let (value, element) = (self.value(|_| true)?, self.pick(Element::ALL));
                self.b.cast(value, element)
            }
            7 => {
                let exact = self.operations == Operations::Exact;
                let value = self.value(|tile| tile.element != Element::Bool && !(exact && tile.element.is_float()))?;
                let bytes = self.b.type_of(value).element.bytes();
                let elements: Vec<Element> = Element::ALL
                    .iter()
                    .copied()
                    .filter(|&other| other.bytes() == bytes && other != Element::Bool)
                    .collect();
                let element = self.pick(&elements);
                self.b.bitcast(value, element)
            }
            8 => {
                let value = self.value(|tile| tile.shape.len() < 3)?;
                let mut shape = self.b.type_of(value).shape.to_vec();
                let axis = self.choose(shape.len() + 1);
                let axes: Vec<u8> = (0..=shape.len() as u8).filter(|&other| usize::from(other) != axis).collect();
                shape.insert(axis, self.pick(&[1, 2, 4]));
                self.b.broadcast(value, &axes, &shape)
            }
            9 if self.operations == Operations::Any && self.choose(2) == 1 => self.rearrange()?,
            9 => {
                let value = self.value(|tile| tile.shape.len() == 2)?;
                self.b.transpose(value)
            }
            10 => {
                let reduction = self.pick(Reduction::ALL);
                let exact = self.operations == Operations::Exact && reduction == Reduction::Sum;
                let value = self.value(|tile| {
                    !tile.is_scalar() && tile.element != Element::Bool && !(exact && tile.element.is_float())
                })?;
                let rank = self.b.type_of(value).shape.len();
                let axis = self.choose(rank) as u8;
                self.b.reduce(reduction, value, axis)
            }
            11 if self.operations == Operations::Any => self.dot()?,
            12 if self.operations == Operations::Any => self.dequantize()?,
            11..=13 => self.load(),
            _ => return self.for_loop(),
        };
        Some(vec![value])
    }

    fn constant(&mut self) -> Value {
        let rank = self.choose(4);
        let (shape, element) = (self.shape(rank), self.pick(Element::ALL));
        let literal = match element.integer_range() {
            Some((least, largest)) => Literal::Integer(self.pick(&[0, 1, least, largest])),
            None => Literal::Float(self.pick(&[0.0, -1.0, 0.1, 1e-30, 1e30, -2.5e-7, f64::NEG_INFINITY])),
        };
        self.b.constant(literal, &shape, element)
    }

    fn unary(&mut self) -> Option<Value> {
        use UnaryOperation as U;
        let operation = match self.operations {
            Operations::Any => self.pick(U::ALL),
            Operations::Exact => self.pick(&[U::Negate, U::Absolute, U::Sqrt, U::Floor, U::Not]),
        };
        let value = self.value(|tile| match operation {
            U::Not => tile.element == Element::Bool,
            U::Negate | U::Absolute => tile.element != Element::Bool,
            _ => tile.element.is_float(),
        })?;
        Some(self.b.unary(operation, value))
    }

    fn binary(&mut self) -> Option<Value> {
        use BinaryOperation as B;
        let (operation, exact) = (self.pick(B::ALL), self.operations == Operations::Exact);
        let a = self.value(|tile| match operation {
            B::Power => tile.element.is_float() && !exact,
            B::And | B::Or | B::Xor => !tile.element.is_float(),
            B::ShiftLeft | B::ShiftRightLogical => !tile.element.is_float() && tile.element != Element::Bool,
            B::MultiplyHighUnsigned => tile.element == Element::I32,
            _ => tile.element != Element::Bool,
        })?;
        let b = if matches!(operation, B::ShiftLeft | B::ShiftRightLogical) {
            let (TileType { shape, element }, amount) = (self.b.type_of(a).clone(), self.choose(8));
            self.b.constant(Literal::Integer(amount as i64), &shape, element)
        } else {
            self.same(a)
        };
        Some(self.b.binary(operation, a, b))
    }

    fn dot(&mut self) -> Option<Value> {
        let lhs = self.value(|tile| tile.shape.len() == 2 && tile.element.is_float())?;
        let TileType { shape, element } = self.b.type_of(lhs).clone();
        let depth = shape[1];
        let rhs = self.value(|tile| tile.shape.len() == 2 && tile.shape[0] == depth && tile.element == element)?;
        let sum = if element == Element::F64 { Element::F64 } else { Element::F32 };
        let accumulator = self.b.splat(1.0, &[shape[0], self.b.type_of(rhs).shape[1]], sum);
        Some(self.b.dot(lhs, rhs, accumulator))
    }

    /// Halves of dimensions in another order, as a matrix.
    fn rearrange(&mut self) -> Option<Value> {
        let value = self.value(|tile| !tile.is_scalar())?;
        let mut extents = Vec::new();
        for extent in self.b.type_of(value).shape.clone() {
            match extent % 2 == 0 && self.choose(2) == 1 {
                true => extents.extend([2, extent / 2]),
                false => extents.push(extent),
            }
        }
        let mut rest: Vec<u8> = (0..extents.len() as u8).collect();
        let mut permutation = Vec::new();
        while !rest.is_empty() {
            permutation.push(rest.remove(self.choose(rest.len())));
        }
        let (rows, columns) = permutation.split_at(self.choose(permutation.len()));
        let shape = [rows, columns].map(|part| part.iter().map(|&axis| extents[usize::from(axis)]).product());
        Some(self.b.rearrange(value, &extents, &permutation, &shape))
    }

    /// Bytes, with themselves as scales: a scale for each two elements.
    fn dequantize(&mut self) -> Option<Value> {
        let bytes = self.value(|tile| !tile.is_scalar() && tile.element == Element::U8)?;
        let element = self.pick(&[Element::F32, Element::BF16, Element::F64]);
        Some(self.b.dequantize(bytes, bytes, element))
    }

    /// Rows from this program's on, or gathered ones, some of them outside.
    fn load(&mut self) -> Value {
        let tensor = self.choose(self.tensors.len());
        let length = self.pick(&[1, 2, 4]);
        let row = match self.choose(3) {
            0 => Coordinate::At(self.row),
            1 => Coordinate::Block { start: self.row, length },
            _ => {
                let (lanes, shift) =
                    (self.b.iota(length), self.b.constant(Literal::Integer(2), &[length], Element::I32));
                Coordinate::Gather(self.b.subtract(lanes, shift))
            }
        };
        let column = self.b.index(0);
        let coordinates = [row, Coordinate::Block { start: column, length: self.pick(&[4, 8]) }];
        let mask = match self.choose(2) {
            0 => None,
            _ => {
                let shape: Vec<u32> = coordinates
                    .iter()
                    .filter_map(|coordinate| match *coordinate {
                        Coordinate::At(_) => None,
                        Coordinate::Block { length, .. } => Some(length),
                        Coordinate::Gather(value) => Some(self.b.type_of(value).shape[0]),
                    })
                    .collect();
                self.value(|tile| tile.element == Element::Bool && tile.shape.as_slice() == shape)
            }
        };
        let other = match ROWS[tensor].1.is_float() {
            true => Literal::Float(0.5),
            false => Literal::Integer(7),
        };
        self.b.load_masked(self.tensors[tensor], &coordinates, mask, Some(other))
    }

    fn for_loop(&mut self) -> Option<Vec<Value>> {
        if self.depth == 2 {
            return None;
        }
        let initial: Vec<Value> = (0..self.choose(3)).filter_map(|_| self.value(|_| true)).collect();
        let (lower, upper) = (self.choose(3) as i64, self.choose(5) as i64);
        let (lower, upper) = (self.b.index(lower), self.b.index(upper));
        let step = self.pick(&[1, 2, 3]);
        // The builder's loop wants a closure on the builder, which this generator owns for the while.
        let mut b = std::mem::replace(&mut self.b, Builder::new("taken"));
        let outer = self.pool.len();
        let results = b.for_loop(lower, upper, step, &initial, |b, induction, carried| {
            std::mem::swap(b, &mut self.b);
            self.depth += 1;
            self.pool.push(induction);
            self.pool.extend(carried);
            self.instructions(6);
            let yields = carried.iter().map(|&value| self.same(value)).collect();
            self.depth -= 1;
            std::mem::swap(b, &mut self.b);
            yields
        });
        self.b = b;
        self.pool.truncate(outer);
        Some(results)
    }
}
