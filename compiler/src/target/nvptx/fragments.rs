//! How the operands of a dot divide into the fragments of tensor-core instructions.

use super::dot_plan::DotPlan;
use super::layout::{Bits, Layout, transpose_index};
use crate::tile::Element;

/// Rows and columns of one tensor-core instruction.
pub(super) const ROWS: u32 = 16;
pub(super) const COLUMNS: u32 = 8;
/// Bytes of one operand row of one tensor-core instruction.
const DEPTH_BYTES: u32 = 32;

/// Which operand of a dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    /// [M,K]
    Left,
    /// [K,N]
    Right,
}

/// How one operand divides into fragments.
pub(super) struct Fragments<'d> {
    pub side: Side,
    pub shape: [u32; 2],
    pub layout: &'d Layout,
    pub element: Element,
    pub run: u32,
    /// Fragments along M or N of one warp.
    pub across: u32,
    /// Fragments along K.
    pub deep: u32,
}

impl<'d> Fragments<'d> {
    pub fn new(side: Side, shape: &[u32], plan: &'d DotPlan, element: Element) -> Self {
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
        // What one warp owns along M or N, and along K.
        let in_warps = |dimension| layout.warps.iter().filter(|&&basis| basis & bits.mask(dimension) != 0).count();
        let (own, k) = (shape[free] >> in_warps(free), k >> in_warps(1 - free));
        let (size, depth) = match side {
            Side::Left => (ROWS, DEPTH_BYTES / element.bytes() as u32),
            Side::Right => (COLUMNS, DEPTH_BYTES / element.bytes() as u32),
        };
        Self { side, shape, layout, element, run: plan.run, across: (own / size).max(1), deep: k / depth }
    }

    pub fn depth(&self) -> u32 {
        DEPTH_BYTES / self.element.bytes() as u32
    }

    pub fn words_per_fragment(&self) -> usize {
        match self.side {
            Side::Left => 4,
            Side::Right => 2,
        }
    }

    pub fn words(&self) -> usize {
        (self.across * self.deep) as usize * self.words_per_fragment()
    }

    /// Position of a fragment's first word.
    pub fn position(&self, across: u32, deep: u32) -> usize {
        (across * self.deep + deep) as usize * self.words_per_fragment()
    }

    /// The index of the element that a fragment's word starts with, in thread zero; None if the tile has no such rows.
    pub fn word_index(&self, across: u32, deep: u32, word: u32) -> Option<u32> {
        let bits = Bits(&self.shape);
        let (free, k) = match self.side {
            // Words: rows 0–7, rows 8–15, then the same in the second half of K.
            Side::Left => (across * ROWS + (word & 1) * 8, self.step_of(deep, word >> 1)),
            Side::Right => (across * COLUMNS, self.step_of(deep, word)),
        };
        let (row, column) = match self.side {
            Side::Left => (free, k),
            Side::Right => (k, free),
        };
        (row < self.shape[0] && column < self.shape[1]).then(|| row << bits.offset(0) | column)
    }

    /// Steps of K that one access reads of a lane's run.
    pub fn run_length(&self) -> u32 {
        /// Bytes of the widest access.
        const WIDEST: u32 = 16;
        (1 << self.run).min(WIDEST / self.element.bytes() as u32)
    }

    /// Steps of K that a lane has in one fragment.
    pub fn steps(&self) -> u32 {
        self.depth() / 4
    }

    /// The step of K that the first or second half of a lane's part of a fragment begins with, in thread zero.
    pub fn step_of(&self, deep: u32, half: u32) -> u32 {
        let own = deep * self.steps() + half * self.steps() / 2;
        (own & ((1 << self.run) - 1)) | (own >> self.run << (self.run + 2))
    }

    /// The index that stands for an index of the tile in shared memory.
    pub fn tile_index(&self, transposed: bool, index: u32) -> u32 {
        if transposed { transpose_index(&self.shape, index) } else { index }
    }
}

#[cfg(test)]
mod tests {
    use super::super::dot_plan::{WarpSplit, fragments, word_run};
    use super::*;

    /// Index of the element that a lane of warp zero has at a position of a fragment's word.
    fn index_of(fragments: &Fragments<'_>, lane: u32, deep: u32, word: u32, element: u32) -> (u32, u32) {
        let lanes = fragments.layout.lanes.iter().enumerate();
        let own = lanes.filter(|(bit, _)| lane >> bit & 1 == 1).fold(0, |index, (_, basis)| index ^ basis);
        let bits = Bits(&fragments.shape);
        let step = if fragments.side == Side::Left { element } else { element << bits.offset(0) };
        let index = own ^ fragments.word_index(0, deep, word).unwrap() ^ step;
        (bits.coordinate(0, index), bits.coordinate(1, index))
    }

    /// PTX ISA, "Matrix Fragments for mma.m16n8k16" and "mma.m16n8k32".
    #[test]
    fn fragments_are_those_of_the_instructions() {
        for (bytes, element) in [(2, Element::BF16), (1, Element::Fp8E4M3)] {
            let (k, per_word) = (32 / bytes, 4 / bytes);
            let plan = fragments([16, k, 8], word_run(bytes), 0, WarpSplit::Even);
            let left = Fragments::new(Side::Left, &[16, k], &plan, element);
            let right = Fragments::new(Side::Right, &[k, 8], &plan, element);
            for lane in 0..32 {
                let (group, in_group) = (lane / 4, lane % 4);
                for position in 0..per_word {
                    for word in 0..4 {
                        let row = group + if word % 2 == 1 { 8 } else { 0 };
                        let column = in_group * per_word + position + if word >= 2 { k / 2 } else { 0 };
                        assert_eq!(index_of(&left, lane, 0, word, position), (row, column), "a, lane {lane}");
                    }
                    for word in 0..2 {
                        let row = in_group * per_word + position + word * k / 2;
                        assert_eq!(index_of(&right, lane, 0, word, position), (row, group), "b, lane {lane}");
                    }
                }
            }
            assert_eq!(plan.accumulator.registers.as_slice(), [1, 8 * 8], "c0 c1 are neighbours, c2 c3 eight rows on");
            assert_eq!(plan.accumulator.lanes, [2, 4, 8, 16, 32], "c");
        }
    }

    /// Dealt in longer runs, both operands have the same elements of K in the same place.
    #[test]
    fn runs_agree_between_operands() {
        for run in [2, 3, 4] {
            let k = 4 << run;
            let plan = fragments([16, k, 8], run, 0, WarpSplit::Even);
            let left = Fragments::new(Side::Left, &[16, k], &plan, Element::BF16);
            let right = Fragments::new(Side::Right, &[k, 8], &plan, Element::BF16);
            for lane in 0..32 {
                for step in 0..1 << run {
                    let (deep, half, element) = (step / 4, step / 2 % 2, step % 2);
                    let (_, own) = index_of(&left, lane, deep, half * 2, element);
                    let (same, _) = index_of(&right, lane, deep, half, element);
                    assert_eq!(own, same);
                    assert_eq!(own, ((lane % 4) << run) + step);
                }
            }
        }
    }
}
