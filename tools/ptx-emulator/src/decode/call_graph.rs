//! Which functions call which, as far as that is known before a kernel is decoded.

use std::collections::{HashMap, HashSet};

use crate::parse::ast::{Initializer, Module, Operand, Statement};

/// Who calls whom.
#[derive(Debug, Default)]
pub struct CallGraph<'a> {
    /// What functions' names stand for.
    numbers: HashMap<&'a str, usize>,
    /// For each function those that it may reach, by any number of calls.
    reached: Vec<HashSet<usize>>,
    /// Which of them allocate memory on the stack.
    allocates: Vec<bool>,
    /// Functions whose addresses are taken, in order: what a call through a register may reach.
    taken: Vec<usize>,
}

impl<'a> CallGraph<'a> {
    /// Of a module, whose functions' names stand for these.
    pub fn of(module: &Module<'a>, numbers: HashMap<&'a str, usize>) -> CallGraph<'a> {
        let mut uses: Vec<Uses> = Vec::with_capacity(module.functions.len());
        for function in &module.functions {
            let mut one = Uses::default();
            one.body(function.body.as_deref().unwrap_or_default(), &numbers);
            uses.push(one);
        }
        let mut taken: HashSet<usize> = uses.iter().flat_map(|one| one.taken.iter().copied()).collect();
        for initializer in module.variables.iter().filter_map(|variable| variable.initializer.as_ref()) {
            named(initializer, &numbers, &mut taken);
        }
        taken.retain(|number| module.functions[*number].body.is_some() && !module.functions[*number].entry);
        let reached = (0..uses.len()).map(|from| {
            let mut reached = HashSet::new();
            let mut left = vec![from];
            while let Some(at) = left.pop() {
                let through_registers = taken.iter().filter(|_| uses[at].through_registers);
                left.extend(uses[at].called.iter().chain(through_registers).filter(|next| reached.insert(**next)));
            }
            reached
        });
        let reached = reached.collect();
        let allocates = uses.iter().map(|one| one.allocates).collect();
        let mut taken: Vec<usize> = taken.into_iter().collect();
        taken.sort_unstable();
        CallGraph { numbers, reached, allocates, taken }
    }

    /// What functions' names stand for.
    pub fn names(&self) -> impl Iterator<Item = (&'a str, usize)> {
        self.numbers.iter().map(|(name, number)| (*name, *number))
    }

    /// Whether calls of a function have frames: it may be called again before a call of it is over, or it allocates memory, which
    /// is given back when it returns.
    pub fn has_frames(&self, function: usize) -> bool {
        self.allocates.get(function).is_some_and(|allocates| *allocates)
            || self.reached.get(function).is_some_and(|reached| reached.contains(&function))
    }

    /// Whether a kernel allocates memory on the stack, or reaches a function whose calls have frames there.
    pub fn has_stack(&self, kernel: usize) -> bool {
        let reached = self.reached.get(kernel).into_iter().flatten().copied();
        self.allocates.get(kernel).is_some_and(|allocates| *allocates)
            || reached.into_iter().any(|one| self.has_frames(one))
    }

    /// What a call through a register may reach.
    pub fn reached_through_registers(&self) -> &[usize] {
        &self.taken
    }
}

/// The functions that one names.
#[derive(Default)]
struct Uses {
    called: HashSet<usize>,
    taken: HashSet<usize>,
    through_registers: bool,
    allocates: bool,
}

impl Uses {
    fn body(&mut self, body: &[Statement<'_>], numbers: &HashMap<&str, usize>) {
        for statement in body {
            match statement {
                Statement::Scope(inner) => self.body(inner, numbers),
                Statement::Instruction(instruction) if instruction.name == "call" => {
                    let target = instruction.operands.iter().find_map(|operand| match operand {
                        Operand::Name(name) => Some(*name),
                        _ => None,
                    });
                    match target.and_then(|name| numbers.get(name)) {
                        Some(number) => drop(self.called.insert(*number)),
                        None => self.through_registers = true,
                    }
                }
                Statement::Instruction(instruction) => {
                    self.allocates |= instruction.name == "alloca";
                    let names = instruction.operands.iter().filter_map(|operand| match operand {
                        Operand::Name(name) => numbers.get(name),
                        _ => None,
                    });
                    self.taken.extend(names);
                }
                _ => {}
            }
        }
    }
}

fn named(initializer: &Initializer<'_>, numbers: &HashMap<&str, usize>, taken: &mut HashSet<usize>) {
    match initializer {
        Initializer::List(list) => list.iter().for_each(|one| named(one, numbers, taken)),
        Initializer::Value(Operand::Name(name) | Operand::Generic(name)) => taken.extend(numbers.get(name)),
        Initializer::Value(_) => {}
    }
}
