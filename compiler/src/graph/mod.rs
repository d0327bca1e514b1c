//! Graph passes: what is done to a module before it is cut into kernels.
//!
//! A pass is a unit struct in a file of its own; one line of the table below declares it. A [`Pipeline`] is a list of passes and is read from
//! text; it times the passes, verifies the module between them, and shows it to whoever wants to dump it.

use tessera_ir::{Graph, NodeId, NodeKind};

mod pass;
mod pipeline;
mod remark;
mod rewrite;
mod role;

pub use pass::{Context, Pass, PassError, Registration};
pub use pipeline::{DEFAULT_PIPELINE, PassRun, Pipeline, PipelineError, UnknownPass};
pub use remark::{Remark, RemarkKind};

pass::passes! {
    infer::Infer, "replace symbols of one possible value by that value, and infer all types anew";
    canonicalize::Canonicalize, "bring operations into their simplest form, by rules";
    cse::Cse, "compute equal operations once";
    fold::Fold, "compute operations on constants";
    unpack::Unpack, "replace block-scaled parameters by the tensors that hold their elements and scales";
    legalize::Legalize, "make numeric policies fit the units of the target";
    windows::Windows, "give attention to all keys the widest window where other layers have windows, so that they share programs";
    dce::Dce, "remove what no output needs";
    fuse::Fuse, "group operations into regions that become one kernel each";
}

/// A node as remarks and errors name it: `%name = op`, or the op alone where its result has no name; `%name` and `@name` for inputs and
/// parameters.
fn describe(graph: &Graph, node: NodeId) -> String {
    let node = graph.node(node);
    let name = node.name(0).filter(|name| !name.is_empty());
    match (node.kind(), name) {
        (NodeKind::Operation(operation), Some(name)) => format!("%{name} = {}", operation.op()),
        (NodeKind::Operation(operation), None) => operation.op().to_string(),
        (NodeKind::Parameter(name), _) => format!("@{name}"),
        (NodeKind::Input(position), None) => format!("input {position}"),
        (NodeKind::Input(_), Some(name)) => format!("%{name}"),
    }
}
