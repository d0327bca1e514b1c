//! Made-up inputs and weights that make sense to a function.
//!
//! Integers are what asks for care: a token must lie in the vocabulary, a page in the cache, and tokens of one sequence must be
//! consecutive. What an integer input is, is read off the operands that it becomes.

use std::collections::BTreeSet;

use tessera_ir::evaluate::{KvCache, Parameters, Symbols, Tensor, TensorError, Value};
use tessera_ir::testing::Random;
use tessera_ir::{Dim, Function, Graph, Module, Name, NodeKind, Shape, Storage, TensorType, Type, ValueId, ops};
use thiserror::Error;

/// Values for a function's inputs and for the module's parameters.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// One for each input of the function.
    pub inputs: Vec<Value>,
    /// One for each parameter of the module.
    pub parameters: Parameters,
    /// The extents of all symbols.
    pub symbols: Symbols,
}

/// The tensors that hold parameters in memory: of block-scaled ones their elements and scales, under the names that a checkpoint has
/// for these and that the pass `unpack` gives them.
///
/// # Errors
/// A tensor cannot be taken apart.
pub fn unpacked(parameters: &Parameters) -> Result<Parameters, TensorError> {
    let mut parts = Parameters::new();
    for (name, tensor) in parameters {
        match tensor.storage().blocks() {
            None => _ = parts.insert(name.clone(), tensor.clone()),
            Some(format) => parts.extend(format.names(name).into_iter().zip(tensor.to_blocks()?)),
        }
    }
    Ok(parts)
}

/// Why no inputs could be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InputError {
    /// The module has no such function.
    #[error("there is no function `@{0}`")]
    UnknownFunction(String),
    /// An extent that no shape of the function mentions.
    #[error("no input or parameter has a dimension {0}")]
    UnknownSymbol(Name),
    /// An extent outside its declared range.
    #[error("{symbol} = {value} lies outside {minimum}..={maximum}")]
    Range {
        /// The symbol.
        symbol: Name,
        /// The extent asked for.
        value: u64,
        /// The least extent declared.
        minimum: u64,
        /// The largest extent declared.
        maximum: u64,
    },
    /// The tokens do not fit the pages that the page table has for them.
    #[error(
        "{tokens} tokens of {sequences} sequences do not fit {pages} pages of {page_size} each; bind fewer tokens or more pages"
    )]
    Capacity {
        /// Tokens in the step.
        tokens: usize,
        /// Sequences that share them.
        sequences: usize,
        /// Pages of each sequence.
        pages: usize,
        /// Tokens of a page.
        page_size: usize,
    },
    /// A tensor could not be made.
    #[error("{what}: {error}")]
    Tensor {
        /// Which.
        what: String,
        /// Why not.
        error: TensorError,
    },
}

/// The extent of a symbol that nobody has bound: small, and no multiple of a tile.
const DEFAULT_EXTENT: u64 = 5;

/// Sequences and pages of a sequence, where nobody has said.
const DEFAULT_SEQUENCES: u64 = 2;

/// Makes inputs and weights for the function `name` of `module`: equal seeds give equal values. Symbols that are not bound get a small extent.
///
/// # Errors
/// The function or a symbol does not exist, an extent is out of range, or a tensor is larger than memory.
pub fn random_inputs(module: &Module, name: &str, bound: &Symbols, seed: u64) -> Result<Inputs, InputError> {
    let function = module.function(name).ok_or_else(|| InputError::UnknownFunction(name.to_owned()))?;
    let mut symbols = extents(module, function, bound)?;
    fit_pages(module, function, bound, &mut symbols)?;
    let mut random = Random::new(seed);
    let mut parameters = Parameters::new();
    for (name, ty) in &module.parameters {
        let shape = shape_of(&ty.shape, &symbols);
        // Keeps sums of products of the size of their factors.
        let fan_in = shape.iter().copied().max().unwrap_or(1).max(1) as f64;
        let deviation = if shape.len() < 2 { 0.5 } else { fan_in.sqrt().recip() };
        let count = shape.iter().product();
        let tensor = match ty.storage().is_float() {
            true => Tensor::from_floats(ty.storage(), shape, random.normal(count, deviation)),
            false => Tensor::from_integers(ty.storage(), shape, random.integers(count, 0, 2)),
        };
        let tensor = tensor.map_err(|error| InputError::Tensor { what: format!("@{name}"), error })?;
        parameters.insert(name.clone(), tensor);
    }
    let batch = Batch::of(&function.graph, &symbols, &mut random);
    let mut inputs = Vec::new();
    for input in function.graph.inputs() {
        let what = || format!("%{}", function.graph.value_name(input).map_or("", Name::as_str));
        let value = match function.graph.value_type(input) {
            Type::Tensor(ty) => {
                input_tensor(&function.graph, input, ty, &symbols, &batch, &mut random).map(Value::Tensor)
            }
            Type::KvCache(ty) => KvCache::new(ty.clone(), batch.pages).map(Value::Cache),
        };
        inputs.push(value.map_err(|error| InputError::Tensor { what: what(), error })?);
    }
    Ok(Inputs { inputs, parameters, symbols })
}

/// Binds every symbol of the function's inputs and of the parameters.
fn extents(module: &Module, function: &Function, bound: &Symbols) -> Result<Symbols, InputError> {
    let mut names: BTreeSet<Name> = BTreeSet::new();
    let inputs = function.inputs().filter_map(|(_, ty)| ty.as_tensor());
    for ty in inputs.chain(module.parameters.values()) {
        names.extend(ty.shape.iter().filter_map(Dim::as_symbol).cloned());
    }
    if let Some(unknown) = bound.keys().find(|symbol| !names.contains(*symbol)) {
        return Err(InputError::UnknownSymbol(unknown.clone()));
    }
    let mut extents = Symbols::new();
    for symbol in names {
        let range = module.symbols.get(&symbol);
        let default = match symbol.as_str() {
            "B" | "P" | "R" => DEFAULT_SEQUENCES,
            _ => DEFAULT_EXTENT,
        };
        let default = range.map_or(default, |range| default.clamp(range.minimum, range.maximum.max(range.minimum)));
        let value = bound.get(&symbol).copied().unwrap_or(default);
        if let Some(range) = range
            && !(range.minimum..=range.maximum).contains(&value)
        {
            return Err(InputError::Range { symbol, value, minimum: range.minimum, maximum: range.maximum });
        }
        extents.insert(symbol, value);
    }
    Ok(extents)
}

/// Gives sequences as many pages as their tokens need, unless the number of pages is bound.
fn fit_pages(module: &Module, function: &Function, bound: &Symbols, symbols: &mut Symbols) -> Result<(), InputError> {
    let graph = &function.graph;
    let page_size = graph.inputs().find_map(|input| graph.value_type(input).as_cache().map(|cache| cache.page_size));
    let (mut tokens, mut table) = (0, None);
    for input in graph.inputs() {
        let Some(ty) = graph.value_type(input).as_tensor() else { continue };
        match (meaning(graph, input, symbols), shape_of(&ty.shape, symbols).as_slice()) {
            (Meaning::Positions, [count]) => tokens = *count,
            (Meaning::PageTable, [sequences, pages]) => table = Some((*sequences, *pages, ty.shape[1].clone())),
            _ => {}
        }
    }
    let (Some(page_size), Some((sequences, pages, dim))) = (page_size.filter(|size| *size > 0), table) else {
        return Ok(());
    };
    let page_size = page_size as usize;
    let needed = tokens.div_ceil(sequences.max(1)).div_ceil(page_size);
    if needed <= pages {
        return Ok(());
    }
    match dim {
        Dim::Symbol(symbol) if !bound.contains_key(&symbol) => {
            let range = module.symbols.get(&symbol);
            let fits = range.is_none_or(|range| (range.minimum..=range.maximum).contains(&(needed as u64)));
            if fits {
                symbols.insert(symbol, needed as u64);
                return Ok(());
            }
            Err(InputError::Capacity { tokens, sequences, pages, page_size })
        }
        _ => Err(InputError::Capacity { tokens, sequences, pages, page_size }),
    }
}

fn shape_of(shape: &Shape, symbols: &Symbols) -> Vec<usize> {
    let extent = |dim: &Dim| match dim {
        Dim::Static(extent) => *extent as usize,
        Dim::Symbol(name) => symbols.get(name).copied().unwrap_or(DEFAULT_EXTENT) as usize,
    };
    shape.iter().map(extent).collect()
}

/// What an integer input is to the operations that read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Positions,
    Sequences,
    PageTable,
    /// Selects from a dimension of this extent.
    Index(usize),
    /// Counts, offsets, seeds.
    Number,
}

/// Operations that are followed from an integer to where it is used.
const LONGEST_CHAIN: usize = 8;

/// What `value` is to the operations that read it, those in nested graphs among them.
fn meaning(graph: &Graph, value: ValueId, symbols: &Symbols) -> Meaning {
    meaning_within(graph, value, symbols, LONGEST_CHAIN)
}

fn meaning_within(graph: &Graph, value: ValueId, symbols: &Symbols, depth: usize) -> Meaning {
    let mut found = Meaning::Number;
    for (user, operand) in graph.users(value) {
        let Some(operation) = graph.operation(user) else { continue };
        if let Some(region) = operation.region() {
            if let Some(inner) = region.inputs().nth(operand) {
                found = narrower(found, meaning_within(region, inner, symbols, depth.saturating_sub(1)));
            }
            continue;
        }
        let here = match operation.definition().operand(operand).map(|declared| declared.name) {
            Some("positions") => Meaning::Positions,
            Some("sequences") => Meaning::Sequences,
            Some("page_table") => Meaning::PageTable,
            Some("ids" | "indices" | "experts") => {
                selected_extent(graph, user, symbols).map_or(Meaning::Number, Meaning::Index)
            }
            _ if graph
                .node(user)
                .results()
                .iter()
                .all(|ty| matches!(ty, Type::Tensor(ty) if ty.storage().is_integer())) =>
            {
                // Arithmetic, a cast or a view of the integer: it means what the result means.
                match depth {
                    0 => Meaning::Number,
                    _ => meaning_within(graph, ValueId::first(user), symbols, depth - 1),
                }
            }
            _ => Meaning::Number,
        };
        found = narrower(found, here);
    }
    found
}

/// The meaning that allows fewer values.
fn narrower(one: Meaning, other: Meaning) -> Meaning {
    match (one, other) {
        (Meaning::Index(one), Meaning::Index(other)) => Meaning::Index(one.min(other)),
        (Meaning::Number, other) => other,
        // Positions also select from a table of position embeddings; the batch is laid out to fit.
        (Meaning::Index(_), other) if other != Meaning::Number => other,
        (one, _) => one,
    }
}

/// The extent of the dimension that an embedding, gather or grouped product selects from.
fn selected_extent(graph: &Graph, node: tessera_ir::NodeId, symbols: &Symbols) -> Option<usize> {
    let operation = graph.operation(node)?;
    // Experts select from the matrices, everything else from the first operand.
    let table = if operation.is(ops::GROUPED_MATMUL) { 1 } else { 0 };
    let table = graph.value_type(*graph.operands(node).get(table)?).as_tensor()?;
    let axis = match operation.attribute("axis") {
        Some(tessera_ir::Attribute::Natural(axis)) => *axis as usize,
        _ if operation.is(ops::TAKE) => table.rank().checked_sub(1)?,
        _ => 0,
    };
    shape_of(&table.shape, symbols).get(axis).copied()
}

/// Sequences whose tokens lie one after the other, with their pages in the cache.
struct Batch {
    positions: Vec<i64>,
    sequences: Vec<i64>,
    page_table: Vec<i64>,
    page_size: usize,
    /// Columns of the page table.
    pages_each: usize,
    pages: usize,
}

impl Batch {
    /// Spreads the tokens of the step over the sequences. Each sequence starts somewhere in its pages.
    fn of(graph: &Graph, symbols: &Symbols, random: &mut Random) -> Batch {
        let mut tokens = 0usize;
        let (mut sequences, mut pages_each, mut page_size) =
            (DEFAULT_SEQUENCES as usize, DEFAULT_SEQUENCES as usize, 16usize);
        let mut longest = usize::MAX;
        for input in graph.inputs() {
            match graph.value_type(input) {
                Type::KvCache(cache) => page_size = cache.page_size as usize,
                Type::Tensor(ty) => {
                    let shape = shape_of(&ty.shape, symbols);
                    match (meaning(graph, input, symbols), shape.as_slice()) {
                        (Meaning::PageTable, [batch, pages]) => (sequences, pages_each) = (*batch, *pages),
                        (Meaning::Positions | Meaning::Sequences, [count]) => tokens = *count,
                        _ => {}
                    }
                    longest = longest.min(position_limit(graph, input, symbols));
                }
            }
        }
        let (sequences, pages_each) = (sequences.max(1), pages_each.max(1));
        let capacity = (pages_each * page_size).min(longest).max(1);
        let mut batch = Batch {
            positions: Vec::new(),
            sequences: Vec::new(),
            page_table: Vec::new(),
            page_size,
            pages_each,
            pages: sequences * pages_each + 1,
        };
        for sequence in 0..sequences {
            let own = tokens * (sequence + 1) / sequences - tokens * sequence / sequences;
            let start = random.below(capacity.saturating_sub(own) + 1);
            batch.positions.extend((0..own).map(|token| (start + token) as i64));
            batch.sequences.extend(std::iter::repeat_n(sequence as i64, own));
        }
        batch.page_table = (0..(sequences * pages_each) as i64).collect();
        random.shuffle(&mut batch.page_table);
        batch
    }

    /// The page table, without the pages that lie wholly behind the window of a sequence's first token.
    fn table(&self, window: Option<u64>) -> Vec<i64> {
        let mut table = self.page_table.clone();
        let Some(window) = window else { return table };
        let mut known = BTreeSet::new();
        for (sequence, position) in self.sequences.iter().zip(&self.positions) {
            if known.insert(*sequence) {
                let behind = (*position as u64 + 1).saturating_sub(window) as usize / self.page_size.max(1);
                let row = *sequence as usize * self.pages_each;
                table[row..row + behind.min(self.pages_each)].fill(-1);
            }
        }
        table
    }
}

/// How many keys before a token are looked up in a page table, its own the last: what the attention with the widest window sees, or all.
fn widest_window(graph: &Graph, table: ValueId) -> Option<u64> {
    let mut widest = Some(1);
    for (user, operand) in graph.users(table) {
        let Some(operation) = graph.operation(user) else { continue };
        let here = match (operation.region(), operation.downcast()) {
            (Some(region), _) => region.inputs().nth(operand).and_then(|inner| widest_window(region, inner)),
            (None, Some(ops::PagedAttention { window, .. })) => window,
            // An append looks up its tokens only.
            (None, None) => Some(1),
        };
        widest = widest.zip(here).map(|(widest, here)| widest.max(here));
    }
    widest
}

/// The extent of a table of position embeddings that the positions `value` select from.
fn position_limit(graph: &Graph, value: ValueId, symbols: &Symbols) -> usize {
    if meaning(graph, value, symbols) != Meaning::Positions {
        return usize::MAX;
    }
    let users = graph.users(value).into_iter();
    let limits = users.filter_map(|(user, operand)| match graph.operation(user)?.region() {
        Some(region) => Some(region_limit(region, operand, symbols)),
        None => {
            let name = graph.operation(user)?.definition().operand(operand)?.name;
            matches!(name, "ids" | "indices").then(|| selected_extent(graph, user, symbols)).flatten()
        }
    });
    limits.min().unwrap_or(usize::MAX)
}

fn region_limit(region: &Graph, operand: usize, symbols: &Symbols) -> usize {
    let Some(inner) = region.inputs().nth(operand) else { return usize::MAX };
    let users = region.users(inner).into_iter();
    users
        .filter_map(|(user, operand)| {
            let name = region.operation(user)?.definition().operand(operand)?.name;
            matches!(name, "ids" | "indices").then(|| selected_extent(region, user, symbols)).flatten()
        })
        .min()
        .unwrap_or(usize::MAX)
}

fn input_tensor(
    graph: &Graph,
    input: ValueId,
    ty: &TensorType,
    symbols: &Symbols,
    batch: &Batch,
    random: &mut Random,
) -> Result<Tensor, TensorError> {
    let shape = shape_of(&ty.shape, symbols);
    let count: usize = shape.iter().product();
    let storage = ty.storage();
    if storage.is_float() {
        let elements = match operand_name(graph, input) {
            Some("temperature") => random.uniform(count, 0.0, 1.5),
            Some("top_p") => random.uniform(count, 0.5, 1.0),
            _ => random.normal(count, 1.0),
        };
        return Tensor::from_floats(storage, shape, elements);
    }
    let fitted = |elements: &[i64]| elements.iter().copied().cycle().take(count).collect::<Vec<i64>>();
    let elements = match meaning(graph, input, symbols) {
        _ if storage == Storage::Bool => random.integers(count, 0, 2),
        Meaning::Positions if batch.positions.len() == count => fitted(&batch.positions),
        Meaning::Sequences if batch.sequences.len() == count => fitted(&batch.sequences),
        Meaning::PageTable if batch.page_table.len() == count => batch.table(widest_window(graph, input)),
        Meaning::Index(extent) => random.integers(count, 0, extent as i64),
        _ => random.integers(count, 0, 8),
    };
    Tensor::from_integers(storage, shape, elements)
}

/// The name of the first operand that a value becomes.
fn operand_name(graph: &Graph, value: ValueId) -> Option<&'static str> {
    let (user, operand) = graph.users(value).into_iter().next()?;
    let NodeKind::Operation(operation) = graph.node(user).kind() else { return None };
    match operation.region() {
        Some(region) => operand_name(region, region.inputs().nth(operand)?),
        None => Some(operation.definition().operand(operand)?.name),
    }
}

/// Random elements of tensors.
trait Elements {
    /// A number in (0, 1].
    fn unit(&mut self) -> f64;
    /// Numbers between two.
    fn uniform(&mut self, count: usize, least: f64, most: f64) -> Vec<f64>;
    /// Integers from `least` to before `limit`.
    fn integers(&mut self, count: usize, least: i64, limit: i64) -> Vec<i64>;
    /// Normally distributed numbers, by Box and Muller.
    fn normal(&mut self, count: usize, deviation: f64) -> Vec<f64>;
    /// Another order.
    fn shuffle(&mut self, items: &mut [i64]);
}

impl Elements for Random {
    fn unit(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    fn uniform(&mut self, count: usize, least: f64, most: f64) -> Vec<f64> {
        (0..count).map(|_| least + (most - least) * self.unit()).collect()
    }

    fn integers(&mut self, count: usize, least: i64, limit: i64) -> Vec<i64> {
        let range = limit.saturating_sub(least).max(1) as usize;
        (0..count).map(|_| least + self.below(range) as i64).collect()
    }

    fn normal(&mut self, count: usize, deviation: f64) -> Vec<f64> {
        let one = |_| {
            let radius = (-2.0 * self.unit().ln()).sqrt();
            deviation * radius * (std::f64::consts::TAU * self.unit()).cos()
        };
        (0..count).map(one).collect()
    }

    fn shuffle(&mut self, items: &mut [i64]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
