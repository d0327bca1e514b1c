//! The Graphviz form.

use std::collections::HashMap;
use std::fmt::Write;

use crate::graph::{Graph, NodeId, NodeKind, ValueId};
use crate::module::Function;
use crate::types::Type;

/// Writes a function in the language of Graphviz: inputs and parameters above, operations with their
/// attributes, types on the edges, fusions as boxes around their operations.
pub fn to_dot(function: &Function) -> String {
    let mut writer = Writer { text: String::new(), nodes: 0 };
    writer.line(0, &format!("digraph {} {{", quoted(&function.name)));
    writer.line(1, "rankdir=TB;");
    writer.line(1, "node [shape=box, style=\"rounded,filled\", fillcolor=white, fontname=\"Helvetica\", fontsize=10];");
    writer.line(1, "edge [fontname=\"Helvetica\", fontsize=8, color=gray40];");
    let outputs = writer.graph(&function.graph, 1, None);
    for (index, (source, ty)) in outputs.into_iter().enumerate() {
        let sink = writer.node(1, &format!("output {index}"), "shape=ellipse, fillcolor=\"#e8f0e0\"");
        writer.edge(1, &source, &sink, &ty);
    }
    writer.line(0, "}");
    writer.text
}

/// A node of the picture that stands for a value, and the value's type.
type Source = (String, String);

struct Writer {
    text: String,
    nodes: usize,
}

impl Writer {
    fn line(&mut self, depth: usize, line: &str) {
        self.text.push_str(&"  ".repeat(depth));
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn node(&mut self, depth: usize, label: &str, style: &str) -> String {
        let id = format!("n{}", self.nodes);
        self.nodes += 1;
        self.line(depth, &format!("{id} [label={}, {style}];", quoted(label)));
        id
    }

    fn edge(&mut self, depth: usize, from: &str, to: &str, label: &str) {
        self.line(depth, &format!("{from} -> {to} [label={}];", quoted(label)));
    }

    /// Writes the nodes of a graph; `inputs` are the nodes that stand for its inputs, for a nested graph.
    fn graph(&mut self, graph: &Graph, depth: usize, inputs: Option<&[Source]>) -> Vec<Source> {
        let mut sources: HashMap<ValueId, Source> = HashMap::new();
        for id in graph.topological_order() {
            let first = ValueId::first(id);
            match graph.node(id).kind() {
                NodeKind::Input(position) => {
                    let source = match inputs.and_then(|inputs| inputs.get(*position)) {
                        Some(source) => source.clone(),
                        None => {
                            let name = graph.value_name(first).map_or("", |name| name.as_str());
                            let label = format!("%{name}");
                            let node = self.node(depth, &label, "shape=ellipse, fillcolor=\"#e0ecf8\"");
                            (node, graph.value_type(first).to_string())
                        }
                    };
                    sources.insert(first, source);
                }
                NodeKind::Parameter(name) => {
                    let node = self.node(depth, &format!("@{name}"), "shape=cylinder, fillcolor=\"#f4ecd8\"");
                    sources.insert(first, (node, graph.value_type(first).to_string()));
                }
                NodeKind::Operation(_) => self.operation(graph, id, depth, &mut sources),
            }
        }
        graph.outputs().iter().filter_map(|output| sources.get(output).cloned()).collect()
    }

    fn operation(&mut self, graph: &Graph, id: NodeId, depth: usize, sources: &mut HashMap<ValueId, Source>) {
        let node = graph.node(id);
        let Some(operation) = node.operation() else { return };
        let operands: Vec<Source> =
            graph.operands(id).iter().filter_map(|operand| sources.get(operand).cloned()).collect();
        let mut label = operation.op().to_string();
        for (name, attribute) in operation.written_attributes() {
            let value: String = attribute.to_string().chars().take(40).collect();
            let _ = write!(label, "\n{name} = {value}");
        }
        let value = |index: usize| ValueId { node: id, result: index as u32 };
        let types = node.results().iter().map(Type::to_string);
        if let Some(region) = operation.region() {
            let cluster = self.nodes;
            self.nodes += 1;
            self.line(depth, &format!("subgraph cluster_{cluster} {{"));
            self.line(depth + 1, &format!("label={}; style=\"rounded,filled\"; fillcolor=gray95;", quoted(&label)));
            let outputs = self.graph(region, depth + 1, Some(&operands));
            self.line(depth, "}");
            for (index, (source, ty)) in outputs.into_iter().zip(types).enumerate() {
                sources.insert(value(index), (source.0, ty));
            }
            return;
        }
        let target = self.node(depth, &label, "fillcolor=white");
        for (source, ty) in &operands {
            self.edge(depth, source, &target, ty);
        }
        for (index, ty) in types.enumerate() {
            sources.insert(value(index), (target.clone(), ty));
        }
    }
}

/// A string of the language of Graphviz.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
