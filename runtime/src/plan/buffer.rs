//! What a plan says of the buffers it works on: inputs, outputs, parameters, caches, constants and arena slots.

use serde::{Deserialize, Serialize};

use super::{ElementType, Extent, ExtentError, Layout};

/// A named tensor that the caller passes in or gets back: dense, row-major.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpecification {
    /// The name the caller uses.
    pub name: String,
    /// The element type.
    pub element: ElementType,
    /// Dimensions, outermost first. A dimension that is a bare [`Extent::Symbol`] gives that symbol its value.
    pub shape: Vec<Extent>,
}

impl TensorSpecification {
    /// Type and shape as text: `f32[T, 192]`.
    pub fn describe(&self, symbols: &[String]) -> String {
        let dimensions: Vec<_> = self.shape.iter().map(|extent| extent.display(symbols).to_string()).collect();
        format!("{}[{}]", self.element, dimensions.join(", "))
    }

    /// Bytes of the tensor for these symbol values.
    pub fn bytes(&self, symbols: &[u64]) -> Result<u64, ExtentError> {
        let elements = Extent::Product(self.shape.clone()).evaluate(symbols)?;
        self.element.bytes(elements).ok_or_else(|| ExtentError::Overflow(format!("bytes of `{}`", self.name)))
    }
}

/// A weight, bound by name when a model is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterSpecification {
    /// The tensor's name in the safetensors files.
    pub name: String,
    /// The element type the kernels expect.
    pub element: ElementType,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// How the kernels want it in the memory of their device; as it is stored if this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
}

impl ParameterSpecification {
    /// Bytes of the tensor as it is stored; `None` where that overflows.
    pub fn bytes(&self) -> Option<u64> {
        let elements = self.shape.iter().try_fold(1u64, |product, dimension| product.checked_mul(*dimension))?;
        self.element.bytes(elements)
    }
}

/// A paged key-value cache, laid out `[layers][2 (keys, values)][pages][page_size][heads][head_dimension]`, contiguous.
///
/// The caller creates the cache and decides its number of pages; kernels update it in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheSpecification {
    /// The name of the function's cache argument.
    pub name: String,
    /// The element type of keys and values.
    pub element: ElementType,
    /// Number of layers.
    pub layers: u64,
    /// Key-value heads.
    pub heads: u64,
    /// Elements of one head.
    pub head_dimension: u64,
    /// Tokens in one page.
    pub page_size: u64,
    /// How many keys a token sees, its own the last; all of its sequence's where it is not given. Pages that lie wholly behind the window
    /// of the tokens to come are not read again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// The symbol, by index, that is the number of pages; it gets its value from the cache the caller passes.
    pub pages: usize,
}

impl CacheSpecification {
    /// Bytes of a cache of `pages` pages; `None` where that overflows.
    pub fn bytes(&self, pages: u64) -> Option<u64> {
        let dimensions = [self.layers, 2, pages, self.page_size, self.heads, self.head_dimension];
        let elements = dimensions.iter().try_fold(1u64, |product, dimension| product.checked_mul(*dimension))?;
        self.element.bytes(elements)
    }
}

/// A constant of the graph, inside the artifact's `constants.bin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConstantSpecification {
    /// Where it starts in `constants.bin`: a multiple of [`BUFFER_ALIGNMENT`].
    pub offset: u64,
    /// How many bytes it has.
    pub bytes: u64,
}

/// A temporary buffer.
///
/// A slot is alive from the first launch that names it to the last one. The runtime lays slots out in one arena and lets
/// slots that are not alive together share memory, so a compiler needs no reuse of its own: one slot for each value.
/// What a slot holds before its first launch has written it is undefined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// Size in bytes.
    pub bytes: Extent,
}

/// Alignment in bytes of every arena slot, constant, output and cache. Inputs and mapped parameters are aligned to their
/// element type only, since they are used where the caller or the file has them.
pub const BUFFER_ALIGNMENT: u64 = 256;
