//! The units of memory accesses.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// A unit that memory is read and written in.
pub trait Word: Copy + Default + PartialEq + std::fmt::LowerHex {
    /// Its size.
    const BYTES: usize;

    /// From memory, little-endian; `bytes` is at least that long.
    fn from_bytes(bytes: &[u8]) -> Self;

    /// Into memory, little-endian.
    fn to_bytes(self, bytes: &mut [u8]);

    /// Reads what other threads may be writing.
    ///
    /// # Safety
    /// `pointer` is aligned to the word's size (8 bytes for larger ones), and valid for atomic reads.
    unsafe fn load(pointer: *mut u8) -> Self;

    /// Writes what other threads may be reading or writing.
    ///
    /// # Safety
    /// As [`Word::load`], for writes.
    unsafe fn store(pointer: *mut u8, value: Self);

    /// Replaces a value by what a function makes of it, as one step, and returns the value before.
    ///
    /// # Safety
    /// As [`Word::load`], for writes.
    unsafe fn update(pointer: *mut u8, change: impl FnMut(Self) -> Self) -> Self;
}

macro_rules! word {
    ($($type:ty, $atomic:ty;)*) => {$(
        impl Word for $type {
            const BYTES: usize = size_of::<$type>();

            #[inline(always)]
            fn from_bytes(bytes: &[u8]) -> $type {
                bytes.first_chunk().map_or(0, |bytes| <$type>::from_le_bytes(*bytes))
            }

            #[inline(always)]
            fn to_bytes(self, bytes: &mut [u8]) {
                bytes[..Self::BYTES].copy_from_slice(&self.to_le_bytes());
            }

            #[inline(always)]
            unsafe fn load(pointer: *mut u8) -> $type {
                // SAFETY: the caller's.
                unsafe { <$atomic>::from_ptr(pointer.cast()) }.load(Ordering::Acquire)
            }

            #[inline(always)]
            unsafe fn store(pointer: *mut u8, value: $type) {
                // SAFETY: the caller's.
                unsafe { <$atomic>::from_ptr(pointer.cast()) }.store(value, Ordering::Release);
            }

            #[inline(always)]
            unsafe fn update(pointer: *mut u8, mut change: impl FnMut($type) -> $type) -> $type {
                // SAFETY: the caller's.
                let cell = unsafe { <$atomic>::from_ptr(pointer.cast()) };
                let mut before = cell.load(Ordering::SeqCst);
                loop {
                    match cell.compare_exchange_weak(before, change(before), Ordering::SeqCst, Ordering::SeqCst) {
                        Ok(before) => return before,
                        Err(now) => before = now,
                    }
                }
            }
        }
    )*};
}

word! { u8, AtomicU8; u16, AtomicU16; u32, AtomicU32; u64, AtomicU64; }

/// Two words of 64 bits: no access of that size is one step, except an update, which is one among updates.
impl Word for u128 {
    const BYTES: usize = 16;

    #[inline(always)]
    fn from_bytes(bytes: &[u8]) -> u128 {
        bytes.first_chunk().map_or(0, |bytes| u128::from_le_bytes(*bytes))
    }

    #[inline(always)]
    fn to_bytes(self, bytes: &mut [u8]) {
        bytes[..16].copy_from_slice(&self.to_le_bytes());
    }

    #[inline(always)]
    unsafe fn load(pointer: *mut u8) -> u128 {
        // SAFETY: the caller's; both halves are inside of the 16 bytes.
        unsafe { u128::from(u64::load(pointer)) | u128::from(u64::load(pointer.add(8))) << 64 }
    }

    #[inline(always)]
    unsafe fn store(pointer: *mut u8, value: u128) {
        // SAFETY: the caller's; both halves are inside of the 16 bytes.
        unsafe {
            u64::store(pointer, value as u64);
            u64::store(pointer.add(8), (value >> 64) as u64);
        }
    }

    unsafe fn update(pointer: *mut u8, mut change: impl FnMut(u128) -> u128) -> u128 {
        static UPDATES: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _turn = UPDATES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // SAFETY: the caller's.
        unsafe {
            let before = u128::load(pointer);
            u128::store(pointer, change(before));
            before
        }
    }
}
