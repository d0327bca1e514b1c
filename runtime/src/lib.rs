//! Tessera's runtime: loads compiled models and runs them.
//!
//! # Architecture invariant
//!
//! The runtime loads and never compiles: it depends on neither the compiler nor the graph IR, and links no LLVM. What it
//! knows of a model is the [`plan`], plain data that the compiler wrote and that is validated before it is followed.

#![deny(missing_docs)]

pub mod artifact;
pub mod plan;

pub use artifact::Artifact;
