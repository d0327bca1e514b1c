//! Whatever a plan says, it is refused, or every size in it can be asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tessera_runtime::plan::Plan;

fuzz_target!(|input: (&[u8], [u64; 4])| {
    let (text, values) = input;
    let Ok(plan) = serde_json::from_slice::<Plan>(text) else { return };
    if plan.validate().is_err() {
        return;
    }
    let symbols: Vec<u64> = values.iter().copied().cycle().take(plan.symbols.len()).collect();
    for tensor in plan.inputs.iter().chain(&plan.outputs) {
        let _ = (tensor.describe(&plan.symbols), tensor.bytes(&symbols));
    }
    for slot in &plan.slots {
        let _ = slot.bytes.evaluate(&symbols);
    }
    for launch in &plan.launches {
        let _ = plan.kernels[launch.kernel].name.len();
        let _ = launch.guard.as_ref().map(|guard| guard.holds(&symbols));
        for extent in &launch.grid {
            let _ = extent.evaluate(&symbols);
        }
    }
});
