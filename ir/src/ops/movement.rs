//! Ops that move elements without computing on them.

use crate::attribute::ConstantValue;
use crate::definition::{Adjoint, Inference, OpError, ResultTypes, one_result};
use crate::evaluate::{Evaluation, EvaluationError, Tensor, Value};
use crate::graph::ValueId;
use crate::operation::operation;
use crate::ops::elementwise::Gradients;
use crate::ops::{Constant, family};
use crate::sharding::{Factor, FactorKind, ShardingRule};
use crate::storage::Storage;
use crate::types::{Dim, Shape, TensorType, Type};

family! {
    /// Ops that put the elements of their operands elsewhere. The result has the storage of the operand.
    MOVEMENT_FAMILY = "Moving elements" [
        Broadcast, Reshape, Transpose, Slice, Concat, Gather, Embedding,
    ]
}

/// Refuses an axis that the tensor does not have.
pub(super) fn check_axis(name: &'static str, axis: usize, tensor: &TensorType) -> Result<(), OpError> {
    if axis < tensor.rank() {
        return Ok(());
    }
    Err(OpError::attribute(name, format!("{tensor} has no dimension {axis}"))
        .help("dimensions count from 0, outermost first"))
}

/// Refuses axes that the tensor does not have, or that are not strictly ascending.
pub(super) fn check_axes(name: &'static str, axes: &[usize], tensor: &TensorType) -> Result<(), OpError> {
    axes.iter().try_for_each(|axis| check_axis(name, *axis, tensor))?;
    if axes.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(OpError::attribute(name, "the dimensions must be in ascending order"));
    }
    Ok(())
}

/// Distance in memory between neighbours along each dimension of a row-major tensor.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// For each position of a row-major tensor of `shape`, the offset that `strides` give it.
pub(super) fn offsets(shape: &[usize], strides: &[usize]) -> Vec<usize> {
    let mut offsets = vec![0];
    for (extent, stride) in shape.iter().zip(strides) {
        offsets = offsets.iter().flat_map(|offset| (0..*extent).map(move |i| offset + i * stride)).collect();
    }
    offsets
}

operation! {
    /// Repeats the operand along new or unit dimensions: dimension `i` of the operand becomes dimension
    /// `axes[i]` of the result.
    BROADCAST = broadcast(
        /// The tensor to repeat.
        x: Tensor,
    ) -> result, Broadcast {
        /// For each dimension of the operand, in ascending order, its place in the result.
        axes: Vec<usize>,
    }
    infer: infer_broadcast,
    sharding: |op, operands, results| {
        let mut rule = ShardingRule::new();
        let rank = results[0].as_tensor().map_or(0, TensorType::rank);
        let factors = rule.parallel(rank);
        let operand_shape = operands[0].as_tensor().map(|ty| ty.shape.clone()).unwrap_or_default();
        let dimensions = op.axes.iter().zip(operand_shape.iter()).map(|(axis, dim)| match dim {
            Dim::Static(1) => Vec::new(),
            _ => vec![factors[*axis]],
        });
        rule.operands.push(dimensions.collect());
        rule.result(factors)
    },
    adjoint: differentiate_broadcast,
    evaluate: |op, evaluation| {
        let shape = evaluation.result_shape(0)?;
        let operand = evaluation.tensor(0)?;
        let mut source_strides = vec![0; shape.len()];
        for (i, stride) in strides(operand.shape()).into_iter().enumerate() {
            if operand.shape()[i] != 1 {
                source_strides[op.axes[i]] = stride;
            }
        }
        let sources = offsets(&shape, &source_strides);
        Ok(vec![operand.gathered(shape, sources.into_iter()).into()])
    },
}

fn infer_broadcast(op: &Broadcast, inference: &Inference<'_>) -> Result<ResultTypes, OpError> {
    let (operand, result) = (inference.tensor(0)?, inference.written_tensor()?);
    check_axes("axes", &op.axes, result)?;
    if op.axes.len() != operand.rank() {
        let message = format!("{} axes for the {} dimensions of {operand}", op.axes.len(), operand.rank());
        return Err(OpError::attribute("axes", message));
    }
    for (axis, dim) in op.axes.iter().zip(operand.shape.iter()) {
        if *dim != Dim::Static(1) && *dim != result.shape[*axis] {
            let message = format!("dimension {axis} of {result} is not the {dim} of {operand}");
            return Err(OpError::result(0, message));
        }
    }
    if operand.storage() != result.storage() {
        return Err(OpError::result(0, format!("the result has the element type of {operand}")));
    }
    one_result(result.clone())
}

fn differentiate_broadcast(op: &Broadcast, context: &mut Adjoint<'_>) -> Gradients {
    let operand = context.tensor_type(context.operands[0])?;
    let result = context.tensor_type(context.results[0])?;
    let repeated = |axis: &usize| match op.axes.iter().position(|place| place == axis) {
        None => true,
        Some(i) => operand.shape[i] != result.shape[*axis],
    };
    let axes: Vec<usize> = (0..result.rank()).filter(repeated).collect();
    let mut build = context.graph.builder();
    let summed = build.reduce_sum(context.gradients[0], crate::ops::ReduceSum { axes })?;
    let gradient = build.reshape(summed, operand.with_shape(operand.shape.clone()))?;
    Ok(vec![Some(gradient)])
}

operation! {
    /// The same elements, row-major, in another shape.
    RESHAPE = reshape(
        /// The tensor.
        x: Tensor,
    ) -> result, Reshape {}
    infer: |_, inference| {
        let (operand, result) = (inference.tensor(0)?, inference.written_tensor()?);
        if operand.shape.volume() != result.shape.volume() {
            let message = format!("{operand} and {result} hold different numbers of elements");
            return Err(OpError::result(0, message));
        }
        if operand.storage() != result.storage() {
            let message = format!("the result has the element type of {operand}");
            return Err(OpError::result(0, message).help("use `cast` to change the element type"));
        }
        one_result(result.clone())
    },
    sharding: shard_reshape,
    adjoint: |_, context| {
        let operand = context.tensor_type(context.operands[0])?;
        let operand = operand.with_shape(operand.shape.clone());
        Ok(vec![Some(context.graph.builder().reshape(context.gradients[0], operand)?)])
    },
    evaluate: |_, evaluation| {
        let shape = evaluation.result_shape(0)?;
        Ok(vec![evaluation.tensor(0)?.clone().reshaped(shape)?.into()])
    },
}

/// Runs of dimensions with equal volumes on both sides share factors: equal dimensions one factor, a
/// dimension split into several (or the reverse) one factor for each part. Other runs stay whole.
fn shard_reshape(_: &Reshape, operands: &[&Type], results: &[&Type]) -> ShardingRule {
    let shape = |types: &[&Type]| types[0].as_tensor().map(|ty| ty.shape.clone()).unwrap_or_default();
    let (from, to) = (shape(operands), shape(results));
    let mut rule = ShardingRule::new();
    let (mut operand, mut result) = (Vec::new(), Vec::new());
    let (mut i, mut j) = (0, 0);
    while i < from.rank() || j < to.rank() {
        // The shortest runs from here on, at least one dimension in all, with equal volumes.
        let runs = (1..=from.rank() - i + to.rank() - j)
            .flat_map(|length| (0..=length.min(from.rank() - i)).map(move |left| (left, length - left)));
        let volume = |dims: &[Dim]| Shape::from(dims.to_vec()).volume();
        let run = runs
            .filter(|(left, right)| *right <= to.rank() - j && left + right > 0)
            .find(|(left, right)| volume(&from[i..i + left]) == volume(&to[j..j + right]));
        let Some((left, right)) = run else { break };
        let split = |rule: &mut ShardingRule, parts: &[Dim]| {
            parts.iter().map(|_| vec![rule.factor(FactorKind::Parallel)]).collect::<Vec<_>>()
        };
        match (left, right) {
            (1, _) => {
                let parts = split(&mut rule, &to[j..j + right]);
                operand.push(parts.concat());
                result.extend(parts);
            }
            (_, 1) => {
                let parts = split(&mut rule, &from[i..i + left]);
                result.push(parts.concat());
                operand.extend(parts);
            }
            _ => {
                let mut whole = |count: usize| -> Vec<Vec<Factor>> {
                    (0..count).map(|_| vec![rule.factor(FactorKind::Whole)]).collect()
                };
                operand.extend(whole(left));
                result.extend(whole(right));
            }
        }
        i += left;
        j += right;
    }
    operand.resize(from.rank(), Vec::new());
    result.resize(to.rank(), Vec::new());
    rule.operands.push(operand);
    rule.results.push(result);
    rule
}

operation! {
    /// Reorders the dimensions: dimension `i` of the result is dimension `permutation[i]` of the operand.
    TRANSPOSE = transpose(
        /// The tensor.
        x: Tensor,
    ), Transpose {
        /// Each dimension of the operand once.
        permutation: Vec<usize>,
    }
    infer: |op, inference| {
        let operand = inference.tensor(0)?;
        let mut sorted = op.permutation.clone();
        sorted.sort_unstable();
        if sorted != (0..operand.rank()).collect::<Vec<_>>() {
            let message = format!("list each dimension of {operand} once");
            return Err(OpError::attribute("permutation", message));
        }
        let shape: Shape = op.permutation.iter().map(|axis| operand.shape[*axis].clone()).collect();
        one_result(operand.with_shape(shape))
    },
    sharding: |op, _, _| {
        let mut rule = ShardingRule::new();
        let factors = rule.parallel(op.permutation.len());
        let permuted: Vec<Factor> = op.permutation.iter().map(|axis| factors[*axis]).collect();
        rule.operand(factors).result(permuted)
    },
    adjoint: |op, context| {
        let mut permutation = vec![0; op.permutation.len()];
        for (i, axis) in op.permutation.iter().enumerate() {
            permutation[*axis] = i;
        }
        let inverse = Transpose { permutation };
        Ok(vec![Some(context.graph.builder().transpose(context.gradients[0], inverse)?)])
    },
    evaluate: |op, evaluation| {
        let operand = evaluation.tensor(0)?;
        let from = strides(operand.shape());
        let shape: Vec<usize> = op.permutation.iter().map(|axis| operand.shape()[*axis]).collect();
        let permuted: Vec<usize> = op.permutation.iter().map(|axis| from[*axis]).collect();
        let sources = offsets(&shape, &permuted);
        Ok(vec![operand.gathered(shape, sources.into_iter()).into()])
    },
}

operation! {
    /// A block of the operand: along each dimension, the elements from `starts` to before `limits`.
    ///
    /// A symbolic dimension is kept whole, with start 0 and the symbol as its limit.
    SLICE = slice(
        /// The tensor.
        x: Tensor,
    ), Slice {
        /// First index along each dimension.
        starts: Vec<usize>,
        /// Index after the last along each dimension.
        limits: Vec<Dim>,
    }
    infer: infer_slice,
    sharding: |op, operands, _| {
        let mut rule = ShardingRule::new();
        let shape = operands[0].as_tensor().map(|ty| ty.shape.clone()).unwrap_or_default();
        let factors: Vec<Factor> = shape
            .iter()
            .enumerate()
            .map(|(axis, dim)| match op.starts[axis] == 0 && op.limits[axis] == *dim {
                true => rule.factor(FactorKind::Parallel),
                false => rule.factor(FactorKind::Whole),
            })
            .collect();
        rule.operand(factors.iter().copied()).result(factors)
    },
    adjoint: differentiate_slice,
    evaluate: |op, evaluation| {
        let limits = evaluation.extents(&op.limits)?;
        let operand = evaluation.tensor(0)?;
        let shape: Vec<usize> =
            limits.iter().zip(&op.starts).map(|(limit, start)| limit - start).collect();
        let from = strides(operand.shape());
        let first: usize = from.iter().zip(&op.starts).map(|(stride, start)| stride * start).sum();
        let sources = offsets(&shape, &from).into_iter().map(|offset| offset + first);
        Ok(vec![operand.gathered(shape.clone(), sources).into()])
    },
}

/// The gradient with zeros around it, one dimension after the other.
fn differentiate_slice(op: &Slice, context: &mut Adjoint<'_>) -> Gradients {
    let operand = context.tensor_type(context.operands[0])?;
    let mut gradient = context.gradients[0];
    for (axis, dim) in operand.shape.iter().enumerate() {
        let (Some(extent), Some(limit)) = (dim.as_static(), op.limits[axis].as_static()) else { continue };
        let ty = context.tensor_type(gradient)?;
        let mut zeros = |extent: u64| -> Result<Option<ValueId>, OpError> {
            let mut shape = ty.shape.clone();
            shape[axis] = Dim::Static(extent);
            let constant = Constant { value: ConstantValue::from(0.0) };
            let build = |ty| context.graph.builder().constant(constant, ty);
            (extent > 0).then(|| build(ty.with_shape(shape))).transpose()
        };
        let (before, after) = (zeros(op.starts[axis] as u64)?, zeros(extent - limit)?);
        let parts: Vec<ValueId> = before.into_iter().chain([gradient]).chain(after).collect();
        if parts.len() > 1 {
            gradient = context.graph.builder().concat(&parts, Concat { axis })?;
        }
    }
    Ok(vec![Some(gradient)])
}

fn infer_slice(op: &Slice, inference: &Inference<'_>) -> Result<ResultTypes, OpError> {
    let operand = inference.tensor(0)?;
    let rank = operand.rank();
    for (name, given) in [("starts", op.starts.len()), ("limits", op.limits.len())] {
        if given != rank {
            let message = format!("{given} numbers for the {rank} dimensions of {operand}");
            return Err(OpError::attribute(name, message));
        }
    }
    let mut shape = Shape::scalar();
    for (axis, dim) in operand.shape.iter().enumerate() {
        let (start, limit) = (op.starts[axis] as u64, &op.limits[axis]);
        match (dim, limit) {
            (dim, limit) if start == 0 && dim == limit => shape.push(dim.clone()),
            (Dim::Static(extent), Dim::Static(limit)) if start <= *limit && limit <= extent => {
                shape.push(Dim::Static(limit - start));
            }
            (Dim::Static(_), _) => {
                let message = format!("{start} to {limit} is no part of dimension {axis} of {operand}");
                return Err(OpError::attribute("limits", message));
            }
            (Dim::Symbol(symbol), _) => {
                let message = format!("dimension {axis} of {operand} is symbolic and can only be kept whole");
                return Err(OpError::attribute("limits", message).help(format!("write start 0 and limit {symbol}")));
            }
        }
    }
    one_result(operand.with_shape(shape))
}

operation! {
    /// Joins tensors along one dimension, in order.
    ///
    /// Where that dimension is symbolic in an operand, the result's type must be written, with a symbol
    /// of its own for the sum.
    CONCAT = concat(
        /// Tensors of one storage whose other dimensions are equal.
        operands: [Tensor],
    ), Concat {
        /// The dimension to join along.
        axis: usize = 0,
    }
    infer: infer_concat,
    sharding: |op, operands, _| {
        let mut rule = ShardingRule::new();
        let rank = operands.first().and_then(|ty| ty.as_tensor()).map_or(0, TensorType::rank);
        let factors: Vec<Factor> = (0..rank)
            .map(|axis| match axis == op.axis {
                true => rule.factor(FactorKind::Whole),
                false => rule.factor(FactorKind::Parallel),
            })
            .collect();
        operands
            .iter()
            .fold(rule, |rule, _| rule.operand(factors.iter().copied()))
            .result(factors)
    },
    adjoint: differentiate_concat,
    evaluate: evaluate_concat,
}

fn infer_concat(op: &Concat, inference: &Inference<'_>) -> Result<ResultTypes, OpError> {
    if inference.operands.is_empty() {
        return Err(OpError::operation("at least one operand is needed"));
    }
    let first = inference.tensor(0)?;
    check_axis("axis", op.axis, first)?;
    let mut sum = Some(0u64);
    for index in 0..inference.operands.len() {
        let operand = inference.tensor(index)?;
        if operand.storage() != first.storage()
            || operand.rank() != first.rank()
            || operand.shape.without(op.axis) != first.shape.without(op.axis)
        {
            let message = format!("{operand} cannot be joined to {first} along dimension {}", op.axis);
            return Err(OpError::operand(index, message));
        }
        let extent = operand.shape[op.axis].as_static();
        sum = sum.and_then(|sum| sum.checked_add(extent?));
    }
    let mut shape = first.shape.clone();
    shape[op.axis] = match (sum, inference.operands.len()) {
        (Some(sum), _) => Dim::Static(sum),
        (None, 1) => shape[op.axis].clone(),
        (None, _) => match inference.written_tensor()?.shape.get(op.axis) {
            Some(Dim::Symbol(symbol)) => Dim::Symbol(symbol.clone()),
            _ => {
                let message = "the sum of symbolic dimensions needs a symbol of its own";
                return Err(OpError::result(0, message));
            }
        },
    };
    one_result(first.with_shape(shape))
}

fn differentiate_concat(op: &Concat, context: &mut Adjoint<'_>) -> Gradients {
    let mut start = 0;
    let mut gradients = Vec::new();
    for operand in context.operands {
        let ty = context.tensor_type(*operand)?;
        let extent = ty.shape[op.axis]
            .as_static()
            .ok_or_else(|| OpError::operation("a symbolic dimension cannot be cut apart"))?;
        let mut starts = vec![0; ty.rank()];
        starts[op.axis] = start as usize;
        let mut limits = ty.shape.to_vec();
        limits[op.axis] = Dim::Static(start + extent);
        start += extent;
        let slice = Slice { starts, limits };
        gradients.push(Some(context.graph.builder().slice(context.gradients[0], slice)?));
    }
    Ok(gradients)
}

fn evaluate_concat(op: &Concat, evaluation: &mut Evaluation<'_>) -> Result<Vec<Value>, EvaluationError> {
    let operands: Vec<&Tensor> =
        (0..evaluation.operand_count()).map(|i| evaluation.tensor(i)).collect::<Result<_, _>>()?;
    let mut shape = operands[0].shape().to_vec();
    shape[op.axis] = operands.iter().map(|operand| operand.shape()[op.axis]).sum();
    let outer: usize = shape[..op.axis].iter().product();
    let is_float = operands[0].storage().is_float();
    let (mut floats, mut integers) = (Vec::new(), Vec::new());
    for block in 0..outer {
        for operand in &operands {
            let size = operand.len() / outer;
            let range = block * size..(block + 1) * size;
            if is_float {
                floats.extend_from_slice(&operand.to_floats()[range]);
            } else {
                integers.extend_from_slice(&operand.to_integers()[range]);
            }
        }
    }
    Ok(vec![if is_float {
        Tensor::from_floats(Storage::F64, shape, floats)?.into()
    } else {
        Tensor::from_integers(operands[0].storage(), shape, integers)?.into()
    }])
}

operation! {
    /// Takes slices at given places of one dimension: `result[…, i, …] = x[…, indices[i], …]`.
    ///
    /// The dimensions of `indices`, none or more, stand in the result where `axis` was in `x`. An index
    /// outside the dimension is an error.
    GATHER = gather(
        /// The tensor to take from.
        x: Tensor,
        /// Where to take.
        indices: Integer,
    ), Gather {
        /// The dimension that the indices select from.
        axis: usize = 0,
    }
    infer: |op, inference| {
        let (x, indices) = (inference.tensor(0)?, inference.tensor(1)?);
        check_axis("axis", op.axis, x)?;
        let mut shape = x.shape.to_vec();
        shape.splice(op.axis..=op.axis, indices.shape.iter().cloned());
        one_result(x.with_shape(shape))
    },
    sharding: |op, operands, _| {
        let rank = |index: usize| operands[index].as_tensor().map_or(0, TensorType::rank);
        let mut rule = ShardingRule::new();
        let indices = rule.parallel(rank(1));
        let mut x: Vec<Factor> = (1..rank(0)).map(|_| rule.factor(FactorKind::Parallel)).collect();
        let mut result = x.clone();
        result.splice(op.axis..op.axis, indices.iter().copied());
        x.insert(op.axis, rule.factor(FactorKind::Whole));
        rule.operand(x).operand(indices).result(result)
    },
    evaluate: |op, evaluation| {
        let (x, indices) = (evaluation.tensor(0)?, evaluation.tensor(1)?);
        let extent = x.shape()[op.axis];
        let outer: usize = x.shape()[..op.axis].iter().product();
        let inner: usize = x.shape()[op.axis + 1..].iter().product();
        let rows = checked_indices(indices, extent)?;
        let rows = &rows;
        let sources = (0..outer).flat_map(|block| {
            rows.iter().flat_map(move |row| {
                let start = (block * extent + row) * inner;
                start..start + inner
            })
        });
        let mut shape = x.shape().to_vec();
        shape.splice(op.axis..=op.axis, indices.shape().iter().copied());
        Ok(vec![x.gathered(shape, sources).into()])
    },
}

operation! {
    /// Rows of a table: `result[…, :] = table[ids[…], :]`.
    ///
    /// The result has the storage of the table unless another float is written. An id outside the table
    /// is an error.
    EMBEDDING = embedding(
        /// `[rows, row length]`.
        table: Float,
        /// Which rows, of any shape.
        ids: Integer,
    ), Embedding {}
    infer: |_, inference| {
        let (table, ids) = (inference.tensor_of_rank(0, 2)?, inference.tensor(1)?);
        let mut shape = ids.shape.clone();
        shape.push(table.shape[1].clone());
        one_result(inference.in_written_storage(table.with_shape(shape)))
    },
    sharding: |_, operands, _| {
        let rank = operands[1].as_tensor().map_or(0, TensorType::rank);
        let mut rule = ShardingRule::new();
        let ids = rule.parallel(rank);
        // A part of the table gives rows of zeros for ids that it does not hold: partial sums.
        let (row, element) = (rule.factor(FactorKind::Reduction), rule.factor(FactorKind::Parallel));
        let result: Vec<Factor> = ids.iter().copied().chain([element]).collect();
        rule.operand([row, element]).operand(ids).result(result)
    },
    evaluate: |_, evaluation| {
        let (table, ids) = (evaluation.tensor(0)?, evaluation.tensor(1)?);
        let (extent, length) = (table.shape()[0], table.shape()[1]);
        let rows = checked_indices(ids, extent)?;
        let sources = rows.iter().flat_map(|row| row * length..(row + 1) * length);
        let shape = ids.shape().iter().copied().chain([length]).collect();
        Ok(vec![table.gathered(shape, sources).into()])
    },
}

/// The indices, if every one is less than `extent`.
pub(super) fn checked_indices(indices: &Tensor, extent: usize) -> Result<Vec<usize>, EvaluationError> {
    let check = |index: &i64| match usize::try_from(*index) {
        Ok(index) if index < extent => Ok(index),
        _ => Err(EvaluationError::operation(format!("index {index} is outside 0..{extent}"))),
    };
    indices.to_integers().iter().map(check).collect()
}
