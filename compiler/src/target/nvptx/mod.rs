//! Tile programs to PTX, for NVIDIA GPUs from compute capability 8.0 on.
//!
//! [`compile`] analyses a program (`analysis`), chooses a layout over registers, lanes and warps for every tile (`plan`, `layout`, `dot_plan`), and
//! lowers it to the llvm dialect and NVIDIA's intrinsics (`lower`, `memory`, `shared`, `reduce`, `dot`, `dequantize`, `pipeline`); LLVM makes PTX of that. No
//! device library is needed: transcendental functions are written out (`math`).

mod access;
mod analysis;
pub mod assembler;
mod cast;
mod dequantize;
mod dot;
mod dot_plan;
mod elementwise;
mod emit;
mod error;
mod float8;
mod fragments;
mod layout;
mod lower;
mod math;
mod memory;
mod origins;
mod pipeline;
mod plan;
mod reduce;
mod scalar;
mod shared;
#[cfg(test)]
mod tests;

use inkwell::context::Context as LlvmContext;
use melior::ir::{Location, Module};

pub use error::Error;

use self::analysis::{Analysis, Definition};
use self::emit::{Emitter, Parameter};
use self::lower::Lowering;
use self::plan::Plan;
use super::Chip;
use super::llvm::{self, Optimizations, Output, Processor};
use crate::tile::{self, Access, Argument, Dimension, GridExtent, Program};

/// What LLVM does before code generation: the lowering has placed every load and unrolled what is worth it, so that O3's other passes
/// would only take time (twice as much in all).
const PASSES: &str = "function(early-cse<memssa>,simplifycfg,instcombine<no-verify-fixpoint>,reassociate,\
    loop-mssa(licm),early-cse<memssa>,instcombine<no-verify-fixpoint>,adce,simplifycfg)";

/// What PTX is made for, and what of the way there is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NvptxOptions {
    /// The chip.
    pub chip: Chip,
    /// Keep the text of the MLIR module and of the optimized LLVM IR.
    pub keep_stages: bool,
}

impl NvptxOptions {
    /// For a chip, keeping only the PTX.
    pub const fn new(chip: Chip) -> Self {
        Self { chip, keep_stages: false }
    }
}

/// A compiled kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PtxKernel {
    /// The PTX file: one kernel under a comment that says what it computes and how it was scheduled.
    pub ptx: String,
    /// Name of the kernel in it.
    pub entry: String,
    /// Threads of a block, along x.
    pub threads: u32,
    /// Bytes of dynamic shared memory to launch it with.
    pub dynamic_shared_bytes: u32,
    /// The MLIR module, if it was asked for.
    pub mlir: Option<String>,
    /// The optimized LLVM IR, if it was asked for.
    pub llvm_ir: Option<String>,
}

/// Compiles a tile program to PTX.
pub fn compile(program: &Program, options: &NvptxOptions) -> Result<PtxKernel, Error> {
    check(program)?;
    let chip = options.chip;
    let threads = program.schedule.warps * 32;
    let analysis = Analysis::new(program);
    let plan = Plan::new(&analysis, chip)?;

    let context = llvm::mlir_context();
    let module = Module::new(Location::unknown(&context));
    let dynamic_shared_bytes = {
        let parameters: Vec<Parameter> = program.arguments.iter().map(parameter).collect();
        let blocks = minimum_blocks(&analysis, &plan);
        let (emitter, values) = Emitter::new(&context, &module, &program.name, &parameters, threads, blocks);
        let mut lowering = Lowering::new(&analysis, &plan, chip, emitter, values);
        lowering.lower()?;
        let bytes = lowering.shared.bytes();
        let first = lowering.first;
        lowering.emitter.finish(first);
        bytes
    };
    let available = shared_memory(chip);
    if dynamic_shared_bytes > available {
        return Err(Error::SharedMemory { needed: dynamic_shared_bytes, available, chip: chip.to_string() });
    }

    let mlir = options.keep_stages.then(|| module.as_operation().to_string());
    let llvm_context = LlvmContext::create();
    let llvm_module = llvm::translate(&context, &module, &llvm_context)?;
    let machine = llvm::target_machine(&processor(chip))?;
    llvm::run_passes(&llvm_module, &machine, Optimizations::default(), PASSES)?;
    let llvm_ir = options.keep_stages.then(|| llvm_module.print_to_string().to_string());
    let text = llvm::emit(&llvm_module, &machine, Output::Assembly)?;
    let ptx = format!("{}{}", header(program, chip, dynamic_shared_bytes), readable(&String::from_utf8_lossy(&text)));
    Ok(PtxKernel { ptx, entry: program.name.clone(), threads, dynamic_shared_bytes, mlir, llvm_ir })
}

/// What this target asks of a program beyond its being valid.
fn check(program: &Program) -> Result<(), Error> {
    tile::verify(program)?;
    let warps = program.schedule.warps;
    if !warps.is_power_of_two() || warps > 32 {
        return Err(Error::Warps(warps));
    }
    for (index, tile) in program.types.iter().enumerate() {
        if tile.shape.iter().any(|extent| !extent.is_power_of_two()) {
            return Err(Error::Shape { value: tile::Value(index as u32), shape: tile.shape.to_vec() });
        }
    }
    Ok(())
}

/// How many blocks a multiprocessor should hold, which is how ptxas is told what registers a thread may have. It spills to fit more blocks
/// than are needed if it is not told; a loop over small tiles that carries little is left 128 registers, or 168 where
/// it unpacks weights that each warp has whole; any other all that there are.
fn minimum_blocks(analysis: &Analysis<'_>, plan: &Plan) -> Option<u32> {
    const SMALL: usize = 16;
    let inside = (0..analysis.program.types.len() as u32).map(tile::Value).filter(|&value| analysis.scope(value) > 0);
    let registers = |value| plan.home(value).map_or(0, layout::Layout::register_count);
    let largest = inside.clone().map(registers).max()?;
    let threads = 32 << plan.warps;
    let small = largest <= SMALL && carried(&analysis.program.body, &registers) <= SMALL;
    let unpacks =
        |value| matches!(analysis.definition(value), Definition::Operation(tile::Operation::Dequantize { .. }));
    let most_threads = if plan.split_sums.is_empty() && inside.clone().any(unpacks) { 384 } else { 512 };
    Some(if small { (most_threads / threads).max(1) } else { 1 })
}

/// The most registers that a loop of a block carries from one iteration to the next.
fn carried(block: &tile::Block, registers: &impl Fn(tile::Value) -> usize) -> usize {
    let loops = block.instructions.iter().filter_map(|instruction| match &instruction.operation {
        tile::Operation::For { body, .. } => Some(body),
        _ => None,
    });
    loops
        .map(|body| body.parameters.iter().map(|&value| registers(value)).sum::<usize>().max(carried(body, registers)))
        .max()
        .unwrap_or(0)
}

fn parameter(argument: &Argument) -> Parameter {
    match argument {
        Argument::Tensor(tensor) => {
            Parameter::Global { alignment: tensor.alignment, read_only: tensor.access == Access::Read }
        }
        Argument::Integer { .. } => Parameter::Integer,
        Argument::Float { .. } => Parameter::Float,
    }
}

/// Bytes of shared memory that a block may have (CUDA programming guide, "Technical Specifications per Compute Capability").
fn shared_memory(chip: Chip) -> u32 {
    1024 * match chip.capability {
        80 | 87 => 163,
        90..=109 => 227,
        _ => 99,
    }
}

/// LLVM's name of the chip, with the oldest PTX version that has it and all that is emitted for it.
fn processor(chip: Chip) -> Processor {
    let version = match (chip.capability, chip.specific) {
        (..=88, _) => 80,
        (89..=99, _) => 84,
        (100..=119, _) => 86,
        (120.., _) => 87,
    };
    Processor { triple: "nvptx64-nvidia-cuda".into(), name: chip.to_string(), features: format!("+ptx{version}") }
}

/// The number of programs along an axis, for people.
fn describe(program: &Program, GridExtent::Tiles { dimension, block }: GridExtent) -> String {
    let extent = match dimension {
        Dimension::Constant(extent) => return extent.div_ceil(u64::from(block.max(1))).to_string(),
        Dimension::Argument(index) => program.arguments.get(index.0 as usize).map_or("?", Argument::name),
    };
    if block == 1 { extent.into() } else { format!("⌈{extent} / {block}⌉") }
}

/// The assembly without LLVM's marks around inline instructions.
fn readable(assembly: &str) -> String {
    assembly
        .lines()
        .filter(|line| !matches!(line.trim(), "// begin inline asm" | "// end inline asm"))
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// The comment that heads the file.
fn header(program: &Program, chip: Chip, shared_bytes: u32) -> String {
    let digest = blake3::hash(program.to_string().as_bytes()).to_hex();
    let grid = program.grid.map(|extent| describe(program, extent)).join(" × ");
    let mut lines = program.summary.clone();
    lines.push(format!("tile program {}", &digest[..16]));
    lines.push(format!(
        "{chip}: grid {grid}, {} warps, {} stages, {shared_bytes} bytes of dynamic shared memory",
        program.schedule.warps, program.schedule.stages
    ));
    lines.iter().flat_map(|line| line.lines()).map(|line| format!("// {line}\n")).collect()
}
