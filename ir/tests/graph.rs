//! Changing graphs.

use tessera_ir::{Graph, NodeId, Op, OpError, Storage, TensorType, ValueId, ops, shape, to_dot};

use crate::text::{EVERYTHING, parse};

/// `y = tanh(exp(x)) + exp(x)`
fn example() -> (Graph, [ValueId; 4]) {
    let mut graph = Graph::new();
    let x = graph.input("x", TensorType::new(shape!["T", 4], Storage::F32));
    let mut build = graph.builder();
    let exp = build.exp(x).unwrap();
    let tanh = build.tanh(exp).unwrap();
    let sum = build.add(tanh, exp).unwrap();
    graph.set_outputs([sum]);
    (graph, [x, exp, tanh, sum])
}

fn order(graph: &Graph) -> Vec<Op> {
    graph.operations().map(|(_, operation)| operation.op()).collect()
}

#[test]
fn uses_are_known_both_ways() {
    let (graph, [x, exp, tanh, sum]) = example();
    assert_eq!(graph.operands(sum.node).as_slice(), [tanh, exp]);
    assert_eq!(graph.users(exp), [(tanh.node, 0), (sum.node, 1)]);
    assert_eq!((graph.use_count(x), graph.use_count(sum), graph.is_output(sum)), (1, 1, true));
    assert!(graph.defining(sum).is_some_and(|operation| operation.is(ops::ADD)));
    assert!(graph.defining(x).is_none());
}

#[test]
fn attributes_are_typed() {
    let (mut graph, [x, ..]) = example();
    let softmax = graph.builder().softmax(x, ops::Softmax { axis: 1 }).unwrap();
    let operation = graph.defining(softmax).unwrap();
    assert_eq!(operation.downcast::<ops::Softmax>(), Some(ops::Softmax { axis: 1 }));
    assert_eq!(operation.downcast::<ops::Gelu>(), None);
    assert!(matches!(operation.op(), ops::SOFTMAX | ops::LAYER_NORM));
}

#[test]
fn a_value_can_be_wrapped_and_its_uses_moved() {
    let (mut graph, [_, exp, tanh, sum]) = example();
    let negated = graph.builder().neg(exp).unwrap();
    graph.replace_all_uses(exp, negated);
    assert_eq!(graph.users(exp), [(negated.node, 0)]);
    assert_eq!(graph.operands(sum.node).as_slice(), [tanh, negated]);
    graph.replace_all_uses(sum, tanh);
    assert_eq!(graph.outputs(), [tanh]);
    assert_eq!(graph.remove(exp.node).map_err(|error| error.uses), Err(1));
    assert_eq!(graph.remove_dead(), 1);
    assert!(!graph.contains(sum.node));
    assert_eq!(order(&graph), [ops::EXP, ops::NEG, ops::TANH]);
}

#[test]
fn the_order_is_that_of_definition_and_respects_operands() {
    let (mut graph, [x, exp, tanh, _]) = example();
    assert_eq!(order(&graph), [ops::EXP, ops::TANH, ops::ADD]);
    // A late node that an early one uses comes before it.
    let sin = graph.builder().sin(x).unwrap();
    graph.set_operand(tanh.node, 0, sin);
    assert_eq!(order(&graph), [ops::EXP, ops::SIN, ops::TANH, ops::ADD]);
    // A cycle leaves its members out.
    graph.set_operand(exp.node, 0, tanh);
    graph.set_operand(tanh.node, 0, exp);
    assert_eq!(order(&graph), [ops::SIN]);
}

#[test]
fn parameters_are_shared_and_vanish_unused() {
    let mut graph = Graph::new();
    let ty = TensorType::new([4], Storage::F32);
    let first = graph.parameter("w", ty.clone());
    assert_eq!(graph.parameter("w", ty.clone()), first);
    let x = graph.input("x", ty);
    graph.set_outputs([x]);
    assert_eq!(graph.remove_dead(), 1);
    assert_eq!(graph.parameters().len(), 0);
    assert!(graph.contains(x.node));
}

#[test]
fn removing_an_input_moves_the_others_forward() {
    let mut graph = Graph::new();
    let ty = TensorType::new([4], Storage::F32);
    let (a, b) = (graph.input("a", ty.clone()), graph.input("b", ty));
    graph.remove(a.node).unwrap();
    assert_eq!(graph.inputs().collect::<Vec<_>>(), [b]);
    assert_eq!(graph.node(b.node).kind(), &tessera_ir::NodeKind::Input(0));
}

#[test]
fn values_of_other_graphs_are_refused() {
    let (mut graph, _) = example();
    let foreign = ValueId::first(NodeId::new(99));
    let error: OpError = graph.builder().exp(foreign).unwrap_err();
    assert_eq!(error.to_string(), "exp: this is no value of the graph");
}

#[test]
fn graphs_are_drawn_with_fusions_as_boxes() {
    let module = parse(EVERYTHING);
    let picture = to_dot(&module.functions[0]);
    assert!(picture.starts_with("digraph \"step\" {") && picture.ends_with("}\n"));
    for part in ["label=\"gelu\\napproximate = tanh\"", "subgraph cluster_", "label=\"@wte\"", "tensor<Tx192xf32>"] {
        assert!(picture.contains(part), "{part}\n{picture}");
    }
}
