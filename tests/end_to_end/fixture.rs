//! The small trained models in the repository, and what Hugging Face's transformers computes with them.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A model with its answers.
pub struct Fixture {
    name: &'static str,
    /// What logits on the host may differ by.
    tolerance: f32,
}

/// A GPT-2 of 2.3 million parameters, in f32.
pub const GPT2: Fixture = Fixture { name: "gpt2-kjv", tolerance: 2e-4 };

/// A gpt-oss of 5.3 million parameters, its experts in MXFP4 and the rest in bf16.
pub const GPT_OSS: Fixture = Fixture { name: "gpt-oss-kjv", tolerance: 5e-4 };

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A prompt and its greedy continuation.
pub struct Continuation {
    pub text: String,
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

impl Fixture {
    /// The model's folder.
    pub fn folder(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(self.name)
    }

    fn expected(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.folder().join("expected.json")).unwrap()).unwrap()
    }

    /// The greedy continuations.
    pub fn greedy(&self) -> Vec<Continuation> {
        let expected = self.expected();
        let cases = expected["greedy"].as_array().unwrap().iter();
        let continuations: Vec<Continuation> = cases
            .map(|case| Continuation {
                text: case["prompt"].as_str().unwrap().to_owned(),
                prompt: ids(&case["prompt_ids"]),
                ids: ids(&case["greedy_ids"]),
                sure: case["compare_first"].as_u64().unwrap() as usize,
            })
            .collect();
        assert_eq!(continuations.len(), 4);
        continuations
    }

    /// The sequence whose logits are known.
    pub fn sequence(&self) -> Vec<u32> {
        ids(&self.expected()["logits_input_ids"])
    }

    /// The logits of every token of the [`sequence`](Self::sequence).
    pub fn logits(&self) -> Vec<f32> {
        read_npy(&self.folder().join("logits.npy"))
    }

    /// Asserts that logits of every token of the [`sequence`](Self::sequence) are transformers'.
    #[track_caller]
    pub fn check_logits(&self, found: &[f32]) {
        let wanted = self.logits();
        assert_eq!(found.len(), wanted.len());
        let worst = wanted.iter().zip(found).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max);
        assert!(worst < self.tolerance, "largest difference {worst}");
    }

    /// Asserts that logits of a model which computes in bf16 are transformers' in 95 of 100 rows, and its text as likely: where two experts are
    /// all but equally good, rounding may choose the other for a row.
    #[track_caller]
    pub fn check_narrow_logits(&self, found: &[f32], what: &str) {
        let wanted = self.logits();
        assert_eq!(found.len(), wanted.len());
        let rows = self.sequence().len();
        let width = wanted.len() / rows;
        let worst = |(left, right): (&[f32], &[f32])| {
            left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max)
        };
        let differences: Vec<f32> = wanted.chunks(width).zip(found.chunks(width)).map(worst).collect();
        let near = differences.iter().filter(|difference| **difference <= 2e-2).count();
        assert!(near * 100 >= rows * 95, "{what}: {near} of {rows} rows are near: {differences:?}");
        let moved = self.mean_nll(found) - self.expected()["mean_nll"].as_f64().unwrap();
        assert!(moved.abs() < 0.005, "{what}: the mean log-likelihood moved by {moved}");
    }

    /// Mean negative log-likelihood of the [`sequence`](Self::sequence) under logits of its tokens.
    pub fn mean_nll(&self, logits: &[f32]) -> f64 {
        let sequence = self.sequence();
        let vocabulary = logits.len() / sequence.len();
        let losses = sequence[1..].iter().zip(logits.chunks(vocabulary)).map(|(next, row)| {
            let largest = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = row.iter().map(|logit| f64::from(logit - largest).exp()).sum();
            f64::from(largest - row[*next as usize]) + sum.ln()
        });
        losses.sum::<f64>() / (sequence.len() - 1) as f64
    }
}

/// The numbers of a NumPy file of float32.
pub fn read_npy(path: &Path) -> Vec<f32> {
    let file = std::fs::read(path).unwrap();
    npyz::NpyFile::new(&file[..]).unwrap().into_vec().unwrap()
}
