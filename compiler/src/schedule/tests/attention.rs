//! Attention over pages, with sinks and windows: of many tokens at once, and with the keys split over programs.

use tessera_ir::evaluate::{KvCache, Tensor, Value};
use tessera_ir::{Storage, Type, parse_module};

use super::{Numbers, check_overridden, random};

/// Tokens of a page.
const PAGE: usize = 16;
/// A page that no cache has.
const NO_PAGE: i32 = 1 << 20;

/// Heads of queries and of keys, and the width of a head.
#[derive(Clone, Copy)]
struct Heads {
    queries: usize,
    keys: usize,
    width: usize,
}

/// A sequence: the position of its first token in the step, and how many there are.
type Span = (usize, usize);

/// Appends the step's tokens to a cache in bf16 and attends to it. Pages that end before any token's window are none that exist.
fn check(heads: Heads, window: Option<usize>, spans: &[Span], overrides: &str) {
    let Heads { queries, keys, width } = heads;
    let pages = spans.iter().map(|(start, count)| (start + count).div_ceil(PAGE)).max().unwrap();
    let seen = window.map(|window| format!(", window = {window}")).unwrap_or_default();
    let text = format!(
        "module @m {{ func @f(%q: tensor<Tx{queries}x{width}xbf16>, %k: tensor<Tx{keys}x{width}xbf16>,
            %v: tensor<Tx{keys}x{width}xbf16>, %sinks: tensor<{queries}xbf16>, %positions: tensor<Txi32>,
            %sequences: tensor<Txi32>, %pages: tensor<BxPxi32>,
            %empty: kv_cache<layers=1, heads={keys}, dim={width}, page={PAGE}, bf16>) {{
            %cache = kv_append(%empty, %k, %v, %positions, %sequences, %pages) {{layer = 0}}
            %y = paged_attention(%q, %cache, %positions, %sequences, %pages, %sinks) {{layer = 0, scale = 0.2{seen}}}
            return %y, %cache }} }}"
    );
    let module = parse_module(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let tokens: usize = spans.iter().map(|(_, count)| count).sum();
    let mut numbers = Numbers::new(17);
    let integers = |shape: &[usize], values: Vec<i32>| Value::Tensor(Tensor::from_i32(shape, &values).unwrap());
    let of_tokens = |value: &dyn Fn(usize, usize) -> usize| -> Vec<i32> {
        let spans = spans.iter().enumerate();
        spans
            .flat_map(|(sequence, (_, count))| (0..*count).map(move |token| (sequence, token)))
            .map(|(sequence, token)| value(sequence, token) as i32)
            .collect()
    };
    let table = (0..spans.len()).flat_map(|sequence| (0..pages).map(move |page| (sequence, page)));
    let table = table.map(|(sequence, page)| {
        let first_seen = window.map_or(0, |window| (spans[sequence].0 + 1).saturating_sub(window));
        if (page + 1) * PAGE <= first_seen { NO_PAGE } else { ((page * spans.len()) + sequence) as i32 }
    });
    let inputs: Vec<Value> = module.functions[0]
        .inputs()
        .map(|(name, ty)| match (name, ty) {
            ("positions", _) => integers(&[tokens], of_tokens(&|sequence, token| spans[sequence].0 + token)),
            ("sequences", _) => integers(&[tokens], of_tokens(&|sequence, _| sequence)),
            ("pages", _) => integers(&[spans.len(), pages], table.clone().collect()),
            (_, Type::KvCache(ty)) => Value::Cache(KvCache::new(ty.clone(), spans.len() * pages).unwrap()),
            (_, Type::Tensor(ty)) => {
                let shape: Vec<usize> =
                    ty.shape.iter().map(|dim| dim.as_static().map_or(tokens, |extent| extent as usize)).collect();
                Value::Tensor(random(Storage::Bf16, &shape, 0, &mut numbers))
            }
        })
        .collect();
    check_overridden(&module, &inputs, 2e-2, overrides);
}

const GROUPED: Heads = Heads { queries: 8, keys: 1, width: 64 };

#[test]
fn windows_are_crossed_by_many_tokens() {
    for window in [None, Some(1), Some(20), Some(128)] {
        check(GROUPED, window, &[(0, 37), (5, 3)], "");
    }
    check(Heads { queries: 6, keys: 2, width: 32 }, Some(7), &[(0, 21)], "");
}

#[test]
fn windows_are_crossed_by_split_keys() {
    for window in [None, Some(16), Some(33)] {
        check(GROUPED, window, &[(0, 70), (64, 2)], "attention.splits=4,attention.rows=16");
    }
}

/// The pages before the window are none: the cache holds no more than a window's.
#[test]
fn only_pages_of_the_window_are_read() {
    for overrides in ["", "attention.splits=8,attention.rows=16"] {
        check(GROUPED, Some(5), &[(70, 1), (161, 9)], overrides);
    }
}
