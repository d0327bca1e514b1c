//! A model: its configuration, its weights, and the graph that fits both.

use std::path::Path;

use tessera_ir::{Module, Storage};
use tessera_runtime::Weights;
use tessera_runtime::plan::ElementType;
use tessera_runtime::weights::WeightsError;

use crate::error::{ModelError, Result};
use crate::folder::{ModelConfig, ModelFolder};
use crate::gpt_oss::{GptOssLayout, detect_layout as detect_gpt_oss_layout, in_hugging_face_names};
use crate::gpt2::Gpt2Layout;
use crate::weights::{FLOATS, Initialization, parameter_specifications, storage_of, write_random};
use crate::{gpt, gpt_oss, gpt2};

/// What a model computes in, where that is not fixed by its checkpoint. It concerns gpt-oss; other models take it from their
/// configuration or the storage of their weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Precision {
    /// What enters products and attention; f32 if absent.
    pub activations: Option<Storage>,
    /// The KV cache; the storage of the activations if absent.
    pub cache: Option<Storage>,
}

impl Precision {
    fn of(self, layout: GptOssLayout) -> GptOssLayout {
        let activations = self.activations.unwrap_or(layout.activations);
        GptOssLayout { activations, cache: self.cache.unwrap_or(activations), ..layout }
    }
}

/// A model that is ready to be compiled: every parameter of its module has a tensor of the right shape and type.
#[derive(Debug, Clone)]
pub struct Model {
    /// Where it came from.
    pub folder: ModelFolder,
    /// The weights that its module's parameters name.
    pub weights: Weights,
    /// The serving step and the sampling function.
    pub module: Module,
}

impl Model {
    /// Opens a model folder with the weights that are in it.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_in(path, Precision::default())
    }

    /// Opens a model folder, to be computed in a precision.
    pub fn open_in(path: &Path, precision: Precision) -> Result<Self> {
        let folder = ModelFolder::open(path)?;
        let weights = Weights::open(path).map_err(|error| match error {
            WeightsError::NoWeights(_) if path.join("pytorch_model.bin").is_file() => ModelError::MissingFile {
                folder: path.to_path_buf(),
                file: "model.safetensors".to_owned(),
                help: "there is a pytorch_model.bin, which is a Python pickle; convert it to safetensors".to_owned(),
            },
            other => other.into(),
        })?;
        Self::with_weights(folder, weights, precision)
    }

    /// The model of a folder's configuration with other weights, for example a copy in another storage.
    pub fn with_weights(folder: ModelFolder, weights: Weights, precision: Precision) -> Result<Self> {
        let (module, weights) = match &folder.config {
            ModelConfig::Gpt2(config) => (gpt2::build(config, &detect_layout(&weights)?)?, weights),
            ModelConfig::Gpt(config) => (gpt::build(config)?, weights),
            ModelConfig::GptOss(config) => {
                let weights = in_hugging_face_names(config, weights)?;
                let layout = precision.of(detect_gpt_oss_layout(config, &weights)?);
                (gpt_oss::build(config, &layout)?, weights)
            }
        };
        for parameter in parameter_specifications(&module)? {
            weights.find(&parameter)?;
        }
        Ok(Self { folder, weights, module })
    }

    /// The module of a configuration alone, for weights as its published checkpoints store them.
    pub fn module_of(config: &ModelConfig, precision: Precision) -> Result<Module> {
        match config {
            ModelConfig::Gpt2(config) => gpt2::build(config, &Gpt2Layout::default()),
            ModelConfig::Gpt(config) => gpt::build(config),
            ModelConfig::GptOss(config) => gpt_oss::build(config, &precision.of(GptOssLayout::of(config))),
        }
    }

    /// Writes a model folder with random weights, and opens it: for tests, benches, and to train from.
    ///
    /// `matrices` is the storage of a GPT-2's matrices, and of those of a gpt-oss that belong to no expert; a GPT's weights are as its
    /// configuration says.
    pub fn write_random(
        path: &Path,
        config: &ModelConfig,
        matrices: Storage,
        initialization: Initialization,
    ) -> Result<Self> {
        let module = match config {
            ModelConfig::Gpt2(config) => gpt2::build(config, &Gpt2Layout { matrices, ..Gpt2Layout::default() })?,
            ModelConfig::GptOss(config) => {
                gpt_oss::build(config, &GptOssLayout { matrices, ..GptOssLayout::of(config) })?
            }
            other => Self::module_of(other, Precision::default())?,
        };
        std::fs::create_dir_all(path).map_err(ModelError::file("make", path))?;
        let config_path = path.join("config.json");
        let text = config.to_json().map_err(ModelError::json(&config_path))?;
        std::fs::write(&config_path, format!("{text:#}\n")).map_err(ModelError::file("write", &config_path))?;
        write_random(&module, initialization, &path.join("model.safetensors"))?;
        Self::open(path)
    }

    /// The names of the tensors that the model reads.
    pub fn parameter_names(&self) -> impl Iterator<Item = &str> {
        self.module.parameters.keys().map(|name| name.as_str())
    }
}

/// How a GPT-2 checkpoint names and stores its tensors. OpenAI's own upload has no `transformer.` before its names.
fn detect_layout(weights: &Weights) -> Result<Gpt2Layout> {
    let default = Gpt2Layout::default();
    let prefix = if weights.get("wte.weight").is_some() { String::new() } else { default.prefix };
    let storage = |name: &str| -> Result<Storage> {
        let name = format!("{prefix}{name}");
        // Of a tensor that is missing, the check against the module tells.
        let Some(tensor) = weights.get(&name) else { return Ok(Storage::F32) };
        match storage_of(tensor.element) {
            Some(storage) if FLOATS.contains(&tensor.element) => Ok(storage),
            _ => Err(ModelError::TensorType {
                name,
                found: tensor.element,
                supported: FLOATS.map(ElementType::name).join(", "),
            }),
        }
    };
    let (matrices, vectors) = (storage("wte.weight")?, storage("ln_f.weight")?);
    Ok(Gpt2Layout { prefix, matrices, vectors })
}
