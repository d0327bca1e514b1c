//! Numeric conversions between element types, on scalars and vectors alike.
//!
//! In registers an element of 16 or 8 bits is its bit pattern in an integer lane ([`machine_of`]); arithmetic on it goes through f32.

use super::{
    emitter::{Comparison, Emitter, Machine, Ssa},
    features::{CpuFeatures, Level},
};
use crate::tile::Element;

/// The lane that holds an element in a register.
pub(super) const fn machine_of(element: Element) -> Machine {
    match element {
        Element::F64 => Machine::F64,
        Element::F32 => Machine::F32,
        Element::F16 | Element::BF16 | Element::I16 => Machine::I16,
        Element::Fp8E4M3 | Element::Fp8E5M2 | Element::I8 | Element::U8 => Machine::I8,
        Element::I64 => Machine::I64,
        Element::I32 | Element::U32 => Machine::I32,
        Element::Bool => Machine::I1,
    }
}

/// The lane that holds an element in memory: truth values fill a byte.
pub(super) const fn memory_machine_of(element: Element) -> Machine {
    match element {
        Element::Bool => Machine::I8,
        _ => machine_of(element),
    }
}

/// The float lane in which arithmetic on a float element happens.
pub(super) const fn arithmetic_machine(element: Element) -> Machine {
    match element {
        Element::F64 => Machine::F64,
        _ => Machine::F32,
    }
}

/// Emits conversions for a processor.
#[derive(Clone, Copy)]
pub(super) struct Converter<'e, 'a> {
    pub(super) emitter: &'e Emitter<'a>,
    pub(super) features: &'e CpuFeatures,
}

/// A small float format: mantissa bits, exponent bias, bits of the largest finite value, bits of NaN, bits of infinity if it has one.
struct Fp8 {
    mantissa: u32,
    bias: i64,
    largest: f64,
    nan: i64,
}

const E4M3: Fp8 = Fp8 { mantissa: 3, bias: 7, largest: 448.0, nan: 0x7f };
const E5M2: Fp8 = Fp8 { mantissa: 2, bias: 15, largest: 57344.0, nan: 0x7e };

impl<'a> Converter<'_, 'a> {
    fn int(&self, like: Ssa<'a>, value: i64) -> Ssa<'a> {
        self.emitter.integer(like.machine, like.lanes, value)
    }

    /// Converts between any two elements: to nearest even; into fp8 saturating; float to integer towards zero, saturating.
    pub(super) fn cast(&self, value: Ssa<'a>, from: Element, to: Element) -> Ssa<'a> {
        let e = self.emitter;
        if from == to {
            return value;
        }
        match (from.is_float(), to.is_float()) {
            (true, true) if to == Element::F64 || from == Element::F64 => {
                if to == Element::F64 {
                    e.convert("fpext", self.widen_f32(value, from), Machine::F64)
                } else if to == Element::F32 {
                    e.convert("fptrunc", value, Machine::F32)
                } else {
                    self.narrow_f32(self.round_to_odd(value), to)
                }
            }
            (true, true) if to == Element::BF16 && matches!(from, Element::Fp8E4M3 | Element::Fp8E5M2) => {
                self.upper_half(self.widen_f32(value, from))
            }
            (true, true) => self.narrow_f32(self.widen_f32(value, from), to),
            (true, false) => {
                let float = self.widen_arithmetic(value, from);
                if to == Element::Bool {
                    return e.compare(Comparison::NotEqual, float, e.float(float.machine, float.lanes, 0.0));
                }
                let intrinsic = match to {
                    Element::U32 | Element::U8 => "llvm.fptoui.sat",
                    _ => "llvm.fptosi.sat",
                };
                self.saturate(intrinsic, float, machine_of(to))
            }
            (false, true) => {
                let target = arithmetic_machine(to);
                let float = match from {
                    Element::U32 | Element::U8 | Element::Bool => e.convert("uitofp", value, target),
                    _ => e.convert("sitofp", value, target),
                };
                match (from, to) {
                    (_, Element::F64) => float,
                    // All integers of eight bits are numbers of bf16.
                    (Element::I8 | Element::U8 | Element::Bool, Element::BF16) => self.upper_half(float),
                    _ => self.narrow_f32(float, to),
                }
            }
            (false, false) => {
                let target = machine_of(to);
                if to == Element::Bool {
                    return e.compare(Comparison::NotEqual, value, self.int(value, 0));
                }
                match from {
                    Element::Bool => e.convert("zext", value, target),
                    Element::U8 | Element::U32 if target.bytes() > value.machine.bytes() => {
                        e.convert("zext", value, target)
                    }
                    _ => e.resize_signed(value, target),
                }
            }
        }
    }

    fn saturate(&self, intrinsic: &str, float: Ssa<'a>, target: Machine) -> Ssa<'a> {
        self.emitter.intrinsic(intrinsic, &[float], (target, float.lanes))
    }

    /// A float element as f32, or f64 for f64.
    pub(super) fn widen_arithmetic(&self, value: Ssa<'a>, from: Element) -> Ssa<'a> {
        if from == Element::F64 { value } else { self.widen_f32(value, from) }
    }

    /// The counterpart of [`Converter::widen_arithmetic`].
    pub(super) fn narrow_arithmetic(&self, value: Ssa<'a>, to: Element) -> Ssa<'a> {
        if to == Element::F64 { value } else { self.narrow_f32(value, to) }
    }

    /// Exact.
    pub(super) fn widen_f32(&self, value: Ssa<'a>, from: Element) -> Ssa<'a> {
        let e = self.emitter;
        match from {
            Element::BF16 => {
                let wide = e.convert("zext", value, Machine::I32);
                e.bitcast(e.shift_left(wide, self.int(wide, 16)), Machine::F32, value.lanes)
            }
            Element::F16 => self.half_to_f32(value),
            Element::Fp8E5M2 => {
                // E5M2 is the upper byte of binary16.
                let wide = e.convert("zext", value, Machine::I16);
                self.half_to_f32(e.shift_left(wide, self.int(wide, 8)))
            }
            Element::Fp8E4M3 => {
                // As binary16 with the exponent eight too small; its denormals convert without the penalty that f32's have.
                let wide = e.convert("zext", value, Machine::I16);
                let magnitude = e.and(wide, self.int(wide, 0x7f));
                let sign = e.shift_left(e.and(wide, self.int(wide, 0x80)), self.int(wide, 8));
                let half = e.or(e.shift_left(magnitude, self.int(wide, 7)), sign);
                let float = self.half_to_f32(half);
                let scaled = e.multiply(float, e.float(Machine::F32, value.lanes, 256.0));
                let nan = e.compare(Comparison::Equal, magnitude, self.int(magnitude, 0x7f));
                e.select(nan, e.float(Machine::F32, value.lanes, f64::NAN), scaled)
            }
            Element::F64 => e.convert("fptrunc", value, Machine::F32),
            _ => value,
        }
    }

    fn half_to_f32(&self, value: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let lanes = value.lanes;
        if self.features.level() >= Level::V3 {
            return e.half_extend(value);
        }
        // Move exponent and mantissa into place and correct the bias by a multiplication, which also normalizes denormals.
        let wide = e.convert("zext", value, Machine::I32);
        let magnitude = e.and(wide, self.int(wide, 0x7fff));
        let bits = e.shift_left(magnitude, self.int(wide, 13));
        let scaled = e.multiply(e.bitcast(bits, Machine::F32, lanes), e.float(Machine::F32, lanes, 2f64.powi(112)));
        let scaled = e.bitcast(scaled, Machine::I32, lanes);
        let special = e.compare(Comparison::GreaterEqual, magnitude, self.int(wide, 0x7c00));
        let special_bits = e.or(bits, self.int(wide, 0x7f80_0000));
        let magnitude_bits = e.select(special, special_bits, scaled);
        let sign = e.shift_left(e.and(wide, self.int(wide, 0x8000)), self.int(wide, 16));
        e.bitcast(e.or(magnitude_bits, sign), Machine::F32, lanes)
    }

    /// To nearest even; fp8 saturates.
    pub(super) fn narrow_f32(&self, value: Ssa<'a>, to: Element) -> Ssa<'a> {
        match to {
            Element::BF16 => self.f32_to_bf16(value),
            Element::F16 => self.f32_to_half(value),
            Element::Fp8E4M3 => self.f32_to_fp8(value, &E4M3),
            Element::Fp8E5M2 => self.f32_to_fp8(value, &E5M2),
            _ => value,
        }
    }

    /// bf16 of f32 that have no more digits.
    fn upper_half(&self, value: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let bits = e.bitcast(value, Machine::I32, value.lanes);
        e.convert("trunc", e.shift_right_logical(bits, self.int(bits, 16)), Machine::I16)
    }

    fn f32_to_bf16(&self, value: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let lanes = value.lanes;
        let bits = e.bitcast(value, Machine::I32, lanes);
        let upper = e.shift_right_logical(bits, self.int(bits, 16));
        let odd = e.and(upper, self.int(bits, 1));
        let rounded = e.add(e.add(bits, self.int(bits, 0x7fff)), odd);
        let rounded = e.shift_right_logical(rounded, self.int(bits, 16));
        let nan = e.compare(Comparison::Unordered, value, value);
        let quiet = e.or(upper, self.int(bits, 0x40));
        e.convert("trunc", e.select(nan, quiet, rounded), Machine::I16)
    }

    fn f32_to_half(&self, value: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let lanes = value.lanes;
        if self.features.level() >= Level::V3 {
            return e.half_truncate(value);
        }
        let bits = e.bitcast(value, Machine::I32, lanes);
        let magnitude = e.and(bits, self.int(bits, 0x7fff_ffff));
        let sign = e.and(e.shift_right_logical(bits, self.int(bits, 16)), self.int(bits, 0x8000));
        // Normal results: rebias and round to nearest even on the 13 bits that go.
        let odd = e.and(e.shift_right_logical(magnitude, self.int(bits, 13)), self.int(bits, 1));
        let rounded = e.add(e.add(magnitude, self.int(bits, 0xfff - (112 << 23))), odd);
        let normal = e.shift_right_logical(rounded, self.int(bits, 13));
        // Denormal results: adding one half aligns the mantissa, and the addition rounds.
        let half = e.add(e.bitcast(magnitude, Machine::F32, lanes), e.float(Machine::F32, lanes, 0.5));
        let denormal = e.subtract(e.bitcast(half, Machine::I32, lanes), self.int(bits, 0x3f00_0000));
        let small = e.compare(Comparison::Less, magnitude, self.int(bits, 113 << 23));
        let finite = e.select(small, denormal, normal);
        let infinite = e.compare(Comparison::GreaterEqual, magnitude, self.int(bits, 0x477f_f000));
        let result = e.select(infinite, self.int(bits, 0x7c00), finite);
        let nan = e.compare(Comparison::Greater, magnitude, self.int(bits, 0x7f80_0000));
        let result = e.select(nan, self.int(bits, 0x7e00), result);
        e.convert("trunc", e.or(result, sign), Machine::I16)
    }

    fn f32_to_fp8(&self, value: Ssa<'a>, format: &Fp8) -> Ssa<'a> {
        let e = self.emitter;
        let lanes = value.lanes;
        let bits = e.bitcast(value, Machine::I32, lanes);
        let magnitude = e.and(bits, self.int(bits, 0x7fff_ffff));
        let sign = e.and(e.shift_right_logical(bits, self.int(bits, 24)), self.int(bits, 0x80));
        let largest = self.int(bits, i64::from((format.largest as f32).to_bits()));
        let clamped = e.integer_minimum(magnitude, largest);
        let dropped = i64::from(23 - format.mantissa);
        let rebias = (127 - format.bias) << 23;
        let odd = e.and(e.shift_right_logical(clamped, self.int(bits, dropped)), self.int(bits, 1));
        let rounded = e.add(e.add(clamped, self.int(bits, (1 << (dropped - 1)) - 1 - rebias)), odd);
        let normal = e.shift_right_logical(rounded, self.int(bits, dropped));
        // Denormal results: adding a power of two whose last place is the smallest denormal rounds to it.
        let last_place = 1 - format.bias - i64::from(format.mantissa);
        let magic = 2f64.powi((last_place + 23) as i32);
        let aligned = e.add(e.bitcast(clamped, Machine::F32, lanes), e.float(Machine::F32, lanes, magic));
        let magic_bits = self.int(bits, i64::from((magic as f32).to_bits()));
        let denormal = e.subtract(e.bitcast(aligned, Machine::I32, lanes), magic_bits);
        let small = e.compare(Comparison::Less, clamped, self.int(bits, (128 - format.bias) << 23));
        let finite = e.select(small, denormal, normal);
        let nan = e.compare(Comparison::Greater, magnitude, self.int(bits, 0x7f80_0000));
        let result = e.select(nan, self.int(bits, format.nan), finite);
        e.convert("trunc", e.or(result, sign), Machine::I8)
    }

    /// f32 nearest to an f64, but odd where inexact, so that rounding it once more gives what rounding once would have.
    fn round_to_odd(&self, value: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let lanes = value.lanes;
        let nearest = e.convert("fptrunc", value, Machine::F32);
        let back = e.convert("fpext", nearest, Machine::F64);
        let bits = e.bitcast(nearest, Machine::I32, lanes);
        let absolute = |x: Ssa<'a>| e.intrinsic("llvm.fabs", &[x], (x.machine, lanes));
        let finite =
            e.compare(Comparison::Less, absolute(nearest), e.float(Machine::F32, lanes, f64::from(f32::INFINITY)));
        let inexact = e.compare(Comparison::NotEqual, back, value);
        let even = e.compare(Comparison::Equal, e.and(bits, self.int(bits, 1)), self.int(bits, 0));
        let adjust = e.and(e.and(finite, inexact), even);
        let larger = e.compare(Comparison::Greater, absolute(value), absolute(back));
        let step = e.select(larger, self.int(bits, 1), self.int(bits, -1));
        let odd = e.add(bits, step);
        e.bitcast(e.select(adjust, odd, bits), Machine::F32, lanes)
    }
}
