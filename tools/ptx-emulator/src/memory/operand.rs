//! Operands of instructions that have more than one address, and cache policies.

use crate::decode::builder::Builder;
use crate::diagnostic::Problem;
use crate::machine::context::Context;
use crate::machine::row::{LANES, Slot};
use crate::parse::ast::Operand;

impl Builder<'_, '_> {
    /// Reads an address into the list, which holds three slots for each: base, offset, and whether the base has 64 bits.
    pub fn listed_address(&mut self) -> Result<(), Problem> {
        match self.take()? {
            Operand::Address(parts) if parts.len() == 1 => self.listed_address_part(&parts[0]),
            _ => self.problem("expected an address: `[register+offset]`"),
        }
    }

    /// The same for what stands inside of the brackets.
    pub fn listed_address_part(&mut self, part: &Operand<'_>) -> Result<(), Problem> {
        let (slot, wide, offset) = self.address_slot(part)?;
        let offset = self.draft.constant(offset as u64, true);
        let wide = self.draft.constant(u64::from(wide), false);
        for slot in [slot, offset, wide] {
            self.put_in_list(slot);
        }
        Ok(())
    }

    /// Reads the cache policy that stands where the instruction says so. It changes no value.
    pub fn cache_policy(&mut self) -> Result<(), Problem> {
        if self.has("L2::cache_hint") { self.source::<u64>() } else { Ok(()) }
    }
}

impl Context<'_> {
    /// An address that [`Builder::listed_address`] read, for a lane. The list starts with it.
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
}
