//! `cp.async.bulk`: copies in bulk that need no tensor map, and their groups.

use super::copy::{groups, tell};
use super::mbarrier;
use crate::checker::Checker;
use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::{Context, lanes};
use crate::machine::fault::FaultKind;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::Slot;
use crate::memory::access::{Refused, Space, shared};

/// The forms.
pub const FORMS: &[Form] = &[
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
        build: load,
    },
    Form {
        pattern: "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes.ignore_oob[.L2::cache_hint]",
        section: "9.7.9.25.4.1 cp.async.bulk",
        build: load,
    },
    Form {
        pattern: "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes",
        section: "9.7.9.25.4.1 cp.async.bulk",
        build: exchange,
    },
    Form {
        pattern: "cp.async.bulk.global.shared::cta.bulk_group[.L2::cache_hint][.cp_mask]",
        section: "9.7.9.25.4.1 cp.async.bulk",
        build: store,
    },
    // There is one GPU's memory behind an address of several: what the emulated driver can map.
    Form {
        pattern: "multimem.cp.async.bulk.global.shared::cta.bulk_group[.cp_mask]",
        section: "9.7.9.25.4.4 multimem.cp.async.bulk",
        build: store,
    },
    Form {
        pattern: "cp.async.bulk.prefetch.L2.global[.L2::cache_hint]",
        section: "9.7.9.25.4.3 cp.async.bulk.prefetch",
        build: |b| {
            b.address()?;
            b.source::<u32>()?;
            b.cache_policy()?;
            Ok(|_, _| Step::Next)
        },
    },
];

/// What a lane of a copy in bulk asks for.
pub struct Bulk<'i> {
    /// The lane.
    pub lane: usize,
    /// The address to copy to.
    pub to: u64,
    /// The address to copy from.
    pub from: u64,
    /// How many bytes, a multiple of 16.
    pub bytes: usize,
    /// The list behind both addresses.
    pub rest: &'i [Slot],
}

/// Reads what all copies in bulk start with: both addresses, and how many bytes.
pub fn ends_and_size(b: &mut Builder<'_, '_>) -> Result<(), Problem> {
    b.listed_address()?;
    b.listed_address()?;
    b.source::<u32>()
}

/// Copies for each active lane, as far as they can.
pub fn each_lane<'a>(
    context: &mut Context<'a>,
    instruction: &Instruction,
    mut copy: impl FnMut(&mut Context<'a>, Bulk<'a>) -> Result<(), Step>,
) -> Step {
    let list = context.list(instruction);
    for lane in lanes(context.mask) {
        let [to, from] = [0, 3].map(|at| context.listed_address(&list[at..], lane));
        let bytes = context.row(instruction.operands[0]).0[lane] as usize;
        let address = if to.is_multiple_of(16) { from } else { to };
        if !address.is_multiple_of(16) || !bytes.is_multiple_of(16) {
            let message = format!("a bulk copy of {bytes} bytes at 0x{address:x}: both have to be multiples of 16");
            return context.fail(FaultKind::MisalignedAddress, lane, message);
        }
        if let Err(step) = copy(context, Bulk { lane, to, from, bytes, rest: &list[6..] }) {
            return step;
        }
    }
    Step::Next
}

/// Copies between memories without a buffer of their size.
pub fn transfer(context: &mut Context<'_>, from: (Space, u64), to: (Space, u64), bytes: usize) -> Result<(), Refused> {
    let mut buffer = [0; 4096];
    for at in (0..bytes).step_by(buffer.len()) {
        let part = &mut buffer[..(bytes - at).min(4096)];
        context.copy_out(from.0, from.1.wrapping_add(at as u64), part)?;
        context.copy_in(to.0, to.1.wrapping_add(at as u64), part)?;
    }
    Ok(())
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

/// Bit of the modifiers: the copy goes to the CTAs of a mask.
const MULTICAST: u32 = 1;
/// Two operands say how many bytes at both ends may be out of bounds.
const ENDS: u32 = 2;

fn load(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    ends_and_size(b)?;
    if b.has("ignore_oob") {
        b.source::<u32>()?;
        b.source::<u32>()?;
        b.made.modifiers |= ENDS;
    }
    b.listed_address()?;
    if b.has("multicast::cluster") {
        b.source::<u16>()?;
        b.made.modifiers |= MULTICAST;
    }
    b.cache_policy()?;
    Ok(|context, instruction| {
        each_lane(context, instruction, |context, Bulk { lane, to, from, bytes, rest }| {
            let (to, barrier) = (shared(to), shared(context.listed_address(rest, lane)));
            // How many bytes at both ends may be out of bounds, and are not copied.
            let mut ends = [0; 2];
            if instruction.modifiers & ENDS != 0 {
                ends = [1, 2].map(|operand| context.row(instruction.operands[operand]).0[lane] as usize);
                if ends.iter().any(|end| *end > 15) || ends[0] + ends[1] > bytes {
                    let message =
                        format!("{} and {} bytes of {bytes} are ignored: 15 can be at each end", ends[0], ends[1]);
                    return Err(context.fail(FaultKind::IllegalInstruction, lane, message));
                }
            }
            let [left, right] = ends;
            let source = (Space::Generic, from.wrapping_add(left as u64));
            context.check_global(source.0, lane, source.1, bytes - left - right);
            let several = instruction.modifiers & MULTICAST != 0;
            for offset in multicast(context, several, instruction.operands[1], lane).into_iter().flatten() {
                let place = |address: u64| offset.map_or(address, |rank| address & 0xff_ffff | rank << 24);
                issue_load(context, lane, place(barrier));
                let target = (Space::Shared, place(to) + left as u64);
                transfer(context, source, target, bytes - left - right)
                    .map_err(|refused| context.refuse(lane, refused, "bulk copy"))?;
                mbarrier::complete(context, lane, place(barrier), bytes)?;
            }
            Ok(())
        })
    })
}

/// Into another CTA's shared memory, whose mbarrier is told.
fn exchange(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    ends_and_size(b)?;
    b.listed_address()?;
    Ok(|context, instruction| {
        each_lane(context, instruction, |context, Bulk { lane, to, from, bytes, rest }| {
            let barrier = shared(context.listed_address(rest, lane));
            issue_load(context, lane, barrier);
            transfer(context, (Space::Shared, shared(from)), (Space::Shared, shared(to)), bytes)
                .map_err(|refused| context.refuse(lane, refused, "bulk copy"))?;
            mbarrier::complete(context, lane, barrier, bytes)
        })
    })
}

/// Bit of the modifiers: an operand has a bit for each byte of every 16, which is the second or, behind a cache policy, the third.
const MASKED: u32 = 1;
const BEHIND_POLICY: u32 = 2;

fn store(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    ends_and_size(b)?;
    b.cache_policy()?;
    if b.has("cp_mask") {
        b.source::<u16>()?;
        b.made.modifiers = MASKED | if b.has("L2::cache_hint") { BEHIND_POLICY } else { 0 };
    }
    Ok(|context, instruction| {
        each_lane(context, instruction, |context, Bulk { lane, to, from, bytes, .. }| {
            issue_store(context, lane);
            let from = shared(from);
            let stored = if instruction.modifiers & MASKED == 0 {
                transfer(context, (Space::Shared, from), (Space::Generic, to), bytes)
            } else {
                let operand = if instruction.modifiers & BEHIND_POLICY != 0 { 2 } else { 1 };
                let mask = context.row(instruction.operands[operand]).0[lane];
                (0..bytes as u64).filter(|byte| mask >> (byte % 16) & 1 != 0).try_for_each(|byte| {
                    transfer(context, (Space::Shared, from + byte), (Space::Generic, to + byte), 1)
                })
            };
            stored.map_err(|refused| context.refuse(lane, refused, "bulk copy"))
        })
    })
}
