//! A launch: its CTAs over the host's cores.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::cluster::{Cluster, Progress};
use super::fault::{Fault, FaultKind};
use super::kernel::Kernel;
use super::observer::{Access, Moment, Observer};
use super::row::LANES;
use super::standstill::Standstill;
use crate::checker::{Launch, Report, Reports};
use crate::memory::global::View;
use crate::tensor_core::accumulation::Accumulation;

/// A kernel with what a launch gives it.
#[derive(Debug)]
pub struct Grid<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// How many CTAs.
    pub extent: [u32; 3],
    /// How many threads of a CTA.
    pub block: [u32; 3],
    /// How many CTAs of a cluster.
    pub cluster: [u32; 3],
    /// Bytes of shared memory that the launch adds.
    pub dynamic_shared: u32,
    /// The parameters' bytes, as the kernel lays them out.
    pub parameters: Vec<u8>,
    /// What is allocated.
    pub memory: View,
    /// How many multiprocessors the chip has.
    pub multiprocessors: u32,
    /// Varies the order of warps; 0 keeps it.
    pub seed: u64,
    /// How tensor cores add up products.
    pub accumulation: Accumulation,
    /// What the chip has, and how long the launch may take.
    pub limits: Limits,
}

/// What a launch may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of shared memory of a CTA, which the kernel declares or the launch adds.
    pub shared_bytes: u32,
    /// Instructions that a warp may run.
    pub instructions: u64,
}

impl Limits {
    /// None but what an address can say.
    pub const NONE: Limits = Limits { shared_bytes: 1 << 24, instructions: u64::MAX };
}

/// What a launch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Instructions executed, each once for a warp.
    pub warp_instructions: u64,
}

/// Stands for an observer where there is none.
enum Nobody {}

impl Observer for Nobody {
    fn executed(&mut self, _: &Moment<'_>) {}
    fn accessed(&mut self, _: &Access) {}
}

/// How many rounds a cluster runs before another gets its host thread.
const CLUSTER_ROUNDS: u32 = 64;
/// How many such turns each cluster that is under way has, without any finishing, before the launch is taken to wait for something.
const PATIENCE: u64 = 16;
/// How many clusters are under way at most for each multiprocessor: those that a chip would hold at once.
const RESIDENT: usize = 2;
/// Registers that a multiprocessor has, of every chip since sm_50.
pub const REGISTERS: u32 = 1 << 16;
/// Blocks may not be larger.
const MOST_THREADS: u32 = 1024;

/// The coordinates of a thread of a CTA of this shape.
pub fn thread_of([x, y, _]: [u32; 3], number: u32) -> [u32; 3] {
    [number % x, number / x % y, number / (x * y)]
}

/// The coordinates of a CTA of a cluster, in a grid of this extent and clusters of this shape.
pub fn cta_of([x, y, _]: [u32; 3], [cx, cy, cz]: [u32; 3], cluster: u64, rank: u32) -> [u32; 3] {
    let (along_x, along_y) = (u64::from(x / cx), u64::from(y / cy));
    let first = [cluster % along_x, cluster / along_x % along_y, cluster / (along_x * along_y)];
    let inner = [rank % cx, rank / cx % cy, rank / (cx * cy)];
    [0, 1, 2].map(|axis| first[axis] as u32 * [cx, cy, cz][axis] + inner[axis])
}

impl Grid<'_> {
    /// Threads of a CTA.
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// CTAs of a cluster.
    pub fn cluster_ctas(&self) -> u32 {
        self.cluster.iter().product()
    }

    /// Bytes of shared memory of a CTA.
    pub fn shared_bytes(&self) -> u32 {
        self.kernel.static_shared.next_multiple_of(self.kernel.dynamic_alignment.max(1)) + self.dynamic_shared
    }

    /// The coordinates of a thread of a CTA.
    pub fn thread(&self, number: u32) -> [u32; 3] {
        thread_of(self.block, number)
    }

    /// The number of a CTA.
    pub fn linear(&self, cta: [u32; 3]) -> u64 {
        let [x, y, _] = self.extent.map(u64::from);
        let [i, j, k] = cta.map(u64::from);
        i + x * (j + y * k)
    }

    /// The coordinates of a CTA of a cluster.
    pub fn cta(&self, cluster: u64, rank: u32) -> [u32; 3] {
        cta_of(self.extent, self.cluster, cluster, rank)
    }

    /// The warp that gets the turn of a number.
    pub(super) fn order(&self, turn: usize, warps: usize) -> usize {
        (turn + (self.seed % warps.max(1) as u64) as usize) % warps.max(1)
    }

    fn validate(&self) -> Result<(), Box<Fault>> {
        let kernel = self.kernel;
        let refuse = |message: String| {
            let kind = FaultKind::InvalidLaunch;
            Err(Box::new(Fault { kind, message, kernel: kernel.name.clone(), place: None, cta: None, thread: None }))
        };
        let product = |extents: [u32; 3]| extents.iter().try_fold(1u64, |all, one| all.checked_mul(u64::from(*one)));
        let threads = product(self.block).unwrap_or(u64::MAX);
        if threads == 0 || threads > u64::from(MOST_THREADS) {
            return refuse(format!("a block of {:?} threads; it can have 1 to {MOST_THREADS}", self.block));
        }
        if product(self.extent).unwrap_or(0) == 0 {
            return refuse(format!("a grid of {:?} CTAs", self.extent));
        }
        if let Some(block) = kernel.requirements.block
            && block != self.block
        {
            return refuse(format!("it is launched with {:?} threads, but declares .reqntid {block:?}", self.block));
        }
        if let Some(most) = kernel.requirements.maximum_threads
            && threads > u64::from(most)
        {
            return refuse(format!("it is launched with {threads} threads, but declares .maxntid of {most}"));
        }
        let allocated = threads.next_multiple_of(LANES as u64);
        if let Some(registers) = kernel.requirements.maximum_registers
            && allocated * u64::from(registers) > u64::from(REGISTERS)
        {
            return refuse(format!(
                "it is launched with {threads} threads, and each may have {registers} registers by .maxnreg: a multiprocessor has {REGISTERS}"
            ));
        }
        let shared = u64::from(kernel.static_shared) + u64::from(self.dynamic_shared);
        if shared > u64::from(self.limits.shared_bytes) {
            return refuse(format!(
                "{} bytes of shared memory that it declares and {} that the launch adds; a CTA can have {}",
                kernel.static_shared, self.dynamic_shared, self.limits.shared_bytes
            ));
        }
        if let Some(cluster) = kernel.requirements.cluster
            && cluster != self.cluster
        {
            return refuse(format!(
                "it is launched in clusters of {:?}, but declares .reqnctapercluster {cluster:?}",
                self.cluster
            ));
        }
        let ctas = product(self.cluster).unwrap_or(0);
        if !(1..=16).contains(&ctas) || (0..3).any(|axis| !self.extent[axis].is_multiple_of(self.cluster[axis])) {
            return refuse(format!("clusters of {:?} do not divide a grid of {:?} CTAs", self.cluster, self.extent));
        }
        if self.parameters.len() < kernel.parameter_bytes as usize {
            return refuse(format!(
                "{} bytes of parameters; it takes {}",
                self.parameters.len(),
                kernel.parameter_bytes
            ));
        }
        Ok(())
    }

    /// Runs all CTAs, on as many threads as rayon has, and returns when the last thread has exited, or the first has failed.
    pub fn run(&self) -> Result<Summary, Box<Fault>> {
        self.run_for(|| None::<Nobody>, None).0
    }

    /// The same with the checker on: what it reports beside how the launch ended, which is with [`FaultKind::Reported`] once there are
    /// as many reports as the limit says. Of a kind of mistake a line is in one report only.
    pub fn run_checked(&self, limit: usize) -> (Result<Summary, Box<Fault>>, Vec<Report>) {
        let reports = Arc::new(Reports::new(limit));
        let outcome = self.run_for(|| None::<Nobody>, Some(&reports)).0;
        (outcome, reports.list())
    }

    /// Runs all CTAs with somebody to look on for each host thread, and returns them too: also after a fault.
    pub fn run_observed<O: Observer>(&self, new: impl Fn() -> O + Sync) -> (Result<Summary, Box<Fault>>, Vec<O>) {
        self.run_for(|| Some(new()), None)
    }

    fn run_for<O: Observer>(
        &self,
        observer: impl Fn() -> Option<O> + Sync,
        reports: Option<&Arc<Reports>>,
    ) -> (Result<Summary, Box<Fault>>, Vec<O>) {
        let mut execution = match self.begin(reports.cloned()) {
            Ok(execution) => execution,
            Err(fault) => return (Err(fault), vec![]),
        };
        let (outcome, observers) = self.go_on(&mut execution, None, observer);
        (outcome.map(|_| Summary { warp_instructions: execution.executed }), observers)
    }

    /// A launch that nothing has been run of yet, with the checker on where there are reports to add to.
    pub fn begin(&self, reports: Option<Arc<Reports>>) -> Result<Execution, Box<Fault>> {
        self.validate()?;
        let checks = reports.map(|reports| (reports, Arc::new(Launch::new(self))));
        Ok(Execution {
            next: Arc::default(),
            standstill: Arc::default(),
            suspended: VecDeque::new(),
            checks,
            executed: 0,
        })
    }

    /// Runs a launch until it has finished, or for so long without any cluster finishing that it may wait for something else than
    /// itself: then it can be advanced again later. The launch has to be the one that the execution was begun with, but for the memory.
    pub fn advance(&self, execution: &mut Execution) -> Result<Advance, Box<Fault>> {
        self.go_on(execution, Some(PATIENCE), || None::<Nobody>).0
    }

    /// Runs a launch for which nothing else will happen to its end: a deadlock is found.
    pub fn conclude(&self, execution: &mut Execution) -> Result<(), Box<Fault>> {
        self.go_on(execution, None, || None::<Nobody>).0.map(drop)
    }

    fn go_on<O: Observer>(
        &self,
        execution: &mut Execution,
        patience: Option<u64>,
        observer: impl Fn() -> Option<O> + Sync,
    ) -> (Result<Advance, Box<Fault>>, Vec<O>) {
        let clusters = self.extent.map(u64::from).iter().product::<u64>() / u64::from(self.cluster_ctas());
        let workers = (rayon::current_num_threads() as u64).min(clusters);
        let executed = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        // How often clusters ran without finishing since one did, and whether any did more than to poll.
        let (fruitless, moved) = (AtomicU64::new(0), AtomicBool::new(false));
        let resident = (RESIDENT * self.multiprocessors as usize / self.cluster_ctas() as usize).max(1);
        // Clusters that wait for others to go on: a grid may synchronize through global memory.
        execution.suspended.iter_mut().for_each(Cluster::resume);
        let suspended = Mutex::new(std::mem::take(&mut execution.suspended));
        let Execution { next, standstill, checks, .. } = &*execution;
        standstill.moved();
        let failure: Mutex<Option<Box<Fault>>> = Mutex::default();
        let work = |mut observer: Option<&mut dyn Observer>| {
            let mut spare = Some(Cluster::new(checks.as_ref(), next, standstill));
            while !stop.load(Ordering::Relaxed) {
                let waiting = suspended.lock().unwrap_or_else(PoisonError::into_inner).len();
                let fresh = if waiting < resident { next.fetch_add(1, Ordering::Relaxed) } else { clusters };
                let mut cluster = if fresh < clusters {
                    let mut cluster = spare.take().unwrap_or_else(|| Cluster::new(checks.as_ref(), next, standstill));
                    cluster.start(self, fresh);
                    moved.store(true, Ordering::Relaxed);
                    cluster
                } else {
                    match suspended.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
                        Some(cluster) => cluster,
                        None if next.load(Ordering::Relaxed) < clusters => continue,
                        None => return,
                    }
                };
                match cluster.run(
                    self,
                    CLUSTER_ROUNDS,
                    observer.as_mut().map(|observer| &mut **observer as &mut dyn Observer),
                ) {
                    Ok(Progress::Finished) => {
                        executed.fetch_add(cluster.executed(), Ordering::Relaxed);
                        fruitless.store(0, Ordering::Relaxed);
                        moved.store(true, Ordering::Relaxed);
                        spare = Some(cluster);
                    }
                    Ok(Progress::Unfinished) => {
                        moved.fetch_or(cluster.moved(), Ordering::Relaxed);
                        let mut suspended = suspended.lock().unwrap_or_else(PoisonError::into_inner);
                        suspended.push_back(cluster);
                        let so_far = fruitless.fetch_add(1, Ordering::Relaxed);
                        if patience.is_some_and(|patience| so_far / suspended.len() as u64 >= patience) {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                    Err(fault) => {
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            }
        };
        let observers: Mutex<Vec<O>> = Mutex::default();
        let worker = || {
            let mut observer = observer();
            work(observer.as_mut().map(|observer| observer as &mut dyn Observer));
            observers.lock().unwrap_or_else(PoisonError::into_inner).extend(observer);
        };
        if workers <= 1 {
            worker();
        } else {
            rayon::scope(|scope| {
                for _ in 0..workers {
                    scope.spawn(|_| worker());
                }
            });
        }
        execution.executed += executed.into_inner();
        execution.suspended = suspended.into_inner().unwrap_or_else(PoisonError::into_inner);
        let started = execution.next.load(Ordering::Relaxed) >= clusters;
        let result = match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(fault) => Err(fault),
            None if started && execution.suspended.is_empty() => Ok(Advance::Finished),
            None => Ok(Advance::Suspended { moved: moved.into_inner() }),
        };
        (result, observers.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A launch that has begun.
#[derive(Debug)]
pub struct Execution {
    /// The next cluster to start.
    next: Arc<AtomicU64>,
    standstill: Arc<Standstill>,
    /// Those that have started, and not finished.
    suspended: VecDeque<Cluster>,
    checks: Option<(Arc<Reports>, Arc<Launch>)>,
    executed: u64,
}

/// How far a launch came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// All its threads have exited.
    Finished,
    /// It has not finished for long.
    Suspended {
        /// Whether its threads did anything but poll.
        moved: bool,
    },
}
