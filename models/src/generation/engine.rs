//! What runs a model's steps.

use std::borrow::Cow;

use tessera_runtime::pages::Pool;

use super::Sampling;
use super::batch::Step;
use crate::error::Result;

/// What a model is to generation: its limits, and its two functions.
pub trait Engine {
    /// Tokens in the vocabulary.
    fn vocabulary(&self) -> usize;
    /// The longest sequence, in tokens.
    fn context(&self) -> usize;
    /// Tokens per page of the KV caches.
    fn page_size(&self) -> usize;
    /// The KV caches, in the order of the step's page tables.
    fn pools(&self) -> Vec<Pool>;
    /// Runs `@step`: appends the tokens' keys and values to the cache, and keeps the logits of the step's rows for [`Engine::sample`].
    fn step(&mut self, step: &Step) -> Result<()>;
    /// The logits of the last step's rows, `[R, V]`, row-major.
    fn logits(&self) -> Cow<'_, [f32]>;
    /// The same, to be changed before [`Engine::sample`] draws from them.
    fn logits_mut(&mut self) -> Result<&mut [f32]>;
    /// Runs `@sample` on the logits of the last step: one token for each of its rows.
    fn sample(&mut self, rows: &SampleRows) -> Result<Vec<u32>>;
}

/// An engine through a pointer to it.
macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<E: Engine + ?Sized> Engine for $pointer {
            fn vocabulary(&self) -> usize {
                (**self).vocabulary()
            }
            fn context(&self) -> usize {
                (**self).context()
            }
            fn page_size(&self) -> usize {
                (**self).page_size()
            }
            fn pools(&self) -> Vec<Pool> {
                (**self).pools()
            }
            fn step(&mut self, step: &Step) -> Result<()> {
                (**self).step(step)
            }
            fn logits(&self) -> Cow<'_, [f32]> {
                (**self).logits()
            }
            fn logits_mut(&mut self) -> Result<&mut [f32]> {
                (**self).logits_mut()
            }
            fn sample(&mut self, rows: &SampleRows) -> Result<Vec<u32>> {
                (**self).sample(rows)
            }
        }
    )*};
}

forward!(&mut E, Box<E>);

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
    pub(super) fn push(&mut self, sampling: &Sampling, position: usize) {
        self.temperature.push(sampling.temperature);
        self.top_k.push(sampling.top_k as i32);
        self.top_p.push(sampling.top_p);
        self.seed.push(sampling.seed as i64);
        self.counter.push(position as i32);
    }
}
