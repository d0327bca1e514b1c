//! What a kernel launch costs on the host: a plan of launches that do nothing.
//!
//! The criterion throughput is launches a second; the budget is 5 µs a launch.

#![allow(missing_docs, reason = "criterion's macros generate undocumented items")]

use std::process::Command;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tessera_runtime::artifact::{Artifact, Code, Target};
use tessera_runtime::execute::{Executable, Session, TensorView};
use tessera_runtime::host::Host;
use tessera_runtime::plan::{
    Argument, Balance, BufferReference, ElementType, Extent, Kernel, Launch, ParameterKind, Partition, Plan,
    TensorSpecification,
};
use tessera_runtime::weights::Weights;

const LAUNCHES: u64 = 200;

/// A kernel of one instruction, as a shared object.
fn library() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, object) = (folder.path().join("nothing.c"), folder.path().join("host.so"));
    let text = "void nothing(const void *a, unsigned long b, unsigned long e, void *s) {}";
    std::fs::write(&source, text).expect("a source file");
    let status = Command::new("cc").args(["-O2", "-shared", "-fPIC", "-o"]).arg(&object).arg(&source).status();
    assert!(status.expect("cc").success());
    std::fs::read(object).expect("a shared object")
}

/// [`LAUNCHES`] launches of `grid` programs, shared out by `partition`.
fn artifact(grid: u64, partition: Partition) -> Artifact {
    let mut plan = Plan::new("launch", "main");
    let tokens = Extent::symbol(plan.intern_symbol("T"));
    plan.inputs.push(TensorSpecification { name: "x".into(), element: ElementType::F32, shape: vec![tokens.clone()] });
    plan.kernels.push(Kernel {
        name: "nothing".into(),
        hash: String::new(),
        parameters: vec![ParameterKind::Buffer, ParameterKind::Integer],
        partition,
        block_threads: 1,
        dynamic_shared_bytes: 0,
        scratch_bytes: 0,
    });
    for _ in 0..LAUNCHES {
        plan.launches.push(Launch {
            kernel: 0,
            grid: [grid.into(), 1.into(), 1.into()],
            arguments: vec![Argument::buffer(BufferReference::Input(0)), Argument::Integer(tokens.clone())],
            guard: None,
            label: "nothing".into(),
        });
    }
    let target = Target::Host { architecture: std::env::consts::ARCH.into(), features: vec![] };
    Artifact::new("bench", target, vec![plan], Code::Host(library()), vec![]).expect("a valid artifact")
}

fn launches(criterion: &mut Criterion) {
    let host = Host::shared().expect("a thread pool");
    let threads = host.threads() as u64;
    let mut group = criterion.benchmark_group("host launch");
    group.throughput(Throughput::Elements(LAUNCHES));
    let equal = Partition { grain: 1, balance: Balance::Static };
    let chunks = Partition { grain: 1, balance: Balance::Dynamic };
    for (name, grid, partition) in [
        ("one thread".to_string(), 1, equal),
        (format!("{threads} threads, equal shares"), 64, equal),
        (format!("{threads} threads, 64 chunks"), 64, chunks),
    ] {
        let device: std::sync::Arc<dyn tessera_runtime::device::Device> = host.clone();
        let executable =
            Executable::load(&artifact(grid, partition), &Weights::in_memory(), &device).expect("it loads");
        let mut session = Session::new(&executable);
        let x = [0f32; 4];
        group.bench_function(name, |bencher| {
            bencher.iter(|| session.run(&[("x", TensorView::vector(&x))], &mut []).map(|_| ()));
        });
    }
    // What a whole call costs when there is nothing to launch: names, shapes, addresses.
    let (device, plan) = (host as _, Plan::new("empty", "main"));
    let target = Target::Host { architecture: std::env::consts::ARCH.into(), features: vec![] };
    let empty = Artifact::new("bench", target, vec![plan], Code::Host(vec![]), vec![]).expect("a valid artifact");
    let executable = Executable::load(&empty, &Weights::in_memory(), &device).expect("it loads");
    let mut session = Session::new(&executable);
    group.throughput(Throughput::Elements(1));
    group.bench_function("empty call", |bencher| bencher.iter(|| session.run(&[], &mut []).map(|_| ())));
    group.finish();
}

criterion_group!(benches, launches);
criterion_main!(benches);
