//! Matrix products of the host target by themselves: few rows beside the read bandwidth of the same moment, many rows beside the FMA peak.

#![allow(missing_docs, reason = "criterion's macros generate undocumented items")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;
use tessera_benches::{BandwidthProbe, fused_multiply_add_peak, median, time};
use tessera_compiler::target::host::{CpuFeatures, HostOptions, compile};
use tessera_compiler::tile::{Access, Builder, Coordinate, Dimension, Element, GridExtent, Program};

const THREADS: usize = 2;
const ROUNDS: usize = 15;

/// y[M,N] = x[M,K] · w, with w stored [K,N] or, transposed, [N,K], and the tiles that a program takes.
#[derive(Clone, Copy)]
struct Product {
    name: &'static str,
    element: Element,
    rows: u32,
    inner: u32,
    columns: u32,
    transposed: bool,
    tile: [u32; 2],
}

const STREAMED: [Product; 4] = [
    product("gemv f32 [K,N]", Element::F32, [1, 768, 2304], false, [1, 1152]),
    product("gemv f32 [N,K]", Element::F32, [1, 768, 2304], true, [1, 1152]),
    product("gemv bf16 [K,N]", Element::BF16, [1, 768, 2304], false, [1, 1152]),
    product("gemv bf16 [N,K]", Element::BF16, [1, 768, 2304], true, [1, 1152]),
];

const BLOCKED: [Product; 4] = [
    product("gemm f32 [K,N]", Element::F32, [512, 768, 2304], false, [96, 320]),
    product("gemm f32 [N,K]", Element::F32, [512, 768, 2304], true, [96, 320]),
    product("gemm bf16 [K,N]", Element::BF16, [512, 768, 2304], false, [128, 384]),
    product("gemm bf16 [N,K]", Element::BF16, [512, 2048, 8192], true, [128, 512]),
];

const fn product(
    name: &'static str,
    element: Element,
    [rows, inner, columns]: [u32; 3],
    transposed: bool,
    tile: [u32; 2],
) -> Product {
    Product { name, element, rows, inner, columns, transposed, tile }
}

impl Product {
    fn program(&self) -> Program {
        let mut b = Builder::new("product");
        let [m, k, n] = [self.rows, self.inner, self.columns].map(|extent| Dimension::Constant(extent.into()));
        let x = b.contiguous("x", self.element, &[m, k], Access::Read);
        let stored = if self.transposed { [n, k] } else { [k, n] };
        let w = b.contiguous("w", self.element, &stored, Access::Read);
        let y = b.contiguous("y", Element::F32, &[m, n], Access::Write);
        let [tile_rows, tile_columns] = self.tile;
        b.grid([
            GridExtent::Tiles { dimension: m, block: tile_rows },
            GridExtent::Tiles { dimension: n, block: tile_columns },
            GridExtent::fixed(1),
        ]);
        let (i, j) = (b.program_id(0), b.program_id(1));
        let (row, column) = (b.scale(i, tile_rows.into()), b.scale(j, tile_columns.into()));
        let zero = b.index(0);
        let down = Coordinate::Block { start: row, length: tile_rows };
        let across = Coordinate::Block { start: column, length: tile_columns };
        let along = Coordinate::Block { start: zero, length: self.inner };
        let lhs = b.load(x, &[down, along]);
        let rhs = if self.transposed {
            let stored = b.load(w, &[across, along]);
            b.transpose(stored)
        } else {
            b.load(w, &[along, across])
        };
        let sums = b.splat(0.0, &self.tile, Element::F32);
        let result = b.dot(lhs, rhs, sums);
        b.store(y, &[down, across], result);
        b.finish()
    }

    fn weight_bytes(&self) -> usize {
        self.inner as usize * self.columns as usize * self.element.bytes()
    }
}

type KernelFunction = unsafe extern "C" fn(*const u64, u64, u64, *mut u8);

/// A compiled product with its operands; of few rows as many right-hand sides as fill 400 MB, so that none is in a cache.
struct Fixture {
    kernel: KernelFunction,
    grid: [u64; 2],
    x: Vec<u8>,
    weights: Vec<u8>,
    layers: usize,
    layer_bytes: usize,
    y: Vec<f32>,
    scratch: Vec<Vec<u64>>,
    _library: libloading::Library,
    _folder: TempDir,
}

impl Fixture {
    fn new(product: &Product) -> Fixture {
        let options = HostOptions { features: CpuFeatures::native().expect("this machine's features") };
        let library = compile(&[product.program()], &options).expect("a library");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("product.so");
        std::fs::write(&path, &library.shared_object).expect("a file");
        // SAFETY: the library was just made and has no initializers; the symbol is a kernel of this ABI.
        let (loaded, kernel) = unsafe {
            let loaded = libloading::Library::new(&path).expect("a loaded library");
            let kernel = *loaded.get::<KernelFunction>(b"product").expect("the kernel");
            (loaded, kernel)
        };
        let layer_bytes = product.weight_bytes();
        let layers = if product.rows <= 8 { 400_000_000 / layer_bytes } else { 1 };
        let words = library.kernels[0].scratch_bytes as usize / 8 + 8;
        let left = (product.rows * product.inner) as usize * product.element.bytes();
        Fixture {
            kernel,
            grid: [product.rows.div_ceil(product.tile[0]), product.columns.div_ceil(product.tile[1])].map(u64::from),
            // Small numbers in every format.
            x: vec![0x3c; left],
            weights: vec![0x3c; layer_bytes * layers],
            layers,
            layer_bytes,
            y: vec![0.0; (product.rows * product.columns) as usize],
            scratch: vec![vec![0; words]; THREADS],
            _library: loaded,
            _folder: folder,
        }
    }

    /// All products, each thread its part of the grid of every one.
    fn run(&mut self) {
        let (kernel, grid, layers, layer_bytes) = (self.kernel, self.grid, self.layers, self.layer_bytes);
        let (x, w, y) = (self.x.as_ptr() as u64, self.weights.as_ptr() as u64, self.y.as_mut_ptr() as u64);
        let programs = grid[0] * grid[1];
        std::thread::scope(|scope| {
            for (thread, scratch) in self.scratch.iter_mut().enumerate() {
                scope.spawn(move || {
                    let part = |thread: usize| programs * thread as u64 / THREADS as u64;
                    let aligned = (scratch.as_mut_ptr() as usize).next_multiple_of(64) as *mut u8;
                    for layer in 0..layers {
                        let slots = [x, w + (layer * layer_bytes) as u64, y, grid[0], grid[1], 1];
                        // SAFETY: operands and scratch live for the scope; threads write parts of their own.
                        unsafe { kernel(slots.as_ptr(), part(thread), part(thread + 1), aligned) };
                    }
                });
            }
        });
    }
}

fn streamed(criterion: &mut Criterion) {
    let probe = BandwidthProbe::new(400_000_000, THREADS);
    let mut group = criterion.benchmark_group("products");
    group.sample_size(10);
    for product in STREAMED {
        let mut fixture = Fixture::new(&product);
        let bytes = (fixture.layers * fixture.layer_bytes) as f64;
        let mut shares = Vec::new();
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            let before = probe.bytes_per_second(1);
            let rate = bytes / time(|| fixture.run()).as_secs_f64();
            let after = probe.bytes_per_second(1);
            rates.push(rate);
            shares.push(rate / ((before + after) / 2.0));
        }
        let (rate, share) = (median(&mut rates) * 1e-9, 100.0 * median(&mut shares));
        println!("{}: {rate:.1} GB/s, {share:.0} % of the read bandwidth", product.name);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(product.name, |bencher| bencher.iter(|| fixture.run()));
    }
    group.finish();
}

fn blocked(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("products");
    group.sample_size(10);
    for product in BLOCKED {
        let mut fixture = Fixture::new(&product);
        let operations = 2.0 * f64::from(product.rows) * f64::from(product.inner) * f64::from(product.columns);
        let mut rates = Vec::new();
        let mut shares = Vec::new();
        for _ in 0..ROUNDS {
            let rate = operations / time(|| fixture.run()).as_secs_f64();
            rates.push(rate);
            shares.push(rate / fused_multiply_add_peak(THREADS));
        }
        let (rate, share) = (median(&mut rates) * 1e-9, 100.0 * median(&mut shares));
        println!("{}: {rate:.0} GFLOP/s, {share:.0} % of the f32 FMA peak", product.name);
        group.throughput(Throughput::Elements(operations as u64));
        group.bench_function(product.name, |bencher| bencher.iter(|| fixture.run()));
    }
    group.finish();
}

criterion_group!(benches, streamed, blocked);
criterion_main!(benches);
