//! What a form uses to read the operands of an instruction.
//!
//! Operands that are addresses and predicates are read in files of their own.

use super::call_graph::CallGraph;
use super::draft::{Draft, rows_of};
use super::scope::{Binding, Scopes};
use crate::diagnostic::Problem;
use crate::machine::instruction::{Alignment, Guard, INLINE_OPERANDS, Instruction, Step, Traits};
use crate::machine::kernel::{Callable, Destination, Preset, Register, Source, Special};
use crate::machine::row::{Kind, Lane, Row, Slot};
use crate::parse::ast::{self, Operand};

/// Reads an instruction's operands, in order.
pub struct Builder<'b, 'a> {
    /// The modifiers, one for each place of the form's pattern.
    pub modifiers: Vec<&'a str>,
    /// The instruction as it is made.
    pub made: Instruction,
    /// What is known of it, where its form says something else than others of its kind.
    pub traits: Traits,
    /// The registers and predicates that it writes.
    pub destinations: Vec<Destination>,
    /// The registers and predicates that it reads or writes.
    pub touched: Vec<Source>,
    /// The kernel.
    pub draft: &'b mut Draft,
    /// What names mean.
    pub scopes: &'b Scopes<'a>,
    /// The number of the function that the instruction is in, if it is one that is called.
    pub function: Option<usize>,
    calls: &'b CallGraph<'a>,
    functions: &'b [ast::Function<'a>],
    written: &'b ast::Instruction<'a>,
    next: usize,
    filled: usize,
}

/// What is read of an instruction, or what is wrong with it.
pub type Read<T> = Result<T, Problem>;

/// What is around an instruction while it is decoded.
#[derive(Clone, Copy)]
pub struct Surroundings<'b, 'a> {
    /// What names mean.
    pub scopes: &'b Scopes<'a>,
    /// The module's functions.
    pub functions: &'b [ast::Function<'a>],
    /// Who calls whom.
    pub calls: &'b CallGraph<'a>,
    /// In a function that is called: its number.
    pub function: Option<usize>,
}

impl<'b, 'a> Builder<'b, 'a> {
    /// For one instruction.
    pub fn new(
        written: &'b ast::Instruction<'a>,
        modifiers: Vec<&'a str>,
        guard: Guard,
        place: u32,
        draft: &'b mut Draft,
        around: Surroundings<'b, 'a>,
    ) -> Builder<'b, 'a> {
        let Surroundings { scopes, functions, calls, function } = around;
        let list = draft.list.len() as u32;
        let made = Instruction {
            execute: |_, _| Step::Next,
            guard,
            operands: [Slot::register(0); INLINE_OPERANDS],
            list,
            list_length: 0,
            immediate: 0,
            modifiers: 0,
            target: 0,
            place,
        };
        let alignment = if modifiers.contains(&"aligned") { Alignment::Whole } else { Alignment::None };
        Builder {
            modifiers,
            made,
            traits: Traits { alignment, ..Traits::default() },
            destinations: vec![],
            touched: vec![],
            draft,
            scopes,
            function,
            calls,
            functions,
            written,
            next: 0,
            filled: 0,
        }
    }

    /// Whether a modifier is there.
    pub fn has(&self, modifier: &str) -> bool {
        self.modifiers.contains(&modifier)
    }

    /// The modifier at a place of the pattern, or nothing.
    pub fn modifier(&self, place: usize) -> &'a str {
        self.modifiers.get(place).copied().unwrap_or_default()
    }

    /// The instruction's name.
    pub fn name(&self) -> &'a str {
        self.written.name
    }

    /// The last modifier, which mostly is the type.
    pub fn last(&self) -> &'a str {
        self.modifiers.iter().rev().find(|modifier| !modifier.is_empty()).copied().unwrap_or_default()
    }

    /// A problem with this instruction.
    pub fn problem<T>(&self, message: impl Into<String>) -> Read<T> {
        Err(Problem::new(self.written.span.clone(), message))
    }

    /// The operands that are not read yet.
    pub fn rest(&self) -> &'b [Operand<'a>] {
        &self.written.operands[self.next.min(self.written.operands.len())..]
    }

    /// How many operands are not read yet.
    pub fn left(&self) -> usize {
        self.rest().len()
    }

    /// The next operand.
    pub fn take(&mut self) -> Read<&'b Operand<'a>> {
        match self.written.operands.get(self.next) {
            Some(operand) => {
                self.next += 1;
                Ok(operand)
            }
            None => {
                let number = self.written.operands.len();
                self.problem(format!("`{}` has {number} operands here, and wants more", self.written.name))
            }
        }
    }

    /// Checks that all operands are read.
    pub fn finish(&self) -> Read<()> {
        if self.next < self.written.operands.len() {
            return self.problem(format!(
                "`{}` has {} operands here, and wants {}",
                self.written.name,
                self.written.operands.len(),
                self.next
            ));
        }
        Ok(())
    }

    /// Puts a slot into the instruction.
    pub fn put(&mut self, slot: Slot) {
        if let Some(place) = self.made.operands.get_mut(self.filled) {
            *place = slot;
        }
        self.filled += 1;
    }

    /// Puts a slot into the list.
    pub fn put_in_list(&mut self, slot: Slot) {
        self.draft.list.push(slot);
        self.made.list_length += 1;
    }

    /// A problem with a name that is not declared.
    pub fn unknown<T>(&self, name: &str) -> Read<T> {
        let mut problem = Problem::new(self.written.span.clone(), format!("`{name}` is not declared"));
        if let Some(similar) = self.scopes.similar(name) {
            problem = problem.help(format!("did you mean `{similar}`?"));
        }
        Err(problem)
    }

    /// The bytes of the register that an operand names, or `None` for other operands.
    pub fn register_bytes(&self, operand: &Operand<'_>) -> Option<u32> {
        match operand {
            Operand::Name(name) | Operand::Component(name, _) => match self.scopes.find(name)? {
                Binding::Register { bytes, .. } => Some(bytes),
                _ => None,
            },
            Operand::Vector(vector) => self.register_bytes(vector.first()?),
            _ => None,
        }
    }

    /// The slot of a register of this many bytes, or of a constant.
    pub fn slot(&mut self, operand: &Operand<'_>, bytes: u32, kind: Kind) -> Read<Slot> {
        let wide = bytes > 4;
        match operand {
            Operand::Name(name) | Operand::Component(name, _) => {
                let component = if let Operand::Component(_, component) = operand { Some(*component) } else { None };
                if let Some(special) = name.strip_prefix('%').and_then(|name| Special::named(name, component))
                    && self.scopes.find(name).is_none()
                {
                    let preset = if wide { Preset::WideSpecial(special) } else { Preset::Special(special) };
                    return Ok(self.draft.preset(preset));
                }
                match self.scopes.find(name) {
                    Some(Binding::Register { row, bytes: have, components }) => {
                        let fits = if wide { have == bytes } else { have <= 4 };
                        if !fits {
                            return self.problem(format!(
                                "`{name}` has {} bits, the instruction wants {}",
                                8 * have,
                                8 * bytes
                            ));
                        }
                        let index = match component {
                            None if components == 1 => 0,
                            None => return self.problem(format!("`{name}` is a vector; name a component of it")),
                            Some("x" | "r") => 0,
                            Some("y" | "g") => 1,
                            Some("z" | "b") => 2,
                            Some("w" | "a") => 3,
                            Some(other) => return self.problem(format!("`.{other}` is not a component")),
                        };
                        if index >= components {
                            return self.problem(format!("`{name}` has {components} components"));
                        }
                        let row = row + index * rows_of(have);
                        self.touches(name, Register::Rows { row, bytes: have });
                        Ok(Slot::register(row))
                    }
                    Some(Binding::Predicate(_)) => {
                        self.problem(format!("`{name}` is a predicate, the instruction wants a register"))
                    }
                    Some(Binding::Variable { space, address }) => self.variable(space, address, wide),
                    Some(Binding::Function(number)) if wide => Ok(self.draft.constant(super::address(number), true)),
                    Some(_) => self.problem(format!("`{name}` is not a register")),
                    None => self.unknown(name),
                }
            }
            Operand::Offset(name, offset) => match self.scopes.find(name) {
                Some(Binding::Variable { space, address }) => {
                    self.variable(space, address.wrapping_add_signed(*offset), wide)
                }
                Some(_) => self.problem(format!("`{name}` is not a variable")),
                None => self.unknown(name),
            },
            Operand::Sink => {
                let row = match self.draft.sink {
                    Some(row) => row,
                    None => {
                        let row = self.draft.new_rows(4);
                        self.draft.sink = Some(row);
                        row
                    }
                };
                Ok(Slot::register(row))
            }
            _ => {
                let bits = self.constant_bits(operand, bytes, kind)?;
                if bytes == 16 {
                    // Two 64-bit halves that follow each other, of which the upper is zero.
                    let row = self.draft.constants.len() as u32;
                    let low =
                        Row(std::array::from_fn(|lane| if lane % 2 == 0 { bits as u32 } else { (bits >> 32) as u32 }));
                    self.draft.constants.extend([low, low, Row::ZERO, Row::ZERO]);
                    return Ok(Slot::constant(row));
                }
                Ok(self.draft.constant(bits, wide))
            }
        }
    }

    /// What a call of a function needs to know.
    pub fn callable(&mut self, number: usize) -> Callable {
        let signature = self.functions.get(number).map(ast::Function::signature).unwrap_or_default();
        self.draft.callable(number, signature, self.calls.has_frames(number))
    }

    /// The bits of an immediate operand.
    pub fn constant_bits(&self, operand: &Operand<'_>, bytes: u32, kind: Kind) -> Read<u64> {
        Ok(match (operand, kind) {
            (Operand::Integer(_), Kind::F32 | Kind::F64) => {
                return self.problem("an integer stands where a floating-point number is wanted");
            }
            (Operand::Integer(value), _) => {
                let bits = *value as u64;
                if bytes >= 8 { bits } else { bits & ((1 << (8 * bytes)) - 1) }
            }
            (Operand::Single(bits), Kind::F64) => f64::from(f32::from_bits(*bits)).to_bits(),
            (Operand::Single(bits), _) => u64::from(*bits),
            (Operand::Double(value), Kind::F32) => u64::from((*value as f32).to_bits()),
            (Operand::Double(value), Kind::F64) => value.to_bits(),
            (Operand::Double(value), Kind::F16) => u64::from(half::f16::from_f64(*value).to_bits()),
            (Operand::Double(value), Kind::BF16) => u64::from(half::bf16::from_f64(*value).to_bits()),
            (Operand::Double(value), Kind::Integer) if bytes == 8 => value.to_bits(),
            _ => return self.problem("this operand is not a register or a number"),
        })
    }

    /// Reads a destination register.
    pub fn destination<T: Lane>(&mut self) -> Read<()> {
        let operand = self.take()?;
        self.destination_from::<T>(operand)
    }

    /// Takes an operand as a destination register.
    pub fn destination_from<T: Lane>(&mut self, operand: &Operand<'_>) -> Read<()> {
        self.destination_of(operand, T::BYTES)
    }

    /// The same for a register of this many bytes.
    pub fn destination_of(&mut self, operand: &Operand<'_>, bytes: u32) -> Read<()> {
        if !matches!(operand, Operand::Name(_) | Operand::Component(..) | Operand::Sink) {
            return self.problem("the destination is not a register");
        }
        let slot = self.slot(operand, bytes, Kind::Integer)?;
        if slot.place().1 {
            return self.problem("the destination is not a register");
        }
        self.writes(operand, Register::Rows { row: slot.place().0 as u32, bytes });
        self.put(slot);
        Ok(())
    }

    /// Notes an operand by its name.
    pub fn touches(&mut self, name: &str, register: Register) {
        self.touched.push(Source { decides: false, name: name.into(), register });
    }

    /// Notes a destination by its name.
    pub fn writes(&mut self, operand: &Operand<'_>, register: Register) {
        let name = match operand {
            Operand::Name(name) => (*name).into(),
            Operand::Component(name, component) => format!("{name}.{component}").into(),
            _ => return,
        };
        self.destinations.push(Destination { name, register });
    }

    /// Reads a source: a register, a special register, a variable's address, or a number.
    pub fn source<T: Lane>(&mut self) -> Read<()> {
        let operand = self.take()?;
        let slot = self.slot(operand, T::BYTES, T::KIND)?;
        self.put(slot);
        Ok(())
    }

    /// Reads a number that must be known when the module is loaded.
    pub fn integer(&mut self) -> Read<i64> {
        match self.take()? {
            Operand::Integer(value) => Ok(*value as i64),
            _ => self.problem("expected a constant number"),
        }
    }

    /// Takes an operand as a vector of registers, or as one; their slots go into the list.
    pub fn vector(&mut self, operand: &Operand<'_>, bytes: u32, kind: Kind, destination: bool) -> Read<usize> {
        let elements = match operand {
            Operand::Vector(elements) => elements.as_slice(),
            // A vector register by its name.
            Operand::Name(name) => match self.scopes.find(name) {
                Some(Binding::Register { row, bytes: have, components }) if components > 1 => {
                    for component in 0..components {
                        let row = row + component * rows_of(have);
                        if destination {
                            let name = format!("{name}.{}", ["x", "y", "z", "w"][component as usize % 4]).into();
                            self.destinations.push(Destination { name, register: Register::Rows { row, bytes } });
                        } else {
                            self.touches(name, Register::Rows { row, bytes });
                        }
                        self.put_in_list(Slot::register(row));
                    }
                    return Ok(components as usize);
                }
                _ => std::slice::from_ref(operand),
            },
            _ => std::slice::from_ref(operand),
        };
        for element in elements {
            let slot = self.slot(element, bytes, kind)?;
            if destination && slot.place().1 {
                return self.problem("a destination is not a register");
            }
            if destination {
                self.writes(element, Register::Rows { row: slot.place().0 as u32, bytes });
            }
            self.put_in_list(slot);
        }
        Ok(elements.len())
    }

    /// Reads a vector of exactly this many registers into the list.
    pub fn registers(&mut self, count: usize, bytes: u32, kind: Kind, destination: bool) -> Read<()> {
        let operand = self.take()?;
        let found = self.vector(operand, bytes, kind, destination)?;
        if found != count {
            return self.problem(format!("this operand has {found} registers, the instruction wants {count}"));
        }
        Ok(())
    }

    /// Reads a label to go to.
    pub fn label(&mut self) -> Read<()> {
        match self.take()? {
            Operand::Name(name) => match self.scopes.find(name) {
                Some(Binding::Label(label)) => {
                    self.made.target = label;
                    Ok(())
                }
                Some(_) => self.problem(format!("`{name}` is not a label")),
                None => self.unknown(name),
            },
            _ => self.problem("expected a label"),
        }
    }

    /// Whether a name is a predicate's.
    pub fn is_predicate(&self, name: &str) -> bool {
        matches!(self.scopes.find(name), Some(Binding::Predicate(_)))
    }

    /// Whether a name is a special register's that has components.
    pub fn is_special_vector(&self, name: &str) -> bool {
        let special = name.strip_prefix('%').and_then(|name| Special::named(name, Some("x")));
        special.is_some() && self.scopes.find(name).is_none()
    }

    /// Reads the name of something declared.
    pub fn binding(&mut self) -> Read<Binding> {
        match self.take()? {
            Operand::Name(name) => match self.scopes.find(name) {
                Some(binding) => Ok(binding),
                None => self.unknown(name),
            },
            _ => self.problem("expected a name"),
        }
    }
}
