//! Graphs as wholes: making, copying and dropping them, and the order of their nodes.

use std::collections::HashSet;
use std::ffi::{c_char, c_uint, c_void};
use std::fmt::Write;
use std::sync::{Arc, Mutex};

use crate::error::{Answer, CUresult, list, put, put_list, text};
use crate::graph::Graph;
use crate::launch::Work;
use crate::state::{Object, driver, lock};

/// `CUgraphEdgeData` of an ordinary edge.
type EdgeData = [u8; 8];

/// # Safety
/// The pointers are null or valid; lists have as many places as `count` says.
unsafe fn put_edges(graph: u64, from: *mut u64, to: *mut u64, data: *mut EdgeData, count: *mut usize) -> Answer<()> {
    let edges = lock(&*driver().graph(graph)?).edges();
    if from.is_null() != to.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let (before, after): (Vec<u64>, Vec<u64>) = edges.into_iter().unzip();
    // SAFETY: the caller's; the count is read by each, and written once they are.
    unsafe {
        let mut places = crate::error::get(count)?;
        put_list(from, &raw mut places, &before)?;
        places = crate::error::get(count)?;
        if !data.is_null() {
            put_list(data, &raw mut places, &vec![EdgeData::default(); before.len()])?;
        }
        put_list(to, count, &after)
    }
}

/// The nodes before, or after, a node.
fn neighbours(node: u64, before: bool) -> Answer<Vec<u64>> {
    let graph = driver().graph(driver().graph_of(node)?)?;
    let edges = lock(&graph).edges();
    let chosen = edges.into_iter().filter(|(from, to)| if before { *to == node } else { *from == node });
    Ok(chosen.map(|(from, to)| if before { from } else { to }).collect())
}

/// # Safety
/// As [`put_list`].
unsafe fn put_neighbours(
    node: u64,
    before: bool,
    into: *mut u64,
    data: *mut EdgeData,
    count: *mut usize,
) -> Answer<()> {
    let found = neighbours(node, before)?;
    // SAFETY: the caller's.
    unsafe {
        if !data.is_null() {
            let mut places = crate::error::get(count)?;
            put_list(data, &raw mut places, &vec![EdgeData::default(); found.len()])?;
        }
        put_list(into, count, &found)
    }
}

/// Adds or removes orders between nodes: all of them, or none.
fn change_edges(graph: u64, edges: &[(u64, u64)], add: bool) -> Answer<()> {
    let graph = driver().graph(graph)?;
    let mut graph = lock(&graph);
    let known: HashSet<(u64, u64)> = graph.edges().into_iter().collect();
    let given: HashSet<&(u64, u64)> = edges.iter().collect();
    let possible = |(from, to): &(u64, u64)| {
        let nodes = graph.nodes.contains_key(from) && graph.nodes.contains_key(to) && from != to;
        nodes && known.contains(&(*from, *to)) != add
    };
    if given.len() != edges.len() || !edges.iter().all(possible) {
        return Err(CUresult::INVALID_VALUE);
    }
    for (from, to) in edges {
        if let Some(node) = graph.nodes.get_mut(to) {
            if add {
                node.after.push(*from);
            } else {
                node.after.retain(|other| other != from);
            }
        }
    }
    Ok(())
}

/// # Safety
/// The pointers are null or have `count` elements.
unsafe fn pairs(from: *const u64, to: *const u64, count: usize) -> Answer<Vec<(u64, u64)>> {
    // SAFETY: the caller's.
    Ok(unsafe { list(from, count)?.into_iter().zip(list(to, count)?).collect() })
}

/// A graph in the language of Graphviz.
fn dot(graph: &Graph) -> String {
    let mut text = String::from("digraph {\n");
    for (handle, node) in &graph.nodes {
        let label = match &node.work {
            Work::Launch(launch) => format!("launch {}", launch.function.kernel.name),
            Work::Copy(_) => "copy".into(),
            Work::Set(_) => "set".into(),
            Work::Host(_) | Work::Callback(_) => "host call".into(),
            Work::Graph(..) => "graph".into(),
            Work::Nothing => "nothing".into(),
            Work::WriteWord(_) => "write word".into(),
            Work::WaitWord(_) => "wait for word".into(),
            Work::Wait(_) => "wait for event".into(),
            Work::Record(_) => "record event".into(),
            Work::Free(_) => "free".into(),
        };
        let _ = writeln!(text, "    n{handle:x} [label=\"{label}\"]");
    }
    for (from, to) in graph.edges() {
        let _ = writeln!(text, "    n{from:x} -> n{to:x}");
    }
    text + "}\n"
}

calls! {
    /// An empty graph.
    fn cuGraphCreate(handle: *mut u64, flags: c_uint) {
        driver().started()?;
        if flags != 0 || handle.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        put(handle, driver().keep(Object::Graph(Arc::new(Mutex::new(Graph::default())))))
    }

    /// A copy of a graph.
    fn cuGraphClone(handle: *mut u64, graph: u64) {
        if handle.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        put(handle, Graph::duplicate(graph)?)
    }

    /// The node of a copy that was made from a node.
    fn cuGraphNodeFindInClone(node: *mut u64, original: u64, graph: u64) {
        let found = lock(&*driver().graph(graph)?).clone_of(original);
        put(node, found.ok_or(CUresult::INVALID_VALUE)?)
    }

    /// The graph of a node.
    fn cuGraphNodeGetContainingGraph(node: u64, graph: *mut u64) {
        put(graph, driver().graph_of(node)?)
    }

    /// Drops a graph.
    fn cuGraphDestroy(graph: u64) {
        Graph::destroy(graph)
    }

    /// Drops a node, and the orders it is part of.
    fn cuGraphDestroyNode(node: u64) {
        let owner = driver().graph(driver().graph_of(node)?)?;
        let removed = {
            let mut graph = lock(&owner);
            graph.nodes.values_mut().for_each(|other| other.after.retain(|before| *before != node));
            graph.nodes.remove(&node)
        };
        driver().forget(node)?;
        match removed.map(|node| node.work) {
            Some(Work::Graph(child, _)) => Graph::destroy(child),
            _ => Ok(()),
        }
    }

    /// All nodes.
    fn cuGraphGetNodes(graph: u64, nodes: *mut u64, count: *mut usize) {
        let found: Vec<u64> = lock(&*driver().graph(graph)?).nodes.keys().copied().collect();
        put_list(nodes, count, &found)
    }

    /// The nodes that come after none.
    fn cuGraphGetRootNodes(graph: u64, nodes: *mut u64, count: *mut usize) {
        let graph = driver().graph(graph)?;
        let graph = lock(&graph);
        let roots: Vec<u64> = graph.nodes.iter().filter(|(_, node)| node.after.is_empty()).map(|(node, _)| *node).collect();
        put_list(nodes, count, &roots)
    }

    /// All orders.
    fn cuGraphGetEdges_v2(graph: u64, from: *mut u64, to: *mut u64, data: *mut EdgeData, count: *mut usize) {
        put_edges(graph, from, to, data, count)
    }

    /// All orders.
    fn cuGraphGetEdges(graph: u64, from: *mut u64, to: *mut u64, count: *mut usize) {
        put_edges(graph, from, to, std::ptr::null_mut(), count)
    }

    /// What a node comes after.
    fn cuGraphNodeGetDependencies_v2(node: u64, nodes: *mut u64, data: *mut EdgeData, count: *mut usize) {
        put_neighbours(node, true, nodes, data, count)
    }

    /// What a node comes after.
    fn cuGraphNodeGetDependencies(node: u64, nodes: *mut u64, count: *mut usize) {
        put_neighbours(node, true, nodes, std::ptr::null_mut(), count)
    }

    /// What comes after a node.
    fn cuGraphNodeGetDependentNodes_v2(node: u64, nodes: *mut u64, data: *mut EdgeData, count: *mut usize) {
        put_neighbours(node, false, nodes, data, count)
    }

    /// What comes after a node.
    fn cuGraphNodeGetDependentNodes(node: u64, nodes: *mut u64, count: *mut usize) {
        put_neighbours(node, false, nodes, std::ptr::null_mut(), count)
    }

    /// Adds orders.
    fn cuGraphAddDependencies_v2(graph: u64, from: *const u64, to: *const u64, _data: *const c_void, count: usize) {
        change_edges(graph, &pairs(from, to, count)?, true)
    }

    /// Adds orders.
    fn cuGraphAddDependencies(graph: u64, from: *const u64, to: *const u64, count: usize) {
        change_edges(graph, &pairs(from, to, count)?, true)
    }

    /// Removes orders.
    fn cuGraphRemoveDependencies_v2(graph: u64, from: *const u64, to: *const u64, _data: *const c_void, count: usize) {
        change_edges(graph, &pairs(from, to, count)?, false)
    }

    /// Removes orders.
    fn cuGraphRemoveDependencies(graph: u64, from: *const u64, to: *const u64, count: usize) {
        change_edges(graph, &pairs(from, to, count)?, false)
    }

    /// Writes a graph for Graphviz.
    fn cuGraphDebugDotPrint(graph: u64, path: *const c_char, _flags: c_uint) {
        let graph = driver().graph(graph)?;
        std::fs::write(text(path)?, dot(&lock(&graph))).map_err(|_| CUresult::FILE_NOT_FOUND)
    }
}
