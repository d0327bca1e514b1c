//! Attention, rotary embedding and the paged cache.

use tessera_ir::evaluate::{KvCache, Parameters, Tensor, Value, evaluate};
use tessera_ir::testing::Random;
use tessera_ir::{KvCacheType, Module, Storage};

use crate::text::parse;

const HEADS: usize = 4;
const KEY_HEADS: usize = 2;
const DIM: usize = 8;
const PAGE: usize = 4;

fn random(random: &mut Random, shape: [usize; 3]) -> Tensor {
    let elements = (0..shape.iter().product()).map(|_| random.real()).collect();
    Tensor::from_floats(Storage::F64, shape, elements).unwrap()
}

/// Some of the rows of a tensor, one after the other.
fn rows(tensor: &Tensor, range: impl IntoIterator<Item = usize>) -> Tensor {
    let size: usize = tensor.shape()[1..].iter().product();
    let floats = tensor.to_floats();
    let elements: Vec<f64> = range.into_iter().flat_map(|row| floats[row * size..(row + 1) * size].to_vec()).collect();
    let mut shape = tensor.shape().to_vec();
    shape[0] = elements.len() / size;
    Tensor::from_floats(Storage::F64, shape, elements).unwrap()
}

fn i32s(elements: impl IntoIterator<Item = usize>) -> Tensor {
    let elements: Vec<i32> = elements.into_iter().map(|element| element as i32).collect();
    Tensor::from_i32([elements.len()], &elements).unwrap()
}

/// Appends to layer 1 of the cache and attends over it.
fn step_module(storage: Storage, window: &str) -> Module {
    let cache = format!("kv_cache<layers=2, heads={KEY_HEADS}, dim={DIM}, page={PAGE}, {storage}>");
    parse(&format!(
        "module @m {{
          func @step(%q: tensor<Tx{HEADS}x{DIM}xf64>, %k: tensor<Tx{KEY_HEADS}x{DIM}xf64>, %v: tensor<Tx{KEY_HEADS}x{DIM}xf64>,
                     %positions: tensor<Txi32>, %sequences: tensor<Txi32>, %table: tensor<BxPxi32>, %cache: {cache}) {{
            %next = kv_append(%cache, %k, %v, %positions, %sequences, %table) {{layer = 1}}
            %y = paged_attention(%q, %next, %positions, %sequences, %table) {{layer = 1, scale = 0.3{window}}}
            return %y, %next
          }}
          func @dense(%q: tensor<Tx{HEADS}x{DIM}xf64>, %k: tensor<Sx{KEY_HEADS}x{DIM}xf64>, %v: tensor<Sx{KEY_HEADS}x{DIM}xf64>) {{
            %y = attention(%q, %k, %v) {{causal = true, scale = 0.3{window}}}
            return %y
          }}
        }}"
    ))
}

fn cache(storage: Storage, pages: usize) -> KvCache {
    let ty = KvCacheType {
        layers: 2,
        heads: KEY_HEADS as u64,
        dim: DIM as u64,
        page_size: PAGE as u64,
        window: None,
        storage,
    };
    KvCache::new(ty, pages).unwrap()
}

struct Sequence {
    q: Tensor,
    k: Tensor,
    v: Tensor,
}

impl Sequence {
    fn new(length: usize, seed: u64) -> Sequence {
        let mut generator = Random::new(seed);
        Sequence {
            q: random(&mut generator, [length, HEADS, DIM]),
            k: random(&mut generator, [length, KEY_HEADS, DIM]),
            v: random(&mut generator, [length, KEY_HEADS, DIM]),
        }
    }

    fn dense(&self, module: &Module) -> Tensor {
        let inputs = [&self.q, &self.k, &self.v].map(|tensor| Value::Tensor(tensor.clone()));
        let outputs = evaluate(module, "dense", &inputs, &Parameters::new()).unwrap();
        outputs[0].as_tensor().unwrap().clone()
    }
}

/// Runs a step: for each token, sequence and position.
fn step(
    module: &Module,
    sequences: &[Sequence],
    tokens: &[(usize, usize)],
    table: &Tensor,
    cache: KvCache,
) -> (Tensor, KvCache) {
    let gathered = |part: fn(&Sequence) -> &Tensor| {
        let mut shape = part(&sequences[0]).shape().to_vec();
        shape[0] = tokens.len();
        let picked = tokens.iter().flat_map(|(s, p)| rows(part(&sequences[*s]), [*p]).to_floats().to_vec());
        Value::Tensor(Tensor::from_floats(Storage::F64, shape, picked.collect()).unwrap())
    };
    let inputs = [
        gathered(|sequence| &sequence.q),
        gathered(|sequence| &sequence.k),
        gathered(|sequence| &sequence.v),
        Value::Tensor(i32s(tokens.iter().map(|token| token.1))),
        Value::Tensor(i32s(tokens.iter().map(|token| token.0))),
        Value::Tensor(table.clone()),
        Value::Cache(cache),
    ];
    let outputs = evaluate(module, "step", &inputs, &Parameters::new()).unwrap();
    (outputs[0].as_tensor().unwrap().clone(), outputs[1].as_cache().unwrap().clone())
}

fn assert_close(found: &Tensor, expected: &Tensor) {
    assert_eq!(found.shape(), expected.shape());
    for (found, expected) in found.to_floats().iter().zip(expected.to_floats().iter()) {
        assert!((found - expected).abs() < 1e-12, "{found} for {expected}");
    }
}

#[test]
fn dense_attention_follows_its_formula() {
    let module = step_module(Storage::F64, ", window = 5");
    let sequence = Sequence::new(7, 1);
    let found = sequence.dense(&module).to_floats().to_vec();
    let (q, k, v) = (sequence.q.to_floats(), sequence.k.to_floats(), sequence.v.to_floats());
    for (query, head, element) in [(0, 0, 0), (3, 1, 2), (6, 2, 5), (6, 3, 7)] {
        let key_head = head / 2;
        let visible = query.max(4) - 4..=query;
        let weight = |key: usize| {
            let dot: f64 =
                (0..DIM).map(|i| q[(query * HEADS + head) * DIM + i] * k[(key * KEY_HEADS + key_head) * DIM + i]).sum();
            (0.3 * dot).exp()
        };
        let total: f64 = visible.clone().map(weight).sum();
        let expected: f64 =
            visible.map(|key| weight(key) / total * v[(key * KEY_HEADS + key_head) * DIM + element]).sum();
        assert!((found[(query * HEADS + head) * DIM + element] - expected).abs() < 1e-12);
    }
}

#[test]
fn sinks_take_weight_and_give_no_value() {
    let module = parse(
        "module @m {
          func @f(%q: tensor<1x4x8xf64>, %k: tensor<2x2x8xf64>, %v: tensor<2x2x8xf64>, %s: tensor<4xf64>, %p: tensor<1xi32>) {
            %plain = attention(%q, %k, %v) {scale = 0.3}
            %sunk = attention(%q, %k, %v, %s) {scale = 0.3}
            return %plain, %sunk
          }
        }",
    );
    let mut values = Random::new(6);
    let (q, k, v) = (random(&mut values, [1, 4, 8]), random(&mut values, [2, 2, 8]), random(&mut values, [2, 2, 8]));
    let sinks = [0.5, -1.0, f64::NEG_INFINITY, 700.0];
    let given = Tensor::from_floats(Storage::F64, [4], sinks.to_vec()).unwrap();
    let inputs = [q.clone(), k.clone(), v, given, i32s([0])].map(Value::Tensor);
    let outputs = evaluate(&module, "f", &inputs, &Parameters::new()).unwrap();
    let [plain, sunk] = [0, 1].map(|i| outputs[i].as_tensor().unwrap().to_floats());
    let (q, k) = (q.to_floats(), k.to_floats());
    for head in 0..4 {
        let exponential = |key: usize| {
            let dot: f64 = (0..8).map(|i| q[head * 8 + i] * k[(key * 2 + head / 2) * 8 + i]).sum();
            (0.3 * dot).exp()
        };
        let sum = exponential(0) + exponential(1);
        let share = if head == 3 { 0.0 } else { sum / (sum + sinks[head].exp()) };
        for i in 0..8 {
            assert!((sunk[head * 8 + i] - share * plain[head * 8 + i]).abs() < 1e-12);
        }
    }
}

#[test]
fn sinks_are_one_for_each_query_head() {
    let text = "module @m { func @f(%q: tensor<Tx4x8xf32>, %s: tensor<2xf32>) {
        %y = attention(%q, %q, %q, %s) {scale = 1.0} return %y } }";
    let error = tessera_ir::parse_module(text).unwrap_err().to_string();
    assert!(error.contains("tensor<2xf32> has not one sink for each of 4 query heads"), "{error}");
}

#[test]
fn paged_attention_equals_dense_attention_for_any_length() {
    for window in ["", ", window = 1", ", window = 6"] {
        let module = step_module(Storage::F64, window);
        for length in [0, 1, 7, 33] {
            let sequence = Sequence::new(length, 2);
            // Pages in an order that is not that of the positions; the tail of the row is never read.
            let table = Tensor::from_i32([1, 10], &[8, 3, 5, 0, 1, 7, 2, 6, 4, -1]).unwrap();
            let tokens: Vec<_> = (0..length).map(|position| (0, position)).collect();
            let expected = sequence.dense(&module);
            let (found, _) = step(&module, &[sequence], &tokens, &table, cache(Storage::F64, 9));
            assert_close(&found, &expected);
        }
    }
}

#[test]
fn a_ragged_batch_in_chunks_equals_each_sequence_alone() {
    let module = step_module(Storage::F64, "");
    let lengths = [9, 1, 14];
    let sequences: Vec<Sequence> =
        lengths.iter().enumerate().map(|(i, length)| Sequence::new(*length, 10 + i as u64)).collect();
    let expected: Vec<Tensor> = sequences.iter().map(|sequence| sequence.dense(&module)).collect();
    let table = Tensor::from_i32([3, 4], &[0, 1, 2, -1, 3, -1, -1, -1, 4, 5, 6, 7]).unwrap();
    let chunks: [&[(usize, std::ops::Range<usize>)]; 3] =
        [&[(0, 0..5), (2, 0..3)], &[(0, 5..6), (1, 0..1), (2, 3..13)], &[(0, 6..9), (2, 13..14)]];
    let mut state = cache(Storage::F64, 8);
    for chunk in chunks {
        let tokens: Vec<(usize, usize)> = chunk
            .iter()
            .flat_map(|(sequence, range)| range.clone().map(move |position| (*sequence, position)))
            .collect();
        let (found, next) = step(&module, &sequences, &tokens, &table, state);
        state = next;
        for (row, (sequence, position)) in tokens.iter().enumerate() {
            assert_close(&rows(&found, [row]), &rows(&expected[*sequence], [*position]));
        }
    }
}

/// Three pages go round; the table says of those that have come to hold later tokens that there are none.
#[test]
fn pages_behind_the_window_may_be_given_up() {
    let module = step_module(Storage::F64, ", window = 6");
    let sequence = Sequence::new(33, 7);
    let expected = sequence.dense(&module);
    let sequences = [sequence];
    let mut state = cache(Storage::F64, 3);
    for position in 0..33usize {
        let first = (position + 1).saturating_sub(6) / PAGE;
        let table: Vec<i32> =
            (0..9).map(|page| if (first..=position / PAGE).contains(&page) { page as i32 % 3 } else { -1 }).collect();
        let table = Tensor::from_i32([1, 9], &table).unwrap();
        let (found, next) = step(&module, &sequences, &[(0, position)], &table, state);
        state = next;
        assert_close(&found, &rows(&expected, [position]));
    }
}

#[test]
fn a_bounded_cache_is_read_through_a_window_that_it_keeps() {
    let message = |kept: &str, window: &str| {
        let cache = format!("kv_cache<layers=2, heads=2, dim=8, page=4, {kept}f64>");
        let text = format!(
            "module @m {{ func @f(%q: tensor<Tx4x8xf64>, %p: tensor<Txi32>, %t: tensor<BxPxi32>, %c: {cache}) {{
               %y = paged_attention(%q, %c, %p, %p, %t) {{layer = 1, scale = 0.3{window}}} return %y }} }}"
        );
        tessera_ir::parse_module(&text).err().map_or_else(String::new, |error| error.to_string())
    };
    assert_eq!(message("window=6, ", ", window = 6"), "");
    assert_eq!(message("", ", window = 6"), "");
    let error = message("window=6, ", ", window = 7");
    assert!(
        error.contains("a window of 7 keys over kv_cache<layers=2, heads=2, dim=8, page=4, window=6, f64>"),
        "{error}"
    );
    let error = message("window=6, ", "");
    assert!(error.contains("attention to every key over kv_cache"), "{error}");
    assert!(error.contains("the cache keeps 6 keys"), "{error}");
    let error = message("window=0, ", ", window = 1");
    assert!(error.contains("a cache with window=0 is never read"), "{error}");
}

#[test]
fn the_cache_rounds_to_its_storage() {
    let module = step_module(Storage::Fp8E5m2, "");
    let sequence = Sequence::new(3, 3);
    let keys: Vec<f64> = sequence.k.to_floats().iter().map(|x| Storage::Fp8E5m2.round(*x)).collect();
    let table = Tensor::from_i32([1, 1], &[1]).unwrap();
    let (_, state) = step(&module, &[sequence], &[(0, 0), (0, 1), (0, 2)], &table, cache(Storage::Fp8E5m2, 2));
    for position in 0..3 {
        assert_eq!(state.token(1, 0, 1, position), &keys[position * KEY_HEADS * DIM..][..KEY_HEADS * DIM]);
    }
    assert!(state.token(0, 0, 1, 0).iter().all(|x| *x == 0.0), "the other layer is untouched");
}

#[test]
fn pages_that_are_not_there_are_refused() {
    let module = step_module(Storage::F64, "");
    let attempt = |table: &[i32], sequence: usize, position: usize| {
        let input = Sequence::new(1, 4);
        let inputs = [
            Value::Tensor(input.q),
            Value::Tensor(input.k),
            Value::Tensor(input.v),
            Value::Tensor(i32s([position])),
            Value::Tensor(i32s([sequence])),
            Value::Tensor(Tensor::from_i32([1, table.len()], table).unwrap()),
            Value::Cache(cache(Storage::F64, 2)),
        ];
        evaluate(&module, "step", &inputs, &Parameters::new()).unwrap_err().to_string()
    };
    assert_eq!(
        attempt(&[2], 0, 1),
        "kv_append: the page table gives page 2 for position 1 of sequence 0; the cache has 2 pages"
    );
    assert_eq!(attempt(&[0], 0, 4), "kv_append: the page table has no entry for position 4 of sequence 0");
    assert_eq!(attempt(&[0], 1, 0), "kv_append: the page table has no entry for position 0 of sequence 1");
}

#[test]
fn rotation_depends_on_the_distance_of_positions_alone() {
    let module = parse(
        "module @m {
          func @f(%x: tensor<2x1x8xf64>, %p: tensor<2xi32>) {
            %a = rope(%x, %p) {base = 100.0}
            %b = rope(%x, %p) {style = interleaved}
            return %a, %b
          }
        }",
    );
    let x = random(&mut Random::new(5), [2, 1, 8]);
    let dots = |first: usize, second: usize| {
        let inputs = [Value::Tensor(x.clone()), Value::Tensor(i32s([first, second]))];
        evaluate(&module, "f", &inputs, &Parameters::new())
            .unwrap()
            .into_iter()
            .map(|output| {
                let floats = output.as_tensor().unwrap().to_floats();
                (0..8).map(|i| floats[i] * floats[8 + i]).sum::<f64>()
            })
            .collect::<Vec<f64>>()
    };
    for (near, far) in dots(0, 3).into_iter().zip(dots(100, 103)) {
        assert!((near - far).abs() < 1e-12);
    }
    assert!((dots(0, 3)[0] - dots(0, 4)[0]).abs() > 1e-3);
    // Position 1, angle 1 for the first pair: element 0 with element 4, or with element 1.
    let unit = Tensor::from_floats(Storage::F64, [2, 1, 8], (0..16).map(|i| f64::from(i == 0)).collect()).unwrap();
    let outputs =
        evaluate(&module, "f", &[Value::Tensor(unit), Value::Tensor(i32s([1, 1]))], &Parameters::new()).unwrap();
    for (output, partner) in outputs.iter().zip([4, 1]) {
        let floats = output.as_tensor().unwrap().to_floats();
        assert!((floats[0] - 1f64.cos()).abs() < 1e-15 && (floats[partner] - 1f64.sin()).abs() < 1e-15);
    }
}
