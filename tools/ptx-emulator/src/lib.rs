//! A functional emulator of the machine that PTX describes.
//!
//! [`decode::Module::load`] turns the text of a module into kernels; [`machine::grid::Grid::run`] runs one. What instructions exist,
//! and what they do, is in [`instructions`], [`asynchronous`] and [`tensor_core`], in tables of forms.
//!
//! Architecture invariants: a module is decoded once, and running allocates nothing for an instruction; a guest address is checked
//! before it becomes a host pointer; nothing that a module or a launch contains makes the emulator panic.
#![deny(missing_docs)]

#[macro_use]
mod vectors;
#[macro_use]
pub mod instructions;
pub mod asynchronous;
pub mod checker;
pub mod chip;
pub mod decode;
pub mod diagnostic;
pub mod machine;
pub mod memory;
pub mod numeric;
pub mod parse;
pub mod tensor_core;
