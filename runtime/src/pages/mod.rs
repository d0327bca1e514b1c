//! Which pages of key-value caches belong to which sequence.
//!
//! A serving step writes token `t` of a sequence to place `t mod page_size` of the page that the sequence's row of a cache's page
//! table has at `t / page_size`. [`Pages`] hands pages out as sequences grow, takes them back, and lets sequences share the pages of a
//! common beginning.
//!
//! A model has a cache for each kind of attention among its layers. The cache of layers that see a window of keys only is bounded: as a
//! sequence grows, it gives up the pages that lie wholly behind the window of the tokens to come.

mod pool;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use pool::Pool;
use pool::{Growth, Held, PagePool};

use crate::execute::KvCache;

/// Hands out the pages of a model's caches.
#[derive(Clone, Debug)]
pub struct Pages {
    page_size: u32,
    pools: Vec<PagePool>,
    sequences: Vec<Option<Sequence>>,
}

/// A sequence of a [`Pages`]. After [`Pages::close`], the number may come to mean a new sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u32);

#[derive(Clone, Debug, Default)]
struct Sequence {
    /// In each pool.
    held: Vec<Held>,
    tokens: u32,
}

/// A page table of a serving step: a row of pages for each sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageTable {
    /// Row-major. -1 where a sequence has no page: beyond its end, and behind the window of its next tokens. No token reads it.
    pub entries: Vec<i32>,
    /// Sequences, and pages of the longest of them.
    pub shape: [u64; 2],
}

/// Why a sequence cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PagesError {
    /// A cache is full.
    #[error(
        "KV cache {cache} is full: {needed} pages are needed and {free} are free; close a sequence, or make a cache of more pages"
    )]
    Full {
        /// Which of the caches, counted from 0.
        cache: usize,
        /// Pages that are needed.
        needed: u32,
        /// Pages there are.
        free: u32,
    },
    /// No open sequence has that number.
    #[error("there is no open sequence {0}")]
    NoSequence(u32),
    /// There are fewer caches.
    #[error("there is no KV cache {cache}; there are {caches}")]
    NoCache {
        /// The cache asked for, counted from 0.
        cache: usize,
        /// How many there are.
        caches: usize,
    },
    /// A sequence has fewer tokens than are to be shared or kept.
    #[error("a sequence of {tokens} tokens has no first {wanted}")]
    TooShort {
        /// Tokens to be shared, or to be kept.
        wanted: u32,
        /// Tokens it has.
        tokens: u32,
    },
    /// Positions are 32-bit numbers.
    #[error("a sequence of more than {} tokens", i32::MAX)]
    TooLong,
    /// Caches of one model have pages of one size.
    #[error("the caches have pages of {0} and of {1} tokens; sequences need pages of one size")]
    PageSizes(u64, u64),
}

impl Pages {
    /// All pages of one cache of `pages` pages of `page_size` tokens, free.
    pub fn new(pages: u32, page_size: u32) -> Pages {
        Pages::of_pools(&[Pool { pages, window: None }], page_size)
    }

    /// All pages of some caches, free.
    pub fn of_pools(pools: &[Pool], page_size: u32) -> Pages {
        let page_size = page_size.max(1);
        let pools = pools.iter().map(|pool| PagePool::new(*pool, page_size)).collect();
        Pages { page_size, pools, sequences: Vec::new() }
    }

    /// All pages of a model's caches, free. Page numbers are 32-bit, so of a cache with more pages only so many are used.
    pub fn of(caches: &[&KvCache]) -> Result<Pages, PagesError> {
        let number = |count: u64| count.min(i32::MAX as u64) as u32;
        let size = caches.first().map_or(1, |cache| cache.page_size());
        if let Some(other) = caches.iter().find(|cache| cache.page_size() != size) {
            return Err(PagesError::PageSizes(size, other.page_size()));
        }
        let pool = |cache: &&KvCache| Pool { pages: number(cache.pages()), window: cache.window().map(number) };
        Ok(Pages::of_pools(&caches.iter().map(pool).collect::<Vec<_>>(), number(size)))
    }

    /// Whether a cache keeps a window only.
    pub fn is_bounded(&self) -> bool {
        self.pools.iter().any(PagePool::is_bounded)
    }

    /// Whether so many pages of every cache are free.
    pub fn has_free(&self, pages: u32) -> bool {
        self.pools.iter().all(|pool| pool.free_pages() >= pages)
    }

    /// How many pages of a cache are free; none of one that does not exist.
    pub fn free_pages(&self, cache: usize) -> u32 {
        self.pools.get(cache).map_or(0, PagePool::free_pages)
    }

    /// Starts an empty sequence.
    pub fn open(&mut self) -> SequenceId {
        let held = vec![Held::default(); self.pools.len()];
        self.insert(Sequence { held, tokens: 0 })
    }

    fn insert(&mut self, sequence: Sequence) -> SequenceId {
        let vacant = self.sequences.iter().position(Option::is_none);
        let index = vacant.unwrap_or_else(|| {
            self.sequences.push(None);
            self.sequences.len() - 1
        });
        self.sequences[index] = Some(sequence);
        SequenceId(index as u32)
    }

    fn sequence(&self, id: SequenceId) -> Result<&Sequence, PagesError> {
        self.sequences.get(id.0 as usize).and_then(Option::as_ref).ok_or(PagesError::NoSequence(id.0))
    }

    /// The pools, and what a sequence has in each.
    fn held_mut(&mut self, id: SequenceId) -> impl Iterator<Item = (&mut PagePool, &mut Held)> {
        let sequence = self.sequences.get_mut(id.0 as usize).and_then(Option::as_mut);
        let held = sequence.into_iter().flat_map(|sequence| &mut sequence.held);
        self.pools.iter_mut().zip(held)
    }

    /// How many tokens a sequence has.
    pub fn tokens(&self, id: SequenceId) -> Result<u32, PagesError> {
        Ok(self.sequence(id)?.tokens)
    }

    /// The number of tokens after `more` tokens more.
    fn end(begin: u32, more: usize) -> Result<u32, PagesError> {
        let more = u32::try_from(more).map_err(|_| PagesError::TooLong)?;
        begin.checked_add(more).filter(|end| *end <= i32::MAX as u32).ok_or(PagesError::TooLong)
    }

    /// Makes room for `tokens` more tokens of a sequence, which one step feeds, and returns their positions. What lies behind the window of the first of
    /// them is given up. Without enough free pages nothing changes.
    pub fn append(&mut self, id: SequenceId, tokens: usize) -> Result<Range<i32>, PagesError> {
        let sequence = self.sequence(id)?;
        let begin = sequence.tokens;
        let end = Self::end(begin, tokens)?;
        let growths = self.pools.iter().zip(&sequence.held).map(|(pool, held)| pool.growth(held, begin, end));
        let growths: Vec<Growth> = growths.collect();
        for (cache, growth) in growths.iter().enumerate() {
            if let Some((needed, free)) = growth.lack() {
                return Err(PagesError::Full { cache, needed, free });
            }
        }
        for ((pool, held), growth) in self.held_mut(id).zip(growths) {
            pool.grow(held, growth);
        }
        if let Some(Some(sequence)) = self.sequences.get_mut(id.0 as usize) {
            sequence.tokens = end;
        }
        Ok(begin as i32..end as i32)
    }

    /// How many tokens can be appended to a sequence now.
    pub fn room(&self, id: SequenceId) -> Result<usize, PagesError> {
        let sequence = self.sequence(id)?;
        let rooms = self.pools.iter().zip(&sequence.held).map(|(pool, held)| pool.room(held, sequence.tokens));
        Ok(rooms.min().unwrap_or(0) as usize)
    }

    /// Sets pages aside for `tokens` more tokens of a sequence: all of them, or of a bounded cache so many that the sequence can be fed
    /// token by token. Without enough free pages nothing changes.
    pub fn reserve(&mut self, id: SequenceId, tokens: usize) -> Result<(), PagesError> {
        let sequence = self.sequence(id)?;
        let end = Self::end(sequence.tokens, tokens)?;
        let missing = self.pools.iter().zip(&sequence.held).map(|(pool, held)| pool.missing(held, end));
        let missing: Vec<u32> = missing.collect();
        for (cache, (pool, needed)) in self.pools.iter().zip(&missing).enumerate() {
            if *needed > pool.free_pages() {
                return Err(PagesError::Full { cache, needed: *needed, free: pool.free_pages() });
            }
        }
        for ((pool, held), pages) in self.held_mut(id).zip(missing) {
            pool.take(held, pages);
        }
        Ok(())
    }

    /// How many tokens [`Pages::share`] would share.
    pub fn shareable(&self, id: SequenceId, tokens: u32) -> Result<u32, PagesError> {
        let sequence = self.sequence(id)?;
        if tokens > sequence.tokens {
            return Err(PagesError::TooShort { wanted: tokens, tokens: sequence.tokens });
        }
        // A shorter beginning would need older pages, which are gone before the younger ones are.
        let tokens = tokens / self.page_size * self.page_size;
        let is_there = |(pool, held): (&PagePool, &Held)| pool.first_kept(tokens) >= held.first;
        let shares = self.pools.iter().zip(&sequence.held).all(is_there);
        Ok(if shares { tokens } else { 0 })
    }

    /// Starts a sequence that shares the beginning of another: the pages that are full within its first `tokens` tokens. What is
    /// left of those tokens, less than a page, has to be computed again: [`Pages::tokens`] says from where. Shared pages are only
    /// read.
    ///
    /// Where the window before that place has been given up, nothing is shared: the new sequence has no tokens.
    pub fn share(&mut self, id: SequenceId, tokens: u32) -> Result<SequenceId, PagesError> {
        let tokens = self.shareable(id, tokens)?;
        let held = self.pools.iter().zip(&self.sequence(id)?.held);
        let held: Vec<Held> = held.map(|(pool, held)| pool.beginning(held, tokens)).collect();
        for (pool, held) in self.pools.iter_mut().zip(&held) {
            pool.share(held);
        }
        Ok(self.insert(Sequence { held, tokens }))
    }

    /// Takes a sequence back to its first `tokens` tokens, to go on differently from there, and returns how many of them stay: what
    /// is left of a page that another sequence shares has to be computed again, in a page of its own; and where the window before
    /// that place has been given up, all of them.
    pub fn rewind(&mut self, id: SequenceId, tokens: u32) -> Result<u32, PagesError> {
        let sequence = self.sequence(id)?;
        if tokens > sequence.tokens {
            return Err(PagesError::TooShort { wanted: tokens, tokens: sequence.tokens });
        }
        let full = tokens / self.page_size;
        let mut held = self.pools.iter().zip(&sequence.held);
        let last_is_shared =
            |(pool, held): (&PagePool, &Held)| held.page(full).is_some_and(|page| pool.is_shared(page));
        let is_there = |(pool, held): (&PagePool, &Held)| pool.first_kept(tokens) >= held.first;
        let tokens = if !held.clone().all(is_there) {
            0
        } else if held.any(last_is_shared) {
            full * self.page_size
        } else {
            tokens
        };
        for (pool, held) in self.held_mut(id) {
            pool.truncate(held, tokens);
        }
        if let Some(Some(sequence)) = self.sequences.get_mut(id.0 as usize) {
            sequence.tokens = tokens;
        }
        Ok(tokens)
    }

    /// Ends a sequence. Pages that no other sequence shares are free again.
    pub fn close(&mut self, id: SequenceId) -> Result<(), PagesError> {
        let slot = self.sequences.get_mut(id.0 as usize).ok_or(PagesError::NoSequence(id.0))?;
        let sequence = slot.take().ok_or(PagesError::NoSequence(id.0))?;
        for (pool, held) in self.pools.iter_mut().zip(sequence.held) {
            pool.give_back(held.pages);
        }
        Ok(())
    }

    /// The page table of some sequences in a cache, a row for each. The tables of all caches have one shape.
    pub fn table(&self, cache: usize, sequences: &[SequenceId]) -> Result<PageTable, PagesError> {
        let caches = self.pools.len();
        if cache >= caches {
            return Err(PagesError::NoCache { cache, caches });
        }
        let rows = sequences.iter().map(|id| self.sequence(*id)).collect::<Result<Vec<_>, PagesError>>()?;
        let stretches = |row: &Sequence| row.tokens.div_ceil(self.page_size);
        let columns = rows.iter().map(|row| stretches(row)).max().unwrap_or(0);
        let mut entries = Vec::with_capacity(rows.len() * columns as usize);
        for row in &rows {
            let page = |stretch: u32| row.held[cache].page(stretch).filter(|_| stretch < stretches(row));
            entries.extend((0..columns).map(|stretch| page(stretch).map_or(-1, |page| page as i32)));
        }
        Ok(PageTable { entries, shape: [rows.len() as u64, columns.into()] })
    }

    /// The page tables of some sequences, one for each cache.
    pub fn tables(&self, sequences: &[SequenceId]) -> Result<Vec<PageTable>, PagesError> {
        (0..self.pools.len()).map(|cache| self.table(cache, sequences)).collect()
    }
}
