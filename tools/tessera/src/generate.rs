//! `tessera generate`.

use std::time::Duration;

use miette::{IntoDiagnostic, Result, miette};
use serde_json::json;
use tessera_models::generation::{self, Continuation, Limits, Request, Sampling, Timings};
use tessera_models::{Tokenizer, generation::pages_for};

use crate::arguments::Generate;
use crate::session::Session;
use tessera_terminal::Progress;
use tessera_terminal::output;

pub fn run(arguments: &Generate, progress: &Progress) -> Result<()> {
    let sampling = Sampling {
        max_new_tokens: arguments.max_new_tokens,
        temperature: arguments.temperature,
        top_k: arguments.top_k,
        top_p: arguments.top_p,
        seed: arguments.seed,
        ..Sampling::default()
    };
    // Before anything slow happens.
    sampling.validate(None).into_diagnostic()?;
    let session = Session::open(&arguments.model, &arguments.run, progress)?;
    let folder = &session.model.folder;
    let tokenizer = folder.tokenizer().into_diagnostic()?;
    let stop = if arguments.ignore_end_of_text { Vec::new() } else { folder.end_of_text.clone() };
    let requests: Vec<Request> = arguments
        .prompt
        .iter()
        .map(|prompt| {
            let prompt = prompt_ids(&tokenizer, prompt, folder.begin_of_text)?;
            Ok(Request { prompt, sampling: Sampling { stop: stop.clone(), ..sampling.clone() } })
        })
        .collect::<Result<_>>()?;

    let pages = pages_for(&requests, session.context(), session.page_size());
    let mut engine = session.engine(pages)?;
    let limits = Limits { tokens_per_step: arguments.tokens_per_step as usize, ..Limits::default() };

    let streaming = requests.len() == 1 && !arguments.json;
    let bar = if streaming {
        indicatif::ProgressBar::hidden()
    } else {
        progress.tokens(sampling.max_new_tokens * requests.len())
    };
    let mut text = tokenizer.stream();
    let mut written = Ok(());
    let (continuations, timings) = generation::generate(engine.as_mut(), &requests, limits, &mut |_, id| {
        bar.inc(1);
        if streaming && written.is_ok() {
            written = text.push(id).into_diagnostic().and_then(|text| output::write(text.as_bytes()));
        }
    })
    .into_diagnostic()?;
    bar.finish_and_clear();
    written?;

    if arguments.json {
        let report = report(arguments, &session, &tokenizer, &requests, &continuations, &timings)?;
        output::write(format!("{report:#}\n").as_bytes())?;
    } else if streaming {
        output::write(format!("{}\n", text.finish().into_diagnostic()?).as_bytes())?;
    } else {
        for continuation in &continuations {
            let text = tokenizer.decode(&continuation.ids).into_diagnostic()?;
            output::write(format!("{text}\n").as_bytes())?;
        }
    }
    if arguments.timings {
        eprintln!("{}", summary(&session, &timings));
    }
    Ok(())
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
    tokenizer: &Tokenizer,
    requests: &[Request],
    continuations: &[Continuation],
    timings: &Timings,
) -> Result<serde_json::Value> {
    let mut sequences = Vec::new();
    for ((prompt, request), continuation) in arguments.prompt.iter().zip(requests).zip(continuations) {
        sequences.push(json!({
            "prompt": prompt,
            "prompt_ids": request.prompt,
            "ids": continuation.ids,
            "text": tokenizer.decode(&continuation.ids).into_diagnostic()?,
            "finish_reason": continuation.finish.name(),
        }));
    }
    Ok(json!({
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
    }))
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
