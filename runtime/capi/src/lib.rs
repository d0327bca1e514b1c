//! The C API of Tessera's runtime: `libtessera.so` and `libtessera.a`. What each function does is said in `tessera.h`.
//!
//! # Architecture invariant
//!
//! Nothing happens here but translation: pointers to references, errors to status and text. No panic leaves a function: each goes
//! through [`status::guard`]. A pointer that C passes is null, or is what `tessera.h` says it is; that is the contract under which the
//! `unsafe` blocks of this crate are sound, and null is looked for.

mod model;
mod pages;
mod pointer;
mod session;
mod status;

pub use model::*;
pub use pages::*;
pub use session::*;
pub use status::{TesseraStatus, tessera_error, tessera_version};
