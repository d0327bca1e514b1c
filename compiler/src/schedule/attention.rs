//! Attention, its cache, and rotary positions.

use std::f64::consts::LOG2_E;

use smallvec::SmallVec;
use tessera_ir::{KvCacheType, ValueId, ops};
use tessera_runtime::plan::Extent;

use super::access::{Memory, element_of};
use super::arguments::{Buffer, Partial, View};
use super::emitter::{Block, Emitter, Phase};
use super::error::Cut;
use super::index::{Axis, Index};
use super::operations::Site;
use crate::tile::parts::attention::{
    AttentionState, AttentionTile, PagedKeys, Partials, QueryRows, Split, VisibleKeys, Visit, Window, attend, combine,
    paged_attention,
};
use crate::tile::{Access, ArgumentIndex, BinaryOperation, Builder, Dimension, Element, Predicate, UnaryOperation};

/// Rows of a query tile and what they are.
struct Queries {
    /// The axis of the rows.
    rows: Axis,
    /// The axis of a head's elements.
    head: Axis,
    /// The lanes of the latter.
    element: Index,
    tile: AttentionTile,
    described: QueryRows,
    key_head: Index,
}

impl Emitter<'_> {
    /// `q · kᵀ`, softmax, `· v` for the queries at a position [token, head, element].
    pub fn attention(&mut self, site: &Site) -> Result<Block, Cut> {
        let (queries, state) = match self.shaping.phase {
            Phase::Merge(parts) => self.merged(site, parts)?,
            _ => self.softmax_state(site, None)?,
        };
        let first_optional = site.operation.definition().operand_counts().0;
        let state = match site.operands.get(first_optional) {
            Some(sinks) => {
                let sinks = self.emit(*sinks, &site.position[1..2])?;
                let sinks = self.cast(&sinks, Element::F32);
                let sinks = self.spread(&sinks, &[queries.rows]);
                state.with_sinks(&mut self.builder, sinks)
            }
            None => state,
        };
        let value = state.normalized(&mut self.builder);
        Ok(Block { value, axes: SmallVec::from_slice(&[queries.rows, queries.head]) })
    }

    /// Leaves in memory what the queries at a position find in their part of the keys.
    pub fn attention_part(&mut self, value: ValueId, position: &[Index], parts: u32) -> Result<(), Cut> {
        let operation = self.graph.defining(value).ok_or_else(|| Cut::never(value, "it is no attention"))?;
        let operands = SmallVec::from_vec(self.graph.operands(value.node).to_vec());
        let site = Site { value, operation, operands, position };
        let split = Split { index: self.builder.program_id(2), count: parts };
        let (queries, state) = self.softmax_state(&site, Some(split))?;
        let (partials, heads) = self.partials(&site, parts, Access::Write)?;
        let rows = queries.described.flattened(&mut self.builder, heads);
        partials.store(&mut self.builder, rows, split, &state);
        Ok(())
    }

    /// What the parts have found.
    fn merged(&mut self, site: &Site, parts: u32) -> Result<(Queries, AttentionState), Cut> {
        let (scale, window) = (1.0, None);
        let key = site.operands[1];
        let (heads, stored) = match self.graph.value_type(key).as_cache().cloned() {
            Some(ty) => (Some(ty.heads), self.cache_element(key, &ty)?),
            None => (self.tensor_type(key)?.shape[1].as_static(), self.storage_element(key)?),
        };
        let queries = self.queries(site, heads, scale, window, stored)?;
        let (partials, heads) = self.partials(site, parts, Access::Read)?;
        let rows = queries.described.flattened(&mut self.builder, heads);
        let state = combine(&mut self.builder, &partials, rows, queries.tile.value_head, parts);
        Ok((queries, state))
    }

    /// The memory between the two kernels of a split attention, and the number of query heads.
    fn partials(&mut self, site: &Site, parts: u32, access: Access) -> Result<(Partials, u32), Cut> {
        let shape = self.tensor_type(site.value)?.shape.clone();
        let extents = self.extents(&shape);
        let heads = shape[1].as_static().and_then(|heads| u32::try_from(heads).ok());
        let heads = heads.ok_or_else(|| Cut::never(site.value, "the number of heads is not known"))?;
        let rows = extents[0].clone() * extents[1].clone();
        let mut argument = |partial: Partial| {
            let mut extents = vec![rows.clone(), Extent::from(u64::from(parts))];
            extents.extend((partial == Partial::Accumulators).then(|| self.symbols.extent(&shape[2])));
            let memory = Memory { buffer: Buffer::Partial(partial), element: Element::F32, extents, alignment: 16 };
            self.whole_memory(&memory, access)
        };
        let [maxima, sums, accumulators] = Partial::ATTENTION.map(&mut argument);
        Ok((Partials { maxima, sums, accumulators }, heads))
    }

    /// The state of the softmax after all keys, or those of a part.
    fn softmax_state(&mut self, site: &Site, split: Option<Split>) -> Result<(Queries, AttentionState), Cut> {
        match site.operation.op() {
            ops::PAGED_ATTENTION => self.paged_state(site, split),
            _ => self.dense_state(site, split),
        }
    }

    fn dense_state(&mut self, site: &Site, split: Option<Split>) -> Result<(Queries, AttentionState), Cut> {
        let ops::Attention { causal, scale, window } = site.attributes()?;
        let [query, key, value] = [site.operands[0], site.operands[1], site.operands[2]];
        let heads = self.tensor_type(key)?.shape[1].as_static();
        let window = window.map(|window| Window::Constant(u32::try_from(window).unwrap_or(u32::MAX)));
        let queries = self.queries(site, heads, scale, window, self.storage_element(key)?)?;
        let extents = [self.tensor_type(query)?.shape[0].clone(), self.tensor_type(key)?.shape[0].clone()];
        let [tokens, keys] = extents.map(|dim| self.symbols.extent(&dim));
        let [tokens, keys] = [self.dimension(&tokens), self.dimension(&keys)];
        // Among the keys, the place of each query's own and of the last that it sees; −1 for rows that are idle.
        let shift = self.extent(keys).plus(&self.extent(tokens).times(-1));
        let rows = |value| Block { value, axes: SmallVec::from_slice(&[queries.rows]) };
        let shift = self.lower(&shift);
        let own = self.add(&rows(queries.described.tokens), &shift);
        let last = if causal {
            own.clone()
        } else {
            let last = self.extent(keys).offset_by(-1);
            self.lower(&last)
        };
        let none = self.number(-1.0, Element::I32);
        let last = self.select(&rows(queries.described.active), &last, &none);
        let [own, last] = [own, last].map(|block| self.spread(&block, &[queries.rows]));
        // Keys may be of another width than values.
        let width = self.tensor_type(key)?.shape[2].as_static().unwrap_or(0);
        let inner = match queries.element.as_lane() {
            Some((_, length)) if u64::from(length) == width => queries.element.clone(),
            _ => {
                let axis = self.axis(self.covering(width));
                Index::lane(axis, width as u32)
            }
        };
        let block = self.emit(query, &[site.position[0].clone(), site.position[1].clone(), inner.clone()])?;
        let query_tile = self.spread(&block, &[queries.rows, inner.axes()[0]]);
        let tile = AttentionTile { head: self.length(inner.axes()[0]), ..queries.tile };
        let visible = VisibleKeys::new(&mut self.builder, &tile, own, last, tile.keys, split);
        let state = AttentionState::new(&mut self.builder, &tile);
        let lanes = self.lanes(tile.keys);
        let mut failure = None;
        let mut builder = self.lend();
        let state = attend(&mut builder, &tile, query_tile, &visible, Visit::Online, state, |b, block| {
            self.borrowing(b, |emitter| {
                let start = Index::stepped(block.start, tile.keys, None);
                let key_position = start.plus(&lanes);
                let mut tile_of = |operand: ValueId, element: &Index| {
                    let position = [key_position.clone(), queries.key_head.clone(), element.clone()];
                    let axes = [lanes.axes()[0], element.axes()[0]];
                    match emitter.emit(operand, &position) {
                        Ok(block) => emitter.spread(&block, &axes),
                        Err(cut) => {
                            failure.get_or_insert(cut);
                            let shape = emitter.shape(&axes);
                            emitter.builder.splat(0.0, &shape, tile.operand)
                        }
                    }
                };
                (tile_of(key, &inner), tile_of(value, &queries.element))
            })
        });
        self.restore(builder);
        match failure {
            Some(cut) => Err(cut),
            None => Ok((queries, state)),
        }
    }

    /// As [`Emitter::dense_state`], of the keys and values in a cache.
    fn paged_state(&mut self, site: &Site, split: Option<Split>) -> Result<(Queries, AttentionState), Cut> {
        let ops::PagedAttention { layer, scale, window, online } = site.attributes()?;
        let layer = layer as u64;
        let [query, cache, positions, sequences, page_table] = [0, 1, 2, 3, 4].map(|operand| site.operands[operand]);
        let (input, ty) = self.cache_input(cache)?;
        let stored = self.cache_element(cache, &ty)?;
        // Layers with different windows share a program.
        let window = window.map(|window| {
            let window = Extent::from(window.min(i32::MAX as u64));
            let argument = self.arguments.parameter(&mut self.builder, &window);
            Window::Value(self.builder.argument_value(argument))
        });
        let queries = self.queries(site, Some(ty.heads), scale, window, stored)?;
        let [positions, sequences, page_table] = [positions, sequences, page_table].map(|value| self.whole(value));
        let [keys, values] = [Buffer::Keys { input, layer }, Buffer::Values { input, layer }].map(|buffer| {
            let memory = self.cache_memory(buffer, input, &ty, stored);
            self.whole_memory(&memory, Access::Read)
        });
        let page_size = u32::try_from(ty.page_size).map_err(|_| Cut::never(cache, "its pages are too long"))?;
        let paged = PagedKeys {
            positions: positions?,
            sequences: sequences?,
            page_table: page_table?,
            keys,
            values,
            page_size,
        };
        let block = self.emit(query, site.position)?;
        let query = self.spread(&block, &[queries.rows, queries.head]);
        let tile = AttentionTile { online, ..queries.tile };
        let state = paged_attention(&mut self.builder, &tile, &queries.described, &paged, query, split);
        Ok((queries, state))
    }

    /// The rows of the query tile at a position [token, head, element].
    fn queries(
        &mut self,
        site: &Site,
        key_heads: Option<u64>,
        scale: f64,
        window: Option<Window>,
        stored: Element,
    ) -> Result<Queries, Cut> {
        let wrong = |reason: &str| Cut::at(site.value, reason.to_string());
        let shape = self.tensor_type(site.value)?.shape.clone();
        let ([token, head, element], (Some(query_heads), Some(width))) =
            (site.position, (shape[1].as_static(), shape[2].as_static()))
        else {
            return Err(Cut::never(site.value, "the number of heads or their width is not known"));
        };
        let Some((head_axis, _)) = element.as_lane().filter(|(_, length)| u64::from(*length) == width) else {
            return Err(wrong("attention is wanted in parts of a head"));
        };
        let mut rows = token.axes();
        rows.extend(head.axes());
        rows.sort_unstable();
        rows.dedup();
        let &[row_axis] = rows.as_slice() else {
            return Err(wrong("attention is wanted along two dimensions of rows"));
        };
        let group = query_heads / key_heads.unwrap_or(query_heads).max(1);
        let (key_head, _) = head.split(group.max(1));
        if !key_head.axes().is_empty() {
            return Err(wrong("attention of several key heads is wanted at once"));
        }
        let tokens = self.symbols.extent(&shape[0]);
        let tokens = self.dimension(&tokens);
        let rows = self.length(row_axis);
        let active = self.inside(token, tokens);
        let in_group = self.inside(head, Dimension::Constant(query_heads));
        let active = match (active, in_group) {
            (Some(a), Some(b)) => self.and(&a, &b),
            (Some(a), None) | (None, Some(a)) => a,
            (None, None) => self.number(1.0, Element::Bool),
        };
        let (token, head) = (self.lower(token), self.lower(head));
        let described = QueryRows {
            tokens: self.spread(&token, &[row_axis]),
            heads: self.spread(&head, &[row_axis]),
            active: self.spread(&active, &[row_axis]),
            key_head: self.lower_scalar(&key_head),
        };
        let operand = match (stored, self.storage_element(site.operands[0])?) {
            (Element::F16, Element::F16) => Element::F16,
            (Element::F32 | Element::F64, _) | (_, Element::F32 | Element::F64) => Element::F32,
            _ => Element::BF16,
        };
        let keys = self.shaping.attention_chunk;
        let head = self.length(head_axis);
        let tile = AttentionTile { rows, keys, head, value_head: head, operand, scale, window, online: true };
        Ok(Queries { rows: row_axis, head: head_axis, element: element.clone(), tile, described, key_head })
    }

    /// The input of the region that a cache value is, and its type.
    pub fn cache_input(&self, cache: ValueId) -> Result<(usize, KvCacheType), Cut> {
        let ty = self.graph.value_type(cache).as_cache();
        match (self.graph.node(cache.node).kind(), ty) {
            (tessera_ir::NodeKind::Input(input), Some(ty)) => Ok((*input, ty.clone())),
            _ => Err(Cut::at(cache, "a cache is written and read in one kernel")),
        }
    }

    /// The element of a cache.
    pub fn cache_element(&self, cache: ValueId, ty: &KvCacheType) -> Result<Element, Cut> {
        element_of(ty.storage).ok_or_else(|| Cut::never(cache, format!("there are no kernels for {} yet", ty.storage)))
    }

    /// The keys or values of one layer of a cache: [pages · page size, heads, elements].
    pub fn cache_memory(&self, buffer: Buffer, input: usize, ty: &KvCacheType, element: Element) -> Memory {
        let info = &self.inputs[input];
        let pages = info.pages.clone().unwrap_or(Extent::from(0));
        let extents = vec![pages * ty.page_size, Extent::from(ty.heads), Extent::from(ty.dim)];
        Memory { buffer, element, extents, alignment: info.alignment }
    }

    /// An input as a whole as an argument of the program.
    fn whole(&mut self, value: ValueId) -> Result<ArgumentIndex, Cut> {
        match self.graph.node(value.node).kind() {
            tessera_ir::NodeKind::Input(input) => {
                let memory = self.input_memory(value, *input)?;
                Ok(self.whole_memory(&memory, Access::Read))
            }
            _ => Err(Cut::at(value, "attention reads it from memory")),
        }
    }

    fn whole_memory(&mut self, memory: &Memory, access: Access) -> ArgumentIndex {
        let mut view = View {
            element: memory.element,
            extents: SmallVec::new(),
            strides: SmallVec::new(),
            alignment: memory.alignment,
        };
        let mut stride = Extent::from(1);
        for extent in memory.extents.iter().rev() {
            view.extents.insert(0, self.dimension(extent));
            view.strides.insert(0, self.dimension(&stride));
            stride = stride * extent.clone();
        }
        self.arguments.tensor(&mut self.builder, memory.buffer, view, access)
    }

    /// Gives the program under construction to a part that builds on it; [`Emitter::restore`] takes it back.
    pub(super) fn lend(&mut self) -> Builder {
        std::mem::replace(&mut self.builder, Builder::new(""))
    }

    pub(super) fn restore(&mut self, builder: Builder) {
        self.builder = builder;
    }

    /// Emits inside a part that has been lent the program. What is emitted is forgotten after: the part may have opened a loop.
    pub(super) fn borrowing<T>(&mut self, builder: &mut Builder, emit: impl FnOnce(&mut Self) -> T) -> T {
        std::mem::swap(builder, &mut self.builder);
        self.open_scope();
        let result = emit(self);
        self.close_scope();
        std::mem::swap(builder, &mut self.builder);
        result
    }

    /// Rotates pairs of a head's elements by angles that grow with the token's position.
    pub fn rope(&mut self, site: &Site) -> Result<Block, Cut> {
        let op: ops::Rope = site.attributes()?;
        let style = op.style;
        let Some(width) = self.tensor_type(site.value)?.shape.last().and_then(|dim| dim.as_static()) else {
            return Err(Cut::never(site.value, "the width of a head is not known"));
        };
        let [token, head, element] = site.position else {
            return Err(Cut::never(site.value, "rope takes [tokens, heads, elements]"));
        };
        let half = width / 2;
        // The pair that an element belongs to, its partner, and whether it is the pair's second.
        let (pair, partner, second) = match style {
            ops::RopeStyle::SplitHalf => {
                if element.is_within(half) {
                    (element.clone(), element.offset_by(half as i64), Some(false))
                } else if element.offset_by(-(half as i64)).is_within(half) {
                    let pair = element.offset_by(-(half as i64));
                    (pair.clone(), pair, Some(true))
                } else {
                    let (_, pair) = element.split(half);
                    let (_, partner) = element.offset_by(half as i64).split(width);
                    (pair, partner, None)
                }
            }
            ops::RopeStyle::Interleaved => {
                let (pair, place) = element.split(2);
                let partner = element.offset_by(1).plus(&place.times(-2));
                (pair, partner, place.as_constant().map(|place| place == 1))
            }
        };
        let position = self.emit(site.operands[1], std::slice::from_ref(token))?;
        let position = self.cast(&position, Element::F32);
        let exponent = self.lower(&pair);
        let exponent = self.cast(&exponent, Element::F32);
        let power = self.scale(&exponent, -2.0 / width as f64 * op.base.ln() * LOG2_E);
        let mut frequency = self.unary(UnaryOperation::Exp2, &power);
        if let Some(stretch) = op.stretch(width as usize) {
            // f · (1 − r · (1 − 1 / factor)), with the share r of the pair that is divided.
            let from_low = self.shift(&exponent, -stretch.low);
            let share = self.scale(&from_low, 1.0 / stretch.width);
            let (zero, one) = (self.number(0.0, Element::F32), self.number(1.0, Element::F32));
            let share = self.maximum(&share, &zero);
            let share = self.binary(BinaryOperation::Minimum, &share, &one);
            let less = self.scale(&share, 1.0 / stretch.factor - 1.0);
            let kept = self.shift(&less, 1.0);
            frequency = self.multiply(&frequency, &kept);
        }
        let angle = self.multiply(&position, &frequency);
        let turns = [UnaryOperation::Cos, UnaryOperation::Sin].map(|function| self.unary(function, &angle));
        let [cosine, sine] = match op.concentration {
            1.0 => turns,
            factor => turns.map(|turn| self.scale(&turn, factor)),
        };
        let x = self.operand(site, 0, site.position)?;
        let other = self.operand(site, 0, &[token.clone(), head.clone(), partner])?;
        let kept = self.multiply(&x, &cosine);
        let turned = self.multiply(&other, &sine);
        Ok(match second {
            Some(true) => self.add(&kept, &turned),
            Some(false) => self.subtract(&kept, &turned),
            None => {
                let place = match style {
                    ops::RopeStyle::SplitHalf => element.split(half).0,
                    ops::RopeStyle::Interleaved => element.split(2).1,
                };
                let (place, zero) = (self.lower(&place), self.lower(&Index::default()));
                let first = self.compare(Predicate::Equal, &place, &zero);
                let (less, more) = (self.subtract(&kept, &turned), self.add(&kept, &turned));
                self.select(&first, &less, &more)
            }
        })
    }

    /// Where a `kv_append` puts the row of a token: its slot in the cache, outside of it for tokens that do not exist.
    pub fn cache_slot(&mut self, append: ValueId, ty: &KvCacheType, token: &Index) -> Result<Index, Cut> {
        let operands = self.graph.operands(append.node);
        let [positions, sequences, page_table] = [operands[3], operands[4], operands[5]];
        let position = self.emit(positions, std::slice::from_ref(token))?;
        let sequence = self.emit(sequences, std::slice::from_ref(token))?;
        let [position, sequence] = [position, sequence].map(|block| self.cast(&block, Element::I32));
        let page_size = self.number(ty.page_size as f64, Element::I32);
        let column = self.divide(&position, &page_size);
        let in_page = self.binary(BinaryOperation::Remainder, &position, &page_size);
        // The table seen as one row, so that sequence and column vary along one axis.
        let shape = self.tensor_type(page_table)?.shape.clone();
        let extents = [self.symbols.extent(&shape[0]), self.symbols.extent(&shape[1])];
        let columns = self.dimension(&extents[1]);
        let columns = self.extent(columns);
        let columns = self.lower(&columns);
        let row = self.multiply(&sequence, &columns);
        let place = self.add(&row, &column);
        let place = self.index_of(&place).ok_or_else(|| Cut::at(append, "tokens vary along two dimensions"))?;
        let tessera_ir::NodeKind::Input(input) = *self.graph.node(page_table.node).kind() else {
            return Err(Cut::at(page_table, "a cache is appended to with a page table from memory"));
        };
        let mut memory = self.input_memory(page_table, input)?;
        memory.extents = vec![Extent::product(extents)];
        let page = self.load(page_table, &memory, &[place])?;
        let page = self.cast(&page, Element::I32);
        let first = self.multiply(&page, &page_size);
        let slot = self.add(&first, &in_page);
        // Idle lanes load page 0: they must not write there.
        let tokens = self.tensor_type(positions)?.shape[0].clone();
        let tokens = self.symbols.extent(&tokens);
        let tokens = self.dimension(&tokens);
        let slot = match self.inside(token, tokens) {
            None => slot,
            Some(inside) => {
                let outside = self.number(-1.0, Element::I32);
                self.select(&inside, &slot, &outside)
            }
        };
        self.index_of(&slot).ok_or_else(|| Cut::at(append, "tokens vary along two dimensions"))
    }
}
