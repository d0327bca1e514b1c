//! The values of a plan's symbols in one call.

use super::{RunError, TensorView};
use crate::plan::{Extent, Plan, TensorSpecification};

/// Deduces every symbol from the inputs' shapes and the caches' page counts, and checks that all shapes agree.
///
/// `inputs` and `pages` are in the order of the plan's inputs and caches. The plan is valid, so each symbol has a source.
pub(super) fn deduce(plan: &Plan, inputs: &[&TensorView<'_>], pages: &[u64]) -> Result<Vec<u64>, RunError> {
    let mut values = vec![0; plan.symbols.len()];
    // Who gave a symbol its value, for messages.
    let mut givers: Vec<Option<Giver>> = vec![None; plan.symbols.len()];
    for (cache, (specification, pages)) in plan.caches.iter().zip(pages).enumerate() {
        match givers[specification.pages] {
            Some(_) if values[specification.pages] != *pages => {
                return Err(RunError::Cache(specification.name.clone()));
            }
            Some(_) => {}
            None => {
                values[specification.pages] = *pages;
                givers[specification.pages] = Some(Giver::Cache(cache));
            }
        }
    }
    for (input, (specification, tensor)) in plan.inputs.iter().zip(inputs).enumerate() {
        check_rank(plan, specification, tensor)?;
        for (axis, (dimension, found)) in specification.shape.iter().zip(tensor.shape()).enumerate() {
            let Extent::Symbol(symbol) = *dimension else { continue };
            match givers[symbol] {
                Some(giver) if values[symbol] != *found => {
                    let (name, value) = (&plan.symbols[symbol], values[symbol]);
                    let expected = format!("{} made {name} = {value}", giver.describe(plan));
                    return Err(RunError::Dimension {
                        name: specification.name.clone(),
                        axis,
                        found: *found,
                        expected,
                    });
                }
                Some(_) => {}
                None => {
                    values[symbol] = *found;
                    givers[symbol] = Some(Giver::Input(input));
                }
            }
        }
    }
    for (specification, tensor) in plan.inputs.iter().zip(inputs) {
        check_dimensions(plan, specification, tensor, &values)?;
    }
    Ok(values)
}

#[derive(Clone, Copy)]
enum Giver {
    Input(usize),
    Cache(usize),
}

impl Giver {
    fn describe(self, plan: &Plan) -> String {
        match self {
            Giver::Input(index) => format!("input `{}`", plan.inputs[index].name),
            Giver::Cache(index) => format!("cache `{}`", plan.caches[index].name),
        }
    }
}

fn check_rank(plan: &Plan, specification: &TensorSpecification, tensor: &TensorView<'_>) -> Result<(), RunError> {
    if tensor.element() == specification.element && tensor.shape().len() == specification.shape.len() {
        return Ok(());
    }
    Err(RunError::Input {
        name: specification.name.clone(),
        found: format!("{}{:?}", tensor.element(), tensor.shape()),
        expected: specification.describe(&plan.symbols),
    })
}

fn check_dimensions(
    plan: &Plan,
    specification: &TensorSpecification,
    tensor: &TensorView<'_>,
    values: &[u64],
) -> Result<(), RunError> {
    for (axis, (dimension, found)) in specification.shape.iter().zip(tensor.shape()).enumerate() {
        let place = || format!("shape of input `{}`", specification.name);
        let wanted = dimension.evaluate(values).map_err(|error| RunError::Extent { place: place(), error })?;
        if wanted != *found {
            let expected = match dimension {
                Extent::Constant(_) => format!("the function takes {}", specification.describe(&plan.symbols)),
                _ => format!("{} is {wanted}", dimension.display(&plan.symbols)),
            };
            return Err(RunError::Dimension { name: specification.name.clone(), axis, found: *found, expected });
        }
    }
    Ok(())
}
