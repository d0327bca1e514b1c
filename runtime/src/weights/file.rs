//! A file of weights, mapped, and where it pays a copy of it in huge pages.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{Advice, Mmap, MmapMut};
use sysinfo::System;

/// Files below this size fit the caches, or nearly: how they are mapped makes no difference.
const SMALLEST_COPIED: usize = 32 << 20;

/// Bytes of all copies that live: a model is often many files, and together they must leave memory for its caches.
static COPIED: AtomicU64 = AtomicU64::new(0);

/// Whether a copy of `bytes` bytes beside `copied` others leaves half of what was available before any of them.
fn fits(bytes: u64, copied: u64, available: u64) -> bool {
    copied.saturating_add(bytes) <= available.saturating_add(copied) / 2
}

/// What one thread copies at a time.
const COPIED_AT_ONCE: usize = 8 << 20;

/// A mapped file. What is read from it once, headers and uploads to devices, is read where it is mapped.
#[derive(Debug)]
pub(super) struct WeightFile {
    map: Mmap,
    resident: OnceLock<Option<MmapMut>>,
}

impl WeightFile {
    pub fn new(map: Mmap) -> WeightFile {
        WeightFile { map, resident: OnceLock::new() }
    }

    pub fn mapped(&self) -> &[u8] {
        &self.map
    }

    /// The contents for kernels that stream through them at every step. How a file's cached pages lie in memory is the system's choice,
    /// mostly small ones; from huge pages a processor reads about a sixth faster. So the file is copied into such, once for all that
    /// use it, if all such copies take no more than half of the memory that is available; else, and where the system gives none, it is read where it is mapped.
    pub fn resident(&self) -> &[u8] {
        self.resident
            .get_or_init(|| if self.is_worth_a_copy() { copied(&self.map) } else { None })
            .as_deref()
            .unwrap_or(&self.map)
    }

    fn is_worth_a_copy(&self) -> bool {
        if !cfg!(target_os = "linux") || self.map.len() < SMALLEST_COPIED {
            return false;
        }
        let mut system = System::new();
        system.refresh_memory();
        // In a container the limit of its group is what counts.
        let free = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
        let bytes = self.map.len() as u64;
        let before = COPIED.load(Ordering::Relaxed);
        fits(bytes, before, system.available_memory().min(free))
    }

    /// Asks the system to read a part of the file from disk now, so that the first step does not fault it in page by page.
    pub fn populate(&self, start: usize, length: usize) {
        #[cfg(target_os = "linux")]
        {
            // Only a wish: without it the pages come as they are touched.
            let _ = self.map.advise_range(Advice::PopulateRead, start, length);
        }
    }
}

impl Drop for WeightFile {
    fn drop(&mut self) {
        if let Some(Some(_)) = self.resident.get() {
            COPIED.fetch_sub(self.map.len() as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(target_os = "linux")]
fn copied(file: &Mmap) -> Option<MmapMut> {
    use super::super::host::HUGE_PAGE;
    // Whole huge pages, so that the mapping starts at one.
    let mut copy = MmapMut::map_anon(file.len().next_multiple_of(HUGE_PAGE)).ok()?;
    let _ = copy.advise(Advice::HugePage);
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    let parts = copy[..file.len()].chunks_mut(COPIED_AT_ONCE).enumerate();
    let parts = std::sync::Mutex::new(parts);
    let next = || parts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((index, to)) = next() {
                    let start = index * COPIED_AT_ONCE;
                    // In one request; page by page takes longer.
                    let _ = file.advise_range(Advice::PopulateRead, start, to.len());
                    to.copy_from_slice(&file[start..][..to.len()]);
                }
            });
        }
    });
    COPIED.fetch_add(file.len() as u64, Ordering::Relaxed);
    Some(copy)
}

#[cfg(not(target_os = "linux"))]
fn copied(_: &Mmap) -> Option<MmapMut> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_copies_together_leave_half_of_the_memory() {
        // Shards of 4 on a machine with 22.
        let (mut available, mut copied) = (22, 0);
        while fits(4, copied, available) {
            copied += 4;
            available -= 4;
        }
        assert_eq!(copied, 8);
        assert!(!fits(u64::MAX, 1, u64::MAX - 1));
    }
}
