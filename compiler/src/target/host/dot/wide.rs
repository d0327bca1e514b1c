//! Columns of 16 or 32 bits as the right-hand side of a product with few rows: read once, one column after another, as they lie in memory.

use super::{
    super::{
        emitter::{Machine, Ssa},
        lower::{Buffer, Lowering},
    },
    Arithmetic, Extents, Staged, Streamed,
    ahead::LINE,
    columns::columns_ahead,
};
use crate::tile::{Element, Operation, Value};

/// Totals that are carried at a time: enough for additions not to wait for one another, and no more than registers.
const TOTALS: usize = 8;
/// Of more rows, several columns side by side are faster, for which the rows are loaded once.
const MOST_ROWS: u32 = 4;
/// Vectors of a column in a step.
const VECTORS: i64 = 4;

impl<'a> Lowering<'_, 'a> {
    /// The rows in memory of which a right-hand side is the transpose, where its elements are floats of at least 16 bits, and what they are
    /// cast to keeps all of them; `None` too if there are many rows.
    pub(super) fn wide_of(&self, rhs: Value, extents: Extents) -> Option<Value> {
        if extents.rows > MOST_ROWS {
            return None;
        }
        let Some(Operation::Transpose(transposed)) = self.analysis.definition(self.peeled(rhs)) else { return None };
        let stored = self.peeled(*transposed);
        let element = self.program.type_of(stored).element;
        let mut value = rhs;
        while value != stored {
            if ![element, Element::F32].contains(&self.program.type_of(value).element) {
                return None;
            }
            value = match self.analysis.definition(value)? {
                Operation::Cast(inner) | Operation::Transpose(inner) => *inner,
                _ => return None,
            };
        }
        let is_wide = matches!(element, Element::BF16 | Element::F16 | Element::F32);
        (is_wide && self.rows_in_memory(stored)).then_some(stored)
    }

    /// sums += staged · rhs, in f32 or pairs of bf16.
    pub(super) fn stream_wide(
        &self,
        product: &Streamed<'_, 'a>,
        stored: Value,
        left: &Staged<'a>,
        arithmetic: Arithmetic,
    ) {
        let columns = self.columns_inside(product);
        self.each_column(self.emitter.index(0), columns, |column| {
            self.wide_column(stored, left, product.sums, column, product.extents, arithmetic);
        });
    }

    fn wide_column(
        &self,
        stored: Value,
        left: &Staged<'a>,
        sums: &Buffer<'a>,
        column: Ssa<'a>,
        extents: Extents,
        arithmetic: Arithmetic,
    ) {
        let e = self.emitter;
        let element = self.program.type_of(stored).element;
        let (inner, width) = (i64::from(extents.inner), element.bytes() as i64);
        // A vector holds a number or a pair in each lane.
        let vector = i64::from(self.lanes) * if arithmetic == Arithmetic::Bf16Pairs { 2 } else { 1 };
        let rows = extents.rows as usize;
        let chains = (TOTALS / rows).clamp(1, VECTORS as usize);
        let pointer = self.column_pointer(stored, column);
        let later = self.column_pointer(stored, e.add(column, e.index(columns_ahead(inner * width))));
        let number = |bytes: Ssa<'a>| match arithmetic {
            Arithmetic::Bf16Pairs => e.bitcast(bytes, Machine::F32, self.lanes),
            _ if element == Element::F32 => e.bitcast(bytes, Machine::F32, self.lanes),
            _ => self.converter().widen_f32(e.bitcast(bytes, Machine::I16, self.lanes), element),
        };
        let step = |first: Ssa<'a>, elements: i64, totals: &[Ssa<'a>]| {
            let mut totals = totals.to_vec();
            let mut fetched = 0;
            for (part, from) in (0..elements).step_by(vector as usize).enumerate() {
                let k = e.add(first, e.index(from));
                let place = e.multiply(k, e.index(width));
                // A vector may be half of a line.
                if from * width >= fetched {
                    self.prefetch_line(e.offset(later, place));
                    fetched += LINE as i64;
                }
                let valid = (elements - from).min(vector) * width;
                let right = number(self.column_bytes(e.offset(pointer, place), vector * width, valid));
                for (row, totals) in (0..).zip(totals.chunks_mut(chains)) {
                    let left = e.load(self.staged_pointer(left, row, k, arithmetic), Machine::F32, self.lanes);
                    let total = &mut totals[part % chains];
                    *total = match arithmetic {
                        Arithmetic::Bf16Pairs => e.dot_bf16_pairs(*total, left, right),
                        _ => e.multiply_add(left, right, *total),
                    };
                }
            }
            totals
        };
        let depth = VECTORS * vector;
        let mut totals = vec![e.float(Machine::F32, self.lanes, 0.0); rows * chains];
        if inner >= depth {
            totals = self.each(e.index(0), e.index(inner / depth * depth), e.index(depth), &totals, |first, totals| {
                step(first, depth, totals)
            });
        }
        if inner % depth > 0 {
            totals = self.memo.scope(|| step(e.index(inner / depth * depth), inner % depth, &totals));
        }
        let sum = |totals: &[Ssa<'a>]| totals.iter().copied().reduce(|a, b| e.add(a, b));
        let totals: Vec<Ssa<'a>> = totals.chunks(chains).filter_map(sum).collect();
        self.add_totals(&totals, sums, column);
    }
}
