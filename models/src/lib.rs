//! Transformer language models as Tessera graph IR, their weights and tokenizers, and text generation.
//!
//! **Architecture invariant:** this crate only builds graphs and drives the runtime. It knows no target and no kernel, and
//! never depends on the compiler: what it builds is a [`tessera_ir`] module, and what it runs is a loaded artifact.

#![deny(missing_docs)]

pub mod checkpoint;
pub mod error;
pub mod generation;
pub mod gpt2;
pub mod tokenizer;

pub use checkpoint::Checkpoint;
pub use error::{ModelError, Result};
pub use tokenizer::Tokenizer;
