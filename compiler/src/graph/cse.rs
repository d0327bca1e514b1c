//! The pass `cse`.

use std::collections::HashMap;

use tessera_ir::{Attribute, Graph, Module, NodeId, Op, Type, ValueId};

use super::pass::{Context, Pass, PassError};

/// Computes equal operations once: the same op with the same attributes on the same operands, with results of the same types.
///
/// # Limits
///
/// Operations are compared as they are written: `a + b` and `b + a` are different unless `canonicalize` made them equal. Operations
/// with nested graphs are never merged, but each nested graph is searched by itself.
pub struct Cse;

/// What two operations must have in common to be one.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    op: Op,
    attributes: Vec<(&'static str, Attribute)>,
    operands: Vec<ValueId>,
    results: Vec<Type>,
}

impl Pass for Cse {
    fn run(&self, module: &mut Module, _: &mut Context) -> Result<bool, PassError> {
        let mut changed = false;
        for function in &mut module.functions {
            changed |= merge_equal(&mut function.graph);
        }
        Ok(changed)
    }
}

fn merge_equal(graph: &mut Graph) -> bool {
    let mut changed = false;
    let mut known: HashMap<Key, NodeId> = HashMap::new();
    // In topological order, so that operands have been merged before their users are compared.
    for node in graph.topological_order() {
        if let Some(region) = graph.operation_mut(node).and_then(|operation| operation.region_mut()) {
            changed |= merge_equal(region);
            continue;
        }
        let Some(operation) = graph.operation(node) else { continue };
        let key = Key {
            op: operation.op(),
            attributes: operation.attributes().map(|(name, attribute)| (name, attribute.clone())).collect(),
            operands: graph.operands(node).to_vec(),
            results: graph.node(node).results().to_vec(),
        };
        let results = key.results.len() as u32;
        let first = *known.entry(key).or_insert(node);
        if first == node {
            continue;
        }
        for result in 0..results {
            let (old, new) = (ValueId { node, result }, ValueId { node: first, result });
            if graph.value_name(new).is_none()
                && let Some(name) = graph.value_name(old).cloned()
            {
                graph.set_name(new, name);
            }
            graph.replace_all_uses(old, new);
        }
        // Nothing uses the node any more, so its removal cannot fail.
        changed |= graph.remove(node).is_ok();
    }
    changed
}
