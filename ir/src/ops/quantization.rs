//! Quantized weights.

use crate::definition::{Inference, OpError, ResultTypes, one_result};
use crate::evaluate::Tensor;
use crate::operation::operation;
use crate::ops::family;
use crate::ops::movement::{check_axis, strides};
use crate::sharding::{FactorKind, ShardingRule};
use crate::storage::Storage;
use crate::types::{TensorType, Type};

family! {
    /// Narrow numbers with scales of their own.
    ///
    /// Block-scaled storage (`mxfp4`, `nvfp4`, `fp8_block128`) is one tensor in a graph and two in memory, its elements and
    /// its scales, which a parameter is bound to under two names:
    ///
    /// | storage | elements of `@w: […, N, K]` | scales |
    /// |---|---|---|
    /// | `mxfp4` | `w_blocks` `[…, N, K/32, 16]` u8 | `w_scales` `[…, N, K/32]` u8: E8M0, 2^(byte - 127) |
    /// | `nvfp4` | `w` `[…, N, K/16, 8]` u8 | `w_scale` `[…, N, K/16]` fp8_e4m3 |
    /// | `fp8_block128` | `w` `[…, N, K]` fp8_e4m3 | `w_scale_inv` `[…, N/128, K/128]` f32 |
    ///
    /// Divisions round up. In a byte of two elements the one of the lower index is the low half.
    QUANTIZATION_FAMILY = "Quantization" [Dequantize, BlockScaled]
}

operation! {
    /// `w · scale`, with one scale for the tensor or one for each place along a dimension.
    ///
    /// The result has the storage of `scale` unless another float is written.
    DEQUANTIZE = dequantize(
        /// The narrow numbers.
        w: Number,
        /// A scalar, or a vector as long as dimension `axis` of `w`.
        scale: Float,
    ), Dequantize {
        /// The dimension that a vector of scales runs along.
        axis: Option<usize>,
    }
    infer: infer_dequantize,
    sharding: |op, operands: &[&Type], _| {
        let rank = operands[0].as_tensor().map_or(0, TensorType::rank);
        let mut rule = ShardingRule::new();
        let factors: Vec<_> = (0..rank).map(|_| rule.factor(FactorKind::Parallel)).collect();
        let scale: Vec<_> = op.axis.iter().map(|axis| factors[*axis]).collect();
        rule.operand(factors.iter().copied()).operand(scale).result(factors)
    },
    evaluate: |op, evaluation| {
        let (w, scale) = (evaluation.tensor(0)?, evaluation.tensor(1)?.to_floats());
        let (stride, extent) = match op.axis {
            Some(axis) => (strides(w.shape())[axis], w.shape()[axis].max(1)),
            None => (1, 1),
        };
        let scaled = |(i, x): (usize, &f64)| x * scale[i / stride % extent];
        let elements = w.to_floats().iter().enumerate().map(scaled).collect();
        Ok(vec![Tensor::from_floats(Storage::F64, w.shape(), elements)?.into()])
    },
}

fn infer_dequantize(op: &Dequantize, inference: &Inference<'_>) -> Result<ResultTypes, OpError> {
    let (w, scale) = (inference.tensor(0)?, inference.tensor(1)?);
    match op.axis {
        None if scale.rank() == 0 => {}
        None => {
            let message = format!("a scalar is needed here, not {scale}");
            return Err(OpError::operand(1, message).help("name the dimension that the scales run along: {axis = …}"));
        }
        Some(axis) => {
            check_axis("axis", axis, w)?;
            if scale.rank() != 1 || scale.shape[0] != w.shape[axis] {
                let message = format!("{scale} has not one scale for each of dimension {axis} of {w}");
                return Err(OpError::operand(1, message));
            }
        }
    }
    one_result(inference.in_written_storage(scale.with_shape(w.shape.clone())))
}

operation! {
    /// A tensor of block-scaled storage, made of the tensors that hold its elements and its scales. Nothing is moved or
    /// computed: it says how memory is to be read.
    BLOCK_SCALED = block_scaled(
        /// The elements, as they lie in memory.
        elements: Number,
        /// The scales, one for each block.
        scales: Number,
    ) -> result, BlockScaled {}
    infer: |_, inference| {
        let result = inference.written_tensor()?;
        let storage = result.storage();
        let format = storage.blocks().ok_or_else(|| {
            let known = Storage::ALL.into_iter().filter(|storage| storage.blocks().is_some()).map(Storage::name);
            OpError::result(0, format!("{storage} has no blocks with scales of their own"))
                .help(format!("write a result of {}", known.collect::<Vec<_>>().join(", ")))
        })?;
        let parts = format.parts(&result.shape).ok_or_else(|| {
            OpError::result(0, format!("the last dimension of {result} must be a number"))
        })?;
        for (index, part) in parts.iter().enumerate() {
            let found = inference.tensor(index)?;
            if !found.agrees_with(part) {
                return Err(OpError::operand(index, format!("{result} is held in {part}, not {found}")));
            }
        }
        one_result(result.clone())
    },
    sharding: |_, operands: &[&Type], results: &[&Type]| {
        // Blocks stay whole: what elements and scales have in common, of one extent, can be split.
        let shape = |ty: &&Type| ty.as_tensor().map(|tensor| tensor.shape.clone()).unwrap_or_default();
        let (elements, scales, result) = (shape(&operands[0]), shape(&operands[1]), shape(&results[0]));
        let mut rule = ShardingRule::new();
        let mut factors = vec![Vec::new(); 3];
        for axis in 0..result.rank() {
            let is_common = elements[axis] == result[axis] && scales[axis] == result[axis];
            if is_common && axis + 1 < result.rank() {
                let factor = rule.factor(FactorKind::Parallel);
                factors.iter_mut().for_each(|factors| factors.push(factor));
            } else {
                factors.iter_mut().for_each(|factors| factors.push(rule.factor(FactorKind::Whole)));
            }
        }
        factors[0].extend((result.rank()..elements.rank()).map(|_| rule.factor(FactorKind::Whole)));
        let [elements, scales, result] = [0, 1, 2].map(|index| std::mem::take(&mut factors[index]));
        rule.operand(elements).operand(scales).result(result)
    },
    evaluate: |_, evaluation| {
        let shape = evaluation.result_shape(0)?;
        let storage = evaluation.result_type(0).as_tensor().map_or(Storage::F32, TensorType::storage);
        let (elements, scales) = (evaluation.tensor(0)?, evaluation.tensor(1)?);
        Ok(vec![Tensor::from_blocks(storage, shape, elements, scales)?.into()])
    },
}
