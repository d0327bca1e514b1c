//! Random numbers that depend on nothing but a key and a counter.

use crate::tile::{BinaryOperation, Builder, Element, Literal, UnaryOperation, Value};

/// Multipliers and key increments of Philox4x32 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const INCREMENTS: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];

/// An I32 tile of the bits of a constant.
fn bits(b: &mut Builder, value: u32, shape: &[u32]) -> Value {
    b.constant(Literal::Integer((value as i32).into()), shape, Element::I32)
}

/// Philox4x32-10: four words of random bits (I32) for each element of the counter's tiles. The key is two I32 scalars.
pub fn philox(b: &mut Builder, counter: [Value; 4], key: [Value; 2]) -> [Value; 4] {
    let shape = b.type_of(counter[0]).shape.clone();
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    let multipliers = MULTIPLIERS.map(|multiplier| bits(b, multiplier, &shape));
    for round in 0..10 {
        if round > 0 {
            let increments = INCREMENTS.map(|increment| bits(b, increment, &[]));
            k0 = b.add(k0, increments[0]);
            k1 = b.add(k1, increments[1]);
        }
        let keys = [k0, k1].map(|key| b.fill(key, &shape));
        let high0 = b.binary(BinaryOperation::MultiplyHighUnsigned, multipliers[0], c0);
        let low0 = b.multiply(multipliers[0], c0);
        let high1 = b.binary(BinaryOperation::MultiplyHighUnsigned, multipliers[1], c2);
        let low1 = b.multiply(multipliers[1], c2);
        let mixed0 = b.binary(BinaryOperation::Xor, high1, c1);
        let mixed1 = b.binary(BinaryOperation::Xor, high0, c3);
        c0 = b.binary(BinaryOperation::Xor, mixed0, keys[0]);
        c2 = b.binary(BinaryOperation::Xor, mixed1, keys[1]);
        (c1, c3) = (low1, low0);
    }
    [c0, c1, c2, c3]
}

/// F32 numbers evenly spread in 0..1, both ends excluded: the midpoints of 2²³ equal steps, chosen by the high bits of `words`.
pub fn uniform(b: &mut Builder, words: Value) -> Value {
    let shape = b.type_of(words).shape.clone();
    let nine = bits(b, 9, &shape);
    let step = b.binary(BinaryOperation::ShiftRightLogical, words, nine);
    let step = b.cast(step, Element::F32);
    let half = b.splat(0.5, &shape, Element::F32);
    let middle = b.add(step, half);
    let width = b.splat(1.0 / f64::from(1 << 23), &shape, Element::F32);
    b.multiply(middle, width)
}

/// F32 numbers of the standard Gumbel distribution, −ln(−ln u).
pub fn gumbel(b: &mut Builder, words: Value) -> Value {
    let mut value = uniform(b, words);
    for _ in 0..2 {
        value = b.unary(UnaryOperation::Log, value);
        value = b.unary(UnaryOperation::Negate, value);
    }
    value
}
