//! `tesserac`: compiles, checks, runs and shows models that are written as graph IR.

mod arguments;
mod cache;
mod compile;
mod disassemble;
mod files;
mod inspect;
mod npy;
mod ops;
mod opt;
mod page;
mod progress;
mod run;
mod source;

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
        Err(error) if files::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run(line: CommandLine) -> Result<()> {
    let progress = progress::Progress::new(!line.quiet && std::io::stderr().is_terminal());
    match line.command {
        Command::Compile(arguments) => compile::run(&arguments, &progress),
        Command::Opt(arguments) => opt::run(&arguments),
        Command::Run(arguments) => run::run(&arguments, &progress),
        Command::Inspect(arguments) => inspect::run(&arguments, &progress),
        Command::Ops(arguments) => ops::run(&arguments),
        Command::Completions(Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut CommandLine::command(), "tesserac", &mut script);
            files::print(&script)
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
