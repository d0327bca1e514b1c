//! Parts that tile programs are composed of.
//!
//! Each part appends to a program under construction and returns values. What differs from kernel to kernel (where the elements come
//! from, what is done with them on the way, where the result goes) is a closure of the caller's, so that a part fuses with whatever
//! the graph has around it.

pub mod attention;
