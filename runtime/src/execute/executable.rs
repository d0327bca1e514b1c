//! A model, loaded on a device with its weights.

use std::ops::Range;
use std::sync::Arc;

use super::RunError;
use super::arena;
use crate::artifact::Artifact;
use crate::device::{Device, DeviceError, Memory, Module};
use crate::plan::{Layout, Plan};
use crate::weights::{LayoutCache, WeightBytes, Weights, for_each_part};

/// A compiled function on a device, with its weights. Clones share everything; make a [`super::Session`] to run it.
#[derive(Clone, Debug)]
pub struct Executable {
    pub(super) loaded: Arc<Loaded>,
}

#[derive(Debug)]
pub(super) struct Loaded {
    pub plan: Plan,
    pub lifetimes: Vec<Range<usize>>,
    pub parameters: Vec<Box<dyn Memory>>,
    pub constants: Vec<Box<dyn Memory>>,
    pub module: Box<dyn Module>,
    pub device: Arc<dyn Device>,
}

impl Executable {
    /// Loads the first function of an artifact on a device and binds the weights it names. Weights that it does not use are ignored.
    pub fn load(artifact: &Artifact, weights: &Weights, device: &Arc<dyn Device>) -> Result<Executable, RunError> {
        Executable::load_plan(artifact, artifact.plan(), weights, device)
    }

    /// Loads a function of an artifact by name.
    pub fn load_function(
        artifact: &Artifact,
        function: &str,
        weights: &Weights,
        device: &Arc<dyn Device>,
    ) -> Result<Executable, RunError> {
        Executable::load_plan(artifact, artifact.function(function)?, weights, device)
    }

    fn load_plan(
        artifact: &Artifact,
        plan: &Plan,
        weights: &Weights,
        device: &Arc<dyn Device>,
    ) -> Result<Executable, RunError> {
        device.check(artifact.target()).map_err(DeviceError::from)?;
        // Every weight is checked before any is bound: binding may mean gigabytes of copies.
        let found = plan.parameters.iter().map(|parameter| weights.find(parameter)).collect::<Result<Vec<_>, _>>()?;
        let module = device.clone().load(artifact, plan)?;
        let cache = artifact.path().map(LayoutCache::beside);
        let bound = plan.parameters.iter().zip(&found).map(|(parameter, weight)| match &parameter.layout {
            None => device.bind_weight(&weight.bytes),
            Some(layout) => bind_laid_out(&weight.bytes, layout, cache.as_ref(), device.as_ref()),
        });
        let parameters = bound.collect::<Result<_, _>>()?;
        let mut constants = Vec::new();
        for constant in &plan.constants {
            let mut memory = device.allocate(constant.bytes)?;
            // The artifact has checked that the range lies within its constants.
            let bytes = &artifact.constants()[constant.offset as usize..][..constant.bytes as usize];
            device.upload(bytes, memory.as_mut())?;
            constants.push(memory);
        }
        device.synchronize()?;
        let lifetimes = arena::lifetimes(plan);
        let (plan, device) = (plan.clone(), device.clone());
        Ok(Executable { loaded: Arc::new(Loaded { plan, lifetimes, parameters, constants, module, device }) })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.loaded.plan
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.loaded.device
    }
}

/// A weight in the memory of a device, in a layout that its plan asks for.
fn bind_laid_out(
    weight: &WeightBytes,
    layout: &Layout,
    cache: Option<&LayoutCache>,
    device: &dyn Device,
) -> Result<Box<dyn Memory>, DeviceError> {
    // A valid plan's layouts have a size.
    let mut memory = device.allocate(layout.bytes().unwrap_or(0))?;
    for_each_part(weight, layout, cache, |offset, part| device.upload_at(part, memory.as_mut(), offset))?;
    Ok(memory)
}
