//! Rotary position embedding.

use std::f64::consts::TAU;

use crate::attribute::keyword;
use crate::definition::{Inference, OpError, ResultTypes, one_result};
use crate::evaluate::Tensor;
use crate::operation::operation;
use crate::ops::attention::require;
use crate::sharding::{FactorKind, ShardingRule};
use crate::storage::Storage;
use crate::types::Dim;

keyword! {
    /// Which elements of a head are rotated together.
    RopeStyle {
        /// Element `i` with `i + dim / 2`, as GPT-NeoX and Llama in the Hugging Face layout do.
        SplitHalf = "split_half",
        /// Elements `2i` and `2i + 1`, as in the original paper.
        Interleaved = "interleaved",
    }
}

operation! {
    /// Rotary position embedding (Su et al., "RoFormer"): rotates pair `i` of each head by the angle `positions[t] · fᵢ`,
    /// with `fᵢ = base^(-2i / dim)`.
    ///
    /// With a `factor` the frequencies are stretched for longer contexts (Peng et al., "YaRN"): `fᵢ · (1 - r) + fᵢ / factor ·
    /// r`, with `r = clamp((i - low) / (high - low), 0, 1)`. `low` and `high` are the pairs that turn `beta_fast` and
    /// `beta_slow` times over the original context, `dim · ln(original_context / (2π · beta)) / (2 · ln base)`; rounded down
    /// and up if `truncate`; within 0 and `dim - 1`; at least 0.001 apart.
    ROPE = rope(
        /// `[tokens, heads, dim]`; `dim` is even.
        x: Float,
        /// `[tokens]`, i32.
        positions: Integer,
    ), Rope {
        /// The base of the angles.
        base: f64 = 10000.0,
        /// Which elements make a pair.
        style: RopeStyle = RopeStyle::SplitHalf,
        /// How many times longer the context is than the original one: YaRN; plain angles if absent.
        factor: Option<f64> = None,
        /// Turns over the original context from which on a frequency is kept. Only with `factor`.
        beta_fast: f64 = 32.0,
        /// Turns over the original context up to which a frequency is divided by the factor. Only with `factor`.
        beta_slow: f64 = 1.0,
        /// Tokens of the context that the model was first trained with. Only with `factor`.
        original_context: u64 = 4096,
        /// Whether `low` and `high` are rounded to whole pairs. Only with `factor`.
        truncate: bool = true,
        /// A factor on the rotated elements: YaRN's attention scaling, commonly `0.1 · ln(factor) + 1`.
        concentration: f64 = 1.0,
    }
    infer: infer_rope,
    sharding: |_, _, _| {
        let mut rule = ShardingRule::new();
        let (token, head) = (rule.factor(FactorKind::Parallel), rule.factor(FactorKind::Parallel));
        let element = rule.factor(FactorKind::Whole);
        rule.operand([token, head, element]).operand([token]).result([token, head, element])
    },
    adjoint: |op, context| {
        // A rotation's transpose is the rotation back; the concentration is a factor of both.
        let storage = context.tensor_type(context.operands[0])?.storage();
        let gradient = context.stored_as(context.gradients[0], storage)?;
        let mut build = context.graph.builder();
        let back = build.neg(context.operands[1])?;
        Ok(vec![Some(build.rope(gradient, back, op.clone())?), None])
    },
    evaluate: |op, evaluation| {
        let x = evaluation.tensor(0)?;
        let positions = evaluation.tensor(1)?.to_integers();
        let (heads, dim) = (x.shape()[1], x.shape()[2]);
        let frequencies = op.frequencies(dim);
        let mut elements = x.to_floats().to_vec();
        if dim > 0 {
            for (row, head) in elements.chunks_mut(dim).enumerate() {
                let position = positions[row / heads] as f64;
                for (i, frequency) in frequencies.iter().enumerate() {
                    let (first, second) = match op.style {
                        RopeStyle::SplitHalf => (i, i + dim / 2),
                        RopeStyle::Interleaved => (2 * i, 2 * i + 1),
                    };
                    let (sin, cos) = (position * frequency).sin_cos();
                    let (a, b) = (head[first], head[second]);
                    head[first] = op.concentration * (a * cos - b * sin);
                    head[second] = op.concentration * (b * cos + a * sin);
                }
            }
        }
        Ok(vec![Tensor::from_floats(Storage::F64, x.shape(), elements)?.into()])
    },
}

impl Rope {
    /// The angle by which each pair of a head of `dim` elements turns from one position to the next.
    pub fn frequencies(&self, dim: usize) -> Vec<f64> {
        let plain = (0..dim / 2).map(|i| self.base.powf(-2.0 * i as f64 / dim as f64));
        let Some(stretch) = self.stretch(dim) else { return plain.collect() };
        let stretched = plain.enumerate().map(|(i, frequency)| {
            let ramp = ((i as f64 - stretch.low) / stretch.width).clamp(0.0, 1.0);
            frequency * (1.0 - ramp) + frequency / stretch.factor * ramp
        });
        stretched.collect()
    }

    /// How the frequencies of a head of `dim` elements are stretched, if they are.
    pub fn stretch(&self, dim: usize) -> Option<RopeStretch> {
        let factor = self.factor?;
        let pair =
            |turns: f64| dim as f64 * (self.original_context as f64 / (turns * TAU)).ln() / (2.0 * self.base.ln());
        let (mut low, mut high) = (pair(self.beta_fast), pair(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
        Some(RopeStretch { factor, low, width: (high - low).max(0.001) })
    }
}

/// Which frequencies YaRN divides by its factor: those of pair `i` in the share `clamp((i - low) / width, 0, 1)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeStretch {
    /// What is divided by.
    pub factor: f64,
    /// The pair up to which frequencies are kept.
    pub low: f64,
    /// Pairs from there to the first that is divided wholly; above 0.
    pub width: f64,
}

fn infer_rope(op: &Rope, inference: &Inference<'_>) -> Result<ResultTypes, OpError> {
    let x = inference.tensor_of_rank(0, 3)?;
    require(inference, 1, &x.shape[..1], Storage::I32)?;
    if !matches!(x.shape[2], Dim::Static(dim) if dim % 2 == 0) {
        return Err(OpError::operand(0, format!("the last dimension of {x} must be an even number")));
    }
    let is_positive = |number: f64| number.is_finite() && number > 0.0;
    if !is_positive(op.base) {
        return Err(OpError::attribute("base", "the base must be a positive number"));
    }
    if !is_positive(op.concentration) {
        return Err(OpError::attribute("concentration", "the concentration must be a positive number"));
    }
    if let Some(factor) = op.factor {
        if !is_positive(factor) {
            return Err(OpError::attribute("factor", "the factor must be a positive number"));
        }
        if op.base <= 1.0 {
            return Err(OpError::attribute("base", "with a factor the base must be above 1"));
        }
        for (name, turns) in [("beta_fast", op.beta_fast), ("beta_slow", op.beta_slow)] {
            if !is_positive(turns) {
                return Err(OpError::attribute(name, "a number of turns must be positive"));
            }
        }
        if op.beta_slow > op.beta_fast {
            return Err(OpError::attribute("beta_slow", "it must not be above beta_fast"));
        }
        if op.original_context == 0 {
            return Err(OpError::attribute("original_context", "a context has at least one token"));
        }
    }
    one_result(inference.in_written_storage(x.with_shape(x.shape.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yarn_has_the_frequencies_of_gpt_oss() {
        let op = Rope { base: 150000.0, factor: Some(32.0), truncate: false, ..Rope::default() };
        let plain = Rope { base: 150000.0, ..Rope::default() }.frequencies(64);
        let found = op.frequencies(64);
        // Between pairs 8.0928 and 17.3980 the frequencies go over from kept to divided.
        assert_eq!(found[..9], plain[..9]);
        let ramp = (12.0 - 8.092779115512402) / (17.39802450158856 - 8.092779115512402);
        assert!((found[12] / plain[12] - (1.0 - ramp + ramp / 32.0)).abs() < 1e-9);
        assert!((18..32).all(|i| found[i] == plain[i] / 32.0));
        // Rounded, they are 8 and 18.
        let rounded = Rope { truncate: true, ..op }.frequencies(64);
        assert!((rounded[13] / plain[13] - (0.5 + 0.5 / 32.0)).abs() < 1e-12);
    }
}
