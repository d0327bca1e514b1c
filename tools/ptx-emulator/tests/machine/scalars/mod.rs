//! Instructions of single lanes: what they share.

mod comparisons;
mod conversions;
mod floats;
mod integers;
mod modifiers;

/// What `coverage` runs again.
pub const TESTS: [&[fn()]; 5] =
    [comparisons::TESTS, conversions::TESTS, floats::TESTS, integers::TESTS, modifiers::TESTS];

const INTEGERS: [(&str, u32, bool); 6] = [
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

/// A type's bits as a number.
fn number(bits: u64, width: u32, signed: bool) -> i128 {
    let shift = 64 - width;
    if signed { i128::from((bits << shift) as i64 >> shift) } else { i128::from(bits << shift >> shift) }
}

/// A number's bits.
fn cut(value: i128, width: u32) -> u64 {
    value as u64 & (u64::MAX >> (64 - width))
}

fn edges(width: u32) -> [u64; 6] {
    let all = u64::MAX >> (64 - width);
    [0, 1, 7, all, all >> 1, (all >> 1) + 1]
}

fn f(value: f32) -> u64 {
    u64::from(value.to_bits())
}

fn d(value: f64) -> u64 {
    value.to_bits()
}

/// Whether a comparison holds.
pub type Test = fn(f64, f64) -> bool;

/// Comparisons of integers without a sign.
pub const INTEGER: [(&str, Test); 4] =
    [("lo", |x, y| x < y), ("ls", |x, y| x <= y), ("hi", |x, y| x > y), ("hs", |x, y| x >= y)];
/// Comparisons that do not hold for NaN.
pub const ORDERED: [(&str, Test); 6] = [
    ("eq", |x, y| x == y),
    ("ne", |x, y| x.partial_cmp(&y).is_some_and(|order| order.is_ne())),
    ("lt", |x, y| x < y),
    ("le", |x, y| x <= y),
    ("gt", |x, y| x > y),
    ("ge", |x, y| x >= y),
];
/// Comparisons that do.
pub const UNORDERED: [(&str, Test); 8] = [
    ("equ", |x, y| x.partial_cmp(&y).is_none_or(|order| order.is_eq())),
    ("neu", |x, y| x != y),
    ("ltu", |x, y| !matches!(x.partial_cmp(&y), Some(order) if order.is_ge())),
    ("leu", |x, y| !matches!(x.partial_cmp(&y), Some(order) if order.is_gt())),
    ("gtu", |x, y| !matches!(x.partial_cmp(&y), Some(order) if order.is_le())),
    ("geu", |x, y| !matches!(x.partial_cmp(&y), Some(order) if order.is_lt())),
    ("num", |x, y| !x.is_nan() && !y.is_nan()),
    ("nan", |x, y| x.is_nan() || y.is_nan()),
];
