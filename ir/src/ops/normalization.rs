//! Softmax and the norms.

use crate::definition::{Adjoint, Inference, OpError, ResultTypes, one_result};
use crate::evaluate::{Evaluation, EvaluationError, Tensor, Value};
use crate::graph::ValueId;
use crate::operation::operation;
use crate::ops::movement::check_axis;
use crate::ops::{Broadcast, ReduceMean, ReduceSum, family};
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

/// What the gradients of both norms are made of, for rows normalized as `centred · factor`.
struct NormGradient {
    /// The rows normalized, before scale and bias.
    normalized: ValueId,
    /// The factor of each row, repeated along it.
    factor: ValueId,
    /// The result's gradient, in the storage of `x`.
    gradient: ValueId,
    /// The same, times the scale.
    scaled: ValueId,
}

impl NormGradient {
    fn new(context: &mut Adjoint<'_>, centred: ValueId, epsilon: f64) -> Result<NormGradient, OpError> {
        let ty = context.tensor_type(context.operands[0])?;
        let gradient = context.stored_as(context.gradients[0], ty.storage())?;
        let scale = context.stored_as(context.operands[1], ty.storage())?;
        let square = context.graph.builder().mul(centred, centred)?;
        let mean = row_means(context, square)?;
        let epsilon = context.filled(mean, epsilon)?;
        let mut build = context.graph.builder();
        let shifted = build.add(mean, epsilon)?;
        let factor = build.rsqrt(shifted)?;
        let normalized = build.mul(centred, factor)?;
        let axes = vec![ty.rank() - 1];
        let scale = build.broadcast(scale, Broadcast { axes }, ty.with_shape(ty.shape.clone()))?;
        let scaled = build.mul(gradient, scale)?;
        Ok(NormGradient { normalized, factor, gradient, scaled })
    }

    /// The gradient of the rows, given that of the centred rows less what the factor contributes.
    fn rows(&self, context: &mut Adjoint<'_>, centred_gradient: ValueId) -> Result<ValueId, OpError> {
        let product = context.graph.builder().mul(self.scaled, self.normalized)?;
        let mean = row_means(context, product)?;
        let mut build = context.graph.builder();
        let along = build.mul(self.normalized, mean)?;
        let rest = build.sub(centred_gradient, along)?;
        build.mul(rest, self.factor)
    }

    /// Sums `value` over everything but the rows, for the gradient of the vector operand `index`.
    fn vector(&self, context: &mut Adjoint<'_>, value: ValueId, index: usize) -> Result<ValueId, OpError> {
        let rank = context.tensor_type(value)?.rank();
        let storage = context.tensor_type(context.operands[index])?.storage();
        let axes = (0..rank - 1).collect();
        let sum = context.graph.builder().reduce_sum(value, ReduceSum { axes })?;
        context.stored_as(sum, storage)
    }
}

/// The mean of each row, repeated along it.
fn row_means(context: &mut Adjoint<'_>, value: ValueId) -> Result<ValueId, OpError> {
    let ty = context.tensor_type(value)?;
    let last = ty.rank() - 1;
    let mut build = context.graph.builder();
    let mean = build.reduce_mean(value, ReduceMean { axes: vec![last] })?;
    build.broadcast(mean, Broadcast { axes: (0..last).collect() }, ty)
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
    adjoint: |op, context| {
        let x = context.operands[0];
        let mean = row_means(context, x)?;
        let centred = context.graph.builder().sub(x, mean)?;
        let norm = NormGradient::new(context, centred, op.epsilon)?;
        let mean = row_means(context, norm.scaled)?;
        let centred_gradient = context.graph.builder().sub(norm.scaled, mean)?;
        let x_gradient = norm.rows(context, centred_gradient)?;
        let product = context.graph.builder().mul(norm.gradient, norm.normalized)?;
        let scale_gradient = norm.vector(context, product, 1)?;
        let bias_gradient = norm.vector(context, norm.gradient, 2)?;
        Ok(vec![Some(x_gradient), Some(scale_gradient), Some(bias_gradient)])
    },
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
    adjoint: |op, context| {
        let norm = NormGradient::new(context, context.operands[0], op.epsilon)?;
        let x_gradient = norm.rows(context, norm.scaled)?;
        let product = context.graph.builder().mul(norm.gradient, norm.normalized)?;
        let scale_gradient = norm.vector(context, product, 1)?;
        Ok(vec![Some(x_gradient), Some(scale_gradient)])
    },
    evaluate: |op, evaluation| {
        let scale = evaluation.tensor(1)?.to_floats();
        evaluate_rows(evaluation, |row| {
            let square = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
            let factor = 1.0 / (square + op.epsilon).sqrt();
            row.iter_mut().zip(scale.iter()).for_each(|(x, scale)| *x *= factor * scale);
        })
    },
}
