//! Models by reference evaluation, against answers computed elsewhere.

use std::fs;

use serde_json::Value;
use tessera_models::Model;
use tessera_models::generation::{Engine, Limits, Request, Sampling, Step, generate, pages_for};
use tessera_models::reference::ReferenceEngine;

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
    engine.step(&Step::whole_sequence(&ids(&expected()["logits_input_ids"]), engine.page_size())).unwrap();

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
    let mut engine = ReferenceEngine::new(&model, pages_for(&requests, 512, 16)).unwrap();
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
