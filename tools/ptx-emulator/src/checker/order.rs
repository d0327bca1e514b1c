//! What orders the threads of a cluster: barriers, mbarriers, fences, and the groups that asynchronous work completes in.

use super::clock::{Clock, Work};
use super::shadow::Access;
use super::{Actor, Checker, ReportKind};
use crate::asynchronous::mbarrier;
use crate::machine::cluster::BARRIERS;
use crate::machine::context::lanes;
use crate::machine::row::LANES;

/// Where threads meet: what those that arrived know goes to those that leave.
#[derive(Clone, Debug, Default)]
pub struct Meeting {
    /// The generation that is being gathered.
    generation: u32,
    gathered: Clock,
    published: Clock,
}

impl Meeting {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.generation = 0;
        self.gathered.clear();
        self.published.clear();
    }

    /// Publishes what was gathered, once its generation is over.
    fn settle(&mut self, generation: u32) {
        if self.generation != generation {
            self.generation = generation;
            self.published.join(&self.gathered);
            self.gathered.clear();
        }
    }
}

/// Who knows of which initializations of mbarriers, by `fence.mbarrier_init` and a barrier of the cluster that is relaxed.
#[derive(Debug, Default)]
pub struct Initializations {
    /// For each warp what it knew at its last such fence.
    fenced: Vec<Option<Clock>>,
    meeting: Meeting,
    /// What of each warp's the others have learnt.
    known: Vec<Clock>,
}

impl Initializations {
    /// Forgets everything, for so many warps.
    pub fn start(&mut self, warps: usize) {
        self.fenced.clear();
        self.fenced.resize(warps, None);
        self.meeting.clear();
        self.known.resize_with(warps, Clock::default);
        self.known.iter_mut().for_each(Clock::clear);
    }
}

/// An mbarrier.
#[derive(Clone, Debug)]
pub struct Mbarrier {
    /// The CTA in the cluster.
    pub cta: usize,
    /// Where in its shared memory.
    pub offset: usize,
    /// Whether it is initialized now.
    pub valid: bool,
    /// How many phases are complete.
    phase: u32,
    gathered: Clock,
    published: Clock,
    initialized: Access,
    /// For each warp the phase that it asked for last, from 1 on, and the lanes that did.
    asked: Vec<(u32, u32)>,
}

/// A copy in bulk that reads shared memory.
#[derive(Clone, Copy, Debug)]
pub struct Bulk {
    /// The instruction's number.
    pub at: u32,
    /// The lane that issued it.
    pub lane: u32,
    time: u32,
    /// Whether a group was committed for it.
    pub committed: bool,
}

/// Work of a warp that is counted in groups.
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    /// Groups of `cp.async`, by lane.
    copies: [u32; LANES],
    /// Groups of bulk copies, by lane.
    bulk: [u32; LANES],
    /// The last instruction that copies in bulk from shared memory, and is not waited for.
    pub last_bulk: Option<Bulk>,
    /// `tcgen05.mma`, `cp` and `shift`.
    pub tensor_products: u32,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters { copies: [0; LANES], bulk: [0; LANES], last_bulk: None, tensor_products: 0 }
    }
}

impl Checker {
    /// A warp's own time.
    #[inline(always)]
    pub(super) fn now(&self, warp: usize) -> u32 {
        self.clocks[warp].order[warp]
    }

    /// What the warp did so far has been published: what it does from now on has not.
    fn advance(&mut self, warp: usize) {
        self.clocks[warp].order[warp] += 1;
    }

    /// Lanes of a warp learn what a clock knows.
    fn acquire(clocks: &mut [Clock], own: &mut [u32; LANES], warp: usize, mask: u32, from: &Clock) {
        clocks[warp].join(from);
        let time = from.time(warp as u16);
        for lane in lanes(mask) {
            own[lane] = own[lane].max(time + 1);
        }
    }

    /// Lanes of a warp synchronize with each other.
    pub fn lanes_meet(&mut self, actor: Actor, mask: u32) {
        self.advance(actor.warp);
        let now = self.now(actor.warp);
        for lane in lanes(mask) {
            self.lanes[actor.warp][lane] = now;
        }
    }

    /// Threads arrive at a named barrier in a generation.
    pub fn arrive(&mut self, actor: Actor, barrier: usize, generation: u32) {
        let meeting = &mut self.barriers[actor.cta * BARRIERS + barrier];
        meeting.settle(generation);
        meeting.gathered.join(&self.clocks[actor.warp]);
        self.advance(actor.warp);
    }

    /// Threads leave a named barrier, which is in this generation now.
    pub fn leave(&mut self, actor: Actor, mask: u32, barrier: usize, generation: u32) {
        let meeting = &mut self.barriers[actor.cta * BARRIERS + barrier];
        meeting.settle(generation);
        Checker::acquire(&mut self.clocks, &mut self.lanes[actor.warp], actor.warp, mask, &meeting.published);
    }

    /// Threads arrive at the cluster's barrier in a generation.
    pub fn arrive_in_cluster(&mut self, actor: Actor, generation: u32, release: bool) {
        self.cluster_barrier.settle(generation);
        let Initializations { fenced, meeting, .. } = &mut self.initializations;
        meeting.settle(generation);
        if let Some(clock) = &fenced[actor.warp] {
            meeting.gathered.join(clock);
        }
        if release {
            self.cluster_barrier.gathered.join(&self.clocks[actor.warp]);
            self.advance(actor.warp);
        } else if let Some(clock) = &self.released[actor.warp] {
            self.cluster_barrier.gathered.join(clock);
        }
    }

    /// Threads leave the cluster's barrier, which is in this generation now.
    pub fn leave_in_cluster(&mut self, actor: Actor, mask: u32, generation: u32) {
        let meeting = &mut self.cluster_barrier;
        meeting.settle(generation);
        Checker::acquire(&mut self.clocks, &mut self.lanes[actor.warp], actor.warp, mask, &meeting.published);
        let Initializations { meeting, known, .. } = &mut self.initializations;
        meeting.settle(generation);
        known[actor.warp].join(&meeting.published);
    }

    /// `fence.mbarrier_init`: others learn of the warp's initializations at the cluster's barrier, even where that is relaxed.
    pub fn fence_initializations(&mut self, actor: Actor) {
        self.initializations.fenced[actor.warp] = Some(self.clocks[actor.warp].clone());
        self.advance(actor.warp);
    }

    /// A fence between what a warp did and does in the generic proxy and the async one.
    pub fn fence_proxy(&mut self, actor: Actor) {
        self.clocks[actor.warp].fence();
    }

    /// `fence` and `membar`: what strong reads have seen is known from now on, and strong writes publish what is known now.
    pub fn fence(&mut self, actor: Actor) {
        let warp = actor.warp;
        self.others.tell();
        self.others.look();
        Checker::acquire(&mut self.clocks, &mut self.lanes[warp], warp, u32::MAX, &self.seen[warp]);
        match &mut self.released[warp] {
            Some(clock) => clock.join(&self.clocks[warp]),
            none => *none = Some(self.clocks[warp].clone()),
        }
        self.advance(warp);
    }

    /// A strong write, of which others may learn: of all that the warp did, or of what it did before its last fence.
    pub fn publish(&mut self, actor: Actor, location: u64, release: bool) {
        let warp = actor.warp;
        if release {
            self.locations.entry(location).or_default().join(&self.clocks[warp]);
            self.advance(warp);
        } else if let Some(clock) = &self.released[warp] {
            self.locations.entry(location).or_default().join(clock);
        }
    }

    /// A strong read of what others may have published.
    pub fn learn(&mut self, actor: Actor, mask: u32, location: u64, acquire: bool) {
        if self.locations.is_empty() {
            return;
        }
        let Some(clock) = self.locations.get(&location) else { return };
        if acquire {
            Checker::acquire(&mut self.clocks, &mut self.lanes[actor.warp], actor.warp, mask, clock);
        } else {
            self.seen[actor.warp].join(clock);
        }
    }

    /// The mbarrier at an offset of a CTA's shared memory.
    fn mbarrier_at(&self, cta: usize, offset: usize) -> Option<usize> {
        self.mbarriers.iter().position(|mbarrier| mbarrier.cta == cta && mbarrier.offset == offset)
    }

    /// Whether bytes belong to an mbarrier, and where that was initialized.
    #[inline(always)]
    pub(super) fn overlaps_mbarrier(&self, cta: usize, offset: usize, bytes: usize) -> Option<Access> {
        let mut held = self.mbarriers.iter().filter(|mbarrier| {
            mbarrier.valid && mbarrier.cta == cta && mbarrier.offset < offset + bytes && offset < mbarrier.offset + 8
        });
        held.next().map(|mbarrier| mbarrier.initialized)
    }

    /// `mbarrier.init`
    pub fn mbarrier_initialized(&mut self, actor: Actor, lane: usize, cta: usize, offset: usize) {
        let initialized =
            Access { agent: actor.warp as u16, time: self.now(actor.warp), at: actor.at, lane: lane as u8, bytes: 0 };
        match self.mbarrier_at(cta, offset) {
            // Its phases go on counting, so that a time of its agent is never reached twice.
            Some(number) => {
                let mbarrier = &mut self.mbarriers[number];
                mbarrier.valid = true;
                mbarrier.initialized = initialized;
                mbarrier.phase += 1;
                mbarrier.gathered.clear();
                mbarrier.published.clear();
            }
            None => self.mbarriers.push(Mbarrier {
                cta,
                offset,
                valid: true,
                phase: 0,
                gathered: Clock::default(),
                published: Clock::default(),
                initialized,
                asked: vec![],
            }),
        }
    }

    /// `mbarrier.inval`
    pub fn mbarrier_invalidated(&mut self, cta: usize, offset: usize) {
        if let Some(number) = self.mbarrier_at(cta, offset) {
            self.mbarriers[number].valid = false;
        }
    }

    /// Something is done with an mbarrier: that needs its initialization to be over. Gives its number.
    fn mbarrier_used(&mut self, actor: Actor, lane: usize, cta: usize, offset: usize) -> Option<usize> {
        let number = self.mbarrier_at(cta, offset)?;
        let initialized = self.mbarriers[number].initialized;
        let known = &self.initializations.known[actor.warp];
        if !known.reached(initialized.agent, initialized.time) && !self.comes_before(&initialized, actor.warp, lane) {
            let message = format!(
                "the mbarrier at shared address 0x{offset:x} is used without synchronization after its initialization at {{earlier}}: \
                 a bar.sync, or a barrier.cluster after fence.mbarrier_init where CTAs share it, is missing"
            );
            self.find(ReportKind::Mbarrier, actor, lane, Some(initialized), message);
        }
        Some(number)
    }

    /// A thread arrives at an mbarrier, before that counts it.
    pub fn mbarrier_arrive(&mut self, actor: Actor, lane: usize, cta: usize, offset: usize, release: bool) {
        let Some(number) = self.mbarrier_used(actor, lane, cta, offset) else { return };
        let (clock, mbarrier) = (&self.clocks[actor.warp], &mut self.mbarriers[number]);
        if release && mbarrier.gathered.time(actor.warp as u16) < clock.time(actor.warp as u16) {
            mbarrier.gathered.join(clock);
            self.advance(actor.warp);
        } else if release {
            mbarrier.gathered.join(clock);
        }
    }

    /// All `cp.async` of a warp so far, or all its tensor products, will arrive at an mbarrier.
    pub fn mbarrier_arrive_after(&mut self, actor: Actor, lane: usize, cta: usize, offset: usize, work: Work) {
        self.mbarrier_arrive(actor, lane, cta, offset, true);
        let Some(number) = self.mbarrier_at(cta, offset) else { return };
        let time = match work {
            Work::Copies => self.counters[actor.warp].copies[lane] + 1,
            _ => self.counters[actor.warp].tensor_products,
        };
        let agent = self.agents.of(actor.warp, work);
        let gathered = &mut self.mbarriers[number].gathered;
        gathered.learn(agent, time);
        if work == Work::TensorProducts && self.tensor_fences != [false; 2] {
            // A tcgen05.commit is such a fence, too.
            gathered.fence_tensor(agent, time);
        }
        if work == Work::Copies {
            self.counters[actor.warp].copies[lane] += 1;
        }
    }

    /// The agent and the time of a copy that completes on an mbarrier.
    pub fn completes_on(&mut self, actor: Actor, lane: usize, cta: usize, offset: usize) -> Option<(u16, u32)> {
        let number = self.mbarrier_used(actor, lane, cta, offset)?;
        let mbarrier = &mut self.mbarriers[number];
        mbarrier.gathered.join(&self.clocks[actor.warp]);
        self.advance(actor.warp);
        Some((self.agents.of_mbarrier(number), self.mbarriers[number].phase + 1))
    }

    /// An mbarrier has completed a phase.
    pub fn mbarrier_completed(&mut self, cta: usize, offset: usize) {
        let Some(number) = self.mbarrier_at(cta, offset) else { return };
        let agent = self.agents.of_mbarrier(number);
        let mbarrier = &mut self.mbarriers[number];
        mbarrier.phase += 1;
        mbarrier.published.join(&mbarrier.gathered);
        mbarrier.published.learn(agent, mbarrier.phase);
        mbarrier.gathered.clear();
    }

    /// A lane asks for a phase of an mbarrier that is complete; false where it is told that it is not yet.
    ///
    /// Copies are done at once here, so that nobody would ever have to wait: the first time that a warp asks, the answer is that it
    /// has to, as on a GPU where the copy takes its time. Code that does not ask again has not waited.
    pub fn mbarrier_awaited(&mut self, actor: Actor, lane: usize, cta: usize, offset: usize, acquire: bool) -> bool {
        let Some(number) = self.mbarrier_used(actor, lane, cta, offset) else { return true };
        let mbarrier = &mut self.mbarriers[number];
        if mbarrier.asked.len() <= actor.warp {
            mbarrier.asked.resize(actor.warp + 1, (0, 0));
        }
        // The phase, from 1 on, and the lanes that asked for it.
        let asked = &mut mbarrier.asked[actor.warp];
        if asked.0 != mbarrier.phase + 1 {
            *asked = (mbarrier.phase + 1, 0);
        }
        if asked.1 >> lane & 1 == 0 {
            asked.1 |= 1 << lane;
            return false;
        }
        let mbarrier = &self.mbarriers[number];
        let known = self.clocks[actor.warp].reached(self.agents.of_mbarrier(number), mbarrier.phase)
            && self.lanes[actor.warp][lane] > mbarrier.published.time(actor.warp as u16);
        if acquire && !known {
            let own = &mut self.lanes[actor.warp];
            Checker::acquire(&mut self.clocks, own, actor.warp, 1 << lane, &self.mbarriers[number].published);
        }
        true
    }

    /// The mbarriers that are initialized: the CTA, the offset, and where that was.
    pub fn valid_mbarriers(&self) -> impl Iterator<Item = (usize, usize, u32)> {
        let valid = self.mbarriers.iter().filter(|mbarrier| mbarrier.valid);
        valid.map(|mbarrier| (mbarrier.cta, mbarrier.offset, mbarrier.initialized.at))
    }

    /// All threads of the cluster have exited, and left these bits in their mbarriers.
    pub fn finish(&mut self, bits: impl Fn(usize, usize) -> u64) {
        for number in 0..self.mbarriers.len() {
            let Mbarrier { cta, offset, valid, initialized, .. } = self.mbarriers[number];
            let (_, bytes, _) = mbarrier::pending(bits(cta, offset));
            if valid && bytes != 0 {
                let actor = Actor { cta, warp: initialized.agent as usize, at: initialized.at };
                let message = format!(
                    "the kernel ends while the mbarrier at shared address 0x{offset:x}, initialized here, waits for {bytes} bytes: \
                     what its expect_tx says is not what is copied"
                );
                self.find(ReportKind::Mbarrier, actor, usize::from(initialized.lane), None, message);
            }
        }
        for warp in 0..self.counters.len() {
            if let Some((at, committed)) = self.products_left(warp) {
                let actor = Actor { cta: warp / self.warps_each.max(1), warp, at };
                let message = if committed {
                    "the kernel ends while this wgmma may still run: a wgmma.wait_group is missing"
                } else {
                    "no group was committed for this wgmma: a wgmma.commit_group is missing, and a wgmma.wait_group after it"
                };
                self.find(ReportKind::NotCommitted, actor, 0, None, message.into());
            }
            let Some(bulk) = self.counters[warp].last_bulk else { continue };
            let actor = Actor { cta: warp / self.warps_each.max(1), warp, at: bulk.at };
            let message = if bulk.committed {
                "the CTA ends while a bulk copy may still read its shared memory: a cp.async.bulk.wait_group.read is missing"
            } else {
                "the CTA ends with a bulk copy that no group was committed for: a cp.async.bulk.commit_group and a \
                 cp.async.bulk.wait_group.read are missing"
            };
            self.find(ReportKind::NotCommitted, actor, bulk.lane as usize, None, message.into());
        }
    }

    /// The agent and the time of a `tcgen05.mma`, `cp` or `shift`.
    pub fn tensor_product(&mut self, actor: Actor) -> (u16, u32) {
        let counters = &mut self.counters[actor.warp];
        counters.tensor_products += 1;
        (self.agents.of(actor.warp, Work::TensorProducts), counters.tensor_products)
    }

    /// The agent and the time of a `cp.async`.
    pub fn copy(&self, actor: Actor, lane: usize) -> (u16, u32) {
        (self.agents.of(actor.warp, Work::Copies), self.counters[actor.warp].copies[lane] + 1)
    }

    /// `cp.async.commit_group`
    pub fn copies_committed(&mut self, actor: Actor, mask: u32) {
        for lane in lanes(mask) {
            self.counters[actor.warp].copies[lane] += 1;
        }
    }

    /// `cp.async.wait_group`, or `wait_all` where `left` is `None`.
    pub fn copies_awaited(&mut self, actor: Actor, mask: u32, left: Option<u32>) {
        if left.is_none() {
            self.copies_committed(actor, mask);
        }
        let leader = mask.trailing_zeros() as usize % LANES;
        let time = self.counters[actor.warp].copies[leader].saturating_sub(left.unwrap_or(0));
        self.clocks[actor.warp].learn(self.agents.of(actor.warp, Work::Copies), time);
    }

    /// The agent and the time of a bulk copy that reads shared memory.
    pub fn bulk_read(&mut self, actor: Actor, lane: usize) -> (u16, u32) {
        let counters = &mut self.counters[actor.warp];
        let time = counters.bulk[lane] + 1;
        counters.last_bulk = Some(Bulk { at: actor.at, lane: lane as u32, time, committed: false });
        (self.agents.of(actor.warp, Work::BulkReads), time)
    }

    /// `cp.async.bulk.commit_group`
    pub fn bulk_committed(&mut self, actor: Actor, mask: u32) {
        let counters = &mut self.counters[actor.warp];
        for lane in lanes(mask) {
            counters.bulk[lane] += 1;
        }
        if let Some(bulk) = &mut counters.last_bulk {
            bulk.committed |= mask >> bulk.lane & 1 != 0;
        }
    }

    /// `cp.async.bulk.wait_group`: what the copies read may be written again, whether with `.read` or without.
    pub fn bulk_awaited(&mut self, actor: Actor, mask: u32, left: u32) {
        let counters = &mut self.counters[actor.warp];
        let committed = lanes(mask).map(|lane| counters.bulk[lane]).max().unwrap_or(0);
        let time = committed.saturating_sub(left);
        counters.last_bulk = counters.last_bulk.filter(|bulk| {
            mask >> bulk.lane & 1 == 0 || counters.bulk[bulk.lane as usize].saturating_sub(left) < bulk.time
        });
        self.clocks[actor.warp].learn(self.agents.of(actor.warp, Work::BulkReads), time);
    }
}
