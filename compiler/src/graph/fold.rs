//! The pass `fold`.

use tessera_ir::evaluate::{self, Elements, Symbols, Tensor, Value};
use tessera_ir::{
    ConstantValue, Graph, Module, NodeId, Operation, Storage, TensorType, Type, ValueId, ops,
};

use super::pass::{Context, Pass, PassError};
use super::role::{Role, role};

/// Computes operations whose operands are all constants, by the reference evaluation.
///
/// # Limits
///
/// A tensor of more than [`LARGEST`] elements is not made. Where a shape is symbolic, only elementwise operations on constants of one
/// number are computed, because only their result is one number again. An operation that the reference evaluation refuses (an index out of range) is
/// left to fail when it runs. Sampling and nested graphs are left alone.
pub struct Fold;

/// Most elements of a tensor that is computed.
pub const LARGEST: u64 = 1024;

impl Pass for Fold {
    fn run(&self, module: &mut Module, _: &mut Context) -> Result<bool, PassError> {
        let mut changed = false;
        for function in &mut module.functions {
            changed |= fold(&mut function.graph);
        }
        Ok(changed)
    }
}

fn fold(graph: &mut Graph) -> bool {
    let mut changed = false;
    for node in graph.topological_order() {
        if let Some(region) = graph.operation_mut(node).and_then(|operation| operation.region_mut()) {
            changed |= fold(region);
            continue;
        }
        let value = ValueId::first(node);
        let Some((constant, ty)) = constant_for(graph, node) else { continue };
        let Ok(new) = graph.builder().constant(constant, ty) else { continue };
        if let Some(name) = graph.value_name(value).cloned() {
            graph.set_name(new, name);
        }
        graph.replace_all_uses(value, new);
        changed = true;
    }
    if changed {
        graph.remove_dead();
    }
    changed
}

/// The constant that the result of `node` is, if that can be told.
fn constant_for(graph: &Graph, node: NodeId) -> Option<(ops::Constant, TensorType)> {
    let operation = graph.operation(node)?;
    let [Type::Tensor(result)] = graph.node(node).results() else { return None };
    let operands = graph.operands(node);
    if operands.is_empty() || operation.is(ops::SAMPLE) {
        return None;
    }
    let constants: Vec<(ops::Constant, &TensorType)> = operands
        .iter()
        .map(|operand| {
            let constant = graph.defining(*operand)?.downcast::<ops::Constant>()?;
            Some((constant, graph.value_type(*operand).as_tensor()?))
        })
        .collect::<Option<_>>()?;
    let is_small = |ty: &TensorType| ty.shape.element_count().is_some_and(|count| count <= LARGEST);
    if is_small(result) && constants.iter().all(|(_, ty)| is_small(ty)) {
        return Some((evaluate(operation, &constants, result)?, result.clone()));
    }
    let is_elementwise = matches!(role(graph, node), Some(Role::Elementwise { .. })) && !operation.is(ops::DEQUANTIZE);
    if is_elementwise && constants.iter().all(|(constant, _)| constant.value.len() == 1) {
        let scalars: Vec<TensorType> = constants.iter().map(|(_, ty)| TensorType::scalar(ty.policy)).collect();
        let constants: Vec<(ops::Constant, &TensorType)> =
            constants.into_iter().map(|(constant, _)| constant).zip(&scalars).collect();
        return Some((evaluate(operation, &constants, &TensorType::scalar(result.policy))?, result.clone()));
    }
    None
}

/// The value of an operation on constants.
fn evaluate(operation: &Operation, operands: &[(ops::Constant, &TensorType)], result: &TensorType) -> Option<ops::Constant> {
    let mut symbols = Symbols::new();
    let mut values = Vec::with_capacity(operands.len());
    for (constant, ty) in operands {
        let ty = Type::Tensor((*ty).clone());
        let computed =
            evaluate::evaluate_operation(&constant.clone().into(), Vec::new(), std::slice::from_ref(&ty), &mut symbols);
        values.push(computed.ok()?.pop());
    }
    let result = Type::Tensor(result.clone());
    let computed = evaluate::evaluate_operation(operation, values, std::slice::from_ref(&result), &mut symbols);
    match computed.ok()?.pop()? {
        Value::Tensor(tensor) => constant_of(&tensor),
        Value::Cache(_) => None,
    }
}

/// A tensor as a constant: one number if all elements are equal.
fn constant_of(tensor: &Tensor) -> Option<ops::Constant> {
    /// The first element alone if all others are like it.
    fn shortened<T: Copy>(elements: &[T], equal: impl Fn(T, T) -> bool) -> Vec<T> {
        match elements {
            [first, rest @ ..] if rest.iter().all(|element| equal(*first, *element)) => vec![*first],
            elements => elements.to_vec(),
        }
    }
    if tensor.is_empty() {
        return None;
    }
    let value = match tensor.elements() {
        Elements::Float(elements) => {
            ConstantValue::from(shortened(elements, |one, other| one.to_bits() == other.to_bits()))
        }
        Elements::Integer(elements) if tensor.storage() == Storage::Bool => {
            let elements: Vec<bool> = elements.iter().map(|element| *element != 0).collect();
            ConstantValue::Boolean(shortened(&elements, |one, other| one == other).into())
        }
        Elements::Integer(elements) => ConstantValue::from(shortened(elements, |one, other| one == other)),
    };
    Some(ops::Constant { value })
}
