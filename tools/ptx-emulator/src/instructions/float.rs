//! Floating-point arithmetic in f32 and f64.

use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::Context;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::Lane;
use crate::numeric::rounding::{Directed, Rounding};

/// A function of one f32, which flushes subnormal numbers where `.ftz` is there.
macro_rules! unary {
    ($builder:ident, |$x:ident| $value:expr) => {{
        fn execute(context: &mut Context<'_>, instruction: &Instruction) -> Step {
            let values: [f32; 32] = context.read(instruction.operands[1]);
            let ftz = instruction.modifiers & FLUSH != 0;
            let mut result = [0.0; 32];
            for lane in 0..32 {
                let $x: f32 = if ftz { flush(values[lane]) } else { values[lane] };
                let value: f32 = $value;
                result[lane] = if ftz { flush(value) } else { value };
            }
            context.write(instruction.operands[0], &result);
            Step::Next
        }
        $builder.destination::<f32>()?;
        $builder.source::<f32>()?;
        if $builder.has("ftz") {
            $builder.made.modifiers |= FLUSH;
        }
        Ok(execute as Execute)
    }};
}

/// A function of one number that is rounded in a direction.
macro_rules! rounded_unary {
    ($builder:ident, $type:ty, |$x:ident, $rounding:ident| $value:expr) => {{
        fn execute(context: &mut Context<'_>, instruction: &Instruction) -> Step {
            let values: [$type; 32] = context.read(instruction.operands[1]);
            let $rounding = Rounding::from_code(instruction.modifiers & 7);
            let ftz = instruction.modifiers & FLUSH != 0;
            let mut result: [$type; 32] = [0.0; 32];
            for lane in 0..32 {
                let $x = if ftz { Number::flush(values[lane]) } else { values[lane] };
                let value: $type = $value;
                result[lane] = if ftz { Number::flush(value) } else { value };
            }
            context.write(instruction.operands[0], &result);
            Step::Next
        }
        $builder.destination::<$type>()?;
        $builder.source::<$type>()?;
        $builder.made.modifiers =
            Rounding::named($builder.modifier(0)).code() | if $builder.has("ftz") { FLUSH } else { 0 };
        Ok(execute as Execute)
    }};
}

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "testp.finite|infinite|number|notanumber|normal|subnormal.f32|f64",
        section: "9.7.3.1 testp",
        build: test,
    },
    Form {
        pattern: "copysign.f32|f64",
        section: "9.7.3.2 copysign",
        build: |b| match b.last() {
            "f32" => lanes!(b; (sign: f32, x: f32) -> f32 { x.copysign(sign) }),
            _ => lanes!(b; (sign: f64, x: f64) -> f64 { x.copysign(sign) }),
        },
    },
    Form { pattern: "add[.ROUNDING][.ftz][.sat].f32", section: "9.7.3.3 add", build: |b| arithmetic::<f32, 0>(b) },
    Form { pattern: "add[.ROUNDING].f64", section: "9.7.3.3 add", build: |b| arithmetic::<f64, 0>(b) },
    Form { pattern: "sub[.ROUNDING][.ftz][.sat].f32", section: "9.7.3.4 sub", build: |b| arithmetic::<f32, 1>(b) },
    Form { pattern: "sub[.ROUNDING].f64", section: "9.7.3.4 sub", build: |b| arithmetic::<f64, 1>(b) },
    Form { pattern: "mul[.ROUNDING][.ftz][.sat].f32", section: "9.7.3.5 mul", build: |b| arithmetic::<f32, 2>(b) },
    Form { pattern: "mul[.ROUNDING].f64", section: "9.7.3.5 mul", build: |b| arithmetic::<f64, 2>(b) },
    Form { pattern: "fma.ROUNDING[.ftz][.sat].f32", section: "9.7.3.6 fma", build: |b| arithmetic::<f32, 3>(b) },
    Form { pattern: "fma.ROUNDING.f64", section: "9.7.3.6 fma", build: |b| arithmetic::<f64, 3>(b) },
    Form { pattern: "mad.ROUNDING[.ftz][.sat].f32", section: "9.7.3.7 mad", build: |b| arithmetic::<f32, 3>(b) },
    Form { pattern: "mad.ROUNDING.f64", section: "9.7.3.7 mad", build: |b| arithmetic::<f64, 3>(b) },
    Form { pattern: "div.ROUNDING[.ftz].f32", section: "9.7.3.8 div", build: |b| arithmetic::<f32, 4>(b) },
    Form { pattern: "div.ROUNDING.f64", section: "9.7.3.8 div", build: |b| arithmetic::<f64, 4>(b) },
    Form { pattern: "div.approx|full[.ftz].f32", section: "9.7.3.8 div", build: |b| arithmetic::<f32, 4>(b) },
    Form { pattern: "abs[.ftz].f32", section: "9.7.3.9 abs", build: |b| unary!(b, |x| x.abs()) },
    Form { pattern: "abs.f64", section: "9.7.3.9 abs", build: |b| lanes!(b; (x: f64) -> f64 { x.abs() }) },
    Form { pattern: "neg[.ftz].f32", section: "9.7.3.10 neg", build: |b| unary!(b, |x| -x) },
    Form { pattern: "neg.f64", section: "9.7.3.10 neg", build: |b| lanes!(b; (x: f64) -> f64 { -x }) },
    Form { pattern: "min[.ftz][.NaN].f32", section: "9.7.3.11 min", build: extremum::<false> },
    Form { pattern: "min[.ftz][.NaN].abs.f32", section: "9.7.3.11 min", build: extremum::<false> },
    Form { pattern: "min[.ftz][.NaN].xorsign.abs.f32", section: "9.7.3.11 min", build: extremum::<false> },
    Form {
        pattern: "min.f64",
        section: "9.7.3.11 min",
        build: |b| lanes!(b; (x: f64, y: f64) -> f64 { smaller(x, y) }),
    },
    Form { pattern: "max[.ftz][.NaN].f32", section: "9.7.3.12 max", build: extremum::<true> },
    Form { pattern: "max[.ftz][.NaN].abs.f32", section: "9.7.3.12 max", build: extremum::<true> },
    Form { pattern: "max[.ftz][.NaN].xorsign.abs.f32", section: "9.7.3.12 max", build: extremum::<true> },
    Form {
        pattern: "max.f64",
        section: "9.7.3.12 max",
        build: |b| lanes!(b; (x: f64, y: f64) -> f64 { -smaller(-x, -y) }),
    },
    Form { pattern: "rcp.approx[.ftz].f32", section: "9.7.3.13 rcp", build: |b| unary!(b, |x| 1.0 / x) },
    Form {
        pattern: "rcp.ROUNDING[.ftz].f32",
        section: "9.7.3.13 rcp",
        build: |b| rounded_unary!(b, f32, |x, r| 1.0f32.divide(x, r)),
    },
    Form {
        pattern: "rcp.ROUNDING.f64",
        section: "9.7.3.13 rcp",
        build: |b| rounded_unary!(b, f64, |x, r| 1.0f64.divide(x, r)),
    },
    Form {
        pattern: "rcp.approx.ftz.f64",
        section: "9.7.3.14 rcp.approx.ftz.f64",
        build: |b| lanes!(b; (x: f64) -> f64 { coarse(1.0 / coarse(x)) }),
    },
    Form { pattern: "sqrt.approx[.ftz].f32", section: "9.7.3.15 sqrt", build: |b| unary!(b, |x| x.sqrt()) },
    Form {
        pattern: "sqrt.ROUNDING[.ftz].f32",
        section: "9.7.3.15 sqrt",
        build: |b| rounded_unary!(b, f32, |x, r| x.root(r)),
    },
    Form {
        pattern: "sqrt.ROUNDING.f64",
        section: "9.7.3.15 sqrt",
        build: |b| rounded_unary!(b, f64, |x, r| x.root(r)),
    },
    Form {
        pattern: "rsqrt.approx[.ftz].f32",
        section: "9.7.3.16 rsqrt",
        build: |b| unary!(b, |x| (1.0 / f64::from(x).sqrt()) as f32),
    },
    Form {
        pattern: "rsqrt.approx.f64",
        section: "9.7.3.16 rsqrt",
        build: |b| lanes!(b; (x: f64) -> f64 { 1.0 / x.sqrt() }),
    },
    Form {
        pattern: "rsqrt.approx.ftz.f64",
        section: "9.7.3.17 rsqrt.approx.ftz.f64",
        build: |b| lanes!(b; (x: f64) -> f64 { coarse(1.0 / coarse(x).sqrt()) }),
    },
    Form {
        pattern: "sin.approx[.ftz].f32",
        section: "9.7.3.18 sin",
        build: |b| unary!(b, |x| f64::from(x).sin() as f32),
    },
    Form {
        pattern: "cos.approx[.ftz].f32",
        section: "9.7.3.19 cos",
        build: |b| unary!(b, |x| f64::from(x).cos() as f32),
    },
    Form {
        pattern: "lg2.approx[.ftz].f32",
        section: "9.7.3.20 lg2",
        build: |b| unary!(b, |x| f64::from(x).log2() as f32),
    },
    Form {
        pattern: "ex2.approx[.ftz].f32",
        section: "9.7.3.21 ex2",
        build: |b| unary!(b, |x| f64::from(x).exp2() as f32),
    },
    Form { pattern: "tanh.approx.f32", section: "9.7.3.22 tanh", build: |b| unary!(b, |x| f64::from(x).tanh() as f32) },
];

/// Subnormal numbers become zero.
const FLUSH: u32 = 1 << 3;
/// The result is kept between 0 and 1.
const SATURATE: u32 = 1 << 4;
/// NaN in, NaN out.
const NAN: u32 = 1 << 5;
/// The sign is the product's of the signs, the rest of the magnitudes.
const XOR_SIGN: u32 = 1 << 6;
/// Of the sources only the magnitudes count.
const MAGNITUDE: u32 = 1 << 7;

/// Zero for a subnormal number, with its sign.
#[inline(always)]
pub fn flush(value: f32) -> f32 {
    if value.to_bits() & 0x7f80_0000 == 0 { f32::from_bits(value.to_bits() & 0x8000_0000) } else { value }
}

/// Between 0 and 1; NaN is 0.
#[inline(always)]
pub fn saturate(value: f32) -> f32 {
    // Written so that NaN takes the first branch.
    if value > 0.0 { value.min(1.0) } else { 0.0 }
}

/// NaN as the machine makes it.
#[inline(always)]
fn canonical(value: f32) -> f32 {
    if value.is_nan() { f32::from_bits(0x7fff_ffff) } else { value }
}

/// What an f64 approximation sees: the upper 32 bits.
fn coarse(value: f64) -> f64 {
    let value = if value.is_subnormal() { 0f64.copysign(value) } else { value };
    f64::from_bits(value.to_bits() & !0xffff_ffff)
}

/// The smaller of two; a NaN counts as missing, and -0 is below 0.
fn smaller(x: f64, y: f64) -> f64 {
    if x.is_nan() || y < x || x == y && y.is_sign_negative() { y } else { x }
}

/// A type that arithmetic is done in.
trait Number: Directed + Lane {
    fn flush(self) -> Self;
    fn saturate(self) -> Self;
    fn canonical(self) -> Self;
    fn negative(self) -> Self;
}

impl Number for f32 {
    #[inline(always)]
    fn flush(self) -> f32 {
        flush(self)
    }
    #[inline(always)]
    fn saturate(self) -> f32 {
        saturate(self)
    }
    #[inline(always)]
    fn canonical(self) -> f32 {
        canonical(self)
    }
    #[inline(always)]
    fn negative(self) -> f32 {
        -self
    }
}

impl Number for f64 {
    #[inline(always)]
    fn flush(self) -> f64 {
        self
    }
    #[inline(always)]
    fn saturate(self) -> f64 {
        if self > 0.0 { self.min(1.0) } else { 0.0 }
    }
    #[inline(always)]
    fn canonical(self) -> f64 {
        self
    }
    #[inline(always)]
    fn negative(self) -> f64 {
        -self
    }
}

/// Add, subtract, multiply, fuse, divide: operation 0 to 4.
fn arithmetic<T: Number, const OPERATION: u8>(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let rounding = b.modifiers.iter().map(|name| Rounding::named(name)).find(|found| *found != Rounding::Nearest);
    let rounding = rounding.unwrap_or(Rounding::Nearest);
    b.destination::<T>()?;
    for _ in 0..if OPERATION == 3 { 3 } else { 2 } {
        b.source::<T>()?;
    }
    let (ftz, sat) = (b.has("ftz"), b.has("sat"));
    b.made.modifiers = rounding.code() | if ftz { FLUSH } else { 0 } | if sat { SATURATE } else { 0 };
    Ok(match (rounding, ftz || sat) {
        (Rounding::Nearest, false) => execute::<T, OPERATION, true, false>,
        (Rounding::Nearest, true) => execute::<T, OPERATION, true, true>,
        _ => execute::<T, OPERATION, false, true>,
    })
}

fn execute<T: Number, const OPERATION: u8, const NEAREST: bool, const EXTRAS: bool>(
    context: &mut Context<'_>,
    instruction: &Instruction,
) -> Step {
    let a: [T; 32] = context.read(instruction.operands[1]);
    let b: [T; 32] = context.read(instruction.operands[2]);
    let c: [T; 32] = if OPERATION == 3 { context.read(instruction.operands[3]) } else { b };
    let rounding = if NEAREST { Rounding::Nearest } else { Rounding::from_code(instruction.modifiers & 7) };
    let (ftz, sat) = (instruction.modifiers & FLUSH != 0, instruction.modifiers & SATURATE != 0);
    if OPERATION == 3 && NEAREST {
        let flushed = |values: [T; 32]| if EXTRAS && ftz { values.map(T::flush) } else { values };
        let mut result = T::fused_lanes(&flushed(a), &flushed(b), &flushed(c));
        for value in &mut result {
            if EXTRAS && ftz {
                *value = value.flush();
            }
            if EXTRAS && sat {
                *value = value.saturate();
            }
            *value = value.canonical();
        }
        context.write(instruction.operands[0], &result);
        return Step::Next;
    }
    let mut result = [T::default(); 32];
    for lane in 0..32 {
        let (mut a, mut b, mut c) = (a[lane], b[lane], c[lane]);
        if EXTRAS && ftz {
            (a, b, c) = (a.flush(), b.flush(), c.flush());
        }
        let mut value = match OPERATION {
            0 => a.add(b, rounding),
            1 => a.add(b.negative(), rounding),
            2 => a.multiply(b, rounding),
            3 => a.fused(b, c, rounding),
            _ => a.divide(b, rounding),
        };
        if EXTRAS && ftz {
            value = value.flush();
        }
        if EXTRAS && sat {
            value = value.saturate();
        }
        result[lane] = value.canonical();
    }
    context.write(instruction.operands[0], &result);
    Step::Next
}

fn extremum<const LARGER: bool>(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.destination::<f32>()?;
    b.source::<f32>()?;
    b.source::<f32>()?;
    let third = b.left() > 0;
    if third {
        b.source::<f32>()?;
    }
    if third == b.has("xorsign") && b.has("abs") {
        return b.problem("`.xorsign.abs` is for two sources, `.abs` alone for three");
    }
    for (name, bit) in [("ftz", FLUSH), ("NaN", NAN), ("xorsign", XOR_SIGN), ("abs", MAGNITUDE)] {
        if b.has(name) {
            b.made.modifiers |= bit;
        }
    }
    Ok(if third { execute_extremum::<LARGER, true> } else { execute_extremum::<LARGER, false> })
}

fn execute_extremum<const LARGER: bool, const THIRD: bool>(
    context: &mut Context<'_>,
    instruction: &Instruction,
) -> Step {
    let a: [f32; 32] = context.read(instruction.operands[1]);
    let b: [f32; 32] = context.read(instruction.operands[2]);
    let c: [f32; 32] = if THIRD { context.read(instruction.operands[3]) } else { b };
    let modifiers = instruction.modifiers;
    let pick = |x: f32, y: f32| {
        let (x, y) = if modifiers & FLUSH != 0 { (flush(x), flush(y)) } else { (x, y) };
        if modifiers & NAN != 0 && (x.is_nan() || y.is_nan()) {
            return f32::from_bits(0x7fff_ffff);
        }
        let sign = (x.to_bits() ^ y.to_bits()) & 0x8000_0000;
        let (x, y) = if modifiers & MAGNITUDE != 0 { (x.abs(), y.abs()) } else { (x, y) };
        let first =
            if LARGER { x > y || x == y && y.is_sign_negative() } else { x < y || x == y && x.is_sign_negative() };
        let picked = if y.is_nan() || first { x } else { y };
        if modifiers & XOR_SIGN != 0 { f32::from_bits(picked.to_bits() & 0x7fff_ffff | sign) } else { picked }
    };
    let mut result = [0.0; 32];
    for lane in 0..32 {
        let two = pick(a[lane], b[lane]);
        result[lane] = canonical(if THIRD { pick(two, c[lane]) } else { two });
    }
    context.write(instruction.operands[0], &result);
    Step::Next
}

fn test(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.predicate_destination()?;
    macro_rules! test {
        ($type:ty, |$x:ident| $holds:expr) => {{
            fn execute(context: &mut Context<'_>, instruction: &Instruction) -> Step {
                let values: [$type; 32] = context.read(instruction.operands[1]);
                let holds = values.iter().enumerate().fold(0, |all, (lane, $x)| all | u32::from($holds) << lane);
                context.set_predicate(instruction.predicate(0), holds);
                Step::Next
            }
            b.source::<$type>()?;
            Ok(execute)
        }};
    }
    match (b.modifier(0), b.last()) {
        ("finite", "f32") => test!(f32, |x| x.is_finite()),
        ("finite", _) => test!(f64, |x| x.is_finite()),
        ("infinite", "f32") => test!(f32, |x| x.is_infinite()),
        ("infinite", _) => test!(f64, |x| x.is_infinite()),
        ("number", "f32") => test!(f32, |x| !x.is_nan()),
        ("number", _) => test!(f64, |x| !x.is_nan()),
        ("notanumber", "f32") => test!(f32, |x| x.is_nan()),
        ("notanumber", _) => test!(f64, |x| x.is_nan()),
        ("normal", "f32") => test!(f32, |x| x.is_normal()),
        ("normal", _) => test!(f64, |x| x.is_normal()),
        (_, "f32") => test!(f32, |x| x.is_subnormal()),
        _ => test!(f64, |x| x.is_subnormal()),
    }
}
