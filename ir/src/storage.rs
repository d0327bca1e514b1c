//! How the elements of a tensor are stored, and the exact rounding to each storage.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::blocks::{self, BlockFormat, matrix_of};
use crate::minifloat::{self, Minifloat};

/// The format of one stored element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of binary32.
    #[serde(rename = "bf16")]
    Bf16,
    /// OCP E4M3 without infinities.
    #[serde(rename = "fp8_e4m3")]
    Fp8E4m3,
    /// OCP E5M2.
    #[serde(rename = "fp8_e5m2")]
    Fp8E5m2,
    /// OCP E2M3; one element fills a byte.
    #[serde(rename = "fp6_e2m3")]
    Fp6E2m3,
    /// OCP E3M2; one element fills a byte.
    #[serde(rename = "fp6_e3m2")]
    Fp6E3m2,
    /// OCP E2M1; two elements to a byte, the lower-indexed one in the low half.
    #[serde(rename = "fp4_e2m1")]
    Fp4E2m1,
    /// OCP MXFP4: E2M1 elements in blocks of 32 along the last dimension, each with a power-of-two scale.
    #[serde(rename = "mxfp4")]
    Mxfp4,
    /// NVFP4: E2M1 elements in blocks of 16 along the last dimension, each with an E4M3 scale.
    #[serde(rename = "nvfp4")]
    Nvfp4,
    /// E4M3 elements in blocks of 128 by 128 along the last two dimensions, each with an f32 scale.
    #[serde(rename = "fp8_block128")]
    Fp8Block128,
    /// Two's complement, 8 bits.
    I8,
    /// Two's complement, 16 bits.
    I16,
    /// Two's complement, 32 bits.
    I32,
    /// Two's complement, 64 bits.
    I64,
    /// Unsigned, 8 bits.
    U8,
    /// Unsigned, 32 bits.
    U32,
    /// A truth value; one byte, 0 or 1.
    Bool,
}

/// No storage has this name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown element type `{0}`")]
pub struct UnknownStorage(pub String);

impl Storage {
    /// Every storage, in the order of the documentation.
    pub const ALL: [Storage; 19] = [
        Storage::F64,
        Storage::F32,
        Storage::F16,
        Storage::Bf16,
        Storage::Fp8E4m3,
        Storage::Fp8E5m2,
        Storage::Fp6E2m3,
        Storage::Fp6E3m2,
        Storage::Fp4E2m1,
        Storage::Mxfp4,
        Storage::Nvfp4,
        Storage::Fp8Block128,
        Storage::I8,
        Storage::I16,
        Storage::I32,
        Storage::I64,
        Storage::U8,
        Storage::U32,
        Storage::Bool,
    ];

    /// The name in the text form.
    pub const fn name(self) -> &'static str {
        match self {
            Storage::F64 => "f64",
            Storage::F32 => "f32",
            Storage::F16 => "f16",
            Storage::Bf16 => "bf16",
            Storage::Fp8E4m3 => "fp8_e4m3",
            Storage::Fp8E5m2 => "fp8_e5m2",
            Storage::Fp6E2m3 => "fp6_e2m3",
            Storage::Fp6E3m2 => "fp6_e3m2",
            Storage::Fp4E2m1 => "fp4_e2m1",
            Storage::Mxfp4 => "mxfp4",
            Storage::Nvfp4 => "nvfp4",
            Storage::Fp8Block128 => "fp8_block128",
            Storage::I8 => "i8",
            Storage::I16 => "i16",
            Storage::I32 => "i32",
            Storage::I64 => "i64",
            Storage::U8 => "u8",
            Storage::U32 => "u32",
            Storage::Bool => "bool",
        }
    }

    /// Bits of memory that one element takes, without block scales.
    pub const fn bits(self) -> u32 {
        match self {
            Storage::F64 | Storage::I64 => 64,
            Storage::F32 | Storage::I32 | Storage::U32 => 32,
            Storage::F16 | Storage::Bf16 | Storage::I16 => 16,
            Storage::Fp8E4m3
            | Storage::Fp8E5m2
            | Storage::Fp6E2m3
            | Storage::Fp6E3m2
            | Storage::Fp8Block128
            | Storage::I8
            | Storage::U8
            | Storage::Bool => 8,
            Storage::Fp4E2m1 | Storage::Mxfp4 | Storage::Nvfp4 => 4,
        }
    }

    /// Bytes that `elements` elements take, without block scales.
    pub const fn bytes(self, elements: u64) -> u64 {
        (elements * self.bits() as u64).div_ceil(8)
    }

    /// Whether the elements are floating-point numbers.
    pub const fn is_float(self) -> bool {
        !self.is_integer() && !matches!(self, Storage::Bool)
    }

    /// Whether the elements are integers.
    pub const fn is_integer(self) -> bool {
        matches!(self, Storage::I8 | Storage::I16 | Storage::I32 | Storage::I64 | Storage::U8 | Storage::U32)
    }

    /// What block-scaled storage is made of; `None` for any other.
    pub const fn blocks(self) -> Option<BlockFormat> {
        match self {
            Storage::Mxfp4 => Some(blocks::MXFP4),
            Storage::Nvfp4 => Some(blocks::NVFP4),
            Storage::Fp8Block128 => Some(blocks::FP8_BLOCK128),
            _ => None,
        }
    }

    /// The description of a small float format; `None` for f32, f64, block-scaled and integer storage.
    pub const fn minifloat(self) -> Option<Minifloat> {
        match self {
            Storage::F16 => Some(minifloat::F16),
            Storage::Bf16 => Some(minifloat::BF16),
            Storage::Fp8E4m3 => Some(minifloat::FP8_E4M3),
            Storage::Fp8E5m2 => Some(minifloat::FP8_E5M2),
            Storage::Fp6E2m3 => Some(minifloat::FP6_E2M3),
            Storage::Fp6E3m2 => Some(minifloat::FP6_E3M2),
            Storage::Fp4E2m1 => Some(minifloat::FP4_E2M1),
            _ => None,
        }
    }

    /// The least and the largest integer of an integer or boolean storage.
    pub const fn integer_range(self) -> Option<(i64, i64)> {
        match self {
            Storage::I8 => Some((i8::MIN as i64, i8::MAX as i64)),
            Storage::I16 => Some((i16::MIN as i64, i16::MAX as i64)),
            Storage::I32 => Some((i32::MIN as i64, i32::MAX as i64)),
            Storage::I64 => Some((i64::MIN, i64::MAX)),
            Storage::U8 => Some((0, u8::MAX as i64)),
            Storage::U32 => Some((0, u32::MAX as i64)),
            Storage::Bool => Some((0, 1)),
            _ => None,
        }
    }

    /// Rounds the elements of a tensor of this shape, each to the nearest number of this float storage.
    ///
    /// Blocks of block-scaled storage lie in the matrices of the last two dimensions; one at an edge that is shorter has its
    /// own scale. Integer storage leaves the values as they are.
    pub fn round_slice(self, values: &mut [f64], shape: &[usize]) {
        if self == Storage::F32 {
            values.iter_mut().for_each(|value| *value = f64::from(*value as f32));
        } else if let Some(format) = self.minifloat() {
            values.iter_mut().for_each(|value| *value = format.round(*value));
        } else if let Some(format) = self.blocks() {
            let (rows, columns) = matrix_of(shape);
            for matrix in values.chunks_mut((rows * columns).max(1)) {
                for (tall, wide) in format.tiles(rows, columns) {
                    let block = |row: usize| row * columns + wide.start..row * columns + wide.end;
                    let largest =
                        tall.clone().flat_map(|row| &matrix[block(row)]).fold(0.0, |x: f64, y| x.max(y.abs()));
                    let scale = format.scale_of(largest);
                    for value in tall.flat_map(block) {
                        matrix[value] = format.element.round(matrix[value] / scale) * scale;
                    }
                }
            }
        }
    }

    /// The number of this storage nearest to `value`; block-scaled storage treats it as a block of one.
    pub fn round(self, value: f64) -> f64 {
        let mut values = [value];
        self.round_slice(&mut values, &[1]);
        values[0]
    }

    /// The name as it may be written: `fp16`, `fp32` and `fp64` are synonyms.
    fn from_spelling(text: &str) -> Option<Storage> {
        match text {
            "fp64" => Some(Storage::F64),
            "fp32" => Some(Storage::F32),
            "fp16" => Some(Storage::F16),
            _ => Storage::ALL.into_iter().find(|storage| storage.name() == text),
        }
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Storage {
    type Err = UnknownStorage;
    fn from_str(text: &str) -> Result<Self, UnknownStorage> {
        Storage::from_spelling(text).ok_or_else(|| UnknownStorage(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for storage in Storage::ALL {
            assert_eq!(storage.name().parse(), Ok(storage));
            let json = serde_json::to_string(&storage).unwrap();
            assert_eq!(json, format!("\"{storage}\""));
        }
        assert_eq!("fp32".parse(), Ok(Storage::F32));
        assert!("float".parse::<Storage>().is_err());
    }

    #[test]
    fn mxfp4_blocks_have_power_of_two_scales() {
        // The largest magnitude, 7, lies in [4, 8): the scale is 1 and 7 saturates to 6.
        let mut values = [7.0, 0.3, -1.2, 2.6];
        Storage::Mxfp4.round_slice(&mut values, &[4]);
        assert_eq!(values, [6.0, 0.5, -1.0, 3.0]);
        // Each row starts a block of its own.
        let mut rows = [0.75, 96.0];
        Storage::Mxfp4.round_slice(&mut rows, &[2, 1]);
        assert_eq!(rows, [0.75, 96.0]);
    }

    #[test]
    fn blocks_of_128_rows_end_with_their_matrix() {
        // Two matrices of one row: each is a block of its own.
        let mut values = [448.0, 1.0, 4480.0, 17.0];
        Storage::Fp8Block128.round_slice(&mut values, &[2, 1, 2]);
        assert_eq!(values, [448.0, 1.0, 4480.0, 17.5]);
        // One matrix of two rows: one block.
        let mut values = [448.0, 1.0, 4480.0, 17.0];
        Storage::Fp8Block128.round_slice(&mut values, &[2, 2]);
        assert_eq!(values, [440.0, 1.015625, 4480.0, 17.5]);
    }

    #[test]
    fn nvfp4_scales_the_largest_magnitude_to_six() {
        let mut values = [12.0, 2.0, -1.0];
        Storage::Nvfp4.round_slice(&mut values, &[3]);
        assert_eq!(values, [12.0, 2.0, -1.0]);
    }
}
