//! The kernels of a block of gpt-oss-20b at its published widths: attention of 64 heads of 64, and 32 experts of 2880.

use tessera_ir::parse_module;
use tessera_runtime::artifact::Code;

use super::assemble::{assemble, chip, main_loop};
use crate::driver::{CompileOptions, compile};
use crate::target::Target;

const CHIPS: [&str; 6] = ["sm_80", "sm_89", "sm_90", "sm_90a", "sm_100a", "sm_120a"];

/// What follows the projections of queries, keys and values in a block, as the models crate builds it in bf16.
const BLOCK: &str = "module @block {
  func @step(%x: tensor<Tx2880xf32>, %q: tensor<Tx64x64xbf16>, %k: tensor<Tx8x64xbf16>, %v: tensor<Tx8x64xbf16>,
      %positions: tensor<Txi32>, %sequences: tensor<Txi32>, %pages: tensor<BxPxi32>,
      %cache: kv_cache<layers=2, heads=8, dim=64, page=16, bf16>, %sinks: tensor<64xbf16>, %scale: tensor<2880xbf16>,
      %router: tensor<32x2880xbf16>, %router_bias: tensor<32xbf16>,
      %up_blocks: tensor<32x5760x90x16xu8>, %up_scales: tensor<32x5760x90xu8>, %up_bias: tensor<32x5760xbf16>,
      %down_blocks: tensor<32x2880x90x16xu8>, %down_scales: tensor<32x2880x90xu8>, %down_bias: tensor<32x2880xbf16>) {
    %near = kv_append(%cache, %k, %v, %positions, %sequences, %pages) {layer = 0}
    %a = paged_attention(%q, %near, %positions, %sequences, %pages, %sinks) {layer = 0, scale = 0.125, window = 128}
    %all = kv_append(%near, %k, %v, %positions, %sequences, %pages) {layer = 1}
    %b = paged_attention(%a, %all, %positions, %sequences, %pages, %sinks) {layer = 1, scale = 0.125}
    %normed = rms_norm(%x, %scale) {epsilon = 1e-5}
    %scores = matmul(%normed, %router) {transpose_rhs = true} : tensor<Tx32xf32>
    %bias = cast(%router_bias) {to = f32}
    %biases = broadcast(%bias) {axes = [1]} : tensor<Tx32xf32>
    %logits = add(%scores, %biases)
    %experts = top_k(%logits) {k = 4}
    %taken = take(%logits, %experts)
    %weights = softmax(%taken) {axis = 1}
    %rows = cast(%normed) {to = bf16}
    %up = block_scaled(%up_blocks, %up_scales) : tensor<32x5760x2880xmxfp4>
    %gated = grouped_matmul(%rows, %up, %experts, %up_bias) : tensor<Tx4x5760xf32>
    %hidden = swiglu(%gated) {style = interleaved, alpha = 1.702, offset = 1.0, limit = 7.0} : tensor<Tx4x2880xbf16>
    %down = block_scaled(%down_blocks, %down_scales) : tensor<32x2880x2880xmxfp4>
    %parts = grouped_matmul(%hidden, %down, %experts, %down_bias) : tensor<Tx4x2880xf32>
    %mixed = combine(%parts, %weights)
    %y = add(%x, %mixed)
    return %y, %b, %all
  }
}";

/// The kernels of the block for a chip, by name.
fn kernels(chip_name: &str) -> Vec<(String, String)> {
    let options = CompileOptions::new(Target::Cuda(chip(chip_name)));
    let compiled = compile(&parse_module(BLOCK).unwrap(), &options).unwrap();
    let Code::Ptx(kernels) = compiled.artifact.code() else { panic!("{chip_name} is not compiled to PTX") };
    kernels.iter().map(|(name, ptx)| (name.clone(), ptx.clone())).collect()
}

#[test]
fn a_published_block_assembles_without_spills() {
    for chip in CHIPS {
        let mut spilling = Vec::new();
        for (name, ptx) in kernels(chip) {
            if let Ok(directory) = std::env::var("TESSERA_PTX_DIR") {
                std::fs::write(format!("{directory}/published.{name}.{chip}.ptx"), &ptx).unwrap();
            }
            if let Some(resources) = assemble(&name, &ptx, chip)
                && !resources.fits_registers()
            {
                spilling.push(format!("{name}: {resources:?}"));
            }
        }
        assert!(spilling.is_empty(), "{chip}: {spilling:?}");
    }
}

/// Weights stay packed until they are in registers, where a word of two elements costs five instructions; the more rows meet them, the less
/// of that falls to each tensor-core instruction.
#[test]
fn packed_weights_are_converted_between_tensor_instructions() {
    let products = kernels("sm_80").into_iter().filter(|(_, ptx)| ptx.contains("prmt.b32") && ptx.contains("mma.sync"));
    let mut rows_of_tiles = Vec::new();
    for (name, ptx) in products {
        assert!(ptx.contains("cp.async.cg.shared.global"), "{name} does not copy ahead");
        let schedule = ptx.lines().nth(1).unwrap_or_default();
        let rows = schedule.split_once(" rows=").map_or("1", |(_, rest)| rest.split(' ').next().unwrap());
        let rows: u32 = rows.parse().unwrap();
        rows_of_tiles.push(rows);
        if let Some(body) = main_loop(&ptx, "sm_80") {
            let limit = match rows {
                ..=8 => 40.0,
                16 => 20.0,
                64 => 5.5,
                _ => 3.75,
            };
            assert!(body.others_per_tensor() <= limit, "{name}, {schedule}: {body:?}");
        }
    }
    rows_of_tiles.sort_unstable();
    // The product that is gated as it is stored, and the other.
    assert_eq!(rows_of_tiles, [1, 1, 8, 8, 16, 16, 64, 64, 128]);
}
