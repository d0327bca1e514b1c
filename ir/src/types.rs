//! Types of values: dimensions, shapes, numeric policies, tensors and KV caches.

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::sharding::Sharding;
use crate::storage::Storage;

/// One dimension: a number, or a symbol that is bound when the program runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Dim {
    /// A number known now.
    Static(u64),
    /// A named extent, such as `T`; equal names are equal extents.
    Symbol(Name),
}

impl Dim {
    /// The dimension named `name`.
    pub fn symbol(name: impl Into<Name>) -> Dim {
        Dim::Symbol(name.into())
    }

    /// The number, unless the dimension is a symbol.
    pub fn as_static(&self) -> Option<u64> {
        match self {
            Dim::Static(extent) => Some(*extent),
            Dim::Symbol(_) => None,
        }
    }

    /// The symbol's name, unless the dimension is a number.
    pub fn as_symbol(&self) -> Option<&Name> {
        match self {
            Dim::Static(_) => None,
            Dim::Symbol(name) => Some(name),
        }
    }

    /// Whether `name` can be a symbol: upper-case letters, digits and underscores, a letter first.
    pub fn is_symbol_name(name: &str) -> bool {
        name.starts_with(|c: char| c.is_ascii_uppercase())
            && name.bytes().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_')
    }
}

impl From<u64> for Dim {
    fn from(extent: u64) -> Self {
        Dim::Static(extent)
    }
}

impl From<&str> for Dim {
    fn from(name: &str) -> Self {
        Dim::symbol(name)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Static(extent) => extent.fmt(f),
            Dim::Symbol(name) => name.fmt(f),
        }
    }
}

/// The dimensions of a tensor, outermost first; a scalar has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shape(Vec<Dim>);

impl Shape {
    /// The shape of a scalar.
    pub fn scalar() -> Shape {
        Shape::default()
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Number of elements, if every dimension is a number and the product fits.
    pub fn element_count(&self) -> Option<u64> {
        self.0.iter().try_fold(1u64, |count, dim| count.checked_mul(dim.as_static()?))
    }

    /// The product of the numbers among the dimensions, and the sorted symbols: two shapes hold
    /// equally many elements for every binding if these are equal.
    pub fn volume(&self) -> (Option<u64>, Vec<Name>) {
        let mut symbols: Vec<Name> = self.0.iter().filter_map(Dim::as_symbol).cloned().collect();
        symbols.sort();
        let product =
            self.0.iter().filter_map(Dim::as_static).try_fold(1u64, |product, extent| product.checked_mul(extent));
        (product, symbols)
    }

    /// The shape without the dimension `axis`.
    pub fn without(&self, axis: usize) -> Shape {
        self.0.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, dim)| dim.clone()).collect()
    }
}

/// A [`Shape`] of numbers and symbols: `shape!["T", 192]`.
#[macro_export]
macro_rules! shape {
    ($($dim:expr),* $(,)?) => {
        $crate::Shape::from(vec![$($crate::Dim::from($dim)),*])
    };
}

impl Deref for Shape {
    type Target = Vec<Dim>;
    fn deref(&self) -> &Vec<Dim> {
        &self.0
    }
}

impl DerefMut for Shape {
    fn deref_mut(&mut self) -> &mut Vec<Dim> {
        &mut self.0
    }
}

impl<D: Into<Dim>> FromIterator<D> for Shape {
    fn from_iter<I: IntoIterator<Item = D>>(dims: I) -> Self {
        Shape(dims.into_iter().map(Into::into).collect())
    }
}

impl From<Vec<Dim>> for Shape {
    fn from(dims: Vec<Dim>) -> Self {
        Shape(dims)
    }
}

impl<const RANK: usize> From<[Dim; RANK]> for Shape {
    fn from(dims: [Dim; RANK]) -> Self {
        Shape(dims.into())
    }
}

impl<const RANK: usize> From<[u64; RANK]> for Shape {
    fn from(dims: [u64; RANK]) -> Self {
        dims.into_iter().collect()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, dim) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            dim.fmt(f)?;
        }
        f.write_str("]")
    }
}

/// How numbers are stored and accumulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NumericPolicy {
    /// The format of an element.
    pub storage: Storage,
    /// The narrowest format that sums of products of such elements may be kept in; `None` leaves
    /// the choice to the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accumulator: Option<Storage>,
}

impl NumericPolicy {
    /// The policy with accumulator `accumulator`.
    pub fn accumulating_in(self, accumulator: Storage) -> NumericPolicy {
        NumericPolicy { accumulator: Some(accumulator), ..self }
    }

    /// Why no unit can honour this policy, if so.
    pub fn objection(&self) -> Option<String> {
        let accumulator = self.accumulator?;
        let storage = self.storage;
        let suitable: &[Storage] = match storage {
            Storage::Bool => &[],
            Storage::F64 => &[Storage::F64],
            _ if storage.is_integer() => &[Storage::I32, Storage::I64],
            Storage::F32 | Storage::Bf16 => &[Storage::F32, Storage::F64],
            _ => &[Storage::F16, Storage::F32, Storage::F64],
        };
        if suitable.contains(&accumulator) {
            return None;
        }
        let suitable: Vec<&str> = suitable.iter().map(|storage| storage.name()).collect();
        Some(match suitable.as_slice() {
            [] => format!("{storage} elements are not accumulated; found @accum({accumulator})"),
            _ => format!("{storage} needs an accumulator of {}; found @accum({accumulator})", suitable.join(" or ")),
        })
    }
}

impl From<Storage> for NumericPolicy {
    fn from(storage: Storage) -> Self {
        NumericPolicy { storage, accumulator: None }
    }
}

impl fmt::Display for NumericPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.storage)?;
        match self.accumulator {
            Some(accumulator) => write!(f, " @accum({accumulator})"),
            None => Ok(()),
        }
    }
}

/// The type of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorType {
    /// The dimensions, outermost first, stored row-major.
    pub shape: Shape,
    /// Storage and accumulator.
    #[serde(flatten)]
    pub policy: NumericPolicy,
    /// How the tensor is spread over the mesh; `None` where nobody has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharding: Option<Sharding>,
}

impl TensorType {
    /// An unsharded tensor type.
    pub fn new(shape: impl Into<Shape>, policy: impl Into<NumericPolicy>) -> TensorType {
        TensorType { shape: shape.into(), policy: policy.into(), sharding: None }
    }

    /// A scalar type.
    pub fn scalar(policy: impl Into<NumericPolicy>) -> TensorType {
        TensorType::new(Shape::scalar(), policy)
    }

    /// The format of an element.
    pub fn storage(&self) -> Storage {
        self.policy.storage
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.rank()
    }

    /// The same policy with another shape, unsharded.
    pub fn with_shape(&self, shape: impl Into<Shape>) -> TensorType {
        TensorType::new(shape, self.policy)
    }

    /// The same shape and sharding with another policy.
    pub fn with_policy(&self, policy: impl Into<NumericPolicy>) -> TensorType {
        TensorType { policy: policy.into(), ..self.clone() }
    }

    /// The tensors that hold a parameter of this type in memory and in a checkpoint: itself, or for block-scaled storage
    /// its elements and its scales ([`BlockFormat`](crate::BlockFormat)). `None` for a block-scaled one whose
    /// blocks cannot be counted, because its last dimension is missing or no number.
    pub fn stored_as(&self, name: &str) -> Option<Vec<(Name, TensorType)>> {
        match self.storage().blocks() {
            None => Some(vec![(Name::from(name), self.clone())]),
            Some(format) => Some(format.names(name).into_iter().zip(format.parts(&self.shape)?).collect()),
        }
    }

    /// Whether shape and storage are equal; accumulator and sharding may differ.
    pub fn agrees_with(&self, other: &TensorType) -> bool {
        self.shape == other.shape && self.storage() == other.storage()
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tensor<")?;
        for dim in self.shape.iter() {
            write!(f, "{dim}x")?;
        }
        write!(f, "{}", self.policy)?;
        if let Some(sharding) = &self.sharding {
            write!(f, " {sharding}")?;
        }
        f.write_str(">")
    }
}

/// The type of a paged cache of attention keys and values.
///
/// The number of pages is chosen when a cache is made, and is no part of the type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KvCacheType {
    /// Attention layers that keep keys and values in the cache.
    pub layers: u64,
    /// Key and value heads of each layer.
    pub heads: u64,
    /// Elements of one head's key or value.
    pub dim: u64,
    /// Tokens in a page.
    pub page_size: u64,
    /// How many keys a token may see, its own the last; all of its sequence's if absent. Keys that no token to come sees need not
    /// be kept: the cache is bounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// The format of an element.
    pub storage: Storage,
}

impl KvCacheType {
    /// Why there can be no such cache, if so.
    pub fn objection(&self) -> Option<String> {
        let extents = [("layers", self.layers), ("heads", self.heads), ("dim", self.dim), ("page", self.page_size)];
        if let Some((name, _)) = extents.iter().find(|(_, extent)| *extent == 0) {
            return Some(format!("a cache with {name}=0 holds nothing"));
        }
        if self.window == Some(0) {
            return Some("a cache with window=0 is never read; leave the window out to keep every key".to_owned());
        }
        let holds = self.storage.is_float() && self.storage.blocks().is_none();
        let message =
            || format!("a cache holds floats without block scales, such as bf16 or fp8_e5m2, not {}", self.storage);
        (!holds).then(message)
    }
}

impl fmt::Display for KvCacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KvCacheType { layers, heads, dim, page_size, window, storage } = self;
        write!(f, "kv_cache<layers={layers}, heads={heads}, dim={dim}, page={page_size}, ")?;
        if let Some(window) = window {
            write!(f, "window={window}, ")?;
        }
        write!(f, "{storage}>")
    }
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    /// A tensor.
    Tensor(TensorType),
    /// A paged cache of attention keys and values.
    KvCache(KvCacheType),
}

impl Type {
    /// The tensor type, unless this is a cache.
    pub fn as_tensor(&self) -> Option<&TensorType> {
        match self {
            Type::Tensor(tensor) => Some(tensor),
            Type::KvCache(_) => None,
        }
    }

    /// The cache type, unless this is a tensor.
    pub fn as_cache(&self) -> Option<&KvCacheType> {
        match self {
            Type::Tensor(_) => None,
            Type::KvCache(cache) => Some(cache),
        }
    }

    /// Whether a value of one type can stand where the other is asked for: equal caches, or tensors
    /// of equal shape and storage.
    pub fn agrees_with(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::Tensor(left), Type::Tensor(right)) => left.agrees_with(right),
            (Type::KvCache(left), Type::KvCache(right)) => left == right,
            _ => false,
        }
    }
}

impl From<TensorType> for Type {
    fn from(tensor: TensorType) -> Self {
        Type::Tensor(tensor)
    }
}

impl From<KvCacheType> for Type {
    fn from(cache: KvCacheType) -> Self {
        Type::KvCache(cache)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor(tensor) => tensor.fmt(f),
            Type::KvCache(cache) => cache.fmt(f),
        }
    }
}
