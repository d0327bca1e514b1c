//! Contexts: each device has one.

use std::ffi::{c_int, c_uint, c_void};

use crate::error::{CUresult, put};
use crate::state::{Object, driver};

fn device_number(device: c_int) -> u32 {
    u32::try_from(device).unwrap_or(u32::MAX)
}

calls! {
    /// A device's context.
    fn cuDevicePrimaryCtxRetain(context: *mut u64, device: c_int) {
        put(context, driver().context(device_number(device))?)
    }

    /// The context stays for as long as the process lives.
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        driver().context(device_number(device)).map(drop)
    }

    /// As [`cuDevicePrimaryCtxRelease_v2`].
    fn cuDevicePrimaryCtxRelease(device: c_int) {
        driver().context(device_number(device)).map(drop)
    }

    /// Clears the error of kernels that failed.
    fn cuDevicePrimaryCtxReset_v2(device: c_int) {
        driver().context(device_number(device))?;
        driver().tables().sticky = None;
        Ok(())
    }

    /// Flags change nothing.
    fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, _flags: c_uint) {
        driver().context(device_number(device)).map(drop)
    }

    /// Whether the context is there.
    fn cuDevicePrimaryCtxGetState(device: c_int, flags: *mut c_uint, active: *mut c_int) {
        driver().context(device_number(device))?;
        put(flags, 0)?;
        put(active, 1)
    }

    /// The device's context stands for a new one.
    fn cuCtxCreate_v2(context: *mut u64, _flags: c_uint, device: c_int) {
        let handle = driver().context(device_number(device))?;
        driver().set_current(handle)?;
        put(context, handle)
    }

    /// As [`cuCtxCreate_v2`].
    fn cuCtxCreate_v4(context: *mut u64, _parameters: *const c_void, _flags: c_uint, device: c_int) {
        let handle = driver().context(device_number(device))?;
        driver().set_current(handle)?;
        put(context, handle)
    }

    /// The context stays for other users of the device.
    fn cuCtxDestroy_v2(context: u64) {
        match driver().find(context) {
            Ok(Object::Context(_)) => Ok(()),
            _ => Err(CUresult::INVALID_CONTEXT),
        }
    }

    /// Makes a context current.
    fn cuCtxSetCurrent(context: u64) {
        driver().set_current(context)
    }

    /// The current context.
    fn cuCtxGetCurrent(context: *mut u64) {
        put(context, driver().current())
    }

    /// Makes a context current; the one before is not kept.
    fn cuCtxPushCurrent_v2(context: u64) {
        driver().set_current(context)
    }

    /// Makes none current.
    fn cuCtxPopCurrent_v2(context: *mut u64) {
        let current = driver().current();
        driver().set_current(0)?;
        if context.is_null() { Ok(()) } else { put(context, current) }
    }

    /// The device of the current context.
    fn cuCtxGetDevice(device: *mut c_int) {
        put(device, driver().device()? as c_int)
    }

    /// All work is done when it is issued; errors of it are reported here too.
    fn cuCtxSynchronize() {
        driver().device()?;
        driver().check()
    }

    /// Limits are not enforced.
    fn cuCtxSetLimit(_limit: c_int, _value: usize) {
        Ok(())
    }

    /// A limit: none is enforced.
    fn cuCtxGetLimit(value: *mut usize, _limit: c_int) {
        put(value, 1 << 20)
    }

    /// Cache preferences change nothing.
    fn cuCtxSetCacheConfig(_config: c_int) {
        Ok(())
    }

    /// Flags: none.
    fn cuCtxGetFlags(flags: *mut c_uint) {
        put(flags, 0)
    }

    /// The version of the API.
    fn cuCtxGetApiVersion(_context: u64, version: *mut c_uint) {
        put(version, 13000)
    }

    /// Streams have one priority.
    fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) {
        if !least.is_null() {
            put(least, 0)?;
        }
        if greatest.is_null() { Ok(()) } else { put(greatest, 0) }
    }

    /// All devices share one address space: access is always enabled.
    fn cuCtxEnablePeerAccess(_context: u64, _flags: c_uint) {
        Ok(())
    }

    /// As [`cuCtxEnablePeerAccess`].
    fn cuCtxDisablePeerAccess(_context: u64) {
        Ok(())
    }
}
