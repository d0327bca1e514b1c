//! Whether anything still happens in a launch: loops that ask for what nobody will do, and clusters that all wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::observer::{Access, Moment, Observer};
use super::row::Row;

/// What the clusters of a launch tell each other of their progress.
#[derive(Debug, Default)]
pub struct Standstill {
    /// Grows whenever a cluster does something else than to wait.
    progress: AtomicU64,
    /// How many clusters have started, and not finished.
    running: AtomicU64,
    /// How many have said that they only wait, since the progress was this.
    waiting: Mutex<(u64, u64)>,
}

impl Standstill {
    /// A cluster does something, or something else may have happened.
    pub fn moved(&self) {
        self.progress.fetch_add(1, Ordering::SeqCst);
    }

    /// A cluster has started.
    pub fn started(&self) {
        self.running.fetch_add(1, Ordering::SeqCst);
        self.moved();
    }

    /// A cluster has finished.
    pub fn finished(&self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.moved();
    }

    /// How much has happened.
    pub fn progress(&self) -> u64 {
        self.progress.load(Ordering::SeqCst)
    }

    /// A cluster has only waited since the progress was this, and says so once: whether all have.
    pub fn all_wait(&self, since: u64) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.0 != since {
            *waiting = (since, 0);
        }
        waiting.1 += 1;
        waiting.1 >= self.running.load(Ordering::SeqCst) && self.progress() == since
    }
}

/// How many turns in a row a warp uses up before it is watched for one.
const TURNS: u32 = 64;

/// Finds out whether a warp runs a loop that changes nothing, not even its own registers: it goes on as long as memory stays as it is.
#[derive(Debug, Default)]
pub struct Watch {
    /// How many turns the warp has used up in a row.
    turns: u32,
    /// Whether it ran such a loop when it was watched last.
    repeats: bool,
    /// Where the loop is looked for: the instruction's place and the threads.
    start: Option<(u32, u32)>,
    registers: Vec<Row>,
    predicates: Vec<u32>,
    found: bool,
    /// Whether an instruction changed something else.
    changes: bool,
}

impl Watch {
    /// Forgets the warp before.
    pub fn clear(&mut self) {
        (self.turns, self.repeats) = (0, false);
    }

    /// Whether the warp should be watched for its next turn.
    pub fn is_due(&self) -> bool {
        self.repeats || self.turns % TURNS == TURNS - 1
    }

    /// The warp is watched from now on.
    pub fn begin(&mut self) {
        (self.start, self.found, self.changes) = (None, false, false);
    }

    /// The warp had its turn: whether it was watched for it, and used it up. Gives whether it ran a loop that changes nothing.
    pub fn end(&mut self, watched: bool, used_up: bool) -> bool {
        self.turns = if used_up { self.turns.saturating_add(1) } else { 0 };
        self.repeats = watched && used_up && self.found && !self.changes;
        self.repeats
    }
}

impl Observer for Watch {
    fn executed(&mut self, moment: &Moment<'_>) {
        if self.changes || !moment.is_done() {
            return;
        }
        self.changes = !moment.kernel.traits_of(moment.instruction).only_reads;
        let here = (moment.instruction.place, moment.mask);
        match self.start {
            Some(start) if start == here && !self.found => {
                self.found = self.registers == moment.warp.registers && self.predicates == moment.warp.predicates;
            }
            Some(_) => {}
            None => {
                self.start = Some(here);
                self.registers.clone_from(&moment.warp.registers);
                self.predicates.clone_from(&moment.warp.predicates);
            }
        }
    }

    fn accessed(&mut self, _: &Access) {}
}
