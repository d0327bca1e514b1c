//! The GPT of `GPTConfig` at small sizes, random weights: every flag, ratio of heads and storage.

use tessera_ir::{NumericPolicy, Storage};
use tessera_models::weights::Initialization;
use tessera_models::{GptConfig, Model, ModelConfig};

use crate::{assert_host_agrees, take_turn};

fn small() -> GptConfig {
    GptConfig {
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        d_model: 64,
        d_head: Some(32),
        d_ffn: 96,
        max_seq_len: 64,
        vocab_size: 131,
        compute_dtype: Storage::F32.into(),
        weight_dtype: Storage::F32.into(),
        kv_cache_dtype: Storage::F32.into(),
        tp_size: 1,
        pp_size: 1,
        dp_size: 1,
        ..GptConfig::default()
    }
}

fn check(config: GptConfig, tolerance: f32) {
    let folder = tempfile::tempdir().unwrap();
    let initialization = Initialization { seed: 11, deviation: 0.1, vector_deviation: 0.1 };
    let what = format!("{config:?}");
    let config = ModelConfig::Gpt(Box::new(config));
    let model = Model::write_random(folder.path(), &config, Storage::F32, initialization).unwrap();
    assert_host_agrees(&model, tolerance, &what);
}

#[test]
fn every_flag_on_and_off() {
    let _turn = take_turn();
    // Each flag with the others on and with the others off.
    for mask in [0, 1, 2, 4, 8, 15, 14, 13, 11, 7] {
        check(
            GptConfig {
                use_flash_attention: mask & 1 == 0,
                use_rotary_embeddings: mask & 2 == 0,
                use_parallel_attention: mask & 4 == 0,
                use_gated_mlp: mask & 8 == 0,
                gradient_checkpointing: mask % 3 == 0,
                ..small()
            },
            1e-5,
        );
    }
}

#[test]
fn query_heads_share_key_heads_by_one_four_and_twelve() {
    let _turn = take_turn();
    for (n_heads, n_kv_heads, d_head) in [(4, 4, 16), (8, 2, 32), (12, 1, 64), (2, 1, 96), (2, 2, 128)] {
        check(GptConfig { n_heads, n_kv_heads, d_head: Some(d_head), ..small() }, 1e-5);
    }
}

#[test]
fn narrow_weights_activations_and_caches() {
    let _turn = take_turn();
    let policy = |storage: Storage| NumericPolicy::from(storage).accumulating_in(Storage::F32);
    for (compute, weight, cache, tolerance) in [
        (Storage::F32, Storage::Bf16, Storage::F32, 1e-5),
        (Storage::F32, Storage::Fp8E4m3, Storage::F32, 1e-5),
        (Storage::F32, Storage::Fp8E5m2, Storage::F32, 1e-5),
        (Storage::F32, Storage::F32, Storage::Fp8E5m2, 0.05),
        (Storage::Bf16, Storage::Bf16, Storage::Bf16, 0.05),
        (Storage::Bf16, Storage::Fp8E4m3, Storage::Fp8E5m2, 0.1),
        (Storage::F16, Storage::F16, Storage::F16, 0.01),
        (Storage::F16, Storage::Fp8E4m3, Storage::Fp8E4m3, 0.1),
    ] {
        let config = GptConfig {
            compute_dtype: policy(compute),
            weight_dtype: policy(weight),
            kv_cache_dtype: cache.into(),
            ..small()
        };
        check(config, tolerance);
    }
}

#[test]
fn a_mesh_of_one_machine_in_the_configuration_changes_nothing_that_is_computed() {
    let _turn = take_turn();
    check(GptConfig { tp_size: 2, pp_size: 2, dp_size: 3, ..small() }, 1e-5);
}
