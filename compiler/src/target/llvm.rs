//! From a finished MLIR module to target code: verification, translation to LLVM IR, the pass pipeline, emission.
//!
//! A target builds a module out of the `llvm` and `nvvm` dialects alone, in a context made by [`mlir_context`], and hands it to [`translate`]. No MLIR
//! pass runs in between: what the target emits is what LLVM gets.

use std::sync::{Arc, Mutex, Once};

use inkwell::OptimizationLevel;
use inkwell::context::Context as LlvmContext;
use inkwell::module::Module as LlvmModule;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{
    CodeModel, FileType, InitializationConfig, RelocMode, Target, TargetMachine, TargetMachineOptions, TargetTriple,
};
use melior::diagnostic::DiagnosticHandlerId;
use melior::dialect::DialectHandle;
use melior::ir::Module as MlirModule;
use melior::ir::operation::OperationLike;
use melior::utility::register_all_llvm_translations;

/// Why no code came out of a module. None of these is the fault of a tile program: each tells of a defect in a target or of an LLVM that lacks it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The MLIR module breaks a rule of its dialects.
    #[error("the generated MLIR is not valid: {0}")]
    Verification(String),
    /// An operation has no counterpart in LLVM IR.
    #[error("MLIR cannot be translated to LLVM IR: {0}")]
    Translation(String),
    /// LLVM was built without the target, or does not know the processor.
    #[error("LLVM has no target machine for {triple} {processor}: {reason}")]
    TargetMachine {
        /// The triple asked for.
        triple: String,
        /// The processor asked for.
        processor: String,
        /// What LLVM says.
        reason: String,
    },
    /// The pass pipeline failed.
    #[error("LLVM's pass pipeline failed: {0}")]
    Optimization(String),
    /// Instruction selection or printing failed.
    #[error("LLVM cannot emit code: {0}")]
    Emission(String),
}

/// The processor that code is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processor {
    /// LLVM triple, such as `nvptx64-nvidia-cuda`.
    pub triple: String,
    /// LLVM name, such as `sm_90a` or `skylake-avx512`.
    pub name: String,
    /// LLVM features, such as `+ptx80` or `+avx2,+fma`.
    pub features: String,
}

/// What the pass pipeline may do beside its fixed parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Optimizations {
    /// Unroll loops. Off where the target unrolls by itself what is worth it.
    pub unroll_loops: bool,
    /// Vectorize loops and straight-line code.
    pub vectorize: bool,
}

/// What is emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Text: PTX, or the assembly language of the host.
    Assembly,
    /// A relocatable object file.
    Object,
}

/// An MLIR context with the dialects that targets emit and with their translations to LLVM IR.
///
/// Contexts are cheap (under a millisecond) and not shared between threads: each kernel has its own.
pub fn mlir_context() -> melior::Context {
    let context = melior::Context::new();
    context.enable_multi_threading(false);
    register_all_llvm_translations(&context);
    DialectHandle::llvm().load_dialect(&context);
    // SAFETY: the handle is a static of MLIR, valid for the life of the process.
    unsafe { DialectHandle::from_raw(mlir_sys::mlirGetDialectHandle__nvvm__()) }.load_dialect(&context);
    context
}

/// Verifies a module and translates it to LLVM IR in `llvm`.
pub fn translate<'l>(
    context: &melior::Context,
    module: &MlirModule<'_>,
    llvm: &'l LlvmContext,
) -> Result<LlvmModule<'l>, Error> {
    let diagnostics = Diagnostics::collect(context);
    if !module.as_operation().verify() {
        return Err(Error::Verification(diagnostics.take()));
    }
    // SAFETY: both arguments are alive; the function returns null or a module owned by the caller, which `LlvmModule` then disposes of.
    unsafe {
        let raw = mlir_sys::mlirTranslateModuleToLLVMIR(module.as_operation().to_raw(), llvm.raw().cast());
        if raw.is_null() {
            return Err(Error::Translation(diagnostics.take()));
        }
        Ok(LlvmModule::new(raw.cast()))
    }
}

/// The machine that emits code for a processor.
pub fn target_machine(processor: &Processor) -> Result<TargetMachine, Error> {
    static INITIALIZE: Once = Once::new();
    INITIALIZE.call_once(|| {
        let config = InitializationConfig { asm_parser: false, ..InitializationConfig::default() };
        Target::initialize_nvptx(&config);
        shorten_shared_pointers();
        Target::initialize_x86(&InitializationConfig::default());
        Target::initialize_aarch64(&InitializationConfig::default());
    });
    let error = |reason: String| Error::TargetMachine {
        triple: processor.triple.clone(),
        processor: processor.name.clone(),
        reason,
    };
    let triple = TargetTriple::create(&processor.triple);
    let target = Target::from_triple(&triple).map_err(|reason| error(reason.to_string()))?;
    let options = TargetMachineOptions::new()
        .set_cpu(&processor.name)
        .set_features(&processor.features)
        .set_level(OptimizationLevel::Aggressive)
        .set_reloc_mode(RelocMode::PIC)
        .set_code_model(CodeModel::Default);
    target
        .create_target_machine_from_options(&triple, options)
        .ok_or_else(|| error("the processor or a feature is unknown".into()))
}

/// Makes pointers to shared memory 32 bits wide in PTX, as its addresses are. LLVM has this as a command-line option only.
fn shorten_shared_pointers() {
    let arguments = [c"tessera".as_ptr(), c"-nvptx-short-ptr".as_ptr()];
    // SAFETY: the arguments are as many as said and live for the call; options are read once, before any machine is made.
    unsafe {
        inkwell::llvm_sys::support::LLVMParseCommandLineOptions(
            arguments.len() as i32,
            arguments.as_ptr(),
            std::ptr::null(),
        );
    }
}

/// Gives the module the machine's triple and data layout and runs the O3 pipeline on it.
pub fn optimize(module: &LlvmModule<'_>, machine: &TargetMachine, optimizations: Optimizations) -> Result<(), Error> {
    run_passes(module, machine, optimizations, "default<O3>")
}

/// As [`optimize`], with a pipeline of the target's own in LLVM's textual form.
pub fn run_passes(
    module: &LlvmModule<'_>,
    machine: &TargetMachine,
    optimizations: Optimizations,
    passes: &str,
) -> Result<(), Error> {
    module.set_triple(&machine.get_triple());
    module.set_data_layout(&machine.get_target_data().get_data_layout());
    let options = PassBuilderOptions::create();
    options.set_loop_unrolling(optimizations.unroll_loops);
    options.set_loop_vectorization(optimizations.vectorize);
    options.set_loop_interleaving(optimizations.vectorize);
    options.set_loop_slp_vectorization(optimizations.vectorize);
    module.run_passes(passes, machine, options).map_err(|error| Error::Optimization(error.to_string()))
}

/// As [`optimize`], with a pipeline of the target's own in the syntax of LLVM's `opt`.
pub fn optimize_with(module: &LlvmModule<'_>, machine: &TargetMachine, pipeline: &str) -> Result<(), Error> {
    module.set_triple(&machine.get_triple());
    module.set_data_layout(&machine.get_target_data().get_data_layout());
    let options = PassBuilderOptions::create();
    module.run_passes(pipeline, machine, options).map_err(|error| Error::Optimization(error.to_string()))
}

/// Emits an optimized module.
pub fn emit(module: &LlvmModule<'_>, machine: &TargetMachine, output: Output) -> Result<Vec<u8>, Error> {
    let file_type = match output {
        Output::Assembly => FileType::Assembly,
        Output::Object => FileType::Object,
    };
    let buffer =
        machine.write_to_memory_buffer(module, file_type).map_err(|error| Error::Emission(error.to_string()))?;
    let bytes = buffer.as_slice();
    // Text buffers end in a NUL that is no part of the file.
    Ok(match output {
        Output::Assembly => bytes.strip_suffix(&[0]).unwrap_or(bytes).to_vec(),
        Output::Object => bytes.to_vec(),
    })
}

/// Collects what MLIR reports on a context while it lives, instead of letting it go to standard error.
struct Diagnostics<'c> {
    context: &'c melior::Context,
    handler: Option<DiagnosticHandlerId>,
    messages: Arc<Mutex<Vec<String>>>,
}

impl<'c> Diagnostics<'c> {
    fn collect(context: &'c melior::Context) -> Self {
        let messages = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&messages);
        let handler = context.attach_diagnostic_handler(move |diagnostic| {
            if let Ok(mut messages) = sink.lock() {
                messages.push(diagnostic.to_string());
            }
            true
        });
        Self { context, handler: Some(handler), messages }
    }

    fn take(&self) -> String {
        self.messages.lock().map(|messages| messages.join("; ")).unwrap_or_default()
    }
}

impl Drop for Diagnostics<'_> {
    fn drop(&mut self) {
        if let Some(handler) = self.handler.take() {
            self.context.detach_diagnostic_handler(handler);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE_ONE: &str = r#"
        llvm.func @store_one(%p: !llvm.ptr<1>) attributes {nvvm.kernel} {
          %one = llvm.mlir.constant(1.0 : f32) : f32
          llvm.store %one, %p : f32, !llvm.ptr<1>
          llvm.return
        }"#;

    fn compile(source: &str, triple: &str, name: &str, features: &str, output: Output) -> Result<Vec<u8>, Error> {
        let context = mlir_context();
        let module = MlirModule::parse(&context, source).expect("the test's MLIR parses");
        let llvm = LlvmContext::create();
        let module = translate(&context, &module, &llvm)?;
        let machine =
            target_machine(&Processor { triple: triple.into(), name: name.into(), features: features.into() })?;
        optimize(&module, &machine, Optimizations::default())?;
        emit(&module, &machine, output)
    }

    #[test]
    fn a_kernel_becomes_ptx() {
        let ptx = compile(STORE_ONE, "nvptx64-nvidia-cuda", "sm_80", "+ptx80", Output::Assembly).unwrap();
        let ptx = String::from_utf8(ptx).unwrap();
        assert!(ptx.contains(".target sm_80") && ptx.contains(".visible .entry store_one("), "{ptx}");
        assert!(ptx.contains("st.global.b32"), "{ptx}");
    }

    #[test]
    fn a_function_becomes_an_object() {
        let object = compile(STORE_ONE, "x86_64-unknown-linux-gnu", "x86-64-v3", "", Output::Object).unwrap();
        assert!(object.starts_with(b"\x7fELF"));
    }

    #[test]
    fn what_cannot_be_translated_is_an_error_with_the_reason() {
        let source = r#"llvm.func @f(%a: i32) -> i64 { %b = builtin.unrealized_conversion_cast %a : i32 to i64  llvm.return %b : i64 }"#;
        let error = compile(source, "nvptx64-nvidia-cuda", "sm_80", "", Output::Assembly).unwrap_err();
        assert!(
            matches!(&error, Error::Translation(reason) if reason.contains("unrealized_conversion_cast")),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_triple_is_an_error() {
        let error = compile(STORE_ONE, "vax-dec-ultrix", "vax", "", Output::Object).unwrap_err();
        assert!(matches!(error, Error::TargetMachine { .. }), "{error}");
    }
}
