//! Matrix products: one loop over the inner dimension for all products that share their rows.

use smallvec::SmallVec;
use tessera_ir::{NodeKind, Storage, ValueId, ops};

use super::blocks::granule;
use super::emitter::{Block, Emitter, Key};
use super::error::Cut;
use super::index::{Axis, Index, Position};
use crate::tile::{Dimension, Element};

/// Length of the chunks of an inner dimension that is not known when the program is built.
const LONGEST_UNKNOWN: u32 = 256;

/// One operand pair of a product at a position.
struct Product {
    key: Key,
    lhs: ValueId,
    rhs: ValueId,
    transpose_rhs: bool,
    /// A `dequantize` whose factors do not change along the inner dimension is applied to the sum: `rhs` is then what it
    /// dequantizes.
    dequantize: Option<ValueId>,
    /// What both operands are multiplied in.
    element: Element,
    /// Where the rows of the left operand are: its position without the inner dimension.
    left: Position,
    /// Which of the right operand's matrices: its position without the last two dimensions.
    matrix: Position,
    column: Index,
    rows: Axis,
    columns: Axis,
    /// What is added to the sums of each column.
    bias: Option<ValueId>,
}

impl Emitter<'_> {
    /// Whether two products can be summed in one loop: their left operands have the same rows and the inner dimension is as long.
    pub fn shares_loop(&self, first: &Key, other: &Key) -> bool {
        let inner = |key: &Key| {
            let lhs = self.graph.operands(key.value.node)[0];
            self.graph.value_type(lhs).as_tensor().and_then(|ty| ty.shape.last().cloned())
        };
        let rows = |key: &Key| key.position.split_last().map(|(_, rows)| rows.to_vec());
        inner(first) == inner(other) && rows(first) == rows(other)
    }

    /// Computes products of the same rows in one loop over their inner dimension, and remembers them.
    pub fn matrix_products(&mut self, keys: &[Key]) -> Result<(), Cut> {
        let mut products = Vec::with_capacity(keys.len());
        for key in keys {
            products.push(self.product(key)?);
        }
        let Some(first) = products.first() else { return Ok(()) };
        let inner = self.tensor_type(first.lhs)?.shape.last().cloned();
        let inner = inner.map(|dim| self.symbols.extent(&dim));
        let Some(inner) = inner.map(|extent| self.dimension(&extent)) else { return Ok(()) };
        let chunk = match inner {
            Dimension::Constant(extent) => {
                // Whole blocks of every right-hand side.
                let granules = products.iter().map(|product| Ok(granule(self.tensor_type(product.rhs)?.storage())));
                let granule = granules.collect::<Result<Vec<u32>, Cut>>()?.into_iter().max().unwrap_or(1);
                self.shaping.dot_chunk.min(self.covering(extent.next_multiple_of(granule.into())))
            }
            Dimension::Argument(_) => self.shaping.dot_chunk.min(LONGEST_UNKNOWN),
        };
        let is_exact = matches!(inner, Dimension::Constant(extent) if extent % u64::from(chunk) == 0);
        let lanes = self.lanes(chunk);
        let depth = match lanes.as_lane() {
            Some((axis, _)) => axis,
            None => return Ok(()),
        };
        let mut initial = Vec::new();
        for product in &products {
            let sum = if product.element == Element::F64 { Element::F64 } else { Element::F32 };
            let zero = self.number(0.0, sum);
            let axes: SmallVec<[Axis; 3]> = SmallVec::from_slice(&[product.rows, product.columns]);
            initial.push(Block { value: self.spread(&zero, &axes), axes });
        }
        let step = |emitter: &mut Self, start: &Index, sums: &[Block]| {
            let k = start.plus(&lanes);
            let mut next = Vec::new();
            for (product, sum) in products.iter().zip(sums) {
                let mut left = product.left.clone();
                left.push(k.clone());
                let lhs =
                    emitter.dot_operand(product.lhs, &left, product.element, (!is_exact).then_some((&k, inner)))?;
                let matrix = if product.transpose_rhs { [&product.column, &k] } else { [&k, &product.column] };
                let mut right = product.matrix.clone();
                right.extend(matrix.into_iter().cloned());
                let rhs =
                    emitter.dot_operand(product.rhs, &right, product.element, (!is_exact).then_some((&k, inner)))?;
                let lhs = emitter.spread(&lhs, &[product.rows, depth]);
                let rhs = emitter.spread(&rhs, &[depth, product.columns]);
                let value = emitter.builder.dot(lhs, rhs, sum.value);
                next.push(Block { value, axes: sum.axes.clone() });
            }
            Ok(next)
        };
        let sums = match inner {
            // One step needs no loop.
            Dimension::Constant(extent) if extent <= u64::from(chunk) => step(self, &Index::default(), &initial)?,
            inner => self.for_each(inner, chunk, &initial, step)?,
        };
        for (product, sum) in products.iter().zip(sums) {
            let result = match product.dequantize {
                None => sum,
                Some(value) => {
                    let nowhere = Index::default();
                    let place =
                        if product.transpose_rhs { [&product.column, &nowhere] } else { [&nowhere, &product.column] };
                    let factor = self.dequantization_scale(value, &place.map(Clone::clone))?;
                    let factor = self.cast(&factor, Element::F32);
                    self.multiply(&sum, &factor)
                }
            };
            let result = match product.bias {
                None => result,
                Some(bias) => {
                    let mut position = product.matrix.clone();
                    position.push(product.column.clone());
                    let bias = self.emit(bias, &position)?;
                    let bias = self.cast(&bias, self.element(&result));
                    self.add(&result, &bias)
                }
            };
            self.remember(product.key.clone(), result);
        }
        Ok(())
    }

    fn product(&mut self, key: &Key) -> Result<Product, Cut> {
        let graph = self.graph;
        let operation = graph.operation(key.value.node);
        let transpose_rhs = match operation.and_then(|operation| operation.downcast()) {
            Some(ops::Matmul { transpose_rhs }) => transpose_rhs,
            None => true,
        };
        let is_grouped = operation.is_some_and(|operation| operation.is(ops::GROUPED_MATMUL));
        let [.., row, column] = key.position.as_slice() else {
            return Err(Cut::never(key.value, "not a matrix product"));
        };
        let order = || Cut::at(key.value, "a matrix product is wanted in another order than rows by columns");
        let operands = graph.operands(key.value.node);
        let batch = &key.position[..key.position.len() - 2];
        let is_shared = self.tensor_type(operands[1])?.rank() == 2;
        let mut row_axes = row.axes();
        if is_shared || is_grouped {
            // All leading dimensions are rows.
            row_axes.extend(batch.iter().flat_map(Index::axes));
            row_axes.sort_unstable();
            row_axes.dedup();
        } else if batch.iter().any(|index| !index.axes().is_empty()) {
            return Err(order());
        }
        let (&[rows], &[columns]) = (row_axes.as_slice(), column.axes().as_slice()) else { return Err(order()) };
        let is_run = column.separate().is_some_and(|(_, parts)| parts.iter().all(|(_, part)| part.as_lane().is_some()));
        if rows == columns || !is_run {
            return Err(order());
        }
        let (lhs, mut rhs) = (operands[0], operands[1]);
        let elements = [self.multiplied(lhs)?, self.multiplied(rhs)?];
        let mut dequantize = None;
        let mut element = common(elements);
        let dequantized = self.below_casts(rhs)?;
        if let Some(found) = graph.defining(dequantized).and_then(|operation| operation.downcast::<ops::Dequantize>())
            && !is_grouped
        {
            let parts = graph.operands(dequantized.node);
            let inner = self.tensor_type(rhs)?.rank() - if transpose_rhs { 1 } else { 2 };
            let scale_rank = self.tensor_type(parts[1])?.rank();
            if scale_rank == 0 || (scale_rank == 1 && found.axis.is_some_and(|axis| axis != inner)) {
                dequantize = Some(dequantized);
                rhs = parts[0];
                element = common([elements[0], self.multiplied(rhs)?]);
            }
        }
        if element == Element::F64 {
            dequantize = None;
            rhs = operands[1];
        }
        let column = column.clone();
        let leading = &key.position[..key.position.len() - 1];
        let (left, matrix, bias) = if is_grouped {
            // [token, chosen]: rows of the left operand are those of the tokens where it has no others.
            let rows = self.tensor_type(lhs)?.rank() - 1;
            let expert = self.expert(key.value, leading)?;
            (SmallVec::from(&leading[..rows]), SmallVec::from_elem(expert, 1), operands.get(3).copied())
        } else {
            let matrix = if is_shared { SmallVec::new() } else { SmallVec::from(batch) };
            (SmallVec::from(leading), matrix, None)
        };
        let key = key.clone();
        Ok(Product { key, lhs, rhs, transpose_rhs, dequantize, element, left, matrix, column, rows, columns, bias })
    }

    /// What a value is cast from, from one float to another: what is between them need not be rounded.
    fn below_casts(&self, mut value: ValueId) -> Result<ValueId, Cut> {
        while self.graph.operation(value.node).is_some_and(|operation| operation.is(ops::CAST)) {
            let from = self.graph.operands(value.node)[0];
            if !self.tensor_type(from)?.storage().is_float() || !self.tensor_type(value)?.storage().is_float() {
                break;
            }
            value = from;
        }
        Ok(value)
    }

    /// The element that a value's numbers are exact in and that matrix units take.
    pub fn multiplied(&self, value: ValueId) -> Result<Element, Cut> {
        if let Some(format) = self.tensor_type(value)?.storage().blocks() {
            // Powers of two leave all digits of a narrow element; other scales add their own.
            let is_exact = format.element.bits() < 8 && format.scale == Storage::U8;
            return Ok(if is_exact { Element::BF16 } else { Element::F32 });
        }
        Ok(match self.storage_element(value)? {
            // So are all integers of eight bits.
            Element::Fp8E4M3 | Element::Fp8E5M2 | Element::I8 => Element::BF16,
            element => element,
        })
    }

    /// A tile of an operand, with zeros beyond the end of the inner dimension if `end` gives one.
    pub fn dot_operand(
        &mut self,
        value: ValueId,
        position: &[Index],
        element: Element,
        end: Option<(&Index, Dimension)>,
    ) -> Result<Block, Cut> {
        let block = self.emit(value, position)?;
        let block = self.cast(&block, element);
        // Memory reads as zero there.
        match end.filter(|_| !self.is_loaded(value)) {
            None => Ok(block),
            Some((k, extent)) => match self.inside(k, extent) {
                None => Ok(block),
                Some(inside) => {
                    let zero = self.number(0.0, element);
                    Ok(self.select(&inside, &block, &zero))
                }
            },
        }
    }

    /// Whether a value is in memory in the shape that it is used in.
    fn is_loaded(&self, value: ValueId) -> bool {
        matches!(self.graph.node(value.node).kind(), NodeKind::Input(_))
    }
}

/// The element that numbers of both are exact in.
pub fn common([a, b]: [Element; 2]) -> Element {
    match (a, b) {
        (a, b) if a == b => a,
        (Element::F64, _) | (_, Element::F64) => Element::F64,
        _ => Element::F32,
    }
}
