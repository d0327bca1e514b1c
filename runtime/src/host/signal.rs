//! Waiting for another thread: first awake, then asleep.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A number that one thread changes and others wait for.
///
/// Waiting spins for a while, since what is waited for is usually a microsecond away and waking a thread costs tens of
/// them; then it sleeps, since a spinning thread takes a core from whoever has work for it.
#[derive(Debug, Default)]
pub(super) struct Signal {
    // A cache line of its own, so that spinning does not slow down writes to what lies beside it.
    value: CacheLine<AtomicU32>,
    sleepers: AtomicU32,
    lock: Mutex<()>,
    changed: Condvar,
}

/// A value on a cache line of its own (two lines: CPUs prefetch in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct CacheLine<T>(pub T);

/// Spins between two looks at the clock.
const SPINS_PER_LOOK: u32 = 64;

impl Signal {
    /// The number now. What was written before it was set is visible.
    pub fn get(&self) -> u32 {
        self.value.0.load(Ordering::Acquire)
    }

    /// Sets the number and wakes whoever waits.
    pub fn set(&self, value: u32) {
        // Sequentially consistent, as are the loads in `sleep_until`: either this thread sees the sleeper, or the sleeper
        // sees the value before it sleeps.
        self.value.0.store(value, Ordering::SeqCst);
        self.wake();
    }

    /// Subtracts 1 and wakes whoever waits; returns the number left.
    pub fn decrement(&self) -> u32 {
        let left = self.value.0.fetch_sub(1, Ordering::SeqCst) - 1;
        if left == 0 {
            self.wake();
        }
        left
    }

    fn wake(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.changed.notify_all();
        }
    }

    /// Waits until the number satisfies `reached`, awake for at most about `patience`.
    pub fn wait_until(&self, patience: Duration, reached: impl Fn(u32) -> bool) {
        let mut started = None;
        loop {
            for _ in 0..SPINS_PER_LOOK {
                if reached(self.get()) {
                    return;
                }
                std::hint::spin_loop();
            }
            let now = Instant::now();
            if now.duration_since(*started.get_or_insert(now)) >= patience {
                return self.sleep_until(reached);
            }
        }
    }

    #[cold]
    fn sleep_until(&self, reached: impl Fn(u32) -> bool) {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while !reached(self.value.0.load(Ordering::SeqCst)) {
            guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}
