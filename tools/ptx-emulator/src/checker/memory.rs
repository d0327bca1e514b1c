//! Accesses of shared memory: who may, and whether it has been written.

use super::clock::Work;
use super::global::GlobalTouch;
use super::shadow::{Access, STRONG};
use super::{Actor, Checker, ReportKind};
use crate::machine::context::{Context, lanes};
use crate::machine::row::LANES;
use crate::memory::Word;
use crate::memory::access::{Space, specific};

/// An access that is about to happen.
#[derive(Clone, Copy, Debug)]
pub struct Touch {
    /// Who does it, or issues it.
    pub actor: Actor,
    /// The lane.
    pub lane: usize,
    /// Whose access it is: the warp's, or that of its asynchronous work.
    pub agent: u16,
    /// The agent's time.
    pub time: u32,
    /// Whether it does not race with others that are so.
    pub strong: bool,
    /// What a write leaves is what was there.
    pub same: bool,
}

/// What a strong access does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Strong {
    /// It reads.
    pub reads: bool,
    /// What it sees comes before what follows.
    pub acquires: bool,
    /// It writes.
    pub writes: bool,
    /// What came before is seen by those who acquire it.
    pub releases: bool,
}

impl Strong {
    /// A load.
    pub fn read(acquires: bool) -> Strong {
        Strong { reads: true, acquires, ..Strong::default() }
    }

    /// A store.
    pub fn write(releases: bool) -> Strong {
        Strong { writes: true, releases, ..Strong::default() }
    }
}

impl Checker {
    /// Whether an earlier access comes before what a lane of a warp does now.
    #[inline(always)]
    pub(super) fn comes_before(&self, earlier: &Access, warp: usize, lane: usize) -> bool {
        if earlier.agent as usize == warp {
            usize::from(earlier.lane & 31) == lane || earlier.time < self.lanes[warp][lane]
        } else {
            self.clocks[warp].reached(earlier.agent, earlier.time)
        }
    }

    /// An access by a lane itself.
    pub fn touch(&self, actor: Actor, lane: usize) -> Touch {
        let (agent, time) = (actor.warp as u16, self.now(actor.warp));
        Touch { actor, lane, agent, time, strong: false, same: false }
    }

    /// Shared memory is read.
    #[inline(always)]
    pub fn reads(&mut self, touch: Touch, cta: usize, offset: usize, bytes: usize) {
        let Touch { actor, lane, agent, time, strong, .. } = touch;
        let flags = if strong { STRONG } else { 0 };
        for (number, part) in self.shadows[cta].touched(offset, bytes) {
            self.sees(touch, cta, number, part);
            let access = Access { time, at: actor.at, agent, lane: lane as u8, bytes: part | flags };
            let Checker { shadows, clocks, .. } = self;
            let clock = &clocks[actor.warp];
            shadows[cta].did_read(number, access, |read| clock.reached(read.agent, read.time));
        }
    }

    /// Shared memory is changed in one step for each element. What others read without an order must not be forgotten for its own read.
    #[inline(always)]
    pub fn updates(&mut self, touch: Touch, cta: usize, offset: usize, bytes: usize) {
        for (number, part) in self.shadows[cta].touched(offset, bytes) {
            self.sees(touch, cta, number, part);
        }
        self.writes(touch, cta, offset, bytes);
    }

    /// What is in a granule is seen: it has to be there, and the write that left it has to come before.
    #[inline(always)]
    fn sees(&mut self, touch: Touch, cta: usize, number: usize, part: u8) {
        let Touch { actor, lane, agent, strong, .. } = touch;
        let granule = *self.shadows[cta].granule(number);
        if granule.initialized & part != part {
            self.uninitialized(touch, cta, 4 * number);
        }
        let write = granule.write;
        if write.bytes & part != 0 && write.time != 0 {
            let both_strong = strong && write.bytes & STRONG != 0;
            if !both_strong && !self.comes_before(&write, actor.warp, lane) {
                self.conflict(touch, "read", write, "write", 4 * number);
            } else if !self.agents.is_generic(agent)
                && self.agents.is_generic(write.agent)
                && !self.clocks[actor.warp].fenced(write.agent, write.time)
            {
                self.unfenced(touch, write, 4 * number);
            }
        }
    }

    /// Shared memory is written.
    #[inline(always)]
    pub fn writes(&mut self, touch: Touch, cta: usize, offset: usize, bytes: usize) {
        let Touch { actor, lane, agent, time, strong, same } = touch;
        let flags = if strong { STRONG } else { 0 };
        if !self.mbarriers.is_empty()
            && let Some(initialized) = self.overlaps_mbarrier(cta, offset, bytes)
        {
            let message = format!(
                "a write to shared address 0x{offset:x}, which belongs to the mbarrier initialized at {{earlier}}: \
                 its memory is free again after mbarrier.inval"
            );
            self.find(ReportKind::Mbarrier, actor, lane, Some(initialized), message);
        }
        for (number, part) in self.shadows[cta].touched(offset, bytes) {
            let write = self.shadows[cta].granule(number).write;
            if write.bytes & part != 0 && write.time != 0 {
                // Threads that hold the same value may all store it.
                let benign = same && write.at == actor.at || strong && write.bytes & STRONG != 0;
                if !benign && !self.comes_before(&write, actor.warp, lane) {
                    self.conflict(touch, "write", write, "write", 4 * number);
                }
            }
            let conflicting = self.shadows[cta].reads(number).iter().find(|read| {
                read.bytes & part & 0xf != 0
                    && !(strong && read.bytes & STRONG != 0)
                    && !self.comes_before(read, actor.warp, lane)
            });
            if let Some(read) = conflicting.copied() {
                self.conflict(touch, "write", read, "read", 4 * number);
            }
            let access = Access { time, at: actor.at, agent, lane: lane as u8, bytes: part | flags };
            self.shadows[cta].wrote(number, access);
        }
    }

    #[cold]
    fn uninitialized(&mut self, touch: Touch, cta: usize, address: usize) {
        let other = if cta == touch.actor.cta { "" } else { " of another CTA" };
        let message = format!("a read of shared memory{other} at 0x{address:x} that nobody has written");
        self.find(ReportKind::Uninitialized, touch.actor, touch.lane, None, message);
    }

    #[cold]
    fn unfenced(&mut self, touch: Touch, write: Access, address: usize) {
        let message = format!(
            "the async proxy reads shared address 0x{address:x}, written through the generic proxy at {{earlier}}: a \
             fence.proxy.async is missing in between, by the thread that wrote, before the barrier"
        );
        self.find(ReportKind::ProxyFence, touch.actor, touch.lane, Some(write), message);
    }

    /// Two accesses that nothing orders.
    #[cold]
    fn conflict(&mut self, touch: Touch, does: &str, earlier: Access, did: &str, address: usize) {
        let Touch { actor, lane, .. } = touch;
        let (kind, missing) = match self.agents.who(earlier.agent) {
            Ok((warp, Work::Threads)) if warp == actor.warp => {
                (ReportKind::Race, "a bar.warp.sync is missing in between: the threads of a warp do not run in step")
            }
            Ok((_, Work::Threads)) => {
                (ReportKind::Race, "nothing orders the two: a bar.sync, or another barrier, is missing in between")
            }
            Ok((_, Work::Copies)) => (
                ReportKind::NotAwaited,
                "the cp.async may not be over: a cp.async.commit_group and a cp.async.wait_group that covers it, and a \
                 barrier after that, are missing",
            ),
            Ok((_, Work::BulkReads)) => (
                ReportKind::NotAwaited,
                "the bulk copy may still read it: a cp.async.bulk.commit_group and a cp.async.bulk.wait_group.read that \
                 covers it, and a barrier after that, are missing",
            ),
            Ok((_, Work::Products)) => (
                ReportKind::NotAwaited,
                "the wgmma may still read it: a wgmma.wait_group that covers it, and a barrier after that, are missing",
            ),
            Ok(_) => (
                ReportKind::NotAwaited,
                "the tcgen05 instruction may still read it: a tcgen05.commit to an mbarrier, and a wait for that, are missing",
            ),
            Err(_) => (
                ReportKind::NotAwaited,
                "the copy may not be over: a wait for the mbarrier that it completes on is missing, by this thread or one \
                 that it synchronizes with",
            ),
        };
        let message = format!("a {does} of shared address 0x{address:x} after the {did} at {{earlier}}: {missing}");
        self.find(kind, actor, lane, Some(earlier), message);
    }
}

impl Context<'_> {
    /// Who runs the instruction, if it is checked.
    #[inline(always)]
    pub fn actor(&self) -> Option<Actor> {
        let checker = self.cluster.checker.as_deref()?;
        let warp = self.cta * checker.warps_each + self.warp.number as usize;
        Some(Actor { cta: self.cta, warp, at: self.at })
    }

    /// Tells the checker something.
    #[inline(always)]
    pub fn check(&mut self, tell: impl FnOnce(&mut Checker, Actor)) {
        if let Some(actor) = self.actor()
            && let Some(checker) = self.cluster.checker.as_deref_mut()
        {
            tell(checker, actor);
        }
    }

    /// The CTA and offset of an address, if it is one of shared memory that the cluster has.
    #[inline(always)]
    pub fn shared_of(&self, space: Space, address: u64) -> Option<(usize, usize)> {
        let (space, address) = if space == Space::Generic { specific(address) } else { (space, address) };
        if space == Space::Shared { self.shared_place(address) } else { None }
    }

    /// Checks a read of every active lane.
    #[inline(always)]
    pub fn check_reads(&mut self, space: Space, addresses: &[u64; LANES], bytes: usize, strong: bool) {
        if self.cluster.checker.is_some() {
            self.check_lanes(space, addresses, bytes, strong, false);
        }
    }

    /// Checks an atomic operation of every active lane.
    #[inline(always)]
    pub fn check_updates(&mut self, space: Space, addresses: &[u64; LANES], bytes: usize) {
        if self.cluster.checker.is_some() {
            self.check_lanes(space, addresses, bytes, true, true);
        }
    }

    /// Checks a write of a value by a lane.
    #[inline(always)]
    pub fn check_store<W: Word>(&mut self, space: Space, lane: usize, address: u64, value: W, strong: bool) {
        if self.cluster.checker.is_none() {
            return;
        }
        let Some((cta, offset)) = self.shared_of(space, address) else {
            return self.check_private_store(space, lane, address, value, strong);
        };
        let same = self.cluster.ctas[cta].shared.read(offset) == Some(value);
        self.check(|checker, actor| {
            let touch = Touch { strong, same, ..checker.touch(actor, lane) };
            checker.writes(touch, cta, offset, W::BYTES);
        });
    }

    fn check_private_store<W: Word>(&mut self, space: Space, lane: usize, address: u64, value: W, strong: bool) {
        let (space, address) = if space == Space::Generic { specific(address) } else { (space, address) };
        if space == Space::Local {
            let kernel = self.kernel;
            self.check(|checker, actor| checker.local_written(actor, kernel, lane, address, W::BYTES));
        } else if space == Space::Global
            && let Some(window) = self.global(address, W::BYTES)
        {
            self.check(|checker, actor| {
                let touch = GlobalTouch { actor, lane, strong, copies: false, writes: true };
                checker.global(touch, address, W::BYTES, || window.read(address) == Some(value));
            });
        }
    }

    /// Follows strong accesses, by which threads learn of each other.
    pub fn check_strong(&mut self, space: Space, addresses: &[u64; LANES], strong: Strong) {
        if self.cluster.checker.is_none() {
            return;
        }
        for lane in lanes(self.mask) {
            let location = match self.shared_of(space, addresses[lane]) {
                Some((cta, offset)) => (cta as u64) << 32 | offset as u64,
                None => addresses[lane],
            };
            self.check(|checker, actor| {
                if strong.reads {
                    checker.learn(actor, 1 << lane, location, strong.acquires);
                }
                if strong.writes {
                    checker.publish(actor, location, strong.releases);
                }
            });
        }
    }

    fn check_lanes(&mut self, space: Space, addresses: &[u64; LANES], bytes: usize, strong: bool, updates: bool) {
        for lane in lanes(self.mask) {
            let Some((cta, offset)) = self.shared_of(space, addresses[lane]) else {
                let address = addresses[lane];
                let (space, address) = if space == Space::Generic { specific(address) } else { (space, address) };
                if space == Space::Global {
                    self.check_global(space, lane, address, bytes);
                    self.check_race(lane, address, bytes, strong, updates);
                }
                continue;
            };
            self.check(|checker, actor| {
                let touch = Touch { strong, ..checker.touch(actor, lane) };
                if updates {
                    checker.updates(touch, cta, offset, bytes);
                } else {
                    checker.reads(touch, cta, offset, bytes);
                }
            });
        }
    }

    /// Checks that what a lane reads of global memory has been written.
    #[inline(always)]
    pub fn check_global(&mut self, space: Space, lane: usize, address: u64, bytes: usize) {
        if self.cluster.checker.is_none() {
            return;
        }
        let (space, address) = if space == Space::Generic { specific(address) } else { (space, address) };
        if space == Space::Global
            && let Some(window) = self.global(address, bytes)
            && !window.is_written(address, bytes)
        {
            self.check(|checker, actor| {
                let message = format!("a read of global memory at 0x{address:x} that nobody has written");
                checker.find(ReportKind::Uninitialized, actor, lane, None, message);
            });
        }
    }

    /// Says for which lane stretches of memory are copied from now on, by the warp itself or by its asynchronous work.
    #[inline(always)]
    pub fn issue(&mut self, lane: usize, work: impl FnOnce(&mut Checker, Actor) -> Option<(u16, u32)>) {
        if self.cluster.checker.is_some() {
            let mut issued = None;
            self.check(|checker, actor| issued = work(checker, actor));
            self.issuer = (lane, issued);
        }
    }

    /// Checks what [`Context::issue`] was said for: a read, or a write and whether it changes nothing.
    #[inline(always)]
    pub fn check_stretch(&mut self, place: Option<(usize, usize)>, bytes: usize, writes: Option<bool>) {
        let Some((cta, offset)) = place else { return };
        self.check_issued(|checker, touch| match writes {
            Some(same) => checker.writes(Touch { same, ..touch }, cta, offset, bytes),
            None => checker.reads(touch, cta, offset, bytes),
        });
    }

    /// Checks that what [`Context::issue`] was said for combines a stretch with something, in one step for each element.
    pub fn check_reduced(&mut self, place: Option<(usize, usize)>, bytes: usize) {
        let Some((cta, offset)) = place else { return };
        // It reads too, but through the generic proxy.
        self.check_issued(|checker, touch| checker.writes(Touch { strong: true, ..touch }, cta, offset, bytes));
    }

    /// The same through the proxy of what was issued, which reads what it changes: in shared or in global memory.
    pub fn check_combined(&mut self, space: Space, address: u64, bytes: usize) {
        if let Some((cta, offset)) = self.shared_of(space, address) {
            self.check_issued(|checker, touch| checker.updates(Touch { strong: true, ..touch }, cta, offset, bytes));
            return;
        }
        let lane = self.issuer.0;
        self.check_global(space, lane, address, bytes);
        self.check(|checker, actor| {
            let touch = GlobalTouch { actor, lane, strong: true, copies: true, writes: true };
            checker.global(touch, address, bytes, || false);
        });
    }

    #[inline(always)]
    fn check_issued(&mut self, tell: impl FnOnce(&mut Checker, Touch)) {
        let (lane, issued) = self.issuer;
        self.check(|checker, actor| {
            let (agent, time) = issued.unwrap_or_else(|| (actor.warp as u16, checker.now(actor.warp)));
            tell(checker, Touch { agent, time, ..checker.touch(actor, lane) });
        });
    }
}
