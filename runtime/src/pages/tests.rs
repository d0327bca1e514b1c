//! Which sequence has which page, by example and at random.

use proptest::prelude::*;

use super::*;

#[test]
fn sequences_take_pages_as_they_grow_and_give_them_back() {
    let mut pages = Pages::new(4, 16);
    let (a, b) = (pages.open(), pages.open());
    assert_eq!(pages.append(a, 17), Ok(0..17));
    assert_eq!(pages.append(b, 3), Ok(0..3));
    assert_eq!(pages.append(a, 15), Ok(17..32));
    let table = pages.table(0, &[b, a]).unwrap();
    assert_eq!((table.shape, table.entries), ([2, 2], vec![2, -1, 0, 1]));
    assert_eq!(pages.append(b, 30), Err(PagesError::Full { cache: 0, needed: 2, free: 1 }));
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
    let table = pages.table(0, &[first, second]).unwrap();
    assert_eq!(table.entries, [0, 1, 2, 0, 1, 3]);
    pages.close(first).unwrap();
    // Its last page is free; the shared ones are still in use.
    assert_eq!(pages.free_pages(0), 2);
    pages.close(second).unwrap();
    assert_eq!(pages.free_pages(0), 5);
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
    assert_eq!(pages.free_pages(0), 2);
    assert_eq!(pages.append(second, 3), Ok(4..7));
    assert_eq!(pages.table(0, &[first, second]).unwrap().entries, [0, 1, 2, 0, 3, -1]);
    assert_eq!(pages.rewind(second, 0), Ok(0));
    assert_eq!(pages.free_pages(0), 2);
    assert_eq!(pages.rewind(first, 11), Err(PagesError::TooShort { wanted: 11, tokens: 10 }));
}

/// A cache of all tokens and one of windows of 5.
fn bounded(pages: [u32; 2]) -> Pages {
    let [all, window] = pages;
    Pages::of_pools(&[Pool { pages: all, window: None }, Pool { pages: window, window: Some(5) }], 4)
}

/// A sequence's row of each table.
fn entries(pages: &Pages, id: SequenceId) -> Vec<Vec<i32>> {
    pages.tables(&[id]).unwrap().into_iter().map(|table| table.entries).collect()
}

#[test]
fn a_bounded_cache_keeps_the_window_of_the_tokens_to_come() {
    let mut pages = bounded([10, 3]);
    let id = pages.open();
    // Token 0 sees itself, token 10 sees the last page of the window before it: three pages.
    assert_eq!(pages.append(id, 11), Ok(0..11));
    assert_eq!(entries(&pages, id), [vec![0, 1, 2], vec![0, 1, 2]]);
    // Token 11 sees 7 and on. Its page's first token, 8, to which the sequence may be taken back, sees 4 and on.
    assert_eq!(pages.append(id, 1), Ok(11..12));
    assert_eq!(pages.table(1, &[id]).unwrap().entries, [-1, 1, 2]);
    assert_eq!(pages.append(id, 3), Ok(12..15));
    assert_eq!(pages.table(1, &[id]).unwrap().entries, [-1, -1, 2, 1]);
    assert_eq!(pages.room(id), Ok(5));
    assert_eq!(pages.append(id, 6), Err(PagesError::Full { cache: 1, needed: 2, free: 1 }));
    assert_eq!(pages.append(id, 5), Ok(15..20));
    assert_eq!(pages.table(0, &[id]).unwrap().entries, [0, 1, 2, 3, 4]);
    assert_eq!(pages.table(2, &[id]), Err(PagesError::NoCache { cache: 2, caches: 2 }));
    pages.close(id).unwrap();
    assert_eq!([0, 1].map(|cache| pages.free_pages(cache)), [10, 3]);
}

#[test]
fn a_beginning_is_shared_while_its_window_is_there() {
    let mut pages = bounded([20, 8]);
    let first = pages.open();
    pages.append(first, 14).unwrap();
    // Everything was fed in one step, so everything is there still.
    let early = pages.share(first, 7).unwrap();
    assert_eq!(pages.tokens(early), Ok(4));
    pages.append(first, 1).unwrap();
    let late = pages.share(first, 13).unwrap();
    assert_eq!(pages.tokens(late), Ok(12));
    assert_eq!(entries(&pages, late), [vec![0, 1, 2], vec![-1, -1, 2]]);
    // Before the window that is left nothing can go on.
    let gone = pages.share(first, 11).unwrap();
    assert_eq!(pages.tokens(gone), Ok(0));
    for id in [first, early, late, gone] {
        pages.close(id).unwrap();
    }
    assert_eq!([0, 1].map(|cache| pages.free_pages(cache)), [20, 8]);
}

#[test]
fn a_sequence_is_taken_back_as_far_as_its_window_is_there() {
    let mut pages = bounded([20, 8]);
    let id = pages.open();
    pages.append(id, 13).unwrap();
    pages.append(id, 2).unwrap();
    assert_eq!(pages.rewind(id, 13), Ok(13));
    assert_eq!(pages.rewind(id, 12), Ok(12));
    // Token 11 sees 7, whose page is gone.
    assert_eq!(pages.rewind(id, 11), Ok(0));
    assert_eq!([0, 1].map(|cache| pages.free_pages(cache)), [20, 8]);
    assert_eq!(pages.append(id, 3), Ok(0..3));
}

#[test]
fn what_is_set_aside_suffices_token_by_token() {
    let mut pages = bounded([12, 4]);
    let (a, b) = (pages.open(), pages.open());
    pages.reserve(a, 24).unwrap();
    pages.reserve(b, 24).unwrap();
    assert_eq!([0, 1].map(|cache| pages.free_pages(cache)), [0, 0]);
    assert_eq!(pages.reserve(a, 25), Err(PagesError::Full { cache: 0, needed: 1, free: 0 }));
    for position in 0..24 {
        assert_eq!(pages.append(a, 1), Ok(position..position + 1));
        assert_eq!(pages.append(b, 1), Ok(position..position + 1));
    }
    assert_eq!(Pool::pages_for(Some(5), 4, 24, 1), 2);
    assert_eq!([1, 2, 5, 6, 100].map(|chunk| Pool::pages_for(Some(5), 4, 24, chunk)), [2, 3, 3, 4, 6]);
    assert_eq!(Pool::pages_for(None, 4, 25, 1), 7);
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    /// One step feeds several sequences.
    Feed(Vec<(prop::sample::Index, usize)>),
    Reserve(prop::sample::Index, usize),
    Share(prop::sample::Index, u32),
    Rewind(prop::sample::Index, u32),
    Close(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        2 => Just(Step::Open),
        6 => prop::collection::vec((index(), prop_oneof![Just(1), 0..20usize]), 1..4).prop_map(Step::Feed),
        1 => (index(), 0..20usize).prop_map(|(sequence, tokens)| Step::Reserve(sequence, tokens)),
        2 => (index(), 0..50u32).prop_map(|(sequence, tokens)| Step::Share(sequence, tokens)),
        2 => (index(), 0..50u32).prop_map(|(sequence, tokens)| Step::Rewind(sequence, tokens)),
        1 => index().prop_map(Step::Close),
    ]
}

/// Caches that remember which token each place holds, and sequences that know which tokens they have.
struct Simulation {
    pages: Pages,
    pools: Vec<Pool>,
    page_size: usize,
    /// Of each cache, at `page · page_size + slot`.
    places: Vec<Vec<Option<u64>>>,
    open: Vec<(SequenceId, Vec<u64>)>,
    /// Tokens so far: each is another.
    tokens: u64,
}

impl Simulation {
    fn new(pools: Vec<Pool>, page_size: usize) -> Self {
        let places = pools.iter().map(|pool| vec![None; pool.pages as usize * page_size]).collect();
        let pages = Pages::of_pools(&pools, page_size as u32);
        Self { pages, pools, page_size, places, open: Vec::new(), tokens: 0 }
    }

    fn run(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Open => self.open.push((self.pages.open(), Vec::new())),
            Step::Feed(batch) if !self.open.is_empty() => self.feed(batch)?,
            Step::Reserve(index, tokens) if !self.open.is_empty() => {
                // Whether there is room or not, everything stays as it is.
                let _ = self.pages.reserve(self.open[index.index(self.open.len())].0, tokens);
            }
            Step::Share(index, wanted) if !self.open.is_empty() => {
                let (donor, tokens) = &self.open[index.index(self.open.len())];
                if let Ok(id) = self.pages.share(*donor, wanted) {
                    let shared = self.pages.tokens(id).unwrap() as usize;
                    prop_assert!(shared <= wanted as usize && shared.is_multiple_of(self.page_size));
                    let is_bounded = self.pools.iter().any(|pool| pool.window.is_some());
                    prop_assert!(is_bounded || shared == wanted as usize / self.page_size * self.page_size);
                    self.open.push((id, tokens[..shared].to_vec()));
                }
            }
            Step::Rewind(index, wanted) if !self.open.is_empty() => {
                let at = index.index(self.open.len());
                if let Ok(kept) = self.pages.rewind(self.open[at].0, wanted) {
                    prop_assert!(kept <= wanted);
                    self.open[at].1.truncate(kept as usize);
                }
            }
            Step::Close(index) if !self.open.is_empty() => {
                let (id, _) = self.open.swap_remove(index.index(self.open.len()));
                self.pages.close(id).unwrap();
            }
            _ => {}
        }
        self.check_pages()
    }

    /// What a serving step does: all tokens of the batch are written, then each reads the window before it.
    fn feed(&mut self, batch: Vec<(prop::sample::Index, usize)>) -> Result<(), TestCaseError> {
        let mut fed = Vec::new();
        for (index, count) in batch {
            let at = index.index(self.open.len());
            if fed.iter().any(|(other, _)| *other == at) {
                continue;
            }
            let room = self.pages.room(self.open[at].0).unwrap();
            match self.pages.append(self.open[at].0, count) {
                Ok(positions) => {
                    prop_assert!(count <= room);
                    fed.push((at, positions));
                }
                Err(error) => prop_assert!(count > room, "{error}"),
            }
        }
        for cache in 0..self.pools.len() {
            let ids: Vec<SequenceId> = fed.iter().map(|(at, _)| self.open[*at].0).collect();
            let table = self.pages.table(cache, &ids).unwrap();
            let place = |row: usize, position: usize| {
                let page = table.entries[row * table.shape[1] as usize + position / self.page_size];
                usize::try_from(page).ok().map(|page| page * self.page_size + position % self.page_size)
            };
            let mut written = std::collections::HashSet::new();
            for (row, (at, positions)) in fed.iter().enumerate() {
                for position in positions.clone().map(|position| position as usize) {
                    let to = place(row, position).unwrap();
                    prop_assert!(written.insert(to), "two tokens of a step in one place");
                    // The token's number follows from the sequence, for it is the same in all caches.
                    self.places[cache][to] = Some(self.tokens + (*at as u64) * 1000 + position as u64);
                }
            }
            for (row, (at, positions)) in fed.iter().enumerate() {
                let tokens = &self.open[*at].1;
                for position in positions.clone().map(|position| position as usize) {
                    let window = self.pools[cache].window.map_or(usize::MAX, |window| window as usize);
                    for key in (position + 1).saturating_sub(window)..=position {
                        let new = self.tokens + (*at as u64) * 1000 + key as u64;
                        let wanted = tokens.get(key).copied().unwrap_or(new);
                        let found = place(row, key).and_then(|from| self.places[cache][from]);
                        prop_assert_eq!(found, Some(wanted), "cache {} key {} of token {}", cache, key, position);
                    }
                }
            }
        }
        for (at, positions) in fed {
            let base = self.tokens + (at as u64) * 1000;
            self.open[at].1.extend(positions.map(|position| base + position as u64));
        }
        self.tokens += 1_000_000;
        Ok(())
    }

    /// No page is lost, and none has two owners that write to it.
    fn check_pages(&self) -> Result<(), TestCaseError> {
        for (cache, pool) in self.pools.iter().enumerate() {
            let mut users = vec![0; pool.pages as usize];
            for (id, tokens) in &self.open {
                let sequence = self.pages.sequence(*id).unwrap();
                prop_assert_eq!(sequence.tokens as usize, tokens.len());
                let held = &sequence.held[cache];
                held.pages.iter().for_each(|page| users[*page as usize] += 1);
                // The page that the next token goes to, and those after it, are its own.
                for stretch in tokens.len() / self.page_size..held.first as usize + held.pages.len() {
                    let shared = held.page(stretch as u32).is_some_and(|page| self.pages.pools[cache].is_shared(page));
                    prop_assert!(!shared || tokens.len().is_multiple_of(self.page_size));
                    prop_assert!(!shared, "a shared page would be written");
                }
            }
            let free = self.pages.pools[cache].free_list();
            prop_assert!(free.iter().all(|page| users[*page as usize] == 0));
            prop_assert_eq!(users.iter().filter(|users| **users == 0).count(), free.len());
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happens, every token reads what was written for the tokens before it.
    #[test]
    fn every_key_that_is_read_is_the_right_one(
        steps in prop::collection::vec(step(), 1..80),
        page_size in 1..6usize,
        window in 1..14u32,
        other in prop::option::of(1..9u32),
        pages in (4..24u32, 4..16u32),
    ) {
        let pools = vec![
            Pool { pages: pages.0, window: None },
            Pool { pages: pages.1, window: Some(window) },
            Pool { pages: pages.1 + 3, window: other },
        ];
        let mut simulation = Simulation::new(pools, page_size);
        for step in steps {
            simulation.run(step)?;
        }
    }

    /// A bounded cache of the size that is said suffices for a sequence of any length.
    #[test]
    fn a_sequence_is_never_without_room(
        chunks in prop::collection::vec(1..9usize, 1..40),
        page_size in 1..6u32,
        window in 1..14u32,
    ) {
        let largest = chunks.iter().copied().max().unwrap_or(1);
        let total = chunks.iter().sum();
        let pages = Pool::pages_for(Some(window), page_size, total, largest) as u32;
        let mut pages = Pages::of_pools(&[Pool { pages, window: Some(window) }], page_size);
        let id = pages.open();
        for chunk in chunks {
            prop_assert!(pages.append(id, chunk).is_ok());
        }
    }
}
