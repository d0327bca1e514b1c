//! Matrix products.

use rayon::prelude::*;

use crate::definition::{Adjoint, Inference, OpError, ResultTypes, one_result};
use crate::evaluate::{Evaluation, EvaluationError, Tensor, Value};
use crate::graph::ValueId;
use crate::operation::operation;
use crate::ops::{ReduceSum, Transpose, family};
use crate::sharding::{FactorKind, ShardingRule};
use crate::storage::Storage;
use crate::types::Type;

family! {
    /// Sums of products are accumulated in f32 or wider (the type's `@accum` can ask for more) and
    /// rounded once, to the storage of the result.
    MATMUL_FAMILY = "Matrix products" [Matmul]
}

operation! {
    /// Matrix product: `result[…, m, n] = Σₖ lhs[…, m, k] · rhs[…, k, n]`.
    ///
    /// `rhs` is one matrix for all of `lhs`'s leading dimensions, or has the same leading dimensions as
    /// `lhs`. The operands may have different float storage (fp8 weights with bf16 activations). The
    /// result has the storage of `lhs` unless another float is written.
    MATMUL = matmul(
        /// Rows, of rank 2 or more.
        lhs: Float,
        /// One matrix, or as many as `lhs` has.
        rhs: Float,
    ), Matmul {
        /// Whether each matrix of `rhs` is stored as `[n, k]`.
        transpose_rhs: bool = false,
    }
    infer: infer_matmul,
    sharding: shard_matmul,
    adjoint: differentiate_matmul,
    evaluate: evaluate_matmul,
}

fn infer_matmul(op: &Matmul, inference: &Inference<'_>) -> Result<ResultTypes, OpError> {
    let (lhs, rhs) = (inference.tensor(0)?, inference.tensor(1)?);
    if lhs.rank() < 2 {
        return Err(OpError::operand(0, format!("`lhs` needs two or more dimensions, not {lhs}")));
    }
    if rhs.rank() != 2 && rhs.rank() != lhs.rank() {
        let message = format!("`rhs` must be one matrix or have the rank of `lhs`, not {rhs}");
        return Err(OpError::operand(1, message));
    }
    let batch = lhs.rank() - 2;
    if rhs.rank() > 2 && lhs.shape[..batch] != rhs.shape[..batch] {
        let message = format!("the leading dimensions of {lhs} and {rhs} differ");
        return Err(OpError::operand(1, message));
    }
    let (rows, columns) = (rhs.rank() - 2, rhs.rank() - 1);
    let (inner, outer) = if op.transpose_rhs { (columns, rows) } else { (rows, columns) };
    if lhs.shape[batch + 1] != rhs.shape[inner] {
        let error = OpError::operand(
            1,
            format!("{} columns of `lhs` meet {} rows of `rhs`", lhs.shape[batch + 1], rhs.shape[inner]),
        );
        return Err(if lhs.shape[batch + 1] == rhs.shape[outer] {
            error.help(format!("did you mean transpose_rhs = {}?", !op.transpose_rhs))
        } else {
            error
        });
    }
    let mut shape = lhs.shape.clone();
    shape[batch + 1] = rhs.shape[outer].clone();
    one_result(inference.in_written_storage(lhs.with_shape(shape)))
}

fn shard_matmul(op: &Matmul, operands: &[&Type], _: &[&Type]) -> ShardingRule {
    let rank = |index: usize| operands[index].as_tensor().map_or(2, |tensor| tensor.rank());
    let mut rule = ShardingRule::new();
    let batch = rule.parallel(rank(0).saturating_sub(2));
    let (row, column) = (rule.factor(FactorKind::Parallel), rule.factor(FactorKind::Parallel));
    let inner = rule.factor(FactorKind::Reduction);
    let rhs_batch = if rank(1) > 2 { batch.clone() } else { Vec::new() };
    let rhs_matrix = if op.transpose_rhs { [column, inner] } else { [inner, column] };
    rule.operand(batch.iter().copied().chain([row, inner]))
        .operand(rhs_batch.into_iter().chain(rhs_matrix))
        .result(batch.into_iter().chain([row, column]))
}

fn differentiate_matmul(op: &Matmul, context: &mut Adjoint<'_>) -> Result<Vec<Option<ValueId>>, OpError> {
    let (lhs, rhs) = (context.operands[0], context.operands[1]);
    let gradient = context.gradients[0];
    let lhs_type = context.tensor_type(lhs)?;
    let rhs_type = context.tensor_type(rhs)?;
    let mut build = context.graph.builder();
    let lhs_gradient =
        build.returning(lhs_type.clone()).matmul(gradient, rhs, Matmul { transpose_rhs: !op.transpose_rhs })?;
    let (left, right) = if op.transpose_rhs { (gradient, lhs) } else { (lhs, gradient) };
    let rank = lhs_type.rank();
    let mut permutation: Vec<usize> = (0..rank).collect();
    permutation.swap(rank - 1, rank - 2);
    let transposed = build.transpose(left, Transpose { permutation })?;
    let product = Matmul { transpose_rhs: false };
    if rhs_type.rank() == rank {
        let rhs_gradient = build.returning(rhs_type).matmul(transposed, right, product)?;
        return Ok(vec![Some(lhs_gradient), Some(rhs_gradient)]);
    }
    // One matrix under many leading dimensions: their gradients add up.
    let each = build.matmul(transposed, right, product)?;
    let axes = (0..rank - 2).collect();
    let rhs_gradient = build.returning(rhs_type).reduce_sum(each, ReduceSum { axes })?;
    Ok(vec![Some(lhs_gradient), Some(rhs_gradient)])
}

fn evaluate_matmul(op: &Matmul, evaluation: &mut Evaluation<'_>) -> Result<Vec<Value>, EvaluationError> {
    let (lhs, rhs) = (evaluation.tensor(0)?, evaluation.tensor(1)?);
    let rank = lhs.shape().len();
    let (m, k) = (lhs.shape()[rank - 2], lhs.shape()[rank - 1]);
    let rhs_matrix = &rhs.shape()[rhs.shape().len() - 2..];
    let n = rhs_matrix[usize::from(!op.transpose_rhs)];
    let mut shape = lhs.shape().to_vec();
    shape[rank - 1] = n;
    let (left, right) = (lhs.to_floats(), rhs.to_floats());
    let shared = rhs.shape().len() == 2;
    let count = shape.iter().product();
    let mut result = vec![0.0; count];
    if n > 0 && k > 0 {
        result.par_chunks_mut(n).enumerate().for_each(|(row, out)| {
            let left = &left[row * k..(row + 1) * k];
            let matrix = if shared { 0 } else { row / m };
            let right = &right[matrix * k * n..(matrix + 1) * k * n];
            if op.transpose_rhs {
                for (out, column) in out.iter_mut().zip(right.chunks_exact(k)) {
                    *out = left.iter().zip(column).map(|(l, r)| l * r).sum();
                }
            } else {
                for (l, right) in left.iter().zip(right.chunks_exact(n)) {
                    for (out, r) in out.iter_mut().zip(right) {
                        *out += l * r;
                    }
                }
            }
        });
    }
    Ok(vec![Tensor::from_floats(Storage::F64, shape, result)?.into()])
}
