//! What can go wrong between a model folder and running text.

use std::path::{Path, PathBuf};

use tessera_runtime::execute::RunError;
use tessera_runtime::pages::PagesError;
use tessera_runtime::plan::ElementType;
use tessera_runtime::weights::WeightsError;

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
    /// The weights cannot be opened, or do not fit the model.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A model could not be loaded on a device, or run there.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The pages of the KV cache do not suffice, or were mixed up.
    #[error(transparent)]
    Pages(#[from] PagesError),
    /// A tensor's element type is not usable here.
    #[error("tensor `{name}` is stored as {found}; supported: {supported}")]
    TensorType {
        /// The tensor.
        name: String,
        /// The type in the file.
        found: ElementType,
        /// What is accepted.
        supported: String,
    },
    /// A checkpoint holds a tensor that the model has no use for.
    #[error("tensor `{name}` of {origin} is no part of {model}: the checkpoint is not of this config.json")]
    UnknownTensor {
        /// Where the weights come from.
        origin: String,
        /// The tensor.
        name: String,
        /// What the configuration describes.
        model: String,
    },
    /// Weights could not be written.
    #[error("cannot write {}: {reason}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The tokenizer is missing, malformed, or refuses its input.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A graph could not be built from a configuration that passed validation.
    #[error("cannot build the model's graph: {0}")]
    Graph(String),
    /// The reference evaluation failed.
    #[error("reference evaluation: {0}")]
    Evaluation(#[from] tessera_ir::evaluate::EvaluationError),
    /// A parameter of a request cannot be what it is.
    #[error("{field} {value} {expected}")]
    Parameter {
        /// The parameter, as its field is called.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it, and what would be right.
        expected: String,
    },
    /// One request of many cannot be honoured.
    #[error("request {index}: {source}")]
    InRequest {
        /// Its index.
        index: usize,
        /// What is wrong with it.
        source: Box<ModelError>,
    },
    /// A model's chat template is no template, or fails.
    #[error("the chat template of {}: {message}", path.display())]
    ChatTemplate {
        /// The file it is from.
        path: PathBuf,
        /// What is wrong, and in which line.
        message: String,
    },
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

impl From<tessera_ir::OpError> for ModelError {
    fn from(error: tessera_ir::OpError) -> Self {
        Self::Graph(error.to_string())
    }
}

impl From<tessera_ir::Duplicate> for ModelError {
    fn from(error: tessera_ir::Duplicate) -> Self {
        Self::Graph(error.to_string())
    }
}

impl From<tessera_ir::evaluate::TensorError> for ModelError {
    fn from(error: tessera_ir::evaluate::TensorError) -> Self {
        Self::Evaluation(error.into())
    }
}
