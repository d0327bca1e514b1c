//! Quantizing a model: a folder with the same model in narrower storage, and the error that this makes.
//!
//! What is to be written follows from the module of the narrower model: each of its tensors is copied, or made of the tensor that it
//! stands for. Tensors are made one at a time while the file is written, so that a model larger than memory can be quantized.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use serde_json::Value;
use tessera_ir::{BlockFormat, Module, Storage};
use tessera_runtime::Weights;
use tessera_runtime::plan::{ElementType, ParameterSpecification};
use tessera_runtime::weights::Weight;

use crate::error::{ModelError, Result};
use crate::folder::{ModelConfig, ModelFolder};
use crate::gpt_oss::{EIGHT_BIT, ExpertStorage, GptOssLayout, detect_layout, in_hugging_face_names};
use crate::weights::{FLOATS, SCALE_SUFFIX, decode, encode, parameter_specifications, row_scale, storage_of, write};
use crate::{gpt, gpt_oss};

/// What a model's weights are to be stored in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Target {
    /// The experts' matrices: mxfp4, or as they are.
    pub experts: Option<Storage>,
    /// All other matrices but the router's: fp8_e4m3, fp8_e5m2 or i8 with a scale for each row, or as they are.
    pub matrices: Option<Storage>,
}

/// What became of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// Its name.
    pub name: String,
    /// What it was stored in.
    pub from: Storage,
    /// What it is stored in.
    pub to: Storage,
    /// Its elements.
    pub elements: u64,
    /// The root of the mean square of its elements.
    pub magnitude: f64,
    /// The root of the mean square of their changes.
    pub error: f64,
    /// The largest change.
    pub largest_error: f64,
}

/// Writes the model of a folder in narrower storage into another folder, with its tokenizer and other small files, and says what error
/// each tensor has now.
///
/// # Errors
/// The model cannot be opened, is of a kind or in a storage that cannot be quantized to the target, or the folder cannot be written.
pub fn quantize(model: &Path, output: &Path, target: Target) -> Result<Vec<Quantized>> {
    let folder = ModelFolder::open(model)?;
    let mut weights = Weights::open(model)?;
    let mut config = folder.config.clone();
    let module = match &mut config {
        ModelConfig::GptOss(config) => {
            weights = in_hugging_face_names(config, weights)?;
            let mut layout: GptOssLayout = detect_layout(config, &weights)?;
            match target.experts {
                None => {}
                Some(Storage::Mxfp4) => {
                    (layout.experts, config.is_mxfp4) = (ExpertStorage::Mxfp4, true);
                }
                Some(other) => return Err(unsupported("experts", other, "mxfp4")),
            }
            layout.matrices = eight_bit(target.matrices)?.unwrap_or(layout.matrices);
            gpt_oss::build(config, &layout)?
        }
        ModelConfig::Gpt(config) => {
            if let Some(storage) = target.experts {
                return Err(unsupported("experts", storage, "none: this model has no experts"));
            }
            if let Some(storage) = eight_bit(target.matrices)? {
                config.weight_dtype.storage = storage;
            }
            gpt::build(config)?
        }
        ModelConfig::Gpt2(_) => {
            return Err(ModelError::Unsupported {
                field: "model_type".to_owned(),
                value: "\"gpt2\"".to_owned(),
                supported: "gpt_oss, tessera_gpt".to_owned(),
            });
        }
    };
    std::fs::create_dir_all(output).map_err(ModelError::file("make", output))?;
    if same_folder(model, output) {
        return Err(ModelError::Request(format!(
            "{} is the model that is read: write to another folder",
            output.display()
        )));
    }
    let report = Mutex::new(Vec::new());
    let jobs = plan(&module, &weights)?;
    let tensors = jobs.iter().map(|(specification, job)| {
        let report = &report;
        (specification.clone(), move || {
            let (bytes, quantized) = job.bytes(specification);
            report.lock().unwrap_or_else(PoisonError::into_inner).extend(quantized);
            bytes
        })
    });
    write(tensors, &output.join("model.safetensors"))?;
    write_config(&folder, &config, output)?;
    copy_small_files(model, output)?;
    Ok(report.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn unsupported(field: &str, storage: Storage, supported: &str) -> ModelError {
    ModelError::Unsupported { field: field.to_owned(), value: storage.to_string(), supported: supported.to_owned() }
}

/// A storage of matrices with a scale for each row.
fn eight_bit(storage: Option<Storage>) -> Result<Option<Storage>> {
    let names = EIGHT_BIT.map(ElementType::name);
    match storage {
        Some(storage) if !names.contains(&storage.name()) => Err(unsupported("matrices", storage, &names.join(", "))),
        storage => Ok(storage),
    }
}

fn same_folder(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// How the bytes of a tensor of the narrower model are made.
enum Job<'w> {
    /// They are those of this tensor.
    Copy(&'w Weight),
    /// The rows of this tensor, each divided by its scale.
    Rows(&'w Weight, Storage),
    /// The scales of the rows.
    RowScales(&'w Weight, Storage),
    /// The elements of blocks of this tensor of matrices, transposed.
    Blocks(&'w Weight, BlockFormat, Storage),
    /// The scales of these blocks.
    BlockScales(&'w Weight, BlockFormat),
}

/// What is to be done for each tensor of a module.
fn plan<'w>(module: &Module, weights: &'w Weights) -> Result<Vec<(ParameterSpecification, Job<'w>)>> {
    let float = |name: &str| weights.get(name).filter(|weight| FLOATS.contains(&weight.element));
    let mut jobs = Vec::new();
    let blocks: Vec<_> = (module.parameters.iter())
        .filter_map(|(name, ty)| {
            let format = ty.storage().blocks()?;
            let source = float(name)?;
            Some((format.names(name), format, ty.storage(), source))
        })
        .collect();
    for specification in parameter_specifications(module)? {
        let name = specification.name.as_str();
        let block = blocks.iter().find_map(|([elements, scales], format, storage, source)| match () {
            () if elements.as_str() == name => Some(Job::Blocks(source, *format, *storage)),
            () if scales.as_str() == name => Some(Job::BlockScales(source, *format)),
            () => None,
        });
        let scaled = name.strip_suffix(SCALE_SUFFIX).and_then(|name| Some((float(name)?, name)));
        let job = match (block, weights.get(name), storage_of(specification.element)) {
            (Some(job), ..) => job,
            (None, Some(weight), Some(storage))
                if EIGHT_BIT.contains(&specification.element) && FLOATS.contains(&weight.element) =>
            {
                Job::Rows(weight, storage)
            }
            (None, None, _) if let Some((weight, base)) = scaled => {
                let storage = module.parameters.get(base).map_or(Storage::F32, |ty| ty.storage());
                Job::RowScales(weight, storage)
            }
            _ => Job::Copy(weights.find(&specification)?),
        };
        jobs.push((specification, job));
    }
    Ok(jobs)
}

impl Job<'_> {
    /// The tensor's bytes, and where elements were rounded what error that made.
    fn bytes(&self, specification: &ParameterSpecification) -> (Vec<u8>, Option<Quantized>) {
        let name = specification.name.as_str();
        match self {
            Job::Copy(weight) => (weight.bytes.as_slice().to_vec(), None),
            Job::RowScales(weight, storage) => {
                let scales: Vec<f32> = rows_of(weight).map(|row| row_scale(&row, *storage)).collect();
                (encode(&scales, specification.element), None)
            }
            Job::Rows(weight, storage) => {
                let rows: Vec<(Vec<u8>, Errors)> = rows_of(weight)
                    .map(|row| {
                        let scale = row_scale(&row, *storage);
                        let scaled: Vec<f32> = row.iter().map(|value| value / scale).collect();
                        let bytes = encode(&scaled, specification.element);
                        let numbers = match specification.element {
                            ElementType::I8 => bytes.iter().map(|byte| f32::from(*byte as i8)).collect(),
                            element => decode(&bytes, element),
                        };
                        let errors = Errors::of(row.iter().copied().zip(numbers.iter().map(|number| number * scale)));
                        (bytes, errors)
                    })
                    .collect();
                let (bytes, errors): (Vec<Vec<u8>>, Vec<Errors>) = rows.into_iter().unzip();
                (bytes.concat(), Some(Errors::total(&errors).report(name, weight, *storage)))
            }
            Job::Blocks(weight, format, storage) => {
                let mut bytes = Vec::with_capacity(specification.bytes().unwrap_or(0) as usize);
                let mut errors = Vec::new();
                for (part, rounded) in matrices_of(weight, |row| mxfp4_row(row, format)) {
                    bytes.extend(part.into_iter().flat_map(|row| row.0));
                    errors.push(rounded);
                }
                let whole = name.strip_suffix(format.elements_suffix).unwrap_or(name);
                (bytes, Some(Errors::total(&errors).report(whole, weight, *storage)))
            }
            Job::BlockScales(weight, format) => {
                let parts = matrices_of(weight, |row| mxfp4_row(row, format));
                (parts.flat_map(|(part, _)| part.into_iter().flat_map(|row| row.1)).collect(), None)
            }
        }
    }
}

/// The rows of a matrix.
fn rows_of(weight: &Weight) -> impl IndexedParallelIterator<Item = Vec<f32>> + '_ {
    let row = weight.shape.last().copied().unwrap_or(1);
    let bytes = weight.element.bytes(row).unwrap_or(1).max(1) as usize;
    weight.bytes.as_slice().par_chunks(bytes).map(|row| decode(row, weight.element))
}

/// Elements, scales and errors of a row.
type BlockRow = (Vec<u8>, Vec<u8>, Errors);

/// The columns of each matrix of `[matrices, rows, columns]`, made into rows of blocks by a function.
fn matrices_of<'w>(
    weight: &'w Weight,
    function: impl Fn(&[f32]) -> BlockRow + Sync + 'w,
) -> impl Iterator<Item = (Vec<BlockRow>, Errors)> + 'w {
    let extent = |from_last: usize| {
        let place = weight.shape.len().checked_sub(from_last);
        place.map_or(1, |place| weight.shape[place] as usize)
    };
    let (rows, columns) = (extent(2), extent(1));
    let bytes = weight.element.bytes((rows * columns) as u64).unwrap_or(1).max(1) as usize;
    weight.bytes.as_slice().chunks(bytes).map(move |matrix| {
        let matrix = decode(matrix, weight.element);
        let made: Vec<BlockRow> = (0..columns)
            .into_par_iter()
            .map(|column| {
                let row: Vec<f32> = (0..rows).map(|row| matrix[row * columns + column]).collect();
                function(&row)
            })
            .collect();
        let errors: Vec<Errors> = made.iter().map(|(.., errors)| *errors).collect();
        (made, Errors::total(&errors))
    })
}

/// Rounds a row to MXFP4. Of the two powers of two that the largest magnitude of a block lies between, divided by the largest element's, the
/// scale is the one that changes the block less: the smaller one cuts what is above six times it.
fn mxfp4_row(row: &[f32], format: &BlockFormat) -> BlockRow {
    let (mut elements, mut scales) = (Vec::new(), Vec::new());
    let mut errors = Errors::default();
    for block in row.chunks(format.columns) {
        let largest = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let smaller = format.scale_of(largest.into());
        let rounded = |scale: f64| {
            let (scale, inverse) = (scale as f32, (1.0 / scale) as f32);
            let codes: Vec<u8> = block.iter().map(|value| e2m1(value * inverse)).collect();
            let numbers = codes.iter().map(|code| E2M1[usize::from(*code)] * scale);
            let errors = Errors::of(block.iter().copied().zip(numbers));
            (codes, scale, errors)
        };
        let (low, high) = (rounded(smaller), rounded(smaller * 2.0));
        let (codes, scale, made) = if high.2.squared_error < low.2.squared_error { high } else { low };
        let code = |index: usize| codes.get(index).copied().unwrap_or(0);
        elements.extend((0..format.columns / 2).map(|pair| code(2 * pair) | code(2 * pair + 1) << 4));
        scales.push(format.encode_scale(scale.into()) as u8);
        errors = Errors::total(&[errors, made]);
    }
    (elements, scales, errors)
}

/// The numbers of E2M1, by their bits.
const E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The bits of the E2M1 number nearest to `x`, ties to even.
fn e2m1(x: f32) -> u8 {
    let magnitude = x.abs();
    // Halfway to an even number rounds up to it, halfway to an odd one does not.
    let above = [magnitude > 0.25, magnitude > 1.25, magnitude > 2.5, magnitude > 5.0];
    let from = [magnitude >= 0.75, magnitude >= 1.75, magnitude >= 3.5];
    let code: u8 = above.into_iter().chain(from).map(u8::from).sum();
    code | u8::from(x.is_sign_negative()) << 3
}

/// Sums over elements and their roundings.
#[derive(Debug, Clone, Copy, Default)]
struct Errors {
    count: u64,
    squares: f64,
    squared_error: f64,
    largest: f64,
}

impl Errors {
    fn of(pairs: impl Iterator<Item = (f32, f32)>) -> Errors {
        pairs.fold(Errors::default(), |mut sum, (exact, rounded)| {
            let (exact, change) = (f64::from(exact), f64::from(exact) - f64::from(rounded));
            sum.count += 1;
            sum.squares += exact * exact;
            sum.squared_error += change * change;
            sum.largest = sum.largest.max(change.abs());
            sum
        })
    }

    fn total(parts: &[Errors]) -> Errors {
        parts.iter().fold(Errors::default(), |sum, part| Errors {
            count: sum.count + part.count,
            squares: sum.squares + part.squares,
            squared_error: sum.squared_error + part.squared_error,
            largest: sum.largest.max(part.largest),
        })
    }

    fn report(self, name: &str, weight: &Weight, to: Storage) -> Quantized {
        let count = self.count.max(1) as f64;
        Quantized {
            name: name.to_owned(),
            from: storage_of(weight.element).unwrap_or(Storage::F32),
            to,
            elements: self.count,
            magnitude: (self.squares / count).sqrt(),
            error: (self.squared_error / count).sqrt(),
            largest_error: self.largest,
        }
    }
}

/// Writes the configuration: as it was found, but for how weights are stored.
fn write_config(folder: &ModelFolder, config: &ModelConfig, output: &Path) -> Result<()> {
    let source = folder.path.join("config.json");
    let text = std::fs::read(&source).map_err(ModelError::file("read", &source))?;
    let mut fields: Value = serde_json::from_slice(&text).map_err(ModelError::json(&source))?;
    let path = output.join("config.json");
    let described = config.to_json().map_err(ModelError::json(&path))?;
    match fields.as_object_mut().filter(|fields| fields.contains_key("model_type")) {
        Some(fields) => {
            for name in ["quantization_config", "weight_dtype"] {
                if let Some(value) = described.get(name) {
                    fields.insert(name.to_owned(), value.clone());
                }
            }
        }
        // OpenAI's own file: the weights have Hugging Face's names now.
        None => fields = described,
    }
    std::fs::write(&path, format!("{fields:#}\n")).map_err(ModelError::file("write", &path))
}

/// Copies tokenizer, generation defaults and whatever else is no weight.
fn copy_small_files(model: &Path, output: &Path) -> Result<()> {
    let is_copied = |name: &str| {
        let is_weights =
            [".safetensors", ".safetensors.index.json", ".bin", ".gguf"].iter().any(|end| name.ends_with(end));
        !is_weights && name != "config.json"
    };
    for entry in std::fs::read_dir(model).map_err(ModelError::file("read", model))? {
        let path = entry.map_err(ModelError::file("read", model))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| is_copied(name)) else {
            continue;
        };
        if path.is_file() {
            std::fs::copy(&path, output.join(name)).map_err(ModelError::file("copy", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tessera_ir::minifloat::FP4_E2M1;

    use super::*;

    proptest! {
        #[test]
        fn e2m1_rounds_as_the_format_does(quarters in -40i32..40, offset in -1e-3f32..1e-3) {
            for x in [quarters as f32 / 4.0, quarters as f32 / 4.0 + offset] {
                prop_assert_eq!(u16::from(e2m1(x)), FP4_E2M1.encode(x.into()), "{}", x);
            }
        }
    }

    #[test]
    fn blocks_get_the_scale_that_changes_them_less() {
        let format = Storage::Mxfp4.blocks().unwrap();
        // With scale 1 the last is cut to 6; with scale 2 it becomes 8, and the half is lost.
        let (elements, scales, errors) = mxfp4_row(&[3.0, 3.0, 0.5, 7.9], &format);
        assert_eq!((scales[0], elements[0], elements[1]), (128, 0x33, 0x60));
        assert_eq!((errors.count, errors.largest), (4, 0.5));
        let (_, scales, errors) = mxfp4_row(&[6.0, 0.5, -0.5, 1.5], &format);
        assert_eq!((scales[0], errors.squared_error), (127, 0.0));
    }
}
