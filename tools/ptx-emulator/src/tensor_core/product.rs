//! Products of small matrices.

/// `d[m][n] += sum over k of a[m][k] * b[k][n]`, where `d` is the accumulator's value in f64.
///
/// Products of the formats that tensor cores multiply are exact in f64, and their sums nearly so: what is then rounded to f32 is
/// rounded once for an instruction.
#[inline(always)]
fn accumulate(a: &[f32], b: &[f32], d: &mut [f64], columns: usize, depth: usize) {
    if columns == 8 {
        return accumulate_eight(a, b, d, depth);
    }
    for (row, d) in a.chunks_exact(depth).zip(d.chunks_exact_mut(columns)) {
        for (scale, b) in row.iter().zip(b.chunks_exact(columns)) {
            let scale = f64::from(*scale);
            for (sum, value) in d.iter_mut().zip(b) {
                *sum += scale * f64::from(*value);
            }
        }
    }
}

/// The same for the eight columns of `mma`, whose sums stay in registers.
#[inline(always)]
fn accumulate_eight(a: &[f32], b: &[f32], d: &mut [f64], depth: usize) {
    let (b, _) = b.as_chunks::<8>();
    for (row, d) in a.chunks_exact(depth).zip(d.as_chunks_mut::<8>().0) {
        let mut sums = *d;
        for (scale, b) in row.iter().zip(b) {
            let scale = f64::from(*scale);
            for column in 0..8 {
                sums[column] += scale * f64::from(b[column]);
            }
        }
        *d = sums;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn accumulate_avx2(a: &[f32], b: &[f32], d: &mut [f64], columns: usize, depth: usize) {
    accumulate(a, b, d, columns, depth);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn accumulate_avx512(a: &[f32], b: &[f32], d: &mut [f64], columns: usize, depth: usize) {
    accumulate(a, b, d, columns, depth);
}

/// Adds the product of `a` (rows of `depth`) and `b` (`depth` rows of `columns`) to `d` (rows of `columns`).
pub fn multiply(a: &[f32], b: &[f32], d: &mut [f64], columns: usize, depth: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has it.
            return unsafe { accumulate_avx512(a, b, d, columns, depth) };
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has them.
            return unsafe { accumulate_avx2(a, b, d, columns, depth) };
        }
    }
    accumulate(a, b, d, columns, depth);
}

/// Turns `rows` rows of `depth` into `depth` rows of `rows`.
pub fn transpose(from: &[f32], into: &mut [f32], rows: usize, depth: usize) {
    for (row, values) in from.chunks_exact(depth).enumerate() {
        for (k, value) in values.iter().enumerate() {
            into[k * rows + row] = *value;
        }
    }
}
