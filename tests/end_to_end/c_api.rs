//! The fixture through the C API: the runtime's example program, linked with the shared library.

use std::path::Path;
use std::process::Command;

use tessera_compiler::driver::{CompileOptions, compile};
use tessera_compiler::target::Target;
use tessera_models::Model;

use crate::{fixture, take_turn};

#[test]
fn the_c_example_generates_what_transformers_does() {
    let _turn = take_turn();
    let model = Model::open(&fixture::GPT2.folder()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (artifact, program) = (folder.path().join("gpt2.tsr"), folder.path().join("generate"));
    compile(&model.module, &CompileOptions::new(Target::Host)).unwrap().artifact.write(&artifact).unwrap();

    let runtime = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime");
    // Cargo puts the libraries of a dependency beside the test that depends on it.
    let libraries = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let mut compiler = Command::new("cc");
    compiler.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-I"]).arg(runtime.join("include"));
    compiler.arg(runtime.join("examples/generate.c")).arg("-L").arg(&libraries).arg("-ltessera");
    let output = compiler.arg("-o").arg(&program).output().expect("cc is needed for this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    for continuation in fixture::GPT2.greedy() {
        let mut command = Command::new(&program);
        command.env("LD_LIBRARY_PATH", &libraries).arg(&artifact).arg(fixture::GPT2.folder().join("model.safetensors"));
        command.arg("host").arg(continuation.ids.len().to_string());
        let output = command.args(continuation.prompt.iter().map(u32::to_string)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let found: Vec<u32> = text.split_whitespace().map(|id| id.parse().unwrap()).collect();
        continuation.check(&found, "the C example");
    }
}
