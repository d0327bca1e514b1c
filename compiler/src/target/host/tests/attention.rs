//! Flash attention over a paged cache: gathered rows, products with both layouts, carried maxima and sums.

use super::{Numbers, Tolerance, check, unwritten};
use crate::tile::{
    Access, BinaryOperation, Builder, Coordinate, Dimension, Element, GridExtent, Literal, Predicate, Program,
    Reduction, UnaryOperation,
    interpret::{ArgumentData, TensorData},
};

const PAGE: u32 = 16;

/// One head of one sequence: queries [T, D] at positions `first..`, keys and values in pages, causal.
fn attention(element: Element, dimension: u32, query_block: u32, key_block: u32, page_size: u32) -> Program {
    let mut b = Builder::new("attention");
    let tokens = b.integer("tokens", 1);
    let first = b.integer("first", 1);
    let pages = b.integer("pages", 1);
    let rows = b.integer("rows", 1);
    let width = Dimension::Constant(dimension.into());
    let q = b.contiguous("q", element, &[Dimension::Argument(tokens), width], Access::Read);
    let keys = b.contiguous("keys", element, &[Dimension::Argument(rows), width], Access::Read);
    let values = b.contiguous("values", element, &[Dimension::Argument(rows), width], Access::Read);
    let table = b.contiguous("table", Element::I32, &[Dimension::Argument(pages)], Access::Read);
    let y = b.contiguous("y", Element::F32, &[Dimension::Argument(tokens), width], Access::Write);
    b.grid([
        GridExtent::Tiles { dimension: Dimension::Argument(tokens), block: query_block },
        GridExtent::fixed(1),
        GridExtent::fixed(1),
    ]);
    let program = b.program_id(0);
    let start = b.scale(program, query_block.into());
    let zero = b.index(0);
    let across = Coordinate::Block { start: zero, length: dimension };
    let down = Coordinate::Block { start, length: query_block };
    let query = b.load(q, &[down, across]);
    let offset = b.argument_value(first);
    let base = b.add(start, offset);
    let iota = b.iota(query_block);
    let base_tile = b.fill(base, &[query_block]);
    let positions = b.add(base_tile, iota);
    let token_count = b.argument_value(tokens);
    let upper = b.add(token_count, offset);
    let square = [query_block, key_block];
    let largest = b.splat(-1e30, &[query_block], Element::F32);
    let total = b.splat(0.0, &[query_block], Element::F32);
    let output = b.splat(0.0, &[query_block, dimension], Element::F32);
    let results = b.for_loop(zero, upper, key_block, &[largest, total, output], |b, key, carried| {
        let iota = b.iota(key_block);
        let key_tile = b.fill(key, &[key_block]);
        let key_positions = b.add(key_tile, iota);
        let page_size = b.constant(Literal::Integer(page_size.into()), &[key_block], Element::I32);
        let page = b.binary(BinaryOperation::Divide, key_positions, page_size);
        let slot = b.binary(BinaryOperation::Remainder, key_positions, page_size);
        let physical = b.load_masked(table, &[Coordinate::Gather(page)], None, Some(Literal::Integer(-1)));
        let row = b.multiply(physical, page_size);
        let row = b.add(row, slot);
        let k = b.load(keys, &[Coordinate::Gather(row), across]);
        let v = b.load(values, &[Coordinate::Gather(row), across]);
        let none = b.splat(0.0, &square, Element::F32);
        let turned = b.transpose(k);
        let scores = b.dot(query, turned, none);
        let scale = b.splat(1.0 / f64::from(dimension).sqrt(), &square, Element::F32);
        let scores = b.multiply(scores, scale);
        let queries_at = b.broadcast(positions, &[0], &square);
        let keys_at = b.broadcast(key_positions, &[1], &square);
        let visible = b.compare(Predicate::LessEqual, keys_at, queries_at);
        let hidden = b.splat(-1e30, &square, Element::F32);
        let scores = b.select(visible, scores, hidden);
        let block_largest = b.reduce(Reduction::Maximum, scores, 1);
        let largest = b.maximum(carried[0], block_largest);
        let largest_tile = b.broadcast(largest, &[0], &square);
        let shifted = b.subtract(scores, largest_tile);
        let weights = b.unary(UnaryOperation::Exp, shifted);
        let change = b.subtract(carried[0], largest);
        let decay = b.unary(UnaryOperation::Exp, change);
        let sum = b.reduce(Reduction::Sum, weights, 1);
        let total = b.multiply(carried[1], decay);
        let total = b.add(total, sum);
        let decay_tile = b.broadcast(decay, &[0], &[query_block, dimension]);
        let output = b.multiply(carried[2], decay_tile);
        let weights = b.cast(weights, element);
        let output = b.dot(weights, v, output);
        vec![largest, total, output]
    });
    let total = b.broadcast(results[1], &[0], &[query_block, dimension]);
    let result = b.divide(results[2], total);
    b.store(y, &[down, across], result);
    b.finish()
}

fn check_attention(element: Element, dimension: u32, tokens: u32, first: u32, query_block: u32, key_block: u32) {
    let program = attention(element, dimension, query_block, key_block, PAGE);
    check_in_pages(&program, element, dimension, tokens, first, PAGE);
}

fn check_in_pages(program: &Program, element: Element, dimension: u32, tokens: u32, first: u32, page_size: u32) {
    let length = tokens + first;
    let pages = length.div_ceil(page_size);
    let rows = (pages + 3) * page_size;
    // Pages in an order of their own, with some that belong to nobody.
    let order: Vec<i64> = (0..i64::from(pages)).map(|page| i64::from(pages) + 2 - page).collect();
    let mut numbers = Numbers::new(u64::from(length * dimension));
    let size = |a: u32| (a * dimension) as usize;
    let arguments = [
        ArgumentData::Integer(tokens.into()),
        ArgumentData::Integer(first.into()),
        ArgumentData::Integer(pages.into()),
        ArgumentData::Integer(rows.into()),
        numbers.floats(element, size(tokens), -1.0, 1.0),
        numbers.floats(element, size(rows), -1.0, 1.0),
        numbers.floats(element, size(rows), -1.0, 1.0),
        ArgumentData::Tensor(TensorData::from_integers(Element::I32, &order)),
        unwritten(Element::F32, size(tokens)),
    ];
    // Weights are rounded to bf16 on both sides, but their neighbours may differ in the last place.
    let tolerance = if element == Element::F32 { 2e-5 } else { 1e-2 };
    check(program, &arguments, Tolerance { relative: tolerance, absolute: tolerance });
}

#[test]
fn one_query() {
    for length in [1, 7, 33, 129] {
        check_attention(Element::F32, 64, 1, length - 1, 1, 64);
    }
}

#[test]
fn several_queries() {
    check_attention(Element::F32, 32, 7, 0, 4, 32);
    check_attention(Element::F32, 64, 33, 0, 32, 48);
    check_attention(Element::F32, 96, 20, 50, 16, 64);
    check_attention(Element::F32, 40, 129, 0, 64, 64);
}

#[test]
fn bf16() {
    for length in [1, 7, 33, 129] {
        check_attention(Element::BF16, 64, 1, length - 1, 1, 64);
        // A few queries, as the heads that share keys are.
        for (queries, query_block) in [(2, 2), (3, 8), (5, 4), (8, 8), (17, 7)] {
            check_attention(Element::BF16, 64, queries, length - 1, query_block, 64);
        }
    }
    check_attention(Element::BF16, 32, 4, 90, 4, 80);
    check_attention(Element::BF16, 40, 8, 90, 8, 48);
    check_attention(Element::BF16, 128, 8, 200, 8, 64);
    check_attention(Element::BF16, 64, 33, 0, 32, 64);
}

/// Keys that do not lie in runs as long as a tile, and such as begin in the middle of one.
#[test]
fn short_and_long_pages() {
    for page_size in [1, 8, 24, 64] {
        for (dimension, tokens, first) in [(64, 8, 129), (32, 3, 70), (96, 5, 0)] {
            let program = attention(Element::BF16, dimension, 8, 64, page_size);
            check_in_pages(&program, Element::BF16, dimension, tokens, first, page_size);
        }
    }
}
