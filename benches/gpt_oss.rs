//! Decode and prefill of gpt-oss-20b's shape with random weights on the host: MXFP4 experts, bf16 activations.
//!
//! | variable | meaning |
//! |---|---|
//! | `TESSERA_GPT_OSS_LAYERS` | how many of the 24 layers there are: 2 if it says nothing, since all take 12 to 14 GB on disk and in memory |
//! | `TESSERA_GPT_OSS_REST` | storage of the matrices that belong to no expert: `i8` if it says nothing, `fp8_e4m3`, `fp8_e5m2` or `bf16` |
//! | `TESSERA_GPT_OSS_FOLDER` | where the model is, or is written and kept; a temporary folder otherwise |
//! | `TESSERA_GPT_OSS_PARTS` | what is measured, of `decode,batch,prefill`; everything if it says nothing |
//! | `TESSERA_LLAMA_BENCH`, `TESSERA_LLAMA_GPT_OSS` | a llama-bench, and a file of `peers/gpt_oss_gguf.py` of as many layers: llama.cpp runs in turn |
//!
//! Decode is bound by reading weights, so it is reported as a share of the read bandwidth, probed between the steps of the same run.

#![allow(missing_docs, reason = "criterion's macros generate undocumented items")]

use std::path::PathBuf;
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
/// Rounds of ours and llama.cpp's, and samples of ours in each.
const ROUNDS: usize = 3;
const SAMPLES: usize = 3;

/// A model ready to run; a temporary folder holds its weights.
struct Fixture {
    engine: RuntimeEngine,
    config: GptOssConfig,
    /// Bytes of weights that a step of one token reads.
    weight_bytes: usize,
    _folder: Option<TempDir>,
}

fn fixture() -> Fixture {
    let variable = |name: &str| std::env::var(name).ok();
    let layers = variable("TESSERA_GPT_OSS_LAYERS").and_then(|text| text.parse().ok()).unwrap_or(2);
    let rest = variable("TESSERA_GPT_OSS_REST").map_or(Storage::I8, |text| text.parse().expect("a storage"));
    let mut config = GptOssConfig::gpt_oss_20b();
    config.layer_types.truncate(layers);
    let (folder, temporary) = match variable("TESSERA_GPT_OSS_FOLDER") {
        Some(path) => (PathBuf::from(path), None),
        None => {
            let folder = tempfile::tempdir().expect("a temporary folder");
            (folder.path().to_owned(), Some(folder))
        }
    };
    let model_config = ModelConfig::GptOss(Box::new(config.clone()));
    if !folder.join("model.safetensors").is_file() {
        let initialization = Initialization { vector_deviation: 0.02, ..Initialization::default() };
        Model::write_random(&folder, &model_config, rest, initialization).expect("a model");
    }
    let precision = Precision { activations: Some(Storage::Bf16), cache: Some(Storage::Bf16) };
    let model = Model::open_in(&folder, precision).expect("the model");
    let compiled = compile(&model.module, &CompileOptions::new(Target::Host)).expect("an artifact");
    let host: Arc<dyn Device> = Host::shared().expect("a thread pool");
    let loaded = LoadedModel::load(&model_config, &compiled.artifact, &model.weights, &host).expect("a loaded model");
    let [hidden, inner, experts, chosen] =
        [config.hidden_size, config.intermediate_size, config.num_local_experts, config.num_experts_per_tok]
            .map(|extent| extent as usize);
    // Of the table one row is read, and of the experts' matrices, 17 bytes for 32 elements, those of the chosen ones.
    let file = std::fs::metadata(folder.join("model.safetensors")).expect("the weights").len() as usize;
    let table = model.weights.get("model.embed_tokens.weight").expect("the table").bytes.as_slice().len();
    let unread = layers * (experts - chosen) * (3 * hidden * inner) / 32 * 17;
    let pages = (BATCH * (CONTEXTS[1] + 1)).div_ceil(loaded.page_size()) + BATCH;
    let engine = loaded.engine(pages).expect("an engine");
    Fixture { engine, config, weight_bytes: file - table - unread, _folder: temporary }
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
        Command::new(program).arg("-m").arg(model).args(["-t", "2", "-r", "1", "-o", "json"]).args(arguments).output();
    let text = String::from_utf8(output.ok()?.stdout).ok()?;
    let line = text.lines().find(|line| line.contains("\"avg_ts\""))?;
    line.split(':').nth(1)?.trim().trim_end_matches(',').parse().ok()
}

fn decode(engine: &mut RuntimeEngine, config: &GptOssConfig, weight_bytes: usize, context: usize) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let layers = config.layer_types.len();
    let one = step(engine, 1, context, 1);
    // Half of the layers look at a window.
    let seen = context + 1 + (context + 1).min(config.sliding_window as usize);
    let row = 2 * (config.num_key_value_heads * config.head_dim) as usize * 2;
    let bytes = weight_bytes + layers * row * seen / 2;
    let probe = BandwidthProbe::new(bytes, threads);
    engine.step(&one).expect("decode");
    let (mut shares, mut rates, mut bandwidths, mut theirs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for _ in 0..SAMPLES {
            let bandwidth = probe.bytes_per_second(2);
            let elapsed = time(|| (0..2).for_each(|_| engine.step(&one).expect("decode"))).as_secs_f64() / 2.0;
            shares.push(bytes as f64 / elapsed / bandwidth);
            bandwidths.push(bandwidth);
            rates.push(1.0 / elapsed);
        }
        theirs.extend(llama(&["-p", "0", "-n", "8", "-d", &context.to_string()]));
    }
    let ours = median(&mut rates);
    println!(
        "decode of {layers} layers, context {context}: {ours:.2} tokens/s, {:.0} MB each, {:.1} % of the read bandwidth of {:.1} GB/s",
        bytes as f64 / 1e6,
        100.0 * median(&mut shares),
        median(&mut bandwidths) / 1e9
    );
    against(ours, &mut theirs);
}

fn against(ours: f64, theirs: &mut [f64]) {
    if !theirs.is_empty() {
        let theirs = median(theirs);
        println!("    llama.cpp {theirs:.2} tokens/s, ours is {:.2} times that", ours / theirs);
    }
}

fn gpt_oss(_: &mut Criterion) {
    let parts = std::env::var("TESSERA_GPT_OSS_PARTS").unwrap_or_else(|_| "decode,batch,prefill".to_owned());
    let is_wanted = |part: &str| parts.split(',').any(|wanted| wanted == part);
    let Fixture { mut engine, config, weight_bytes, _folder } = fixture();
    if is_wanted("decode") {
        for context in CONTEXTS {
            decode(&mut engine, &config, weight_bytes, context);
        }
    }
    if is_wanted("batch") {
        let [one, batch] = [1, BATCH].map(|sequences| step(&engine, sequences, CONTEXTS[1], 1));
        let (mut alone, mut together) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS * 2 {
            alone.push(time(|| engine.step(&one).expect("decode")).as_secs_f64());
            together.push(time(|| engine.step(&batch).expect("decode")).as_secs_f64());
        }
        let (alone, together) = (median(&mut alone), median(&mut together));
        let gain = BATCH as f64 * alone / together;
        println!("decode of {BATCH} sequences: {:.2} tokens/s, {gain:.2} times those of one", BATCH as f64 / together);
    }
    if is_wanted("prefill") {
        let prompt = step(&engine, 1, 0, PROMPT);
        engine.step(&prompt).expect("prefill");
        let (mut rates, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            rates.push(PROMPT as f64 / time(|| engine.step(&prompt).expect("prefill")).as_secs_f64());
            theirs.extend(llama(&["-p", "512", "-n", "0"]));
        }
        let ours = median(&mut rates);
        println!("prefill of {PROMPT} tokens with {} layers: {ours:.1} tokens/s", config.layer_types.len());
        against(ours, &mut theirs);
    }
}

criterion_group!(benches, gpt_oss);
criterion_main!(benches);
