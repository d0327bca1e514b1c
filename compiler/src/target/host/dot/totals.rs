//! Sums of the lanes of vectors, of several at a time: a tree that transposes as it adds has a third of the steps that each by itself would have.

use super::super::{emitter::Ssa, lower::Lowering};

impl<'a> Lowering<'_, 'a> {
    /// The sums of the lanes of vectors, as the first lanes of one. There are at most as many vectors as they have lanes.
    ///
    /// What is added to what is the same for any number of vectors, so that a row's sum does not depend on which rows come with it.
    pub(super) fn add_lanes(&self, vectors: &[Ssa<'a>]) -> Ssa<'a> {
        let e = self.emitter;
        let lanes = vectors[0].lanes as usize;
        let mut left = vectors.to_vec();
        // Lanes side by side that belong to different vectors.
        let mut unit = 1;
        while unit < lanes {
            // Within 128 bits first, where shuffles are the cheapest.
            let half = unit.max(2);
            let interleaved = |first: usize| -> Vec<i32> {
                let source = |lane: usize| {
                    let (block, inside) = (lane / (2 * half), lane % (2 * half));
                    let (turn, rest) = (inside / unit, inside % unit);
                    (turn % 2 * lanes + block * 2 * half + first + turn / 2 * unit + rest) as i32
                };
                (0..lanes).map(source).collect()
            };
            let (low, high) = (interleaved(0), interleaved(half));
            let combine = |pair: &[Ssa<'a>]| {
                let (a, b) = (pair[0], pair[pair.len() - 1]);
                e.add(e.shuffle(a, b, &low), e.shuffle(a, b, &high))
            };
            left = left.chunks(2).map(combine).collect();
            unit *= 2;
        }
        left[0]
    }
}
