//! Properties of the passes on random modules.

use proptest::prelude::*;
use tessera_compiler::comparison::{Tolerance, difference};
use tessera_compiler::graph::{DEFAULT_PIPELINE, PASSES};
use tessera_ir::testing::{Limits, random_module, random_values};
use tessera_ir::{Module, Storage, evaluate, parse_module, verify};

use super::{Agreement, run};

/// Evaluates `@main` of both modules on the same values.
fn check_same_results(before: &Module, after: &Module, agreement: Agreement, seed: u64) -> Result<(), TestCaseError> {
    let function = before.function("main").expect("random modules have a main");
    let (inputs, parameters) = random_values(before, function, 3, seed).expect("the values are small");
    let expected = evaluate::evaluate(before, "main", &inputs, &parameters).expect("random modules can be evaluated");
    let found = evaluate::evaluate(after, "main", &inputs, &parameters);
    let found = found.map_err(|error| TestCaseError::fail(format!("{error}\n{after}")))?;
    prop_assert_eq!(expected.len(), found.len());
    for (index, (expected, found)) in expected.iter().zip(&found).enumerate() {
        let difference = difference(expected, found).expect("outputs keep their shapes");
        let admitted = match agreement {
            Agreement::Exact => difference.maximum_absolute == 0.0,
            Agreement::Rounding => Tolerance::of_function(function, Storage::F32).admits(&difference),
        };
        prop_assert!(admitted, "output {index}: {difference}\nbefore\n{before}\nafter\n{after}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every pass by itself leaves a valid module that computes the same: to the bit, but for those that round less often.
    #[test]
    fn a_pass_keeps_the_results(seed: u64, steps in 1usize..24, narrow: bool) {
        let before = random_module(seed, &Limits { steps, narrow });
        for pass in PASSES {
            let mut after = before.clone();
            run(&mut after, pass.name, "host").map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert!(verify(&after).is_ok(), "{} leaves an invalid module", pass.name);
            let rounds_less = ["canonicalize", "fold"].contains(&pass.name);
            if rounds_less && narrow {
                // A value rounded to bf16 a little differently can be far away after a division; exactness is checked without.
                continue;
            }
            let agreement = if rounds_less { Agreement::Rounding } else { Agreement::Exact };
            check_same_results(&before, &after, agreement, seed)?;
        }
    }

    /// A second run of a pass, or of the whole pipeline, finds nothing left to do.
    #[test]
    fn passes_are_idempotent(seed: u64, steps in 1usize..24) {
        let pipelines = PASSES.iter().map(|pass| pass.name).chain([DEFAULT_PIPELINE]);
        for pipeline in pipelines {
            let mut once = random_module(seed, &Limits { steps, narrow: true });
            run(&mut once, pipeline, "sm_80").map_err(|error| TestCaseError::fail(error.to_string()))?;
            let mut twice = once.clone();
            run(&mut twice, pipeline, "sm_80").map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(once.to_string(), twice.to_string(), "{}", pipeline);
        }
    }

    /// Fusion after everything else computes what the module without fusion computes, to the bit, and so does its printed form.
    #[test]
    fn fused_equals_unfused(seed: u64, steps in 1usize..32, narrow: bool) {
        let (unfused, _) = DEFAULT_PIPELINE.rsplit_once(',').expect("the pipeline has several passes");
        let mut before = random_module(seed, &Limits { steps, narrow });
        run(&mut before, unfused, "host").map_err(|error| TestCaseError::fail(error.to_string()))?;
        let mut after = before.clone();
        run(&mut after, "fuse", "host").map_err(|error| TestCaseError::fail(error.to_string()))?;
        check_same_results(&before, &after, Agreement::Exact, seed)?;
        let read_back = parse_module(&after.to_string()).map_err(|errors| TestCaseError::fail(errors.to_string()))?;
        check_same_results(&before, &read_back, Agreement::Exact, seed)?;
    }
}
