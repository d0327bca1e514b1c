//! Choosing the next token.

use rayon::prelude::*;

use crate::definition::{Inference, OpError, ResultTypes, one_result};
use crate::evaluate::{Evaluation, EvaluationError, Tensor, Value};
use crate::operation::operation;
use crate::ops::attention::require;
use crate::ops::family;
use crate::sharding::{FactorKind, ShardingRule};
use crate::storage::Storage;
use crate::types::TensorType;

family! {
    /// Choosing tokens from logits.
    SAMPLING_FAMILY = "Sampling" [Sample]
}

operation! {
    /// Draws one token for each row of logits, as i32.
    ///
    /// The logits are divided by the temperature. With `top_k` above 0, tokens less likely than the
    /// `top_k`-th are dropped; then, with `top_p` below 1, the probabilities of the rest are computed and a
    /// token is dropped if the tokens strictly more likely have probabilities that sum to `top_p` or more.
    /// Tokens of equal logits stay or go together, and the likeliest always stays.
    ///
    /// Among the tokens kept, the one with the largest `logit / temperature - ln(-ln u)` is drawn (the
    /// Gumbel-max method); of equals the first. For token `i`, `u = (⌊w / 2⁹⌋ + ½) / 2²³`, with `w` word
    /// `i mod 4` of Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3") under the
    /// key (low, high half of the seed) and the counter (`⌊i / 4⌋`, `counter`, 0, 0).
    ///
    /// At temperature 0 the likeliest token is drawn; of equals the first.
    SAMPLE = sample(
        /// `[rows, vocabulary]`.
        logits: Float,
        /// `[rows]`, f32; 0 or more.
        temperature: Float,
        /// `[rows]`, i32; 0 keeps every token.
        top_k: Integer,
        /// `[rows]`, f32; 1 keeps every token.
        top_p: Float,
        /// `[rows]`, i64.
        seed: Integer,
        /// `[rows]`, i32: how many tokens have been drawn with this seed.
        counter: Integer,
    ), Sample {}
    infer: infer_sample,
    sharding: |_, _, _| {
        let mut rule = ShardingRule::new();
        let (row, token) = (rule.factor(FactorKind::Parallel), rule.factor(FactorKind::Whole));
        (0..5).fold(rule.operand([row, token]), |rule, _| rule.operand([row])).result([row])
    },
    evaluate: evaluate_sample,
}

fn infer_sample(_: &Sample, inference: &Inference<'_>) -> Result<ResultTypes, OpError> {
    let logits = inference.tensor_of_rank(0, 2)?;
    let storages = [Storage::F32, Storage::I32, Storage::F32, Storage::I64, Storage::I32];
    for (index, storage) in storages.into_iter().enumerate() {
        require(inference, index + 1, &logits.shape[..1], storage)?;
    }
    one_result(TensorType::new([logits.shape[0].clone()], Storage::I32))
}

fn evaluate_sample(_: &Sample, evaluation: &mut Evaluation<'_>) -> Result<Vec<Value>, EvaluationError> {
    let logits = evaluation.tensor(0)?;
    let (rows, vocabulary) = (logits.shape()[0], logits.shape()[1]);
    if vocabulary == 0 && rows > 0 {
        return Err(EvaluationError::operation("there are no tokens to draw from"));
    }
    let elements = logits.to_floats();
    let (temperature, top_p) = (evaluation.tensor(1)?.to_floats(), evaluation.tensor(3)?.to_floats());
    let top_k = evaluation.tensor(2)?.to_integers();
    let (seed, counter) = (evaluation.tensor(4)?.to_integers(), evaluation.tensor(5)?.to_integers());
    let tokens = (0..rows).into_par_iter().map(|row| {
        let drawing = Drawing {
            logits: &elements[row * vocabulary..(row + 1) * vocabulary],
            temperature: temperature[row],
            top_k: top_k[row],
            top_p: top_p[row],
            seed: seed[row] as u64,
            counter: counter[row] as u32,
        };
        drawing.token().map(|token| token as i64)
    });
    let tokens: Vec<i64> = tokens.collect::<Result<_, EvaluationError>>()?;
    Ok(vec![Tensor::from_integers(Storage::I32, [rows], tokens)?.into()])
}

struct Drawing<'a> {
    logits: &'a [f64],
    temperature: f64,
    top_k: i64,
    top_p: f64,
    seed: u64,
    counter: u32,
}

impl Drawing<'_> {
    fn token(&self) -> Result<usize, EvaluationError> {
        if self.temperature == 0.0 {
            return Ok(first_largest(self.logits.iter().copied().enumerate()));
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            let message = format!("temperature {} is not 0 or a positive number", self.temperature);
            return Err(EvaluationError::operation(message));
        }
        let scaled: Vec<f64> = self.logits.iter().map(|logit| logit / self.temperature).collect();
        let threshold = self.threshold(&scaled);
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        let mut words = [0; 4];
        let noisy = scaled.iter().enumerate().filter_map(|(i, logit)| {
            if i % 4 == 0 {
                words = philox([(i / 4) as u32, self.counter, 0, 0], key);
            }
            let uniform = (f64::from(words[i % 4] >> 9) + 0.5) / f64::from(1u32 << 23);
            (*logit >= threshold).then(|| (i, logit - (-uniform.ln()).ln()))
        });
        Ok(first_largest(noisy))
    }

    /// The least scaled logit that is kept.
    fn threshold(&self, scaled: &[f64]) -> f64 {
        let mut sorted = scaled.to_vec();
        sorted.sort_by(|left, right| right.total_cmp(left));
        if let Ok(count @ 1..) = usize::try_from(self.top_k) {
            let least = sorted[count.min(sorted.len()) - 1];
            sorted.retain(|logit| *logit >= least);
        }
        if self.top_p < 1.0 {
            let largest = sorted[0];
            let weight = |logit: f64| (logit - largest).exp();
            let total: f64 = sorted.iter().map(|logit| weight(*logit)).sum();
            let (mut likelier, mut running) = (0.0, 0.0);
            let mut kept = largest;
            for (i, logit) in sorted.iter().enumerate() {
                if i > 0 && *logit < sorted[i - 1] {
                    likelier = running;
                }
                if i > 0 && likelier >= self.top_p * total {
                    break;
                }
                kept = *logit;
                running += weight(*logit);
            }
            return kept;
        }
        sorted.last().copied().unwrap_or(f64::NEG_INFINITY)
    }
}

fn first_largest(items: impl Iterator<Item = (usize, f64)>) -> usize {
    let larger = |best: (usize, f64), item: (usize, f64)| if item.1 > best.1 { item } else { best };
    items.reduce(larger).map_or(0, |(index, _)| index)
}

/// Philox4x32-10.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
        }
        let first = u64::from(counter[0]) * 0xd251_1f53;
        let second = u64::from(counter[2]) * 0xcd9e_8d57;
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_vectors_of_its_authors() {
        // From the known-answer tests of the Random123 library.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    fn frequencies(temperature: f64, top_k: i64, top_p: f64) -> [f64; 4] {
        let draws = 4000;
        let mut counts = [0.0; 4];
        for counter in 0..draws {
            let logits = [0.4f64, 0.3, 0.2, 0.1].map(f64::ln);
            let drawing = Drawing { logits: &logits, temperature, top_k, top_p, seed: 7, counter };
            counts[drawing.token().unwrap()] += 1.0 / f64::from(draws);
        }
        counts
    }

    #[test]
    fn tokens_come_up_as_often_as_they_are_likely() {
        for (found, expected) in frequencies(1.0, 0, 1.0).into_iter().zip([0.4, 0.3, 0.2, 0.1]) {
            assert!((found - expected).abs() < 0.03, "{found} for {expected}");
        }
    }

    #[test]
    fn top_k_and_top_p_drop_the_unlikely() {
        assert_eq!(frequencies(1.0, 2, 1.0)[2..], [0.0, 0.0]);
        // 0.4 + 0.3 reach 0.65: the third token is dropped, the second is not.
        let kept = frequencies(1.0, 0, 0.65);
        assert!(kept[1] > 0.3 && kept[2..] == [0.0, 0.0]);
        assert_eq!(frequencies(1.0, 0, 0.0), frequencies(0.0, 0, 1.0));
    }
}
