//! Every kernel of the models in the repository, through the whole compiler.

use std::path::PathBuf;

use tessera_ir::parse_module;
use tessera_runtime::artifact::Code;

use super::{CHIPS, assemble, chip};
use crate::driver::{CompileOptions, compile};
use crate::target::Target;

/// A model's kernels for a chip, by name, with every f32 of the model replaced by another format.
fn kernels(model: &str, format: &str, chip_name: &str) -> Vec<(String, String)> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/ir").join(model);
    let text = std::fs::read_to_string(path).unwrap();
    // Sampling is in f32 whatever the model is in.
    let (step, sampling) = match text.find("func @sample") {
        Some(position) => text.split_at(position),
        None => (text.as_str(), ""),
    };
    let module = parse_module(&(step.replace("f32", format) + sampling)).unwrap();
    let options = CompileOptions::new(Target::Cuda(chip(chip_name)));
    let compiled = compile(&module, &options).unwrap_or_else(|error| panic!("{model} of {format}: {error}"));
    match compiled.artifact.code() {
        Code::Ptx(kernels) => kernels.iter().map(|(name, ptx)| (name.clone(), ptx.clone())).collect(),
        _ => panic!("{chip_name} is not compiled to PTX"),
    }
}

/// Assembles all kernels of a model and refuses spills and local memory.
fn check(model: &str, format: &str, chip: &str) {
    let mut spilling = Vec::new();
    for (name, ptx) in kernels(model, format, chip) {
        if let Ok(directory) = std::env::var("TESSERA_PTX_DIR") {
            std::fs::write(format!("{directory}/{model}.{format}.{name}.{chip}.ptx"), &ptx).unwrap();
        }
        if let Some(resources) = assemble(&name, &ptx, chip)
            && !resources.fits_registers()
        {
            spilling.push(format!("{name}: {resources:?}"));
        }
    }
    assert!(spilling.is_empty(), "{model} in {format} for {chip}: {spilling:?}");
}

#[test]
fn models_assemble_without_spills() {
    for (model, format) in [("gpt2-kjv.ir", "f32"), ("gpt2-kjv.ir", "bf16"), ("gpt-small.ir", "f32")] {
        check(model, format, CHIPS[0]);
    }
}

#[test]
fn a_model_assembles_for_every_chip() {
    for chip in &CHIPS[1..] {
        check("gpt2-kjv.ir", "bf16", chip);
    }
}
