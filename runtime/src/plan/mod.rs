//! The execution plan: what a compiled function needs and the launches that compute it.
//!
//! The compiler writes a plan, the runtime follows it. Everything whose size depends on the call is an [`Extent`] over the
//! plan's symbols; the symbols get their values from the shapes of the inputs and from the caches.

mod buffer;
mod check;
mod element;
mod extent;
mod launch;
mod layout;
mod validate;

pub use buffer::{
    BUFFER_ALIGNMENT, CacheSpecification, ConstantSpecification, ParameterSpecification, Slot, TensorSpecification,
};
pub use check::Check;
pub use element::{ElementType, UnknownElementType};
pub use extent::{Extent, ExtentError, MAXIMUM_DEPTH};
pub use launch::{Argument, Balance, BufferReference, Guard, Kernel, Launch, ParameterKind, Partition};
pub use layout::{Layout, Mover, TiledDimension};
pub use validate::PlanError;

use serde::{Deserialize, Serialize};

/// A compiled function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The module it comes from.
    pub module: String,
    /// The function's name.
    pub function: String,
    /// The names of the symbols; everything else refers to them by index.
    pub symbols: Vec<String>,
    /// Tensors the caller passes.
    pub inputs: Vec<TensorSpecification>,
    /// Tensors the caller gets back. A cache is not among them: it is updated in place.
    pub outputs: Vec<TensorSpecification>,
    /// Weights.
    pub parameters: Vec<ParameterSpecification>,
    /// Key-value caches the caller passes.
    pub caches: Vec<CacheSpecification>,
    /// Constants of the graph.
    pub constants: Vec<ConstantSpecification>,
    /// What must hold of the inputs' contents.
    pub checks: Vec<Check>,
    /// Temporary buffers.
    pub slots: Vec<Slot>,
    /// The kernels, each once.
    pub kernels: Vec<Kernel>,
    /// The launches, in order.
    pub launches: Vec<Launch>,
}

impl Plan {
    /// A plan without anything in it, to be filled in.
    pub fn new(module: impl Into<String>, function: impl Into<String>) -> Plan {
        Plan {
            module: module.into(),
            function: function.into(),
            symbols: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            parameters: Vec::new(),
            caches: Vec::new(),
            constants: Vec::new(),
            checks: Vec::new(),
            slots: Vec::new(),
            kernels: Vec::new(),
            launches: Vec::new(),
        }
    }

    /// The name of the input that is the page table of a cache, by index: what the checks bound by the cache's pages.
    pub fn page_table(&self, cache: usize) -> Option<&str> {
        let count = Extent::symbol(self.caches.get(cache)?.pages);
        let table = self.checks.iter().find_map(|check| match check {
            Check::Pages { table, pages, .. } if *pages == count => Some(*table),
            _ => None,
        });
        Some(self.inputs.get(table?)?.name.as_str())
    }

    /// The index of a symbol, added where it is new.
    pub fn intern_symbol(&mut self, name: &str) -> usize {
        match self.symbols.iter().position(|symbol| symbol == name) {
            Some(index) => index,
            None => {
                self.symbols.push(name.into());
                self.symbols.len() - 1
            }
        }
    }
}
