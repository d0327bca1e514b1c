//! Reductions along every axis, and norms made of them.

use super::{EXACT, Numbers, Tolerance, check, ulps, unwritten};
use crate::tile::{
    Access, Builder, Coordinate, Dimension, Element, GridExtent, Program, Reduction, UnaryOperation,
    interpret::ArgumentData,
};

const SUMS: Tolerance = Tolerance { relative: 3e-5, absolute: 3e-5 };

/// x[rows, columns] reduced along an axis, in tiles of block × columns or rows × block.
fn reduction(kind: Reduction, element: Element, axis: u8, rows: u32, columns: u32, block: u32) -> Program {
    let mut builder = Builder::new(format!("reduce_{axis}"));
    let extents = [Dimension::Constant(rows.into()), Dimension::Constant(columns.into())];
    let x = builder.contiguous("x", element, &extents, Access::Read);
    let kept = if axis == 0 { extents[1] } else { extents[0] };
    let y = builder.contiguous("y", element, &[kept], Access::Write);
    builder.grid([GridExtent::Tiles { dimension: kept, block }, GridExtent::fixed(1), GridExtent::fixed(1)]);
    let program = builder.program_id(0);
    let start = builder.scale(program, block.into());
    let zero = builder.index(0);
    let part = Coordinate::Block { start, length: block };
    let coordinates = if axis == 0 {
        [Coordinate::Block { start: zero, length: rows }, part]
    } else {
        [part, Coordinate::Block { start: zero, length: columns }]
    };
    let tile = builder.load(x, &coordinates);
    let reduced = builder.reduce(kind, tile, axis);
    builder.store(y, &[part], reduced);
    builder.finish()
}

#[test]
fn rows_and_columns() {
    for (rows, columns) in [(1u32, 1u32), (7, 33), (33, 7), (5, 129), (129, 300)] {
        for axis in [0, 1] {
            for kind in [Reduction::Sum, Reduction::Maximum, Reduction::Minimum] {
                let program = reduction(kind, Element::F32, axis, rows, columns, 4);
                let count = (rows * columns) as usize;
                let x = Numbers::new(count as u64).floats(Element::F32, count, -2.0, 2.0);
                let kept = if axis == 0 { columns } else { rows } as usize;
                check(&program, &[x, unwritten(Element::F32, kept)], SUMS);
            }
        }
    }
}

#[test]
fn other_elements() {
    for element in [Element::I32, Element::U8, Element::I64, Element::BF16, Element::F64] {
        for kind in [Reduction::Sum, Reduction::Maximum, Reduction::Minimum] {
            let program = reduction(kind, element, 1, 5, 70, 2);
            let mut numbers = Numbers::new(3);
            let x = if element.is_float() {
                numbers.floats(element, 350, 0.5, 1.0)
            } else {
                numbers.integers(element, 350, 0, 3)
            };
            let tolerance = match element {
                Element::BF16 => Tolerance { relative: 1e-2, absolute: 0.0 },
                Element::F64 => Tolerance { relative: 1e-13, absolute: 0.0 },
                _ => EXACT,
            };
            check(&program, &[x, unwritten(element, 5)], tolerance);
        }
    }
}

#[test]
fn the_middle_of_three_dimensions() {
    let mut builder = Builder::new("middle");
    let extents = [3, 5, 37].map(Dimension::Constant);
    let x = builder.contiguous("x", Element::F32, &extents, Access::Read);
    let y = builder.contiguous("y", Element::F32, &[extents[0], extents[2]], Access::Write);
    let zero = builder.index(0);
    let block = |length| Coordinate::Block { start: zero, length };
    let tile = builder.load(x, &[block(3), block(5), block(40)]);
    let sum = builder.reduce(Reduction::Sum, tile, 1);
    builder.store(y, &[block(3), block(40)], sum);
    let x = Numbers::new(1).floats(Element::F32, 3 * 5 * 37, -1.0, 1.0);
    check(&builder.finish(), &[x, unwritten(Element::F32, 3 * 37)], SUMS);
}

/// Softmax over rows of any number, a row to a program.
#[test]
fn softmax() {
    for columns in [1u32, 7, 33, 129, 1000] {
        let mut builder = Builder::new("softmax");
        let rows = builder.integer("rows", 1);
        let extents = [Dimension::Argument(rows), Dimension::Constant(columns.into())];
        let x = builder.contiguous("x", Element::F32, &extents, Access::Read);
        let y = builder.contiguous("y", Element::F32, &extents, Access::Write);
        builder.grid([
            GridExtent::Tiles { dimension: extents[0], block: 1 },
            GridExtent::fixed(1),
            GridExtent::fixed(1),
        ]);
        let row = builder.program_id(0);
        let zero = builder.index(0);
        let coordinates = [Coordinate::At(row), Coordinate::Block { start: zero, length: columns }];
        let tile = builder.load(x, &coordinates);
        let largest = builder.reduce(Reduction::Maximum, tile, 0);
        let largest = builder.fill(largest, &[columns]);
        let shifted = builder.subtract(tile, largest);
        let exponential = builder.unary(UnaryOperation::Exp, shifted);
        let total = builder.reduce(Reduction::Sum, exponential, 0);
        let total = builder.fill(total, &[columns]);
        let result = builder.divide(exponential, total);
        builder.store(y, &coordinates, result);
        let count = 5 * columns as usize;
        let x = Numbers::new(columns.into()).floats(Element::F32, count, -8.0, 8.0);
        let arguments = [ArgumentData::Integer(5), x, unwritten(Element::F32, count)];
        check(&builder.finish(), &arguments, Tolerance { absolute: 1e-9, ..ulps(8.0) });
    }
}

/// Layer norm of several rows to a program, with rows beyond the last.
#[test]
fn layer_norm() {
    for (rows, columns) in [(1usize, 7u32), (9, 33), (4, 768)] {
        let mut builder = Builder::new("layer_norm");
        let count = builder.integer("rows", 1);
        let extents = [Dimension::Argument(count), Dimension::Constant(columns.into())];
        let x = builder.contiguous("x", Element::F32, &extents, Access::Read);
        let scale = builder.contiguous("scale", Element::F32, &extents[1..], Access::Read);
        let y = builder.contiguous("y", Element::F32, &extents, Access::Write);
        let block = 4;
        builder.grid([GridExtent::Tiles { dimension: extents[0], block }, GridExtent::fixed(1), GridExtent::fixed(1)]);
        let program = builder.program_id(0);
        let start = builder.scale(program, block.into());
        let zero = builder.index(0);
        let along = Coordinate::Block { start: zero, length: columns };
        let coordinates = [Coordinate::Block { start, length: block }, along];
        let shape = [block, columns];
        let tile = builder.load(x, &coordinates);
        let sum = builder.reduce(Reduction::Sum, tile, 1);
        let inverse = builder.splat(1.0 / f64::from(columns), &[block], Element::F32);
        let mean = builder.multiply(sum, inverse);
        let mean = builder.broadcast(mean, &[0], &shape);
        let centred = builder.subtract(tile, mean);
        let square = builder.multiply(centred, centred);
        let variance = builder.reduce(Reduction::Sum, square, 1);
        let variance = builder.multiply(variance, inverse);
        let epsilon = builder.splat(1e-5, &[block], Element::F32);
        let variance = builder.add(variance, epsilon);
        let factor = builder.unary(UnaryOperation::Rsqrt, variance);
        let factor = builder.broadcast(factor, &[0], &shape);
        let normal = builder.multiply(centred, factor);
        let weight = builder.load(scale, &[along]);
        let weight = builder.broadcast(weight, &[1], &shape);
        let result = builder.multiply(normal, weight);
        builder.store(y, &coordinates, result);
        let mut numbers = Numbers::new(columns.into());
        let elements = rows * columns as usize;
        let arguments = [
            ArgumentData::Integer(rows as i64),
            numbers.floats(Element::F32, elements, -3.0, 5.0),
            numbers.floats(Element::F32, columns as usize, 0.5, 1.5),
            unwritten(Element::F32, elements),
        ];
        check(&builder.finish(), &arguments, SUMS);
    }
}
