//! Writes a model folder with random weights of a published shape: for benches, where the real weights are not at hand.
//!
//! `cargo run --release -p tessera-models --example random_model -- gpt-oss-20b DIR [LAYERS] [STORAGE]`, where STORAGE is that of the
//! matrices which belong to no expert: bf16 if it is left out, or fp8_e4m3, fp8_e5m2 or i8 for those of a gpt-oss.

use std::path::Path;
use std::process::ExitCode;

use tessera_ir::Storage;
use tessera_models::weights::Initialization;
use tessera_models::{Gpt2Config, GptOssConfig, Model, ModelConfig};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, folder, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: random_model gpt2|gpt-oss-20b|gpt-oss-120b DIR [LAYERS] [STORAGE]");
        return ExitCode::FAILURE;
    };
    let storage = match rest.get(1).map(|storage| storage.parse::<Storage>()) {
        None => Storage::Bf16,
        Some(Ok(storage)) => storage,
        Some(Err(error)) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let layers = rest.first().and_then(|layers| layers.parse::<usize>().ok());
    let gpt_oss = |mut config: GptOssConfig| {
        config.layer_types.truncate(layers.unwrap_or(usize::MAX));
        ModelConfig::GptOss(Box::new(config))
    };
    let config = match name.as_str() {
        "gpt2" => ModelConfig::Gpt2(Gpt2Config::small()),
        "gpt-oss-20b" => gpt_oss(GptOssConfig::gpt_oss_20b()),
        "gpt-oss-120b" => gpt_oss(GptOssConfig::gpt_oss_120b()),
        _ => {
            eprintln!("`{name}` is none of gpt2, gpt-oss-20b, gpt-oss-120b");
            return ExitCode::FAILURE;
        }
    };
    match Model::write_random(Path::new(folder), &config, storage, Initialization::default()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
