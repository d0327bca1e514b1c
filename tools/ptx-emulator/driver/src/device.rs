//! Devices and what programs ask about them.

use std::ffi::{c_char, c_int, c_uint};

use crate::error::{Answer, CUresult, put, text};
use crate::state::driver;

/// Writes a text into a program's buffer.
///
/// # Safety
/// `into` is null or valid for `length` bytes.
unsafe fn put_text(into: *mut c_char, length: c_int, text: &str) -> Answer<()> {
    if into.is_null() || length < 1 {
        return Err(CUresult::INVALID_VALUE);
    }
    let count = text.len().min(length as usize - 1);
    // SAFETY: the caller's; the text and its end fit.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), into, count);
        into.add(count).write(0);
    }
    Ok(())
}

fn existing(device: c_int) -> Answer<u32> {
    driver().started()?;
    u32::try_from(device).ok().filter(|device| *device < driver().devices()).ok_or(CUresult::INVALID_DEVICE)
}

/// The CUDA version that the driver speaks: 13.0.
pub const VERSION: c_int = 13000;

/// An attribute by its number in `CUdevice_attribute`.
fn attribute(device: u32, number: c_int) -> Answer<c_int> {
    let chip = driver().chip();
    let (major, minor) = chip.capability;
    let since = |capability: u32| c_int::from(major >= capability);
    Ok(match number {
        // Threads of a block, and along each axis; blocks along each axis.
        1..=3 => 1024,
        4 => 64,
        5 => c_int::MAX,
        6 | 7 => 65535,
        // Shared memory of a block, without and with opting in; what the system keeps of each.
        8 => 48 << 10,
        97 => chip.shared_per_block as c_int,
        111 => 1 << 10,
        81 => chip.shared_per_multiprocessor as c_int,
        // Constant memory, warp, pitch, registers of a block and of a multiprocessor.
        9 => 64 << 10,
        10 => 32,
        11 => c_int::MAX,
        12 | 82 => 64 << 10,
        16 => chip.multiprocessors as c_int,
        39 => chip.threads_per_multiprocessor as c_int,
        106 => chip.blocks_per_multiprocessor() as c_int,
        75 => major as c_int,
        76 => minor as c_int,
        // Clocks in kHz, the width of the memory's bus, L2 cache, single to double precision: what programs compute peaks with.
        13 => chip.clock as c_int,
        36 => 2_619_000,
        37 => 5120,
        38 => 50 << 20,
        87 => 2,
        // Alignment of textures, their pitch, and surfaces.
        14 | 30 => 512,
        51 => 32,
        // Bus, device, domain; the NUMA nodes of the device and of its host.
        33 => device as c_int + 1,
        34 | 50 => 0,
        131 | 134 => 0,
        // Overlap of copies, and how many engines do it.
        15 => 1,
        40 => 2,
        // Mapped host memory, concurrent kernels, unified addressing, priorities, L1 caches, managed memory and concurrent access to it,
        // preemption, registered memory at its own address, cooperative launches, registering host memory (read-only too).
        19 | 31 | 41 | 78 | 79 | 80 | 83 | 89 | 90 | 91 | 95 | 99 | 113 => 1,
        // Waiting for and writing 32- and 64-bit words in streams.
        92 | 93 | 122 => 1,
        // Clusters; tensor maps.
        120 | 127 => since(9),
        126 => 1,
        // Textures, memory pools, virtual memory management, multicast, handles of other processes and other things that are not there.
        17..=161 => 0,
        _ => return Err(CUresult::INVALID_VALUE),
    })
}

fn bus_id(device: u32) -> String {
    format!("0000:{:02x}:00.0", device + 1)
}

calls! {
    /// Starts the driver.
    fn cuInit(flags: c_uint) {
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        driver().initialize();
        Ok(())
    }

    /// The CUDA version that the driver speaks.
    fn cuDriverGetVersion(version: *mut c_int) {
        put(version, VERSION)
    }

    /// A device by number.
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        existing(ordinal)?;
        put(device, ordinal)
    }

    /// How many devices there are.
    fn cuDeviceGetCount(count: *mut c_int) {
        driver().started()?;
        put(count, driver().devices() as c_int)
    }

    /// A device's name.
    fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) {
        existing(device)?;
        let chip = driver().chip();
        put_text(name, length, &format!("Emulated {} ({})", chip.marketing_name, chip.name))
    }

    /// A device's identity.
    fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) {
        let mut bytes = *b"ptx-emulator GPU";
        bytes[15] = existing(device)? as u8;
        put(uuid, bytes)
    }

    /// As [`cuDeviceGetUuid_v2`].
    fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: c_int) {
        let mut bytes = *b"ptx-emulator GPU";
        bytes[15] = existing(device)? as u8;
        put(uuid, bytes)
    }

    /// A device's place on the bus, as text.
    fn cuDeviceGetPCIBusId(text: *mut c_char, length: c_int, device: c_int) {
        let device = existing(device)?;
        put_text(text, length, &bus_id(device))
    }

    /// The device of a place on the bus.
    fn cuDeviceGetByPCIBusId(device: *mut c_int, id: *const c_char) {
        driver().started()?;
        let id = text(id)?.to_lowercase();
        // The domain may be missing.
        let found = (0..driver().devices()).find(|device| bus_id(*device) == id || bus_id(*device)[5..] == id);
        put(device, found.ok_or(CUresult::INVALID_DEVICE)? as c_int)
    }

    /// The memory of a device.
    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) {
        existing(device)?;
        put(bytes, driver().memory_bytes() as usize)
    }

    /// An attribute of a device.
    fn cuDeviceGetAttribute(value: *mut c_int, number: c_int, device: c_int) {
        put(value, attribute(existing(device)?, number)?)
    }

    /// The compute capability of a device.
    fn cuDeviceComputeCapability(major: *mut c_int, minor: *mut c_int, device: c_int) {
        existing(device)?;
        let (chip_major, chip_minor) = driver().chip().capability;
        put(major, chip_major as c_int)?;
        put(minor, chip_minor as c_int)
    }

    /// Whether a device can reach another's memory: all share one address space.
    fn cuDeviceCanAccessPeer(can: *mut c_int, device: c_int, peer: c_int) {
        let (device, peer) = (existing(device)?, existing(peer)?);
        put(can, c_int::from(device != peer))
    }

    /// How devices reach each other's memory: access and atomics, all as fast.
    fn cuDeviceGetP2PAttribute(value: *mut c_int, number: c_int, device: c_int, peer: c_int) {
        let (device, peer) = (existing(device)?, existing(peer)?);
        if device == peer {
            return Err(CUresult::INVALID_DEVICE);
        }
        match number {
            2 | 3 => put(value, 1),
            1 | 4 | 5 => put(value, 0),
            _ => Err(CUresult::INVALID_VALUE),
        }
    }

    /// Affinities are not there.
    fn cuDeviceGetExecAffinitySupport(supported: *mut c_int, _kind: c_int, device: c_int) {
        existing(device)?;
        put(supported, 0)
    }
}
