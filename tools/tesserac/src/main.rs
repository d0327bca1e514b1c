//! `tesserac`: compiles, checks, runs and shows models that are written as graph IR.

mod arguments;
mod compile;
mod disassemble;
mod files;
mod inspect;
mod npy;
mod ops;
mod opt;
mod page;
mod picture;
mod quantize;
mod run;
mod source;

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
        Command::Compile(arguments) => compile::run(&arguments, &progress),
        Command::Opt(arguments) => opt::run(&arguments),
        Command::Run(arguments) => run::run(&arguments, &progress),
        Command::Inspect(arguments) => inspect::run(&arguments, &progress),
        Command::Ops(arguments) => ops::run(&arguments),
        Command::Quantize(arguments) => quantize::run(&arguments, &progress),
        Command::Completions(Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut CommandLine::command(), "tesserac", &mut script);
            output::write(&script)
        }
    }
}
