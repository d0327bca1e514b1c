//! Programs that have been built, so that equal regions are built once.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use tessera_ir::{Graph, NodeId, NodeKind, ValueId, ops};
use tessera_runtime::plan::Extent;

use super::arguments::{Binding, Buffer};
use super::cost::{Machine, Overrides, Variant, shaping};
use super::emitter::InputMemory;
use super::error::Cut;
use super::kernel::{Built, Region, build};
use super::packing::PackedParameter;
use super::strategy::Tiling;
use super::symbols::Symbols;
use crate::target::Target;

/// A value of a region by its place in topological order and the number of the result: the same for equal regions.
pub type Position = (usize, u32);

/// Where an input of a region comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum InputKind {
    /// Memory that the runtime lays out.
    Made,
    /// Memory of the caller's or of a weights file.
    Given,
    /// A weight that is bound in another order than the file has.
    Packed(PackedParameter),
    /// A cache with so many pages.
    Cache(Extent),
}

type Outcome = Result<Arc<Vec<Built>>, (Position, Cut)>;

/// Builds programs and remembers them.
pub struct Library {
    machine: Machine,
    overrides: Overrides,
    built: HashMap<blake3::Hash, Outcome>,
}

impl Library {
    /// An empty library.
    pub fn new(machine: Machine, overrides: Overrides) -> Self {
        Self { machine, overrides, built: HashMap::new() }
    }

    /// What programs are built for.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Knobs that the user has set.
    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// Whether a region is one kernel under each of these variants; if not, which value must be in memory first.
    pub fn fits(
        &mut self,
        graph: &Graph,
        symbols: &Symbols,
        inputs: &[InputKind],
        variants: &[Variant],
    ) -> Result<(), (Position, Cut)> {
        variants.iter().try_for_each(|variant| self.steps(graph, symbols, inputs, &variant.tiling).map(|_| ()))
    }

    /// The programs of a region, to be launched in this order.
    pub(super) fn kernels(
        &mut self,
        graph: &Graph,
        symbols: &Symbols,
        inputs: &[InputKind],
        tiling: &Tiling,
    ) -> Result<Vec<Built>, (Position, Cut)> {
        let layers = layers(graph);
        let key = self.key(graph, symbols, inputs, tiling, &layers);
        let target = self.machine.target;
        let outcome = self.built.entry(key).or_insert_with(|| {
            let memory: Vec<InputMemory> = memory_of(target, graph, inputs);
            let region = Region { graph, symbols, inputs: &memory };
            build(&region, "kernel", tiling, shaping(target, tiling)).map(Arc::new).map_err(|cut| {
                let place = graph.topological_order().iter().position(|node| *node == cut.value.node).unwrap_or(0);
                ((place, cut.value.result), cut)
            })
        });
        let mut built = outcome.clone().map(|built| (*built).clone())?;
        // The same program serves every layer.
        if let [layer] = layers.as_slice() {
            for binding in built.iter_mut().flat_map(|built| &mut built.bindings) {
                if let Binding::Buffer(Buffer::Keys { layer: bound, .. } | Buffer::Values { layer: bound, .. }) =
                    binding
                {
                    *bound = *layer;
                }
            }
        }
        Ok(built)
    }

    /// A hash of all that the program depends on: not of names, and not of the layer where there is one.
    fn key(
        &self,
        graph: &Graph,
        symbols: &Symbols,
        inputs: &[InputKind],
        tiling: &Tiling,
        layers: &[u64],
    ) -> blake3::Hash {
        let mut text = String::new();
        for name in symbols.names() {
            let _ = writeln!(text, "{name}");
        }
        let order = graph.topological_order();
        let places: HashMap<NodeId, usize> = order.iter().enumerate().map(|(place, node)| (*node, place)).collect();
        let write_values = |text: &mut String, values: &[ValueId]| {
            for value in values {
                // Writing to a string does not fail.
                let _ = write!(text, "{}.{} ", places.get(&value.node).copied().unwrap_or(usize::MAX), value.result);
            }
        };
        for node in &order {
            match graph.node(*node).kind() {
                NodeKind::Operation(operation) => {
                    text.push_str(operation.op().name());
                    for (name, attribute) in operation.attributes() {
                        if name != "layer" || layers.len() != 1 {
                            let _ = write!(text, " {name}={attribute}");
                        }
                    }
                }
                NodeKind::Input(position) => {
                    let _ = write!(text, "input {position} {:?}", inputs.get(*position));
                }
                NodeKind::Parameter(name) => {
                    let _ = write!(text, "parameter {name}");
                }
            }
            text.push('(');
            write_values(&mut text, &graph.operands(*node));
            text.push(')');
            for ty in graph.node(*node).results() {
                let _ = write!(text, " {ty}");
            }
            text.push('\n');
        }
        write_values(&mut text, graph.outputs());
        let _ = write!(text, "\n{tiling} {:?}", self.machine.target);
        blake3::hash(text.as_bytes())
    }
}

/// The cache layers that a region works on, each once.
fn layers(graph: &Graph) -> Vec<u64> {
    let mut layers: Vec<u64> = graph
        .node_ids()
        .filter_map(|node| graph.operation(node))
        .filter_map(|operation| {
            let append = operation.downcast::<ops::KvAppend>().map(|append| append.layer);
            append.or_else(|| operation.downcast::<ops::PagedAttention>().map(|attention| attention.layer))
        })
        .map(|layer| layer as u64)
        .collect();
    layers.sort_unstable();
    layers.dedup();
    layers
}

fn memory_of(target: Target, graph: &Graph, inputs: &[InputKind]) -> Vec<InputMemory> {
    let alignment = |value: ValueId, kind: &InputKind| match (kind, target) {
        // Weights stay where the file has them: on the host nothing but the element's own alignment is known.
        (InputKind::Given, Target::Host) => {
            let storage = graph.value_type(value).as_tensor().map(|ty| ty.storage());
            storage.and_then(super::access::element_of).map_or(1, |element| element.bytes() as u32)
        }
        _ => 16,
    };
    (graph.inputs().zip(inputs))
        .map(|(value, kind)| InputMemory {
            alignment: alignment(value, kind),
            pages: match kind {
                InputKind::Cache(pages) => Some(pages.clone()),
                _ => None,
            },
            packed: match kind {
                InputKind::Packed(packed) => Some(*packed),
                _ => None,
            },
        })
        .collect()
}
