//! A plan with all its symbols' values filled in.

use super::RunError;
use super::arena::{self, Layout};
use super::executable::Loaded;
use crate::device::{PreparedLaunch, Recording};
use crate::plan::{Argument, BufferReference, Extent, ExtentError, Launch};

/// The launches of a plan for one set of symbol values.
///
/// Inputs, outputs and caches have addresses that change from call to call; they are filled in before each run, and everything
/// else stays. So a step with the shapes of an earlier one costs no planning.
#[derive(Debug)]
pub(super) struct Binding {
    pub symbols: Vec<u64>,
    /// When it was last used.
    pub used: u64,
    pub output_bytes: Vec<u64>,
    pub output_shapes: Vec<Vec<u64>>,
    pub recording: Box<dyn Recording>,
    /// For each launch of the recording, which launch of the plan it is.
    pub launches: Vec<usize>,
    patches: Vec<Patch>,
}

/// An argument that is filled in before each run.
#[derive(Clone, Copy, Debug)]
struct Patch {
    launch: usize,
    argument: usize,
    reference: BufferReference,
    offset: u64,
}

/// Sizes that a binding needs before memory for it can be had.
pub(super) struct Sizes {
    pub layout: Layout,
    pub output_bytes: Vec<u64>,
    pub output_shapes: Vec<Vec<u64>>,
    slot_bytes: Vec<u64>,
}

/// Evaluates every size of the plan.
pub(super) fn measure(loaded: &Loaded, symbols: &[u64]) -> Result<Sizes, RunError> {
    let plan = &loaded.plan;
    let evaluate = |extent: &Extent, place: &dyn Fn() -> String| evaluate(extent, symbols, place);
    let slots = plan.slots.iter().enumerate();
    let slot_bytes = slots.map(|(index, slot)| evaluate(&slot.bytes, &|| format!("slot {index}")));
    let slot_bytes = slot_bytes.collect::<Result<Vec<_>, _>>()?;
    let overflow = ExtentError::Overflow("the bytes of all slots".into());
    let overflow = || RunError::Extent { place: "arena".into(), error: overflow };
    let layout = arena::lay_out(&slot_bytes, &loaded.lifetimes).ok_or_else(overflow)?;
    let mut output_bytes = Vec::new();
    let mut output_shapes = Vec::new();
    for output in &plan.outputs {
        let place = || format!("output `{}`", output.name);
        let shape = output.shape.iter().map(|dimension| evaluate(dimension, &place)).collect::<Result<_, _>>()?;
        output_shapes.push(shape);
        let bytes = output.bytes(symbols).map_err(|error| RunError::Extent { place: place(), error })?;
        output_bytes.push(bytes);
    }
    Ok(Sizes { layout, output_bytes, output_shapes, slot_bytes })
}

fn evaluate(extent: &Extent, symbols: &[u64], place: &dyn Fn() -> String) -> Result<u64, RunError> {
    extent.evaluate(symbols).map_err(|error| RunError::Extent { place: place(), error })
}

impl Binding {
    /// Prepares the launches. `arena` is the address of memory of at least `sizes.layout.bytes` bytes.
    pub fn new(loaded: &Loaded, symbols: Vec<u64>, sizes: Sizes, arena: u64) -> Result<Binding, RunError> {
        let mut prepared = Vec::new();
        let mut launches = Vec::new();
        let mut patches = Vec::new();
        for (index, launch) in loaded.plan.launches.iter().enumerate() {
            let place = || format!("launch {index} ({})", launch.label);
            let Some(grid) = grid(launch, &symbols, &place)? else { continue };
            let mut arguments = Vec::with_capacity(launch.arguments.len());
            for argument in &launch.arguments {
                arguments.push(match argument {
                    Argument::Integer(extent) => evaluate(extent, &symbols, &place)?,
                    Argument::Float(value) => u64::from(value.to_bits()),
                    Argument::Buffer { reference, byte_offset } => {
                        let offset = evaluate(byte_offset, &symbols, &place)?;
                        let (address, bytes) = locate(loaded, &sizes, &symbols, *reference, arena, &place)?;
                        if offset > bytes {
                            return Err(RunError::OutOfBounds { place: place(), offset, bytes });
                        }
                        if address.is_none() {
                            let (launch, argument) = (prepared.len(), arguments.len());
                            patches.push(Patch { launch, argument, reference: *reference, offset });
                        }
                        address.unwrap_or(0) + offset
                    }
                });
            }
            launches.push(index);
            prepared.push(PreparedLaunch { kernel: launch.kernel, grid, arguments });
        }
        let recording = loaded.module.prepare(prepared)?;
        let Sizes { output_bytes, output_shapes, .. } = sizes;
        Ok(Binding { symbols, used: 0, output_bytes, output_shapes, recording, launches, patches })
    }

    /// Fills in the addresses of inputs, outputs and caches.
    pub fn patch(&mut self, address_of: impl Fn(BufferReference) -> u64) {
        for patch in &self.patches {
            let address = address_of(patch.reference) + patch.offset;
            self.recording.set_argument(patch.launch, patch.argument, address);
        }
    }
}

/// The grid of a launch; `None` where its guard fails or it has no programs.
fn grid(launch: &Launch, symbols: &[u64], place: &dyn Fn() -> String) -> Result<Option<[u32; 3]>, RunError> {
    let failed = |error| RunError::Extent { place: place(), error };
    if let Some(guard) = &launch.guard
        && !guard.holds(symbols).map_err(failed)?
    {
        return Ok(None);
    }
    let mut grid = [0; 3];
    for (size, extent) in grid.iter_mut().zip(&launch.grid) {
        let value = evaluate(extent, symbols, place)?;
        *size = u32::try_from(value).map_err(|_| failed(ExtentError::Overflow(format!("grid size {value}"))))?;
    }
    Ok((!grid.contains(&0)).then_some(grid))
}

/// The address of a buffer, where it is the same in every call, and its size.
fn locate(
    loaded: &Loaded,
    sizes: &Sizes,
    symbols: &[u64],
    reference: BufferReference,
    arena: u64,
    place: &dyn Fn() -> String,
) -> Result<(Option<u64>, u64), RunError> {
    let plan = &loaded.plan;
    Ok(match reference {
        BufferReference::Slot(index) => (Some(arena + sizes.layout.offsets[index]), sizes.slot_bytes[index]),
        BufferReference::Parameter(index) => {
            let memory = &loaded.parameters[index];
            (Some(memory.address()), memory.bytes())
        }
        BufferReference::Constant(index) => {
            let memory = &loaded.constants[index];
            (Some(memory.address()), memory.bytes())
        }
        BufferReference::Output(index) => (None, sizes.output_bytes[index]),
        BufferReference::Input(index) => {
            let bytes = plan.inputs[index].bytes(symbols);
            (None, bytes.map_err(|error| RunError::Extent { place: place(), error })?)
        }
        BufferReference::Cache(index) => {
            let cache = &plan.caches[index];
            let overflow = || ExtentError::Overflow(format!("bytes of cache `{}`", cache.name));
            let bytes = cache.bytes(symbols[cache.pages]).ok_or_else(overflow);
            (None, bytes.map_err(|error| RunError::Extent { place: place(), error })?)
        }
    })
}
