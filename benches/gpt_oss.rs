//! Decode and prefill of gpt-oss-20b's shape with random weights on the host: MXFP4 experts, bf16 activations.
//!
//! The variables are those of [`tessera_benches::language_model`], for the model `GPT_OSS`, and:
//!
//! | variable | meaning |
//! |---|---|
//! | `TESSERA_GPT_OSS_LAYERS` | how many of the 24 layers there are: 2 if it says nothing, since all take 12 to 14 GB on disk and in memory |
//! | `TESSERA_GPT_OSS_REST` | storage of the matrices that belong to no expert: `i8` if it says nothing, `fp8_e4m3`, `fp8_e5m2` or `bf16` |
//!
//! llama.cpp takes a file of `peers/gpt_oss_gguf.py` of as many layers.

use tessera_benches::language_model::{Subject, variable};
use tessera_ir::Storage;
use tessera_models::folder::ModelConfig;
use tessera_models::gpt_oss::GptOssConfig;
use tessera_models::model::Precision;

const NAME: &str = "GPT_OSS";

fn main() {
    let layers = variable(NAME, "LAYERS").and_then(|text| text.parse().ok()).unwrap_or(2);
    let rest = variable(NAME, "REST").map_or(Storage::I8, |text| text.parse().expect("a storage"));
    let mut config = GptOssConfig::gpt_oss_20b();
    config.layer_types.truncate(layers);
    let [hidden, inner, experts, chosen] =
        [config.hidden_size, config.intermediate_size, config.num_local_experts, config.num_experts_per_tok]
            .map(|extent| extent as usize);
    let [key_heads, head, window] =
        [config.num_key_value_heads, config.head_dim, config.sliding_window].map(|extent| extent as usize);
    let subject = Subject {
        name: NAME.to_owned(),
        config: ModelConfig::GptOss(Box::new(config)),
        matrices: rest,
        precision: Precision { activations: Some(Storage::Bf16), cache: Some(Storage::Bf16) },
        contexts: [128, 1024],
        tables: &["model.embed_tokens.weight"],
        python: None,
    };
    subject.measure(|weights, context| {
        // Of the experts' matrices, 17 bytes for 32 elements, those of the chosen ones are read. Half of the layers look at a window.
        let unread = layers * (experts - chosen) * (3 * hidden * inner) / 32 * 17;
        let seen = context + 1 + (context + 1).min(window);
        weights - unread + layers * (2 * key_heads * head * 2) * seen / 2
    });
}
