//! How many pages the KV caches of a model need.

use tessera_ir::Module;
use tessera_runtime::pages::Pool;
use tessera_runtime::plan::Plan;

use super::request::Request;
use super::sampling::Sampling;
use super::scheduler::Limits;
use crate::error::{ModelError, Result};
use crate::network::STEP;

/// How a model's KV caches are divided into pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheLayout {
    /// Tokens in one page.
    pub page_size: usize,
    /// For each cache, how many keys a token sees; all of its sequence's if none.
    pub windows: Vec<Option<u32>>,
}

impl CacheLayout {
    /// The caches that a module's serving step takes.
    pub fn of_module(module: &Module) -> Result<Self> {
        let step = module.function(STEP);
        let caches = step.iter().flat_map(|step| step.inputs()).filter_map(|(_, ty)| ty.as_cache());
        Self::of(caches.map(|cache| (cache.page_size, cache.window)))
    }

    /// The caches that a compiled serving step takes.
    pub fn of_plan(plan: &Plan) -> Result<Self> {
        Self::of(plan.caches.iter().map(|cache| (cache.page_size, cache.window)))
    }

    fn of(caches: impl Iterator<Item = (u64, Option<u64>)>) -> Result<Self> {
        let (sizes, windows): (Vec<u64>, Vec<Option<u64>>) = caches.unzip();
        let Some(size) = sizes.first() else {
            return Err(ModelError::Request(format!("@{STEP} takes no KV cache; it is not a serving step")));
        };
        if let Some(other) = sizes.iter().find(|other| *other != size) {
            return Err(ModelError::Request(format!(
                "the KV caches of @{STEP} have pages of {size} and of {other} tokens; sequences need pages of one size"
            )));
        }
        let number = |window: u64| u32::try_from(window).unwrap_or(u32::MAX);
        Ok(Self { page_size: *size as usize, windows: windows.into_iter().map(|window| window.map(number)).collect() })
    }

    /// Pages of each cache that sequences of these lengths need at once, in steps of up to `tokens_per_step` tokens.
    ///
    /// In a bounded cache a sequence has its window, and as much again for what is kept of its beginning; a step needs pages for all its tokens
    /// besides.
    pub fn pages_for(&self, lengths: impl Iterator<Item = usize> + Clone, tokens_per_step: usize) -> Vec<usize> {
        let pages = |window: &Option<u32>| {
            let sum = |chunk: usize| {
                let each = |tokens| Pool::pages_for(*window, self.page_size as u32, tokens, chunk);
                lengths.clone().map(each).fold(0, usize::saturating_add)
            };
            let all = sum(usize::MAX);
            match window {
                None => all,
                Some(_) => {
                    // Of every sequence's chunk the last page may be begun.
                    let step = tokens_per_step.div_ceil(self.page_size.max(1)).saturating_add(lengths.clone().count());
                    all.min(sum(1).saturating_mul(2).saturating_add(step))
                }
            }
        };
        self.windows.iter().map(pages).collect()
    }

    /// The caches with so many pages each.
    pub fn pools(&self, pages: &[usize]) -> Vec<Pool> {
        let number = |count: &usize| u32::try_from(*count).unwrap_or(u32::MAX);
        pages.iter().zip(&self.windows).map(|(pages, window)| Pool { pages: number(pages), window: *window }).collect()
    }
}

/// Pages of each cache that the requests need to run all at once.
pub fn pages_for(requests: &[Request], context: usize, caches: &CacheLayout, limits: &Limits) -> Vec<usize> {
    let lengths = requests.iter().map(|request| longest(request.prompt.len(), &request.sampling, context));
    caches.pages_for(lengths, limits.tokens_per_step)
}

/// Tokens that a request feeds at most.
pub(super) fn longest(prompt: usize, sampling: &Sampling, context: usize) -> usize {
    // The last sampled token is never fed back.
    prompt.saturating_add(sampling.max_new_tokens).saturating_sub(1).min(context).max(prompt)
}
