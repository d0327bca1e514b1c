//! Matrix products.
//!
//! With few rows the right-hand side is read once, straight from memory ([`wide`], [`nibbles`], [`bytes`] and [`integer_tiles`]; computed ones by [`stream`]): the speed is that of the memory. With many rows it is packed into
//! panels first and multiplied by a register-blocked kernel ([`blocked`], [`amx`]): the speed is that of the multipliers.

mod ahead;
mod amx;
mod blocked;
mod bytes;
mod columns;
mod digits;
mod integer_tiles;
mod nibbles;
mod pack;
mod runs;
mod short_tiles;
mod stream;
mod totals;
mod wide;

pub(super) use ahead::Ahead;
pub(super) use pack::Packed;

use digits::Packing;
use smallvec::SmallVec;

use super::{
    analysis::Demand,
    conversion::memory_machine_of,
    emitter::{Comparison, Machine, Ssa},
    evaluate::{Guard, Index},
    features::Extension,
    kept::Keys,
    lower::{Buffer, Lowering},
    memory::Address,
};
use crate::tile::{Coordinate, Dimension, Element, Instruction, Literal, Operation, Value};

/// Up to this many rows the right-hand side is streamed.
pub(crate) const STREAMED_ROWS: u32 = 8;

/// In what numbers a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    /// Everything converted to f32.
    F32,
    /// Everything in f64.
    F64,
    /// Pairs of bf16 multiplied and added in f32 (`vdpbf16ps`).
    Bf16Pairs,
    /// Tiles of bf16 (`tdpbf16ps`).
    Amx,
}

impl Arithmetic {
    /// Element of staged operands.
    const fn element(self) -> Element {
        match self {
            Self::F32 => Element::F32,
            Self::F64 => Element::F64,
            Self::Bf16Pairs | Self::Amx => Element::BF16,
        }
    }

    /// Lane of the sums.
    const fn sum(self) -> Machine {
        match self {
            Self::F64 => Machine::F64,
            _ => Machine::F32,
        }
    }
}

/// Extents of a product.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extents {
    pub(super) rows: u32,
    pub(super) inner: u32,
    pub(super) columns: u32,
}

impl Extents {
    /// Whether the right-hand side is streamed.
    pub(super) const fn is_streamed(self) -> bool {
        self.rows <= STREAMED_ROWS
    }
}

/// A product with few rows.
struct Streamed<'s, 'a> {
    lhs: Value,
    rhs: Value,
    /// How many rows are wanted.
    rows: Ssa<'a>,
    /// How many columns are wanted, if that may be fewer than there are.
    columns: Option<Ssa<'a>>,
    extents: Extents,
    /// Where the products are added to.
    sums: &'s Buffer<'a>,
    /// What its rows depend on, if several programs have the same.
    keys: Option<Keys<'a>>,
}

/// A left-hand side in memory, its rows padded with zeros.
pub(super) struct Staged<'a> {
    pub(super) pointer: Ssa<'a>,
    /// Bytes from one row to the next.
    pub(super) row_bytes: i64,
}

impl<'a> Staged<'a> {
    fn of(buffer: &Buffer<'a>) -> Self {
        let row_bytes = i64::from(buffer.strides[0]) * buffer.element.bytes() as i64;
        Self { pointer: buffer.pointer, row_bytes }
    }
}

impl<'p, 'a> Lowering<'p, 'a> {
    pub(super) fn extents(&self, lhs: Value, rhs: Value) -> Extents {
        let (a, b) = (&self.program.type_of(lhs).shape, &self.program.type_of(rhs).shape);
        Extents { rows: a[0], inner: a[1], columns: b[1] }
    }

    fn arithmetic(&self, lhs: Value, rhs: Value) -> Arithmetic {
        let element = self.program.type_of(lhs).element;
        let Extents { rows, columns, .. } = self.extents(lhs, rhs);
        match element {
            Element::F64 => Arithmetic::F64,
            Element::BF16 if rows > STREAMED_ROWS => {
                if self.has(Extension::AmxBf16) && rows.is_multiple_of(16) && columns.is_multiple_of(16) {
                    Arithmetic::Amx
                } else if self.has(Extension::Bf16) {
                    Arithmetic::Bf16Pairs
                } else {
                    Arithmetic::F32
                }
            }
            _ => Arithmetic::F32,
        }
    }

    /// Loads AMX's tile shapes if the program will need them.
    pub(super) fn prepare_machine(&self) {
        if self.uses_amx(&self.program.body.instructions) {
            self.configure_tiles();
        }
    }

    /// Leaves the tile registers in their initial state, which costs nothing to save.
    pub(super) fn release_machine(&self) {
        if self.uses_amx(&self.program.body.instructions) {
            self.emitter.intrinsic_effect("llvm.x86.tilerelease", &[]);
        }
    }

    fn uses_amx(&self, instructions: &[Instruction]) -> bool {
        instructions.iter().any(|instruction| match &instruction.operation {
            Operation::Dot { lhs, rhs, .. } => {
                self.arithmetic(*lhs, *rhs) == Arithmetic::Amx
                    || self.multiplies_short_tiles(*lhs, *rhs)
                    || self.multiplies_integer_tiles(*rhs, self.extents(*lhs, *rhs))
            }
            Operation::For { body, .. } => self.uses_amx(&body.instructions),
            _ => false,
        })
    }

    /// Packs right-hand sides that stay the same along x, for the dots of a row of programs.
    pub(super) fn pack_ahead(&self, varying: &[&'p Instruction]) {
        self.pack_all(varying, |rhs| !self.analysis.varies_along_x(rhs));
    }

    /// Packs right-hand sides of dots that can be evaluated already, before a loop in which they stay the same.
    pub(super) fn pack_all(&self, instructions: &[&'p Instruction], is_steady: impl Fn(Value) -> bool) {
        for instruction in instructions {
            let Operation::Dot { lhs, rhs, .. } = &instruction.operation else { continue };
            let steady = is_steady(*rhs) && self.is_pure_expression(*rhs);
            if steady && !self.extents(*lhs, *rhs).is_streamed() && !self.packed.borrow().contains_key(rhs) {
                let packed = self.pack(*rhs, self.arithmetic(*lhs, *rhs));
                self.packed.borrow_mut().insert(*rhs, packed);
            }
        }
    }

    /// Whether evaluating a value reads nothing but read-only tensors and finished buffers.
    fn is_pure_expression(&self, value: Value) -> bool {
        if self.program.type_of(value).is_scalar() {
            return self.scalars.borrow().contains_key(&value);
        }
        if self.buffers.borrow().contains_key(&value) {
            return true;
        }
        match self.analysis.definition(value) {
            None | Some(Operation::Reduce { .. } | Operation::Dot { .. } | Operation::For { .. }) => false,
            Some(_) if self.analysis.is_materialized(value) => false,
            Some(operation) => operation.operands().iter().all(|&operand| self.is_pure_expression(operand)),
        }
    }

    /// Computes a product into a buffer.
    pub(super) fn dot(&self, result: Value, lhs: Value, rhs: Value, accumulator: Value) {
        let e = self.emitter;
        let extents = self.extents(lhs, rhs);
        let arithmetic = self.arithmetic(lhs, rhs);
        let sums = self.allocate(result);
        self.with_scratch(|| {
            self.copy_tile(accumulator, &sums);
            let rows = self.wanted(result, 0).or_else(|| self.rows_inside(lhs));
            let rows = rows.unwrap_or_else(|| e.index(i64::from(extents.rows)));
            let columns = self.wanted(result, 1);
            if extents.is_streamed() {
                self.prefetch_gathered(rhs);
                let keys = self.keys_of_rows(result, lhs);
                self.stream(&Streamed { lhs, rhs, rows, columns, extents, sums: &sums, keys });
                return;
            }
            let known = self.packed.borrow().get(&rhs).cloned();
            let packed = known.unwrap_or_else(|| self.pack(rhs, arithmetic));
            let columns = columns.unwrap_or_else(|| e.index(i64::from(extents.columns)));
            let multiply = |left: &Staged<'a>| {
                if arithmetic == Arithmetic::Amx {
                    self.multiply_tiles(&packed, left, &sums, rows, columns, extents);
                } else {
                    self.multiply_blocks(&packed, left, &sums, rows, columns, extents, arithmetic);
                }
            };
            if let Some(left) = self.left_in_buffer(lhs, arithmetic) {
                return multiply(&left);
            }
            match self.left_in_tensor(result, lhs, arithmetic, rows) {
                Some((left, None)) => multiply(&left),
                Some((left, Some(usable))) => {
                    e.branch(
                        usable,
                        || {
                            self.memo.scope(|| multiply(&left));
                            vec![]
                        },
                        || {
                            self.memo.scope(|| multiply(&self.stage(lhs, arithmetic, rows, extents)));
                            vec![]
                        },
                    );
                }
                None => multiply(&self.stage(lhs, arithmetic, rows, extents)),
            }
        });
        self.buffers.borrow_mut().insert(result, sums);
    }

    /// What the rows of a left-hand side, as many as are wanted for a result, depend on.
    fn keys_of_rows(&self, result: Value, lhs: Value) -> Option<Keys<'a>> {
        match self.analysis.demand(result, 0) {
            Demand::Inside { start, .. } => self.keys(&[lhs, start]),
            _ => self.keys(&[lhs]),
        }
    }

    fn stream(&self, product: &Streamed<'_, 'a>) {
        if self.stream_narrow(product) {
            return;
        }
        let &Streamed { lhs, rhs, columns, extents, sums, .. } = product;
        if self.multiplies_short_tiles(lhs, rhs) {
            return self.multiply_short_tiles(lhs, rhs, sums, columns, extents);
        }
        let along_inner = self.runs_along_inner(rhs);
        let is_bf16 = self.program.type_of(rhs).element == Element::BF16;
        let arithmetic = match self.arithmetic(lhs, rhs) {
            Arithmetic::F32 if along_inner && is_bf16 && self.has(Extension::Bf16) => Arithmetic::Bf16Pairs,
            arithmetic => arithmetic,
        };
        let left = self.kept_left(product, arithmetic);
        if let Some(stored) = self.wide_of(rhs, extents)
            && arithmetic != Arithmetic::F64
        {
            self.stream_wide(product, stored, &left, arithmetic);
        } else if along_inner {
            self.stream_rows(rhs, &left, sums, columns, extents, arithmetic);
        } else {
            self.stream_columns(rhs, &left, sums, columns, extents, arithmetic);
        }
    }

    /// sums += lhs · rhs for columns of four or eight bits that are read as they lie in memory. Whether they are such.
    fn stream_narrow(&self, product: &Streamed<'_, 'a>) -> bool {
        // Numbers of bf16 are staged as what they are, others as f32.
        let narrow = match self.program.type_of(product.lhs).element {
            Element::F64 => return false,
            Element::BF16 => Arithmetic::Bf16Pairs,
            _ => Arithmetic::F32,
        };
        if self.multiplies_bytes(Packing::Pairs)
            && let Some(blocks) = self.nibbles_of(product.rhs)
        {
            self.stream_nibbles(product, &blocks, narrow);
            return true;
        }
        match self.bytes_of(product.rhs) {
            Some((stored, Element::I8)) if self.multiplies_bytes(Packing::Single) => {
                self.stream_integers(product, stored, narrow);
                true
            }
            Some((stored, element)) if self.streams_floats(element) => {
                self.stream_floats(product, stored);
                true
            }
            _ => false,
        }
    }

    /// The rows of a product with few of them, for the use of this program.
    fn left(&self, product: &Streamed<'_, 'a>, arithmetic: Arithmetic) -> Staged<'a> {
        let left = self.left_in_buffer(product.lhs, arithmetic);
        left.unwrap_or_else(|| self.stage(product.lhs, arithmetic, product.rows, product.extents))
    }

    /// The rows of a product with few of them, kept for the programs that have the same.
    fn kept_left(&self, product: &Streamed<'_, 'a>, arithmetic: Arithmetic) -> Staged<'a> {
        let &Streamed { lhs, rows, extents, ref keys, .. } = product;
        let left = self.left_in_buffer(lhs, arithmetic);
        left.unwrap_or_else(|| {
            let room = || self.room_for_rows(arithmetic, extents);
            Staged::of(&self.keep(keys.as_ref(), room, |buffer| self.fill_rows(lhs, buffer, rows, extents)))
        })
    }

    /// Of a left-hand side of gathered rows, how many there are up to the last that lies inside of its tensor: those after it are zeros, and
    /// add nothing to the sums.
    fn rows_inside(&self, lhs: Value) -> Option<Ssa<'a>> {
        let e = self.emitter;
        let mut source = lhs;
        while let Some(Operation::Cast(inner)) = self.analysis.definition(source) {
            source = *inner;
        }
        let Some(Operation::Load { tensor, coordinates, other, .. }) = self.analysis.definition(source) else {
            return None;
        };
        let is_zero = matches!(*other, Literal::Float(other) if other == 0.0);
        let row = coordinates.iter().position(|coordinate| !matches!(coordinate, Coordinate::At(_)))?;
        let Coordinate::Gather(rows) = coordinates[row] else { return None };
        if !is_zero {
            return None;
        }
        let extent = e.resize_signed(self.dimension(self.analysis.tensor(*tensor).extents[row]), Machine::I32);
        let count = self.program.type_of(rows).shape[0];
        let counted = self.each(e.index(0), e.index(i64::from(count)), e.index(1), &[e.index(0)], |index, known| {
            let row = self.evaluate(rows, &[Index::At(index)], Guard::Checked);
            let inside = e.compare(Comparison::Below, row, extent);
            vec![e.select(inside, e.add(index, e.index(1)), known[0])]
        });
        Some(counted[0])
    }

    /// A left-hand side that lies in the scratch as it is needed.
    fn left_in_buffer(&self, lhs: Value, arithmetic: Arithmetic) -> Option<Staged<'a>> {
        let buffer = self.buffers.borrow().get(&lhs).cloned()?;
        let whole = buffer.shape[1].is_multiple_of(32);
        let fits = buffer.element == arithmetic.element() && buffer.strides[1] == 1 && whole;
        fits.then(|| Staged::of(&buffer))
    }

    /// A left-hand side that can be read where it lies in its tensor, and under which condition: where every row that is wanted exists, and
    /// for tiles whole pairs of them.
    fn left_in_tensor(
        &self,
        result: Value,
        lhs: Value,
        arithmetic: Arithmetic,
        rows: Ssa<'a>,
    ) -> Option<(Staged<'a>, Option<Ssa<'a>>)> {
        let e = self.emitter;
        let Operation::Load { tensor, coordinates, mask: None, .. } = self.analysis.definition(lhs)? else {
            return None;
        };
        let argument = self.analysis.tensor(*tensor);
        if argument.element != arithmetic.element() || self.analysis.is_materialized(lhs) {
            return None;
        }
        let mut blocks = coordinates.iter().enumerate().filter(|(_, c)| !matches!(c, Coordinate::At(_)));
        let (
            Some((row, &Coordinate::Block { start, length })),
            Some((inner, &Coordinate::Block { start: first, length: depth })),
            None,
        ) = (blocks.next(), blocks.next(), blocks.next())
        else {
            return None;
        };
        let Dimension::Constant(stride) = argument.strides[row] else { return None };
        let whole_rows = argument.strides[inner] == Dimension::Constant(1)
            && self.analysis.always_inside(first, depth, argument.extents[inner]);
        let extent = argument.extents[row];
        let rows_exist = self.analysis.always_inside(start, length, extent)
            || self.analysis.demand(result, 0) == (Demand::Inside { start, extent });
        // What is read at a time, pairs or tiles, must not reach beyond a row: into another one, or past the last.
        let whole_steps = match arithmetic {
            Arithmetic::Amx => depth.is_multiple_of(32),
            Arithmetic::Bf16Pairs => depth.is_multiple_of(2),
            Arithmetic::F32 | Arithmetic::F64 => true,
        };
        if !whole_rows || !rows_exist || !whole_steps {
            return None;
        }
        let origin = self.origin(2);
        let place = self.place(*tensor, coordinates, None, &origin, Guard::Unchecked);
        let Address::Contiguous(pointer) = place.address else { return None };
        let usable =
            (arithmetic == Arithmetic::Amx && !self.analysis.always_inside(start, length, extent)).then(|| {
                let rest = e.and(rows, e.index(amx::ROWS - 1));
                e.compare(Comparison::Equal, rest, e.index(0))
            });
        Some((Staged { pointer, row_bytes: stride as i64 * argument.element.bytes() as i64 }, usable))
    }

    /// Whether the elements of a right-hand side are consecutive in memory along its first (inner) dimension.
    fn runs_along_inner(&self, rhs: Value) -> bool {
        self.unit_dimension(rhs) == Some(0)
    }

    /// The dimension of a rank-2 value along which its largest source is consecutive in memory.
    fn unit_dimension(&self, value: Value) -> Option<usize> {
        if let Some(buffer) = self.buffers.borrow().get(&value) {
            return buffer.strides.iter().rposition(|&stride| stride == 1);
        }
        match self.analysis.definition(value)? {
            Operation::Load { tensor, coordinates, .. } => {
                let strides = &self.analysis.tensor(*tensor).strides;
                let tile = coordinates.iter().zip(strides).filter(|(c, _)| !matches!(c, Coordinate::At(_)));
                tile.into_iter()
                    .position(|(c, &stride)| stride == Dimension::Constant(1) && matches!(c, Coordinate::Block { .. }))
            }
            Operation::Transpose(value) => self.unit_dimension(*value).map(|dimension| 1 - dimension),
            // A row or column repeated is not what is large.
            Operation::Broadcast { .. } | Operation::Constant(_) | Operation::Iota => None,
            operation => operation.operands().iter().find_map(|&operand| {
                if self.program.type_of(operand).shape.len() == 2 { self.unit_dimension(operand) } else { None }
            }),
        }
    }

    /// The left-hand side as rows of `arithmetic`'s element with zeros up to a multiple of 32 elements.
    fn stage(&self, lhs: Value, arithmetic: Arithmetic, rows: Ssa<'a>, extents: Extents) -> Staged<'a> {
        let buffer = self.room_for_rows(arithmetic, extents);
        self.fill_rows(lhs, &buffer, rows, extents);
        Staged::of(&buffer)
    }

    fn room_for_rows(&self, arithmetic: Arithmetic, extents: Extents) -> Buffer<'a> {
        let element = arithmetic.element();
        let width = element.bytes() as u32;
        let mut row = extents.inner.next_multiple_of(32);
        if (row * width).is_multiple_of(2048) {
            row += 64 / width;
        }
        // Room for kernels that always take whole blocks of rows.
        let capacity = extents.rows.next_multiple_of(16);
        let pointer = self.reserve(u64::from(row) * u64::from(capacity) * u64::from(width));
        let (shape, strides) = (SmallVec::from_slice(&[capacity, row]), SmallVec::from_slice(&[row, 1]));
        Buffer { pointer, element, shape, strides }
    }

    fn fill_rows(&self, lhs: Value, buffer: &Buffer<'a>, rows: Ssa<'a>, extents: Extents) {
        let e = self.emitter;
        let (element, row, lanes) = (buffer.element, buffer.strides[0], self.lanes);
        let padding_from = extents.inner / lanes * lanes;
        if padding_from < row {
            let zero = e.number(memory_machine_of(element), lanes, 0.0);
            self.each(e.index(0), rows, e.index(1), &[], |m, _| {
                for start in (padding_from..row.min(extents.inner.next_multiple_of(32))).step_by(lanes as usize) {
                    let pointer = self.buffer_pointer(buffer, &[m, e.index(i64::from(start))]);
                    e.store(zero, pointer);
                }
                vec![]
            });
        }
        let from = self.program.type_of(lhs).element;
        self.visit_tile(lhs, rows, &|visit| {
            let value = self.evaluate(lhs, visit.indices, visit.guard);
            let mut value = if from == element { value } else { self.converter().cast(value, from, element) };
            if let (Index::Lanes(first), Guard::Checked) = (visit.indices[1], visit.guard) {
                let rest = e.resize_signed(e.subtract(e.index(i64::from(extents.inner)), first), Machine::I32);
                let active = e.compare(Comparison::Less, e.iota(Machine::I32, lanes), rest);
                value = e.select(active, e.splat(value, lanes), e.number(value.machine, lanes, 0.0));
            }
            self.write_buffer(buffer, visit.indices, value);
        });
    }
}
