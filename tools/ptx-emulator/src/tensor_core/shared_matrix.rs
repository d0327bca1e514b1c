//! Matrices in shared memory, as the descriptors of wgmma and tcgen05 name them.
//!
//! A matrix is made of rows along its M or N dimension and elements along K. Stored K-major, the elements of a row follow each other;
//! stored MN-major, those of a column do. Either way it consists of atoms that the swizzle permutes, which repeat at the
//! descriptor's two strides (PTX ISA 9.7.15.5.1 and 9.7.16.10.6; canonical layouts as CUTLASS writes them).

use super::element::Element;
use crate::asynchronous::tensor_map::Swizzle;
use crate::machine::context::Context;
use crate::machine::fault::FaultKind;
use crate::machine::instruction::Step;
use crate::machine::observer::{Access, Direction};
use crate::memory::access::Space;

/// A descriptor, taken apart. Addresses and strides are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    start: u64,
    leading: u64,
    stride: u64,
    swizzle: Swizzle,
}

impl Descriptor {
    /// Of wgmma.
    pub fn of_warpgroup(bits: u64) -> Descriptor {
        // 1 is the widest swizzle here, 3 the narrowest: the other way round than in tensor maps.
        let mode = match bits >> 62 {
            1 => 3,
            2 => 2,
            3 => 1,
            _ => 0,
        };
        Descriptor::new(bits, Swizzle { mode, atomicity: 0 })
    }

    /// Of tcgen05, or `None` for a swizzle that does not exist.
    pub fn of_tensor_memory(bits: u64) -> Option<Descriptor> {
        let swizzle = match bits >> 61 {
            0 => Swizzle::default(),
            1 => Swizzle { mode: 3, atomicity: 1 },
            2 => Swizzle { mode: 3, atomicity: 0 },
            4 => Swizzle { mode: 2, atomicity: 0 },
            6 => Swizzle { mode: 1, atomicity: 0 },
            _ => return None,
        };
        Some(Descriptor::new(bits, swizzle))
    }

    fn new(bits: u64, swizzle: Swizzle) -> Descriptor {
        let field = |at: u32| (bits >> at & 0x3fff) << 4;
        Descriptor { start: field(0), leading: field(16), stride: field(32), swizzle }
    }

    /// The address of a byte of the matrix: of row `row`, `along` bytes into its K dimension, stored K-major.
    #[inline(always)]
    fn k_major(&self, row: u64, along: u64) -> u64 {
        let address = if self.swizzle.mode == 0 {
            // Core matrices of 8 rows of 16 bytes.
            self.start + row / 8 * self.stride + row % 8 * 16 + along / 16 * self.leading + along % 16
        } else {
            let span = 16 << self.swizzle.mode;
            // Beyond the span of the swizzle the next atom follows at the leading stride.
            self.start + row / 8 * self.stride + row % 8 * span + along / span * self.leading + along % span
        };
        self.swizzle.apply(address)
    }

    /// The address of row `row`, element `k`, stored MN-major: rows of an atom follow each other.
    #[inline(always)]
    fn row_major(&self, row: u64, k: u64, bytes: u64) -> u64 {
        let span = if self.swizzle.mode == 0 { 16 } else { 16 << self.swizzle.mode };
        let (atom, within) = (row * bytes / span, row * bytes % span);
        let address = if self.swizzle.mode == 0 {
            self.start + atom * self.stride + within + k % 8 * 16 + k / 8 * self.leading
        } else {
            let rows = if self.swizzle.atomicity == 1 { 4 } else { 8 };
            let group = k / rows * rows / 8 * self.stride + if rows == 4 { k / 4 % 2 * 4 * span } else { 0 };
            self.start + atom * self.leading + within + k % rows * span + group
        };
        self.swizzle.apply(address)
    }
}

/// How elements are packed in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// One after the other, in as many bits as they have.
    Tight,
    /// Elements of 4 and 6 bits a byte each, 16 at a time: their bits one after the other, then padding up to 16 bytes.
    Padded,
}

/// A matrix that is to be read.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// Where it is.
    pub descriptor: Descriptor,
    /// Its elements.
    pub element: Element,
    /// How they are packed.
    pub packing: Packing,
    /// Whether it is stored MN-major.
    pub transposed: bool,
}

impl Matrix {
    /// Reads rows `first..first + rows`, each of `depth` elements, from a CTA's shared memory, into rows of `depth` values.
    pub fn read(
        &self,
        context: &mut Context<'_>,
        cta: usize,
        first: usize,
        depth: usize,
        into: &mut [f32],
    ) -> Result<(), Step> {
        if context.cluster.checker.is_some() {
            self.check(context, cta, first, into.len() / depth.max(1), depth);
        }
        let outside = |address: u64| {
            format!("a matrix descriptor reaches address 0x{address:x}, outside of the CTA's shared memory")
        };
        let shared = &context.cluster.ctas[cta].shared;
        let padded = self.packing == Packing::Padded && self.element.width() < 8;
        let bits = if padded { 8 } else { self.element.bits() };
        let mut failed = None;
        for (row, values) in into.chunks_exact_mut(depth).enumerate() {
            let row = (first + row) as u64;
            if self.transposed {
                let bytes = (bits / 8).max(1);
                for (k, value) in values.iter_mut().enumerate() {
                    let address = self.descriptor.row_major(row, k as u64, bytes as u64);
                    match shared.slice(address as usize, bytes) {
                        Some(found) => *value = self.element.decode(word(found)),
                        None => failed = Some(address),
                    }
                }
                continue;
            }
            // A stretch of 16 bytes is never torn by a swizzle.
            for (chunk, values) in values.chunks_mut(128 / bits).enumerate() {
                let address = self.descriptor.k_major(row, 16 * chunk as u64);
                match shared.slice(address as usize, 16) {
                    Some(found) => self.unpack(found, values),
                    None => failed = Some(address),
                }
            }
        }
        let start = self.descriptor.start | (cta as u64) << 24;
        let bytes = into.len() * bits / 8;
        context.show(|| Access::of_warp(Direction::Read, Space::Shared, start, bytes));
        match failed {
            None => Ok(()),
            Some(address) => {
                let lane = context.leader();
                Err(context.fail(FaultKind::IllegalAddress, lane, outside(address)))
            }
        }
    }

    /// Tells the checker what will be read.
    fn check(&self, context: &mut Context<'_>, cta: usize, first: usize, rows: usize, depth: usize) {
        let padded = self.packing == Packing::Padded && self.element.width() < 8;
        let bits = if padded { 8 } else { self.element.bits() };
        for row in first..first + rows {
            if self.transposed {
                let bytes = (bits / 8).max(1);
                for k in 0..depth {
                    let address = self.descriptor.row_major(row as u64, k as u64, bytes as u64);
                    context.check_stretch(Some((cta, address as usize)), bytes, None);
                }
            } else {
                for chunk in 0..(depth * bits).div_ceil(128) {
                    let address = self.descriptor.k_major(row as u64, 16 * chunk as u64);
                    // Of 16 padded bytes only the first are elements.
                    let bytes = if padded { 2 * self.element.width() } else { 16 };
                    context.check_stretch(Some((cta, address as usize)), bytes, None);
                }
            }
        }
    }

    #[inline(always)]
    fn unpack(&self, bytes: &[u8], values: &mut [f32]) {
        let bits = self.element.bits();
        if self.packing == Packing::Padded && self.element.width() < 8 {
            let width = self.element.width();
            let all = bytes.first_chunk().map_or(0, |bytes| u128::from_le_bytes(*bytes));
            for (at, value) in values.iter_mut().enumerate() {
                *value = self.element.decode((all >> (at * width)) as u32 & ((1 << width) - 1));
            }
            return;
        }
        for (word_bytes, values) in bytes.chunks_exact(4).zip(values.chunks_mut(32 / bits)) {
            self.element.unpack(word(word_bytes), values);
        }
    }
}

fn word(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |all, byte| all << 8 | u32::from(*byte))
}

/// A descriptor's matrix of bytes: `rows` rows of `bytes`, K-major, as `tcgen05.cp` reads it.
pub fn read_bytes(
    context: &mut Context<'_>,
    cta: usize,
    descriptor: &Descriptor,
    row: usize,
    into: &mut [u8],
) -> Result<(), crate::memory::access::Refused> {
    for (chunk, into) in into.chunks_mut(16).enumerate() {
        let address = descriptor.k_major(row as u64, 16 * chunk as u64) & 0xff_ffff;
        context.copy_out(Space::Shared, address | (cta as u64) << 24, into)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(bytes: u64) -> u64 {
        (bytes & 0x3ffff) >> 4
    }

    #[test]
    fn a_swizzled_matrix_is_where_tma_puts_it() {
        // Rows of 128 bytes, 8 to an atom of 1024, as a box of 64 bf16 columns is loaded with 128-byte swizzle.
        let descriptor = Descriptor::of_warpgroup(encode(4096) | encode(1024) << 32 | 1 << 62);
        for (row, along) in [(0, 0), (3, 16), (9, 96), (63, 112)] {
            let linear = 4096 + row * 128 + along;
            assert_eq!(descriptor.k_major(row, along), Swizzle { mode: 3, atomicity: 0 }.apply(linear));
        }
    }

    #[test]
    fn core_matrices_without_a_swizzle() {
        let descriptor = Descriptor::of_tensor_memory(encode(128) << 16 | encode(256) << 32 | 1 << 46).unwrap();
        assert_eq!(descriptor.k_major(1, 0), 16);
        assert_eq!(descriptor.k_major(8, 0), 256);
        assert_eq!(descriptor.k_major(0, 16), 128);
        assert_eq!(descriptor.row_major(8, 0, 2), 256);
        assert_eq!(descriptor.row_major(0, 8, 2), 128);
        assert!(Descriptor::of_tensor_memory(3 << 61).is_none());
    }
}
