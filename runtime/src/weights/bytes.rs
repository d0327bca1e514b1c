//! The bytes of a weight, shared.

use std::ops::Range;
use std::sync::Arc;

use super::file::WeightFile;

/// The bytes of a weight: a part of a mapped file, or of memory. Clones share them.
#[derive(Clone, Debug)]
pub struct WeightBytes {
    source: Source,
    range: Range<usize>,
}

#[derive(Clone, Debug)]
enum Source {
    File(Arc<WeightFile>),
    Memory(Arc<[u8]>),
}

impl WeightBytes {
    /// Part of a mapped file; `None` where it ends beyond the file.
    pub(super) fn of_file(file: Arc<WeightFile>, range: Range<usize>) -> Option<WeightBytes> {
        file.bytes().get(range.clone())?;
        Some(WeightBytes { source: Source::File(file), range })
    }

    /// Bytes in memory.
    pub(super) fn of_memory(bytes: Vec<u8>) -> WeightBytes {
        let range = 0..bytes.len();
        WeightBytes { source: Source::Memory(bytes.into()), range }
    }

    /// Some of the bytes, in the same memory; `None` where they end beyond these.
    pub fn part(&self, range: Range<usize>) -> Option<WeightBytes> {
        self.as_slice().get(range.clone())?;
        let range = self.range.start + range.start..self.range.start + range.end;
        Some(WeightBytes { source: self.source.clone(), range })
    }

    /// The bytes. Their address does not change while any clone lives.
    pub fn as_slice(&self) -> &[u8] {
        match &self.source {
            Source::File(file) => &file.bytes()[self.range.clone()],
            Source::Memory(bytes) => &bytes[self.range.clone()],
        }
    }

    /// What tells these bytes from others, as far as the system knows without reading them: the file, its age, and where in it they lie. `None` for
    /// bytes in memory.
    pub(super) fn identity(&self) -> Option<String> {
        let Source::File(file) = &self.source else { return None };
        Some(format!("{} {:?}", file.identity()?, self.range))
    }

    /// The file they are in; `None` if they are in memory.
    pub(crate) fn file(&self) -> Option<&Arc<WeightFile>> {
        match &self.source {
            Source::File(file) => Some(file),
            Source::Memory(_) => None,
        }
    }
}
