//! Moving a mapped file into huge pages, in place and part by part.
//!
//! From huge pages of anonymous memory a processor streams weights up to twice as fast as from a file's cached pages, which lie in memory as the
//! system chose. But getting such pages and copying into them takes seconds for a large file, which nobody should wait for at the start. So
//! the file is used where it is mapped from the start, and moved while it is used: a block of huge pages is filled from the file and then takes the
//! place of the file's pages at the same addresses (`mremap`). Those who read there at any time see the same bytes.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::memory::Promise;
use super::pages::{self, Block};
use crate::host::HUGE_PAGE;

/// What takes its place in the mapping at a time. Each part costs a mapping, of which a process has some 65 thousand, and the parts
/// that are being filled are in memory twice, one for each thread.
const PART: usize = 32 << 20;

/// What a thread copies between two looks at the clock, some 0.5 ms.
const PIECE: usize = HUGE_PAGE;

/// How far a file has been moved. Threads work on it side by side, each at parts of its own.
#[derive(Debug)]
pub(super) struct Relocation {
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    promise: Promise,
    /// The bytes of the file that no part was begun for.
    rest: Range<usize>,
    /// Parts that wait for a thread to go on with them.
    begun: Vec<Part>,
    /// How many parts threads have in hand.
    in_hand: usize,
    /// Whether the system has failed it, and no part may be begun or gone on with.
    is_stopped: bool,
}

impl Progress {
    /// Leaves the rest where it is, and gives back the memory of parts that were begun.
    fn stop(&mut self, problem: impl std::fmt::Display) {
        tracing::debug!(%problem, "weights stay where their file is mapped");
        self.rest.start = self.rest.end;
        self.begun.clear();
        self.is_stopped = true;
    }
}

/// A block that gets the contents of a part of the file.
#[derive(Debug)]
struct Part {
    block: Block,
    /// Where the part starts in the file.
    offset: usize,
    /// How many of its bytes have been read.
    filled: usize,
}

impl Part {
    /// Reads the next piece of the file.
    fn fill(&mut self, file: &File) -> std::io::Result<()> {
        let rest = &mut self.block.as_mut_slice()[self.filled..];
        let count = rest.len().min(PIECE);
        // A file that has become shorter is an error here, and what is left of it stays mapped.
        file.read_exact_at(&mut rest[..count], (self.offset + self.filled) as u64)?;
        self.filled += count;
        Ok(())
    }

    fn bytes(&mut self) -> usize {
        self.block.as_mut_slice().len()
    }
}

impl Relocation {
    /// Plans to move the file mapped there, where `available` bytes of memory could be had. `None` where the system has no huge pages,
    /// or memory does not suffice.
    pub fn plan(map: &[u8], available: u64) -> Option<Relocation> {
        // The incomplete pages at both ends stay.
        let address = map.as_ptr() as usize;
        let start = address.next_multiple_of(HUGE_PAGE) - address;
        let end = (address + map.len()) / HUGE_PAGE * HUGE_PAGE;
        let rest = start..end.saturating_sub(address);
        if rest.is_empty() || !pages::are_given() {
            return None;
        }
        let promise = Promise::of(rest.len() as u64, available)?;
        Some(Relocation {
            progress: Mutex::new(Progress { promise, rest, begun: Vec::new(), in_hand: 0, is_stopped: false }),
        })
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing is left to do.
    pub fn is_finished(&self) -> bool {
        let progress = self.progress();
        progress.rest.is_empty() && progress.begun.is_empty() && progress.in_hand == 0
    }

    /// Bytes that have been moved.
    #[cfg(test)]
    pub fn moved(&self) -> u64 {
        self.progress().promise.taken()
    }

    /// Moves what it can until the time has come, at least a piece. Returns `false` if there is nothing for this thread to do, now or
    /// at all.
    ///
    /// # Safety
    ///
    /// `map` is the mapping the relocation was planned for, of the whole of `file`, read-only. Nobody changes the file. Whoever unmaps it unmaps the
    /// whole range, whatever is mapped in it.
    pub unsafe fn advance(&self, file: &File, map: &[u8], until: Instant) -> bool {
        let Some(mut part) = self.take() else { return false };
        while part.filled < part.bytes() {
            if let Err(error) = part.fill(file) {
                self.fail(error);
                return true;
            }
            if Instant::now() >= until && part.filled < part.bytes() {
                self.put_back(part);
                return true;
            }
        }
        let (bytes, offset) = (part.bytes(), part.offset);
        // SAFETY: the part lies inside of the mapping (`rest`), starts at a huge page of it, and holds the file's bytes from there on. The rest is
        // the caller's.
        match unsafe { part.block.replace(file, offset as u64, map[offset..].as_ptr()) } {
            Ok(()) => {
                let mut progress = self.progress();
                progress.promise.take(bytes);
                progress.in_hand -= 1;
            }
            Err(error) => self.fail(error),
        }
        true
    }

    /// A part to go on with, or a new one.
    fn take(&self) -> Option<Part> {
        let mut progress = self.progress();
        let part = match progress.begun.pop() {
            Some(part) => part,
            None if progress.rest.is_empty() => return None,
            None => {
                let bytes = progress.rest.len().min(PART);
                if !progress.promise.holds(bytes) {
                    progress.stop("others have taken the memory");
                    return None;
                }
                let offset = progress.rest.start;
                let block = match Block::allocate(bytes) {
                    Ok(block) => block,
                    Err(error) => {
                        progress.stop(error);
                        return None;
                    }
                };
                progress.rest.start += bytes;
                Part { block, offset, filled: 0 }
            }
        };
        progress.in_hand += 1;
        Some(part)
    }

    fn put_back(&self, part: Part) {
        let mut progress = self.progress();
        progress.in_hand -= 1;
        if !progress.is_stopped {
            progress.begun.push(part);
        }
    }

    /// Leaves the rest where it is, the part in hand too.
    fn fail(&self, error: std::io::Error) {
        let mut progress = self.progress();
        progress.in_hand -= 1;
        progress.stop(error);
    }
}
