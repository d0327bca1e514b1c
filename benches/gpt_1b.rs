//! Decode and prefill of a GPT of Llama-3.2-1B's shape with random weights in bf16 on the host: 16 layers of 2048, a gated MLP of
//! 8192, 32 heads of 64 that share 8 of keys and values, RMSNorm, RoPE, and a vocabulary of 128256.
//!
//! The variables are those of [`tessera_benches::language_model`], for the model `GPT_1B`. llama.cpp takes a file of `peers/gpt_1b_gguf.py`.
//! A GPT's head is a matrix of its own, where Llama-3.2-1B takes the token table: a step reads as many bytes, and the file is 0.5 GB
//! longer (3 GB).

use tessera_benches::language_model::Subject;
use tessera_ir::{NumericPolicy, Storage};
use tessera_models::folder::ModelConfig;
use tessera_models::gpt::GptConfig;
use tessera_models::model::Precision;

fn main() {
    let policy = NumericPolicy::from(Storage::Bf16).accumulating_in(Storage::F32);
    let config = GptConfig {
        n_layers: 16,
        n_heads: 32,
        n_kv_heads: 8,
        d_model: 2048,
        d_head: None,
        d_ffn: 8192,
        max_seq_len: 2048,
        vocab_size: 128_256,
        compute_dtype: policy,
        weight_dtype: policy,
        kv_cache_dtype: Storage::Bf16.into(),
        use_parallel_attention: false,
        tp_size: 1,
        pp_size: 1,
        dp_size: 1,
        ..GptConfig::default()
    };
    // Keys and values of a token.
    let row = (2 * config.n_layers * config.n_kv_heads * config.head_dim()) as usize * 2;
    let subject = Subject {
        name: "GPT_1B".to_owned(),
        config: ModelConfig::Gpt(Box::new(config)),
        matrices: Storage::Bf16,
        precision: Precision::default(),
        contexts: [128, 1024],
        tables: &["model.embed_tokens.weight"],
        python: Some(["gpt_1b", "bfloat16"]),
    };
    subject.measure(|weights, context| weights + row * (context + 1));
}
