//! Decode and prefill of GPT-2 124M with random weights on the host.
//!
//! Decode is bound by reading the weights, so it is reported as a share of the read bandwidth, probed between the steps of the same run
//! (memory bandwidth of shared machines swings). Prefill is bound by arithmetic; its peers are llama.cpp and PyTorch, for which
//! `peers/` has the scripts. With `TESSERA_LLAMA_BENCH` naming a llama-bench and `TESSERA_LLAMA_F32`, `TESSERA_LLAMA_BF16` the files of
//! `peers/gpt2_gguf.py`, llama.cpp runs in turn with ours.

#![allow(missing_docs, reason = "criterion's macros generate undocumented items")]

use std::process::Command;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;
use tessera_benches::{BandwidthProbe, median, time};
use tessera_compiler::driver::{CompileOptions, compile};
use tessera_compiler::target::Target;
use tessera_ir::Storage;
use tessera_models::engine::{LoadedModel, RuntimeEngine};
use tessera_models::folder::ModelConfig;
use tessera_models::generation::{Engine, Step};
use tessera_models::gpt2::Gpt2Config;
use tessera_models::model::Model;
use tessera_models::weights::Initialization;
use tessera_runtime::device::Device;
use tessera_runtime::host::Host;
use tessera_runtime::pages::PageTable;

const LAYERS: usize = 12;
const WIDTH: usize = 768;
const CONTEXT: usize = 128;
const PROMPT: usize = 512;
const ROUNDS: usize = 31;
/// Decode steps, and passes of the probe, in a round.
const STEPS: usize = 8;

/// A model of 124 million parameters, ready to run; the folder holds its weights.
struct Fixture {
    engine: RuntimeEngine,
    weight_bytes: f64,
    _folder: TempDir,
}

fn fixture(storage: Storage) -> Fixture {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = ModelConfig::Gpt2(Gpt2Config::small());
    let model = Model::write_random(folder.path(), &config, storage, Initialization::default()).expect("a model");
    let compiled = compile(&model.module, &CompileOptions::new(Target::Host)).expect("an artifact");
    let host: Arc<dyn Device> = Host::shared().expect("a thread pool");
    let loaded = LoadedModel::load(&config, &compiled.artifact, &model.weights, &host).expect("a loaded model");
    let file = folder.path().join("model.safetensors");
    // A step reads every weight but the position table, of which it reads a row.
    let positions = 1024 * 768 * storage.bits() / 8;
    let weight_bytes = (std::fs::metadata(file).expect("the weights").len() - positions as u64) as f64;
    let pages = loaded.context().div_ceil(loaded.page_size());
    Fixture { engine: loaded.engine(pages).expect("an engine"), weight_bytes, _folder: folder }
}

/// `count` tokens from position `from` of one sequence; the logits of the last are wanted.
fn step(engine: &RuntimeEngine, from: usize, count: usize) -> Step {
    let pages = engine.pools()[0].pages;
    Step {
        tokens: (from..from + count).map(|position| (position * 7919 % 50257) as i32).collect(),
        positions: (from..from + count).map(|position| position as i32).collect(),
        sequences: vec![0; count],
        page_tables: vec![PageTable { entries: (0..pages as i32).collect(), shape: [1, pages.into()] }],
        rows: vec![count as i32 - 1],
    }
}

/// What llama.cpp reaches, in tokens per second, if there is one.
fn llama(storage: Storage, arguments: &[&str]) -> Option<f64> {
    let program = std::env::var_os("TESSERA_LLAMA_BENCH")?;
    let model = std::env::var_os(format!("TESSERA_LLAMA_{}", storage.to_string().to_uppercase()))?;
    let output = Command::new(program).arg("-m").arg(model).args(["-t", "2", "-o", "json"]).args(arguments).output();
    let text = String::from_utf8(output.ok()?.stdout).ok()?;
    let line = text.lines().find(|line| line.contains("\"avg_ts\""))?;
    line.split(':').nth(1)?.trim().trim_end_matches(',').parse().ok()
}

fn against_llama(what: &str, storage: Storage, ours: f64, arguments: &[&str]) {
    match llama(storage, arguments) {
        Some(theirs) => {
            println!("{what} {storage}: llama.cpp {theirs:.1} tokens/s, ours is {:.2} times that", ours / theirs)
        }
        None => println!("{what} {storage}: no llama.cpp to compare with (see benches/gpt2.rs)"),
    }
}

fn gpt2(criterion: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for storage in [Storage::F32, Storage::Bf16] {
        let mut fixture = fixture(storage);
        let engine = &mut fixture.engine;
        let prompt = step(engine, 0, PROMPT);
        engine.step(&prompt).expect("prefill");
        let decode = step(engine, CONTEXT, 1);
        // The cache has the storage of the weights' activations: keys and values of every layer.
        let read_bytes = fixture.weight_bytes + (2 * LAYERS * WIDTH * CONTEXT * storage.bits() as usize / 8) as f64;

        let probe = BandwidthProbe::new(read_bytes as usize, threads);
        let (mut shares, mut rates, mut bandwidths) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let bandwidth = probe.bytes_per_second(STEPS);
            let elapsed = time(|| (0..STEPS).for_each(|_| engine.step(&decode).expect("decode"))).as_secs_f64();
            let elapsed = elapsed / STEPS as f64;
            shares.push(read_bytes / elapsed / bandwidth);
            bandwidths.push(bandwidth);
            rates.push(1.0 / elapsed);
        }
        let rate = median(&mut rates);
        println!(
            "decode {storage}, context {CONTEXT}: {rate:.1} tokens/s, {:.1} % of the read bandwidth of {:.1} GB/s",
            100.0 * median(&mut shares),
            median(&mut bandwidths) / 1e9
        );
        against_llama("decode", storage, rate, &["-p", "0", "-n", "32", "-d", "128", "-r", "3"]);

        let mut rates: Vec<f64> =
            (0..7).map(|_| PROMPT as f64 / time(|| engine.step(&prompt).expect("prefill")).as_secs_f64()).collect();
        let rate = median(&mut rates);
        println!("prefill {storage}, {PROMPT} tokens: {rate:.0} tokens/s");
        against_llama("prefill", storage, rate, &["-p", "512", "-n", "0", "-r", "5"]);

        let mut group = criterion.benchmark_group(format!("gpt2-124m {storage}"));
        group.sample_size(10);
        group.throughput(Throughput::Elements(1));
        group.bench_function("decode", |bencher| bencher.iter(|| engine.step(&decode).expect("decode")));
        group.throughput(Throughput::Elements(PROMPT as u64));
        group.bench_function("prefill", |bencher| bencher.iter(|| engine.step(&prompt).expect("prefill")));
        group.finish();
    }
}

criterion_group!(benches, gpt2);
criterion_main!(benches);
