//! GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"), as Hugging Face folders hold it.

mod config;
mod graph;

pub use config::{Activation, Gpt2Config};
pub use graph::{Gpt2Layout, build};
