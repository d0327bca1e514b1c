//! Every adjoint rule against differences.

use std::collections::BTreeSet;

use tessera_ir::evaluate::{Parameters, Tensor, Value, evaluate};
use tessera_ir::testing::Random;
use tessera_ir::{Adjoint, Module, NodeId, Storage, ValueId, ops};

use crate::text::parse;

/// An operation on f64 inputs: their types, the operation, the type of its result.
const CASES: &[(&str, &str, &str)] = &[
    ("%x: tensor<3x4xf64>", "neg(%x)", "3x4"),
    ("%x: tensor<3x4xf64>", "abs(%x)", "3x4"),
    ("%x: tensor<3x4xf64>", "exp(%x)", "3x4"),
    ("%p: tensor<3x4xf64>", "log(%p)", "3x4"),
    ("%p: tensor<3x4xf64>", "sqrt(%p)", "3x4"),
    ("%p: tensor<3x4xf64>", "rsqrt(%p)", "3x4"),
    ("%x: tensor<3x4xf64>", "sin(%x)", "3x4"),
    ("%x: tensor<3x4xf64>", "cos(%x)", "3x4"),
    ("%x: tensor<3x4xf64>", "tanh(%x)", "3x4"),
    ("%x: tensor<3x4xf64>", "erf(%x)", "3x4"),
    ("%x: tensor<3x4xf64>", "sigmoid(%x)", "3x4"),
    ("%x: tensor<3x4xf64>", "relu(%x)", "3x4"),
    ("%x: tensor<3x4xf64>", "gelu(%x)", "3x4"),
    ("%x: tensor<3x4xf64>", "gelu(%x) {approximate = tanh}", "3x4"),
    ("%x: tensor<3x4xf64>", "silu(%x)", "3x4"),
    ("%x: tensor<3x4xf64>", "cast(%x) {to = f64}", "3x4"),
    ("%x: tensor<3x4xf64>, %y: tensor<3x4xf64>", "add(%x, %y)", "3x4"),
    ("%x: tensor<3x4xf64>, %y: tensor<3x4xf64>", "sub(%x, %y)", "3x4"),
    ("%x: tensor<3x4xf64>, %y: tensor<3x4xf64>", "mul(%x, %y)", "3x4"),
    ("%x: tensor<3x4xf64>, %p: tensor<3x4xf64>", "div(%x, %p)", "3x4"),
    ("%x: tensor<3x4xf64>, %y: tensor<3x4xf64>", "maximum(%x, %y)", "3x4"),
    ("%x: tensor<3x4xf64>, %y: tensor<3x4xf64>", "minimum(%x, %y)", "3x4"),
    ("%p: tensor<3x4xf64>, %y: tensor<3x4xf64>", "power(%p, %y)", "3x4"),
    ("%c: tensor<3x4xbool>, %x: tensor<3x4xf64>, %y: tensor<3x4xf64>", "select(%c, %x, %y)", "3x4"),
    ("", "constant() {value = 2.0} : tensor<3xf64>", "3"),
    ("", "iota() : tensor<3xf64>", "3"),
    ("%x: tensor<3x1xf64>", "broadcast(%x) {axes = [0, 2]} : tensor<3x2x4xf64>", "3x2x4"),
    ("%x: tensor<3x4xf64>", "reshape(%x) : tensor<2x6xf64>", "2x6"),
    ("%x: tensor<3x4x2xf64>", "transpose(%x) {permutation = [2, 0, 1]}", "2x3x4"),
    ("%x: tensor<3x4xf64>, %y: tensor<3x2xf64>", "concat(%x, %y) {axis = 1}", "3x6"),
    ("%x: tensor<3x4x2xf64>", "reduce_sum(%x) {axes = [0, 2]}", "4"),
    ("%x: tensor<3x4xf64>", "reduce_max(%x) {axes = [1]}", "3"),
    ("%x: tensor<3x4xf64>", "reduce_min(%x) {axes = [0]}", "4"),
    ("%x: tensor<3x4xf64>", "reduce_mean(%x) {axes = [1]}", "3"),
    ("%x: tensor<3x4xf64>", "softmax(%x) {axis = 0}", "3x4"),
    ("%x: tensor<3x4xf64>, %y: tensor<4x2xf64>", "matmul(%x, %y)", "3x2"),
    ("%x: tensor<3x4xf64>, %y: tensor<2x4xf64>", "matmul(%x, %y) {transpose_rhs = true}", "3x2"),
    ("%x: tensor<2x3x4xf64>, %y: tensor<4x5xf64>", "matmul(%x, %y)", "2x3x5"),
    ("%x: tensor<2x3x4xf64>, %y: tensor<5x4xf64>", "matmul(%x, %y) {transpose_rhs = true}", "2x3x5"),
    ("%x: tensor<4x6xf64>", "slice(%x) {starts = [1, 0], limits = [3, 4]}", "2x4"),
    ("%x: tensor<2x3x4xf64>, %s: tensor<4xf64>, %b: tensor<4xf64>", "layer_norm(%x, %s, %b) {epsilon = 0.1}", "2x3x4"),
    ("%x: tensor<3x4xf64>, %s: tensor<4xf64>", "rms_norm(%x, %s) {epsilon = 0.1}", "3x4"),
    ("%x: tensor<3x2x4xf64>, %i: tensor<3xi32>", "rope(%x, %i)", "3x2x4"),
    ("%x: tensor<2x3x4xf64>, %y: tensor<2x5x4xf64>", "matmul(%x, %y) {transpose_rhs = true}", "2x3x5"),
];

/// A function that gives the sum of products of the result with `%seed`, and the operation's node.
fn case(inputs: &str, operation: &str, shape: &str) -> (Module, NodeId) {
    let separator = if inputs.is_empty() { "" } else { ", " };
    let module = parse(&format!(
        "module @m {{ func @f({inputs}{separator}%seed: tensor<{shape}xf64>) {{
           %result = {operation}
           %product = mul(%result, %seed)
           %value = reduce_sum(%product) {{axes = [{}]}}
           return %value
         }} }}",
        (0..shape.split('x').count()).map(|axis| axis.to_string()).collect::<Vec<_>>().join(", ")
    ));
    let node = module.functions[0].graph.operations().next().unwrap().0;
    (module, node)
}

fn value(name: &str, module: &Module, random: &mut Random) -> Vec<Value> {
    let mut values = Vec::new();
    for (input, ty) in module.function(name).unwrap().inputs() {
        let ty = ty.as_tensor().unwrap();
        let shape: Vec<usize> = ty.shape.iter().map(|dim| dim.as_static().unwrap() as usize).collect();
        let count: usize = shape.iter().product();
        // The input `%p` is positive.
        let element = |random: &mut Random| match (input, ty.storage()) {
            ("p", _) => random.real() + 1.5,
            (_, storage) if !storage.is_float() => random.below(2) as f64,
            _ => 2.0 * random.real(),
        };
        let elements = (0..count).map(|_| element(random)).collect();
        values.push(Value::Tensor(Tensor::from_floats(ty.storage(), shape, elements).unwrap()));
    }
    values
}

/// The input `index` with `step` added to its element `place`.
fn moved(values: &[Value], index: usize, place: usize, step: f64) -> Vec<Value> {
    let mut values = values.to_vec();
    let tensor = values[index].as_tensor().unwrap();
    let mut elements = tensor.to_floats().to_vec();
    elements[place] += step;
    values[index] = Value::Tensor(Tensor::from_floats(Storage::F64, tensor.shape(), elements).unwrap());
    values
}

#[test]
fn every_adjoint_rule_agrees_with_differences() {
    let mut covered = BTreeSet::new();
    for (inputs, operation, shape) in CASES {
        let (mut module, node) = case(inputs, operation, shape);
        let plain = module.clone();
        let graph = &mut module.functions[0].graph;
        let definition = graph.operation(node).unwrap().definition();
        covered.insert(definition.op);
        let seed = graph.inputs().last().unwrap();
        let operands = graph.operands(node);
        let application = graph.operation(node).unwrap().clone();
        let mut context =
            Adjoint { graph: &mut *graph, operands: &operands, results: &[ValueId::first(node)], gradients: &[seed] };
        let rule = definition.adjoint.unwrap_or_else(|| panic!("{operation} has no adjoint rule"));
        let gradients = rule(&application, &mut context).unwrap();
        assert_eq!(gradients.len(), operands.len(), "{operation}");
        let differentiable: Vec<usize> = (0..gradients.len()).filter(|index| gradients[*index].is_some()).collect();
        graph.set_outputs(gradients.into_iter().flatten());
        assert_eq!(tessera_ir::verify(&module), Ok(()), "{operation}");

        let values = value("f", &plain, &mut Random::new(1));
        let exact = evaluate(&module, "f", &values, &Parameters::new()).unwrap();
        let at = |values: Vec<Value>| {
            evaluate(&plain, "f", &values, &Parameters::new()).unwrap()[0].as_tensor().unwrap().to_floats()[0]
        };
        for (gradient, index) in exact.iter().zip(differentiable) {
            let gradient = gradient.as_tensor().unwrap();
            assert_eq!(gradient.shape(), values[index].as_tensor().unwrap().shape(), "{operation}");
            for (place, exact) in gradient.to_floats().iter().enumerate() {
                let step = 1e-6;
                let difference =
                    (at(moved(&values, index, place, step)) - at(moved(&values, index, place, -step))) / (2.0 * step);
                assert!(
                    (exact - difference).abs() < 1e-6 * (1.0 + exact.abs()),
                    "{operation}: {exact} for {difference}"
                );
            }
        }
    }
    for definition in ops::all() {
        assert_eq!(definition.adjoint.is_some(), covered.contains(&definition.op), "{} has no case", definition.op);
    }
}
