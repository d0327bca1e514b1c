//! Reading modules, and errors that point into their text.

use std::fmt;
use std::path::Path;

use miette::{Diagnostic, IntoDiagnostic, LabeledSpan, NamedSource, Report, Result, SourceCode, WrapErr};
use tessera_compiler::driver::CompileError;
use tessera_compiler::graph::{PassError, PipelineError};
use tessera_ir::{Module, parse_module};
use thiserror::Error;

/// A text file with a module in it.
#[derive(Clone, Debug)]
pub struct Source {
    name: String,
    text: String,
}

impl Source {
    /// Reads a file.
    pub fn open(path: &Path) -> Result<Source> {
        let bytes =
            std::fs::read(path).into_diagnostic().wrap_err_with(|| format!("cannot read {}", path.display()))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| miette::miette!(help = "a module is UTF-8 text", "{} is no text", path.display()))?;
        Ok(Source { name: path.display().to_string(), text })
    }

    /// The module in the text.
    pub fn module(&self) -> Result<Module> {
        parse_module(&self.text).map_err(|errors| self.report(errors.errors))
    }

    /// An error of a pipeline, at its place in the text.
    pub fn pipeline_error(&self, error: PipelineError) -> Report {
        match error {
            PipelineError::Pass { pass, error } => self.pass_error(pass, *error),
            PipelineError::Invalid(errors) => self.report(errors),
            broken => Report::msg(broken),
        }
    }

    /// An error of the compiler, at its place in the text if it has one.
    pub fn compile_error(&self, error: CompileError) -> Report {
        match error {
            CompileError::Passes(error) => self.pipeline_error(error),
            other => Err::<(), _>(other).into_diagnostic().expect_err("an error stays one"),
        }
    }

    fn pass_error(&self, pass: &str, error: PassError) -> Report {
        let place = format!("@{}, {}", error.function, error.operation);
        let mut found = tessera_ir::Diagnostic::new(
            tessera_ir::DiagnosticKind::Operation,
            format!("{} ({place}, in the pass `{pass}`)", error.message),
            error.span,
        );
        found.help = error.help;
        self.report(vec![found])
    }

    fn report(&self, errors: Vec<tessera_ir::Diagnostic>) -> Report {
        Report::new(SourceErrors { file: NamedSource::new(&self.name, self.text.clone()), errors })
    }
}

/// Errors in one text.
#[derive(Debug, Error)]
struct SourceErrors {
    file: NamedSource<String>,
    errors: Vec<tessera_ir::Diagnostic>,
}

impl fmt::Display for SourceErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errors.as_slice() {
            [error] => error.fmt(f),
            errors => write!(f, "{} errors in {}", errors.len(), self.file.name()),
        }
    }
}

impl Diagnostic for SourceErrors {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.file)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        match self.errors.as_slice() {
            [error] => error.help(),
            _ => None,
        }
    }

    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        match self.errors.as_slice() {
            [error] => error.code(),
            _ => None,
        }
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        match self.errors.as_slice() {
            [error] => error.labels(),
            _ => None,
        }
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        match self.errors.as_slice() {
            [_] => None,
            errors => Some(Box::new(errors.iter().map(|error| error as &dyn Diagnostic))),
        }
    }
}
