//! Building the fused graph: each group becomes a `fusion` with a graph of its own.

use std::collections::{BTreeSet, HashMap, HashSet};

use tessera_ir::{Graph, NodeId, NodeKind, OpError, Operation, Type, ValueId, ops};

use super::clusters::Cluster;
use super::grow::Grouping;
use super::name::region_name;
use crate::graph::role::Role;

/// A fused graph, and what became of the groups.
pub struct Fused {
    /// The graph.
    pub graph: Graph,
    /// The regions, in order.
    pub regions: Vec<Region>,
}

/// What went into one `fusion`.
pub struct Region {
    /// The region's name.
    pub name: String,
    /// Its steps, those it shares with other regions among them, in order.
    pub steps: Vec<usize>,
}

/// An operation that could not be added, as text, and why.
pub type BuildError = (String, OpError);

/// Builds the graph in which every group of more than one operation is a `fusion`.
pub fn build(graph: &Graph, grouping: &Grouping<'_>) -> Result<Fused, BuildError> {
    let clusters: Vec<Cluster> = grouping
        .clusters
        .in_order()
        .filter(|cluster| !grouping.clusters.members(*cluster).iter().any(|step| grouping.copied.contains_key(step)))
        .collect();
    let bodies: Vec<Vec<usize>> = clusters.iter().map(|cluster| steps_of(grouping, *cluster)).collect();

    let exports = Exports::of(graph, grouping, &bodies)?;
    let mut fused = Outer::new(graph);
    let mut regions = Vec::new();
    for steps in bodies {
        let mut body = Body::new(graph, &grouping.flow.free, &exports.parts);
        for step in &steps {
            body.add(grouping.flow.steps[*step].node)?;
        }
        let mut outputs = Vec::new();
        for step in steps.iter().filter(|step| !grouping.copied.contains_key(step)) {
            let node = grouping.flow.steps[*step].node;
            for result in 0..graph.node(node).results().len() as u32 {
                let value = ValueId { node, result };
                if exports.whole.contains(&value) {
                    outputs.push(value);
                } else if let Some(parts) = exports.parts_of.get(&value) {
                    for part in parts {
                        body.import(*part)?;
                        outputs.push(*part);
                    }
                }
            }
        }
        let alone = matches!(steps.as_slice(), [step] if matches!(grouping.flow.steps[*step].role, Role::Alone | Role::Grouped));
        if alone || body.operations < 2 {
            for step in &steps {
                fused.keep(grouping.flow.steps[*step].node)?;
            }
            continue;
        }
        if outputs.is_empty() {
            continue;
        }
        let name = region_name(graph, grouping, &steps);
        fused.add_region(body, &outputs, &name)?;
        regions.push(Region { name, steps });
    }
    let outputs: Vec<ValueId> = graph.outputs().to_vec();
    let outputs = outputs.into_iter().map(|output| fused.value(output)).collect::<Result<Vec<_>, _>>()?;
    fused.graph.set_outputs(outputs);
    fused.graph.remove_dead();
    Ok(Fused { graph: fused.graph, regions })
}

/// What groups return because others, or the caller, read it.
struct Exports {
    /// Results that are returned as they are.
    whole: HashSet<ValueId>,
    /// Slices of results, perhaps reshaped, that are returned in place of a result of which nobody reads the whole.
    parts: HashSet<ValueId>,
    /// The same by the result that they are part of, in order.
    parts_of: HashMap<ValueId, BTreeSet<ValueId>>,
}

impl Exports {
    fn of(graph: &Graph, grouping: &Grouping<'_>, bodies: &[Vec<usize>]) -> Result<Exports, BuildError> {
        let mut whole: HashSet<ValueId> = graph.outputs().iter().copied().collect();
        let mut parts_of: HashMap<ValueId, BTreeSet<ValueId>> = HashMap::new();
        // First as if every part could be had: whoever then still reads a whole result needs it in memory anyhow.
        let possible: HashMap<ValueId, ValueId> = grouping
            .flow
            .free
            .iter()
            .filter_map(|node| Some((ValueId::first(*node), part_of(graph, grouping, ValueId::first(*node))?)))
            .collect();
        let wanted: HashSet<ValueId> = possible.keys().copied().collect();
        for body in bodies {
            let mut region = Body::new(graph, &grouping.flow.free, &wanted);
            for step in body {
                region.add(grouping.flow.steps[*step].node)?;
            }
            for operand in region.operands {
                match possible.get(&operand) {
                    Some(result) => {
                        parts_of.entry(*result).or_default().insert(operand);
                    }
                    None => {
                        whole.insert(operand);
                    }
                }
            }
        }
        parts_of.retain(|result, _| !whole.contains(result));
        let parts = parts_of.values().flatten().copied().collect();
        Ok(Exports { whole, parts, parts_of })
    }
}

/// The result of a step that a free value is a slice of, perhaps reshaped. Only steps that may be in a region count.
fn part_of(graph: &Graph, grouping: &Grouping<'_>, value: ValueId) -> Option<ValueId> {
    let (mut at, mut sliced) = (value, false);
    while grouping.flow.free.contains(&at.node) {
        let operation = graph.operation(at.node)?;
        sliced |= operation.is(ops::SLICE);
        if !operation.is(ops::SLICE) && !operation.is(ops::RESHAPE) {
            return None;
        }
        at = *graph.operands(at.node).first()?;
    }
    let step = *grouping.flow.step_of.get(&at.node)?;
    let joins = grouping.flow.steps[step].role != Role::Alone && !grouping.copied.contains_key(&step);
    (sliced && joins).then_some(at)
}

/// The steps of a group and the steps copied into it, in order.
fn steps_of(grouping: &Grouping<'_>, cluster: Cluster) -> Vec<usize> {
    let members = grouping.clusters.members(cluster);
    let copies = grouping.copied.iter().filter(|(_, anchors)| anchors.iter().any(|anchor| members.contains(anchor)));
    let steps: BTreeSet<usize> = members.iter().copied().chain(copies.map(|(step, _)| *step)).collect();
    steps.into_iter().collect()
}

/// Adds a copy of `node` of `from` to `to`, with the operands given.
fn copy(from: &Graph, node: NodeId, to: &mut Graph, operands: &[ValueId]) -> Result<NodeId, BuildError> {
    let original = from.node(node);
    let Some(operation) = original.operation() else {
        let text = crate::graph::describe(from, node);
        return Err((text, OpError::operation("an input stands where an operation is needed")));
    };
    let copy = to
        .add(operation.clone(), operands, original.results())
        .map_err(|error| (crate::graph::describe(from, node), error))?;
    if let Some(span) = original.span() {
        to.set_span(copy, span.clone());
    }
    for index in 0..original.results().len() {
        if let Some(name) = original.name(index) {
            to.set_name(ValueId { node: copy, result: index as u32 }, name.clone());
        }
    }
    Ok(copy)
}

/// A name for an operand of a region.
fn operand_name(graph: &Graph, value: ValueId) -> Option<String> {
    match graph.node(value.node).kind() {
        NodeKind::Parameter(name) => Some(name.as_str().to_owned()),
        _ => graph.value_name(value).map(|name| name.as_str().to_owned()),
    }
}

/// The graph inside a region under construction.
struct Body<'g> {
    from: &'g Graph,
    /// Views and sources, of which the region gets its own.
    free: &'g BTreeSet<NodeId>,
    /// Free values that other regions return, so that they come in as operands.
    parts: &'g HashSet<ValueId>,
    graph: Graph,
    values: HashMap<ValueId, ValueId>,
    /// Values from outside, in the order of the region's inputs.
    operands: Vec<ValueId>,
    /// Operations in the region.
    operations: usize,
}

impl<'g> Body<'g> {
    fn new(from: &'g Graph, free: &'g BTreeSet<NodeId>, parts: &'g HashSet<ValueId>) -> Self {
        Body {
            from,
            free,
            parts,
            graph: Graph::new(), values: HashMap::new(), operands: Vec::new(), operations: 0 }
    }

    /// Adds an operation and the views and sources that it reads through.
    fn add(&mut self, node: NodeId) -> Result<(), BuildError> {
        let operands = self.from.operands(node);
        let operands = operands.into_iter().map(|operand| self.import(operand)).collect::<Result<Vec<_>, _>>()?;
        let copied = copy(self.from, node, &mut self.graph, &operands)?;
        self.operations += 1;
        for result in 0..self.from.node(node).results().len() as u32 {
            self.values.insert(ValueId { node, result }, ValueId { node: copied, result });
        }
        Ok(())
    }

    /// Whether the result that a part belongs to is computed in this region.
    fn computes(&self, part: ValueId) -> bool {
        let mut at = part;
        while self.free.contains(&at.node) {
            match self.from.operands(at.node).first() {
                Some(operand) => at = *operand,
                None => return false,
            }
        }
        self.values.get(&at).is_some_and(|inner| self.graph.defining(*inner).is_some())
    }

    /// The value inside that stands for one outside.
    fn import(&mut self, value: ValueId) -> Result<ValueId, BuildError> {
        if let Some(known) = self.values.get(&value) {
            return Ok(*known);
        }
        let comes_in = self.parts.contains(&value) && !self.computes(value);
        if self.free.contains(&value.node) && !comes_in {
            self.add(value.node)?;
            if let Some(known) = self.values.get(&value) {
                return Ok(*known);
            }
        }
        let ty = self.from.value_type(value).clone();
        let name = operand_name(self.from, value).unwrap_or_default();
        let input = self.graph.input(name, ty);
        self.operands.push(value);
        self.values.insert(value, input);
        Ok(input)
    }
}

/// The graph around the regions under construction.
struct Outer<'g> {
    from: &'g Graph,
    graph: Graph,
    values: HashMap<ValueId, ValueId>,
}

impl<'g> Outer<'g> {
    /// A graph with the inputs of `from`.
    fn new(from: &'g Graph) -> Self {
        let mut graph = Graph::new();
        let mut values = HashMap::new();
        for input in from.inputs() {
            let name = from.value_name(input).cloned().unwrap_or_default();
            values.insert(input, graph.input(name, from.value_type(input).clone()));
        }
        Outer { from, graph, values }
    }

    /// The value that stands for one of the graph that is fused.
    fn value(&mut self, value: ValueId) -> Result<ValueId, BuildError> {
        if let Some(known) = self.values.get(&value) {
            return Ok(*known);
        }
        if let NodeKind::Parameter(name) = self.from.node(value.node).kind() {
            let parameter = self.graph.parameter(name, self.from.value_type(value).clone());
            self.values.insert(value, parameter);
            return Ok(parameter);
        }
        // A constant in memory: it is no step of any group.
        self.keep(value.node)?;
        let missing = || (crate::graph::describe(self.from, value.node), OpError::operation("the value is missing"));
        self.values.get(&value).copied().ok_or_else(missing)
    }

    /// Adds an operation as it is.
    fn keep(&mut self, node: NodeId) -> Result<(), BuildError> {
        let operands = self.from.operands(node);
        let operands = operands.into_iter().map(|operand| self.value(operand)).collect::<Result<Vec<_>, _>>()?;
        let copied = copy(self.from, node, &mut self.graph, &operands)?;
        for result in 0..self.from.node(node).results().len() as u32 {
            self.values.insert(ValueId { node, result }, ValueId { node: copied, result });
        }
        Ok(())
    }

    /// Adds a `fusion` that computes `outputs` by `body`.
    fn add_region(&mut self, mut body: Body<'_>, outputs: &[ValueId], name: &str) -> Result<(), BuildError> {
        let inner: Vec<ValueId> = outputs.iter().filter_map(|output| body.values.get(output).copied()).collect();
        body.graph.set_outputs(inner);
        let operands = body.operands.iter().map(|operand| self.value(*operand)).collect::<Result<Vec<_>, _>>()?;
        let types: Vec<Type> = outputs.iter().map(|output| self.from.value_type(*output).clone()).collect();
        let operation = Operation::from(ops::Fusion { label: Some(name.into()), schedule: None }).with_region(body.graph);
        let node = self
            .graph
            .add(operation, &operands, &types)
            .map_err(|error| (format!("fusion {name}"), error))?;
        for (result, output) in outputs.iter().enumerate() {
            let value = ValueId { node, result: result as u32 };
            if let Some(given) = self.from.value_name(*output) {
                self.graph.set_name(value, given.clone());
            }
            self.values.insert(*output, value);
        }
        Ok(())
    }
}
