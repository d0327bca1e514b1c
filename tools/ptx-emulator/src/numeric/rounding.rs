//! Rounding of sums, products and fused products in the directions that the host's arithmetic does not have.

/// A direction of rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even: `.rn`.
    Nearest,
    /// Towards zero: `.rz`.
    Zero,
    /// Towards negative infinity: `.rm`.
    Down,
    /// Towards positive infinity: `.rp`.
    Up,
    /// To nearest, ties away from zero: `.rna`.
    NearestAway,
}

impl Rounding {
    /// The direction that a modifier names; none is to nearest.
    pub fn named(name: &str) -> Rounding {
        match name {
            "rz" | "rzi" => Rounding::Zero,
            "rm" | "rmi" => Rounding::Down,
            "rp" | "rpi" => Rounding::Up,
            "rna" => Rounding::NearestAway,
            _ => Rounding::Nearest,
        }
    }

    /// As a number, to keep in an instruction.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// From a number.
    pub fn from_code(code: u32) -> Rounding {
        [Rounding::Nearest, Rounding::Zero, Rounding::Down, Rounding::Up, Rounding::NearestAway][code as usize % 5]
    }

    /// Rounds a value that is `whole` plus a fraction of a unit: `half` compares it with one half, `exact` says that it is zero.
    pub fn up(self, negative: bool, odd: bool, half: std::cmp::Ordering, exact: bool) -> bool {
        use std::cmp::Ordering::{Equal, Greater};
        match self {
            Rounding::Nearest => half == Greater || half == Equal && odd,
            Rounding::NearestAway => half != std::cmp::Ordering::Less,
            Rounding::Zero => false,
            Rounding::Down => negative && !exact,
            Rounding::Up => !negative && !exact,
        }
    }
}

/// A floating-point type that can be rounded in every direction.
pub trait Directed: Copy + PartialOrd {
    /// The sum.
    fn add(self, other: Self, rounding: Rounding) -> Self;
    /// The product.
    fn multiply(self, other: Self, rounding: Rounding) -> Self;
    /// `self * other + addend`, rounded once.
    fn fused(self, other: Self, addend: Self, rounding: Rounding) -> Self;
    /// `a * b + c`, rounded once to nearest, in all lanes: by the host's own instruction where it has one.
    fn fused_lanes(a: &[Self; 32], b: &[Self; 32], c: &[Self; 32]) -> [Self; 32];
    /// The quotient.
    fn divide(self, other: Self, rounding: Rounding) -> Self;
    /// The square root.
    fn root(self, rounding: Rounding) -> Self;
}

/// Moves a value that was rounded to nearest by one unit, if what was cut off (`rest`, of which the sign counts) asks for it.
macro_rules! adjust {
    ($value:expr, $rest:expr, $rounding:expr) => {{
        let (value, rest, rounding) = ($value, $rest, $rounding);
        if rest == 0.0 || rest.is_nan() || value.is_nan() {
            value
        } else if value.is_infinite() {
            // The exact result is finite where a rest is known.
            let bound = value.is_sign_negative();
            match rounding {
                Rounding::Zero => {
                    if bound {
                        value.next_up()
                    } else {
                        value.next_down()
                    }
                }
                Rounding::Down if !bound => value.next_down(),
                Rounding::Up if bound => value.next_up(),
                _ => value,
            }
        } else {
            match rounding {
                Rounding::Nearest | Rounding::NearestAway => value,
                Rounding::Down if rest < 0.0 => value.next_down(),
                Rounding::Up if rest > 0.0 => value.next_up(),
                Rounding::Zero if value > 0.0 && rest < 0.0 => value.next_down(),
                Rounding::Zero if value < 0.0 && rest > 0.0 => value.next_up(),
                // A result that was rounded to zero from either side.
                _ => value,
            }
        }
    }};
}

/// An exact zero sum of opposite numbers is -0 when rounding down.
fn zero_sum<T: Directed + Default>(a: T, b: T, sum: T, negative_zero: T, rounding: Rounding) -> T {
    let zero = T::default();
    if rounding == Rounding::Down && sum == zero && a != zero && b != zero { negative_zero } else { sum }
}

/// The rest of a sum that was rounded to nearest: `a + b - sum`, exactly (Knuth's TwoSum).
fn rest_of_sum(a: f64, b: f64, sum: f64) -> f64 {
    let b_part = sum - a;
    let a_part = sum - b_part;
    (a - a_part) + (b - b_part)
}

/// `high + low` rounded to odd: its last bit keeps that something was cut off, so that rounding it again to a format of at most half
/// its precision is right (Boldo, Melquiond).
fn to_odd(high: f64, low: f64) -> f64 {
    if low == 0.0 || !high.is_finite() || high.to_bits() & 1 != 0 {
        high
    } else if (low > 0.0) == (high > 0.0) {
        f64::from_bits(high.to_bits() + 1)
    } else {
        f64::from_bits(high.to_bits() - 1)
    }
}

/// `a + b` rounded to odd, to be rounded again to a narrow format.
pub fn odd_sum(a: f64, b: f64) -> f64 {
    let high = a + b;
    to_odd(high, rest_of_sum(a, b, high))
}

/// Rounds `high + low` to f32, where `low` is less than half a unit of `high`.
fn to_single(high: f64, low: f64, rounding: Rounding) -> f32 {
    let odd = to_odd(high, low);
    let nearest = odd as f32;
    if nearest.is_infinite() && odd.is_finite() {
        let toward_zero = match rounding {
            Rounding::Zero => true,
            Rounding::Down => nearest > 0.0,
            Rounding::Up => nearest < 0.0,
            _ => false,
        };
        return if toward_zero { f32::MAX.copysign(nearest) } else { nearest };
    }
    let rest = odd - f64::from(nearest);
    adjust!(nearest, rest, rounding)
}

/// Fused products in all lanes, with and without the host's instruction for them.
macro_rules! fused_lanes {
    ($type:ty) => {
        fn fused_lanes(a: &[$type; 32], b: &[$type; 32], c: &[$type; 32]) -> [$type; 32] {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn by_instruction(a: &[$type; 32], b: &[$type; 32], c: &[$type; 32]) -> [$type; 32] {
                    let mut result = [0.0; 32];
                    for lane in 0..32 {
                        result[lane] = a[lane].mul_add(b[lane], c[lane]);
                    }
                    result
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has both.
                    return unsafe { by_instruction(a, b, c) };
                }
            }
            let mut result = [0.0; 32];
            for lane in 0..32 {
                result[lane] = a[lane].fused(b[lane], c[lane], Rounding::Nearest);
            }
            result
        }
    };
}

impl Directed for f32 {
    fused_lanes!(f32);

    #[inline(always)]
    fn add(self, other: f32, rounding: Rounding) -> f32 {
        let sum = self + other;
        if rounding == Rounding::Nearest || !self.is_finite() || !other.is_finite() {
            return sum;
        }
        let (a, b) = (f64::from(self), f64::from(other));
        let high = a + b;
        zero_sum(self, other, to_single(high, rest_of_sum(a, b, high), rounding), -0.0, rounding)
    }

    #[inline(always)]
    fn multiply(self, other: f32, rounding: Rounding) -> f32 {
        if rounding == Rounding::Nearest {
            self * other
        } else {
            to_single(f64::from(self) * f64::from(other), 0.0, rounding)
        }
    }

    #[inline(always)]
    fn fused(self, other: f32, addend: f32, rounding: Rounding) -> f32 {
        let product = f64::from(self) * f64::from(other);
        let addend = f64::from(addend);
        let high = product + addend;
        if !high.is_finite() {
            return high as f32;
        }
        let result = to_single(high, rest_of_sum(product, addend, high), rounding);
        if rounding == Rounding::Down && high == 0.0 && product != 0.0 { -0.0 } else { result }
    }

    fn divide(self, other: f32, rounding: Rounding) -> f32 {
        let quotient = self / other;
        if rounding == Rounding::Nearest || !quotient.is_finite() || quotient.is_nan() {
            return quotient;
        }
        // self - quotient * other is exact in f64.
        let rest = f64::from(self) - f64::from(quotient) * f64::from(other);
        adjust!(quotient, if other < 0.0 { -rest } else { rest }, rounding)
    }

    fn root(self, rounding: Rounding) -> f32 {
        let root = self.sqrt();
        if !root.is_finite() || root == 0.0 {
            return root;
        }
        adjust!(root, f64::from(self) - f64::from(root) * f64::from(root), rounding)
    }
}

impl Directed for f64 {
    fused_lanes!(f64);

    #[inline(always)]
    fn add(self, other: f64, rounding: Rounding) -> f64 {
        let sum = self + other;
        if rounding == Rounding::Nearest || !self.is_finite() || !other.is_finite() {
            return sum;
        }
        zero_sum(self, other, adjust!(sum, rest_of_sum(self, other, sum), rounding), -0.0, rounding)
    }

    #[inline(always)]
    fn multiply(self, other: f64, rounding: Rounding) -> f64 {
        let product = self * other;
        if rounding == Rounding::Nearest || !self.is_finite() || !other.is_finite() {
            return product;
        }
        adjust!(product, self.mul_add(other, -product), rounding)
    }

    #[inline(always)]
    fn fused(self, other: f64, addend: f64, rounding: Rounding) -> f64 {
        let result = self.mul_add(other, addend);
        if rounding == Rounding::Nearest || !result.is_finite() {
            return result;
        }
        // The product as a sum of two, and the sum of three against the result.
        let product = self * other;
        let low = self.mul_add(other, -product);
        let high = product + addend;
        let rest = (high - result) + (rest_of_sum(product, addend, high) + low);
        adjust!(result, rest, rounding)
    }

    fn divide(self, other: f64, rounding: Rounding) -> f64 {
        let quotient = self / other;
        if rounding == Rounding::Nearest || !quotient.is_finite() {
            return quotient;
        }
        let rest = (-quotient).mul_add(other, self);
        adjust!(quotient, if other < 0.0 { -rest } else { rest }, rounding)
    }

    fn root(self, rounding: Rounding) -> f64 {
        let root = self.sqrt();
        if !root.is_finite() || root == 0.0 {
            return root;
        }
        adjust!(root, (-root).mul_add(root, self), rounding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fused_products_in_f32_are_rounded_once() {
        let mut state = 1u64;
        for _ in 0..200_000 {
            let mut draw = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                f32::from_bits((state >> 32) as u32)
            };
            let (a, b, c) = (draw(), draw(), draw());
            let (mine, host) = (a.fused(b, c, Rounding::Nearest), a.mul_add(b, c));
            assert!(
                mine.to_bits() == host.to_bits() || mine.is_nan() && host.is_nan(),
                "{a:e} {b:e} {c:e}: {mine:e} {host:e}"
            );
            let lanes = f32::fused_lanes(&[a; 32], &[b; 32], &[c; 32]);
            assert!(lanes.iter().all(|lane| lane.to_bits() == host.to_bits() || lane.is_nan() && host.is_nan()));
            let (down, up) = (a.fused(b, c, Rounding::Down), a.fused(b, c, Rounding::Up));
            if host.is_finite() && !host.is_nan() && down.is_finite() && up.is_finite() {
                assert!(
                    down <= host && host <= up && (down == up || down.next_up() == up || down == 0.0 || up == 0.0),
                    "{a:e} {b:e} {c:e}"
                );
            }
        }
    }

    #[test]
    fn directions() {
        let third = 1.0f32.divide(3.0, Rounding::Nearest);
        assert_eq!(1.0f32.divide(3.0, Rounding::Zero), third.next_down());
        assert_eq!((-1.0f32).divide(3.0, Rounding::Down), -third);
        assert_eq!(1.0f32.add(1e-30, Rounding::Up), 1.0f32.next_up());
        assert_eq!(1.0f32.add(-1e-30, Rounding::Zero), 1.0f32.next_down());
        assert_eq!(1.0f64.add(-1e-300, Rounding::Down), 1.0f64.next_down());
        assert_eq!(f32::MAX.add(f32::MAX, Rounding::Zero), f32::MAX);
        assert_eq!(2.0f32.root(Rounding::Up), 2.0f32.sqrt().next_up().min(2.0f32.root(Rounding::Down).next_up()));
        assert!(1.0f32.add(-1.0, Rounding::Down).is_sign_negative());
        assert_eq!(0.1f64.multiply(0.1, Rounding::Up).next_down(), 0.1f64.multiply(0.1, Rounding::Down));
    }
}
