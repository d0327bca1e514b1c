//! The verifier: what must hold of a module between passes.

use std::collections::BTreeSet;

use crate::diagnostic::{Diagnostic, DiagnosticKind};
use crate::graph::{Graph, NodeId, NodeKind, ValueId, infer_results};
use crate::module::Module;
use crate::name::Name;
use crate::ops;
use crate::types::{Dim, TensorType, Type};

/// Checks a whole module: mesh, types, names, and every graph with the graphs nested in it.
///
/// A graph is well formed when it has no cycle; every operation fits its op, with the result types that
/// inference gives; parameters are declared, with the same type; and every symbol in a type is bound by
/// an input or parameter, or by a `concat` along a symbolic dimension.
///
/// # Errors
/// Every violation found. Places refer to the text that the module was read from, if it was.
pub fn verify(module: &Module) -> Result<(), Vec<Diagnostic>> {
    let mut verifier = Verifier { module, context: String::new(), errors: Vec::new() };
    verifier.module();
    if verifier.errors.is_empty() { Ok(()) } else { Err(verifier.errors) }
}

struct Verifier<'a> {
    module: &'a Module,
    /// The function and regions around the current graph, as in `@step, %3`.
    context: String,
    errors: Vec<Diagnostic>,
}

impl Verifier<'_> {
    fn module(&mut self) {
        let mut axes = BTreeSet::new();
        for axis in &self.module.mesh.axes {
            if !axes.insert(&axis.name) {
                self.structure(format!("mesh axis `{}` is declared twice", axis.name));
            }
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if axis.name.is_empty() || !axis.name.chars().all(is_word) {
                self.structure(format!("mesh axis `{}` is no word of letters, digits and `_`", axis.name));
            }
            if axis.size == 0 {
                self.structure(format!("mesh axis `{}` needs at least one device", axis.name));
            }
        }
        for (symbol, range) in &self.module.symbols {
            if range.minimum > range.maximum {
                self.structure(format!("no number lies in {}..={}", range.minimum, range.maximum));
            }
            if !Dim::is_symbol_name(symbol) {
                self.structure(format!("`{symbol}` is no symbol; symbols are upper-case"));
            }
        }
        for (name, ty) in &self.module.parameters {
            if let Some(objection) = self.tensor_objection(ty) {
                self.structure(format!("parameter `@{name}`: {objection}"));
            }
        }
        let mut names = BTreeSet::new();
        for function in &self.module.functions {
            if !names.insert(&function.name) {
                self.structure(format!("function `@{}` is declared twice", function.name));
            }
            self.context = format!("@{}", function.name);
            let mut inputs = BTreeSet::new();
            for (name, _) in function.inputs() {
                if !inputs.insert(name) {
                    self.structure(format!("@{}: two inputs have the name `%{name}`", function.name));
                }
            }
            self.graph(&function.graph, false);
        }
    }

    fn structure(&mut self, message: String) {
        self.errors.push(Diagnostic::new(DiagnosticKind::Structure, message, None));
    }

    /// Reports an error about a node.
    fn node_error(&mut self, graph: &Graph, id: NodeId, kind: DiagnosticKind, message: &str, help: Option<String>) {
        let node = graph.node(id);
        let name = match (node.kind(), node.name(0)) {
            (NodeKind::Parameter(name), _) => format!("@{name}"),
            (_, Some(name)) => format!("%{name}"),
            (NodeKind::Operation(operation), None) => format!("an operation of {}", operation.op()),
            (NodeKind::Input(position), None) => format!("input {position}"),
        };
        let message = format!("{}, {name}: {message}", self.context);
        let mut error = Diagnostic::new(kind, message, node.span().cloned());
        error.help = help;
        self.errors.push(error);
    }

    fn tensor_objection(&self, ty: &TensorType) -> Option<String> {
        let sharding = || ty.sharding.as_ref()?.objection(ty.rank(), &self.module.mesh);
        let symbol = ty.shape.iter().filter_map(Dim::as_symbol).find(|symbol| !Dim::is_symbol_name(symbol));
        let misnamed = symbol.map(|symbol| format!("`{symbol}` is no symbol; symbols are upper-case"));
        misnamed.or_else(|| ty.policy.objection()).or_else(sharding)
    }

    fn type_objection(&self, ty: &Type) -> Option<String> {
        match ty {
            Type::Tensor(tensor) => self.tensor_objection(tensor),
            Type::KvCache(cache) => cache.objection(),
        }
    }

    fn graph(&mut self, graph: &Graph, is_region: bool) {
        let order = graph.topological_order();
        if order.len() != graph.node_count() {
            let context = &self.context;
            let message = format!("{context}: the operations form a cycle");
            self.structure(message);
            return;
        }
        let mut bound = BTreeSet::new();
        for id in order {
            let count = self.errors.len();
            for ty in graph.node(id).results() {
                if let Some(objection) = self.type_objection(ty) {
                    self.node_error(graph, id, DiagnosticKind::Type, &objection, None);
                }
            }
            match graph.node(id).kind() {
                NodeKind::Input(_) => bind(graph, id, &mut bound),
                NodeKind::Parameter(name) => {
                    self.parameter(graph, id, name, is_region);
                    bind(graph, id, &mut bound);
                }
                NodeKind::Operation(operation) => {
                    self.operation(graph, id);
                    if operation.is(ops::CONCAT) {
                        bind(graph, id, &mut bound);
                    }
                    let unbound = symbols(graph, id).find(|symbol| !bound.contains(symbol));
                    if let (Some(symbol), true) = (unbound, self.errors.len() == count) {
                        let message = format!("nothing binds the symbol {symbol}");
                        let help = "a symbol gets its value from the shape of an input or parameter".to_owned();
                        self.node_error(graph, id, DiagnosticKind::Structure, &message, Some(help));
                        // Once is enough.
                        bind(graph, id, &mut bound);
                    }
                }
            }
        }
        for output in graph.outputs() {
            if !is_value(graph, *output) {
                let message = format!("{}: an output is no value of the graph", self.context);
                self.structure(message);
            }
        }
    }

    fn parameter(&mut self, graph: &Graph, id: NodeId, name: &Name, is_region: bool) {
        let found = graph.value_type(ValueId::first(id)).as_tensor();
        let problem = match (self.module.parameters.get(name), found) {
            _ if is_region => "a nested graph refers to no parameter; pass it as an operand".to_owned(),
            (None, _) => "the module declares no such parameter".to_owned(),
            (Some(declared), Some(found)) if declared == found => return,
            (Some(declared), _) => format!("the module declares it as {declared}"),
        };
        self.node_error(graph, id, DiagnosticKind::Structure, &problem, None);
    }

    fn operation(&mut self, graph: &Graph, id: NodeId) {
        let node = graph.node(id);
        let Some(operation) = node.operation() else { return };
        let operands = graph.operands(id);
        if !operands.iter().all(|operand| is_value(graph, *operand)) {
            let message = "an operand is a result that its node does not have";
            self.node_error(graph, id, DiagnosticKind::Structure, message, None);
            return;
        }
        if let Some(region) = operation.region() {
            let outer = self.context.clone();
            self.context = format!("{outer}, {}", operation.op());
            self.graph(region, true);
            self.context = outer;
        }
        let types: Vec<&Type> = operands.iter().map(|operand| graph.value_type(*operand)).collect();
        if let Err(error) = infer_results(operation, &types, node.results()) {
            self.node_error(graph, id, DiagnosticKind::Operation, &error.to_string(), error.help);
        }
    }
}

fn is_value(graph: &Graph, value: ValueId) -> bool {
    graph.contains(value.node) && (value.result as usize) < graph.node(value.node).results().len()
}

/// The symbols in the types of a node's results.
fn symbols(graph: &Graph, id: NodeId) -> impl Iterator<Item = &Name> {
    let tensors = graph.node(id).results().iter().filter_map(Type::as_tensor);
    tensors.flat_map(|tensor| tensor.shape.iter().filter_map(|dim| dim.as_symbol()))
}

fn bind<'a>(graph: &'a Graph, id: NodeId, bound: &mut BTreeSet<&'a Name>) {
    bound.extend(symbols(graph, id));
}
