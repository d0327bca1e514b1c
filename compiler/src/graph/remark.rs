//! What passes tell the user: what they did that matters for speed or accuracy, and what they left, and why.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whether a remark is about something done or something left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemarkKind {
    /// The pass did this.
    Applied,
    /// The pass could have done this, and says why it did not.
    Missed,
}

impl RemarkKind {
    /// The word in the text form.
    pub const fn name(self) -> &'static str {
        match self {
            RemarkKind::Applied => "applied",
            RemarkKind::Missed => "missed",
        }
    }
}

/// One sentence of a pass about one place of the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remark {
    /// Name of the pass.
    pub pass: String,
    /// Done or left.
    pub kind: RemarkKind,
    /// The function it is about.
    pub function: String,
    /// The operation it is about, as `%name = op`.
    pub operation: String,
    /// What was done or left, and why.
    pub message: String,
}

impl fmt::Display for Remark {
    /// Writes `fuse: applied: @step: %y = matmul: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Remark { pass, kind, function, operation, message } = self;
        write!(f, "{pass}: {}: @{function}: {operation}: {message}", kind.name())
    }
}
