//! `tessera` as a user runs it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use portable_pty::{CommandBuilder, PtyPair, PtySize, native_pty_system};
use serde_json::Value;
use tempfile::TempDir;
use tessera_ir::Storage;
use tessera_models::gpt_oss::{AttentionKind, GptOssConfig};
use tessera_models::weights::Initialization;
use tessera_models::{Model, ModelConfig, Tokenizer};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gpt2-kjv").join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("expected.json")).unwrap()).unwrap()
}

/// `tessera` with a folder for what it writes. The cache is every test's, so that the fixture is compiled once.
struct Tessera {
    folder: TempDir,
    cache: PathBuf,
}

impl Tessera {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), cache: Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache") }
    }

    /// With a cache of its own.
    fn alone() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { cache: folder.path().join("cache"), folder }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("tessera").unwrap();
        command.env("TESSERA_CACHE", &self.cache).env("NO_COLOR", "1").args(arguments);
        command
    }

    /// Runs a command on the fixture and gives its standard output.
    fn output(&self, name: &str, arguments: &[&str]) -> String {
        let model = fixture("");
        let assert = self.command(&[name, "--model", model.to_str().unwrap()]).args(arguments).assert().success();
        String::from_utf8(assert.get_output().stdout.clone()).unwrap()
    }

    /// Runs a command that fails, and gives what it says on standard error, in one line.
    fn error(&self, arguments: &[&str]) -> String {
        let assert = self.command(arguments).assert().failure();
        assert!(assert.get_output().stdout.is_empty());
        let text = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(!text.contains("panicked"), "{text}");
        text.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ")
    }
}

const DEVICES: [&str; 2] = ["reference", "host"];

#[test]
fn export_writes_the_checked_in_ir() {
    let tessera = Tessera::new();
    let path = tessera.folder.path().join("gpt2.ir");
    assert_eq!(tessera.output("export", &["-o", path.to_str().unwrap()]), "");
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/ir/gpt2-kjv.ir");
    let checked_in = std::fs::read_to_string(checked_in).unwrap();
    assert!(std::fs::read_to_string(&path).unwrap() == checked_in);
    assert!(tessera.output("export", &[]) == checked_in);
}

#[test]
fn generate_prints_the_new_text_alone() {
    let tessera = Tessera::new();
    for device in DEVICES {
        for case in expected()["greedy"].as_array().unwrap() {
            let prompt = case["prompt"].as_str().unwrap();
            let text = tessera.output("generate", &["--prompt", prompt, "-n", "32", "--device", device]);
            assert_eq!(text, format!("{}\n", case["greedy_text"].as_str().unwrap()));
        }
    }
}

#[test]
fn a_batch_of_prompts_is_each_alone() {
    let tessera = Tessera::new();
    let cases = expected()["greedy"].as_array().unwrap().clone();
    for device in DEVICES {
        let mut arguments = vec!["--max-new-tokens", "32", "--device", device, "--json"];
        for case in &cases {
            arguments.extend(["--prompt", case["prompt"].as_str().unwrap()]);
        }
        let report: Value = serde_json::from_str(&tessera.output("generate", &arguments)).unwrap();
        for (case, sequence) in cases.iter().zip(report["sequences"].as_array().unwrap()) {
            for (field, wanted) in [("prompt", "prompt"), ("prompt_ids", "prompt_ids"), ("ids", "greedy_ids")] {
                assert_eq!(sequence[field], case[wanted]);
            }
            assert_eq!((&sequence["text"], &sequence["finish_reason"]), (&case["greedy_text"], &"length".into()));
        }
        let timings = &report["timings"];
        assert_eq!((&timings["decoded_tokens"], &timings["steps"]), (&(4 * 31).into(), &32.into()));
        assert!(timings["decode_tokens_per_second"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn sampling_follows_the_seed() {
    let tessera = Tessera::new();
    let sample = |seed: &str| {
        let sampling = ["--temperature", "1", "--top-k", "50", "--top-p", "0.9", "--seed", seed];
        tessera.output("generate", &[&["-p", "And God said", "-n", "12", "-d", "reference"], &sampling[..]].concat())
    };
    assert_eq!(sample("7"), sample("7"));
    assert_ne!(sample("7"), sample("8"));
}

#[test]
fn logits_are_those_of_transformers() {
    let tessera = Tessera::new();
    let ids: Vec<String> = expected()["logits_input_ids"].as_array().unwrap().iter().map(|id| id.to_string()).collect();
    let path = tessera.folder.path().join("logits.npy");
    let read = |path: &Path| {
        let file = npyz::NpyFile::new(std::fs::File::open(path).unwrap()).unwrap();
        (file.shape().to_vec(), file.into_vec::<f32>().unwrap())
    };
    let (shape, wanted) = read(&fixture("logits.npy"));
    for device in DEVICES {
        tessera.output("logits", &["--tokens", &ids.join(","), "-o", path.to_str().unwrap(), "--device", device]);
        let (found_shape, found) = read(&path);
        assert_eq!(found_shape, shape);
        let worst = wanted.iter().zip(&found).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-4, "{device}: {worst}");
    }
}

#[test]
fn converted_weights_are_kept() {
    let tessera = Tessera::alone();
    let kept = || {
        let files = std::fs::read_dir(&tessera.cache).unwrap();
        files.filter(|file| file.as_ref().unwrap().path().extension() == Some("safetensors".as_ref())).count()
    };
    let first = tessera.output("export", &["--weights", "bf16"]);
    assert!(first.contains("@transformer.wte.weight : tensor<2048x192xbf16>"));
    assert!(first.contains("@transformer.ln_f.weight : tensor<192xf32>"));
    assert_eq!(kept(), 1);
    assert!(tessera.output("export", &["--weights", "bf16"]) == first);
    assert_eq!(kept(), 1);
}

#[test]
fn what_was_compiled_is_found_again_unless_told_otherwise() {
    let tessera = Tessera::alone();
    let from_cache = |arguments: &[&str]| {
        let report = tessera.output("generate", &[&["-p", "And", "-n", "1", "--json"], arguments].concat());
        let report: Value = serde_json::from_str(&report).unwrap();
        report["timings"]["compiled_from_cache"].as_bool().unwrap()
    };
    assert!(!from_cache(&["--no-cache"]));
    assert!(!tessera.cache.exists());
    assert!(!from_cache(&[]));
    assert!(from_cache(&[]));
    assert!(!from_cache(&["--weights", "bf16"]));
}

#[test]
fn narrow_weights_give_nearly_the_same_logits() {
    let tessera = Tessera::new();
    let logits = |arguments: &[&str]| {
        let path = tessera.folder.path().join("logits.npy");
        let output = ["--text", "And it came to pass", "-o", path.to_str().unwrap()];
        tessera.output("logits", &[&output, arguments].concat());
        npyz::NpyFile::new(std::fs::File::open(path).unwrap()).unwrap().into_vec::<f32>().unwrap()
    };
    let exact = logits(&[]);
    for (weights, bound) in [("bf16", 0.15), ("f16", 0.02)] {
        for device in ["host", "reference"] {
            let rounded = logits(&["--weights", weights, "-d", device]);
            let worst = exact.iter().zip(&rounded).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max);
            assert!(worst > 0.0 && worst < bound, "{weights} on {device}: {worst}");
        }
    }
}

#[test]
fn mistakes_are_explained() {
    let tessera = Tessera::new();
    let model = fixture("");
    let model = model.to_str().unwrap();
    let empty = tempfile::tempdir().unwrap();
    let empty = empty.path().to_str().unwrap();
    for (arguments, message) in [
        (&["generate", "--model", "/nonexistent", "-p", "x", "-d", "reference"][..], "/nonexistent is not a folder"),
        (&["generate", "--model", empty, "-p", "x", "-d", "reference"], "has no config.json"),
        (&["generate", "--model", model, "-p", "x", "--top-p", "3"], "top_p 3 must be above 0 and at most 1"),
        (&["generate", "--model", model, "-p", "x", "--temperature=-1"], "temperature -1 must be finite"),
        (&["generate", "--model", model, "-p", "x", "-d", "gpu"], "`gpu`"),
        (&["generate", "--model", model, "-p", "x", "--min-p", "2"], "min_p 2 must be at least 0 and at most 1"),
        (
            &["generate", "--model", model, "-p", "x", "--repetition-penalty", "0"],
            "repetition_penalty 0 must be finite and above 0",
        ),
        (
            &["generate", "--model", model, "-p", "x", "--frequency-penalty", "nan"],
            "frequency_penalty NaN must be finite",
        ),
        (
            &["generate", "--model", model, "-p", "x", "--logit-bias", "9999=1", "-d", "reference"],
            "logit_bias 9999: 1 must be a token of the vocabulary of 2048",
        ),
        (&["generate", "--model", model, "-p", "x", "--logit-bias", "LORD"], "invalid value 'LORD'"),
        (
            &["generate", "--model", model, "-p", "x", "--stop", "", "-d", "reference"],
            "stop_strings \"\" must not be empty",
        ),
        (
            &["generate", "--model", model, "-p", "x", "--logprobs", "9999", "--json", "-d", "reference"],
            "logprobs 9999 must be at most",
        ),
        (&["generate", "--model", model, "-p", "x", "--regex", "[", "-d", "reference"], "structure /[/ is not usable"),
        (&["generate", "--model", model, "-p", "x", "--json-schema", "{"], "--json-schema is no JSON"),
        (&["generate", "--model", model, "-p", "x", "--json-schema", "/nonexistent"], "--json-schema is neither"),
        (&["chat", "--model", model, "--tools", "/nonexistent"], "cannot read /nonexistent"),
        (&["chat", "--model", model, "--effort", "none"], "[possible values: low, medium, high]"),
        (
            &["logits", "--model", model, "--tokens", "1,2048", "-o", "x.npy", "-d", "reference"],
            "token 2048 at position 1",
        ),
        (&["logits", "--model", model, "--text", "", "-o", "x.npy", "-d", "reference"], "the sequence is empty"),
        (&["logits", "--model", model, "--tokens", "1", "-o", "/nonexistent/x.npy", "-d", "reference"], "cannot write"),
        (&["export", "--model", model, "-o", "/nonexistent/x.ir"], "cannot write /nonexistent/x.ir"),
        (&["logits", "--model", model, "--tokens", "1,x", "-o", "x.npy"], "invalid value 'x'"),
        (&["generate", "--model", model], "--prompt <TEXT>"),
    ] {
        let error = tessera.error(arguments);
        assert!(error.contains(message), "{arguments:?}: {error}");
    }
    let long = "and ".repeat(600);
    let error = tessera.error(&["generate", "--model", model, "-p", &long, "-d", "reference"]);
    assert!(error.contains("is longer than the model's longest sequence, 512"), "{error}");
}

#[test]
fn a_conversation_over_pipes_is_a_line_for_each_message() {
    let tessera = Tessera::new();
    let model = fixture("");
    let talk = |lines: &str, more: &[&str]| {
        let arguments = ["chat", "--model", model.to_str().unwrap(), "-t", "0", "-n", "12"];
        let assert = tessera.command(&arguments).args(more).write_stdin(lines.to_owned()).assert().success();
        let output = assert.get_output();
        (String::from_utf8(output.stdout.clone()).unwrap(), String::from_utf8(output.stderr.clone()).unwrap())
    };
    let (first, notes) = talk("Who made the light?\n", &[]);
    assert!(first.trim().len() > 4 && notes.contains("(cut off)"), "{first}{notes}");
    // What was said before counts, until it is forgotten.
    let (both, notes) = talk(
        "Who made the light?\n\nWho made the light?\n/reset\nWho made \\\nthe light?\n/nonsense\n/help\n",
        &["--timings"],
    );
    assert!(both.starts_with(&first) && both.len() > first.len(), "{both}");
    for part in ["there is no /nonsense", "/effort low|medium|high", "A new conversation.", "and 16 from the cache"] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    assert_eq!(talk("", &[]).0, "");
    assert_eq!(talk("Who made the light?\n/help\n", &["-q", "--timings"]), (first.clone(), String::new()));
    let (again, notes) = talk(&format!("{}\nWho made the light?\n", "and ".repeat(600)), &[]);
    assert!(notes.contains("and there is room for 512. /reset begins a new one."), "{notes}");
    assert_eq!(again, first, "a message that does not fit leaves no trace");
    // A model with a seed of its own each time answers something.
    let assert = tessera.command(&["chat", "--model", model.to_str().unwrap(), "-n", "3"]).write_stdin("Who?").assert();
    assert!(!assert.success().get_output().stdout.is_empty());
}

/// In a terminal: Ctrl-C stops an answer and not the program.
#[test]
fn a_terminal_conversation_is_interrupted_and_goes_on() {
    let tessera = Tessera::new();
    // What is typed waits for the program; compiling first keeps that short.
    tessera.output("generate", &["-p", "x", "-n", "1"]);
    let PtyPair { master, slave } = native_pty_system().openpty(PtySize::default()).unwrap();
    let mut command = CommandBuilder::new(assert_cmd::cargo::cargo_bin("tessera"));
    command.args(["chat", "--model", fixture("").to_str().unwrap(), "-t", "0"]);
    command.env("TESSERA_CACHE", &tessera.cache);
    command.env("TERM", "xterm");
    command.env("NO_COLOR", "1");
    let mut child = slave.spawn_command(command).unwrap();
    // The screen ends with the last process that has the terminal open.
    drop(slave);
    let (mut input, mut output) = (master.take_writer().unwrap(), master.try_clone_reader().unwrap());
    let (sender, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = output.read(&mut bytes) {
            let _ = sender.send(String::from_utf8_lossy(&bytes[..count]).into_owned());
        }
    });
    // Waits until the screen has a text after what was waited for last.
    let mut screen = String::new();
    let mut wait_for = |text: &str| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !screen.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            screen += &seen.recv_timeout(left).unwrap_or_else(|_| panic!("{text:?} does not come: {screen}"));
        }
        screen = screen.split_off(screen.find(text).unwrap() + text.len());
    };
    let mut press = |keys: &str| {
        input.write_all(keys.as_bytes()).unwrap();
        input.flush().unwrap();
    };
    wait_for("> ");
    press("Who made the light?\r");
    wait_for("light?");
    // The answer has begun.
    wait_for("\n");
    wait_for(" ");
    press("\x03");
    wait_for("(stopped)");
    wait_for("> ");
    press("\x03");
    wait_for("Ctrl-D, or /quit");
    press("/effort none\r");
    wait_for("/effort is low, medium or high");
    wait_for("> ");
    press("\x04");
    assert!(child.wait().unwrap().success());
}

#[test]
fn generate_takes_prompts_for_messages() {
    let tessera = Tessera::new();
    let report =
        tessera.output("generate", &["--chat", "--system", "Thou art brief.", "-p", "Who?", "-n", "8", "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    let sequence = &report["sequences"][0];
    assert_eq!((&sequence["reasoning"], &sequence["calls"]), (&"".into(), &Value::Array(vec![])));
    let text = sequence["text"].as_str().unwrap();
    assert!(!text.starts_with(' ') && !text.contains("User:"), "{text}");
    // The plain rendering.
    let raw = tessera.output("generate", &["-p", "Thou art brief.\n\nUser: Who?\nAssistant:", "-n", "8"]);
    assert_eq!(raw.trim(), text.trim());
}

/// A gpt-oss of random weights, but of the real vocabulary, answers in what is no harmony at all.
#[test]
fn a_gpt_oss_without_sense_is_talked_to_in_harmony() {
    let tessera = Tessera::new();
    let config = GptOssConfig {
        hidden_size: 32,
        intermediate_size: 32,
        layer_types: vec![AttentionKind::Sliding, AttentionKind::Full],
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 16,
        num_local_experts: 4,
        max_position_embeddings: 512,
        ..GptOssConfig::gpt_oss_20b()
    };
    let folder = tessera.folder.path().join("random");
    let initialization = Initialization { seed: 1, deviation: 0.1, vector_deviation: 0.1 };
    Model::write_random(&folder, &ModelConfig::GptOss(Box::new(config)), Storage::Bf16, initialization).unwrap();
    let model = folder.to_str().unwrap();
    let tools = tessera.folder.path().join("tools.json");
    std::fs::write(&tools, r#"[{"name": "now", "description": "Tells the time."}]"#).unwrap();

    let arguments =
        ["generate", "--model", model, "--chat", "-p", "Who?", "-p", "<|start|>", "-n", "24", "-t", "1", "--json"];
    let assert = tessera
        .command(&arguments)
        .args(["--tools", tools.to_str().unwrap(), "--date", "2025-06-28"])
        .assert()
        .success();
    let report: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    let tokenizer = Tokenizer::gpt_oss();
    for (sequence, said) in report["sequences"].as_array().unwrap().iter().zip(["Who?", "<|start|>"]) {
        let prompt: Vec<u32> = serde_json::from_value(sequence["prompt_ids"].clone()).unwrap();
        assert_eq!((prompt[0], prompt.iter().filter(|id| **id == 200_006).count()), (200_006, 4));
        let text = tokenizer.decode(&prompt).unwrap();
        assert!(text.contains("Current date: 2025-06-28") && text.contains("type now = () => any;"), "{text}");
        assert!(text.ends_with(&format!("user{said}assistant")), "{text}");
        assert!(!sequence["text"].as_str().unwrap().is_empty(), "{sequence}");
    }
    let talk = tessera.command(&["chat", "--model", model, "-n", "12", "--effort", "low", "-q"]);
    let assert = { talk }.write_stdin("Who?\nWhy?\n/tool now 12\n").assert().success();
    assert!(assert.get_output().stdout.iter().filter(|byte| **byte == b'\n').count() >= 3);
}

#[test]
fn text_has_the_form_that_is_asked_for() {
    let tessera = Tessera::new();
    let schema = r#"{"type": "object", "additionalProperties": false, "required": ["name", "age", "wise"], "properties":
        {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 999}, "wise": {"enum": [true, false]}}}"#;
    let file = tessera.folder.path().join("schema.json");
    std::fs::write(&file, schema).unwrap();
    for (seed, schema) in ["1", "2", "3", "4"].into_iter().zip([schema, file.to_str().unwrap()].into_iter().cycle()) {
        let arguments = ["-p", "And God said", "-n", "64", "-t", "1", "--seed", seed, "--json-schema", schema];
        let text = tessera.output("generate", &arguments);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(value["name"].is_string() && value["age"].is_u64() && value["wise"].is_boolean(), "{text}");
    }
    let arguments = ["--chat", "-p", "Who?", "-n", "64", "--regex", "[A-Z][a-z]{3,6} and [A-Z][a-z]{1,9}\\."];
    let text = tessera.output("generate", &arguments);
    let (left, right) = text.trim_end().split_once(" and ").unwrap();
    assert!((4..=7).contains(&left.len()) && right.ends_with('.'), "{text}");
}

#[test]
fn sampling_is_asked_for_in_detail() {
    let tessera = Tessera::new();
    let text = |more: &[&str]| tessera.output("generate", &[&["-p", "In the beginning", "-n", "12"], more].concat());
    let plain = text(&[]);
    assert_eq!(plain, " of the LORD, and the LORD, and the LORD,\n");
    assert_eq!(text(&["--stop", ", and"]), " of the LORD\n");
    assert_eq!(text(&["--top-k", "1", "-t", "1", "--min-p", "0.1"]), plain);
    assert!(!text(&["--logit-bias", "341=-inf"]).contains("LORD"));
    assert_ne!(text(&["--repetition-penalty", "1.5"]), plain);
    assert_ne!(text(&["--presence-penalty", "2", "--frequency-penalty", "1"]), plain);
    let report: Value = serde_json::from_str(&text(&["--json", "--logprobs", "2"])).unwrap();
    for (id, token) in report["sequences"][0]["ids"]
        .as_array()
        .unwrap()
        .iter()
        .zip(report["sequences"][0]["logprobs"].as_array().unwrap())
    {
        assert_eq!((id, &token["top"][0]["id"], token["top"].as_array().unwrap().len()), (id, id, 2));
        assert_eq!(token["logprob"], token["top"][0]["logprob"]);
    }
}

#[test]
fn every_shell_gets_completions() {
    let tessera = Tessera::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let assert = tessera.command(&["completions", shell]).assert().success();
        let script = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
        assert!(script.contains("max-new-tokens"), "{shell}");
    }
}
