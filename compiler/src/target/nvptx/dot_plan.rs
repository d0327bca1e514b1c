//! The layouts of a dot's operands and accumulator.

use smallvec::SmallVec;

use super::layout::{Bits, Layout};
use crate::tile::Element;

/// How a dot is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DotMethod {
    /// `mma.sync` on operands of this element.
    TensorCore(Element),
    /// Fused multiply-adds in the accumulator's precision.
    MultiplyAdd,
}

/// A dot and its layouts.
#[derive(Clone, Debug)]
pub(super) struct DotPlan {
    pub method: DotMethod,
    /// Binary logarithm of the successive steps of K that go to one lane. Tensor cores take a word of them, but a dot is the same in any
    /// order, and an operand of narrow elements that is converted on the way is read more elements at a time.
    pub run: u32,
    pub accumulator: Layout,
    /// Of the [M,K] operand as tensor-core fragments. Without tensor cores: of its rows, the accumulator's without columns.
    pub lhs: Layout,
    /// Of the [K,N] operand, likewise.
    pub rhs: Layout,
    /// Whether the warps take steps of K apart: the accumulator is then what all of them hold together.
    pub is_split: bool,
}

/// Which dimension of a dot's result goes to different warps first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WarpSplit {
    /// The longer part.
    Even,
    /// Rows: the left operand stays in the registers that it is made in, or each part is converted by one warp.
    Rows,
    /// Columns: likewise the right operand.
    Columns,
    /// Steps of K: every warp sums its own, of the whole tile.
    Depth,
}

/// The run that a word of an element's size is.
pub(super) fn word_run(bytes: u32) -> u32 {
    (4 / bytes).trailing_zeros()
}

/// Layouts of `mma.sync.m16n8k16` on 16-bit and `m16n8k32` on 8-bit operands (PTX ISA, "Matrix Fragments for mma").
///
/// A group of four lanes shares a row of the left operand and of the accumulator, and a column of the right one. A thread's two neighbouring 16-bit or
/// four 8-bit elements of a row fill one register.
/// `run` is [`DotPlan::run`].
pub(super) fn fragments([m, k, n]: [u32; 3], run: u32, warps: usize, split: WarpSplit) -> DotPlan {
    let (row_bits, column_bits) = (m.trailing_zeros(), n.trailing_zeros());
    // Warps cut the tile into parts of at least 16 rows and 8 columns.
    let mut row_warps = 0;
    let mut column_warps = 0;
    for _ in 0..if split == WarpSplit::Depth { 0 } else { warps } {
        let rows_left = row_bits.saturating_sub(4 + row_warps);
        let columns_left = column_bits.saturating_sub(3 + column_warps);
        let wants_rows = match split {
            WarpSplit::Rows => true,
            WarpSplit::Columns | WarpSplit::Depth => false,
            WarpSplit::Even => m >> row_warps >= n >> column_warps,
        };
        if rows_left > 0 && (wants_rows || columns_left <= 1) {
            row_warps += 1;
        } else if columns_left > 0 {
            column_warps += 1;
        } else if rows_left > 0 {
            row_warps += 1;
        }
    }
    let idle = warps - (row_warps + column_warps) as usize;
    let rows = (row_bits.saturating_sub(row_warps), row_bits);
    let columns = (column_bits - column_warps, column_bits);
    let accumulator_shape = [m, n];
    let bits = Bits(&accumulator_shape);
    let warp_bits = |row: &dyn Fn(u32) -> u32, column: &dyn Fn(u32) -> u32| {
        (columns.0..columns.1)
            .map(column)
            .chain((rows.0..rows.1).filter(|_| row_warps > 0).map(row))
            .chain(std::iter::repeat_n(0, idle))
            .collect::<SmallVec<[u32; 4]>>()
    };
    let present = |basis: u32| (basis != 0).then_some(basis);
    let rows_within = |shape_bits: Bits<'_>| {
        (3..rows.0.max(3).min(row_bits)).map(|position| shape_bits.bit(0, position)).collect::<Vec<_>>()
    };
    let accumulator = Layout {
        registers: std::iter::once(bits.bit(1, 0))
            .chain(rows_within(bits))
            .chain((3..columns.0).map(|position| bits.bit(1, position)))
            .filter_map(present)
            .collect(),
        lanes: [bits.bit(1, 1), bits.bit(1, 2), bits.bit(0, 0), bits.bit(0, 1), bits.bit(0, 2)],
        warps: warp_bits(&|position| bits.bit(0, position), &|position| bits.bit(1, position)),
    };
    // Bits of K below the ones that number the lanes of a group.
    let lhs_shape = [m, k];
    let bits = Bits(&lhs_shape);
    let is_split = split == WarpSplit::Depth;
    let depth = k.trailing_zeros() - if is_split { warps as u32 } else { 0 };
    let deep_bits = |shape_bits: Bits<'_>, dimension: usize| {
        (0..warps as u32).map(|bit| shape_bits.bit(dimension, depth + bit)).collect::<SmallVec<[u32; 4]>>()
    };
    let lhs = Layout {
        registers: (0..run)
            .map(|position| bits.bit(1, position))
            .chain(rows_within(bits))
            .chain((run + 2..depth).map(|position| bits.bit(1, position)))
            .filter_map(present)
            .collect(),
        lanes: [bits.bit(1, run), bits.bit(1, run + 1), bits.bit(0, 0), bits.bit(0, 1), bits.bit(0, 2)],
        warps: match is_split {
            true => deep_bits(bits, 1),
            false => warp_bits(&|position| bits.bit(0, position), &|_| 0),
        },
    };
    let rhs_shape = [k, n];
    let bits = Bits(&rhs_shape);
    let rhs = Layout {
        registers: (0..run)
            .chain(run + 2..depth)
            .map(|position| bits.bit(0, position))
            .chain((3..columns.0).map(|position| bits.bit(1, position)))
            .filter_map(present)
            .collect(),
        lanes: [bits.bit(0, run), bits.bit(0, run + 1), bits.bit(1, 0), bits.bit(1, 1), bits.bit(1, 2)],
        warps: match is_split {
            true => deep_bits(bits, 0),
            false => warp_bits(&|_| 0, &|position| bits.bit(1, position)),
        },
    };
    DotPlan { method: DotMethod::MultiplyAdd, run, accumulator, lhs, rhs, is_split }
}

/// Layouts of a dot by multiply-adds: each thread owns a rectangle of the accumulator.
pub(super) fn multiply_add(m: u32, n: u32, warps: usize) -> DotPlan {
    let shape = [m, n];
    let bits = Bits(&shape);
    let (row_bits, column_bits) = (bits.width(0), bits.width(1));
    let spare = (row_bits + column_bits).saturating_sub(5 + warps as u32);
    let columns_per_thread = spare.min(2).min(column_bits);
    let rows_per_thread = (spare - columns_per_thread).min(3).min(row_bits);
    let mut order: Vec<u32> = (0..columns_per_thread).map(|position| bits.bit(1, position)).collect();
    order.extend((0..rows_per_thread).map(|position| bits.bit(0, position)));
    let vector = order.len();
    let lane_columns = (columns_per_thread..column_bits).take(3).map(|position| bits.bit(1, position));
    order.extend(lane_columns);
    order.extend((rows_per_thread..row_bits).map(|position| bits.bit(0, position)));
    order.extend((columns_per_thread..column_bits).skip(3).map(|position| bits.bit(1, position)));
    let accumulator = Layout::dealt(&order, vector, warps);
    let lhs = accumulator.project(&shape, &[0]);
    let rhs = accumulator.project(&shape, &[1]);
    DotPlan { method: DotMethod::MultiplyAdd, run: 0, accumulator, lhs, rhs, is_split: false }
}
