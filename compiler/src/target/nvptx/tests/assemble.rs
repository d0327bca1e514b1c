//! Assembling PTX with NVIDIA's ptxas, where there is one.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

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
pub fn assemble(name: &str, ptx: &str, chip: &str) -> Option<Report> {
    let ptxas = ptxas()?;
    let mut source = tempfile::Builder::new().suffix(".ptx").tempfile().expect("a temporary file");
    source.write_all(ptx.as_bytes()).expect("the temporary file takes the PTX");
    let output = Command::new(ptxas)
        .args(["-v", "-arch", chip, "-o", "/dev/null"])
        .arg(source.path())
        .output()
        .expect("ptxas runs");
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{chip}: ptxas refuses {name}:\n{messages}\n{ptx}");
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

/// The instructions of one iteration of a kernel's tensor-core loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MainLoop {
    /// Tensor-core instructions.
    pub tensor: usize,
    /// All others.
    pub others: usize,
}

impl MainLoop {
    /// Other instructions for each tensor-core one.
    pub fn others_per_tensor(self) -> f64 {
        self.others as f64 / self.tensor as f64
    }
}

/// Disassembles a kernel and finds its innermost loop with the most tensor-core instructions. None where there is no ptxas with an nvdisasm
/// beside it.
pub fn main_loop(ptx: &str, chip: &str) -> Option<MainLoop> {
    let ptxas = ptxas()?;
    let disassembler = ptxas.with_file_name("nvdisasm");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, binary) = (folder.path().join("kernel.ptx"), folder.path().join("kernel.cubin"));
    std::fs::write(&source, ptx).expect("the temporary folder takes the PTX");
    let assembled = Command::new(ptxas).args(["-arch", chip, "-o"]).arg(&binary).arg(&source).status();
    assert!(assembled.is_ok_and(|status| status.success()), "ptxas refuses the kernel");
    let output = Command::new(disassembler).arg("-c").arg(&binary).output().ok()?;
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    // Instructions are numbered; a label is the number of the instruction after it.
    let mut labels = std::collections::HashMap::new();
    let mut instructions = Vec::new();
    for line in listing.lines().map(str::trim) {
        if let Some(label) = line.strip_suffix(':').filter(|label| label.starts_with(".L_x_")) {
            labels.insert(label.to_owned(), instructions.len());
        } else if let Some((address, instruction)) = line.split_once("*/").filter(|(start, _)| start.starts_with("/*"))
            && address[2..].chars().all(|digit| digit.is_ascii_hexdigit())
        {
            instructions.push(instruction.trim().to_owned());
        }
    }
    let tensor = |range: &[String]| range.iter().filter(|instruction| instruction.contains("HMMA.")).count();
    let loops = instructions.iter().enumerate().filter_map(|(end, instruction)| {
        let label = instruction.contains("BRA").then(|| instruction.split_once("`(")?.1.split_once(')')).flatten()?.0;
        let start = *labels.get(label)?;
        (start < end).then(|| &instructions[start..=end])
    });
    let body = loops.max_by_key(|body| (tensor(body), usize::MAX - body.len()))?;
    Some(MainLoop { tensor: tensor(body), others: body.len() - tensor(body) })
}
