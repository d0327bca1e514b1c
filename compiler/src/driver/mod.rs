//! The driver: from a module to an artifact, through every stage.
//!
//! ```text
//! module ─ graph passes ─► fused module ─ form ─► scheduled module ─ lower ─► tile programs ─ target ─► artifact
//! ```
//!
//! Each arrow is timed; each stage can be dumped as numbered files, edited, and resumed from ([`Input`]). What was compiled before
//! comes from a cache on disk, by the hash of all that it depends on.

mod cache;
pub(crate) mod code;
mod dump;
mod input;
mod report;

use std::path::PathBuf;
use std::time::Instant;

use tessera_ir::Module;
use tessera_runtime::Artifact;
use tessera_runtime::artifact::ArtifactError;
use thiserror::Error;

pub use cache::Cache;
pub use dump::{Dumps, Stage};
pub use input::{Input, InputError};
pub use report::{KernelReport, Report, StageTime};

use crate::graph::{Context, Pipeline, PipelineError};
use crate::schedule::{self, Library, Lowered, Machine, Overrides, ScheduleError};
use crate::target::Target;
use crate::target::host::{self, CpuFeatures};
use crate::target::nvptx;

/// What the compiler calls itself in artifacts and cache keys.
pub const PRODUCER: &str = concat!("tesserac ", env!("CARGO_PKG_VERSION"));

/// Stack of each thread that compiles; what is not touched costs nothing.
const STACK_BYTES: usize = 64 << 20;

/// Choices of a compilation.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// What code is made for.
    pub target: Target,
    /// Processor features of host code; those of this machine if none are given.
    pub features: Option<CpuFeatures>,
    /// Threads that host code is scheduled for; as many as this machine runs at once if none are given.
    pub threads: Option<u32>,
    /// The graph passes.
    pub passes: Pipeline,
    /// Knobs of schedules that are set by hand.
    pub knobs: Overrides,
    /// What is written on the way.
    pub dumps: Dumps,
    /// Where compiled artifacts are kept; nowhere if none.
    pub cache: Option<PathBuf>,
}

impl CompileOptions {
    /// The defaults for a target: all passes, no dumps, no cache.
    pub fn new(target: Target) -> CompileOptions {
        CompileOptions {
            target,
            features: None,
            threads: None,
            passes: Pipeline::default(),
            knobs: Overrides::default(),
            dumps: Dumps::default(),
            cache: None,
        }
    }

    fn machine(&self) -> Machine {
        let native = Machine::native(self.target);
        Machine { threads: self.threads.unwrap_or(native.threads), ..native }
    }

    fn cpu_features(&self) -> Result<CpuFeatures, CompileError> {
        match &self.features {
            Some(features) => Ok(features.clone()),
            None => Ok(CpuFeatures::native()?),
        }
    }
}

/// An artifact and how it came about.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The artifact.
    pub artifact: Artifact,
    /// Times, kernels, remarks.
    pub report: Report,
}

/// Why no artifact came out.
#[derive(Debug, Error)]
pub enum CompileError {
    /// A graph pass gave up.
    #[error(transparent)]
    Passes(#[from] PipelineError),
    /// No schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// No host code.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// No PTX.
    #[error("kernel @{kernel}: {error}")]
    Ptx {
        /// The kernel.
        kernel: String,
        /// Why.
        error: nvptx::Error,
    },
    /// The parts make no artifact.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A file cannot be written.
    #[error("{path}: {error}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
}

/// Compiles a module.
///
/// # Errors
/// What the stages find wrong with it; see [`CompileError`].
pub fn compile(module: &Module, options: &CompileOptions) -> Result<Compiled, CompileError> {
    compile_from(&Input::Module(module.clone()), options)
}

/// Compiles from any stage.
///
/// # Errors
/// As [`compile`].
pub fn compile_from(input: &Input, options: &CompileOptions) -> Result<Compiled, CompileError> {
    let start = Instant::now();
    let cache = options.cache.as_ref().map(Cache::new);
    let key = cache.as_ref().map(|_| cache::key(input, options, options.cpu_features().ok().as_ref()));
    // Whoever wants to see the stages wants them made.
    if let (Some(cache), Some(key)) = (&cache, &key)
        && options.dumps.is_empty()
        && let Some(artifact) = cache.read(key)
    {
        let mut report = Report::cached(&artifact);
        report.total = start.elapsed();
        return Ok(Compiled { artifact, report });
    }
    let mut session = Session { options, report: Report::default() };
    // Expressions are followed by recursion here and in LLVM: as deep as a model may make them.
    let pool = rayon::ThreadPoolBuilder::new().stack_size(STACK_BYTES).build();
    let artifact = match pool {
        Ok(pool) => pool.install(|| session.run(input))?,
        Err(_) => session.run(input)?,
    };
    let mut report = session.report;
    report.total = start.elapsed();
    let artifact = match (&cache, &key) {
        (Some(cache), Some(key)) => cache.keep(key, artifact),
        _ => artifact,
    };
    Ok(Compiled { artifact, report })
}

struct Session<'o> {
    options: &'o CompileOptions,
    report: Report,
}

impl Session<'_> {
    fn run(&mut self, input: &Input) -> Result<Artifact, CompileError> {
        let lowered = match input {
            Input::Module(module) => {
                let fused = self.passes(module)?;
                let scheduled = self.form(&fused)?;
                self.lower(&scheduled)?
            }
            Input::Scheduled(module) => self.lower(module)?,
            Input::Tiles { module, programs } => {
                let mut lowered = self.lower(module)?;
                input::replace(&mut lowered, programs)?;
                lowered
            }
        };
        self.generate(lowered)
    }

    fn passes(&mut self, module: &Module) -> Result<Module, CompileError> {
        let dumps = &self.options.dumps;
        dumps.module(Stage::Graph, "input", module)?;
        let mut module = module.clone();
        let mut context = Context::new(self.options.target);
        let mut failure = None;
        let start = Instant::now();
        let runs = self.options.passes.run(&mut module, &mut context, |run, module| {
            if dumps.after(run.pass)
                && let Err(error) = dumps.always(run.pass, "ir", &module.to_string())
            {
                failure.get_or_insert(error);
            }
        })?;
        if let Some(error) = failure {
            return Err(error);
        }
        for run in &runs {
            self.report.passes.push(StageTime { name: run.pass.to_string(), elapsed: run.elapsed });
        }
        self.report.stage("passes", start);
        self.report.remarks = context.remarks;
        dumps.module(Stage::Fused, "fused", &module)?;
        Ok(module)
    }

    fn form(&mut self, module: &Module) -> Result<Module, CompileError> {
        let start = Instant::now();
        let mut scheduled = module.clone();
        let mut library = Library::new(self.options.machine(), self.options.knobs.clone());
        for function in &mut scheduled.functions {
            let symbols = schedule::symbols_of(function);
            let formed = schedule::form(function, &symbols, &mut library)?;
            self.report.cuts.extend(formed.cuts);
            *function = formed.function;
        }
        self.report.stage("schedule", start);
        self.options.dumps.module(Stage::Schedule, "schedule", &scheduled)?;
        Ok(scheduled)
    }

    fn lower(&mut self, module: &Module) -> Result<Lowered, CompileError> {
        let start = Instant::now();
        let mut library = Library::new(self.options.machine(), self.options.knobs.clone());
        let lowered = schedule::lower(module, &mut library)?;
        self.report.stage("tile", start);
        let texts = lowered.programs.iter().map(|program| (program.name.as_str(), program.to_string()));
        self.options.dumps.kernels(Stage::Tile, "tile", texts)?;
        Ok(lowered)
    }

    fn generate(&mut self, lowered: Lowered) -> Result<Artifact, CompileError> {
        let start = Instant::now();
        let artifact = match self.options.target {
            Target::Host => {
                let features = self.options.cpu_features()?;
                code::host(lowered, features, &self.options.dumps, &mut self.report)?
            }
            Target::Cuda(chip) => code::ptx(lowered, chip, &self.options.dumps, &mut self.report)?,
        };
        self.report.stage("code", start);
        Ok(artifact)
    }
}

#[cfg(test)]
mod tests;
