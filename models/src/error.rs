//! What can go wrong between a model folder and running text.

use std::path::{Path, PathBuf};

use safetensors::Dtype;

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, ModelError>;

/// An error of this crate: what is wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was attempted: `read`, `map`, `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file that a model folder must have is not there.
    #[error("{} has no {file}: {help}", folder.display())]
    MissingFile {
        /// The model folder.
        folder: PathBuf,
        /// The file looked for.
        file: String,
        /// What would satisfy the loader.
        help: String,
    },
    /// A JSON file is not JSON, or not of the expected form.
    #[error("{} is malformed: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        source: serde_json::Error,
    },
    /// A configuration asks for something that is not implemented.
    #[error("{field} = {value} is not supported; supported: {supported}")]
    Unsupported {
        /// The field of the configuration.
        field: String,
        /// Its value, as JSON.
        value: String,
        /// What would be accepted.
        supported: String,
    },
    /// A configuration contradicts itself.
    #[error("invalid model configuration: {0}")]
    InvalidConfig(String),
    /// A safetensors file or its index is damaged.
    #[error("{} is not a valid checkpoint: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The model needs a tensor that the checkpoint lacks.
    #[error("the checkpoint {} lacks tensor `{name}`, expected with shape {expected:?}{}", path.display(), similar_hint(similar))]
    MissingTensor {
        /// Where the tensor was looked for.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape that the configuration implies.
        expected: Vec<u64>,
        /// The most similar name in the checkpoint, if any is near.
        similar: Option<String>,
    },
    /// A tensor's shape contradicts the configuration.
    #[error("tensor `{name}` in {} has shape {found:?}, but the configuration implies {expected:?}", path.display())]
    TensorShape {
        /// The file that holds the tensor.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape that the configuration implies.
        expected: Vec<u64>,
        /// The shape in the file.
        found: Vec<u64>,
    },
    /// A tensor's element type is not usable here.
    #[error("tensor `{name}` in {} is stored as {found:?}; expected {expected}", path.display())]
    TensorType {
        /// The file that holds the tensor.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What is accepted.
        expected: String,
        /// The type in the file.
        found: Dtype,
    },
    /// The tokenizer is missing, malformed, or refuses its input.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A request for text or logits cannot be honoured.
    #[error("{0}")]
    Request(String),
}

impl ModelError {
    /// For `map_err`: an input/output error while doing `action` to `path`.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { action, path, source }
    }

    /// For `map_err`: a JSON error in `path`.
    pub(crate) fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Json { path, source }
    }
}

fn similar_hint(similar: &Option<String>) -> String {
    match similar {
        Some(name) => format!("; the most similar name there is `{name}`"),
        None => String::new(),
    }
}
