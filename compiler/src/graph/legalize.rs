//! The pass `legalize`.

use tessera_ir::{Function, Graph, Module, NodeId, OpError, Storage, TensorType, Type, ValueId, ops};

use super::pass::{Context, Pass, PassError};
use super::remark::RemarkKind;
use crate::target::{Chip, Target};

/// Makes numeric policies fit the units of the target.
///
/// Both sides of a product get the storage that the target's matmul units take: where it has none for fp8, or the sides differ, they are
/// converted to the narrowest storage that holds both exactly and that the units take. `fuse` puts the conversion of a weight into the product's
/// loop, so that the weight is still read in its narrow form. A policy that no unit can honour is an error, and so is an append to a KV cache
/// that would overwrite what is read later.
///
/// # Limits
///
/// Accumulators wider than asked for are honoured silently, because they only make results better. Elementwise operations are not touched: they compute in
/// f32 on every target.
pub struct Legalize;

impl Pass for Legalize {
    fn run(&self, module: &mut Module, context: &mut Context) -> Result<bool, PassError> {
        let mut changed = false;
        for function in &mut module.functions {
            let Function { name, graph } = function;
            for node in graph.topological_order() {
                let remark = check_storage(graph, node, context.target)
                    .and_then(|()| check_append(graph, node))
                    .and_then(|()| legalize_product(graph, node, context.target))
                    .map_err(|error| {
                        let place = graph.node(node).span();
                        PassError::of(name.as_str(), super::describe(graph, node), error).at(place)
                    })?;
                if let Some(remark) = remark {
                    let operation = super::describe(graph, node);
                    context.remark("legalize", RemarkKind::Applied, name.as_str(), operation, remark);
                    changed = true;
                }
            }
        }
        Ok(changed)
    }
}

/// Storage that kernels can load and store.
fn is_addressable(storage: Storage) -> bool {
    storage.blocks().is_none() && !matches!(storage, Storage::Fp6E2m3 | Storage::Fp6E3m2 | Storage::Fp4E2m1)
}

/// Refuses values that the target cannot load.
fn check_storage(graph: &Graph, node: NodeId, target: Target) -> Result<(), OpError> {
    // What memory holds in parts is never stored whole.
    let is_packed = |value: ValueId| graph.operation(value.node).is_some_and(|found| found.is(ops::BLOCK_SCALED));
    if is_packed(ValueId::first(node)) && !graph.is_output(ValueId::first(node)) {
        return Ok(());
    }
    for ty in graph.node(node).results() {
        let storage = match ty {
            Type::Tensor(tensor) => tensor.storage(),
            Type::KvCache(cache) => cache.storage,
        };
        if !is_addressable(storage) {
            return Err(OpError::operation(format!("{target} has no kernels that read or write {storage}"))
                .help("store the tensor as fp8_e4m3, bf16 or a wider type"));
        }
    }
    Ok(())
}

/// Refuses an append to a cache that is read afterwards as it was before.
fn check_append(graph: &Graph, node: NodeId) -> Result<(), OpError> {
    let is_append = graph.operation(node).is_some_and(|operation| operation.is(ops::KV_APPEND));
    let Some(cache) = graph.operands(node).first().copied().filter(|_| is_append) else { return Ok(()) };
    for (reader, _) in graph.users(cache) {
        if reader != node && depends_on(graph, reader, node) {
            return Err(OpError::operation(format!(
                "the append overwrites the cache that {} reads as it was before",
                super::describe(graph, reader)
            ))
            .help("pass it the cache that the append returns"));
        }
    }
    if graph.is_output(cache) {
        return Err(OpError::operation("the append overwrites a cache that the function returns as it was before")
            .help("return the cache that the append returns"));
    }
    Ok(())
}

/// Whether `later` needs a result of `earlier`.
fn depends_on(graph: &Graph, later: NodeId, earlier: NodeId) -> bool {
    petgraph::algo::has_path_connecting(graph.petgraph(), earlier, later, None)
}

/// Gives both sides of a product the storage of the units that will multiply them; the remark says which.
fn legalize_product(graph: &mut Graph, node: NodeId, target: Target) -> Result<Option<String>, OpError> {
    let Some(operation) = graph.operation(node).filter(|operation| operation.is(ops::MATMUL)) else { return Ok(None) };
    let op = operation.op();
    let operands = graph.operands(node);
    let tensors: Option<Vec<TensorType>> =
        operands.iter().map(|operand| graph.value_type(*operand).as_tensor().cloned()).collect();
    let (Some(tensors), Some(result)) = (tensors, graph.value_type(ValueId::first(node)).as_tensor().cloned()) else {
        return Ok(None);
    };
    let [lhs, rhs] = tensors.as_slice() else { return Ok(None) };

    let mut widest = Storage::F32;
    for tensor in [lhs, rhs, &result] {
        if let Some(message) = accumulator_objection(tensor) {
            return Err(OpError::operation(message).of(op));
        }
        if tensor.policy.accumulator == Some(Storage::F64) {
            widest = Storage::F64;
        }
    }
    let unit = match widest {
        Storage::F64 => Storage::F64,
        _ => unit_storage(lhs.storage(), rhs.storage(), target),
    };
    let mut converted = Vec::new();
    for (index, tensor) in tensors.iter().enumerate() {
        if tensor.storage() == unit {
            continue;
        }
        let value = operands[index];
        let ty = TensorType { policy: unit.into(), ..tensor.clone() };
        let mut build = graph.builder();
        let cast = build.returning(ty).cast(value, ops::Cast { to: unit })?;
        graph.set_operand(node, index, cast);
        converted.push(format!("{} from {}", ["the left side", "the right side"][index.min(1)], tensor.storage()));
    }
    if converted.is_empty() {
        return Ok(None);
    }
    // The storage of the result follows the left side unless it is written: keep what it was.
    graph.set_value_type(ValueId::first(node), result);
    let sides = converted.join(" and ");
    Ok(Some(format!("reads {sides} as {unit}: {}", reason(lhs, rhs, unit, target))))
}

/// Why no unit can honour the policy of a tensor that is multiplied, if so.
fn accumulator_objection(tensor: &TensorType) -> Option<String> {
    let (storage, accumulator) = (tensor.storage(), tensor.policy.accumulator?);
    tensor.policy.objection()?;
    let least = if storage.bits() < 16 { Storage::F16 } else { Storage::F32 };
    Some(format!("{storage} matmul requires accum ≥ {least}; found accum={accumulator}"))
}

/// The narrowest storage that the target multiplies and that holds both sides exactly.
fn unit_storage(lhs: Storage, rhs: Storage, target: Target) -> Storage {
    let units: &[Storage] = match target {
        Target::Cuda(chip) if chip.multiplies_fp8() => {
            &[Storage::Fp8E4m3, Storage::Fp8E5m2, Storage::Bf16, Storage::F16, Storage::F32]
        }
        _ => &[Storage::Bf16, Storage::F16, Storage::F32],
    };
    let holds = super::rewrite::holds;
    let fits = |unit: &&Storage| holds(**unit, lhs) && holds(**unit, rhs);
    units.iter().find(fits).copied().unwrap_or(Storage::F64)
}

fn reason(lhs: &TensorType, rhs: &TensorType, unit: Storage, target: Target) -> String {
    let fp8 = |tensor: &TensorType| tensor.storage().bits() == 8;
    match unit {
        Storage::F64 => "sums are asked for in f64".to_owned(),
        _ if fp8(lhs) && fp8(rhs) && !target.chip().is_some_and(Chip::multiplies_fp8) => {
            format!("{target} has no fp8 matmul units")
        }
        _ => "matmul units take both sides in one storage".to_owned(),
    }
}
