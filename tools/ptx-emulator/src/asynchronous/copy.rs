//! `cp.async`: copies of threads, by groups.

use crate::checker::{Actor, Checker};
use crate::decode::builder::Builder;
use crate::decode::form::Form;
use crate::diagnostic::Problem;
use crate::instructions::logic::predicate_value;
use crate::machine::context::{Context, lanes};
use crate::machine::fault::FaultKind;
use crate::machine::instruction::{Execute, Instruction, Step};
use crate::machine::row::LANES;
use crate::memory::access::Space;
use crate::parse::ast::Operand;

/// The forms.
pub const FORMS: &[Form] = &[
    Form {
        pattern: "cp.async.ca|cg.shared|shared::cta.global[.L2::cache_hint][.L2::64B|L2::128B|L2::256B]",
        section: "9.7.9.25.3.1 cp.async",
        build: copy,
    },
    Form {
        pattern: "cp.async.commit_group",
        section: "9.7.9.25.3.2 cp.async.commit_group",
        build: |_| Ok(|context, _| tell(context, Checker::copies_committed)),
    },
    Form {
        pattern: "cp.async.wait_group",
        section: "9.7.9.25.3.3 cp.async.wait_group",
        build: |b| {
            groups(b)?;
            Ok(|context, instruction| {
                let left = Some(instruction.immediate as u32);
                tell(context, |checker, actor, mask| checker.copies_awaited(actor, mask, left))
            })
        },
    },
    Form {
        pattern: "cp.async.wait_all",
        section: "9.7.9.25.3.3 cp.async.wait_all",
        build: |_| Ok(|context, _| tell(context, |checker, actor, mask| checker.copies_awaited(actor, mask, None))),
    },
];

/// What has to be waited for is done: only the checker has to know of it.
pub fn tell(context: &mut Context<'_>, tell: impl FnOnce(&mut Checker, Actor, u32)) -> Step {
    let mask = context.mask;
    context.check(|checker, actor| tell(checker, actor, mask));
    Step::Next
}

/// Reads how many groups need not be over.
pub fn groups(b: &mut Builder<'_, '_>) -> Result<(), Problem> {
    b.made.immediate = b.integer()?;
    if (0..=i64::from(u32::MAX)).contains(&b.made.immediate) {
        Ok(())
    } else {
        b.problem("the number of groups is not from 0 to 2^32 - 1")
    }
}

/// Bit of the modifiers: the operand is how many bytes come from the source; the rest is zero.
const PARTIAL: u32 = 1;
/// It is a predicate that says to read nothing.
const IGNORED: u32 = 2;

fn copy(b: &mut Builder<'_, '_>) -> Result<Execute, Problem> {
    b.listed_address()?;
    b.listed_address()?;
    let bytes = b.integer()?;
    if !matches!(bytes, 4 | 8 | 16) || b.has("cg") && bytes != 16 {
        return b.problem("`cp.async` copies 4, 8 or 16 bytes; `.cg` only 16");
    }
    let hint = usize::from(b.has("L2::cache_hint"));
    if b.left() > hint {
        match b.rest() {
            [Operand::Name(name), ..] if b.is_predicate(name) => {
                b.made.modifiers |= IGNORED;
                b.predicate_source()?;
            }
            [Operand::Not(_), ..] => {
                b.made.modifiers |= IGNORED;
                b.predicate_source()?;
            }
            _ => {
                b.made.modifiers |= PARTIAL;
                b.source::<u32>()?;
            }
        }
    }
    b.cache_policy()?;
    b.made.immediate = bytes;
    Ok(execute_copy)
}

fn execute_copy(context: &mut Context<'_>, instruction: &Instruction) -> Step {
    let modifiers = instruction.modifiers;
    let (bytes, list) = (instruction.immediate as usize, context.list(instruction));
    let [destinations, sources] = [0, 3].map(|at| context.listed_addresses(&list[at..]));
    let mut sizes = [bytes as u32; LANES];
    if modifiers & PARTIAL != 0 {
        sizes = context.read(instruction.operands[0]);
    } else if modifiers & IGNORED != 0 {
        let ignored = predicate_value(context, instruction.operands[0]);
        for lane in lanes(ignored) {
            sizes[lane] = 0;
        }
    }
    for lane in lanes(context.mask) {
        let mut buffer = [0; 16];
        let size = sizes[lane] as usize;
        if size > bytes {
            let message = format!("the source size {size} is larger than the copy's {bytes} bytes");
            return context.fail(FaultKind::IllegalInstruction, lane, message);
        }
        for address in [destinations[lane], sources[lane]] {
            if address % bytes as u64 != 0 {
                let message =
                    format!("misaligned copy of {bytes} bytes at 0x{address:x}: it has to be a multiple of {bytes}");
                return context.fail(FaultKind::MisalignedAddress, lane, message);
            }
        }
        context.issue(lane, |checker, actor| Some(checker.copy(actor, lane)));
        if size > 0 {
            context.check_global(Space::Global, lane, sources[lane], size);
            if let Err(refused) = context.copy_out(Space::Global, sources[lane], &mut buffer[..size]) {
                return context.refuse(lane, refused, "copy");
            }
        }
        if let Err(refused) = context.copy_in(Space::Shared, destinations[lane], &buffer[..bytes]) {
            return context.refuse(lane, refused, "copy");
        }
    }
    Step::Next
}
