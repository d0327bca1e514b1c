//! How one request is sampled, and when it stops.

use std::collections::BTreeMap;

use super::structure::Structure;
use crate::error::{ModelError, Result};

/// How one request is sampled and when it stops.
///
/// What is off by default changes nothing: temperature, top-k and top-p alone are drawn on the device, and everything else edits
/// the logits on the host before the same draw, in the order of the fields from `repetition_penalty` to `min_p`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// At most this many new tokens.
    pub max_new_tokens: usize,
    /// Divides the logits; 0 takes the most likely token always.
    pub temperature: f32,
    /// Keep only this many most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the most likely tokens that together have this probability; 1 keeps all.
    pub top_p: f32,
    /// Seed of the counter-based generator. Equal seed, prompt and model give equal text, whatever else is in the batch.
    pub seed: u64,
    /// Makes tokens of the prompt and of the text so far less likely (Keskar et al., "CTRL"): positive logits are divided by
    /// it, negative ones multiplied; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens that are in the new text; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens once for each time that they are in the new text; 0 is off.
    pub frequency_penalty: f32,
    /// Added to the logits of tokens; −∞ forbids one.
    pub logit_bias: BTreeMap<u32, f32>,
    /// A form that the new text must have.
    pub structure: Option<Structure>,
    /// Keep only tokens at least this many times as likely as the likeliest, at this temperature; 0 keeps all.
    pub min_p: f32,
    /// Report the log-probability of each new token, and of so many of the likeliest in its place: those of the model itself, before any
    /// of the above.
    pub logprobs: Option<usize>,
    /// A token of these ends the sequence; it is not part of the result.
    pub stop: Vec<u32>,
    /// A text of these ends the sequence; it is not part of the resulting text.
    pub stop_strings: Vec<String>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            max_new_tokens: 128,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            seed: 0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            structure: None,
            min_p: 0.0,
            logprobs: None,
            stop: Vec::new(),
            stop_strings: Vec::new(),
        }
    }
}

impl Sampling {
    /// Checks every number's range; `vocabulary` is the model's, where it is known.
    pub fn validate(&self, vocabulary: Option<usize>) -> Result<()> {
        let outside = |token: u32| vocabulary.is_some_and(|vocabulary| token as usize >= vocabulary);
        let in_vocabulary = format!("must be a token of the vocabulary of {}", vocabulary.unwrap_or_default());
        check(
            "temperature",
            self.temperature,
            self.temperature.is_finite() && self.temperature >= 0.0,
            "must be finite and not negative; 0 is greedy",
        )?;
        check("top_k", self.top_k, i32::try_from(self.top_k).is_ok(), "is too large; 0 is off")?;
        let probability = |number: f32| (0.0..=1.0).contains(&number);
        check(
            "top_p",
            self.top_p,
            probability(self.top_p) && self.top_p > 0.0,
            "must be above 0 and at most 1; 1 is off",
        )?;
        check("min_p", self.min_p, probability(self.min_p), "must be at least 0 and at most 1; 0 is off")?;
        check(
            "repetition_penalty",
            self.repetition_penalty,
            self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0,
            "must be finite and above 0; 1 is off",
        )?;
        for (field, penalty) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            check(field, penalty, penalty.is_finite(), "must be finite; 0 is off")?;
        }
        for (token, bias) in &self.logit_bias {
            let pair = format!("{token}: {bias}");
            check("logit_bias", &pair, bias.is_finite() || *bias == f32::NEG_INFINITY, "must be finite, or -inf")?;
            check("logit_bias", &pair, !outside(*token), &in_vocabulary)?;
        }
        if let (Some(count), Some(vocabulary)) = (self.logprobs, vocabulary) {
            check("logprobs", count, count <= vocabulary, "must be at most the number of tokens in the vocabulary")?;
        }
        for token in &self.stop {
            check("stop", token, !outside(*token), &in_vocabulary)?;
        }
        for text in &self.stop_strings {
            check("stop_strings", format!("{text:?}"), !text.is_empty(), "must not be empty")?;
        }
        Ok(())
    }

    /// Whether the logits are to be edited on the host.
    pub(super) fn edits_logits(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
            || !self.logit_bias.is_empty()
            || self.structure.is_some()
            || (self.min_p > 0.0 && self.temperature > 0.0)
    }

    /// Whether it matters which tokens the sequence has.
    pub(super) fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

fn check(field: &'static str, value: impl ToString, holds: bool, expected: &str) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(ModelError::Parameter { field, value: value.to_string(), expected: expected.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_numbers_are_refused_by_the_name_of_their_field() {
        type Change<'a> = &'a dyn Fn(&mut Sampling);
        let with = |change: Change| {
            let mut sampling = Sampling::default();
            change(&mut sampling);
            sampling.validate(Some(100)).map_err(|error| error.to_string())
        };
        assert_eq!(with(&|_| ()), Ok(()));
        assert_eq!(with(&|s| s.logit_bias = [(99, f32::NEG_INFINITY), (0, 1e30)].into()), Ok(()));
        let cases: [(&str, Change); 18] = [
            ("temperature -1 must be finite and not negative", &|s| s.temperature = -1.0),
            ("temperature NaN must be", &|s| s.temperature = f32::NAN),
            ("temperature inf must be", &|s| s.temperature = f32::INFINITY),
            ("top_k 4294967295 is too large", &|s| s.top_k = u32::MAX),
            ("top_p 0 must be above 0", &|s| s.top_p = 0.0),
            ("top_p 1.5 must be", &|s| s.top_p = 1.5),
            ("top_p NaN must be", &|s| s.top_p = f32::NAN),
            ("min_p -0.1 must be at least 0", &|s| s.min_p = -0.1),
            ("min_p NaN must be", &|s| s.min_p = f32::NAN),
            ("repetition_penalty 0 must be finite and above 0", &|s| s.repetition_penalty = 0.0),
            ("presence_penalty inf must be finite", &|s| s.presence_penalty = f32::INFINITY),
            ("frequency_penalty NaN must be finite", &|s| s.frequency_penalty = f32::NAN),
            ("logit_bias 7: NaN must be finite", &|s| s.logit_bias = [(7, f32::NAN)].into()),
            ("logit_bias 7: inf must be finite", &|s| s.logit_bias = [(7, f32::INFINITY)].into()),
            ("logit_bias 100: 1 must be a token of the vocabulary of 100", &|s| s.logit_bias = [(100, 1.0)].into()),
            ("logprobs 101 must be at most", &|s| s.logprobs = Some(101)),
            ("stop 100 must be a token of the vocabulary of 100", &|s| s.stop = vec![100]),
            ("stop_strings \"\" must not be empty", &|s| s.stop_strings = vec![String::new()]),
        ];
        for (message, change) in cases {
            let error = with(change).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
