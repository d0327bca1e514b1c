//! Modules and functions.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::graph::{Graph, ValueId};
use crate::name::Name;
use crate::sharding::Mesh;
use crate::types::{TensorType, Type};

/// The least and the largest value that a symbol takes, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SymbolRange {
    /// The least value.
    pub minimum: u64,
    /// The largest value.
    pub maximum: u64,
}

/// A program: its parameters and its functions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Module {
    /// The module's name.
    pub name: Name,
    /// The devices it runs on; no axes for one device.
    #[serde(default)]
    pub mesh: Mesh,
    /// What is known of the symbols; those not mentioned range over everything.
    #[serde(default)]
    pub symbols: BTreeMap<Name, SymbolRange>,
    /// The named weights, in order of declaration.
    #[serde(default)]
    pub parameters: IndexMap<Name, TensorType>,
    /// The functions, in order.
    #[serde(default)]
    pub functions: Vec<Function>,
}

/// A name is declared twice.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what} `@{name}` is declared twice")]
pub struct Duplicate {
    /// What is declared.
    pub what: &'static str,
    /// Its name.
    pub name: Name,
}

impl Module {
    /// A module with nothing in it.
    pub fn new(name: impl Into<Name>) -> Module {
        Module { name: name.into(), ..Module::default() }
    }

    /// Declares a parameter.
    ///
    /// # Errors
    /// There is one of that name already.
    pub fn add_parameter(&mut self, name: impl Into<Name>, ty: TensorType) -> Result<(), Duplicate> {
        let name = name.into();
        if self.parameters.contains_key(&name) {
            return Err(Duplicate { what: "parameter", name });
        }
        self.parameters.insert(name, ty);
        Ok(())
    }

    /// Adds a function.
    ///
    /// # Errors
    /// There is one of that name already.
    pub fn add_function(&mut self, function: Function) -> Result<(), Duplicate> {
        if self.function(&function.name).is_some() {
            return Err(Duplicate { what: "function", name: function.name });
        }
        self.functions.push(function);
        Ok(())
    }

    /// The function `name`.
    pub fn function(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|function| function.name == *name)
    }

    /// The function `name`, for changing it.
    pub fn function_mut(&mut self, name: &str) -> Option<&mut Function> {
        self.functions.iter_mut().find(|function| function.name == *name)
    }
}

impl Default for Name {
    fn default() -> Self {
        Name::from("")
    }
}

/// A function: a graph with a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Function {
    /// The function's name.
    pub name: Name,
    /// What it computes.
    pub graph: Graph,
}

impl Function {
    /// A function with an empty graph.
    pub fn new(name: impl Into<Name>) -> Function {
        Function { name: name.into(), graph: Graph::new() }
    }

    /// Names and types of the inputs, in order.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, &Type)> {
        self.graph.inputs().map(|input| {
            let name = self.graph.value_name(input).map_or("", Name::as_str);
            (name, self.graph.value_type(input))
        })
    }

    /// The input `name`.
    pub fn input(&self, name: &str) -> Option<ValueId> {
        self.graph.inputs().find(|input| self.graph.value_name(*input).is_some_and(|given| given == name))
    }

    /// Types of the outputs, in order.
    pub fn outputs(&self) -> impl Iterator<Item = &Type> {
        self.graph.outputs().iter().map(|output| self.graph.value_type(*output))
    }
}
