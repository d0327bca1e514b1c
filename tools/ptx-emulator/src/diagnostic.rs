//! What is wrong with a module, and where.

use std::ops::Range;

/// A problem at a place of the source, before the source's name is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, in bytes.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Problem {
    /// A problem without advice.
    pub fn new(span: Range<usize>, message: impl Into<String>) -> Problem {
        Problem { span, message: message.into(), help: None }
    }

    /// With advice.
    pub fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }

    /// Says which source it is about.
    pub fn of(self, file: &str, source: &str) -> LoadError {
        let start = self.span.start.min(source.len());
        let line = 1 + source.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count();
        let text = source.lines().nth(line - 1).unwrap_or_default().trim().chars().take(160).collect();
        let end = self.span.end.clamp(start, source.len());
        LoadError {
            file: file.into(),
            line,
            text,
            message: self.message,
            help: self.help,
            label: (start, end - start).into(),
            code: miette::NamedSource::new(file, source.to_string()),
        }
    }
}

/// Why a module cannot be loaded: the place and the statement that stands there.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{file}:{line}: {message}\n    {text}{}", help.as_ref().map(|help| format!("\n    {help}")).unwrap_or_default())]
pub struct LoadError {
    /// The file, or what stands for it.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The line's text.
    pub text: String,
    /// What is wrong.
    pub message: String,
    #[help]
    help: Option<String>,
    #[label("here")]
    label: miette::SourceSpan,
    #[source_code]
    code: miette::NamedSource<String>,
}
