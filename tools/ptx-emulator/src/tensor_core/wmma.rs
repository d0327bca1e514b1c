//! `wmma`: products of a warp whose fragments have no layout that a program may know.
//!
//! Here a matrix's elements, row by row, fill the registers of one lane after the other; where a fragment has room for more than the
//! matrix, as that of f16 has, elements are in it twice.

use super::accumulation;
use super::element::Element;
use super::mma::{self, integer, single};
use super::product;
use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::Context;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::{Kind, LANES, Slot};
use crate::memory::access::Space;
use crate::numeric::format;
use crate::numeric::rounding::{Directed, Rounding};

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "wmma.load.a|b.sync.aligned.row|col.m16n16k16|m8n32k16|m32n8k16[.global|shared|shared::cta].f16|bf16|s8|u8",
        section: "9.7.14.4.3 wmma.load",
        build: load,
    },
    Form {
        pattern: "wmma.load.a|b.sync.aligned.row|col.m16n16k8[.global|shared|shared::cta].tf32",
        section: "9.7.14.4.3 wmma.load",
        build: load,
    },
    Form {
        pattern: "wmma.load.a|b.sync.aligned.row|col.m8n8k4[.global|shared|shared::cta].f64",
        section: "9.7.14.4.3 wmma.load",
        build: load,
    },
    Form {
        pattern: "wmma.load.a.sync.aligned.row.m8n8k32[.global|shared|shared::cta].s4|u4",
        section: "9.7.14.4.3 wmma.load",
        build: load,
    },
    Form {
        pattern: "wmma.load.b.sync.aligned.col.m8n8k32[.global|shared|shared::cta].s4|u4",
        section: "9.7.14.4.3 wmma.load",
        build: load,
    },
    Form {
        pattern: "wmma.load.a.sync.aligned.row.m8n8k128[.global|shared|shared::cta].b1",
        section: "9.7.14.4.3 wmma.load",
        build: load,
    },
    Form {
        pattern: "wmma.load.b.sync.aligned.col.m8n8k128[.global|shared|shared::cta].b1",
        section: "9.7.14.4.3 wmma.load",
        build: load,
    },
    Form {
        pattern: "wmma.load.c.sync.aligned.row|col.m16n16k16|m8n32k16|m32n8k16[.global|shared|shared::cta].f16|f32|s32",
        section: "9.7.14.4.3 wmma.load",
        build: load,
    },
    Form {
        pattern: "wmma.load.c.sync.aligned.row|col.m16n16k8[.global|shared|shared::cta].f32",
        section: "9.7.14.4.3 wmma.load",
        build: load,
    },
    Form {
        pattern: "wmma.load.c.sync.aligned.row|col.m8n8k4[.global|shared|shared::cta].f64",
        section: "9.7.14.4.3 wmma.load",
        build: load,
    },
    Form {
        pattern: "wmma.load.c.sync.aligned.row|col.m8n8k32|m8n8k128[.global|shared|shared::cta].s32",
        section: "9.7.14.4.3 wmma.load",
        build: load,
    },
    Form {
        pattern: "wmma.store.d.sync.aligned.row|col.m16n16k16|m8n32k16|m32n8k16[.global|shared|shared::cta].f16|f32|s32",
        section: "9.7.14.4.4 wmma.store",
        build: store,
    },
    Form {
        pattern: "wmma.store.d.sync.aligned.row|col.m16n16k8[.global|shared|shared::cta].f32",
        section: "9.7.14.4.4 wmma.store",
        build: store,
    },
    Form {
        pattern: "wmma.store.d.sync.aligned.row|col.m8n8k4[.global|shared|shared::cta].f64",
        section: "9.7.14.4.4 wmma.store",
        build: store,
    },
    Form {
        pattern: "wmma.store.d.sync.aligned.row|col.m8n8k32|m8n8k128[.global|shared|shared::cta].s32",
        section: "9.7.14.4.4 wmma.store",
        build: store,
    },
    Form {
        pattern: "wmma.mma.sync.aligned.row|col.row|col.m16n16k16|m8n32k16|m32n8k16.f16|f32.f16|f32",
        section: "9.7.14.4.5 wmma.mma",
        build: |b| multiply(b, "f16", "f16"),
    },
    Form {
        pattern: "wmma.mma.sync.aligned.row|col.row|col.m16n16k16|m8n32k16|m32n8k16.f32.bf16.bf16.f32",
        section: "9.7.14.4.5 wmma.mma",
        build: |b| multiply(b, "bf16", "bf16"),
    },
    Form {
        pattern: "wmma.mma.sync.aligned.row|col.row|col.m16n16k8.f32.tf32.tf32.f32",
        section: "9.7.14.4.5 wmma.mma",
        build: |b| multiply(b, "tf32", "tf32"),
    },
    Form {
        pattern: "wmma.mma.sync.aligned.row|col.row|col.m16n16k16|m8n32k16|m32n8k16.s32.s8|u8.s8|u8.s32[.satfinite]",
        section: "9.7.14.4.5 wmma.mma",
        build: |b| multiply(b, b.modifier(7), b.modifier(8)),
    },
    Form {
        pattern: "wmma.mma.sync.aligned.row.col.m8n8k32.s32.s4|u4.s4|u4.s32[.satfinite]",
        section: "9.7.14.4.5 wmma.mma",
        build: |b| multiply(b, b.modifier(7), b.modifier(8)),
    },
    Form {
        pattern: "wmma.mma.xor|and.popc.sync.aligned.row.col.m8n8k128.s32.b1.b1.s32",
        section: "9.7.14.4.5 wmma.mma",
        build: |b| multiply(b, "b1", "b1"),
    },
    Form {
        pattern: "wmma.mma.sync.aligned.row|col.row|col.m8n8k4[.ROUNDING].f64.f64.f64.f64",
        section: "9.7.14.4.5 wmma.mma",
        build: multiply_doubles,
    },
];

/// M, N and K of a shape's name.
fn sizes(name: &str) -> [usize; 3] {
    let mut numbers = name.split(['m', 'n', 'k']).skip(1).map(|number| number.parse().unwrap_or(8));
    std::array::from_fn(|_| numbers.next().unwrap_or(8))
}

/// The shape among an instruction's modifiers.
fn shape(b: &Builder<'_, '_>) -> [usize; 3] {
    let is_shape = |name: &&&str| name.starts_with('m') && name.contains('k');
    b.modifiers.iter().find(is_shape).map_or([16; 3], |name| sizes(name))
}

/// A type's bits, in memory and in registers.
fn bits_of(kind: &str) -> usize {
    match kind {
        "f64" => 64,
        "f32" | "s32" | "tf32" => 32,
        "f16" | "bf16" => 16,
        "s8" | "u8" => 8,
        "s4" | "u4" => 4,
        _ => 1,
    }
}

/// How many registers a fragment has.
fn registers(elements: usize, kind: &str, multiplicand: bool) -> usize {
    match (kind, multiplicand) {
        ("f16", true) => 8,
        ("f64", _) => elements / LANES,
        _ => elements * bits_of(kind) / 32 / LANES,
    }
}

/// Which element of the matrix is at a place of a fragment.
#[inline(always)]
fn element(register: usize, lane: usize, at: usize, each: usize, registers: usize, elements: usize) -> usize {
    (lane * registers * each + register * each + at) % elements
}

/// Where the matrix is that `load` or `store` moves.
const SHARED: u32 = 1;
const GLOBAL: u32 = 2;
/// Columns follow each other rather than rows.
const COLUMNS: u32 = 4;

fn memory(b: &mut Builder<'_, '_>, rows: usize, columns: usize, kind: &str) -> Result<(), Problem> {
    b.made.immediate |= (rows | columns << 16 | bits_of(kind) << 32) as i64;
    if b.has("global") {
        b.made.modifiers |= GLOBAL;
    } else if b.has("shared") || b.has("shared::cta") {
        b.made.modifiers |= SHARED;
    }
    if b.has("col") {
        b.made.modifiers |= COLUMNS;
    }
    Ok(())
}

/// Reads the optional stride: the default is the length of a row, or of a column.
fn stride(b: &mut Builder<'_, '_>, rows: usize, columns: usize) -> Result<(), Problem> {
    if b.left() > 0 {
        b.source::<u32>()?;
    } else {
        let length = if b.has("col") { rows } else { columns };
        let slot = b.draft.constant(length as u64, false);
        b.put(slot);
    }
    Ok(())
}

fn load(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let ([m, n, k], kind) = (shape(b), b.last());
    let which = b.modifier(1);
    let (rows, columns) = match which {
        "a" => (m, k),
        "b" => (k, n),
        _ => (m, n),
    };
    memory(b, rows, columns, kind)?;
    let count = registers(rows * columns, kind, which != "c");
    b.registers(count, if kind == "f64" { 8 } else { 4 }, Kind::Integer, true)?;
    b.listed_address()?;
    stride(b, rows, columns)?;
    Ok(|context, instruction| {
        if !context.assembled(u32::MAX) {
            return Step::Converge;
        }
        let list = context.list(instruction);
        let (slots, address) = list.split_at(list.len() - 3);
        let mut matrix = [0u64; MOST];
        if let Err(step) = transfer(context, instruction, address, &mut matrix, false) {
            return step;
        }
        let (elements, bits) = extent(instruction);
        if bits == 64 {
            for (register, slot) in slots.iter().enumerate() {
                let values: [u64; LANES] =
                    std::array::from_fn(|lane| matrix[element(register, lane, 0, 1, slots.len(), elements)]);
                context.write(*slot, &values);
            }
            return Step::Next;
        }
        let each = 32 / bits;
        for (register, slot) in slots.iter().enumerate() {
            let words: [u32; LANES] = std::array::from_fn(|lane| {
                let value = |at| matrix[element(register, lane, at, each, slots.len(), elements)] as u32;
                (0..each).fold(0, |word, at| word | value(at) << (at * bits % 32))
            });
            context.write(*slot, &words);
        }
        Step::Next
    })
}

fn store(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let ([m, n, _], kind) = (shape(b), b.last());
    memory(b, m, n, kind)?;
    b.listed_address()?;
    let wide = kind == "f64";
    b.registers(registers(m * n, kind, false), if wide { 8 } else { 4 }, Kind::Integer, false)?;
    stride(b, m, n)?;
    Ok(|context, instruction| {
        if !context.assembled(u32::MAX) {
            return Step::Converge;
        }
        let (address, slots) = context.list(instruction).split_at(3);
        let (elements, bits) = extent(instruction);
        let mut matrix = [0u64; MOST];
        for (register, slot) in slots.iter().enumerate() {
            if bits == 64 {
                let values: [u64; LANES] = context.read(*slot);
                for (lane, value) in values.into_iter().enumerate() {
                    matrix[element(register, lane, 0, 1, slots.len(), elements)] = value;
                }
                continue;
            }
            let each = 32 / bits;
            for (lane, word) in context.row(*slot).0.iter().enumerate() {
                for at in 0..each {
                    let mask = u32::MAX >> (32 - bits);
                    let at_element = element(register, lane, at, each, slots.len(), elements);
                    matrix[at_element] = u64::from(*word >> (at * bits % 32) & mask);
                }
            }
        }
        transfer(context, instruction, address, &mut matrix, true).map_or_else(|step| step, |()| Step::Next)
    })
}

/// The most elements of a matrix: 8 × 128 bits.
const MOST: usize = 1024;

/// The elements of the matrix in memory, and the bits of each.
fn extent(instruction: &Instruction) -> (usize, usize) {
    let packed = instruction.immediate as usize;
    ((packed & 0xffff) * (packed >> 16 & 0xffff), packed >> 32)
}

/// Moves a matrix, row by row, from or to memory.
fn transfer(
    context: &mut Context<'_>,
    instruction: &Instruction,
    address: &[Slot],
    matrix: &mut [u64; MOST],
    into_memory: bool,
) -> Result<(), Step> {
    let packed = instruction.immediate as usize;
    let (rows, columns, bits) = (packed & 0xffff, packed >> 16 & 0xffff, packed >> 32);
    let lane = context.leader();
    let base = context.listed_address(address, lane);
    let space = match instruction.modifiers & 3 {
        SHARED => Space::Shared,
        GLOBAL => Space::Global,
        _ => Space::Generic,
    };
    let stride = u64::from(context.row(instruction.operands[0]).0[lane]);
    let by_columns = instruction.modifiers & COLUMNS != 0;
    context.issue(lane, |_, _| None);
    for row in 0..rows {
        for column in 0..columns {
            let (major, minor) = if by_columns { (column, row) } else { (row, column) };
            let at = (major as u64 * stride + minor as u64) * bits as u64;
            let place = base.wrapping_add(at / 8);
            let value = &mut matrix[row * columns + column];
            let mut bytes = value.to_le_bytes();
            let bytes = &mut bytes[..(bits / 8).max(1)];
            let moved =
                if into_memory { context.copy_in(space, place, bytes) } else { context.copy_out(space, place, bytes) };
            if let Err(refused) = moved {
                return Err(context.refuse(lane, refused, if into_memory { "write" } else { "read" }));
            }
            if !into_memory {
                let all = bytes.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
                *value = if bits < 8 { all >> (at % 8) & ((1 << bits) - 1) } else { all };
            }
        }
    }
    Ok(())
}

/// What a product keeps in its modifiers, beside A's and B's element in bits 0–3 and 4–7.
const HALF_RESULT: u32 = 1 << 8;
const HALF_ADDEND: u32 = 1 << 9;
const SATURATE: u32 = 1 << 10;
const XOR: u32 = 1 << 11;

fn multiply(b: &mut Builder<'_, '_>, a_kind: &str, b_kind: &str) -> Result<Execute, Problem> {
    let [m, n, k] = shape(b);
    let (Some(a_element), Some(b_element)) = (Element::named(a_kind), Element::named(b_kind)) else {
        return b.problem("unknown element type");
    };
    let integers = a_element.is_integer();
    if integers && a_kind != b_kind {
        return b.problem("A and B have to have the same type");
    }
    // f16 names no types of A and B: its last two are those of D and C.
    let named: Vec<&str> = b.modifiers.iter().copied().filter(|name| !matches!(*name, "" | "satfinite")).collect();
    let addend = named.last().copied().unwrap_or_default();
    let result = named[named.len() - if a_kind == "f16" { 2 } else { 4 }];
    let kind = |name: &str| match name {
        "f32" => Kind::F32,
        _ => Kind::Integer,
    };
    b.registers(registers(m * n, result, false), 4, kind(result), true)?;
    b.registers(registers(m * k, a_kind, true), 4, Kind::Integer, false)?;
    b.registers(registers(k * n, b_kind, true), 4, Kind::Integer, false)?;
    b.registers(registers(m * n, addend, false), 4, kind(addend), false)?;
    b.made.immediate = (m | n << 16 | k << 32) as i64;
    b.made.modifiers = a_element as u32 | (b_element as u32) << 4;
    for (set, bit) in [
        (result == "f16", HALF_RESULT),
        (addend == "f16", HALF_ADDEND),
        (b.has("satfinite"), SATURATE),
        (b.has("xor"), XOR),
    ] {
        if set {
            b.made.modifiers |= bit;
        }
    }
    Ok(execute)
}

/// Reads the elements of a fragment, row by row.
fn gather(context: &Context<'_>, slots: &[Slot], kind: Element, into: &mut [f32]) {
    let (each, elements) = (32 / kind.bits(), into.len());
    let mut values = [0f32; 32];
    for (register, slot) in slots.iter().enumerate() {
        for (lane, word) in context.row(*slot).0.iter().enumerate() {
            kind.unpack(*word, &mut values[..each]);
            for (at, value) in values[..each].iter().enumerate() {
                into[element(register, lane, at, each, slots.len(), elements)] = *value;
            }
        }
    }
}

fn execute(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    if !context.assembled(u32::MAX) {
        return Step::Converge;
    }
    let (modifiers, packed) = (instruction.modifiers, instruction.immediate as usize);
    let (m, n, k) = (packed & 0xffff, packed >> 16 & 0xffff, packed >> 32);
    let (a_element, b_element) = (Element::from_code(modifiers & 15), Element::from_code(modifiers >> 4 & 15));
    let (half_result, half_addend) = (modifiers & HALF_RESULT != 0, modifiers & HALF_ADDEND != 0);
    let sums = |half: bool| m * n / LANES / if half { 2 } else { 1 };
    let of = |element: Element, elements: usize| match element {
        Element::F16 => 8,
        _ => elements * element.bits() / 32 / LANES,
    };
    let (d_slots, rest) = context.list(instruction).split_at(sums(half_result));
    let (a_slots, rest) = rest.split_at(of(a_element, m * k));
    let (b_slots, c_slots) = rest.split_at(of(b_element, k * n));
    let (mut a, mut b, mut d) = ([0f32; MOST], [0f32; MOST], [0f64; 256]);
    let (a, b, d) = (&mut a[..m * k], &mut b[..k * n], &mut d[..m * n]);
    gather(context, a_slots, a_element, a);
    gather(context, b_slots, b_element, b);
    let integers = a_element.is_integer();
    for (register, slot) in c_slots.iter().enumerate() {
        for (lane, word) in context.row(*slot).0.iter().enumerate() {
            if half_addend {
                for at in 0..2 {
                    let bits = (*word >> (16 * at)) as u16;
                    d[element(register, lane, at, 2, c_slots.len(), m * n)] = half::f16::from_bits(bits).to_f64();
                }
            } else {
                let value = if integers { f64::from(*word as i32) } else { f64::from(f32::from_bits(*word)) };
                d[element(register, lane, 0, 1, c_slots.len(), m * n)] = value;
            }
        }
    }
    if modifiers & XOR != 0 {
        for (at, d) in d.iter_mut().enumerate() {
            let (row, column) = (at / n, at % n);
            let differ = (0..k).filter(|k_at| a[row * k + k_at] != b[k_at * n + column]).count();
            *d += differ as f64;
        }
    } else if integers {
        product::multiply(a, b, d, n, k);
    } else {
        let rule = mma::rule(context, a_element, b_element, k, half_result);
        accumulation::multiply(rule, a, b, d, n, k);
    }
    for (register, slot) in d_slots.iter().enumerate() {
        let words: [u32; LANES] = std::array::from_fn(|lane| {
            let each = if half_result { 2 } else { 1 };
            let value = |at| d[element(register, lane, at, each, d_slots.len(), m * n)];
            match (half_result, integers) {
                (true, _) => {
                    u32::from(format::double_to_f16(value(0))) | u32::from(format::double_to_f16(value(1))) << 16
                }
                (_, true) => integer(value(0) as i64, modifiers & SATURATE != 0),
                _ => single(value(0)),
            }
        });
        context.write(*slot, &words);
    }
    Step::Next
}

fn multiply_doubles(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    for (count, destination) in [(2, true), (1, false), (1, false), (2, false)] {
        b.registers(count, 8, Kind::F64, destination)?;
    }
    b.made.immediate = i64::from(Rounding::named(b.modifier(6)).code());
    Ok(|context, instruction| {
        if !context.assembled(u32::MAX) {
            return Step::Converge;
        }
        let rounding = Rounding::from_code(instruction.immediate as u32);
        let [d, e, a, b, c @ ..] = context.list(instruction) else { return Step::Next };
        let (a, b): ([f64; LANES], [f64; LANES]) = (context.read(*a), context.read(*b));
        for (register, (slot, addend)) in [d, e].into_iter().zip(c).enumerate() {
            let mut values: [f64; LANES] = context.read(*addend);
            for (lane, value) in values.iter_mut().enumerate() {
                let at = element(register, lane, 0, 1, 2, 64);
                let (row, column) = (at / 8, at % 8);
                *value = (0..4).fold(*value, |sum, k| a[row * 4 + k].fused(b[k * 8 + column], sum, rounding));
            }
            context.write(*slot, &values);
        }
        Step::Next
    })
}
