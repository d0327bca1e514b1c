//! The pass `fuse`.
//!
//! # Regions
//!
//! A region is a `fusion` operation: a graph of its own that becomes one kernel, or a few launches of kernels with nothing else between
//! them. This is what the schedule may rely on, for every region that this pass makes:
//!
//! 1. **Acyclic.** Regions and the operations left alone, each taken as one node, have an order. Appending to a KV cache happens in place, so
//!    whatever reads the cache as it was comes before the append in that order.
//! 2. **One anchor.** A region has one of
//!    - products: one `matmul`, or several with the same left side, whose results meet in the region or in the attention after it;
//!    - one `attention` or `paged_attention`;
//!    - reductions (`reduce_*`, `softmax`, norms), all over the same dimensions of operands of one shape;
//!    - none of these: elementwise operations, all with the same number of elements.
//! 3. **Prologue.** Before products: rows of the left side may come through a norm, lookups and light elementwise operations; the right side
//!    through `cast` or `dequantize` of a parameter. Prologues are copied into as many as three regions. Before attention: light
//!    elementwise operations and `rope` on the queries alone.
//! 4. **Epilogue.** After products: elementwise operations, `rope` and `kv_append` whose operands from the region are results of products
//!    seen through `reshape` and `slice` only, never transposed and never repeated. Two slices of one product may meet in one operation (a gated MLP with
//!    one weight for gate and up). After attention: elementwise operations of the shape of its result.
//! 5. **Reductions.** Elementwise operations in the region have as many elements as the reductions' operands or as their results.
//! 6. **Views.** `reshape`, `slice`, `broadcast`, `transpose`, `iota` and constants of one number stand in each region that reads through them; they
//!    are positions and not work. Outside regions they stand only where an output or an op that is never fused needs them in memory.
//! 7. **Outputs.** Any operation of a region but a copied prologue may be an output, also one with users inside.
//! 8. **Order.** Operations stand in dataflow order; equal graphs give equal regions with equal names.
//!
//! `sample`, `argmax`, `concat` and fusions that exist already are left alone.

mod clusters;
mod dataflow;
mod grow;
mod name;
mod region;

use std::collections::HashSet;

use tessera_ir::{Function, Graph, Module};

use self::dataflow::Dataflow;
use self::grow::Grouping;
use self::region::{Fused, build};
use super::pass::{Context, Pass, PassError};
use super::remark::RemarkKind;

/// Groups operations into regions that become one kernel each: norms, products, bias, activation and residual; gate and up; q, k and v with rope
/// and the cache append; attention; chains of elementwise operations and reductions. Remarks say what went together, and what did not and why.
///
/// # Limits
///
/// The choice is made by rules on ops and shapes, not by measurement. A product's epilogue ends at the first operation that needs whole rows
/// (a norm, a softmax): such an operation starts a region of its own or becomes the prologue of the next product. Attention written out as products and
/// a softmax is not recognised.
pub struct Fuse;

impl Pass for Fuse {
    fn run(&self, module: &mut Module, context: &mut Context) -> Result<bool, PassError> {
        let mut changed = false;
        for function in &mut module.functions {
            let Function { name, graph } = function;
            let flow = Dataflow::of(graph);
            let grouping = Grouping::of(graph, &flow);
            let fused = build(graph, &grouping)
                .map_err(|(operation, error)| PassError::of(name.as_str(), operation, error))?;
            report(context, name.as_str(), graph, &grouping, &fused);
            if !fused.regions.is_empty() {
                *graph = fused.graph;
                changed = true;
            }
        }
        Ok(changed)
    }
}

/// Leaves a remark for every region, and for every pair that was considered and stayed apart.
fn report(context: &mut Context, function: &str, graph: &Graph, grouping: &Grouping<'_>, fused: &Fused) {
    let describe = |step: usize| super::describe(graph, grouping.flow.steps[step].node);
    for region in &fused.regions {
        let anchors = region.steps.iter().filter(|step| !grouping.copied.contains_key(step));
        let first = anchors.clone().next().or(region.steps.first());
        let parts: Vec<String> = region.steps.iter().map(|step| describe(*step)).collect();
        let message = format!("one kernel, {}: {}", region.name, parts.join(", "));
        let operation = first.map(|step| describe(*step)).unwrap_or_default();
        context.remark("fuse", RemarkKind::Applied, function, operation, message);
    }
    let together: HashSet<(usize, usize)> = fused
        .regions
        .iter()
        .flat_map(|region| region.steps.iter().flat_map(|one| region.steps.iter().map(|other| (*one, *other))))
        .collect();
    for ((step, anchor), reason) in &grouping.refusals {
        if !together.contains(&(*step, *anchor)) {
            let message = format!("not fused with {}: {reason}", describe(*anchor));
            context.remark("fuse", RemarkKind::Missed, function, describe(*step), message);
        }
    }
}
