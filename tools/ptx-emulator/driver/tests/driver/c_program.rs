//! A C program against NVIDIA's `cuda.h`, linked with the library.

use std::path::PathBuf;
use std::process::Command;

use crate::{library_folder, python, root};

/// Where the Python package of CUDA's headers has them.
fn headers() -> Option<PathBuf> {
    let python = python()?;
    let installed = python.parent()?.parent()?.join("lib").read_dir().ok()?;
    let mut folders = installed.flatten().map(|entry| entry.path().join("site-packages/nvidia/cu13/include"));
    folders.find(|folder| folder.join("cuda.h").exists())
}

#[test]
fn a_c_program_runs() {
    let Some(headers) = headers() else {
        eprintln!("not run: there is no cuda.h");
        return;
    };
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
