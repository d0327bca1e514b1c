//! A graph as fusion sees it: steps that compute, and between them views that cost nothing.
//!
//! A view (a reshape, a slice, a broadcast) and a source (a constant of one number, an iota) belong to nobody: whatever reads them computes
//! positions a little differently, and each region that needs one has its own. The conversion of a weight is such a view too, for the
//! weight is read once by each region anyhow and in its narrow form, and so is a lookup of rows with few readers.
//! All other operations are steps. A view that must exist in memory, because an output or an op that stands alone asks for it, is a step.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

use tessera_ir::{Graph, NodeId, NodeKind, Op, ValueId, ops};

use crate::graph::role::{Role, role};

/// Most readers that pick rows for themselves.
const MOST_LOOKUPS: usize = 3;

/// Most views that are looked through on the way to one value.
const LONGEST_CHAIN: usize = 32;

/// What happened to a value on its way to its reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// Elements were repeated.
    pub broadcast: bool,
    /// Dimensions changed places.
    pub transposed: bool,
    /// Rows were picked by an index from memory, by this op.
    pub picked: Option<Op>,
}

impl Path {
    /// Why a tile of the reader does not come from one tile of the value, if so.
    pub fn objection(self) -> Option<&'static str> {
        match self {
            Path { transposed: true, .. } => Some("it reads the result transposed"),
            Path { broadcast: true, .. } => Some("it repeats the result"),
            Path { picked: Some(_), .. } => Some("it picks rows of the result"),
            _ => None,
        }
    }
}

/// A value that a step reads, with the views in between taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Which operand of the step it belongs to.
    pub operand: usize,
    /// The value.
    pub value: ValueId,
    /// The step that computes it; `None` for inputs, parameters and constants in memory.
    pub step: Option<usize>,
    /// The views in between.
    pub path: Path,
}

/// An operation that computes.
#[derive(Clone, Debug)]
pub struct Step {
    /// The operation's node.
    pub node: NodeId,
    /// What it can be in a kernel.
    pub role: Role,
    /// What it reads.
    pub sources: Vec<Source>,
}

/// The steps of a graph.
pub struct Dataflow {
    /// The steps, each after those it reads from, and before whatever overwrites a cache that it reads.
    pub steps: Vec<Step>,
    /// For each step those that read from it, or that must come later because they overwrite a cache that it reads.
    pub users: Vec<Vec<usize>>,
    /// The step of a node.
    pub step_of: HashMap<NodeId, usize>,
    /// The views and sources that belong to whoever reads them.
    pub free: BTreeSet<NodeId>,
}

impl Dataflow {
    /// The steps of `graph`.
    pub fn of(graph: &Graph) -> Dataflow {
        let nodes: Vec<NodeId> = graph.topological_order();
        let free = free_nodes(graph, &nodes);
        let solid: Vec<NodeId> = nodes
            .into_iter()
            .filter(|node| !free.contains(node) && role(graph, *node).is_some())
            .collect();
        let reads = |node: NodeId| -> Vec<(usize, ValueId, Path)> {
            let mut found = Vec::new();
            for (operand, value) in graph.operands(node).into_iter().enumerate() {
                look_through(graph, &free, value, Path::default(), &mut |value, path| found.push((operand, value, path)));
            }
            found
        };
        let order = order(graph, &solid, &reads);
        let step_of: HashMap<NodeId, usize> = order.iter().enumerate().map(|(step, node)| (*node, step)).collect();
        let steps: Vec<Step> = order
            .iter()
            .map(|node| Step {
                node: *node,
                role: role(graph, *node).unwrap_or(Role::Alone),
                sources: reads(*node)
                    .into_iter()
                    .map(|(operand, value, path)| {
                        let step = step_of.get(&value.node).copied();
                        Source { operand, value, step, path }
                    })
                    .collect(),
            })
            .collect();
        let mut users = vec![Vec::new(); steps.len()];
        for (user, step) in steps.iter().enumerate() {
            for producer in step.sources.iter().filter_map(|source| source.step) {
                users[producer].push(user);
            }
        }
        for (reader, writer) in overwrites(graph, &solid) {
            if let (Some(reader), Some(writer)) = (step_of.get(&reader), step_of.get(&writer)) {
                users[*reader].push(*writer);
            }
        }
        for (step, users) in users.iter_mut().enumerate() {
            users.sort_unstable();
            users.dedup();
            // Only an impossible order of cache writes points backwards; `legalize` refuses it.
            users.retain(|user| *user > step);
        }
        Dataflow { steps, users, step_of, free }
    }

    /// The sources of `step` that are results of steps.
    pub fn producers(&self, step: usize) -> impl Iterator<Item = (&Source, usize)> {
        self.steps[step].sources.iter().filter_map(|source| Some((source, source.step?)))
    }
}

/// The nodes that are not steps: views and sources, less those that must exist in memory and those at the end of a long chain.
fn free_nodes(graph: &Graph, order: &[NodeId]) -> BTreeSet<NodeId> {
    let mut free = BTreeSet::new();
    let mut depths: HashMap<NodeId, usize> = HashMap::new();
    for node in order {
        let is_free = match role(graph, *node) {
            Some(Role::View | Role::Source) => true,
            Some(Role::Elementwise { .. }) => converts_weight(graph, &free, *node),
            Some(Role::Lookup) => is_read_in_passing(graph, *node),
            _ => false,
        };
        let value = ValueId::first(*node);
        let must_exist = graph.is_output(value)
            || graph.users(value).iter().any(|(user, _)| matches!(role(graph, *user), Some(Role::Alone | Role::Grouped)));
        let operands = graph.operands(*node);
        let depth = operands.iter().map(|operand| depths.get(&operand.node).map_or(1, |depth| depth + 1)).max().unwrap_or(1);
        if is_free && !must_exist && depth <= LONGEST_CHAIN {
            free.insert(*node);
            depths.insert(*node, depth);
        }
    }
    free
}

/// Whether rows are picked for so few readers that each may as well pick them itself. Integers say where other things lie and are kept
/// in memory.
fn is_read_in_passing(graph: &Graph, node: NodeId) -> bool {
    let value = ValueId::first(node);
    let is_float = graph.value_type(value).as_tensor().is_some_and(|tensor| tensor.storage().is_float());
    is_float && graph.users(value).len() <= MOST_LOOKUPS
}

/// Whether a node is a conversion of a weight: a cast or a dequantization of parameters seen through views.
fn converts_weight(graph: &Graph, free: &BTreeSet<NodeId>, node: NodeId) -> bool {
    let converts = graph
        .operation(node)
        .is_some_and(|operation| operation.is(ops::CAST) || operation.is(ops::DEQUANTIZE));
    converts
        && graph.operands(node).into_iter().all(|operand| {
            let mut is_weight = true;
            look_through(graph, free, operand, Path::default(), &mut |value, _| {
                is_weight &= matches!(graph.node(value.node).kind(), NodeKind::Parameter(_));
            });
            is_weight
        })
}

/// Shows `found` each value that `value` is made of by free nodes.
fn look_through(
    graph: &Graph,
    free: &BTreeSet<NodeId>,
    value: ValueId,
    path: Path,
    found: &mut impl FnMut(ValueId, Path),
) {
    if !free.contains(&value.node) {
        found(value, path);
        return;
    }
    let is = |op: Op| graph.operation(value.node).is_some_and(|operation| operation.is(op));
    let path = Path {
        broadcast: path.broadcast || is(ops::BROADCAST),
        transposed: path.transposed || is(ops::TRANSPOSE),
        picked: path.picked.or_else(|| [ops::GATHER, ops::EMBEDDING].into_iter().find(|op| is(*op))),
    };
    for operand in graph.operands(value.node) {
        look_through(graph, free, operand, path, found);
    }
}

/// Pairs of an operation that reads a cache and one that appends to it, which happens in place.
fn overwrites(graph: &Graph, nodes: &[NodeId]) -> Vec<(NodeId, NodeId)> {
    let mut pairs = Vec::new();
    for writer in nodes {
        if role(graph, *writer) != Some(Role::Append) {
            continue;
        }
        let cache = graph.operands(*writer).first().copied();
        for (reader, _) in cache.map(|cache| graph.users(cache)).unwrap_or_default() {
            if reader != *writer {
                pairs.push((reader, *writer));
            }
        }
    }
    pairs
}

/// The nodes, each after what it reads, and before what overwrites a cache that it reads as far as that is possible.
fn order(graph: &Graph, nodes: &[NodeId], reads: &impl Fn(NodeId) -> Vec<(usize, ValueId, Path)>) -> Vec<NodeId> {
    let position: HashMap<NodeId, usize> = nodes.iter().enumerate().map(|(position, node)| (*node, position)).collect();
    let mut edges: BTreeSet<(usize, usize)> = BTreeSet::new();
    for (user, node) in nodes.iter().enumerate() {
        for (_, value, _) in reads(*node) {
            if let Some(producer) = position.get(&value.node) {
                edges.insert((*producer, user));
            }
        }
    }
    for (reader, writer) in overwrites(graph, nodes) {
        if let (Some(reader), Some(writer)) = (position.get(&reader), position.get(&writer)) {
            edges.insert((*reader, *writer));
        }
    }
    let mut missing = vec![0usize; nodes.len()];
    let mut users = vec![Vec::new(); nodes.len()];
    for (from, to) in edges {
        users[from].push(to);
        missing[to] += 1;
    }
    let mut ready: BinaryHeap<Reverse<usize>> = (0..nodes.len()).filter(|node| missing[*node] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(node)) = ready.pop() {
        order.push(nodes[node]);
        for user in &users[node] {
            missing[*user] -= 1;
            if missing[*user] == 0 {
                ready.push(Reverse(*user));
            }
        }
    }
    // Writes that no order can place after the reads: keep the order of the data.
    if order.len() == nodes.len() { order } else { nodes.to_vec() }
}
