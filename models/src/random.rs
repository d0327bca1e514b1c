//! Random numbers that depend on nothing but a key and a counter: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers:
//! as easy as 1, 2, 3").
//!
//! The weight at index i of tensor `name` is a function of seed, name and i alone, so that tensors can be made in any order, on
//! any number of threads, and in parts.

use rayon::prelude::*;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The block of four words that Philox4x32-10 makes of a counter and a key.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let left = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let right = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (right >> 32) as u32 ^ counter[1] ^ key[0],
            right as u32,
            (left >> 32) as u32 ^ counter[3] ^ key[1],
            left as u32,
        ];
    }
    counter
}

/// A stream of normal variates, addressed by index.
#[derive(Debug, Clone, Copy)]
pub struct NormalStream {
    key: [u32; 2],
    stream: [u32; 2],
    deviation: f64,
}

impl NormalStream {
    /// The stream of `name` under `seed`, with mean 0 and this standard deviation.
    pub fn new(seed: u64, name: &str, deviation: f64) -> Self {
        let hash = blake3::hash(name.as_bytes());
        let word =
            |at: usize| hash.as_bytes()[at..at + 4].iter().rev().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
        Self { key: [seed as u32, (seed >> 32) as u32], stream: [word(0), word(4)], deviation }
    }

    /// Fills `values` with the variates `start`, `start + 1`, …
    pub fn fill(&self, start: u64, values: &mut [f32]) {
        let skipped = (start % LANES) as usize;
        let (head, rest) = values.split_at_mut(values.len().min((LANES as usize - skipped) % LANES as usize));
        let block = start / LANES;
        if !head.is_empty() {
            head.copy_from_slice(&self.block(block)[skipped..skipped + head.len()]);
        }
        let next = if skipped == 0 { block } else { block + 1 };
        for (offset, lanes) in rest.chunks_mut(LANES as usize).enumerate() {
            lanes.copy_from_slice(&self.block(next + offset as u64)[..lanes.len()]);
        }
    }

    /// `count` bytes of the stream, each through a function: uniform, and of no deviation.
    pub fn bytes(&self, count: usize, function: impl Fn(u8) -> u8 + Sync) -> Vec<u8> {
        const BLOCK: usize = 16;
        let mut bytes = vec![0; count];
        bytes.par_chunks_mut(BLOCK << 12).enumerate().for_each(|(chunk, bytes)| {
            for (block, bytes) in bytes.chunks_mut(BLOCK).enumerate() {
                let index = (chunk << 12 | block) as u64;
                let words = philox([index as u32, (index >> 32) as u32, self.stream[0], self.stream[1]], self.key);
                let drawn = words.into_iter().flat_map(u32::to_le_bytes);
                bytes.iter_mut().zip(drawn).for_each(|(byte, drawn)| *byte = function(drawn));
            }
        });
        bytes
    }

    /// The four variates of one Philox block.
    fn block(&self, index: u64) -> [f32; LANES as usize] {
        let words = philox([index as u32, (index >> 32) as u32, self.stream[0], self.stream[1]], self.key);
        // Box and Muller's transform. The uniforms are in (0, 1], so that the logarithm is finite.
        let unit = |word: u32| (f64::from(word) + 1.0) / 4294967296.0;
        let pair = |radius: u32, angle: u32| {
            let radius = self.deviation * (-2.0 * unit(radius).ln()).sqrt();
            let (sine, cosine) = (std::f64::consts::TAU * unit(angle)).sin_cos();
            [(radius * cosine) as f32, (radius * sine) as f32]
        };
        let ([first, second], [third, fourth]) = (pair(words[0], words[1]), pair(words[2], words[3]));
        [first, second, third, fourth]
    }
}

/// Variates in one Philox block.
const LANES: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that come with the authors' Random123.
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn a_stream_is_normal_and_addressed_by_index() {
        let stream = NormalStream::new(7, "h.0.weight", 0.02);
        let mut values = vec![0.0; 40_000];
        stream.fill(0, &mut values);
        for (start, count) in [(39_990, 10), (1, 2), (3, 1), (5, 9), (8, 8), (0, 3)] {
            let mut part = vec![0.0; count];
            stream.fill(start as u64, &mut part);
            assert_eq!(part, values[start..start + count]);
        }

        let moment =
            |power: i32| values.iter().map(|value| (f64::from(*value) / 0.02).powi(power)).sum::<f64>() / 40_000.0;
        assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.03 && (moment(4) - 3.0).abs() < 0.2);
        for other in [NormalStream::new(7, "h.1.weight", 0.02), NormalStream::new(8, "h.0.weight", 0.02)] {
            let mut first = [0.0];
            other.fill(0, &mut first);
            assert_ne!(first[0], values[0]);
        }
    }
}
