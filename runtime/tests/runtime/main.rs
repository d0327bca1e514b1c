//! The runtime as its users see it, with kernels written by hand in C and compiled by `cc`.

mod cache;
mod example;
mod fixture;
mod refusals;
mod running;
