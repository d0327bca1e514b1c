//! Generation against an engine that is easy to predict: the next token depends on the whole sequence as the cache holds it.

use std::collections::HashMap;

use super::*;

/// Keeps each page slot's token, and "predicts" a hash of everything that attention would see.
struct HashEngine {
    page_size: usize,
    pages: usize,
    cache: HashMap<(i32, usize), i32>,
    logits: Vec<u32>,
    steps: Vec<Step>,
}

impl HashEngine {
    fn new(pages: usize) -> Self {
        Self { page_size: 4, pages, cache: HashMap::new(), logits: Vec::new(), steps: Vec::new() }
    }
}

impl Engine for HashEngine {
    fn vocabulary(&self) -> usize {
        50
    }
    fn context(&self) -> usize {
        32
    }
    fn page_size(&self) -> usize {
        self.page_size
    }
    fn pages(&self) -> usize {
        self.pages
    }
    fn step(&mut self, step: &Step) -> Result<()> {
        let place = |sequence: i32, position: i32| {
            let (page, slot) = (position as usize / self.page_size, position as usize % self.page_size);
            let [rows, columns] = step.page_table.shape.map(|extent| extent as usize);
            assert!((sequence as usize) < rows && page < columns);
            (step.page_table.entries[sequence as usize * columns + page], slot)
        };
        for token in 0..step.tokens.len() {
            let key = place(step.sequences[token], step.positions[token]);
            assert!((key.0 as usize) < self.pages);
            self.cache.insert(key, step.tokens[token]);
        }
        self.logits = step
            .rows
            .iter()
            .map(|&row| {
                let (sequence, last) = (step.sequences[row as usize], step.positions[row as usize]);
                (0..=last).fold(17u32, |hash, position| {
                    hash.wrapping_mul(31).wrapping_add(self.cache[&place(sequence, position)] as u32)
                })
            })
            .collect();
        self.steps.push(step.clone());
        Ok(())
    }
    fn logits(&self) -> Cow<'_, [f32]> {
        self.logits.iter().map(|hash| *hash as f32).collect()
    }
    fn sample(&mut self, rows: &SampleRows) -> Result<Vec<u32>> {
        assert_eq!(rows.counter.len(), self.logits.len());
        Ok(self.logits.iter().map(|hash| hash % 50).collect())
    }
}

fn request(prompt: &[u32], max_new_tokens: usize) -> Request {
    Request { prompt: prompt.to_vec(), sampling: Sampling { max_new_tokens, ..Sampling::default() } }
}

fn run(pages: usize, requests: &[Request], limits: Limits) -> (Vec<Continuation>, HashEngine) {
    let mut engine = HashEngine::new(pages);
    let (continuations, _) = generate(&mut engine, requests, limits, &mut |_, _| ()).unwrap();
    (continuations, engine)
}

fn requests() -> Vec<Request> {
    vec![request(&[1, 2, 3], 5), request(&[4], 9), request(&[5, 6, 7, 8, 9, 10, 11], 2), request(&[12, 13], 0)]
}

#[test]
fn a_ragged_batch_is_each_request_alone() {
    let (together, engine) = run(100, &requests(), Limits::default());
    assert_eq!(engine.steps[0].tokens.len(), 11, "all prompts go through one step");
    for (request, continuation) in requests().into_iter().zip(&together) {
        let (alone, _) = run(100, &[request], Limits::default());
        assert_eq!(alone[0], *continuation);
    }
}

#[test]
fn neither_chunks_nor_a_small_cache_change_the_result() {
    let (expected, _) = run(100, &requests(), Limits::default());
    for tokens_per_step in [1, 2, 3, 5] {
        for (pages, sequences) in [(3, 10), (4, 2), (100, 1)] {
            let (found, engine) = run(pages, &requests(), Limits { tokens_per_step, sequences });
            assert_eq!(found, expected);
            assert!(engine.steps.iter().all(|step| step.tokens.len() <= tokens_per_step));
        }
    }
}

#[test]
fn a_stop_token_ends_one_sequence_and_not_the_batch() {
    let (free, _) = run(100, &requests(), Limits::default());
    let mut stopped = requests();
    stopped[1].sampling.stop = vec![free[1].ids[3]];
    let first = free[1].ids.iter().position(|id| *id == free[1].ids[3]).unwrap();
    let mut seen = Vec::new();
    let (found, _) =
        generate(&mut HashEngine::new(100), &stopped, Limits::default(), &mut |index, id| seen.push((index, id)))
            .unwrap();
    assert_eq!(found[1], Continuation { ids: free[1].ids[..first].to_vec(), finish: FinishReason::Stop });
    assert_eq!(found[0], free[0]);
    let streamed: Vec<u32> = seen.iter().filter(|(index, _)| *index == 1).map(|(_, id)| *id).collect();
    assert_eq!(streamed, found[1].ids);
}

#[test]
fn the_longest_sequence_ends_generation() {
    let (found, engine) = run(100, &[request(&[1; 30], 100)], Limits::default());
    assert_eq!(found[0].finish, FinishReason::Context);
    assert_eq!(found[0].ids.len(), 3, "positions 30 and 31, and the token that follows the last position");
    assert!(engine.steps.iter().flat_map(|step| &step.positions).all(|&position| position < 32));
}

#[test]
fn impossible_requests_are_refused() {
    let cases = [
        (request(&[], 4), "the prompt is empty"),
        (request(&[50], 4), "token 50 at position 0 is outside the vocabulary of 50"),
        (request(&[1; 33], 4), "33 tokens are more than the model's longest sequence, 32"),
        (request(&[1; 9], 10), "needs 5 pages of the KV cache, which has 2"),
        (
            Request { prompt: vec![1], sampling: Sampling { top_p: f32::NAN, ..Sampling::default() } },
            "top-p NaN must be above 0",
        ),
        (
            Request { prompt: vec![1], sampling: Sampling { temperature: -1.0, ..Sampling::default() } },
            "temperature -1 must be finite",
        ),
    ];
    for (request, message) in cases {
        let error = generate(&mut HashEngine::new(2), &[request], Limits::default(), &mut |_, _| ()).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
}
