//! gpt-oss as graph IR.

use tessera_ir::{KvCacheType, Module, Storage, TensorType, ValueId, ops};

use super::config::{AttentionKind, GptOssConfig};
use crate::error::Result;
use crate::network::{AttentionShape, CacheLayer, Network, PAGE_SIZE, Tokens};
use crate::weights::SCALE_SUFFIX;

/// How the experts' matrices are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertStorage {
    /// `[experts, outputs, inputs]`, MXFP4 along the inputs.
    Mxfp4,
    /// `[experts, inputs, outputs]`, as Hugging Face stores them unquantized.
    Float(Storage),
}

/// How the tensors of a checkpoint are stored, and in what the model computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GptOssLayout {
    /// The experts' matrices.
    pub experts: ExpertStorage,
    /// The matrices of attention, embedding and output: f32, f16 or bf16, or fp8_e4m3, fp8_e5m2 or i8. With the latter a matrix `NAME` comes
    /// with the f32 tensor `NAME_scale`, one scale for each row.
    pub matrices: Storage,
    /// Everything else: f32, f16 or bf16.
    pub dense: Storage,
    /// What enters products and attention: queries, keys, values, normed and gated rows.
    pub activations: Storage,
    /// The KV cache.
    pub cache: Storage,
}

impl GptOssLayout {
    /// The layout of the published checkpoints, with activations and cache in f32.
    pub fn of(config: &GptOssConfig) -> Self {
        let experts = if config.is_mxfp4 { ExpertStorage::Mxfp4 } else { ExpertStorage::Float(Storage::Bf16) };
        let (dense, activations) = (Storage::Bf16, Storage::F32);
        Self { experts, matrices: dense, dense, activations, cache: activations }
    }
}

/// Builds the serving step and the sampling function of a gpt-oss.
///
/// The residual stream, sums of products, router and softmax are f32. So are the normed rows that the router and the head read: what is
/// rounded there turns near ties between experts, and moves every logit. Queries and keys are rounded once, after their rotation. Parameters have Hugging Face's names; an expert's
/// MXFP4 matrix `NAME` is bound to the tensors `NAME_blocks` and `NAME_scales`. The last block attends and sends to experts the
/// wanted rows only.
pub fn build(config: &GptOssConfig, layout: &GptOssLayout) -> Result<Module> {
    config.validate()?;
    let layers = cache_layers(config);
    let cache = |(cache, kind): (usize, &AttentionKind)| KvCacheType {
        layers: layers.iter().filter(|layer| layer.cache == cache).count() as u64,
        heads: config.num_key_value_heads,
        dim: config.head_dim,
        page_size: PAGE_SIZE,
        window: window(config, *kind),
        storage: layout.cache,
    };
    let caches = kinds(config).iter().enumerate().map(cache).collect();
    let network = Network::new("gpt_oss", config.max_position_embeddings, caches);
    let mut builder = GptOssBuilder { config, layout, layers, network };
    let logits = builder.step()?;
    builder.network.finish(logits, config.vocab_size)
}

/// The kinds of attention that the layers have, each with a cache of its own.
fn kinds(config: &GptOssConfig) -> Vec<AttentionKind> {
    let kinds = [AttentionKind::Full, AttentionKind::Sliding];
    kinds.into_iter().filter(|kind| config.layer_types.contains(kind)).collect()
}

/// Where each layer keeps its keys and values.
fn cache_layers(config: &GptOssConfig) -> Vec<CacheLayer> {
    let kinds = kinds(config);
    let mut used = vec![0; kinds.len()];
    let place = |kind: &AttentionKind| {
        let cache = kinds.iter().position(|known| known == kind).unwrap_or(0);
        let layer = used[cache];
        used[cache] += 1;
        CacheLayer { cache, layer }
    };
    config.layer_types.iter().map(place).collect()
}

/// How many keys a token sees; all if none.
fn window(config: &GptOssConfig, kind: AttentionKind) -> Option<u64> {
    match kind {
        AttentionKind::Sliding => Some(config.sliding_window),
        AttentionKind::Full => None,
    }
}

/// The names of all tensors that a checkpoint of this configuration holds in this layout.
pub fn parameter_names(config: &GptOssConfig, layout: &GptOssLayout) -> Result<Vec<String>> {
    let module = build(config, layout)?;
    let specifications = crate::weights::parameter_specifications(&module)?;
    Ok(specifications.into_iter().map(|specification| specification.name).collect())
}

/// The residual stream, and the sums of products.
const RESIDUAL: Storage = Storage::F32;

struct GptOssBuilder<'a> {
    config: &'a GptOssConfig,
    layout: &'a GptOssLayout,
    layers: Vec<CacheLayer>,
    network: Network,
}

impl GptOssBuilder<'_> {
    fn step(&mut self) -> Result<ValueId> {
        let config = self.config;
        let table = self.matrix("model.embed_tokens.weight", [config.vocab_size, config.hidden_size])?;
        let tokens = self.network.tokens;
        let ty = self.network.rows_of(tokens, config.hidden_size, RESIDUAL.into());
        let mut x = self.network.op_as(ops::Embedding {}, &[table, tokens], ty)?;
        self.network.name(x, "x");
        for layer in 0..config.layer_types.len() {
            x = self.block(layer, x)?;
        }
        let normed = self.rms_norm("model.norm.weight", x, RESIDUAL)?;
        let head = match config.tie_word_embeddings {
            true => table,
            false => self.matrix("lm_head.weight", [config.vocab_size, config.hidden_size])?,
        };
        self.network.matmul(normed, head, true, RESIDUAL.into())
    }

    fn block(&mut self, layer: usize, x: ValueId) -> Result<ValueId> {
        let name = |rest: &str| format!("model.layers.{layer}.{rest}");
        let normed = self.rms_norm(&name("input_layernorm.weight"), x, self.layout.activations)?;
        let (x, attended) = self.attention(layer, x, normed)?;
        let x = self.network.op(ops::Add {}, &[x, attended])?;
        let normed = self.rms_norm(&name("post_attention_layernorm.weight"), x, RESIDUAL)?;
        let mixed = self.experts(layer, normed)?;
        let x = self.network.op(ops::Add {}, &[x, mixed])?;
        Ok(self.network.name(x, "x"))
    }

    /// The rows of the residual stream that go on, and what attention adds to them.
    fn attention(&mut self, layer: usize, x: ValueId, normed: ValueId) -> Result<(ValueId, ValueId)> {
        let GptOssConfig { num_attention_heads, num_key_value_heads, head_dim, .. } = *self.config;
        let activations = self.layout.activations;
        let mut heads = |part: &str, count: u64, rounded: Storage| -> Result<ValueId> {
            let projected = self.projection(layer, part, normed, count * head_dim, rounded)?;
            let split = self.network.split_heads(projected, count, head_dim)?;
            Ok(self.network.name(split, part))
        };
        let query = heads("q", num_attention_heads, RESIDUAL)?;
        let key = heads("k", num_key_value_heads, RESIDUAL)?;
        let value = heads("v", num_key_value_heads, activations)?;
        let (query, key) = (self.rotate(query)?, self.rotate(key)?);
        self.network.append_to_cache(self.layers[layer], key, value)?;

        let is_last = layer + 1 == self.config.layer_types.len();
        let (x, query, places): (ValueId, ValueId, Tokens) = match is_last {
            true => (self.network.at_rows(x)?, self.network.at_rows(query)?, self.network.wanted()?),
            false => (x, query, self.network.all.clone()),
        };
        let sinks = self.dense(&format!("model.layers.{layer}.self_attn.sinks"), &[num_attention_heads])?;
        let shape = AttentionShape {
            layer: self.layers[layer],
            heads: num_attention_heads,
            head_dim,
            scale: 1.0 / (head_dim as f64).sqrt(),
            window: window(self.config, self.config.layer_types[layer]),
            sinks: Some(sinks),
            online: true,
        };
        let attended = self.network.attend(&shape, query, &places)?;
        Ok((x, self.projection(layer, "o", attended, self.config.hidden_size, RESIDUAL)?))
    }

    /// Routes every normed row to its experts and adds up what they give.
    fn experts(&mut self, layer: usize, x: ValueId) -> Result<ValueId> {
        let config = self.config;
        let (hidden, inner, experts) = (config.hidden_size, config.intermediate_size, config.num_local_experts);
        let name = |rest: &str| format!("model.layers.{layer}.mlp.{rest}");
        let router = self.dense(&name("router.weight"), &[experts, hidden])?;
        let logits = self.network.matmul(x, router, true, RESIDUAL.into())?;
        let bias = self.dense(&name("router.bias"), &[experts])?;
        let logits = self.network.add_bias(logits, bias, RESIDUAL)?;
        self.network.name(logits, "router");
        let chosen = self.network.op(ops::TopK { k: config.num_experts_per_tok }, &[logits])?;
        self.network.name(chosen, "experts");
        let taken = self.network.op(ops::Take {}, &[logits, chosen])?;
        let weights = self.network.op(ops::Softmax { axis: 1 }, &[taken])?;
        self.network.name(weights, "weights");

        let x = self.network.cast(x, self.layout.activations)?;
        let gated = self.expert_product(layer, "gate_up", x, chosen, [2 * inner, hidden])?;
        let activation = ops::Swiglu {
            style: ops::SwigluStyle::Interleaved,
            alpha: config.swiglu_alpha,
            offset: 1.0,
            limit: Some(config.swiglu_limit),
        };
        let gated = self.network.halved(activation, gated, self.layout.activations)?;
        self.network.name(gated, "hidden");
        let down = self.expert_product(layer, "down", gated, chosen, [hidden, inner])?;
        self.network.op(ops::Combine {}, &[down, weights])
    }

    /// The product of rows with the matrices `[outputs, inputs]` of their experts, and the bias.
    fn expert_product(
        &mut self,
        layer: usize,
        part: &str,
        x: ValueId,
        experts: ValueId,
        [outputs, inputs]: [u64; 2],
    ) -> Result<ValueId> {
        let count = self.config.num_local_experts;
        let name = format!("model.layers.{layer}.mlp.experts.{part}_proj");
        let weight = match self.layout.experts {
            ExpertStorage::Mxfp4 => self.network.parameter(&name, &[count, outputs, inputs], Storage::Mxfp4, None)?,
            ExpertStorage::Float(storage) => {
                let weight = self.network.parameter(&name, &[count, inputs, outputs], storage, None)?;
                self.network.op(ops::Transpose { permutation: vec![0, 2, 1] }, &[weight])?
            }
        };
        let bias = self.dense(&format!("{name}_bias"), &[count, outputs])?;
        self.network.grouped_matmul(x, weight, experts, bias, RESIDUAL)
    }

    /// A matrix of a row for each output, dequantized where it carries scales.
    fn matrix(&mut self, name: &str, [rows, columns]: [u64; 2]) -> Result<ValueId> {
        let matrix = self.network.parameter(name, &[rows, columns], self.layout.matrices, None)?;
        if self.layout.matrices.bits() != 8 {
            return Ok(matrix);
        }
        let scale = self.network.parameter(&format!("{name}{SCALE_SUFFIX}"), &[rows], Storage::F32, None)?;
        let ty = TensorType::new([rows, columns], self.layout.activations);
        self.network.op_as(ops::Dequantize { axis: Some(0) }, &[matrix, scale], ty)
    }

    /// A parameter that is no matrix, or a small one.
    fn dense(&mut self, name: &str, shape: &[u64]) -> Result<ValueId> {
        self.network.parameter(name, shape, self.layout.dense, None)
    }

    fn rms_norm(&mut self, name: &str, x: ValueId, rounded: Storage) -> Result<ValueId> {
        let scale = self.dense(name, &[self.config.hidden_size])?;
        let operation = ops::RmsNorm { epsilon: self.config.rms_norm_eps };
        let normed = self.network.op_in(operation, &[x, scale], rounded)?;
        Ok(self.network.name(normed, "normed"))
    }

    /// A projection of the attention, with its bias if there are such.
    fn projection(&mut self, layer: usize, part: &str, x: ValueId, outputs: u64, rounded: Storage) -> Result<ValueId> {
        let name = format!("model.layers.{layer}.self_attn.{part}_proj");
        let heads = self.config.num_attention_heads * self.config.head_dim;
        let inputs = if part == "o" { heads } else { self.config.hidden_size };
        let weight = self.matrix(&format!("{name}.weight"), [outputs, inputs])?;
        let product = self.network.matmul(x, weight, true, RESIDUAL.into())?;
        if !self.config.attention_bias {
            return self.network.cast(product, rounded);
        }
        let bias = self.dense(&format!("{name}.bias"), &[outputs])?;
        self.network.add_bias(product, bias, rounded)
    }

    fn rotate(&mut self, x: ValueId) -> Result<ValueId> {
        let mut operation = ops::Rope { base: self.config.rope_theta, ..ops::Rope::default() };
        if let Some(yarn) = &self.config.yarn {
            operation = ops::Rope {
                factor: Some(yarn.factor),
                beta_fast: yarn.beta_fast,
                beta_slow: yarn.beta_slow,
                original_context: yarn.original_context,
                truncate: yarn.truncate,
                concentration: yarn.concentration,
                ..operation
            };
        }
        let positions = self.network.all.positions;
        self.network.op_in(operation, &[x, positions], self.layout.activations)
    }
}
