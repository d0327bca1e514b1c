//! Mixtures of experts and block-scaled weights, by the reference evaluation.

use proptest::prelude::*;
use tessera_ir::evaluate::Tensor;
use tessera_ir::{Storage, parse_module};

use crate::evaluation::run;

fn floats<const N: usize>(shape: impl Into<Vec<usize>>, elements: [f64; N]) -> Tensor {
    Tensor::from_floats(Storage::F64, shape, elements.to_vec()).unwrap()
}

#[test]
fn the_largest_are_chosen_in_order_and_of_equals_the_first() {
    let x = floats([2, 5], [0.5, 3.0, -1.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 7.0]);
    let found = run(
        "%x: tensor<2x5xf64>",
        "%e = top_k(%x) {k = 3} %c = take(%x, %e) %w = softmax(%c) {axis = 1} return %e, %c, %w",
        &[x],
    )
    .unwrap();
    assert_eq!(found[0].to_integers()[..], [1, 3, 4, 4, 0, 1]);
    assert_eq!(found[1].to_floats()[..], [3.0, 3.0, 2.0, 7.0, 1.0, 1.0]);
    let sum: f64 = found[2].to_floats()[..3].iter().sum();
    assert!((sum - 1.0).abs() < 1e-15 && found[2].to_floats()[0] == found[2].to_floats()[1]);
}

#[test]
fn rows_meet_the_matrices_of_their_experts() {
    let values = [
        floats([2, 2], [1.0, 2.0, 3.0, 4.0]),
        // Three experts of one column each.
        floats([3, 1, 2], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]),
        Tensor::from_i32([2, 2], &[2, 0, 1, 1]).unwrap(),
        floats([3, 1], [10.0, 20.0, 30.0]),
        floats([2, 2], [0.5, 0.5, 1.0, 0.0]),
    ];
    let inputs =
        "%x: tensor<Tx2xf64>, %w: tensor<3x1x2xf64>, %e: tensor<Tx2xi32>, %b: tensor<3x1xf64>, %p: tensor<Tx2xf64>";
    let body = "%plain = grouped_matmul(%x, %w, %e)
        %y = grouped_matmul(%x, %w, %e, %b)
        %pairs = broadcast(%x) {axes = [0, 2]} : tensor<Tx2x2xf64>
        %same = grouped_matmul(%pairs, %w, %e, %b)
        %z = combine(%y, %p)
        return %plain, %y, %same, %z";
    let found = run(inputs, body, &values).unwrap();
    assert_eq!(found[0].to_floats()[..], [3.0, 1.0, 4.0, 4.0]);
    assert_eq!(found[1].to_floats()[..], [33.0, 11.0, 24.0, 24.0]);
    assert_eq!(found[2], found[1]);
    assert_eq!(found[3].to_floats()[..], [22.0, 24.0]);

    let mut outside = values;
    outside[2] = Tensor::from_i32([2, 2], &[0, 3, 1, 1]).unwrap();
    let error = run(inputs, body, &outside).unwrap_err().to_string();
    assert_eq!(error, "grouped_matmul: expert 3 is not below 3");
}

#[test]
fn swiglu_is_what_gpt_oss_computes() {
    // Gates and values in turn: in range, gate too large, gate far below, value too small.
    let x = floats([1, 8], [1.0, 2.0, 9.0, -3.0, -100.0, 5.0, 0.5, -9.0]);
    let body = "%y = swiglu(%x) {style = interleaved, alpha = 1.702, offset = 1.0, limit = 7.0} return %y";
    let found = run("%x: tensor<1x8xf64>", body, &[x]).unwrap()[0].to_floats().to_vec();
    let gated = |gate: f64, value: f64| gate / (1.0 + (-1.702 * gate).exp()) * (value + 1.0);
    assert_eq!(found, [gated(1.0, 2.0), gated(7.0, -3.0), gated(-100.0, 5.0), gated(0.5, -7.0)]);
    // As Llama has it: silu(gate) · value.
    let halves = floats([2, 2], [1.0, 3.0, -2.0, 5.0]);
    let found = run("%x: tensor<2x2xf64>", "%y = swiglu(%x) return %y", &[halves]).unwrap()[0].to_floats().to_vec();
    let silu = |x: f64| x / (1.0 + (-x).exp());
    assert_eq!(found, [silu(1.0) * 3.0, silu(-2.0) * 5.0]);
}

#[test]
fn mistakes_are_explained() {
    let error = |inputs: &str, operation: &str| {
        let text = format!("module @m {{ func @f({inputs}) {{ %y = {operation} return %y }} }}");
        parse_module(&text).unwrap_err().to_string()
    };
    let inputs = "%x: tensor<Tx64xf32>, %w: tensor<8x64x96xmxfp4>, %e: tensor<Tx4xi32>, %u: tensor<8x96x64xu8>";
    for (operation, expected) in [
        (
            "grouped_matmul(%x, %w, %e)",
            "rows of 64 elements meet matrices of 96 columns (are the matrices transposed?)",
        ),
        ("top_k(%x) {k = 65}", "65 of 64 elements cannot be chosen"),
        ("take(%x, %x)", "`indices` must be a tensor of integers"),
        ("swiglu(%x) {limit = -1.0}", "the limit must be a positive number"),
        ("combine(%x, %x)", "rank 3 is needed here"),
        ("block_scaled(%u, %u) : tensor<8x96x64xmxfp4>", "is held in tensor<8x96x2x16xu8>, not tensor<8x96x64xu8>"),
        ("block_scaled(%u, %u) : tensor<8x96x64xbf16>", "bf16 has no blocks with scales of their own"),
        ("grouped_matmul(%x)", "3 or 4 operands expected, 1 given"),
    ] {
        let message = error(inputs, operation);
        assert!(message.contains(expected), "{operation}: {message}");
    }
}

#[test]
fn mxfp4_is_read_from_its_bytes() {
    // One row of 33 elements: two blocks. The low half of a byte is the element of the even index.
    let mut bytes = vec![0; 32];
    (bytes[0], bytes[1], bytes[15], bytes[16]) = (0x21, 0xf7, 0x90, 0x05);
    let elements = Tensor::from_bytes(Storage::U8, [1, 2, 16], &bytes).unwrap();
    let scales = Tensor::from_bytes(Storage::U8, [1, 2], &[128, 126]).unwrap();
    let inputs = "%e: tensor<1x2x16xu8>, %s: tensor<1x2xu8>";
    let body = "%w = block_scaled(%e, %s) : tensor<1x33xmxfp4> %y = cast(%w) {to = f64} return %w, %y";
    let found = run(inputs, body, &[elements, scales]).unwrap();
    let mut expected = vec![0.0; 33];
    (expected[0], expected[1], expected[2], expected[3]) = (1.0, 2.0, 12.0, -12.0);
    (expected[31], expected[32]) = (-1.0, 1.5);
    assert_eq!(found[1].to_floats()[..], expected[..]);
    assert_eq!(found[0].storage(), Storage::Mxfp4);
}

proptest! {
    #[test]
    fn block_scaled_tensors_survive_their_parts(
        storage in prop::sample::select(vec![Storage::Mxfp4, Storage::Nvfp4, Storage::Fp8Block128]),
        rows in 1usize..4,
        columns in 1usize..70,
        exponent in -20i32..20,
        seed in any::<u64>(),
    ) {
        let mut random = tessera_ir::testing::Random::new(seed);
        let elements = (0..2 * rows * columns).map(|_| random.real() * 2f64.powi(exponent)).collect();
        let tensor = Tensor::from_floats(storage, [2, rows, columns], elements).unwrap();
        let [elements, scales] = tensor.to_blocks().unwrap();
        let again = Tensor::from_blocks(storage, [2, rows, columns], &elements, &scales).unwrap();
        prop_assert_eq!(again, tensor);
    }
}
