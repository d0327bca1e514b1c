//! What names mean.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::parse::ast::Space;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// A register: its first row, bytes of a component, and components.
    Register {
        /// The first row.
        row: u32,
        /// Bytes of a component.
        bytes: u32,
        /// How many components it has.
        components: u32,
    },
    /// A predicate.
    Predicate(u32),
    /// A variable: its space, and its address there.
    Variable {
        /// Where it lives.
        space: Place,
        /// Its address in that space.
        address: u64,
    },
    /// A label, by number.
    Label(u32),
    /// A table of labels, by number.
    Table(u32),
    /// A function, by number.
    Function(usize),
    /// What a call through a register may reach.
    Prototype,
}

/// The space of a variable, as addresses see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Global and constant memory: the address is a generic one.
    Global,
    /// Shared memory of the CTA.
    Shared,
    /// Local memory of the thread: local variables, and parameters of functions.
    Local,
    /// The frame of a call, on the stack.
    Frame,
    /// Parameters of the kernel.
    Parameter,
}

impl Place {
    /// The place of variables of a space inside of a function.
    pub fn of(space: Space) -> Option<Place> {
        Some(match space {
            Space::Register => return None,
            Space::Global | Space::Constant => Place::Global,
            Space::Shared => Place::Shared,
            Space::Local | Space::Parameter => Place::Local,
        })
    }
}

/// Nested scopes, the innermost last.
#[derive(Debug, Default)]
pub struct Scopes<'a> {
    scopes: Vec<HashMap<Cow<'a, str>, Binding>>,
}

impl<'a> Scopes<'a> {
    /// Opens a scope.
    pub fn open(&mut self) {
        self.scopes.push(HashMap::new());
    }

    /// Closes the innermost scope.
    pub fn close(&mut self) {
        self.scopes.pop();
    }

    /// Binds a name in the innermost scope; false if it is bound there already.
    pub fn bind(&mut self, name: impl Into<Cow<'a, str>>, binding: Binding) -> bool {
        self.scopes.last_mut().is_some_and(|scope| scope.insert(name.into(), binding).is_none())
    }

    /// What a name means here.
    pub fn find(&self, name: &str) -> Option<Binding> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name).copied())
    }

    /// A name that is bound and looks like this one.
    pub fn similar(&self, name: &str) -> Option<&str> {
        let differs = |other: &str| {
            let changed = other.chars().zip(name.chars()).filter(|(a, b)| a != b).count();
            changed + other.len().abs_diff(name.len())
        };
        let names = self.scopes.iter().rev().flat_map(|scope| scope.keys().map(|name| name.as_ref()));
        names.filter(|other| differs(other) == 1).min()
    }
}
