//! Local memory that nothing has written: a register that is loaded from it is one that nothing has written either.

use super::{Actor, Checker};
use crate::machine::context::{Context, lanes};
use crate::machine::instruction::Instruction;
use crate::machine::kernel::Kernel;
use crate::machine::row::LANES;
use crate::memory::access::{Space, specific};

/// Which bytes of a warp's local memory hold something: a bit for each byte of each lane.
#[derive(Clone, Debug, Default)]
pub struct Written {
    bits: Vec<u64>,
}

impl Written {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.bits.clear();
    }

    fn holds(&self, first: usize, bytes: usize) -> bool {
        (first..first + bytes).all(|byte| self.bits.get(byte / 64).is_some_and(|word| word >> (byte % 64) & 1 != 0))
    }

    fn set(&mut self, kernel: &Kernel, first: usize, bytes: usize, holds: bool) {
        if self.bits.is_empty() {
            self.bits.resize((kernel.local_bytes as usize * LANES).div_ceil(64), 0);
        }
        for byte in first..first + bytes {
            let Some(word) = self.bits.get_mut(byte / 64) else { break };
            *word = *word & !(1 << (byte % 64)) | u64::from(holds) << (byte % 64);
        }
    }
}

/// The first byte of a lane's address, unless it is outside of what a thread has.
fn place(kernel: &Kernel, lane: usize, address: u64, bytes: usize) -> Option<usize> {
    let each = u64::from(kernel.local_bytes);
    let inside = address.checked_add(bytes as u64).is_some_and(|end| end <= each);
    inside.then(|| lane * each as usize + address as usize)
}

impl Checker {
    /// A lane writes local memory, by the instruction that runs.
    pub fn local_written(&mut self, actor: Actor, kernel: &Kernel, lane: usize, address: u64, bytes: usize) {
        let Some(first) = place(kernel, lane, address, bytes) else { return };
        let at = kernel.code[actor.at as usize].place as usize;
        let registers = &self.registers[actor.warp];
        let mut values = kernel.sources.get(at).into_iter().flatten().filter(|source| !source.decides).peekable();
        let stored = values.peek().is_some();
        let nothing = stored && values.all(|source| registers.undefined(source.register) >> lane & 1 != 0);
        self.locals[actor.warp].set(kernel, first, bytes, !nothing);
    }

    /// The lanes of a mask that read something of their local memory that nothing has written.
    fn local_unwritten(&self, actor: Actor, kernel: &Kernel, mask: u32, addresses: &[u64; LANES], bytes: usize) -> u32 {
        let written = &self.locals[actor.warp];
        let unwritten = |lane: &usize| {
            let (space, address) = specific(addresses[*lane]);
            let address = if space == Space::Local { address } else { addresses[*lane] };
            place(kernel, *lane, address, bytes).is_some_and(|first| !written.holds(first, bytes))
        };
        lanes(mask).filter(unwritten).fold(0, |all, lane| all | 1 << lane)
    }
}

impl Context<'_> {
    /// Follows what a load of elements of so many bytes makes of local memory that nothing has written.
    #[inline(always)]
    pub fn check_local(&mut self, space: Space, addresses: &[u64; LANES], instruction: &Instruction, bytes: usize) {
        if self.cluster.checker.is_some() && matches!(space, Space::Local | Space::Generic) {
            self.follow_local(space, addresses, instruction, bytes);
        }
    }

    fn follow_local(&mut self, space: Space, addresses: &[u64; LANES], instruction: &Instruction, bytes: usize) {
        let (kernel, mut mask) = (self.kernel, self.mask);
        if space == Space::Generic {
            mask = lanes(mask)
                .filter(|lane| specific(addresses[*lane]).0 == Space::Local)
                .fold(0, |all, lane| all | 1 << lane);
        }
        let Some(destinations) = kernel.destinations.get(instruction.place as usize) else { return };
        // Sinks are none.
        if mask == 0 || destinations.len() != instruction.list_length as usize {
            return;
        }
        self.check(|checker, actor| {
            for (at, destination) in destinations.iter().enumerate() {
                let element = addresses.map(|address| address.wrapping_add((at * bytes) as u64));
                let undefined = checker.local_unwritten(actor, kernel, mask, &element, bytes);
                if undefined != 0 {
                    checker.registers[actor.warp].define(destination.register, undefined, undefined);
                }
            }
        });
    }

    /// A call has put a value into a lane's local memory.
    pub fn check_passed(&mut self, lane: usize, address: u32, bytes: u32) {
        self.check_stack(lane, address, bytes, true);
    }

    /// A lane has allocated local memory, which holds nothing yet.
    pub fn check_allocated(&mut self, lane: usize, address: u32, bytes: u32) {
        self.check_stack(lane, address, bytes, false);
    }

    fn check_stack(&mut self, lane: usize, address: u32, bytes: u32, holds: bool) {
        let kernel = self.kernel;
        self.check(|checker, actor| {
            if let Some(first) = place(kernel, lane, u64::from(address), bytes as usize) {
                checker.locals[actor.warp].set(kernel, first, bytes as usize, holds);
            }
        });
    }
}
