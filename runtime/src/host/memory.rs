//! Host memory that kernels work on.

use memmap2::MmapMut;

use super::HostError;
use crate::device::Memory;
use crate::weights::WeightBytes;

/// Blocks from this size on ask for huge pages: fewer misses in the address translation when a model streams through them.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// Anonymous memory: zero, page-aligned, and taken from the system only as it is touched.
#[derive(Debug)]
pub(super) struct HostMemory {
    map: MmapMut,
    /// Where it starts; taken from a mutable borrow, since kernels write through it.
    address: u64,
    bytes: u64,
}

impl HostMemory {
    pub fn allocate(bytes: u64) -> Result<HostMemory, HostError> {
        let failed = || HostError::OutOfMemory(bytes);
        let size = usize::try_from(bytes.max(1)).map_err(|_| failed())?;
        // Mappings of whole huge pages are placed so that they start at one.
        let unit = if size >= HUGE_PAGE { HUGE_PAGE } else { 1 };
        let size = size.checked_next_multiple_of(unit).ok_or_else(failed)?;
        let mut map = MmapMut::map_anon(size).map_err(|_| failed())?;
        #[cfg(target_os = "linux")]
        if size >= HUGE_PAGE {
            // Only a wish: a kernel without huge pages serves as well.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        let address = map.as_mut_ptr() as u64;
        Ok(HostMemory { map, address, bytes })
    }
}

impl Memory for HostMemory {
    fn address(&self) -> u64 {
        self.address
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn host_bytes(&self) -> Option<&[u8]> {
        Some(&self.map[..self.bytes as usize])
    }

    fn host_bytes_mut(&mut self) -> Option<&mut [u8]> {
        Some(&mut self.map[..self.bytes as usize])
    }
}

/// A weight, where kernels read it.
#[derive(Debug)]
pub(super) struct BoundWeight(pub WeightBytes);

impl Memory for BoundWeight {
    fn address(&self) -> u64 {
        self.0.as_slice().as_ptr() as u64
    }

    fn bytes(&self) -> u64 {
        self.0.as_slice().len() as u64
    }

    fn host_bytes(&self) -> Option<&[u8]> {
        Some(self.0.as_slice())
    }
}
