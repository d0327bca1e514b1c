//! Tests of the graph IR through its public interface.

mod text;
