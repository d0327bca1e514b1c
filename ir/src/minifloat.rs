//! Binary floating-point formats of at most 16 bits, described by data and converted exactly.
//!
//! One description serves f16, bf16, the OCP 8-bit formats ("OCP 8-bit Floating Point
//! Specification", revision 1.0) and the 6- and 4-bit element formats of "OCP Microscaling Formats
//! (MX) Specification", version 1.0. Rounding is to nearest, ties to even, directly from f64, so
//! that no value is rounded twice.

/// What a format does with the values it has no finite number for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// IEEE 754: infinities and NaNs in the largest exponent; overflow gives infinity.
    Ieee,
    /// Encodings as IEEE 754, but conversion saturates to the largest finite number, infinities
    /// included, as the `satfinite` conversions of GPUs do (fp8 e5m2).
    IeeeSaturating,
    /// No infinity, one NaN per sign (all bits set); conversion saturates (fp8 e4m3fn).
    NanOnly,
    /// Neither infinity nor NaN; conversion saturates and NaN becomes the largest number (fp6, fp4).
    None,
}

/// A sign bit, `exponent_bits`, `mantissa_bits`, and the rule for special values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minifloat {
    /// Width of the exponent field.
    pub exponent_bits: u32,
    /// Width of the mantissa field, without the hidden bit.
    pub mantissa_bits: u32,
    /// Special values.
    pub specials: Specials,
}

/// IEEE 754 binary16.
pub const F16: Minifloat = Minifloat::new(5, 10, Specials::Ieee);
/// The upper half of binary32.
pub const BF16: Minifloat = Minifloat::new(8, 7, Specials::Ieee);
/// OCP E4M3, "fn" flavour: finite and NaN only.
pub const FP8_E4M3: Minifloat = Minifloat::new(4, 3, Specials::NanOnly);
/// OCP E5M2.
pub const FP8_E5M2: Minifloat = Minifloat::new(5, 2, Specials::IeeeSaturating);
/// OCP E2M3.
pub const FP6_E2M3: Minifloat = Minifloat::new(2, 3, Specials::None);
/// OCP E3M2.
pub const FP6_E3M2: Minifloat = Minifloat::new(3, 2, Specials::None);
/// OCP E2M1.
pub const FP4_E2M1: Minifloat = Minifloat::new(2, 1, Specials::None);

impl Minifloat {
    /// A format of the given field widths; the bias is the IEEE one, `2^(exponent_bits - 1) - 1`.
    pub const fn new(exponent_bits: u32, mantissa_bits: u32, specials: Specials) -> Self {
        Minifloat { exponent_bits, mantissa_bits, specials }
    }

    /// Bits of one number, the sign included.
    pub const fn bits(self) -> u32 {
        1 + self.exponent_bits + self.mantissa_bits
    }

    const fn bias(self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    /// Exponent of the smallest normal number, and of the subnormals.
    const fn minimum_exponent(self) -> i32 {
        1 - self.bias()
    }

    /// The largest finite number.
    pub fn maximum(self) -> f64 {
        let all_ones = (1u32 << self.exponent_bits) - 1;
        let mantissa_ones = (1u32 << self.mantissa_bits) - 1;
        let (exponent, mantissa) = match self.specials {
            Specials::Ieee | Specials::IeeeSaturating => (all_ones - 1, mantissa_ones),
            Specials::NanOnly => (all_ones, mantissa_ones - 1),
            Specials::None => (all_ones, mantissa_ones),
        };
        self.decode_finite(exponent, mantissa)
    }

    fn saturates(self) -> bool {
        self.specials != Specials::Ieee
    }

    /// The number of this format nearest to `value`, ties to even.
    pub fn round(self, value: f64) -> f64 {
        if value.is_nan() {
            return if self.specials == Specials::None { self.maximum() } else { value };
        }
        if value == 0.0 {
            return value;
        }
        let maximum = self.maximum();
        if value.is_infinite() {
            return if self.saturates() { maximum.copysign(value) } else { value };
        }
        // Subnormal f64 are far below the range of every format here: their exponent field of zero
        // gives -1023, and the minimum exponent takes over.
        let exponent = ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023;
        let quantum = exponent.max(self.minimum_exponent()) - self.mantissa_bits as i32;
        let rounded = (value * power_of_two(-quantum)).round_ties_even() * power_of_two(quantum);
        if rounded.abs() <= maximum {
            rounded
        } else if self.saturates() {
            maximum.copysign(value)
        } else {
            f64::INFINITY.copysign(value)
        }
    }

    /// Rounds `value` and gives its bits.
    pub fn encode(self, value: f64) -> u16 {
        let sign = u32::from(value.is_sign_negative()) << (self.bits() - 1);
        let all_ones = (1u32 << self.exponent_bits) - 1;
        let rounded = self.round(value);
        let magnitude = if rounded.is_nan() {
            match self.specials {
                Specials::NanOnly => (1u32 << (self.bits() - 1)) - 1,
                _ => all_ones << self.mantissa_bits | 1 << (self.mantissa_bits - 1),
            }
        } else if rounded.is_infinite() {
            all_ones << self.mantissa_bits
        } else if rounded == 0.0 {
            0
        } else {
            let exponent = ((rounded.to_bits() >> 52) & 0x7ff) as i32 - 1023;
            let clamped = exponent.max(self.minimum_exponent());
            // An integer: the mantissa with its hidden bit, or without it for a subnormal. Adding
            // the hidden bit of a normal number to the field of the smallest normal exponent minus
            // one yields the right exponent field.
            let significand = (rounded.abs() * power_of_two(self.mantissa_bits as i32 - clamped)) as u32;
            (((clamped - self.minimum_exponent()) as u32) << self.mantissa_bits) + significand
        };
        let sign = if self.specials == Specials::None && value.is_nan() { 0 } else { sign };
        (sign | magnitude) as u16
    }

    /// The number that `bits` stand for; bits above the format's width are ignored.
    pub fn decode(self, bits: u16) -> f64 {
        let bits = u32::from(bits);
        let exponent = bits >> self.mantissa_bits & ((1 << self.exponent_bits) - 1);
        let mantissa = bits & ((1 << self.mantissa_bits) - 1);
        let all_ones = (1u32 << self.exponent_bits) - 1;
        let magnitude = match self.specials {
            Specials::Ieee | Specials::IeeeSaturating if exponent == all_ones => {
                if mantissa == 0 {
                    f64::INFINITY
                } else {
                    f64::NAN
                }
            }
            Specials::NanOnly if exponent == all_ones && mantissa == (1 << self.mantissa_bits) - 1 => f64::NAN,
            _ => self.decode_finite(exponent, mantissa),
        };
        if bits >> (self.bits() - 1) & 1 == 1 { -magnitude } else { magnitude }
    }

    fn decode_finite(self, exponent: u32, mantissa: u32) -> f64 {
        let (significand, exponent) = match exponent {
            0 => (mantissa, self.minimum_exponent()),
            _ => (mantissa | 1 << self.mantissa_bits, exponent as i32 - self.bias()),
        };
        f64::from(significand) * power_of_two(exponent - self.mantissa_bits as i32)
    }
}

/// `2^exponent` for exponents of normal f64 numbers.
pub(crate) fn power_of_two(exponent: i32) -> f64 {
    debug_assert!((-1022..=1023).contains(&exponent));
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FORMATS: [Minifloat; 7] = [F16, BF16, FP8_E4M3, FP8_E5M2, FP6_E2M3, FP6_E3M2, FP4_E2M1];

    #[test]
    fn largest_numbers_are_those_of_the_specifications() {
        let maxima = FORMATS.map(Minifloat::maximum);
        let bf16 = f64::from(half::bf16::MAX.to_f32());
        assert_eq!(maxima, [65504.0, bf16, 448.0, 57344.0, 7.5, 28.0, 6.0]);
    }

    #[test]
    fn fp4_has_the_sixteen_numbers_of_the_specification() {
        let numbers: Vec<f64> = (0..8).map(|bits| FP4_E2M1.decode(bits)).collect();
        assert_eq!(numbers, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
        assert_eq!(FP4_E2M1.decode(0xf), -6.0);
    }

    #[test]
    fn every_encoding_survives_a_round_trip() {
        for format in FORMATS {
            for bits in 0..=((1u32 << format.bits()) - 1) as u16 {
                let value = format.decode(bits);
                if value.is_finite() {
                    assert_eq!(format.encode(value), bits, "{format:?} {value}");
                    assert_eq!(format.round(value).to_bits(), value.to_bits());
                }
            }
        }
    }

    #[test]
    fn rounding_goes_to_the_nearest_number_and_ties_go_to_even() {
        for format in FORMATS {
            let sign = 1u32 << (format.bits() - 1);
            for bits in 0..sign as u16 - 1 {
                let (low, high) = (format.decode(bits), format.decode(bits + 1));
                if !high.is_finite() {
                    continue;
                }
                let middle = (low + high) / 2.0;
                let even = if bits % 2 == 0 { low } else { high };
                assert_eq!(format.round(middle), even, "{format:?} {bits:#x}");
                assert_eq!(format.round(middle.next_down()), low);
                assert_eq!(format.round(middle.next_up()), high);
                assert_eq!(format.round(-middle), -even);
            }
        }
    }

    #[test]
    fn overflow_and_nan_follow_the_format() {
        assert_eq!(F16.round(65519.9), 65504.0);
        assert_eq!(F16.round(65520.0), f64::INFINITY);
        assert_eq!(FP8_E4M3.round(-1e9), -448.0);
        assert_eq!(FP8_E5M2.round(f64::INFINITY), 57344.0);
        assert!(FP8_E4M3.decode(FP8_E4M3.encode(f64::NAN)).is_nan());
        assert!(FP8_E5M2.decode(FP8_E5M2.encode(f64::NAN)).is_nan());
        assert_eq!(FP4_E2M1.round(f64::NAN), 6.0);
    }

    proptest! {
        #[test]
        fn f16_and_bf16_agree_with_the_half_crate(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            prop_assume!(!value.is_nan());
            let wide = f64::from(value);
            prop_assert_eq!(F16.encode(wide), half::f16::from_f32(value).to_bits());
            prop_assert_eq!(BF16.encode(wide), half::bf16::from_f32(value).to_bits());
        }
    }
}
