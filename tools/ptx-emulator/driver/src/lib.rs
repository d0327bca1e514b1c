//! The CUDA driver API on the emulator.
//!
//! Every handle that a program gets is a number that this library looks up, never a pointer that it follows, so that a wrong handle
//! is an error. Memory of the program is touched only where the API says that a pointer is to it.
//!
//! Architecture invariant: work is done when it is issued, unless it has to wait: for what its stream has to do before, for an event,
//! or, as a kernel that polls, for what another stream does. Then it is gone on with by the calls that follow, without threads of the
//! driver's own: see `queue`. An error of a kernel is reported by the call that runs it, and again by each later one, as a CUDA context
//! does.
#![allow(non_snake_case, reason = "the names are CUDA's")]

#[macro_use]
mod error;
mod absent;
mod capture;
mod context;
mod copy;
mod device;
mod entry_points;
mod event;
mod function;
mod graph;
mod graph_edges;
mod graph_launch;
mod graph_nodes;
mod launch;
mod linker;
mod memory;
mod module;
mod queue;
mod state;
mod stream;
mod tensor_map;
