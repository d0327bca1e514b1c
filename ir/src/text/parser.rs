//! Parsing: tokens, names and recovery. The grammar of modules is in `module`, of types in `types`, of
//! operations in `operations`.

use crate::diagnostic::{Diagnostic, DiagnosticKind};
use crate::graph::Span;
use crate::module::Module;
use crate::name::Name;
use crate::text::lexer::{Token, TokenKind, tokens, unquoted};

/// Errors after which a text is given up.
const MOST_ERRORS: usize = 50;

/// An error was found and reported; the construct at hand cannot be finished.
pub(super) struct Reported;

pub(super) type Parsed<T> = Result<T, Reported>;

pub(super) struct Parser<'s> {
    tokens: Vec<Token<'s>>,
    position: usize,
    pub(super) diagnostics: Vec<Diagnostic>,
    /// What has been declared so far.
    pub(super) module: Module,
    /// Nested regions around the current place.
    pub(super) depth: usize,
}

impl<'s> Parser<'s> {
    pub(super) fn new(source: &'s str) -> Parser<'s> {
        let mut diagnostics = Vec::new();
        let tokens = tokens(source, &mut diagnostics);
        Parser { tokens, position: 0, diagnostics, module: Module::default(), depth: 0 }
    }

    /// The errors found, in the order of the text.
    pub(super) fn into_errors(mut self) -> Vec<Diagnostic> {
        self.diagnostics.sort_by_key(|error| error.span.as_ref().map(|span| span.start));
        if self.diagnostics.len() > MOST_ERRORS {
            self.diagnostics.truncate(MOST_ERRORS);
            self.diagnostics.push(Diagnostic::new(DiagnosticKind::Limit, "there are more errors", None));
        }
        self.diagnostics
    }

    pub(super) fn report(&mut self, error: Diagnostic) -> Reported {
        self.diagnostics.push(error);
        Reported
    }

    /// Whether so many errors have been found that going on helps nobody.
    pub(super) fn has_had_enough(&self) -> bool {
        self.diagnostics.len() > MOST_ERRORS
    }

    fn token(&self, ahead: usize) -> &Token<'s> {
        // The last token is `End`, and is never passed.
        &self.tokens[(self.position + ahead).min(self.tokens.len() - 1)]
    }

    pub(super) fn peek(&self) -> TokenKind<'s> {
        self.token(0).kind
    }

    pub(super) fn peek_after(&self, ahead: usize) -> TokenKind<'s> {
        self.token(ahead).kind
    }

    pub(super) fn span(&self) -> Span {
        self.token(0).span.clone()
    }

    /// From `start` to the end of the last token passed.
    pub(super) fn span_since(&self, start: usize) -> Span {
        let end = self.position.checked_sub(1).map_or(start, |last| self.tokens[last].span.end);
        start..end.max(start)
    }

    pub(super) fn advance(&mut self) {
        if self.position + 1 < self.tokens.len() {
            self.position += 1;
        }
    }

    /// Passes the mark or word `text` if it comes next.
    pub(super) fn accept(&mut self, text: &str) -> bool {
        let found = matches!(self.peek(), TokenKind::Mark(found) | TokenKind::Word(found) if found == text);
        if found {
            self.advance();
        }
        found
    }

    /// Passes the mark or word `text`.
    pub(super) fn expect(&mut self, text: &str) -> Parsed<()> {
        match self.accept(text) {
            true => Ok(()),
            false => Err(self.unexpected(&format!("`{text}`"))),
        }
    }

    /// Reports that something else was expected here.
    pub(super) fn unexpected(&mut self, expected: &str) -> Reported {
        let message = format!("{expected} is expected here, not {}", self.peek());
        let error = Diagnostic::new(DiagnosticKind::Syntax, message, self.span());
        self.report(error)
    }

    /// Passes a word.
    pub(super) fn word(&mut self, expected: &str) -> Parsed<(&'s str, Span)> {
        match self.peek() {
            TokenKind::Word(word) => {
                let span = self.span();
                self.advance();
                Ok((word, span))
            }
            _ => Err(self.unexpected(expected)),
        }
    }

    /// Passes a natural number.
    pub(super) fn natural(&mut self, expected: &str) -> Parsed<u64> {
        let (word, span) = self.word(expected)?;
        if word.starts_with(|c: char| c.is_ascii_digit()) && word.bytes().all(|byte| byte.is_ascii_digit()) {
            return word.parse().map_err(|_| self.too_large(word, span));
        }
        let message = format!("{expected} is expected here, not `{word}`");
        Err(self.report(Diagnostic::new(DiagnosticKind::Syntax, message, span)))
    }

    pub(super) fn too_large(&mut self, word: &str, span: Span) -> Reported {
        self.report(Diagnostic::new(DiagnosticKind::Number, format!("{word} is too large"), span))
    }

    /// Passes `@name`.
    pub(super) fn global(&mut self, expected: &str) -> Parsed<(Name, Span)> {
        match self.peek() {
            TokenKind::Global(token) => self.name(token),
            _ => Err(self.unexpected(expected)),
        }
    }

    /// Passes `%name`.
    pub(super) fn value_name(&mut self, expected: &str) -> Parsed<(Name, Span)> {
        match self.peek() {
            TokenKind::Value(token) => self.name(token),
            _ => Err(self.unexpected(expected)),
        }
    }

    fn name(&mut self, token: &str) -> Parsed<(Name, Span)> {
        let span = self.span();
        self.advance();
        Ok((self.text(token, span.clone())?.into(), span))
    }

    /// What a name or text token stands for.
    pub(super) fn text(&mut self, token: &str, span: Span) -> Parsed<String> {
        unquoted(token).map_err(|message| self.report(Diagnostic::new(DiagnosticKind::Syntax, message, span)))
    }

    /// Passes items between `open` and `close`, separated by commas.
    pub(super) fn list<T>(
        &mut self,
        open: &str,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Parsed<T>,
    ) -> Parsed<Vec<T>> {
        self.expect(open)?;
        let mut items = Vec::new();
        while !self.accept(close) {
            if !items.is_empty() {
                if !self.accept(",") {
                    return Err(self.unexpected(&format!("`,` or `{close}`")));
                }
                // A comma may follow the last item too.
                if self.accept(close) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// After an error, goes on to what can begin something new: a value name before `=` or `,`, one of
    /// `words`, or the closing brace of the block at hand. Inside parentheses and brackets, which the
    /// error may have left open, only the first token of a line counts. Always advances when `start` is the
    /// current position, so that parsing ends.
    pub(super) fn recover(&mut self, start: usize, words: &[&str]) {
        let (mut braces, mut others) = (0usize, 0usize);
        let mut is_first = self.position == start;
        loop {
            let token = self.token(0);
            let is_start = !is_first && braces == 0 && (token.starts_line || others == 0);
            match token.kind {
                TokenKind::End => return,
                TokenKind::Mark("{") => braces += 1,
                TokenKind::Mark("}") if braces == 0 => return,
                TokenKind::Mark("}") => braces -= 1,
                TokenKind::Mark("(" | "[") => others += 1,
                TokenKind::Mark(")" | "]") => others = others.saturating_sub(1),
                TokenKind::Word(word) if is_start && words.contains(&word) => return,
                TokenKind::Value(_) if is_start && matches!(self.peek_after(1), TokenKind::Mark("=" | ",")) => return,
                _ => {}
            }
            is_first = false;
            self.advance();
        }
    }

    /// After an error inside braces, passes the brace that closes them, or stops before the next item of
    /// the module if that comes first.
    pub(super) fn skip_block(&mut self) {
        let mut depth = 0usize;
        loop {
            let token = self.token(0);
            match token.kind {
                TokenKind::End => return,
                TokenKind::Word("func" | "param") if token.starts_line => return,
                TokenKind::Mark("{") => depth += 1,
                TokenKind::Mark("}") if depth == 0 => return self.advance(),
                TokenKind::Mark("}") => depth -= 1,
                _ => {}
            }
            self.advance();
        }
    }

    /// Where the parser is, for [`recover`](Self::recover).
    pub(super) fn position(&self) -> usize {
        self.position
    }
}
