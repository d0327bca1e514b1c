//! `cp.async` and the copies in bulk that need no tensor map.

use super::mbarrier;
use crate::checker::{Actor, Checker};
use crate::decode::builder::{Builder, WIDE_ADDRESS};
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::instructions::atomic::{Combine, combine_u16, combine_u32, combine_u64};
use crate::machine::context::{Context, lanes};
use crate::machine::fault::FaultKind;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::{LANES, Slot};
use crate::memory::Word;
use crate::memory::access::Space;
use crate::parse::ast::Operand;

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "cp.async.ca|cg.shared|shared::cta.global[.L2::cache_hint][.L2::64B|L2::128B|L2::256B]",
        section: "9.7.9.25.3.1 cp.async",
        build: copy,
    },
    Form {
        pattern: "cp.async.commit_group",
        section: "9.7.9.25.3.2 cp.async.commit_group",
        build: |_| Ok(|context, _| tell(context, Checker::copies_committed)),
    },
    Form {
        pattern: "cp.async.wait_group",
        section: "9.7.9.25.3.3 cp.async.wait_group",
        build: |b| {
            groups(b)?;
            Ok(|context, instruction| {
                let left = Some(instruction.immediate as u32);
                tell(context, |checker, actor, mask| checker.copies_awaited(actor, mask, left))
            })
        },
    },
    Form {
        pattern: "cp.async.wait_all",
        section: "9.7.9.25.3.3 cp.async.wait_all",
        build: |_| Ok(|context, _| tell(context, |checker, actor, mask| checker.copies_awaited(actor, mask, None))),
    },
    Form {
        pattern: "cp.async.bulk.commit_group",
        section: "9.7.9.27.2.1 cp.async.bulk.commit_group",
        build: |_| Ok(|context, _| tell(context, Checker::bulk_committed)),
    },
    Form {
        pattern: "cp.async.bulk.wait_group[.read]",
        section: "9.7.9.27.2.2 cp.async.bulk.wait_group",
        build: |b| {
            groups(b)?;
            Ok(|context, instruction| {
                let left = instruction.immediate as u32;
                tell(context, |checker, actor, mask| checker.bulk_awaited(actor, mask, left))
            })
        },
    },
    Form {
        pattern: "cp.async.bulk.shared::cluster|shared::cta.global.mbarrier::complete_tx::bytes[.multicast::cluster][.L2::cache_hint]",
        section: "9.7.9.25.4.1 cp.async.bulk",
        build: bulk_load,
    },
    Form {
        pattern: "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes.ignore_oob[.L2::cache_hint]",
        section: "9.7.9.25.4.1 cp.async.bulk",
        build: bulk_load,
    },
    Form {
        pattern: "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes",
        section: "9.7.9.25.4.1 cp.async.bulk",
        build: bulk_exchange,
    },
    Form {
        pattern: "cp.async.bulk.global.shared::cta.bulk_group[.L2::cache_hint][.cp_mask]",
        section: "9.7.9.25.4.1 cp.async.bulk",
        build: bulk_store,
    },
    Form {
        pattern: "cp.reduce.async.bulk.global.shared::cta.bulk_group[.L2::cache_hint].and|or|xor|add|inc|dec|min|max[.noftz].f16|bf16|b32|u32|s32|b64|u64|s64|f32|f64",
        section: "9.7.9.25.4.2 cp.reduce.async.bulk",
        build: bulk_reduce,
    },
    // There is one GPU's memory behind an address of several: what the emulated driver can map.
    Form {
        pattern: "multimem.cp.async.bulk.global.shared::cta.bulk_group[.cp_mask]",
        section: "9.7.9.25.4.4 multimem.cp.async.bulk",
        build: bulk_store,
    },
    Form {
        pattern: "multimem.cp.reduce.async.bulk.global.shared::cta.bulk_group.and|or|xor|add|inc|dec|min|max[.noftz].f16|bf16|b32|u32|s32|b64|u64|s64|f32|f64",
        section: "9.7.9.25.4.5 multimem.cp.reduce.async.bulk",
        build: bulk_reduce,
    },
    Form {
        pattern: "cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.and|or|xor|add|inc|dec|min|max.b32|u32|s32|u64",
        section: "9.7.9.25.4.2 cp.reduce.async.bulk",
        build: bulk_reduce_shared,
    },
    Form {
        pattern: "cp.async.bulk.prefetch.L2.global[.L2::cache_hint]",
        section: "9.7.9.25.4.3 cp.async.bulk.prefetch",
        build: |b| {
            b.address()?;
            b.source::<u32>()?;
            if b.has("L2::cache_hint") {
                b.source::<u64>()?;
            }
            Ok(|_, _| Step::Next)
        },
    },
    Form {
        pattern: "st.async[.weak][.cluster][.shared::cluster].mbarrier::complete_tx::bytes[.v2|v4].b32|b64|u32|u64|s32|s64|f32|f64",
        section: "9.7.9.12 st.async",
        build: store_async,
    },
];

/// What has to be waited for is done: only the checker has to know of it.
fn tell(context: &mut Context<'_>, tell: impl FnOnce(&mut Checker, Actor, u32)) -> Step {
    let mask = context.mask;
    context.check(|checker, actor| tell(checker, actor, mask));
    Step::Next
}

/// Reads how many groups need not be over.
fn groups(b: &mut Builder<'_, '_>) -> Result<(), Problem> {
    b.made.immediate = b.integer()?;
    if (0..=i64::from(u32::MAX)).contains(&b.made.immediate) {
        Ok(())
    } else {
        b.problem("the number of groups is not from 0 to 2^32 - 1")
    }
}

/// Bit of the modifiers: operand 2 is how many bytes come from the source; the rest is zero.
const PARTIAL: u32 = 1;
/// Operand 2 is a predicate that says to read nothing.
const IGNORED: u32 = 2;
/// The source's address register has 64 bits.
const WIDE_SOURCE: u32 = 4;

fn copy(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let Operand::Address(destination) = b.take()? else { return b.problem("expected an address in shared memory") };
    let Operand::Address(source) = b.take()? else { return b.problem("expected an address in global memory") };
    let ([destination], [source]) = (destination.as_slice(), source.as_slice()) else {
        return b.problem("an address has a base and an offset");
    };
    let (slot, wide, offset) = b.address_slot(destination)?;
    b.put(slot);
    if wide {
        b.made.modifiers |= WIDE_ADDRESS;
    }
    let (slot, wide, source_offset) = b.address_slot(source)?;
    b.put(slot);
    if wide {
        b.made.modifiers |= WIDE_SOURCE;
    }
    let bytes = b.integer()?;
    if !matches!(bytes, 4 | 8 | 16) || b.has("cg") && bytes != 16 {
        return b.problem("`cp.async` copies 4, 8 or 16 bytes; `.cg` only 16");
    }
    let hint = usize::from(b.has("L2::cache_hint"));
    if b.left() > hint {
        match b.rest() {
            [Operand::Name(name), ..] if b.is_predicate(name) => {
                b.made.modifiers |= IGNORED;
                b.predicate_source()?;
            }
            [Operand::Not(_), ..] => {
                b.made.modifiers |= IGNORED;
                b.predicate_source()?;
            }
            _ => {
                b.made.modifiers |= PARTIAL;
                b.source::<u32>()?;
            }
        }
    }
    if hint == 1 {
        b.source::<u64>()?;
    }
    // Both offsets and the size share the immediate: 28 bits each for what real programs have, checked.
    let fits = |offset: i64| (-(1 << 27)..1 << 27).contains(&offset);
    if !fits(offset) || !fits(source_offset) {
        return b.problem("the offset does not fit in 28 bits");
    }
    b.made.immediate = bytes | (offset & 0xfff_ffff) << 8 | (source_offset & 0xfff_ffff) << 36;
    Ok(execute_copy)
}

fn execute_copy(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    let modifiers = instruction.modifiers;
    let bytes = (instruction.immediate & 0xff) as usize;
    let offset = instruction.immediate << 28 >> 36;
    let source_offset = instruction.immediate >> 36;
    let destinations = context.addresses_of(instruction.operands[0], modifiers & WIDE_ADDRESS != 0, offset);
    let sources = context.addresses_of(instruction.operands[1], modifiers & WIDE_SOURCE != 0, source_offset);
    let mut sizes = [bytes as u32; LANES];
    if modifiers & PARTIAL != 0 {
        sizes = context.read(instruction.operands[2]);
    } else if modifiers & IGNORED != 0 {
        let ignored = crate::instructions::logic::predicate_value(context, instruction.operands[2]);
        for lane in lanes(ignored) {
            sizes[lane] = 0;
        }
    }
    for lane in lanes(context.mask) {
        let mut buffer = [0; 16];
        let size = sizes[lane] as usize;
        if size > bytes {
            let message = format!("the source size {size} is larger than the copy's {bytes} bytes");
            return context.fail(FaultKind::IllegalInstruction, lane, message);
        }
        for address in [destinations[lane], sources[lane]] {
            if address % bytes as u64 != 0 {
                let message =
                    format!("misaligned copy of {bytes} bytes at 0x{address:x}: it has to be a multiple of {bytes}");
                return context.fail(FaultKind::MisalignedAddress, lane, message);
            }
        }
        if size > 0 && context.cluster.checker.is_some() {
            context.check_global(Space::Global, lane, sources[lane], size);
        }
        if size > 0
            && let Err(refused) = context.copy_out(Space::Global, sources[lane], &mut buffer[..size])
        {
            return context.refuse(lane, refused, "copy");
        }
        context.issue(lane, |checker, actor| Some(checker.copy(actor, lane)));
        if let Err(refused) = context.copy_in(Space::Shared, destinations[lane], &buffer[..bytes]) {
            return context.refuse(lane, refused, "copy");
        }
    }
    Step::Next
}

/// Puts an address's base and offset into the list, which holds three slots for each: base, offset, and whether it has 64 bits.
pub fn put_address(b: &mut Builder<'_, '_>, operand: &Operand<'_>) -> Result<(), Problem> {
    let part = match operand {
        Operand::Address(parts) if parts.len() == 1 => &parts[0],
        _ => return b.problem("expected an address: `[register+offset]`"),
    };
    put_address_part(b, part)
}

/// The same for what stands inside of the brackets.
pub fn put_address_part(b: &mut Builder<'_, '_>, part: &Operand<'_>) -> Result<(), Problem> {
    let (slot, wide, offset) = b.address_slot(part)?;
    let offset = b.draft.constant(offset as u64, true);
    let wide = b.draft.constant(u64::from(wide), false);
    for slot in [slot, offset, wide] {
        b.put_in_list(slot);
    }
    Ok(())
}

/// An address that [`put_address`] read, for a lane.
pub fn listed_address(context: &Context<'_>, list: &[Slot], lane: usize) -> u64 {
    let offset = context.read::<u64>(list[1])[lane];
    if context.row(list[2]).0[lane] != 0 {
        context.read::<u64>(list[0])[lane].wrapping_add(offset)
    } else {
        u64::from(context.row(list[0]).0[lane].wrapping_add(offset as u32))
    }
}

/// An address of shared memory, which may be a generic one.
pub fn shared(address: u64) -> u64 {
    match crate::memory::access::specific(address) {
        (Space::Shared, offset) => offset,
        _ => address,
    }
}

/// Copies between memories without a buffer of their size.
pub fn transfer(
    context: &mut Context<'_>,
    from: (Space, u64),
    to: (Space, u64),
    bytes: usize,
) -> Result<(), crate::memory::access::Refused> {
    let mut buffer = [0; 4096];
    let mut at = 0;
    while at < bytes {
        let length = (bytes - at).min(buffer.len());
        context.copy_out(from.0, from.1.wrapping_add(at as u64), &mut buffer[..length])?;
        context.copy_in(to.0, to.1.wrapping_add(at as u64), &buffer[..length])?;
        at += length;
    }
    Ok(())
}

fn bulk_size(context: &mut Context<'_>, lane: usize, slot: Slot, addresses: [u64; 2]) -> Result<usize, Step> {
    let bytes = context.row(slot).0[lane] as usize;
    for address in addresses {
        if !address.is_multiple_of(16) || !bytes.is_multiple_of(16) {
            let message = format!("a bulk copy of {bytes} bytes at 0x{address:x}: both have to be multiples of 16");
            return Err(context.fail(FaultKind::MisalignedAddress, lane, message));
        }
    }
    Ok(bytes)
}

fn bulk_load(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    for _ in 0..2 {
        let operand = b.take()?;
        put_address(b, operand)?;
    }
    b.source::<u32>()?;
    if b.has("ignore_oob") {
        b.source::<u32>()?;
        b.source::<u32>()?;
        b.made.modifiers |= 2;
    }
    let operand = b.take()?;
    put_address(b, operand)?;
    if b.has("multicast::cluster") {
        b.source::<u16>()?;
        b.made.modifiers |= 1;
    }
    if b.has("L2::cache_hint") {
        b.source::<u64>()?;
    }
    Ok(|context, instruction| {
        let list = context.list(instruction);
        for lane in lanes(context.mask) {
            let to = shared(listed_address(context, list, lane));
            let from = listed_address(context, &list[3..], lane);
            let barrier = shared(listed_address(context, &list[6..], lane));
            let bytes = match bulk_size(context, lane, instruction.operands[0], [to, from]) {
                Ok(bytes) => bytes,
                Err(step) => return step,
            };
            // How many bytes at both ends may be out of bounds, and are not copied.
            let mut ends = [0; 2];
            if instruction.modifiers & 2 != 0 {
                ends = [1, 2].map(|operand| context.row(instruction.operands[operand]).0[lane] as usize);
                if ends.iter().any(|end| *end > 15) || ends[0] + ends[1] > bytes {
                    let message =
                        format!("{} and {} bytes of {bytes} are ignored: 15 can be at each end", ends[0], ends[1]);
                    return context.fail(FaultKind::IllegalInstruction, lane, message);
                }
            }
            let [left, right] = ends;
            let targets = multicast(context, instruction.modifiers & 1 != 0, instruction.operands[1], lane);
            for offset in targets.into_iter().flatten() {
                let place = |address: u64| offset.map_or(address, |rank| address & 0xff_ffff | rank << 24);
                issue_load(context, lane, place(barrier));
                let (source, target) = (from.wrapping_add(left as u64), place(to) + left as u64);
                let inside = bytes - left - right;
                if let Err(refused) = transfer(context, (Space::Generic, source), (Space::Shared, target), inside) {
                    return context.refuse(lane, refused, "bulk copy");
                }
                if let Err(step) = mbarrier::complete(context, lane, place(barrier), bytes) {
                    return step;
                }
            }
        }
        Step::Next
    })
}

/// Says that stretches are copied for a lane, by a copy that completes on an mbarrier.
pub fn issue_load(context: &mut Context<'_>, lane: usize, barrier: u64) {
    let place = context.shared_place(barrier);
    context.issue(lane, |checker, actor| place.and_then(|(cta, at)| checker.completes_on(actor, lane, cta, at)));
}

/// The same for a copy that belongs to a bulk group.
pub fn issue_store(context: &mut Context<'_>, lane: usize) {
    context.issue(lane, |checker, actor| Some(checker.bulk_read(actor, lane)));
}

/// Which CTAs of the cluster get a copy: `None` for the one that the address names.
pub fn multicast(context: &Context<'_>, wanted: bool, mask: Slot, lane: usize) -> [Option<Option<u64>>; 16] {
    let mut targets = [None; 16];
    if wanted {
        let mask = context.row(mask).0[lane];
        for (rank, target) in targets.iter_mut().enumerate() {
            *target = (mask >> rank & 1 != 0).then_some(Some(rank as u64));
        }
    } else {
        targets[0] = Some(None);
    }
    targets
}

fn bulk_exchange(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    for _ in 0..2 {
        let operand = b.take()?;
        put_address(b, operand)?;
    }
    b.source::<u32>()?;
    let operand = b.take()?;
    put_address(b, operand)?;
    Ok(|context, instruction| {
        let list = context.list(instruction);
        for lane in lanes(context.mask) {
            let [to, from, barrier] = [0, 3, 6].map(|at| shared(listed_address(context, &list[at..], lane)));
            let bytes = match bulk_size(context, lane, instruction.operands[0], [to, from]) {
                Ok(bytes) => bytes,
                Err(step) => return step,
            };
            issue_load(context, lane, barrier);
            if let Err(refused) = transfer(context, (Space::Shared, from), (Space::Shared, to), bytes) {
                return context.refuse(lane, refused, "bulk copy");
            }
            if let Err(step) = mbarrier::complete(context, lane, barrier, bytes) {
                return step;
            }
        }
        Step::Next
    })
}

fn bulk_store(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    for _ in 0..2 {
        let operand = b.take()?;
        put_address(b, operand)?;
    }
    b.source::<u32>()?;
    if b.has("L2::cache_hint") {
        b.source::<u64>()?;
    }
    if b.has("cp_mask") {
        b.source::<u16>()?;
        b.made.modifiers |= 1;
        if b.has("L2::cache_hint") {
            b.made.modifiers |= 2;
        }
    }
    Ok(|context, instruction| {
        let list = context.list(instruction);
        for lane in lanes(context.mask) {
            let to = listed_address(context, list, lane);
            let from = shared(listed_address(context, &list[3..], lane));
            let bytes = match bulk_size(context, lane, instruction.operands[0], [to, from]) {
                Ok(bytes) => bytes,
                Err(step) => return step,
            };
            issue_store(context, lane);
            if instruction.modifiers & 1 == 0 {
                if let Err(refused) = transfer(context, (Space::Shared, from), (Space::Generic, to), bytes) {
                    return context.refuse(lane, refused, "bulk copy");
                }
                continue;
            }
            // A bit of the mask for each byte of every 16.
            let mask = context.row(instruction.operands[if instruction.modifiers & 2 != 0 { 2 } else { 1 }]).0[lane];
            for byte in (0..bytes as u64).filter(|byte| mask >> (byte % 16) & 1 != 0) {
                if let Err(refused) = transfer(context, (Space::Shared, from + byte), (Space::Generic, to + byte), 1) {
                    return context.refuse(lane, refused, "bulk copy");
                }
            }
        }
        Step::Next
    })
}

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

    /// Combines the element at an address with one.
    pub fn apply(
        self,
        context: &mut Context<'_>,
        (space, address): (Space, u64),
        element: &[u8],
    ) -> Result<(), crate::memory::access::Refused> {
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
) -> Result<(), crate::memory::access::Refused> {
    for at in (0..bytes).step_by(reduction.bytes()) {
        let mut element = [0; 8];
        let element = &mut element[..reduction.bytes()];
        context.copy_out(Space::Shared, from + at as u64, element)?;
        reduction.apply(context, (space, to + at as u64), element)?;
    }
    Ok(())
}

fn bulk_reduce(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    for _ in 0..2 {
        let operand = b.take()?;
        put_address(b, operand)?;
    }
    b.source::<u32>()?;
    if b.has("L2::cache_hint") {
        b.source::<u64>()?;
    }
    b.made.modifiers = reduction(b)?;
    Ok(|context, instruction| {
        let Some(reduction) = reduction_of(instruction) else { return Step::Next };
        let list = context.list(instruction);
        for lane in lanes(context.mask) {
            let to = listed_address(context, list, lane);
            let from = shared(listed_address(context, &list[3..], lane));
            let bytes = match bulk_size(context, lane, instruction.operands[0], [to, from]) {
                Ok(bytes) => bytes,
                Err(step) => return step,
            };
            issue_store(context, lane);
            if let Err(refused) = reduce(context, reduction, from, (Space::Generic, to), bytes) {
                return context.refuse(lane, refused, "bulk reduction");
            }
        }
        Step::Next
    })
}

/// Into another CTA's shared memory, whose mbarrier is told.
fn bulk_reduce_shared(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    for _ in 0..2 {
        let operand = b.take()?;
        put_address(b, operand)?;
    }
    b.source::<u32>()?;
    let operand = b.take()?;
    put_address(b, operand)?;
    b.made.modifiers = reduction(b)?;
    if b.last() == "u64" && !b.has("add") {
        return b.problem("shared memory takes only `.add` of .u64");
    }
    Ok(|context, instruction| {
        let Some(reduction) = reduction_of(instruction) else { return Step::Next };
        let list = context.list(instruction);
        for lane in lanes(context.mask) {
            let [to, from, barrier] = [0, 3, 6].map(|at| shared(listed_address(context, &list[at..], lane)));
            let bytes = match bulk_size(context, lane, instruction.operands[0], [to, from]) {
                Ok(bytes) => bytes,
                Err(step) => return step,
            };
            issue_load(context, lane, barrier);
            if let Err(refused) = reduce(context, reduction, from, (Space::Shared, to), bytes) {
                return context.refuse(lane, refused, "bulk reduction");
            }
            if let Err(step) = mbarrier::complete(context, lane, barrier, bytes) {
                return step;
            }
        }
        Step::Next
    })
}

fn store_async(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    use crate::machine::row::Kind;
    let bytes = if b.last().ends_with("64") { 8 } else { 4 };
    let operand = b.take()?;
    put_address(b, operand)?;
    let values = b.take()?;
    let before = b.made.list_length;
    b.vector(values, bytes, Kind::Integer, false)?;
    let count = b.made.list_length - before;
    let operand = b.take()?;
    put_address(b, operand)?;
    b.made.modifiers = count | bytes << 8;
    Ok(|context, instruction| {
        let (count, bytes) = ((instruction.modifiers & 0xff) as usize, (instruction.modifiers >> 8) as usize);
        let list = context.list(instruction);
        for lane in lanes(context.mask) {
            let to = shared(listed_address(context, list, lane));
            let barrier = shared(listed_address(context, &list[3 + count..], lane));
            issue_load(context, lane, barrier);
            let place = context.shared_place(to);
            context.check_stretch(place, count * bytes, Some(false));
            for at in 0..count {
                let address = to + (at * bytes) as u64;
                let stored = if bytes == 8 {
                    let value = context.read::<u64>(list[3 + at])[lane];
                    context.store(Space::Shared, lane, address, value)
                } else {
                    let value = context.row(list[3 + at]).0[lane];
                    context.store(Space::Shared, lane, address, value)
                };
                if let Err(refused) = stored {
                    return context.refuse(lane, refused, "write");
                }
            }
            if let Err(step) = mbarrier::complete(context, lane, barrier, count * bytes) {
                return step;
            }
        }
        Step::Next
    })
}
