//! Tessera's compiler: graph passes, schedules, tile programs and the two targets.
//!
//! **Architecture invariant.** This is the only crate that links LLVM and MLIR. Data flows one way:
//! graph IR → schedule → tile programs → target code → artifact; no stage looks back at an earlier one.

pub mod comparison;
pub mod driver;
pub mod graph;
pub mod schedule;
pub mod target;
pub mod tile;
