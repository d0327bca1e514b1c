//! Memory that one host thread owns: a CTA's shared memory, a warp's local memory.

use super::Word;

/// Bytes, as long as they were asked to be.
#[derive(Debug, Default)]
pub struct Bytes {
    bytes: Vec<u8>,
}

impl Bytes {
    /// Makes it this long, and zero.
    pub fn reset(&mut self, length: usize) {
        self.bytes.clear();
        self.bytes.resize(length, 0);
    }

    /// How long it is.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The word at an offset, or `None` outside.
    #[inline(always)]
    pub fn read<W: Word>(&self, offset: usize) -> Option<W> {
        let end = offset.checked_add(W::BYTES)?;
        self.bytes.get(offset..end).map(W::from_bytes)
    }

    /// Sets the word at an offset; `None` outside.
    #[inline(always)]
    pub fn write<W: Word>(&mut self, offset: usize, value: W) -> Option<()> {
        let end = offset.checked_add(W::BYTES)?;
        value.to_bytes(self.bytes.get_mut(offset..end)?);
        Some(())
    }

    /// A stretch of it, or `None` where it goes outside.
    #[inline(always)]
    pub fn slice(&self, offset: usize, length: usize) -> Option<&[u8]> {
        self.bytes.get(offset..offset.checked_add(length)?)
    }

    /// A stretch of it to write, or `None` where it goes outside.
    #[inline(always)]
    pub fn slice_mut(&mut self, offset: usize, length: usize) -> Option<&mut [u8]> {
        self.bytes.get_mut(offset..offset.checked_add(length)?)
    }
}
