//! The command line of `tesserac`.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use tessera_compiler::graph::DEFAULT_PIPELINE;
use tessera_compiler::target::Target;
use tessera_ir::Storage;

/// Compiles models that are written as graph IR.
#[derive(Debug, Parser)]
#[command(name = "tesserac", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct CommandLine {
    #[command(subcommand)]
    pub command: Command,
    /// Say more on standard error: -v what happens, -vv every detail.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Say nothing on standard error but errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

const EXAMPLES: &str = "\
A model goes through these stages; each can be looked at, edited and resumed from:

  graph ─ passes ─► fused graph ─► schedule ─► tile programs ─► MLIR ─► LLVM ─► PTX or host code ─► artifact (.tsr)

Examples:
  tessera export --model gpt2/ -o gpt2.ir                    write a model as graph IR
  tesserac compile gpt2.ir -o gpt2.tsr --target host         compile it for this machine
  tesserac compile gpt2.ir -o ptx/ --target sm_90a --emit ptx
  tesserac opt gpt2.ir --passes canonicalize,cse,fuse        see what passes make of it
  tesserac run block.ir --compare reference --dim T=33       compile, run, and compare with the reference evaluation
  tesserac inspect gpt2.tsr                                  see what is in an artifact
  tesserac ops matmul                                        read about an op
  tesserac quantize gpt-oss/ -o gpt-oss-mxfp4/ --experts mxfp4

`tesserac COMMAND --help` explains a command.";

#[derive(Debug, Subcommand)]
pub enum Command {
    Compile(Compile),
    Opt(Opt),
    Run(Run),
    Inspect(Inspect),
    Ops(Ops),
    Quantize(Quantize),
    Completions(Completions),
}

/// Write a model's folder with its weights in narrower storage, and report the error that this makes.
///
/// Of each tensor that is rounded the report gives the root of its mean square, that of the changes, both in one ratio, and the largest
/// change. The model is one that `tessera` runs: a gpt-oss, or Tessera's own GPT.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tesserac quantize gpt-oss-bf16/ -o gpt-oss-mxfp4/ --experts mxfp4     as the published checkpoints are
  tesserac quantize gpt-oss-20b/ -o gpt-oss-small/ --matrices i8        the rest in eight bits, a scale for each row
  tesserac quantize gpt/ -o gpt-fp8/ --matrices fp8_e4m3 --each")]
pub struct Quantize {
    /// The model's folder.
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub model: PathBuf,
    /// The folder to write.
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: PathBuf,
    /// Storage of the experts' matrices: `mxfp4`.
    #[arg(long, value_name = "TYPE", required_unless_present = "matrices")]
    pub experts: Option<Storage>,
    /// Storage of the other matrices, with a scale for each row: `fp8_e4m3`, `fp8_e5m2` or `i8`.
    #[arg(long, value_name = "TYPE")]
    pub matrices: Option<Storage>,
    /// Report every tensor, not only those of all layers together.
    #[arg(long)]
    pub each: bool,
}

/// Compile a module for a target.
///
/// The result is an artifact that the runtime loads: the execution plan and the kernels of every function, without the weights, which
/// are bound by the names of the parameters when it is loaded. With --emit an earlier stage is written instead.
///
/// The input may be a stage that an earlier compilation dumped: a module of scheduled fusions is not scheduled again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tesserac compile model.ir -o model.tsr                             for the processor of this machine
  tesserac compile model.ir -o ptx/ --target sm_80 --emit ptx        one .ptx file for each kernel
  tesserac compile model.ir -o - --target sm_90a --emit schedule     how the graph is cut into kernels
  tesserac compile model.ir -o model.tsr --dump-dir stages/          every stage as a numbered file
  tesserac compile stages/03.schedule.ir -o model.tsr                resume from an edited schedule
  tesserac compile stages/03.schedule.ir --tiles stages/04.tile -o model.tsr
  tesserac compile model.ir -o model.tsr --print-schedule --knob matmul.columns=128")]
pub struct Compile {
    /// The module to compile, or a dumped stage of one.
    #[arg(value_name = "MODEL.ir", value_hint = ValueHint::FilePath)]
    pub input: PathBuf,
    /// Where to write the result: a file, or a folder for the stages that have one file for each kernel; `-` is standard output.
    #[arg(short, long, value_name = "OUT", value_hint = ValueHint::AnyPath)]
    pub output: PathBuf,
    /// What to compile for: `host`, `sm_80`, `sm_90a`, `sm_100a`, ….
    #[arg(short, long, value_name = "TARGET", default_value_t = Target::Host)]
    pub target: Target,
    /// Sizes of the mesh axes, in place of those in the module.
    #[arg(long, value_name = "AXIS=N,…", value_delimiter = ',', value_parser = axis)]
    pub mesh: Vec<(String, u64)>,
    /// Write this stage instead of the artifact.
    #[arg(short, long, value_name = "STAGE", value_enum)]
    pub emit: Option<Emit>,
    /// Tile programs that take the place of the compiler's own: the folder of a dumped stage `tile`.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub tiles: Option<PathBuf>,
    /// The graph passes to run, in order.
    #[arg(long, value_name = "PASS,…", default_value = DEFAULT_PIPELINE, hide_default_value = true)]
    pub passes: String,
    /// Set a knob of a strategy by hand, for all kernels of that strategy.
    #[arg(long, value_name = "STRATEGY.KNOB=N")]
    pub knob: Vec<String>,
    /// Write every stage into this folder, as numbered files.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dump_dir: Option<PathBuf>,
    /// Write the module after this pass: into the folder of --dump-dir, or to standard error.
    #[arg(long, value_name = "PASS")]
    pub dump_after: Vec<String>,
    /// Say how long each pass and stage took.
    #[arg(long)]
    pub time_passes: bool,
    /// Say which kernels there are, and the schedule of each.
    #[arg(long)]
    pub print_schedule: bool,
    /// Say what the passes fused and changed, and what they left, and why.
    #[arg(long)]
    pub remarks: bool,
    /// Compile anew, and keep nothing for the next time.
    #[arg(long)]
    pub no_cache: bool,
}

/// A stage that `compile` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Emit {
    /// The graph after all passes (one file).
    Graph,
    /// The graph cut into kernels, with their schedules (one file).
    Schedule,
    /// Tile programs (a folder).
    Tile,
    /// MLIR (a folder).
    Mlir,
    /// LLVM IR (a folder).
    Llvm,
    /// Assembly language of the host (a folder).
    Assembly,
    /// PTX (a folder).
    Ptx,
    /// Machine code of the GPU as nvdisasm shows it; needs ptxas and nvdisasm (a folder).
    Sass,
}

/// Run graph passes and print the module.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tesserac opt model.ir --passes canonicalize,cse,dce,fuse
  tesserac opt model.ir --passes legalize,fuse --target sm_80 --remarks -o fused.ir
  tesserac opt model.ir --passes ''                                  check and print the module
  tesserac opt --list-passes")]
pub struct Opt {
    /// The module.
    #[arg(value_name = "FILE.ir", value_hint = ValueHint::FilePath, required_unless_present = "list_passes")]
    pub input: Option<PathBuf>,
    /// The passes, in order.
    #[arg(short, long, value_name = "PASS,…", default_value = DEFAULT_PIPELINE)]
    pub passes: String,
    /// Where to write the module; `-` is standard output.
    #[arg(short, long, value_name = "FILE.ir", default_value = "-", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// The target that numeric policies must fit.
    #[arg(short, long, value_name = "TARGET", default_value_t = Target::Host)]
    pub target: Target,
    /// Print the module after this pass, to standard error.
    #[arg(long, value_name = "PASS")]
    pub dump_after: Vec<String>,
    /// Say how long each pass took.
    #[arg(long)]
    pub time_passes: bool,
    /// Say what the passes fused and changed, and what they left, and why.
    #[arg(long)]
    pub remarks: bool,
    /// Print the passes and what they do.
    #[arg(long)]
    pub list_passes: bool,
}

/// Run a function of an artifact or of a module.
///
/// A module is compiled first. Inputs that are not given are made up: tokens within the vocabulary, positions and pages that belong together,
/// normally distributed numbers; the same seed makes the same inputs. With --compare every output, and every cache that the function changes, is compared with the
/// reference evaluation, which computes in f64 and rounds at every operation, and the exit status says whether all are within the tolerance.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tesserac run block.ir --compare reference
  tesserac run block.ir --compare reference --dim T=129 --seed 7 --device cuda:0
  tesserac run model.tsr --function step --weights model.safetensors --input tokens=tokens.npy --output logits=logits.npy
  tesserac run model.tsr --weights model.safetensors --profile")]
pub struct Run {
    /// The artifact (.tsr) or the module (.ir).
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// The function; needed where there are several.
    #[arg(short, long, value_name = "NAME")]
    pub function: Option<String>,
    /// Where to run: `host`, `cuda:N`, or `emulated[:sm_NN]`, the GPU path without a GPU.
    #[arg(short, long, value_name = "DEVICE", default_value = "host")]
    pub device: String,
    /// What to compare the outputs with.
    #[arg(long, value_name = "WHAT", value_enum)]
    pub compare: Option<Compare>,
    /// An input from a NumPy file; may be given for each input.
    #[arg(short, long, value_name = "NAME=FILE.npy", value_parser = named_path)]
    pub input: Vec<(String, PathBuf)>,
    /// Write an output to a NumPy file; may be given for each output. Formats that NumPy lacks become float32.
    #[arg(short, long, value_name = "NAME=FILE.npy", value_parser = named_path)]
    pub output: Vec<(String, PathBuf)>,
    /// The weights: a safetensors file, the index of a sharded one, or a folder. Made up if not given.
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub weights: Option<PathBuf>,
    /// The extent of a symbol, where no given input binds it.
    #[arg(long, value_name = "SYMBOL=N", value_parser = axis)]
    pub dim: Vec<(String, u64)>,
    /// The seed of made-up inputs and weights.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Largest admitted difference, relative to the element or to the root mean square of all, whichever is larger. By default it follows
    /// from the types: the roundings u of the longest chain of operations add up as σ = √Σu²; the root mean square of the differences
    /// is to be below σ, and the largest below 8 σ.
    #[arg(long, value_name = "X", value_parser = tolerance)]
    pub tolerance: Option<f64>,
    /// Say how long each launch takes: the median of some runs after one that warms up.
    #[arg(long, value_name = "RUNS", num_args = 0..=1, require_equals = true, default_missing_value = "11")]
    pub profile: Option<NonZeroU32>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// What `run` compares with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compare {
    /// The reference evaluation of the graph, in f64; needs a module, not an artifact.
    Reference,
}

/// Show what is in an artifact or a module.
///
/// Of an artifact: target signature, functions with inputs and outputs, kernels, launches, memory. Of a module: the graph after the passes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tesserac inspect model.tsr
  tesserac inspect model.tsr --launches
  tesserac inspect model.ir --target sm_90a --html model.html        a page to browse: ops, fusions, kernels, sizes")]
pub struct Inspect {
    /// The artifact (.tsr) or the module (.ir).
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// List every launch with its grid and arguments.
    #[arg(long)]
    pub launches: bool,
    /// Write a page to browse, in one file that needs nothing else.
    #[arg(long, value_name = "FILE.html", value_hint = ValueHint::FilePath)]
    pub html: Option<PathBuf>,
    /// The target that a module is compiled for.
    #[arg(short, long, value_name = "TARGET", default_value_t = Target::Host)]
    pub target: Target,
    /// Print one JSON object instead of text.
    #[arg(long, conflicts_with = "launches")]
    pub json: bool,
}

/// Describe the ops of the graph IR.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tesserac ops                every op, as a page of Markdown
  tesserac ops --list         names and summaries
  tesserac ops rope           one op")]
pub struct Ops {
    /// The op to describe; all if none is named.
    #[arg(value_name = "OP")]
    pub op: Option<String>,
    /// Names and summaries alone.
    #[arg(short, long, conflicts_with = "op")]
    pub list: bool,
}

/// Write completions for a shell to standard output.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tesserac completions bash > ~/.local/share/bash-completion/completions/tesserac
  tesserac completions fish > ~/.config/fish/completions/tesserac.fish")]
pub struct Completions {
    /// The shell.
    pub shell: Shell,
}

/// Reads `NAME=NUMBER`.
fn axis(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=NUMBER")?;
    let value = value.trim().parse().map_err(|_| format!("`{value}` is no natural number"))?;
    Ok((name.trim().to_owned(), value))
}

/// Reads `NAME=PATH`.
fn named_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((name.trim_start_matches('%').to_owned(), path.into()))
        }
        _ => Err("write it as NAME=FILE.npy".to_owned()),
    }
}

/// Reads a tolerance.
fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value >= 0.0 => Ok(value),
        _ => Err(format!("`{text}` is no number from 0")),
    }
}
