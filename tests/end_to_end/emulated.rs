//! The fixture on emulated GPUs: the device path of the runtime, on the driver and its checker.

use serde_json::Value;

use crate::command_lines::Workplace;
use crate::fixture::{self, Fixture, GPT_OSS, GPT2};
use crate::take_turn;

/// Chips of two generations; their kernels differ.
const CHIPS: [&str; 2] = ["sm_80", "sm_90a"];

/// Logits of every token of a fixture's sequence, with weights of a storage, on a device.
fn logits(workplace: &Workplace, fixture: &Fixture, weights: &str, device: &str) -> Vec<f32> {
    let folder = fixture.folder();
    let tokens = fixture.sequence().iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let arguments = ["logits", "--weights", weights, "--device", device, "--tokens", &tokens, "--output", "logits.npy"];
    workplace.run("tessera", arguments.map(Into::into).into_iter().chain(["--model".into(), folder.into_os_string()]));
    fixture::read_npy(&workplace.path("logits.npy"))
}

#[test]
fn logits_in_f32() {
    let _turn = take_turn();
    let workplace = Workplace::empty();
    for chip in CHIPS {
        GPT2.check_logits(&logits(&workplace, &GPT2, "f32", &format!("emulated:{chip}")));
    }
}

/// In bf16 the weights themselves differ from those of the known logits, and so does what the reference evaluation of the same graph
/// gives; that rounds at each op, which kernels of several ops do not.
#[test]
fn logits_in_bf16() {
    let _turn = take_turn();
    let workplace = Workplace::empty();
    let known = GPT2.logits();
    let reference = logits(&workplace, &GPT2, "bf16", "reference");
    for chip in CHIPS {
        let found = logits(&workplace, &GPT2, "bf16", &format!("emulated:{chip}"));
        let (to_known, to_reference) = (distance(&found, &known), distance(&found, &reference));
        assert!(to_known < 2e-3, "{chip}: {to_known} of the known logits");
        assert!(to_reference < 1e-3, "{chip}: {to_reference} of the reference evaluation");
    }
}

/// The norm of the difference, as a part of the norm of what is wanted.
fn distance(found: &[f32], wanted: &[f32]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let differences = &mut found.iter().zip(wanted).map(|(found, wanted)| f64::from(*found) - f64::from(*wanted));
    norm(differences) / norm(&mut wanted.iter().map(|wanted| f64::from(*wanted)))
}

/// gpt-oss computes in bf16 on a GPU, with its experts in MXFP4 as they are stored.
#[test]
fn logits_of_a_mixture_of_experts() {
    let _turn = take_turn();
    let workplace = Workplace::empty();
    for chip in CHIPS {
        GPT_OSS.check_narrow_logits(&logits(&workplace, &GPT_OSS, "stored", &format!("emulated:{chip}")), chip);
    }
}

/// Asserts that greedy text is transformers', of all prompts in one batch; windows are crossed.
fn check_greedy_text(fixture: &Fixture, weights: &str, device: &str) {
    let workplace = Workplace::empty();
    let cases = fixture.greedy();
    let mut arguments = vec!["generate".into(), "--model".into(), fixture.folder().into_os_string()];
    let options = ["--json", "--temperature", "0", "--max-new-tokens", "32", "--weights", weights, "--device", device];
    arguments.extend(options.map(Into::into));
    arguments.extend(cases.iter().flat_map(|case| ["--prompt".into(), case.text.clone().into()]));
    let said: Value = serde_json::from_slice(&workplace.run("tessera", arguments)).unwrap();
    let sequences = said["sequences"].as_array().unwrap();
    assert_eq!(sequences.len(), cases.len());
    for (case, sequence) in cases.iter().zip(sequences) {
        let ids: Vec<u32> = serde_json::from_value(sequence["ids"].clone()).unwrap();
        case.check(&ids, &format!("{weights} on {device}"));
    }
}

#[test]
fn greedy_text_is_that_of_transformers() {
    let _turn = take_turn();
    for (fixture, weights, chip) in [(GPT2, "f32", "sm_80"), (GPT2, "bf16", "sm_90a"), (GPT_OSS, "stored", "sm_80")] {
        check_greedy_text(&fixture, weights, &format!("emulated:{chip}"));
    }
}
