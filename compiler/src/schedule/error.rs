//! Why a region is not one kernel, or no kernel at all.

use tessera_ir::ValueId;
use thiserror::Error;

/// A value of a region cannot be computed where another part of the region wants it: it must be in memory first.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct Cut {
    /// The value to put in memory.
    pub value: ValueId,
    /// Why, for the remark that a user reads.
    pub reason: String,
    /// Whether the value is in memory already, or is of a kind that no kernel computes: another cut would not help.
    pub is_final: bool,
}

impl Cut {
    /// `value` must be in memory because of `reason`.
    pub fn at(value: ValueId, reason: impl Into<String>) -> Cut {
        Cut { value, reason: reason.into(), is_final: false }
    }

    /// No kernel can do this, however the graph is cut.
    pub fn never(value: ValueId, reason: impl Into<String>) -> Cut {
        Cut { value, reason: reason.into(), is_final: true }
    }
}

/// Why a function has no schedule.
#[derive(Debug, Error)]
pub enum ScheduleError {
    /// An op that this target has no kernel for.
    #[error("`{op}`{}: {reason}", place(.name))]
    Unsupported {
        /// The op.
        op: String,
        /// Name of its result, if it has one.
        name: Option<String>,
        /// Why not.
        reason: String,
    },
    /// A schedule in the text does not fit its region.
    #[error("schedule of {region}: {reason}")]
    Schedule {
        /// Which.
        region: String,
        /// What is wrong.
        reason: String,
    },
    /// A knob that does not exist or a value that it does not take.
    #[error("knob `{text}`: {reason}")]
    Knob {
        /// As written.
        text: String,
        /// What is wrong.
        reason: String,
    },
    /// The module has no function to compile, or several.
    #[error("{0}")]
    Function(String),
    /// The graph was rejected while kernels were formed.
    #[error(transparent)]
    Graph(#[from] tessera_ir::OpError),
    /// A tile program breaks a rule of the Tile IR: a defect of the compiler.
    #[error("the compiler made an invalid tile program, please report it: {0}")]
    Tile(#[from] Box<crate::tile::VerifyError>),
    /// The plan is inconsistent: a defect of the compiler.
    #[error("the compiler made an invalid plan, please report it: {0}")]
    Plan(#[from] tessera_runtime::plan::PlanError),
}

fn place(name: &Option<String>) -> String {
    name.as_ref().map(|name| format!(" (%{name})")).unwrap_or_default()
}
