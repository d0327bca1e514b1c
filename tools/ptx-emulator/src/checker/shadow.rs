//! What the checker remembers of a CTA's shared memory: for every four bytes who wrote and who read them last.

use smallvec::SmallVec;

/// Bytes of a granule.
const GRANULE: usize = 4;
/// Granules of a page, which is the unit that is cleared when it is first touched.
const PAGE: usize = 256;

/// An access of a granule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The agent's time, or 0 for none.
    pub time: u32,
    /// The instruction's number.
    pub at: u32,
    /// Who.
    pub agent: u16,
    /// Which lane of the warp.
    pub lane: u8,
    /// Which of the four bytes, a bit each; [`STRONG`] for atomic ones.
    pub bytes: u8,
}

/// Bit of [`Access::bytes`]: does not race with others that are strong.
pub const STRONG: u8 = 1 << 4;
/// The number of an agent that stands for several accesses.
const SEVERAL: u16 = u16::MAX;

/// Four bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Granule {
    /// The last write.
    pub write: Access,
    /// The last read. Several that nothing orders have a list.
    read: Access,
    /// Which bytes have ever been written.
    pub initialized: u8,
}

type List = SmallVec<[Access; 8]>;

/// The granules of a CTA's shared memory.
#[derive(Debug, Default)]
pub struct Shadow {
    granules: Vec<Granule>,
    pages: Vec<u32>,
    generation: u32,
    lists: Vec<List>,
    free: Vec<u32>,
}

impl Shadow {
    /// Forgets everything; the memory has this many bytes.
    pub fn reset(&mut self, bytes: usize) {
        let pages = bytes.div_ceil(GRANULE * PAGE);
        self.generation = self.generation.wrapping_add(1);
        if self.pages.len() < pages || self.generation == 0 {
            self.generation = 1;
            self.pages.clear();
            self.pages.resize(pages, 0);
            self.granules.clear();
            self.granules.resize(pages * PAGE, Granule::default());
        }
        self.free.clear();
        self.free.extend(0..self.lists.len() as u32);
    }

    /// The granules that a stretch of bytes touches, each with the bits of the bytes; none outside of the memory.
    #[inline(always)]
    pub fn touched(&self, offset: usize, bytes: usize) -> impl Iterator<Item = (usize, u8)> + use<> {
        let (end, limit) = (offset + bytes, self.granules.len());
        (offset / GRANULE..end.div_ceil(GRANULE).min(limit)).map(move |number| {
            let first = offset.saturating_sub(number * GRANULE);
            let last = (end - number * GRANULE).min(GRANULE);
            (number, (0xfu8 << first) & (0xf >> (GRANULE - last)))
        })
    }

    /// A granule.
    #[inline(always)]
    pub fn granule(&mut self, number: usize) -> &mut Granule {
        let page = number / PAGE;
        if self.pages[page] != self.generation {
            self.pages[page] = self.generation;
            self.granules[page * PAGE..][..PAGE].fill(Granule::default());
        }
        &mut self.granules[number]
    }

    /// The reads of a granule since its last write, as far as nothing orders them.
    #[inline(always)]
    pub fn reads(&self, number: usize) -> &[Access] {
        let read = &self.granules[number].read;
        if read.agent == SEVERAL {
            &self.lists[read.time as usize]
        } else if read.time == 0 {
            &[]
        } else {
            std::slice::from_ref(read)
        }
    }

    /// Remembers a write, before which all reads come.
    #[inline(always)]
    pub fn wrote(&mut self, number: usize, access: Access) {
        let granule = &mut self.granules[number];
        granule.write = access;
        granule.initialized |= access.bytes & 0xf;
        if granule.read.agent == SEVERAL {
            self.free.push(granule.read.time);
        }
        granule.read = Access::default();
    }

    /// Remembers a read. `before` says whether an earlier one comes before it, and need not be remembered any more.
    #[inline(always)]
    pub fn did_read(&mut self, number: usize, access: Access, before: impl Fn(&Access) -> bool) {
        let read = &mut self.granules[number].read;
        if read.agent != SEVERAL && (read.time == 0 || read.agent == access.agent || before(read)) {
            *read = access;
            return;
        }
        if read.agent != SEVERAL {
            let list = self.free.pop().unwrap_or_else(|| {
                self.lists.push(List::new());
                self.lists.len() as u32 - 1
            });
            self.lists[list as usize].clear();
            self.lists[list as usize].push(*read);
            *read = Access { agent: SEVERAL, time: list, ..Access::default() };
        }
        let list = &mut self.lists[read.time as usize];
        if let Some(same) = list.iter_mut().find(|read| read.agent == access.agent) {
            *same = access;
            return;
        }
        list.retain(|read| !before(read));
        list.push(access);
    }
}
