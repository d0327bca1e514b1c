//! Softmax and the norms.

use crate::definition::{Inference, OpError, ResultTypes, one_result};
use crate::evaluate::{Evaluation, EvaluationError, Tensor, Value};
use crate::operation::operation;
use crate::ops::movement::check_axis;
use crate::ops::{Broadcast, ReduceSum, family};
use crate::sharding::{Factor, FactorKind, ShardingRule};
use crate::storage::Storage;
use crate::types::{TensorType, Type};

family! {
    /// Each row of the result depends on the whole row of the operand. Statistics are computed in f32 or
    /// wider; the result has the storage of `x` unless another float is written.
    NORMALIZATION_FAMILY = "Softmax and norms" [Softmax, LayerNorm, RmsNorm]
}

operation! {
    /// `exp(x) / Σ exp(x)` along one dimension, computed without overflow.
    SOFTMAX = softmax(
        /// The logits.
        x: Float,
    ), Softmax {
        /// The dimension to normalize along.
        axis: usize,
    }
    infer: |op, inference| {
        let x = inference.tensor(0)?;
        check_axis("axis", op.axis, x)?;
        one_result(inference.in_written_storage(x.with_shape(x.shape.clone())))
    },
    sharding: |op, operands, _| {
        let (rule, factors) = shard_rows(operands, op.axis);
        rule.operand(factors.iter().copied()).result(factors)
    },
    adjoint: |op, context| {
        // y · (g - Σ g·y)
        let (result, gradient) = (context.results[0], context.gradients[0]);
        let ty = context.tensor_type(result)?;
        let kept = (0..ty.rank()).filter(|axis| *axis != op.axis).collect();
        let mut build = context.graph.builder();
        let product = build.mul(gradient, result)?;
        let sum = build.reduce_sum(product, ReduceSum { axes: vec![op.axis] })?;
        let sum = build.broadcast(sum, Broadcast { axes: kept }, ty)?;
        let centered = build.sub(gradient, sum)?;
        Ok(vec![Some(build.mul(centered, result)?)])
    },
    evaluate: |op, evaluation| {
        let x = evaluation.tensor(0)?;
        let extent = x.shape()[op.axis];
        let inner: usize = x.shape()[op.axis + 1..].iter().product();
        let mut elements = x.to_floats().to_vec();
        let rows = elements.len().checked_div(extent).unwrap_or(0);
        for row in 0..rows {
            let start = row / inner * inner * extent + row % inner;
            let places = (0..extent).map(|i| start + i * inner);
            let largest = places.clone().map(|i| elements[i]).fold(f64::NEG_INFINITY, f64::max);
            let mut sum = 0.0;
            for i in places.clone() {
                elements[i] = (elements[i] - largest).exp();
                sum += elements[i];
            }
            places.for_each(|i| elements[i] /= sum);
        }
        Ok(vec![Tensor::from_floats(Storage::F64, x.shape(), elements)?.into()])
    },
}

/// One factor for each dimension of the first operand; the one for `axis` stays whole.
fn shard_rows(operands: &[&Type], axis: usize) -> (ShardingRule, Vec<Factor>) {
    let rank = operands[0].as_tensor().map_or(0, TensorType::rank);
    let mut rule = ShardingRule::new();
    let kind = |i| if i == axis { FactorKind::Whole } else { FactorKind::Parallel };
    let factors = (0..rank).map(|i| rule.factor(kind(i))).collect();
    (rule, factors)
}

/// `x`, then vectors as long as its rows.
fn infer_norm(epsilon: f64, inference: &Inference<'_>) -> Result<ResultTypes, OpError> {
    let x = inference.tensor(0)?;
    let Some(row) = x.shape.last() else {
        return Err(OpError::operand(0, "a scalar has no rows to normalize"));
    };
    for index in 1..inference.operands.len() {
        let vector = inference.tensor_of_rank(index, 1)?;
        if vector.shape[0] != *row {
            let message = format!("{vector} is not as long as the rows of {x}");
            return Err(OpError::operand(index, message));
        }
    }
    if !(epsilon.is_finite() && epsilon >= 0.0) {
        return Err(OpError::attribute("epsilon", "epsilon must be 0 or a small positive number"));
    }
    one_result(inference.in_written_storage(x.with_shape(x.shape.clone())))
}

fn shard_norm(operands: &[&Type]) -> ShardingRule {
    let last = operands[0].as_tensor().map_or(0, TensorType::rank).saturating_sub(1);
    let (rule, factors) = shard_rows(operands, last);
    let rule = rule.operand(factors.iter().copied());
    operands[1..].iter().fold(rule, |rule, _| rule.operand(factors.last().copied())).result(factors)
}

/// Replaces each row of `x`.
fn evaluate_rows(
    evaluation: &Evaluation<'_>,
    mut normalize: impl FnMut(&mut [f64]),
) -> Result<Vec<Value>, EvaluationError> {
    let x = evaluation.tensor(0)?;
    let mut elements = x.to_floats().to_vec();
    let row = x.shape().last().copied().unwrap_or(1);
    elements.chunks_mut(row.max(1)).for_each(&mut normalize);
    Ok(vec![Tensor::from_floats(Storage::F64, x.shape(), elements)?.into()])
}

operation! {
    /// Layer normalization of each row (the last dimension):
    /// `(x - mean) / √(variance + epsilon) · scale + bias`, with the variance divided by the length of the
    /// row.
    LAYER_NORM = layer_norm(
        /// The rows.
        x: Float,
        /// One factor for each element of a row.
        scale: Float,
        /// One summand for each element of a row.
        bias: Float,
    ), LayerNorm {
        /// Added to the variance.
        epsilon: f64 = 1e-5,
    }
    infer: |op, inference| infer_norm(op.epsilon, inference),
    sharding: |_, operands, _| shard_norm(operands),
    evaluate: |op, evaluation| {
        let (scale, bias) = (evaluation.tensor(1)?.to_floats(), evaluation.tensor(2)?.to_floats());
        evaluate_rows(evaluation, |row| {
            let length = row.len() as f64;
            let mean = row.iter().sum::<f64>() / length;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / length;
            let factor = 1.0 / (variance + op.epsilon).sqrt();
            for (i, x) in row.iter_mut().enumerate() {
                *x = (*x - mean) * factor * scale[i] + bias[i];
            }
        })
    },
}

operation! {
    /// Root-mean-square normalization of each row (the last dimension):
    /// `x / √(mean(x²) + epsilon) · scale`.
    RMS_NORM = rms_norm(
        /// The rows.
        x: Float,
        /// One factor for each element of a row.
        scale: Float,
    ), RmsNorm {
        /// Added to the mean square.
        epsilon: f64 = 1e-6,
    }
    infer: |op, inference| infer_norm(op.epsilon, inference),
    sharding: |_, operands, _| shard_norm(operands),
    evaluate: |op, evaluation| {
        let scale = evaluation.tensor(1)?.to_floats();
        evaluate_rows(evaluation, |row| {
            let square = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
            let factor = 1.0 / (square + op.epsilon).sqrt();
            row.iter_mut().zip(scale.iter()).for_each(|(x, scale)| *x *= factor * scale);
        })
    },
}
