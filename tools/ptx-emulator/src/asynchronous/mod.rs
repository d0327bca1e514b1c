//! Asynchronous copies and the barriers that wait for them.
//!
//! A copy is done when it is issued, which is one of the times that PTX allows; completion is reported as PTX says, through groups
//! and mbarriers.

pub mod bulk;
pub mod bulk_reduction;
pub mod cluster_launch;
pub mod copy;
pub mod im2col;
pub mod mbarrier;
pub mod remote;
pub mod tensor_copy;
pub mod tensor_map;
