//! Dots: tensor-core instructions on fragments, or fused multiply-adds.

use std::rc::Rc;

use super::analysis::Definition;
use super::dot_plan::{DotMethod, DotPlan};
use super::emit::{Scalar, Val};
use super::error::Error;
use super::layout::{Bits, LANE_BITS, Layout, transpose_index};
use super::lower::{Lowering, Registers};
use super::plan::staged_root;
use super::shared::SharedTile;
use crate::tile::{Element, Operation, Value};

/// Rows and columns of one tensor-core instruction.
const ROWS: u32 = 16;
const COLUMNS: u32 = 8;
/// Bytes of one operand row of one tensor-core instruction.
const DEPTH_BYTES: u32 = 32;
/// 32-bit registers that a loop-invariant operand may occupy; a larger one is read from shared memory in every iteration.
const INVARIANT_WORDS: usize = 64;

/// Which operand of a dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    /// [M,K]
    Left,
    /// [K,N]
    Right,
}

/// Where the fragments of an operand come from.
#[derive(Clone)]
pub(super) enum Source<'a> {
    /// 32-bit registers, in the order of [`Fragments::position`].
    Words(Rc<[Val<'a>]>),
    /// A tile in shared memory; `transposed` if its dimensions are the operand's swapped.
    Shared { tile: SharedTile<'a>, transposed: bool },
}

/// How one operand divides into fragments.
struct Fragments<'d> {
    side: Side,
    shape: [u32; 2],
    layout: &'d Layout,
    element: Element,
    fours: bool,
    /// Fragments along M or N of one warp, and along K.
    across: u32,
    deep: u32,
}

impl<'d> Fragments<'d> {
    fn new(side: Side, shape: &[u32], plan: &'d DotPlan, element: Element) -> Self {
        let layout = match side {
            Side::Left => &plan.lhs,
            Side::Right => &plan.rhs,
        };
        let shape = [shape[0], shape[1]];
        let (free, k) = match side {
            Side::Left => (0, shape[1]),
            Side::Right => (1, shape[0]),
        };
        let bits = Bits(&shape);
        // Bits along M or N that one warp owns.
        let in_warps = layout.warps.iter().filter(|&&basis| basis & bits.mask(free) != 0).count();
        let own = shape[free] >> in_warps;
        let (size, depth) = match side {
            Side::Left => (ROWS, DEPTH_BYTES / element.bytes() as u32),
            Side::Right => (COLUMNS, DEPTH_BYTES / element.bytes() as u32),
        };
        Self { side, shape, layout, element, fours: plan.fours, across: (own / size).max(1), deep: k / depth }
    }

    fn depth(&self) -> u32 {
        DEPTH_BYTES / self.element.bytes() as u32
    }

    fn words_per_fragment(&self) -> usize {
        match self.side {
            Side::Left => 4,
            Side::Right => 2,
        }
    }

    fn words(&self) -> usize {
        (self.across * self.deep) as usize * self.words_per_fragment()
    }

    /// Position of a fragment's first word.
    fn position(&self, across: u32, deep: u32) -> usize {
        (across * self.deep + deep) as usize * self.words_per_fragment()
    }

    /// The index of the element that a fragment's word starts with, in thread zero; None if the tile has no such rows.
    fn word_index(&self, across: u32, deep: u32, word: u32) -> Option<u32> {
        let bits = Bits(&self.shape);
        // Where the second half of K starts for a lane.
        let half = if self.fours { 2 } else { self.depth() / 2 };
        let (free, k) = match self.side {
            // Words: rows 0–7, rows 8–15, then the same in the second half of K.
            Side::Left => (across * ROWS + (word & 1) * 8, deep * self.depth() + (word >> 1) * half),
            Side::Right => (across * COLUMNS, deep * self.depth() + word * half),
        };
        let (row, column) = match self.side {
            Side::Left => (free, k),
            Side::Right => (k, free),
        };
        (row < self.shape[0] && column < self.shape[1]).then(|| row << bits.offset(0) | column)
    }

    /// The index that stands for an index of the tile in shared memory.
    fn tile_index(&self, transposed: bool, index: u32) -> u32 {
        if transposed { transpose_index(&self.shape, index) } else { index }
    }
}

impl<'a> Lowering<'_, 'a> {
    /// accumulator + lhs · rhs
    pub fn dot(&mut self, result: Value, lhs: Value, rhs: Value, accumulator: Value) -> Result<Registers<'a>, Error> {
        let plan = self.plan.dots.get(&result).ok_or(Error::Internal { value: result, what: "a dot has no plan" })?;
        let accumulators = self.get(accumulator, &plan.accumulator)?;
        match plan.method {
            DotMethod::TensorCore(element) => {
                let mark = self.shared.mark();
                let left = self.source(lhs, Side::Left, plan, element)?;
                let right = self.source(rhs, Side::Right, plan, element)?;
                let registers = self.tensor_core(result, plan, element, (lhs, left), (rhs, right), &accumulators)?;
                self.shared.release(mark);
                Ok(registers)
            }
            DotMethod::MultiplyAdd => self.multiply_add(result, plan, lhs, rhs, &accumulators),
        }
    }

    /// Reads loop-invariant operands of the dots of a body before the loop.
    pub fn hoist_operands(&mut self, result: Value, lhs: Value, rhs: Value, inside: usize) -> Result<(), Error> {
        let Some(plan) = self.plan.dots.get(&result) else { return Ok(()) };
        let DotMethod::TensorCore(element) = plan.method else {
            for value in [lhs, rhs] {
                let outside = !self.analysis.is_inside(self.analysis.scope(value), inside);
                if outside && self.shared_operand(value).is_none() {
                    let (tile, _) = self.operand_in_shared(value, self.program.type_of(value).element)?;
                    self.remember_staged(value, tile);
                }
            }
            return Ok(());
        };
        for (side, value) in [(Side::Left, lhs), (Side::Right, rhs)] {
            if self.analysis.is_inside(self.analysis.scope(value), inside) {
                continue;
            }
            let fragments = Fragments::new(side, self.shape(value), plan, element);
            if fragments.words() > INVARIANT_WORDS || self.fragments(value, side, &plan.accumulator).is_some() {
                continue;
            }
            let source = self.source(value, side, plan, element)?;
            let mut words = vec![self.emitter.i32(0); fragments.words()];
            for deep in 0..fragments.deep {
                let mut across = 0;
                while across < fragments.across {
                    let read = self.fragment(&fragments, &source, across, deep);
                    for fragment in read.chunks(fragments.words_per_fragment()) {
                        let position = fragments.position(across, deep);
                        words[position..position + fragment.len()].copy_from_slice(fragment);
                        across += 1;
                    }
                }
            }
            self.remember_fragments(value, side, &plan.accumulator, words.into());
        }
        Ok(())
    }

    /// Where the fragments of an operand come from.
    fn source(&mut self, value: Value, side: Side, plan: &DotPlan, element: Element) -> Result<Source<'a>, Error> {
        if let Some(words) = self.fragments(value, side, &plan.accumulator) {
            return Ok(Source::Words(words));
        }
        if let Some((tile, transposed)) = self.shared_operand(value).filter(|_| !plan.fours) {
            let logical = if transposed { 1 - tile.fastest } else { tile.fastest };
            let contiguous_k = (logical == 1) == (side == Side::Left);
            if tile.element == element && (element.bytes() == 2 || contiguous_k) {
                return Ok(Source::Shared { tile, transposed });
            }
        }
        if !plan.fours && element.bytes() == 2 && self.is_narrow_across(value, side) {
            // Neighbours in memory go to different lanes: converted on the way into another tile, they can be read as matrices.
            let (tile, transposed) = self.operand_in_shared(value, element)?;
            return Ok(Source::Shared { tile, transposed });
        }
        let layout = match side {
            Side::Left => &plan.lhs,
            Side::Right => &plan.rhs,
        };
        let mut registers = self.get(value, layout)?;
        let own = self.program.type_of(value).element;
        if own != element {
            registers = self.cast(value, &registers, own, element)?;
        }
        let fragments = Fragments::new(side, self.shape(value), plan, element);
        let per_word = 4 / element.bytes() as u32;
        let scalar = Scalar::of(element);
        let zero = self.emitter.i32(0);
        let mut words = Vec::with_capacity(fragments.words());
        for across in 0..fragments.across {
            for deep in 0..fragments.deep {
                for word in 0..fragments.words_per_fragment() as u32 {
                    let Some(index) = fragments.word_index(across, deep, word) else {
                        words.push(zero);
                        continue;
                    };
                    let step = match side {
                        Side::Left => 1,
                        Side::Right => fragments.shape[1],
                    };
                    let elements: Vec<_> =
                        (0..per_word).map(|element| registers[layout.register_of(index + element * step)]).collect();
                    words.push(self.emitter.pack(scalar, &elements)[0]);
                }
            }
        }
        Ok(Source::Words(words.into()))
    }

    /// Whether an operand comes from 8-bit elements in shared memory that are contiguous along M or N.
    fn is_narrow_across(&self, value: Value, side: Side) -> bool {
        staged_root(self.analysis, value).is_some_and(|(root, transposed)| {
            let free = if side == Side::Left { 0 } else { 1 };
            let along = if transposed { 1 - free } else { free };
            self.staged(root).is_some_and(|tile| tile.element.bytes() == 1 && tile.fastest == along)
        })
    }

    /// The tile in shared memory that an operand is, perhaps transposed.
    fn shared_operand(&self, value: Value) -> Option<(SharedTile<'a>, bool)> {
        if let Some(tile) = self.staged(value) {
            return Some((tile, false));
        }
        match self.analysis.definition(value) {
            Definition::Operation(Operation::Transpose(operand)) if self.plan.is_virtual(value) => {
                self.shared_operand(*operand).map(|(tile, transposed)| (tile, !transposed))
            }
            _ => None,
        }
    }

    /// The words of a fragment. From shared memory by ldmatrix: four 8×8 matrices at once, of which a right operand's fragment has two and gets
    /// its neighbour's too.
    fn fragment(&mut self, fragments: &Fragments<'_>, source: &Source<'a>, across: u32, deep: u32) -> Vec<Val<'a>> {
        let (tile, transposed) = match source {
            Source::Words(words) => {
                let position = fragments.position(across, deep);
                return words[position..position + fragments.words_per_fragment()].to_vec();
            }
            Source::Shared { tile, transposed } => (tile, *transposed),
        };
        let bits = Bits(&fragments.shape);
        let (free, k) = match fragments.side {
            Side::Left => (0, 1),
            Side::Right => (1, 0),
        };
        let half_depth = (fragments.depth() / 2).trailing_zeros();
        // Eight lanes name the rows of one matrix; the next two bits of the lane choose the matrix.
        let contiguous = if transposed { 1 - tile.fastest } else { tile.fastest };
        let transposing = contiguous == free;
        let row = if transposing { k } else { free };
        let chooser = match fragments.side {
            Side::Left => [bits.bit(free, 3), bits.bit(k, half_depth)],
            Side::Right => [bits.bit(k, half_depth), bits.bit(free, 3)],
        };
        let pair = fragments.side == Side::Left || fragments.across > 1;
        let lanes: [u32; LANE_BITS] =
            [bits.bit(row, 0), bits.bit(row, 1), bits.bit(row, 2), chooser[0], if pair { chooser[1] } else { 0 }];
        let thread: Vec<u32> = lanes
            .iter()
            .chain(&fragments.layout.warps)
            .map(|&basis| tile.layout.address(fragments.tile_index(transposed, basis)))
            .collect();
        let index = fragments.word_index(across, deep, 0).unwrap_or(0);
        let offset = tile.layout.address(fragments.tile_index(transposed, index));
        self.shared.note_read();
        let address = self.shared_addresses(tile.base, &thread, &[offset])[0];
        let pointer = self.emitter.shared_pointer(address);
        let count = if pair { 4 } else { 2 };
        let name =
            format!("llvm.nvvm.ldmatrix.sync.aligned.m8n8.x{count}{}.b16.p3", if transposing { ".trans" } else { "" });
        let r#type = self.emitter.struct_type(count, Scalar::I32);
        let loaded = self.emitter.intrinsic(&name, &[pointer], r#type);
        let mut words: Vec<Val<'a>> =
            (0..count).map(|word| self.emitter.extract_field(loaded, word, Scalar::I32)).collect();
        if fragments.side == Side::Left && fragments.shape[0] <= 8 {
            let zero = self.emitter.i32(0);
            words[1] = zero;
            words[3] = zero;
        }
        words
    }

    #[allow(clippy::too_many_arguments)]
    fn tensor_core(
        &mut self,
        result: Value,
        plan: &DotPlan,
        element: Element,
        (lhs, left): (Value, Source<'a>),
        (rhs, right): (Value, Source<'a>),
        accumulators: &Registers<'a>,
    ) -> Result<Registers<'a>, Error> {
        let left_fragments = Fragments::new(Side::Left, self.shape(lhs), plan, element);
        let right_fragments = Fragments::new(Side::Right, self.shape(rhs), plan, element);
        let shape = self.shape(result);
        let layout = &plan.accumulator;
        let mut registers = accumulators.to_vec();
        for deep in 0..left_fragments.deep {
            let rows: Vec<_> =
                (0..left_fragments.across).map(|across| self.fragment(&left_fragments, &left, across, deep)).collect();
            let mut columns = Vec::with_capacity(right_fragments.across as usize);
            while (columns.len() as u32) < right_fragments.across {
                let words = self.fragment(&right_fragments, &right, columns.len() as u32, deep);
                columns.extend(words.chunks(2).map(|pair| [pair[0], pair[1]]));
            }
            for (column, right) in columns.iter().enumerate() {
                for (row, left) in rows.iter().enumerate() {
                    let index = ((row as u32 * ROWS) << Bits(shape).offset(0)) | (column as u32 * COLUMNS);
                    let upper = 8 << Bits(shape).offset(0);
                    let places = [index, index | 1, index | upper, index | upper | 1]
                        .map(|index| (index < shape[0] * shape[1]).then(|| layout.register_of(index)));
                    let sums = places.map(|place| match place {
                        Some(place) => registers[place],
                        None => self.emitter.f32(0.0),
                    });
                    let values = self.multiply(element, left, right, sums);
                    for (place, value) in places.into_iter().zip(values) {
                        if let Some(place) = place {
                            registers[place] = value;
                        }
                    }
                }
            }
        }
        Ok(registers.into())
    }

    /// One tensor-core instruction.
    fn multiply(
        &mut self,
        element: Element,
        left: &[Val<'a>],
        right: &[Val<'a>; 2],
        sums: [Val<'a>; 4],
    ) -> [Val<'a>; 4] {
        let e = &mut self.emitter;
        let mut operands: Vec<Val<'a>> = left.iter().chain(right).copied().collect();
        let name = match element {
            Element::BF16 => "llvm.nvvm.mma.m16n8k16.row.col.bf16",
            Element::Fp8E4M3 => "llvm.nvvm.mma.m16n8k32.row.col.f32.e4m3.e4m3.f32",
            Element::Fp8E5M2 => "llvm.nvvm.mma.m16n8k32.row.col.f32.e5m2.e5m2.f32",
            _ => {
                let halves = e.vector_type(2, Scalar::F16);
                operands = operands.into_iter().map(|word| e.convert("llvm.bitcast", word, halves)).collect();
                "llvm.nvvm.mma.m16n8k16.row.col.f32.f32"
            }
        };
        operands.extend(sums);
        let r#type = e.struct_type(4, Scalar::F32);
        let product = e.intrinsic(name, &operands, r#type);
        std::array::from_fn(|index| e.extract_field(product, index, Scalar::F32))
    }

    /// A dot without tensor cores. Both operands lie in shared memory; a few steps of K at a time go to registers.
    fn multiply_add(
        &mut self,
        result: Value,
        plan: &DotPlan,
        lhs: Value,
        rhs: Value,
        accumulators: &Registers<'a>,
    ) -> Result<Registers<'a>, Error> {
        let mark = self.shared.mark();
        let left = self.operand_in_shared(lhs, self.program.type_of(lhs).element)?;
        let right = self.operand_in_shared(rhs, self.program.type_of(rhs).element)?;
        let (left_shape, right_shape) = (self.shape(lhs), self.shape(rhs));
        let shape = self.shape(result);
        let accumulator = Scalar::of(self.program.type_of(result).element);
        let k = left_shape[1];
        let widest = 16 / left.0.element.bytes().max(right.0.element.bytes()) as u32;
        let step = widest.min(4).min(k);
        let step_bits = step.trailing_zeros();

        let in_tile = |shape: &[u32], transposed: bool, index: u32| {
            if transposed { transpose_index(shape, index) } else { index }
        };
        // The layout of the rows or columns of the accumulator, with some bits of K in front.
        let with_depth = |layout: &Layout, shape: &[u32], free: usize, transposed: bool| {
            let bits = Bits(shape);
            let mut wide = layout.map(|basis| basis << bits.offset(free));
            for position in (0..step_bits).rev() {
                wide.registers.insert(0, bits.bit(1 - free, position));
            }
            wide.map(|basis| in_tile(shape, transposed, basis))
        };
        let left_layout = with_depth(&plan.lhs, left_shape, 0, left.1);
        let right_layout = with_depth(&plan.rhs, right_shape, 1, right.1);
        let mut registers = accumulators.to_vec();
        for start in (0..k).step_by(step as usize) {
            let left_at = in_tile(left_shape, left.1, start << Bits(left_shape).offset(1));
            let right_at = in_tile(right_shape, right.1, start << Bits(right_shape).offset(0));
            let rows = self.read_shared(&left.0, &left_layout, left_at);
            let columns = self.read_shared(&right.0, &right_layout, right_at);
            let rows: Vec<_> = rows.into_iter().map(|row| self.widen_operand(row, left.0.element)).collect();
            let columns: Vec<_> = columns.into_iter().map(|value| self.widen_operand(value, right.0.element)).collect();
            for depth in 0..step {
                for (register, sum) in registers.iter_mut().enumerate() {
                    let index = plan.accumulator.register_index(register);
                    let (row, column) = (Bits(shape).coordinate(0, index), Bits(shape).coordinate(1, index));
                    let left_index = row << Bits(left_shape).offset(0) | depth;
                    let right_index = depth << Bits(right_shape).offset(0) | column;
                    let a = rows[left_layout.register_of(in_tile(left_shape, left.1, left_index))];
                    let b = columns[right_layout.register_of(in_tile(right_shape, right.1, right_index))];
                    *sum = self.emitter.fma(accumulator, a, b, *sum);
                }
            }
        }
        self.shared.release(mark);
        Ok(registers.into())
    }

    fn widen_operand(&mut self, register: Val<'a>, element: Element) -> Val<'a> {
        if element == Element::F64 { register } else { self.widened(register, element) }
    }

    /// The dimension along which what an operand is computed from is contiguous in shared memory, and the bytes of an element there.
    fn contiguity(&self, value: Value) -> (usize, usize) {
        let staged = staged_root(self.analysis, value).and_then(|(root, transposed)| {
            let fastest = self.plan.staged.get(&root)?.access.fastest;
            let bytes = self.program.type_of(root).element.bytes();
            Some((if transposed { 1 - fastest } else { fastest }, bytes))
        });
        staged.unwrap_or((self.shape(value).len() - 1, self.program.type_of(value).element.bytes()))
    }

    /// The layout that an operand is computed in before it goes to shared memory.
    pub fn operand_layout(&self, value: Value) -> Layout {
        match self.plan.home(value) {
            Some(home) => home.clone(),
            None => {
                let shape = self.shape(value);
                let (fastest, bytes) = self.contiguity(value);
                let share = (shape.iter().product::<u32>() / (32 << self.plan.warps)).max(1);
                Layout::blocked(shape, fastest, (16 / bytes as u32).min(share), self.plan.warps)
            }
        }
    }

    /// An operand's tile in shared memory as an element, written there from registers if need be.
    fn operand_in_shared(&mut self, value: Value, element: Element) -> Result<(SharedTile<'a>, bool), Error> {
        if let Some((tile, transposed)) = self.shared_operand(value)
            && tile.element == element
        {
            return Ok((tile, transposed));
        }
        let shape = self.shape(value);
        let own = self.program.type_of(value).element;
        let (fastest, _) = self.contiguity(value);
        let layout = self.operand_layout(value);
        let mut registers = self.get(value, &layout)?;
        if own != element {
            registers = self.cast(value, &registers, own, element)?;
        }
        self.fence_reads();
        let offset = self.shared.reserve(shape.iter().product::<u32>() * element.bytes() as u32);
        let tile = self.shared_tile(offset, shape, fastest, element);
        self.write_shared(&tile, &layout, &registers);
        self.barrier();
        Ok((tile, false))
    }
}

#[cfg(test)]
mod tests {
    use super::super::dot_plan::fragments;
    use super::*;

    /// Index of the element that a lane of warp zero has at a position of a fragment's word.
    fn index_of(fragments: &Fragments<'_>, lane: u32, word: u32, element: u32) -> (u32, u32) {
        let lanes = fragments.layout.lanes.iter().enumerate();
        let own = lanes.filter(|(bit, _)| lane >> bit & 1 == 1).fold(0, |index, (_, basis)| index ^ basis);
        let bits = Bits(&fragments.shape);
        let step = if fragments.side == Side::Left { element } else { element << bits.offset(0) };
        let index = own ^ fragments.word_index(0, 0, word).unwrap() ^ step;
        (bits.coordinate(0, index), bits.coordinate(1, index))
    }

    /// PTX ISA, "Matrix Fragments for mma.m16n8k16" and "mma.m16n8k32".
    #[test]
    fn fragments_are_those_of_the_instructions() {
        for (bytes, element) in [(2, Element::BF16), (1, Element::Fp8E4M3)] {
            let (k, per_word) = (32 / bytes, 4 / bytes);
            let plan = fragments([16, k, 8], bytes, false, 0, false);
            let left = Fragments::new(Side::Left, &[16, k], &plan, element);
            let right = Fragments::new(Side::Right, &[k, 8], &plan, element);
            for lane in 0..32 {
                let (group, in_group) = (lane / 4, lane % 4);
                for position in 0..per_word {
                    for word in 0..4 {
                        let row = group + if word % 2 == 1 { 8 } else { 0 };
                        let column = in_group * per_word + position + if word >= 2 { k / 2 } else { 0 };
                        assert_eq!(index_of(&left, lane, word, position), (row, column), "a, lane {lane}");
                    }
                    for word in 0..2 {
                        let row = in_group * per_word + position + word * k / 2;
                        assert_eq!(index_of(&right, lane, word, position), (row, group), "b, lane {lane}");
                    }
                }
            }
            assert_eq!(plan.accumulator.registers.as_slice(), [1, 8 * 8], "c0 c1 are neighbours, c2 c3 eight rows on");
            assert_eq!(plan.accumulator.lanes, [2, 4, 8, 16, 32], "c");
        }
    }

    /// Dealt in fours, both operands have the same elements of K in the same place.
    #[test]
    fn fours_agree_between_operands() {
        let plan = fragments([16, 32, 8], 2, true, 0, false);
        let left = Fragments::new(Side::Left, &[16, 32], &plan, Element::BF16);
        let right = Fragments::new(Side::Right, &[32, 8], &plan, Element::BF16);
        for lane in 0..32 {
            for element in 0..2 {
                for half in 0..2 {
                    let (_, k) = index_of(&left, lane, half * 2, element);
                    let (same_k, _) = index_of(&right, lane, half, element);
                    assert_eq!(k, same_k);
                    assert_eq!(k, lane % 4 * 4 + half * 2 + element);
                }
            }
        }
    }
}
