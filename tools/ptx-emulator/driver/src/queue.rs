//! The work of streams, in their order.
//!
//! A call that issues work does what can be done at once. A kernel that does not finish for long is suspended: it may wait for what
//! another stream will do. Calls that follow go on with it, and a call that waits for it goes on with all streams in turn, until
//! nothing moves on any of them: then it is a deadlock. Nothing is done between the calls, so that the order is the same in each run.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};

use ptx_emulator::machine::grid::Advance;

use crate::error::{Answer, CUresult};
use crate::launch::{Begun, Work};
use crate::module::complain;
use crate::state::{UNNAMED_STREAMS, driver, lock, seed};

/// For this long nothing moves before it is a deadlock: other threads of the program may do something yet.
const GRACE: Duration = Duration::from_secs(1);

/// A piece of work that was issued.
pub struct Item {
    /// The queue that it is in.
    queue: u64,
    /// What it waits for beside those before it in its queue.
    after: Vec<Arc<Item>>,
    progress: Mutex<Progress>,
    done: AtomicBool,
}

/// How far an item is.
struct Progress {
    /// What is left to do, in order.
    left: VecDeque<Work>,
    /// The kernel that runs, the first of what is left.
    running: Option<Begun>,
    result: Answer<()>,
}

/// The work of a stream.
struct Queue {
    device: u32,
    /// Whether the legacy stream waits for it, and it for that.
    blocking: bool,
    items: VecDeque<Arc<Item>>,
}

/// The work of all streams that is not done.
#[derive(Default)]
pub struct Queues(Mutex<BTreeMap<u64, Queue>>);

/// How far an item came.
enum Came {
    /// It is done.
    ToItsEnd,
    /// It waits, and did something else or not.
    Waiting { moved: bool },
}

impl Item {
    /// Whether it is done, or never will be.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Goes on with it, if all that comes before it is done.
    fn advance(&self, last: bool) -> Came {
        if !self.after.iter().all(|item| item.is_done()) {
            return Came::Waiting { moved: false };
        }
        let mut progress = match self.progress.try_lock() {
            Ok(progress) => progress,
            // Another thread is at it.
            Err(TryLockError::WouldBlock) => return Came::Waiting { moved: true },
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        if self.is_done() {
            return Came::ToItsEnd;
        }
        let result = match driver().check().and_then(|()| progress.go_on(last)) {
            Ok(Came::Waiting { moved }) => return Came::Waiting { moved },
            Ok(Came::ToItsEnd) => Ok(()),
            Err(error) => Err(error),
        };
        progress.result = result;
        progress.left.clear();
        progress.running = None;
        self.done.store(true, Ordering::Release);
        let mut queues = lock(&driver().queues.0);
        if let Some(queue) = queues.get_mut(&self.queue) {
            queue.items.retain(|item| !item.is_done());
            if queue.items.is_empty() {
                queues.remove(&self.queue);
            }
        }
        Came::ToItsEnd
    }
}

impl Progress {
    fn go_on(&mut self, last: bool) -> Answer<Came> {
        while let Some(work) = self.left.front() {
            let waits = match work {
                Work::Launch(launch) => {
                    let running = match &mut self.running {
                        Some(running) => running,
                        none => none.insert(launch.begin()?),
                    };
                    match launch.advance(running, last)? {
                        Advance::Finished => None,
                        Advance::Suspended { moved } => Some(moved),
                    }
                }
                Work::Graph(_, steps) => {
                    let steps = steps.clone();
                    self.left.pop_front();
                    let enabled = steps.iter().filter(|step| step.enabled).rev();
                    enabled.for_each(|step| self.left.push_front(step.work.clone()));
                    continue;
                }
                Work::Wait(event) => {
                    let pending = lock(&*driver().event(*event)?).pending.clone();
                    pending.filter(|item| !item.is_done()).map(|_| false)
                }
                Work::WaitWord(word) if !word.is_met()? => Some(false),
                other => other.run().map(|()| None)?,
            };
            match waits {
                Some(moved) if !last => return Ok(Came::Waiting { moved }),
                Some(_) => {
                    complain("a stream waits for what nothing will do any more");
                    driver().tables().sticky = Some(CUresult::LAUNCH_TIMEOUT);
                    return Err(CUresult::LAUNCH_TIMEOUT);
                }
                None => {}
            }
            self.running = None;
            self.left.pop_front();
        }
        Ok(Came::ToItsEnd)
    }
}

/// The number of a stream's queue: the legacy stream is one of its device, the per-thread stream one of its thread.
fn number(stream: u64, device: u32) -> u64 {
    static THREADS: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static THREAD: Cell<u64> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed));
    }
    match stream {
        UNNAMED_STREAMS => 1 << 63 | THREAD.get() << 8 | u64::from(device),
        0 | 1 => u64::from(device),
        named => named,
    }
}

/// Puts work into a stream, and does it as far as that can be done now. An error is that of the work, if it failed at once.
pub fn issue(stream: u64, work: Work, mut after: Vec<Arc<Item>>) -> Answer<Arc<Item>> {
    let info = driver().stream(stream)?;
    let (queue, legacy) = (number(stream, info.device), u64::from(info.device));
    let blocking = info.flags & 1 == 0;
    let event = match &work {
        Work::Record(event) => *event,
        Work::Launch(launch) => launch.shape.event,
        _ => 0,
    };
    let mut queues = lock(&driver().queues.0);
    for (other, waiting) in queues.iter() {
        let orders = if queue == legacy { *other != legacy && waiting.blocking } else { *other == legacy && blocking };
        if orders && waiting.device == info.device {
            after.extend(waiting.items.back().cloned());
        }
    }
    let progress = Progress { left: VecDeque::from([work]), running: None, result: Ok(()) };
    let item = Arc::new(Item { queue, after, progress: Mutex::new(progress), done: AtomicBool::new(false) });
    let into = queues.entry(queue).or_insert_with(|| Queue { device: info.device, blocking, items: VecDeque::new() });
    into.items.push_back(item.clone());
    drop(queues);
    if event != 0 {
        lock(&*driver().event(event)?).pending = Some(item.clone());
    }
    pump();
    if item.is_done() { lock(&item.progress).result.map(|()| item.clone()) } else { Ok(item) }
}

/// Has a stream wait for an event.
pub fn wait_for_event(stream: u64, event: u64) -> Answer<()> {
    let pending = lock(&*driver().event(event)?).pending.clone().filter(|item| !item.is_done());
    match pending {
        Some(item) => issue(stream, Work::Nothing, vec![item]).map(drop),
        None => Ok(()),
    }
}

/// Has an event happen when a stream gets there.
pub fn record(event: u64, stream: u64) -> Answer<()> {
    issue(stream, Work::Record(event), vec![]).map(drop)
}

/// The first item of each queue; where a seed is given, another one comes first.
fn heads() -> Vec<Arc<Item>> {
    let mut heads: Vec<_> =
        lock(&driver().queues.0).values().filter_map(|queue| queue.items.front().cloned()).collect();
    let first = seed() % heads.len().max(1) as u64;
    heads.rotate_left(first as usize);
    heads
}

/// Forgets all work of a device that is not done.
pub fn discard(device: u32) {
    let mut discarded = vec![];
    lock(&driver().queues.0).retain(|_, queue| {
        if queue.device == device {
            discarded.extend(queue.items.drain(..));
        }
        queue.device != device
    });
    for item in discarded {
        item.done.store(true, Ordering::Release);
        // Where another thread is at it, that ends it.
        if let Ok(mut progress) = item.progress.try_lock() {
            progress.left.clear();
            progress.running = None;
        }
    }
}

/// Goes on with all streams, in turn, until none of them ends anything; whether any did something but poll.
pub fn pump() -> bool {
    let mut any = false;
    loop {
        let (mut ended, mut moves) = (false, false);
        for head in heads() {
            match head.advance(false) {
                Came::ToItsEnd => ended = true,
                Came::Waiting { moved } => moves |= moved,
            }
        }
        any |= ended | moves;
        if !ended {
            return any;
        }
    }
}

/// Goes on with all streams until something holds.
pub fn finish(holds: impl Fn() -> bool) -> Answer<()> {
    let mut quiet = None;
    while !holds() {
        if pump() {
            quiet = None;
            continue;
        }
        if quiet.get_or_insert_with(Instant::now).elapsed() > GRACE {
            // Those that wait for others of them are not at fault.
            for head in heads() {
                head.advance(true);
            }
            quiet = None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    driver().check()
}

/// The last work of a stream; for the legacy one, of all that it waits for.
fn tails(stream: u64) -> Answer<Vec<Arc<Item>>> {
    let info = driver().stream(stream)?;
    let (own, legacy) = (number(stream, info.device), u64::from(info.device));
    let queues = lock(&driver().queues.0);
    let wanted = queues
        .iter()
        .filter(|(queue, state)| **queue == own || own == legacy && state.blocking && state.device == info.device);
    Ok(wanted.filter_map(|(_, queue)| queue.items.back().cloned()).collect())
}

/// Whether all work of a stream is done.
pub fn is_done(stream: u64) -> Answer<bool> {
    Ok(tails(stream)?.iter().all(|item| item.is_done()))
}

/// Waits for all work of a stream.
pub fn finish_stream(stream: u64) -> Answer<()> {
    let tails = tails(stream)?;
    finish(|| tails.iter().all(|item| item.is_done()))
}

/// Waits for all work.
pub fn finish_all() -> Answer<()> {
    finish(|| heads().is_empty())
}
