//! gpt-oss: the fixture through the library, and models of other shapes.

use tessera_compiler::driver::{CompileOptions, compile};
use tessera_ir::Storage;
use tessera_models::generation::{Engine, Limits, Request, Sampling, Step, generate, pages_for};
use tessera_models::gpt_oss::{AttentionKind, GptOssConfig, Yarn};
use tessera_models::model::Precision;
use tessera_models::weights::Initialization;
use tessera_models::{Model, ModelConfig};

use crate::fixture::GPT_OSS;
use crate::generation::assert_each_is_alone;
use crate::{assert_host_agrees, on_host, take_turn};

fn logits(model: &Model) -> Vec<f32> {
    let sequence = GPT_OSS.sequence();
    let mut engine = on_host(model).engine(sequence.len().div_ceil(16)).unwrap();
    engine.step(&Step::whole_sequence(&sequence, 16, 2)).unwrap();
    engine.logits().into_owned()
}

#[test]
fn logits_are_those_of_transformers() {
    let _turn = take_turn();
    GPT_OSS.check_logits(&logits(&Model::open(&GPT_OSS.folder()).unwrap()));
}

/// Prompts cross the window of the sliding layers, in chunks too.
#[test]
fn greedy_text_is_that_of_transformers_in_batches_and_chunks() {
    let _turn = take_turn();
    let loaded = on_host(&Model::open(&GPT_OSS.folder()).unwrap());
    let cases = GPT_OSS.greedy();
    let requests: Vec<Request> = cases
        .iter()
        .map(|case| Request {
            prompt: case.prompt.clone(),
            sampling: Sampling { max_new_tokens: case.ids.len(), ..Sampling::default() },
        })
        .collect();
    let mut engine = loaded.engine_with(&pages_for(&requests, 512, loaded.caches(), &Limits::default())).unwrap();
    for (tokens_per_step, sequences) in [(2048, 256), (3, 2)] {
        let limits = Limits { tokens_per_step, sequences, ..Limits::default() };
        let (found, _) = generate(&mut engine, &requests, limits, &mut |_, _| ()).unwrap();
        for (case, continuation) in cases.iter().zip(&found) {
            case.check(&continuation.ids, &format!("{limits:?}"));
        }
    }
}

#[test]
fn narrow_caches_and_activations_cost_little() {
    let _turn = take_turn();
    let nll = |precision| GPT_OSS.mean_nll(&logits(&Model::open_in(&GPT_OSS.folder(), precision).unwrap()));
    let wide = nll(Precision::default());
    for cache in [Storage::Bf16, Storage::Fp8E5m2, Storage::Fp8E4m3] {
        let moved = nll(Precision { cache: Some(cache), ..Precision::default() }) - wide;
        assert!(moved.abs() < 0.02, "a cache in {cache} moves the mean log-likelihood by {moved}");
    }
    let moved = nll(Precision { activations: Some(Storage::Bf16), cache: None }) - wide;
    assert!(moved.abs() < 0.01, "activations in bf16 move the mean log-likelihood by {moved}");
}

fn small() -> GptOssConfig {
    let yarn = Yarn {
        factor: 8.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_context: 16,
        truncate: false,
        concentration: 1.2,
    };
    GptOssConfig {
        vocab_size: 131,
        hidden_size: 64,
        intermediate_size: 96,
        layer_types: vec![AttentionKind::Sliding, AttentionKind::Full],
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        sliding_window: 5,
        num_local_experts: 4,
        num_experts_per_tok: 2,
        max_position_embeddings: 128,
        yarn: Some(yarn),
        ..GptOssConfig::gpt_oss_20b()
    }
}

fn check(config: GptOssConfig) {
    check_within(1e-5, config);
}

/// Up to a part of the largest logit.
fn check_within(tolerance: f32, config: GptOssConfig) {
    let folder = tempfile::tempdir().unwrap();
    let initialization = Initialization { seed: 11, deviation: 0.1, vector_deviation: 0.1 };
    let what = format!("{config:?}");
    let config = ModelConfig::GptOss(Box::new(config));
    let model = Model::write_random(folder.path(), &config, Storage::Bf16, initialization).unwrap();
    assert_host_agrees(&model, tolerance, &what);
}

#[test]
fn experts_of_other_numbers_and_widths() {
    let _turn = take_turn();
    for (experts, chosen, hidden, inner) in
        [(1, 1, 32, 32), (3, 3, 64, 32), (8, 4, 32, 160), (17, 1, 96, 64), (32, 6, 48, 40)]
    {
        check(GptOssConfig {
            num_local_experts: experts,
            num_experts_per_tok: chosen,
            hidden_size: hidden,
            intermediate_size: inner,
            ..small()
        });
    }
    check(GptOssConfig { is_mxfp4: false, ..small() });
    check(GptOssConfig { swiglu_limit: 0.05, swiglu_alpha: 1.0, ..small() });
}

#[test]
fn heads_windows_and_positions_of_other_kinds() {
    let _turn = take_turn();
    for (heads, key_heads, head_dim) in [(4, 4, 64), (16, 1, 32), (8, 1, 64), (2, 2, 16)] {
        check(GptOssConfig { num_attention_heads: heads, num_key_value_heads: key_heads, head_dim, ..small() });
    }
    for window in [1, 16, 17, 1000] {
        check(GptOssConfig { sliding_window: window, ..small() });
    }
    let yarn = small().yarn.unwrap();
    for yarn in [
        None,
        Some(Yarn { truncate: true, factor: 2.5, ..yarn }),
        Some(Yarn { factor: 32.0, original_context: 4096, ..yarn }),
    ] {
        check(GptOssConfig { yarn, layer_types: vec![AttentionKind::Full; 3], ..small() });
    }
    check(GptOssConfig { attention_bias: false, tie_word_embeddings: true, ..small() });
}

/// Bounded caches under continuous batching, for windows within a page, of a page and beyond, and layers in any order.
#[test]
fn windows_are_kept_in_any_company() {
    let _turn = take_turn();
    use AttentionKind::{Full, Sliding};
    let text: Vec<u32> = (0..400u32).map(|position| position * position * 7919 % 131).collect();
    for (window, layer_types, pages) in [
        (5, vec![Sliding, Full, Sliding], [24, 12]),
        (16, vec![Full, Sliding], [40, 8]),
        (33, vec![Sliding, Full], [16, 30]),
        (1, vec![Sliding, Sliding], [10, 0]),
    ] {
        let config = GptOssConfig { sliding_window: window, layer_types, max_position_embeddings: 256, ..small() };
        let folder = tempfile::tempdir().unwrap();
        let initialization = Initialization { seed: window, deviation: 0.3, vector_deviation: 0.1 };
        let config = ModelConfig::GptOss(Box::new(config));
        let model = Model::write_random(folder.path(), &config, Storage::Bf16, initialization).unwrap();
        let loaded = on_host(&model);
        let engine = |pages: &[usize]| Box::new(loaded.engine_with(pages).unwrap()) as Box<dyn Engine>;
        assert_each_is_alone(&engine, &pages, &text, window);
    }
}

/// A layer as wide as the published models', of few experts. Sums in f32 of 2880 products round more often than those of the small
/// models: they are 1.4e-5 of the largest logit off.
#[test]
fn a_layer_of_the_published_width() {
    let _turn = take_turn();
    let config = GptOssConfig {
        vocab_size: 300,
        layer_types: vec![AttentionKind::Sliding],
        num_local_experts: 4,
        num_experts_per_tok: 2,
        max_position_embeddings: 128,
        ..GptOssConfig::gpt_oss_20b()
    };
    check_within(5e-5, config);
}

#[test]
fn the_largest_model_compiles_from_its_configuration() {
    let _turn = take_turn();
    let config = ModelConfig::GptOss(Box::new(GptOssConfig::gpt_oss_120b()));
    for (target, activations) in [("host", Storage::F32), ("sm_80", Storage::Bf16)] {
        let module = Model::module_of(&config, Precision { activations: Some(activations), cache: None }).unwrap();
        let compiled = compile(&module, &CompileOptions::new(target.parse().unwrap())).unwrap();
        let step = compiled.artifact.function("step").unwrap();
        // Of each layer 17 parameters, two of which are two tensors each; embedding, norm and head.
        assert_eq!(step.parameters.len(), 36 * 19 + 3, "{target}");
    }
}
