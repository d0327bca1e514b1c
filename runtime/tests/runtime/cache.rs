//! Key-value caches.

use tessera_runtime::device;
use tessera_runtime::execute::{Executable, KvCache, RunError, Session, TensorView};
use tessera_runtime::pages::Pages;
use tessera_runtime::weights::Weights;

use super::fixture::*;

#[test]
fn a_cache_is_updated_in_place_and_outlives_sessions() {
    let device = device::open("host").unwrap();
    let executable = Executable::load(&artifact(accumulating_plan()), &Weights::in_memory(), &device).unwrap();
    let mut first = KvCache::new(&executable, "cache", 4).unwrap();
    let mut second = KvCache::new(&executable, "cache", 7).unwrap();
    assert_eq!((first.bytes(), second.pages()), (4 * 2 * 4, 7));
    let add = |cache: &mut KvCache, page: i32, value: f32| {
        let (page, value) = ([page], [value]);
        let mut session = Session::new(&executable);
        let inputs = [("x", TensorView::vector(&value)), ("pages", TensorView::vector(&page))];
        let outputs = session.run(&inputs, &mut [("cache", cache)]).unwrap();
        outputs.get("sums").unwrap().elements::<f32>().unwrap()[0]
    };
    assert_eq!(add(&mut first, 0, 1.0), 1.0);
    assert_eq!(add(&mut first, 3, 2.0), 2.0);
    assert_eq!(add(&mut second, 0, 10.0), 10.0);
    assert_eq!(add(&mut first, 0, 5.0), 6.0);
    assert_eq!(add(&mut second, 6, 1.0), 1.0);
    // One layer of keys and values, one number on each page.
    let contents = first.read().unwrap();
    let numbers: Vec<f32> =
        contents.chunks_exact(4).map(|bytes| f32::from_ne_bytes(bytes.try_into().unwrap())).collect();
    assert_eq!(numbers, [6.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0]);
}

#[test]
fn a_cache_of_another_model_is_refused() {
    let device = device::open("host").unwrap();
    let mut plan = accumulating_plan();
    let executable = Executable::load(&artifact(plan.clone()), &Weights::in_memory(), &device).unwrap();
    plan.caches[0].heads = 2;
    let other = Executable::load(&artifact(plan), &Weights::in_memory(), &device).unwrap();
    let mut cache = KvCache::new(&other, "cache", 4).unwrap();
    let inputs = [("x", TensorView::vector(&[1f32])), ("pages", TensorView::vector(&[0i32]))];
    let error = Session::new(&executable).run(&inputs, &mut [("cache", &mut cache)]).unwrap_err();
    assert_eq!(error.to_string(), "cache `cache` was made for another model or another device");
    let error = KvCache::new(&executable, "kv", 4).unwrap_err();
    assert_eq!(error.to_string(), "the function has no cache `kv`; it takes cache");
    assert!(matches!(KvCache::new(&executable, "cache", u64::MAX / 4), Err(RunError::Extent { .. })));
}

/// Prompts in chunks and single tokens of several sequences go through the same step, in pages that are scattered and shared.
#[test]
fn a_step_takes_many_sequences_at_once() {
    let device = device::open("host").unwrap();
    let executable = Executable::load(&artifact(step_plan()), &Weights::in_memory(), &device).unwrap();
    let mut session = Session::new(&executable);
    let mut cache = KvCache::new(&executable, "cache", 32).unwrap();
    let mut pages = Pages::of(&[&cache]).unwrap();
    // The next tokens of some sequences, each given its new tokens.
    let mut step = |pages: &mut Pages, batch: &[(_, &[i32])]| {
        let (mut tokens, mut positions, mut sequences, mut rows) = (vec![], vec![], vec![], vec![]);
        for (index, (sequence, new)) in batch.iter().enumerate() {
            tokens.extend_from_slice(new);
            positions.extend(pages.append(*sequence, new.len()).unwrap());
            sequences.resize(tokens.len(), index as i32);
            rows.push(tokens.len() as i32 - 1);
        }
        let table = pages.table(0, &batch.iter().map(|entry| entry.0).collect::<Vec<_>>()).unwrap();
        let inputs = [
            ("rows", TensorView::vector(&rows)),
            ("page_table", TensorView::new(&table.shape, &table.entries).unwrap()),
            ("sequences", TensorView::vector(&sequences)),
            ("positions", TensorView::vector(&positions)),
            ("tokens", TensorView::vector(&tokens)),
        ];
        let outputs = session.run(&inputs, &mut [("cache", &mut cache)]).unwrap();
        let logits = outputs.get("logits").unwrap();
        let rows = logits.elements::<f32>().unwrap().chunks(VOCABULARY as usize);
        rows.map(|row| row.iter().position(|logit| *logit == 1.0).unwrap() as i32).collect::<Vec<_>>()
    };
    let (a, b) = (pages.open(), pages.open());
    assert_eq!(step(&mut pages, &[(a, &[1, 2, 3]), (b, &[9, 9, 9, 9, 9, 9])]), [6, 54 % 11]);
    assert_eq!(step(&mut pages, &[(b, &[1]), (a, &[6])]), [0, 1]);
    let c = pages.share(b, 6).unwrap();
    assert_eq!(pages.tokens(c), Ok(4));
    assert_eq!(step(&mut pages, &[(c, &[2]), (a, &[1, 1, 1, 1, 1])]), [38 % 11, 17 % 11]);
    assert_eq!(step(&mut pages, &[(b, &[0])]), [0]);
}
