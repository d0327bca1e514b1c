//! Transformer language models as Tessera graph IR, their weights and tokenizers, and text generation.
//!
//! **Architecture invariant:** this crate only builds graphs and drives the runtime. It knows no target and no kernel, and
//! never depends on the compiler: what it builds is a [`tessera_ir`] module, and what it runs is a loaded artifact.

#![deny(missing_docs)]

mod contain;
pub mod engine;
pub mod error;
pub mod folder;
pub mod generation;
pub mod gpt;
pub mod gpt2;
pub mod model;
pub mod network;
pub mod random;
pub mod reference;
pub mod tokenizer;
pub mod weights;

pub use error::{ModelError, Result};
pub use folder::{ModelConfig, ModelFolder};
pub use gpt::GptConfig;
pub use gpt2::Gpt2Config;
pub use model::Model;
pub use tokenizer::Tokenizer;
