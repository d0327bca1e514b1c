//! `wmma`: matrices of every shape and type go through fragments, and their products are sums.

use super::Run;
use super::trial::{Draw, Kind, Matrix};

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[products_of_every_shape, products_of_doubles];

/// The bits that an element takes in memory.
fn bits_in_memory(name: &str) -> usize {
    match name {
        "f64" => 64,
        "f32" | "s32" | "tf32" => 32,
        _ => Kind::named(name, false).bits() as usize,
    }
}

/// Puts a matrix into memory, by rows or by columns.
fn put(
    image: &mut Vec<u8>,
    matrix: &Matrix,
    by_columns: bool,
    stride: usize,
    bits: usize,
    code: impl Fn(f64, u32) -> u64,
) {
    let (rows, columns) = (matrix.elements.len() / matrix.columns, matrix.columns);
    let start = image.len();
    let majors = if by_columns { columns } else { rows };
    image.resize(start + (majors * stride * bits).div_ceil(8), 0);
    for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
        let (bits_of, value) = matrix.at(row, column);
        let at = if by_columns { column * stride + row } else { row * stride + column } * bits;
        let code = code(value, bits_of) << (at % 8);
        for (byte, part) in code.to_le_bytes().into_iter().take(bits.div_ceil(8)).enumerate() {
            image[start + at / 8 + byte] |= part;
        }
    }
    image.resize(image.len().next_multiple_of(256), 0);
}

struct Case<'t> {
    shape: &'t str,
    /// D, A, B, C.
    types: [&'t str; 4],
    layouts: [&'t str; 3],
    space: &'t str,
    end: &'t str,
    operation: &'t str,
    /// Elements beyond those of a row.
    padding: usize,
}

fn registers(elements: usize, name: &str, multiplicand: bool) -> usize {
    if name == "f16" && multiplicand { 8 } else { elements * bits_in_memory(name) / 32 / 32 }
}

fn names(letter: char, count: usize) -> String {
    let all: Vec<String> = (0..count).map(|at| format!("{letter}{at}")).collect();
    format!("{{{}}}", all.join(", "))
}

impl Case<'_> {
    fn check(&self) {
        let [d_type, a_type, b_type, c_type] = self.types;
        let sizes: Vec<usize> = self.shape[1..].split(['n', 'k']).map(|size| size.parse().unwrap()).collect();
        let [m, n, k] = sizes[..] else { panic!("{}", self.shape) };
        let mut draw = Draw((m + k) as u64);
        let a = Matrix::draw(m, k, Kind::named(a_type, false), &mut draw);
        let b = Matrix::draw(k, n, Kind::named(b_type, false), &mut draw);
        let c = Matrix::draw(m, n, Kind::Integer(8, true), &mut draw);
        let code = |name: &str, value: f64, bits: u32| match name {
            "f32" => u64::from((value as f32).to_bits()),
            "s32" => u64::from(value as i32 as u32),
            "f16" => u64::from(half::f16::from_f64(value).to_bits()),
            _ => u64::from(bits),
        };
        let (mut image, mut text, mut starts) = (vec![], String::new(), vec![]);
        for (at, (matrix, name)) in [(&a, a_type), (&b, b_type), (&c, c_type)].into_iter().enumerate() {
            let by_columns = self.layouts[at] == "col";
            let length = if by_columns { matrix.elements.len() / matrix.columns } else { matrix.columns };
            starts.push((image.len(), length + self.padding));
            put(&mut image, matrix, by_columns, length + self.padding, bits_in_memory(name), |value, bits| {
                code(name, value, bits)
            });
        }
        let result = image.len();
        let d_length = if self.layouts[2] == "col" { m } else { n };
        image.resize((result + m * n * bits_in_memory(d_type) / 8).next_multiple_of(256), 0);
        let base = if self.space.contains("shared") {
            // All of it goes through shared memory.
            text.push_str(&format!(
                "mov.u32 %r1, tile; mov.u32 %r2, 0; fill: shl.b32 %r3, %r2, 7; shl.b32 %r4, %r0, 2; add.u32 %r3, %r3, %r4;\n\
                 cvt.u64.u32 %rd3, %r3; add.u64 %rd3, %rd3, %rd0; ld.global.b32 %r4, [%rd3]; add.u32 %r3, %r3, %r1;\n\
                 st.shared.b32 [%r3], %r4; add.u32 %r2, %r2, 1; setp.lt.u32 %p1, %r2, {}; @%p1 bra fill; bar.sync 0;\n",
                result / 128
            ));
            "%r1"
        } else {
            "%rd0"
        };
        for (at, (letter, name)) in [('a', a_type), ('b', b_type), ('c', c_type)].into_iter().enumerate() {
            let elements = [m * k, k * n, m * n][at];
            let count = registers(elements, name, at < 2);
            let (start, stride) = starts[at];
            let stride = if self.padding == 0 { String::new() } else { format!(", {stride}") };
            text.push_str(&format!(
                ".reg .b32 {letter}<{count}>;\nwmma.load.{letter}.sync.aligned.{}.{}{}.{name} {}, [{base}+{start}]{stride};\n",
                self.layouts[at],
                self.shape,
                self.space,
                names(letter, count)
            ));
        }
        let kinds = match a_type {
            "f16" => format!("{d_type}.{c_type}"),
            _ => format!("{d_type}.{a_type}.{b_type}.{c_type}"),
        };
        let d_count = registers(m * n, d_type, false);
        text.push_str(&format!(
            ".reg .b32 d<{d_count}>;\nwmma.mma{}.sync.aligned.{}.{}.{}.{kinds}{} {}, {}, {}, {};\n\
             wmma.store.d.sync.aligned.{}.{}{}.{d_type} [{base}+{result}], {}, {d_length};",
            self.operation,
            self.layouts[0],
            self.layouts[1],
            self.shape,
            self.end,
            names('d', d_count),
            names('a', registers(m * k, a_type, true)),
            names('b', registers(k * n, b_type, true)),
            names('c', registers(m * n, c_type, false)),
            self.layouts[2],
            self.shape,
            self.space,
            names('d', d_count)
        ));
        if base == "%r1" {
            text.push_str(&format!(
                "mov.u32 %r2, {}; bar.sync 0; drain: shl.b32 %r3, %r2, 7; shl.b32 %r4, %r0, 2; add.u32 %r3, %r3, %r4;\n\
                 cvt.u64.u32 %rd3, %r3; add.u64 %rd3, %rd3, %rd0; add.u32 %r3, %r3, %r1; ld.shared.b32 %r4, [%r3];\n\
                 st.global.b32 [%rd3], %r4; add.u32 %r2, %r2, 1; setp.lt.u32 %p1, %r2, {}; @%p1 bra drain;\n",
                result / 128,
                image.len().div_ceil(128)
            ));
        }
        let mut buffer: Vec<u64> = image.chunks(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())).collect();
        let run = Run::new(&text).target("sm_80").declare(".shared .align 256 .b8 tile[8192];");
        run.try_on(&mut buffer).unwrap_or_else(|fault| panic!("{fault}"));
        let bytes: Vec<u8> = buffer.iter().flat_map(|word| word.to_le_bytes()).collect();
        let size = bits_in_memory(d_type) / 8;
        for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
            let product = |at: usize| {
                let (x, y) = (a.at(row, at).1, b.at(at, column).1);
                if self.operation.contains("xor") { f64::from(x != y) } else { x * y }
            };
            let sum = (0..k).map(product).sum::<f64>() + c.at(row, column).1;
            let at = if self.layouts[2] == "col" { column * m + row } else { row * n + column };
            let found =
                bytes[result + at * size..][..size].iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
            assert_eq!(found, code(d_type, sum, 0), "{text}: row {row}, column {column}: {sum}");
        }
    }
}

#[test]
fn products_of_every_shape() {
    let plain = Case {
        shape: "m16n16k16",
        types: ["f32", "f16", "f16", "f32"],
        layouts: ["row", "col", "row"],
        space: ".global",
        end: "",
        operation: "",
        padding: 0,
    };
    let all = [["row", "col", "row"], ["col", "row", "col"], ["row", "row", "col"], ["col", "col", "row"]];
    for (at, shape) in ["m16n16k16", "m8n32k16", "m32n8k16"].into_iter().enumerate() {
        for layouts in all {
            let space = [".global", ".shared", ".shared::cta", ""][at % 4];
            for (d, c) in [("f32", "f32"), ("f16", "f16"), ("f16", "f32"), ("f32", "f16")] {
                Case { shape, layouts, space, types: [d, "f16", "f16", c], ..plain }.check();
            }
            Case { shape, layouts, space: "", types: ["f32", "bf16", "bf16", "f32"], padding: 16, ..plain }.check();
            for kind in ["s8", "u8"] {
                for end in ["", ".satfinite"] {
                    Case { shape, layouts, types: ["s32", kind, kind, "s32"], end, ..plain }.check();
                }
            }
        }
    }
    for (at, layouts) in all.into_iter().enumerate() {
        let space = [".global", ".shared", ".shared::cta", ".global"][at];
        Case { shape: "m16n16k8", layouts, space, types: ["f32", "tf32", "tf32", "f32"], ..plain }.check();
    }
    for (space, last) in [(".global", "row"), (".shared", "col"), (".shared::cta", "row")] {
        let layouts = ["row", "col", last];
        for kind in ["s4", "u4"] {
            for end in ["", ".satfinite"] {
                Case { shape: "m8n8k32", layouts, space, types: ["s32", kind, kind, "s32"], end, ..plain }.check();
            }
        }
        for operation in [".xor.popc", ".and.popc"] {
            Case { shape: "m8n8k128", layouts, space, types: ["s32", "b1", "b1", "s32"], operation, ..plain }.check();
        }
    }
}

#[test]
fn products_of_doubles() {
    // A[i][k] = i + k / 4, B[k][j] = k - j, C = 1, all exact.
    for (rounding, space, layouts) in [
        ("", ".global", ["row", "col", "row"]),
        (".rn", "", ["row", "row", "col"]),
        (".rz", ".shared", ["col", "col", "row"]),
        (".rm", ".shared::cta", ["col", "row", "col"]),
        (".rp", ".global", ["row", "col", "col"]),
    ] {
        let mut words = vec![0u64; 192];
        let at = |layout: &str, rows: usize, columns: usize, row: usize, column: usize| match layout {
            "row" => row * columns + column,
            _ => column * rows + row,
        };
        for (i, k) in (0..8).flat_map(|i| (0..4).map(move |k| (i, k))) {
            words[at(layouts[0], 8, 4, i, k)] = (i as f64 + k as f64 / 4.0).to_bits();
            words[32 + at(layouts[1], 4, 8, k, i)] = (k as f64 - i as f64).to_bits();
        }
        words[64..128].fill(1f64.to_bits());
        let (base, fill) = if space.contains("shared") {
            let fill = "mov.u32 %r1, tile; mad.lo.u32 %r2, %r0, 32, %r1; mad.wide.u32 %rd2, %r0, 32, %rd0;\n\
                 ld.global.v4.b64 {%rd3, %rd4, %rd5, %rd6}, [%rd2];\n\
                 st.shared.v2.b64 [%r2], {%rd3, %rd4}; st.shared.v2.b64 [%r2+16], {%rd5, %rd6}; bar.sync 0;\n";
            ("%r1", fill)
        } else {
            ("%rd0", "")
        };
        let [a, b, c] = layouts;
        let body = format!(
            "{fill}wmma.load.a.sync.aligned.{a}.m8n8k4{space}.f64 {{%fd1}}, [{base}];\n\
             wmma.load.b.sync.aligned.{b}.m8n8k4{space}.f64 {{%fd2}}, [{base}+256];\n\
             wmma.load.c.sync.aligned.{c}.m8n8k4{space}.f64 {{%fd3, %fd4}}, [{base}+512];\n\
             wmma.mma.sync.aligned.{a}.{b}.m8n8k4{rounding}.f64.f64.f64.f64 {{%fd5, %fd6}}, {{%fd1}}, {{%fd2}}, {{%fd3, %fd4}};\n\
             wmma.store.d.sync.aligned.{c}.m8n8k4{space}.f64 [{base}+512], {{%fd5, %fd6}};\n\
             wmma.store.d.sync.aligned.{c}.m8n8k4.global.f64 [%rd0+1024], {{%fd5, %fd6}};"
        );
        let run = Run::new(&body).declare(".shared .align 256 .b8 tile[1024];");
        run.try_on(&mut words).unwrap_or_else(|fault| panic!("{fault}"));
        for (i, j) in (0..8).flat_map(|i| (0..8).map(move |j| (i, j))) {
            let sum: f64 = (0..4).map(|k| (i as f64 + k as f64 / 4.0) * (k as f64 - j as f64)).sum();
            assert_eq!(f64::from_bits(words[128 + at(c, 8, 8, i, j)]), sum + 1.0, "row {i}, column {j}");
        }
    }
}
