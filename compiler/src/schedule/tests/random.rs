//! Random graphs: fused and unfused, on both targets' schedules, against the reference evaluation.

use tessera_ir::evaluate::evaluate;
use tessera_ir::testing::{Limits, random_module, random_values, seeds};

use super::{check_lowered, lowered, targets};
use crate::graph::{Context, Pipeline};

fn check_seed(seed: u64, extent: u64) {
    let module = random_module(seed, &Limits::default());
    let function = &module.functions[0];
    let (inputs, parameters) = random_values(&module, function, extent, seed).unwrap();
    let expected = evaluate(&module, &function.name, &inputs, &parameters).unwrap();
    for target in targets() {
        for passes in ["infer", crate::graph::DEFAULT_PIPELINE] {
            let mut transformed = module.clone();
            let pipeline: Pipeline = passes.parse().unwrap();
            pipeline.run(&mut transformed, &mut Context::new(target), |_, _| ()).unwrap();
            let what = format!("seed {seed}, T = {extent}, {target}, passes {passes}:\n{transformed}");
            let found = std::panic::catch_unwind(|| {
                let (lowered, _) = lowered(&transformed, target, "");
                check_lowered(lowered, target, function, (&inputs, &parameters), (&expected, 2e-3), &what);
            });
            found.unwrap_or_else(|_| panic!("{what}"));
        }
    }
}

#[test]
fn random_graphs_compute_the_same_fused_and_unfused() {
    for seed in seeds(24) {
        check_seed(seed, [1, 7, 33][seed as usize % 3]);
    }
}
