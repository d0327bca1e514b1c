//! `ldmatrix`, `stmatrix` and `movmatrix`: 8×8 matrices between shared memory and fragments.

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

/// `.m16n8.trans.b8`: columns of 16 bytes; a lane holds rows `4 (lane % 4)…` of column `lane / 4`.
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
            let mut bytes = [0; 16];
            for part in 0..4 {
                values[4 * number + part].to_bytes(&mut bytes[4 * part..]);
            }
            if let Err(refused) = context.copy_in(space, address, &bytes) {
                return context.refuse(lane, refused, "write");
            }
        }
    }
    Step::Next
}
