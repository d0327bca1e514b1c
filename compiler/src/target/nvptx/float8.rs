//! 8-bit floats: constants on the machine that compiles, conversions in software where the chip has no instruction.

use super::emit::{Emitter, FloatPredicate, IntegerPredicate, Scalar, Val};
use crate::tile::Element;

/// What distinguishes the two formats.
#[derive(Clone, Copy)]
struct Format {
    /// Bits of the mantissa.
    mantissa: u32,
    /// Exponent of the smallest normal number.
    least_exponent: i32,
    /// Bits of the largest finite number.
    largest: u8,
    /// Bits of NaN.
    nan: u8,
    /// Its value.
    limit: f64,
}

fn format(element: Element) -> Format {
    match element {
        Element::Fp8E5M2 => Format { mantissa: 2, least_exponent: -14, largest: 0x7b, nan: 0x7f, limit: 57344.0 },
        _ => Format { mantissa: 3, least_exponent: -6, largest: 0x7e, nan: 0x7f, limit: 448.0 },
    }
}

/// The nearest 8-bit float, ties to even, saturating.
pub(super) fn encode(value: f64, element: Element) -> u8 {
    let format = format(element);
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    if value.is_nan() {
        return sign | format.nan;
    }
    let magnitude = value.abs();
    if magnitude >= format.limit {
        return sign | format.largest;
    }
    // The unit of the binade; multiples of it are the numbers there, and their bits count on across binades.
    let exponent = (magnitude.log2().floor() as i32).max(format.least_exponent);
    let steps = (magnitude * f64::from(format.mantissa as i32 - exponent).exp2()).round_ties_even();
    let binade = (exponent - format.least_exponent) as u32;
    sign | ((binade << format.mantissa) + steps as u32) as u8
}

/// An 8-bit float's bits in an i8 as an f16; exact.
pub(super) fn to_f16<'a>(e: &mut Emitter<'a>, value: Val<'a>, element: Element) -> Val<'a> {
    let half = e.scalar_type(Scalar::I16);
    let wide = e.convert("llvm.zext", value, half);
    let eight = e.integer(Scalar::I16, 8);
    if element == Element::Fp8E5M2 {
        // The high byte of an f16.
        let bits = e.binary("llvm.shl", Scalar::I16, wide, eight);
        return e.bitcast(bits, Scalar::F16);
    }
    // Exponent and mantissa in place, with a bias that is 8 too small: a multiplication by 2⁸ mends it, subnormals too.
    let shifted = e.binary("llvm.shl", Scalar::I16, wide, eight);
    let sign_mask = e.integer(Scalar::I16, i64::from(0x8000u16 as i16));
    let sign = e.binary("llvm.and", Scalar::I16, shifted, sign_mask);
    let magnitude_mask = e.integer(Scalar::I16, 0x7f);
    let magnitude = e.binary("llvm.and", Scalar::I16, wide, magnitude_mask);
    let seven = e.integer(Scalar::I16, 7);
    let bits = e.binary("llvm.shl", Scalar::I16, magnitude, seven);
    let bits = e.binary("llvm.or", Scalar::I16, bits, sign);
    let small = e.bitcast(bits, Scalar::F16);
    let scale = e.float(Scalar::F16, 256.0);
    let number = e.binary("llvm.fmul", Scalar::F16, small, scale);
    let is_nan = e.compare_integers(IntegerPredicate::Equal, magnitude, magnitude_mask);
    let nan = e.float(Scalar::F16, f64::NAN);
    e.select(Scalar::F16, is_nan, nan, number)
}

/// An f32 as the nearest 8-bit float, saturating, in an i8.
pub(super) fn from_f32<'a>(e: &mut Emitter<'a>, value: Val<'a>, element: Element) -> Val<'a> {
    let format = format(element);
    let bits = e.bitcast(value, Scalar::I32);
    let magnitude_mask = e.i32(0x7fff_ffff);
    let magnitude_bits = e.and(bits, magnitude_mask);
    let magnitude = e.bitcast(magnitude_bits, Scalar::F32);
    // Below the least normal number: adding a number whose last place is the subnormal unit rounds to it.
    let unit_exponent = format.least_exponent - format.mantissa as i32;
    let magic = f64::from(unit_exponent + 23).exp2();
    let magic_bits = i64::from((magic as f32).to_bits());
    let magic = e.f32(magic);
    let sum = e.fadd(magnitude, magic);
    let sum_bits = e.bitcast(sum, Scalar::I32);
    let magic_bits = e.i32(magic_bits);
    let subnormal = e.sub(sum_bits, magic_bits);
    // Above: the dropped mantissa bits are rounded to even in place and the exponent is rebiased.
    let dropped = 23 - format.mantissa;
    let last = e.lshr(magnitude_bits, dropped);
    let one = e.i32(1);
    let odd = e.and(last, one);
    let rebias = (i64::from(1 - format.least_exponent) - 127) * (1 << 23);
    let bias = e.i32(rebias + (1 << (dropped - 1)) - 1);
    let rounded = e.add(magnitude_bits, bias);
    let rounded = e.add(rounded, odd);
    let normal = e.lshr(rounded, dropped);
    let least = e.f32(f64::from(format.least_exponent).exp2());
    let is_small = e.compare_floats(FloatPredicate::OrderedLess, magnitude, least);
    let result = e.select(Scalar::I32, is_small, subnormal, normal);
    let limit = e.f32(format.limit);
    let (largest, nan) = (e.i32(i64::from(format.largest)), e.i32(i64::from(format.nan)));
    let is_large = e.compare_floats(FloatPredicate::OrderedGreaterEqual, magnitude, limit);
    let result = e.select(Scalar::I32, is_large, largest, result);
    let is_nan = e.compare_floats(FloatPredicate::Unordered, value, value);
    let result = e.select(Scalar::I32, is_nan, nan, result);
    let sign = e.lshr(bits, 24);
    let sign_mask = e.i32(0x80);
    let sign = e.and(sign, sign_mask);
    let result = e.binary("llvm.or", Scalar::I32, result, sign);
    let byte = e.scalar_type(Scalar::I8);
    e.convert("llvm.trunc", result, byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_round_and_saturate() {
        for (value, e4m3, e5m2) in [
            (0.0, 0x00, 0x00),
            (1.0, 0x38, 0x3c),
            (-1.5, 0xbc, 0xbe),
            (448.0, 0x7e, 0x5f),
            (1e9, 0x7e, 0x7b),
            (f64::NEG_INFINITY, 0xfe, 0xfb),
            (1.0625, 0x38, 0x3c),
            (1.1875, 0x3a, 0x3d),
            (0.001953125, 0x01, 0x18),
            (0.0009765625, 0x00, 0x14),
            (15.9, 0x58, 0x4c),
        ] {
            assert_eq!(encode(value, Element::Fp8E4M3), e4m3, "{value} as e4m3");
            assert_eq!(encode(value, Element::Fp8E5M2), e5m2, "{value} as e5m2");
        }
    }
}
