//! From a function of scheduled fusions to tile programs and the execution plan.

use std::collections::HashMap;

use tessera_ir::{ConstantValue, Function, Graph, Module, Name, NodeKind, Storage, Type, ValueId, ops};
use tessera_runtime::plan::{
    Argument, BUFFER_ALIGNMENT, Balance, BufferReference, CacheSpecification, ConstantSpecification, ElementType,
    Extent, Guard, Kernel, Launch, ParameterKind, ParameterSpecification, Partition, Plan, Slot, TensorSpecification,
};

use super::arguments::{Binding, Buffer, Partial};
use super::checks::{Source, checks};
use super::cost;
use super::error::ScheduleError;
use super::form::{flatten, is_list};
use super::kernel::{Built, PartialSize};
use super::library::{InputKind, Library};
use super::packing::{PackedParameter, packed_parameters};
use super::steps::Step;
use super::strategy::{Strategy, Tiling};
use super::symbols::Symbols;
use crate::target::Target;
use crate::target::host::STREAMED_ROWS;
use crate::tile::{self, Program};

/// Tile programs and the plans that launch them. Kernels of the plans and programs go by the same names.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The programs, each once.
    pub programs: Vec<Program>,
    /// A plan for each function. What only a target knows of a kernel (scratch, shared memory) is 0 still.
    pub plans: Vec<Plan>,
    /// Contents of `constants.bin`.
    pub constants: Vec<u8>,
}

/// The symbols of a function: those of its inputs in order, then the numbers of pages of its caches.
pub fn symbols_of(function: &Function) -> Symbols {
    let mut symbols = Symbols::default();
    for (_, ty) in function.inputs() {
        for dim in ty.as_tensor().iter().flat_map(|ty| ty.shape.iter()) {
            if let Some(name) = dim.as_symbol() {
                symbols.intern(name);
            }
        }
    }
    for (name, ty) in function.inputs() {
        if matches!(ty, Type::KvCache(_)) {
            symbols.intern(&pages_symbol(name));
        }
    }
    symbols
}

/// The symbol for the number of pages of a cache.
fn pages_symbol(cache: &str) -> Name {
    Name::from(format!("pages of {cache}"))
}

/// The input that a cache value is a later state of.
fn cache_source(graph: &Graph, value: ValueId) -> Option<ValueId> {
    match graph.node(value.node).kind() {
        NodeKind::Input(_) => Some(value),
        NodeKind::Parameter(_) => None,
        NodeKind::Operation(operation) => {
            let operands = graph.operands(value.node);
            match operation.region() {
                None => cache_source(graph, *operands.first()?),
                Some(region) => {
                    let inner = cache_source(region, *region.outputs().get(value.result as usize)?)?;
                    let NodeKind::Input(input) = region.node(inner.node).kind() else { return None };
                    cache_source(graph, *operands.get(*input)?)
                }
            }
        }
    }
}

/// Where each operand of a region comes from.
pub fn input_kinds(
    graph: &Graph,
    symbols: &Symbols,
    packed: &HashMap<Name, PackedParameter>,
    operands: &[ValueId],
) -> Vec<InputKind> {
    operands
        .iter()
        .map(|operand| match (graph.value_type(*operand), graph.node(operand.node).kind()) {
            (Type::KvCache(_), _) => {
                let source = cache_source(graph, *operand);
                let name = source.and_then(|source| graph.value_name(source));
                let symbol = name.and_then(|name| symbols.position(&pages_symbol(name)));
                InputKind::Cache(symbol.map_or(Extent::from(0), Extent::symbol))
            }
            (_, NodeKind::Operation(_)) => InputKind::Made,
            (_, NodeKind::Parameter(name)) => packed.get(name).map_or(InputKind::Given, |own| InputKind::Packed(*own)),
            _ => InputKind::Given,
        })
        .collect()
}

/// Lowers a module of formed functions.
///
/// # Errors
/// A schedule cannot be read or does not fit its region; a symbol is a dimension of no input.
pub fn lower(module: &Module, library: &mut Library) -> Result<Lowered, ScheduleError> {
    let mut lowered = Lowered { programs: Vec::new(), plans: Vec::new(), constants: Vec::new() };
    if module.functions.is_empty() {
        return Err(ScheduleError::Function("the module has no functions".into()));
    }
    for function in &module.functions {
        lower_function(module, function, library, &mut lowered)?;
    }
    Ok(lowered)
}

fn lower_function(
    module: &Module,
    function: &Function,
    library: &mut Library,
    lowered: &mut Lowered,
) -> Result<(), ScheduleError> {
    let symbols = &symbols_of(function);
    let packed = packed_parameters(&flatten(&function.graph)?.graph, library.machine().target);
    let mut lowering = Lowering {
        graph: &function.graph,
        symbols,
        plan: Plan::new(module.name.to_string(), function.name.to_string()),
        programs: &mut lowered.programs,
        by_hash: HashMap::new(),
        buffers: HashMap::new(),
        constants: &mut lowered.constants,
        target: library.machine().target,
        packed: &packed,
        orders: Vec::new(),
    };
    lowering.plan.symbols = symbols.names().iter().map(ToString::to_string).collect();
    lowering.interface(function)?;
    for (node, operation) in function.graph.operations() {
        if is_list(operation) {
            lowering.constant(ValueId::first(node))?;
            continue;
        }
        let (Some(ops::Fusion { label, schedule }), Some(region)) = (operation.downcast(), operation.region()) else {
            return Err(ScheduleError::Function(format!("`{}` stands outside of a kernel", operation.op().name())));
        };
        let label = label.unwrap_or_else(|| "kernel".into());
        let error = |reason: String| ScheduleError::Schedule { region: label.to_string(), reason };
        let variants = match schedule {
            Some(text) => cost::read(&text).map_err(error)?,
            None => cost::choose(region, library.machine(), library.overrides()),
        };
        let operands = function.graph.operands(node);
        let kinds = input_kinds(&function.graph, symbols, &packed, &operands);
        let results: Vec<ValueId> = (0..region.outputs().len() as u32).map(|result| ValueId { node, result }).collect();
        lowering.results(&results)?;
        for variant in &variants {
            let steps = library
                .steps(region, symbols, &kinds, &variant.tiling)
                .map_err(|(_, cut)| error(format!("the schedule `{}` does not fit: {cut}", variant.tiling)))?;
            let guard = match &variant.when {
                None => None,
                Some((symbol, minimum, maximum)) => {
                    let position =
                        symbols.position(symbol).ok_or_else(|| error(format!("there is no symbol {symbol}")))?;
                    Some(Guard { extent: Extent::symbol(position), minimum: *minimum, maximum: *maximum })
                }
            };
            let mut inputs: Vec<BufferReference> = lowering.places(&operands)?;
            let outputs = lowering.places(&results)?;
            let mut partials: Vec<(Partial, usize)> = Vec::new();
            for step in steps {
                if step.built.orders_rows() {
                    partials.extend(lowering.order(step, guard.as_ref(), &label, &inputs, &partials)?);
                    continue;
                }
                partials.extend(lowering.partials(&step.built.partials, guard.as_ref()));
                let partials = partials.as_slice();
                match &step.stores {
                    None => {
                        let memory = KernelMemory { inputs: &inputs, outputs: &outputs, partials };
                        lowering.launch(step, guard.clone(), &label, &memory)?;
                    }
                    Some(ty) => {
                        let stored = lowering.slot(ty)?;
                        let label = Name::from(format!("prologue of {label}"));
                        let memory = KernelMemory { inputs: &inputs, outputs: &[stored], partials };
                        lowering.launch(step, guard.clone(), &label, &memory)?;
                        inputs.push(stored);
                    }
                }
            }
        }
    }
    let plan = lowering.plan;
    plan.validate()?;
    lowered.plans.push(plan);
    Ok(())
}

struct Lowering<'a> {
    graph: &'a Graph,
    symbols: &'a Symbols,
    plan: Plan,
    /// Of all functions.
    programs: &'a mut Vec<Program>,
    /// Kernels of this plan.
    by_hash: HashMap<blake3::Hash, usize>,
    buffers: HashMap<ValueId, BufferReference>,
    constants: &'a mut Vec<u8>,
    target: Target,
    packed: &'a HashMap<Name, PackedParameter>,
    orders: Vec<Order>,
}

/// Rows that have been put in the order of their experts: several products take them in it.
struct Order {
    /// The kernel that does it, and what it reads.
    kernel: blake3::Hash,
    reads: Vec<Argument>,
    launch: usize,
    /// Where it leaves what.
    partials: Vec<(Partial, usize)>,
}

impl Lowering<'_> {
    fn element(&self, storage: Storage) -> Result<ElementType, ScheduleError> {
        let name = storage.name();
        name.parse().map_err(|_| ScheduleError::Function(format!("there are no buffers of {name}")))
    }

    fn shape(&self, ty: &Type) -> Result<(ElementType, Vec<Extent>), ScheduleError> {
        let Some(ty) = ty.as_tensor() else {
            return Err(ScheduleError::Function("a cache has no shape".into()));
        };
        let unknown =
            ty.shape.iter().filter_map(|dim| dim.as_symbol()).find(|name| self.symbols.position(name).is_none());
        if let Some(name) = unknown {
            let message =
                format!("symbol {name} is a dimension of no input, so its value cannot be known when the model runs");
            return Err(ScheduleError::Function(message));
        }
        Ok((self.element(ty.storage())?, ty.shape.iter().map(|dim| self.symbols.extent(dim)).collect()))
    }

    fn interface(&mut self, function: &Function) -> Result<(), ScheduleError> {
        let graph = self.graph;
        let mut sources = Vec::new();
        for (value, (name, ty)) in graph.inputs().zip(function.inputs()) {
            match ty {
                Type::Tensor(_) => {
                    let (element, shape) = self.shape(ty)?;
                    sources.push(Some(Source::Input(self.plan.inputs.len())));
                    self.buffers.insert(value, BufferReference::Input(self.plan.inputs.len()));
                    self.plan.inputs.push(TensorSpecification { name: name.into(), element, shape });
                }
                Type::KvCache(cache) => {
                    let pages = self.symbols.position(&pages_symbol(name)).unwrap_or(0);
                    sources.push(Some(Source::Cache(pages)));
                    self.buffers.insert(value, BufferReference::Cache(self.plan.caches.len()));
                    self.plan.caches.push(CacheSpecification {
                        name: name.into(),
                        element: self.element(cache.storage)?,
                        layers: cache.layers,
                        heads: cache.heads,
                        head_dimension: cache.dim,
                        page_size: cache.page_size,
                        window: cache.window,
                        pages,
                    });
                }
            }
        }
        self.plan.checks = checks(graph, self.symbols, &sources);
        for (name, value) in graph.parameters() {
            let Some(ty) = graph.value_type(value).as_tensor() else { continue };
            let shape: Option<Vec<u64>> = ty.shape.iter().map(|dim| dim.as_static()).collect();
            let shape = shape.ok_or_else(|| {
                ScheduleError::Function(format!(
                    "parameter @{name} has a symbolic dimension; weights have fixed shapes"
                ))
            })?;
            let element = self.element(ty.storage())?;
            let layout = self.packed.get(name).map(PackedParameter::layout);
            self.buffers.insert(value, BufferReference::Parameter(self.plan.parameters.len()));
            self.plan.parameters.push(ParameterSpecification { name: name.to_string(), element, shape, layout });
        }
        for (index, value) in graph.outputs().iter().copied().enumerate() {
            let ty = graph.value_type(value);
            if matches!(ty, Type::KvCache(_)) {
                continue;
            }
            let (element, shape) = self.shape(ty)?;
            let name = graph.value_name(value).map(ToString::to_string);
            let name = name.filter(|name| self.plan.outputs.iter().all(|output| output.name != *name));
            let name = name.unwrap_or_else(|| format!("output{index}"));
            self.buffers.insert(value, BufferReference::Output(self.plan.outputs.len()));
            self.plan.outputs.push(TensorSpecification { name, element, shape });
        }
        Ok(())
    }

    /// Gives memory to results that have none.
    fn results(&mut self, results: &[ValueId]) -> Result<(), ScheduleError> {
        let graph = self.graph;
        for value in results {
            match graph.value_type(*value) {
                Type::KvCache(_) => {
                    let source = cache_source(graph, *value).and_then(|source| self.buffers.get(&source).copied());
                    let source = source.ok_or_else(|| ScheduleError::Function("a cache comes from no input".into()))?;
                    self.buffers.insert(*value, source);
                }
                ty if !self.buffers.contains_key(value) => {
                    let slot = self.slot(ty)?;
                    self.buffers.insert(*value, slot);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A new temporary buffer for a tensor.
    fn slot(&mut self, ty: &Type) -> Result<BufferReference, ScheduleError> {
        let (element, shape) = self.shape(ty)?;
        let (group, bytes) = element.group();
        let elements = Extent::product(shape).ceil_div(group);
        self.plan.slots.push(Slot { bytes: elements * bytes });
        Ok(BufferReference::Slot(self.plan.slots.len() - 1))
    }

    /// Where values are.
    fn places(&self, values: &[ValueId]) -> Result<Vec<BufferReference>, ScheduleError> {
        let place = |value: &ValueId| self.buffers.get(value).copied();
        let places: Option<Vec<BufferReference>> = values.iter().map(place).collect();
        places.ok_or_else(|| ScheduleError::Function("a kernel works on a value that is nowhere".into()))
    }

    fn constant(&mut self, value: ValueId) -> Result<(), ScheduleError> {
        let graph = self.graph;
        let constant = graph.defining(value).and_then(|operation| operation.downcast::<ops::Constant>());
        let (Some(ops::Constant { value: elements }), Some(ty)) = (constant, graph.value_type(value).as_tensor())
        else {
            return Err(ScheduleError::Function("a constant has no elements".into()));
        };
        let padding = self.constants.len().next_multiple_of(BUFFER_ALIGNMENT as usize);
        self.constants.resize(padding, 0);
        let offset = self.constants.len() as u64;
        self.constants.extend(encode(&elements, ty.storage()).ok_or_else(|| {
            ScheduleError::Function(format!("constants of {} cannot be kept in an artifact yet", ty.storage()))
        })?);
        let bytes = self.constants.len() as u64 - offset;
        self.buffers.insert(value, BufferReference::Constant(self.plan.constants.len()));
        self.plan.constants.push(ConstantSpecification { offset, bytes });
        Ok(())
    }

    fn launch(
        &mut self,
        step: Step,
        guard: Option<Guard>,
        label: &Name,
        memory: &KernelMemory<'_>,
    ) -> Result<(), ScheduleError> {
        let Step { built: Built { mut program, bindings, grid, .. }, tiling, .. } = step;
        let hash = content_hash(&program);
        let kernel = match self.by_hash.get(&hash) {
            Some(kernel) => *kernel,
            None => {
                program.name = kernel_name(label, &hash);
                program.summary.splice(0..0, [label.to_string(), tiling.to_string()]);
                // Another function may have the same kernel under another label.
                let ending = &program.name[program.name.len() - 8..];
                let known =
                    self.programs.iter().find(|known| known.name.ends_with(ending) && content_hash(known) == hash);
                let name = match known {
                    Some(known) => known.name.clone(),
                    None => {
                        tile::verify(&program).map_err(Box::new)?;
                        program.name.clone()
                    }
                };
                self.plan.kernels.push(Kernel {
                    name,
                    hash: hash.to_hex().to_string(),
                    parameters: bindings.iter().map(parameter_kind).collect(),
                    partition: partition(&program, &tiling),
                    block_threads: if self.target == Target::Host { 1 } else { tiling.warps * 32 },
                    dynamic_shared_bytes: 0,
                    scratch_bytes: 0,
                });
                if known.is_none() {
                    self.programs.push(program);
                }
                self.by_hash.insert(hash, self.plan.kernels.len() - 1);
                self.plan.kernels.len() - 1
            }
        };
        let arguments = bindings
            .iter()
            .map(|binding| match binding {
                Binding::Integer(extent) => Ok(Argument::Integer(extent.clone())),
                Binding::Buffer(buffer) => self.buffer(*buffer, memory),
            })
            .collect::<Result<Vec<Argument>, ScheduleError>>()?;
        self.plan.launches.push(Launch { kernel, grid, arguments, guard, label: label.to_string() });
        Ok(())
    }

    /// Puts rows in the order of their experts, if that has not been done for another product: then it is done where either wants it.
    fn order(
        &mut self,
        step: Step,
        guard: Option<&Guard>,
        label: &Name,
        inputs: &[BufferReference],
        before: &[(Partial, usize)],
    ) -> Result<Vec<(Partial, usize)>, ScheduleError> {
        let kernel = content_hash(&step.built.program);
        let bindings = step.built.bindings.iter();
        let writes = |partial: &Partial| step.built.partials.iter().any(|size| size.partial == *partial);
        let read = bindings.filter_map(|binding| match binding {
            Binding::Buffer(Buffer::Partial(partial)) if writes(partial) => None,
            Binding::Buffer(buffer) => {
                Some(self.buffer(*buffer, &KernelMemory { inputs, outputs: &[], partials: before }))
            }
            Binding::Integer(extent) => Some(Ok(Argument::Integer(extent.clone()))),
        });
        let reads = read.collect::<Result<Vec<Argument>, ScheduleError>>()?;
        for order in self.orders.iter().filter(|order| order.kernel == kernel && order.reads == reads) {
            let known = &mut self.plan.launches[order.launch].guard;
            match (known.as_mut(), guard) {
                (Some(known), Some(guard)) if known.extent == guard.extent => {
                    known.minimum = known.minimum.min(guard.minimum);
                    known.maximum = known.maximum.max(guard.maximum);
                }
                (Some(_), Some(_)) => continue,
                _ => *known = None,
            }
            return Ok(order.partials.clone());
        }
        let partials = self.partials(&step.built.partials, None);
        let all = [before, &partials].concat();
        self.launch(step, guard.cloned(), label, &KernelMemory { inputs, outputs: &[], partials: &all })?;
        let launch = self.plan.launches.len() - 1;
        self.orders.push(Order { kernel, reads, launch, partials: partials.clone() });
        Ok(partials)
    }

    /// Slots for what one kernel of a region leaves for the next, no larger than the launches under the guard need.
    fn partials(&mut self, sizes: &[PartialSize], guard: Option<&Guard>) -> Vec<(Partial, usize)> {
        let slot = |size: &PartialSize| {
            let tokens = match guard {
                Some(guard) if guard.extent == size.tokens => size.tokens.clone().min(guard.maximum),
                _ => size.tokens.clone(),
            };
            self.plan.slots.push(Slot { bytes: tokens * size.per_token + size.fixed });
            (size.partial, self.plan.slots.len() - 1)
        };
        sizes.iter().map(slot).collect()
    }

    fn buffer(&self, buffer: Buffer, memory: &KernelMemory<'_>) -> Result<Argument, ScheduleError> {
        let reference = match buffer {
            Buffer::Input(input) | Buffer::Keys { input, .. } | Buffer::Values { input, .. } => {
                memory.inputs.get(input).copied()
            }
            Buffer::Output(output) => memory.outputs.get(output).copied(),
            Buffer::Partial(wanted) => {
                let found = memory.partials.iter().find(|(partial, _)| *partial == wanted);
                found.map(|(_, slot)| BufferReference::Slot(*slot))
            }
        };
        let reference =
            reference.ok_or_else(|| ScheduleError::Function("a kernel works on a value that is nowhere".into()))?;
        let byte_offset = match (buffer, reference) {
            (Buffer::Keys { layer, .. } | Buffer::Values { layer, .. }, BufferReference::Cache(cache)) => {
                let cache = &self.plan.caches[cache];
                let half = layer * 2 + u64::from(matches!(buffer, Buffer::Values { .. }));
                let row = cache.page_size * cache.heads * cache.head_dimension;
                let bytes = cache.element.bytes(row).unwrap_or(0);
                Extent::symbol(cache.pages) * (half * bytes)
            }
            _ => Extent::from(0),
        };
        Ok(Argument::Buffer { reference, byte_offset })
    }
}

/// What the buffers of a region's kernels stand for.
struct KernelMemory<'a> {
    inputs: &'a [BufferReference],
    outputs: &'a [BufferReference],
    /// Slots that one kernel leaves something in for the next.
    partials: &'a [(Partial, usize)],
}

fn parameter_kind(binding: &Binding) -> ParameterKind {
    match binding {
        Binding::Buffer(_) => ParameterKind::Buffer,
        Binding::Integer(_) => ParameterKind::Integer,
    }
}

/// The hash of what a program computes: its text without its name.
pub fn content_hash(program: &Program) -> blake3::Hash {
    let mut nameless = program.clone();
    nameless.name.clear();
    nameless.summary.clear();
    blake3::hash(nameless.to_string().as_bytes())
}

fn kernel_name(label: &str, hash: &blake3::Hash) -> String {
    let mut name: String = label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    while name.contains("__") {
        name = name.replace("__", "_");
    }
    name.truncate(60);
    let name = name.trim_matches('_');
    let start = if name.starts_with(|c: char| c.is_ascii_alphabetic()) { "" } else { "k_" };
    format!("{start}{name}_{}", &hash.to_hex()[..8])
}

/// How the host shares a kernel's programs out: small ones stay together, unequal ones are taken as threads get free.
fn partition(program: &Program, tiling: &Tiling) -> Partition {
    // Elements that a program touches, roughly: what fills a microsecond or two is worth a thread.
    let elements: u64 = program.types.iter().map(|tile| tile.len() as u64).sum();
    let grain = (16_384 / elements.max(1)).max(1);
    match tiling.strategy {
        Strategy::Attention | Strategy::Experts => Partition { grain: 1, balance: Balance::Dynamic },
        // The speed of few rows is that of the memory.
        Strategy::Matmul if tiling.rows <= STREAMED_ROWS => Partition { grain, balance: Balance::Dynamic },
        _ => Partition { grain, balance: Balance::Static },
    }
}

/// Elements of a constant as they are in memory.
fn encode(elements: &ConstantValue, storage: Storage) -> Option<Vec<u8>> {
    let integer = |value: i64| -> Option<Vec<u8>> {
        let width = super::access::element_of(storage)?.bytes();
        Some(value.to_le_bytes()[..width].to_vec())
    };
    let float = |value: f64| -> Option<Vec<u8>> {
        Some(match storage {
            Storage::F64 => value.to_le_bytes().to_vec(),
            Storage::F32 => (value as f32).to_le_bytes().to_vec(),
            _ => {
                let format = storage.minifloat()?;
                let width = super::access::element_of(storage)?.bytes();
                format.encode(value).to_le_bytes()[..width].to_vec()
            }
        })
    };
    let parts: Option<Vec<Vec<u8>>> = match elements {
        ConstantValue::Float(elements) => elements.iter().map(|value| float(*value)).collect(),
        ConstantValue::Integer(elements) => elements.iter().map(|value| integer(*value)).collect(),
        ConstantValue::Boolean(elements) => elements.iter().map(|value| integer((*value).into())).collect(),
    };
    parts.map(|parts| parts.concat())
}
