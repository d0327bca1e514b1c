//! Positions of elements as symbolic integers.
//!
//! Whatever a view does to positions (reshape, slice, concat, a head split) is arithmetic on an [`Index`]. Indices are kept
//! in a canonical affine form with floor quotients and remainders as further atoms, so that splitting a dimension and merging it again
//! gives back the index it began with, that equal positions compare equal, and that a contiguous run is seen to be one.

use smallvec::SmallVec;

use crate::tile::Value;

/// A dimension of the tiles under construction; a kernel numbers its axes from 0.
pub type Axis = u8;

/// A factor of a term: what an index depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Atom {
    /// A scalar of the program, never negative, divided by a number that divides it.
    Scalar {
        /// The I32 scalar.
        value: Value,
        /// What it is divided by: the step of the loop that it counts, or 1.
        step: u32,
        /// Exclusive upper bound of the quotient, where it is known.
        limit: Option<u64>,
    },
    /// 0, 1, … `length` − 1 along an axis. Where the axis is longer, what lies beyond belongs to nothing.
    Lane {
        /// The axis.
        axis: Axis,
        /// How much of it counts.
        length: u32,
    },
    /// An index for each position along an axis, from data: a rank-1 tile of I32.
    Vector {
        /// The tile.
        value: Value,
        /// The axis.
        axis: Axis,
    },
    /// ⌊index / divisor⌋
    Quotient(Box<Index>, Divisor),
    /// index − divisor · ⌊index / divisor⌋
    Remainder(Box<Index>, Divisor),
    /// index · factor, the factor being known only at run time.
    Product(Box<Index>, Value),
}

/// What an index is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Divisor {
    /// A number, at least 1.
    Constant(u64),
    /// An I32 scalar of the program.
    Scalar(Value),
}

/// constant + Σ coefficient · atom, sorted by atom, no coefficient 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Index {
    constant: i64,
    terms: Vec<(Atom, i64)>,
}

/// A list of indices, one for each dimension of a value.
pub type Position = SmallVec<[Index; 4]>;

impl Index {
    /// A number.
    pub fn constant(constant: i64) -> Index {
        Index { constant, terms: Vec::new() }
    }

    /// An atom.
    pub fn atom(atom: Atom) -> Index {
        match atom {
            Atom::Scalar { limit: Some(1), .. } => Index::constant(0),
            atom => Index { constant: 0, terms: vec![(atom, 1)] },
        }
    }

    /// A scalar of the program, never negative.
    pub fn scalar(value: Value) -> Index {
        Index::bounded(value, None)
    }

    /// A scalar of the program in 0..limit.
    pub fn bounded(value: Value, limit: Option<u64>) -> Index {
        Index::atom(Atom::Scalar { value, step: 1, limit })
    }

    /// A scalar of the program that counts from 0 in steps; `limit` bounds the number of steps.
    pub fn stepped(value: Value, step: u32, limit: Option<u64>) -> Index {
        Index::atom(Atom::Scalar { value, step, limit }).times(step.into())
    }

    /// 0, 1, … along an axis.
    pub fn lane(axis: Axis, length: u32) -> Index {
        Index::atom(Atom::Lane { axis, length })
    }

    /// The number, if the index is one.
    pub fn as_constant(&self) -> Option<i64> {
        self.terms.is_empty().then_some(self.constant)
    }

    /// The constant term.
    pub fn offset(&self) -> i64 {
        self.constant
    }

    /// The terms.
    pub fn terms(&self) -> &[(Atom, i64)] {
        &self.terms
    }

    /// The sum.
    pub fn plus(&self, other: &Index) -> Index {
        let mut terms = self.terms.clone();
        terms.extend(other.terms.iter().cloned());
        Index::normal(self.constant + other.constant, terms)
    }

    /// This plus a number.
    pub fn offset_by(&self, constant: i64) -> Index {
        Index { constant: self.constant + constant, terms: self.terms.clone() }
    }

    /// This times a number.
    pub fn times(&self, factor: i64) -> Index {
        if factor == 0 {
            return Index::default();
        }
        let terms = self.terms.iter().map(|(atom, coefficient)| (atom.clone(), coefficient * factor)).collect();
        Index { constant: self.constant * factor, terms }
    }

    /// This times a run-time scalar.
    pub fn times_scalar(&self, factor: Value) -> Index {
        match self.as_constant() {
            Some(0) => Index::default(),
            Some(constant) => Index::scalar(factor).times(constant),
            None => Index::atom(Atom::Product(Box::new(self.clone()), factor)),
        }
    }

    /// Sorts, merges equal atoms, and merges d·⌊e/d⌋ + (e mod d) into e.
    fn normal(constant: i64, mut terms: Vec<(Atom, i64)>) -> Index {
        terms.sort();
        let mut merged: Vec<(Atom, i64)> = Vec::with_capacity(terms.len());
        for (atom, coefficient) in terms {
            match merged.last_mut() {
                Some((last, sum)) if *last == atom => *sum += coefficient,
                _ => merged.push((atom, coefficient)),
            }
        }
        merged.retain(|(_, coefficient)| *coefficient != 0);
        let rejoined = merged.iter().enumerate().find_map(|(position, (atom, coefficient))| {
            let Atom::Remainder(inner, Divisor::Constant(divisor)) = atom else { return None };
            let quotient = Atom::Quotient(inner.clone(), Divisor::Constant(*divisor));
            let partner = merged.iter().position(|term| *term == (quotient.clone(), coefficient * *divisor as i64))?;
            Some((position, partner, inner.times(*coefficient)))
        });
        match rejoined {
            Some((position, partner, inner)) => {
                let mut index = 0;
                merged.retain(|_| {
                    index += 1;
                    index - 1 != position && index - 1 != partner
                });
                Index { constant, terms: merged }.plus(&inner)
            }
            None => Index { constant, terms: merged },
        }
    }

    /// The smallest and, where it is known, the largest value.
    pub fn range(&self) -> (i64, Option<i64>) {
        let (mut low, mut high) = (self.constant, Some(self.constant));
        for (atom, coefficient) in &self.terms {
            let (least, most) = atom.range();
            if *coefficient >= 0 {
                low = low.saturating_add(coefficient.saturating_mul(least));
                high = high.zip(most).map(|(high, most)| high.saturating_add(coefficient.saturating_mul(most)));
            } else {
                low = match most {
                    Some(most) => low.saturating_add(coefficient.saturating_mul(most)),
                    None => i64::MIN / 4,
                };
                high = high.map(|high| high.saturating_add(coefficient.saturating_mul(least)));
            }
        }
        (low, high)
    }

    /// Whether every value lies in 0..limit for sure.
    pub fn is_within(&self, limit: u64) -> bool {
        let (low, high) = self.range();
        low >= 0 && high.is_some_and(|high| (high as u64) < limit)
    }

    /// ⌊self / divisor⌋ and the remainder.
    pub fn split(&self, divisor: u64) -> (Index, Index) {
        if divisor == 1 {
            return (self.clone(), Index::default());
        }
        let signed = divisor as i64;
        let (exact, rest): (Vec<_>, Vec<_>) =
            self.terms.iter().cloned().partition(|(_, coefficient)| coefficient % signed == 0);
        let quotient = Index {
            constant: self.constant.div_euclid(signed),
            terms: exact.into_iter().map(|(atom, coefficient)| (atom, coefficient / signed)).collect(),
        };
        let rest = Index { constant: self.constant.rem_euclid(signed), terms: rest };
        let (more, remainder) = rest.split_inexact(divisor);
        (quotient.plus(&more), remainder)
    }

    /// As [`Index::split`], of an index with no term that the divisor divides.
    fn split_inexact(&self, divisor: u64) -> (Index, Index) {
        if self.is_within(divisor) {
            return (Index::default(), self.clone());
        }
        // Where all but a small part is a multiple of some g that divides the divisor, the small part passes through.
        let mut candidates: Vec<u64> = self
            .terms
            .iter()
            .map(|(_, coefficient)| greatest_common_divisor(coefficient.unsigned_abs(), divisor))
            .collect();
        candidates.sort_unstable();
        candidates.dedup();
        for granule in candidates.into_iter().rev().filter(|granule| *granule > 1) {
            let signed = granule as i64;
            let (coarse, fine): (Vec<_>, Vec<_>) =
                self.terms.iter().cloned().partition(|(_, coefficient)| coefficient % signed == 0);
            let fine = Index { constant: self.constant.rem_euclid(signed), terms: fine };
            if !fine.is_within(granule) {
                continue;
            }
            let coarse = Index {
                constant: self.constant.div_euclid(signed),
                terms: coarse.into_iter().map(|(atom, coefficient)| (atom, coefficient / signed)).collect(),
            };
            let (quotient, remainder) = coarse.split(divisor / granule);
            return (quotient, remainder.times(signed).plus(&fine));
        }
        let inner = Box::new(self.clone());
        let divisor = Divisor::Constant(divisor);
        (Index::atom(Atom::Quotient(inner.clone(), divisor)), Index::atom(Atom::Remainder(inner, divisor)))
    }

    /// ⌊self / divisor⌋ and the remainder, by a run-time scalar.
    pub fn split_scalar(&self, divisor: Value) -> (Index, Index) {
        if self.as_constant() == Some(0) {
            return (Index::default(), Index::default());
        }
        let inner = Box::new(self.clone());
        let divisor = Divisor::Scalar(divisor);
        (Index::atom(Atom::Quotient(inner.clone(), divisor)), Index::atom(Atom::Remainder(inner, divisor)))
    }

    /// The axes that the index varies along, in increasing order.
    pub fn axes(&self) -> SmallVec<[Axis; 2]> {
        let mut axes = SmallVec::new();
        self.terms.iter().for_each(|(atom, _)| atom.collect_axes(&mut axes));
        axes.sort_unstable();
        axes.dedup();
        axes
    }

    /// The index as a scalar part and one part for each axis; `None` if some term varies along two axes at once.
    pub fn separate(&self) -> Option<(Index, Vec<(Axis, Index)>)> {
        let mut scalar = Index::constant(self.constant);
        let mut parts: Vec<(Axis, Index)> = Vec::new();
        for (atom, coefficient) in &self.terms {
            let mut axes = SmallVec::new();
            atom.collect_axes(&mut axes);
            axes.sort_unstable();
            axes.dedup();
            let target = match axes.as_slice() {
                [] => &mut scalar,
                [axis] => match parts.iter().position(|(known, _)| known == axis) {
                    Some(position) => &mut parts[position].1,
                    None => {
                        parts.push((*axis, Index::default()));
                        let last = parts.len() - 1;
                        &mut parts[last].1
                    }
                },
                _ => return None,
            };
            target.terms.push((atom.clone(), *coefficient));
        }
        parts.sort_by_key(|(axis, _)| *axis);
        Some((scalar, parts))
    }

    /// If the index is exactly the lanes of an axis with step 1, their number.
    pub fn as_lane(&self) -> Option<(Axis, u32)> {
        match (self.constant, self.terms.as_slice()) {
            (0, [(Atom::Lane { axis, length }, 1)]) => Some((*axis, *length)),
            _ => None,
        }
    }

    /// Every axis that the index varies along as lanes, with how much of it counts.
    pub fn lanes(&self) -> Vec<(Axis, u32)> {
        let mut lanes = Vec::new();
        self.collect_lanes(&mut lanes);
        lanes
    }

    fn collect_lanes(&self, lanes: &mut Vec<(Axis, u32)>) {
        for (atom, _) in &self.terms {
            match atom {
                Atom::Lane { axis, length } => lanes.push((*axis, *length)),
                Atom::Quotient(inner, _) | Atom::Remainder(inner, _) | Atom::Product(inner, _) => {
                    inner.collect_lanes(lanes);
                }
                Atom::Scalar { .. } | Atom::Vector { .. } => {}
            }
        }
    }

    /// The largest value that the index refers to, by number; later values cannot be meant.
    pub fn newest_value(&self) -> Option<Value> {
        self.terms.iter().filter_map(|(atom, _)| atom.newest_value()).max()
    }
}

impl Atom {
    fn range(&self) -> (i64, Option<i64>) {
        match self {
            Atom::Scalar { limit, .. } => (0, limit.map(|limit| limit as i64 - 1)),
            Atom::Lane { length, .. } => (0, Some(i64::from(*length) - 1)),
            Atom::Vector { .. } => (0, None),
            Atom::Quotient(inner, Divisor::Constant(divisor)) => {
                let (low, high) = inner.range();
                let divisor = *divisor as i64;
                (low.div_euclid(divisor), high.map(|high| high.div_euclid(divisor)))
            }
            Atom::Remainder(_, Divisor::Constant(divisor)) => (0, Some(*divisor as i64 - 1)),
            Atom::Quotient(..) | Atom::Remainder(..) | Atom::Product(..) => (0, None),
        }
    }

    fn collect_axes(&self, axes: &mut SmallVec<[Axis; 2]>) {
        match self {
            Atom::Scalar { .. } => {}
            Atom::Lane { axis, .. } | Atom::Vector { axis, .. } => axes.push(*axis),
            Atom::Quotient(inner, _) | Atom::Remainder(inner, _) | Atom::Product(inner, _) => {
                inner.terms.iter().for_each(|(atom, _)| atom.collect_axes(axes));
            }
        }
    }

    fn newest_value(&self) -> Option<Value> {
        match self {
            Atom::Scalar { value, .. } | Atom::Vector { value, .. } => Some(*value),
            Atom::Lane { .. } => None,
            Atom::Quotient(inner, divisor) | Atom::Remainder(inner, divisor) => match divisor {
                Divisor::Constant(_) => inner.newest_value(),
                Divisor::Scalar(value) => inner.newest_value().max(Some(*value)),
            },
            Atom::Product(inner, factor) => inner.newest_value().max(Some(*factor)),
        }
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: Value = Value(0);

    fn tile_of(block: i64, length: u32) -> Index {
        Index::scalar(PROGRAM).times(block).plus(&Index::lane(1, length))
    }

    #[test]
    fn splitting_an_aligned_block_leaves_a_block() {
        let (head, element) = tile_of(64, 64).split(64);
        assert_eq!(head, Index::scalar(PROGRAM));
        assert_eq!(element, Index::lane(1, 64));
        let (head, element) = tile_of(128, 32).split(64);
        assert_eq!(head, Index::scalar(PROGRAM).times(2));
        assert_eq!(element, Index::lane(1, 32));
    }

    #[test]
    fn a_part_of_a_head_stays_contiguous() {
        let (head, element) = tile_of(32, 32).split(64);
        let (quotient, remainder) = Index::scalar(PROGRAM).split(2);
        assert_eq!(head, quotient);
        assert_eq!(element, remainder.times(32).plus(&Index::lane(1, 32)));
    }

    #[test]
    fn merging_undoes_splitting() {
        for (block, length, dimension) in [(64, 64, 64), (96, 96, 64), (32, 32, 64), (5, 5, 7), (1, 1, 3)] {
            let flat = tile_of(block, length);
            let (quotient, remainder) = flat.split(dimension);
            assert_eq!(quotient.times(dimension as i64).plus(&remainder), flat);
        }
    }

    #[test]
    fn slices_of_one_matrix_ask_for_the_same_columns() {
        // Columns of the second of three parts, counted from the whole and from the part's own start.
        let own = Index::bounded(PROGRAM, Some(36)).offset_by(-12).times(64).plus(&Index::lane(1, 64));
        let whole = Index::bounded(PROGRAM, Some(36)).times(64).plus(&Index::lane(1, 64));
        assert_eq!(own.offset_by(768), whole);
    }

    #[test]
    fn axes_separate_unless_a_division_joins_them() {
        let rows = Index::lane(0, 5);
        let columns = Index::lane(1, 6);
        let flat = rows.times(6).plus(&columns);
        let (_, parts) = flat.separate().unwrap();
        assert_eq!(parts, [(0, rows.times(6)), (1, columns)]);
        let (quotient, _) = flat.split(10);
        assert_eq!(quotient.axes().as_slice(), [0, 1]);
        assert!(quotient.separate().is_none());
    }
}
