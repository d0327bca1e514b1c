//! Machine code of NVIDIA GPUs, by NVIDIA's tools where they are installed.

use std::path::Path;
use std::process::Command;

use miette::{IntoDiagnostic, Result, WrapErr, miette};
use tessera_compiler::target::Chip;
use tessera_compiler::target::nvptx::assembler::{assemble, find};

/// Assembles a `.ptx` file and puts a `.sass` file in its place.
pub fn disassemble(ptx: &Path, chip: Chip) -> Result<()> {
    let ptxas = find("ptxas").ok_or_else(|| missing("ptxas"))?;
    let nvdisasm = find("nvdisasm").ok_or_else(|| missing("nvdisasm"))?;
    let (cubin, sass) = (ptx.with_extension("cubin"), ptx.with_extension("sass"));
    assemble(&ptxas, ptx, chip, &cubin).into_diagnostic()?;
    let text = run(Command::new(nvdisasm).arg("-c").arg(&cubin))?;
    std::fs::write(&sass, text).into_diagnostic()?;
    for used in [ptx, &cubin] {
        std::fs::remove_file(used).into_diagnostic()?;
    }
    Ok(())
}

fn missing(tool: &str) -> miette::Report {
    miette!(
        help = "`make setup` installs it into .venv (PyPI: nvidia-cuda-nvcc, nvidia-cuda-nvdisasm)",
        "--emit sass needs {tool}, which is not on the path"
    )
}

/// Runs a tool and gives its output.
fn run(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().into_diagnostic().wrap_err_with(|| format!("cannot run {name}"))?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(miette!("{name} failed:\n{}", String::from_utf8_lossy(&output.stderr).trim_end())),
    }
}
