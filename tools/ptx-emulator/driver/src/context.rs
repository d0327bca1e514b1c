//! Contexts: each device has a primary one, and programs may make more. All contexts of a device share what it has.

use std::ffi::{c_int, c_uint, c_void};

use crate::error::{Answer, CUresult, put, put_if_wanted};
use crate::state::{Object, driver};

fn device_number(device: c_int) -> u32 {
    u32::try_from(device).unwrap_or(u32::MAX)
}

/// A new context of a device, current from now on.
fn create(device: c_int) -> Answer<u64> {
    let device = device_number(device);
    driver().primary_context(device)?;
    let handle = driver().keep(Object::Context(device, false));
    driver().push_current(handle)?;
    Ok(handle)
}

/// Both directions of access are between the devices of the current context and of another.
fn peers(context: u64) -> Answer<(u32, u32)> {
    let (device, peer) = (driver().device()?, driver().device_of(context)?);
    if device == peer { Err(CUresult::INVALID_DEVICE) } else { Ok((device, peer)) }
}

/// The device of a context, or of the current one for 0.
fn device_of(context: u64) -> Answer<u32> {
    if context == 0 { driver().device() } else { driver().device_of(context) }
}

/// Forgets the work of a device that is not done, and the error of kernels that failed.
fn reset(device: c_int) -> Answer<()> {
    let device = device_number(device);
    driver().primary_context(device)?;
    crate::queue::discard(device);
    driver().tables().sticky = None;
    Ok(())
}

calls! {
    /// A device's primary context.
    fn cuDevicePrimaryCtxRetain(context: *mut u64, device: c_int) {
        put(context, driver().primary_context(device_number(device))?)
    }

    /// The primary context stays for as long as the process lives.
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        driver().primary_context(device_number(device)).map(drop)
    }

    /// As [`cuDevicePrimaryCtxRelease_v2`].
    fn cuDevicePrimaryCtxRelease(device: c_int) {
        driver().primary_context(device_number(device)).map(drop)
    }

    /// Discards work that is not done, and clears the error of kernels that failed; memory and modules stay.
    fn cuDevicePrimaryCtxReset_v2(device: c_int) {
        reset(device)
    }

    /// As [`cuDevicePrimaryCtxReset_v2`].
    fn cuDevicePrimaryCtxReset(device: c_int) {
        reset(device)
    }

    /// Flags change nothing.
    fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, _flags: c_uint) {
        driver().primary_context(device_number(device)).map(drop)
    }

    /// As [`cuDevicePrimaryCtxSetFlags_v2`].
    fn cuDevicePrimaryCtxSetFlags(device: c_int, _flags: c_uint) {
        driver().primary_context(device_number(device)).map(drop)
    }

    /// Whether the primary context is there: it is from the first question on.
    fn cuDevicePrimaryCtxGetState(device: c_int, flags: *mut c_uint, active: *mut c_int) {
        driver().primary_context(device_number(device))?;
        put(flags, 0)?;
        put(active, 1)
    }

    /// A new context, current from now on.
    fn cuCtxCreate_v2(context: *mut u64, _flags: c_uint, device: c_int) {
        put(context, create(device)?)
    }

    /// A new context with affinities, which are not there.
    fn cuCtxCreate_v3(context: *mut u64, _affinities: *const c_void, count: c_int, _flags: c_uint, device: c_int) {
        if count != 0 {
            return Err(crate::error::unsupported("cuCtxCreate with an execution affinity"));
        }
        put(context, create(device)?)
    }

    /// A new context with parameters, which are not there.
    fn cuCtxCreate_v4(context: *mut u64, parameters: *const c_void, _flags: c_uint, device: c_int) {
        if !parameters.is_null() {
            return Err(crate::error::unsupported("cuCtxCreate with parameters"));
        }
        put(context, create(device)?)
    }

    /// Ends a context that a program made; what its device has stays.
    fn cuCtxDestroy_v2(context: u64) {
        let Ok(Object::Context(_, false)) = driver().find(context) else { return Err(CUresult::INVALID_CONTEXT) };
        if driver().current() == context {
            driver().pop_current()?;
        }
        driver().forget(context).map(drop)
    }

    /// Makes a context current.
    fn cuCtxSetCurrent(context: u64) {
        driver().started()?;
        driver().set_current(context)
    }

    /// The current context.
    fn cuCtxGetCurrent(context: *mut u64) {
        driver().started()?;
        put(context, driver().current())
    }

    /// Makes a context current; the one before is kept.
    fn cuCtxPushCurrent_v2(context: u64) {
        driver().started()?;
        driver().push_current(context)
    }

    /// Makes the one before current.
    fn cuCtxPopCurrent_v2(context: *mut u64) {
        put_if_wanted(context, driver().pop_current()?)
    }

    /// The device of the current context.
    fn cuCtxGetDevice(device: *mut c_int) {
        put(device, driver().device()? as c_int)
    }

    /// The device of a context.
    fn cuCtxGetDevice_v2(device: *mut c_int, context: u64) {
        put(device, device_of(context)? as c_int)
    }

    /// Waits for all work; errors of it are reported here too.
    fn cuCtxSynchronize() {
        driver().device()?;
        crate::capture::forbid_waiting()?;
        crate::queue::finish_all()
    }

    /// As [`cuCtxSynchronize`].
    fn cuCtxSynchronize_v2(context: u64) {
        device_of(context)?;
        crate::capture::forbid_waiting()?;
        crate::queue::finish_all()
    }

    /// Limits are not enforced.
    fn cuCtxSetLimit(limit: c_int, _value: usize) {
        driver().device()?;
        if (0..=7).contains(&limit) { Ok(()) } else { Err(CUresult::INVALID_VALUE) }
    }

    /// A limit: none is enforced.
    fn cuCtxGetLimit(value: *mut usize, limit: c_int) {
        driver().device()?;
        if (0..=7).contains(&limit) { put(value, 1 << 20) } else { Err(CUresult::INVALID_VALUE) }
    }

    /// Cache preferences change nothing.
    fn cuCtxSetCacheConfig(_config: c_int) {
        driver().device().map(drop)
    }

    /// No preference.
    fn cuCtxGetCacheConfig(config: *mut c_int) {
        driver().device()?;
        put(config, 0)
    }

    /// Flags: none.
    fn cuCtxGetFlags(flags: *mut c_uint) {
        driver().device()?;
        put(flags, 0)
    }

    /// Flags change nothing.
    fn cuCtxSetFlags(_flags: c_uint) {
        driver().device().map(drop)
    }

    /// A number that no other context has.
    fn cuCtxGetId(context: u64, id: *mut u64) {
        device_of(context)?;
        put(id, if context == 0 { driver().current() } else { context })
    }

    /// The version of the API.
    fn cuCtxGetApiVersion(context: u64, version: *mut c_uint) {
        device_of(context)?;
        put(version, crate::device::VERSION as c_uint)
    }

    /// There is no cache whose lines could persist.
    fn cuCtxResetPersistingL2Cache() {
        driver().device().map(drop)
    }

    /// Priorities change nothing.
    fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) {
        driver().device()?;
        put_if_wanted(least, 0)?;
        put_if_wanted(greatest, crate::stream::GREATEST_PRIORITY)
    }

    /// All devices share one address space; that a program asks before it reaches for a peer's memory is not checked.
    fn cuCtxEnablePeerAccess(context: u64, flags: c_uint) {
        let pair = peers(context)?;
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        if driver().tables().peers.insert(pair) { Ok(()) } else { Err(CUresult::PEER_ACCESS_ALREADY_ENABLED) }
    }

    /// Undoes [`cuCtxEnablePeerAccess`].
    fn cuCtxDisablePeerAccess(context: u64) {
        let pair = peers(context)?;
        if driver().tables().peers.remove(&pair) { Ok(()) } else { Err(CUresult::PEER_ACCESS_NOT_ENABLED) }
    }
}
