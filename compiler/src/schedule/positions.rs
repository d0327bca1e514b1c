//! Ops that only move positions: where in the operand the elements of the result are.

use smallvec::SmallVec;
use tessera_ir::{Shape, ValueId};

use super::emitter::Emitter;
use super::error::Cut;
use super::index::{Index, Position};
use crate::tile::{BinaryOperation, Dimension};

/// Part of a reshape: dimensions `source` of the operand hold what dimensions `result` of the result hold.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    source: std::ops::Range<usize>,
    result: std::ops::Range<usize>,
}

/// Cuts a reshape into the smallest groups of dimensions with equal numbers of elements.
fn groups(source: &Shape, result: &Shape) -> Vec<Group> {
    let mut groups = Vec::new();
    let (mut from, mut to) = (0, 0);
    while from < source.rank() || to < result.rank() {
        let (mut source_end, mut result_end) = (from, to);
        let volume =
            |shape: &Shape, start: usize, end: usize| shape[start..end].iter().cloned().collect::<Shape>().volume();
        // Grow the smaller side; with symbols there is no order, and the side with fewer of them grows.
        loop {
            let (left, right) = (volume(source, from, source_end), volume(result, to, result_end));
            if left == right && (source_end > from || result_end > to) {
                break;
            }
            let size = |(product, symbols): &(Option<u64>, Vec<_>)| (symbols.len(), product.unwrap_or(u64::MAX));
            let grow_source =
                result_end == result.rank() || (source_end < source.rank() && size(&left) <= size(&right));
            match grow_source {
                true if source_end < source.rank() => source_end += 1,
                _ if result_end < result.rank() => result_end += 1,
                _ => break,
            }
        }
        groups.push(Group { source: from..source_end, result: to..result_end });
        (from, to) = (source_end, result_end);
    }
    groups
}

impl Emitter<'_> {
    /// Where the element at `position` of a tensor of shape `result` is in a tensor of shape `source` with the same elements in
    /// the same order.
    pub fn reshaped(&mut self, source: &Shape, result: &Shape, position: &[Index]) -> Position {
        let mut operand: Position = SmallVec::from_elem(Index::default(), source.rank());
        for Group { source: from, result: to } in groups(source, result) {
            if from.len() == 1 && to.len() == 1 {
                operand[from.start] = position[to.start].clone();
                continue;
            }
            let mut flat = Index::default();
            for dimension in to {
                let extent = self.symbols.extent(&result[dimension]);
                let extent = self.dimension(&extent);
                flat = self.times(&flat, extent).plus(&position[dimension]);
            }
            for dimension in from.clone().rev() {
                if dimension == from.start {
                    operand[dimension] = flat.clone();
                    break;
                }
                let extent = self.symbols.extent(&source[dimension]);
                let (quotient, remainder) = match self.dimension(&extent) {
                    Dimension::Constant(0) => (flat.clone(), Index::default()),
                    Dimension::Constant(extent) => flat.split(extent),
                    extent => {
                        let extent = self.extent(extent);
                        let extent = self.lower_scalar(&extent);
                        flat.split_scalar(extent)
                    }
                };
                operand[dimension] = remainder;
                flat = quotient;
            }
        }
        operand
    }

    /// An index times an extent.
    pub fn times(&mut self, index: &Index, extent: Dimension) -> Index {
        match extent {
            Dimension::Constant(extent) => index.times(extent as i64),
            extent => {
                let extent = self.extent(extent);
                let extent = self.lower_scalar(&extent);
                index.times_scalar(extent)
            }
        }
    }

    /// The index, moved into 0..extent where it may lie outside, so that it can be used for an access at one place.
    pub fn clamped(&mut self, value: ValueId, index: &Index, extent: Dimension) -> Result<Index, Cut> {
        if let Dimension::Constant(extent) = extent
            && index.is_within(extent)
        {
            return Ok(index.clone());
        }
        let last = self.extent(extent).offset_by(-1);
        let (block, last) = (self.lower(index), self.lower(&last));
        let zero = self.lower(&Index::constant(0));
        let block = self.binary(BinaryOperation::Minimum, &block, &last);
        let block = self.maximum(&block, &zero);
        self.index_of(&block).ok_or_else(|| Cut::at(value, "positions that vary along two dimensions at once"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tessera_ir::Dim;

    fn shape(dims: &[Dim]) -> Shape {
        dims.iter().cloned().collect()
    }

    #[test]
    fn reshapes_fall_into_the_smallest_groups() {
        let group = |source, result| Group { source, result };
        let (tokens, number) = (Dim::symbol("T"), |n: u64| Dim::from(n));
        assert_eq!(
            groups(&shape(&[tokens.clone(), number(768)]), &shape(&[tokens.clone(), number(12), number(64)])),
            [group(0..1, 0..1), group(1..2, 1..3)]
        );
        assert_eq!(
            groups(&shape(&[number(2), number(3), number(4)]), &shape(&[number(6), number(4)])),
            [group(0..2, 0..1), group(2..3, 1..2)]
        );
        assert_eq!(
            groups(&shape(&[number(4), tokens.clone()]), &shape(&[tokens.clone(), number(4)])),
            [group(0..2, 0..2)]
        );
        assert_eq!(
            groups(&shape(std::slice::from_ref(&tokens)), &shape(&[number(1), tokens.clone()])),
            [group(0..1, 0..2)]
        );
        assert_eq!(groups(&shape(&[number(1)]), &shape(&[])), [group(0..1, 0..0)]);
    }
}
