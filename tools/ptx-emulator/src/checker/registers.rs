//! Registers: those that a `wgmma` under way holds, and those that nothing has written.
//!
//! A register that nothing has written is no mistake by itself: compilers copy and combine such values, and never use what comes
//! out. Like Stepanov and Serebryany's MemorySanitizer (CGO 2015) the checker follows them through arithmetic, and reports where one
//! decides something: an address, a branch, a value that is stored to global memory, a barrier's operand.

use super::clock::Work;
use super::shadow::Access;
use super::{Actor, Checker, ReportKind};
use crate::machine::instruction::{CARRY, Instruction, Undefined};
use crate::machine::kernel::{Kernel, Register, Source};
use crate::machine::row::Slot;

/// The registers of a warp.
#[derive(Clone, Debug, Default)]
pub struct Registers {
    /// For each row the lanes where nothing has written it.
    undefined: Vec<u32>,
    /// The same for predicates.
    undefined_predicates: Vec<u32>,
    rows: Vec<RowState>,
    /// Rows that products under way hold.
    held: Vec<u32>,
    /// Committed groups of products.
    groups: u32,
    /// The last product that no group was committed for.
    open: Option<u32>,
    /// The last product.
    product: u32,
    /// Grows with each instruction, from 1.
    clock: u32,
    /// The clock at the last `wgmma.fence`, or 0.
    fence: u32,
}

/// A row of registers, as far as products are concerned.
#[derive(Clone, Copy, Debug, Default)]
struct RowState {
    /// The clock when something else than a product wrote it, and the instruction.
    written: (u32, u32),
    /// The group of the product that holds it, and the instruction; 0 for none.
    held: (u32, u32),
    /// The product writes it, rather than reads.
    accumulates: bool,
}

impl Registers {
    /// Forgets what was, for a kernel's start.
    pub fn start(&mut self, kernel: &Kernel) {
        self.undefined.clear();
        self.undefined.resize(kernel.rows, u32::MAX);
        for (row, _) in &kernel.presets {
            // A wide one has two rows.
            self.undefined[*row as usize..].iter_mut().take(2).for_each(|lanes| *lanes = 0);
        }
        self.undefined_predicates.clear();
        self.undefined_predicates.resize(kernel.predicates, u32::MAX);
        self.undefined_predicates.iter_mut().take(CARRY as usize + 1).for_each(|lanes| *lanes = 0);
        self.rows.clear();
        if kernel.has_products {
            self.rows.resize(kernel.rows, RowState::default());
        }
        self.held.clear();
        (self.groups, self.open, self.product, self.clock, self.fence) = (0, None, u32::MAX, 1, 0);
    }

    pub(super) fn undefined(&self, register: Register) -> u32 {
        match register {
            Register::Rows { row, .. } => self.undefined.get(row as usize).copied().unwrap_or(0),
            Register::Predicate(number) => self.undefined_predicates.get(number as usize).copied().unwrap_or(0),
        }
    }

    /// Sets in which of the lanes of a mask a register is undefined.
    pub(super) fn define(&mut self, register: Register, mask: u32, undefined: u32) {
        let set = |lanes: &mut u32| *lanes = *lanes & !mask | undefined & mask;
        match register {
            Register::Rows { row, bytes } => {
                self.undefined.iter_mut().skip(row as usize).take(bytes.div_ceil(4).max(1) as usize).for_each(set);
            }
            Register::Predicate(number) => {
                self.undefined_predicates.get_mut(number as usize).into_iter().for_each(set);
            }
        }
    }
}

impl Checker {
    /// A warp is about to run an instruction for some lanes.
    pub fn executes(&mut self, actor: Actor, kernel: &Kernel, instruction: &Instruction, mask: u32) {
        let place = instruction.place as usize;
        let (Some(sources), Some(destinations)) = (kernel.sources.get(place), kernel.destinations.get(place)) else {
            return;
        };
        let registers = &mut self.registers[actor.warp];
        let mut undefined = 0;
        for source in sources {
            undefined |= registers.undefined(source.register);
        }
        if undefined & mask != 0 {
            self.uses_undefined(actor, kernel, place, mask);
        } else {
            for destination in destinations {
                registers.define(destination.register, mask, 0);
            }
        }
    }

    /// A warp has run an instruction of a kernel that has products.
    pub fn executed(&mut self, actor: Actor, kernel: &Kernel, instruction: &Instruction) {
        let place = instruction.place as usize;
        let (Some(sources), Some(destinations)) = (kernel.sources.get(place), kernel.destinations.get(place)) else {
            return;
        };
        let registers = &mut self.registers[actor.warp];
        if registers.rows.is_empty() || registers.product == actor.at {
            return;
        }
        registers.clock += 1;
        let clock = registers.clock;
        let row_of = |register| if let Register::Rows { row, .. } = register { Some(row as usize) } else { None };
        for destination in destinations {
            if let Some(state) = row_of(destination.register).and_then(|row| registers.rows.get_mut(row)) {
                state.written = (clock, actor.at);
            }
        }
        if registers.held.is_empty() {
            return;
        }
        let reads = sources.iter().map(|source| (&source.name, source.register, false));
        let writes = destinations.iter().map(|destination| (&destination.name, destination.register, true));
        let touched = reads.chain(writes).find_map(|(name, register, writes)| {
            let state = registers.rows.get(row_of(register)?)?;
            (state.held.0 != 0 && (writes || state.accumulates)).then_some((name, writes, *state))
        });
        if let Some((name, writes, state)) = touched {
            let does = if writes { "written" } else { "read" };
            let what = if state.accumulates { "accumulates into it" } else { "reads it" };
            let message = format!(
                "{name} is {does} while the wgmma at {{earlier}} {what}: a wgmma.wait_group that covers it is missing in between"
            );
            let earlier = self.product_event(actor, state.held);
            self.find(ReportKind::Registers, actor, 0, Some(earlier), message);
        }
    }

    fn product_event(&self, actor: Actor, (time, at): (u32, u32)) -> Access {
        Access { time, at, agent: self.agents.of(self.warpgroup(actor), Work::Products), lane: 0, bytes: 0 }
    }

    /// The first warp of a warp's warpgroup.
    fn warpgroup(&self, actor: Actor) -> usize {
        let first = actor.cta * self.warps_each;
        first + (actor.warp - first) / 4 * 4
    }

    /// Something was read that nothing has written.
    #[cold]
    fn uses_undefined(&mut self, actor: Actor, kernel: &Kernel, place: usize, mask: u32) {
        let (sources, destinations) = (&kernel.sources[place], &kernel.destinations[place]);
        let undefined = kernel.traits[place].undefined;
        let registers = &mut self.registers[actor.warp];
        let lanes_of = |source: &Source| registers.undefined(source.register) & mask;
        let decides = |source: &&Source| source.decides || undefined == Undefined::Decides;
        let decisive = sources.iter().filter(decides).find(|source| lanes_of(source) != 0);
        if let Some(source) = decisive {
            let lane = lanes_of(source).trailing_zeros() as usize;
            let message =
                format!("{} decides something here, and depends on a register that nothing has written", source.name);
            for destination in destinations {
                registers.define(destination.register, mask, 0);
            }
            self.find(ReportKind::Uninitialized, actor, lane, None, message);
            return;
        }
        let values = sources.iter().filter(|source| !source.decides).map(lanes_of);
        let result = match undefined {
            Undefined::Spreads => values.fold(0, |all, lanes| all | lanes),
            Undefined::Combines => values.reduce(|all, lanes| all & lanes).unwrap_or(0),
            Undefined::Decides | Undefined::Vanishes => 0,
        };
        for destination in destinations {
            registers.define(destination.register, mask, result);
        }
    }

    /// A `wgmma.mma_async` with these registers: the accumulators, then, if A is in registers, four for it. Gives its agent and time.
    pub fn product(&mut self, actor: Actor, slots: &[Slot], a_in_registers: bool) -> (u16, u32) {
        let agent = self.agents.of(self.warpgroup(actor), Work::Products);
        let accumulators = slots.len() - if a_in_registers { 4 } else { 0 };
        let registers = &mut self.registers[actor.warp];
        registers.product = actor.at;
        registers.open = Some(actor.at);
        let time = registers.groups + 1;
        let (never, fence) = (registers.fence == 0, registers.fence);
        let mut unfenced = None;
        for (number, slot) in slots.iter().enumerate() {
            let (row, constant) = slot.place();
            let Some(state) = registers.rows.get_mut(row).filter(|_| !constant) else { continue };
            if state.written.0 > fence {
                unfenced = unfenced.or(Some(state.written));
            }
            if state.held.0 == 0 {
                registers.held.push(row as u32);
            }
            let accumulates = number < accumulators;
            *state =
                RowState { written: (0, 0), held: (time, actor.at), accumulates: accumulates || state.accumulates };
        }
        if let Some((time, at)) = unfenced {
            let earlier = Access { time, at, agent: actor.warp as u16, lane: 0, bytes: 0 };
            let message = "a register of this wgmma is written at {earlier}: a wgmma.fence is missing in between";
            self.find(ReportKind::Registers, actor, 0, Some(earlier), message.into());
        } else if never {
            let message = "a wgmma.fence is missing before the first wgmma";
            self.find(ReportKind::Registers, actor, 0, None, message.into());
        }
        (agent, time)
    }

    /// `setmaxnreg.inc` to fewer registers than there are, or `.dec` to more.
    #[cold]
    pub fn registers_counted(&mut self, actor: Actor, increases: bool, before: u32, now: u32) {
        let what = if increases { "setmaxnreg.inc to fewer" } else { "setmaxnreg.dec to more" };
        let message = format!(
            "{what} registers than the thread has: {now}, where it has {before} by .maxnreg and the setmaxnreg before"
        );
        self.find(ReportKind::Registers, actor, 0, None, message);
    }

    /// `wgmma.fence`
    pub fn products_fenced(&mut self, actor: Actor) {
        let registers = &mut self.registers[actor.warp];
        registers.fence = registers.clock;
    }

    /// `wgmma.commit_group`
    pub fn products_committed(&mut self, actor: Actor) {
        let registers = &mut self.registers[actor.warp];
        registers.groups += 1;
        registers.open = None;
    }

    /// `wgmma.wait_group`
    pub fn products_awaited(&mut self, actor: Actor, left: u32) {
        let agent = self.agents.of(self.warpgroup(actor), Work::Products);
        let registers = &mut self.registers[actor.warp];
        let time = registers.groups.saturating_sub(left);
        let rows = &mut registers.rows;
        registers.held.retain(|row| {
            let state = &mut rows[*row as usize];
            let over = state.held.0 <= time;
            if over {
                (state.held, state.accumulates) = ((0, 0), false);
            }
            !over
        });
        self.clocks[actor.warp].learn(agent, time);
    }

    /// Products that are not over when a warp has exited: the instruction, and whether a group was committed for it.
    pub(super) fn products_left(&self, warp: usize) -> Option<(u32, bool)> {
        let registers = &self.registers[warp];
        let held = || registers.held.first().map(|row| (registers.rows[*row as usize].held.1, true));
        registers.open.map(|at| (at, false)).or_else(held)
    }
}
