//! What does not fit is refused, with a message that says what was wrong and what would be right.

use tessera_runtime::Artifact;
use tessera_runtime::artifact::{Code, Target};
use tessera_runtime::device;
use tessera_runtime::execute::{Executable, KvCache, Session, TensorView};
use tessera_runtime::plan::{Argument, Check, ElementType, Extent, Plan};
use tessera_runtime::weights::Weights;

use super::fixture::*;

fn refusal(inputs: &[(&str, TensorView<'_>)]) -> String {
    let device = device::open("host").unwrap();
    let executable = Executable::load(&artifact(linear_plan()), &linear_weights(), &device).unwrap();
    Session::new(&executable).run(inputs, &mut []).unwrap_err().to_string()
}

fn load_refusal(plan: Plan, weights: &Weights) -> String {
    let device = device::open("host").unwrap();
    Executable::load(&artifact(plan), weights, &device).unwrap_err().to_string()
}

#[test]
fn inputs_that_do_not_fit() {
    let x = vec![0f32; 48];
    let view = |shape: &[u64]| TensorView::new(shape, &x).unwrap();
    assert_eq!(refusal(&[]), "input `x` is missing");
    assert_eq!(refusal(&[("z", view(&[48]))]), "the function has no input `z`; it takes x");
    assert_eq!(refusal(&[("x", view(&[2, 24])), ("x", view(&[2, 24]))]), "input `x` is passed twice");
    assert_eq!(refusal(&[("x", view(&[48]))]), "input `x` is f32[48], the function takes f32[T, 24]");
    assert_eq!(refusal(&[("x", view(&[4, 12]))]), "dimension 1 of input `x` is 12, but the function takes f32[T, 24]");
    let message = refusal(&[("x", TensorView::new(&[2, 24], &[0i32; 48]).unwrap())]);
    assert_eq!(message, "input `x` is i32[2, 24], the function takes f32[T, 24]");
    let message = TensorView::new(&[2, 3], &x).unwrap_err().to_string();
    assert_eq!(message, "192 bytes are not a tensor f32[2, 3]");
}

#[test]
fn shapes_that_contradict_each_other() {
    let mut plan = Plan::new("pair", "main");
    let tokens = Extent::symbol(plan.intern_symbol("T"));
    plan.inputs.push(tensor("tokens", ElementType::I32, [tokens.clone()]));
    plan.inputs.push(tensor("positions", ElementType::I32, [tokens.clone()]));
    plan.inputs.push(tensor("doubled", ElementType::I32, [tokens * 2]));
    let device = device::open("host").unwrap();
    let executable = Executable::load(&artifact(plan), &Weights::in_memory(), &device).unwrap();
    let refusal = |positions: &[i32], doubled: &[i32]| {
        let view = TensorView::vector::<i32>;
        let inputs = [("tokens", view(&[1, 2, 3])), ("positions", view(positions)), ("doubled", view(doubled))];
        Session::new(&executable).run(&inputs, &mut []).unwrap_err().to_string()
    };
    let message = refusal(&[1, 2], &[0; 6]);
    assert_eq!(message, "dimension 0 of input `positions` is 2, but input `tokens` made T = 3");
    assert_eq!(refusal(&[1, 2, 3], &[0; 5]), "dimension 0 of input `doubled` is 5, but (T * 2) is 6");
}

#[test]
fn indices_of_nothing() {
    let mut plan = step_plan();
    plan.checks.push(Check::Indices { input: 0, limit: VOCABULARY.into() });
    let refusal = |plan: &Plan, tokens: [i32; 2], positions: [i32; 2], sequences: [i32; 2], table: [i32; 4]| {
        let device = device::open("host").unwrap();
        let executable = Executable::load(&artifact(plan.clone()), &Weights::in_memory(), &device).unwrap();
        let mut cache = KvCache::new(&executable, "cache", 3).unwrap();
        let inputs = [
            ("tokens", TensorView::vector(&tokens)),
            ("positions", TensorView::vector(&positions)),
            ("sequences", TensorView::vector(&sequences)),
            ("page_table", TensorView::new(&[2, 2], &table).unwrap()),
            ("rows", TensorView::vector(&[1])),
        ];
        let outcome = Session::new(&executable).run(&inputs, &mut [("cache", &mut cache)]).map(drop);
        outcome.err().map_or_else(String::new, |error| error.to_string())
    };
    // Entries that no token reaches may be anything.
    assert_eq!(refusal(&plan, [1, 2], [0, 1], [0, 0], [2, -1, 77, 78]), "");
    let message = refusal(&plan, [1, VOCABULARY as i32], [0, 1], [0, 0], [0; 4]);
    assert_eq!(
        message,
        format!("element 1 of input `tokens` is {VOCABULARY}, which must be at least 0 and below {VOCABULARY}")
    );
    let message = refusal(&plan, [-1, 2], [0, 1], [0, 0], [0; 4]);
    assert!(message.starts_with("element 0 of input `tokens` is -1"), "{message}");
    let message = refusal(&plan, [1, 2], [7, 8], [0, 0], [0; 4]);
    assert!(
        message.starts_with("element 1 of input `positions` is 8, which must be at least 0 and below 8"),
        "{message}"
    );
    let message = refusal(&plan, [1, 2], [0, 0], [0, 2], [0; 4]);
    assert!(
        message.starts_with("element 1 of input `sequences` is 2, which must be at least 0 and below 2"),
        "{message}"
    );
    let message = refusal(&plan, [1, 2], [0, 4], [0, 1], [0, -1, 2, 3]);
    assert_eq!(message, "element 3 of input `page_table` is 3, which must be at least 0 and below 3");
    // What lies before the window is not looked at.
    let Check::Pages { window, .. } = &mut plan.checks[0] else { panic!("{:?}", plan.checks) };
    *window = Some(4);
    assert_eq!(refusal(&plan, [1, 2], [7, 7], [0, 1], [-1, 0, -1, 1]), "");
    let message = refusal(&plan, [1, 2], [7, 6], [0, 1], [-1, 0, -1, 1]);
    assert!(message.starts_with("element 2 of input `page_table` is -1"), "{message}");
}

#[test]
fn weights_that_do_not_fit() {
    let mut weights = linear_weights();
    weights.insert("bias", ElementType::F32, vec![23], vec![0; 92]).unwrap();
    let message = load_refusal(linear_plan(), &weights);
    assert_eq!(message, "tensor `bias` of memory is f32[23], the model was compiled for f32[24]");
    let message = load_refusal(linear_plan(), &Weights::in_memory());
    assert_eq!(message, "memory has no tensor `bias`, which the model needs as f32[24]");
}

#[test]
fn artifacts_that_cannot_run_here() {
    let mut plan = linear_plan();
    plan.kernels[0].name = "absent".into();
    let message = load_refusal(plan, &linear_weights());
    assert!(message.contains("has no symbol `absent`, which its plan names"), "{message}");

    let load = |target: Target, code: Code| {
        let artifact = Artifact::new("test", target, vec![linear_plan()], code, vec![]).unwrap();
        Executable::load(&artifact, &linear_weights(), &device::open("host").unwrap()).unwrap_err().to_string()
    };
    let message = load(Target::native_host(), Code::Host(b"not an object".to_vec()));
    assert!(message.starts_with("cannot load the artifact's kernels: "), "{message}");
    let ptx = ["scale_add", "matmul"].map(|name| (name.to_string(), String::new()));
    let message = load(Target::Cuda { architecture: "sm_80".into() }, Code::Ptx(ptx.into()));
    assert!(message.contains("compiled for sm_80, not for the host CPU"), "{message}");
}

#[test]
fn plans_that_point_beyond_their_buffers() {
    let mut plan = linear_plan();
    let Argument::Buffer { byte_offset, .. } = &mut plan.launches[0].arguments[2] else { panic!() };
    *byte_offset = Extent::symbol(0) * 97;
    let device = device::open("host").unwrap();
    let executable = Executable::load(&artifact(plan), &linear_weights(), &device).unwrap();
    let x = vec![0f32; 48];
    let view = TensorView::new(&[2, 24], &x).unwrap();
    let message = Session::new(&executable).run(&[("x", view)], &mut []).unwrap_err().to_string();
    assert!(message.starts_with("launch 0 (scale + add (bias)): byte 194 of a buffer of 192 bytes"), "{message}");
}

#[test]
fn devices_that_do_not_exist() {
    let message = device::open("gpu").unwrap_err().to_string();
    assert_eq!(message, "`gpu` is not a device: expected `host`, `cuda:N` or `emulated[:sm_NN]`");
}
