//! The text form: round trips, and the errors a person gets.

use tessera_ir::{Module, parse_module};

/// A module that uses every construct of the text form.
const EVERYTHING: &str = r#"module @everything {
  mesh [tp=2, dp=4]
  symbol T in 1..=4096
  param @wte : tensor<2048x192xf32>
  param @transformer.h.0.attn.c_attn.weight : tensor<192x576xfp8_e4m3 @accum(f32) @shard([], [tp])>
  param @"odd name, \"quoted\"" : tensor<f32>

  func @step(%tokens: tensor<Txi32>, %cache: kv_cache<layers=4, heads=6, dim=32, page=16, f32>) -> (tensor<Tx576xf32 @partial(dp)>, kv_cache<layers=4, heads=6, dim=32, page=16, f32>) {
    %x = embedding(@wte, %tokens) : tensor<Tx192xf32>
    %half = constant() {value = 0.5} : tensor<Tx192xf32>
    %table = constant() {value = [1, -2, 3]} : tensor<3xi64>
    %0 = gelu(%x) {approximate = tanh} : tensor<Tx192xf32>
    %1 = fusion(%a = %0, %b = %half) {label = "scale \u{1}"} : tensor<Tx192xf32> {
      %0 = mul(%a, %b) : tensor<Tx192xf32>
      return %0
    }
    %2 = slice(%1) {starts = [0, 64], limits = [T, 192]} : tensor<Tx128xf32>
    %y = matmul(%1, @transformer.h.0.attn.c_attn.weight) : tensor<Tx576xf32 @shard([], []) @partial(dp)>
    return %y, %cache
  }

  func @identity(%x: tensor<bool>) -> (tensor<bool>) {
    return %x
  }
}
"#;

fn parse(text: &str) -> Module {
    parse_module(text).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn a_module_prints_as_it_was_written() {
    let module = parse(EVERYTHING);
    assert_eq!(module.to_string(), EVERYTHING.replace(" @partial(dp)>, kv", " @shard([], []) @partial(dp)>, kv"));
    assert_eq!(parse(&module.to_string()), module);
}
