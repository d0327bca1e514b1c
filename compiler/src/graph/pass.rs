//! What a pass is, and the table of all of them.

use std::fmt;

use tessera_ir::{Module, OpError, Span};
use thiserror::Error;

use super::remark::{Remark, RemarkKind};
use crate::target::Target;

/// A transformation of a module. A pass is a unit struct in a file of its own, whose documentation says what it does and where
/// its limits are.
pub trait Pass: Sync {
    /// Transforms the module and says whether anything changed.
    ///
    /// A pass given a module that verifies leaves one that verifies, and computes the same up to rounding. It never panics.
    ///
    /// # Errors
    /// The module cannot be compiled as it stands.
    fn run(&self, module: &mut Module, context: &mut Context) -> Result<bool, PassError>;
}

/// What passes know besides the module, and where they leave their remarks.
#[derive(Clone, Debug)]
pub struct Context {
    /// What the module is compiled for.
    pub target: Target,
    /// What the passes so far had to say.
    pub remarks: Vec<Remark>,
}

impl Context {
    /// A context with no remarks yet.
    pub fn new(target: Target) -> Self {
        Context { target, remarks: Vec::new() }
    }

    /// Leaves a remark of `pass` about `operation` of `function`.
    pub(super) fn remark(
        &mut self,
        pass: &str,
        kind: RemarkKind,
        function: &str,
        operation: impl fmt::Display,
        message: impl fmt::Display,
    ) {
        self.remarks.push(Remark {
            pass: pass.to_owned(),
            kind,
            function: function.to_owned(),
            operation: operation.to_string(),
            message: message.to_string(),
        });
    }
}

/// Why a pass gave up.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("@{function}: {operation}: {message}")]
pub struct PassError {
    /// The function at fault.
    pub function: String,
    /// The operation at fault, as `%name = op`.
    pub operation: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Where the operation stands in the source text, if it came from one.
    pub span: Option<Span>,
}

impl PassError {
    /// The error with the place in the source text.
    pub(super) fn at(self, span: Option<&Span>) -> Self {
        PassError { span: span.cloned(), ..self }
    }

    /// An operation does not fit its op, or the target.
    pub(super) fn of(function: &str, operation: impl fmt::Display, error: OpError) -> Self {
        PassError {
            function: function.to_owned(),
            operation: operation.to_string(),
            message: error.to_string(),
            help: error.help,
            span: None,
        }
    }
}

/// A line of the table of passes.
pub struct Registration {
    /// The name that pipelines use.
    pub name: &'static str,
    /// What the pass does, in one sentence.
    pub summary: &'static str,
    /// The pass.
    pub pass: &'static dyn Pass,
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Declares the passes: for each a module, the unit struct in it, and a sentence for the user. The pass is named as its module.
macro_rules! passes {
    ($($module:ident :: $pass:ident, $summary:literal;)+) => {
        $(mod $module;)+
        $(pub use $module::$pass;)+

        /// Every pass, in the order in which a full pipeline first runs them.
        pub static PASSES: &[Registration] =
            &[$(Registration { name: stringify!($module), summary: $summary, pass: &$module::$pass }),+];
    };
}
pub(super) use passes;
