//! `tessera chat`: a conversation in a terminal, or over pipes.

mod command;
mod display;
mod input;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use miette::{IntoDiagnostic, Result, miette};
use tessera_models::chat::{Answer, ChatFormat, Conversation, Turn};
use tessera_models::generation::{Engine, Event, FinishReason, Limits, Request, Sampling, Scheduler};

use crate::arguments::Chat;
use crate::generate::stop_tokens;
use crate::request::any_seed;
use crate::session::Session;
use command::Command;
use display::Display;
use input::{Input, Line};
use tessera_terminal::Progress;

pub fn run(arguments: &Chat, quiet: bool, progress: &Progress) -> Result<()> {
    let sampling = arguments.sampling.sampling(1.0, any_seed())?;
    let grammar = arguments.sampling.grammar()?;
    let setting = arguments.setting.setting()?;
    let interrupted = interruptions()?;
    let session = Session::open(&arguments.model, &arguments.run, progress)?;
    let folder = &session.model.folder;
    let tokenizer = Arc::new(folder.tokenizer().into_diagnostic()?);
    let format = ChatFormat::of(folder, &tokenizer).into_diagnostic()?;

    let mut sampling = Sampling {
        stop: stop_tokens(folder, Some(&format), false),
        structure: grammar.map(|grammar| format.structure(grammar)).transpose().into_diagnostic()?,
        ..sampling
    };
    sampling.stop_strings.extend(format.stop_strings());
    let context = session.context().min(arguments.context as usize);
    let limits = Limits::default();
    let engine = session.engine(&session.caches()?.pages_for(std::iter::once(context), limits.tokens_per_step))?;
    let mut talk = Talk {
        scheduler: Scheduler::new(engine, limits, Some(tokenizer)),
        format,
        sampling,
        context,
        max_new_tokens: arguments.max_new_tokens,
        conversation: Conversation { setting, turns: Vec::new() },
        interrupted,
        display: Display::new(arguments.reasoning, arguments.timings, quiet),
    };
    let mut input = Input::open()?;
    if input.is_terminal() {
        talk.display.note("Type a message, or /help. Ctrl-C stops an answer, Ctrl-D ends the conversation.");
    }
    loop {
        let line = match input.read()? {
            Line::Text(line) => line,
            Line::Interrupted => {
                talk.display.note("Ctrl-D, or /quit, ends the conversation.");
                continue;
            }
            Line::End => return Ok(()),
        };
        // What was pressed while nothing was said is no wish for the answer.
        talk.interrupted.store(false, Ordering::Relaxed);
        match Command::parse(&line) {
            Ok(Command::Nothing) => {}
            Ok(Command::Quit) => return Ok(()),
            Ok(Command::Say(text)) => talk.take(Turn::User(text))?,
            Ok(Command::Tool { name, content }) => talk.take(Turn::Tool { name, content })?,
            Ok(Command::Help) => talk.display.note(command::HELP),
            Ok(Command::Reset) => {
                talk.conversation.turns.clear();
                talk.display.note("A new conversation.");
            }
            Ok(Command::Effort(effort)) => {
                talk.conversation.setting.effort = effort;
                talk.note_change();
            }
            Ok(Command::System(text)) => {
                talk.conversation.setting.system = text;
                talk.note_change();
            }
            Ok(Command::Developer(text)) => {
                talk.conversation.setting.developer = text;
                talk.note_change();
            }
            Ok(Command::Reasoning(visibility)) => talk.display.show_reasoning(visibility),
            Err(problem) => talk.display.note(&problem),
        }
    }
}

/// Whether Ctrl-C was pressed since this was last cleared. Pressed once more before anybody looks, it ends the program.
fn interruptions() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let pressed = interrupted.clone();
    let handler = move || {
        if pressed.swap(true, Ordering::Relaxed) {
            // 128 + SIGINT, as shells have it.
            std::process::exit(130);
        }
    };
    ctrlc::set_handler(handler).map_err(|error| miette!("cannot listen to Ctrl-C: {error}"))?;
    Ok(interrupted)
}

/// A conversation, and who it is with.
struct Talk {
    scheduler: Scheduler<Box<dyn Engine>>,
    format: ChatFormat,
    sampling: Sampling,
    /// Tokens that the cache holds.
    context: usize,
    max_new_tokens: Option<usize>,
    conversation: Conversation,
    interrupted: Arc<AtomicBool>,
    display: Display,
}

impl Talk {
    /// What a model is told comes before everything that was said, so that a change of it needs no new conversation.
    fn note_change(&self) {
        self.display.note("From the next message on.");
    }

    /// Adds a turn, and has the model answer it. What cannot be answered leaves the conversation as it was.
    fn take(&mut self, turn: Turn) -> Result<()> {
        self.conversation.turns.push(turn);
        let prompt = self.format.render(&self.conversation).into_diagnostic()?;
        let room = self.context.saturating_sub(prompt.len());
        if room == 0 {
            self.conversation.turns.pop();
            self.display.note(&format!(
                "The conversation would have {} tokens, and there is room for {}. /reset begins a new one.",
                prompt.len(),
                self.context
            ));
            return Ok(());
        }
        let max_new_tokens = self.max_new_tokens.unwrap_or(usize::MAX).min(room);
        // Each answer has draws of its own.
        let seed = self.sampling.seed.wrapping_add(self.conversation.turns.len() as u64);
        let request = Request { prompt, sampling: Sampling { max_new_tokens, seed, ..self.sampling.clone() } };
        let answer = self.answer(request)?;
        self.conversation.turns.push(Turn::Assistant(answer));
        Ok(())
    }

    /// Generates an answer and shows it as it comes.
    fn answer(&mut self, request: Request) -> Result<Answer> {
        let before = self.scheduler.timings();
        let id = self.scheduler.submit(request).into_diagnostic()?;
        let mut parser = self.format.parser().into_diagnostic()?;
        let mut events = Vec::new();
        loop {
            if self.interrupted.swap(false, Ordering::Relaxed) {
                events.extend(self.scheduler.cancel(id).into_diagnostic()?);
            } else {
                self.scheduler.step(&mut |_, event| events.push(event)).into_diagnostic()?;
            }
            for event in events.drain(..) {
                match event {
                    Event::Token(token) => self.display.show(&parser.push(token.id, &token.text))?,
                    Event::Finished(finish) => {
                        let (deltas, answer) = parser.finish(finish.stop_token, &finish.text);
                        self.display.show(&deltas)?;
                        self.display.end(&before, &self.scheduler.timings())?;
                        match finish.reason {
                            FinishReason::Cancelled => self.display.note("(stopped)"),
                            FinishReason::Length if self.max_new_tokens.is_none() => {
                                self.display.note("(There is no more room. /reset begins a new conversation.)")
                            }
                            FinishReason::Length | FinishReason::Context => self.display.note("(cut off)"),
                            FinishReason::Impossible => self.display.note("(no token was left to choose)"),
                            FinishReason::Stop => {}
                        }
                        return Ok(answer);
                    }
                }
            }
        }
    }
}
