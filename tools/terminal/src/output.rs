//! Standard output, which may be a pipe whose reader has gone.

use std::io::{ErrorKind, Write};

use miette::{IntoDiagnostic, Report, Result};

/// Writes all of it at once, without buffering any.
pub fn write(bytes: &[u8]) -> Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(bytes).and_then(|()| output.flush()).into_diagnostic()
}

/// Whether the error is that nobody reads standard output any more.
pub fn is_broken_pipe(error: &Report) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe))
}
