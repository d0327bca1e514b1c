//! The pass `infer`.

use std::collections::HashMap;

use tessera_ir::{Attribute, Dim, Function, Graph, Module, NodeKind, OpError, Operation, Shape, Type, ValueId};

use super::pass::{Context, Pass, PassError};

/// Replaces symbols that have one possible value by that value, and infers the type of every operation anew.
///
/// # Limits
///
/// A symbol is replaced only where the module declares a range of one value for it. A result type whose shape is an attribute
/// (`broadcast`, `reshape`, `constant`, …) is substituted, not inferred.
pub struct Infer;

impl Pass for Infer {
    fn run(&self, module: &mut Module, _: &mut Context) -> Result<bool, PassError> {
        let known: HashMap<_, _> = module
            .symbols
            .iter()
            .filter(|(_, range)| range.minimum == range.maximum)
            .map(|(symbol, range)| (symbol.clone(), range.minimum))
            .collect();
        if known.is_empty() {
            return Ok(false);
        }
        let substitute = |shape: &Shape| -> Shape {
            let value = |dim: &Dim| dim.as_symbol().and_then(|symbol| known.get(symbol)).copied();
            shape.iter().map(|dim| value(dim).map_or_else(|| dim.clone(), Dim::Static)).collect()
        };
        for ty in module.parameters.values_mut() {
            ty.shape = substitute(&ty.shape);
        }
        for function in &mut module.functions {
            let Function { name, graph } = function;
            *graph = rebuild(graph, &substitute).map_err(|(operation, error)| PassError::of(name, operation, error))?;
        }
        module.symbols.retain(|symbol, _| !known.contains_key(symbol));
        Ok(true)
    }
}

/// The same graph with other shapes. The error comes with the operation that does not fit them.
fn rebuild(graph: &Graph, substitute: &dyn Fn(&Shape) -> Shape) -> Result<Graph, (String, OpError)> {
    let retype = |ty: &Type| match ty {
        Type::Tensor(tensor) => {
            let mut tensor = tensor.clone();
            tensor.shape = substitute(&tensor.shape);
            Type::Tensor(tensor)
        }
        Type::KvCache(cache) => Type::KvCache(cache.clone()),
    };
    let mut rebuilt = Graph::new();
    let mut values: HashMap<ValueId, ValueId> = HashMap::new();
    for id in graph.topological_order() {
        let node = graph.node(id);
        let types: Vec<Type> = node.results().iter().map(retype).collect();
        let new = match (node.kind(), types.as_slice()) {
            (NodeKind::Input(_), [ty]) => rebuilt.input(node.name(0).cloned().unwrap_or_default(), ty.clone()).node,
            (NodeKind::Parameter(name), [ty]) => rebuilt.parameter(name, ty.clone()).node,
            (NodeKind::Operation(operation), types) => {
                let operands: Vec<ValueId> =
                    graph.operands(id).iter().filter_map(|operand| values.get(operand).copied()).collect();
                let mut operation = operation.clone();
                if let Some(region) = operation.region_mut() {
                    *region = rebuild(region, substitute)?;
                }
                let added = with_dims(operation, substitute)
                    .and_then(|operation| rebuilt.add(operation, &operands, types));
                added.map_err(|error| (super::describe(graph, id), error))?
            }
            _ => continue,
        };
        if let Some(span) = node.span() {
            rebuilt.set_span(new, span.clone());
        }
        for index in 0..types.len() as u32 {
            let (old, new) = (ValueId { node: id, result: index }, ValueId { node: new, result: index });
            if let Some(name) = graph.value_name(old) {
                rebuilt.set_name(new, name.clone());
            }
            values.insert(old, new);
        }
    }
    rebuilt.set_outputs(graph.outputs().iter().filter_map(|output| values.get(output).copied()));
    Ok(rebuilt)
}

/// The operation with the shapes among its attributes substituted.
fn with_dims(operation: Operation, substitute: &dyn Fn(&Shape) -> Shape) -> Result<Operation, OpError> {
    if !operation.attributes().any(|(_, attribute)| matches!(attribute, Attribute::Dims(_))) {
        return Ok(operation);
    }
    let attributes = operation.attributes().map(|(name, attribute)| {
        let attribute = match attribute {
            Attribute::Dims(dims) => Attribute::Dims(substitute(&dims.clone().into()).to_vec()),
            other => other.clone(),
        };
        (name, attribute)
    });
    let changed = Operation::from_named_attributes(operation.definition(), attributes)?;
    Ok(match operation.region() {
        Some(region) => changed.with_region(region.clone()),
        None => changed,
    })
}
