//! Barriers among threads, and fences.

use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::cluster::BARRIERS;
use crate::machine::context::Context;
use crate::machine::fault::FaultKind;
use crate::machine::instruction::{Alignment, Execute, Instruction, Step};
use crate::machine::row::{LANES, Slot};

/// The forms.
pub const FORMS: &[Form] = &[
    Form { pattern: "bar[.cta].sync", section: "9.7.13.1 bar", build: |b| barrier(b, SYNC) },
    Form { pattern: "bar[.cta].arrive", section: "9.7.13.1 bar", build: |b| barrier(b, ARRIVE) },
    Form { pattern: "bar[.cta].red.popc|and|or.u32|pred", section: "9.7.13.1 bar", build: |b| barrier(b, REDUCE) },
    Form { pattern: "barrier[.cta].sync[.aligned]", section: "9.7.13.1 barrier", build: |b| barrier(b, SYNC) },
    Form { pattern: "barrier[.cta].arrive[.aligned]", section: "9.7.13.1 barrier", build: |b| barrier(b, ARRIVE) },
    Form {
        pattern: "barrier[.cta].red.popc|and|or[.aligned].u32|pred",
        section: "9.7.13.1 barrier",
        build: |b| barrier(b, REDUCE),
    },
    Form {
        pattern: "bar.warp.sync",
        section: "9.7.13.2 bar.warp.sync",
        build: |b| {
            b.source::<u32>()?;
            Ok(|context, instruction| super::warp::exchange(context, instruction, instruction.operands[0], |_, _| {}))
        },
    },
    Form {
        pattern: "barrier.cluster.arrive[.release|relaxed][.aligned]",
        section: "9.7.13.3 barrier.cluster",
        build: |b| {
            b.made.modifiers = if b.has("relaxed") { RELAXED } else { 0 } | aligned(b);
            Ok(cluster_arrive)
        },
    },
    Form {
        pattern: "barrier.cluster.wait[.acquire][.aligned]",
        section: "9.7.13.3 barrier.cluster",
        build: |b| {
            b.made.modifiers = aligned(b);
            Ok(cluster_wait)
        },
    },
    Form { pattern: "membar.cta|gl|sys", section: "9.7.13.4 membar", build: builds_fence },
    Form {
        pattern: "fence[.sc|acq_rel|acquire|release].cta|cluster|gpu|sys",
        section: "9.7.13.4 fence",
        build: builds_fence,
    },
    Form {
        pattern: "fence.acquire|release.sync_restrict::shared::cluster|sync_restrict::shared::cta.cluster",
        section: "9.7.13.4 fence",
        build: builds_fence,
    },
    Form {
        pattern: "fence.mbarrier_init.release.cluster",
        section: "9.7.13.4 fence",
        build: |_| Ok(fence_initializations),
    },
    Form {
        pattern: "membar.proxy.alias|async",
        section: "9.7.13.4 membar.proxy",
        build: |b| Ok(if b.has("alias") { fence_other } else { fence_async }),
    },
    Form {
        pattern: "fence.proxy.alias|async[.global|shared::cta|shared::cluster]",
        section: "9.7.13.4 fence.proxy",
        build: |b| Ok(if b.has("alias") { fence_other } else { fence_async }),
    },
    Form {
        pattern: "fence.proxy.async::generic.acquire|release.sync_restrict::shared::cluster|sync_restrict::shared::cta.cluster",
        section: "9.7.13.4 fence.proxy",
        build: |_| Ok(fence_async),
    },
    Form {
        pattern: "fence.proxy.tensormap::generic.release.SCOPE",
        section: "9.7.13.4 fence.proxy",
        build: |_| Ok(fence_other),
    },
    Form {
        pattern: "fence.proxy.tensormap::generic.acquire.SCOPE",
        section: "9.7.13.4 fence.proxy",
        build: |b| {
            b.address()?;
            b.integer()?;
            Ok(fence_other)
        },
    },
];

const SYNC: u32 = 0;
const ARRIVE: u32 = 1;
const REDUCE: u32 = 2;
/// All threads of the warp have to be here.
const ALIGNED: u32 = 1 << 4;
const HAS_COUNT: u32 = 1 << 5;
/// What came before is not seen by those who wait.
const RELAXED: u32 = 1 << 6;

fn builds_fence(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.traits.only_reads = true;
    Ok(fence)
}

/// Memory of the machine is coherent and its accesses happen in order, so that a fence has nothing to do but for the checker.
fn fence(context: &mut Context<'_>, _: &Instruction) -> Step {
    context.check(|checker, actor| checker.fence(actor));
    Step::Next
}

/// A fence for initializations of mbarriers only.
fn fence_initializations(context: &mut Context<'_>, _: &Instruction) -> Step {
    context.check(|checker, actor| checker.fence_initializations(actor));
    Step::Next
}

/// A fence between the generic proxy and the async one.
fn fence_async(context: &mut Context<'_>, _: &Instruction) -> Step {
    context.check(|checker, actor| checker.fence_proxy(actor));
    Step::Next
}

/// A fence for aliases or for tensor maps, which are not checked.
fn fence_other(_: &mut Context<'_>, _: &Instruction) -> Step {
    Step::Next
}

/// Whether all threads of the warp have to be at a barrier together: `bar` always says so.
fn aligned(b: &mut Builder<'_, '_>) -> u32 {
    let aligned = b.name() == "bar" || b.has("aligned");
    b.traits.alignment = if aligned { Alignment::Running } else { Alignment::None };
    if aligned { ALIGNED } else { 0 }
}

fn barrier(b: &mut Builder<'_, '_>, what: u32) -> Result<Execute, Problem> {
    b.made.modifiers = what | aligned(b);
    if what == REDUCE {
        let operation = ["popc", "and", "or"].iter().position(|name| b.has(name)).unwrap_or(0) as u32;
        b.made.modifiers |= operation << 8;
        if b.has("popc") {
            b.destination::<u32>()?;
        } else {
            b.predicate_destination()?;
        }
    } else {
        b.put(Slot::register(0));
    }
    if b.left() == 0 {
        let zero = b.draft.constant(0, false);
        b.put(zero);
    } else {
        b.source::<u32>()?;
    }
    let more = b.left() - usize::from(what == REDUCE && b.left() > 0);
    if more > 0 {
        b.made.modifiers |= HAS_COUNT;
        b.source::<u32>()?;
    } else if what == ARRIVE {
        return b.problem("an arrival needs the number of threads");
    } else {
        b.put(Slot::register(0));
    }
    if what == REDUCE {
        b.predicate_source()?;
    }
    Ok(execute)
}

fn execute(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    let modifiers = instruction.modifiers;
    let what = modifiers & 0xf;
    if let Some((number, generation)) = context.pending {
        let mask = context.mask;
        let barrier = &context.here().barriers[number as usize % BARRIERS];
        if barrier.generation == generation {
            return Step::Wait;
        }
        let (count, all, any) = barrier.reduction[1];
        let now = barrier.generation;
        context.pending = None;
        context.check(|checker, actor| checker.leave(actor, mask, number as usize % BARRIERS, now));
        if what == REDUCE {
            match modifiers >> 8 & 3 {
                0 => context.write(instruction.operands[0], &[count; LANES]),
                1 => context.set_predicate(instruction.predicate(0), if all { u32::MAX } else { 0 }),
                _ => context.set_predicate(instruction.predicate(0), if any { u32::MAX } else { 0 }),
            }
        }
        return Step::Next;
    }
    if modifiers & ALIGNED != 0 && !context.assembled(u32::MAX) {
        return Step::Converge;
    }
    let number: u32 = context.uniform(instruction.operands[1]);
    let count: u32 = if modifiers & HAS_COUNT != 0 { context.uniform(instruction.operands[2]) } else { 0 };
    let lane = context.leader();
    if number as usize >= BARRIERS {
        let message = format!("barrier {number}: a CTA has {BARRIERS}");
        return context.fail(FaultKind::IllegalInstruction, lane, message);
    }
    if !count.is_multiple_of(LANES as u32) {
        let message = format!("a barrier for {count} threads: the number has to be a multiple of {LANES}");
        return context.fail(FaultKind::IllegalInstruction, lane, message);
    }
    // A warp counts as a whole for barriers that want it aligned, even where some of its threads have exited or never were.
    let arriving = if modifiers & ALIGNED != 0 && count != 0 { LANES as u32 } else { context.mask.count_ones() };
    let predicate = if what == REDUCE { super::logic::predicate_value(context, instruction.operands[3]) } else { 0 };
    let mask = context.mask;
    let state = context.here();
    let running = state.running;
    let barrier = &mut state.barriers[number as usize];
    if barrier.arrived > 0 && barrier.expected != count {
        let (before, arrived) = (barrier.expected, barrier.arrived);
        let say = |count: u32| if count == 0 { "all".into() } else { count.to_string() };
        let message = format!(
            "barrier {number} for {} threads, but {arrived} threads have arrived at it for {}",
            say(count),
            say(before)
        );
        return context.fail(FaultKind::IllegalInstruction, lane, message);
    }
    barrier.expected = count;
    barrier.arrived += arriving;
    if what == REDUCE {
        let reduction = &mut barrier.reduction[0];
        reduction.0 += (predicate & mask).count_ones();
        reduction.1 &= predicate & mask == mask;
        reduction.2 |= predicate & mask != 0;
    }
    let generation = barrier.generation;
    barrier.complete_if_all_arrived(running);
    context.check(|checker, actor| checker.arrive(actor, number as usize, generation));
    if what == ARRIVE {
        return Step::Next;
    }
    context.pending = Some((number as u16, generation));
    execute(context, instruction)
}

/// The number under which a thread waits at its cluster's barrier.
const CLUSTER: u16 = u16::MAX;

fn cluster_arrive(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    if instruction.modifiers & ALIGNED != 0 && !context.assembled(u32::MAX) {
        return Step::Converge;
    }
    let arriving = context.mask.count_ones();
    let generation = context.cluster.generation;
    let release = instruction.modifiers & RELAXED == 0;
    context.check(|checker, actor| checker.arrive_in_cluster(actor, generation, release));
    context.warp.cluster_generation = context.cluster.generation;
    context.cluster.arrived += arriving;
    context.cluster.complete_if_all_arrived();
    Step::Next
}

fn cluster_wait(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    if context.pending.is_none() && instruction.modifiers & ALIGNED != 0 && !context.assembled(u32::MAX) {
        return Step::Converge;
    }
    // The generation that the warp's threads arrived in.
    if context.cluster.generation == context.warp.cluster_generation {
        context.pending = Some((CLUSTER, context.cluster.generation));
        return Step::Wait;
    }
    context.pending = None;
    let (mask, generation) = (context.mask, context.cluster.generation);
    context.check(|checker, actor| checker.leave_in_cluster(actor, mask, generation));
    Step::Next
}
