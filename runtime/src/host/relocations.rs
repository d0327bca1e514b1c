//! Weights on their way into huge pages, by the pool's threads between runs.
//!
//! A thread of its own would take a core from the team at every launch, and all of them wait for the slowest. So the team itself takes a
//! little time before each run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::pool::Pool;
use crate::weights::WeightFile;

/// The most that is taken before a run, so that no one notices it where a run is long, as that of a long prompt.
const LONGEST_SLICE: Duration = Duration::from_millis(50);

/// Files that kernels of the host read, and that are not yet where they are read fastest.
#[derive(Debug, Default)]
pub(super) struct Relocations {
    /// Files may go at any time, with the model that has them.
    files: Mutex<Vec<Weak<WeightFile>>>,
    /// Whether there are any, to be asked before every run.
    are_pending: AtomicBool,
}

impl Relocations {
    fn files(&self) -> MutexGuard<'_, Vec<Weak<WeightFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there are files to be moved.
    pub fn are_pending(&self) -> bool {
        self.are_pending.load(Ordering::Relaxed)
    }

    /// Adds a file, if it is to be moved and is not there yet.
    pub fn add(&self, file: &Arc<WeightFile>) {
        if !file.is_relocating() {
            return;
        }
        let mut files = self.files();
        if !files.iter().any(|known| Weak::as_ptr(known) == Arc::as_ptr(file)) {
            files.push(Arc::downgrade(file));
            self.are_pending.store(true, Ordering::Relaxed);
        }
    }

    /// Moves some of the files, before a run of which the previous one took this long: for at most half of that time, but at least a piece by each
    /// thread.
    pub fn advance(&self, pool: &Pool, previous_run: Duration) {
        if !self.are_pending() {
            return;
        }
        // These keep the files while parts are put in their place.
        let files: Vec<Arc<WeightFile>> = self.files().iter().filter_map(Weak::upgrade).collect();
        let until = Instant::now() + (previous_run / 2).min(LONGEST_SLICE);
        pool.run(&|_| {
            // As long as there is a part to do in some file; the first one takes its time even if that is over.
            while files.iter().any(|file| file.relocate(until)) && Instant::now() < until {}
        });
        drop(files);
        let mut files = self.files();
        files.retain(|file| file.upgrade().is_some_and(|file| file.is_relocating()));
        self.are_pending.store(!files.is_empty(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::file_tests::{file_of, is_whole};

    const TWO_PARTS: usize = 64 << 20;

    #[test]
    fn runs_move_what_was_added_and_forget_it_then() {
        let Some(file) = file_of(TWO_PARTS) else { return };
        file.settle_within(Duration::ZERO);
        let file = Arc::new(file);
        let (pool, relocations) = (Pool::new(2).unwrap(), Relocations::default());
        relocations.add(&file);
        relocations.add(&file);
        assert_eq!(relocations.files().len(), 1);
        let mut slices = 0;
        while relocations.are_pending() {
            // Even before runs that take no time.
            relocations.advance(&pool, Duration::ZERO);
            slices += 1;
            assert!(slices <= TWO_PARTS >> 21, "every slice moves a piece at least");
        }
        assert!(slices >= TWO_PARTS >> 23, "a slice moves no more than a piece by each thread");
        assert!(!file.is_relocating() && is_whole(file.bytes()) && relocations.files().is_empty());
        relocations.add(&file);
        assert!(relocations.files().is_empty());
    }

    #[test]
    fn a_file_that_goes_is_forgotten() {
        let Some(file) = file_of(TWO_PARTS) else { return };
        file.settle_within(Duration::ZERO);
        let file = Arc::new(file);
        let (pool, relocations) = (Pool::new(2).unwrap(), Relocations::default());
        relocations.add(&file);
        relocations.advance(&pool, Duration::ZERO);
        let (is_half_moved, weak) = (file.is_relocating(), Arc::downgrade(&file));
        drop(file);
        assert!(is_half_moved && weak.strong_count() == 0);
        relocations.advance(&pool, Duration::from_secs(60));
        assert!(relocations.files().is_empty() && !relocations.are_pending());
    }
}
