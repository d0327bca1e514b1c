//! Comparison and selection.

use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::Context;
use crate::machine::instruction::{Execute, FALSE, Instruction, Step, Undefined};
use crate::machine::row::{Lane, Slot};
use crate::parse::ast::Operand;

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "setp.COMPARISON[.and|or|xor].b16|b32|b64|u16|s16|u32|s32|u64|s64",
        section: "9.7.6.2 setp",
        build: setp,
    },
    Form { pattern: "setp.FLOAT_COMPARISON[.and|or|xor][.ftz].f32", section: "9.7.6.2 setp", build: setp },
    Form { pattern: "setp.FLOAT_COMPARISON[.and|or|xor].f64", section: "9.7.6.2 setp", build: setp },
    Form { pattern: "setp.FLOAT_COMPARISON[.and|or|xor][.ftz].f16", section: "9.7.7.2 setp", build: setp },
    Form { pattern: "setp.FLOAT_COMPARISON[.and|or|xor].bf16", section: "9.7.7.2 setp", build: setp },
    Form { pattern: "setp.FLOAT_COMPARISON[.and|or|xor][.ftz].f16x2", section: "9.7.7.2 setp", build: setp_packed },
    Form { pattern: "setp.FLOAT_COMPARISON[.and|or|xor].bf16x2", section: "9.7.7.2 setp", build: setp_packed },
    Form {
        pattern: "set.COMPARISON[.and|or|xor].u32|s32|f32.b16|b32|b64|u16|s16|u32|s32|u64|s64",
        section: "9.7.6.1 set",
        build: set,
    },
    Form { pattern: "set.FLOAT_COMPARISON[.and|or|xor][.ftz].u32|s32|f32.f32", section: "9.7.6.1 set", build: set },
    Form { pattern: "set.FLOAT_COMPARISON[.and|or|xor].u32|s32|f32.f64", section: "9.7.6.1 set", build: set },
    Form {
        pattern: "set.COMPARISON[.and|or|xor].f16|bf16.b16|b32|b64|u16|s16|u32|s32|u64|s64",
        section: "9.7.7.1 set",
        build: set,
    },
    Form { pattern: "set.FLOAT_COMPARISON[.and|or|xor][.ftz].f16.f16|f32", section: "9.7.7.1 set", build: set },
    Form { pattern: "set.FLOAT_COMPARISON[.and|or|xor].f16.f64", section: "9.7.7.1 set", build: set },
    Form { pattern: "set.FLOAT_COMPARISON[.and|or|xor].bf16.f16|bf16|f32|f64", section: "9.7.7.1 set", build: set },
    Form { pattern: "set.FLOAT_COMPARISON[.and|or|xor][.ftz].u16|s16|u32|s32.f16", section: "9.7.7.1 set", build: set },
    Form { pattern: "set.FLOAT_COMPARISON[.and|or|xor].u16|s16|u32|s32.bf16", section: "9.7.7.1 set", build: set },
    Form {
        pattern: "set.FLOAT_COMPARISON[.and|or|xor][.ftz].f16x2|u32|s32.f16x2",
        section: "9.7.7.1 set",
        build: set_packed,
    },
    Form {
        pattern: "set.FLOAT_COMPARISON[.and|or|xor].bf16x2|u32|s32.bf16x2",
        section: "9.7.7.1 set",
        build: set_packed,
    },
    Form { pattern: "selp.b16|b32|b64|u16|s16|u32|s32|u64|s64|f32|f64", section: "9.7.6.3 selp", build: selp },
    Form {
        pattern: "slct[.ftz].b16|b32|b64|u16|s16|u32|s32|u64|s64|f32|f64.s32|f32",
        section: "9.7.6.4 slct",
        build: slct,
    },
];

/// Which outcomes of a comparison a name holds for: less, equal, greater, unordered.
fn outcomes(name: &str) -> u32 {
    const LESS: u32 = 1;
    const EQUAL: u32 = 2;
    const GREATER: u32 = 4;
    const UNORDERED: u32 = 8;
    match name {
        "eq" => EQUAL,
        // Of integers; floating-point numbers have no `ne` that holds for NaN but `neu`.
        "ne" => LESS | GREATER,
        "lt" | "lo" => LESS,
        "le" | "ls" => LESS | EQUAL,
        "gt" | "hi" => GREATER,
        "ge" | "hs" => GREATER | EQUAL,
        "equ" => EQUAL | UNORDERED,
        "neu" => LESS | GREATER | UNORDERED,
        "ltu" => LESS | UNORDERED,
        "leu" => LESS | EQUAL | UNORDERED,
        "gtu" => GREATER | UNORDERED,
        "geu" => GREATER | EQUAL | UNORDERED,
        "num" => LESS | EQUAL | GREATER,
        _ => UNORDERED,
    }
}

#[inline(always)]
fn outcome<T: PartialOrd>(a: &T, b: &T) -> u32 {
    u32::from(a < b) | u32::from(a == b) << 1 | u32::from(a > b) << 2 | u32::from(a.partial_cmp(b).is_none()) << 3
}

/// A type of comparisons.
trait Comparable: Lane + PartialOrd {
    fn flush(self) -> Self {
        self
    }
}

impl Comparable for u16 {}
impl Comparable for i16 {}
impl Comparable for u32 {}
impl Comparable for i32 {}
impl Comparable for u64 {}
impl Comparable for i64 {}
impl Comparable for half::f16 {
    fn flush(self) -> half::f16 {
        let subnormal = self.to_bits() & 0x7c00 == 0;
        if subnormal { half::f16::from_bits(self.to_bits() & 0x8000) } else { self }
    }
}
impl Comparable for half::bf16 {}
impl Comparable for f64 {}
impl Comparable for f32 {
    fn flush(self) -> f32 {
        super::float::flush(self)
    }
}

const FLUSH: u32 = 1 << 8;

/// The lanes where a comparison of operands 2 and 3 holds.
#[inline(always)]
fn holds<T: Comparable>(context: &Context<'_>, instruction: &Instruction) -> u32 {
    let (a, b): ([T; 32], [T; 32]) = (context.read(instruction.operands[2]), context.read(instruction.operands[3]));
    let wanted = instruction.modifiers & 0xf;
    let ftz = instruction.modifiers & FLUSH != 0;
    let mut holds = 0;
    for lane in 0..32 {
        let (a, b) = if ftz { (a[lane].flush(), b[lane].flush()) } else { (a[lane], b[lane]) };
        holds |= u32::from(outcome(&a, &b) & wanted != 0) << lane;
    }
    holds
}

/// Joins a comparison with a predicate as `.and`, `.or` or `.xor` says.
fn joined(context: &Context<'_>, instruction: &Instruction, holds: u32) -> (u32, u32) {
    let with = super::logic::predicate_value(context, instruction.operands[4]);
    match instruction.modifiers >> 4 & 3 {
        1 => (holds & with, !holds & with),
        2 => (holds | with, !holds | with),
        3 => (holds ^ with, !holds ^ with),
        _ => (holds, !holds),
    }
}

fn join(name: &str) -> u32 {
    match name {
        "and" => 1 << 4,
        "or" => 2 << 4,
        "xor" => 3 << 4,
        _ => 0,
    }
}

macro_rules! by_type {
    ($name:expr, $function:ident) => {
        match $name {
            "b16" | "u16" => $function::<u16>,
            "s16" => $function::<i16>,
            "b32" | "u32" => $function::<u32>,
            "s32" => $function::<i32>,
            "b64" | "u64" => $function::<u64>,
            "s64" => $function::<i64>,
            "f16" => $function::<half::f16>,
            "bf16" => $function::<half::bf16>,
            "f32" => $function::<f32>,
            _ => $function::<f64>,
        }
    };
}

fn modifiers(b: &mut Builder<'_, '_>) {
    let ftz = if b.has("ftz") { FLUSH } else { 0 };
    b.made.modifiers = outcomes(b.modifier(0)) | join(b.modifier(1)) | ftz;
}

fn sources(b: &mut Builder<'_, '_>) -> Result<(), Problem> {
    fn two<T: Lane>(b: &mut Builder<'_, '_>) -> Result<(), Problem> {
        b.source::<T>()?;
        b.source::<T>()
    }
    by_type!(b.last(), two)(b)?;
    if b.modifier(1).is_empty() {
        b.put(Slot::register(FALSE << 1));
    } else {
        b.predicate_source()?;
    }
    Ok(())
}

/// The one or two destinations of `setp`.
fn destinations(b: &mut Builder<'_, '_>) -> Result<(), Problem> {
    match b.take()? {
        Operand::Pair(first, second) => {
            b.predicate_destination_from(first)?;
            b.predicate_destination_from(second)
        }
        first => {
            b.predicate_destination_from(first)?;
            b.predicate_destination_from(&Operand::Sink)
        }
    }
}

fn setp(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    fn execute<T: Comparable>(context: &mut Context<'_>, instruction: &Instruction) -> Step {
        let holds = holds::<T>(context, instruction);
        let (first, second) = joined(context, instruction, holds);
        context.set_predicate(instruction.predicate(0), first);
        context.set_predicate(instruction.predicate(1), second);
        Step::Next
    }
    modifiers(b);
    destinations(b)?;
    sources(b)?;
    Ok(by_type!(b.last(), execute))
}

/// The lanes where a comparison of operands 2 and 3 holds for their low halves, and for their high ones.
fn holds_packed<const BF16: bool>(context: &Context<'_>, instruction: &Instruction) -> [u32; 2] {
    let (a, b): ([u32; 32], [u32; 32]) = (context.read(instruction.operands[2]), context.read(instruction.operands[3]));
    let flush = instruction.modifiers & FLUSH != 0;
    let value = |bits: u16| {
        let half = half::f16::from_bits(bits);
        match (BF16, flush) {
            (true, _) => half::bf16::from_bits(bits).to_f32(),
            (false, true) => half.flush().to_f32(),
            _ => half.to_f32(),
        }
    };
    let wanted = instruction.modifiers & 0xf;
    let halves: [u32; 2] = std::array::from_fn(|half| {
        (0..32).fold(0, |all, lane| {
            let (a, b) = (value((a[lane] >> (16 * half)) as u16), value((b[lane] >> (16 * half)) as u16));
            all | u32::from(outcome(&a, &b) & wanted != 0) << lane
        })
    });
    halves.map(|holds| joined(context, instruction, holds).0)
}

/// The sources of a packed comparison.
fn packed_sources(b: &mut Builder<'_, '_>) -> Result<(), Problem> {
    b.source::<u32>()?;
    b.source::<u32>()?;
    if b.modifier(1).is_empty() {
        b.put(Slot::register(FALSE << 1));
        return Ok(());
    }
    b.predicate_source()
}

fn setp_packed(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    fn execute<const BF16: bool>(context: &mut Context<'_>, instruction: &Instruction) -> Step {
        let [first, second] = holds_packed::<BF16>(context, instruction);
        context.set_predicate(instruction.predicate(0), first);
        context.set_predicate(instruction.predicate(1), second);
        Step::Next
    }
    modifiers(b);
    destinations(b)?;
    packed_sources(b)?;
    Ok(if b.last() == "bf16x2" { execute::<true> } else { execute::<false> })
}

/// What `set` writes into a destination of a type where the comparison holds.
fn truth(kind: &str) -> u32 {
    match kind {
        "f32" => 1f32.to_bits(),
        "f16" | "f16x2" => half::f16::ONE.to_bits().into(),
        "bf16" | "bf16x2" => half::bf16::ONE.to_bits().into(),
        "u16" | "s16" => 0xffff,
        _ => u32::MAX,
    }
}

fn set_packed(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    fn execute<const BF16: bool>(context: &mut Context<'_>, instruction: &Instruction) -> Step {
        let [low, high] = holds_packed::<BF16>(context, instruction);
        let yes = instruction.immediate as u32;
        let result: [u32; 32] = std::array::from_fn(|lane| {
            let half = |holds: u32| if holds >> lane & 1 != 0 { yes } else { 0 };
            half(low) | half(high) << 16
        });
        context.write(instruction.operands[0], &result);
        Step::Next
    }
    modifiers(b);
    let kind = b.modifiers[b.modifiers.len() - 2];
    b.made.immediate = i64::from(truth(kind) & 0xffff);
    b.destination::<u32>()?;
    b.put(Slot::register(0));
    packed_sources(b)?;
    Ok(if b.last() == "bf16x2" { execute::<true> } else { execute::<false> })
}

fn set(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    fn execute<T: Comparable>(context: &mut Context<'_>, instruction: &Instruction) -> Step {
        let holds = holds::<T>(context, instruction);
        let (holds, _) = joined(context, instruction, holds);
        let yes = instruction.immediate as u32;
        let result: [u32; 32] = std::array::from_fn(|lane| if holds >> lane & 1 != 0 { yes } else { 0 });
        context.write(instruction.operands[0], &result);
        Step::Next
    }
    modifiers(b);
    let kind = b.modifiers[b.modifiers.len() - 2];
    b.made.immediate = truth(kind).into();
    if kind.ends_with("16") {
        b.destination::<u16>()?;
    } else {
        b.destination::<u32>()?;
    }
    b.put(Slot::register(0));
    sources(b)?;
    Ok(by_type!(b.last(), execute))
}

fn selp(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.traits.undefined = Undefined::Combines;
    fn execute<T: Lane>(context: &mut Context<'_>, instruction: &Instruction) -> Step {
        let (a, b): ([T; 32], [T; 32]) = (context.read(instruction.operands[1]), context.read(instruction.operands[2]));
        let first = super::logic::predicate_value(context, instruction.operands[3]);
        let mut result = [T::default(); 32];
        for lane in 0..32 {
            result[lane] = if first >> lane & 1 != 0 { a[lane] } else { b[lane] };
        }
        context.write(instruction.operands[0], &result);
        Step::Next
    }
    fn operands<T: Lane>(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
        b.destination::<T>()?;
        b.source::<T>()?;
        b.source::<T>()?;
        b.predicate_source()?;
        Ok(execute::<T>)
    }
    match b.last() {
        "b16" | "u16" | "s16" => operands::<u16>(b),
        "b64" | "u64" | "s64" => operands::<u64>(b),
        "f64" => operands::<f64>(b),
        "f32" => operands::<f32>(b),
        _ => operands::<u32>(b),
    }
}

fn slct(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.traits.undefined = Undefined::Combines;
    // A NaN selects the second, and so does a negative number; -0 does not, nor with `.ftz` what becomes -0.
    macro_rules! slct {
        ($type:ty) => {
            if b.last() == "s32" {
                lanes!(b; (x: $type, y: $type, by: i32) -> $type { if by >= 0 { x } else { y } })
            } else if b.has("ftz") {
                lanes!(b; (x: $type, y: $type, by: f32) -> $type { if by.flush() >= 0.0 { x } else { y } })
            } else {
                lanes!(b; (x: $type, y: $type, by: f32) -> $type { if by >= 0.0 { x } else { y } })
            }
        };
    }
    match b.modifier(1) {
        "b16" | "u16" | "s16" => slct!(u16),
        "b64" | "u64" | "s64" => slct!(u64),
        "f64" => slct!(f64),
        "f32" => slct!(f32),
        _ => slct!(u32),
    }
}
