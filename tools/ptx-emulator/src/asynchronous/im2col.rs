//! Im2col copies: the pixels under one tap of a convolution's filter, as the rows of a matrix.

use super::tensor_map::{BYTES, TensorMap};
use crate::memory::Word;

/// Which pixels an im2col copy moves: those where the filter's base can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pixels {
    /// The first place of the filter's base along W, H and D.
    pub lower: [i32; 3],
    /// The last place, from the last pixel.
    pub upper: [i32; 3],
    /// How many pixels are moved.
    pub count: u32,
}

/// Where a map keeps its pixels. What the hardware does with them is not known; no instruction changes this part of a map.
const PLACE: usize = 0x40;
/// What says that they are there.
const MARK: u32 = 0x6c6f_6332;

impl Pixels {
    /// Writes them into a map.
    pub fn encode(&self, bytes: &mut [u8; BYTES]) {
        let words = [MARK, self.count].into_iter().chain(self.lower.iter().chain(&self.upper).map(|one| *one as u32));
        for (at, word) in words.enumerate() {
            word.to_bytes(&mut bytes[PLACE + 4 * at..]);
        }
    }

    /// Those of a map, if it is one for im2col.
    pub fn decode(bytes: &[u8; BYTES]) -> Option<Pixels> {
        let word = |at: usize| u32::from_bytes(&bytes[PLACE + 4 * at..]);
        let corner = |from: usize| std::array::from_fn(|at| word(from + at) as i32);
        (word(0) == MARK).then(|| Pixels { count: word(1), lower: corner(2), upper: corner(5) })
    }

    /// Whether a map can have them.
    pub fn fits(&self, map: &TensorMap) -> bool {
        let bits = match map.rank {
            3 => 16,
            4 => 8,
            5 => 5,
            _ => return false,
        };
        let allowed = -(1 << (bits - 1))..1 << (bits - 1);
        (1..=1024).contains(&self.count)
            && (0..map.rank - 2).all(|at| {
                let (lower, upper) = (self.lower[at], self.upper[at]);
                let last = map.dimensions[at + 1] as i64 - 1 + i64::from(upper);
                allowed.contains(&lower) && allowed.contains(&upper) && i64::from(lower) <= last
            })
    }

    /// Where the pixels' rows start in the tensor, with W running fastest, and N slowest.
    pub fn walk(self, map: &TensorMap, start: [i64; 5], offsets: [i64; 3]) -> impl Iterator<Item = [i64; 5]> + use<> {
        let spatial = map.rank.clamp(3, 5) - 2;
        let strides = map.element_strides.map(i64::from);
        let last: [i64; 3] = std::array::from_fn(|at| map.dimensions[at + 1] as i64 - 1 + i64::from(self.upper[at]));
        let mut base = start;
        (0..self.count).map(move |_| {
            let mut at = base;
            for (index, offset) in at[1..].iter_mut().zip(offsets).take(spatial) {
                *index += offset;
            }
            for axis in 0..=spatial {
                base[axis + 1] += if axis < spatial { strides[axis + 1] } else { 1 };
                if axis == spatial || base[axis + 1] <= last[axis] {
                    break;
                }
                base[axis + 1] = i64::from(self.lower[axis]);
            }
            at
        })
    }
}
