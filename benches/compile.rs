//! Compile times as a user sees them: the whole `tesserac` process, cold and from its cache.
//!
//! Needs `cargo build --release -p tesserac`.

#![allow(missing_docs, reason = "criterion's macros generate undocumented items")]

use std::path::{Path, PathBuf};
use std::process::Command;

use criterion::{Criterion, criterion_group, criterion_main};
use tessera_benches::time;
use tessera_models::gpt::{self, GptConfig};
use tessera_models::gpt2::{self, Gpt2Config, Gpt2Layout};

/// The release `tesserac` beside this bench.
fn tesserac() -> PathBuf {
    let bench = std::env::current_exe().expect("the path of the bench");
    let program = bench.ancestors().nth(2).expect("target/release").join("tesserac");
    assert!(program.is_file(), "no {}: run `cargo build --release -p tesserac` first", program.display());
    program
}

fn run(program: &Path, ir: &Path, target: &str, cache: &Path, anew: bool) {
    let out = cache.join("out.tsr");
    let mut command = Command::new(program);
    command
        .arg("compile")
        .arg(ir)
        .arg("-o")
        .arg(out)
        .args(["--quiet", "--target", target])
        .env("XDG_CACHE_HOME", cache);
    if anew {
        command.arg("--no-cache");
    }
    let output = command.output().expect("tesserac starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn compile(criterion: &mut Criterion) {
    let program = tesserac();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("an IR file");
        path
    };
    let small = gpt2::build(&Gpt2Config::small(), &Gpt2Layout::default()).expect("GPT-2");
    let small = write("gpt2.ir", small.to_string());
    let layers = |count| gpt::build(&GptConfig { n_layers: count, ..GptConfig::default() }).expect("the seed's GPT");
    let (four, all) = (write("gpt-4.ir", layers(4).to_string()), write("gpt-96.ir", layers(96).to_string()));

    let mut group = criterion.benchmark_group("compile");
    group.sample_size(10);
    for target in ["host", "sm_80", "sm_90a"] {
        group.bench_function(format!("gpt2-124m {target} cold"), |bencher| {
            bencher.iter(|| run(&program, &small, target, folder.path(), true));
        });
        run(&program, &small, target, folder.path(), false);
        group.bench_function(format!("gpt2-124m {target} warm"), |bencher| {
            bencher.iter(|| run(&program, &small, target, folder.path(), false));
        });
    }
    group.finish();

    for target in ["host", "sm_80"] {
        let mut ratios: Vec<f64> = (0..5)
            .map(|_| {
                let few = time(|| run(&program, &four, target, folder.path(), true));
                time(|| run(&program, &all, target, folder.path(), true)).as_secs_f64() / few.as_secs_f64()
            })
            .collect();
        println!("gpt-120b {target}: 96 layers take {:.2} times what 4 take", tessera_benches::median(&mut ratios));
    }
}

criterion_group!(benches, compile);
criterion_main!(benches);
