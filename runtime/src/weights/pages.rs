//! Huge pages that take the place of a mapped file's.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags};
use rustix::mm::{madvise, mmap, mmap_anonymous, mprotect, mremap_fixed, munmap};

use crate::host::HUGE_PAGE;

/// Whether the system gives huge pages to those who ask.
pub(super) fn are_given() -> bool {
    // One of the choices is in brackets. Systems without huge pages lack the file.
    let choice = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    choice.is_ok_and(|choice| !choice.contains("[never]"))
}

/// Anonymous memory that starts at a huge page and is whole huge pages, where the system has them.
#[derive(Debug)]
pub(super) struct Block {
    /// A mapping of exactly `bytes` bytes, readable and writable, that nothing else points into.
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the block owns its memory alone, as a `Box<[u8]>` does.
unsafe impl Send for Block {}

impl Block {
    /// Memory of whole huge pages, as many as `bytes` bytes need. It is zero, and taken from the system as it is written.
    pub fn allocate(bytes: usize) -> io::Result<Block> {
        let too_many = || io::Error::from(io::ErrorKind::OutOfMemory);
        let bytes = bytes.max(1).checked_next_multiple_of(HUGE_PAGE).ok_or_else(too_many)?;
        let reserved = bytes.checked_add(HUGE_PAGE).ok_or_else(too_many)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a mapping of its own, at an address of the system's choice.
        let address = unsafe { mmap_anonymous(std::ptr::null_mut(), reserved, access, MapFlags::PRIVATE) }?;
        let before = (address as usize).next_multiple_of(HUGE_PAGE) - address as usize;
        let start = address.wrapping_byte_add(before);
        let after = start.wrapping_byte_add(bytes);
        // SAFETY: both lie inside of the mapping just made, before the block and behind it.
        unsafe {
            if before > 0 {
                munmap(address, before)?;
            }
            munmap(after, HUGE_PAGE - before)?;
        }
        let start = NonNull::new(start.cast()).ok_or_else(too_many)?;
        let block = Block { start, bytes };
        for wish in [Advice::LinuxHugepage, Advice::LinuxDontDump] {
            // Only wishes: small pages serve as well, and a file's contents need not be in a dump of the process.
            // SAFETY: of the block alone, and neither changes its contents.
            let _ = unsafe { madvise(start.as_ptr().cast(), bytes, wish) };
        }
        Ok(block)
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is this long, initialized (to zeros at first), and borrowed as `self` is.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }

    /// Puts the block, made read-only, where a file is mapped. Those who read there meanwhile see the same bytes all the time. If the
    /// system refuses, the file stays mapped there.
    ///
    /// # Safety
    ///
    /// `place` is an address of whole pages, from which on a read-only mapping of `file` goes on for as many bytes as the block has. It shows the file from
    /// byte `offset` on, and the block's bytes are the same. Whoever unmaps the file there unmaps the whole range, whatever is mapped in it.
    pub unsafe fn replace(self, file: &File, offset: u64, place: *const u8) -> io::Result<()> {
        let place = place.cast_mut().cast();
        // SAFETY: the block's own memory, which nobody writes any more: `self` was moved here.
        unsafe { mprotect(self.start.as_ptr().cast(), self.bytes, MprotectFlags::READ) }?;
        // SAFETY: takes the block's own pages away from it. What they replace has the same bytes, and belongs to a mapping whose owner
        // takes over these (the caller's). The system makes others who read there wait until it is done.
        let moved =
            unsafe { mremap_fixed(self.start.as_ptr().cast(), self.bytes, self.bytes, MremapFlags::MAYMOVE, place) };
        let Err(error) = moved else {
            // The memory is the mapping's now.
            std::mem::forget(self);
            return Ok(());
        };
        // The system first unmaps what was there, and can then still run out of memory for its own tables.
        // SAFETY: the caller's.
        if let Err(error) = unsafe { map_again(file, offset, place, self.bytes) } {
            // Weights that are mapped nowhere cannot be read, and nobody who has their address could be told.
            tracing::error!(%error, "the system has unmapped a file of weights and does not map it again");
            std::process::abort();
        }
        Err(error.into())
    }
}

/// Maps a part of a file where it was mapped before.
///
/// # Safety
///
/// As for [`Block::replace`], of `bytes` bytes.
unsafe fn map_again(file: &File, offset: u64, place: *mut c_void, bytes: usize) -> io::Result<()> {
    let flags = MapFlags::SHARED | MapFlags::FIXED;
    // SAFETY: the same pages of the same file where they were mapped before (the caller's).
    unsafe { mmap(place, bytes, ProtFlags::READ, flags, file, offset) }?;
    Ok(())
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the block owns the mapping, and nothing else points into it. If the system fails, the memory stays taken.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::FileExt;

    use memmap2::Mmap;

    use super::*;

    /// How many bytes at some addresses lie in anonymous huge pages, from Linux's account of every mapping.
    pub fn bytes_in_huge_pages(of: &[u8]) -> u64 {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let range = of.as_ptr() as usize..of.as_ptr() as usize + of.len();
        let (mut is_inside, mut kibibytes) = (false, 0);
        for line in smaps.lines() {
            let first = line.split(' ').next().unwrap_or_default();
            if let Some((start, end)) = first.split_once('-') {
                let address = |text| usize::from_str_radix(text, 16).unwrap();
                is_inside = address(start) < range.end && address(end) > range.start;
            } else if let Some(amount) = line.strip_prefix("AnonHugePages:").filter(|_| is_inside) {
                kibibytes += amount.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
            }
        }
        kibibytes * 1024
    }

    #[test]
    fn a_block_starts_at_a_huge_page() {
        for bytes in [1, HUGE_PAGE, HUGE_PAGE + 1] {
            let mut block = Block::allocate(bytes).unwrap();
            assert_eq!(block.as_mut_slice().as_ptr() as usize % HUGE_PAGE, 0);
            assert_eq!(block.as_mut_slice().len(), bytes.next_multiple_of(HUGE_PAGE));
            block.as_mut_slice().fill(7);
            assert!(!are_given() || bytes_in_huge_pages(block.as_mut_slice()) > 0);
        }
        assert!(Block::allocate(usize::MAX).is_err());
    }

    #[test]
    fn a_block_takes_the_place_of_a_file_until_it_is_mapped_again() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 3 * HUGE_PAGE], 0).unwrap();
        // SAFETY: nobody else has the file.
        let map = unsafe { Mmap::map(&file) }.unwrap();
        let mut block = Block::allocate(HUGE_PAGE).unwrap();
        block.as_mut_slice().fill(1);
        // SAFETY: the file's second two million bytes, which are the same; `Mmap` unmaps the whole range.
        unsafe { block.replace(&file, HUGE_PAGE as u64, map[HUGE_PAGE..].as_ptr()) }.unwrap();
        assert!(map.iter().all(|byte| *byte == 1));
        // Only what was not replaced follows the file.
        for (offset, shown) in [(0, 2), (HUGE_PAGE, 1), (2 * HUGE_PAGE - 1, 1), (2 * HUGE_PAGE, 2)] {
            file.write_all_at(&[2], offset as u64).unwrap();
            assert_eq!(map[offset], shown);
        }
        // SAFETY: what `replace` does when the system fails it.
        unsafe { map_again(&file, HUGE_PAGE as u64, map[HUGE_PAGE..].as_ptr().cast_mut().cast(), HUGE_PAGE) }.unwrap();
        assert_eq!([map[0], map[HUGE_PAGE], map[2 * HUGE_PAGE - 1], map[2 * HUGE_PAGE]], [2; 4]);
    }
}
