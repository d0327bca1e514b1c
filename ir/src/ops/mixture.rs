//! Mixtures of experts.

use rayon::prelude::*;

use crate::attribute::keyword;
use crate::definition::{Inference, OpError, ResultTypes, one_result};
use crate::evaluate::{Evaluation, EvaluationError, Tensor, Value};
use crate::operation::operation;
use crate::ops::attention::require;
use crate::ops::family;
use crate::sharding::{Factor, FactorKind, ShardingRule};
use crate::storage::Storage;
use crate::types::{Dim, TensorType, Type};

family! {
    /// A mixture of `E` experts sends each of `T` tokens through `k` of them and adds up what they give, weighted:
    ///
    /// ```text
    /// %experts = top_k(%logits) {k = 4}                         : tensor<Tx4xi32>
    /// %chosen  = take(%logits, %experts)                        : tensor<Tx4xf32>
    /// %weights = softmax(%chosen) {axis = 1}                    : tensor<Tx4xf32>
    /// %up      = grouped_matmul(%x, @up, %experts, @up_bias)    : tensor<Tx4x5760xf32>
    /// %act     = swiglu(%up) {alpha = 1.702, limit = 7.0, offset = 1.0, style = interleaved}
    /// %down    = grouped_matmul(%act, @down, %experts, @down_bias)
    /// %y       = combine(%down, %weights)                       : tensor<Tx2880xf32>
    /// ```
    ///
    /// How the rows are gathered by expert is left to the kernels: rows of one expert share its matrix.
    MIXTURE_FAMILY = "Mixtures of experts" [TopK, Take, GroupedMatmul, Swiglu, Combine]
}

operation! {
    /// The places of the `k` largest elements of each row, as i32, the largest first; of equals the first.
    TOP_K = top_k(
        /// Rows along the last dimension.
        x: Float,
    ), TopK {
        /// How many.
        k: u64,
    }
    infer: |op, inference| {
        let x = inference.tensor(0)?;
        let Some((last, leading)) = x.shape.split_last() else {
            return Err(OpError::operand(0, "a scalar has no rows to choose from"));
        };
        match last {
            Dim::Static(extent) if (1..=*extent).contains(&op.k) => {}
            Dim::Static(extent) => {
                return Err(OpError::attribute("k", format!("{} of {extent} elements cannot be chosen", op.k)));
            }
            Dim::Symbol(_) => {
                return Err(OpError::operand(0, format!("the last dimension of {x} must be a number")));
            }
        }
        let mut shape = leading.to_vec();
        shape.push(Dim::Static(op.k));
        one_result(TensorType::new(shape, Storage::I32))
    },
    sharding: |_, operands: &[&Type], _| {
        let mut rule = ShardingRule::new();
        let rows = rule.parallel(rank(operands, 0).saturating_sub(1));
        let (element, place) = (rule.factor(FactorKind::Whole), rule.factor(FactorKind::Whole));
        rule.operand(rows.iter().copied().chain([element])).result(rows.into_iter().chain([place]))
    },
    evaluate: |op, evaluation| {
        let x = evaluation.tensor(0)?;
        let (elements, k) = (x.to_floats(), op.k as usize);
        let mut shape = x.shape().to_vec();
        let row = shape.last().copied().unwrap_or(1);
        if let Some(last) = shape.last_mut() {
            *last = k;
        }
        let mut places = Vec::new();
        for row in elements.chunks(row.max(1)) {
            let mut order: Vec<usize> = (0..row.len()).collect();
            // The sort is stable, so that of equals the first stays before.
            order.sort_by(|left, right| row[*right].total_cmp(&row[*left]));
            places.extend(order[..k].iter().map(|place| *place as i64));
        }
        Ok(vec![Tensor::from_integers(Storage::I32, shape, places)?.into()])
    },
}

operation! {
    /// The elements of each row at the places that are given for it: `result[…, i] = x[…, indices[…, i]]`.
    TAKE = take(
        /// Rows along the last dimension.
        x: Tensor,
        /// Places in the rows, i32; the leading dimensions are those of `x`.
        indices: Integer,
    ), Take {}
    infer: |_, inference| {
        let (x, indices) = (inference.tensor(0)?, inference.tensor(1)?);
        let (rank, leading) = (x.rank(), x.rank().saturating_sub(1));
        if rank == 0 || indices.rank() != rank || indices.shape[..leading] != x.shape[..leading] {
            return Err(OpError::operand(1, format!("{indices} has not the rows of {x}")));
        }
        if indices.storage() != Storage::I32 {
            return Err(OpError::operand(1, format!("the places are of i32, not {}", indices.storage())));
        }
        one_result(x.with_shape(indices.shape.clone()))
    },
    sharding: |_, operands: &[&Type], _| {
        let mut rule = ShardingRule::new();
        let rows = rule.parallel(rank(operands, 0).saturating_sub(1));
        let (element, place) = (rule.factor(FactorKind::Whole), rule.factor(FactorKind::Parallel));
        let at = |last: Factor| rows.iter().copied().chain([last]).collect::<Vec<_>>();
        rule.operand(at(element)).operand(at(place)).result(at(place))
    },
    evaluate: |_, evaluation| {
        let (x, indices) = (evaluation.tensor(0)?, evaluation.tensor(1)?);
        let (row, count) = (x.shape().last().copied().unwrap_or(1), indices.shape().last().copied().unwrap_or(1));
        let places = indices.to_integers();
        let mut sources = Vec::with_capacity(places.len());
        for (i, place) in places.iter().enumerate() {
            sources.push(i / count.max(1) * row + index_below(*place, row, "place")?);
        }
        Ok(vec![x.gathered(indices.shape().to_vec(), sources.into_iter()).into()])
    },
}

fn rank(operands: &[&Type], index: usize) -> usize {
    operands.get(index).and_then(|ty| ty.as_tensor()).map_or(0, TensorType::rank)
}

/// An index as a number, if it is below `limit`.
fn index_below(index: i64, limit: usize, what: &str) -> Result<usize, EvaluationError> {
    usize::try_from(index)
        .ok()
        .filter(|index| *index < limit)
        .ok_or_else(|| EvaluationError::operation(format!("{what} {index} is not below {limit}")))
}

operation! {
    /// Products of rows with the matrices of the experts chosen for them:
    /// `result[t, i, n] = Σ_c x[t, i, c] · w[experts[t, i], n, c] + bias[experts[t, i], n]`.
    ///
    /// `x` has a row for each token, which all of the token's experts get, or one for each token and expert. The result has
    /// the storage of `x` unless another float is written; sums are accumulated as in `matmul`.
    GROUPED_MATMUL = grouped_matmul(
        /// `[tokens, inner]`, or `[tokens, chosen, inner]`.
        x: Float,
        /// `[experts, columns, inner]`: a matrix for each expert, stored as `matmul`'s `transpose_rhs` has it.
        w: Float,
        /// `[tokens, chosen]`, i32.
        experts: Integer,
        /// `[experts, columns]`, added once to the sum. Where the inner dimension is to be split over devices it has to be
        /// added elsewhere.
        bias: [Float?],
    ), GroupedMatmul {}
    infer: infer_grouped_matmul,
    sharding: |_, operands: &[&Type], _| {
        let mut rule = ShardingRule::new();
        let (token, chosen) = (rule.factor(FactorKind::Parallel), rule.factor(FactorKind::Parallel));
        let column = rule.factor(FactorKind::Parallel);
        // With a part of the experts a device computes the rows of its own, and zeros for those of others.
        let expert = rule.factor(FactorKind::Reduction);
        let has_bias = operands.len() > 3;
        let inner = rule.factor(if has_bias { FactorKind::Whole } else { FactorKind::Reduction });
        let rows = if rank(operands, 0) > 2 { vec![token, chosen, inner] } else { vec![token, inner] };
        let rule = rule.operand(rows).operand([expert, column, inner]).operand([token, chosen]);
        let rule = if has_bias { rule.operand([expert, column]) } else { rule };
        rule.result([token, chosen, column])
    },
    evaluate: evaluate_grouped_matmul,
}

fn infer_grouped_matmul(_: &GroupedMatmul, inference: &Inference<'_>) -> Result<ResultTypes, OpError> {
    let x = inference.tensor(0)?;
    let w = inference.tensor_of_rank(1, 3)?;
    let experts = inference.tensor_of_rank(2, 2)?;
    if x.rank() != 2 && x.rank() != 3 {
        return Err(OpError::operand(
            0,
            format!("a row for each token, or for each of its experts, is needed, not {x}"),
        ));
    }
    require(inference, 2, &[x.shape[0].clone(), experts.shape[1].clone()], Storage::I32)?;
    if x.rank() == 3 && x.shape[1] != experts.shape[1] {
        return Err(OpError::operand(0, format!("{x} has not a row for each of {} experts", experts.shape[1])));
    }
    let inner = &x.shape[x.rank() - 1];
    if *inner != w.shape[2] {
        let error = OpError::operand(1, format!("rows of {inner} elements meet matrices of {} columns", w.shape[2]));
        return Err(if *inner == w.shape[1] { error.help("are the matrices transposed?") } else { error });
    }
    if let Some(bias) = inference.optional_tensor(3)?
        && bias.shape[..] != w.shape[..2]
    {
        return Err(OpError::operand(3, format!("{bias} has not an element for each column of {w}")));
    }
    let shape = [experts.shape[0].clone(), experts.shape[1].clone(), w.shape[1].clone()];
    one_result(inference.in_written_storage(x.with_shape(shape)))
}

fn evaluate_grouped_matmul(_: &GroupedMatmul, evaluation: &mut Evaluation<'_>) -> Result<Vec<Value>, EvaluationError> {
    let (x, w, experts) = (evaluation.tensor(0)?, evaluation.tensor(1)?, evaluation.tensor(2)?);
    let [count, columns, inner] = *w.shape() else {
        return Err(EvaluationError::operation("the matrices of the experts have three dimensions"));
    };
    let bias = match evaluation.operand_count() > 3 {
        true => Some(evaluation.tensor(3)?.to_floats()),
        false => None,
    };
    let (rows, matrices) = (x.to_floats(), w.to_floats());
    let chosen: Vec<usize> =
        experts.to_integers().iter().map(|expert| index_below(*expert, count, "expert")).collect::<Result<_, _>>()?;
    let shared = if x.shape().len() == 2 { experts.shape()[1] } else { 1 };
    let shape = [experts.shape()[0], experts.shape()[1], columns];
    let mut result = vec![0.0; shape.iter().product()];
    result.par_chunks_mut(columns.max(1)).zip(&chosen).enumerate().for_each(|(row, (out, expert))| {
        let x = &rows[row / shared * inner..][..inner];
        for (column, out) in out.iter_mut().enumerate() {
            let w = &matrices[(expert * columns + column) * inner..][..inner];
            let start = bias.as_ref().map_or(0.0, |bias| bias[expert * columns + column]);
            *out = start + x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
        }
    });
    Ok(vec![Tensor::from_floats(Storage::F64, shape, result)?.into()])
}

keyword! {
    /// How gates and the values that they gate lie in a row.
    SwigluStyle {
        /// Gates first, then values.
        SplitHalf = "split_half",
        /// A gate, then its value, and so on.
        Interleaved = "interleaved",
    }
}

operation! {
    /// The gated activation `g · sigmoid(alpha · g) · (u + offset)` of rows that hold both gates `g` and values `u`; half as
    /// long as they (Shazeer, "GLU Variants Improve Transformer").
    ///
    /// With a limit, `g` is first clamped from above and `u` from both sides.
    SWIGLU = swiglu(
        /// Rows along the last dimension, of an even number of elements.
        x: Float,
    ), Swiglu {
        /// How gates and values lie in a row.
        style: SwigluStyle = SwigluStyle::SplitHalf,
        /// Steepness of the gate.
        alpha: f64 = 1.0,
        /// What is added to the values.
        offset: f64 = 0.0,
        /// Largest gate, and largest magnitude of a value; any if absent.
        limit: Option<f64> = None,
    }
    infer: |op, inference| {
        let x = inference.tensor(0)?;
        let Some((Dim::Static(extent), leading)) = x.shape.split_last().filter(|(last, _)| {
            matches!(last, Dim::Static(extent) if extent % 2 == 0)
        }) else {
            return Err(OpError::operand(0, format!("the last dimension of {x} must be an even number")));
        };
        for (name, number) in [("alpha", op.alpha), ("offset", op.offset)] {
            if !number.is_finite() {
                return Err(OpError::attribute(name, "a finite number is needed here"));
            }
        }
        if op.limit.is_some_and(|limit| !(limit.is_finite() && limit > 0.0)) {
            return Err(OpError::attribute("limit", "the limit must be a positive number")
                .help("leave it out to clamp nothing"));
        }
        let mut shape = leading.to_vec();
        shape.push(Dim::Static(extent / 2));
        one_result(inference.in_written_storage(x.with_shape(shape)))
    },
    sharding: |op, operands: &[&Type], _| {
        let mut rule = ShardingRule::new();
        let rows = rule.parallel(rank(operands, 0).saturating_sub(1));
        match op.style {
            // Neighbours stay together where the row is cut in even places.
            SwigluStyle::Interleaved => {
                let (pair, member) = (rule.factor(FactorKind::Parallel), rule.factor(FactorKind::Whole));
                let row = rows.iter().map(|row| vec![*row]);
                rule.operands.push(row.clone().chain([vec![pair, member]]).collect());
                rule.results.push(row.chain([vec![pair]]).collect());
                rule
            }
            SwigluStyle::SplitHalf => {
                let (from, to) = (rule.factor(FactorKind::Whole), rule.factor(FactorKind::Whole));
                let at = |last: Factor| rows.iter().copied().chain([last]).collect::<Vec<_>>();
                rule.operand(at(from)).result(at(to))
            }
        }
    },
    evaluate: |op, evaluation| {
        let x = evaluation.tensor(0)?;
        let mut shape = x.shape().to_vec();
        let half = shape.last().copied().unwrap_or(0) / 2;
        if let Some(last) = shape.last_mut() {
            *last = half;
        }
        let limit = op.limit.unwrap_or(f64::INFINITY);
        let elements = x.to_floats();
        let mut result = Vec::with_capacity(elements.len() / 2);
        for row in elements.chunks((2 * half).max(1)) {
            for i in 0..half {
                let (gate, value) = match op.style {
                    SwigluStyle::SplitHalf => (row[i], row[half + i]),
                    SwigluStyle::Interleaved => (row[2 * i], row[2 * i + 1]),
                };
                let (gate, value) = (gate.min(limit), value.clamp(-limit, limit));
                result.push(gate / (1.0 + (-op.alpha * gate).exp()) * (value + op.offset));
            }
        }
        Ok(vec![Tensor::from_floats(Storage::F64, shape, result)?.into()])
    },
}

operation! {
    /// The weighted sum of what a token's experts give: `result[t, n] = Σᵢ weights[t, i] · y[t, i, n]`.
    COMBINE = combine(
        /// `[tokens, chosen, columns]`.
        y: Float,
        /// `[tokens, chosen]`.
        weights: Float,
    ), Combine {}
    infer: |_, inference| {
        let (y, weights) = (inference.tensor_of_rank(0, 3)?, inference.tensor(1)?);
        if weights.shape[..] != y.shape[..2] {
            return Err(OpError::operand(1, format!("{weights} has not a weight for each row of {y}")));
        }
        let shape = [y.shape[0].clone(), y.shape[2].clone()];
        one_result(inference.in_written_storage(y.with_shape(shape)))
    },
    sharding: |_, _, _| {
        let mut rule = ShardingRule::new();
        let (token, column) = (rule.factor(FactorKind::Parallel), rule.factor(FactorKind::Parallel));
        let chosen = rule.factor(FactorKind::Reduction);
        rule.operand([token, chosen, column]).operand([token, chosen]).result([token, column])
    },
    evaluate: |_, evaluation| {
        let (y, weights) = (evaluation.tensor(0)?, evaluation.tensor(1)?);
        let [tokens, chosen, columns] = *y.shape() else {
            return Err(EvaluationError::operation("what is combined has three dimensions"));
        };
        let (rows, weights) = (y.to_floats(), weights.to_floats());
        let mut result = vec![0.0; tokens * columns];
        for (token, out) in result.chunks_mut(columns.max(1)).enumerate() {
            for i in token * chosen..(token + 1) * chosen {
                let row = &rows[i * columns..(i + 1) * columns];
                out.iter_mut().zip(row).for_each(|(out, y)| *out += weights[i] * y);
            }
        }
        Ok(vec![Tensor::from_floats(Storage::F64, [tokens, columns], result)?.into()])
    },
}
