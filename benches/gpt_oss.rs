//! Decode and prefill of gpt-oss-20b's shape with random weights on the host: MXFP4 experts, the rest in bf16.
//!
//! `TESSERA_GPT_OSS_LAYERS` says how many of the 24 layers there are: 2 if it says nothing, since all take 13.8 GB on disk and in memory.
//! Decode is bound by reading weights, so it is reported as a share of the read bandwidth, probed between the steps of the same run. With
//! `TESSERA_LLAMA_BENCH` naming a llama-bench and `TESSERA_LLAMA_GPT_OSS` the file of `peers/gpt_oss_gguf.py`, llama.cpp runs too;
//! only with all layers does it do the same work.

#![allow(missing_docs, reason = "criterion's macros generate undocumented items")]

use std::process::Command;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use tempfile::TempDir;
use tessera_benches::{BandwidthProbe, median, time};
use tessera_compiler::driver::{CompileOptions, compile};
use tessera_compiler::target::Target;
use tessera_ir::Storage;
use tessera_models::engine::{LoadedModel, RuntimeEngine};
use tessera_models::folder::ModelConfig;
use tessera_models::generation::{Engine, Step};
use tessera_models::gpt_oss::GptOssConfig;
use tessera_models::model::{Model, Precision};
use tessera_models::weights::Initialization;
use tessera_runtime::device::Device;
use tessera_runtime::host::Host;
use tessera_runtime::pages::PageTable;

const CONTEXTS: [usize; 2] = [128, 1024];
const PROMPT: usize = 512;
/// Sequences that are decoded together.
const BATCH: usize = 8;
const ROUNDS: usize = 7;

/// A model ready to run; the folder holds its weights.
struct Fixture {
    engine: RuntimeEngine,
    config: GptOssConfig,
    /// Bytes of weights that a step of one token reads.
    weight_bytes: usize,
    _folder: TempDir,
}

fn fixture() -> Fixture {
    let layers = std::env::var("TESSERA_GPT_OSS_LAYERS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let mut config = GptOssConfig::gpt_oss_20b();
    config.layer_types.truncate(layers);
    let parent = std::env::var_os("TESSERA_BENCH_FOLDER").map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::tempdir_in(parent).expect("a temporary folder");
    let model_config = ModelConfig::GptOss(Box::new(config.clone()));
    let initialization = Initialization { vector_deviation: 0.02, ..Initialization::default() };
    Model::write_random(folder.path(), &model_config, Storage::Bf16, initialization).expect("a model");
    let precision = Precision { activations: Some(Storage::Bf16), cache: Some(Storage::Bf16) };
    let model = Model::open_in(folder.path(), precision).expect("the model");
    let compiled = compile(&model.module, &CompileOptions::new(Target::Host)).expect("an artifact");
    let host: Arc<dyn Device> = Host::shared().expect("a thread pool");
    let loaded = LoadedModel::load(&model_config, &compiled.artifact, &model.weights, &host).expect("a loaded model");
    let [hidden, inner, experts, chosen] =
        [config.hidden_size, config.intermediate_size, config.num_local_experts, config.num_experts_per_tok]
            .map(|extent| extent as usize);
    // Of the table one row is read, and of the experts' matrices, 17 bytes for 32 elements, those of the chosen ones.
    let file = std::fs::metadata(folder.path().join("model.safetensors")).expect("the weights").len() as usize;
    let table = config.vocab_size as usize * hidden * 2;
    let unread = layers * (experts - chosen) * (3 * hidden * inner) / 32 * 17;
    let pages = (BATCH * (CONTEXTS[1] + 1)).div_ceil(loaded.page_size()) + BATCH;
    let engine = loaded.engine(pages).expect("an engine");
    Fixture { engine, config, weight_bytes: file - table - unread, _folder: folder }
}

/// `count` tokens from position `from` of each of so many sequences; the logits of the last ones are wanted.
fn step(engine: &RuntimeEngine, sequences: usize, from: usize, count: usize) -> Step {
    let pools = engine.pools();
    let pages = pools[0].pages as usize / sequences;
    let each = |value: &dyn Fn(usize, usize) -> i32| -> Vec<i32> {
        (0..sequences)
            .flat_map(|sequence| (from..from + count).map(move |position| value(sequence, position)))
            .collect()
    };
    Step {
        tokens: each(&|sequence, position| ((sequence * 131 + position) * 7919 % 200_000) as i32),
        positions: each(&|_, position| position as i32),
        sequences: each(&|sequence, _| sequence as i32),
        // Every cache has all pages, though those of layers with a window look at the last ones only.
        page_tables: vec![
            PageTable {
                entries: (0..(pages * sequences) as i32).collect(),
                shape: [sequences as u64, pages as u64],
            };
            pools.len()
        ],
        rows: (1..=sequences).map(|sequence| (sequence * count) as i32 - 1).collect(),
    }
}

/// What llama.cpp reaches, in tokens per second, if there is one.
fn llama(arguments: &[&str]) -> Option<f64> {
    let (program, model) = (std::env::var_os("TESSERA_LLAMA_BENCH")?, std::env::var_os("TESSERA_LLAMA_GPT_OSS")?);
    let output =
        Command::new(program).arg("-m").arg(model).args(["-t", "2", "-r", "2", "-o", "json"]).args(arguments).output();
    let text = String::from_utf8(output.ok()?.stdout).ok()?;
    let line = text.lines().find(|line| line.contains("\"avg_ts\""))?;
    line.split(':').nth(1)?.trim().trim_end_matches(',').parse().ok()
}

fn gpt_oss(_: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let Fixture { mut engine, config, weight_bytes, _folder } = fixture();
    let layers = config.layer_types.len();
    let mut seconds_of_one = f64::NAN;
    for context in CONTEXTS {
        let one = step(&engine, 1, context, 1);
        // Half of the layers look at a window.
        let seen = context + 1 + (context + 1).min(config.sliding_window as usize);
        let row = 2 * (config.num_key_value_heads * config.head_dim) as usize * 2;
        let bytes = weight_bytes + layers * row * seen / 2;
        let probe = BandwidthProbe::new(bytes, threads);
        engine.step(&one).expect("decode");
        let (mut shares, mut times, mut bandwidths) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let bandwidth = probe.bytes_per_second(2);
            let elapsed = time(|| (0..2).for_each(|_| engine.step(&one).expect("decode"))).as_secs_f64() / 2.0;
            shares.push(bytes as f64 / elapsed / bandwidth);
            bandwidths.push(bandwidth);
            times.push(elapsed);
        }
        seconds_of_one = median(&mut times);
        println!(
            "decode of {layers} layers, context {context}: {:.2} tokens/s, {:.0} MB each, {:.1} % of the read bandwidth of {:.1} GB/s",
            1.0 / seconds_of_one,
            bytes as f64 / 1e6,
            100.0 * median(&mut shares),
            median(&mut bandwidths) / 1e9
        );
        if let Some(theirs) = llama(&["-p", "0", "-n", "16", "-d", &context.to_string()]) {
            println!("decode, context {context}: llama.cpp {theirs:.2} tokens/s with all layers");
        }
    }
    let batch = step(&engine, BATCH, CONTEXTS[1], 1);
    let mut times: Vec<f64> = (0..5).map(|_| time(|| engine.step(&batch).expect("decode")).as_secs_f64()).collect();
    let seconds = median(&mut times);
    let gain = BATCH as f64 * seconds_of_one / seconds;
    println!("decode of {BATCH} sequences: {:.2} tokens/s, {gain:.2} times those of one", BATCH as f64 / seconds);
    let prompt = step(&engine, 1, 0, PROMPT);
    engine.step(&prompt).expect("prefill");
    let mut times: Vec<f64> = (0..3).map(|_| time(|| engine.step(&prompt).expect("prefill")).as_secs_f64()).collect();
    println!("prefill of {PROMPT} tokens: {:.1} tokens/s", PROMPT as f64 / median(&mut times));
    if let Some(theirs) = llama(&["-p", "512", "-n", "0"]) {
        println!("prefill: llama.cpp {theirs:.1} tokens/s with all layers");
    }
}

criterion_group!(benches, gpt_oss);
criterion_main!(benches);
