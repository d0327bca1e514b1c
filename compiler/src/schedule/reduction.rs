//! Ops that combine elements along dimensions: sums, extremes, softmax, norms.

use smallvec::SmallVec;
use tessera_ir::{ValueId, ops};

use super::emitter::{Block, Emitter, Key, Part};
use super::error::Cut;
use super::index::{Axis, Index, Position};
use super::operations::Site;
use crate::tile::{BinaryOperation, Dimension, Element, Literal, Predicate, Reduction, UnaryOperation};

/// Gives the elements at a position.
type ElementAt<'e, 'a> = dyn Fn(&mut Emitter<'a>, &[Index]) -> Result<Block, Cut> + 'e;

/// Takes a chunk, at a place in the outer dimensions and from an index on, into what is carried.
type ChunkStep<'e, 'a> = dyn Fn(&mut Emitter<'a>, &[Index], &Index, &Block) -> Result<Block, Cut> + 'e;

impl<'a> Emitter<'a> {
    /// Combines `element` over all positions below `extents`, for rows that vary along the axes of `row`.
    ///
    /// The last dimension is looked at in chunks, in one if it is short; the others one by one.
    pub fn reduce_over(
        &mut self,
        reduction: Reduction,
        kind: Element,
        row: &[Index],
        extents: &[Dimension],
        element: &ElementAt<'_, 'a>,
    ) -> Result<Block, Cut> {
        let mut kept: SmallVec<[Axis; 3]> = row.iter().flat_map(Index::axes).collect();
        kept.sort_unstable();
        kept.dedup();
        let Some((last, outer)) = extents.split_last() else {
            return element(self, &[]);
        };
        let identity = identity(reduction, kind);
        let rows = kept.iter().fold(1u32, |rows, axis| rows.saturating_mul(self.length(*axis)));
        let shared = (self.shaping.largest_chunk / rows).checked_ilog2().map_or(1, |power| 1 << power);
        let longest = self.shaping.longest_chunk.min(shared);
        let (chunk, is_whole) = match last {
            Dimension::Constant(extent) if self.covering(*extent) <= longest => (self.covering(*extent), true),
            Dimension::Constant(extent) => (longest.min(self.covering(*extent)), false),
            Dimension::Argument(_) => (longest.min(self.covering(u64::from(longest))), false),
        };
        let axis = self.axis_of_length(chunk, &kept);
        let lanes = match last {
            Dimension::Constant(extent) if is_whole => Index::lane(axis, *extent as u32),
            _ => Index::lane(axis, chunk),
        };
        // One chunk's elements, with what lies beyond the end replaced by what changes nothing.
        let masked = |emitter: &mut Self, outer: &[Index], index: &Index| {
            let mut place: Vec<Index> = outer.to_vec();
            place.push(index.clone());
            let block = element(emitter, &place)?;
            let block = emitter.cast(&block, kind);
            Ok::<Block, Cut>(match emitter.inside(index, *last) {
                None => block,
                Some(inside) => {
                    let nothing = emitter.literal(identity, kind);
                    emitter.select(&inside, &block, &nothing)
                }
            })
        };
        if outer.is_empty() && is_whole {
            let block = masked(self, &[], &lanes)?;
            return Ok(self.reduce(reduction, &block, axis));
        }
        let mut axes = kept;
        axes.push(axis);
        let nothing = self.literal(identity, kind);
        let initial = Block { value: self.spread(&nothing, &axes), axes };
        let sum = self.nest(outer, *last, chunk, &[], &initial, &|emitter, outer, start, sum| {
            let block = masked(emitter, outer, &start.plus(&lanes))?;
            Ok(emitter.binary(combination(reduction), sum, &block))
        })?;
        Ok(self.reduce(reduction, &sum, axis))
    }

    /// Loops over the outer dimensions one by one and over the last in chunks, with one carried block.
    fn nest(
        &mut self,
        outer: &[Dimension],
        last: Dimension,
        chunk: u32,
        place: &[Index],
        carried: &Block,
        step: &ChunkStep<'_, 'a>,
    ) -> Result<Block, Cut> {
        let (extent, by) = match outer.first() {
            Some(first) => (*first, 1),
            None => (last, chunk),
        };
        let mut results = self.for_each(extent, by, std::slice::from_ref(carried), |emitter, index, carried| {
            let carried = &carried[0];
            Ok(vec![match outer.split_first() {
                Some((_, rest)) => {
                    let mut place = place.to_vec();
                    place.push(index.clone());
                    emitter.nest(rest, last, chunk, &place, carried, step)?
                }
                None => step(emitter, place, index, carried)?,
            }])
        })?;
        Ok(results.remove(0))
    }

    /// An axis of this length other than `taken`: an old one, so that blocks loaded along it can be used again, or a new one.
    fn axis_of_length(&mut self, length: u32, taken: &[Axis]) -> Axis {
        let old = self.axes_of_length(length).find(|axis| !taken.contains(axis));
        old.unwrap_or_else(|| self.axis(length))
    }

    /// A reduction op over `axes` of its operand.
    pub fn reduction(&mut self, site: &Site, reduction: Reduction, axes: &[usize]) -> Result<Block, Cut> {
        let operand = site.operands[0];
        let shape = self.tensor_type(operand)?.shape.clone();
        let mut extents = Vec::new();
        for axis in axes {
            let extent = self.symbols.extent(&shape[*axis]);
            extents.push(self.dimension(&extent));
        }
        let kind = super::emitter::arithmetic_element(self.storage_element(operand)?);
        self.reduce_over(reduction, kind, site.position, &extents, &|emitter, place| {
            let mut row = site.position.iter();
            let mut reduced = place.iter();
            let position: Position = (0..shape.rank())
                .filter_map(|dimension| if axes.contains(&dimension) { reduced.next() } else { row.next() })
                .cloned()
                .collect();
            let block = emitter.emit(operand, &position)?;
            Ok(emitter.wide(&block))
        })
    }

    /// A sum over dimensions of `value` divided by their number of elements.
    pub fn per_element(&mut self, value: ValueId, axes: &[usize], sum: &Block) -> Result<Block, Cut> {
        let shape = self.tensor_type(value)?.shape.clone();
        let kind = self.element(sum);
        let mut count = self.number(1.0, kind);
        let mut fixed = 1.0;
        for axis in axes {
            let extent = self.symbols.extent(&shape[*axis]);
            match self.dimension(&extent) {
                Dimension::Constant(extent) => fixed *= extent as f64,
                dimension => {
                    let extent = self.extent(dimension);
                    let extent = self.lower(&extent);
                    let extent = self.cast(&extent, kind);
                    count = self.multiply(&count, &extent);
                }
            }
        }
        if axes.iter().all(|axis| shape[*axis].as_static().is_some()) {
            return Ok(self.scale(sum, 1.0 / fixed));
        }
        let count = self.scale(&count, fixed);
        Ok(self.divide(sum, &count))
    }

    /// What an op needs of each row of its operand: see [`Part`]. `row` is the position without the dimension along which the op
    /// looks.
    pub fn statistic(&mut self, value: ValueId, part: Part, row: &[Index]) -> Result<Block, Cut> {
        let key = Key { value, part, position: SmallVec::from(row) };
        self.once(key, |emitter| emitter.compute_statistic(value, part, row))
    }

    fn compute_statistic(&mut self, value: ValueId, part: Part, row: &[Index]) -> Result<Block, Cut> {
        let graph = self.graph;
        let operand = graph.operands(value.node)[0];
        let kind = super::emitter::arithmetic_element(self.storage_element(operand)?);
        let Some(operation) = graph.operation(value.node) else {
            return Err(Cut::never(value, "an input has no statistics"));
        };
        let last = self.tensor_type(operand)?.rank().saturating_sub(1);
        if let Some(ops::Softmax { axis }) = operation.downcast() {
            return match part {
                Part::First => self.along(Reduction::Maximum, kind, operand, axis, row, &|_, x| Ok(x)),
                _ => {
                    let maximum = self.statistic(value, Part::First, row)?;
                    self.along(Reduction::Sum, kind, operand, axis, row, &|emitter, x| {
                        let x = emitter.subtract(&x, &maximum);
                        Ok(emitter.unary(UnaryOperation::Exp, &x))
                    })
                }
            };
        }
        if let Some(ops::Argmax { axis }) = operation.downcast() {
            return self.along(Reduction::Maximum, kind, operand, axis, row, &|_, x| Ok(x));
        }
        let (epsilon, mean) = match (operation.downcast(), operation.downcast()) {
            (Some(ops::LayerNorm { epsilon }), _) => {
                let mean = match part {
                    Part::First => None,
                    _ => Some(self.statistic(value, Part::First, row)?),
                };
                (epsilon, mean)
            }
            (_, Some(ops::RmsNorm { epsilon })) => (epsilon, None),
            _ => return Err(Cut::never(value, "an op without statistics")),
        };
        if part == Part::First {
            let sum = self.along(Reduction::Sum, kind, operand, last, row, &|_, x| Ok(x))?;
            return self.per_element(operand, &[last], &sum);
        }
        // 1 / √(mean of squares + ε), of the distance from the mean where there is one.
        let sum = self.along(Reduction::Sum, kind, operand, last, row, &|emitter, x| {
            let x = match &mean {
                Some(mean) => emitter.subtract(&x, mean),
                None => x,
            };
            Ok(emitter.multiply(&x, &x))
        })?;
        let variance = self.per_element(operand, &[last], &sum)?;
        let variance = self.shift(&variance, epsilon);
        Ok(self.unary(UnaryOperation::Rsqrt, &variance))
    }

    /// Combines `function` of the elements of `operand` along one dimension.
    fn along(
        &mut self,
        reduction: Reduction,
        kind: Element,
        operand: ValueId,
        axis: usize,
        row: &[Index],
        function: &dyn Fn(&mut Self, Block) -> Result<Block, Cut>,
    ) -> Result<Block, Cut> {
        let extent = self.symbols.extent(&self.tensor_type(operand)?.shape[axis]);
        let extent = self.dimension(&extent);
        self.reduce_over(reduction, kind, row, &[extent], &|emitter, place| {
            let block = emitter.emit(operand, &inserted(row, axis, &place[0]))?;
            let block = emitter.wide(&block);
            function(emitter, block)
        })
    }

    /// eˣ⁻ᵐ / Σ eˣ⁻ᵐ with m the maximum.
    pub fn softmax(&mut self, site: &Site) -> Result<Block, Cut> {
        let ops::Softmax { axis } = site.attributes()?;
        let row = without(site.position, axis);
        let maximum = self.statistic(site.value, Part::First, &row)?;
        let sum = self.statistic(site.value, Part::Second, &row)?;
        let x = self.operand(site, 0, site.position)?;
        let x = self.subtract(&x, &maximum);
        let power = self.unary(UnaryOperation::Exp, &x);
        Ok(self.divide(&power, &sum))
    }

    /// The first index whose element is the largest, or is not a number.
    pub fn argmax(&mut self, site: &Site) -> Result<Block, Cut> {
        let ops::Argmax { axis } = site.attributes()?;
        let operand = site.operands[0];
        let largest = self.statistic(site.value, Part::First, site.position)?;
        let extent = self.symbols.extent(&self.tensor_type(operand)?.shape[axis]);
        let extent = self.dimension(&extent);
        self.reduce_over(Reduction::Minimum, Element::I32, site.position, &[extent], &|emitter, place| {
            let x = emitter.emit(operand, &inserted(site.position, axis, &place[0]))?;
            let x = emitter.wide(&x);
            let mut is_largest = emitter.compare(Predicate::Equal, &x, &largest);
            if emitter.element(&x).is_float() {
                let is_nan = emitter.compare(Predicate::NotEqual, &x, &x);
                is_largest = emitter.binary(BinaryOperation::Or, &is_largest, &is_nan);
            }
            let index = emitter.lower(&place[0]);
            let none = emitter.number(f64::from(i32::MAX), Element::I32);
            Ok(emitter.select(&is_largest, &index, &none))
        })
    }

    /// (x − mean) / √(variance + ε) · scale + bias
    pub fn layer_norm(&mut self, site: &Site) -> Result<Block, Cut> {
        let Some((column, row)) = site.position.split_last() else {
            return Err(Cut::never(site.value, "a norm of a scalar"));
        };
        let mean = self.statistic(site.value, Part::First, row)?;
        let factor = self.statistic(site.value, Part::Second, row)?;
        let x = self.operand(site, 0, site.position)?;
        let x = self.subtract(&x, &mean);
        let x = self.multiply(&x, &factor);
        let scale = self.operand(site, 1, std::slice::from_ref(column))?;
        let bias = self.operand(site, 2, std::slice::from_ref(column))?;
        let scaled = self.multiply(&x, &scale);
        Ok(self.add(&scaled, &bias))
    }

    /// x / √(mean of x² + ε) · scale
    pub fn rms_norm(&mut self, site: &Site) -> Result<Block, Cut> {
        let Some((column, row)) = site.position.split_last() else {
            return Err(Cut::never(site.value, "a norm of a scalar"));
        };
        let factor = self.statistic(site.value, Part::Second, row)?;
        let x = self.operand(site, 0, site.position)?;
        let x = self.multiply(&x, &factor);
        let scale = self.operand(site, 1, std::slice::from_ref(column))?;
        Ok(self.multiply(&x, &scale))
    }
}

/// A position without one of its dimensions.
pub fn without(position: &[Index], dimension: usize) -> Position {
    let kept = position.iter().enumerate().filter(|(other, _)| *other != dimension);
    kept.map(|(_, index)| index.clone()).collect()
}

/// A position with a dimension put in.
pub fn inserted(row: &[Index], dimension: usize, index: &Index) -> Position {
    let mut position: Position = SmallVec::from(row);
    position.insert(dimension.min(row.len()), index.clone());
    position
}

fn combination(reduction: Reduction) -> BinaryOperation {
    match reduction {
        Reduction::Sum => BinaryOperation::Add,
        Reduction::Maximum => BinaryOperation::Maximum,
        Reduction::Minimum => BinaryOperation::Minimum,
    }
}

/// What changes nothing when it is combined with anything.
fn identity(reduction: Reduction, element: Element) -> Literal {
    let (least, most) = element.integer_range().unwrap_or((0, 0));
    match (reduction, element.is_float()) {
        (Reduction::Sum, true) => Literal::Float(0.0),
        (Reduction::Sum, false) => Literal::Integer(0),
        (Reduction::Maximum, true) => Literal::Float(f64::NEG_INFINITY),
        (Reduction::Maximum, false) => Literal::Integer(least),
        (Reduction::Minimum, true) => Literal::Float(f64::INFINITY),
        (Reduction::Minimum, false) => Literal::Integer(most),
    }
}
