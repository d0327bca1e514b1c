//! How much memory files may be moved into.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sysinfo::System;

/// Memory that could be had now, in bytes.
pub(super) fn available() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    // In a container the limit of its group is what counts. Cached files count as used there, such as the weights themselves, but give way.
    let free = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory.saturating_sub(limits.rss));
    system.available_memory().min(free)
}

/// What all files that live have been promised. A model is often many files, and together they must leave memory for its caches.
static LEDGER: Mutex<Ledger> = Mutex::new(Ledger { promised: 0, taken: 0 });

#[derive(Debug)]
struct Ledger {
    /// Bytes promised, with those taken.
    promised: u64,
    /// Bytes taken from the system.
    taken: u64,
}

impl Ledger {
    /// What has to stay available if `bytes` bytes more are promised: a quarter of what would be if nothing was taken. `None` if less
    /// would stay.
    fn floor(&self, bytes: u64, available: u64) -> Option<u64> {
        let at_first = available.saturating_add(self.taken);
        let floor = at_first / 4;
        (self.promised.saturating_add(bytes) <= at_first - floor).then_some(floor)
    }
}

fn ledger() -> MutexGuard<'static, Ledger> {
    LEDGER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Leave to take memory, until it is dropped.
#[derive(Debug)]
pub(super) struct Promise {
    bytes: u64,
    taken: u64,
    floor: u64,
}

impl Promise {
    /// Leave to take `bytes` bytes of those that are available, beside all that was promised before; `None` if that is too much.
    pub fn of(bytes: u64, available: u64) -> Option<Promise> {
        let mut ledger = ledger();
        let floor = ledger.floor(bytes, available)?;
        ledger.promised += bytes;
        Some(Promise { bytes, taken: 0, floor })
    }

    /// Whether `bytes` bytes can still be taken: others may have taken what was available before.
    pub fn holds(&self, bytes: usize) -> bool {
        available() >= self.floor.saturating_add(bytes as u64)
    }

    /// Notes that some bytes of those promised are taken.
    pub fn take(&mut self, bytes: usize) {
        let bytes = (bytes as u64).min(self.bytes - self.taken);
        self.taken += bytes;
        ledger().taken += bytes;
    }

    /// Bytes taken.
    #[cfg(test)]
    pub fn taken(&self) -> u64 {
        self.taken
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut ledger = ledger();
        ledger.promised -= self.bytes;
        ledger.taken -= self.taken;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_together_leave_a_quarter_of_the_memory() {
        // Shards of 4 on a machine with 22, of which half are moved before the next is asked for.
        let (mut ledger, mut available) = (Ledger { promised: 0, taken: 0 }, 22);
        while ledger.floor(4, available).is_some() {
            ledger.promised += 4;
            ledger.taken += 2;
            available -= 2;
        }
        assert_eq!(ledger.promised, 16);
        assert!(ledger.floor(u64::MAX, u64::MAX).is_none());
    }

    #[test]
    fn a_promise_is_kept_to_its_size_and_while_there_is_memory() {
        assert!(Promise::of(1 << 40, 1 << 40).is_none());
        let mut promise = Promise::of(100, 1 << 40).unwrap();
        promise.take(60);
        assert_eq!(promise.taken(), 60);
        promise.take(60);
        assert_eq!(promise.taken(), 100);
        assert!(!promise.holds(usize::MAX));
    }
}
