//! Numbers as the machine has them: narrow floating-point formats, rounding, saturation.

pub mod format;
pub mod rounding;
