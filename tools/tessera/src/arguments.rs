//! The command line of `tessera`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use tessera_ir::Storage;

/// Runs transformer language models that Tessera compiles.
#[derive(Debug, Parser)]
#[command(name = "tessera", version, arg_required_else_help = true, after_help = EXAMPLES)]
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
A model is a folder as Hugging Face lays it out: config.json, model.safetensors (or shards and their index) and
tokenizer.json. GPT-2, gpt-oss (also as OpenAI's `original/` has it) and Tessera's own GPT are understood.

Examples:
  tessera generate --model gpt2/ --prompt 'In the beginning'
  tessera generate --model gpt2/ --prompt 'Once' --temperature 0.8 --top-p 0.95 --seed 7
  tessera chat --model gpt-oss-20b/
  tessera logits --model gpt2/ --tokens 464,3290 --output logits.npy
  tessera export --model gpt2/ -o gpt2.ir

`tessera COMMAND --help` explains a command.";

#[derive(Debug, Subcommand)]
pub enum Command {
    Export(Export),
    Logits(Logits),
    Generate(Generate),
    Chat(Chat),
    Completions(Completions),
}

/// Write a model as graph IR, which `tesserac` compiles.
///
/// The module has two functions: `@step`, the ragged serving step with a paged KV cache, and `@sample`. Weights are not in it:
/// its parameters have the names of the tensors in the folder, and are bound when the compiled model is loaded.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tessera export --model gpt2/ -o gpt2.ir
  tessera export --model gpt2/ | less
  tesserac compile gpt2.ir -o gpt2.tsr --target host")]
pub struct Export {
    #[command(flatten)]
    pub model: ModelArguments,
    /// Where to write the IR; `-` is standard output.
    #[arg(short, long, value_name = "MODEL.ir", default_value = "-", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
}

/// Compute the logits of every token of a sequence.
///
/// Writes a NumPy file of float32 [tokens, vocabulary].
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tessera logits --model gpt2/ --tokens 464,3290,318 --output logits.npy
  tessera logits --model gpt2/ --text 'The dog is' --output logits.npy --device cuda:0")]
pub struct Logits {
    #[command(flatten)]
    pub model: ModelArguments,
    #[command(flatten)]
    pub run: RunArguments,
    /// The sequence as token ids, separated by commas.
    #[arg(
        long,
        value_name = "ID,ID,…",
        value_delimiter = ',',
        required_unless_present = "text",
        conflicts_with = "text"
    )]
    pub tokens: Vec<u32>,
    /// The sequence as text, for the model's tokenizer.
    #[arg(long, value_name = "TEXT")]
    pub text: Option<String>,
    /// Where to write the logits.
    #[arg(short, long, value_name = "FILE.npy", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
}

/// Continue prompts.
///
/// Prints the new text, and nothing else, on standard output, as it comes. With several prompts, which run together as one
/// batch, the continuations are printed in order, each followed by a line break, when all are done.
///
/// With --chat each prompt is a user's message, rendered as the model expects a conversation, and the text of the answer is what is
/// printed; what the model thinks before is not, but is part of --json.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tessera generate --model gpt2/ --prompt 'In the beginning' --max-new-tokens 64
  tessera generate --model gpt2/ --prompt 'One' --prompt 'Two' --json
  tessera generate --model gpt2/ --prompt 'Once' --temperature 0.8 --top-k 50 --top-p 0.95 --seed 7
  tessera generate --model gpt2/ --prompt \"$(cat question.txt)\" --device cuda:0 --weights bf16")]
pub struct Generate {
    #[command(flatten)]
    pub model: ModelArguments,
    #[command(flatten)]
    pub run: RunArguments,
    /// Text to continue; may be given several times.
    #[arg(short, long, value_name = "TEXT", required = true)]
    pub prompt: Vec<String>,
    /// Stop after this many new tokens.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128)]
    pub max_new_tokens: usize,
    #[command(flatten)]
    pub sampling: SamplingArguments,
    /// Take prompts for messages of a conversation.
    #[arg(long)]
    pub chat: bool,
    #[command(flatten)]
    pub setting: SettingArguments,
    /// Go on after the end-of-text token.
    #[arg(long)]
    pub ignore_end_of_text: bool,
    /// Tokens of prompts that one step takes; longer prompts are fed in chunks.
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    pub tokens_per_step: u32,
    /// Say on standard error, at the end, what took how long.
    #[arg(long)]
    pub timings: bool,
    /// Print one JSON object instead: prompt and new ids, text and reason of ending of each sequence, and timings in seconds; with
    /// --chat also reasoning and calls of functions.
    #[arg(long)]
    pub json: bool,
    /// Report the log-probability of each new token and of so many of the likeliest in its place, as part of --json.
    #[arg(long, value_name = "N", requires = "json")]
    pub logprobs: Option<usize>,
}

/// Talk with a model.
///
/// Answers appear as they come, what the model thinks before them dimmed. Ctrl-C stops an answer, Ctrl-D ends the conversation, and
/// `/help` lists what else there is. A line that ends with a backslash goes on in the next.
///
/// Where standard input is no terminal, each of its lines is a message, and only the answers go to standard output.
///
/// gpt-oss is talked to in harmony, with roles, channels and functions. Any other model is given what the chat template of its folder
/// makes of the conversation or, without one, plain text: what it is told, then `User:` and `Assistant:` in turns.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tessera chat --model gpt-oss-20b/
  tessera chat --model gpt-oss-20b/ --effort high --developer 'Answer in verse.'
  tessera chat --model gpt-oss-20b/ --tools functions.json --device cuda:0
  echo 'Why is the sky blue?' | tessera chat --model gpt-oss-20b/")]
pub struct Chat {
    #[command(flatten)]
    pub model: ModelArguments,
    #[command(flatten)]
    pub run: RunArguments,
    /// Stop an answer after this many new tokens; without it, where the context ends.
    #[arg(short = 'n', long, value_name = "N")]
    pub max_new_tokens: Option<usize>,
    #[command(flatten)]
    pub sampling: SamplingArguments,
    #[command(flatten)]
    pub setting: SettingArguments,
    /// Tokens that the KV cache holds, for the whole conversation; at most the model's longest sequence.
    #[arg(long, value_name = "N", default_value_t = 16384, value_parser = clap::value_parser!(u32).range(1..))]
    pub context: u32,
    /// Whether what the model thinks is shown; in a terminal it is, unless this says otherwise.
    #[arg(long, value_enum, value_name = "WHEN")]
    pub reasoning: Option<Visibility>,
    /// Say after each answer, on standard error, how long it took.
    #[arg(long)]
    pub timings: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Visibility {
    /// Dimmed where there are colors.
    Show,
    /// Not at all.
    Hide,
}

/// How tokens are chosen.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArguments {
    /// Divides the logits before sampling; 0 takes the most likely token always, and is what `generate` does by itself, where `chat` has 1.
    #[arg(short, long, value_name = "X")]
    pub temperature: Option<f32>,
    /// Sample among this many most likely tokens; 0 is all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: u32,
    /// Sample among the most likely tokens that together have this probability; 1 is all.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub top_p: f32,
    /// Sample among the tokens that are at least this many times as likely as the likeliest; 0 is all.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub min_p: f32,
    /// Divide the logits of tokens that have occurred, prompt included, by this if they are positive, else multiply; 1 is off.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// Subtract this from the logits of tokens that are in the new text.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,
    /// Subtract this from the logits of tokens for each time that they are in the new text.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// Add this to a token's logits (-inf forbids it); may be given several times.
    #[arg(long, value_name = "ID=X", value_parser = logit_bias)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of sampling: the same seed, prompt and model give the same text. `generate` has 0 by itself, `chat` another each time.
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// Stop before this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Have the text be JSON of this JSON schema: a file, or the schema itself.
    #[arg(long, value_name = "FILE|JSON", conflicts_with = "regex")]
    pub json_schema: Option<String>,
    /// Have the whole text match this regular expression.
    #[arg(long, value_name = "REGEX")]
    pub regex: Option<String>,
}

fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let (token, bias) = text.split_once('=').ok_or("a token's id, =, and a number")?;
    Ok((token.parse().map_err(|error| format!("{error}"))?, bias.parse().map_err(|error| format!("{error}"))?))
}

/// What a model is told before a conversation.
#[derive(Debug, Args)]
#[command(next_help_heading = "Conversation")]
pub struct SettingArguments {
    /// Tell the model who it is, in place of what it was trained with.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Instructions for the model.
    #[arg(long, value_name = "TEXT")]
    pub developer: Option<String>,
    /// How much the model thinks before it answers.
    #[arg(long, value_enum, value_name = "EFFORT", default_value_t = EffortName::Medium)]
    pub effort: EffortName,
    /// The date that the model is told, as 2025-06-28; by itself, today's.
    #[arg(long, value_name = "DATE")]
    pub date: Option<String>,
    /// Functions that the model may call: a JSON file with a list of name, description and parameters (a JSON schema), or of such
    /// objects as OpenAI's API takes.
    #[arg(long, value_name = "FILE.json", value_hint = ValueHint::FilePath)]
    pub tools: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EffortName {
    /// Briefly.
    Low,
    /// As it does by itself.
    Medium,
    /// At length.
    High,
}

/// Write completions for a shell to standard output.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tessera completions bash > ~/.local/share/bash-completion/completions/tessera
  tessera completions fish > ~/.config/fish/completions/tessera.fish")]
pub struct Completions {
    /// The shell.
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct ModelArguments {
    /// The model's folder.
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub model: PathBuf,
    /// Storage of the weight matrices. Another than the checkpoint's is converted once and kept in the cache.
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = WeightStorage::Stored)]
    pub weights: WeightStorage,
    /// What gpt-oss computes in: f32, f16 or bf16. bf16 on a GPU and f32 elsewhere if not given.
    #[arg(long, value_name = "TYPE", value_parser = activation_storage)]
    pub activations: Option<Storage>,
    /// Storage of gpt-oss's KV cache: f32, f16, bf16, fp8_e5m2 or fp8_e4m3. That of the activations if not given.
    #[arg(long, value_name = "TYPE", value_parser = cache_storage)]
    pub kv_cache: Option<Storage>,
}

fn activation_storage(text: &str) -> Result<Storage, String> {
    one_of(text, &[Storage::F32, Storage::F16, Storage::Bf16])
}

fn cache_storage(text: &str) -> Result<Storage, String> {
    one_of(text, &[Storage::F32, Storage::F16, Storage::Bf16, Storage::Fp8E5m2, Storage::Fp8E4m3])
}

fn one_of(text: &str, storages: &[Storage]) -> Result<Storage, String> {
    let found = text.parse().ok().filter(|storage| storages.contains(storage));
    found.ok_or_else(|| {
        format!("expected {}", storages.iter().map(|storage| storage.name()).collect::<Vec<_>>().join(", "))
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WeightStorage {
    /// As the checkpoint has them.
    Stored,
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// bfloat16.
    Bf16,
}

#[derive(Debug, Args)]
pub struct RunArguments {
    /// Where to run: `host`, `cuda:N`, `emulated[:sm_NN]` (the GPU path without a GPU), or `reference`, which compiles nothing and
    /// evaluates the graph in f64, slowly.
    #[arg(short, long, value_name = "DEVICE", default_value = "host")]
    pub device: String,
    /// Compile anew, and keep nothing.
    #[arg(long)]
    pub no_cache: bool,
}
