//! Streams that record their work instead of doing it.

use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex};

use crate::error::{Answer, CUresult, get, list, put, put_if_wanted};
use crate::graph::Graph;
use crate::launch::Work;
use crate::queue;
use crate::state::{Object, UNNAMED_STREAMS, driver, lock};

/// How a stream takes part in a capture.
pub struct Capture {
    /// The graph's handle; what captures of one graph have in common.
    graph: u64,
    /// The nodes that the next one comes after.
    tips: Vec<u64>,
    /// The list of them that the program was given last.
    given: Vec<u64>,
    /// Whether the capture began in this stream.
    begins: bool,
    /// Whether the graph was there before.
    borrowed: bool,
    /// `CUstreamCaptureMode`: 2 lets a program wait meanwhile.
    mode: c_int,
    /// Whether an earlier call made it invalid.
    invalid: bool,
}

/// `CU_EVENT_RECORD_EXTERNAL`, `CU_EVENT_WAIT_EXTERNAL`
pub const EXTERNAL: u32 = 1;
/// `CU_STREAM_CAPTURE_MODE_RELAXED`
const RELAXED: c_int = 2;

/// Puts a piece of work into a stream, or records it if the stream is captured.
pub fn issue(stream: u64, work: Work) -> Answer<()> {
    driver().stream(stream)?;
    if stream <= UNNAMED_STREAMS {
        forbid_implicit(stream)?;
    } else if let Some(added) = add(stream, &work) {
        return added.map(drop);
    }
    queue::issue(stream, work, vec![]).map(drop)
}

/// Adds a node to the graph of a captured stream; `None` where it is not captured.
fn add(stream: u64, work: &Work) -> Option<Answer<u64>> {
    let (graph, tips) = match driver().tables().captures.get(&stream)? {
        capture if capture.invalid => return Some(Err(CUresult::STREAM_CAPTURE_INVALIDATED)),
        capture => (capture.graph, capture.tips.clone()),
    };
    let node = Graph::add(graph, work.clone(), &tips);
    if let Ok(node) = node
        && let Some(capture) = driver().tables().captures.get_mut(&stream)
    {
        capture.tips = vec![node];
    }
    Some(node)
}

/// The legacy stream waits for all others that do not say otherwise, which a captured one cannot be.
fn forbid_implicit(stream: u64) -> Answer<()> {
    let captured: Vec<u64> = driver().tables().captures.keys().copied().collect();
    let blocking = |stream: &u64| driver().stream(*stream).is_ok_and(|stream| stream.flags & 1 == 0);
    if stream == UNNAMED_STREAMS || !captured.iter().any(blocking) {
        return Ok(());
    }
    invalidate();
    Err(CUresult::STREAM_CAPTURE_IMPLICIT)
}

fn invalidate() {
    driver().tables().captures.values_mut().for_each(|capture| capture.invalid = true);
}

/// Refuses to wait for everything while a stream is captured, and makes the capture invalid, as CUDA does.
pub fn forbid_waiting() -> Answer<()> {
    if driver().tables().captures.values().all(|capture| capture.mode == RELAXED) {
        return Ok(());
    }
    invalidate();
    Err(CUresult::STREAM_CAPTURE_UNSUPPORTED)
}

/// The same of one stream.
pub fn forbid_waiting_for(stream: u64) -> Answer<()> {
    if driver().tables().captures.contains_key(&stream) {
        invalidate();
        return Err(CUresult::STREAM_CAPTURE_UNSUPPORTED);
    }
    Ok(())
}

/// Records an event in a stream: it happens when the stream gets there, or stands for the nodes that its stream has come to.
pub fn record(event: u64, stream: u64, external: bool) -> Answer<()> {
    driver().stream(stream)?;
    let captured = driver().tables().captures.get(&stream).map(|capture| (capture.graph, capture.tips.clone()));
    match captured {
        Some(_) if external => issue(stream, Work::Record(event)),
        Some(place) => {
            lock(&*driver().event(event)?).captured = Some(place);
            Ok(())
        }
        None => queue::record(event, stream),
    }
}

/// Has a stream wait for an event. One of a captured stream takes this one into the capture.
fn wait(stream: u64, event: u64, external: bool) -> Answer<()> {
    driver().stream(stream)?;
    let captured = lock(&*driver().event(event)?).captured.clone();
    let mut tables = driver().tables();
    let own = tables.captures.get_mut(&stream);
    match (captured, own) {
        (None, None) => {
            drop(tables);
            queue::wait_for_event(stream, event)
        }
        (None, Some(_)) if external => {
            drop(tables);
            issue(stream, Work::Wait(event))
        }
        (None, Some(capture)) => {
            capture.invalid = true;
            Err(CUresult::STREAM_CAPTURE_ISOLATION)
        }
        (Some((graph, nodes)), Some(capture)) => {
            if capture.graph != graph {
                capture.invalid = true;
                return Err(CUresult::STREAM_CAPTURE_MERGE);
            }
            for node in nodes {
                if !capture.tips.contains(&node) {
                    capture.tips.push(node);
                }
            }
            Ok(())
        }
        (Some((graph, tips)), None) => {
            let from = tables.captures.values().find(|capture| capture.graph == graph);
            let Some(mode) = from.map(|capture| capture.mode) else { return Err(CUresult::CAPTURED_EVENT) };
            if stream <= UNNAMED_STREAMS {
                return Err(CUresult::STREAM_CAPTURE_IMPLICIT);
            }
            let capture = Capture { graph, tips, given: vec![], begins: false, borrowed: false, mode, invalid: false };
            tables.captures.insert(stream, capture);
            Ok(())
        }
    }
}

fn begin(stream: u64, mode: c_int, into: Option<(u64, Vec<u64>)>) -> Answer<()> {
    driver().stream(stream)?;
    if !(0..=RELAXED).contains(&mode) {
        return Err(CUresult::INVALID_VALUE);
    }
    if stream <= UNNAMED_STREAMS {
        return Err(CUresult::STREAM_CAPTURE_UNSUPPORTED);
    }
    if driver().tables().captures.contains_key(&stream) {
        return Err(CUresult::INVALID_VALUE);
    }
    let borrowed = into.is_some();
    let (graph, tips) =
        into.unwrap_or_else(|| (driver().keep(Object::Graph(Arc::new(Mutex::new(Graph::default())))), vec![]));
    let capture = Capture { graph, tips, given: vec![], begins: true, borrowed, mode, invalid: false };
    driver().tables().captures.insert(stream, capture);
    Ok(())
}

/// Ends a capture, and gives the graph's handle.
fn end(stream: u64) -> Answer<u64> {
    driver().stream(stream)?;
    let mut tables = driver().tables();
    let Some(capture) = tables.captures.get(&stream) else { return Err(CUresult::INVALID_VALUE) };
    if !capture.begins {
        return Err(CUresult::STREAM_CAPTURE_UNMATCHED);
    }
    let (handle, borrowed) = (capture.graph, capture.borrowed);
    let mut of_graph = tables.captures.values().filter(|capture| capture.graph == handle);
    let invalid = of_graph.any(|capture| capture.invalid);
    let own = capture.tips.clone();
    let others: Vec<u64> = tables
        .captures
        .values()
        .filter(|capture| capture.graph == handle && !capture.begins)
        .flat_map(|capture| capture.tips.clone())
        .collect();
    tables.captures.retain(|_, capture| capture.graph != handle);
    drop(tables);
    let graph = driver().graph(handle)?;
    let joined = lock(&graph).lead_to(&others, &own);
    if invalid || !joined {
        if !borrowed {
            Graph::destroy(handle)?;
        }
        return Err(if invalid { CUresult::STREAM_CAPTURE_INVALIDATED } else { CUresult::STREAM_CAPTURE_UNJOINED });
    }
    Ok(handle)
}

/// `CUstreamCaptureStatus`
fn status(stream: u64) -> Answer<c_int> {
    driver().stream(stream)?;
    let tables = driver().tables();
    Ok(tables.captures.get(&stream).map_or(0, |capture| if capture.invalid { 2 } else { 1 }))
}

/// What a program asks about a capture; null pointers are not asked for.
struct Question {
    status: *mut c_int,
    id: *mut u64,
    graph: *mut u64,
    tips: *mut *const u64,
    edges: *mut *const c_void,
    count: *mut usize,
}

/// # Safety
/// The pointers are null or valid.
unsafe fn tell(stream: u64, question: &Question) -> Answer<()> {
    let status = status(stream)?;
    // SAFETY: the caller's.
    unsafe {
        put(question.status, status)?;
        if let Some(capture) = driver().tables().captures.get_mut(&stream) {
            put_if_wanted(question.id, capture.graph)?;
            put_if_wanted(question.graph, capture.graph)?;
            put_if_wanted(question.count, capture.tips.len())?;
            if !question.tips.is_null() {
                // The list stays until the next question or the capture's end.
                capture.given = capture.tips.clone();
                put(question.tips, capture.given.as_ptr())?;
            }
            put_if_wanted(question.edges, std::ptr::null())?;
        }
    }
    Ok(())
}

/// Sets or extends what the next node of a captured stream comes after.
fn update(stream: u64, nodes: Vec<u64>, flags: u32) -> Answer<()> {
    driver().stream(stream)?;
    let owners: Answer<Vec<u64>> = nodes.iter().map(|node| driver().graph_of(*node)).collect();
    let owners = owners?;
    let mut tables = driver().tables();
    let capture = tables.captures.get_mut(&stream).ok_or(CUresult::INVALID_VALUE)?;
    if owners.iter().any(|owner| *owner != capture.graph) || flags > 1 {
        return Err(CUresult::INVALID_VALUE);
    }
    if flags == 1 {
        capture.tips.clear();
    }
    for node in nodes {
        if !capture.tips.contains(&node) {
            capture.tips.push(node);
        }
    }
    Ok(())
}

calls! {
    /// Has a stream wait for an event, or joins the capture that it stands for.
    fn cuStreamWaitEvent(stream: u64, event: u64, flags: std::ffi::c_uint) {
        wait(stream, event, flags & EXTERNAL != 0)
    }

    /// From now on the stream records its work instead of doing it.
    fn cuStreamBeginCapture_v2(stream: u64, mode: c_int) {
        begin(stream, mode, None)
    }

    /// As [`cuStreamBeginCapture_v2`].
    fn cuStreamBeginCapture(stream: u64) {
        begin(stream, 0, None)
    }

    /// The same into a graph that is there.
    fn cuStreamBeginCaptureToGraph(
        stream: u64, graph: u64, nodes: *const u64, _edges: *const c_void, count: usize, mode: c_int
    ) {
        driver().graph(graph)?;
        let nodes = list(nodes, count)?;
        if nodes.iter().any(|node| driver().graph_of(*node) != Ok(graph)) {
            return Err(CUresult::INVALID_VALUE);
        }
        begin(stream, mode, Some((graph, nodes)))
    }

    /// Ends the recording, and gives it as a graph.
    fn cuStreamEndCapture(stream: u64, graph: *mut u64) {
        if graph.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        let ended = end(stream);
        put(graph, *ended.as_ref().unwrap_or(&0))?;
        ended.map(drop)
    }

    /// Whether a stream records.
    fn cuStreamIsCapturing(stream: u64, answer: *mut c_int) {
        put(answer, status(stream)?)
    }

    /// What a stream records.
    fn cuStreamGetCaptureInfo(stream: u64, status: *mut c_int, id: *mut u64) {
        let (tips, edges) = (std::ptr::null_mut(), std::ptr::null_mut());
        tell(stream, &Question { status, id, graph: std::ptr::null_mut(), tips, edges, count: std::ptr::null_mut() })
    }

    /// What a stream records, and where it is.
    fn cuStreamGetCaptureInfo_v2(
        stream: u64, status: *mut c_int, id: *mut u64, graph: *mut u64, tips: *mut *const u64, count: *mut usize
    ) {
        tell(stream, &Question { status, id, graph, tips, edges: std::ptr::null_mut(), count })
    }

    /// The same with the kinds of edges, all of which are ordinary.
    fn cuStreamGetCaptureInfo_v3(
        stream: u64, status: *mut c_int, id: *mut u64, graph: *mut u64, tips: *mut *const u64, edges: *mut *const c_void,
        count: *mut usize
    ) {
        tell(stream, &Question { status, id, graph, tips, edges, count })
    }

    /// Changes what the next node comes after.
    fn cuStreamUpdateCaptureDependencies(stream: u64, nodes: *const u64, count: usize, flags: std::ffi::c_uint) {
        update(stream, list(nodes, count)?, flags)
    }

    /// Changes what the next node comes after.
    fn cuStreamUpdateCaptureDependencies_v2(
        stream: u64, nodes: *const u64, _edges: *const c_void, count: usize, flags: std::ffi::c_uint
    ) {
        update(stream, list(nodes, count)?, flags)
    }

    /// The mode belongs to each capture; there is none of a thread.
    fn cuThreadExchangeStreamCaptureMode(mode: *mut c_int) {
        if (0..=RELAXED).contains(&get(mode)?) { Ok(()) } else { Err(CUresult::INVALID_VALUE) }
    }
}
