//! Elementwise ops with several operands.

use crate::attribute::keyword;
use crate::definition::{Inference, OpError, ResultTypes, one_result};
use crate::evaluate::{Elements, Evaluation, EvaluationError, Tensor, Value};
use crate::operation::operation;
use crate::ops::elementwise::{infer_same, shard_elementwise};
use crate::ops::family;
use crate::storage::Storage;
use crate::types::TensorType;

family! {
    /// Each element of the result is a function of the elements at the same place of the operands, which
    /// have equal shapes and storage: nothing is broadcast unasked. The result has their shape and
    /// storage. A NaN operand gives NaN, also of `maximum` and `minimum`.
    BINARY_FAMILY = "Elementwise, several operands" [
        Add, Sub, Mul, Div, Maximum, Minimum, Power, Remainder, And, Or, Xor, Compare, Select,
    ]
}

fn number_binary(
    evaluation: &Evaluation<'_>,
    float: impl Fn(f64, f64) -> f64,
    integer: impl Fn(i64, i64) -> Option<i64>,
) -> Result<Vec<Value>, EvaluationError> {
    let (lhs, rhs) = (evaluation.tensor(0)?, evaluation.tensor(1)?);
    let tensor = match (lhs.elements(), rhs.elements()) {
        (Elements::Integer(left), Elements::Integer(right)) => {
            let elements: Option<Vec<i64>> = left.iter().zip(right.iter()).map(|(l, r)| integer(*l, *r)).collect();
            let elements = elements.ok_or_else(|| EvaluationError::operation("division by zero"))?;
            Tensor::from_integers(Storage::I64, lhs.shape(), elements)?
        }
        _ => {
            let (left, right) = (lhs.to_floats(), rhs.to_floats());
            let elements = left.iter().zip(right.iter()).map(|(l, r)| float(*l, *r)).collect();
            Tensor::from_floats(Storage::F64, lhs.shape(), elements)?
        }
    };
    Ok(vec![tensor.into()])
}

/// Declares an op with two operands of one type: how to compute it on floats and on integers, and
/// its gradients.
macro_rules! binary_op {
    (
        $(#[doc = $doc:literal])* $CONSTANT:ident = $name:ident, $Attributes:ident, $class:ident,
        $float:expr, $integer:expr $(, |$context:ident, $gradient:ident| $adjoint:expr)?
    ) => {
        operation! {
            $(#[doc = $doc])*
            $CONSTANT = $name(
                /// The left operand.
                lhs: $class,
                /// The right operand, of the same type.
                rhs: $class,
            ), $Attributes {}
            infer: infer_same,
            sharding: shard_elementwise,
            $( adjoint: |_, $context| {
                let $gradient = $context.gradients[0];
                let (left, right) = $adjoint;
                Ok(vec![Some(left), Some(right)])
            }, )?
            evaluate: |_, evaluation| number_binary(evaluation, $float, $integer),
        }
    };
}

binary_op! {
    /// The sum; integers wrap around.
    ADD = add, Add, Number, |l, r| l + r, |l, r| Some(l.wrapping_add(r)), |_context, gradient| {
        (gradient, gradient)
    }
}

binary_op! {
    /// The difference; integers wrap around.
    SUB = sub, Sub, Number, |l, r| l - r, |l, r| Some(l.wrapping_sub(r)), |context, gradient| {
        (gradient, context.graph.builder().neg(gradient)?)
    }
}

binary_op! {
    /// The product; integers wrap around.
    MUL = mul, Mul, Number, |l, r| l * r, |l, r| Some(l.wrapping_mul(r)), |context, gradient| {
        let (left, right) = (context.operands[0], context.operands[1]);
        let mut build = context.graph.builder();
        (build.mul(gradient, right)?, build.mul(gradient, left)?)
    }
}

binary_op! {
    /// The quotient; of integers, truncated towards zero. Dividing an integer by zero is an error.
    DIV = div, Div, Number, |l, r| l / r, |l, r| (r != 0).then(|| l.wrapping_div(r)), |context, gradient| {
        let (right, result) = (context.operands[1], context.results[0]);
        let mut build = context.graph.builder();
        let left_gradient = build.div(gradient, right)?;
        let slope = build.mul(left_gradient, result)?;
        (left_gradient, build.neg(slope)?)
    }
}

binary_op! {
    /// The larger operand; NaN if one is NaN. Where the operands are equal the gradient goes to `lhs`.
    MAXIMUM = maximum, Maximum, Number, maximum_of, |l, r| Some(l.max(r)), |context, gradient| {
        let predicate = Predicate::GreaterEqual;
        choose_gradient(context, gradient, predicate)?
    }
}

binary_op! {
    /// The smaller operand; NaN if one is NaN. Where the operands are equal the gradient goes to `lhs`.
    MINIMUM = minimum, Minimum, Number, minimum_of, |l, r| Some(l.min(r)), |context, gradient| {
        let predicate = Predicate::LessEqual;
        choose_gradient(context, gradient, predicate)?
    }
}

binary_op! {
    /// `lhs` to the power of `rhs`.
    POWER = power, Power, Float, f64::powf, |_, _| None, |context, gradient| {
        let (base, exponent) = (context.operands[0], context.operands[1]);
        let one = context.filled(base, 1.0)?;
        let mut build = context.graph.builder();
        let lower = build.sub(exponent, one)?;
        let lower = build.power(base, lower)?;
        let base_slope = build.mul(exponent, lower)?;
        let logarithm = build.log(base)?;
        let exponent_slope = build.mul(context.results[0], logarithm)?;
        (build.mul(gradient, base_slope)?, build.mul(gradient, exponent_slope)?)
    }
}

binary_op! {
    /// What is left of `lhs` after division by `rhs`, truncated; it has the sign of `lhs`. Dividing an
    /// integer by zero is an error.
    REMAINDER = remainder, Remainder, Number, |l, r| l % r, |l, r| (r != 0).then(|| l.wrapping_rem(r))
}

binary_op! {
    /// Conjunction; of integers, of every bit.
    AND = and, And, Bits, |_, _| f64::NAN, |l, r| Some(l & r)
}

binary_op! {
    /// Disjunction; of integers, of every bit.
    OR = or, Or, Bits, |_, _| f64::NAN, |l, r| Some(l | r)
}

binary_op! {
    /// Exclusive disjunction; of integers, of every bit.
    XOR = xor, Xor, Bits, |_, _| f64::NAN, |l, r| Some(l ^ r)
}

fn maximum_of(x: f64, y: f64) -> f64 {
    if x.is_nan() || y.is_nan() { f64::NAN } else { x.max(y) }
}

fn minimum_of(x: f64, y: f64) -> f64 {
    if x.is_nan() || y.is_nan() { f64::NAN } else { x.min(y) }
}

fn choose_gradient(
    context: &mut crate::Adjoint<'_>,
    gradient: crate::ValueId,
    predicate: Predicate,
) -> Result<(crate::ValueId, crate::ValueId), OpError> {
    let (left, right) = (context.operands[0], context.operands[1]);
    let zero = context.filled(gradient, 0.0)?;
    let mut build = context.graph.builder();
    let is_left = build.compare(left, right, Compare { predicate })?;
    Ok((build.select(is_left, gradient, zero)?, build.select(is_left, zero, gradient)?))
}

keyword! {
    /// The relation that `compare` tests.
    Predicate {
        /// `lhs = rhs`.
        Equal = "equal",
        /// `lhs ≠ rhs`.
        NotEqual = "not_equal",
        /// `lhs < rhs`.
        Less = "less",
        /// `lhs ≤ rhs`.
        LessEqual = "less_equal",
        /// `lhs > rhs`.
        Greater = "greater",
        /// `lhs ≥ rhs`.
        GreaterEqual = "greater_equal",
    }
}

impl Predicate {
    fn holds<T: PartialOrd>(self, left: T, right: T) -> bool {
        match self {
            Predicate::Equal => left == right,
            Predicate::NotEqual => left != right,
            Predicate::Less => left < right,
            Predicate::LessEqual => left <= right,
            Predicate::Greater => left > right,
            Predicate::GreaterEqual => left >= right,
        }
    }
}

operation! {
    /// Comparison, to `bool`. NaN is unequal to everything and in no order.
    COMPARE = compare(
        /// The left operand.
        lhs: Tensor,
        /// The right operand, of the same type.
        rhs: Tensor,
    ), Compare {
        /// The relation.
        predicate: Predicate,
    }
    infer: |op, inference| {
        infer_same(op, inference)?;
        one_result(TensorType::new(inference.tensor(0)?.shape.clone(), Storage::Bool))
    },
    sharding: shard_elementwise,
    evaluate: |op, evaluation| {
        let (lhs, rhs) = (evaluation.tensor(0)?, evaluation.tensor(1)?);
        let elements = match (lhs.elements(), rhs.elements()) {
            (Elements::Integer(left), Elements::Integer(right)) => left
                .iter()
                .zip(right.iter())
                .map(|(l, r)| i64::from(op.predicate.holds(l, r)))
                .collect(),
            _ => lhs
                .to_floats()
                .iter()
                .zip(rhs.to_floats().iter())
                .map(|(l, r)| i64::from(op.predicate.holds(l, r)))
                .collect(),
        };
        Ok(vec![Tensor::from_integers(Storage::Bool, lhs.shape(), elements)?.into()])
    },
}

operation! {
    /// `on_true` where the condition holds, `on_false` elsewhere.
    SELECT = select(
        /// Which to take, of the shape of the others.
        condition: Boolean,
        /// Taken where the condition is true.
        on_true: Tensor,
        /// Taken where it is false.
        on_false: Tensor,
    ), Select {}
    infer: infer_select,
    sharding: shard_elementwise,
    adjoint: |_, context| {
        let (condition, gradient) = (context.operands[0], context.gradients[0]);
        let zero = context.filled(gradient, 0.0)?;
        let mut build = context.graph.builder();
        let on_true = build.select(condition, gradient, zero)?;
        let on_false = build.select(condition, zero, gradient)?;
        Ok(vec![None, Some(on_true), Some(on_false)])
    },
    evaluate: |_, evaluation| {
        let condition = evaluation.tensor(0)?.to_integers();
        let (on_true, on_false) = (evaluation.tensor(1)?, evaluation.tensor(2)?);
        let shape = on_true.shape().to_vec();
        let tensor = match (on_true.elements(), on_false.elements()) {
            (Elements::Integer(yes), Elements::Integer(no)) => {
                let pick = |i: usize| if condition[i] != 0 { yes[i] } else { no[i] };
                let elements = (0..condition.len()).map(pick).collect();
                Tensor::from_integers(on_true.storage(), shape, elements)?
            }
            _ => {
                let (yes, no) = (on_true.to_floats(), on_false.to_floats());
                let pick = |i: usize| if condition[i] != 0 { yes[i] } else { no[i] };
                let elements = (0..condition.len()).map(pick).collect();
                Tensor::from_floats(Storage::F64, shape, elements)?
            }
        };
        Ok(vec![tensor.into()])
    },
}

fn infer_select(_: &Select, inference: &Inference<'_>) -> Result<ResultTypes, OpError> {
    let condition = inference.tensor(0)?;
    let (on_true, on_false) = (inference.tensor(1)?, inference.tensor(2)?);
    if condition.shape != on_true.shape {
        let message = format!("the condition {condition} has another shape than {on_true}");
        return Err(OpError::operand(0, message).help("nothing is broadcast unasked; use `broadcast`"));
    }
    if !on_true.agrees_with(on_false) {
        return Err(OpError::operand(2, format!("{on_true} and {on_false} differ")));
    }
    one_result(on_true.with_shape(on_true.shape.clone()))
}
