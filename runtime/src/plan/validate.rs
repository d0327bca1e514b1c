//! Checks that hold for every plan that is executed.

use std::collections::HashSet;

use super::{
    Argument, BUFFER_ALIGNMENT, BufferReference, Check, ElementType, Extent, ExtentError, Kernel, Launch,
    ParameterKind, Plan,
};

/// What is wrong with a plan, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// An extent is malformed.
    #[error("malformed plan: {place}: {error}")]
    Extent {
        /// Where the extent is.
        place: String,
        /// What is wrong with it.
        error: ExtentError,
    },
    /// An index is out of range.
    #[error("malformed plan: {place}: {what} {index} does not exist, there are {count}")]
    Index {
        /// Where the index is.
        place: String,
        /// The sort of thing it should name.
        what: &'static str,
        /// The index.
        index: usize,
        /// How many of them there are.
        count: usize,
    },
    /// Two things have one name.
    #[error("malformed plan: two {what} are named `{name}`")]
    Duplicate {
        /// The sort of thing.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A symbol is the dimension of no input and the pages of no cache, so that nothing gives it a value.
    #[error("malformed plan: symbol `{0}` is a dimension of no input and the page count of no cache")]
    UnboundSymbol(String),
    /// The arguments of a launch do not match the parameters of its kernel.
    #[error("malformed plan: {place}: kernel `{kernel}` takes {expected:?}, the launch passes {found:?}")]
    Arguments {
        /// The launch.
        place: String,
        /// The kernel's name.
        kernel: String,
        /// The kinds of its parameters.
        expected: Vec<ParameterKind>,
        /// The kinds of the arguments.
        found: Vec<ParameterKind>,
    },
    /// Something else has a value it must not have.
    #[error("malformed plan: {place}: {problem}")]
    Value {
        /// Where.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Blocks of more threads than this exist on no GPU.
const MAXIMUM_BLOCK_THREADS: u32 = 1024;

/// More scratch than this for one thread is a mistake of the compiler's, not a need.
const MAXIMUM_SCRATCH_BYTES: u64 = 1 << 32;

impl Plan {
    /// Checks everything that can be checked without symbol values: every index is in range, every extent is well formed,
    /// every symbol gets a value from an input or a cache, names are unique, arguments match parameters, sizes fit.
    /// What executes a plan relies on it.
    pub fn validate(&self) -> Result<(), PlanError> {
        unique("symbols", self.symbols.iter())?;
        unique("inputs and caches", self.inputs.iter().map(|i| &i.name).chain(self.caches.iter().map(|c| &c.name)))?;
        unique("outputs", self.outputs.iter().map(|output| &output.name))?;
        unique("parameters", self.parameters.iter().map(|parameter| &parameter.name))?;
        unique("kernels", self.kernels.iter().map(|kernel| &kernel.name))?;
        self.validate_buffers()?;
        self.validate_symbols()?;
        self.validate_checks()?;
        for kernel in &self.kernels {
            validate_kernel(kernel)?;
        }
        for (index, launch) in self.launches.iter().enumerate() {
            self.validate_launch(index, launch)?;
        }
        Ok(())
    }

    fn extent(&self, extent: &Extent, place: impl FnOnce() -> String) -> Result<(), PlanError> {
        extent.check(self.symbols.len()).map_err(|error| PlanError::Extent { place: place(), error })
    }

    fn validate_buffers(&self) -> Result<(), PlanError> {
        for tensor in self.inputs.iter().chain(&self.outputs) {
            for dimension in &tensor.shape {
                self.extent(dimension, || format!("shape of `{}`", tensor.name))?;
            }
        }
        for (index, slot) in self.slots.iter().enumerate() {
            self.extent(&slot.bytes, || format!("slot {index}"))?;
        }
        for parameter in &self.parameters {
            let place = || format!("parameter `{}`", parameter.name);
            let Some(bytes) = parameter.bytes() else {
                return Err(value(place(), "its size does not fit 64 bits"));
            };
            if let Some(problem) = parameter.layout.as_ref().and_then(|layout| layout.problem(bytes)) {
                return Err(value(place(), &format!("its layout: {problem}")));
            }
        }
        for cache in &self.caches {
            let place = || format!("cache `{}`", cache.name);
            in_range(cache.pages, self.symbols.len(), "symbol", place)?;
            let dimensions = [cache.layers, cache.heads, cache.head_dimension, cache.page_size];
            if dimensions.contains(&0) || cache.window == Some(0) {
                return Err(value(place(), "a dimension is 0"));
            }
            if cache.bytes(1).is_none() {
                return Err(value(place(), "a page's size does not fit 64 bits"));
            }
        }
        for (index, constant) in self.constants.iter().enumerate() {
            let place = || format!("constant {index}");
            if !constant.offset.is_multiple_of(BUFFER_ALIGNMENT) {
                return Err(value(place(), &format!("its offset is not a multiple of {BUFFER_ALIGNMENT}")));
            }
            if constant.offset.checked_add(constant.bytes).is_none() {
                return Err(value(place(), "its end does not fit 64 bits"));
            }
        }
        Ok(())
    }

    fn validate_checks(&self) -> Result<(), PlanError> {
        for (index, check) in self.checks.iter().enumerate() {
            let place = || format!("check {index}");
            self.extent(check.limit(), place)?;
            for input in check.inputs() {
                in_range(input, self.inputs.len(), "input", place)?;
                if !matches!(self.inputs[input].element, ElementType::I32 | ElementType::I64) {
                    return Err(value(place(), &format!("input `{}` holds no indices", self.inputs[input].name)));
                }
            }
            if let Check::Pages { positions, sequences, table, page_size, window, .. } = check {
                let ranks = [positions, sequences, table].map(|input| self.inputs[*input].shape.len());
                if ranks != [1, 1, 2] {
                    return Err(value(
                        place(),
                        "positions and sequences are vectors, and a page table has two dimensions",
                    ));
                }
                if *page_size == 0 || *window == Some(0) {
                    return Err(value(place(), "a page or a window of no tokens"));
                }
            }
        }
        Ok(())
    }

    fn validate_symbols(&self) -> Result<(), PlanError> {
        let mut bound = vec![false; self.symbols.len()];
        for dimension in self.inputs.iter().flat_map(|input| &input.shape) {
            if let Extent::Symbol(index) = dimension {
                bound[*index] = true;
            }
        }
        for cache in &self.caches {
            bound[cache.pages] = true;
        }
        match bound.iter().position(|bound| !bound) {
            Some(index) => Err(PlanError::UnboundSymbol(self.symbols[index].clone())),
            None => Ok(()),
        }
    }

    fn validate_launch(&self, index: usize, launch: &Launch) -> Result<(), PlanError> {
        let place = || format!("launch {index} ({})", launch.label);
        in_range(launch.kernel, self.kernels.len(), "kernel", place)?;
        let kernel = &self.kernels[launch.kernel];
        for extent in launch.grid.iter().chain(launch.guard.iter().map(|guard| &guard.extent)) {
            self.extent(extent, place)?;
        }
        let found: Vec<_> = launch.arguments.iter().map(Argument::kind).collect();
        if found != kernel.parameters {
            let (kernel, expected) = (kernel.name.clone(), kernel.parameters.clone());
            return Err(PlanError::Arguments { place: place(), kernel, expected, found });
        }
        for argument in &launch.arguments {
            match argument {
                Argument::Buffer { reference, byte_offset } => {
                    let (what, position, count) = self.locate(*reference);
                    in_range(position, count, what, place)?;
                    self.extent(byte_offset, place)?;
                }
                Argument::Integer(extent) => self.extent(extent, place)?,
                Argument::Float(number) if number.is_finite() => {}
                Argument::Float(number) => {
                    return Err(value(place(), &format!("the argument {number} is not finite")));
                }
            }
        }
        Ok(())
    }

    /// The sort of a buffer, its index, and how many of that sort the plan has.
    fn locate(&self, reference: BufferReference) -> (&'static str, usize, usize) {
        match reference {
            BufferReference::Input(index) => ("input", index, self.inputs.len()),
            BufferReference::Output(index) => ("output", index, self.outputs.len()),
            BufferReference::Parameter(index) => ("parameter", index, self.parameters.len()),
            BufferReference::Cache(index) => ("cache", index, self.caches.len()),
            BufferReference::Slot(index) => ("slot", index, self.slots.len()),
            BufferReference::Constant(index) => ("constant", index, self.constants.len()),
        }
    }
}

fn validate_kernel(kernel: &Kernel) -> Result<(), PlanError> {
    let place = || format!("kernel `{}`", kernel.name);
    // The name becomes a file name inside the artifact and a symbol, so it is held to what both allow.
    let starts_well = kernel.name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if !starts_well || !kernel.name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
        return Err(value(place(), "its name is not made of letters, digits and underscores"));
    }
    if kernel.block_threads == 0 || kernel.block_threads > MAXIMUM_BLOCK_THREADS {
        return Err(value(place(), &format!("{} threads in a block", kernel.block_threads)));
    }
    if kernel.partition.grain == 0 {
        return Err(value(place(), "its grain is 0"));
    }
    if kernel.scratch_bytes > MAXIMUM_SCRATCH_BYTES {
        return Err(value(place(), &format!("{} bytes of scratch", kernel.scratch_bytes)));
    }
    Ok(())
}

fn value(place: String, problem: &str) -> PlanError {
    PlanError::Value { place, problem: problem.into() }
}

fn in_range(index: usize, count: usize, what: &'static str, place: impl FnOnce() -> String) -> Result<(), PlanError> {
    if index < count { Ok(()) } else { Err(PlanError::Index { place: place(), what, index, count }) }
}

fn unique<'a>(what: &'static str, names: impl Iterator<Item = &'a String>) -> Result<(), PlanError> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(PlanError::Duplicate { what, name: name.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::*;

    /// `y = x + w` for `x : tensor<Tx4xf32>`, through a slot.
    fn plan() -> Plan {
        let mut plan = Plan::new("example", "add");
        let tokens = Extent::symbol(plan.intern_symbol("T"));
        let tensor = |name: &str| TensorSpecification {
            name: name.into(),
            element: ElementType::F32,
            shape: vec![Extent::symbol(0), 4.into()],
        };
        plan.inputs.push(tensor("x"));
        plan.outputs.push(tensor("y"));
        plan.parameters.push(ParameterSpecification {
            name: "w".into(),
            element: ElementType::F32,
            shape: vec![4],
            layout: None,
        });
        plan.slots.push(Slot { bytes: tokens.clone() * 16 });
        plan.kernels.push(Kernel {
            name: "add".into(),
            hash: "00".into(),
            parameters: vec![
                ParameterKind::Buffer,
                ParameterKind::Buffer,
                ParameterKind::Buffer,
                ParameterKind::Integer,
            ],
            partition: Partition::default(),
            block_threads: 1,
            dynamic_shared_bytes: 0,
            scratch_bytes: 0,
        });
        plan.launches.push(Launch {
            kernel: 0,
            grid: [tokens.clone(), 1.into(), 1.into()],
            arguments: vec![
                Argument::buffer(BufferReference::Input(0)),
                Argument::buffer(BufferReference::Parameter(0)),
                Argument::buffer(BufferReference::Output(0)),
                Argument::Integer(tokens),
            ],
            guard: None,
            label: "add".into(),
        });
        plan
    }

    fn refused(change: impl FnOnce(&mut Plan)) -> String {
        let mut plan = plan();
        change(&mut plan);
        plan.validate().expect_err("the plan is malformed").to_string()
    }

    #[test]
    fn a_well_formed_plan_passes_and_survives_serialization() {
        let plan = plan();
        assert_eq!(plan.validate(), Ok(()));
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }

    #[test]
    fn every_index_is_checked() {
        let message = refused(|plan| plan.launches[0].kernel = 1);
        assert_eq!(message, "malformed plan: launch 0 (add): kernel 1 does not exist, there are 1");
        let references = [
            BufferReference::Input(1),
            BufferReference::Output(1),
            BufferReference::Parameter(1),
            BufferReference::Cache(0),
            BufferReference::Slot(1),
            BufferReference::Constant(0),
        ];
        for reference in references {
            let message = refused(|plan| plan.launches[0].arguments[0] = Argument::buffer(reference));
            assert!(message.contains("does not exist"), "{message}");
        }
        let message = refused(|plan| plan.slots[0].bytes = Extent::symbol(3));
        assert_eq!(message, "malformed plan: slot 0: symbol 3 of 1");
    }

    #[test]
    fn checks_are_on_indices() {
        let message = refused(|plan| plan.checks.push(Check::Indices { input: 1, limit: 3.into() }));
        assert_eq!(message, "malformed plan: check 0: input 1 does not exist, there are 1");
        let message = refused(|plan| plan.checks.push(Check::Indices { input: 0, limit: 3.into() }));
        assert_eq!(message, "malformed plan: check 0: input `x` holds no indices");
        let message = refused(|plan| {
            plan.inputs[0].element = ElementType::I32;
            let pages =
                Check::Pages { positions: 0, sequences: 0, table: 0, page_size: 4, window: None, pages: 3.into() };
            plan.checks.push(pages);
        });
        assert!(message.contains("a page table has two dimensions"), "{message}");
    }

    #[test]
    fn arguments_must_match_parameters() {
        let message = refused(|plan| plan.launches[0].arguments[3] = Argument::Float(1.0));
        assert!(message.contains("kernel `add` takes [Buffer, Buffer, Buffer, Integer]"), "{message}");
        refused(|plan| plan.launches[0].arguments.truncate(3));
        let message = refused(|plan| {
            plan.kernels[0].parameters[3] = ParameterKind::Float;
            plan.launches[0].arguments[3] = Argument::Float(f32::NAN);
        });
        assert!(message.contains("not finite"), "{message}");
    }

    #[test]
    fn symbols_need_a_source_and_names_are_unique() {
        let message = refused(|plan| {
            plan.intern_symbol("U");
        });
        assert!(message.contains("symbol `U` is a dimension of no input"), "{message}");
        let message = refused(|plan| plan.inputs.push(plan.inputs[0].clone()));
        assert!(message.contains("two inputs and caches are named `x`"), "{message}");
    }

    #[test]
    fn kernel_names_cannot_escape_the_artifact() {
        for name in ["../evil", "", "9lives", "a b", "a\0"] {
            let message = refused(|plan| plan.kernels[0].name = name.into());
            assert!(message.contains("letters, digits and underscores"), "{message}");
        }
    }
}
