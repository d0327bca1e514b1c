//! Writing weights: random ones for tests and benches, and copies of a checkpoint in another storage.
//!
//! Tensors are made one at a time while the file is written, so that a model larger than memory can be written.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::{View, serialize_to_file};
use tessera_ir::minifloat::Minifloat;
use tessera_ir::{BlockFormat, Module, Name, Storage};
use tessera_runtime::Weights;
use tessera_runtime::plan::{ElementType, ParameterSpecification};
use tessera_runtime::weights::Weight;

use crate::error::{ModelError, Result};
use crate::random::NormalStream;

/// What ends the names of per-channel scales: the weight `NAME` has the scales `NAME_scale`.
pub const SCALE_SUFFIX: &str = "_scale";

/// What a module's parameters must be bound to: for each the tensor of its name, or where it is block-scaled the tensors of its
/// elements and scales.
pub fn parameter_specifications(module: &Module) -> Result<Vec<ParameterSpecification>> {
    let mut specifications = Vec::new();
    for (name, ty) in &module.parameters {
        let unstorable = || ModelError::InvalidConfig(format!("parameter `{name}` of type {ty} cannot be stored"));
        for (name, ty) in ty.stored_as(name).ok_or_else(unstorable)? {
            let shape: Option<Vec<u64>> = ty.shape.iter().map(|dim| dim.as_static()).collect();
            let (shape, element) = shape.zip(element_of(ty.storage())).ok_or_else(unstorable)?;
            specifications.push(ParameterSpecification { name: name.to_string(), element, shape, layout: None });
        }
    }
    Ok(specifications)
}

/// The runtime's element type of a storage. Both crates use the same names, and neither depends on the other.
pub fn element_of(storage: Storage) -> Option<ElementType> {
    storage.name().parse().ok()
}

/// The storage of the runtime's element type.
pub fn storage_of(element: ElementType) -> Option<Storage> {
    element.name().parse().ok()
}

/// The safetensors type of an element type; none for those that no safetensors file holds.
fn dtype_of(element: ElementType) -> Option<Dtype> {
    Some(match element {
        ElementType::F64 => Dtype::F64,
        ElementType::F32 => Dtype::F32,
        ElementType::F16 => Dtype::F16,
        ElementType::Bf16 => Dtype::BF16,
        ElementType::Fp8E4m3 => Dtype::F8_E4M3,
        ElementType::Fp8E5m2 => Dtype::F8_E5M2,
        ElementType::I8 => Dtype::I8,
        ElementType::I16 => Dtype::I16,
        ElementType::I32 => Dtype::I32,
        ElementType::I64 => Dtype::I64,
        ElementType::U8 => Dtype::U8,
        ElementType::U32 => Dtype::U32,
        ElementType::Bool => Dtype::BOOL,
        _ => return None,
    })
}

/// How random weights are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Initialization {
    /// Seed of every stream; each tensor has a stream of its own.
    pub seed: u64,
    /// Standard deviation of matrices and tables.
    pub deviation: f64,
    /// Standard deviation of vectors around where they rest: biases around 0, norm scales around 1. 0 to train from; more to test
    /// that each one matters.
    pub vector_deviation: f64,
}

impl Default for Initialization {
    fn default() -> Self {
        Self { seed: 0, deviation: crate::gpt::INITIALIZER_RANGE, vector_deviation: 0.0 }
    }
}

/// Writes random weights for every parameter of a module.
///
/// Eight-bit weights are drawn like the others and then quantized: each row is divided by its scale, its largest magnitude
/// over the largest number of the storage. Elements of block-scaled weights are drawn from all that their storage has, and scales such
/// that the numbers have the deviation that is asked for, or half of it.
pub fn write_random(module: &Module, initialization: Initialization, path: &Path) -> Result<()> {
    let parameters = parameter_specifications(module)?;
    let blocks: BTreeMap<Name, BlockPart> = (module.parameters.iter())
        .filter_map(|(name, ty)| Some((name, ty.storage().blocks()?)))
        .flat_map(|(name, format)| {
            let [elements, scales] = format.names(name);
            [(elements, BlockPart::Elements(format)), (scales, BlockPart::Scales(format))]
        })
        .collect();
    let tensors = parameters.iter().map(|parameter| {
        let scaled = parameter.name.strip_suffix(SCALE_SUFFIX);
        // Scales are computed from the weight that they belong to.
        let source = parameters.iter().find(|source| Some(source.name.as_str()) == scaled).unwrap_or(parameter);
        let is_vector = source.shape.len() < 2 || source.name.ends_with("bias");
        let deviation = if is_vector { initialization.vector_deviation } else { initialization.deviation };
        let random = RandomTensor {
            element: parameter.element,
            count: parameter.shape.iter().product::<u64>() as usize,
            is_scale: parameter.name != source.name,
            block: blocks.get(parameter.name.as_str()).copied(),
            deviation,
            quantized: storage_of(source.element)
                .filter(|storage| storage.bits() == 8 && (storage.is_float() || *storage == Storage::I8)),
            row: source.shape.last().map_or(1, |&extent| extent as usize),
            rest: if is_vector && !source.name.ends_with("bias") { 1.0 } else { 0.0 },
            stream: NormalStream::new(initialization.seed, &source.name, deviation),
        };
        (parameter.clone(), move || random.bytes())
    });
    write(tensors, path)
}

/// Which of the tensors of a block-scaled weight.
#[derive(Clone, Copy)]
enum BlockPart {
    Elements(BlockFormat),
    Scales(BlockFormat),
}

impl BlockPart {
    /// Random bytes of such a tensor.
    fn bytes(self, stream: &NormalStream, count: usize, deviation: f64) -> Vec<u8> {
        let (BlockPart::Elements(format) | BlockPart::Scales(format)) = self;
        let numbers = |format: Minifloat| (0..1 << format.bits()).map(move |bits| format.decode(bits));
        let finite: Vec<u8> = format.element.minifloat().map_or(Vec::new(), |element| {
            (0..1u16 << element.bits())
                .filter(|bits| element.decode(*bits).is_finite())
                .map(|bits| bits as u8)
                .collect()
        });
        let squares: f64 = format.element.minifloat().map_or(1.0, |element| {
            numbers(element).filter(|number| number.is_finite()).map(|number| number * number).sum()
        });
        let spread = (squares / finite.len().max(1) as f64).sqrt();
        match self {
            BlockPart::Elements(_) => stream.bytes(count, |byte| match format.element.bits() {
                8 => finite[usize::from(byte) % finite.len().max(1)],
                _ => byte,
            }),
            BlockPart::Scales(_) => {
                let element = element_of(format.scale).unwrap_or(ElementType::U8);
                let choices = [1.0, 0.5].map(|share| {
                    let stored = format.encode_scale(share * deviation / spread);
                    match format.scale {
                        Storage::U8 => vec![stored as u8],
                        _ => encode(&[stored as f32], element),
                    }
                });
                let width = choices[0].len();
                let drawn = stream.bytes(count, |byte| byte & 1);
                drawn.iter().flat_map(|choice| choices[usize::from(*choice)][..width].iter().copied()).collect()
            }
        }
    }
}

struct RandomTensor {
    element: ElementType,
    /// Elements to make.
    count: usize,
    /// Whether this is the scales of the weight that the stream makes.
    is_scale: bool,
    /// Which part of a block-scaled weight this is, if it is one.
    block: Option<BlockPart>,
    deviation: f64,
    /// The storage that rows are scaled to, of the weight itself or of the weight that these are the scales of.
    quantized: Option<Storage>,
    /// Elements in one row of the weight.
    row: usize,
    /// The mean.
    rest: f32,
    stream: NormalStream,
}

impl RandomTensor {
    /// Row `index` of the weight, before quantization.
    fn row(&self, index: usize) -> Vec<f32> {
        let mut values = vec![0.0; self.row];
        self.stream.fill((index * self.row) as u64, &mut values);
        values.iter_mut().for_each(|value| *value += self.rest);
        values
    }
}

/// What a row of eight-bit weights is divided by: its largest magnitude lands on the storage's largest number.
pub(crate) fn row_scale(row: &[f32], storage: Storage) -> f32 {
    let largest = row.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let maximum = match storage.integer_range() {
        Some((_, maximum)) => maximum as f32,
        None => storage.minifloat().map_or(1.0, |format| format.maximum()) as f32,
    };
    if largest == 0.0 { 1.0 } else { largest / maximum }
}

impl RandomTensor {
    fn bytes(&self) -> Vec<u8> {
        let count = self.count;
        if let Some(part) = self.block {
            return part.bytes(&self.stream, count, self.deviation);
        }
        if self.is_scale {
            let storage = self.quantized.unwrap_or(Storage::F32);
            let scales: Vec<f32> =
                (0..count).into_par_iter().map(|index| row_scale(&self.row(index), storage)).collect();
            return encode(&scales, self.element);
        }
        let rows: Vec<Vec<u8>> = (0..count / self.row.max(1))
            .into_par_iter()
            .map(|index| {
                let mut row = self.row(index);
                if let Some(storage) = self.quantized {
                    let scale = row_scale(&row, storage);
                    row.iter_mut().for_each(|value| *value /= scale);
                }
                encode(&row, self.element)
            })
            .collect();
        rows.concat()
    }
}

/// Writes a copy of the tensors `names`: float matrices in another storage, everything else as it is.
///
/// Each element is rounded once, to nearest, ties to even.
pub fn write_cast<'a>(
    weights: &Weights,
    names: impl IntoIterator<Item = &'a str>,
    matrices: Storage,
    path: &Path,
) -> Result<()> {
    let target = match element_of(matrices) {
        Some(element) if FLOATS.contains(&element) => element,
        _ => {
            return Err(ModelError::Unsupported {
                field: "weights".to_owned(),
                value: matrices.to_string(),
                supported: FLOATS.map(ElementType::name).join(", "),
            });
        }
    };
    let tensors = names.into_iter().filter_map(|name| {
        let source = weights.get(name)?;
        let is_matrix = source.shape.len() >= 2 && FLOATS.contains(&source.element);
        let element = if is_matrix { target } else { source.element };
        let written =
            ParameterSpecification { name: name.to_owned(), element, shape: source.shape.clone(), layout: None };
        Some((written, move || cast(source, element)))
    });
    write(tensors, path)
}

/// What checkpoints of unquantized models are stored in.
pub const FLOATS: [ElementType; 3] = [ElementType::F32, ElementType::F16, ElementType::Bf16];

fn cast(source: &Weight, target: ElementType) -> Vec<u8> {
    /// Elements converted at a time.
    const CHUNK: usize = 1 << 16;
    let bytes = source.bytes.as_slice();
    if target == source.element {
        return bytes.to_vec();
    }
    let (_, width) = source.element.group();
    let chunks = bytes.par_chunks(CHUNK * width as usize);
    let chunks: Vec<Vec<u8>> = chunks.map(|chunk| encode(&decode(chunk, source.element), target)).collect();
    chunks.concat()
}

/// The numbers of little-endian elements, of a float type of 8 bits or more; of another type, none.
pub fn decode(bytes: &[u8], element: ElementType) -> Vec<f32> {
    let words = || bytes.as_chunks::<2>().0.iter().map(|word| u16::from_le_bytes(*word));
    match element {
        ElementType::F32 => bytes.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect(),
        ElementType::F16 => words().map(|bits| f16::from_bits(bits).to_f32()).collect(),
        ElementType::Bf16 => words().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
        _ => match storage_of(element).and_then(Storage::minifloat) {
            Some(format) if format.bits() == 8 => {
                bytes.iter().map(|&bits| format.decode(u16::from(bits)) as f32).collect()
            }
            _ => Vec::new(),
        },
    }
}

/// Numbers as little-endian elements, rounded to nearest; a type that is neither i8 nor a float of 8 bits or more gets zeros.
pub(crate) fn encode(values: &[f32], element: ElementType) -> Vec<u8> {
    match element {
        ElementType::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ElementType::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
        ElementType::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        ElementType::F64 => values.iter().flat_map(|value| f64::from(*value).to_le_bytes()).collect(),
        ElementType::I8 => values.iter().map(|value| value.round_ties_even() as i8 as u8).collect(),
        _ => match storage_of(element).and_then(Storage::minifloat) {
            Some(format) if format.bits() == 8 => {
                values.iter().map(|value| format.encode(f64::from(*value)) as u8).collect()
            }
            _ => vec![0; element.bytes(values.len() as u64).unwrap_or(0) as usize],
        },
    }
}

/// A tensor whose bytes are made when they are written.
struct Lazy<F> {
    dtype: Dtype,
    shape: Vec<usize>,
    length: usize,
    bytes: F,
}

impl<F: Fn() -> Vec<u8>> View for Lazy<F> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned((self.bytes)())
    }

    fn data_len(&self) -> usize {
        self.length
    }
}

/// Writes a safetensors file of tensors whose bytes are made one after the other.
pub(crate) fn write<F: Fn() -> Vec<u8>>(
    tensors: impl Iterator<Item = (ParameterSpecification, F)>,
    path: &Path,
) -> Result<()> {
    let unwritable = |reason: String| ModelError::Unwritable { path: path.to_path_buf(), reason };
    let tensors = tensors.map(|(tensor, bytes)| match (dtype_of(tensor.element), tensor.bytes()) {
        (Some(dtype), Some(length)) => {
            let shape = tensor.shape.iter().map(|&extent| extent as usize).collect();
            Ok((tensor.name, Lazy { dtype, shape, length: length as usize, bytes }))
        }
        _ => Err(unwritable(format!("safetensors files hold no {}", tensor.element))),
    });
    let tensors: Vec<_> = tensors.collect::<Result<_>>()?;
    serialize_to_file(tensors, None, path).map_err(|error| unwritable(error.to_string()))
}
