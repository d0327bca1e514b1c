//! From a model's folder to a model that runs: weights, and what the cache keeps of them.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use miette::{IntoDiagnostic, Result, WrapErr, miette};
use tessera_ir::Storage;
use tessera_models::generation::Engine;
use tessera_models::network::PAGE_SIZE;
use tessera_models::reference::ReferenceEngine;
use tessera_models::weights::write_cast;
use tessera_models::{Model, ModelConfig};
use tessera_runtime::Weights;

use crate::arguments::{ModelArguments, RunArguments, WeightStorage};
use crate::cache::Cache;
use crate::progress::Progress;

/// The device that is none: the graph IR's reference evaluation.
const REFERENCE: &str = "reference";

/// A model that is ready to run.
pub struct Session {
    pub model: Model,
    /// How long compiling took, or finding what was compiled before.
    pub compiling: Duration,
    /// Whether both functions had been compiled before.
    pub from_cache: bool,
    /// How long loading code and weights took.
    pub loading: Duration,
}

impl Session {
    pub fn open(model: &ModelArguments, run: &RunArguments, progress: &Progress) -> Result<Self> {
        if run.device != REFERENCE {
            return Err(miette!("there is no device `{}`; this build has `{REFERENCE}` alone", run.device));
        }
        let cache = if run.no_cache { Cache::temporary()? } else { Cache::open()? };
        let model = open_model(model, &cache, progress)?;
        Ok(Self { model, compiling: Duration::ZERO, from_cache: false, loading: Duration::ZERO })
    }

    /// Tokens in one page of the KV cache.
    pub fn page_size(&self) -> usize {
        PAGE_SIZE as usize
    }

    /// The longest sequence, in tokens.
    pub fn context(&self) -> usize {
        self.model.folder.config.context() as usize
    }

    /// The model with a KV cache of `pages` pages.
    pub fn engine(&self, pages: usize) -> Result<Box<dyn Engine>> {
        Ok(Box::new(ReferenceEngine::new(&self.model, pages).into_diagnostic()?))
    }
}

/// Opens a model's folder, with its weights in the storage that was asked for.
pub fn open_model(arguments: &ModelArguments, cache: &Cache, progress: &Progress) -> Result<Model> {
    let path = &arguments.model;
    let model =
        Model::open(path).into_diagnostic().wrap_err_with(|| format!("cannot open the model {}", path.display()))?;
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
    Model::with_weights(model.folder, weights).into_diagnostic()
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
