//! Calls of functions, by name and through registers, and returns.
//!
//! A function has registers and local memory of its own, at places that are known when it is decoded. One that may be called again
//! before a call of it is over, or that allocates memory, also has a frame for each call: its variables are on a stack, its registers
//! are saved when it is called, and restored when it returns, which gives back what it allocated.

use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::decode::function::synthetic;
use crate::decode::scope::{Binding, Place};
use crate::diagnostic::Problem;
use crate::machine::context::{Context, lanes};
use crate::machine::fault::FaultKind;
use crate::machine::instruction::{Execute, Flow, Guard, Instruction, Step};
use crate::machine::kernel::{Callable, Frame, Register, STACK};
use crate::machine::row::{LANES, Lane, Row, Slot};
use crate::memory::window;
use crate::parse::ast::Operand;

/// The forms.
pub const FORMS: &[Form] = &[
    Form { pattern: "call[.uni]", section: "9.7.12.5 call", build: call },
    Form { pattern: "ret[.uni]", section: "9.7.12.6 ret", build: ret },
];

/// That the function is in the first operand, an address.
const THROUGH_REGISTER: i64 = -1;

fn call(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.traits.flow = Flow::Call;
    let (mut results, mut arguments) = (&[][..], &[][..]);
    if let [Operand::Group(group), ..] = b.rest() {
        results = group;
        b.take()?;
    }
    let Some(Operand::Name(name)) = b.rest().first() else {
        return b.problem("`call` wants the name of a function, or a register that holds its address");
    };
    let function = match b.scopes.find(name) {
        Some(Binding::Function(number)) => {
            b.take()?;
            Some(number)
        }
        Some(Binding::Register { bytes: 8, .. }) => {
            b.source::<u64>()?;
            b.draft.calls_through_registers = true;
            None
        }
        _ => return b.problem(format!("`{name}` is neither a function nor a 64-bit register")),
    };
    if let [Operand::Group(group), ..] = b.rest() {
        arguments = group;
        b.take()?;
    }
    if function.is_none() {
        match b.binding()? {
            Binding::Prototype => {}
            _ => return b.problem("a call through a register wants a `.callprototype` or `.calltargets`"),
        }
    }
    if *name == "__assertfail" {
        return Ok(|context, _| {
            let lane = context.leader();
            context.fail(FaultKind::Assertion, lane, "a device-side assertion failed")
        });
    }
    if let Some(number) = function {
        let Callable { parameters, results: formal, .. } = b.callable(number);
        if (arguments.len(), results.len()) != (parameters.len(), formal.len()) {
            let (given, wanted) = (arguments.len() + results.len(), parameters.len() + formal.len());
            return b.problem(format!("the call has {given} operands where the function has {wanted}"));
        }
    }
    for operand in arguments.iter().chain(results) {
        let Operand::Name(name) = operand else { return b.problem("operands of a call are .param variables") };
        let Some(Binding::Variable { space: space @ (Place::Local | Place::Frame), address }) = b.scopes.find(name)
        else {
            return b.problem(format!("`{name}` is not a .param variable of this function"));
        };
        let slot = b.variable(space, address, false)?;
        b.put_in_list(slot);
    }
    let back = b.draft.new_label();
    for (execute, target) in [(enter as Execute, back), (leave, u32::MAX)] {
        let mut made = synthetic(execute, &b.made);
        made.operands[0] = b.made.operands[0];
        made.list_length = b.made.list_length;
        made.modifiers = arguments.len() as u32;
        made.immediate = function.map_or(THROUGH_REGISTER, |number| number as i64);
        made.target = target;
        b.draft.code.push(made);
        b.draft.labels[back as usize].get_or_insert(b.draft.code.len() as u32);
    }
    b.made.guard = Guard::ALWAYS;
    Ok(|_, _| Step::Next)
}

/// The function that a lane calls.
fn target<'k>(context: &mut Context<'k>, instruction: &Instruction, lane: usize) -> Result<&'k Callable, Step> {
    let kernel = context.kernel;
    if instruction.immediate != THROUGH_REGISTER {
        return match kernel.functions.get(&(instruction.immediate as usize)) {
            Some(callable) => Ok(callable),
            None => Err(context.fail(FaultKind::IllegalInstruction, lane, "a call of what is not a function")),
        };
    }
    let address = context.read::<u64>(instruction.operands[0])[lane];
    let offset = address.wrapping_sub(window::FUNCTION);
    match kernel.functions.get(&((offset / 16) as usize)).filter(|_| offset.is_multiple_of(16)) {
        Some(callable) => Ok(callable),
        None => {
            let message = format!("a call of 0x{address:x}, which is not the address of a function of this module");
            Err(context.fail(FaultKind::IllegalInstruction, lane, message))
        }
    }
}

/// Copies bytes of a lane's local memory.
fn copy(context: &mut Context<'_>, lane: usize, from: u32, to: u32, bytes: u32) {
    let start = lane * context.kernel.local_bytes as usize;
    for byte in 0..bytes as usize {
        let value: Option<u8> = context.warp.local.read(start + from as usize + byte);
        context.warp.local.write(start + to as usize + byte, value.unwrap_or_default());
    }
    context.check_passed(lane, to, bytes);
}

/// Calls: copies the arguments, and notes where to return to.
fn enter(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    let list = context.list(instruction);
    let (arguments, results) = list.split_at((instruction.modifiers as usize).min(list.len()));
    for lane in lanes(context.mask) {
        let callable = match target(context, instruction, lane) {
            Ok(callable) => callable,
            Err(step) => return step,
        };
        if (arguments.len(), results.len()) != (callable.parameters.len(), callable.results.len()) {
            let message = format!(
                "a call with {} arguments and {} results of a function that has {} and {}",
                arguments.len(),
                results.len(),
                callable.parameters.len(),
                callable.results.len()
            );
            return context.fail(FaultKind::IllegalInstruction, lane, message);
        }
        // The caller may be the same function: its variables have to be found before its registers are this call's.
        let mut base = 0;
        if let Some(frame) = &callable.frame {
            base = context.warp.registers[context.kernel.stack_pointer as usize].0[lane];
            if base + frame.bytes > STACK {
                let message =
                    format!("the stack is full: frames of a thread have {STACK} bytes; the recursion is too deep");
                return context.fail(FaultKind::IllegalAddress, lane, message);
            }
        }
        for (slot, (offset, bytes)) in arguments.iter().zip(&callable.parameters) {
            let from = context.row(*slot).0[lane];
            copy(context, lane, from, base + offset, *bytes);
        }
        if let Some(frame) = &callable.frame {
            push(context, lane, frame);
        }
        context.warp.registers[callable.link as usize].0[lane] = instruction.target;
        context.targets[lane] = callable.entry;
    }
    Step::Scatter
}

/// Copies the results of a call that is over.
fn leave(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    let list = context.list(instruction);
    let results = &list[(instruction.modifiers as usize).min(list.len())..];
    for lane in lanes(context.mask) {
        let callable = match target(context, instruction, lane) {
            Ok(callable) => callable,
            Err(step) => return step,
        };
        let stack = context.warp.registers[context.kernel.stack_pointer as usize].0[lane];
        let base = if callable.frame.is_some() { stack } else { 0 };
        for (slot, (offset, bytes)) in results.iter().zip(&callable.results) {
            let to = context.row(*slot).0[lane];
            copy(context, lane, base + offset, to, *bytes);
        }
    }
    Step::Next
}

fn ret(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.traits.flow = Flow::Leave;
    let Some(number) = b.function else { return Ok(|_, _| Step::Exit) };
    let callable = b.callable(number);
    b.put(Slot::register(callable.link));
    b.made.immediate = number as i64;
    if callable.frame.is_none() {
        return Ok(|context, instruction| {
            context.targets = context.read(instruction.operands[0]);
            Step::Scatter
        });
    }
    Ok(|context, instruction| {
        context.targets = context.read(instruction.operands[0]);
        let kernel = context.kernel;
        let callable = kernel.functions.get(&(instruction.immediate as usize));
        if let Some(frame) = callable.and_then(|callable| callable.frame.as_ref()) {
            for lane in lanes(context.mask) {
                pop(context, lane, frame);
            }
        }
        Step::Scatter
    })
}

fn one<T: Lane>(rows: &[Row], row: u32, lane: usize) -> T {
    T::read(rows, row as usize)[lane]
}

/// Saves the registers of the call before, and makes a frame.
fn push(context: &mut Context<'_>, lane: usize, frame: &Frame) {
    let warp = &mut *context.warp;
    let saved = &mut warp.saved[lane];
    for register in &frame.registers {
        match *register {
            Register::Predicate(number) => saved.push(u64::from(warp.predicates[number as usize] >> lane & 1)),
            Register::Rows { row, bytes: 8 } => saved.push(one(&warp.registers, row, lane)),
            Register::Rows { row, bytes: 16 } => {
                saved.extend([row, row + 2].map(|row| one::<u64>(&warp.registers, row, lane)));
            }
            Register::Rows { row, .. } => saved.push(u64::from(warp.registers[row as usize].0[lane])),
        }
    }
    let pointer = &mut warp.registers[context.kernel.stack_pointer as usize].0[lane];
    let base = *pointer;
    *pointer += frame.bytes;
    warp.registers[frame.base as usize].0[lane] = base;
}

/// Gives a frame back, and restores the registers of the call before.
fn pop(context: &mut Context<'_>, lane: usize, frame: &Frame) {
    let warp = &mut *context.warp;
    let base = warp.registers[frame.base as usize].0[lane];
    warp.registers[context.kernel.stack_pointer as usize].0[lane] = base;
    let saved = &mut warp.saved[lane];
    let mut next = || saved.pop().unwrap_or_default();
    for register in frame.registers.iter().rev() {
        match *register {
            Register::Predicate(number) => {
                let lanes = &mut warp.predicates[number as usize];
                *lanes = *lanes & !(1 << lane) | (next() as u32 & 1) << lane;
            }
            Register::Rows { row, bytes: 8 } => {
                u64::write(&mut warp.registers, row as usize, 1 << lane, &[next(); LANES])
            }
            Register::Rows { row, bytes: 16 } => {
                for row in [row + 2, row] {
                    u64::write(&mut warp.registers, row as usize, 1 << lane, &[next(); LANES]);
                }
            }
            Register::Rows { row, .. } => warp.registers[row as usize].0[lane] = next() as u32,
        }
    }
}
