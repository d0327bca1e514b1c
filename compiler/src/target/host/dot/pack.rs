//! Right-hand sides rearranged into panels: columns that the kernel takes at a time, one row after another.

use smallvec::SmallVec;

use super::{
    super::{
        emitter::{Comparison, Machine, Ssa},
        evaluate::{Guard, Index},
        lower::Lowering,
    },
    Arithmetic,
};
use crate::tile::{Element, Value};

/// Rows of MXFP4 from which on it is packed by its own means.
const SHORTEST_NIBBLES: u32 = 128;

/// A packed right-hand side.
///
/// Panels of [`Packed::panel_columns`] columns follow one another. In a panel of f32 or f64, the columns' elements of one row are
/// consecutive, row after row. In a panel of bf16, rows come in pairs: for each column the elements of both rows, side by side.
#[derive(Clone, Debug)]
pub(in super::super) struct Packed<'a> {
    pub(super) pointer: Ssa<'a>,
    /// Columns of a panel.
    pub(super) panel_columns: u32,
    /// Bytes of a panel.
    pub(super) panel_bytes: i64,
}

impl<'a> Lowering<'_, 'a> {
    /// Vectors in a row of a panel.
    pub(super) fn panel_vectors(&self, arithmetic: Arithmetic) -> u32 {
        match (arithmetic, self.lanes) {
            (Arithmetic::Amx, _) => 1,
            // A vector of 16 f64 is two registers.
            (Arithmetic::F64, _) => 1,
            (_, 16) => 4,
            _ => 2,
        }
    }

    /// Rearranges a right-hand side.
    pub(super) fn pack(&self, rhs: Value, arithmetic: Arithmetic) -> Packed<'a> {
        let e = self.emitter;
        let shape = &self.program.type_of(rhs).shape;
        let (inner, columns) = (shape[0], shape[1]);
        let element = arithmetic.element();
        let paired = matches!(arithmetic, Arithmetic::Bf16Pairs | Arithmetic::Amx);
        let vectors = self.panel_vectors(arithmetic);
        let panel_columns = vectors * self.lanes;
        let panels = columns.div_ceil(panel_columns);
        let padded_inner = if paired { inner.next_multiple_of(32) } else { inner };
        let panel_bytes = i64::from(padded_inner) * i64::from(panel_columns) * element.bytes() as i64;
        let pointer = self.reserve(panel_bytes as u64 * u64::from(panels));
        let packed = Packed { pointer, panel_columns, panel_bytes };
        let bounds = self.bounds_of(rhs);
        let wanted = self.wanted(rhs, 1).unwrap_or_else(|| e.index(i64::from(columns)));
        let along_inner = self.runs_along_inner(rhs);
        let nibbles = self.nibbles_of(rhs).filter(|blocks| paired && blocks.columns >= SHORTEST_NIBBLES);
        self.each(e.index(0), wanted, e.index(i64::from(panel_columns)), &[], |first, _| {
            let panel = e.unsigned_divide(first, e.index(i64::from(panel_columns)));
            let panel_pointer = e.offset(pointer, e.multiply(panel, e.index(panel_bytes)));
            // Unguarded where the whole panel lies inside.
            let last = e.add(first, e.index(i64::from(panel_columns)));
            let mut clear = e.compare(Comparison::LessEqual, last, e.index(i64::from(columns)));
            if let Some(count) = bounds[1] {
                clear = e.and(clear, e.compare(Comparison::LessEqual, last, count));
            }
            if let Some(count) = bounds[0] {
                clear = e.and(clear, e.compare(Comparison::GreaterEqual, count, e.index(i64::from(inner))));
            }
            if let Some(blocks) = nibbles {
                let mut limit = e.index(i64::from(columns));
                if let Some(count) = bounds[1] {
                    limit = e.integer_minimum(limit, count);
                }
                let row_bytes = i64::from(panel_columns) * 4;
                let vector = |index: Ssa<'a>| {
                    let first = e.add(first, e.multiply(index, e.index(i64::from(self.lanes))));
                    let target = e.offset(panel_pointer, e.multiply(index, e.index(4 * i64::from(self.lanes))));
                    self.pack_nibbles(&blocks, [first, limit], target, row_bytes);
                };
                self.each(e.index(0), e.index(i64::from(vectors)), e.index(1), &[], |index, _| {
                    vector(index);
                    vec![]
                });
                return vec![];
            }
            let write = |guard: Guard| {
                self.memo.scope(|| {
                    let panel = Panel { rhs, first, pointer: panel_pointer, vectors, inner, columns, element, paired };
                    match (along_inner, paired) {
                        (true, _) => self.pack_transposed(&panel, guard),
                        (false, false) => self.pack_rows(&panel, guard),
                        (false, true) => self.pack_row_pairs(&panel, guard),
                    }
                });
                vec![]
            };
            let always_clear = bounds.iter().all(Option::is_none) && columns.is_multiple_of(panel_columns);
            if always_clear {
                write(Guard::Unchecked);
            } else {
                e.branch(clear, || write(Guard::Unchecked), || write(Guard::Checked));
            }
            vec![]
        });
        packed
    }

    fn pack_element(&self, panel: &Panel<'a>, indices: [Index<'a>; 2], guard: Guard) -> Ssa<'a> {
        let from = self.program.type_of(panel.rhs).element;
        let value = self.evaluate(panel.rhs, &indices, guard);
        let vector = indices.iter().any(|index| matches!(index, Index::Lanes(_)));
        let value = self.emitter.splat(value, if vector { self.lanes } else { 1 });
        if from == panel.element { value } else { self.converter().cast(value, from, panel.element) }
    }

    /// A vector of a panel's columns. Vectors beyond the last repeat it: they may lie outside of the tensor, and nothing looks at them.
    fn panel_vector(&self, panel: &Panel<'a>, vector: i64, guard: Guard) -> Index<'a> {
        let e = self.emitter;
        let column = e.add(panel.first, e.index(vector * i64::from(self.lanes)));
        Index::Lanes(if guard == Guard::Checked { self.within_vectors(column, panel.columns) } else { column })
    }

    /// The start of a vector, or that of the last one that has a part in `length` elements.
    pub(super) fn within_vectors(&self, start: Ssa<'a>, length: u32) -> Ssa<'a> {
        let last = length.saturating_sub(1) / self.lanes * self.lanes;
        self.emitter.integer_minimum(start, self.emitter.index(i64::from(last)))
    }

    fn pack_rows(&self, panel: &Panel<'a>, guard: Guard) {
        let e = self.emitter;
        let row_bytes = i64::from(panel.vectors * self.lanes) * panel.element.bytes() as i64;
        let vector_bytes = i64::from(self.lanes) * panel.element.bytes() as i64;
        self.each(e.index(0), e.index(i64::from(panel.inner)), e.index(1), &[], |k, _| {
            let row = e.offset(panel.pointer, e.multiply(k, e.index(row_bytes)));
            for vector in 0..i64::from(panel.vectors) {
                let column = self.panel_vector(panel, vector, guard);
                let value = self.pack_element(panel, [Index::At(k), column], guard);
                e.store(value, e.offset(row, e.index(vector * vector_bytes)));
            }
            vec![]
        });
    }

    /// Two rows side by side; rows beyond the last are zero.
    fn pack_row_pairs(&self, panel: &Panel<'a>, guard: Guard) {
        let e = self.emitter;
        let vector_bytes = 4 * i64::from(self.lanes);
        let row_bytes = i64::from(panel.vectors) * vector_bytes;
        let interleave: Vec<i32> = (0..self.lanes as i32).flat_map(|lane| [lane, lane + self.lanes as i32]).collect();
        let write = |pair: Ssa<'a>, rows: u32| {
            let k = e.shift_left(pair, e.index(1));
            let row = e.offset(panel.pointer, e.multiply(pair, e.index(row_bytes)));
            for vector in 0..i64::from(panel.vectors) {
                let column = self.panel_vector(panel, vector, guard);
                let zero = e.integer(Machine::I16, self.lanes, 0);
                let even = if rows > 0 { self.pack_element(panel, [Index::At(k), column], guard) } else { zero };
                let odd = if rows > 1 {
                    self.pack_element(panel, [Index::At(e.add(k, e.index(1))), column], guard)
                } else {
                    zero
                };
                e.store(e.shuffle(even, odd, &interleave), e.offset(row, e.index(vector * vector_bytes)));
            }
        };
        let whole = i64::from(panel.inner / 2);
        let total = i64::from(panel.inner.next_multiple_of(32) / 2);
        self.each(e.index(0), e.index(whole), e.index(1), &[], |pair, _| {
            write(pair, 2);
            vec![]
        });
        if !panel.inner.is_multiple_of(2) {
            write(e.index(whole), 1);
        }
        self.each(e.index(i64::from(panel.inner.div_ceil(2))), e.index(total), e.index(1), &[], |pair, _| {
            write(pair, 0);
            vec![]
        });
    }

    /// A source whose elements are consecutive along the inner dimension: squares of lanes × lanes words are transposed in registers. A word is an
    /// element, or a pair of bf16.
    fn pack_transposed(&self, panel: &Panel<'a>, guard: Guard) {
        let e = self.emitter;
        let lanes = self.lanes;
        let per_word = if panel.paired { 2 } else { 1 };
        let word_bytes = panel.element.bytes() as i64 * i64::from(per_word);
        let row_bytes = i64::from(panel.vectors * lanes) * word_bytes;
        let depth = lanes * per_word;
        // Rows (words) that the panel has; the last square may reach beyond them.
        let words = if panel.paired { panel.inner.next_multiple_of(32) / 2 } else { panel.inner };
        let whole = panel.inner / depth * depth;
        let word = |column: Ssa<'a>, k: Ssa<'a>, guard: Guard, partial: bool| {
            let mut parts: SmallVec<[Ssa<'a>; 2]> = SmallVec::new();
            for part in 0..per_word {
                let start = e.add(k, e.index(i64::from(part * lanes)));
                let from = if partial { self.within_vectors(start, panel.inner) } else { start };
                let mut value = self.pack_element(panel, [Index::Lanes(from), Index::At(column)], guard);
                if partial {
                    let rest = e.subtract(e.index(i64::from(panel.inner)), start);
                    let rest = e.integer_maximum(e.integer_minimum(rest, e.index(i64::from(lanes))), e.index(0));
                    let rest = e.resize_signed(rest, Machine::I32);
                    let active = e.compare(Comparison::Less, e.iota(Machine::I32, lanes), rest);
                    value = e.select(active, value, e.number(value.machine, lanes, 0.0));
                }
                parts.push(value);
            }
            match parts.as_slice() {
                [even, odd] => {
                    let both: Vec<i32> = (0..2 * lanes as i32).collect();
                    e.bitcast(e.shuffle(*even, *odd, &both), Machine::I32, lanes)
                }
                _ => parts[0],
            }
        };
        let square = |k: Ssa<'a>, guard: Guard, partial: bool, rows: u32| {
            let row = e.unsigned_divide(k, e.index(i64::from(per_word)));
            let base = e.offset(panel.pointer, e.multiply(row, e.index(row_bytes)));
            self.each(e.index(0), e.index(i64::from(panel.vectors)), e.index(1), &[], |vector, _| {
                let column = e.add(panel.first, e.multiply(vector, e.index(i64::from(lanes))));
                let mut registers: Vec<Ssa<'a>> = (0..i64::from(lanes))
                    .map(|lane| {
                        let mut column = e.add(column, e.index(lane));
                        if guard == Guard::Checked {
                            // Columns beyond the last repeat it; nothing looks at them.
                            column = e.integer_minimum(column, e.index(i64::from(panel.columns) - 1));
                        }
                        word(column, k, guard, partial)
                    })
                    .collect();
                self.transpose_registers(&mut registers);
                let target = e.offset(base, e.multiply(vector, e.index(i64::from(lanes) * word_bytes)));
                for (position, &register) in registers.iter().take(rows as usize).enumerate() {
                    e.store(register, e.offset(target, e.index(position as i64 * row_bytes)));
                }
                vec![]
            });
        };
        self.each(e.index(0), e.index(i64::from(whole)), e.index(i64::from(depth)), &[], |k, _| {
            square(k, guard, false, lanes);
            vec![]
        });
        let rest = words - whole / per_word;
        if rest > 0 {
            self.memo.scope(|| square(e.index(i64::from(whole)), Guard::Checked, true, rest));
        }
    }

    /// Transposes squares of as many lanes as there are vectors, which lie side by side in them, by exchanging ever smaller halves.
    pub(super) fn transpose_registers(&self, registers: &mut [Ssa<'a>]) {
        let side = registers.len();
        let lanes = registers.first().map_or(0, |register| register.lanes as usize);
        let mut distance = side / 2;
        while distance > 0 {
            // Exchange the block of lanes with bit `distance` set in one with that clear in the other.
            let low: Vec<i32> = (0..lanes)
                .map(|lane| if lane & distance == 0 { lane as i32 } else { (lanes + lane - distance) as i32 })
                .collect();
            let high: Vec<i32> = (0..lanes)
                .map(|lane| if lane & distance == 0 { (lane + distance) as i32 } else { (lanes + lane) as i32 })
                .collect();
            for row in 0..side {
                if row & distance == 0 {
                    let (a, b) = (registers[row], registers[row + distance]);
                    registers[row] = self.emitter.shuffle(a, b, &low);
                    registers[row + distance] = self.emitter.shuffle(a, b, &high);
                }
            }
            distance /= 2;
        }
    }
}

/// One panel being packed.
struct Panel<'a> {
    rhs: Value,
    /// First column.
    first: Ssa<'a>,
    pointer: Ssa<'a>,
    vectors: u32,
    inner: u32,
    columns: u32,
    element: Element,
    paired: bool,
}
