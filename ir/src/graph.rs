//! The dataflow graph.
//!
//! A graph owns nodes: inputs, references to parameters, and operations. Each node has one or more
//! results; a [`ValueId`] names one. An edge of the underlying petgraph runs from the node that
//! defines a value to the node that uses it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::ops::Range;

use petgraph::Direction;
use petgraph::stable_graph::StableDiGraph;
use petgraph::visit::EdgeRef;
use smallvec::SmallVec;
use thiserror::Error;

use crate::builder::Builder;
use crate::definition::{Inference, OpError, ResultTypes};
use crate::name::Name;
use crate::operation::Operation;
use crate::types::Type;

/// Identifies a node of a graph; stays valid while other nodes come and go.
pub type NodeId = petgraph::stable_graph::NodeIndex;

/// Where something stands in a source text: a range of bytes.
pub type Span = Range<usize>;

/// One result of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId {
    /// The node that defines the value.
    pub node: NodeId,
    /// Which of the node's results it is.
    pub result: u32,
}

impl ValueId {
    /// The first result of `node`.
    pub fn first(node: NodeId) -> ValueId {
        ValueId { node, result: 0 }
    }
}

/// The weight of an edge: which result of the source is which operand of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// Index among the operands of the using node.
    pub operand: u32,
    /// Index among the results of the defining node.
    pub result: u32,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeKind {
    /// The input at this position.
    Input(usize),
    /// A reference to the module's parameter of this name.
    Parameter(Name),
    /// An operation on other values.
    Operation(Operation),
}

/// A node of a graph.
#[derive(Clone, Debug)]
pub struct Node {
    kind: NodeKind,
    results: ResultTypes,
    names: SmallVec<[Option<Name>; 1]>,
    span: Option<Span>,
}

impl Node {
    fn new(kind: NodeKind, results: ResultTypes) -> Node {
        let names = smallvec::smallvec![None; results.len()];
        Node { kind, results, names, span: None }
    }

    /// What the node is.
    pub fn kind(&self) -> &NodeKind {
        &self.kind
    }

    /// The operation, unless the node is an input or a parameter.
    pub fn operation(&self) -> Option<&Operation> {
        match &self.kind {
            NodeKind::Operation(operation) => Some(operation),
            _ => None,
        }
    }

    /// The types of the results.
    pub fn results(&self) -> &[Type] {
        &self.results
    }

    /// The name given to the result `index`, if any.
    pub fn name(&self, index: usize) -> Option<&Name> {
        self.names.get(index)?.as_ref()
    }

    /// Where the node was read from.
    pub fn span(&self) -> Option<&Span> {
        self.span.as_ref()
    }
}

/// A node cannot be removed while its results are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the node still has {uses} uses")]
pub struct StillUsed {
    /// Uses by other nodes and as outputs.
    pub uses: usize,
}

/// A dataflow graph: the body of a function, or of a fusion.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: StableDiGraph<Node, Use>,
    inputs: Vec<NodeId>,
    parameters: BTreeMap<Name, NodeId>,
    outputs: Vec<ValueId>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Graph {
        Graph::default()
    }

    /// Adds an input after the others.
    pub fn input(&mut self, name: impl Into<Name>, ty: impl Into<Type>) -> ValueId {
        let kind = NodeKind::Input(self.inputs.len());
        let mut node = Node::new(kind, smallvec::smallvec![ty.into()]);
        node.names[0] = Some(name.into());
        let id = self.nodes.add_node(node);
        self.inputs.push(id);
        ValueId::first(id)
    }

    /// The value of the module's parameter `name`. A second call gives the same value again, with the
    /// type of the first.
    pub fn parameter(&mut self, name: impl Into<Name>, ty: impl Into<Type>) -> ValueId {
        let name = name.into();
        let nodes = &mut self.nodes;
        let id = *self.parameters.entry(name).or_insert_with_key(|name| {
            let kind = NodeKind::Parameter(name.clone());
            nodes.add_node(Node::new(kind, smallvec::smallvec![ty.into()]))
        });
        ValueId::first(id)
    }

    /// Adds an operation. `written` is empty, or holds a type for each result, which then must agree
    /// with inference and adds what inference does not give (sharding, accumulator, and, for ops that
    /// leave it open, the storage).
    ///
    /// # Errors
    /// Operands or attributes do not fit the op, or the written types disagree with inference.
    pub fn add(
        &mut self,
        operation: impl Into<Operation>,
        operands: &[ValueId],
        written: &[Type],
    ) -> Result<NodeId, OpError> {
        let operation = operation.into();
        let mut types = Vec::with_capacity(operands.len());
        for (index, operand) in operands.iter().enumerate() {
            let node = self.nodes.node_weight(operand.node);
            let Some(ty) = node.and_then(|node| node.results.get(operand.result as usize)) else {
                return Err(OpError::operand(index, "this is no value of the graph").of(operation.op()));
            };
            types.push(ty);
        }
        let results = infer_results(&operation, &types, written)?;
        let id = self.nodes.add_node(Node::new(NodeKind::Operation(operation), results));
        for (index, operand) in operands.iter().enumerate() {
            self.connect(*operand, id, index);
        }
        Ok(id)
    }

    fn connect(&mut self, value: ValueId, user: NodeId, operand: usize) {
        let edge = Use { operand: operand as u32, result: value.result };
        self.nodes.add_edge(value.node, user, edge);
    }

    /// A builder that appends to this graph.
    pub fn builder(&mut self) -> Builder<'_> {
        Builder::new(self)
    }

    /// The node `id`.
    ///
    /// # Panics
    /// The node has been removed or belongs to another graph; see [`contains`](Self::contains).
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// Whether the graph has a node `id`.
    pub fn contains(&self, id: NodeId) -> bool {
        self.nodes.contains_node(id)
    }

    /// The operation of node `id`, unless it is an input or parameter.
    pub fn operation(&self, id: NodeId) -> Option<&Operation> {
        self.nodes.node_weight(id)?.operation()
    }

    /// The operation of node `id`, for changing it: [`verify`](crate::verify) afterwards.
    pub fn operation_mut(&mut self, id: NodeId) -> Option<&mut Operation> {
        match &mut self.nodes.node_weight_mut(id)?.kind {
            NodeKind::Operation(operation) => Some(operation),
            _ => None,
        }
    }

    /// The operation that defines `value`, unless it is an input or parameter.
    pub fn defining(&self, value: ValueId) -> Option<&Operation> {
        self.operation(value.node)
    }

    /// The type of a value.
    ///
    /// # Panics
    /// The value belongs to another graph or a removed node.
    pub fn value_type(&self, value: ValueId) -> &Type {
        &self.node(value.node).results[value.result as usize]
    }

    /// Replaces the type of a value, to give it a sharding or policy: [`verify`](crate::verify)
    /// afterwards.
    ///
    /// # Panics
    /// The value belongs to another graph or a removed node.
    pub fn set_value_type(&mut self, value: ValueId, ty: impl Into<Type>) {
        self.nodes[value.node].results[value.result as usize] = ty.into();
    }

    /// The name given to a value, if any.
    pub fn value_name(&self, value: ValueId) -> Option<&Name> {
        self.node(value.node).name(value.result as usize)
    }

    /// Names a value for the text form, which appends a number where names collide. Parameters keep
    /// their own name.
    pub fn set_name(&mut self, value: ValueId, name: impl Into<Name>) {
        let node = &mut self.nodes[value.node];
        if !matches!(node.kind, NodeKind::Parameter(_)) {
            node.names[value.result as usize] = Some(name.into());
        }
    }

    /// Records where a node was read from.
    pub fn set_span(&mut self, id: NodeId, span: Span) {
        self.nodes[id].span = Some(span);
    }

    /// The operands of a node, in order; none for inputs and parameters.
    pub fn operands(&self, id: NodeId) -> SmallVec<[ValueId; 4]> {
        let mut operands: SmallVec<[(u32, ValueId); 4]> = self
            .nodes
            .edges_directed(id, Direction::Incoming)
            .map(|edge| {
                let Use { operand, result } = *edge.weight();
                (operand, ValueId { node: edge.source(), result })
            })
            .collect();
        operands.sort_unstable_by_key(|(operand, _)| *operand);
        operands.into_iter().map(|(_, value)| value).collect()
    }

    /// The uses of a value by other nodes: node and operand index, sorted. Outputs of the graph are
    /// not among them; see [`is_output`](Self::is_output).
    pub fn users(&self, value: ValueId) -> Vec<(NodeId, usize)> {
        let mut users: Vec<(NodeId, usize)> = self
            .nodes
            .edges_directed(value.node, Direction::Outgoing)
            .filter(|edge| edge.weight().result == value.result)
            .map(|edge| (edge.target(), edge.weight().operand as usize))
            .collect();
        users.sort_unstable();
        users
    }

    /// Whether the graph returns `value`.
    pub fn is_output(&self, value: ValueId) -> bool {
        self.outputs.contains(&value)
    }

    /// How often a value is used, by nodes and as an output.
    pub fn use_count(&self, value: ValueId) -> usize {
        let outputs = self.outputs.iter().filter(|output| **output == value).count();
        let edges = self.nodes.edges_directed(value.node, Direction::Outgoing);
        outputs + edges.filter(|edge| edge.weight().result == value.result).count()
    }

    /// Makes every user of `old`, and the outputs, use `new` instead. The node that defines `new` keeps
    /// its own use of `old`, so that a value can be wrapped.
    pub fn replace_all_uses(&mut self, old: ValueId, new: ValueId) {
        for (user, operand) in self.users(old) {
            if user != new.node {
                self.set_operand(user, operand, new);
            }
        }
        for output in &mut self.outputs {
            if *output == old {
                *output = new;
            }
        }
    }

    /// Replaces one operand of a node.
    ///
    /// # Panics
    /// The node has no operand `index`.
    pub fn set_operand(&mut self, id: NodeId, index: usize, value: ValueId) {
        let edge = self
            .nodes
            .edges_directed(id, Direction::Incoming)
            .find(|edge| edge.weight().operand as usize == index)
            .map(|edge| edge.id());
        let Some(edge) = edge else { panic!("the node has no operand {index}") };
        self.nodes.remove_edge(edge);
        self.connect(value, id, index);
    }

    /// Removes a node whose results nobody uses. Removing an input moves the later inputs forward.
    ///
    /// # Errors
    /// Results of the node are used.
    pub fn remove(&mut self, id: NodeId) -> Result<(), StillUsed> {
        let outputs = self.outputs.iter().filter(|output| output.node == id).count();
        let uses = outputs + self.nodes.edges_directed(id, Direction::Outgoing).count();
        if uses > 0 {
            return Err(StillUsed { uses });
        }
        match self.nodes.remove_node(id).map(|node| node.kind) {
            Some(NodeKind::Input(position)) => {
                self.inputs.remove(position);
                for (position, input) in self.inputs.iter().enumerate() {
                    self.nodes[*input].kind = NodeKind::Input(position);
                }
            }
            Some(NodeKind::Parameter(name)) => {
                self.parameters.remove(&name);
            }
            _ => {}
        }
        Ok(())
    }

    /// Removes every operation and parameter reference that no output depends on; returns how many.
    pub fn remove_dead(&mut self) -> usize {
        let mut live = vec![false; self.nodes.node_indices().next_back().map_or(0, |id| id.index() + 1)];
        let mut pending: Vec<NodeId> = self.outputs.iter().map(|output| output.node).collect();
        pending.extend(&self.inputs);
        while let Some(id) = pending.pop() {
            if !std::mem::replace(&mut live[id.index()], true) {
                pending.extend(self.nodes.neighbors_directed(id, Direction::Incoming));
            }
        }
        let dead: Vec<NodeId> = self.nodes.node_indices().filter(|id| !live[id.index()]).collect();
        for id in &dead {
            self.nodes.remove_node(*id);
        }
        self.parameters.retain(|_, id| live[id.index()]);
        dead.len()
    }

    /// The inputs, in order.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = ValueId> + '_ {
        self.inputs.iter().map(|id| ValueId::first(*id))
    }

    /// The parameters that the graph refers to, by name.
    pub fn parameters(&self) -> impl ExactSizeIterator<Item = (&Name, ValueId)> {
        self.parameters.iter().map(|(name, id)| (name, ValueId::first(*id)))
    }

    /// The values that the graph returns.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// Sets the values that the graph returns.
    pub fn set_outputs(&mut self, outputs: impl IntoIterator<Item = ValueId>) {
        self.outputs = outputs.into_iter().collect();
    }

    /// Every node, in an order that changes with the history of the graph.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.node_indices()
    }

    /// Number of nodes.
    pub fn node_count(&self) -> usize {
        self.nodes.node_count()
    }

    /// The graph as petgraph sees it, for its algorithms.
    pub fn petgraph(&self) -> &StableDiGraph<Node, Use> {
        &self.nodes
    }

    /// The inputs, then the parameters by name, then the operations, each after its operands; among
    /// operations that could come next, the one added first comes first. Operations on a cycle, which
    /// only careless rewiring can make, are missing.
    pub fn topological_order(&self) -> Vec<NodeId> {
        let mut order: Vec<NodeId> = self.inputs.clone();
        order.extend(self.parameters.values());
        let mut missing: HashMap<NodeId, usize> = HashMap::new();
        let mut ready: BinaryHeap<Reverse<NodeId>> = BinaryHeap::new();
        for id in self.nodes.node_indices() {
            if self.nodes[id].operation().is_none() {
                continue;
            }
            let operands = self
                .nodes
                .neighbors_directed(id, Direction::Incoming)
                .filter(|operand| self.nodes[*operand].operation().is_some())
                .count();
            if operands == 0 {
                ready.push(Reverse(id));
            } else {
                missing.insert(id, operands);
            }
        }
        while let Some(Reverse(id)) = ready.pop() {
            order.push(id);
            for user in self.nodes.neighbors_directed(id, Direction::Outgoing) {
                if let Some(count) = missing.get_mut(&user) {
                    *count -= 1;
                    if *count == 0 {
                        missing.remove(&user);
                        ready.push(Reverse(user));
                    }
                }
            }
        }
        order
    }

    /// The operations in topological order.
    pub fn operations(&self) -> impl Iterator<Item = (NodeId, &Operation)> {
        let order = self.topological_order();
        order.into_iter().filter_map(|id| Some((id, self.operation(id)?)))
    }
}

impl PartialEq for Graph {
    /// Graphs are equal when they have the same inputs, outputs and operations in topological order;
    /// names of values and places in a source text do not matter.
    fn eq(&self, other: &Self) -> bool {
        let (left, right) = (Numbering::of(self), Numbering::of(other));
        self.inputs.len() == other.inputs.len()
            && left.order.len() == right.order.len()
            && left.order.iter().zip(&right.order).all(|(l, r)| {
                let (l_node, r_node) = (self.node(*l), other.node(*r));
                l_node.kind == r_node.kind
                    && l_node.results == r_node.results
                    && left.values(&self.operands(*l)) == right.values(&other.operands(*r))
            })
            && left.values(&self.outputs) == right.values(&other.outputs)
    }
}

/// The position of each node in topological order.
struct Numbering {
    order: Vec<NodeId>,
    positions: HashMap<NodeId, usize>,
}

impl Numbering {
    fn of(graph: &Graph) -> Numbering {
        let order = graph.topological_order();
        let positions = order.iter().enumerate().map(|(position, id)| (*id, position)).collect();
        Numbering { order, positions }
    }

    fn values(&self, values: &[ValueId]) -> Vec<(Option<usize>, u32)> {
        let number = |value: &ValueId| (self.positions.get(&value.node).copied(), value.result);
        values.iter().map(number).collect()
    }
}

/// Checks an operation against its declaration and gives the types of its results.
pub(crate) fn infer_results(
    operation: &Operation,
    operands: &[&Type],
    written: &[Type],
) -> Result<ResultTypes, OpError> {
    let definition = operation.definition();
    let check = || {
        let (least, most) = definition.operand_counts();
        if operands.len() < least || most.is_some_and(|most| operands.len() > most) {
            let names: Vec<&str> = definition.operands.iter().map(|operand| operand.name).collect();
            let count = match most {
                Some(most) if most == least => least.to_string(),
                Some(most) => format!("{least} or {most}"),
                None => format!("at least {least}"),
            };
            let noun = if most.unwrap_or(least) == 1 { "operand" } else { "operands" };
            let found = operands.len();
            return Err(OpError::operation(format!("{count} {noun} expected, {found} given"))
                .help(format!("the operands are ({})", names.join(", "))));
        }
        for (index, ty) in operands.iter().enumerate() {
            if let Some(declared) = definition.operand(index)
                && !declared.class.admits(ty)
            {
                let message = format!("`{}` must be {}, not {ty}", declared.name, declared.class);
                return Err(OpError::operand(index, message));
            }
        }
        if definition.has_region != operation.region().is_some() {
            let verb = if definition.has_region { "needs" } else { "has no" };
            return Err(OpError::operation(format!("the op {verb} nested graph")));
        }
        let inference = Inference { operands, written, region: operation.region() };
        let mut inferred = (definition.infer)(operation, &inference)?;
        if written.is_empty() {
            return Ok(inferred);
        }
        if written.len() != inferred.len() {
            let (given, expected) = (written.len(), inferred.len());
            let message = format!("{given} result types are written, the op has {expected}");
            return Err(OpError::operation(message));
        }
        for (index, (written, inferred)) in written.iter().zip(&mut inferred).enumerate() {
            if !written.agrees_with(inferred) {
                return Err(OpError::result(index, format!("the result's type is {inferred}, not {written}")));
            }
            *inferred = written.clone();
        }
        Ok(inferred)
    };
    check().map_err(|error| error.of(definition.op))
}
