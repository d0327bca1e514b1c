//! The machine: grids, clusters, CTAs, warps and their threads.

pub mod cluster;
pub mod context;
pub mod convergence;
pub mod fault;
pub mod grid;
pub mod instruction;
pub mod kernel;
pub mod observer;
pub mod row;
pub mod standstill;
pub mod warp;
