//! The parameters of a kernel under construction and what each is bound to at a launch.

use std::collections::HashMap;

use smallvec::SmallVec;
use tessera_runtime::plan::Extent;

use crate::tile::{Access, ArgumentIndex, Builder, Dimension, Element, TensorArgument, Value};

/// What one kernel of a region leaves for the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Partial {
    /// Of the parts of a split attention: largest scores, [tokens · heads, parts] f32.
    Maxima,
    /// Sums of weights, [tokens · heads, parts] f32.
    Sums,
    /// Weighted sums of values, [tokens · heads, parts, elements] f32.
    Accumulators,
    /// The rows of experts, those of the first expert first, [rows] i32.
    Order,
    /// How many rows of each chunk of them each expert has, [chunks, experts] i32.
    Counts,
    /// Where in their order the rows of each chunk and expert start, [chunks, experts] i32.
    Bases,
    /// Where in their order the rows of each expert start, and where the last one's end, [experts + 1] i32.
    Starts,
}

impl Partial {
    /// What the parts of a split attention leave.
    pub const ATTENTION: [Partial; 3] = [Partial::Maxima, Partial::Sums, Partial::Accumulators];

    /// What kernels that put rows in order leave.
    pub const ORDER: [Partial; 4] = [Partial::Order, Partial::Counts, Partial::Bases, Partial::Starts];

    fn name(self) -> &'static str {
        match self {
            Partial::Maxima => "maxima",
            Partial::Sums => "sums",
            Partial::Accumulators => "accumulators",
            Partial::Order => "order",
            Partial::Counts => "counts",
            Partial::Bases => "bases",
            Partial::Starts => "starts",
        }
    }
}

/// Memory that a kernel works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Buffer {
    /// An input of the region.
    Input(usize),
    /// An output of the region.
    Output(usize),
    /// The keys of one layer of a cache.
    Keys {
        /// The input of the region that is the cache.
        input: usize,
        /// The layer.
        layer: u64,
    },
    /// The values of one layer of a cache.
    Values {
        /// The input of the region that is the cache.
        input: usize,
        /// The layer.
        layer: u64,
    },
    /// What one kernel of the region leaves for the next.
    Partial(Partial),
}

impl Buffer {
    fn name(self) -> String {
        match self {
            Buffer::Input(input) => format!("in{input}"),
            Buffer::Output(output) => format!("out{output}"),
            Buffer::Keys { input, .. } => format!("keys{input}"),
            Buffer::Values { input, .. } => format!("values{input}"),
            Buffer::Partial(partial) => partial.name().to_string(),
        }
    }
}

/// What a kernel's parameter is bound to.
#[derive(Clone, Debug, PartialEq)]
pub enum Binding {
    /// Memory.
    Buffer(Buffer),
    /// An integer over the symbols of the plan.
    Integer(Extent),
}

/// Memory seen as a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Element type.
    pub element: Element,
    /// Extents, outermost first.
    pub extents: SmallVec<[Dimension; 4]>,
    /// Strides in elements.
    pub strides: SmallVec<[Dimension; 4]>,
    /// Power of two that divides the address.
    pub alignment: u32,
}

/// The parameters so far: each view of each buffer once, each integer once.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    bindings: Vec<Binding>,
    tensors: HashMap<(Buffer, View), ArgumentIndex>,
    values: HashMap<ArgumentIndex, Value>,
}

impl Arguments {
    /// What each parameter is bound to, in order.
    pub fn bindings(&self) -> &[Binding] {
        &self.bindings
    }

    /// The parameter for a view of a buffer.
    pub fn tensor(&mut self, builder: &mut Builder, buffer: Buffer, view: View, access: Access) -> ArgumentIndex {
        if let Some(index) = self.tensors.get(&(buffer, view.clone())) {
            return *index;
        }
        let views = self.tensors.keys().filter(|(known, _)| *known == buffer).count();
        let name = if views == 0 { buffer.name() } else { format!("{}_view{views}", buffer.name()) };
        let View { element, extents, strides, alignment } = view.clone();
        let index = builder.tensor(TensorArgument { name, element, extents, strides, access, alignment });
        self.bindings.push(Binding::Buffer(buffer));
        self.tensors.insert((buffer, view), index);
        index
    }

    /// An extent as a constant or a parameter.
    pub fn dimension_for(&mut self, builder: &mut Builder, extent: &Extent) -> Dimension {
        match extent.constant() {
            Some(value) => Dimension::Constant(value),
            None => Dimension::Argument(self.parameter(builder, extent)),
        }
    }

    /// The parameter for an extent, of which the program knows nothing even if it is a constant.
    pub fn parameter(&mut self, builder: &mut Builder, extent: &Extent) -> ArgumentIndex {
        let known = self.bindings.iter().position(|binding| matches!(binding, Binding::Integer(e) if e == extent));
        let position = known.unwrap_or_else(|| {
            let count = self.bindings.iter().filter(|binding| matches!(binding, Binding::Integer(_))).count();
            builder.integer(&format!("n{count}"), 1);
            self.bindings.push(Binding::Integer(extent.clone()));
            self.bindings.len() - 1
        });
        ArgumentIndex(position as u32)
    }

    /// As [`Arguments::dimension_for`], with the scalar that holds it. To be called before any loop is opened.
    pub fn declare(&mut self, builder: &mut Builder, extent: &Extent) -> Dimension {
        let dimension = self.dimension_for(builder, extent);
        if let Dimension::Argument(index) = dimension {
            self.values.entry(index).or_insert_with(|| builder.argument_value(index));
        }
        dimension
    }

    /// The scalar that holds an integer parameter, if it was declared.
    pub fn value(&self, index: ArgumentIndex) -> Option<Value> {
        self.values.get(&index).copied()
    }
}
