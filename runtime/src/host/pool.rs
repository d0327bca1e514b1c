//! A pool of threads that run one function together.
//!
//! The whole of a plan's launches is one such function: its threads walk the list side by side and meet at a [`Barrier`]
//! between launches, which costs a fraction of starting and joining them for each.

use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::library::CLEARED_SCRATCH_BYTES;
use super::signal::{CacheLine, Signal};

/// How long an idle worker stays awake after its last work: longer than a program takes between two steps of generation.
const IDLE_PATIENCE: Duration = Duration::from_micros(1000);

/// How long a thread stays awake for the others at a barrier: longer than the last program of a long launch takes, since waking a
/// thread up costs about what a whole launch does. Only where another process has taken a core does a wait last longer.
const BARRIER_PATIENCE: Duration = Duration::from_micros(2000);

/// Threads that wait for work. The thread that calls [`Pool::run`] takes part, so a pool of one thread has no workers.
#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// The caller's scratch memory, and the right to run: one team works at a time.
    caller: Mutex<Scratch>,
}

/// What a thread of the team gets to know.
pub(super) struct Member<'a> {
    /// Which thread it is, below [`Pool::threads`]. Thread 0 is the caller.
    pub index: usize,
    /// Where they meet.
    pub barrier: &'a Barrier,
    /// Memory of this thread's own.
    pub scratch: &'a mut Scratch,
}

type Work<'a> = dyn Fn(Member<'_>) + Sync + 'a;

#[derive(Debug)]
struct Shared {
    /// The number of the current work; a change starts the workers.
    started: Signal,
    /// Workers that have not finished it.
    unfinished: Signal,
    /// Points to a `&Work` on the caller's stack while a round lasts; null tells the workers to end.
    work: AtomicPtr<()>,
    barrier: Barrier,
}

impl Pool {
    /// A pool of `threads` threads, the caller among them.
    pub fn new(threads: usize) -> std::io::Result<Pool> {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            started: Signal::default(),
            unfinished: Signal::default(),
            work: AtomicPtr::new(std::ptr::null_mut()),
            barrier: Barrier::new(threads),
        });
        let mut pool = Pool { shared, workers: Vec::new(), caller: Mutex::default() };
        for index in 1..threads {
            let shared = pool.shared.clone();
            let builder = std::thread::Builder::new().name(format!("tessera-{index}"));
            pool.workers.push(builder.spawn(move || serve(&shared, index))?);
        }
        Ok(pool)
    }

    /// How many threads run together.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `work` on every thread, and returns when all have finished. Another caller waits for its turn.
    ///
    /// If `work` panics on any thread, the process is aborted: the others would wait at a barrier for ever.
    pub fn run(&self, work: &Work<'_>) {
        let mut scratch = self.caller.lock().unwrap_or_else(PoisonError::into_inner);
        let member = |scratch| Member { index: 0, barrier: &self.shared.barrier, scratch };
        if self.workers.is_empty() {
            return work(member(&mut scratch));
        }
        self.shared.work.store((&raw const work).cast_mut().cast(), Ordering::Relaxed);
        self.shared.unfinished.set(self.workers.len() as u32);
        self.shared.started.set(self.shared.started.get().wrapping_add(1));
        let guard = AbortOnPanic;
        work(member(&mut scratch));
        std::mem::forget(guard);
        self.shared.unfinished.wait_until(BARRIER_PATIENCE, |left| left == 0);
    }

    /// Runs `work` on the calling thread alone.
    pub fn run_alone(&self, work: impl FnOnce(&mut Scratch)) {
        work(&mut self.caller.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.work.store(std::ptr::null_mut(), Ordering::Relaxed);
        self.shared.started.set(self.shared.started.get().wrapping_add(1));
        for worker in self.workers.drain(..) {
            // A worker that panicked has aborted the process.
            let _ = worker.join();
        }
    }
}

/// A worker's life: wait for work, do it, until there is none.
fn serve(shared: &Shared, index: usize) {
    let mut scratch = Scratch::default();
    let mut seen = 0;
    loop {
        shared.started.wait_until(IDLE_PATIENCE, |started| started != seen);
        seen = shared.started.get();
        let work = shared.work.load(Ordering::Relaxed).cast::<&Work<'_>>();
        // SAFETY: the pointer is null or was set by `Pool::run` before it set `started`, to a reference that lives until every
        // worker has decremented `unfinished`: `run` neither returns nor unwinds before. The work is `Sync`.
        let Some(work) = (unsafe { work.as_ref() }) else { return };
        let guard = AbortOnPanic;
        work(Member { index, barrier: &shared.barrier, scratch: &mut scratch });
        std::mem::forget(guard);
        shared.unfinished.decrement();
    }
}

/// Ends the process if it is dropped, which happens only while unwinding.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        std::process::abort();
    }
}

/// A place where all threads of a team meet.
#[derive(Debug)]
pub(super) struct Barrier {
    threads: u32,
    arrived: CacheLine<AtomicU32>,
    round: Signal,
}

impl Barrier {
    fn new(threads: usize) -> Barrier {
        Barrier { threads: threads as u32, arrived: CacheLine::default(), round: Signal::default() }
    }

    /// Waits until every thread has come here. What each wrote before is visible to all after.
    pub fn wait(&self) {
        let round = self.round.get();
        if self.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            self.arrived.0.store(0, Ordering::Relaxed);
            self.round.set(round.wrapping_add(1));
        } else {
            self.round.wait_until(BARRIER_PATIENCE, |now| now != round);
        }
    }
}

/// Memory of a thread's own, 64-byte aligned, that grows and is kept.
#[derive(Debug, Default)]
pub(super) struct Scratch(Vec<Line>);

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line(#[allow(dead_code, reason = "kernels write it through a pointer")] [u8; 64]);

impl Scratch {
    /// For the calls of a launch: at least `bytes` bytes, of which the first [`CLEARED_SCRATCH_BYTES`] are 0.
    pub fn for_launch(&mut self, bytes: u64) -> *mut u8 {
        let lines = bytes.div_ceil(64) as usize;
        if self.0.len() < lines {
            self.0.resize(lines, Line([0; 64]));
        }
        let cleared = lines.min(CLEARED_SCRATCH_BYTES as usize / 64);
        self.0[..cleared].fill(Line([0; 64]));
        self.0.as_mut_ptr().cast()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn every_thread_works_once_each_time() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads).unwrap();
            let counts: Vec<_> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..1000 {
                pool.run(&|member| {
                    counts[member.index].fetch_add(1, Ordering::Relaxed);
                });
            }
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1000));
        }
    }

    #[test]
    fn no_thread_passes_the_barrier_before_the_last_arrives() {
        let pool = Pool::new(4).unwrap();
        let arrived = AtomicUsize::new(0);
        pool.run(&|member| {
            for round in 1..=2000 {
                arrived.fetch_add(1, Ordering::Relaxed);
                member.barrier.wait();
                assert_eq!(arrived.load(Ordering::Relaxed), round * 4);
                member.barrier.wait();
            }
        });
    }

    #[test]
    fn sleeping_workers_wake_up() {
        let pool = Pool::new(3).unwrap();
        let total = AtomicUsize::new(0);
        for _ in 0..5 {
            std::thread::sleep(IDLE_PATIENCE * 10);
            pool.run(&|member| {
                if member.index == 1 {
                    std::thread::sleep(BARRIER_PATIENCE * 10);
                }
                member.barrier.wait();
                total.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(total.into_inner(), 15);
    }

    #[test]
    fn callers_take_turns() {
        let pool = Pool::new(2).unwrap();
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(&|member| {
                            if member.index == 0 {
                                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            }
                            member.barrier.wait();
                            if member.index == 0 {
                                inside.fetch_sub(1, Ordering::SeqCst);
                            }
                        });
                    }
                });
            }
        });
    }

    #[test]
    fn scratch_is_aligned_and_grows() {
        let mut scratch = Scratch::default();
        for bytes in [1, 64, 100_000, 10] {
            assert_eq!(scratch.for_launch(bytes) as usize % 64, 0);
        }
        assert_eq!(scratch.0.len(), 100_000usize.div_ceil(64));
    }
}
