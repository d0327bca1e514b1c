//! Models from folder to numbers: compiled for this machine, loaded, and held against the reference evaluation.

mod c_api;
mod command_lines;
mod emulated;
mod fixture;
mod generation;
mod gpt;
mod gpt2;
mod gpt_oss;
mod ptx;

use std::sync::{Mutex, MutexGuard, PoisonError};

use tessera_compiler::driver::{CompileOptions, compile};
use tessera_compiler::target::Target;
use tessera_models::Model;
use tessera_models::engine::LoadedModel;
use tessera_models::generation::{CacheLayout, Engine, Step};
use tessera_models::reference::ReferenceEngine;
use tessera_runtime::device;
use tessera_runtime::pages::Pages;

/// Held by each test while it runs: every one of them wants all cores, and a compilation beside another only makes both late.
static TURN: Mutex<()> = Mutex::new(());

fn take_turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Compiles a model for this machine and loads it.
fn on_host(model: &Model) -> LoadedModel {
    let compiled = compile(&model.module, &CompileOptions::new(Target::Host)).unwrap();
    let host = device::open("host").unwrap();
    LoadedModel::load(&model.folder.config, &compiled.artifact, &model.weights, &host).unwrap()
}

/// Steps over three sequences whose pages lie in disorder: prompts of different lengths in one step, one of them in two chunks,
/// then decodes together with the rest of that prompt, then steps that leave a page behind short windows.
fn ragged_steps(vocabulary: u32, caches: &CacheLayout) -> (usize, Vec<Step>) {
    let mut pages = Pages::of_pools(&caches.pools(&vec![12; caches.windows.len()]), caches.page_size as u32);
    let held: Vec<_> = (0..6).map(|_| pages.open()).collect();
    for sequence in &held {
        pages.append(*sequence, 1).unwrap();
    }
    // What comes free out of order is handed out out of order.
    for sequence in [3, 0, 4, 1, 5, 2] {
        pages.close(held[sequence]).unwrap();
    }
    let sequences: Vec<_> = (0..3).map(|_| pages.open()).collect();
    let mut seed = 1u32;
    let mut step = |chunks: &[(usize, usize)]| {
        let (mut tokens, mut positions, mut rows_of, mut rows) = (vec![], vec![], vec![], vec![]);
        for (row, (sequence, count)) in chunks.iter().enumerate() {
            for position in pages.append(sequences[*sequence], *count).unwrap() {
                seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
                tokens.push(((seed >> 8) % vocabulary) as i32);
                positions.push(position);
                rows_of.push(row as i32);
            }
            rows.push(tokens.len() as i32 - 1);
        }
        let holders: Vec<_> = chunks.iter().map(|(sequence, _)| sequences[*sequence]).collect();
        Step { tokens, positions, sequences: rows_of, page_tables: pages.tables(&holders).unwrap(), rows }
    };
    let steps = vec![
        step(&[(0, 5), (1, 17), (2, 20)]),
        step(&[(2, 13), (0, 1), (1, 1)]),
        step(&[(1, 1), (2, 12)]),
        step(&[(2, 1)]),
    ];
    (12, steps)
}

/// The largest difference between what two engines make of the same steps, and the largest logit.
fn disagreement(left: &mut dyn Engine, right: &mut dyn Engine, steps: &[Step]) -> (f32, f32) {
    let (mut difference, mut largest) = (0.0f32, 0.0f32);
    for step in steps {
        left.step(step).unwrap();
        right.step(step).unwrap();
        let (left, right) = (left.logits(), right.logits());
        assert_eq!(left.len(), right.len());
        for (left, right) in left.iter().zip(right.iter()) {
            assert!(left.is_finite() && right.is_finite());
            difference = difference.max((left - right).abs());
            largest = largest.max(right.abs());
        }
    }
    (difference, largest)
}

/// Asserts that a model on the host computes what the reference evaluation does, up to `tolerance` of the largest logit.
fn assert_host_agrees(model: &Model, tolerance: f32, what: &str) {
    let loaded = on_host(model);
    let (pages, steps) = ragged_steps(model.folder.config.vocabulary() as u32, loaded.caches());
    let mut host = loaded.engine(pages).unwrap();
    let mut reference = ReferenceEngine::new(model, pages).unwrap();
    let (difference, largest) = disagreement(&mut host, &mut reference, &steps);
    assert!(difference <= tolerance * largest, "{what}: {difference} at logits up to {largest}");
}
