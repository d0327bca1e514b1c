//! Model folders as a user has them.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tessera_models::folder::{ModelConfig, ModelFolder};

use crate::gpt2_kjv;

fn folder_with(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config).unwrap();
    folder
}

fn error_of(path: &Path) -> String {
    ModelFolder::open(path).unwrap_err().to_string()
}

#[test]
fn the_fixture_opens_and_its_tokenizer_agrees_with_its_prompts() {
    let folder = ModelFolder::open(&gpt2_kjv()).unwrap();
    let ModelConfig::Gpt2(config) = &folder.config else { panic!("{:?}", folder.config) };
    assert_eq!((config.n_layer, config.n_embd, config.inner()), (4, 192, 768));
    assert_eq!((folder.begin_of_text, &folder.end_of_text[..]), (Some(0), &[0][..]));

    let tokenizer = folder.tokenizer().unwrap();
    let expected: Value = serde_json::from_slice(&fs::read(gpt2_kjv().join("expected.json")).unwrap()).unwrap();
    for case in expected["greedy"].as_array().unwrap() {
        let ids = |field: &str| -> Vec<u32> { serde_json::from_value(case[field].clone()).unwrap() };
        assert_eq!(tokenizer.encode(case["prompt"].as_str().unwrap()).unwrap(), ids("prompt_ids"));
        assert_eq!(tokenizer.decode(&ids("greedy_ids")).unwrap(), case["greedy_text"].as_str().unwrap());
        let mut stream = tokenizer.stream();
        let mut text = String::new();
        for id in ids("greedy_ids") {
            text += &stream.push(id).unwrap();
        }
        assert_eq!(text + &stream.finish().unwrap(), case["greedy_text"].as_str().unwrap());
    }
}

#[test]
fn generation_config_decides_the_end_of_text() {
    let folder = folder_with(r#"{"model_type": "gpt2", "eos_token_id": 5}"#);
    assert_eq!(ModelFolder::open(folder.path()).unwrap().end_of_text, [5]);
    fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": [7, 8]}"#).unwrap();
    assert_eq!(ModelFolder::open(folder.path()).unwrap().end_of_text, [7, 8]);
    assert_eq!(ModelFolder::open(folder_with(r#"{"model_type": "gpt2"}"#).path()).unwrap().end_of_text, [50256]);
    let silent = folder_with(r#"{"model_type": "gpt2", "eos_token_id": null}"#);
    assert!(ModelFolder::open(silent.path()).unwrap().end_of_text.is_empty());
    fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": [50257]}"#).unwrap();
    assert!(error_of(folder.path()).contains("special token 50257 is outside the vocabulary of 50257"));
}

#[test]
fn a_gpt_folder_is_read_strictly() {
    let folder = folder_with(r#"{"model_type": "tessera_gpt", "n_layers": 2, "pp_size": 1, "eos_token_id": 3}"#);
    let opened = ModelFolder::open(folder.path()).unwrap();
    assert!(matches!(&opened.config, ModelConfig::Gpt(config) if config.n_layers == 2));
    assert_eq!(opened.end_of_text, [3]);
    let folder = folder_with(r#"{"model_type": "tessera_gpt", "n_layer": 2}"#);
    assert!(error_of(folder.path()).contains("unknown field `n_layer`"));
}

#[test]
fn folders_that_are_none_are_explained() {
    let empty = tempfile::tempdir().unwrap();
    assert!(error_of(&empty.path().join("no")).contains("is not a folder"));
    assert!(error_of(empty.path()).contains("has no config.json"));
    let cases = [
        ("{", "is malformed: EOF while parsing an object at line 1"),
        ("[]", "is malformed: invalid type: sequence, expected a map"),
        ("{}", "model_type = null is not supported; supported: \"gpt2\", \"tessera_gpt\", \"gpt_oss\""),
        (r#"{"model_type": "llama"}"#, "model_type = \"llama\" is not supported"),
        (r#"{"model_type": "gpt2", "n_embd": "wide"}"#, "invalid type: string \"wide\", expected u64"),
        (r#"{"model_type": "gpt2", "n_head": 5}"#, "n_head = 5 does not divide n_embd = 768"),
        (r#"{"model_type": "gpt2", "eos_token_id": "end"}"#, "is malformed"),
    ];
    for (config, message) in cases {
        let error = error_of(folder_with(config).path());
        assert!(error.contains(message), "{config}: {error}");
    }
}

#[test]
fn gpt2s_own_vocabulary_needs_no_tokenizer_file() {
    let folder = folder_with(r#"{"model_type": "gpt2"}"#);
    let tokenizer = ModelFolder::open(folder.path()).unwrap().tokenizer().unwrap();
    assert_eq!(tokenizer.encode("Hello world").unwrap(), [15496, 995]);
    let folder = folder_with(r#"{"model_type": "gpt2", "vocab_size": 100}"#);
    let error = ModelFolder::open(folder.path()).unwrap().tokenizer().unwrap_err().to_string();
    assert!(
        error.contains("has no tokenizer.json: tokenizers are built in for GPT-2's vocabulary of 50257 and gpt-oss's of 201088, and"),
        "{error}"
    );
}
