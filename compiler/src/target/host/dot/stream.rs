//! Few rows: the right-hand side is read once, in the order in which it lies in memory.

use super::{
    super::{
        emitter::{Comparison, Machine, Ssa},
        evaluate::{Guard, Index},
        lower::{Buffer, Lowering},
    },
    Arithmetic, Extents, Staged,
};
use crate::tile::Value;

impl<'a> Lowering<'_, 'a> {
    /// A right-hand side element or vector in the numbers of the sums.
    fn stream_element(&self, rhs: Value, indices: [Index<'a>; 2], guard: Guard, arithmetic: Arithmetic) -> Ssa<'a> {
        let from = self.program.type_of(rhs).element;
        let value = self.evaluate(rhs, &indices, guard);
        let vector = indices.iter().any(|index| matches!(index, Index::Lanes(_)));
        let value = self.emitter.splat(value, if vector { self.lanes } else { 1 });
        self.converter().cast(value, from, arithmetic.element())
    }

    /// A vector along the inner dimension of a right-hand side; of bf16 pairs, twice as many elements. Elements from `end` on are zero.
    fn stream_vector(
        &self,
        rhs: Value,
        [k, n]: [Ssa<'a>; 2],
        guard: Guard,
        arithmetic: Arithmetic,
        end: Option<u32>,
    ) -> Ssa<'a> {
        let e = self.emitter;
        let lanes = i64::from(self.lanes);
        let part = |k: Ssa<'a>| {
            let from = end.map_or(k, |end| self.within_vectors(k, end));
            let value = self.stream_element(rhs, [Index::Lanes(from), Index::At(n)], guard, arithmetic);
            let Some(end) = end else { return value };
            let rest = e.subtract(e.index(i64::from(end)), k);
            let rest = e.integer_maximum(e.integer_minimum(rest, e.index(lanes)), e.index(0));
            let active =
                e.compare(Comparison::Less, e.iota(Machine::I32, self.lanes), e.resize_signed(rest, Machine::I32));
            e.select(active, value, e.number(value.machine, self.lanes, 0.0))
        };
        if arithmetic != Arithmetic::Bf16Pairs {
            return part(k);
        }
        let both: Vec<i32> = (0..2 * lanes as i32).collect();
        let pairs = e.shuffle(part(k), part(e.add(k, e.index(lanes))), &both);
        e.bitcast(pairs, Machine::F32, self.lanes)
    }

    /// An element of the staged left-hand side.
    pub(super) fn staged_pointer(&self, staged: &Staged<'a>, row: u32, k: Ssa<'a>, arithmetic: Arithmetic) -> Ssa<'a> {
        let e = self.emitter;
        let width = arithmetic.element().bytes() as i64;
        let column = e.offset(staged.pointer, e.multiply(k, e.index(width)));
        e.offset(column, e.index(i64::from(row) * staged.row_bytes))
    }

    /// Rows of the right-hand side are consecutive: several at a time are scaled and added to the sums, which stay in the nearest cache.
    pub(super) fn stream_columns(
        &self,
        rhs: Value,
        staged: &Staged<'a>,
        sums: &Buffer<'a>,
        columns: Option<Ssa<'a>>,
        extents: Extents,
        arithmetic: Arithmetic,
    ) {
        let e = self.emitter;
        let bounds = self.bounds_of(rhs);
        let lanes = i64::from(self.lanes);
        let inner = i64::from(extents.inner);
        // Streams side by side; the sums are read and written once for each group of rows.
        let group = if extents.rows <= 2 { 8 } else { 4 };
        let total = columns.unwrap_or_else(|| e.index(i64::from(extents.columns)));
        let mut fast = e.and(total, e.index(-lanes));
        if let Some(count) = bounds[1] {
            fast = e.integer_minimum(fast, e.and(count, e.index(-lanes)));
        }
        if let Some(count) = bounds[0] {
            fast = e.select(e.compare(Comparison::GreaterEqual, count, e.index(inner)), fast, e.index(0));
        }
        let sum = arithmetic.sum();
        let rows_of = |k: Ssa<'a>, count: i64| {
            let factors: Vec<Vec<Ssa<'a>>> = (0..count)
                .map(|row| {
                    let k = e.add(k, e.index(row));
                    (0..extents.rows).map(|m| e.load(self.staged_pointer(staged, m, k, arithmetic), sum, 1)).collect()
                })
                .collect();
            let step = |index: Index<'a>, guard: Guard| {
                let width = if matches!(index, Index::Lanes(_)) { self.lanes } else { 1 };
                let columns: Vec<Ssa<'a>> = (0..count)
                    .map(|row| {
                        let k = e.add(k, e.index(row));
                        self.stream_element(rhs, [Index::At(k), index], guard, arithmetic)
                    })
                    .collect();
                if guard == Guard::Unchecked && count > 1 {
                    for row in 0..count {
                        self.prefetch(rhs, [Index::At(e.add(k, e.index(count + row))), index]);
                    }
                }
                for m in 0..extents.rows {
                    let pointer = self.buffer_pointer(sums, &[e.index(i64::from(m)), index.first()]);
                    // Two chains of additions.
                    let mut even = e.load(pointer, sum, width);
                    let mut odd = None;
                    for (row, &column) in columns.iter().enumerate() {
                        let factor = e.splat(factors[row][m as usize], width);
                        if row % 2 == 0 {
                            even = e.multiply_add(factor, column, even);
                        } else {
                            odd = Some(match odd {
                                None => e.multiply(factor, column),
                                Some(odd) => e.multiply_add(factor, column, odd),
                            });
                        }
                    }
                    let value = odd.map_or(even, |odd| e.add(even, odd));
                    e.store(value, pointer);
                }
            };
            self.each(e.index(0), fast, e.index(lanes), &[], |n, _| {
                step(Index::Lanes(n), Guard::Unchecked);
                vec![]
            });
            let simple =
                columns.is_none() && bounds.iter().all(Option::is_none) && i64::from(extents.columns) % lanes == 0;
            if !simple {
                let width = if self.has_masks() { lanes } else { 1 };
                self.each(fast, total, e.index(width), &[], |n, _| {
                    step(if width == 1 { Index::At(n) } else { Index::Lanes(n) }, Guard::Checked);
                    vec![]
                });
            }
        };
        let whole = inner / group * group;
        self.each(e.index(0), e.index(whole), e.index(group), &[], |k, _| {
            rows_of(k, group);
            vec![]
        });
        if whole < inner {
            self.each(e.index(whole), e.index(inner), e.index(1), &[], |k, _| {
                rows_of(k, 1);
                vec![]
            });
        }
    }

    /// Columns of the right-hand side are consecutive: several at a time are multiplied with the rows and summed up.
    pub(super) fn stream_rows(
        &self,
        rhs: Value,
        staged: &Staged<'a>,
        sums: &Buffer<'a>,
        columns: Option<Ssa<'a>>,
        extents: Extents,
        arithmetic: Arithmetic,
    ) {
        let e = self.emitter;
        let bounds = self.bounds_of(rhs);
        let total = columns.unwrap_or_else(|| e.index(i64::from(extents.columns)));
        let mut fast = total;
        if let Some(count) = bounds[1] {
            fast = e.integer_minimum(fast, count);
        }
        if let Some(count) = bounds[0] {
            let all = e.compare(Comparison::GreaterEqual, count, e.index(i64::from(extents.inner)));
            fast = e.select(all, fast, e.index(0));
        }
        let group: i64 = if extents.rows <= 4 { 4 } else { 2 };
        let fast_end = e.subtract(fast, e.index(group - 1));
        let done = self.each(e.index(0), fast_end, e.index(group), &[e.index(0)], |n, _| {
            self.products(rhs, n, group, Guard::Unchecked, staged, sums, extents, arithmetic);
            vec![e.add(n, e.index(group))]
        });
        self.each(done[0], total, e.index(1), &[], |n, _| {
            self.products(rhs, n, 1, Guard::Checked, staged, sums, extents, arithmetic);
            vec![]
        });
    }

    /// Sums of products of all rows with `count` columns from `n`.
    #[expect(clippy::too_many_arguments, reason = "one caller, which has them all")]
    fn products(
        &self,
        rhs: Value,
        n: Ssa<'a>,
        count: i64,
        guard: Guard,
        staged: &Staged<'a>,
        sums: &Buffer<'a>,
        extents: Extents,
        arithmetic: Arithmetic,
    ) {
        let e = self.emitter;
        let sum = arithmetic.sum();
        let inner = i64::from(extents.inner);
        let depth = i64::from(self.lanes) * if arithmetic == Arithmetic::Bf16Pairs { 2 } else { 1 };
        let whole = inner / depth * depth;
        let zero = e.float(sum, self.lanes, 0.0);
        let step = |k: Ssa<'a>, guard: Guard, end: Option<u32>, carried: &[Ssa<'a>]| {
            let left: Vec<Ssa<'a>> = (0..extents.rows)
                .map(|m| e.load(self.staged_pointer(staged, m, k, arithmetic), sum, self.lanes))
                .collect();
            let mut next = Vec::new();
            for column in 0..count {
                let n = e.add(n, e.index(column));
                let right = self.stream_vector(rhs, [k, n], guard, arithmetic, end);
                if guard == Guard::Unchecked {
                    // The same place in the columns after these.
                    self.prefetch(rhs, [Index::Lanes(k), Index::At(e.add(n, e.index(count)))]);
                }
                for &left in &left {
                    let known = carried[next.len()];
                    next.push(if arithmetic == Arithmetic::Bf16Pairs {
                        e.dot_bf16_pairs(known, left, right)
                    } else {
                        e.multiply_add(left, right, known)
                    });
                }
            }
            next
        };
        let mut totals = vec![zero; (count * i64::from(extents.rows)) as usize];
        if whole > 0 {
            totals = self
                .each(e.index(0), e.index(whole), e.index(depth), &totals, |k, carried| step(k, guard, None, carried));
        }
        if whole < inner {
            let k = e.index(whole);
            totals = self.memo.scope(|| {
                if self.has_masks() {
                    return step(k, Guard::Checked, Some(extents.inner), &totals);
                }
                // One element at a time, into the first lane.
                self.each(k, e.index(inner), e.index(1), &totals, |k, carried| {
                    let mut next = Vec::new();
                    for column in 0..count {
                        let n = e.add(n, e.index(column));
                        let right = self.stream_element(rhs, [Index::At(k), Index::At(n)], Guard::Checked, arithmetic);
                        for m in 0..extents.rows {
                            let left = e.load(self.staged_pointer(staged, m, k, arithmetic), sum, 1);
                            let known = carried[next.len()];
                            let first = e.multiply_add(left, right, e.extract(known, 0));
                            next.push(e.insert(known, 0, first));
                        }
                    }
                    next
                })
            });
        }
        // The totals of a row side by side, as they are stored.
        let by_row: Vec<Ssa<'a>> = (0..extents.rows as usize)
            .flat_map(|m| totals.iter().copied().skip(m).step_by(extents.rows as usize))
            .collect();
        let (count, rows) = (count as usize, self.lanes as usize / count as usize);
        for (part, group) in by_row.chunks(rows * count).enumerate() {
            let added = self.add_lanes(group);
            for row in 0..group.len() / count {
                let lanes: Vec<i32> = (row * count..(row + 1) * count).map(|lane| lane as i32).collect();
                let total = if count == 1 { e.extract(added, row as u32) } else { e.shuffle(added, added, &lanes) };
                let pointer = self.buffer_pointer(sums, &[e.index((part * rows + row) as i64), n]);
                e.store(e.add(e.load(pointer, sum, count as u32), total), pointer);
            }
        }
    }
}
