//! What the PTX target cannot compile.

use crate::target::llvm;
use crate::tile::{Value, VerifyError};

/// Why a tile program does not become PTX.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program breaks a rule of the Tile IR.
    #[error("the tile program is not valid: {0}")]
    Invalid(#[from] VerifyError),
    /// An extent of a tile is no power of two.
    #[error(
        "{value} has shape {shape:?}: on the GPU every extent of a tile must be a power of two; use the next one and mask"
    )]
    Shape {
        /// The tile.
        value: Value,
        /// Its extents.
        shape: Vec<u32>,
    },
    /// The number of warps is no power of two up to 32.
    #[error("a schedule of {0} warps: the number of warps must be a power of two from 1 to 32")]
    Warps(u32),
    /// An operation that this target does not have for these elements.
    #[error("{value}: no PTX for {what}")]
    Unsupported {
        /// The value that would be computed.
        value: Value,
        /// The operation and its elements.
        what: String,
    },
    /// The program needs more shared memory than a block may have.
    #[error(
        "{needed} bytes of shared memory are needed and {chip} gives a block {available}; use smaller tiles or fewer stages"
    )]
    SharedMemory {
        /// Bytes that the program needs.
        needed: u32,
        /// Bytes that a block may have.
        available: u32,
        /// The chip.
        chip: String,
    },
    /// The generated code was refused further down: a defect of this target.
    #[error(transparent)]
    Llvm(#[from] llvm::Error),
    /// The lowering contradicts itself: a defect of this target.
    #[error("{value}: {what}: this is a defect of the PTX target")]
    Internal {
        /// The value being lowered.
        value: Value,
        /// What was expected.
        what: &'static str,
    },
}
