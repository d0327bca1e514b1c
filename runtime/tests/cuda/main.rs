//! The CUDA device on a driver made for the test (`driver.c`).
//!
//! A process can have one driver, so this program compiles the driver, then starts itself again for each of its checks, with the
//! driver's folder first in the loader's path; a real driver on the same machine does not come into it.

#[path = "../runtime/fixture.rs"]
#[allow(dead_code, reason = "the other tests use the rest of it")]
mod fixture;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tessera_runtime::Artifact;
use tessera_runtime::artifact::{Code, Target};
use tessera_runtime::device::{self, Device};
use tessera_runtime::execute::{Executable, Session, TensorView};

use fixture::*;

/// Every check, by name, and whether the driver knows graphs while it runs.
const CHECKS: [(&str, fn(), bool); 6] = [
    ("steps are captured once they repeat", steps_are_captured_once_they_repeat, true),
    ("a driver without graphs serves too", a_driver_without_graphs_serves_too, false),
    ("what was loaded is unloaded", what_was_loaded_is_unloaded, true),
    ("the driver's compiler is quoted", the_drivers_compiler_is_quoted, true),
    ("shared memory is asked for", shared_memory_is_asked_for, true),
    ("the emulated chip is chosen", the_emulated_chip_is_chosen, true),
];

const CHECK_VARIABLE: &str = "TESSERA_TEST_CHECK";

fn main() {
    if let Ok(wanted) = std::env::var(CHECK_VARIABLE) {
        let check = CHECKS.iter().find(|check| check.0 == wanted).expect("a check of that name");
        return check.1();
    }
    // The harness's own arguments are of no use here, but a list of tests may be asked for.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    compile_driver(folder.path());
    let mut failed = Vec::new();
    for (name, _, graphs) in CHECKS {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(CHECK_VARIABLE, name).env("LD_LIBRARY_PATH", folder.path());
        command.env("TESSERA_LIBCUDA", folder.path().join("libcuda.so.1"));
        if !graphs {
            command.env("TEST_DRIVER_WITHOUT_GRAPHS", "1");
        }
        let passed = command.status().unwrap().success();
        println!("cuda: {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}

fn compile_driver(folder: &Path) {
    let library = folder.join("libcuda.so.1");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cuda/driver.c");
    let options = ["-O1", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o"];
    let status = Command::new("cc").args(options).arg(&library).arg(source).status();
    assert!(status.expect("cc is needed for these tests").success());
    // The name that cudarc looks for first.
    std::os::unix::fs::symlink(&library, folder.join("libcuda.so")).unwrap();
}

/// The driver's counts: allocations alive, kernels launched singly, graphs launched, modules loaded.
fn counts() -> [i64; 4] {
    // SAFETY: the library is loaded, and its symbol is an array of four numbers.
    unsafe {
        let library = libloading::Library::new("libcuda.so.1").unwrap();
        **library.get::<*const [i64; 4]>(b"driver_counts").unwrap()
    }
}

fn cuda_artifact(change: impl FnOnce(&mut tessera_runtime::plan::Plan, &mut BTreeMap<String, String>)) -> Artifact {
    let mut plan = linear_plan();
    for kernel in &mut plan.kernels {
        kernel.block_threads = 128;
    }
    let mut ptx = ["scale_add", "matmul"].map(|name| (name.to_string(), format!("// {name}"))).into();
    change(&mut plan, &mut ptx);
    let target = Target::Cuda { architecture: "sm_80".into() };
    Artifact::new("test", target, vec![plan], Code::Ptx(ptx), vec![]).unwrap()
}

fn load(artifact: &Artifact) -> Result<Executable, String> {
    let device = device::open("cuda:0").map_err(|error| error.to_string())?;
    Executable::load(artifact, &linear_weights(), &device).map_err(|error| error.to_string())
}

fn run(session: &mut Session, tokens: u64, seed: u64) {
    let x = numbers(tokens * WIDTH, seed);
    let outputs = session.run(&[("x", TensorView::new(&[tokens, WIDTH], &x).unwrap())], &mut []).unwrap();
    assert_eq!(outputs.get("y").unwrap().elements::<f32>().unwrap(), linear_reference(&x));
}

fn steps_are_captured_once_they_repeat() {
    let mut session = Session::new(&load(&cuda_artifact(|_, _| {})).unwrap());
    let launched = |session: &mut Session, tokens| {
        let before = counts();
        run(session, tokens, before[1] as u64);
        let after = counts();
        (after[1] - before[1], after[2] - before[2])
    };
    // New shapes are launched one by one, and captured when they come back. Inputs are copied to the same place each time.
    assert_eq!(launched(&mut session, 40), (2, 0));
    assert_eq!(launched(&mut session, 1), (2, 0));
    assert_eq!(launched(&mut session, 1), (0, 1));
    assert_eq!(launched(&mut session, 1), (0, 1));
    assert_eq!(launched(&mut session, 40), (0, 1));
    assert_eq!(launched(&mut session, 1), (0, 1));
    // A larger shape moves the buffers, so that the graphs no longer hold.
    assert_eq!(launched(&mut session, 400), (2, 0));
    assert_eq!(launched(&mut session, 1), (2, 0));
    assert_eq!(launched(&mut session, 1), (0, 1));

    let x = numbers(WIDTH, 0);
    let times = session.profile(&[("x", TensorView::new(&[1, WIDTH], &x).unwrap())], &mut []).unwrap();
    assert_eq!(times.iter().map(|time| time.time.as_micros()).collect::<Vec<_>>(), [250, 250]);
}

fn a_driver_without_graphs_serves_too() {
    let mut session = Session::new(&load(&cuda_artifact(|_, _| {})).unwrap());
    for seed in 0..5 {
        run(&mut session, 3, seed);
    }
    assert_eq!(counts()[1..3], [10, 0]);
}

fn what_was_loaded_is_unloaded() {
    let executable = load(&cuda_artifact(|_, _| {})).unwrap();
    let mut session = Session::new(&executable);
    run(&mut session, 3, 1);
    // Two weights, arena, input and output.
    assert_eq!((counts()[0], counts()[3]), (5, 2));
    let other = std::thread::spawn(move || run(&mut session, 3, 2));
    other.join().unwrap();
    drop(executable);
    assert_eq!((counts()[0], counts()[3]), (0, 0));
}

fn the_drivers_compiler_is_quoted() {
    let artifact = cuda_artifact(|_, ptx| {
        ptx.insert("matmul".into(), "mistake".into());
    });
    assert_eq!(
        load(&artifact).unwrap_err(),
        "the driver refuses the PTX of kernel `matmul`: CUDA_ERROR_INVALID_PTX (as the test's driver says)\n\
         line 1: unknown instruction `mistake`"
    );
    let artifact = cuda_artifact(|plan, ptx| {
        plan.kernels[0].name = "absent".into();
        ptx.insert("absent".into(), String::new());
    });
    assert!(load(&artifact).unwrap_err().starts_with("loading kernel `absent` failed: CUDA_ERROR_OTHER"));
    assert_eq!(counts()[3], 0);
}

fn shared_memory_is_asked_for() {
    let wants = |bytes| cuda_artifact(|plan, _| plan.kernels[1].dynamic_shared_bytes = bytes);
    run(&mut Session::new(&load(&wants(100 << 10)).unwrap()), 3, 1);
    let message = load(&wants(200 << 10)).unwrap_err();
    assert!(message.starts_with("kernel `matmul` needs 204800 bytes of shared memory a block, the GPU has 166912"));
}

fn the_emulated_chip_is_chosen() {
    let device: Arc<dyn Device> = device::open("emulated:sm_90a").unwrap();
    assert_eq!(device.description(), "Test GPU, compute capability 9.0");
    assert_eq!(device.name(), "emulated:sm_90a");
    let message = device::open("emulated:sm_80").unwrap_err().to_string();
    assert!(message.starts_with("the emulated driver cannot be a `sm_80`"), "{message}");
    let artifact = cuda_artifact(|_, _| {});
    let executable = Executable::load(&artifact, &linear_weights(), &device).unwrap();
    run(&mut Session::new(&executable), 7, 7);
    let message = device::open("cuda:3").unwrap_err().to_string();
    assert_eq!(message, "there is no GPU 3: this machine has 1");
}
