//! Scalar registers and how they compare.

use crate::tile::Element;

/// Type of a scalar register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scalar {
    I1,
    I8,
    I16,
    I32,
    I64,
    F16,
    BF16,
    F32,
    F64,
}

impl Scalar {
    /// The register that holds one element of a tile. 8-bit floats are carried as their bits.
    pub fn of(element: Element) -> Self {
        match element {
            Element::F64 => Self::F64,
            Element::F32 => Self::F32,
            Element::F16 => Self::F16,
            Element::BF16 => Self::BF16,
            Element::I64 => Self::I64,
            Element::I32 | Element::U32 => Self::I32,
            Element::I16 => Self::I16,
            Element::Fp8E4M3 | Element::Fp8E5M2 | Element::I8 | Element::U8 => Self::I8,
            Element::Bool => Self::I1,
        }
    }

    pub fn bits(self) -> u32 {
        match self {
            Self::I1 => 1,
            Self::I8 => 8,
            Self::I16 | Self::F16 | Self::BF16 => 16,
            Self::I32 | Self::F32 => 32,
            Self::I64 | Self::F64 => 64,
        }
    }

    pub fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::BF16 | Self::F32 | Self::F64)
    }
}

/// Numbers of MLIR's `llvm` integer comparison predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IntegerPredicate {
    Equal = 0,
    NotEqual = 1,
    SignedLess = 2,
    SignedLessEqual = 3,
    SignedGreater = 4,
    SignedGreaterEqual = 5,
    UnsignedLess = 6,
    UnsignedLessEqual = 7,
    UnsignedGreater = 8,
    UnsignedGreaterEqual = 9,
}

/// Numbers of MLIR's `llvm` float comparison predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FloatPredicate {
    OrderedEqual = 1,
    OrderedGreater = 2,
    OrderedGreaterEqual = 3,
    OrderedLess = 4,
    OrderedLessEqual = 5,
    UnorderedNotEqual = 13,
    Unordered = 14,
}
