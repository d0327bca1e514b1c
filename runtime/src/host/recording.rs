//! Launches on the host's threads.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Kernels;
use super::library::Entry;
use super::pool::{Member, Pool};
use super::relocations::Relocations;
use super::signal::CacheLine;
use crate::device::{DeviceError, PreparedLaunch, Recording};
use crate::plan::{Balance, Kernel};

/// Prepared launches of a host module.
#[derive(Debug)]
pub(super) struct HostRecording {
    steps: Vec<Step>,
    /// The arguments of all launches; each launch's are followed by its grid.
    arguments: Vec<u64>,
    pool: Arc<Pool>,
    relocations: Arc<Relocations>,
    /// How long the last run took; `None` before the first.
    previous_run: Option<Duration>,
    /// Keeps the entry points of the steps loaded.
    _kernels: Arc<Kernels>,
}

/// One launch.
#[derive(Debug)]
struct Step {
    entry: Entry,
    /// Where its arguments start.
    first_argument: usize,
    programs: u64,
    scratch_bytes: u64,
    /// How many threads take part.
    threads: usize,
    share: Share,
    /// Whether the threads have to meet before the next launch.
    meet: bool,
}

/// Which programs a thread runs.
#[derive(Debug)]
enum Share {
    /// An equal part.
    Equal,
    /// Chunks of at least so many, from a counter that all threads take from: first long ones, which are run without a break, then ever shorter ones, so
    /// that all threads are done at about the same time (guided self-scheduling, Polychronopoulos and Kuck 1987).
    Chunks { least: u64, next: Box<CacheLine<AtomicU64>> },
}

/// A thread takes this part of its share of the programs that are left.
const PART_OF_SHARE: u64 = 4;

impl HostRecording {
    pub fn new(
        kernels: Arc<Kernels>,
        specifications: &[Kernel],
        pool: Arc<Pool>,
        relocations: Arc<Relocations>,
        launches: Vec<PreparedLaunch>,
    ) -> HostRecording {
        let mut arguments = Vec::new();
        let mut steps: Vec<Step> = Vec::with_capacity(launches.len());
        for launch in launches {
            let kernel = &specifications[launch.kernel];
            let first_argument = arguments.len();
            arguments.extend(launch.arguments);
            arguments.extend(launch.grid.map(u64::from));
            let grain = kernel.partition.grain.max(1);
            // Three 32-bit numbers can overflow 64 bits; a grid that large would run for centuries anyway.
            let programs = launch.grid.iter().fold(1u64, |product, size| product.saturating_mul(u64::from(*size)));
            let threads = programs.div_ceil(grain).min(pool.threads() as u64) as usize;
            let share = match kernel.partition.balance {
                Balance::Dynamic if threads > 1 => Share::Chunks { least: grain, next: Box::default() },
                _ => Share::Equal,
            };
            // Thread 0 alone needs nobody's leave to go on to another launch of its own.
            if let Some(previous) = steps.last_mut() {
                previous.meet = previous.threads > 1 || threads > 1;
            }
            let entry = kernels.entries[launch.kernel];
            let scratch_bytes = kernel.scratch_bytes;
            steps.push(Step { entry, first_argument, programs, scratch_bytes, threads, share, meet: false });
        }
        HostRecording { steps, arguments, pool, relocations, previous_run: None, _kernels: kernels }
    }

    /// Runs some of the steps on as many threads as they need.
    ///
    /// # Safety
    ///
    /// As for [`Recording::run`].
    unsafe fn run_steps(&self, range: Range<usize>) {
        let steps = &self.steps[range];
        for step in steps {
            if let Share::Chunks { next, .. } = &step.share {
                next.0.store(0, Ordering::Relaxed);
            }
        }
        if steps.iter().all(|step| step.threads <= 1) {
            return self.pool.run_alone(|scratch| {
                for step in steps {
                    let scratch = scratch.for_launch(step.scratch_bytes);
                    // SAFETY: see `Step::call`; the caller vouches for the addresses.
                    unsafe { step.call(&self.arguments, 0..step.programs, scratch) };
                }
            });
        }
        let last = steps.len() - 1;
        self.pool.run(&|member: Member<'_>| {
            for (index, step) in steps.iter().enumerate() {
                if member.index < step.threads {
                    let scratch = member.scratch.for_launch(step.scratch_bytes);
                    // SAFETY: see `Step::call`; the caller vouches for the addresses.
                    unsafe { step.call_share(&self.arguments, member.index as u64, scratch) };
                }
                if step.meet && index != last {
                    member.barrier.wait();
                }
            }
        });
    }
}

impl Step {
    /// Runs thread `index`'s share of the programs.
    ///
    /// # Safety
    ///
    /// As for [`Step::call`].
    unsafe fn call_share(&self, arguments: &[u64], index: u64, scratch: *mut u8) {
        match &self.share {
            Share::Equal => {
                // The first `longer` shares have one program more.
                let (each, longer) = (self.programs / self.threads as u64, self.programs % self.threads as u64);
                let begin = index * each + index.min(longer);
                let end = begin + each + u64::from(index < longer);
                // SAFETY: the caller's.
                unsafe { self.call(arguments, begin..end, scratch) };
            }
            Share::Chunks { least, next } => {
                let end_of = |begin: u64| {
                    let left = self.programs - begin;
                    begin + (left / (PART_OF_SHARE * self.threads as u64)).max(*least).min(left)
                };
                let take = |begin: u64| (begin < self.programs).then(|| end_of(begin));
                while let Ok(begin) = next.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
                    // SAFETY: the caller's.
                    unsafe { self.call(arguments, begin..end_of(begin), scratch) };
                }
            }
        }
    }

    /// Runs some of the programs.
    ///
    /// # Safety
    ///
    /// The addresses among this step's arguments are as [`Recording::run`] wants them, and `scratch` has the kernel's scratch bytes
    /// and is this thread's own.
    unsafe fn call(&self, arguments: &[u64], programs: Range<u64>, scratch: *mut u8) {
        let arguments = arguments[self.first_argument..].as_ptr();
        // SAFETY: the entry has this signature (`Library::entry`), and is loaded (`HostRecording::_kernels`). The plan was
        // validated: the arguments match the kernel's parameters. The rest is the caller's.
        unsafe { (self.entry)(arguments, programs.start, programs.end, scratch) };
    }
}

impl Recording for HostRecording {
    fn set_argument(&mut self, launch: usize, argument: usize, value: u64) {
        let first = self.steps[launch].first_argument;
        self.arguments[first + argument] = value;
    }

    unsafe fn run(&mut self) -> Result<(), DeviceError> {
        // Not before the first run, which somebody may be waiting for since the model was loaded.
        if let Some(previous) = self.previous_run {
            self.relocations.advance(&self.pool, previous);
        }
        let start = Instant::now();
        // SAFETY: the caller's.
        unsafe { self.run_steps(0..self.steps.len()) };
        self.previous_run = Some(start.elapsed());
        Ok(())
    }

    unsafe fn profile(&mut self) -> Result<Vec<Duration>, DeviceError> {
        let timed = |index| {
            let start = Instant::now();
            // SAFETY: the caller's.
            unsafe { self.run_steps(index..index + 1) };
            start.elapsed()
        };
        Ok((0..self.steps.len()).map(timed).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::file_tests::file_of;

    #[test]
    fn weights_are_moved_before_runs_that_are_not_the_first() {
        let Some(file) = file_of(64 << 20) else { return };
        file.settle_within(Duration::ZERO);
        let file = Arc::new(file);
        let (pool, relocations) = (Arc::new(Pool::new(2).unwrap()), Arc::new(Relocations::default()));
        relocations.add(&file);
        let kernels = Arc::new(Kernels { entries: Vec::new(), _library: None });
        let mut recording = HostRecording::new(kernels, &[], pool, relocations, Vec::new());
        // SAFETY: there are no launches.
        unsafe {
            recording.profile().unwrap();
            recording.run().unwrap();
            recording.profile().unwrap();
            assert_eq!(file.moved(), 0);
            // Runs that take no time move a piece by each thread.
            for _ in 0..32 {
                assert!(file.is_relocating());
                recording.run().unwrap();
                if !file.is_relocating() {
                    break;
                }
            }
        }
        assert!(file.moved() >= 60 << 20);
    }
}
