//! Key-value caches.

use std::sync::Arc;

use super::{Executable, RunError};
use crate::device::{Device, Memory};
use crate::plan::{CacheSpecification, ExtentError};

/// A paged key-value cache on a device, all zero at first. A function that takes it updates it in place.
///
/// It is memory only: which page belongs to which sequence is the page table's say, see [`crate::pages`].
#[derive(Debug)]
pub struct KvCache {
    specification: CacheSpecification,
    pages: u64,
    memory: Box<dyn Memory>,
    device: Arc<dyn Device>,
}

impl KvCache {
    /// A cache of `pages` pages for the cache argument `name` of a model's function.
    pub fn new(executable: &Executable, name: &str, pages: u64) -> Result<KvCache, RunError> {
        let caches = &executable.plan().caches;
        let Some(specification) = caches.iter().find(|cache| cache.name == name) else {
            let known = caches.iter().map(|cache| cache.name.clone()).collect();
            return Err(RunError::Unknown { what: "cache", name: name.into(), known });
        };
        let place = || format!("cache `{name}` of {pages} pages");
        let overflow = || RunError::Extent { place: place(), error: ExtentError::Overflow("its bytes".into()) };
        let bytes = specification.bytes(pages).ok_or_else(overflow)?;
        let memory = executable.device().allocate(bytes)?;
        Ok(KvCache { specification: specification.clone(), pages, memory, device: executable.device().clone() })
    }

    /// How many pages it has.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// How many tokens fit one page.
    pub fn page_size(&self) -> u64 {
        self.specification.page_size
    }

    /// How many keys a token sees, its own the last; all if none.
    pub fn window(&self) -> Option<u64> {
        self.specification.window
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// A copy of its contents, laid out as [`CacheSpecification`] says.
    pub fn read(&self) -> Result<Vec<u8>, RunError> {
        let bytes = self.specification.bytes(self.pages).unwrap_or(0);
        let mut contents = vec![0; bytes as usize];
        self.device.download(self.memory.as_ref(), &mut contents)?;
        Ok(contents)
    }

    /// Whether it may be passed as `specification` to a function on `device`.
    pub(super) fn fits(&self, specification: &CacheSpecification, device: &Arc<dyn Device>) -> bool {
        // Which symbol counts the pages, and the argument's name, are the plan's own business: another function of the same
        // model may share the cache.
        let CacheSpecification { element, layers, heads, head_dimension, page_size, window, .. } = self.specification;
        let layout = (element, layers, heads, head_dimension, page_size, window);
        let s = specification;
        layout == (s.element, s.layers, s.heads, s.head_dimension, s.page_size, s.window)
            && Arc::ptr_eq(&self.device, device)
    }

    pub(super) fn address(&self) -> u64 {
        self.memory.address()
    }
}
