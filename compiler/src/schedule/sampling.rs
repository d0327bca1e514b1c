//! Sampling a token from a row of logits.

use tessera_ir::ops;

use super::emitter::{Block, Emitter};
use super::error::Cut;
use super::index::Index;
use super::operations::Site;
use crate::tile::parts::sampling::{Row, SamplingParameters, sample};
use crate::tile::{Dimension, Element, Literal};

/// Tiles of a block that are held at once where noise is drawn: scores and the best of them, their indices, and the words of Philox with their
/// keys. Reductions, for which the longest chunk is meant, hold one.
const LIVE_TILES: u32 = 8;

impl Emitter<'_> {
    /// The token of one row: `site.position` is the row, a scalar.
    pub fn sample(&mut self, site: &Site) -> Result<Block, Cut> {
        let _: ops::Sample = site.attributes()?;
        let logits = site.operands[0];
        let [row] = site.position else {
            return Err(Cut::never(site.value, "sample gives one token for each row"));
        };
        if !row.axes().is_empty() {
            return Err(Cut::at(site.value, "tokens of several rows are wanted at once"));
        }
        let mut parameters = [None; 5];
        for (operand, parameter) in parameters.iter_mut().enumerate() {
            let block = self.emit(site.operands[operand + 1], site.position)?;
            *parameter = Some(self.wide(&block).value);
        }
        let [Some(temperature), Some(top_k), Some(top_p), Some(seed), Some(counter)] = parameters else {
            return Err(Cut::never(site.value, "a parameter is missing"));
        };
        let parameters = SamplingParameters { temperature, top_k, top_p, seed, counter };
        let extent = self.symbols.extent(&self.tensor_type(logits)?.shape[1]);
        let extent = self.dimension(&extent);
        let longest = u64::from(self.shaping.longest_chunk / LIVE_TILES).max(1);
        let block = match extent {
            Dimension::Constant(extent) => self.covering(extent.min(longest)),
            Dimension::Argument(_) => self.covering(longest),
        };
        let length = self.extent(extent);
        let length = self.lower_scalar(&length);
        let lanes = self.lanes(block);
        let row = row.clone();
        let mut failure = None;
        let mut builder = self.lend();
        let mut source = Row {
            length,
            block,
            load: |b: &mut crate::tile::Builder, start| {
                self.borrowing(b, |emitter| {
                    let column = Index::stepped(start, block, None).plus(&lanes);
                    let loaded = emitter.emit(logits, &[row.clone(), column.clone()]).map(|values| {
                        let values = emitter.cast(&values, Element::F32);
                        match emitter.inside(&column, extent) {
                            None => values,
                            Some(inside) => {
                                let least = emitter.literal(Literal::Float(f64::NEG_INFINITY), Element::F32);
                                emitter.select(&inside, &values, &least)
                            }
                        }
                    });
                    match loaded {
                        Ok(values) => emitter.spread(&values, &lanes.axes()),
                        Err(cut) => {
                            failure.get_or_insert(cut);
                            emitter.builder.splat(0.0, &[block], Element::F32)
                        }
                    }
                })
            },
        };
        let token = sample(&mut builder, &mut source, &parameters);
        self.restore(builder);
        match failure {
            Some(cut) => Err(cut),
            None => Ok(self.scalar(token)),
        }
    }
}
