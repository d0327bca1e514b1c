//! `ptx-emulator`: runs, checks, traces and profiles PTX kernels on a machine without a GPU.

mod argument;
mod arguments;
mod array;
mod element;
mod launch;
mod profile;
mod trace;

use std::fmt::Write;
use std::process::ExitCode;

use clap::Parser;
use miette::{Result, miette};
use tessera_terminal::{exit_code, output};

use arguments::{Check, Command, CommandLine, Profile, Trace};
use launch::Launch;

fn main() -> ExitCode {
    exit_code(run(CommandLine::parse()))
}

fn run(line: CommandLine) -> Result<()> {
    match line.command {
        Command::Run(arguments) => {
            let launch = Launch::prepare(&arguments)?;
            launch.grid().run().map_err(launch::failed)?;
            launch.save()
        }
        Command::Check(arguments) => check(&arguments),
        Command::Trace(arguments) => trace(&arguments),
        Command::Profile(arguments) => profile(&arguments),
    }
}

fn check(arguments: &Check) -> Result<()> {
    let launch = Launch::prepare(&arguments.launch)?;
    let (outcome, reports) = launch.grid().run_checked(arguments.limit as usize);
    let mut text = String::new();
    for report in &reports {
        let _ = writeln!(text, "{report}\n");
    }
    output::write(text.as_bytes())?;
    match (outcome, reports.len()) {
        (Ok(_), 0) => {
            output::write(b"no mistakes found\n")?;
            launch.save()
        }
        (Err(fault), 0) => Err(launch::failed(fault)),
        (_, 1) => Err(miette!("the checker found a mistake")),
        (_, count) => Err(miette!("the checker found {count} mistakes")),
    }
}

fn trace(arguments: &Trace) -> Result<()> {
    let launch = Launch::prepare(&arguments.launch)?;
    let (outcome, text) = trace::trace(&launch, arguments)?;
    output::write(text.as_bytes())?;
    outcome.map_err(launch::failed)?;
    launch.save()
}

fn profile(arguments: &Profile) -> Result<()> {
    let launch = Launch::prepare(&arguments.launch)?;
    let (outcome, profile) = profile::profile(&launch.grid());
    let text = if arguments.json { profile.json()? } else { profile.text(arguments.lines) };
    output::write(text.as_bytes())?;
    outcome.map_err(launch::failed)?;
    launch.save()
}
