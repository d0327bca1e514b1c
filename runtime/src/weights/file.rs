//! A file of weights, mapped, and where it pays a copy of it in huge pages.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use memmap2::{Advice, Mmap, MmapMut, UncheckedAdvice};
use sysinfo::System;

/// Files below this size fit the caches, or nearly: how they are mapped makes no difference.
const SMALLEST_COPIED: usize = 32 << 20;

/// Bytes of all copies that live: a model is often many files, and together they must leave memory for its caches.
static COPIED: AtomicU64 = AtomicU64::new(0);

/// Bytes of all files that are mapped.
static MAPPED: AtomicU64 = AtomicU64::new(0);

/// Whether a copy of `bytes` bytes beside `copied` others leaves half of what was available before any of them.
fn fits(bytes: u64, copied: u64, available: u64) -> bool {
    copied.saturating_add(bytes) <= available.saturating_add(copied) / 2
}

/// What one thread copies at a time.
const COPIED_AT_ONCE: usize = 8 << 20;

/// A mapped file. What is read from it once, headers and uploads to devices, is read where it is mapped.
#[derive(Debug)]
pub(super) struct WeightFile {
    file: File,
    map: Mmap,
    resident: OnceLock<Option<MmapMut>>,
}

impl WeightFile {
    /// Maps a file.
    ///
    /// # Safety
    ///
    /// As of [`Mmap::map`]: nobody changes or truncates the file while it is mapped.
    pub unsafe fn map(file: File) -> std::io::Result<WeightFile> {
        // SAFETY: the caller's.
        let map = unsafe { Mmap::map(&file) }?;
        MAPPED.fetch_add(map.len() as u64, Ordering::Relaxed);
        Ok(WeightFile { file, map, resident: OnceLock::new() })
    }

    pub fn mapped(&self) -> &[u8] {
        &self.map
    }

    /// Which file it is, and which version of it.
    pub fn identity(&self) -> Option<String> {
        let metadata = self.file.metadata().ok()?;
        let modified = metadata.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        #[cfg(unix)]
        let place = {
            use std::os::unix::fs::MetadataExt;
            (metadata.dev(), metadata.ino())
        };
        #[cfg(not(unix))]
        let place = ();
        Some(format!("{place:?} {} {}", metadata.len(), modified.as_nanos()))
    }

    /// The contents for kernels that stream through them at every step. From huge pages a processor reads about a sixth faster than from small ones, and how a
    /// file's cached pages lie in memory is the system's choice. Where they lie in small ones, the file is copied into huge ones, once for all that
    /// use it, if all such copies take no more than half of the memory that is available; else, and where the system gives none, it is read where it is
    /// mapped.
    ///
    /// Where all files that are mapped fit into memory, their pages are mapped at once, so that the first step does not fault them in one by one. Else
    /// only what is touched comes into memory.
    pub fn resident(&self) -> &[u8] {
        self.resident.get_or_init(|| self.populated()).as_deref().unwrap_or(&self.map)
    }

    /// Brings the file into memory; the copy, if one is to be used.
    #[cfg(target_os = "linux")]
    fn populated(&self) -> Option<MmapMut> {
        let bytes = self.map.len() as u64;
        let available = available();
        if MAPPED.load(Ordering::Relaxed) > available {
            return None;
        }
        // Only wishes: without them the pages come as they are touched, and small. What is not cached yet is then read into huge pages.
        let _ = self.map.advise(Advice::HugePage);
        let _ = self.map.advise(Advice::PopulateRead);
        let copied = COPIED.load(Ordering::Relaxed);
        let is_copied = self.map.len() >= SMALLEST_COPIED
            && super::pages::bytes_in_huge_pages(&self.map).is_some_and(|huge| huge < bytes / 4 * 3)
            && fits(bytes, copied, available);
        if !is_copied {
            return None;
        }
        // SAFETY: the mapping is of a file and read-only: whoever reads it again gets the same bytes from the file.
        let _ = unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) };
        self.copied()
    }

    #[cfg(not(target_os = "linux"))]
    fn populated(&self) -> Option<MmapMut> {
        None
    }

    /// A copy in huge pages. It is read from the file, not from the mapping, whose pages would stay beside it.
    #[cfg(target_os = "linux")]
    fn copied(&self) -> Option<MmapMut> {
        use std::os::unix::fs::FileExt;

        use super::super::host::HUGE_PAGE;
        let length = self.map.len();
        // Whole huge pages, so that the mapping starts at one.
        let mut copy = MmapMut::map_anon(length.next_multiple_of(HUGE_PAGE)).ok()?;
        let _ = copy.advise(Advice::HugePage);
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
        let parts = copy[..length].chunks_mut(COPIED_AT_ONCE).enumerate();
        let parts = Mutex::new(parts);
        let next = || parts.lock().unwrap_or_else(PoisonError::into_inner).next();
        let read = || -> std::io::Result<()> {
            while let Some((index, to)) = next() {
                self.file.read_exact_at(to, (index * COPIED_AT_ONCE) as u64)?;
            }
            Ok(())
        };
        let is_read = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..threads).map(|_| scope.spawn(read)).collect();
            readers.into_iter().all(|reader| matches!(reader.join(), Ok(Ok(()))))
        });
        if !is_read {
            return None;
        }
        COPIED.fetch_add(length as u64, Ordering::Relaxed);
        Some(copy)
    }
}

/// Memory that could be had now, in bytes.
#[cfg(target_os = "linux")]
fn available() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    // In a container the limit of its group is what counts.
    let free = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    system.available_memory().min(free)
}

impl Drop for WeightFile {
    fn drop(&mut self) {
        MAPPED.fetch_sub(self.map.len() as u64, Ordering::Relaxed);
        if let Some(Some(_)) = self.resident.get() {
            COPIED.fetch_sub(self.map.len() as u64, Ordering::Relaxed);
        }
    }
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
