//! Objects into one shared object.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::Error;

/// Linkers by name, fastest first.
const LINKERS: [&str; 3] = ["ld.lld", "ld.lld-22", "ld"];

/// Links position-independent objects into a shared object that needs no library.
///
/// # Errors
/// If there is no linker, or it fails: a symbol that no object defines is refused.
pub(super) fn link(objects: &[Vec<u8>]) -> Result<Vec<u8>, Error> {
    let linker = find_linker()?;
    let folder = tempfile::Builder::new()
        .prefix("tessera-link-")
        .tempdir()
        .map_err(|error| Error::Link(format!("no temporary folder for objects: {error}")))?;
    let file_error = |path: &Path, error: std::io::Error| Error::Link(format!("{}: {error}", path.display()));
    let output = folder.path().join("kernels.so");
    let mut command = Command::new(&linker);
    command.args(["-shared", "-z", "defs", "-z", "noexecstack", "--hash-style=gnu", "-o"]).arg(&output);
    for (position, object) in objects.iter().enumerate() {
        let path = folder.path().join(format!("{position}.o"));
        fs::write(&path, object).map_err(|error| file_error(&path, error))?;
        command.arg(path);
    }
    let result =
        command.output().map_err(|error| Error::Link(format!("{} does not start: {error}", linker.display())))?;
    if !result.status.success() {
        let message = String::from_utf8_lossy(&result.stderr);
        return Err(Error::Link(format!("{} failed: {}", linker.display(), message.trim())));
    }
    fs::read(&output).map_err(|error| file_error(&output, error))
}

/// `TESSERA_LD`, else the first of [`LINKERS`] on the path or beside Debian's LLVM.
fn find_linker() -> Result<PathBuf, Error> {
    if let Some(path) = std::env::var_os("TESSERA_LD") {
        return Ok(path.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).chain([PathBuf::from("/usr/lib/llvm-22/bin")]).collect();
    LINKERS
        .iter()
        .find_map(|name| folders.iter().map(|folder| folder.join(name)).find(|candidate| candidate.is_file()))
        .ok_or_else(|| {
            Error::Link(format!(
                "no linker: none of {} is on the path; install lld (`apt install lld-22`) or binutils, or name one in TESSERA_LD",
                LINKERS.join(", ")
            ))
        })
}
