//! Continuous batching: sequences enter and leave between steps.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tessera_runtime::pages::{Pages, PagesError, SequenceId};

use super::batch::{PlannedStep, plan_step};
use super::engine::{Engine, SampleRows};
use super::logits::{edit, logprobs};
use super::prefix::{Retained, common};
use super::request::{Event, FinishReason, Request, RequestId, Timings, TokenLogprobs};
use super::sequence::{Intake, Running, Sequence};
use crate::error::{ModelError, Result};
use crate::tokenizer::Tokenizer;

/// Bounds on what one step may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens per step. Prompts beyond it are fed in chunks, so that one long prompt bounds neither memory nor latency.
    pub tokens_per_step: usize,
    /// Sequences that run at once.
    pub sequences: usize,
    /// Whether sequences share pages of the cache as far as they begin alike, also with those that have ended.
    pub share_prefixes: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { tokens_per_step: 2048, sequences: 256, share_prefixes: true }
    }
}

/// Runs requests on an engine, many at a time, step by step.
///
/// Requests wait in order until there are pages for their prompts; then they run, and take further pages as they grow. When the
/// cache is full, sequences that have ended and were kept for their beginnings are given up first; after them the youngest running sequence
/// goes back to the head of the queue, and is computed again later, with the same result. The oldest always goes on.
///
/// A sequence's tokens do not depend on what runs beside it, as far as the engine's logits do not: sampling is by position.
pub struct Scheduler<E> {
    engine: E,
    limits: Limits,
    intake: Arc<Intake>,
    pages: Pages,
    retained: Retained,
    waiting: VecDeque<Sequence>,
    /// In the order of admission.
    running: Vec<Running>,
    timings: Timings,
}

/// A token that was drawn.
struct Drawn {
    token: u32,
    logprobs: Option<TokenLogprobs>,
}

impl<E: Engine> Scheduler<E> {
    /// A scheduler that owns all pages of an engine's cache. Events have texts if there is a tokenizer; without one, stop strings
    /// and structures are refused.
    pub fn new(engine: E, limits: Limits, tokenizer: Option<Arc<Tokenizer>>) -> Self {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            intake: Arc::new(Intake::new(&engine, tokenizer)),
            pages: Pages::of_pools(&engine.pools(), number(engine.page_size())),
            engine,
            limits,
            retained: Retained::default(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            timings: Timings::default(),
        }
    }

    /// Checks a request and puts it in the queue.
    pub fn submit(&mut self, request: Request) -> Result<RequestId> {
        let sequence = self.intake.take(request)?;
        let id = sequence.id;
        self.enqueue(sequence);
        Ok(id)
    }

    pub(super) fn intake(&self) -> &Arc<Intake> {
        &self.intake
    }

    pub(super) fn enqueue(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    /// Ends a request, and returns its last event; `None` if it has ended already.
    pub fn cancel(&mut self, id: RequestId) -> Result<Option<Event>> {
        let mut sequence = if let Some(at) = self.waiting.iter().position(|sequence| sequence.id == id) {
            self.waiting.remove(at)
        } else if let Some(at) = self.running.iter().position(|running| running.sequence.id == id) {
            let running = self.running.remove(at);
            Some(self.release(running)?)
        } else {
            None
        };
        sequence.as_mut().map(|sequence| sequence.finish(FinishReason::Cancelled, None)).transpose()
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// How many requests wait, and how many run.
    pub fn load(&self) -> (usize, usize) {
        (self.waiting.len(), self.running.len())
    }

    /// What the steps took so far.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// Runs one step, and says what happened to whom. After an error, the engine's cache cannot be relied on: drop the scheduler.
    pub fn step(&mut self, happened: &mut dyn FnMut(RequestId, Event)) -> Result<()> {
        self.admit(happened)?;
        let taken = self.share_out()?;
        if taken.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let widest_table = self.intake.context.div_ceil(self.intake.page_size.max(1)) as u64;
        let step = plan_step(&mut self.running, &taken, &self.pages, widest_table)?;
        self.engine.step(&step.inputs)?;
        let drawn = self.draw(&step)?;
        let elapsed = started.elapsed();
        self.timings.steps += 1;
        self.timings.prompt_tokens += step.prompt_tokens;
        if step.prompt_tokens > 0 {
            self.timings.prefill += elapsed;
        } else {
            self.timings.decode += elapsed;
            self.timings.decoded_tokens += drawn.len();
        }

        self.keep_beginnings(&taken)?;
        let mut ended = Vec::new();
        for (&slot, drawn) in step.sampled.iter().zip(drawn) {
            let sequence = &mut self.running[slot].sequence;
            let id = sequence.id;
            let end = match drawn {
                Some(Drawn { token, logprobs }) => {
                    sequence.push(token, logprobs, self.intake.context, |event| happened(id, event))?
                }
                None => {
                    happened(id, sequence.finish(FinishReason::Impossible, None)?);
                    true
                }
            };
            if end {
                ended.push(slot);
            }
        }
        ended.sort_unstable();
        for slot in ended.into_iter().rev() {
            let running = self.running.remove(slot);
            self.release(running)?;
        }
        Ok(())
    }

    /// Lets requests in, in order, while there are pages for their prompts and one more for each that runs already.
    fn admit(&mut self, happened: &mut dyn FnMut(RequestId, Event)) -> Result<()> {
        while self.running.len() < self.limits.sequences.max(1) {
            let Some(mut sequence) = self.waiting.pop_front() else { break };
            if sequence.sampling.max_new_tokens == 0 {
                happened(sequence.id, sequence.finish(FinishReason::Length, None)?);
                continue;
            }
            let (id, branch) = self.shared_beginning(&sequence.tokens)?;
            let cached = self.pages.tokens(id)? as usize;
            let spare = self.running.len() as u32;
            let has_room = self.reserve(id, sequence.tokens.len() - cached)? && {
                while !self.pages.has_free(spare) && self.retained.give_up(&mut self.pages)? {}
                self.pages.has_free(spare)
            };
            if !has_room {
                self.pages.close(id)?;
                self.waiting.push_front(sequence);
                break;
            }
            let reused = cached.min(sequence.prompt);
            sequence.reused = reused;
            self.timings.reused_tokens += reused;
            self.running.push(Running { sequence, pages: id, cached, branch });
        }
        Ok(())
    }

    /// A new sequence that has as many whole pages of the beginning of `tokens` as one in the caches can give it. At least one token is left
    /// to compute, for its logits.
    ///
    /// If it has more in common with another than that one can still give it, the place where they part comes too.
    fn shared_beginning(&mut self, tokens: &[u32]) -> Result<(SequenceId, Option<usize>)> {
        if !self.limits.share_prefixes {
            return Ok((self.pages.open(), None));
        }
        let most = tokens.len() - 1;
        let (mut donor, mut branch) = self.retained.longest(&self.pages, &tokens[..most])?;
        for running in &self.running {
            let length = common(&running.sequence.tokens[..running.cached], &tokens[..most]);
            branch = branch.max(length);
            let shareable = self.pages.shareable(running.pages, length as u32)?;
            if donor.is_none_or(|(_, known)| shareable > known) {
                donor = Some((running.pages, shareable));
            }
        }
        let (id, shared) = match donor.filter(|(_, shareable)| *shareable > 0) {
            Some((donor, shareable)) => (self.pages.share(donor, shareable)?, shareable as usize),
            None => (self.pages.open(), 0),
        };
        let branch = branch / self.intake.page_size.max(1) * self.intake.page_size.max(1);
        Ok((id, (branch > shared).then_some(branch)))
    }

    /// Sets pages aside for a sequence; false if not even giving up what is kept suffices.
    fn reserve(&mut self, id: SequenceId, tokens: usize) -> Result<bool> {
        loop {
            match self.pages.reserve(id, tokens) {
                Ok(()) => return Ok(true),
                Err(PagesError::Full { .. }) => {
                    if !self.retained.give_up(&mut self.pages)? {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Decides which running sequences the next step feeds, and how many tokens of each, and gives them pages: every decoding sequence's one
    /// token first, so that prompts never starve them, then prompt chunks in order up to the limit.
    fn share_out(&mut self) -> Result<Vec<(usize, usize)>> {
        let mut budget = self.limits.tokens_per_step.max(1);
        let mut taken: Vec<(usize, usize)> = Vec::new();
        for decoding in [true, false] {
            let mut slot = 0;
            while let Some(running) = self.running.get(slot).filter(|_| budget > 0) {
                if running.is_decoding() == decoding {
                    let count = self.give_room(slot, running.chunk().min(budget))?;
                    taken.retain(|(slot, _)| *slot < self.running.len());
                    if count > 0 {
                        budget -= count;
                        taken.push((slot, count));
                    }
                }
                slot += 1;
            }
        }
        Ok(taken)
    }

    /// Gives a running sequence pages for up to `wanted` tokens, and returns for how many: if need be fewer, and if there is no page at all,
    /// at the cost of the youngest, which may be the sequence itself.
    fn give_room(&mut self, slot: usize, wanted: usize) -> Result<usize> {
        while let Some(running) = self.running.get(slot) {
            let room = self.pages.room(running.pages)?;
            if room < wanted && self.retained.give_up(&mut self.pages)? {
                continue;
            }
            // One that is alone has room: its request was taken because it fits empty caches.
            let count = if self.running.len() == 1 { wanted.min(room.max(1)) } else { wanted.min(room) };
            if count > 0 {
                self.pages.append(running.pages, count)?;
                return Ok(count);
            }
            if let Some(youngest) = self.running.pop() {
                self.pages.close(youngest.pages)?;
                self.waiting.push_front(youngest.sequence);
                self.timings.preemptions += 1;
            }
        }
        Ok(0)
    }

    /// Keeps what bounded caches hold now and will not for long, where it is worth it: at the end of a prompt, from which a conversation
    /// goes on without what was thought for the answer, and where sequences have been seen to part.
    fn keep_beginnings(&mut self, taken: &[(usize, usize)]) -> Result<()> {
        if !self.limits.share_prefixes || !self.pages.is_bounded() {
            return Ok(());
        }
        for &(slot, count) in taken {
            let Running { sequence, pages, cached, branch } = &self.running[slot];
            let ends_prompt = (cached - count..*cached).contains(&(sequence.prompt - 1));
            if ends_prompt || *branch == Some(*cached) {
                let kept = self.pages.share(*pages, *cached as u32)?;
                self.retained.keep(&mut self.pages, &sequence.tokens, kept)?;
            }
        }
        Ok(())
    }

    /// Draws a token for each sequence that has fed all it has; none where no token is left to draw.
    fn draw(&mut self, step: &PlannedStep) -> Result<Vec<Option<Drawn>>> {
        if step.sampled.is_empty() {
            return Ok(Vec::new());
        }
        let vocabulary = self.engine.vocabulary();
        let mut rows = SampleRows::default();
        // Rows as the model made them, where they are edited and reported.
        let mut original = vec![None; step.sampled.len()];
        let mut possible = vec![true; step.sampled.len()];
        for (row, &slot) in step.sampled.iter().enumerate() {
            let Sequence { sampling, tokens, occurrences, structure, .. } = &self.running[slot].sequence;
            rows.push(sampling, tokens.len());
            if !sampling.edits_logits() {
                continue;
            }
            let logits = self.engine.logits_mut()?;
            let Some(logits) = logits.get_mut(row * vocabulary..(row + 1) * vocabulary) else { continue };
            if sampling.logprobs.is_some() {
                original[row] = Some(logits.to_vec());
            }
            edit(logits, sampling, occurrences, |logits| {
                if let Some(structure) = structure {
                    structure.allow(logits, &sampling.stop);
                }
            });
            possible[row] = logits.iter().any(|logit| *logit > f32::NEG_INFINITY);
        }
        let tokens = self.engine.sample(&rows)?;
        if tokens.len() != step.sampled.len() {
            return Err(ModelError::Request(format!(
                "the engine sampled {} tokens for {} rows",
                tokens.len(),
                step.sampled.len()
            )));
        }
        let mut drawn = Vec::with_capacity(tokens.len());
        for (row, token) in tokens.into_iter().enumerate() {
            let sampling = &self.running[step.sampled[row]].sequence.sampling;
            let reported = sampling.logprobs.map(|top| match &original[row] {
                Some(original) => logprobs(original, token, top),
                None => {
                    let logits = self.engine.logits();
                    logprobs(logits.get(row * vocabulary..(row + 1) * vocabulary).unwrap_or_default(), token, top)
                }
            });
            drawn.push(possible[row].then_some(Drawn { token, logprobs: reported }));
        }
        Ok(drawn)
    }

    /// Takes a sequence out of the cache, or keeps it there as long as nobody wants its pages.
    fn release(&mut self, running: Running) -> Result<Sequence> {
        let Running { sequence, pages, cached, .. } = running;
        if self.limits.share_prefixes {
            let kept = self.pages.share(pages, cached as u32)?;
            self.retained.keep(&mut self.pages, &sequence.tokens, kept)?;
        }
        self.pages.close(pages)?;
        Ok(sequence)
    }
}
