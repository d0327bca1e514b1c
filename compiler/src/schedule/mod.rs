//! From graphs to kernels: regions, schedules, tile programs and the execution plan.
//!
//! [`form`] cuts a function into regions, one kernel each, and chooses a schedule for each by the cost model; the result is again a graph, of
//! fusions with a `schedule` attribute, that can be printed, edited and read back. [`lower`] builds the tile program of each region and
//! assembles the plan; equal programs are kept once.
//!
//! # How a program is built
//!
//! A program computes tiles of its results. A result is an expression over the region's inputs, and a tile of it is computed by asking for
//! it at a position: one symbolic index for each dimension. Each op says, in one table ([`operations`]), where it needs its operands for
//! that and what it does with them; so a reshape, a slice or a head split is arithmetic on indices ([`index`]) and costs
//! nothing, and any chain of ops fuses with any other. What is expensive (matrix products, attention, what is reduced over rows) is found by trying
//! the program out, and computed once, ahead of the loops that do not change it. What cannot be computed where it is wanted is
//! a [`Cut`]: it gets a kernel of its own.

mod access;
mod arguments;
mod attention;
mod blocks;
mod checks;
mod cost;
mod emitter;
mod error;
mod experts;
mod form;
mod index;
mod kernel;
mod library;
mod lower;
mod matmul;
mod mixture;
mod operations;
mod packing;
mod positions;
mod reduction;
mod reference;
mod sampling;
mod steps;
mod strategy;
mod symbols;

pub use arguments::{Binding, Buffer};
pub use cost::{Machine, Overrides, Variant};
pub use emitter::{InputMemory, Shaping};
pub use error::{Cut, ScheduleError};
pub use form::{Formed, form};
pub use kernel::{Built, Region, build};
pub use library::Library;
pub use lower::{Lowered, lower, symbols_of};
pub use reference::reference;
pub use strategy::{KNOBS, Strategy, Tiling};
pub use symbols::Symbols;

#[cfg(test)]
mod tests;
