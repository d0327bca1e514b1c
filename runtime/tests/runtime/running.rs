//! What is computed, on how many threads and in whatever shapes.

use std::sync::Arc;

use proptest::prelude::*;
use tessera_runtime::device::{self, Device};
use tessera_runtime::execute::{Executable, Session, TensorView};
use tessera_runtime::host::Host;
use tessera_runtime::plan::{
    Argument, Balance, BufferReference, ElementType, Extent, Launch, Partition, Plan, TensorSpecification,
};
use tessera_runtime::weights::Weights;

use super::fixture::*;

fn linear_session(device: Arc<dyn Device>) -> Session {
    Session::new(&Executable::load(&artifact(linear_plan()), &linear_weights(), &device).unwrap())
}

#[test]
fn shapes_may_change_from_call_to_call() {
    for threads in [1, 2, 3] {
        let mut session = linear_session(Host::with_threads(threads).unwrap());
        for tokens in [1, 7, 3, 0, 40, 7, 4, 5, 1, 100, 2].into_iter().chain(1..30) {
            let x = numbers(tokens * WIDTH, tokens);
            let view = TensorView::new(&[tokens, WIDTH], &x).unwrap();
            let outputs = session.run(&[("x", view)], &mut []).unwrap();
            let y = outputs.get("y").unwrap();
            assert_eq!(y.shape(), [tokens, COLUMNS]);
            assert_eq!(y.elements::<f32>().unwrap(), linear_reference(&x));
        }
    }
}

#[test]
fn sessions_on_many_threads_share_an_executable() {
    let device = device::open("host").unwrap();
    let executable = Executable::load(&artifact(linear_plan()), &linear_weights(), &device).unwrap();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let executable = &executable;
            scope.spawn(move || {
                let mut session = Session::new(executable);
                for round in 0..50 {
                    let x = numbers(6 * WIDTH, seed * 50 + round);
                    let view = TensorView::new(&[6, WIDTH], &x).unwrap();
                    let outputs = session.run(&[("x", view)], &mut []).unwrap();
                    assert_eq!(outputs.get("y").unwrap().elements::<f32>().unwrap(), linear_reference(&x));
                }
            });
        }
    });
}

#[test]
fn inputs_may_lie_anywhere() {
    let mut session = linear_session(device::open("host").unwrap());
    let x = numbers(2 * WIDTH, 5);
    for offset in 0..8 {
        let bytes = [vec![0; offset], floats(&x)].concat();
        let view = TensorView::from_bytes(ElementType::F32, &[2, WIDTH], &bytes[offset..]).unwrap();
        let outputs = session.run(&[("x", view)], &mut []).unwrap();
        assert_eq!(outputs.get("y").unwrap().elements::<f32>().unwrap(), linear_reference(&x));
    }
}

#[test]
fn a_profile_names_each_launch_that_ran() {
    let mut session = linear_session(device::open("host").unwrap());
    let x = numbers(2 * WIDTH, 0);
    let times = session.profile(&[("x", TensorView::new(&[2, WIDTH], &x).unwrap())], &mut []).unwrap();
    let names: Vec<_> = times.iter().map(|time| (time.kernel.as_str(), time.label.as_str())).collect();
    assert_eq!(names, [("scale_add", "scale + add (bias)"), ("matmul", "matmul (weight), 0 to 4 tokens")]);
}

#[test]
fn weights_are_used_where_they_are_mapped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let (bias, weight) = (floats(&numbers(WIDTH, 1)), floats(&numbers(COLUMNS * WIDTH, 2)));
    let view = |shape: &[u64], bytes| {
        let shape = shape.iter().map(|size| *size as usize).collect();
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, bytes).unwrap()
    };
    let tensors = [("bias", view(&[WIDTH], &bias)), ("weight", view(&[COLUMNS, WIDTH], &weight))];
    safetensors::tensor::serialize_to_file(tensors, None, &path).unwrap();
    let weights = Weights::open(&path).unwrap();
    let device = device::open("host").unwrap();
    let mut session = Session::new(&Executable::load(&artifact(linear_plan()), &weights, &device).unwrap());
    // The executable keeps the mapping, and the mapping the file's contents.
    drop(weights);
    drop(folder);
    let x = numbers(3 * WIDTH, 9);
    let outputs = session.run(&[("x", TensorView::new(&[3, WIDTH], &x).unwrap())], &mut []).unwrap();
    assert_eq!(outputs.get("y").unwrap().elements::<f32>().unwrap(), linear_reference(&x));
}

/// Counts, for every program of a grid, how often it runs.
fn counting_plan(partition: Partition) -> Plan {
    let mut plan = Plan::new("count", "main");
    let sizes = ["X", "Y", "Z"].map(|name| Extent::symbol(plan.intern_symbol(name)));
    plan.inputs.push(tensor("shape", ElementType::U8, sizes.clone()));
    let counts = TensorSpecification { name: "counts".into(), element: ElementType::I32, shape: sizes.to_vec() };
    plan.outputs.push(counts);
    plan.kernels.push(kernel("count", "b", partition));
    plan.launches.push(Launch {
        kernel: 0,
        grid: sizes,
        arguments: vec![Argument::buffer(BufferReference::Output(0))],
        guard: None,
        label: "count".into(),
    });
    plan
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn every_program_runs_exactly_once(
        threads in 1..5usize, grain in 1..40u64, dynamic in any::<bool>(), x in 1..60u64, y in 1..6u64, z in 1..4u64,
    ) {
        let balance = if dynamic { Balance::Dynamic } else { Balance::Static };
        let device: Arc<dyn Device> = Host::with_threads(threads).unwrap();
        let artifact = artifact(counting_plan(Partition { grain, balance }));
        let mut session = Session::new(&Executable::load(&artifact, &Weights::in_memory(), &device).unwrap());
        let shape = vec![0u8; (x * y * z) as usize];
        for run in 1..4 {
            // Output memory is zero at first and kept from run to run, so the counts add up.
            let view = TensorView::new(&[x, y, z], &shape).unwrap();
            let outputs = session.run(&[("shape", view)], &mut []).unwrap();
            let counts = outputs.get("counts").unwrap();
            prop_assert!(counts.elements::<i32>().unwrap().iter().all(|count| *count == run));
        }
    }
}
