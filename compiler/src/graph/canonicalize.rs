//! The pass `canonicalize`.

mod algebra;
mod composites;
mod shapes;

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use tessera_ir::{Graph, Module, NodeId, Op};

use super::pass::{Context, Pass, PassError};
use super::rewrite::Rule;

/// Brings operations into their simplest form by rules, until none applies.
///
/// # Limits
///
/// Rules look at a few operations at a time and take any of them that applies; the result is simpler, not the simplest.
/// They keep every type as it is, and never remove a rounding to a narrower storage that the module asks for. Operations that the rewrite
/// leaves without users are removed. Nested graphs are rewritten as well.
pub struct Canonicalize;

/// The tables of rules. Where rules of several apply, the first does: composites, before their parts are rewritten.
static RULES: [&[Rule]; 3] = [composites::COMPOSITES, algebra::ALGEBRA, shapes::SHAPES];

/// The rules by the op of the root of their pattern.
static BY_ROOT: LazyLock<HashMap<Op, Vec<&'static Rule>>> = LazyLock::new(|| {
    let mut rules: HashMap<Op, Vec<&'static Rule>> = HashMap::new();
    for rule in RULES.into_iter().flatten() {
        if let Some(op) = rule.root_op() {
            rules.entry(op).or_default().push(rule);
        }
    }
    rules
});

impl Pass for Canonicalize {
    fn run(&self, module: &mut Module, _: &mut Context) -> Result<bool, PassError> {
        let mut changed = false;
        for function in &mut module.functions {
            changed |= canonicalize(&mut function.graph);
        }
        Ok(changed)
    }
}

/// Rewrites a graph and the graphs nested in it until no rule applies.
fn canonicalize(graph: &mut Graph) -> bool {
    let mut changed = false;
    let mut pending: Vec<NodeId> = graph.topological_order();
    pending.reverse();
    let mut waiting: HashSet<NodeId> = pending.iter().copied().collect();
    while let Some(node) = pending.pop() {
        waiting.remove(&node);
        if !graph.contains(node) {
            continue;
        }
        if let Some(region) = graph.operation_mut(node).and_then(|operation| operation.region_mut()) {
            changed |= canonicalize(region);
        }
        let Some(operation) = graph.operation(node) else { continue };
        let Some(rules) = BY_ROOT.get(&operation.op()) else { continue };
        let old = tessera_ir::ValueId::first(node);
        if graph.use_count(old) == 0 {
            continue;
        }
        let applied = rules.iter().find_map(|rule| Some((rule, rule.apply(graph, node)?)));
        let Some((rule, new)) = applied else { continue };
        tracing::trace!(rule = rule.equation, "rewrite");
        if graph.value_name(new).is_none()
            && let Some(name) = graph.value_name(old).cloned()
        {
            graph.set_name(new, name);
        }
        graph.replace_all_uses(old, new);
        changed = true;

        // What uses the new value may now match, and so may the new operations themselves.
        let mut again: Vec<NodeId> = graph.users(new).into_iter().map(|(user, _)| user).collect();
        again.push(new.node);
        again.extend(graph.operands(new.node).iter().map(|operand| operand.node));
        for node in again {
            if waiting.insert(node) {
                pending.push(node);
            }
        }
    }
    if changed {
        graph.remove_dead();
    }
    changed
}
