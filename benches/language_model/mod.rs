//! Language models with random weights on the host: decode and prefill, each in turn with its peers.
//!
//! Decode is bound by reading weights, so it is reported as a share of the read bandwidth, probed between the steps of the same run
//! (memory bandwidth of shared machines swings). Prefill is bound by arithmetic.
//!
//! Every bench of a model goes by the same variables, where `MODEL` is the name that the bench gives:
//!
//! | variable | meaning |
//! |---|---|
//! | `TESSERA_MODEL_PARTS` | what is measured, of `decode,batch,prefill`, which is what it says if it says nothing, and `profile`: where the time goes |
//! | `TESSERA_MODEL_FOLDER` | where the model is, or is written and kept; a temporary folder otherwise |
//! | `TESSERA_LLAMA_BENCH`, `TESSERA_LLAMA_MODEL` | llama.cpp's llama-bench, and a file of the model's script in `peers/`: llama.cpp runs in turn |
//! | `TESSERA_PEERS_PYTHON` | a Python that has the engines of `TESSERA_MODEL_PEERS`, which run in turn |
//! | `TESSERA_MODEL_PEERS` | which of the engines of `peers/python_peer.py`; `eager,compiled` if it says nothing |

mod peers;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tessera_compiler::driver::{CompileOptions, compile};
use tessera_compiler::target::Target;
use tessera_ir::Storage;
use tessera_models::engine::{LoadedModel, RuntimeEngine};
use tessera_models::folder::ModelConfig;
use tessera_models::generation::{Engine, Step};
use tessera_models::model::{Model, Precision};
use tessera_models::weights::Initialization;
use tessera_runtime::device::Device;
use tessera_runtime::host::Host;
use tessera_runtime::pages::PageTable;

use self::peers::{Peers, Work};
use crate::{BandwidthProbe, median, time};

/// Tokens of the prompt that is prefilled.
const PROMPT: usize = 512;
/// Sequences that are decoded together.
const BATCH: usize = 8;
/// Rounds of ours and the peers', and samples of ours in each.
const ROUNDS: usize = 3;
const SAMPLES: usize = 3;
/// What a sample of decode takes at least.
const SAMPLE_TIME: Duration = Duration::from_millis(100);

/// What a bench's variable says, `TESSERA_MODEL_NAME`.
pub fn variable(model: &str, name: &str) -> Option<String> {
    std::env::var(format!("TESSERA_{model}_{name}")).ok()
}

/// A model, and how it is measured.
#[derive(Debug)]
pub struct Subject {
    /// The name in the bench's variables.
    pub name: String,
    /// The model's shape.
    pub config: ModelConfig,
    /// Storage of the matrices, where the configuration does not say.
    pub matrices: Storage,
    /// What it computes in, where neither configuration nor weights say.
    pub precision: Precision,
    /// Tokens that come before those that are decoded.
    pub contexts: [usize; 2],
    /// Tables of weights, of which a step of one token reads a row each.
    pub tables: &'static [&'static str],
    /// What `peers/python_peer.py` calls the model and its storage, if it knows it.
    pub python: Option<[&'static str; 2]>,
}

impl Subject {
    /// Measures what is wanted, and prints it. `bytes_read` is given the bytes of all weights but the tables, and how many tokens come
    /// before: it says what a step of one token reads.
    ///
    /// # Panics
    /// If the model cannot be made or run, or a peer cannot.
    pub fn measure(&self, bytes_read: impl Fn(usize, usize) -> usize) {
        let parts = variable(&self.name, "PARTS").unwrap_or_else(|| "decode,batch,prefill".to_owned());
        let is_wanted = |part: &str| parts.split(',').any(|wanted| wanted == part);
        println!("{}", self.name);
        let mut model = Loaded::new(self);
        if is_wanted("decode") {
            for context in self.contexts {
                let bytes = bytes_read(model.weight_bytes, context);
                model.decode(context, bytes, |tokens| self.peers(Work::Decode { context, tokens }));
            }
        }
        if is_wanted("batch") {
            model.batch(self.contexts[1]);
        }
        if is_wanted("profile") {
            for context in self.contexts {
                model.profile(&format!("decode, context {context}"), &model.step(1, context, 1));
            }
            model.profile(&format!("prefill of {PROMPT} tokens"), &model.step(1, 0, PROMPT));
            model.profile(&format!("decode of {BATCH} sequences"), &model.step(BATCH, self.contexts[1], 1));
        }
        if is_wanted("prefill") {
            model.prefill(|| self.peers(Work::Prefill { tokens: PROMPT }));
        }
    }

    fn peers(&self, work: Work) -> Peers {
        Peers::start(&self.name, self.python, work)
    }
}

/// A model ready to run; a temporary folder may hold its weights.
struct Loaded {
    engine: RuntimeEngine,
    /// Bytes of all weights but the tables.
    weight_bytes: usize,
    _folder: Option<TempDir>,
}

impl Loaded {
    fn new(subject: &Subject) -> Loaded {
        let config = &subject.config;
        let (folder, temporary) = match variable(&subject.name, "FOLDER") {
            Some(path) => (PathBuf::from(path), None),
            None => {
                let folder = tempfile::tempdir().expect("a temporary folder");
                (folder.path().to_owned(), Some(folder))
            }
        };
        if !folder.join("model.safetensors").is_file() {
            let initialization = Initialization { vector_deviation: 0.02, ..Initialization::default() };
            Model::write_random(&folder, config, subject.matrices, initialization).expect("a model");
        }
        let model = Model::open_in(&folder, subject.precision).expect("the model");
        let compiled = compile(&model.module, &CompileOptions::new(Target::Host)).expect("an artifact");
        let host = Host::shared().expect("a thread pool");
        let device: Arc<dyn Device> = host.clone();
        let loaded = LoadedModel::load(config, &compiled.artifact, &model.weights, &device).expect("a loaded model");
        let pages = BATCH * (subject.contexts[1] + 1).div_ceil(loaded.page_size());
        let engine = loaded.engine(pages).expect("an engine");
        let all: usize = model.weights.iter().map(|(_, weight)| weight.bytes.as_slice().len()).sum();
        let table = |name: &&str| model.weights.get(name).expect("a table").bytes.as_slice().len();
        let weight_bytes = all - subject.tables.iter().map(table).sum::<usize>();
        let mut model = Loaded { engine, weight_bytes, _folder: temporary };
        let step = model.step(1, 0, 1);
        while host.is_moving_weights() {
            model.run(&step, 1);
        }
        model
    }

    /// `count` tokens from position `from` of each of so many sequences; the logits of the last ones are wanted.
    fn step(&self, sequences: usize, from: usize, count: usize) -> Step {
        let pools = self.engine.pools();
        let pages = pools[0].pages as usize / sequences;
        let each = |value: &dyn Fn(usize, usize) -> usize| -> Vec<i32> {
            (0..sequences)
                .flat_map(|sequence| (from..from + count).map(move |position| value(sequence, position) as i32))
                .collect()
        };
        Step {
            tokens: each(&|sequence, position| (sequence * 131 + position) * 7919 % self.engine.vocabulary()),
            positions: each(&|_, position| position),
            sequences: each(&|sequence, _| sequence),
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

    /// How long so many steps take, in seconds.
    fn run(&mut self, step: &Step, count: usize) -> f64 {
        time(|| (0..count).for_each(|_| self.engine.step(step).expect("a step"))).as_secs_f64()
    }

    /// A token after `context` others, which reads so many bytes; the peers compute so many tokens in a turn.
    fn decode(&mut self, context: usize, bytes: usize, peers: impl FnOnce(usize) -> Peers) {
        let one = self.step(1, context, 1);
        self.run(&one, 1);
        let steps = (SAMPLE_TIME.as_secs_f64() / self.run(&one, 1)).ceil() as usize;
        let mut peers = peers(SAMPLES * steps);
        let probe = BandwidthProbe::new(bytes, std::thread::available_parallelism().map_or(1, usize::from));
        let (mut shares, mut rates, mut bandwidths) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            for _ in 0..SAMPLES {
                let bandwidth = probe.bytes_per_second(steps);
                let rate = steps as f64 / self.run(&one, steps);
                shares.push(bytes as f64 * rate / bandwidth);
                bandwidths.push(bandwidth);
                rates.push(rate);
            }
            peers.take_turns();
        }
        let rate = median(&mut rates);
        println!(
            "decode, context {context}: {rate:.2} tokens/s, {:.0} MB each, {:.1} % of the read bandwidth of {:.1} GB/s",
            bytes as f64 / 1e6,
            100.0 * median(&mut shares),
            median(&mut bandwidths) / 1e9
        );
        peers.print(rate);
    }

    /// A token of each of several sequences.
    fn batch(&mut self, context: usize) {
        let [one, batch] = [1, BATCH].map(|sequences| self.step(sequences, context, 1));
        let (mut alone, mut together) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS * SAMPLES {
            alone.push(self.run(&one, 1));
            together.push(self.run(&batch, 1));
        }
        let (alone, together) = (median(&mut alone), median(&mut together));
        let gain = BATCH as f64 * alone / together;
        println!(
            "decode of {BATCH} sequences, context {context}: {:.2} tokens/s, {gain:.2} times those of one",
            BATCH as f64 / together
        );
    }

    /// The first tokens of a sequence.
    fn prefill(&mut self, peers: impl FnOnce() -> Peers) {
        let prompt = self.step(1, 0, PROMPT);
        self.run(&prompt, 1);
        let (mut peers, mut rates) = (peers(), Vec::new());
        for _ in 0..ROUNDS {
            rates.extend((0..SAMPLES).map(|_| PROMPT as f64 / self.run(&prompt, 1)));
            peers.take_turns();
        }
        let rate = median(&mut rates);
        println!("prefill of {PROMPT} tokens: {rate:.1} tokens/s");
        peers.print(rate);
    }

    /// Where the time of a step goes: for each kernel the sum over its launches of the median time of each.
    fn profile(&mut self, what: &str, step: &Step) {
        let runs: Vec<_> = (0..ROUNDS * SAMPLES).map(|_| self.engine.profile(step).expect("a profile")).collect();
        let mut kernels = BTreeMap::<&str, (usize, f64, &str)>::new();
        for (index, launch) in runs[0].iter().enumerate() {
            let mut times: Vec<f64> = runs.iter().map(|run| run[index].time.as_secs_f64()).collect();
            let kernel = kernels.entry(&launch.kernel).or_insert((0, 0.0, &launch.label));
            *kernel = (kernel.0 + 1, kernel.1 + median(&mut times), kernel.2);
        }
        let mut kernels: Vec<_> = kernels.into_iter().collect();
        kernels.sort_by(|(_, a), (_, b)| b.1.total_cmp(&a.1));
        let total: f64 = kernels.iter().map(|(_, (_, time, _))| time).sum();
        println!("{what}\n{:>10.1} us", total * 1e6);
        for (kernel, (launches, time, label)) in kernels {
            println!("{:>10.1} us {:>5.1} %  {launches:>3} x {kernel}: {label}", time * 1e6, 100.0 * time / total);
        }
    }
}
