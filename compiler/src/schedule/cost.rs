//! The cost model: which strategy and which tiles a region gets.
//!
//! It looks at what the region has (a matrix product, attention, rows that are reduced, or none of them), at the sizes that are known, and
//! at the target. Where a size is a symbol and the best tiles for few rows and for many differ, the kernel gets a variant for each, and the plan
//! picks by the symbol's value when it runs.
//!
//! - **Host.** One program is what one thread does without a break. Few rows (decode) are bound by reading weights: tiles are all the rows
//!   and a wide run of columns, so that each thread reads long runs of memory. Many rows (prefill) are bound by arithmetic: tiles fit the
//!   registers and the first cache.
//! - **NVIDIA.** Tiles are powers of two. Matrix tiles are sized for tensor cores, with loads staged through shared memory; with few rows they are
//!   narrow, so that there are enough programs for all multiprocessors.

use std::collections::BTreeMap;

use tessera_ir::{Dim, Graph, Name, Op, Shape, Storage, Type, ValueId, ops};

use super::emitter::{Phase, Shaping};
use super::error::ScheduleError;
use super::packing::is_packable;
use super::strategy::{KNOBS, Strategy, Tiling};
use crate::target::Target;
use crate::target::host::STREAMED_ROWS;
use crate::tile::LARGEST_TILE;

/// What the cost model knows of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The target.
    pub target: Target,
    /// Threads of the host.
    pub threads: u32,
}

impl Machine {
    /// The target with as many threads as this machine runs at once.
    pub fn native(target: Target) -> Machine {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Machine { target, threads: u32::try_from(threads).unwrap_or(1) }
    }
}

/// A tiling, and for which values of a symbol it is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The tiling.
    pub tiling: Tiling,
    /// For values of this symbol from the first to the second number, both inclusive; always where there is none.
    pub when: Option<(Name, u64, u64)>,
}

/// Values of knobs that the user has set, by `strategy.knob`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    values: BTreeMap<(String, String), u32>,
}

impl Overrides {
    /// Reads `strategy.knob=value`, several with commas between them.
    ///
    /// # Errors
    /// There is no such strategy or knob, or the value is no number above 0.
    pub fn parse(text: &str) -> Result<Overrides, ScheduleError> {
        let mut overrides = Overrides::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let error = |reason: String| ScheduleError::Knob { text: part.to_string(), reason };
            let (path, value) =
                part.split_once('=').ok_or_else(|| error("write it as strategy.knob=value".to_string()))?;
            let (strategy, knob) =
                path.trim().split_once('.').ok_or_else(|| error("write it as strategy.knob=value".to_string()))?;
            // The reader of schedules knows what is right.
            format!("{strategy} {knob}={}", value.trim()).parse::<Tiling>().map_err(error)?;
            let value = value.trim().parse().map_err(|_| error(format!("`{value}` is no number")))?;
            overrides.values.insert((strategy.to_string(), knob.to_string()), value);
        }
        Ok(overrides)
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    fn apply(&self, tiling: &mut Tiling) {
        for (name, _, _) in KNOBS {
            let key = (tiling.strategy.name().to_string(), name.to_string());
            if let (Some(value), Some(knob)) = (self.values.get(&key), tiling.knob(name)) {
                *knob = *value;
            }
        }
    }
}

impl std::fmt::Display for Overrides {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> =
            self.values.iter().map(|((strategy, knob), value)| format!("{strategy}.{knob}={value}")).collect();
        f.write_str(&parts.join(","))
    }
}

/// What the target wants of tiles under a tiling.
pub fn shaping(target: Target, tiling: &Tiling) -> Shaping {
    Shaping {
        powers_of_two: target.chip().is_some(),
        longest_chunk: tiling.chunk,
        largest_chunk: tiling.chunk.saturating_mul(tiling.rows),
        dot_chunk: tiling.inner,
        rows_apart: target.chip().is_some(),
        attention_chunk: tiling.keys,
        phase: Phase::Whole,
    }
}

/// Ops that look at whole rows.
const REDUCING: [Op; 11] = [
    ops::REDUCE_SUM,
    ops::REDUCE_MAX,
    ops::REDUCE_MIN,
    ops::REDUCE_MEAN,
    ops::ARGMAX,
    ops::SOFTMAX,
    ops::LAYER_NORM,
    ops::RMS_NORM,
    ops::TOP_K,
    ops::TAKE,
    ops::SAMPLE,
];

/// Whether a region looks at whole rows.
pub fn reduces(graph: &Graph) -> bool {
    graph.operations().any(|(_, operation)| REDUCING.contains(&operation.op()))
}

/// The tiling of kernels that reduce rows.
pub fn rows(machine: &Machine, overrides: &Overrides) -> Tiling {
    let chunk = if machine.target == Target::Host { 1 << 14 } else { 8192 };
    let mut tiling = Tiling { columns: chunk, chunk, ..Tiling::new(Strategy::Rows) };
    overrides.apply(&mut tiling);
    tiling
}

/// What decides about a region.
struct Traits {
    strategy: Strategy,
    /// The value that the rows and columns are those of.
    anchor: Option<ValueId>,
    /// Width of heads whose halves are rotated.
    rotated: Option<u64>,
}

/// The first tensor that a region stores.
fn stored_value(graph: &Graph) -> Option<ValueId> {
    let output = graph.outputs().first().copied()?;
    match graph.defining(output) {
        Some(operation) if operation.is(ops::KV_APPEND) => graph.operands(output.node).get(1).copied(),
        _ => Some(output),
    }
}

fn traits(graph: &Graph) -> Traits {
    let mut found = Traits { strategy: Strategy::Elementwise, anchor: stored_value(graph), rotated: None };
    for (node, operation) in graph.operations() {
        let value = ValueId::first(node);
        let strategy = match operation.op() {
            ops::ATTENTION | ops::PAGED_ATTENTION => Strategy::Attention,
            ops::MATMUL | ops::GROUPED_MATMUL => Strategy::Matmul,
            op if REDUCING.contains(&op) => Strategy::Rows,
            _ => Strategy::Elementwise,
        };
        let rank = |strategy| match strategy {
            Strategy::Attention => 3,
            Strategy::Matmul => 2,
            Strategy::Rows => 1,
            _ => 0,
        };
        if rank(strategy) > rank(found.strategy) {
            found.strategy = strategy;
            if rank(strategy) > 1 {
                found.anchor = Some(value);
            }
        }
        if let Some(ops::Rope { style: ops::RopeStyle::SplitHalf, .. }) = operation.downcast() {
            found.rotated = graph.value_type(value).as_tensor().and_then(|ty| ty.shape.last()?.as_static());
        }
    }
    found
}

/// Rows and columns of the anchor: the last dimension, and all others.
fn rows_and_columns(graph: &Graph, value: Option<ValueId>) -> (Shape, Option<u64>) {
    let shape = value.and_then(|value| graph.value_type(value).as_tensor()).map(|ty| ty.shape.clone());
    let shape = shape.unwrap_or_default();
    match shape.split_last() {
        Some((last, rows)) => (rows.iter().cloned().collect(), last.as_static()),
        None => (Shape::scalar(), Some(1)),
    }
}

/// The tilings of a region, best guess, and what the user overrides.
pub fn choose(graph: &Graph, machine: &Machine, overrides: &Overrides) -> Vec<Variant> {
    let traits = traits(graph);
    let (rows, columns) = rows_and_columns(graph, traits.anchor);
    let whole_rows = self::rows(machine, overrides);
    let mut variants = match machine.target {
        _ if traits.strategy == Strategy::Rows => always(whole_rows),
        Target::Host => host(&traits, graph, &rows, columns, machine.threads.into()),
        Target::Cuda(_) => cuda(&traits, graph, &rows, columns),
    };
    for variant in &mut variants {
        overrides.apply(&mut variant.tiling);
    }
    variants
}

/// One tiling for each range of the number of rows, by the only symbol among them, if there is one: `steps` are tilings with the most rows
/// that each is for, in increasing order; `many` is for more.
fn by_rows(rows: &Shape, steps: Vec<(Tiling, u64)>, many: Tiling) -> Vec<Variant> {
    let symbols: Vec<&Dim> = rows.iter().filter(|dim| dim.as_static().is_none()).collect();
    match symbols.as_slice() {
        [] => {
            let count = rows.element_count().unwrap_or(u64::MAX);
            let fitting = steps.into_iter().find(|(_, most)| count <= *most);
            vec![Variant { tiling: fitting.map_or(many, |(tiling, _)| tiling), when: None }]
        }
        [Dim::Symbol(name)] => {
            let factor = rows.iter().filter_map(Dim::as_static).product::<u64>().max(1);
            let mut variants = Vec::new();
            let mut from = 0;
            for (tiling, most) in steps {
                let most = most / factor;
                if most >= from && most > 0 {
                    variants.push(Variant { tiling, when: Some((name.clone(), from, most)) });
                    from = most + 1;
                }
            }
            let when = (from > 0).then(|| (name.clone(), from, u64::MAX));
            variants.push(Variant { tiling: many, when });
            variants
        }
        _ => vec![Variant { tiling: many, when: None }],
    }
}

fn always(tiling: Tiling) -> Vec<Variant> {
    vec![Variant { tiling, when: None }]
}

/// The least multiple of the rotated heads' width that is no less than `columns`, in two pieces for each head.
fn with_rotation(mut tiling: Tiling, rotated: Option<u64>) -> Tiling {
    if let Some(width) = rotated.and_then(|width| u32::try_from(width).ok()).filter(|width| *width > 0) {
        tiling.columns = tiling.columns.max(width) / width * width;
        tiling.pieces = tiling.columns / width * 2;
    }
    tiling
}

/// Elements that a program of an elementwise kernel works on.
const HOST_ELEMENTS: u64 = 4096;

/// Bytes of a packed panel of the right-hand side of a product. It may be more than a second-level cache holds: a part of it at a time, which the
/// first level holds, meets all rows of a tile.
const HOST_PANEL_BYTES: u64 = 4 << 20;

/// Columns of a packed panel from which on the left-hand side is read seldom enough.
const HOST_WIDEST_PANEL: u64 = 192;

/// Columns that are read side by side at least, where memory is row-major: shorter runs waste the prefetchers.
const HOST_SHORTEST_RUN: u64 = 512;

/// Rows of a row-major matrix that a program reads at least, where programs share rows out: each writes a row of sums.
const HOST_FEWEST_ROWS: u64 = 64;

/// Longest part of an inner dimension that one product takes: practically all of it.
const HOST_INNER: u64 = 1 << 20;

/// Bytes of the right-hand side that a program reads where there are few rows: 10 to 20 microseconds' worth, so that threads that get them one by one
/// in the end are done together, and starting a program takes little of its time.
const HOST_STREAMED_BYTES: u64 = 192 << 10;

/// The same of an expert's matrix, whose programs prepare their rows themselves.
const HOST_EXPERT_BYTES: u64 = 512 << 10;

/// Tiles of the host: see the documentation of [`crate::target::host`] for what its products want.
fn host(traits: &Traits, graph: &Graph, rows: &Shape, columns: Option<u64>, threads: u64) -> Vec<Variant> {
    match traits.strategy {
        Strategy::Elementwise | Strategy::Rows | Strategy::Flat => {
            let columns = columns.unwrap_or(HOST_ELEMENTS).clamp(1, HOST_ELEMENTS);
            let rows = (HOST_ELEMENTS / columns).clamp(1, 64);
            always(Tiling { rows: rows as u32, columns: columns as u32, ..Tiling::new(Strategy::Elementwise) })
        }
        Strategy::Attention => {
            let tiling = |rows| Tiling { rows, keys: 64, ..Tiling::new(Strategy::Attention) };
            let tokens = rows.first().cloned().into_iter().collect();
            by_rows(&tokens, vec![(tiling(1), 8)], tiling(64))
        }
        Strategy::Matmul | Strategy::Experts if Product::of(graph).is_grouped => {
            let product = Product::of(graph);
            let tiling =
                |rows, columns| Tiling { rows, columns, inner: HOST_INNER as u32, ..Tiling::new(Strategy::Experts) };
            let of_a_token = rows.iter().skip(1).filter_map(Dim::as_static).product::<u64>().max(1);
            let few =
                tiling(1, columns.map_or(16, |columns| product.streamed_columns(columns, HOST_EXPERT_BYTES)) as u32);
            by_rows(rows, vec![(few, of_a_token)], tiling(64, HOST_WIDEST_PANEL as u32))
        }
        Strategy::Matmul | Strategy::Experts => {
            let product = Product::of(graph);
            let tiling = |rows, columns: u64| {
                // Every rotated head of a tile is a copy of the loops: no more of them than the order of memory asks for.
                let columns = match traits.rotated {
                    Some(width) if product.transposed => columns.min(width),
                    Some(_) => columns.min(HOST_SHORTEST_RUN),
                    None => columns,
                };
                let tiling =
                    Tiling { rows, columns: columns as u32, inner: HOST_INNER as u32, ..Tiling::new(Strategy::Matmul) };
                with_rotation(tiling, traits.rotated)
            };
            let columns = columns.unwrap_or(HOST_SHORTEST_RUN).max(1);
            // A few programs for each thread; more only where the runs stay long.
            let share =
                |count: u64| columns.div_ceil(count.max(1)).next_multiple_of(64).min(columns.next_multiple_of(16));
            let programs = threads * 2;
            let narrow = match share(programs) {
                narrow if product.transposed || narrow >= HOST_SHORTEST_RUN => narrow,
                _ => share(threads),
            };
            // Equal tiles: the last of unequal ones costs a round of all threads.
            let most = (HOST_PANEL_BYTES / (product.inner.max(1) * product.bytes)).clamp(64, HOST_WIDEST_PANEL);
            let panel = share(columns.div_ceil(most).max(threads)).max(64);
            // Threads that read a row-major matrix by columns read it in turns, a row's piece each, which memory is slow at. So they
            // share its rows out and add up what they find, in more parts than there are threads: not all are equally fast.
            let most_splits = programs.min(product.inner / HOST_FEWEST_ROWS);
            let splits = (2..=most_splits).rev().find(|splits| super::steps::splittable(graph, *splits).is_some());
            let widest = |inner: u64| (LARGEST_TILE as u64 / inner.clamp(1, HOST_INNER) / 64 * 64).max(16);
            let few = |rows| match splits {
                Some(splits) => {
                    let columns = share(programs / splits).max(HOST_SHORTEST_RUN).min(columns.next_multiple_of(16));
                    let columns = columns.min(widest(product.inner.div_ceil(splits)));
                    Tiling { splits: splits as u32, ..tiling(rows, columns) }
                }
                None if product.transposed => {
                    tiling(rows, narrow.min(product.streamed_columns(columns, HOST_STREAMED_BYTES)))
                }
                None => tiling(rows, narrow.min(widest(product.inner))),
            };
            let many = tiling(96, panel.min(widest(product.inner)));
            by_rows(
                rows,
                vec![(few(1), 1), (stored(graph, few(STREAMED_ROWS)), STREAMED_ROWS.into())],
                stored(graph, many),
            )
        }
    }
}

/// What the right-hand side of a region's product is like.
struct Product {
    /// Its inner dimension; 1 where that is not known.
    inner: u64,
    /// Bytes of an element as it is multiplied.
    bytes: u64,
    /// Bytes of a column as it is stored, without scales.
    column_bytes: u64,
    /// Whether it lies in memory by columns.
    transposed: bool,
    /// Whether each row has a matrix of its own.
    is_grouped: bool,
    /// How many matrices there are then.
    experts: u64,
    /// Whether tensor cores take the matrices from memory as they lie there.
    is_streamed: bool,
}

impl Product {
    fn of(graph: &Graph) -> Product {
        let found = graph.operations().find_map(|(node, operation)| {
            let is_grouped = operation.is(ops::GROUPED_MATMUL);
            let transposed = match operation.downcast() {
                Some(ops::Matmul { transpose_rhs }) => transpose_rhs,
                None if is_grouped => true,
                None => return None,
            };
            let lhs = graph.value_type(graph.operands(node)[0]).as_tensor()?;
            let bytes = if lhs.storage() == Storage::F32 { 4 } else { 2 };
            let rhs = graph.value_type(graph.operands(node)[1]).as_tensor()?;
            let experts = rhs.shape.first().filter(|_| is_grouped).and_then(Dim::as_static).unwrap_or(1);
            let is_streamed = is_grouped && is_packable(lhs.storage(), rhs.storage());
            let inner = lhs.shape.last()?.as_static().unwrap_or(1);
            let column_bytes = stored_as(graph, graph.operands(node)[1])?.bytes(inner);
            Some(Product { inner, bytes, column_bytes, transposed, is_grouped, experts, is_streamed })
        });
        found.unwrap_or(Product {
            inner: 1,
            bytes: 4,
            column_bytes: 4,
            transposed: false,
            is_grouped: false,
            experts: 1,
            is_streamed: false,
        })
    }

    /// Columns of a program that streams about so many bytes of a matrix whose columns lie in memory one after the other: equal tiles of them.
    fn streamed_columns(&self, columns: u64, bytes: u64) -> u64 {
        let most = (bytes / self.column_bytes.max(1)).max(16);
        columns.div_ceil(columns.div_ceil(most).max(1)).next_multiple_of(16)
    }
}

/// What a tensor is stored as that is converted before it is used.
fn stored_as(graph: &Graph, mut value: ValueId) -> Option<Storage> {
    while let Some(operation) = graph.defining(value)
        && [ops::CAST, ops::DEQUANTIZE].contains(&operation.op())
    {
        value = *graph.operands(value.node).first()?;
    }
    Some(graph.value_type(value).as_tensor()?.storage())
}

/// Elements of a tile that four warps hold in registers beside others.
const CUDA_TILE_ELEMENTS: u32 = 8192;

/// With several rows, what is reduced over them is computed once and not for every tile of columns.
fn stored(graph: &Graph, tiling: Tiling) -> Tiling {
    let prologue = if super::steps::prologue(graph).is_some() { 2 } else { 1 };
    Tiling { prologue, ..tiling }
}

fn cuda(traits: &Traits, graph: &Graph, rows: &Shape, columns: Option<u64>) -> Vec<Variant> {
    let width = |most: u64| columns.map_or(most, |columns| columns.next_power_of_two().clamp(1, most)) as u32;
    let is_f32 = graph.operations().any(|(node, operation)| {
        (operation.is(ops::MATMUL) || operation.is(ops::GROUPED_MATMUL))
            && graph
                .operands(node)
                .iter()
                .any(|operand| matches!(graph.value_type(*operand), Type::Tensor(ty) if ty.storage() == Storage::F32))
    });
    match traits.strategy {
        Strategy::Elementwise | Strategy::Rows | Strategy::Flat => {
            always(Tiling { columns: width(1024), ..Tiling::new(Strategy::Elementwise) })
        }
        Strategy::Attention => {
            // Few tokens are few programs: the keys are split so that all multiprocessors take part.
            let few = Tiling { rows: 16, keys: 64, splits: 8, stages: 2, ..Tiling::new(Strategy::Attention) };
            let many = Tiling { rows: 64, keys: 64, stages: 2, ..Tiling::new(Strategy::Attention) };
            let tokens = rows.first().cloned().into_iter().collect();
            by_rows(&tokens, vec![(few, 16)], many)
        }
        Strategy::Matmul | Strategy::Experts => {
            let stages = if is_f32 { 2 } else { 3 };
            // What is reduced over the rows of a tile is in registers, and so are products without tensor cores.
            let tiling = |rows, columns, inner, warps| {
                let chunk = CUDA_TILE_ELEMENTS / rows;
                let tiling = Tiling { rows, columns, inner, chunk, stages, warps, ..Tiling::new(Strategy::Matmul) };
                with_rotation(tiling, traits.rotated)
            };
            let product = Product::of(graph);
            if product.is_grouped {
                let stored = rows_and_columns(graph, stored_value(graph)).1;
                let share = columns.zip(stored).map_or(1, |(columns, stored)| (columns / stored.max(1)).max(1));
                return experts(rows, &product, share, stages);
            }
            let warps = if is_f32 { 8 } else { 4 };
            by_rows(rows, vec![(tiling(16, 64, 64, 4), 16)], stored(graph, tiling(64, 128, 32, warps)))
        }
    }
}

/// Columns of a GPU program's tile of an expert's product, and the chunks that it sums over: two blocks of MXFP4.
const CUDA_EXPERT_TILE: [u32; 2] = [128, 64];

/// The same where few rows meet weights that go from memory to registers: each of four warps sums 64 steps of a chunk, so that many loads are on
/// their way at a time.
const CUDA_STREAMED_TILE: [u32; 2] = [32, 256];

/// Tiles of grouped products on a GPU. Rows of a token have different experts, so that few tokens read each matrix once in any case; the more
/// rows an expert has on average, the taller its tiles. `share` is of how many columns of the product one that is stored is made.
fn experts(rows: &Shape, product: &Product, share: u64, stages: u32) -> Vec<Variant> {
    let stored = |columns: u32| (columns / share.next_power_of_two() as u32).max(16);
    let [columns, inner] = CUDA_EXPERT_TILE;
    let columns = stored(columns);
    let tiling = |rows, columns| Tiling { rows, columns, inner, stages, ..Tiling::new(Strategy::Experts) };
    let few = |rows, columns| match product.is_streamed {
        true => Tiling { inner: CUDA_STREAMED_TILE[1], ..tiling(rows, stored(CUDA_STREAMED_TILE[0])) },
        false => tiling(rows, columns),
    };
    let of_a_token = rows.iter().skip(1).filter_map(Dim::as_static).product::<u64>().max(1);
    let average = |rows: u64| (rows * product.experts).max(of_a_token);
    let mut steps = vec![
        (few(1, columns / 2), of_a_token),
        (few(8, columns), average(4)),
        (tiling(16, columns), average(12)),
        (tiling(64, columns), average(96)),
    ];
    // Each column that a thread converts should meet as many rows as there are registers for their sums; several products have none to spare.
    let tallest =
        if share == 1 { tiling(128, columns / 2) } else { steps.pop().map_or(tiling(64, columns), |(last, _)| last) };
    by_rows(rows, steps, tallest)
}

/// Writes variants as `tiling if T in 1..=4; tiling if T in 5..`.
pub fn write(variants: &[Variant]) -> String {
    let texts = variants.iter().map(|variant| match &variant.when {
        None => variant.tiling.to_string(),
        Some((symbol, from, u64::MAX)) => format!("{} if {symbol} in {from}..", variant.tiling),
        Some((symbol, from, to)) => format!("{} if {symbol} in {from}..={to}", variant.tiling),
    });
    texts.collect::<Vec<_>>().join("; ")
}

/// Reads what [`write`] writes.
///
/// # Errors
/// What is wrong with the text.
pub fn read(text: &str) -> Result<Vec<Variant>, String> {
    let variant = |text: &str| {
        let (tiling, condition) = match text.split_once(" if ") {
            None => (text, None),
            Some((tiling, condition)) => (tiling, Some(condition)),
        };
        let when = match condition {
            None => None,
            Some(condition) => {
                let form = || format!("`{condition}` is not SYMBOL in FROM..=TO or SYMBOL in FROM..");
                let (symbol, range) = condition.trim().split_once(" in ").ok_or_else(form)?;
                let (from, to) = range.trim().split_once("..").ok_or_else(form)?;
                let to = match to.strip_prefix('=') {
                    Some(to) => to.parse().map_err(|_| form())?,
                    None if to.is_empty() => u64::MAX,
                    None => return Err(form()),
                };
                Some((Name::from(symbol.trim()), from.parse().map_err(|_| form())?, to))
            }
        };
        Ok(Variant { tiling: tiling.trim().parse()?, when })
    };
    text.split(';').map(variant).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_as_they_are_written() {
        let text = "matmul columns=256 if T in 0..=4; matmul rows=64 columns=64 if T in 5..";
        assert_eq!(write(&read(text).unwrap()), text);
        assert_eq!(write(&read("rows").unwrap()), "rows");
        assert!(read("rows if T < 4").unwrap_err().contains("is not SYMBOL in"));
    }

    #[test]
    fn knobs_are_overridden_by_text() {
        let overrides = Overrides::parse("matmul.rows=8, attention.keys=32").unwrap();
        assert_eq!(overrides.to_string(), "attention.keys=32,matmul.rows=8");
        let error = Overrides::parse("matmul.bm=8").unwrap_err().to_string();
        assert!(error.contains("there is no knob `bm`"), "{error}");
    }
}
