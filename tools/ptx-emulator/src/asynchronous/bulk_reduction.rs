//! `cp.reduce.async.bulk`: copies in bulk that combine what they bring with what is there.

use super::bulk::{Bulk, each_lane, ends_and_size, issue_load, issue_store};
use super::mbarrier;
use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::instructions::atomic::{Combine, combine_u16, combine_u32, combine_u64};
use crate::machine::context::Context;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::memory::Word;
use crate::memory::access::{Refused, Space, shared};

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "cp.reduce.async.bulk.global.shared::cta.bulk_group[.L2::cache_hint].and|or|xor|add|inc|dec|min|max[.noftz].f16|bf16|b32|u32|s32|b64|u64|s64|f32|f64",
        section: "9.7.9.25.4.2 cp.reduce.async.bulk",
        build: into_global,
    },
    Form {
        pattern: "multimem.cp.reduce.async.bulk.global.shared::cta.bulk_group.and|or|xor|add|inc|dec|min|max[.noftz].f16|bf16|b32|u32|s32|b64|u64|s64|f32|f64",
        section: "9.7.9.25.4.5 multimem.cp.reduce.async.bulk",
        build: into_global,
    },
    Form {
        pattern: "cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.and|or|xor|add|inc|dec|min|max.b32|u32|s32|u64",
        section: "9.7.9.25.4.2 cp.reduce.async.bulk",
        build: into_shared,
    },
];

/// A reduction's operation on elements of one of three sizes.
#[derive(Clone, Copy)]
pub enum Reduction {
    /// Of 16 bits.
    Half(Combine<u16>),
    /// Of 32 bits.
    Single(Combine<u32>),
    /// Of 64 bits.
    Double(Combine<u64>),
}

impl Reduction {
    /// By names.
    pub fn named(operation: &str, kind: &str) -> Option<Reduction> {
        combine_u16(operation, kind)
            .map(Reduction::Half)
            .or_else(|| combine_u32(operation, kind).map(Reduction::Single))
            .or_else(|| combine_u64(operation, kind).map(Reduction::Double))
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Reduction::Half(_) => 2,
            Reduction::Single(_) => 4,
            Reduction::Double(_) => 8,
        }
    }

    /// Combines the elements at an address with as many others.
    pub fn apply_each(
        self,
        context: &mut Context<'_>,
        (space, address): (Space, u64),
        elements: &[u8],
    ) -> Result<(), Refused> {
        context.check_combined(space, address, elements.len());
        elements.chunks_exact(self.bytes()).enumerate().try_for_each(|(at, element)| {
            self.apply(context, (space, address.wrapping_add((at * self.bytes()) as u64)), element)
        })
    }

    /// Combines the element at an address with one.
    pub fn apply(
        self,
        context: &mut Context<'_>,
        (space, address): (Space, u64),
        element: &[u8],
    ) -> Result<(), Refused> {
        match self {
            Reduction::Half(combine) => {
                let value = u16::from_bytes(element);
                context.update(space, 0, address, |old| combine(old, value)).map(drop)
            }
            Reduction::Single(combine) => {
                let value = u32::from_bytes(element);
                context.update(space, 0, address, |old| combine(old, value)).map(drop)
            }
            Reduction::Double(combine) => {
                let value = u64::from_bytes(element);
                context.update(space, 0, address, |old| combine(old, value)).map(drop)
            }
        }
    }
}

/// The operations and types of bulk reductions, by the numbers that instructions keep.
const OPERATIONS: [&str; 8] = ["and", "or", "xor", "add", "inc", "dec", "min", "max"];
const KINDS: [&str; 10] = ["f16", "bf16", "b32", "u32", "s32", "b64", "u64", "s64", "f32", "f64"];

/// The modifiers that keep an instruction's reduction.
fn reduction(b: &Builder<'_, '_>) -> Result<u32, Problem> {
    let operation = OPERATIONS.iter().position(|name| b.has(name)).unwrap_or(0);
    let kind = KINDS.iter().position(|name| *name == b.last()).unwrap_or(0);
    if Reduction::named(OPERATIONS[operation], KINDS[kind]).is_none() {
        return b.problem(format!("`{}` does not take .{}", OPERATIONS[operation], KINDS[kind]));
    }
    Ok(operation as u32 | (kind as u32) << 4)
}

/// The reduction that [`reduction`] kept.
fn reduction_of(instruction: &Instruction) -> Option<Reduction> {
    let modifiers = instruction.modifiers as usize;
    Reduction::named(OPERATIONS[modifiers & 7], KINDS[(modifiers >> 4) % KINDS.len()])
}

/// Combines elements that are in shared memory with those of a stretch.
fn reduce(
    context: &mut Context<'_>,
    reduction: Reduction,
    from: u64,
    (space, to): (Space, u64),
    bytes: usize,
) -> Result<(), Refused> {
    let mut buffer = [0; 4096];
    for at in (0..bytes).step_by(buffer.len()) {
        let part = &mut buffer[..(bytes - at).min(4096)];
        context.copy_out(Space::Shared, from.wrapping_add(at as u64), part)?;
        reduction.apply_each(context, (space, to.wrapping_add(at as u64)), part)?;
    }
    Ok(())
}

fn into_global(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    ends_and_size(b)?;
    b.cache_policy()?;
    b.made.modifiers = reduction(b)?;
    Ok(|context, instruction| {
        let Some(reduction) = reduction_of(instruction) else { return Step::Next };
        each_lane(context, instruction, |context, Bulk { lane, to, from, bytes, .. }| {
            issue_store(context, lane);
            reduce(context, reduction, shared(from), (Space::Generic, to), bytes)
                .map_err(|refused| context.refuse(lane, refused, "bulk reduction"))
        })
    })
}

/// Into another CTA's shared memory, whose mbarrier is told.
fn into_shared(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    ends_and_size(b)?;
    b.listed_address()?;
    b.made.modifiers = reduction(b)?;
    if b.last() == "u64" && !b.has("add") {
        return b.problem("shared memory takes only `.add` of .u64");
    }
    Ok(|context, instruction| {
        let Some(reduction) = reduction_of(instruction) else { return Step::Next };
        each_lane(context, instruction, |context, Bulk { lane, to, from, bytes, rest }| {
            let barrier = shared(context.listed_address(rest, lane));
            issue_load(context, lane, barrier);
            reduce(context, reduction, shared(from), (Space::Shared, shared(to)), bytes)
                .map_err(|refused| context.refuse(lane, refused, "bulk reduction"))?;
            mbarrier::complete(context, lane, barrier, bytes)
        })
    })
}
