//! Names of regions: what they compute, in words.

use std::collections::HashSet;

use tessera_ir::{Graph, NodeKind, ValueId, ops};

use super::grow::Grouping;
use crate::graph::role::Role;

/// Most words in a name.
const MOST_WORDS: usize = 6;

/// A name for the region of these steps, such as `layer_norm_matmul_bias_gelu`.
pub fn region_name(graph: &Graph, grouping: &Grouping<'_>, steps: &[usize]) -> String {
    let role = |step: usize| grouping.flow.steps[step].role;
    let products = steps.iter().filter(|step| role(**step) == Role::Matmul).count();
    let inside: HashSet<usize> = steps.iter().copied().collect();
    let mut words: Vec<String> = Vec::new();
    let mut views: Vec<String> = Vec::new();
    let mut push = |word: String| {
        if !words.contains(&word) {
            words.push(word);
        }
    };
    for step in steps {
        for source in &grouping.flow.steps[*step].sources {
            if let Some(op) = source.path.picked {
                push(op.name().to_owned());
            }
        }
        let word = match role(*step) {
            Role::Matmul if products == 1 => "matmul".to_owned(),
            Role::Matmul => format!("matmul_x{products}"),
            Role::View => {
                views.push(op_name(graph, grouping, *step));
                continue;
            }
            Role::Elementwise { .. } => elementwise_word(graph, grouping, *step, &inside),
            _ => op_name(graph, grouping, *step),
        };
        push(word);
    }
    if words.is_empty() {
        words = views;
        words.dedup();
    }
    if words.len() > MOST_WORDS {
        let more = words.len() - (MOST_WORDS - 1);
        words.truncate(MOST_WORDS - 1);
        words.push(format!("and_{more}_more"));
    }
    words.join("_")
}

fn op_name(graph: &Graph, grouping: &Grouping<'_>, step: usize) -> String {
    let node = grouping.flow.steps[step].node;
    graph.operation(node).map_or_else(String::new, |operation| operation.op().name().to_owned())
}

/// The op's name, but `bias` for the sum with a repeated parameter and `residual` for the sum with something of the same
/// shape from elsewhere, after a product.
fn elementwise_word(graph: &Graph, grouping: &Grouping<'_>, step: usize, inside: &HashSet<usize>) -> String {
    let node = grouping.flow.steps[step].node;
    let sources = &grouping.flow.steps[step].sources;
    let is_sum = graph.operation(node).is_some_and(|operation| operation.is(ops::ADD));
    let follows_product = inside.iter().any(|step| grouping.flow.steps[*step].role == Role::Matmul);
    let outside = sources.iter().find(|source| source.step.is_none_or(|step| !inside.contains(&step)));
    if let (true, true, Some(outside)) = (is_sum, follows_product, outside) {
        let is_parameter = matches!(graph.node(outside.value.node).kind(), NodeKind::Parameter(_));
        if is_parameter && outside.path.broadcast {
            return "bias".to_owned();
        }
        let is_whole = graph.value_type(outside.value) == graph.value_type(ValueId::first(node));
        if is_whole || outside.path.picked.is_some() {
            return "residual".to_owned();
        }
    }
    op_name(graph, grouping, step)
}
