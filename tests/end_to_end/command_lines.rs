//! The fixture from its folder to numbers as a user brings it there: `tessera export`, `tesserac compile`, then the runtime.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use npyz::WriterBuilder;
use tessera_models::Model;
use tessera_models::engine::LoadedModel;
use tessera_models::generation::{Limits, Request, Sampling, generate, pages_for};
use tessera_runtime::{Artifact, device};

use crate::{fixture, take_turn};

/// The two command lines, which cargo builds as it built this test; where it has built them already it only says where they are.
fn programs() -> &'static [(String, PathBuf)] {
    static PROGRAMS: OnceLock<Vec<(String, PathBuf)>> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--package", "tessera", "--package", "tesserac", "--message-format", "json", "--quiet"]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let messages = String::from_utf8(output.stdout).unwrap();
        let messages = messages.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        messages
            .filter_map(|message| {
                let executable = message["executable"].as_str()?;
                Some((message["target"]["name"].as_str()?.to_owned(), executable.into()))
            })
            .collect()
    })
}

/// A folder that commands run in.
pub struct Workplace(tempfile::TempDir);

impl Workplace {
    /// A folder of its own.
    pub fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a command that must succeed; gives what it says. Emulated GPUs are those of the driver that cargo has built beside this test.
    pub fn run<T: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = T>) -> Vec<u8> {
        let (_, path) = programs().iter().find(|(name, _)| name == program).unwrap();
        let mut command = Command::new(path);
        command.current_dir(self.0.path()).env("TESSERA_CACHE", self.path("cache")).args(arguments);
        command.env("TESSERA_LIBCUDA", std::env::current_exe().unwrap().with_file_name("libcuda.so"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// The fixture's artifact, by both command lines.
    fn compiled() -> Self {
        let workplace = Self::empty();
        let folder = fixture::GPT2.folder();
        workplace.run(
            "tessera",
            ["export".as_ref(), "--model".as_ref(), folder.as_os_str(), "-o".as_ref(), "gpt2.ir".as_ref()],
        );
        workplace.run("tesserac", ["compile", "gpt2.ir", "-o", "gpt2.tsr", "--target", "host"]);
        workplace
    }

    fn write_npy(&self, name: &str, shape: &[u64], values: impl IntoIterator<Item = i32>) {
        let file = std::fs::File::create(self.path(name)).unwrap();
        let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(file).begin_nd().unwrap();
        writer.extend(values).unwrap();
        writer.finish().unwrap();
    }
}

#[test]
fn an_artifact_of_the_command_lines_gives_the_logits() {
    let _turn = take_turn();
    let workplace = Workplace::compiled();
    let tokens = fixture::GPT2.sequence();
    let count = tokens.len() as u64;
    let pages = count.div_ceil(16);
    let counted = || 0..count as i32;
    workplace.write_npy("tokens.npy", &[count], tokens.iter().map(|id| *id as i32));
    workplace.write_npy("positions.npy", &[count], counted());
    workplace.write_npy("sequences.npy", &[count], counted().map(|_| 0));
    workplace.write_npy("rows.npy", &[count], counted());
    workplace.write_npy("page_table.npy", &[1, pages], (0..pages as i32).rev());
    let mut arguments = vec!["run".to_owned(), "gpt2.tsr".to_owned(), "--function".to_owned(), "step".to_owned()];
    for input in ["tokens", "positions", "sequences", "rows", "page_table"] {
        arguments.extend(["--input".to_owned(), format!("{input}={input}.npy")]);
    }
    arguments.extend(["--output".to_owned(), "logits=logits.npy".to_owned(), "--weights".to_owned()]);
    arguments.push(fixture::GPT2.folder().join("model.safetensors").to_str().unwrap().to_owned());
    workplace.run("tesserac", arguments);
    fixture::GPT2.check_logits(&fixture::read_npy(&workplace.path("logits.npy")));
}

#[test]
fn an_artifact_of_the_command_lines_generates_what_transformers_does() {
    let _turn = take_turn();
    let workplace = Workplace::compiled();
    let artifact = Artifact::open(workplace.path("gpt2.tsr")).unwrap();
    let Model { folder, weights, .. } = Model::open(&fixture::GPT2.folder()).unwrap();
    let host = device::open("host").unwrap();
    let loaded = LoadedModel::load(&folder.config, &artifact, &weights, &host).unwrap();
    for continuation in fixture::GPT2.greedy() {
        let sampling = Sampling { max_new_tokens: continuation.ids.len(), ..Sampling::default() };
        let request = [Request { prompt: continuation.prompt.clone(), sampling }];
        let pages = pages_for(&request, folder.config.context() as usize, loaded.caches(), &Limits::default());
        let mut engine = loaded.engine_with(&pages).unwrap();
        let (found, _) = generate(&mut engine, &request, Limits::default(), &mut |_, _| ()).unwrap();
        continuation.check(&found[0].ids, "an artifact of the command lines");
    }
}
