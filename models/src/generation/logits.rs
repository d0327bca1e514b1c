//! What is done to a row of logits on the host before a token is drawn from it, and what is reported of it.

use std::collections::HashMap;

use super::sampling::Sampling;
use crate::generation::TokenLogprobs;

/// How often each token is in a sequence, for penalties.
#[derive(Debug, Default)]
pub(super) struct Occurrences {
    counts: HashMap<u32, Count>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    new: u32,
}

impl Occurrences {
    pub fn of_prompt(prompt: &[u32]) -> Self {
        Self { counts: prompt.iter().map(|token| (*token, Count::default())).collect() }
    }

    pub fn push(&mut self, token: u32) {
        self.counts.entry(token).or_default().new += 1;
    }
}

/// Applies penalties, bias and min-p to a row of logits; `allow` forbids tokens in between.
pub(super) fn edit(row: &mut [f32], sampling: &Sampling, occurrences: &Occurrences, allow: impl FnOnce(&mut [f32])) {
    for (token, count) in &occurrences.counts {
        let Some(logit) = row.get_mut(*token as usize) else { continue };
        let penalty = sampling.repetition_penalty;
        *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        if count.new > 0 {
            *logit -= sampling.presence_penalty + sampling.frequency_penalty * count.new as f32;
        }
    }
    for (token, bias) in &sampling.logit_bias {
        if let Some(logit) = row.get_mut(*token as usize) {
            *logit += bias;
        }
    }
    allow(row);
    if sampling.min_p > 0.0 && sampling.temperature > 0.0 {
        // p ≥ min_p · max p, with p ∝ exp(logit / temperature).
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let least = largest + sampling.temperature * sampling.min_p.ln();
        for logit in row.iter_mut().filter(|logit| **logit < least) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// The log-probability of a token in a row of logits, and the likeliest tokens with theirs, likeliest first.
pub(super) fn logprobs(row: &[f32], token: u32, top: usize) -> TokenLogprobs {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = row.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    let normalizer = f64::from(largest) + total.ln();
    let logprob =
        |token: u32| row.get(token as usize).map_or(f32::NEG_INFINITY, |logit| (f64::from(*logit) - normalizer) as f32);
    let likelier = |left: &u32, right: &u32| row[*right as usize].total_cmp(&row[*left as usize]).then(left.cmp(right));
    let mut order: Vec<u32> = (0..row.len() as u32).collect();
    if top > 0 && top < order.len() {
        order.select_nth_unstable_by(top - 1, likelier);
    }
    order.truncate(top);
    order.sort_unstable_by(likelier);
    TokenLogprobs { logprob: logprob(token), top: order.into_iter().map(|token| (token, logprob(token))).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(row: &[f32], sampling: Sampling, prompt: &[u32], new: &[u32]) -> Vec<f32> {
        let mut occurrences = Occurrences::of_prompt(prompt);
        new.iter().for_each(|token| occurrences.push(*token));
        let mut row = row.to_vec();
        edit(&mut row, &sampling, &occurrences, |_| ());
        row
    }

    #[test]
    fn penalties_follow_their_definitions() {
        let row = [1.0, 2.0, -4.0, 3.0];
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        assert_eq!(edited(&row, sampling, &[1], &[2]), [1.0, 1.0, -8.0, 3.0]);
        let sampling = Sampling { presence_penalty: 0.5, frequency_penalty: 0.25, ..Sampling::default() };
        // What is in the prompt alone is not penalized.
        assert_eq!(edited(&row, sampling, &[0], &[1, 1, 3]), [1.0, 1.0, -4.0, 2.25]);
        let sampling = Sampling { logit_bias: [(0, 2.5), (3, f32::NEG_INFINITY)].into(), ..Sampling::default() };
        assert_eq!(edited(&row, sampling, &[], &[]), [3.5, 2.0, -4.0, f32::NEG_INFINITY]);
    }

    #[test]
    fn min_p_is_relative_to_the_likeliest_at_the_temperature() {
        let row: Vec<f32> = [0.5f32, 0.26, 0.24].iter().map(|p| p.ln()).collect();
        let kept = |min_p, temperature| {
            let sampling = Sampling { min_p, temperature, ..Sampling::default() };
            edited(&row, sampling, &[], &[]).iter().filter(|logit| logit.is_finite()).count()
        };
        assert_eq!((kept(0.4, 1.0), kept(0.5, 1.0), kept(0.6, 1.0), kept(1.0, 1.0)), (3, 2, 1, 1));
        // Hotter is flatter: 0.26 / 0.5 becomes √0.52.
        assert_eq!((kept(0.6, 2.0), kept(0.71, 2.0), kept(0.73, 2.0)), (3, 2, 1));
        assert_eq!(kept(0.9, 0.0), 3, "greedy takes the likeliest anyway");
    }

    #[test]
    fn logprobs_are_those_of_the_softmax() {
        let probabilities = [0.1f32, 0.4, 0.2, 0.3];
        let row: Vec<f32> = probabilities.iter().map(|p| p.ln() + 7.0).collect();
        let found = logprobs(&row, 2, 3);
        assert!((found.logprob - 0.2f32.ln()).abs() < 1e-5);
        assert_eq!(found.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 3, 2]);
        assert!(found.top.iter().all(|(token, logprob)| (logprob - probabilities[*token as usize].ln()).abs() < 1e-5));
        assert_eq!(logprobs(&row, 0, 0).top, []);
        assert_eq!(logprobs(&row, 0, 4).top.len(), 4);
    }
}
