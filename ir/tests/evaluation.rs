//! The reference evaluation of everything but attention, against closed forms.

use proptest::prelude::*;
use tessera_ir::evaluate::{EvaluationError, Parameters, Tensor, Value, evaluate};
use tessera_ir::testing::{Limits, random_module, random_values};
use tessera_ir::{Function, Graph, Storage};

use crate::text::parse;

/// Evaluates a function given by its inputs and body.
pub fn run(inputs: &str, body: &str, values: &[Tensor]) -> Result<Vec<Tensor>, EvaluationError> {
    let module = parse(&format!("module @m {{ func @f({inputs}) {{ {body} }} }}"));
    let values: Vec<Value> = values.iter().cloned().map(Value::Tensor).collect();
    let outputs = evaluate(&module, "f", &values, &Parameters::new())?;
    Ok(outputs.into_iter().filter_map(|value| value.as_tensor().cloned()).collect())
}

/// The only output, as floats.
fn floats(inputs: &str, body: &str, values: &[Tensor]) -> Vec<f64> {
    run(inputs, body, values).unwrap()[0].to_floats().to_vec()
}

/// The only output, as integers.
fn integers(inputs: &str, body: &str, values: &[Tensor]) -> Vec<i64> {
    run(inputs, body, values).unwrap()[0].to_integers().to_vec()
}

fn f64s<const N: usize>(elements: [f64; N]) -> Tensor {
    Tensor::from_floats(Storage::F64, [N], elements.to_vec()).unwrap()
}

fn matrix<const R: usize, const C: usize>(rows: [[f64; C]; R]) -> Tensor {
    Tensor::from_floats(Storage::F64, [R, C], rows.concat()).unwrap()
}

fn assert_close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1.0), "{found} for {expected}");
    }
}

#[test]
fn elementwise_functions_have_their_known_values() {
    let at = |op: &str, x: f64| floats("%x: tensor<1xf64>", &format!("%y = {op} return %y"), &[f64s([x])])[0];
    for (op, x, expected) in [
        ("exp(%x)", 1.0, std::f64::consts::E),
        ("log(%x)", std::f64::consts::E, 1.0),
        ("rsqrt(%x)", 4.0, 0.5),
        ("erf(%x)", 0.5, 0.520_499_877_813_046_5),
        ("sigmoid(%x)", 0.0, 0.5),
        ("silu(%x)", 1.0, 0.731_058_578_630_004_9),
        ("relu(%x)", -3.0, 0.0),
        ("abs(%x)", -3.0, 3.0),
        // From PyTorch's torch.nn.functional.gelu in float64.
        ("gelu(%x)", 1.0, 0.841_344_746_068_542_9),
        ("gelu(%x) {approximate = tanh}", 1.0, 0.841_191_990_608_307_6),
    ] {
        assert_close(&[at(op, x)], &[expected]);
    }
    assert!(at("relu(%x)", f64::NAN).is_nan());
}

#[test]
fn integers_are_exact_and_wrap_around() {
    let i64s = |elements: Vec<i64>| Tensor::from_integers(Storage::I64, [elements.len()], elements).unwrap();
    let (large, one) = (i64s(vec![(1 << 53) + 1, i64::MAX]), i64s(vec![2, 1]));
    let inputs = "%x: tensor<2xi64>, %y: tensor<2xi64>";
    assert_eq!(
        integers(inputs, "%z = add(%x, %y) return %z", &[large.clone(), one.clone()]),
        [(1 << 53) + 3, i64::MIN]
    );
    assert_eq!(integers(inputs, "%z = div(%x, %y) return %z", &[i64s(vec![-7, 7]), i64s(vec![2, -2])]), [-3, -3]);
    assert_eq!(integers(inputs, "%z = remainder(%x, %y) return %z", &[i64s(vec![-7, 7]), i64s(vec![2, -2])]), [-1, 1]);
    let error = run(inputs, "%z = div(%x, %y) return %z", &[large, i64s(vec![0, 1])]).unwrap_err();
    assert_eq!(error.to_string(), "div: division by zero");
}

#[test]
fn casts_round_truncate_and_wrap() {
    let cast = |to: &str, x: f64| {
        let body = format!("%y = cast(%x) {{to = {to}}} %z = cast(%y) {{to = f64}} return %z");
        floats("%x: tensor<1xf64>", &body, &[f64s([x])])[0]
    };
    assert_eq!(cast("bf16", 1.003_906_25), 1.0);
    assert_eq!(cast("fp8_e4m3", 500.0), 448.0);
    assert_eq!(cast("i8", -200.7), -128.0);
    assert_eq!(cast("i32", 2.9), 2.0);
    assert_eq!(cast("u8", f64::NAN), 0.0);
    assert_eq!(cast("bool", -0.1), 1.0);
    let wide = Tensor::from_integers(Storage::I32, [1], vec![300]).unwrap();
    assert_eq!(integers("%x: tensor<1xi32>", "%y = cast(%x) {to = i8} return %y", &[wide]), [44]);
}

#[test]
fn every_result_is_rounded_to_its_storage() {
    // 1 + 2⁻⁹ rounds to 1 in bf16, so that subtracting 1 leaves nothing; f32 keeps it.
    let body = |storage: &str| {
        format!(
            "%a = cast(%x) {{to = {storage}}} %one = constant() {{value = 1.0}} : tensor<1x{storage}>
             %b = add(%a, %one) %c = sub(%b, %one) %d = cast(%c) {{to = f64}} return %d"
        )
    };
    let x = [f64s([1.0 / 512.0])];
    assert_eq!(floats("%x: tensor<1xf64>", &body("bf16"), &x), [0.0]);
    assert_eq!(floats("%x: tensor<1xf64>", &body("f32"), &x), [1.0 / 512.0]);
}

#[test]
fn elements_move_to_their_places() {
    let x = [matrix([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])];
    let moved = |body: &str| floats("%x: tensor<2x3xf64>", &format!("%y = {body} return %y"), &x);
    assert_eq!(moved("transpose(%x) {permutation = [1, 0]}"), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    assert_eq!(moved("slice(%x) {starts = [0, 1], limits = [2, 3]}"), [2.0, 3.0, 5.0, 6.0]);
    assert_eq!(moved("concat(%x, %x) {axis = 1}"), [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 4.0, 5.0, 6.0]);
    assert_eq!(moved("reshape(%x) : tensor<3x2xf64>"), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(
        moved("broadcast(%x) {axes = [0, 2]} : tensor<2x2x3xf64>"),
        [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 4.0, 5.0, 6.0]
    );
    let column = [matrix([[1.0], [2.0]])];
    let wide = "%y = broadcast(%x) {axes = [0, 1]} : tensor<2x2xf64> return %y";
    assert_eq!(floats("%x: tensor<2x1xf64>", wide, &column), [1.0, 1.0, 2.0, 2.0]);
    assert_eq!(integers("", "%y = iota() {axis = 1} : tensor<2x3xi32> return %y", &[]), [0, 1, 2, 0, 1, 2]);
    let indices = Tensor::from_i32([2], &[2, 0]).unwrap();
    let gather = "%y = gather(%x, %i) {axis = 1} return %y";
    let inputs = "%x: tensor<2x3xf64>, %i: tensor<2xi32>";
    assert_eq!(floats(inputs, gather, &[x[0].clone(), indices.clone()]), [3.0, 1.0, 6.0, 4.0]);
    let error = run(inputs, gather, &[x[0].clone(), Tensor::from_i32([2], &[3, 0]).unwrap()]).unwrap_err();
    assert_eq!(error.to_string(), "gather: index 3 is outside 0..3");
}

#[test]
fn reductions_combine_what_they_should() {
    let x = [matrix([[1.0, -2.0, 3.0], [4.0, f64::NAN, 6.0]])];
    let reduced = |body: &str| floats("%x: tensor<2x3xf64>", &format!("%y = {body} return %y"), &x);
    assert_eq!(reduced("reduce_sum(%x) {axes = [1]}")[0], 2.0);
    assert!(reduced("reduce_max(%x) {axes = [1]}")[1].is_nan());
    assert_eq!(reduced("reduce_min(%x) {axes = [0]}")[2], 3.0);
    assert_eq!(reduced("reduce_mean(%x) {axes = [0]}")[0], 2.5);
    let places = "%y = argmax(%x) {axis = 1} return %y";
    assert_eq!(integers("%x: tensor<2x3xf64>", places, &x), [2, 1]);
    let equal = [matrix([[5.0, 5.0], [0.0, 5.0]])];
    assert_eq!(integers("%x: tensor<2x2xf64>", "%y = argmax(%x) {axis = 0} return %y", &equal), [0, 0]);
    let sums = "%y = reduce_sum(%x) {axes = [0, 1]} return %y";
    assert_eq!(floats("%x: tensor<2x2xf64>", sums, &equal), [15.0]);
    let nothing = [Tensor::zeros(Storage::F64, [0, 2]).unwrap()];
    let sums = "%y = reduce_sum(%x) {axes = [0]} return %y";
    assert_eq!(floats("%x: tensor<Tx2xf64>", sums, &nothing), [0.0, 0.0]);
}

#[test]
fn softmax_and_norms_follow_their_formulas() {
    let x = [matrix([[1000.0, 1000.0], [0.0, (3.0f64).ln()]])];
    assert_close(&floats("%x: tensor<2x2xf64>", "%y = softmax(%x) {axis = 1} return %y", &x), &[0.5, 0.5, 0.25, 0.75]);
    let columns = floats("%x: tensor<2x2xf64>", "%y = softmax(%x) {axis = 0} return %y", &x);
    assert_close(&columns, &[1.0, 1.0, 0.0, 0.0]);

    let inputs = "%x: tensor<1x2xf64>, %s: tensor<2xf64>, %b: tensor<2xf64>";
    let values = [matrix([[1.0, 3.0]]), f64s([2.0, 10.0]), f64s([0.5, 0.0])];
    // Mean 2, variance 1.
    let layer = floats(inputs, "%y = layer_norm(%x, %s, %b) {epsilon = 0.0} return %y", &values);
    assert_close(&layer, &[-1.5, 10.0]);
    // Mean square 5.
    let rms = floats(inputs, "%y = rms_norm(%x, %s) {epsilon = 4.0} return %y", &values);
    assert_close(&rms, &[2.0 / 3.0, 10.0]);
}

#[test]
fn matmul_is_the_sum_of_products_for_any_extent() {
    for (m, k, n) in [(0, 3, 2), (1, 1, 1), (7, 33, 5), (33, 0, 4)] {
        for (batch, transpose) in [(1, false), (1, true), (3, false), (3, true)] {
            let lhs: Vec<f64> = (0..batch * m * k).map(|i| (i % 11) as f64 - 5.0).collect();
            let rhs: Vec<f64> = (0..batch * k * n).map(|i| (i % 7) as f64 - 3.0).collect();
            let mut expected = Vec::new();
            for (b, i, j) in (0..batch).flat_map(|b| (0..m).flat_map(move |i| (0..n).map(move |j| (b, i, j)))) {
                let right = |inner: usize| {
                    if transpose { rhs[b * k * n + j * k + inner] } else { rhs[b * k * n + inner * n + j] }
                };
                expected.push((0..k).map(|inner| lhs[(b * m + i) * k + inner] * right(inner)).sum::<f64>());
            }
            let stored = if transpose { [batch, n, k] } else { [batch, k, n] };
            let inputs =
                format!("%x: tensor<{batch}xTx{k}xf64>, %w: tensor<{}x{}x{}xf64>", stored[0], stored[1], stored[2]);
            let values = [
                Tensor::from_floats(Storage::F64, [batch, m, k], lhs).unwrap(),
                Tensor::from_floats(Storage::F64, stored, rhs).unwrap(),
            ];
            let body = format!("%y = matmul(%x, %w) {{transpose_rhs = {transpose}}} return %y");
            assert_eq!(floats(&inputs, &body, &values), expected, "{m} {k} {n}");
        }
    }
}

#[test]
fn dequantization_scales_tensors_and_channels() {
    let w = Tensor::from_floats(Storage::Fp8E4m3, [2, 2], vec![1.0, 2.0, 3.0, 4.0]).unwrap();
    let scale = Tensor::from_f32([2], &[10.0, 0.5]).unwrap();
    let inputs = "%w: tensor<2x2xfp8_e4m3>, %s: tensor<2xf32>";
    let values = [w.clone(), scale];
    assert_eq!(floats(inputs, "%y = dequantize(%w, %s) {axis = 0} return %y", &values), [10.0, 20.0, 1.5, 2.0]);
    assert_eq!(floats(inputs, "%y = dequantize(%w, %s) {axis = 1} return %y", &values), [10.0, 1.0, 30.0, 2.0]);
    let scalar = Tensor::from_f32(Vec::<usize>::new(), &[3.0]).unwrap();
    let inputs = "%w: tensor<2x2xfp8_e4m3>, %s: tensor<f32>";
    let written = "%y = dequantize(%w, %s) : tensor<2x2xbf16> return %y";
    assert_eq!(floats(inputs, written, &[w, scalar]), [3.0, 6.0, 9.0, 12.0]);
}

#[test]
fn values_that_do_not_fit_are_refused() {
    let x = |rows: usize| Tensor::zeros(Storage::F32, [rows, 2]).unwrap();
    let inputs = "%x: tensor<Tx2xf32>, %y: tensor<Tx2xf32>";
    let error = |values: &[Tensor]| run(inputs, "return %x", values).unwrap_err().to_string();
    assert_eq!(error(&[x(3)]), "2 inputs expected, 1 given");
    assert_eq!(error(&[x(3), x(4)]), "input %y: tensor<4x2xf32> given, tensor<Tx2xf32> expected (with T=3)");
    let half = Tensor::zeros(Storage::F16, [3, 2]).unwrap();
    assert_eq!(error(&[half, x(3)]), "input %x: tensor<3x2xf16> given, tensor<Tx2xf32> expected");
    let module =
        parse("module @m { symbol T in 1..=2 param @w : tensor<2xf32> func @f(%x: tensor<Txf32>) { return @w } }");
    let input = [Value::Tensor(Tensor::zeros(Storage::F32, [3]).unwrap())];
    let missing = evaluate(&module, "f", &input, &Parameters::new()).unwrap_err();
    assert_eq!(missing.to_string(), "parameter `@w` is missing");
    let weights = Parameters::from([("w".into(), Tensor::zeros(Storage::F32, [2]).unwrap())]);
    assert_eq!(evaluate(&module, "f", &input, &weights).unwrap_err().to_string(), "T is 3, outside 1..=2");
    assert_eq!(evaluate(&module, "g", &[], &weights).unwrap_err().to_string(), "there is no function `@g`");
    let huge = run("", "%x = constant() {value = 0.0} : tensor<4294967296x4294967296xf32> return %x", &[]).unwrap_err();
    assert_eq!(huge.to_string(), "constant: a result of type tensor<4294967296x4294967296xf32> is larger than memory");
}

#[test]
fn tensors_go_through_bytes_unchanged() {
    for storage in Storage::ALL.into_iter().filter(|storage| storage.blocks().is_none()) {
        let elements = (0..5).map(|i| f64::from(i % 3)).collect();
        let tensor = Tensor::from_floats(storage, [5], elements).unwrap();
        let bytes = tensor.to_bytes().unwrap();
        assert_eq!(bytes.len() as u64, storage.bytes(5));
        assert_eq!(Tensor::from_bytes(storage, [5], &bytes).unwrap(), tensor);
        assert!(Tensor::from_bytes(storage, [7], &bytes).is_err());
    }
    assert!(Tensor::from_bytes(Storage::Mxfp4, [32], &[0; 16]).is_err());
}

/// `@main` of a random module with all of its operations inside one fusion.
fn fused(function: &Function) -> Function {
    let mut outer = Graph::new();
    let region = function.graph.clone();
    let inputs: Vec<_> = function.inputs().map(|(name, ty)| outer.input(name, ty.clone())).collect();
    let node = outer.fusion(&inputs, region, Some("everything".into())).unwrap();
    let results = outer.node(node).results().len() as u32;
    outer.set_outputs((0..results).map(|result| tessera_ir::ValueId { node, result }));
    Function { name: function.name.clone(), graph: outer }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_modules_evaluate_to_finite_numbers_fused_or_not(seed in any::<u64>(), extent in prop::sample::select(vec![0u64, 1, 7, 33])) {
        let mut module = random_module(seed, &Limits { steps: 12, narrow: true });
        let (inputs, parameters) = random_values(&module, &module.functions[0], extent, seed).unwrap();
        let outputs = evaluate(&module, "main", &inputs, &parameters).unwrap();
        for output in &outputs {
            prop_assert!(output.as_tensor().unwrap().to_floats().iter().all(|x| x.is_finite()));
        }
        // A fusion takes everything as operands: only modules without parameters can be wrapped whole.
        if module.parameters.is_empty() {
            module.functions[0] = fused(&module.functions[0]);
            prop_assert_eq!(tessera_ir::verify(&module), Ok(()));
            prop_assert_eq!(evaluate(&module, "main", &inputs, &parameters).unwrap(), outputs);
        }
    }
}
