//! The passes on whole models.

use tessera_compiler::graph::DEFAULT_PIPELINE;
use tessera_ir::{Module, parse_module};

use super::{Agreement, assert_same_results, run};

fn model(name: &str) -> Module {
    let path = format!("{}/../models/ir/{name}.ir", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    parse_module(&text).unwrap_or_else(|errors| panic!("{path}: {errors}"))
}

/// The labels of the fusions of the function `step`, with the names of the operations left alone, in order.
fn kernels(module: &Module) -> Vec<String> {
    let step = module.function("step").expect("the model has a step");
    let label = |operation: &tessera_ir::Operation| match operation.attribute("label") {
        Some(tessera_ir::Attribute::Text(label)) => label.as_str().to_owned(),
        _ => operation.op().name().to_owned(),
    };
    step.graph.operations().map(|(_, operation)| label(operation)).collect()
}

#[test]
fn a_block_of_gpt2_is_five_kernels() {
    let before = model("gpt2-kjv");
    let mut after = before.clone();
    run(&mut after, DEFAULT_PIPELINE, "host").unwrap();
    let kernels = kernels(&after);
    assert_eq!(
        kernels[..6],
        [
            "embedding_add",
            "layer_norm_matmul_bias_kv_append",
            "paged_attention",
            "matmul_bias_residual",
            "layer_norm_matmul_bias_gelu",
            "matmul_bias_residual",
        ]
    );
    assert_eq!(kernels.last().map(String::as_str), Some("layer_norm_matmul"));
    assert_same_results(&before, &after, Agreement::Rounding, 1);
}

#[test]
fn a_block_of_the_gpt_joins_queries_keys_and_values_and_gate_and_up() {
    for target in ["host", "sm_80", "sm_90a"] {
        let before = model("gpt-small");
        let mut after = before.clone();
        run(&mut after, DEFAULT_PIPELINE, target).unwrap();
        let kernels = kernels(&after);
        assert!(kernels[0].contains("rms_norm_matmul_x3_rope_kv_append"), "{kernels:?}");
        assert!(kernels.iter().any(|kernel| kernel.contains("rms_norm_matmul_x2_silu_mul")), "{kernels:?}");
        assert_same_results(&before, &after, Agreement::Rounding, 2);
    }
}

#[test]
fn fusion_alone_changes_no_bit_of_a_model() {
    for name in ["gpt2-kjv", "gpt-small"] {
        let before = model(name);
        let mut after = before.clone();
        run(&mut after, "fuse", "host").unwrap();
        assert_same_results(&before, &after, Agreement::Exact, 3);
    }
}
