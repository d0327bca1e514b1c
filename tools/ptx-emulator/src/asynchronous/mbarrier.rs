//! `mbarrier`: barriers in shared memory that count arrivals and bytes.
//!
//! The 64 bits of an object: the phase's parity (63), the bytes still expected (42–62, signed), the arrivals still pending in this
//! phase (20–39) and expected in each (0–19). An object that is zero has not been initialized.

use crate::checker::clock::Work;
use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::{Context, lanes};
use crate::machine::fault::FaultKind;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::LANES;
use crate::memory::access::{Space, shared};
use crate::parse::ast::Operand;

/// The forms.
pub const FORMS: &[Form] = &[
    Form { pattern: "mbarrier.init[.shared|shared::cta].b64", section: "9.7.13.15.9 mbarrier.init", build: init },
    Form {
        pattern: "mbarrier.inval[.shared|shared::cta].b64",
        section: "9.7.13.15.10 mbarrier.inval",
        build: invalidate,
    },
    Form {
        pattern: "mbarrier.expect_tx[.relaxed][.cta|cluster][.shared|shared::cta|shared::cluster].b64",
        section: "9.7.13.15.11 mbarrier.expect_tx",
        build: |b| transaction(b, true),
    },
    Form {
        pattern: "mbarrier.complete_tx[.relaxed][.cta|cluster][.shared|shared::cta|shared::cluster].b64",
        section: "9.7.13.15.12 mbarrier.complete_tx",
        build: |b| transaction(b, false),
    },
    Form {
        pattern: "mbarrier.arrive|arrive_drop[.expect_tx][.release|relaxed][.cta|cluster][.shared|shared::cta|shared::cluster][.noComplete].b64",
        section: "9.7.13.15.13 mbarrier.arrive",
        build: arrive,
    },
    Form {
        pattern: "cp.async.mbarrier.arrive[.noinc][.shared|shared::cta].b64",
        section: "9.7.13.15.15 cp.async.mbarrier.arrive",
        build: arrive_copy,
    },
    Form {
        pattern: "mbarrier.test_wait|try_wait[.acquire|relaxed][.cta|cluster][.shared|shared::cta].b64",
        section: "9.7.13.15.16 mbarrier.test_wait",
        build: |b| wait(b, false),
    },
    Form {
        pattern: "mbarrier.test_wait|try_wait.parity[.acquire|relaxed][.cta|cluster][.shared|shared::cta].b64",
        section: "9.7.13.15.16 mbarrier.test_wait",
        build: |b| wait(b, true),
    },
    Form {
        pattern: "mbarrier.pending_count.b64",
        section: "9.7.13.15.17 mbarrier.pending_count",
        build: |b| lanes!(b; (state: u64) -> u32 { (state >> 20 & 0xf_ffff) as u32 }),
    },
];

const COUNT: u64 = 0xf_ffff;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Barrier {
    expected: u64,
    pending: u64,
    bytes: i64,
    parity: u64,
}

impl Barrier {
    fn unpack(bits: u64) -> Barrier {
        Barrier {
            expected: bits & COUNT,
            pending: bits >> 20 & COUNT,
            bytes: (bits << 1) as i64 >> 43,
            parity: bits >> 63,
        }
    }

    fn pack(self) -> u64 {
        self.expected & COUNT | (self.pending & COUNT) << 20 | (self.bytes as u64 & 0x1f_ffff) << 42 | self.parity << 63
    }

    /// Goes on to the next phase if nothing is missing in this one.
    fn settle(mut self) -> Barrier {
        if self.pending == 0 && self.bytes == 0 {
            self.parity ^= 1;
            self.pending = self.expected;
        }
        self
    }
}

/// The arrivals and the bytes that an object's bits say are pending in this phase, and the phase's parity.
pub fn pending(bits: u64) -> (u64, i64, u64) {
    let barrier = Barrier::unpack(bits);
    (barrier.pending, barrier.bytes, barrier.parity)
}

/// Changes the object at an address of shared memory, and gives its bits before.
fn change(
    context: &mut Context<'_>,
    lane: usize,
    address: u64,
    change: impl FnOnce(&mut Barrier) -> Result<(), String>,
) -> Result<u64, Step> {
    let before = match context.load::<u64>(Space::Shared, lane, address) {
        Ok(bits) => bits,
        Err(refused) => return Err(context.refuse(lane, refused, "mbarrier operation")),
    };
    let mut barrier = Barrier::unpack(before);
    // All may have dropped out of a barrier that still waits for bytes.
    if before == 0 {
        let message = format!(
            "the mbarrier at 0x{address:x} is not initialized: mbarrier.init comes first, and a barrier after it"
        );
        return Err(context.fail(FaultKind::IllegalInstruction, lane, message));
    }
    if let Err(message) = change(&mut barrier) {
        return Err(context.fail(
            FaultKind::IllegalInstruction,
            lane,
            format!("the mbarrier at 0x{address:x}: {message}"),
        ));
    }
    let settled = barrier.settle();
    if settled.parity != before >> 63
        && let Some((cta, offset)) = context.shared_place(address)
    {
        context.check(|checker, _| checker.mbarrier_completed(cta, offset));
    }
    match context.store(Space::Shared, lane, address, settled.pack()) {
        Ok(()) => Ok(before),
        Err(refused) => Err(context.refuse(lane, refused, "mbarrier operation")),
    }
}

/// Bytes have arrived.
pub fn complete(context: &mut Context<'_>, lane: usize, address: u64, bytes: usize) -> Result<(), Step> {
    change(context, lane, address, |barrier| {
        barrier.bytes -= bytes as i64;
        in_range(barrier.bytes)
    })
    .map(drop)
}

/// An arrival of something else than a thread, such as `tcgen05.commit`.
pub fn arrive_at(context: &mut Context<'_>, lane: usize, address: u64) -> Result<(), Step> {
    check_arrival(context, lane, address, Work::TensorProducts);
    change(context, lane, address, |barrier| arrive_times(barrier, 1)).map(drop)
}

/// Tells the checker that an mbarrier waits for what a thread does, or has done.
fn check_arrival(context: &mut Context<'_>, lane: usize, address: u64, work: Work) {
    if let Some((cta, offset)) = context.shared_place(address) {
        context.check(|checker, actor| match work {
            Work::Threads => checker.mbarrier_arrive(actor, lane, cta, offset, true),
            _ => checker.mbarrier_arrive_after(actor, lane, cta, offset, work),
        });
    }
}

fn in_range(bytes: i64) -> Result<(), String> {
    if bytes.abs() < 1 << 20 { Ok(()) } else { Err(format!("{bytes} bytes expected; it can count to 2^20 - 1")) }
}

fn arrive_times(barrier: &mut Barrier, times: u64) -> Result<(), String> {
    if times > barrier.pending {
        return Err(format!("{times} arrivals where {} are pending in this phase", barrier.pending));
    }
    barrier.pending -= times;
    Ok(())
}

fn init(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.listed_address()?;
    b.source::<u32>()?;
    Ok(|context, instruction| {
        let list = context.list(instruction);
        for lane in lanes(context.mask) {
            let address = shared(context.listed_address(list, lane));
            let count = u64::from(context.row(instruction.operands[0]).0[lane]);
            if count == 0 || count > COUNT {
                let message = format!("an mbarrier for {count} arrivals: it can have 1 to 2^20 - 1");
                return context.fail(FaultKind::IllegalInstruction, lane, message);
            }
            let barrier = Barrier { expected: count, pending: count, bytes: 0, parity: 0 };
            if let Some((cta, offset)) = context.shared_place(address) {
                context.check(|checker, actor| checker.mbarrier_initialized(actor, lane, cta, offset));
            }
            if let Err(refused) = context.store(Space::Shared, lane, address, barrier.pack()) {
                return context.refuse(lane, refused, "mbarrier.init");
            }
        }
        Step::Next
    })
}

fn invalidate(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.listed_address()?;
    Ok(|context, instruction| {
        let list = context.list(instruction);
        for lane in lanes(context.mask) {
            let address = shared(context.listed_address(list, lane));
            if let Some((cta, offset)) = context.shared_place(address) {
                context.check(|checker, _| checker.mbarrier_invalidated(cta, offset));
            }
            if let Err(refused) = context.store(Space::Shared, lane, address, 0u64) {
                return context.refuse(lane, refused, "mbarrier.inval");
            }
        }
        Step::Next
    })
}

fn transaction(b: &mut Builder<'_, '_>, expect: bool) -> Result<Execute, Problem> {
    b.listed_address()?;
    b.source::<u32>()?;
    b.made.modifiers = u32::from(expect);
    Ok(|context, instruction| {
        let list = context.list(instruction);
        for lane in lanes(context.mask) {
            let address = shared(context.listed_address(list, lane));
            let bytes = i64::from(context.row(instruction.operands[0]).0[lane]);
            let bytes = if instruction.modifiers != 0 { bytes } else { -bytes };
            let changed = change(context, lane, address, |barrier| {
                barrier.bytes += bytes;
                in_range(barrier.bytes)
            });
            if let Err(step) = changed {
                return step;
            }
        }
        Step::Next
    })
}

const EXPECT: u32 = 1;
const DROP: u32 = 2;
const RETURNS: u32 = 4;
const COUNTED: u32 = 8;
const RELAXED: u32 = 16;
/// The arrival must leave something pending: what happens otherwise is undefined.
const INCOMPLETE: u32 = 32;

fn arrive(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    // Arriving at another CTA's barrier gives no state.
    match b.rest() {
        [Operand::Address(_), ..] => b.put(crate::machine::row::Slot::register(0)),
        [Operand::Sink, ..] => {
            b.take()?;
            b.put(crate::machine::row::Slot::register(0));
        }
        _ => {
            b.destination::<u64>()?;
            b.made.modifiers |= RETURNS;
        }
    }
    b.listed_address()?;
    if b.has("expect_tx") {
        b.made.modifiers |= EXPECT;
        b.source::<u32>()?;
    } else if b.left() > 0 {
        b.made.modifiers |= COUNTED;
        b.source::<u32>()?;
    }
    if b.has("arrive_drop") {
        b.made.modifiers |= DROP;
    }
    if b.has("relaxed") {
        b.made.modifiers |= RELAXED;
    }
    if b.has("noComplete") {
        b.made.modifiers |= INCOMPLETE;
    }
    Ok(execute_arrive)
}

fn execute_arrive(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    let modifiers = instruction.modifiers;
    let list = context.list(instruction);
    let mut states = [0u64; LANES];
    let mut arrived_at = None;
    for lane in lanes(context.mask) {
        let address = shared(context.listed_address(list, lane));
        // The threads of a warp have the same to tell.
        if modifiers & RELAXED == 0 && arrived_at.replace(address) != Some(address) {
            check_arrival(context, lane, address, Work::Threads);
        }
        let operand = context.row(instruction.operands[1]).0[lane];
        let changed = change(context, lane, address, |barrier| {
            if modifiers & EXPECT != 0 {
                barrier.bytes += i64::from(operand);
                in_range(barrier.bytes)?;
            }
            let times = if modifiers & COUNTED != 0 { u64::from(operand) } else { 1 };
            if modifiers & DROP != 0 {
                barrier.expected = barrier.expected.saturating_sub(times);
            }
            arrive_times(barrier, times)?;
            if modifiers & INCOMPLETE != 0 && barrier.pending == 0 && barrier.bytes == 0 {
                return Err("an arrival with .noComplete completes the phase".into());
            }
            Ok(())
        });
        match changed {
            Ok(before) => states[lane] = before,
            Err(step) => return step,
        }
    }
    if modifiers & RETURNS != 0 {
        context.write(instruction.operands[0], &states);
    }
    Step::Next
}

/// Copies are done already: their arrival is due. Without `.noinc` the pending count grows by what then arrives.
fn arrive_copy(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.listed_address()?;
    b.made.modifiers = u32::from(b.has("noinc"));
    Ok(|context, instruction| {
        let list = context.list(instruction);
        for lane in lanes(context.mask) {
            let address = shared(context.listed_address(list, lane));
            check_arrival(context, lane, address, Work::Copies);
            if instruction.modifiers == 0 {
                continue;
            }
            if let Err(step) = change(context, lane, address, |barrier| arrive_times(barrier, 1)) {
                return step;
            }
        }
        Step::Next
    })
}

fn wait(b: &mut Builder<'_, '_>, parity: bool) -> Result<Execute, Problem> {
    let try_wait = b.has("try_wait");
    b.predicate_destination()?;
    b.listed_address()?;
    if parity {
        b.source::<u32>()?;
    } else {
        b.source::<u64>()?;
    }
    if try_wait && b.left() > 0 {
        // How long to wait at most, which is not a matter of semantics.
        b.source::<u32>()?;
    }
    b.made.modifiers = u32::from(parity) | u32::from(try_wait) << 1 | u32::from(b.has("relaxed")) << 2;
    Ok(|context, instruction| {
        let list = context.list(instruction);
        let mut holds = 0;
        for lane in lanes(context.mask) {
            let address = shared(context.listed_address(list, lane));
            let bits = match context.load::<u64>(Space::Shared, lane, address) {
                Ok(bits) => bits,
                Err(refused) => return context.refuse(lane, refused, "mbarrier wait"),
            };
            if bits & COUNT == 0 && bits == 0 {
                let message = format!("waiting for the mbarrier at 0x{address:x}, which is not initialized");
                return context.fail(FaultKind::IllegalInstruction, lane, message);
            }
            // The phase of that parity is complete when the barrier is in one of the other.
            let waited = if instruction.modifiers & 1 != 0 {
                u64::from(context.row(instruction.operands[1]).0[lane] & 1)
            } else {
                context.read::<u64>(instruction.operands[1])[lane] >> 63
            };
            let mut complete = bits >> 63 != waited;
            if complete && let Some((cta, offset)) = context.shared_place(address) {
                let acquire = instruction.modifiers & 4 == 0;
                context.check(|checker, actor| {
                    complete = checker.mbarrier_awaited(actor, lane, cta, offset, acquire);
                });
            }
            holds |= u32::from(complete) << lane;
        }
        context.set_predicate(instruction.predicate(0), holds);
        if instruction.modifiers & 2 != 0 && holds & context.mask != context.mask { Step::Yield } else { Step::Next }
    })
}
