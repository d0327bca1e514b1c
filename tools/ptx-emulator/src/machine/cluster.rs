//! Clusters and their CTAs: what threads share.
//!
//! A cluster runs on one thread of the host, warp by warp, so that what its CTAs share needs no locks.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::context::Context;
use super::fault::{Fault, FaultKind};
use super::grid::Grid;
use super::instruction::{Awaited, FALSE, TRUE, Traits};
use super::kernel::{Preset, Special};
use super::observer::Observer;
use super::row::{LANES, Row};
use super::standstill::{Standstill, Watch};
use super::warp::{self, Fragment, FragmentState, Turn, WarpState};
use crate::asynchronous::mbarrier;
use crate::checker::{Checker, Launch, Reports};
use crate::memory::global::Window;
use crate::memory::shared::Bytes;
use crate::tensor_core::tensor_memory::{COLUMNS, TensorMemory};

/// How many named barriers a CTA has.
pub const BARRIERS: usize = 16;

/// A CTA's shared state.
#[derive(Debug, Default)]
pub struct CtaState {
    /// Its place in the grid.
    pub id: [u32; 3],
    /// Shared memory: what the kernel declares, then what the launch adds.
    pub shared: Bytes,
    /// Named barriers.
    pub barriers: [Barrier; BARRIERS],
    /// Threads that have not exited.
    pub running: u32,
    /// Groups of `wgmma` that each warp has committed; the most there can be for one that has exited.
    pub products: Vec<u32>,
    /// Registers that warps have given back by `setmaxnreg`, and others may take.
    pub free_registers: u32,
    /// Tensor memory, from the first allocation on.
    pub tensor: Option<Box<TensorMemory>>,
}

/// A named barrier.
#[derive(Clone, Copy, Debug, Default)]
pub struct Barrier {
    /// Threads that have arrived.
    pub arrived: u32,
    /// How many are awaited, or 0 for all of the CTA.
    pub expected: u32,
    /// How many times it has completed.
    pub generation: u32,
    /// The population count, conjunction and disjunction of `bar.red` so far, and of the completed generation.
    pub reduction: [(u32, bool, bool); 2],
}

/// What the CTAs of a cluster share.
#[derive(Debug, Default)]
pub struct ClusterState {
    /// The CTAs, by rank.
    pub ctas: Vec<CtaState>,
    /// Threads that have arrived at the cluster's barrier.
    pub arrived: u32,
    /// How many times the cluster's barrier has completed.
    pub generation: u32,
    /// What checks it, if anything does.
    pub checker: Option<Box<Checker>>,
    /// The number of the next cluster of the grid that starts.
    pub next: Arc<AtomicU64>,
}

impl ClusterState {
    /// Threads of a CTA have exited: barriers no longer wait for them.
    pub fn exited(&mut self, cta: usize, threads: u32) {
        let state = &mut self.ctas[cta];
        state.running = state.running.saturating_sub(threads);
        let running = state.running;
        for barrier in &mut state.barriers {
            barrier.complete_if_all_arrived(running);
        }
        self.complete_if_all_arrived();
    }

    /// Completes the cluster's barrier if no running thread is missing.
    pub fn complete_if_all_arrived(&mut self) {
        let running: u32 = self.ctas.iter().map(|cta| cta.running).sum();
        if self.arrived > 0 && self.arrived >= running {
            self.arrived = 0;
            self.generation = self.generation.wrapping_add(1);
        }
    }
}

impl Barrier {
    /// Completes the barrier if no awaited thread is missing.
    pub fn complete_if_all_arrived(&mut self, running: u32) {
        let expected = if self.expected == 0 { running } else { self.expected };
        if self.arrived > 0 && self.arrived >= expected {
            self.arrived = 0;
            self.expected = 0;
            self.generation = self.generation.wrapping_add(1);
            self.reduction[1] = self.reduction[0];
            self.reduction[0] = (0, true, false);
        }
    }
}

/// A cluster that runs, with its warps. It is used again for the next cluster, so that running allocates nothing.
#[derive(Debug, Default)]
pub struct Cluster {
    state: ClusterState,
    warps: Vec<(usize, WarpState)>,
    finished: Vec<bool>,
    /// How long all warps have waited and polled, in rounds.
    idle: u32,
    /// For each warp, whether its loop changes anything.
    watches: Vec<Watch>,
    /// What the launch's clusters know of each other's progress.
    standstill: Arc<Standstill>,
    /// That progress when it was asked for last.
    progress: u64,
    /// Whether the others know that this one only waits since.
    told: bool,
    /// Whether any did something else since somebody asked.
    moved: bool,
    /// Which cluster of the grid it is.
    pub index: u64,
}

/// How far a cluster came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All its threads have exited.
    Finished,
    /// Others should run: it polls, or ran for long.
    Unfinished,
}

/// How many instructions a warp runs before the next one gets a turn.
const WARP_TURN: u32 = 4096;
/// After how many rounds in which all warps of a cluster only poll they are taken to poll for ever.
const POLLING_ROUNDS: u32 = 100_000;
/// As many rounds one counts for in which a warp uses up its turn to poll.
const ROUNDS_OF_LOOPS: u32 = 1000;
/// How many instructions a turn has at most that does nothing but poll.
const POLLING_INSTRUCTIONS: u64 = 64;

impl Cluster {
    /// A cluster whose mistakes are reported, if there are reports to add them to.
    /// `next` is what all clusters of the grid count the started ones with.
    pub fn new(
        checks: Option<&(Arc<Reports>, Arc<Launch>)>,
        next: &Arc<AtomicU64>,
        standstill: &Arc<Standstill>,
    ) -> Cluster {
        let mut cluster = Cluster { standstill: standstill.clone(), ..Cluster::default() };
        cluster.state.next = next.clone();
        cluster.state.checker = checks.map(|(reports, launch)| Box::new(Checker::new(reports.clone(), launch.clone())));
        cluster
    }

    /// Puts a cluster of the grid at its start.
    pub fn start(&mut self, grid: &Grid<'_>, index: u64) {
        let kernel = grid.kernel;
        self.index = index;
        self.resume();
        self.standstill.started();
        let threads = grid.threads();
        let warps_each = threads.div_ceil(LANES as u32) as usize;
        let ctas = grid.cluster_ctas() as usize;
        self.state.ctas.resize_with(ctas, CtaState::default);
        self.state.arrived = 0;
        self.state.generation = 0;
        for (rank, cta) in self.state.ctas.iter_mut().enumerate() {
            cta.id = grid.cta(index, rank as u32);
            cta.shared.reset(grid.shared_bytes() as usize);
            cta.barriers = [Barrier { reduction: [(0, true, false); 2], ..Barrier::default() }; BARRIERS];
            cta.running = threads;
            cta.tensor = None;
            cta.products.clear();
            cta.products.resize(warps_each, 0);
            cta.free_registers = 0;
        }
        if let Some(checker) = &mut self.state.checker {
            checker.start(kernel, index, [ctas, warps_each, grid.shared_bytes() as usize]);
        }
        self.warps.resize_with(ctas * warps_each, Default::default);
        self.finished.clear();
        self.finished.resize(self.warps.len(), false);
        self.watches.resize_with(self.warps.len(), Watch::default);
        self.watches.iter_mut().for_each(Watch::clear);
        for (number, (cta, warp)) in self.warps.iter_mut().enumerate() {
            *cta = number / warps_each;
            let number = (number % warps_each) as u32;
            let lanes = (threads - number * LANES as u32).min(LANES as u32);
            warp.start(number, u32::MAX >> (LANES as u32 - lanes));
            warp.registers_each = kernel.requirements.maximum_registers.unwrap_or(0);
            warp.registers.clear();
            warp.registers.resize(kernel.rows, Row::ZERO);
            warp.predicates.clear();
            warp.predicates.resize(kernel.predicates, 0);
            warp.predicates[TRUE as usize] = u32::MAX;
            warp.predicates[FALSE as usize] = 0;
            warp.local.reset(kernel.local_bytes as usize * LANES);
            for (row, preset) in &kernel.presets {
                let values: [u64; LANES] = std::array::from_fn(|lane| {
                    let special = |special| {
                        u64::from(grid.special(special, &self.state.ctas[*cta], *cta as u32, number, lane as u32))
                    };
                    match *preset {
                        Preset::Special(register) | Preset::WideSpecial(register) => special(register),
                        Preset::Shared(offset) | Preset::WideShared(offset) => u64::from(offset) | (*cta as u64) << 24,
                    }
                });
                use super::row::Lane;
                match preset {
                    Preset::Special(_) | Preset::Shared(_) => {
                        u32::write(&mut warp.registers, *row as usize, u32::MAX, &values.map(|value| value as u32));
                    }
                    Preset::WideSpecial(_) | Preset::WideShared(_) => {
                        u64::write(&mut warp.registers, *row as usize, u32::MAX, &values);
                    }
                }
            }
        }
    }

    /// Runs until all threads have exited, or about `rounds` turns of every warp.
    pub fn run(
        &mut self,
        grid: &Grid<'_>,
        rounds: u32,
        mut observer: Option<&mut dyn Observer>,
    ) -> Result<Progress, Box<Fault>> {
        for _ in 0..rounds {
            let (mut blocked, mut polling, mut finished, mut loops) = (0, 0, 0, false);
            for at in 0..self.warps.len() {
                // The order of warps differs from round to round where a seed is given.
                let at = grid.order(at, self.warps.len());
                if self.finished[at] {
                    finished += 1;
                    continue;
                }
                let before = self.warps[at].1.executed;
                let (turn, repeats) =
                    self.watched(at, grid, observer.as_mut().map(|observer| &mut **observer as &mut dyn Observer))?;
                match turn {
                    Turn::Finished => {
                        self.finished[at] = true;
                    }
                    // One that ran more than the instruction that waits has made progress.
                    Turn::Blocked if self.warps[at].1.executed - before <= 1 => blocked += 1,
                    Turn::Polling if self.warps[at].1.executed - before <= POLLING_INSTRUCTIONS => polling += 1,
                    Turn::Preempted | Turn::Polling if repeats => (polling, loops) = (polling + 1, true),
                    _ => {}
                }
            }
            if finished == self.warps.len() {
                let ClusterState { checker, ctas, .. } = &mut self.state;
                if let Some(checker) = checker {
                    checker.finish(|cta, offset| ctas[cta].shared.read(offset).unwrap_or(0));
                }
                if let Some(stopped) = report(&mut self.state, grid) {
                    return Err(stopped);
                }
                self.standstill.finished();
                return self.leak(grid).map_or(Ok(Progress::Finished), Err);
            }
            if finished + blocked == self.warps.len() {
                // Within a cluster nothing else happens: what is waited for would have to come from a warp.
                self.idle += 1;
                if self.idle > 2 {
                    return Err(self.deadlock(grid));
                }
            } else if finished + blocked + polling == self.warps.len() {
                if self.polls(if loops { ROUNDS_OF_LOOPS } else { 1 }) {
                    return Err(self.deadlock(grid));
                }
                if loops {
                    return Ok(Progress::Unfinished);
                }
            } else {
                self.idle = 0;
                self.moved = true;
                self.standstill.moved();
            }
        }
        Ok(Progress::Unfinished)
    }

    /// All warps wait or poll, for as many rounds: whether they, and all other clusters, did nothing else for long.
    fn polls(&mut self, rounds: u32) -> bool {
        let progress = self.standstill.progress();
        if progress != self.progress {
            (self.progress, self.idle, self.told) = (progress, 0, false);
        }
        self.idle = self.idle.saturating_add(rounds);
        let tells = self.idle > POLLING_ROUNDS && !self.told;
        self.told |= tells;
        tells && self.standstill.all_wait(progress)
    }

    /// Starts to count anew how long all warps only poll: something else may have happened.
    pub fn resume(&mut self) {
        (self.idle, self.moved, self.told) = (0, false, false);
    }

    /// A warp's turn, and whether it did nothing in all of it but to repeat itself.
    fn watched(
        &mut self,
        at: usize,
        grid: &Grid<'_>,
        observer: Option<&mut dyn Observer>,
    ) -> Result<(Turn, bool), Box<Fault>> {
        let runs = |fragment: &&Fragment| matches!(fragment.state, FragmentState::Ready | FragmentState::Yielding);
        let alone = self.warps[at].1.fragments.iter().filter(runs).count() == 1;
        let due = observer.is_none() && alone && self.watches[at].is_due();
        let turn = if due {
            let mut watch = std::mem::take(&mut self.watches[at]);
            watch.begin();
            let turn = self.turn(at, grid, Some(&mut watch));
            self.watches[at] = watch;
            turn?
        } else {
            self.turn(at, grid, observer)?
        };
        let repeats = self.watches[at].end(due, matches!(turn, Turn::Preempted | Turn::Polling));
        Ok((turn, repeats))
    }

    /// Whether a warp did anything but wait and poll since the last call.
    pub fn moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    fn turn(&mut self, at: usize, grid: &Grid<'_>, observer: Option<&mut dyn Observer>) -> Result<Turn, Box<Fault>> {
        let (cta, warp) = &mut self.warps[at];
        let cta = *cta;
        let mut context = Context {
            warp,
            at: 0,
            mask: 0,
            arrived: 0,
            pending: None,
            cluster: &mut self.state,
            cta,
            kernel: grid.kernel,
            grid,
            window: Window::NOTHING,
            targets: [0; LANES],
            fault: None,
            issuer: (0, None),
            // Cast so that it is borrowed no longer than the rest of the context.
            observer: observer.map(|observer| observer as &mut dyn Observer),
        };
        let turn = warp::run(&mut context, WARP_TURN);
        let stopped = if context.cluster.checker.is_some() { report(context.cluster, grid) } else { None };
        if turn != Turn::Faulted && context.warp.executed > grid.limits.instructions {
            let message = format!(
                "a warp has run {} instructions, and may run {}: a loop that does not end, or a limit that is too low",
                context.warp.executed, grid.limits.instructions
            );
            context.mask = context.warp.fragments.first().map_or(0, |fragment| fragment.mask);
            context.fault = Some((FaultKind::Limit, context.mask.trailing_zeros() & 31, message));
        }
        if turn != Turn::Faulted && context.fault.is_none() {
            if let Some(stopped) = stopped {
                return Err(stopped);
            }
            return Ok(turn);
        }
        let (kind, lane, message) =
            context.fault.take().unwrap_or((FaultKind::IllegalInstruction, 0, "unknown fault".into()));
        let mask = context.mask;
        let failing =
            warp.fragments.iter().find(|fragment| fragment.mask & mask != 0).map_or(0, |fragment| fragment.at);
        let thread = warp.number * LANES as u32 + lane;
        Err(Box::new(Fault {
            kind,
            message,
            kernel: grid.kernel.name.clone(),
            place: grid.kernel.code.get(failing as usize).map(|i| grid.kernel.places[i.place as usize].clone()),
            cta: Some(self.state.ctas[cta].id),
            thread: Some(grid.thread(thread)),
        }))
    }

    /// Finds tensor memory that a CTA has not given back: on a GPU the next CTA that wants it would wait for ever.
    fn leak(&self, grid: &Grid<'_>) -> Option<Box<Fault>> {
        let held = |cta: &&CtaState| cta.tensor.as_ref().is_some_and(|tensor| tensor.allocated() > 0);
        let cta = self.state.ctas.iter().find(held)?;
        let columns = cta.tensor.as_ref().map_or(0, |tensor| tensor.allocated());
        Some(Box::new(Fault {
            kind: FaultKind::IllegalInstruction,
            message: format!(
                "{columns} columns of tensor memory are allocated when the CTA ends: a tcgen05.dealloc is missing"
            ),
            kernel: grid.kernel.name.clone(),
            place: None,
            cta: Some(cta.id),
            thread: None,
        }))
    }

    /// Says who waits, and where.
    fn deadlock(&self, grid: &Grid<'_>) -> Box<Fault> {
        let mut waits = Vec::new();
        for (cta, warp) in &self.warps {
            for fragment in &warp.fragments {
                let instruction = &grid.kernel.code[fragment.at as usize];
                let place = &grid.kernel.places[instruction.place as usize];
                let why = self.why(*cta, fragment, grid.kernel.traits_of(instruction));
                waits.push(format!(
                    "CTA {:?} warp {} lanes {:08x} at line {}: {}{why}",
                    self.state.ctas[*cta].id, warp.number, fragment.mask, place.line, place.text
                ));
            }
        }
        let more = waits.len().saturating_sub(16);
        waits.truncate(16);
        if more > 0 {
            waits.push(format!("and {more} more"));
        }
        waits.extend(self.pending_mbarriers(grid));
        Box::new(Fault {
            kind: FaultKind::Deadlock,
            message: format!("deadlock: no thread can go on\n    {}", waits.join("\n    ")),
            kernel: grid.kernel.name.clone(),
            place: None,
            cta: self.state.ctas.first().map(|cta| cta.id),
            thread: None,
        })
    }

    /// What a fragment waits for.
    fn why(&self, cta: usize, fragment: &Fragment, traits: Traits) -> String {
        if fragment.state == FragmentState::Converging {
            return " (waits for the other lanes of its warp, which are elsewhere: it wants all of them)".into();
        }
        let state = &self.state.ctas[cta];
        match fragment.pending {
            Some((number, _)) if usize::from(number) < BARRIERS => {
                let barrier = &state.barriers[usize::from(number)];
                let expected = if barrier.expected == 0 { state.running } else { barrier.expected };
                format!(" (barrier {number}: {} of {expected} threads have arrived)", barrier.arrived)
            }
            Some(_) => {
                let running: u32 = self.state.ctas.iter().map(|cta| cta.running).sum();
                format!(" (the cluster's barrier: {} of {running} threads have arrived)", self.state.arrived)
            }
            None => match traits.awaited {
                Awaited::Registers => format!(" (the CTA has {} free registers)", state.free_registers),
                Awaited::Products => " (the other warps of the warpgroup have committed fewer groups)".into(),
                Awaited::TensorMemory => {
                    let allocated = state.tensor.as_ref().map_or(0, |tensor| tensor.allocated());
                    format!(" ({allocated} of {COLUMNS} columns are allocated)")
                }
                Awaited::Other => String::new(),
            },
        }
    }

    /// The mbarriers that the checker knows, as far as something is missing in their phase.
    fn pending_mbarriers(&self, grid: &Grid<'_>) -> Vec<String> {
        let Some(checker) = &self.state.checker else { return vec![] };
        let line = |at: u32| grid.kernel.places[grid.kernel.code[at as usize].place as usize].line;
        let said = checker.valid_mbarriers().map(|(cta, offset, at)| {
            let (arrivals, bytes, parity) = mbarrier::pending(self.state.ctas[cta].shared.read(offset).unwrap_or(0));
            let line = line(at);
            format!(
                "the mbarrier at shared address 0x{offset:x} of CTA {:?}, initialized at line {line}, is in a phase of parity \
                 {parity}: {arrivals} arrivals and {bytes} bytes are missing",
                self.state.ctas[cta].id
            )
        });
        said.take(16).collect()
    }

    /// How many instructions its warps have run.
    pub fn executed(&mut self) -> u64 {
        self.warps.iter_mut().map(|(_, warp)| std::mem::take(&mut warp.executed)).sum()
    }
}

/// Puts what the checker has found into words. A fault if it has found enough.
fn report(cluster: &mut ClusterState, grid: &Grid<'_>) -> Option<Box<Fault>> {
    let checker = cluster.checker.as_deref_mut().filter(|checker| checker.has_found())?;
    let ids: Vec<[u32; 3]> = cluster.ctas.iter().map(|cta| cta.id).collect();
    if checker.report(grid, &ids) {
        return None;
    }
    Some(Box::new(Fault {
        kind: FaultKind::Reported,
        message: "the checker has reported as much as it may".into(),
        kernel: grid.kernel.name.clone(),
        place: None,
        cta: None,
        thread: None,
    }))
}

impl Grid<'_> {
    fn special(&self, special: Special, cta: &CtaState, rank: u32, warp: u32, lane: u32) -> u32 {
        let below = (1u32 << lane) - 1;
        let number = warp * LANES as u32 + lane;
        match special {
            Special::Thread(axis) => self.thread(number)[axis],
            Special::Threads(axis) => self.block[axis],
            Special::Cta(axis) => cta.id[axis],
            Special::Ctas(axis) => self.extent[axis],
            Special::Lane => lane,
            Special::Warp => warp,
            Special::Warps => self.threads().div_ceil(LANES as u32),
            Special::Multiprocessor => self.linear(cta.id) as u32 % self.multiprocessors,
            Special::Multiprocessors => self.multiprocessors,
            Special::Grid | Special::Zero => 0,
            Special::MaskEqual => 1 << lane,
            Special::MaskUpTo => below | 1 << lane,
            Special::MaskBelow => below,
            Special::MaskFrom => !below,
            Special::MaskAbove => !(below | 1 << lane),
            Special::Cluster(axis) => cta.id[axis] / self.cluster[axis],
            Special::Clusters(axis) => self.extent[axis].div_ceil(self.cluster[axis]),
            Special::ClusterCta(axis) => cta.id[axis] % self.cluster[axis],
            Special::ClusterCtas(axis) => self.cluster[axis],
            Special::ClusterRank => rank,
            Special::ClusterRanks => self.cluster_ctas(),
            Special::IsExplicitCluster => {
                u32::from(self.cluster_ctas() > 1 || self.kernel.requirements.explicit_cluster)
            }
            Special::DynamicShared => self.dynamic_shared,
            Special::TotalShared => self.shared_bytes(),
        }
    }
}
