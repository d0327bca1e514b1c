//! Tests of the graph IR through its public interface.

mod reference;
mod text;
