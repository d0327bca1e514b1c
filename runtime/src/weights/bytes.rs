//! The bytes of a weight, shared.

use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;

/// The bytes of a weight: a part of a mapped file, or of memory. Clones share them.
#[derive(Clone, Debug)]
pub struct WeightBytes {
    source: Source,
    range: Range<usize>,
}

#[derive(Clone, Debug)]
enum Source {
    File(Arc<Mmap>),
    Memory(Arc<[u8]>),
}

impl WeightBytes {
    /// Part of a mapped file; `None` where it ends beyond the file.
    pub(super) fn of_file(file: Arc<Mmap>, range: Range<usize>) -> Option<WeightBytes> {
        file.get(range.clone())?;
        Some(WeightBytes { source: Source::File(file), range })
    }

    /// Bytes in memory.
    pub(super) fn of_memory(bytes: Vec<u8>) -> WeightBytes {
        let range = 0..bytes.len();
        WeightBytes { source: Source::Memory(bytes.into()), range }
    }

    /// The bytes. Their address does not change while any clone lives.
    pub fn as_slice(&self) -> &[u8] {
        match &self.source {
            Source::File(file) => &file[self.range.clone()],
            Source::Memory(bytes) => &bytes[self.range.clone()],
        }
    }

    /// Asks the system to read the bytes from disk now, so that the first step does not fault them in page by page.
    pub fn populate(&self) {
        #[cfg(target_os = "linux")]
        if let Source::File(file) = &self.source {
            // Only a wish: without it the pages come as they are touched.
            let _ = file.advise_range(memmap2::Advice::PopulateRead, self.range.start, self.range.len());
        }
    }
}
