//! Element types of buffers, and how many bytes they take.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The element type of a buffer. The names are those of the graph IR's storage types.
///
/// Several elements may share bytes: `fp4_e2m1` packs two to a byte, and the block formats carry their scales inside the
/// block. Sizes are therefore given for a *group* of elements: see [`ElementType::group`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ElementType {
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// 8-bit float, 4 exponent and 3 mantissa bits, no infinities (OCP OFP8 E4M3).
    Fp8E4m3,
    /// 8-bit float, 5 exponent and 2 mantissa bits (OCP OFP8 E5M2).
    Fp8E5m2,
    /// 6-bit float, 2 exponent and 3 mantissa bits, four elements in three bytes.
    Fp6E2m3,
    /// 6-bit float, 3 exponent and 2 mantissa bits, four elements in three bytes.
    Fp6E3m2,
    /// 4-bit float, 2 exponent bits and 1 mantissa bit, two elements in a byte.
    Fp4E2m1,
    /// OCP MXFP4: blocks of 32 `fp4_e2m1` elements and one E8M0 scale.
    Mxfp4,
    /// NVFP4: blocks of 16 `fp4_e2m1` elements and one `fp8_e4m3` scale.
    Nvfp4,
    /// Signed 8-bit integer.
    I8,
    /// Signed 16-bit integer.
    I16,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 8-bit integer.
    U8,
    /// Unsigned 32-bit integer.
    U32,
    /// One byte, 0 or 1.
    Bool,
}

/// Every element type with its name, elements in a group and bytes of a group: the one table the rest derives from.
const TABLE: [(ElementType, &str, u64, u64); 18] = [
    (ElementType::F64, "f64", 1, 8),
    (ElementType::F32, "f32", 1, 4),
    (ElementType::F16, "f16", 1, 2),
    (ElementType::Bf16, "bf16", 1, 2),
    (ElementType::Fp8E4m3, "fp8_e4m3", 1, 1),
    (ElementType::Fp8E5m2, "fp8_e5m2", 1, 1),
    (ElementType::Fp6E2m3, "fp6_e2m3", 4, 3),
    (ElementType::Fp6E3m2, "fp6_e3m2", 4, 3),
    (ElementType::Fp4E2m1, "fp4_e2m1", 2, 1),
    (ElementType::Mxfp4, "mxfp4", 32, 17),
    (ElementType::Nvfp4, "nvfp4", 16, 9),
    (ElementType::I8, "i8", 1, 1),
    (ElementType::I16, "i16", 1, 2),
    (ElementType::I32, "i32", 1, 4),
    (ElementType::I64, "i64", 1, 8),
    (ElementType::U8, "u8", 1, 1),
    (ElementType::U32, "u32", 1, 4),
    (ElementType::Bool, "bool", 1, 1),
];

impl ElementType {
    /// Every element type.
    pub fn all() -> impl Iterator<Item = ElementType> {
        TABLE.iter().map(|row| row.0)
    }

    fn row(self) -> &'static (ElementType, &'static str, u64, u64) {
        // The table lists the variants in declaration order; a test holds it to that.
        &TABLE[self as usize]
    }

    /// The name in the graph IR, for example `fp8_e4m3`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The smallest number of elements that fills whole bytes, and the bytes they fill: `(1, 4)` for `f32`, `(2, 1)`
    /// for `fp4_e2m1`, `(32, 17)` for `mxfp4`.
    pub fn group(self) -> (u64, u64) {
        (self.row().2, self.row().3)
    }

    /// Bytes of `elements` elements, the last group rounded up to whole bytes; `None` where that overflows.
    pub fn bytes(self, elements: u64) -> Option<u64> {
        let (count, bytes) = self.group();
        elements.div_ceil(count).checked_mul(bytes)
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A name that is no element type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an element type")]
pub struct UnknownElementType(pub String);

impl FromStr for ElementType {
    type Err = UnknownElementType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let row = TABLE.iter().find(|row| row.1 == text);
        row.map(|row| row.0).ok_or_else(|| UnknownElementType(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_declaration_order_and_agrees_with_serde() {
        for (index, element) in ElementType::all().enumerate() {
            assert_eq!(element as usize, index);
            assert_eq!(element.name().parse(), Ok(element));
            assert_eq!(serde_json::to_value(element).unwrap(), element.name());
        }
    }

    #[test]
    fn packed_elements_round_up_to_whole_groups() {
        assert_eq!(ElementType::F32.bytes(3), Some(12));
        assert_eq!(ElementType::Fp4E2m1.bytes(3), Some(2));
        assert_eq!(ElementType::Fp6E2m3.bytes(5), Some(6));
        assert_eq!(ElementType::Mxfp4.bytes(64), Some(34));
        assert_eq!(ElementType::F64.bytes(u64::MAX), None);
    }
}
