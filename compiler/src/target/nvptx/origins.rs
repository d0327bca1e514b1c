//! What values are made of, as the planning of layouts and the lowering ask it.

use smallvec::SmallVec;

use super::analysis::{Analysis, Definition};
use super::layout::Layout;
use crate::tile::{Access, Operation, Value};

/// The tiles that a virtual value is computed from, with the layouts that they are wanted in.
pub(super) fn virtual_operands(analysis: &Analysis<'_>, value: Value, layout: &Layout) -> Vec<(Value, Layout)> {
    let program = analysis.program;
    let shape = &program.type_of(value).shape;
    let Definition::Operation(operation) = analysis.definition(value) else { return Vec::new() };
    match operation {
        Operation::Broadcast { value: operand, axes } => {
            let axes: SmallVec<[usize; 3]> = axes.iter().map(|&axis| usize::from(axis)).collect();
            vec![(*operand, layout.project(shape, &axes))]
        }
        Operation::Transpose(operand) => vec![(*operand, layout.transpose(shape))],
        Operation::Rearrange { value: operand, extents, permutation } => {
            vec![(*operand, layout.rearrange(extents, permutation))]
        }
        Operation::Dequantize { elements, scales } => [*elements, *scales]
            .into_iter()
            .map(|operand| {
                let shift = block_shift(analysis, value, operand);
                (operand, layout.map(|basis| basis >> shift))
            })
            .collect(),
        operation if is_elementwise(operation) => {
            operation.operands().into_iter().map(|operand| (operand, layout.clone())).collect()
        }
        _ => Vec::new(),
    }
}

/// Bits by which the index of a `dequantize`'s element is longer than that of the element or the scale that it is made of.
pub(super) fn block_shift(analysis: &Analysis<'_>, value: Value, operand: Value) -> u32 {
    let last = |value: Value| analysis.program.type_of(value).shape.last().copied().unwrap_or(1);
    (last(value) / last(operand)).trailing_zeros()
}

/// Whether a value is what a `dequantize` makes of two elements a byte, perhaps transposed.
pub(super) fn is_dequantized(analysis: &Analysis<'_>, value: Value) -> bool {
    match analysis.definition(value) {
        Definition::Operation(Operation::Dequantize { elements, .. }) => block_shift(analysis, value, *elements) > 0,
        Definition::Operation(Operation::Transpose(operand)) => is_dequantized(analysis, *operand),
        _ => false,
    }
}

/// Whether a value is what a `dequantize` makes of elements that are rearranged on the way from memory.
pub(super) fn is_rearranged(analysis: &Analysis<'_>, value: Value) -> bool {
    match analysis.definition(value) {
        Definition::Operation(Operation::Dequantize { elements, .. }) => {
            matches!(analysis.definition(*elements), Definition::Operation(Operation::Rearrange { .. }))
        }
        _ => false,
    }
}

/// Whether an operation maps elements one to one.
pub(super) fn is_elementwise(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Unary(..)
            | Operation::Binary(..)
            | Operation::Compare(..)
            | Operation::Select(..)
            | Operation::Cast(_)
            | Operation::Bitcast(_)
    )
}

/// Whether a definition may be repeated elsewhere: it reads nothing that the program writes.
pub(super) fn is_pure(analysis: &Analysis<'_>, definition: Definition<'_>) -> bool {
    match definition {
        Definition::Operation(Operation::Load { tensor, .. }) => {
            analysis.program.tensor(*tensor).is_some_and(|tensor| tensor.access == Access::Read)
        }
        Definition::Operation(operation) => !matches!(
            operation,
            Operation::For { .. } | Operation::Dot { .. } | Operation::Reduce { .. } | Operation::Store { .. }
        ),
        Definition::Induction => true,
        Definition::Carried | Definition::Nothing => false,
    }
}

/// The load that a value is, but for casts and transposes; and whether it is transposed.
pub(super) fn staged_root(analysis: &Analysis<'_>, value: Value) -> Option<(Value, bool)> {
    match analysis.definition(value) {
        Definition::Operation(Operation::Load { .. }) => Some((value, false)),
        Definition::Operation(Operation::Cast(operand)) => staged_root(analysis, *operand),
        Definition::Operation(Operation::Transpose(operand)) => {
            staged_root(analysis, *operand).map(|(root, transposed)| (root, !transposed))
        }
        _ => None,
    }
}
