//! Tests of the graph passes: files with the IR before and after, properties on random graphs, and the models.

mod files;
mod models;
mod random;

use tessera_compiler::comparison::{Tolerance, difference, random_inputs, unpacked};
use tessera_compiler::graph::{Context, Pipeline, PipelineError, Remark};
use tessera_ir::Module;
use tessera_ir::evaluate::{self, Symbols, Value};

/// Runs a pipeline for a target and gives its remarks.
fn run(module: &mut Module, passes: &str, target: &str) -> Result<Vec<Remark>, PipelineError> {
    let pipeline: Pipeline = passes.parse().expect("the test names passes that exist");
    let mut context = Context::new(target.parse().expect("the test names a target that exists"));
    pipeline.run(module, &mut context, |_, _| {})?;
    Ok(context.remarks)
}

/// How nearly equal two evaluations must be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Agreement {
    /// Every bit, NaN being equal to NaN.
    Exact,
    /// As near as results computed in the storage of the output.
    Rounding,
}

/// Evaluates every function of both modules on the same inputs and compares the outputs.
fn assert_same_results(before: &Module, after: &Module, agreement: Agreement, seed: u64) {
    for function in &before.functions {
        let name = function.name.as_str();
        let made = random_inputs(before, name, &Symbols::new(), seed).expect("inputs can be made");
        let expected = evaluate::evaluate(before, name, &made.inputs, &made.parameters);
        // Block-scaled parameters may have been replaced by what holds them.
        let is_unpacked = before.parameters.keys().ne(after.parameters.keys());
        let parameters = if is_unpacked { unpacked(&made.parameters).unwrap() } else { made.parameters };
        let found = evaluate::evaluate(after, name, &made.inputs, &parameters);
        let (expected, found) = match (expected, found) {
            (Ok(expected), Ok(found)) => (expected, found),
            (Err(_), _) => continue,
            (Ok(_), Err(error)) => panic!("@{name} evaluates before the passes but not after: {error}\n{after}"),
        };
        assert_eq!(expected.len(), found.len());
        for (index, (expected, found)) in expected.iter().zip(&found).enumerate() {
            let difference = difference(expected, found).expect("outputs keep their shapes");
            let storage = match expected {
                Value::Tensor(tensor) => tensor.storage(),
                Value::Cache(cache) => cache.ty().storage,
            };
            let admitted = match agreement {
                Agreement::Exact => difference.maximum_absolute == 0.0,
                Agreement::Rounding => Tolerance::of_function(function, storage).admits(&difference),
            };
            assert!(
                admitted,
                "output {index} of @{name}: {difference}, worst {:?}\nbefore\n{before}\nafter\n{after}",
                difference.worst
            );
        }
    }
}
