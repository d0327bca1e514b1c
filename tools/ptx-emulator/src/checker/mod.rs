//! A checker of what runs without a fault and is wrong all the same.
//!
//! Memory of the emulated machine is coherent and asynchronous work is done at once, which is one of the orders that PTX allows.
//! The checker finds out what another order would break: it follows what happens before what by vector clocks, and remembers for
//! every four bytes of shared memory who accessed them last, through which proxy, and who has waited for it since.
//!
//! Architecture invariants: instructions tell the checker what they do by one call, which costs a test where it is off; the checker
//! never changes what a kernel computes; it belongs to a cluster, and so to one thread of the host; it allocates nothing once the
//! clocks have grown to their size.

pub mod clock;
mod convergence;
mod global;
mod local;
mod memory;
mod order;
mod registers;
mod report;
mod shadow;
mod tensor;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub use convergence::Arrival;
pub use global::Launch;
pub use memory::Strong;
pub use report::{Report, ReportKind, Reports};

use crate::machine::cluster::BARRIERS;
use crate::machine::grid::Grid;
use crate::machine::kernel::Kernel;
use crate::machine::row::LANES;
use clock::{Agents, Clock, Work};
use convergence::Parting;
use global::Others;
use local::Written;
use order::{Counters, Initializations, Mbarrier, Meeting};
use registers::Registers;
use shadow::{Access, Shadow};
use tensor::{Cell, Moves};

/// What the checker knows of a cluster.
#[derive(Debug)]
pub struct Checker {
    reports: Arc<Reports>,
    agents: Agents,
    warps_each: usize,
    clocks: Vec<Clock>,
    /// For each lane of each warp: what other lanes of the warp did before this time comes before what it does.
    lanes: Vec<[u32; LANES]>,
    counters: Vec<Counters>,
    registers: Vec<Registers>,
    locals: Vec<Written>,
    moves: Vec<Moves>,
    /// Whether the kernel has the two fences of `tcgen05`.
    tensor_fences: [bool; 2],
    /// For each warp what its work on tensor memory comes after, by the fences of `tcgen05`.
    tensor_order: Vec<Vec<u32>>,
    partings: Vec<Vec<Parting>>,
    /// Tensor memory of each CTA that uses it.
    tensors: Vec<Vec<Cell>>,
    shadows: Vec<Shadow>,
    barriers: Vec<Meeting>,
    cluster_barrier: Meeting,
    /// What `fence.mbarrier_init` publishes at the cluster's barrier: initializations, and nothing else.
    initializations: Initializations,
    mbarriers: Vec<Mbarrier>,
    /// Clocks of the warps at their last fences, for the strong writes after them.
    released: Vec<Option<Clock>>,
    /// What strong reads have seen, for the fences after them.
    seen: Vec<Clock>,
    /// Clocks that strong writes have left at addresses.
    locations: HashMap<u64, Clock>,
    others: Others,
    found: Vec<Finding>,
    known: HashSet<(ReportKind, u32, u32)>,
}

/// Who does something, and where in the program.
#[derive(Clone, Copy, Debug)]
pub struct Actor {
    /// The warp's CTA in the cluster.
    pub cta: usize,
    /// The warp's number in the cluster.
    pub warp: usize,
    /// The instruction's number.
    pub at: u32,
}

/// A mistake, before it is put into words.
#[derive(Debug)]
struct Finding {
    kind: ReportKind,
    actor: Actor,
    lane: usize,
    earlier: Option<Access>,
    message: String,
}

impl Checker {
    /// For the clusters of a launch.
    pub fn new(reports: Arc<Reports>, launch: Arc<Launch>) -> Checker {
        Checker {
            reports,
            agents: Agents::default(),
            warps_each: 0,
            clocks: vec![],
            lanes: vec![],
            counters: vec![],
            registers: vec![],
            locals: vec![],
            moves: vec![],
            tensor_fences: [false; 2],
            tensor_order: vec![],
            partings: vec![],
            tensors: vec![],
            shadows: vec![],
            barriers: vec![],
            cluster_barrier: Meeting::default(),
            initializations: Initializations::default(),
            mbarriers: vec![],
            released: vec![],
            seen: vec![],
            locations: HashMap::new(),
            others: Others::new(launch),
            found: vec![],
            known: HashSet::new(),
        }
    }

    /// Forgets the cluster before, for one of a number that runs a kernel: of so many CTAs, of so many warps and bytes of shared memory.
    pub fn start(&mut self, kernel: &Kernel, number: u64, [ctas, warps_each, shared_bytes]: [usize; 3]) {
        let warps = ctas * warps_each;
        self.agents = Agents { warps };
        self.warps_each = warps_each;
        self.clocks.resize_with(warps, Clock::default);
        for (warp, clock) in self.clocks.iter_mut().enumerate() {
            clock.clear();
            clock.learn(self.agents.of(warp, Work::Threads), 1);
        }
        self.lanes.clear();
        self.lanes.resize(warps, [0; LANES]);
        self.counters.clear();
        self.counters.resize(warps, Counters::default());
        self.registers.resize_with(warps, Registers::default);
        self.registers.iter_mut().for_each(|registers| registers.start(kernel));
        self.locals.resize_with(warps, Written::default);
        self.locals.iter_mut().for_each(Written::clear);
        self.moves.clear();
        self.moves.resize(warps, Moves::default());
        self.tensor_fences = kernel.tensor_fences;
        self.tensor_order.resize_with(warps, Vec::new);
        self.tensor_order.iter_mut().for_each(Vec::clear);
        self.partings.resize_with(warps, Vec::new);
        self.partings.iter_mut().for_each(Vec::clear);
        self.tensors.iter_mut().for_each(Vec::clear);
        self.shadows.resize_with(ctas, Shadow::default);
        self.shadows.iter_mut().for_each(|shadow| shadow.reset(shared_bytes));
        self.barriers.resize_with(ctas * BARRIERS, Meeting::default);
        self.barriers.iter_mut().for_each(Meeting::clear);
        self.cluster_barrier.clear();
        self.initializations.start(warps);
        self.mbarriers.clear();
        self.released.clear();
        self.released.resize(warps, None);
        self.seen.resize_with(warps, Clock::default);
        self.seen.iter_mut().for_each(Clock::clear);
        self.locations.clear();
        self.others.start(number);
    }

    /// Notes a mistake, unless there was one of this kind between the same two instructions before.
    #[cold]
    fn find(&mut self, kind: ReportKind, actor: Actor, lane: usize, earlier: Option<Access>, message: String) {
        if self.known.insert((kind, actor.at, earlier.map_or(u32::MAX, |earlier| earlier.at))) {
            self.found.push(Finding { kind, actor, lane, earlier, message });
        }
    }

    /// Whether something was found since the last call of [`Checker::report`].
    pub fn has_found(&self) -> bool {
        !self.found.is_empty()
    }

    /// Puts what was found into words; false where there is room for no more.
    #[cold]
    pub fn report(&mut self, grid: &Grid<'_>, ctas: &[[u32; 3]]) -> bool {
        let place = |at: u32| {
            let instruction = &grid.kernel.code[at as usize];
            grid.kernel.places[instruction.place as usize].clone()
        };
        for finding in std::mem::take(&mut self.found) {
            let Finding { kind, actor, lane, earlier, message } = finding;
            let at = place(actor.at);
            let before = earlier.map(|earlier| place(earlier.at));
            let (line, before_line) = (at.line, before.as_ref().map_or(0, |place| place.line));
            let who = earlier.map(|earlier| self.describe(grid, ctas, &earlier, before_line)).unwrap_or_default();
            let message = message.replace("{earlier}", &who);
            let number = (actor.warp % self.warps_each.max(1) * LANES + lane) as u32;
            let report = || Report {
                kind,
                message,
                kernel: grid.kernel.name.clone(),
                place: at,
                earlier: before,
                cta: ctas.get(actor.cta).copied().unwrap_or_default(),
                thread: grid.thread(number),
            };
            self.reports.add(report, kind, line, before_line);
        }
        !self.reports.full()
    }

    /// Says whose an earlier access was.
    fn describe(&self, grid: &Grid<'_>, ctas: &[[u32; 3]], earlier: &Access, line: u32) -> String {
        match self.agents.who(earlier.agent) {
            Ok((warp, work)) => {
                let cta = ctas.get(warp / self.warps_each.max(1)).copied().unwrap_or_default();
                let warp = warp % self.warps_each.max(1);
                let cta = if ctas.len() > 1 { format!(" of CTA {cta:?}") } else { String::new() };
                match work {
                    Work::Threads => {
                        let lane = u32::from(earlier.lane & 31);
                        let thread = grid.thread((warp * LANES) as u32 + lane);
                        format!("line {line} (thread {thread:?}{cta})")
                    }
                    _ => format!("line {line} (warp {warp}{cta})"),
                }
            }
            Err(_) => format!("line {line}"),
        }
    }
}
