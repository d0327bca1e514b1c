//! Assembling PTX with NVIDIA's ptxas, where there is one.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::target::nvptx::assembler::{self, Resources};
use crate::target::{Chip, Target};

/// The chip of a name.
pub fn chip(name: &str) -> Chip {
    name.parse::<Target>().ok().and_then(Target::chip).unwrap_or_else(|| panic!("{name} is no chip"))
}

fn ptxas() -> Option<&'static PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND.get_or_init(|| assembler::find("ptxas")).as_ref()
}

/// Assembles a kernel. None where there is no ptxas.
///
/// # Panics
/// If ptxas refuses it, with its messages and the PTX.
pub fn assemble(name: &str, ptx: &str, chip_name: &str) -> Option<Resources> {
    let ptxas = ptxas()?;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, binary) = (folder.path().join("kernel.ptx"), folder.path().join("kernel.cubin"));
    std::fs::write(&source, ptx).expect("the temporary file takes the PTX");
    let resources = assembler::assemble(ptxas, &source, chip(chip_name), &binary);
    Some(resources.unwrap_or_else(|error| panic!("{name}: {error}\n{ptx}")))
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

/// Disassembles a kernel and finds its innermost loop with the most tensor-core instructions. None where there is no ptxas or no
/// nvdisasm.
pub fn main_loop(ptx: &str, chip_name: &str) -> Option<MainLoop> {
    let (ptxas, disassembler) = (ptxas()?, assembler::find("nvdisasm")?);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, binary) = (folder.path().join("kernel.ptx"), folder.path().join("kernel.cubin"));
    std::fs::write(&source, ptx).expect("the temporary file takes the PTX");
    assembler::assemble(ptxas, &source, chip(chip_name), &binary).unwrap_or_else(|error| panic!("{error}"));
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
