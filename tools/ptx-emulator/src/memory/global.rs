//! Global memory: what programs allocate, and what kernels may touch.
//!
//! Guest addresses are never reused, so that an access to freed memory is always found out, and allocations lie apart, so that one
//! past the end of a buffer is never the next buffer.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Word, window};

/// Global memory of all devices: they share one address space.
#[derive(Debug)]
pub struct Memory {
    table: Mutex<Table>,
    /// Whether it is followed what has been written.
    followed: bool,
}

#[derive(Debug)]
struct Table {
    next: u64,
    next_constant: u64,
    allocations: Arc<Vec<Allocation>>,
}

/// A stretch of guest addresses and the host memory that holds it.
#[derive(Clone, Debug)]
pub struct Allocation {
    /// Its first guest address.
    pub base: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Which device it is on, or `None` for memory of the host.
    pub device: Option<u32>,
    block: Arc<Block>,
    /// What of it has been written, where that is followed.
    written: Option<Arc<Written>>,
}

/// Which bytes of an allocation anybody has written.
#[derive(Debug)]
pub struct Written {
    /// A bit for each byte.
    bits: Box<[AtomicU64]>,
    /// All of them.
    all: AtomicBool,
}

impl Written {
    fn new(length: u64) -> Written {
        Written { bits: (0..length.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(), all: AtomicBool::new(false) }
    }

    /// The words that hold the bits of a stretch, each with the bits.
    fn words(&self, offset: u64, bytes: u64) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let end = offset + bytes;
        (offset / 64..end.div_ceil(64)).filter_map(move |word| {
            let first = offset.saturating_sub(64 * word);
            let last = (end - 64 * word).min(64);
            Some((self.bits.get(word as usize)?, u64::MAX << first & u64::MAX >> (64 - last)))
        })
    }

    #[inline(always)]
    fn add(&self, offset: u64, bytes: u64, length: u64) {
        if self.all.load(Ordering::Relaxed) {
            return;
        }
        if bytes == length {
            return self.all.store(true, Ordering::Relaxed);
        }
        for (word, bits) in self.words(offset, bytes) {
            if word.load(Ordering::Relaxed) & bits != bits {
                word.fetch_or(bits, Ordering::Relaxed);
            }
        }
    }

    fn holds(&self, offset: u64, bytes: u64) -> bool {
        self.all.load(Ordering::Relaxed)
            || self.words(offset, bytes).all(|(word, bits)| word.load(Ordering::Relaxed) & bits == bits)
    }
}

/// Zeroed host memory, or memory that the program registered and keeps alive.
#[derive(Debug)]
struct Block {
    pointer: NonNull<u8>,
    owned: Option<Layout>,
}

// SAFETY: a block is a pointer to memory that does not belong to a thread; all accesses through it are atomic.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(layout) = self.owned {
            // SAFETY: it was allocated with this layout.
            unsafe { std::alloc::dealloc(self.pointer.as_ptr(), layout) }
        }
    }
}

/// Allocations are aligned to this, as `cuMemAlloc` promises at least 256.
const ALIGNMENT: u64 = 512;

impl Default for Memory {
    fn default() -> Memory {
        Memory {
            table: Mutex::new(Table {
                next: window::GLOBAL,
                next_constant: window::CONSTANT,
                allocations: Arc::default(),
            }),
            followed: false,
        }
    }
}

impl Memory {
    /// Memory that knows what of it has been written, so that the checker finds reads of what has not. That takes a bit for each byte.
    pub fn followed() -> Memory {
        Memory { followed: true, ..Memory::default() }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocates zeroed memory on a device (or, for `None`, of the host, whose guest address is its host address), or `None` where
    /// there is not enough.
    pub fn allocate(&self, length: u64, device: Option<u32>) -> Option<u64> {
        self.place(length, device, |table| &mut table.next)
    }

    /// The same for a constant, which has addresses of its own.
    pub fn allocate_constant(&self, length: u64, device: u32) -> Option<u64> {
        self.place(length, Some(device), |table| &mut table.next_constant)
    }

    /// The same where the table says that there is room next.
    fn place(&self, length: u64, device: Option<u32>, next: fn(&mut Table) -> &mut u64) -> Option<u64> {
        let size = usize::try_from(length.max(1).checked_next_multiple_of(16)?).ok()?;
        let layout = Layout::from_size_align(size, 4096).ok()?;
        // SAFETY: the layout's size is not zero.
        let pointer = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })?;
        let block = Arc::new(Block { pointer, owned: Some(layout) });
        let mut table = self.table();
        let base = if device.is_none() {
            pointer.as_ptr() as u64
        } else {
            let next = next(&mut table);
            let base = *next;
            *next = base.checked_add(length)?.checked_next_multiple_of(ALIGNMENT)?.checked_add(ALIGNMENT)?;
            base
        };
        let written = (self.followed && device.is_some()).then(|| Arc::new(Written::new(length)));
        table.insert(Allocation { base, length, device, block, written });
        Some(base)
    }

    /// Lets kernels use memory of the program's own, at its host address.
    ///
    /// # Safety
    /// The memory is valid for reads and writes until it is [released](Memory::release) and all views from before are gone.
    pub unsafe fn register(&self, pointer: NonNull<u8>, length: u64) {
        let block = Arc::new(Block { pointer, owned: None });
        self.table().insert(Allocation { base: pointer.as_ptr() as u64, length, device: None, block, written: None });
    }

    /// Frees what starts at an address; false where nothing does.
    pub fn release(&self, base: u64) -> bool {
        let mut table = self.table();
        let Ok(at) = table.allocations.binary_search_by_key(&base, |allocation| allocation.base) else { return false };
        Arc::make_mut(&mut table.allocations).remove(at);
        true
    }

    /// What is allocated now. What it holds stays valid, even if it is freed meanwhile.
    pub fn view(&self) -> View {
        View { allocations: self.table().allocations.clone() }
    }

    /// Whether an address is one that devices' allocations have, or had: never one of the program's own memory.
    pub fn issued(&self, address: u64) -> bool {
        (window::GLOBAL..self.table().next).contains(&address)
    }

    /// The bytes allocated on a device.
    pub fn used(&self, device: u32) -> u64 {
        self.table().allocations.iter().filter(|a| a.device == Some(device)).map(|a| a.length).sum()
    }
}

impl Table {
    fn insert(&mut self, allocation: Allocation) {
        let at = self.allocations.partition_point(|other| other.base < allocation.base);
        Arc::make_mut(&mut self.allocations).insert(at, allocation);
    }
}

/// The allocations of a moment.
#[derive(Clone, Debug)]
pub struct View {
    allocations: Arc<Vec<Allocation>>,
}

/// One allocation, held for many accesses.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a> {
    base: u64,
    length: u64,
    pointer: *mut u8,
    written: Option<&'a Written>,
}

impl View {
    /// The allocation that holds an address.
    pub fn allocation(&self, address: u64) -> Option<&Allocation> {
        let after = self.allocations.partition_point(|allocation| allocation.base <= address);
        let allocation = &self.allocations[after.checked_sub(1)?];
        (address - allocation.base < allocation.length).then_some(allocation)
    }

    /// The same, to access it.
    pub fn window(&self, address: u64) -> Option<Window<'_>> {
        let allocation = self.allocation(address)?;
        Some(Window {
            base: allocation.base,
            length: allocation.length,
            pointer: allocation.block.pointer.as_ptr(),
            written: allocation.written.as_deref(),
        })
    }

    /// Whether an allocation has a part of a stretch.
    pub fn overlaps(&self, start: u64, end: u64) -> bool {
        let before_end = self.allocations.partition_point(|allocation| allocation.base < end);
        let last = before_end.checked_sub(1).map(|at| &self.allocations[at]);
        last.is_some_and(|allocation| allocation.base + allocation.length > start)
    }

    /// The first address and the length of each allocation, in order.
    pub fn stretches(&self) -> impl Iterator<Item = (u64, u64)> {
        self.allocations.iter().map(|allocation| (allocation.base, allocation.length))
    }

    /// Takes what an address's allocation holds as written: zeros that a module declares, say.
    pub fn take_as_written(&self, address: u64) {
        if let Some(written) = self.allocation(address).and_then(|allocation| allocation.written.as_deref()) {
            written.all.store(true, Ordering::Relaxed);
        }
    }

    /// Says where an address is that no allocation holds.
    pub fn describe(&self, address: u64) -> String {
        let after = self.allocations.partition_point(|allocation| allocation.base <= address);
        let gap = |distance: u64, allocation: &Allocation, side: &str| {
            format!("{distance} bytes {side} an allocation of {} bytes at 0x{:x}", allocation.length, allocation.base)
        };
        let before = after
            .checked_sub(1)
            .map(|at| &self.allocations[at])
            .map(|a| (address - a.base - a.length.min(address - a.base), a));
        let next = self.allocations.get(after).map(|a| (a.base - address, a));
        match (before, next) {
            (Some((past, a)), next) if past < 1 << 20 && next.is_none_or(|(distance, _)| past <= distance) => {
                gap(past, a, "past the end of")
            }
            (_, Some((distance, a))) if distance < 1 << 20 => gap(distance, a, "before"),
            _ => "nothing near it is allocated".into(),
        }
    }

    /// Copies out of one allocation; `None` where the stretch is not inside of one.
    pub fn copy_out(&self, address: u64, into: &mut [u8]) -> Option<()> {
        if into.is_empty() {
            return Some(());
        }
        self.window(address)?.copy_out(address, into)
    }

    /// Copies from one allocation to another, or within one.
    pub fn copy_across(&self, to: u64, from: u64, bytes: u64) -> Option<()> {
        const STEP: u64 = 1 << 16;
        let (source, target) = (self.window(from)?, self.window(to)?);
        let length = usize::try_from(bytes).ok()?;
        if !source.holds(from, length) || !target.holds(to, length) {
            return None;
        }
        let mut buffer = vec![0; bytes.min(STEP) as usize];
        for at in (0..bytes).step_by(STEP as usize) {
            let part = &mut buffer[..STEP.min(bytes - at) as usize];
            source.copy_out(from + at, part)?;
            target.copy_in(to + at, part)?;
        }
        Some(())
    }

    /// Copies into one allocation.
    pub fn copy_in(&self, address: u64, from: &[u8]) -> Option<()> {
        if from.is_empty() {
            return Some(());
        }
        self.window(address)?.copy_in(address, from)
    }
}

impl Window<'_> {
    /// A window that holds nothing.
    pub const NOTHING: Window<'static> = Window { base: 0, length: 0, pointer: std::ptr::null_mut(), written: None };

    #[inline(always)]
    fn offset(&self, address: u64, bytes: usize) -> Option<usize> {
        let offset = address.wrapping_sub(self.base);
        (offset < self.length && self.length - offset >= bytes as u64).then_some(offset as usize)
    }

    /// Remembers that a stretch has been written.
    #[inline(always)]
    fn wrote(&self, offset: usize, bytes: usize) {
        if let Some(written) = self.written {
            written.add(offset as u64, bytes as u64, self.length);
        }
    }

    /// Whether all of a stretch has been written, or nobody knows.
    #[inline(always)]
    pub fn is_written(&self, address: u64, bytes: usize) -> bool {
        match (self.written, self.offset(address, bytes)) {
            (Some(written), Some(offset)) => written.holds(offset as u64, bytes as u64),
            _ => true,
        }
    }

    /// Whether it holds a stretch.
    #[inline(always)]
    pub fn holds(&self, address: u64, bytes: usize) -> bool {
        self.offset(address, bytes).is_some()
    }

    /// The word at an address, or `None` outside or if misaligned.
    #[inline(always)]
    pub fn read<W: Word>(&self, address: u64) -> Option<W> {
        let offset = self.offset(address, W::BYTES)?;
        if address & (W::BYTES as u64 - 1) != 0 {
            return None;
        }
        // SAFETY: the offset is inside of the block, which the view keeps alive. The block is aligned to 4096 bytes, or, if the
        // program registered it, its guest address is its host address: aligned in the guest is aligned in the host.
        Some(unsafe { W::load(self.pointer.add(offset)) })
    }

    /// Sets the word at an address.
    #[inline(always)]
    pub fn write<W: Word>(&self, address: u64, value: W) -> Option<()> {
        let offset = self.offset(address, W::BYTES)?;
        if address & (W::BYTES as u64 - 1) != 0 {
            return None;
        }
        self.wrote(offset, W::BYTES);
        // SAFETY: as in `read`.
        unsafe { W::store(self.pointer.add(offset), value) };
        Some(())
    }

    /// Replaces the word at an address in one step, and returns the one before.
    #[inline(always)]
    pub fn update<W: Word>(&self, address: u64, change: impl FnMut(W) -> W) -> Option<W> {
        let offset = self.offset(address, W::BYTES)?;
        if address & (W::BYTES as u64 - 1) != 0 {
            return None;
        }
        self.wrote(offset, W::BYTES);
        // SAFETY: as in `read`.
        Some(unsafe { W::update(self.pointer.add(offset), change) })
    }

    /// Copies a stretch out.
    pub fn copy_out(&self, address: u64, into: &mut [u8]) -> Option<()> {
        self.offset(address, into.len())?;
        let head = (address.wrapping_neg() % 8).min(into.len() as u64) as usize;
        let (head, rest) = into.split_at_mut(head);
        for (at, byte) in head.iter_mut().enumerate() {
            *byte = self.read(address + at as u64)?;
        }
        let address = address + head.len() as u64;
        let body = rest.len() / 8 * 8;
        for (at, word) in rest[..body].chunks_exact_mut(8).enumerate() {
            self.read::<u64>(address + 8 * at as u64)?.to_bytes(word);
        }
        for (at, byte) in rest[body..].iter_mut().enumerate() {
            *byte = self.read(address + (body + at) as u64)?;
        }
        Some(())
    }

    /// Copies a stretch in.
    pub fn copy_in(&self, address: u64, from: &[u8]) -> Option<()> {
        let offset = self.offset(address, from.len())?;
        self.wrote(offset, from.len());
        let head = (address.wrapping_neg() % 8).min(from.len() as u64) as usize;
        let (head, rest) = from.split_at(head);
        for (at, byte) in head.iter().enumerate() {
            self.write(address + at as u64, *byte)?;
        }
        let address = address + head.len() as u64;
        let body = rest.len() / 8 * 8;
        for (at, word) in rest[..body].chunks_exact(8).enumerate() {
            self.write(address + 8 * at as u64, u64::from_bytes(word))?;
        }
        for (at, byte) in rest[body..].iter().enumerate() {
            self.write(address + (body + at) as u64, *byte)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_lie_apart_and_are_never_reused() {
        let memory = Memory::default();
        let a = memory.allocate(100, Some(0)).unwrap();
        let b = memory.allocate(100, Some(0)).unwrap();
        assert!(b - a > 100 && a % 256 == 0 && b % 256 == 0);
        assert!(memory.release(b) && !memory.release(b));
        let c = memory.allocate(100, Some(0)).unwrap();
        assert!(c > b);
        let view = memory.view();
        assert!(view.window(b).is_none() && view.window(a + 100).is_none() && view.window(a + 99).is_some());
        assert_eq!(view.describe(a + 102), format!("2 bytes past the end of an allocation of 100 bytes at 0x{a:x}"));
        assert_eq!(memory.used(0), 200);
    }

    #[test]
    fn copies_of_any_alignment() {
        let memory = Memory::default();
        let base = memory.allocate(64, Some(0)).unwrap();
        let view = memory.view();
        let bytes: Vec<u8> = (0..64).collect();
        for start in 0..9 {
            for length in 0..40 {
                view.copy_in(base + start as u64, &bytes[..length]).unwrap();
                let mut back = vec![0; length];
                view.copy_out(base + start as u64, &mut back).unwrap();
                assert_eq!(back, bytes[..length]);
            }
        }
        assert!(view.copy_in(base + 60, &bytes[..5]).is_none());
        assert!(view.window(base).unwrap().read::<u32>(base + 2).is_none());
    }

    #[test]
    fn what_is_freed_stays_for_those_who_look() {
        let memory = Memory::default();
        let base = memory.allocate(8, Some(0)).unwrap();
        let view = memory.view();
        memory.release(base);
        view.copy_in(base, &[1; 8]).unwrap();
        assert_eq!(view.window(base).unwrap().read::<u64>(base), Some(0x0101_0101_0101_0101));
    }
}
