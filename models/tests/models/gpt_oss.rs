//! gpt-oss: its checkpoints as they are found, and its answers by reference evaluation against those computed elsewhere.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};
use tessera_ir::evaluate::Tensor;
use tessera_ir::{KvCacheType, Storage};
use tessera_models::generation::{CacheLayout, Engine, Limits, Request, Sampling, Step, generate, pages_for};
use tessera_models::model::Precision;
use tessera_models::quantize::{Target, quantize};
use tessera_models::reference::{ReferenceEngine, cache_types};
use tessera_models::{GptOssConfig, Model, ModelConfig};

use crate::gpt_oss_kjv;

fn expected() -> Value {
    serde_json::from_slice(&fs::read(gpt_oss_kjv().join("expected.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn logits_of(model: &Model, ids: &[u32]) -> Vec<f32> {
    let mut engine = ReferenceEngine::new(model, ids.len().div_ceil(16)).unwrap();
    engine.step(&Step::whole_sequence(ids, engine.page_size(), 2)).unwrap();
    engine.logits().into_owned()
}

fn expected_logits() -> Vec<f32> {
    let file = fs::read(gpt_oss_kjv().join("logits.npy")).unwrap();
    npyz::NpyFile::new(&file[..]).unwrap().into_vec().unwrap()
}

/// Mean negative log-likelihood of a sequence under the logits of its tokens.
fn mean_nll(logits: &[f32], ids: &[u32]) -> f64 {
    let vocabulary = logits.len() / ids.len();
    let losses = ids[1..].iter().zip(logits.chunks(vocabulary)).map(|(next, row)| {
        let largest = row.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = row.iter().map(|logit| f64::from(logit - largest).exp()).sum();
        f64::from(largest - row[*next as usize]) + sum.ln()
    });
    losses.sum::<f64>() / (ids.len() - 1) as f64
}

#[test]
fn logits_are_those_of_transformers() {
    let model = Model::open(&gpt_oss_kjv()).unwrap();
    let expected = expected();
    let sequence = ids(&expected["logits_input_ids"]);
    let found = logits_of(&model, &sequence);
    let wanted = expected_logits();
    assert_eq!((wanted.len(), found.len()), (96 * 2048, 96 * 2048));
    let worst = wanted.iter().zip(found.iter()).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max);
    println!("largest difference {worst}");
    assert!(worst < 5e-4, "largest difference {worst}");
    assert!((mean_nll(&found, &sequence) - expected["mean_nll"].as_f64().unwrap()).abs() < 1e-4);
}

#[test]
fn greedy_text_is_that_of_transformers() {
    let model = Model::open(&gpt_oss_kjv()).unwrap();
    let expected = expected();
    let cases = expected["greedy"].as_array().unwrap();
    let requests: Vec<Request> = cases
        .iter()
        .map(|case| Request {
            prompt: ids(&case["prompt_ids"]),
            sampling: Sampling { max_new_tokens: 32, ..Sampling::default() },
        })
        .collect();
    let mut engine = ReferenceEngine::with_pages(
        &model,
        &pages_for(&requests, 512, &CacheLayout::of_module(&model.module).unwrap(), &Limits::default()),
    )
    .unwrap();
    let (found, _) = generate(&mut engine, &requests, Limits::default(), &mut |_, _| ()).unwrap();
    for (case, continuation) in cases.iter().zip(&found) {
        let compared = case["compare_first"].as_u64().unwrap() as usize;
        assert_eq!(continuation.ids[..compared], ids(&case["greedy_ids"])[..compared]);
    }
}

/// Narrow caches cost little: the mean log-likelihood hardly moves.
#[test]
fn caches_may_be_narrow() {
    let sequence = ids(&expected()["logits_input_ids"]);
    let wide = mean_nll(&logits_of(&Model::open(&gpt_oss_kjv()).unwrap(), &sequence), &sequence);
    for cache in [Storage::Bf16, Storage::Fp8E5m2, Storage::Fp8E4m3] {
        let precision = Precision { cache: Some(cache), ..Precision::default() };
        let model = Model::open_in(&gpt_oss_kjv(), precision).unwrap();
        let moved = mean_nll(&logits_of(&model, &sequence), &sequence) - wide;
        println!("{cache}: {moved}");
        assert!(moved.abs() < 0.02, "{cache} moves it by {moved}");
    }
}

/// A copy of the fixture whose configuration and tensors are changed.
fn changed(
    config: impl FnOnce(&mut Value),
    tensors: impl FnOnce(Vec<(String, Stored)>) -> Vec<(String, Stored)>,
) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut fields: Value = serde_json::from_slice(&fs::read(gpt_oss_kjv().join("config.json")).unwrap()).unwrap();
    config(&mut fields);
    fs::write(folder.path().join("config.json"), fields.to_string()).unwrap();
    write(&folder.path().join("model.safetensors"), &tensors(stored()));
    folder
}

#[derive(Clone)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn stored() -> Vec<(String, Stored)> {
    let file = fs::read(gpt_oss_kjv().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let of = |view: TensorView<'_>| Stored {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    tensors.iter().map(|(name, view)| (name.to_owned(), of(view))).collect()
}

fn write(path: &Path, tensors: &[(String, Stored)]) {
    let views = tensors.iter().map(|(name, tensor)| {
        (name.clone(), TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).unwrap())
    });
    serialize_to_file(views, None, path).unwrap();
}

/// The fixture as OpenAI would have published it: other names, fused queries, keys and values, another `config.json`.
#[test]
fn original_checkpoints_are_the_same_model() {
    let original = json!({
        "num_hidden_layers": 4, "num_experts": 8, "experts_per_token": 4, "vocab_size": 2048, "hidden_size": 192,
        "intermediate_size": 192, "swiglu_limit": 7.0, "head_dim": 64, "num_attention_heads": 8,
        "num_key_value_heads": 2, "sliding_window": 32, "initial_context_length": 128, "rope_theta": 150000,
        "rope_scaling_factor": 4.0, "rope_ntk_alpha": 1, "rope_ntk_beta": 32
    });
    let rename = |tensors: Vec<(String, Stored)>| {
        let find = |name: &str| tensors.iter().find(|(known, _)| known == name).unwrap().1.clone();
        let mut renamed = vec![
            ("embedding.weight".to_owned(), find("model.embed_tokens.weight")),
            ("unembedding.weight".to_owned(), find("lm_head.weight")),
            ("norm.scale".to_owned(), find("model.norm.weight")),
        ];
        for layer in 0..4 {
            let mut add = |name: &str, tensor: Stored| renamed.push((format!("block.{layer}.{name}"), tensor));
            let of = |name: &str| find(&format!("model.layers.{layer}.{name}"));
            for part in ["weight", "bias"] {
                let mut fused = of(&format!("self_attn.q_proj.{part}"));
                for other in ["k", "v"].map(|other| of(&format!("self_attn.{other}_proj.{part}"))) {
                    fused.shape[0] += other.shape[0];
                    fused.bytes.extend(other.bytes);
                }
                add(&format!("attn.qkv.{part}"), fused);
                add(&format!("attn.out.{part}"), of(&format!("self_attn.o_proj.{part}")));
                add(&format!("mlp.gate.{part}"), of(&format!("mlp.router.{part}")));
            }
            add("attn.sinks", of("self_attn.sinks"));
            add("attn.norm.scale", of("input_layernorm.weight"));
            add("mlp.norm.scale", of("post_attention_layernorm.weight"));
            for (name, part) in [("mlp1", "gate_up_proj"), ("mlp2", "down_proj")] {
                add(&format!("mlp.{name}_weight.blocks"), of(&format!("mlp.experts.{part}_blocks")));
                add(&format!("mlp.{name}_weight.scales"), of(&format!("mlp.experts.{part}_scales")));
                add(&format!("mlp.{name}_bias"), of(&format!("mlp.experts.{part}_bias")));
            }
        }
        renamed
    };
    let folder = changed(|config| *config = original, rename);
    let model = Model::open(folder.path()).unwrap();
    let ModelConfig::GptOss(config) = &model.folder.config else { panic!("{:?}", model.folder.config) };
    assert_eq!(config.max_position_embeddings, 512);
    let sequence = &ids(&expected()["logits_input_ids"])[..40];
    assert_eq!(logits_of(&model, sequence), logits_of(&Model::open(&gpt_oss_kjv()).unwrap(), sequence));
}

/// The fixture as it was before its experts were quantized: each matrix `[experts, inputs, outputs]` in bf16, which holds MXFP4 exactly.
fn unquantized() -> tempfile::TempDir {
    let dequantize = |tensors: Vec<(String, Stored)>| {
        let parts: Vec<(String, Stored)> =
            tensors.iter().filter(|(name, _)| name.ends_with("_blocks")).cloned().collect();
        let mut found: Vec<(String, Stored)> = (tensors.iter())
            .filter(|(name, _)| !name.ends_with("_blocks") && !name.ends_with("_scales"))
            .cloned()
            .collect();
        for (name, blocks) in parts {
            let name = name.strip_suffix("_blocks").unwrap();
            let scales = &tensors.iter().find(|(other, _)| *other == format!("{name}_scales")).unwrap().1;
            let [experts, outputs, groups, _] = blocks.shape[..] else { panic!("{:?}", blocks.shape) };
            let inputs = groups * 32;
            let bytes = |stored: &Stored| Tensor::from_bytes(Storage::U8, stored.shape.clone(), &stored.bytes).unwrap();
            let whole =
                Tensor::from_blocks(Storage::Mxfp4, [experts, outputs, inputs], &bytes(&blocks), &bytes(scales));
            let numbers = whole.unwrap().to_floats();
            let turned = (0..experts * inputs * outputs).map(|place| {
                let (expert, input, output) = (place / inputs / outputs, place / outputs % inputs, place % outputs);
                numbers[(expert * outputs + output) * inputs + input]
            });
            let shape = vec![experts, inputs, outputs];
            let turned = Tensor::from_floats(Storage::Bf16, shape.clone(), turned.collect()).unwrap();
            found.push((name.to_owned(), Stored { dtype: Dtype::BF16, shape, bytes: turned.to_bytes().unwrap() }));
        }
        found
    };
    changed(|config| _ = config.as_object_mut().unwrap().remove("quantization_config"), dequantize)
}

#[test]
fn unquantized_experts_are_the_same_model_and_can_be_quantized_again() {
    let sequence = &ids(&expected()["logits_input_ids"])[..40];
    let fixture = logits_of(&Model::open(&gpt_oss_kjv()).unwrap(), sequence);
    let source = unquantized();
    assert_eq!(logits_of(&Model::open(source.path()).unwrap(), sequence), fixture);

    let output = tempfile::tempdir().unwrap();
    let target = Target { experts: Some(Storage::Mxfp4), matrices: None };
    let report = quantize(source.path(), output.path(), target).unwrap();
    assert_eq!(report.len(), 8);
    assert!(report.iter().all(|tensor| tensor.error == 0.0 && tensor.magnitude > 0.0), "{report:?}");
    assert!(report.iter().any(|tensor| tensor.name == "model.layers.3.mlp.experts.down_proj"));
    assert_eq!(logits_of(&Model::open(output.path()).unwrap(), sequence), fixture);
}

#[test]
fn matrices_may_have_eight_bits() {
    let sequence = ids(&expected()["logits_input_ids"]);
    let stored = mean_nll(&logits_of(&Model::open(&gpt_oss_kjv()).unwrap(), &sequence), &sequence);
    for (storage, largest_error, largest_move) in [(Storage::I8, 0.012, 0.01), (Storage::Fp8E4m3, 0.04, 0.03)] {
        let output = tempfile::tempdir().unwrap();
        let target = Target { experts: None, matrices: Some(storage) };
        let report = quantize(&gpt_oss_kjv(), output.path(), target).unwrap();
        // Four projections of each layer, embedding and head.
        assert_eq!(report.len(), 18);
        for tensor in &report {
            assert!(tensor.error > 0.0 && tensor.error < largest_error * tensor.magnitude, "{tensor:?}");
        }
        let model = Model::open(output.path()).unwrap();
        assert!(output.path().join("tokenizer.json").is_file());
        let moved = mean_nll(&logits_of(&model, &sequence), &sequence) - stored;
        println!("{storage}: {moved}");
        assert!(moved.abs() < largest_move, "{storage} moves the mean log-likelihood by {moved}");
    }
    let output = tempfile::tempdir().unwrap();
    let target = Target { experts: None, matrices: Some(Storage::Mxfp4) };
    let error = quantize(&gpt_oss_kjv(), output.path(), target).unwrap_err().to_string();
    assert_eq!(error, "matrices = mxfp4 is not supported; supported: fp8_e4m3, fp8_e5m2, i8");
    let error = quantize(&crate::gpt2_kjv(), output.path(), Target::default()).unwrap_err().to_string();
    assert!(error.contains("\"gpt2\" is not supported"), "{error}");
}

#[test]
fn tensors_that_do_not_fit_are_named_with_what_was_expected() {
    let error = |folder: tempfile::TempDir| Model::open(folder.path()).unwrap_err().to_string();
    let same = |tensors: Vec<(String, Stored)>| tensors;
    let without = |name: &'static str| {
        move |mut tensors: Vec<(String, Stored)>| {
            tensors.retain(|(known, _)| known != name);
            tensors
        }
    };
    let reshaped = |mut tensors: Vec<(String, Stored)>| {
        let found = tensors.iter_mut().find(|(name, _)| name == "model.layers.1.mlp.experts.down_proj_blocks").unwrap();
        found.1.shape = vec![8, 96, 12, 16];
        tensors
    };
    for (folder, message) in [
        (
            changed(|_| (), without("model.layers.2.mlp.experts.gate_up_proj_scales")),
            "no tensor `model.layers.2.mlp.experts.gate_up_proj_scales`, which the model needs as u8[8, 384, 6]",
        ),
        (
            changed(|_| (), without("model.layers.3.self_attn.sinks")),
            "no tensor `model.layers.3.self_attn.sinks`, which the model needs as bf16[8]",
        ),
        (changed(|_| (), reshaped), "tensor `model.layers.1.mlp.experts.down_proj_blocks` of"),
        (changed(|_| (), reshaped), "is u8[8, 96, 12, 16], the model was compiled for u8[8, 192, 6, 16]"),
        (
            changed(|config| config["num_local_experts"] = 16.into(), same),
            "tensor `model.layers.0.mlp.router.weight` of",
        ),
        (
            changed(
                |config| {
                    config["num_hidden_layers"] = 3.into();
                    config["layer_types"].as_array_mut().unwrap().pop();
                },
                same,
            ),
            "is no part of a gpt-oss of 3 layers with MXFP4 experts",
        ),
        (
            changed(|config| config["quantization_config"] = Value::Null, same),
            "is no part of a gpt-oss of 4 layers with unquantized experts",
        ),
    ] {
        let error = error(folder);
        assert!(error.contains(message), "{error}");
    }
}

/// Half of the layers keep no more than their windows.
#[test]
fn a_long_context_takes_half_the_memory_that_it_took() {
    let config = ModelConfig::GptOss(Box::new(GptOssConfig::gpt_oss_20b()));
    let precision = Precision { activations: Some(Storage::Bf16), cache: None };
    let module = Model::module_of(&config, precision).unwrap();
    let layout = CacheLayout::of_module(&module).unwrap();
    assert_eq!(layout.windows, [None, Some(128)]);
    let context = config.context() as usize;
    let bytes = |pages: &[usize]| -> Vec<u64> {
        let bytes = |(ty, pages): (KvCacheType, &usize)| {
            let page = ty.page_size * ty.heads * ty.dim * u64::from(ty.storage.bits()) / 8;
            ty.layers * 2 * *pages as u64 * page
        };
        cache_types(&module).into_iter().zip(pages).map(bytes).collect()
    };
    let pages = layout.pages_for(std::iter::once(context), Limits::default().tokens_per_step);
    // The window and the page that is being filled, twice; a step's tokens, and a page that they begin.
    assert_eq!(pages, [8192, 2 * 9 + 128 + 1]);
    assert_eq!(bytes(&pages), [3_221_225_472, 57_802_752]);
    assert_eq!(bytes(&[8192, 8192]), [3_221_225_472; 2]);
}
