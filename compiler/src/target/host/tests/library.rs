//! The library as a whole: features, stages, several kernels in one object, errors.

use super::elementwise::map;
use super::{CpuFeatures, HostOptions, compile};
use crate::target::host::{Error, Stage, dump, link};
use crate::tile::{Builder, Element, Program, UnaryOperation};

fn options(features: &str) -> HostOptions {
    HostOptions { features: CpuFeatures::parse(features).unwrap() }
}

fn negation(name: &str) -> Program {
    map(name, &[Element::F32], Element::F32, 64, |b, x| b.unary(UnaryOperation::Negate, x[0]))
}

#[test]
fn features_are_read_as_they_are_written() {
    for text in ["x86-64", "x86-64-v3", "x86-64-v4", "x86-64-v4+avx512bf16", "x86-64-v4+avx512bf16+amx-bf16"] {
        assert_eq!(CpuFeatures::parse(text).unwrap().signature(), text);
    }
    let tiles = CpuFeatures::parse("x86-64-v4+amx-bf16").unwrap();
    assert_eq!(tiles.names(), ["x86-64-v4", "amx-tile", "amx-bf16"]);
    let native = CpuFeatures::parse("native").unwrap();
    assert!(CpuFeatures::parse("x86-64").unwrap().runs_on(&native));
    assert!(native.runs_on(&native));
    assert!(!tiles.runs_on(&CpuFeatures::parse("x86-64-v4").unwrap()));
}

#[test]
fn unknown_features_are_errors_that_name_the_known_ones() {
    for text in ["", "pentium", "x86-64-v3+amx-bf16", "x86-64-v4+avx10", "native+avx512bf16"] {
        let error = CpuFeatures::parse(text).unwrap_err().to_string();
        assert!(error.contains("expected `native`, or x86-64"), "{text}: {error}");
    }
}

#[test]
fn kernels_share_one_object() {
    let library = compile(&[negation("first"), negation("second")], &options("x86-64")).unwrap();
    let symbols: Vec<&str> = library.kernels.iter().map(|kernel| kernel.symbol.as_str()).collect();
    assert_eq!(symbols, ["first", "second"]);
    assert_eq!(library.features, ["x86-64"]);
    assert!(library.shared_object.starts_with(b"\x7fELF"));
}

#[test]
fn a_library_may_be_empty() {
    let library = compile(&[], &options("x86-64")).unwrap();
    assert!(library.kernels.is_empty());
}

#[test]
fn every_stage_can_be_looked_at() {
    let program = negation("negation");
    let text = |stage, features| dump(&program, &options(features), stage).unwrap();
    assert!(text(Stage::Mlir, "x86-64").contains("llvm.func @negation("));
    assert!(text(Stage::Llvm, "x86-64").contains("define void @negation("));
    let vectors = text(Stage::Assembly, "x86-64-v4");
    assert!(vectors.contains("negation:") && vectors.contains("%zmm"), "{vectors}");
    assert!(!text(Stage::Assembly, "x86-64-v3").contains("%zmm"));
    assert!(!text(Stage::Assembly, "x86-64").contains("%ymm"));
}

#[test]
fn programs_are_verified() {
    let mut builder = Builder::new("broken");
    let index = builder.index(1);
    builder.binary(crate::tile::BinaryOperation::Power, index, index);
    let error = compile(&[builder.finish()], &options("x86-64")).unwrap_err();
    assert!(matches!(&error, Error::Invalid(_)), "{error}");
}

#[test]
fn what_cannot_be_linked_is_an_error() {
    let error = link::link(&[b"no object".to_vec()]).unwrap_err().to_string();
    assert!(error.starts_with("linking host kernels: "), "{error}");
}
