//! Memory: allocation, copies and sets.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::NonNull;

use crate::error::{Answer, CUresult, put};
use crate::launch::issue;
use crate::state::driver;

fn allocate(bytes: usize) -> Answer<u64> {
    let device = driver().device()?;
    if bytes == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    if driver().memory.used(device).saturating_add(bytes as u64) > driver().memory_bytes() {
        return Err(CUresult::OUT_OF_MEMORY);
    }
    driver().memory.allocate(bytes as u64, Some(device)).ok_or(CUresult::OUT_OF_MEMORY)
}

fn release(address: u64) -> Answer<()> {
    if address == 0 || driver().memory.release(address) { Ok(()) } else { Err(CUresult::INVALID_VALUE) }
}

/// # Safety
/// `from` is valid for `bytes` bytes.
unsafe fn copy_in(to: u64, from: *const c_void, bytes: usize) -> Answer<()> {
    if bytes == 0 {
        return Ok(());
    }
    if from.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's.
    let from = unsafe { std::slice::from_raw_parts(from.cast(), bytes) };
    driver().memory.view().copy_in(to, from).ok_or(CUresult::INVALID_VALUE)
}

/// # Safety
/// `to` is valid for writes of `bytes` bytes.
unsafe fn copy_out(to: *mut c_void, from: u64, bytes: usize) -> Answer<()> {
    if bytes == 0 {
        return Ok(());
    }
    if to.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's.
    let to = unsafe { std::slice::from_raw_parts_mut(to.cast(), bytes) };
    driver().memory.view().copy_out(from, to).ok_or(CUresult::INVALID_VALUE)
}

fn copy_across(to: u64, from: u64, bytes: usize) -> Answer<()> {
    let mut buffer = vec![0; bytes];
    let view = driver().memory.view();
    view.copy_out(from, &mut buffer).ok_or(CUresult::INVALID_VALUE)?;
    view.copy_in(to, &buffer).ok_or(CUresult::INVALID_VALUE)
}

/// Copies between addresses that may be of devices or of the host.
///
/// # Safety
/// What is not allocated by this driver is valid host memory.
unsafe fn copy_any(to: u64, from: u64, bytes: usize) -> Answer<()> {
    let view = driver().memory.view();
    match (view.allocation(to).is_some(), view.allocation(from).is_some()) {
        (true, true) => copy_across(to, from, bytes),
        // SAFETY: the caller's.
        (true, false) => unsafe { copy_in(to, from as *const c_void, bytes) },
        // SAFETY: the caller's.
        (false, true) => unsafe { copy_out(to as *mut c_void, from, bytes) },
        (false, false) => {
            // SAFETY: the caller's.
            unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
            Ok(())
        }
    }
}

fn set(address: u64, pattern: &[u8], count: usize) -> Answer<()> {
    if count == 0 {
        return Ok(());
    }
    let bytes = pattern.repeat(count.min(1 << 16));
    let view = driver().memory.view();
    let total = count.checked_mul(pattern.len()).ok_or(CUresult::INVALID_VALUE)?;
    let mut at = 0;
    while at < total {
        let length = bytes.len().min(total - at);
        view.copy_in(address.wrapping_add(at as u64), &bytes[..length]).ok_or(CUresult::INVALID_VALUE)?;
        at += length;
    }
    Ok(())
}

/// Sets a rectangle: rows of `width` elements that lie `pitch` bytes apart.
fn set_rows(address: u64, pitch: usize, pattern: &[u8], width: usize, height: usize) -> Answer<()> {
    (0..height).try_for_each(|row| set(address.wrapping_add((row * pitch) as u64), pattern, width))
}

/// A host pointer that crosses into a recorded copy.
#[derive(Clone, Copy)]
struct Host(*mut c_void);

// SAFETY: CUDA's contract: the program keeps the memory valid until the copy has happened, on whatever thread.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

impl Host {
    fn pointer(&self) -> *mut c_void {
        self.0
    }
}

calls! {
    /// Allocates memory of the current device.
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) {
        put(address, allocate(bytes)?)
    }

    /// Allocates in the order of a stream.
    fn cuMemAllocAsync(address: *mut u64, bytes: usize, _stream: u64) {
        put(address, allocate(bytes)?)
    }

    /// Allocates rows that are aligned.
    fn cuMemAllocPitch_v2(address: *mut u64, pitch: *mut usize, width: usize, height: usize, _element: c_uint) {
        let aligned = width.checked_next_multiple_of(512).ok_or(CUresult::INVALID_VALUE)?;
        put(address, allocate(aligned.checked_mul(height).ok_or(CUresult::INVALID_VALUE)?)?)?;
        put(pitch, aligned)
    }

    /// Memory that host and devices share.
    fn cuMemAllocManaged(address: *mut u64, bytes: usize, _flags: c_uint) {
        put(address, driver().memory.allocate(bytes as u64, None).ok_or(CUresult::OUT_OF_MEMORY)?)
    }

    /// Frees memory.
    fn cuMemFree_v2(address: u64) {
        release(address)
    }

    /// Frees in the order of a stream.
    fn cuMemFreeAsync(address: u64, _stream: u64) {
        release(address)
    }

    /// Memory of the host that devices can reach.
    fn cuMemAllocHost_v2(pointer: *mut u64, bytes: usize) {
        put(pointer, driver().memory.allocate(bytes as u64, None).ok_or(CUresult::OUT_OF_MEMORY)?)
    }

    /// The same with flags.
    fn cuMemHostAlloc(pointer: *mut u64, bytes: usize, _flags: c_uint) {
        put(pointer, driver().memory.allocate(bytes as u64, None).ok_or(CUresult::OUT_OF_MEMORY)?)
    }

    /// Frees memory of the host.
    fn cuMemFreeHost(pointer: u64) {
        release(pointer)
    }

    /// Lets devices reach memory of the program.
    fn cuMemHostRegister_v2(pointer: *mut c_void, bytes: usize, _flags: c_uint) {
        let pointer = NonNull::new(pointer.cast()).ok_or(CUresult::INVALID_VALUE)?;
        driver().memory.register(pointer, bytes as u64);
        Ok(())
    }

    /// Undoes [`cuMemHostRegister_v2`].
    fn cuMemHostUnregister(pointer: u64) {
        release(pointer)
    }

    /// The device's address of memory of the host: the same.
    fn cuMemHostGetDevicePointer_v2(address: *mut u64, pointer: u64, _flags: c_uint) {
        put(address, pointer)
    }

    /// Free and all memory of the current device.
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let all = driver().memory_bytes();
        put(free, all.saturating_sub(driver().memory.used(driver().device()?)) as usize)?;
        put(total, all as usize)
    }

    /// The allocation that holds an address.
    fn cuMemGetAddressRange_v2(base: *mut u64, bytes: *mut usize, address: u64) {
        let view = driver().memory.view();
        let allocation = view.allocation(address).ok_or(CUresult::NOT_FOUND)?;
        if !base.is_null() {
            put(base, allocation.base)?;
        }
        if bytes.is_null() { Ok(()) } else { put(bytes, allocation.length as usize) }
    }

    /// What kind of memory an address is of.
    fn cuPointerGetAttribute(data: *mut c_void, attribute: c_int, address: u64) {
        let view = driver().memory.view();
        let allocation = view.allocation(address).ok_or(CUresult::INVALID_VALUE)?;
        match attribute {
            // CONTEXT
            1 => put(data.cast(), driver().context(allocation.device.unwrap_or(0))?),
            // MEMORY_TYPE: 1 host, 2 device
            2 => put(data.cast(), if allocation.device.is_some() { 2 } else { 1u32 }),
            // DEVICE_POINTER, HOST_POINTER
            3 => put(data.cast(), address),
            4 if allocation.device.is_none() => put(data.cast(), address),
            // IS_MANAGED
            8 => put(data.cast(), 0u32),
            // DEVICE_ORDINAL
            9 => put(data.cast(), allocation.device.unwrap_or(0) as c_int),
            // RANGE_START_ADDR, RANGE_SIZE
            11 => put(data.cast(), allocation.base),
            12 => put(data.cast(), allocation.length as usize),
            _ => Err(CUresult::INVALID_VALUE),
        }
    }

    /// Host to device.
    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) {
        copy_in(to, from, bytes)
    }

    /// Device to host.
    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) {
        driver().check()?;
        copy_out(to, from, bytes)
    }

    /// Device to device.
    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        copy_across(to, from, bytes)
    }

    /// Any to any.
    fn cuMemcpy(to: u64, from: u64, bytes: usize) {
        copy_any(to, from, bytes)
    }

    /// Between devices.
    fn cuMemcpyPeer(to: u64, _to_context: u64, from: u64, _from_context: u64, bytes: usize) {
        copy_across(to, from, bytes)
    }

    /// Host to device, in a stream.
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: u64) {
        let from = Host(from.cast_mut());
        // SAFETY: the program keeps the memory valid until the copy has happened.
        issue(stream, move || unsafe { copy_in(to, from.pointer(), bytes) })
    }

    /// Device to host, in a stream.
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: u64) {
        driver().check()?;
        let to = Host(to);
        // SAFETY: the program keeps the memory valid until the copy has happened.
        issue(stream, move || unsafe { copy_out(to.pointer(), from, bytes) })
    }

    /// Device to device, in a stream.
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) {
        issue(stream, move || copy_across(to, from, bytes))
    }

    /// Any to any, in a stream.
    fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: u64) {
        // SAFETY: the program keeps its memory valid until the copy has happened.
        issue(stream, move || unsafe { copy_any(to, from, bytes) })
    }

    /// Between devices, in a stream.
    fn cuMemcpyPeerAsync(to: u64, _to_context: u64, from: u64, _from_context: u64, bytes: usize, stream: u64) {
        issue(stream, move || copy_across(to, from, bytes))
    }

    /// Sets bytes.
    fn cuMemsetD8_v2(address: u64, value: u8, count: usize) {
        set(address, &[value], count)
    }

    /// Sets 16-bit words.
    fn cuMemsetD16_v2(address: u64, value: u16, count: usize) {
        set(address, &value.to_le_bytes(), count)
    }

    /// Sets 32-bit words.
    fn cuMemsetD32_v2(address: u64, value: c_uint, count: usize) {
        set(address, &value.to_le_bytes(), count)
    }

    /// Sets bytes, in a stream.
    fn cuMemsetD8Async(address: u64, value: u8, count: usize, stream: u64) {
        issue(stream, move || set(address, &[value], count))
    }

    /// Sets 16-bit words, in a stream.
    fn cuMemsetD16Async(address: u64, value: u16, count: usize, stream: u64) {
        issue(stream, move || set(address, &value.to_le_bytes(), count))
    }

    /// Sets 32-bit words, in a stream.
    fn cuMemsetD32Async(address: u64, value: c_uint, count: usize, stream: u64) {
        issue(stream, move || set(address, &value.to_le_bytes(), count))
    }

    /// Sets rows of bytes.
    fn cuMemsetD2D8_v2(address: u64, pitch: usize, value: u8, width: usize, height: usize) {
        set_rows(address, pitch, &[value], width, height)
    }

    /// Sets rows of 32-bit words.
    fn cuMemsetD2D32_v2(address: u64, pitch: usize, value: c_uint, width: usize, height: usize) {
        set_rows(address, pitch, &value.to_le_bytes(), width, height)
    }
}
