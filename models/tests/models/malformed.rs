//! Damaged files are errors, never panics: random bytes, and valid files with bytes changed, cut off or inserted.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tessera_models::folder::{ModelConfig, ModelFolder};
use tessera_models::{GptConfig, Tokenizer, gpt, gpt_oss, gpt2};
use tessera_runtime::Weights;

use crate::{gpt_oss_kjv, gpt2_kjv};

static CONFIG: LazyLock<Vec<u8>> = LazyLock::new(|| fs::read(gpt2_kjv().join("config.json")).unwrap());
static GPT_OSS_CONFIG: LazyLock<Vec<u8>> = LazyLock::new(|| fs::read(gpt_oss_kjv().join("config.json")).unwrap());
static GPT_CONFIG: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let config = ModelConfig::Gpt(Box::new(GptConfig { n_layers: 2, ..GptConfig::default() })).to_json().unwrap();
    serde_json::to_vec_pretty(&config).unwrap()
});
static WEIGHTS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let bytes = [0u8; 48];
    let tensors = [
        ("a", TensorView::new(Dtype::F32, vec![2, 3], &bytes[..24]).unwrap()),
        ("b", TensorView::new(Dtype::BF16, vec![12], &bytes[..24]).unwrap()),
    ];
    safetensors::serialize(tensors, None).unwrap()
});
/// The fixture's tokenizer with few merges, so that a case takes well under a millisecond.
static TOKENIZER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let text = fs::read(gpt2_kjv().join("tokenizer.json")).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let model = tokenizer["model"].as_object_mut().unwrap();
    model["merges"].as_array_mut().unwrap().truncate(8);
    model["vocab"].as_object_mut().unwrap().retain(|_, id| id.as_u64().unwrap() < 265);
    serde_json::to_vec(&tokenizer).unwrap()
});

/// One change to a file.
#[derive(Debug, Clone)]
enum Damage {
    Replace(Index, u8),
    Insert(Index, u8),
    Truncate(Index),
    Swap(Index, Index),
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    // Half of the new bytes are ones that JSON gives a meaning.
    let byte = || prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\",:-.0123456789einftru".to_vec())];
    let damage = prop_oneof![
        (any::<Index>(), byte()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        (any::<Index>(), byte()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        any::<Index>().prop_map(Damage::Truncate),
        (any::<Index>(), any::<Index>()).prop_map(|(left, right)| Damage::Swap(left, right)),
    ];
    vec(damage, 1..6)
}

fn apply(file: &[u8], damages: &[Damage]) -> Vec<u8> {
    let mut bytes = file.to_vec();
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        match damage {
            Damage::Replace(at, byte) => bytes[at.index(length)] = *byte,
            Damage::Insert(at, byte) => bytes.insert(at.index(length), *byte),
            Damage::Truncate(at) => bytes.truncate(at.index(length)),
            Damage::Swap(left, right) => bytes.swap(left.index(length), right.index(length)),
        }
    }
    bytes
}

fn open_config(folder: &Path, bytes: &[u8]) {
    fs::write(folder.join("config.json"), bytes).unwrap();
    // Whatever passes for a valid configuration builds; small ones are tried.
    match ModelFolder::open(folder).map(|folder| folder.config) {
        Ok(ModelConfig::Gpt2(config)) if config.n_layer < 8 => {
            gpt2::build(&config, &gpt2::Gpt2Layout::default()).unwrap();
        }
        Ok(ModelConfig::Gpt(config)) if config.n_layers < 8 => {
            gpt::build(&config).unwrap();
        }
        Ok(ModelConfig::GptOss(config)) if config.layer_types.len() < 8 => {
            gpt_oss::build(&config, &gpt_oss::GptOssLayout::of(&config)).unwrap();
        }
        _ => {}
    }
}

fn open_weights(folder: &Path, bytes: &[u8]) {
    let path = folder.join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    if let Ok(weights) = Weights::open(&path) {
        for (_, weight) in weights.iter() {
            assert!(weight.bytes.as_slice().len() <= bytes.len());
        }
    }
}

fn open_index(folder: &Path, bytes: &[u8]) {
    fs::write(folder.join("a.safetensors"), &*WEIGHTS).unwrap();
    let path = folder.join("model.safetensors.index.json");
    fs::write(&path, bytes).unwrap();
    let _ = Weights::open(&path);
}

fn open_tokenizer(folder: &Path, bytes: &[u8]) {
    let path = folder.join("tokenizer.json");
    fs::write(&path, bytes).unwrap();
    if let Ok(tokenizer) = Tokenizer::open_file(&path)
        && let Ok(ids) = tokenizer.encode("And God said, Let there be light: \u{1f989}")
    {
        let _ = tokenizer.decode(&ids);
        let mut stream = tokenizer.stream();
        for id in ids {
            let _ = stream.push(id);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_bytes(bytes in vec(any::<u8>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        open_config(folder.path(), &bytes);
        open_weights(folder.path(), &bytes);
        open_index(folder.path(), &bytes);
        open_tokenizer(folder.path(), &bytes);
    }

    #[test]
    fn damaged_configs(damages in damages()) {
        let folder = tempfile::tempdir().unwrap();
        open_config(folder.path(), &apply(&CONFIG, &damages));
        open_config(folder.path(), &apply(&GPT_CONFIG, &damages));
        open_config(folder.path(), &apply(&GPT_OSS_CONFIG, &damages));
    }

    #[test]
    fn damaged_weights(damages in damages()) {
        let folder = tempfile::tempdir().unwrap();
        open_weights(folder.path(), &apply(&WEIGHTS, &damages));
    }

    #[test]
    fn damaged_indices(damages in damages()) {
        let folder = tempfile::tempdir().unwrap();
        open_index(folder.path(), &apply(br#"{"weight_map": {"a": "a.safetensors", "b": "a.safetensors"}}"#, &damages));
    }

    #[test]
    fn damaged_tokenizers(damages in damages()) {
        let folder = tempfile::tempdir().unwrap();
        open_tokenizer(folder.path(), &apply(&TOKENIZER, &damages));
    }
}
