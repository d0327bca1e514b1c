//! What an instruction sees while it runs: its warp, its CTA, and the memories.

use super::cluster::{ClusterState, CtaState};
use super::fault::FaultKind;
use super::grid::Grid;
use super::instruction::{Instruction, Step};
use super::kernel::Kernel;
use super::observer::{Access, Moment, Observer};
use super::row::{LANES, Lane, Row, Slot};
use super::warp::WarpState;
use crate::checker::Arrival;
use crate::memory::global::Window;

/// The place of a running instruction in the machine.
pub struct Context<'a> {
    /// The warp's registers.
    pub warp: &'a mut WarpState,
    /// The number of the instruction that runs, where it is checked or observed.
    pub at: u32,
    /// The lanes that the instruction runs for: never none.
    pub mask: u32,
    /// The lanes that arrived at the instruction together, whether its guard holds for them or not.
    pub arrived: u32,
    /// The barrier that the lanes arrived at before, and its generation then, while they wait there.
    pub pending: Option<(u16, u32)>,
    /// The cluster's CTAs.
    pub cluster: &'a mut ClusterState,
    /// Which of them is the warp's.
    pub cta: usize,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// The launch.
    pub grid: &'a Grid<'a>,
    /// The allocation that was accessed last.
    pub window: Window<'a>,
    /// Where lanes go after [`Step::Scatter`].
    pub targets: [u32; LANES],
    /// What went wrong, and for which lane, after [`Step::Fault`].
    pub fault: Option<(FaultKind, u32, String)>,
    /// The lane that copies a stretch of memory, and the agent and time if the copy is asynchronous: for the checker.
    pub issuer: (usize, Option<(u16, u32)>),
    /// Who looks on.
    pub observer: Option<&'a mut dyn Observer>,
}

impl<'a> Context<'a> {
    /// All lanes of an operand.
    #[inline(always)]
    pub fn read<T: Lane>(&self, slot: Slot) -> [T; LANES] {
        let (row, constant) = slot.place();
        T::read(if constant { &self.kernel.constants } else { &self.warp.registers }, row)
    }

    /// The rows that hold an operand.
    #[inline(always)]
    pub fn row(&self, slot: Slot) -> &Row {
        let (row, constant) = slot.place();
        if constant { &self.kernel.constants[row] } else { &self.warp.registers[row] }
    }

    /// Sets a register in the active lanes.
    #[inline(always)]
    pub fn write<T: Lane>(&mut self, slot: Slot, values: &[T; LANES]) {
        T::write(&mut self.warp.registers, slot.place().0, self.mask, values);
    }

    /// The lanes where a predicate holds.
    #[inline(always)]
    pub fn predicate(&self, predicate: usize) -> u32 {
        self.warp.predicates[predicate]
    }

    /// Sets a predicate in the active lanes.
    #[inline(always)]
    pub fn set_predicate(&mut self, predicate: usize, holds: u32) {
        let old = &mut self.warp.predicates[predicate];
        *old = *old & !self.mask | holds & self.mask;
    }

    /// Operands beyond those in the instruction.
    #[inline(always)]
    pub fn list(&self, instruction: &Instruction) -> &'a [Slot] {
        let start = instruction.list as usize;
        &self.kernel.list[start..start + instruction.list_length as usize]
    }

    /// The CTA's own state.
    #[inline(always)]
    pub fn here(&mut self) -> &mut CtaState {
        &mut self.cluster.ctas[self.cta]
    }

    /// The first active lane.
    #[inline(always)]
    pub fn leader(&self) -> usize {
        (self.mask.trailing_zeros() as usize).min(LANES - 1)
    }

    /// An operand's value in the first active lane, which stands for all lanes where PTX wants it the same in all.
    #[inline(always)]
    pub fn uniform<T: Lane>(&self, slot: Slot) -> T {
        self.read::<T>(slot)[self.leader()]
    }

    /// Stops the kernel.
    #[cold]
    pub fn fail(&mut self, kind: FaultKind, lane: usize, message: impl Into<String>) -> Step {
        self.fault = Some((kind, lane as u32, message.into()));
        Step::Fault
    }

    /// Shows an access to who looks on.
    #[inline(always)]
    pub fn show(&mut self, access: impl FnOnce() -> Access) {
        if let Some(observer) = &mut self.observer {
            observer.accessed(&access());
        }
    }

    /// Runs an instruction, and shows it.
    pub(super) fn run_observed(&mut self, instruction: &Instruction) -> Step {
        let (kernel, mask) = (self.kernel, self.mask);
        self.follow(instruction);
        if mask == 0 && self.observer.is_none() {
            return Step::Next;
        }
        if mask != 0 {
            self.check(|checker, actor| checker.executes(actor, kernel, instruction, mask));
        }
        let step = if mask == 0 { Step::Next } else { (instruction.execute)(self, instruction) };
        if kernel.has_products && mask != 0 && !matches!(step, Step::Wait | Step::Converge | Step::Fault) {
            self.check(|checker, actor| checker.executed(actor, kernel, instruction));
        }
        let parts = match step {
            Step::Branch => mask != self.arrived,
            Step::Scatter => {
                let first = self.targets[self.leader()];
                mask != self.arrived || lanes(mask).any(|lane| self.targets[lane] != first)
            }
            _ => false,
        };
        if parts {
            let arrived = self.arrived;
            self.check(|checker, actor| checker.parts(actor, kernel, arrived));
        }
        if let Some(observer) = &mut self.observer {
            let cta = self.cluster.ctas[self.cta].id;
            let (kernel, warp, mask) = (self.kernel, &*self.warp, self.mask);
            observer.executed(&Moment { kernel, instruction, cta, warp, mask, step });
        }
        step
    }

    /// Tells the checker which lanes come to an instruction, once for each time that they come.
    #[inline(always)]
    fn follow(&mut self, instruction: &Instruction) {
        if self.pending.is_some() {
            return;
        }
        let Some(actor) = self.actor() else { return };
        let before = self.warp.number * LANES as u32;
        let started = u32::MAX >> (LANES as u32 - (self.grid.threads() - before).min(LANES as u32));
        if let Some(checker) = self.cluster.checker.as_deref_mut() {
            let arrival = Arrival { arrived: self.arrived, executing: self.mask, started, warp: self.warp };
            checker.arrives(actor, self.kernel, instruction, arrival);
        }
    }

    /// Whether all lanes of a mask that still run are here; if not, the instruction answers [`Step::Converge`].
    #[inline(always)]
    pub fn assembled(&self, members: u32) -> bool {
        let wanted = members & self.warp.running;
        self.arrived & wanted == wanted
    }
}

/// The numbers of the lanes of a mask.
#[inline(always)]
pub fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let lane = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        Some(lane)
    })
}
