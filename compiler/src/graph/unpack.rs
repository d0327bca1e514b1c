//! The pass `unpack`.

use std::collections::BTreeMap;

use tessera_ir::{Function, Module, Name, NodeKind, OpError, TensorType, ValueId};

use super::pass::{Context, Pass, PassError};

/// Replaces parameters of block-scaled storage by the tensors that hold them in a checkpoint, their elements and their scales, and a
/// `block_scaled` that makes one value of the two. Kernels read them as they lie.
///
/// # Limits
///
/// Inputs of functions stay as they are: a caller passes the parts and writes `block_scaled`.
pub struct Unpack;

impl Pass for Unpack {
    fn run(&self, module: &mut Module, _: &mut Context) -> Result<bool, PassError> {
        let packed: BTreeMap<Name, TensorType> = (module.parameters.iter())
            .filter(|(_, ty)| ty.storage().blocks().is_some())
            .map(|(name, ty)| (name.clone(), ty.clone()))
            .collect();
        for (name, ty) in &packed {
            let fail = |message: String| PassError::of("", format!("@{name}"), OpError::operation(message));
            let parts = ty.stored_as(name).ok_or_else(|| fail(format!("blocks of {ty} cannot be counted")))?;
            module.parameters.shift_remove(name);
            for (part, ty) in parts {
                if let Some(known) = module.parameters.insert(part.clone(), ty)
                    && !packed.contains_key(&part)
                {
                    return Err(fail(format!("its part @{part} has the name of another parameter, of type {known}")));
                }
            }
        }
        for function in &mut module.functions {
            let Function { name, graph } = function;
            for node in graph.topological_order() {
                let NodeKind::Parameter(parameter) = graph.node(node).kind() else { continue };
                let parameter = parameter.clone();
                let Some(ty) = packed.get(&parameter) else { continue };
                let parts = ty.stored_as(&parameter).unwrap_or_default();
                let parts: Vec<ValueId> = parts.into_iter().map(|(name, ty)| graph.parameter(name, ty)).collect();
                let [elements, scales] = parts.as_slice() else { continue };
                let whole = graph
                    .builder()
                    .block_scaled(*elements, *scales, ty.clone())
                    .map_err(|error| PassError::of(name.as_str(), format!("@{parameter}"), error))?;
                graph.set_name(whole, parameter);
                graph.replace_all_uses(ValueId::first(node), whole);
            }
            graph.remove_dead();
        }
        Ok(!packed.is_empty())
    }
}
