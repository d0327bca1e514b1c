//! Identities of ops that move elements and of conversions.

use tessera_ir::{Dim, ops};

use crate::graph::rewrite::{Match, New, Rule, holds, rule};

/// Identities of ops that move elements and of conversions.
pub static SHAPES: &[Rule] = &[
    rule!("reshape(x) = x to the same shape":
        RESHAPE(x) => x),
    rule!("reshape(reshape(x)) = reshape(x)":
        RESHAPE(RESHAPE(x)) => [ops::Reshape {}](x)),
    rule!("transpose(x) = x in the same order":
        p @ TRANSPOSE(x) if |m| permutation(m, "p").is_some_and(|p| p.iter().copied().eq(0..p.len())) => x),
    rule!("transpose(transpose(x, p), q) = transpose(x, p∘q)":
        q @ TRANSPOSE(p @ TRANSPOSE(x)) => [|m| compose(m)](x)),
    rule!("broadcast(x) = x to the same shape":
        BROADCAST(x) => x),
    rule!("broadcast(broadcast(x, a), b) = broadcast(x, b∘a)":
        b @ BROADCAST(a @ BROADCAST(x)) => [|m| broadcast_twice(m)](x)),
    rule!("slice(x) = x of everything":
        s @ SLICE(x) if |m| starts_at_zero(m) => x),
    rule!("slice(slice(x)) = slice(x)":
        b @ SLICE(a @ SLICE(x)) => [|m| slice_twice(m)](x)),
    rule!("concat(x) = x":
        CONCAT(x) => x),

    rule!("broadcast(c) = c":
        BROADCAST(c @ CONSTANT()) if |m| m.splat("c").is_some() => [|m| same_constant(m)]()),
    rule!("reshape(c) = c of one number":
        RESHAPE(c @ CONSTANT()) if |m| m.splat("c").is_some() => [|m| same_constant(m)]()),
    rule!("transpose(c) = c of one number":
        TRANSPOSE(c @ CONSTANT()) if |m| m.splat("c").is_some() => [|m| same_constant(m)]()),
    rule!("slice(c) = c of one number":
        SLICE(c @ CONSTANT()) if |m| m.splat("c").is_some() => [|m| same_constant(m)]()),

    rule!("cast(x) = x to the same type":
        CAST(x) => x),
    rule!("cast(cast(x, A), B) = cast(x, B) if A holds x exactly":
        CAST(a @ CAST(x)) if |m| is_widening(m) => [|m| cast(m)](x)),

    rule!("matmul(x, transpose(w)) = matmul(x, w) with the right side transposed":
        y @ MATMUL(x, t @ TRANSPOSE(w)) if |m| swaps_last_two(m) => [|m| transposed_matmul(m)](x, w)),
];

/// A conversion to the root's storage.
fn cast(m: &Match<'_>) -> Option<New> {
    m.root().map(|ty| ops::Cast { to: ty.storage() }.into())
}

/// A constant of the same number with the type of the root.
fn same_constant(m: &Match<'_>) -> Option<New> {
    Some(New::typed(m.attributes::<ops::Constant>("c")?, m.root()?.clone()))
}

fn permutation(m: &Match<'_>, name: &str) -> Option<Vec<usize>> {
    m.attributes::<ops::Transpose>(name).map(|attributes| attributes.permutation)
}

/// Result dimension `i` of the second is dimension `q[i]` of the first, which is dimension `p[q[i]]` of x.
fn compose(m: &Match<'_>) -> Option<New> {
    let (p, q) = (permutation(m, "p")?, permutation(m, "q")?);
    let permutation = q.iter().map(|axis| p.get(*axis).copied()).collect::<Option<_>>()?;
    Some(ops::Transpose { permutation }.into())
}

/// Dimension `i` of x is dimension `a[i]` of the first result and so dimension `b[a[i]]` of the second.
fn broadcast_twice(m: &Match<'_>) -> Option<New> {
    let (a, b) = (m.attributes::<ops::Broadcast>("a")?.axes, m.attributes::<ops::Broadcast>("b")?.axes);
    let axes = a.iter().map(|axis| b.get(*axis).copied()).collect::<Option<_>>()?;
    Some(ops::Broadcast { axes }.into())
}

fn starts_at_zero(m: &Match<'_>) -> bool {
    m.attributes::<ops::Slice>("s").is_some_and(|slice| slice.starts.iter().all(|start| *start == 0))
}

/// The second slice counts from where the first starts. A symbolic dimension is whole in both.
fn slice_twice(m: &Match<'_>) -> Option<New> {
    let (a, b) = (m.attributes::<ops::Slice>("a")?, m.attributes::<ops::Slice>("b")?);
    let starts = a.starts.iter().zip(&b.starts).map(|(a, b)| a.checked_add(*b)).collect::<Option<_>>()?;
    let limit = |(start, limit): (&usize, &Dim)| match limit {
        Dim::Static(limit) => limit.checked_add(*start as u64).map(Dim::Static),
        Dim::Symbol(symbol) => Some(Dim::Symbol(symbol.clone())),
    };
    let limits = a.starts.iter().zip(&b.limits).map(limit).collect::<Option<_>>()?;
    Some(ops::Slice { starts, limits }.into())
}

/// Whether the inner of two casts loses nothing.
fn is_widening(m: &Match<'_>) -> bool {
    match (m.tensor("x"), m.tensor("a")) {
        (Some(x), Some(a)) => holds(a.storage(), x.storage()),
        _ => false,
    }
}

/// Whether the transpose `t` swaps the last two dimensions and leaves the others.
fn swaps_last_two(m: &Match<'_>) -> bool {
    permutation(m, "t").is_some_and(|permutation| {
        let rank = permutation.len();
        let expected = (0..rank).map(|axis| match rank - axis {
            2 => rank - 1,
            1 => rank - 2,
            _ => axis,
        });
        rank >= 2 && permutation.iter().copied().eq(expected)
    })
}

fn transposed_matmul(m: &Match<'_>) -> Option<New> {
    let matmul = m.attributes::<ops::Matmul>("y")?;
    Some(ops::Matmul { transpose_rhs: !matmul.transpose_rhs }.into())
}
