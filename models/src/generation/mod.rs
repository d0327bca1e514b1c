//! Text generation: ragged batches of sequences through the serving step, with paged KV caches.
//!
//! A model has a cache for each kind of attention among its layers ([`CacheLayout`]). That of layers which see a window of keys is bounded: a sequence
//! keeps the pages of its window there. Beginnings of sequences that others may share are therefore kept where it is worth it, at the ends of
//! prompts and where sequences have parted.
//!
//! An [`Engine`] runs the two functions of a model's module, `@step` and `@sample`. A [`Scheduler`] stands on it: requests are
//! submitted and cancelled at any time, and each of its steps feeds tokens of many sequences, prompts in chunks and decodes
//! together, under the bounds of [`Limits`]. A [`Generator`] is a scheduler on a thread of its own, with a stream of tokens
//! for each request. [`generate`] is for those who have all their requests at once.

mod batch;
mod caches;
mod engine;
mod generator;
mod logits;
mod prefix;
mod request;
mod sampling;
mod scheduler;
mod sequence;
mod stop;
mod structure;

use std::collections::HashMap;

pub use batch::Step;
pub use caches::{CacheLayout, pages_for};
pub use engine::{Engine, SampleRows};
pub use generator::{Generator, TokenStream};
pub use request::{Continuation, Event, Finish, FinishReason, NewToken, Request, RequestId, Timings, TokenLogprobs};
pub use sampling::Sampling;
pub use scheduler::{Limits, Scheduler};
pub use stop::{Passed, StopText};
pub use structure::{Begin, Grammar, Structure};

use crate::error::{ModelError, Result};

/// Continues every request, together, and returns the continuations in the order of the requests.
///
/// `on_token` is called with a request's index and each new token as soon as it is known, stop tokens left out. There is no
/// tokenizer, so stop strings and structures are refused.
pub fn generate(
    engine: &mut dyn Engine,
    requests: &[Request],
    limits: Limits,
    on_token: &mut dyn FnMut(usize, u32),
) -> Result<(Vec<Continuation>, Timings)> {
    let mut scheduler = Scheduler::new(engine, limits, None);
    let mut on_event = |index: usize, event: &Event| {
        if let Event::Token(token) = event {
            on_token(index, token.id);
        }
    };
    let continuations = run_all(&mut scheduler, requests, &mut on_event)?;
    Ok((continuations, scheduler.timings()))
}

/// Runs requests on an idle scheduler until all have ended, and returns their continuations in the order of the requests.
pub fn run_all<E: Engine>(
    scheduler: &mut Scheduler<E>,
    requests: &[Request],
    on_event: &mut dyn FnMut(usize, &Event),
) -> Result<Vec<Continuation>> {
    let mut indices = HashMap::new();
    for (index, request) in requests.iter().enumerate() {
        // Among many, it is said which one.
        let id = scheduler.submit(request.clone()).map_err(|error| match requests.len() {
            1 => error,
            _ => ModelError::InRequest { index, source: Box::new(error) },
        })?;
        indices.insert(id, index);
    }
    let mut results: Vec<Continuation> = requests
        .iter()
        .map(|_| Continuation { ids: vec![], logprobs: vec![], finish: FinishReason::Cancelled, stop_token: None })
        .collect();
    while !scheduler.is_idle() {
        scheduler.step(&mut |id, event| {
            let Some(&index) = indices.get(&id) else { return };
            on_event(index, &event);
            let result = &mut results[index];
            match event {
                Event::Token(token) => {
                    result.ids.push(token.id);
                    result.logprobs.extend(token.logprobs);
                }
                Event::Finished(finish) => (result.finish, result.stop_token) = (finish.reason, finish.stop_token),
            }
        })?;
    }
    Ok(results)
}

/// Checks that a sequence of ids is inside the vocabulary and the model's longest sequence. An error calls it `field`.
pub fn check_tokens(field: &'static str, ids: &[u32], vocabulary: usize, context: usize) -> Result<()> {
    if let Some((position, id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= vocabulary) {
        let value = format!("token {id} at position {position}");
        return Err(ModelError::Parameter {
            field,
            value,
            expected: format!("is outside the vocabulary of {vocabulary}"),
        });
    }
    if ids.len() > context {
        let value = format!("of {} tokens", ids.len());
        let expected = format!("is longer than the model's longest sequence, {context}");
        return Err(ModelError::Parameter { field, value, expected });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
