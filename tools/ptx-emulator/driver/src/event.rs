//! Events.

use std::ffi::{c_float, c_uint};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::capture;
use crate::error::{Answer, CUresult, put};
use crate::state::{Object, driver, lock};

/// An event.
#[derive(Default)]
pub struct Event {
    /// Created to be waited for only.
    without_time: bool,
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
    Ok(())
}

/// Whether it has happened: it has unless it is part of a graph that is made.
fn wait(event: u64) -> Answer<()> {
    if lock(&*driver().event(event)?).captured.is_some() {
        return Err(CUresult::CAPTURED_EVENT);
    }
    driver().check()
}

/// # Safety
/// `time` is null or valid.
unsafe fn elapsed(time: *mut c_float, start: u64, end: u64) -> Answer<()> {
    let moment = |event: u64| {
        let event = driver().event(event)?;
        let event = lock(&event);
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

    /// All work before it is done: it happens now.
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
        happen(event)
    }

    /// All work of a context waits for an event: it has happened.
    fn cuCtxWaitEvent(context: u64, event: u64) {
        driver().device_of(context)?;
        wait(event)
    }

    /// It has happened.
    fn cuEventSynchronize(event: u64) {
        wait(event)
    }

    /// It has happened.
    fn cuEventQuery(event: u64) {
        wait(event)
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
