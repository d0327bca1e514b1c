//! The command line of `ptx-emulator`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};

use crate::argument::Argument;

/// Runs PTX kernels on a machine without a GPU.
#[derive(Debug, Parser)]
#[command(name = "ptx-emulator", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct CommandLine {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Arguments of the kernel, in its order:
  --arg i32=1000             a number: f64 f32 f16 bf16 e4m3 e5m2 i8 i16 i32 i64 u8 u16 u32 u64 bool
  --arg x.npy                a copy of an array, with the elements it has
  --arg bf16=x.npy           the same, converted
  --arg f32[64,128]:y.npy    an array of zeros, which is written to y.npy when the kernel has succeeded
  --arg x.npy:y.npy          a copy of x.npy, written to y.npy
  --arg bytes=map.npy        a parameter by value, of as many bytes

Example:
  ptx-emulator run vadd.ptx --grid 4 --arg x.npy --arg y.npy --arg f32[4096]:sum.npy --arg i32=4096 --arg u64=0 --arg u64=0

Floats that numpy does not have are written as float32. `ptx-emulator COMMAND --help` explains a command.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a kernel, and write the arrays that are named for it.
    Run(Launch),
    /// Run a kernel with the checker on: races, missing fences and waits, memory that nobody wrote. Fails if it reports any.
    Check(Check),
    /// Show the instructions that a warp runs, in their order, and what they write.
    Trace(Trace),
    /// Count what a kernel does: instructions by class and by line, bytes, bank conflicts, coalescing. Counts, not times.
    Profile(Profile),
}

/// What is launched.
#[derive(Debug, Args)]
pub struct Launch {
    /// The module: PTX text.
    pub file: PathBuf,
    /// The kernel; needed where the module has several.
    #[arg(short, long, value_name = "NAME")]
    pub kernel: Option<String>,
    /// CTAs along x, y and z.
    #[arg(short, long, value_name = "X[,Y[,Z]]", default_value = "1")]
    pub grid: Extent,
    /// Threads of a CTA; needed where the kernel has no .reqntid.
    #[arg(short, long, value_name = "X[,Y[,Z]]")]
    pub block: Option<Extent>,
    /// CTAs of a cluster; where it is missing what the kernel asks for, else 1.
    #[arg(short, long, value_name = "X[,Y[,Z]]")]
    pub cluster: Option<Extent>,
    /// Bytes of shared memory beside what the kernel declares.
    #[arg(short, long, value_name = "BYTES", default_value_t = 0)]
    pub shared: u32,
    /// An argument of the kernel; see `ptx-emulator --help`.
    #[arg(short, long = "arg", value_name = "ARGUMENT")]
    pub arguments: Vec<Argument>,
    /// The chip; where it is missing the first that runs the module's target.
    #[arg(long, value_name = "NAME")]
    pub chip: Option<String>,
    /// Changes the order in which warps run, to shake out races.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub seed: u64,
    /// Stop where a warp has run so many instructions: for loops that do not end.
    #[arg(long, value_name = "COUNT", default_value_t = u64::MAX, hide_default_value = true)]
    pub instruction_limit: u64,
}

#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    pub launch: Launch,
    /// Stop after so many reports.
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
}

#[derive(Debug, Args)]
pub struct Trace {
    #[command(flatten)]
    pub launch: Launch,
    /// The CTA.
    #[arg(long, value_name = "X[,Y[,Z]]", default_value = "0")]
    pub cta: Place,
    /// The warp of the CTA.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub warp: u32,
    /// Show so many instructions at most.
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    pub limit: usize,
}

#[derive(Debug, Args)]
pub struct Profile {
    #[command(flatten)]
    pub launch: Launch,
    /// Everything, as JSON.
    #[arg(long)]
    pub json: bool,
    /// Show so many lines of the module: those that run most.
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    pub lines: usize,
}

/// Numbers along x, y and z, of which missing ones are 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent(pub [u32; 3]);

/// Numbers along x, y and z, of which missing ones are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub [u32; 3]);

fn numbers(text: &str, missing: u32) -> Result<[u32; 3], String> {
    let mut all = [missing; 3];
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > 3 {
        return Err("there are three dimensions at most".into());
    }
    for (part, number) in parts.iter().zip(&mut all) {
        *number = part.trim().parse().map_err(|_| format!("`{part}` is not a number"))?;
    }
    Ok(all)
}

impl FromStr for Extent {
    type Err = String;

    fn from_str(text: &str) -> Result<Extent, String> {
        numbers(text, 1).map(Extent)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        numbers(text, 0).map(Place)
    }
}
