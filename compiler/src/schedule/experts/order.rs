//! Rows in the order of their experts, with those of the first expert first and each expert's in their own.
//!
//! Few rows are ordered by one kernel: a program for each expert walks over all of them. Many are sorted by counting, in three: a program for
//! each chunk of rows counts those of every expert; one for each expert adds up what comes before each chunk; then each chunk's
//! program writes its rows where they belong. That is work for each row once, and once more for the counts.

use tessera_ir::{ValueId, ops};
use tessera_runtime::plan::Extent;

use super::super::access::Memory;
use super::super::arguments::{Buffer, Partial};
use super::super::emitter::{Block, Emitter, Phase};
use super::super::error::Cut;
use super::super::index::{Atom, Index};
use super::super::kernel::{Kernel, PartialSize};
use super::Grouped;
use crate::tile::{Element, Predicate, Reduction};

/// Rows that are put in order at a time: as many to a side of a tile of comparisons, which is larger where many threads share it.
const fn sorted_rows(rows_apart: bool) -> u32 {
    if rows_apart { 64 } else { 16 }
}

/// Rows of a chunk that is sorted by counting.
const CHUNK: u64 = 64;

/// Chunks whose counts are added up at a time.
const CHUNKS: u32 = 64;

impl Emitter<'_> {
    /// Memory that one kernel leaves for those after it.
    pub(super) fn order_memory(&self, grouped: &Grouped, partial: Partial) -> Memory {
        let extents = match partial {
            Partial::Starts => vec![Extent::from(grouped.count + 1)],
            Partial::Counts | Partial::Bases => {
                vec![grouped.rows().ceil_div(CHUNK), Extent::from(grouped.count)]
            }
            _ => vec![grouped.rows()],
        };
        Memory { buffer: Buffer::Partial(partial), element: Element::I32, extents, alignment: 16 }
    }

    /// The expert of each of some rows, with whether there is such a row.
    fn expert_of(&mut self, grouped: &Grouped, row: &Index) -> Result<(Block, Option<Block>), Cut> {
        let memory = self.expert_memory(grouped)?;
        let expert = self.load(grouped.experts, &memory, std::slice::from_ref(row))?;
        let rows = self.dimension(&grouped.rows());
        Ok((expert, self.inside(row, rows)))
    }

    /// One where a condition holds, and another if there is one; else zero.
    fn count_where(&mut self, condition: &Block, other: Option<&Block>) -> Block {
        let holds = match other {
            Some(other) => self.and(condition, other),
            None => condition.clone(),
        };
        let (zero, one) = (self.number(0.0, Element::I32), self.number(1.0, Element::I32));
        self.select(&holds, &one, &zero)
    }
}

impl Kernel<'_> {
    /// What the kernel leaves for those after it.
    pub(in super::super) fn order_sizes(&mut self) -> Result<Vec<PartialSize>, Cut> {
        let graph = self.emitter.graph;
        let found = graph.operations().find(|(_, operation)| operation.is(ops::GROUPED_MATMUL));
        let Some((node, _)) = found else { return Ok(Vec::new()) };
        let grouped = self.emitter.grouped(ValueId::first(node))?;
        let size = |partial, per_token, fixed| {
            let width = Element::I32.bytes() as u64;
            PartialSize { partial, tokens: grouped.tokens.clone(), per_token: per_token * width, fixed: fixed * width }
        };
        let order = || size(Partial::Order, grouped.chosen, 0);
        let starts = || size(Partial::Starts, 0, grouped.count + 1);
        let each_chunk = |partial| size(partial, (grouped.chosen * grouped.count).div_ceil(CHUNK), grouped.count);
        Ok(match self.emitter.shaping.phase {
            Phase::Order => vec![order(), starts()],
            Phase::Count => vec![each_chunk(Partial::Counts)],
            Phase::Scan => vec![each_chunk(Partial::Bases), starts()],
            Phase::Place => vec![order()],
            _ => Vec::new(),
        })
    }

    /// A program for each expert: finds its rows and writes down their numbers after those of the experts before it. One program more
    /// writes where the last expert's rows end.
    pub(super) fn order_rows(&mut self, grouped: &Grouped) -> Result<(), Cut> {
        let program = self.tiles(0, &Extent::from(grouped.count + 1), 1);
        let emitter = &mut self.emitter;
        let memory = emitter.expert_memory(grouped)?;
        let (order, starts) =
            (emitter.order_memory(grouped, Partial::Order), emitter.order_memory(grouped, Partial::Starts));
        let own = emitter.lower(&program);
        let rows = emitter.dimension(&grouped.rows());
        let (zero, one) = (emitter.number(0.0, Element::I32), emitter.number(1.0, Element::I32));
        let before = emitter.reduce_over(Reduction::Sum, Element::I32, &[], &[rows], &|emitter, place| {
            let expert = emitter.load(grouped.experts, &memory, place)?;
            let earlier = emitter.compare(Predicate::Less, &expert, &own);
            Ok(emitter.select(&earlier, &one, &zero))
        })?;
        emitter.store(grouped.value, &starts, std::slice::from_ref(&program), &before)?;
        let step = sorted_rows(emitter.shaping.rows_apart);
        let [down, across] = [(); 2].map(|()| emitter.lanes(step));
        let &[across_axis] = across.axes().as_slice() else { return Ok(()) };
        let &[down_axis] = down.axes().as_slice() else { return Ok(()) };
        emitter.for_each(rows, step, std::slice::from_ref(&before), |emitter, start, next| {
            let is_own = |emitter: &mut Emitter, lanes: &Index| {
                let row = start.plus(lanes);
                let expert = emitter.load(grouped.experts, &memory, std::slice::from_ref(&row))?;
                let is_own = emitter.compare(Predicate::Equal, &expert, &own);
                Ok::<Block, Cut>(match emitter.inside(&row, rows) {
                    Some(inside) => emitter.and(&is_own, &inside),
                    None => is_own,
                })
            };
            let (mine, others) = (is_own(emitter, &down)?, is_own(emitter, &across)?);
            let (row, other) = (emitter.lower(&down), emitter.lower(&across));
            let earlier = emitter.compare(Predicate::Less, &other, &row);
            let earlier = emitter.and(&earlier, &others);
            let earlier = emitter.select(&earlier, &one, &zero);
            let earlier = emitter.reduce(Reduction::Sum, &earlier, across_axis);
            let place = emitter.add(&earlier, &next[0]);
            let place = Index::atom(Atom::Vector { value: emitter.spread(&place, &[down_axis]), axis: down_axis });
            let number = emitter.lower(&start.plus(&down));
            emitter.store_masked(grouped.value, &order, &[place], &number, Some(&mine))?;
            let mine = emitter.select(&mine, &one, &zero);
            let found = emitter.reduce(Reduction::Sum, &mine, down_axis);
            Ok(vec![emitter.add(&next[0], &found)])
        })?;
        Ok(())
    }

    /// A program for each chunk of rows: counts those of each expert.
    pub(super) fn count_rows(&mut self, grouped: &Grouped) -> Result<(), Cut> {
        let chunk = self.tiles(0, &grouped.rows(), CHUNK);
        let emitter = &mut self.emitter;
        let row = chunk.times(CHUNK as i64).plus(&emitter.lanes(CHUNK as u32));
        let &[rows] = row.axes().as_slice() else { return Ok(()) };
        let (expert, exists) = emitter.expert_of(grouped, &row)?;
        let length = emitter.covering(grouped.count);
        let axis = emitter.axis(length);
        let number = emitter.lower(&Index::lane(axis, length));
        let is_its = emitter.compare(Predicate::Equal, &expert, &number);
        let counted = emitter.count_where(&is_its, exists.as_ref());
        let counts = emitter.reduce(Reduction::Sum, &counted, rows);
        let memory = emitter.order_memory(grouped, Partial::Counts);
        emitter.store(grouped.value, &memory, &[chunk, Index::lane(axis, grouped.count as u32)], &counts)
    }

    /// A program for each expert: where its rows start, and where those of each chunk do. One program more writes where the last expert's rows
    /// end.
    pub(super) fn scan_counts(&mut self, grouped: &Grouped) -> Result<(), Cut> {
        let program = self.tiles(0, &Extent::from(grouped.count + 1), 1);
        let emitter = &mut self.emitter;
        let [counts, bases, starts] =
            [Partial::Counts, Partial::Bases, Partial::Starts].map(|partial| emitter.order_memory(grouped, partial));
        let own = emitter.lower(&program);
        let chunks = emitter.dimension(&counts.extents[0]);
        let zero = emitter.number(0.0, Element::I32);
        // What earlier experts have in all chunks: counts one after another.
        let all = Memory { extents: vec![counts.extents[0].clone() * grouped.count], ..counts.clone() };
        let count = emitter.dimension(&all.extents[0]);
        let before = emitter.reduce_over(Reduction::Sum, Element::I32, &[], &[count], &|emitter, place| {
            let counts = emitter.load(grouped.value, &all, place)?;
            let (_, expert) = place[0].split(grouped.count);
            let expert = emitter.lower(&expert);
            let is_earlier = emitter.compare(Predicate::Less, &expert, &own);
            Ok(emitter.select(&is_earlier, &counts, &zero))
        })?;
        emitter.store(grouped.value, &starts, std::slice::from_ref(&program), &before)?;
        let last = emitter.number(grouped.count as f64, Element::I32);
        let is_expert = emitter.compare(Predicate::Less, &own, &last);
        let expert = Index::bounded(own.value, Some(grouped.count));
        let [down, across] = [(); 2].map(|()| emitter.lanes(CHUNKS));
        let (&[down_axis], &[across_axis]) = (down.axes().as_slice(), across.axes().as_slice()) else { return Ok(()) };
        emitter.conditionally(&is_expert, |emitter| {
            emitter.for_each(chunks, CHUNKS, std::slice::from_ref(&before), |emitter, start, next| {
                let others = [start.plus(&across), expert.clone()];
                let others = emitter.load(grouped.value, &counts, &others)?;
                let (this, other) = (emitter.lower(&down), emitter.lower(&across));
                let is_earlier = emitter.compare(Predicate::Less, &other, &this);
                let earlier = emitter.select(&is_earlier, &others, &zero);
                let earlier = emitter.reduce(Reduction::Sum, &earlier, across_axis);
                let base = emitter.add(&earlier, &next[0]);
                let base =
                    Block { value: emitter.spread(&base, &[down_axis]), axes: [down_axis].into_iter().collect() };
                emitter.store(grouped.value, &bases, &[start.plus(&down), expert.clone()], &base)?;
                let found = emitter.reduce(Reduction::Sum, &others, across_axis);
                Ok(vec![emitter.add(&next[0], &found)])
            })?;
            Ok(())
        })
    }

    /// A program for each chunk of rows: writes their numbers after those of the chunks before it.
    pub(super) fn place_rows(&mut self, grouped: &Grouped) -> Result<(), Cut> {
        let chunk = self.tiles(0, &grouped.rows(), CHUNK);
        let emitter = &mut self.emitter;
        let [down, across] = [(); 2].map(|()| chunk.times(CHUNK as i64).plus(&emitter.lanes(CHUNK as u32)));
        let (&[down_axis], &[across_axis]) = (down.axes().as_slice(), across.axes().as_slice()) else { return Ok(()) };
        let (own, exists) = emitter.expert_of(grouped, &down)?;
        let (others, others_exist) = emitter.expert_of(grouped, &across)?;
        let (this, other) = (emitter.lower(&down), emitter.lower(&across));
        let is_earlier = emitter.compare(Predicate::Less, &other, &this);
        let is_same = emitter.compare(Predicate::Equal, &own, &others);
        let counts = emitter.and(&is_earlier, &is_same);
        let counted = emitter.count_where(&counts, others_exist.as_ref());
        let rank = emitter.reduce(Reduction::Sum, &counted, across_axis);
        let [bases, order] = [Partial::Bases, Partial::Order].map(|partial| emitter.order_memory(grouped, partial));
        let vector = |emitter: &mut Emitter, block: &Block| {
            Index::atom(Atom::Vector { value: emitter.spread(block, &[down_axis]), axis: down_axis })
        };
        // Of what is no expert's number there is no base, and no place for its row.
        let (zero, last) = (emitter.number(0.0, Element::I32), emitter.number(grouped.count as f64, Element::I32));
        let is_number = emitter.compare(Predicate::GreaterEqual, &own, &zero);
        let is_below = emitter.compare(Predicate::Less, &own, &last);
        let mut belongs = emitter.and(&is_number, &is_below);
        if let Some(exists) = exists {
            belongs = emitter.and(&belongs, &exists);
        }
        let none = emitter.number(-1.0, Element::I32);
        let expert = emitter.select(&belongs, &own, &none);
        let expert = vector(emitter, &expert);
        let base = emitter.load(grouped.value, &bases, &[chunk, expert])?;
        let place = emitter.add(&base, &rank);
        let place = vector(emitter, &place);
        emitter.store_masked(grouped.value, &order, &[place], &this, Some(&belongs))
    }
}
