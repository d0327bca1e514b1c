//! `tcgen05`: allocation of tensor memory, and waiting for what uses it.

use super::tensor_memory::COLUMNS;
use crate::asynchronous::mbarrier;
use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::{Context, lanes};
use crate::machine::fault::FaultKind;
use crate::machine::instruction::{Awaited, Execute, Step};
use crate::memory::access::{Space, shared};

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "tcgen05.alloc.cta_group::1|cta_group::2.sync.aligned[.shared::cta].b32",
        section: "9.7.16.7.1 tcgen05.alloc",
        build: allocate,
    },
    Form {
        pattern: "tcgen05.dealloc.cta_group::1|cta_group::2.sync.aligned.b32",
        section: "9.7.16.7.1 tcgen05.dealloc",
        build: release,
    },
    Form {
        pattern: "tcgen05.relinquish_alloc_permit.cta_group::1|cta_group::2.sync.aligned",
        section: "9.7.16.7.1 tcgen05.relinquish_alloc_permit",
        build: |_| Ok(|context, _| if context.assembled(u32::MAX) { Step::Next } else { Step::Converge }),
    },
    Form { pattern: "tcgen05.wait::ld|wait::st.sync.aligned", section: "9.7.16.8.5 tcgen05.wait", build: wait },
    Form {
        pattern: "tcgen05.fence::before_thread_sync|fence::after_thread_sync",
        section: "9.7.16.11.1 tcgen05.fence",
        build: fence,
    },
    Form {
        pattern: "tcgen05.commit.cta_group::1|cta_group::2.mbarrier::arrive::one[.shared::cluster][.multicast::cluster].b64",
        section: "9.7.16.12.1 tcgen05.commit",
        build: commit,
    },
];

/// What has to be waited for is done: only the checker has to know.
fn wait(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.made.modifiers = u32::from(b.has("wait::st"));
    Ok(|context, instruction| {
        if !context.assembled(u32::MAX) {
            return Step::Converge;
        }
        let stores = instruction.modifiers != 0;
        context.check(|checker, actor| checker.tensor_awaited(actor, stores));
        Step::Next
    })
}

/// What was issued is done in its order: only the checker has to know.
fn fence(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let after = b.has("fence::after_thread_sync");
    b.draft.tensor_fences[usize::from(after)] = true;
    b.made.modifiers = u32::from(after);
    Ok(|context, instruction| {
        let after = instruction.modifiers != 0;
        context.check(|checker, actor| checker.tensor_fenced(actor, after));
        Step::Next
    })
}

/// The CTAs that an operation of a group works on: the own one, or the pair of neighbours.
pub fn group(context: &Context<'_>, pair: bool) -> std::ops::Range<usize> {
    let first = if pair { context.cta & !1 } else { context.cta };
    first..(first + if pair { 2 } else { 1 }).min(context.cluster.ctas.len())
}

fn columns_allowed(columns: usize) -> bool {
    columns.is_power_of_two() && (32..=COLUMNS).contains(&columns)
}

fn allocate(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.listed_address()?;
    b.source::<u32>()?;
    b.made.modifiers = u32::from(b.has("cta_group::2"));
    b.traits.awaited = Awaited::TensorMemory;
    Ok(|context, instruction| {
        if !context.assembled(u32::MAX) {
            return Step::Converge;
        }
        let lane = context.leader();
        let columns = context.row(instruction.operands[0]).0[lane] as usize;
        if !columns_allowed(columns) {
            let message =
                format!("{columns} columns of tensor memory; it is allocated in powers of two from 32 to 512");
            return context.fail(FaultKind::IllegalInstruction, lane, message);
        }
        // A pair allocates once: the second of the two finds what the first took for both.
        let address = shared(context.listed_address(context.list(instruction), lane));
        let pair = instruction.modifiers != 0;
        let own = context.cta;
        if pair
            && let Some(first) =
                context.cluster.ctas[own].tensor.as_mut().and_then(|tensor| tensor.take_reserved(columns))
        {
            return store(context, lane, address, first);
        }
        let mut taken = None;
        for cta in group(context, pair) {
            let tensor = context.cluster.ctas[cta].tensor.get_or_insert_default();
            match tensor.allocate(columns) {
                Some(first) => taken = Some(first),
                None => return Step::Wait,
            }
            if cta != own
                && let Some(first) = taken
            {
                tensor.reserve(first, columns);
            }
        }
        match taken {
            Some(first) => store(context, lane, address, first),
            None => Step::Wait,
        }
    })
}

fn store(context: &mut Context<'_>, lane: usize, address: u64, first: usize) -> Step {
    context.issue(lane, |_, _| None);
    let place = context.shared_place(address);
    context.check_stretch(place, 4, Some(false));
    match context.store(Space::Shared, lane, address, first as u32) {
        Ok(()) => Step::Next,
        Err(refused) => context.refuse(lane, refused, "tcgen05.alloc"),
    }
}

fn release(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.source::<u32>()?;
    b.source::<u32>()?;
    b.made.modifiers = u32::from(b.has("cta_group::2"));
    Ok(|context, instruction| {
        if !context.assembled(u32::MAX) {
            return Step::Converge;
        }
        let lane = context.leader();
        let address = context.row(instruction.operands[0]).0[lane];
        let columns = context.row(instruction.operands[1]).0[lane] as usize;
        // Both CTAs of a pair call it; each gives back its own part.
        let own = context.cta;
        let released =
            context.cluster.ctas[own].tensor.as_mut().is_some_and(|t| t.release(address as usize & 0xffff, columns));
        if released {
            let first = address as usize & 0xffff;
            context.check(|checker, _| checker.tensor_released(own, first, columns));
            return Step::Next;
        }
        let message = format!("{columns} columns of tensor memory at 0x{address:08x} were not allocated so");
        context.fail(FaultKind::IllegalInstruction, lane, message)
    })
}

fn commit(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.listed_address()?;
    if b.has("multicast::cluster") {
        b.source::<u16>()?;
        b.made.modifiers = 1;
    }
    Ok(|context, instruction| {
        let list = context.list(instruction);
        for lane in lanes(context.mask) {
            let address = shared(context.listed_address(list, lane));
            if instruction.modifiers == 0 {
                if let Err(step) = mbarrier::arrive_at(context, lane, address) {
                    return step;
                }
                continue;
            }
            let mask = context.row(instruction.operands[0]).0[lane] & 0xffff;
            for rank in lanes(mask) {
                if let Err(step) = mbarrier::arrive_at(context, lane, address & 0xff_ffff | (rank as u64) << 24) {
                    return step;
                }
            }
        }
        Step::Next
    })
}
