//! Other engines with a model of the same shape: each is asked for its speed in turn with ours.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::variable;
use crate::median;

/// What is timed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    /// So many tokens, one after the other, behind `context` others.
    Decode { context: usize, tokens: usize },
    /// The first tokens of a sequence, in one step.
    Prefill { tokens: usize },
}

/// The engines that have turns beside ours, and the tokens per second that they reached.
pub(super) struct Peers {
    work: Work,
    engines: Vec<(Engine, Vec<f64>)>,
}

enum Engine {
    /// llama.cpp's llama-bench, which is started for each turn.
    LlamaBench { program: OsString, file: OsString },
    /// `python_peer.py`, which stays, since it takes long to start, and waits for requests.
    Python { name: String, process: Child, requests: ChildStdin, answers: BufReader<ChildStdout> },
}

impl Peers {
    /// Starts those that a bench's variables name; `python` is what `python_peer.py` calls the model and its storage.
    ///
    /// # Panics
    /// If one cannot be started.
    pub(super) fn start(name: &str, python: Option<[&str; 2]>, work: Work) -> Peers {
        let named = |name: &str| std::env::var_os(format!("TESSERA_{name}"));
        let mut engines = Vec::new();
        if let (Some(program), Some(file)) = (named("LLAMA_BENCH"), named(&format!("LLAMA_{name}"))) {
            engines.push(Engine::LlamaBench { program, file });
        }
        if let (Some(program), Some(model)) = (named("PEERS_PYTHON"), python) {
            let list = variable(name, "PEERS").unwrap_or_else(|| "eager,compiled".to_owned());
            engines.extend(list.split(',').map(|engine| Engine::start_python(&program, model, engine)));
        }
        for engine in &mut engines {
            // In their first turn they compile; llama-bench has a warm-up of its own.
            if let Engine::Python { .. } = engine {
                engine.tokens_per_second(work);
            }
        }
        Peers { work, engines: engines.into_iter().map(|engine| (engine, Vec::new())).collect() }
    }

    /// Gives each its turn.
    ///
    /// # Panics
    /// If one fails.
    pub(super) fn take_turns(&mut self) {
        for (engine, rates) in &mut self.engines {
            rates.push(engine.tokens_per_second(self.work));
        }
    }

    /// Prints what each reached, and what we reached as a multiple of it.
    pub(super) fn print(&mut self, ours: f64) {
        for (engine, rates) in &mut self.engines {
            let theirs = median(rates);
            println!("    {} {theirs:.2} tokens/s, ours is {:.2} times that", engine.name(), ours / theirs);
        }
    }
}

impl Engine {
    fn start_python(program: &OsString, [model, storage]: [&str; 2], engine: &str) -> Engine {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/python_peer.py");
        let mut process = Command::new(program)
            .arg(script)
            .args([model, storage, engine])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a Python");
        let requests = process.stdin.take().expect("its input");
        let answers = BufReader::new(process.stdout.take().expect("its output"));
        Engine::Python { name: engine.to_owned(), process, requests, answers }
    }

    fn name(&self) -> &str {
        match self {
            Engine::LlamaBench { .. } => "llama.cpp",
            Engine::Python { name, .. } => name,
        }
    }

    fn tokens_per_second(&mut self, work: Work) -> f64 {
        match self {
            Engine::LlamaBench { program, file } => {
                let [prefill, decode, context] = match work {
                    Work::Decode { context, tokens } => [0, tokens, context],
                    Work::Prefill { tokens } => [tokens, 0, 0],
                }
                .map(|count| count.to_string());
                let output = Command::new(program)
                    .arg("-m")
                    .arg(file)
                    .args(["-t", "2", "-r", "1", "-o", "json", "-p", &prefill, "-n", &decode, "-d", &context])
                    .output()
                    .expect("a llama-bench");
                let text = String::from_utf8_lossy(&output.stdout);
                let line = text.lines().find_map(|line| line.trim().strip_prefix("\"avg_ts\":"));
                line.and_then(|number| number.trim().trim_end_matches(',').parse().ok())
                    .unwrap_or_else(|| panic!("llama-bench says no speed: {}", String::from_utf8_lossy(&output.stderr)))
            }
            Engine::Python { name, requests, answers, .. } => {
                match work {
                    Work::Decode { context, tokens } => writeln!(requests, "decode {context} {tokens}"),
                    Work::Prefill { tokens } => writeln!(requests, "prefill {tokens}"),
                }
                .unwrap_or_else(|error| panic!("{name} takes no request: {error}"));
                let mut line = String::new();
                answers.read_line(&mut line).expect("an answer");
                line.trim().parse().unwrap_or_else(|_| panic!("{name} answers `{}`, not with a speed", line.trim()))
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Engine::Python { process, .. } = self {
            // It may have ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
