//! Weights: tensors bound to a model by name, in place where they are stored.
//!
//! [`Weights`] reads safetensors, one file or many behind an index, as Hugging Face folders have them. Files are mapped: devices copy
//! what they need from there, and kernels of the host read them in place. For these, the pages of large files are replaced by huge ones with
//! the same contents where memory allows, little by little while the model runs; addresses stay the same, and the process has
//! no more in memory than before (the system may keep the file in its cache).

mod bytes;
mod file;
mod laid_out;
mod memory;
mod open;
mod pages;
mod relocation;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use bytes::WeightBytes;
pub(crate) use file::WeightFile;
#[cfg(test)]
pub(crate) use file::tests as file_tests;
pub use laid_out::{LayoutCache, for_each_part};

use crate::plan::{ElementType, ParameterSpecification};

/// A tensor among the weights.
#[derive(Clone, Debug)]
pub struct Weight {
    /// The element type.
    pub element: ElementType,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// The contents, row-major, without gaps.
    pub bytes: WeightBytes,
}

impl Weight {
    /// Some of the rows, the places along the first dimension, in the same memory. `None` if there are not so many.
    pub fn rows(&self, rows: std::ops::Range<u64>) -> Option<Weight> {
        let (count, rest) = self.shape.split_first()?;
        if rows.start > rows.end || rows.end > *count {
            return None;
        }
        let row = self.element.bytes(rest.iter().product())?;
        let bytes = self.bytes.part(usize::try_from(rows.start * row).ok()?..usize::try_from(rows.end * row).ok()?)?;
        let shape = std::iter::once(rows.end - rows.start).chain(rest.iter().copied()).collect();
        Some(Weight { element: self.element, shape, bytes })
    }
}

/// Tensors by name.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    tensors: BTreeMap<String, Weight>,
    /// Where they come from, for messages.
    origin: String,
}

/// Why weights cannot be opened or do not fit a model.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file cannot be read.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A folder has no safetensors files.
    #[error("{0}: no model.safetensors, no model.safetensors.index.json and no other safetensors in this folder")]
    NoWeights(PathBuf),
    /// The model needs a tensor that is not there.
    #[error("{origin} has no tensor `{name}`, which the model needs as {expected}{}", hint.as_ref().map(|near| format!("; the nearest name is `{near}`")).unwrap_or_default())]
    Missing {
        /// Where the weights come from.
        origin: String,
        /// The tensor's name.
        name: String,
        /// Type and shape it should have.
        expected: String,
        /// A name like it that is there.
        hint: Option<String>,
    },
    /// A tensor has another type or shape.
    #[error("tensor `{name}` of {origin} is {found}, the model was compiled for {expected}")]
    Mismatch {
        /// Where the weights come from.
        origin: String,
        /// The tensor's name.
        name: String,
        /// Type and shape it should have.
        expected: String,
        /// Type and shape it has.
        found: String,
    },
    /// Bytes do not match type and shape.
    #[error("tensor `{name}`: {found} bytes for {expected}")]
    Size {
        /// The tensor's name.
        name: String,
        /// Its type and shape.
        expected: String,
        /// How many bytes there are.
        found: u64,
    },
}

/// `f32[4, 3]`.
fn describe(element: ElementType, shape: &[u64]) -> String {
    format!("{element}{shape:?}")
}

impl Weights {
    /// Weights in memory, added with [`Weights::insert`].
    pub fn in_memory() -> Weights {
        Weights { tensors: BTreeMap::new(), origin: "memory".into() }
    }

    /// Adds or replaces a tensor, given as its bytes in row-major order.
    pub fn insert(
        &mut self,
        name: impl Into<String>,
        element: ElementType,
        shape: Vec<u64>,
        bytes: Vec<u8>,
    ) -> Result<(), WeightsError> {
        let weight = Weight { element, shape, bytes: WeightBytes::of_memory(bytes) };
        self.add(name.into(), weight)
    }

    fn add(&mut self, name: String, weight: Weight) -> Result<(), WeightsError> {
        let shape = weight.shape.clone();
        let expected = ParameterSpecification { name, element: weight.element, shape, layout: None };
        let found = weight.bytes.as_slice().len() as u64;
        if expected.bytes() != Some(found) {
            let described = describe(weight.element, &weight.shape);
            return Err(WeightsError::Size { name: expected.name, expected: described, found });
        }
        self.tensors.insert(expected.name, weight);
        Ok(())
    }

    /// Weights of the same origin with no tensors, to be filled by [`Weights::share`].
    pub fn without_tensors(&self) -> Weights {
        Weights { tensors: BTreeMap::new(), origin: self.origin.clone() }
    }

    /// Adds or replaces a tensor that shares its memory with one of other weights.
    pub fn share(&mut self, name: &str, tensor: Weight) {
        self.tensors.insert(name.to_owned(), tensor);
    }

    /// Where the weights come from.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The tensors in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Weight)> {
        self.tensors.iter().map(|(name, weight)| (name.as_str(), weight))
    }

    /// A tensor.
    pub fn get(&self, name: &str) -> Option<&Weight> {
        self.tensors.get(name)
    }

    /// The tensor a model asks for, with its type and shape checked.
    pub fn find(&self, wanted: &ParameterSpecification) -> Result<&Weight, WeightsError> {
        let expected = describe(wanted.element, &wanted.shape);
        let (origin, name) = (self.origin.clone(), wanted.name.clone());
        let Some(weight) = self.tensors.get(&wanted.name) else {
            return Err(WeightsError::Missing { origin, expected, hint: self.nearest(&name), name });
        };
        if weight.element != wanted.element || weight.shape != wanted.shape {
            let found = describe(weight.element, &weight.shape);
            return Err(WeightsError::Mismatch { origin, name, expected, found });
        }
        Ok(weight)
    }

    /// The name that a missing one was probably meant to be: one with another prefix (checkpoints come with and without
    /// `transformer.` or `model.`).
    fn nearest(&self, name: &str) -> Option<String> {
        let suffix = |longer: &str, shorter: &str| longer.strip_suffix(shorter).is_some_and(|head| head.ends_with('.'));
        self.tensors.keys().find(|key| suffix(key, name) || suffix(name, key)).cloned()
    }
}
