//! The small trained GPT-2 in the repository, and what Hugging Face's transformers computes with it.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The model's folder.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gpt2-kjv")
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(folder().join("expected.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A prompt and its greedy continuation.
pub struct Continuation {
    pub prompt: Vec<u32>,
    pub ids: Vec<u32>,
    /// So many ids are sure: after them two logits are too near each other for rounding to keep their order.
    pub sure: usize,
}

impl Continuation {
    /// Asserts that ids continue the prompt as they should.
    #[track_caller]
    pub fn check(&self, found: &[u32], what: &str) {
        assert_eq!(found.len(), self.ids.len(), "{what}");
        assert_eq!(found[..self.sure], self.ids[..self.sure], "{what}: after {:?}", self.prompt);
    }
}

/// The greedy continuations.
pub fn greedy() -> Vec<Continuation> {
    let expected = expected();
    let cases = expected["greedy"].as_array().unwrap().iter();
    let continuations: Vec<Continuation> = cases
        .map(|case| Continuation {
            prompt: ids(&case["prompt_ids"]),
            ids: ids(&case["greedy_ids"]),
            sure: case["compare_first"].as_u64().unwrap() as usize,
        })
        .collect();
    assert_eq!(continuations.len(), 4);
    continuations
}

/// The sequence whose logits are known.
pub fn sequence() -> Vec<u32> {
    ids(&expected()["logits_input_ids"])
}

/// Asserts that logits of every token of [`sequence`] are within 2e-4 of transformers'.
#[track_caller]
pub fn check_logits(found: &[f32]) {
    let wanted = read_npy(&folder().join("logits.npy"));
    assert_eq!(found.len(), wanted.len());
    let worst = wanted.iter().zip(found).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max);
    assert!(worst < 2e-4, "largest difference {worst}");
}

/// The numbers of a NumPy file of float32.
pub fn read_npy(path: &Path) -> Vec<f32> {
    let file = std::fs::read(path).unwrap();
    npyz::NpyFile::new(&file[..]).unwrap().into_vec().unwrap()
}
