//! Tensor maps.

use std::ffi::{c_int, c_uint};

use ptx_emulator::asynchronous::tensor_map::{BYTES, MapElement, Swizzle, TensorMap};

use crate::error::{CUresult, put};

calls! {
    /// Encodes the map of a tensor that is copied by tiles.
    fn cuTensorMapEncodeTiled(
        map: *mut [u8; BYTES], kind: c_int, rank: c_uint, address: u64, dimensions: *const u64, strides: *const u64,
        box_extents: *const u32, element_strides: *const u32, interleave: c_int, swizzle: c_int, _promotion: c_int, fill: c_int
    ) {
        if !(1..=5).contains(&rank) || dimensions.is_null() || box_extents.is_null() || element_strides.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        let rank = rank as usize;
        let (element, tf32) = MapElement::of_driver(kind as u32).ok_or(CUresult::INVALID_VALUE)?;
        let swizzle = match swizzle {
            0..=3 => Swizzle { mode: swizzle as u32, atomicity: 0 },
            4..=6 => Swizzle { mode: 3, atomicity: swizzle as u32 - 3 },
            _ => return Err(CUresult::INVALID_VALUE),
        };
        if interleave != 0 {
            return Err(crate::error::unsupported("cuTensorMapEncodeTiled with an interleaved layout"));
        }
        let mut encoded = TensorMap {
            address,
            rank,
            element,
            swizzle,
            fill_nan: fill != 0,
            dimensions: [1; 5],
            strides: [0; 4],
            box_extents: [1; 5],
            element_strides: [1; 5],
        };
        for at in 0..rank {
            encoded.dimensions[at] = *dimensions.add(at);
            encoded.box_extents[at] = *box_extents.add(at);
            encoded.element_strides[at] = *element_strides.add(at);
            if at + 1 < rank {
                if strides.is_null() {
                    return Err(CUresult::INVALID_VALUE);
                }
                encoded.strides[at] = *strides.add(at);
            }
        }
        encoded.validate().map_err(|error| {
            eprintln!("ptx-emulator: cuTensorMapEncodeTiled: {error}");
            CUresult::INVALID_VALUE
        })?;
        put(map, encoded.encode(tf32, 0))
    }

    /// Sets the address of a map's tensor.
    fn cuTensorMapReplaceAddress(map: *mut [u8; BYTES], address: u64) {
        let bytes = map.as_mut().ok_or(CUresult::INVALID_VALUE)?;
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        Ok(())
    }
}
