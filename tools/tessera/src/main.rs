//! `tessera`: exports, evaluates and runs language models.

mod arguments;
mod cache;
mod chat;
mod export;
mod generate;
mod logits;
mod request;
mod session;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use miette::Result;
use tessera_terminal::{Progress, exit_code, log_to_standard_error, output};

use arguments::{Command, CommandLine, Completions};

fn main() -> ExitCode {
    let line = CommandLine::parse();
    log_to_standard_error(line.verbose, line.quiet);
    exit_code(run(line))
}

fn run(line: CommandLine) -> Result<()> {
    let progress = Progress::unless_quiet(line.quiet);
    match line.command {
        Command::Export(arguments) => export::run(&arguments, &progress),
        Command::Logits(arguments) => logits::run(&arguments, &progress),
        Command::Generate(arguments) => generate::run(&arguments, &progress),
        Command::Chat(arguments) => chat::run(&arguments, line.quiet, &progress),
        Command::Completions(Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut CommandLine::command(), "tessera", &mut script);
            output::write(&script)
        }
    }
}
