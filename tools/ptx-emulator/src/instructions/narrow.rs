//! Conversions to and from narrow formats, most of them packed: two or four numbers in a register.

use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::Context;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::{Kind, LANES};
use crate::numeric::format::{self, Format};
use crate::numeric::rounding::Rounding;

const CVT: &str = "9.7.9.21 cvt";

/// The forms.
pub const FORMS: &[Form] = &[
    Form { pattern: "cvt.rn|rz[.satfinite][.relu].f16|bf16.f32", section: CVT, build: narrow },
    Form { pattern: "cvt.rn|rz[.satfinite][.relu].f16x2|bf16x2.f32", section: CVT, build: narrow },
    Form { pattern: "cvt.rs[.satfinite][.relu].f16x2|bf16x2.f32", section: CVT, build: stochastic },
    Form { pattern: "cvt.rn|rz[.satfinite][.relu].tf32.f32", section: CVT, build: narrow },
    Form { pattern: "cvt.rna[.satfinite].tf32.f32", section: CVT, build: narrow },
    Form {
        pattern: "cvt.rn.satfinite[.relu].e4m3x2|e5m2x2|e2m1x2|e2m3x2|e3m2x2.f32|f16x2|bf16x2",
        section: CVT,
        build: narrow,
    },
    Form { pattern: "cvt.rs.satfinite[.relu].e4m3x4|e5m2x4|e2m1x4|e2m3x4|e3m2x4.f32", section: CVT, build: stochastic },
    Form { pattern: "cvt.rz|rp[.satfinite].ue8m0x2.f32|bf16x2", section: CVT, build: narrow },
    Form { pattern: "cvt.rn.satfinite[.relu][.scaled::n2::ue8m0].s2f6x2.f32|bf16x2", section: CVT, build: narrow },
    Form { pattern: "cvt.rn[.relu].f16x2.e4m3x2|e5m2x2|e2m1x2|e2m3x2|e3m2x2", section: CVT, build: widen },
    Form {
        pattern: "cvt.rn[.satfinite][.relu][.scaled::n2::ue8m0].bf16x2.e4m3x2|e5m2x2|e2m1x2|e2m3x2|e3m2x2|s2f6x2",
        section: CVT,
        build: widen,
    },
    Form { pattern: "cvt.rn.bf16x2.ue8m0x2", section: CVT, build: widen },
];

/// What a narrow number is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Element {
    Float(Format),
    /// A power of two.
    Scale,
    /// Fixed point, as a signed byte.
    Fixed,
}

/// The narrow types: what their numbers are, and how many bits each takes in a register.
const ELEMENTS: [(&str, Element, u32); 10] = [
    ("f16", Element::Float(format::F16), 16),
    ("bf16", Element::Float(format::BF16), 16),
    ("tf32", Element::Float(format::TF32), 32),
    ("e4m3", Element::Float(format::E4M3), 8),
    ("e5m2", Element::Float(format::E5M2), 8),
    ("e2m3", Element::Float(format::E2M3), 8),
    ("e3m2", Element::Float(format::E3M2), 8),
    ("e2m1", Element::Float(format::E2M1), 4),
    ("ue8m0", Element::Scale, 8),
    ("s2f6", Element::Fixed, 8),
];

/// The number of a type in [`ELEMENTS`], and how many such numbers a register has.
fn element(name: &str) -> (u32, u32) {
    let (name, count) = match name.len().checked_sub(2).map(|at| name.split_at(at)) {
        Some((name, "x2")) => (name, 2),
        Some((name, "x4")) => (name, 4),
        _ => (name, 1),
    };
    (ELEMENTS.iter().position(|(known, ..)| *known == name).unwrap_or_default() as u32, count)
}

const RELU: u32 = 1 << 20;
const FINITE: u32 = 1 << 21;
/// The source is a register of two f16.
const FROM_F16: u32 = 1 << 22;
/// The source is a register of two bf16.
const FROM_BF16: u32 = 1 << 23;
/// The destination is a register of two bf16, not f16.
const BRAIN: u32 = 1 << 25;
/// There are scale factors, in the operand after the sources.
const SCALED: u32 = 1 << 24;

#[inline(always)]
fn rectified(value: f64, modifiers: u32) -> f64 {
    if modifiers & RELU != 0 && value <= 0.0 { 0.0 } else { value }
}

fn encode(element: Element, value: f64, rounding: Rounding, modifiers: u32) -> u32 {
    let (value, finite) = (rectified(value, modifiers), modifiers & FINITE != 0);
    match element {
        Element::Float(format) => format.encode(value, rounding, finite) << if format == format::TF32 { 13 } else { 0 },
        Element::Scale => format::encode_ue8m0(value as f32, rounding, finite).into(),
        Element::Fixed => format::encode_s2f6(value).into(),
    }
}

fn flags(b: &Builder<'_, '_>) -> u32 {
    let names = [("relu", RELU), ("satfinite", FINITE), ("scaled::n2::ue8m0", SCALED)];
    names.iter().filter(|(name, _)| b.has(name)).map(|(_, bit)| bit).sum()
}

fn destination(b: &mut Builder<'_, '_>, bits: u32) -> Result<(), Problem> {
    match bits {
        8 => b.destination::<u8>(),
        16 => b.destination::<u16>(),
        _ => b.destination::<u32>(),
    }
}

/// f32, or two f16 or bf16, to one or two numbers of a narrower format.
fn narrow(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let (to, from) = (b.modifiers[b.modifiers.len() - 2], b.last());
    let rounding = Rounding::named(b.modifier(0));
    let flags = flags(b);
    match (to, rounding == Rounding::Nearest && flags == 0) {
        ("f16x2", true) => {
            return lanes!(b; (x: f32, y: f32) -> u32 { u32::from(format::to_f16(x)) << 16 | u32::from(format::to_f16(y)) });
        }
        ("bf16x2", true) => {
            return lanes!(b; (x: f32, y: f32) -> u32 { u32::from(format::to_bf16(x)) << 16 | u32::from(format::to_bf16(y)) });
        }
        _ => {}
    }
    let (number, count) = element(to);
    destination(b, count * ELEMENTS[number as usize].2)?;
    let from = match from {
        "f16x2" => FROM_F16,
        "bf16x2" => FROM_BF16,
        _ => 0,
    };
    if from == 0 {
        for _ in 0..count {
            b.source::<f32>()?;
        }
    } else {
        b.source::<u32>()?;
    }
    if flags & SCALED != 0 {
        b.source::<u16>()?;
    }
    b.made.modifiers = number | rounding.code() << 8 | flags | from;
    b.made.immediate = count.into();
    Ok(|context, instruction| {
        let modifiers = instruction.modifiers;
        let (_, element, width) = ELEMENTS[modifiers as usize & 15];
        let rounding = Rounding::from_code(modifiers >> 8 & 7);
        let scaled_at = if modifiers & (FROM_F16 | FROM_BF16) != 0 { 2 } else { 3 };
        let scales = scales(context, instruction, scaled_at);
        let first: [u32; LANES] = context.read(instruction.operands[1]);
        let second: [u32; LANES] =
            if instruction.immediate == 2 && scaled_at == 3 { context.read(instruction.operands[2]) } else { first };
        let result: [u32; LANES] = std::array::from_fn(|lane| {
            let [low, high] = if modifiers & FROM_F16 != 0 {
                [0, 16].map(|shift| half::f16::from_bits((first[lane] >> shift) as u16).to_f64())
            } else if modifiers & FROM_BF16 != 0 {
                [first[lane] << 16, first[lane] & 0xffff_0000].map(|bits| f64::from(f32::from_bits(bits)))
            } else {
                [second[lane], first[lane]].map(|bits| f64::from(f32::from_bits(bits)))
            };
            // Down, the numbers are divided by their factors.
            let [low_scale, high_scale] = scales[lane];
            let low = encode(element, low / low_scale, rounding, modifiers);
            if instruction.immediate == 1 {
                return low;
            }
            encode(element, high / high_scale, rounding, modifiers) << width | low
        });
        context.write(instruction.operands[0], &result);
        Step::Next
    })
}

/// The two scale factors of each lane, the low one first: one if there are none.
fn scales(context: &Context<'_>, instruction: &Instruction, operand: usize) -> [[f64; 2]; LANES] {
    if instruction.modifiers & SCALED == 0 {
        return [[1.0; 2]; LANES];
    }
    context
        .read::<u16>(instruction.operands[operand])
        .map(|bits| bits.to_le_bytes().map(|byte| format::ue8m0(byte).into()))
}

/// f32 to two or four numbers of a narrower format, rounded by random bits, in `.b32` after the sources.
///
/// Of the random bits, to two f16 the low 13 of each half are for the number of that half, to bf16 all 16. To four numbers of a byte the
/// upper half is for the upper two, the lower half for the lower two. To four fp4 the upper bytes of both halves are for the upper
/// two, the lower bytes for the lower two, of each the upper half's for the upper.
fn stochastic(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let (number, count) = element(b.modifiers[b.modifiers.len() - 2]);
    destination(b, count * ELEMENTS[number as usize].2)?;
    if count == 4 {
        b.registers(4, 4, Kind::F32, false)?;
    } else {
        for _ in 0..2 {
            let operand = b.take()?;
            let slot = b.slot(operand, 4, Kind::F32)?;
            b.put_in_list(slot);
        }
    }
    b.source::<u32>()?;
    b.made.modifiers = number | flags(b);
    Ok(|context, instruction| {
        let modifiers = instruction.modifiers;
        let (_, element, width) = ELEMENTS[modifiers as usize & 15];
        let random: [u32; LANES] = context.read(instruction.operands[1]);
        let list = context.list(instruction);
        let mut result = [0u32; LANES];
        for (at, slot) in list.iter().enumerate() {
            let from: [f32; LANES] = context.read(*slot);
            // From the uppermost number on: where its random bits start, and how many they are.
            let (shift, bits) = match (width, element) {
                (4, _) => ([24, 8, 16, 0][at], 8),
                (8, _) => ([16, 16, 0, 0][at], 16),
                (_, Element::Float(format::F16)) => ([16, 0][at], 13),
                _ => ([16, 0][at], 16),
            };
            for lane in 0..LANES {
                let value = rectified(from[lane].into(), modifiers);
                let random = random[lane] >> shift & ((1 << bits) - 1);
                let code = match element {
                    Element::Float(format) => format.encode_stochastic(value, random, bits, modifiers & FINITE != 0),
                    _ => 0,
                };
                result[lane] = result[lane] << width | code;
            }
        }
        context.write(instruction.operands[0], &result);
        Step::Next
    })
}

/// Two narrow numbers to two f16 or bf16: exact without scale factors, with them rounded once.
fn widen(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let (number, count) = element(b.last());
    let flags = flags(b);
    let brain = b.modifiers[b.modifiers.len() - 2] == "bf16x2";
    b.destination::<u32>()?;
    if count * ELEMENTS[number as usize].2 == 8 {
        b.source::<u8>()?;
    } else {
        b.source::<u16>()?;
    }
    if flags & SCALED != 0 {
        b.source::<u16>()?;
    }
    b.made.modifiers = number | flags | if brain { BRAIN } else { 0 };
    Ok(|context, instruction| {
        let modifiers = instruction.modifiers;
        let (_, element, width) = ELEMENTS[modifiers as usize & 15];
        let to = if modifiers & BRAIN != 0 { format::BF16 } else { format::F16 };
        let exact = modifiers & (SCALED | FINITE) == 0;
        let scales = scales(context, instruction, 2);
        let source: [u32; LANES] = context.read(instruction.operands[1]);
        let result: [u32; LANES] = std::array::from_fn(|lane| {
            let half = |at: usize| {
                let code = source[lane] >> (at as u32 * width) & ((1 << width) - 1);
                let value = match element {
                    Element::Float(format) => format.decode(code).into(),
                    Element::Scale => format::ue8m0(code as u8).into(),
                    Element::Fixed => f64::from(code as u8 as i8) / 64.0,
                };
                let value = rectified(value * scales[lane][at], modifiers);
                match to {
                    format::F16 if exact => format::to_f16(value as f32).into(),
                    format::BF16 if exact => format::to_bf16(value as f32).into(),
                    _ => to.encode(value, Rounding::Nearest, modifiers & FINITE != 0),
                }
            };
            half(1) << 16 | half(0)
        });
        context.write(instruction.operands[0], &result);
        Step::Next
    })
}
