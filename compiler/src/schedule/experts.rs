//! Products of rows with the matrices of the experts that are chosen for them.
//!
//! For few rows a program computes some columns of one row. For many, rows are put in the order of their experts first, by a kernel of
//! its own that writes their numbers: `order`, and where each expert's start in it: `starts`. A program then computes some columns of all
//! rows of one expert, whose weights it reads once.

use smallvec::SmallVec;
use tessera_ir::{ValueId, ops};
use tessera_runtime::plan::Extent;

use super::access::Memory;
use super::arguments::{Buffer, Partial};
use super::blocks::granule;
use super::emitter::{Block, Emitter, Key, Part, Phase};
use super::error::Cut;
use super::index::{Atom, Axis, Index, Position};
use super::kernel::{Kernel, PartialSize, Place, Root, Share, places, put};
use super::matmul::common;
use super::strategy::Tiling;
use crate::tile::{BinaryOperation, Dimension, Element, Predicate, Reduction};

/// Up to this many rows of an expert are multiplied one by one, reading its weights from the cache again, instead of unpacking them for all.
const FEW_ROWS: i64 = 8;

/// Rows that are put in order at a time.
const SORTED_ROWS: u32 = 16;

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

impl Emitter<'_> {
    fn grouped(&mut self, value: ValueId) -> Result<Grouped, Cut> {
        let operands = self.graph.operands(value.node);
        let [x, w, experts] = [operands[0], operands[1], operands[2]];
        let (shape, matrices) = (self.tensor_type(experts)?.shape.clone(), self.tensor_type(w)?.clone());
        let known = |dim: &tessera_ir::Dim| {
            dim.as_static().ok_or_else(|| Cut::never(value, "the extents of the experts' matrices are not known"))
        };
        let (count, inner, chosen) = (known(&matrices.shape[0])?, known(&matrices.shape[2])?, known(&shape[1])?);
        let padded = inner.next_multiple_of(granule(matrices.storage()).into());
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

    /// Memory that the kernel which orders rows leaves for the other.
    fn order_memory(&self, grouped: &Grouped, partial: Partial) -> Memory {
        let extent = match partial {
            Partial::Starts => Extent::from(grouped.count + 1),
            _ => grouped.rows(),
        };
        Memory { buffer: Buffer::Partial(partial), element: Element::I32, extents: vec![extent], alignment: 16 }
    }

    /// The matrix of an expert, transposed: [inner, columns], of one chunk of the inner dimension.
    fn expert_weights(&mut self, grouped: &Grouped, expert: &Index, column: &Index, k: &Index) -> Result<Block, Cut> {
        self.emit(grouped.w, &[expert.clone(), column.clone(), k.clone()])
    }

    /// The products of rows with some columns of one expert's matrix, and the bias. `row` counts the rows of all tokens, along `rows`.
    fn expert_product(
        &mut self,
        grouped: &Grouped,
        (row, rows): (&Index, Axis),
        expert: &Index,
        column: &Index,
    ) -> Result<Block, Cut> {
        let &[columns] = column.axes().as_slice() else {
            return Err(Cut::at(grouped.value, "columns vary along one axis"));
        };
        let &[depth] = grouped.depth.axes().as_slice() else {
            return Err(Cut::at(grouped.value, "the inner dimension varies along one axis"));
        };
        let element = common([self.multiplied(grouped.x)?, self.multiplied(grouped.w)?]);
        let sum = if element == Element::F64 { Element::F64 } else { Element::F32 };
        let axes: SmallVec<[Axis; 3]> = SmallVec::from_slice(&[rows, columns]);
        let start = match grouped.bias {
            Some(bias) => {
                let bias = self.emit(bias, &[expert.clone(), column.clone()])?;
                self.cast(&bias, sum)
            }
            None => self.number(0.0, sum),
        };
        let start = Block { value: self.spread(&start, &axes), axes };
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
            let lhs = emitter.dot_operand(grouped.x, &left, element, end)?;
            let rhs = emitter.expert_weights(grouped, expert, column, &k)?;
            let rhs = emitter.cast(&rhs, element);
            let (lhs, rhs) = (emitter.spread(&lhs, &[rows, depth]), emitter.spread(&rhs, &[depth, columns]));
            Ok(vec![Block { value: emitter.builder.dot(lhs, rhs, sums[0].value), axes: sums[0].axes.clone() }])
        };
        let mut sums = if grouped.inner <= u64::from(grouped.chunk) {
            step(self, &Index::default(), std::slice::from_ref(&start))?
        } else {
            self.for_each(inner, grouped.chunk, std::slice::from_ref(&start), step)?
        };
        Ok(sums.swap_remove(0))
    }

    /// Multiplies rows with an expert's matrix and stores what comes out.
    fn put_rows(
        &mut self,
        grouped: &Grouped,
        roots: &[Root],
        (row, rows): (&Index, Axis),
        expert: &Index,
        column: &Index,
    ) -> Result<(), Cut> {
        // Where the rows are stored they vary along their axis, also if it is one row.
        let along = if row.axes().is_empty() { row.plus(&Index::lane(rows, 1)) } else { row.clone() };
        let (token, place) = along.split(grouped.chosen);
        let position: Position = [token, place, column.clone()].into_iter().collect();
        let block = self.expert_product(grouped, (row, rows), expert, column)?;
        self.remember(Key { value: grouped.value, part: Part::Whole, position: position.clone() }, block);
        places(roots, &position).iter().try_for_each(|place: &Place| put(self, place))
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
        if let Some(root) = roots.iter().find(|root| root.value() != value) {
            return Err(Cut::at(root.value(), "it is no product of the rows of experts"));
        }
        let grouped = self.emitter.grouped(value)?;
        match self.emitter.shaping.phase {
            Phase::Order => self.order_rows(&grouped)?,
            Phase::Ordered => self.ordered_rows(&grouped, roots, tiling)?,
            _ => self.single_rows(&grouped, roots, tiling)?,
        }
        Ok(Vec::new())
    }

    /// Memory between the kernel that orders rows and the one that multiplies them.
    pub(super) fn order_sizes(&mut self) -> Result<Vec<PartialSize>, Cut> {
        let graph = self.emitter.graph;
        let found = graph.operations().find(|(_, operation)| operation.is(ops::GROUPED_MATMUL));
        let Some((node, _)) = found else { return Ok(Vec::new()) };
        let grouped = self.emitter.grouped(ValueId::first(node))?;
        let size = |partial, per_token, fixed| {
            let width = Element::I32.bytes() as u64;
            PartialSize { partial, tokens: grouped.tokens.clone(), per_token: per_token * width, fixed: fixed * width }
        };
        Ok(vec![size(Partial::Order, grouped.chosen, 0), size(Partial::Starts, 0, grouped.count + 1)])
    }

    /// Columns of the program.
    fn expert_columns(&mut self, grouped: &Grouped, tiling: &Tiling) -> Result<Index, Cut> {
        let columns = self.emitter.tensor_type(grouped.value)?.shape[2].clone();
        let columns = self.emitter.symbols.extent(&columns);
        let tile = self.tiles(0, &columns, tiling.columns.into());
        let lanes = self.emitter.lanes(tiling.columns);
        Ok(tile.times(tiling.columns.into()).plus(&lanes))
    }

    /// A program for some columns of each row.
    fn single_rows(&mut self, grouped: &Grouped, roots: &[Root], tiling: &Tiling) -> Result<(), Cut> {
        let column = self.expert_columns(grouped, tiling)?;
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
        let rows = emitter.axis(1);
        emitter.put_rows(grouped, roots, (&row, rows), &expert, &column)
    }

    /// A program for each expert: finds its rows and writes down their numbers after those of the experts before it. One program more
    /// writes where the last expert's rows end.
    fn order_rows(&mut self, grouped: &Grouped) -> Result<(), Cut> {
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
        let [down, across] = [(); 2].map(|()| emitter.lanes(SORTED_ROWS));
        let &[across_axis] = across.axes().as_slice() else { return Ok(()) };
        let &[down_axis] = down.axes().as_slice() else { return Ok(()) };
        emitter.for_each(rows, SORTED_ROWS, std::slice::from_ref(&before), |emitter, start, next| {
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

    /// A program for some columns of all rows of an expert.
    fn ordered_rows(&mut self, grouped: &Grouped, roots: &[Root], tiling: &Tiling) -> Result<(), Cut> {
        let column = self.expert_columns(grouped, tiling)?;
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
        let lanes = emitter.lanes(tiling.rows);
        let &[rows] = lanes.axes().as_slice() else { return Ok(()) };
        emitter.conditionally(&few, |emitter| {
            emitter.for_rows([&first, &end], 1, |emitter, place| {
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
                let place = place.plus(&lanes);
                let row = emitter.load(grouped.value, &order, std::slice::from_ref(&place))?;
                let place = emitter.lower(&place);
                let inside = emitter.compare(Predicate::Less, &place, &end);
                // Rows before the first: of a token before the first.
                let outside = emitter.number(-(grouped.chosen as f64), Element::I32);
                let row = emitter.select(&inside, &row, &outside);
                let row = Index::atom(Atom::Vector { value: emitter.spread(&row, &[rows]), axis: rows });
                emitter.put_rows(grouped, roots, (&row, rows), &expert, &column)
            })
        })
    }
}
