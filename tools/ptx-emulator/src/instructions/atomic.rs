//! Atomic operations and reductions on memory.

use crate::checker::Strong;
use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::instructions::float::flush;
use crate::machine::context::{Context, lanes};
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::{Kind, LANES, Lane, Slot};
use crate::memory::Word;
use crate::memory::access::{Space, specific};
use crate::numeric::format;

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "atom[.relaxed|acquire|release|acq_rel][.SCOPE][.global|shared|shared::cta|shared::cluster].and|or|xor|exch|cas|add|inc|dec|min|max[.noftz][.L2::cache_hint].b16|b32|b64|b128|u32|u64|s32|s64|f16|f16x2|bf16|bf16x2|f32|f64",
        section: "9.7.13.5 atom",
        build: |b| atomic(b, true),
    },
    Form {
        pattern: "red[.relaxed|release][.SCOPE][.global|shared|shared::cta|shared::cluster].and|or|xor|add|inc|dec|min|max[.noftz][.L2::cache_hint].b32|b64|u32|u64|s32|s64|f16|f16x2|bf16|bf16x2|f32|f64",
        section: "9.7.13.6 red",
        build: |b| atomic(b, false),
    },
    Form {
        pattern: "atom[.relaxed|acquire|release|acq_rel][.SCOPE].global.add|min|max[.noftz][.L2::cache_hint].v2|v4|v8.f16|f16x2|bf16|bf16x2|f32",
        section: "9.7.13.5 atom",
        build: |b| vector(b, true),
    },
    Form {
        pattern: "red[.relaxed|release][.SCOPE].global.add|min|max[.noftz][.L2::cache_hint].v2|v4|v8.f16|f16x2|bf16|bf16x2|f32",
        section: "9.7.13.6 red",
        build: |b| vector(b, false),
    },
];

/// What an operation makes of the value in memory and its operand.
pub type Combine<W> = fn(W, W) -> W;

/// Operations on words by name and type.
pub fn combine_u32(operation: &str, kind: &str) -> Option<Combine<u32>> {
    Some(match (operation, kind) {
        ("exch", "b32") => |_, y| y,
        ("and", "b32") => |x, y| x & y,
        ("or", "b32") => |x, y| x | y,
        ("xor", "b32") => |x, y| x ^ y,
        ("add", "u32" | "s32") => u32::wrapping_add,
        ("inc", "u32") => |x, y| if x >= y { 0 } else { x + 1 },
        ("dec", "u32") => |x, y| if x == 0 || x > y { y } else { x - 1 },
        ("min", "u32") => |x, y| x.min(y),
        ("max", "u32") => |x, y| x.max(y),
        ("min", "s32") => |x, y| (x as i32).min(y as i32) as u32,
        ("max", "s32") => |x, y| (x as i32).max(y as i32) as u32,
        ("add", "f32") => add_flushed,
        ("min", "f32") => |x, y| f32::from_bits(x).min(f32::from_bits(y)).to_bits(),
        ("max", "f32") => |x, y| f32::from_bits(x).max(f32::from_bits(y)).to_bits(),
        (_, "f16x2") => {
            return Some(match operation {
                "add" => |x, y| by_halves(x, y, add_f16),
                "min" => |x, y| by_halves(x, y, min_f16),
                "max" => |x, y| by_halves(x, y, max_f16),
                _ => return None,
            });
        }
        (_, "bf16x2") => {
            return Some(match operation {
                "add" => |x, y| by_halves(x, y, add_bf16),
                "min" => |x, y| by_halves(x, y, min_bf16),
                "max" => |x, y| by_halves(x, y, max_bf16),
                _ => return None,
            });
        }
        _ => return None,
    })
}

/// The sum of floats in global memory: what is subnormal counts and becomes zero.
fn add_flushed(x: u32, y: u32) -> u32 {
    flush(flush(f32::from_bits(x)) + flush(f32::from_bits(y))).to_bits()
}

/// The sum of floats in shared memory, where subnormal numbers are kept.
pub fn add_kept(x: u32, y: u32) -> u32 {
    (f32::from_bits(x) + f32::from_bits(y)).to_bits()
}

/// The same for 64-bit words.
pub fn combine_u64(operation: &str, kind: &str) -> Option<Combine<u64>> {
    Some(match (operation, kind) {
        ("exch", "b64") => |_, y| y,
        ("and", "b64") => |x, y| x & y,
        ("or", "b64") => |x, y| x | y,
        ("xor", "b64") => |x, y| x ^ y,
        ("add", "u64" | "s64") => u64::wrapping_add,
        ("inc", "u64") => |x, y| if x >= y { 0 } else { x + 1 },
        ("dec", "u64") => |x, y| if x == 0 || x > y { y } else { x - 1 },
        ("min", "u64") => |x, y| x.min(y),
        ("max", "u64") => |x, y| x.max(y),
        ("min", "s64") => |x, y| (x as i64).min(y as i64) as u64,
        ("max", "s64") => |x, y| (x as i64).max(y as i64) as u64,
        ("add", "f64") => |x, y| (f64::from_bits(x) + f64::from_bits(y)).to_bits(),
        _ => return None,
    })
}

/// The same for 16-bit words.
pub fn combine_u16(operation: &str, kind: &str) -> Option<Combine<u16>> {
    Some(match (operation, kind) {
        ("exch", "b16") => |_, y| y,
        ("add", "f16") => add_f16,
        ("min", "f16") => min_f16,
        ("max", "f16") => max_f16,
        ("add", "bf16") => add_bf16,
        ("min", "bf16") => min_bf16,
        ("max", "bf16") => max_bf16,
        _ => return None,
    })
}

fn by_halves(x: u32, y: u32, combine: Combine<u16>) -> u32 {
    u32::from(combine(x as u16, y as u16)) | u32::from(combine((x >> 16) as u16, (y >> 16) as u16)) << 16
}

macro_rules! halves {
    ($($name:ident, $type:ty, $round:path, |$x:ident, $y:ident| $value:expr;)*) => {$(
        fn $name(x: u16, y: u16) -> u16 {
            let ($x, $y) = (<$type>::from_bits(x).to_f32(), <$type>::from_bits(y).to_f32());
            $round($value)
        }
    )*};
}

halves! {
    add_f16, half::f16, format::to_f16, |x, y| x + y;
    min_f16, half::f16, format::to_f16, |x, y| x.min(y);
    max_f16, half::f16, format::to_f16, |x, y| x.max(y);
    add_bf16, half::bf16, format::to_bf16, |x, y| x + y;
    min_bf16, half::bf16, format::to_bf16, |x, y| x.min(y);
    max_bf16, half::bf16, format::to_bf16, |x, y| x.max(y);
}

fn space(b: &Builder<'_, '_>) -> Space {
    if b.modifiers.iter().any(|modifier| modifier.starts_with("shared")) {
        Space::Shared
    } else if b.has("global") {
        Space::Global
    } else {
        Space::Generic
    }
}

const SPACES: [Space; 3] = [Space::Generic, Space::Global, Space::Shared];

/// The operations, by the number that instructions keep.
const OPERATIONS: [&str; 9] = ["and", "or", "xor", "exch", "add", "inc", "dec", "min", "max"];
const KINDS: [&str; 13] =
    ["b16", "b32", "b64", "u32", "u64", "s32", "s64", "f16", "f16x2", "bf16", "bf16x2", "f32", "f64"];

fn number(names: &[&str], name: &str) -> u32 {
    names.iter().position(|other| *other == name).unwrap_or(0) as u32
}

/// Reads the operands of an atomic operation, or of a reduction, which returns nothing.
pub fn atomic(b: &mut Builder<'_, '_>, returns: bool) -> Result<Execute, Problem> {
    let kind = b.last();
    let operation =
        b.modifiers.iter().copied().find(|name| OPERATIONS.contains(name) || *name == "cas").unwrap_or_default();
    fn operands<T: Lane>(b: &mut Builder<'_, '_>, returns: bool, sources: usize) -> Result<(), Problem> {
        if returns {
            b.destination::<T>()?;
        } else {
            b.put(Slot::register(0));
        }
        b.address()?;
        for _ in 0..sources {
            b.source::<T>()?;
        }
        b.cache_policy()?;
        Ok(())
    }
    b.made.modifiers |= number(&OPERATIONS, operation) | number(&KINDS, kind) << 4 | (space(b) as u32) << 8;
    b.made.modifiers |= ordering(b);
    if returns {
        b.made.modifiers |= RETURNS;
    }
    if operation == "cas" {
        if b.has("L2::cache_hint") {
            return b.problem("`cas` takes no cache hint");
        }
        return Ok(match kind {
            "b16" => {
                operands::<u16>(b, returns, 2)?;
                compare_and_swap::<u16>
            }
            "b32" => {
                operands::<u32>(b, returns, 2)?;
                compare_and_swap::<u32>
            }
            "b64" => {
                operands::<u64>(b, returns, 2)?;
                compare_and_swap::<u64>
            }
            "b128" => {
                operands::<u128>(b, returns, 2)?;
                compare_and_swap::<u128>
            }
            _ => return b.problem("`cas` takes .b16, .b32, .b64 or .b128"),
        });
    }
    match kind {
        "b16" | "f16" | "bf16" if combine_u16(operation, kind).is_some() => {
            operands::<u16>(b, returns, 1)?;
            Ok(|context, instruction| {
                let combine = combine_u16(
                    OPERATIONS[instruction.modifiers as usize & 15],
                    KINDS[instruction.modifiers as usize >> 4 & 15],
                );
                update(context, instruction, combine.unwrap_or(|x, _| x))
            })
        }
        "b64" | "u64" | "s64" | "f64" if combine_u64(operation, kind).is_some() => {
            operands::<u64>(b, returns, 1)?;
            Ok(|context, instruction| {
                let combine = combine_u64(
                    OPERATIONS[instruction.modifiers as usize & 15],
                    KINDS[instruction.modifiers as usize >> 4 & 15],
                );
                update(context, instruction, combine.unwrap_or(|x, _| x))
            })
        }
        "b128" if operation == "exch" => {
            operands::<u128>(b, returns, 1)?;
            Ok(|context, instruction| update::<u128>(context, instruction, |_, y| y))
        }
        "f32" if operation == "add" => {
            operands::<f32>(b, returns, 1)?;
            Ok(|context, instruction| update_by_place(context, instruction, add_flushed, add_kept))
        }
        _ if combine_u32(operation, kind).is_some() => {
            if kind == "f32" {
                operands::<f32>(b, returns, 1)?;
            } else {
                operands::<u32>(b, returns, 1)?;
            }
            Ok(|context, instruction| {
                let combine = combine_u32(
                    OPERATIONS[instruction.modifiers as usize & 15],
                    KINDS[instruction.modifiers as usize >> 4 & 15],
                );
                update(context, instruction, combine.unwrap_or(|x, _| x))
            })
        }
        _ => b.problem(format!("`{operation}` does not take .{kind}")),
    }
}

const RETURNS: u32 = 1 << 12;
const ACQUIRE: u32 = 1 << 13;
const RELEASE: u32 = 1 << 14;

fn ordering(b: &Builder<'_, '_>) -> u32 {
    let (acquire, release) = (b.has("acquire") || b.has("acq_rel"), b.has("release") || b.has("acq_rel"));
    (if acquire { ACQUIRE } else { 0 }) | (if release { RELEASE } else { 0 })
}

/// Tells the checker of an atomic operation.
fn check(context: &mut Context<'_>, instruction: &Instruction, space: Space, addresses: &[u64; LANES], bytes: usize) {
    context.check_updates(space, addresses, bytes);
    context.check_tells(space, addresses);
    let (acquires, releases) = (instruction.modifiers & ACQUIRE != 0, instruction.modifiers & RELEASE != 0);
    context.check_strong(space, addresses, Strong { reads: true, acquires, writes: true, releases });
}

fn update<W: Word + Lane>(context: &mut Context<'_>, instruction: &Instruction, combine: Combine<W>) -> Step {
    update_by_place(context, instruction, combine, combine)
}

/// An operation that is another one in global memory than elsewhere.
fn update_by_place<W: Word + Lane>(
    context: &mut Context<'_>,
    instruction: &Instruction,
    global: Combine<W>,
    elsewhere: Combine<W>,
) -> Step {
    let addresses = context.addresses(instruction, 1);
    let values: [W; LANES] = context.read(instruction.operands[2]);
    let space = SPACES[instruction.modifiers as usize >> 8 & 3];
    let mut before = [<W as Default>::default(); LANES];
    check(context, instruction, space, &addresses, <W as Word>::BYTES);
    for lane in lanes(context.mask) {
        let place = if space == Space::Generic { specific(addresses[lane]).0 } else { space };
        let combine = if place == Space::Global { global } else { elsewhere };
        match context.update(space, lane, addresses[lane], |old: W| combine(old, values[lane])) {
            Ok(old) => before[lane] = old,
            Err(refused) => return context.refuse(lane, refused, "atomic operation"),
        }
    }
    context.check_looks(space, &addresses);
    if instruction.modifiers & RETURNS != 0 {
        context.write(instruction.operands[0], &before);
    }
    Step::Next
}

fn compare_and_swap<W: Word + Lane>(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    let addresses = context.addresses(instruction, 1);
    let expected: [W; LANES] = context.read(instruction.operands[2]);
    let values: [W; LANES] = context.read(instruction.operands[3]);
    let space = SPACES[instruction.modifiers as usize >> 8 & 3];
    let mut before = [<W as Default>::default(); LANES];
    check(context, instruction, space, &addresses, <W as Word>::BYTES);
    for lane in lanes(context.mask) {
        let swap = |old: W| if old == expected[lane] { values[lane] } else { old };
        match context.update(space, lane, addresses[lane], swap) {
            Ok(old) => before[lane] = old,
            Err(refused) => return context.refuse(lane, refused, "atomic operation"),
        }
    }
    context.check_looks(space, &addresses);
    context.write(instruction.operands[0], &before);
    Step::Next
}

/// The same for vectors: each element by itself.
pub fn vector(b: &mut Builder<'_, '_>, returns: bool) -> Result<Execute, Problem> {
    let kind = b.last();
    let count: usize =
        b.modifiers[b.modifiers.len() - 2].strip_prefix('v').and_then(|count| count.parse().ok()).unwrap_or(2);
    let bytes = if matches!(kind, "f16" | "bf16") { 2 } else { 4 };
    let operation = b.modifiers.iter().copied().find(|name| OPERATIONS.contains(name)).unwrap_or_default();
    if returns {
        b.registers(count, bytes, Kind::Integer, true)?;
    }
    b.address()?;
    b.registers(count, bytes, if kind == "f32" { Kind::F32 } else { Kind::Integer }, false)?;
    b.cache_policy()?;
    b.made.modifiers |= number(&OPERATIONS, operation) | number(&KINDS, kind) << 4 | if returns { RETURNS } else { 0 };
    b.made.modifiers |= ordering(b);
    Ok(|context, instruction| {
        let addresses = context.addresses(instruction, 0);
        let list = context.list(instruction);
        let returns = instruction.modifiers & RETURNS != 0;
        let sources = if returns { &list[list.len() / 2..] } else { list };
        let (operation, kind) =
            (OPERATIONS[instruction.modifiers as usize & 15], KINDS[instruction.modifiers as usize >> 4 & 15]);
        let narrow = matches!(kind, "f16" | "bf16");
        check(context, instruction, Space::Global, &addresses, sources.len() * if narrow { 2 } else { 4 });
        for (at, slot) in sources.iter().enumerate() {
            let values: [u32; LANES] = context.read(*slot);
            let mut before = [0u32; LANES];
            for lane in lanes(context.mask) {
                let old = if narrow {
                    let combine = combine_u16(operation, kind).unwrap_or(|x, _| x);
                    let address = addresses[lane] + 2 * at as u64;
                    context
                        .update(Space::Global, lane, address, |old: u16| combine(old, values[lane] as u16))
                        .map(u32::from)
                } else {
                    let combine = combine_u32(operation, kind).unwrap_or(|x, _| x);
                    context.update(Space::Global, lane, addresses[lane] + 4 * at as u64, |old: u32| {
                        combine(old, values[lane])
                    })
                };
                match old {
                    Ok(old) => before[lane] = old,
                    Err(refused) => return context.refuse(lane, refused, "atomic operation"),
                }
            }
            if returns {
                context.write(list[at], &before);
            }
        }
        context.check_looks(Space::Global, &addresses);
        Step::Next
    })
}
