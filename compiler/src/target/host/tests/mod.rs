//! Every kind of program, compiled for each level that this machine runs, against the interpreter.

mod attention;
mod blocks;
mod bytes;
mod elementwise;
mod guarded;
mod kept;
mod library;
mod parts;
mod products;
mod random;
mod reductions;
mod structure;

use guarded::Guarded;

use tessera_runtime::host::CLEARED_SCRATCH_BYTES;

use super::{CpuFeatures, HostLibrary, HostOptions, compile};
use crate::tile::{
    Argument, ArgumentIndex, Dimension, Element, GridExtent, Program,
    interpret::{ArgumentData, TensorData, interpret},
};

/// Largest acceptable error of an element: `absolute` + `relative` · |expected|.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerance {
    pub(super) relative: f64,
    pub(super) absolute: f64,
}

/// Integers, and floats where every step is exact.
pub(super) const EXACT: Tolerance = Tolerance { relative: 0.0, absolute: 0.0 };

/// `count` units in the last place of f32.
pub(super) const fn ulps(count: f64) -> Tolerance {
    Tolerance { relative: count * 1.2e-7, absolute: 1e-37 }
}

/// Levels to test: all that this machine runs.
pub(super) fn levels() -> Vec<CpuFeatures> {
    let native = CpuFeatures::native().unwrap();
    let mut levels: Vec<CpuFeatures> =
        ["x86-64", "x86-64-v3", "x86-64-v4", "x86-64-v4+avx512bf16", "x86-64-v4+avx512vnni"]
            .iter()
            .map(|name| CpuFeatures::parse(name).unwrap())
            .filter(|features| features.runs_on(&native))
            .collect();
    if !levels.contains(&native) {
        levels.push(native);
    }
    levels
}

/// Reproducible numbers without a pattern.
pub(super) struct Numbers(u64);

impl Numbers {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        // Marsaglia's xorshift64*.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Between `low` and `high`.
    pub(super) fn float(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(super) fn floats(&mut self, element: Element, count: usize, low: f64, high: f64) -> ArgumentData {
        let values: Vec<f64> = (0..count).map(|_| self.float(low, high)).collect();
        ArgumentData::Tensor(TensorData::from_floats(element, &values))
    }

    pub(super) fn integers(&mut self, element: Element, count: usize, low: i64, high: i64) -> ArgumentData {
        let values: Vec<i64> = (0..count).map(|_| low + (self.next() % (high - low + 1) as u64) as i64).collect();
        ArgumentData::Tensor(TensorData::from_integers(element, &values))
    }
}

/// A tensor that nothing has written yet.
pub(super) fn unwritten(element: Element, count: usize) -> ArgumentData {
    ArgumentData::Tensor(TensorData::unwritten(element, count))
}

fn grid_of(program: &Program, arguments: &[ArgumentData]) -> [u64; 3] {
    program.grid.map(|GridExtent::Tiles { dimension, block }| {
        let extent = match dimension {
            Dimension::Constant(value) => value,
            Dimension::Argument(ArgumentIndex(index)) => match arguments[index as usize] {
                ArgumentData::Integer(value) => value as u64,
                _ => panic!("grid extents are integers"),
            },
        };
        extent.div_ceil(block.into())
    })
}

type KernelFunction = unsafe extern "C" fn(*const u64, u64, u64, *mut u8);

/// Bytes kept after the scratch, to see whether a kernel writes there.
const MARGIN: usize = 256;

/// Programs compiled for a level and loaded.
pub(super) struct Compiled {
    library: HostLibrary,
    loaded: libloading::Library,
}

impl Compiled {
    pub(super) fn new(programs: &[Program], features: &CpuFeatures) -> Self {
        let library = compile(programs, &HostOptions { features: features.clone() }).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernels.so");
        std::fs::write(&path, &library.shared_object).unwrap();
        // SAFETY: the library was just made and has no initializers.
        let loaded = unsafe { libloading::Library::new(&path) }.unwrap();
        Self { library, loaded }
    }

    /// Runs the program at a position on the whole grid, in two calls that split a row of programs.
    pub(super) fn run(&self, position: usize, program: &Program, arguments: &mut [ArgumentData]) {
        let kernel = &self.library.kernels[position];
        // SAFETY: the symbol is a kernel of this ABI.
        let function: libloading::Symbol<'_, KernelFunction> =
            unsafe { self.loaded.get(kernel.symbol.as_bytes()) }.unwrap();
        let grid = grid_of(program, arguments);
        let mut memories: Vec<Guarded> = Vec::new();
        let mut slots: Vec<u64> = Vec::new();
        for argument in arguments.iter() {
            match argument {
                ArgumentData::Tensor(data) => {
                    let memory = Guarded::new(data.bytes());
                    slots.push(memory.address() as u64);
                    memories.push(memory);
                }
                ArgumentData::Integer(value) => slots.push(*value as u64),
                ArgumentData::Float(value) => slots.push(u64::from(value.to_bits())),
            }
        }
        slots.extend(grid);
        let scratch_bytes = kernel.scratch_bytes as usize;
        // Filled with NaN, so that what is read before it is written shows.
        let mut scratch = vec![0xffu8; scratch_bytes + 64 + MARGIN];
        let start = scratch.as_ptr().align_offset(64);
        scratch[start..][..scratch_bytes.min(CLEARED_SCRATCH_BYTES as usize)].fill(0);
        let count: u64 = grid.iter().product();
        let third = count / 3;
        // A grid of no programs is not launched.
        for (begin, end) in [(0, third), (third, count)].into_iter().filter(|_| count > 0) {
            // SAFETY: slots, tensors and scratch are as the ABI wants them.
            unsafe { function(slots.as_ptr(), begin, end, scratch[start..].as_mut_ptr()) };
        }
        assert!(scratch[start + scratch_bytes..].iter().all(|&byte| byte == 0xff), "wrote beyond its scratch");
        let mut written = memories.into_iter();
        for argument in arguments.iter_mut() {
            if let ArgumentData::Tensor(data) = argument {
                let memory = written.next().unwrap();
                assert!(memory.is_intact_before(), "wrote before a tensor");
                data.bytes_mut().copy_from_slice(memory.bytes());
            }
        }
    }
}

/// Compares what a program computes on each level with the interpreter, all elements of all tensors.
pub(super) fn check(program: &Program, arguments: &[ArgumentData], tolerance: Tolerance) {
    check_all(std::slice::from_ref(program), &[arguments.to_vec()], tolerance);
}

/// As [`check`], of programs that are compiled together.
pub(super) fn check_all(programs: &[Program], arguments: &[Vec<ArgumentData>], tolerance: Tolerance) {
    let expected = programs.iter().zip(arguments).map(|(program, arguments)| {
        let mut expected = arguments.clone();
        interpret(program, &mut expected).unwrap_or_else(|error| panic!("{error}\n{program}"));
        expected
    });
    let expected: Vec<Vec<ArgumentData>> = expected.collect();
    for features in levels() {
        let compiled = Compiled::new(programs, &features);
        for (position, program) in programs.iter().enumerate() {
            let mut actual = arguments[position].clone();
            compiled.run(position, program, &mut actual);
            for ((expected, actual), argument) in expected[position].iter().zip(&actual).zip(&program.arguments) {
                let (Some(expected), Some(actual), Argument::Tensor(_)) =
                    (expected.tensor(), actual.tensor(), argument)
                else {
                    continue;
                };
                compare(expected, actual, tolerance, || {
                    format!("@{} of {} for {}", argument.name(), program.name, features.signature())
                });
            }
        }
    }
}

/// Runs a program natively on arguments that the interpreter has run it on, and compares. Integers must agree; floats to what the order
/// of sums and the error of functions explain.
pub(crate) fn compare_with_interpreter(
    program: &Program,
    mut arguments: Vec<ArgumentData>,
    expected: &[ArgumentData],
    label: &str,
) {
    let features = CpuFeatures::native().unwrap();
    Compiled::new(std::slice::from_ref(program), &features).run(0, program, &mut arguments);
    for ((expected, actual), argument) in expected.iter().zip(&arguments).zip(&program.arguments) {
        let (Some(expected), Some(actual)) = (expected.tensor(), actual.tensor()) else { continue };
        let largest = expected.floats().into_iter().filter(|x| x.is_finite()).fold(0.0f64, |a, b| a.max(b.abs()));
        let relative = match expected.element() {
            Element::F64 => 1e-12,
            Element::F32 => 2e-5,
            Element::F16 => 2e-3,
            Element::BF16 => 1e-2,
            _ => 0.13,
        };
        let tolerance = Tolerance { relative, absolute: relative * largest.min(1e6) };
        compare(expected, actual, tolerance, || format!("{label}: @{} of\n{program}", argument.name()));
    }
}

fn compare(expected: &TensorData, actual: &TensorData, tolerance: Tolerance, what: impl Fn() -> String) {
    let mut wrong = 0;
    let mut first = None;
    let count = expected.len();
    if expected.element().is_float() {
        for (index, (want, got)) in expected.floats().into_iter().zip(actual.floats()).enumerate() {
            let same = want == got || (want.is_nan() && got.is_nan());
            let near = (want - got).abs() <= tolerance.absolute + tolerance.relative * want.abs();
            if !same && !near {
                wrong += 1;
                first.get_or_insert((index, want, got));
            }
        }
    } else {
        for (index, (want, got)) in expected.integers().into_iter().zip(actual.integers()).enumerate() {
            if want != got {
                wrong += 1;
                first.get_or_insert((index, want as f64, got as f64));
            }
        }
    }
    if let Some((index, want, got)) = first {
        panic!("{}: {wrong} of {count} elements are wrong, first [{index}]: expected {want:e}, got {got:e}", what());
    }
}
