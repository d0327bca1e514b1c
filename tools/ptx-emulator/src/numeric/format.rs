//! Narrow floating-point formats: f16, bf16, tf32, fp8, fp6, fp4 and scale factors.

use super::rounding::Rounding;

/// What the largest exponent means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Top {
    /// Infinities and NaNs, as in IEEE 754.
    Ieee,
    /// Numbers, but for all ones, which is NaN.
    OneNan,
    /// Numbers only.
    Finite,
}

/// A floating-point format of at most 32 bits: sign, exponent, mantissa.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    exponent: u32,
    mantissa: u32,
    top: Top,
    signed: bool,
}

/// IEEE binary16.
pub const F16: Format = Format { exponent: 5, mantissa: 10, top: Top::Ieee, signed: true };
/// bfloat16.
pub const BF16: Format = Format { exponent: 8, mantissa: 7, top: Top::Ieee, signed: true };
/// TensorFloat-32: as an f32 whose low 13 bits do not count, here shifted out.
pub const TF32: Format = Format { exponent: 8, mantissa: 10, top: Top::Ieee, signed: true };
/// fp8 with 4 bits of exponent: no infinities (OCP OFP8).
pub const E4M3: Format = Format { exponent: 4, mantissa: 3, top: Top::OneNan, signed: true };
/// fp8 with 5 bits of exponent.
pub const E5M2: Format = Format { exponent: 5, mantissa: 2, top: Top::Ieee, signed: true };
/// fp6 with 2 bits of exponent (OCP MX).
pub const E2M3: Format = Format { exponent: 2, mantissa: 3, top: Top::Finite, signed: true };
/// fp6 with 3 bits of exponent.
pub const E3M2: Format = Format { exponent: 3, mantissa: 2, top: Top::Finite, signed: true };
/// fp4.
pub const E2M1: Format = Format { exponent: 2, mantissa: 1, top: Top::Finite, signed: true };
/// Scale factors of nvfp4: e4m3 without a sign.
pub const UE4M3: Format = Format { exponent: 4, mantissa: 3, top: Top::OneNan, signed: false };

/// The value of a scale factor of the MX formats: a power of two, or NaN.
pub fn ue8m0(bits: u8) -> f32 {
    match bits {
        0xff => f32::NAN,
        0 => f32::from_bits(1 << 22),
        _ => f32::from_bits(u32::from(bits) << 23),
    }
}

impl Format {
    /// The format of a type's name.
    pub fn named(name: &str) -> Option<Format> {
        Some(match name {
            "f16" => F16,
            "bf16" => BF16,
            "tf32" => TF32,
            "e4m3" => E4M3,
            "e5m2" => E5M2,
            "e2m3" => E2M3,
            "e3m2" => E3M2,
            "e2m1" => E2M1,
            "ue4m3" => UE4M3,
            _ => return None,
        })
    }

    /// IEEE binary32.
    pub const fn single() -> Format {
        Format { exponent: 8, mantissa: 23, top: Top::Ieee, signed: true }
    }

    /// How many bits it has.
    pub const fn bits(self) -> u32 {
        self.exponent + self.mantissa + self.signed as u32
    }

    /// How many bits of mantissa it has.
    pub const fn mantissa_bits(self) -> u32 {
        self.mantissa
    }

    const fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    /// The largest finite number's bits.
    const fn largest(self) -> u32 {
        let magnitude = 1u32 << (self.exponent + self.mantissa);
        match self.top {
            Top::Ieee => magnitude - (1 << self.mantissa) - 1,
            Top::OneNan => magnitude - 2,
            Top::Finite => magnitude - 1,
        }
    }

    /// The value, which an f32 holds exactly.
    pub fn decode(self, bits: u32) -> f32 {
        let magnitude = bits & ((1 << (self.exponent + self.mantissa)) - 1);
        let negative = self.signed && bits >> (self.exponent + self.mantissa) & 1 != 0;
        let (exponent, mantissa) = (magnitude >> self.mantissa, magnitude & ((1 << self.mantissa) - 1));
        let value = if magnitude > self.largest() {
            if self.top == Top::Ieee && mantissa == 0 { f64::INFINITY } else { f64::NAN }
        } else {
            let unit = exponent.max(1) as i32 - self.bias() - self.mantissa as i32;
            let whole = if exponent == 0 { mantissa } else { mantissa | 1 << self.mantissa };
            f64::from(whole) * f64::from_bits(((1023 + unit) as u64) << 52)
        };
        if negative { -value as f32 } else { value as f32 }
    }

    /// The nearest number in a direction. What is too large becomes the largest number where `saturate` says so, else infinity or
    /// NaN; NaN becomes the format's positive NaN, or its largest number where it has none.
    pub fn encode(self, value: f64, rounding: Rounding, saturate: bool) -> u32 {
        let negative = value.is_sign_negative();
        let to_largest = match rounding {
            Rounding::Zero => true,
            Rounding::Down => !negative,
            Rounding::Up => negative,
            _ => false,
        };
        self.encode_by(value, saturate, to_largest, |odd, fraction| {
            let half = fraction.partial_cmp(&0.5).unwrap_or(std::cmp::Ordering::Less);
            rounding.up(negative, odd, half, fraction == 0.0)
        })
    }

    /// Rounded away from zero where random bits, added to as many of the first bits that are cut off, carry.
    pub fn encode_stochastic(self, value: f64, random: u32, bits: u32, saturate: bool) -> u32 {
        let one = f64::from(1u32 << bits);
        self.encode_by(value, saturate, false, |_, fraction| (fraction * one).floor() + f64::from(random) >= one)
    }

    /// A number with its magnitude rounded as a function of its last kept bit and the fraction that is cut off says: up if it holds.
    /// What is too large though finite becomes the largest number where `to_largest` holds.
    fn encode_by(self, value: f64, saturate: bool, to_largest: bool, up: impl FnOnce(bool, f64) -> bool) -> u32 {
        let sign_at = self.exponent + self.mantissa;
        let nan = match self.top {
            Top::Finite => self.largest(),
            _ => (1 << sign_at) - 1,
        };
        if value.is_nan() {
            return nan;
        }
        let negative = value.is_sign_negative();
        let sign = if negative && self.signed { 1 << sign_at } else { 0 };
        if negative && !self.signed {
            return 0;
        }
        let magnitude = value.abs();
        if magnitude.is_infinite() {
            return match self.top {
                Top::Ieee if !saturate => sign | (self.largest() + 1),
                _ if saturate => sign | self.largest(),
                _ => sign | nan,
            };
        }
        if magnitude == 0.0 {
            return sign;
        }
        let smallest = 1 - self.bias();
        let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(smallest);
        let unit = exponent - self.mantissa as i32;
        // Exact: a power of two, within what an f64 has.
        let scaled = magnitude * f64::from_bits(((1023 - unit) as u64) << 52);
        let whole = scaled.floor();
        let whole = whole as u64 + u64::from(up(whole as u64 & 1 != 0, scaled - whole));
        let bits = (((exponent - smallest) as u64) << self.mantissa) + whole;
        if bits <= u64::from(self.largest()) {
            return sign | bits as u32;
        }
        let limit = match self.top {
            _ if saturate || to_largest => self.largest(),
            Top::Ieee => self.largest() + 1,
            _ => nan,
        };
        sign | limit
    }
}

/// A scale factor of the MX formats, rounded towards zero or up; what is too large becomes the largest, or NaN.
pub fn encode_ue8m0(value: f32, rounding: Rounding, saturate: bool) -> u8 {
    if value.is_nan() {
        return 0xff;
    }
    let bits = value.abs().to_bits();
    let (exponent, mantissa) = (bits >> 23, bits & 0x7f_ffff);
    // 2^-127 is the smallest; what is below it is rounded to it, as there is no zero.
    let exact = if exponent == 0 { mantissa <= 1 << 22 } else { mantissa == 0 };
    let code = exponent + u32::from(rounding == Rounding::Up && !exact && value.is_finite());
    code.min(if saturate { 0xfe } else { 0xff }) as u8
}

/// A fixed-point number of two integer bits, with the sign, and six of fraction; NaN is the largest. To nearest, ties to even.
pub fn encode_s2f6(value: f64) -> u8 {
    let units = if value.is_nan() { f64::INFINITY } else { (value * 64.0).round_ties_even() };
    units.clamp(-128.0, 127.0) as i8 as u8
}

/// The bits of an f16 nearest to a number; NaN is 0x7fff, as cvt gives it.
#[inline(always)]
pub fn to_f16(value: f32) -> u16 {
    if value.is_nan() { 0x7fff } else { half::f16::from_f32(value).to_bits() }
}

/// The bits of an f16 nearest to a number, which is rounded once.
#[inline(always)]
pub fn double_to_f16(value: f64) -> u16 {
    let nearest = value as f32;
    let rest = value - f64::from(nearest);
    // Rounded to odd an f32 keeps what decides how an f16 is rounded (Boldo, Melquiond).
    let odd = if rest == 0.0 || !nearest.is_finite() || nearest.to_bits() & 1 != 0 {
        nearest
    } else if rest > 0.0 {
        nearest.next_up()
    } else {
        nearest.next_down()
    };
    to_f16(odd)
}

/// The value of the low 16 bits as an f16, without a choice that would keep a loop from being vectorized.
#[inline(always)]
pub fn f16_to_f32(bits: u32) -> f32 {
    let magnitude = bits & 0x7fff;
    // The exponent's bias is made up for by a product, which is exact for subnormal numbers too.
    let finite = f32::from_bits(magnitude << 13) * f32::from_bits((127 + 127 - 15) << 23);
    let all_ones = if magnitude >= 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(finite.to_bits() | all_ones | (bits & 0x8000) << 16)
}

/// The bits of a bf16 nearest to a number; NaN is 0x7fff.
#[inline(always)]
pub fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    if value.is_nan() { 0x7fff } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_and_bf16_agree_with_half_everywhere() {
        for bits in 0..=u16::MAX {
            let (mine, theirs) = (F16.decode(u32::from(bits)), half::f16::from_bits(bits).to_f32());
            assert!(mine.to_bits() == theirs.to_bits() || mine.is_nan() && theirs.is_nan(), "{bits:04x}");
            let fast = f16_to_f32(u32::from(bits));
            assert!(fast.to_bits() == theirs.to_bits() || fast.is_nan() && theirs.is_nan(), "{bits:04x}");
            let (mine, theirs) = (BF16.decode(u32::from(bits)), half::bf16::from_bits(bits).to_f32());
            assert!(mine.to_bits() == theirs.to_bits() || mine.is_nan() && theirs.is_nan(), "{bits:04x}");
        }
        let mut value = 1u32;
        for _ in 0..500_000 {
            value = value.wrapping_mul(1664525).wrapping_add(1013904223);
            let number = f32::from_bits(value);
            assert_eq!(F16.encode(number.into(), Rounding::Nearest, false), u32::from(to_f16(number)), "{value:08x}");
            assert_eq!(BF16.encode(number.into(), Rounding::Nearest, false), u32::from(to_bf16(number)), "{value:08x}");
        }
    }

    #[test]
    fn every_number_survives_and_neighbours_bound_what_is_between() {
        for format in [F16, BF16, TF32, E4M3, E5M2, E2M3, E3M2, E2M1, UE4M3] {
            let numbers = 0..=format.largest();
            for bits in numbers.clone() {
                let value = f64::from(format.decode(bits));
                for rounding in [Rounding::Nearest, Rounding::Zero, Rounding::Up, Rounding::Down] {
                    assert_eq!(format.encode(value, rounding, false), bits, "{format:?}");
                }
                if bits < format.largest() {
                    let next = f64::from(format.decode(bits + 1));
                    let middle = (value + next) / 2.0;
                    let even = if bits & 1 == 0 { bits } else { bits + 1 };
                    assert_eq!(format.encode(middle, Rounding::Nearest, false), even);
                    assert_eq!(format.encode(middle.next_up(), Rounding::Nearest, false), bits + 1);
                    assert_eq!(format.encode(middle, Rounding::NearestAway, false), bits + 1);
                    assert_eq!(format.encode(middle, Rounding::Zero, false), bits);
                    assert_eq!(format.encode(middle, Rounding::Up, false), bits + 1);
                    if format.signed {
                        let sign = 1 << (format.bits() - 1);
                        assert_eq!(format.encode(-middle, Rounding::Down, false), sign | (bits + 1));
                    }
                }
            }
        }
    }

    #[test]
    fn known_numbers() {
        assert_eq!(E4M3.decode(0x7e), 448.0);
        assert!(E4M3.decode(0x7f).is_nan());
        assert_eq!(E5M2.decode(0x7b), 57344.0);
        assert_eq!(E2M1.decode(7), 6.0);
        assert_eq!(E2M3.decode(0x1f), 7.5);
        assert_eq!(E3M2.decode(0x1f), 28.0);
        assert_eq!(E4M3.encode(1e9, Rounding::Nearest, true), 0x7e);
        assert_eq!(E4M3.encode(1e9, Rounding::Nearest, false), 0x7f);
        assert_eq!(E5M2.encode(1e9, Rounding::Nearest, false), 0x7c);
        assert_eq!(E2M1.encode(f64::NAN, Rounding::Nearest, true), 7);
        assert_eq!(ue8m0(127), 1.0);
        assert_eq!(ue8m0(0), 2f32.powi(-127));
        assert_eq!(encode_ue8m0(3.0, Rounding::Up, true), 129);
        assert_eq!(encode_ue8m0(3.0, Rounding::Zero, true), 128);
    }
}
