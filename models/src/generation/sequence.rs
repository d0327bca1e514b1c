//! A request on its way: from the queue through steps to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tessera_runtime::pages::{Pool, SequenceId};

use super::caches::longest;
use super::check_tokens;
use super::engine::Engine;
use super::logits::Occurrences;
use super::request::{Event, Finish, FinishReason, NewToken, Request, RequestId, TokenLogprobs};
use super::sampling::Sampling;
use super::stop::StopText;
use super::structure::{StructureState, Structures};
use crate::error::{ModelError, Result};
use crate::tokenizer::{TextStream, Tokenizer};

/// Checks requests, and makes sequences of them.
pub(super) struct Intake {
    vocabulary: usize,
    pub context: usize,
    pub page_size: usize,
    pools: Vec<Pool>,
    tokenizer: Option<Arc<Tokenizer>>,
    structures: Structures,
    next: AtomicU64,
}

impl Intake {
    pub fn new(engine: &dyn Engine, tokenizer: Option<Arc<Tokenizer>>) -> Self {
        Self {
            vocabulary: engine.vocabulary(),
            context: engine.context(),
            page_size: engine.page_size(),
            pools: engine.pools(),
            tokenizer,
            structures: Structures::new(engine.vocabulary()),
            next: AtomicU64::new(0),
        }
    }

    /// The sequence of a request, which can run alone if need be.
    pub fn take(&self, request: Request) -> Result<Sequence> {
        let Request { prompt, sampling } = request;
        let parameter = |field, value: String, expected: &str| {
            Err(ModelError::Parameter { field, value, expected: expected.to_owned() })
        };
        sampling.validate(Some(self.vocabulary))?;
        if prompt.is_empty() {
            return parameter("prompt", "[]".to_owned(), "is empty: give it at least one token");
        }
        check_tokens("prompt", &prompt, self.vocabulary, self.context)?;
        let tokens = longest(prompt.len(), &sampling, self.context);
        let needed = |pool: &Pool| Pool::pages_for(pool.window, self.page_size as u32, tokens, 1);
        if let Some(pool) = self.pools.iter().find(|pool| needed(pool) > pool.pages as usize) {
            let (pages, window) = (needed(pool), if pool.window.is_some() { " of windows" } else { "" });
            return parameter(
                "max_new_tokens",
                sampling.max_new_tokens.to_string(),
                &format!(
                    "needs {pages} pages of the KV cache{window} with a prompt of {} tokens, and the cache has {}; shorten the prompt or \
                     max_new_tokens, or enlarge the cache",
                    prompt.len(),
                    pool.pages
                ),
            );
        }
        if !sampling.stop_strings.is_empty() && self.tokenizer.is_none() {
            let value = format!("{:?}", sampling.stop_strings);
            return parameter("stop_strings", value, "need a tokenizer, and there is none");
        }
        let structure = match &sampling.structure {
            Some(structure) => Some(self.structures.compile(structure, self.tokenizer.as_ref())?),
            None => None,
        };
        let text = self.tokenizer.as_ref().map(|tokenizer| {
            (TextStream::new(tokenizer.clone()), StopText::new(sampling.stop_strings.iter().cloned()))
        });
        Ok(Sequence {
            id: RequestId(self.next.fetch_add(1, Ordering::Relaxed)),
            occurrences: if sampling.has_penalties() {
                Occurrences::of_prompt(&prompt)
            } else {
                Occurrences::default()
            },
            prompt: prompt.len(),
            tokens: prompt,
            sampling,
            structure,
            text,
            reused: 0,
        })
    }
}

/// A sequence that is being generated.
pub(super) struct Sequence {
    pub id: RequestId,
    pub sampling: Sampling,
    /// Prompt and new tokens.
    pub tokens: Vec<u32>,
    /// How many of them are the prompt.
    pub prompt: usize,
    pub occurrences: Occurrences,
    pub structure: Option<StructureState>,
    text: Option<(TextStream<Arc<Tokenizer>>, StopText)>,
    /// Prompt tokens that were found in the cache.
    pub reused: usize,
}

/// A sequence that has pages in the cache.
pub(super) struct Running {
    pub sequence: Sequence,
    pub pages: SequenceId,
    /// How many of its tokens have keys and values in the cache.
    pub cached: usize,
    /// A number of tokens, in whole pages, at which other sequences leave this one: what the caches hold there is worth keeping.
    pub branch: Option<usize>,
}

impl Running {
    /// Tokens that are to be fed before the next one is drawn.
    pub fn pending(&self) -> usize {
        self.sequence.tokens.len() - self.cached
    }

    /// Tokens that one step may feed: the rest of them, or those up to where others leave it.
    pub fn chunk(&self) -> usize {
        let branch = self.branch.and_then(|branch| branch.checked_sub(self.cached)).filter(|rest| *rest > 0);
        branch.unwrap_or(usize::MAX).min(self.pending())
    }

    /// Whether it feeds one new token a step; else it feeds its prompt, or what was lost of the sequence, in chunks.
    pub fn is_decoding(&self) -> bool {
        self.pending() == 1 && self.cached >= self.sequence.prompt
    }
}

impl Sequence {
    /// Takes a token that was drawn. Says what happened, and whether that was the end.
    pub fn push(
        &mut self,
        token: u32,
        logprobs: Option<TokenLogprobs>,
        context: usize,
        mut happened: impl FnMut(Event),
    ) -> Result<bool> {
        if self.sampling.stop.contains(&token) {
            happened(self.finish(FinishReason::Stop, Some(token))?);
            return Ok(true);
        }
        if let Some(structure) = &mut self.structure
            && !structure.push(token)
        {
            happened(self.finish(FinishReason::Impossible, None)?);
            return Ok(true);
        }
        self.tokens.push(token);
        if self.sampling.has_penalties() {
            self.occurrences.push(token);
        }
        let mut text = String::new();
        let mut stopped = self.structure.as_ref().is_some_and(StructureState::is_complete);
        if let Some((stream, stop)) = &mut self.text {
            let passed = stop.push(&stream.push(token)?);
            text = passed.text;
            if passed.stopped {
                // What follows the stop text is not part of the text.
                self.text = None;
                stopped = true;
            }
        }
        happened(Event::Token(NewToken { id: token, text, logprobs }));
        let reason = if stopped {
            FinishReason::Stop
        } else if self.tokens.len() - self.prompt >= self.sampling.max_new_tokens {
            FinishReason::Length
        } else if self.tokens.len() > context {
            FinishReason::Context
        } else {
            return Ok(false);
        };
        happened(self.finish(reason, None)?);
        Ok(true)
    }

    /// The last event.
    pub fn finish(&mut self, reason: FinishReason, stop_token: Option<u32>) -> Result<Event> {
        let text = match self.text.take() {
            Some((stream, mut stop)) => {
                let passed = stop.push(&stream.finish()?);
                passed.text + &stop.finish()
            }
            None => String::new(),
        };
        Ok(Event::Finished(Finish { reason, stop_token, text, reused: self.reused }))
    }
}
