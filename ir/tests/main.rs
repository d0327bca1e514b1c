//! Tests of the graph IR through its public interface.

mod attention;
mod evaluation;
mod gradients;
mod graph;
mod malformed;
mod mixture;
mod reference;
mod serde_form;
mod sharding;
mod text;
mod verifier;
