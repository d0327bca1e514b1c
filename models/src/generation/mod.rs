//! Text generation: ragged batches of prompts through the serving step, with a paged KV cache.
//!
//! [`generate`] drives a [`Engine`], which runs the two functions of a model's module: `@step` and `@sample`. All prompts go
//! through one ragged step (or several, under [`Limits::tokens_per_step`]), and then their decode steps run together. A sequence
//! that stops leaves the batch and gives its pages back; requests that do not fit at first enter as pages come free.

mod batch;

use std::borrow::Cow;
use std::time::{Duration, Instant};

pub use batch::Step;
use tessera_runtime::pages::{Pages, PagesError};

use crate::error::{ModelError, Result};
use batch::{Sequence, plan_step};

/// How one request is sampled and when it stops.
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
    /// A token of these ends the sequence; it is not part of the result.
    pub stop: Vec<u32>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { max_new_tokens: 128, temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0, stop: Vec::new() }
    }
}

impl Sampling {
    /// Checks every number's range.
    pub fn validate(&self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(ModelError::Request(format!(
                "temperature {} must be finite and not negative; 0 is greedy",
                self.temperature
            )));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(ModelError::Request(format!("top-p {} must be above 0 and at most 1; 1 is off", self.top_p)));
        }
        if i32::try_from(self.top_k).is_err() {
            return Err(ModelError::Request(format!("top-k {} is too large; 0 is off", self.top_k)));
        }
        Ok(())
    }
}

/// One prompt to continue.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The prompt's token ids; at least one.
    pub prompt: Vec<u32>,
    /// How to continue it.
    pub sampling: Sampling,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token was sampled.
    Stop,
    /// `max_new_tokens` were sampled.
    Length,
    /// The model's longest sequence was reached.
    Context,
}

impl FinishReason {
    /// The reason as a word: `stop`, `length`, `context`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Context => "context",
        }
    }
}

/// The continuation of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuation {
    /// The new token ids, without the prompt and without the stop token.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: FinishReason,
}

/// What a run of [`generate`] took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Tokens that were fed as prompts.
    pub prompt_tokens: usize,
    /// Time of the steps that fed at least one prompt token.
    pub prefill: Duration,
    /// Tokens that decode-only steps produced.
    pub decoded_tokens: usize,
    /// Time of the decode-only steps.
    pub decode: Duration,
    /// Steps of both kinds.
    pub steps: usize,
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

/// Bounds on what one step may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens per step. Prompts beyond it are fed in chunks, so that one long prompt bounds neither memory nor latency.
    pub tokens_per_step: usize,
    /// Sequences that run at once.
    pub sequences: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { tokens_per_step: 2048, sequences: 256 }
    }
}

/// What a model is to generation: its limits, and its two functions.
pub trait Engine {
    /// Tokens in the vocabulary.
    fn vocabulary(&self) -> usize;
    /// The longest sequence, in tokens.
    fn context(&self) -> usize;
    /// Tokens per page of the KV cache.
    fn page_size(&self) -> usize;
    /// Pages in the KV cache.
    fn pages(&self) -> usize;
    /// Runs `@step`: appends the tokens' keys and values to the cache, and keeps the logits of the step's rows for [`Engine::sample`].
    fn step(&mut self, step: &Step) -> Result<()>;
    /// The logits of the last step's rows, `[R, V]`, row-major.
    fn logits(&self) -> Cow<'_, [f32]>;
    /// Runs `@sample` on the logits of the last step: one token for each of its rows.
    fn sample(&mut self, rows: &SampleRows) -> Result<Vec<u32>>;
}

/// The inputs of `@sample`, one element for each row of logits.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SampleRows {
    /// See [`Sampling::temperature`].
    pub temperature: Vec<f32>,
    /// See [`Sampling::top_k`].
    pub top_k: Vec<i32>,
    /// See [`Sampling::top_p`].
    pub top_p: Vec<f32>,
    /// See [`Sampling::seed`].
    pub seed: Vec<i64>,
    /// Counts within one seed: the position of the token to come.
    pub counter: Vec<i32>,
}

impl SampleRows {
    fn push(&mut self, sampling: &Sampling, position: usize) {
        self.temperature.push(sampling.temperature);
        self.top_k.push(sampling.top_k as i32);
        self.top_p.push(sampling.top_p);
        self.seed.push(sampling.seed as i64);
        self.counter.push(position as i32);
    }
}

/// Pages that the requests need to run all at once, for sizing a cache.
pub fn pages_for(requests: &[Request], context: usize, page_size: usize) -> usize {
    requests.iter().map(|request| request_pages(request, context, page_size)).sum()
}

/// Tokens of a request that are fed, and so have a place in the cache.
fn request_tokens(request: &Request, context: usize) -> usize {
    // The last sampled token is never fed back.
    let longest = request.prompt.len().saturating_add(request.sampling.max_new_tokens).saturating_sub(1).min(context);
    longest.max(request.prompt.len())
}

fn request_pages(request: &Request, context: usize, page_size: usize) -> usize {
    request_tokens(request, context).div_ceil(page_size.max(1))
}

/// Continues every request, together, and returns the continuations in the order of the requests.
///
/// `on_token` is called with a request's index and each new token as soon as it is known, stop tokens left out.
pub fn generate(
    engine: &mut dyn Engine,
    requests: &[Request],
    limits: Limits,
    on_token: &mut dyn FnMut(usize, u32),
) -> Result<(Vec<Continuation>, Timings)> {
    for (index, request) in requests.iter().enumerate() {
        check_request(engine, request).map_err(|error| ModelError::Request(format!("request {index}: {error}")))?;
    }
    let tokens_per_step = limits.tokens_per_step.max(1);
    let (context, page_size) = (engine.context(), engine.page_size());
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let mut pages = Pages::new(number(engine.pages()), number(page_size));
    let mut timings = Timings::default();
    let mut results: Vec<Option<Continuation>> = vec![None; requests.len()];
    let mut waiting = requests.iter().enumerate().peekable();
    let mut active: Vec<Sequence> = Vec::new();

    loop {
        // Admit in order while the worst case of everyone admitted fits, so that no running sequence is ever without a page.
        while let Some((index, request)) = waiting.peek()
            && active.len() < limits.sequences.max(1)
        {
            if request.sampling.max_new_tokens == 0 {
                results[*index] = Some(Continuation { ids: Vec::new(), finish: FinishReason::Length });
            } else {
                let sequence = pages.open();
                match pages.append(sequence, request_tokens(request, context)) {
                    Ok(_) => active.push(Sequence::new(*index, request.prompt.clone(), sequence)),
                    Err(PagesError::Full { .. }) => {
                        pages.close(sequence)?;
                        break;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            waiting.next();
        }
        if active.is_empty() {
            break;
        }

        let started = Instant::now();
        let step = plan_step(&mut active, &pages, tokens_per_step)?;
        engine.step(&step.inputs)?;
        let mut rows = SampleRows::default();
        for &slot in &step.sampled {
            let sequence = &active[slot];
            rows.push(&requests[sequence.request].sampling, sequence.tokens.len());
        }
        let sampled = if step.sampled.is_empty() { Vec::new() } else { engine.sample(&rows)? };
        let elapsed = started.elapsed();
        if sampled.len() != step.sampled.len() {
            return Err(ModelError::Request(format!(
                "the engine sampled {} tokens for {} rows",
                sampled.len(),
                step.sampled.len()
            )));
        }
        timings.steps += 1;
        timings.prompt_tokens += step.prompt_tokens;
        if step.prompt_tokens > 0 {
            timings.prefill += elapsed;
        } else {
            timings.decode += elapsed;
            timings.decoded_tokens += sampled.len();
        }

        for (&slot, &token) in step.sampled.iter().zip(&sampled) {
            let sequence = &mut active[slot];
            let sampling = &requests[sequence.request].sampling;
            if sampling.stop.contains(&token) {
                sequence.finish = Some(FinishReason::Stop);
                continue;
            }
            sequence.tokens.push(token);
            on_token(sequence.request, token);
            if sequence.new_tokens() == sampling.max_new_tokens {
                sequence.finish = Some(FinishReason::Length);
            } else if sequence.tokens.len() > context {
                sequence.finish = Some(FinishReason::Context);
            }
        }
        for ended in active.extract_if(.., |sequence| sequence.finish.is_some()) {
            pages.close(ended.pages)?;
            let mut tokens = ended.tokens;
            results[ended.request] =
                ended.finish.map(|finish| Continuation { ids: tokens.split_off(ended.prompt), finish });
        }
    }
    let finished: Vec<Continuation> = results.into_iter().flatten().collect();
    debug_assert_eq!(finished.len(), requests.len(), "check_request admits only what fits an empty cache");
    Ok((finished, timings))
}

fn check_request(engine: &dyn Engine, request: &Request) -> Result<()> {
    request.sampling.validate()?;
    if request.prompt.is_empty() {
        return Err(ModelError::Request("the prompt is empty: give it at least one token".to_owned()));
    }
    check_tokens(&request.prompt, engine.vocabulary(), engine.context())?;
    let pages = request_pages(request, engine.context(), engine.page_size());
    if pages > engine.pages() {
        return Err(ModelError::Request(format!(
            "needs {pages} pages of the KV cache, which has {}; shorten the prompt or max_new_tokens, or enlarge the cache",
            engine.pages()
        )));
    }
    Ok(())
}

/// Checks that a sequence of ids is inside the vocabulary and the model's longest sequence.
pub fn check_tokens(ids: &[u32], vocabulary: usize, context: usize) -> Result<()> {
    if let Some((position, id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= vocabulary) {
        return Err(ModelError::Request(format!(
            "token {id} at position {position} is outside the vocabulary of {vocabulary}"
        )));
    }
    if ids.len() > context {
        return Err(ModelError::Request(format!(
            "{} tokens are more than the model's longest sequence, {context}",
            ids.len()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
