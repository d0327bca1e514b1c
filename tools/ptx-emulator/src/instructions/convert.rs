//! Conversions.

use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::Context;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::Kind;
use crate::numeric::format::{self, Format};
use crate::numeric::rounding::Rounding;

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "cvt[.rni|rzi|rmi|rpi|rn|rz|rm|rp][.ftz][.sat].NUMBER.NUMBER",
        section: "9.7.9.21 cvt",
        build: cvt,
    },
    Form {
        pattern: "cvt.rn|rz[.satfinite][.relu][.satfinite].f16|bf16.f32",
        section: "9.7.9.21 cvt",
        build: |b| narrow(b, 1),
    },
    Form {
        pattern: "cvt.rn|rz[.satfinite][.relu][.satfinite].f16x2|bf16x2.f32",
        section: "9.7.9.21 cvt",
        build: |b| narrow(b, 2),
    },
    Form {
        pattern: "cvt.rn|rz[.satfinite][.relu][.satfinite].tf32.f32",
        section: "9.7.9.21 cvt",
        build: |b| narrow(b, 1),
    },
    Form { pattern: "cvt.rna[.satfinite].tf32.f32", section: "9.7.9.21 cvt", build: |b| narrow(b, 1) },
    Form {
        pattern: "cvt.rn.satfinite[.relu].e4m3x2|e5m2x2|e2m1x2|e2m3x2|e3m2x2.f32",
        section: "9.7.9.21 cvt",
        build: |b| narrow(b, 2),
    },
    Form {
        pattern: "cvt.rn.satfinite[.relu].e4m3x2|e5m2x2|e2m3x2|e3m2x2|e2m1x2.f16x2|bf16x2",
        section: "9.7.9.21 cvt",
        build: repack,
    },
    Form { pattern: "cvt.rn[.relu].f16x2.e4m3x2|e5m2x2|e2m1x2|e2m3x2|e3m2x2", section: "9.7.9.21 cvt", build: widen },
    Form { pattern: "cvt.rn.bf16x2.ue8m0x2", section: "9.7.9.21 cvt", build: widen },
    Form { pattern: "cvt.rz|rp[.satfinite].ue8m0x2.f32", section: "9.7.9.21 cvt", build: scale },
    Form {
        pattern: "cvt.pack.sat.u16|s16.s32",
        section: "9.7.9.22 cvt.pack",
        build: |b| match b.modifier(2) {
            "u16" => {
                lanes!(b; (x: i32, y: i32) -> u32 { (x.clamp(0, 0xffff) as u32) << 16 | y.clamp(0, 0xffff) as u32 })
            }
            _ => lanes!(b; (x: i32, y: i32) -> u32 {
                let half = |value: i32| u32::from(value.clamp(-0x8000, 0x7fff) as u16);
                half(x) << 16 | half(y)
            }),
        },
    },
    Form {
        pattern: "cvt.pack.sat.u8|s8.s32.b32",
        section: "9.7.9.22 cvt.pack",
        build: |b| match b.modifier(2) {
            "u8" => lanes!(b; (x: i32, y: i32, z: u32) -> u32 {
                z << 16 | (x.clamp(0, 255) as u32) << 8 | y.clamp(0, 255) as u32
            }),
            _ => lanes!(b; (x: i32, y: i32, z: u32) -> u32 {
                let byte = |value: i32| u32::from(value.clamp(-128, 127) as u8);
                z << 16 | byte(x) << 8 | byte(y)
            }),
        },
    },
];

/// A type that a conversion reads or writes, as a number in an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Type {
    bits: u32,
    class: Class,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Unsigned,
    Signed,
    Float,
    Brain,
}

impl Type {
    fn named(name: &str) -> Type {
        let (class, bits) = match name.split_at(usize::from(name.starts_with("bf")) + 1) {
            ("u", bits) => (Class::Unsigned, bits),
            ("s", bits) => (Class::Signed, bits),
            ("bf", bits) => (Class::Brain, bits),
            (_, bits) => (Class::Float, bits),
        };
        Type { class, bits: bits.parse().unwrap_or(32) }
    }

    fn code(self) -> u32 {
        self.class as u32 | self.bits << 2
    }

    fn from_code(code: u32) -> Type {
        let class = [Class::Unsigned, Class::Signed, Class::Float, Class::Brain][code as usize & 3];
        Type { class, bits: code >> 2 & 0x7f }
    }

    fn is_integer(self) -> bool {
        matches!(self.class, Class::Unsigned | Class::Signed)
    }

    fn kind(self) -> Kind {
        match (self.class, self.bits) {
            (Class::Brain, _) => Kind::BF16,
            (Class::Float, 16) => Kind::F16,
            (Class::Float, 32) => Kind::F32,
            (Class::Float, _) => Kind::F64,
            _ => Kind::Integer,
        }
    }
}

const FLUSH: u32 = 1 << 27;
const SATURATE: u32 = 1 << 28;
/// The destination register has 64 bits.
const WIDE_TO: u32 = 1 << 29;
/// The source register has 64 bits.
const WIDE_FROM: u32 = 1 << 30;

fn cvt(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let (to, from) = (Type::named(b.modifier(3)), Type::named(b.modifier(4)));
    let rounding = b.modifier(0);
    let same = to == from || from.is_integer() && to.is_integer();
    if rounding.is_empty() && !same && (from.bits > to.bits || from.is_integer() != to.is_integer()) {
        return b.problem("this conversion loses digits: it needs a rounding modifier, such as .rn or .rzi");
    }
    if !rounding.is_empty() && !rounding.ends_with('i') && to.is_integer() {
        return b.problem("a conversion to an integer needs .rni, .rzi, .rmi or .rpi");
    }
    let [destination, source] = b.rest() else { return b.problem("`cvt` has two operands") };
    let bytes = |b: &Builder<'_, '_>, operand, natural: u32| b.register_bytes(operand).unwrap_or(natural).max(natural);
    let to_bytes = bytes(b, destination, to.bits / 8);
    let from_bytes = bytes(b, source, from.bits / 8);
    let extended = to_bytes.max(4) > (to.bits / 8).max(4);
    if !extended && from_bytes <= (from.bits / 8).max(4) {
        // The conversions of nearly all programs.
        match (rounding, b.has("ftz"), b.has("sat"), b.modifier(3), b.modifier(4)) {
            ("", _, false, "u64", "u32") => return lanes!(b; (x: u32) -> u64 { u64::from(x) }),
            ("", _, false, "s64", "s32") => return lanes!(b; (x: i32) -> i64 { i64::from(x) }),
            ("", _, false, "u32" | "s32", "u64" | "s64") => return lanes!(b; (x: u64) -> u32 { x as u32 }),
            ("", _, false, "u32" | "s32", "u16") => return lanes!(b; (x: u16) -> u32 { u32::from(x) }),
            ("", _, false, "u16" | "s16", "u32" | "s32") => return lanes!(b; (x: u32) -> u16 { x as u16 }),
            ("", false, false, "f32", "f16") => return lanes!(b; (x: half::f16) -> f32 { x.to_f32() }),
            ("", _, false, "f32", "bf16") => return lanes!(b; (x: u32) -> f32 { f32::from_bits(x << 16) }),
            ("rn", _, false, "f32", "s32") => return lanes!(b; (x: i32) -> f32 { x as f32 }),
            ("rn", _, false, "f32", "u32") => return lanes!(b; (x: u32) -> f32 { x as f32 }),
            ("rn", _, false, "f16", "f32") => return lanes!(b; (x: f32) -> u16 { format::to_f16(x) }),
            ("rn", _, false, "bf16", "f32") => return lanes!(b; (x: f32) -> u16 { format::to_bf16(x) }),
            _ => {}
        }
    }
    b.take()?;
    b.take()?;
    b.destination_of(destination, to_bytes)?;
    let slot = b.slot(source, from_bytes, from.kind())?;
    b.put(slot);
    b.made.modifiers = to.code() | from.code() << 9 | Rounding::named(rounding).code() << 18;
    for (wanted, bit) in [
        (b.has("ftz"), FLUSH),
        (b.has("sat"), SATURATE),
        (to_bytes > 4, WIDE_TO),
        (from_bytes > 4, WIDE_FROM),
        (rounding.ends_with('i'), INTEGRAL),
    ] {
        if wanted {
            b.made.modifiers |= bit;
        }
    }
    Ok(execute)
}

/// A floating-point number is rounded to a whole one.
const INTEGRAL: u32 = 1 << 26;

fn execute(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    let modifiers = instruction.modifiers;
    let (to, from) = (Type::from_code(modifiers & 0x1ff), Type::from_code(modifiers >> 9 & 0x1ff));
    let rounding = Rounding::from_code(modifiers >> 18 & 7);
    let source: [u64; 32] = if modifiers & WIDE_FROM != 0 {
        context.read(instruction.operands[1])
    } else {
        context.read::<u32>(instruction.operands[1]).map(u64::from)
    };
    let result = source.map(|bits| convert(bits, from, to, rounding, modifiers));
    if modifiers & WIDE_TO != 0 {
        context.write(instruction.operands[0], &result);
    } else {
        context.write(instruction.operands[0], &result.map(|value| value as u32));
    }
    Step::Next
}

/// Bits of one type to bits of another, extended to 64 bits as its signedness says.
fn convert(bits: u64, from: Type, to: Type, rounding: Rounding, modifiers: u32) -> u64 {
    let saturate = modifiers & SATURATE != 0;
    if from.is_integer() {
        let value = match (from.class, from.bits) {
            (Class::Signed, width) => i128::from((bits << (64 - width)) as i64 >> (64 - width)),
            (_, 64) => i128::from(bits),
            (_, width) => i128::from(bits & ((1 << width) - 1)),
        };
        return if to.is_integer() {
            integer(value, to, saturate)
        } else {
            from_integer(value, to, rounding, saturate)
        };
    }
    let mut value = match (from.class, from.bits) {
        (Class::Brain, _) => f64::from(f32::from_bits((bits as u32) << 16)),
        (_, 16) => half::f16::from_bits(bits as u16).to_f64(),
        (_, 32) => f64::from(f32::from_bits(bits as u32)),
        _ => f64::from_bits(bits),
    };
    if modifiers & FLUSH != 0 && from.bits == 32 && value.abs() < f64::from(f32::MIN_POSITIVE) {
        value = 0f64.copysign(value);
    }
    if to.is_integer() {
        if value.is_nan() {
            return 0;
        }
        // Conversions to integers saturate by themselves.
        return integer(whole(value, rounding) as i128, to, true);
    }
    if modifiers & INTEGRAL != 0 {
        value = whole(value, rounding);
    }
    if saturate {
        value = if value > 0.0 { value.min(1.0) } else { 0.0 };
    }
    let bits = float(value, to, rounding);
    let small = modifiers & FLUSH != 0 && to.bits == 32 && bits & 0x7f80_0000 == 0;
    if small { bits & 0x8000_0000 } else { bits }
}

fn whole(value: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Zero => value.trunc(),
        Rounding::Down => value.floor(),
        Rounding::Up => value.ceil(),
        Rounding::NearestAway => value.round(),
        Rounding::Nearest => value.round_ties_even(),
    }
}

fn integer(value: i128, to: Type, saturate: bool) -> u64 {
    let signed = to.class == Class::Signed;
    let (least, most) =
        if signed { (-(1i128 << (to.bits - 1)), (1i128 << (to.bits - 1)) - 1) } else { (0, (1i128 << to.bits) - 1) };
    let value = if saturate { value.clamp(least, most) } else { value };
    if signed {
        ((value as u64) << (64 - to.bits)).cast_signed().wrapping_shr(64 - to.bits) as u64
    } else {
        value as u64 & most as u64
    }
}

fn from_integer(value: i128, to: Type, rounding: Rounding, saturate: bool) -> u64 {
    // As an f64 rounded to odd in its last place, except for an f64, which is rounded right here.
    let magnitude = value.unsigned_abs();
    let digits = 128 - magnitude.leading_zeros();
    let kept = if to.bits == 64 { 53 } else { 60 };
    let cut = digits.saturating_sub(kept);
    let (mut high, low) = (magnitude >> cut, magnitude & ((1 << cut) - 1));
    if to.bits == 64 && cut > 0 {
        let half = low.cmp(&(1 << (cut - 1)));
        high += u128::from(rounding.up(value < 0, high & 1 != 0, half, low == 0));
    }
    // 60 digits do not fit into an f64: keep 53 and a sticky bit.
    let (high, cut) = if to.bits != 64 && high >> 53 != 0 {
        ((high >> 7) | u128::from(high & 0x7f != 0 || low != 0), cut + 7)
    } else {
        (high, cut)
    };
    let number = high as f64 * 2f64.powi(cut as i32);
    let number = if value < 0 { -number } else { number };
    let number = if saturate { number.clamp(0.0, 1.0) } else { number };
    float(number, to, rounding)
}

fn float(value: f64, to: Type, rounding: Rounding) -> u64 {
    const SINGLE: Format = Format::single();
    match (to.class, to.bits) {
        (Class::Brain, _) => u64::from(format::BF16.encode(value, rounding, false)),
        (_, 16) => u64::from(format::F16.encode(value, rounding, false)),
        (_, 32) if rounding == Rounding::Nearest => {
            u64::from(if value.is_nan() { 0x7fff_ffff } else { (value as f32).to_bits() })
        }
        (_, 32) => u64::from(SINGLE.encode(value, rounding, false)),
        _ => value.to_bits(),
    }
}

const RELU: u32 = 1 << 20;
const FINITE: u32 = 1 << 21;

/// The formats of packed types, by number.
const FORMATS: [(&str, Format); 8] = [
    ("f16", format::F16),
    ("bf16", format::BF16),
    ("tf32", format::TF32),
    ("e4m3", format::E4M3),
    ("e5m2", format::E5M2),
    ("e2m1", format::E2M1),
    ("e2m3", format::E2M3),
    ("e3m2", format::E3M2),
];

fn format_number(name: &str) -> u32 {
    let name = name.strip_suffix("x2").unwrap_or(name);
    FORMATS.iter().position(|(known, _)| *known == name).unwrap_or(0) as u32
}

#[inline(always)]
fn rectified(value: f32, modifiers: u32) -> f32 {
    if modifiers & RELU != 0 && value <= 0.0 { 0.0 } else { value }
}

/// f32 to one or two numbers of a narrower format.
fn narrow(b: &mut Builder<'_, '_>, count: usize) -> Result<Execute, Problem> {
    let to = b.modifiers[b.modifiers.len() - 2];
    let rounding = Rounding::named(b.modifier(0));
    let plain = rounding == Rounding::Nearest && !b.has("relu") && !b.has("satfinite");
    match (to, plain) {
        ("f16x2", true) => {
            return lanes!(b; (x: f32, y: f32) -> u32 { u32::from(format::to_f16(x)) << 16 | u32::from(format::to_f16(y)) });
        }
        ("bf16x2", true) => {
            return lanes!(b; (x: f32, y: f32) -> u32 { u32::from(format::to_bf16(x)) << 16 | u32::from(format::to_bf16(y)) });
        }
        _ => {}
    }
    match to {
        "f16" | "bf16" | "e4m3x2" | "e5m2x2" | "e2m3x2" | "e3m2x2" => b.destination::<u16>()?,
        "e2m1x2" => b.destination::<u8>()?,
        _ => b.destination::<u32>()?,
    }
    for _ in 0..count {
        b.source::<f32>()?;
    }
    let finite = b.has("satfinite");
    b.made.modifiers = format_number(to)
        | rounding.code() << 8
        | if b.has("relu") { RELU } else { 0 }
        | if finite { FINITE } else { 0 };
    b.made.immediate = count as i64;
    Ok(|context, instruction| {
        let modifiers = instruction.modifiers;
        let format = FORMATS[modifiers as usize & 7].1;
        let rounding = Rounding::from_code(modifiers >> 8 & 7);
        let encode = |value: f32| format.encode(rectified(value, modifiers).into(), rounding, modifiers & FINITE != 0);
        let x: [f32; 32] = context.read(instruction.operands[1]);
        let result = if instruction.immediate == 2 {
            let y: [f32; 32] = context.read(instruction.operands[2]);
            // Each of two numbers takes whole bytes, but for fp4.
            let width = if format.bits() == 4 { 4 } else { format.bits().next_multiple_of(8) };
            std::array::from_fn(|lane| encode(x[lane]) << width | encode(y[lane]))
        } else {
            x.map(|value| encode(value) << if format == format::TF32 { 13 } else { 0 })
        };
        context.write(instruction.operands[0], &result);
        Step::Next
    })
}

fn halves(bits: u32, brain: bool) -> [f32; 2] {
    if brain {
        [f32::from_bits(bits << 16), f32::from_bits(bits & 0xffff_0000)]
    } else {
        [half::f16::from_bits(bits as u16).to_f32(), half::f16::from_bits((bits >> 16) as u16).to_f32()]
    }
}

/// Two f16 or bf16 to two narrower numbers.
fn repack(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    if b.modifier(3) == "e2m1x2" {
        b.destination::<u8>()?;
    } else {
        b.destination::<u16>()?;
    }
    b.source::<u32>()?;
    b.made.modifiers = format_number(b.modifier(3)) | if b.has("relu") { RELU } else { 0 };
    b.made.immediate = i64::from(b.last() == "bf16x2");
    Ok(|context, instruction| {
        let modifiers = instruction.modifiers;
        let format = FORMATS[modifiers as usize & 7].1;
        let source: [u32; 32] = context.read(instruction.operands[1]);
        let result = source.map(|bits| {
            let [low, high] = halves(bits, instruction.immediate != 0)
                .map(|value| format.encode(rectified(value, modifiers).into(), Rounding::Nearest, true));
            high << if format.bits() == 4 { 4 } else { 8 } | low
        });
        context.write(instruction.operands[0], &result);
        Step::Next
    })
}

/// Two narrow numbers to two f16, or scale factors to two bf16: exact, or saturated in f16's range.
fn widen(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let from = b.last();
    b.destination::<u32>()?;
    if from == "e2m1x2" {
        b.source::<u8>()?;
    } else {
        b.source::<u16>()?;
    }
    if from == "ue8m0x2" {
        return Ok(|context, instruction| {
            let source: [u16; 32] = context.read(instruction.operands[1]);
            let result = source.map(|bits| {
                let [low, high] = bits.to_le_bytes().map(|byte| u32::from(format::to_bf16(format::ue8m0(byte))));
                high << 16 | low
            });
            context.write(instruction.operands[0], &result);
            Step::Next
        });
    }
    b.made.modifiers = format_number(from) | if b.has("relu") { RELU } else { 0 };
    Ok(|context, instruction| {
        let modifiers = instruction.modifiers;
        let format = FORMATS[modifiers as usize & 7].1;
        let width = if format.bits() == 4 { 4 } else { 8 };
        let source: [u32; 32] = context.read(instruction.operands[1]);
        let result = source.map(|bits| {
            let half =
                |bits: u32| u32::from(format::to_f16(rectified(format.decode(bits & ((1 << width) - 1)), modifiers)));
            half(bits >> width) << 16 | half(bits)
        });
        context.write(instruction.operands[0], &result);
        Step::Next
    })
}

/// Two f32 to two scale factors.
fn scale(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    if b.modifier(0) == "rp" {
        lanes!(b; (x: f32, y: f32) -> u16 {
            u16::from(format::encode_ue8m0(x, Rounding::Up)) << 8 | u16::from(format::encode_ue8m0(y, Rounding::Up))
        })
    } else {
        lanes!(b; (x: f32, y: f32) -> u16 {
            u16::from(format::encode_ue8m0(x, Rounding::Zero)) << 8 | u16::from(format::encode_ue8m0(y, Rounding::Zero))
        })
    }
}
