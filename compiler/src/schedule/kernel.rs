//! From a region and its schedule to a tile program: which tiles of which results a program makes, and in what order.

use smallvec::SmallVec;
use tessera_ir::{Graph, Op, Shape, Type, ValueId, ops};
use tessera_runtime::plan::Extent;

use super::access::Memory;
use super::arguments::{Binding, Buffer, Partial};
use super::emitter::{Block, Emitter, InputMemory, Phase, Shaping};
use super::error::Cut;
use super::index::{Index, Position};
use super::strategy::{Strategy, Tiling};
use super::symbols::Symbols;
use crate::tile::{self, BinaryOperation, Dimension, Element, GridExtent, Predicate, Program};

/// A region: a graph without parameters, that is to become one kernel.
#[derive(Clone, Copy, Debug)]
pub struct Region<'a> {
    /// What is computed.
    pub graph: &'a Graph,
    /// The symbols of its shapes.
    pub symbols: &'a Symbols,
    /// Where its inputs are.
    pub inputs: &'a [InputMemory],
}

/// A tile program with what its parameters are bound to.
#[derive(Clone, Debug)]
pub struct Built {
    /// The program.
    pub program: Program,
    /// What each parameter is.
    pub bindings: Vec<Binding>,
    /// Programs along x, y and z.
    pub grid: [Extent; 3],
    /// What it leaves for the next kernel of the region, if it does.
    pub partials: Vec<PartialSize>,
}

impl Built {
    /// Whether it is there to put rows in the order of their experts, for products that are launched after it.
    pub fn orders_rows(&self) -> bool {
        self.partials.iter().any(|size| Partial::ORDER.contains(&size.partial))
    }
}

/// The size of a buffer between two kernels.
#[derive(Clone, Debug)]
pub struct PartialSize {
    /// Which.
    pub partial: Partial,
    /// Number of tokens.
    pub tokens: Extent,
    /// Bytes for each token.
    pub per_token: u64,
    /// Bytes besides.
    pub fixed: u64,
}

/// Something that a kernel puts into memory.
#[derive(Clone, Debug)]
pub(super) enum Root {
    /// An output of the region.
    Output { output: usize, value: ValueId },
    /// The state of a part of an attention's softmax.
    AttentionPart { value: ValueId, parts: u32 },
    /// The keys or values that a `kv_append` writes: `value` is what goes into the cache.
    Append { append: ValueId, value: ValueId, input: usize, layer: u64, keys: bool },
}

impl Root {
    pub(super) fn value(&self) -> ValueId {
        match self {
            Root::Output { value, .. } | Root::Append { value, .. } | Root::AttentionPart { value, .. } => *value,
        }
    }
}

/// A tile of a root: where its elements are.
pub(super) struct Place {
    root: Root,
    position: Position,
}

/// Places that belong to the programs in a part of the grid's second axis.
pub(super) struct Share {
    /// First program and number of programs, where not all do.
    range: Option<(u64, u64)>,
    places: Vec<Place>,
}

/// Rows of a tile from which on so many are expected that they are sorted by counting.
const FEW_ROWS_OF_A_TILE: u32 = 16;

/// Builds the program of a region; or several, to be launched one after the other, where the keys of an attention are split, or where the rows of
/// experts are put in order first.
///
/// # Errors
/// A [`Cut`] names the value that must be in memory first.
pub fn build(region: &Region, name: &str, tiling: &Tiling, shaping: Shaping) -> Result<Vec<Built>, Cut> {
    let has = |ops: &[tessera_ir::Op]| region.graph.operations().any(|(_, operation)| ops.contains(&operation.op()));
    let phases = match tiling.strategy {
        Strategy::Attention if tiling.splits > 1 && has(&[ops::ATTENTION, ops::PAGED_ATTENTION]) => {
            vec![Phase::Part(tiling.splits), Phase::Merge(tiling.splits)]
        }
        Strategy::Experts if tiling.rows > 1 && has(&[ops::GROUPED_MATMUL]) => {
            match shaping.rows_apart && tiling.rows > FEW_ROWS_OF_A_TILE {
                true => vec![Phase::Count, Phase::Scan, Phase::Place, Phase::Ordered],
                false => vec![Phase::Order, Phase::Ordered],
            }
        }
        _ => return Ok(vec![build_one(region, name, tiling, shaping)?]),
    };
    let build = |phase| build_one(region, name, tiling, Shaping { phase, ..shaping });
    phases.into_iter().map(build).collect()
}

fn build_one(region: &Region, name: &str, tiling: &Tiling, shaping: Shaping) -> Result<Built, Cut> {
    let mut kernel = Kernel {
        emitter: Emitter::new(region.graph, region.symbols, region.inputs, shaping, name),
        grid: [const { Extent::Constant(1) }; 3],
    };
    let roots = kernel.roots()?;
    let shares = match tiling.strategy {
        Strategy::Elementwise => kernel.elements(&roots, tiling)?,
        Strategy::Rows => kernel.rows(&roots, tiling)?,
        Strategy::Flat => kernel.flat(&roots, tiling)?,
        Strategy::Matmul => kernel.matmul(&roots, tiling)?,
        Strategy::Attention => kernel.attention(&roots, tiling)?,
        Strategy::Experts => kernel.experts(&roots, tiling)?,
    };
    let partials = match shaping.phase {
        Phase::Order | Phase::Count | Phase::Scan | Phase::Place => kernel.order_sizes()?,
        _ => kernel.partial_sizes(&shares)?,
    };
    kernel.fill(shares, tiling)?;
    let Kernel { mut emitter, grid } = kernel;
    match shaping.phase {
        Phase::Whole | Phase::Ordered => {}
        Phase::Order => _ = emitter.builder.summary("puts rows in the order of their experts"),
        Phase::Count => _ = emitter.builder.summary("counts the rows of each expert"),
        Phase::Scan => _ = emitter.builder.summary("adds up how many rows experts have"),
        Phase::Place => _ = emitter.builder.summary("writes rows in the order of their experts"),
        Phase::Part(parts) => _ = emitter.builder.summary(format!("one of {parts} parts of the keys")),
        Phase::Merge(parts) => _ = emitter.builder.summary(format!("merges {parts} parts of the keys")),
    }
    let mut extents = [GridExtent::fixed(1); 3];
    for (extent, axis) in grid.iter().zip(&mut extents) {
        *axis = GridExtent::Tiles { dimension: emitter.dimension(extent), block: 1 };
    }
    emitter.builder.grid(extents);
    emitter.builder.schedule(tile::Schedule { warps: tiling.warps, stages: tiling.stages });
    let bindings = emitter.arguments.bindings().to_vec();
    Ok(Built { program: emitter.builder.finish(), bindings, grid, partials })
}

pub(super) struct Kernel<'a> {
    pub(super) emitter: Emitter<'a>,
    grid: [Extent; 3],
}

impl Kernel<'_> {
    /// What the kernel writes.
    fn roots(&self) -> Result<Vec<Root>, Cut> {
        let graph = self.emitter.graph;
        let mut roots = Vec::new();
        for (output, value) in graph.outputs().iter().copied().enumerate() {
            match (graph.value_type(value), graph.defining(value).and_then(|found| found.downcast::<ops::KvAppend>())) {
                (Type::Tensor(_), _) => roots.push(Root::Output { output, value }),
                (Type::KvCache(_), Some(ops::KvAppend { layer })) => {
                    let operands = graph.operands(value.node);
                    let (input, _) = self.emitter.cache_input(operands[0])?;
                    let layer = layer as u64;
                    for (value_in, keys) in [(operands[1], true), (operands[2], false)] {
                        roots.push(Root::Append { append: value, value: value_in, input, layer, keys });
                    }
                }
                (Type::KvCache(_), None) => {}
            }
        }
        Ok(roots)
    }

    fn shape(&self, root: &Root) -> Result<Shape, Cut> {
        Ok(self.emitter.tensor_type(root.value())?.shape.clone())
    }

    /// The shape of all roots, which must be one.
    pub(super) fn common_shape(&self, roots: &[Root]) -> Result<Shape, Cut> {
        let Some(first) = roots.first() else { return Ok(Shape::scalar()) };
        let shape = self.shape(first)?;
        for root in roots {
            if self.shape(root)? != shape {
                return Err(Cut::at(root.value(), "results of different shapes are not made by one kernel"));
            }
        }
        Ok(shape)
    }

    /// The index of tiles of `block` elements along an axis of the grid that covers `extent` elements.
    pub(super) fn tiles(&mut self, axis: u8, extent: &Extent, block: u64) -> Index {
        self.grid[usize::from(axis)] = extent.clone().ceil_div(block);
        let limit = self.grid[usize::from(axis)].constant();
        let program = self.emitter.builder.program_id(axis);
        Index::bounded(program, limit.filter(|limit| *limit > 0))
    }

    /// The position in dimensions of these extents of the element at a flat index.
    fn unflattened(&mut self, flat: &Index, extents: &[Extent]) -> Position {
        let mut position: Position = SmallVec::new();
        let mut rest = flat.clone();
        for (dimension, extent) in extents.iter().enumerate().rev() {
            if dimension == 0 {
                position.insert(0, rest.clone());
                break;
            }
            let (quotient, remainder) = match self.emitter.arguments.declare(&mut self.emitter.builder, extent) {
                Dimension::Constant(0) => (rest.clone(), Index::default()),
                Dimension::Constant(extent) => rest.split(extent),
                extent => {
                    let extent = self.emitter.extent(extent);
                    let extent = self.emitter.lower_scalar(&extent);
                    rest.split_scalar(extent)
                }
            };
            position.insert(0, remainder);
            rest = quotient;
        }
        position
    }

    /// Rows of `block` along x: a scalar where the block is one.
    fn row(&mut self, extent: &Extent, block: u32, keeps_axis: bool) -> Index {
        let tile = self.tiles(0, extent, block.into());
        if block == 1 && !keeps_axis {
            return tile;
        }
        let length = extent.constant().map_or(block, |extent| block.min(extent.max(1) as u32));
        let axis = self.emitter.axis(block);
        let lanes = if length < block { Index::lane(axis, length) } else { Index::lane(axis, block) };
        tile.times(block.into()).plus(&lanes)
    }

    /// Tiles of rows by columns of results of one shape, without order among them.
    pub(super) fn elements(&mut self, roots: &[Root], tiling: &Tiling) -> Result<Vec<Share>, Cut> {
        let shape = self.common_shape(roots)?;
        let extents = self.emitter.extents(&shape);
        let position = match extents.split_last() {
            None => Position::new(),
            Some((last, leading)) => {
                let rows = Extent::product(leading.iter().cloned());
                let row = self.row(&rows, tiling.rows, false);
                let mut position = self.unflattened(&row, leading);
                let tile = self.tiles(1, last, tiling.columns.into());
                let lanes = self.emitter.lanes(tiling.columns);
                position.push(tile.times(tiling.columns.into()).plus(&lanes));
                position
            }
        };
        Ok(vec![Share { range: None, places: places(roots, &position) }])
    }

    /// Whole rows: what is computed of a row is computed once.
    fn rows(&mut self, roots: &[Root], tiling: &Tiling) -> Result<Vec<Share>, Cut> {
        let shape = self.common_shape(roots)?;
        let extents = self.emitter.extents(&shape);
        if extents.len() < 2 {
            // One number for each row.
            let mut position = Position::new();
            if let Some(extent) = extents.first() {
                position.push(self.row(extent, tiling.rows, false));
            }
            return Ok(vec![Share { range: None, places: places(roots, &position) }]);
        }
        let (last, leading) = match extents.split_last() {
            Some(split) => split,
            None => return Ok(Vec::new()),
        };
        let rows = Extent::product(leading.iter().cloned());
        let row = self.row(&rows, tiling.rows, false);
        let position = self.unflattened(&row, leading);
        let whole = last.constant().map(|extent| (extent, self.emitter.covering(extent)));
        match whole.filter(|(_, covering)| *covering <= tiling.columns) {
            Some((extent, covering)) => {
                let axis = self.emitter.axis(covering);
                let mut position = position;
                position.push(Index::lane(axis, extent as u32));
                Ok(vec![Share { range: None, places: places(roots, &position) }])
            }
            None => {
                // Long rows are walked in chunks; what belongs to the row as a whole is computed before.
                let lanes = self.emitter.lanes(tiling.columns);
                let dimension = self.emitter.arguments.declare(&mut self.emitter.builder, last);
                let step = |emitter: &mut Emitter, start: &Index, _: &[Block]| {
                    let mut position = position.clone();
                    position.push(start.plus(&lanes));
                    for place in places(roots, &position) {
                        put(emitter, &place)?;
                    }
                    Ok(Vec::new())
                };
                self.emitter.for_each(dimension, tiling.columns, &[], step)?;
                Ok(Vec::new())
            }
        }
    }

    /// Elements one after another, whatever the shape: any order of operands works, none fast.
    fn flat(&mut self, roots: &[Root], tiling: &Tiling) -> Result<Vec<Share>, Cut> {
        let shape = self.common_shape(roots)?;
        let extents = self.emitter.extents(&shape);
        let count = Extent::product(extents.iter().cloned());
        let position = if extents.is_empty() {
            Position::new()
        } else {
            let flat = self.row(&count, tiling.columns, true);
            self.unflattened(&flat, &extents)
        };
        Ok(vec![Share { range: None, places: places(roots, &position) }])
    }

    /// Tiles of a matrix product and of whatever is computed from them: results may each come from their own columns.
    fn matmul(&mut self, roots: &[Root], tiling: &Tiling) -> Result<Vec<Share>, Cut> {
        let graph = self.emitter.graph;
        let product = graph.operations().find(|(_, operation)| is_product(operation.op()));
        let Some((node, operation)) = product else { return self.elements(roots, tiling) };
        let product = ValueId::first(node);
        let shape = self.emitter.tensor_type(product)?.shape.clone();
        let is_grouped = operation.is(ops::GROUPED_MATMUL);
        let shared = is_grouped || self.emitter.tensor_type(graph.operands(node)[1])?.rank() == 2;
        let leading = shape.rank() - 1;
        let rows = if shared { 0..leading } else { leading - 1..leading };
        let row_shape: Shape = shape[rows.clone()].iter().cloned().collect();
        let batch: Shape = shape[..rows.start].iter().cloned().collect();
        let row_extents = self.emitter.extents(&row_shape);
        let row = self.row(&Extent::product(row_extents), tiling.rows, true);
        let batch_extents = self.emitter.extents(&batch);
        let batch_index = match batch.rank() {
            0 => Index::default(),
            _ => self.tiles(2, &Extent::product(batch_extents.clone()), 1),
        };
        // Shares of the columns: each root its own, unless all are computed from the same columns.
        let mut roots_by_width: Vec<(u64, Vec<(Root, usize)>)> = Vec::new();
        let separate = self.come_from_other_columns(roots)?;
        for root in roots {
            let root_shape = self.shape(root)?;
            let Some((width, first)) = columns_of(&root_shape, &batch, &row_shape) else {
                return Err(Cut::at(root.value(), "its rows are not those of the matrix product"));
            };
            match roots_by_width.iter_mut().find(|(known, _)| *known == width).filter(|_| !separate) {
                Some((_, roots)) => roots.push((root.clone(), first)),
                None => roots_by_width.push((width, vec![(root.clone(), first)])),
            }
        }
        let tiles: u64 = roots_by_width.iter().map(|(width, _)| width.div_ceil(tiling.columns.into())).sum();
        let tile = self.tiles(1, &Extent::from(tiles), 1);
        let pieces = tiling.pieces.max(1);
        let length = tiling.columns / pieces;
        let lanes = self.emitter.lanes(length);
        let several = roots_by_width.len() > 1;
        let mut shares = Vec::new();
        let mut before = 0;
        for (width, roots) in roots_by_width {
            let count = width.div_ceil(tiling.columns.into());
            let mut all = Vec::new();
            for piece in 0..pieces {
                let start = tile.offset_by(-(before as i64)).times(tiling.columns.into());
                let column = start.offset_by(i64::from(piece * length)).plus(&lanes);
                for (root, first) in &roots {
                    let extents = self.emitter.extents(&self.shape(root)?);
                    let mut position = self.unflattened(&batch_index, &batch_extents);
                    position.extend(self.unflattened(&row, &extents[batch.rank()..*first]));
                    position.extend(self.unflattened(&column, &extents[*first..]));
                    all.push(Place { root: root.clone(), position });
                }
            }
            shares.push(Share { range: several.then_some((before, count)), places: all });
            before += count;
        }
        Ok(shares)
    }

    /// Whether roots slice one product into parts, so that each has columns of its own.
    fn come_from_other_columns(&self, roots: &[Root]) -> Result<bool, Cut> {
        let graph = self.emitter.graph;
        let has_slice = graph.operations().any(|(_, operation)| operation.is(ops::SLICE));
        let products = graph.operations().filter(|(_, operation)| is_product(operation.op())).count();
        Ok(roots.len() > 1 && (has_slice || products > 1))
    }

    /// Tokens and the heads that share a key head, with whole heads as columns.
    fn attention(&mut self, roots: &[Root], tiling: &Tiling) -> Result<Vec<Share>, Cut> {
        let graph = self.emitter.graph;
        let found = graph.operations().find_map(|(node, operation)| {
            let keys = match operation.op() {
                ops::ATTENTION => graph.value_type(graph.operands(node)[1]).as_tensor()?.shape[1].as_static()?,
                ops::PAGED_ATTENTION => graph.value_type(graph.operands(node)[1]).as_cache()?.heads,
                _ => return None,
            };
            Some((ValueId::first(node), keys))
        });
        let Some((value, key_heads)) = found else { return self.elements(roots, tiling) };
        let shape = self.emitter.tensor_type(value)?.shape.clone();
        let (Some(heads), Some(width)) = (shape[1].as_static(), shape[2].as_static()) else {
            return Err(Cut::never(value, "the number of heads or their width is not known"));
        };
        let group = heads / key_heads.max(1);
        let padded = self.emitter.covering(group);
        // Several tokens share a program where a group fills its rows evenly.
        let tokens = if u64::from(padded) == group { (tiling.rows / padded).max(1) } else { 1 };
        let axis = self.emitter.axis(tokens * padded);
        let token_extent = self.emitter.symbols.extent(&shape[0]);
        let token_tile = self.tiles(0, &token_extent, tokens.into());
        let key_head = self.tiles(1, &Extent::from(key_heads), 1);
        let lanes = Index::lane(axis, if tokens == 1 { group as u32 } else { tokens * padded });
        let (token_in_tile, head_in_group) = lanes.split(group);
        let token = token_tile.times(tokens.into()).plus(&token_in_tile);
        let head = key_head.times(group as i64).plus(&head_in_group);
        let element_axis = self.emitter.axis(self.emitter.covering(width));
        let element = Index::lane(element_axis, width as u32);
        if let Phase::Part(parts) = self.emitter.shaping.phase {
            self.grid[2] = Extent::from(u64::from(parts));
            let position = [token, head, element].into_iter().collect();
            return Ok(vec![Share {
                range: None,
                places: vec![Place { root: Root::AttentionPart { value, parts }, position }],
            }]);
        }
        let mut all = Vec::new();
        for root in roots {
            let root_shape = self.shape(root)?;
            let extents = self.emitter.extents(&root_shape);
            let Some((columns, first)) =
                columns_of(&root_shape, &Shape::scalar(), &Shape::from(vec![shape[0].clone()]))
            else {
                return Err(Cut::at(root.value(), "its rows are not those of the attention"));
            };
            if columns != heads * width {
                return Err(Cut::at(root.value(), "its columns are not those of the attention"));
            }
            let column = head.times(width as i64).plus(&element);
            let mut position = self.unflattened(&token, &extents[..first]);
            position.extend(self.unflattened(&column, &extents[first..]));
            all.push(Place { root: root.clone(), position });
        }
        Ok(vec![Share { range: None, places: all }])
    }

    /// What is left for a second kernel.
    fn partial_sizes(&self, shares: &[Share]) -> Result<Vec<PartialSize>, Cut> {
        let mut roots = shares.iter().flat_map(|share| &share.places).map(|place| &place.root);
        let Some((value, parts)) = roots.find_map(|root| match root {
            Root::AttentionPart { value, parts } => Some((*value, *parts)),
            _ => None,
        }) else {
            return Ok(Vec::new());
        };
        let shape = &self.emitter.tensor_type(value)?.shape;
        let (Some(heads), Some(width)) = (shape[1].as_static(), shape[2].as_static()) else {
            return Err(Cut::never(value, "the number of heads or their width is not known"));
        };
        let states = heads * u64::from(parts) * Element::F32.bytes() as u64;
        let sizes = Partial::ATTENTION.into_iter().zip([states, states, states * width]);
        let tokens = self.emitter.symbols.extent(&shape[0]);
        Ok(sizes
            .map(|(partial, per_token)| PartialSize { partial, tokens: tokens.clone(), per_token, fixed: 0 })
            .collect())
    }

    /// Computes all places and stores them.
    fn fill(&mut self, shares: Vec<Share>, tiling: &Tiling) -> Result<(), Cut> {
        let emitter = &mut self.emitter;
        let wanted = |emitter: &Emitter, share: &Share| {
            emitter.wanted(|emitter| share.places.iter().try_for_each(|place| put(emitter, place)))
        };
        let needs = shares.iter().map(|share| wanted(emitter, share)).collect::<Result<Vec<_>, Cut>>()?;
        let is_same = needs.windows(2).all(|pair| {
            pair[0].iter().all(|key| pair[1].contains(key)) && pair[1].iter().all(|key| pair[0].contains(key))
        });
        if is_same && let Some(first) = needs.first() {
            emitter.prepare(first)?;
        }
        let _ = tiling;
        for share in &shares {
            match share.range {
                None => share.places.iter().try_for_each(|place| put(emitter, place))?,
                Some((first, count)) => {
                    let program = emitter.builder.program_id(1);
                    let program = emitter.scalar(program);
                    let (from, to) = (
                        emitter.number(first as f64, Element::I32),
                        emitter.number((first + count) as f64, Element::I32),
                    );
                    let after = emitter.compare(Predicate::GreaterEqual, &program, &from);
                    let before = emitter.compare(Predicate::Less, &program, &to);
                    let inside = emitter.binary(BinaryOperation::And, &after, &before);
                    emitter.conditionally(&inside, |emitter| {
                        if !is_same {
                            let needs = wanted(emitter, share)?;
                            emitter.prepare(&needs)?;
                        }
                        share.places.iter().try_for_each(|place| put(emitter, place))
                    })?;
                }
            }
        }
        Ok(())
    }
}

/// Whether an op is a product that tiles are chosen for.
fn is_product(op: Op) -> bool {
    op == ops::MATMUL || op == ops::GROUPED_MATMUL
}

/// The number of columns of a result whose first dimensions are the batch and hold the rows, and the first dimension that they
/// are spread over.
fn columns_of(shape: &Shape, batch: &Shape, rows: &Shape) -> Option<(u64, usize)> {
    if shape.rank() < batch.rank() || shape[..batch.rank()] != batch[..] {
        return None;
    }
    let volume = rows.volume();
    let first = (batch.rank()..shape.rank()).rev().find(|first| {
        let part: Shape = shape[batch.rank()..*first].iter().cloned().collect();
        part.volume() == volume
    })?;
    let columns = shape[first..].iter().try_fold(1u64, |product, dim| product.checked_mul(dim.as_static()?))?;
    Some((columns, first))
}

pub(super) fn places(roots: &[Root], position: &Position) -> Vec<Place> {
    roots.iter().map(|root| Place { root: root.clone(), position: position.clone() }).collect()
}

/// Computes a tile of a root and stores it.
pub(super) fn put(emitter: &mut Emitter, place: &Place) -> Result<(), Cut> {
    let value = place.root.value();
    match &place.root {
        Root::AttentionPart { parts, .. } => emitter.attention_part(value, &place.position, *parts),
        Root::Output { output, .. } => {
            let block = emitter.emit(value, &place.position)?;
            let element = emitter.storage_element(value)?;
            let extents = emitter.extents(&emitter.tensor_type(value)?.shape.clone());
            let alignment = 16;
            let memory = Memory { buffer: Buffer::Output(*output), element, extents, alignment };
            emitter.store(value, &memory, &place.position, &block)
        }
        Root::Append { append, input, layer, keys, .. } => {
            let block = emitter.emit(value, &place.position)?;
            let (input, layer) = (*input, *layer);
            let cache = emitter.graph.operands(append.node)[0];
            let (_, ty) = emitter.cache_input(cache)?;
            let element = emitter.cache_element(cache, &ty)?;
            let buffer = if *keys { Buffer::Keys { input, layer } } else { Buffer::Values { input, layer } };
            let memory = emitter.cache_memory(buffer, input, &ty, element);
            let [token, head, part] = place.position.as_slice() else {
                return Err(Cut::never(value, "keys and values are [tokens, heads, elements]"));
            };
            let slot = emitter.cache_slot(*append, &ty, token)?;
            emitter.store(value, &memory, &[slot, head.clone(), part.clone()], &block)
        }
    }
}
