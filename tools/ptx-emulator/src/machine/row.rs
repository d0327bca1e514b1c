//! A register as 32 lanes.

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

/// Lanes of a warp.
pub const LANES: usize = 32;

/// 32 lanes of 32 bits. A 64-bit register takes two rows, which together hold 32 lanes of 64 bits; a narrower one takes one, of
/// which readers take the low bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(128))]
pub struct Row(pub [u32; LANES]);

impl Row {
    /// All lanes zero.
    pub const ZERO: Row = Row([0; LANES]);
}

// SAFETY: a row is an array of plain integers, and 128 bytes long, so that its alignment adds no padding.
unsafe impl Zeroable for Row {}
// SAFETY: as above.
unsafe impl Pod for Row {}

/// Where an operand is: a row of the warp's registers, or of the kernel's constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(u32);

impl Slot {
    const CONSTANT: u32 = 1 << 31;

    /// A row of the warp's registers.
    pub const fn register(row: u32) -> Slot {
        Slot(row & !Slot::CONSTANT)
    }

    /// A row of the kernel's constants.
    pub const fn constant(row: u32) -> Slot {
        Slot(row | Slot::CONSTANT)
    }

    /// The row, and whether it is a constant's.
    #[inline(always)]
    pub const fn place(self) -> (usize, bool) {
        ((self.0 & !Slot::CONSTANT) as usize, self.0 & Slot::CONSTANT != 0)
    }
}

/// How an immediate operand becomes a lane's bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An integer.
    Integer,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    BF16,
    /// IEEE binary32.
    F32,
    /// IEEE binary64.
    F64,
}

/// A type that a lane of a register can be read as.
pub trait Lane: Copy + Default {
    /// How many bytes of the lane it uses.
    const BYTES: u32;
    /// How immediates are read.
    const KIND: Kind;
    /// All lanes of the register that starts at a row.
    fn read(rows: &[Row], at: usize) -> [Self; LANES];
    /// Sets the lanes of a mask.
    fn write(rows: &mut [Row], at: usize, mask: u32, values: &[Self; LANES]);
}

#[inline(always)]
fn blend<T: Copy>(into: &mut [T; LANES], mask: u32, values: &[T; LANES]) {
    if mask == u32::MAX {
        *into = *values;
    } else {
        for lane in 0..LANES {
            if mask >> lane & 1 != 0 {
                into[lane] = values[lane];
            }
        }
    }
}

#[inline(always)]
fn wide(rows: &[Row], at: usize) -> &[u64; LANES] {
    let pair: &[Row; 2] = rows[at..at + 2].try_into().unwrap_or(&[Row::ZERO; 2]);
    bytemuck::cast_ref(pair)
}

#[inline(always)]
fn wide_mut(rows: &mut [Row], at: usize) -> &mut [u64; LANES] {
    let pair = &mut rows[at..at + 2];
    bytemuck::from_bytes_mut(bytemuck::cast_slice_mut(pair))
}

macro_rules! lane {
    ($($type:ty, $bytes:literal, $kind:ident, |$from:ident| $read:expr, |$to:ident| $write:expr;)*) => {$(
        impl Lane for $type {
            const BYTES: u32 = $bytes;
            const KIND: Kind = Kind::$kind;

            #[inline(always)]
            fn read(rows: &[Row], at: usize) -> [$type; LANES] {
                rows[at].0.map(|$from: u32| $read)
            }

            #[inline(always)]
            fn write(rows: &mut [Row], at: usize, mask: u32, values: &[$type; LANES]) {
                blend(&mut rows[at].0, mask, &values.map(|$to: $type| $write));
            }
        }
    )*};
}

// A narrow value is extended into its row as its signedness says, which is what a wider destination register gets to see.
lane! {
    u8, 1, Integer, |bits| bits as u8, |value| u32::from(value);
    i8, 1, Integer, |bits| bits as i8, |value| value as u32;
    u16, 2, Integer, |bits| bits as u16, |value| u32::from(value);
    i16, 2, Integer, |bits| bits as i16, |value| value as u32;
    f16, 2, F16, |bits| f16::from_bits(bits as u16), |value| u32::from(value.to_bits());
    bf16, 2, BF16, |bits| bf16::from_bits(bits as u16), |value| u32::from(value.to_bits());
    u32, 4, Integer, |bits| bits, |value| value;
    i32, 4, Integer, |bits| bits as i32, |value| value as u32;
    f32, 4, F32, |bits| f32::from_bits(bits), |value| value.to_bits();
}

macro_rules! wide_lane {
    ($($type:ty, $kind:ident, |$from:ident| $read:expr, |$to:ident| $write:expr;)*) => {$(
        impl Lane for $type {
            const BYTES: u32 = 8;
            const KIND: Kind = Kind::$kind;

            #[inline(always)]
            fn read(rows: &[Row], at: usize) -> [$type; LANES] {
                wide(rows, at).map(|$from: u64| $read)
            }

            #[inline(always)]
            fn write(rows: &mut [Row], at: usize, mask: u32, values: &[$type; LANES]) {
                blend(wide_mut(rows, at), mask, &values.map(|$to: $type| $write));
            }
        }
    )*};
}

wide_lane! {
    u64, Integer, |bits| bits, |value| value;
    i64, Integer, |bits| bits as i64, |value| value as u64;
    f64, F64, |bits| f64::from_bits(bits), |value| value.to_bits();
}

/// A pair of f32 in a 64-bit register, the first in the low half.
pub type Pair = [f32; 2];

impl Lane for Pair {
    const BYTES: u32 = 8;
    const KIND: Kind = Kind::Integer;

    #[inline(always)]
    fn read(rows: &[Row], at: usize) -> [Pair; LANES] {
        wide(rows, at).map(|bits| [f32::from_bits(bits as u32), f32::from_bits((bits >> 32) as u32)])
    }

    #[inline(always)]
    fn write(rows: &mut [Row], at: usize, mask: u32, values: &[Pair; LANES]) {
        let bits = values.map(|[low, high]| u64::from(low.to_bits()) | u64::from(high.to_bits()) << 32);
        blend(wide_mut(rows, at), mask, &bits);
    }
}

/// A 128-bit register: two 64-bit ones.
impl Lane for u128 {
    const BYTES: u32 = 16;
    const KIND: Kind = Kind::Integer;

    #[inline(always)]
    fn read(rows: &[Row], at: usize) -> [u128; LANES] {
        let (low, high) = (wide(rows, at), wide(rows, at + 2));
        std::array::from_fn(|lane| u128::from(low[lane]) | u128::from(high[lane]) << 64)
    }

    #[inline(always)]
    fn write(rows: &mut [Row], at: usize, mask: u32, values: &[u128; LANES]) {
        blend(wide_mut(rows, at), mask, &values.map(|value| value as u64));
        blend(wide_mut(rows, at + 2), mask, &values.map(|value| (value >> 64) as u64));
    }
}
