//! `tcgen05.mma`: products whose accumulator is in tensor memory.
//!
//! Of a pair of CTAs each holds half of the rows of A and D, and half of the columns of B.

use super::accumulation::{self, Accumulation, Rule, Scales, Unit};
use super::element::Element;
use super::mma::{integer, single};
use super::product;
use super::shared_matrix::{Descriptor, Matrix, Packing};
use super::tcgen05::group;
use super::tensor_memory_access::{show, unallocated};
use super::tensor_shape::{KINDS, Lanes, Shape, Variant, zero_columns};
use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::{Context, lanes};
use crate::machine::fault::FaultKind;
use crate::machine::instruction::{Execute, FALSE, Instruction, Step};
use crate::machine::observer::Direction;
use crate::machine::row::{Kind, Slot};
use crate::numeric::format;
use crate::parse::ast::Operand;

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "tcgen05.mma.cta_group::1|cta_group::2.kind::f16|kind::tf32|kind::f8f6f4|kind::i8[.ashift][.collector::a::fill|collector::a::use|collector::a::lastuse|collector::a::discard]",
        section: "9.7.16.10.9.1 tcgen05.mma",
        build,
    },
    Form {
        pattern: "tcgen05.mma.cta_group::1|cta_group::2.kind::mxf8f6f4|kind::mxf4|kind::mxf4nvf4.block_scale[.scale_vec::1X|scale_vec::2X|scale_vec::4X|block16|block32][.collector::a::fill|collector::a::use|collector::a::lastuse|collector::a::discard]",
        section: "9.7.16.10.9.1 tcgen05.mma",
        build,
    },
    Form {
        pattern: "tcgen05.mma.sp.cta_group::1|cta_group::2.kind::f16|kind::tf32|kind::f8f6f4|kind::i8[.ashift][.collector::a::fill|collector::a::use|collector::a::lastuse|collector::a::discard]",
        section: "9.7.16.10.9.2 tcgen05.mma.sp",
        build,
    },
    Form {
        pattern: "tcgen05.mma.sp.cta_group::1|cta_group::2.kind::mxf8f6f4|kind::mxf4|kind::mxf4nvf4.block_scale[.scale_vec::1X|scale_vec::2X|scale_vec::4X|block16|block32][.collector::a::fill|collector::a::use|collector::a::lastuse|collector::a::discard]",
        section: "9.7.16.10.9.2 tcgen05.mma.sp",
        build,
    },
    Form {
        pattern: "tcgen05.mma.ws.cta_group::1.kind::f16|kind::tf32|kind::f8f6f4|kind::i8[.BUFFER]",
        section: "9.7.16.10.9.3 tcgen05.mma.ws",
        build,
    },
    Form {
        pattern: "tcgen05.mma.ws.sp.cta_group::1.kind::f16|kind::tf32|kind::f8f6f4|kind::i8[.BUFFER]",
        section: "9.7.16.10.9.4 tcgen05.mma.ws.sp",
        build,
    },
];

const PAIR: u32 = 1 << 8;
const A_IN_TENSOR_MEMORY: u32 = 1 << 9;
const SCALED_DOWN: u32 = 1 << 10;
const SPARSE: u32 = 1 << 11;
const STATIONARY: u32 = 1 << 12;
const SHIFTED: u32 = 1 << 13;
/// There is a descriptor of columns that count as zeros.
const ZERO_COLUMNS: u32 = 1 << 14;

fn build(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let kind = KINDS.iter().position(|kind| b.has(kind)).unwrap_or(0);
    b.made.modifiers = kind as u32;
    for (name, bit) in [("cta_group::2", PAIR), ("sp", SPARSE), ("ws", STATIONARY), ("ashift", SHIFTED)] {
        if b.has(name) {
            b.made.modifiers |= bit;
        }
    }
    b.listed_address()?;
    if let [Operand::Address(_), ..] = b.rest() {
        b.made.modifiers |= A_IN_TENSOR_MEMORY;
        b.listed_address()?;
        b.put(Slot::register(0));
    } else if b.has("ashift") {
        return b.problem("`.ashift` wants A in tensor memory");
    } else {
        b.source::<u64>()?;
    }
    b.source::<u64>()?;
    if b.has("sp") {
        b.listed_address()?;
    }
    b.source::<u32>()?;
    if kind >= 4 {
        for _ in 0..2 {
            b.listed_address()?;
        }
        let per_16 = b.has("scale_vec::4X") || b.has("block16");
        // How many scales a row has, whatever its depth.
        b.made.immediate = match KINDS[kind] {
            _ if per_16 => 4,
            "kind::mxf8f6f4" => 1,
            _ => 2,
        };
        let known = match KINDS[kind] {
            "kind::mxf8f6f4" => !per_16 && !b.has("scale_vec::2X"),
            "kind::mxf4" => !per_16 && !b.has("scale_vec::1X"),
            _ => per_16 || b.has("scale_vec::2X") || b.has("block32"),
        };
        if !known {
            return b.problem("this kind does not have scales of this size");
        }
    } else if let [Operand::Vector(_), ..] = b.rest() {
        // Lanes that are not to be written, four words for each CTA.
        let mask = b.take()?;
        let words = b.vector(mask, 4, Kind::Integer, false)?;
        if b.has("ws") || words != if b.has("cta_group::2") { 8 } else { 4 } {
            return b.problem("disable-output-lane has 4 words, or 8 for a pair of CTAs, and none in .ws");
        }
        b.made.immediate = words as i64;
    }
    if b.left() > 0 {
        b.predicate_source()?;
    } else {
        b.put(Slot::register(FALSE << 1 | 1));
    }
    if b.left() > 0 && b.has("ws") {
        b.source::<u64>()?;
        b.made.modifiers |= ZERO_COLUMNS;
    } else if b.left() > 0 {
        let shift = b.integer()?;
        if !(0..=15).contains(&shift) || !matches!(KINDS[kind], "kind::f16" | "kind::tf32" | "kind::i8") {
            return b.problem("scale-input-d is from 0 to 15, and of .kind::f16, .kind::tf32 and .kind::i8");
        }
        // The ISA scales floating-point accumulators only; for integers ptxas takes the operand, and leaves it out of its code.
        if KINDS[kind] != "kind::i8" {
            b.made.modifiers |= SCALED_DOWN | (shift as u32) << 16;
        }
    }
    Ok(execute)
}

/// Most columns and deepest rows.
const COLUMNS: usize = 256;
const DEPTH: usize = 128;

fn execute(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    for lane in lanes(context.mask) {
        if let Err(step) = product_of(context, instruction, lane) {
            return step;
        }
    }
    Step::Next
}

/// A place in tensor memory: the first lane and column.
#[derive(Clone, Copy)]
struct Place {
    lane: usize,
    column: usize,
}

impl Place {
    fn of(address: u64) -> Place {
        Place { lane: address as usize >> 16 & 0x7f, column: address as usize & 0xffff }
    }

    fn address(self) -> usize {
        self.lane << 16 | self.column
    }
}

/// The places that an instruction names.
struct Places {
    d: Place,
    a: Option<Place>,
    metadata: Option<Place>,
    scales: Option<[(Place, usize); 2]>,
}

impl Places {
    /// Reads them, and gives what follows them in the list.
    fn read<'k>(context: &Context<'k>, instruction: &Instruction, lane: usize) -> (Places, &'k [Slot]) {
        let mut list = context.list(instruction);
        let mut next = || {
            let address = context.listed_address(list, lane);
            list = &list[3..];
            address
        };
        let modifiers = instruction.modifiers;
        let d = Place::of(next());
        let a = (modifiers & A_IN_TENSOR_MEMORY != 0).then(|| Place::of(next()));
        let metadata = (modifiers & SPARSE != 0).then(|| Place::of(next()));
        // The top bits of the address of scales may name their byte too.
        let mut scale = || {
            let address = next();
            (Place::of(address), (address >> 30) as usize & 3)
        };
        let scales = (modifiers & 0xff >= 4).then(|| [scale(), scale()]);
        (Places { d, a, metadata, scales }, list)
    }
}

/// Does the product that one thread asks for.
fn product_of(context: &mut Context<'_>, instruction: &Instruction, lane: usize) -> Result<(), Step> {
    let modifiers = instruction.modifiers;
    let has = |bit: u32| modifiers & bit != 0;
    let kind = modifiers as usize & 0xff;
    let variant = Variant { kind, pair: has(PAIR), sparse: has(SPARSE), stationary: has(STATIONARY) };
    let shape = match Shape::decode(variant, context.row(instruction.operands[2]).0[lane]) {
        Ok(shape) => shape,
        Err(message) => return Err(context.fail(FaultKind::IllegalInstruction, lane, message)),
    };
    if shape.is_deep() && !context.kernel.target.starts_with("sm_103") {
        let message = format!("products of depth 96 are of sm_103a, not of {}", context.kernel.target);
        return Err(context.fail(FaultKind::IllegalInstruction, lane, message));
    }
    context.issue(lane, |checker, actor| Some(checker.tensor_product(actor)));
    let (places, rest) = Places::read(context, instruction, lane);
    let layout = Lanes::of(variant, shape.rows);
    let members = group(context, variant.pair);
    let rows = shape.rows / members.len();
    let blocks = match variant.scaled() {
        // Half as many again, of blocks of the same size.
        true if shape.is_deep() => instruction.immediate as usize * 3 / 2,
        true => instruction.immediate as usize,
        false => 1,
    };
    let (mut b, mut b_columns) = ([0f32; COLUMNS * DEPTH], [0f32; COLUMNS * DEPTH]);
    let (b, b_columns) = (&mut b[..shape.columns * shape.depth], &mut b_columns[..shape.columns * shape.depth]);
    let zeros = has(ZERO_COLUMNS).then(|| context.read::<u64>(instruction.operands[4])[lane]);
    read_b(context, instruction, lane, &shape, members.clone(), zeros, b)?;
    product::transpose(b, b_columns, shape.columns, shape.depth);
    let mut b_scales = [0f32; COLUMNS * 8];
    if let Some([_, (place, byte)]) = places.scales {
        // Each CTA of a pair has the scales of all columns; where columns are folded over lanes, so are their scales.
        let halves = if layout == Lanes::Folded(2) { 2 } else { 1 };
        let source = ScaleSource { cta: context.cta, place, byte: shape.scale_ids.1.max(byte), blocks, halves };
        source.read(context, lane, &shape, &mut b_scales[..shape.columns * blocks])?;
    }
    let counts = crate::instructions::logic::predicate_value(context, instruction.operands[3]) >> lane & 1 != 0;
    let down = if has(SCALED_DOWN) { 0.5f64.powi((modifiers >> 16) as i32) } else { 1.0 };
    for (member, cta) in members.enumerate() {
        let mut a = [0f32; 128 * DEPTH];
        let a = &mut a[..rows * shape.depth];
        read_rows(context, instruction, lane, cta, &shape, &places, layout, a)?;
        let mut a_scales = [0f32; 128 * 8];
        if let Some([(place, byte), _]) = places.scales {
            let source = ScaleSource { cta, place, byte: shape.scale_ids.0.max(byte), blocks, halves: 1 };
            source.read(context, lane, &shape, &mut a_scales[..rows * blocks])?;
        }
        if shape.negate {
            a.iter_mut().for_each(|value| *value = -*value);
        }
        let mask: [u32; 4] = if !variant.scaled() && instruction.immediate > 0 {
            std::array::from_fn(|word| context.row(rest[4 * member + word]).0[lane])
        } else {
            [0; 4]
        };
        let accumulator = Accumulator { place: places.d, layout, counts, down, mask };
        let scales = variant.scaled().then_some(Scales { a: &a_scales, b: &b_scales, blocks });
        accumulator.add(context, cta, lane, (&shape, variant), (a, b_columns), scales)?;
    }
    Ok(())
}

fn matrix(
    context: &mut Context<'_>,
    lane: usize,
    bits: u64,
    element: Element,
    shape: &Shape,
    transposed: bool,
) -> Result<Matrix, Step> {
    match Descriptor::of_tensor_memory(bits) {
        Ok(descriptor) => Ok(Matrix { descriptor, element, packing: shape.packing, transposed }),
        Err(message) => Err(context.fail(FaultKind::IllegalInstruction, lane, message)),
    }
}

/// Reads B in rows of `depth`, a row for each column: of a pair, each CTA has half of them.
fn read_b(
    context: &mut Context<'_>,
    instruction: &Instruction,
    lane: usize,
    shape: &Shape,
    members: std::ops::Range<usize>,
    zeros: Option<u64>,
    into: &mut [f32],
) -> Result<(), Step> {
    let bits = context.read::<u64>(instruction.operands[1])[lane];
    let matrix = matrix(context, lane, bits, shape.b, shape, shape.transpose_b)?;
    let each = shape.columns / members.len();
    let (zero, shift) = zero_columns(zeros.unwrap_or(0), shape.rows.min(128), shape.columns);
    if shift > shape.most_shift {
        let message = format!(
            "columns of B are to be shifted by {shift}; the instruction descriptor says at most {}",
            shape.most_shift
        );
        return Err(context.fail(FaultKind::IllegalInstruction, lane, message));
    }
    for (member, cta) in members.enumerate() {
        let part = &mut into[member * each * shape.depth..][..each * shape.depth];
        matrix.read(context, cta, shift, shape.depth, part)?;
    }
    for (column, values) in into.chunks_exact_mut(shape.depth).enumerate() {
        if zero(column) {
            values.fill(0.0);
        }
    }
    Ok(())
}

/// Reads a CTA's rows of A, with its zeros where it is sparse.
#[expect(clippy::too_many_arguments, reason = "a matrix product has its operands")]
fn read_rows(
    context: &mut Context<'_>,
    instruction: &Instruction,
    lane: usize,
    cta: usize,
    shape: &Shape,
    places: &Places,
    layout: Lanes,
    into: &mut [f32],
) -> Result<(), Step> {
    let rows = into.len() / shape.depth;
    let depth = if places.metadata.is_some() { shape.depth / 2 } else { shape.depth };
    let mut buffer = [0f32; 128 * DEPTH / 2];
    let stored = if places.metadata.is_some() { &mut buffer[..rows * depth] } else { &mut *into };
    match places.a {
        Some(place) => {
            read_a(context, cta, lane, place, shape, layout, (depth, instruction.modifiers & SHIFTED != 0), stored)?
        }
        None => {
            let bits = context.read::<u64>(instruction.operands[0])[lane];
            matrix(context, lane, bits, shape.a, shape, shape.transpose_a)?.read(context, cta, 0, depth, stored)?;
        }
    }
    let Some(place) = places.metadata else { return Ok(()) };
    let wide = shape.a.bits() >= 16;
    let (first, columns) = if wide { (place.column + shape.selector, 1) } else { (place.column, 2) };
    let held = context.cluster.ctas[cta].tensor.as_ref().filter(|tensor| tensor.holds(first, columns));
    let Some(tensor) = held else { return Err(unallocated(context, lane, first, columns)) };
    let metadata = |row: usize, chunk: usize| {
        let (at, column, bit) = layout.metadata(row, chunk, wide);
        tensor.lane((place.lane + at) % 128)[first + column] >> bit
    };
    let expanded = shape.structure().expand(&buffer[..rows * depth], shape.depth, false, metadata, into);
    expanded.map_err(|message| context.fail(FaultKind::IllegalInstruction, lane, message))
}

/// Reads A from tensor memory: elements packed into the words of a lane.
#[expect(clippy::too_many_arguments, reason = "a matrix product has its operands")]
fn read_a(
    context: &mut Context<'_>,
    cta: usize,
    lane: usize,
    place: Place,
    shape: &Shape,
    layout: Lanes,
    (depth, shifted): (usize, bool),
    into: &mut [f32],
) -> Result<(), Step> {
    let bits = if shape.packing == Packing::Padded { shape.a.bits().max(8) } else { shape.a.bits() };
    let words = depth * bits / 32;
    context.check_columns(cta, place.column, words, layout.groups(place.lane, into.len() / depth), false);
    show(context, Direction::Read, place.address(), 4 * words * (into.len() / depth));
    let held = context.cluster.ctas[cta].tensor.as_ref().filter(|tensor| tensor.holds(place.column, words));
    let Some(tensor) = held else { return Err(unallocated(context, lane, place.column, words)) };
    let rows = into.len() / depth;
    for (row, values) in into.chunks_exact_mut(depth).enumerate() {
        // Shifted down, a row is what the next one was; the last stays.
        let row = if shifted { (row + 1).min(rows - 1) } else { row };
        let stored = &tensor.lane((place.lane + layout.row(row)) % 128)[place.column..place.column + words];
        for (word, values) in stored.iter().zip(values.chunks_mut(32 / bits)) {
            if bits == shape.a.bits() {
                shape.a.unpack(*word, values);
            } else {
                // A byte each: fp4 in its bits 2 to 5.
                let shift = if shape.a == Element::E2M1 { 2 } else { 0 };
                for (at, value) in values.iter_mut().enumerate() {
                    *value = shape.a.decode(word >> (8 * at + shift) & 0xff);
                }
            }
        }
    }
    Ok(())
}

/// Where scales are: that of row `i` in lane `i % 32`, column `i / 32`, a byte for each block along K. What does not fit into a word goes
/// on in those that follow the columns of all rows, of which 128 have four.
struct ScaleSource {
    cta: usize,
    place: Place,
    byte: usize,
    blocks: usize,
    /// The rows of the second half may be in lanes 64 and up instead.
    halves: usize,
}

impl ScaleSource {
    fn read(&self, context: &mut Context<'_>, lane: usize, shape: &Shape, into: &mut [f32]) -> Result<(), Step> {
        // Three start at any byte, six at the first or third (PTX ISA 9.7.16.10.7.2).
        let step = match self.blocks {
            3 => 1,
            6 => 2,
            blocks => blocks,
        };
        if !self.byte.is_multiple_of(step) {
            let message = format!("{} scales of a row start at byte {}, in the middle of them", self.blocks, self.byte);
            return Err(context.fail(FaultKind::IllegalInstruction, lane, message));
        }
        let each = into.len() / self.blocks / self.halves;
        let next_word = 4 * each.div_ceil(128);
        let last_word = (self.byte + self.blocks - 1) / 4;
        let (first, columns) = (self.place.column, last_word * next_word + each.div_ceil(32));
        context.check_columns(self.cta, first, columns, 3 << (self.place.lane / 32 % 4 * 2), false);
        show(context, Direction::Read, self.place.address(), into.len());
        let held = context.cluster.ctas[self.cta].tensor.as_ref().filter(|tensor| tensor.holds(first, columns));
        let Some(tensor) = held else { return Err(unallocated(context, lane, first, columns)) };
        for (row, scales) in into.chunks_exact_mut(self.blocks).enumerate() {
            let (half, row) = (row / each, row % each);
            let words = &tensor.lane((self.place.lane + 64 * half + row % 32) % 128)[first + row / 32..];
            for (at, scale) in scales.iter_mut().enumerate() {
                let byte = self.byte + at;
                let bits = (words[byte / 4 * next_word] >> (8 * (byte % 4))) as u8;
                *scale = if shape.scales_are_powers {
                    format::ue8m0(bits)
                } else {
                    format::UE4M3.decode(u32::from(bits & 0x7f))
                };
            }
        }
        Ok(())
    }
}

/// Where D is, and what of it counts.
struct Accumulator {
    place: Place,
    layout: Lanes,
    counts: bool,
    down: f64,
    mask: [u32; 4],
}

/// Rows of D that are read, multiplied and written together.
const PANEL: usize = 16;

impl Accumulator {
    /// Adds a product to a CTA's part of D.
    fn add(
        &self,
        context: &mut Context<'_>,
        cta: usize,
        lane: usize,
        (shape, variant): (&Shape, Variant),
        (a, b): (&[f32], &[f32]),
        scales: Option<Scales<'_>>,
    ) -> Result<(), Step> {
        let (columns, depth) = (shape.columns, shape.depth);
        let target = &context.kernel.target;
        let rule = (context.grid.accumulation == Accumulation::Hardware)
            .then(|| Rule::of(target, Unit::TensorMemory, shape.a, shape.b, depth, shape.half_result));
        let (first, width) = (self.place.column, self.layout.width(columns));
        let groups = match self.layout {
            Lanes::Folded(_) => 0xff,
            layout => layout.groups(self.place.lane, a.len() / depth),
        };
        let bytes = 4 * (a.len() / depth) * columns;
        if self.counts {
            context.check_columns(cta, first, width, groups, false);
            show(context, Direction::Read, self.place.address(), bytes);
        }
        context.check_columns(cta, first, width, groups, true);
        show(context, Direction::Write, self.place.address(), bytes);
        let held = context.cluster.ctas[cta].tensor.as_mut().filter(|tensor| tensor.holds(first, width));
        let Some(tensor) = held else { return Err(unallocated(context, lane, first, width)) };
        let integers = shape.a.is_integer();
        let value = |word: u32| match (integers, shape.half_result) {
            (true, _) => f64::from(word as i32),
            (_, true) => half::f16::from_bits(word as u16).to_f64(),
            _ => f64::from(f32::from_bits(word)),
        };
        let place = |row: usize, column: usize| {
            let (lane, column) = self.layout.place(row, column, columns);
            ((self.place.lane + lane) % 128, first + column)
        };
        // Where the columns of a row follow each other in one lane, as in most layouts.
        let straight = |row: usize| {
            let (lane, at) = place(row, 0);
            (place(row, columns - 1) == (lane, at + columns - 1)).then_some((lane, at))
        };
        let mut d = [[0f64; COLUMNS]; PANEL];
        let d = d.as_flattened_mut();
        for (panel, a) in a.chunks(PANEL * depth).enumerate() {
            let first_row = panel * PANEL;
            let d = &mut d[..a.len() / depth * columns];
            for (row, d) in d.chunks_exact_mut(columns).enumerate() {
                let row = first_row + row;
                if !self.counts {
                    d.fill(0.0);
                } else if let Some((lane, at)) = straight(row) {
                    for (d, word) in d.iter_mut().zip(&tensor.lane(lane)[at..]) {
                        *d = value(*word) * self.down;
                    }
                } else {
                    for (column, d) in d.iter_mut().enumerate() {
                        let (lane, at) = place(row, column);
                        *d = value(tensor.lane(lane)[at]) * self.down;
                    }
                }
            }
            match scales {
                None if integers => product::multiply(a, b, d, columns, depth),
                None => accumulation::multiply(rule, a, b, d, columns, depth),
                Some(scales) => {
                    let scales = Scales { a: &scales.a[first_row * scales.blocks..], ..scales };
                    accumulation::multiply_scaled(rule, variant.fp4(), (a, b), scales, d, (columns, depth));
                }
            }
            for (row, d) in d.chunks_exact(columns).enumerate() {
                let row = first_row + row;
                let bits = |d: f64| {
                    if integers {
                        integer(d as i64, shape.saturate)
                    } else if shape.half_result {
                        u32::from(format::double_to_f16(d))
                    } else {
                        single(d)
                    }
                };
                let kept = |lane: usize| self.mask[lane / 32] >> (lane % 32) & 1 != 0;
                if let Some((lane, at)) = straight(row) {
                    if !kept(lane) {
                        for (word, d) in tensor.lane_mut(lane)[at..].iter_mut().zip(d) {
                            *word = bits(*d);
                        }
                    }
                    continue;
                }
                for (column, d) in d.iter().enumerate() {
                    let (lane, at) = place(row, column);
                    if !kept(lane) {
                        tensor.lane_mut(lane)[at] = bits(*d);
                    }
                }
            }
        }
        Ok(())
    }
}
