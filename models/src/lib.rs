//! Transformer language models as Tessera graph IR, their weights and tokenizers, and text generation.
//!
//! **Architecture invariant:** this crate only builds graphs and drives the runtime. It knows no target and no kernel, and
//! never depends on the compiler: what it builds is a [`tessera_ir`] module, and what it runs is a loaded artifact.
//!
//! A [`Model`] is a folder's configuration, its weights, and the module that fits both. [`generation::generate`] runs one on an
//! [`Engine`](generation::Engine): compiled and loaded on a device ([`engine`]), or by the graph IR's reference evaluation:
//!
//! ```
//! use tessera_models::Model;
//! use tessera_models::generation::{Limits, Request, Sampling, generate};
//! use tessera_models::reference::ReferenceEngine;
//!
//! let model = Model::open("../tests/fixtures/gpt2-kjv".as_ref())?;
//! let tokenizer = model.folder.tokenizer()?;
//! let sampling = Sampling { max_new_tokens: 4, ..Sampling::default() };
//! let request = Request { prompt: tokenizer.encode("And God said")?, sampling };
//!
//! let mut engine = ReferenceEngine::new(&model, 1)?;
//! let (continuations, timings) = generate(&mut engine, &[request], Limits::default(), &mut |_, _| ())?;
//! assert_eq!(tokenizer.decode(&continuations[0].ids)?, ", I will I");
//! assert_eq!(timings.prompt_tokens, 3);
//! # Ok::<(), tessera_models::ModelError>(())
//! ```
//!
//! Programs that serve stand on [`generation::Scheduler`] or [`generation::Generator`], and conversations on [`chat`].

#![deny(missing_docs)]

pub mod chat;
mod contain;
pub mod engine;
pub mod error;
pub mod folder;
pub mod generation;
pub mod gpt;
pub mod gpt2;
pub mod gpt_oss;
pub mod model;
pub mod network;
pub mod quantize;
pub mod random;
pub mod reference;
pub mod tokenizer;
pub mod weights;

pub use error::{ModelError, Result};
pub use folder::{ModelConfig, ModelFolder};
pub use gpt::GptConfig;
pub use gpt_oss::GptOssConfig;
pub use gpt2::Gpt2Config;
pub use model::Model;
pub use tokenizer::Tokenizer;
