//! A model folder: `config.json`, weights, tokenizer and generation defaults, as Hugging Face lays them out.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{ModelError, Result};
use crate::gpt::GptConfig;
use crate::gpt_oss::{ConfigError, GptOssConfig};
use crate::gpt2::Gpt2Config;
use crate::tokenizer::{GPT2_VOCABULARY, Tokenizer};

/// The `model_type` of [`Gpt2Config`] folders.
pub const GPT2_MODEL_TYPE: &str = "gpt2";

/// The `model_type` of [`GptConfig`] folders.
pub const GPT_MODEL_TYPE: &str = "tessera_gpt";

/// The `model_type` of [`GptOssConfig`] folders.
pub const GPT_OSS_MODEL_TYPE: &str = "gpt_oss";

/// Fields of a `config.json` that describe the folder rather than the model.
const FOLDER_FIELDS: [&str; 8] = [
    "model_type",
    "architectures",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "dtype",
    "torch_dtype",
    "transformers_version",
];

/// A model's configuration, of any kind that this crate builds.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one for each model that is open")]
pub enum ModelConfig {
    /// `model_type` `gpt2`.
    Gpt2(Gpt2Config),
    /// `model_type` [`GPT_MODEL_TYPE`].
    Gpt(Box<GptConfig>),
    /// `model_type` `gpt_oss`, or OpenAI's own file, which names none.
    GptOss(Box<GptOssConfig>),
}

impl ModelConfig {
    /// Tokens in the vocabulary.
    pub fn vocabulary(&self) -> u64 {
        match self {
            Self::Gpt2(config) => config.vocab_size,
            Self::Gpt(config) => config.vocab_size,
            Self::GptOss(config) => config.vocab_size,
        }
    }

    /// The longest sequence, in tokens.
    pub fn context(&self) -> u64 {
        match self {
            Self::Gpt2(config) => config.n_positions,
            Self::Gpt(config) => config.max_seq_len,
            Self::GptOss(config) => config.max_position_embeddings,
        }
    }

    /// The configuration as a `config.json` has it.
    pub fn to_json(&self) -> serde_json::Result<Value> {
        let (model_type, mut fields) = match self {
            Self::Gpt2(config) => (GPT2_MODEL_TYPE, serde_json::to_value(config)?),
            Self::Gpt(config) => (GPT_MODEL_TYPE, serde_json::to_value(config)?),
            Self::GptOss(config) => (GPT_OSS_MODEL_TYPE, config.to_json()),
        };
        if let Some(fields) = fields.as_object_mut() {
            fields.insert("model_type".to_owned(), model_type.into());
        }
        Ok(fields)
    }
}

/// A folder whose configuration has been read and validated. Weights and tokenizer are opened on demand.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFolder {
    /// The folder.
    pub path: PathBuf,
    /// What `config.json` says of the model.
    pub config: ModelConfig,
    /// The token that begins a text, if there is one; stands in for an empty prompt.
    pub begin_of_text: Option<u32>,
    /// The tokens that end a text: of `generation_config.json` if it says, else of `config.json`.
    pub end_of_text: Vec<u32>,
}

/// The part of both configuration files that says how texts begin and end.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TextBounds {
    bos_token_id: Option<u32>,
    eos_token_id: Option<TokenIds>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TokenIds {
    One(u32),
    Many(Vec<u32>),
}

impl TokenIds {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

impl ModelFolder {
    /// Reads and validates the configuration files of a folder.
    pub fn open(path: &Path) -> Result<Self> {
        let config_path = path.join("config.json");
        if !path.is_dir() {
            return Err(ModelError::Request(format!("{} is not a folder", path.display())));
        }
        if !config_path.is_file() {
            return Err(ModelError::MissingFile {
                folder: path.to_path_buf(),
                file: "config.json".to_owned(),
                help: "a model folder holds config.json, model.safetensors and tokenizer.json".to_owned(),
            });
        }
        let text = std::fs::read(&config_path).map_err(ModelError::file("read", &config_path))?;
        let (config, bounds) = parse_config(&text, &config_path)?;

        let generation_path = path.join("generation_config.json");
        let generation: TextBounds = if generation_path.is_file() {
            let text = std::fs::read(&generation_path).map_err(ModelError::file("read", &generation_path))?;
            serde_json::from_slice(&text).map_err(ModelError::json(&generation_path))?
        } else {
            TextBounds::default()
        };
        let end_of_text = generation.eos_token_id.or(bounds.eos_token_id).map(TokenIds::into_vec).unwrap_or_default();
        let begin_of_text = generation.bos_token_id.or(bounds.bos_token_id);
        for id in begin_of_text.iter().chain(&end_of_text) {
            if u64::from(*id) >= config.vocabulary() {
                return Err(ModelError::InvalidConfig(format!(
                    "special token {id} is outside the vocabulary of {}",
                    config.vocabulary()
                )));
            }
        }
        Ok(Self { path: path.to_path_buf(), config, begin_of_text, end_of_text })
    }

    /// Opens the folder's tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::open_folder(&self.path, self.config.vocabulary())
    }
}

fn parse_config(text: &[u8], path: &Path) -> Result<(ModelConfig, TextBounds)> {
    let mut fields: Map<String, Value> = serde_json::from_slice(text).map_err(ModelError::json(path))?;
    let mut bounds: TextBounds = serde_json::from_slice(text).map_err(ModelError::json(path))?;
    let model_type = fields.get("model_type").cloned().unwrap_or(Value::Null);
    let config = match model_type.as_str() {
        Some(GPT2_MODEL_TYPE) => {
            let config: Gpt2Config = serde_json::from_slice(text).map_err(ModelError::json(path))?;
            config.validate()?;
            // As Hugging Face's GPT2Config has it: what is not written is GPT-2's own, what is null is none.
            if config.vocab_size == GPT2_VOCABULARY {
                let end_of_text = (GPT2_VOCABULARY - 1) as u32;
                if !fields.contains_key("eos_token_id") {
                    bounds.eos_token_id = Some(TokenIds::One(end_of_text));
                }
                if !fields.contains_key("bos_token_id") {
                    bounds.bos_token_id = Some(end_of_text);
                }
            }
            ModelConfig::Gpt2(config)
        }
        Some(GPT_MODEL_TYPE) => {
            fields.retain(|name, _| !FOLDER_FIELDS.contains(&name.as_str()));
            let config: GptConfig = serde_json::from_value(Value::Object(fields)).map_err(ModelError::json(path))?;
            config.validate()?;
            ModelConfig::Gpt(Box::new(config))
        }
        name if name == Some(GPT_OSS_MODEL_TYPE) || (name.is_none() && GptOssConfig::is_original(&fields)) => {
            if name.is_none() {
                // OpenAI's own file names no special tokens. These are harmony's: <|return|>, and <|call|>.
                let harmony = [200_002, 200_012];
                let are_there = harmony.iter().all(|id| fields.get("vocab_size").and_then(Value::as_u64) > Some(*id));
                bounds.eos_token_id = are_there.then(|| TokenIds::Many(harmony.map(|id| id as u32).to_vec()));
            }
            let config = GptOssConfig::from_json(text).map_err(|error| match error {
                ConfigError::Json(error) => ModelError::json(path)(error),
                ConfigError::Model(error) => error,
            })?;
            ModelConfig::GptOss(Box::new(config))
        }
        _ => {
            return Err(ModelError::Unsupported {
                field: "model_type".to_owned(),
                value: model_type.to_string(),
                supported: [GPT2_MODEL_TYPE, GPT_MODEL_TYPE, GPT_OSS_MODEL_TYPE]
                    .map(|name| format!("\"{name}\""))
                    .join(", "),
            });
        }
    };
    Ok((config, bounds))
}
