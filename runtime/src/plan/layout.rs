//! How a weight lies in the memory of a device, where that is not as it is stored.
//!
//! Kernels of a GPU read a weight fastest if what the threads of a warp read together lies together, in the order that they use it in. The compiler
//! says so by a [`Layout`]: a tiled order of the weight's bytes, as data. It is applied once, when the weight is bound
//! (*prepacking*, in other engines' words).

use serde::{Deserialize, Serialize};

/// A permutation of a weight's bytes, with zeros where a tile is not full.
///
/// The weight is a number of equal parts, one after another, as stored and as laid out; so it can be laid out part by part. A part is an array of bytes, row-major.
/// Each of its dimensions is cut into tiles, tiles of tiles, and so on; then all these extents are permuted; then the bits of each 32-bit word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// The number of parts.
    pub parts: u64,
    /// The dimensions of a part, outermost first.
    pub dimensions: Vec<TiledDimension>,
    /// Which of all dimensions' tile extents, counted in order, each extent of the laid-out part is, outermost first.
    pub permutation: Vec<usize>,
    /// Which bit of a little-endian word of 32 bits each of its bits was before; empty if they stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub word_bits: Vec<u8>,
}

/// A dimension of stored bytes and how it is cut.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TiledDimension {
    /// Its extent as stored.
    pub extent: u64,
    /// Extents whose product is the padded extent: the number of tiles, that of smaller tiles in a tile, and so on down to single places.
    pub tiles: Vec<u64>,
}

impl TiledDimension {
    fn padded(&self) -> Option<u64> {
        self.tiles.iter().try_fold(1u64, |product, extent| product.checked_mul(*extent))
    }
}

/// Places of one tile that is laid out at a time: what a table of them costs little memory for.
const LARGEST_TILE: u64 = 1 << 16;

const WORD_BITS: u8 = 32;

impl Layout {
    /// What is wrong with a layout of a weight of so many bytes, if anything is.
    pub fn problem(&self, stored_bytes: u64) -> Option<String> {
        if self.parts == 0 || self.dimensions.is_empty() {
            return Some("it has no parts or no dimensions".into());
        }
        let stored = self.dimensions.iter().try_fold(self.parts, |bytes, own| bytes.checked_mul(own.extent));
        if stored != Some(stored_bytes) {
            return Some(format!("its parts are not the {stored_bytes} bytes of the weight"));
        }
        for dimension in &self.dimensions {
            let Some((count, rest)) = dimension.tiles.split_first() else {
                return Some("a dimension has no tiles".into());
            };
            let tile = rest.iter().try_fold(1u64, |product, extent| product.checked_mul(*extent));
            let fits = tile.filter(|tile| (1..=LARGEST_TILE).contains(tile));
            if fits.map(|tile| dimension.extent.div_ceil(tile)) != Some(*count) || *count == 0 {
                return Some(format!("the tiles {:?} do not just cover {}", dimension.tiles, dimension.extent));
            }
        }
        let mut sources = self.permutation.clone();
        sources.sort_unstable();
        if !sources.into_iter().eq(0..self.dimensions.iter().map(|dimension| dimension.tiles.len()).sum()) {
            return Some("its permutation is none of its extents".into());
        }
        let Some(bytes) = self.part_bytes().filter(|bytes| bytes.checked_mul(self.parts).is_some()) else {
            return Some("its size does not fit 64 bits".into());
        };
        let mut bits = self.word_bits.clone();
        bits.sort_unstable();
        let permutes_words = bits.is_empty() || bits.into_iter().eq(0..WORD_BITS) && bytes.is_multiple_of(4);
        if !permutes_words {
            return Some("its bits are no permutation of those of whole words".into());
        }
        None
    }

    /// Bytes of a part as laid out; `None` where that overflows.
    fn part_bytes(&self) -> Option<u64> {
        self.dimensions.iter().try_fold(1u64, |bytes, dimension| bytes.checked_mul(dimension.padded()?))
    }

    /// Bytes of the weight as laid out; `None` where that overflows.
    pub fn bytes(&self) -> Option<u64> {
        self.part_bytes()?.checked_mul(self.parts)
    }

    /// Prepares to lay parts out. The layout has no [problem](Layout::problem).
    pub fn mover(&self) -> Mover {
        Mover::new(self)
    }
}

/// An extent of a laid-out part.
#[derive(Clone, Copy, Debug)]
struct Extent {
    length: u64,
    /// The dimension that it is of.
    dimension: usize,
    /// Places of the dimension from one to the next.
    stride: u64,
}

/// Moves the bytes of parts to where a layout wants them.
///
/// The innermost extents of a laid-out part are a tile, for which the way of each run of bytes is worked out once.
#[derive(Debug)]
pub struct Mover {
    /// Extents of the stored part, and bytes from one place of a dimension to the next.
    stored: Vec<(u64, u64)>,
    /// The extents outside of a tile, outermost first.
    outer: Vec<Extent>,
    /// Neighbours that stay neighbours.
    run: usize,
    /// The place in each dimension of each run of a tile, and where it is stored, both less those of the tile.
    runs: Vec<(Vec<u64>, usize)>,
    /// How far a tile reaches in each dimension.
    reach: Vec<u64>,
    stored_bytes: usize,
    bytes: usize,
    /// What each value of each byte of a word becomes.
    words: Option<Box<[[u32; 256]; 4]>>,
}

impl Mover {
    fn new(layout: &Layout) -> Mover {
        let mut stored = Vec::new();
        let mut bytes = 1;
        for dimension in layout.dimensions.iter().rev() {
            stored.insert(0, (dimension.extent, bytes));
            bytes *= dimension.extent;
        }
        let mut extents = Vec::new();
        for (dimension, own) in layout.dimensions.iter().enumerate() {
            for (position, length) in own.tiles.iter().enumerate() {
                let stride = own.tiles[position + 1..].iter().product();
                extents.push(Extent { length: *length, dimension, stride });
            }
        }
        let mut outer: Vec<Extent> = layout.permutation.iter().map(|position| extents[*position]).collect();
        let last = layout.dimensions.len() - 1;
        let run = match outer.last() {
            // The rest of the dimension may end within a run that is its only tile.
            Some(extent) if extent.dimension == last && extent.stride == 1 => {
                let length = extent.length;
                let divides = layout.dimensions[last].extent.is_multiple_of(length);
                if divides { outer.pop().map_or(1, |extent| extent.length) } else { 1 }
            }
            _ => 1,
        };
        let mut tile = 1;
        let mut inner = Vec::new();
        while let Some(extent) = outer.pop_if(|extent| tile * extent.length <= LARGEST_TILE) {
            tile *= extent.length;
            inner.insert(0, extent);
        }
        let mut runs = vec![(vec![0; stored.len()], 0)];
        for extent in inner {
            runs = (runs.iter())
                .flat_map(|(places, at)| {
                    let stored = &stored;
                    (0..extent.length).map(move |step| {
                        let mut places = places.clone();
                        places[extent.dimension] += step * extent.stride;
                        (places, at + (step * extent.stride * stored[extent.dimension].1) as usize)
                    })
                })
                .collect();
        }
        let mut reach: Vec<u64> = (0..stored.len())
            .map(|dimension| runs.iter().map(|(places, _)| places[dimension]).max().unwrap_or(0))
            .collect();
        if let Some(reach) = reach.last_mut() {
            *reach += run - 1;
        }
        Mover {
            outer,
            run: run as usize,
            runs,
            reach,
            stored_bytes: bytes as usize,
            bytes: layout.part_bytes().unwrap_or(0) as usize,
            words: (!layout.word_bits.is_empty()).then(|| word_tables(&layout.word_bits)),
            stored,
        }
    }

    /// Bytes of a part as stored.
    pub fn stored_bytes(&self) -> usize {
        self.stored_bytes
    }

    /// Bytes of a part as laid out.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lays a part out: `part` has [`Mover::stored_bytes`], `into` is made to have [`Mover::bytes`].
    pub fn lay_out(&self, part: &[u8], into: &mut Vec<u8>) {
        into.clear();
        into.resize(self.bytes, 0);
        let mut counters = vec![0; self.outer.len()];
        let mut places = vec![0; self.stored.len()];
        for tile in into.chunks_exact_mut(self.runs.len() * self.run) {
            places.fill(0);
            for (extent, counter) in self.outer.iter().zip(&counters) {
                places[extent.dimension] += counter * extent.stride;
            }
            self.lay_out_tile(part, &places, tile);
            for (extent, counter) in self.outer.iter().zip(&mut counters).rev() {
                *counter += 1;
                if *counter < extent.length {
                    break;
                }
                *counter = 0;
            }
        }
        if let Some(tables) = &self.words {
            for word in into.chunks_exact_mut(4) {
                let moved = tables.iter().zip(&*word).fold(0, |sum, (table, byte)| sum | table[usize::from(*byte)]);
                word.copy_from_slice(&moved.to_le_bytes());
            }
        }
    }

    fn lay_out_tile(&self, part: &[u8], first: &[u64], tile: &mut [u8]) {
        let start: u64 = first.iter().zip(&self.stored).map(|(place, (_, bytes))| place * bytes).sum();
        let start = start as usize;
        let extents = || self.stored.iter().map(|(extent, _)| *extent);
        let is_whole =
            first.iter().zip(&self.reach).zip(extents()).all(|((place, reach), extent)| place + reach < extent);
        for ((places, at), to) in self.runs.iter().zip(tile.chunks_exact_mut(self.run)) {
            let exists = is_whole
                || first.iter().zip(places).zip(extents()).all(|((first, place), extent)| first + place < extent);
            if exists {
                to.copy_from_slice(&part[start + at..][..self.run]);
            }
        }
    }
}

fn word_tables(bits: &[u8]) -> Box<[[u32; 256]; 4]> {
    let mut tables = Box::new([[0; 256]; 4]);
    for (bit, source) in bits.iter().enumerate() {
        let (byte, place) = (usize::from(source / 8), source % 8);
        for (value, moved) in tables[byte].iter_mut().enumerate() {
            *moved |= (value as u32 >> place & 1) << bit;
        }
    }
    tables
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes_of(dimensions: &[TiledDimension]) -> u64 {
        dimensions.iter().map(|dimension| dimension.extent).product()
    }

    /// Two dimensions of odd extents in tiles of tiles, in any order.
    fn layouts() -> impl Strategy<Value = Layout> {
        let dimension = (1..40u64, prop::collection::vec(1..5u64, 0..3)).prop_map(|(extent, tiles)| {
            let count = extent.div_ceil(tiles.iter().product());
            TiledDimension { extent, tiles: std::iter::once(count).chain(tiles).collect() }
        });
        let bits = Just((0..WORD_BITS).collect::<Vec<u8>>()).prop_shuffle();
        (prop::collection::vec(dimension, 1..4), bits, any::<bool>()).prop_flat_map(|(dimensions, bits, has_bits)| {
            let count = dimensions.iter().map(|dimension| dimension.tiles.len()).sum();
            let layout = Layout { parts: 2, dimensions, permutation: Vec::new(), word_bits: Vec::new() };
            let whole_words = layout.part_bytes().is_some_and(|bytes| bytes.is_multiple_of(4));
            let word_bits = if has_bits && whole_words { bits } else { Vec::new() };
            Just((0..count).collect::<Vec<usize>>()).prop_shuffle().prop_map(move |permutation| Layout {
                permutation,
                word_bits: word_bits.clone(),
                ..layout.clone()
            })
        })
    }

    /// Where each byte of a laid-out part was stored, worked out one by one; none for padding.
    fn sources(layout: &Layout) -> Vec<Option<usize>> {
        let extents: Vec<u64> = layout.dimensions.iter().flat_map(|own| own.tiles.clone()).collect();
        (0..layout.part_bytes().unwrap())
            .map(|mut position| {
                let mut indices = vec![0; extents.len()];
                for source in layout.permutation.iter().rev() {
                    indices[*source] = position % extents[*source];
                    position /= extents[*source];
                }
                let mut indices = indices.into_iter();
                layout.dimensions.iter().try_fold(0, |at, own| {
                    let place = own.tiles.iter().fold(0, |place, tile| place * tile + indices.next().unwrap_or(0));
                    (place < own.extent).then_some(at * own.extent as usize + place as usize)
                })
            })
            .collect()
    }

    proptest! {
        #[test]
        fn every_byte_goes_to_its_place(layout in layouts(), seed in any::<u8>()) {
            prop_assert_eq!(layout.problem(2 * bytes_of(&layout.dimensions)), None);
            let mover = layout.mover();
            let part: Vec<u8> = (0..mover.stored_bytes()).map(|byte| (byte as u8).wrapping_mul(31) ^ seed).collect();
            let mut found = vec![0xff; 3];
            mover.lay_out(&part, &mut found);
            prop_assert_eq!(found.len() as u64 * layout.parts, layout.bytes().unwrap());
            // Back, bits first.
            if !layout.word_bits.is_empty() {
                for word in found.chunks_exact_mut(4) {
                    let moved = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                    let bits = layout.word_bits.iter().enumerate();
                    let word_before = bits.fold(0u32, |sum, (bit, source)| sum | (moved >> bit & 1) << source);
                    word.copy_from_slice(&word_before.to_le_bytes());
                }
            }
            let mut back = vec![None; part.len()];
            for (byte, source) in found.into_iter().zip(sources(&layout)) {
                match source {
                    Some(source) => prop_assert_eq!(back[source].replace(byte), None, "each once"),
                    None => prop_assert_eq!(byte, 0, "padding"),
                }
            }
            prop_assert_eq!(back.into_iter().collect::<Option<Vec<u8>>>(), Some(part));
        }

        /// Whatever a damaged plan says is refused or can be applied.
        #[test]
        fn no_layout_is_trusted(
            parts in prop::sample::select(vec![0, 1, 3, u64::MAX]),
            extents in prop::collection::vec((0..9u64, prop::collection::vec(prop::sample::select(vec![0, 1, 2, 7, u64::MAX]), 0..3)), 0..3),
            permutation in prop::collection::vec(0..4usize, 0..5),
            word_bits in prop::collection::vec(0..40u8, 0..34),
        ) {
            let dimensions: Vec<TiledDimension> =
                extents.into_iter().map(|(extent, tiles)| TiledDimension { extent, tiles }).collect();
            let stored = bytes_of(&dimensions).saturating_mul(parts);
            let layout = Layout { parts, dimensions, permutation, word_bits };
            if layout.problem(stored).is_none() {
                let mover = layout.mover();
                mover.lay_out(&vec![1; mover.stored_bytes()], &mut Vec::new());
            }
        }
    }

    #[test]
    fn problems_are_named() {
        let good = Layout {
            parts: 1,
            dimensions: vec![TiledDimension { extent: 5, tiles: vec![2, 4] }],
            permutation: vec![1, 0],
            word_bits: Vec::new(),
        };
        assert_eq!(good.problem(5), None);
        let problem = |change: &dyn Fn(&mut Layout)| {
            let mut layout = good.clone();
            change(&mut layout);
            layout.problem(5).unwrap_or_default()
        };
        assert_eq!(problem(&|layout| layout.parts = 2), "its parts are not the 5 bytes of the weight");
        assert_eq!(problem(&|layout| layout.parts = 0), "it has no parts or no dimensions");
        assert_eq!(problem(&|layout| layout.dimensions[0].tiles = vec![3, 4]), "the tiles [3, 4] do not just cover 5");
        assert_eq!(problem(&|layout| layout.permutation = vec![0, 0]), "its permutation is none of its extents");
        let bits = problem(&|layout| layout.word_bits = vec![0; 32]);
        assert_eq!(bits, "its bits are no permutation of those of whole words");
    }
}
