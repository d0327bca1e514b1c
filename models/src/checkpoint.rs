//! Weights on disk: one `model.safetensors`, or shards with `model.safetensors.index.json`.
//!
//! Files are mapped, never read into memory. Opening a checkpoint checks every header and the agreement of index and shards;
//! [`Checkpoint::check`] then checks names, shapes and element types against what a model expects.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::error::{ModelError, Result};

/// The file name of an unsharded checkpoint.
pub const SINGLE_FILE: &str = "model.safetensors";
/// The file name of the index of a sharded checkpoint.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// A set of named tensors in mapped safetensors files.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    source: PathBuf,
    files: Vec<Arc<MappedFile>>,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct MappedFile {
    path: PathBuf,
    bytes: Mmap,
}

#[derive(Debug, Clone)]
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<u64>,
    range: Range<usize>,
}

/// One tensor of a [`Checkpoint`]; its bytes live in the mapped file.
#[derive(Debug, Clone, Copy)]
pub struct StoredTensor<'a> {
    /// The file that holds it.
    pub path: &'a Path,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape, outermost dimension first.
    pub shape: &'a [u64],
    /// Its elements, little-endian, row-major, contiguous.
    pub bytes: &'a [u8],
}

/// What a model expects of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedTensor {
    /// The tensor's name in the checkpoint.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// The element types that the model can use.
    pub dtypes: Vec<Dtype>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens the checkpoint of a model folder: [`SINGLE_FILE`] if it is there, else the shards that [`INDEX_FILE`] names.
    pub fn open_folder(folder: &Path) -> Result<Self> {
        let single = folder.join(SINGLE_FILE);
        if single.is_file() {
            return Self::open_file(&single);
        }
        let index = folder.join(INDEX_FILE);
        if index.is_file() {
            return Self::open_index(&index);
        }
        let help = if folder.join("pytorch_model.bin").is_file() {
            "there is a pytorch_model.bin, which is a Python pickle; convert it to safetensors"
        } else {
            "weights are read from model.safetensors or from shards named by model.safetensors.index.json"
        };
        Err(ModelError::MissingFile {
            folder: folder.to_path_buf(),
            file: SINGLE_FILE.to_owned(),
            help: help.to_owned(),
        })
    }

    /// Opens one safetensors file.
    pub fn open_file(path: &Path) -> Result<Self> {
        let mut checkpoint = Self::empty(path);
        checkpoint.add_file(path)?;
        Ok(checkpoint)
    }

    /// Opens the shards that an index file names, and checks that index and shards agree.
    pub fn open_index(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(ModelError::file("read", path))?;
        let index: Index = serde_json::from_slice(&text).map_err(ModelError::json(path))?;
        let damaged = |reason: String| ModelError::Checkpoint { path: path.to_path_buf(), reason };
        let folder = path.parent().unwrap_or(Path::new("."));

        let mut checkpoint = Self::empty(path);
        let mut shards: BTreeMap<&str, usize> = BTreeMap::new();
        for (tensor, shard) in &index.weight_map {
            if shards.contains_key(shard.as_str()) {
                continue;
            }
            // A shard is a plain file name beside its index: an index must not reach outside its folder.
            let mut components = Path::new(shard).components();
            if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
                return Err(damaged(format!(
                    "tensor `{tensor}` is mapped to `{shard}`, which is not a plain file name"
                )));
            }
            let number = checkpoint.add_file(&folder.join(shard))?;
            shards.insert(shard, number);
        }
        for (tensor, shard) in &index.weight_map {
            let listed = shards.get(shard.as_str()).copied();
            match checkpoint.tensors.get(tensor) {
                Some(entry) if Some(entry.file) == listed => {}
                Some(_) => {
                    return Err(damaged(format!("tensor `{tensor}` is mapped to `{shard}` but lies in another shard")));
                }
                None => {
                    return Err(damaged(format!("tensor `{tensor}` is mapped to `{shard}`, which does not hold it")));
                }
            }
        }
        Ok(checkpoint)
    }

    fn empty(source: &Path) -> Self {
        Self { source: source.to_path_buf(), files: Vec::new(), tensors: BTreeMap::new() }
    }

    fn add_file(&mut self, path: &Path) -> Result<usize> {
        let damaged = |reason: String| ModelError::Checkpoint { path: path.to_path_buf(), reason };
        let file = File::open(path).map_err(ModelError::file("read", path))?;
        let length = file.metadata().map_err(ModelError::file("read", path))?.len();
        if length < 8 {
            return Err(damaged(format!("{length} bytes are too few for a safetensors header")));
        }
        // SAFETY: the mapping is read-only and private to this process. As with every mapped file, another process that
        // truncates it while it is in use ends this one (SIGBUS); weights are not files that are rewritten in place.
        let bytes = unsafe { Mmap::map(&file) }.map_err(ModelError::file("map", path))?;

        let number = self.files.len();
        let parsed = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
        let start = bytes.as_ptr() as usize;
        for (name, view) in parsed.iter() {
            let begin = view.data().as_ptr() as usize - start;
            let entry = Entry {
                file: number,
                dtype: view.dtype(),
                shape: view.shape().iter().map(|&extent| extent as u64).collect(),
                range: begin..begin + view.data().len(),
            };
            if let Some(other) = self.tensors.insert(name.to_owned(), entry) {
                let other = self.files.get(other.file).map_or(path, |file| &file.path);
                return Err(damaged(format!("tensor `{name}` is also in {}", other.display())));
            }
        }
        drop(parsed);
        self.files.push(Arc::new(MappedFile { path: path.to_path_buf(), bytes }));
        Ok(number)
    }

    /// The file it was opened from: the safetensors file, or the index.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// The safetensors files, in the order in which they were opened.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor by name.
    pub fn get(&self, name: &str) -> Option<StoredTensor<'_>> {
        let entry = self.tensors.get(name)?;
        let file = self.files.get(entry.file)?;
        Some(StoredTensor {
            path: &file.path,
            dtype: entry.dtype,
            shape: &entry.shape,
            bytes: file.bytes.get(entry.range.clone())?,
        })
    }

    /// Checks that every expected tensor is there, with the expected shape and an accepted element type.
    ///
    /// Tensors that nothing expects are left alone: checkpoints carry buffers (GPT-2's causal masks) that no model reads.
    pub fn check(&self, expected: &[ExpectedTensor]) -> Result<()> {
        for wanted in expected {
            let found = self.get(&wanted.name).ok_or_else(|| ModelError::MissingTensor {
                path: self.source.clone(),
                name: wanted.name.clone(),
                expected: wanted.shape.clone(),
                similar: self.similar_name(&wanted.name),
            })?;
            if found.shape != wanted.shape {
                return Err(ModelError::TensorShape {
                    path: found.path.to_path_buf(),
                    name: wanted.name.clone(),
                    expected: wanted.shape.clone(),
                    found: found.shape.to_vec(),
                });
            }
            if !wanted.dtypes.contains(&found.dtype) {
                let accepted: Vec<String> = wanted.dtypes.iter().map(|dtype| format!("{dtype:?}")).collect();
                return Err(ModelError::TensorType {
                    path: found.path.to_path_buf(),
                    name: wanted.name.clone(),
                    expected: accepted.join(", "),
                    found: found.dtype,
                });
            }
        }
        Ok(())
    }

    fn similar_name(&self, name: &str) -> Option<String> {
        self.tensors
            .keys()
            .map(|candidate| (strsim::jaro_winkler(candidate, name), candidate))
            .filter(|(score, _)| *score > 0.9)
            .max_by(|left, right| left.0.total_cmp(&right.0))
            .map(|(_, candidate)| candidate.clone())
    }
}
