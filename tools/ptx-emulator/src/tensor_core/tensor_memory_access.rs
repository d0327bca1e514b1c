//! `tcgen05.ld`, `st`, `cp` and `shift`: tensor memory and registers, and shared memory.

use super::matrix::Packing;
use super::shared_matrix::{Descriptor, read_bytes};
use super::tcgen05::group;
use super::tensor_memory::{COLUMNS, ROWS};
use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::{Context, lanes};
use crate::machine::fault::FaultKind;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::observer::{Access, Direction};
use crate::machine::row::{Kind, LANES};
use crate::memory::access::Space;

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "tcgen05.ld.sync.aligned.32x32b|16x64b|16x128b|16x256b|16x32bx2.x1|x2|x4|x8|x16|x32|x64|x128[.pack::16b].b32",
        section: "9.7.16.8.3 tcgen05.ld",
        build: load,
    },
    Form {
        pattern: "tcgen05.ld.red.sync.aligned.32x32b|16x32bx2.x2|x4|x8|x16|x32|x64|x128.min|max[.abs][.NaN].f32",
        section: "9.7.16.8.3 tcgen05.ld",
        build: load_reduced,
    },
    Form {
        pattern: "tcgen05.ld.red.sync.aligned.32x32b|16x32bx2.x2|x4|x8|x16|x32|x64|x128.min|max.u32|s32",
        section: "9.7.16.8.3 tcgen05.ld",
        build: load_reduced,
    },
    Form {
        pattern: "tcgen05.st.sync.aligned.32x32b|16x64b|16x128b|16x256b|16x32bx2.x1|x2|x4|x8|x16|x32|x64|x128[.unpack::16b].b32",
        section: "9.7.16.8.4 tcgen05.st",
        build: store,
    },
    Form {
        pattern: "tcgen05.cp.cta_group::1|cta_group::2.128x256b|4x256b|128x128b|64x128b|32x128b[.warpx2::02_13|warpx2::01_23|warpx4][.b8x16][.b6x16_p32|b4x16_p64]",
        section: "9.7.16.9.2 tcgen05.cp",
        build: copy,
    },
    Form { pattern: "tcgen05.shift.cta_group::1|cta_group::2.down", section: "9.7.16.9.3 tcgen05.shift", build: shift },
];

/// How lanes and columns of tensor memory meet threads and registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// A thread has a lane.
    Lane,
    /// Threads of a half warp have a lane; the other half the same lanes, at other columns.
    HalfLane,
    /// Four threads have a lane: 16x64b, 16x128b, 16x256b.
    Quad(u32),
}

impl Shape {
    fn named(name: &str) -> Shape {
        match name {
            "32x32b" => Shape::Lane,
            "16x32bx2" => Shape::HalfLane,
            "16x64b" => Shape::Quad(64),
            "16x128b" => Shape::Quad(128),
            _ => Shape::Quad(256),
        }
    }

    fn code(self) -> u32 {
        match self {
            Shape::Lane => 0,
            Shape::HalfLane => 1,
            Shape::Quad(bits) => bits,
        }
    }

    fn from_code(code: u32) -> Shape {
        match code {
            0 => Shape::Lane,
            1 => Shape::HalfLane,
            bits => Shape::Quad(bits),
        }
    }

    /// Registers of a thread for each repetition.
    fn registers(self) -> usize {
        match self {
            Shape::Quad(128) => 2,
            Shape::Quad(256) => 4,
            _ => 1,
        }
    }

    /// The lane and column, from the address on, of a thread's register.
    #[inline(always)]
    fn place(self, thread: usize, register: usize) -> (usize, usize) {
        match self {
            Shape::Lane => (thread, register),
            Shape::HalfLane => (thread % 16, register),
            // Two columns for each repetition: rows 0–7 are those of even threads, 8–15 those of odd ones.
            Shape::Quad(64) => (thread / 4 + 8 * (thread % 2), 2 * register + thread / 2 % 2),
            Shape::Quad(128) => (thread / 4 + 8 * (register % 2), 4 * (register / 2) + thread % 4),
            Shape::Quad(_) => {
                (thread / 4 + 8 * (register / 2 % 2), 8 * (register / 4) + 2 * (thread % 4) + register % 2)
            }
        }
    }
}

const PACK: u32 = 1 << 16;

fn count(name: &str) -> usize {
    name.strip_prefix('x').and_then(|count| count.parse().ok()).unwrap_or(1)
}

/// The shape and the number of registers, of which the modifiers stand at a place and after it.
fn common(b: &mut Builder<'_, '_>, at: usize) -> (Shape, usize) {
    let shape = Shape::named(b.modifier(at));
    let packed = b.has("pack::16b") || b.has("unpack::16b");
    b.made.modifiers = shape.code() | if packed { PACK } else { 0 };
    (shape, count(b.modifier(at + 1)) * shape.registers())
}

/// The offset of the second half's columns, for `.16x32bx2`.
fn second(b: &mut Builder<'_, '_>, shape: Shape) -> Result<(), Problem> {
    if shape == Shape::HalfLane {
        b.made.immediate = b.integer()?;
        if !(0..COLUMNS as i64).contains(&b.made.immediate) {
            return b.problem("there are 512 columns");
        }
    }
    Ok(())
}

fn load(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let (shape, registers) = common(b, 3);
    b.registers(registers, 4, Kind::Integer, true)?;
    b.listed_address()?;
    second(b, shape)?;
    Ok(|context, instruction| {
        let list = context.list(instruction);
        let (registers, address) = list.split_at(list.len() - 3);
        transfer(
            context,
            instruction,
            address,
            registers.len(),
            |context, register, words| {
                context.write(registers[register], words);
            },
            None,
        )
    })
}

const LARGER: u32 = 1 << 17;
const MAGNITUDE: u32 = 1 << 18;
const NAN: u32 = 1 << 19;
const SIGNED: u32 = 1 << 20;
const FLOAT: u32 = 1 << 21;

/// The smaller or the larger of two registers.
fn reduced(x: u32, y: u32, modifiers: u32) -> u32 {
    let larger = modifiers & LARGER != 0;
    if modifiers & FLOAT != 0 {
        let (x, y) = (f32::from_bits(x), f32::from_bits(y));
        let result = if modifiers & NAN != 0 && (x.is_nan() || y.is_nan()) {
            f32::NAN
        } else if larger {
            x.max(y)
        } else {
            x.min(y)
        };
        return if result.is_nan() { 0x7fff_ffff } else { result.to_bits() };
    }
    match (modifiers & SIGNED != 0, larger) {
        (true, true) => (x as i32).max(y as i32) as u32,
        (true, false) => (x as i32).min(y as i32) as u32,
        (false, true) => x.max(y),
        (false, false) => x.min(y),
    }
}

/// `.red`: each thread also gets the least or the largest of what it loads.
fn load_reduced(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let (shape, registers) = common(b, 4);
    for (name, bit) in [("max", LARGER), ("abs", MAGNITUDE), ("NaN", NAN), ("s32", SIGNED), ("f32", FLOAT)] {
        if b.has(name) {
            b.made.modifiers |= bit;
        }
    }
    b.registers(registers, 4, Kind::Integer, true)?;
    b.destination::<u32>()?;
    b.listed_address()?;
    second(b, shape)?;
    Ok(|context, instruction| {
        let modifiers = instruction.modifiers;
        let list = context.list(instruction);
        let (registers, address) = list.split_at(list.len() - 3);
        let mut result = [0; LANES];
        let put = |context: &mut Context<'_>, register: usize, words: &[u32; LANES]| {
            context.write(registers[register], words);
            for (all, word) in result.iter_mut().zip(words) {
                let word = if modifiers & MAGNITUDE != 0 { word & 0x7fff_ffff } else { *word };
                *all = reduced(if register == 0 { word } else { *all }, word, modifiers);
            }
        };
        let step = transfer(context, instruction, address, registers.len(), put, None);
        if step == Step::Next {
            context.write(instruction.operands[0], &result);
        }
        step
    })
}

fn store(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let (shape, registers) = common(b, 3);
    b.listed_address()?;
    second(b, shape)?;
    b.registers(registers, 4, Kind::Integer, false)?;
    Ok(|context, instruction| {
        let list = context.list(instruction);
        let (address, registers) = list.split_at(3);
        transfer(context, instruction, address, registers.len(), |_, _, _| {}, Some(registers))
    })
}

/// Moves registers to (`from`) or from tensor memory.
fn transfer(
    context: &mut Context<'_>,
    instruction: &Instruction,
    address: &[crate::machine::row::Slot],
    registers: usize,
    mut put: impl FnMut(&mut Context<'_>, usize, &[u32; LANES]),
    from: Option<&[crate::machine::row::Slot]>,
) -> Step {
    if !context.assembled(u32::MAX) {
        return Step::Converge;
    }
    let lane = context.leader();
    let address = context.listed_address(address, lane) as usize;
    let (first_lane, first_column) = (address >> 16, address & 0xffff);
    let shape = Shape::from_code(instruction.modifiers & 0xffff);
    let packed = instruction.modifiers & PACK != 0;
    let warp = context.warp.number as usize;
    let lanes_used = if shape == Shape::Lane { 32 } else { 16 };
    if first_lane / 32 != warp % 4 || first_lane % 32 + lanes_used > 32 {
        let start = 32 * (warp % 4);
        let message = format!(
            "warp {warp} accesses lane {first_lane} of tensor memory; it can reach lanes {start} to {}",
            start + 31
        );
        return context.fail(FaultKind::IllegalAddress, lane, message);
    }
    let second = instruction.immediate as usize;
    // Packed, a register has the low halves of two neighbouring columns.
    let halves = if packed { 2 } else { 1 };
    let place = |thread: usize, register: usize, half: usize| {
        let (row, column) = shape.place(thread, register);
        let further = if shape == Shape::HalfLane && thread >= 16 { second } else { 0 };
        (row, column * halves + half + further)
    };
    let reached = (0..registers).flat_map(|register| [0, 31].map(|thread| place(thread, register, halves - 1).1));
    let columns = reached.max().unwrap_or(0) + 1;
    let cta = context.cta;
    if !context.cluster.ctas[cta].tensor.as_ref().is_some_and(|tensor| tensor.holds(first_column, columns)) {
        return unallocated(context, lane, first_column, columns);
    }
    let direction = if from.is_some() { Direction::Write } else { Direction::Read };
    show(context, direction, address, 4 * registers * LANES);
    if context.cluster.checker.is_some() {
        let stores = from.is_some();
        context.issue(lane, |checker, actor| Some(checker.tensor_move(actor, stores)));
        let width = if shape == Shape::HalfLane { columns - second.min(columns) } else { columns };
        let groups = if shape == Shape::Lane { 3 << (warp % 4 * 2) } else { 1 << (first_lane / 16 % 8) };
        let starts: &[usize] = if shape == Shape::HalfLane { &[0, second] } else { &[0] };
        for start in starts {
            context.check_columns(cta, first_column + start, width, groups, stores);
        }
    }
    for register in 0..registers {
        let mut words = match from {
            Some(slots) => context.row(slots[register]).0,
            None => [0; LANES],
        };
        if let Some(tensor) = &mut context.cluster.ctas[cta].tensor {
            for (thread, word) in words.iter_mut().enumerate() {
                for half in 0..halves {
                    let (row, column) = place(thread, register, half);
                    let (row, column) = (first_lane + row, first_column + column);
                    let shift = 16 * half;
                    match (from.is_some(), packed) {
                        (true, false) => tensor.lane_mut(row)[column] = *word,
                        (true, true) => tensor.lane_mut(row)[column] = *word >> shift & 0xffff,
                        (false, false) => *word = tensor.lane(row)[column],
                        (false, true) => *word |= (tensor.lane(row)[column] & 0xffff) << shift,
                    }
                }
            }
        }
        put(context, register, &words);
    }
    Step::Next
}

/// Shows an access of tensor memory, at an address of it, to who looks on.
pub fn show(context: &mut Context<'_>, direction: Direction, address: usize, bytes: usize) {
    context.show(|| Access::of_warp(direction, Space::Tensor, address as u64, bytes));
}

/// Stops a kernel that uses columns which are not allocated.
#[cold]
pub fn unallocated(context: &mut Context<'_>, lane: usize, first: usize, columns: usize) -> Step {
    let message = format!("columns {first} to {} of tensor memory are not all allocated", first + columns - 1);
    context.fail(FaultKind::IllegalAddress, lane, message)
}

fn copy(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.listed_address()?;
    b.source::<u64>()?;
    let shape =
        ["128x256b", "4x256b", "128x128b", "64x128b", "32x128b"].iter().position(|name| b.has(name)).unwrap_or(0);
    let spread =
        ["warpx4", "warpx2::02_13", "warpx2::01_23"].iter().position(|name| b.has(name)).map_or(0, |at| at + 1);
    match (shape, spread) {
        (0..=2, 0) | (3, 2 | 3) | (4, 1) => {}
        _ => return b.problem("this shape does not go with this multicast"),
    }
    let narrow = ["b6x16_p32", "b4x16_p64"].into_iter().find(|name| b.has(name));
    if b.has("b8x16") != narrow.is_some() {
        return b.problem("`.b8x16` stands with the format that is unpacked, `.b6x16_p32` or `.b4x16_p64`");
    }
    let packing = Packing::named(narrow.unwrap_or_default());
    b.made.modifiers = shape as u32
        | (spread as u32) << 4
        | if b.has("cta_group::2") { PAIR } else { 0 }
        | (packing as u32) << PACKING_AT;
    Ok(execute_copy)
}

/// Both CTAs of a pair copy.
const PAIR: u32 = 1 << 8;
/// Where the number of a [`Packing`] starts.
const PACKING_AT: u32 = 9;

fn execute_copy(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    let modifiers = instruction.modifiers;
    let (rows, words) = [(128, 8), (4, 8), (128, 4), (64, 4), (32, 4)][modifiers as usize & 7];
    // Where each copy of the matrix's rows starts: `(first row, rows, lanes)`.
    let copies: &[(usize, usize, usize)] = match modifiers >> 4 & 3 {
        1 => &[(0, 32, 0), (0, 32, 32), (0, 32, 64), (0, 32, 96)],
        2 => &[(0, 32, 0), (32, 32, 32), (0, 32, 64), (32, 32, 96)],
        3 => &[(0, 32, 0), (0, 32, 32), (32, 32, 64), (32, 32, 96)],
        _ if rows == 4 => &[(0, 1, 0), (1, 1, 32), (2, 1, 64), (3, 1, 96)],
        _ => &[(0, 128, 0)],
    };
    let packing = Packing::from_code(modifiers >> PACKING_AT);
    for lane in lanes(context.mask) {
        let address = context.listed_address(context.list(instruction), lane) as usize;
        let (first_lane, first) = (address >> 16, address & 0xffff);
        let bits = context.read::<u64>(instruction.operands[0])[lane];
        context.issue(lane, |checker, actor| Some(checker.tensor_product(actor)));
        let descriptor = match Descriptor::of_tensor_memory(bits) {
            Ok(descriptor) => descriptor,
            Err(message) => return context.fail(FaultKind::IllegalInstruction, lane, message),
        };
        for cta in group(context, modifiers & PAIR != 0) {
            if !context.cluster.ctas[cta].tensor.as_ref().is_some_and(|tensor| tensor.holds(first, words)) {
                return unallocated(context, lane, first, words);
            }
            context.check_columns(cta, first, words, 0xff, true);
            show(
                context,
                Direction::Write,
                address,
                4 * words * copies.iter().map(|(_, count, _)| count).sum::<usize>(),
            );
            for (first_row, count, start) in copies {
                for row in 0..*count {
                    let mut bytes = [0; 32];
                    if let Err(refused) =
                        read_bytes(context, cta, &descriptor, first_row + row, &mut bytes[..4 * words])
                    {
                        return context.refuse(lane, refused, "tcgen05.cp");
                    }
                    for numbers in bytes.as_chunks_mut().0 {
                        *numbers = packing.in_containers(*numbers);
                    }
                    if let Some(tensor) = &mut context.cluster.ctas[cta].tensor {
                        let into = &mut tensor.lane_mut((first_lane + start + row) % ROWS)[first..first + words];
                        for (word, bytes) in into.iter_mut().zip(bytes.chunks_exact(4)) {
                            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                        }
                    }
                }
            }
        }
    }
    Step::Next
}

/// Moves lanes down by one: each gets what the next one has, 32 bytes of it.
fn shift(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.listed_address()?;
    b.made.modifiers = u32::from(b.has("cta_group::2"));
    Ok(|context, instruction| {
        let lane = context.leader();
        let address = context.listed_address(context.list(instruction), lane) as usize;
        let (first_lane, first) = (address >> 16, address & 0xffff);
        if first_lane % 32 != 0 {
            let message = format!("`tcgen05.shift` starts at lane {first_lane}: it has to be a multiple of 32");
            return context.fail(FaultKind::IllegalAddress, lane, message);
        }
        for cta in group(context, instruction.modifiers != 0) {
            if !context.cluster.ctas[cta].tensor.as_ref().is_some_and(|tensor| tensor.holds(first, 8)) {
                return unallocated(context, lane, first, 8);
            }
            for direction in [Direction::Read, Direction::Write] {
                show(context, direction, address, 4 * 8 * 31);
            }
            if let Some(tensor) = &mut context.cluster.ctas[cta].tensor {
                // Of a warp's 32 lanes the last stays.
                for row in first_lane..(first_lane + 31).min(ROWS - 1) {
                    let next: Vec<u32> = tensor.lane(row + 1)[first..first + 8].to_vec();
                    tensor.lane_mut(row)[first..first + 8].copy_from_slice(&next);
                }
            }
        }
        Step::Next
    })
}
