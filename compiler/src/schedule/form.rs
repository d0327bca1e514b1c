//! Kernel formation: a function's graph is cut into regions, each of which one kernel computes.
//!
//! Every fusion and every operation outside of one is a kernel; operations that only move or make elements are not, they become part of every
//! kernel that uses them. Whether a region is one kernel is found by building its program: a region that asks for a value in an order in which no
//! tile can compute it is cut there, the value gets a kernel of its own and is read from memory. The result is again a graph: of
//! fusions alone, each with its schedule in the attribute of that name.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tessera_ir::{Function, Graph, Name, NodeId, NodeKind, Op, Operation, Type, ValueId, ops};

use super::cost::{self, Variant};
use super::error::{Cut, ScheduleError};
use super::library::{Library, Position};
use super::lower::input_kinds;
use super::packing::{PackedParameter, packed_parameters};
use super::strategy::{Strategy, Tiling};
use super::symbols::Symbols;

/// A function whose graph is fusions with schedules, and what was cut.
#[derive(Debug)]
pub struct Formed {
    /// The function.
    pub function: Function,
    /// Sentences about values that were put into memory although they stood inside a fusion.
    pub cuts: Vec<String>,
}

/// Forms the kernels of a function.
///
/// # Errors
/// An operation has no kernel for the target.
pub fn form(function: &Function, symbols: &Symbols, library: &mut Library) -> Result<Formed, ScheduleError> {
    let flat = flatten(&function.graph)?;
    let packed = packed_parameters(&flat.graph, library.machine().target);
    let mut former =
        Former { flat: &flat, symbols, library, packed, stored: HashSet::new(), regions: Vec::new(), cuts: Vec::new() };
    former.seed();
    former.settle()?;
    let graph = former.assemble()?;
    let cuts = former.cuts;
    Ok(Formed { function: Function { name: function.name.clone(), graph }, cuts })
}

/// A graph without fusions, and which operations stood in one fusion.
pub(super) struct Flat {
    pub graph: Graph,
    /// The fusion that an operation stood in, by a number; its own for those outside.
    groups: HashMap<NodeId, usize>,
    labels: HashMap<usize, Name>,
    /// Place of every node in topological order.
    places: HashMap<NodeId, usize>,
}

pub(super) fn flatten(graph: &Graph) -> Result<Flat, ScheduleError> {
    let mut flat = Flat { graph: Graph::new(), groups: HashMap::new(), labels: HashMap::new(), places: HashMap::new() };
    let mut values: HashMap<ValueId, ValueId> = HashMap::new();
    for input in graph.inputs() {
        let name = graph.value_name(input).cloned().unwrap_or_default();
        values.insert(input, flat.graph.input(name, graph.value_type(input).clone()));
    }
    for (name, value) in graph.parameters() {
        values.insert(value, flat.graph.parameter(name.clone(), graph.value_type(value).clone()));
    }
    let mut groups = 0;
    inline(graph, &mut flat, &mut values, None, &mut groups)?;
    flat.graph.set_outputs(graph.outputs().iter().map(|output| values[output]).collect::<Vec<_>>());
    flat.places = places(&flat.graph);
    Ok(flat)
}

fn inline(
    graph: &Graph,
    flat: &mut Flat,
    values: &mut HashMap<ValueId, ValueId>,
    group: Option<usize>,
    groups: &mut usize,
) -> Result<(), ScheduleError> {
    for (node, operation) in graph.operations() {
        let operands: Vec<ValueId> = graph.operands(node).iter().map(|operand| values[operand]).collect();
        let own = group.unwrap_or_else(|| {
            *groups += 1;
            *groups - 1
        });
        if let (Some(ops::Fusion { label, .. }), Some(region)) = (operation.downcast(), operation.region()) {
            let mut inner: HashMap<ValueId, ValueId> = region.inputs().zip(operands).collect();
            inline(region, flat, &mut inner, Some(own), groups)?;
            for (result, output) in region.outputs().iter().enumerate() {
                let value = ValueId { node, result: result as u32 };
                let inlined = inner[output];
                if let Some(name) = graph.value_name(value) {
                    flat.graph.set_name(inlined, name.clone());
                }
                values.insert(value, inlined);
            }
            if let Some(label) = label {
                flat.labels.entry(own).or_insert(label);
            }
            continue;
        }
        let types: Vec<Type> = graph.node(node).results().to_vec();
        let added = flat.graph.add(operation.clone(), &operands, &types)?;
        flat.groups.insert(added, own);
        for result in 0..types.len() as u32 {
            let (from, to) = (ValueId { node, result }, ValueId { node: added, result });
            if let Some(name) = graph.value_name(from) {
                flat.graph.set_name(to, name.clone());
            }
            values.insert(from, to);
        }
    }
    Ok(())
}

/// Whether an operation only moves elements, makes them from nothing, or says how they are to be read, so that it is done wherever its result is used.
fn is_moving(operation: &Operation) -> bool {
    const MOVING: [Op; 7] =
        [ops::RESHAPE, ops::TRANSPOSE, ops::SLICE, ops::BROADCAST, ops::IOTA, ops::CONSTANT, ops::BLOCK_SCALED];
    MOVING.contains(&operation.op()) && !is_list(operation)
}

/// Whether an operation is a constant with its elements listed, which is kept in the artifact.
pub fn is_list(operation: &Operation) -> bool {
    operation.downcast::<ops::Constant>().is_some_and(|constant| constant.value.len() != 1)
}

/// Values that one kernel puts into memory.
#[derive(Clone)]
struct Roots {
    values: Vec<ValueId>,
    label: Option<Name>,
    variants: Vec<Variant>,
    /// Region and the values that are its inputs.
    region: Option<(Arc<Graph>, Vec<ValueId>)>,
    /// Why the strategy that was best could not be taken.
    refusal: Option<String>,
}

struct Former<'f> {
    flat: &'f Flat,
    symbols: &'f Symbols,
    library: &'f mut Library,
    packed: HashMap<Name, PackedParameter>,
    /// Values in memory: results of kernels.
    stored: HashSet<ValueId>,
    regions: Vec<Roots>,
    cuts: Vec<String>,
}

/// A graph, the values that are its inputs, and for each place in it the value it stands for.
type Extracted = (Graph, Vec<ValueId>, HashMap<Position, ValueId>);

impl Former<'_> {
    /// One region for each fusion and each operation that is not merely moving.
    fn seed(&mut self) {
        let graph = &self.flat.graph;
        let mut by_group: HashMap<usize, usize> = HashMap::new();
        let mut sizes: HashMap<usize, usize> = HashMap::new();
        for group in self.flat.groups.values() {
            *sizes.entry(*group).or_default() += 1;
        }
        for (node, operation) in graph.operations() {
            let group = self.flat.groups[&node];
            let in_fusion = sizes[&group] > 1 || self.flat.labels.contains_key(&group);
            if is_list(operation) || (!in_fusion && is_moving(operation)) {
                continue;
            }
            for result in 0..graph.node(node).results().len() as u32 {
                let value = ValueId { node, result };
                let leaves = graph.is_output(value)
                    || graph.users(value).iter().any(|(user, _)| self.flat.groups.get(user) != Some(&group));
                if !leaves {
                    continue;
                }
                self.stored.insert(value);
                let index = *by_group.entry(group).or_insert_with(|| {
                    let label = self.flat.labels.get(&group).cloned();
                    self.regions.push(Roots {
                        values: Vec::new(),
                        label,
                        variants: Vec::new(),
                        region: None,
                        refusal: None,
                    });
                    self.regions.len() - 1
                });
                self.regions[index].values.push(value);
            }
        }
        // What is returned must be in memory of its own, also where it is an input seen in another way.
        for output in graph.outputs() {
            if matches!(graph.value_type(*output), Type::Tensor(_)) && self.stored.insert(*output) {
                self.regions.push(Roots {
                    values: vec![*output],
                    label: None,
                    variants: Vec::new(),
                    region: None,
                    refusal: None,
                });
            }
        }
    }

    /// Cuts regions until each is one kernel.
    fn settle(&mut self) -> Result<(), ScheduleError> {
        let mut next = 0;
        while next < self.regions.len() {
            let roots = self.regions[next].clone();
            let (region, inputs, values) = self.extract(&roots.values)?;
            let region = Arc::new(region);
            let mut variants = match roots.variants.is_empty() {
                true => cost::choose(&region, self.library.machine(), self.library.overrides()),
                false => roots.variants.clone(),
            };
            let kinds = input_kinds(&self.flat.graph, self.symbols, &self.packed, &inputs);
            match self.library.fits(&region, self.symbols, &kinds, &variants) {
                Ok(()) => {
                    let entry = &mut self.regions[next];
                    entry.variants = std::mem::take(&mut variants);
                    entry.region = Some((region, inputs));
                    next += 1;
                }
                Err((place, cut)) => self.cut(next, &roots, &variants, values.get(&place).copied(), cut)?,
            }
        }
        Ok(())
    }

    /// Makes a region that is not one kernel smaller, or gives it a strategy that can do more.
    fn cut(
        &mut self,
        index: usize,
        roots: &Roots,
        variants: &[Variant],
        value: Option<ValueId>,
        cut: Cut,
    ) -> Result<(), ScheduleError> {
        let graph = &self.flat.graph;
        let inner = value.filter(|value| !cut.is_final && !self.stored.contains(value));
        // What a product wants in an order that its tiles do not have is put in memory in that order.
        let inner = inner.or_else(|| self.unstored_factor(&roots.values));
        if let Some(value) = inner.filter(|value| graph.operation(value.node).is_some()) {
            let name = graph.value_name(value).map(|name| format!("%{name}")).unwrap_or_else(|| "a value".into());
            let op = graph.operation(value.node).map_or("input", |operation| operation.op().name());
            self.cuts.push(format!("{name} = {op} is put into memory: {}", cut.reason));
            self.stored.insert(value);
            self.regions.push(Roots {
                values: vec![value],
                label: None,
                variants: Vec::new(),
                region: None,
                refusal: None,
            });
            // What the new value is computed from cannot be computed together with what needs it.
            let (before, after): (Vec<ValueId>, Vec<ValueId>) =
                roots.values.iter().partition(|root| depends_on(graph, value, **root));
            let label = roots.label.clone();
            self.regions[index] =
                Roots { values: after, label: label.clone(), variants: Vec::new(), region: None, refusal: None };
            if !before.is_empty() {
                self.regions.push(Roots { values: before, label, variants: Vec::new(), region: None, refusal: None });
            }
            return Ok(());
        }
        if roots.values.len() > 1 {
            // Each result by itself.
            self.cuts.push(format!("{} results get kernels of their own: {}", roots.values.len(), cut.reason));
            let (first, rest) = roots.values.split_at(1);
            for value in rest {
                let label = roots.label.clone();
                self.regions.push(Roots {
                    values: vec![*value],
                    label,
                    variants: Vec::new(),
                    region: None,
                    refusal: None,
                });
            }
            self.regions[index] = Roots {
                values: first.to_vec(),
                label: roots.label.clone(),
                variants: Vec::new(),
                region: None,
                refusal: None,
            };
            return Ok(());
        }
        let strategy = variants.first().map(|variant| variant.tiling.strategy);
        if strategy.is_some_and(|strategy| strategy != Strategy::Flat) {
            let columns = 256;
            let tiling = Tiling { columns, chunk: 1, ..Tiling::new(Strategy::Flat) };
            self.regions[index].variants = vec![Variant { tiling, when: None }];
            self.regions[index].refusal = Some(cut.reason);
            return Ok(());
        }
        let root = roots.values[0];
        Err(ScheduleError::Unsupported {
            op: graph.operation(root.node).map_or("input", |operation| operation.op().name()).to_string(),
            name: graph.value_name(root).map(ToString::to_string),
            reason: roots.refusal.clone().unwrap_or(cut.reason),
        })
    }

    /// An operand of a matrix product or of attention among what `roots` are computed from that is not in memory in the shape it is
    /// used in.
    fn unstored_factor(&self, roots: &[ValueId]) -> Option<ValueId> {
        let graph = &self.flat.graph;
        let mut pending = roots.to_vec();
        while let Some(value) = pending.pop() {
            let Some(operation) = graph.operation(value.node) else { continue };
            let operands = graph.operands(value.node);
            let is_product = [ops::MATMUL, ops::GROUPED_MATMUL, ops::ATTENTION].contains(&operation.op());
            let is_unstored = |operand: &&ValueId| {
                let can_be = |operation: &Operation| !is_list(operation) && !operation.is(ops::BLOCK_SCALED);
                graph.operation(operand.node).is_some_and(can_be) && !self.stored.contains(operand)
            };
            if is_product && let Some(operand) = operands.iter().find(is_unstored) {
                return Some(*operand);
            }
            pending.extend(operands.iter().filter(|operand| !self.stored.contains(operand)));
        }
        None
    }

    /// The graph that computes `roots` from what is in memory.
    fn extract(&self, roots: &[ValueId]) -> Result<Extracted, ScheduleError> {
        let flat = &self.flat.graph;
        let mut needed: HashSet<NodeId> = HashSet::new();
        let mut inputs: Vec<ValueId> = Vec::new();
        let is_root = |value: &ValueId| roots.contains(value);
        let is_leaf = |value: ValueId| match flat.node(value.node).kind() {
            NodeKind::Operation(operation) => is_list(operation) || (self.stored.contains(&value) && !is_root(&value)),
            _ => true,
        };
        let mut pending: Vec<ValueId> = roots.iter().rev().copied().collect();
        let mut seen: HashSet<ValueId> = HashSet::new();
        while let Some(value) = pending.pop() {
            if !seen.insert(value) {
                continue;
            }
            if is_leaf(value) {
                inputs.push(value);
                continue;
            }
            if needed.insert(value.node) {
                pending.extend(flat.operands(value.node).iter().rev().copied());
            }
        }
        let mut region = Graph::new();
        let mut values: HashMap<ValueId, ValueId> = HashMap::new();
        for input in &inputs {
            let name = flat.value_name(*input).cloned().unwrap_or_default();
            values.insert(*input, region.input(name, flat.value_type(*input).clone()));
        }
        let mut needed: Vec<NodeId> = needed.into_iter().collect();
        needed.sort_by_key(|node| self.flat.places[node]);
        for node in needed {
            let Some(operation) = flat.operation(node) else { continue };
            let operands: Vec<ValueId> = flat.operands(node).iter().map(|operand| values[operand]).collect();
            let types: Vec<Type> = flat.node(node).results().to_vec();
            let added = region.add(operation.clone(), &operands, &types)?;
            for result in 0..types.len() as u32 {
                let (from, to) = (ValueId { node, result }, ValueId { node: added, result });
                if let Some(name) = flat.value_name(from) {
                    region.set_name(to, name.clone());
                }
                values.entry(from).or_insert(to);
            }
        }
        region.set_outputs(roots.iter().map(|root| values[root]).collect::<Vec<_>>());
        let places = places(&region);
        let origins = values.iter().map(|(from, to)| ((places[&to.node], to.result), *from)).collect();
        Ok((region, inputs, origins))
    }

    /// The graph of fusions.
    fn assemble(&mut self) -> Result<Graph, ScheduleError> {
        let flat = &self.flat.graph;
        let mut graph = Graph::new();
        let mut values: HashMap<ValueId, ValueId> = HashMap::new();
        for input in flat.inputs() {
            let name = flat.value_name(input).cloned().unwrap_or_default();
            values.insert(input, graph.input(name, flat.value_type(input).clone()));
        }
        for (name, value) in flat.parameters() {
            values.insert(value, graph.parameter(name.clone(), flat.value_type(value).clone()));
        }
        for (node, operation) in flat.operations().filter(|(_, operation)| is_list(operation)) {
            let added = graph.add(operation.clone(), &[], flat.node(node).results())?;
            values.insert(ValueId::first(node), ValueId::first(added));
        }
        let places = &self.flat.places;
        let mut returned: HashMap<ValueId, ValueId> = HashMap::new();
        // In the order of the last root; kernels whose inputs are missing wait.
        let mut waiting: Vec<&Roots> = self.regions.iter().collect();
        waiting.sort_by_key(|roots| roots.values.iter().map(|value| places[&value.node]).max());
        while !waiting.is_empty() {
            let ready = waiting.iter().position(|roots| {
                let inputs = roots.region.iter().flat_map(|(_, inputs)| inputs);
                inputs.into_iter().all(|input| values.contains_key(input))
            });
            let Some(ready) = ready else {
                return Err(ScheduleError::Function(
                    "the fusions of the function depend on each other in a circle".into(),
                ));
            };
            let roots = waiting.remove(ready);
            let Some((region, inputs)) = &roots.region else { continue };
            let operands: Vec<ValueId> = inputs.iter().map(|input| values[input]).collect();
            let label = roots.label.clone().or_else(|| Some(label_of(region)));
            let schedule = Some(Name::from(cost::write(&roots.variants)));
            let fusion = Operation::from(ops::Fusion { label, schedule }).with_region((**region).clone());
            let node = graph.add(fusion, &operands, &[])?;
            for (result, root) in roots.values.iter().enumerate() {
                let value = ValueId { node, result: result as u32 };
                if let Some(name) = flat.value_name(*root) {
                    graph.set_name(value, name.clone());
                }
                // A copy of something that is in memory already is for the caller alone.
                if values.contains_key(root) {
                    returned.insert(*root, value);
                } else {
                    values.insert(*root, value);
                }
            }
        }
        let mut outputs: Vec<ValueId> = Vec::new();
        for output in flat.outputs() {
            let value = returned.get(output).or_else(|| values.get(output)).copied();
            let mut value =
                value.ok_or_else(|| ScheduleError::Function("an output is computed by no kernel".into()))?;
            if outputs.contains(&value) && matches!(flat.value_type(*output), Type::Tensor(_)) {
                value = copy(&mut graph, value)?;
            }
            outputs.push(value);
        }
        graph.set_outputs(outputs);
        Ok(graph)
    }
}

/// Adds a kernel that copies a value, for a function that returns it twice.
fn copy(graph: &mut Graph, value: ValueId) -> Result<ValueId, ScheduleError> {
    let mut region = Graph::new();
    let input = region.input("x", graph.value_type(value).clone());
    region.set_outputs([input]);
    Ok(ValueId::first(graph.fusion(&[value], region, Some("copy".into()))?))
}

/// Whether a value is computed from another.
fn depends_on(graph: &Graph, value: ValueId, other: ValueId) -> bool {
    let mut pending = vec![value.node];
    let mut seen = HashSet::new();
    while let Some(node) = pending.pop() {
        if seen.insert(node) {
            let operands = graph.operands(node);
            if operands.contains(&other) {
                return true;
            }
            pending.extend(operands.iter().map(|operand| operand.node));
        }
    }
    false
}

/// Place of every node in topological order.
fn places(graph: &Graph) -> HashMap<NodeId, usize> {
    graph.topological_order().into_iter().enumerate().map(|(place, node)| (node, place)).collect()
}

/// A name for a kernel: the ops that it computes, the moving ones left out.
fn label_of(region: &Graph) -> Name {
    let mut names: Vec<&str> = Vec::new();
    for (_, operation) in region.operations() {
        if !is_moving(operation) && names.last() != Some(&operation.op().name()) {
            names.push(operation.op().name());
        }
    }
    match names.as_slice() {
        [] => region.operations().next().map_or("copy", |(_, operation)| operation.op().name()).into(),
        names if names.len() > 6 => format!("{} + {} more", names[..5].join(" + "), names.len() - 5).into(),
        names => names.join(" + ").into(),
    }
}
