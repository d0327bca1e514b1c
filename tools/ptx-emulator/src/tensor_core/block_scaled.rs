//! `mma.sync` with block scaling, dense and sparse: after the addend, and a sparse A's metadata, come A's scales, which bytes and
//! threads of them count, then B's.

use super::accumulation::{self, Scales};
use super::element::Element;
use super::sparse::{Metadata, Structure};
use super::{fragment, mma, product};
use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::Context;
use crate::machine::fault::FaultKind;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::{Kind, LANES, Slot};
use crate::numeric::format;
use crate::parse::ast::Operand;

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "mma.sync.aligned.m16n8k64.row.col.kind::mxf4.block_scale[.scale_vec::2X].f32.e2m1.e2m1.f32.ue8m0",
        section: "9.7.14.5.14 mma",
        build,
    },
    Form {
        pattern: "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::2X|scale_vec::4X.f32.e2m1.e2m1.f32.ue8m0|ue4m3",
        section: "9.7.14.5.14 mma",
        build,
    },
    Form {
        pattern: "mma.sync.aligned.m16n8k32.row.col.kind::mxf8f6f4.block_scale[.scale_vec::1X].f32.e4m3|e5m2|e3m2|e2m3|e2m1.e4m3|e5m2|e3m2|e2m3|e2m1.f32.ue8m0",
        section: "9.7.14.5.14 mma",
        build,
    },
    Form {
        pattern: "mma.sp::ordered_metadata.sync.aligned.m16n8k128.row.col.kind::mxf4.block_scale[.scale_vec::2X].f32.e2m1.e2m1.f32.ue8m0",
        section: "9.7.14.6.3 mma.sp",
        build,
    },
    Form {
        pattern: "mma.sp::ordered_metadata.sync.aligned.m16n8k128.row.col.kind::mxf4nvf4.block_scale.scale_vec::2X|scale_vec::4X.f32.e2m1.e2m1.f32.ue8m0|ue4m3",
        section: "9.7.14.6.3 mma.sp",
        build,
    },
    Form {
        pattern: "mma.sp::ordered_metadata.sync.aligned.m16n8k64.row.col.kind::mxf8f6f4.block_scale[.scale_vec::1X].f32.e4m3|e5m2|e3m2|e2m3|e2m1.e4m3|e5m2|e3m2|e2m3|e2m1.f32.ue8m0",
        section: "9.7.14.6.3 mma.sp",
        build,
    },
];

/// What an instruction keeps in its modifiers, beside A's and B's element in bits 0–3 and 4–7: the number of blocks in 8–11, the depth
/// in 16–23, and these.
const SPARSE: u32 = 1 << 12;
const UE4M3: u32 = 1 << 13;
/// Elements are a byte each.
const PADDED: u32 = 1 << 14;

fn build(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let sparse = b.has("sp::ordered_metadata");
    let (_, depth) = mma::shape(b.modifier(if sparse { 3 } else { 2 }));
    let last = b.modifiers.len() - 1;
    let kinds = [last - 3, last - 2].map(|at| Element::named(b.modifier(at)));
    let [Some(a_element), Some(b_element)] = kinds else { return b.problem("unknown element type") };
    let padded = b.has("kind::mxf8f6f4");
    let blocks = match (b.has("scale_vec::4X"), padded) {
        (true, _) => 4,
        (_, true) => 1,
        _ => 2,
    };
    let ue4m3 = b.last() == "ue4m3";
    if ue4m3 && blocks != 4 {
        return b.problem("scales in .ue4m3 are four for a row: .scale_vec::4X");
    }
    let bits = if padded { 8 } else { 4 };
    b.registers(4, 4, Kind::F32, true)?;
    b.registers(16 * depth * bits / 32 / LANES / if sparse { 2 } else { 1 }, 4, Kind::Integer, false)?;
    b.registers(8 * depth * bits / 32 / LANES, 4, Kind::Integer, false)?;
    b.registers(4, 4, Kind::F32, false)?;
    if sparse {
        b.registers(1, 4, Kind::Integer, false)?;
        if b.integer()? != 0 {
            return b.problem("the sparsity selector has to be 0: all threads have metadata");
        }
    }
    for side in 0..2 {
        b.registers(1, 4, Kind::Integer, false)?;
        let Operand::Vector(pair) = b.take()? else {
            return b.problem("expected the byte and thread of the scales: `{0, 0}`");
        };
        let [byte, thread] = pair.as_slice() else {
            return b.problem("expected the byte and thread of the scales: `{0, 0}`");
        };
        for (operand, limit) in [(byte, 4), (thread, if side == 0 { 2 } else { 4 })] {
            if let Operand::Integer(value) = operand
                && !(0..limit).contains(value)
            {
                return b.problem(format!("{value} names no byte or thread of the scales: it is below {limit}"));
            }
            let slot = b.slot(operand, 2, Kind::Integer)?;
            b.put_in_list(slot);
        }
    }
    b.made.modifiers = a_element as u32
        | (b_element as u32) << 4
        | blocks << 8
        | (depth as u32) << 16
        | if sparse { SPARSE } else { 0 }
        | if ue4m3 { UE4M3 } else { 0 }
        | if padded { PADDED } else { 0 };
    Ok(execute)
}

/// The scales of one operand: a register, the byte where they start, and the thread that has them.
struct Source {
    words: [u32; LANES],
    byte: usize,
    thread: usize,
}

impl Source {
    fn read(context: &Context<'_>, slots: &[Slot]) -> Source {
        let selector = |slot: Slot| usize::from(context.uniform::<u16>(slot));
        Source { words: context.row(slots[0]).0, byte: selector(slots[1]), thread: selector(slots[2]) }
    }

    /// Whether the byte and the thread are among those that the number of blocks allows.
    fn is_valid(&self, blocks: usize, threads: usize) -> bool {
        self.byte.is_multiple_of(blocks) && self.byte < 4 && self.thread < threads
    }
}

fn execute(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    if !context.assembled(u32::MAX) {
        return Step::Converge;
    }
    let modifiers = instruction.modifiers;
    let (a_element, b_element) = (Element::from_code(modifiers & 15), Element::from_code(modifiers >> 4 & 15));
    let (blocks, depth) = ((modifiers >> 8 & 15) as usize, (modifiers >> 16 & 0xff) as usize);
    let (bits, sparse) = (if modifiers & PADDED != 0 { 8 } else { 4 }, modifiers & SPARSE != 0);
    let stored_depth = if sparse { depth / 2 } else { depth };
    let list = context.list(instruction);
    let (d_slots, rest) = list.split_at(4);
    let (a_slots, rest) = rest.split_at(16 * stored_depth * bits / 32 / LANES);
    let (b_slots, rest) = rest.split_at(8 * depth * bits / 32 / LANES);
    let (c_slots, rest) = rest.split_at(4);
    let (metadata, scale_slots) = rest.split_at(usize::from(sparse));
    let (mut stored, mut expanded) = ([0f32; 16 * 64], [0f32; 16 * 128]);
    let (mut b_columns, mut b, mut d) = ([0f32; 8 * 128], [0f32; 8 * 128], [0f64; 128]);
    let stored = &mut stored[..16 * stored_depth];
    fragment::gather(context, a_slots, a_element, bits, stored_depth, true, stored);
    fragment::gather(context, b_slots, b_element, bits, depth, false, &mut b_columns[..8 * depth]);
    product::transpose(&b_columns[..8 * depth], &mut b[..8 * depth], 8, depth);
    let mut a = &*stored;
    if let [slot] = metadata {
        let structure = Structure::of(a_element, bits == 4);
        let words = context.row(*slot);
        let Some(metadata) = Metadata::new(Element::E2M1, structure, depth, 0) else { return Step::Next };
        let place = |row, chunk| metadata.of(words, row, chunk);
        if let Err(message) = structure.expand(stored, depth, true, place, &mut expanded[..16 * depth]) {
            return context.fail(FaultKind::IllegalInstruction, 0, message);
        }
        a = &expanded[..16 * depth];
    }
    let (a_source, b_source) = (Source::read(context, scale_slots), Source::read(context, &scale_slots[3..]));
    if !a_source.is_valid(blocks, 2) || !b_source.is_valid(blocks, 4) {
        let message = format!(
            "scales of bytes {} and {} of threads {} and {}: with {blocks} to a row, bytes are multiples of that, and A's threads 0 or 1",
            a_source.byte, b_source.byte, a_source.thread, b_source.thread
        );
        return context.fail(FaultKind::IllegalInstruction, 0, message);
    }
    let scale = |word: u32, byte: usize| {
        let bits = (word >> (8 * byte)) as u8;
        if modifiers & UE4M3 != 0 { format::UE4M3.decode(u32::from(bits & 0x7f)) } else { format::ue8m0(bits) }
    };
    // Of a pair of a quad's threads the first has the scales of row g of A, the second those of row g + 8.
    let a_scales: [f32; 64] = std::array::from_fn(|at| {
        let (row, block) = (at / blocks % 16, at % blocks);
        scale(a_source.words[4 * (row % 8) + 2 * a_source.thread + row / 8], a_source.byte + block)
    });
    let b_scales: [f32; 32] = std::array::from_fn(|at| {
        let (column, block) = (at / blocks % 8, at % blocks);
        scale(b_source.words[4 * column + b_source.thread], b_source.byte + block)
    });
    fragment::read_sums(context, c_slots, false, 8, &mut d);
    let rule = mma::rule(context, a_element, b_element, depth, false);
    let scales = Scales { a: &a_scales, b: &b_scales, blocks };
    accumulation::multiply_scaled(rule, bits == 4, (a, &b[..8 * depth]), scales, &mut d, (8, depth));
    fragment::write_sums(context, d_slots, false, 8, &d);
    Step::Next
}
