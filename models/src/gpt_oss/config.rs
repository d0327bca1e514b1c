//! The `config.json` of gpt-oss: Hugging Face's, of older and newer transformers, and OpenAI's own.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{ModelError, Result};

/// Which keys the queries of a layer see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttentionKind {
    /// The last `sliding_window`, their own included.
    #[serde(rename = "sliding_attention")]
    Sliding,
    /// All up to their own.
    #[serde(rename = "full_attention")]
    Full,
}

/// How rotary frequencies are stretched for contexts longer than those first trained on (Peng et al., "YaRN").
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// How many times longer the context is.
    pub factor: f64,
    /// Turns over the original context from which on a frequency is kept.
    pub beta_fast: f64,
    /// Turns over the original context up to which a frequency is divided.
    pub beta_slow: f64,
    /// Tokens of the original context.
    pub original_context: u64,
    /// Whether the pairs between which frequencies go over are rounded to whole ones.
    pub truncate: bool,
    /// What cosine and sine are multiplied by.
    pub concentration: f64,
}

/// The configuration of a gpt-oss.
#[derive(Debug, Clone, PartialEq)]
pub struct GptOssConfig {
    /// Tokens in the vocabulary.
    pub vocab_size: u64,
    /// Width of the residual stream.
    pub hidden_size: u64,
    /// Width of an expert.
    pub intermediate_size: u64,
    /// The kind of each layer's attention; as many as there are layers.
    pub layer_types: Vec<AttentionKind>,
    /// Query heads.
    pub num_attention_heads: u64,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: u64,
    /// Width of a head.
    pub head_dim: u64,
    /// Keys that a query of a sliding layer sees, its own included.
    pub sliding_window: u64,
    /// Experts of each layer.
    pub num_local_experts: u64,
    /// Experts that each token is sent to.
    pub num_experts_per_tok: u64,
    /// Steepness of the experts' gates.
    pub swiglu_alpha: f64,
    /// Largest gate, and largest magnitude of what is gated.
    pub swiglu_limit: f64,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// The base of rotary angles.
    pub rope_theta: f64,
    /// How rotary frequencies are stretched; not at all if absent.
    pub yarn: Option<Yarn>,
    /// The longest sequence, in tokens.
    pub max_position_embeddings: u64,
    /// Whether queries, keys, values and the attention's output have biases.
    pub attention_bias: bool,
    /// Whether the output projection is the token embedding.
    pub tie_word_embeddings: bool,
    /// Whether the experts' matrices are MXFP4; bf16 if not.
    pub is_mxfp4: bool,
}

/// The fields of either kind of file. What is not listed does not change what the model computes.
#[derive(Deserialize)]
struct Written {
    vocab_size: u64,
    hidden_size: u64,
    intermediate_size: u64,
    num_hidden_layers: u64,
    num_attention_heads: u64,
    num_key_value_heads: u64,
    head_dim: Option<u64>,
    #[serde(alias = "num_experts")]
    num_local_experts: u64,
    #[serde(alias = "experts_per_token")]
    num_experts_per_tok: u64,
    sliding_window: Option<u64>,
    layer_types: Option<Vec<AttentionKind>>,
    swiglu_alpha: Option<f64>,
    swiglu_limit: Option<f64>,
    rms_norm_eps: Option<f64>,
    max_position_embeddings: Option<u64>,
    initial_context_length: Option<u64>,
    hidden_act: Option<String>,
    attention_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
    quantization_config: Option<Quantization>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    rope_parameters: Option<Rope>,
    // OpenAI's own.
    rope_scaling_factor: Option<f64>,
    rope_ntk_alpha: Option<f64>,
    rope_ntk_beta: Option<f64>,
}

#[derive(Deserialize)]
struct Quantization {
    quant_method: String,
}

/// `rope_scaling`, or in newer files `rope_parameters`, which holds the base as well.
#[derive(Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    original_max_position_embeddings: Option<u64>,
    truncate: Option<bool>,
    attention_factor: Option<f64>,
}

/// What turns a longer context into its factor on cosine and sine, if the file does not say.
fn concentration(factor: f64) -> f64 {
    if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 }
}

impl GptOssConfig {
    /// gpt-oss-20b.
    pub fn gpt_oss_20b() -> Self {
        Self {
            vocab_size: 201_088,
            hidden_size: 2880,
            intermediate_size: 2880,
            layer_types: alternating(24),
            num_attention_heads: 64,
            num_key_value_heads: 8,
            head_dim: 64,
            sliding_window: 128,
            num_local_experts: 32,
            num_experts_per_tok: 4,
            swiglu_alpha: 1.702,
            swiglu_limit: 7.0,
            rms_norm_eps: 1e-5,
            rope_theta: 150_000.0,
            yarn: Some(Yarn {
                factor: 32.0,
                beta_fast: 32.0,
                beta_slow: 1.0,
                original_context: 4096,
                truncate: false,
                concentration: concentration(32.0),
            }),
            max_position_embeddings: 131_072,
            attention_bias: true,
            tie_word_embeddings: false,
            is_mxfp4: true,
        }
    }

    /// gpt-oss-120b.
    pub fn gpt_oss_120b() -> Self {
        Self { layer_types: alternating(36), num_local_experts: 128, ..Self::gpt_oss_20b() }
    }

    /// Whether these are the fields of OpenAI's own `config.json`, which names no model type.
    pub fn is_original(fields: &serde_json::Map<String, Value>) -> bool {
        ["num_experts", "experts_per_token", "rope_ntk_alpha"].iter().all(|name| fields.contains_key(*name))
    }

    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// A field is missing or of the wrong type, or asks for what is not supported.
    pub fn from_json(text: &[u8]) -> std::result::Result<Self, ConfigError> {
        let written: Written = serde_json::from_slice(text).map_err(ConfigError::Json)?;
        let config = written.config().map_err(ConfigError::Model)?;
        config.validate().map_err(ConfigError::Model)?;
        Ok(config)
    }

    /// The configuration as Hugging Face writes it.
    pub fn to_json(&self) -> Value {
        let mut rope = json!({"rope_type": "default", "rope_theta": self.rope_theta});
        if let Some(yarn) = &self.yarn {
            rope = json!({
                "rope_type": "yarn",
                "rope_theta": self.rope_theta,
                "factor": yarn.factor,
                "beta_fast": yarn.beta_fast,
                "beta_slow": yarn.beta_slow,
                "original_max_position_embeddings": yarn.original_context,
                "truncate": yarn.truncate,
                "attention_factor": yarn.concentration,
            });
        }
        let quantization = self.is_mxfp4.then(|| {
            json!({
                "quant_method": "mxfp4",
                "modules_to_not_convert":
                    ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
            })
        });
        json!({
            "architectures": ["GptOssForCausalLM"],
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layer_types.len(),
            "layer_types": self.layer_types,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "sliding_window": self.sliding_window,
            "num_local_experts": self.num_local_experts,
            "num_experts_per_tok": self.num_experts_per_tok,
            "swiglu_alpha": self.swiglu_alpha,
            "swiglu_limit": self.swiglu_limit,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "max_position_embeddings": self.max_position_embeddings,
            "attention_bias": self.attention_bias,
            "tie_word_embeddings": self.tie_word_embeddings,
            "rope_parameters": rope,
            "quantization_config": quantization,
        })
    }

    /// Checks that the configuration is consistent and supported.
    pub fn validate(&self) -> Result<()> {
        let invalid = |message: String| Err(ModelError::InvalidConfig(message));
        for (name, extent) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.layer_types.len() as u64),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("sliding_window", self.sliding_window),
            ("num_local_experts", self.num_local_experts),
            ("num_experts_per_tok", self.num_experts_per_tok),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            if !(1..=MAX_EXTENT).contains(&extent) {
                return invalid(format!("{name} = {extent} is outside 1..={MAX_EXTENT}"));
            }
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let (heads, key_heads) = (self.num_attention_heads, self.num_key_value_heads);
            return invalid(format!("num_key_value_heads = {key_heads} does not divide num_attention_heads = {heads}"));
        }
        if !self.head_dim.is_multiple_of(2) {
            return invalid(format!("head_dim = {} must be even: rotary embedding works on pairs", self.head_dim));
        }
        if self.num_experts_per_tok > self.num_local_experts {
            let (chosen, experts) = (self.num_experts_per_tok, self.num_local_experts);
            return invalid(format!("num_experts_per_tok = {chosen} is more than num_local_experts = {experts}"));
        }
        let is_positive = |number: f64| number.is_finite() && number > 0.0;
        let mut numbers = vec![
            ("swiglu_alpha", self.swiglu_alpha, self.swiglu_alpha.is_finite()),
            ("swiglu_limit", self.swiglu_limit, is_positive(self.swiglu_limit)),
            ("rms_norm_eps", self.rms_norm_eps, self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0),
            ("rope_theta", self.rope_theta, self.rope_theta.is_finite() && self.rope_theta > 1.0),
        ];
        if let Some(yarn) = &self.yarn {
            numbers.extend([
                ("factor of rope scaling", yarn.factor, is_positive(yarn.factor)),
                ("beta_fast", yarn.beta_fast, is_positive(yarn.beta_fast)),
                ("beta_slow", yarn.beta_slow, is_positive(yarn.beta_slow) && yarn.beta_slow <= yarn.beta_fast),
                ("attention_factor", yarn.concentration, is_positive(yarn.concentration)),
            ]);
            if !(1..=MAX_EXTENT).contains(&yarn.original_context) {
                return invalid(format!(
                    "original_max_position_embeddings = {} is out of range",
                    yarn.original_context
                ));
            }
        }
        match numbers.into_iter().find(|(_, _, fits)| !fits) {
            Some((name, number, _)) => invalid(format!("{name} = {number} is out of range")),
            None => Ok(()),
        }
    }
}

/// No extent of a model comes near this; anything above is a damaged file, and products of three stay inside 64 bits.
const MAX_EXTENT: u64 = 1 << 21;

/// Why a `config.json` cannot be used.
#[derive(Debug)]
pub enum ConfigError {
    /// It is not of the expected form.
    Json(serde_json::Error),
    /// It describes no model that can be built.
    Model(ModelError),
}

/// Layers of both kinds in turn; the first is sliding.
fn alternating(layers: u64) -> Vec<AttentionKind> {
    (0..layers).map(|layer| if layer % 2 == 0 { AttentionKind::Sliding } else { AttentionKind::Full }).collect()
}

fn unsupported(field: &str, value: impl Into<Value>, supported: &str) -> ModelError {
    ModelError::Unsupported {
        field: field.to_owned(),
        value: value.into().to_string(),
        supported: supported.to_owned(),
    }
}

impl Written {
    fn config(self) -> Result<GptOssConfig> {
        if self.num_hidden_layers > MAX_EXTENT {
            let message = format!("num_hidden_layers = {} is outside 1..={MAX_EXTENT}", self.num_hidden_layers);
            return Err(ModelError::InvalidConfig(message));
        }
        if let Some(activation) = self.hidden_act.filter(|activation| activation != "silu") {
            return Err(unsupported("hidden_act", activation, "\"silu\""));
        }
        // OpenAI's own file has no word of it: its experts are always MXFP4.
        let is_original = self.rope_ntk_alpha.is_some();
        let is_mxfp4 = match self.quantization_config {
            Some(Quantization { quant_method }) if quant_method != "mxfp4" => {
                return Err(unsupported(
                    "quantization_config.quant_method",
                    quant_method,
                    "\"mxfp4\", or no quantization",
                ));
            }
            quantization => quantization.is_some() || is_original,
        };
        let layer_types = self.layer_types.unwrap_or_else(|| alternating(self.num_hidden_layers));
        if layer_types.len() as u64 != self.num_hidden_layers {
            return Err(ModelError::InvalidConfig(format!(
                "layer_types lists {} layers, num_hidden_layers is {}",
                layer_types.len(),
                self.num_hidden_layers
            )));
        }
        let rope = self.rope_parameters.or(self.rope_scaling);
        let rope_theta = rope.as_ref().and_then(|rope| rope.rope_theta).or(self.rope_theta).unwrap_or(150_000.0);
        let original_context = self.initial_context_length.unwrap_or(4096);
        let yarn = match rope {
            Some(rope) => rope.yarn(original_context)?,
            None => self.rope_scaling_factor.filter(|factor| *factor > 1.0).map(|factor| Yarn {
                factor,
                beta_fast: self.rope_ntk_beta.unwrap_or(32.0),
                beta_slow: self.rope_ntk_alpha.unwrap_or(1.0),
                original_context,
                truncate: false,
                concentration: concentration(factor),
            }),
        };
        let stretched = yarn.as_ref().map(|yarn| yarn.original_context as f64 * yarn.factor);
        let heads = self.num_attention_heads.max(1);
        Ok(GptOssConfig {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            layer_types,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim: self.head_dim.unwrap_or(self.hidden_size / heads),
            sliding_window: self.sliding_window.unwrap_or(128),
            num_local_experts: self.num_local_experts,
            num_experts_per_tok: self.num_experts_per_tok,
            swiglu_alpha: self.swiglu_alpha.unwrap_or(1.702),
            swiglu_limit: self.swiglu_limit.unwrap_or(7.0),
            rms_norm_eps: self.rms_norm_eps.unwrap_or(1e-5),
            rope_theta,
            yarn,
            max_position_embeddings: self
                .max_position_embeddings
                .or(stretched.map(|context| context as u64))
                .unwrap_or(original_context),
            attention_bias: self.attention_bias.unwrap_or(true),
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(false),
            is_mxfp4,
        })
    }
}

impl Rope {
    fn yarn(&self, original_context: u64) -> Result<Option<Yarn>> {
        match self.rope_type.as_deref() {
            None | Some("default") => return Ok(None),
            Some("yarn") => {}
            Some(other) => return Err(unsupported("rope_type", other, "\"yarn\", \"default\"")),
        }
        let Some(factor) = self.factor else {
            return Err(ModelError::InvalidConfig("rope_type yarn needs a factor".to_owned()));
        };
        Ok(Some(Yarn {
            factor,
            beta_fast: self.beta_fast.unwrap_or(32.0),
            beta_slow: self.beta_slow.unwrap_or(1.0),
            original_context: self.original_max_position_embeddings.unwrap_or(original_context),
            truncate: self.truncate.unwrap_or(true),
            concentration: self.attention_factor.unwrap_or_else(|| concentration(factor)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: Value) -> std::result::Result<GptOssConfig, String> {
        GptOssConfig::from_json(value.to_string().as_bytes()).map_err(|error| match error {
            ConfigError::Json(error) => error.to_string(),
            ConfigError::Model(error) => error.to_string(),
        })
    }

    /// OpenAI's own `config.json` of the 20b.
    fn original() -> Value {
        json!({
            "num_hidden_layers": 24, "num_experts": 32, "experts_per_token": 4, "vocab_size": 201088,
            "hidden_size": 2880, "intermediate_size": 2880, "swiglu_limit": 7.0, "head_dim": 64,
            "num_attention_heads": 64, "num_key_value_heads": 8, "sliding_window": 128,
            "initial_context_length": 4096, "rope_theta": 150000, "rope_scaling_factor": 32.0,
            "rope_ntk_alpha": 1, "rope_ntk_beta": 32
        })
    }

    /// The fields that older transformers wrote.
    fn scaling() -> Value {
        let mut fields = original();
        for name in ["num_experts", "experts_per_token", "rope_scaling_factor", "rope_ntk_alpha", "rope_ntk_beta"] {
            fields.as_object_mut().unwrap().remove(name);
        }
        fields["num_local_experts"] = 32.into();
        fields["num_experts_per_tok"] = 4.into();
        fields["max_position_embeddings"] = 131072.into();
        fields["quantization_config"] = json!({"quant_method": "mxfp4"});
        fields["rope_scaling"] = json!({
            "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
            "original_max_position_embeddings": 4096, "truncate": false
        });
        fields
    }

    #[test]
    fn all_spellings_are_the_same_model() {
        let expected = GptOssConfig::gpt_oss_20b();
        assert_eq!(parse(original()).unwrap(), expected);
        assert_eq!(parse(scaling()).unwrap(), expected);
        assert_eq!(parse(expected.to_json()).unwrap(), expected);
        let mut newer = scaling();
        let rope = newer["rope_scaling"].take();
        newer["rope_theta"].take();
        newer["rope_parameters"] = rope;
        newer["rope_parameters"]["rope_theta"] = 150000.0.into();
        assert_eq!(parse(newer).unwrap(), expected);
        let large = GptOssConfig::gpt_oss_120b();
        assert_eq!(parse(large.to_json()).unwrap(), large);
    }

    #[test]
    fn mistakes_are_named() {
        let with = |name: &str, value: Value| {
            let mut fields = scaling();
            fields[name] = value;
            parse(fields).unwrap_err()
        };
        for (name, value, message) in [
            ("num_key_value_heads", json!(7), "num_key_value_heads = 7 does not divide num_attention_heads = 64"),
            ("num_experts_per_tok", json!(33), "num_experts_per_tok = 33 is more than num_local_experts = 32"),
            ("head_dim", json!(63), "head_dim = 63 must be even"),
            ("hidden_act", json!("gelu"), "hidden_act = \"gelu\" is not supported; supported: \"silu\""),
            ("layer_types", json!(["full_attention"]), "layer_types lists 1 layers, num_hidden_layers is 24"),
            ("layer_types", json!(["chunked_attention"]), "unknown variant `chunked_attention`"),
            ("rope_scaling", json!({"type": "linear", "factor": 2.0}), "rope_type = \"linear\" is not supported"),
            ("rope_scaling", json!({"rope_type": "yarn"}), "rope_type yarn needs a factor"),
            ("quantization_config", json!({"quant_method": "gptq"}), "quant_method = \"gptq\" is not supported"),
            ("swiglu_limit", json!(-1.0), "swiglu_limit = -1 is out of range"),
            ("num_hidden_layers", json!(1u64 << 60), "num_hidden_layers = 1152921504606846976 is outside"),
        ] {
            let error = with(name, value);
            assert!(error.contains(message), "{name}: {error}");
        }
        let mut fields = scaling();
        fields.as_object_mut().unwrap().remove("num_local_experts");
        assert!(parse(fields).unwrap_err().contains("missing field `num_local_experts`"));
    }
}
