//! `wgmma`: products of a warpgroup, with operands in shared memory.
//!
//! A product of 64 rows is done by four warps; each computes its own 16 rows when it gets there, which is one of the orders that
//! PTX allows before the group is waited for: a warp that waits waits for the other three.

use super::accumulation::{self, Accumulation, Rule, Unit};
use super::element::Element;
use super::fragment;
use super::mma::integer;
use super::shared_matrix::{Descriptor, Matrix, Packing};
use super::sparse::{Metadata, Structure};
use crate::checker::{Actor, Checker};
use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::Context;
use crate::machine::fault::FaultKind;
use crate::machine::instruction::{Awaited, Execute, Instruction, Step};
use crate::machine::row::{Kind, LANES, Slot};
use crate::parse::ast::Operand;

/// The forms. The shapes are checked by the builder.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "wgmma.mma_async.sync.aligned.m64n*.f16|f32.f16.f16",
        section: "9.7.15.5.2 wgmma.mma_async",
        build,
    },
    Form { pattern: "wgmma.mma_async.sync.aligned.m64n*.f32.bf16.bf16", section: "9.7.15.5.2 wgmma.mma_async", build },
    Form { pattern: "wgmma.mma_async.sync.aligned.m64n*.f32.tf32.tf32", section: "9.7.15.5.2 wgmma.mma_async", build },
    Form {
        pattern: "wgmma.mma_async.sync.aligned.m64n*.f16|f32.e4m3|e5m2.e4m3|e5m2",
        section: "9.7.15.5.2 wgmma.mma_async",
        build,
    },
    Form {
        pattern: "wgmma.mma_async.sync.aligned.m64n*.s32.s8|u8.s8|u8[.satfinite]",
        section: "9.7.15.5.2 wgmma.mma_async",
        build,
    },
    Form {
        pattern: "wgmma.mma_async.sync.aligned.m64n*.s32.b1.b1.and.popc",
        section: "9.7.15.5.2 wgmma.mma_async",
        build,
    },
    Form {
        pattern: "wgmma.mma_async.sp.sync.aligned.m64n*.f16|f32.f16.f16",
        section: "9.7.15.6.3 wgmma.mma_async.sp",
        build,
    },
    Form {
        pattern: "wgmma.mma_async.sp.sync.aligned.m64n*.f32.bf16.bf16",
        section: "9.7.15.6.3 wgmma.mma_async.sp",
        build,
    },
    Form {
        pattern: "wgmma.mma_async.sp.sync.aligned.m64n*.f32.tf32.tf32",
        section: "9.7.15.6.3 wgmma.mma_async.sp",
        build,
    },
    Form {
        pattern: "wgmma.mma_async.sp.sync.aligned.m64n*.f16|f32.e4m3|e5m2.e4m3|e5m2",
        section: "9.7.15.6.3 wgmma.mma_async.sp",
        build,
    },
    Form {
        pattern: "wgmma.mma_async.sp.sync.aligned.m64n*.s32.s8|u8.s8|u8[.satfinite]",
        section: "9.7.15.6.3 wgmma.mma_async.sp",
        build,
    },
    Form {
        pattern: "wgmma.fence.sync.aligned",
        section: "9.7.15.7.1 wgmma.fence",
        build: |_| Ok(|context, _| together(context, Checker::products_fenced)),
    },
    Form {
        pattern: "wgmma.commit_group.sync.aligned",
        section: "9.7.15.7.2 wgmma.commit_group",
        build: |_| {
            Ok(|context, _| {
                if !context.assembled(u32::MAX) {
                    return Step::Converge;
                }
                let warp = context.warp.number as usize;
                if let Some(groups) = context.here().products.get_mut(warp) {
                    *groups = groups.saturating_add(1);
                }
                context.check(Checker::products_committed);
                Step::Next
            })
        },
    },
    Form {
        pattern: "wgmma.wait_group.sync.aligned",
        section: "9.7.15.7.3 wgmma.wait_group",
        build: |b| {
            b.made.immediate = b.integer()?;
            b.traits.awaited = Awaited::Products;
            if !(0..=7).contains(&b.made.immediate) {
                return b.problem("the number of groups is not from 0 to 7");
            }
            Ok(|context, instruction| {
                let left = instruction.immediate as u32;
                let warp = context.warp.number as usize;
                // A product is over when all warps of the warpgroup have done their rows: what one of them frees the others have read.
                let products = &context.here().products;
                let over = products.get(warp).copied().unwrap_or(0).saturating_sub(left);
                if products[warp / 4 * 4..].iter().take(4).any(|groups| *groups < over) {
                    return Step::Wait;
                }
                together(context, |checker, actor| checker.products_awaited(actor, left))
            })
        },
    },
];

/// Products are done when they are issued: all that is left is that the warp is together, and that the checker knows.
fn together(context: &mut Context<'_>, tell: impl FnOnce(&mut Checker, Actor)) -> Step {
    if !context.assembled(u32::MAX) {
        return Step::Converge;
    }
    context.check(tell);
    Step::Next
}

const HALF_RESULT: u32 = 1 << 8;
const A_IN_REGISTERS: u32 = 1 << 9;
const NEGATE_A: u32 = 1 << 10;
const NEGATE_B: u32 = 1 << 11;
const TRANSPOSE_A: u32 = 1 << 12;
const TRANSPOSE_B: u32 = 1 << 13;
const SATURATE: u32 = 1 << 14;
const SPARSE: u32 = 1 << 15;

fn build(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.draft.has_products = true;
    let sparse = b.has("sp");
    let first = if sparse { 4 } else { 3 };
    let shape = b.modifier(first);
    let columns: Option<usize> = shape.strip_prefix("m64n").and_then(|rest| rest.split('k').next()?.parse().ok());
    let depth: Option<usize> = shape.rsplit('k').next().and_then(|depth| depth.parse().ok());
    let (Some(columns), Some(depth)) = (columns, depth) else { return b.problem("unknown shape") };
    let types: Vec<&str> = b.modifiers[first + 1..]
        .iter()
        .copied()
        .filter(|name| !matches!(*name, "" | "satfinite" | "and" | "popc"))
        .collect();
    let [result, a_kind, b_kind] = types[..] else { return b.problem("expected three types") };
    let (Some(a_element), Some(b_element)) = (Element::named(a_kind), Element::named(b_kind)) else {
        return b.problem("unknown element type");
    };
    let step = if a_element.is_integer() && columns > 32 { 16 } else { 8 };
    let depth_bits = if sparse { 512 } else { 256 };
    if depth * a_element.bits() != depth_bits || !(8..=256).contains(&columns) || columns % step != 0 {
        return b.problem(format!(
            "there is no shape .{shape} for .{a_kind}: K is {depth_bits} bits, N from 8 to 256 by {step}"
        ));
    }
    let half = result == "f16";
    let accumulators = columns / 2 / if half { 2 } else { 1 };
    let kind = if result == "f32" { Kind::F32 } else { Kind::Integer };
    b.registers(accumulators, 4, kind, true)?;
    b.made.modifiers = a_element as u32 | (b_element as u32) << 4;
    if half {
        b.made.modifiers |= HALF_RESULT;
    }
    if let [Operand::Vector(_), ..] = b.rest() {
        b.made.modifiers |= A_IN_REGISTERS;
        b.registers(4, 4, Kind::Integer, false)?;
        b.put(Slot::register(0));
    } else {
        b.source::<u64>()?;
    }
    b.source::<u64>()?;
    b.made.immediate = (columns | depth << 16) as i64;
    if sparse {
        b.made.modifiers |= SPARSE;
        b.source::<u32>()?;
        let selector = b.integer()?;
        if Metadata::new(a_element, Structure::of(a_element, true), depth, selector).is_none() {
            return b.problem("this sparsity selector does not exist for this type");
        }
        b.made.immediate |= selector << 32;
    } else {
        b.put(Slot::register(0));
    }
    // Whether the accumulator counts: a predicate, or a constant.
    match b.rest() {
        [Operand::Name(_) | Operand::Not(_) | Operand::Integer(_), ..] => b.predicate_source()?,
        _ => return b.problem("expected scale-d, a predicate"),
    }
    let integers = a_element.is_integer();
    let flags: &[u32] = match (integers, a_element.bits(), b.made.modifiers & A_IN_REGISTERS != 0) {
        (true, ..) => &[],
        (_, 16, false) => &[NEGATE_A, NEGATE_B, TRANSPOSE_A, TRANSPOSE_B],
        (_, 16, true) => &[NEGATE_A, NEGATE_B, TRANSPOSE_B],
        _ => &[NEGATE_A, NEGATE_B],
    };
    for flag in flags {
        let value = b.integer()?;
        let set = match (*flag, value) {
            (NEGATE_A | NEGATE_B, 1) | (TRANSPOSE_A | TRANSPOSE_B, 0) => false,
            (NEGATE_A | NEGATE_B, -1) | (TRANSPOSE_A | TRANSPOSE_B, 1) => true,
            _ => return b.problem("imm-scale is 1 or -1, imm-trans 0 or 1"),
        };
        if set {
            b.made.modifiers |= flag;
        }
    }
    if b.has("satfinite") {
        b.made.modifiers |= SATURATE;
    }
    Ok(match (integers, sparse) {
        (false, false) => execute::<32>,
        (false, true) => execute::<64>,
        (true, _) if a_element == Element::B1 => execute_integer::<256>,
        (true, _) => execute_integer::<64>,
    })
}

/// Columns and depth of a product.
fn extents(instruction: &Instruction) -> (usize, usize) {
    (instruction.immediate as usize & 0xffff, instruction.immediate as usize >> 16 & 0xffff)
}

/// Reads A's rows of this warp, in rows of `depth`.
fn operand_a(context: &mut Context<'_>, instruction: &Instruction, a: &mut [f32], depth: usize) -> Result<(), Step> {
    let modifiers = instruction.modifiers;
    let a_element = Element::from_code(modifiers & 15);
    let (list, lane) = (context.list(instruction), context.leader());
    context.issue(lane, |checker, actor| Some(checker.product(actor, list, modifiers & A_IN_REGISTERS != 0)));
    if modifiers & SPARSE == 0 {
        read_a(context, instruction, a_element, depth, a)?;
    } else {
        let mut stored = [0f32; 16 * 32];
        let stored = &mut stored[..8 * depth];
        read_a(context, instruction, a_element, depth / 2, stored)?;
        let structure = Structure::of(a_element, true);
        if let Some(metadata) = Metadata::new(a_element, structure, depth, instruction.immediate >> 32) {
            let words = context.row(instruction.operands[2]);
            let place = |row, chunk| metadata.of(words, row, chunk);
            if let Err(message) = structure.expand(stored, depth, false, place, a) {
                return Err(context.fail(FaultKind::IllegalInstruction, 0, message));
            }
        }
    }
    Ok(())
}

/// Where B is.
fn operand_b(context: &Context<'_>, instruction: &Instruction) -> Matrix {
    let descriptor = Descriptor::of_warpgroup(context.uniform(instruction.operands[1]));
    let (element, transposed) =
        (Element::from_code(instruction.modifiers >> 4 & 15), instruction.modifiers & TRANSPOSE_B != 0);
    Matrix { descriptor, element, packing: Packing::Tight, transposed }
}

/// Reads A's rows of this warp, as they are stored: from registers, or from shared memory.
fn read_a(
    context: &mut Context<'_>,
    instruction: &Instruction,
    element: Element,
    depth: usize,
    into: &mut [f32],
) -> Result<(), Step> {
    if instruction.modifiers & A_IN_REGISTERS == 0 {
        let descriptor = Descriptor::of_warpgroup(context.uniform(instruction.operands[0]));
        let transposed = instruction.modifiers & TRANSPOSE_A != 0;
        let matrix = Matrix { descriptor, element, packing: Packing::Tight, transposed };
        let (cta, first) = (context.cta, 16 * (context.warp.number as usize % 4));
        return matrix.read(context, cta, first, depth, into);
    }
    let list = context.list(instruction);
    fragment::gather(context, &list[list.len() - 4..], element, element.bits(), depth, true, into);
    Ok(())
}

/// Columns that are read, multiplied and written at a time, so that what they need stays in the fastest cache.
const PART: usize = 64;

fn execute<const DEPTH: usize>(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    if !context.assembled(u32::MAX) {
        return Step::Converge;
    }
    let modifiers = instruction.modifiers;
    let (columns, depth) = extents(instruction);
    let (mut a, mut b) = ([[0f32; DEPTH]; 16], [[0f32; DEPTH]; PART]);
    let a = &mut a.as_flattened_mut()[..16 * depth];
    if let Err(step) = operand_a(context, instruction, a, depth) {
        return step;
    }
    if (modifiers & NEGATE_A != 0) != (modifiers & NEGATE_B != 0) {
        a.iter_mut().for_each(|value| *value = -*value);
    }
    let half = modifiers & HALF_RESULT != 0;
    let counts =
        crate::instructions::logic::predicate_value(context, instruction.operands[3]) >> context.leader() & 1 != 0;
    let (a_element, b_element) = (Element::from_code(modifiers & 15), Element::from_code(modifiers >> 4 & 15));
    let target = &context.kernel.target;
    let rule = (context.grid.accumulation == Accumulation::Hardware)
        .then(|| Rule::of(target, Unit::Warpgroup, a_element, b_element, depth, half));
    let (matrix, cta) = (operand_b(context, instruction), context.cta);
    let mut d = [0f64; 16 * PART];
    // A register has two columns of a row, or in f16 four.
    let registers = PART / 2 / if half { 2 } else { 1 };
    let accumulators = &context.list(instruction)[..columns / 2 / if half { 2 } else { 1 }];
    for (part, accumulators) in accumulators.chunks(registers).enumerate() {
        let first = part * PART;
        let columns = (columns - first).min(PART);
        let (b, d) = (&mut b.as_flattened_mut()[..columns * depth], &mut d[..16 * columns]);
        if let Err(step) = matrix.read_transposed(context, cta, (first, columns), depth, b) {
            return step;
        }
        if counts {
            fragment::read_sums(context, accumulators, half, columns, d);
        } else {
            d.fill(0.0);
        }
        accumulation::multiply(rule, a, b, d, columns, depth);
        fragment::write_sums(context, accumulators, half, columns, d);
    }
    Step::Next
}

fn execute_integer<const DEPTH: usize>(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    if !context.assembled(u32::MAX) {
        return Step::Converge;
    }
    let modifiers = instruction.modifiers;
    let (columns, depth) = extents(instruction);
    let (mut a, mut b) = ([[0f32; DEPTH]; 16], [[0f32; DEPTH]; 256]);
    let (a, b) = (&mut a.as_flattened_mut()[..16 * depth], &mut b.as_flattened_mut()[..columns * depth]);
    let (matrix, cta) = (operand_b(context, instruction), context.cta);
    let read = operand_a(context, instruction, a, depth).and_then(|()| matrix.read(context, cta, 0, depth, b));
    if let Err(step) = read {
        return step;
    }
    let counts =
        crate::instructions::logic::predicate_value(context, instruction.operands[3]) >> context.leader() & 1 != 0;
    let list = context.list(instruction);
    for (register, slot) in list[..columns / 2].iter().enumerate() {
        let before = context.row(*slot).0;
        let mut words = [0u32; LANES];
        for (lane, word) in words.iter_mut().enumerate() {
            let row = lane / 4 + 8 * (register >> 1 & 1);
            let column = 8 * (register / 4) + 2 * (lane % 4) + (register & 1);
            let pairs = a[row * depth..][..depth].iter().zip(&b[column * depth..][..depth]);
            let sum: i64 = pairs.map(|(a, b)| *a as i64 * *b as i64).sum();
            let total = sum + if counts { i64::from(before[lane] as i32) } else { 0 };
            *word = integer(total, modifiers & SATURATE != 0);
        }
        context.write(*slot, &words);
    }
    Step::Next
}
