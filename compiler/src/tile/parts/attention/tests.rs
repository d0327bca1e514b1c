use super::*;
use crate::tile::interpret::{ArgumentData, TensorData, interpret};
use crate::tile::parts::noise;
use crate::tile::{Access, Dimension, GridExtent, Program, TensorArgument};

/// How the query heads of a ragged batch of tokens are laid out over programs and their rows.
///
/// A program has the heads of one group (or a part of it) for some consecutive tokens: row r is head `r % heads` of token `r / heads`; rows
/// beyond tokens × heads are idle. Programs along x of the grid take tokens, those along y groups and their parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct QueryLayout {
    /// Query heads that share a key head.
    group: u32,
    /// Tokens in a program.
    tokens: u32,
    /// Query heads in a program, at most the group.
    heads: u32,
}

impl QueryLayout {
    /// Programs along y for each key head.
    const fn parts(&self) -> u32 {
        self.group.div_ceil(self.heads)
    }

    /// Rows in use.
    const fn rows(&self) -> u32 {
        self.tokens * self.heads
    }
}

/// The rows of a program, by its position along x and y of the grid: ⌈token_count / tokens⌉ and key heads × parts.
fn query_rows(b: &mut Builder, tile: &AttentionTile, layout: &QueryLayout, token_count: Dimension) -> QueryRows {
    let rows = [tile.rows];
    let (x, y) = (b.program_id(0), b.program_id(1));
    let parts = b.index(layout.parts().into());
    let key_head = b.divide(y, parts);
    let part = b.binary(BinaryOperation::Remainder, y, parts);
    let first_token = b.scale(x, layout.tokens.into());
    let row = b.iota(tile.rows);
    let heads = b.constant(Literal::Integer(layout.heads.into()), &rows, Element::I32);
    let token_in_tile = b.divide(row, heads);
    let head_in_part = b.binary(BinaryOperation::Remainder, row, heads);
    let first = b.fill(first_token, &rows);
    let tokens = b.add(first, token_in_tile);
    let first_head = b.scale(part, layout.heads.into());
    let first_head = b.fill(first_head, &rows);
    let head_in_group = b.add(first_head, head_in_part);
    let group = b.scale(key_head, layout.group.into());
    let group = b.fill(group, &rows);
    let heads = b.add(group, head_in_group);
    let token_count = b.dimension(token_count);
    let token_count = b.fill(token_count, &rows);
    let mut active = b.compare(Predicate::Less, tokens, token_count);
    if tile.rows > layout.rows() {
        let used = b.constant(Literal::Integer(layout.rows().into()), &rows, Element::I32);
        let used = b.compare(Predicate::Less, row, used);
        active = b.and(active, used);
    }
    if !layout.group.is_multiple_of(layout.heads) {
        let group = b.constant(Literal::Integer(layout.group.into()), &rows, Element::I32);
        let used = b.compare(Predicate::Less, head_in_group, group);
        active = b.and(active, used);
    }
    QueryRows { tokens, heads, active, key_head }
}

#[derive(Clone, Copy)]
struct Case {
    tile: AttentionTile,
    layout: QueryLayout,
    key_heads: usize,
    head: usize,
    page_size: usize,
    cache: Element,
    splits: u32,
}

impl Case {
    fn query_heads(&self) -> usize {
        self.key_heads * self.layout.group as usize
    }

    /// The first key that the token at a position sees.
    fn first_seen(&self, position: i64) -> i64 {
        match self.tile.window {
            Some(Window::Constant(window)) => (position + 1 - i64::from(window)).max(0),
            Some(Window::Value(_)) | None => 0,
        }
    }
}

const CASE: Case = Case {
    tile: AttentionTile {
        rows: 4,
        keys: 8,
        head: 32,
        value_head: 32,
        operand: Element::F32,
        scale: 0.3,
        window: None,
        online: true,
    },
    layout: QueryLayout { group: 1, tokens: 4, heads: 1 },
    key_heads: 2,
    head: 32,
    page_size: 4,
    cache: Element::F32,
    splits: 1,
};

/// Tokens of one sequence in a step: the row of the page table, the first position and how many.
#[derive(Clone, Copy)]
struct Chunk {
    sequence: i64,
    first: i64,
    tokens: i64,
}

/// A step's inputs, with every sequence's keys in shuffled pages of a cache.
struct Batch {
    positions: Vec<i64>,
    sequences: Vec<i64>,
    page_table: Vec<i64>,
    pages_per_sequence: usize,
    query: Vec<f64>,
    keys: TensorData,
    values: TensorData,
}

impl Batch {
    fn new(case: &Case, chunks: &[Chunk]) -> Self {
        let tokens = |chunk: &Chunk| chunk.first..chunk.first + chunk.tokens;
        let positions: Vec<i64> = chunks.iter().flat_map(tokens).collect();
        let sequences: Vec<i64> =
            chunks.iter().flat_map(|c| std::iter::repeat_n(c.sequence, c.tokens as usize)).collect();
        let longest = positions.iter().max().map_or(0, |&last| last as usize + 1);
        let pages_per_sequence = longest.div_ceil(case.page_size);
        let rows = chunks.iter().map(|chunk| chunk.sequence as usize + 1).max().unwrap_or(1);
        // Page p of row r is a page of its own; 7 is coprime to the number of pages here, so that this shuffles them.
        let pages = (rows * pages_per_sequence).next_power_of_two();
        let page_table = (0..rows * pages_per_sequence).map(|page| (page * 7 + 3) as i64 % pages as i64).collect();
        let count = pages * case.page_size * case.key_heads * case.head;
        let row = case.key_heads * case.head;
        let mut cache = [noise(count, 1), noise(count, 2)];
        let mut batch = Self {
            query: noise(positions.len() * case.query_heads() * case.head, 3),
            positions,
            sequences,
            page_table,
            pages_per_sequence,
            keys: TensorData::unwritten(case.cache, 0),
            values: TensorData::unwritten(case.cache, 0),
        };
        // What no token has written must not matter, whatever it holds.
        let mut written = vec![false; pages * case.page_size];
        for chunk in chunks {
            // Pages behind the window may be another sequence's by now.
            let first = case.first_seen(chunk.first) / case.page_size as i64 * case.page_size as i64;
            for position in first..chunk.first + chunk.tokens {
                written[batch.slot(case, chunk.sequence, position)] = true;
            }
            let row = chunk.sequence as usize * pages_per_sequence;
            for page in 0..first as usize / case.page_size {
                // Whatever the table says of them: no page, one that is not written, one that there is not.
                batch.page_table[row + page] = [-1, batch.page_table[row + page], i64::from(i32::MAX)][page % 3];
            }
        }
        for (slot, _) in written.iter().enumerate().filter(|(_, written)| !**written) {
            cache.iter_mut().for_each(|data| data[slot * row..(slot + 1) * row].fill(f64::NAN));
        }
        batch.keys = TensorData::from_floats(case.cache, &cache[0]);
        batch.values = TensorData::from_floats(case.cache, &cache[1]);
        batch
    }

    fn slot(&self, case: &Case, sequence: i64, position: i64) -> usize {
        let page = position as usize / case.page_size;
        let page = self.page_table[sequence as usize * self.pages_per_sequence + page];
        page as usize * case.page_size + position as usize % case.page_size
    }

    /// Plain attention in f64.
    fn expected(&self, case: &Case) -> Vec<f64> {
        let (keys, values, dim) = (self.keys.floats(), self.values.floats(), case.head);
        let mut output = Vec::new();
        for (token, &position) in self.positions.iter().enumerate() {
            let first = case.first_seen(position);
            for head in 0..case.query_heads() {
                let query = &self.query[(token * case.query_heads() + head) * dim..][..dim];
                let row = |position| {
                    let slot = self.slot(case, self.sequences[token], position);
                    (slot * case.key_heads + head / case.layout.group as usize) * dim
                };
                let score = |position| -> f64 {
                    let key = &keys[row(position)..][..dim];
                    query.iter().zip(key).map(|(a, b)| a * b).sum::<f64>() * case.tile.scale
                };
                let weights: Vec<f64> = (first..=position).map(|position| score(position).exp()).collect();
                let sum: f64 = weights.iter().sum();
                output.extend((0..dim).map(|column| {
                    let products =
                        (first..).zip(&weights).map(|(position, weight)| weight * values[row(position) + column]);
                    products.sum::<f64>() / sum
                }));
            }
        }
        output
    }
}

/// The arguments that the programs here share, and the kernel's query and output or partial results.
struct Arguments {
    token_count: Dimension,
    paged: PagedKeys,
    query: ArgumentIndex,
}

fn declare(b: &mut Builder, case: &Case) -> Arguments {
    let [tokens, rows, slots, sequences, pages] =
        ["tokens", "query_rows", "slots", "sequences", "pages"].map(|name| Dimension::Argument(b.integer(name, 1)));
    let head = Dimension::Constant(case.head as u64);
    let key_heads = Dimension::Constant(case.key_heads as u64);
    let page_table = TensorArgument {
        name: "page_table".into(),
        element: Element::I32,
        extents: [sequences, pages].into_iter().collect(),
        strides: [pages, Dimension::Constant(1)].into_iter().collect(),
        access: Access::Read,
        alignment: 4,
    };
    Arguments {
        token_count: tokens,
        paged: PagedKeys {
            positions: b.contiguous("positions", Element::I32, &[tokens], Access::Read),
            sequences: b.contiguous("sequence_of_token", Element::I32, &[tokens], Access::Read),
            page_table: b.tensor(page_table),
            keys: b.contiguous("keys", case.cache, &[slots, key_heads, head], Access::Read),
            values: b.contiguous("values", case.cache, &[slots, key_heads, head], Access::Read),
            page_size: case.page_size as u32,
        },
        query: b.contiguous("query", Element::F32, &[rows, head], Access::Read),
    }
}

fn partials(b: &mut Builder, case: &Case, rows: Dimension, access: Access) -> Partials {
    let (splits, head) = (Dimension::Constant(case.splits.into()), Dimension::Constant(case.head as u64));
    Partials {
        maxima: b.contiguous("maxima", Element::F32, &[rows, splits], access),
        sums: b.contiguous("sums", Element::F32, &[rows, splits], access),
        accumulators: b.contiguous("accumulators", Element::F32, &[rows, splits, head], access),
    }
}

/// Integer argument 1 of [`declare`].
const QUERY_ROWS: Dimension = Dimension::Argument(ArgumentIndex(1));

fn attention_program(case: &Case) -> Program {
    let mut b = Builder::new("paged_attention");
    let arguments = declare(&mut b, case);
    b.grid([
        GridExtent::Tiles { dimension: arguments.token_count, block: case.layout.tokens },
        GridExtent::fixed(case.key_heads as u64 * u64::from(case.layout.parts())),
        GridExtent::fixed(case.splits.into()),
    ]);
    let rows = query_rows(&mut b, &case.tile, &case.layout, arguments.token_count);
    let flattened = rows.flattened(&mut b, case.query_heads() as u32);
    let head = Coordinate::Block { start: b.index(0), length: case.tile.head };
    let query = b.load(arguments.query, &[Coordinate::Gather(flattened), head]);
    if case.splits == 1 {
        let state = paged_attention(&mut b, &case.tile, &rows, &arguments.paged, query, None);
        let extents = [QUERY_ROWS, Dimension::Constant(case.head as u64)];
        let output = b.contiguous("output", Element::F32, &extents, Access::Write);
        let result = state.normalized(&mut b);
        b.store(output, &[Coordinate::Gather(flattened), head], result);
    } else {
        let split = Split { index: b.program_id(2), count: case.splits };
        let state = paged_attention(&mut b, &case.tile, &rows, &arguments.paged, query, Some(split));
        partials(&mut b, case, QUERY_ROWS, Access::Write).store(&mut b, flattened, split, &state);
    }
    b.finish()
}

fn combine_program(case: &Case) -> Program {
    let mut b = Builder::new("combine");
    let count = b.integer("query_rows", 1);
    let rows = Dimension::Argument(count);
    let parts = partials(&mut b, case, rows, Access::Read);
    let output = b.contiguous("output", Element::F32, &[rows, Dimension::Constant(case.head as u64)], Access::Write);
    b.grid([GridExtent::Tiles { dimension: rows, block: 2 }, GridExtent::fixed(1), GridExtent::fixed(1)]);
    let (x, iota) = (b.program_id(0), b.iota(2));
    let first = b.scale(x, 2);
    let first = b.fill(first, &[2]);
    let row = b.add(first, iota);
    let state = combine(&mut b, &parts, row, case.tile.value_head, case.splits);
    let result = state.normalized(&mut b);
    let head = Coordinate::Block { start: b.index(0), length: case.tile.head };
    b.store(output, &[Coordinate::Gather(row), head], result);
    b.finish()
}

fn unwritten(count: usize) -> ArgumentData {
    ArgumentData::Tensor(TensorData::unwritten(Element::F32, count))
}

/// Arguments of [`attention_program`], the results unwritten.
fn attention_arguments(case: &Case, batch: &Batch) -> Vec<ArgumentData> {
    let rows = batch.positions.len() * case.query_heads();
    let slots = batch.keys.len() / case.key_heads / case.head;
    let sequences = batch.page_table.len() / batch.pages_per_sequence;
    let integers = [batch.positions.len(), rows, slots, sequences, batch.pages_per_sequence];
    let tensor = |values: &[i64]| ArgumentData::Tensor(TensorData::from_integers(Element::I32, values));
    let mut arguments: Vec<ArgumentData> = integers.map(|value| ArgumentData::Integer(value as i64)).to_vec();
    arguments.extend([&batch.positions, &batch.sequences, &batch.page_table].map(|values| tensor(values)));
    arguments.extend([&batch.keys, &batch.values].map(|data| ArgumentData::Tensor(data.clone())));
    arguments.push(ArgumentData::Tensor(TensorData::from_floats(Element::F32, &batch.query)));
    match case.splits as usize {
        1 => arguments.push(unwritten(rows * case.head)),
        splits => arguments.extend([rows * splits, rows * splits, rows * splits * case.head].map(unwritten)),
    }
    arguments
}

/// Arguments of [`combine_program`], from those that [`attention_program`] has written.
fn combine_arguments(case: &Case, batch: &Batch, attended: &[ArgumentData]) -> Vec<ArgumentData> {
    let rows = batch.positions.len() * case.query_heads();
    let partials = attended[attended.len() - 3..].iter().cloned();
    let mut arguments: Vec<ArgumentData> =
        std::iter::once(ArgumentData::Integer(rows as i64)).chain(partials).collect();
    arguments.push(unwritten(rows * case.head));
    arguments
}

fn computed(case: &Case, batch: &Batch) -> Vec<f64> {
    let mut arguments = attention_arguments(case, batch);
    interpret(&attention_program(case), &mut arguments).unwrap();
    if case.splits > 1 {
        arguments = combine_arguments(case, batch, &arguments);
        interpret(&combine_program(case), &mut arguments).unwrap();
    }
    arguments.last().and_then(ArgumentData::tensor).unwrap().floats()
}

/// Programs with their arguments, for the targets' tests: whole and split attention of a ragged batch, and the combination.
pub(crate) fn examples() -> Vec<(Program, Vec<ArgumentData>)> {
    let grouped = Case {
        tile: AttentionTile { rows: 8, window: Some(Window::Constant(20)), ..CASE.tile },
        layout: QueryLayout { group: 4, tokens: 2, heads: 4 },
        ..CASE
    };
    let padded = Case { tile: AttentionTile { head: 128, value_head: 128, keys: 16, ..CASE.tile }, head: 96, ..CASE };
    let split = Case { splits: 3, ..CASE };
    let example = |case: &Case| (attention_program(case), attention_arguments(case, &Batch::new(case, &RAGGED)));
    let mut examples: Vec<_> = [CASE, grouped, padded, split].iter().map(example).collect();
    let mut attended = examples[3].1.clone();
    interpret(&examples[3].0, &mut attended).unwrap();
    examples.push((combine_program(&split), combine_arguments(&split, &Batch::new(&split, &RAGGED), &attended)));
    examples
}

fn check(case: &Case, chunks: &[Chunk], tolerance: f64) {
    let batch = Batch::new(case, chunks);
    let (computed, expected) = (computed(case, &batch), batch.expected(case));
    assert_eq!(computed.len(), expected.len());
    for (position, (computed, expected)) in computed.iter().zip(&expected).enumerate() {
        assert!((computed - expected).abs() <= tolerance, "element {position}: {computed} and not {expected}");
    }
}

/// Prompt chunks, the middle of a prompt, and decodes, in an order in which no sequence follows from the one before.
const RAGGED: [Chunk; 5] = [
    Chunk { sequence: 3, first: 0, tokens: 7 },
    Chunk { sequence: 0, first: 33, tokens: 1 },
    Chunk { sequence: 1, first: 5, tokens: 9 },
    Chunk { sequence: 5, first: 0, tokens: 1 },
    Chunk { sequence: 4, first: 20, tokens: 1 },
];

#[test]
fn one_prompt_of_any_length() {
    for tokens in [1, 7, 33, 129] {
        check(&CASE, &[Chunk { sequence: 0, first: 0, tokens }], 1e-6);
    }
}

#[test]
fn sequences_may_share_a_program() {
    check(&CASE, &RAGGED, 1e-6);
}

#[test]
fn grouped_queries_share_the_keys() {
    for (group, tokens, heads, rows) in [(4, 2, 4, 8), (12, 1, 8, 8), (3, 5, 3, 16)] {
        let tile = AttentionTile { rows, ..CASE.tile };
        check(&Case { tile, layout: QueryLayout { group, tokens, heads }, ..CASE }, &RAGGED, 1e-6);
    }
}

#[test]
fn heads_may_be_padded_and_blocks_larger_than_pages_or_smaller() {
    for (head, padded, keys, page_size) in [(96, 128, 4, 16), (64, 64, 16, 16), (128, 128, 64, 4)] {
        let tile = AttentionTile { head: padded, value_head: padded, keys, ..CASE.tile };
        check(&Case { tile, head, page_size, ..CASE }, &RAGGED, 1e-6);
    }
}

#[test]
fn a_window_hides_what_is_far() {
    for window in [1, 5, 40, u32::MAX] {
        let tile = AttentionTile { window: Some(Window::Constant(window)), ..CASE.tile };
        for keys in [4, 8, 16] {
            let tile = AttentionTile { keys, ..tile };
            check(&Case { tile, ..CASE }, &RAGGED, 1e-6);
            check(&Case { tile, splits: 3, ..CASE }, &RAGGED, 1e-6);
            check(&Case { tile, page_size: 6, ..CASE }, &RAGGED, 1e-6);
        }
    }
}

#[test]
fn split_over_the_keys_and_combined() {
    for splits in [2, 4, 16] {
        check(&Case { splits, ..CASE }, &RAGGED, 1e-6);
    }
}

#[test]
fn two_visits_give_what_one_gives() {
    let tile = AttentionTile { online: false, ..CASE.tile };
    check(&Case { tile, ..CASE }, &RAGGED, 1e-6);
    check(&Case { tile, splits: 3, ..CASE }, &RAGGED, 1e-6);
    let tile = AttentionTile { window: Some(Window::Constant(5)), ..tile };
    check(&Case { tile, ..CASE }, &RAGGED, 1e-6);
}

#[test]
fn narrow_operands_and_caches() {
    let tile = AttentionTile { operand: Element::BF16, ..CASE.tile };
    check(&Case { tile, cache: Element::BF16, ..CASE }, &RAGGED, 0.02);
    check(&Case { tile, cache: Element::Fp8E5M2, ..CASE }, &RAGGED, 0.02);
}

#[test]
fn large_scores_do_not_overflow() {
    let tile = AttentionTile { scale: 300.0, ..CASE.tile };
    let batch = Batch::new(&Case { tile, ..CASE }, &RAGGED);
    assert!(computed(&Case { tile, ..CASE }, &batch).iter().all(|value| value.abs() <= 1.0));
}
