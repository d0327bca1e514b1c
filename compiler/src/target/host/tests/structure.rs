//! Loops, gathers, masks, transposition, grids of three dimensions, strides given at launch.

use super::{EXACT, Numbers, Tolerance, check, unwritten};
use crate::tile::{
    Access, Argument, Builder, Coordinate, Dimension, Element, GridExtent, Literal, Predicate, Reduction,
    TensorArgument,
    interpret::{ArgumentData, TensorData},
};

fn grid(x: GridExtent) -> [GridExtent; 3] {
    [x, GridExtent::fixed(1), GridExtent::fixed(1)]
}

/// Prefix maxima and running sums along a row, carried as tiles and as a scalar.
#[test]
fn loops_carry_tiles_and_scalars() {
    let mut b = Builder::new("running");
    let length = b.integer("length", 1);
    let extent = Dimension::Argument(length);
    let x = b.contiguous("x", Element::F32, &[extent], Access::Read);
    let y = b.contiguous("y", Element::F32, &[Dimension::Constant(20)], Access::Write);
    let total = b.contiguous("total", Element::F32, &[Dimension::Constant(2)], Access::Write);
    let zero = b.index(0);
    let upper = b.dimension(extent);
    let sums = b.splat(0.0, &[20], Element::F32);
    let largest = b.splat(-100.0, &[20], Element::F32);
    let scalar = b.splat(0.0, &[], Element::F32);
    let results = b.for_loop(zero, upper, 20, &[sums, largest, scalar, sums], |b, start, carried| {
        let block = b.load(x, &[Coordinate::Block { start, length: 20 }]);
        let sums = b.add(carried[0], block);
        let largest = b.maximum(carried[1], block);
        let part = b.reduce(Reduction::Sum, block, 0);
        let scalar = b.add(carried[2], part);
        // The third tile is what the first was an iteration ago; nothing is carried along unchanged but its successor.
        vec![sums, largest, scalar, carried[0]]
    });
    let mixed = b.add(results[0], results[1]);
    let mixed = b.subtract(mixed, results[3]);
    b.store(y, &[Coordinate::Block { start: zero, length: 20 }], mixed);
    let one = b.fill(results[2], &[2]);
    b.store(total, &[Coordinate::Block { start: zero, length: 2 }], one);
    let program = b.finish();
    for length in [0usize, 7, 20, 33, 129] {
        let x = Numbers::new(length as u64).floats(Element::F32, length, -1.0, 1.0);
        let arguments =
            [ArgumentData::Integer(length as i64), x, unwritten(Element::F32, 20), unwritten(Element::F32, 2)];
        check(&program, &arguments, Tolerance { relative: 1e-5, absolute: 1e-5 });
    }
}

#[test]
fn rows_are_gathered_and_scattered() {
    for columns in [1u64, 7, 33, 64] {
        let mut b = Builder::new("gather");
        let count = b.integer("count", 1);
        let extent = Dimension::Argument(count);
        let table = b.contiguous("table", Element::F32, &[11, columns].map(Dimension::Constant), Access::Read);
        let source = b.contiguous("source", Element::I32, &[extent], Access::Read);
        let target = b.contiguous("target", Element::I32, &[extent], Access::Read);
        let y = b.contiguous("y", Element::F32, &[40, columns].map(Dimension::Constant), Access::Write);
        b.grid(grid(GridExtent::Tiles { dimension: extent, block: 4 }));
        let program = b.program_id(0);
        let start = b.scale(program, 4);
        let zero = b.index(0);
        let rows = Coordinate::Block { start, length: 4 };
        let across = Coordinate::Block { start: zero, length: columns as u32 };
        let from = b.load(source, &[rows]);
        // Tokens beyond the last go nowhere.
        let to = b.load_masked(target, &[rows], None, Some(Literal::Integer(-1)));
        let tile = b.load(table, &[Coordinate::Gather(from), across]);
        b.store(y, &[Coordinate::Gather(to), across], tile);
        // 11 and -1 lie outside of the table: zeros.
        let source = [3, 0, 10, 11, 5, -1, 7, 7, 2].to_vec();
        let target = [39, 0, 5, 6, -1, 8, 9, 10, 11].to_vec();
        let integers = |values: &[i64]| ArgumentData::Tensor(TensorData::from_integers(Element::I32, values));
        let arguments = [
            ArgumentData::Integer(9),
            Numbers::new(2).floats(Element::F32, 11 * columns as usize, -1.0, 1.0),
            integers(&source),
            integers(&target),
            unwritten(Element::F32, 40 * columns as usize),
        ];
        check(&b.finish(), &arguments, EXACT);
    }
}

#[test]
fn elements_are_gathered_along_the_vector_dimension() {
    for element in [Element::F32, Element::BF16, Element::U8, Element::I64] {
        let mut b = Builder::new("pick");
        let x = b.contiguous("x", element, &[Dimension::Constant(50)], Access::Read);
        let indices = b.contiguous("indices", Element::I32, &[Dimension::Constant(37)], Access::Read);
        let y = b.contiguous("y", element, &[Dimension::Constant(60)], Access::Write);
        let zero = b.index(0);
        let picked = b.load(indices, &[Coordinate::Block { start: zero, length: 37 }]);
        let tile = b.load(x, &[Coordinate::Gather(picked)]);
        b.store(y, &[Coordinate::Gather(picked)], tile);
        let mut numbers = Numbers::new(1);
        let x = if element.is_float() {
            numbers.floats(element, 50, -1.0, 1.0)
        } else {
            numbers.integers(element, 50, 0, 100)
        };
        let order: Vec<i64> = (0..37).map(|step| (step * 17) % 53 - 1).collect();
        let indices = ArgumentData::Tensor(TensorData::from_integers(Element::I32, &order));
        check(&b.finish(), &[x, indices, unwritten(element, 60)], EXACT);
    }
}

#[test]
fn masks_decide_by_element() {
    let mut b = Builder::new("masked");
    let x = b.contiguous("x", Element::F32, &[Dimension::Constant(100)], Access::Read);
    let y = b.contiguous("y", Element::F32, &[Dimension::Constant(100)], Access::ReadWrite);
    b.grid(grid(GridExtent::fixed(4)));
    let program = b.program_id(0);
    let start = b.scale(program, 30);
    let coordinates = [Coordinate::Block { start, length: 30 }];
    let iota = b.iota(30);
    let three = b.constant(Literal::Integer(3), &[30], Element::I32);
    let rest = b.binary(crate::tile::BinaryOperation::Remainder, iota, three);
    let one = b.constant(Literal::Integer(1), &[30], Element::I32);
    let mask = b.compare(Predicate::Equal, rest, one);
    let loaded = b.load_masked(x, &coordinates, Some(mask), Some(Literal::Float(-7.0)));
    let old = b.load(y, &coordinates);
    let sum = b.add(loaded, old);
    let two = b.constant(Literal::Integer(2), &[30], Element::I32);
    let wanted = b.compare(Predicate::Less, rest, two);
    b.store_masked(y, &coordinates, sum, Some(wanted));
    let mut numbers = Numbers::new(1);
    let x = numbers.floats(Element::F32, 100, -1.0, 1.0);
    let y = numbers.floats(Element::F32, 100, -1.0, 1.0);
    check(&b.finish(), &[x, y], EXACT);
}

#[test]
fn transposition_on_a_grid_of_three_dimensions() {
    let (rows, columns) = (33u64, 50u64);
    let mut b = Builder::new("transpose");
    let x = b.contiguous("x", Element::F32, &[2, rows, columns].map(Dimension::Constant), Access::Read);
    let y = b.contiguous("y", Element::F32, &[2, columns, rows].map(Dimension::Constant), Access::Write);
    b.grid([
        GridExtent::Tiles { dimension: Dimension::Constant(columns), block: 20 },
        GridExtent::Tiles { dimension: Dimension::Constant(rows), block: 16 },
        GridExtent::fixed(2),
    ]);
    let (i, j, batch) = (b.program_id(0), b.program_id(1), b.program_id(2));
    let column = b.scale(i, 20);
    let row = b.scale(j, 16);
    let down = Coordinate::Block { start: row, length: 16 };
    let across = Coordinate::Block { start: column, length: 20 };
    let tile = b.load(x, &[Coordinate::At(batch), down, across]);
    let turned = b.transpose(tile);
    b.store(y, &[Coordinate::At(batch), across, down], turned);
    let count = (2 * rows * columns) as usize;
    let x = Numbers::new(1).floats(Element::F32, count, -1.0, 1.0);
    check(&b.finish(), &[x, unwritten(Element::F32, count)], EXACT);
}

#[test]
fn strides_and_floats_are_given_at_launch() {
    let mut b = Builder::new("strided");
    let rows = b.integer("rows", 1);
    let stride = b.integer("stride", 1);
    let scale = b.float("scale");
    let tensor = |name: &str, access, inner| {
        Argument::Tensor(TensorArgument {
            name: name.into(),
            element: Element::F32,
            extents: [Dimension::Argument(rows), Dimension::Constant(19)].into_iter().collect(),
            strides: [Dimension::Argument(stride), inner].into_iter().collect(),
            access,
            alignment: 4,
        })
    };
    let Argument::Tensor(x) = tensor("x", Access::Read, Dimension::Constant(2)) else { unreachable!() };
    let Argument::Tensor(y) = tensor("y", Access::Write, Dimension::Constant(1)) else { unreachable!() };
    let (x, y) = (b.tensor(x), b.tensor(y));
    b.grid(grid(GridExtent::Tiles { dimension: Dimension::Argument(rows), block: 3 }));
    let program = b.program_id(0);
    let start = b.scale(program, 3);
    let zero = b.index(0);
    let coordinates = [Coordinate::Block { start, length: 3 }, Coordinate::Block { start: zero, length: 32 }];
    let tile = b.load(x, &coordinates);
    let factor = b.argument_value(scale);
    let factor = b.fill(factor, &[3, 32]);
    let result = b.multiply(tile, factor);
    b.store(y, &coordinates, result);
    let arguments = [
        ArgumentData::Integer(7),
        ArgumentData::Integer(41),
        ArgumentData::Float(1.5),
        Numbers::new(1).floats(Element::F32, 7 * 41, -1.0, 1.0),
        Numbers::new(2).floats(Element::F32, 7 * 41, -1.0, 1.0),
    ];
    check(&b.finish(), &arguments, EXACT);
}

/// What does not depend on x is computed once for a row of programs, whichever part of the row a call runs.
#[test]
fn rows_of_the_grid_share_what_does_not_vary() {
    let mut b = Builder::new("shared");
    let x = b.contiguous("x", Element::F32, &[5, 70].map(Dimension::Constant), Access::Read);
    let y = b.contiguous("y", Element::F32, &[5, 70].map(Dimension::Constant), Access::Write);
    b.grid([
        GridExtent::Tiles { dimension: Dimension::Constant(70), block: 16 },
        GridExtent::fixed(5),
        GridExtent::fixed(1),
    ]);
    let (column, row) = (b.program_id(0), b.program_id(1));
    let zero = b.index(0);
    let whole = b.load(x, &[Coordinate::At(row), Coordinate::Block { start: zero, length: 70 }]);
    let total = b.reduce(Reduction::Sum, whole, 0);
    let start = b.scale(column, 16);
    let part = [Coordinate::At(row), Coordinate::Block { start, length: 16 }];
    let tile = b.load(x, &part);
    let total = b.fill(total, &[16]);
    let result = b.add(tile, total);
    b.store(y, &part, result);
    let x = Numbers::new(1).floats(Element::F32, 350, -1.0, 1.0);
    check(&b.finish(), &[x, unwritten(Element::F32, 350)], Tolerance { relative: 1e-5, absolute: 1e-5 });
}

/// A program computes the result that its y coordinate says: loops that run once or not at all, each with a product whose right-hand side
/// the programs along x share.
#[test]
fn results_are_chosen_by_the_grid() {
    let (rows, inner, columns) = (40u64, 20u64, 24u64);
    let mut b = Builder::new("chosen");
    let x = b.contiguous("x", Element::F32, &[rows, inner].map(Dimension::Constant), Access::Read);
    let weights: Vec<_> = (0..3)
        .map(|which| {
            let name = format!("w{which}");
            b.contiguous(&name, Element::F32, &[inner, columns].map(Dimension::Constant), Access::Read)
        })
        .collect();
    let outputs: Vec<_> = (0..3)
        .map(|which| {
            let name = format!("y{which}");
            b.contiguous(&name, Element::F32, &[rows, columns].map(Dimension::Constant), Access::Write)
        })
        .collect();
    b.grid([
        GridExtent::Tiles { dimension: Dimension::Constant(rows), block: 12 },
        GridExtent::fixed(3),
        GridExtent::fixed(1),
    ]);
    let (i, j) = (b.program_id(0), b.program_id(1));
    let start = b.scale(i, 12);
    let zero = b.index(0);
    for (which, (&w, &y)) in weights.iter().zip(&outputs).enumerate() {
        let wanted = b.index(which as i64);
        let chosen = b.compare(Predicate::Equal, j, wanted);
        let times = b.cast(chosen, Element::I32);
        b.for_loop(zero, times, 1, &[], |b, _, _| {
            let down = Coordinate::Block { start, length: 12 };
            let lhs = b.load(x, &[down, Coordinate::Block { start: zero, length: 20 }]);
            let across = Coordinate::Block { start: zero, length: 24 };
            let rhs = b.load(w, &[Coordinate::Block { start: zero, length: 20 }, across]);
            let sums = b.splat(which as f64, &[12, 24], Element::F32);
            let product = b.dot(lhs, rhs, sums);
            b.store(y, &[down, across], product);
            vec![]
        });
    }
    let program = b.finish();
    let size = |a: u64, b: u64| (a * b) as usize;
    let mut numbers = Numbers::new(1);
    let mut arguments = vec![numbers.floats(Element::F32, size(rows, inner), -1.0, 1.0)];
    arguments.extend((0..3).map(|_| numbers.floats(Element::F32, size(inner, columns), -1.0, 1.0)));
    arguments.extend((0..3).map(|_| unwritten(Element::F32, size(rows, columns))));
    check(&program, &arguments, Tolerance { relative: 1e-5, absolute: 1e-5 });
}
