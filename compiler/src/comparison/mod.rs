//! Comparing two computations of one function: made-up inputs that make sense to it, and how far results lie apart.

mod difference;
mod inputs;

pub use difference::{Difference, Tolerance, difference};
pub use inputs::{InputError, Inputs, random_inputs, unpacked};
