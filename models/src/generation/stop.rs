//! Texts that end a sequence.

/// Looks for stop texts in a text that arrives in pieces, and holds back what may be the beginning of one.
#[derive(Debug, Clone, Default)]
pub struct StopText {
    stops: Vec<String>,
    held: String,
}

/// What a piece of text brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Text that no stop text can begin in any more.
    pub text: String,
    /// Whether a stop text follows it.
    pub stopped: bool,
}

impl StopText {
    /// Looks for these texts; empty ones never occur.
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        Self { stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(), held: String::new() }
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &str) -> Passed {
        self.held.push_str(piece);
        if let Some(begin) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(begin);
            return Passed { text: std::mem::take(&mut self.held), stopped: true };
        }
        let begins_stop = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let hold = self.held.char_indices().map(|(at, _)| at).find(begins_stop).unwrap_or(self.held.len());
        let rest = self.held.split_off(hold);
        Passed { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// What is held back, once no more text comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut stop = StopText::new(stops.iter().map(|stop| (*stop).to_owned()));
        let mut texts = Vec::new();
        for piece in pieces {
            let passed = stop.push(piece);
            texts.push(passed.text);
            if passed.stopped {
                return (texts, true);
            }
        }
        texts.push(stop.finish());
        (texts, false)
    }

    #[test]
    fn a_stop_text_may_be_spread_over_pieces() {
        assert_eq!(
            run(&["\n\n"], &["one\n", "two", "\n", "\nthree"]),
            (["one", "\ntwo", "", ""].map(String::from).into(), true)
        );
        assert_eq!(run(&["END", "NE"], &["fineE", "N", "D"]), (["fine", "", ""].map(String::from).into(), true));
        assert_eq!(run(&["END"], &["fineE", "N"]), (["fine", "", "EN"].map(String::from).into(), false));
        assert_eq!(run(&["b", "abc"], &["xab"]).0, ["xa"], "the first that occurs ends the text");
        assert_eq!(run(&[""], &["x"]), (["x", ""].map(String::from).into(), false));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[ab€]{0,20}", cuts in prop::collection::vec(0..20usize, 0..5), stop in "[ab€]{1,4}") {
            let characters: Vec<char> = text.chars().collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(characters.len())).chain([0, characters.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<String> = cuts.windows(2).map(|cut| characters[cut[0]..cut[1]].iter().collect()).collect();
            let (texts, stopped) = run(&[&stop], &pieces.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assert_eq!(stopped, text.contains(&stop));
            prop_assert_eq!(texts.concat(), text.split(&stop).next().unwrap());
        }
    }
}
