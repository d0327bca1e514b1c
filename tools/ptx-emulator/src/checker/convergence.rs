//! Instructions that want all threads of a warp, and are executed without some of them.
//!
//! Threads may come late: those that a branch parts meet again where its paths do, and the machine waits for them there. An
//! instruction lacks a thread for good where one part of the threads executes it on its way to that meeting, and another part gets
//! to the meeting without.

use super::shadow::Access;
use super::{Actor, Checker, ReportKind};
use crate::machine::instruction::{Alignment, Instruction};
use crate::machine::kernel::Kernel;
use crate::machine::warp::{Fragment, FragmentState, WarpState};

/// Threads that parted, and have not all met again.
#[derive(Clone, Copy, Debug)]
pub struct Parting {
    /// The branch.
    at: u32,
    /// Where they meet.
    meeting: u32,
    /// The threads.
    members: u32,
    /// Those of them that have got there.
    met: u32,
}

/// How many partings of a warp are remembered: those of code that nests as deep.
const PARTINGS: usize = 64;

impl Checker {
    /// Threads of a warp part at a branch.
    pub fn parts(&mut self, actor: Actor, kernel: &Kernel, members: u32) {
        let Some(meeting) = kernel.convergence().meeting(actor.at) else { return };
        let partings = &mut self.partings[actor.warp];
        if partings.len() == PARTINGS {
            partings.remove(0);
        }
        partings.push(Parting { at: actor.at, meeting, members, met: 0 });
    }

    /// Threads of a warp arrive at an instruction, which its guard lets some of them execute.
    #[inline(always)]
    pub fn arrives(&mut self, actor: Actor, kernel: &Kernel, instruction: &Instruction, lanes: Arrival<'_>) {
        if !self.partings[actor.warp].is_empty() {
            self.meets(actor, kernel, lanes);
        }
        let alignment = kernel.traits_of(instruction).alignment;
        if alignment != Alignment::None && lanes.executing & lanes.started != lanes.started {
            self.lacks(actor, alignment, lanes);
        }
    }

    /// Finds threads that get to where they meet others, while these wait for them on their way.
    #[cold]
    fn meets(&mut self, actor: Actor, kernel: &Kernel, Arrival { arrived, warp, .. }: Arrival<'_>) {
        let mut missed = None;
        self.partings[actor.warp].retain_mut(|parting| {
            if parting.meeting == actor.at && parting.members & arrived & !parting.met != 0 {
                let late = parting.members & !(parting.met | arrived);
                let aligned = |at: u32| kernel.traits_of(&kernel.code[at as usize]).alignment != Alignment::None;
                let waits =
                    |one: &&Fragment| one.state == FragmentState::Converging && one.mask & late != 0 && aligned(one.at);
                if let Some(waiting) = warp.fragments.iter().find(waits) {
                    missed = Some((*waiting, *parting, arrived & parting.members));
                }
                parting.met |= arrived;
            }
            parting.members & !parting.met & warp.running != 0
        });
        if let Some((waiting, parting, missing)) = missed {
            self.diverges(Actor { at: waiting.at, ..actor }, waiting.mask, missing, parting.at);
        }
    }

    /// Some of its threads do not execute what all should.
    #[cold]
    fn lacks(&mut self, actor: Actor, alignment: Alignment, lanes: Arrival<'_>) {
        let Arrival { arrived, executing, started, warp } = lanes;
        let excluded = arrived & !executing;
        if executing == 0 {
            return;
        }
        let lane = executing.trailing_zeros() as usize;
        if excluded != 0 {
            let message = format!(
                "{} of the warp execute this, and its guard leaves {} out: all threads of the warp have to execute it",
                named(executing),
                named(excluded)
            );
            self.find(ReportKind::Divergence, actor, lane, None, message);
        }
        let exited = started & !warp.running;
        if alignment == Alignment::Whole && exited != 0 {
            let message = format!(
                "{} of the warp execute this after {} have exited: it is undefined then",
                named(executing),
                named(exited)
            );
            self.find(ReportKind::Divergence, actor, lane, None, message);
        }
        let elsewhere = warp.running & !arrived;
        let passed = |parting: &&Parting| {
            parting.members & !parting.met & arrived != 0 && parting.members & parting.met & elsewhere != 0
        };
        if let Some(parting) = self.partings[actor.warp].iter().find(passed).copied() {
            self.diverges(actor, executing, parting.met & elsewhere, parting.at);
        }
    }

    fn diverges(&mut self, actor: Actor, present: u32, missing: u32, parted: u32) {
        let earlier = Access {
            agent: actor.warp as u16,
            time: self.now(actor.warp),
            at: parted,
            lane: missing.trailing_zeros() as u8 & 31,
            bytes: 0,
        };
        let message = format!(
            "{} of the warp execute this, and {} took another way at {{earlier}}: all threads of the warp have to execute it together",
            named(present),
            named(missing)
        );
        let lane = present.trailing_zeros() as usize & 31;
        self.find(ReportKind::Divergence, actor, lane, Some(earlier), message);
    }

    /// All threads of a warp wait for each other, at different instructions.
    #[cold]
    pub fn wait_apart(&mut self, actor: Actor, fragments: &[Fragment]) {
        if let [first, others @ ..] = fragments
            && let [second, ..] = others
        {
            let missing = others.iter().fold(0, |all, other| all | other.mask);
            let earlier = Access {
                agent: actor.warp as u16,
                time: self.now(actor.warp),
                at: second.at,
                lane: second.mask.trailing_zeros() as u8 & 31,
                bytes: 0,
            };
            let message = format!(
                "{} of the warp wait here for {}, which wait for them elsewhere, first at {{earlier}}",
                named(first.mask),
                named(missing)
            );
            let lane = first.mask.trailing_zeros() as usize & 31;
            self.find(ReportKind::Divergence, Actor { at: first.at, ..actor }, lane, Some(earlier), message);
        }
    }

    /// Threads exchange values, and do not agree on who they are.
    #[cold]
    pub fn masks_differ(&mut self, actor: Actor, (lane, mask): (usize, u32), (other, others): (usize, u32)) {
        let message = format!(
            "lane {lane} executes this with member mask 0x{mask:08x}, in which lane {other} is, and that with 0x{others:08x}: \
             the threads of a mask have to name the same"
        );
        self.find(ReportKind::Divergence, actor, lane, None, message);
    }
}

/// Threads that come to an instruction.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Those that came together.
    pub arrived: u32,
    /// Those of them that the guard lets execute it.
    pub executing: u32,
    /// Those that the warp had when it started.
    pub started: u32,
    /// The warp.
    pub warp: &'a WarpState,
}

/// The lanes of a mask in words: `lanes 0-3, 7`.
fn named(mask: u32) -> String {
    let mut ranges = vec![];
    let mut lane = 0;
    while lane < 32 {
        let run = (mask >> lane).trailing_ones();
        match run {
            0 => {}
            1 => ranges.push(lane.to_string()),
            _ => ranges.push(format!("{lane}-{}", lane + run - 1)),
        }
        lane += run.max(1);
    }
    format!("{} {}", if mask.count_ones() == 1 { "lane" } else { "lanes" }, ranges.join(", "))
}
