//! Tensors at the very end of mapped memory: a kernel that so much as reads beyond one is stopped by the processor.

use std::{ffi::c_void, ptr, slice};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// At least a page on every machine that the host target compiles for.
const PAGE: usize = 64 << 10;
/// What the bytes before the tensor hold.
const FILL: u8 = 0x7f;

/// Memory that ends with the tensor, between pages that cannot be touched.
pub(super) struct Guarded {
    base: *mut c_void,
    mapped: usize,
    bytes: usize,
}

impl Guarded {
    pub(super) fn new(content: &[u8]) -> Self {
        let mapped = content.len().next_multiple_of(PAGE) + 2 * PAGE;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, of which the first and last page are closed before anything knows of them.
        let base = unsafe {
            let base = mmap_anonymous(ptr::null_mut(), mapped, access, MapFlags::PRIVATE).unwrap();
            mprotect(base, PAGE, MprotectFlags::empty()).unwrap();
            mprotect(base.byte_add(mapped - PAGE), PAGE, MprotectFlags::empty()).unwrap();
            base
        };
        let memory = Self { base, mapped, bytes: content.len() };
        // SAFETY: everything between the two closed pages is mapped, and nothing else refers to it.
        unsafe {
            ptr::write_bytes(base.byte_add(PAGE).cast::<u8>(), FILL, mapped - 2 * PAGE - content.len());
            ptr::copy_nonoverlapping(content.as_ptr(), memory.address(), content.len());
        }
        memory
    }

    /// Where the tensor starts.
    pub(super) fn address(&self) -> *mut u8 {
        self.base.cast::<u8>().wrapping_add(self.mapped - PAGE - self.bytes)
    }

    /// The tensor, when no kernel runs.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: mapped and written by `new`.
        unsafe { slice::from_raw_parts(self.address(), self.bytes) }
    }

    /// Whether nothing wrote before the tensor.
    pub(super) fn is_intact_before(&self) -> bool {
        // SAFETY: mapped and written by `new`.
        let before =
            unsafe { slice::from_raw_parts(self.base.cast::<u8>().add(PAGE), self.mapped - 2 * PAGE - self.bytes) };
        before.iter().all(|&byte| byte == FILL)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; what borrowed it is gone. A failure leaves it mapped, which harms nothing.
        let _ = unsafe { munmap(self.base, self.mapped) };
    }
}
