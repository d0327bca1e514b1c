//! Key-value caches.

use tessera_runtime::device;
use tessera_runtime::execute::{Executable, KvCache, RunError, Session, TensorView};
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
