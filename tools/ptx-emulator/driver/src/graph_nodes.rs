//! Nodes of graphs: adding them, and what they do.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use crate::copy::{Copy, Set};
use crate::error::{Answer, CUresult, get, list, put, unsupported};
use crate::graph::Graph;
use crate::launch::{AttributeValue, HostCall, Launch, Shape, Work};
use crate::state::{driver, lock};

/// `CUDA_KERNEL_NODE_PARAMS` of before CUDA 12.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct EarlyKernelParameters {
    function: u64,
    extent: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    parameters: *const *const c_void,
    extra: *const *const c_void,
}

/// `CUDA_KERNEL_NODE_PARAMS`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KernelParameters {
    early: EarlyKernelParameters,
    kernel: u64,
    context: u64,
}

impl From<EarlyKernelParameters> for KernelParameters {
    fn from(early: EarlyKernelParameters) -> KernelParameters {
        KernelParameters { early, kernel: 0, context: 0 }
    }
}

impl KernelParameters {
    /// The work, with the attributes of a launch before.
    ///
    /// # Safety
    /// As the driver API says of its pointers.
    pub unsafe fn work(&self, before: Shape) -> Answer<Work> {
        let EarlyKernelParameters { function, extent, block, shared, parameters, extra } = self.early;
        let function = if function == 0 { self.kernel } else { function };
        let shape = Shape { extent, block, shared, ..before };
        // SAFETY: the caller's.
        Ok(Work::Launch(Arc::new(unsafe { Launch::new(function, shape, parameters, extra)? })))
    }
}

/// `CUgraphNodeParams`: a kind, then the parameters of a node of it, in 232 bytes.
#[repr(C)]
pub struct Parameters {
    kind: c_int,
    _reserved: [c_int; 3],
    value: [u64; 29],
    _end: u64,
}

/// `CUDA_MEMCPY_NODE_PARAMS`
#[repr(C)]
#[derive(Clone, Copy)]
struct CopyParameters {
    flags: c_int,
    reserved: c_int,
    context: u64,
    copy: Copy,
}

impl Parameters {
    /// The work that they describe.
    ///
    /// # Safety
    /// The pointer is null or valid, with the value of its kind.
    pub unsafe fn work(parameters: *const Parameters, before: Shape) -> Answer<Work> {
        if parameters.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        // SAFETY: the caller's; a value of any kind is as long as the union.
        unsafe {
            let value = (&raw const (*parameters).value).cast::<c_void>();
            match get(&raw const (*parameters).kind)? {
                0 => get(value.cast::<KernelParameters>())?.work(before),
                1 => copy(get(value.cast::<CopyParameters>())?.copy),
                2 => set(get(value.cast())?),
                3 => host(get(value.cast())?),
                4 => Graph::child(get(value.cast())?),
                5 => Ok(Work::Nothing),
                6 => wait(get(value.cast())?),
                7 => record(get(value.cast())?),
                _ => Err(unsupported("this kind of graph node")),
            }
        }
    }
}

/// A node that copies.
pub fn copy(copy: Copy) -> Answer<Work> {
    copy.validate()?;
    Ok(Work::Copy(copy))
}

/// A node that sets.
pub fn set(set: Set) -> Answer<Work> {
    set.validate()?;
    Ok(Work::Set(set))
}

/// A node that calls the program.
pub fn host(call: HostCall) -> Answer<Work> {
    call.validate()?;
    Ok(Work::Host(call))
}

/// A node that waits for an event.
pub fn wait(event: u64) -> Answer<Work> {
    driver().event(event)?;
    Ok(Work::Wait(event))
}

/// A node at which an event happens.
pub fn record(event: u64) -> Answer<Work> {
    driver().event(event)?;
    Ok(Work::Record(event))
}

/// # Safety
/// The pointers are null or valid.
unsafe fn add(node: *mut u64, graph: u64, after: *const u64, count: usize, work: Answer<Work>) -> Answer<()> {
    driver().graph(graph)?;
    if node.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's.
    unsafe { put(node, Graph::add(graph, work?, &list(after, count)?)?) }
}

/// What a node does.
pub fn work_of(node: u64) -> Answer<Work> {
    let graph = driver().graph(driver().graph_of(node)?)?;
    let graph = lock(&graph);
    graph.nodes.get(&node).map(|node| node.work.clone()).ok_or(CUresult::INVALID_HANDLE)
}

/// Has a node do something else of the same kind.
fn change(node: u64, work: Answer<Work>) -> Answer<()> {
    let (before, work) = (work_of(node)?, work?);
    if before.kind() != work.kind() {
        return Err(CUresult::INVALID_VALUE);
    }
    let graph = driver().graph(driver().graph_of(node)?)?;
    lock(&graph).nodes.get_mut(&node).ok_or(CUresult::INVALID_HANDLE)?.work = work;
    Ok(())
}

/// The launch of a node that is one.
pub fn launch_of(node: u64) -> Answer<Arc<Launch>> {
    match work_of(node)? {
        Work::Launch(launch) => Ok(launch),
        _ => Err(CUresult::INVALID_VALUE),
    }
}

fn parameters_of(node: u64) -> Answer<EarlyKernelParameters> {
    let launch = launch_of(node)?;
    let Shape { extent, block, shared, .. } = launch.shape;
    Ok(EarlyKernelParameters {
        function: launch.handle,
        extent,
        block,
        shared,
        parameters: launch.addresses().as_ptr().cast(),
        extra: std::ptr::null(),
    })
}

fn reshape(node: u64, change_shape: impl FnOnce(&mut Shape)) -> Answer<()> {
    let launch = launch_of(node)?;
    let mut shape = launch.shape;
    change_shape(&mut shape);
    change(node, Ok(Work::Launch(Arc::new(launch.reshaped(shape)?))))
}

calls! {
    /// Adds a launch.
    fn cuGraphAddKernelNode_v2(
        node: *mut u64, graph: u64, after: *const u64, count: usize, parameters: *const KernelParameters
    ) {
        add(node, graph, after, count, get(parameters)?.work(Shape::default()))
    }

    /// Adds a launch.
    fn cuGraphAddKernelNode(
        node: *mut u64, graph: u64, after: *const u64, count: usize, parameters: *const EarlyKernelParameters
    ) {
        add(node, graph, after, count, KernelParameters::from(get(parameters)?).work(Shape::default()))
    }

    /// Adds a copy.
    fn cuGraphAddMemcpyNode(
        node: *mut u64, graph: u64, after: *const u64, count: usize, parameters: *const Copy, _context: u64
    ) {
        add(node, graph, after, count, copy(get(parameters)?))
    }

    /// Adds a set.
    fn cuGraphAddMemsetNode(
        node: *mut u64, graph: u64, after: *const u64, count: usize, parameters: *const Set, _context: u64
    ) {
        add(node, graph, after, count, set(get(parameters)?))
    }

    /// Adds a call of the program.
    fn cuGraphAddHostNode(node: *mut u64, graph: u64, after: *const u64, count: usize, parameters: *const HostCall) {
        add(node, graph, after, count, host(get(parameters)?))
    }

    /// Adds a copy of a graph.
    fn cuGraphAddChildGraphNode(node: *mut u64, graph: u64, after: *const u64, count: usize, child: u64) {
        add(node, graph, after, count, Graph::child(child))
    }

    /// Adds a node that does nothing.
    fn cuGraphAddEmptyNode(node: *mut u64, graph: u64, after: *const u64, count: usize) {
        add(node, graph, after, count, Ok(Work::Nothing))
    }

    /// Adds a node at which an event happens.
    fn cuGraphAddEventRecordNode(node: *mut u64, graph: u64, after: *const u64, count: usize, event: u64) {
        add(node, graph, after, count, record(event))
    }

    /// Adds a node that waits for an event.
    fn cuGraphAddEventWaitNode(node: *mut u64, graph: u64, after: *const u64, count: usize, event: u64) {
        add(node, graph, after, count, wait(event))
    }

    /// Adds a node of any kind; all edges are ordinary.
    fn cuGraphAddNode_v2(
        node: *mut u64, graph: u64, after: *const u64, _edges: *const c_void, count: usize, parameters: *const Parameters
    ) {
        add(node, graph, after, count, Parameters::work(parameters, Shape::default()))
    }

    /// Adds a node of any kind.
    fn cuGraphAddNode(node: *mut u64, graph: u64, after: *const u64, count: usize, parameters: *const Parameters) {
        add(node, graph, after, count, Parameters::work(parameters, Shape::default()))
    }

    /// Changes a node of any kind.
    fn cuGraphNodeSetParams(node: u64, parameters: *const Parameters) {
        let shape = launch_of(node).map(|launch| launch.shape).unwrap_or_default();
        change(node, Parameters::work(parameters, shape))
    }

    /// What a launch launches.
    fn cuGraphKernelNodeGetParams_v2(node: u64, parameters: *mut KernelParameters) {
        put(parameters, parameters_of(node)?.into())
    }

    /// What a launch launches.
    fn cuGraphKernelNodeGetParams(node: u64, parameters: *mut EarlyKernelParameters) {
        put(parameters, parameters_of(node)?)
    }

    /// Changes a launch.
    fn cuGraphKernelNodeSetParams_v2(node: u64, parameters: *const KernelParameters) {
        change(node, get(parameters)?.work(launch_of(node)?.shape))
    }

    /// Changes a launch.
    fn cuGraphKernelNodeSetParams(node: u64, parameters: *const EarlyKernelParameters) {
        change(node, KernelParameters::from(get(parameters)?).work(launch_of(node)?.shape))
    }

    /// An attribute of a launch.
    fn cuGraphKernelNodeGetAttribute(node: u64, attribute: c_uint, value: *mut AttributeValue) {
        put(value, launch_of(node)?.shape.attribute(attribute))
    }

    /// Sets an attribute of a launch.
    fn cuGraphKernelNodeSetAttribute(node: u64, attribute: c_uint, value: *const AttributeValue) {
        let value = get(value)?;
        reshape(node, |shape| shape.set_attribute(attribute, &value))
    }

    /// Gives a launch the attributes of another.
    fn cuGraphKernelNodeCopyAttributes(to: u64, from: u64) {
        let Shape { cluster, cooperative, .. } = launch_of(from)?.shape;
        reshape(to, |shape| (shape.cluster, shape.cooperative) = (cluster, cooperative))
    }

    /// What a copy copies.
    fn cuGraphMemcpyNodeGetParams(node: u64, parameters: *mut Copy) {
        let Work::Copy(copy) = work_of(node)? else { return Err(CUresult::INVALID_VALUE) };
        put(parameters, copy)
    }

    /// Changes a copy.
    fn cuGraphMemcpyNodeSetParams(node: u64, parameters: *const Copy) {
        change(node, copy(get(parameters)?))
    }

    /// What a set sets.
    fn cuGraphMemsetNodeGetParams(node: u64, parameters: *mut Set) {
        let Work::Set(set) = work_of(node)? else { return Err(CUresult::INVALID_VALUE) };
        put(parameters, set)
    }

    /// Changes a set.
    fn cuGraphMemsetNodeSetParams(node: u64, parameters: *const Set) {
        change(node, set(get(parameters)?))
    }

    /// What is called.
    fn cuGraphHostNodeGetParams(node: u64, parameters: *mut HostCall) {
        let Work::Host(call) = work_of(node)? else { return Err(CUresult::INVALID_VALUE) };
        put(parameters, call)
    }

    /// Changes what is called.
    fn cuGraphHostNodeSetParams(node: u64, parameters: *const HostCall) {
        change(node, host(get(parameters)?))
    }

    /// The graph that a node does.
    fn cuGraphChildGraphNodeGetGraph(node: u64, graph: *mut u64) {
        let Work::Graph(child, _) = work_of(node)? else { return Err(CUresult::INVALID_VALUE) };
        put(graph, child)
    }

    /// The event that happens.
    fn cuGraphEventRecordNodeGetEvent(node: u64, event: *mut u64) {
        let Work::Record(found) = work_of(node)? else { return Err(CUresult::INVALID_VALUE) };
        put(event, found)
    }

    /// Changes the event that happens.
    fn cuGraphEventRecordNodeSetEvent(node: u64, event: u64) {
        change(node, record(event))
    }

    /// The event that is waited for.
    fn cuGraphEventWaitNodeGetEvent(node: u64, event: *mut u64) {
        let Work::Wait(found) = work_of(node)? else { return Err(CUresult::INVALID_VALUE) };
        put(event, found)
    }

    /// Changes the event that is waited for.
    fn cuGraphEventWaitNodeSetEvent(node: u64, event: u64) {
        change(node, wait(event))
    }

    /// What kind a node is.
    fn cuGraphNodeGetType(node: u64, kind: *mut c_int) {
        put(kind, work_of(node)?.kind())
    }
}
