//! Which page of a key-value cache belongs to which sequence.
//!
//! A serving step writes token `t` of a sequence to place `t mod page_size` of the page that the sequence's row of the page table
//! has at `t / page_size`. [`Pages`] hands pages out as sequences grow, takes them back, and lets sequences share the pages of a
//! common beginning.

use std::ops::Range;

use crate::execute::KvCache;

/// Hands out the pages of a cache.
#[derive(Clone, Debug)]
pub struct Pages {
    page_size: u32,
    /// How many sequences use each page.
    users: Vec<u32>,
    free: Vec<u32>,
    sequences: Vec<Option<Sequence>>,
}

/// A sequence of a [`Pages`]. After [`Pages::close`], the number may come to mean a new sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u32);

#[derive(Clone, Debug, Default)]
struct Sequence {
    pages: Vec<u32>,
    tokens: u32,
}

/// The input `page_table` of a serving step: a row of pages for each sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageTable {
    /// Row-major. Rows of fewer pages are filled up with page 0, which no token of theirs reads.
    pub entries: Vec<i32>,
    /// Sequences, and pages of the longest of them.
    pub shape: [u64; 2],
}

/// Why a sequence cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PagesError {
    /// The cache is full.
    #[error(
        "the KV cache is full: {needed} pages are needed and {free} are free; close a sequence, or make a cache of more pages"
    )]
    Full {
        /// Pages that are needed.
        needed: u32,
        /// Pages there are.
        free: u32,
    },
    /// No open sequence has that number.
    #[error("there is no open sequence {0}")]
    NoSequence(u32),
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
}

impl Pages {
    /// All pages of a cache of `pages` pages of `page_size` tokens, free.
    pub fn new(pages: u32, page_size: u32) -> Pages {
        // Handed out from the end of the list, the first page first.
        let free = (0..pages).rev().collect();
        Pages { page_size: page_size.max(1), users: vec![0; pages as usize], free, sequences: Vec::new() }
    }

    /// All pages of a cache, free. Page numbers are 32-bit, so of a cache with more pages only so many are used.
    pub fn of(cache: &KvCache) -> Pages {
        let most = u64::from(i32::MAX as u32);
        Pages::new(cache.pages().min(most) as u32, cache.page_size().min(most) as u32)
    }

    /// How many pages are free.
    pub fn free_pages(&self) -> u32 {
        self.free.len() as u32
    }

    /// Starts an empty sequence.
    pub fn open(&mut self) -> SequenceId {
        self.insert(Sequence::default())
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

    /// How many tokens a sequence has.
    pub fn tokens(&self, id: SequenceId) -> Result<u32, PagesError> {
        Ok(self.sequence(id)?.tokens)
    }

    /// Makes room for `tokens` more tokens of a sequence, and returns their positions. Without enough free pages nothing changes.
    pub fn append(&mut self, id: SequenceId, tokens: usize) -> Result<Range<i32>, PagesError> {
        let sequence = self.sequence(id)?;
        let begin = sequence.tokens;
        let added = u32::try_from(tokens).map_err(|_| PagesError::TooLong)?;
        let end = begin.checked_add(added).filter(|end| *end <= i32::MAX as u32).ok_or(PagesError::TooLong)?;
        let needed = end.div_ceil(self.page_size) - sequence.pages.len() as u32;
        let free = self.free_pages();
        let Some(rest) = free.checked_sub(needed) else { return Err(PagesError::Full { needed, free }) };
        let mut taken = self.free.split_off(rest as usize);
        taken.reverse();
        for page in &taken {
            self.users[*page as usize] = 1;
        }
        if let Some(Some(sequence)) = self.sequences.get_mut(id.0 as usize) {
            sequence.pages.extend(taken);
            sequence.tokens = end;
        }
        Ok(begin as i32..end as i32)
    }

    /// Starts a sequence that shares the beginning of another: the pages that are full within its first `tokens` tokens. What is
    /// left of those tokens, less than a page, has to be computed again: [`Pages::tokens`] says from where. Shared pages are only
    /// read.
    pub fn share(&mut self, id: SequenceId, tokens: u32) -> Result<SequenceId, PagesError> {
        let sequence = self.sequence(id)?;
        if tokens > sequence.tokens {
            return Err(PagesError::TooShort { wanted: tokens, tokens: sequence.tokens });
        }
        let count = tokens / self.page_size;
        let pages = sequence.pages[..count as usize].to_vec();
        for page in &pages {
            self.users[*page as usize] += 1;
        }
        Ok(self.insert(Sequence { pages, tokens: count * self.page_size }))
    }

    /// Takes a sequence back to its first `tokens` tokens, to go on differently from there, and returns how many of them stay: what
    /// is left of a page that another sequence shares has to be computed again, in a page of its own.
    pub fn rewind(&mut self, id: SequenceId, tokens: u32) -> Result<u32, PagesError> {
        let sequence = self.sequence(id)?;
        if tokens > sequence.tokens {
            return Err(PagesError::TooShort { wanted: tokens, tokens: sequence.tokens });
        }
        let full = tokens / self.page_size;
        let last_is_shared = sequence.pages.get(full as usize).is_some_and(|page| self.users[*page as usize] > 1);
        let tokens = if last_is_shared { full * self.page_size } else { tokens };
        let keep = tokens.div_ceil(self.page_size) as usize;
        if let Some(Some(sequence)) = self.sequences.get_mut(id.0 as usize) {
            let given_up = sequence.pages.split_off(keep);
            sequence.tokens = tokens;
            self.give_back(given_up);
        }
        Ok(tokens)
    }

    /// Ends a sequence. Pages that no other sequence shares are free again.
    pub fn close(&mut self, id: SequenceId) -> Result<(), PagesError> {
        let slot = self.sequences.get_mut(id.0 as usize).ok_or(PagesError::NoSequence(id.0))?;
        let sequence = slot.take().ok_or(PagesError::NoSequence(id.0))?;
        self.give_back(sequence.pages);
        Ok(())
    }

    fn give_back(&mut self, pages: Vec<u32>) {
        for page in pages.into_iter().rev() {
            let users = &mut self.users[page as usize];
            *users -= 1;
            if *users == 0 {
                self.free.push(page);
            }
        }
    }

    /// The page table of some sequences, a row for each.
    pub fn table(&self, sequences: &[SequenceId]) -> Result<PageTable, PagesError> {
        let rows = sequences.iter().map(|id| Ok(&self.sequence(*id)?.pages)).collect::<Result<Vec<_>, PagesError>>()?;
        let columns = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        let padded = |row: &[u32]| {
            let pages = row.iter().map(|page| *page as i32);
            pages.chain(std::iter::repeat(0)).take(columns).collect::<Vec<_>>()
        };
        let entries = rows.iter().flat_map(|row| padded(row)).collect();
        Ok(PageTable { entries, shape: [rows.len() as u64, columns as u64] })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sequences_take_pages_as_they_grow_and_give_them_back() {
        let mut pages = Pages::new(4, 16);
        let (a, b) = (pages.open(), pages.open());
        assert_eq!(pages.append(a, 17), Ok(0..17));
        assert_eq!(pages.append(b, 3), Ok(0..3));
        assert_eq!(pages.append(a, 15), Ok(17..32));
        let table = pages.table(&[b, a]).unwrap();
        assert_eq!((table.shape, table.entries), ([2, 2], vec![2, 0, 0, 1]));
        assert_eq!(pages.append(b, 30), Err(PagesError::Full { needed: 2, free: 1 }));
        assert_eq!(pages.tokens(b), Ok(3));
        pages.close(a).unwrap();
        assert_eq!(pages.append(b, 30), Ok(3..33));
        assert_eq!(pages.tokens(a), Err(PagesError::NoSequence(a.0)));
    }

    #[test]
    fn a_common_beginning_is_shared_by_whole_pages() {
        let mut pages = Pages::new(5, 4);
        let first = pages.open();
        pages.append(first, 10).unwrap();
        let second = pages.share(first, 9).unwrap();
        assert_eq!(pages.tokens(second), Ok(8));
        assert_eq!(pages.append(second, 2), Ok(8..10));
        let table = pages.table(&[first, second]).unwrap();
        assert_eq!(table.entries, [0, 1, 2, 0, 1, 3]);
        pages.close(first).unwrap();
        // Its last page is free; the shared ones are still in use.
        assert_eq!(pages.free_pages(), 2);
        pages.close(second).unwrap();
        assert_eq!(pages.free_pages(), 5);
        let message = pages.share(second, 1).unwrap_err().to_string();
        assert_eq!(message, "there is no open sequence 1");
    }

    #[test]
    fn a_rewound_sequence_writes_no_page_that_another_reads() {
        let mut pages = Pages::new(5, 4);
        let first = pages.open();
        pages.append(first, 10).unwrap();
        // Of its own pages everything stays.
        assert_eq!(pages.rewind(first, 9), Ok(9));
        assert_eq!(pages.append(first, 1), Ok(9..10));
        let second = pages.share(first, 8).unwrap();
        // The second page is the other's too.
        assert_eq!(pages.rewind(second, 6), Ok(4));
        assert_eq!(pages.free_pages(), 2);
        assert_eq!(pages.append(second, 3), Ok(4..7));
        assert_eq!(pages.table(&[first, second]).unwrap().entries, [0, 1, 2, 0, 3, 0]);
        assert_eq!(pages.rewind(second, 0), Ok(0));
        assert_eq!(pages.free_pages(), 2);
        assert_eq!(pages.rewind(first, 11), Err(PagesError::TooShort { wanted: 11, tokens: 10 }));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Open,
        Append(prop::sample::Index, usize),
        Share(prop::sample::Index, u32),
        Rewind(prop::sample::Index, u32),
        Close(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        let index = any::<prop::sample::Index>;
        prop_oneof![
            Just(Step::Open),
            (index(), 0..20usize).prop_map(|(sequence, tokens)| Step::Append(sequence, tokens)),
            (index(), 0..20u32).prop_map(|(sequence, tokens)| Step::Share(sequence, tokens)),
            (index(), 0..20u32).prop_map(|(sequence, tokens)| Step::Rewind(sequence, tokens)),
            index().prop_map(Step::Close),
        ]
    }

    proptest! {
        /// Whatever happens, no place in the cache is written by two sequences, and no page is lost.
        #[test]
        fn no_page_is_lost_and_none_is_written_twice(steps in prop::collection::vec(step(), 1..60)) {
            let mut pages = Pages::new(12, 4);
            let mut open = Vec::new();
            let mut writer: Vec<[Option<SequenceId>; 4]> = vec![[None; 4]; 12];
            for step in steps {
                match step {
                    Step::Open => open.push(pages.open()),
                    Step::Append(index, tokens) if !open.is_empty() => {
                        let id = open[index.index(open.len())];
                        if let Ok(positions) = pages.append(id, tokens) {
                            let table = pages.table(&[id]).unwrap();
                            for position in positions {
                                let page = table.entries[position as usize / 4] as usize;
                                let place = &mut writer[page][position as usize % 4];
                                prop_assert_eq!(*place, None);
                                *place = Some(id);
                            }
                        }
                    }
                    Step::Share(index, tokens) if !open.is_empty() => {
                        open.extend(pages.share(open[index.index(open.len())], tokens).ok());
                    }
                    Step::Rewind(index, tokens) if !open.is_empty() => {
                        let id = open[index.index(open.len())];
                        if let Ok(kept) = pages.rewind(id, tokens) {
                            let kept = kept as usize;
                            if !kept.is_multiple_of(4) {
                                // It will write the rest of its last page again, which therefore nobody else has.
                                let page = pages.sequence(id).unwrap().pages[kept / 4];
                                let has_it = |other: &&SequenceId| pages.sequence(**other).unwrap().pages.contains(&page);
                                prop_assert_eq!(open.iter().filter(has_it).count(), 1);
                                writer[page as usize][kept % 4..].fill(None);
                            }
                            for page in &pages.free {
                                writer[*page as usize] = [None; 4];
                            }
                        }
                    }
                    Step::Close(index) if !open.is_empty() => {
                        pages.close(open.swap_remove(index.index(open.len()))).unwrap();
                        for page in &pages.free {
                            writer[*page as usize] = [None; 4];
                        }
                    }
                    _ => {}
                }
                let used: std::collections::HashSet<_> = open.iter().flat_map(|id| pages.sequence(*id).unwrap().pages.clone()).collect();
                prop_assert_eq!(used.len() + pages.free.len(), 12);
                prop_assert!(pages.free.iter().all(|page| !used.contains(page)));
            }
        }
    }
}
