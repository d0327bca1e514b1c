//! Follows a plan with the tile interpreter in place of a device.

use std::collections::BTreeMap;

use tessera_ir::Function;
use tessera_ir::evaluate::{KvCache, Parameters, Tensor, Value};
use tessera_runtime::plan::{Argument, BufferReference, Plan};

use crate::schedule::Lowered;
use crate::tile::{self, interpret::ArgumentData, interpret::TensorData, interpret::interpret};

/// The buffers of a plan in use.
struct Machine<'p> {
    /// Whether every launch is also run natively, and compared.
    native: bool,
    plan: &'p Plan,
    symbols: Vec<u64>,
    buffers: BTreeMap<BufferReference, Vec<u8>>,
}

/// A value as devices hold it.
pub fn bytes_of(value: &Value) -> Vec<u8> {
    match value {
        Value::Tensor(tensor) => tensor.to_bytes().unwrap(),
        Value::Cache(cache) => {
            let storage = cache.ty().storage;
            let count = cache.elements().len();
            Tensor::from_floats(storage, [count], cache.elements().to_vec()).unwrap().to_bytes().unwrap()
        }
    }
}

/// A cache with the contents that a device holds.
pub fn cache_from(like: &KvCache, bytes: &[u8]) -> KvCache {
    let count = like.elements().len();
    let tensor = Tensor::from_bytes(like.ty().storage, [count], bytes).unwrap();
    let elements = tensor.to_floats();
    let mut cache = like.clone();
    let ty = like.ty().clone();
    let row = (ty.heads * ty.dim) as usize;
    let mut rows = elements.chunks(row);
    for layer in 0..ty.layers as usize {
        for part in 0..2 {
            for page in 0..like.pages() {
                for slot in 0..ty.page_size as usize {
                    cache.token_mut(layer, part, page, slot).copy_from_slice(rows.next().unwrap());
                }
            }
        }
    }
    cache
}

/// Runs a lowered function on values, in the order of its inputs; gives its outputs.
pub fn execute(
    lowered: &Lowered,
    function: &Function,
    inputs: &[Value],
    parameters: &Parameters,
    native: bool,
) -> Vec<Value> {
    let plan = &lowered.plans[0];
    let mut machine = Machine { native, plan, symbols: vec![0; plan.symbols.len()], buffers: BTreeMap::new() };
    let (mut tensors, mut caches) = (0, 0);
    for value in inputs {
        let reference = match value {
            Value::Tensor(tensor) => {
                for (extent, dimension) in plan.inputs[tensors].shape.iter().zip(tensor.shape()) {
                    if let tessera_runtime::plan::Extent::Symbol(symbol) = extent {
                        machine.symbols[*symbol] = *dimension as u64;
                    }
                }
                tensors += 1;
                BufferReference::Input(tensors - 1)
            }
            Value::Cache(cache) => {
                machine.symbols[plan.caches[caches].pages] = cache.pages() as u64;
                caches += 1;
                BufferReference::Cache(caches - 1)
            }
        };
        machine.buffers.insert(reference, bytes_of(value));
    }
    for (index, parameter) in plan.parameters.iter().enumerate() {
        let tensor = &parameters[parameter.name.as_str()];
        let stored = tensor.to_bytes().unwrap();
        let bytes = match &parameter.layout {
            None => stored,
            Some(layout) => {
                let mover = layout.mover();
                let parts = stored.chunks(mover.stored_bytes()).flat_map(|part| {
                    let mut laid_out = Vec::new();
                    mover.lay_out(part, &mut laid_out);
                    laid_out
                });
                parts.collect()
            }
        };
        machine.buffers.insert(BufferReference::Parameter(index), bytes);
    }
    for (index, constant) in plan.constants.iter().enumerate() {
        let range = constant.offset as usize..(constant.offset + constant.bytes) as usize;
        machine.buffers.insert(BufferReference::Constant(index), lowered.constants[range].to_vec());
    }
    for (index, slot) in plan.slots.iter().enumerate() {
        let bytes = slot.bytes.evaluate(&machine.symbols).unwrap();
        machine.buffers.insert(BufferReference::Slot(index), vec![0xff; bytes as usize]);
    }
    for (index, output) in plan.outputs.iter().enumerate() {
        let bytes = output.bytes(&machine.symbols).unwrap();
        machine.buffers.insert(BufferReference::Output(index), vec![0xff; bytes as usize]);
    }
    for launch in &plan.launches {
        if launch.guard.as_ref().is_none_or(|guard| guard.holds(&machine.symbols).unwrap()) {
            let name = &plan.kernels[launch.kernel].name;
            let program = lowered.programs.iter().find(|program| program.name == *name).unwrap();
            machine.launch(program, &launch.arguments, &launch.label);
        }
    }
    let (mut tensors, mut caches_seen) = (0, 0);
    let outputs: Vec<Value> = function
        .outputs()
        .map(|ty| match ty.as_tensor() {
            Some(ty) => {
                let output = &plan.outputs[tensors];
                let shape: Vec<usize> =
                    output.shape.iter().map(|extent| extent.evaluate(&machine.symbols).unwrap() as usize).collect();
                let bytes = &machine.buffers[&BufferReference::Output(tensors)];
                tensors += 1;
                Value::Tensor(Tensor::from_bytes(ty.storage(), shape, bytes).unwrap())
            }
            None => {
                let like = inputs.iter().filter_map(Value::as_cache).nth(caches_seen).unwrap();
                let cache = cache_from(like, &machine.buffers[&BufferReference::Cache(caches_seen)]);
                caches_seen += 1;
                Value::Cache(cache)
            }
        })
        .collect();
    outputs
}

impl Machine<'_> {
    fn launch(&mut self, program: &tile::Program, arguments: &[Argument], label: &str) {
        let mut data: Vec<ArgumentData> = Vec::new();
        let mut places: Vec<Option<(BufferReference, usize)>> = Vec::new();
        for (argument, declared) in arguments.iter().zip(&program.arguments) {
            match (argument, declared) {
                (Argument::Integer(extent), _) => {
                    data.push(ArgumentData::Integer(extent.evaluate(&self.symbols).unwrap() as i64));
                    places.push(None);
                }
                (Argument::Float(value), _) => {
                    data.push(ArgumentData::Float(*value));
                    places.push(None);
                }
                (Argument::Buffer { reference, byte_offset }, tile::Argument::Tensor(tensor)) => {
                    let offset = byte_offset.evaluate(&self.symbols).unwrap() as usize;
                    let bytes = &self.buffers[reference][offset..];
                    let mut memory = TensorData::unwritten(tensor.element, bytes.len() / tensor.element.bytes());
                    memory.bytes_mut().copy_from_slice(bytes);
                    data.push(ArgumentData::Tensor(memory));
                    places.push(Some((*reference, offset)));
                }
                _ => panic!("a buffer is passed for a scalar"),
            }
        }
        let before = data.clone();
        if let Err(error) = interpret(program, &mut data) {
            panic!("{label}: {error}\n{program}");
        }
        if self.native {
            crate::target::host::tests::compare_with_interpreter(program, before, &data, label);
        }
        for ((data, place), declared) in data.iter().zip(places).zip(&program.arguments) {
            let (ArgumentData::Tensor(memory), Some((reference, offset))) = (data, place) else { continue };
            let tile::Argument::Tensor(tensor) = declared else { continue };
            if tensor.access == tile::Access::Read {
                continue;
            }
            // What the kernel left alone may have been written through another argument.
            let before = self.buffers.get_mut(&reference).unwrap();
            for (old, new) in before[offset..].iter_mut().zip(memory.bytes()) {
                *old = *new;
            }
        }
        let _ = self.plan;
    }
}
