//! The checks of a plan on the contents of its inputs.

use super::{RunError, TensorView};
use crate::plan::{Check, ElementType, Plan, TensorSpecification};

/// Refuses inputs that would lead a kernel out of its buffers.
///
/// `inputs` are in the order of the plan's and have the types and shapes that it says.
pub(super) fn check(plan: &Plan, inputs: &[&TensorView<'_>], symbols: &[u64]) -> Result<(), RunError> {
    for check in &plan.checks {
        let place = || format!("bound of input `{}`", plan.inputs[check.inputs()[0]].name);
        let limit = check.limit().evaluate(symbols).map_err(|error| RunError::Extent { place: place(), error })?;
        match check {
            Check::Indices { input, .. } => {
                let elements = Integers::of(inputs[*input]);
                let outside = (0..elements.count()).find(|index| elements.index(*index, limit).is_none());
                if let Some(at) = outside {
                    return Err(out_of_range(&plan.inputs[*input], at, elements.get(at), limit));
                }
            }
            Check::Pages { positions, sequences, table, page_size, window, .. } => {
                let (row_of, shape) = (Integers::of(inputs[*sequences]), inputs[*table].shape());
                let (rows, columns) = (shape[0], shape[1]);
                let positions_of = Integers::of(inputs[*positions]);
                let entries = Integers::of(inputs[*table]);
                // First and last column that a row's tokens reach.
                let mut reached: Vec<Option<(u64, u64)>> = vec![None; rows as usize];
                for token in 0..positions_of.count().min(row_of.count()) {
                    let Some(row) = row_of.index(token, rows) else {
                        return Err(out_of_range(&plan.inputs[*sequences], token, row_of.get(token), rows));
                    };
                    let capacity = columns.saturating_mul(*page_size);
                    let Some(position) = positions_of.index(token, capacity) else {
                        return Err(out_of_range(&plan.inputs[*positions], token, positions_of.get(token), capacity));
                    };
                    let first = window.map_or(0, |window| (position + 1).saturating_sub(window)) / page_size;
                    let last = position / page_size;
                    let known = &mut reached[row as usize];
                    *known = Some(known.map_or((first, last), |(least, most)| (least.min(first), most.max(last))));
                }
                for (row, reached) in (0u64..).zip(reached) {
                    let Some((first, last)) = reached else { continue };
                    for at in row * columns + first..=row * columns + last {
                        if entries.index(at as usize, limit).is_none() {
                            let at = at as usize;
                            return Err(out_of_range(&plan.inputs[*table], at, entries.get(at), limit));
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// The elements of a tensor of i32 or i64.
struct Integers<'a> {
    bytes: &'a [u8],
    width: usize,
}

impl<'a> Integers<'a> {
    fn of(tensor: &TensorView<'a>) -> Self {
        Self { bytes: tensor.bytes(), width: if tensor.element() == ElementType::I64 { 8 } else { 4 } }
    }

    fn count(&self) -> usize {
        self.bytes.len() / self.width
    }

    /// The element at `at`, which the caller's memory may hold unaligned.
    fn get(&self, at: usize) -> i64 {
        let bytes = &self.bytes[at * self.width..][..self.width];
        match <[u8; 4]>::try_from(bytes) {
            Ok(bytes) => i32::from_ne_bytes(bytes).into(),
            Err(_) => <[u8; 8]>::try_from(bytes).map_or(0, i64::from_ne_bytes),
        }
    }

    /// The element at `at`, where it is at least 0 and below `limit`.
    fn index(&self, at: usize, limit: u64) -> Option<u64> {
        u64::try_from(self.get(at)).ok().filter(|index| *index < limit)
    }
}

fn out_of_range(input: &TensorSpecification, at: usize, found: i64, limit: u64) -> RunError {
    RunError::Index { name: input.name.clone(), at, found, limit }
}
