//! The `config.json` of GPT-2.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{ModelError, Result};

/// The `config.json` of a GPT-2 model, with the defaults of Hugging Face's `GPT2Config`.
///
/// Fields that change what the model computes are all here; dropout rates, summary heads and initialisation do not matter
/// to inference and are not read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpt2Config {
    /// Tokens in the vocabulary.
    pub vocab_size: u64,
    /// The longest sequence: rows of the learned position table.
    #[serde(alias = "max_position_embeddings")]
    pub n_positions: u64,
    /// Width of the residual stream.
    #[serde(alias = "hidden_size")]
    pub n_embd: u64,
    /// Transformer blocks.
    #[serde(alias = "num_hidden_layers")]
    pub n_layer: u64,
    /// Attention heads; must divide `n_embd`.
    #[serde(alias = "num_attention_heads")]
    pub n_head: u64,
    /// Width of the MLP; null means four times `n_embd`.
    pub n_inner: Option<u64>,
    /// The MLP's activation, by Hugging Face's name.
    pub activation_function: String,
    /// Added to the variance in every layer norm.
    pub layer_norm_epsilon: f64,
    /// Whether attention scores are divided by the square root of the head dimension.
    pub scale_attn_weights: bool,
    /// Whether attention scores of block i are also divided by i + 1.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// Whether scores are computed in f32 under half precision. They always are here, so both values are honoured.
    pub reorder_and_upcast_attn: bool,
    /// Whether the output projection is the token embedding; if not, there is an `lm_head.weight`.
    pub tie_word_embeddings: bool,
    /// Cross-attention to an encoder; not supported.
    pub add_cross_attention: bool,
    /// Heads removed from blocks; not supported unless empty.
    pub pruned_heads: Option<Value>,
    /// Quantized weights; not supported.
    pub quantization_config: Option<Value>,
}

impl Default for Gpt2Config {
    fn default() -> Self {
        Self {
            vocab_size: 50257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: "gelu_new".to_owned(),
            layer_norm_epsilon: 1e-5,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            reorder_and_upcast_attn: false,
            tie_word_embeddings: true,
            add_cross_attention: false,
            pruned_heads: None,
            quantization_config: None,
        }
    }
}

/// An MLP activation that the graph can express.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x Φ(x), by the error function.
    Gelu,
    /// x Φ(x), by tanh.
    GeluTanh,
    /// x σ(1.702 x).
    QuickGelu,
    /// max(x, 0).
    Relu,
    /// x σ(x).
    Silu,
    /// tanh x.
    Tanh,
    /// σ(x).
    Sigmoid,
}

/// Hugging Face's activation names, and what they mean.
const ACTIVATIONS: [(&str, Activation); 12] = [
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_python_tanh", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("quick_gelu", Activation::QuickGelu),
    ("relu", Activation::Relu),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("tanh", Activation::Tanh),
    ("sigmoid", Activation::Sigmoid),
];

impl Gpt2Config {
    /// GPT-2 124M, the smallest published size.
    pub fn small() -> Self {
        Self::default()
    }

    /// Checks that the configuration is consistent and supported.
    pub fn validate(&self) -> Result<()> {
        for (name, extent) in [
            ("vocab_size", self.vocab_size),
            ("n_positions", self.n_positions),
            ("n_embd", self.n_embd),
            ("n_layer", self.n_layer),
            ("n_head", self.n_head),
            ("n_inner", self.inner()),
        ] {
            if !(1..=MAX_EXTENT).contains(&extent) {
                return Err(ModelError::InvalidConfig(format!("{name} = {extent} is outside 1..={MAX_EXTENT}")));
            }
        }
        if !self.n_embd.is_multiple_of(self.n_head) {
            return Err(ModelError::InvalidConfig(format!(
                "n_head = {} does not divide n_embd = {}",
                self.n_head, self.n_embd
            )));
        }
        if !(self.layer_norm_epsilon.is_finite() && self.layer_norm_epsilon >= 0.0) {
            return Err(ModelError::InvalidConfig(format!(
                "layer_norm_epsilon = {} must be finite and not negative",
                self.layer_norm_epsilon
            )));
        }
        self.activation()?;
        if self.add_cross_attention {
            return Err(unsupported("add_cross_attention", &Value::Bool(true), "false: there is no encoder"));
        }
        if let Some(pruned) = &self.pruned_heads
            && !is_empty(pruned)
        {
            return Err(unsupported("pruned_heads", pruned, "an empty value: every block has n_head heads"));
        }
        if let Some(quantization) = &self.quantization_config
            && !is_empty(quantization)
        {
            return Err(unsupported(
                "quantization_config",
                quantization,
                "none, for GPT-2: weights in f32, f16 or bf16",
            ));
        }
        Ok(())
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> u64 {
        self.n_embd / self.n_head.max(1)
    }

    /// Width of the MLP.
    pub fn inner(&self) -> u64 {
        self.n_inner.unwrap_or(self.n_embd.saturating_mul(4))
    }

    /// The MLP's activation.
    pub fn activation(&self) -> Result<Activation> {
        ACTIVATIONS
            .iter()
            .find(|(name, _)| *name == self.activation_function)
            .map(|(_, activation)| *activation)
            .ok_or_else(|| {
                let names: Vec<&str> = ACTIVATIONS.iter().map(|(name, _)| *name).collect();
                unsupported("activation_function", &Value::String(self.activation_function.clone()), &names.join(", "))
            })
    }

    /// What attention scores of block `layer` are multiplied by.
    pub fn attention_scale(&self, layer: u64) -> f64 {
        let mut scale = 1.0;
        if self.scale_attn_weights {
            scale /= (self.head_dim() as f64).sqrt();
        }
        if self.scale_attn_by_inverse_layer_idx {
            scale /= (layer + 1) as f64;
        }
        scale
    }
}

/// No extent of a model comes near this; anything above is a damaged file, and products of three stay inside 64 bits.
const MAX_EXTENT: u64 = 1 << 21;

fn unsupported(field: &str, value: &Value, supported: &str) -> ModelError {
    ModelError::Unsupported { field: field.to_owned(), value: value.to_string(), supported: supported.to_owned() }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Gpt2Config> {
        let config: Gpt2Config = serde_json::from_str(text).unwrap();
        config.validate().map(|()| config)
    }

    #[test]
    fn an_empty_config_is_gpt2_small() {
        let config = parse("{}").unwrap();
        assert_eq!(config, Gpt2Config::small());
        assert_eq!((config.head_dim(), config.inner()), (64, 3072));
        assert_eq!(config.attention_scale(3), 0.125);
    }

    #[test]
    fn attention_scale_follows_both_flags() {
        let config = parse(r#"{"scale_attn_weights": false, "scale_attn_by_inverse_layer_idx": true}"#).unwrap();
        assert_eq!(config.attention_scale(3), 0.25);
    }

    #[test]
    fn what_is_not_supported_is_an_error_that_says_what_is() {
        for (text, message) in [
            (
                r#"{"activation_function": "gelu_10"}"#,
                "activation_function = \"gelu_10\" is not supported; supported: gelu_new",
            ),
            (r#"{"add_cross_attention": true}"#, "add_cross_attention = true is not supported"),
            (r#"{"pruned_heads": {"1": [0]}}"#, "pruned_heads = {\"1\":[0]} is not supported"),
            (r#"{"quantization_config": {"quant_method": "gptq"}}"#, "quantization_config = "),
            (r#"{"n_head": 7}"#, "n_head = 7 does not divide n_embd = 768"),
            (r#"{"n_layer": 0}"#, "n_layer = 0 is outside"),
            (r#"{"n_embd": 18446744073709551615}"#, "n_embd = 18446744073709551615 is outside"),
            (r#"{"layer_norm_epsilon": -1.0}"#, "layer_norm_epsilon = -1"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
