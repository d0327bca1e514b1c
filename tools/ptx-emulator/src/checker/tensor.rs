//! Tensor memory: who wrote and read its columns last, for each 16 of its lanes.

use super::clock::{Work, join};
use super::memory::Touch;
use super::shadow::Access;
use super::{Actor, Checker, ReportKind};
use crate::machine::context::Context;
use crate::tensor_core::tensor_memory::COLUMNS;

/// A column of 16 lanes, which is the least that an instruction reaches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cell {
    write: Access,
    /// The last read by a product, and by a `tcgen05.ld`.
    reads: [Access; 2],
}

/// Columns of tensor memory.
#[derive(Clone, Debug)]
pub struct Columns {
    /// The first column.
    pub first: usize,
    /// How many.
    pub count: usize,
    /// The groups of 16 lanes, a bit for each.
    pub groups: u8,
}

/// What `tcgen05.ld` and `st` have issued.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moves {
    loads: u32,
    stores: u32,
}

impl Checker {
    /// The agent and time of a `tcgen05.ld`, or of a `tcgen05.st`.
    pub fn tensor_move(&mut self, actor: Actor, stores: bool) -> (u16, u32) {
        let moves = &mut self.moves[actor.warp];
        let (work, time) =
            if stores { (Work::TensorStores, &mut moves.stores) } else { (Work::TensorLoads, &mut moves.loads) };
        *time += 1;
        (self.agents.of(actor.warp, work), *time)
    }

    /// `tcgen05.wait::ld`, or `wait::st`.
    pub fn tensor_awaited(&mut self, actor: Actor, stores: bool) {
        let Moves { loads, stores: stored } = self.moves[actor.warp];
        let (work, time) = if stores { (Work::TensorStores, stored) } else { (Work::TensorLoads, loads) };
        self.clocks[actor.warp].learn(self.agents.of(actor.warp, work), time);
    }

    /// `tcgen05.fence::before_thread_sync`, or `after_thread_sync`.
    pub fn tensor_fenced(&mut self, actor: Actor, after: bool) {
        let clock = &mut self.clocks[actor.warp];
        if !after {
            // What it has issued goes on in the order of the tensor core's pipeline.
            let issued = self.counters[actor.warp].tensor_products;
            clock.fence_tensor(self.agents.of(actor.warp, Work::TensorProducts), issued);
        } else if self.tensor_fences[0] {
            join(&mut self.tensor_order[actor.warp], &clock.tensor);
        } else {
            join(&mut self.tensor_order[actor.warp], &clock.order);
        }
    }

    /// Whether the fences of `tcgen05` order an access of another warp before what a warp does now: those that the kernel has, for
    /// compilers leave them out altogether.
    fn tensor_ordered(&self, earlier: &Access, warp: usize) -> bool {
        let order = match self.tensor_fences {
            [_, true] => &self.tensor_order[warp],
            [true, false] => &self.clocks[warp].tensor,
            [false, false] => return true,
        };
        matches!(self.agents.who(earlier.agent), Ok((other, _)) if other == warp)
            || order.get(usize::from(earlier.agent)).is_some_and(|known| *known >= earlier.time)
    }

    /// Columns of a CTA's tensor memory are read or written.
    pub fn tensor_accessed(&mut self, touch: Touch, cta: usize, columns: &Columns, writes: bool) {
        let Touch { actor, agent, time, lane, .. } = touch;
        let access = Access { time, at: actor.at, agent, lane: lane as u8, bytes: 0 };
        let is_load = matches!(self.agents.who(agent), Ok((_, Work::TensorLoads)));
        if self.tensors.len() <= cta {
            self.tensors.resize(cta + 1, vec![]);
        }
        if self.tensors[cta].is_empty() {
            self.tensors[cta].resize(8 * COLUMNS, Cell::default());
        }
        let groups = (0..8).filter(|group| columns.groups >> group & 1 != 0);
        for at in groups.flat_map(|group| {
            let first = group * COLUMNS;
            first + columns.first..first + (columns.first + columns.count).min(COLUMNS)
        }) {
            let cell = self.tensors[cta][at];
            let column = at % COLUMNS;
            if cell.write.time == 0 && !writes {
                let message = format!("a read of column {column} of tensor memory that nobody has written");
                self.find(ReportKind::Uninitialized, actor, lane, None, message);
            }
            let earlier = [cell.write, cell.reads[0], cell.reads[1]];
            for earlier in &earlier[..if writes { 3 } else { 1 }] {
                // What one thread issues to the tensor core happens in order.
                if earlier.time == 0 || earlier.agent == agent {
                    continue;
                }
                let fenced = self.tensor_ordered(earlier, actor.warp);
                // Fences alone order what goes through one pipeline.
                let piped = fenced && self.tensor_fences != [false; 2] && self.are_products(earlier.agent, agent);
                if !piped && !self.clocks[actor.warp].reached(earlier.agent, earlier.time) {
                    self.tensor_conflict(touch, *earlier, column);
                } else if !fenced {
                    self.tensor_unfenced(touch, *earlier, column);
                }
            }
            let cell = &mut self.tensors[cta][at];
            if writes {
                *cell = Cell { write: access, ..Cell::default() };
            } else {
                cell.reads[usize::from(is_load)] = access;
            }
        }
    }

    fn are_products(&self, one: u16, other: u16) -> bool {
        let is_product = |agent| matches!(self.agents.who(agent), Ok((_, Work::TensorProducts)));
        is_product(one) && is_product(other)
    }

    #[cold]
    fn tensor_unfenced(&mut self, touch: Touch, earlier: Access, column: usize) {
        let told = self.tensor_fences[0] && !self.clocks[touch.actor.warp].tensor_reached(earlier.agent, earlier.time);
        let missing = if told {
            "tcgen05.fence::before_thread_sync is missing there, before the synchronization"
        } else {
            "tcgen05.fence::after_thread_sync is missing here, after the synchronization"
        };
        let message = format!(
            "column {column} of tensor memory is used after what {{earlier}} does to it, which only synchronization of the threads \
             orders: a {missing}"
        );
        self.find(ReportKind::TensorFence, touch.actor, touch.lane, Some(earlier), message);
    }

    #[cold]
    fn tensor_conflict(&mut self, touch: Touch, earlier: Access, column: usize) {
        let missing = match self.agents.who(earlier.agent) {
            Ok((_, Work::TensorLoads)) => "a tcgen05.wait::ld, and a barrier after it,",
            Ok((_, Work::TensorStores)) => "a tcgen05.wait::st, and a barrier after it where another warp goes on,",
            _ => "a tcgen05.commit to an mbarrier, and a wait for that,",
        };
        let message = format!(
            "column {column} of tensor memory is used before what {{earlier}} does to it is over: {missing} is missing in between"
        );
        self.find(ReportKind::NotAwaited, touch.actor, touch.lane, Some(earlier), message);
    }

    /// Columns are given back.
    pub fn tensor_released(&mut self, cta: usize, first: usize, count: usize) {
        if let Some(cells) = self.tensors.get_mut(cta).filter(|cells| !cells.is_empty()) {
            for group in 0..8 {
                let first = group * COLUMNS + first.min(COLUMNS);
                let end = (first + count).min((group + 1) * COLUMNS);
                cells[first..end.max(first)].fill(Cell::default());
            }
        }
    }
}

impl Context<'_> {
    /// Checks an access of tensor memory by what [`Context::issue`] was said for.
    #[inline(always)]
    pub fn check_columns(&mut self, cta: usize, first: usize, count: usize, groups: u8, writes: bool) {
        let (lane, issued) = self.issuer;
        self.check(|checker, actor| {
            if let Some((agent, time)) = issued {
                let touch = Touch { agent, time, ..checker.touch(actor, lane) };
                checker.tensor_accessed(touch, cta, &Columns { first, count, groups }, writes);
            }
        });
    }
}
