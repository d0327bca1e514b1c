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
use crate::memory::shared::Bytes;
use crate::numeric::format;

/// A descriptor, taken apart. Addresses and strides are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    start: u64,
    leading: u64,
    stride: u64,
    swizzle: Swizzle,
    /// Instead of a stride `leading` is where what is beyond the first span starts: rows of 48 bytes, of sm_103a.
    absolute: bool,
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

    /// Of tcgen05, or what is wrong with it.
    pub fn of_tensor_memory(bits: u64) -> Result<Descriptor, &'static str> {
        let swizzle = match bits >> 61 {
            0 => Swizzle::default(),
            1 => Swizzle { mode: 3, atomicity: 1 },
            2 => Swizzle { mode: 3, atomicity: 0 },
            4 => Swizzle { mode: 2, atomicity: 0 },
            6 => Swizzle { mode: 1, atomicity: 0 },
            _ => return Err("the matrix descriptor has a swizzle that does not exist"),
        };
        let absolute = bits >> 52 & 1 != 0;
        if absolute && swizzle != (Swizzle { mode: 3, atomicity: 0 }) {
            return Err("a matrix descriptor with two addresses wants a swizzle of 128 bytes");
        }
        Ok(Descriptor { absolute, ..Descriptor::new(bits, swizzle) })
    }

    fn new(bits: u64, swizzle: Swizzle) -> Descriptor {
        let field = |at: u32| (bits >> at & 0x3fff) << 4;
        Descriptor { start: field(0), leading: field(16), stride: field(32), swizzle, absolute: false }
    }

    /// The bytes along a row that a swizzle permutes, as a power of two: 16 where there is none.
    #[inline(always)]
    fn span_bits(&self) -> u32 {
        4 + self.swizzle.mode
    }

    /// Where row `row` starts, stored K-major, before it is swizzled.
    #[inline(always)]
    fn k_major_row(&self, row: u64) -> u64 {
        // Without a swizzle, core matrices of 8 rows of 16 bytes.
        self.start + row / 8 * self.stride + ((row % 8) << self.span_bits())
    }

    /// How far from there the byte `along` of its K dimension is.
    #[inline(always)]
    fn k_major_offset(&self, along: u64) -> u64 {
        // Beyond the span of a swizzle, inside of which a matrix may start, the next atom follows at the leading stride.
        let bits = self.span_bits();
        let mask = (1 << bits) - 1;
        let within = self.start & mask;
        let along = within + along;
        let span = match along >> bits {
            0 => 0,
            _ if self.absolute => (self.leading & !mask).wrapping_sub(self.start & !mask),
            spans => spans * self.leading,
        };
        span.wrapping_add(along & mask).wrapping_sub(within)
    }

    /// The address of a byte of the matrix: of row `row`, `along` bytes into its K dimension, stored K-major.
    #[inline(always)]
    fn k_major(&self, row: u64, along: u64) -> u64 {
        self.swizzle.apply(self.k_major_row(row).wrapping_add(self.k_major_offset(along)))
    }

    /// The address of the byte `along` of the rows, for element `k` of each, stored MN-major: rows of an atom follow each other.
    #[inline(always)]
    fn row_major(&self, along: u64, k: u64) -> u64 {
        let bits = self.span_bits();
        let (atom, within) = (along >> bits, along & ((1 << bits) - 1));
        let address = if self.swizzle.mode == 0 {
            self.start + atom * self.stride + within + k % 8 * 16 + k / 8 * self.leading
        } else if self.swizzle.atomicity == 1 {
            // Atoms have four rows.
            let group = k / 8 * self.stride + ((k / 4 % 2 * 4) << bits);
            self.start + atom * self.leading + within + ((k % 4) << bits) + group
        } else {
            self.start + atom * self.leading + within + ((k % 8) << bits) + k / 8 * self.stride
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
    /// Reads rows from `first` on, each of `depth` elements, from a CTA's shared memory, into rows of `depth` values.
    pub fn read(
        &self,
        context: &mut Context<'_>,
        cta: usize,
        first: usize,
        depth: usize,
        into: &mut [f32],
    ) -> Result<(), Step> {
        self.check(context, cta, first, into.len() / depth.max(1), depth);
        let shared = &context.cluster.ctas[cta].shared;
        let read = if self.transposed {
            self.read_columns(shared, first, into.len() / depth, depth, |values, row, k| {
                for (at, value) in values.iter().enumerate() {
                    into[(row + at) * depth + k] = *value;
                }
            })
        } else {
            self.read_rows(shared, first, depth, into)
        };
        self.finish(context, cta, into.len(), read)
    }

    /// The same, into `depth` rows of `rows` values: the operand B of a product.
    pub fn read_transposed(
        &self,
        context: &mut Context<'_>,
        cta: usize,
        (first, rows): (usize, usize),
        depth: usize,
        into: &mut [f32],
    ) -> Result<(), Step> {
        self.check(context, cta, first, rows, depth);
        let shared = &context.cluster.ctas[cta].shared;
        let read = if self.transposed {
            self.read_columns(shared, first, rows, depth, |values, row, k| {
                into[k * rows + row..][..values.len()].copy_from_slice(values);
            })
        } else {
            self.read_rows_transposed(shared, (first, rows), depth, into)
        };
        self.finish(context, cta, rows * depth, read)
    }

    /// Shows what was read, or fails for an address that is outside of shared memory.
    fn finish(
        &self,
        context: &mut Context<'_>,
        cta: usize,
        elements: usize,
        read: Result<(), Outside>,
    ) -> Result<(), Step> {
        let start = self.descriptor.start | (cta as u64) << 24;
        context.show(|| Access::of_warp(Direction::Read, Space::Shared, start, elements * self.bits() / 8));
        let Err(Outside(address)) = read else { return Ok(()) };
        let message = format!("a matrix descriptor reaches address 0x{address:x}, outside of the CTA's shared memory");
        let lane = context.leader();
        Err(context.fail(FaultKind::IllegalAddress, lane, message))
    }

    /// Tells the checker, where there is one, what will be read.
    fn check(&self, context: &mut Context<'_>, cta: usize, first: usize, rows: usize, depth: usize) {
        if context.cluster.checker.is_none() {
            return;
        }
        let bits = self.bits();
        if self.transposed {
            let bytes = (bits / 8).max(1);
            for chunk in 0..(rows * bytes).div_ceil(16) {
                let length = (rows * bytes - 16 * chunk).min(16);
                for k in 0..depth {
                    let address = self.descriptor.row_major((first * bytes + 16 * chunk) as u64, k as u64);
                    context.check_stretch(Some((cta, address as usize)), length, None);
                }
            }
            return;
        }
        for row in first..first + rows {
            for chunk in 0..(depth * bits).div_ceil(128) {
                let address = self.descriptor.k_major(row as u64, 16 * chunk as u64);
                // Of 16 padded bytes only the first are elements.
                let bytes = if self.is_padded() { 2 * self.element.width() } else { 16 };
                context.check_stretch(Some((cta, address as usize)), bytes, None);
            }
        }
    }

    fn is_padded(&self) -> bool {
        self.packing == Packing::Padded && self.element.width() < 8
    }

    /// What an element takes.
    fn bits(&self) -> usize {
        if self.is_padded() { 8 } else { self.element.bits() }
    }

    /// Hands over what is stored K-major, 16 bytes at a time: the row's number, the chunk's number in it, and the bytes.
    #[inline(always)]
    fn chunks(
        &self,
        shared: &Bytes,
        first: usize,
        rows: usize,
        row_bytes: usize,
        mut take: impl FnMut(usize, usize, &[u8; 16]),
    ) -> Result<(), Outside> {
        for row in 0..rows {
            let start = self.descriptor.k_major_row((first + row) as u64);
            for chunk in 0..row_bytes.div_ceil(16) {
                // A stretch of 16 bytes is never torn by a swizzle.
                let address = start.wrapping_add(self.descriptor.k_major_offset(16 * chunk as u64));
                let address = self.descriptor.swizzle.apply(address);
                match shared.slice(address as usize, 16).and_then(|found| found.first_chunk()) {
                    Some(found) => take(row, chunk, found),
                    None => return Err(Outside(address)),
                }
            }
        }
        Ok(())
    }

    /// Reads what is stored K-major, sixteen rows at a time.
    fn read_rows(&self, shared: &Bytes, first: usize, depth: usize, into: &mut [f32]) -> Result<(), Outside> {
        let row_bytes = depth * self.bits() / 8;
        let mut stored = [0; 16 * LONGEST_ROW];
        for (group, values) in into.chunks_mut(16 * depth).enumerate() {
            let rows = values.len() / depth;
            self.chunks(shared, first + 16 * group, rows, row_bytes, |row, chunk, bytes| {
                stored[row * row_bytes + 16 * chunk..][..16].copy_from_slice(bytes);
            })?;
            let stored = &stored[..rows * row_bytes];
            if self.is_padded() {
                for (bytes, values) in stored.as_chunks::<16>().0.iter().zip(values.chunks_mut(16)) {
                    self.unpack_padded(u128::from_le_bytes(*bytes), values);
                }
            } else {
                unpack(self.element, stored, values);
            }
        }
        Ok(())
    }

    /// Reads what is stored K-major, eight rows at a time, into columns.
    fn read_rows_transposed(
        &self,
        shared: &Bytes,
        (first, rows): (usize, usize),
        depth: usize,
        into: &mut [f32],
    ) -> Result<(), Outside> {
        let row_bytes = depth * self.bits() / 8;
        if self.is_padded() || !rows.is_multiple_of(8) {
            let mut values = [0.0; 8 * LONGEST_ROW * 2];
            for row in (0..rows).step_by(8) {
                let count = (rows - row).min(8);
                let values = &mut values[..count * depth];
                self.read_rows(shared, first + row, depth, values)?;
                for (at, values) in values.chunks_exact(depth).enumerate() {
                    for (k, value) in values.iter().enumerate() {
                        into[k * rows + row + at] = *value;
                    }
                }
            }
            return Ok(());
        }
        // Words of 32 bits: each eight from as many rows.
        let mut words = [[0u32; 8]; LONGEST_ROW / 4];
        for column in (0..rows).step_by(8) {
            self.chunks(shared, first + column, 8, row_bytes, |row, chunk, bytes| {
                for (at, bytes) in bytes.as_chunks().0.iter().enumerate() {
                    words[4 * chunk + at][row] = u32::from_le_bytes(*bytes);
                }
            })?;
            unpack_columns(self.element, &words[..row_bytes / 4], &mut into[column..], rows);
        }
        Ok(())
    }

    /// Hands over what is stored MN-major: up to 16 bytes of values, the row of their first, and their place along K.
    #[inline(always)]
    fn read_columns(
        &self,
        shared: &Bytes,
        first: usize,
        rows: usize,
        depth: usize,
        mut take: impl FnMut(&[f32], usize, usize),
    ) -> Result<(), Outside> {
        let bytes = (self.element.bits() / 8).max(1);
        let mut values = [0.0; 16];
        for row in (0..rows).step_by(16 / bytes) {
            let values = &mut values[..(rows - row).min(16 / bytes)];
            for k in 0..depth {
                let address = self.descriptor.row_major(((first + row) * bytes) as u64, k as u64);
                let found = shared.slice(address as usize, values.len() * bytes).ok_or(Outside(address))?;
                unpack(self.element, found, values);
                take(values, row, k);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn unpack_padded(&self, all: u128, values: &mut [f32]) {
        let width = self.element.width();
        for (at, value) in values.iter_mut().enumerate() {
            *value = self.element.decode((all >> (at * width)) as u32 & ((1 << width) - 1));
        }
    }
}

/// An address outside of shared memory.
struct Outside(u64);

/// The most bytes that a row of one instruction has along K: 96 elements of 4 bits, or 64 bytes of a sparse product's.
const LONGEST_ROW: usize = 64;

widest! {
    /// Decodes elements that follow each other.
    fn unpack(element: Element, bytes: &[u8], into: &mut [f32]) {
        match element {
            Element::BF16 => {
                for (bytes, value) in bytes.as_chunks().0.iter().zip(into) {
                    *value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
                }
            }
            Element::F16 => {
                for (bytes, value) in bytes.as_chunks().0.iter().zip(into) {
                    *value = format::f16_to_f32(u32::from(u16::from_le_bytes(*bytes)));
                }
            }
            Element::TF32 => {
                for (bytes, value) in bytes.as_chunks().0.iter().zip(into) {
                    *value = f32::from_bits(u32::from_le_bytes(*bytes) & !0x1fff);
                }
            }
            _ if element.bits() == 8 => {
                for (byte, value) in bytes.iter().zip(into) {
                    *value = element.decode(u32::from(*byte));
                }
            }
            _ => {
                for (bytes, values) in bytes.as_chunks().0.iter().zip(into.chunks_mut(32 / element.bits())) {
                    element.unpack(u32::from_le_bytes(*bytes), values);
                }
            }
        }
    }

    /// Decodes words of eight rows each into rows that are `stride` apart, as many for each word as it has elements.
    fn unpack_columns(element: Element, words: &[[u32; 8]], into: &mut [f32], stride: usize) {
        match element {
            Element::BF16 => columns::<2>(words, into, stride, |word, at| f32::from_bits(word >> (16 * at) << 16)),
            Element::F16 => columns::<2>(words, into, stride, |word, at| format::f16_to_f32(word >> (16 * at) & 0xffff)),
            Element::TF32 => columns::<1>(words, into, stride, |word, _| f32::from_bits(word & !0x1fff)),
            _ if element.bits() == 8 => {
                columns::<4>(words, into, stride, |word, at| element.decode(word >> (8 * at) & 0xff));
            }
            Element::B1 => columns::<32>(words, into, stride, |word, at| (word >> at & 1) as f32),
            _ => columns::<8>(words, into, stride, |word, at| element.decode(word >> (4 * at) & 0xf)),
        }
    }
}

#[inline(always)]
fn columns<const EACH: usize>(words: &[[u32; 8]], into: &mut [f32], stride: usize, decode: impl Fn(u32, usize) -> f32) {
    for (word, words) in words.iter().enumerate() {
        for at in 0..EACH {
            let into = &mut into[(word * EACH + at) * stride..][..8];
            for (word, value) in words.iter().zip(into) {
                *value = decode(*word, at);
            }
        }
    }
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
        assert_eq!(descriptor.row_major(16, 0), 256);
        assert_eq!(descriptor.row_major(0, 8), 128);
        assert!(Descriptor::of_tensor_memory(3 << 61).is_err());
    }

    #[test]
    fn a_row_goes_on_where_the_second_address_says() {
        // The third part of 48 bytes of rows of 128 bytes is in two buffers.
        let bits = encode(4096 + 96) | encode(2048) << 16 | encode(1024) << 32 | 1 << 46 | 1 << 52 | 2 << 61;
        let descriptor = Descriptor::of_tensor_memory(bits).unwrap();
        let swizzled = |linear| Swizzle { mode: 3, atomicity: 0 }.apply(linear);
        for (row, along, linear) in [
            (0, 0, 4096 + 96),
            (0, 16, 4096 + 112),
            (0, 32, 2048),
            (3, 32, 2048 + 384),
            (9, 16, 4096 + 1152 + 112),
            (9, 32, 2048 + 1152),
        ] {
            assert_eq!(descriptor.k_major(row, along), swizzled(linear), "row {row}, byte {along}");
        }
        assert!(Descriptor::of_tensor_memory(1 << 46 | 1 << 52).is_err());
    }
}
