//! Benches: each figure is measured beside what it is compared with, in one run.

use std::hint::black_box;
use std::time::{Duration, Instant};

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

/// Reads a buffer that is larger than the caches with all threads, each its own contiguous part: what a kernel that only streams
/// weights could reach on this machine at this moment.
pub struct BandwidthProbe {
    data: Vec<u64>,
    threads: usize,
}

impl BandwidthProbe {
    /// A probe of `bytes` bytes.
    pub fn new(bytes: usize, threads: usize) -> BandwidthProbe {
        // Written, so that every page is memory of its own.
        BandwidthProbe { data: (0..bytes as u64 / 8).collect(), threads }
    }

    /// One pass over the buffer, in bytes per second.
    pub fn bytes_per_second(&self) -> f64 {
        let part = self.data.len().div_ceil(self.threads);
        let elapsed = time(|| {
            std::thread::scope(|scope| {
                for part in self.data.chunks(part) {
                    scope.spawn(move || black_box(sum(part)));
                }
            });
        });
        (self.data.len() * 8) as f64 / elapsed.as_secs_f64()
    }
}

/// Sums with as many independent lanes as keep the loads of a core busy.
fn sum(values: &[u64]) -> u64 {
    let mut lanes = [0u64; 64];
    for chunk in values.as_chunks::<64>().0 {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*value);
        }
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}
