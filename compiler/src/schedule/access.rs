//! Loads and stores: from positions to coordinates of a view of memory.

use smallvec::SmallVec;
use tessera_ir::{Shape, Storage, ValueId};
use tessera_runtime::plan::Extent;

use super::arguments::{Buffer, View};
use super::emitter::{Block, Emitter};
use super::error::Cut;
use super::index::{Axis, Index};
use crate::tile::{Access, Coordinate, Dimension, Element, Predicate, Value};

/// The element that holds a storage in memory; none for formats that share bytes.
pub fn element_of(storage: Storage) -> Option<Element> {
    Some(match storage {
        Storage::F64 => Element::F64,
        Storage::F32 => Element::F32,
        Storage::F16 => Element::F16,
        Storage::Bf16 => Element::BF16,
        Storage::Fp8E4m3 => Element::Fp8E4M3,
        Storage::Fp8E5m2 => Element::Fp8E5M2,
        Storage::I64 => Element::I64,
        Storage::I32 => Element::I32,
        Storage::U32 => Element::U32,
        Storage::I16 => Element::I16,
        Storage::I8 => Element::I8,
        Storage::U8 => Element::U8,
        Storage::Bool => Element::Bool,
        Storage::Fp6E2m3 | Storage::Fp6E3m2 | Storage::Fp4E2m1 => return None,
        Storage::Mxfp4 | Storage::Nvfp4 | Storage::Fp8Block128 => return None,
    })
}

/// A tensor in memory, row-major.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Where.
    pub buffer: Buffer,
    /// Element type.
    pub element: Element,
    /// Dimensions, outermost first.
    pub extents: Vec<Extent>,
    /// Power of two that divides the address.
    pub alignment: u32,
}

/// Coordinates of an access, and the view that they are coordinates of.
struct Located {
    view: View,
    coordinates: SmallVec<[Coordinate; 4]>,
    /// Axes of the tile, in the order of its dimensions.
    axes: SmallVec<[Axis; 3]>,
    /// Where an axis is longer than what counts of it and the tensor's extents do not tell.
    mask: Option<Block>,
}

/// One dimension of a view and the index along it.
#[derive(Clone)]
struct Along {
    extent: Extent,
    index: Index,
}

impl Emitter<'_> {
    /// Dimensions of a shape as extents over the plan's symbols.
    pub fn extents(&self, shape: &Shape) -> Vec<Extent> {
        shape.iter().map(|dim| self.symbols.extent(dim)).collect()
    }

    /// An extent as a dimension of the program.
    pub fn dimension(&mut self, extent: &Extent) -> Dimension {
        self.arguments.dimension_for(&mut self.builder, extent)
    }

    /// Loads the elements at a position in their storage.
    pub fn load(&mut self, value: ValueId, memory: &Memory, position: &[Index]) -> Result<Block, Cut> {
        let located = self.locate(memory, position).ok_or_else(|| {
            Cut::never(value, "its elements are wanted in an order that no tile of two dimensions has")
        })?;
        let tensor = self.arguments.tensor(&mut self.builder, memory.buffer, located.view, Access::Read);
        let mask = located.mask.map(|mask| self.spread(&mask, &located.axes));
        let loaded = self.builder.load_masked(tensor, &located.coordinates, mask, None);
        Ok(Block { value: loaded, axes: located.axes })
    }

    /// Stores a block at a position, converted to the memory's element. The block is repeated along axes it lacks.
    pub fn store(&mut self, value: ValueId, memory: &Memory, position: &[Index], block: &Block) -> Result<(), Cut> {
        self.store_masked(value, memory, position, block, None)
    }

    /// As [`Emitter::store`], where the mask holds.
    pub fn store_masked(
        &mut self,
        value: ValueId,
        memory: &Memory,
        position: &[Index],
        block: &Block,
        mask: Option<&Block>,
    ) -> Result<(), Cut> {
        let located = self
            .locate(memory, position)
            .ok_or_else(|| Cut::at(value, "its elements are made in an order that no tile of two dimensions has"))?;
        let block = self.cast(block, memory.element);
        if block.axes.iter().any(|axis| !located.axes.contains(axis)) {
            return Err(Cut::at(value, "a tile has a dimension that its place in memory has not"));
        }
        let stored = self.spread(&block, &located.axes);
        let mask = match (mask, &located.mask) {
            (Some(a), Some(b)) => Some(self.and(a, b)),
            (Some(mask), None) | (None, Some(mask)) => Some(mask.clone()),
            (None, None) => None,
        };
        let mask = mask.map(|mask| self.spread(&mask, &located.axes));
        let tensor = self.arguments.tensor(&mut self.builder, memory.buffer, located.view, Access::Write);
        self.builder.store_masked(tensor, &located.coordinates, stored, mask);
        Ok(())
    }

    /// Finds a view of the memory in which every dimension varies along one axis at most and no two along the same:
    /// dimensions that vary along two are split, neighbours that vary along one are merged.
    fn locate(&mut self, memory: &Memory, position: &[Index]) -> Option<Located> {
        let mut dimensions: Vec<Along> = Vec::new();
        for (extent, index) in memory.extents.iter().zip(position) {
            split_by_axis(Along { extent: extent.clone(), index: index.clone() }, &mut dimensions)?;
        }
        self.merge_by_axis(&mut dimensions)?;
        if dimensions.is_empty() {
            dimensions.push(Along { extent: Extent::from(1), index: Index::default() });
        }
        if dimensions.len() > 1 {
            dimensions.retain(|along| along.extent != Extent::from(1) || along.index.as_constant() != Some(0));
        }
        let mut view = View {
            element: memory.element,
            extents: SmallVec::new(),
            strides: SmallVec::new(),
            alignment: memory.alignment,
        };
        let mut stride = Extent::from(1);
        for along in dimensions.iter().rev() {
            view.extents.insert(0, self.dimension(&along.extent));
            view.strides.insert(0, self.dimension(&stride));
            stride = stride * along.extent.clone();
        }
        let mut coordinates = SmallVec::new();
        let mut axes = SmallVec::new();
        let mut mask: Option<Block> = None;
        for along in &dimensions {
            for (axis, length) in along.index.lanes() {
                let is_told = along.index.as_lane().is_some() && along.extent.constant() == Some(length.into());
                if self.length(axis) > length && !is_told {
                    let (lanes, end) =
                        (self.lower(&Index::lane(axis, length)), self.number(length.into(), Element::I32));
                    let counts = self.compare(Predicate::Less, &lanes, &end);
                    mask = Some(match mask {
                        Some(mask) => self.and(&mask, &counts),
                        None => counts,
                    });
                }
            }
            let (scalar, parts) = along.index.separate()?;
            // A tile of columns that ends beyond the last head has heads of its own there. Extents that are not known have exactly
            // the programs or rounds that they need.
            if parts.is_empty()
                && along.extent.constant().is_some()
                && let extent = self.dimension(&along.extent)
                && let Some(inside) = self.inside(&scalar, extent)
            {
                mask = Some(match mask {
                    Some(mask) => self.and(&mask, &inside),
                    None => inside,
                });
            }
            coordinates.push(match parts.as_slice() {
                [] => Coordinate::At(self.lower_scalar(&scalar)),
                [(axis, part)] => {
                    axes.push(*axis);
                    match part.as_lane() {
                        Some(_) => Coordinate::Block { start: self.lower_scalar(&scalar), length: self.length(*axis) },
                        None => Coordinate::Gather(self.lower_along(&along.index, *axis)),
                    }
                }
                _ => return None,
            });
        }
        Some(Located { view, coordinates, axes, mask })
    }

    /// An index that varies along one axis as a tile of rank 1.
    fn lower_along(&mut self, index: &Index, axis: Axis) -> Value {
        let block = self.lower(index);
        self.spread(&block, &[axis])
    }

    fn merge_by_axis(&mut self, dimensions: &mut Vec<Along>) -> Option<()> {
        while let Some((first, last)) = repeated_axis(dimensions) {
            let axis = dimensions[first].index.axes()[0];
            let merged = dimensions[first..=last].to_vec();
            if merged.iter().any(|along| along.index.axes().iter().any(|other| *other != axis)) {
                return None;
            }
            let mut index = Index::default();
            let mut extent = Extent::from(1);
            for along in merged {
                index = match self.dimension(&along.extent) {
                    Dimension::Constant(factor) => index.times(factor as i64),
                    dimension => {
                        let factor = self.extent(dimension);
                        let factor = self.lower_scalar(&factor);
                        index.times_scalar(factor)
                    }
                };
                index = index.plus(&along.index);
                extent = extent * along.extent;
            }
            dimensions.splice(first..=last, [Along { extent, index }]);
        }
        Some(())
    }
}

/// The first and last dimension that vary along some axis that several dimensions vary along.
fn repeated_axis(dimensions: &[Along]) -> Option<(usize, usize)> {
    for (first, along) in dimensions.iter().enumerate() {
        let Some(axis) = along.index.axes().first().copied() else { continue };
        let last = dimensions.iter().rposition(|other| other.index.axes().contains(&axis))?;
        if last > first {
            return Some((first, last));
        }
    }
    None
}

/// Splits a dimension until each part varies along one axis at most.
fn split_by_axis(along: Along, out: &mut Vec<Along>) -> Option<()> {
    let (_, parts) = along.index.separate()?;
    if parts.len() <= 1 {
        out.push(along);
        return Some(());
    }
    let extent = along.extent.constant()?;
    // Each part's own granule is a candidate: what is a multiple of it goes to the outer dimension.
    for (_, part) in &parts {
        let granule =
            part.terms().iter().fold(0, |granule, (_, coefficient)| divisor(granule, coefficient.unsigned_abs()));
        if granule <= 1 || extent % granule != 0 {
            continue;
        }
        let (outer, inner) = along.index.split(granule);
        if outer.axes().len() < parts.len() && inner.axes().len() < parts.len() {
            split_by_axis(Along { extent: Extent::from(extent / granule), index: outer }, out)?;
            split_by_axis(Along { extent: Extent::from(granule), index: inner }, out)?;
            return Some(());
        }
    }
    None
}

fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}
