//! The PTX emulator on one core: instructions of threads a second, and products beside what the core itself can multiply.

#![allow(missing_docs, reason = "criterion's macros generate undocumented items")]

use std::fmt::Write;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ptx_emulator::decode::Module;
use ptx_emulator::machine::grid::{Grid, Limits, Summary};
use ptx_emulator::memory::global::Memory;
use ptx_emulator::tensor_core::accumulation::Accumulation;
use tessera_benches::{fused_multiply_add_peak, median, time};

const ROUNDS: usize = 9;

/// A kernel with the launch that is measured.
struct Launch {
    module: Module,
    memory: Arc<Memory>,
    entry: &'static str,
    extent: u32,
    block: u32,
    shared: u32,
    parameters: Vec<u8>,
    core: rayon::ThreadPool,
}

impl Launch {
    fn new(source: &str, entry: &'static str, extent: u32, block: u32, shared: u32) -> Launch {
        let memory = Arc::new(Memory::default());
        let module = Module::load("bench.ptx", source, &memory, 0).expect("a module");
        let core = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
        Launch { module, memory, entry, extent, block, shared, parameters: vec![], core }
    }

    /// Memory filled with a 16-bit pattern, passed as the next parameter.
    fn buffer(&mut self, halves: usize, pattern: u16) -> u64 {
        let address = self.memory.allocate(2 * halves as u64, Some(0)).expect("memory");
        self.memory.view().copy_in(address, &pattern.to_le_bytes().repeat(halves)).expect("a buffer");
        self.parameters.extend(address.to_le_bytes());
        address
    }

    fn run(&self) -> Summary {
        let grid = Grid {
            kernel: self.module.kernel(self.entry).expect("the kernel"),
            extent: [self.extent, 1, 1],
            block: [self.block, 1, 1],
            cluster: [1; 3],
            dynamic_shared: self.shared,
            parameters: self.parameters.clone(),
            memory: self.memory.view(),
            multiprocessors: 132,
            seed: 0,
            accumulation: Accumulation::Once,
            limits: Limits::NONE,
        };
        self.core.install(|| grid.run()).unwrap_or_else(|fault| panic!("{fault}"))
    }
}

fn module(target: &str, body: &str) -> String {
    format!(
        ".version 8.8\n.target {target}\n.address_size 64\n.visible .entry k() {{\n\
         .reg .pred %p<8>; .reg .b32 %r<64>; .reg .f32 %f<300>; .reg .b64 %rd<16>;\n{body}\nret; }}"
    )
}

/// A loop over a body, `count` times.
fn repeated(before: &str, count: u32, body: &str) -> String {
    format!(
        "{before}\nmov.u32 %r0, 0;\nAGAIN:\n{body}\nadd.u32 %r0, %r0, 1;\nsetp.lt.u32 %p0, %r0, {count};\n@%p0 bra AGAIN;"
    )
}

/// Integer and floating-point arithmetic on registers, as an address computation and a polynomial have it.
fn arithmetic() -> Launch {
    let before = "mov.u32 %r1, %tid.x; mov.u32 %r2, 7; mov.u32 %r3, 13; cvt.rn.f32.u32 %f1, %r1; mov.f32 %f2, 0f3F000000; mov.f32 %f3, 0f3F800000;";
    let mut body = String::new();
    for _ in 0..4 {
        body.push_str(
            "mad.lo.s32 %r4, %r1, %r2, %r3; xor.b32 %r5, %r4, %r1; shl.b32 %r6, %r5, 3; add.s32 %r1, %r6, %r4;\n\
             fma.rn.f32 %f4, %f1, %f2, %f3; mul.f32 %f5, %f4, %f2; add.f32 %f6, %f5, %f3; fma.rn.f32 %f1, %f6, %f2, %f4;\n\
             setp.lt.s32 %p1, %r1, %r4; selp.b32 %r2, %r4, %r3, %p1; max.f32 %f3, %f4, %f6; and.b32 %r3, %r5, 255;\n",
        );
    }
    Launch::new(&module("sm_80", &repeated(before, 2000, &body)), "k", 8, 256, 0)
}

/// `mma.sync` on registers alone: eight tiles of 16 × 8 over a depth of 16.
fn fragments() -> Launch {
    let mut before = String::from("mov.u32 %r1, 0x3c003c10;");
    for register in 2..8 {
        let _ = write!(before, "add.u32 %r{register}, %r1, {register};");
    }
    let mut body = String::new();
    for tile in 0..8 {
        let sums: Vec<String> = (0..4).map(|at| format!("%f{}", 4 * tile + at)).collect();
        let sums = sums.join(", ");
        let _ = writeln!(
            body,
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {{{sums}}}, {{%r1, %r2, %r3, %r4}}, {{%r5, %r6}}, {{{sums}}};"
        );
    }
    Launch::new(&module("sm_80", &repeated(&before, 1000, &body)), "k", 1, 128, 0)
}

/// `wgmma` on tiles in shared memory: 64 × 256 over a depth of 64, with 128-byte swizzle.
fn warpgroups() -> Launch {
    let before = "mov.u32 %r1, %tid.x; shl.b32 %r1, %r1, 2; mov.u32 %r2, 0x3c003c10;\n\
        FILL: st.shared.u32 [%r1], %r2; add.u32 %r1, %r1, 512; setp.lt.u32 %p1, %r1, 40960; @%p1 bra FILL;\n\
        fence.proxy.async; bar.sync 0;\n\
        mov.b64 %rd1, 0x4000004000000000; mov.b64 %rd2, 0x4000004000000200;";
    let sums = (0..128).map(|at| format!("%f{at}")).collect::<Vec<_>>().join(", ");
    let mut body = String::from("wgmma.fence.sync.aligned;\n");
    for step in 0..4 {
        let _ = writeln!(
            body,
            "add.u64 %rd3, %rd1, {0}; add.u64 %rd4, %rd2, {0};\n\
             wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {{{sums}}}, %rd3, %rd4, 1, 1, 1, 0, 0;",
            2 * step
        );
    }
    body.push_str("wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;\n");
    Launch::new(&module("sm_90a", &repeated(before, 20, &body)), "k", 1, 128, 40960)
}

const M: usize = 256;
const N: usize = 256;
const K: usize = 1024;

/// A whole kernel that Triton compiled: copies, addresses, barriers and products.
fn whole(source: &str, shared: u32) -> Launch {
    let tiles = (M / 128) * (N / 128);
    let mut launch = Launch::new(source, "matmul", tiles as u32, 256, shared);
    const ONE: u16 = 0x3f80;
    launch.buffer(M * K, ONE);
    launch.buffer(K * N, ONE);
    let result = launch.buffer(M * N, 0);
    for integer in [M, N, K, K, N, N] {
        launch.parameters.extend((integer as u32).to_le_bytes());
    }
    launch.parameters.extend([0; 16]);
    launch.run();
    let mut last = [0; 2];
    launch.memory.view().copy_out(result + 2 * (M * N) as u64 - 2, &mut last).expect("the result");
    // 1024 in bfloat16.
    assert_eq!(u16::from_le_bytes(last), 0x4480);
    launch
}

fn instructions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("emulator");
    group.sample_size(10);
    let launch = arithmetic();
    let count = 32 * launch.run().warp_instructions;
    let mut rates: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            count as f64
                / time(|| {
                    launch.run();
                })
                .as_secs_f64()
        })
        .collect();
    println!("integers and floats: {:.0} million instructions of threads a second", median(&mut rates) * 1e-6);
    group.throughput(Throughput::Elements(count));
    group.bench_function("integers and floats", |bencher| bencher.iter(|| launch.run()));
    group.finish();
}

fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("emulator");
    group.sample_size(10);
    let corpus = |name: &str| {
        let path = format!("{}/../tools/ptx-emulator/tests/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).expect("a kernel of the corpus")
    };
    let whole_operations = 2 * M * N * K;
    for (name, launch, operations) in [
        ("mma.sync", fragments(), 1000 * 8 * 4 * 2 * 16 * 8 * 16),
        ("wgmma", warpgroups(), 20 * 4 * 2 * 64 * 256 * 16),
        ("a kernel with mma.sync", whole(&corpus("matmul_bf16_ptr.sm80.ptx"), 65536), whole_operations),
        ("a kernel with wgmma", whole(&corpus("matmul_bf16_ptr.sm90.ptx"), 98304), whole_operations),
        ("a kernel with tcgen05.mma", whole(&corpus("matmul_bf16_ptr.sm100.ptx"), 98320), whole_operations),
    ] {
        let (mut rates, mut shares) = (vec![], vec![]);
        for _ in 0..ROUNDS {
            let rate = operations as f64
                / time(|| {
                    launch.run();
                })
                .as_secs_f64();
            rates.push(rate);
            shares.push(rate / fused_multiply_add_peak(1));
        }
        let (rate, share) = (median(&mut rates) * 1e-9, 100.0 * median(&mut shares));
        println!("{name}, bf16: {rate:.1} GFLOP/s, {share:.0} % of the core's f32 FMA peak");
        group.throughput(Throughput::Elements(operations as u64));
        group.bench_function(name, |bencher| bencher.iter(|| launch.run()));
    }
    group.finish();
}

criterion_group!(benches, instructions, products);
criterion_main!(benches);
