//! `ldmatrix`, `stmatrix` and `movmatrix`: small matrices between shared memory and fragments.

use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::Context;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::{Kind, LANES};
use crate::memory::Word;
use crate::memory::access::{Space, specific};

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "ldmatrix.sync.aligned.m8n8.x1|x2|x4[.trans][.shared|shared::cta].b16",
        section: "9.7.14.5.15 ldmatrix",
        build: |b| load(b, 3),
    },
    Form {
        pattern: "ldmatrix.sync.aligned.x1|x2|x4[.trans].m8n8[.shared|shared::cta].b16",
        section: "9.7.14.5.15 ldmatrix",
        build: |b| load(b, 2),
    },
    Form {
        pattern: "ldmatrix.sync.aligned.m16n16.x1|x2.trans[.shared|shared::cta].b8",
        section: "9.7.14.5.15 ldmatrix",
        build: load_bytes,
    },
    Form {
        pattern: "ldmatrix.sync.aligned.m16n16.x1|x2.trans[.shared|shared::cta].b8x16.b6x16_p32|b4x16_p64",
        section: "9.7.14.5.15 ldmatrix",
        build: load_bytes,
    },
    Form {
        pattern: "ldmatrix.sync.aligned.m8n16.x1|x2|x4[.shared|shared::cta].b8x16.b6x16_p32|b4x16_p64",
        section: "9.7.14.5.15 ldmatrix",
        build: load_bytes,
    },
    Form {
        pattern: "stmatrix.sync.aligned.m8n8.x1|x2|x4[.trans][.shared|shared::cta].b16",
        section: "9.7.14.5.16 stmatrix",
        build: |b| store(b, 3),
    },
    Form {
        pattern: "stmatrix.sync.aligned.x1|x2|x4[.trans].m8n8[.shared|shared::cta].b16",
        section: "9.7.14.5.16 stmatrix",
        build: |b| store(b, 2),
    },
    Form {
        pattern: "stmatrix.sync.aligned.m16n8.x1|x2|x4.trans[.shared|shared::cta].b8",
        section: "9.7.14.5.16 stmatrix",
        build: store_bytes,
    },
    Form {
        pattern: "movmatrix.sync.aligned.m8n8.trans.b16",
        section: "9.7.14.5.17 movmatrix",
        build: |b| {
            b.destination::<u32>()?;
            b.source::<u32>()?;
            Ok(|context, instruction| {
                if !context.assembled(u32::MAX) {
                    return Step::Converge;
                }
                let from: [u32; LANES] = context.read(instruction.operands[1]);
                let element = |row: usize, column: usize| from[4 * row + column / 2] >> (16 * (column & 1)) & 0xffff;
                let mut to = [0; LANES];
                for (lane, to) in to.iter_mut().enumerate() {
                    let (row, column) = (lane / 4, 2 * (lane % 4));
                    *to = element(column, row) | element(column + 1, row) << 16;
                }
                context.write(instruction.operands[0], &to);
                Step::Next
            })
        },
    },
];

/// The matrix is transposed on its way.
const TRANSPOSED: u32 = 1;
/// The address is a generic one.
const GENERIC: u32 = 2;

/// Where the number of a [`Packing`] starts in an instruction's modifiers.
const PACKING_AT: u32 = 2;

/// How 16 numbers lie in the 16 bytes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// A byte each.
    Bytes,
    /// `.b6x16_p32`: six bits each, without gaps, and 32 bits of padding.
    Six,
    /// `.b4x16_p64`: four bits each, and 64 bits of padding.
    Four,
}

impl Packing {
    /// By the modifier that says it; one that says another thing is for bytes.
    pub fn named(name: &str) -> Packing {
        match name {
            "b6x16_p32" => Packing::Six,
            "b4x16_p64" => Packing::Four,
            _ => Packing::Bytes,
        }
    }

    /// From a number that an instruction keeps.
    pub fn from_code(code: u32) -> Packing {
        [Packing::Bytes, Packing::Six, Packing::Four, Packing::Four][code as usize & 3]
    }

    /// The numbers where tensor cores look for them in a byte: fp4 in the four bits in the middle, fp6 in the low ones.
    pub fn in_containers(self, bytes: [u8; 16]) -> [u8; 16] {
        let shift = if self == Packing::Four { 2 } else { 0 };
        self.unpacked(bytes).map(|number| number << shift)
    }

    /// The numbers in the low bits of a byte each.
    fn unpacked(self, bytes: [u8; 16]) -> [u8; 16] {
        let bits = match self {
            Packing::Bytes => return bytes,
            Packing::Six => 6,
            Packing::Four => 4,
        };
        let all = u128::from_le_bytes(bytes);
        std::array::from_fn(|at| (all >> (bits * at)) as u8 & ((1 << bits) - 1))
    }
}

fn count(name: &str) -> usize {
    name.strip_prefix('x').and_then(|count| count.parse().ok()).unwrap_or(1)
}

fn flags(b: &mut Builder<'_, '_>) {
    if b.has("trans") {
        b.made.modifiers |= TRANSPOSED;
    }
    if !b.has("shared") && !b.has("shared::cta") {
        b.made.modifiers |= GENERIC;
    }
}

fn load(b: &mut Builder<'_, '_>, count_at: usize) -> Result<Execute, Problem> {
    b.registers(count(b.modifier(count_at)), 4, Kind::Integer, true)?;
    b.address()?;
    flags(b);
    Ok(execute_load)
}

fn load_bytes(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let square = b.has("m16n16");
    b.registers(count(b.modifier(3)) * if square { 2 } else { 1 }, 4, Kind::Integer, true)?;
    b.address()?;
    flags(b);
    let packing = Packing::named(b.last());
    b.made.modifiers |= (packing as u32) << PACKING_AT;
    Ok(if square { execute_load_square } else { execute_load_bytes })
}

fn store(b: &mut Builder<'_, '_>, count_at: usize) -> Result<Execute, Problem> {
    b.address()?;
    b.registers(count(b.modifier(count_at)), 4, Kind::Integer, false)?;
    flags(b);
    Ok(execute_store)
}

fn store_bytes(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.address()?;
    b.registers(count(b.modifier(3)), 4, Kind::Integer, false)?;
    flags(b);
    Ok(execute_store_bytes)
}

/// Reads or writes the row that a lane's address names.
fn row_place(
    context: &mut Context<'_>,
    instruction: &Instruction,
    lane: usize,
    address: u64,
) -> Result<(Space, u64), Step> {
    let (space, address) =
        if instruction.modifiers & GENERIC != 0 { specific(address) } else { (Space::Shared, address) };
    if address & 15 != 0 {
        let message = format!("misaligned row of a matrix at 0x{address:x}: it has to be a multiple of 16");
        return Err(context.fail(crate::machine::fault::FaultKind::MisalignedAddress, lane, message));
    }
    context.issue(lane, |_, _| None);
    Ok((space, address))
}

fn execute_load(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    if !context.assembled(u32::MAX) {
        return Step::Converge;
    }
    let addresses = context.addresses(instruction, 0);
    for (matrix, slot) in context.list(instruction).iter().enumerate() {
        let mut rows = [[0u16; 8]; 8];
        for (number, row) in rows.iter_mut().enumerate() {
            let lane = 8 * matrix + number;
            let (space, address) = match row_place(context, instruction, lane, addresses[lane]) {
                Ok(place) => place,
                Err(step) => return step,
            };
            let mut bytes = [0; 16];
            if let Err(refused) = context.copy_out(space, address, &mut bytes) {
                return context.refuse(lane, refused, "read");
            }
            *row = std::array::from_fn(|column| u16::from_bytes(&bytes[2 * column..]));
        }
        let mut values = [0u32; LANES];
        for (lane, value) in values.iter_mut().enumerate() {
            let (row, column) = (lane / 4, 2 * (lane % 4));
            let (low, high) = if instruction.modifiers & TRANSPOSED != 0 {
                (rows[column][row], rows[column + 1][row])
            } else {
                (rows[row][column], rows[row][column + 1])
            };
            *value = u32::from(low) | u32::from(high) << 16;
        }
        context.write(*slot, &values);
    }
    Step::Next
}

fn execute_store(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    if !context.assembled(u32::MAX) {
        return Step::Converge;
    }
    let addresses = context.addresses(instruction, 0);
    for (matrix, slot) in context.list(instruction).iter().enumerate() {
        let values: [u32; LANES] = context.read(*slot);
        let element = |row: usize, column: usize| (values[4 * row + column / 2] >> (16 * (column & 1))) as u16;
        for number in 0..8 {
            let lane = 8 * matrix + number;
            let (space, address) = match row_place(context, instruction, lane, addresses[lane]) {
                Ok(place) => place,
                Err(step) => return step,
            };
            let mut bytes = [0; 16];
            for column in 0..8 {
                let value = if instruction.modifiers & TRANSPOSED != 0 {
                    element(column, number)
                } else {
                    element(number, column)
                };
                value.to_bytes(&mut bytes[2 * column..]);
            }
            if let Err(refused) = context.copy_in(space, address, &bytes) {
                return context.refuse(lane, refused, "write");
            }
        }
    }
    Step::Next
}

/// Reads a row of 16 numbers, a byte each, which the address of a lane names.
fn row_of_bytes(
    context: &mut Context<'_>,
    instruction: &Instruction,
    lane: usize,
    address: u64,
) -> Result<[u8; 16], Step> {
    let (space, address) = row_place(context, instruction, lane, address)?;
    let mut bytes = [0; 16];
    context.copy_out(space, address, &mut bytes).map_err(|refused| context.refuse(lane, refused, "read"))?;
    Ok(Packing::from_code(instruction.modifiers >> PACKING_AT).unpacked(bytes))
}

/// `.m8n16`: a lane gets four numbers that follow each other, of row `lane / 4`.
fn execute_load_bytes(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    if !context.assembled(u32::MAX) {
        return Step::Converge;
    }
    let addresses = context.addresses(instruction, 0);
    for (matrix, slot) in context.list(instruction).iter().enumerate() {
        let mut values = [0u32; LANES];
        for number in 0..8 {
            let lane = 8 * matrix + number;
            let row = match row_of_bytes(context, instruction, lane, addresses[lane]) {
                Ok(row) => row,
                Err(step) => return step,
            };
            for (value, bytes) in values[4 * number..4 * number + 4].iter_mut().zip(row.chunks_exact(4)) {
                *value = u32::from_bytes(bytes);
            }
        }
        context.write(*slot, &values);
    }
    Step::Next
}

/// `.m16n16.trans`: sixteen addresses, each of a column of 16 numbers. A lane gets those of columns `4 (lane % 4)…`, in row `lane / 4`
/// in the first of its two registers, and in the row eight below in the second.
fn execute_load_square(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    if !context.assembled(u32::MAX) {
        return Step::Converge;
    }
    let addresses = context.addresses(instruction, 0);
    for (matrix, slots) in context.list(instruction).chunks_exact(2).enumerate() {
        let mut columns = [[0u8; 16]; 16];
        for (number, column) in columns.iter_mut().enumerate() {
            let lane = 16 * matrix + number;
            *column = match row_of_bytes(context, instruction, lane, addresses[lane]) {
                Ok(column) => column,
                Err(step) => return step,
            };
        }
        for (half, slot) in slots.iter().enumerate() {
            let values: [u32; LANES] = std::array::from_fn(|lane| {
                u32::from_le_bytes(std::array::from_fn(|at| columns[4 * (lane % 4) + at][lane / 4 + 8 * half]))
            });
            context.write(*slot, &values);
        }
    }
    Step::Next
}

/// `.m16n8.trans.b8`: eight addresses, each of a column of 16 bytes. A lane holds what the accumulator of an `mma` of this shape
/// holds: in its two low bytes row `lane / 4` of columns `2 (lane % 4)` and the next, above them the row eight below.
fn execute_store_bytes(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    if !context.assembled(u32::MAX) {
        return Step::Converge;
    }
    let addresses = context.addresses(instruction, 0);
    for (matrix, slot) in context.list(instruction).iter().enumerate() {
        let values: [u32; LANES] = context.read(*slot);
        for number in 0..8 {
            let lane = 8 * matrix + number;
            let (space, address) = match row_place(context, instruction, lane, addresses[lane]) {
                Ok(place) => place,
                Err(step) => return step,
            };
            let bytes: [u8; 16] = std::array::from_fn(|row| {
                let from = values[4 * (row % 8) + number / 2];
                from.to_le_bytes()[number % 2 + 2 * (row / 8)]
            });
            if let Err(refused) = context.copy_in(space, address, &bytes) {
                return context.refuse(lane, refused, "write");
            }
        }
    }
    Step::Next
}
