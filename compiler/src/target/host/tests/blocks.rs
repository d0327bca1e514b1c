//! Block-scaled elements: every format, read in every order, and as weights of products.

use super::{EXACT, Numbers, Tolerance, check, unwritten};
use crate::tile::{
    Access, Builder, Coordinate, Dimension, Element, GridExtent, Program,
    interpret::{ArgumentData, TensorData},
};

/// A format of blocks.
#[derive(Clone, Copy, Debug)]
struct Format {
    elements: Element,
    scales: Element,
    block: u32,
}

const MXFP4: Format = Format { elements: Element::U8, scales: Element::U8, block: 32 };

impl Format {
    /// Elements as they are stored that hold so many columns.
    fn stored(self, columns: u32) -> u32 {
        if self.elements == Element::U8 { columns / 2 } else { columns }
    }

    /// Elements and scales of a matrix: every code of E2M1, scales of either sign of the exponent.
    fn data(self, numbers: &mut Numbers, rows: u32, columns: u32) -> [ArgumentData; 2] {
        let (count, blocks) = ((rows * self.stored(columns)) as usize, (rows * columns / self.block) as usize);
        let elements = match self.elements {
            Element::U8 => numbers.integers(Element::U8, count, 0, 255),
            Element::I8 => numbers.integers(Element::I8, count, -128, 127),
            element => numbers.floats(element, count, -400.0, 400.0),
        };
        let scales = match self.scales {
            Element::U8 => numbers.integers(Element::U8, blocks, 119, 129),
            element => numbers.floats(element, blocks, 0.01, 2.0),
        };
        [elements, scales]
    }
}

fn dimensions(extents: &[u32]) -> Vec<Dimension> {
    extents.iter().map(|&extent| Dimension::Constant(extent.into())).collect()
}

/// The numbers of a matrix, as rows or as columns.
fn numbers_of(format: Format, [rows, columns]: [u32; 2], result: Element, turned: bool) -> Program {
    let mut b = Builder::new("numbers");
    let w = b.contiguous("w", format.elements, &dimensions(&[rows, format.stored(columns)]), Access::Read);
    let s = b.contiguous("s", format.scales, &dimensions(&[rows, columns / format.block]), Access::Read);
    let shape = if turned { [columns, rows] } else { [rows, columns] };
    let y = b.contiguous("y", result, &dimensions(&shape), Access::Write);
    let block = 4;
    b.grid([
        GridExtent::Tiles { dimension: Dimension::Constant(rows.into()), block },
        GridExtent::fixed(1),
        GridExtent::fixed(1),
    ]);
    let program = b.program_id(0);
    let row = b.scale(program, block.into());
    let zero = b.index(0);
    let down = Coordinate::Block { start: row, length: block };
    let along = |length: u32| Coordinate::Block { start: zero, length };
    let elements = b.load(w, &[down, along(format.stored(columns))]);
    let scales = b.load(s, &[down, along(columns / format.block)]);
    let value = b.dequantize(elements, scales, result);
    if turned {
        let value = b.transpose(value);
        b.store(y, &[along(columns), down], value);
    } else {
        b.store(y, &[down, along(columns)], value);
    }
    b.finish()
}

#[test]
fn every_format_is_read_in_either_order() {
    let formats = [
        MXFP4,
        Format { elements: Element::U8, scales: Element::Fp8E4M3, block: 16 },
        Format { elements: Element::Fp8E4M3, scales: Element::F32, block: 128 },
        Format { elements: Element::I8, scales: Element::F16, block: 32 },
        Format { elements: Element::U8, scales: Element::F32, block: 6 },
    ];
    for format in formats {
        for (rows, blocks) in [(1, 1), (5, 2)] {
            let (columns, mut numbers) = (format.block * blocks, Numbers::new(rows.into()));
            let [elements, scales] = format.data(&mut numbers, rows, columns);
            for result in [Element::F32, Element::BF16] {
                for turned in [false, true] {
                    let output = unwritten(result, (rows * columns) as usize);
                    let program = numbers_of(format, [rows, columns], result, turned);
                    check(&program, &[elements.clone(), scales.clone(), output], EXACT);
                }
            }
        }
    }
}

#[test]
fn extreme_scales_are_what_they_stand_for() {
    let scales = TensorData::from_integers(Element::U8, &[0, 1, 253, 254, 255]);
    let codes: Vec<i64> = (0..80).map(|byte| byte * 37 % 256).collect();
    for result in [Element::F32, Element::BF16] {
        let arguments = [
            ArgumentData::Tensor(TensorData::from_integers(Element::U8, &codes)),
            ArgumentData::Tensor(scales.clone()),
            unwritten(result, 160),
        ];
        check(&numbers_of(MXFP4, [5, 32], result, false), &arguments, EXACT);
    }
}

/// Extents of a product and of its tiles.
#[derive(Clone, Copy, Debug)]
struct Case {
    rows: u32,
    inner: u32,
    columns: u32,
    row_block: u32,
    column_block: u32,
}

/// y[M,N] = x[M,K] · wᵀ, w [N,K] in MXFP4, multiplied in `element`.
fn product(element: Element, case: Case) -> Program {
    let mut b = Builder::new("product_mx");
    let x = b.contiguous("x", element, &dimensions(&[case.rows, case.inner]), Access::Read);
    let w = b.contiguous("w", Element::U8, &dimensions(&[case.columns, case.inner / 2]), Access::Read);
    let s = b.contiguous("s", Element::U8, &dimensions(&[case.columns, case.inner / 32]), Access::Read);
    let y = b.contiguous("y", Element::F32, &dimensions(&[case.rows, case.columns]), Access::Write);
    let tiles = |extent: u32, block| GridExtent::Tiles { dimension: Dimension::Constant(extent.into()), block };
    b.grid([tiles(case.rows, case.row_block), tiles(case.columns, case.column_block), GridExtent::fixed(1)]);
    let (i, j) = (b.program_id(0), b.program_id(1));
    let row = b.scale(i, case.row_block.into());
    let column = b.scale(j, case.column_block.into());
    let zero = b.index(0);
    let along = |length| Coordinate::Block { start: zero, length };
    let down = Coordinate::Block { start: row, length: case.row_block };
    let across = Coordinate::Block { start: column, length: case.column_block };
    let lhs = b.load(x, &[down, along(case.inner)]);
    let elements = b.load(w, &[across, along(case.inner / 2)]);
    let scales = b.load(s, &[across, along(case.inner / 32)]);
    let rhs = b.dequantize(elements, scales, Element::BF16);
    let rhs = b.cast(rhs, element);
    let rhs = b.transpose(rhs);
    let start = b.splat(0.0, &[case.row_block, case.column_block], Element::F32);
    let result = b.dot(lhs, rhs, start);
    b.store(y, &[down, across], result);
    b.finish()
}

#[test]
fn weights_of_products_are_block_scaled() {
    let cases = [
        (1, 32, 1, 1, 16),
        (1, 96, 33, 1, 16),
        (1, 160, 70, 1, 48),
        (1, 320, 40, 1, 40),
        (3, 96, 37, 4, 16),
        (8, 64, 20, 8, 32),
        (9, 32, 5, 16, 16),
        (33, 96, 70, 16, 64),
        (70, 160, 130, 64, 48),
    ];
    for element in [Element::F32, Element::BF16] {
        for (rows, inner, columns, row_block, column_block) in cases {
            let case = Case { rows, inner, columns, row_block, column_block };
            let mut numbers = Numbers::new(u64::from(rows * inner + columns));
            let x = numbers.floats(element, (rows * inner) as usize, -1.0, 1.0);
            let [elements, scales] = MXFP4.data(&mut numbers, columns, inner);
            let arguments = [x, elements, scales, unwritten(Element::F32, (rows * columns) as usize)];
            // bf16 below a 64th of the largest of its block is rounded to 2^-14 of it.
            let absolute = if element == Element::BF16 { 4e-3 } else { 2e-4 };
            check(&product(element, case), &arguments, Tolerance { relative: 1e-5, absolute });
        }
    }
}
