//! Branches and exits.

use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::decode::scope::Binding;
use crate::diagnostic::Problem;
use crate::machine::context::{Context, lanes};
use crate::machine::fault::FaultKind;
use crate::machine::instruction::{Awaited, Execute, Flow, Instruction, Step};
use crate::machine::row::LANES;

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "bra[.uni]",
        section: "9.7.12.3 bra",
        build: |b| {
            b.label()?;
            b.traits.flow = Flow::Target;
            b.traits.only_reads = true;
            Ok(|_, _| Step::Branch)
        },
    },
    Form { pattern: "brx.idx[.uni]", section: "9.7.12.4 brx.idx", build: brx },
    Form {
        pattern: "exit",
        section: "9.7.12.7 exit",
        build: |b| {
            b.traits.flow = Flow::Leave;
            Ok(|_, _| Step::Exit)
        },
    },
    Form {
        pattern: "trap",
        section: "9.7.19.4 trap",
        build: |b| {
            b.traits.flow = Flow::Leave;
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
            b.made.immediate = count;
            b.traits.awaited = Awaited::Registers;
            b.made.modifiers = u32::from(b.has("inc"));
            Ok(set_registers)
        },
    },
    Form {
        pattern: "griddepcontrol.launch_dependents|wait",
        section: "9.7.13.13 griddepcontrol",
        build: |_| Ok(|_, _| Step::Next),
    },
];

/// `setmaxnreg`: a warp gives registers back to its CTA, or waits until it can take them. Where the kernel does not say how many
/// its threads start with, nobody knows what there is.
fn set_registers(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    if !context.assembled(u32::MAX) {
        return Step::Converge;
    }
    let (before, now) = (context.warp.registers_each, instruction.immediate as u32);
    if before == 0 {
        return Step::Next;
    }
    let increases = instruction.modifiers != 0;
    if increases && now < before || !increases && now > before {
        context.check(|checker, actor| checker.registers_counted(actor, increases, before, now));
        return Step::Next;
    }
    let cta = context.here();
    let threads = LANES as u32;
    if increases {
        let wanted = (now - before) * threads;
        if wanted > cta.free_registers {
            return Step::Wait;
        }
        cta.free_registers -= wanted;
    } else {
        cta.free_registers += (before - now) * threads;
    }
    context.warp.registers_each = now;
    Step::Next
}

fn brx(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.traits.flow = Flow::Table;
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
