//! The text form: round trips, and what may be left out.

use proptest::prelude::*;
use tessera_ir::testing::{Limits, random_module};
use tessera_ir::{Module, TensorType, Type, parse_module, parse_type};

/// A module that uses every construct of the text form.
pub const EVERYTHING: &str = r#"module @everything {
  mesh [tp=2, dp=4]
  symbol T in 1..=4096
  param @wte : tensor<2048x192xf32>
  param @transformer.h.0.attn.c_attn.weight : tensor<192x576xfp8_e4m3 @accum(f32) @shard([], [tp])>
  param @"odd name, \"quoted\"" : tensor<f32>

  func @step(%tokens: tensor<Txi32>, %cache: kv_cache<layers=4, heads=6, dim=32, page=16, f32>) -> (tensor<Tx576xf32 @shard([], []) @partial(dp)>, kv_cache<layers=4, heads=6, dim=32, page=16, f32>) {
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

pub fn parse(text: &str) -> Module {
    parse_module(text).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

#[test]
fn a_module_prints_as_it_was_written() {
    let module = parse(EVERYTHING);
    assert_eq!(module.to_string(), EVERYTHING);
    assert_eq!(parse(&module.to_string()), module);
}

#[test]
fn what_can_be_inferred_may_be_left_out() {
    let terse = "
        // The shortest form of a matrix product.
        module @m {
          func @f(%x: tensor<Tx4xfp32>, %w: tensor<4x8xfp16>,) {
            %y = matmul(%x, %w) {}   // no type, no attributes
            %y2 = add(%y, %y)
            return %y2
          }
        }";
    assert_eq!(
        parse(terse).to_string(),
        "module @m {
  func @f(%x: tensor<Tx4xf32>, %w: tensor<4x8xf16>) -> (tensor<Tx8xf32>) {
    %y = matmul(%x, %w) : tensor<Tx8xf32>
    %y2 = add(%y, %y) : tensor<Tx8xf32>
    return %y2
  }
}
"
    );
}

#[test]
fn a_written_type_chooses_storage_accumulator_and_sharding() {
    let text = "module @m {
  mesh [tp=2]

  func @f(%x: tensor<3x4xbf16>, %w: tensor<4x8xfp8_e5m2>) -> (tensor<3x8xf32 @accum(f32) @shard([], [tp])>) {
    %y = matmul(%x, %w) : tensor<3x8xf32 @accum(f32) @shard([], [tp])>
    return %y
  }
}
";
    assert_eq!(parse(text).to_string(), text);
}

#[test]
fn numbers_keep_their_exact_value() {
    let text = "module @m {
  func @f() -> (tensor<6xf64>, tensor<2xi64>, tensor<2xbool>) {
    %a = constant() {value = [0.1, -0.0, 1e-300, inf, -inf, nan]} : tensor<6xf64>
    %b = constant() {value = [-9223372036854775808, 9223372036854775807]} : tensor<2xi64>
    %c = constant() {value = [true, false]} : tensor<2xbool>
    return %a, %b, %c
  }
}
";
    assert_eq!(parse(text).to_string(), text);
}

#[test]
fn names_that_collide_are_told_apart() {
    let mut module = parse("module @m { func @f(%x: tensor<4xf32>) { %y = exp(%x) %z = exp(%y) return %z } }");
    let graph = &mut module.functions[0].graph;
    let renamed: Vec<_> = graph.operations().map(|(id, _)| tessera_ir::ValueId::first(id)).collect();
    renamed.into_iter().for_each(|value| graph.set_name(value, "x"));
    let text = module.to_string();
    assert!(text.contains("%x_1 = exp(%x)") && text.contains("%x_2 = exp(%x_1)"), "{text}");
    assert_eq!(parse(&text), module);
}

#[test]
fn types_stand_alone() {
    for text in [
        "tensor<f32>",
        "tensor<Tx2xTxbf16 @accum(f32)>",
        "tensor<0x18446744073709551615xmxfp4>",
        "kv_cache<layers=4, heads=6, dim=32, page=16, fp8_e5m2>",
        "kv_cache<layers=12, heads=8, dim=64, page=16, window=128, bf16>",
    ] {
        assert_eq!(parse_type(text).unwrap().to_string(), text);
    }
    assert_eq!("tensor<4xf32>".parse::<TensorType>().unwrap(), TensorType::new([4], tessera_ir::Storage::F32));
    assert!("kv_cache<layers=1, heads=1, dim=1, page=1, f32>".parse::<TensorType>().is_err());
    assert!("tensor<4xf32> tensor<4xf32>".parse::<Type>().is_err());
}

proptest! {
    #[test]
    fn random_modules_survive_the_round_trip(seed in any::<u64>(), steps in 0usize..30) {
        let module = random_module(seed, &Limits { steps, narrow: true });
        let text = module.to_string();
        let again = parse(&text);
        prop_assert_eq!(&again, &module);
        prop_assert_eq!(again.to_string(), text);
    }
}
