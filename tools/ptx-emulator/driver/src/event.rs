//! Events.

use std::ffi::{c_float, c_uint};
use std::time::Instant;

use crate::error::{CUresult, put};
use crate::state::{Object, driver};

calls! {
    /// A new event.
    fn cuEventCreate(event: *mut u64, _flags: c_uint) {
        driver().device()?;
        put(event, driver().keep(Object::Event(None)))
    }

    /// All work before it is done: it happens now.
    fn cuEventRecord(event: u64, _stream: u64) {
        let Object::Event(_) = driver().find(event)? else { return Err(CUresult::INVALID_HANDLE) };
        driver().replace(event, Object::Event(Some(Instant::now())));
        Ok(())
    }

    /// The same with flags.
    fn cuEventRecordWithFlags(event: u64, _stream: u64, _flags: c_uint) {
        let Object::Event(_) = driver().find(event)? else { return Err(CUresult::INVALID_HANDLE) };
        driver().replace(event, Object::Event(Some(Instant::now())));
        Ok(())
    }

    /// It has happened.
    fn cuEventSynchronize(event: u64) {
        let Object::Event(_) = driver().find(event)? else { return Err(CUresult::INVALID_HANDLE) };
        driver().check()
    }

    /// It has happened.
    fn cuEventQuery(event: u64) {
        let Object::Event(_) = driver().find(event)? else { return Err(CUresult::INVALID_HANDLE) };
        driver().check()
    }

    /// Milliseconds between two events, of the emulator's own time.
    fn cuEventElapsedTime(time: *mut c_float, start: u64, end: u64) {
        let (Object::Event(Some(start)), Object::Event(Some(end))) = (driver().find(start)?, driver().find(end)?) else {
            return Err(CUresult::INVALID_HANDLE);
        };
        put(time, end.saturating_duration_since(start).as_secs_f32() * 1e3)
    }

    /// The same.
    fn cuEventElapsedTime_v2(time: *mut c_float, start: u64, end: u64) {
        let (Object::Event(Some(start)), Object::Event(Some(end))) = (driver().find(start)?, driver().find(end)?) else {
            return Err(CUresult::INVALID_HANDLE);
        };
        put(time, end.saturating_duration_since(start).as_secs_f32() * 1e3)
    }

    /// Drops an event.
    fn cuEventDestroy_v2(event: u64) {
        let Object::Event(_) = driver().find(event)? else { return Err(CUresult::INVALID_HANDLE) };
        driver().forget(event).map(drop)
    }
}
