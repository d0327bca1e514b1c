//! A scheduler on a thread of its own.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::engine::Engine;
use super::request::{Event, Request, RequestId, Timings};
use super::scheduler::{Limits, Scheduler};
use super::sequence::{Intake, Sequence};
use crate::error::{ModelError, Result};
use crate::tokenizer::Tokenizer;

/// Runs requests on an engine in the background. Any thread may submit; each request has a stream of its own.
///
/// Dropped, it ends all requests and waits for the step that is being run.
pub struct Generator {
    intake: Arc<Intake>,
    commands: Sender<Command>,
    timings: Arc<Mutex<Timings>>,
    thread: Option<JoinHandle<()>>,
}

enum Command {
    Submit(Box<Sequence>, Sender<Result<Event>>),
    Cancel(RequestId),
    Stop,
}

/// The events of a request, in order, ending with [`Event::Finished`] or an error. Dropped before that, it cancels the request.
#[derive(Debug)]
pub struct TokenStream {
    id: RequestId,
    events: Receiver<Result<Event>>,
    commands: Sender<Command>,
    ended: bool,
}

impl Generator {
    /// Starts a thread that runs a scheduler; see [`Scheduler::new`].
    pub fn start(
        engine: impl Engine + Send + 'static,
        limits: Limits,
        tokenizer: Option<Arc<Tokenizer>>,
    ) -> Result<Self> {
        let scheduler = Scheduler::new(engine, limits, tokenizer);
        let intake = scheduler.intake().clone();
        let (commands, receiver) = channel();
        let timings = Arc::new(Mutex::new(Timings::default()));
        let shared = timings.clone();
        let thread = std::thread::Builder::new()
            .name("generation".to_owned())
            .spawn(move || run(scheduler, &receiver, &shared))
            .map_err(|error| ModelError::Request(format!("cannot start a thread for generation: {error}")))?;
        Ok(Self { intake, commands, timings, thread: Some(thread) })
    }

    /// Checks a request, here and now, and puts it in the queue.
    pub fn submit(&self, request: Request) -> Result<TokenStream> {
        let sequence = self.intake.take(request)?;
        let (sender, events) = channel();
        let id = sequence.id;
        self.commands.send(Command::Submit(Box::new(sequence), sender)).map_err(|_| stopped())?;
        Ok(TokenStream { id, events, commands: self.commands.clone(), ended: false })
    }

    /// What the steps took so far.
    pub fn timings(&self) -> Timings {
        *self.timings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // What the thread had to say, the streams have heard.
            let _ = thread.join();
        }
    }
}

impl TokenStream {
    /// The request's number.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Ends the request: what comes next is its end.
    pub fn cancel(&self) {
        // If nobody listens, it has ended.
        let _ = self.commands.send(Command::Cancel(self.id));
    }
}

impl Iterator for TokenStream {
    type Item = Result<Event>;

    /// Waits for the next event; `None` after the last.
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let event = self.events.recv().unwrap_or_else(|_| Err(stopped()));
        self.ended = !matches!(event, Ok(Event::Token(_)));
        Some(event)
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        if !self.ended {
            self.cancel();
        }
    }
}

fn stopped() -> ModelError {
    ModelError::Request("generation has stopped".to_owned())
}

/// The thread: commands between steps, and steps while there is something to do.
fn run<E: Engine>(mut scheduler: Scheduler<E>, commands: &Receiver<Command>, timings: &Mutex<Timings>) {
    let mut streams: HashMap<RequestId, Sender<Result<Event>>> = HashMap::new();
    loop {
        let command = if scheduler.is_idle() {
            commands.recv().ok()
        } else {
            match commands.try_recv() {
                Ok(command) => Some(command),
                Err(TryRecvError::Disconnected) => None,
                Err(TryRecvError::Empty) => {
                    let mut deliver = |id, event| deliver(&mut streams, id, event);
                    if let Err(error) = scheduler.step(&mut deliver) {
                        // Nothing can be said of the cache any more; everyone is told, and the streams end.
                        let error = error.to_string();
                        for stream in streams.values() {
                            let _ = stream.send(Err(ModelError::Request(error.clone())));
                        }
                        return;
                    }
                    *timings.lock().unwrap_or_else(PoisonError::into_inner) = scheduler.timings();
                    continue;
                }
            }
        };
        match command {
            None | Some(Command::Stop) => return,
            Some(Command::Submit(sequence, stream)) => {
                streams.insert(sequence.id, stream);
                scheduler.enqueue(*sequence);
            }
            Some(Command::Cancel(id)) => match scheduler.cancel(id) {
                Ok(Some(event)) => deliver(&mut streams, id, event),
                Ok(None) => {}
                Err(error) => {
                    if let Some(stream) = streams.remove(&id) {
                        let _ = stream.send(Err(error));
                    }
                }
            },
        }
    }
}

fn deliver(streams: &mut HashMap<RequestId, Sender<Result<Event>>>, id: RequestId, event: Event) {
    let ended = matches!(event, Event::Finished(_));
    if let Some(stream) = streams.get(&id) {
        // Whoever dropped the other end has cancelled, and the command is on its way.
        let _ = stream.send(Ok(event));
    }
    if ended {
        streams.remove(&id);
    }
}
