//! The pages of one cache: which are free, and which a sequence has.

use std::collections::VecDeque;

/// How a cache is divided into pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// How many pages it has.
    pub pages: u32,
    /// How many keys a token sees, its own the last; all of its sequence's where it is not given.
    pub window: Option<u32>,
}

impl Pool {
    /// Pages that a sequence needs to be fed up to token `tokens`, `chunk` tokens at a time.
    pub fn pages_for(window: Option<u32>, page_size: u32, tokens: usize, chunk: usize) -> usize {
        let size = page_size.max(1) as usize;
        let all = tokens.div_ceil(size);
        match window {
            None => all,
            Some(window) => {
                let before = (window as usize).saturating_sub(1).div_ceil(size);
                // The chunk's first page may be begun already.
                all.min(before.saturating_add(1).saturating_add(chunk.saturating_sub(1).div_ceil(size)))
            }
        }
    }
}

/// The pages of a cache.
#[derive(Clone, Debug)]
pub(super) struct PagePool {
    window: Option<u32>,
    page_size: u32,
    /// How many sequences use each page.
    users: Vec<u32>,
    free: Vec<u32>,
}

/// The pages of a sequence in a pool: one for each stretch of a page's length from `first` on.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    /// Which stretch the first page holds. Those before it lie behind the window, and their pages are given up.
    pub first: u32,
    /// May be more than the sequence's tokens fill.
    pub pages: VecDeque<u32>,
}

/// How a sequence's pages change when tokens are appended to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    /// Pages at the beginning that fall behind the window.
    dropped: usize,
    /// Pages that the tokens need and the sequence has not yet.
    needed: u32,
    /// Those, and further ones that it would do well to have.
    wanted: u32,
    /// Pages that there are: free ones, and those among the dropped that nobody else uses.
    available: u32,
}

impl Held {
    /// The stretch after the last that has a page.
    fn end(&self) -> u32 {
        self.first + self.pages.len() as u32
    }

    /// The page of a stretch.
    pub fn page(&self, stretch: u32) -> Option<u32> {
        self.pages.get(stretch.checked_sub(self.first)? as usize).copied()
    }
}

impl Growth {
    /// Pages that are needed, and that there are; none where these suffice.
    pub fn lack(&self) -> Option<(u32, u32)> {
        (self.needed > self.available).then_some((self.needed, self.available))
    }
}

impl PagePool {
    pub fn new(pool: Pool, page_size: u32) -> PagePool {
        // Handed out from the end of the list, the first page first.
        let free = (0..pool.pages).rev().collect();
        PagePool { window: pool.window, page_size, users: vec![0; pool.pages as usize], free }
    }

    pub fn is_bounded(&self) -> bool {
        self.window.is_some()
    }

    pub fn free_pages(&self) -> u32 {
        self.free.len() as u32
    }

    #[cfg(test)]
    pub fn free_list(&self) -> &[u32] {
        &self.free
    }

    pub fn is_shared(&self, page: u32) -> bool {
        self.users[page as usize] > 1
    }

    /// The first stretch that is kept when the token at `position` is the next: all that this token's page needs, so that a sequence
    /// can be taken back to the beginning of its last page.
    pub fn first_kept(&self, position: u32) -> u32 {
        let begin = position / self.page_size * self.page_size;
        self.window.map_or(0, |window| (begin + 1).saturating_sub(window) / self.page_size)
    }

    /// Pages that a sequence of any length needs to be fed token by token.
    fn steady(&self) -> u32 {
        Pool::pages_for(self.window, self.page_size, u32::MAX as usize, 1) as u32
    }

    /// What appending tokens up to `end` to a sequence of `begin` tokens takes.
    pub fn growth(&self, held: &Held, begin: u32, end: u32) -> Growth {
        let first = self.first_kept(begin).max(held.first);
        let dropped = (first - held.first).min(held.pages.len() as u32) as usize;
        let own = held.pages.iter().take(dropped).filter(|page| !self.is_shared(**page)).count() as u32;
        let needed = end.div_ceil(self.page_size).saturating_sub(held.end());
        // What it has had it keeps, as far as it will need it again for the tokens that follow.
        let keep = (held.pages.len() as u32).min(self.steady());
        let short = match self.window {
            None => 0,
            Some(_) => (first + keep).saturating_sub(held.end()),
        };
        Growth { dropped, needed, wanted: needed.max(short), available: self.free_pages() + own }
    }

    /// How many tokens a sequence of `begin` tokens can grow by.
    pub fn room(&self, held: &Held, begin: u32) -> u32 {
        let growth = self.growth(held, begin, begin);
        let end = u64::from(held.end() + growth.available) * u64::from(self.page_size);
        u32::try_from(end.saturating_sub(u64::from(begin))).unwrap_or(u32::MAX)
    }

    /// Gives up what falls behind the window and takes what is needed. There must be enough.
    pub fn grow(&mut self, held: &mut Held, growth: Growth) {
        let behind: Vec<u32> = held.pages.drain(..growth.dropped).collect();
        held.first += behind.len() as u32;
        self.give_back(behind);
        self.take(held, growth.wanted.min(growth.available));
    }

    /// Pages that are missing to set aside what a sequence of up to `tokens` tokens needs.
    pub fn missing(&self, held: &Held, tokens: u32) -> u32 {
        let all = tokens.div_ceil(self.page_size).saturating_sub(held.first);
        all.min(self.steady()).saturating_sub(held.pages.len() as u32)
    }

    /// Gives a sequence further pages, of which there must be so many.
    pub fn take(&mut self, held: &mut Held, pages: u32) {
        let rest = self.free.len().saturating_sub(pages as usize);
        for page in self.free.split_off(rest).into_iter().rev() {
            self.users[page as usize] = 1;
            held.pages.push_back(page);
        }
    }

    /// The pages of the first `tokens` tokens, a whole number of pages, for another sequence that goes on from there. Those that it needs
    /// have not been given up.
    pub fn beginning(&self, held: &Held, tokens: u32) -> Held {
        let first = self.first_kept(tokens);
        let (skipped, count) = (first.saturating_sub(held.first), (tokens / self.page_size).saturating_sub(first));
        let pages = held.pages.iter().skip(skipped as usize).take(count as usize);
        Held { first, pages: pages.copied().collect() }
    }

    /// Counts a user more of pages.
    pub fn share(&mut self, held: &Held) {
        held.pages.iter().for_each(|page| self.users[*page as usize] += 1);
    }

    /// Takes a sequence back to its first `tokens` tokens, none of which have been given up.
    pub fn truncate(&mut self, held: &mut Held, tokens: u32) {
        let keep = tokens.div_ceil(self.page_size).saturating_sub(held.first) as usize;
        let given_up = held.pages.split_off(keep.min(held.pages.len()));
        if tokens == 0 {
            held.first = 0;
        }
        self.give_back(given_up);
    }

    /// Counts a user less of pages; those without any are free again, the first of them to be handed out first.
    pub fn give_back(&mut self, pages: impl IntoIterator<Item = u32, IntoIter: DoubleEndedIterator>) {
        for page in pages.into_iter().rev() {
            let users = &mut self.users[page as usize];
            *users -= 1;
            if *users == 0 {
                self.free.push(page);
            }
        }
    }
}
