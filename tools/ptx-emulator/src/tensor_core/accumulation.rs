//! How tensor cores add up products.
//!
//! PTX leaves it open. By default sums are exact up to f64's precision and rounded once for an instruction. The other mode follows what
//! was measured on hardware (MMA-Sim, arXiv 2511.10909): the terms of a dot product and the accumulator are aligned to the largest
//! exponent among them, cut off beyond a number of fraction bits, added exactly, and the sum is cut off to f32. Hopper's fp8
//! products keep 13 bits, in the sum and in the accumulator, which is why long sums of them lose digits.

use super::element::Element;
use super::product;
use crate::numeric::format;

/// How sums are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accumulation {
    /// Once for an instruction, to nearest.
    #[default]
    Once,
    /// As the hardware aligns and cuts off.
    Hardware,
}

impl Accumulation {
    /// As the environment variable `PTX_EMULATOR_ACCUMULATE` says: `hardware`, or anything else for the default.
    pub fn from_environment() -> Accumulation {
        match std::env::var("PTX_EMULATOR_ACCUMULATE").as_deref() {
            Ok("hardware") => Accumulation::Hardware,
            _ => Accumulation::Once,
        }
    }
}

/// Which tensor core a rule is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// That of `mma.sync` and `wmma`.
    Warp,
    /// That of `wgmma`.
    Warpgroup,
    /// That of `tcgen05.mma`.
    TensorMemory,
}

/// The digits that a result keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Digits {
    /// Those of an f32, the rest cut off.
    Single,
    /// 13 bits of fraction and an f32's exponent, the rest cut off.
    Thirteen,
    /// Those of an f16, rounded to nearest.
    Half,
}

/// The exponent that numbers which are zero or subnormal have.
fn smallest_exponent(element: Element) -> i32 {
    match element {
        Element::F16 | Element::E5M2 => -14,
        Element::E4M3 => -6,
        Element::E2M3 | Element::E2M1 => 0,
        Element::E3M2 => -2,
        _ => -126,
    }
}

/// The exponent by which a number is aligned: that of its first digit, or its format's smallest.
fn exponent(value: f64, smallest: i32) -> i32 {
    if value == 0.0 {
        return -126;
    }
    // Exact: numbers of the formats here are normal in f64.
    ((value.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(smallest)
}

fn power(exponent: i32) -> f64 {
    2f64.powi(exponent)
}

/// How one instruction adds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    fraction: i32,
    digits: Digits,
    a_smallest: i32,
    b_smallest: i32,
    c_smallest: i32,
    /// The instruction is done as two, each of half of its depth.
    halves: bool,
}

impl Rule {
    /// Of a chip (`target` is `sm_90a` or such), for operands of these types, and accumulators that are f16 or f32.
    pub fn of(target: &str, unit: Unit, a: Element, b: Element, depth: usize, half: bool) -> Rule {
        let chip: u32 = target.trim_start_matches("sm_").trim_end_matches(['a', 'f']).parse().unwrap_or(100);
        let fp8 = |element| matches!(element, Element::E4M3 | Element::E5M2);
        let few = fp8(a) && fp8(b) && (chip == 89 || unit == Unit::Warpgroup);
        let fraction = match chip {
            _ if few => 13,
            ..75 => 23,
            75..90 => 24,
            _ => 25,
        };
        let deepest = match a {
            Element::F16 | Element::BF16 => 16,
            Element::TF32 => 8,
            _ => 32,
        };
        Rule {
            fraction,
            digits: match (half, few) {
                (true, _) => Digits::Half,
                (_, true) => Digits::Thirteen,
                _ => Digits::Single,
            },
            a_smallest: smallest_exponent(a),
            b_smallest: smallest_exponent(b),
            c_smallest: if half { -14 } else { -126 },
            halves: (80..90).contains(&chip) && unit == Unit::Warp && depth == deepest,
        }
    }

    /// The result of a sum as the accumulator keeps it.
    fn keep(&self, sum: f64) -> f64 {
        let (digits, smallest) = match self.digits {
            Digits::Single => (23, -126),
            Digits::Thirteen => (13, -126),
            Digits::Half => return half::f16::from_bits(format::double_to_f16(sum)).to_f64(),
        };
        if sum == 0.0 || !sum.is_finite() {
            return sum;
        }
        let unit = exponent(sum, smallest) - digits;
        let kept = (sum * power(-unit)).trunc() * power(unit);
        if kept.abs() >= power(128) { f64::INFINITY.copysign(kept) } else { kept }
    }

    /// The sum of terms and an accumulator. A term is its value and the exponent it is aligned by.
    fn sum(&self, accumulator: f64, terms: impl Iterator<Item = (f64, i32)> + Clone, fraction: i32) -> f64 {
        let plain = terms.clone().map(|(value, _)| value).sum::<f64>() + accumulator;
        if !plain.is_finite() {
            return plain;
        }
        let largest =
            terms.clone().map(|(_, exponent)| exponent).fold(exponent(accumulator, self.c_smallest), i32::max);
        let scale = power(fraction - largest);
        let all = terms.map(|(value, _)| (value * scale).trunc()).sum::<f64>() + (accumulator * scale).trunc();
        self.keep(all * power(largest - fraction))
    }

    fn dot(&self, accumulator: f64, a: &[f32], b: impl Iterator<Item = f32> + Clone, scale: (f64, i32)) -> f64 {
        let terms = a.iter().zip(b).map(|(a, b)| {
            let (a, b) = (f64::from(*a), f64::from(b));
            (a * b * scale.0, exponent(a, self.a_smallest) + exponent(b, self.b_smallest) + scale.1)
        });
        self.sum(accumulator, terms, self.fraction)
    }

    /// `d[m][n] += sum over k of a[m][k] * b[k][n]`, with the layout of [`product::multiply`].
    pub fn multiply(&self, a: &[f32], b: &[f32], d: &mut [f64], columns: usize, depth: usize) {
        let step = if self.halves { depth / 2 } else { depth };
        for (row, d) in a.chunks_exact(depth).zip(d.chunks_exact_mut(columns)) {
            for (column, d) in d.iter_mut().enumerate() {
                for start in (0..depth).step_by(step) {
                    let b = (start..start + step).map(|k| b[k * columns + column]);
                    *d = self.dot(*d, &row[start..start + step], b, (1.0, 0));
                }
            }
        }
    }
}

/// The scale factors of a product: one for each block of the rows of A, and of the columns of B.
#[derive(Clone, Copy, Debug)]
pub struct Scales<'s> {
    /// Those of A: rows of `blocks`.
    pub a: &'s [f32],
    /// Those of B: a row of `blocks` for each of its columns.
    pub b: &'s [f32],
    /// How many blocks the depth has.
    pub blocks: usize,
}

/// Adds a product to `d`, as [`product::multiply`] does, by a rule if there is one.
pub fn multiply(rule: Option<Rule>, a: &[f32], b: &[f32], d: &mut [f64], columns: usize, depth: usize) {
    match rule {
        None => product::multiply(a, b, d, columns, depth),
        Some(rule) => rule.multiply(a, b, d, columns, depth),
    }
}

/// The most columns that a scaled product has.
const MOST_COLUMNS: usize = 256;

/// Adds a product of scaled blocks to `d`. `fp4` says that both operands are packed fp4, which the hardware adds up in groups of 16.
///
/// Scales do not meet single elements, which could overflow, but the sums of their blocks, which f64 holds exactly.
pub fn multiply_scaled(
    rule: Option<Rule>,
    fp4: bool,
    (a, b): (&[f32], &[f32]),
    scales: Scales<'_>,
    d: &mut [f64],
    (columns, depth): (usize, usize),
) {
    let blocks = scales.blocks;
    let block = depth / blocks;
    let factor = |row: usize, column: usize, block: usize| {
        let (a, b) = (f64::from(scales.a[row * blocks + block]), f64::from(scales.b[column * blocks + block]));
        (a * b, exponent(a, i32::MIN) + exponent(b, i32::MIN))
    };
    for (row, (values, d)) in a.chunks_exact(depth).zip(d.chunks_exact_mut(columns)).enumerate() {
        let Some(rule) = rule else {
            for at in 0..blocks {
                let mut sums = [0f64; MOST_COLUMNS];
                let sums = &mut sums[..columns];
                let (a, b) = (&values[at * block..][..block], &b[at * block * columns..][..block * columns]);
                product::multiply(a, b, sums, columns, block);
                for (column, (d, sum)) in d.iter_mut().zip(sums).enumerate() {
                    *d += *sum * factor(row, column, at).0;
                }
            }
            continue;
        };
        for (column, d) in d.iter_mut().enumerate() {
            let pair = |k: usize| (f64::from(values[k]), f64::from(b[k * columns + column]));
            *d = if fp4 {
                let terms = (0..depth / 16).map(|at| {
                    let (scale, exponent) = factor(row, column, at * 16 / block);
                    let group: f64 = (at * 16..at * 16 + 16).map(pair).map(|(a, b)| a * b).sum();
                    (group * scale, exponent)
                });
                rule.sum(*d, terms, 35)
            } else {
                let terms = (0..depth).map(|k| {
                    let ((scale, more), (a, b)) = (factor(row, column, k / block), pair(k));
                    (a * b * scale, exponent(a, rule.a_smallest) + exponent(b, rule.b_smallest) + more)
                });
                rule.sum(*d, terms, rule.fraction)
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(rule: Rule, a: &[f32], b: &[f32], c: f64) -> f64 {
        let mut d = [c];
        rule.multiply(a, b, &mut d, 1, a.len());
        d[0]
    }

    #[test]
    fn hopper_keeps_thirteen_bits_of_fp8() {
        let fp8 = Rule::of("sm_90a", Unit::Warpgroup, Element::E4M3, Element::E4M3, 32, false);
        let mut a = [0.0; 32];
        (a[0], a[1]) = (1.0, 2f32.powi(-7));
        let mut b = a;
        b[0] = 1.0;
        // 1 + 2^-14: the small term is beyond 13 bits of the large one.
        assert_eq!(dot(fp8, &a, &b, 0.0), 1.0);
        // 1 + 2^-13 is not.
        b[1] = 2f32.powi(-6);
        assert_eq!(dot(fp8, &a, &b, 0.0), 1.0 + 2f64.powi(-13));
        // An accumulator of 2^14 swallows ones and a half.
        assert_eq!(dot(fp8, &[1.0; 32], &[0.0; 32], 16384.0 + 1.0), 16384.0);
        let wide = Rule::of("sm_100a", Unit::TensorMemory, Element::E4M3, Element::E4M3, 32, false);
        assert_eq!(dot(wide, &a, &b, 0.0), 1.0 + 2f64.powi(-13));
    }

    #[test]
    fn terms_are_cut_off_and_not_rounded() {
        let rule = Rule::of("sm_90a", Unit::Warpgroup, Element::F16, Element::F16, 16, false);
        let mut a = [0.0; 16];
        let mut b = [0.0; 16];
        (a[0], b[0]) = (1.0, 1.0);
        (a[1], b[1]) = (-(2f32.powi(-13)), 2f32.powi(-13));
        // 1 - 2^-26: the negative term is beyond 25 bits.
        assert_eq!(dot(rule, &a, &b, 0.0), 1.0);
        // 1 - 2^-25 is kept by the sum, and cut off to an f32 towards zero.
        b[1] = 2f32.powi(-12);
        assert_eq!(dot(rule, &a, &b, 0.0), f64::from(1f32.next_down()));
        // Ampere adds 24 bits, in two halves of the depth.
        let ampere = Rule::of("sm_80", Unit::Warp, Element::F16, Element::F16, 16, false);
        assert_eq!(dot(ampere, &a, &b, 0.0), 1.0);
        let (mut large, mut ones) = ([0.0; 16], [1.0; 16]);
        (large[0], large[8]) = (65536.0, -65536.0);
        ones[1] = 2f32.powi(-12);
        large[1] = 1.0;
        assert_eq!(dot(ampere, &large, &ones, 0.0), 0.0);
        assert_eq!(dot(rule, &large, &ones, 0.0), 0.0);
    }

    #[test]
    fn half_results_are_rounded_to_nearest() {
        let rule = Rule::of("sm_90a", Unit::Warp, Element::F16, Element::F16, 16, true);
        assert_eq!(dot(rule, &[1.0], &[2f32.powi(-11) + 2f32.powi(-12)], 1.0), 1.0 + 2f64.powi(-10));
        assert_eq!(dot(rule, &[1.0], &[1.0], f64::INFINITY), f64::INFINITY);
        assert!(dot(rule, &[0.0], &[f32::INFINITY], 0.0).is_nan());
    }

    #[test]
    fn scaled_blocks_of_fp4_keep_thirty_five_bits() {
        let rule = Rule::of("sm_100a", Unit::TensorMemory, Element::E2M1, Element::E2M1, 64, false);
        let (a, b) = ([1.0; 64], [1.0; 64]);
        let scales = |small: f32| [1.0, small, 0.0, 0.0];
        let run = |rule, small: f32| {
            let mut d = [0.0];
            let scales = Scales { a: &scales(small), b: &[1.0; 4], blocks: 4 };
            multiply_scaled(rule, true, (&a, &b), scales, &mut d, (1, 64));
            d[0]
        };
        assert_eq!(run(None, 2f32.powi(-40)), 16.0 + 16.0 * 2f64.powi(-40));
        assert_eq!(run(Some(rule), 2f32.powi(-19)), 16.0 + 16.0 * 2f64.powi(-19));
        assert_eq!(run(Some(rule), 2f32.powi(-40)), 16.0);
        // The largest scales of both do not overflow while their product with the elements is small.
        let mut d = [0.0];
        let scales = Scales { a: &[2f32.powi(127); 4], b: &[2f32.powi(-127); 4], blocks: 4 };
        multiply_scaled(None, true, (&[6.0; 64], &b), scales, &mut d, (1, 64));
        assert_eq!(d[0], 384.0);
    }
}
