//! Errors that point into a source text.

use std::fmt;
use std::sync::Arc;

use miette::{LabeledSpan, SourceCode};
use thiserror::Error;

use crate::graph::Span;

/// What a [`Diagnostic`] is about, for those who handle errors by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiagnosticKind {
    /// A character that begins no token.
    Character,
    /// A token where another is expected.
    Syntax,
    /// A number that does not fit.
    Number,
    /// A name that nothing has.
    UnknownName,
    /// A name given twice.
    DuplicateName,
    /// A type that makes no sense: element type, numeric policy or sharding.
    Type,
    /// An operation that breaks the rules of its op.
    Operation,
    /// A graph or function that is not well formed.
    Structure,
    /// More nesting or more errors than are handled.
    Limit,
}

impl DiagnosticKind {
    /// The kind as a short code, such as `ir::unknown_name`.
    pub const fn code(self) -> &'static str {
        match self {
            DiagnosticKind::Character => "ir::character",
            DiagnosticKind::Syntax => "ir::syntax",
            DiagnosticKind::Number => "ir::number",
            DiagnosticKind::UnknownName => "ir::unknown_name",
            DiagnosticKind::DuplicateName => "ir::duplicate_name",
            DiagnosticKind::Type => "ir::type",
            DiagnosticKind::Operation => "ir::operation",
            DiagnosticKind::Structure => "ir::structure",
            DiagnosticKind::Limit => "ir::limit",
        }
    }
}

/// One error, with the place in the source text where that is known.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Diagnostic {
    /// What it is about.
    pub kind: DiagnosticKind,
    /// What is wrong.
    pub message: String,
    /// Where, in bytes of the source text.
    pub span: Option<Span>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at `span`.
    pub fn new(kind: DiagnosticKind, message: impl Into<String>, span: impl Into<Option<Span>>) -> Diagnostic {
        Diagnostic { kind, message: message.into(), span: span.into(), help: None }
    }

    /// The error with advice.
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    /// The error with "did you mean", if one of `candidates` is close to `name`.
    pub(crate) fn suggest<'a>(self, name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Diagnostic {
        self.suggest_with("", name, candidates)
    }

    /// As [`suggest`](Self::suggest), for names that are written after `sigil`.
    pub(crate) fn suggest_with<'a>(
        mut self,
        sigil: &str,
        name: &str,
        candidates: impl IntoIterator<Item = &'a str>,
    ) -> Diagnostic {
        if let Some(candidate) = closest(name, candidates) {
            self.help = Some(format!("did you mean `{sigil}{candidate}`?"));
        }
        self
    }
}

impl miette::Diagnostic for Diagnostic {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.kind.code()))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.span.clone()?;
        Some(Box::new(std::iter::once(LabeledSpan::underline(span))))
    }
}

/// Every error found in one source text. Displays as one line for each, with line and column.
#[derive(Clone, Debug, Error)]
pub struct Diagnostics {
    /// The text.
    pub source_text: Arc<str>,
    /// The errors, in the order of the text; at least one.
    pub errors: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Line and column, counted from 1, of a byte of the source text. Columns count characters.
    pub fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let offset = (0..=offset.min(self.source_text.len()))
            .rev()
            .find(|offset| self.source_text.is_char_boundary(*offset))
            .unwrap_or(0);
        let before = &self.source_text[..offset];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            if let Some(span) = &error.span {
                let (line, column) = self.line_and_column(span.start);
                write!(f, "{line}:{column}: ")?;
            }
            write!(f, "{error}")?;
            if let Some(help) = &error.help {
                write!(f, " ({help})")?;
            }
        }
        Ok(())
    }
}

impl miette::Diagnostic for Diagnostics {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source_text)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn miette::Diagnostic> + 'a>> {
        Some(Box::new(self.errors.iter().map(|error| error as &dyn miette::Diagnostic)))
    }
}

/// The candidate that `name` is most likely a misspelling of, if any is close.
pub fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).max(1);
    let distance = |candidate: &str| {
        // Distances are quadratic in length; nothing this long is a misspelling worth the time.
        if name.len() > 100 || candidate.len() > 100 {
            return usize::MAX;
        }
        strsim::damerau_levenshtein(name, candidate)
    };
    candidates
        .into_iter()
        .map(|candidate| (distance(candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}
