//! Chains of primitive ops that are one op under another name: activations, softmax, norms.
//!
//! The composite rounds once where the chain rounded at every step, so that the two agree up to rounding, and the composite is the more
//! accurate. Constants count as the textbook ones if they round to the same number in their own storage.

use tessera_ir::ops;

use crate::graph::rewrite::{Match, New, Rule, rule};

/// Chains that are one op.
#[expect(clippy::approx_constant, reason = "patterns take numbers, not names of numbers")]
pub static COMPOSITES: &[Rule] = &[
    rule!("max(x, 0) = relu(x)":
        MAXIMUM(x, 0.0) if |m| m.is_float("x") => [ops::Relu {}](x)),
    rule!("x · sigmoid(x) = silu(x)":
        MUL(x, SIGMOID(x)) => [ops::Silu {}](x)),
    rule!("x / (1 + e⁻ˣ) = silu(x)":
        DIV(x, ADD(EXP(NEG(x)), 1.0)) => [ops::Silu {}](x)),
    rule!("1 / (1 + e⁻ˣ) = sigmoid(x)":
        DIV(1.0, ADD(EXP(NEG(x)), 1.0)) => [ops::Sigmoid {}](x)),

    rule!("(½ · x) · (1 + erf(x / √2)) = gelu(x)":
        MUL(MUL(x, 0.5), ADD(ERF(MUL(x, 0.707_106_781_186_547_5)), 1.0)) => [GELU_ERF](x)),
    rule!("½ · (x · (1 + erf(x / √2))) = gelu(x)":
        MUL(MUL(x, ADD(ERF(MUL(x, 0.707_106_781_186_547_5)), 1.0)), 0.5) => [GELU_ERF](x)),
    rule!("x · (½ · (1 + erf(x / √2))) = gelu(x)":
        MUL(x, MUL(ADD(ERF(MUL(x, 0.707_106_781_186_547_5)), 1.0), 0.5)) => [GELU_ERF](x)),
    rule!("(½ · x) · (1 + erf(x ÷ √2)) = gelu(x)":
        MUL(MUL(x, 0.5), ADD(ERF(DIV(x, 1.414_213_562_373_095_1)), 1.0)) => [GELU_ERF](x)),
    rule!("½ · (x · (1 + erf(x ÷ √2))) = gelu(x)":
        MUL(MUL(x, ADD(ERF(DIV(x, 1.414_213_562_373_095_1)), 1.0)), 0.5) => [GELU_ERF](x)),
    rule!("x · (½ · (1 + erf(x ÷ √2))) = gelu(x)":
        MUL(x, MUL(ADD(ERF(DIV(x, 1.414_213_562_373_095_1)), 1.0), 0.5)) => [GELU_ERF](x)),

    rule!("(½ · x) · (1 + tanh(√(2/π) · (x + 0.044715 x³))) = gelu(x) by tanh":
        MUL(MUL(x, 0.5), ADD(TANH(MUL(ADD(MUL(c, 0.044715), x), 0.797_884_560_802_865_4)), 1.0))
            if |m| is_cube(m) => [GELU_TANH](x)),
    rule!("½ · (x · (1 + tanh(√(2/π) · (x + 0.044715 x³)))) = gelu(x) by tanh":
        MUL(MUL(x, ADD(TANH(MUL(ADD(MUL(c, 0.044715), x), 0.797_884_560_802_865_4)), 1.0)), 0.5)
            if |m| is_cube(m) => [GELU_TANH](x)),
    rule!("x · (½ · (1 + tanh(√(2/π) · (x + 0.044715 x³)))) = gelu(x) by tanh":
        MUL(x, MUL(ADD(TANH(MUL(ADD(MUL(c, 0.044715), x), 0.797_884_560_802_865_4)), 1.0), 0.5))
            if |m| is_cube(m) => [GELU_TANH](x)),

    rule!("Σx / n = mean(x)":
        DIV(s @ REDUCE_SUM(x), n @ CONSTANT()) if |m| is_count(m, m.splat("n")) => [|m| mean(m)](x)),
    rule!("Σx · 1/n = mean(x)":
        MUL(s @ REDUCE_SUM(x), n @ CONSTANT()) if |m| is_count(m, m.splat("n").map(f64::recip)) => [|m| mean(m)](x)),

    rule!("e^(x − max x) / Σ e^(x − max x) = softmax(x)":
        DIV(e @ EXP(SUB(x, a @ BROADCAST(p @ REDUCE_MAX(x)))), b @ BROADCAST(q @ REDUCE_SUM(e)))
            if |m| restores(m, "a", "p") && restores(m, "b", "q") => [|m| softmax(m)](x)),

    rule!("x · rsqrt(mean(x²) + ε) · scale = rms_norm(x, scale)":
        MUL(MUL(x, b @ BROADCAST(RSQRT(ADD(q @ REDUCE_MEAN(MUL(x, x)), epsilon)))), s @ BROADCAST(scale))
            if |m| is_norm_of_rows(m) && along_rows(m, "s") => [|m| rms_norm(m)](x, scale)),

    rule!("rms_norm(x − mean(x), scale) + bias = layer_norm(x, scale, bias)":
        ADD(n @ RMS_NORM(SUB(x, a @ BROADCAST(p @ REDUCE_MEAN(x))), scale), t @ BROADCAST(bias))
            if |m| is_mean_of_rows(m) && along_rows(m, "t") => [|m| layer_norm(m)](x, scale, bias)),
];

const GELU_ERF: ops::Gelu = ops::Gelu { approximate: ops::Approximation::None };
const GELU_TANH: ops::Gelu = ops::Gelu { approximate: ops::Approximation::Tanh };

/// Whether the value `c` is x · x · x.
fn is_cube(m: &Match<'_>) -> bool {
    let (Some(x), Some(c)) = (m.value("x"), m.value("c")) else { return false };
    let graph = m.graph();
    let product = |value| {
        let is_product = graph.defining(value).is_some_and(|operation| operation.is(ops::MUL));
        is_product.then(|| graph.operands(value.node))
    };
    let is_square = |value| product(value).is_some_and(|operands| operands.iter().all(|operand| *operand == x));
    product(c).is_some_and(|operands| match operands.as_slice() {
        [one, other] => (*one == x && is_square(*other)) || (*other == x && is_square(*one)),
        _ => false,
    })
}

/// The axes over which the reduction `name` runs.
fn reduced_axes(m: &Match<'_>, name: &str) -> Option<Vec<usize>> {
    let attributes = |sum: Option<ops::ReduceSum>| sum.map(|reduce| reduce.axes);
    attributes(m.attributes(name))
        .or_else(|| m.attributes::<ops::ReduceMax>(name).map(|reduce| reduce.axes))
        .or_else(|| m.attributes::<ops::ReduceMean>(name).map(|reduce| reduce.axes))
}

/// The dimensions of the result of the broadcast `name` that come from its operand.
fn broadcast_axes(m: &Match<'_>, name: &str) -> Option<Vec<usize>> {
    m.attributes::<ops::Broadcast>(name).map(|broadcast| broadcast.axes)
}

/// Whether the broadcast `broadcast` puts every dimension back where the reduction `reduce` of x took it from.
fn restores(m: &Match<'_>, broadcast: &str, reduce: &str) -> bool {
    let (Some(kept), Some(reduced), Some(x)) =
        (broadcast_axes(m, broadcast), reduced_axes(m, reduce), m.tensor("x"))
    else {
        return false;
    };
    kept.into_iter().eq((0..x.rank()).filter(|axis| !reduced.contains(axis)))
}

/// Whether `n` is the number of elements that the reduction `s` of x sums.
fn is_count(m: &Match<'_>, n: Option<f64>) -> bool {
    let (Some(axes), Some(x), Some(n)) = (reduced_axes(m, "s"), m.tensor("x"), n) else { return false };
    let extents: Option<Vec<u64>> = axes.iter().map(|axis| x.shape.get(*axis)?.as_static()).collect();
    m.is_float("x") && extents.is_some_and(|extents| extents.iter().product::<u64>() as f64 == n)
}

fn mean(m: &Match<'_>) -> Option<New> {
    Some(ops::ReduceMean { axes: reduced_axes(m, "s")? }.into())
}

fn softmax(m: &Match<'_>) -> Option<New> {
    let (p, q) = (reduced_axes(m, "p")?, reduced_axes(m, "q")?);
    match p.as_slice() {
        [axis] if p == q => Some(ops::Softmax { axis: *axis }.into()),
        _ => None,
    }
}

/// Whether the mean of squares `q` runs over the last dimension and `b` brings it back.
fn is_norm_of_rows(m: &Match<'_>) -> bool {
    let Some(x) = m.tensor("x") else { return false };
    reduced_axes(m, "q").is_some_and(|axes| axes.iter().copied().eq(x.rank().checked_sub(1)))
        && restores(m, "b", "q")
        && m.splat("epsilon").is_some()
}

/// Whether the mean `p` runs over the last dimension and `a` brings it back.
fn is_mean_of_rows(m: &Match<'_>) -> bool {
    let Some(x) = m.tensor("x") else { return false };
    reduced_axes(m, "p").is_some_and(|axes| axes.iter().copied().eq(x.rank().checked_sub(1))) && restores(m, "a", "p")
}

/// Whether the broadcast `name` repeats a vector along the last dimension.
fn along_rows(m: &Match<'_>, name: &str) -> bool {
    let Some(x) = m.tensor("x") else { return false };
    broadcast_axes(m, name).is_some_and(|axes| axes.iter().copied().eq(x.rank().checked_sub(1)))
}

fn rms_norm(m: &Match<'_>) -> Option<New> {
    Some(ops::RmsNorm { epsilon: m.splat("epsilon")? }.into())
}

fn layer_norm(m: &Match<'_>) -> Option<New> {
    let epsilon = m.attributes::<ops::RmsNorm>("n")?.epsilon;
    Some(ops::LayerNorm { epsilon }.into())
}
