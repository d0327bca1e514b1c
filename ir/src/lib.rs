//! Tessera's graph IR: a typed dataflow graph of tensors, with text, serde and Graphviz forms, a
//! verifier, and a reference evaluation.
//!
//! - [`Module`] holds parameters and [`Function`]s; a function is a [`Graph`] of operations.
//! - Types ([`Type`], [`TensorType`]) have symbolic dimensions ([`Dim`]), a numeric policy
//!   ([`NumericPolicy`]) and a [`Sharding`].
//! - Each op of [`ops`] is declared once; parser, printer, [`Builder`], documentation and verifier
//!   derive from the declaration ([`OpDefinition`]).
//! - [`evaluate()`](evaluate::evaluate) computes a function in f64, rounding every result to its
//!   storage: the oracle of every test.
//!
//! # Architecture invariant
//!
//! This crate knows nothing of targets, kernels, schedules or devices; it depends on no other crate
//! of the project. A graph is always printable, verifiable and evaluable, also between passes and
//! also when fused, for fusion makes nested graphs and not opaque nodes. No input, whether text, JSON
//! or a built graph, makes it panic; errors are typed and say what to do.

pub mod attribute;
mod blocks;
pub mod builder;
pub mod definition;
pub mod diagnostic;
mod dot;
pub mod evaluate;
pub mod graph;
pub mod minifloat;
mod module;
mod name;
mod operation;
pub mod ops;
mod portable;
mod reference;
pub mod sharding;
mod storage;
pub mod testing;
pub mod text;
mod types;
mod verify;

pub use attribute::{Attribute, AttributeKind, ConstantValue};
pub use blocks::BlockFormat;
pub use builder::Builder;
pub use definition::{Adjoint, Inference, Op, OpDefinition, OpError, Site};
pub use diagnostic::{Diagnostic, DiagnosticKind, Diagnostics};
pub use dot::to_dot;
pub use graph::{Graph, Node, NodeId, NodeKind, Span, ValueId};
pub use module::{Duplicate, Function, Module, SymbolRange};
pub use name::Name;
pub use operation::{OpAttributes, Operation};
pub use reference::{op_reference, reference_page};
pub use sharding::{Factor, FactorKind, Mesh, MeshAxis, Sharding, ShardingRule};
pub use storage::{Storage, UnknownStorage};
pub use text::{parse_module, parse_type};
pub use types::{Dim, KvCacheType, NumericPolicy, Shape, TensorType, Type};
pub use verify::verify;
