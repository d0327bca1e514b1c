//! Syntax to kernels that can run: names become rows and addresses, instructions become functions.

pub mod address_operand;
pub mod builder;
mod call_graph;
pub mod draft;
pub mod form;
pub mod function;
mod predicate_operand;
pub mod scope;

use std::collections::HashMap;
use std::sync::Arc;

use call_graph::CallGraph;

use crate::diagnostic::{LoadError, Problem};
use crate::machine::kernel::{Kernel, Kernels};
use crate::memory::global::Memory;
use crate::memory::window;
use crate::parse;
use crate::parse::ast::{self, Initializer, Operand, Space, Variable};

/// A module that is loaded: its kernels, and its variables in global memory.
#[derive(Debug)]
pub struct Module {
    /// The kernels by name.
    pub kernels: Kernels,
    /// Global variables: address and bytes, by name.
    pub variables: HashMap<String, (u64, u64)>,
    /// `.version`
    pub version: (u32, u32),
    /// `.target`
    pub target: String,
    allocations: Vec<u64>,
    functions: HashMap<String, u64>,
    memory: Arc<Memory>,
}

impl Drop for Module {
    fn drop(&mut self) {
        for base in &self.allocations {
            self.memory.release(*base);
        }
    }
}

impl Module {
    /// Loads the text of a module: parses and decodes it, and puts its variables into a device's memory. `file` stands for the text
    /// in messages.
    pub fn load(file: &str, source: &str, memory: &Arc<Memory>, device: u32) -> Result<Module, Box<LoadError>> {
        let attempt = || -> Result<Module, Problem> {
            let syntax = parse::module(source)?;
            let numbers = syntax.function_numbers()?;
            let mut module = Module {
                kernels: HashMap::new(),
                variables: HashMap::new(),
                version: syntax.version,
                target: syntax.target.into(),
                allocations: vec![],
                functions: numbers.iter().map(|(name, number)| ((*name).into(), address(*number))).collect(),
                memory: memory.clone(),
            };
            module.place_variables(&syntax, device)?;
            let calls = CallGraph::of(&syntax, numbers);
            for (number, function) in syntax.functions.iter().enumerate() {
                if function.entry && function.body.is_some() {
                    let kernel = function::kernel(file, source, &syntax, number, &module.variables, &calls)?;
                    module.kernels.insert(kernel.name.clone(), Arc::new(kernel));
                }
            }
            Ok(module)
        };
        attempt().map_err(|problem| Box::new(problem.of(file, source)))
    }

    /// A kernel by name.
    pub fn kernel(&self, name: &str) -> Option<&Arc<Kernel>> {
        self.kernels.get(name)
    }

    fn place_variables(&mut self, syntax: &ast::Module<'_>, device: u32) -> Result<(), Problem> {
        let placed = |variable: &&Variable<'_>| matches!(variable.space, Space::Global | Space::Constant);
        for variable in syntax.variables.iter().filter(placed) {
            let too_large = || Problem::new(variable.span.clone(), format!("`{}` is too large", variable.name));
            let bytes = variable.bytes();
            if bytes > 1 << 34 {
                return Err(too_large());
            }
            let address = match variable.space {
                Space::Constant => self.memory.allocate_constant(bytes, device),
                _ => self.memory.allocate(bytes, Some(device)),
            };
            let address = address.ok_or_else(too_large)?;
            self.allocations.push(address);
            // What has no initializer is zero.
            self.memory.view().take_as_written(address);
            self.variables.insert(variable.name.into(), (address, bytes));
        }
        let view = self.memory.view();
        for variable in syntax.variables.iter().filter(placed) {
            let Some(initializer) = &variable.initializer else { continue };
            let (address, bytes) = self.variables[variable.name];
            let mut image = vec![0; bytes as usize];
            let stride = variable.dimensions.iter().skip(1).product::<u64>()
                * u64::from(variable.width.bytes() * variable.components);
            self.fill(&mut image, variable, initializer, stride as usize)?;
            view.copy_in(address, &image)
                .ok_or_else(|| Problem::new(variable.span.clone(), "its value does not fit"))?;
        }
        Ok(())
    }

    /// Writes a value into a variable's image. `stride` is the size of an element of the outermost dimension.
    fn fill(
        &self,
        image: &mut [u8],
        variable: &Variable<'_>,
        value: &Initializer<'_>,
        stride: usize,
    ) -> Result<(), Problem> {
        let wrong = |message: String| Problem::new(variable.span.clone(), message);
        match value {
            Initializer::List(list) => {
                let inner = if list.iter().any(|one| matches!(one, Initializer::List(_))) {
                    // The stride of the next dimension inwards, as the nesting gives it.
                    variable.width.bytes() as usize
                } else {
                    stride
                };
                for (at, one) in list.iter().enumerate() {
                    let start = at * stride;
                    let Some(part) = image.get_mut(start..(start + stride).min(image.len().max(start))) else {
                        return Err(wrong(format!("`{}` has more values than elements", variable.name)));
                    };
                    self.fill(part, variable, one, inner)?;
                }
                Ok(())
            }
            Initializer::Value(operand) => {
                let size = variable.width.bytes() as usize;
                let bits = match operand {
                    Operand::Integer(value) => *value as u64,
                    Operand::Single(bits) => u64::from(*bits),
                    Operand::Double(value) if size == 4 => u64::from((*value as f32).to_bits()),
                    Operand::Double(value) => value.to_bits(),
                    Operand::Name(name) | Operand::Generic(name) => {
                        self.address_of(name).ok_or_else(|| wrong(format!("`{name}` is not a variable")))?
                    }
                    Operand::Offset(name, offset) => {
                        let base = self.address_of(name).ok_or_else(|| wrong(format!("`{name}` is not a variable")))?;
                        base.wrapping_add_signed(*offset)
                    }
                    _ => return Err(wrong(format!("the value of `{}` is not a constant", variable.name))),
                };
                let bytes = bits.to_le_bytes();
                if image.len() < size {
                    return Err(wrong(format!("`{}` has more values than elements", variable.name)));
                }
                let length = size.min(8);
                image[..length].copy_from_slice(&bytes[..length]);
                Ok(())
            }
        }
    }

    fn address_of(&self, name: &str) -> Option<u64> {
        self.variables.get(name).map(|(address, _)| *address).or_else(|| self.functions.get(name).copied())
    }
}

/// The address of a function, by its number in the module.
pub fn address(function: usize) -> u64 {
    window::FUNCTION + 16 * function as u64
}

/// The generic address of a variable in a window.
pub fn generic(place: scope::Place, address: u64) -> u64 {
    match place {
        scope::Place::Global => address,
        scope::Place::Shared => window::SHARED + address,
        scope::Place::Local | scope::Place::Frame => window::LOCAL + address,
        scope::Place::Parameter => window::PARAMETER + address,
    }
}
