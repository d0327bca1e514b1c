//! Parts that tile programs are composed of.
//!
//! Each part appends to a program under construction and returns values. What differs from kernel to kernel (where the elements come
//! from, what is done with them on the way, where the result goes) is a closure of the caller's, so that a part fuses with whatever
//! the graph has around it.

pub mod attention;
pub mod random;
pub mod sampling;

/// Numbers that look random and are the same in every run, in −1..1.
#[cfg(test)]
pub(crate) fn noise(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// What the graph IR's own evaluation makes of an operation with one result.
#[cfg(test)]
pub(crate) fn reference<const N: usize>(
    operation: impl Into<tessera_ir::Operation>,
    operands: [tessera_ir::evaluate::Tensor; N],
    result: tessera_ir::TensorType,
) -> tessera_ir::evaluate::Tensor {
    let operands = operands.map(|tensor| Some(tensor.into())).to_vec();
    let results = tessera_ir::evaluate::evaluate_operation(
        &operation.into(),
        operands,
        &[result.into()],
        &mut tessera_ir::evaluate::Symbols::new(),
    );
    results.unwrap()[0].as_tensor().unwrap().clone()
}
