//! Every PTX kernel of the models at the sizes that they have outside of tests, through NVIDIA's assembler.

use std::path::Path;

use tessera_compiler::driver::{CompileOptions, compile};
use tessera_compiler::target::Target;
use tessera_compiler::target::nvptx::assembler;
use tessera_ir::{Module, Storage};
use tessera_models::gpt_oss::{AttentionKind, GptOssLayout};
use tessera_models::gpt2::{self, Gpt2Layout};
use tessera_models::{Gpt2Config, GptConfig, GptOssConfig, gpt, gpt_oss};
use tessera_runtime::artifact::Code;

use crate::take_turn;

/// GPT-2 124M. Two layers have all the kernels that twelve have.
fn gpt2(matrices: Storage) -> Module {
    let config = Gpt2Config { n_layer: 2, ..Gpt2Config::small() };
    gpt2::build(&config, &Gpt2Layout { matrices, ..Gpt2Layout::default() }).unwrap()
}

/// The GPT of `GPTConfig::default()`: bf16, weights in fp8_e4m3, a cache in fp8_e5m2.
fn gpt() -> Module {
    gpt::build(&GptConfig { n_layers: 2, ..GptConfig::default() }).unwrap()
}

/// gpt-oss-20b with a layer of each kind, as it runs on a GPU.
fn gpt_oss() -> Module {
    let config =
        GptOssConfig { layer_types: vec![AttentionKind::Sliding, AttentionKind::Full], ..GptOssConfig::gpt_oss_20b() };
    let layout = GptOssLayout { activations: Storage::Bf16, cache: Storage::Bf16, ..GptOssLayout::of(&config) };
    gpt_oss::build(&config, &layout).unwrap()
}

/// Assembles every kernel of a module for chips, and asserts that none leaves the registers: no spills and no local memory.
fn check<const N: usize>(module: &Module, chips: [&str; N]) {
    let Some(ptxas) = assembler::find("ptxas") else {
        eprintln!("no ptxas: `make setup` installs it");
        return;
    };
    let outside: Vec<String> = std::thread::scope(|scope| {
        let chips = chips.map(|chip| {
            scope.spawn({
                let ptxas = &ptxas;
                move || outside_of_registers(module, chip, ptxas)
            })
        });
        chips.into_iter().flat_map(|chip| chip.join().unwrap()).collect()
    });
    assert!(outside.is_empty(), "{}", outside.join("\n"));
}

fn outside_of_registers(module: &Module, chip: &str, ptxas: &Path) -> Vec<String> {
    let target: Target = chip.parse().unwrap();
    let compiled = compile(module, &CompileOptions::new(target)).unwrap_or_else(|error| panic!("{chip}: {error}"));
    let Code::Ptx(kernels) = compiled.artifact.code() else { panic!("{chip} is not compiled to PTX") };
    assert!(kernels.len() >= 20, "{chip} has {} kernels", kernels.len());
    let folder = tempfile::tempdir().unwrap();
    let mut outside = Vec::new();
    for (kernel, text) in kernels {
        let file = folder.path().join(format!("{kernel}.ptx"));
        std::fs::write(&file, text).unwrap();
        let resources = assembler::assemble(ptxas, &file, target.chip().unwrap(), Path::new("/dev/null"));
        let resources = resources.unwrap_or_else(|error| panic!("{error}"));
        if !resources.fits_registers() {
            outside.push(format!("{kernel} for {chip}: {resources:?}"));
        }
    }
    outside
}

#[test]
fn gpt2_in_f32_stays_in_registers() {
    let _turn = take_turn();
    check(&gpt2(Storage::F32), ["sm_80", "sm_90", "sm_100a"]);
}

#[test]
fn gpt2_in_bf16_stays_in_registers() {
    let _turn = take_turn();
    check(&gpt2(Storage::Bf16), ["sm_80", "sm_89", "sm_90", "sm_90a", "sm_100a", "sm_120a"]);
}

#[test]
fn the_gpt_stays_in_registers() {
    let _turn = take_turn();
    check(&gpt(), ["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120a"]);
}

#[test]
fn gpt_oss_stays_in_registers() {
    let _turn = take_turn();
    check(&gpt_oss(), ["sm_80", "sm_86", "sm_90a", "sm_100a", "sm_120a"]);
}
