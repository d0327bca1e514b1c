//! Dumps: what every stage made, as numbered files in one folder.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tessera_ir::Module;

use super::CompileError;

/// A stage that can be dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The module as it came in.
    Graph,
    /// The module after all passes.
    Fused,
    /// The module cut into kernels, each with its schedule.
    Schedule,
    /// A tile program for each kernel.
    Tile,
    /// MLIR.
    Mlir,
    /// LLVM IR, optimized.
    Llvm,
    /// Assembly language of the host.
    Assembly,
    /// PTX.
    Ptx,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Stage; 8] = [
        Stage::Graph,
        Stage::Fused,
        Stage::Schedule,
        Stage::Tile,
        Stage::Mlir,
        Stage::Llvm,
        Stage::Assembly,
        Stage::Ptx,
    ];

    /// The name that `--emit` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Graph => "graph",
            Stage::Fused => "fused",
            Stage::Schedule => "schedule",
            Stage::Tile => "tile",
            Stage::Mlir => "mlir",
            Stage::Llvm => "llvm",
            Stage::Assembly => "assembly",
            Stage::Ptx => "ptx",
        }
    }
}

/// What is dumped, and where to.
///
/// Modules become `NN.STAGE.ir`; what there is one of for each kernel becomes a folder `NN.STAGE` of files `KERNEL.EXTENSION`.
#[derive(Clone, Debug, Default)]
pub struct Dumps {
    /// The folder; nothing is dumped without one.
    pub folder: Option<PathBuf>,
    /// The stages; all if none is named.
    pub stages: Vec<Stage>,
    /// Passes after which the module is dumped.
    pub after_passes: Vec<String>,
    next: Arc<AtomicU32>,
}

impl Dumps {
    /// All stages, into a folder.
    pub fn into_folder(folder: impl Into<PathBuf>) -> Dumps {
        Dumps { folder: Some(folder.into()), ..Dumps::default() }
    }

    /// These stages alone.
    pub fn with_stages(mut self, stages: impl IntoIterator<Item = Stage>) -> Dumps {
        self.stages = stages.into_iter().collect();
        self
    }

    /// The module after these passes as well.
    pub fn with_passes(mut self, passes: impl IntoIterator<Item = String>) -> Dumps {
        self.after_passes = passes.into_iter().collect();
        self
    }

    /// Whether nothing is dumped.
    pub fn is_empty(&self) -> bool {
        self.folder.is_none()
    }

    /// Whether a stage is dumped.
    pub fn wants(&self, stage: Stage) -> bool {
        let only_passes = self.stages.is_empty() && !self.after_passes.is_empty();
        self.folder.is_some() && !only_passes && (self.stages.is_empty() || self.stages.contains(&stage))
    }

    /// Whether the module is dumped after a pass.
    pub fn after(&self, pass: &str) -> bool {
        self.folder.is_some() && self.after_passes.iter().any(|name| name == pass)
    }

    /// Dumps a module.
    pub(super) fn module(&self, stage: Stage, name: &str, module: &Module) -> Result<(), CompileError> {
        if !self.wants(stage) {
            return Ok(());
        }
        self.always(name, "ir", &module.to_string())
    }

    /// Dumps a text whatever stages are wanted.
    pub(super) fn always(&self, name: &str, extension: &str, text: &str) -> Result<(), CompileError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let path = folder.join(format!("{}.{name}.{extension}", self.number()));
        write(path, text)
    }

    /// Dumps a text for each kernel.
    pub(super) fn kernels<'t>(
        &self,
        stage: Stage,
        extension: &str,
        texts: impl IntoIterator<Item = (&'t str, String)>,
    ) -> Result<(), CompileError> {
        let Some(folder) = self.folder.as_ref().filter(|_| self.wants(stage)) else { return Ok(()) };
        let folder = folder.join(format!("{}.{}", self.number(), stage.name()));
        texts.into_iter().try_for_each(|(name, text)| write(folder.join(format!("{name}.{extension}")), &text))
    }

    fn number(&self) -> String {
        format!("{:02}", self.next.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

fn write(path: PathBuf, text: &str) -> Result<(), CompileError> {
    let folder = path.parent().map(std::fs::create_dir_all);
    folder
        .unwrap_or(Ok(()))
        .and_then(|()| std::fs::write(&path, text))
        .map_err(|error| CompileError::File { path, error })
}
