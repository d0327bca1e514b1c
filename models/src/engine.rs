//! Models on a device: the compiled step and the compiled sampling function, and a KV cache.

use std::borrow::Cow;
use std::sync::Arc;

use tessera_runtime::device::Device;
use tessera_runtime::execute::{Executable, KvCache, RunError, Session, TensorView};
use tessera_runtime::{Artifact, Weights};

use crate::error::{ModelError, Result};
use crate::folder::ModelConfig;
use crate::generation::{Engine, SampleRows, Step};
use crate::network::{SAMPLE, STEP};

/// A model's two functions, loaded on a device with their weights. [`LoadedModel::engine`] runs them.
#[derive(Debug, Clone)]
pub struct LoadedModel {
    step: Executable,
    sample: Executable,
    vocabulary: usize,
    context: usize,
    page_size: usize,
}

impl LoadedModel {
    /// Loads an artifact that holds both functions, and binds the weights.
    pub fn load(
        config: &ModelConfig,
        artifact: &Artifact,
        weights: &Weights,
        device: &Arc<dyn Device>,
    ) -> Result<Self> {
        let step = Executable::load_function(artifact, STEP, weights, device)?;
        let Some(cache) = step.plan().caches.first() else {
            return Err(ModelError::Request(format!(
                "the artifact's @{STEP} takes no KV cache; it is not a serving step"
            )));
        };
        Ok(Self {
            vocabulary: config.vocabulary() as usize,
            context: config.context() as usize,
            page_size: cache.page_size as usize,
            sample: Executable::load_function(artifact, SAMPLE, weights, device)?,
            step,
        })
    }

    /// Tokens in one page of the KV cache.
    pub fn page_size(&self) -> usize {
        self.page_size
    }

    /// The longest sequence, in tokens.
    pub fn context(&self) -> usize {
        self.context
    }

    /// An engine with a KV cache of `pages` pages. Engines of one model share its weights.
    pub fn engine(&self, pages: usize) -> Result<RuntimeEngine> {
        let name = self.step.plan().caches.first().map_or("", |cache| cache.name.as_str()).to_owned();
        Ok(RuntimeEngine {
            cache: KvCache::new(&self.step, &name, pages as u64)?,
            cache_name: name,
            step: Session::new(&self.step),
            sample: Session::new(&self.sample),
            logits: Vec::new(),
            model: self.clone(),
        })
    }
}

/// Runs a model's functions on a device.
#[derive(Debug)]
pub struct RuntimeEngine {
    model: LoadedModel,
    step: Session,
    sample: Session,
    cache: KvCache,
    cache_name: String,
    logits: Vec<f32>,
}

impl Engine for RuntimeEngine {
    fn vocabulary(&self) -> usize {
        self.model.vocabulary
    }

    fn context(&self) -> usize {
        self.model.context
    }

    fn page_size(&self) -> usize {
        self.model.page_size
    }

    fn pages(&self) -> usize {
        self.cache.pages() as usize
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        let inputs = [
            ("tokens", TensorView::vector(&step.tokens)),
            ("positions", TensorView::vector(&step.positions)),
            ("sequences", TensorView::vector(&step.sequences)),
            ("page_table", TensorView::new(&step.page_table.shape, &step.page_table.entries)?),
            ("rows", TensorView::vector(&step.rows)),
        ];
        let outputs = self.step.run(&inputs, &mut [(&self.cache_name, &mut self.cache)])?;
        let logits = only_output(&outputs)?;
        self.logits.clear();
        self.logits.extend_from_slice(logits.elements::<f32>()?);
        Ok(())
    }

    fn logits(&self) -> Cow<'_, [f32]> {
        Cow::Borrowed(&self.logits)
    }

    fn logits_mut(&mut self) -> Result<&mut [f32]> {
        Ok(&mut self.logits)
    }

    fn sample(&mut self, rows: &SampleRows) -> Result<Vec<u32>> {
        let shape = [rows.seed.len() as u64, self.model.vocabulary as u64];
        let inputs = [
            ("logits", TensorView::new(&shape, &self.logits)?),
            ("temperature", TensorView::vector(&rows.temperature)),
            ("top_k", TensorView::vector(&rows.top_k)),
            ("top_p", TensorView::vector(&rows.top_p)),
            ("seed", TensorView::vector(&rows.seed)),
            ("counter", TensorView::vector(&rows.counter)),
        ];
        let outputs = self.sample.run(&inputs, &mut [])?;
        let tokens = only_output(&outputs)?;
        Ok(tokens.elements::<i32>()?.iter().map(|&id| id as u32).collect())
    }
}

/// The only output that is a tensor; caches are updated in place.
fn only_output<'a>(outputs: &tessera_runtime::execute::Outputs<'a>) -> std::result::Result<TensorView<'a>, RunError> {
    outputs.get(outputs.names().next().unwrap_or_default())
}
