//! Choosing a token from a row of logits, without sorting it.
//!
//! The rule is that of the graph IR's `sample` ([`tessera_ir::ops::Sample`]), restated as what can be found without sorting. With
//! a = (l − max l) / temperature for logits l, the tokens kept are those with l ≥ v, where v is the largest logit such that
//!
//! - at least top_k tokens are kept (all if top_k is 0), and then
//! - their Σ eᵃ is at least top_p times that of the tokens that top_k keeps.
//!
//! It is found by bisection over the integers that order as f32 do. Of the tokens kept, the one with the largest a plus Gumbel noise is drawn, which
//! samples from their softmax. NaN counts as −∞.

#[cfg(test)]
pub(crate) mod tests;

use super::random;
use crate::tile::{BinaryOperation, Builder, Element, Literal, Predicate, Reduction, UnaryOperation, Value};

/// What a row is sampled with: scalars.
#[derive(Clone, Copy, Debug)]
pub struct SamplingParameters {
    /// F32; 0 or less picks the largest.
    pub temperature: Value,
    /// I32; 0 or less keeps all.
    pub top_k: Value,
    /// F32; 1 or more keeps all.
    pub top_p: Value,
    /// I64.
    pub seed: Value,
    /// I32: different for every token that is drawn with a seed.
    pub counter: Value,
}

/// A row of numbers that is visited in blocks.
pub struct Row<Load> {
    /// I32 scalar: how many.
    pub length: Value,
    /// Elements of a block.
    pub block: u32,
    /// Gives the block [block] F32 that starts at an I32 scalar. Beyond the row's end it gives −∞.
    pub load: Load,
}

impl<Load: FnMut(&mut Builder, Value) -> Value> Row<Load> {
    /// Visits the blocks with their start and elements, NaN as −∞ and −0 as 0; none if `wanted` (Bool scalar) is false.
    fn visit(
        &mut self,
        b: &mut Builder,
        wanted: Option<Value>,
        initial: &[Value],
        mut body: impl FnMut(&mut Builder, Value, Value, &[Value]) -> Vec<Value>,
    ) -> Vec<Value> {
        let from = b.index(0);
        let to = wanted.map_or(self.length, |wanted| b.select(wanted, self.length, from));
        let shape = [self.block];
        b.for_loop(from, to, self.block, initial, |b, start, carried| {
            let values = (self.load)(b, start);
            let (zero, least) = (b.splat(0.0, &shape, Element::F32), b.splat(f64::NEG_INFINITY, &shape, Element::F32));
            let is_number = b.compare(Predicate::Equal, values, values);
            let values = b.select(is_number, values, least);
            let is_zero = b.compare(Predicate::Equal, values, zero);
            let values = b.select(is_zero, zero, values);
            body(b, start, values, carried)
        })
    }

    /// The largest of `score` (of start and elements of a block, [block] F32) and the lowest index that has it: scalars.
    fn largest(
        &mut self,
        b: &mut Builder,
        wanted: Option<Value>,
        mut score: impl FnMut(&mut Builder, Value, Value) -> Value,
    ) -> (Value, Value) {
        let shape = [self.block];
        let best = b.splat(f64::NEG_INFINITY, &shape, Element::F32);
        let lanes = b.iota(self.block);
        // Each lane keeps the best of its column; only a larger one, which has a higher index, takes its place.
        let results = self.visit(b, wanted, &[best, lanes], |b, start, values, carried| {
            let scores = score(b, start, values);
            let indices = indices(b, start, shape[0]);
            let larger = b.compare(Predicate::Greater, scores, carried[0]);
            vec![b.select(larger, scores, carried[0]), b.select(larger, indices, carried[1])]
        });
        let largest = b.reduce(Reduction::Maximum, results[0], 0);
        let everywhere = b.fill(largest, &shape);
        let holds = b.compare(Predicate::Equal, results[0], everywhere);
        let none = b.constant(Literal::Integer(i32::MAX.into()), &shape, Element::I32);
        let indices = b.select(holds, results[1], none);
        (largest, b.reduce(Reduction::Minimum, indices, 0))
    }
}

/// start, start + 1, …
fn indices(b: &mut Builder, start: Value, length: u32) -> Value {
    let (start, lanes) = (b.fill(start, &[length]), b.iota(length));
    b.add(start, lanes)
}

/// I32 that order as the F32 do: the bits, those below the sign inverted where it is set.
fn ordered(b: &mut Builder, values: Value) -> Value {
    let shape = b.type_of(values).shape.clone();
    let bits = b.bitcast(values, Element::I32);
    let zero = b.constant(Literal::Integer(0), &shape, Element::I32);
    let magnitude = b.constant(Literal::Integer(i32::MAX.into()), &shape, Element::I32);
    let inverted = b.binary(BinaryOperation::Xor, bits, magnitude);
    let negative = b.compare(Predicate::Less, bits, zero);
    b.select(negative, inverted, bits)
}

/// Samples a token: its index, an I32 scalar.
pub fn sample<Load: FnMut(&mut Builder, Value) -> Value>(
    b: &mut Builder,
    row: &mut Row<Load>,
    parameters: &SamplingParameters,
) -> Value {
    let shape = [row.block];
    let (zero, one) = (b.splat(0.0, &[], Element::F32), b.splat(1.0, &[], Element::F32));
    let random = b.compare(Predicate::Greater, parameters.temperature, zero);
    let (largest, greedy) = row.largest(b, None, |_, _, values| values);
    let largest = Tempered { largest, temperature: parameters.temperature };

    let no_tokens = b.index(0);
    let wants_top_k = b.compare(Predicate::Greater, parameters.top_k, no_tokens);
    let wants_top_k = b.and(wants_top_k, random);
    let top_k = b.minimum(parameters.top_k, row.length);
    let all = b.constant(Literal::Integer(i32::MIN.into()), &[], Element::I32);
    let of_top_k = bisect(b, row, &largest, wants_top_k, all, |b, row, wanted, threshold| {
        let counts = b.constant(Literal::Integer(0), &shape, Element::I32);
        let counts = row.visit(b, Some(wanted), &[counts], |b, _, values, carried| {
            let kept = kept(b, values, threshold);
            let kept = b.cast(kept, Element::I32);
            vec![b.add(carried[0], kept)]
        });
        let count = b.reduce(Reduction::Sum, counts[0], 0);
        b.compare(Predicate::GreaterEqual, count, top_k)
    });

    let wants_top_p = b.compare(Predicate::Less, parameters.top_p, one);
    let wants_top_p = b.and(wants_top_p, random);
    let mass_of_top_k = mass(b, row, &largest, wants_top_p, of_top_k);
    let mass_wanted = b.multiply(parameters.top_p, mass_of_top_k);
    let threshold = bisect(b, row, &largest, wants_top_p, of_top_k, |b, row, wanted, threshold| {
        let mass = mass(b, row, &largest, wanted, threshold);
        b.compare(Predicate::GreaterEqual, mass, mass_wanted)
    });

    let low = b.cast(parameters.seed, Element::I32);
    let width = b.constant(Literal::Integer(32), &[], Element::I64);
    let high = b.binary(BinaryOperation::ShiftRightLogical, parameters.seed, width);
    let high = b.cast(high, Element::I32);
    let (_, drawn) = row.largest(b, Some(random), |b, start, values| {
        let token = indices(b, start, shape[0]);
        let counter = b.fill(parameters.counter, &shape);
        let zeros = b.constant(Literal::Integer(0), &shape, Element::I32);
        let four = b.constant(Literal::Integer(4), &shape, Element::I32);
        let group = b.divide(token, four);
        let words = random::philox(b, [group, counter, zeros, zeros], [low, high]);
        let member = b.binary(BinaryOperation::Remainder, token, four);
        let word = (1..4).fold(words[0], |chosen, position| {
            let here = b.constant(Literal::Integer(position as i64), &shape, Element::I32);
            let here = b.compare(Predicate::Equal, member, here);
            b.select(here, words[position], chosen)
        });
        let noise = random::gumbel(b, word);
        let tempered = largest.apply(b, values);
        let score = b.add(tempered, noise);
        let kept = kept(b, values, threshold);
        let least = b.splat(f64::NEG_INFINITY, &shape, Element::F32);
        b.select(kept, score, least)
    });
    b.select(random, drawn, greedy)
}

/// Logits relative to the largest, over the temperature.
struct Tempered {
    largest: Value,
    temperature: Value,
}

impl Tempered {
    fn apply(&self, b: &mut Builder, values: Value) -> Value {
        let shape = b.type_of(values).shape.clone();
        let (largest, temperature) = (b.fill(self.largest, &shape), b.fill(self.temperature, &shape));
        let below = b.subtract(values, largest);
        b.divide(below, temperature)
    }
}

/// Which elements are at or above a threshold: an I32 scalar in the order of [`ordered`].
fn kept(b: &mut Builder, values: Value, threshold: Value) -> Value {
    let shape = b.type_of(values).shape.clone();
    let (values, threshold) = (ordered(b, values), b.fill(threshold, &shape));
    b.compare(Predicate::GreaterEqual, values, threshold)
}

/// Σ eᵃ over what a threshold keeps: an F32 scalar, 0 if not `wanted`.
fn mass<Load: FnMut(&mut Builder, Value) -> Value>(
    b: &mut Builder,
    row: &mut Row<Load>,
    largest: &Tempered,
    wanted: Value,
    threshold: Value,
) -> Value {
    let zeros = b.splat(0.0, &[row.block], Element::F32);
    let sums = row.visit(b, Some(wanted), &[zeros], |b, _, values, carried| {
        let tempered = largest.apply(b, values);
        let weights = b.unary(UnaryOperation::Exp, tempered);
        let kept = kept(b, values, threshold);
        let weights = b.select(kept, weights, zeros);
        vec![b.add(carried[0], weights)]
    });
    b.reduce(Reduction::Sum, sums[0], 0)
}

/// The largest threshold between `lowest` (for which it is known to) and the largest element that `suffices`; `lowest` if not `wanted`.
///
/// `suffices` gets a Bool scalar, false once the answer is known, and a threshold.
fn bisect<Load: FnMut(&mut Builder, Value) -> Value>(
    b: &mut Builder,
    row: &mut Row<Load>,
    largest: &Tempered,
    wanted: Value,
    lowest: Value,
    mut suffices: impl FnMut(&mut Builder, &mut Row<Load>, Value, Value) -> Value,
) -> Value {
    // In I64, where sums and differences of two thresholds fit.
    let highest = ordered(b, largest.largest);
    let bounds = [lowest, highest].map(|bound| b.cast(bound, Element::I64));
    let (none, steps) = (b.index(0), b.index(32));
    let steps = b.select(wanted, steps, none);
    let results = b.for_loop(none, steps, 1, &bounds, |b, _, carried| {
        let (low, high) = (carried[0], carried[1]);
        let [one, two] = [1, 2].map(|number| b.constant(Literal::Integer(number), &[], Element::I64));
        let open = b.compare(Predicate::Less, low, high);
        let distance = b.subtract(high, low);
        let distance = b.add(distance, one);
        let half = b.divide(distance, two);
        let middle = b.add(low, half);
        let threshold = b.cast(middle, Element::I32);
        let suffices = suffices(b, row, open, threshold);
        let suffices = b.and(suffices, open);
        let below = b.subtract(middle, one);
        let lower_half = b.select(open, below, high);
        vec![b.select(suffices, middle, low), b.select(suffices, high, lower_half)]
    });
    b.cast(results[0], Element::I32)
}
