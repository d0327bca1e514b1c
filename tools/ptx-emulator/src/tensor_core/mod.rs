//! Matrix instructions: fragments in registers, operands in shared memory, accumulators in tensor memory.

pub mod element;
pub mod matrix;
pub mod mma;
pub mod product;
pub mod tensor_memory;
