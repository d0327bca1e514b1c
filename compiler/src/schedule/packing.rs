//! The matrices of experts in the order that a GPU's tensor cores take them in.
//!
//! A thread's part of a tensor-core fragment of MXFP4 is two rows of a few bytes, rows apart. So the target wants weights *packed*: 16 columns by
//! 64 steps of the inner dimension are 512 bytes, of which each lane of a warp has 16, one load, beside those of its neighbours; the elements of a word are in
//! the order of [`E2M1_WORD`], and the scales of 32 columns lie together. Nothing is then staged through shared memory or moved between threads. Which weights
//! are packed is decided here, once for a function; the plan says it as a [`Layout`], and the runtime applies it when it binds the weights.

use std::collections::HashMap;

use tessera_ir::{Graph, Name, NodeKind, Storage, ValueId, ops};
use tessera_runtime::plan::{Extent, Layout, TiledDimension};

use super::access::Memory;
use super::emitter::{Block, Emitter};
use super::error::Cut;
use super::index::{Index, Position};
use super::operations::Site;
use crate::target::Target;
use crate::tile::{E2M1_PER_WORD, E2M1_WORD, Element};

/// Rows of a fragment that different groups of lanes have; a lane has as many rows more, so many rows on.
const GROUPS: u64 = 8;
/// Rows of a fragment that a lane has.
const HALVES: u64 = 2;
/// Fragments whose scales lie together.
const FRAGMENTS: u64 = 2;
/// Lanes along the inner dimension.
const LANES: u64 = 4;
/// Words of a row of a fragment that a lane has.
const WORDS: u64 = 2;
/// Columns of a matrix that are rows of one fragment.
const COLUMNS: u64 = GROUPS * HALVES;
/// Columns of two fragments.
const PAIR: u64 = COLUMNS * FRAGMENTS;
/// Steps of the inner dimension that a fragment's bytes hold: what products of packed weights sum over is taken in multiples of it.
pub const DEPTH: u64 = LANES * WORDS * E2M1_PER_WORD as u64;
/// Elements of a block that share a scale.
const BLOCK: u64 = 32;
/// Blocks of a row of a fragment.
const BLOCKS: u64 = DEPTH / BLOCK;

/// Which columns of a packed matrix are rows of one fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Packing {
    /// Those that follow one another.
    Consecutive,
    /// Every second: gates apart from what they gate.
    Alternate,
}

/// A parameter that is packed: elements of matrices or their scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PackedParameter {
    packing: Packing,
    is_scales: bool,
    /// Number of matrices, their columns, and the blocks of a column.
    extents: [u64; 3],
}

impl PackedParameter {
    /// Which columns are rows of one fragment.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// The order of the bytes.
    pub fn layout(&self) -> Layout {
        let [parts, columns, blocks] = self.extents;
        let pairs = columns.div_ceil(PAIR);
        let chunks = blocks.div_ceil(BLOCKS);
        // Pairs of fragments, fragments, halves, groups: where each is in the column's number.
        let (tiles, [pair, fragment, half, group]) = match self.packing {
            Packing::Consecutive => ([pairs, FRAGMENTS, HALVES, GROUPS], [0, 1, 2, 3]),
            Packing::Alternate => ([pairs, HALVES, GROUPS, FRAGMENTS], [0, 3, 1, 2]),
        };
        let column = TiledDimension { extent: columns, tiles: tiles.to_vec() };
        // Chunks of the inner dimension, lanes or blocks of one, bytes of a lane.
        let [chunk, part, byte] = [4, 5, 6];
        match self.is_scales {
            true => Layout {
                parts,
                dimensions: vec![column, TiledDimension { extent: blocks, tiles: vec![chunks, BLOCKS] }],
                permutation: vec![pair, chunk, group, part, fragment, half],
                word_bits: Vec::new(),
            },
            false => {
                let bytes = BLOCK / 2;
                let run = WORDS * 4;
                let tiles = vec![chunks, LANES, run];
                Layout {
                    parts,
                    dimensions: vec![column, TiledDimension { extent: blocks * bytes, tiles }],
                    permutation: vec![pair, fragment, chunk, group, part, half, byte],
                    word_bits: E2M1_WORD.to_vec(),
                }
            }
        }
    }
}

/// The parameters of a graph without fusions that a target wants packed: those that only products of bf16 rows with experts' MXFP4 matrices read.
pub fn packed_parameters(graph: &Graph, target: Target) -> HashMap<Name, PackedParameter> {
    if target.chip().is_none() {
        return HashMap::new();
    }
    let parameters: HashMap<ValueId, &Name> = graph.parameters().map(|(name, value)| (value, name)).collect();
    let mut found = HashMap::new();
    let mut refused: Vec<&Name> = Vec::new();
    for (node, operation) in graph.operations() {
        let operands = graph.operands(node);
        let named: Vec<&Name> = operands.iter().filter_map(|operand| parameters.get(operand).copied()).collect();
        if !operation.is(ops::BLOCK_SCALED) {
            refused.extend(named);
            continue;
        }
        let value = ValueId::first(node);
        match (named.as_slice(), packing(graph, value)) {
            ([elements, scales], Some((packing, extents))) => {
                for (name, is_scales) in [(*elements, false), (*scales, true)] {
                    let own = PackedParameter { packing, is_scales, extents };
                    // Read as something else too.
                    if found.insert(name.clone(), own).is_some_and(|other| other != own) {
                        refused.push(name);
                    }
                }
            }
            _ => refused.extend(named),
        }
    }
    let outputs = graph.outputs().iter().filter_map(|output| parameters.get(output).copied());
    refused.extend(outputs);
    // Elements without their scales are of no use, nor the other way round.
    let is_refused = |operand: &ValueId| parameters.get(operand).is_some_and(|name| refused.contains(name));
    let pairs = graph.operations().filter(|(_, operation)| operation.is(ops::BLOCK_SCALED));
    let together: Vec<&Name> = (pairs.map(|(node, _)| graph.operands(node)))
        .filter(|operands| operands.iter().any(is_refused))
        .flat_map(|operands| operands.to_vec())
        .filter_map(|operand| parameters.get(&operand).copied())
        .collect();
    found.retain(|name, _| !refused.contains(&name) && !together.contains(&name));
    found
}

/// Whether tensor cores multiply rows of a storage with matrices of another that are packed.
pub fn is_packable(rows: Storage, matrices: Storage) -> bool {
    rows == Storage::Bf16 && matrices == Storage::Mxfp4
}

/// How block-scaled matrices are wanted, if they are wanted packed, and their extents.
fn packing(graph: &Graph, matrices: ValueId) -> Option<(Packing, [u64; 3])> {
    let ty = graph.value_type(matrices).as_tensor()?;
    let [parts, columns, inner] = ty.shape.as_slice() else { return None };
    let extents = [parts.as_static()?, columns.as_static()?, inner.as_static()?.div_ceil(BLOCK)];
    if extents.contains(&0) {
        return None;
    }
    let mut alternates = true;
    for (node, operation) in users(graph, matrices) {
        let operands = graph.operands(node);
        let rows = graph.value_type(operands[0]).as_tensor()?;
        let is_product = operation.is(ops::GROUPED_MATMUL) && operands[1] == matrices && operands[0] != matrices;
        if !is_product || !is_packable(rows.storage(), ty.storage()) {
            return None;
        }
        let mut wanted = users(graph, ValueId::first(node)).peekable();
        let is_gated = |operation: &tessera_ir::Operation| {
            operation.downcast().is_some_and(|ops::Swiglu { style, .. }| style == ops::SwigluStyle::Interleaved)
        };
        alternates &= wanted.peek().is_some() && wanted.all(|(_, operation)| is_gated(operation));
    }
    Some((if alternates { Packing::Alternate } else { Packing::Consecutive }, extents))
}

fn users(graph: &Graph, value: ValueId) -> impl Iterator<Item = (tessera_ir::NodeId, &tessera_ir::Operation)> {
    graph.operations().filter(move |(node, _)| graph.operands(*node).contains(&value))
}

impl Emitter<'_> {
    /// How the memory of a block-scaled value's elements is packed, if it is.
    pub fn packing_of(&self, value: ValueId) -> Option<Packing> {
        let elements = *self.graph.operands(value.node).first()?;
        let NodeKind::Input(input) = self.graph.node(elements.node).kind() else { return None };
        self.inputs.get(*input)?.packed.map(|packed| packed.packing())
    }

    /// A tile of packed matrices as numbers: columns that follow one another, or every second, by whole fragments of the inner dimension.
    pub fn load_packed(&mut self, site: &Site, packing: Packing) -> Result<Block, Cut> {
        let value = site.value;
        let order = || Cut::at(value, "packed weights are wanted in another order than that of their fragments");
        let [Some(elements), Some(scales)] =
            [0, 1].map(|operand| match self.graph.node(site.operands[operand].node).kind() {
                NodeKind::Input(input) => Some(*input),
                _ => None,
            })
        else {
            return Err(order());
        };
        let [matrix, column, inner] = site.position else { return Err(order()) };
        let shape = self.tensor_type(value)?.shape.clone();
        let extents: Option<Vec<u64>> = shape.iter().map(|dim| dim.as_static()).collect();
        let Some(&[count, columns, depth]) = extents.as_deref() else { return Err(order()) };
        let (pairs, chunks) = (columns.div_ceil(PAIR), depth.div_ceil(DEPTH));
        let (Some((first, along)), Some((start, deep))) = (column.separate(), inner.separate()) else {
            return Err(order());
        };
        let (&[(column_axis, ref along)], &[(inner_axis, ref deep)]) = (along.as_slice(), deep.as_slice()) else {
            return Err(order());
        };
        let (length, chunk) = (u64::from(self.length(column_axis)), u64::from(self.length(inner_axis)));
        let stride = if *along == Index::lane(column_axis, length as u32) { 1 } else { 2 };
        if *along != Index::lane(column_axis, length as u32).times(stride)
            || deep.as_lane().is_none()
            || !length.is_multiple_of(COLUMNS)
            || !chunk.is_multiple_of(DEPTH)
        {
            return Err(order());
        }
        // The fragment of a pair, or all of them; the first pair and how many.
        let whole = Index::default();
        let (pair, fragment, pair_count, fragments) = match (packing, stride) {
            (Packing::Alternate, 2) => {
                let (half, fragment) = first.split(FRAGMENTS);
                let (pair, rest) = half.split(COLUMNS);
                (rest == whole).then_some((pair, fragment, length / COLUMNS, 1))
            }
            (_, 1) if length.is_multiple_of(PAIR) => {
                let (pair, rest) = first.split(PAIR);
                (rest == whole).then_some((pair, whole.clone(), length / PAIR, FRAGMENTS))
            }
            (Packing::Consecutive, 1) => {
                let (fragment, rest) = first.split(COLUMNS);
                let (pair, fragment) = fragment.split(FRAGMENTS);
                (rest == whole).then_some((pair, fragment, 1, 1))
            }
            _ => None,
        }
        .ok_or_else(order)?;
        let (chunk_start, rest) = start.split(DEPTH);
        if rest != whole {
            return Err(order());
        }
        let chunk_count = chunk / DEPTH;

        // Dimensions in memory after that of the matrices, with what of each is loaded: where it begins and how much.
        let load = |emitter: &mut Self, input: usize, element, dimensions: &[(u64, &Index, u64)]| {
            let mut position = Position::from_iter([matrix.clone()]);
            let mut extents = vec![Extent::from(count)];
            for (extent, start, length) in dimensions {
                position.push(start.plus(&emitter.lanes(*length as u32)));
                extents.push(Extent::from(*extent));
            }
            let memory = emitter.input_memory(site.operands[usize::from(input == scales)], input)?;
            emitter.load(value, &Memory { element, extents, ..memory }, &position)
        };
        let words = GROUPS * LANES * HALVES * WORDS;
        let fragment_place = (FRAGMENTS, &fragment, fragments);
        let (pair_place, chunk_place) = ((pairs, &pair, pair_count), (chunks, &chunk_start, chunk_count));
        let places = [pair_place, fragment_place, chunk_place, (words, &whole, words)];
        let stored = load(self, elements, Element::U32, &places)?;
        // A lane's scales of both fragments are one access if both are wanted.
        let (groups, both) = (GROUPS * BLOCKS, FRAGMENTS * HALVES);
        let mut places = vec![pair_place, chunk_place, (groups, &whole, groups)];
        match fragments {
            1 => places.extend([fragment_place, (HALVES, &whole, HALVES)]),
            _ => places.push((both, &whole, both)),
        }
        let factors = load(self, scales, Element::U8, &places)?;

        // Where the parts of a column's number come from among the dimensions of a tile: pair, fragment, half, group.
        let columns_from = |[pair, fragment, half, group]: [u8; 4]| match packing {
            Packing::Consecutive => [pair, fragment, half, group],
            Packing::Alternate => [pair, half, group, fragment],
        };
        let narrow = |extents: &[u64]| extents.iter().map(|&extent| extent as u32).collect::<Vec<_>>();
        let rearrange =
            |emitter: &mut Self, block: Block, extents: &[u64], columns: [u8; 4], inner: &[u8], width: u64| {
                let permutation: Vec<u8> = columns_from(columns).into_iter().chain(inner.iter().copied()).collect();
                emitter.builder.rearrange(block.value, &narrow(extents), &permutation, &narrow(&[length, width]))
            };
        let words = chunk / u64::from(E2M1_PER_WORD);
        let extents = [pair_count, fragments, chunk_count, GROUPS, LANES, HALVES, WORDS];
        let stored = rearrange(self, stored, &extents, [0, 1, 5, 3], &[2, 4, 6], words);
        let extents = [pair_count, chunk_count, GROUPS, BLOCKS, fragments, HALVES];
        let factors = rearrange(self, factors, &extents, [0, 4, 5, 2], &[1, 3], chunk / BLOCK);
        let axes = [column_axis, inner_axis].into_iter().collect();
        Ok(Block { value: self.builder.dequantize(stored, factors, Element::BF16), axes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lane's elements and scales of a fragment lie where the doc of the module says.
    #[test]
    fn lanes_have_their_bytes_together() {
        let extents = [1, 64, 4];
        for packing in [Packing::Consecutive, Packing::Alternate] {
            let elements = PackedParameter { packing, is_scales: false, extents }.layout();
            let scales = PackedParameter { packing, is_scales: true, extents }.layout();
            assert_eq!((elements.problem(64 * 64), scales.problem(64 * 4)), (None, None));
            let plain = Layout { word_bits: Vec::new(), ..elements };
            // Bytes that are named by their column or by their place in it.
            let mut found = [Vec::new(), Vec::new(), Vec::new()];
            plain.mover().lay_out(&(0..64 * 64).map(|at| (at / 64) as u8).collect::<Vec<_>>(), &mut found[0]);
            plain.mover().lay_out(&(0..64 * 64).map(|at| (at % 64) as u8).collect::<Vec<_>>(), &mut found[1]);
            scales.mover().lay_out(&(0..64 * 4).map(|at| at as u8).collect::<Vec<_>>(), &mut found[2]);
            let [columns, bytes, scales] = found;
            let column = |pair: usize, fragment: usize, half: usize, group: usize| match packing {
                Packing::Consecutive => 32 * pair + 16 * fragment + 8 * half + group,
                Packing::Alternate => 32 * pair + 2 * (8 * half + group) + fragment,
            };
            for (pair, fragment, chunk, lane) in [(0, 0, 0, 0), (0, 1, 0, 5), (1, 0, 1, 30), (1, 1, 1, 31)] {
                let (group, part) = (lane / 4, lane % 4);
                let start = ((pair * 2 + fragment) * 2 + chunk) * 512 + lane * 16;
                for half in 0..2 {
                    let own = start + 8 * half..start + 8 * half + 8;
                    let wanted = column(pair, fragment, half, group);
                    assert!(columns[own.clone()].iter().all(|&found| usize::from(found) == wanted));
                    assert!(
                        bytes[own]
                            .iter()
                            .map(|&byte| usize::from(byte))
                            .eq((0..8).map(|at| 32 * chunk + 8 * part + at))
                    );
                    let scale = ((pair * 2 + chunk) * 16 + group * 2 + part / 2) * 4 + fragment * 2 + half;
                    assert_eq!(usize::from(scales[scale]), wanted * 4 + chunk * 2 + part / 2);
                }
            }
        }
    }
}
