//! Lists of passes, and running them.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use tessera_ir::diagnostic::closest;
use tessera_ir::{Diagnostic, Module, verify};
use thiserror::Error;

use super::PASSES;
use super::pass::{Context, PassError, Registration};

/// Passes in the order in which they run.
#[derive(Clone, Debug)]
pub struct Pipeline {
    passes: Vec<&'static Registration>,
}

/// The passes of `tesserac compile`, in the text form of a pipeline.
pub const DEFAULT_PIPELINE: &str = "infer,canonicalize,cse,fold,unpack,legalize,windows,canonicalize,cse,dce,fuse";

impl Pipeline {
    /// The passes, in order.
    pub fn passes(&self) -> &[&'static Registration] {
        &self.passes
    }

    /// Runs the passes one after the other.
    ///
    /// The module is verified before the first pass and after every pass that changed it. `observe` sees the module after each pass: dumps
    /// and progress come from there.
    ///
    /// # Errors
    /// A pass gave up, or left a module that does not verify, which is a defect of the pass. The module is then in the
    /// state that this pass left.
    pub fn run(
        &self,
        module: &mut Module,
        context: &mut Context,
        mut observe: impl FnMut(&PassRun, &Module),
    ) -> Result<Vec<PassRun>, PipelineError> {
        verify(module).map_err(PipelineError::Invalid)?;
        let mut runs = Vec::with_capacity(self.passes.len());
        for registration in &self.passes {
            let _span = tracing::debug_span!("pass", name = registration.name).entered();
            let start = Instant::now();
            let changed = registration
                .pass
                .run(module, context)
                .map_err(|error| PipelineError::Pass { pass: registration.name, error: Box::new(error) })?;
            let elapsed = start.elapsed();
            if changed {
                verify(module).map_err(|errors| PipelineError::Broken { pass: registration.name, errors })?;
            }
            let run = PassRun { pass: registration.name, changed, elapsed };
            observe(&run, module);
            runs.push(run);
        }
        Ok(runs)
    }
}

impl Default for Pipeline {
    /// The passes of [`DEFAULT_PIPELINE`].
    fn default() -> Self {
        let passes = DEFAULT_PIPELINE.split(',').filter_map(find).collect();
        Pipeline { passes }
    }
}

impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.passes.iter().map(|registration| registration.name).collect();
        f.write_str(&names.join(","))
    }
}

impl FromStr for Pipeline {
    type Err = UnknownPass;

    /// Reads names of passes with commas between them; no name at all is the empty pipeline.
    fn from_str(text: &str) -> Result<Self, UnknownPass> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let passes = names.map(|name| find(name).ok_or_else(|| UnknownPass::new(name))).collect::<Result<_, _>>()?;
        Ok(Pipeline { passes })
    }
}

/// The pass of this name.
fn find(name: &str) -> Option<&'static Registration> {
    PASSES.iter().find(|registration| registration.name == name)
}

/// No pass has this name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("there is no pass `{name}`; {advice}")]
pub struct UnknownPass {
    /// What was asked for.
    pub name: String,
    advice: String,
}

impl UnknownPass {
    fn new(name: &str) -> Self {
        let similar = closest(name, PASSES.iter().map(|registration| registration.name));
        let advice = match similar {
            Some(similar) => format!("did you mean `{similar}`?"),
            None => {
                let names: Vec<&str> = PASSES.iter().map(|registration| registration.name).collect();
                format!("the passes are {}", names.join(", "))
            }
        };
        UnknownPass { name: name.to_owned(), advice }
    }
}

/// What one pass of a pipeline did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassRun {
    /// The pass.
    pub pass: &'static str,
    /// Whether it changed the module.
    pub changed: bool,
    /// The time it took, verification not counted.
    pub elapsed: Duration,
}

/// Why a pipeline stopped.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PipelineError {
    /// The module does not verify before the first pass.
    #[error("the module is not valid: {}", list(.0))]
    Invalid(Vec<Diagnostic>),
    /// A pass gave up.
    #[error("{error}")]
    Pass {
        /// The pass.
        pass: &'static str,
        /// Why.
        error: Box<PassError>,
    },
    /// A pass left a module that does not verify.
    #[error("the pass `{pass}` broke the module, which is a defect of the compiler: {}", list(.errors))]
    Broken {
        /// The pass.
        pass: &'static str,
        /// What the verifier says.
        errors: Vec<Diagnostic>,
    },
}

fn list(errors: &[Diagnostic]) -> String {
    errors.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("; ")
}
