//! A warp: 32 threads, each with its own place in the program.
//!
//! Threads that are at the same place run together, as a fragment. Of the fragments that can run, the one that is furthest behind in
//! the program runs first, so that fragments meet again where the program's paths do; one that waits, or that runs for long, lets
//! the others go on. So every thread makes progress, as PTX promises since sm_70.

use smallvec::SmallVec;

use super::context::{Context, lanes};
use super::instruction::Step;
use super::row::{LANES, Row};
use crate::memory::shared::Bytes;

/// A warp's registers and where its threads are.
#[derive(Debug, Default)]
pub struct WarpState {
    /// Rows of registers.
    pub registers: Vec<Row>,
    /// Predicates, a bit for each lane.
    pub predicates: Vec<u32>,
    /// Local memory: that of lane 0, then of lane 1, and so on.
    pub local: Bytes,
    /// Registers of calls that are not over, while a recursive function is called again: of each lane.
    pub saved: [Vec<u64>; LANES],
    /// The warp's number in its CTA.
    pub number: u32,
    /// Lanes that have not exited.
    pub running: u32,
    /// Its threads, by place.
    pub fragments: SmallVec<[Fragment; 4]>,
    /// Registers that each of its threads has by `.maxnreg` and `setmaxnreg`; 0 where nobody says.
    pub registers_each: u32,
    /// In which generation of the cluster's barrier its threads arrived last.
    pub cluster_generation: u32,
    /// How many instructions have run since another fragment had its turn.
    streak: u32,
    ticks: u64,
    /// How many instructions it has run, for all lanes as one.
    pub executed: u64,
}

/// Threads of a warp that are at the same place.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    /// The next instruction.
    pub at: u32,
    /// The threads.
    pub mask: u32,
    /// Whether it can run.
    pub state: FragmentState,
    /// The barrier it waits at, and the barrier's generation when it arrived.
    pub pending: Option<(u16, u32)>,
}

/// Whether a fragment can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FragmentState {
    /// It can.
    Ready,
    /// It can, after the others.
    Yielding,
    /// It waits for other warps, or what they do.
    Waiting,
    /// It waits for other threads of the warp to arrive at the same instruction.
    Converging,
}

/// Why a warp stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// All threads have exited.
    Finished,
    /// All threads wait.
    Blocked,
    /// Threads poll for what is not there yet.
    Polling,
    /// It ran for as long as it may at a time.
    Preempted,
    /// The context has a fault.
    Faulted,
}

/// How many instructions a fragment runs before others of its warp get a turn.
const FRAGMENT_TURN: u32 = 4096;

impl WarpState {
    /// Puts some threads of a warp at the start of a program.
    pub fn start(&mut self, number: u32, threads: u32) {
        self.number = number;
        self.running = threads;
        self.fragments.clear();
        self.saved.iter_mut().for_each(Vec::clear);
        self.fragments.push(Fragment { at: 0, mask: threads, state: FragmentState::Ready, pending: None });
    }

    /// A number that grows while the warp runs.
    pub fn clock(&mut self) -> u64 {
        self.ticks += 1;
        self.executed + self.ticks
    }

    /// Joins fragments that are at the same place, unless they already wait at a barrier.
    fn merge(&mut self) {
        let mut at = 0;
        while at < self.fragments.len() {
            let one = self.fragments[at];
            if one.pending.is_none()
                && let Some(other) = (at + 1..self.fragments.len()).find(|other| {
                    let other = &self.fragments[*other];
                    other.at == one.at && other.pending.is_none()
                })
            {
                let other = self.fragments.swap_remove(other);
                let joined = &mut self.fragments[at];
                joined.mask |= other.mask;
                joined.state = FragmentState::Ready;
                continue;
            }
            at += 1;
        }
    }

    /// The fragment to run: of the ready ones, the one that is furthest behind.
    fn select(&self) -> Option<usize> {
        let ready = self.fragments.iter().enumerate().filter(|(_, fragment)| fragment.state == FragmentState::Ready);
        ready.min_by_key(|(_, fragment)| fragment.at).map(|(index, _)| index)
    }
}

/// Runs a warp until it waits, exits, or has run `budget` instructions.
pub fn run(context: &mut Context<'_>, budget: u32) -> Turn {
    let mut left = budget;
    // Those that let others go first stay behind while there are others.
    let others = context.warp.fragments.iter().any(|fragment| fragment.state == FragmentState::Ready);
    for fragment in &mut context.warp.fragments {
        if fragment.state == FragmentState::Waiting || fragment.state == FragmentState::Yielding && !others {
            fragment.state = FragmentState::Ready;
        }
    }
    let run_fragment = if context.observer.is_some() || context.cluster.checker.is_some() {
        run_fragment::<true>
    } else {
        run_fragment::<false>
    };
    loop {
        if context.warp.fragments.len() > 1 {
            context.warp.merge();
        }
        let Some(index) = context.warp.select() else {
            if context.warp.fragments.iter().all(|fragment| fragment.state == FragmentState::Converging) {
                let fragments = context.warp.fragments.clone();
                context.check(|checker, actor| checker.wait_apart(actor, &fragments));
            }
            let fragments = &context.warp.fragments;
            return if fragments.is_empty() {
                Turn::Finished
            } else if fragments.iter().any(|fragment| fragment.state == FragmentState::Yielding) {
                Turn::Polling
            } else {
                Turn::Blocked
            };
        };
        if left == 0 {
            return Turn::Preempted;
        }
        if let Some(turn) = run_fragment(context, index, &mut left) {
            return turn;
        }
    }
}

/// Runs one fragment, for the checker or somebody who looks on, or for nobody, until the fragments have to be looked at again, or until the warp has to stop.
fn run_fragment<const OBSERVED: bool>(context: &mut Context<'_>, index: usize, left: &mut u32) -> Option<Turn> {
    let kernel = context.kernel;
    let alone = context.warp.fragments.len() == 1;
    let Fragment { mut at, mut mask, pending, .. } = context.warp.fragments[index];
    // Where another fragment is, to be joined there.
    let meeting = context.warp.fragments.iter().map(|fragment| fragment.at).filter(|other| *other > at).min();
    let meeting = meeting.unwrap_or(u32::MAX);
    let allowed = if alone { *left } else { (*left).min(FRAGMENT_TURN) };
    let mut ran = 0;
    context.pending = pending;
    let state = loop {
        let instruction = &kernel.code[at as usize];
        context.mask = mask & instruction.guard.lanes(&context.warp.predicates);
        context.arrived = mask;
        ran += 1;
        let step = if OBSERVED {
            context.at = at;
            context.run_observed(instruction)
        } else if context.mask == 0 {
            Step::Next
        } else {
            (instruction.execute)(context, instruction)
        };
        match step {
            Step::Next => at += 1,
            Step::Branch if context.mask == mask => {
                at = instruction.target;
                if !alone {
                    break FragmentState::Ready;
                }
            }
            Step::Branch => {
                let taken = context.mask;
                mask &= !taken;
                at += 1;
                context.warp.fragments.push(Fragment {
                    at: instruction.target,
                    mask: taken,
                    state: FragmentState::Ready,
                    pending: None,
                });
                break FragmentState::Ready;
            }
            Step::Scatter => {
                let mut rest = context.mask;
                mask &= !rest;
                at += 1;
                while rest != 0 {
                    let target = context.targets[rest.trailing_zeros() as usize];
                    let together = lanes(rest)
                        .filter(|lane| context.targets[*lane] == target)
                        .fold(0, |all, lane| all | 1 << lane);
                    rest &= !together;
                    if rest == 0 && mask == 0 {
                        (at, mask) = (target, together);
                    } else {
                        context.warp.fragments.push(Fragment {
                            at: target,
                            mask: together,
                            state: FragmentState::Ready,
                            pending: None,
                        });
                    }
                }
                break FragmentState::Ready;
            }
            Step::Exit => {
                let gone = context.mask;
                mask &= !gone;
                at += 1;
                context.warp.running &= !gone;
                let cta = context.cta;
                context.cluster.exited(cta, gone.count_ones());
                if context.warp.running == 0 {
                    // Nobody waits for its products, and others may have its registers.
                    let (number, registers) = (context.warp.number as usize, context.warp.registers_each);
                    let cta = context.here();
                    cta.products.get_mut(number).into_iter().for_each(|groups| *groups = u32::MAX);
                    cta.free_registers += registers * LANES as u32;
                }
                break FragmentState::Ready;
            }
            Step::Wait => break FragmentState::Waiting,
            Step::Yield => {
                at += 1;
                break FragmentState::Yielding;
            }
            Step::Converge => break FragmentState::Converging,
            Step::Fault => {
                context.warp.fragments[index].at = at;
                return Some(Turn::Faulted);
            }
        }
        if ran >= allowed {
            break FragmentState::Ready;
        }
        if at == meeting {
            break FragmentState::Ready;
        }
    };
    *left = left.saturating_sub(ran);
    // A fragment that loops may be waiting for another one, which has to get its turn.
    context.warp.streak = context.warp.streak.saturating_add(ran);
    let state = if !alone && state == FragmentState::Ready && context.warp.streak >= FRAGMENT_TURN {
        context.warp.streak = 0;
        FragmentState::Yielding
    } else {
        state
    };
    context.warp.executed += u64::from(ran);
    if mask == 0 {
        context.warp.fragments.swap_remove(index);
        // Threads that were waited for may just have exited.
        for fragment in &mut context.warp.fragments {
            if fragment.state == FragmentState::Converging {
                fragment.state = FragmentState::Ready;
            }
        }
    } else {
        context.warp.fragments[index] = Fragment { at, mask, state, pending: context.pending };
    }
    None
}
