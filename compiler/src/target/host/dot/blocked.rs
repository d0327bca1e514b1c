//! Many rows: a kernel that keeps a block of the result in registers, after Goto and van de Geijn, "Anatomy of High-Performance Matrix
//! Multiplication" (2008), and BLIS.

use super::{
    super::{
        emitter::{Machine, Ssa},
        lower::{Buffer, Lowering},
    },
    Arithmetic, Extents, Packed, Staged,
};

/// Bytes of a panel that one pass over the rows works on: two thirds of the first-level cache of current processors.
const PANEL_PART: i64 = 32 << 10;

/// Rows that the kernel takes at a time: 6 × 4 sums, 4 columns and one element of the left-hand side are 29 of 32 registers.
const ROW_BLOCKS: [u32; 4] = [6, 4, 2, 1];

impl<'a> Lowering<'_, 'a> {
    /// sums += staged · packed.
    #[expect(clippy::too_many_arguments, reason = "one caller, which has them all")]
    pub(super) fn multiply_blocks(
        &self,
        packed: &Packed<'a>,
        staged: &Staged<'a>,
        sums: &Buffer<'a>,
        rows: Ssa<'a>,
        columns: Ssa<'a>,
        extents: Extents,
        arithmetic: Arithmetic,
    ) {
        let e = self.emitter;
        let lanes = i64::from(self.lanes);
        let panel_columns = i64::from(packed.panel_columns);
        let per_step = if arithmetic == Arithmetic::Bf16Pairs { 2 } else { 1 };
        let steps = i64::from(extents.inner).div_euclid(per_step) + i64::from(extents.inner) % per_step;
        let whole_panels = i64::from(extents.columns) / panel_columns * panel_columns;
        // Steps of the inner dimension between visits of the result.
        let part = (PANEL_PART / (panel_columns * i64::from(arithmetic.sum().bytes()))).min(256);
        self.each(e.index(0), e.index(steps), e.index(part), &[], |from, _| {
            let to = e.integer_minimum(e.add(from, e.index(part)), e.index(steps));
            let visit = |first: Ssa<'a>, vectors: u32| {
                let panel = e.unsigned_divide(first, e.index(panel_columns));
                let pointer = e.offset(packed.pointer, e.multiply(panel, e.index(packed.panel_bytes)));
                let mut start = e.index(0);
                for block in ROW_BLOCKS.into_iter().filter(|&block| block <= extents.rows) {
                    let block_rows = i64::from(block);
                    let end = e.subtract(rows, e.index(block_rows - 1));
                    start = self.each(start, end, e.index(block_rows), &[start], |row, _| {
                        let kernel = Kernel { pointer, row, first, rows: block, vectors, from, to };
                        self.kernel(&kernel, packed, staged, sums, arithmetic);
                        vec![e.add(row, e.index(block_rows))]
                    })[0];
                }
            };
            let full = e.integer_minimum(columns, e.index(whole_panels));
            if whole_panels > 0 {
                self.each(e.index(0), full, e.index(panel_columns), &[], |first, _| {
                    visit(first, packed.panel_columns / self.lanes);
                    vec![]
                });
            }
            // The last panel may have fewer vectors of columns.
            let rest = i64::from(extents.columns) - whole_panels;
            if rest > 0 {
                let upper = e.integer_minimum(columns, e.index(whole_panels + 1));
                self.each(e.index(whole_panels), upper, e.index(panel_columns), &[], |first, _| {
                    visit(first, rest.div_euclid(lanes) as u32 + u32::from(rest % lanes > 0));
                    vec![]
                });
            }
            vec![]
        });
    }

    fn kernel(
        &self,
        kernel: &Kernel<'a>,
        packed: &Packed<'a>,
        staged: &Staged<'a>,
        sums: &Buffer<'a>,
        arithmetic: Arithmetic,
    ) {
        let e = self.emitter;
        let sum = arithmetic.sum();
        let step_bytes = i64::from(sum.bytes());
        let vector_bytes = i64::from(self.lanes) * step_bytes;
        let row_bytes = i64::from(packed.panel_columns) * step_bytes;
        let sum_row_bytes = i64::from(sums.strides[0]) * step_bytes;
        let target = e.offset(
            sums.pointer,
            e.add(e.multiply(kernel.row, e.index(sum_row_bytes)), e.multiply(kernel.first, e.index(step_bytes))),
        );
        let slot = |row: u32, vector: u32| {
            e.offset(target, e.index(i64::from(row) * sum_row_bytes + i64::from(vector) * vector_bytes))
        };
        let mut initial = Vec::new();
        for row in 0..kernel.rows {
            for vector in 0..kernel.vectors {
                initial.push(e.load(slot(row, vector), sum, self.lanes));
            }
        }
        let left = e.offset(staged.pointer, e.multiply(kernel.row, e.index(staged.row_bytes)));
        let results = self.each(kernel.from, kernel.to, e.index(1), &initial, |step, sums| {
            let right_row = e.offset(kernel.pointer, e.multiply(step, e.index(row_bytes)));
            let right: Vec<Ssa<'a>> = (0..kernel.vectors)
                .map(|vector| e.load(e.offset(right_row, e.index(i64::from(vector) * vector_bytes)), sum, self.lanes))
                .collect();
            let left_column = e.offset(left, e.multiply(step, e.index(step_bytes)));
            let mut next = Vec::new();
            for row in 0..kernel.rows {
                let pointer = e.offset(left_column, e.index(i64::from(row) * staged.row_bytes));
                let factor = e.splat(e.load(pointer, sum, 1), self.lanes);
                for (vector, &column) in right.iter().enumerate() {
                    let known = sums[row as usize * kernel.vectors as usize + vector];
                    next.push(if arithmetic == Arithmetic::Bf16Pairs {
                        e.dot_bf16_pairs(known, factor, column)
                    } else {
                        e.multiply_add(factor, column, known)
                    });
                }
            }
            next
        });
        for row in 0..kernel.rows {
            for vector in 0..kernel.vectors {
                e.store(results[(row * kernel.vectors + vector) as usize], slot(row, vector));
            }
        }
        debug_assert!(matches!(sum, Machine::F32 | Machine::F64));
    }
}

/// A block of the result: rows × vectors, over a range of steps along the inner dimension.
struct Kernel<'a> {
    /// The panel.
    pointer: Ssa<'a>,
    row: Ssa<'a>,
    /// First column.
    first: Ssa<'a>,
    rows: u32,
    vectors: u32,
    from: Ssa<'a>,
    to: Ssa<'a>,
}
