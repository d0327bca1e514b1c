//! Products of rows with the matrices of the experts that are chosen for them.
//!
//! For few rows a program computes some columns of one row. For many, rows are put in the order of their experts first, by kernels of
//! their own ([`order`]) that write their numbers: `order`, and where each expert's start in it: `starts`. A program of the host then computes some columns
//! of all rows of one expert, whose weights it reads once; a program of a GPU, of one tile of an expert's rows.

mod order;

use smallvec::SmallVec;
use tessera_ir::{ValueId, ops};
use tessera_runtime::plan::Extent;

use super::access::Memory;
use super::arguments::Partial;
use super::blocks::granule;
use super::emitter::{Block, Emitter, Phase};
use super::error::Cut;
use super::index::{Atom, Axis, Index, Position};
use super::kernel::{Kernel, Place, Root, Share, places, put};
use super::matmul::common;
use super::operations::Site;
use super::packing::DEPTH;
use super::strategy::Tiling;
use crate::tile::{BinaryOperation, Dimension, Element, Predicate, Reduction};

/// Up to this many rows of an expert are multiplied [`ROWS_AT_ONCE`] at a time, reading its weights from the cache again, instead of unpacking them for all.
const FEW_ROWS: i64 = 8;

/// As many as are multiplied in the time in which an expert's weights come from memory.
const ROWS_AT_ONCE: u32 = 2;

/// Fewest rows that are worth a place on the right of a product.
const FEWEST_RIGHT: u32 = 8;

/// A grouped product and its operands.
#[derive(Clone)]
struct Grouped {
    value: ValueId,
    x: ValueId,
    w: ValueId,
    experts: ValueId,
    bias: Option<ValueId>,
    /// Number of experts.
    count: u64,
    /// Rows that a token has.
    chosen: u64,
    /// Length of the rows.
    inner: u64,
    /// Tokens.
    tokens: Extent,
    /// Lanes along the inner dimension, of a chunk of it.
    depth: Index,
    chunk: u32,
}

impl Grouped {
    /// Rows of all tokens.
    fn rows(&self) -> Extent {
        self.tokens.clone() * self.chosen
    }
}

/// Rows of one expert, for which its products are wanted.
#[derive(Clone)]
pub struct ExpertRows {
    grouped: Grouped,
    /// Their numbers, counted over all tokens.
    row: Index,
    /// The axis that they vary along.
    rows: Axis,
    expert: Index,
}

impl ExpertRows {
    /// Token, and place among the token's rows. Where rows are stored they vary along their axis, also if it is one row.
    fn place(&self) -> [Index; 2] {
        let along =
            if self.row.axes().is_empty() { self.row.plus(&Index::lane(self.rows, 1)) } else { self.row.clone() };
        let (token, place) = along.split(self.grouped.chosen);
        [token, place]
    }
}

impl Emitter<'_> {
    fn grouped(&mut self, value: ValueId) -> Result<Grouped, Cut> {
        let operands = self.graph.operands(value.node);
        let [x, w, experts] = [operands[0], operands[1], operands[2]];
        let (shape, matrices) = (self.tensor_type(experts)?.shape.clone(), self.tensor_type(w)?.clone());
        let known = |dim: &tessera_ir::Dim| {
            dim.as_static().ok_or_else(|| Cut::never(value, "the extents of the experts' matrices are not known"))
        };
        let (count, inner, chosen) = (known(&matrices.shape[0])?, known(&matrices.shape[2])?, known(&shape[1])?);
        let granule = self.packing_of(w).map_or(granule(matrices.storage()).into(), |_| DEPTH);
        let padded = inner.next_multiple_of(granule);
        let chunk = self.shaping.dot_chunk.min(self.covering(padded));
        let depth = self.lanes(chunk);
        let tokens = self.symbols.extent(&shape[0]);
        let bias = operands.get(3).copied();
        Ok(Grouped { value, x, w, experts, bias, count, chosen, inner, tokens, depth, chunk })
    }

    /// The experts of all rows, one after another.
    fn expert_memory(&mut self, grouped: &Grouped) -> Result<Memory, Cut> {
        let tessera_ir::NodeKind::Input(input) = *self.graph.node(grouped.experts.node).kind() else {
            return Err(Cut::at(grouped.experts, "the experts of rows are read from memory"));
        };
        let memory = self.input_memory(grouped.experts, input)?;
        Ok(Memory { extents: vec![grouped.rows()], ..memory })
    }

    /// The matrix of an expert, transposed: [inner, columns], of one chunk of the inner dimension.
    fn expert_weights(&mut self, grouped: &Grouped, expert: &Index, column: &Index, k: &Index) -> Result<Block, Cut> {
        self.emit(grouped.w, &[expert.clone(), column.clone(), k.clone()])
    }

    /// A grouped product at a position, of the rows that are being put into memory.
    pub fn grouped_product(&mut self, site: &Site) -> Result<Block, Cut> {
        let order =
            || Cut::at(site.value, "a product of the rows of experts is wanted in another order than it is made in");
        let rows = self.expert_rows.clone().ok_or_else(order)?;
        let ([leading @ .., column], true) = (site.position, rows.grouped.value == site.value) else {
            return Err(order());
        };
        if leading != rows.place() {
            return Err(order());
        }
        self.expert_products(&rows, std::slice::from_ref(column))?.pop().ok_or_else(order)
    }

    /// The products of rows with each of some runs of columns of one expert's matrix, and the bias, in one loop.
    fn expert_products(&mut self, of: &ExpertRows, columns: &[Index]) -> Result<Vec<Block>, Cut> {
        let ExpertRows { grouped, row, rows, expert } = of;
        let (rows, expert) = (*rows, expert);
        let &[depth] = grouped.depth.axes().as_slice() else {
            return Err(Cut::at(grouped.value, "the inner dimension varies along one axis"));
        };
        let element = common([self.multiplied(grouped.x)?, self.multiplied(grouped.w)?]);
        let sum = if element == Element::F64 { Element::F64 } else { Element::F32 };
        // Tensor cores want the operand that is unpacked in registers on the left, where they take it by single words; the other one's words are
        // then pairs that are read together, and eight rows fill a product.
        let weights_first = self.shaping.rows_apart && self.length(rows) >= FEWEST_RIGHT;
        let mut initial = Vec::with_capacity(columns.len());
        for column in columns {
            let &[along] = column.axes().as_slice() else {
                return Err(Cut::at(grouped.value, "columns vary along one axis"));
            };
            let axes = if weights_first { [along, rows] } else { [rows, along] };
            let axes: SmallVec<[Axis; 3]> = SmallVec::from_slice(&axes);
            let start = match grouped.bias {
                Some(bias) => {
                    let bias = self.emit(bias, &[expert.clone(), column.clone()])?;
                    self.cast(&bias, sum)
                }
                None => self.number(0.0, sum),
            };
            initial.push(Block { value: self.spread(&start, &axes), axes });
        }
        let (token, place) = row.split(grouped.chosen);
        let inner = Dimension::Constant(grouped.inner);
        let is_exact = grouped.inner.is_multiple_of(grouped.chunk.into());
        let step = |emitter: &mut Self, from: &Index, sums: &[Block]| {
            let k = from.plus(&grouped.depth);
            let mut left: Position = SmallVec::from_elem(token.clone(), 1);
            if emitter.tensor_type(grouped.x)?.rank() == 3 {
                left.push(place.clone());
            }
            left.push(k.clone());
            let end = (!is_exact).then_some((&k, inner));
            let x = emitter.dot_operand(grouped.x, &left, element, end)?;
            let mut next = Vec::with_capacity(columns.len());
            for (column, sum) in columns.iter().zip(sums) {
                let weights = emitter.expert_weights(grouped, expert, column, &k)?;
                let weights = emitter.cast(&weights, element);
                let [first, last] = [sum.axes[0], sum.axes[1]];
                let (lhs, rhs) = if weights_first { (&weights, &x) } else { (&x, &weights) };
                let (lhs, rhs) = (emitter.spread(lhs, &[first, depth]), emitter.spread(rhs, &[depth, last]));
                next.push(Block { value: emitter.builder.dot(lhs, rhs, sum.value), axes: sum.axes.clone() });
            }
            Ok(next)
        };
        if grouped.inner <= u64::from(grouped.chunk) {
            step(self, &Index::default(), &initial)
        } else {
            self.for_each(inner, grouped.chunk, &initial, step)
        }
    }

    /// Multiplies rows with an expert's matrix and stores what comes of it.
    fn put_rows(
        &mut self,
        grouped: &Grouped,
        roots: &[Root],
        (row, rows): (&Index, Axis),
        expert: &Index,
        column: &Index,
    ) -> Result<(), Cut> {
        let of = ExpertRows { grouped: grouped.clone(), row: row.clone(), rows, expert: expert.clone() };
        let mut position: Position = of.place().into_iter().collect();
        position.push(column.clone());
        let outer = self.expert_rows.replace(of.clone());
        let put_all =
            |emitter: &mut Self| places(roots, &position).iter().try_for_each(|place: &Place| put(emitter, place));
        // All columns that are wanted of the product are summed in one loop.
        let mut keys = self.wanted(put_all)?;
        keys.retain(|key| key.value == grouped.value && self.known(key).is_none());
        let columns: Vec<Index> = keys.iter().filter_map(|key| key.position.last().cloned()).collect();
        let products = self.expert_products(&of, &columns)?;
        for (key, product) in keys.into_iter().zip(products) {
            self.remember(key, product);
        }
        put_all(self)?;
        self.expert_rows = outer;
        Ok(())
    }

    /// The rows at places in their order up to an end; those after it are rows before the first, of a token before the first.
    fn ordered_row(
        &mut self,
        grouped: &Grouped,
        order: &Memory,
        (place, rows): (&Index, Axis),
        end: &Block,
    ) -> Result<Index, Cut> {
        let row = self.load(grouped.value, order, std::slice::from_ref(place))?;
        let place = self.lower(place);
        let inside = self.compare(Predicate::Less, &place, end);
        let outside = self.number(-(grouped.chosen as f64), Element::I32);
        let row = self.select(&inside, &row, &outside);
        Ok(Index::atom(Atom::Vector { value: self.spread(&row, &[rows]), axis: rows }))
    }

    /// for i in (lower..upper).step_by(step), with nothing carried.
    fn for_rows(
        &mut self,
        [lower, upper]: [&Block; 2],
        step: u32,
        body: impl FnOnce(&mut Self, &Index) -> Result<(), Cut>,
    ) -> Result<(), Cut> {
        let (induction, _) = self.builder.open_loop(lower.value, upper.value, step, &[]);
        self.open_scope();
        let result = body(self, &Index::scalar(induction));
        self.close_scope();
        self.builder.close_loop(Vec::new());
        result
    }
}

impl Kernel<'_> {
    /// Grouped products, or the order that their rows are taken in.
    pub(super) fn experts(&mut self, roots: &[Root], tiling: &Tiling) -> Result<Vec<Share>, Cut> {
        let graph = self.emitter.graph;
        let found = graph.operations().find(|(_, operation)| operation.is(ops::GROUPED_MATMUL));
        let Some(value) = found.map(|(node, _)| ValueId::first(node)) else { return self.elements(roots, tiling) };
        let shape = self.common_shape(roots)?;
        let of_product = self.emitter.tensor_type(value)?.shape.clone();
        // What is made of the product on the way to memory has its rows.
        let is_product = roots.iter().all(|root| root.value() == value);
        let has_rows = shape.rank() == of_product.rank() && shape[..2] == of_product[..2];
        let is_fused = self.emitter.shaping.rows_apart && has_rows;
        if !is_product && !is_fused {
            return Err(Cut::at(value, "what is made of it has no kernel together with it"));
        }
        let grouped = self.emitter.grouped(value)?;
        match self.emitter.shaping.phase {
            Phase::Order => self.order_rows(&grouped)?,
            Phase::Count => self.count_rows(&grouped)?,
            Phase::Scan => self.scan_counts(&grouped)?,
            Phase::Place => self.place_rows(&grouped)?,
            Phase::Ordered if self.emitter.shaping.rows_apart => self.ordered_tiles(&grouped, roots, tiling)?,
            Phase::Ordered => self.ordered_rows(&grouped, roots, tiling)?,
            _ => self.single_rows(&grouped, roots, tiling)?,
        }
        Ok(Vec::new())
    }

    /// Columns of the program.
    fn expert_columns(&mut self, roots: &[Root], tiling: &Tiling) -> Result<Index, Cut> {
        let columns = self.common_shape(roots)?[2].clone();
        let columns = self.emitter.symbols.extent(&columns);
        let tile = self.tiles(0, &columns, tiling.columns.into());
        let lanes = self.emitter.lanes(tiling.columns);
        Ok(tile.times(tiling.columns.into()).plus(&lanes))
    }

    /// A program for some columns of each row.
    fn single_rows(&mut self, grouped: &Grouped, roots: &[Root], tiling: &Tiling) -> Result<(), Cut> {
        let column = self.expert_columns(roots, tiling)?;
        let row = self.tiles(1, &grouped.rows(), 1);
        let emitter = &mut self.emitter;
        let memory = emitter.expert_memory(grouped)?;
        let expert = emitter.load(grouped.experts, &memory, std::slice::from_ref(&row))?;
        // What is not an expert's number must not lead outside of the weights.
        let (first, last) =
            (emitter.number(0.0, Element::I32), emitter.number(grouped.count as f64 - 1.0, Element::I32));
        let expert = emitter.maximum(&expert, &first);
        let expert = emitter.binary(BinaryOperation::Minimum, &expert, &last);
        let expert = Index::bounded(expert.value, Some(grouped.count));
        // Where weights are rows of tensor cores' fragments, the row is repeated over the columns of one.
        let rows = emitter.axis(if emitter.packing_of(grouped.w).is_some() { FEWEST_RIGHT } else { 1 });
        emitter.put_rows(grouped, roots, (&row, rows), &expert, &column)
    }

    /// A program for some columns of a tile of an expert's rows.
    ///
    /// The tiles of expert e are the programs from ⌊starts[e] / rows⌋ + e on. As many follow before the next expert's as it has tiles, or one or
    /// two more, which have nothing to do: ⌊(s + n) / rows⌋ + 1 ≥ ⌊s / rows⌋ + ⌈n / rows⌉.
    fn ordered_tiles(&mut self, grouped: &Grouped, roots: &[Root], tiling: &Tiling) -> Result<(), Cut> {
        let column = self.expert_columns(roots, tiling)?;
        let tiles = grouped.rows().ceil_div(u64::from(tiling.rows)) + Extent::from(grouped.count);
        let program = self.tiles(1, &tiles, 1);
        let emitter = &mut self.emitter;
        let (order, starts) =
            (emitter.order_memory(grouped, Partial::Order), emitter.order_memory(grouped, Partial::Starts));
        let number = |emitter: &mut Emitter, number: u64| emitter.number(number as f64, Element::I32);
        let (rows, last) = (number(emitter, tiling.rows.into()), number(emitter, grouped.count - 1));
        let (zero, one) = (number(emitter, 0), number(emitter, 1));
        let program = emitter.lower(&program);

        // The expert is the last whose tiles do not begin after this one.
        let length = emitter.covering(grouped.count);
        let experts = emitter.lanes(length);
        let &[axis] = experts.axes().as_slice() else { return Ok(()) };
        let start = emitter.load(grouped.value, &starts, std::slice::from_ref(&experts))?;
        let expert = emitter.lower(&experts);
        let tile = emitter.binary(BinaryOperation::Divide, &start, &rows);
        let tile = emitter.add(&tile, &expert);
        let is_before = emitter.compare(Predicate::LessEqual, &tile, &program);
        let exists = emitter.compare(Predicate::LessEqual, &expert, &last);
        let is_before = emitter.and(&is_before, &exists);
        let before = emitter.select(&is_before, &one, &zero);
        let before = emitter.reduce(Reduction::Sum, &before, axis);
        let expert = emitter.subtract(&before, &one);
        let expert = emitter.maximum(&expert, &zero);
        let expert = emitter.binary(BinaryOperation::Minimum, &expert, &last);
        let index = Index::bounded(expert.value, Some(grouped.count));

        let start = emitter.load(grouped.value, &starts, std::slice::from_ref(&index))?;
        let end = emitter.load(grouped.value, &starts, &[index.offset_by(1)])?;
        let tile = emitter.binary(BinaryOperation::Divide, &start, &rows);
        let tile = emitter.add(&tile, &expert);
        let tile = emitter.subtract(&program, &tile);
        let first = emitter.multiply(&tile, &rows);
        let first = emitter.add(&start, &first);
        let has_rows = emitter.compare(Predicate::Less, &first, &end);
        let lanes = emitter.lanes(tiling.rows);
        let &[rows] = lanes.axes().as_slice() else { return Ok(()) };
        let place = Index::scalar(first.value).plus(&lanes);
        emitter.conditionally(&has_rows, |emitter| {
            let row = emitter.ordered_row(grouped, &order, (&place, rows), &end)?;
            emitter.put_rows(grouped, roots, (&row, rows), &index, &column)
        })
    }

    /// A program for some columns of all rows of an expert.
    fn ordered_rows(&mut self, grouped: &Grouped, roots: &[Root], tiling: &Tiling) -> Result<(), Cut> {
        let column = self.expert_columns(roots, tiling)?;
        let expert = self.tiles(1, &Extent::from(grouped.count), 1);
        let emitter = &mut self.emitter;
        let (order, starts) =
            (emitter.order_memory(grouped, Partial::Order), emitter.order_memory(grouped, Partial::Starts));
        let first = emitter.load(grouped.value, &starts, std::slice::from_ref(&expert))?;
        let end = emitter.load(grouped.value, &starts, &[expert.offset_by(1)])?;
        let count = emitter.subtract(&end, &first);
        let limit = emitter.number(FEW_ROWS as f64, Element::I32);
        let few = emitter.compare(Predicate::LessEqual, &count, &limit);
        let many = emitter.compare(Predicate::Greater, &count, &limit);
        let single = emitter.axis(1);
        let group = emitter.lanes(ROWS_AT_ONCE);
        let lanes = emitter.lanes(tiling.rows);
        let (&[together], &[rows]) = (group.axes().as_slice(), lanes.axes().as_slice()) else { return Ok(()) };
        emitter.conditionally(&few, |emitter| {
            let size = emitter.number(ROWS_AT_ONCE.into(), Element::I32);
            let groups = emitter.binary(BinaryOperation::Divide, &count, &size);
            let grouped_rows = emitter.multiply(&groups, &size);
            let rest = emitter.add(&first, &grouped_rows);
            emitter.for_rows([&first, &rest], ROWS_AT_ONCE, |emitter, place| {
                let row = emitter.ordered_row(grouped, &order, (&place.plus(&group), together), &end)?;
                emitter.put_rows(grouped, roots, (&row, together), &expert, &column)
            })?;
            emitter.for_rows([&rest, &end], 1, |emitter, place| {
                let row = emitter.load(grouped.value, &order, std::slice::from_ref(place))?;
                emitter.put_rows(grouped, roots, (&Index::scalar(row.value), single), &expert, &column)
            })
        })?;
        emitter.conditionally(&many, |emitter| {
            if grouped.inner <= u64::from(grouped.chunk) {
                // Ahead of the loop, for all of its rounds.
                emitter.expert_weights(grouped, &expert, &column, &grouped.depth)?;
            }
            emitter.for_rows([&first, &end], tiling.rows, |emitter, place| {
                let row = emitter.ordered_row(grouped, &order, (&place.plus(&lanes), rows), &end)?;
                emitter.put_rows(grouped, roots, (&row, rows), &expert, &column)
            })
        })
    }
}
