//! Safetensors files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Component, Path};
use std::sync::Arc;

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::file::WeightFile;
use super::{Weight, WeightBytes, Weights, WeightsError};
use crate::plan::ElementType;

/// `model.safetensors.index.json`: which shard holds which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Opens a safetensors file, an index of several (`….safetensors.index.json`), or a folder that holds
    /// `model.safetensors`, `model.safetensors.index.json`, or other safetensors files, which are then read all.
    pub fn open(path: impl AsRef<Path>) -> Result<Weights, WeightsError> {
        let path = path.as_ref();
        let mut weights = Weights { origin: path.display().to_string(), ..Weights::default() };
        if path.is_dir() {
            let (single, index) = (path.join("model.safetensors"), path.join("model.safetensors.index.json"));
            // Folders that have both keep the index from before the shards were joined.
            if single.is_file() {
                weights.add_file(&single)?;
            } else if index.is_file() {
                weights.add_index(&index)?;
            } else {
                let unreadable = |error| WeightsError::File { path: path.into(), error };
                let entries = std::fs::read_dir(path).map_err(unreadable)?;
                let files: std::io::Result<BTreeSet<_>> = entries.map(|entry| Ok(entry?.path())).collect();
                let mut files = files.map_err(unreadable)?;
                files.retain(|file| file.extension().is_some_and(|extension| extension == "safetensors"));
                if files.is_empty() {
                    return Err(WeightsError::NoWeights(path.into()));
                }
                files.iter().try_for_each(|file| weights.add_file(file))?;
            }
        } else if path.extension().is_some_and(|extension| extension == "json") {
            weights.add_index(path)?;
        } else {
            weights.add_file(path)?;
        }
        Ok(weights)
    }

    fn add_index(&mut self, path: &Path) -> Result<(), WeightsError> {
        let malformed = |problem: String| WeightsError::Malformed { path: path.into(), problem };
        let text = std::fs::read(path).map_err(|error| WeightsError::File { path: path.into(), error })?;
        let index: Index = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let shards: BTreeSet<_> = index.weight_map.values().collect();
        for shard in shards {
            // The index may come from anywhere; it must not lead out of its folder.
            if Path::new(shard).components().any(|component| !matches!(component, Component::Normal(_))) {
                return Err(malformed(format!("the shard `{shard}` is not a file of the same folder")));
            }
            self.add_file(&folder.join(shard))?;
        }
        match index.weight_map.iter().find(|(name, _)| !self.tensors.contains_key(*name)) {
            Some((name, shard)) => Err(malformed(format!("tensor `{name}` is not in {shard}"))),
            None => Ok(()),
        }
    }

    fn add_file(&mut self, path: &Path) -> Result<(), WeightsError> {
        let unreadable = |error| WeightsError::File { path: path.into(), error };
        let malformed = |problem: String| WeightsError::Malformed { path: path.into(), problem };
        let file = File::open(path).map_err(unreadable)?;
        // SAFETY: the mapping is read-only. Another process that changed the file meanwhile would change the weights, and one
        // that truncated it would end this process; that holds for every program that maps its data.
        let file = Arc::new(unsafe { WeightFile::map(file) }.map_err(unreadable)?);
        let tensors = SafeTensors::deserialize(file.bytes()).map_err(|error| {
            malformed(truncation(file.bytes()).unwrap_or_else(|| format!("not safetensors: {error}")))
        })?;
        for (name, view) in tensors.iter() {
            // Tensors of types no model uses may lie beside those that are wanted.
            let Some(element) = element_type(view.dtype()) else {
                tracing::warn!(tensor = name, dtype = ?view.dtype(), "skipped: no such element type");
                continue;
            };
            // `view.data()` lies inside the mapping, so the distance is its offset.
            let start = view.data().as_ptr() as usize - file.bytes().as_ptr() as usize;
            let bytes = in_place(&file, start, view.data(), element)
                .ok_or_else(|| malformed(format!("tensor `{name}` ends beyond the file")))?;
            let shape = view.shape().iter().map(|dimension| *dimension as u64).collect();
            self.add(name.to_string(), Weight { element, shape, bytes })?;
        }
        Ok(())
    }
}

/// What a safetensors file that ends too early lacks: the first tensor that is not all there. `None` if that is not what is wrong
/// with it.
fn truncation(file: &[u8]) -> Option<String> {
    /// What a header says of a tensor that matters here.
    #[derive(Deserialize)]
    struct Entry {
        data_offsets: [u64; 2],
    }
    let (length, rest) = file.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let data = rest.len().checked_sub(length)? as u64;
    let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&rest[..length]).ok()?;
    let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__");
    let ends =
        tensors.filter_map(|(name, entry)| Some((serde_json::from_value::<Entry>(entry).ok()?.data_offsets[1], name)));
    let (end, name) = ends.filter(|(end, _)| *end > data).min()?;
    let missing = end - data;
    Some(format!(
        "the file ends {missing} bytes before the end of tensor `{name}`; it has not been copied or downloaded whole"
    ))
}

/// The bytes of a tensor where they are mapped. Files whose tensors do not start at a multiple of their element size are rare
/// (nothing forbids them), and have those tensors copied.
fn in_place(file: &Arc<WeightFile>, start: usize, data: &[u8], element: ElementType) -> Option<WeightBytes> {
    let (count, bytes) = element.group();
    let aligned = count != 1 || start.is_multiple_of(bytes as usize);
    if aligned {
        WeightBytes::of_file(file.clone(), start..start + data.len())
    } else {
        Some(WeightBytes::of_memory(data.into()))
    }
}

fn element_type(dtype: Dtype) -> Option<ElementType> {
    Some(match dtype {
        Dtype::BOOL => ElementType::Bool,
        Dtype::U8 => ElementType::U8,
        Dtype::I8 => ElementType::I8,
        Dtype::I16 => ElementType::I16,
        Dtype::F16 => ElementType::F16,
        Dtype::BF16 => ElementType::Bf16,
        Dtype::I32 => ElementType::I32,
        Dtype::U32 => ElementType::U32,
        Dtype::F32 => ElementType::F32,
        Dtype::F64 => ElementType::F64,
        Dtype::I64 => ElementType::I64,
        Dtype::F8_E4M3 => ElementType::Fp8E4m3,
        Dtype::F8_E5M2 => ElementType::Fp8E5m2,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use safetensors::tensor::{TensorView, serialize_to_file};

    use super::*;
    use crate::plan::ParameterSpecification;

    fn write(path: &Path, name: &str, values: &[f32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, vec![values.len()], &bytes).unwrap();
        serialize_to_file([(name, view)], None, path).unwrap();
    }

    fn wanted(name: &str, element: ElementType, shape: &[u64]) -> ParameterSpecification {
        ParameterSpecification { name: name.into(), element, shape: shape.into(), layout: None }
    }

    #[test]
    fn a_file_or_its_folder_opens_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        write(&path, "a.weight", &[1.0, 2.0, 3.0]);
        for place in [&path, folder.path()] {
            let weights = Weights::open(place).unwrap();
            let weight = weights.find(&wanted("a.weight", ElementType::F32, &[3])).unwrap();
            assert_eq!(weight.bytes.as_slice()[4..8], 2.0f32.to_le_bytes());
        }
    }

    #[test]
    fn shards_open_through_their_index() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("one.safetensors"), "a", &[1.0]);
        write(&folder.path().join("two.safetensors"), "b", &[2.0, 3.0]);
        let index = folder.path().join("model.safetensors.index.json");
        let text = r#"{"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#;
        std::fs::write(&index, text).unwrap();
        let weights = Weights::open(folder.path()).unwrap();
        assert_eq!(weights.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b"]);

        std::fs::write(&index, text.replace("\"b\": ", "\"c\": ")).unwrap();
        let message = Weights::open(&index).unwrap_err().to_string();
        assert!(message.ends_with("tensor `c` is not in two.safetensors"), "{message}");
        std::fs::write(&index, text.replace("two", "../two")).unwrap();
        let message = Weights::open(&index).unwrap_err().to_string();
        assert!(message.contains("`../two.safetensors` is not a file of the same folder"), "{message}");
    }

    #[test]
    fn shards_without_an_index_open_too() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("model--00001-of-00002.safetensors"), "a", &[1.0]);
        write(&folder.path().join("model--00002-of-00002.safetensors"), "b", &[2.0, 3.0]);
        let weights = Weights::open(folder.path()).unwrap();
        assert_eq!(weights.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_truncated_file_names_the_tensor_that_it_ends_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        write(&path, "a.weight", &[1.0, 2.0, 3.0]);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        let message = Weights::open(&path).unwrap_err().to_string();
        assert!(message.contains("the file ends 5 bytes before the end of tensor `a.weight`"), "{message}");
    }

    #[test]
    fn rows_of_a_weight_share_its_memory() {
        let mut weights = Weights::in_memory();
        weights.insert("qkv", ElementType::Bf16, vec![3, 2], (0..12).collect()).unwrap();
        let whole = weights.get("qkv").unwrap();
        let rows = whole.rows(1..3).unwrap();
        assert_eq!(
            (rows.shape.as_slice(), rows.bytes.as_slice()),
            ([2, 2].as_slice(), &[4, 5, 6, 7, 8, 9, 10, 11][..])
        );
        assert_eq!(rows.bytes.as_slice().as_ptr(), whole.bytes.as_slice()[4..].as_ptr());
        assert!(whole.rows(2..4).is_none());
    }

    #[test]
    fn errors_name_the_tensor_and_what_was_expected() {
        let mut weights = Weights::in_memory();
        weights.insert("transformer.wte.weight", ElementType::F32, vec![2], vec![0; 8]).unwrap();
        let message = weights.find(&wanted("wte.weight", ElementType::F32, &[2])).unwrap_err().to_string();
        assert_eq!(
            message,
            "memory has no tensor `wte.weight`, which the model needs as f32[2]; the nearest name is `transformer.wte.weight`"
        );
        let message = weights.find(&wanted("transformer.wte.weight", ElementType::Bf16, &[2])).unwrap_err().to_string();
        assert_eq!(message, "tensor `transformer.wte.weight` of memory is f32[2], the model was compiled for bf16[2]");
        let message = weights.insert("x", ElementType::F32, vec![2], vec![0; 7]).unwrap_err().to_string();
        assert_eq!(message, "tensor `x`: 7 bytes for f32[2]");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

        /// A file with changed or missing bytes is refused, or its tensors still lie inside it.
        #[test]
        fn damaged_files_are_errors_or_tensors(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            length in any::<prop::sample::Index>(),
            whole in any::<bool>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("model.safetensors");
            write(&path, "a.weight", &[1.0, 2.0, 3.0]);
            let mut bytes = std::fs::read(&path).unwrap();
            for (position, value) in changes {
                let position = position.index(bytes.len());
                bytes[position] = value;
            }
            if !whole {
                bytes.truncate(length.index(bytes.len()));
            }
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(weights) = Weights::open(&path) {
                for (_, weight) in weights.iter() {
                    prop_assert!(weight.bytes.as_slice().len() <= bytes.len());
                }
            }
        }
    }

    #[test]
    fn what_is_not_safetensors_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Weights::open(folder.path()), Err(WeightsError::NoWeights(_))));
        let path = folder.path().join("model.safetensors");
        for contents in [&b""[..], b"x", &[0xff; 64], b"\x02\0\0\0\0\0\0\0{}"] {
            std::fs::write(&path, contents).unwrap();
            match Weights::open(&path) {
                Ok(weights) => assert_eq!(weights.iter().count(), 0),
                Err(error) => assert!(error.to_string().contains("model.safetensors: "), "{error}"),
            }
        }
    }
}
