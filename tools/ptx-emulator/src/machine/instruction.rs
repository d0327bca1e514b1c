//! The decoded form of an instruction: dense, resolved, ready to run.

use super::context::Context;
use super::row::Slot;

/// What an instruction does, for the lanes of [`Context::mask`].
pub type Execute = fn(&mut Context<'_>, &Instruction) -> Step;

/// What happens after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next instruction.
    Next,
    /// The active lanes go to the instruction numbered [`Instruction::target`]; the others to the next one.
    Branch,
    /// Each active lane goes where [`Context::targets`] says; the others to the next instruction.
    Scatter,
    /// The active lanes are done.
    Exit,
    /// The instruction waits, and is tried again after other warps have run.
    Wait,
    /// The instruction is done but found what it asked for missing: other warps should run first.
    Yield,
    /// The instruction needs more lanes of its warp, and waits for them to arrive here.
    Converge,
    /// [`Context::fault`] says what went wrong.
    Fault,
}

/// What an instruction wants of the other threads of its warp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alignment {
    /// Nothing.
    #[default]
    None,
    /// All that have not exited execute it together.
    Running,
    /// All execute it together, and none has exited.
    Whole,
}

/// Where control may go after an instruction, beside to the next one where its guard leaves threads out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// To the next one.
    #[default]
    Next,
    /// To its target.
    Target,
    /// To those of its table.
    Table,
    /// To a function, and back.
    Call,
    /// Out of the kernel, or back to any call.
    Leave,
}

/// What becomes of a value that nothing has written, in an instruction that reads it as another operand than an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Undefined {
    /// The result is undefined if one source is.
    #[default]
    Spreads,
    /// The result is undefined if all sources are: masks, choices and copies.
    Combines,
    /// Nothing is known of the result: the instruction combines lanes or elements, of which compilers leave some out.
    Vanishes,
    /// It decides something that others see: what is stored, who is waited for, where control goes.
    Decides,
}

/// What a thread waits for at an instruction that is tried again until it can go on, beside barriers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Awaited {
    /// Nothing, or a barrier.
    #[default]
    Other,
    /// Registers that other warps of the CTA give back.
    Registers,
    /// The products of the warpgroup's other warps.
    Products,
    /// Tensor memory that is given back.
    TensorMemory,
}

/// What is known of an instruction from its form, without running it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// What it wants of its warp.
    pub alignment: Alignment,
    /// Where control goes.
    pub flow: Flow,
    /// What it does with values that nothing has written.
    pub undefined: Undefined,
    /// What threads that wait there wait for.
    pub awaited: Awaited,
    /// It only reads, writes its destinations and goes on: run again with the same registers, while nobody changes memory, it does the same.
    pub only_reads: bool,
}

/// Which lanes an instruction runs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard(u32);

impl Guard {
    const NEGATED: u32 = 1 << 31;
    /// All of them.
    pub const ALWAYS: Guard = Guard(0);

    /// The lanes where a predicate holds, or does not.
    pub fn new(predicate: u32, negated: bool) -> Guard {
        Guard(predicate | if negated { Guard::NEGATED } else { 0 })
    }

    /// Predicate 0 is one that always holds.
    #[inline(always)]
    pub fn lanes(self, predicates: &[u32]) -> u32 {
        let holds = predicates[(self.0 & !Guard::NEGATED) as usize];
        if self.0 & Guard::NEGATED != 0 { !holds } else { holds }
    }
}

/// Slots of the predicates that are constants.
pub const TRUE: u32 = 0;
/// The predicate that never holds.
pub const FALSE: u32 = 1;
/// The condition code's carry, which is kept as a predicate.
pub const CARRY: u32 = 2;

/// How many operands fit into an instruction; more are in the kernel's list.
pub const INLINE_OPERANDS: usize = 6;

/// A decoded instruction.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// What it does.
    pub execute: Execute,
    /// For which lanes.
    pub guard: Guard,
    /// Its operands: registers and constants as [`Slot`]s, predicates by number, in the order its form gives them.
    pub operands: [Slot; INLINE_OPERANDS],
    /// Where its further operands start in the kernel's list.
    pub list: u32,
    /// How many of them there are.
    pub list_length: u32,
    /// What is added to an address, or another number that the form defines.
    pub immediate: i64,
    /// Choices that the form's modifiers made, as the form defines them.
    pub modifiers: u32,
    /// Where a branch goes.
    pub target: u32,
    /// Which instruction of the source it is: an index into the kernel's places.
    pub place: u32,
}

impl Instruction {
    /// An operand that is a predicate.
    #[inline(always)]
    pub fn predicate(&self, operand: usize) -> usize {
        self.operands[operand].place().0
    }
}
