//! From a model's folder to a model that is loaded on a device: weights, compiling, and what the cache keeps of both.

use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use miette::{IntoDiagnostic, Result, WrapErr, miette};
use tessera_compiler::driver::{CompileOptions, compile};
use tessera_compiler::target::Target;
use tessera_ir::Storage;
use tessera_models::engine::LoadedModel;
use tessera_models::generation::{CacheLayout, Engine};
use tessera_models::model::Precision;
use tessera_models::reference::ReferenceEngine;
use tessera_models::weights::write_cast;
use tessera_models::{Model, ModelConfig};
use tessera_runtime::artifact;
use tessera_runtime::device::{self, Device};
use tessera_runtime::{Artifact, Weights};

use crate::arguments::{ModelArguments, RunArguments, WeightStorage};
use crate::cache::Cache;
use tessera_terminal::Progress;

/// The device that is none: the graph IR's reference evaluation.
const REFERENCE: &str = "reference";

/// A model that is ready to run.
pub struct Session {
    pub model: Model,
    /// The model on a device; none where the reference evaluation takes its place.
    loaded: Option<LoadedModel>,
    /// How long compiling took, or finding what was compiled before.
    pub compiling: Duration,
    /// Whether it had been compiled before.
    pub from_cache: bool,
    /// How long loading code and weights took.
    pub loading: Duration,
}

impl Session {
    pub fn open(model: &ModelArguments, run: &RunArguments, progress: &Progress) -> Result<Self> {
        // The device first: a wrong name or a missing driver is known at once.
        let device = match run.device.as_str() {
            REFERENCE => None,
            name => {
                Some(device::open(name).into_diagnostic().wrap_err_with(|| format!("cannot open device `{name}`"))?)
            }
        };
        let cache = if run.no_cache { Cache::temporary()? } else { Cache::open()? };
        let is_gpu = device.as_ref().is_some_and(|device| !device.reads_host_memory());
        let model = open_model(model, is_gpu, &cache, progress)?;
        let Some(device) = device else {
            let none = Duration::ZERO;
            return Ok(Self { model, loaded: None, compiling: none, from_cache: false, loading: none });
        };
        let started = Instant::now();
        let (artifact, from_cache) = compiled(&model, device.as_ref(), &cache, progress)?;
        let compiling = started.elapsed();
        let started = Instant::now();
        let loaded = progress
            .during("loading", || LoadedModel::load(&model.folder.config, &artifact, &model.weights, &device))
            .into_diagnostic()?;
        Ok(Self { model, loaded: Some(loaded), compiling, from_cache, loading: started.elapsed() })
    }

    /// How the model's KV caches are divided into pages.
    pub fn caches(&self) -> Result<CacheLayout> {
        match &self.loaded {
            Some(loaded) => Ok(loaded.caches().clone()),
            None => CacheLayout::of_module(&self.model.module).into_diagnostic(),
        }
    }

    /// The longest sequence, in tokens.
    pub fn context(&self) -> usize {
        self.model.folder.config.context() as usize
    }

    /// The model with KV caches of so many pages.
    pub fn engine(&self, pages: &[usize]) -> Result<Box<dyn Engine>> {
        Ok(match &self.loaded {
            Some(loaded) => Box::new(loaded.engine_with(pages).into_diagnostic()?),
            None => Box::new(ReferenceEngine::with_pages(&self.model, pages).into_diagnostic()?),
        })
    }
}

/// What a model is to be computed in, on a GPU or elsewhere.
pub fn precision(arguments: &ModelArguments, is_gpu: bool) -> Precision {
    let activations = arguments.activations.or(is_gpu.then_some(Storage::Bf16));
    Precision { activations, cache: arguments.kv_cache }
}

/// Opens a model's folder, with its weights in the storage that was asked for.
pub fn open_model(arguments: &ModelArguments, is_gpu: bool, cache: &Cache, progress: &Progress) -> Result<Model> {
    let path = &arguments.model;
    let precision = precision(arguments, is_gpu);
    let model = Model::open_in(path, precision)
        .into_diagnostic()
        .wrap_err_with(|| format!("cannot open the model {}", path.display()))?;
    if !matches!(model.folder.config, ModelConfig::GptOss(_)) {
        let given = [("--activations", arguments.activations), ("--kv-cache", arguments.kv_cache)];
        if let Some((option, storage)) = given.into_iter().find_map(|(option, storage)| Some((option, storage?))) {
            return Err(miette!(
                help = "leave the option out",
                "{option} {storage} does not apply: this model's configuration and weights say what it computes in"
            ));
        }
    }
    let storage = match arguments.weights {
        WeightStorage::Stored => return Ok(model),
        WeightStorage::F32 => Storage::F32,
        WeightStorage::F16 => Storage::F16,
        WeightStorage::Bf16 => Storage::Bf16,
    };
    if let ModelConfig::Gpt(config) = &model.folder.config {
        return Err(miette!(
            help = "change weight_dtype in config.json, and the weights with it",
            "--weights {storage} does not apply: this model's configuration says {}",
            config.weight_dtype
        ));
    }
    if let ModelConfig::GptOss(_) = &model.folder.config {
        return Err(miette!(
            help = "`tesserac quantize` writes a folder with weights in another storage",
            "--weights {storage} does not apply: a gpt-oss computes with its weights as they are stored"
        ));
    }
    let mut key = blake3::Hasher::new();
    key.update(b"weights").update(storage.name().as_bytes());
    for entry in std::fs::read_dir(path).into_diagnostic()? {
        let file = entry.into_diagnostic()?.path();
        if file.extension().is_some_and(|extension| extension == "safetensors" || extension == "json") {
            identify(&mut key, &file)?;
        }
    }
    let (converted, _) = cache.file(&key.finalize(), "safetensors", |unfinished| {
        progress
            .during(&format!("converting weights to {storage}"), || {
                write_cast(&model.weights, model.parameter_names(), storage, unfinished)
            })
            .into_diagnostic()
    })?;
    let weights = Weights::open(&converted).into_diagnostic()?;
    Model::with_weights(model.folder, weights, precision).into_diagnostic()
}

/// Adds a file's identity to a key: where it lies, how long it is, and when it was written.
fn identify(key: &mut blake3::Hasher, path: &Path) -> Result<()> {
    let path = path.canonicalize().into_diagnostic()?;
    let metadata = path.metadata().into_diagnostic()?;
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let text = format!("\0{}\0{}\0{}", path.display(), metadata.len(), modified.as_nanos());
    key.update(text.as_bytes());
    Ok(())
}

/// The most specific target whose code the device runs.
fn best_target(device: &dyn Device) -> Result<Target> {
    let runs = |target: &Target| {
        let signature = match target {
            Target::Host => artifact::Target::native_host(),
            Target::Cuda(chip) => artifact::Target::Cuda { architecture: chip.to_string() },
        };
        device.check(&signature).is_ok()
    };
    let best = Target::ALL.into_iter().filter(runs).max_by_key(|target| target.chip());
    best.ok_or_else(|| miette!("there is no target for device `{}`, {}", device.name(), device.description()))
}

/// The model's artifact, compiled now or before.
fn compiled(model: &Model, device: &dyn Device, cache: &Cache, progress: &Progress) -> Result<(Artifact, bool)> {
    let target = best_target(device)?;
    // Another build of the compiler may make other code.
    let mut build = blake3::Hasher::new();
    identify(&mut build, &std::env::current_exe().into_diagnostic()?)?;
    let folder = cache.folder().join(format!("compiled-{}", &build.finalize().to_hex()[..16]));
    let options = CompileOptions { cache: Some(folder), ..CompileOptions::new(target) };
    let compiled = progress
        .during(&format!("compiling for {target}"), || compile(&model.module, &options))
        .into_diagnostic()
        .wrap_err_with(|| format!("cannot compile the model for {target}"))?;
    let (seconds, from_cache) = (compiled.report.total.as_secs_f64(), compiled.report.from_cache);
    tracing::info!(%target, seconds, from_cache, kernels = compiled.report.kernels.len(), "compiled");
    Ok((compiled.artifact, from_cache))
}
