//! `GPTConfig`: every choice that makes one GPT different from another.

use serde::{Deserialize, Serialize};
use tessera_ir::{NumericPolicy, Storage};

use crate::error::{ModelError, Result};

/// Added to the mean square in every RMSNorm.
pub const RMS_NORM_EPSILON: f64 = 1e-6;
/// Base of the rotary frequencies (Su et al. 2021, "RoFormer").
pub const ROPE_BASE: f64 = 10000.0;
/// Standard deviation of initial weights.
pub const INITIALIZER_RANGE: f64 = 0.02;

/// The configuration of a GPT. Field names and defaults are those of the original Python `GPTConfig`.
///
/// ```
/// let config = tessera_models::GptConfig { n_layers: 2, n_heads: 8, n_kv_heads: 2, d_model: 256, d_ffn: 1024, ..Default::default() };
/// config.validate().unwrap();
/// assert_eq!(config.head_dim(), 32);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GptConfig {
    /// Transformer blocks.
    pub n_layers: u64,
    /// Query heads.
    pub n_heads: u64,
    /// Key and value heads; must divide `n_heads`.
    pub n_kv_heads: u64,
    /// Width of the residual stream.
    pub d_model: u64,
    /// Width of one head; absent means `d_model / n_heads`.
    pub d_head: Option<u64>,
    /// Width of the MLP.
    pub d_ffn: u64,
    /// The longest sequence, in tokens.
    pub max_seq_len: u64,
    /// Tokens in the vocabulary.
    pub vocab_size: u64,
    /// Storage and accumulation of activations, such as `bf16 @accum(fp32)`.
    #[serde(with = "policy_text")]
    pub compute_dtype: NumericPolicy,
    /// Storage and accumulation of the weights of matmuls, such as `fp8_e4m3 @accum(fp32)`. Eight-bit weights carry one f32
    /// scale for each output channel.
    #[serde(with = "policy_text")]
    pub weight_dtype: NumericPolicy,
    /// Storage of cached keys and values, such as `fp8_e5m2`.
    #[serde(with = "policy_text")]
    pub kv_cache_dtype: NumericPolicy,
    /// Softmax in one visit of the keys, rescaled as they come. If false, attention is marked `online = false`: kernels visit the
    /// keys twice, for maximum and sum and then for the values. Neither keeps scores in memory, and the result is the same.
    pub use_flash_attention: bool,
    /// Rotary positions on queries and keys; if false, a learned position table is added to the token embedding.
    pub use_rotary_embeddings: bool,
    /// Attention and MLP side by side on one residual and one norm, x + attention(norm x) + mlp(norm x); if false, one after
    /// the other, each with its own norm and residual.
    pub use_parallel_attention: bool,
    /// SwiGLU: down(silu(gate x) · up x); if false, down(gelu(up x)).
    pub use_gated_mlp: bool,
    /// Whether training recomputes activations instead of keeping them. No effect on inference.
    pub gradient_checkpointing: bool,
    /// Devices of the tensor-parallel mesh axis.
    pub tp_size: u64,
    /// Devices of the pipeline-parallel mesh axis.
    pub pp_size: u64,
    /// Devices of the data-parallel mesh axis.
    pub dp_size: u64,
    /// Devices of the expert-parallel mesh axis; a GPT has no experts, so it must be 1.
    pub ep_size: u64,
}

impl Default for GptConfig {
    fn default() -> Self {
        Self {
            n_layers: 96,
            n_heads: 96,
            n_kv_heads: 8,
            d_model: 12288,
            d_head: None,
            d_ffn: 49152,
            max_seq_len: 8192,
            vocab_size: 50257,
            compute_dtype: NumericPolicy::from(Storage::Bf16).accumulating_in(Storage::F32),
            weight_dtype: NumericPolicy::from(Storage::Fp8E4m3).accumulating_in(Storage::F32),
            kv_cache_dtype: NumericPolicy::from(Storage::Fp8E5m2),
            use_flash_attention: true,
            use_rotary_embeddings: true,
            use_parallel_attention: true,
            use_gated_mlp: true,
            gradient_checkpointing: true,
            tp_size: 9,
            pp_size: 2,
            dp_size: 4,
            ep_size: 1,
        }
    }
}

/// No extent of a model comes near this; anything above is a damaged file, and products of three stay inside 64 bits.
const MAX_EXTENT: u64 = 1 << 21;

impl GptConfig {
    /// Width of one head.
    pub fn head_dim(&self) -> u64 {
        self.d_head.unwrap_or(self.d_model / self.n_heads.max(1))
    }

    /// Whether weights of matmuls carry scales.
    pub fn has_scaled_weights(&self) -> bool {
        matches!(self.weight_dtype.storage, Storage::Fp8E4m3 | Storage::Fp8E5m2)
    }

    /// Checks that the configuration is consistent and supported.
    pub fn validate(&self) -> Result<()> {
        let invalid = |message: String| Err(ModelError::InvalidConfig(message));
        for (name, extent) in [
            ("n_layers", self.n_layers),
            ("n_heads", self.n_heads),
            ("n_kv_heads", self.n_kv_heads),
            ("d_model", self.d_model),
            ("d_ffn", self.d_ffn),
            ("max_seq_len", self.max_seq_len),
            ("vocab_size", self.vocab_size),
            ("tp_size", self.tp_size),
            ("pp_size", self.pp_size),
            ("dp_size", self.dp_size),
            ("ep_size", self.ep_size),
        ] {
            if !(1..=MAX_EXTENT).contains(&extent) {
                return invalid(format!("{name} = {extent} is outside 1..={MAX_EXTENT}"));
            }
        }
        match self.d_head {
            Some(0) => return invalid("d_head = 0 is outside 1..".to_owned()),
            Some(d_head) if d_head > MAX_EXTENT => {
                return invalid(format!("d_head = {d_head} is outside 1..={MAX_EXTENT}"));
            }
            None if !self.d_model.is_multiple_of(self.n_heads) => {
                return invalid(format!(
                    "n_heads = {} does not divide d_model = {}; give d_head",
                    self.n_heads, self.d_model
                ));
            }
            _ => {}
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return invalid(format!("n_kv_heads = {} does not divide n_heads = {}", self.n_kv_heads, self.n_heads));
        }
        if self.use_rotary_embeddings && !self.head_dim().is_multiple_of(2) {
            return invalid(format!("rotary embeddings need an even head dimension, not {}", self.head_dim()));
        }
        if self.ep_size != 1 {
            return invalid(format!("ep_size = {} needs experts, and a GPT has none; set it to 1", self.ep_size));
        }
        if self.pp_size > self.n_layers {
            return invalid(format!(
                "pp_size = {} leaves stages without any of {} layers",
                self.pp_size, self.n_layers
            ));
        }
        let halves_and_single = [Storage::F32, Storage::F16, Storage::Bf16];
        let bytes = [Storage::Fp8E4m3, Storage::Fp8E5m2];
        check_policy("compute_dtype", &self.compute_dtype, &halves_and_single)?;
        check_policy("weight_dtype", &self.weight_dtype, &[&halves_and_single[..], &bytes].concat())?;
        check_policy("kv_cache_dtype", &self.kv_cache_dtype, &[&halves_and_single[..], &bytes].concat())?;
        Ok(())
    }
}

fn check_policy(field: &str, policy: &NumericPolicy, supported: &[Storage]) -> Result<()> {
    if !supported.contains(&policy.storage) {
        let names: Vec<&str> = supported.iter().map(|storage| storage.name()).collect();
        return Err(ModelError::Unsupported {
            field: field.to_owned(),
            value: policy.to_string(),
            supported: names.join(", "),
        });
    }
    match policy.objection() {
        Some(objection) => Err(ModelError::InvalidConfig(format!("{field}: {objection}"))),
        None => Ok(()),
    }
}

/// Numeric policies as text, `fp8_e4m3 @accum(fp32)`.
mod policy_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use tessera_ir::{NumericPolicy, Storage};

    pub fn serialize<S: Serializer>(policy: &NumericPolicy, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(policy)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NumericPolicy, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| {
            D::Error::custom(format!(
                "`{text}` is not a numeric policy; write a storage and, if wanted, its accumulator, as in `fp8_e4m3 @accum(fp32)`"
            ))
        })
    }

    fn parse(text: &str) -> Option<NumericPolicy> {
        let (storage, accumulator) = match text.split_once('@') {
            None => (text, None),
            Some((storage, rest)) => {
                let accumulator = rest.trim().strip_prefix("accum(")?.strip_suffix(')')?;
                (storage, Some(accumulator.trim().parse::<Storage>().ok()?))
            }
        };
        Some(NumericPolicy { storage: storage.trim().parse().ok()?, accumulator })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> std::result::Result<GptConfig, String> {
        let config: GptConfig = serde_json::from_str(text).map_err(|error| error.to_string())?;
        config.validate().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn the_default_is_the_published_gpt() {
        let config = parse("{}").unwrap();
        assert_eq!(config, GptConfig::default());
        assert_eq!(config.head_dim(), 128);
        assert_eq!(config.weight_dtype.to_string(), "fp8_e4m3 @accum(f32)");
    }

    #[test]
    fn policies_are_read_as_text() {
        let config =
            parse(r#"{"compute_dtype": "fp16 @accum(fp32)", "weight_dtype": "bf16", "kv_cache_dtype": "fp32"}"#);
        let config = config.unwrap();
        assert_eq!(config.compute_dtype, NumericPolicy::from(Storage::F16).accumulating_in(Storage::F32));
        assert_eq!(config.weight_dtype, Storage::Bf16.into());
        let again: GptConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn contradictions_are_explained() {
        for (text, message) in [
            (r#"{"n_kv_heads": 7}"#, "n_kv_heads = 7 does not divide n_heads = 96"),
            (r#"{"n_heads": 7, "n_kv_heads": 7}"#, "n_heads = 7 does not divide d_model = 12288; give d_head"),
            (r#"{"d_head": 33}"#, "rotary embeddings need an even head dimension, not 33"),
            (r#"{"ep_size": 2}"#, "ep_size = 2 needs experts"),
            (r#"{"pp_size": 97}"#, "pp_size = 97 leaves stages without"),
            (r#"{"tp_size": 0}"#, "tp_size = 0 is outside"),
            (
                r#"{"compute_dtype": "fp8_e4m3"}"#,
                "compute_dtype = fp8_e4m3 is not supported; supported: f32, f16, bf16",
            ),
            (r#"{"weight_dtype": "mxfp4"}"#, "weight_dtype = mxfp4 is not supported"),
            (r#"{"weight_dtype": "fp8_e4m3 @accum(bf16)"}"#, "found @accum(bf16)"),
            (r#"{"weight_dtype": "fp9"}"#, "`fp9` is not a numeric policy"),
            (r#"{"n_layer": 3}"#, "unknown field `n_layer`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
