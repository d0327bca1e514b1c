//! The machines that Tessera compiles for, and how tile programs become their code: MLIR in the llvm dialects, LLVM IR, then PTX or
//! object code.
//!
//! [`llvm`] is what the targets share from MLIR on; how tiles map to threads, vectors and memory is each target's own.

mod chip;
pub mod host;
pub mod llvm;
pub mod nvptx;

pub use chip::{Chip, Target, UnknownTarget};
