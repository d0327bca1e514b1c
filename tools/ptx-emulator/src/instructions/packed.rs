//! Arithmetic in f16, bf16 and packed types.

use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::Context;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::{Lane, Pair};
use crate::numeric::format::{self, Format};
use crate::numeric::rounding::{Directed, Rounding, odd_sum};

/// The forms.
pub const FORMS: &[Form] = &[
    Form { pattern: "add[.rn].bf16|bf16x2", section: "9.7.4.1 add", build: |b| half(b, Operation::Add, 2) },
    Form { pattern: "add[.rn][.ftz][.sat].f16|f16x2", section: "9.7.4.1 add", build: |b| half(b, Operation::Add, 2) },
    Form { pattern: "sub[.rn].bf16|bf16x2", section: "9.7.4.2 sub", build: |b| half(b, Operation::Subtract, 2) },
    Form {
        pattern: "sub[.rn][.ftz][.sat].f16|f16x2",
        section: "9.7.4.2 sub",
        build: |b| half(b, Operation::Subtract, 2),
    },
    Form { pattern: "mul[.rn].bf16|bf16x2", section: "9.7.4.3 mul", build: |b| half(b, Operation::Multiply, 2) },
    Form {
        pattern: "mul[.rn][.ftz][.sat].f16|f16x2",
        section: "9.7.4.3 mul",
        build: |b| half(b, Operation::Multiply, 2),
    },
    Form {
        pattern: "fma.rn[.ftz][.sat|relu].f16|f16x2",
        section: "9.7.4.4 fma",
        build: |b| half(b, Operation::Fused, 3),
    },
    Form {
        pattern: "fma.ROUNDING[.relu].bf16|bf16x2",
        section: "9.7.4.4 fma",
        build: |b| half(b, Operation::Fused, 3),
    },
    Form { pattern: "fma.rn.oob[.relu].f16|f16x2", section: "9.7.4.4 fma", build: |b| half(b, Operation::Fused, 3) },
    Form {
        pattern: "fma.ROUNDING.oob[.relu].bf16|bf16x2",
        section: "9.7.4.4 fma",
        build: |b| half(b, Operation::Fused, 3),
    },
    Form { pattern: "neg[.ftz].f16|f16x2", section: "9.7.4.5 neg", build: |b| half(b, Operation::Negate, 1) },
    Form { pattern: "neg.bf16|bf16x2", section: "9.7.4.5 neg", build: |b| half(b, Operation::Negate, 1) },
    Form { pattern: "abs[.ftz].f16|f16x2", section: "9.7.4.6 abs", build: |b| half(b, Operation::Absolute, 1) },
    Form { pattern: "abs.bf16|bf16x2", section: "9.7.4.6 abs", build: |b| half(b, Operation::Absolute, 1) },
    Form { pattern: "min[.ftz][.NaN].f16|f16x2", section: "9.7.4.7 min", build: |b| half(b, Operation::Smaller, 2) },
    Form {
        pattern: "min[.ftz][.NaN].xorsign.abs.f16|f16x2",
        section: "9.7.4.7 min",
        build: |b| half(b, Operation::Smaller, 2),
    },
    Form { pattern: "min[.NaN].bf16|bf16x2", section: "9.7.4.7 min", build: |b| half(b, Operation::Smaller, 2) },
    Form {
        pattern: "min[.NaN].xorsign.abs.bf16|bf16x2",
        section: "9.7.4.7 min",
        build: |b| half(b, Operation::Smaller, 2),
    },
    Form { pattern: "max[.ftz][.NaN].f16|f16x2", section: "9.7.4.8 max", build: |b| half(b, Operation::Larger, 2) },
    Form {
        pattern: "max[.ftz][.NaN].xorsign.abs.f16|f16x2",
        section: "9.7.4.8 max",
        build: |b| half(b, Operation::Larger, 2),
    },
    Form { pattern: "max[.NaN].bf16|bf16x2", section: "9.7.4.8 max", build: |b| half(b, Operation::Larger, 2) },
    Form {
        pattern: "max[.NaN].xorsign.abs.bf16|bf16x2",
        section: "9.7.4.8 max",
        build: |b| half(b, Operation::Larger, 2),
    },
    Form {
        pattern: "tanh.approx.f16|f16x2|bf16|bf16x2",
        section: "9.7.4.9 tanh",
        build: |b| half(b, Operation::Tanh, 1),
    },
    Form { pattern: "ex2.approx.f16|f16x2", section: "9.7.4.10 ex2", build: |b| half(b, Operation::Exponential, 1) },
    Form {
        pattern: "ex2.approx.ftz.bf16|bf16x2",
        section: "9.7.4.10 ex2",
        build: |b| half(b, Operation::Exponential, 1),
    },
    Form { pattern: "add[.ROUNDING][.ftz].f32x2", section: "9.7.3.3 add", build: |b| pairs::<0>(b) },
    Form { pattern: "sub[.ROUNDING][.ftz].f32x2", section: "9.7.3.4 sub", build: |b| pairs::<1>(b) },
    Form { pattern: "mul[.ROUNDING][.ftz].f32x2", section: "9.7.3.5 mul", build: |b| pairs::<2>(b) },
    Form { pattern: "fma.ROUNDING[.ftz].f32x2", section: "9.7.3.6 fma", build: |b| pairs::<3>(b) },
    Form {
        pattern: "add.u16x2|s16x2",
        section: "9.7.1.1 add",
        build: |b| lanes!(b; (x: u32, y: u32) -> u32 { halves(x, y, u16::wrapping_add) }),
    },
    Form {
        pattern: "min.u16x2",
        section: "9.7.1.12 min",
        build: |b| lanes!(b; (x: u32, y: u32) -> u32 { halves(x, y, u16::min) }),
    },
    Form {
        pattern: "min[.relu].s16x2",
        section: "9.7.1.12 min",
        build: |b| {
            if b.has("relu") {
                lanes!(b; (x: u32, y: u32) -> u32 { halves(x, y, |x, y| (x as i16).min(y as i16).max(0) as u16) })
            } else {
                lanes!(b; (x: u32, y: u32) -> u32 { halves(x, y, |x, y| (x as i16).min(y as i16) as u16) })
            }
        },
    },
    Form {
        pattern: "max.u16x2",
        section: "9.7.1.13 max",
        build: |b| lanes!(b; (x: u32, y: u32) -> u32 { halves(x, y, u16::max) }),
    },
    Form {
        pattern: "max[.relu].s16x2",
        section: "9.7.1.13 max",
        build: |b| {
            if b.has("relu") {
                lanes!(b; (x: u32, y: u32) -> u32 { halves(x, y, |x, y| (x as i16).max(y as i16).max(0) as u16) })
            } else {
                lanes!(b; (x: u32, y: u32) -> u32 { halves(x, y, |x, y| (x as i16).max(y as i16) as u16) })
            }
        },
    },
];

#[inline(always)]
fn halves(x: u32, y: u32, operation: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(operation(x as u16, y as u16)) | u32::from(operation((x >> 16) as u16, (y >> 16) as u16)) << 16
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Add,
    Subtract,
    Multiply,
    Fused,
    Negate,
    Absolute,
    Smaller,
    Larger,
    Tanh,
    Exponential,
}

const FLUSH: u32 = 1 << 8;
const SATURATE: u32 = 1 << 9;
const RELU: u32 = 1 << 10;
const NAN: u32 = 1 << 11;
const XOR_SIGN: u32 = 1 << 12;
const OUT_OF_BOUNDS: u32 = 1 << 13;
/// Where the direction of rounding starts.
const ROUNDING: u32 = 16;

/// A 16-bit floating-point type, kept as bits.
trait Half {
    const FORMAT: Format;
    fn value(bits: u16) -> f32;
    fn nearest(value: f32) -> u16;
}

struct F16;
struct BF16;

impl Half for F16 {
    const FORMAT: Format = format::F16;
    #[inline(always)]
    fn value(bits: u16) -> f32 {
        half::f16::from_bits(bits).to_f32()
    }
    #[inline(always)]
    fn nearest(value: f32) -> u16 {
        format::to_f16(value)
    }
}

impl Half for BF16 {
    const FORMAT: Format = format::BF16;
    #[inline(always)]
    fn value(bits: u16) -> f32 {
        f32::from_bits(u32::from(bits) << 16)
    }
    #[inline(always)]
    fn nearest(value: f32) -> u16 {
        format::to_bf16(value)
    }
}

fn half(b: &mut Builder<'_, '_>, operation: Operation, sources: usize) -> Result<Execute, Problem> {
    let kind = b.last();
    let packed = kind.ends_with("x2");
    if packed {
        b.destination::<u32>()?;
    } else {
        b.destination::<u16>()?;
    }
    for _ in 0..sources {
        match (packed, kind) {
            (true, _) => b.source::<u32>()?,
            (false, "f16") => b.source::<half::f16>()?,
            (false, _) => b.source::<half::bf16>()?,
        }
    }
    // Two or one; the destination stands in for sources that are not there.
    for _ in sources..3 {
        let destination = b.made.operands[0];
        b.put(destination);
    }
    b.made.modifiers = operation as u32 | Rounding::named(b.modifier(0)).code() << ROUNDING;
    let extras = [
        ("ftz", FLUSH),
        ("sat", SATURATE),
        ("relu", RELU),
        ("NaN", NAN),
        ("xorsign", XOR_SIGN),
        ("oob", OUT_OF_BOUNDS),
    ];
    for (name, bit) in extras {
        if b.has(name) {
            b.made.modifiers |= bit;
        }
    }
    Ok(match (kind.starts_with("bf16"), packed) {
        (true, true) => execute::<BF16, true>,
        (true, false) => execute::<BF16, false>,
        (false, true) => execute::<F16, true>,
        (false, false) => execute::<F16, false>,
    })
}

fn execute<H: Half, const PACKED: bool>(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    let [a, b, c]: [[u32; 32]; 3] = [1, 2, 3].map(|operand| context.read(instruction.operands[operand]));
    let modifiers = instruction.modifiers;
    let mut result = [0u32; 32];
    for lane in 0..32 {
        let low = one::<H>(modifiers, a[lane] as u16, b[lane] as u16, c[lane] as u16);
        let high = if PACKED {
            one::<H>(modifiers, (a[lane] >> 16) as u16, (b[lane] >> 16) as u16, (c[lane] >> 16) as u16)
        } else {
            0
        };
        result[lane] = u32::from(low) | u32::from(high) << 16;
    }
    context.write(instruction.operands[0], &result);
    Step::Next
}

#[inline(always)]
fn one<H: Half>(modifiers: u32, a: u16, b: u16, c: u16) -> u16 {
    let flush = |bits: u16| {
        let small = bits & 0x7fff < 1 << (H::FORMAT.mantissa_bits());
        if modifiers & FLUSH != 0 && small { bits & 0x8000 } else { bits }
    };
    let (a, b, c) = (flush(a), flush(b), flush(c));
    let (x, y, z) = (H::value(a), H::value(b), H::value(c));
    let operation = modifiers & 0xff;
    let bits = if operation == Operation::Add as u32 {
        H::nearest(x + y)
    } else if operation == Operation::Subtract as u32 {
        H::nearest(x - y)
    } else if operation == Operation::Multiply as u32 {
        H::nearest(x * y)
    } else if operation == Operation::Fused as u32 {
        // `.oob`: a NaN with all bits set marks what is out of bounds, and counts as zero.
        if modifiers & OUT_OF_BOUNDS != 0 && (a == 0xffff || b == 0xffff) {
            0
        } else {
            let rounding = Rounding::from_code(modifiers >> ROUNDING);
            let (product, z) = (f64::from(x) * f64::from(y), f64::from(z));
            let sum = odd_sum(product, z);
            // An exact zero sum of opposite numbers is -0 when rounding down.
            let below = rounding == Rounding::Down
                && sum == 0.0
                && (product != 0.0 || product.is_sign_negative() != z.is_sign_negative());
            H::FORMAT.encode(if below { -0.0 } else { sum }, rounding, false) as u16
        }
    } else if operation == Operation::Negate as u32 {
        a ^ 0x8000
    } else if operation == Operation::Absolute as u32 {
        a & 0x7fff
    } else if operation == Operation::Tanh as u32 {
        H::nearest(f64::from(x).tanh() as f32)
    } else if operation == Operation::Exponential as u32 {
        H::nearest(f64::from(x).exp2() as f32)
    } else {
        extremum::<H>(modifiers, operation == Operation::Larger as u32, a, b)
    };
    let bits = flush(bits);
    let value = H::value(bits);
    if modifiers & SATURATE != 0 {
        H::nearest(super::float::saturate(value))
    } else if modifiers & RELU != 0 && value < 0.0 {
        0
    } else if modifiers & RELU != 0 && value.is_nan() {
        0x7fff
    } else {
        bits
    }
}

fn extremum<H: Half>(modifiers: u32, larger: bool, a: u16, b: u16) -> u16 {
    let sign = (a ^ b) & 0x8000;
    let (a, b) = if modifiers & XOR_SIGN != 0 { (a & 0x7fff, b & 0x7fff) } else { (a, b) };
    let (x, y) = (H::value(a), H::value(b));
    if modifiers & NAN != 0 && (x.is_nan() || y.is_nan()) || x.is_nan() && y.is_nan() {
        return 0x7fff;
    }
    let first = if larger { x > y || x == y && b & 0x8000 != 0 } else { x < y || x == y && a & 0x8000 != 0 };
    let picked = if y.is_nan() || first { a } else { b };
    if modifiers & XOR_SIGN != 0 { picked & 0x7fff | sign } else { picked }
}

fn pairs<const OPERATION: u8>(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.destination::<Pair>()?;
    for _ in 0..if OPERATION == 3 { 3 } else { 2 } {
        b.source::<Pair>()?;
    }
    let rounding = if OPERATION == 3 { b.modifier(0) } else { b.modifiers.first().copied().unwrap_or_default() };
    b.made.modifiers = Rounding::named(rounding).code() | if b.has("ftz") { FLUSH } else { 0 };
    Ok(execute_pairs::<OPERATION>)
}

fn execute_pairs<const OPERATION: u8>(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    let a: [Pair; 32] = context.read(instruction.operands[1]);
    let b: [Pair; 32] = context.read(instruction.operands[2]);
    let c: [Pair; 32] = if OPERATION == 3 { context.read(instruction.operands[3]) } else { b };
    let rounding = Rounding::from_code(instruction.modifiers & 7);
    let flush = |value: f32| if instruction.modifiers & FLUSH != 0 { super::float::flush(value) } else { value };
    let mut result = [Pair::default(); 32];
    for lane in 0..32 {
        result[lane] = std::array::from_fn(|half| {
            let (a, b, c) = (flush(a[lane][half]), flush(b[lane][half]), flush(c[lane][half]));
            flush(match OPERATION {
                0 => a.add(b, rounding),
                1 => a.add(-b, rounding),
                2 => a.multiply(b, rounding),
                _ => a.fused(b, c, rounding),
            })
        });
    }
    Pair::write(&mut context.warp.registers, instruction.operands[0].place().0, context.mask, &result);
    Step::Next
}
