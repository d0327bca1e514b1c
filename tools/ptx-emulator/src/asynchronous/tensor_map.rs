//! Tensor maps: 128 bytes that say how a tensor lies in global memory, and which box of it a copy moves.
//!
//! The layout is the one that ptxas gives `tensormap.replace`, so that maps that device code builds are understood too.

use super::im2col::Pixels;
use crate::memory::Word;

/// Bytes of a map.
pub const BYTES: usize = 128;

/// What a map says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Where the tensor starts.
    pub address: u64,
    /// How many dimensions it has, 1 to 5; the first is the innermost.
    pub rank: usize,
    /// The elements.
    pub element: MapElement,
    /// How shared memory is permuted.
    pub swizzle: Swizzle,
    /// Whether elements out of bounds are NaN instead of zero.
    pub fill_nan: bool,
    /// Extents in elements.
    pub dimensions: [u64; 5],
    /// Bytes from an index to the next, of the second dimension and up.
    pub strides: [u64; 4],
    /// Extents of the box in elements.
    pub box_extents: [u32; 5],
    /// Of how many elements one is moved.
    pub element_strides: [u32; 5],
    /// For im2col copies: which pixels are moved. A row of the copy is one pixel's part of the first dimension.
    pub pixels: Option<Pixels>,
}

/// Types of elements, by the numbers that device code uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapElement(pub u32);

impl MapElement {
    /// Half bytes, 16 of which are moved at a time.
    pub const FP4: MapElement = MapElement(11);
    /// Half bytes, 16 of which take 16 bytes of shared memory.
    pub const FP4_PADDED: MapElement = MapElement(12);
    /// Elements of 6 bits, 16 of which take 16 bytes of shared memory.
    pub const FP6_PADDED: MapElement = MapElement(13);

    /// The number for device code of a type of the driver API.
    pub fn of_driver(kind: u32) -> Option<(MapElement, bool)> {
        Some(match kind {
            0..=7 => (MapElement(kind), false),
            8 => (MapElement(9), false),
            9 => (MapElement(10), false),
            10 => (MapElement(8), false),
            11 => (MapElement(7), true),
            12 => (MapElement(8), true),
            13..=15 => (MapElement(kind - 2), false),
            _ => return None,
        })
    }

    /// The bits that an element takes in global memory.
    pub fn bits(self) -> u64 {
        match self.0 {
            0 => 8,
            1 | 6 | 10 => 16,
            4 | 5 | 9 => 64,
            11 | 12 => 4,
            13 => 6,
            _ => 32,
        }
    }

    /// The bytes that a number of elements takes in shared memory.
    pub fn shared_bytes(self, count: u64) -> u64 {
        match self {
            MapElement::FP4_PADDED | MapElement::FP6_PADDED => count.div_ceil(16) * 16,
            _ => count * self.bits() / 8,
        }
    }

    /// The bytes of a NaN, repeated, for elements that have one.
    pub fn nan(self) -> [u8; 8] {
        match self.0 {
            6 => [0xff, 0x7f, 0xff, 0x7f, 0xff, 0x7f, 0xff, 0x7f],
            10 => [0xff, 0x7f, 0xff, 0x7f, 0xff, 0x7f, 0xff, 0x7f],
            7 | 8 => [0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0x7f],
            9 => [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
            _ => [0; 8],
        }
    }
}

/// A permutation of 16 or 32 byte chunks of shared memory by bits of their address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swizzle {
    /// 0 none, 1 over 32 bytes, 2 over 64, 3 over 128.
    pub mode: u32,
    /// 0 chunks of 16 bytes, 1 of 32, 2 of 32 with their halves exchanged in odd rows, 3 of 64.
    pub atomicity: u32,
}

impl Swizzle {
    /// Where the byte of an address goes.
    #[inline(always)]
    pub fn apply(self, address: u64) -> u64 {
        match (self.mode, self.atomicity) {
            (1, _) => address ^ (address >> 7 & 1) << 4,
            (2, _) => address ^ (address >> 7 & 3) << 4,
            (3, 0) => address ^ (address >> 7 & 7) << 4,
            (3, 1) => address ^ (address >> 7 & 3) << 5,
            (3, 2) => address ^ (address >> 7 & 3) << 5 ^ (address >> 7 & 1) << 3,
            (3, _) => address ^ (address >> 7 & 1) << 6,
            _ => address,
        }
    }
}

/// Why a map cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The rank is not 1 to 5.
    #[error("a tensor map has 1 to 5 dimensions")]
    Rank,
    /// The address is not aligned.
    #[error("the tensor's address has to be a multiple of 16, or 32 for packed elements and interleaving")]
    Address,
    /// A dimension is 0 or too large.
    #[error("a dimension has to be from 1 to 2^32")]
    Dimension,
    /// A stride is not aligned or too large.
    #[error("a stride has to be a multiple of 16 bytes below 2^40")]
    Stride,
    /// The box is empty or too large.
    #[error("the box has to be 1 to 256 elements along each dimension, and its rows a multiple of 16 bytes")]
    Box,
    /// An element stride is not 1 to 8.
    #[error("an element stride has to be from 1 to 8")]
    ElementStride,
    /// The box of pixels cannot be.
    #[error(
        "im2col wants 3 to 5 dimensions, corners of 16, 8 or 5 bits around at least one pixel, and 1 to 1024 pixels"
    )]
    Pixels,
    /// The box's rows are longer than the swizzle.
    #[error("the box's rows may not be longer than the span of the swizzle")]
    Swizzle,
    /// A type, mode or combination that does not exist.
    #[error("unknown element type, interleave or swizzle")]
    Unknown,
}

fn word(bytes: &[u8; BYTES], at: usize) -> u32 {
    u32::from_bytes(&bytes[at..])
}

impl TensorMap {
    /// Checks what the driver checks when it encodes a map.
    pub fn validate(&self) -> Result<(), MapError> {
        if !(1..=5).contains(&self.rank) {
            return Err(MapError::Rank);
        }
        if !self.address.is_multiple_of(16) {
            return Err(MapError::Address);
        }
        let used = 0..self.rank;
        if used.clone().any(|at| self.dimensions[at] == 0 || self.dimensions[at] > 1 << 32) {
            return Err(MapError::Dimension);
        }
        if (0..self.rank - 1).any(|at| !self.strides[at].is_multiple_of(16) || self.strides[at] >= 1 << 40) {
            return Err(MapError::Stride);
        }
        let row = self.element.shared_bytes(u64::from(self.box_extents[0]));
        if used.clone().any(|at| !(1..=256).contains(&self.box_extents[at])) || !row.is_multiple_of(16) {
            return Err(MapError::Box);
        }
        if used.clone().any(|at| !(1..=8).contains(&self.element_strides[at])) {
            return Err(MapError::ElementStride);
        }
        if self.pixels.is_some_and(|pixels| !pixels.fits(self)) {
            return Err(MapError::Pixels);
        }
        if self.swizzle.mode != 0 && row > 16 << self.swizzle.mode {
            return Err(MapError::Swizzle);
        }
        Ok(())
    }

    /// The map's bytes.
    pub fn encode(&self, tf32: bool, interleave: u32) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let mut put = |at: usize, value: u32| value.to_bytes(&mut bytes[at..]);
        put(0, self.address as u32);
        put(4, (self.address >> 32) as u32);
        let head = (self.rank as u32 - 1) << 4
            | self.element.0 << 7
            | interleave << 11
            | (self.swizzle.mode & 3) << 13
            | u32::from(self.fill_nan) << 15
            | u32::from(tf32) << 16
            | (self.swizzle.atomicity & 3) << 19
            | 1 << 21;
        put(8, head);
        let mut high = 0;
        for (at, stride) in self.strides.iter().enumerate() {
            put(0x0c + 4 * at, (stride >> 4) as u32);
            high |= ((stride >> 36) as u32 & 0xf) << (4 * at);
        }
        put(0x1c, high);
        for (at, dimension) in self.dimensions.iter().enumerate() {
            put(0x20 + 4 * at, dimension.wrapping_sub(1) as u32);
        }
        let strides = self.element_strides.iter().enumerate();
        let strides = strides.fold(0, |all, (at, stride)| all | (stride.wrapping_sub(1) & 7) << (3 * at));
        put(0x34, strides | (self.box_extents[0].wrapping_sub(1) & 0xff) << 24);
        let rest = self.box_extents[1..].iter().enumerate();
        put(0x38, rest.fold(0, |all, (at, extent)| all | (extent.wrapping_sub(1) & 0xff) << (8 * at)));
        if let Some(pixels) = &self.pixels {
            pixels.encode(&mut bytes);
        }
        bytes
    }

    /// What the bytes of a map say.
    pub fn decode(bytes: &[u8; BYTES]) -> TensorMap {
        let head = word(bytes, 8);
        let high = word(bytes, 0x1c);
        let (last, rest) = (word(bytes, 0x34), word(bytes, 0x38));
        TensorMap {
            address: u64::from(word(bytes, 0)) | u64::from(word(bytes, 4)) << 32,
            rank: (head >> 4 & 7) as usize + 1,
            element: MapElement(head >> 7 & 0xf),
            swizzle: Swizzle { mode: head >> 13 & 3, atomicity: head >> 19 & 3 },
            fill_nan: head >> 15 & 1 != 0,
            dimensions: std::array::from_fn(|at| u64::from(word(bytes, 0x20 + 4 * at)) + 1),
            strides: std::array::from_fn(|at| {
                u64::from(word(bytes, 0x0c + 4 * at)) << 4 | u64::from(high >> (4 * at) & 0xf) << 36
            }),
            box_extents: std::array::from_fn(|at| {
                if at == 0 { (last >> 24) + 1 } else { (rest >> (8 * (at - 1)) & 0xff) + 1 }
            }),
            element_strides: std::array::from_fn(|at| (last >> (3 * at) & 7) + 1),
            pixels: Pixels::decode(bytes),
        }
    }
}

/// Sets a field of a map as `tensormap.replace` does; false for a field or index that does not exist.
pub fn replace(bytes: &mut [u8; BYTES], field: &str, index: usize, value: u64) -> bool {
    let mut bits = |at: usize, shift: usize, width: usize, value: u32| {
        let mask = ((1u64 << width) - 1) as u32;
        let word = word(bytes, at) & !(mask << shift) | (value & mask) << shift;
        word.to_bytes(&mut bytes[at..]);
    };
    let small = value as u32;
    match (field, index) {
        ("global_address", _) => {
            bits(0, 0, 32, small);
            bits(4, 0, 32, (value >> 32) as u32);
            bits(8, 21, 1, 0);
        }
        ("rank", _) => bits(8, 4, 3, small),
        ("box_dim", 0) => bits(0x34, 24, 8, small.wrapping_sub(1)),
        ("box_dim", 1..5) => bits(0x38, 8 * (index - 1), 8, small.wrapping_sub(1)),
        ("global_dim", 0..5) => bits(0x20 + 4 * index, 0, 32, small.wrapping_sub(1)),
        ("global_stride", 0..4) => {
            bits(0x0c + 4 * index, 0, 32, (value >> 4) as u32);
            bits(0x1c, 4 * index, 4, (value >> 36) as u32);
        }
        ("element_stride", 0..5) => bits(0x34, 3 * index, 3, small.wrapping_sub(1)),
        ("elemtype", _) => {
            // The numbers of PTX: tf32 and tf32.ftz stand between bf16 and the packed types.
            let (element, tf32) = match small {
                11 => (7, 1),
                12 => (8, 1),
                13..=15 => (small - 2, 0),
                _ => (small, 0),
            };
            bits(8, 7, 4, element);
            bits(8, 16, 1, tf32);
        }
        ("interleave_layout", _) => bits(8, 11, 2, small),
        ("swizzle_mode", _) => {
            bits(8, 13, 2, small);
            bits(8, 22, 1, 0);
        }
        ("swizzle_atomicity", _) => bits(8, 19, 2, small),
        ("fill_mode", _) => bits(8, 15, 1, small),
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::super::im2col::Unrolling;
    use super::*;

    fn sample() -> TensorMap {
        TensorMap {
            address: 0x7000_1234_5670,
            rank: 3,
            element: MapElement(10),
            swizzle: Swizzle { mode: 3, atomicity: 1 },
            fill_nan: true,
            dimensions: [1000, 1 << 32, 7, 1, 1],
            strides: [2000, (1 << 39) + 16, 0, 0],
            box_extents: [64, 256, 3, 1, 1],
            element_strides: [1, 2, 8, 1, 1],
            pixels: None,
        }
    }

    #[test]
    fn maps_survive_their_encoding() {
        let map = sample();
        let bytes = map.encode(false, 0);
        let pixels = Some(Pixels { lower: [-3, 0, 0], upper: [-1, 0, 0], count: 1024, unrolling: Unrolling::Width });
        let unrolled = TensorMap { pixels, box_extents: [64, 1, 1, 1, 1], ..map };
        assert_eq!(TensorMap::decode(&unrolled.encode(false, 0)), unrolled);
        assert_eq!(unrolled.validate(), Ok(()));
        assert_eq!(TensorMap::decode(&bytes), map);
        assert_eq!(bytes[0x38], 255);
        assert_eq!(map.validate(), Ok(()));
        assert_eq!(TensorMap { rank: 6, ..map }.validate(), Err(MapError::Rank));
        assert_eq!(TensorMap { box_extents: [65, 1, 1, 1, 1], ..map }.validate(), Err(MapError::Box));
        assert_eq!(TensorMap { box_extents: [128, 1, 1, 1, 1], ..map }.validate(), Err(MapError::Swizzle));
    }

    #[test]
    fn a_map_built_field_by_field_is_the_encoded_one() {
        let map = sample();
        let mut built = [0; BYTES];
        let fields = [
            ("global_address", 0, map.address),
            ("rank", 0, 2),
            ("elemtype", 0, 10),
            ("swizzle_mode", 0, 3),
            ("swizzle_atomicity", 0, 1),
            ("fill_mode", 0, 1),
        ];
        for (field, index, value) in fields {
            assert!(replace(&mut built, field, index, value));
        }
        for at in 0..5 {
            replace(&mut built, "global_dim", at, map.dimensions[at]);
            replace(&mut built, "box_dim", at, u64::from(map.box_extents[at]));
            replace(&mut built, "element_stride", at, u64::from(map.element_strides[at]));
        }
        for at in 0..4 {
            replace(&mut built, "global_stride", at, map.strides[at]);
        }
        assert_eq!(TensorMap::decode(&built), map);
        assert!(!replace(&mut built, "box_dim", 5, 1));
    }
}
