//! `tessera generate`.

use std::sync::Arc;
use std::time::Duration;

use miette::{IntoDiagnostic, Result, miette};
use serde_json::{Value, json};
use tessera_models::chat::{Answer, AnswerParser, ChatFormat, Conversation, Delta, Turn};
use tessera_models::generation::{
    Continuation, Event, Limits, Request, Sampling, Scheduler, Structure, Timings, pages_for, run_all,
};
use tessera_models::{ModelFolder, Tokenizer};

use crate::arguments::Generate;
use crate::session::Session;
use tessera_terminal::Progress;
use tessera_terminal::output;

pub fn run(arguments: &Generate, progress: &Progress) -> Result<()> {
    let sampling = Sampling {
        max_new_tokens: arguments.max_new_tokens,
        logprobs: arguments.logprobs,
        ..arguments.sampling.sampling(0.0, 0)?
    };
    let grammar = arguments.sampling.grammar()?;
    let setting = arguments.setting.setting()?;
    let session = Session::open(&arguments.model, &arguments.run, progress)?;
    let folder = &session.model.folder;
    let tokenizer = Arc::new(folder.tokenizer().into_diagnostic()?);
    let format = if arguments.chat { Some(ChatFormat::of(folder, &tokenizer).into_diagnostic()?) } else { None };

    let sampling = Sampling {
        stop: stop_tokens(folder, format.as_ref(), arguments.ignore_end_of_text),
        structure: match (grammar, &format) {
            (None, _) => None,
            (Some(grammar), None) => Some(Structure::at_once(grammar)),
            (Some(grammar), Some(format)) => Some(format.structure(grammar).into_diagnostic()?),
        },
        ..sampling
    };
    let request = |prompt: &String| {
        let mut sampling = sampling.clone();
        let prompt = match &format {
            None => prompt_ids(&tokenizer, prompt, folder.begin_of_text)?,
            Some(format) => {
                sampling.stop_strings.extend(format.stop_strings());
                let turns = vec![Turn::User(prompt.clone())];
                format.render(&Conversation { setting: setting.clone(), turns }).into_diagnostic()?
            }
        };
        Ok(Request { prompt, sampling })
    };
    let requests: Vec<Request> = arguments.prompt.iter().map(request).collect::<Result<_>>()?;

    let limits = Limits { tokens_per_step: arguments.tokens_per_step as usize, ..Limits::default() };
    let pages = pages_for(&requests, session.context(), &session.caches()?, &limits);
    let mut scheduler = Scheduler::new(session.engine(&pages)?, limits, Some(tokenizer));

    let streaming = requests.len() == 1 && !arguments.json;
    let bar = if streaming {
        indicatif::ProgressBar::hidden()
    } else {
        progress.tokens(sampling.max_new_tokens.saturating_mul(requests.len()))
    };
    let mut texts = Texts::new(requests.len(), format.as_ref())?;
    let mut written = Ok(());
    let continuations = run_all(&mut scheduler, &requests, &mut |index, event| {
        bar.inc(u64::from(matches!(event, Event::Token(_))));
        let text = texts.take(index, event);
        if streaming && written.is_ok() {
            written = output::write(text.as_bytes());
        }
    })
    .into_diagnostic()?;
    bar.finish_and_clear();
    written?;

    let timings = scheduler.timings();
    if arguments.json {
        let report = report(arguments, &session, &requests, &continuations, &texts, &timings);
        output::write(format!("{report:#}\n").as_bytes())?;
    } else if streaming {
        output::write(b"\n")?;
    } else {
        for text in &texts.texts {
            output::write(format!("{text}\n").as_bytes())?;
        }
    }
    if arguments.timings {
        eprintln!("{}", summary(&session, &timings));
    }
    Ok(())
}

/// The tokens that end a text, and those that end an answer.
pub fn stop_tokens(folder: &ModelFolder, format: Option<&ChatFormat>, ignore_end_of_text: bool) -> Vec<u32> {
    let mut stop = if ignore_end_of_text { Vec::new() } else { folder.end_of_text.clone() };
    stop.extend(format.map(ChatFormat::stop_tokens).unwrap_or_default());
    stop.sort_unstable();
    stop.dedup();
    stop
}

/// The texts of sequences as they come: all of it, or of a conversation the text of the answer.
struct Texts {
    texts: Vec<String>,
    /// In a conversation, for each sequence.
    parsers: Vec<Option<AnswerParser>>,
    answers: Vec<Option<Answer>>,
}

impl Texts {
    fn new(count: usize, format: Option<&ChatFormat>) -> Result<Self> {
        let parser = |_| format.map(ChatFormat::parser).transpose().into_diagnostic();
        Ok(Self {
            texts: vec![String::new(); count],
            parsers: (0..count).map(parser).collect::<Result<_>>()?,
            answers: vec![None; count],
        })
    }

    /// Takes an event of a sequence, and returns what it adds to the text.
    fn take(&mut self, index: usize, event: &Event) -> String {
        let text = match (event, &mut self.parsers[index]) {
            (Event::Token(token), None) => token.text.clone(),
            (Event::Finished(finish), None) => finish.text.clone(),
            (Event::Token(token), Some(parser)) => texts(parser.push(token.id, &token.text)),
            (Event::Finished(finish), parser) => {
                let (deltas, answer) = match parser.take() {
                    Some(parser) => parser.finish(finish.stop_token, &finish.text),
                    None => (vec![], Answer::default()),
                };
                self.answers[index] = Some(answer);
                texts(deltas)
            }
        };
        self.texts[index] += &text;
        text
    }
}

fn texts(deltas: Vec<Delta>) -> String {
    let text = deltas.into_iter().map(|delta| match delta {
        Delta::Text(text) => text,
        Delta::Reasoning(_) | Delta::Commentary(_) | Delta::Call(_) | Delta::Arguments(_) => String::new(),
    });
    text.collect()
}

/// One line of what took how long.
fn summary(session: &Session, timings: &Timings) -> String {
    let compiled = if session.from_cache { "compiled before, found" } else { "compiled" };
    format!(
        "{compiled} in {:.2} s, loaded in {:.2} s; {} prompt tokens at {:.1} tokens/s; {} new tokens at {:.1} tokens/s",
        seconds(session.compiling),
        seconds(session.loading),
        timings.prompt_tokens,
        timings.prefill_rate(),
        timings.decoded_tokens,
        timings.decode_rate(),
    )
}

/// The ids of a prompt; an empty one is the token that begins a text.
fn prompt_ids(tokenizer: &Tokenizer, prompt: &str, begin_of_text: Option<u32>) -> Result<Vec<u32>> {
    let ids = tokenizer.encode(prompt).into_diagnostic()?;
    match (ids.is_empty(), begin_of_text) {
        (false, _) => Ok(ids),
        (true, Some(begin)) => Ok(vec![begin]),
        (true, None) => {
            Err(miette!("the prompt is empty, and this model has no token that begins a text; give it some text"))
        }
    }
}

fn report(
    arguments: &Generate,
    session: &Session,
    requests: &[Request],
    continuations: &[Continuation],
    texts: &Texts,
    timings: &Timings,
) -> Value {
    let mut sequences = Vec::new();
    for (index, (request, continuation)) in requests.iter().zip(continuations).enumerate() {
        let mut sequence = json!({
            "prompt": arguments.prompt[index],
            "prompt_ids": request.prompt,
            "ids": continuation.ids,
            "text": texts.texts[index],
            "finish_reason": continuation.finish.name(),
        });
        if let Some(token) = continuation.stop_token {
            sequence["stop_token"] = token.into();
        }
        if let Some(answer) = &texts.answers[index] {
            let calls = answer.calls.iter().map(|call| json!({"name": call.name, "arguments": call.arguments}));
            sequence["text"] = answer.text.clone().into();
            sequence["reasoning"] = answer.reasoning.clone().into();
            sequence["commentary"] = answer.commentary.clone().into();
            sequence["calls"] = calls.collect();
        }
        if arguments.logprobs.is_some() {
            let likeliest = |top: &[(u32, f32)]| -> Value {
                top.iter().map(|(id, logprob)| json!({"id": id, "logprob": logprob})).collect()
            };
            let tokens = continuation.ids.iter().zip(&continuation.logprobs);
            sequence["logprobs"] = tokens
                .map(|(id, token)| json!({"id": id, "logprob": token.logprob, "top": likeliest(&token.top)}))
                .collect();
        }
        sequences.push(sequence);
    }
    json!({
        "model": session.model.folder.path,
        "device": arguments.run.device,
        "sequences": sequences,
        "timings": {
            "compile_seconds": seconds(session.compiling),
            "compiled_from_cache": session.from_cache,
            "load_seconds": seconds(session.loading),
            "prompt_tokens": timings.prompt_tokens,
            "prefill_seconds": seconds(timings.prefill),
            "prefill_tokens_per_second": timings.prefill_rate(),
            "decoded_tokens": timings.decoded_tokens,
            "decode_seconds": seconds(timings.decode),
            "decode_tokens_per_second": timings.decode_rate(),
            "steps": timings.steps,
        },
    })
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
