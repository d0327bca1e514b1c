//! Elementwise ops with one operand.

use crate::attribute::keyword;
use crate::definition::{Adjoint, Inference, OpError, ResultTypes, one_result};
use crate::evaluate::{Elements, Evaluation, EvaluationError, Tensor, Value};
use crate::graph::ValueId;
use crate::operation::operation;
use crate::ops::{Compare, Predicate, family};
use crate::sharding::ShardingRule;
use crate::storage::Storage;
use crate::types::{TensorType, Type};

family! {
    /// Each element of the result is a function of the element at the same place of the operand. The
    /// result has the operand's shape and storage.
    UNARY_FAMILY = "Elementwise, one operand" [
        Neg, Abs, Exp, Log, Sqrt, Rsqrt, Sin, Cos, Tanh, Erf, Sigmoid, Relu, Gelu, Silu, Not, Cast,
    ]
}

/// Operands of equal type give a result of that type.
pub(super) fn infer_same<A>(_: &A, inference: &Inference<'_>) -> Result<ResultTypes, OpError> {
    let first = inference.tensor(0)?;
    for index in 1..inference.operands.len() {
        require_same(first, inference.tensor(index)?, index)?;
    }
    one_result(first.with_shape(first.shape.clone()))
}

fn require_same(first: &TensorType, other: &TensorType, index: usize) -> Result<(), OpError> {
    if first.agrees_with(other) {
        return Ok(());
    }
    let error = OpError::operand(index, format!("the operands {first} and {other} differ"));
    Err(if first.shape != other.shape {
        error.help("nothing is broadcast unasked; use `broadcast`")
    } else {
        error.help("use `cast` to make the element types equal")
    })
}

/// All dimensions are parallel and shared by operands and results.
pub(super) fn shard_elementwise<A>(_: &A, operands: &[&Type], _: &[&Type]) -> ShardingRule {
    let rank = operands.first().and_then(|ty| ty.as_tensor()).map_or(0, TensorType::rank);
    let mut rule = ShardingRule::new();
    let factors = rule.parallel(rank);
    operands.iter().fold(rule, |rule, _| rule.operand(factors.iter().copied())).result(factors.iter().copied())
}

impl Adjoint<'_> {
    /// The type of a tensor value.
    pub(super) fn tensor_type(&self, value: ValueId) -> Result<TensorType, OpError> {
        let ty = self.graph.value_type(value);
        ty.as_tensor().cloned().ok_or_else(|| OpError::operation("a cache has no gradient"))
    }

    /// A value with its elements in another storage, or the value itself if they are.
    pub(super) fn stored_as(&mut self, value: ValueId, storage: Storage) -> Result<ValueId, OpError> {
        if self.tensor_type(value)?.storage() == storage {
            return Ok(value);
        }
        self.graph.builder().cast(value, Cast { to: storage })
    }

    /// A tensor of the type of `like`, filled with `number`.
    pub(super) fn filled(&mut self, like: ValueId, number: f64) -> Result<ValueId, OpError> {
        let ty = self.tensor_type(like)?;
        let value = crate::ConstantValue::from(number);
        self.graph.builder().constant(crate::ops::Constant { value }, ty)
    }
}

pub(super) type Gradients = Result<Vec<Option<ValueId>>, OpError>;

fn float_unary(evaluation: &Evaluation<'_>, function: impl Fn(f64) -> f64) -> Result<Vec<Value>, EvaluationError> {
    let operand = evaluation.tensor(0)?;
    let elements = operand.to_floats().iter().map(|x| function(*x)).collect();
    Ok(vec![Tensor::from_floats(Storage::F64, operand.shape(), elements)?.into()])
}

fn number_unary(
    evaluation: &Evaluation<'_>,
    float: impl Fn(f64) -> f64,
    integer: impl Fn(i64) -> i64,
) -> Result<Vec<Value>, EvaluationError> {
    let operand = evaluation.tensor(0)?;
    match operand.elements() {
        Elements::Float(_) => float_unary(evaluation, float),
        Elements::Integer(elements) => {
            let elements = elements.iter().map(|x| integer(*x)).collect();
            Ok(vec![Tensor::from_integers(Storage::I64, operand.shape(), elements)?.into()])
        }
    }
}

/// Declares an op with one float operand: how to compute it, and its gradient.
macro_rules! float_op {
    (
        $(#[doc = $doc:literal])* $CONSTANT:ident = $name:ident, $Attributes:ident,
        $function:expr, |$context:ident, $gradient:ident| $adjoint:expr
    ) => {
        operation! {
            $(#[doc = $doc])*
            $CONSTANT = $name(
                /// The operand.
                x: Float,
            ), $Attributes {}
            infer: infer_same,
            sharding: shard_elementwise,
            adjoint: |_, $context| {
                let $gradient = $context.gradients[0];
                Ok(vec![Some($adjoint)])
            },
            evaluate: |_, evaluation| float_unary(evaluation, $function),
        }
    };
}

operation! {
    /// `-x`.
    NEG = neg(
        /// The operand.
        x: Number,
    ), Neg {}
    infer: infer_same,
    sharding: shard_elementwise,
    adjoint: |_, context| Ok(vec![Some(context.graph.builder().neg(context.gradients[0])?)]),
    evaluate: |_, evaluation| number_unary(evaluation, |x| -x, i64::wrapping_neg),
}

operation! {
    /// `|x|`.
    ABS = abs(
        /// The operand.
        x: Number,
    ), Abs {}
    infer: infer_same,
    sharding: shard_elementwise,
    adjoint: |_, context| {
        let (x, gradient) = (context.operands[0], context.gradients[0]);
        let zero = context.filled(x, 0.0)?;
        let mut build = context.graph.builder();
        let negative = build.compare(x, zero, Compare { predicate: Predicate::Less })?;
        let negated = build.neg(gradient)?;
        Ok(vec![Some(build.select(negative, negated, gradient)?)])
    },
    evaluate: |_, evaluation| number_unary(evaluation, f64::abs, i64::wrapping_abs),
}

float_op! {
    /// The exponential, `eˣ`.
    EXP = exp, Exp, f64::exp, |context, gradient| {
        context.graph.builder().mul(gradient, context.results[0])?
    }
}

float_op! {
    /// The natural logarithm.
    LOG = log, Log, f64::ln, |context, gradient| {
        context.graph.builder().div(gradient, context.operands[0])?
    }
}

float_op! {
    /// The square root.
    SQRT = sqrt, Sqrt, f64::sqrt, |context, gradient| {
        let half = context.filled(gradient, 0.5)?;
        let mut build = context.graph.builder();
        let halved = build.mul(gradient, half)?;
        build.div(halved, context.results[0])?
    }
}

float_op! {
    /// The reciprocal of the square root.
    RSQRT = rsqrt, Rsqrt, |x| 1.0 / x.sqrt(), |context, gradient| {
        // d x^(-1/2) = -1/2 · x^(-3/2)
        let factor = context.filled(gradient, -0.5)?;
        let mut build = context.graph.builder();
        let ratio = build.div(context.results[0], context.operands[0])?;
        let slope = build.mul(ratio, factor)?;
        build.mul(gradient, slope)?
    }
}

float_op! {
    /// The sine.
    SIN = sin, Sin, f64::sin, |context, gradient| {
        let mut build = context.graph.builder();
        let slope = build.cos(context.operands[0])?;
        build.mul(gradient, slope)?
    }
}

float_op! {
    /// The cosine.
    COS = cos, Cos, f64::cos, |context, gradient| {
        let mut build = context.graph.builder();
        let slope = build.sin(context.operands[0])?;
        let slope = build.neg(slope)?;
        build.mul(gradient, slope)?
    }
}

float_op! {
    /// The hyperbolic tangent.
    TANH = tanh, Tanh, f64::tanh, |context, gradient| {
        let one = context.filled(gradient, 1.0)?;
        let mut build = context.graph.builder();
        let square = build.mul(context.results[0], context.results[0])?;
        let slope = build.sub(one, square)?;
        build.mul(gradient, slope)?
    }
}

float_op! {
    /// The error function, `2/√π ∫₀ˣ exp(-t²) dt`.
    ERF = erf, Erf, libm::erf, |context, gradient| {
        let factor = context.filled(gradient, std::f64::consts::FRAC_2_SQRT_PI)?;
        let mut build = context.graph.builder();
        let square = build.mul(context.operands[0], context.operands[0])?;
        let negated = build.neg(square)?;
        let bell = build.exp(negated)?;
        let slope = build.mul(bell, factor)?;
        build.mul(gradient, slope)?
    }
}

float_op! {
    /// The logistic function, `1 / (1 + e⁻ˣ)`.
    SIGMOID = sigmoid, Sigmoid, sigmoid_of, |context, gradient| {
        let one = context.filled(gradient, 1.0)?;
        let mut build = context.graph.builder();
        let rest = build.sub(one, context.results[0])?;
        let slope = build.mul(context.results[0], rest)?;
        build.mul(gradient, slope)?
    }
}

float_op! {
    /// The larger of `x` and 0; NaN stays NaN.
    RELU = relu, Relu, |x| if x < 0.0 { 0.0 } else { x }, |context, gradient| {
        let zero = context.filled(gradient, 0.0)?;
        let predicate = Compare { predicate: Predicate::Greater };
        let mut build = context.graph.builder();
        let positive = build.compare(context.operands[0], zero, predicate)?;
        build.select(positive, gradient, zero)?
    }
}

float_op! {
    /// The sigmoid linear unit, `x / (1 + e⁻ˣ)`.
    SILU = silu, Silu, |x| x * sigmoid_of(x), |context, gradient| {
        // With s the sigmoid of x: s + x·s·(1 - s) = s + y·(1 - s).
        let one = context.filled(gradient, 1.0)?;
        let mut build = context.graph.builder();
        let sigmoid = build.sigmoid(context.operands[0])?;
        let rest = build.sub(one, sigmoid)?;
        let bent = build.mul(context.results[0], rest)?;
        let slope = build.add(sigmoid, bent)?;
        build.mul(gradient, slope)?
    }
}

fn sigmoid_of(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

keyword! {
    /// How `gelu` is computed.
    Approximation {
        /// Through the error function.
        None = "none",
        /// Through the hyperbolic tangent.
        Tanh = "tanh",
    }
}

operation! {
    /// The Gaussian error linear unit, `x · Φ(x)` with `Φ` the normal distribution function.
    ///
    /// `approximate = none` computes `x/2 · (1 + erf(x/√2))`; `approximate = tanh` computes
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`, as GPT-2 does.
    GELU = gelu(
        /// The operand.
        x: Float,
    ), Gelu {
        /// Which of the two formulas.
        approximate: Approximation = Approximation::None,
    }
    infer: infer_same,
    sharding: shard_elementwise,
    adjoint: differentiate_gelu,
    evaluate: |op, evaluation| match op.approximate {
        Approximation::None => {
            float_unary(evaluation, |x| {
                0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))
            })
        }
        Approximation::Tanh => {
            float_unary(evaluation, |x| {
                0.5 * x * (1.0 + (GELU_SCALE * (x + GELU_CUBIC * x * x * x)).tanh())
            })
        }
    },
}

/// √(2/π)
const GELU_SCALE: f64 = 0.797_884_560_802_865_4;
const GELU_CUBIC: f64 = 0.044715;

fn differentiate_gelu(op: &Gelu, context: &mut Adjoint<'_>) -> Gradients {
    let (x, gradient) = (context.operands[0], context.gradients[0]);
    let one = context.filled(x, 1.0)?;
    let half = context.filled(x, 0.5)?;
    let slope = match op.approximate {
        // Φ(x) + x·φ(x), with φ(x) = exp(-x²/2) / √(2π).
        Approximation::None => {
            let scale = context.filled(x, std::f64::consts::FRAC_1_SQRT_2)?;
            let height = context.filled(x, 0.5 * GELU_SCALE)?;
            let mut build = context.graph.builder();
            let scaled = build.mul(x, scale)?;
            let erf = build.erf(scaled)?;
            let raised = build.add(erf, one)?;
            let distribution = build.mul(raised, half)?;
            let square = build.mul(scaled, scaled)?;
            let negated = build.neg(square)?;
            let bell = build.exp(negated)?;
            let density = build.mul(bell, height)?;
            let bent = build.mul(x, density)?;
            build.add(distribution, bent)?
        }
        // With t the tanh and u its argument: (1 + t)/2 + x/2 · (1 - t²) · u'.
        Approximation::Tanh => {
            let scale = context.filled(x, GELU_SCALE)?;
            let cubic = context.filled(x, GELU_CUBIC)?;
            let cubic_slope = context.filled(x, 3.0 * GELU_CUBIC)?;
            let mut build = context.graph.builder();
            let square = build.mul(x, x)?;
            let bend = build.mul(square, cubic)?;
            let bend = build.add(bend, one)?;
            let argument = build.mul(x, bend)?;
            let argument = build.mul(argument, scale)?;
            let tanh = build.tanh(argument)?;
            let raised = build.add(tanh, one)?;
            let distribution = build.mul(raised, half)?;
            let tanh_square = build.mul(tanh, tanh)?;
            let steepness = build.sub(one, tanh_square)?;
            let inner = build.mul(square, cubic_slope)?;
            let inner = build.add(inner, one)?;
            let inner = build.mul(inner, scale)?;
            let inner = build.mul(inner, steepness)?;
            let half_x = build.mul(x, half)?;
            let bent = build.mul(half_x, inner)?;
            build.add(distribution, bent)?
        }
    };
    Ok(vec![Some(context.graph.builder().mul(gradient, slope)?)])
}

operation! {
    /// Negation of truth values; of integers, every bit.
    NOT = not(
        /// The operand.
        x: Bits,
    ), Not {}
    infer: infer_same,
    sharding: shard_elementwise,
    evaluate: |_, evaluation| {
        let operand = evaluation.tensor(0)?;
        let is_bool = operand.storage() == Storage::Bool;
        let invert = |x: &i64| if is_bool { 1 - x } else { !x };
        let elements = operand.to_integers().iter().map(invert).collect();
        Ok(vec![Tensor::from_integers(operand.storage(), operand.shape(), elements)?.into()])
    },
}

operation! {
    /// Conversion to another element type.
    ///
    /// Floats are rounded to nearest, ties to even. Floats become integers by truncation towards zero,
    /// out of range the nearest integer there is, NaN 0. Integers wrap around. `bool` is 0 or 1, and
    /// anything but 0 is true.
    CAST = cast(
        /// The operand.
        x: Tensor,
    ), Cast {
        /// The new element type.
        to: Storage,
    }
    infer: |op, inference| {
        let operand = inference.tensor(0)?;
        one_result(TensorType::new(operand.shape.clone(), op.to))
    },
    sharding: shard_elementwise,
    adjoint: |_, context| {
        let from = context.tensor_type(context.operands[0])?.storage();
        if !from.is_float() {
            return Ok(vec![None]);
        }
        let gradient = context.graph.builder().cast(context.gradients[0], Cast { to: from })?;
        Ok(vec![Some(gradient)])
    },
    evaluate: |op, evaluation| Ok(vec![evaluation.tensor(0)?.clone().converted(op.to).into()]),
}
