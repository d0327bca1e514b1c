//! Mixtures of experts and block-scaled weights.

use tessera_ir::evaluate::{Tensor, Value};
use tessera_ir::{Storage, parse_module};

use super::{Numbers, check_body, check_with, random};

const CLOSE: f64 = 2e-5;

/// A body with these inputs: floats from −2 to 2, integers below a limit that stands beside each.
pub fn check_inputs(inputs: &[(&str, Storage, &[usize], u64)], body: &str, tolerance: f64) {
    let declared: Vec<String> = inputs
        .iter()
        .map(|(name, storage, shape, _)| {
            let extents: String = shape.iter().map(|extent| format!("{extent}x")).collect();
            format!("%{name}: tensor<{extents}{storage}>")
        })
        .collect();
    let text = format!("module @m {{ func @f({}) {{ {body} }} }}", declared.join(", "));
    let module = parse_module(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut numbers = Numbers::new(5);
    let values: Vec<Value> = inputs
        .iter()
        .map(|(name, storage, shape, limit)| {
            let tensor = random(*storage, shape, *limit, &mut numbers);
            // Scales of moderate size: 2^-5 to 2^2.
            Value::Tensor(match (*name, storage) {
                ("scales", Storage::U8) => {
                    let bytes = tensor.to_integers().iter().map(|byte| byte % 8 + 122).collect();
                    Tensor::from_integers(Storage::U8, *shape, bytes).unwrap()
                }
                _ => tensor,
            })
        })
        .collect();
    check_with(&module, &values, tolerance);
}

#[test]
fn routing() {
    for (experts, k) in [(8, 4), (5, 1), (32, 3), (128, 4), (3, 3)] {
        let body =
            format!("%e = top_k(%x) {{k = {k}}} %c = take(%x, %e) %w = softmax(%c) {{axis = 1}} return %e, %c, %w");
        check_body(&format!("%x: tensor<Tx{experts}xf32>"), &body, &[("T", 7)], CLOSE);
        // Many equal elements: of equals the first.
        let equal =
            format!("%y = cast(%x) {{to = i32}} %z = cast(%y) {{to = f32}} %e = top_k(%z) {{k = {k}}} return %e");
        check_body(&format!("%x: tensor<5x{experts}xf32>"), &equal, &[], 0.0);
    }
}

#[test]
fn activations_and_sums() {
    for options in ["", "{style = interleaved, alpha = 1.702, offset = 1.0, limit = 1.5}"] {
        check_body("%x: tensor<Tx3x34xf32>", &format!("%y = swiglu(%x) {options} return %y"), &[("T", 5)], CLOSE);
        check_body("%x: tensor<4x130xbf16>", &format!("%y = swiglu(%x) {options} return %y"), &[], 1e-2);
    }
    for chosen in [1, 4, 20] {
        let inputs = format!("%y: tensor<Tx{chosen}x33xf32>, %w: tensor<Tx{chosen}xf32>, %r: tensor<Tx33xf32>");
        let body = "%z = combine(%y, %w) %s = add(%z, %r) return %s";
        check_body(&inputs, body, &[("T", 5)], CLOSE);
    }
}

#[test]
fn grouped_products() {
    for (inner, columns, chosen) in [(16, 8, 2), (70, 33, 4), (7, 130, 1)] {
        let (w, b) = ([6, columns, inner], [6, columns]);
        let (token_rows, rows, experts) = ([5, inner], [5, chosen, inner], [5, chosen]);
        let common =
            [("w", Storage::F32, &w[..], 0), ("e", Storage::I32, &experts[..], 6), ("b", Storage::F32, &b[..], 0)];
        for x in [&token_rows[..], &rows[..]] {
            let mut inputs = vec![("x", Storage::F32, x, 0)];
            inputs.extend(common);
            check_inputs(&inputs, "%y = grouped_matmul(%x, %w, %e) return %y", CLOSE);
            check_inputs(&inputs, "%y = grouped_matmul(%x, %w, %e, %b) return %y", CLOSE);
        }
    }
    // Matrices as unquantized checkpoints have them.
    let inputs =
        [("x", Storage::F32, &[3, 16][..], 0), ("w", Storage::Bf16, &[4, 16, 24], 0), ("e", Storage::I32, &[3, 2], 4)];
    check_inputs(
        &inputs,
        "%t = transpose(%w) {permutation = [0, 2, 1]} %y = grouped_matmul(%x, %t, %e) return %y",
        CLOSE,
    );
}

#[test]
fn block_scaled_weights() {
    let mxfp4 = |columns: usize, blocks: usize| ([4, columns, blocks, 16], [4, columns, blocks]);
    for (columns, inner) in [(8, 32), (33, 96), (5, 50)] {
        let (elements, scales) = mxfp4(columns, usize::div_ceil(inner, 32));
        for (storage, tolerance) in [(Storage::F32, CLOSE), (Storage::Bf16, 2e-2)] {
            let inputs = [
                ("x", storage, &[3, inner][..], 0),
                ("elements", Storage::U8, &elements, 256),
                ("scales", Storage::U8, &scales, 256),
                ("e", Storage::I32, &[3, 2], 4),
            ];
            let body = format!(
                "%w = block_scaled(%elements, %scales) : tensor<4x{columns}x{inner}xmxfp4>
                 %y = grouped_matmul(%x, %w, %e) : tensor<3x2x{columns}xf32> return %y"
            );
            check_inputs(&inputs, &body, tolerance);
        }
    }
    let nvfp4 = [("elements", Storage::U8, &[6, 3, 8][..], 256), ("scales", Storage::Fp8E4m3, &[6, 3], 0)];
    check_inputs(
        &nvfp4,
        "%w = block_scaled(%elements, %scales) : tensor<6x40xnvfp4> %y = cast(%w) {to = f32} return %y",
        CLOSE,
    );
    let fp8 = [
        ("x", Storage::F32, &[3, 200][..], 0),
        ("elements", Storage::Fp8E4m3, &[150, 200], 0),
        ("scales", Storage::F32, &[2, 2], 0),
    ];
    let body = "%w = block_scaled(%elements, %scales) : tensor<150x200xfp8_block128>
        %d = cast(%w) {to = f32} %y = matmul(%x, %d) {transpose_rhs = true} return %y, %d";
    check_inputs(&fp8, body, CLOSE);
}
