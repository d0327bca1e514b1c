//! Ops one by one, on shapes that fill tiles and shapes that do not.

use super::check_body;

const CLOSE: f64 = 2e-5;

#[test]
fn elementwise() {
    for op in ["neg", "abs", "exp", "sqrt", "sin", "cos", "tanh", "erf", "sigmoid", "relu", "gelu", "silu"] {
        check_body("%x: tensor<Tx33xf32>", &format!("%a = abs(%x) %y = {op}(%a) return %y"), &[("T", 7)], CLOSE);
    }
    check_body("%x: tensor<129xf32>", "%y = gelu(%x) {approximate = tanh} return %y", &[], CLOSE);
    check_body("%x: tensor<2x3x5xf32>, %y: tensor<2x3x5xf32>", "%z = add(%x, %y) return %z", &[], CLOSE);
    check_body("%x: tensor<f32>, %y: tensor<f32>", "%z = mul(%x, %y) return %z", &[], CLOSE);
    check_body("%x: tensor<7xi32>, %y: tensor<7xi32>", "%z = sub(%x, %y) return %z", &[], CLOSE);
    check_body("%x: tensor<4x9xbf16>, %y: tensor<4x9xbf16>", "%z = div(%x, %y) return %z", &[], 1e-2);
    check_body(
        "%x: tensor<4x9xf32>, %y: tensor<4x9xf32>",
        "%c = compare(%x, %y) {predicate = less} %z = select(%c, %x, %y) return %z, %c",
        &[],
        CLOSE,
    );
    check_body("%x: tensor<4x9xf32>", "%y = cast(%x) {to = i32} %z = cast(%y) {to = bf16} return %y, %z", &[], CLOSE);
}

#[test]
fn movement() {
    check_body("%x: tensor<6x5xf32>", "%y = reshape(%x) : tensor<5x6xf32> return %y", &[], 0.0);
    check_body("%x: tensor<Tx12xf32>", "%y = reshape(%x) : tensor<Tx3x4xf32> return %y", &[("T", 5)], 0.0);
    check_body("%x: tensor<SxTxf32>", "%y = reshape(%x) : tensor<TxSxf32> return %y", &[("S", 3), ("T", 5)], 0.0);
    check_body("%x: tensor<5x6xf32>", "%y = transpose(%x) {permutation = [1, 0]} return %y", &[], 0.0);
    check_body("%x: tensor<2x3x4xf32>", "%y = transpose(%x) {permutation = [2, 0, 1]} return %y", &[], 0.0);
    check_body(
        "%x: tensor<2x3x4xf32>",
        "%y = transpose(%x) {permutation = [1, 2, 0]} %z = reshape(%y) : tensor<12x2xf32> return %z",
        &[],
        0.0,
    );
    check_body("%x: tensor<5x6xf32>", "%y = slice(%x) {starts = [1, 2], limits = [4, 6]} return %y", &[], 0.0);
    check_body("%x: tensor<6xf32>", "%z = broadcast(%x) {axes = [0]} : tensor<6x7xf32> return %z", &[], 0.0);
    check_body("%x: tensor<3x4xf32>, %y: tensor<3x5xf32>", "%z = concat(%x, %y) {axis = 1} return %z", &[], 0.0);
    check_body(
        "%x: tensor<3x4xf32>, %y: tensor<2x4xf32>, %w: tensor<7x4xf32>",
        "%z = concat(%x, %y, %w) {axis = 0} return %z",
        &[],
        0.0,
    );
    check_body("%x: tensor<9x4xf32>, %i: tensor<3xi32>", "%z = gather(%x, %i) return %z", &[], 0.0);
    check_body("%x: tensor<4x9xf32>, %i: tensor<3xi32>", "%z = gather(%x, %i) {axis = 1} return %z", &[], 0.0);
    check_body("%x: tensor<9x33xf32>, %i: tensor<Txi32>", "%z = embedding(%x, %i) return %z", &[("T", 7)], 0.0);
    check_body("%x: tensor<4x3xf32>", "%i = iota() {axis = 1} : tensor<4x3xi32> return %i", &[], 0.0);
    check_body(
        "%x: tensor<2x3xf32>",
        "%c = constant() {value = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]} : tensor<2x3xf32> %y = add(%x, %c) return %y",
        &[],
        1e-6,
    );
}

#[test]
fn reductions() {
    for op in ["reduce_sum", "reduce_max", "reduce_min", "reduce_mean"] {
        for axes in ["[0]", "[1]", "[0, 1]", "[0, 2]", "[2]"] {
            let body = format!("%y = {op}(%x) {{axes = {axes}}} return %y");
            check_body("%x: tensor<3x33x5xf32>", &body, &[], CLOSE);
        }
        check_body(
            "%x: tensor<TxSxf32>",
            &format!("%y = {op}(%x) {{axes = [1]}} return %y"),
            &[("T", 3), ("S", 130)],
            CLOSE,
        );
    }
    check_body("%x: tensor<4x129xf32>", "%y = argmax(%x) {axis = 1} return %y", &[], 0.0);
    check_body("%x: tensor<4x9xf32>", "%y = argmax(%x) {axis = 0} return %y", &[], 0.0);
    check_body("%x: tensor<4x129xf32>", "%y = softmax(%x) {axis = 1} return %y", &[], CLOSE);
    check_body("%x: tensor<4x5x3xf32>", "%y = softmax(%x) {axis = 1} return %y", &[], CLOSE);
    check_body("%x: tensor<TxSxf32>", "%y = softmax(%x) {axis = 1} return %y", &[("T", 2), ("S", 9000)], CLOSE);
}

/// Heads that are rotated where they are computed, in tiles of columns that go beyond the last head.
#[test]
fn heads_beyond_the_last() {
    for heads in [1, 3, 5] {
        let columns = heads * 8;
        let inputs = format!(
            "%x: tensor<Tx24xf32>, %w: tensor<24x{columns}xf32>, %r: tensor<Tx{heads}x8xf32>, %p: tensor<Txi32>"
        );
        let body = format!(
            "%z, %y = fusion(%x = %x, %w = %w, %r = %r, %p = %p) : tensor<Tx{heads}x8xf32>, tensor<Tx{columns}xf32> {{
               %y = matmul(%x, %w) : tensor<Tx{columns}xf32>
               %h = reshape(%y) : tensor<Tx{heads}x8xf32>
               %s = add(%h, %r) : tensor<Tx{heads}x8xf32>
               %z = rope(%s, %p) : tensor<Tx{heads}x8xf32>
               return %z, %y
             }} return %z, %y"
        );
        check_body(&inputs, &body, &[("T", 5)], CLOSE);
    }
}

/// Along every axis, whether other axes are longer or not and whether extents are known or not.
#[test]
fn reductions_along_every_axis() {
    let shapes: &[&[&str]] =
        &[&["T"], &["T", "U"], &["T", "8"], &["9", "T"], &["T", "3", "U"], &["5", "T", "U"], &["T", "U", "6"]];
    let extents = [("T", [7, 33]), ("U", [65, 1])];
    for shape in shapes {
        let input = format!("%x: tensor<{}xf32>", shape.join("x"));
        for case in 0..2 {
            let bound = extents.map(|(symbol, extents)| (symbol, extents[case]));
            for axis in 0..shape.len() {
                let body =
                    format!("%y = softmax(%x) {{axis = {axis}}} %i = argmax(%x) {{axis = {axis}}} return %y, %i");
                check_body(&input, &body, &bound, CLOSE);
            }
            // Every choice of axes.
            for chosen in 1..1 << shape.len() {
                let axes = (0..shape.len()).filter(|axis| chosen >> axis & 1 == 1).map(|axis| axis.to_string());
                let axes = axes.collect::<Vec<_>>().join(", ");
                let body = ["sum", "max", "mean"].map(|op| format!("%{op} = reduce_{op}(%x) {{axes = [{axes}]}}"));
                check_body(&input, &format!("{} return %sum, %max, %mean", body.join(" ")), &bound, CLOSE);
            }
        }
    }
}

#[test]
fn norms() {
    check_body(
        "%x: tensor<Tx192xf32>, %s: tensor<192xf32>, %b: tensor<192xf32>",
        "%y = layer_norm(%x, %s, %b) {epsilon = 1e-5} return %y",
        &[("T", 3)],
        CLOSE,
    );
    check_body(
        "%x: tensor<3x10000xf32>, %s: tensor<10000xf32>",
        "%y = rms_norm(%x, %s) {epsilon = 1e-6} return %y",
        &[],
        CLOSE,
    );
}

#[test]
fn products() {
    for (m, k, n) in [(1, 7, 33), (33, 129, 7), (7, 33, 129), (65, 64, 70)] {
        for transpose in [false, true] {
            let (rows, columns) = if transpose { (n, k) } else { (k, n) };
            let inputs = format!("%x: tensor<{m}x{k}xf32>, %w: tensor<{rows}x{columns}xf32>");
            check_body(&inputs, &format!("%y = matmul(%x, %w) {{transpose_rhs = {transpose}}} return %y"), &[], CLOSE);
        }
    }
    check_body("%x: tensor<2x5x7xf32>, %w: tensor<2x7x9xf32>", "%y = matmul(%x, %w) return %y", &[], CLOSE);
    check_body("%x: tensor<2x5x7xf32>, %w: tensor<7x9xf32>", "%y = matmul(%x, %w) return %y", &[], CLOSE);
    check_body(
        "%x: tensor<TxSxf32>, %w: tensor<Sx9xf32>",
        "%y = matmul(%x, %w) return %y",
        &[("T", 3), ("S", 70)],
        CLOSE,
    );
    check_body("%x: tensor<5x64xbf16>, %w: tensor<64x32xbf16>", "%y = matmul(%x, %w) return %y", &[], 1e-2);
    check_body("%x: tensor<5x64xbf16>, %w: tensor<64x32xfp8_e4m3>", "%y = matmul(%x, %w) return %y", &[], 1e-2);
    check_body(
        "%x: tensor<5x60xbf16>, %w: tensor<60x32xfp8_e4m3>, %s: tensor<32xf32>",
        "%d = dequantize(%w, %s) {axis = 1} : tensor<60x32xbf16> %y = matmul(%x, %d) return %y",
        &[],
        2e-2,
    );
}

#[test]
fn attention() {
    for (queries, keys, heads, key_heads, dim) in
        [(1, 9, 2, 2, 8), (5, 5, 4, 1, 16), (7, 70, 12, 1, 32), (33, 33, 6, 3, 24)]
    {
        for options in ["", ", causal = false", ", window = 4"] {
            let inputs = format!(
                "%q: tensor<{queries}x{heads}x{dim}xf32>, %k: tensor<{keys}x{key_heads}x{dim}xf32>, %v: tensor<{keys}x{key_heads}x{dim}xf32>"
            );
            check_body(&inputs, &format!("%y = attention(%q, %k, %v) {{scale = 0.3{options}}} return %y"), &[], CLOSE);
            let inputs = format!("{inputs}, %s: tensor<{heads}xbf16>");
            let body = format!("%y = attention(%q, %k, %v, %s) {{scale = 0.3{options}}} return %y");
            check_body(&inputs, &body, &[], CLOSE);
        }
    }
    check_body("%x: tensor<5x3x8xf32>, %p: tensor<5xi32>", "%y = rope(%x, %p) return %y", &[], CLOSE);
    check_body(
        "%x: tensor<5x3x8xf32>, %p: tensor<5xi32>",
        "%y = rope(%x, %p) {style = interleaved} return %y",
        &[],
        CLOSE,
    );
    for truncate in [false, true] {
        check_body(
            "%x: tensor<5x3x32xf32>, %p: tensor<5xi32>",
            &format!(
                "%y = rope(%x, %p) {{base = 150000.0, factor = 8.0, original_context = 64, truncate = {truncate}, \
                 concentration = 1.2}} return %y"
            ),
            &[],
            CLOSE,
        );
    }
}
