//! Regions that become several kernels, launched one after the other: where what feeds a product's rows is stored first, where
//! the inner dimension of a product is split, where the keys of an attention are.
//!
//! The first two are done on the graph: a region is rewritten and cut in two, and each part is built as any region is.

use tessera_ir::{Dim, Graph, NodeId, OpError, Shape, Storage, TensorType, Type, ValueId, ops};

use super::cost;
use super::error::Cut;
use super::kernel::Built;
use super::library::{InputKind, Library, Position};
use super::strategy::{Strategy, Tiling};
use super::symbols::Symbols;

/// One of the kernels of a region.
#[derive(Clone, Debug)]
pub struct Step {
    /// The program.
    pub built: Built,
    /// Its tiling.
    pub tiling: Tiling,
    /// Where the program's output is not the region's: the type of what it stores, which the next step has as its last input.
    pub stores: Option<Type>,
}

/// A region in two parts.
struct Halves {
    /// Computes one value from the region's inputs.
    before: Graph,
    before_tiling: Tiling,
    /// Computes the region's outputs from its inputs and, as the last of them, that value.
    after: Graph,
    after_tiling: Tiling,
}

impl Library {
    /// The kernels of a region, to be launched in this order.
    pub fn steps(
        &mut self,
        graph: &Graph,
        symbols: &Symbols,
        inputs: &[InputKind],
        tiling: &Tiling,
    ) -> Result<Vec<Step>, (Position, Cut)> {
        let Some(halves) = self.halves(graph, tiling) else {
            let kernels = self.kernels(graph, symbols, inputs, tiling)?;
            return Ok(kernels.into_iter().map(|built| Step { built, tiling: tiling.clone(), stores: None }).collect());
        };
        let Halves { before, before_tiling, after, after_tiling } = halves;
        // Values are named by their place in the region as a whole. What was added is no value of it: the cut is final then.
        let place_of = |part: &Graph, (place, cut): (Position, Cut)| {
            let own = part.topological_order().get(place.0).copied().filter(|node| graph.contains(*node));
            let found = own.and_then(|own| graph.topological_order().iter().position(|other| *other == own));
            match found {
                Some(found) => ((found, place.1), cut),
                None => ((0, 0), Cut { is_final: true, ..cut }),
            }
        };
        let stored = before.value_type(before.outputs()[0]).clone();
        let first = self.kernels(&before, symbols, inputs, &before_tiling).map_err(|error| place_of(&before, error))?;
        let mut kinds = inputs.to_vec();
        kinds.push(InputKind::Made);
        let second = self.kernels(&after, symbols, &kinds, &after_tiling).map_err(|error| place_of(&after, error))?;
        let first =
            first.into_iter().map(|built| Step { built, tiling: before_tiling.clone(), stores: Some(stored.clone()) });
        let second = second.into_iter().map(|built| Step { built, tiling: after_tiling.clone(), stores: None });
        Ok(first.chain(second).collect())
    }

    /// The parts that the tiling cuts the region into, if it does and the region is such that it can be.
    fn halves(&self, graph: &Graph, tiling: &Tiling) -> Option<Halves> {
        if tiling.strategy != Strategy::Matmul {
            return None;
        }
        if tiling.prologue == 2
            && let Some(value) = prologue(graph)
        {
            let (before, after) = cut_at(graph, value);
            let before_tiling = cost::rows(self.machine(), self.overrides());
            let after_tiling = Tiling { prologue: 1, ..tiling.clone() };
            return Some(Halves { before, before_tiling, after, after_tiling });
        }
        let splits = u64::from(tiling.splits);
        if splits > 1
            && let Some(product) = splittable(graph, splits)
        {
            let (before, after) = split_product(graph, product, splits).ok()?;
            let before_tiling = Tiling { splits: 1, ..tiling.clone() };
            let after_tiling = cost::choose(&after, self.machine(), self.overrides()).pop()?.tiling;
            return Some(Halves { before, before_tiling, after, after_tiling });
        }
        None
    }
}

/// What feeds the rows of all matrix products of a region, if that is one value which is computed in it with reductions.
pub fn prologue(graph: &Graph) -> Option<ValueId> {
    let products = graph.operations().filter(|(_, operation)| operation.is(ops::MATMUL));
    let mut rows = products.map(|(node, _)| graph.operands(node)[0]);
    let first = rows.next()?;
    if rows.any(|other| other != first) || graph.operation(first.node).is_none() {
        return None;
    }
    let (before, _) = cut_at(graph, first);
    cost::reduces(&before).then_some(first)
}

/// A region cut at a value: what computes it, and the rest, which has it as its last input.
fn cut_at(graph: &Graph, value: ValueId) -> (Graph, Graph) {
    let mut before = graph.clone();
    before.set_outputs([value]);
    before.remove_dead();
    let mut after = graph.clone();
    let input = after.input("stored", graph.value_type(value).clone());
    after.replace_all_uses(value, input);
    after.remove_dead();
    (before, after)
}

/// The only matrix product of a region whose inner dimension can be split into `splits` equal runs that lie one after the other in
/// memory: of matrices, the right-hand one row-major; and what is computed from it has one shape.
pub fn splittable(graph: &Graph, splits: u64) -> Option<NodeId> {
    let mut products = graph.operations().filter(|(_, operation)| operation.is(ops::MATMUL));
    let (node, operation) = products.next()?;
    let ops::Matmul { transpose_rhs } = operation.downcast()?;
    if products.next().is_some() || transpose_rhs {
        return None;
    }
    let operands = graph.operands(node);
    let [lhs, rhs] = [graph.value_type(operands[0]).as_tensor()?, graph.value_type(operands[1]).as_tensor()?];
    let inner = rhs.shape.first()?.as_static()?;
    // A weight that is dequantized is read by its own kernel's loop; its factors belong after the sum.
    let is_plain = graph.operation(operands[1].node).is_none();
    let fits = lhs.rank() == 2 && rhs.rank() == 2 && inner % splits == 0 && lhs.storage() != Storage::F64;
    (fits && is_plain && has_one_shape(graph)).then_some(node)
}

/// Whether all that a region stores has one shape.
fn has_one_shape(graph: &Graph) -> bool {
    let mut shapes: Vec<&Shape> = Vec::new();
    for output in graph.outputs() {
        match graph.defining(*output) {
            Some(operation) if operation.is(ops::KV_APPEND) => {
                let stored = &graph.operands(output.node)[1..3];
                shapes
                    .extend(stored.iter().filter_map(|value| graph.value_type(*value).as_tensor()).map(|ty| &ty.shape));
            }
            _ => shapes.extend(graph.value_type(*output).as_tensor().map(|ty| &ty.shape)),
        }
    }
    shapes.windows(2).all(|pair| pair[0] == pair[1])
}

/// Splits the inner dimension of a product: the parts' sums [splits, rows, columns] in f32, and the region that adds them up.
fn split_product(graph: &Graph, product: NodeId, splits: u64) -> Result<(Graph, Graph), OpError> {
    let operands = graph.operands(product);
    let whole = ValueId::first(product);
    let no_shape = || OpError::operation("a product of something else than tensors");
    let tensor = |value: ValueId| graph.value_type(value).as_tensor().ok_or_else(no_shape);
    let [lhs, rhs] = [tensor(operands[0])?, tensor(operands[1])?];
    let (rows, columns) = (lhs.shape[0].clone(), rhs.shape[1].clone());
    let inner = rhs.shape[0].as_static().ok_or_else(no_shape)?;
    let (parts, run) = (Dim::from(splits), Dim::from(inner / splits));

    let mut before = graph.clone();
    let left = TensorType::new([rows.clone(), parts.clone(), run.clone()], lhs.storage());
    let right = TensorType::new([parts.clone(), run, columns.clone()], rhs.storage());
    let sums = TensorType::new([parts, rows.clone(), columns.clone()], Storage::F32);
    let mut build = before.builder();
    let left = build.reshape(operands[0], left)?;
    let left = build.transpose(left, ops::Transpose { permutation: vec![1, 0, 2] })?;
    let right = build.reshape(operands[1], right)?;
    build.returning(sums.clone());
    let partial = build.matmul(left, right, ops::Matmul { transpose_rhs: false })?;
    before.set_outputs([partial]);
    before.remove_dead();

    let mut after = graph.clone();
    let input = after.input("partial_sums", sums);
    let part = TensorType::new([rows.clone(), columns.clone()], Storage::F32);
    let mut build = after.builder();
    let mut sum: Option<ValueId> = None;
    for split in 0..splits {
        let starts = vec![split as usize, 0, 0];
        let limits = vec![Dim::from(split + 1), rows.clone(), columns.clone()];
        let own = build.slice(input, ops::Slice { starts, limits })?;
        let own = build.reshape(own, part.clone())?;
        sum = Some(match sum {
            Some(sum) => build.add(sum, own)?,
            None => own,
        });
    }
    let mut sum = sum.ok_or_else(no_shape)?;
    let storage = tensor(whole)?.storage();
    if storage != Storage::F32 {
        sum = build.cast(sum, ops::Cast { to: storage })?;
    }
    after.replace_all_uses(whole, sum);
    after.remove_dead();
    Ok((before, after))
}
