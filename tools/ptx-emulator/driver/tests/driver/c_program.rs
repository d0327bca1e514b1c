//! A C program against NVIDIA's `cuda.h`, linked with the library.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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

/// Compiles a program, and runs it for each list of arguments; nothing where there is no `cuda.h`.
fn run(source: &str, runs: &[&[&str]]) -> Option<Vec<Output>> {
    let headers = headers()?;
    let folder = library_folder();
    let program = folder.path().join("program");
    let compiled = Command::new("cc")
        .args(["-O1", "-Wall", "-Werror", "-Wno-unused-variable", "-o"])
        .arg(&program)
        .arg(root().join("tools/ptx-emulator/driver/tests/driver").join(source))
        .arg("-I")
        .arg(headers)
        .arg("-L")
        .arg(folder.path())
        .args(["-lcuda", "-lm"])
        .status()
        .unwrap();
    assert!(compiled.success());
    let outputs = runs.iter().map(|arguments| {
        let mut command = Command::new(&program);
        command.args(*arguments).env("LD_LIBRARY_PATH", folder.path());
        let variables = [("CHIP", "sm_90a"), ("DEVICES", "2"), ("MEMORY", "2")];
        command.envs(variables.map(|(name, value)| (format!("PTX_EMULATOR_{name}"), value))).output().unwrap()
    });
    Some(outputs.collect())
}

/// What a program says, and what the driver does; the program has found nothing that differs.
fn said(output: &Output) -> String {
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
    complained.into_owned()
}

#[test]
fn a_c_program_runs() {
    let Some(outputs) = run("program.c", &[&[]]) else { return };
    let complained = said(&outputs[0]);
    // What is refused is said on standard error: the reason, and once each what is not there.
    assert!(complained.contains("load the PTX text instead"), "{complained}");
    assert_eq!(complained.matches("cuArrayCreate_v2 is not there").count(), 1, "{complained}");
}

#[test]
fn streams_go_on_while_kernels_of_others_wait() {
    let Some(outputs) = run("streams.c", &[&[], &["deadlock"]]) else { return };
    assert!(!said(&outputs[0]).contains("deadlock"));
    let complained = said(&outputs[1]);
    assert_eq!(complained.matches("deadlock: no thread can go on").count(), 2, "{complained}");
}
