//! The machines that Tessera compiles for.

mod chip;

pub use chip::{Chip, Target, UnknownTarget};
