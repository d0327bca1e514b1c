//! A file of weights, mapped.

use std::fs::File;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memmap2::{Advice, Mmap};

use super::memory;
use super::relocation::Relocation;

/// Files below this size fit the caches, or nearly: in what pages they lie makes no difference.
const SMALLEST_MOVED: usize = 32 << 20;

/// If all files together are no larger, they are moved at once: two cores move a gibibyte in about a third of a second, and every run has the
/// whole speed from the first on.
const LARGEST_MOVED_AT_ONCE: u64 = 1 << 30;

/// How long that may take for a file, where the system is slow to give memory. What is left then is moved while the model runs.
const TIME_AT_ONCE: Duration = Duration::from_millis(300);

/// Bytes of all files that are mapped.
static MAPPED: AtomicU64 = AtomicU64::new(0);

/// A mapped file. It is read where it is mapped, whatever pages are there.
#[derive(Debug)]
pub(crate) struct WeightFile {
    file: File,
    map: Mmap,
    relocation: OnceLock<Option<Relocation>>,
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
        Ok(WeightFile { file, map, relocation: OnceLock::new() })
    }

    /// The contents. Their address stays the same.
    pub fn bytes(&self) -> &[u8] {
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

    /// Brings the file into memory, for kernels of the host that stream through it at every step, if all files that are mapped fit there: so the first step
    /// does not fault their pages in one by one. Else only what is touched comes into memory.
    ///
    /// Large files are to be moved into huge pages then, by calls of [`WeightFile::relocate`], if that leaves a quarter of the memory available. Where all files
    /// are not so large, that is done here. Only the first call does anything.
    pub fn settle(&self) {
        let total = MAPPED.load(Ordering::Relaxed);
        self.settle_within(if total <= LARGEST_MOVED_AT_ONCE { TIME_AT_ONCE } else { Duration::ZERO });
    }

    /// The same, with a time that may be spent on moving.
    pub(crate) fn settle_within(&self, time: Duration) {
        self.relocation.get_or_init(|| {
            let available = memory::available();
            if MAPPED.load(Ordering::Relaxed) > available {
                return None;
            }
            let is_moved = self.map.len() >= SMALLEST_MOVED;
            let relocation = if is_moved { Relocation::plan(&self.map, available) } else { None };
            if let Some(relocation) = relocation.as_ref().filter(|_| !time.is_zero()) {
                let until = Instant::now() + time;
                let work = || while Instant::now() < until && self.advance(relocation, until) {};
                let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
                std::thread::scope(|scope| {
                    for _ in 1..threads {
                        // Fewer do it too.
                        let _ = std::thread::Builder::new().spawn_scoped(scope, work);
                    }
                    work();
                });
            }
            // Only wishes: without them the pages come as they are touched, and small. What is not cached yet is then read into huge pages.
            let _ = self.map.advise(Advice::HugePage);
            let _ = self.map.advise(Advice::PopulateRead);
            relocation
        });
    }

    /// Whether [`WeightFile::relocate`] has something to do, now or once other threads are done.
    pub fn is_relocating(&self) -> bool {
        self.relocation.get().and_then(Option::as_ref).is_some_and(|relocation| !relocation.is_finished())
    }

    /// Moves a part of the file into huge pages, or what it can of it until the time has come, but at least a piece. Several threads move
    /// several parts. Returns `false` if there is nothing for this thread to do.
    pub fn relocate(&self, until: Instant) -> bool {
        self.relocation.get().and_then(Option::as_ref).is_some_and(|relocation| self.advance(relocation, until))
    }

    /// Bytes that have been moved.
    #[cfg(test)]
    pub fn moved(&self) -> u64 {
        self.relocation.get().and_then(Option::as_ref).map_or(0, Relocation::moved)
    }

    fn advance(&self, relocation: &Relocation, until: Instant) -> bool {
        // SAFETY: `map` is the mapping of `file` that the relocation was planned for. It is read-only, `WeightFile::map` had the caller's word that nobody
        // changes the file, and `Mmap` unmaps its whole range of addresses.
        unsafe { relocation.advance(&self.file, &self.map, until) }
    }
}

impl Drop for WeightFile {
    fn drop(&mut self) {
        MAPPED.fetch_sub(self.map.len() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::super::pages::{self, tests::bytes_in_huge_pages};
    use super::*;

    const MEBIBYTE: usize = 1 << 20;

    /// What `file_of` writes from some byte on, 8 bytes.
    fn word(offset: usize) -> u64 {
        (offset as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// A file in which every 8 bytes are others; `None` on a system without huge pages.
    pub fn file_of(bytes: usize) -> Option<WeightFile> {
        if !pages::are_given() {
            return None;
        }
        let file = tempfile::tempfile().unwrap();
        let contents: Vec<u8> = (0..bytes).step_by(8).flat_map(|offset| word(offset).to_le_bytes()).collect();
        file.write_all_at(&contents, 0).unwrap();
        // SAFETY: nobody else has the file.
        Some(unsafe { WeightFile::map(file) }.unwrap())
    }

    /// Whether the file shows what was written, in some range.
    pub fn is_whole(bytes: &[u8]) -> bool {
        let (words, rest) = bytes.as_chunks::<8>();
        rest.is_empty() && words.iter().enumerate().all(|(index, found)| u64::from_le_bytes(*found) == word(index * 8))
    }

    #[test]
    fn a_file_is_moved_while_it_is_read() {
        let Some(file) = file_of(100 * MEBIBYTE) else { return };
        let address = file.bytes().as_ptr();
        file.settle_within(Duration::ZERO);
        assert!(file.is_relocating() && file.moved() == 0 && is_whole(file.bytes()));
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut rounds = 0;
                while !is_done.load(Ordering::Relaxed) || rounds == 0 {
                    assert!(is_whole(file.bytes()));
                    rounds += 1;
                }
            });
            // Each call has time for a piece only.
            let movers = [(); 2].map(|()| scope.spawn(|| while file.relocate(Instant::now()) {}));
            movers.into_iter().for_each(|mover| mover.join().unwrap());
            is_done.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
        assert!(!file.is_relocating() && !file.relocate(Instant::now()));
        assert_eq!(file.bytes().as_ptr(), address);
        assert!(is_whole(file.bytes()));
        assert!(file.moved() >= 96 << 20);
        // The system gives huge pages if it finds whole ones; it hardly finds none of fifty.
        assert!(bytes_in_huge_pages(file.bytes()) > 0);
    }

    #[test]
    fn a_file_that_is_not_large_is_moved_at_once() {
        let Some(file) = file_of(40 * MEBIBYTE) else { return };
        file.settle_within(Duration::from_secs(60));
        assert!(!file.is_relocating() && file.moved() >= 36 << 20 && is_whole(file.bytes()));
        // A file that fits the caches stays.
        let Some(file) = file_of(4 * MEBIBYTE) else { return };
        file.settle_within(Duration::from_secs(60));
        assert!(!file.is_relocating() && file.moved() == 0 && is_whole(file.bytes()));
    }

    #[test]
    fn a_file_that_ends_too_early_stays_from_there_on() {
        let Some(file) = file_of(72 * MEBIBYTE) else { return };
        file.settle_within(Duration::ZERO);
        file.file.set_len(50 * MEBIBYTE as u64).unwrap();
        while file.relocate(Instant::now() + Duration::from_secs(60)) {}
        assert!(!file.is_relocating());
        assert_eq!(file.moved(), 32 << 20);
        // It shows the file, which now has other contents there; where it was moved, it does not follow the file any more.
        file.file.set_len(72 * MEBIBYTE as u64).unwrap();
        for (mebibyte, follows) in [(8, false), (36, true), (49, true), (60, true)] {
            file.file.write_all_at(b"changed!", (mebibyte * MEBIBYTE) as u64).unwrap();
            assert_eq!(file.bytes()[mebibyte * MEBIBYTE..].starts_with(b"changed!"), follows, "at {mebibyte} MiB");
        }
    }

    #[test]
    fn a_file_may_go_while_it_is_half_moved() {
        let Some(file) = file_of(72 * MEBIBYTE) else { return };
        file.settle_within(Duration::ZERO);
        let file = Arc::new(file);
        assert!(file.relocate(Instant::now() + Duration::from_secs(60)) && file.relocate(Instant::now()));
        let other = file.clone();
        drop(file);
        assert!(other.is_relocating() && is_whole(other.bytes()));
    }
}
