//! Block-scaled storage: narrow elements in blocks that share a scale.
//!
//! A tensor of such a storage is one value of a graph. In memory, and in a checkpoint, it is two tensors: its elements, and
//! one scale for each block ([`BlockFormat::parts`]).

use crate::minifloat::{self, FP8_E4M3};
use crate::name::Name;
use crate::storage::Storage;
use crate::types::{Dim, Shape, TensorType};

/// What a block-scaled storage is made of. Every such storage is one row of [`Storage::blocks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockFormat {
    /// The storage of an element.
    pub element: Storage,
    /// Rows of a block: places along the last dimension but one.
    pub rows: usize,
    /// Columns of a block: places along the last dimension.
    pub columns: usize,
    /// The storage of a scale. `u8` stands for E8M0: the byte `b` is the scale 2^(b - 127), and 255 is no number.
    pub scale: Storage,
    /// What the name of the tensor of elements adds to the parameter's name.
    pub elements_suffix: &'static str,
    /// What the name of the tensor of scales adds to the parameter's name.
    pub scales_suffix: &'static str,
}

/// What checkpoints of gpt-oss hold.
pub(crate) const MXFP4: BlockFormat = BlockFormat {
    element: Storage::Fp4E2m1,
    rows: 1,
    columns: 32,
    scale: Storage::U8,
    elements_suffix: "_blocks",
    scales_suffix: "_scales",
};

/// What NVIDIA's Model Optimizer writes, less its scale of the whole tensor.
pub(crate) const NVFP4: BlockFormat = BlockFormat {
    element: Storage::Fp4E2m1,
    rows: 1,
    columns: 16,
    scale: Storage::Fp8E4m3,
    elements_suffix: "",
    scales_suffix: "_scale",
};

/// What checkpoints of DeepSeek V3 hold.
pub(crate) const FP8_BLOCK128: BlockFormat = BlockFormat {
    element: Storage::Fp8E4m3,
    rows: 128,
    columns: 128,
    scale: Storage::F32,
    elements_suffix: "",
    scales_suffix: "_scale_inv",
};

impl BlockFormat {
    /// The types of the two tensors that hold a tensor of this shape: elements and scales. `None` if it has no last
    /// dimension, or one that is no number.
    ///
    /// Elements of less than a byte lie as `[…, blocks of a row, bytes of a block]` of u8, the element of the lower index in
    /// the low half; rows are filled up to whole blocks. Wider ones have the shape of the tensor itself.
    pub fn parts(&self, shape: &Shape) -> Option<[TensorType; 2]> {
        let (last, leading) = shape.split_last()?;
        let blocks = last.as_static()?.div_ceil(self.columns as u64);
        let mut elements = leading.to_vec();
        let mut scales = leading.to_vec();
        if self.rows > 1
            && let Some(rows) = scales.last_mut()
        {
            *rows = Dim::Static(rows.as_static()?.div_ceil(self.rows as u64));
        }
        scales.push(Dim::Static(blocks));
        let stored = if self.element.bits() < 8 {
            elements.extend([Dim::Static(blocks), Dim::Static(self.element.bytes(self.columns as u64))]);
            Storage::U8
        } else {
            elements.push(last.clone());
            self.element
        };
        Some([TensorType::new(elements, stored), TensorType::new(scales, self.scale)])
    }

    /// The names of the two tensors that a parameter is bound to: elements and scales.
    pub fn names(&self, parameter: &str) -> [Name; 2] {
        [self.elements_suffix, self.scales_suffix].map(|suffix| Name::from(format!("{parameter}{suffix}")))
    }

    /// The scale of a block whose largest magnitude is `largest`.
    ///
    /// E8M0 follows section 6.3 of the OCP MX specification: the largest power of two not above the largest magnitude,
    /// divided by that of the largest element. Other scales map the largest magnitude to the largest element, and are
    /// rounded to their storage.
    pub fn scale_of(&self, largest: f64) -> f64 {
        if largest == 0.0 || !largest.is_finite() {
            return 1.0;
        }
        let exponent = |x: f64| ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023;
        let maximum = self.element.minifloat().map_or(1.0, |format| format.maximum());
        match self.scale {
            Storage::U8 => minifloat::power_of_two((exponent(largest) - exponent(maximum)).clamp(-127, 127)),
            Storage::Fp8E4m3 => FP8_E4M3.round(largest / maximum).max(FP8_E4M3.decode(1)),
            _ => f64::from(((largest / maximum) as f32).max(f32::MIN_POSITIVE)),
        }
    }

    /// The number that a stored scale stands for.
    pub fn decode_scale(&self, stored: f64) -> f64 {
        match self.scale {
            Storage::U8 if stored >= 255.0 => f64::NAN,
            Storage::U8 => minifloat::power_of_two(stored as i32 - 127),
            _ => stored,
        }
    }

    /// A scale as it is stored: the inverse of [`decode_scale`](Self::decode_scale).
    pub fn encode_scale(&self, scale: f64) -> f64 {
        match self.scale {
            Storage::U8 if scale.is_nan() => 255.0,
            Storage::U8 => (((scale.to_bits() >> 52) & 0x7ff) as i32 - 1023 + 127).clamp(0, 254) as f64,
            _ => scale,
        }
    }

    /// The blocks of a matrix of `rows × columns`, in the order of their scales: the places of each one's elements, as a
    /// range of rows and one of columns.
    pub(crate) fn tiles(
        self,
        rows: usize,
        columns: usize,
    ) -> impl Iterator<Item = (std::ops::Range<usize>, std::ops::Range<usize>)> {
        let cut = |extent: usize, block: usize| {
            (0..extent).step_by(block).map(move |start| start..(start + block).min(extent))
        };
        cut(rows, self.rows).flat_map(move |tall| cut(columns, self.columns).map(move |wide| (tall.clone(), wide)))
    }
}

/// Rows and columns of the matrices that a shape holds; a vector is one row.
pub(crate) fn matrix_of(shape: &[usize]) -> (usize, usize) {
    match shape {
        [] => (1, 1),
        [columns] => (1, *columns),
        [.., rows, columns] => (*rows, *columns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape;

    #[test]
    fn parts_are_what_checkpoints_hold() {
        let parts = |storage: Storage, shape: Shape| {
            storage.blocks().and_then(|format| format.parts(&shape)).map(|parts| parts.map(|part| part.to_string()))
        };
        // gpt-oss-20b's gate_up_proj.
        let found = parts(Storage::Mxfp4, shape![32, 5760, 2880]).unwrap();
        assert_eq!(found, ["tensor<32x5760x90x16xu8>", "tensor<32x5760x90xu8>"]);
        assert_eq!(parts(Storage::Nvfp4, shape![8, 40]).unwrap(), ["tensor<8x3x8xu8>", "tensor<8x3xfp8_e4m3>"]);
        let found = parts(Storage::Fp8Block128, shape![576, 7168]).unwrap();
        assert_eq!(found, ["tensor<576x7168xfp8_e4m3>", "tensor<5x56xf32>"]);
        assert_eq!(parts(Storage::Mxfp4, shape![4, "T"]), None);
        assert_eq!(parts(Storage::Bf16, shape![4, 4]), None);
    }

    #[test]
    fn scales_of_powers_of_two_survive_a_round_trip() {
        for byte in 0..=254 {
            let scale = MXFP4.decode_scale(f64::from(byte));
            assert_eq!(MXFP4.encode_scale(scale), f64::from(byte));
        }
        assert!(MXFP4.decode_scale(255.0).is_nan());
        assert_eq!(MXFP4.encode_scale(f64::NAN), 255.0);
    }
}
