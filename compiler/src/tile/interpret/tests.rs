use super::*;
use crate::tile::{
    Access, ArgumentIndex, BinaryOperation, Builder, Element, Predicate, Reduction, TensorArgument, UnaryOperation,
};

/// One program that stores the tile that `compute` makes.
fn stored(element: Element, length: u32, compute: impl FnOnce(&mut Builder) -> Value) -> TensorData {
    let mut b = Builder::new("test");
    let output = b.contiguous("output", element, &[Dimension::Constant(length.into())], Access::Write);
    let value = compute(&mut b);
    let start = b.index(0);
    b.store(output, &[Coordinate::Block { start, length }], value);
    let mut arguments = [ArgumentData::Tensor(TensorData::unwritten(element, length as usize))];
    interpret(&b.finish(), &mut arguments).unwrap();
    let [ArgumentData::Tensor(data)] = arguments else { unreachable!("one tensor went in") };
    data
}

/// A rank-1 tile with the given elements, by selects.
fn literals(b: &mut Builder, element: Element, values: &[f64]) -> Value {
    let shape = [values.len() as u32];
    let iota = b.iota(shape[0]);
    let mut tile = b.splat(0.0, &shape, Element::F64);
    for (position, &value) in values.iter().enumerate() {
        let at = b.constant(Literal::Integer(position as i64), &shape, Element::I32);
        let (here, value) = (b.compare(Predicate::Equal, iota, at), b.splat(value, &shape, Element::F64));
        tile = b.select(here, value, tile);
    }
    b.cast(tile, element)
}

fn binary_of(element: Element, operation: BinaryOperation, left: &[f64], right: &[f64]) -> TensorData {
    stored(element, left.len() as u32, |b| {
        let (left, right) = (literals(b, element, left), literals(b, element, right));
        b.binary(operation, left, right)
    })
}

fn problem(program: &Program, arguments: &mut [ArgumentData]) -> Problem {
    interpret(program, arguments).unwrap_err().problem
}

fn floats(values: &[f64]) -> ArgumentData {
    ArgumentData::Tensor(TensorData::from_floats(Element::F32, values))
}

#[test]
fn floats_round_once_to_nearest_even_and_fp8_saturates() {
    let sum = binary_of(Element::F32, BinaryOperation::Add, &[16777216.0, 0.1], &[1.0, 0.2]);
    assert_eq!(sum.floats(), [16777216.0, f64::from(0.1f32 + 0.2f32)]);
    let casts = |element, values: &[f64]| stored(element, values.len() as u32, |b| literals(b, element, values));
    assert_eq!(casts(Element::BF16, &[1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0]).floats(), [1.0, 1.0 + 4.0 / 256.0]);
    assert_eq!(casts(Element::F16, &[65519.9, 65520.0]).floats(), [65504.0, f64::INFINITY]);
    assert_eq!(casts(Element::Fp8E4M3, &[1e9, -1e9]).floats(), [448.0, -448.0]);
    assert_eq!(casts(Element::Fp8E5M2, &[f64::INFINITY]).floats(), [57344.0]);
}

#[test]
fn integers_wrap_and_signedness_is_the_elements() {
    let of = |element, operation, left: f64, right: f64| binary_of(element, operation, &[left], &[right]).integers()[0];
    let i32_max = f64::from(i32::MAX);
    assert_eq!(of(Element::I32, BinaryOperation::Add, i32_max, 1.0), i64::from(i32::MIN));
    assert_eq!(of(Element::U32, BinaryOperation::Subtract, 0.0, 1.0), i64::from(u32::MAX));
    assert_eq!(of(Element::I32, BinaryOperation::Divide, -7.0, 2.0), -3);
    assert_eq!(of(Element::I32, BinaryOperation::Remainder, -7.0, 2.0), -1);
    assert_eq!(of(Element::I32, BinaryOperation::Divide, -7.0, 0.0), 0);
    assert_eq!(of(Element::I32, BinaryOperation::Remainder, -7.0, 0.0), 0);
    assert_eq!(of(Element::U32, BinaryOperation::Maximum, 4e9, 1.0), 4_000_000_000);
    assert_eq!(of(Element::I32, BinaryOperation::ShiftRightLogical, -1.0, 28.0), 15);
    assert_eq!(of(Element::I32, BinaryOperation::ShiftLeft, 1.0, 31.0), i64::from(i32::MIN));
    let product = (u64::from(0xd251_1f53u32) * u64::from(u32::MAX)) >> 32;
    let high = of(Element::I32, BinaryOperation::MultiplyHighUnsigned, f64::from(0xd251_1f53u32 as i32), -1.0);
    assert_eq!(high as u32, product as u32);
}

#[test]
fn casts_between_floats_and_integers_saturate_and_drop_bits() {
    let cast = |from, to, value: f64| {
        stored(to, 1, |b| {
            let value = literals(b, from, &[value]);
            b.cast(value, to)
        })
    };
    assert_eq!(cast(Element::F32, Element::I32, 3e9).integers(), [i64::from(i32::MAX)]);
    assert_eq!(cast(Element::F32, Element::I32, -2.9).integers(), [-2]);
    assert_eq!(cast(Element::F32, Element::I32, f64::NAN).integers(), [0]);
    assert_eq!(cast(Element::I32, Element::U8, -1.0).integers(), [255]);
    assert_eq!(cast(Element::U8, Element::I32, 255.0).integers(), [255]);
    assert_eq!(cast(Element::I8, Element::I64, -1.0).integers(), [-1]);
    assert_eq!(cast(Element::F32, Element::Bool, 0.5).integers(), [1]);
    assert_eq!(cast(Element::I32, Element::Bool, 2.0).integers(), [1]);
}

#[test]
fn bitcast_keeps_the_bits() {
    let bits = stored(Element::I32, 2, |b| {
        let value = literals(b, Element::F32, &[1.0, -0.0]);
        b.bitcast(value, Element::I32)
    });
    assert_eq!(bits.integers(), [0x3f80_0000, i64::from(i32::MIN)]);
}

#[test]
fn elementary_functions() {
    use UnaryOperation as U;
    let cases = [
        (U::Erf, 0.5, 0.520_499_877_813_046_5),
        (U::Erf, -3.5, -0.999_999_256_901_627_6),
        (U::Exp2, 3.0, 8.0),
        (U::Rsqrt, 4.0, 0.5),
        (U::Floor, -1.5, -2.0),
        (U::Log2, 8.0, 3.0),
    ];
    for (operation, x, expected) in cases {
        let value = stored(Element::F64, 1, |b| {
            let x = b.splat(x, &[1], Element::F64);
            b.unary(operation, x)
        });
        assert!((value.floats()[0] - expected).abs() < 1e-15, "{} {x}", operation.name());
    }
}

#[test]
fn maximum_and_its_reduction_propagate_nan() {
    let larger = binary_of(Element::F32, BinaryOperation::Maximum, &[f64::NAN, 1.0], &[1.0, 2.0]).floats();
    assert!(larger[0].is_nan() && larger[1] == 2.0);
    let reduced = stored(Element::F32, 1, |b| {
        let values = literals(b, Element::F32, &[1.0, f64::NAN, 3.0]);
        let largest = b.reduce(Reduction::Maximum, values, 0);
        b.fill(largest, &[1])
    });
    assert!(reduced.floats()[0].is_nan());
}

/// `output[m, n] = Σₖ lhs[m, k] · rhs[n, k]`, in blocks of 4 × 8 × 2.
fn matmul() -> Program {
    let mut b = Builder::new("matmul");
    let [m, n, k] = ["m", "n", "k"].map(|name| b.integer(name, 1));
    let [rows, columns, depth] = [m, n, k].map(Dimension::Argument);
    let matrix = |b: &mut Builder, name: &str, extents: [Dimension; 2], access| {
        b.tensor(TensorArgument {
            name: name.into(),
            element: Element::F32,
            extents: extents.into_iter().collect(),
            strides: [extents[1], Dimension::Constant(1)].into_iter().collect(),
            access,
            alignment: 4,
        })
    };
    let lhs = matrix(&mut b, "lhs", [rows, depth], Access::Read);
    let rhs = matrix(&mut b, "rhs", [columns, depth], Access::Read);
    let output = matrix(&mut b, "output", [rows, columns], Access::Write);
    b.grid([
        GridExtent::Tiles { dimension: columns, block: 8 },
        GridExtent::Tiles { dimension: rows, block: 4 },
        GridExtent::fixed(1),
    ]);
    let (x, y) = (b.program_id(0), b.program_id(1));
    let (column, row) = (b.scale(x, 8), b.scale(y, 4));
    let (zero, upper) = (b.index(0), b.dimension(depth));
    let accumulator = b.splat(0.0, &[4, 8], Element::F32);
    let sums = b.for_loop(zero, upper, 2, &[accumulator], |b, at, carried| {
        let along = Coordinate::Block { start: at, length: 2 };
        let lhs = b.load(lhs, &[Coordinate::Block { start: row, length: 4 }, along]);
        let rhs = b.load(rhs, &[Coordinate::Block { start: column, length: 8 }, along]);
        let rhs = b.transpose(rhs);
        vec![b.dot(lhs, rhs, carried[0])]
    });
    b.store(
        output,
        &[Coordinate::Block { start: row, length: 4 }, Coordinate::Block { start: column, length: 8 }],
        sums[0],
    );
    b.finish()
}

#[test]
fn a_matmul_of_any_size_is_masked_at_its_edges() {
    for [m, n, k] in [[1, 1, 1], [4, 8, 2], [7, 33, 5], [9, 7, 129]] {
        let lhs: Vec<f64> = (0..m * k).map(|i| (i % 7) as f64 - 3.0).collect();
        let rhs: Vec<f64> = (0..n * k).map(|i| (i % 5) as f64 - 2.0).collect();
        let sizes = [m, n, k].map(|size| ArgumentData::Integer(size as i64));
        let output = ArgumentData::Tensor(TensorData::unwritten(Element::F32, m * n));
        let mut arguments: Vec<_> = sizes.into_iter().chain([floats(&lhs), floats(&rhs), output]).collect();
        interpret(&matmul(), &mut arguments).unwrap();
        let expected: Vec<f64> =
            (0..m * n).map(|at| (0..k).map(|i| lhs[at / n * k + i] * rhs[at % n * k + i]).sum()).collect();
        assert_eq!(arguments[5].tensor().unwrap().floats(), expected);
    }
}

/// Programs of a grid of 4, each with its number, on a `read_write` tensor of `extent` elements.
fn grid_of_four(extent: u64, body: impl FnOnce(&mut Builder, ArgumentIndex, Value)) -> Program {
    let mut b = Builder::new("test");
    let tensor = b.contiguous("x", Element::F32, &[Dimension::Constant(extent)], Access::ReadWrite);
    b.grid([GridExtent::fixed(4), GridExtent::fixed(1), GridExtent::fixed(1)]);
    let program = b.program_id(0);
    body(&mut b, tensor, program);
    b.finish()
}

#[test]
fn an_element_that_is_written_twice_is_found() {
    let program = grid_of_four(8, |b, x, program| {
        let value = b.splat(1.0, &[2], Element::F32);
        b.store(x, &[Coordinate::Block { start: program, length: 2 }], value);
    });
    let error = interpret(&program, &mut [floats(&[0.0; 8])]).unwrap_err();
    assert_eq!(error.to_string(), "kernel @test, program (1, 0, 0), store: element 1 of @x is written twice");
}

#[test]
fn reading_what_is_written_is_found_whichever_comes_first() {
    let shifted = |distance: i64| {
        grid_of_four(8, |b, x, program| {
            let distance = b.index(distance);
            let from = b.add(program, distance);
            let value = b.load(x, &[Coordinate::Block { start: from, length: 1 }]);
            b.store(x, &[Coordinate::Block { start: program, length: 1 }], value);
        })
    };
    let run = |distance| interpret(&shifted(distance), &mut [floats(&[0.0; 8])]).map_err(|error| error.problem);
    assert_eq!(run(-1), Err(Problem::ReadAfterWrite { argument: "x".into(), offset: 0 }));
    assert_eq!(run(1), Err(Problem::WrittenAfterRead { argument: "x".into(), offset: 1 }));
    assert_eq!(run(0), Ok(()));
    assert_eq!(run(4), Ok(()));
}

#[test]
fn a_scalar_index_outside_of_the_tensor_is_found_unless_masked() {
    let program = |masked: bool| {
        grid_of_four(3, |b, x, program| {
            let (limit, one) = (b.index(3), b.splat(1.0, &[], Element::F32));
            let inside = b.compare(Predicate::Less, program, limit);
            b.store_masked(x, &[Coordinate::At(program)], one, masked.then_some(inside));
        })
    };
    let expected = Problem::OutOfBounds { argument: "x".into(), dimension: 0, index: 3, extent: 3 };
    assert_eq!(problem(&program(false), &mut [floats(&[0.0; 3])]), expected);
    let mut arguments = [floats(&[0.0; 3])];
    interpret(&program(true), &mut arguments).unwrap();
    assert_eq!(arguments[0], floats(&[1.0; 3]));
}

#[test]
fn an_index_or_bound_that_wrapped_is_found() {
    let program = grid_of_four(4, |b, x, program| {
        let large = b.scale(program, 1 << 31);
        let index = b.scale(large, 2);
        let value = b.splat(1.0, &[1], Element::F32);
        b.store(x, &[Coordinate::Block { start: index, length: 1 }], value);
    });
    let arguments = || [floats(&[0.0; 4])];
    // The constant itself is out of range.
    assert!(matches!(problem(&program, &mut arguments()), Problem::Invalid(_)));
    let program = |of_loop: bool| {
        grid_of_four(4, |b, x, program| {
            let large = b.scale(program, 1 << 30);
            let wrapped = b.scale(large, 4);
            if of_loop {
                b.for_loop(program, wrapped, 1, &[], |_, _, _| vec![]);
            } else {
                let value = b.splat(1.0, &[1], Element::F32);
                let mask = b.compare(Predicate::Greater, program, wrapped);
                let mask = b.fill(mask, &[1]);
                b.store_masked(x, &[Coordinate::Block { start: wrapped, length: 1 }], value, Some(mask));
            }
        })
    };
    assert_eq!(problem(&program(false), &mut arguments()), Problem::WrappedIndex { argument: "x".into() });
    assert_eq!(problem(&program(true), &mut arguments()), Problem::WrappedBound);
}

#[test]
fn shifts_stay_below_the_width() {
    let program = grid_of_four(4, |b, _, program| {
        let amount = b.scale(program, 16);
        b.binary(BinaryOperation::ShiftLeft, program, amount);
    });
    assert_eq!(problem(&program, &mut [floats(&[0.0; 4])]), Problem::Shift { amount: 32, width: 32 });
}

#[test]
fn arguments_are_checked_against_the_declaration() {
    let integers = |values: [i64; 3]| values.map(ArgumentData::Integer);
    let message = |mut arguments: Vec<ArgumentData>| interpret(&matmul(), &mut arguments).unwrap_err().to_string();
    assert_eq!(message(vec![]), "kernel @matmul: takes 6 arguments and got 0");
    let mut arguments = integers([2, 2, -2]).to_vec();
    arguments.extend([floats(&[0.0; 4]), floats(&[0.0; 4]), floats(&[0.0; 3])]);
    assert_eq!(message(arguments.clone()), "kernel @matmul: @k = -2 is not a multiple of 1 in 31 bits");
    arguments[2] = ArgumentData::Integer(2);
    let small = "kernel @matmul: @output has 3 elements in memory, its extents and strides reach over 4";
    assert_eq!(message(arguments.clone()), small);
    arguments[5] = ArgumentData::Tensor(TensorData::unwritten(Element::BF16, 4));
    assert_eq!(message(arguments), "kernel @matmul: @output got an argument of another type");
}

#[test]
fn what_lies_outside_or_is_masked_off_reads_as_other_and_is_not_written() {
    let mut b = Builder::new("test");
    let x = b.contiguous("x", Element::F32, &[Dimension::Constant(4)], Access::Read);
    let y = b.contiguous("y", Element::F32, &[Dimension::Constant(4)], Access::Write);
    let iota = b.iota(4);
    let two = b.constant(Literal::Integer(2), &[4], Element::I32);
    // −2, −1, 0, 1
    let indices = b.subtract(iota, two);
    let mask = b.compare(Predicate::NotEqual, iota, two);
    let value = b.load_masked(x, &[Coordinate::Gather(indices)], Some(mask), Some(Literal::Float(9.0)));
    let one = b.index(1);
    b.store(y, &[Coordinate::Block { start: one, length: 4 }], value);
    let mut arguments = [floats(&[10.0, 11.0, 12.0, 13.0]), floats(&[0.5; 4])];
    interpret(&b.finish(), &mut arguments).unwrap();
    assert_eq!(arguments[1], floats(&[0.5, 9.0, 9.0, 9.0]));
}

#[test]
fn rearranged_tiles_of_memory_are_a_matrix() {
    let mut b = Builder::new("test");
    // Two by three tiles of two by two.
    let x = b.contiguous("x", Element::F32, &[2, 3, 2, 2].map(Dimension::Constant), Access::Read);
    let y = b.contiguous("y", Element::F32, &[4, 6].map(Dimension::Constant), Access::Write);
    let zero = b.index(0);
    let block = |length| Coordinate::Block { start: zero, length };
    let loaded = b.load(x, &[block(2), block(3), block(2), block(2)]);
    let matrix = b.rearrange(loaded, &[2, 3, 2, 2], &[0, 2, 1, 3], &[4, 6]);
    b.store(y, &[block(4), block(6)], matrix);
    let input: Vec<f64> = (0..24).map(f64::from).collect();
    let mut arguments = [floats(&input), floats(&[0.0; 24])];
    interpret(&b.finish(), &mut arguments).unwrap();
    let at = |row: usize, column: usize| (row / 2 * 3 + column / 2) * 4 + row % 2 * 2 + column % 2;
    let expected: Vec<f64> = (0..24).map(|p| at(p / 6, p % 6) as f64).collect();
    assert_eq!(arguments[1], floats(&expected));
}

#[test]
fn broadcast_transpose_and_reduce_agree_with_indexing() {
    let mut b = Builder::new("test");
    let x = b.contiguous("x", Element::F32, &[3, 5].map(Dimension::Constant), Access::Read);
    let y = b.contiguous("y", Element::F32, &[5, 2, 3].map(Dimension::Constant), Access::Write);
    let sums = b.contiguous("sums", Element::F32, &[5, 3].map(Dimension::Constant), Access::Write);
    let zero = b.index(0);
    let block = |length| Coordinate::Block { start: zero, length };
    let loaded = b.load(x, &[block(3), block(5)]);
    let turned = b.transpose(loaded);
    let repeated = b.broadcast(turned, &[0, 2], &[5, 2, 3]);
    b.store(y, &[block(5), block(2), block(3)], repeated);
    let sum = b.reduce(Reduction::Sum, repeated, 1);
    b.store(sums, &[block(5), block(3)], sum);
    let input: Vec<f64> = (0..15).map(f64::from).collect();
    let mut arguments = [floats(&input), floats(&[0.0; 30]), floats(&[0.0; 15])];
    interpret(&b.finish(), &mut arguments).unwrap();
    let at = |i: usize, k: usize| input[k * 5 + i];
    let expected: Vec<f64> = (0..30).map(|p| at(p / 6, p % 3)).collect();
    assert_eq!(arguments[1], floats(&expected));
    let expected: Vec<f64> = (0..15).map(|p| 2.0 * at(p / 3, p % 3)).collect();
    assert_eq!(arguments[2], floats(&expected));
}
