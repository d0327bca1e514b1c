//! Identities of arithmetic and logic.
//!
//! They hold bit for bit, or up to the sign of zero, for every number with infinities and NaN among them; so `x · 0 = 0` and `x − x = 0`
//! are for integers alone.

use tessera_ir::ops;

use crate::graph::rewrite::{Match, New, Rule, rule};

/// Identities of arithmetic and logic.
pub static ALGEBRA: &[Rule] = &[
    rule!("−(−x) = x":
        NEG(NEG(x)) => x),
    rule!("|−x| = |x|":
        ABS(NEG(x)) => [ops::Abs {}](x)),
    rule!("||x|| = |x|":
        ABS(y @ ABS(x)) => y),
    rule!("relu(relu(x)) = relu(x)":
        RELU(y @ RELU(x)) => y),
    rule!("not(not(x)) = x":
        NOT(NOT(x)) => x),

    rule!("c + x = x + c":
        ADD(c @ CONSTANT(), x) if |m| m.operand_is(0, "c") && !m.is("x", ops::CONSTANT) => [ops::Add {}](x, c)),
    rule!("c · x = x · c":
        MUL(c @ CONSTANT(), x) if |m| m.operand_is(0, "c") && !m.is("x", ops::CONSTANT) => [ops::Mul {}](x, c)),
    rule!("max(c, x) = max(x, c)":
        MAXIMUM(c @ CONSTANT(), x) if |m| m.operand_is(0, "c") && !m.is("x", ops::CONSTANT) => [ops::Maximum {}](x, c)),
    rule!("min(c, x) = min(x, c)":
        MINIMUM(c @ CONSTANT(), x) if |m| m.operand_is(0, "c") && !m.is("x", ops::CONSTANT) => [ops::Minimum {}](x, c)),

    rule!("x + 0 = x":
        ADD(x, 0.0) => x),
    rule!("x − 0 = x":
        SUB(x, 0.0) => x),
    rule!("0 − x = −x":
        SUB(0.0, x) => [ops::Neg {}](x)),
    rule!("x − x = 0 of integers":
        SUB(x, x) if |m| m.is_integer("x") => [|m| zero(m)]()),
    rule!("x + −y = x − y":
        ADD(x, NEG(y)) => [ops::Sub {}](x, y)),
    rule!("x − −y = x + y":
        SUB(x, NEG(y)) => [ops::Add {}](x, y)),

    rule!("x · 1 = x":
        MUL(x, 1.0) => x),
    rule!("x · 0 = 0 of integers":
        MUL(x, 0.0) if |m| m.is_integer("x") => [|m| zero(m)]()),
    rule!("x · −1 = −x":
        MUL(x, -1.0) => [ops::Neg {}](x)),
    rule!("x / 1 = x":
        DIV(x, 1.0) => x),
    rule!("1 / √x = rsqrt(x)":
        DIV(1.0, SQRT(x)) => [ops::Rsqrt {}](x)),
    rule!("x / 2ⁿ = x · 2⁻ⁿ of floats":
        DIV(x, c @ CONSTANT()) if |m| m.is_float("x") => [ops::Mul {}](x, [|m| inverse_power_of_two(m)]())),
    rule!("x¹ = x":
        POWER(x, 1.0) => x),
    rule!("x² = x · x":
        POWER(x, 2.0) => [ops::Mul {}](x, x)),

    rule!("max(x, x) = x":
        MAXIMUM(x, x) => x),
    rule!("min(x, x) = x":
        MINIMUM(x, x) => x),
    rule!("x and x = x":
        AND(x, x) => x),
    rule!("x or x = x":
        OR(x, x) => x),
    rule!("x xor x = 0":
        XOR(x, x) => [|m| zero(m)]()),
    rule!("select(p, x, x) = x":
        SELECT(p, x, x) => x),
    rule!("select(not p, x, y) = select(p, y, x)":
        SELECT(NOT(p), x, y) => [ops::Select {}](p, y, x)),
];

/// Zero of the root's type.
fn zero(m: &Match<'_>) -> Option<New> {
    let ty = m.root()?;
    let value = if ty.storage().is_integer() { 0i64.into() } else { false.into() };
    (!ty.storage().is_float()).then(|| New::typed(ops::Constant { value }, ty.clone()))
}

/// The constant 1/c for the value `c`, if that is exact.
fn inverse_power_of_two(m: &Match<'_>) -> Option<New> {
    let inverse = m.splat("c")?.recip();
    let exact = inverse.is_normal() && inverse.to_bits().trailing_zeros() >= 52;
    let ty = m.tensor("c")?;
    (exact && ty.storage().round(inverse) == inverse)
        .then(|| New::typed(ops::Constant { value: inverse.into() }, ty.clone()))
}
