//! Eight-bit elements as weights of products.

use super::{Numbers, Tolerance, check, unwritten};
use crate::tile::{
    Access, Builder, Coordinate, Dimension, Element, GridExtent, Program,
    interpret::{ArgumentData, TensorData},
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

/// y[M,N] = x[M,K] · wᵀ, w [N,K] in `weights`, x in `element`, multiplied in `multiplied`.
fn product(element: Element, weights: Element, multiplied: Element, case: Case) -> Program {
    let mut b = Builder::new("product_bytes");
    let dimensions = |extents: [u32; 2]| extents.map(|extent| Dimension::Constant(extent.into()));
    let x = b.contiguous("x", element, &dimensions([case.rows, case.inner]), Access::Read);
    let w = b.contiguous("w", weights, &dimensions([case.columns, case.inner]), Access::Read);
    let y = b.contiguous("y", Element::F32, &dimensions([case.rows, case.columns]), Access::Write);
    let tiles = |extent: u32, block| GridExtent::Tiles { dimension: Dimension::Constant(extent.into()), block };
    b.grid([tiles(case.rows, case.row_block), tiles(case.columns, case.column_block), GridExtent::fixed(1)]);
    let (i, j) = (b.program_id(0), b.program_id(1));
    let row = b.scale(i, case.row_block.into());
    let column = b.scale(j, case.column_block.into());
    let zero = b.index(0);
    let along = Coordinate::Block { start: zero, length: case.inner };
    let down = Coordinate::Block { start: row, length: case.row_block };
    let across = Coordinate::Block { start: column, length: case.column_block };
    let lhs = b.load(x, &[down, along]);
    let lhs = b.cast(lhs, multiplied);
    let rhs = b.load(w, &[across, along]);
    let rhs = b.transpose(rhs);
    let rhs = b.cast(rhs, multiplied);
    let start = b.splat(0.0, &[case.row_block, case.column_block], Element::F32);
    let result = b.dot(lhs, rhs, start);
    b.store(y, &[down, across], result);
    b.finish()
}

fn weights_of(numbers: &mut Numbers, weights: Element, count: usize) -> ArgumentData {
    match weights {
        Element::I8 => numbers.integers(Element::I8, count, -128, 127),
        // Some below the normal numbers too.
        Element::Fp8E4M3 => numbers.floats(weights, count, -0.1, 0.1),
        _ => numbers.floats(weights, count, -1e-4, 1e-4),
    }
}

const WEIGHTS: [Element; 3] = [Element::I8, Element::Fp8E4M3, Element::Fp8E5M2];

#[test]
fn weights_of_products_are_bytes() {
    let cases = [
        (1, 1, 1, 1, 16),
        (1, 31, 33, 1, 16),
        (1, 64, 4, 1, 16),
        (1, 200, 70, 1, 48),
        (1, 2880, 7, 1, 7),
        (3, 100, 37, 4, 16),
        (8, 130, 20, 8, 32),
        (5, 2880, 37, 8, 33),
        (2, 64, 50, 2, 48),
        (7, 31, 17, 8, 17),
        (33, 96, 70, 16, 64),
        (70, 75, 130, 64, 48),
    ];
    for weights in WEIGHTS {
        for (element, multiplied) in
            [(Element::F32, Element::F32), (Element::BF16, Element::BF16), (Element::BF16, Element::F32)]
        {
            for (rows, inner, columns, row_block, column_block) in cases {
                let case = Case { rows, inner, columns, row_block, column_block };
                let mut numbers = Numbers::new(u64::from(rows * inner + columns));
                let x = numbers.floats(element, (rows * inner) as usize, -1.0, 1.0);
                let w = weights_of(&mut numbers, weights, (columns * inner) as usize);
                let largest = match weights {
                    Element::I8 => 128.0,
                    Element::Fp8E4M3 => 0.1,
                    _ => 1e-4,
                };
                // Numbers below a 64th of the largest are rounded to 2^-14 of it, and sums in another order.
                let absolute = largest * f64::from(inner).sqrt() * 1e-4;
                let arguments = [x, w, unwritten(Element::F32, (rows * columns) as usize)];
                check(&product(element, weights, multiplied, case), &arguments, Tolerance { relative: 1e-5, absolute });
            }
        }
    }
}

/// What is not a number stays none, and rows and columns without one are not touched.
#[test]
fn bytes_and_rows_may_be_nan() {
    // A tile of columns, and some after it.
    let case = Case { rows: 2, inner: 70, columns: 21, row_block: 2, column_block: 32 };
    for weights in WEIGHTS {
        let mut numbers = Numbers::new(7);
        let mut rows: Vec<f64> = (0..140).map(|_| numbers.float(-1.0, 1.0)).collect();
        rows[69] = f64::NAN;
        let mut columns: Vec<f64> = (0..21 * 70).map(|_| numbers.float(-0.1, 0.1)).collect();
        columns[3 * 70 + 67] = if weights == Element::I8 { 1.0 } else { f64::NAN };
        let w = match weights {
            Element::I8 => {
                TensorData::from_integers(weights, &columns.iter().map(|x| (x * 1e3) as i64).collect::<Vec<_>>())
            }
            _ => TensorData::from_floats(weights, &columns),
        };
        let x = ArgumentData::Tensor(TensorData::from_floats(Element::F32, &rows));
        let arguments = [x, ArgumentData::Tensor(w), unwritten(Element::F32, 42)];
        let tolerance = Tolerance { relative: 1e-5, absolute: 1e-4 };
        check(&product(Element::F32, weights, Element::F32, case), &arguments, tolerance);
    }
}
