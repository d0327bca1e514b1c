//! `tcgen05.mma` of every kind, dense and sparse, of one CTA and of pairs, with weights that stay, and with block scales, against sums.

use ptx_emulator::numeric::format;

use super::Run;
use super::tensor_memory_moves::{SWIZZLES, around, descriptor};
use super::trial::{Draw, Kind, Matrix, Sparse, Trial};
use super::warpgroup::Layout;

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[
    products_of_one_cta,
    products_of_pairs,
    sparse_products,
    products_whose_weights_stay,
    block_scaled_products,
    products_of_depth_96,
    disabled_lanes_and_scaled_accumulators,
];

/// Columns of tensor memory: D, A, metadata, and the scales of A and B.
const D: usize = 0;
const A: usize = 64;
const METADATA: usize = 100;
const SCALES: [usize; 2] = [104, 112];
const COLUMNS: usize = 128;

#[derive(Clone)]
struct Case<'t> {
    kind: &'t str,
    /// The types of D, A and B.
    types: [&'t str; 3],
    rows: usize,
    columns: usize,
    pair: bool,
    sparse: Option<usize>,
    /// Whether the depth is 96.
    deep: bool,
    stationary: bool,
    a_in_tensor_memory: bool,
    shifted: bool,
    /// Of A and B in shared memory.
    layouts: [Layout; 2],
    negate: u32,
    counts: bool,
    /// The name of the scales' size, and their type.
    scales: &'t str,
    ue4m3: bool,
    /// The bytes where A's and B's scales start.
    bytes: [usize; 2],
    saturate: bool,
    collector: &'t str,
    /// Columns of B that count as zeros, and how far columns are shifted.
    zeros: Option<u64>,
    /// Lanes that are not written, and by how much the accumulator is scaled down.
    disabled: Option<[u32; 4]>,
    down: Option<u32>,
}

impl<'t> Case<'t> {
    fn new(kind: &'t str, types: [&'t str; 3], rows: usize, columns: usize) -> Case<'t> {
        Case {
            kind,
            types,
            rows,
            columns,
            pair: false,
            sparse: None,
            deep: false,
            stationary: false,
            a_in_tensor_memory: false,
            shifted: false,
            layouts: [Layout::PLAIN; 2],
            negate: 0,
            counts: true,
            scales: "",
            ue4m3: false,
            bytes: [0; 2],
            saturate: false,
            collector: "",
            zeros: None,
            disabled: None,
            down: None,
        }
    }

    fn scaled(&self) -> bool {
        self.kind.starts_with("mx")
    }

    fn descriptor(&self) -> u32 {
        let [result, a, b] = self.types;
        let code = |name: &str| match (self.kind, name) {
            ("mxf4" | "mxf4nvf4", _) | (_, "bf16" | "s8" | "e5m2") => 1,
            (_, "tf32") => 2,
            (_, "e2m3") => 3,
            (_, "e3m2") => 4,
            (_, "e2m1") => 5,
            _ => 0,
        };
        let transposed = |at: usize| u32::from(self.layouts[at].transposed);
        let common = u32::from(self.sparse.is_some()) << 2
            | code(a) << 7
            | code(b) << 10
            | self.negate << 13
            | transposed(0) << 15
            | transposed(1) << 16
            | (self.columns as u32 / 8) << 17;
        if self.scaled() {
            let [a_byte, b_byte] = self.bytes.map(|byte| byte as u32);
            common
                | u32::from(self.deep) << 31
                | b_byte << 4
                | u32::from(!self.ue4m3) << 23
                | (self.rows as u32 / 128) << 27
                | a_byte << 29
        } else {
            let result = match result {
                "f16" => 0,
                "f32" => 1,
                _ => 2,
            };
            let shift = if self.zeros.is_some() { 3 << 30 } else { 0 };
            let selector = self.sparse.unwrap_or(0) as u32;
            common | selector | u32::from(self.saturate) << 3 | result << 4 | (self.rows as u32 / 16) << 24 | shift
        }
    }

    /// The lane of a row of a CTA's part of A, and of its metadata.
    fn lane(&self, row: usize, rows: usize) -> usize {
        let halves = rows == 64 && !self.stationary && (!self.pair || self.sparse.is_some());
        if halves { row / 16 * 32 + row % 16 } else { row }
    }

    /// The lane and column of an element of a CTA's part of D.
    fn place(&self, row: usize, column: usize, rows: usize) -> (usize, usize) {
        let folded = rows < 128 && self.lane(16, rows) == 16;
        let width = if folded { self.columns * rows / 128 } else { self.columns };
        (self.lane(row, rows) + column / width * rows, column % width)
    }

    fn check(&self) {
        let [result, a_name, b_name] = self.types;
        let padded = !matches!(self.kind, "mxf4" | "mxf4nvf4");
        let (a_kind, b_kind) = (Kind::named(a_name, padded), Kind::named(b_name, padded));
        let bits = a_kind.bits();
        let depth = match (self.deep, self.sparse.is_some()) {
            (true, _) => 96,
            (false, true) => 512 / bits as usize,
            (false, false) => 256 / bits as usize,
        };
        let mut draw = Draw((self.columns + self.rows) as u64);
        // Rows that are shifted come to the metadata of others.
        let drawn = if self.shifted { Sparse::draw_alike } else { Sparse::draw };
        let sparse = self.sparse.map(|_| drawn(self.rows, depth, a_kind, &mut draw));
        let dense = Matrix::draw(self.rows, depth, a_kind, &mut draw);
        let (stored, a) = sparse.as_ref().map_or((&dense, &dense), |sparse| (&sparse.stored, &sparse.whole));
        let extra = if self.zeros.is_some() { 32 } else { 0 };
        let b = Matrix::draw(self.columns + extra, depth, b_kind, &mut draw);
        let c = Matrix::draw(self.rows, self.columns, Kind::Integer(8, true), &mut draw);
        let ctas = if self.pair { 2 } else { 1 };
        let rows = self.rows / ctas;
        let blocks = match self.scales {
            ".scale_vec::4X" | ".block16" => 4,
            _ if self.kind == "mxf8f6f4" => 1,
            _ => 2,
        };
        let blocks = if self.deep { blocks * 3 / 2 } else { blocks };
        let mut factors = |count: usize| -> Vec<(u32, f64)> {
            let mut one = || match self.ue4m3 {
                true => Kind::Float(format::UE4M3, 8).draw(&mut draw),
                false => {
                    let code = 124 + draw.below(8);
                    (code, f64::from(format::ue8m0(code as u8)))
                }
            };
            (0..count * blocks).map(|_| one()).collect()
        };
        let scales = [factors(self.rows), factors(self.columns)];
        let bits_of = |value: f64| match result {
            "f16" => u32::from(half::f16::from_f64(value).to_bits()),
            "f32" => (value as f32).to_bits(),
            _ => value as i32 as u32,
        };

        // Tensor memory of each CTA: a register for each column, a thread for each lane.
        let mut tensor = vec![vec![0x1234_5678u32; 128 * ctas]; COLUMNS];
        let (mut images, mut starts) = (vec![], [(0, 0); 2]);
        for cta in 0..ctas {
            let mine = |row: usize| cta * rows + row;
            for row in 0..rows {
                for column in 0..self.columns {
                    let (lane, at) = self.place(row, column, rows);
                    tensor[D + at][128 * cta + lane] = bits_of(c.at(mine(row), column).1);
                }
                if self.a_in_tensor_memory {
                    let each = 32 / bits as usize;
                    for word in 0..stored.columns / each {
                        let value = (0..each).fold(0, |all, at| {
                            all | stored.at(mine(row), word * each + at).0 << (at as u32 * bits % 32)
                        });
                        tensor[A + word][128 * cta + self.lane(row, rows)] = value;
                    }
                }
                if let (Some(sparse), Some(selector)) = (&sparse, self.sparse) {
                    if bits >= 16 {
                        for part in 0..2 {
                            let at = self.lane(row / 16 * 16 + row % 8 + 8 * part, rows);
                            let word = &mut tensor[METADATA + selector][128 * cta + at];
                            let shift = 16 * (row / 8 % 2);
                            *word = *word & !(0xffff << shift) | sparse.bits(mine(row), 4 * part, 4, a_kind) << shift;
                        }
                    } else {
                        for part in 0..2 {
                            tensor[METADATA + part][128 * cta + self.lane(row, rows)] =
                                sparse.bits(mine(row), 8 * part, 8, a_kind);
                        }
                    }
                }
            }
            if self.scaled() {
                // A scale is in all quarters; B's of the columns of the second half in the second half of lanes, if D is folded.
                let folded = self.pair && self.rows == 128;
                for (side, of) in [rows, self.columns].into_iter().enumerate() {
                    for row in 0..of {
                        let source = if side == 0 { mine(row) } else { row };
                        let halves = side == 1 && folded;
                        let (half, at) = if halves { (row / (of / 2), row % (of / 2)) } else { (0, row) };
                        for block in 0..blocks {
                            // Beyond a word they go on after the columns of 128 rows.
                            let (next, shift) =
                                ((self.bytes[side] + block) / 4 * 4, (self.bytes[side] + block) % 4 * 8);
                            for quarter in if halves { 2 * half..2 * half + 2 } else { 0..4 } {
                                let word =
                                    &mut tensor[SCALES[side] + next + at / 32][128 * cta + 32 * quarter + at % 32];
                                *word = *word & !(0xff << shift) | scales[side][source * blocks + block].0 << shift;
                            }
                        }
                    }
                }
            }
            let part = |matrix: &Matrix, first: usize, count: usize| Matrix {
                columns: matrix.columns,
                elements: matrix.elements[first * matrix.columns..][..count * matrix.columns].to_vec(),
            };
            let mut image = vec![];
            let own = self.columns / ctas;
            // Elements of 4 and 6 bits are packed in 16 bytes where they are not packed tightly.
            let packed = |matrix: Matrix, name: &str| match name {
                "e2m1" if padded => repack(&matrix, 4, 2),
                "e2m3" | "e3m2" => repack(&matrix, 6, 0),
                _ => matrix,
            };
            let a_part = packed(part(stored, mine(0), rows), a_name);
            let b_part = packed(part(&b, cta * own, own + extra), b_name);
            starts[0] = self.layouts[0].put(&a_part, bits, &mut image, SWIZZLES);
            starts[1] = self.layouts[1].put(&b_part, bits, &mut image, SWIZZLES);
            images.push(image);
        }

        let group = if self.pair { "cta_group::2" } else { "cta_group::1" };
        let mut text = format!(
            "add.u32 %r8, %r6, {A}; add.u32 %r9, %r6, {METADATA}; add.u32 %r10, %r6, {}; add.u32 %r11, %r6, {};\n",
            SCALES[0], SCALES[1]
        );
        text.push_str(&descriptor("%rd4", starts[0].0, starts[0].1));
        text.push_str(&descriptor("%rd5", starts[1].0, starts[1].1));
        let shift_name = if self.shifted { ".ashift" } else { "" };
        let scaled_name = if self.scaled() { ".block_scale" } else { "" };
        let name = match (self.stationary, self.sparse.is_some()) {
            (true, true) => ".ws.sp",
            (true, false) => ".ws",
            (false, true) => ".sp",
            _ => "",
        };
        let a_operand = if self.a_in_tensor_memory { "[%r8]" } else { "%rd4" };
        let metadata = if self.sparse.is_some() { " [%r9]," } else { "" };
        let mut more = String::new();
        if self.scaled() {
            more.push_str(" [%r10], [%r11],");
        }
        if let Some(mask) = self.disabled {
            let words = mask.repeat(ctas).iter().map(|word| format!("%m{word:x}")).collect::<Vec<_>>();
            let mut unique = words.clone();
            unique.sort();
            unique.dedup();
            for word in unique {
                text.push_str(&format!(".reg .b32 {word}; mov.b32 {word}, 0x{};\n", &word[2..]));
            }
            more.push_str(&format!(" {{{}}},", words.join(", ")));
        }
        more.push_str(if self.counts { " %p5" } else { " %p6" });
        if let Some(zeros) = self.zeros {
            text.push_str(&format!("mov.b64 %rd6, {};\n", zeros as i64));
            more.push_str(", %rd6");
        }
        if let Some(down) = self.down {
            more.push_str(&format!(", {down}"));
        }
        text.push_str(&format!(
            "mov.b32 %r13, {}; setp.eq.u32 %p5, %r0, %r0; not.pred %p6, %p5;",
            self.descriptor() as i32
        ));
        let issue = format!(
            "tcgen05.mma{name}.{group}.kind::{}{scaled_name}{}{shift_name}{} [%r6], {a_operand}, %rd5,{metadata} %r13,{more};",
            self.kind, self.scales, self.collector
        );
        let text = around(group, COLUMNS, &text, &issue);
        let longest = images.iter().map(Vec::len).max().unwrap_or(0).next_multiple_of(128);
        let mut shared = vec![];
        for image in &images {
            shared.extend_from_slice(image);
            shared.resize(shared.len() + longest - image.len(), 0);
        }
        let operands = [tensor.clone()];
        let target = if self.deep { "sm_103a" } else { "sm_100a" };
        let trial = Trial { target, operands: &operands, ctas, ..Trial::of_warpgroup(&text, &shared) };
        let found = trial.run();
        for (row, column) in (0..self.rows).flat_map(|row| (0..self.columns).map(move |column| (row, column))) {
            let (cta, within) = (row / rows, row % rows);
            let (lane, at) = self.place(within, column, rows);
            let word = found[D + at][128 * cta + lane];
            if self.disabled.is_some_and(|mask| mask[lane / 32] >> (lane % 32) & 1 != 0) {
                assert_eq!(word, tensor[D + at][128 * cta + lane], "{text}: a disabled lane is written");
                continue;
            }
            let source = if self.shifted && within + 1 < rows { row + 1 } else { row };
            let (zero, shift) = self.zeros.map_or((false, 0), |bits| (is_zero(bits, column), (bits >> 56) as usize));
            let product = |k: usize| {
                let factor = match self.scaled() {
                    true => {
                        let block = k / (depth / blocks);
                        scales[0][row * blocks + block].1 * scales[1][column * blocks + block].1
                    }
                    false => 1.0,
                };
                a.at(source, k).1 * b.at(column + shift, k).1 * factor
            };
            // Integers are not scaled.
            let down = self.down.filter(|_| self.kind != "i8").unwrap_or(0);
            let sum = if zero { 0.0 } else { (0..depth).map(product).sum::<f64>() };
            let sum = if self.negate.count_ones() == 1 { -sum } else { sum };
            let addend = if self.counts { c.at(row, column).1 } else { 0.0 } * 0.5f64.powi(down as i32);
            let total = sum + addend;
            assert_eq!(word, bits_of(total), "{text}: row {row}, column {column}: {total}");
        }
    }
}

/// Whether a column counts as zeros, with M = 128: spans of `skip` zeros and `used` others, which come first.
fn is_zero(bits: u64, column: usize) -> bool {
    let (skip, used) = ((bits >> 40 & 0xff) as usize + 1, (bits >> 48 & 0xff) as usize + 1);
    bits >> 39 & 1 != 0 && column % (skip + used) >= used
}

/// Packs groups of 16 elements, which are bytes, into their bits, followed by zeros up to 16 bytes.
fn repack(matrix: &Matrix, width: usize, shift: usize) -> Matrix {
    let mut elements = vec![];
    for group in matrix.elements.chunks(16) {
        let all = group
            .iter()
            .enumerate()
            .fold(0u128, |all, (at, (bits, _))| all | u128::from(bits >> shift) << (at * width));
        elements.extend(all.to_le_bytes().iter().map(|byte| (u32::from(*byte), 0.0)));
    }
    Matrix { columns: matrix.columns, elements }
}

const KINDS: [(&str, [&str; 3]); 10] = [
    ("f16", ["f16", "f16", "f16"]),
    ("f16", ["f32", "f16", "f16"]),
    ("f16", ["f32", "bf16", "bf16"]),
    ("tf32", ["f32", "tf32", "tf32"]),
    ("f8f6f4", ["f32", "e4m3", "e5m2"]),
    ("f8f6f4", ["f16", "e5m2", "e4m3"]),
    ("f8f6f4", ["f32", "e2m3", "e3m2"]),
    ("f8f6f4", ["f32", "e3m2", "e2m1"]),
    ("i8", ["s32", "s8", "u8"]),
    ("i8", ["s32", "u8", "s8"]),
];

const COLLECTORS: [&str; 4] =
    [".collector::a::fill", ".collector::a::use", ".collector::a::lastuse", ".collector::a::discard"];

#[test]
fn products_of_one_cta() {
    for (at, (kind, types)) in KINDS.into_iter().enumerate() {
        for rows in [64, 128] {
            let case = Case { collector: COLLECTORS[at % 4], ..Case::new(kind, types, rows, 32) };
            case.check();
            Case { a_in_tensor_memory: true, collector: "", counts: false, ..case.clone() }.check();
            let swizzled = |span| Layout { span, transposed: false };
            for span in [32, 64, 128] {
                Case { layouts: [swizzled(span), swizzled(span)], ..case.clone() }.check();
            }
            if kind != "i8" {
                Case { negate: 1, ..case.clone() }.check();
                Case { negate: 2, ..case.clone() }.check();
            } else {
                Case { saturate: true, ..case.clone() }.check();
            }
        }
        Case { a_in_tensor_memory: true, shifted: true, ..Case::new(kind, types, 128, 8) }.check();
    }
    for (kind, types) in [KINDS[0], KINDS[2]] {
        for span in [16, 32, 64, 128] {
            let layout = Layout { span, transposed: true };
            Case { layouts: [layout, Layout::PLAIN], ..Case::new(kind, types, 128, 64) }.check();
            Case { layouts: [Layout::PLAIN, layout], ..Case::new(kind, types, 64, 64) }.check();
        }
    }
}

#[test]
fn products_of_pairs() {
    for (kind, types) in KINDS {
        for rows in [128, 256] {
            let case = Case { pair: true, ..Case::new(kind, types, rows, 32) };
            case.check();
            Case { a_in_tensor_memory: true, ..case.clone() }.check();
        }
        Case { pair: true, a_in_tensor_memory: true, shifted: true, ..Case::new(kind, types, 256, 32) }.check();
    }
}

#[test]
fn sparse_products() {
    for (at, (kind, types)) in KINDS.into_iter().enumerate() {
        let selectors = if matches!(kind, "f16" | "tf32") { 2 } else { 1 };
        for (selector, (rows, pair)) in (0..selectors)
            .flat_map(|selector| [(64, false), (128, false), (128, true), (256, true)].map(|shape| (selector, shape)))
        {
            let case = Case { sparse: Some(selector), pair, ..Case::new(kind, types, rows, 32) };
            Case { collector: COLLECTORS[at % 4], ..case.clone() }.check();
            Case { a_in_tensor_memory: true, ..case.clone() }.check();
        }
        Case { sparse: Some(0), a_in_tensor_memory: true, shifted: true, ..Case::new(kind, types, 128, 8) }.check();
    }
}

#[test]
fn products_whose_weights_stay() {
    let mut collectors = (0..4).flat_map(|buffer| {
        ["fill", "use", "lastuse", "discard"].map(|operation| format!(".collector::b{buffer}::{operation}"))
    });
    let collectors: Vec<String> = collectors.by_ref().collect();
    let mut next = 0;
    for (kind, types) in KINDS {
        for rows in [32, 64, 128] {
            let collector = &collectors[next % 16];
            next += 1;
            let case = Case { stationary: true, collector, ..Case::new(kind, types, rows, 64) };
            case.check();
            Case { a_in_tensor_memory: true, counts: false, ..case.clone() }.check();
            Case { sparse: Some(0), ..case.clone() }.check();
            Case { sparse: Some(0), a_in_tensor_memory: true, ..case.clone() }.check();
        }
        // Three columns of zeros after each four that are used; B from its third column on.
        let zeros = 1 << 39 | 2 << 40 | 3 << 48 | 2 << 56;
        Case { stationary: true, zeros: Some(zeros), ..Case::new(kind, types, 128, 64) }.check();
        Case { stationary: true, zeros: Some(zeros), sparse: Some(0), ..Case::new(kind, types, 128, 64) }.check();
    }
}

#[test]
fn block_scaled_products() {
    let fp4 = ["f32", "e2m1", "e2m1"];
    for sparse in [None, Some(0)] {
        for (rows, pair) in [(128, false), (128, true), (256, true)] {
            if sparse.is_some() && pair && rows == 128 {
                continue;
            }
            for (at, (a, b)) in
                [("e4m3", "e5m2"), ("e5m2", "e3m2"), ("e3m2", "e2m3"), ("e2m3", "e2m1"), ("e2m1", "e4m3")]
                    .into_iter()
                    .enumerate()
            {
                let scales = ["", ".scale_vec::1X", ".block32"][at % 3];
                let case = Case { sparse, pair, scales, ..Case::new("mxf8f6f4", ["f32", a, b], rows, 64) };
                Case { bytes: [at % 4, 3 - at % 4], collector: COLLECTORS[at % 4], ..case.clone() }.check();
                Case { a_in_tensor_memory: true, ..case }.check();
            }
            for scales in ["", ".scale_vec::2X", ".block32"] {
                Case { sparse, pair, scales, bytes: [2, 0], ..Case::new("mxf4", fp4, rows, 64) }.check();
            }
            for (scales, ue4m3) in [
                (".scale_vec::2X", false),
                (".block32", false),
                (".scale_vec::4X", false),
                (".block16", false),
                (".scale_vec::4X", true),
                (".block16", true),
            ] {
                Case { sparse, pair, scales, ue4m3, ..Case::new("mxf4nvf4", fp4, rows, 64) }.check();
            }
        }
    }
}

/// Three or six scales of a row, from any byte or half of a word on.
#[test]
fn products_of_depth_96() {
    let fp4 = ["f32", "e2m1", "e2m1"];
    for (rows, pair) in [(128, false), (256, true)] {
        let new = |kind| Case { deep: true, pair, ..Case::new(kind, fp4, rows, 64) };
        for bytes in [[0, 1], [1, 2], [2, 3], [3, 0]] {
            Case { scales: ".block32", bytes, ..new("mxf4") }.check();
        }
        for (bytes, ue4m3) in [([0, 2], false), ([2, 0], true)] {
            let case = Case { scales: ".block16", bytes, ue4m3, ..new("mxf4nvf4") };
            case.check();
            Case { a_in_tensor_memory: true, ..case.clone() }.check();
            for span in [64, 128] {
                Case { layouts: [Layout { span, transposed: false }; 2], negate: 1, ..case.clone() }.check();
            }
        }
    }
}

#[test]
fn disabled_lanes_and_scaled_accumulators() {
    for pair in [false, true] {
        let case = Case { pair, ..Case::new("f16", ["f32", "f16", "f16"], if pair { 256 } else { 128 }, 16) };
        Case { disabled: Some([0, 0xffff_0000, 5, u32::MAX]), ..case.clone() }.check();
        Case { down: Some(3), disabled: Some([1, 0, 0, 0]), ..case }.check();
        let integers = Case { pair, ..Case::new("i8", ["s32", "s8", "u8"], if pair { 256 } else { 128 }, 32) };
        Case { down: Some(3), ..integers }.check();
    }
}

#[test]
fn depths_that_are_refused() {
    let fault = |target, group: &str, descriptor: u32| {
        let body = format!(
            "mov.b32 %r1, 0; mov.b64 %rd1, 0; setp.eq.u32 %p1, %r0, 0; mov.b32 %r2, {};\n\
             @%p1 tcgen05.mma.cta_group::{group}.kind::mxf4.block_scale [%r1], %rd1, %rd1, %r2, [%r1], [%r1], %p1;",
            descriptor as i32
        );
        Run::new(&body).target(target).shape(2, 32, 2).fault()
    };
    let of = |rows: u32| 1 << 31 | 1 << 7 | 1 << 10 | 8 << 17 | 1 << 23 | (rows / 128) << 27;
    let message = fault("sm_100a", "1", of(128));
    assert!(message.contains("products of depth 96 are of sm_103a, not of sm_100a"), "{message}");
    let message = fault("sm_103a", "2", of(128));
    assert!(message.contains("of a pair of CTAs with M 128 are not emulated"), "{message}");
}
