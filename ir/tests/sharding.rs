//! Sharding rules: how the dimensions of an op's operands and results run over the same loops.

use tessera_ir::Type;

use crate::text::parse;

/// The rule of the first operation of a function.
fn rule(inputs: &str, operation: &str) -> String {
    let module = parse(&format!("module @m {{ func @f({inputs}) {{ %r = {operation} return %r }} }}"));
    let graph = &module.functions[0].graph;
    let (id, operation) = graph.operations().next().unwrap();
    let operands = graph.operands(id);
    let operands: Vec<&Type> = operands.iter().map(|operand| graph.value_type(*operand)).collect();
    let results: Vec<&Type> = graph.node(id).results().iter().collect();
    let rule = (operation.definition().sharding)(operation, &operands, &results);
    let rank = |ty: &&Type| ty.as_tensor().map_or(0, |tensor| tensor.rank());
    assert_eq!(rule.operands.iter().map(Vec::len).collect::<Vec<_>>(), operands.iter().map(rank).collect::<Vec<_>>());
    assert_eq!(rule.results.iter().map(Vec::len).collect::<Vec<_>>(), results.iter().map(rank).collect::<Vec<_>>());
    rule.to_string()
}

#[test]
fn dimensions_follow_the_loops_of_the_computation() {
    let two = "%x: tensor<4x6xf32>, %w: tensor<6x8xf32>, %i: tensor<Txi32>";
    assert_eq!(rule(two, "exp(%x)"), "(a b) -> (a b)");
    assert_eq!(rule(two, "matmul(%x, %w)"), "(a c, c b) -> (a b), reduction c");
    assert_eq!(rule(two, "matmul(%w, %w) {transpose_rhs = true}"), "(a c, b c) -> (a b), reduction c");
    assert_eq!(rule(two, "transpose(%x) {permutation = [1, 0]}"), "(a b) -> (b a)");
    assert_eq!(rule(two, "reduce_sum(%x) {axes = [0]}"), "(a b) -> (b), reduction a");
    assert_eq!(rule(two, "reduce_max(%x) {axes = [0]}"), "(a b) -> (b), whole a");
    assert_eq!(rule(two, "softmax(%x) {axis = 1}"), "(a b) -> (a b), whole b");
    assert_eq!(rule(two, "embedding(%w, %i)"), "(b c, a) -> (a c), reduction b");
    assert_eq!(rule(two, "concat(%x, %x) {axis = 1}"), "(a b, a b) -> (a b), whole b");
    assert_eq!(rule(two, "broadcast(%x) {axes = [1, 2]} : tensor<3x4x6xf32>"), "(b c) -> (a b c)");
    assert_eq!(rule(two, "gather(%x, %i) {axis = 1}"), "(b c, a) -> (b a), whole c");
    assert_eq!(rule(two, "slice(%x) {starts = [0, 2], limits = [4, 6]}"), "(a b) -> (a b), whole b");
}

#[test]
fn reshapes_keep_what_they_can() {
    let heads = "%x: tensor<Tx192xf32>";
    assert_eq!(rule(heads, "reshape(%x) : tensor<Tx6x32xf32>"), "(a b·c) -> (a b c)");
    assert_eq!(rule("%x: tensor<Tx6x32xf32>", "reshape(%x) : tensor<Tx192xf32>"), "(a b c) -> (a b·c)");
    assert_eq!(rule("%x: tensor<4x6xf32>", "reshape(%x) : tensor<8x3xf32>"), "(a b) -> (c d), whole a b c d");
    assert_eq!(rule("%x: tensor<4x6xf32>", "reshape(%x) : tensor<4x1x6xf32>"), "(a b) -> (a 1 b)");
}

#[test]
fn attention_shards_over_key_heads_and_the_queries_that_share_them() {
    let inputs = "%q: tensor<Tx8x16xf32>, %k: tensor<Sx2x16xf32>, %v: tensor<Sx2x16xf32>";
    assert_eq!(rule(inputs, "attention(%q, %k, %v) {scale = 0.25}"), "(a c·b f, e c f, e c d) -> (a c·b d), whole e f");
    assert_eq!(rule("%x: tensor<Tx8x16xf32>, %p: tensor<Txi32>", "rope(%x, %p)"), "(a b c, a) -> (a b c), whole c");
}

#[test]
fn experts_shard_by_expert_and_by_column() {
    let inputs = "%x: tensor<Tx64xf32>, %w: tensor<8x96x64xmxfp4>, %e: tensor<Tx4xi32>, %b: tensor<8x96xf32>, %y: tensor<Tx4x96xf32>, %p: tensor<Tx4xf32>";
    let found = rule(inputs, "grouped_matmul(%x, %w, %e)");
    assert_eq!(found, "(a e, d c e, a b) -> (a b c), reduction d e");
    // A bias is added once, so that the inner dimension stays whole.
    let found = rule(inputs, "grouped_matmul(%x, %w, %e, %b)");
    assert_eq!(found, "(a e, d c e, a b, d c) -> (a b c), reduction d, whole e");
    let found = rule(inputs, "swiglu(%y) {style = interleaved}");
    assert_eq!(found, "(a b c·d) -> (a b c), whole d");
    assert_eq!(rule(inputs, "combine(%y, %p)"), "(a c b, a c) -> (a b), reduction c");
    assert_eq!(rule(inputs, "top_k(%x) {k = 4}"), "(a b) -> (a c), whole b c");
    assert_eq!(rule(inputs, "take(%x, %e)"), "(a b, a c) -> (a c), whole b");
    let stored = "%w: tensor<8x96x2x16xu8>, %s: tensor<8x96x2xu8>";
    let found = rule(stored, "block_scaled(%w, %s) : tensor<8x96x64xmxfp4>");
    assert_eq!(found, "(a b c f, a b d) -> (a b e), whole c d e f");
    assert_eq!(
        rule(
            "%q: tensor<Tx8x16xf32>, %k: tensor<Sx2x16xf32>, %s: tensor<8xf32>",
            "attention(%q, %k, %k, %s) {scale = 0.25}"
        ),
        "(a c·b f, e c f, e c d, c·b) -> (a c·b d), whole e f"
    );
}
