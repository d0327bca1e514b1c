//! How an access to a tensor can be made: which dimension is contiguous and how many of its elements one instruction may take.

use super::analysis::{Analysis, tile_dimensions};
use crate::tile::{ArgumentIndex, Coordinate, Dimension, TensorArgument, Value};

/// Bytes of the widest access of one thread.
const WIDEST: u32 = 16;

/// The best shape of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AccessShape {
    /// The tile dimension along which memory is contiguous; the last if there is none.
    pub fastest: usize,
    /// Elements along it that one instruction may take: aligned, and all of them inside the tensor and the mask or none.
    pub vector: u32,
}

/// Finds the best shape of an access to `tensor`.
pub(super) fn access_shape(
    analysis: &Analysis<'_>,
    tensor: &TensorArgument,
    coordinates: &[Coordinate],
    mask: Option<Value>,
) -> AccessShape {
    let dimensions = tile_dimensions(coordinates);
    let rank = dimensions.iter().flatten().count();
    let scalar = AccessShape { fastest: rank.saturating_sub(1), vector: 1 };
    let contiguous = coordinates.iter().enumerate().find_map(|(position, coordinate)| match coordinate {
        Coordinate::Block { start, length } if tensor.strides[position] == Dimension::Constant(1) => {
            Some((position, *start, *length))
        }
        _ => None,
    });
    let Some((position, start, length)) = contiguous else { return scalar };
    let Some(fastest) = dimensions[position] else { return scalar };
    let bytes = tensor.element.bytes() as u32;
    let mut vector = (WIDEST / bytes).min(length).min(tensor.alignment / bytes).max(1);
    let mut limit = |divisor: u64| vector = vector.min(divisor.min(1 << 16) as u32);
    limit(analysis.range(start).divisor);
    if !analysis.inside(start, length, tensor.extents[position]) {
        limit(analysis.divisor(tensor.extents[position]));
    }
    for (other, coordinate) in coordinates.iter().enumerate() {
        let fixed = matches!(coordinate, Coordinate::At(index) if analysis.range(*index).value() == Some(0));
        if other != position && !fixed {
            limit(analysis.divisor(tensor.strides[other]));
        }
    }
    if let Some(mask) = mask {
        limit(u64::from(analysis.run(mask, fastest)));
    }
    AccessShape { fastest, vector }
}

/// The shape of an access by the position of its tensor.
pub(super) fn access_shape_of(
    analysis: &Analysis<'_>,
    tensor: ArgumentIndex,
    coordinates: &[Coordinate],
    mask: Option<Value>,
) -> Option<AccessShape> {
    analysis.program.tensor(tensor).map(|tensor| access_shape(analysis, tensor, coordinates, mask))
}
