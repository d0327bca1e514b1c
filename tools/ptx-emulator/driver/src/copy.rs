//! Copies and sets of memory: of lines, rectangles and boxes.

use std::ffi::{c_int, c_uint, c_void};

use ptx_emulator::memory::global::View;

use crate::capture::issue;
use crate::error::{Answer, CUresult, get, unsupported};
use crate::launch::Work;
use crate::queue;
use crate::state::driver;

/// `CUmemorytype`
const HOST: c_int = 1;
const DEVICE: c_int = 2;
const ARRAY: c_int = 3;
const UNIFIED: c_int = 4;

/// Where a box is copied from or to, with the layout of `CUDA_MEMCPY3D`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Side {
    x: usize,
    y: usize,
    z: usize,
    level: usize,
    kind: c_int,
    host: u64,
    device: u64,
    array: u64,
    reserved: u64,
    pitch: usize,
    height: usize,
}

/// `CUDA_MEMCPY3D`, which says all that copies can be.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Copy {
    from: Side,
    to: Side,
    width: usize,
    height: usize,
    depth: usize,
}

/// A side of `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FlatSide {
    x: usize,
    y: usize,
    kind: c_int,
    host: u64,
    device: u64,
    array: u64,
    pitch: usize,
}

/// `CUDA_MEMCPY2D`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FlatCopy {
    from: FlatSide,
    to: FlatSide,
    width: usize,
    height: usize,
}

impl From<FlatSide> for Side {
    fn from(side: FlatSide) -> Side {
        let FlatSide { x, y, kind, host, device, array, pitch } = side;
        Side { x, y, kind, host, device, array, pitch, ..Side::default() }
    }
}

impl From<FlatCopy> for Copy {
    fn from(copy: FlatCopy) -> Copy {
        Copy { from: copy.from.into(), to: copy.to.into(), width: copy.width, height: copy.height, depth: 1 }
    }
}

/// Whose memory a stretch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The emulator's: its address is looked up.
    Emulator,
    /// The program's: its address is a host pointer.
    Program,
}

impl Side {
    fn line(kind: c_int, address: u64) -> Side {
        let (host, device) = if kind == HOST { (address, 0) } else { (0, address) };
        Side { kind, host, device, ..Side::default() }
    }

    /// The address of a row, and the first byte after it; `None` past the end of the address space.
    fn row(&self, width: usize, y: usize, z: usize) -> Option<u64> {
        let base = if self.kind == HOST { self.host } else { self.device };
        let row = self.z.checked_add(z)?.checked_mul(self.height)?.checked_add(self.y)?.checked_add(y)?;
        let offset = row.checked_mul(self.pitch)?.checked_add(self.x)?;
        let start = base.checked_add(offset as u64)?;
        start.checked_add(width as u64)?;
        Some(start)
    }

    /// Whose memory a row is, and that there is such memory.
    fn owner(&self, view: &View, address: u64, width: usize) -> Answer<Owner> {
        if let Some(window) = view.window(address) {
            return if window.holds(address, width) { Ok(Owner::Emulator) } else { Err(CUresult::INVALID_VALUE) };
        }
        // What was a device's once, or never was, is not the program's.
        let possible = self.kind != DEVICE && address != 0 && !driver().memory.issued(address);
        if possible && width <= isize::MAX as usize { Ok(Owner::Program) } else { Err(CUresult::INVALID_VALUE) }
    }
}

impl Copy {
    /// A line from one kind of memory to another.
    fn line(to: (c_int, u64), from: (c_int, u64), bytes: usize) -> Copy {
        Copy { from: Side::line(from.0, from.1), to: Side::line(to.0, to.1), width: bytes, height: 1, depth: 1 }
    }

    /// Whether it reads or writes memory that the driver did not allocate.
    fn touches_the_program(&self) -> bool {
        let view = driver().memory.view();
        let foreign = |side: &Side| side.row(self.width, 0, 0).is_some_and(|address| view.window(address).is_none());
        foreign(&self.from) || foreign(&self.to)
    }

    /// Refuses what no copy can be.
    pub fn validate(&self) -> Answer<()> {
        for side in [&self.from, &self.to] {
            match side.kind {
                HOST | DEVICE | UNIFIED => {}
                ARRAY => return Err(unsupported("a copy of an array")),
                _ => return Err(CUresult::INVALID_VALUE),
            }
            let spans_rows = self.height > 1 || self.depth > 1 || side.y > 0 || side.z > 0;
            if spans_rows && side.pitch < side.x.saturating_add(self.width) {
                return Err(CUresult::INVALID_VALUE);
            }
        }
        Ok(())
    }

    /// Does it.
    ///
    /// # Safety
    /// What is not allocated by this driver is valid host memory.
    pub unsafe fn run(&self) -> Answer<()> {
        self.validate()?;
        if self.width == 0 || self.height == 0 || self.depth == 0 {
            return Ok(());
        }
        let view = driver().memory.view();
        for z in 0..self.depth {
            for y in 0..self.height {
                let from = self.from.row(self.width, y, z).ok_or(CUresult::INVALID_VALUE)?;
                let to = self.to.row(self.width, y, z).ok_or(CUresult::INVALID_VALUE)?;
                let owners = (self.to.owner(&view, to, self.width)?, self.from.owner(&view, from, self.width)?);
                // SAFETY: rows of the emulator's are inside of an allocation; the others are the caller's.
                unsafe { copy_row(&view, to, from, self.width, owners)? };
            }
        }
        Ok(())
    }
}

/// # Safety
/// What is the program's is valid host memory.
unsafe fn copy_row(view: &View, to: u64, from: u64, width: usize, owners: (Owner, Owner)) -> Answer<()> {
    let failed = CUresult::INVALID_VALUE;
    match owners {
        (Owner::Emulator, Owner::Emulator) => view.copy_across(to, from, width as u64).ok_or(failed),
        (Owner::Emulator, Owner::Program) => {
            // SAFETY: the caller's.
            let from = unsafe { std::slice::from_raw_parts(from as *const u8, width) };
            view.copy_in(to, from).ok_or(failed)
        }
        (Owner::Program, Owner::Emulator) => {
            // SAFETY: the caller's.
            let to = unsafe { std::slice::from_raw_parts_mut(to as *mut u8, width) };
            view.copy_out(from, to).ok_or(failed)
        }
        (Owner::Program, Owner::Program) => {
            // SAFETY: the caller's.
            unsafe { std::ptr::copy(from as *const u8, to as *mut u8, width) };
            Ok(())
        }
    }
}

/// `CUDA_MEMSET_NODE_PARAMS`: rows of `width` elements that lie `pitch` bytes apart.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Set {
    address: u64,
    pitch: usize,
    value: c_uint,
    element: c_uint,
    width: usize,
    height: usize,
}

impl Set {
    fn line(address: u64, value: c_uint, element: c_uint, count: usize) -> Set {
        Set { address, pitch: 0, value, element, width: count, height: 1 }
    }

    /// Refuses what no set can be.
    pub fn validate(&self) -> Answer<()> {
        let row = self.width.checked_mul(self.element as usize).ok_or(CUresult::INVALID_VALUE)?;
        let aligned = self.address.is_multiple_of(u64::from(self.element.max(1)));
        let known = [1, 2, 4].contains(&self.element);
        if known && aligned && (self.height <= 1 || self.pitch >= row) { Ok(()) } else { Err(CUresult::INVALID_VALUE) }
    }

    /// Does it.
    pub fn run(&self) -> Answer<()> {
        self.validate()?;
        if self.width == 0 {
            return Ok(());
        }
        let view = driver().memory.view();
        let bytes = self.width * self.element as usize;
        let pattern = self.value.to_le_bytes()[..self.element as usize].repeat(self.width.min(1 << 16));
        for row in 0..self.height {
            let offset = row.checked_mul(self.pitch).ok_or(CUresult::INVALID_VALUE)?;
            let start = self.address.checked_add(offset as u64).ok_or(CUresult::INVALID_VALUE)?;
            if !view.window(start).is_some_and(|window| window.holds(start, bytes)) {
                return Err(CUresult::INVALID_VALUE);
            }
            for at in (0..bytes).step_by(pattern.len()) {
                let length = pattern.len().min(bytes - at);
                view.copy_in(start + at as u64, &pattern[..length]).ok_or(CUresult::INVALID_VALUE)?;
            }
        }
        Ok(())
    }
}

/// Copies in the order of the null stream, and waits for that.
///
/// # Safety
/// As [`Copy::run`].
unsafe fn copy(to: (c_int, u64), from: (c_int, u64), bytes: usize) -> Answer<()> {
    // SAFETY: the caller's.
    unsafe { copy_box_now(Copy::line(to, from, bytes)) }
}

/// # Safety
/// As [`Copy::run`].
unsafe fn copy_box_now(copy: Copy) -> Answer<()> {
    copy.validate()?;
    issue(0, Work::Copy(copy))?;
    queue::finish_stream(0)
}

fn set(address: u64, value: c_uint, element: c_uint, count: usize, stream: u64) -> Answer<()> {
    let set = Set::line(address, value, element, count);
    set.validate()?;
    issue(stream, Work::Set(set))
}

fn set_rows(address: u64, pitch: usize, value: c_uint, element: c_uint, extent: [usize; 2], stream: u64) -> Answer<()> {
    let set = Set { address, pitch, value, element, width: extent[0], height: extent[1] };
    set.validate()?;
    issue(stream, Work::Set(set))
}

/// # Safety
/// As [`Copy::run`], until the stream has done it.
unsafe fn copy_box(copy: Copy, stream: u64) -> Answer<()> {
    copy.validate()?;
    issue(stream, Work::Copy(copy))?;
    // As CUDA may: the program's own memory is not kept until later.
    let captured = driver().tables().captures.contains_key(&stream);
    if copy.touches_the_program() && !captured { queue::finish_stream(stream) } else { Ok(()) }
}

calls! {
    /// Host to device.
    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) {
        copy((DEVICE, to), (HOST, from as u64), bytes)
    }

    /// Device to host.
    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) {
        copy((HOST, to as u64), (DEVICE, from), bytes)
    }

    /// Device to device.
    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        copy((DEVICE, to), (DEVICE, from), bytes)
    }

    /// Any to any.
    fn cuMemcpy(to: u64, from: u64, bytes: usize) {
        copy((UNIFIED, to), (UNIFIED, from), bytes)
    }

    /// Between devices.
    fn cuMemcpyPeer(to: u64, to_context: u64, from: u64, from_context: u64, bytes: usize) {
        driver().device_of(to_context)?;
        driver().device_of(from_context)?;
        copy((DEVICE, to), (DEVICE, from), bytes)
    }

    /// Host to device, in a stream.
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: u64) {
        copy_box(Copy::line((DEVICE, to), (HOST, from as u64), bytes), stream)
    }

    /// Device to host, in a stream.
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: u64) {
        copy_box(Copy::line((HOST, to as u64), (DEVICE, from), bytes), stream)
    }

    /// Device to device, in a stream.
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) {
        copy_box(Copy::line((DEVICE, to), (DEVICE, from), bytes), stream)
    }

    /// Any to any, in a stream.
    fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: u64) {
        copy_box(Copy::line((UNIFIED, to), (UNIFIED, from), bytes), stream)
    }

    /// Between devices, in a stream.
    fn cuMemcpyPeerAsync(to: u64, to_context: u64, from: u64, from_context: u64, bytes: usize, stream: u64) {
        driver().device_of(to_context)?;
        driver().device_of(from_context)?;
        copy_box(Copy::line((DEVICE, to), (DEVICE, from), bytes), stream)
    }

    /// A rectangle.
    fn cuMemcpy2D_v2(copy: *const FlatCopy) {
        copy_box_now(get(copy)?.into())
    }

    /// A rectangle; pitches may be any.
    fn cuMemcpy2DUnaligned_v2(copy: *const FlatCopy) {
        copy_box_now(get(copy)?.into())
    }

    /// A rectangle, in a stream.
    fn cuMemcpy2DAsync_v2(copy: *const FlatCopy, stream: u64) {
        copy_box(get(copy)?.into(), stream)
    }

    /// A box.
    fn cuMemcpy3D_v2(copy: *const Copy) {
        copy_box_now(get(copy)?)
    }

    /// A box, in a stream.
    fn cuMemcpy3DAsync_v2(copy: *const Copy, stream: u64) {
        copy_box(get(copy)?, stream)
    }

    /// Sets bytes.
    fn cuMemsetD8_v2(address: u64, value: u8, count: usize) {
        set(address, c_uint::from(value), 1, count, 0)
    }

    /// Sets 16-bit words.
    fn cuMemsetD16_v2(address: u64, value: u16, count: usize) {
        set(address, c_uint::from(value), 2, count, 0)
    }

    /// Sets 32-bit words.
    fn cuMemsetD32_v2(address: u64, value: c_uint, count: usize) {
        set(address, value, 4, count, 0)
    }

    /// Sets bytes, in a stream.
    fn cuMemsetD8Async(address: u64, value: u8, count: usize, stream: u64) {
        set(address, c_uint::from(value), 1, count, stream)
    }

    /// Sets 16-bit words, in a stream.
    fn cuMemsetD16Async(address: u64, value: u16, count: usize, stream: u64) {
        set(address, c_uint::from(value), 2, count, stream)
    }

    /// Sets 32-bit words, in a stream.
    fn cuMemsetD32Async(address: u64, value: c_uint, count: usize, stream: u64) {
        set(address, value, 4, count, stream)
    }

    /// Sets rows of bytes.
    fn cuMemsetD2D8_v2(address: u64, pitch: usize, value: u8, width: usize, height: usize) {
        set_rows(address, pitch, c_uint::from(value), 1, [width, height], 0)
    }

    /// Sets rows of 16-bit words.
    fn cuMemsetD2D16_v2(address: u64, pitch: usize, value: u16, width: usize, height: usize) {
        set_rows(address, pitch, c_uint::from(value), 2, [width, height], 0)
    }

    /// Sets rows of 32-bit words.
    fn cuMemsetD2D32_v2(address: u64, pitch: usize, value: c_uint, width: usize, height: usize) {
        set_rows(address, pitch, value, 4, [width, height], 0)
    }

    /// Sets rows of bytes, in a stream.
    fn cuMemsetD2D8Async(address: u64, pitch: usize, value: u8, width: usize, height: usize, stream: u64) {
        set_rows(address, pitch, c_uint::from(value), 1, [width, height], stream)
    }

    /// Sets rows of 16-bit words, in a stream.
    fn cuMemsetD2D16Async(address: u64, pitch: usize, value: u16, width: usize, height: usize, stream: u64) {
        set_rows(address, pitch, c_uint::from(value), 2, [width, height], stream)
    }

    /// Sets rows of 32-bit words, in a stream.
    fn cuMemsetD2D32Async(address: u64, pitch: usize, value: c_uint, width: usize, height: usize, stream: u64) {
        set_rows(address, pitch, value, 4, [width, height], stream)
    }
}
