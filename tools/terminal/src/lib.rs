//! What Tessera's command lines have in common: progress, standard output, the log, and where things are kept.
//!
//! # Architecture invariant
//!
//! This crate knows nothing of models, compilers or devices.

pub mod output;
mod progress;

use std::path::PathBuf;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

pub use progress::Progress;

/// Sends the log to standard error: warnings, or more with each `-v`, or errors alone if quiet. `TESSERA_LOG` has the last word, in the
/// syntax of tracing's filters.
pub fn log_to_standard_error(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "info",
        (_, 2) => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("TESSERA_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
}

/// Tells the user what went wrong, and the shell that something did.
pub fn exit_code(outcome: miette::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

/// The folder of what may be kept between runs: `$TESSERA_CACHE`, else `tessera` in `$XDG_CACHE_HOME`, else `~/.cache/tessera`; `None` if
/// none of them is set.
pub fn cache_folder() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("TESSERA_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("tessera")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/tessera")))
}
