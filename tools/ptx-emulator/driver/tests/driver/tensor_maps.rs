//! Tensor maps for im2col, as programs have the driver encode them, and as copies read them.

use std::ffi::{c_int, c_void};
use std::ptr::null;

use libloading::os::unix::Library;
use ptx_emulator::asynchronous::im2col::{Pixels, Unrolling};
use ptx_emulator::asynchronous::tensor_map::{BYTES, TensorMap};

use crate::library;

type Encode = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    u32,
    u64,
    *const u64,
    *const u64,
    *const c_int,
    *const c_int,
    u32,
    u32,
    *const u32,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

type EncodeWide = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    u32,
    u64,
    *const u64,
    *const u64,
    c_int,
    c_int,
    u32,
    u32,
    *const u32,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

/// A tensor map as CUDA aligns it.
#[repr(align(64))]
struct Bytes([u8; BYTES]);

const BFLOAT16: c_int = 9;
const SWIZZLE_128B: c_int = 3;
const INVALID_VALUE: c_int = 1;
const ADDRESS: u64 = 0x7000_0000_0000;
const DIMENSIONS: [u64; 4] = [64, 9, 14, 64];
const STRIDES: [u64; 3] = [128, 128 * 9, 128 * 9 * 14];

fn tensor(pixels: Pixels) -> impl Fn(&TensorMap) {
    move |map| {
        assert_eq!((map.address, map.rank, map.element.0, map.swizzle.mode), (ADDRESS, 4, 10, 3));
        assert_eq!((&map.dimensions[..4], &map.strides[..3]), (&DIMENSIONS[..], &STRIDES[..]));
        assert_eq!((map.box_extents[0], &map.element_strides[..4]), (32, &[1, 2, 1, 1][..]));
        assert_eq!(map.pixels, Some(pixels));
    }
}

#[test]
fn maps_for_im2col_are_what_copies_read() {
    // SAFETY: the library's initializers do nothing, and the functions have these types in `cuda.h`.
    let (_library, encode, wide) = unsafe {
        let library = Library::new(library()).unwrap();
        let encode: Encode = *library.get(b"cuTensorMapEncodeIm2col\0").unwrap();
        let wide: EncodeWide = *library.get(b"cuTensorMapEncodeIm2colWide\0").unwrap();
        (library, encode, wide)
    };
    let steps = [1u32, 2, 1, 1];
    let filter = |rank: u32, lower: [c_int; 2], upper: [c_int; 2], pixels: u32, lower_given: bool| {
        let mut map = Bytes([0; BYTES]);
        let corner = if lower_given { lower.as_ptr() } else { null() };
        // SAFETY: the arrays hold what a tensor of four dimensions, or fewer, wants.
        let result = unsafe {
            encode(
                map.0.as_mut_ptr().cast(),
                BFLOAT16,
                rank,
                ADDRESS,
                DIMENSIONS.as_ptr(),
                STRIDES.as_ptr(),
                corner,
                upper.as_ptr(),
                32,
                pixels,
                steps.as_ptr(),
                0,
                SWIZZLE_128B,
                0,
                0,
            )
        };
        (result, TensorMap::decode(&map.0))
    };
    let (result, map) = filter(4, [-1, -2], [-1, 0], 64, true);
    assert_eq!(result, 0);
    tensor(Pixels { lower: [-1, -2, 0], upper: [-1, 0, 0], count: 64, unrolling: Unrolling::Filter })(&map);
    assert_eq!(filter(4, [-1, -1], [-1, -1], 0, true).0, INVALID_VALUE, "no pixels");
    assert_eq!(filter(4, [-1, -1], [-1, -1], 1025, true).0, INVALID_VALUE, "too many pixels");
    assert_eq!(filter(4, [-129, -1], [-1, -1], 64, true).0, INVALID_VALUE, "a corner of more than 8 bits");
    assert_eq!(filter(4, [0, 0], [-10, 0], 64, true).0, INVALID_VALUE, "no place for the filter");
    assert_eq!(filter(2, [-1, -1], [-1, -1], 64, true).0, INVALID_VALUE, "two dimensions");
    assert_eq!(filter(4, [-1, -1], [-1, -1], 64, false).0, INVALID_VALUE, "no corner");

    let width = |mode: c_int, lower: c_int, pixels: u32| {
        let mut map = Bytes([0; BYTES]);
        // SAFETY: as above.
        let result = unsafe {
            wide(
                map.0.as_mut_ptr().cast(),
                BFLOAT16,
                4,
                ADDRESS,
                DIMENSIONS.as_ptr(),
                STRIDES.as_ptr(),
                lower,
                0,
                32,
                pixels,
                steps.as_ptr(),
                0,
                mode,
                SWIZZLE_128B,
                0,
                0,
            )
        };
        (result, TensorMap::decode(&map.0))
    };
    for (mode, unrolling, count) in [(0, Unrolling::Width, 64), (1, Unrolling::Width128, 128)] {
        let (result, map) = width(mode, -300, 64);
        assert_eq!(result, 0);
        tensor(Pixels { lower: [-300, 0, 0], upper: [0; 3], count, unrolling })(&map);
    }
    assert_eq!(width(2, 0, 64).0, INVALID_VALUE, "no such mode");
    assert_eq!(width(0, 9, 64).0, INVALID_VALUE, "an empty box");
    assert_eq!(width(0, 0, 0).0, INVALID_VALUE, "no pixels");
}
