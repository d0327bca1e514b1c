//! NVIDIA's assembler, where it is installed: a check of PTX, and of the resources that its kernels take. Compiling needs none of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

use crate::target::Chip;

/// What ptxas says about a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes spilled to local memory, stores and loads together.
    pub spills: u32,
    /// Bytes of local memory.
    pub stack: u32,
}

impl Resources {
    /// Whether everything that a thread computes with stays in registers.
    pub fn fits_registers(self) -> bool {
        self.spills == 0 && self.stack == 0
    }

    /// Reads what `ptxas -v` says about a file of one kernel.
    fn parse(messages: &str) -> Option<Self> {
        let number = |suffix: &str| {
            let end = messages.find(suffix)?;
            messages[..end].rsplit(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok()
        };
        Some(Self {
            registers: number(" registers")?,
            spills: number(" bytes spill stores")? + number(" bytes spill loads")?,
            stack: number(" bytes stack frame")?,
        })
    }
}

/// Why PTX was not assembled.
#[derive(Debug, Error)]
pub enum AssembleError {
    /// ptxas did not start.
    #[error("cannot run {}: {error}", ptxas.display())]
    Run {
        /// The program.
        ptxas: PathBuf,
        /// Why not.
        #[source]
        error: std::io::Error,
    },
    /// ptxas refused the file, or said something of it that is not understood.
    #[error("ptxas on {} for {chip}: {messages}", ptx.display())]
    Ptx {
        /// The file.
        ptx: PathBuf,
        /// The chip.
        chip: Chip,
        /// What ptxas said.
        messages: String,
    },
}

/// A tool of NVIDIA's (`ptxas`, `nvdisasm`): the one beside what `TESSERA_PTXAS` names, whether it is there or not; otherwise one on the
/// path, or in a `.venv` of this folder or one around it, where NVIDIA's Python packages lie.
pub fn find(tool: &str) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("TESSERA_PTXAS").filter(|name| !name.is_empty()) {
        return Some(Path::new(&named).with_file_name(tool));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(tool));
    let here = std::env::current_dir().unwrap_or_default();
    let environments = here.ancestors().flat_map(|folder| in_virtual_environment(&folder.join(".venv"), tool));
    on_path.chain(environments).find(|path| path.is_file())
}

/// The packages put it at `nvidia/*/bin`.
fn in_virtual_environment(environment: &Path, tool: &str) -> Vec<PathBuf> {
    let folders = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    folders(environment.join("lib"))
        .flat_map(|python| folders(python.join("site-packages/nvidia")))
        .map(|package| package.join("bin").join(tool))
        .collect()
}

/// Assembles a `.ptx` file of one kernel into a `.cubin` file.
///
/// # Errors
/// If ptxas does not run or refuses the file, with its messages.
pub fn assemble(ptxas: &Path, ptx: &Path, chip: Chip, cubin: &Path) -> Result<Resources, AssembleError> {
    let mut command = Command::new(ptxas);
    command.arg("-v").arg(format!("-arch={chip}")).arg(ptx).arg("-o").arg(cubin);
    let output = command.output().map_err(|error| AssembleError::Run { ptxas: ptxas.to_owned(), error })?;
    let messages = String::from_utf8_lossy(&output.stderr);
    let resources = output.status.success().then(|| Resources::parse(&messages)).flatten();
    resources.ok_or_else(|| {
        let messages = messages.trim_end().to_owned();
        AssembleError::Ptx { ptx: ptx.to_owned(), chip, messages }
    })
}
