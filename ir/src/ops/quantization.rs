//! Quantized weights.

use crate::definition::{Inference, OpError, ResultTypes, one_result};
use crate::evaluate::Tensor;
use crate::operation::operation;
use crate::ops::family;
use crate::ops::movement::{check_axis, strides};
use crate::sharding::{FactorKind, ShardingRule};
use crate::storage::Storage;
use crate::types::{TensorType, Type};

family! {
    /// Narrow numbers with scales of their own.
    QUANTIZATION_FAMILY = "Quantization" [Dequantize]
}

operation! {
    /// `w · scale`, with one scale for the tensor or one for each place along a dimension.
    ///
    /// The result has the storage of `scale` unless another float is written.
    DEQUANTIZE = dequantize(
        /// The narrow numbers.
        w: Number,
        /// A scalar, or a vector as long as dimension `axis` of `w`.
        scale: Float,
    ), Dequantize {
        /// The dimension that a vector of scales runs along.
        axis: Option<usize>,
    }
    infer: infer_dequantize,
    sharding: |op, operands: &[&Type], _| {
        let rank = operands[0].as_tensor().map_or(0, TensorType::rank);
        let mut rule = ShardingRule::new();
        let factors: Vec<_> = (0..rank).map(|_| rule.factor(FactorKind::Parallel)).collect();
        let scale: Vec<_> = op.axis.iter().map(|axis| factors[*axis]).collect();
        rule.operand(factors.iter().copied()).operand(scale).result(factors)
    },
    evaluate: |op, evaluation| {
        let (w, scale) = (evaluation.tensor(0)?, evaluation.tensor(1)?.to_floats());
        let (stride, extent) = match op.axis {
            Some(axis) => (strides(w.shape())[axis], w.shape()[axis].max(1)),
            None => (1, 1),
        };
        let scaled = |(i, x): (usize, &f64)| x * scale[i / stride % extent];
        let elements = w.to_floats().iter().enumerate().map(scaled).collect();
        Ok(vec![Tensor::from_floats(Storage::F64, w.shape(), elements)?.into()])
    },
}

fn infer_dequantize(op: &Dequantize, inference: &Inference<'_>) -> Result<ResultTypes, OpError> {
    let (w, scale) = (inference.tensor(0)?, inference.tensor(1)?);
    match op.axis {
        None if scale.rank() == 0 => {}
        None => {
            let message = format!("a scalar is needed here, not {scale}");
            return Err(OpError::operand(1, message).help("name the dimension that the scales run along: {axis = …}"));
        }
        Some(axis) => {
            check_axis("axis", axis, w)?;
            if scale.rank() != 1 || scale.shape[0] != w.shape[axis] {
                let message = format!("{scale} has not one scale for each of dimension {axis} of {w}");
                return Err(OpError::operand(1, message));
            }
        }
    }
    one_result(inference.in_written_storage(scale.with_shape(w.shape.clone())))
}
