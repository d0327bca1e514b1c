//! Programs of every kind of operation with arguments to run them on, over awkward sizes.
//!
//! Each case is interpreted, compiled and assembled; where there is a machine for PTX, its results are to be the interpreter's.

use super::programs::{self, Matmul, block};
use super::{CHIPS, build};
use crate::target::nvptx::NvptxOptions;
use crate::tile::interpret::{ArgumentData, TensorData, interpret};
use crate::tile::parts::noise;
use crate::tile::{
    Access, ArgumentIndex, BinaryOperation, Builder, Coordinate, Dimension, Element, GridExtent, Literal, Predicate,
    Program, Reduction, Schedule, UnaryOperation, Value,
};

/// A program and its arguments.
pub struct Case {
    pub program: Program,
    pub arguments: Vec<ArgumentData>,
}

impl Case {
    /// Interprets, compiles and assembles; for a chip that has instructions for 8-bit floats too where there are such.
    fn check(mut self) {
        interpret(&self.program, &mut self.arguments).unwrap_or_else(|error| panic!("{error}\n{}", self.program));
        build(&self.program, CHIPS[0]);
        if self.program.types.iter().any(|tile| matches!(tile.element, Element::Fp8E4M3 | Element::Fp8E5M2)) {
            build(&self.program, CHIPS[1]);
        }
    }
}

fn floats(element: Element, values: &[f64]) -> ArgumentData {
    ArgumentData::Tensor(TensorData::from_floats(element, values))
}

fn random(element: Element, count: usize, seed: u64, scale: f64) -> ArgumentData {
    let values: Vec<f64> = noise(count, seed).into_iter().map(|value| value * scale).collect();
    if element.is_float() {
        floats(element, &values)
    } else {
        let values: Vec<i64> = values.into_iter().map(|value| (value * 100.0) as i64).collect();
        ArgumentData::Tensor(TensorData::from_integers(element, &values))
    }
}

fn output(element: Element, count: usize) -> ArgumentData {
    ArgumentData::Tensor(TensorData::unwritten(element, count))
}

/// Rows and columns of the tile that elementwise cases work on.
const TILE: [u32; 2] = [4, 64];

/// One output of an elementwise case: its element and how it is computed.
type Output = (Element, Box<dyn Fn(&mut Builder, &[Value]) -> Value>);

fn to(element: Element, compute: impl Fn(&mut Builder, &[Value]) -> Value + 'static) -> Output {
    (element, Box::new(compute))
}

/// Outputs computed elementwise from inputs of [rows, columns], which are drawn from −scale..scale (times 100 for integers).
fn map(name: &str, [rows, columns]: [usize; 2], inputs: &[(Element, f64)], outputs: &[Output]) -> Case {
    let mut b = Builder::new(name);
    let n = Dimension::Argument(b.integer("rows", 1));
    let width = Dimension::Constant(columns as u64);
    let tensor = |b: &mut Builder, name: String, element, access| b.contiguous(&name, element, &[n, width], access);
    let sources: Vec<ArgumentIndex> =
        (0..inputs.len()).map(|index| tensor(&mut b, format!("input{index}"), inputs[index].0, Access::Read)).collect();
    let targets: Vec<ArgumentIndex> = (0..outputs.len())
        .map(|index| tensor(&mut b, format!("output{index}"), outputs[index].0, Access::Write))
        .collect();
    b.grid([
        GridExtent::Tiles { dimension: n, block: TILE[0] },
        GridExtent::Tiles { dimension: width, block: TILE[1] },
        GridExtent::fixed(1),
    ]);
    b.schedule(Schedule { warps: 2, stages: 1 });
    let (y, x) = (b.program_id(0), b.program_id(1));
    let (row, column) = (b.scale(y, TILE[0].into()), b.scale(x, TILE[1].into()));
    let coordinates = [block(row, TILE[0]), block(column, TILE[1])];
    let loaded: Vec<Value> = sources.iter().map(|&source| b.load(source, &coordinates)).collect();
    for (target, (_, compute)) in targets.into_iter().zip(outputs) {
        let value = compute(&mut b, &loaded);
        b.store(target, &coordinates, value);
    }
    let count = rows * columns;
    let mut arguments = vec![ArgumentData::Integer(rows as i64)];
    arguments.extend(
        inputs.iter().enumerate().map(|(seed, &(element, scale))| random(element, count, seed as u64 + 1, scale)),
    );
    arguments.extend(outputs.iter().map(|&(element, _)| output(element, count)));
    Case { program: b.finish(), arguments }
}

fn unary(element: Element, operations: &[UnaryOperation], scale: f64) {
    let outputs: Vec<Output> =
        operations.iter().map(|&operation| to(element, move |b, inputs| b.unary(operation, inputs[0]))).collect();
    map(&format!("unary_{}", element.name()), [7, 129], &[(element, scale)], &outputs).check();
}

#[test]
fn unary_operations() {
    use UnaryOperation::{Absolute, Cos, Erf, Exp, Exp2, Floor, Log, Log2, Negate, Rsqrt, Sin, Sqrt, Tanh};
    unary(Element::F32, &[Negate, Absolute, Exp, Exp2, Log, Log2, Sqrt, Rsqrt, Tanh, Erf, Floor], 50.0);
    unary(Element::F32, &[Tanh, Erf, Exp, Log], 2.0);
    unary(Element::F32, &[Sin, Cos], 1e5);
    unary(Element::BF16, &[Tanh, Exp, Absolute], 3.0);
    unary(Element::F16, &[Tanh, Exp, Negate], 3.0);
    unary(Element::F64, &[Negate, Absolute, Sqrt, Floor], 9.0);
    unary(Element::I32, &[Negate, Absolute], 1.0);
}

fn binary(element: Element, operations: &[BinaryOperation], scales: [f64; 2]) {
    let outputs: Vec<Output> = operations
        .iter()
        .map(|&operation| to(element, move |b, inputs| b.binary(operation, inputs[0], inputs[1])))
        .collect();
    let inputs = scales.map(|scale| (element, scale));
    map(&format!("binary_{}", element.name()), [7, 33], &inputs, &outputs).check();
}

#[test]
fn binary_operations() {
    use BinaryOperation::{
        Add, And, Divide, Maximum, Minimum, Multiply, MultiplyHighUnsigned, Or, Power, Remainder, Subtract, Xor,
    };
    binary(Element::F32, &[Add, Subtract, Multiply, Divide, Remainder, Maximum, Minimum, Power], [8.0, 3.0]);
    for element in [Element::BF16, Element::F16, Element::F64] {
        binary(element, &[Add, Subtract, Multiply, Divide, Maximum, Minimum], [8.0, 3.0]);
    }
    for element in [Element::I32, Element::U32, Element::I64, Element::I16, Element::I8, Element::U8] {
        let operations = [Add, Subtract, Multiply, Divide, Remainder, Maximum, Minimum, And, Or, Xor];
        binary(element, &operations, [1.2, 0.03]);
    }
    binary(Element::I32, &[MultiplyHighUnsigned], [1e6, 1e6]);
    let shifts = [BinaryOperation::ShiftLeft, BinaryOperation::ShiftRightLogical].map(|operation| {
        to(Element::I32, move |b, inputs| {
            let bits = b.constant(Literal::Integer(7), &TILE, Element::I32);
            b.binary(operation, inputs[0], bits)
        })
    });
    map("shift", [3, 33], &[(Element::I32, 1e6)], &shifts).check();
}

#[test]
fn comparisons_and_selections() {
    for element in [Element::F32, Element::BF16, Element::I32, Element::U32, Element::U8, Element::I8] {
        let outputs: Vec<Output> = Predicate::ALL
            .iter()
            .map(|&predicate| {
                to(element, move |b, inputs| {
                    let holds = b.compare(predicate, inputs[0], inputs[1]);
                    b.select(holds, inputs[0], inputs[1])
                })
            })
            .collect();
        map(&format!("compare_{}", element.name()), [3, 33], &[(element, 0.03), (element, 0.03)], &outputs).check();
    }
    let exclusive = to(Element::Bool, |b, inputs| {
        let zero = b.splat(0.0, &TILE, Element::F32);
        let positive = b.compare(Predicate::Greater, inputs[0], zero);
        let not = b.unary(UnaryOperation::Not, inputs[1]);
        b.binary(BinaryOperation::Xor, positive, not)
    });
    map("booleans", [3, 33], &[(Element::F32, 1.0), (Element::Bool, 0.02)], &[exclusive]).check();
}

#[test]
fn casts_between_all_elements() {
    use Element::{BF16, Bool, F16, F32, F64, Fp8E4M3, Fp8E5M2, I8, I16, I32, I64, U8, U32};
    let all = [F64, F32, F16, BF16, Fp8E4M3, Fp8E5M2, I64, I32, U32, I16, I8, U8, Bool];
    for from in all {
        let outputs: Vec<Output> =
            all.into_iter().map(|element| to(element, move |b, inputs| b.cast(inputs[0], element))).collect();
        let scale = match from {
            Bool => 0.02,
            _ if from.is_float() => 300.0,
            _ => 1.2,
        };
        map(&format!("cast_{}", from.name()), [3, 33], &[(from, scale)], &outputs).check();
    }
}

#[test]
fn vectors_where_rows_allow_them() {
    let sizes = [[8, 128], [5, 96], [4, 100], [7, 33], [1, 1], [33, 7], [3, 129]];
    for (element, size) in [Element::F32, Element::BF16, Element::U8, Element::F64, Element::F32].iter().zip(sizes) {
        let name = format!("copy_{}_{}", element.name(), size[1]);
        map(&name, size, &[(*element, 1.0)], &[to(*element, |_, inputs| inputs[0])]).check();
    }
}

/// out[rows or columns] = a reduction of [rows, columns] in one tile.
fn reduction(
    element: Element,
    reduction: Reduction,
    [rows, columns]: [usize; 2],
    tile: [u32; 2],
    axis: u8,
    warps: u32,
) -> Case {
    let mut b = Builder::new(format!("reduce_{}_{}_{axis}_{}x{}", reduction.name(), element.name(), tile[0], tile[1]));
    let (n, width) = (Dimension::Constant(rows as u64), Dimension::Constant(columns as u64));
    let input = b.contiguous("input", element, &[n, width], Access::Read);
    let kept = if axis == 0 { width } else { n };
    let out = b.contiguous("output", element, &[kept], Access::Write);
    b.schedule(Schedule { warps, stages: 1 });
    let zero = b.index(0);
    let other = match (reduction, element.is_float()) {
        (Reduction::Sum, true) => Literal::Float(0.0),
        (Reduction::Sum, false) => Literal::Integer(0),
        (Reduction::Maximum, true) => Literal::Float(f64::NEG_INFINITY),
        (Reduction::Minimum, true) => Literal::Float(f64::INFINITY),
        (Reduction::Maximum, false) => Literal::Integer(-100),
        (Reduction::Minimum, false) => Literal::Integer(100),
    };
    let value = b.load_masked(input, &[block(zero, tile[0]), block(zero, tile[1])], None, Some(other));
    let reduced = b.reduce(reduction, value, axis);
    b.store(out, &[block(zero, tile[1 - usize::from(axis)])], reduced);
    let arguments = vec![
        random(element, rows * columns, 4, if element.is_float() { 1.0 } else { 0.5 }),
        output(element, if axis == 0 { columns } else { rows }),
    ];
    Case { program: b.finish(), arguments }
}

#[test]
fn reductions_along_either_axis() {
    let shapes = [([7, 33], [8, 64], 4), ([2, 129], [2, 256], 4), ([129, 3], [256, 4], 8), ([4, 4], [4, 4], 1)];
    let elements = [Element::F32, Element::F64, Element::I32, Element::I64, Element::I16, Element::BF16];
    for (number, (size, tile, warps)) in shapes.into_iter().enumerate() {
        for axis in [0, 1] {
            for (position, &kind) in Reduction::ALL.iter().enumerate() {
                // All shapes with f32; the other elements in turn.
                reduction(Element::F32, kind, size, tile, axis, warps).check();
                let element = elements[1 + (number + position + usize::from(axis)) % 4];
                reduction(element, kind, size, tile, axis, warps).check();
            }
        }
    }
    reduction(Element::BF16, Reduction::Maximum, [7, 33], [8, 64], 1, 4).check();
}

#[test]
fn transposes_broadcasts_and_gathers() {
    for (rows, columns) in [(16u32, 64u32), (64, 8), (4, 4)] {
        let mut b = Builder::new(format!("shuffle_{rows}x{columns}"));
        let (m, n) = (Dimension::Constant(rows.into()), Dimension::Constant(columns.into()));
        let input = b.contiguous("input", Element::F32, &[m, n], Access::Read);
        let index = b.contiguous("index", Element::I32, &[m], Access::Read);
        let out = b.contiguous("output", Element::F32, &[n, m], Access::Write);
        let zero = b.index(0);
        let rows_wanted = b.load(index, &[block(zero, rows)]);
        let tile = b.load(input, &[Coordinate::Gather(rows_wanted), block(zero, columns)]);
        let total = b.reduce(Reduction::Sum, tile, 0);
        let swapped = b.transpose(tile);
        let spread = b.broadcast(total, &[0], &[columns, rows]);
        let sum = b.add(swapped, spread);
        b.store(out, &[block(zero, columns), block(zero, rows)], sum);
        let indices: Vec<i64> = (0..i64::from(rows)).map(|row| (row * 7 + 3) % (i64::from(rows) + 2) - 1).collect();
        Case {
            program: b.finish(),
            arguments: vec![
                random(Element::F32, (rows * columns) as usize, 9, 1.0),
                ArgumentData::Tensor(TensorData::from_integers(Element::I32, &indices)),
                output(Element::F32, (rows * columns) as usize),
            ],
        }
        .check();
    }
}

/// A matmul program with arguments.
fn product(matmul: &Matmul, rows: usize) -> Case {
    let (n, k) = (matmul.n as usize, matmul.k as usize);
    let program = matmul.program();
    let scale = if matmul.element.is_float() && matmul.element.bytes() == 1 { 2.0 } else { 1.0 };
    let arguments = vec![
        ArgumentData::Integer(rows as i64),
        random(matmul.element, rows * k, 1, scale),
        random(matmul.weights, n * k, 2, scale),
        random(Element::F32, n, 3, 1.0),
        random(matmul.result, rows * n, 4, 1.0),
        output(matmul.result, rows * n),
    ];
    Case { program, arguments }
}

#[test]
fn matmuls_of_any_size() {
    let sizes = [(1, 1, 1), (7, 33, 7), (33, 129, 33), (129, 72, 136), (64, 64, 64), (40, 96, 160)];
    for (number, (rows, n, k)) in sizes.into_iter().enumerate() {
        for transpose_rhs in [false, true] {
            let epilogue = transpose_rhs == (number % 2 == 0);
            let matmul = Matmul { n, k, transpose_rhs, epilogue, ..programs::SMALL_MATMUL };
            product(&matmul, rows).check();
            let f32 = Matmul { element: Element::F32, weights: Element::F32, result: Element::F32, ..matmul };
            product(&f32, rows).check();
        }
    }
}

#[test]
fn matmuls_of_every_tile_and_element() {
    let base = Matmul { n: 136, k: 200, ..programs::SMALL_MATMUL };
    let tiles = [
        ([128, 128, 64], 8, 3),
        ([64, 32, 16], 4, 4),
        ([16, 64, 128], 4, 2),
        ([8, 64, 32], 4, 3),
        ([4, 32, 64], 2, 1),
        ([1, 64, 64], 4, 4),
        ([32, 8, 32], 4, 2),
        ([16, 16, 32], 8, 2),
        ([64, 128, 32], 1, 2),
    ];
    for (number, (tile, warps, stages)) in tiles.into_iter().enumerate() {
        for transpose_rhs in [false, true] {
            let matmul = Matmul { tile, warps, stages, transpose_rhs, epilogue: tile[0] > 4, ..base };
            let same = |element, result| Matmul { element, weights: element, result, ..matmul };
            let bf16_or_f16 = if transpose_rhs { Element::BF16 } else { Element::F16 };
            product(&same(bf16_or_f16, bf16_or_f16), 70).check();
            let float8 = if (number % 2 == 0) == transpose_rhs { Element::Fp8E4M3 } else { Element::Fp8E5M2 };
            product(&Matmul { weights: float8, ..matmul }, 20).check();
            product(&same(float8, Element::F32), 20).check();
        }
        if tile[1] <= 64 {
            let single = Element::F32;
            let f32 = Matmul { element: single, weights: single, result: single, tile, warps, stages, ..base };
            product(&f32, 9).check();
        }
    }
    let double = Element::F64;
    let f64 = Matmul { element: double, weights: double, result: double, tile: [16, 16, 16], ..base };
    product(&f64, 20).check();
}

#[test]
fn random_programs_compile() {
    use proptest::prelude::*;
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases: 60, ..ProptestConfig::default() });
    runner
        .run(&proptest::collection::vec(any::<u16>(), 0..200), |choices| {
            compile_arbitrary(&choices).map_err(TestCaseError::fail)
        })
        .unwrap();
}

/// Constants of 64 bits, and products of zeros: the analysis of indices once overflowed on them.
#[test]
fn constants_that_are_no_indices_compile() {
    let choices = [
        240, 0, 0, 34060, 0, 0, 3, 6905, 14778, 33859, 63405, 217, 11067, 33344, 52593, 9941, 50915, 2352, 46325,
        23871, 13344, 37619, 59153, 39048, 18864,
    ];
    compile_arbitrary(&choices).unwrap();
}

/// Compiles and assembles a random program. That the target cannot express it is no failure.
fn compile_arbitrary(choices: &[u16]) -> Result<(), String> {
    let program = crate::tile::arbitrary::program(choices, crate::tile::arbitrary::Operations::Any);
    let options = NvptxOptions::new(super::chip(CHIPS[0]));
    match super::compile(&program, &options) {
        Ok(kernel) => drop(super::assemble(&kernel.entry, &kernel.ptx, CHIPS[0])),
        Err(error @ (super::Error::Internal { .. } | super::Error::Llvm(_))) => {
            return Err(format!("{error}\n{program}"));
        }
        Err(_) => {}
    }
    Ok(())
}
