//! Instructions in which the threads of a warp exchange values.

use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::{Context, lanes};
use crate::machine::fault::FaultKind;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::{LANES, Slot};
use crate::parse::ast::Operand;

/// The forms.
pub const FORMS: &[Form] = &[
    Form { pattern: "shfl.sync.up|down|bfly|idx.b32", section: "9.7.9.6 shfl.sync", build: shuffle },
    Form { pattern: "vote.sync.all|any|uni.pred", section: "9.7.13.9 vote.sync", build: vote },
    Form { pattern: "vote.sync.ballot.b32", section: "9.7.13.9 vote.sync", build: ballot },
    Form { pattern: "match.any.sync.b32|b64", section: "9.7.13.10 match.sync", build: |b| matching(b, false) },
    Form { pattern: "match.all.sync.b32|b64", section: "9.7.13.10 match.sync", build: |b| matching(b, true) },
    Form {
        pattern: "activemask.b32",
        section: "9.7.13.11 activemask",
        build: |b| {
            b.destination::<u32>()?;
            Ok(|context, instruction| {
                let mask = context.mask;
                context.write(instruction.operands[0], &[mask; LANES]);
                Step::Next
            })
        },
    },
    Form { pattern: "redux.sync.add|min|max.u32|s32", section: "9.7.13.12 redux.sync", build: redux },
    Form { pattern: "redux.sync.and|or|xor.b32", section: "9.7.13.12 redux.sync", build: redux },
    Form { pattern: "redux.sync.min|max[.abs][.NaN].f32", section: "9.7.13.12 redux.sync", build: redux_float },
    Form { pattern: "elect.sync", section: "9.7.13.14 elect.sync", build: elect },
];

/// Lanes exchange values with those that their member mask names, once these have arrived. Lanes with different masks are groups of
/// their own.
#[inline(always)]
pub fn exchange(
    context: &mut Context<'_>,
    instruction: &Instruction,
    mask: Slot,
    with: impl Fn(&mut Context<'_>, &Instruction),
) -> Step {
    let (masks, active) = (context.read::<u32>(mask), context.mask);
    let first = masks[context.leader()];
    if lanes(active).all(|lane| masks[lane] == first) {
        if let Some(step) = refused(context, first, active) {
            return step;
        }
        context.check(|checker, actor| checker.lanes_meet(actor, first));
        with(context, instruction);
        return Step::Next;
    }
    let group = |mask: u32| lanes(active).filter(|lane| masks[*lane] == mask).fold(0u32, |all, lane| all | 1 << lane);
    for lane in lanes(active) {
        let mask = masks[lane];
        if let Some(step) = refused(context, mask, 1 << lane) {
            return step;
        }
        if let Some(other) = lanes(mask & active).find(|other| masks[*other] != mask) {
            context.check(|checker, actor| checker.masks_differ(actor, (lane, mask), (other, masks[other])));
        }
    }
    let mut rest = active;
    while rest != 0 {
        let mask = masks[rest.trailing_zeros() as usize];
        context.mask = group(mask);
        rest &= !context.mask;
        context.check(|checker, actor| checker.lanes_meet(actor, mask));
        with(context, instruction);
    }
    context.mask = active;
    Step::Next
}

/// Why some lanes cannot exchange values yet with those that a mask names, or never can.
#[inline(always)]
fn refused(context: &mut Context<'_>, mask: u32, lanes: u32) -> Option<Step> {
    if !context.assembled(mask) {
        return Some(Step::Converge);
    }
    if lanes & !mask != 0 {
        let lane = (lanes & !mask).trailing_zeros() as usize;
        let message = format!("the thread executes this with member mask 0x{mask:08x}, which leaves it out");
        return Some(context.fail(FaultKind::IllegalInstruction, lane, message));
    }
    None
}

fn shuffle(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    match b.take()? {
        Operand::Pair(first, second) => {
            b.destination_from::<u32>(first)?;
            b.predicate_destination_from(second)?;
        }
        first => {
            b.destination_from::<u32>(first)?;
            b.predicate_destination_from(&Operand::Sink)?;
        }
    }
    for _ in 0..4 {
        b.source::<u32>()?;
    }
    Ok(match b.modifiers[b.modifiers.len() - 2] {
        "up" => execute_shuffle::<0>,
        "down" => execute_shuffle::<1>,
        "bfly" => execute_shuffle::<2>,
        _ => execute_shuffle::<3>,
    })
}

fn execute_shuffle<const MODE: u8>(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    exchange(context, instruction, instruction.operands[5], |context, instruction| {
        let [values, by, control]: [[u32; LANES]; 3] =
            [2, 3, 4].map(|operand| context.read(instruction.operands[operand]));
        let (mut result, mut inside) = (values, 0u32);
        for lane in 0..LANES {
            let segments = control[lane] >> 8 & 0x1f;
            let clamp = control[lane] & 0x1f;
            let this = lane as u32;
            let most = this & segments | clamp & !segments;
            let least = this & segments;
            let by = by[lane] & 0x1f;
            let (from, valid) = match MODE {
                0 => {
                    let from = this as i32 - by as i32;
                    (from, from >= most as i32)
                }
                1 => {
                    let from = (this + by) as i32;
                    (from, from <= most as i32)
                }
                2 => {
                    let from = (this ^ by) as i32;
                    (from, from <= most as i32)
                }
                _ => {
                    let from = (least | by & !segments) as i32;
                    (from, from <= most as i32)
                }
            };
            if valid {
                result[lane] = values[from as usize & 31];
                inside |= 1 << lane;
            }
        }
        context.write(instruction.operands[0], &result);
        context.set_predicate(instruction.predicate(1), inside);
    })
}

fn vote(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.predicate_destination()?;
    b.predicate_source()?;
    b.source::<u32>()?;
    b.made.modifiers = ["all", "any", "uni"].iter().position(|name| b.has(name)).unwrap_or(0) as u32;
    Ok(|context, instruction| {
        exchange(context, instruction, instruction.operands[2], |context, instruction| {
            let voters = context.mask;
            let votes = super::logic::predicate_value(context, instruction.operands[1]) & voters;
            let holds = match instruction.modifiers {
                0 => votes == voters,
                1 => votes != 0,
                _ => votes == voters || votes == 0,
            };
            context.set_predicate(instruction.predicate(0), if holds { u32::MAX } else { 0 });
        })
    })
}

fn ballot(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.destination::<u32>()?;
    b.predicate_source()?;
    b.source::<u32>()?;
    Ok(|context, instruction| {
        exchange(context, instruction, instruction.operands[2], |context, instruction| {
            let votes = super::logic::predicate_value(context, instruction.operands[1]) & context.mask;
            context.write(instruction.operands[0], &[votes; LANES]);
        })
    })
}

fn matching(b: &mut Builder<'_, '_>, all: bool) -> Result<Execute, Problem> {
    match b.take()? {
        Operand::Pair(first, second) if all => {
            b.destination_from::<u32>(first)?;
            b.predicate_destination_from(second)?;
        }
        first => {
            b.destination_from::<u32>(first)?;
            b.predicate_destination_from(&Operand::Sink)?;
        }
    }
    let wide = b.last() == "b64";
    if wide {
        b.source::<u64>()?;
    } else {
        b.source::<u32>()?;
    }
    b.source::<u32>()?;
    b.made.modifiers = u32::from(wide) | u32::from(all) << 1;
    Ok(|context, instruction| {
        exchange(context, instruction, instruction.operands[3], |context, instruction| {
            let values: [u64; LANES] = if instruction.modifiers & 1 != 0 {
                context.read(instruction.operands[2])
            } else {
                context.read::<u32>(instruction.operands[2]).map(u64::from)
            };
            let here = context.mask;
            let same = |lane: usize| {
                lanes(here).filter(|other| values[*other] == values[lane]).fold(0u32, |all, other| all | 1 << other)
            };
            let mut result = [0u32; LANES];
            for lane in lanes(here) {
                result[lane] = same(lane);
            }
            if instruction.modifiers & 2 != 0 {
                let whole = result[context.leader()] == here;
                result = [if whole { here } else { 0 }; LANES];
                context.set_predicate(instruction.predicate(1), if whole { u32::MAX } else { 0 });
            }
            context.write(instruction.operands[0], &result);
        })
    })
}

fn redux(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.destination::<u32>()?;
    b.source::<u32>()?;
    b.source::<u32>()?;
    macro_rules! redux {
        (|$x:ident, $y:ident| $value:expr) => {{
            fn execute(context: &mut Context<'_>, instruction: &Instruction) -> Step {
                exchange(context, instruction, instruction.operands[2], |context, instruction| {
                    let values: [u32; LANES] = context.read(instruction.operands[1]);
                    let result =
                        lanes(context.mask).map(|lane| values[lane]).reduce(|$x, $y| $value).unwrap_or_default();
                    context.write(instruction.operands[0], &[result; LANES]);
                })
            }
            Ok(execute)
        }};
    }
    match (b.modifier(1), b.last()) {
        ("add", _) => redux!(|x, y| x.wrapping_add(y)),
        ("min", "u32") => redux!(|x, y| x.min(y)),
        ("min", _) => redux!(|x, y| (x as i32).min(y as i32) as u32),
        ("max", "u32") => redux!(|x, y| x.max(y)),
        ("max", _) => redux!(|x, y| (x as i32).max(y as i32) as u32),
        ("and", _) => redux!(|x, y| x & y),
        ("or", _) => redux!(|x, y| x | y),
        _ => redux!(|x, y| x ^ y),
    }
}

fn redux_float(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.destination::<f32>()?;
    b.source::<f32>()?;
    b.source::<u32>()?;
    b.made.modifiers = u32::from(b.has("max")) | u32::from(b.has("abs")) << 1 | u32::from(b.has("NaN")) << 2;
    Ok(|context, instruction| {
        exchange(context, instruction, instruction.operands[2], |context, instruction| {
            let modifiers = instruction.modifiers;
            let values: [f32; LANES] = context.read(instruction.operands[1]);
            let values =
                lanes(context.mask).map(|lane| if modifiers & 2 != 0 { values[lane].abs() } else { values[lane] });
            let result = values.reduce(|x, y| {
                if modifiers & 4 != 0 && (x.is_nan() || y.is_nan()) {
                    f32::NAN
                } else if modifiers & 1 != 0 {
                    x.max(y)
                } else {
                    x.min(y)
                }
            });
            let result = result.unwrap_or_default();
            let result = if result.is_nan() { f32::from_bits(0x7fff_ffff) } else { result };
            context.write(instruction.operands[0], &[result; LANES]);
        })
    })
}

fn elect(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    match b.take()? {
        Operand::Pair(first, second) => {
            b.destination_from::<u32>(first)?;
            b.predicate_destination_from(second)?;
        }
        _ => return b.problem("`elect.sync` has two destinations: `register|predicate`"),
    }
    b.source::<u32>()?;
    Ok(|context, instruction| {
        exchange(context, instruction, instruction.operands[2], |context, instruction| {
            let leader = context.leader() as u32;
            context.write(instruction.operands[0], &[leader; LANES]);
            context.set_predicate(instruction.predicate(1), 1 << leader);
        })
    })
}
