//! Matrix products: every arithmetic, few and many rows, both layouts of the right-hand side, any extent.

use super::{Numbers, Tolerance, check, unwritten};
use crate::tile::{
    Access, Builder, Coordinate, Dimension, Element, GridExtent, Program, UnaryOperation, Value,
    interpret::ArgumentData,
};

/// Extents of a product and of its tiles.
#[derive(Clone, Copy, Debug)]
struct Case {
    rows: u32,
    inner: u32,
    columns: u32,
    row_block: u32,
    column_block: u32,
}

/// y[M,N] = x[M,K] · w + bias, w stored [K,N] or, transposed, [N,K]; the number of rows is given at launch.
fn product(element: Element, case: Case, transposed: bool) -> Program {
    let mut b = Builder::new(if transposed { "product_nk" } else { "product_kn" });
    let count = b.integer("rows", 1);
    let [rows, inner, columns] =
        [Dimension::Argument(count), Dimension::Constant(case.inner.into()), Dimension::Constant(case.columns.into())];
    let x = b.contiguous("x", element, &[rows, inner], Access::Read);
    let stored = if transposed { [columns, inner] } else { [inner, columns] };
    let w = b.contiguous("w", element, &stored, Access::Read);
    let sum = if element == Element::F64 { Element::F64 } else { Element::F32 };
    let bias = b.contiguous("bias", sum, &[columns], Access::Read);
    let y = b.contiguous("y", sum, &[rows, columns], Access::Write);
    b.grid([
        GridExtent::Tiles { dimension: rows, block: case.row_block },
        GridExtent::Tiles { dimension: columns, block: case.column_block },
        GridExtent::fixed(1),
    ]);
    let (i, j) = (b.program_id(0), b.program_id(1));
    let row = b.scale(i, case.row_block.into());
    let column = b.scale(j, case.column_block.into());
    let zero = b.index(0);
    let down = Coordinate::Block { start: row, length: case.row_block };
    let across = Coordinate::Block { start: column, length: case.column_block };
    let along = Coordinate::Block { start: zero, length: case.inner };
    let lhs = b.load(x, &[down, along]);
    let rhs = if transposed {
        let stored = b.load(w, &[across, along]);
        b.transpose(stored)
    } else {
        b.load(w, &[along, across])
    };
    let shape = [case.row_block, case.column_block];
    let start = b.splat(0.0, &shape, sum);
    let result = b.dot(lhs, rhs, start);
    let bias = b.load(bias, &[across]);
    let bias = b.broadcast(bias, &[1], &shape);
    let result = b.add(result, bias);
    b.store(y, &[down, across], result);
    b.finish()
}

fn check_product(element: Element, case: Case, transposed: bool) {
    let Case { rows, inner, columns, .. } = case;
    let mut numbers = Numbers::new(u64::from(rows * inner + columns));
    let size = |a: u32, b: u32| (a * b) as usize;
    let sum = if element == Element::F64 { Element::F64 } else { Element::F32 };
    let arguments = [
        ArgumentData::Integer(rows.into()),
        numbers.floats(element, size(rows, inner), -1.0, 1.0),
        numbers.floats(element, size(inner, columns), -1.0, 1.0),
        numbers.floats(sum, columns as usize, -1.0, 1.0),
        unwritten(sum, size(rows, columns)),
    ];
    let absolute = if element == Element::F64 { 1e-13 } else { 1e-6 } * f64::from(inner).sqrt().max(4.0);
    check(&product(element, case, transposed), &arguments, Tolerance { relative: 1e-6, absolute });
}

#[test]
fn few_rows_are_streamed() {
    for (rows, inner, columns, column_block) in [
        (1, 1, 1, 16),
        (1, 7, 33, 64),
        (1, 129, 130, 48),
        (3, 33, 7, 16),
        (2, 64, 129, 64),
        (7, 40, 100, 32),
        (8, 130, 65, 80),
    ] {
        let case = Case { rows, inner, columns, row_block: rows, column_block };
        for transposed in [false, true] {
            check_product(Element::F32, case, transposed);
        }
    }
}

#[test]
fn small_elements_are_streamed() {
    for element in [Element::BF16, Element::F16, Element::Fp8E4M3, Element::Fp8E5M2, Element::F64] {
        let case = Case { rows: 3, inner: 75, columns: 45, row_block: 2, column_block: 32 };
        for transposed in [false, true] {
            check_product(element, case, transposed);
        }
    }
}

#[test]
fn few_rows_of_small_products() {
    for (rows, inner, columns, row_block, column_block) in [
        (2, 32, 16, 2, 16),
        (8, 64, 64, 8, 64),
        (8, 64, 129, 8, 64),
        (5, 33, 100, 7, 48),
        (13, 129, 65, 5, 33),
        (11, 250, 40, 3, 32),
    ] {
        let case = Case { rows, inner, columns, row_block, column_block };
        for transposed in [false, true] {
            check_product(Element::BF16, case, transposed);
        }
    }
}

#[test]
fn many_rows_are_blocked() {
    for (rows, inner, columns, row_block, column_block) in [
        (9, 1, 1, 9, 16),
        (33, 33, 33, 16, 64),
        (129, 70, 129, 64, 64),
        (13, 600, 70, 13, 70),
        (40, 129, 200, 48, 96),
        (100, 64, 260, 128, 128),
    ] {
        let case = Case { rows, inner, columns, row_block, column_block };
        for transposed in [false, true] {
            check_product(Element::F32, case, transposed);
        }
    }
}

#[test]
fn many_rows_of_small_elements_are_blocked() {
    for element in [Element::BF16, Element::F16, Element::Fp8E4M3, Element::F64] {
        for (rows, inner, columns, row_block, column_block) in
            [(33, 33, 33, 16, 64), (129, 71, 129, 64, 64), (13, 300, 70, 13, 70), (70, 64, 200, 48, 80)]
        {
            let case = Case { rows, inner, columns, row_block, column_block };
            for transposed in [false, true] {
                check_product(element, case, transposed);
            }
        }
    }
}

/// A loop over blocks of the inner dimension, two products of one left-hand side, and an activation between them: a gated MLP.
#[test]
fn gated_product_in_a_loop() {
    for (rows, block) in [(5u32, 5u32), (33, 16)] {
        let (inner, columns) = (100u32, 70u32);
        let mut b = Builder::new("gated");
        let extents = |a: u32, b: u32| [Dimension::Constant(a.into()), Dimension::Constant(b.into())];
        let x = b.contiguous("x", Element::F32, &extents(rows, inner), Access::Read);
        let gate = b.contiguous("gate", Element::F32, &extents(inner, columns), Access::Read);
        let up = b.contiguous("up", Element::F32, &extents(inner, columns), Access::Read);
        let y = b.contiguous("y", Element::F32, &extents(rows, columns), Access::Write);
        b.grid([
            GridExtent::Tiles { dimension: Dimension::Constant(rows.into()), block },
            GridExtent::Tiles { dimension: Dimension::Constant(columns.into()), block: 64 },
            GridExtent::fixed(1),
        ]);
        let (i, j) = (b.program_id(0), b.program_id(1));
        let row = b.scale(i, block.into());
        let column = b.scale(j, 64);
        let down = Coordinate::Block { start: row, length: block };
        let across = Coordinate::Block { start: column, length: 64 };
        let zero = b.index(0);
        let upper = b.index(inner.into());
        let shape = [block, 64];
        let start = b.splat(0.0, &shape, Element::F32);
        let sums = b.for_loop(zero, upper, 32, &[start, start], |b, k, carried| {
            let along = Coordinate::Block { start: k, length: 32 };
            let lhs = b.load(x, &[down, along]);
            let first = b.load(gate, &[along, across]);
            let second = b.load(up, &[along, across]);
            vec![b.dot(lhs, first, carried[0]), b.dot(lhs, second, carried[1])]
        });
        let result = silu(&mut b, sums[0], &shape);
        let result = b.multiply(result, sums[1]);
        b.store(y, &[down, across], result);
        let mut numbers = Numbers::new(3);
        let size = |a: u32, b: u32| (a * b) as usize;
        let arguments = [
            numbers.floats(Element::F32, size(rows, inner), -1.0, 1.0),
            numbers.floats(Element::F32, size(inner, columns), -1.0, 1.0),
            numbers.floats(Element::F32, size(inner, columns), -1.0, 1.0),
            unwritten(Element::F32, size(rows, columns)),
        ];
        check(&b.finish(), &arguments, Tolerance { relative: 1e-4, absolute: 1e-4 });
    }
}

/// x / (1 + e^(−x))
fn silu(b: &mut Builder, x: Value, shape: &[u32]) -> Value {
    let negative = b.unary(UnaryOperation::Negate, x);
    let exponential = b.unary(UnaryOperation::Exp, negative);
    let one = b.splat(1.0, shape, Element::F32);
    let divisor = b.add(one, exponential);
    b.divide(x, divisor)
}
