//! Races on global memory, among all clusters of a launch.
//!
//! Within a cluster vector clocks tell what comes before what, as for shared memory. Clusters run on several threads of the host, and
//! get to know of each other through global memory alone: by atomic operations, by fences, and by accesses that are volatile, relaxed
//! or stronger. What one cluster did comes before what another does only if the first did one of these after it, and the second did
//! one later. That is asked for here, of whatever address: so a race may be missed where clusters synchronize about something else,
//! and none is reported where they do it right.
//!
//! What is remembered of a word is read and written without a lock. Two threads of the host that access the same word in the same
//! instant may each miss the other, and with that a race; on one thread (rayon's `RAYON_NUM_THREADS=1`) none is missed by it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::shadow::{Access, STRONG};
use super::{Actor, Checker, ReportKind};
use crate::machine::context::Context;
use crate::machine::grid::{Grid, cta_of, thread_of};
use crate::machine::row::LANES;
use crate::memory::access::{Space, specific};

/// Bytes of a granule.
const GRANULE: u64 = 4;
/// Granules of a page.
const PAGE: usize = 1024;
/// Bit of the flags beside the bytes and [`STRONG`]: the access is that of a copy, which works on when its thread goes on.
const COPY: u8 = 1 << 5;
/// Bit of the flags: there is an access.
const PRESENT: u8 = 1 << 6;
/// Bit of the flags: several threads have written the same, so that any of them may read it.
const REPEATED: u8 = 1 << 7;
/// More instructions than that do not fit.
const MOST_INSTRUCTIONS: u32 = 1 << 24;
/// An agent that is not of the cluster.
const ELSEWHERE: u16 = u16::MAX;

/// An access, packed into two words: the cluster, the instruction and the flags; and the time of the warp, how many times the cluster
/// had synchronized with others, the warp and the lane.
#[derive(Debug, Default)]
struct Entry {
    who: AtomicU64,
    when: AtomicU64,
}

/// An access, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Past {
    cluster: u32,
    at: u32,
    flags: u8,
    time: u32,
    epoch: u16,
    warp: u16,
    lane: u8,
}

impl Entry {
    /// The access, unless there is none, or another host thread is putting one in.
    #[inline(always)]
    fn get(&self) -> Option<Past> {
        let who = self.who.load(Ordering::Acquire);
        if who == 0 {
            return None;
        }
        let when = self.when.load(Ordering::Acquire);
        (self.who.load(Ordering::Relaxed) == who).then_some(Past {
            cluster: (who >> 32) as u32,
            at: (who >> 8) as u32 % MOST_INSTRUCTIONS,
            flags: who as u8,
            time: (when >> 32) as u32,
            epoch: (when >> 16) as u16,
            warp: when as u16 >> 5,
            lane: when as u8 & 31,
        })
    }

    #[inline(always)]
    fn put(&self, past: Past) {
        let who = u64::from(past.cluster) << 32 | u64::from(past.at) << 8 | u64::from(past.flags);
        let place = u64::from(past.warp) << 5 | u64::from(past.lane);
        let when = u64::from(past.time) << 32 | u64::from(past.epoch) << 16 | place;
        self.who.store(0, Ordering::Relaxed);
        self.when.store(when, Ordering::Release);
        self.who.store(who, Ordering::Release);
    }

    #[inline(always)]
    fn clear(&self) {
        if self.who.load(Ordering::Relaxed) != 0 {
            self.who.store(0, Ordering::Relaxed);
        }
    }
}

/// The last accesses of one kind of the granules of a page, from the first such access on: most memory is only read, or only written.
#[derive(Debug, Default)]
struct Entries(OnceLock<Box<[Entry]>>);

impl Entries {
    #[inline(always)]
    fn get(&self, number: usize) -> Option<Past> {
        self.0.get()?[number].get()
    }

    #[inline(always)]
    fn put(&self, number: usize, past: Past) {
        self.0.get_or_init(|| (0..PAGE).map(|_| Entry::default()).collect())[number].put(past);
    }

    #[inline(always)]
    fn clear(&self, number: usize) {
        if let Some(entries) = self.0.get() {
            entries[number].clear();
        }
    }
}

/// For each four bytes the last write, and a read since.
#[derive(Debug, Default)]
struct Page {
    writes: Entries,
    reads: Entries,
}

/// An allocation.
#[derive(Debug)]
struct Stretch {
    base: u64,
    length: u64,
    pages: Box<[Page]>,
}

impl Stretch {
    fn new(base: u64, length: u64) -> Stretch {
        let pages = length.div_ceil(GRANULE * PAGE as u64);
        Stretch { base, length, pages: (0..pages).map(|_| Page::default()).collect() }
    }

    /// The page of a granule, and the granule's number there.
    #[inline(always)]
    fn page(&self, number: u64) -> Option<(&Page, usize)> {
        Some((self.pages.get((number / PAGE as u64) as usize)?, (number % PAGE as u64) as usize))
    }
}

/// What the clusters of a launch do to global memory.
#[derive(Debug)]
pub struct Launch {
    stretches: Vec<(u64, u64, OnceLock<Arc<Stretch>>)>,
    /// How many times clusters have told others of what they did.
    clock: AtomicU32,
    /// For each cluster the times when it did.
    told: Mutex<HashMap<u32, Vec<u32>>>,
    extent: [u32; 3],
    block: [u32; 3],
    cluster: [u32; 3],
}

impl Launch {
    /// Of a grid that starts.
    pub fn new(grid: &Grid<'_>) -> Launch {
        let stretches = grid.memory.stretches().map(|(base, length)| (base, length, OnceLock::new())).collect();
        let Grid { extent, block, cluster, .. } = *grid;
        Launch { stretches, clock: AtomicU32::new(0), told: Mutex::default(), extent, block, cluster }
    }

    fn stretch(&self, address: u64) -> Option<Arc<Stretch>> {
        let after = self.stretches.partition_point(|(base, ..)| *base <= address);
        let (base, length, made) = self.stretches.get(after.checked_sub(1)?)?;
        let inside = address - base < *length;
        inside.then(|| made.get_or_init(|| Arc::new(Stretch::new(*base, *length))).clone())
    }

    /// Whether a cluster has told others of what it did in an epoch, by a time.
    fn told(&self, cluster: u32, epoch: u16, time: u32) -> bool {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.get(&cluster).and_then(|times| times.get(usize::from(epoch))).is_some_and(|told| *told <= time)
    }

    /// A thread, in words.
    fn describe(&self, past: &Past) -> String {
        let warps = self.block.iter().product::<u32>().div_ceil(LANES as u32).max(1);
        let (rank, warp) = (u32::from(past.warp) / warps, u32::from(past.warp) % warps);
        let cta = cta_of(self.extent, self.cluster, u64::from(past.cluster), rank);
        let thread = thread_of(self.block, warp * LANES as u32 + u32::from(past.lane));
        format!("thread {thread:?} of CTA {cta:?}")
    }
}

/// What a cluster knows of the others of its launch.
#[derive(Debug)]
pub struct Others {
    launch: Arc<Launch>,
    /// The cluster's own number.
    cluster: u32,
    /// How many times it has told others of what it did.
    epoch: u16,
    /// Whether it has accessed global memory since.
    dirty: bool,
    /// The launch's clock when it last looked at what others do.
    looked: u32,
    /// The allocation that was accessed last.
    stretch: Option<Arc<Stretch>>,
}

impl Others {
    /// Nothing, before the first cluster.
    pub fn new(launch: Arc<Launch>) -> Others {
        Others { launch, cluster: 0, epoch: 0, dirty: false, looked: 0, stretch: None }
    }

    /// For the next cluster.
    pub fn start(&mut self, cluster: u64) {
        *self = Others { cluster: cluster as u32, ..Others::new(self.launch.clone()) };
    }

    /// What the cluster did so far may be known to others from now on.
    pub fn tell(&mut self) {
        if self.dirty && self.epoch < u16::MAX {
            let mut told = self.launch.told.lock().unwrap_or_else(PoisonError::into_inner);
            let time = self.launch.clock.fetch_add(1, Ordering::SeqCst) + 1;
            told.entry(self.cluster).or_default().push(time);
            self.epoch += 1;
            self.dirty = false;
        }
    }

    /// What others told so far may be known.
    pub fn look(&mut self) {
        self.looked = self.launch.clock.load(Ordering::SeqCst);
    }
}

/// An access of global memory.
#[derive(Clone, Copy, Debug)]
pub struct GlobalTouch {
    /// Who does it.
    pub actor: Actor,
    /// The lane.
    pub lane: usize,
    /// Whether it does not race with others that are so.
    pub strong: bool,
    /// Whether it is that of a copy.
    pub copies: bool,
    /// Whether it writes.
    pub writes: bool,
}

impl Checker {
    /// Global memory is accessed. `same` says whether what a write leaves is what was there.
    #[inline(always)]
    pub fn global(&mut self, touch: GlobalTouch, address: u64, bytes: usize, same: impl Fn() -> bool) {
        let GlobalTouch { actor, lane, strong, copies, writes } = touch;
        let holds = |stretch: &Arc<Stretch>| address.wrapping_sub(stretch.base) < stretch.length;
        if !self.others.stretch.as_ref().is_some_and(holds) {
            self.others.stretch = self.others.launch.stretch(address);
        }
        if actor.at >= MOST_INSTRUCTIONS || bytes == 0 {
            return;
        }
        let Some(stretch) = self.others.stretch.take() else { return };
        self.others.dirty = true;
        let flags = PRESENT | if strong { STRONG } else { 0 } | if copies { COPY } else { 0 };
        let mut now = Past {
            cluster: self.others.cluster,
            at: actor.at,
            flags,
            time: self.now(actor.warp),
            epoch: self.others.epoch,
            warp: actor.warp as u16,
            lane: lane as u8,
        };
        let offset = address - stretch.base;
        let end = offset + bytes as u64;
        for number in offset / GRANULE..end.div_ceil(GRANULE) {
            let first = offset.saturating_sub(number * GRANULE);
            let last = (end - number * GRANULE).min(GRANULE);
            let part = 0xfu8 << first & 0xf >> (GRANULE - last);
            let Some((page, at)) = stretch.page(number) else { break };
            now.flags = flags | part;
            let write = page.writes.get(at);
            if let Some(write) = write
                && self.unordered(&now, &write)
            {
                if writes && write.at == now.at && same() {
                    now.flags |= REPEATED;
                } else if writes || write.flags & REPEATED == 0 {
                    self.global_conflict(touch, &write, "writes", stretch.base + number * GRANULE);
                }
            }
            let read = page.reads.get(at);
            if !writes {
                // Of several clusters that read, the first is remembered.
                if read.is_none_or(|read| read.cluster == now.cluster) && read != Some(now) {
                    page.reads.put(at, now);
                }
                continue;
            }
            if let Some(read) = read
                && self.unordered(&now, &read)
                && !same()
            {
                self.global_conflict(touch, &read, "reads", stretch.base + number * GRANULE);
            }
            page.writes.put(at, now);
            page.reads.clear(at);
        }
        self.others.stretch = Some(stretch);
    }

    /// Whether nothing orders an access after an earlier one of the same bytes.
    #[inline(always)]
    fn unordered(&self, now: &Past, earlier: &Past) -> bool {
        if earlier.flags & now.flags & 0xf == 0 || earlier.flags & now.flags & STRONG != 0 {
            return false;
        }
        if earlier.cluster == now.cluster {
            let own = Access {
                time: earlier.time,
                at: earlier.at,
                agent: earlier.warp,
                lane: earlier.lane,
                bytes: earlier.flags & 0xf,
            };
            if (earlier.flags | now.flags) & COPY != 0
                || self.comes_before(&own, usize::from(now.warp), usize::from(now.lane))
            {
                return false;
            }
        }
        // Epochs are counted no further.
        earlier.epoch != u16::MAX && !self.others.launch.told(earlier.cluster, earlier.epoch, self.others.looked)
    }

    #[cold]
    fn global_conflict(&mut self, touch: GlobalTouch, earlier: &Past, did: &str, address: u64) {
        let GlobalTouch { actor, lane, writes, .. } = touch;
        let does = if writes { "write" } else { "read" };
        let own = earlier.cluster == self.others.cluster;
        let who = self.others.launch.describe(earlier);
        let missing = if own && usize::from(earlier.warp) == actor.warp {
            "a bar.warp.sync is missing in between: the threads of a warp do not run in step"
        } else if own {
            "a bar.sync, or another barrier, is missing in between"
        } else {
            "what a CTA leaves for another of the same launch needs a release there, as an atomic operation or a flag after a \
             fence, and an acquire here"
        };
        let message = format!(
            "a {does} of global address 0x{address:x}, which {who} {did} at {{earlier}}, and nothing orders the two: {missing}"
        );
        let agent = if own { earlier.warp } else { ELSEWHERE };
        let earlier = Access { time: earlier.time, at: earlier.at, agent, lane: earlier.lane, bytes: 0 };
        self.find(ReportKind::Race, actor, lane, Some(earlier), message);
    }
}

impl Context<'_> {
    /// Checks an access of global memory by a lane.
    #[inline(always)]
    pub fn check_race(&mut self, lane: usize, address: u64, bytes: usize, strong: bool, writes: bool) {
        self.check(|checker, actor| {
            checker.global(GlobalTouch { actor, lane, strong, copies: false, writes }, address, bytes, || false);
        });
    }

    /// Checks a copy's access of global memory.
    #[inline(always)]
    pub fn check_copied(&mut self, address: u64, bytes: usize, written: Option<&[u8]>) {
        if self.cluster.checker.is_none() {
            return;
        }
        let (lane, window) = (self.issuer.0, self.global(address, bytes));
        let same = || {
            let Some((window, written)) = window.zip(written) else { return false };
            let mut there = vec![0; written.len()];
            window.copy_out(address, &mut there).is_some() && there == written
        };
        self.check(|checker, actor| {
            let writes = written.is_some();
            checker.global(GlobalTouch { actor, lane, strong: false, copies: true, writes }, address, bytes, same);
        });
    }

    /// A strong write is about to happen: others may get to know what its cluster did before.
    #[inline(always)]
    pub fn check_tells(&mut self, space: Space, addresses: &[u64; LANES]) {
        if self.reaches_others(space, addresses) {
            self.check(|checker, _| checker.others.tell());
        }
    }

    /// A strong read has happened: its cluster may know what others did before.
    #[inline(always)]
    pub fn check_looks(&mut self, space: Space, addresses: &[u64; LANES]) {
        if self.reaches_others(space, addresses) {
            self.check(|checker, _| checker.others.look());
        }
    }

    fn reaches_others(&self, space: Space, addresses: &[u64; LANES]) -> bool {
        let generic = || specific(addresses[self.leader()]).0;
        self.cluster.checker.is_some() && (if space == Space::Generic { generic() } else { space }) == Space::Global
    }
}
