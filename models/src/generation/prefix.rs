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
    /// Keeps the whole pages of an ended sequence, of which `tokens` are in the cache.
    pub fn keep(
        &mut self,
        pages: &mut Pages,
        page_size: usize,
        tokens: &[u32],
        id: SequenceId,
    ) -> Result<(), PagesError> {
        let count = tokens.len() / page_size.max(1) * page_size.max(1);
        let known = |(other, _): &(Vec<u32>, _)| common(other, tokens) >= count;
        if count == 0 || self.sequences.iter().any(known) {
            return pages.close(id);
        }
        pages.rewind(id, count as u32)?;
        for (_, shorter) in self.sequences.extract_if(.., |(other, _)| tokens[..count].starts_with(other)) {
            pages.close(shorter)?;
        }
        self.sequences.push((tokens[..count].to_vec(), id));
        Ok(())
    }

    /// The sequence that has most of the beginning of `tokens`, and how much; it counts as used now.
    pub fn longest(&mut self, tokens: &[u32]) -> Option<(SequenceId, usize)> {
        let lengths = self.sequences.iter().map(|(other, _)| common(other, tokens)).enumerate();
        let (index, length) = lengths.max_by_key(|(_, length)| *length).filter(|(_, length)| *length > 0)?;
        self.sequences[index..].rotate_left(1);
        self.sequences.last().map(|(_, id)| (*id, length))
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
    use super::*;

    #[test]
    fn what_begins_alike_is_found_and_what_is_old_goes_first() {
        let mut pages = Pages::new(8, 2);
        let mut retained = Retained::default();
        let end = |retained: &mut Retained, pages: &mut Pages, tokens: &[u32]| {
            let id = pages.open();
            pages.append(id, tokens.len()).unwrap();
            retained.keep(pages, 2, tokens, id).unwrap();
        };
        end(&mut retained, &mut pages, &[1, 2, 3, 4, 5]);
        end(&mut retained, &mut pages, &[6, 7]);
        assert_eq!(pages.free_pages(), 5, "a page that is not full is not kept");
        assert_eq!(retained.longest(&[1, 2, 9]).unwrap().1, 2);
        assert_eq!(retained.longest(&[9]), None);
        // What is part of another is kept once.
        end(&mut retained, &mut pages, &[1, 2]);
        assert_eq!(pages.free_pages(), 5);
        end(&mut retained, &mut pages, &[6, 7, 8, 9]);
        assert_eq!(pages.free_pages(), 4);
        assert!(retained.give_up(&mut pages).unwrap());
        assert_eq!(retained.longest(&[1, 2, 3]), None);
        assert_eq!(retained.longest(&[6, 7, 8]).unwrap().1, 3);
        assert!(retained.give_up(&mut pages).unwrap());
        assert!(!retained.give_up(&mut pages).unwrap());
        assert_eq!(pages.free_pages(), 8);
    }
}
