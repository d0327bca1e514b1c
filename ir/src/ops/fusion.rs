//! Fusion: a nested graph that becomes one kernel.

use crate::definition::{Inference, OpError, ResultTypes};
use crate::graph::{Graph, NodeId, ValueId};
use crate::name::Name;
use crate::operation::{Operation, operation};
use crate::ops::family;
use crate::sharding::{FactorKind, ShardingRule};
use crate::types::Type;

family! {
    /// Operations grouped without changing what they compute.
    FUSION_FAMILY = "Fusion" [Fusion]
}

operation! {
    /// Computes a nested graph. Its inputs are the operands, its outputs the results.
    ///
    /// In the text form each operand stands behind the name it has inside:
    /// `fusion(%a = %x, %b = @w) : tensor<4xf32> { %c = mul(%a, %b) return %c }`. Everything comes in as an
    /// operand: the nested graph refers to no parameter itself.
    FUSION = fusion(
        /// Whatever the nested graph needs.
        operands: [Any],
    ), Fusion {
        /// What the fusion is for, in reports and names of kernels.
        label: Option<Name>,
        /// How the kernel is scheduled, as the compiler writes and reads it; absent until it has chosen.
        schedule: Option<Name>,
    }
    region: true,
    infer: infer_fusion,
    sharding: shard_fusion,
    evaluate: |_, evaluation| evaluation.region(),
}

fn infer_fusion(_: &Fusion, inference: &Inference<'_>) -> Result<ResultTypes, OpError> {
    let region = inference.region.ok_or_else(|| OpError::operation("the nested graph is missing"))?;
    if let Some((name, _)) = region.parameters().next() {
        let message = format!("the nested graph refers to parameter `@{name}`");
        return Err(OpError::operation(message).help("pass it as an operand"));
    }
    if region.inputs().len() != inference.operands.len() {
        let (inputs, operands) = (region.inputs().len(), inference.operands.len());
        let message = format!("the nested graph has {inputs} inputs, {operands} operands are given");
        return Err(OpError::operation(message));
    }
    for (index, (input, operand)) in region.inputs().zip(inference.operands).enumerate() {
        let input = region.value_type(input);
        if !input.agrees_with(operand) {
            return Err(OpError::operand(index, format!("the nested graph takes {input}, not {operand}")));
        }
    }
    if region.outputs().is_empty() {
        return Err(OpError::operation("the nested graph returns nothing"));
    }
    Ok(region.outputs().iter().map(|output| region.value_type(*output).clone()).collect())
}

/// Sharding is decided before fusion: what is inside tells how dimensions relate, the fusion as a whole
/// keeps every dimension on one device.
fn shard_fusion(_: &Fusion, operands: &[&Type], results: &[&Type]) -> ShardingRule {
    let mut rule = ShardingRule::new();
    let mut whole = |ty: &&Type| {
        let rank = ty.as_tensor().map_or(0, |tensor| tensor.rank());
        (0..rank).map(|_| vec![rule.factor(FactorKind::Whole)]).collect::<Vec<_>>()
    };
    let operands = operands.iter().map(&mut whole).collect();
    let results = results.iter().map(&mut whole).collect();
    ShardingRule { operands, results, ..rule }
}

impl Graph {
    /// Adds a fusion of `region` on `operands`; its results are those of the region.
    ///
    /// # Errors
    /// The operands do not fit the inputs of the region.
    pub fn fusion(&mut self, operands: &[ValueId], region: Graph, label: Option<Name>) -> Result<NodeId, OpError> {
        self.add(Operation::from(Fusion { label, schedule: None }).with_region(region), operands, &[])
    }
}
