//! Events.

use std::ffi::{c_float, c_uint};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::capture;
use crate::error::{Answer, CUresult, put};
use crate::queue::{self, Item};
use crate::state::{Object, driver, lock};

/// An event.
#[derive(Default)]
pub struct Event {
    /// Created to be waited for only.
    without_time: bool,
    /// The work that it comes after, from when it is recorded until it happens.
    pub pending: Option<Arc<Item>>,
    /// When it happened last.
    happened: Option<Instant>,
    /// The graph and the nodes that it stands for, where it was last recorded in a captured stream.
    pub captured: Option<(u64, Vec<u64>)>,
}

/// `CU_EVENT_DISABLE_TIMING`
const DISABLE_TIMING: c_uint = 2;

/// It happens now.
pub fn happen(event: u64) -> Answer<()> {
    let event = driver().event(event)?;
    let mut event = lock(&event);
    event.happened = Some(Instant::now());
    event.captured = None;
    if event.pending.as_ref().is_some_and(|item| item.is_done()) {
        event.pending = None;
    }
    Ok(())
}

/// The work that has to be done before an event happens, if there is any; an error where it is part of a graph that is made.
fn pending(event: u64) -> Answer<Option<Arc<Item>>> {
    let event = driver().event(event)?;
    let event = lock(&event);
    if event.captured.is_some() {
        return Err(CUresult::CAPTURED_EVENT);
    }
    Ok(event.pending.clone().filter(|item| !item.is_done()))
}

/// Waits until it has happened.
fn wait(event: u64) -> Answer<()> {
    match pending(event)? {
        Some(item) => queue::finish(|| item.is_done()),
        None => driver().check(),
    }
}

/// Whether it has happened.
fn query(event: u64) -> Answer<()> {
    queue::pump();
    driver().check()?;
    if pending(event)?.is_some() { Err(CUresult::NOT_READY) } else { Ok(()) }
}

/// # Safety
/// `time` is null or valid.
unsafe fn elapsed(time: *mut c_float, start: u64, end: u64) -> Answer<()> {
    let moment = |event: u64| {
        let event = driver().event(event)?;
        let event = lock(&event);
        if event.pending.as_ref().is_some_and(|item| !item.is_done()) {
            return Err(CUresult::NOT_READY);
        }
        match event.happened {
            Some(moment) if !event.without_time && event.captured.is_none() => Ok(moment),
            _ => Err(CUresult::INVALID_HANDLE),
        }
    };
    let (start, end) = (moment(start)?, moment(end)?);
    let (later, earlier) = (end.saturating_duration_since(start), start.saturating_duration_since(end));
    // SAFETY: the caller's.
    unsafe { put(time, (later.as_secs_f32() - earlier.as_secs_f32()) * 1e3) }
}

calls! {
    /// A new event.
    fn cuEventCreate(event: *mut u64, flags: c_uint) {
        driver().device()?;
        if flags & !7 != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        let new = Event { without_time: flags & DISABLE_TIMING != 0, ..Event::default() };
        put(event, driver().keep(Object::Event(Arc::new(Mutex::new(new)))))
    }

    /// It happens when all work before it is done.
    fn cuEventRecord(event: u64, stream: u64) {
        driver().event(event)?;
        capture::record(event, stream, false)
    }

    /// The same with flags: an external event becomes a node of a graph.
    fn cuEventRecordWithFlags(event: u64, stream: u64, flags: c_uint) {
        driver().event(event)?;
        capture::record(event, stream, flags & capture::EXTERNAL != 0)
    }

    /// An event of the end of all work of a context.
    fn cuCtxRecordEvent(context: u64, event: u64) {
        driver().device_of(context)?;
        queue::finish_all()?;
        happen(event)
    }

    /// All work of a context waits for an event.
    fn cuCtxWaitEvent(context: u64, event: u64) {
        driver().device_of(context)?;
        wait(event)
    }

    /// Waits until it has happened.
    fn cuEventSynchronize(event: u64) {
        wait(event)
    }

    /// Whether it has happened.
    fn cuEventQuery(event: u64) {
        query(event)
    }

    /// Milliseconds between two events, of the emulator's own time.
    fn cuEventElapsedTime(time: *mut c_float, start: u64, end: u64) {
        elapsed(time, start, end)
    }

    /// The same.
    fn cuEventElapsedTime_v2(time: *mut c_float, start: u64, end: u64) {
        elapsed(time, start, end)
    }

    /// Drops an event.
    fn cuEventDestroy_v2(event: u64) {
        driver().event(event)?;
        driver().forget(event).map(drop)
    }
}
