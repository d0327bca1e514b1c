//! Matrix instructions: fragments in registers, operands in shared memory, accumulators in tensor memory.

pub mod accumulation;
pub mod block_scaled;
pub mod element;
pub mod fragment;
pub mod matrix;
pub mod mma;
pub mod product;
pub mod quad_pairs;
pub mod shared_matrix;
pub mod sparse;
pub mod tcgen05;
pub mod tensor_memory;
pub mod tensor_memory_access;
pub mod tensor_product;
pub mod tensor_shape;
pub mod wgmma;
pub mod wmma;
