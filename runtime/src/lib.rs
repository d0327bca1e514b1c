//! Tessera's runtime: loads compiled models and runs them.
//!
//! ```text
//! Artifact (model.tsr) ─┐
//! Weights (safetensors) ├─► Executable ─► Session ─► Outputs
//! Device (host, cuda:N) ┘        │           ▲
//!                                └► KvCache ─┘
//! ```
//!
//! # Architecture invariant
//!
//! The runtime loads and never compiles: it depends on neither the compiler nor the graph IR, and links no LLVM. What it
//! knows of a model is the [`plan`], plain data that the compiler wrote and that is validated before it is followed. The
//! executor ([`execute`]) knows devices by the traits of [`device`] alone; what is particular to one lives in its module.

#![deny(missing_docs)]

// The examples of the README are compiled with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod artifact;
pub mod cuda;
pub mod device;
pub mod execute;
pub mod host;
pub mod pages;
pub mod plan;
mod processor;
pub mod weights;

pub use artifact::Artifact;
pub use execute::{Executable, KvCache, Session, TensorView};
pub use weights::Weights;
