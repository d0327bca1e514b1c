//! Tile programs to native code for the host CPU.
//!
//! A tile is not a bag of registers here. A program becomes loop nests: what is stored, reduced, multiplied or carried by a loop is computed by a nest of
//! its own, and every other value is an expression, evaluated where it is needed on vectors along the last dimension. Elementwise chains
//! never touch memory; tiles that must (reductions, products, carried tiles) live in the thread's scratch.
//!
//! # The kernel ABI
//!
//! `extern "C" fn NAME(arguments: *const u64, program_begin: u64, program_end: u64, scratch: *mut u8)`. Every argument fills one slot (a pointer; an integer as
//! i64; f32 bits in the low half); three slots follow with the grid's extents. The kernel runs programs `program_begin..program_end` of the grid
//! in linear order, x fastest. `scratch` is the thread's own during a launch, 64-byte aligned, of at least [`Kernel::scratch_bytes`] bytes; the first [`CLEARED_SCRATCH_BYTES`](tessera_runtime::host::CLEARED_SCRATCH_BYTES) are 0 at the
//! thread's first call of a launch, and what a call leaves in it the next one finds.
//!
//! # What a schedule should know
//!
//! - **The inner dimension of a product is never cut** on the host: load `lhs[BM, K]` and `rhs[K, BN]` whole and write one `Dot`. Tiles are expressions, so
//!   a large one costs nothing; blocking for the caches happens inside. A loop over K blocks works too, and only adds traffic.
//! - **Up to eight rows** (decode): the right-hand side is read once, in memory order, converted in registers.
//!   For `rhs` stored `[K, N]`, wide tiles: `BN` = ⌈N / (threads · small number)⌉, at least 512 columns where N allows: eight rows of
//!   `BN` columns are read side by side, and short pieces of rows waste the prefetchers. For `rhs` stored `[N, K]` (a `Transpose` of a load) any `BN` from 16
//!   on: one column after the other is read. `BM` should be the number of rows that there are (1, 2, 4, 8): rows outside of
//!   the tensor are computed.
//! - **More rows** (prefill): `rhs` is packed into panels, then multiplied by a register-blocked kernel (f32: 6 × 64; bf16: AMX tiles or
//!   `vdpbf16ps`). Let x run over the rows and y over the columns: the packed panel is kept for all programs along x, also in loops that carry
//!   nothing and whose bounds do not vary along x. `BM` = 64 to 128 (for bf16 `BM` and `BN` multiples of 16, better of 32: other
//!   extents do not use AMX), `BN` a multiple of 64, about 200: a left-hand side is read anew for every y, and one that is no plain load of the
//!   arithmetic's element is computed anew, so that narrow tiles repeat prologues (a fused norm). The packed panel, K · `BN` elements, only has
//!   to stay in the last-level cache. Rows that lie outside of the tensor that is stored to are not computed.
//! - **What does not depend on the x coordinate** is computed once for a row of the grid: put shared prologues so that they depend on y and z
//!   alone. The rows of a product with few of them are kept from program to program, whatever coordinates they do not depend on.
//! - Any extent is good for tiles; powers of two are no better than others. Elementwise and row-wise kernels: whole rows
//!   (`[1, N]` or `[BM, N]`), several thousand elements in a program.

mod analysis;
mod conversion;
mod dequantize;
mod dot;
mod emitter;
mod evaluate;
mod features;
mod kept;
mod kernel;
mod link;
mod lower;
mod math;
mod memory;
mod nest;
mod reduce;
#[cfg(test)]
pub(crate) mod tests;

use inkwell::context::Context as LlvmContext;
use rayon::prelude::*;
use thiserror::Error;

pub(crate) use dot::STREAMED_ROWS;
pub use features::CpuFeatures;

use super::llvm::{self, Output, Processor};
use crate::tile::{self, Program, VerifyError, verify};

/// What LLVM does with the generated loops. They are vectorized, unrolled and blocked already, so that half of O3's time would go into passes that find
/// nothing; what matters is to clean up addresses, to move what does not change out of loops, and to share what is computed twice.
const PIPELINE: &str = "function(sroa,early-cse<memssa>,simplifycfg,instcombine<no-verify-fixpoint>,\
    loop-mssa(loop-rotate,licm),simplifycfg,loop(indvars,loop-deletion),gvn,instcombine<no-verify-fixpoint>,\
    loop-mssa(licm),adce,simplifycfg)";

/// Choices of a compilation.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// Processor features to compile for.
    pub features: CpuFeatures,
}

/// A kernel of a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Name in the shared object: the program's.
    pub symbol: String,
    /// Scratch that each thread must bring.
    pub scratch_bytes: u64,
}

/// Compiled kernels.
#[derive(Clone, Debug)]
pub struct HostLibrary {
    /// An ELF shared object that needs no other.
    pub shared_object: Vec<u8>,
    /// Its kernels, in the order of the programs.
    pub kernels: Vec<Kernel>,
    /// What it was compiled for: [`CpuFeatures::names`].
    pub features: Vec<String>,
}

/// Why no code came out.
#[derive(Debug, Error)]
pub enum Error {
    /// A program breaks a rule of the tile IR.
    #[error(transparent)]
    Invalid(#[from] VerifyError),
    /// Unknown or unavailable processor features.
    #[error("CPU features {0}")]
    Features(String),
    /// MLIR or LLVM refused what was generated.
    #[error("kernel @{kernel}: {source}")]
    Code {
        /// Name of the program.
        kernel: String,
        /// What was refused.
        source: llvm::Error,
    },
    /// Data laid out for the threads of a GPU.
    #[error("kernel @{kernel}: `{operation}` takes data in an order that GPUs want; the host has no code for it")]
    Unsupported {
        /// Name of the program.
        kernel: String,
        /// The operation.
        operation: &'static str,
    },
    /// Linking failed.
    #[error("linking host kernels: {0}")]
    Link(String),
}

/// A form of a kernel that can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// MLIR of the `llvm` dialect.
    Mlir,
    /// LLVM IR after optimization.
    Llvm,
    /// Assembly language.
    Assembly,
}

/// Compiles programs, in parallel, into one shared object.
///
/// # Errors
/// [`Error::Invalid`] for a program that the verifier refuses; the others tell of a machine without a linker, or of a defect of this target.
pub fn compile(programs: &[Program], options: &HostOptions) -> Result<HostLibrary, Error> {
    let compiled: Vec<(Vec<u8>, Kernel)> = programs
        .par_iter()
        .map(|program| {
            let (object, scratch_bytes) = generate(program, options, Output::Object)?;
            Ok((object, Kernel { symbol: program.name.clone(), scratch_bytes }))
        })
        .collect::<Result<_, Error>>()?;
    let (mut objects, kernels): (Vec<_>, Vec<_>) = compiled.into_iter().unzip();
    if objects.is_empty() {
        // Linkers want at least one; a function that hands back its inputs has no kernel.
        objects.push(empty_object(options)?);
    }
    let shared_object = link::link(&objects)?;
    Ok(HostLibrary { shared_object, kernels, features: options.features.names() })
}

/// The text of one kernel at a stage of its compilation.
///
/// # Errors
/// As [`compile`].
pub fn dump(program: &Program, options: &HostOptions, stage: Stage) -> Result<String, Error> {
    match stage {
        Stage::Mlir => {
            check(program)?;
            let context = llvm::mlir_context();
            let (module, _) = kernel::build(program, &options.features, &context);
            Ok(module.as_operation().to_string())
        }
        Stage::Llvm => {
            let mut text = String::new();
            with_llvm(program, options, |module, _| {
                text = module.print_to_string().to_string();
                Ok(())
            })?;
            Ok(text)
        }
        Stage::Assembly => {
            let (text, _) = generate(program, options, Output::Assembly)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        }
    }
}

fn generate(program: &Program, options: &HostOptions, output: Output) -> Result<(Vec<u8>, u64), Error> {
    let mut bytes = Vec::new();
    let scratch_bytes = with_llvm(program, options, |module, machine| {
        bytes = llvm::emit(module, machine, output)?;
        Ok(())
    })?;
    Ok((bytes, scratch_bytes))
}

fn empty_object(options: &HostOptions) -> Result<Vec<u8>, Error> {
    let machine = llvm::target_machine(&processor(&options.features));
    let context = LlvmContext::create();
    let module = context.create_module("empty");
    machine
        .and_then(|machine| llvm::emit(&module, &machine, Output::Object))
        .map_err(|source| Error::Code { kernel: "none".into(), source })
}

fn processor(features: &CpuFeatures) -> Processor {
    let (name, features) = features.llvm();
    Processor { triple: "x86_64-unknown-linux-gnu".into(), name: name.into(), features }
}

/// Refuses what is no valid program, and what only GPUs have code for.
fn check(program: &Program) -> Result<(), Error> {
    verify(program)?;
    fn rearranges(block: &tile::Block) -> bool {
        block.instructions.iter().any(|instruction| match &instruction.operation {
            tile::Operation::Rearrange { .. } => true,
            tile::Operation::For { body, .. } => rearranges(body),
            _ => false,
        })
    }
    match rearranges(&program.body) {
        true => Err(Error::Unsupported { kernel: program.name.clone(), operation: "rearrange" }),
        false => Ok(()),
    }
}

/// Hands the optimized LLVM module of a program to `then`; the scratch bytes that the kernel needs.
fn with_llvm(
    program: &Program,
    options: &HostOptions,
    then: impl FnOnce(&inkwell::module::Module<'_>, &inkwell::targets::TargetMachine) -> Result<(), llvm::Error>,
) -> Result<u64, Error> {
    check(program)?;
    let context = llvm::mlir_context();
    let (module, scratch_bytes) = kernel::build(program, &options.features, &context);
    let code = || {
        let llvm_context = LlvmContext::create();
        let module = llvm::translate(&context, &module, &llvm_context)?;
        let machine = llvm::target_machine(&processor(&options.features))?;
        llvm::optimize_with(&module, &machine, PIPELINE)?;
        then(&module, &machine)
    };
    code().map_err(|source| Error::Code { kernel: program.name.clone(), source })?;
    Ok(scratch_bytes)
}
