//! Where the elements of a tile lie: linear layouts over GF(2) (arXiv 2505.23819).
//!
//! An element of a tile is named by its *index*: the row-major position as a string of bits, the coordinate of the last dimension in the
//! lowest. Extents are powers of two, so each dimension owns a run of bits, and moving along a dimension is an exclusive or. A layout gives each bit of a
//! register number, lane and warp number the index bits it stands for; the element in register r of lane l of warp w has the index that is
//! the exclusive or of all the set bits' vectors.
//!
//! Register layouts here are *distributed*: every vector is a single bit or zero, and no bit belongs to two. A zero lane or warp vector says that
//! those lanes or warps hold copies.

use smallvec::SmallVec;

/// Bits that number a lane.
pub(super) const LANE_BITS: usize = 5;

/// The runs of index bits that a shape's dimensions own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bits<'s>(pub &'s [u32]);

impl Bits<'_> {
    /// Number of bits of a dimension.
    pub fn width(self, dimension: usize) -> u32 {
        self.0[dimension].trailing_zeros()
    }

    /// Lowest bit of a dimension.
    pub fn offset(self, dimension: usize) -> u32 {
        self.0[dimension + 1..].iter().map(|extent| extent.trailing_zeros()).sum()
    }

    /// Bits of the whole index.
    pub fn total(self) -> u32 {
        self.0.iter().map(|extent| extent.trailing_zeros()).sum()
    }

    /// The bit `position` of a dimension as an index, or zero past its end.
    pub fn bit(self, dimension: usize, position: u32) -> u32 {
        if position < self.width(dimension) { 1 << (self.offset(dimension) + position) } else { 0 }
    }

    /// The coordinate of an index along a dimension.
    pub fn coordinate(self, dimension: usize, index: u32) -> u32 {
        (index >> self.offset(dimension)) & (self.0[dimension] - 1)
    }

    /// The index bits that a dimension owns.
    pub fn mask(self, dimension: usize) -> u32 {
        (self.0[dimension] - 1) << self.offset(dimension)
    }
}

/// A distributed layout of a tile over the registers, lanes and warps of a program.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Layout {
    /// Index bit of each bit of the register number; never zero.
    pub registers: SmallVec<[u32; 8]>,
    /// Index bit of each bit of the lane number, or zero.
    pub lanes: [u32; LANE_BITS],
    /// Index bit of each bit of the warp number, or zero.
    pub warps: SmallVec<[u32; 4]>,
}

impl Layout {
    /// A tile's bits dealt out in an order: the first `vector` to registers, then lanes, then warps, what is left to registers.
    pub fn dealt(order: &[u32], vector: usize, warps: usize) -> Self {
        let vector = vector.min(order.len());
        let mut rest = order[vector..].iter().copied();
        let lanes = std::array::from_fn(|_| rest.next().unwrap_or(0));
        let warps = (0..warps).map(|_| rest.next().unwrap_or(0)).collect();
        let registers = order[..vector].iter().copied().chain(rest).collect();
        Self { registers, lanes, warps }
    }

    /// The layout for accesses to memory that is contiguous along `fastest`: `vector` (a power of two) neighbours in one thread, neighbouring vectors in
    /// neighbouring lanes. Where the tile has fewer vectors than there are threads, vectors stay: the copies are idle.
    pub fn blocked(shape: &[u32], fastest: usize, vector: u32, warps: usize) -> Self {
        let bits = Bits(shape);
        let mut order: Vec<u32> = (0..bits.width(fastest)).map(|position| bits.bit(fastest, position)).collect();
        for dimension in (0..shape.len()).rev().filter(|&dimension| dimension != fastest) {
            order.extend((0..bits.width(dimension)).map(|position| bits.bit(dimension, position)));
        }
        Self::dealt(&order, vector.trailing_zeros() as usize, warps)
    }

    /// Number of registers that hold a thread's part.
    pub fn register_count(&self) -> usize {
        1 << self.registers.len()
    }

    /// Index of the element in a register of thread zero.
    pub fn register_index(&self, register: usize) -> u32 {
        self.registers
            .iter()
            .enumerate()
            .filter(|(bit, _)| register >> bit & 1 == 1)
            .fold(0, |index, (_, basis)| index ^ basis)
    }

    /// The register that holds, in thread zero, the element of an index made of register bits alone.
    pub fn register_of(&self, index: u32) -> usize {
        self.registers
            .iter()
            .enumerate()
            .filter(|(_, basis)| index & **basis != 0)
            .fold(0, |register, (bit, _)| register | 1 << bit)
    }

    /// Every vector passed through a map of index bits; register vectors that become zero are dropped.
    pub fn map(&self, f: impl Fn(u32) -> u32) -> Self {
        let apply = |basis: u32| if basis == 0 { 0 } else { f(basis) };
        Self {
            registers: self.registers.iter().map(|&basis| apply(basis)).filter(|&basis| basis != 0).collect(),
            lanes: self.lanes.map(apply),
            warps: self.warps.iter().map(|&basis| apply(basis)).collect(),
        }
    }

    /// The layout of the operand of a broadcast whose result has this layout; `axes[i]` is the result dimension of operand dimension i.
    pub fn project(&self, shape: &[u32], axes: &[usize]) -> Self {
        let operand: SmallVec<[u32; 3]> = axes.iter().map(|&axis| shape[axis]).collect();
        self.map(|basis| project_index(shape, axes, &operand, basis))
    }

    /// The layout of a reduction's result whose operand has this layout.
    pub fn reduce(&self, shape: &[u32], axis: usize) -> Self {
        let kept: SmallVec<[usize; 3]> = (0..shape.len()).filter(|&dimension| dimension != axis).collect();
        self.project(shape, &kept)
    }

    /// The layout of the transposed tile; `shape` is that of the tile with this layout.
    pub fn transpose(&self, shape: &[u32]) -> Self {
        self.map(|basis| transpose_index(shape, basis))
    }

    /// The layout of the operand of a rearrangement whose result has this layout.
    pub fn rearrange(&self, extents: &[u32], permutation: &[u8]) -> Self {
        self.map(|basis| rearranged_index(extents, permutation, basis))
    }

    /// Whether two layouts differ in the order of registers only, so that a conversion is free.
    pub fn same_threads(&self, other: &Self) -> bool {
        let sorted = |registers: &SmallVec<[u32; 8]>| {
            let mut sorted = registers.clone();
            sorted.sort_unstable();
            sorted
        };
        self.lanes == other.lanes && self.warps == other.warps && sorted(&self.registers) == sorted(&other.registers)
    }

    /// Bits of the thread number (lanes below warps) that number copies.
    pub fn replicated_threads(&self) -> u32 {
        self.lanes
            .iter()
            .chain(&self.warps)
            .enumerate()
            .filter(|(_, basis)| **basis == 0)
            .fold(0, |mask, (bit, _)| mask | 1 << bit)
    }

    /// How many neighbours along a dimension, up to a limit, one thread holds.
    pub fn vector(&self, shape: &[u32], dimension: usize, limit: u32) -> u32 {
        let bits = Bits(shape);
        let mut vector = 1;
        while vector < limit && self.registers.contains(&bits.bit(dimension, vector.trailing_zeros())) {
            vector *= 2;
        }
        vector
    }
}

/// The coordinates `axes` of an index, as an index of a tile that has those dimensions only.
pub(super) fn project_index(shape: &[u32], axes: &[usize], operand: &[u32], index: u32) -> u32 {
    let bits = Bits(shape);
    axes.iter()
        .enumerate()
        .map(|(position, &axis)| bits.coordinate(axis, index) << Bits(operand).offset(position))
        .fold(0, |result, part| result | part)
}

/// The index of the same element in the transposed tile.
pub(super) fn transpose_index(shape: &[u32], index: u32) -> u32 {
    let bits = Bits(shape);
    bits.coordinate(1, index) << bits.width(0) | bits.coordinate(0, index)
}

/// The index in the operand of a rearrangement of what has an index in its result.
pub(super) fn rearranged_index(extents: &[u32], permutation: &[u8], index: u32) -> u32 {
    let permuted: SmallVec<[u32; 8]> = permutation.iter().map(|&dimension| extents[usize::from(dimension)]).collect();
    let (from, to) = (Bits(&permuted), Bits(extents));
    (permutation.iter().enumerate())
        .map(|(position, &dimension)| from.coordinate(position, index) << to.offset(usize::from(dimension)))
        .fold(0, |result, part| result | part)
}

/// Where a rank-2 tile lies in shared memory: a byte address that is linear in the bits of the index.
///
/// Rows follow each other without padding. Within a row the 16-byte chunks are permuted by an exclusive or with bits of the row number, chosen so that
/// the eight chunks of one column in eight successive rows, which ldmatrix reads at once, and the chunks of one row, which a copy writes, fall into
/// different banks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SharedLayout {
    /// Byte address of each index bit, lowest first.
    pub images: SmallVec<[u32; 16]>,
    /// Bytes of the whole tile.
    pub bytes: u32,
}

/// Bytes that one cycle of shared memory serves.
const BANK_ROW: u32 = 128;
/// Bytes of the widest access of one thread.
const CHUNK: u32 = 16;

impl SharedLayout {
    /// The swizzled layout of a tile with one dimension contiguous.
    pub fn swizzled(shape: &[u32], fastest: usize, element_bytes: u32) -> Self {
        let bits = Bits(shape);
        let pitch = shape[fastest] * element_bytes;
        let chunks = (pitch / CHUNK).clamp(1, BANK_ROW / CHUNK);
        let first = (BANK_ROW / pitch.min(BANK_ROW)).trailing_zeros();
        let mut images = SmallVec::from_elem(0, bits.total() as usize);
        let mut row_bit = 0;
        let others = (0..shape.len()).rev().filter(|&dimension| dimension != fastest);
        for position in 0..bits.width(fastest) {
            images[(bits.offset(fastest) + position) as usize] = element_bytes << position;
        }
        for dimension in others {
            for position in 0..bits.width(dimension) {
                let swizzle = match u32::checked_sub(row_bit, first) {
                    Some(position) if 1 << position < chunks => CHUNK << position,
                    _ => 0,
                };
                images[(bits.offset(dimension) + position) as usize] = pitch << row_bit ^ swizzle;
                row_bit += 1;
            }
        }
        Self { images, bytes: pitch << row_bit }
    }

    /// Byte address of an index.
    pub fn address(&self, index: u32) -> u32 {
        self.images
            .iter()
            .enumerate()
            .filter(|(bit, _)| index >> bit & 1 == 1)
            .fold(0, |address, (_, image)| address ^ image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bank conflicts of one access: the most 16-byte wavefront rows that one bank serves, over the ideal.
    fn wavefronts(addresses: &[u32], bytes: u32) -> usize {
        let mut rows: Vec<std::collections::HashSet<u32>> = vec![Default::default(); 32];
        for &address in addresses {
            for word in (address..address + bytes).step_by(4) {
                rows[(word / 4 % 32) as usize].insert(word / 4);
            }
        }
        rows.iter().map(std::collections::HashSet::len).max().unwrap_or(0)
    }

    #[test]
    fn a_blocked_layout_deals_every_element_once() {
        let shape = [64, 32];
        let layout = Layout::blocked(&shape, 1, 8, 2);
        assert_eq!(layout.registers.as_slice(), [1, 2, 4, 1 << 10].as_slice());
        let mut seen = vec![0; 64 * 32];
        for thread in 0..128u32 {
            let base = layout
                .lanes
                .iter()
                .chain(&layout.warps)
                .enumerate()
                .filter(|(bit, _)| thread >> bit & 1 == 1)
                .fold(0, |index, (_, basis)| index ^ basis);
            for register in 0..layout.register_count() {
                seen[(base ^ layout.register_index(register)) as usize] += 1;
            }
        }
        assert!(seen.iter().all(|&count| count == 1));
    }

    #[test]
    fn small_tiles_are_replicated() {
        let layout = Layout::blocked(&[16], 0, 4, 2);
        assert_eq!(layout.registers.as_slice(), [1, 2]);
        assert_eq!(layout.lanes, [4, 8, 0, 0, 0]);
        assert_eq!(layout.replicated_threads(), 0b1111100);
    }

    #[test]
    fn projections_and_transposes() {
        let shape = [16, 8];
        let layout = Layout::dealt(&[1, 2, 4, 8, 16, 32, 64], 1, 1);
        assert_eq!(layout.project(&shape, &[1]).lanes, [2, 4, 0, 0, 0]);
        assert_eq!(layout.reduce(&shape, 1).lanes, [0, 0, 1, 2, 4]);
        assert_eq!(layout.reduce(&shape, 1).warps.as_slice(), [8]);
        assert_eq!(layout.transpose(&shape).transpose(&[8, 16]), layout);
        assert_eq!(layout.transpose(&shape).registers.as_slice(), [16]);
    }

    #[test]
    fn swizzled_tiles_have_no_bank_conflicts() {
        for columns in [8, 16, 32, 64, 128, 256] {
            let shape = [64, columns];
            let shared = SharedLayout::swizzled(&shape, 1, 2);
            let mut seen = std::collections::HashSet::new();
            for index in 0..64 * columns {
                assert!(shared.address(index) < shared.bytes && seen.insert(shared.address(index)));
            }
            for row in (0..64).step_by(8) {
                for column in (0..columns).step_by(8) {
                    let matrix: Vec<_> = (row..row + 8).map(|row| shared.address(row * columns + column)).collect();
                    assert_eq!(wavefronts(&matrix, 16), 1, "ldmatrix at {row},{column} of {columns} columns");
                }
            }
            for start in (0..64 * columns).step_by(64) {
                let copy: Vec<_> = (start..start + 64).step_by(8).map(|index| shared.address(index)).collect();
                assert_eq!(wavefronts(&copy, 16), 1, "copy at {start} of {columns} columns");
            }
        }
    }
}
