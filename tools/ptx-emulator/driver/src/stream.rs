//! Streams, and the graphs that are captured from them.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use crate::error::{Answer, CUresult, put};
use crate::launch::{CaptureMode, Recording};
use crate::state::{Object, driver};

/// Streams that have no handle of their own: null, legacy, per thread.
fn existing(stream: u64) -> Answer<()> {
    if stream <= 2 {
        return Ok(());
    }
    match driver().find(stream)? {
        Object::Stream(_) => Ok(()),
        _ => Err(CUresult::INVALID_HANDLE),
    }
}

fn graph(handle: u64) -> Answer<Arc<Recording>> {
    match driver().find(handle)? {
        Object::Graph(recording) => Ok(recording),
        _ => Err(CUresult::INVALID_HANDLE),
    }
}

calls! {
    /// A new stream.
    fn cuStreamCreate(stream: *mut u64, _flags: c_uint) {
        let device = driver().device()?;
        put(stream, driver().keep(Object::Stream(device)))
    }

    /// A new stream with a priority.
    fn cuStreamCreateWithPriority(stream: *mut u64, _flags: c_uint, _priority: c_int) {
        let device = driver().device()?;
        put(stream, driver().keep(Object::Stream(device)))
    }

    /// Drops a stream.
    fn cuStreamDestroy_v2(stream: u64) {
        existing(stream)?;
        driver().tables().captures.remove(&stream);
        driver().forget(stream).map(drop)
    }

    /// All work is done when it is issued.
    fn cuStreamSynchronize(stream: u64) {
        existing(stream)?;
        driver().check()
    }

    /// As [`cuStreamSynchronize`].
    fn cuStreamQuery(stream: u64) {
        existing(stream)?;
        driver().check()
    }

    /// The event has happened.
    fn cuStreamWaitEvent(stream: u64, event: u64, _flags: c_uint) {
        existing(stream)?;
        driver().find(event).map(drop)
    }

    /// The context of a stream.
    fn cuStreamGetCtx(stream: u64, context: *mut u64) {
        let device = if stream <= 2 {
            driver().device()?
        } else {
            let Object::Stream(device) = driver().find(stream)? else { return Err(CUresult::INVALID_HANDLE) };
            device
        };
        put(context, driver().context(device)?)
    }

    /// Streams have no flags.
    fn cuStreamGetFlags(stream: u64, flags: *mut c_uint) {
        existing(stream)?;
        put(flags, 0)
    }

    /// Streams have one priority.
    fn cuStreamGetPriority(stream: u64, priority: *mut c_int) {
        existing(stream)?;
        put(priority, 0)
    }

    /// From now on the stream records its work instead of doing it.
    fn cuStreamBeginCapture_v2(stream: u64, _mode: CaptureMode) {
        existing(stream)?;
        let before = driver().tables().captures.insert(stream, Recording::default());
        if before.is_some() { Err(CUresult::STREAM_CAPTURE_UNSUPPORTED) } else { Ok(()) }
    }

    /// Ends the recording, and gives it as a graph.
    fn cuStreamEndCapture(stream: u64, handle: *mut u64) {
        let recording = driver().tables().captures.remove(&stream).ok_or(CUresult::INVALID_VALUE)?;
        put(handle, driver().keep(Object::Graph(Arc::new(recording))))
    }

    /// Whether a stream records.
    fn cuStreamIsCapturing(stream: u64, status: *mut c_int) {
        existing(stream)?;
        let captured = driver().tables().captures.contains_key(&stream);
        put(status, c_int::from(captured))
    }

    /// Modes of capture change nothing.
    fn cuThreadExchangeStreamCaptureMode(_mode: *mut c_int) {
        Ok(())
    }

    /// An empty graph.
    fn cuGraphCreate(handle: *mut u64, _flags: c_uint) {
        put(handle, driver().keep(Object::Graph(Arc::default())))
    }

    /// How many pieces of work a graph has.
    fn cuGraphGetNodes(handle: u64, nodes: *mut u64, count: *mut usize) {
        let recording = graph(handle)?;
        if !nodes.is_null() {
            return Err(crate::error::unsupported("cuGraphGetNodes with a list of nodes"));
        }
        put(count, recording.work.len())
    }

    /// Makes a graph ready to launch.
    fn cuGraphInstantiateWithFlags(handle: *mut u64, from: u64, _flags: u64) {
        let recording = graph(from)?;
        put(handle, driver().keep(Object::Graph(recording)))
    }

    /// The same with an outdated signature.
    fn cuGraphInstantiate_v2(handle: *mut u64, from: u64, _node: *mut u64, _log: *mut c_char, _bytes: usize) {
        let recording = graph(from)?;
        put(handle, driver().keep(Object::Graph(recording)))
    }

    /// The same with parameters, which change nothing.
    fn cuGraphInstantiateWithParams(handle: *mut u64, from: u64, _parameters: *mut c_void) {
        let recording = graph(from)?;
        put(handle, driver().keep(Object::Graph(recording)))
    }

    /// Nothing has to be sent ahead.
    fn cuGraphUpload(handle: u64, _stream: u64) {
        graph(handle).map(drop)
    }

    /// Does a graph's work.
    fn cuGraphLaunch(handle: u64, stream: u64) {
        let recording = graph(handle)?;
        crate::launch::issue(stream, move || recording.work.iter().try_for_each(|work| work()))
    }

    /// Drops a graph.
    fn cuGraphDestroy(handle: u64) {
        graph(handle)?;
        driver().forget(handle).map(drop)
    }

    /// Drops a graph that was ready.
    fn cuGraphExecDestroy(handle: u64) {
        graph(handle)?;
        driver().forget(handle).map(drop)
    }
}
