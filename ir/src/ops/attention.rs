//! Attention and the paged KV cache.

use std::sync::Arc;

use rayon::prelude::*;

use crate::definition::{Inference, OpError, ResultTypes, one_result};
use crate::evaluate::{Evaluation, EvaluationError, Tensor, Value};
use crate::operation::operation;
use crate::ops::{Rope, family};
use crate::sharding::{FactorKind, ShardingRule};
use crate::storage::Storage;
use crate::types::{Dim, KvCacheType, TensorType, Type};

family! {
    /// Queries, keys and values are `[tokens, heads, dim]`. There may be fewer key heads than query heads
    /// (grouped-query attention): query head `h` of `H` reads key head `h / (H / Hk)`. A query that sees
    /// no key gives zeros. Results have the storage of the first operand unless another float is written.
    ///
    /// An attention sink is a logit for each query head that stands in the softmax beside those of the keys and weighs no
    /// value: it adds `exp(sink)` to the sum that the weights are divided by. It is not multiplied by the scale. (Xiao et
    /// al., "Efficient Streaming Language Models with Attention Sinks", in the learned form of gpt-oss.)
    ///
    /// The serving step is ragged: its tokens belong to many sequences. `positions[t]` is token `t`'s place
    /// in its sequence, counted from 0, `sequences[t]` the sequence's row of `page_table`, and
    /// `page_table[s, p]` the cache page that holds positions `p · page_size` and on of sequence `s`; entries
    /// for pages that no token reaches may be anything, those that lie wholly behind the tokens' windows among them. A model with
    /// attention of two kinds has a cache and a page table for each.
    ATTENTION_FAMILY = "Attention" [Rope, Attention, KvAppend, PagedAttention]
}

/// Checks that the operand `index` is a tensor of this shape and storage.
pub(super) fn require(inference: &Inference<'_>, index: usize, shape: &[Dim], storage: Storage) -> Result<(), OpError> {
    let found = inference.tensor(index)?;
    let expected = TensorType::new(shape.to_vec(), storage);
    if found.agrees_with(&expected) {
        return Ok(());
    }
    Err(OpError::operand(index, format!("{expected} is needed here, not {found}")))
}

fn check_scale(scale: f64) -> Result<(), OpError> {
    match scale.is_finite() {
        true => Ok(()),
        false => Err(OpError::attribute("scale", "the scale must be a finite number")),
    }
}

fn check_window(window: Option<u64>) -> Result<(), OpError> {
    match window {
        Some(0) => Err(OpError::attribute("window", "a window of 0 keys sees nothing")
            .help("leave the window out to see every key")),
        _ => Ok(()),
    }
}

/// Checks that a bounded cache holds what an attention over it sees.
fn check_bound(window: Option<u64>, cache: &KvCacheType) -> Result<(), OpError> {
    let Some(kept) = cache.window else { return Ok(()) };
    match window {
        Some(window) if window <= kept => Ok(()),
        Some(window) => Err(OpError::attribute("window", format!("a window of {window} keys over {cache}"))
            .help(format!("the cache keeps {kept} keys; give it a window of {window} or none"))),
        None => Err(OpError::operand(1, format!("attention to every key over {cache}"))
            .help(format!("the cache keeps {kept} keys; give the attention such a window, or the cache none"))),
    }
}

fn check_sinks(inference: &Inference<'_>, index: usize, heads: &Dim) -> Result<(), OpError> {
    match inference.optional_tensor(index)? {
        Some(sinks) if sinks.shape[..] != [heads.clone()] => {
            let message = format!("{sinks} has not one sink for each of {heads} query heads");
            Err(OpError::operand(index, message))
        }
        _ => Ok(()),
    }
}

fn check_groups(queries: &Dim, keys: &Dim, index: usize) -> Result<(), OpError> {
    let divides = match (queries, keys) {
        (Dim::Static(queries), Dim::Static(keys)) => *keys > 0 && queries % keys == 0,
        (queries, keys) => queries == keys,
    };
    match divides {
        true => Ok(()),
        false => Err(OpError::operand(index, format!("{queries} query heads cannot share {keys} key heads evenly"))),
    }
}

operation! {
    /// Attention of one sequence: `softmax(scale · q·kᵀ) · v` for each head.
    ///
    /// The last query belongs to the last key. With `causal`, a query sees its own key and earlier ones;
    /// with a window, only the last `window` of these.
    ATTENTION = attention(
        /// `[queries, heads, dim]`.
        q: Float,
        /// `[keys, key heads, dim]`.
        k: Float,
        /// `[keys, key heads, value dim]`.
        v: Float,
        /// `[heads]`: the logits of attention sinks.
        sinks: [Float?],
    ), Attention {
        /// Whether later keys are hidden.
        causal: bool = true,
        /// Factor on the products of queries and keys, commonly `1/√dim`.
        scale: f64,
        /// How many keys a query sees, its own included; all if absent.
        window: Option<u64>,
    }
    infer: infer_attention,
    sharding: |_, operands, _| {
        let mut rule = ShardingRule::new();
        let (query, group) = (rule.factor(FactorKind::Parallel), rule.factor(FactorKind::Parallel));
        let (head, value) = (rule.factor(FactorKind::Parallel), rule.factor(FactorKind::Parallel));
        let (key, element) = (rule.factor(FactorKind::Whole), rule.factor(FactorKind::Whole));
        rule.operands.push(vec![vec![query], vec![head, group], vec![element]]);
        let mut rule = rule.operand([key, head, element]).operand([key, head, value]);
        if operands.len() > 3 {
            rule.operands.push(vec![vec![head, group]]);
        }
        rule.results.push(vec![vec![query], vec![head, group], vec![value]]);
        rule
    },
    evaluate: evaluate_attention,
}

fn infer_attention(op: &Attention, inference: &Inference<'_>) -> Result<ResultTypes, OpError> {
    let q = inference.tensor_of_rank(0, 3)?;
    let k = inference.tensor_of_rank(1, 3)?;
    let v = inference.tensor_of_rank(2, 3)?;
    if q.shape[2] != k.shape[2] {
        return Err(OpError::operand(1, format!("the heads of {q} and {k} differ in length")));
    }
    check_groups(&q.shape[1], &k.shape[1], 1)?;
    check_sinks(inference, 3, &q.shape[1])?;
    if k.shape[..2] != v.shape[..2] {
        return Err(OpError::operand(2, format!("{k} and {v} differ in keys or heads")));
    }
    check_scale(op.scale)?;
    check_window(op.window)?;
    let shape = [q.shape[0].clone(), q.shape[1].clone(), v.shape[2].clone()];
    one_result(inference.in_written_storage(q.with_shape(shape)))
}

fn evaluate_attention(op: &Attention, evaluation: &mut Evaluation<'_>) -> Result<Vec<Value>, EvaluationError> {
    let (q, k, v) = (evaluation.tensor(0)?, evaluation.tensor(1)?, evaluation.tensor(2)?);
    let (queries, keys, key_heads) = (q.shape()[0], k.shape()[0], k.shape()[1]);
    let (key_size, value_size) = (k.shape()[2], v.shape()[2]);
    let (key_elements, value_elements) = (k.to_floats(), v.to_floats());
    let heads = Heads {
        queries: q,
        sinks: optional_floats(evaluation, 3)?,
        key_heads,
        value_size,
        scale: op.scale,
        key: &|key, head| &key_elements[(key * key_heads + head) * key_size..][..key_size],
        value: &|key, head| &value_elements[(key * key_heads + head) * value_size..][..value_size],
    };
    let visible = |query: usize| {
        // The place after the last visible key; without `causal` that is the end.
        let own = (query + keys).saturating_sub(queries);
        let has_own = query + keys >= queries;
        let limit = if !op.causal {
            keys
        } else if has_own {
            own + 1
        } else {
            0
        };
        let start = match op.window {
            Some(window) if has_own => (own + 1).saturating_sub(window as usize),
            _ => 0,
        };
        start..limit
    };
    Ok(vec![heads.attend(visible)?.into()])
}

/// The elements of the operand `index`, if it is there.
fn optional_floats(evaluation: &Evaluation<'_>, index: usize) -> Result<Option<Arc<Vec<f64>>>, EvaluationError> {
    match index < evaluation.operand_count() {
        true => Ok(Some(evaluation.tensor(index)?.to_floats())),
        false => Ok(None),
    }
}

/// Attention of tokens over keys that a function finds.
struct Heads<'a, K, V> {
    queries: &'a Tensor,
    /// The sink of each query head.
    sinks: Option<Arc<Vec<f64>>>,
    key_heads: usize,
    value_size: usize,
    scale: f64,
    /// The key at a place, of a head.
    key: K,
    /// The value at a place, of a head.
    value: V,
}

impl<'a, K, V> Heads<'a, K, V>
where
    K: Fn(usize, usize) -> &'a [f64] + Sync,
    V: Fn(usize, usize) -> &'a [f64] + Sync,
{
    /// The result for every query, given the range of places that each sees.
    fn attend(&self, visible: impl Fn(usize) -> std::ops::Range<usize> + Sync) -> Result<Tensor, EvaluationError> {
        let [tokens, heads, size] = *self.queries.shape() else {
            return Err(EvaluationError::operation("queries have three dimensions"));
        };
        let group = heads / self.key_heads.max(1);
        let queries = self.queries.to_floats();
        let mut result = vec![0.0; tokens * heads * self.value_size];
        result.par_chunks_mut(self.value_size.max(1)).enumerate().for_each(|(row, out)| {
            let query = &queries[row * size..(row + 1) * size];
            let head = row % heads / group;
            let places = visible(row / heads);
            let products: Vec<f64> = places
                .clone()
                .map(|place| {
                    let key = (self.key)(place, head);
                    self.scale * query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>()
                })
                .collect();
            let sink = self.sinks.as_ref().map_or(f64::NEG_INFINITY, |sinks| sinks[row % heads]);
            let largest = products.iter().copied().fold(sink, f64::max);
            let weights: Vec<f64> = products.iter().map(|x| (x - largest).exp()).collect();
            let sum = weights.iter().sum::<f64>() + if sink > f64::NEG_INFINITY { (sink - largest).exp() } else { 0.0 };
            for (place, weight) in places.zip(&weights) {
                let value = (self.value)(place, head);
                out.iter_mut().zip(value).for_each(|(out, v)| *out += weight / sum * v);
            }
        });
        Ok(Tensor::from_floats(Storage::F64, [tokens, heads, self.value_size], result)?)
    }
}

/// The cache pages of the tokens of a ragged step.
struct Pages {
    positions: Vec<usize>,
    sequences: Vec<usize>,
    table: Vec<i64>,
    table_width: usize,
    page_size: usize,
    pages: usize,
}

impl Pages {
    /// Reads positions, sequences and page table from the operands at `first` and after.
    fn read(
        evaluation: &Evaluation<'_>,
        first: usize,
        ty: &KvCacheType,
        pages: usize,
    ) -> Result<Pages, EvaluationError> {
        let naturals = |index: usize, what: &str| {
            let values = evaluation.tensor(index)?.to_integers();
            let natural = |value: &i64| {
                usize::try_from(*value).map_err(|_| EvaluationError::operation(format!("{what} {value} is negative")))
            };
            values.iter().map(natural).collect::<Result<Vec<usize>, EvaluationError>>()
        };
        let table = evaluation.tensor(first + 2)?;
        Ok(Pages {
            positions: naturals(first, "position")?,
            sequences: naturals(first + 1, "sequence")?,
            table: table.to_integers().to_vec(),
            table_width: table.shape()[1],
            page_size: ty.page_size as usize,
            pages,
        })
    }

    /// Page and slot of a position of a sequence.
    fn place(&self, sequence: usize, position: usize) -> Result<(usize, usize), EvaluationError> {
        let column = position / self.page_size;
        let row = sequence.checked_mul(self.table_width);
        let entry = match row {
            Some(row) if column < self.table_width => self.table.get(row + column).copied(),
            _ => None,
        };
        let page = entry.and_then(|page| usize::try_from(page).ok()).filter(|page| *page < self.pages);
        match page {
            Some(page) => Ok((page, position % self.page_size)),
            None => Err(EvaluationError::operation(match entry {
                Some(page) => format!(
                    "the page table gives page {page} for position {position} of sequence {sequence}; the cache has {} pages",
                    self.pages
                ),
                None => format!("the page table has no entry for position {position} of sequence {sequence}"),
            })),
        }
    }
}

/// Checks positions, sequences and page table at `first` and after, for `tokens` tokens.
fn check_pages(inference: &Inference<'_>, first: usize, tokens: &Dim) -> Result<(), OpError> {
    require(inference, first, std::slice::from_ref(tokens), Storage::I32)?;
    require(inference, first + 1, std::slice::from_ref(tokens), Storage::I32)?;
    let table = inference.tensor_of_rank(first + 2, 2)?;
    match table.storage() {
        Storage::I32 => Ok(()),
        storage => Err(OpError::operand(first + 2, format!("the page table is of i32, not {storage}"))),
    }
}

fn check_layer(layer: usize, cache: &KvCacheType) -> Result<(), OpError> {
    match (layer as u64) < cache.layers {
        true => Ok(()),
        false => Err(OpError::attribute("layer", format!("{cache} has no layer {layer}"))),
    }
}

operation! {
    /// Writes keys and values of the tokens of a step into the cache, and gives the cache so changed.
    ///
    /// The elements are rounded to the cache's storage. No two tokens may have the same place.
    KV_APPEND = kv_append(
        /// The cache.
        cache: Cache,
        /// `[tokens, key heads, dim]`.
        k: Float,
        /// `[tokens, key heads, dim]`.
        v: Float,
        /// `[tokens]`, i32.
        positions: Integer,
        /// `[tokens]`, i32.
        sequences: Integer,
        /// `[sequences, pages]`, i32.
        page_table: Integer,
    ), KvAppend {
        /// The layer of the cache.
        layer: usize,
    }
    infer: |op, inference| {
        let cache = inference.cache(0)?;
        let k = inference.tensor_of_rank(1, 3)?;
        for index in [1, 2] {
            let part = inference.tensor(index)?;
            if part.rank() != 3 || part.shape[1..] != [cache.heads.into(), cache.dim.into()] {
                return Err(OpError::operand(index, format!("{part} has not the heads of {cache}")));
            }
            if part.shape[0] != k.shape[0] {
                return Err(OpError::operand(index, format!("{k} and {part} differ in tokens")));
            }
        }
        check_pages(inference, 3, &k.shape[0])?;
        check_layer(op.layer, cache)?;
        one_result(cache.clone())
    },
    sharding: |_, _, _| {
        let mut rule = ShardingRule::new();
        let head = rule.factor(FactorKind::Parallel);
        let [token, element, sequence, page] = [(); 4].map(|()| rule.factor(FactorKind::Whole));
        rule.operand([])
            .operand([token, head, element])
            .operand([token, head, element])
            .operand([token])
            .operand([token])
            .operand([sequence, page])
            .result([])
    },
    evaluate: |op, evaluation| {
        let mut cache = evaluation.take_cache(0)?;
        let pages = Pages::read(evaluation, 3, cache.ty(), cache.pages())?;
        let storage = cache.ty().storage;
        let size = (cache.ty().heads * cache.ty().dim) as usize;
        for (part, index) in [(0, 1), (1, 2)] {
            let tensor = evaluation.tensor(index)?;
            let mut elements = tensor.to_floats().to_vec();
            storage.round_slice(&mut elements, tensor.shape());
            for (token, position) in pages.positions.iter().enumerate() {
                let (page, slot) = pages.place(pages.sequences[token], *position)?;
                cache
                    .token_mut(op.layer, part, page, slot)
                    .copy_from_slice(&elements[token * size..(token + 1) * size]);
            }
        }
        Ok(vec![cache.into()])
    },
}

operation! {
    /// Causal attention of the tokens of a step over the cache: token `t` sees the keys at positions 0 to
    /// `positions[t]` of its sequence, or with a window the last `window` of these. Its own key must have
    /// been appended.
    PAGED_ATTENTION = paged_attention(
        /// `[tokens, heads, dim]`.
        q: Float,
        /// The cache.
        cache: Cache,
        /// `[tokens]`, i32.
        positions: Integer,
        /// `[tokens]`, i32.
        sequences: Integer,
        /// `[sequences, pages]`, i32.
        page_table: Integer,
        /// `[heads]`: the logits of attention sinks.
        sinks: [Float?],
    ), PagedAttention {
        /// The layer of the cache.
        layer: usize,
        /// Factor on the products of queries and keys, commonly `1/√dim`.
        scale: f64,
        /// How many keys a token sees, its own included; all if absent.
        window: Option<u64>,
        /// Whether kernels may compute the softmax as keys come, rescaling what they have summed when a larger score
        /// turns up (flash attention). If not, a first visit of the keys finds each row's largest score and sum of
        /// exponentials, and a second weighs the values with them. The result is the same.
        online: bool = true,
    }
    infer: |op, inference| {
        let q = inference.tensor_of_rank(0, 3)?;
        let cache = inference.cache(1)?;
        if q.shape[2] != Dim::Static(cache.dim) {
            return Err(OpError::operand(0, format!("the heads of {q} and {cache} differ in length")));
        }
        check_groups(&q.shape[1], &Dim::Static(cache.heads), 0)?;
        check_sinks(inference, 5, &q.shape[1])?;
        check_pages(inference, 2, &q.shape[0])?;
        check_layer(op.layer, cache)?;
        check_scale(op.scale)?;
        check_window(op.window)?;
        check_bound(op.window, cache)?;
        one_result(inference.in_written_storage(q.with_shape(q.shape.clone())))
    },
    sharding: |_, operands: &[&Type], _| {
        let mut rule = ShardingRule::new();
        let (token, head) = (rule.factor(FactorKind::Parallel), rule.factor(FactorKind::Parallel));
        let [element, sequence, page] = [(); 3].map(|()| rule.factor(FactorKind::Whole));
        let rule = rule.operand([token, head, element])
            .operand([])
            .operand([token])
            .operand([token])
            .operand([sequence, page]);
        let rule = if operands.len() > 5 { rule.operand([head]) } else { rule };
        rule.result([token, head, element])
    },
    evaluate: |op, evaluation| {
        let (q, cache) = (evaluation.tensor(0)?, evaluation.cache(1)?);
        let pages = Pages::read(evaluation, 2, cache.ty(), cache.pages())?;
        let (heads, size) = (cache.ty().heads as usize, cache.ty().dim as usize);
        // A place counts through the visible keys of all tokens, one after the other.
        let (mut places, mut ranges) = (Vec::new(), Vec::new());
        for (token, position) in pages.positions.iter().enumerate() {
            let start = op.window.map_or(0, |window| (position + 1).saturating_sub(window as usize));
            let first = places.len();
            for key in start..=*position {
                places.push(pages.place(pages.sequences[token], key)?);
            }
            ranges.push(first..places.len());
        }
        let part = |part: usize, place: usize, head: usize| {
            let (page, slot) = places[place];
            &cache.token(op.layer, part, page, slot)[head * size..(head + 1) * size]
        };
        let heads = Heads {
            queries: q,
            sinks: optional_floats(evaluation, 5)?,
            key_heads: heads,
            value_size: size,
            scale: op.scale,
            key: |place, head| part(0, place, head),
            value: |place, head| part(1, place, head),
        };
        Ok(vec![heads.attend(|token| ranges[token].clone())?.into()])
    },
}
