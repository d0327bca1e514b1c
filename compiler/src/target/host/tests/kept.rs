//! Rows of products that are kept from one program to the next.

use super::{Numbers, Tolerance, check_all, unwritten};
use crate::tile::{
    Access, ArgumentIndex, Builder, Coordinate, Dimension, Element, GridExtent, Program, Reduction, Value,
};

const ROWS: u32 = 5;
const INNER: u32 = 70;
const COLUMNS: u32 = 37;
const COLUMN_BLOCK: u32 = 16;

/// The tensors of y[M,N] = x / Σx · wᵀ.
struct Tensors {
    x: ArgumentIndex,
    w: ArgumentIndex,
    y: ArgumentIndex,
}

impl Tensors {
    fn new(b: &mut Builder, weights: Element) -> Tensors {
        let dimensions = |extents: [u32; 2]| extents.map(|extent| Dimension::Constant(extent.into()));
        Tensors {
            x: b.contiguous("x", Element::F32, &dimensions([ROWS, INNER]), Access::Read),
            w: b.contiguous("w", weights, &dimensions([COLUMNS, INNER]), Access::Read),
            y: b.contiguous("y", Element::F32, &dimensions([ROWS, COLUMNS]), Access::Write),
        }
    }

    /// A tile of `rows` rows and a block of columns.
    fn tile(&self, b: &mut Builder, multiplied: Element, rows: u32, [row, column]: [Value; 2]) {
        let zero = b.index(0);
        let along = Coordinate::Block { start: zero, length: INNER };
        let down = Coordinate::Block { start: row, length: rows };
        let across = Coordinate::Block { start: column, length: COLUMN_BLOCK };
        let x = b.load(self.x, &[down, along]);
        let total = b.reduce(Reduction::Sum, x, 1);
        let total = b.broadcast(total, &[0], &[rows, INNER]);
        let lhs = b.divide(x, total);
        let lhs = b.cast(lhs, multiplied);
        let rhs = b.load(self.w, &[across, along]);
        let rhs = b.cast(rhs, multiplied);
        let rhs = b.transpose(rhs);
        let start = b.splat(0.0, &[rows, COLUMN_BLOCK], Element::F32);
        let result = b.dot(lhs, rhs, start);
        b.store(self.y, &[down, across], result);
    }
}

const fn blocks(extent: u32, block: u32) -> GridExtent {
    GridExtent::Tiles { dimension: Dimension::Constant(extent as u64), block }
}

/// Rows along one axis of the grid, and columns along the other.
fn by_grid(weights: Element, multiplied: Element, rows: u32, row_axis: u8) -> Program {
    let mut b = Builder::new(format!("kept_{rows}_{row_axis}"));
    let tensors = Tensors::new(&mut b, weights);
    let mut grid = [blocks(ROWS, rows), blocks(COLUMNS, COLUMN_BLOCK), GridExtent::fixed(1)];
    grid.swap(0, usize::from(row_axis));
    b.grid(grid);
    let (row, column) = (b.program_id(row_axis), b.program_id(1 - row_axis));
    let (row, column) = (b.scale(row, rows.into()), b.scale(column, COLUMN_BLOCK.into()));
    tensors.tile(&mut b, multiplied, rows, [row, column]);
    b.finish()
}

/// Columns along an axis of the grid; each program goes through all rows, so that none of them stay.
fn by_loop(weights: Element, multiplied: Element, rows: u32, column_axis: u8) -> Program {
    let mut b = Builder::new(format!("kept_in_loop_{rows}_{column_axis}"));
    let tensors = Tensors::new(&mut b, weights);
    let mut grid = [blocks(COLUMNS, COLUMN_BLOCK), GridExtent::fixed(1), GridExtent::fixed(1)];
    grid.swap(0, usize::from(column_axis));
    b.grid(grid);
    let column = b.program_id(column_axis);
    let column = b.scale(column, COLUMN_BLOCK.into());
    let (zero, all) = (b.index(0), b.index(ROWS.into()));
    b.for_loop(zero, all, rows, &[], |b, row, _| {
        tensors.tile(b, multiplied, rows, [row, column]);
        vec![]
    });
    b.finish()
}

/// What a program leaves in the scratch is used by the next one, and in the next call, only where its rows are the same.
#[test]
fn programs_of_the_same_rows_share_them() {
    for (weights, multiplied) in [
        (Element::F32, Element::F32),
        (Element::BF16, Element::BF16),
        (Element::BF16, Element::F32),
        (Element::F16, Element::F32),
        (Element::I8, Element::BF16),
        (Element::Fp8E5M2, Element::F32),
    ] {
        let mut programs = Vec::new();
        for rows in [1, 2, 5] {
            for axis in [0, 1] {
                programs.push(by_grid(weights, multiplied, rows, axis));
                programs.push(by_loop(weights, multiplied, rows, axis));
            }
        }
        let mut numbers = Numbers::new(7);
        let (x, w) = ((ROWS * INNER) as usize, (COLUMNS * INNER) as usize);
        let arguments = [
            numbers.floats(Element::F32, x, 0.5, 1.5),
            match weights {
                Element::I8 => numbers.integers(Element::I8, w, -128, 127),
                _ => numbers.floats(weights, w, -1.0, 1.0),
            },
            unwritten(Element::F32, (ROWS * COLUMNS) as usize),
        ];
        let largest = if weights == Element::I8 { 128.0 } else { 1.0 };
        let tolerance = Tolerance { relative: 0.0, absolute: largest * 2e-3 };
        let arguments = vec![arguments.to_vec(); programs.len()];
        check_all(&programs, &arguments, tolerance);
    }
}
