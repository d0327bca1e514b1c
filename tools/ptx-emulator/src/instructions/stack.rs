//! The stack: local memory that a thread allocates while it runs.
//!
//! It is at the start of local memory, where frames of calls are too. What a function allocates is given back when it returns.

use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::machine::context::{Context, lanes};
use crate::machine::fault::FaultKind;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::kernel::STACK;
use crate::machine::row::{LANES, Slot};
use crate::parse::ast::Operand;

/// The forms.
pub const FORMS: &[Form] = &[
    Form { pattern: "stacksave.u32|u64", section: "9.7.17.1 stacksave", build: save },
    Form { pattern: "stackrestore.u32|u64", section: "9.7.17.2 stackrestore", build: restore },
    Form { pattern: "alloca.u32|u64", section: "9.7.17.3 alloca", build: allocate },
];

/// Frames and what is allocated take multiples of this, so that all of them are aligned to it.
const UNIT: u64 = 16;
/// The largest alignment that may be asked for.
const LARGEST_ALIGNMENT: i64 = 1 << 23;

fn save(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    destination(b)?;
    b.put(Slot::register(b.draft.stack_pointer));
    Ok(|context, instruction| {
        let used: [u32; LANES] = context.read(instruction.operands[1]);
        write(context, instruction, used.map(u64::from));
        Step::Next
    })
}

fn restore(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    if b.last() == "u64" {
        b.source::<u64>()?;
    } else {
        b.source::<u32>()?;
    }
    b.made.modifiers = u32::from(b.last() == "u64");
    Ok(|context, instruction| {
        let saved = sizes(context, instruction, 0);
        for lane in lanes(context.mask) {
            let used = &mut context.warp.registers[context.kernel.stack_pointer as usize].0[lane];
            if saved[lane] > u64::from(*used) || !saved[lane].is_multiple_of(UNIT) {
                let message = format!(
                    "stackrestore of 0x{:x}: it is not what stacksave gave, or was given back before; 0x{used:x} bytes are in use",
                    saved[lane]
                );
                return context.fail(FaultKind::IllegalAddress, lane, message);
            }
            *used = saved[lane] as u32;
        }
        Step::Next
    })
}

fn allocate(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    destination(b)?;
    if b.last() == "u64" {
        b.source::<u64>()?;
    } else {
        b.source::<u32>()?;
    }
    b.made.immediate = match b.rest() {
        [Operand::Integer(_)] => b.integer()?,
        _ => UNIT as i64,
    };
    if !(1..=LARGEST_ALIGNMENT).contains(&b.made.immediate) || !b.made.immediate.cast_unsigned().is_power_of_two() {
        return b.problem(format!("the alignment is a power of two up to {LARGEST_ALIGNMENT}"));
    }
    Ok(|context, instruction| {
        let bytes = sizes(context, instruction, 1);
        let alignment = instruction.immediate.cast_unsigned().max(UNIT);
        let mut addresses = [0; LANES];
        for lane in lanes(context.mask) {
            let used = &mut context.warp.registers[context.kernel.stack_pointer as usize].0[lane];
            let start = u64::from(*used).next_multiple_of(alignment);
            let end = bytes[lane].checked_next_multiple_of(UNIT).and_then(|bytes| start.checked_add(bytes));
            let Some(end) = end.filter(|end| *end <= u64::from(STACK)) else {
                let message = format!(
                    "the stack is full: {STACK} bytes hold what a thread allocates and frames of calls; {used} are in use, {} are asked for",
                    bytes[lane]
                );
                return context.fail(FaultKind::IllegalAddress, lane, message);
            };
            *used = end as u32;
            addresses[lane] = start;
            context.check_allocated(lane, start as u32, (end - start) as u32);
        }
        write(context, instruction, addresses);
        Step::Next
    })
}

/// Reads the destination, of the width that the type says.
fn destination(b: &mut Builder<'_, '_>) -> Result<(), Problem> {
    b.made.modifiers = u32::from(b.last() == "u64");
    if b.last() == "u64" { b.destination::<u64>() } else { b.destination::<u32>() }
}

/// What an operand holds, of the width that the type says.
fn sizes(context: &Context<'_>, instruction: &Instruction, operand: usize) -> [u64; LANES] {
    let slot = instruction.operands[operand];
    if instruction.modifiers != 0 { context.read(slot) } else { context.read::<u32>(slot).map(u64::from) }
}

/// Sets the destination.
fn write(context: &mut Context<'_>, instruction: &Instruction, values: [u64; LANES]) {
    if instruction.modifiers != 0 {
        context.write(instruction.operands[0], &values);
    } else {
        context.write(instruction.operands[0], &values.map(|value| value as u32));
    }
}
