//! From text to numbers on the host, and to PTX.

use std::path::PathBuf;

use tessera_ir::{Module, parse_module};
use tessera_runtime::{Artifact, Executable, KvCache, Session, TensorView, Weights, device};

use super::{CompileOptions, Dumps, Input, Stage, compile, compile_from};
use crate::graph::Pipeline;
use crate::target::Target;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn gpt2() -> Module {
    parse_module(&std::fs::read_to_string(root().join("models/ir/gpt2-kjv.ir")).unwrap()).unwrap()
}

/// A module small enough to compile often.
fn small() -> Module {
    parse_module(
        "module @small {
           param @w : tensor<8x12xf32>
           func @f(%x: tensor<Tx8xf32>) -> (tensor<Tx12xf32>) {
             %y = matmul(%x, @w) : tensor<Tx12xf32>
             %z = gelu(%y) : tensor<Tx12xf32>
             return %z
           }
         }",
    )
    .unwrap()
}

/// The largest distance from the logits that were computed elsewhere.
fn distance_from_fixture(artifact: &Artifact) -> f32 {
    let folder = root().join("tests/fixtures/gpt2-kjv");
    let expected: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("expected.json")).unwrap()).unwrap();
    let ids = expected["logits_input_ids"].as_array().unwrap();
    let ids: Vec<i32> = ids.iter().map(|id| id.as_i64().unwrap() as i32).collect();
    let file = std::fs::read(folder.join("logits.npy")).unwrap();
    // The format's version 1: eight bytes, the length of the header, the header, the elements.
    let header = usize::from(u16::from_le_bytes([file[8], file[9]]));
    let logits = file[10 + header..].chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));

    let device = device::open("host").unwrap();
    let weights = Weights::open(folder.join("model.safetensors")).unwrap();
    let executable = Executable::load_function(artifact, "step", &weights, &device).unwrap();
    let mut cache = KvCache::new(&executable, "cache", 8).unwrap();
    let mut session = Session::new(&executable);
    let mut found: Vec<f32> = Vec::new();
    // A long prompt, a short piece, then one token after another: every variant of the kernels.
    let lengths = [ids.len() - 9, 5, 1, 1, 1, 1];
    let mut start = 0;
    for length in lengths {
        let positions: Vec<i32> = (start as i32..(start + length) as i32).collect();
        let sequences = vec![0i32; length];
        let pages: Vec<i32> = (0..8).rev().collect();
        let rows: Vec<i32> = (0..length as i32).collect();
        let inputs = [
            ("tokens", TensorView::vector(&ids[start..start + length])),
            ("positions", TensorView::vector(&positions)),
            ("sequences", TensorView::vector(&sequences)),
            ("page_table", TensorView::new(&[1, 8], &pages).unwrap()),
            ("rows", TensorView::vector(&rows)),
        ];
        let outputs = session.run(&inputs, &mut [("cache", &mut cache)]).unwrap();
        found.extend_from_slice(outputs.at(0).unwrap().elements::<f32>().unwrap());
        start += length;
    }
    found.iter().zip(logits).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max)
}

#[test]
fn gpt2_gives_the_logits_that_were_computed_elsewhere() {
    let fused = compile(&gpt2(), &CompileOptions::new(Target::Host)).unwrap();
    assert!(fused.report.cuts.is_empty(), "{:?}", fused.report.cuts);
    let distance = distance_from_fixture(&fused.artifact);
    assert!(distance < 2e-4, "fused: {distance}");
}

#[test]
fn gpt2_without_fusion_gives_the_same() {
    let passes: Pipeline = "infer".parse().unwrap();
    let unfused = compile(&gpt2(), &CompileOptions { passes, ..CompileOptions::new(Target::Host) }).unwrap();
    let distance = distance_from_fixture(&unfused.artifact);
    assert!(distance < 2e-4, "unfused: {distance}");
}

#[test]
fn stages_are_dumped_edited_and_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let target: Target = "sm_80".parse().unwrap();
    let options = |dumps| CompileOptions { dumps, ..CompileOptions::new(target) };
    let dumps = Dumps::into_folder(folder.path()).with_passes(["fuse".to_string()]).with_stages(Stage::ALL);
    compile(&small(), &options(dumps)).unwrap();
    let mut names: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected =
        ["01.input.ir", "02.fuse.ir", "03.fused.ir", "04.schedule.ir", "05.tile", "06.mlir", "07.llvm", "08.ptx"];
    assert_eq!(names, expected);

    // A schedule changed by hand is the schedule that is compiled.
    let path = folder.path().join("04.schedule.ir");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("rows=64 columns=128"), "{text}");
    std::fs::write(&path, text.replace("rows=64 columns=128", "rows=32 columns=128")).unwrap();
    let again = compile_from(&Input::open(&path).unwrap(), &options(Dumps::default())).unwrap();
    let summaries: Vec<&String> = again.report.kernels.iter().flat_map(|kernel| &kernel.summary).collect();
    assert!(summaries.iter().any(|line| line.contains("rows=32 columns=128")), "{summaries:?}");

    // Tile programs by the name of their kernel.
    let scheduled = Input::open(&path).unwrap().with_tiles(folder.path().join("05.tile"));
    let error = compile_from(&scheduled.unwrap(), &options(Dumps::default())).unwrap_err().to_string();
    assert!(error.contains("no kernel of the module has this name"), "{error}");
    std::fs::write(&path, text).unwrap();
    let scheduled = Input::open(&path).unwrap().with_tiles(folder.path().join("05.tile")).unwrap();
    assert!(compile_from(&scheduled, &options(Dumps::default())).is_ok());
}

#[test]
fn what_was_compiled_before_comes_from_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let target: Target = "sm_80".parse().unwrap();
    let options = CompileOptions { cache: Some(folder.path().into()), ..CompileOptions::new(target) };
    let first = compile(&small(), &options).unwrap();
    let second = compile(&small(), &options).unwrap();
    assert!(!first.report.from_cache && second.report.from_cache);
    assert_eq!(first.artifact, second.artifact);
    let knobs = crate::schedule::Overrides::parse("matmul.rows=32").unwrap();
    assert!(!compile(&small(), &CompileOptions { knobs, ..options }).unwrap().report.from_cache);
}
