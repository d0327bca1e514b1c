//! From text to numbers on the host.

use tessera_ir::parse_module;
use tessera_runtime::{Executable, KvCache, Session, TensorView, Weights, device};

use super::{CompileOptions, compile};
use crate::target::Target;

#[test]
fn gpt2() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let folder = std::env::var("FIXTURE").unwrap();
    let module = parse_module(&std::fs::read_to_string(format!("{root}/models/ir/gpt2-kjv.ir")).unwrap()).unwrap();
    let mut options = CompileOptions::new(Target::Host);
    if std::env::var("UNFUSED").is_ok() {
        options.passes = "infer".parse().unwrap();
    }
    if let Ok(folder) = std::env::var("DUMP") {
        options.dumps = super::Dumps::into_folder(folder);
    }
    let compiled = compile(&module, &options).unwrap_or_else(|error| panic!("{error}"));
    println!("{}", compiled.report);
    for cut in &compiled.report.cuts {
        println!("cut: {cut}");
    }
    for kernel in &compiled.report.kernels {
        println!("{}: {:?} x{}", kernel.name, kernel.summary, kernel.launches);
    }
    let device = device::open("host").unwrap();
    let weights = Weights::open(format!("{folder}/model.safetensors")).unwrap();
    let executable = Executable::load_function(&compiled.artifact, "step", &weights, &device).unwrap();
    let expected: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(format!("{folder}/expected.json")).unwrap()).unwrap();
    let ids: Vec<i32> =
        expected["logits_input_ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap() as i32).collect();
    let npy = std::fs::read(format!("{folder}/logits.npy")).unwrap();
    let header = u16::from_le_bytes([npy[8], npy[9]]) as usize;
    let logits: Vec<f32> = npy[10 + header..].chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let count = ids.len();
    let mut cache = KvCache::new(&executable, "cache", 8).unwrap();
    let mut session = Session::new(&executable);
    let positions: Vec<i32> = (0..count as i32).collect();
    let sequences = vec![0i32; count];
    let pages: Vec<i32> = (0..8).rev().collect();
    let rows: Vec<i32> = (0..count as i32).collect();
    let inputs = [
        ("tokens", TensorView::vector(&ids)),
        ("positions", TensorView::vector(&positions)),
        ("sequences", TensorView::vector(&sequences)),
        ("page_table", TensorView::new(&[1, 8], &pages).unwrap()),
        ("rows", TensorView::vector(&rows)),
    ];
    let outputs = session.run(&inputs, &mut [("cache", &mut cache)]).unwrap();
    let found = outputs.at(0).unwrap();
    let found = found.elements::<f32>().unwrap();
    let worst = found.iter().zip(&logits).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    println!("worst {worst}");
    assert!(worst < 2e-4, "{worst}");
}
