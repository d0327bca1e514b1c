//! Loading a model on a device and running it.
//!
//! An [`Executable`] is an artifact on a device with its weights; a [`Session`] runs it. The executor knows devices only by the
//! traits of [`crate::device`].

mod arena;
mod binding;
mod cache;
mod error;
mod executable;
mod indices;
mod session;
mod symbols;
mod tensor;

pub use cache::KvCache;
pub use error::RunError;
pub use executable::Executable;
pub use session::{LaunchTime, Outputs, Session};
pub use tensor::{Element, TensorView};
