//! Vector clocks: who has seen how much of what the others did.
//!
//! Time is counted by agents: each warp, and beside it what works for the warp without it (its copies, its products, …); and each
//! mbarrier, for the copies that complete on it. An event is an agent and that agent's time; it comes before what a warp does now if
//! the warp's clock has reached that time. See Flanagan and Freund, "FastTrack" (PLDI 2009).

/// The work of a warp that has a time of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// What its threads do.
    Threads,
    /// `cp.async`: a time for each committed group.
    Copies,
    /// Bulk copies that read shared memory: a time for each committed group.
    BulkReads,
    /// `wgmma`, of the warpgroup whose first warp it is: a time for each committed group.
    Products,
    /// `tcgen05.mma`, `cp` and `shift`: a time for each instruction.
    TensorProducts,
    /// `tcgen05.ld`
    TensorLoads,
    /// `tcgen05.st`
    TensorStores,
}

/// How many kinds of [`Work`] there are.
const WORKS: usize = 7;

/// Numbers for agents.
#[derive(Clone, Copy, Debug, Default)]
pub struct Agents {
    /// Warps of the cluster.
    pub warps: usize,
}

impl Agents {
    /// The agent of a warp's work.
    #[inline(always)]
    pub fn of(self, warp: usize, work: Work) -> u16 {
        (work as usize * self.warps + warp) as u16
    }

    /// The agent of an mbarrier.
    pub fn of_mbarrier(self, number: usize) -> u16 {
        (WORKS * self.warps + number) as u16
    }

    /// The warp and its work, or the mbarrier's number.
    pub fn who(self, agent: u16) -> Result<(usize, Work), usize> {
        let agent = agent as usize;
        let works = [
            Work::Threads,
            Work::Copies,
            Work::BulkReads,
            Work::Products,
            Work::TensorProducts,
            Work::TensorLoads,
            Work::TensorStores,
        ];
        match works.get(agent / self.warps.max(1)) {
            Some(work) => Ok((agent % self.warps, *work)),
            None => Err(agent - WORKS * self.warps),
        }
    }

    /// Whether an agent accesses memory through the generic proxy.
    #[inline(always)]
    pub fn is_generic(self, agent: u16) -> bool {
        (agent as usize) < 2 * self.warps
    }
}

/// For each agent the latest time that is known.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// What comes before.
    pub order: Vec<u32>,
    /// What comes before, with a proxy fence in between: what the async proxy sees of it.
    pub fenced: Vec<u32>,
    /// What comes before, with a `tcgen05.fence::before_thread_sync` in between.
    pub tensor: Vec<u32>,
}

impl Clock {
    /// Knows nothing.
    pub fn clear(&mut self) {
        self.order.fill(0);
        self.fenced.fill(0);
        self.tensor.fill(0);
    }

    /// Whether an agent's time has been reached.
    #[inline(always)]
    pub fn reached(&self, agent: u16, time: u32) -> bool {
        self.order.get(agent as usize).is_some_and(|known| *known >= time)
    }

    /// The same, with a proxy fence in between.
    #[inline(always)]
    pub fn fenced(&self, agent: u16, time: u32) -> bool {
        self.fenced.get(agent as usize).is_some_and(|known| *known >= time)
    }

    /// The same, with a `tcgen05.fence::before_thread_sync` in between.
    pub fn tensor_reached(&self, agent: u16, time: u32) -> bool {
        self.tensor.get(agent as usize).is_some_and(|known| *known >= time)
    }

    /// The time of an agent.
    #[inline(always)]
    pub fn time(&self, agent: u16) -> u32 {
        self.order.get(agent as usize).copied().unwrap_or(0)
    }

    /// Learns that an agent's time has been reached.
    pub fn learn(&mut self, agent: u16, time: u32) {
        let agent = agent as usize;
        if self.order.len() <= agent {
            self.order.resize(agent + 1, 0);
        }
        self.order[agent] = self.order[agent].max(time);
    }

    /// Learns all that another knows.
    pub fn join(&mut self, other: &Clock) {
        join(&mut self.order, &other.order);
        join(&mut self.fenced, &other.fenced);
        join(&mut self.tensor, &other.tensor);
    }

    /// A proxy fence: the async proxy sees all that comes before.
    pub fn fence(&mut self) {
        let Clock { order, fenced, .. } = self;
        join(fenced, order);
    }

    /// A fence of `tcgen05`: what comes before, and what was issued to an agent by a time.
    pub fn fence_tensor(&mut self, agent: u16, time: u32) {
        let Clock { order, tensor, .. } = self;
        join(tensor, order);
        let agent = agent as usize;
        if tensor.len() <= agent {
            tensor.resize(agent + 1, 0);
        }
        tensor[agent] = tensor[agent].max(time);
    }
}

/// Keeps the latest time of each agent.
pub fn join(into: &mut Vec<u32>, from: &[u32]) {
    if into.len() < from.len() {
        into.resize(from.len(), 0);
    }
    for (into, from) in into.iter_mut().zip(from) {
        *into = (*into).max(*from);
    }
}
