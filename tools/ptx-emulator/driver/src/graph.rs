//! Graphs: work with an order, to be done again and again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use crate::error::{Answer, CUresult};
use crate::launch::Work;
use crate::state::{Object, driver, lock};

/// A graph.
#[derive(Clone, Default)]
pub struct Graph {
    /// Nodes by handle, and so in the order in which they were added.
    pub nodes: BTreeMap<u64, Node>,
}

/// A node of a graph.
#[derive(Clone)]
pub struct Node {
    /// What it does.
    pub work: Work,
    /// What it comes after.
    pub after: Vec<u64>,
    /// The node of another graph that it was cloned from.
    original: Option<u64>,
}

/// A node of a graph that is ready to launch.
#[derive(Clone)]
pub struct Step {
    /// The graph's node.
    pub node: u64,
    /// What it does.
    pub work: Work,
    /// Whether it does it.
    pub enabled: bool,
    /// The places of the steps it comes after, in order.
    after: Vec<usize>,
}

/// A graph that is ready to launch.
pub struct Executable {
    /// Its steps, each after those that it comes after.
    pub steps: Arc<Vec<Step>>,
    /// What it was instantiated with.
    pub flags: u64,
}

impl Executable {
    /// The step of a node.
    pub fn step(&mut self, node: u64) -> Answer<&mut Step> {
        let steps = Arc::make_mut(&mut self.steps);
        steps.iter_mut().find(|step| step.node == node).ok_or(CUresult::INVALID_VALUE)
    }

    /// Takes the work of a graph of the same form.
    pub fn update(&mut self, graph: &Graph) -> Result<(), Mismatch> {
        let steps = graph.steps().map_err(|_| Mismatch { reason: Reason::Topology, node: 0 })?;
        if steps.len() != self.steps.len() {
            return Err(Mismatch { reason: Reason::Topology, node: 0 });
        }
        for (new, old) in steps.iter().zip(self.steps.iter()) {
            if new.after != old.after {
                return Err(Mismatch { reason: Reason::Topology, node: new.node });
            }
            if new.work.kind() != old.work.kind() {
                return Err(Mismatch { reason: Reason::Kind, node: new.node });
            }
        }
        // Programs go on to name the steps by the nodes of the graph that it was instantiated from.
        for (step, new) in Arc::make_mut(&mut self.steps).iter_mut().zip(steps) {
            step.work = new.work;
        }
        Ok(())
    }
}

/// Why an update is not possible.
pub struct Mismatch {
    /// What differs.
    pub reason: Reason,
    /// The node that differs, or 0.
    pub node: u64,
}

/// `CUgraphExecUpdateResult`
#[derive(Clone, Copy)]
pub enum Reason {
    /// Nodes or their order.
    Topology = 2,
    /// What a node is.
    Kind = 3,
}

impl Graph {
    /// Adds a node to the graph of a handle, after some of its nodes.
    pub fn add(graph: u64, work: Work, after: &[u64]) -> Answer<u64> {
        let owner = driver().graph(graph)?;
        let mut owner = lock(&owner);
        let distinct: HashSet<&u64> = after.iter().collect();
        if distinct.len() != after.len() || after.iter().any(|node| !owner.nodes.contains_key(node)) {
            return Err(CUresult::INVALID_VALUE);
        }
        let node = driver().keep(Object::Node(graph));
        owner.nodes.insert(node, Node { work, after: after.to_vec(), original: None });
        Ok(node)
    }

    /// Drops a graph and its nodes.
    pub fn destroy(graph: u64) -> Answer<()> {
        let owner = driver().graph(graph)?;
        let nodes: Vec<(u64, Node)> = std::mem::take(&mut lock(&owner).nodes).into_iter().collect();
        driver().forget(graph)?;
        for (handle, node) in nodes {
            driver().forget(handle)?;
            if let Work::Graph(child, _) = node.work {
                Graph::destroy(child)?;
            }
        }
        Ok(())
    }

    /// Copies a graph, and gives the copy's handle.
    pub fn duplicate(graph: u64) -> Answer<u64> {
        let source = lock(&*driver().graph(graph)?).clone();
        let handle = driver().keep(Object::Graph(Arc::new(Mutex::new(Graph::default()))));
        let mut handles: HashMap<u64, u64> = HashMap::new();
        for original in source.nodes.keys() {
            handles.insert(*original, driver().keep(Object::Node(handle)));
        }
        let mut nodes = BTreeMap::new();
        for (original, node) in source.nodes {
            let work = match node.work {
                Work::Graph(child, _) => Graph::child(child)?,
                work => work,
            };
            let after = node.after.iter().filter_map(|other| handles.get(other).copied()).collect();
            nodes.insert(handles[&original], Node { work, after, original: Some(original) });
        }
        lock(&*driver().graph(handle)?).nodes = nodes;
        Ok(handle)
    }

    /// The work of a node that does a graph: a copy of it.
    pub fn child(graph: u64) -> Answer<Work> {
        let copy = Graph::duplicate(graph)?;
        let steps = lock(&*driver().graph(copy)?).steps()?;
        Ok(Work::Graph(copy, Arc::new(steps)))
    }

    /// The node that was cloned from a node.
    pub fn clone_of(&self, original: u64) -> Option<u64> {
        self.nodes.iter().find(|(_, node)| node.original == Some(original)).map(|(handle, _)| *handle)
    }

    /// All nodes in an order that respects what each comes after: the order in which they were added, where that does. Fails for
    /// a cycle.
    pub fn steps(&self) -> Answer<Vec<Step>> {
        let mut places: HashMap<u64, usize> = HashMap::new();
        let mut steps = Vec::with_capacity(self.nodes.len());
        let mut waiting: Vec<(&u64, &Node)> = self.nodes.iter().collect();
        while !waiting.is_empty() {
            let before = steps.len();
            let mut blocked = Vec::new();
            for (handle, node) in waiting {
                let after: Option<Vec<usize>> = node.after.iter().map(|other| places.get(other).copied()).collect();
                let Some(mut after) = after else {
                    blocked.push((handle, node));
                    continue;
                };
                after.sort_unstable();
                // A child may have been changed since it was added.
                let work = match &node.work {
                    Work::Graph(child, _) => Work::Graph(*child, Arc::new(lock(&*driver().graph(*child)?).steps()?)),
                    work => work.clone(),
                };
                places.insert(*handle, steps.len());
                steps.push(Step { node: *handle, work, enabled: true, after });
            }
            if steps.len() == before {
                return Err(CUresult::INVALID_VALUE);
            }
            waiting = blocked;
        }
        Ok(steps)
    }

    /// Whether each of some nodes is, or comes before, one of others.
    pub fn lead_to(&self, nodes: &[u64], ends: &[u64]) -> bool {
        let mut reached: HashSet<u64> = HashSet::new();
        let mut open = ends.to_vec();
        while let Some(node) = open.pop() {
            if reached.insert(node)
                && let Some(node) = self.nodes.get(&node)
            {
                open.extend(&node.after);
            }
        }
        nodes.iter().all(|node| reached.contains(node))
    }

    /// All orders between two nodes: the one before, the one after.
    pub fn edges(&self) -> Vec<(u64, u64)> {
        self.nodes.iter().flat_map(|(handle, node)| node.after.iter().map(|before| (*before, *handle))).collect()
    }
}
