//! The last stage: code for every tile program, and the artifact.

use std::collections::BTreeMap;

use rayon::prelude::*;
use tessera_runtime::Artifact;
use tessera_runtime::artifact::{self, Code};

use super::dump::{Dumps, Stage};
use super::report::{KernelReport, Report};
use super::{CompileError, PRODUCER};
use crate::schedule::Lowered;
use crate::target::Chip;
use crate::target::host::{self, CpuFeatures, HostOptions};
use crate::target::nvptx::{self, NvptxOptions};
use crate::tile::Program;

/// Compiles for the host.
pub fn host(
    mut lowered: Lowered,
    features: CpuFeatures,
    dumps: &Dumps,
    report: &mut Report,
) -> Result<Artifact, CompileError> {
    let options = HostOptions { features };
    for (stage, form, extension) in [
        (Stage::Mlir, host::Stage::Mlir, "mlir"),
        (Stage::Llvm, host::Stage::Llvm, "ll"),
        (Stage::Assembly, host::Stage::Assembly, "s"),
    ] {
        if dumps.wants(stage) {
            let texts = (lowered.programs.par_iter())
                .map(|program| Ok((program.name.as_str(), host::dump(program, &options, form)?)))
                .collect::<Result<Vec<_>, host::Error>>()?;
            dumps.kernels(stage, extension, texts)?;
        }
    }
    let library = host::compile(&lowered.programs, &options)?;
    let scratch: BTreeMap<&str, u64> =
        library.kernels.iter().map(|kernel| (kernel.symbol.as_str(), kernel.scratch_bytes)).collect();
    for kernel in lowered.plans.iter_mut().flat_map(|plan| &mut plan.kernels) {
        kernel.scratch_bytes = scratch.get(kernel.name.as_str()).copied().unwrap_or(0);
    }
    describe(&lowered, report, |_| None);
    let features = library.features;
    let target = artifact::Target::Host { architecture: "x86_64".into(), features };
    Ok(Artifact::new(PRODUCER, target, lowered.plans, Code::Host(library.shared_object), lowered.constants)?)
}

/// Compiles to PTX.
pub fn ptx(mut lowered: Lowered, chip: Chip, dumps: &Dumps, report: &mut Report) -> Result<Artifact, CompileError> {
    let options = NvptxOptions { chip, keep_stages: dumps.wants(Stage::Mlir) || dumps.wants(Stage::Llvm) };
    let compile = |program: &Program| {
        nvptx::compile(program, &options).map_err(|error| CompileError::Ptx { kernel: program.name.clone(), error })
    };
    let kernels = lowered.programs.par_iter().map(compile).collect::<Result<Vec<_>, CompileError>>()?;
    let texts = |text: fn(&nvptx::PtxKernel) -> Option<&String>| {
        kernels.iter().filter_map(|kernel| Some((kernel.entry.as_str(), text(kernel)?.clone()))).collect::<Vec<_>>()
    };
    dumps.kernels(Stage::Mlir, "mlir", texts(|kernel| kernel.mlir.as_ref()))?;
    dumps.kernels(Stage::Llvm, "ll", texts(|kernel| kernel.llvm_ir.as_ref()))?;
    dumps.kernels(Stage::Ptx, "ptx", texts(|kernel| Some(&kernel.ptx)))?;
    let by_name: BTreeMap<&str, &nvptx::PtxKernel> =
        kernels.iter().map(|kernel| (kernel.entry.as_str(), kernel)).collect();
    for kernel in lowered.plans.iter_mut().flat_map(|plan| &mut plan.kernels) {
        if let Some(compiled) = by_name.get(kernel.name.as_str()) {
            kernel.block_threads = compiled.threads;
            kernel.dynamic_shared_bytes = compiled.dynamic_shared_bytes;
        }
    }
    describe(&lowered, report, |name| by_name.get(name).map(|kernel| kernel.dynamic_shared_bytes));
    let code = Code::Ptx(kernels.iter().map(|kernel| (kernel.entry.clone(), kernel.ptx.clone())).collect());
    let target = artifact::Target::Cuda { architecture: chip.to_string() };
    Ok(Artifact::new(PRODUCER, target, lowered.plans, code, lowered.constants)?)
}

fn describe(lowered: &Lowered, report: &mut Report, shared: impl Fn(&str) -> Option<u32>) {
    let launches = |name: &str| {
        let launches =
            lowered.plans.iter().flat_map(|plan| plan.launches.iter().map(|launch| &plan.kernels[launch.kernel]));
        launches.filter(|kernel| kernel.name == name).count()
    };
    report.kernels = (lowered.programs.iter())
        .map(|program| KernelReport {
            name: program.name.clone(),
            summary: program.summary.clone(),
            launches: launches(&program.name),
            dynamic_shared_bytes: shared(&program.name).unwrap_or(0),
        })
        .collect();
}
