//! Im2col copies: the pixels under one tap of a convolution's filter, as the rows of a matrix.

use super::tensor_map::{BYTES, TensorMap};
use crate::memory::Word;

/// How pixels follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unrolling {
    /// `im2col`: along W, H and D, then to the next image.
    #[default]
    Filter,
    /// `im2col::w`: along W, then to the next image.
    Width,
    /// `im2col::w::128`: as the one before, 128 pixels in four parts.
    Width128,
}

impl Unrolling {
    /// By its modifier.
    pub fn named(modifier: &str) -> Option<Unrolling> {
        Some(match modifier {
            "im2col" | "im2col_no_offs" => Unrolling::Filter,
            "im2col::w" => Unrolling::Width,
            "im2col::w::128" => Unrolling::Width128,
            _ => return None,
        })
    }

    /// Its modifier.
    pub fn name(self) -> &'static str {
        match self {
            Unrolling::Filter => "im2col",
            Unrolling::Width => "im2col::w",
            Unrolling::Width128 => "im2col::w::128",
        }
    }

    /// From the number that an instruction or a map keeps.
    pub fn from_code(code: u32) -> Unrolling {
        [Unrolling::Filter, Unrolling::Width, Unrolling::Width128][code as usize % 3]
    }
}

/// Which pixels an im2col copy moves: those where the filter's base can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pixels {
    /// The first place of the filter's base along W, H and D.
    pub lower: [i32; 3],
    /// The last place, from the last pixel.
    pub upper: [i32; 3],
    /// How many pixels are moved.
    pub count: u32,
    /// How they follow each other.
    pub unrolling: Unrolling,
}

/// Where a map keeps its pixels. What the hardware does with them is not known; no instruction changes this part of a map.
const PLACE: usize = 0x40;
/// What says that they are there.
const MARK: u32 = 0x6c6f_6332;

impl Pixels {
    /// Writes them into a map.
    pub fn encode(&self, bytes: &mut [u8; BYTES]) {
        let corners = self.lower.iter().chain(&self.upper).map(|one| *one as u32);
        let words = [MARK, self.count].into_iter().chain(corners).chain([self.unrolling as u32]);
        for (at, word) in words.enumerate() {
            word.to_bytes(&mut bytes[PLACE + 4 * at..]);
        }
    }

    /// Those of a map, if it is one for im2col.
    pub fn decode(bytes: &[u8; BYTES]) -> Option<Pixels> {
        let word = |at: usize| u32::from_bytes(&bytes[PLACE + 4 * at..]);
        let corner = |from: usize| std::array::from_fn(|at| word(from + at) as i32);
        let unrolling = Unrolling::from_code(word(8));
        (word(0) == MARK).then(|| Pixels { count: word(1), lower: corner(2), upper: corner(5), unrolling })
    }

    /// Whether a map can have them.
    pub fn fits(&self, map: &TensorMap) -> bool {
        let bits = match (self.unrolling, map.rank) {
            (_, 3) | (Unrolling::Width | Unrolling::Width128, 4 | 5) => 16,
            (_, 4) => 8,
            (_, 5) => 5,
            _ => return false,
        };
        // Wide, the box has one place along H and D.
        let spatial = if self.unrolling == Unrolling::Filter { map.rank - 2 } else { 1 };
        let allowed = -(1 << (bits - 1))..1 << (bits - 1);
        (1..=1024).contains(&self.count)
            && (0..spatial).all(|at| {
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

    /// The same for `im2col::w` and `im2col::w::128` (ISA 5.5.5): along W, of images that follow each other, with `halo` pixels more
    /// at the end, or after each 32. Those are the ones that come next on this way; the next 32 begin with them again.
    pub fn walk_wide(
        self,
        map: &TensorMap,
        start: [i64; 5],
        halo: i64,
        offset: i64,
    ) -> impl Iterator<Item = [i64; 5]> + use<> {
        let image = map.rank.clamp(3, 5) - 1;
        let stride = i64::from(map.element_strides[1]).max(1);
        let lower = i64::from(self.lower[0]);
        let last = map.dimensions[1] as i64 - 1 + i64::from(self.upper[0]);
        // Pixels of the first image, and of the others.
        let (first, others) = (((last - start[1]) / stride + 1).max(1), ((last - lower) / stride + 1).max(1));
        let part = if self.unrolling == Unrolling::Width128 { 32 } else { i64::from(self.count) };
        let parts = if self.unrolling == Unrolling::Width128 { 4 } else { 1 };
        (0..parts).flat_map(move |number| part * number..part * (number + 1) + halo).map(move |pixel| {
            let mut at = start;
            if pixel < first {
                at[1] += pixel * stride;
            } else {
                at[1] = lower + (pixel - first) % others * stride;
                at[image] += 1 + (pixel - first) / others;
            }
            at[1] += offset;
            at
        })
    }
}
