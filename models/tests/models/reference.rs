//! Models by reference evaluation, against answers computed elsewhere.

use std::fs;

use safetensors::SafeTensors;
use safetensors::tensor::serialize_to_file;
use serde_json::Value;
use tessera_ir::Storage;
use tessera_models::generation::{CacheLayout, Engine, Limits, Request, Sampling, Step, generate, pages_for};
use tessera_models::reference::ReferenceEngine;
use tessera_models::weights::Initialization;
use tessera_models::{Gpt2Config, Model, ModelConfig};

use crate::gpt2_kjv;

fn expected() -> Value {
    serde_json::from_slice(&fs::read(gpt2_kjv().join("expected.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn gpt2_logits_are_those_of_transformers() {
    let model = Model::open(&gpt2_kjv()).unwrap();
    let mut engine = ReferenceEngine::new(&model, 6).unwrap();
    engine.step(&Step::whole_sequence(&ids(&expected()["logits_input_ids"]), engine.page_size(), 1)).unwrap();

    let file = fs::read(gpt2_kjv().join("logits.npy")).unwrap();
    let wanted: Vec<f32> = npyz::NpyFile::new(&file[..]).unwrap().into_vec().unwrap();
    let found = engine.logits();
    assert_eq!((wanted.len(), found.len()), (96 * 2048, 96 * 2048));
    let worst = wanted.iter().zip(found.iter()).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max);
    assert!(worst < 2e-4, "largest difference {worst}");
}

#[test]
fn gpt2_greedy_text_is_that_of_transformers_alone_and_in_a_ragged_batch() {
    let model = Model::open(&gpt2_kjv()).unwrap();
    let cases = expected()["greedy"].as_array().unwrap().clone();
    let requests: Vec<Request> = cases
        .iter()
        .map(|case| Request {
            prompt: ids(&case["prompt_ids"]),
            sampling: Sampling { max_new_tokens: 12, ..Sampling::default() },
        })
        .collect();
    let mut engine = ReferenceEngine::with_pages(
        &model,
        &pages_for(&requests, 512, &CacheLayout::of_module(&model.module).unwrap(), &Limits::default()),
    )
    .unwrap();
    let (together, _) = generate(&mut engine, &requests, Limits::default(), &mut |_, _| ()).unwrap();
    for ((case, request), continuation) in cases.iter().zip(&requests).zip(&together) {
        let compared = (case["compare_first"].as_u64().unwrap() as usize).min(12);
        assert_eq!(continuation.ids[..compared], ids(&case["greedy_ids"])[..compared]);
        let chunks = Limits { tokens_per_step: 3, ..Limits::default() };
        let (alone, _) = generate(&mut engine, std::slice::from_ref(request), chunks, &mut |_, _| ()).unwrap();
        assert_eq!(alone[0], *continuation);
    }
}

#[test]
fn sampling_depends_on_the_seed_and_not_on_the_batch() {
    let model = Model::open(&gpt2_kjv()).unwrap();
    let request = |prompt: &[u32], seed| Request {
        prompt: prompt.to_vec(),
        sampling: Sampling { max_new_tokens: 8, temperature: 1.0, top_k: 40, top_p: 0.95, seed, ..Sampling::default() },
    };
    let requests = [request(&[296, 387], 1), request(&[296, 387], 2), request(&[449, 341, 335], 1)];
    let mut engine = ReferenceEngine::new(&model, 4).unwrap();
    let (together, _) = generate(&mut engine, &requests, Limits::default(), &mut |_, _| ()).unwrap();
    assert_ne!(together[0], together[1]);
    for (request, continuation) in requests.iter().zip(&together) {
        let (alone, _) =
            generate(&mut engine, std::slice::from_ref(request), Limits::default(), &mut |_, _| ()).unwrap();
        assert_eq!(alone[0], *continuation);
    }
}

/// A GPT-2 whose every field differs from the fixture's: erf gelu, odd widths, no tying, scales by layer, half precision.
#[test]
fn gpt2_variants_build_and_decode_as_they_prefill() {
    let base =
        Gpt2Config { vocab_size: 37, n_positions: 24, n_embd: 20, n_layer: 3, n_head: 4, ..Gpt2Config::default() };
    let initialization = Initialization { seed: 5, deviation: 0.2, vector_deviation: 0.2 };
    let activations = ["gelu_new", "gelu", "quick_gelu", "relu", "silu", "tanh", "sigmoid"];
    let mut logits = Vec::new();
    for (index, activation) in activations.into_iter().enumerate() {
        let config = Gpt2Config {
            activation_function: activation.to_owned(),
            n_inner: (index % 2 == 0).then_some(44),
            tie_word_embeddings: index % 3 != 0,
            scale_attn_by_inverse_layer_idx: index % 2 == 1,
            ..base.clone()
        };
        let folder = tempfile::tempdir().unwrap();
        let storage = [Storage::F32, Storage::Bf16, Storage::F16][index % 3];
        let model = Model::write_random(folder.path(), &ModelConfig::Gpt2(config), storage, initialization).unwrap();

        let ids = [3, 30, 7, 7, 36, 0, 12];
        let whole = Step::whole_sequence(&ids, 16, 1);
        let mut prefill = ReferenceEngine::new(&model, 1).unwrap();
        prefill.step(&whole).unwrap();
        let mut decode = ReferenceEngine::new(&model, 1).unwrap();
        for position in 0..ids.len() {
            let one = Step {
                tokens: whole.tokens[position..=position].to_vec(),
                positions: vec![position as i32],
                sequences: vec![0],
                rows: vec![0],
                ..whole.clone()
            };
            decode.step(&one).unwrap();
            assert_eq!(decode.logits(), &prefill.logits()[position * 37..][..37]);
        }
        logits.push(prefill.logits().to_vec());
    }
    for (index, row) in logits.iter().enumerate() {
        assert!(logits[..index].iter().all(|other| other != row), "{} computes what another does", activations[index]);
    }
}

#[test]
fn gpt2_tensors_may_stand_without_their_prefix() {
    let model = Model::open(&gpt2_kjv()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json"] {
        fs::copy(gpt2_kjv().join(file), folder.path().join(file)).unwrap();
    }
    let bytes = fs::read(gpt2_kjv().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let renamed = tensors.iter().map(|(name, view)| (name.strip_prefix("transformer.").unwrap().to_owned(), view));
    serialize_to_file(renamed, None, &folder.path().join("model.safetensors")).unwrap();
    let bare = Model::open(folder.path()).unwrap();
    assert!(bare.parameter_names().all(|name| !name.starts_with("transformer.")));

    let step = Step::whole_sequence(&[1, 2, 3], 16, 1);
    let logits = |model: &Model| {
        let mut engine = ReferenceEngine::new(model, 1).unwrap();
        engine.step(&step).unwrap();
        engine.logits().into_owned()
    };
    assert_eq!(logits(&bare), logits(&model));
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |change: &dyn Fn(String) -> String| {
        let config = fs::read_to_string(gpt2_kjv().join("config.json")).unwrap();
        fs::write(folder.path().join("config.json"), change(config)).unwrap();
        fs::copy(gpt2_kjv().join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
        Model::open(folder.path()).unwrap_err().to_string()
    };
    let deeper = copy(&|config| config.replace("\"n_layer\": 4", "\"n_layer\": 5"));
    assert!(deeper.contains("no tensor `transformer.h.4.ln_1.weight`, which the model needs as f32[192]"), "{deeper}");
    let wider = copy(&|config| config.replace("\"n_inner\": null", "\"n_inner\": 1000"));
    assert!(wider.contains("`transformer.h.0.mlp.c_fc.weight`") && wider.contains("f32[192, 1000]"), "{wider}");
    let untied = copy(&|config| config.replace("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false"));
    assert!(untied.contains("no tensor `lm_head.weight`"), "{untied}");
}
