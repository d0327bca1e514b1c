//! Assembling PTX with NVIDIA's ptxas, where there is one.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::target::nvptx::PtxKernel;
use crate::target::{Chip, Target};

/// What ptxas says about a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes spilled to local memory, stores and loads together.
    pub spills: u32,
    /// Bytes of local memory.
    pub stack: u32,
}

/// The chip of a name.
pub fn chip(name: &str) -> Chip {
    name.parse::<Target>().ok().and_then(Target::chip).unwrap_or_else(|| panic!("{name} is no chip"))
}

/// `TESSERA_PTXAS`, the one on the path, or the one that `make test` installs.
fn ptxas() -> Option<&'static PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            if let Some(path) = std::env::var_os("TESSERA_PTXAS") {
                return Some(path.into());
            }
            if Command::new("ptxas").arg("--version").output().is_ok_and(|output| output.status.success()) {
                return Some("ptxas".into());
            }
            let libraries = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.venv/lib");
            std::fs::read_dir(libraries)
                .ok()?
                .flatten()
                .map(|python| python.path().join("site-packages/nvidia/cu13/bin/ptxas"))
                .find(|path| path.exists())
        })
        .as_ref()
}

/// Assembles a kernel. None where there is no ptxas.
///
/// # Panics
/// If ptxas refuses it, with its messages and the PTX.
pub fn assemble(kernel: &PtxKernel, chip: &str) -> Option<Report> {
    let ptxas = ptxas()?;
    let mut source = tempfile::Builder::new().suffix(".ptx").tempfile().expect("a temporary file");
    source.write_all(kernel.ptx.as_bytes()).expect("the temporary file takes the PTX");
    let output = Command::new(ptxas)
        .args(["-v", "-arch", chip, "-o", "/dev/null"])
        .arg(source.path())
        .output()
        .expect("ptxas runs");
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{chip}: ptxas refuses {}:\n{messages}\n{}", kernel.entry, kernel.ptx);
    let number = |suffix: &str| {
        let end = messages.find(suffix)?;
        messages[..end].rsplit(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok()
    };
    Some(Report {
        registers: number(" registers").unwrap_or(0),
        spills: number(" bytes spill stores").unwrap_or(0) + number(" bytes spill loads").unwrap_or(0),
        stack: number(" bytes stack frame").unwrap_or(0),
    })
}
