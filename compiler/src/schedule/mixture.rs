//! Mixtures of experts and block-scaled weights.

use smallvec::SmallVec;
use tessera_ir::{Storage, ValueId, ops};

use super::emitter::{Block, Emitter, arithmetic_element};
use super::error::Cut;
use super::index::{Atom, Index, Position};
use super::operations::Site;
use crate::tile::{BinaryOperation, Dimension, Element, Predicate, Reduction, UnaryOperation};

/// Chosen experts that are added up one after the other in straight code; more are looped over.
const MOST_UNROLLED: u64 = 16;

impl Emitter<'_> {
    /// The places of the largest elements of a row: for each rank the largest that comes after the one before it, in the order of falling
    /// elements and rising places.
    pub fn top_k(&mut self, site: &Site) -> Result<Block, Cut> {
        let ops::TopK { k } = site.attributes()?;
        let (operand, Some((rank, row))) = (site.operands[0], site.position.split_last()) else {
            return Err(Cut::never(site.value, "a choice from a scalar"));
        };
        let row: Position = SmallVec::from(row);
        if row.iter().any(|index| !index.axes().is_empty()) {
            return Err(Cut::at(site.value, "choices of several rows are wanted at once"));
        }
        let extent = self.symbols.extent(&self.tensor_type(operand)?.shape[row.len()]);
        let extent = self.dimension(&extent);
        let kind = arithmetic_element(self.storage_element(operand)?);
        let wanted = self.lower(rank);
        let mut chosen: Option<Block> = None;
        let mut before: Option<(Block, Block)> = None;
        for place in 0..k {
            // Elements that are not chosen yet, with a condition on what is left of them.
            let remaining = |emitter: &mut Self, index: &Index, x: &Block| match &before {
                None => None,
                Some((largest, last)) => {
                    let less = emitter.compare(Predicate::Less, x, largest);
                    let equal = emitter.compare(Predicate::Equal, x, largest);
                    let index = emitter.lower(index);
                    let after = emitter.compare(Predicate::Greater, &index, last);
                    let later = emitter.and(&equal, &after);
                    Some(emitter.binary(BinaryOperation::Or, &less, &later))
                }
            };
            let element = |emitter: &mut Self, index: &Index| {
                let mut position = row.clone();
                position.push(index.clone());
                let block = emitter.emit(operand, &position)?;
                Ok::<Block, Cut>(emitter.wide(&block))
            };
            let largest = self.reduce_over(Reduction::Maximum, kind, &row, &[extent], &|emitter, at| {
                let x = element(emitter, &at[0])?;
                let least = emitter.number(f64::NEG_INFINITY, kind);
                Ok(match remaining(emitter, &at[0], &x) {
                    None => x,
                    Some(left) => emitter.select(&left, &x, &least),
                })
            })?;
            let found = self.reduce_over(Reduction::Minimum, Element::I32, &row, &[extent], &|emitter, at| {
                let x = element(emitter, &at[0])?;
                let mut is_it = emitter.compare(Predicate::Equal, &x, &largest);
                if let Some(left) = remaining(emitter, &at[0], &x) {
                    is_it = emitter.and(&is_it, &left);
                }
                let index = emitter.lower(&at[0]);
                let none = emitter.number(f64::from(i32::MAX), Element::I32);
                Ok(emitter.select(&is_it, &index, &none))
            })?;
            let this = self.number(place as f64, Element::I32);
            let is_wanted = self.compare(Predicate::Equal, &wanted, &this);
            chosen = Some(match chosen {
                None => found.clone(),
                Some(chosen) => self.select(&is_wanted, &found, &chosen),
            });
            before = Some((largest, found));
        }
        let chosen = chosen.ok_or_else(|| Cut::never(site.value, "nothing is chosen"))?;
        // Of numbers that are none, any place does that is one.
        let last = self.extent(extent).offset_by(-1);
        let last = self.lower(&last);
        Ok(self.binary(BinaryOperation::Minimum, &chosen, &last))
    }

    /// x[…, indices[…, i]]
    pub fn take(&mut self, site: &Site) -> Result<Block, Cut> {
        let [x, indices] = [site.operands[0], site.operands[1]];
        let Some((_, row)) = site.position.split_last() else {
            return Err(Cut::never(site.value, "places in a scalar"));
        };
        let extent = self.symbols.extent(&self.tensor_type(x)?.shape[row.len()]);
        let extent = self.dimension(&extent);
        let place = self.emit(indices, site.position)?;
        let place =
            self.index_of(&place).ok_or_else(|| Cut::at(site.value, "places in several rows are wanted at once"))?;
        let mut position: Position = SmallVec::from(row);
        position.push(self.clamped(site.value, &place, extent)?);
        let block = self.emit(x, &position)?;
        Ok(self.wide(&block))
    }

    /// g · sigmoid(alpha · g) · (u + offset)
    pub fn swiglu(&mut self, site: &Site) -> Result<Block, Cut> {
        let ops::Swiglu { style, alpha, offset, limit } = site.attributes()?;
        let (Some((last, row)), Some(half)) =
            (site.position.split_last(), self.tensor_type(site.value)?.shape.last().and_then(|dim| dim.as_static()))
        else {
            return Err(Cut::never(site.value, "gates and values of a scalar"));
        };
        let places = match style {
            ops::SwigluStyle::SplitHalf => [last.clone(), last.offset_by(half as i64)],
            ops::SwigluStyle::Interleaved => [last.times(2), last.times(2).offset_by(1)],
        };
        let mut parts = Vec::new();
        for place in places {
            let mut position: Position = SmallVec::from(row);
            position.push(place);
            parts.push(self.operand(site, 0, &position)?);
        }
        let [mut gate, mut value] = [parts[0].clone(), parts[1].clone()];
        if let Some(limit) = limit {
            let element = self.element(&gate);
            let [most, least] = [limit, -limit].map(|bound| self.number(bound, element));
            gate = self.binary(BinaryOperation::Minimum, &gate, &most);
            value = self.binary(BinaryOperation::Minimum, &value, &most);
            value = self.maximum(&value, &least);
        }
        let steep = if alpha == 1.0 { gate.clone() } else { self.scale(&gate, alpha) };
        let open = self.sigmoid(&steep);
        let gated = self.multiply(&gate, &open);
        let value = if offset == 0.0 { value } else { self.shift(&value, offset) };
        Ok(self.multiply(&gated, &value))
    }

    /// Σᵢ weights[t, i] · y[t, i, n]
    pub fn weighted_sum(&mut self, site: &Site) -> Result<Block, Cut> {
        let [y, weights] = [site.operands[0], site.operands[1]];
        let [token, column] = site.position else {
            return Err(Cut::never(site.value, "what is combined has rows and columns"));
        };
        let (token, column) = (token.clone(), column.clone());
        let extent = self.symbols.extent(&self.tensor_type(y)?.shape[1]);
        let extent = self.dimension(&extent);
        let term = |emitter: &mut Self, chosen: &Index| {
            let y = emitter.emit(y, &[token.clone(), chosen.clone(), column.clone()])?;
            let weight = emitter.emit(weights, &[token.clone(), chosen.clone()])?;
            let (y, weight) = (emitter.wide(&y), emitter.wide(&weight));
            let (y, weight) = (emitter.cast(&y, Element::F32), emitter.cast(&weight, Element::F32));
            Ok::<Block, Cut>(emitter.multiply(&y, &weight))
        };
        match extent {
            Dimension::Constant(count) if (1..=MOST_UNROLLED).contains(&count) => {
                let mut sum = term(self, &Index::default())?;
                for chosen in 1..count {
                    let next = term(self, &Index::constant(chosen as i64))?;
                    sum = self.add(&sum, &next);
                }
                Ok(sum)
            }
            extent => self.reduce_over(Reduction::Sum, Element::F32, site.position, &[extent], &|emitter, at| {
                term(emitter, &at[0])
            }),
        }
    }

    /// Elements of block-scaled storage as numbers, from the tensors that hold them and their scales.
    pub fn unscaled(&mut self, site: &Site) -> Result<Block, Cut> {
        let ty = self.tensor_type(site.value)?.clone();
        let (Some(format), Some((column, row))) = (ty.storage().blocks(), site.position.split_last()) else {
            return Err(Cut::never(site.value, "it has no blocks"));
        };
        let (block, place) = column.split(format.columns as u64);
        let mut scale_position: Position = SmallVec::from(row);
        if let (Some(last), true) = (scale_position.last_mut(), format.rows > 1) {
            *last = last.split(format.rows as u64).0;
        }
        scale_position.push(block.clone());
        let scale = self.emit(site.operands[1], &scale_position)?;
        let scale = self.scale_factor(&scale, format.scale);
        let element = if format.element.bits() < 8 {
            let (byte, half) = place.split(2);
            let mut position: Position = SmallVec::from(row);
            position.extend([block, byte]);
            let stored = self.emit(site.operands[0], &position)?;
            let stored = self.cast(&stored, Element::I32);
            self.half_of(&stored, &half)
        } else {
            let stored = self.emit(site.operands[0], site.position)?;
            self.cast(&stored, Element::F32)
        };
        Ok(self.multiply(&element, &scale))
    }

    /// The number that a stored scale stands for, in f32.
    fn scale_factor(&mut self, stored: &Block, storage: Storage) -> Block {
        match storage {
            // E8M0: an exponent, biased by 127.
            Storage::U8 => {
                let exponent = self.cast(stored, Element::F32);
                let exponent = self.shift(&exponent, -127.0);
                self.unary(UnaryOperation::Exp2, &exponent)
            }
            _ => self.cast(stored, Element::F32),
        }
    }

    /// The E2M1 number in the low (0) or high (1) half of a byte.
    fn half_of(&mut self, byte: &Block, half: &Index) -> Block {
        let (fifteen, four) = (self.number(15.0, Element::I32), self.number(4.0, Element::I32));
        let low = self.and(byte, &fifteen);
        let bits = match half.as_constant() {
            Some(0) => low,
            half_number => {
                let high = self.binary(BinaryOperation::ShiftRightLogical, byte, &four);
                match half_number {
                    Some(_) => high,
                    None => {
                        let (half, zero) = (self.lower(half), self.number(0.0, Element::I32));
                        let is_low = self.compare(Predicate::Equal, &half, &zero);
                        self.select(&is_low, &low, &high)
                    }
                }
            }
        };
        // 0 ½ 1 1½ 2 3 4 6 is half of the code, half more for each code above 4, and one more for the last.
        let seven = self.number(7.0, Element::I32);
        let magnitude = self.and(&bits, &seven);
        let code = self.cast(&magnitude, Element::F32);
        let mut number = self.scale(&code, 0.5);
        let zero = self.number(0.0, Element::F32);
        for (from, by) in [(4.0, 0.5), (6.0, 1.0)] {
            let above = self.shift(&code, -from);
            let above = self.maximum(&above, &zero);
            let more = self.scale(&above, by);
            number = self.add(&number, &more);
        }
        let is_negative = self.compare(Predicate::Greater, &bits, &seven);
        let negative = self.unary(UnaryOperation::Negate, &number);
        self.select(&is_negative, &negative, &number)
    }

    /// The matrix of the expert at a place [token, chosen] of a grouped product's experts.
    pub fn expert(&mut self, value: ValueId, place: &[Index]) -> Result<Index, Cut> {
        let operands = self.graph.operands(value.node);
        let extent = self.symbols.extent(&self.tensor_type(operands[1])?.shape[0]);
        let extent = self.dimension(&extent);
        let place: Position = place.iter().map(|index| self.without_single_lanes(index)).collect();
        let expert = self.emit(operands[2], &place)?;
        if !expert.axes.is_empty() {
            return Err(Cut::at(value, "rows of several experts are wanted at once"));
        }
        let index = Index::scalar(self.cast(&expert, Element::I32).value);
        self.clamped(value, &index, extent)
    }

    /// An index without the lanes that are only one: the first.
    fn without_single_lanes(&self, index: &Index) -> Index {
        let mut kept = Index::constant(index.offset());
        for (atom, coefficient) in index.terms() {
            let term = match atom {
                Atom::Lane { length: 1, .. } => Index::default(),
                Atom::Quotient(inner, divisor) => match divisor {
                    super::index::Divisor::Constant(divisor) => self.without_single_lanes(inner).split(*divisor).0,
                    super::index::Divisor::Scalar(divisor) => self.without_single_lanes(inner).split_scalar(*divisor).0,
                },
                Atom::Remainder(inner, divisor) => match divisor {
                    super::index::Divisor::Constant(divisor) => self.without_single_lanes(inner).split(*divisor).1,
                    super::index::Divisor::Scalar(divisor) => self.without_single_lanes(inner).split_scalar(*divisor).1,
                },
                other => Index::atom(other.clone()),
            };
            kept = kept.plus(&term.times(*coefficient));
        }
        kept
    }
}
