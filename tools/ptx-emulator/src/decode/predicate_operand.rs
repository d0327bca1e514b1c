//! Operands that are predicates.

use super::builder::{Builder, Read};
use super::scope::Binding;
use crate::machine::instruction::{FALSE, TRUE};
use crate::machine::kernel::Register;
use crate::machine::row::Slot;
use crate::parse::ast::Operand;

impl Builder<'_, '_> {
    /// The number of a predicate; a constant is one that always or never holds.
    pub fn predicate_number(&mut self, operand: &Operand<'_>) -> Read<u32> {
        match operand {
            Operand::Name(name) => match self.scopes.find(name) {
                Some(Binding::Predicate(number)) => Ok(number),
                Some(_) => self.problem(format!("`{name}` is not a predicate")),
                None => self.unknown(name),
            },
            Operand::Integer(value) => Ok(if *value == 0 { FALSE } else { TRUE }),
            _ => self.problem("expected a predicate"),
        }
    }

    /// Reads a source that is a predicate, perhaps negated: two operands, the predicate and all lanes' mask to flip it with.
    pub fn predicate_source(&mut self) -> Read<()> {
        let (operand, flip) = match self.take()? {
            Operand::Not(inner) => (&**inner, 1),
            operand => (operand, 0),
        };
        let number = self.predicate_number(operand)?;
        if let Operand::Name(name) = operand {
            self.touches(name, Register::Predicate(number));
        }
        self.put(Slot::register(number << 1 | flip));
        Ok(())
    }

    /// Reads a destination that is a predicate.
    pub fn predicate_destination(&mut self) -> Read<()> {
        let operand = self.take()?;
        self.predicate_destination_from(operand)
    }

    /// Takes an operand as a destination that is a predicate.
    pub fn predicate_destination_from(&mut self, operand: &Operand<'_>) -> Read<()> {
        let number = match operand {
            Operand::Sink => {
                self.draft.predicates += 1;
                self.draft.predicates - 1
            }
            Operand::Name(_) => self.predicate_number(operand)?,
            _ => return self.problem("expected a predicate"),
        };
        self.writes(operand, Register::Predicate(number));
        self.put(Slot::register(number));
        Ok(())
    }
}
