//! What stops a kernel.

use std::fmt;

/// An error of a running kernel: what, where in the source, and who did it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    /// What kind of error the driver reports.
    pub kind: FaultKind,
    /// What happened, and what to do.
    pub message: String,
    /// The kernel.
    pub kernel: String,
    /// The source's name and line, and the instruction there.
    pub place: Option<Place>,
    /// The CTA.
    pub cta: Option<[u32; 3]>,
    /// A thread of it.
    pub thread: Option<[u32; 3]>,
}

/// An instruction's place in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, or what stands for it.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// The instruction's text.
    pub text: String,
}

/// The classes that the driver API tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// An address outside of every allocation.
    IllegalAddress,
    /// An address that is not a multiple of the access's size.
    MisalignedAddress,
    /// Operands that the instruction does not allow.
    IllegalInstruction,
    /// A launch that the kernel or the chip does not allow.
    InvalidLaunch,
    /// `trap`.
    Trap,
    /// A failed device-side assertion.
    Assertion,
    /// No thread can go on.
    Deadlock,
    /// A warp has run more instructions than it may.
    Limit,
    /// The checker has as many reports as it may have.
    Reported,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "kernel {}: {}", self.kernel, self.message)?;
        if let Some(place) = &self.place {
            write!(formatter, "\n    at {}:{}: {}", place.file, place.line, place.text)?;
        }
        if let Some([x, y, z]) = self.cta {
            write!(formatter, "\n    in CTA ({x}, {y}, {z})")?;
        }
        if let Some([x, y, z]) = self.thread {
            write!(formatter, ", thread ({x}, {y}, {z})")?;
        }
        Ok(())
    }
}
