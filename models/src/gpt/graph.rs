//! The GPT of [`GptConfig`] as graph IR.

use tessera_ir::{KvCacheType, Mesh, MeshAxis, Module, Name, Sharding, Storage, TensorType, ValueId, ops};

use super::config::{GptConfig, RMS_NORM_EPSILON, ROPE_BASE};
use crate::error::Result;
use crate::network::{AttentionShape, Network, PAGE_SIZE, Tokens};

/// Names of the mesh axes, in the order of [`GptConfig`]'s sizes.
const MESH_AXES: [&str; 4] = ["tp", "pp", "dp", "ep"];

/// Builds the serving step and the sampling function of a GPT.
///
/// Activations, embedding tables and norm scales have the compute policy's storage; weights of matmuls the weight policy's,
/// `[outputs, inputs]`. Eight-bit weights `NAME` come with f32 scales `NAME_scale`, one for each output channel, through
/// `dequantize`. Logits are f32. The last block attends and computes its MLP for the wanted rows only.
pub fn build(config: &GptConfig) -> Result<Module> {
    config.validate()?;
    let mut builder = GptBuilder {
        config,
        network: Network::new(
            "gpt",
            config.max_seq_len,
            vec![KvCacheType {
                layers: config.n_layers,
                heads: config.n_kv_heads,
                dim: config.head_dim(),
                page_size: PAGE_SIZE,
                window: None,
                storage: config.kv_cache_dtype.storage,
            }],
        ),
    };
    let sizes = [config.tp_size, config.pp_size, config.dp_size, config.ep_size];
    if sizes.iter().any(|&size| size > 1) {
        let axes = MESH_AXES.iter().zip(sizes).map(|(name, size)| MeshAxis { name: Name::from(*name), size });
        builder.network.module_mut().mesh = Mesh { axes: axes.collect() };
    }
    let logits = builder.step()?;
    builder.network.finish(logits, config.vocab_size)
}

/// Which dimension of a weight `[outputs, inputs]` is split over the tensor-parallel axis.
#[derive(Clone, Copy)]
enum Split {
    /// Column-parallel: every device computes some of the outputs.
    Outputs,
    /// Row-parallel: every device adds up some of the inputs, and the sums are partial.
    Inputs,
}

struct GptBuilder<'a> {
    config: &'a GptConfig,
    network: Network,
}

/// Queries, keys and values are ready, and this is where they belong.
struct Projected {
    query: ValueId,
    /// The input of the MLP in a parallel block: the norm at the places of the queries.
    normed: ValueId,
    residual: ValueId,
    places: Tokens,
}

impl GptBuilder<'_> {
    fn step(&mut self) -> Result<ValueId> {
        let config = self.config;
        let table = self.table("model.embed_tokens.weight", config.vocab_size)?;
        let tokens = self.network.tokens;
        let mut x = self.embedding(table, tokens)?;
        if !config.use_rotary_embeddings {
            let table = self.table("model.embed_positions.weight", config.max_seq_len)?;
            let positions = self.network.all.positions;
            let position = self.embedding(table, positions)?;
            x = self.add(x, position)?;
        }
        self.network.name(x, "x");
        for layer in 0..config.n_layers {
            x = self.block(layer, x)?;
        }
        let normed = self.rms_norm("model.norm.weight", x)?;
        let head = self.weight("lm_head.weight", config.vocab_size, config.d_model, Split::Outputs)?;
        let accumulated = self.config.weight_dtype.accumulator.unwrap_or(Storage::F32);
        self.network.matmul(
            normed,
            head,
            true,
            tessera_ir::NumericPolicy::from(Storage::F32).accumulating_in(accumulated),
        )
    }

    fn block(&mut self, layer: u64, x: ValueId) -> Result<ValueId> {
        let config = self.config;
        let name = |rest: &str| format!("model.layers.{layer}.{rest}");
        let Projected { query, normed, residual, places } = self.project(layer, x)?;

        let shape = AttentionShape {
            layer: layer.into(),
            heads: config.n_heads,
            head_dim: config.head_dim(),
            scale: 1.0 / (config.head_dim() as f64).sqrt(),
            window: None,
            sinks: None,
            online: config.use_flash_attention,
        };
        let attended = self.network.attend(&shape, query, &places)?;
        let width = config.n_heads * config.head_dim();
        let attention =
            self.linear(&name("self_attn.o_proj.weight"), attended, config.d_model, width, Split::Inputs)?;
        let x = self.add(residual, attention)?;

        let mlp_input = if config.use_parallel_attention {
            normed
        } else {
            self.rms_norm(&name("post_attention_layernorm.weight"), x)?
        };
        let mlp = self.mlp(layer, mlp_input)?;
        let x = self.add(x, mlp)?;
        Ok(self.network.name(x, "x"))
    }

    /// Norm, projections and rotation; appends keys and values to the cache.
    fn project(&mut self, layer: u64, x: ValueId) -> Result<Projected> {
        let config = self.config;
        let normed = self.rms_norm(&format!("model.layers.{layer}.input_layernorm.weight"), x)?;
        let heads = |builder: &mut Self, part: &str, count: u64| -> Result<ValueId> {
            let name = format!("model.layers.{layer}.self_attn.{part}_proj.weight");
            let width = count * config.head_dim();
            let projected = builder.linear(&name, normed, width, config.d_model, Split::Outputs)?;
            let split = builder.network.split_heads(projected, count, config.head_dim())?;
            Ok(builder.network.name(split, part))
        };
        let mut query = heads(self, "q", config.n_heads)?;
        let mut key = heads(self, "k", config.n_kv_heads)?;
        let value = heads(self, "v", config.n_kv_heads)?;
        if config.use_rotary_embeddings {
            query = self.rotate(query)?;
            key = self.rotate(key)?;
        }
        self.network.append_to_cache(layer.into(), key, value)?;
        if layer + 1 < config.n_layers {
            return Ok(Projected { query, normed, residual: x, places: self.network.all.clone() });
        }
        let network = &mut self.network;
        Ok(Projected {
            query: network.at_rows(query)?,
            normed: network.at_rows(normed)?,
            residual: network.at_rows(x)?,
            places: network.wanted()?,
        })
    }

    fn mlp(&mut self, layer: u64, x: ValueId) -> Result<ValueId> {
        let config = self.config;
        let name = |part: &str| format!("model.layers.{layer}.mlp.{part}_proj.weight");
        let up = self.linear(&name("up"), x, config.d_ffn, config.d_model, Split::Outputs)?;
        let hidden = if config.use_gated_mlp {
            let gate = self.linear(&name("gate"), x, config.d_ffn, config.d_model, Split::Outputs)?;
            let gate = self.network.op(ops::Silu {}, &[gate])?;
            self.network.op(ops::Mul {}, &[gate, up])?
        } else {
            self.network.op(ops::Gelu { approximate: ops::Approximation::Tanh }, &[up])?
        };
        self.network.name(hidden, "hidden");
        self.linear(&name("down"), hidden, config.d_model, config.d_ffn, Split::Inputs)
    }

    fn rotate(&mut self, x: ValueId) -> Result<ValueId> {
        let positions = self.network.all.positions;
        self.network.op(
            ops::Rope { base: ROPE_BASE, style: ops::RopeStyle::SplitHalf, ..ops::Rope::default() },
            &[x, positions],
        )
    }

    fn rms_norm(&mut self, name: &str, x: ValueId) -> Result<ValueId> {
        let scale = self.network.parameter(name, &[self.config.d_model], self.config.compute_dtype.storage, None)?;
        let normed = self.network.op(ops::RmsNorm { epsilon: RMS_NORM_EPSILON }, &[x, scale])?;
        Ok(self.network.name(normed, "normed"))
    }

    fn add(&mut self, left: ValueId, right: ValueId) -> Result<ValueId> {
        self.network.op(ops::Add {}, &[left, right])
    }

    /// An embedding table `[rows, d_model]`, its rows split over the tensor-parallel axis.
    fn table(&mut self, name: &str, rows: u64) -> Result<ValueId> {
        let sharding = self.sharding(&[true, false]);
        self.network.parameter(name, &[rows, self.config.d_model], self.config.compute_dtype.storage, sharding)
    }

    fn embedding(&mut self, table: ValueId, ids: ValueId) -> Result<ValueId> {
        let ty = self.network.rows_of(ids, self.config.d_model, self.config.compute_dtype.storage.into());
        self.network.op_as(ops::Embedding {}, &[table, ids], ty)
    }

    /// `x` times a weight, in the compute policy.
    fn linear(&mut self, name: &str, x: ValueId, outputs: u64, inputs: u64, split: Split) -> Result<ValueId> {
        let weight = self.weight(name, outputs, inputs, split)?;
        self.network.matmul(x, weight, true, self.config.compute_dtype)
    }

    /// A weight `[outputs, inputs]` as matmuls take it: dequantized where it carries scales.
    fn weight(&mut self, name: &str, outputs: u64, inputs: u64, split: Split) -> Result<ValueId> {
        let by_outputs = matches!(split, Split::Outputs);
        let sharding = self.sharding(&[by_outputs, !by_outputs]);
        let weight = self.network.parameter(name, &[outputs, inputs], self.config.weight_dtype, sharding)?;
        if !self.config.has_scaled_weights() {
            return Ok(weight);
        }
        let sharding = self.sharding(&[by_outputs]);
        let scale = self.network.parameter(&format!("{name}_scale"), &[outputs], Storage::F32, sharding)?;
        let ty = TensorType::new([outputs, inputs], self.config.compute_dtype.storage);
        self.network.op_as(ops::Dequantize { axis: Some(0) }, &[weight, scale], ty)
    }

    /// The dimensions that are split over the tensor-parallel axis; none where there is one device.
    fn sharding(&self, split: &[bool]) -> Option<Sharding> {
        if self.config.tp_size == 1 {
            return None;
        }
        let axis = |split: &bool| if *split { vec![Name::from(MESH_AXES[0])] } else { Vec::new() };
        Some(Sharding { dimensions: split.iter().map(axis).collect(), partial: Vec::new() })
    }
}
