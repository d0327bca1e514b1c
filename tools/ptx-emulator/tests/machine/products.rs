//! `mma.sync` of every shape and type, dense and sparse, plain and block-scaled, against sums over matrices.
//!
//! Matrices are drawn at random, put into fragments as the ISA's section of each shape says, and multiplied in f64 here.

use ptx_emulator::numeric::format;
use ptx_emulator::tensor_core::accumulation::Accumulation;

use super::Run;
use super::trial::{Draw, Kind, Matrix, Registers, Sparse, pack, structure, warp};

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[
    dense_products,
    dense_products_of_integers,
    sums_of_integers_wrap_or_saturate,
    sparse_products,
    metadata_without_meaning_are_refused,
    block_scaled_products,
    scales_that_overflow_single_elements_do_not_matter,
    products_of_doubles,
    products_of_quad_pairs,
    the_hardware_cuts_off_what_one_rounding_keeps,
];

/// A's fragment: rows of `g` and `g + 8`, `E` elements from column `E t` on, and so on every `4 E`.
fn fragment_of_a(matrix: &Matrix, rows: usize, bits: u32) -> Registers {
    let each = 32 / bits as usize;
    let registers = rows * matrix.columns / each / 32;
    pack(registers, bits, |register, lane, at| {
        let (upper, block) = if rows == 8 { (0, register) } else { (register % 2, register / 2) };
        matrix.at(lane / 4 + 8 * upper, 4 * each * block + each * (lane % 4) + at).0
    })
}

/// B's fragment, of a matrix that has a row for each column of B.
fn fragment_of_b(matrix: &Matrix, bits: u32) -> Registers {
    let each = 32 / bits as usize;
    pack(8 * matrix.columns / each / 32, bits, |register, lane, at| {
        matrix.at(lane / 4, 4 * each * register + each * (lane % 4) + at).0
    })
}

/// Where a register of an accumulator, and its half where it has two, belongs.
fn place_of_sum(register: usize, lane: usize, half: usize, halves: bool) -> (usize, usize) {
    let (upper, column) = if halves { (register, half) } else { (register / 2, register % 2) };
    (lane / 4 + 8 * upper, 2 * (lane % 4) + column)
}

/// What is around a case of the table.
struct Case<'t> {
    target: &'static str,
    text: &'t str,
    /// The selector of a sparse A.
    selector: usize,
    /// Bytes and threads of the scales.
    scales: [usize; 4],
}

fn check(case: &Case<'_>) {
    let Case { target, text, selector, .. } = *case;
    let parts: Vec<&str> = text.split('.').collect();
    let shape = parts.iter().find(|part| part.starts_with('m') && part[1..2].parse::<u32>().is_ok()).unwrap();
    let sizes: Vec<usize> = shape[1..].split(['n', 'k']).map(|size| size.parse().unwrap()).collect();
    let (rows, depth) = (sizes[0], sizes[2]);
    let scaled = text.contains("block_scale");
    let end = parts.len() - if text.ends_with("popc") { 2 } else { usize::from(scaled) };
    let [result, a_kind, b_kind, addend] = parts[end - 4..end] else { panic!("{text}") };
    let padded = text.contains("f8f6f4");
    let (a_kind, b_kind) = (Kind::named(a_kind, padded), Kind::named(b_kind, padded));
    let mut draw = Draw(text.len() as u64 + depth as u64);
    let sparse = text.contains(".sp").then(|| Sparse::draw(rows, depth, a_kind, &mut draw));
    let dense;
    let (stored, a) = match &sparse {
        Some(sparse) => (&sparse.stored, &sparse.whole),
        None => {
            dense = Matrix::draw(rows, depth, a_kind, &mut draw);
            (&dense, &dense)
        }
    };
    let b = Matrix::draw(8, depth, b_kind, &mut draw);
    let integers = matches!(a_kind, Kind::Integer(..));
    let c_kind = if integers { Kind::Integer(12, true) } else { Kind::named("f16", false) };
    let c = Matrix::draw(rows, 8, c_kind, &mut draw);
    let words = |half: bool| rows * 8 / 32 / if half { 2 } else { 1 };
    let addends: Registers = (0..words(addend == "f16"))
        .map(|register| {
            std::array::from_fn(|lane| {
                let value = |half| {
                    let (row, column) = place_of_sum(register, lane, half, addend == "f16");
                    c.at(row, column)
                };
                match addend {
                    "f16" => value(0).0 | value(1).0 << 16,
                    "f32" => (value(0).1 as f32).to_bits(),
                    _ => value(0).1 as i32 as u32,
                }
            })
        })
        .collect();
    let mut operands = vec![fragment_of_a(stored, rows, a_kind.bits()), fragment_of_b(&b, b_kind.bits()), addends];
    let mut line = format!("{text} $0, $1, $2, $3");
    if let Some(sparse) = &sparse {
        // Types of 16 bits and more: 16 bits of both rows in a lane; narrower ones: 32 bits of one.
        let wide = a_kind.bits() >= 16;
        let row_bits = depth / structure(a_kind).0 * 4;
        let word = std::array::from_fn(|lane| {
            let (row, quarter) = (lane / 4, lane % 4);
            if wide {
                let part = quarter.wrapping_sub(row_bits / 16 * selector);
                if part >= row_bits / 16 {
                    return 0xdead_beef;
                }
                sparse.bits(row, 4 * part, 4, a_kind) | sparse.bits(row + 8, 4 * part, 4, a_kind) << 16
            } else {
                let part = (quarter / 2).wrapping_sub(row_bits / 32 * selector);
                if part >= row_bits / 32 {
                    return 0xdead_beef;
                }
                sparse.bits(row + 8 * (quarter % 2), 8 * part, 8, a_kind)
            }
        });
        operands.push(vec![word]);
        line.push_str(&format!(", @4, {selector}"));
    }
    let blocks = match text {
        _ if text.contains("4X") => 4,
        _ if text.contains("mxf8f6f4") => 1,
        _ => 2,
    };
    let ue4m3 = text.ends_with("ue4m3");
    let mut factors = |count: usize| -> Vec<(u32, f64)> {
        let mut one = || match ue4m3 {
            true => Kind::Float(format::UE4M3, 8).draw(&mut draw),
            false => {
                let code = 120 + draw.below(16);
                (code, f64::from(format::ue8m0(code as u8)))
            }
        };
        (0..count * blocks).map(|_| one()).collect()
    };
    let (a_scales, b_scales) = (factors(rows), factors(8));
    if scaled {
        let [a_byte, a_thread, b_byte, b_thread] = case.scales;
        let word = |scales: &[(u32, f64)], row: usize, byte: usize| {
            (0..blocks).fold(0, |all, block| all | scales[row * blocks + block].0 << (8 * (byte + block)))
        };
        let number = operands.len() + 1;
        operands.push(vec![std::array::from_fn(|lane| {
            let quarter = (lane % 4).wrapping_sub(2 * a_thread);
            if quarter < 2 { word(&a_scales, lane / 4 + 8 * quarter, a_byte) } else { 0xdead_beef }
        })]);
        operands.push(vec![std::array::from_fn(|lane| {
            if lane % 4 == b_thread { word(&b_scales, lane / 4, b_byte) } else { 0xdead_beef }
        })]);
        line.push_str(&format!(", @{number}, {{{a_byte}, {a_thread}}}, @{}, {{{b_byte}, {b_thread}}}", number + 1));
    }
    let found = warp(target, &format!("{line};"), words(result == "f16"), &operands, Accumulation::Once);
    for (register, lanes) in found.iter().enumerate() {
        for (lane, word) in lanes.iter().enumerate() {
            for half in 0..if result == "f16" { 2 } else { 1 } {
                let (row, column) = place_of_sum(register, lane, half, result == "f16");
                let product = |k: usize| {
                    let (x, y) = (a.at(row, k).1, b.at(column, k).1);
                    match text {
                        _ if text.contains(".xor.") => f64::from(x != y),
                        _ if scaled => {
                            let block = k / (depth / blocks);
                            x * y * a_scales[row * blocks + block].1 * b_scales[column * blocks + block].1
                        }
                        _ => x * y,
                    }
                };
                let sum = c.at(row, column).1 + (0..depth).map(product).sum::<f64>();
                let expected = match result {
                    "f16" => u32::from(half::f16::from_f64(sum).to_bits()),
                    "f32" => (sum as f32).to_bits(),
                    _ => sum as i32 as u32,
                };
                let word = if result == "f16" { *word >> (16 * half) & 0xffff } else { *word };
                assert_eq!(word, expected, "{text}: row {row}, column {column}: {sum}");
            }
        }
    }
}

fn plain(target: &'static str, text: &str) {
    check(&Case { target, text, selector: 0, scales: [0; 4] });
}

const F8F6F4: [&str; 5] = ["e4m3", "e5m2", "e3m2", "e2m3", "e2m1"];

#[test]
fn dense_products() {
    for (shape, kinds) in [
        ("m16n8k8", "f16.f16.f16.f16"),
        ("m16n8k8", "f32.f16.f16.f32"),
        ("m16n8k16", "f16.f16.f16.f16"),
        ("m16n8k16", "f32.f16.f16.f32"),
        ("m16n8k8", "f32.bf16.bf16.f32"),
        ("m16n8k16", "f32.bf16.bf16.f32"),
        ("m16n8k4", "f32.tf32.tf32.f32"),
        ("m16n8k8", "f32.tf32.tf32.f32"),
    ] {
        plain("sm_80", &format!("mma.sync.aligned.{shape}.row.col.{kinds}"));
    }
    for shape in ["m16n8k16", "m16n8k32"] {
        for kinds in ["f32.e4m3.e5m2.f32", "f16.e5m2.e4m3.f16"] {
            plain("sm_120a", &format!("mma.sync.aligned.{shape}.row.col.{kinds}"));
        }
    }
    for (a, b) in F8F6F4.iter().flat_map(|a| F8F6F4.map(|b| (a, b))) {
        plain("sm_120a", &format!("mma.sync.aligned.m16n8k32.row.col.kind::f8f6f4.f32.{a}.{b}.f32"));
        plain("sm_120a", &format!("mma.sync.aligned.m16n8k32.row.col.kind::f8f6f4.f16.{a}.{b}.f16"));
    }
}

#[test]
fn dense_products_of_integers() {
    for (signs, shapes) in
        [(["s8", "u8"], ["m8n8k16", "m16n8k16", "m16n8k32"]), (["s4", "u4"], ["m8n8k32", "m16n8k32", "m16n8k64"])]
    {
        for (a, b) in signs.iter().flat_map(|a| signs.map(|b| (a, b))) {
            for shape in shapes {
                plain("sm_80", &format!("mma.sync.aligned.{shape}.row.col.s32.{a}.{b}.s32"));
                plain("sm_80", &format!("mma.sync.aligned.{shape}.row.col.satfinite.s32.{a}.{b}.s32"));
            }
        }
    }
    for shape in ["m8n8k128", "m16n8k128", "m16n8k256"] {
        for operation in ["xor", "and"] {
            plain("sm_80", &format!("mma.sync.aligned.{shape}.row.col.s32.b1.b1.s32.{operation}.popc"));
        }
    }
}

#[test]
fn sums_of_integers_wrap_or_saturate() {
    let text = |saturate: &str| format!("mma.sync.aligned.m8n8k16.row.col{saturate}.s32.s8.s8.s32 $0, $1, $2, $3;");
    let operands = |addend: i32| vec![vec![[0x0101_0101; 32]], vec![[0x7f7f_7f7f; 32]], vec![[addend as u32; 32]; 2]];
    let run = |saturate, addend| warp("sm_80", &text(saturate), 2, &operands(addend), Accumulation::Once)[1][5] as i32;
    assert_eq!(run("", 5), 16 * 127 + 5);
    assert_eq!(run("", i32::MAX), i32::MAX.wrapping_add(16 * 127));
    assert_eq!(run(".satfinite", i32::MAX - 7), i32::MAX);
}

#[test]
fn sparse_products() {
    let check = |target, text: &str, selector| check(&Case { target, text, selector, scales: [0; 4] });
    for variant in ["sp", "sp::ordered_metadata"] {
        for (shape, kinds, selectors) in [
            ("m16n8k16", "f16.f16.f16.f16", 4),
            ("m16n8k16", "f32.f16.f16.f32", 4),
            ("m16n8k32", "f16.f16.f16.f16", 2),
            ("m16n8k32", "f32.f16.f16.f32", 2),
            ("m16n8k16", "f32.bf16.bf16.f32", 4),
            ("m16n8k32", "f32.bf16.bf16.f32", 2),
            ("m16n8k8", "f32.tf32.tf32.f32", 4),
            ("m16n8k16", "f32.tf32.tf32.f32", 2),
            ("m16n8k64", "f32.e4m3.e5m2.f32", 1),
            ("m16n8k64", "f32.e5m2.e4m3.f32", 1),
        ] {
            for selector in 0..selectors {
                check("sm_90a", &format!("mma.{variant}.sync.aligned.{shape}.row.col.{kinds}"), selector);
            }
        }
        for (signs, shapes) in [(["s8", "u8"], ["m16n8k32", "m16n8k64"]), (["s4", "u4"], ["m16n8k64", "m16n8k128"])] {
            for (a, b) in signs.iter().flat_map(|a| signs.map(|b| (a, b))) {
                for (shape, selector) in [(shapes[0], 0), (shapes[0], 1), (shapes[1], 0)] {
                    for saturate in ["", ".satfinite"] {
                        let text = format!("mma.{variant}.sync.aligned.{shape}.row.col{saturate}.s32.{a}.{b}.s32");
                        check("sm_80", &text, selector);
                    }
                }
            }
        }
    }
    for (a, b) in F8F6F4.iter().flat_map(|a| F8F6F4.map(|b| (a, b))) {
        for kinds in [format!("f32.{a}.{b}.f32"), format!("f16.{a}.{b}.f16")] {
            let text = format!("mma.sp::ordered_metadata.sync.aligned.m16n8k64.row.col.kind::f8f6f4.{kinds}");
            check("sm_120a", &text, 0);
        }
    }
}

#[test]
fn metadata_without_meaning_are_refused() {
    let run = |variant: &str, metadata: u32| {
        let body = format!(
            "mov.b32 %r1, {metadata}; mov.b32 %r2, 0; mov.f32 %f0, 0f00000000;\n\
             mma.{variant}.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {{%f4, %f5, %f6, %f7}}, {{%r2, %r2}}, {{%r2, %r2}}, \
             {{%f0, %f0, %f0, %f0}}, %r1, 0;"
        );
        Run::new(&body).try_on(&mut [0; 64]).map(drop).map_err(|fault| fault.to_string())
    };
    assert!(run("sp", 0x1111_1111).is_ok());
    let unordered = run("sp::ordered_metadata", 0x4444_4414).unwrap_err();
    assert!(
        unordered.contains("0b0001 of row 0, elements 4 to 7, are not two places in increasing order"),
        "{unordered}"
    );
    assert!(run("sp", 0x0000_4444).unwrap_err().contains("row 8"));
}

#[test]
fn block_scaled_products() {
    let check = |text: &str, scales| check(&Case { target: "sm_120a", text, selector: 0, scales });
    for (variant, depths) in [("", ["64", "32"]), (".sp::ordered_metadata", ["128", "64"])] {
        let start = |depth: &str| format!("mma{variant}.sync.aligned.m16n8k{depth}.row.col");
        for (kind, end) in [
            ("mxf4.block_scale", "ue8m0"),
            ("mxf4.block_scale.scale_vec::2X", "ue8m0"),
            ("mxf4nvf4.block_scale.scale_vec::2X", "ue8m0"),
            ("mxf4nvf4.block_scale.scale_vec::4X", "ue8m0"),
            ("mxf4nvf4.block_scale.scale_vec::4X", "ue4m3"),
        ] {
            let text = format!("{}.kind::{kind}.f32.e2m1.e2m1.f32.{end}", start(depths[0]));
            let bytes: &[usize] = if kind.ends_with("4X") { &[0] } else { &[0, 2] };
            for byte in bytes {
                check(&text, [*byte, 1, 0, 3]);
                check(&text, [0, 0, *byte, 1]);
            }
        }
        for (a, b) in F8F6F4.iter().flat_map(|a| F8F6F4.map(|b| (a, b))) {
            for (size, scales) in [("", [1, 0, 3, 2]), (".scale_vec::1X", [2, 1, 0, 0])] {
                let text = format!("{}.kind::mxf8f6f4.block_scale{size}.f32.{a}.{b}.f32.ue8m0", start(depths[1]));
                check(&text, scales);
            }
        }
    }
}

#[test]
fn scales_that_overflow_single_elements_do_not_matter() {
    // 448 · 2^127 is beyond f32; with B's scale of 2^-127 the product is not.
    let operands = vec![
        vec![[0x7e7e_7e7e; 32]; 4],
        vec![[0x3838_3838; 32]; 2],
        vec![[0; 32]; 4],
        vec![[0xfefe_fefe; 32]],
        vec![[0; 32]],
    ];
    let text = "mma.sync.aligned.m16n8k32.row.col.kind::mxf8f6f4.block_scale.f32.e4m3.e4m3.f32.ue8m0 \
                $0, $1, $2, $3, @4, {0, 0}, @5, {0, 0};";
    let found = warp("sm_120a", text, 4, &operands, Accumulation::Once);
    assert_eq!(f32::from_bits(found[3][7]), 448.0 * 32.0);
}

#[test]
fn products_of_doubles() {
    for (shape, rows, depth) in [("m8n8k4", 8, 4), ("m16n8k4", 16, 4), ("m16n8k8", 16, 8), ("m16n8k16", 16, 16)] {
        for rounding in ["", ".rn", ".rz", ".rm", ".rp"] {
            let sums = rows * 8 / 32;
            let (a, b) = (rows * depth / 32, 8 * depth / 32);
            let list = |name: &str, count: usize| {
                let names: Vec<String> = (0..count).map(|at| format!("{name}{at}")).collect();
                format!("{{{}}}", names.join(", "))
            };
            // A[i][k] = i + 1, B[k][j] = (j + 1) / 3, C = 0: each step is rounded.
            let mut body = format!(
                ".reg .f64 a<{a}>, b<{b}>, c<{sums}>, d<{sums}>, t; shr.u32 %r1, %r0, 2;\n\
                 cvt.rn.f64.u32 t, %r1; add.rn.f64 t, t, 0d3FF0000000000000;\n"
            );
            for at in 0..a {
                let upper = if rows == 16 && at % 2 == 1 { "0d4020000000000000" } else { "0d0000000000000000" };
                body.push_str(&format!("add.rn.f64 a{at}, t, {upper};\n"));
            }
            (0..b).for_each(|at| body.push_str(&format!("div.rn.f64 b{at}, t, 0d4008000000000000;\n")));
            (0..sums).for_each(|at| body.push_str(&format!("mov.f64 c{at}, 0d0000000000000000;\n")));
            body.push_str(&format!(
                "mma.sync.aligned.{shape}.row.col.f64.f64.f64.f64{rounding} {}, {}, {}, {};\n\
                 mad.wide.u32 %rd1, %r0, {}, %rd0;\n",
                list("d", sums),
                list("a", a),
                list("b", b),
                list("c", sums),
                8 * sums
            ));
            (0..sums).for_each(|at| body.push_str(&format!("st.global.f64 [%rd1+{}], d{at};\n", 8 * at)));
            let words = Run::new(&body).target("sm_90a").words(32 * sums);
            for (at, word) in words.iter().enumerate() {
                let (lane, register) = (at / sums, at % sums);
                let (row, column) = place_of_sum(register, lane, 0, false);
                let (x, y) = ((row + 1) as f64, (column + 1) as f64 / 3.0);
                let (found, near) = (f64::from_bits(*word), (0..depth).fold(0f64, |sum, _| x.mul_add(y, sum)));
                match rounding {
                    "" | ".rn" => assert_eq!(found, near),
                    ".rp" => assert!(found >= near * (1.0 - 1e-15) && found - near <= near * 1e-14),
                    _ => assert!(found <= near * (1.0 + 1e-15) && near - found <= near * 1e-14),
                }
            }
            if rounding == ".rz" {
                let sum = words.iter().map(|word| f64::from_bits(*word)).sum::<f64>();
                let exact = (0..depth).map(|_| if rows == 8 { 36.0 * 12.0 } else { 136.0 * 12.0 }).sum::<f64>();
                assert!(sum <= exact, "{sum} {exact}");
            }
        }
    }
}

/// `m8n8k4` of f16: four products at once, of the lanes of four pairs of quads.
#[test]
fn products_of_quad_pairs() {
    let kind = Kind::named("f16", false);
    for (a_layout, b_layout) in [("row", "row"), ("row", "col"), ("col", "row"), ("col", "col")] {
        for (d_kind, c_kind) in [("f16", "f16"), ("f32", "f16"), ("f32", "f32")] {
            let mut draw = Draw(7);
            let all: Vec<[Matrix; 3]> = (0..4)
                .map(|_| [(8, 4), (8, 4), (8, 8)].map(|(rows, columns)| Matrix::draw(rows, columns, kind, &mut draw)))
                .collect();
            let (upper, pair) = (|lane: usize| lane / 16 * 4, |lane: usize| lane / 4 % 4);
            let side = |matrix: usize, straight: bool| {
                pack(2, 16, |register, lane, at| {
                    let (element, own) = (2 * register + at, lane % 4);
                    let (row, k) = if straight { (own + upper(lane), element) } else { (element + upper(lane), own) };
                    all[pair(lane)][matrix].at(row, k).0
                })
            };
            let place = |lane: usize, i: usize, half: bool| match half {
                true => (lane % 4 + upper(lane), i),
                false => ((lane & 1) + (i & 2) + upper(lane), (i & 4) + (lane & 2) + (i & 1)),
            };
            let addend = |lane: usize, i: usize| {
                let (row, column) = place(lane, i, c_kind == "f16");
                all[pair(lane)][2].at(row, column)
            };
            let c = match c_kind {
                "f16" => pack(4, 16, |register, lane, at| addend(lane, 2 * register + at).0),
                _ => pack(8, 32, |register, lane, _| (addend(lane, register).1 as f32).to_bits()),
            };
            let operands = vec![side(0, a_layout == "row"), side(1, b_layout == "col"), c];
            let text =
                format!("mma.sync.aligned.m8n8k4.{a_layout}.{b_layout}.{d_kind}.f16.f16.{c_kind} $0, $1, $2, $3;");
            let half = d_kind == "f16";
            let found = warp("sm_80", &text, if half { 4 } else { 8 }, &operands, Accumulation::Once);
            for (lane, i) in (0..32).flat_map(|lane| (0..8).map(move |i| (lane, i))) {
                let (row, column) = place(lane, i, half);
                let [a, b, c] = &all[pair(lane)];
                let sum = (0..4).map(|k| a.at(row, k).1 * b.at(column, k).1).sum::<f64>() + c.at(row, column).1;
                let value = match half {
                    true => half::f16::from_bits((found[i / 2][lane] >> (16 * (i % 2))) as u16).to_f64(),
                    false => f64::from(f32::from_bits(found[i][lane])),
                };
                assert_eq!(value, if half { half::f16::from_f64(sum).to_f64() } else { sum }, "{text}");
            }
        }
    }
}

#[test]
fn the_hardware_cuts_off_what_one_rounding_keeps() {
    let a = pack(4, 16, |_, _, _| 0x2c00);
    let b = pack(2, 16, |_, _, _| 0x0200);
    let operands = vec![a, b, vec![[64f32.to_bits(); 32]; 4]];
    let text = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 $0, $1, $2, $3;";
    let product = half::f16::from_bits(0x2c00).to_f32() * half::f16::from_bits(0x0200).to_f32();
    assert_eq!(product, 2f32.powi(-19));
    let run = |target, how| f32::from_bits(warp(target, text, 4, &operands, how)[0][0]);
    // 64 has its last bit of 25 at 2^-19, of 24 at 2^-18.
    assert_eq!(run("sm_80", Accumulation::Once), 64.0 + 16.0 * product);
    assert_eq!(run("sm_80", Accumulation::Hardware), 64.0);
    assert_eq!(run("sm_90", Accumulation::Hardware), 64.0 + 16.0 * product);
}
