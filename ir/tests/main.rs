//! Tests of the graph IR through its public interface.

mod malformed;
mod reference;
mod serde_form;
mod text;
