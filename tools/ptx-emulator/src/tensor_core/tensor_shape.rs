//! What the descriptors of `tcgen05.mma` say: types and sizes, and where rows and columns lie in tensor memory.

use super::element::Element;
use super::shared_matrix::Packing;
use super::sparse::Structure;

/// The kinds, by number.
pub const KINDS: [&str; 7] =
    ["kind::f16", "kind::tf32", "kind::f8f6f4", "kind::i8", "kind::mxf8f6f4", "kind::mxf4", "kind::mxf4nvf4"];

/// What an instruction's modifiers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The number of its kind.
    pub kind: usize,
    /// Whether it is of a pair of CTAs.
    pub pair: bool,
    /// Whether A is sparse.
    pub sparse: bool,
    /// Whether the weights stay: `.ws`.
    pub stationary: bool,
}

impl Variant {
    /// Whether operands have scales.
    pub fn scaled(self) -> bool {
        self.kind >= 4
    }

    /// Whether elements are fp4, packed.
    pub fn fp4(self) -> bool {
        self.kind >= 5
    }
}

/// What the instruction descriptor says (PTX ISA 9.7.16.4.2).
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// M.
    pub rows: usize,
    /// N.
    pub columns: usize,
    /// K.
    pub depth: usize,
    /// A's elements.
    pub a: Element,
    /// B's elements.
    pub b: Element,
    /// Whether D is f16.
    pub half_result: bool,
    /// Whether products are negated.
    pub negate: bool,
    /// Whether A is stored MN-major.
    pub transpose_a: bool,
    /// Whether B is stored MN-major.
    pub transpose_b: bool,
    /// How elements are packed in shared memory.
    pub packing: Packing,
    /// The bytes of the words of A's and B's scales at which they start.
    pub scale_ids: (usize, usize),
    /// Whether scales are powers of two.
    pub scales_are_powers: bool,
    /// Whether integers are clamped.
    pub saturate: bool,
    /// Which column of a pair has the metadata of a sparse A.
    pub selector: usize,
    /// How far columns of B may be shifted.
    pub most_shift: usize,
}

impl Shape {
    /// From the descriptor's bits.
    pub fn decode(variant: Variant, bits: u32) -> Result<Shape, String> {
        let kind = variant.kind;
        let element = |code: u32| {
            Some(match (kind, code) {
                (0, 0) => Element::F16,
                (0, 1) => Element::BF16,
                (1, 2) => Element::TF32,
                (2 | 4, 0) => Element::E4M3,
                (2 | 4, 1) => Element::E5M2,
                (2 | 4, 3) => Element::E2M3,
                (2 | 4, 4) => Element::E3M2,
                (2 | 4, 5) => Element::E2M1,
                (3, 0) => Element::U8,
                (3, 1) => Element::S8,
                (5 | 6, 1) => Element::E2M1,
                _ => return None,
            })
        };
        let (name, scaled, fp4) = (KINDS[kind], variant.scaled(), variant.fp4());
        let element = |at: u32| {
            element(bits >> at & 7)
                .ok_or_else(|| format!("the instruction descriptor 0x{bits:08x} has no type of {name}"))
        };
        let bit = |at: u32| bits >> at & 1 != 0;
        if bit(2) != variant.sparse {
            let (says, is) = if variant.sparse { ("dense", ".sp") } else { ("sparse", "not .sp") };
            return Err(format!("the instruction descriptor 0x{bits:08x} says {says}, the instruction is {is}"));
        }
        let (a, b) = (element(7)?, if fp4 { Element::E2M1 } else { element(10)? });
        let width = match kind {
            5 | 6 => 4,
            2 | 4 => 8,
            _ => a.bits(),
        };
        let deep = fp4 && bit(31);
        if deep && variant.sparse {
            return Err(format!("the instruction descriptor 0x{bits:08x} says depth 96, which is of dense products"));
        }
        let shape = Shape {
            rows: if scaled { (bits >> 27 & 3) as usize * 128 } else { (bits >> 24 & 31) as usize * 16 },
            columns: (bits >> 17 & 63) as usize * 8,
            depth: match (deep, variant.sparse) {
                (true, _) => 96,
                (false, true) => 512 / width,
                (false, false) => 256 / width,
            },
            a,
            b,
            half_result: matches!(kind, 0 | 2) && bits >> 4 & 3 == 0,
            negate: bit(13) != bit(14),
            transpose_a: bit(15),
            transpose_b: bit(16),
            packing: if fp4 { Packing::Tight } else { Packing::Padded },
            scale_ids: ((bits >> 29 & 3) as usize, (bits >> 4 & 3) as usize),
            scales_are_powers: bit(23),
            saturate: bit(3),
            selector: (bits & 3) as usize,
            most_shift: [0, 8, 16, 32][(bits >> 30) as usize & 3],
        };
        shape.check(variant)
    }

    /// Checks M and N (PTX ISA 9.7.16.2.1).
    fn check(self, variant: Variant) -> Result<Shape, String> {
        let Variant { kind, pair, sparse, stationary } = variant;
        let rows: &[usize] = match (stationary, pair, variant.scaled()) {
            (true, ..) => &[32, 64, 128],
            (_, false, false) => &[64, 128],
            (_, false, true) => &[128],
            (_, true, true) if sparse => &[256],
            (_, true, _) => &[128, 256],
        };
        let step = match (kind, pair) {
            (3, true) => 32,
            (3, false) if self.columns > 32 => 16,
            (_, true) => 16,
            _ => 8,
        };
        let columns = match (stationary, sparse) {
            (true, false) => [64, 128, 256].contains(&self.columns),
            (true, true) => [64, 128].contains(&self.columns),
            _ => (8..=256).contains(&self.columns) && self.columns.is_multiple_of(step),
        };
        if !rows.contains(&self.rows) || !columns {
            let columns = match (stationary, sparse) {
                (true, false) => String::from("one of [64, 128, 256]"),
                (true, true) => String::from("one of [64, 128]"),
                _ => format!("a multiple of {step} up to 256"),
            };
            return Err(format!(
                "the instruction descriptor asks for M {} and N {}; M is one of {rows:?}, N {columns}",
                self.rows, self.columns
            ));
        }
        if self.is_deep() && pair && self.rows == 128 {
            let message = "products of depth 96 of a pair of CTAs with M 128 are not emulated: where their scales lie is \
                           not documented";
            return Err(message.into());
        }
        if sparse && self.a.bits() >= 16 && self.selector > 1 || sparse && self.a.bits() < 16 && self.selector > 0 {
            return Err(format!("the sparsity selector {} does not exist for this type", self.selector));
        }
        Ok(self)
    }

    /// Whether the depth is 96, which fp4 of sm_103a can have.
    pub fn is_deep(&self) -> bool {
        self.depth == 96
    }

    /// The structure of a sparse A.
    pub fn structure(&self) -> Structure {
        Structure::of(self.a, self.packing == Packing::Tight)
    }
}

/// How the rows of a CTA's part of D, and of A, lie over the lanes of tensor memory (PTX ISA 9.7.16.10.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lanes {
    /// Row `i` in lane `i`: layouts A and D.
    All,
    /// 64 rows in the first or second 16 lanes of each quarter: layouts C and F.
    Halves,
    /// Fewer rows than lanes: the columns after the first half or quarter are in the next lanes. Layouts B, E and G.
    Folded(usize),
}

impl Lanes {
    /// Of an instruction whose shape has these rows.
    pub fn of(variant: Variant, rows: usize) -> Lanes {
        match (variant.stationary, variant.pair, rows) {
            (true, _, 32) => Lanes::Folded(4),
            (true, _, 64) => Lanes::Folded(2),
            (false, false, 64) => Lanes::Halves,
            (false, true, 128) if variant.sparse => Lanes::Halves,
            (false, true, 128) => Lanes::Folded(2),
            _ => Lanes::All,
        }
    }

    /// The lane of a row, from the address's lane on.
    #[inline(always)]
    pub fn row(self, row: usize) -> usize {
        if self == Lanes::Halves { row / 16 * 32 + row % 16 } else { row }
    }

    /// The groups of 16 lanes that rows are in, from an address's lane on, a bit for each.
    pub fn groups(self, lane: usize, rows: usize) -> u8 {
        (0..rows).step_by(8).fold(0, |all, row| all | 1 << ((lane + self.row(row)) / 16 % 8))
    }

    /// How many columns of tensor memory D takes.
    pub fn width(self, columns: usize) -> usize {
        match self {
            Lanes::Folded(parts) => columns / parts,
            _ => columns,
        }
    }

    /// The lane and column of an element of D, from the address on.
    #[inline(always)]
    pub fn place(self, row: usize, column: usize, columns: usize) -> (usize, usize) {
        match self {
            Lanes::Folded(parts) => {
                let width = columns / parts;
                (row + 128 / parts * (column / width), column % width)
            }
            _ => (self.row(row), column),
        }
    }

    /// Where the metadata of a row's chunk are: lane, column, and the lowest bit. Types of 16 bits and more have 16 bits of two rows in
    /// a lane, as in `mma.sp`.
    #[inline(always)]
    pub fn metadata(self, row: usize, chunk: usize, wide: bool) -> (usize, usize, usize) {
        let bit = 4 * chunk;
        if wide {
            (self.row(row / 16 * 16 + row % 8 + 8 * (bit / 16)), 0, 16 * (row / 8 % 2) + bit % 16)
        } else {
            (self.row(row), bit / 32, bit % 32)
        }
    }
}

/// The columns of B that count as zeros, of the descriptor of `.ws` (PTX ISA 9.7.16.4.3), and how far columns are shifted.
///
/// The ISA's table and its examples differ in which span is which; this follows the examples: zeros for the skip span.
pub fn zero_columns(bits: u64, rows: usize, columns: usize) -> (impl Fn(usize) -> bool, usize) {
    let parts = 128 / rows;
    let width = columns / parts;
    let (skip, used) = ((bits >> 40 & 0xff) as usize + 1, (bits >> 48 & 0xff) as usize + 1);
    let zero = move |column: usize| {
        let part = column / width;
        let (start, first) = ((bits >> (8 * part) & 0xff) as usize, bits >> (32 + part) & 1 != 0);
        let at = (start + column % width) % (skip + used);
        let in_skip = if first { at < skip } else { at >= used };
        bits >> 39 & 1 != 0 && in_skip
    };
    (zero, (bits >> 56 & 0x3f) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(starts: [u64; 4], firsts: u64, shift: u64, rows: usize) -> Vec<String> {
        let starts = starts.iter().enumerate().fold(0, |all, (at, start)| all | start << (8 * at));
        let bits = starts | firsts << 32 | 1 << 39 | 2 << 40 | 3 << 48 | shift << 56;
        let (zero, _) = zero_columns(bits, rows, 128);
        let width = 128 * rows / 128;
        let part = |at: usize| (0..14).rev().map(|column| if zero(at * width + column) { '1' } else { '0' }).collect();
        (0..128 / rows).map(part).collect()
    }

    /// The examples of the ISA.
    #[test]
    fn zero_columns_of_the_examples() {
        assert_eq!(mask([0; 4], 0, 0, 128), ["11100001110000"]);
        assert_eq!(mask([0; 4], 1, 0, 64), ["00001110000111", "11100001110000"]);
        let four = ["00001110000111", "10000111000011", "00111000011100", "01110000111000"];
        assert_eq!(mask([0, 1, 2, 1], 3, 2, 32), four);
        assert!(!zero_columns(3 << 48, 128, 64).0(5));
        assert_eq!(zero_columns(2 << 56, 32, 128).1, 2);
    }

    #[test]
    fn rows_and_columns_of_each_layout() {
        assert_eq!(Lanes::All.place(77, 9, 64), (77, 9));
        assert_eq!(Lanes::Halves.place(17, 9, 64), (33, 9));
        assert_eq!(Lanes::Folded(2).place(17, 40, 64), (81, 8));
        assert_eq!(Lanes::Folded(4).place(17, 40, 64), (81, 8));
        assert_eq!(Lanes::Folded(4).width(64), 16);
        assert_eq!(Lanes::All.metadata(25, 5, true), (25, 0, 20));
        assert_eq!(Lanes::All.metadata(17, 5, true), (25, 0, 4));
        assert_eq!(Lanes::Halves.metadata(17, 9, false), (33, 1, 4));
    }
}
