//! Tile IR: one program for each kernel, as SSA over tiles.
//!
//! A tile is a block of elements with a static shape; a scalar is a tile of rank zero. A [`Program`] says what *one* instance
//! of a grid computes: it asks for its [`Operation::ProgramId`], loads tiles of its tensor arguments, computes, and
//! stores. How tiles map to threads, vectors, registers and shared memory is left to the targets, so that the same program becomes
//! PTX and host code.
//!
//! Rules that every program keeps:
//!
//! - values are defined before they are used, in the block that uses them or in one that encloses it;
//! - shapes agree exactly: nothing broadcasts by itself ([`Operation::Broadcast`] does);
//! - every tensor access is masked by the tensor's extents: what lies outside reads as the access's `other` value (zero unless it
//!   says otherwise) and is not written. So no program needs its sizes to be multiples of its tiles;
//! - an index that a [`Coordinate::At`] gives lies inside the tensor, unless the access's mask is false there; targets rely on it;
//! - programs of one grid run in any order and at the same time, and the threads of one program too: an element is written at
//!   most once by a grid, it is not read after that, and the program that writes it is the only one that may read it before.
//!
//! [`verify`] checks what can be seen in a program, [`interpret`](interpret::interpret) the rest while it runs one.

#[cfg(test)]
pub(crate) mod arbitrary;
mod builder;
pub mod interpret;
mod parse;
pub mod parts;
mod print;
mod program;
mod verify;
mod words;

pub use builder::Builder;
pub use parse::{ParseError, parse};
pub use program::{
    Access, Argument, ArgumentIndex, BinaryOperation, Block, Coordinate, Dimension, Element, GridExtent, Instruction,
    Literal, Operation, Predicate, Program, Reduction, Schedule, TensorArgument, TileType, UnaryOperation, Value,
};
pub(crate) use verify::LARGEST_TILE;
pub use verify::{VerifyError, verify};
pub use words::{E2M1_PER_WORD, E2M1_WORD, e2m1_of_word};
