//! What is asked for, and what comes back.

use std::time::Duration;

use super::sampling::Sampling;

/// One prompt to continue.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The prompt's token ids; at least one.
    pub prompt: Vec<u32>,
    /// How to continue it.
    pub sampling: Sampling,
}

/// A request that a scheduler has taken. Numbers are given out in order and never again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub(super) u64);

/// Something that happened to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It has a new token.
    Token(NewToken),
    /// It has ended; nothing follows.
    Finished(Finish),
}

/// A new token of a request. A stop token is none.
#[derive(Debug, Clone, PartialEq)]
pub struct NewToken {
    /// Its id.
    pub id: u32,
    /// The text that is now certain, where the scheduler has a tokenizer: not always that of this token, for a character may take
    /// several tokens, and what may be the beginning of a stop text is held back.
    pub text: String,
    /// Its log-probability, where [`Sampling::logprobs`] asks for it.
    pub logprobs: Option<TokenLogprobs>,
}

/// How likely the model finds a token, and which ones it finds likeliest in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The token's log-probability.
    pub logprob: f32,
    /// The likeliest tokens with theirs, likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// The stop token that was drawn, if it was one.
    pub stop_token: Option<u32>,
    /// Text that had been held back.
    pub text: String,
    /// Tokens of the prompt that were found in the cache and not computed again.
    pub reused: usize,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token was drawn, a stop text is complete, or the structure that was asked for is.
    Stop,
    /// `max_new_tokens` were sampled.
    Length,
    /// The model's longest sequence was reached.
    Context,
    /// It was cancelled.
    Cancelled,
    /// No token was left to draw: bias, or what the structure allows, forbids all of them.
    Impossible,
}

impl FinishReason {
    /// The reason as a word: `stop`, `length`, `context`, `cancelled`, `impossible`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Context => "context",
            Self::Cancelled => "cancelled",
            Self::Impossible => "impossible",
        }
    }
}

/// The whole continuation of one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Continuation {
    /// The new token ids, without the prompt and without the stop token.
    pub ids: Vec<u32>,
    /// Each new token's log-probability, where [`Sampling::logprobs`] asks for it; else empty.
    pub logprobs: Vec<TokenLogprobs>,
    /// Why it ended.
    pub finish: FinishReason,
    /// The stop token that was drawn, if it was one.
    pub stop_token: Option<u32>,
}

/// What a scheduler's steps took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Tokens that were fed as prompts.
    pub prompt_tokens: usize,
    /// Prompt tokens that were not fed, because the cache held them.
    pub reused_tokens: usize,
    /// Time of the steps that fed at least one prompt token.
    pub prefill: Duration,
    /// Tokens that decode-only steps produced.
    pub decoded_tokens: usize,
    /// Time of the decode-only steps.
    pub decode: Duration,
    /// Steps of both kinds.
    pub steps: usize,
    /// Times that a sequence gave its pages to an older one, to compute them again later.
    pub preemptions: usize,
}

impl Timings {
    /// Prompt tokens per second; 0 if there were none.
    pub fn prefill_rate(&self) -> f64 {
        rate(self.prompt_tokens, self.prefill)
    }

    /// Decoded tokens per second, over the whole batch; 0 if there were none.
    pub fn decode_rate(&self) -> f64 {
        rate(self.decoded_tokens, self.decode)
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}
