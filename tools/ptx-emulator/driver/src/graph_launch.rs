//! Graphs that are ready to launch, and how they change.

use std::ffi::{c_char, c_int, c_uint};
use std::sync::{Arc, Mutex};

use crate::capture::issue;
use crate::copy::{Copy, Set};
use crate::error::{Answer, CUresult, get, put, put_if_wanted};
use crate::graph::Executable;
use crate::graph_nodes::{
    EarlyKernelParameters, KernelParameters, Parameters, copy, host, launch_of, record, set, wait, work_of,
};
use crate::launch::{HostCall, Shape, Work};
use crate::state::{Object, driver, lock};

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct InstantiateParameters {
    flags: u64,
    stream: u64,
    node: u64,
    result: c_int,
}

/// `CUgraphExecUpdateResultInfo`
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct UpdateResult {
    result: c_int,
    node: u64,
    from: u64,
}

fn instantiate(graph: u64, flags: u64) -> Answer<u64> {
    let steps = Arc::new(lock(&*driver().graph(graph)?).steps()?);
    Ok(driver().keep(Object::Executable(Arc::new(Mutex::new(Executable { steps, flags })))))
}

/// Has a step do something else of the same kind.
fn change(executable: u64, node: u64, work: Answer<Work>) -> Answer<()> {
    let executable = driver().executable(executable)?;
    let work = work?;
    let mut executable = lock(&executable);
    let step = executable.step(node)?;
    if step.work.kind() != work.kind() {
        return Err(CUresult::INVALID_VALUE);
    }
    step.work = work;
    Ok(())
}

/// The shape that a step's launch has now.
fn shape_of(executable: u64, node: u64) -> Answer<Shape> {
    let executable = driver().executable(executable)?;
    match &lock(&executable).step(node)?.work {
        Work::Launch(launch) => Ok(launch.shape),
        _ => Err(CUresult::INVALID_VALUE),
    }
}

/// Updates; the result, and the node that differs.
fn update(executable: u64, graph: u64) -> Answer<Result<(), (c_int, u64)>> {
    let (executable, graph) = (driver().executable(executable)?, driver().graph(graph)?);
    let updated = lock(&executable).update(&lock(&graph));
    Ok(updated.map_err(|mismatch| (mismatch.reason as c_int, mismatch.node)))
}

calls! {
    /// Makes a graph ready to launch.
    fn cuGraphInstantiateWithFlags(handle: *mut u64, graph: u64, flags: u64) {
        if handle.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        put(handle, instantiate(graph, flags)?)
    }

    /// The same with an outdated signature.
    fn cuGraphInstantiate_v2(handle: *mut u64, graph: u64, _node: *mut u64, _log: *mut c_char, _bytes: usize) {
        if handle.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        put(handle, instantiate(graph, 0)?)
    }

    /// The same with parameters.
    fn cuGraphInstantiateWithParams(handle: *mut u64, graph: u64, parameters: *mut InstantiateParameters) {
        let given = get(parameters)?;
        if handle.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        let made = instantiate(graph, given.flags);
        // 0 is success, 1 an error that the call's own result tells.
        put(parameters, InstantiateParameters { node: 0, result: c_int::from(made.is_err()), ..given })?;
        put(handle, made?)
    }

    /// Nothing has to be sent ahead.
    fn cuGraphUpload(executable: u64, stream: u64) {
        driver().stream(stream)?;
        driver().executable(executable).map(drop)
    }

    /// Does a graph's work.
    fn cuGraphLaunch(executable: u64, stream: u64) {
        let steps = lock(&*driver().executable(executable)?).steps.clone();
        issue(stream, Work::Graph(0, steps))
    }

    /// Drops a graph that was ready.
    fn cuGraphExecDestroy(executable: u64) {
        driver().executable(executable)?;
        driver().forget(executable).map(drop)
    }

    /// What it was instantiated with.
    fn cuGraphExecGetFlags(executable: u64, flags: *mut u64) {
        put(flags, lock(&*driver().executable(executable)?).flags)
    }

    /// Takes the work of a graph of the same form.
    fn cuGraphExecUpdate_v2(executable: u64, graph: u64, result: *mut UpdateResult) {
        match update(executable, graph)? {
            Ok(()) => put_if_wanted(result, UpdateResult::default()),
            Err((reason, node)) => {
                put_if_wanted(result, UpdateResult { result: reason, node, from: 0 })?;
                Err(CUresult::GRAPH_EXEC_UPDATE_FAILURE)
            }
        }
    }

    /// Takes the work of a graph of the same form.
    fn cuGraphExecUpdate(executable: u64, graph: u64, node: *mut u64, result: *mut c_int) {
        let updated = update(executable, graph)?;
        let (reason, differs) = updated.err().unwrap_or_default();
        put_if_wanted(node, differs)?;
        put_if_wanted(result, reason)?;
        if updated.is_ok() { Ok(()) } else { Err(CUresult::GRAPH_EXEC_UPDATE_FAILURE) }
    }

    /// Changes a launch.
    fn cuGraphExecKernelNodeSetParams_v2(executable: u64, node: u64, parameters: *const KernelParameters) {
        change(executable, node, get(parameters)?.work(shape_of(executable, node)?))
    }

    /// Changes a launch.
    fn cuGraphExecKernelNodeSetParams(executable: u64, node: u64, parameters: *const EarlyKernelParameters) {
        change(executable, node, KernelParameters::from(get(parameters)?).work(shape_of(executable, node)?))
    }

    /// Changes a copy.
    fn cuGraphExecMemcpyNodeSetParams(executable: u64, node: u64, parameters: *const Copy, _context: u64) {
        change(executable, node, copy(get(parameters)?))
    }

    /// Changes a set.
    fn cuGraphExecMemsetNodeSetParams(executable: u64, node: u64, parameters: *const Set, _context: u64) {
        change(executable, node, set(get(parameters)?))
    }

    /// Changes what is called.
    fn cuGraphExecHostNodeSetParams(executable: u64, node: u64, parameters: *const HostCall) {
        change(executable, node, host(get(parameters)?))
    }

    /// Changes the graph that a node does.
    fn cuGraphExecChildGraphNodeSetParams(executable: u64, node: u64, child: u64) {
        let steps = lock(&*driver().graph(child)?).steps()?;
        let Work::Graph(handle, _) = work_of(node)? else { return Err(CUresult::INVALID_VALUE) };
        change(executable, node, Ok(Work::Graph(handle, Arc::new(steps))))
    }

    /// Changes the event that happens.
    fn cuGraphExecEventRecordNodeSetEvent(executable: u64, node: u64, event: u64) {
        change(executable, node, record(event))
    }

    /// Changes the event that is waited for.
    fn cuGraphExecEventWaitNodeSetEvent(executable: u64, node: u64, event: u64) {
        change(executable, node, wait(event))
    }

    /// Changes a step of any kind.
    fn cuGraphExecNodeSetParams(executable: u64, node: u64, parameters: *const Parameters) {
        let shape = launch_of(node).map(|launch| launch.shape).unwrap_or_default();
        change(executable, node, Parameters::work(parameters, shape))
    }

    /// Switches a launch, copy or set on or off.
    fn cuGraphNodeSetEnabled(executable: u64, node: u64, enabled: c_uint) {
        let executable = driver().executable(executable)?;
        let mut executable = lock(&executable);
        let step = executable.step(node)?;
        if !matches!(step.work, Work::Launch(_) | Work::Copy(_) | Work::Set(_)) {
            return Err(CUresult::INVALID_VALUE);
        }
        step.enabled = enabled != 0;
        Ok(())
    }

    /// Whether a step is on.
    fn cuGraphNodeGetEnabled(executable: u64, node: u64, enabled: *mut c_uint) {
        let executable = driver().executable(executable)?;
        let answer = lock(&executable).step(node)?.enabled;
        put(enabled, c_uint::from(answer))
    }
}
