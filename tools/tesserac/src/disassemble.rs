//! Machine code of NVIDIA GPUs, by NVIDIA's tools where they are installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use miette::{IntoDiagnostic, Result, WrapErr, miette};
use tessera_compiler::target::Chip;

/// Assembles a `.ptx` file and puts a `.sass` file in its place.
pub fn disassemble(ptx: &Path, chip: Chip) -> Result<()> {
    let ptxas = find("ptxas").ok_or_else(|| missing("ptxas"))?;
    let nvdisasm = find("nvdisasm").ok_or_else(|| missing("nvdisasm"))?;
    let (cubin, sass) = (ptx.with_extension("cubin"), ptx.with_extension("sass"));
    run(Command::new(ptxas).arg(format!("-arch={chip}")).arg(ptx).arg("-o").arg(&cubin))?;
    let text = run(Command::new(nvdisasm).arg("-c").arg(&cubin))?;
    std::fs::write(&sass, text).into_diagnostic()?;
    for used in [ptx, &cubin] {
        std::fs::remove_file(used).into_diagnostic()?;
    }
    Ok(())
}

/// A tool of NVIDIA's: beside `$TESSERA_PTXAS`, on the path, or where `make test` installs it.
fn find(tool: &str) -> Option<PathBuf> {
    let beside =
        std::env::var_os("TESSERA_PTXAS").map(PathBuf::from).and_then(|ptxas| Some(ptxas.parent()?.join(tool)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(tool));
    beside.into_iter().chain(on_path).chain(in_virtual_environment(tool)).find(|path| path.is_file())
}

/// The tool in a `.venv` here: the packages of NVIDIA put it at `nvidia/*/bin`.
fn in_virtual_environment(tool: &str) -> Vec<PathBuf> {
    let folders = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    folders(PathBuf::from(".venv/lib"))
        .flat_map(|python| folders(python.join("site-packages/nvidia")))
        .map(|package| package.join("bin").join(tool))
        .collect()
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
