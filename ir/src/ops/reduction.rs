//! Reductions over dimensions.

use crate::definition::{Adjoint, Inference, OpError, ResultTypes, one_result};
use crate::evaluate::{Elements, Evaluation, EvaluationError, Tensor, Value};
use crate::graph::ValueId;
use crate::operation::operation;
use crate::ops::elementwise::Gradients;
use crate::ops::movement::{check_axes, check_axis, offsets, strides};
use crate::ops::{Broadcast, family};
use crate::sharding::{Factor, FactorKind, ShardingRule};
use crate::storage::Storage;
use crate::types::{Dim, TensorType, Type};

family! {
    /// Each element of the result combines the elements of the operand along the dimensions listed,
    /// which the result does not have. Sums are kept in f32 or wider; a float result may be written with
    /// another float storage.
    REDUCTION_FAMILY = "Reductions" [ReduceSum, ReduceMax, ReduceMin, ReduceMean, Argmax]
}

fn infer_reduction(axes: &[usize], inference: &Inference<'_>) -> Result<ResultTypes, OpError> {
    let operand = inference.tensor(0)?;
    check_axes("axes", axes, operand)?;
    let kept: Vec<Dim> = kept_axes(axes, operand.rank()).into_iter().map(|axis| operand.shape[axis].clone()).collect();
    one_result(inference.in_written_storage(operand.with_shape(kept)))
}

fn kept_axes(axes: &[usize], rank: usize) -> Vec<usize> {
    (0..rank).filter(|axis| !axes.contains(axis)).collect()
}

fn shard_reduction(axes: &[usize], operands: &[&Type], kind: FactorKind) -> ShardingRule {
    let rank = operands[0].as_tensor().map_or(0, TensorType::rank);
    let mut rule = ShardingRule::new();
    let factors: Vec<Factor> =
        (0..rank).map(|axis| rule.factor(if axes.contains(&axis) { kind } else { FactorKind::Parallel })).collect();
    let kept: Vec<Factor> = kept_axes(axes, rank).into_iter().map(|axis| factors[axis]).collect();
    rule.operand(factors).result(kept)
}

/// For each element of the result, the elements of the operand that it combines.
fn reduce<T: Copy>(
    elements: &[T],
    shape: &[usize],
    axes: &[usize],
    combine: impl Fn(&mut dyn Iterator<Item = T>) -> T,
) -> Vec<T> {
    let all = strides(shape);
    let pick = |of: &[usize]| -> (Vec<usize>, Vec<usize>) { of.iter().map(|axis| (shape[*axis], all[*axis])).unzip() };
    let (kept_shape, kept_strides) = pick(&kept_axes(axes, shape.len()));
    let (reduced_shape, reduced_strides) = pick(axes);
    let inner = offsets(&reduced_shape, &reduced_strides);
    offsets(&kept_shape, &kept_strides)
        .into_iter()
        .map(|start| combine(&mut inner.iter().map(|offset| elements[start + offset])))
        .collect()
}

fn evaluate_reduction(
    axes: &[usize],
    evaluation: &Evaluation<'_>,
    float: impl Fn(&mut dyn Iterator<Item = f64>) -> f64,
    integer: impl Fn(&mut dyn Iterator<Item = i64>) -> i64,
) -> Result<Vec<Value>, EvaluationError> {
    let operand = evaluation.tensor(0)?;
    let shape: Vec<usize> =
        kept_axes(axes, operand.shape().len()).into_iter().map(|axis| operand.shape()[axis]).collect();
    let tensor = match operand.elements() {
        Elements::Float(elements) => {
            let elements = reduce(elements, operand.shape(), axes, float);
            Tensor::from_floats(Storage::F64, shape, elements)?
        }
        Elements::Integer(elements) => {
            let elements = reduce(elements, operand.shape(), axes, integer);
            Tensor::from_integers(Storage::I64, shape, elements)?
        }
    };
    Ok(vec![tensor.into()])
}

/// Repeats a reduction's result or gradient along the reduced dimensions.
fn expand(context: &mut Adjoint<'_>, value: ValueId, axes: &[usize]) -> Result<ValueId, OpError> {
    let operand = context.tensor_type(context.operands[0])?;
    let kept = kept_axes(axes, operand.rank());
    let reduced = context.tensor_type(value)?;
    let result = operand.with_shape(operand.shape.clone()).with_policy(reduced.policy);
    let mut build = context.graph.builder();
    let wide = build.broadcast(value, Broadcast { axes: kept }, result)?;
    if reduced.storage() == operand.storage() {
        return Ok(wide);
    }
    build.cast(wide, crate::ops::Cast { to: operand.storage() })
}

operation! {
    /// The sum; 0 over nothing. Integers wrap around.
    REDUCE_SUM = reduce_sum(
        /// The tensor.
        x: Number,
    ), ReduceSum {
        /// The dimensions to sum over, ascending.
        axes: Vec<usize>,
    }
    infer: |op, inference| infer_reduction(&op.axes, inference),
    sharding: |op, operands, _| shard_reduction(&op.axes, operands, FactorKind::Reduction),
    adjoint: |op, context| {
        let gradient = context.gradients[0];
        Ok(vec![Some(expand(context, gradient, &op.axes)?)])
    },
    evaluate: |op, evaluation| {
        evaluate_reduction(&op.axes, evaluation, |items| items.sum(), |items| {
            items.fold(0, i64::wrapping_add)
        })
    },
}

operation! {
    /// The largest element; NaN if one is NaN. Over nothing `-inf`, or the least integer of the storage.
    REDUCE_MAX = reduce_max(
        /// The tensor.
        x: Number,
    ), ReduceMax {
        /// The dimensions to look along, ascending.
        axes: Vec<usize>,
    }
    infer: |op, inference| infer_reduction(&op.axes, inference),
    sharding: |op, operands, _| shard_reduction(&op.axes, operands, FactorKind::Whole),
    adjoint: |op, context| differentiate_extreme(&op.axes, context),
    evaluate: |op, evaluation| {
        let least = evaluation.tensor(0)?.storage().integer_range().map_or(i64::MIN, |range| range.0);
        evaluate_reduction(
            &op.axes,
            evaluation,
            |items| items.fold(f64::NEG_INFINITY, |l, r| if l.is_nan() || r.is_nan() { f64::NAN } else { l.max(r) }),
            |items| items.fold(least, i64::max),
        )
    },
}

operation! {
    /// The smallest element; NaN if one is NaN. Over nothing `inf`, or the largest integer of the storage.
    REDUCE_MIN = reduce_min(
        /// The tensor.
        x: Number,
    ), ReduceMin {
        /// The dimensions to look along, ascending.
        axes: Vec<usize>,
    }
    infer: |op, inference| infer_reduction(&op.axes, inference),
    sharding: |op, operands, _| shard_reduction(&op.axes, operands, FactorKind::Whole),
    adjoint: |op, context| differentiate_extreme(&op.axes, context),
    evaluate: |op, evaluation| {
        let most = evaluation.tensor(0)?.storage().integer_range().map_or(i64::MAX, |range| range.1);
        evaluate_reduction(
            &op.axes,
            evaluation,
            |items| items.fold(f64::INFINITY, |l, r| if l.is_nan() || r.is_nan() { f64::NAN } else { l.min(r) }),
            |items| items.fold(most, i64::min),
        )
    },
}

/// The gradient goes to every element that equals the extreme one.
fn differentiate_extreme(axes: &[usize], context: &mut Adjoint<'_>) -> Gradients {
    let (x, result, gradient) = (context.operands[0], context.results[0], context.gradients[0]);
    let extreme = expand(context, result, axes)?;
    let wide = expand(context, gradient, axes)?;
    let zero = context.filled(x, 0.0)?;
    let predicate = crate::ops::Compare { predicate: crate::ops::Predicate::Equal };
    let mut build = context.graph.builder();
    let is_extreme = build.compare(x, extreme, predicate)?;
    Ok(vec![Some(build.select(is_extreme, wide, zero)?)])
}

operation! {
    /// The arithmetic mean; NaN over nothing.
    REDUCE_MEAN = reduce_mean(
        /// The tensor.
        x: Float,
    ), ReduceMean {
        /// The dimensions to average over, ascending.
        axes: Vec<usize>,
    }
    infer: |op, inference| infer_reduction(&op.axes, inference),
    sharding: |op, operands, _| shard_reduction(&op.axes, operands, FactorKind::Whole),
    adjoint: |op, context| {
        let x = context.operands[0];
        let shape = context.tensor_type(x)?.shape;
        let extents = op.axes.iter().map(|axis| shape[*axis].as_static());
        let count: Option<u64> = extents.product();
        let count = count.ok_or_else(|| {
            OpError::operation("the gradient of a mean over a symbolic dimension is not declared")
                .help("use `reduce_sum` and divide")
        })?;
        let gradient = context.gradients[0];
        let wide = expand(context, gradient, &op.axes)?;
        let scale = context.filled(x, 1.0 / count as f64)?;
        Ok(vec![Some(context.graph.builder().mul(wide, scale)?)])
    },
    evaluate: |op, evaluation| {
        evaluate_reduction(
            &op.axes,
            evaluation,
            |items| {
                let (sum, count) = items.fold((0.0, 0.0), |(sum, count), x| (sum + x, count + 1.0));
                sum / count
            },
            |_| 0,
        )
    },
}

operation! {
    /// The index of the largest element along one dimension, as i32; the first of equals. NaN counts as
    /// larger than every number.
    ARGMAX = argmax(
        /// The tensor.
        x: Number,
    ), Argmax {
        /// The dimension to look along.
        axis: usize,
    }
    infer: |op, inference| {
        let operand = inference.tensor(0)?;
        check_axis("axis", op.axis, operand)?;
        one_result(TensorType::new(operand.shape.without(op.axis), Storage::I32))
    },
    sharding: |op, operands, _| shard_reduction(&[op.axis], operands, FactorKind::Whole),
    evaluate: |op, evaluation| {
        let operand = evaluation.tensor(0)?;
        let shape = operand.shape();
        if shape[op.axis] == 0 {
            return Err(EvaluationError::operation("there is no largest element of none"));
        }
        let elements = operand.to_floats();
        let places: Vec<usize> = (0..elements.len()).collect();
        let larger = |l: f64, r: f64| r > l || (r.is_nan() && !l.is_nan());
        let best = reduce(&places, shape, &[op.axis], |items| {
            let first = items.next().unwrap_or(0);
            items.fold(first, |best, i| if larger(elements[best], elements[i]) { i } else { best })
        });
        let stride = strides(shape)[op.axis];
        let indices = best.into_iter().map(|i| (i / stride % shape[op.axis]) as i64).collect();
        let kept: Vec<usize> =
            kept_axes(&[op.axis], shape.len()).into_iter().map(|axis| shape[axis]).collect();
        Ok(vec![Tensor::from_integers(Storage::I32, kept, indices)?.into()])
    },
}
