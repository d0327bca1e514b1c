//! Text generation: ragged batches of sequences through the serving step, with a paged KV cache.
//!
//! An [`Engine`] runs the two functions of a model's module, `@step` and `@sample`. A [`Scheduler`] stands on it: requests are
//! submitted and cancelled at any time, and each of its steps feeds tokens of many sequences, prompts in chunks and decodes
//! together, under the bounds of [`Limits`]. A [`Generator`] is a scheduler on a thread of its own, with a stream of tokens
//! for each request. [`generate`] is for those who have all their requests at once.

mod batch;
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
pub use engine::{Engine, SampleRows};
pub use generator::{Generator, TokenStream};
pub use request::{Continuation, Event, Finish, FinishReason, NewToken, Request, RequestId, Timings, TokenLogprobs};
pub use sampling::Sampling;
pub use scheduler::{Limits, Scheduler};
pub use stop::{Passed, StopText};
pub use structure::{Begin, Grammar, Structure};

use crate::error::{ModelError, Result};

/// Pages that the requests need to run all at once, for sizing a cache.
pub fn pages_for(requests: &[Request], context: usize, page_size: usize) -> usize {
    requests
        .iter()
        .map(|request| request_pages(request.prompt.len(), &request.sampling, context, page_size))
        .fold(0, usize::saturating_add)
}

/// Pages that a request needs at most.
fn request_pages(prompt: usize, sampling: &Sampling, context: usize, page_size: usize) -> usize {
    // The last sampled token is never fed back.
    let longest = prompt.saturating_add(sampling.max_new_tokens).saturating_sub(1).min(context);
    longest.max(prompt).div_ceil(page_size.max(1))
}

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
