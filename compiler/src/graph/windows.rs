//! The pass `windows`.

use tessera_ir::{Graph, Module, NodeId, ops};

use super::pass::{Context, Pass, PassError};
use super::remark::RemarkKind;

/// Gives a window to attention that has none, in functions where other attention has one.
///
/// The window is so wide that it hides nothing. Kernels take windows as arguments, so one program then serves the layers of both kinds;
/// there are fewer to compile and to load.
pub struct Windows;

/// Positions are i32.
const WIDEST: u64 = i32::MAX as u64;

impl Pass for Windows {
    fn run(&self, module: &mut Module, context: &mut Context) -> Result<bool, PassError> {
        let mut changed = false;
        for function in &mut module.functions {
            let graph = &mut function.graph;
            let attention: Vec<(NodeId, ops::PagedAttention)> = attention(graph).collect();
            if attention.iter().all(|(_, op)| op.window.is_none()) {
                continue;
            }
            for (node, op) in attention.into_iter().filter(|(_, op)| op.window.is_none()) {
                if let Some(operation) = graph.operation_mut(node) {
                    *operation = ops::PagedAttention { window: Some(WIDEST), ..op }.into();
                }
                let remark = "sees all keys through the widest window, to share a program with layers that have one";
                let operation = super::describe(graph, node);
                context.remark("windows", RemarkKind::Applied, function.name.as_str(), operation, remark);
                changed = true;
            }
        }
        Ok(changed)
    }
}

fn attention(graph: &Graph) -> impl Iterator<Item = (NodeId, ops::PagedAttention)> {
    graph.operations().filter_map(|(node, operation)| Some((node, operation.downcast()?)))
}
