//! The GPT's graph against a plain forward pass written from its description, for every flag.

use std::collections::HashMap;
use std::path::Path;

use tessera_ir::{NumericPolicy, Storage};
use tessera_models::generation::{Engine, Step};
use tessera_models::reference::ReferenceEngine;
use tessera_models::weights::{Initialization, decode};
use tessera_models::{GptConfig, Model, ModelConfig};

fn tiny() -> GptConfig {
    let f32_policy = NumericPolicy::from(Storage::F32);
    GptConfig {
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        d_model: 32,
        d_head: Some(6),
        d_ffn: 40,
        max_seq_len: 64,
        vocab_size: 50,
        compute_dtype: f32_policy,
        weight_dtype: f32_policy,
        kv_cache_dtype: f32_policy,
        tp_size: 1,
        pp_size: 1,
        dp_size: 1,
        ..GptConfig::default()
    }
}

fn write_model(config: &GptConfig, folder: &Path) -> Model {
    let initialization = Initialization { seed: 3, deviation: 0.2, vector_deviation: 0.2 };
    Model::write_random(folder, &ModelConfig::Gpt(Box::new(config.clone())), Storage::F32, initialization).unwrap()
}

const IDS: [u32; 9] = [3, 14, 15, 9, 26, 5, 35, 8, 49];

fn graph_logits(model: &Model) -> Vec<f64> {
    let mut engine = ReferenceEngine::new(model, 1).unwrap();
    engine.step(&Step::whole_sequence(&IDS, engine.page_size(), 1)).unwrap();
    engine.logits().iter().map(|logit| f64::from(*logit)).collect()
}

/// A forward pass over rows of f64, without a cache, straight from the configuration.
struct Plain<'a> {
    config: &'a GptConfig,
    weights: HashMap<String, Vec<f64>>,
}

type Rows = Vec<Vec<f64>>;

impl<'a> Plain<'a> {
    fn new(config: &'a GptConfig, model: &Model) -> Self {
        let tensor = |name: &str| -> Vec<f64> {
            let stored = model.weights.get(name).unwrap();
            decode(stored.bytes.as_slice(), stored.element).into_iter().map(f64::from).collect()
        };
        let mut weights: HashMap<String, Vec<f64>> =
            model.weights.iter().map(|(name, _)| (name.to_owned(), tensor(name))).collect();
        let scales: Vec<String> = weights.keys().filter(|name| name.ends_with("_scale")).cloned().collect();
        for name in scales {
            let scales = weights.remove(&name).unwrap();
            let weight = weights.get_mut(name.strip_suffix("_scale").unwrap()).unwrap();
            let row = weight.len() / scales.len();
            weight
                .chunks_mut(row)
                .zip(scales)
                .for_each(|(row, scale)| row.iter_mut().for_each(|value| *value *= scale));
        }
        Self { config, weights }
    }

    /// `x` times the transpose of `[outputs, inputs]`.
    fn linear(&self, name: &str, x: &Rows) -> Rows {
        let weight = &self.weights[name];
        x.iter()
            .map(|row| {
                weight.chunks(row.len()).map(|weights| row.iter().zip(weights).map(|(x, w)| x * w).sum()).collect()
            })
            .collect()
    }

    fn norm(&self, name: &str, x: &Rows) -> Rows {
        x.iter()
            .map(|row| {
                let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
                row.iter().zip(&self.weights[name]).map(|(x, scale)| x / (mean + 1e-6).sqrt() * scale).collect()
            })
            .collect()
    }

    fn rotate(&self, x: &mut Rows) {
        let width = self.config.head_dim() as usize;
        let half = width / 2;
        for (position, row) in x.iter_mut().enumerate() {
            for head in row.chunks_mut(width) {
                for pair in 0..half {
                    let angle = position as f64 * 10000f64.powf(-2.0 * pair as f64 / width as f64);
                    let (a, b) = (head[pair], head[pair + half]);
                    head[pair] = a * angle.cos() - b * angle.sin();
                    head[pair + half] = b * angle.cos() + a * angle.sin();
                }
            }
        }
    }

    fn attention(&self, prefix: &str, x: &Rows) -> Rows {
        let config = self.config;
        let width = config.head_dim() as usize;
        let group = (config.n_heads / config.n_kv_heads) as usize;
        let part = |part: &str| self.linear(&format!("{prefix}.self_attn.{part}_proj.weight"), x);
        let (mut query, mut key, value) = (part("q"), part("k"), part("v"));
        if config.use_rotary_embeddings {
            self.rotate(&mut query);
            self.rotate(&mut key);
        }
        let attended: Rows = (0..x.len())
            .map(|token| {
                (0..config.n_heads as usize)
                    .flat_map(|head| {
                        let columns = |head: usize| head * width..(head + 1) * width;
                        let kv = columns(head / group);
                        let weights: Vec<f64> = (0..=token)
                            .map(|other| {
                                let products = query[token][columns(head)].iter().zip(&key[other][kv.clone()]);
                                (products.map(|(q, k)| q * k).sum::<f64>() / (width as f64).sqrt()).exp()
                            })
                            .collect();
                        let total: f64 = weights.iter().sum();
                        kv.map(|column| {
                            weights.iter().enumerate().map(|(other, w)| w / total * value[other][column]).sum()
                        })
                        .collect::<Vec<f64>>()
                    })
                    .collect()
            })
            .collect();
        self.linear(&format!("{prefix}.self_attn.o_proj.weight"), &attended)
    }

    fn mlp(&self, prefix: &str, x: &Rows) -> Rows {
        let part = |part: &str, x: &Rows| self.linear(&format!("{prefix}.mlp.{part}_proj.weight"), x);
        let mut hidden = part("up", x);
        if self.config.use_gated_mlp {
            for (row, gates) in hidden.iter_mut().zip(part("gate", x)) {
                row.iter_mut().zip(gates).for_each(|(up, gate)| *up *= gate / (1.0 + (-gate).exp()));
            }
        } else {
            let gelu =
                |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
            hidden.iter_mut().flatten().for_each(|x| *x = gelu(*x));
        }
        part("down", &hidden)
    }

    fn logits(&self) -> Vec<f64> {
        let width = self.config.d_model as usize;
        let row = |table: &str, index: usize| self.weights[table][index * width..(index + 1) * width].to_vec();
        let mut x: Rows = IDS.iter().map(|id| row("model.embed_tokens.weight", *id as usize)).collect();
        if !self.config.use_rotary_embeddings {
            let positions = (0..IDS.len()).map(|position| row("model.embed_positions.weight", position)).collect();
            x = sum(&x, &positions);
        }
        for layer in 0..self.config.n_layers {
            let prefix = format!("model.layers.{layer}");
            let normed = self.norm(&format!("{prefix}.input_layernorm.weight"), &x);
            x = sum(&x, &self.attention(&prefix, &normed));
            let normed = if self.config.use_parallel_attention {
                normed
            } else {
                self.norm(&format!("{prefix}.post_attention_layernorm.weight"), &x)
            };
            x = sum(&x, &self.mlp(&prefix, &normed));
        }
        self.linear("lm_head.weight", &self.norm("model.norm.weight", &x)).concat()
    }
}

fn sum(left: &Rows, right: &Rows) -> Rows {
    left.iter().zip(right).map(|(left, right)| left.iter().zip(right).map(|(l, r)| l + r).collect()).collect()
}

fn difference(left: &[f64], right: &[f64]) -> f64 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f64::max)
}

#[test]
fn every_flag_and_head_ratio_computes_what_it_says() {
    let flags = |mask: u32| GptConfig {
        use_flash_attention: mask & 1 != 0,
        use_rotary_embeddings: mask & 2 != 0,
        use_parallel_attention: mask & 4 != 0,
        use_gated_mlp: mask & 8 != 0,
        gradient_checkpointing: mask & 16 != 0,
        ..tiny()
    };
    let ratios = [(4, 4), (4, 1), (12, 1)].map(|(n_heads, n_kv_heads)| GptConfig { n_heads, n_kv_heads, ..tiny() });
    for config in (0..32).map(flags).chain(ratios) {
        let folder = tempfile::tempdir().unwrap();
        let model = write_model(&config, folder.path());
        let worst = difference(&graph_logits(&model), &Plain::new(&config, &model).logits());
        assert!(worst < 2e-5, "{config:?}: {worst}");
    }
}

#[test]
fn low_precision_stays_near_the_exact_pass_over_the_same_weights() {
    let policy = |storage: Storage| NumericPolicy::from(storage).accumulating_in(Storage::F32);
    for (compute, weight, cache, bound) in [
        (Storage::F32, Storage::Bf16, Storage::F32, 1e-5),
        (Storage::F32, Storage::Fp8E4m3, Storage::F32, 1e-5),
        (Storage::F32, Storage::Fp8E5m2, Storage::F32, 1e-5),
        (Storage::Bf16, Storage::Bf16, Storage::Bf16, 0.1),
        (Storage::Bf16, Storage::Fp8E4m3, Storage::Fp8E5m2, 0.3),
        (Storage::F16, Storage::F16, Storage::F16, 0.01),
    ] {
        let config = GptConfig {
            compute_dtype: policy(compute),
            weight_dtype: policy(weight),
            kv_cache_dtype: cache.into(),
            ..tiny()
        };
        let folder = tempfile::tempdir().unwrap();
        let model = write_model(&config, folder.path());
        let exact = Plain::new(&config, &model).logits();
        let worst = difference(&graph_logits(&model), &exact);
        let largest = exact.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        assert!(worst < bound * largest, "{compute} {weight} {cache}: {worst} of {largest}");
    }
}

#[test]
fn random_weights_depend_on_the_seed_alone() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = GptConfig { weight_dtype: Storage::Fp8E4m3.into(), ..tiny() };
    write_model(&config, first.path());
    write_model(&config, second.path());
    let bytes = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(bytes(first.path()) == bytes(second.path()));
}
