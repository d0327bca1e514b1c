//! Ops that make tensors from nothing.

use crate::attribute::ConstantValue;
use crate::definition::{Inference, OpError, ResultTypes, one_result};
use crate::evaluate::Tensor;
use crate::operation::operation;
use crate::ops::family;
use crate::ops::movement::check_axis;
use crate::sharding::ShardingRule;
use crate::storage::Storage;
use crate::types::{TensorType, Type};

family! {
    /// Tensors made from nothing; the result's type says how large.
    SOURCE_FAMILY = "Making tensors" [Constant, Iota]
}

operation! {
    /// A tensor known now. One number fills the whole tensor; a list gives every element, row-major.
    CONSTANT = constant() -> result, Constant {
        /// The elements: of a float tensor written with a decimal point or exponent.
        value: ConstantValue,
    }
    infer: infer_constant,
    sharding: shard_source,
    adjoint: |_, _| Ok(Vec::new()),
    evaluate: |op, evaluation| {
        let shape = evaluation.result_shape(0)?;
        let count: usize = shape.iter().product();
        let tensor = match &op.value {
            ConstantValue::Float(elements) => {
                Tensor::from_floats(Storage::F64, shape, filled(elements, count))?
            }
            ConstantValue::Integer(elements) => {
                Tensor::from_integers(Storage::I64, shape, filled(elements, count))?
            }
            ConstantValue::Boolean(elements) => {
                let elements: Vec<i64> = elements.iter().map(|x| i64::from(*x)).collect();
                Tensor::from_integers(Storage::Bool, shape, filled(&elements, count))?
            }
        };
        Ok(vec![tensor.into()])
    },
}

fn filled<T: Copy>(elements: &[T], count: usize) -> Vec<T> {
    match elements {
        [element] => vec![*element; count],
        elements => elements.to_vec(),
    }
}

fn infer_constant(op: &Constant, inference: &Inference<'_>) -> Result<ResultTypes, OpError> {
    let ty = inference.written_tensor()?;
    let storage = ty.storage();
    let fits = match op.value {
        ConstantValue::Float(_) => storage.is_float(),
        ConstantValue::Integer(_) => storage.is_integer(),
        ConstantValue::Boolean(_) => storage == Storage::Bool,
    };
    if !fits {
        let help = match storage {
            Storage::Bool => "write true or false",
            _ if storage.is_float() => "write a decimal point, as in 1.0",
            _ => "write a whole number",
        };
        let message = format!("the elements are not of type {storage}");
        return Err(OpError::attribute("value", message).help(help));
    }
    if let (ConstantValue::Integer(elements), Some((low, high))) = (&op.value, storage.integer_range())
        && let Some(element) = elements.iter().find(|element| !(low..=high).contains(*element))
    {
        return Err(OpError::attribute("value", format!("{element} does not fit {storage}")));
    }
    let listed = op.value.len();
    if listed != 1 && ty.shape.element_count() != Some(listed as u64) {
        let message = format!("{listed} elements are listed for {ty}");
        return Err(
            OpError::attribute("value", message).help("list every element, or write one number to fill the tensor")
        );
    }
    one_result(ty.clone())
}

/// The sharding of a tensor that comes from nothing is free.
fn shard_source<A>(_: &A, _: &[&Type], results: &[&Type]) -> ShardingRule {
    let rank = results.first().and_then(|ty| ty.as_tensor()).map_or(0, TensorType::rank);
    let mut rule = ShardingRule::new();
    let factors = rule.parallel(rank);
    rule.result(factors)
}

operation! {
    /// Counts from 0 along one dimension: `result[…, i, …] = i`.
    IOTA = iota() -> result, Iota {
        /// The dimension to count along.
        axis: usize = 0,
    }
    infer: |op, inference| {
        let ty = inference.written_tensor()?;
        check_axis("axis", op.axis, ty)?;
        if ty.storage() == Storage::Bool {
            return Err(OpError::result(0, "bool cannot count"));
        }
        one_result(ty.clone())
    },
    sharding: shard_source,
    adjoint: |_, _| Ok(Vec::new()),
    evaluate: |op, evaluation| {
        let shape = evaluation.result_shape(0)?;
        let inner: usize = shape[op.axis + 1..].iter().product();
        let count: usize = shape.iter().product();
        let elements = (0..count).map(|i| (i / inner % shape[op.axis]) as i64).collect();
        Ok(vec![Tensor::from_integers(Storage::I64, shape, elements)?.into()])
    },
}
