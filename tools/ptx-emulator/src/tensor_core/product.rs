//! Products of small matrices.

/// Rows whose sums stay in registers together.
const ROWS: usize = 16;
/// Columns of a vector.
const COLUMNS: usize = 8;
/// How deep a part of A is turned to f64 at a time.
const DEPTH: usize = 16;

/// Sixteen rows of a part of A.
type Panel = [[f64; DEPTH]; ROWS];

/// Adds a part of the product to sixteen rows of eight sums, which are `stride` apart in `d` as the rows of B are in `b`.
type Tile = fn(a: &Panel, depth: usize, b: &[f32], d: &mut [f64], stride: usize);

#[inline(always)]
fn tile(a: &Panel, depth: usize, b: &[f32], d: &mut [f64], stride: usize) {
    for (row, scales) in a.iter().enumerate() {
        let sums = &mut d[row * stride..][..COLUMNS];
        for (scale, b) in scales[..depth].iter().zip(b.chunks(stride)) {
            for (sum, value) in sums.iter_mut().zip(&b[..COLUMNS]) {
                *sum += scale * f64::from(*value);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(clippy::needless_range_loop, reason = "an index along the depth, of a column of A and a row of B")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{COLUMNS, DEPTH, Panel, ROWS};

    /// Checks once what the loads and stores below need.
    #[inline(always)]
    fn check(depth: usize, b: &[f32], d: &[f64], stride: usize) {
        assert!(depth <= DEPTH && stride >= COLUMNS);
        assert!(b.len() >= depth.saturating_sub(1) * stride + COLUMNS && d.len() >= (ROWS - 1) * stride + COLUMNS);
    }

    #[target_feature(enable = "avx512f")]
    pub fn tile_avx512(a: &Panel, depth: usize, b: &[f32], d: &mut [f64], stride: usize) {
        check(depth, b, d, stride);
        let mut sums = [_mm512_setzero_pd(); ROWS];
        for (row, sum) in sums.iter_mut().enumerate() {
            // SAFETY: `check` has seen that all rows are inside.
            *sum = unsafe { _mm512_loadu_pd(d.as_ptr().add(row * stride)) };
        }
        for k in 0..depth {
            // SAFETY: as above.
            let values = _mm512_cvtps_pd(unsafe { _mm256_loadu_ps(b.as_ptr().add(k * stride)) });
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_fmadd_pd(_mm512_set1_pd(a[row][k]), values, *sum);
            }
        }
        for (row, sum) in sums.iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm512_storeu_pd(d.as_mut_ptr().add(row * stride), *sum) };
        }
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn tile_avx2(a: &Panel, depth: usize, b: &[f32], d: &mut [f64], stride: usize) {
        check(depth, b, d, stride);
        // Twelve of the sixteen registers hold sums, or as many as divide the rows: eight.
        for first in (0..ROWS).step_by(4) {
            let mut sums = [[_mm256_setzero_pd(); 2]; 4];
            for (row, sums) in sums.iter_mut().enumerate() {
                for (half, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: `check` has seen that all rows are inside.
                    *sum = unsafe { _mm256_loadu_pd(d.as_ptr().add((first + row) * stride + 4 * half)) };
                }
            }
            for k in 0..depth {
                for half in 0..2 {
                    // SAFETY: as above.
                    let values = _mm256_cvtps_pd(unsafe { _mm_loadu_ps(b.as_ptr().add(k * stride + 4 * half)) });
                    for (row, sums) in sums.iter_mut().enumerate() {
                        sums[half] = _mm256_fmadd_pd(_mm256_set1_pd(a[first + row][k]), values, sums[half]);
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                for (half, sum) in sums.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { _mm256_storeu_pd(d.as_mut_ptr().add((first + row) * stride + 4 * half), *sum) };
                }
            }
        }
    }
}

/// The widest that the processor has.
#[inline(always)]
fn widest_tile() -> Tile {
    #[cfg(target_arch = "x86_64")]
    {
        if crate::vectors::has_avx512() {
            // SAFETY: the processor has it.
            return |a, depth, b, d, stride| unsafe { x86::tile_avx512(a, depth, b, d, stride) };
        }
        if crate::vectors::has_avx2() {
            // SAFETY: the processor has it.
            return |a, depth, b, d, stride| unsafe { x86::tile_avx2(a, depth, b, d, stride) };
        }
    }
    tile
}

widest! {
    /// Turns rows of `depth` values, from the one at `first` on, to f64.
    fn widen(a: &[f32], depth: usize, first: usize, into: &mut Panel) {
        for (row, into) in a.chunks_exact(depth).zip(into) {
            for (value, into) in row[first..].iter().zip(into) {
                *into = f64::from(*value);
            }
        }
    }
}

/// Adds the product of `a` (rows of `depth`) and `b` (`depth` rows of `columns`) to `d` (rows of `columns`), which holds the accumulators'
/// values in f64.
///
/// Products of the formats that tensor cores multiply are exact in f64, and their sums, from the accumulator on in the order of the depth,
/// nearly so: what is then rounded to f32 is rounded once for an instruction. That also makes fused and separate sums equal.
pub fn multiply(a: &[f32], b: &[f32], d: &mut [f64], columns: usize, depth: usize) {
    let whole = if columns.is_multiple_of(COLUMNS) { a.len() / depth / ROWS * ROWS } else { 0 };
    let (a, a_rest) = a.split_at(whole * depth);
    let (d, d_rest) = d.split_at_mut(whole * columns);
    let tile = widest_tile();
    let mut panel: Panel = [[0.0; DEPTH]; ROWS];
    for (a, d) in a.chunks_exact(ROWS * depth).zip(d.chunks_exact_mut(ROWS * columns)) {
        for first in (0..depth).step_by(DEPTH) {
            widen(a, depth, first, &mut panel);
            for column in (0..columns).step_by(COLUMNS) {
                let part = DEPTH.min(depth - first);
                tile(&panel, part, &b[first * columns + column..], &mut d[column..], columns);
            }
        }
    }
    // Fewer rows than a panel has, as no instruction for large matrices has them.
    for (row, d) in a_rest.chunks_exact(depth).zip(d_rest.chunks_exact_mut(columns)) {
        for (scale, b) in row.iter().zip(b.chunks_exact(columns)) {
            for (sum, value) in d.iter_mut().zip(b) {
                *sum += f64::from(*scale) * f64::from(*value);
            }
        }
    }
}

widest! {
    /// Turns `rows` rows of `depth` into `depth` rows of `rows`.
    pub fn transpose(from: &[f32], into: &mut [f32], rows: usize, depth: usize) {
        for first in (0..rows).step_by(8) {
            let from = &from[first * depth..];
            for k in 0..depth {
                let count = (rows - first).min(8);
                let into = &mut into[k * rows + first..][..count];
                for (row, value) in into.iter_mut().enumerate() {
                    *value = from[row * depth + k];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small numbers with full significands of bf16.
    fn values(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            f32::from_bits((0x3c00_0000 + (state >> 4)) & 0xbfff_0000)
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    #[test]
    fn all_tiles_give_the_same_bits_as_plain_sums() {
        for (rows, columns, depth) in
            [(16, 8, 16), (16, 8, 4), (16, 24, 32), (128, 40, 96), (8, 8, 8), (17, 16, 20), (16, 12, 8)]
        {
            let (a, b) = (values(rows * depth, 1), values(depth * columns, 2));
            let start: Vec<f64> = values(rows * columns, 3).into_iter().map(f64::from).collect();
            let plain = |row: usize, column: usize| {
                let products = (0..depth).map(|k| f64::from(a[row * depth + k]) * f64::from(b[k * columns + column]));
                products.fold(start[row * columns + column], |sum, product| sum + product)
            };
            let mut d = start.clone();
            multiply(&a, &b, &mut d, columns, depth);
            for (at, value) in d.iter().enumerate() {
                assert_eq!(
                    value.to_bits(),
                    plain(at / columns, at % columns).to_bits(),
                    "{rows} {columns} {depth} at {at}"
                );
            }
            let mut turned = vec![0.0; b.len()];
            transpose(&b, &mut turned, depth, columns);
            assert!((0..b.len()).all(|at| turned[at % columns * depth + at / columns] == b[at]));
        }
        // The narrower tiles too, where the processor has wider ones.
        let (a, b, mut panel) = (values(16 * 16, 5), values(16 * 8, 6), [[0.0; DEPTH]; ROWS]);
        widen(&a, 16, 0, &mut panel);
        let (mut expected, mut found) = (vec![1.0; 128], vec![1.0; 128]);
        multiply(&a, &b, &mut expected, 8, 16);
        tile(&panel, 16, &b, &mut found, 8);
        assert_eq!(found, expected);
        #[cfg(target_arch = "x86_64")]
        if crate::vectors::has_avx2() {
            found.fill(1.0);
            // SAFETY: the processor has it.
            unsafe { x86::tile_avx2(&panel, 16, &b, &mut found, 8) };
            assert_eq!(found, expected);
        }
    }
}
