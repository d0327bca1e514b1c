//! The free pages of a KV cache.

/// Hands out the pages of a KV cache by number.
#[derive(Debug)]
pub struct PagePool {
    free: Vec<u32>,
}

impl PagePool {
    /// All of `pages` pages, free.
    pub fn new(pages: usize) -> Self {
        // Taken from the end, so that the first sequences get the first pages.
        Self { free: (0..pages as u32).rev().collect() }
    }

    /// How many pages are free.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Takes `count` pages, or none if there are not so many.
    pub fn take(&mut self, count: usize) -> Option<Vec<u32>> {
        let rest = self.free.len().checked_sub(count)?;
        let mut pages = self.free.split_off(rest);
        pages.reverse();
        Some(pages)
    }

    /// Takes pages back.
    pub fn give_back(&mut self, pages: Vec<u32>) {
        self.free.extend(pages.into_iter().rev());
    }
}
