//! What scheduled modules look like: the text of the stage `schedule`, for both kinds of target.

use tessera_ir::{Module, parse_module};

use crate::graph::{Context, Pipeline};
use crate::schedule::{Library, Machine, Overrides, form, symbols_of};
use crate::target::Target;

fn scheduled(text: &str, target: &str) -> String {
    let target: Target = target.parse().unwrap();
    let mut module: Module = parse_module(text).unwrap();
    Pipeline::default().run(&mut module, &mut Context::new(target), |_, _| ()).unwrap();
    let mut library = Library::new(Machine { target, threads: 2 }, Overrides::default());
    for function in &mut module.functions {
        let symbols = symbols_of(function);
        *function = form(function, &symbols, &mut library).unwrap().function;
    }
    format!("{text}\n// on {target}\n{module}")
}

/// A norm, a gated MLP and a residual: two kernels.
const GATED: &str = "
module @gated {
  param @scale : tensor<64xbf16>
  param @gate : tensor<128x64xbf16>
  param @up : tensor<128x64xbf16>
  param @down : tensor<64x128xbf16>
  func @block(%x: tensor<Tx64xbf16>) -> (tensor<Tx64xbf16>) {
    %n = rms_norm(%x, @scale) {epsilon = 1e-6}
    %g = matmul(%n, @gate) {transpose_rhs = true}
    %u = matmul(%n, @up) {transpose_rhs = true}
    %s = silu(%g)
    %h = mul(%s, %u)
    %d = matmul(%h, @down) {transpose_rhs = true}
    %y = add(%x, %d)
    return %y
  }
}";

#[test]
fn gated_mlp() {
    insta::assert_snapshot!("gated_mlp_host", scheduled(GATED, "host"));
    insta::assert_snapshot!("gated_mlp_sm_80", scheduled(GATED, "sm_80"));
}

/// gpt-oss's mixture at its width: few rows of an expert stream its weights, more of them meet in taller tiles.
#[test]
fn mixture_of_experts() {
    let text = "
module @mixture {
  param @up : tensor<32x5760x2880xmxfp4>
  param @down : tensor<32x2880x2880xmxfp4>
  func @f(%x: tensor<Tx2880xbf16>, %e: tensor<Tx4xi32>) -> (tensor<Tx4x2880xf32>) {
    %h = grouped_matmul(%x, @up, %e) : tensor<Tx4x5760xf32>
    %g = swiglu(%h) {style = interleaved, alpha = 1.702, offset = 1.0, limit = 7.0} : tensor<Tx4x2880xbf16>
    %y = grouped_matmul(%g, @down, %e) : tensor<Tx4x2880xf32>
    return %y
  }
}";
    insta::assert_snapshot!("mixture_sm_80", scheduled(text, "sm_80"));
}

/// A value in another order than its consumer's tiles have is cut, and a reshape across rows falls back to runs of elements.
#[test]
fn orders_that_tiles_do_not_have() {
    let text = "
module @orders {
  func @f(%x: tensor<6x10xf32>, %w: tensor<12x7xf32>) -> (tensor<5x7xf32>) {
    %e = exp(%x)
    %r = reshape(%e) : tensor<5x12xf32>
    %y = matmul(%r, %w)
    return %y
  }
}";
    insta::assert_snapshot!("orders_host", scheduled(text, "host"));
}
