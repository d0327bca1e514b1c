//! Devices and what programs ask about them.

use std::ffi::{c_char, c_int, c_uint};

use crate::error::{Answer, CUresult, put};
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
    u32::try_from(device).ok().filter(|device| *device < driver().devices()).ok_or(CUresult::INVALID_DEVICE)
}

/// An attribute by its number in `CUdevice_attribute`.
fn attribute(number: c_int) -> c_int {
    let chip = driver().chip();
    let (major, minor) = chip.capability;
    let since = |capability: u32| c_int::from(major >= capability);
    match number {
        // Threads of a block, and along each axis.
        1..=3 => 1024,
        4 => 64,
        5 => c_int::MAX,
        6 | 7 => 65535,
        // Shared memory of a block, without and with opting in.
        8 => 48 << 10,
        97 => chip.shared_per_block as c_int,
        // Constant memory, warp, pitch, registers.
        9 => 64 << 10,
        10 => 32,
        11 => c_int::MAX,
        12 | 82 => 64 << 10,
        13 => chip.clock as c_int,
        14 => 512,
        // Overlap of copies; how many engines.
        15 => 1,
        40 => 2,
        16 => chip.multiprocessors as c_int,
        // Mapped host memory, concurrent kernels, unified addressing, cooperative launches, stream priorities.
        19 | 31 | 41 | 95 | 78 => 1,
        35 => 0,
        // Memory clock in kHz, width of its bus, L2 cache.
        36 => 2_619_000,
        37 => 5120,
        38 => 50 << 20,
        39 => chip.threads_per_multiprocessor as c_int,
        75 => major as c_int,
        76 => minor as c_int,
        81 => chip.shared_per_multiprocessor as c_int,
        106 => {
            if major >= 9 {
                32
            } else {
                16
            }
        }
        // Shared memory that the system keeps of each block.
        111 => 1 << 10,
        // Clusters; tensor maps.
        120 | 127 => since(9),
        // Managed memory, memory pools, virtual memory management and other things that are not there.
        _ => 0,
    }
}

calls! {
    /// Starts the driver.
    fn cuInit(_flags: c_uint) {
        driver().chip();
        Ok(())
    }

    /// The CUDA version that the driver speaks.
    fn cuDriverGetVersion(version: *mut c_int) {
        put(version, 13000)
    }

    /// A device by number.
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        existing(ordinal)?;
        put(device, ordinal)
    }

    /// How many devices there are.
    fn cuDeviceGetCount(count: *mut c_int) {
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
        put_text(text, length, &format!("0000:{:02x}:00.0", device + 1))
    }

    /// The memory of a device.
    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) {
        existing(device)?;
        put(bytes, driver().memory_bytes() as usize)
    }

    /// An attribute of a device.
    fn cuDeviceGetAttribute(value: *mut c_int, number: c_int, device: c_int) {
        existing(device)?;
        put(value, attribute(number))
    }

    /// The compute capability of a device.
    fn cuDeviceComputeCapability(major: *mut c_int, minor: *mut c_int, device: c_int) {
        existing(device)?;
        put(major, attribute(75))?;
        put(minor, attribute(76))
    }

    /// Whether a device can reach another's memory: all share one address space.
    fn cuDeviceCanAccessPeer(can: *mut c_int, device: c_int, peer: c_int) {
        let (device, peer) = (existing(device)?, existing(peer)?);
        put(can, c_int::from(device != peer))
    }
}
