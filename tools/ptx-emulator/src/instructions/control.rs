//! Branches, calls and exits.

use crate::decode::builder::{Builder, Callee};
use crate::decode::form::Form;
use crate::decode::function::synthetic;
use crate::decode::scope::{Binding, Place};
use crate::diagnostic::Problem;
use crate::machine::context::{Context, lanes};
use crate::machine::fault::FaultKind;
use crate::machine::instruction::{Execute, Guard, Instruction, Step};
use crate::machine::row::{LANES, Slot};
use crate::parse::ast::Operand;

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "bra[.uni]",
        section: "9.7.12.3 bra",
        build: |b| {
            b.label()?;
            Ok(|_, _| Step::Branch)
        },
    },
    Form { pattern: "brx.idx[.uni]", section: "9.7.12.4 brx.idx", build: brx },
    Form { pattern: "call[.uni]", section: "9.7.12.5 call", build: call },
    Form {
        pattern: "ret[.uni]",
        section: "9.7.12.6 ret",
        build: |b| match b.link {
            None => Ok(|_, _| Step::Exit),
            Some(link) => {
                b.put(Slot::register(link));
                Ok(|context, instruction| {
                    context.targets = context.read(instruction.operands[0]);
                    Step::Scatter
                })
            }
        },
    },
    Form { pattern: "exit", section: "9.7.12.7 exit", build: |_| Ok(|_, _| Step::Exit) },
    Form {
        pattern: "trap",
        section: "9.7.19.4 trap",
        build: |_| {
            Ok(|context, _| {
                let lane = context.leader();
                context.fail(FaultKind::Trap, lane, "`trap` was reached")
            })
        },
    },
    Form { pattern: "brkpt", section: "9.7.19.1 brkpt", build: |_| Ok(|_, _| Step::Next) },
    Form {
        pattern: "nanosleep.u32",
        section: "9.7.19.2 nanosleep",
        build: |b| {
            b.source::<u32>()?;
            Ok(|_, _| Step::Yield)
        },
    },
    Form {
        pattern: "pmevent[.mask]",
        section: "9.7.19.3 pmevent",
        build: |b| {
            b.integer()?;
            Ok(|_, _| Step::Next)
        },
    },
    Form {
        pattern: "setmaxnreg.inc|dec.sync.aligned.u32",
        section: "9.7.19.5 setmaxnreg",
        build: |b| {
            let count = b.integer()?;
            if !(24..=256).contains(&count) || count % 8 != 0 {
                return b.problem("the number of registers has to be a multiple of 8 from 24 to 256");
            }
            Ok(|context, _| if context.assembled(u32::MAX) { Step::Next } else { Step::Converge })
        },
    },
    Form {
        pattern: "griddepcontrol.launch_dependents|wait",
        section: "9.7.13.13 griddepcontrol",
        build: |_| Ok(|_, _| Step::Next),
    },
];

fn brx(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.source::<u32>()?;
    match b.binding()? {
        Binding::Table(table) => b.made.immediate = i64::from(table),
        _ => return b.problem("`brx.idx` wants the name of a `.branchtargets`"),
    }
    Ok(|context, instruction| {
        let table = &context.kernel.tables[instruction.immediate as usize];
        let index: [u32; LANES] = context.read(instruction.operands[0]);
        for lane in lanes(context.mask) {
            match table.get(index[lane] as usize) {
                Some(target) => context.targets[lane] = *target,
                None => {
                    let message = format!("`brx.idx` with {}, of {} targets", index[lane], table.len());
                    return context.fail(FaultKind::IllegalInstruction, lane, message);
                }
            }
        }
        Step::Scatter
    })
}

/// Copies bytes of local memory: arguments and results of a call.
fn copy_local(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    let (from, to) = (instruction.modifiers as usize, instruction.list as usize);
    let each = context.kernel.local_bytes as usize;
    for lane in lanes(context.mask) {
        for byte in 0..instruction.immediate as usize {
            let value: Option<u8> = context.warp.local.read(lane * each + from + byte);
            context.warp.local.write(lane * each + to + byte, value.unwrap_or_default());
        }
    }
    Step::Next
}

fn copies(b: &mut Builder<'_, '_>, names: &[Operand<'_>], formals: &[(u32, u32)], into: bool) -> Result<(), Problem> {
    if names.len() != formals.len() {
        return b.problem(format!("the call has {} operands where the function has {}", names.len(), formals.len()));
    }
    for (name, (offset, bytes)) in names.iter().zip(formals) {
        let Operand::Name(name) = name else { return b.problem("operands of a call are .param variables") };
        let Some(Binding::Variable { space: Place::Local, address }) = b.scopes.find(name) else {
            return b.problem(format!("`{name}` is not a .param variable of this function"));
        };
        let (from, to) = if into { (address as u32, *offset) } else { (*offset, address as u32) };
        let mut copy = synthetic(copy_local, &b.made);
        copy.modifiers = from;
        copy.list = to;
        copy.immediate = i64::from(*bytes);
        b.draft.code.push(copy);
    }
    Ok(())
}

fn call(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    let (mut results, mut arguments) = (&[][..], &[][..]);
    if let [Operand::Group(group), ..] = b.rest() {
        results = group;
        b.take()?;
    }
    let Some(Operand::Name(name)) = b.rest().first() else { return b.problem("`call` wants the name of a function") };
    let binding = b.binding()?;
    if let [Operand::Group(group), ..] = b.rest() {
        arguments = group;
        b.take()?;
    }
    let Binding::Function(number) = binding else {
        return b.problem(format!("`{name}` is not a function; calls through registers are not emulated"));
    };
    if *name == "__assertfail" {
        return Ok(|context, _| {
            let lane = context.leader();
            context.fail(FaultKind::Assertion, lane, "a device-side assertion failed")
        });
    }
    if b.link.is_some() && b.draft.called.get(&number).is_some_and(|callee| Some(callee.link) == b.link) {
        return b.problem(format!("`{name}` calls itself; recursion is not emulated"));
    }
    let callee = callee(b, number);
    copies(b, arguments, &callee.parameters, true)?;
    // The call sets where to return to, and goes.
    let back = b.draft.new_label();
    let mut link = synthetic(
        |context, instruction| {
            let back = instruction.target;
            context.write(instruction.operands[0], &[back; LANES]);
            Step::Next
        },
        &b.made,
    );
    link.operands[0] = Slot::register(callee.link);
    link.target = back;
    b.draft.code.push(link);
    let mut go = synthetic(|_, _| Step::Branch, &b.made);
    go.target = callee.label;
    b.draft.code.push(go);
    b.draft.labels[back as usize] = Some(b.draft.code.len() as u32);
    copies(b, results, &callee.results, false)?;
    b.made.guard = Guard::ALWAYS;
    Ok(|_, _| Step::Next)
}

fn callee(b: &mut Builder<'_, '_>, number: usize) -> Callee {
    if let Some(callee) = b.draft.called.get(&number) {
        return callee.clone();
    }
    let signature = b.signature(number);
    let mut place = |list: &[(u32, u32)]| -> Vec<(u32, u32)> {
        list.iter().map(|(bytes, alignment)| (b.draft.new_local(*bytes, *alignment), *bytes)).collect()
    };
    let (parameters, results) = (place(&signature.0), place(&signature.1));
    let callee = Callee { label: b.draft.new_label(), link: b.draft.new_rows(1), parameters, results };
    b.draft.called.insert(number, callee.clone());
    callee
}
