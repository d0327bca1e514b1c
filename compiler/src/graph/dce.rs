//! The pass `dce`.

use tessera_ir::{Graph, Module};

use super::pass::{Context, Pass, PassError};

/// Removes operations and references to parameters that no output depends on.
///
/// # Limits
///
/// Inputs of functions and the module's parameters stay, because callers and weight files know them by name. In a fusion, operands that its
/// graph does not read and results that nobody uses stay too; `fuse` makes neither.
pub struct Dce;

impl Pass for Dce {
    fn run(&self, module: &mut Module, _: &mut Context) -> Result<bool, PassError> {
        let mut removed = 0;
        for function in &mut module.functions {
            removed += remove_dead(&mut function.graph);
        }
        Ok(removed > 0)
    }
}

fn remove_dead(graph: &mut Graph) -> usize {
    let mut removed = graph.remove_dead();
    for node in graph.topological_order() {
        if let Some(region) = graph.operation_mut(node).and_then(|operation| operation.region_mut()) {
            removed += remove_dead(region);
        }
    }
    removed
}
