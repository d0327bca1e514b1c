//! A model folder's `config.json`, up to the graph that is built from it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tessera_models::{ModelConfig, ModelFolder, gpt, gpt2, gpt_oss};

/// Larger configurations only take longer.
const MOST_LAYERS: u64 = 8;

fuzz_target!(|bytes: &[u8]| {
    let Ok(folder) = tempfile::tempdir() else { return };
    if std::fs::write(folder.path().join("config.json"), bytes).is_err() {
        return;
    }
    match ModelFolder::open(folder.path()).map(|folder| folder.config) {
        Ok(ModelConfig::Gpt2(config)) if config.n_layer <= MOST_LAYERS => {
            gpt2::build(&config, &gpt2::Gpt2Layout::default()).expect("a valid configuration builds");
        }
        Ok(ModelConfig::Gpt(config)) if config.n_layers <= MOST_LAYERS => {
            gpt::build(&config).expect("a valid configuration builds");
        }
        Ok(ModelConfig::GptOss(config)) if config.layer_types.len() as u64 <= MOST_LAYERS => {
            gpt_oss::build(&config, &gpt_oss::GptOssLayout::of(&config)).expect("a valid configuration builds");
        }
        _ => {}
    }
});
