//! A C program against NVIDIA's `cuda.h`, linked with the library.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{library_folder, not_run, python, root};

/// Where the Python package of CUDA's headers has them, if it is installed.
fn headers() -> Option<PathBuf> {
    let python = python()?;
    let installed = python.parent().and_then(Path::parent).and_then(|folder| folder.join("lib").read_dir().ok());
    let mut folders =
        installed.into_iter().flatten().flatten().map(|entry| entry.path().join("site-packages/nvidia/cu13/include"));
    let found = folders.find(|folder| folder.join("cuda.h").exists());
    if found.is_none() {
        not_run(&format!("{} has no package with cuda.h", python.display()));
    }
    found
}

#[test]
fn a_c_program_runs() {
    let Some(headers) = headers() else { return };
    let folder = library_folder();
    let program = folder.path().join("program");
    let source = root().join("tools/ptx-emulator/driver/tests/driver/program.c");
    let compiled = Command::new("cc")
        .args(["-O1", "-Wall", "-Werror", "-Wno-unused-variable", "-o"])
        .arg(&program)
        .arg(source)
        .arg("-I")
        .arg(headers)
        .arg("-L")
        .arg(folder.path())
        .args(["-lcuda", "-lm"])
        .status()
        .unwrap();
    assert!(compiled.success());
    let output = Command::new(&program)
        .env("LD_LIBRARY_PATH", folder.path())
        .env("PTX_EMULATOR_CHIP", "sm_90a")
        .env("PTX_EMULATOR_DEVICES", "2")
        .env("PTX_EMULATOR_MEMORY", "2")
        .output()
        .unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
    // What is refused is said on standard error: the reason, and once each what is not there.
    assert!(complained.contains("load the PTX text instead"), "{complained}");
    assert_eq!(complained.matches("cuArrayCreate_v2 is not there").count(), 1, "{complained}");
}
