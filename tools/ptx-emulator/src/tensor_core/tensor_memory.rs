//! Tensor memory of a CTA: 128 lanes of 512 columns of 32 bits.

/// Lanes.
pub const ROWS: usize = 128;
/// Columns.
pub const COLUMNS: usize = 512;

/// Tensor memory, and which of its columns are allocated.
#[derive(Debug)]
pub struct TensorMemory {
    words: Vec<u32>,
    /// The allocation that a column belongs to: its first column, and how many.
    owners: Vec<Option<(u16, u16)>>,
    /// Allocations that the other CTA of the pair made for both, and that this one has not asked for yet.
    reserved: Vec<(usize, usize)>,
}

impl Default for TensorMemory {
    fn default() -> TensorMemory {
        TensorMemory { words: vec![0; ROWS * COLUMNS], owners: vec![None; COLUMNS], reserved: vec![] }
    }
}

impl TensorMemory {
    /// Takes columns, or `None` where not enough are free in a row.
    pub fn allocate(&mut self, columns: usize) -> Option<usize> {
        let first = (0..=COLUMNS.checked_sub(columns)?)
            .step_by(columns.max(1))
            .find(|first| self.owners[*first..first + columns].iter().all(Option::is_none))?;
        self.owners[first..first + columns].fill(Some((first as u16, columns as u16)));
        Some(first)
    }

    /// Remembers an allocation for the CTA to ask for.
    pub fn reserve(&mut self, first: usize, columns: usize) {
        self.reserved.push((first, columns));
    }

    /// The first column of an allocation that was made for this CTA.
    pub fn take_reserved(&mut self, columns: usize) -> Option<usize> {
        let at = self.reserved.iter().position(|(_, reserved)| *reserved == columns)?;
        Some(self.reserved.remove(at).0)
    }

    /// Gives columns back; false where they were not taken as one.
    pub fn release(&mut self, first: usize, columns: usize) -> bool {
        let Some(owners) = self.owners.get_mut(first..first + columns) else { return false };
        let one = owners.iter().all(|owner| *owner == Some((first as u16, columns as u16)));
        if one {
            owners.fill(None);
        }
        one
    }

    /// Whether all columns of a stretch are allocated.
    pub fn holds(&self, first: usize, columns: usize) -> bool {
        self.owners.get(first..first + columns).is_some_and(|owners| owners.iter().all(Option::is_some))
    }

    /// How many columns are allocated.
    pub fn allocated(&self) -> usize {
        self.owners.iter().filter(|owner| owner.is_some()).count()
    }

    /// A lane's columns.
    #[inline(always)]
    pub fn lane(&self, lane: usize) -> &[u32] {
        &self.words[lane * COLUMNS..][..COLUMNS]
    }

    /// A lane's columns, to write.
    #[inline(always)]
    pub fn lane_mut(&mut self, lane: usize) -> &mut [u32] {
        &mut self.words[lane * COLUMNS..][..COLUMNS]
    }
}
