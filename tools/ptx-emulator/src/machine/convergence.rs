//! Where threads that part meet again, as far as that can be told from the program alone.
//!
//! Threads that a branch parts meet at its immediate postdominator, the first instruction that is on every path from it: see Cooper,
//! Harvey and Kennedy, "A Simple, Fast Dominance Algorithm" (2001), on the reversed graph.

use super::instruction::{Flow, Guard, Instruction};
use super::kernel::Kernel;

/// What is known of a kernel's instructions.
#[derive(Debug)]
pub struct Convergence {
    /// For each instruction the one where threads meet that part there, or [`NOWHERE`].
    meetings: Vec<u32>,
}

/// Threads that part meet only when they exit.
const NOWHERE: u32 = u32::MAX;

impl Convergence {
    /// Of a kernel.
    pub fn of(kernel: &Kernel) -> Convergence {
        Convergence { meetings: postdominators(kernel) }
    }

    /// Where threads meet that part at an instruction, if they do before they exit.
    pub fn meeting(&self, at: u32) -> Option<u32> {
        self.meetings.get(at as usize).copied().filter(|meeting| *meeting != NOWHERE)
    }
}

/// Where control may go from an instruction; the number of instructions stands for the exit. Returns go to after any call.
fn successors(kernel: &Kernel, at: usize, returns: &[u32], into: &mut Vec<u32>) {
    let instruction = &kernel.code[at];
    let (next, exit) = (at as u32 + 1, kernel.code.len() as u32);
    let goes_on = instruction.guard != Guard::ALWAYS;
    into.clear();
    match kernel.traits_of(instruction).flow {
        Flow::Target => into.push(instruction.target),
        Flow::Table => into.extend(kernel.tables.get(instruction.immediate as usize).into_iter().flatten()),
        Flow::Leave => {
            into.push(exit);
            into.extend(returns);
        }
        Flow::Call if enters(instruction, at) => match kernel.functions.get(&(instruction.immediate as usize)) {
            Some(function) => into.push(function.entry),
            // Through a register: to any.
            None => into.extend(kernel.functions.values().map(|function| function.entry)),
        },
        _ => into.push(next),
    }
    if goes_on {
        into.push(next);
    }
    into.iter_mut().for_each(|to| *to = (*to).min(exit));
}

/// Whether an instruction of a call is the one that enters the function, which comes back to the one after it.
fn enters(instruction: &Instruction, at: usize) -> bool {
    instruction.target == at as u32 + 1
}

/// The immediate postdominator of each instruction.
fn postdominators(kernel: &Kernel) -> Vec<u32> {
    let exit = kernel.code.len();
    let after_call = |(at, instruction): (usize, &Instruction)| {
        (kernel.traits_of(instruction).flow == Flow::Call && enters(instruction, at)).then_some(at as u32 + 1)
    };
    let returns: Vec<u32> = kernel.code.iter().enumerate().filter_map(after_call).collect();
    let (mut next, mut before) = (vec![vec![]; exit + 1], vec![vec![]; exit + 1]);
    for (at, next) in next.iter_mut().enumerate().take(exit) {
        successors(kernel, at, &returns, next);
        for to in next {
            before[*to as usize].push(at as u32);
        }
    }
    // From the exit backwards; what is left first comes last in the order.
    let (mut order, mut rank) = (vec![], vec![NOWHERE; exit + 1]);
    let mut seen = vec![false; exit + 1];
    let mut stack = vec![(exit as u32, 0)];
    seen[exit] = true;
    while let Some((at, number)) = stack.pop() {
        match before[at as usize].get(number) {
            Some(from) => {
                stack.push((at, number + 1));
                if !std::mem::replace(&mut seen[*from as usize], true) {
                    stack.push((*from, 0));
                }
            }
            None => {
                rank[at as usize] = order.len() as u32;
                order.push(at);
            }
        }
    }
    let mut meetings = vec![NOWHERE; exit + 1];
    meetings[exit] = exit as u32;
    let mut changed = true;
    while changed {
        changed = false;
        for at in order.iter().rev().filter(|at| **at != exit as u32) {
            let mut meeting = NOWHERE;
            for to in next[*at as usize].iter().filter(|to| meetings[**to as usize] != NOWHERE) {
                let (mut one, mut other) = (*to, if meeting == NOWHERE { *to } else { meeting });
                while one != other {
                    let behind = if rank[one as usize] < rank[other as usize] { &mut one } else { &mut other };
                    *behind = meetings[*behind as usize];
                }
                meeting = one;
            }
            changed |= std::mem::replace(&mut meetings[*at as usize], meeting) != meeting;
        }
    }
    meetings.iter_mut().filter(|meeting| **meeting == exit as u32).for_each(|meeting| *meeting = NOWHERE);
    meetings
}
