//! Conversions of single numbers.

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
        pattern: "cvt.pack.sat.u8|s8|u4|s4|u2|s2.s32.b32",
        section: "9.7.9.22 cvt.pack",
        build: |b| match b.modifier(2) {
            "u8" => lanes!(b; (x: i32, y: i32, z: u32) -> u32 { packed::<8>(x.clamp(0, 255), y.clamp(0, 255), z) }),
            "s8" => {
                lanes!(b; (x: i32, y: i32, z: u32) -> u32 { packed::<8>(x.clamp(-128, 127), y.clamp(-128, 127), z) })
            }
            "u4" => lanes!(b; (x: i32, y: i32, z: u32) -> u32 { packed::<4>(x.clamp(0, 15), y.clamp(0, 15), z) }),
            "s4" => lanes!(b; (x: i32, y: i32, z: u32) -> u32 { packed::<4>(x.clamp(-8, 7), y.clamp(-8, 7), z) }),
            "u2" => lanes!(b; (x: i32, y: i32, z: u32) -> u32 { packed::<2>(x.clamp(0, 3), y.clamp(0, 3), z) }),
            _ => lanes!(b; (x: i32, y: i32, z: u32) -> u32 { packed::<2>(x.clamp(-2, 1), y.clamp(-2, 1), z) }),
        },
    },
];

/// The low bits of two numbers, above them the low bits of what was packed before.
fn packed<const BITS: u32>(x: i32, y: i32, before: u32) -> u32 {
    let low = |value: i32| value as u32 & ((1 << BITS) - 1);
    before << (2 * BITS) | low(x) << BITS | low(y)
}

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
            // The ISA's integer notes: zero, but the sign bit alone where one of the types has 64 bits.
            return if from.bits == 64 || to.bits == 64 { integer(1 << (to.bits - 1), to, false) } else { 0 };
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
