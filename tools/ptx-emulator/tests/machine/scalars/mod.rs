//! Instructions of single lanes: what they share.

mod comparisons;
mod conversions;
mod floats;
mod integers;

/// What `coverage` runs again.
pub const TESTS: [&[fn()]; 4] = [comparisons::TESTS, conversions::TESTS, floats::TESTS, integers::TESTS];

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
