//! Tensor maps.

use std::ffi::{c_int, c_uint};

use ptx_emulator::asynchronous::im2col::{Pixels, Unrolling};
use ptx_emulator::asynchronous::tensor_map::{BYTES, MapElement, Swizzle, TensorMap};

use crate::error::{CUresult, put};

/// A tensor as both calls describe it.
struct Tensor {
    kind: c_int,
    rank: c_uint,
    address: u64,
    dimensions: *const u64,
    strides: *const u64,
    element_strides: *const u32,
    interleave: c_int,
    swizzle: c_int,
    fill: c_int,
}

impl Tensor {
    /// A map without a box, and whether its elements are tf32.
    ///
    /// # Safety
    /// The pointers are null or point to as many elements as there are dimensions, to one fewer for the strides.
    unsafe fn map(&self, call: &str) -> Result<(TensorMap, bool), CUresult> {
        if !(1..=5).contains(&self.rank) || self.dimensions.is_null() || self.element_strides.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        let rank = self.rank as usize;
        let (element, tf32) = MapElement::of_driver(self.kind as u32).ok_or(CUresult::INVALID_VALUE)?;
        let swizzle = match self.swizzle {
            0..=3 => Swizzle { mode: self.swizzle as u32, atomicity: 0 },
            4..=6 => Swizzle { mode: 3, atomicity: self.swizzle as u32 - 3 },
            _ => return Err(CUresult::INVALID_VALUE),
        };
        if self.interleave != 0 {
            return Err(crate::error::unsupported(&format!("{call} with an interleaved layout")));
        }
        if rank > 1 && self.strides.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        let mut map = TensorMap {
            address: self.address,
            rank,
            element,
            swizzle,
            fill_nan: self.fill != 0,
            dimensions: [1; 5],
            strides: [0; 4],
            box_extents: [1; 5],
            element_strides: [1; 5],
            pixels: None,
        };
        for at in 0..rank {
            // SAFETY: the caller says that they hold as many.
            unsafe {
                map.dimensions[at] = *self.dimensions.add(at);
                map.element_strides[at] = *self.element_strides.add(at);
                if at + 1 < rank {
                    map.strides[at] = *self.strides.add(at);
                }
            }
        }
        Ok((map, tf32))
    }
}

fn encoded(map: &TensorMap, tf32: bool, call: &str) -> Result<[u8; BYTES], CUresult> {
    map.validate().map_err(|error| {
        eprintln!("ptx-emulator: {call}: {error}");
        CUresult::INVALID_VALUE
    })?;
    Ok(map.encode(tf32, 0))
}

calls! {
    /// Encodes the map of a tensor that is copied by tiles.
    fn cuTensorMapEncodeTiled(
        map: *mut [u8; BYTES], kind: c_int, rank: c_uint, address: u64, dimensions: *const u64, strides: *const u64,
        box_extents: *const u32, element_strides: *const u32, interleave: c_int, swizzle: c_int, _promotion: c_int, fill: c_int
    ) {
        let tensor = Tensor { kind, rank, address, dimensions, strides, element_strides, interleave, swizzle, fill };
        let (mut tiled, tf32) = tensor.map("cuTensorMapEncodeTiled")?;
        if box_extents.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        for at in 0..rank as usize {
            tiled.box_extents[at] = *box_extents.add(at);
        }
        put(map, encoded(&tiled, tf32, "cuTensorMapEncodeTiled")?)
    }

    /// Encodes the map of a tensor of which pixels are copied, for convolutions.
    fn cuTensorMapEncodeIm2col(
        map: *mut [u8; BYTES], kind: c_int, rank: c_uint, address: u64, dimensions: *const u64, strides: *const u64,
        lower: *const c_int, upper: *const c_int, channels: c_uint, pixels: c_uint, element_strides: *const u32,
        interleave: c_int, swizzle: c_int, _promotion: c_int, fill: c_int
    ) {
        let tensor = Tensor { kind, rank, address, dimensions, strides, element_strides, interleave, swizzle, fill };
        let (mut unrolled, tf32) = tensor.map("cuTensorMapEncodeIm2col")?;
        if rank < 3 || lower.is_null() || upper.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        let mut corners = Pixels { lower: [0; 3], upper: [0; 3], count: pixels, unrolling: Unrolling::Filter };
        for at in 0..rank as usize - 2 {
            corners.lower[at] = *lower.add(at);
            corners.upper[at] = *upper.add(at);
        }
        unrolled.box_extents[0] = channels;
        unrolled.pixels = Some(corners);
        put(map, encoded(&unrolled, tf32, "cuTensorMapEncodeIm2col")?)
    }

    /// Encodes the map of a tensor of which pixels along its width are copied.
    fn cuTensorMapEncodeIm2colWide(
        map: *mut [u8; BYTES], kind: c_int, rank: c_uint, address: u64, dimensions: *const u64, strides: *const u64,
        lower: c_int, upper: c_int, channels: c_uint, pixels: c_uint, element_strides: *const u32,
        interleave: c_int, mode: c_int, swizzle: c_int, _promotion: c_int, fill: c_int
    ) {
        let tensor = Tensor { kind, rank, address, dimensions, strides, element_strides, interleave, swizzle, fill };
        let (mut unrolled, tf32) = tensor.map("cuTensorMapEncodeIm2colWide")?;
        // The number of pixels is 128 in the second mode, whatever the caller says.
        let (unrolling, count) = match mode {
            0 => (Unrolling::Width, pixels),
            1 => (Unrolling::Width128, 128),
            _ => return Err(CUresult::INVALID_VALUE),
        };
        if rank < 3 {
            return Err(CUresult::INVALID_VALUE);
        }
        unrolled.box_extents[0] = channels;
        unrolled.pixels = Some(Pixels { lower: [lower, 0, 0], upper: [upper, 0, 0], count, unrolling });
        put(map, encoded(&unrolled, tf32, "cuTensorMapEncodeIm2colWide")?)
    }

    /// Sets the address of a map's tensor.
    fn cuTensorMapReplaceAddress(map: *mut [u8; BYTES], address: u64) {
        let bytes = map.as_mut().ok_or(CUresult::INVALID_VALUE)?;
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        Ok(())
    }
}
