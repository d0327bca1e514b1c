//! GPT-2 as graph IR.

use tessera_ir::{KvCacheType, Module, Storage, ValueId, ops};

use super::{Activation, Gpt2Config};
use crate::error::Result;
use crate::network::{AttentionShape, Network, PAGE_SIZE};

/// How the tensors of one GPT-2 checkpoint are named and stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpt2Layout {
    /// What stands before `wte.weight`: `transformer.`, or nothing.
    pub prefix: String,
    /// Storage of matrices and embedding tables: f32, f16 or bf16.
    pub matrices: Storage,
    /// Storage of biases and of layer norm scales: f32, f16 or bf16.
    pub vectors: Storage,
}

impl Default for Gpt2Layout {
    fn default() -> Self {
        Self { prefix: "transformer.".to_owned(), matrices: Storage::F32, vectors: Storage::F32 }
    }
}

/// Builds the serving step and the sampling function of a GPT-2.
///
/// The residual stream is f32. Operands of matmuls, queries, keys, values and the KV cache have the storage of the matrices, so
/// that bf16 weights meet bf16 activations; matmuls accumulate in f32. The last block attends and computes its MLP for the
/// wanted rows only.
pub fn build(config: &Gpt2Config, layout: &Gpt2Layout) -> Result<Module> {
    config.validate()?;
    let mut builder = Gpt2Builder {
        config,
        layout,
        activation: config.activation()?,
        operand: layout.matrices,
        network: Network::new(
            "gpt2",
            config.n_positions,
            vec![KvCacheType {
                layers: config.n_layer,
                heads: config.n_head,
                dim: config.head_dim(),
                page_size: PAGE_SIZE,
                window: None,
                storage: layout.matrices,
            }],
        ),
    };
    let logits = builder.step()?;
    builder.network.finish(logits, config.vocab_size)
}

/// The residual stream, and the sums of products.
const RESIDUAL: Storage = Storage::F32;

struct Gpt2Builder<'a> {
    config: &'a Gpt2Config,
    layout: &'a Gpt2Layout,
    activation: Activation,
    /// What enters matmuls and attention.
    operand: Storage,
    network: Network,
}

impl Gpt2Builder<'_> {
    fn step(&mut self) -> Result<ValueId> {
        let Gpt2Config { vocab_size, n_positions, n_embd, n_layer, .. } = *self.config;
        let token_table = self.matrix("wte.weight", &[vocab_size, n_embd])?;
        let position_table = self.matrix("wpe.weight", &[n_positions, n_embd])?;
        let (tokens, positions) = (self.network.tokens, self.network.all.positions);
        let token = self.embedding(token_table, tokens)?;
        let position = self.embedding(position_table, positions)?;
        let mut x = self.network.op(ops::Add {}, &[token, position])?;
        self.network.name(x, "x");
        for layer in 0..n_layer {
            x = self.block(layer, x)?;
        }
        let normed = self.layer_norm("ln_f", x)?;
        let head = if self.config.tie_word_embeddings {
            token_table
        } else {
            self.network.parameter("lm_head.weight", &[vocab_size, n_embd], self.layout.matrices, None)?
        };
        self.network.matmul(normed, head, true, RESIDUAL.into())
    }

    fn block(&mut self, layer: u64, x: ValueId) -> Result<ValueId> {
        let n_embd = self.config.n_embd;
        let inner = self.config.inner();
        let (heads, head_dim) = (self.config.n_head, self.config.head_dim());
        let name = |rest: &str| format!("h.{layer}.{rest}");

        let normed = self.layer_norm(&name("ln_1"), x)?;
        let qkv = self.linear(&name("attn.c_attn"), normed, n_embd, 3 * n_embd, self.operand)?;
        self.network.name(qkv, "qkv");
        let mut heads_of = |part: u64, label: &str| -> Result<ValueId> {
            let columns = self.network.columns(qkv, part * n_embd, n_embd)?;
            let split = self.network.split_heads(columns, heads, head_dim)?;
            Ok(self.network.name(split, label))
        };
        let (query, key, value) = (heads_of(0, "q")?, heads_of(1, "k")?, heads_of(2, "v")?);
        self.network.append_to_cache(layer.into(), key, value)?;

        let last = layer + 1 == self.config.n_layer;
        let (x, query, places) = if last {
            (self.network.at_rows(x)?, self.network.at_rows(query)?, self.network.wanted()?)
        } else {
            (x, query, self.network.all.clone())
        };
        let shape = AttentionShape {
            layer: layer.into(),
            heads,
            head_dim,
            scale: self.config.attention_scale(layer),
            window: None,
            sinks: None,
            online: true,
        };
        let attended = self.network.attend(&shape, query, &places)?;
        let projected = self.linear(&name("attn.c_proj"), attended, n_embd, n_embd, RESIDUAL)?;
        let x = self.network.op(ops::Add {}, &[x, projected])?;

        let normed = self.layer_norm(&name("ln_2"), x)?;
        let hidden = self.linear(&name("mlp.c_fc"), normed, n_embd, inner, RESIDUAL)?;
        let hidden = self.activate(hidden)?;
        self.network.name(hidden, "hidden");
        let output = self.linear(&name("mlp.c_proj"), hidden, inner, n_embd, RESIDUAL)?;
        let x = self.network.op(ops::Add {}, &[x, output])?;
        Ok(self.network.name(x, "x"))
    }

    /// A parameter that is multiplied or looked up in.
    fn matrix(&mut self, name: &str, shape: &[u64]) -> Result<ValueId> {
        let name = format!("{}{name}", self.layout.prefix);
        self.network.parameter(&name, shape, self.layout.matrices, None)
    }

    /// A parameter of one number a channel.
    fn vector(&mut self, name: &str, extent: u64) -> Result<ValueId> {
        let name = format!("{}{name}", self.layout.prefix);
        self.network.parameter(&name, &[extent], self.layout.vectors, None)
    }

    fn embedding(&mut self, table: ValueId, ids: ValueId) -> Result<ValueId> {
        let ty = self.network.rows_of(ids, self.config.n_embd, RESIDUAL.into());
        self.network.op_as(ops::Embedding {}, &[table, ids], ty)
    }

    fn layer_norm(&mut self, name: &str, x: ValueId) -> Result<ValueId> {
        let scale = self.vector(&format!("{name}.weight"), self.config.n_embd)?;
        let bias = self.vector(&format!("{name}.bias"), self.config.n_embd)?;
        let operation = ops::LayerNorm { epsilon: self.config.layer_norm_epsilon };
        let normed = self.network.op_in(operation, &[x, scale, bias], self.operand)?;
        Ok(self.network.name(normed, "normed"))
    }

    /// A matmul and its bias; the weight is `[inputs, outputs]`, as Hugging Face's `Conv1D` stores it.
    fn linear(&mut self, name: &str, x: ValueId, inputs: u64, outputs: u64, rounded: Storage) -> Result<ValueId> {
        let weight = self.matrix(&format!("{name}.weight"), &[inputs, outputs])?;
        let bias = self.vector(&format!("{name}.bias"), outputs)?;
        let product = self.network.matmul(x, weight, false, RESIDUAL.into())?;
        self.network.add_bias(product, bias, rounded)
    }

    fn activate(&mut self, x: ValueId) -> Result<ValueId> {
        let storage = self.operand;
        let network = &mut self.network;
        match self.activation {
            Activation::Gelu => network.op_rounded(ops::Gelu { approximate: ops::Approximation::None }, &[x], storage),
            Activation::GeluTanh => {
                network.op_rounded(ops::Gelu { approximate: ops::Approximation::Tanh }, &[x], storage)
            }
            Activation::Relu => network.op_rounded(ops::Relu {}, &[x], storage),
            Activation::Silu => network.op_rounded(ops::Silu {}, &[x], storage),
            Activation::Tanh => network.op_rounded(ops::Tanh {}, &[x], storage),
            Activation::Sigmoid => network.op_rounded(ops::Sigmoid {}, &[x], storage),
            Activation::QuickGelu => {
                let steepness = network.filled(1.702, x)?;
                let scaled = network.op(ops::Mul {}, &[x, steepness])?;
                let gate = network.op(ops::Sigmoid {}, &[scaled])?;
                network.op_rounded(ops::Mul {}, &[x, gate], storage)
            }
        }
    }
}
