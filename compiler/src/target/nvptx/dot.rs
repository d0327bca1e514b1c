//! Dots: tensor-core instructions on fragments, or fused multiply-adds.

use std::collections::HashMap;
use std::rc::Rc;

use super::analysis::Definition;
use super::dot_plan::{DotMethod, DotPlan, word_run};
use super::emit::{IntegerPredicate, Scalar, Val};
use super::error::Error;
use super::fragments::{COLUMNS, Fragments, ROWS, Side};
use super::layout::{Bits, LANE_BITS, Layout, transpose_index};
use super::lower::{Lowering, Registers};
use super::origins::staged_root;
use super::shared::SharedTile;
use crate::tile::{Element, Operation, Reduction, Value};

/// Columns of instructions whose runs of K are read together: enough that their sums do not wait for each other.
const COLUMNS_OF_RUNS: u32 = 4;
/// 32-bit registers that a loop-invariant operand may occupy; a larger one is read from shared memory in every iteration.
const INVARIANT_WORDS: usize = 64;

/// Where the fragments of an operand come from.
#[derive(Clone)]
pub(super) enum Source<'a> {
    /// 32-bit registers, in the order of [`Fragments::position`].
    Words(Rc<[Val<'a>]>),
    /// A tile in shared memory; `transposed` if its dimensions are the operand's swapped.
    Shared { tile: SharedTile<'a>, transposed: bool },
    /// A tile in shared memory of which a lane takes longer runs of K than a word; `read` are words by the row and the first step of a run.
    Runs { tile: SharedTile<'a>, transposed: bool, read: HashMap<(u32, u32), Vec<Val<'a>>> },
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
                if !plan.is_split || self.plan.split_sums.contains(&result) {
                    let registers =
                        self.tensor_core(result, plan, element, (lhs, left), (rhs, right), &accumulators)?;
                    self.shared.release(mark);
                    return Ok(registers);
                }
                let initial = self.of_first_warp(&accumulators);
                let parts = self.tensor_core(result, plan, element, (lhs, left), (rhs, right), &initial)?;
                self.shared.release(mark);
                Ok(self.sum_of_warps(result, parts.to_vec(), &plan.accumulator))
            }
            DotMethod::MultiplyAdd => self.multiply_add(result, plan, lhs, rhs, &accumulators),
        }
    }

    /// Sums in the first warp, zeros in the others: what parts of a sum begin with.
    pub fn of_first_warp(&mut self, sums: &[Val<'a>]) -> Registers<'a> {
        let thread = self.thread();
        let (is_first, zero) = self.emitter.preamble(|e| {
            let warp = e.i32(1 << LANE_BITS);
            (e.compare_integers(IntegerPredicate::UnsignedLess, thread, warp), e.f32(0.0))
        });
        sums.iter().map(|&sum| self.emitter.select(Scalar::F32, is_first, sum, zero)).collect()
    }

    /// What all warps hold of a sum together, in each of them.
    pub fn sum_of_warps(&mut self, value: Value, parts: Vec<Val<'a>>, layout: &Layout) -> Registers<'a> {
        let warps: Vec<usize> = (0..self.plan.warps).collect();
        let shape = self.shape(value);
        self.across_warps(Reduction::Sum, Element::F32, Scalar::F32, parts, layout, shape, &warps).into()
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
            let mut source = self.source(value, side, plan, element)?;
            let mut words = vec![self.emitter.i32(0); fragments.words()];
            for deep in 0..fragments.deep {
                let mut across = 0;
                while across < fragments.across {
                    let read = self.fragment(&fragments, &mut source, across, deep);
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
        let in_words = plan.run == word_run(element.bytes() as u32);
        if let Some((tile, transposed)) = self.shared_operand(value) {
            let logical = if transposed { 1 - tile.fastest } else { tile.fastest };
            let contiguous_k = (logical == 1) == (side == Side::Left);
            if tile.element == element && in_words && (element.bytes() == 2 || contiguous_k) {
                return Ok(Source::Shared { tile, transposed });
            }
            if tile.element == element && !in_words && contiguous_k {
                return Ok(Source::Runs { tile, transposed, read: HashMap::new() });
            }
        }
        if in_words && element.bytes() == 2 && self.is_narrow_across(value, side) {
            // Neighbours in memory go to different lanes: converted on the way into another tile, they can be read as matrices.
            let (tile, transposed) = self.operand_in_shared(value, element)?;
            return Ok(Source::Shared { tile, transposed });
        }
        let layout = match side {
            Side::Left => &plan.lhs,
            Side::Right => &plan.rhs,
        };
        let fragments = Fragments::new(side, self.shape(value), plan, element);
        if let Some(words) = self.dequantized_fragments(value, &fragments)? {
            return Ok(Source::Words(words));
        }
        let mut registers = self.get(value, layout)?;
        let own = self.program.type_of(value).element;
        if own != element {
            registers = self.cast(value, &registers, own, element)?;
        }
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

    /// The words of fragments of an operand that is dequantized from MXFP4 along K.
    fn dequantized_fragments(
        &mut self,
        operand: Value,
        fragments: &Fragments<'_>,
    ) -> Result<Option<Registers<'a>>, Error> {
        let (value, transposed) = match self.analysis.definition(operand) {
            Definition::Operation(Operation::Transpose(value)) => (*value, true),
            _ => (operand, false),
        };
        let Definition::Operation(Operation::Dequantize { elements, scales }) = self.analysis.definition(value) else {
            return Ok(None);
        };
        let element = |value: Value| self.program.type_of(value).element;
        if transposed != (fragments.side == Side::Right)
            || !self.plan.is_virtual(value)
            || !self.is_packed(value, *elements)
            || [element(value), element(*scales), fragments.element] != [Element::BF16, Element::U8, Element::BF16]
        {
            return Ok(None);
        }
        let layout = if transposed { fragments.layout.transpose(&fragments.shape) } else { fragments.layout.clone() };
        let words = self.dequantized_words(value, *elements, *scales, &layout)?;
        let words: HashMap<u32, Val<'a>> = words.into_iter().collect();
        let zero = self.emitter.i32(0);
        let mut result = Vec::with_capacity(fragments.words());
        for across in 0..fragments.across {
            for deep in 0..fragments.deep {
                for word in 0..fragments.words_per_fragment() as u32 {
                    let index = fragments.word_index(across, deep, word);
                    let found = index.and_then(|index| words.get(&fragments.tile_index(transposed, index)));
                    result.push(found.copied().unwrap_or(zero));
                }
            }
        }
        Ok(Some(result.into()))
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
    fn fragment(&mut self, fragments: &Fragments<'_>, source: &mut Source<'a>, across: u32, deep: u32) -> Vec<Val<'a>> {
        let (tile, transposed) = match source {
            Source::Words(words) => {
                let position = fragments.position(across, deep);
                return words[position..position + fragments.words_per_fragment()].to_vec();
            }
            Source::Runs { tile, transposed, read } => {
                return self.fragment_of_runs(fragments, (tile, *transposed), read, across, deep);
            }
            Source::Shared { tile, transposed } => (&*tile, *transposed),
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

    /// The words of a fragment out of runs along K, each read by one access that the next fragments' words are left of.
    fn fragment_of_runs(
        &mut self,
        fragments: &Fragments<'_>,
        (tile, transposed): (&SharedTile<'a>, bool),
        read: &mut HashMap<(u32, u32), Vec<Val<'a>>>,
        across: u32,
        deep: u32,
    ) -> Vec<Val<'a>> {
        let length = fragments.run_length();
        let bits = Bits(&fragments.shape);
        let k = if fragments.side == Side::Left { 1 } else { 0 };
        let per_word = 4 / fragments.element.bytes() as u32;
        let zero = self.emitter.i32(0);
        (0..fragments.words_per_fragment() as u32)
            .map(|word| {
                let Some(index) = fragments.word_index(across, deep, word) else { return zero };
                let step = bits.coordinate(k, index);
                let start = index & !((length - 1) << bits.offset(k));
                let key = (bits.coordinate(1 - k, index), step & !(length - 1));
                let words = match read.get(&key) {
                    Some(words) => words,
                    None => {
                        let words = self.read_run(fragments, tile, transposed, start, length);
                        read.entry(key).or_insert(words)
                    }
                };
                words[((step & (length - 1)) / per_word) as usize]
            })
            .collect()
    }

    /// The words of one run along K.
    fn read_run(
        &mut self,
        fragments: &Fragments<'_>,
        tile: &SharedTile<'a>,
        transposed: bool,
        start: u32,
        length: u32,
    ) -> Vec<Val<'a>> {
        let lanes = fragments.layout.lanes.iter().chain(&fragments.layout.warps);
        let thread: Vec<u32> =
            lanes.map(|&basis| tile.layout.address(fragments.tile_index(transposed, basis))).collect();
        let offset = tile.layout.address(fragments.tile_index(transposed, start));
        self.shared.note_read();
        let address = self.shared_addresses(tile.base, &thread, &[offset])[0];
        let pointer = self.emitter.shared_pointer(address);
        self.load_words(pointer, length as usize * fragments.element.bytes(), false)
    }

    #[allow(clippy::too_many_arguments)]
    fn tensor_core(
        &mut self,
        result: Value,
        plan: &DotPlan,
        element: Element,
        (lhs, mut left): (Value, Source<'a>),
        (rhs, mut right): (Value, Source<'a>),
        accumulators: &Registers<'a>,
    ) -> Result<Registers<'a>, Error> {
        let left_fragments = Fragments::new(Side::Left, self.shape(lhs), plan, element);
        let right_fragments = Fragments::new(Side::Right, self.shape(rhs), plan, element);
        let shape = self.shape(result);
        let layout = &plan.accumulator;
        let mut registers = accumulators.to_vec();
        // Runs are read some columns at a time and multiplied at once: all of them would fill the registers.
        let (together, columns_together) = match right {
            Source::Runs { .. } => ((right_fragments.run_length() / right_fragments.steps()).max(1), COLUMNS_OF_RUNS),
            _ => (1, right_fragments.across),
        };
        for first_deep in (0..left_fragments.deep).step_by(together as usize) {
            for first_column in (0..right_fragments.across).step_by(columns_together as usize) {
                let last_column = (first_column + columns_together).min(right_fragments.across);
                for deep in first_deep..(first_deep + together).min(left_fragments.deep) {
                    let rows: Vec<_> = (0..left_fragments.across)
                        .map(|across| self.fragment(&left_fragments, &mut left, across, deep))
                        .collect();
                    let mut columns = Vec::with_capacity(columns_together as usize);
                    while first_column + (columns.len() as u32) < last_column {
                        let column = first_column + columns.len() as u32;
                        let words = self.fragment(&right_fragments, &mut right, column, deep);
                        columns.extend(words.chunks(2).map(|pair| [pair[0], pair[1]]));
                    }
                    for (column, right) in (first_column..).zip(&columns) {
                        for (row, left) in rows.iter().enumerate() {
                            let index = ((row as u32 * ROWS) << Bits(shape).offset(0)) | (column * COLUMNS);
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
