//! Models on a device: the compiled step and the compiled sampling function, and a KV cache.

use std::borrow::Cow;
use std::sync::Arc;

use tessera_runtime::device::Device;
use tessera_runtime::execute::{Executable, KvCache, LaunchTime, RunError, Session, TensorView};
use tessera_runtime::pages::Pool;
use tessera_runtime::{Artifact, Weights};

use crate::error::{ModelError, Result};
use crate::folder::ModelConfig;
use crate::generation::{CacheLayout, Engine, SampleRows, Step};
use crate::network::{SAMPLE, STEP};

/// A model's two functions, loaded on a device with their weights. [`LoadedModel::engine`] runs them.
#[derive(Debug, Clone)]
pub struct LoadedModel {
    step: Executable,
    sample: Executable,
    vocabulary: usize,
    context: usize,
    caches: CacheLayout,
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
        Ok(Self {
            caches: CacheLayout::of_plan(step.plan())?,
            vocabulary: config.vocabulary() as usize,
            context: config.context() as usize,
            sample: Executable::load_function(artifact, SAMPLE, weights, device)?,
            step,
        })
    }

    /// Tokens in one page of a KV cache.
    pub fn page_size(&self) -> usize {
        self.caches.page_size
    }

    /// How the KV caches are divided into pages.
    pub fn caches(&self) -> &CacheLayout {
        &self.caches
    }

    /// The longest sequence, in tokens.
    pub fn context(&self) -> usize {
        self.context
    }

    /// An engine with KV caches of `pages` pages each. Engines of one model share its weights.
    pub fn engine(&self, pages: usize) -> Result<RuntimeEngine> {
        self.engine_with(&vec![pages; self.caches.windows.len()])
    }

    /// An engine with KV caches of so many pages, for example those of [`pages_for`](crate::generation::pages_for).
    pub fn engine_with(&self, pages: &[usize]) -> Result<RuntimeEngine> {
        let plan = self.step.plan();
        let mut caches = Vec::with_capacity(plan.caches.len());
        for (index, cache) in plan.caches.iter().enumerate() {
            let Some(page_table) = plan.page_table(index) else {
                let message =
                    format!("nothing in the artifact's @{STEP} says which input is the page table of `{}`", cache.name);
                return Err(ModelError::Request(message));
            };
            let pages = pages.get(index).copied().unwrap_or(0) as u64;
            let memory = KvCache::new(&self.step, &cache.name, pages)?;
            caches.push(EngineCache { name: cache.name.clone(), page_table: page_table.to_owned(), memory });
        }
        Ok(RuntimeEngine {
            caches,
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
    caches: Vec<EngineCache>,
    logits: Vec<f32>,
}

#[derive(Debug)]
struct EngineCache {
    name: String,
    /// The name of its page table.
    page_table: String,
    memory: KvCache,
}

/// Inputs by name, and caches.
type Arguments<'a> = (Vec<(&'a str, TensorView<'a>)>, Vec<(&'a str, &'a mut KvCache)>);

/// What the function of a step is called with.
fn arguments<'a>(caches: &'a mut [EngineCache], step: &'a Step) -> Result<Arguments<'a>> {
    let mut inputs = vec![
        ("tokens", TensorView::vector(&step.tokens)),
        ("positions", TensorView::vector(&step.positions)),
        ("sequences", TensorView::vector(&step.sequences)),
        ("rows", TensorView::vector(&step.rows)),
    ];
    let mut memories = Vec::with_capacity(caches.len());
    for (cache, table) in caches.iter_mut().zip(&step.page_tables) {
        inputs.push((&cache.page_table, TensorView::new(&table.shape, &table.entries)?));
        memories.push((cache.name.as_str(), &mut cache.memory));
    }
    Ok((inputs, memories))
}

impl RuntimeEngine {
    /// Computes a step one launch at a time, and says how long each took; the logits are not to be had afterwards.
    pub fn profile(&mut self, step: &Step) -> Result<Vec<LaunchTime>> {
        let (inputs, mut caches) = arguments(&mut self.caches, step)?;
        Ok(self.step.profile(&inputs, &mut caches)?)
    }
}

impl Engine for RuntimeEngine {
    fn vocabulary(&self) -> usize {
        self.model.vocabulary
    }

    fn context(&self) -> usize {
        self.model.context
    }

    fn page_size(&self) -> usize {
        self.model.caches.page_size
    }

    fn pools(&self) -> Vec<Pool> {
        let pages: Vec<usize> = self.caches.iter().map(|cache| cache.memory.pages() as usize).collect();
        self.model.caches.pools(&pages)
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        let (inputs, mut caches) = arguments(&mut self.caches, step)?;
        let outputs = self.step.run(&inputs, &mut caches)?;
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
