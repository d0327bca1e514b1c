//! Accesses of running instructions: every space, checked.

use super::global::Window;
use super::{Word, window};
use crate::decode::address_operand::WIDE_ADDRESS;
use crate::machine::context::Context;
use crate::machine::fault::FaultKind;
use crate::machine::instruction::{Instruction, Step};
use crate::machine::observer::{Access, Direction};
use crate::machine::row::{LANES, Slot};

/// The space that an instruction names, as a number that fits in a constant of an executing function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Space {
    /// No space: the address says.
    Generic = 0,
    /// Global and constant memory.
    Global = 1,
    /// Shared memory of the CTA, or of another of its cluster.
    Shared = 2,
    /// The thread's own.
    Local = 3,
    /// The kernel's parameters.
    Parameter = 4,
    /// Tensor memory of the CTA, which only instructions of `tcgen05` access.
    Tensor = 5,
}

/// Why an access cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    space: Space,
    address: u64,
    bytes: usize,
}

impl<'a> Context<'a> {
    /// The addresses of a memory operand.
    #[inline(always)]
    pub fn addresses(&self, instruction: &Instruction, operand: usize) -> [u64; LANES] {
        let slot = instruction.operands[operand];
        self.addresses_of(slot, instruction.modifiers & WIDE_ADDRESS != 0, instruction.immediate)
    }

    /// The addresses that a base and an offset make.
    #[inline(always)]
    pub fn addresses_of(&self, slot: Slot, wide: bool, offset: i64) -> [u64; LANES] {
        let mut addresses = [0; LANES];
        if wide {
            let base: [u64; LANES] = self.read(slot);
            for lane in 0..LANES {
                addresses[lane] = base[lane].wrapping_add_signed(offset);
            }
        } else {
            let base: [u32; LANES] = self.read(slot);
            for lane in 0..LANES {
                addresses[lane] = u64::from(base[lane].wrapping_add(offset as u32));
            }
        }
        addresses
    }

    /// An address that [`crate::decode::builder::Builder::listed_address`] read, for a lane. The list starts with it.
    pub fn listed_address(&self, list: &[Slot], lane: usize) -> u64 {
        let offset = self.read::<u64>(list[1])[lane];
        if self.row(list[2]).0[lane] != 0 {
            self.read::<u64>(list[0])[lane].wrapping_add(offset)
        } else {
            u64::from(self.row(list[0]).0[lane].wrapping_add(offset as u32))
        }
    }

    /// The same for all lanes.
    pub fn listed_addresses(&self, list: &[Slot]) -> [u64; LANES] {
        // The offset and the width are constants: the same for each lane.
        self.addresses_of(list[0], self.row(list[2]).0[0] != 0, self.read::<u64>(list[1])[0] as i64)
    }

    /// Makes the window hold a stretch of global memory, if one allocation does.
    #[inline(always)]
    pub fn global(&mut self, address: u64, bytes: usize) -> Option<Window<'a>> {
        if !self.window.holds(address, bytes) {
            self.window = self.grid.memory.window(address).filter(|window| window.holds(address, bytes))?;
        }
        Some(self.window)
    }

    /// The CTA and offset of an address of shared memory.
    #[inline(always)]
    pub fn shared_place(&self, address: u64) -> Option<(usize, usize)> {
        let (rank, offset) = ((address >> 24) as usize & 0xff, address as usize & 0xff_ffff);
        let address = address & 0xffff_ffff;
        debug_assert!(address >> 32 == 0);
        (rank < self.cluster.ctas.len()).then_some((rank, offset))
    }

    /// The word at an address for a lane.
    #[inline(always)]
    pub fn load<W: Word>(&mut self, space: Space, lane: usize, address: u64) -> Result<W, Refused> {
        let value = self.fetch(space, lane, address)?;
        self.show(|| Access::of_lane(Direction::Read, space, lane, address, W::BYTES));
        Ok(value)
    }

    /// Sets the word at an address for a lane.
    #[inline(always)]
    pub fn store<W: Word>(&mut self, space: Space, lane: usize, address: u64, value: W) -> Result<(), Refused> {
        self.put(space, lane, address, value)?;
        self.show(|| Access::of_lane(Direction::Write, space, lane, address, W::BYTES));
        Ok(())
    }

    #[inline(always)]
    fn fetch<W: Word>(&mut self, space: Space, lane: usize, address: u64) -> Result<W, Refused> {
        let refused = Refused { space, address, bytes: W::BYTES };
        if address & (W::BYTES as u64 - 1) != 0 {
            return Err(refused);
        }
        match space {
            Space::Global => self.global(address, W::BYTES).and_then(|window| window.read(address)),
            Space::Shared => {
                let place = self.shared_place(address);
                place.and_then(|(rank, offset)| self.cluster.ctas[rank].shared.read(offset))
            }
            Space::Local => {
                let each = self.kernel.local_bytes as usize;
                let offset = address as usize;
                if offset + W::BYTES <= each { self.warp.local.read(lane * each + offset) } else { None }
            }
            Space::Parameter => {
                let offset = address as usize;
                self.grid.parameters.get(offset..offset + W::BYTES).map(W::from_bytes)
            }
            Space::Tensor => None,
            Space::Generic => {
                let (space, address) = specific(address);
                return self.fetch(space, lane, address);
            }
        }
        .ok_or(refused)
    }

    #[inline(always)]
    fn put<W: Word>(&mut self, space: Space, lane: usize, address: u64, value: W) -> Result<(), Refused> {
        let refused = Refused { space, address, bytes: W::BYTES };
        if address & (W::BYTES as u64 - 1) != 0 {
            return Err(refused);
        }
        match space {
            Space::Global => self.global(address, W::BYTES).and_then(|window| window.write(address, value)),
            Space::Shared => {
                let place = self.shared_place(address);
                place.and_then(|(rank, offset)| self.cluster.ctas[rank].shared.write(offset, value))
            }
            Space::Local => {
                let each = self.kernel.local_bytes as usize;
                let offset = address as usize;
                if offset + W::BYTES <= each { self.warp.local.write(lane * each + offset, value) } else { None }
            }
            Space::Parameter | Space::Tensor => None,
            Space::Generic => {
                let (space, address) = specific(address);
                return self.put(space, lane, address, value);
            }
        }
        .ok_or(refused)
    }

    /// Replaces the word at an address in one step, and returns the one before.
    pub fn update<W: Word>(
        &mut self,
        space: Space,
        lane: usize,
        address: u64,
        mut change: impl FnMut(W) -> W,
    ) -> Result<W, Refused> {
        let before = match space {
            Space::Generic => {
                let (space, address) = specific(address);
                return self.update(space, lane, address, change);
            }
            Space::Global => {
                let window = self.global(address, W::BYTES);
                let updated = window.and_then(|window| window.update(address, change));
                updated.ok_or(Refused { space, address, bytes: W::BYTES })?
            }
            _ => {
                let before = self.fetch(space, lane, address)?;
                self.put(space, lane, address, change(before))?;
                before
            }
        };
        self.show(|| Access::of_lane(Direction::Update, space, lane, address, W::BYTES));
        Ok(before)
    }

    /// Copies a stretch of global or shared memory out, whatever its alignment.
    pub fn copy_out(&mut self, space: Space, address: u64, into: &mut [u8]) -> Result<(), Refused> {
        let refused = Refused { space, address, bytes: into.len() };
        match space {
            Space::Generic => {
                let (space, address) = specific(address);
                return self.copy_out(space, address, into);
            }
            Space::Global => {
                self.check_copied(address, into.len(), None);
                self.global(address, into.len()).and_then(|window| window.copy_out(address, into))
            }
            Space::Shared => {
                let place = self.shared_place(address);
                self.check_stretch(place, into.len(), None);
                let bytes = place.and_then(|(rank, offset)| self.cluster.ctas[rank].shared.slice(offset, into.len()));
                bytes.map(|bytes| into.copy_from_slice(bytes))
            }
            Space::Parameter => {
                let offset = address as usize;
                let bytes = self.grid.parameters.get(offset..offset + into.len());
                bytes.map(|bytes| into.copy_from_slice(bytes))
            }
            Space::Local | Space::Tensor => None,
        }
        .ok_or(refused)?;
        self.show(|| Access::of_warp(Direction::Read, space, address, into.len()));
        Ok(())
    }

    /// Copies a stretch into global or shared memory, whatever its alignment.
    pub fn copy_in(&mut self, space: Space, address: u64, from: &[u8]) -> Result<(), Refused> {
        let refused = Refused { space, address, bytes: from.len() };
        match space {
            Space::Generic => {
                let (space, address) = specific(address);
                return self.copy_in(space, address, from);
            }
            Space::Global => {
                self.check_copied(address, from.len(), Some(from));
                self.global(address, from.len()).and_then(|window| window.copy_in(address, from))
            }
            Space::Shared => {
                let place = self.shared_place(address);
                if self.cluster.checker.is_some() {
                    let there = place.and_then(|(rank, at)| self.cluster.ctas[rank].shared.slice(at, from.len()));
                    let same = there == Some(from);
                    self.check_stretch(place, from.len(), Some(same));
                }
                let bytes =
                    place.and_then(|(rank, offset)| self.cluster.ctas[rank].shared.slice_mut(offset, from.len()));
                bytes.map(|bytes| bytes.copy_from_slice(from))
            }
            Space::Local | Space::Parameter | Space::Tensor => None,
        }
        .ok_or(refused)?;
        self.show(|| Access::of_warp(Direction::Write, space, address, from.len()));
        Ok(())
    }

    /// Stops the kernel for an access that cannot be.
    #[cold]
    pub fn refuse(&mut self, lane: usize, refused: Refused, what: &str) -> Step {
        let Refused { space, address, bytes } = refused;
        if bytes.is_power_of_two() && bytes <= 16 && address & (bytes as u64 - 1) != 0 {
            let message =
                format!("misaligned {what} of {bytes} bytes at 0x{address:x}: it has to be a multiple of {bytes}");
            return self.fail(FaultKind::MisalignedAddress, lane, message);
        }
        let place = match space {
            Space::Generic | Space::Global => self.grid.memory.describe(address),
            Space::Shared => format!("the CTA has {} bytes of shared memory", self.here().shared.len()),
            Space::Local => format!("a thread has {} bytes of local memory", self.kernel.local_bytes),
            Space::Tensor => "only tcgen05 reaches tensor memory".into(),
            Space::Parameter => format!("the kernel has {} bytes of parameters", self.kernel.parameter_bytes),
        };
        let space = format!("{space:?}").to_lowercase();
        let message = format!("{what} of {bytes} bytes out of bounds at {space} address 0x{address:x}: {place}");
        self.fail(FaultKind::IllegalAddress, lane, message)
    }
}

/// The space and the address in it that a generic address stands for.
#[inline(always)]
pub fn specific(address: u64) -> (Space, u64) {
    if window::holds(window::SHARED, address) {
        (Space::Shared, address - window::SHARED)
    } else if window::holds(window::LOCAL, address) {
        (Space::Local, address - window::LOCAL)
    } else if window::holds(window::PARAMETER, address) {
        (Space::Parameter, address - window::PARAMETER)
    } else {
        (Space::Global, address)
    }
}

/// An address of shared memory, which may be a generic one.
pub fn shared(address: u64) -> u64 {
    match specific(address) {
        (Space::Shared, offset) => offset,
        _ => address,
    }
}
