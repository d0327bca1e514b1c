//! Tile programs of every kind, compiled and assembled.
//!
//! With `TESSERA_PTX_DIR` set, every PTX file is left there.

mod assemble;
mod cases;
mod models;
mod programs;
mod published;

use self::assemble::{assemble, chip, main_loop};
use super::assembler::Resources;
use super::*;

const CHIPS: [&str; 5] = ["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120a"];

/// Compiles and assembles a program for a chip.
fn build(program: &Program, name: &str) -> (PtxKernel, Option<Resources>) {
    let kernel =
        compile(program, &NvptxOptions::new(chip(name))).unwrap_or_else(|error| panic!("{name}: {error}\n{program}"));
    assert!(!kernel.ptx.contains(".func") && !kernel.ptx.contains("call"), "{} calls a function", kernel.entry);
    if let Some(directory) = std::env::var_os("TESSERA_PTX_DIR") {
        let path = std::path::Path::new(&directory).join(format!("{}.{name}.ptx", program.name));
        std::fs::write(path, &kernel.ptx).expect("TESSERA_PTX_DIR is a folder");
    }
    let report = assemble(&kernel.entry, &kernel.ptx, name);
    (kernel, report)
}

#[test]
fn the_kernels_that_matter_do_not_spill_on_any_chip() {
    for program in programs::all() {
        for chip in CHIPS {
            let (kernel, report) = build(&program, chip);
            if let Some(report) = report {
                assert!(report.fits_registers(), "{} for {chip}: {report:?}", kernel.entry);
            }
        }
    }
}

#[test]
fn a_matmul_is_pipelined_through_swizzled_shared_memory_to_tensor_cores() {
    let (kernel, _) = build(&programs::LARGE_MATMUL.program(), "sm_80");
    // Three stages of a tile of each operand.
    assert_eq!(kernel.dynamic_shared_bytes, 3 * 2 * 128 * 64 * 2);
    let count = |text: &str| kernel.ptx.matches(text).count();
    // The body multiplies four steps of K for a warp's 32×64 part of the result.
    assert_eq!(count("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"), 4 * 2 * 8);
    assert_eq!(count("ldmatrix.sync.aligned.m8n8.x4"), 4 * (2 + 4));
    // Eight copies a thread and stage: two stages before the loop, one in it.
    assert_eq!(count("cp.async.cg.shared.global"), 3 * 8);
    assert_eq!(count("cp.async.wait_group"), 1);
}

#[test]
fn a_file_is_headed_by_what_it_computes() {
    let (kernel, _) = build(&programs::elementwise(), "sm_90a");
    let lines: Vec<&str> = kernel.ptx.lines().take(3).collect();
    assert_eq!(lines[0], "// y = gelu(x) + x");
    assert!(lines[1].starts_with("// tile program "), "{lines:?}");
    assert_eq!(lines[2], "// sm_90a: grid ⌈n / 512⌉ × 1 × 1, 4 warps, 1 stages, 0 bytes of dynamic shared memory");
    assert!(kernel.ptx.contains(".target sm_90a") && kernel.ptx.contains(".reqntid 128"));
}

#[test]
fn equal_programs_give_equal_files_and_stages_are_kept_on_demand() {
    let mut options = NvptxOptions::new(chip("sm_80"));
    let first = compile(&programs::attention(64), &options).unwrap();
    assert!(first.mlir.is_none() && first.llvm_ir.is_none());
    options.keep_stages = true;
    let second = compile(&programs::attention(64), &options).unwrap();
    assert_eq!(first.ptx, second.ptx);
    assert!(second.mlir.is_some_and(|text| text.contains("llvm.call_intrinsic \"llvm.nvvm.mma.m16n8k16")));
    assert!(second.llvm_ir.is_some_and(|text| text.contains("define ptx_kernel void @attention_d64")));
}

#[test]
fn what_cannot_be_compiled_says_why() {
    let options = NvptxOptions::new(chip("sm_80"));
    let mut program = programs::elementwise();
    program.schedule.warps = 3;
    assert!(matches!(compile(&program, &options), Err(Error::Warps(3))));

    let mut b = tile::Builder::new("odd");
    b.splat(1.0, &[12], tile::Element::F32);
    assert!(matches!(compile(&b.finish(), &options), Err(Error::Shape { .. })));

    let mut program = programs::LARGE_MATMUL.program();
    program.schedule.stages = 9;
    let error = compile(&program, &options).unwrap_err().to_string();
    assert!(error.contains("294912 bytes") && error.contains("166912"), "{error}");
}

/// Triton 3.9 has 2.0, 3.9 and 6.3 other instructions for each tensor-core one in the loops of the same kernels with the same tiles.
#[test]
fn main_loops_are_mostly_tensor_instructions() {
    for (program, limit) in
        [(programs::LARGE_MATMUL.program(), 1.5), (programs::attention(128), 4.5), (programs::attention(64), 6.5)]
    {
        let (kernel, _) = build(&program, "sm_80");
        if let Some(found) = main_loop(&kernel.ptx, "sm_80") {
            assert!(found.tensor >= 64, "{}: {found:?}", program.name);
            assert!(found.others_per_tensor() <= limit, "{}: {found:?}", program.name);
        }
    }
}
