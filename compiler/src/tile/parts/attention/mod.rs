//! Attention: softmax(q · kᵀ) · v without the scores ever being in memory.
//!
//! The keys are visited in blocks, with the running maximum and sum of the softmax kept for each row ("Online normalizer
//! calculation for softmax", arXiv 1805.02867; "FlashAttention-2", arXiv 2307.08691). Exponentials are to base 2, with log₂ e in the scale.
//!
//! A row of the tiles here is a query head of a token. Query heads that share a key head lie in one tile, so that grouped-query
//! attention loads a key once for the whole group.

#[cfg(test)]
pub(crate) mod tests;

use crate::tile::{
    ArgumentIndex, BinaryOperation, Builder, Coordinate, Element, Literal, Predicate, Reduction, UnaryOperation, Value,
};

/// Below every score, and far above [`MASKED`]: 2^(MASKED − LEAST) is 0, and so no infinity is ever subtracted from another.
const LEAST: f64 = -1e30;

/// The score of a key that a query does not see.
const MASKED: f64 = f32::MIN as f64;

/// How many keys a query sees, its own the last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Window {
    /// So many.
    Constant(u32),
    /// As many as an I32 scalar says, at least one: programs for different windows are one program. [`i32::MAX`] hides nothing.
    Value(Value),
}

impl Window {
    /// What hides nothing: positions are I32.
    const LARGEST: u32 = i32::MAX as u32;

    /// As an I32 scalar.
    fn value(self, b: &mut Builder) -> Value {
        match self {
            Window::Constant(window) => b.index(window.min(Window::LARGEST).into()),
            Window::Value(value) => value,
        }
    }
}

/// Shapes and constants of an attention loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionTile {
    /// Rows of the query tile.
    pub rows: u32,
    /// Keys in a block.
    pub keys: u32,
    /// Elements of a query's or key's head as the tiles hold them: at least those in memory; what is beyond them is loaded as zeros.
    pub head: u32,
    /// Elements of a value's head, likewise.
    pub value_head: u32,
    /// What queries, keys, probabilities and values are converted to for the dots.
    pub operand: Element,
    /// What the products of queries and keys are multiplied with.
    pub scale: f64,
    /// What a query sees of the keys up to its own; all if None.
    pub window: Option<Window>,
    /// Whether the softmax is computed as keys come. If not, they are visited twice: for the maximum and sum of each row, then for the
    /// weighted values.
    pub online: bool,
}

/// What a visit of the keys computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// Everything, with the accumulator rescaled whenever a maximum grows.
    Online,
    /// Maximum and sum.
    Normalizer,
    /// The accumulator, with the maximum of a finished [`Visit::Normalizer`].
    Values,
}

impl AttentionTile {
    /// The visits that attention takes, in order.
    const fn visits(&self) -> &'static [Visit] {
        if self.online { &[Visit::Online] } else { &[Visit::Normalizer, Visit::Values] }
    }
}

/// Softmax state of the rows of a tile, with the weighted sum of values that belongs to it.
#[derive(Clone, Copy, Debug)]
pub struct AttentionState {
    /// [rows] F32: largest score so far, in units of log₂.
    pub maximum: Value,
    /// [rows] F32: sum of 2^(score − maximum).
    pub sum: Value,
    /// [rows, value_head] F32: sum of 2^(score − maximum) · value.
    pub accumulator: Value,
}

impl AttentionState {
    /// No keys seen.
    pub fn new(b: &mut Builder, tile: &AttentionTile) -> Self {
        Self {
            maximum: b.splat(LEAST, &[tile.rows], Element::F32),
            sum: b.splat(0.0, &[tile.rows], Element::F32),
            accumulator: b.splat(0.0, &[tile.rows, tile.value_head], Element::F32),
        }
    }

    /// The state with attention sinks, `sinks` ([rows] F32), among the scores: they weigh no value.
    pub fn with_sinks(&self, b: &mut Builder, sinks: Value) -> Self {
        let shape = b.type_of(self.sum).shape.clone();
        let factor = b.splat(std::f64::consts::LOG2_E, &shape, Element::F32);
        let score = b.multiply(sinks, factor);
        let shifted = b.subtract(score, self.maximum);
        // Of a sink far above all scores this is infinite, and the result is zero as it should be.
        let weight = b.unary(UnaryOperation::Exp2, shifted);
        Self { sum: b.add(self.sum, weight), ..*self }
    }

    /// accumulator / sum: the attention's result; zero in rows that saw no key.
    pub fn normalized(&self, b: &mut Builder) -> Value {
        let rows = b.type_of(self.sum).shape.clone();
        let shape = b.type_of(self.accumulator).shape.clone();
        let (zero, one) = (b.splat(0.0, &rows, Element::F32), b.splat(1.0, &rows, Element::F32));
        let empty = b.compare(Predicate::Equal, self.sum, zero);
        let divisor = b.select(empty, one, self.sum);
        let reciprocal = b.divide(one, divisor);
        let reciprocal = b.broadcast(reciprocal, &[0], &shape);
        b.multiply(self.accumulator, reciprocal)
    }

    fn values(&self) -> [Value; 3] {
        [self.maximum, self.sum, self.accumulator]
    }

    fn from_values(values: &[Value]) -> Self {
        Self { maximum: values[0], sum: values[1], accumulator: values[2] }
    }
}

/// Takes `scores` ([rows, keys] F32, in units of log₂, [`MASKED`] where unseen) into the state. Returns the state without these keys'
/// values, and their weights [rows, keys]. Only [`Visit::Online`] rescales the accumulator; only [`Visit::Values`] leaves maximum and sum.
fn softmax_step(b: &mut Builder, visit: Visit, state: &AttentionState, scores: Value) -> (AttentionState, Value) {
    let shape = b.type_of(scores).shape.clone();
    let mut maximum = state.maximum;
    if visit != Visit::Values {
        let largest = b.reduce(Reduction::Maximum, scores, 1);
        maximum = b.maximum(state.maximum, largest);
    }
    let shifted = b.broadcast(maximum, &[0], &shape);
    let shifted = b.subtract(scores, shifted);
    let weights = b.unary(UnaryOperation::Exp2, shifted);
    if visit == Visit::Values {
        return (*state, weights);
    }
    let shift = b.subtract(state.maximum, maximum);
    let rescale = b.unary(UnaryOperation::Exp2, shift);
    let added = b.reduce(Reduction::Sum, weights, 1);
    let sum = b.multiply(state.sum, rescale);
    let sum = b.add(sum, added);
    let mut accumulator = state.accumulator;
    if visit == Visit::Online {
        let shape = b.type_of(accumulator).shape.clone();
        let rescale = b.broadcast(rescale, &[0], &shape);
        accumulator = b.multiply(accumulator, rescale);
    }
    (AttentionState { maximum, sum, accumulator }, weights)
}

/// A block of keys that a loop visits.
#[derive(Clone, Copy, Debug)]
pub struct KeyBlock {
    /// I32 scalar: position of the first.
    pub start: Value,
    /// [keys] I32: position of each.
    pub positions: Value,
    /// [keys] Bool: whether the position is below the end of the loop.
    pub within: Value,
}

/// The keys that the rows of a tile see, and those among them that a loop visits.
#[derive(Clone, Copy, Debug)]
pub struct VisibleKeys {
    /// [rows] I32: first key that each row sees; 0 if None.
    pub first: Option<Value>,
    /// [rows] I32: last key that each row sees, below `to`; −1 for a row that sees none.
    pub last: Value,
    /// I32 scalar: where the loop begins.
    pub from: Value,
    /// I32 scalar: where it ends.
    pub to: Value,
}

/// Visits keys once. `query` is [rows, head]; `load` gives the keys [keys, head] and values [keys, value_head] of a block. A value that no row sees
/// must be finite, or it turns zero weights into NaN.
pub fn attend(
    b: &mut Builder,
    tile: &AttentionTile,
    query: Value,
    visible: &VisibleKeys,
    visit: Visit,
    state: AttentionState,
    mut load: impl FnMut(&mut Builder, &KeyBlock) -> (Value, Value),
) -> AttentionState {
    let shape = [tile.rows, tile.keys];
    let query = b.cast(query, tile.operand);
    let results = b.for_loop(visible.from, visible.to, tile.keys, &state.values(), |b, start, carried| {
        let state = AttentionState::from_values(carried);
        let offsets = b.iota(tile.keys);
        let first = b.fill(start, &[tile.keys]);
        let key_positions = b.add(first, offsets);
        let end = b.fill(visible.to, &[tile.keys]);
        let within = b.compare(Predicate::Less, key_positions, end);
        let (keys, values) = load(b, &KeyBlock { start, positions: key_positions, within });
        let keys = b.cast(keys, tile.operand);
        let keys = b.transpose(keys);
        let zero = b.splat(0.0, &shape, Element::F32);
        let scores = b.dot(query, keys, zero);
        let factor = b.splat(tile.scale * std::f64::consts::LOG2_E, &shape, Element::F32);
        let scores = b.multiply(scores, factor);
        let key = b.broadcast(key_positions, &[1], &shape);
        let last = b.broadcast(visible.last, &[0], &shape);
        let mut seen = b.compare(Predicate::LessEqual, key, last);
        if let Some(first) = visible.first {
            let first = b.broadcast(first, &[0], &shape);
            let recent = b.compare(Predicate::GreaterEqual, key, first);
            seen = b.and(seen, recent);
        }
        let masked = b.splat(MASKED, &shape, Element::F32);
        let scores = b.select(seen, scores, masked);
        let (state, weights) = softmax_step(b, visit, &state, scores);
        if visit == Visit::Normalizer {
            return state.values().to_vec();
        }
        let (weights, values) = (b.cast(weights, tile.operand), b.cast(values, tile.operand));
        let accumulator = b.dot(weights, values, state.accumulator);
        AttentionState { accumulator, ..state }.values().to_vec()
    });
    AttentionState::from_values(&results)
}

/// The rows of a program: what each is, as [rows] tiles. Those that are in use share a key head.
#[derive(Clone, Copy, Debug)]
pub struct QueryRows {
    /// I32: the token; may be beyond the last in idle rows.
    pub tokens: Value,
    /// I32: the query head.
    pub heads: Value,
    /// Bool: whether the row is in use.
    pub active: Value,
    /// I32 scalar: the key head of all rows.
    pub key_head: Value,
}

impl QueryRows {
    /// `token · heads + head` of each row, −1 in idle ones: the row of a tensor [tokens · heads, …].
    pub fn flattened(&self, b: &mut Builder, heads: u32) -> Value {
        let rows = b.type_of(self.tokens).shape.clone();
        let heads = b.constant(Literal::Integer(heads.into()), &rows, Element::I32);
        let row = b.multiply(self.tokens, heads);
        let row = b.add(row, self.heads);
        let idle = b.constant(Literal::Integer(-1), &rows, Element::I32);
        b.select(self.active, row, idle)
    }
}

/// Where the keys and values of a ragged batch are: arguments of the program.
#[derive(Clone, Copy, Debug)]
pub struct PagedKeys {
    /// [tokens] I32: position of each token in its sequence.
    pub positions: ArgumentIndex,
    /// [tokens] I32: row of the page table for each token.
    pub sequences: ArgumentIndex,
    /// [sequences, pages of a sequence] I32.
    pub page_table: ArgumentIndex,
    /// [pages · page_size, key heads, head]: keys of this layer.
    pub keys: ArgumentIndex,
    /// Like `keys`: the values.
    pub values: ArgumentIndex,
    /// Tokens in a page.
    pub page_size: u32,
}

/// Which part of the keys a program visits, where several programs share a query.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    /// I32 scalar: number of this part.
    pub index: Value,
    /// Number of parts.
    pub count: u32,
}

/// Attention of a program's rows over paged keys: token t sees the keys 0 ..= positions[t] of its own sequence.
///
/// Tokens of several sequences may share a program; each sequence among them is visited in turn. `query` is [rows, head]. With a `split`,
/// the result covers that part of each sequence's keys alone and is to be merged by [`combine`]. Pages that lie wholly behind the window are
/// neither read nor looked up.
pub fn paged_attention(
    b: &mut Builder,
    tile: &AttentionTile,
    rows: &QueryRows,
    paged: &PagedKeys,
    query: Value,
    split: Option<Split>,
) -> AttentionState {
    let shape = [tile.rows];
    let outside = b.constant(Literal::Integer(-1), &shape, Element::I32);
    let tokens = b.select(rows.active, rows.tokens, outside);
    let positions = b.load(paged.positions, &[Coordinate::Gather(tokens)]);
    let nowhere = Some(Literal::Integer(-1));
    let sequences = b.load_masked(paged.sequences, &[Coordinate::Gather(tokens)], None, nowhere);
    // Idle rows have sequence −1: above all others where the least is sought.
    let largest = b.constant(Literal::Integer(i32::MAX.into()), &shape, Element::I32);
    let or_largest = b.select(rows.active, sequences, largest);
    let first = b.reduce(Reduction::Minimum, or_largest, 0);
    let last = b.reduce(Reduction::Maximum, sequences, 0);
    let one = b.index(1);
    let end = b.add(last, one);
    let state = AttentionState::new(b, tile);
    // A block that began anywhere could begin in the page before the window's first.
    let step = gcd(tile.keys, paged.page_size);
    tile.visits().iter().fold(state, |state, visit| {
        let results = b.for_loop(first, end, 1, &state.values(), |b, sequence, carried| {
            let here = b.fill(sequence, &shape);
            let here = b.compare(Predicate::Equal, sequences, here);
            let own = b.select(here, positions, outside);
            let visible = VisibleKeys::new(b, tile, own, own, step, split);
            let state = AttentionState::from_values(carried);
            let load = |b: &mut Builder, block: &KeyBlock| {
                let slots = slots(b, paged, sequence, block);
                load_keys_and_values(b, tile, rows, [paged.keys, paged.values], Coordinate::Gather(slots))
            };
            attend(b, tile, query, &visible, *visit, state, load).values().to_vec()
        });
        AttentionState::from_values(&results)
    })
}

/// The greatest common divisor.
fn gcd(one: u32, other: u32) -> u32 {
    if other == 0 { one } else { gcd(other, one % other) }
}

impl VisibleKeys {
    /// What rows see through the tile's window, or the split's part of it. `own` ([rows] I32) is each row's position among the keys, `last` the
    /// last key that it sees: its own, or one after that; −1 for a row that sees none. Blocks begin at multiples of `step`.
    pub fn new(
        b: &mut Builder,
        tile: &AttentionTile,
        own: Value,
        last: Value,
        step: u32,
        split: Option<Split>,
    ) -> Self {
        let shape = [tile.rows];
        let furthest = b.reduce(Reduction::Maximum, last, 0);
        let (one, zero) = (b.index(1), b.index(0));
        let mut visible = Self { first: None, last, from: zero, to: b.add(furthest, one) };
        if let Some(window) = tile.window {
            let window = window.value(b);
            let before = b.subtract(window, one);
            let before = b.fill(before, &shape);
            let first = b.subtract(own, before);
            let zeros = b.fill(zero, &shape);
            let first = b.maximum(first, zeros);
            visible.first = Some(first);
            // Rows that see nothing must not pull the loop's begin down.
            let sees = b.compare(Predicate::GreaterEqual, last, zeros);
            let largest = b.constant(Literal::Integer(i32::MAX.into()), &shape, Element::I32);
            let earliest = b.select(sees, first, largest);
            let earliest = b.reduce(Reduction::Minimum, earliest, 0);
            let step = b.index(step.into());
            let earliest = b.divide(earliest, step);
            visible.from = b.multiply(earliest, step);
        }
        if let Some(split) = split {
            // Parts are whole blocks: ⌈blocks / count⌉ each.
            let length = b.subtract(visible.to, visible.from);
            let round = i64::from(tile.keys) * i64::from(split.count);
            let (round_up, round) = (b.index(round - 1), b.index(round));
            let length = b.add(length, round_up);
            let part = b.divide(length, round);
            let part = b.scale(part, tile.keys.into());
            let offset = b.multiply(part, split.index);
            visible.from = b.add(visible.from, offset);
            let part_end = b.add(visible.from, part);
            visible.to = b.minimum(visible.to, part_end);
            let part_last = b.subtract(visible.to, one);
            let part_last = b.fill(part_last, &shape);
            visible.last = b.minimum(last, part_last);
        }
        visible
    }
}

/// Rows of the cache that hold a block of a sequence's keys; −1 beyond the end.
fn slots(b: &mut Builder, paged: &PagedKeys, sequence: Value, block: &KeyBlock) -> Value {
    let KeyBlock { positions, within, .. } = *block;
    let shape = b.type_of(positions).shape.clone();
    let page_size = b.constant(Literal::Integer(paged.page_size.into()), &shape, Element::I32);
    let page = b.divide(positions, page_size);
    let coordinates = [Coordinate::At(sequence), Coordinate::Gather(page)];
    let page = b.load_masked(paged.page_table, &coordinates, Some(within), None);
    let first = b.multiply(page, page_size);
    let in_page = b.binary(BinaryOperation::Remainder, positions, page_size);
    let slot = b.add(first, in_page);
    let outside = b.constant(Literal::Integer(-1), &shape, Element::I32);
    b.select(within, slot, outside)
}

/// The rows of keys and values that a coordinate names, for the rows' key head.
fn load_keys_and_values(
    b: &mut Builder,
    tile: &AttentionTile,
    rows: &QueryRows,
    [keys, values]: [ArgumentIndex; 2],
    row: Coordinate,
) -> (Value, Value) {
    let start = b.index(0);
    let [keys, values] = [(keys, tile.head), (values, tile.value_head)].map(|(tensor, length)| {
        b.load(tensor, &[row, Coordinate::At(rows.key_head), Coordinate::Block { start, length }])
    });
    (keys, values)
}

/// Where the parts of a split attention leave their states: write arguments of the one program, read arguments of the other.
#[derive(Clone, Copy, Debug)]
pub struct Partials {
    /// [tokens · query heads, splits] F32.
    pub maxima: ArgumentIndex,
    /// [tokens · query heads, splits] F32.
    pub sums: ArgumentIndex,
    /// [tokens · query heads, splits, value_head] F32.
    pub accumulators: ArgumentIndex,
}

impl Partials {
    /// Stores the state of one part. `rows` are rows of the arguments ([`QueryRows::flattened`]); −1 stores nothing.
    pub fn store(&self, b: &mut Builder, rows: Value, split: Split, state: &AttentionState) {
        let (row, part) = (Coordinate::Gather(rows), Coordinate::At(split.index));
        let length = b.type_of(state.accumulator).shape[1];
        let head = Coordinate::Block { start: b.index(0), length };
        b.store(self.maxima, &[row, part], state.maximum);
        b.store(self.sums, &[row, part], state.sum);
        b.store(self.accumulators, &[row, part, head], state.accumulator);
    }
}

/// Merges the parts of a split attention, for `rows` ([rows] I32) of the arguments.
pub fn combine(b: &mut Builder, partials: &Partials, rows: Value, value_head: u32, splits: u32) -> AttentionState {
    let extent = b.type_of(rows).shape[0];
    let row = Coordinate::Gather(rows);
    let maximum = b.splat(LEAST, &[extent], Element::F32);
    let sum = b.splat(0.0, &[extent], Element::F32);
    let accumulator = b.splat(0.0, &[extent, value_head], Element::F32);
    let (from, to) = (b.index(0), b.index(splits.into()));
    let results = b.for_loop(from, to, 1, &[maximum, sum, accumulator], |b, split, carried| {
        let state = AttentionState::from_values(carried);
        let part = Coordinate::At(split);
        let columns = Coordinate::Block { start: b.index(0), length: value_head };
        let part_maximum = b.load_masked(partials.maxima, &[row, part], None, Some(Literal::Float(LEAST)));
        let part_sum = b.load(partials.sums, &[row, part]);
        let part_accumulator = b.load(partials.accumulators, &[row, part, columns]);
        let maximum = b.maximum(state.maximum, part_maximum);
        let weigh = |b: &mut Builder, of: Value, sum: Value, accumulator: Value| {
            let shift = b.subtract(of, maximum);
            let weight = b.unary(UnaryOperation::Exp2, shift);
            let sum = b.multiply(sum, weight);
            let weight = b.broadcast(weight, &[0], &[extent, value_head]);
            (sum, b.multiply(accumulator, weight))
        };
        let before = weigh(b, state.maximum, state.sum, state.accumulator);
        let part = weigh(b, part_maximum, part_sum, part_accumulator);
        vec![maximum, b.add(before.0, part.0), b.add(before.1, part.1)]
    });
    AttentionState::from_values(&results)
}
