//! Transcendental functions of f32, without a library.
//!
//! The hardware's approximations (PTX ISA: ex2 2⁻²², lg2 2⁻²² absolute, rsqrt 2⁻²²·⁹) where they suffice for a relative error of about 2⁻²²;
//! minimax polynomials elsewhere. NaN comes out as NaN; limits at zero and infinity are those of IEEE 754.

use super::emit::{Emitter, FloatPredicate, IntegerPredicate, Scalar, Val};

const LOG2_E: f64 = std::f64::consts::LOG2_E;
const LN_2: f64 = std::f64::consts::LN_2;

/// The part of a constant that an f32 cannot hold.
fn rest(constant: f64) -> f64 {
    constant - f64::from(constant as f32)
}

/// A polynomial in Horner's scheme, coefficients from the constant one on.
fn polynomial<'a>(e: &mut Emitter<'a>, x: Val<'a>, coefficients: &[f64]) -> Val<'a> {
    let mut terms = coefficients.iter().rev();
    let mut result = e.f32(terms.next().copied().unwrap_or(0.0));
    for &coefficient in terms {
        let coefficient = e.f32(coefficient);
        result = e.fma(Scalar::F32, result, x, coefficient);
    }
    result
}

fn call<'a>(e: &mut Emitter<'a>, name: &str, operands: &[Val<'a>]) -> Val<'a> {
    let float = e.scalar_type(Scalar::F32);
    e.intrinsic(name, operands, float)
}

/// The larger or smaller; a NaN on the left is kept.
fn clamp<'a>(e: &mut Emitter<'a>, x: Val<'a>, low: f64, high: f64) -> Val<'a> {
    let (low, high) = (e.f32(low), e.f32(high));
    let x = e.binary("llvm.intr.maximum", Scalar::F32, x, low);
    e.binary("llvm.intr.minimum", Scalar::F32, x, high)
}

/// 2ˣ
pub(super) fn exp2<'a>(e: &mut Emitter<'a>, x: Val<'a>) -> Val<'a> {
    call(e, "llvm.nvvm.ex2.approx.ftz.f32", &[x])
}

/// eˣ as 2^(x·log₂e), the product carried to twice the precision.
pub(super) fn exp<'a>(e: &mut Emitter<'a>, x: Val<'a>) -> Val<'a> {
    // Beyond these the result is 0 or infinity; the correction must stay finite.
    let x = clamp(e, x, -150.0, 150.0);
    let (high, low) = (e.f32(LOG2_E), e.f32(rest(LOG2_E)));
    let product = e.fmul(x, high);
    let negated = e.unary("llvm.fneg", Scalar::F32, product);
    let remainder = e.fma(Scalar::F32, x, high, negated);
    let remainder = e.fma(Scalar::F32, x, low, remainder);
    let power = exp2(e, product);
    let ln2 = e.f32(LN_2);
    let correction = e.fmul(remainder, ln2);
    // An infinite power times a small correction of either sign would be NaN where the correction is zero.
    let small = e.fma(Scalar::F32, power, correction, power);
    let infinity = e.f32(f64::INFINITY);
    let overflow = e.compare_floats(FloatPredicate::OrderedEqual, power, infinity);
    e.select(Scalar::F32, overflow, infinity, small)
}

/// Mantissa in [2/3, 4/3) and exponent of a positive x, so that x = mantissa · 2^exponent.
fn split<'a>(e: &mut Emitter<'a>, x: Val<'a>) -> (Val<'a>, Val<'a>) {
    let (least, scale, zero, shift) =
        (e.f32(f64::from(f32::MIN_POSITIVE)), e.f32(8_388_608.0), e.f32(0.0), e.f32(-23.0));
    let subnormal = e.compare_floats(FloatPredicate::OrderedLess, x, least);
    let scaled = e.fmul(x, scale);
    let x = e.select(Scalar::F32, subnormal, scaled, x);
    let bias = e.select(Scalar::F32, subnormal, shift, zero);
    let bits = e.bitcast(x, Scalar::I32);
    let two_thirds = e.i32(0x3f2a_aaab);
    let distance = e.sub(bits, two_thirds);
    let mask = e.i32(i64::from(0xff80_0000u32 as i32));
    let exponent_bits = e.and(distance, mask);
    let mantissa = e.sub(bits, exponent_bits);
    let mantissa = e.bitcast(mantissa, Scalar::F32);
    let float = e.scalar_type(Scalar::F32);
    let exponent = e.convert("llvm.sitofp", exponent_bits, float);
    let unit = e.f32(1.0 / 8_388_608.0);
    let exponent = e.fma(Scalar::F32, exponent, unit, bias);
    (mantissa, exponent)
}

/// ln(1+f)/f − 1 over f, for f in [−1/3, 1/3): the logarithm is f + f² times this.
fn log_tail<'a>(e: &mut Emitter<'a>, f: Val<'a>) -> Val<'a> {
    polynomial(
        e,
        f,
        &[
            -0.5,
            0.333_332_159_757,
            -0.249_997_976_831,
            0.200_104_063_259,
            -0.166_804_864_203,
            0.140_058_625_288,
            -0.121_842_778_065,
            0.139_844_672_218,
            -0.128_916_009_082,
        ],
    )
}

/// The limits of a logarithm: NaN below zero, −∞ at zero, +∞ and NaN as they come.
fn log_limits<'a>(e: &mut Emitter<'a>, x: Val<'a>, result: Val<'a>) -> Val<'a> {
    let (zero, infinity) = (e.f32(0.0), e.f32(f64::INFINITY));
    let (negative_infinity, nan) = (e.f32(f64::NEG_INFINITY), e.f32(f64::NAN));
    let finite = e.compare_floats(FloatPredicate::OrderedLess, x, infinity);
    let result = e.select(Scalar::F32, finite, result, x);
    let is_zero = e.compare_floats(FloatPredicate::OrderedEqual, x, zero);
    let result = e.select(Scalar::F32, is_zero, negative_infinity, result);
    let negative = e.compare_floats(FloatPredicate::OrderedLess, x, zero);
    e.select(Scalar::F32, negative, nan, result)
}

/// ln x
pub(super) fn log<'a>(e: &mut Emitter<'a>, x: Val<'a>) -> Val<'a> {
    let (mantissa, exponent) = split(e, x);
    let minus_one = e.f32(-1.0);
    let f = e.fadd(mantissa, minus_one);
    let tail = log_tail(e, f);
    let square = e.fmul(f, f);
    let log = e.fma(Scalar::F32, square, tail, f);
    let ln2 = e.f32(LN_2);
    let result = e.fma(Scalar::F32, exponent, ln2, log);
    log_limits(e, x, result)
}

/// log₂ x
pub(super) fn log2<'a>(e: &mut Emitter<'a>, x: Val<'a>) -> Val<'a> {
    let (mantissa, exponent) = split(e, x);
    let minus_one = e.f32(-1.0);
    let f = e.fadd(mantissa, minus_one);
    let tail = log_tail(e, f);
    let square = e.fmul(f, f);
    let log = e.fma(Scalar::F32, square, tail, f);
    let (high, low) = (e.f32(LOG2_E), e.f32(rest(LOG2_E)));
    let small = e.fmul(log, low);
    let fraction = e.fma(Scalar::F32, log, high, small);
    let result = e.fadd(exponent, fraction);
    log_limits(e, x, result)
}

/// 1/√x
pub(super) fn rsqrt<'a>(e: &mut Emitter<'a>, x: Val<'a>) -> Val<'a> {
    call(e, "llvm.nvvm.rsqrt.approx.f", &[x])
}

/// a / b with an error of at most 2 units in the last place.
pub(super) fn divide<'a>(e: &mut Emitter<'a>, a: Val<'a>, b: Val<'a>) -> Val<'a> {
    call(e, "llvm.nvvm.div.full", &[a, b])
}

/// Hyperbolic tangent: a polynomial near zero, 1 − 2/(e²ˣ + 1) elsewhere.
pub(super) fn tanh<'a>(e: &mut Emitter<'a>, x: Val<'a>) -> Val<'a> {
    let magnitude = e.unary("llvm.intr.fabs", Scalar::F32, x);
    let scale = e.f32(2.0 * LOG2_E);
    let product = e.fmul(magnitude, scale);
    let power = exp2(e, product);
    let (one, minus_two) = (e.f32(1.0), e.f32(-2.0));
    let sum = e.fadd(power, one);
    let reciprocal = call(e, "llvm.nvvm.rcp.approx.ftz.f", &[sum]);
    let large = e.fma(Scalar::F32, reciprocal, minus_two, one);
    let float = e.scalar_type(Scalar::F32);
    let large = e.intrinsic("llvm.copysign.f32", &[large, x], float);
    let square = e.fmul(x, x);
    let tail = polynomial(
        e,
        square,
        &[-0.333_332_839_379, 0.133_314_916_688, -0.053_743_532_646, 0.020_650_707_819, -0.005_717_187_517],
    );
    let cube = e.fmul(square, x);
    let small = e.fma(Scalar::F32, cube, tail, x);
    let limit = e.f32(0.6);
    let is_large = e.compare_floats(FloatPredicate::OrderedGreaterEqual, magnitude, limit);
    e.select(Scalar::F32, is_large, large, small)
}

/// Error function: a polynomial in x² up to 1, 1 − 2^p(|x|) beyond.
pub(super) fn erf<'a>(e: &mut Emitter<'a>, x: Val<'a>) -> Val<'a> {
    let magnitude = e.unary("llvm.intr.fabs", Scalar::F32, x);
    let four = e.f32(4.0);
    let clamped = e.binary("llvm.intr.minimum", Scalar::F32, magnitude, four);
    let exponent = polynomial(
        e,
        clamped,
        &[
            -3.699_598_696_386e-4,
            -1.626_532_079_516,
            -0.919_862_315_539_3,
            -0.149_415_531_951_3,
            3.181_435_304_530e-2,
            -4.327_434_540_986e-3,
            2.762_833_611_600e-4,
        ],
    );
    let complement = exp2(e, exponent);
    let one = e.f32(1.0);
    let large = e.fsub(one, complement);
    let float = e.scalar_type(Scalar::F32);
    let large = e.intrinsic("llvm.copysign.f32", &[large, x], float);
    let square = e.fmul(x, x);
    let factor = polynomial(
        e,
        square,
        &[
            1.128_379_165_727,
            -0.376_126_258_240_8,
            0.112_835_851_468_9,
            -2.685_381_186_357e-2,
            5.188_327_549_684e-3,
            -8.010_192_431_221e-4,
            7.853_857_413_671e-5,
        ],
    );
    let small = e.fmul(x, factor);
    let is_large = e.compare_floats(FloatPredicate::OrderedGreater, magnitude, one);
    e.select(Scalar::F32, is_large, large, small)
}

/// x less the nearest multiple of π/2 (Cody and Waite's reduction in three parts; exact enough while the multiple has at most 24 bits), and
/// the multiple's number.
fn quarter_turns<'a>(e: &mut Emitter<'a>, x: Val<'a>) -> (Val<'a>, Val<'a>) {
    let half_pi = std::f64::consts::FRAC_PI_2;
    let high = f64::from(half_pi as f32);
    let middle = f64::from((half_pi - high) as f32);
    // π/2 to 33 decimals is f64's π/2 and 6.123233995736766e-17.
    let low = half_pi - high - middle + 6.123_233_995_736_766e-17;
    let inverse = e.f32(1.0 / half_pi);
    let turns = e.fmul(x, inverse);
    let turns = e.unary("llvm.intr.roundeven", Scalar::F32, turns);
    let mut reduced = x;
    for part in [high, middle, low] {
        let part = e.f32(-part);
        reduced = e.fma(Scalar::F32, turns, part, reduced);
    }
    let word = e.scalar_type(Scalar::I32);
    let number = e.intrinsic("llvm.fptosi.sat.i32.f32", &[turns], word);
    (reduced, number)
}

/// The sine of a quarter turn's remainder, shifted by a number of quarter turns.
fn sine_of<'a>(e: &mut Emitter<'a>, reduced: Val<'a>, number: Val<'a>) -> Val<'a> {
    let square = e.fmul(reduced, reduced);
    let tail = polynomial(e, square, &[-0.166_666_542_290, 0.008_332_131_722, -0.000_195_108_703]);
    let cube = e.fmul(square, reduced);
    let sine = e.fma(Scalar::F32, cube, tail, reduced);
    let tail = polynomial(e, square, &[-0.5, 4.166_664_565_862e-2, -1.388_730_633_485e-3, 2.443_123_932_185e-5]);
    let one = e.f32(1.0);
    let cosine = e.fma(Scalar::F32, square, tail, one);
    let (bit0, bit1, zero) = (e.i32(1), e.i32(2), e.i32(0));
    let odd = e.and(number, bit0);
    let odd = e.compare_integers(IntegerPredicate::NotEqual, odd, zero);
    let value = e.select(Scalar::F32, odd, cosine, sine);
    let second_half = e.and(number, bit1);
    let sign = e.shl(second_half, 30);
    let bits = e.bitcast(value, Scalar::I32);
    let bits = e.xor(bits, sign);
    e.bitcast(bits, Scalar::F32)
}

/// Sine.
pub(super) fn sin<'a>(e: &mut Emitter<'a>, x: Val<'a>) -> Val<'a> {
    let (reduced, number) = quarter_turns(e, x);
    sine_of(e, reduced, number)
}

/// Cosine.
pub(super) fn cos<'a>(e: &mut Emitter<'a>, x: Val<'a>) -> Val<'a> {
    let (reduced, number) = quarter_turns(e, x);
    let one = e.i32(1);
    let number = e.add(number, one);
    sine_of(e, reduced, number)
}

/// a − b · trunc(a / b), by way of f64, where the quotient is exact enough for |a / b| up to 2²⁹.
pub(super) fn remainder<'a>(e: &mut Emitter<'a>, a: Val<'a>, b: Val<'a>) -> Val<'a> {
    let double = e.scalar_type(Scalar::F64);
    let (x, y) = (e.convert("llvm.fpext", a, double), e.convert("llvm.fpext", b, double));
    let quotient = e.binary("llvm.fdiv", Scalar::F64, x, y);
    let quotient = e.unary("llvm.intr.trunc", Scalar::F64, quotient);
    let negated = e.unary("llvm.fneg", Scalar::F64, quotient);
    let result = e.fma(Scalar::F64, negated, y, x);
    let float = e.scalar_type(Scalar::F32);
    let result = e.convert("llvm.fptrunc", result, float);
    // A finite number less no multiple of an infinite one is itself.
    let infinity = e.f32(f64::INFINITY);
    let magnitude = e.unary("llvm.intr.fabs", Scalar::F32, b);
    let (unbounded, size) = (
        e.compare_floats(FloatPredicate::OrderedEqual, magnitude, infinity),
        e.unary("llvm.intr.fabs", Scalar::F32, a),
    );
    let finite = e.compare_floats(FloatPredicate::OrderedLess, size, infinity);
    let whole = e.binary("llvm.and", Scalar::I1, unbounded, finite);
    let result = e.select(Scalar::F32, whole, a, result);
    e.intrinsic("llvm.copysign.f32", &[result, a], float)
}

/// aᵇ as 2^(b·log₂|a|) with the logarithm in two parts, so that the result keeps f32's precision for all exponents that do not overflow.
pub(super) fn power<'a>(e: &mut Emitter<'a>, a: Val<'a>, b: Val<'a>) -> Val<'a> {
    let double = e.scalar_type(Scalar::F64);
    let float = e.scalar_type(Scalar::F32);
    let magnitude = e.unary("llvm.intr.fabs", Scalar::F32, a);
    let (mantissa, exponent) = split(e, magnitude);
    // ln m = 2 artanh s with s = (m − 1)/(m + 1), |s| ≤ 1/5, as a series in f64.
    let mantissa = e.convert("llvm.fpext", mantissa, double);
    let exponent = e.convert("llvm.fpext", exponent, double);
    let one = e.float(Scalar::F64, 1.0);
    let (difference, sum) =
        (e.binary("llvm.fsub", Scalar::F64, mantissa, one), e.binary("llvm.fadd", Scalar::F64, mantissa, one));
    let s = e.binary("llvm.fdiv", Scalar::F64, difference, sum);
    let square = e.binary("llvm.fmul", Scalar::F64, s, s);
    let mut series = e.float(Scalar::F64, 1.0 / 17.0);
    for odd in (1..=15).rev().step_by(2) {
        let term = e.float(Scalar::F64, 1.0 / f64::from(odd));
        series = e.fma(Scalar::F64, series, square, term);
    }
    let scale = e.float(Scalar::F64, 2.0 * LOG2_E);
    let scaled = e.binary("llvm.fmul", Scalar::F64, s, scale);
    let log = e.fma(Scalar::F64, series, scaled, exponent);
    let wide_b = e.convert("llvm.fpext", b, double);
    let product = e.binary("llvm.fmul", Scalar::F64, log, wide_b);
    let (low, high) = (e.float(Scalar::F64, -200.0), e.float(Scalar::F64, 200.0));
    let product = extremum64(e, FloatPredicate::OrderedGreater, product, low);
    let product = extremum64(e, FloatPredicate::OrderedLess, product, high);
    let whole = e.unary("llvm.intr.roundeven", Scalar::F64, product);
    let fraction = e.binary("llvm.fsub", Scalar::F64, product, whole);
    let fraction = e.convert("llvm.fptrunc", fraction, float);
    let whole = e.convert("llvm.fptrunc", whole, float);
    let (root, scale) = (exp2(e, fraction), exp2(e, whole));
    let value = e.fmul(root, scale);
    power_limits(e, a, b, magnitude, value)
}

/// The limits of a power (IEEE 754, `pow`).
fn power_limits<'a>(e: &mut Emitter<'a>, a: Val<'a>, b: Val<'a>, magnitude: Val<'a>, value: Val<'a>) -> Val<'a> {
    let (zero, one, infinity, nan) = (e.f32(0.0), e.f32(1.0), e.f32(f64::INFINITY), e.f32(f64::NAN));
    let select = |e: &mut Emitter<'a>, condition, yes, no| e.select(Scalar::F32, condition, yes, no);
    // |a| of 0 or ∞ goes to 0 or ∞ by the sign of b.
    let rises = e.compare_floats(FloatPredicate::OrderedGreater, b, zero);
    let at_zero = select(e, rises, zero, infinity);
    let at_infinity = select(e, rises, infinity, zero);
    let is_zero = e.compare_floats(FloatPredicate::OrderedEqual, a, zero);
    let value = select(e, is_zero, at_zero, value);
    let is_infinite = e.compare_floats(FloatPredicate::OrderedEqual, magnitude, infinity);
    let value = select(e, is_infinite, at_infinity, value);
    // A negative a: the sign of an odd whole b, NaN for a finite b that is not whole.
    let truncated = e.unary("llvm.intr.trunc", Scalar::F32, b);
    let half = e.f32(0.5);
    let halved = e.fmul(truncated, half);
    let half_whole = e.unary("llvm.intr.trunc", Scalar::F32, halved);
    let is_whole = e.compare_floats(FloatPredicate::OrderedEqual, truncated, b);
    let is_odd = e.compare_floats(FloatPredicate::UnorderedNotEqual, halved, half_whole);
    let odd = e.binary("llvm.and", Scalar::I1, is_whole, is_odd);
    let negated = e.unary("llvm.fneg", Scalar::F32, value);
    let bits = e.bitcast(a, Scalar::I32);
    let no_bits = e.i32(0);
    let negative = e.compare_integers(IntegerPredicate::SignedLess, bits, no_bits);
    let flips = e.binary("llvm.and", Scalar::I1, odd, negative);
    let value = select(e, flips, negated, value);
    let below = e.compare_floats(FloatPredicate::OrderedLess, a, zero);
    let finite = e.compare_floats(FloatPredicate::OrderedLess, magnitude, infinity);
    let truth = e.boolean(true);
    let broken = e.binary("llvm.xor", Scalar::I1, is_whole, truth);
    let undefined = e.binary("llvm.and", Scalar::I1, below, broken);
    let undefined = e.binary("llvm.and", Scalar::I1, undefined, finite);
    let value = select(e, undefined, nan, value);
    let unordered = e.compare_floats(FloatPredicate::Unordered, a, b);
    let value = select(e, unordered, nan, value);
    // 1ᵇ and a⁰ are 1, even of NaN.
    let unit = e.compare_floats(FloatPredicate::OrderedEqual, a, one);
    let no_power = e.compare_floats(FloatPredicate::OrderedEqual, b, zero);
    let value = select(e, unit, one, value);
    select(e, no_power, one, value)
}

/// The larger or smaller of two f64 by the predicate that the left one has to fulfil; NaN if either is NaN.
pub(super) fn extremum64<'a>(e: &mut Emitter<'a>, predicate: FloatPredicate, a: Val<'a>, b: Val<'a>) -> Val<'a> {
    let wins = e.compare_floats(predicate, a, b);
    let result = e.select(Scalar::F64, wins, a, b);
    let unordered = e.compare_floats(FloatPredicate::Unordered, a, b);
    let nan = e.float(Scalar::F64, f64::NAN);
    e.select(Scalar::F64, unordered, nan, result)
}
