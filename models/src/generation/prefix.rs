//! Sequences that have ended and stay in the cache until their pages are wanted, for what begins like them.

use tessera_runtime::pages::{Pages, PagesError, SequenceId};

/// Ended sequences in the cache, the one that was used longest ago first.
#[derive(Debug, Default)]
pub(super) struct Retained {
    sequences: Vec<(Vec<u32>, SequenceId)>,
}

/// How many tokens two sequences have in common at their beginning.
pub(super) fn common(left: &[u32], right: &[u32]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

impl Retained {
    /// Keeps a beginning of `tokens`, which has pages of its own, unless what is kept already can stand in for it.
    pub fn keep(&mut self, pages: &mut Pages, tokens: &[u32], id: SequenceId) -> Result<(), PagesError> {
        let kept = pages.tokens(id)?;
        let tokens = &tokens[..kept as usize];
        let mut is_known = kept == 0;
        for (other, donor) in &self.sequences {
            is_known |= pages.shareable(*donor, common(other, tokens) as u32)? >= kept;
        }
        if is_known {
            return pages.close(id);
        }
        let mut rest = Vec::with_capacity(self.sequences.len() + 1);
        for (other, shorter) in self.sequences.drain(..) {
            let stands_in =
                tokens.starts_with(&other) && pages.shareable(id, other.len() as u32)? as usize == other.len();
            if stands_in {
                pages.close(shorter)?;
            } else {
                rest.push((other, shorter));
            }
        }
        rest.push((tokens.to_vec(), id));
        self.sequences = rest;
        Ok(())
    }

    /// The sequence that can give most of the beginning of `tokens`, and how much, if any; it counts as used now. And how much of the
    /// beginning any of them has.
    pub fn longest(&mut self, pages: &Pages, tokens: &[u32]) -> Result<(Option<(SequenceId, u32)>, usize), PagesError> {
        let (mut best, mut most) = (None, 0);
        for (index, (other, id)) in self.sequences.iter().enumerate() {
            let length = common(other, tokens);
            most = most.max(length);
            let shareable = pages.shareable(*id, length as u32)?;
            if shareable > best.map_or(0, |(_, known)| known) {
                best = Some((index, shareable));
            }
        }
        let Some((index, shareable)) = best else { return Ok((None, most)) };
        self.sequences[index..].rotate_left(1);
        Ok((self.sequences.last().map(|(_, id)| (*id, shareable)), most))
    }

    /// Gives up the sequence that was used longest ago; false if there is none.
    pub fn give_up(&mut self, pages: &mut Pages) -> Result<bool, PagesError> {
        if self.sequences.is_empty() {
            return Ok(false);
        }
        let (_, id) = self.sequences.remove(0);
        pages.close(id)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use tessera_runtime::pages::Pool;

    use super::*;

    fn end(retained: &mut Retained, pages: &mut Pages, tokens: &[u32]) {
        let id = pages.open();
        pages.append(id, tokens.len()).unwrap();
        let kept = pages.share(id, tokens.len() as u32).unwrap();
        pages.close(id).unwrap();
        retained.keep(pages, tokens, kept).unwrap();
    }

    /// How much of the beginning can be had, and how much is known.
    fn longest(retained: &mut Retained, pages: &Pages, tokens: &[u32]) -> (u32, usize) {
        let (found, known) = retained.longest(pages, tokens).unwrap();
        (found.map_or(0, |(_, shareable)| shareable), known)
    }

    #[test]
    fn what_begins_alike_is_found_and_what_is_old_goes_first() {
        let mut pages = Pages::new(8, 2);
        let mut retained = Retained::default();
        end(&mut retained, &mut pages, &[1, 2, 3, 4, 5]);
        end(&mut retained, &mut pages, &[6, 7]);
        assert_eq!(pages.free_pages(0), 5, "a page that is not full is not kept");
        assert_eq!(longest(&mut retained, &pages, &[1, 2, 3, 9]), (2, 3));
        assert_eq!(longest(&mut retained, &pages, &[9]), (0, 0));
        // What is part of another is kept once.
        end(&mut retained, &mut pages, &[1, 2]);
        assert_eq!(pages.free_pages(0), 5);
        end(&mut retained, &mut pages, &[6, 7, 8, 9]);
        assert_eq!(pages.free_pages(0), 4);
        assert!(retained.give_up(&mut pages).unwrap());
        assert_eq!(longest(&mut retained, &pages, &[1, 2, 3]), (0, 0));
        assert_eq!(longest(&mut retained, &pages, &[6, 7, 8]), (2, 3));
        assert!(retained.give_up(&mut pages).unwrap());
        assert!(!retained.give_up(&mut pages).unwrap());
        assert_eq!(pages.free_pages(0), 8);
    }

    /// Of a sequence in a bounded cache only the end can be shared, so beginnings of it are kept beside it.
    #[test]
    fn beginnings_of_different_lengths_are_kept_where_windows_are() {
        let mut pages = Pages::of_pools(&[Pool { pages: 8, window: None }, Pool { pages: 8, window: Some(3) }], 2);
        let mut retained = Retained::default();
        let tokens = [1, 2, 3, 4, 5, 6, 7, 8];
        end(&mut retained, &mut pages, &tokens);
        assert_eq!([0, 1].map(|cache| pages.free_pages(cache)), [4, 7]);
        assert_eq!(longest(&mut retained, &pages, &tokens), (8, 8));
        assert_eq!(longest(&mut retained, &pages, &tokens[..5]), (0, 5));
        end(&mut retained, &mut pages, &tokens[..4]);
        assert_eq!(longest(&mut retained, &pages, &tokens[..5]), (4, 5));
        assert_eq!(longest(&mut retained, &pages, &tokens), (8, 8));
    }
}
