//! Chains of elementwise operations, functions, conversions.

use super::{EXACT, Numbers, Tolerance, check, ulps, unwritten};
use crate::tile::{
    Access, BinaryOperation, Builder, Coordinate, Dimension, Element, GridExtent, Literal, Predicate, Program,
    UnaryOperation, Value,
    interpret::{ArgumentData, TensorData},
};

/// y[i] = body(x[i], …) over `count` elements in blocks of `block`, any number of inputs.
pub(super) fn map(
    name: &str,
    inputs: &[Element],
    output: Element,
    block: u32,
    body: impl FnOnce(&mut Builder, &[Value]) -> Value,
) -> Program {
    let mut builder = Builder::new(name);
    let count = builder.integer("count", 1);
    let extent = Dimension::Argument(count);
    let tensors: Vec<_> = inputs
        .iter()
        .enumerate()
        .map(|(position, &element)| builder.contiguous(&format!("x{position}"), element, &[extent], Access::Read))
        .collect();
    let y = builder.contiguous("y", output, &[extent], Access::Write);
    builder.grid([GridExtent::Tiles { dimension: extent, block }, GridExtent::fixed(1), GridExtent::fixed(1)]);
    let program = builder.program_id(0);
    let start = builder.scale(program, i64::from(block));
    let coordinates = [Coordinate::Block { start, length: block }];
    let values: Vec<Value> = tensors.iter().map(|&tensor| builder.load(tensor, &coordinates)).collect();
    let value = body(&mut builder, &values);
    builder.store(y, &coordinates, value);
    builder.finish()
}

#[test]
fn sums_of_every_length() {
    let program = map("sum", &[Element::F32, Element::F32], Element::F32, 64, |b, x| b.add(x[0], x[1]));
    for count in [1usize, 7, 33, 64, 129, 1000] {
        let mut numbers = Numbers::new(count as u64);
        let x = numbers.floats(Element::F32, count, -3.0, 3.0);
        let y = numbers.floats(Element::F32, count, -3.0, 3.0);
        check(&program, &[ArgumentData::Integer(count as i64), x, y, unwritten(Element::F32, count)], EXACT);
    }
}

fn check_function(kind: UnaryOperation, inputs: &[f64], tolerance: Tolerance) {
    let program =
        map(&format!("{kind:?}").to_lowercase(), &[Element::F32], Element::F32, 100, |b, x| b.unary(kind, x[0]));
    let x = ArgumentData::Tensor(TensorData::from_floats(Element::F32, inputs));
    let arguments = [ArgumentData::Integer(inputs.len() as i64), x, unwritten(Element::F32, inputs.len())];
    check(&program, &arguments, tolerance);
}

/// Numbers spread over a range, with special values.
fn spread(low: f64, high: f64) -> Vec<f64> {
    let mut numbers = Numbers::new(5);
    let mut values: Vec<f64> = (0..3000).map(|_| numbers.float(low, high)).collect();
    values.extend([0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-40, 1e-30, 3e38, -3e38]);
    values
}

#[test]
fn functions_are_within_two_units_in_the_last_place() {
    use UnaryOperation as U;
    let denormal = Tolerance { absolute: 3e-45, ..ulps(2.0) };
    check_function(U::Exp, &spread(-105.0, 90.0), denormal);
    check_function(U::Exp2, &spread(-151.0, 129.0), denormal);
    check_function(U::Log, &spread(0.0, 4.0), ulps(2.0));
    check_function(U::Log, &spread(0.0, 1e30), ulps(2.0));
    check_function(U::Log2, &spread(0.0, 4.0), ulps(2.0));
    check_function(U::Sqrt, &spread(0.0, 1e9), ulps(0.6));
    check_function(U::Rsqrt, &spread(0.0, 1e9), ulps(2.0));
    check_function(U::Tanh, &spread(-10.0, 10.0), ulps(2.0));
    check_function(U::Tanh, &spread(-0.7, 0.7), ulps(2.0));
    check_function(U::Erf, &spread(-4.5, 4.5), ulps(2.0));
    check_function(U::Erf, &spread(-1.1, 1.1), ulps(2.0));
    check_function(U::Floor, &spread(-100.0, 100.0), EXACT);
    check_function(U::Floor, &spread(-1e9, 1e9), EXACT);
    check_function(U::Negate, &spread(-1.0, 1.0), EXACT);
    check_function(U::Absolute, &spread(-1.0, 1.0), EXACT);
}

#[test]
fn sine_and_cosine_reduce_large_arguments() {
    for range in [1.0, 10.0, 1e3, 1e6] {
        // Arguments beyond a million are outside of what is promised.
        let inputs: Vec<f64> = spread(-range, range).into_iter().filter(|x| x.is_nan() || x.abs() <= 1e6).collect();
        check_function(UnaryOperation::Sin, &inputs, ulps(2.0));
        check_function(UnaryOperation::Cos, &inputs, ulps(2.0));
    }
}

#[test]
fn functions_of_f64_are_close_to_its_precision() {
    use UnaryOperation as U;
    let cases = [
        (U::Exp, -700.0, 700.0),
        (U::Exp2, -1000.0, 1000.0),
        (U::Log, 0.0, 10.0),
        (U::Log2, 0.0, 10.0),
        (U::Tanh, -5.0, 5.0),
        (U::Erf, -6.0, 6.0),
        (U::Sin, -1e6, 1e6),
        (U::Cos, -1e6, 1e6),
        (U::Floor, -1e12, 1e12),
        (U::Rsqrt, 0.0, 1e9),
    ];
    for (kind, low, high) in cases {
        let name = format!("{kind:?}_f64").to_lowercase();
        let program = map(&name, &[Element::F64], Element::F64, 48, |b, x| b.unary(kind, x[0]));
        let count = 500;
        let x = Numbers::new(3).floats(Element::F64, count, low, high);
        let tolerance = Tolerance { relative: 1e-14, absolute: 1e-15 };
        check(&program, &[ArgumentData::Integer(count as i64), x, unwritten(Element::F64, count)], tolerance);
    }
}

#[test]
fn binary_operations_of_floats() {
    use BinaryOperation as B;
    let kinds = [B::Subtract, B::Multiply, B::Divide, B::Remainder, B::Maximum, B::Minimum, B::Power];
    for kind in kinds {
        let name = format!("{kind:?}").to_lowercase();
        let program = map(&name, &[Element::F32; 2], Element::F32, 40, |b, x| b.binary(kind, x[0], x[1]));
        let special = [0.0, -0.0, 1.0, -1.0, 2.0, -3.0, 0.5, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e30, 7.5];
        let mut a: Vec<f64> = special.iter().flat_map(|&x| [x; 12]).collect();
        let mut b: Vec<f64> = special.iter().copied().cycle().take(144).collect();
        let mut numbers = Numbers::new(11);
        for _ in 0..500 {
            a.push(numbers.float(-20.0, 20.0));
            b.push(numbers.float(-5.0, 5.0));
        }
        let count = a.len();
        let tensor = |values: &[f64]| ArgumentData::Tensor(TensorData::from_floats(Element::F32, values));
        let arguments = [ArgumentData::Integer(count as i64), tensor(&a), tensor(&b), unwritten(Element::F32, count)];
        check(&program, &arguments, ulps(2.0));
    }
}

#[test]
fn binary_operations_of_integers() {
    use BinaryOperation as B;
    let kinds =
        [B::Add, B::Subtract, B::Multiply, B::Divide, B::Remainder, B::Maximum, B::Minimum, B::And, B::Or, B::Xor];
    let limits = |element: Element| element.integer_range().unwrap();
    for element in [Element::I32, Element::U32, Element::I64, Element::I16, Element::I8, Element::U8] {
        for kind in kinds {
            let name = format!("{kind:?}_{}", element.name()).to_lowercase();
            let program = map(&name, &[element; 2], element, 24, |b, x| b.binary(kind, x[0], x[1]));
            let (low, high) = limits(element);
            let special = [low, high, 0, 1, if low < 0 { -1 } else { 2 }, 7];
            let mut a: Vec<i64> = special.iter().flat_map(|&x| [x; 6]).collect();
            let mut b: Vec<i64> = special.iter().copied().cycle().take(36).collect();
            for step in 0..60 {
                a.push(step * 37 % 101);
                b.push(step * 53 % 13);
            }
            let count = a.len();
            let tensor = |values: &[i64]| ArgumentData::Tensor(TensorData::from_integers(element, values));
            check(
                &program,
                &[ArgumentData::Integer(count as i64), tensor(&a), tensor(&b), unwritten(element, count)],
                EXACT,
            );
        }
    }
}

#[test]
fn shifts_and_wide_products() {
    for kind in [BinaryOperation::ShiftLeft, BinaryOperation::ShiftRightLogical, BinaryOperation::MultiplyHighUnsigned]
    {
        let name = format!("{kind:?}").to_lowercase();
        let program = map(&name, &[Element::I32; 2], Element::I32, 32, |b, x| b.binary(kind, x[0], x[1]));
        let mut numbers = Numbers::new(9);
        let a = numbers.integers(Element::I32, 100, i32::MIN.into(), i32::MAX.into());
        let shift = kind != BinaryOperation::MultiplyHighUnsigned;
        let b = if shift {
            numbers.integers(Element::I32, 100, 0, 31)
        } else {
            numbers.integers(Element::I32, 100, i32::MIN.into(), i32::MAX.into())
        };
        check(&program, &[ArgumentData::Integer(100), a, b, unwritten(Element::I32, 100)], EXACT);
    }
}

#[test]
fn comparisons_and_selections() {
    for predicate in [
        Predicate::Equal,
        Predicate::NotEqual,
        Predicate::Less,
        Predicate::LessEqual,
        Predicate::Greater,
        Predicate::GreaterEqual,
    ] {
        for element in [Element::F32, Element::BF16, Element::I32, Element::U8] {
            let name = format!("{predicate:?}_{}", element.name()).to_lowercase();
            let program = map(&name, &[element; 2], element, 24, |b, x| {
                let condition = b.compare(predicate, x[0], x[1]);
                let not = b.unary(UnaryOperation::Not, condition);
                b.select(not, x[0], x[1])
            });
            let mut numbers = Numbers::new(4);
            let (x, y) = if element.is_float() {
                (numbers.floats(element, 77, -1.0, 1.0), numbers.floats(element, 77, -1.0, 1.0))
            } else {
                (numbers.integers(element, 77, 0, 250), numbers.integers(element, 77, 0, 250))
            };
            check(&program, &[ArgumentData::Integer(77), x, y, unwritten(element, 77)], EXACT);
        }
    }
}

#[test]
fn truth_values_in_memory() {
    let program = map("truth", &[Element::Bool, Element::F32], Element::Bool, 20, |b, x| {
        let zero = b.splat(0.0, &[20], Element::F32);
        let positive = b.compare(Predicate::Greater, x[1], zero);
        b.binary(BinaryOperation::Xor, x[0], positive)
    });
    let mut numbers = Numbers::new(2);
    let flags = numbers.integers(Element::Bool, 50, 0, 1);
    let floats = numbers.floats(Element::F32, 50, -1.0, 1.0);
    check(&program, &[ArgumentData::Integer(50), flags, floats, unwritten(Element::Bool, 50)], EXACT);
}

/// Every pattern of a small format, or a spread of numbers with awkward ones.
fn samples(element: Element) -> ArgumentData {
    let range = element.integer_range();
    if let Some((low, high)) = range {
        let mut values = vec![low, high, 0, 1, high / 2, low / 2];
        values.extend((0..200).map(|step| (step * 7919) % 127));
        return ArgumentData::Tensor(TensorData::from_integers(element, &values));
    }
    let mut values = vec![
        0.0,
        -0.0,
        1.0,
        -1.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        448.0,
        449.0,
        464.0,
        480.0,
        57344.0,
        65504.0,
        65519.0,
        65520.0,
        1e9,
        -1e9,
        3e38,
        1e-3,
        2f64.powi(-9),
        2f64.powi(-10),
        1.5 * 2f64.powi(-10),
        2f64.powi(-16),
        2f64.powi(-17),
        1.0 + 2f64.powi(-8),
        1.0 + 3.0 * 2f64.powi(-8),
        2f64.powi(-24),
        2f64.powi(-25),
        1.0 + 2f64.powi(-11) + 2f64.powi(-40),
    ];
    let mut numbers = Numbers::new(8);
    for scale in [1e-6, 1e-2, 1.0, 30.0, 1000.0, 1e6] {
        values.extend((0..200).map(|_| numbers.float(-scale, scale)));
    }
    ArgumentData::Tensor(TensorData::from_floats(element, &values))
}

#[test]
fn conversions_between_all_elements() {
    const ELEMENTS: [Element; 13] = [
        Element::F64,
        Element::F32,
        Element::F16,
        Element::BF16,
        Element::Fp8E4M3,
        Element::Fp8E5M2,
        Element::I64,
        Element::I32,
        Element::U32,
        Element::I16,
        Element::I8,
        Element::U8,
        Element::Bool,
    ];
    // One program converts from one element to all.
    for from in ELEMENTS {
        let mut builder = Builder::new(format!("from_{}", from.name()));
        let count = builder.integer("count", 1);
        let extent = Dimension::Argument(count);
        let x = builder.contiguous("x", from, &[extent], Access::Read);
        let outputs: Vec<_> = ELEMENTS
            .iter()
            .map(|&to| builder.contiguous(&format!("to_{}", to.name()), to, &[extent], Access::Write))
            .collect();
        builder.grid([GridExtent::Tiles { dimension: extent, block: 50 }, GridExtent::fixed(1), GridExtent::fixed(1)]);
        let program = builder.program_id(0);
        let start = builder.scale(program, 50);
        let coordinates = [Coordinate::Block { start, length: 50 }];
        let value = builder.load(x, &coordinates);
        for (&output, &to) in outputs.iter().zip(&ELEMENTS) {
            let converted = builder.cast(value, to);
            builder.store(output, &coordinates, converted);
        }
        let program = builder.finish();
        let input = samples(from);
        let length = input.tensor().unwrap().len();
        let mut arguments = vec![ArgumentData::Integer(length as i64), input];
        arguments.extend(ELEMENTS.iter().map(|&to| unwritten(to, length)));
        check(&program, &arguments, EXACT);
    }
}

#[test]
fn bit_patterns_and_small_float_arithmetic() {
    let program = map("bits", &[Element::F32], Element::I32, 30, |b, x| b.bitcast(x[0], Element::I32));
    let x = Numbers::new(1).floats(Element::F32, 70, -5.0, 5.0);
    check(&program, &[ArgumentData::Integer(70), x, unwritten(Element::I32, 70)], EXACT);
    for element in [Element::BF16, Element::F16, Element::Fp8E4M3, Element::Fp8E5M2] {
        let program = map(&format!("small_{}", element.name()), &[element; 2], element, 30, |b, x| {
            let sum = b.add(x[0], x[1]);
            let constant = b.constant(Literal::Float(0.3), &[30], element);
            b.multiply(sum, constant)
        });
        let mut numbers = Numbers::new(6);
        let x = numbers.floats(element, 70, -5.0, 5.0);
        let y = numbers.floats(element, 70, -5.0, 5.0);
        check(&program, &[ArgumentData::Integer(70), x, y, unwritten(element, 70)], EXACT);
    }
}
