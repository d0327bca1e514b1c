//! Tessera's graph IR.

pub mod minifloat;
