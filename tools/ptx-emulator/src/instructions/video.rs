//! Video instructions: arithmetic on bytes, half-words and words that are picked from registers, in one lane or in two or four.

use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::Context;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::{Kind, LANES};
use crate::parse::ast::Operand;

const ARITHMETIC: &str = "9.7.18.1.1 vadd, vsub, vabsdiff, vmin, vmax";
const SHIFTS: &str = "9.7.18.1.2 vshl, vshr";
const PAIRS: &str = "9.7.18.2.1 vadd2, vsub2, vavrg2, vabsdiff2, vmin2, vmax2";
const QUADS: &str = "9.7.18.2.3 vadd4, vsub4, vavrg4, vabsdiff4, vmin4, vmax4";

/// The forms.
pub const FORMS: &[Form] = &[
    Form { pattern: "vadd.WORD.WORD.WORD[.sat][.add|min|max]", section: ARITHMETIC, build: scalar },
    Form { pattern: "vsub.WORD.WORD.WORD[.sat][.add|min|max]", section: ARITHMETIC, build: scalar },
    Form { pattern: "vabsdiff.WORD.WORD.WORD[.sat][.add|min|max]", section: ARITHMETIC, build: scalar },
    Form { pattern: "vmin.WORD.WORD.WORD[.sat][.add|min|max]", section: ARITHMETIC, build: scalar },
    Form { pattern: "vmax.WORD.WORD.WORD[.sat][.add|min|max]", section: ARITHMETIC, build: scalar },
    Form { pattern: "vshl.WORD.WORD.u32[.sat].clamp|wrap[.add|min|max]", section: SHIFTS, build: scalar },
    Form { pattern: "vshr.WORD.WORD.u32[.sat].clamp|wrap[.add|min|max]", section: SHIFTS, build: scalar },
    Form { pattern: "vmad.WORD.WORD.WORD[.po][.sat][.shr7|shr15]", section: "9.7.18.1.3 vmad", build: vmad },
    Form { pattern: "vset.WORD.WORD.eq|ne|lt|le|gt|ge[.add|min|max]", section: "9.7.18.1.4 vset", build: scalar },
    Form { pattern: "vadd2.WORD.WORD.WORD[.sat|add]", section: PAIRS, build: parallel::<2> },
    Form { pattern: "vsub2.WORD.WORD.WORD[.sat|add]", section: PAIRS, build: parallel::<2> },
    Form { pattern: "vavrg2.WORD.WORD.WORD[.sat|add]", section: PAIRS, build: parallel::<2> },
    Form { pattern: "vabsdiff2.WORD.WORD.WORD[.sat|add]", section: PAIRS, build: parallel::<2> },
    Form { pattern: "vmin2.WORD.WORD.WORD[.sat|add]", section: PAIRS, build: parallel::<2> },
    Form { pattern: "vmax2.WORD.WORD.WORD[.sat|add]", section: PAIRS, build: parallel::<2> },
    Form { pattern: "vset2.WORD.WORD.eq|ne|lt|le|gt|ge[.add]", section: "9.7.18.2.2 vset2", build: parallel::<2> },
    Form { pattern: "vadd4.WORD.WORD.WORD[.sat|add]", section: QUADS, build: parallel::<4> },
    Form { pattern: "vsub4.WORD.WORD.WORD[.sat|add]", section: QUADS, build: parallel::<4> },
    Form { pattern: "vavrg4.WORD.WORD.WORD[.sat|add]", section: QUADS, build: parallel::<4> },
    Form { pattern: "vabsdiff4.WORD.WORD.WORD[.sat|add]", section: QUADS, build: parallel::<4> },
    Form { pattern: "vmin4.WORD.WORD.WORD[.sat|add]", section: QUADS, build: parallel::<4> },
    Form { pattern: "vmax4.WORD.WORD.WORD[.sat|add]", section: QUADS, build: parallel::<4> },
    Form { pattern: "vset4.WORD.WORD.eq|ne|lt|le|gt|ge[.add]", section: "9.7.18.2.4 vset4", build: parallel::<4> },
];

/// What is done with two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Add,
    Subtract,
    Average,
    Difference,
    Smaller,
    Larger,
    ShiftLeft,
    ShiftRight,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

const OPERATIONS: [(&str, Operation); 14] = [
    ("vadd", Operation::Add),
    ("vsub", Operation::Subtract),
    ("vavrg", Operation::Average),
    ("vabsdiff", Operation::Difference),
    ("vmin", Operation::Smaller),
    ("vmax", Operation::Larger),
    ("vshl", Operation::ShiftLeft),
    ("vshr", Operation::ShiftRight),
    ("eq", Operation::Equal),
    ("ne", Operation::NotEqual),
    ("lt", Operation::Less),
    ("le", Operation::LessEqual),
    ("gt", Operation::Greater),
    ("ge", Operation::GreaterEqual),
];

impl Operation {
    /// Of numbers that are exact.
    fn of(self, x: i128, y: i128) -> i128 {
        match self {
            Operation::Add => x + y,
            Operation::Subtract => x - y,
            Operation::Average if x + y >= 0 => (x + y + 1) >> 1,
            Operation::Average => (x + y) >> 1,
            Operation::Difference => (x - y).abs(),
            Operation::Smaller => x.min(y),
            Operation::Larger => x.max(y),
            Operation::ShiftLeft => x << y,
            Operation::ShiftRight => x >> y,
            Operation::Equal => (x == y).into(),
            Operation::NotEqual => (x != y).into(),
            Operation::Less => (x < y).into(),
            Operation::LessEqual => (x <= y).into(),
            Operation::Greater => (x > y).into(),
            Operation::GreaterEqual => (x >= y).into(),
        }
    }
}

// `Instruction::modifiers`: the operation in the low four bits, and these.
const SIGNED_A: u32 = 1 << 4;
const SIGNED_B: u32 = 1 << 5;
const SIGNED_RESULT: u32 = 1 << 6;
const SATURATE: u32 = 1 << 7;
const ADD: u32 = 1 << 8;
const SMALLER: u32 = 1 << 9;
const LARGER: u32 = 1 << 10;
const WRAP: u32 = 1 << 11;
const PLUS_ONE: u32 = 1 << 12;
const SHIFT_7: u32 = 1 << 13;
const SHIFT_15: u32 = 1 << 14;
const NEGATE_PRODUCT: u32 = 1 << 15;
const NEGATE_C: u32 = 1 << 16;

/// A number of so many bits.
fn extended(bits: u32, width: u32, signed: bool) -> i128 {
    let shift = 64 - width;
    let bits = u64::from(bits) << shift;
    if signed { i128::from(bits as i64 >> shift) } else { i128::from(bits >> shift) }
}

/// As near to a number as so many bits come.
fn clamped(value: i128, width: u32, signed: bool) -> i128 {
    if signed { value.clamp(-(1 << (width - 1)), (1 << (width - 1)) - 1) } else { value.clamp(0, (1 << width) - 1) }
}

/// A part of a register: where it starts, and its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    shift: u32,
    width: u32,
}

impl Part {
    const ALL: Part = Part { shift: 0, width: 32 };

    fn code(self) -> i64 {
        i64::from(self.shift | self.width << 8)
    }

    fn from_code(code: i64) -> Part {
        Part { shift: code as u32 & 0xff, width: code as u32 >> 8 & 0xff }
    }

    fn of(self, word: u32, signed: bool) -> i128 {
        extended(word >> self.shift, self.width, signed)
    }
}

/// The modifiers' bits, but for those of `vmad` that come from operands.
fn modifiers(b: &Builder<'_, '_>) -> Result<u32, Problem> {
    let name = b.name().trim_end_matches(['2', '4']);
    let compares = name == "vset";
    let wanted = if compares { b.modifier(2) } else { name };
    let operation = OPERATIONS.iter().find(|(name, _)| *name == wanted).map_or(Operation::Add, |(_, found)| *found);
    // `vset` has no type of its result, which is unsigned.
    let types = if compares { ["u32", b.modifier(0), b.modifier(1)] } else { [0, 1, 2].map(|place| b.modifier(place)) };
    let mut bits = operation as u32;
    for (kind, bit) in types.into_iter().zip([SIGNED_RESULT, SIGNED_A, SIGNED_B]) {
        if kind == "s32" {
            bits |= bit;
        }
    }
    for (name, bit) in [
        ("sat", SATURATE),
        ("add", ADD),
        ("min", SMALLER),
        ("max", LARGER),
        ("wrap", WRAP),
        ("po", PLUS_ONE),
        ("shr7", SHIFT_7),
        ("shr15", SHIFT_15),
    ] {
        if b.has(name) {
            bits |= bit;
        }
    }
    Ok(bits)
}

/// An operand without what picks a part of it, and that.
fn divided<'a>(operand: &Operand<'a>) -> (Operand<'a>, Option<&'a str>) {
    match operand {
        Operand::Component(name, part) if part.starts_with(['b', 'h']) && part.len() > 1 => {
            (Operand::Name(name), Some(part))
        }
        operand => (operand.clone(), None),
    }
}

/// `.b0` to `.b3`, `.h0` and `.h1`.
fn part(b: &Builder<'_, '_>, name: Option<&str>) -> Result<Part, Problem> {
    Ok(match name {
        None => Part::ALL,
        Some("h0") => Part { shift: 0, width: 16 },
        Some("h1") => Part { shift: 16, width: 16 },
        Some("b0") => Part { shift: 0, width: 8 },
        Some("b1") => Part { shift: 8, width: 8 },
        Some("b2") => Part { shift: 16, width: 8 },
        Some("b3") => Part { shift: 24, width: 8 },
        Some(other) => return b.problem(format!("`.{other}` is not a part of a register: .b0 to .b3, .h0, .h1")),
    })
}

/// Reads a source and the part of it that is meant.
fn source(b: &mut Builder<'_, '_>) -> Result<Part, Problem> {
    let (operand, name) = divided(b.take()?);
    let slot = b.slot(&operand, 4, Kind::Integer)?;
    b.put(slot);
    part(b, name)
}

fn scalar(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.made.modifiers = modifiers(b)?;
    let (operand, name) = divided(b.take()?);
    b.destination_from::<u32>(&operand)?;
    let into = part(b, name)?;
    let (first, second) = (source(b)?, source(b)?);
    let secondary = b.made.modifiers & (ADD | SMALLER | LARGER) != 0;
    if into != Part::ALL && secondary {
        return b.problem("a part of a register is merged, or there is a second operation; not both");
    }
    if into != Part::ALL || secondary {
        b.source::<u32>()?;
    } else {
        let destination = b.made.operands[0];
        b.put(destination);
    }
    b.made.immediate = into.code() | first.code() << 16 | second.code() << 32;
    Ok(execute_scalar)
}

fn execute_scalar(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    let modifiers = instruction.modifiers;
    let operation = OPERATIONS[modifiers as usize & 15].1;
    let [into, first, second] = [0, 16, 32].map(|shift| Part::from_code(instruction.immediate >> shift));
    let [a, b, c]: [[u32; LANES]; 3] = [1, 2, 3].map(|operand| context.read(instruction.operands[operand]));
    let signed = modifiers & SIGNED_RESULT != 0;
    let result: [u32; LANES] = std::array::from_fn(|lane| {
        let x = first.of(a[lane], modifiers & SIGNED_A != 0);
        let mut y = second.of(b[lane], modifiers & SIGNED_B != 0);
        if matches!(operation, Operation::ShiftLeft | Operation::ShiftRight) {
            y = if modifiers & WRAP != 0 { y & 31 } else { y.min(32) };
        }
        let value = operation.of(x, y);
        let value = if modifiers & SATURATE != 0 { clamped(value, into.width, signed) } else { value };
        let third = Part::ALL.of(c[lane], signed);
        let value = match modifiers & (ADD | SMALLER | LARGER) {
            ADD => value + third,
            SMALLER => value.min(third),
            LARGER => value.max(third),
            _ => value,
        };
        if into == Part::ALL {
            return value as u32;
        }
        let mask = ((1u32 << into.width) - 1) << into.shift;
        c[lane] & !mask | (value as u32) << into.shift & mask
    });
    context.write(instruction.operands[0], &result);
    Step::Next
}

fn vmad(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.made.modifiers = modifiers(b)?;
    b.destination::<u32>()?;
    let mut parts = [Part::ALL; 3];
    for (place, bit) in [NEGATE_PRODUCT, NEGATE_PRODUCT, NEGATE_C].into_iter().enumerate() {
        let operand = match b.take()? {
            Operand::Negated(inner) => {
                // Two negations of the product cancel each other.
                b.made.modifiers ^= bit;
                &**inner
            }
            operand => operand,
        };
        let (operand, name) = divided(operand);
        let slot = b.slot(&operand, 4, Kind::Integer)?;
        b.put(slot);
        parts[place] = part(b, name)?;
    }
    if parts[2] != Part::ALL {
        return b.problem("what `vmad` adds is a whole register");
    }
    let negated = b.made.modifiers & (NEGATE_PRODUCT | NEGATE_C);
    if negated != 0 && (b.made.modifiers & PLUS_ONE != 0 || negated == NEGATE_PRODUCT | NEGATE_C) {
        return b.problem("`vmad` negates the product or what it adds, and neither with .po");
    }
    b.made.immediate = parts[0].code() | parts[1].code() << 16;
    Ok(|context, instruction| {
        let modifiers = instruction.modifiers;
        let [first, second] = [0, 16].map(|shift| Part::from_code(instruction.immediate >> shift));
        let [a, b, c]: [[u32; LANES]; 3] = [1, 2, 3].map(|operand| context.read(instruction.operands[operand]));
        let signed = modifiers & (SIGNED_A | SIGNED_B | NEGATE_PRODUCT | NEGATE_C) != 0;
        let result: [u32; LANES] = std::array::from_fn(|lane| {
            let product = first.of(a[lane], modifiers & SIGNED_A != 0) * second.of(b[lane], modifiers & SIGNED_B != 0);
            let product = if modifiers & NEGATE_PRODUCT != 0 { -product } else { product };
            let added = Part::ALL.of(c[lane], signed);
            let added = if modifiers & NEGATE_C != 0 { -added } else { added };
            let sum = product + added + i128::from(modifiers & PLUS_ONE != 0);
            let shift = match modifiers & (SHIFT_7 | SHIFT_15) {
                0 => 0,
                SHIFT_7 => 7,
                _ => 15,
            };
            let value = sum >> shift;
            (if modifiers & SATURATE != 0 { clamped(value, 32, signed) } else { value }) as u32
        });
        context.write(instruction.operands[0], &result);
        Step::Next
    })
}

/// The digits after a letter, the last first: at most so many, each below a bound.
fn digits(b: &Builder<'_, '_>, name: &str, letter: char, most: usize, bound: u32) -> Result<Vec<u32>, Problem> {
    let digits: Option<Vec<u32>> =
        name.strip_prefix(letter).and_then(|rest| rest.chars().rev().map(|digit| digit.to_digit(bound)).collect());
    match digits {
        Some(digits) if (1..=most).contains(&digits.len()) => Ok(digits),
        _ => b.problem(format!("`.{name}` does not pick parts of registers: `.{letter}` and up to {most} digits")),
    }
}

/// Two half-words or four bytes at a time.
fn parallel<const PARTS: usize>(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let letter = if PARTS == 2 { 'h' } else { 'b' };
    b.made.modifiers = modifiers(b)?;
    let (operand, name) = divided(b.take()?);
    b.destination_from::<u32>(&operand)?;
    let mut mask = (1u32 << PARTS) - 1;
    if let Some(name) = name {
        let digits = digits(b, name, letter, PARTS, PARTS as u32)?;
        if !digits.is_sorted_by(|low, high| low < high) {
            return b.problem(format!("the parts in `.{name}` are not in descending order"));
        }
        mask = digits.into_iter().fold(0, |mask, digit| mask | 1 << digit);
    }
    // For each result, four bits say which part it is made of, of both sources together.
    let mut picked = i64::from(mask) << 32;
    for at in 0..2 {
        let (operand, name) = divided(b.take()?);
        let slot = b.slot(&operand, 4, Kind::Integer)?;
        b.put(slot);
        let parts = match name {
            Some(name) => digits(b, name, letter, PARTS, 2 * PARTS as u32)?,
            None => (0..PARTS as u32).map(|part| part + at * PARTS as u32).collect(),
        };
        if parts.len() != PARTS {
            return b.problem(format!("{PARTS} parts of the sources are picked, not {}", parts.len()));
        }
        for (place, part) in parts.into_iter().enumerate() {
            picked |= i64::from(part) << (16 * at as usize + 4 * place);
        }
    }
    b.source::<u32>()?;
    b.made.immediate = picked;
    Ok(execute_parallel::<PARTS>)
}

fn execute_parallel<const PARTS: usize>(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    let (modifiers, picked) = (instruction.modifiers, instruction.immediate as u64);
    let operation = OPERATIONS[modifiers as usize & 15].1;
    let [a, b, c]: [[u32; LANES]; 3] = [1, 2, 3].map(|operand| context.read(instruction.operands[operand]));
    let width = 32 / PARTS as u32;
    let signed = modifiers & SIGNED_RESULT != 0;
    let result: [u32; LANES] = std::array::from_fn(|lane| {
        let both = u64::from(b[lane]) << 32 | u64::from(a[lane]);
        let part = |from: usize, place: usize, signed| {
            let number = picked >> (16 * from + 4 * place) & 15;
            extended((both >> (number as u32 * width)) as u32, width, signed)
        };
        let mut result = c[lane];
        for place in (0..PARTS).filter(|place| picked >> (32 + place) & 1 != 0) {
            let (x, y) = (part(0, place, modifiers & SIGNED_A != 0), part(1, place, modifiers & SIGNED_B != 0));
            let value = operation.of(x, y);
            if modifiers & ADD != 0 {
                result = result.wrapping_add(value as u32);
                continue;
            }
            let value = if modifiers & SATURATE != 0 { clamped(value, width, signed) } else { value };
            let (shift, mask) = (place as u32 * width, (1u32 << width) - 1);
            result = result & !(mask << shift) | (value as u32 & mask) << shift;
        }
        result
    });
    context.write(instruction.operands[0], &result);
    Step::Next
}
