//! `examples/generate.rs`, run.

use std::path::PathBuf;
use std::process::Command;

use super::fixture::*;

/// The example's program, built beside this one; cargo has done so unless it was told to build this test alone.
fn example() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let path = program.parent().unwrap().with_file_name("examples").join("generate");
    if !path.exists() {
        let build = ["build", "--quiet", "--package", "tessera-runtime", "--example", "generate"];
        assert!(Command::new(env!("CARGO")).args(build).status().unwrap().success());
    }
    path
}

#[test]
fn the_example_generates() {
    let folder = tempfile::tempdir().unwrap();
    let (model, weights) = (folder.path().join("model.tsr"), folder.path().join("model.safetensors"));
    artifact(step_plan()).write(&model).unwrap();
    let none: [(&str, safetensors::tensor::TensorView<'_>); 0] = [];
    safetensors::tensor::serialize_to_file(none, None, &weights).unwrap();
    let run = |prompt| Command::new(example()).args([&model, &weights]).args([prompt, "20"]).output().unwrap();
    let output = run("1,2,3,4,5,6");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let tokens: Vec<i32> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(tokens, step_reference(&[1, 2, 3, 4, 5, 6], 20));
    assert!(!run("1,x").status.success());
}
