//! Models by the reference evaluation of the graph IR: slow and exact, to compare everything else with.

use std::borrow::Cow;

use tessera_ir::evaluate::{KvCache, Parameters, Tensor, Value, evaluate};
use tessera_ir::{KvCacheType, Module, Storage};
use tessera_runtime::Weights;
use tessera_runtime::pages::Pool;

use crate::error::{ModelError, Result};
use crate::generation::{CacheLayout, Engine, SampleRows, Step};
use crate::model::Model;
use crate::network::{CACHES, SAMPLE, STEP};
use crate::weights::storage_of;

/// Runs a model's functions by the reference evaluation.
pub struct ReferenceEngine {
    module: Module,
    parameters: Parameters,
    vocabulary: usize,
    context: usize,
    layout: CacheLayout,
    caches: Vec<KvCache>,
    /// The logits of the last step's rows, `[R, V]`.
    logits: Vec<f32>,
}

impl ReferenceEngine {
    /// An engine with KV caches of `pages` pages each.
    pub fn new(model: &Model, pages: usize) -> Result<Self> {
        Self::with_pages(model, &[pages; CACHES.len()])
    }

    /// An engine with KV caches of so many pages.
    pub fn with_pages(model: &Model, pages: &[usize]) -> Result<Self> {
        let parameters = parameters(&model.module, &model.weights)?;
        let cache = |(ty, pages): (KvCacheType, &usize)| Ok(KvCache::new(ty, *pages)?);
        let caches = cache_types(&model.module).into_iter().zip(pages).map(cache).collect::<Result<_>>()?;
        Ok(Self {
            module: model.module.clone(),
            parameters,
            vocabulary: model.folder.config.vocabulary() as usize,
            context: model.folder.config.context() as usize,
            layout: CacheLayout::of_module(&model.module)?,
            caches,
            logits: Vec::new(),
        })
    }
}

/// The types of the KV caches that a model's step threads through.
pub fn cache_types(module: &Module) -> Vec<KvCacheType> {
    let step = module.function(STEP);
    step.iter().flat_map(|step| step.inputs()).filter_map(|(_, ty)| ty.as_cache().cloned()).collect()
}

fn parameters(module: &Module, weights: &Weights) -> Result<Parameters> {
    let stored = |name: &str| -> Result<Option<Tensor>> {
        let Some(stored) = weights.get(name) else { return Ok(None) };
        let Some(storage) = storage_of(stored.element) else { return Ok(None) };
        let shape: Vec<usize> = stored.shape.iter().map(|&extent| extent as usize).collect();
        Ok(Some(Tensor::from_bytes(storage, shape, stored.bytes.as_slice())?))
    };
    let mut parameters = Parameters::new();
    for (name, ty) in &module.parameters {
        let tensor = match ty.storage().blocks() {
            None => stored(name)?,
            Some(format) => {
                let [elements, scales] = format.names(name);
                let shape: Vec<usize> =
                    ty.shape.iter().filter_map(|dim| dim.as_static()).map(|extent| extent as usize).collect();
                match stored(&elements)?.zip(stored(&scales)?) {
                    Some((elements, scales)) => Some(Tensor::from_blocks(ty.storage(), shape, &elements, &scales)?),
                    None => None,
                }
            }
        };
        parameters.extend(tensor.map(|tensor| (name.clone(), tensor)));
    }
    Ok(parameters)
}

impl Engine for ReferenceEngine {
    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn context(&self) -> usize {
        self.context
    }

    fn page_size(&self) -> usize {
        self.layout.page_size
    }

    fn pools(&self) -> Vec<Pool> {
        self.layout.pools(&self.caches.iter().map(KvCache::pages).collect::<Vec<_>>())
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        let vector = |elements: &[i32]| Tensor::from_i32([elements.len()], elements);
        let tables = step
            .page_tables
            .iter()
            .map(|table| Tensor::from_i32(table.shape.map(|extent| extent as usize), &table.entries).map(Value::from));
        let mut inputs: Vec<Value> =
            vec![vector(&step.tokens)?.into(), vector(&step.positions)?.into(), vector(&step.sequences)?.into()];
        inputs.extend(tables.collect::<std::result::Result<Vec<_>, _>>()?);
        inputs.push(vector(&step.rows)?.into());
        inputs.extend(self.caches.drain(..).map(Value::from));
        let mut outputs = evaluate(&self.module, STEP, &inputs, &self.parameters)?.into_iter();
        let Some(Value::Tensor(logits)) = outputs.next() else {
            return Err(ModelError::InvalidConfig(format!("@{STEP} does not return logits")));
        };
        self.logits = logits.to_floats().iter().map(|logit| *logit as f32).collect();
        self.caches = outputs.filter_map(|output| output.as_cache().cloned()).collect();
        Ok(())
    }

    fn logits(&self) -> Cow<'_, [f32]> {
        Cow::Borrowed(&self.logits)
    }

    fn logits_mut(&mut self) -> Result<&mut [f32]> {
        Ok(&mut self.logits)
    }

    fn sample(&mut self, rows: &SampleRows) -> Result<Vec<u32>> {
        let count = [rows.seed.len()];
        let seeds = rows.seed.clone();
        let inputs: [Value; 6] = [
            Tensor::from_f32([rows.seed.len(), self.vocabulary], &self.logits)?.into(),
            Tensor::from_f32(count, &rows.temperature)?.into(),
            Tensor::from_i32(count, &rows.top_k)?.into(),
            Tensor::from_f32(count, &rows.top_p)?.into(),
            Tensor::from_integers(Storage::I64, count, seeds)?.into(),
            Tensor::from_i32(count, &rows.counter)?.into(),
        ];
        let outputs = evaluate(&self.module, SAMPLE, &inputs, &Parameters::new())?;
        let tokens = outputs.first().and_then(Value::as_tensor);
        Ok(tokens.map(|tokens| tokens.to_integers().iter().map(|&id| id as u32).collect()).unwrap_or_default())
    }
}
