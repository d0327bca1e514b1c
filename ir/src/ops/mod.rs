//! The ops, one file for each family.
//!
//! To add an op, declare it with `operation!` in the file of its family and list it in that file's
//! `family!`: parser, printer, [`Builder`](crate::Builder), the reference page and the "did you mean"
//! of errors follow.

mod attention;
mod binary;
mod elementwise;
mod fusion;
mod matmul;
mod mixture;
mod movement;
mod normalization;
mod quantization;
mod reduction;
mod rotary;
mod sampling;
mod source;

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::definition::OpDefinition;

pub use attention::*;
pub use binary::*;
pub use elementwise::*;
pub use fusion::*;
pub use matmul::*;
pub use mixture::*;
pub use movement::*;
pub use normalization::*;
pub use quantization::*;
pub use reduction::*;
pub use rotary::*;
pub use sampling::*;
pub use source::*;

/// Ops that belong together.
#[derive(Debug)]
pub struct Family {
    /// The heading of the reference page.
    pub title: &'static str,
    /// What they have in common, in Markdown.
    pub doc: &'static str,
    /// The ops.
    pub ops: &'static [&'static OpDefinition],
}

/// Declares the family of a file: a title, a text and the op types.
macro_rules! family {
    ($(#[doc = $doc:literal])* $FAMILY:ident = $title:literal [$($Attributes:ident),* $(,)?]) => {
        $(#[doc = $doc])*
        pub static $FAMILY: $crate::ops::Family = $crate::ops::Family {
            title: $title,
            doc: concat!($($doc, "\n"),*),
            ops: &[$(<$Attributes as $crate::operation::OpAttributes>::DEFINITION),*],
        };
    };
}
use family;

/// Every family, in the order of the reference page.
pub static FAMILIES: &[&Family] = &[
    &SOURCE_FAMILY,
    &UNARY_FAMILY,
    &BINARY_FAMILY,
    &MOVEMENT_FAMILY,
    &REDUCTION_FAMILY,
    &NORMALIZATION_FAMILY,
    &MATMUL_FAMILY,
    &QUANTIZATION_FAMILY,
    &MIXTURE_FAMILY,
    &ATTENTION_FAMILY,
    &SAMPLING_FAMILY,
    &FUSION_FAMILY,
];

/// Every op.
pub fn all() -> impl Iterator<Item = &'static OpDefinition> {
    FAMILIES.iter().flat_map(|family| family.ops.iter().copied())
}

/// The op `name`.
pub fn find(name: &str) -> Option<&'static OpDefinition> {
    static BY_NAME: LazyLock<HashMap<&'static str, &'static OpDefinition>> =
        LazyLock::new(|| all().map(|definition| (definition.op.name(), definition)).collect());
    BY_NAME.get(name).copied()
}
