//! The values of the reference evaluation.

use std::sync::Arc;

use thiserror::Error;

use crate::blocks::{BlockFormat, matrix_of};
use crate::minifloat;
use crate::storage::Storage;
use crate::types::{KvCacheType, Shape, TensorType};

/// The elements of a [`Tensor`], row-major: floats as f64, integers and truth values as i64.
#[derive(Clone, Debug, PartialEq)]
pub enum Elements {
    /// Elements of a float storage.
    Float(Arc<Vec<f64>>),
    /// Elements of an integer storage, or truth values as 0 and 1.
    Integer(Arc<Vec<i64>>),
}

/// A tensor whose elements are exactly those its storage can hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    storage: Storage,
    shape: Vec<usize>,
    elements: Elements,
}

/// A tensor cannot be made of these elements or bytes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TensorError {
    /// The number of elements is not that of the shape.
    #[error("shape {shape:?} holds {expected} elements, {found} given")]
    ElementCount {
        /// The shape.
        shape: Vec<usize>,
        /// Elements of the shape.
        expected: usize,
        /// Elements given.
        found: usize,
    },
    /// The number of bytes is not that of the shape and storage.
    #[error("shape {shape:?} of {storage} takes {expected} bytes, {found} given")]
    ByteCount {
        /// The shape.
        shape: Vec<usize>,
        /// The storage.
        storage: Storage,
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// Block-scaled elements and their scales are two buffers, not one run of bytes.
    #[error("{0} keeps its scales apart and has no form in plain bytes")]
    BlockScaled(Storage),
    /// Elements and scales are not those of a block-scaled tensor of the shape.
    #[error("{0}")]
    Blocks(String),
    /// The shape is larger than what an evaluation can be meant to hold.
    #[error("shape {0:?} is larger than memory")]
    TooLarge(Vec<usize>),
    /// There can be no cache of the type.
    #[error("{0}")]
    Cache(String),
}

/// Elements of the largest tensor that is made: 16 GiB of f64.
const MOST_ELEMENTS: usize = 1 << 31;

/// Number of elements of a shape, if they fit in memory.
pub(crate) fn element_count(shape: &[usize]) -> Option<usize> {
    let count = shape.iter().try_fold(1usize, |count, extent| count.checked_mul(*extent));
    count.filter(|count| *count <= MOST_ELEMENTS)
}

impl Tensor {
    /// A float tensor; every element is rounded to `storage`, which must be a float storage (other
    /// storage takes the integer part).
    ///
    /// # Errors
    /// The number of elements is not that of the shape.
    pub fn from_floats(
        storage: Storage,
        shape: impl Into<Vec<usize>>,
        mut elements: Vec<f64>,
    ) -> Result<Tensor, TensorError> {
        if !storage.is_float() {
            let elements = elements.into_iter().map(|element| element as i64).collect();
            return Tensor::from_integers(storage, shape, elements);
        }
        let shape = shape.into();
        check_count(&shape, elements.len())?;
        storage.round_slice(&mut elements, &shape);
        Ok(Tensor { storage, shape, elements: Elements::Float(Arc::new(elements)) })
    }

    /// An integer or boolean tensor; elements wrap around to the storage's width, and any but 0 is
    /// true. A float storage takes the integers as floats.
    ///
    /// # Errors
    /// The number of elements is not that of the shape.
    pub fn from_integers(
        storage: Storage,
        shape: impl Into<Vec<usize>>,
        mut elements: Vec<i64>,
    ) -> Result<Tensor, TensorError> {
        if storage.is_float() {
            let elements = elements.into_iter().map(|element| element as f64).collect();
            return Tensor::from_floats(storage, shape, elements);
        }
        let shape = shape.into();
        check_count(&shape, elements.len())?;
        for element in &mut elements {
            *element = wrap(storage, *element);
        }
        Ok(Tensor { storage, shape, elements: Elements::Integer(Arc::new(elements)) })
    }

    /// A tensor of f32 elements.
    ///
    /// # Errors
    /// The number of elements is not that of the shape.
    pub fn from_f32(shape: impl Into<Vec<usize>>, elements: &[f32]) -> Result<Tensor, TensorError> {
        let elements = elements.iter().map(|element| f64::from(*element)).collect();
        Tensor::from_floats(Storage::F32, shape, elements)
    }

    /// A tensor of i32 elements.
    ///
    /// # Errors
    /// The number of elements is not that of the shape.
    pub fn from_i32(shape: impl Into<Vec<usize>>, elements: &[i32]) -> Result<Tensor, TensorError> {
        let elements = elements.iter().map(|element| i64::from(*element)).collect();
        Tensor::from_integers(Storage::I32, shape, elements)
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// The shape is larger than memory.
    pub fn zeros(storage: Storage, shape: impl Into<Vec<usize>>) -> Result<Tensor, TensorError> {
        let shape = shape.into();
        let count = element_count(&shape).ok_or_else(|| TensorError::TooLarge(shape.clone()))?;
        Tensor::from_integers(storage, shape, vec![0; count])
    }

    /// Reads a tensor from memory in the layout of [`Storage`], little-endian, row-major.
    ///
    /// # Errors
    /// The bytes are too few or too many, or the storage is block-scaled.
    pub fn from_bytes(storage: Storage, shape: impl Into<Vec<usize>>, bytes: &[u8]) -> Result<Tensor, TensorError> {
        let shape = shape.into();
        if storage.blocks().is_some() {
            return Err(TensorError::BlockScaled(storage));
        }
        let count = element_count(&shape).ok_or_else(|| TensorError::TooLarge(shape.clone()))?;
        let expected = storage.bytes(count as u64) as usize;
        if bytes.len() != expected {
            return Err(TensorError::ByteCount { shape, storage, expected, found: bytes.len() });
        }
        fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
            bytes.as_chunks::<N>().0.iter().copied()
        }
        let floats = |elements: Vec<f64>| Elements::Float(Arc::new(elements));
        let integers = |elements: Vec<i64>| Elements::Integer(Arc::new(elements));
        let elements = match storage {
            Storage::F64 => floats(words(bytes).map(f64::from_le_bytes).collect()),
            Storage::F32 => floats(words(bytes).map(|word| f64::from(f32::from_le_bytes(word))).collect()),
            Storage::I64 => integers(words(bytes).map(i64::from_le_bytes).collect()),
            Storage::I32 => integers(words(bytes).map(|word| i64::from(i32::from_le_bytes(word))).collect()),
            Storage::U32 => integers(words(bytes).map(|word| i64::from(u32::from_le_bytes(word))).collect()),
            Storage::I16 => integers(words(bytes).map(|word| i64::from(i16::from_le_bytes(word))).collect()),
            Storage::I8 => integers(bytes.iter().map(|byte| i64::from(*byte as i8)).collect()),
            Storage::U8 => integers(bytes.iter().map(|byte| i64::from(*byte)).collect()),
            Storage::Bool => integers(bytes.iter().map(|byte| i64::from(*byte != 0)).collect()),
            _ => match storage.minifloat() {
                Some(format) if storage.bits() == 16 => {
                    floats(words(bytes).map(|word| format.decode(u16::from_le_bytes(word))).collect())
                }
                Some(format) if storage.bits() == 8 => {
                    floats(bytes.iter().map(|byte| format.decode(u16::from(*byte))).collect())
                }
                Some(format) => {
                    let halves = bytes.iter().flat_map(|byte| [byte & 0xf, byte >> 4]);
                    floats(halves.take(count).map(|half| format.decode(u16::from(half))).collect())
                }
                None => return Err(TensorError::BlockScaled(storage)),
            },
        };
        Ok(Tensor { storage, shape, elements })
    }

    /// The tensor's memory in the layout of [`Storage`], little-endian, row-major.
    ///
    /// # Errors
    /// The storage is block-scaled.
    pub fn to_bytes(&self) -> Result<Vec<u8>, TensorError> {
        Ok(match &self.elements {
            Elements::Integer(elements) => {
                let width = (self.storage.bits() / 8) as usize;
                elements.iter().flat_map(|element| element.to_le_bytes().into_iter().take(width)).collect()
            }
            Elements::Float(elements) => match (self.storage, self.storage.minifloat()) {
                (Storage::F64, _) => elements.iter().flat_map(|x| x.to_le_bytes()).collect(),
                (Storage::F32, _) => elements.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect(),
                (_, None) => return Err(TensorError::BlockScaled(self.storage)),
                (storage, Some(format)) => match storage.bits() {
                    16 => elements.iter().flat_map(|x| format.encode(*x).to_le_bytes()).collect(),
                    8 => elements.iter().map(|x| format.encode(*x) as u8).collect(),
                    _ => elements
                        .chunks(2)
                        .map(|pair| {
                            let high = pair.get(1).map_or(0, |x| format.encode(*x) as u8);
                            format.encode(pair[0]) as u8 | high << 4
                        })
                        .collect(),
                },
            },
        })
    }

    /// A tensor of block-scaled storage from the tensors that hold its elements and scales, as
    /// [`BlockFormat::parts`](crate::BlockFormat::parts) describes them.
    ///
    /// # Errors
    /// The storage has no blocks, or the tensors are not of the types that hold one of this shape.
    pub fn from_blocks(
        storage: Storage,
        shape: impl Into<Vec<usize>>,
        elements: &Tensor,
        scales: &Tensor,
    ) -> Result<Tensor, TensorError> {
        let shape = shape.into();
        let format = block_format(storage)?;
        let expected = block_parts(&format, storage, &shape)?;
        for (expected, found) in expected.iter().zip([elements, scales]) {
            let found = found.ty();
            if *expected != found {
                let message = format!("{expected} is needed to hold {storage} of shape {shape:?}, not {found}");
                return Err(TensorError::Blocks(message));
            }
        }
        let count = element_count(&shape).ok_or_else(|| TensorError::TooLarge(shape.clone()))?;
        let (rows, columns) = matrix_of(&shape);
        let mut values = vec![0.0; count];
        let stored = elements.to_floats();
        let scales = scales.to_floats();
        let mut scales = scales.iter();
        let row_bytes = columns.div_ceil(format.columns) * format.columns / 2;
        for (matrix, values) in values.chunks_mut((rows * columns).max(1)).enumerate() {
            for (tall, wide) in format.tiles(rows, columns) {
                let scale = format.decode_scale(scales.next().copied().unwrap_or(0.0));
                for row in tall {
                    for column in wide.clone() {
                        let element = if format.element.bits() < 8 {
                            let byte = stored[(matrix * rows + row) * row_bytes + column / 2] as u16;
                            minifloat::FP4_E2M1.decode(byte >> (column % 2 * 4))
                        } else {
                            stored[(matrix * rows + row) * columns + column]
                        };
                        values[row * columns + column] = element * scale;
                    }
                }
            }
        }
        Ok(Tensor { storage, shape, elements: Elements::Float(Arc::new(values)) })
    }

    /// The tensors that hold the elements and scales of a tensor of block-scaled storage. Scales are chosen anew, as
    /// [`Storage::round_slice`] chooses them.
    ///
    /// # Errors
    /// The storage has no blocks.
    pub fn to_blocks(&self) -> Result<[Tensor; 2], TensorError> {
        let format = block_format(self.storage)?;
        let (rows, columns) = matrix_of(&self.shape);
        let values = self.to_floats();
        let [elements, scales] = block_parts(&format, self.storage, &self.shape)?;
        let mut stored = vec![0.0; elements.shape.element_count().unwrap_or(0) as usize];
        let mut stored_scales = Vec::with_capacity(scales.shape.element_count().unwrap_or(0) as usize);
        let row_bytes = columns.div_ceil(format.columns) * format.columns / 2;
        for (matrix, values) in values.chunks((rows * columns).max(1)).enumerate() {
            for (tall, wide) in format.tiles(rows, columns) {
                let places = tall.flat_map(|row| wide.clone().map(move |column| (row, column)));
                let value = |(row, column): (usize, usize)| values[row * columns + column];
                let largest = places.clone().map(|place| value(place).abs()).fold(0.0, f64::max);
                let scale = format.scale_of(largest);
                stored_scales.push(format.encode_scale(scale));
                for (row, column) in places {
                    let element = value((row, column)) / scale;
                    if format.element.bits() < 8 {
                        let bits = minifloat::FP4_E2M1.encode(element) << (column % 2 * 4);
                        stored[(matrix * rows + row) * row_bytes + column / 2] += f64::from(bits);
                    } else {
                        stored[(matrix * rows + row) * columns + column] = element;
                    }
                }
            }
        }
        let numbers = |ty: &TensorType| -> Vec<usize> {
            ty.shape.iter().filter_map(|dim| dim.as_static()).map(|extent| extent as usize).collect()
        };
        Ok([
            Tensor::from_floats(elements.storage(), numbers(&elements), stored)?,
            Tensor::from_floats(scales.storage(), numbers(&scales), stored_scales)?,
        ])
    }

    /// The type of the tensor.
    pub fn ty(&self) -> TensorType {
        TensorType::new(self.shape.iter().map(|extent| *extent as u64).collect::<Shape>(), self.storage)
    }

    /// The storage of an element.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// The extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match &self.elements {
            Elements::Float(elements) => elements.len(),
            Elements::Integer(elements) => elements.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements.
    pub fn elements(&self) -> &Elements {
        &self.elements
    }

    /// The elements as floats; integers are converted.
    pub fn to_floats(&self) -> Arc<Vec<f64>> {
        match &self.elements {
            Elements::Float(elements) => elements.clone(),
            Elements::Integer(elements) => Arc::new(elements.iter().map(|element| *element as f64).collect()),
        }
    }

    /// The elements as integers; floats are truncated towards zero, with saturation.
    pub fn to_integers(&self) -> Arc<Vec<i64>> {
        match &self.elements {
            Elements::Float(elements) => Arc::new(elements.iter().map(|element| *element as i64).collect()),
            Elements::Integer(elements) => elements.clone(),
        }
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// The shape holds another number of elements.
    pub fn reshaped(self, shape: impl Into<Vec<usize>>) -> Result<Tensor, TensorError> {
        let shape = shape.into();
        check_count(&shape, self.len())?;
        Ok(Tensor { shape, ..self })
    }

    /// A tensor of the same storage that takes, at each position, the element of this one at the
    /// position given by `sources`.
    pub(crate) fn gathered(&self, shape: Vec<usize>, sources: impl Iterator<Item = usize>) -> Tensor {
        let elements = match &self.elements {
            Elements::Float(from) => Elements::Float(Arc::new(sources.map(|source| from[source]).collect())),
            Elements::Integer(from) => Elements::Integer(Arc::new(sources.map(|source| from[source]).collect())),
        };
        Tensor { storage: self.storage, shape, elements }
    }

    /// The tensor with its elements rounded or wrapped to `storage`. Floats become integers by
    /// truncation towards zero, with saturation; truth values by comparison with zero.
    pub fn converted(self, storage: Storage) -> Tensor {
        let shape = self.shape;
        let elements = match (self.elements, storage) {
            (elements, storage) if storage == self.storage => elements,
            (Elements::Float(elements), _) if storage.is_float() => {
                let mut elements = Arc::unwrap_or_clone(elements);
                storage.round_slice(&mut elements, &shape);
                Elements::Float(Arc::new(elements))
            }
            (Elements::Float(elements), Storage::Bool) => {
                let truth = elements.iter().map(|element| i64::from(*element != 0.0));
                Elements::Integer(Arc::new(truth.collect()))
            }
            (Elements::Float(elements), _) => {
                let (low, high) = storage.integer_range().unwrap_or((i64::MIN, i64::MAX));
                let clamp = |element: &f64| (*element as i64).clamp(low, high);
                Elements::Integer(Arc::new(elements.iter().map(clamp).collect()))
            }
            (Elements::Integer(elements), _) if storage.is_float() => {
                let mut floats: Vec<f64> = elements.iter().map(|element| *element as f64).collect();
                storage.round_slice(&mut floats, &shape);
                Elements::Float(Arc::new(floats))
            }
            (Elements::Integer(elements), _) => {
                let wrapped = elements.iter().map(|element| wrap(storage, *element)).collect();
                Elements::Integer(Arc::new(wrapped))
            }
        };
        Tensor { storage, shape, elements }
    }
}

fn block_format(storage: Storage) -> Result<BlockFormat, TensorError> {
    storage.blocks().ok_or_else(|| TensorError::Blocks(format!("{storage} has no blocks with scales of their own")))
}

fn block_parts(format: &BlockFormat, storage: Storage, shape: &[usize]) -> Result<[TensorType; 2], TensorError> {
    let dims: Shape = shape.iter().map(|extent| *extent as u64).collect();
    format.parts(&dims).ok_or_else(|| TensorError::Blocks(format!("a scalar cannot be {storage}")))
}

fn check_count(shape: &[usize], found: usize) -> Result<(), TensorError> {
    match element_count(shape) {
        Some(expected) if expected == found => Ok(()),
        Some(expected) => Err(TensorError::ElementCount { shape: shape.to_vec(), expected, found }),
        None => Err(TensorError::TooLarge(shape.to_vec())),
    }
}

/// `value` modulo the width of an integer storage; any but 0 is true.
fn wrap(storage: Storage, value: i64) -> i64 {
    match storage {
        Storage::I8 => i64::from(value as i8),
        Storage::I16 => i64::from(value as i16),
        Storage::I32 => i64::from(value as i32),
        Storage::U8 => i64::from(value as u8),
        Storage::U32 => i64::from(value as u32),
        Storage::Bool => i64::from(value != 0),
        _ => value,
    }
}

/// A paged cache of attention keys and values.
///
/// Elements lie as `[layer][key or value][page][slot of the page][head][dim]`, the layout of the
/// runtime's buffers.
#[derive(Clone, Debug, PartialEq)]
pub struct KvCache {
    ty: KvCacheType,
    pages: usize,
    elements: Arc<Vec<f64>>,
}

impl KvCache {
    /// A cache of `pages` pages, filled with zeros.
    ///
    /// # Errors
    /// The cache is larger than memory, or there can be none of its type.
    pub fn new(ty: KvCacheType, pages: usize) -> Result<KvCache, TensorError> {
        if let Some(objection) = ty.objection() {
            return Err(TensorError::Cache(objection));
        }
        let extents = [ty.layers, 2, pages as u64, ty.page_size, ty.heads, ty.dim];
        let extents: Vec<usize> =
            extents.into_iter().map(|extent| usize::try_from(extent).unwrap_or(usize::MAX)).collect();
        let count = element_count(&extents).ok_or(TensorError::TooLarge(extents))?;
        Ok(KvCache { ty, pages, elements: Arc::new(vec![0.0; count]) })
    }

    /// The cache's type.
    pub fn ty(&self) -> &KvCacheType {
        &self.ty
    }

    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Every element, in the layout described above.
    pub fn elements(&self) -> &[f64] {
        &self.elements
    }

    /// The keys (`part` 0) or values (`part` 1) of one token: heads × dim elements.
    ///
    /// # Panics
    /// Layer, part, page or slot is outside the cache.
    pub fn token(&self, layer: usize, part: usize, page: usize, slot: usize) -> &[f64] {
        let start = self.offset(layer, part, page, slot);
        &self.elements[start..start + self.token_size()]
    }

    /// As [`token`](Self::token), for writing.
    pub fn token_mut(&mut self, layer: usize, part: usize, page: usize, slot: usize) -> &mut [f64] {
        let start = self.offset(layer, part, page, slot);
        let size = self.token_size();
        &mut Arc::make_mut(&mut self.elements)[start..start + size]
    }

    fn token_size(&self) -> usize {
        (self.ty.heads * self.ty.dim) as usize
    }

    fn offset(&self, layer: usize, part: usize, page: usize, slot: usize) -> usize {
        let row = ((layer * 2 + part) * self.pages + page) * self.ty.page_size as usize + slot;
        row * self.token_size()
    }
}

/// A value of the reference evaluation.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A tensor.
    Tensor(Tensor),
    /// A KV cache.
    Cache(KvCache),
}

impl Value {
    /// The tensor, unless this is a cache.
    pub fn as_tensor(&self) -> Option<&Tensor> {
        match self {
            Value::Tensor(tensor) => Some(tensor),
            Value::Cache(_) => None,
        }
    }

    /// The cache, unless this is a tensor.
    pub fn as_cache(&self) -> Option<&KvCache> {
        match self {
            Value::Tensor(_) => None,
            Value::Cache(cache) => Some(cache),
        }
    }
}

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Self {
        Value::Tensor(tensor)
    }
}

impl From<KvCache> for Value {
    fn from(cache: KvCache) -> Self {
        Value::Cache(cache)
    }
}
