//! C programs, compiled by `cc` against `tessera.h`, linked with the shared and the static library, and run.

#[path = "../../tests/runtime/fixture.rs"]
#[allow(dead_code, reason = "the runtime's own tests use the rest of it")]
mod fixture;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tessera_runtime::plan::ElementType;

use fixture::*;

/// How a program is linked.
#[derive(Clone, Copy)]
enum Linking {
    Shared,
    Static,
}

/// The folder that cargo has put the libraries in: that of this program, `target/PROFILE/deps`.
fn libraries() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_path_buf()
}

/// Compiles a C program of this crate.
fn compile(source: &str, linking: Linking, folder: &Path) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = folder.join("program");
    let mut command = Command::new("cc");
    command.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-I"]).arg(here.join("../include"));
    command.arg(here.join(source)).arg("-o").arg(&program);
    match linking {
        Linking::Shared => command.arg("-L").arg(libraries()).arg("-ltessera"),
        Linking::Static => command.arg(libraries().join("libtessera.a")).args(["-lpthread", "-ldl", "-lm", "-lgcc_s"]),
    };
    let output = command.output().expect("cc is needed for these tests");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

fn run(program: &Path, arguments: &[&Path]) -> Output {
    Command::new(program).args(arguments).env("LD_LIBRARY_PATH", libraries()).output().unwrap()
}

fn lines<T: std::str::FromStr>(output: &Output) -> Vec<T>
where
    T::Err: std::fmt::Debug,
{
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(|line| line.parse().unwrap()).collect()
}

fn write_linear_weights(path: &Path) {
    let weights = linear_weights();
    let tensors = weights.iter().map(|(name, weight)| {
        let shape = weight.shape.iter().map(|size| *size as usize).collect();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, weight.bytes.as_slice());
        (name.to_string(), view.unwrap())
    });
    safetensors::tensor::serialize_to_file(tensors, None, path).unwrap();
}

#[test]
fn the_api_keeps_its_promises() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name| folder.path().join(name);
    let (linear, weights, step) = (path("linear.tsr"), path("model.safetensors"), path("step.tsr"));
    artifact(linear_plan()).write(&linear).unwrap();
    artifact(step_plan()).write(&step).unwrap();
    write_linear_weights(&weights);
    let x: Vec<f32> = (0..48).map(|value| value as f32).collect();
    for linking in [Linking::Shared, Linking::Static] {
        let program = compile("tests/checks.c", linking, folder.path());
        let output = run(&program, &[&linear, &weights, &weights, &step]);
        assert_eq!(lines::<f32>(&output), linear_reference(&x));
    }
}

#[test]
fn the_example_generates() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name| folder.path().join(name);
    let (step, weights) = (path("step.tsr"), path("model.safetensors"));
    artifact(step_plan()).write(&step).unwrap();
    write_linear_weights(&weights);
    let program = compile("../examples/generate.c", Linking::Shared, folder.path());
    let arguments = ["host", "20", "1", "2", "3", "4", "5", "6"].map(Path::new);
    let output = run(&program, &[&[step.as_path(), weights.as_path()], &arguments[..]].concat());
    assert_eq!(lines::<i32>(&output), step_reference(&[1, 2, 3, 4, 5, 6], 20));
    let output = run(&program, &[&[weights.as_path(), weights.as_path()], &arguments[..]].concat());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && message.contains("generate: "), "{message}");
}

/// The header's numbers are the runtime's.
#[test]
fn the_header_numbers_element_types_as_the_runtime_does() {
    let header = include_str!("../../include/tessera.h");
    for (number, element) in ElementType::all().enumerate() {
        let entry = format!("    TESSERA_{} = {number}", element.name().to_uppercase());
        assert!(header.lines().any(|line| line.trim_end_matches(',') == entry), "{entry}");
    }
}
