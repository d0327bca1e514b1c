//! `tessera`: exports, evaluates and runs language models.

mod arguments;
mod cache;
mod export;
mod generate;
mod logits;
mod output;
mod progress;
mod session;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use miette::Result;
use tracing_subscriber::EnvFilter;

use arguments::{Command, CommandLine, Completions};

fn main() -> ExitCode {
    let line = CommandLine::parse();
    report_to_standard_error(line.verbose, line.quiet);
    match run(line) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run(line: CommandLine) -> Result<()> {
    let progress = progress::Progress::new(!line.quiet && std::io::stderr().is_terminal());
    match line.command {
        Command::Export(arguments) => export::run(&arguments, &progress),
        Command::Logits(arguments) => logits::run(&arguments, &progress),
        Command::Generate(arguments) => generate::run(&arguments, &progress),
        Command::Completions(Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut CommandLine::command(), "tessera", &mut script);
            output::write(&script)
        }
    }
}

/// `TESSERA_LOG` has the last word, in the syntax of tracing's filters.
fn report_to_standard_error(verbose: u8, quiet: bool) {
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
