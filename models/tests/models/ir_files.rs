//! The graph IR of all models, checked in for people to read.

use std::path::Path;

use tessera_ir::Module;
use tessera_models::{GptConfig, Model, gpt};

use crate::{gpt_oss_kjv, gpt2_kjv};

/// A GPT small enough to read: two layers, grouped-query attention, fp8 weights, two-way tensor parallel.
fn small_gpt() -> GptConfig {
    GptConfig {
        n_layers: 2,
        n_heads: 8,
        n_kv_heads: 2,
        d_model: 256,
        d_ffn: 1024,
        max_seq_len: 512,
        vocab_size: 2048,
        tp_size: 2,
        pp_size: 1,
        dp_size: 1,
        ..GptConfig::default()
    }
}

fn check(name: &str, module: &Module) {
    tessera_ir::verify(module).unwrap();
    let text = module.to_string();
    let parsed: Module = text.parse().unwrap();
    assert!(parsed == *module, "{name}: what is printed parses to the same module");
    assert!(parsed.to_string() == text);

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ir").join(name);
    if std::env::var_os("TESSERA_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let current = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(current == text, "{} is not current; run `make docs`", path.display());
}

#[test]
fn gpt2_ir_is_current() {
    check("gpt2-kjv.ir", &Model::open(&gpt2_kjv()).unwrap().module);
}

#[test]
fn gpt_oss_ir_is_current() {
    check("gpt-oss-kjv.ir", &Model::open(&gpt_oss_kjv()).unwrap().module);
}

#[test]
fn gpt_ir_is_current() {
    check("gpt-small.ir", &gpt::build(&small_gpt()).unwrap());
}
