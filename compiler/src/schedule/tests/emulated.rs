//! The PTX of lowered functions, on the emulated GPU: through the runtime and the CUDA driver API, with the emulator's checker on.

use std::sync::{Arc, OnceLock};

use tessera_ir::evaluate::{KvCache, Parameters, Tensor, Value};
use tessera_ir::{Function, Storage};
use tessera_runtime::cuda::Cuda;
use tessera_runtime::device::Device;
use tessera_runtime::plan::ElementType;
use tessera_runtime::{Executable, Session, TensorView, Weights};

use super::machine::{bytes_of, cache_from};
use crate::driver::{Dumps, Report, code};
use crate::schedule::Lowered;
use crate::target::Chip;

/// The emulated GPU of this process, an H100 that runs code for Ampere too. Cargo has built its driver beside this test.
fn device() -> Arc<dyn Device> {
    static DEVICE: OnceLock<Arc<Cuda>> = OnceLock::new();
    let open = || {
        let test = std::env::current_exe().unwrap();
        Cuda::open_on(&test.with_file_name("libcuda.so"), 0).unwrap()
    };
    DEVICE.get_or_init(open).clone()
}

fn element_of(storage: Storage) -> ElementType {
    storage.name().parse().unwrap()
}

fn shape_of(tensor: &Tensor) -> Vec<u64> {
    tensor.shape().iter().map(|extent| *extent as u64).collect()
}

/// Compiles a lowered function for a chip and runs it on values, in the order of its inputs; gives its outputs. Caches start empty.
pub fn execute(
    lowered: Lowered,
    chip: Chip,
    function: &Function,
    inputs: &[Value],
    parameters: &Parameters,
) -> Vec<Value> {
    let artifact = code::ptx(lowered, chip, &Dumps::default(), &mut Report::default()).unwrap();
    let mut weights = Weights::in_memory();
    for (name, tensor) in parameters {
        let bytes = tensor.to_bytes().unwrap();
        weights.insert(name.as_str(), element_of(tensor.storage()), shape_of(tensor), bytes).unwrap();
    }
    let executable = Executable::load(&artifact, &weights, &device()).unwrap();
    let plan = executable.plan();

    let tensors: Vec<&Tensor> = inputs.iter().filter_map(Value::as_tensor).collect();
    let given: Vec<(Vec<u64>, Vec<u8>)> =
        tensors.iter().map(|tensor| (shape_of(tensor), tensor.to_bytes().unwrap())).collect();
    let views: Vec<(&str, TensorView)> = (plan.inputs.iter().zip(&given))
        .map(|(input, (shape, bytes))| {
            (input.name.as_str(), TensorView::from_bytes(input.element, shape, bytes).unwrap())
        })
        .collect();
    let empty: Vec<&KvCache> = inputs.iter().filter_map(Value::as_cache).collect();
    let mut caches: Vec<tessera_runtime::KvCache> = (plan.caches.iter().zip(&empty))
        .map(|(cache, like)| tessera_runtime::KvCache::new(&executable, &cache.name, like.pages() as u64).unwrap())
        .collect();
    let mut named: Vec<(&str, &mut tessera_runtime::KvCache)> =
        plan.caches.iter().map(|cache| cache.name.as_str()).zip(&mut caches).collect();

    let mut session = Session::new(&executable);
    let found = session.run(&views, &mut named).unwrap();
    let found: Vec<Tensor> = found
        .names()
        .enumerate()
        .map(|(index, _)| {
            let view = found.at(index).unwrap();
            let shape: Vec<usize> = view.shape().iter().map(|extent| *extent as usize).collect();
            Tensor::from_bytes(view.element().name().parse().unwrap(), shape, view.bytes()).unwrap()
        })
        .collect();
    drop(named);
    let mut found = found.into_iter();
    let mut states = empty.iter().zip(&caches);
    function
        .outputs()
        .map(|ty| match ty.as_tensor() {
            Some(_) => Value::Tensor(found.next().unwrap()),
            None => {
                let (like, cache) = states.next().unwrap();
                assert_eq!(bytes_of(&Value::Cache((*like).clone())).iter().max(), Some(&0), "caches start empty");
                Value::Cache(cache_from(like, &cache.read().unwrap()))
            }
        })
        .collect()
}
