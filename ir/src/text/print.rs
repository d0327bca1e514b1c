//! Printing.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write};

use crate::graph::{Graph, NodeId, NodeKind, ValueId};
use crate::module::{Function, Module};
use crate::name::Name;
use crate::text::{is_plain_name, quote};
use crate::types::Type;

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "module @{} {{", spelled(&self.name))?;
        if !self.mesh.axes.is_empty() {
            writeln!(f, "  mesh {}", self.mesh)?;
        }
        for (symbol, range) in &self.symbols {
            writeln!(f, "  symbol {symbol} in {}..={}", range.minimum, range.maximum)?;
        }
        for (name, ty) in &self.parameters {
            writeln!(f, "  param @{} : {ty}", spelled(name))?;
        }
        for (index, function) in self.functions.iter().enumerate() {
            let is_first =
                index == 0 && self.mesh.axes.is_empty() && self.symbols.is_empty() && self.parameters.is_empty();
            if !is_first {
                writeln!(f)?;
            }
            write_function(f, function, "  ")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_function(f, self, "")
    }
}

impl fmt::Display for Graph {
    /// Writes the operations, one a line, and the outputs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ValueNames::of(self);
        write_body(f, self, &names, "")
    }
}

fn write_function(out: &mut impl Write, function: &Function, indent: &str) -> fmt::Result {
    let graph = &function.graph;
    let names = ValueNames::of(graph);
    write!(out, "{indent}func @{}(", spelled(&function.name))?;
    for (index, input) in graph.inputs().enumerate() {
        let separator = if index > 0 { ", " } else { "" };
        write!(out, "{separator}{}: {}", names.get(input), graph.value_type(input))?;
    }
    write!(out, ") -> (")?;
    for (index, ty) in function.outputs().enumerate() {
        let separator = if index > 0 { ", " } else { "" };
        write!(out, "{separator}{ty}")?;
    }
    writeln!(out, ") {{")?;
    write_body(out, graph, &names, &format!("{indent}  "))?;
    writeln!(out, "{indent}}}")
}

fn write_body(out: &mut impl Write, graph: &Graph, names: &ValueNames, indent: &str) -> fmt::Result {
    for (id, _) in graph.operations() {
        write_operation(out, graph, id, names, indent)?;
    }
    write!(out, "{indent}return")?;
    for (index, output) in graph.outputs().iter().enumerate() {
        let separator = if index > 0 { ", " } else { " " };
        write!(out, "{separator}{}", names.get(*output))?;
    }
    writeln!(out)
}

fn write_operation(out: &mut impl Write, graph: &Graph, id: NodeId, names: &ValueNames, indent: &str) -> fmt::Result {
    let node = graph.node(id);
    let Some(operation) = node.operation() else {
        return Ok(());
    };
    let results: Vec<&str> =
        (0..node.results().len()).map(|result| names.get(ValueId { node: id, result: result as u32 })).collect();
    write!(out, "{indent}{} = {}(", results.join(", "), operation.op())?;
    let region = operation.region().map(|region| (region, ValueNames::of(region)));
    for (index, operand) in graph.operands(id).iter().enumerate() {
        let separator = if index > 0 { ", " } else { "" };
        write!(out, "{separator}")?;
        // An operand of a region stands behind the name it has inside.
        if let Some((region, inner)) = &region
            && let Some(input) = region.inputs().nth(index)
        {
            write!(out, "{} = ", inner.get(input))?;
        }
        write!(out, "{}", names.get(*operand))?;
    }
    write!(out, ")")?;
    let attributes: Vec<String> =
        operation.written_attributes().map(|(name, attribute)| format!("{name} = {attribute}")).collect();
    if !attributes.is_empty() {
        write!(out, " {{{}}}", attributes.join(", "))?;
    }
    let types: Vec<String> = node.results().iter().map(Type::to_string).collect();
    write!(out, " : {}", types.join(", "))?;
    if let Some((region, inner)) = &region {
        writeln!(out, " {{")?;
        write_body(out, region, inner, &format!("{indent}  "))?;
        write!(out, "{indent}}}")?;
    }
    writeln!(out)
}

fn spelled(name: &str) -> String {
    if is_plain_name(name) { name.to_owned() } else { quote(name) }
}

/// How each value of a graph is written: `%name`, `%7`, or `@parameter`.
struct ValueNames(HashMap<ValueId, String>);

impl ValueNames {
    /// Names the values of `graph`. Values without a name are numbered in order; where two have the
    /// same name, the later one gets a number appended.
    fn of(graph: &Graph) -> ValueNames {
        let order = graph.topological_order();
        let mut taken: HashSet<Name> = HashSet::new();
        let mut given: HashMap<ValueId, Name> = HashMap::new();
        let values: Vec<ValueId> = order
            .iter()
            .filter(|id| !matches!(graph.node(**id).kind(), NodeKind::Parameter(_)))
            .flat_map(|id| {
                let results = graph.node(*id).results().len() as u32;
                (0..results).map(|result| ValueId { node: *id, result })
            })
            .collect();
        // The first bearer of a name keeps it; only then are other names made up.
        for value in &values {
            if let Some(name) = usable_name(graph, *value)
                && taken.insert(name.clone())
            {
                given.insert(*value, name.clone());
            }
        }
        let mut names = HashMap::new();
        let mut number = 0;
        let mut suffixes: HashMap<Name, usize> = HashMap::new();
        for value in values {
            let text = match (given.get(&value), usable_name(graph, value)) {
                (Some(name), _) => spelled(name),
                (None, Some(name)) => {
                    let suffix = suffixes.entry(name.clone()).or_insert(1);
                    loop {
                        let candidate = Name::from(format!("{name}_{suffix}"));
                        *suffix += 1;
                        if taken.insert(candidate.clone()) {
                            break spelled(&candidate);
                        }
                    }
                }
                (None, None) => {
                    number += 1;
                    (number - 1).to_string()
                }
            };
            names.insert(value, format!("%{text}"));
        }
        for (name, value) in graph.parameters() {
            names.insert(value, format!("@{}", spelled(name)));
        }
        ValueNames(names)
    }

    /// The text for a value.
    fn get(&self, value: ValueId) -> &str {
        self.0.get(&value).map_or("%?", String::as_str)
    }
}

/// The name of a value, unless it is a number, as values without a name have.
fn usable_name(graph: &Graph, value: ValueId) -> Option<&Name> {
    graph.value_name(value).filter(|name| !name.bytes().all(|byte| byte.is_ascii_digit()))
}
