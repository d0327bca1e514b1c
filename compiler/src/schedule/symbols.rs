//! The symbols of a function and extents over them.

use tessera_ir::{Dim, Name, Shape};
use tessera_runtime::plan::Extent;

/// The symbols of a function, in the order of the plan.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    names: Vec<Name>,
}

impl Symbols {
    /// The index of a symbol, added where it is new.
    pub fn intern(&mut self, name: &Name) -> usize {
        self.position(name).unwrap_or_else(|| {
            self.names.push(name.clone());
            self.names.len() - 1
        })
    }

    /// The index of a symbol.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    /// The names, in order.
    pub fn names(&self) -> &[Name] {
        &self.names
    }

    /// A dimension as an extent. Unknown symbols, which no verified graph has, become 0.
    pub fn extent(&self, dim: &Dim) -> Extent {
        match dim {
            Dim::Static(extent) => Extent::from(*extent),
            Dim::Symbol(name) => self.position(name).map_or(Extent::from(0), Extent::symbol),
        }
    }

    /// The number of elements of a shape.
    pub fn elements(&self, shape: &Shape) -> Extent {
        Extent::product(shape.iter().map(|dim| self.extent(dim)))
    }
}
