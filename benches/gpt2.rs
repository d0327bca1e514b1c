//! Decode and prefill of GPT-2 124M with random weights on the host, in f32 and in bf16.
//!
//! The variables are those of [`tessera_benches::language_model`], for the models `GPT2_F32` and `GPT2_BF16`. llama.cpp takes files of
//! `peers/gpt2_gguf.py`. `TESSERA_GPT2_STORAGES` leaves one of the two storages: `f32,bf16` if it says nothing.

use tessera_benches::language_model::{Subject, variable};
use tessera_ir::Storage;
use tessera_models::folder::ModelConfig;
use tessera_models::gpt2::Gpt2Config;
use tessera_models::model::Precision;

fn main() {
    let storages = variable("GPT2", "STORAGES").unwrap_or_else(|| "f32,bf16".to_owned());
    for storage in storages.split(',') {
        let storage: Storage = storage.parse().expect("a storage");
        let config = Gpt2Config::small();
        // Keys and values of a token have the storage of the weights.
        let row = (2 * config.n_layer * config.n_embd) as usize * storage.bits() as usize / 8;
        let subject = Subject {
            name: format!("GPT2_{}", storage.name().to_uppercase()),
            // The most that fits, with the tokens that the peers decode.
            contexts: [128, config.n_positions as usize - 64],
            config: ModelConfig::Gpt2(config),
            matrices: storage,
            precision: Precision::default(),
            tables: &["transformer.wpe.weight"],
            python: Some(["gpt2", if storage == Storage::F32 { "float32" } else { "bfloat16" }]),
        };
        subject.measure(|weights, context| weights + row * (context + 1));
    }
}
