//! Block-scaled weights in memory: elements and scales, as numbers.

use smallvec::SmallVec;
use tessera_ir::{NodeKind, Storage};
use tessera_runtime::plan::Extent;

use super::access::Memory;
use super::emitter::{Block, Emitter};
use super::error::Cut;
use super::index::Position;
use super::operations::Site;

/// Elements of the last dimension that share a scale: what a run of columns should be a multiple of. 1 without blocks.
pub fn granule(storage: Storage) -> u32 {
    storage.blocks().map_or(1, |format| format.columns as u32)
}

impl Emitter<'_> {
    /// Elements and scales from memory as numbers, for a position whose last index runs over whole blocks or a part of one.
    pub fn load_blocks(&mut self, site: &Site) -> Result<Option<Block>, Cut> {
        let value = site.value;
        if let Some(packing) = self.packing_of(value) {
            return self.load_packed(site, packing).map(Some);
        }
        let operands = [site.operands[0], site.operands[1]];
        let inputs = operands.map(|operand| match self.graph.node(operand.node).kind() {
            NodeKind::Input(input) => Some(*input),
            _ => None,
        });
        let [Some(elements), Some(scales)] = inputs else { return Ok(None) };
        let ty = self.tensor_type(value)?.clone();
        let exact = self.multiplied(value)?;
        let (Some(format), Some((column, leading)), Some((last, rows))) =
            (ty.storage().blocks(), site.position.split_last(), ty.shape.split_last())
        else {
            return Ok(None);
        };
        let (Some(width), Some((start, parts))) = (last.as_static(), column.separate()) else { return Ok(None) };
        let [(axis, part)] = parts.as_slice() else { return Ok(None) };
        let length = self.length(*axis);
        let per_block = format.columns as u64;
        // Whole blocks, or a part of one.
        let granule = per_block.min(length.into());
        let is_aligned = u64::from(length).is_multiple_of(granule) && per_block.is_multiple_of(granule);
        let (granules, rest) = start.split(granule);
        let fills_bytes = (granule * u64::from(format.element.bits())).is_multiple_of(8);
        if part.as_lane().is_none() || !fills_bytes || !is_aligned || rest.as_constant() != Some(0) {
            return Ok(None);
        }
        let (first, _) = granules.split(per_block / granule);
        let blocks = width.div_ceil(per_block);
        let count = (length / format.columns as u32).max(1);
        // Stored elements of a row, and of a granule: rows of shared bytes are filled up to whole blocks.
        let (stored_width, stored_granule) = match format.element.bits() < 8 {
            true => (blocks * format.element.bytes(per_block), format.element.bytes(granule)),
            false => (width, granule),
        };
        let lanes = self.lanes(length / granule as u32 * stored_granule as u32);
        let mut place: Position = SmallVec::from(leading);
        place.push(granules.times(stored_granule as i64).plus(&lanes));
        let mut extents = self.extents(&rows.iter().cloned().collect());
        extents.push(Extent::from(stored_width));
        let memory = self.input_memory(operands[0], elements)?;
        let found = self.load(value, &Memory { extents: extents.clone(), ..memory }, &place)?;
        // Scales: one for so many rows and columns.
        let lanes = self.lanes(count);
        place.pop();
        extents.pop();
        if format.rows > 1
            && let (Some(row), Some(extent)) = (place.last_mut(), extents.last_mut())
        {
            *row = row.split(format.rows as u64).0;
            *extent = extent.clone().ceil_div(format.rows as u64);
        }
        place.push(first.plus(&lanes));
        extents.push(Extent::from(blocks));
        let memory = self.input_memory(operands[1], scales)?;
        let scales = self.load(value, &Memory { extents, ..memory }, &place)?;
        let (Some((_, outer)), Some((last, scale_outer))) = (found.axes.split_last(), scales.axes.split_last()) else {
            return Ok(None);
        };
        let mut axes: SmallVec<_> = SmallVec::from_slice(outer);
        let factors = if outer == scale_outer {
            scales.value
        } else {
            let wanted: Vec<_> = outer.iter().copied().chain([*last]).collect();
            if scale_outer.iter().any(|axis| !outer.contains(axis)) {
                return Ok(None);
            }
            self.spread(&scales, &wanted)
        };
        axes.push(*axis);
        Ok(Some(Block { value: self.builder.dequantize(found.value, factors, exact), axes }))
    }
}
