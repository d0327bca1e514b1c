//! Memory: allocation, registration, and what programs ask about addresses.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::NonNull;

use crate::capture::issue;
use crate::error::{Answer, CUresult, list, put, put_if_wanted};
use crate::launch::Work;
use crate::state::{Origin, driver};

fn allocate(bytes: usize) -> Answer<u64> {
    let device = driver().device()?;
    if bytes == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    if driver().memory.used(device).saturating_add(bytes as u64) > driver().memory_bytes() {
        return Err(CUresult::OUT_OF_MEMORY);
    }
    let address = driver().memory.allocate(bytes as u64, Some(device)).ok_or(CUresult::OUT_OF_MEMORY)?;
    driver().tables().origins.insert(address, Origin::Device);
    Ok(address)
}

fn allocate_host(bytes: usize, origin: Origin) -> Answer<u64> {
    driver().device()?;
    if bytes == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    // As much as a device has is more than programs pin.
    if bytes as u64 > driver().memory_bytes() {
        return Err(CUresult::OUT_OF_MEMORY);
    }
    let address = driver().memory.allocate(bytes as u64, None).ok_or(CUresult::OUT_OF_MEMORY)?;
    driver().tables().origins.insert(address, origin);
    Ok(address)
}

/// Takes back memory that came to be in one of some ways.
fn release(address: u64, from: fn(Origin) -> bool, otherwise: CUresult) -> Answer<()> {
    driver().device()?;
    let mut tables = driver().tables();
    if !tables.origins.get(&address).is_some_and(|origin| from(*origin)) {
        return Err(otherwise);
    }
    tables.origins.remove(&address);
    driver().memory.release(address);
    Ok(())
}

/// Takes back what `cuMemAlloc` and its siblings gave.
pub fn free(address: u64) -> Answer<()> {
    if address == 0 {
        return Ok(());
    }
    release(address, |origin| matches!(origin, Origin::Device | Origin::Managed), CUresult::INVALID_VALUE)
}

/// What a pointer attribute is.
enum Fact {
    Number(c_int),
    Flag(bool),
    Address(u64),
}

/// A fact about an address by its number in `CUpointer_attribute`.
fn fact(attribute: c_int, address: u64) -> Answer<Fact> {
    let view = driver().memory.view();
    let allocation = view.allocation(address).ok_or(CUresult::INVALID_VALUE)?;
    let origin = driver().tables().origins.get(&allocation.base).copied();
    Ok(match attribute {
        // CONTEXT
        1 => Fact::Address(driver().primary_context(allocation.device.unwrap_or(0))?),
        // MEMORY_TYPE: 1 host, 2 device
        2 => Fact::Number(if allocation.device.is_some() || origin == Some(Origin::Managed) { 2 } else { 1 }),
        // DEVICE_POINTER, HOST_POINTER
        3 => Fact::Address(address),
        4 if allocation.device.is_none() => Fact::Address(address),
        // SYNC_MEMOPS, IPC, RDMA: no
        6 | 10 | 15 => Fact::Flag(false),
        // BUFFER_ID
        7 => Fact::Address(allocation.base),
        8 => Fact::Flag(origin == Some(Origin::Managed)),
        // DEVICE_ORDINAL
        9 => Fact::Number(allocation.device.unwrap_or(0) as c_int),
        // RANGE_START_ADDR, RANGE_SIZE
        11 => Fact::Address(allocation.base),
        12 => Fact::Address(allocation.length),
        // MAPPED
        13 => Fact::Flag(true),
        // ALLOWED_HANDLE_TYPES, MEMPOOL_HANDLE
        14 | 17 => Fact::Address(0),
        // ACCESS_FLAGS: read and write
        16 => Fact::Number(3),
        _ => return Err(CUresult::INVALID_VALUE),
    })
}

/// # Safety
/// `data` is null or has room for the attribute.
unsafe fn put_fact(data: *mut c_void, fact: Fact) -> Answer<()> {
    // SAFETY: the caller's.
    unsafe {
        match fact {
            Fact::Number(value) => put(data.cast(), value),
            Fact::Flag(value) => put(data.cast(), value),
            Fact::Address(value) => put(data.cast(), value),
        }
    }
}

calls! {
    /// Allocates memory of the current device.
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) {
        if address.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        put(address, allocate(bytes)?)
    }

    /// Allocates in the order of a stream, but not while it is captured: there are no memory pools.
    fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: u64) {
        driver().stream(stream)?;
        if address.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        if driver().tables().captures.contains_key(&stream) {
            return Err(CUresult::STREAM_CAPTURE_UNSUPPORTED);
        }
        put(address, allocate(bytes)?)
    }

    /// Allocates rows that are aligned.
    fn cuMemAllocPitch_v2(address: *mut u64, pitch: *mut usize, width: usize, height: usize, element: c_uint) {
        if address.is_null() || pitch.is_null() || ![4, 8, 16].contains(&element) {
            return Err(CUresult::INVALID_VALUE);
        }
        let aligned = width.checked_next_multiple_of(512).ok_or(CUresult::INVALID_VALUE)?;
        put(address, allocate(aligned.checked_mul(height).ok_or(CUresult::OUT_OF_MEMORY)?)?)?;
        put(pitch, aligned)
    }

    /// Memory that host and devices share.
    fn cuMemAllocManaged(address: *mut u64, bytes: usize, flags: c_uint) {
        if address.is_null() || ![1, 2, 4].contains(&flags) {
            return Err(CUresult::INVALID_VALUE);
        }
        put(address, allocate_host(bytes, Origin::Managed)?)
    }

    /// Frees memory.
    fn cuMemFree_v2(address: u64) {
        crate::queue::finish_all()?;
        free(address)
    }

    /// Frees in the order of a stream.
    fn cuMemFreeAsync(address: u64, stream: u64) {
        if driver().tables().captures.contains_key(&stream) {
            return Err(CUresult::STREAM_CAPTURE_UNSUPPORTED);
        }
        issue(stream, Work::Free(address))
    }

    /// Memory of the host that devices can reach.
    fn cuMemAllocHost_v2(pointer: *mut u64, bytes: usize) {
        if pointer.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        put(pointer, allocate_host(bytes, Origin::Host(0))?)
    }

    /// The same with flags.
    fn cuMemHostAlloc(pointer: *mut u64, bytes: usize, flags: c_uint) {
        if pointer.is_null() || flags & !7 != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        put(pointer, allocate_host(bytes, Origin::Host(flags))?)
    }

    /// Frees memory of the host.
    fn cuMemFreeHost(pointer: u64) {
        release(pointer, |origin| matches!(origin, Origin::Host(_)), CUresult::INVALID_VALUE)
    }

    /// Lets devices reach memory of the program.
    fn cuMemHostRegister_v2(pointer: *mut c_void, bytes: usize, flags: c_uint) {
        driver().device()?;
        let start = NonNull::new(pointer.cast::<u8>()).ok_or(CUresult::INVALID_VALUE)?;
        let end = (pointer as u64).checked_add(bytes as u64).ok_or(CUresult::INVALID_VALUE)?;
        if bytes == 0 || bytes as u64 > driver().memory_bytes() || flags & !15 != 0 || driver().memory.issued(pointer as u64) {
            return Err(CUresult::INVALID_VALUE);
        }
        if driver().memory.view().overlaps(pointer as u64, end) {
            return Err(CUresult::HOST_MEMORY_ALREADY_REGISTERED);
        }
        driver().memory.register(start, bytes as u64);
        driver().tables().origins.insert(pointer as u64, Origin::Registered(flags));
        Ok(())
    }

    /// Undoes [`cuMemHostRegister_v2`].
    fn cuMemHostUnregister(pointer: u64) {
        release(pointer, |origin| matches!(origin, Origin::Registered(_)), CUresult::HOST_MEMORY_NOT_REGISTERED)
    }

    /// The device's address of memory of the host: the same.
    fn cuMemHostGetDevicePointer_v2(address: *mut u64, pointer: u64, flags: c_uint) {
        let view = driver().memory.view();
        match view.allocation(pointer) {
            Some(allocation) if allocation.device.is_none() && flags == 0 => put(address, pointer),
            _ => Err(CUresult::INVALID_VALUE),
        }
    }

    /// What memory of the host was allocated or registered with.
    fn cuMemHostGetFlags(flags: *mut c_uint, pointer: u64) {
        let view = driver().memory.view();
        let base = view.allocation(pointer).ok_or(CUresult::INVALID_VALUE)?.base;
        let origin = driver().tables().origins.get(&base).copied();
        match origin {
            Some(Origin::Host(found) | Origin::Registered(found)) => put(flags, found),
            _ => Err(CUresult::INVALID_VALUE),
        }
    }

    /// Free and all memory of the current device.
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let all = driver().memory_bytes();
        let used = driver().memory.used(driver().device()?);
        put(free, all.saturating_sub(used) as usize)?;
        put(total, all as usize)
    }

    /// The allocation that holds an address.
    fn cuMemGetAddressRange_v2(base: *mut u64, bytes: *mut usize, address: u64) {
        let view = driver().memory.view();
        let allocation = view.allocation(address).ok_or(CUresult::NOT_FOUND)?;
        put_if_wanted(base, allocation.base)?;
        put_if_wanted(bytes, allocation.length as usize)
    }

    /// A fact about an address.
    fn cuPointerGetAttribute(data: *mut c_void, attribute: c_int, address: u64) {
        put_fact(data, fact(attribute, address)?)
    }

    /// Several facts about an address; for one that is not known, zeros.
    fn cuPointerGetAttributes(count: c_uint, attributes: *const c_int, data: *const *mut c_void, address: u64) {
        let attributes = list(attributes, count as usize)?;
        let places = list(data, count as usize)?;
        let known = driver().memory.view().allocation(address).is_some();
        for (attribute, place) in attributes.into_iter().zip(places) {
            match fact(attribute, address) {
                Ok(fact) => put_fact(place, fact)?,
                Err(_) if !known => match attribute {
                    2 | 14 | 16 => put(place.cast(), 0u32)?,
                    6 | 8 | 10 | 13 | 15 => put(place.cast(), false)?,
                    9 => put(place.cast(), -2i32)?,
                    1 | 3 | 4 | 7 | 11 | 12 | 17 => put(place.cast(), 0u64)?,
                    _ => return Err(CUresult::INVALID_VALUE),
                },
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// All copies are synchronous as it is.
    fn cuPointerSetAttribute(value: *const c_void, attribute: c_int, address: u64) {
        let known = driver().memory.view().allocation(address).is_some();
        if attribute == 6 && known && !value.is_null() { Ok(()) } else { Err(CUresult::INVALID_VALUE) }
    }

    /// Where managed memory is does not matter.
    fn cuMemAdvise_v2(address: u64, bytes: usize, _advice: c_int, _location: u64) {
        managed(address, bytes)
    }

    /// As [`cuMemAdvise_v2`].
    fn cuMemAdvise(address: u64, bytes: usize, _advice: c_int, _device: c_int) {
        managed(address, bytes)
    }

    /// As [`cuMemAdvise_v2`].
    fn cuMemPrefetchAsync_v2(address: u64, bytes: usize, _location: u64, _flags: c_uint, stream: u64) {
        driver().stream(stream)?;
        managed(address, bytes)
    }

    /// As [`cuMemAdvise_v2`].
    fn cuMemPrefetchAsync(address: u64, bytes: usize, _device: c_int, stream: u64) {
        driver().stream(stream)?;
        managed(address, bytes)
    }

    /// Which stream uses managed memory does not matter.
    fn cuStreamAttachMemAsync(stream: u64, address: u64, _bytes: usize, _flags: c_uint) {
        driver().stream(stream)?;
        managed(address, 1)
    }
}

/// Whether a stretch is managed memory.
fn managed(address: u64, bytes: usize) -> Answer<()> {
    let view = driver().memory.view();
    let allocation = view.allocation(address).ok_or(CUresult::INVALID_VALUE)?;
    let inside = bytes as u64 <= allocation.length - (address - allocation.base);
    let origin = driver().tables().origins.get(&allocation.base).copied();
    if inside && origin == Some(Origin::Managed) { Ok(()) } else { Err(CUresult::INVALID_VALUE) }
}
