//! Benches: each figure is measured beside what it is compared with, in one run.

pub mod language_model;

use std::hint::black_box;
use std::time::{Duration, Instant};

use memmap2::MmapMut;

/// Median of samples.
///
/// # Panics
/// If there is none.
pub fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// How long a closure takes.
pub fn time(mut work: impl FnMut()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Reads as many bytes as a model reads at each step with all threads, each its own contiguous part: what a kernel that only streams weights
/// could reach on this machine at this moment. Of the same size and read as many times in a row, it finds as much of itself in a shared
/// last-level cache as the model does.
pub struct BandwidthProbe {
    map: MmapMut,
    threads: usize,
}

impl BandwidthProbe {
    /// A probe of at least `bytes` bytes.
    ///
    /// # Panics
    /// If there is no memory for it.
    pub fn new(bytes: usize, threads: usize) -> BandwidthProbe {
        let size = bytes.next_multiple_of(PART * threads);
        let mut map = MmapMut::map_anon(size).expect("memory for the probe");
        #[cfg(target_os = "linux")]
        // As the runtime asks for its weights; a kernel without huge pages reads both more slowly.
        let _ = map.advise(memmap2::Advice::HugePage);
        // Written, so that every page is memory of its own.
        map.fill(1);
        BandwidthProbe { map, threads }
    }

    /// `passes` passes over the memory, one after the other, in bytes per second.
    pub fn bytes_per_second(&self, passes: usize) -> f64 {
        let elapsed = time(|| {
            std::thread::scope(|scope| {
                for part in self.map.chunks(self.map.len() / self.threads) {
                    scope
                        .spawn(move || (0..passes).map(|_| black_box(sum(black_box(part)))).fold(0, u64::wrapping_add));
                }
            });
        });
        (passes * self.map.len()) as f64 / elapsed.as_secs_f64()
    }
}

/// What a thread's share is a multiple of: huge pages for every stream.
const PART: usize = 4 << 20;

/// Reads two streams side by side, each fetched ahead, which reads faster than one on every machine that was tried.
fn sum(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has AVX-512.
        return unsafe { sum_avx512(bytes) };
    } else if std::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { sum_avx2(bytes) };
    }
    sum_streams(bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum_avx512(bytes: &[u8]) -> u64 {
    sum_streams(bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(bytes: &[u8]) -> u64 {
    sum_streams(bytes)
}

/// Bytes of one stream that are read before the other's.
const BLOCK: usize = 512;
/// Distance of what is fetched ahead.
const AHEAD: usize = 2048;

#[inline(always)]
fn sum_streams(bytes: &[u8]) -> u64 {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let mut lanes = [0u64; BLOCK / 8];
    for (a, b) in first.as_chunks::<BLOCK>().0.iter().zip(second.as_chunks::<BLOCK>().0) {
        for block in [a, b] {
            #[cfg(target_arch = "x86_64")]
            for line in 0..BLOCK / 64 {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                // SAFETY: a hint; the address need not be mapped.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(block.as_ptr().wrapping_add(AHEAD + 64 * line).cast()) };
            }
            for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
                *lane = lane.wrapping_add(u64::from_le_bytes(*word));
            }
        }
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}

/// Floating-point operations per second of independent fused multiply-adds in f32 on so many threads; NaN without AVX-512.
pub fn fused_multiply_add_peak(threads: usize) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        const STEPS: usize = 200_000;
        let elapsed = time(|| {
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    // SAFETY: the feature was detected.
                    scope.spawn(|| unsafe { multiply_adds(STEPS) });
                }
            });
        });
        return (threads * STEPS * 12 * 32) as f64 / elapsed.as_secs_f64();
    }
    f64::NAN
}

/// `steps` times twelve independent fused multiply-adds of 16 lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn multiply_adds(steps: usize) {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps};
    let mut sums = [_mm512_set1_ps(1.0); 12];
    let (a, b) = (_mm512_set1_ps(0.5), _mm512_set1_ps(0.25));
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, a, b);
        }
    }
    std::hint::black_box(sums.map(|sum| _mm512_reduce_add_ps(sum)));
}
