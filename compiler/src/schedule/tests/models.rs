//! Whole steps of the models that the models crate checks in.

use std::collections::BTreeMap;

use tessera_ir::evaluate::{KvCache, Parameters, Tensor, Value, evaluate};
use tessera_ir::{Module, Type, parse_module};

use super::{Numbers, check_lowered, lowered, random, targets};

fn model(name: &str) -> Module {
    let path = format!("{}/../models/ir/{name}.ir", env!("CARGO_MANIFEST_DIR"));
    parse_module(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Two sequences in one step: one of `lengths[0]` tokens and so on, in pages that are not in order.
fn ragged_inputs(module: &Module, lengths: &[usize], vocabulary: u64) -> Vec<Value> {
    let mut numbers = Numbers::new(3);
    let tokens: usize = lengths.iter().sum();
    let integers = |shape: &[usize], values: Vec<i32>| Value::Tensor(Tensor::from_i32(shape, &values).unwrap());
    module.functions[0]
        .inputs()
        .map(|(name, ty)| match (name, ty) {
            ("tokens", _) => integers(&[tokens], (0..tokens).map(|_| (numbers.next() % vocabulary) as i32).collect()),
            ("positions", _) => integers(&[tokens], lengths.iter().flat_map(|length| 0..*length as i32).collect()),
            ("sequences", _) => {
                let sequence = |(sequence, length): (usize, &usize)| vec![sequence as i32; *length];
                integers(&[tokens], lengths.iter().enumerate().flat_map(sequence).collect())
            }
            ("page_table", _) => integers(&[lengths.len(), 2], (0..2 * lengths.len() as i32).rev().collect()),
            ("rows", _) => {
                let ends = lengths.iter().scan(0, |end, length| {
                    *end += *length as i32;
                    Some(*end - 1)
                });
                integers(&[lengths.len()], ends.collect())
            }
            (_, Type::KvCache(ty)) => Value::Cache(KvCache::new(ty.clone(), 2 * lengths.len() + 1).unwrap()),
            (other, ty) => panic!("no value for %{other}: {ty}"),
        })
        .collect()
}

fn weights(module: &Module) -> Parameters {
    let mut numbers = Numbers::new(5);
    let scaled = |tensor: Tensor| {
        let elements = tensor.to_floats().iter().map(|x| x * 0.05).collect();
        Tensor::from_floats(tensor.storage(), tensor.shape(), elements).unwrap()
    };
    module
        .parameters
        .iter()
        .map(|(name, ty)| {
            let shape: Vec<usize> = ty.shape.iter().map(|dim| dim.as_static().unwrap() as usize).collect();
            (name.clone(), scaled(random(ty.storage(), &shape, 2, &mut numbers)))
        })
        .collect::<BTreeMap<_, _>>()
}

fn check_model(name: &str, tolerance: f64) {
    let module = model(name);
    let function = &module.functions[0];
    let inputs = ragged_inputs(&module, &[3, 6], 64);
    let parameters = weights(&module);
    let expected = evaluate(&module, &function.name, &inputs, &parameters).unwrap();
    for target in targets() {
        let (lowered, cuts) = lowered(&module, target, "");
        assert!(cuts.is_empty(), "an unfused graph needs no cuts: {cuts:?}");
        let what = format!("{name} on {target}");
        check_lowered(lowered, target, function, (&inputs, &parameters), (&expected, tolerance), &what);
    }
}

#[test]
fn attention_of_few_tokens_is_split_over_the_keys() {
    let module = model("gpt-small");
    let (lowered, _) = lowered(&module, "sm_80".parse().unwrap(), "");
    let summaries: Vec<&str> =
        lowered.programs.iter().flat_map(|program| &program.summary).map(String::as_str).collect();
    assert!(summaries.contains(&"one of 8 parts of the keys") && summaries.contains(&"merges 8 parts of the keys"));
    // Many tokens are not split, and memory for the parts does not grow with them.
    let plan = &lowered.plans[0];
    let guards: Vec<_> = plan.launches.iter().filter_map(|launch| launch.guard.clone()).collect();
    let most = guards.iter().filter(|guard| guard.maximum < u64::MAX).map(|guard| guard.maximum).max().unwrap();
    let partial = plan.slots.iter().filter(|slot| slot.bytes.to_string().contains("min"));
    let sizes = |tokens| -> Vec<u64> {
        let symbols = vec![tokens; plan.symbols.len()];
        partial.clone().map(|slot| slot.bytes.evaluate(&symbols).unwrap()).collect()
    };
    assert!(sizes(1).iter().all(|bytes| *bytes > 0) && !sizes(1).is_empty());
    assert_eq!(sizes(most), sizes(100 * most));
}

#[test]
fn gpt2_unfused() {
    check_model("gpt2-kjv", 1e-4);
}

#[test]
fn gpt_unfused() {
    check_model("gpt-small", 5e-2);
}

/// Of a bounded cache, pages behind the window are given up: the table may say anything of them. Layers that see all keys, through the
/// widest window, share the programs of those that see a few.
#[test]
fn layers_of_both_kinds_of_attention_share_programs() {
    let text = |layers: &str, results: &str| {
        let inputs = "%q: tensor<Tx4x8xf32>, %k: tensor<Tx2x8xf32>, %sinks: tensor<4xf32>, %positions: tensor<Txi32>, \
                      %sequences: tensor<Txi32>, %page_table: tensor<BxPxi32>, %window_table: tensor<BxPxi32>, \
                      %cache: kv_cache<layers=2, heads=2, dim=8, page=4, f32>, \
                      %window_cache: kv_cache<layers=1, heads=2, dim=8, page=4, window=10, f32>";
        parse_module(&format!("module @m {{ func @step({inputs}) {{\n{layers}\nreturn {results} }} }}")).unwrap()
    };
    let full = "%full = kv_append(%cache, %k, %k, %positions, %sequences, %page_table) {layer = 1}
        %a = paged_attention(%q, %full, %positions, %sequences, %page_table, %sinks) \
             {layer = 1, scale = 0.5, window = 2147483647}";
    let sliding = "%bounded = kv_append(%window_cache, %k, %k, %positions, %sequences, %window_table) {layer = 0}
        %b = paged_attention(%q, %bounded, %positions, %sequences, %window_table, %sinks) \
             {layer = 0, scale = 0.5, window = 10}";
    let both = text(&format!("{full}\n{sliding}"), "%a, %b, %full, %bounded");
    let mut numbers = Numbers::new(9);
    let (lengths, starts) = ([3usize, 1, 17], [25i32, 40, 0]);
    let tokens = lengths.iter().sum();
    let of_tokens = |value: &dyn Fn(usize, usize) -> i32| {
        let rows = lengths.iter().enumerate().flat_map(|(row, length)| (0..*length).map(move |token| (row, token)));
        let values: Vec<i32> = rows.map(|(row, token)| value(row, token)).collect();
        Value::Tensor(Tensor::from_i32([values.len()], &values).unwrap())
    };
    let pages: Vec<i32> = (0..33).map(|entry| entry * 7 % 33).collect();
    let mut window_pages = pages.clone();
    // Token 25 sees 16 and on, token 40 sees 31 and on.
    for (row, kept) in [(0, 4), (1, 7)] {
        for column in 0..kept {
            window_pages[row * 11 + column] = [-1, i32::MAX, 9][column % 3];
        }
    }
    let table = |entries: &[i32]| Value::Tensor(Tensor::from_i32([3, 11], entries).unwrap());
    let cache = |index: usize| {
        let ty = both.functions[0].inputs().filter_map(|(_, ty)| ty.as_cache()).nth(index).unwrap();
        Value::Cache(KvCache::new(ty.clone(), 33).unwrap())
    };
    let inputs = [
        Value::Tensor(random(tessera_ir::Storage::F32, &[tokens, 4, 8], 0, &mut numbers)),
        Value::Tensor(random(tessera_ir::Storage::F32, &[tokens, 2, 8], 0, &mut numbers)),
        Value::Tensor(random(tessera_ir::Storage::F32, &[4], 0, &mut numbers)),
        of_tokens(&|row, token| starts[row] + token as i32),
        of_tokens(&|row, _| row as i32),
        table(&pages),
        table(&window_pages),
        cache(0),
        cache(1),
    ];
    super::check_with(&both, &inputs, 1e-4);
    let alone = text(full, "%a, %full");
    for target in targets() {
        let [one, two] = [&alone, &both].map(|module| lowered(module, target, "").0.programs.len());
        assert_eq!(one, two, "{target}");
    }
}
