//! The fixture through the library, and GPT-2s of other kinds.

use tessera_compiler::driver::{CompileOptions, compile};
use tessera_compiler::target::Target;
use tessera_ir::{Storage, parse_module};
use tessera_models::engine::LoadedModel;
use tessera_models::generation::{Engine, Limits, Request, Sampling, Step, generate, pages_for};
use tessera_models::reference::ReferenceEngine;
use tessera_models::weights::Initialization;
use tessera_models::{Gpt2Config, Model, ModelConfig};
use tessera_runtime::{Artifact, device};

use crate::{assert_host_agrees, fixture, on_host, take_turn};

/// The exported text, compiled, written, read back and loaded.
#[test]
fn the_fixture_through_text_and_file() {
    let _turn = take_turn();
    let model = Model::open(&fixture::GPT2.folder()).unwrap();
    let module = parse_module(&model.module.to_string()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gpt2.tsr");
    compile(&module, &CompileOptions::new(Target::Host)).unwrap().artifact.write(&path).unwrap();
    let artifact = Artifact::open(&path).unwrap();
    let host = device::open("host").unwrap();
    let loaded = LoadedModel::load(&model.folder.config, &artifact, &model.weights, &host).unwrap();

    let mut engine = loaded.engine(6).unwrap();
    engine.step(&Step::whole_sequence(&fixture::GPT2.sequence(), 16, 1)).unwrap();
    fixture::GPT2.check_logits(&engine.logits());
}

#[test]
fn greedy_text_is_that_of_transformers_in_batches_and_chunks() {
    let _turn = take_turn();
    let model = Model::open(&fixture::GPT2.folder()).unwrap();
    let loaded = on_host(&model);
    let cases = fixture::GPT2.greedy();
    let requests: Vec<Request> = cases
        .iter()
        .map(|case| Request {
            prompt: case.prompt.clone(),
            sampling: Sampling { max_new_tokens: case.ids.len(), ..Sampling::default() },
        })
        .collect();
    let mut engine = loaded.engine_with(&pages_for(&requests, 512, loaded.caches(), &Limits::default())).unwrap();
    let limits = [(2048, 256), (5, 256), (3, 2), (1, 1)];
    for (tokens_per_step, sequences) in limits {
        let limits = Limits { tokens_per_step, sequences, ..Limits::default() };
        let (found, _) = generate(&mut engine, &requests, limits, &mut |_, _| ()).unwrap();
        for (case, continuation) in cases.iter().zip(&found) {
            case.check(&continuation.ids, &format!("{limits:?}"));
        }
    }
}

/// The sampler is one algorithm, whoever runs it: where logits agree, the draws do.
#[test]
fn sampling_is_the_same_on_every_engine() {
    let _turn = take_turn();
    let model = Model::open(&fixture::GPT2.folder()).unwrap();
    let request = |prompt: &[u32], temperature, top_k, top_p, seed| Request {
        prompt: prompt.to_vec(),
        sampling: Sampling { max_new_tokens: 10, temperature, top_k, top_p, seed, ..Sampling::default() },
    };
    let requests = [
        request(&[296, 387, 388], 1.0, 0, 1.0, 1),
        request(&[296, 387, 388], 1.0, 0, 1.0, 2),
        request(&[449, 341], 0.7, 40, 1.0, 3),
        request(&[1143], 1.3, 0, 0.9, u64::MAX),
        request(&[1143, 259], 0.9, 100, 0.8, 5),
        request(&[1143, 259], 0.0, 0, 1.0, 5),
    ];
    let run = |engine: &mut dyn Engine| generate(engine, &requests, Limits::default(), &mut |_, _| ()).unwrap().0;
    let on_host = run(&mut on_host(&model).engine(8).unwrap());
    let by_reference = run(&mut ReferenceEngine::new(&model, 8).unwrap());
    assert_eq!(on_host, by_reference);
    assert_ne!(on_host[0], on_host[1]);
}

#[test]
fn activations_heads_and_storages() {
    let _turn = take_turn();
    let base =
        Gpt2Config { vocab_size: 101, n_positions: 48, n_embd: 60, n_layer: 2, n_head: 3, ..Gpt2Config::default() };
    let initialization = Initialization { seed: 2, deviation: 0.1, vector_deviation: 0.1 };
    for (index, activation) in
        ["gelu_new", "gelu", "quick_gelu", "relu", "silu", "tanh", "sigmoid"].into_iter().enumerate()
    {
        let config = Gpt2Config {
            activation_function: activation.to_owned(),
            n_inner: (index % 2 == 0).then_some(100),
            tie_word_embeddings: index % 3 != 0,
            scale_attn_by_inverse_layer_idx: index % 2 == 1,
            ..base.clone()
        };
        let (storage, tolerance) = [(Storage::F32, 1e-5), (Storage::Bf16, 0.05), (Storage::F16, 0.01)][index % 3];
        let folder = tempfile::tempdir().unwrap();
        let config = ModelConfig::Gpt2(config);
        let model = Model::write_random(folder.path(), &config, storage, initialization).unwrap();
        assert_host_agrees(&model, tolerance, activation);
    }
}
