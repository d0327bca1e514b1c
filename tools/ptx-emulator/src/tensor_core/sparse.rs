//! Matrices that are sparse in a structure: of each chunk of a row only half of the elements are stored, and metadata say where they
//! belong (PTX ISA 9.7.14.6.1).
//!
//! A chunk has four bits of metadata: two indices of two bits, the first in the low bits.

use super::element::Element;
use super::{fragment, mma, product};
use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::Context;
use crate::machine::fault::FaultKind;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::{Kind, LANES, Row};

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "mma.sp|sp::ordered_metadata.sync.aligned.m16n8k16|m16n8k32.row.col.f16|f32.f16.f16.f16|f32",
        section: "9.7.14.6.3 mma.sp",
        build,
    },
    Form {
        pattern: "mma.sp|sp::ordered_metadata.sync.aligned.m16n8k16|m16n8k32.row.col.f32.bf16.bf16.f32",
        section: "9.7.14.6.3 mma.sp",
        build,
    },
    Form {
        pattern: "mma.sp|sp::ordered_metadata.sync.aligned.m16n8k8|m16n8k16.row.col.f32.tf32.tf32.f32",
        section: "9.7.14.6.3 mma.sp",
        build,
    },
    Form {
        pattern: "mma.sp|sp::ordered_metadata.sync.aligned.m16n8k64.row.col.f32.e4m3|e5m2.e4m3|e5m2.f32",
        section: "9.7.14.6.3 mma.sp",
        build,
    },
    Form {
        pattern: "mma.sp::ordered_metadata.sync.aligned.m16n8k64.row.col.kind::f8f6f4.f16|f32.e4m3|e5m2|e3m2|e2m3|e2m1.e4m3|e5m2|e3m2|e2m3|e2m1.f16|f32",
        section: "9.7.14.6.3 mma.sp",
        build,
    },
    Form {
        pattern: "mma.sp|sp::ordered_metadata.sync.aligned.m16n8k32|m16n8k64.row.col[.satfinite].s32.u8|s8.u8|s8.s32",
        section: "9.7.14.6.3 mma.sp",
        build,
    },
    Form {
        pattern: "mma.sp|sp::ordered_metadata.sync.aligned.m16n8k64|m16n8k128.row.col[.satfinite].s32.u4|s4.u4|s4.s32",
        section: "9.7.14.6.3 mma.sp",
        build,
    },
];

/// The structure that a type's rows have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structure {
    /// One of two elements: tf32.
    OneOfTwo,
    /// Two of four.
    TwoOfFour,
    /// Two pairs of four: packed types of four bits.
    PairsOfFour,
}

impl Structure {
    /// Of a type; `packed` where elements of fewer than 8 bits are not a byte each.
    pub fn of(element: Element, packed: bool) -> Structure {
        match element.bits() {
            32 => Structure::OneOfTwo,
            4 if packed => Structure::PairsOfFour,
            _ => Structure::TwoOfFour,
        }
    }

    /// The elements of a chunk, of which half are stored.
    pub fn chunk(self) -> usize {
        match self {
            Structure::OneOfTwo => 2,
            Structure::TwoOfFour => 4,
            Structure::PairsOfFour => 8,
        }
    }

    /// Puts the stored elements of a chunk to their places; false where the metadata have no meaning.
    #[inline(always)]
    fn place(self, metadata: u32, ordered: bool, stored: &[f32], chunk: &mut [f32]) -> bool {
        let (first, second) = (metadata as usize & 3, metadata as usize >> 2 & 3);
        match self {
            Structure::OneOfTwo => {
                let at = match metadata {
                    0b0100 => 0,
                    0b1110 => 1,
                    _ => return false,
                };
                chunk[at] = stored[0];
            }
            Structure::TwoOfFour => {
                chunk[first] = stored[0];
                chunk[second] = stored[1];
            }
            Structure::PairsOfFour => {
                chunk[2 * first..2 * first + 2].copy_from_slice(&stored[..2]);
                chunk[2 * second..2 * second + 2].copy_from_slice(&stored[2..]);
            }
        }
        first < second || !ordered && first != second
    }

    /// Spreads rows of stored elements over rows of `depth`. `metadata` gives the bits of a row's chunk.
    pub fn expand(
        self,
        stored: &[f32],
        depth: usize,
        ordered: bool,
        metadata: impl Fn(usize, usize) -> u32,
        into: &mut [f32],
    ) -> Result<(), String> {
        let size = self.chunk();
        into.fill(0.0);
        let rows = stored.chunks_exact(depth / 2).zip(into.chunks_exact_mut(depth)).enumerate();
        for (row, (stored, into)) in rows {
            let chunks = stored.chunks_exact(size / 2).zip(into.chunks_exact_mut(size)).enumerate();
            for (chunk, (stored, into)) in chunks {
                let bits = metadata(row, chunk) & 15;
                if !self.place(bits, ordered, stored, into) {
                    let order = if ordered { " in increasing order" } else { "" };
                    return Err(format!(
                        "the sparsity metadata 0b{bits:04b} of row {row}, elements {} to {}, are not two places{order}",
                        chunk * size,
                        chunk * size + size - 1
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Where a warp's lanes have the metadata of A's 16 rows.
///
/// Rows `g` and `g + 8` are told by the lanes of quad `g`. Of types of 16 bits and more a lane has 16 bits of each of the two rows, of
/// narrower ones 32 bits of one of them. The selector says which lanes of the quad count where not all are needed.
#[derive(Clone, Copy, Debug)]
pub struct Metadata {
    /// Whether a lane has 16 bits of both rows.
    shared: bool,
    /// The bits of a row.
    bits: usize,
    selector: usize,
}

impl Metadata {
    /// For a depth; `None` where the selector does not exist.
    pub fn new(element: Element, structure: Structure, depth: usize, selector: i64) -> Option<Metadata> {
        let shared = element.bits() >= 16;
        let bits = depth / structure.chunk() * 4;
        let lanes = (bits / if shared { 16 } else { 32 }).max(1) * if shared { 1 } else { 2 };
        let selector = usize::try_from(selector).ok().filter(|selector| (selector + 1) * lanes <= 4)?;
        Some(Metadata { shared, bits, selector })
    }

    /// The four bits of a chunk.
    #[inline(always)]
    pub fn of(&self, words: &Row, row: usize, chunk: usize) -> u32 {
        let (quad, upper, bit) = (4 * (row % 8), row / 8, 4 * chunk);
        let (lane, shift) = if self.shared {
            (self.bits / 16 * self.selector + bit / 16, 16 * upper + bit % 16)
        } else {
            (2 * (self.bits / 32 * self.selector + bit / 32) + upper, bit % 32)
        };
        words.0[(quad + lane) % LANES] >> shift & 15
    }
}

/// What an instruction keeps in its modifiers, beside A's and B's element in bits 0–3 and 4–7.
const HALF_RESULT: u32 = 1 << 8;
const HALF_ADDEND: u32 = 1 << 9;
const SATURATE: u32 = 1 << 10;
const ORDERED: u32 = 1 << 11;
/// Elements of fewer than 8 bits are a byte each.
const PADDED: u32 = 1 << 12;

/// The deepest product.
const DEPTH: usize = 128;

fn build(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let (_, depth) = mma::shape(b.modifier(3));
    let last = b.modifiers.len() - 1;
    let [result, a_kind, b_kind, addend] = [last - 3, last - 2, last - 1, last].map(|at| b.modifier(at));
    let (Some(a_element), Some(b_element)) = (Element::named(a_kind), Element::named(b_kind)) else {
        return b.problem("unknown element type");
    };
    let padded = b.has("kind::f8f6f4");
    if a_element.bits() != b_element.bits() && !padded {
        return b.problem("A and B have elements of different sizes");
    }
    let bits = if padded { 8 } else { a_element.bits() };
    let integers = a_element.is_integer();
    let accumulators = |half: bool| if half { 2 } else { 4 };
    let kind = |half: bool| if half || integers { Kind::Integer } else { Kind::F32 };
    let (half_result, half_addend) = (result == "f16", addend == "f16");
    if half_result != half_addend {
        return b.problem("the types of D and C have to be the same");
    }
    b.registers(accumulators(half_result), 4, kind(half_result), true)?;
    b.registers(16 * depth / 2 * bits / 32 / LANES, 4, Kind::Integer, false)?;
    b.registers(8 * depth * bits / 32 / LANES, 4, Kind::Integer, false)?;
    b.registers(accumulators(half_addend), 4, kind(half_addend), false)?;
    b.source::<u32>()?;
    b.made.immediate = depth as i64 | b.integer()? << 32;
    let structure = Structure::of(a_element, !padded);
    if Metadata::new(a_element, structure, depth, b.made.immediate >> 32).is_none() {
        return b.problem("this sparsity selector does not exist for this shape and type");
    }
    b.made.modifiers = a_element as u32 | (b_element as u32) << 4;
    for (set, bit) in [
        (half_result, HALF_RESULT),
        (half_addend, HALF_ADDEND),
        (b.has("satfinite"), SATURATE),
        (b.has("sp::ordered_metadata"), ORDERED),
        (padded, PADDED),
    ] {
        if set {
            b.made.modifiers |= bit;
        }
    }
    Ok(execute)
}

fn execute(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    if !context.assembled(u32::MAX) {
        return Step::Converge;
    }
    let modifiers = instruction.modifiers;
    let (a_element, b_element) = (Element::from_code(modifiers & 15), Element::from_code(modifiers >> 4 & 15));
    let depth = instruction.immediate as usize & 0xff;
    let bits = if modifiers & PADDED != 0 { 8 } else { a_element.bits() };
    let half = modifiers & HALF_RESULT != 0;
    let list = context.list(instruction);
    let (d_slots, rest) = list.split_at(if half { 2 } else { 4 });
    let (a_slots, rest) = rest.split_at(16 * depth / 2 * bits / 32 / LANES);
    let (b_slots, c_slots) = rest.split_at(8 * depth * bits / 32 / LANES);
    let (mut stored, mut a) = ([0f32; 16 * DEPTH / 2], [0f32; 16 * DEPTH]);
    let (mut b_columns, mut b) = ([0f32; 8 * DEPTH], [0f32; 8 * DEPTH]);
    let (a, b) = (&mut a[..16 * depth], &mut b[..8 * depth]);
    fragment::gather(context, a_slots, a_element, bits, depth / 2, true, &mut stored[..8 * depth]);
    fragment::gather(context, b_slots, b_element, bits, depth, false, &mut b_columns[..8 * depth]);
    product::transpose(&b_columns[..8 * depth], b, 8, depth);
    let structure = Structure::of(a_element, modifiers & PADDED == 0);
    if let Some(metadata) = Metadata::new(a_element, structure, depth, instruction.immediate >> 32) {
        let words = context.row(instruction.operands[0]);
        let ordered = modifiers & ORDERED != 0;
        let place = |row, chunk| metadata.of(words, row, chunk);
        if let Err(message) = structure.expand(&stored[..8 * depth], depth, ordered, place, a) {
            return context.fail(FaultKind::IllegalInstruction, 0, message);
        }
    }
    let mut d = [0f64; 128];
    if a_element.is_integer() {
        mma::read_integers(context, c_slots, &mut d);
        product::multiply(a, b, &mut d, 8, depth);
        mma::write_integers(context, d_slots, modifiers & SATURATE != 0, &d);
    } else {
        fragment::read_sums(context, c_slots, modifiers & HALF_ADDEND != 0, 8, &mut d);
        let rule = mma::rule(context, a_element, b_element, depth, half);
        super::accumulation::multiply(rule, a, b, &mut d, 8, depth);
        fragment::write_sums(context, d_slots, half, 8, &d);
    }
    Step::Next
}
