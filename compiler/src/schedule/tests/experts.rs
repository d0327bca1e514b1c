//! Grouped products of any number of rows, and products with block-scaled weights.

use tessera_ir::Storage;

use super::mixture::check_inputs;

const CLOSE: f64 = 5e-5;

/// A grouped product: tokens, experts, experts of a token, inner extent and columns.
#[derive(Clone, Copy)]
struct Grouped {
    tokens: usize,
    experts: usize,
    chosen: usize,
    inner: usize,
    columns: usize,
}

impl Grouped {
    /// Compares the product of rows in `x`; the matrices are in that storage too, or in MXFP4. Experts of rows are below `limit`.
    fn check(self, x: Storage, has_row_each: bool, is_packed: bool, limit: u64) {
        let Grouped { tokens, experts, chosen, inner, columns } = self;
        let blocks = inner.div_ceil(32);
        let (row, rows) = ([tokens, inner], [tokens, chosen, inner]);
        let (matrix, bias, picked) = ([experts, columns, inner], [experts, columns], [tokens, chosen]);
        let (elements, scales) = ([experts, columns, blocks, 16], [experts, columns, blocks]);
        let mut inputs = vec![
            ("x", x, if has_row_each { &rows[..] } else { &row[..] }, 0),
            ("b", x, &bias[..], 0),
            ("e", Storage::I32, &picked[..], limit),
        ];
        let mut body = String::new();
        if is_packed {
            inputs.extend([("elements", Storage::U8, &elements[..], 256), ("scales", Storage::U8, &scales[..], 256)]);
            body += &format!("%w = block_scaled(%elements, %scales) : tensor<{experts}x{columns}x{inner}xmxfp4>\n");
        } else {
            inputs.push(("w", x, &matrix[..], 0));
        }
        body += "%y = grouped_matmul(%x, %w, %e, %b) return %y";
        check_inputs(&inputs, &body, if x == Storage::F32 { CLOSE } else { 2e-2 });
    }
}

#[test]
fn rows_meet_the_matrices_of_their_experts() {
    for tokens in [1, 2, 7, 33] {
        let grouped = Grouped { tokens, experts: 5, chosen: 3, inner: 33, columns: 40 };
        grouped.check(Storage::F32, tokens == 7, false, 5);
    }
    Grouped { tokens: 21, experts: 4, chosen: 2, inner: 32, columns: 40 }.check(Storage::Bf16, false, false, 4);
}

#[test]
fn weights_of_experts_are_block_scaled() {
    for tokens in [1, 3, 33, 129] {
        // Two of the experts have no rows.
        let grouped = Grouped { tokens, experts: 7, chosen: 2, inner: 64, columns: 40 };
        grouped.check(Storage::F32, false, true, 5);
    }
    Grouped { tokens: 20, experts: 3, chosen: 2, inner: 160, columns: 70 }.check(Storage::Bf16, true, true, 3);
    Grouped { tokens: 1, experts: 3, chosen: 2, inner: 288, columns: 7 }.check(Storage::Bf16, false, true, 3);
}

/// As a GPU computes: tiles of tensor cores, from few rows of an expert to several tiles of them, experts without rows, columns and
/// sums that fill no tile.
#[test]
fn bf16_rows_meet_packed_weights() {
    for (tokens, experts, chosen, limit) in [(1, 8, 4, 8), (7, 8, 4, 8), (33, 5, 2, 4), (129, 3, 2, 3), (129, 6, 1, 1)]
    {
        Grouped { tokens, experts, chosen, inner: 192, columns: 136 }.check(Storage::Bf16, false, true, limit);
    }
    Grouped { tokens: 70, experts: 2, chosen: 2, inner: 96, columns: 64 }.check(Storage::Bf16, true, true, 2);
    // As long as the published models' sums.
    Grouped { tokens: 21, experts: 4, chosen: 2, inner: 2880, columns: 24 }.check(Storage::Bf16, false, true, 4);
}

/// The activation between two grouped products is computed where the first is.
#[test]
fn pairs_of_columns_are_gated() {
    for (tokens, x) in [(1, Storage::Bf16), (9, Storage::F32), (50, Storage::Bf16)] {
        let inputs = [
            ("x", x, &[tokens, 64][..], 0),
            ("e", Storage::I32, &[tokens, 2], 3),
            ("b", x, &[3, 80], 0),
            ("elements", Storage::U8, &[3, 80, 2, 16], 256),
            ("scales", Storage::U8, &[3, 80, 2], 256),
        ];
        let body = format!(
            "%w = block_scaled(%elements, %scales) : tensor<3x80x64xmxfp4>
             %y = grouped_matmul(%x, %w, %e, %b) : tensor<{tokens}x2x80xf32>
             %z = swiglu(%y) {{style = interleaved, alpha = 1.702, offset = 1.0, limit = 7.0}} : tensor<{tokens}x2x40x{x}>
             return %z"
        );
        check_inputs(&inputs, &body, if x == Storage::F32 { CLOSE } else { 3e-2 });
    }
}

#[test]
fn all_rows_may_have_one_expert() {
    for tokens in [1, 40] {
        let grouped = Grouped { tokens, experts: 6, chosen: 4, inner: 32, columns: 33 };
        grouped.check(Storage::F32, false, true, 1);
    }
}

#[test]
fn rows_need_not_end_with_a_block() {
    for tokens in [1, 11] {
        Grouped { tokens, experts: 3, chosen: 2, inner: 40, columns: 17 }.check(Storage::F32, false, true, 3);
    }
}

#[test]
fn block_scaled_weights_are_multiplied() {
    let product = |tokens: usize, inner: usize, columns: usize, x: Storage| {
        let blocks = inner.div_ceil(32);
        let inputs = [
            ("x", x, &[tokens, inner][..], 0),
            ("elements", Storage::U8, &[columns, blocks, 16], 256),
            ("scales", Storage::U8, &[columns, blocks], 256),
        ];
        let body = format!(
            "%w = block_scaled(%elements, %scales) : tensor<{columns}x{inner}xmxfp4>
             %y = matmul(%x, %w) {{transpose_rhs = true}} : tensor<{tokens}x{columns}x{x}> return %y"
        );
        check_inputs(&inputs, &body, if x == Storage::F32 { CLOSE } else { 2e-2 });
    };
    for tokens in [1, 5, 33] {
        product(tokens, 64, 40, Storage::F32);
    }
    product(17, 40, 33, Storage::Bf16);
}
