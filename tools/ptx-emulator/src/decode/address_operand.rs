//! Operands that are addresses: variables by name, and what stands in brackets.

use super::builder::{Builder, Read};
use super::function::synthetic;
use super::scope::{Binding, Place};
use crate::machine::instruction::Step;
use crate::machine::kernel::{Preset, Register, Source};
use crate::machine::row::{LANES, Slot};
use crate::parse::ast::Operand;

/// The bit of [`Instruction::modifiers`] that says that the address register has 64 bits.
pub const WIDE_ADDRESS: u32 = 1 << 31;

impl<'b, 'a> Builder<'b, 'a> {
    /// A slot that holds a variable's address in its space.
    pub fn variable(&mut self, space: Place, address: u64, wide: bool) -> Read<Slot> {
        Ok(match space {
            Place::Frame => self.in_frame(address, wide),
            Place::Shared if wide => self.draft.preset(Preset::WideShared(address as u32)),
            Place::Shared => self.draft.preset(Preset::Shared(address as u32)),
            _ => self.draft.constant(address, wide),
        })
    }

    /// A row that gets an address in the frame of the running call, just before the instruction.
    fn in_frame(&mut self, address: u64, wide: bool) -> Slot {
        let row = self.draft.new_rows(if wide { 2 } else { 1 });
        let slot = Slot::register(row);
        let frame = self.function.and_then(|number| self.draft.called.get_mut(&number)?.frame.as_mut());
        let mut base = 0;
        if let Some(frame) = frame {
            base = frame.base;
            // A call wants the addresses of its results when it is over.
            frame.registers.push(Register::Rows { row, bytes: if wide { 8 } else { 4 } });
        }
        let mut add = synthetic(
            |context, instruction| {
                let base: [u32; LANES] = context.read(instruction.operands[1]);
                let address = base.map(|base| base.wrapping_add(instruction.immediate as u32));
                if instruction.modifiers != 0 {
                    context.write(instruction.operands[0], &address.map(u64::from));
                } else {
                    context.write(instruction.operands[0], &address);
                }
                Step::Next
            },
            &self.made,
        );
        add.operands[0] = slot;
        add.operands[1] = Slot::register(base);
        add.immediate = address as i64;
        add.modifiers = u32::from(wide);
        self.draft.code.push(add);
        slot
    }

    /// Reads an address in brackets that has nothing but a base and an offset.
    pub fn address(&mut self) -> Read<()> {
        let part = self.bracketed()?;
        self.address_part(part)
    }

    /// The next operand without its brackets, in which one thing has to stand.
    fn bracketed(&mut self) -> Read<&'b Operand<'a>> {
        match self.take()? {
            Operand::Address(parts) if parts.len() == 1 => Ok(&parts[0]),
            _ => self.problem("expected an address: `[register+offset]`"),
        }
    }

    /// Takes an operand as an address: its base becomes an operand, its offset the instruction's immediate.
    pub fn address_part(&mut self, part: &Operand<'_>) -> Read<()> {
        let (slot, wide, offset) = self.address_slot(part)?;
        self.put(slot);
        self.made.immediate = offset;
        if wide {
            self.made.modifiers |= WIDE_ADDRESS;
        }
        Ok(())
    }

    /// Reads an address into the list, which holds three slots for each: base, offset, and whether the base has 64 bits.
    pub fn listed_address(&mut self) -> Read<()> {
        let part = self.bracketed()?;
        self.listed_address_part(part)
    }

    /// The same for what stands inside of the brackets.
    pub fn listed_address_part(&mut self, part: &Operand<'_>) -> Read<()> {
        let (slot, wide, offset) = self.address_slot(part)?;
        let offset = self.draft.constant(offset as u64, true);
        let wide = self.draft.constant(u64::from(wide), false);
        for slot in [slot, offset, wide] {
            self.put_in_list(slot);
        }
        Ok(())
    }

    /// Reads the cache policy that stands where the instruction says so. It changes no value.
    pub fn cache_policy(&mut self) -> Read<()> {
        if self.has("L2::cache_hint") { self.source::<u64>() } else { Ok(()) }
    }

    /// The base of an address, whether it has 64 bits, and the offset.
    pub fn address_slot(&mut self, part: &Operand<'_>) -> Read<(Slot, bool, i64)> {
        let (name, offset) = match part {
            Operand::Name(name) => (*name, 0),
            Operand::Offset(name, offset) => (*name, *offset),
            Operand::Integer(value) => return Ok((self.draft.constant(*value as u64, true), true, 0)),
            _ => return self.problem("expected a register, a variable or a number as an address"),
        };
        match self.scopes.find(name) {
            Some(Binding::Register { row, bytes: bytes @ (4 | 8), components: 1 }) => {
                let register = Register::Rows { row, bytes };
                self.touched.push(Source { decides: true, name: name.into(), register });
                Ok((Slot::register(row), bytes == 8, offset))
            }
            Some(Binding::Variable { space: Place::Shared, address }) => {
                Ok((self.draft.preset(Preset::Shared(address as u32)), false, offset))
            }
            Some(Binding::Variable { space: Place::Frame, address }) => {
                Ok((self.in_frame(address, true), true, offset))
            }
            Some(Binding::Variable { address, .. }) => Ok((self.draft.constant(address, true), true, offset)),
            Some(_) => self.problem(format!("`{name}` is not an address")),
            None => self.unknown(name),
        }
    }

    /// The space of the variable that an address names, if it names one.
    pub fn address_place(&self, operand: &Operand<'_>) -> Option<Place> {
        let part = match operand {
            Operand::Address(parts) => parts.first()?,
            other => other,
        };
        let (Operand::Name(name) | Operand::Offset(name, _)) = part else { return None };
        match self.scopes.find(name) {
            Some(Binding::Variable { space, .. }) => Some(space),
            _ => None,
        }
    }
}
