//! `wgmma` of every type, dense and sparse, with operands in registers and in all layouts of shared memory, against sums.

use ptx_emulator::tensor_core::accumulation::Accumulation;

use super::trial::{Draw, Kind, Matrix, Sparse, Trial};

/// What `coverage` runs again.
pub const TESTS: &[fn()] =
    &[dense_products, sparse_products, sums_of_integers_wrap_or_saturate, hopper_keeps_thirteen_bits_of_fp8];

/// How a matrix lies in shared memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layout {
    /// Bytes of a swizzle's row: 16 is none.
    pub span: usize,
    /// Whether the elements of a column follow each other, rather than those of a row.
    pub transposed: bool,
}

impl Layout {
    /// Rows that follow each other along K, without a swizzle.
    pub const PLAIN: Layout = Layout { span: 16, transposed: false };

    /// The strides, leading and other, of a matrix of some bytes along K, or of some rows where they follow each other.
    fn strides(self, rows: usize, bytes: usize) -> (usize, usize) {
        match (self.transposed, self.span) {
            (false, 16) => (128, bytes / 16 * 128),
            (false, span) => (16, 8 * span),
            // Atoms of 8 bytes of K by the span of rows.
            (true, 16) => (rows.div_ceil(8) * 128, 128),
            (true, span) => (8 * span * 4, 8 * span),
        }
    }

    /// Where the byte of an element is: `along` is counted in elements of `size` bytes.
    fn place(self, rows: usize, depth: usize, size: usize, row: usize, along: usize) -> usize {
        let (leading, stride) = self.strides(rows, depth * size);
        let linear = match (self.transposed, self.span) {
            (false, 16) => row / 8 * stride + row % 8 * 16 + along * size / 16 * leading + along * size % 16,
            (false, span) => row / 8 * stride + row % 8 * span + along * size,
            (true, 16) => row * size / 16 * stride + row * size % 16 + along % 8 * 16 + along / 8 * leading,
            (true, span) => row * size / span * leading + row * size % span + along % 8 * span + along / 8 * stride,
        };
        linear ^ (linear >> 7 & (self.span / 16 - 1)) << 4
    }

    /// Puts a matrix into shared memory, from an address on, and gives the constant part of its descriptor.
    pub fn put(self, matrix: &Matrix, bits: u32, image: &mut Vec<u32>, swizzles: [u64; 4]) -> (usize, u64) {
        let start = (4 * image.len()).next_multiple_of(1024);
        let (depth, rows) = (matrix.columns, matrix.elements.len() / matrix.columns);
        // Elements of fewer than 8 bits go by bytes.
        let (each, size) = ((8 / bits).max(1) as usize, (bits / 8).max(1) as usize);
        for row in 0..rows {
            for along in 0..depth / each {
                let value =
                    (0..each).fold(0, |all, at| all | matrix.at(row, along * each + at).0 << (at as u32 * bits));
                for byte in 0..size {
                    let at = start + self.place(rows, depth / each, size, row, along) + byte;
                    if image.len() <= at / 4 {
                        image.resize(at / 4 + 1, 0);
                    }
                    image[at / 4] |= (value >> (8 * byte) & 0xff) << (at % 4 * 8);
                }
            }
        }
        let (leading, stride) = self.strides(rows, depth * bits as usize / 8);
        let field = |bytes: usize| (bytes as u64 & 0x3ffff) >> 4;
        let swizzle = swizzles[self.span.ilog2() as usize - 4];
        (start, field(leading) << 16 | field(stride) << 32 | swizzle)
    }
}

/// The swizzles of a descriptor: none, 32, 64 and 128 bytes.
const SWIZZLES: [u64; 4] = [0, 3 << 62, 2 << 62, 1 << 62];

struct Case {
    kinds: [&'static str; 3],
    columns: usize,
    sparse: Option<usize>,
    /// None where A is in registers.
    a: Option<Layout>,
    b: Layout,
    scales: [i32; 2],
    /// Whether the accumulator counts.
    counts: bool,
    /// Where `.satfinite` stands: before the types, as compilers write it, or after them, as the ISA says.
    saturate: Option<bool>,
}

impl Case {
    fn new(kinds: [&'static str; 3], columns: usize) -> Case {
        let [a, b] = [Some(Layout::PLAIN), Some(Layout::PLAIN)];
        let b = b.unwrap_or(Layout::PLAIN);
        Case { kinds, columns, sparse: None, a, b, scales: [1, 1], counts: true, saturate: None }
    }

    fn check(&self) {
        let [result, a_name, b_name] = self.kinds;
        let (a_kind, b_kind) = (Kind::named(a_name, false), Kind::named(b_name, false));
        let bits = a_kind.bits();
        let depth = (if self.sparse.is_some() { 512 } else { 256 }) / bits as usize;
        let mut draw = Draw(self.columns as u64 + u64::from(bits));
        let sparse = self.sparse.map(|_| Sparse::draw(64, depth, a_kind, &mut draw));
        let dense = Matrix::draw(64, depth, a_kind, &mut draw);
        let (stored, a) = sparse.as_ref().map_or((&dense, &dense), |sparse| (&sparse.stored, &sparse.whole));
        let b = Matrix::draw(self.columns, depth, b_kind, &mut draw);
        let c = Matrix::draw(64, self.columns, Kind::Integer(8, true), &mut draw);
        let half = result == "f16";
        let place = |register: usize, thread: usize, part: usize| {
            let (group, upper, odd) =
                if half { (register / 2, register % 2, part) } else { (register / 4, register / 2 % 2, register % 2) };
            (thread / 32 * 16 + thread % 32 / 4 + 8 * upper, 8 * group + 2 * (thread % 4) + odd)
        };
        let registers = self.columns / if half { 4 } else { 2 };
        let sums: Vec<Vec<u32>> = (0..registers)
            .map(|register| {
                let word = |thread| {
                    let value = |part| {
                        let (row, column) = place(register, thread, part);
                        c.at(row, column).1
                    };
                    let f16 = |value| u32::from(half::f16::from_f64(value).to_bits());
                    match result {
                        "f16" => f16(value(0)) | f16(value(1)) << 16,
                        "f32" => (value(0) as f32).to_bits(),
                        _ => value(0) as i32 as u32,
                    }
                };
                (0..128).map(word).collect()
            })
            .collect();
        let mut operands = vec![sums];
        let mut image = vec![];
        let (b_start, b_fields) = self.b.put(&b, bits, &mut image, SWIZZLES);
        let mut text = String::new();
        let mut descriptor = |register: &str, start: usize, fields: u64| {
            text.push_str(&format!(
                "add.u32 %r5, %r1, {start}; shr.u32 %r5, %r5, 4; cvt.u64.u32 {register}, %r5; or.b64 {register}, {register}, {};\n",
                fields as i64
            ));
        };
        descriptor("%rd5", b_start, b_fields);
        let a_operand = match self.a {
            Some(layout) => {
                let (start, fields) = layout.put(stored, bits, &mut image, SWIZZLES);
                descriptor("%rd4", start, fields);
                String::from("%rd4")
            }
            None => {
                let each = 32 / bits as usize;
                let word = |register: usize, thread: usize| {
                    let row = thread / 32 * 16 + thread % 32 / 4 + 8 * (register % 2);
                    let first = each * (thread % 4) + 4 * each * (register / 2);
                    (0..each).fold(0, |all, at| all | stored.at(row, first + at).0 << (at as u32 * bits % 32))
                };
                operands.push((0..4).map(|register| (0..128).map(|thread| word(register, thread)).collect()).collect());
                format!("${}", operands.len())
            }
        };
        let mut more = String::new();
        if let (Some(sparse), Some(selector)) = (&sparse, self.sparse) {
            let word = |thread: usize| {
                let (row, quarter) = (thread / 32 * 16 + thread % 32 / 4, thread % 4);
                if bits >= 16 {
                    let part = quarter.wrapping_sub(2 * selector);
                    if part > 1 {
                        return 0xdead_beef;
                    }
                    sparse.bits(row, 4 * part, 4, a_kind) | sparse.bits(row + 8, 4 * part, 4, a_kind) << 16
                } else {
                    sparse.bits(row + 8 * (quarter % 2), 8 * (quarter / 2), 8, a_kind)
                }
            };
            operands.push(vec![(0..128).map(word).collect()]);
            more = format!(", @{}, {selector}", operands.len());
        }
        more.push_str(if self.counts { ", %p1" } else { ", %p2" });
        if result != "s32" {
            more.push_str(&format!(", {}, {}", self.scales[0], self.scales[1]));
        }
        if bits == 16 {
            let transposed = |layout: Layout| u32::from(layout.transposed);
            self.a.iter().for_each(|layout| more.push_str(&format!(", {}", transposed(*layout))));
            more.push_str(&format!(", {}", transposed(self.b)));
        }
        let name = if self.sparse.is_some() { "wgmma.mma_async.sp" } else { "wgmma.mma_async" };
        let [before, after] = [true, false].map(|place| if self.saturate == Some(place) { ".satfinite" } else { "" });
        let end = if a_name == "b1" { ".and.popc" } else { "" };
        text.push_str(&format!(
            "setp.eq.u32 %p1, %r0, %r0; not.pred %p2, %p1; wgmma.fence.sync.aligned;\n\
             {name}.sync.aligned.m64n{}k{depth}{before}.{result}.{a_name}.{b_name}{after}{end} $1, {a_operand}, %rd5{more};\n\
             wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;",
            self.columns
        ));
        let trial = Trial { operands: &operands, ..Trial::of_warpgroup(&text, &image) };
        for (register, words) in trial.run().iter().enumerate() {
            for (thread, word) in words.iter().enumerate() {
                for part in 0..if half { 2 } else { 1 } {
                    let (row, column) = place(register, thread, part);
                    let product: f64 = (0..depth).map(|k| a.at(row, k).1 * b.at(column, k).1).sum();
                    let addend = if self.counts { c.at(row, column).1 } else { 0.0 };
                    let sum = product * f64::from(self.scales[0] * self.scales[1]) + addend;
                    let (found, expected) = match result {
                        "f16" => (*word >> (16 * part) & 0xffff, u32::from(half::f16::from_f64(sum).to_bits())),
                        "f32" => (*word, (sum as f32).to_bits()),
                        _ => (*word, sum as i32 as u32),
                    };
                    assert_eq!(found, expected, "{text}: row {row}, column {column}: {sum}");
                }
            }
        }
    }
}

const TYPES: [[&str; 3]; 13] = [
    ["f16", "f16", "f16"],
    ["f32", "f16", "f16"],
    ["f32", "bf16", "bf16"],
    ["f32", "tf32", "tf32"],
    ["f32", "e4m3", "e5m2"],
    ["f16", "e5m2", "e4m3"],
    ["f32", "e4m3", "e4m3"],
    ["f16", "e5m2", "e5m2"],
    ["s32", "s8", "s8"],
    ["s32", "s8", "u8"],
    ["s32", "u8", "s8"],
    ["s32", "u8", "u8"],
    ["s32", "b1", "b1"],
];

#[test]
fn dense_products() {
    for kinds in TYPES {
        for columns in [8, 96] {
            Case::new(kinds, columns).check();
            Case { a: None, counts: false, ..Case::new(kinds, columns) }.check();
            for span in [32, 64, 128] {
                let layout = Layout { span, transposed: false };
                Case { a: Some(layout), b: layout, ..Case::new(kinds, columns) }.check();
            }
        }
        Case::new(kinds, 256).check();
        if kinds[0] == "s32" && kinds[1] != "b1" {
            Case { saturate: Some(true), ..Case::new(kinds, 16) }.check();
            Case { saturate: Some(false), ..Case::new(kinds, 16) }.check();
        }
    }
    for kinds in &TYPES[..3] {
        Case { scales: [-1, 1], ..Case::new(*kinds, 16) }.check();
        for span in [16, 32, 64, 128] {
            let layout = Layout { span, transposed: true };
            Case { a: Some(layout), ..Case::new(*kinds, 128) }.check();
            Case { b: layout, ..Case::new(*kinds, 128) }.check();
            Case { a: None, b: layout, scales: [1, -1], ..Case::new(*kinds, 128) }.check();
        }
    }
}

#[test]
fn sparse_products() {
    for kinds in &TYPES[..12] {
        let selectors = if matches!(kinds[1], "f16" | "bf16" | "tf32") { 2 } else { 1 };
        for selector in 0..selectors {
            let case = |columns| Case { sparse: Some(selector), ..Case::new(*kinds, columns) };
            case(8).check();
            Case { a: None, ..case(32) }.check();
            let layout = |span| Layout { span, transposed: false };
            Case { a: Some(layout(32)), b: layout(64), ..case(64) }.check();
            Case { a: Some(layout(128)), b: layout(128), ..case(128) }.check();
            if kinds[0] == "s32" {
                Case { saturate: Some(true), ..case(16) }.check();
                Case { saturate: Some(false), ..case(16) }.check();
            }
        }
    }
}

/// All of A and B are ones in 8 bits, so that 32 (or of a sparse A 32) products are added to the largest number.
#[test]
fn sums_of_integers_wrap_or_saturate() {
    let ones = |columns: usize| Matrix { columns, elements: vec![(1, 1.0); 64 * columns] };
    let mut image = vec![];
    let (start, fields) = Layout::PLAIN.put(&ones(32), 8, &mut image, SWIZZLES);
    let (wide_start, wide_fields) = Layout::PLAIN.put(&ones(64), 8, &mut image, SWIZZLES);
    for (name, depth, metadata, [b_start, b_fields]) in
        [("", 32, "", [start as u64, fields]), (".sp", 64, "@2, 0, ", [wide_start as u64, wide_fields])]
    {
        for (before, after, expected) in
            [("", "", i32::MAX.wrapping_add(32)), (".satfinite", "", i32::MAX), ("", ".satfinite", i32::MAX)]
        {
            let text = format!(
                "add.u32 %r5, %r1, {start}; shr.u32 %r5, %r5, 4; cvt.u64.u32 %rd4, %r5; or.b64 %rd4, %rd4, {fields};\n\
                 add.u32 %r5, %r1, {b_start}; shr.u32 %r5, %r5, 4; cvt.u64.u32 %rd5, %r5; or.b64 %rd5, %rd5, {b_fields};\n\
                 setp.eq.u32 %p1, %r0, %r0; wgmma.fence.sync.aligned;\n\
                 wgmma.mma_async{name}.sync.aligned.m64n8k{depth}{before}.s32.s8.s8{after} $1, %rd4, %rd5, {metadata}%p1;\n\
                 wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"
            );
            let operands = [vec![vec![i32::MAX as u32; 128]; 4], vec![vec![0x4444_4444; 128]]];
            let trial = Trial { operands: &operands, ..Trial::of_warpgroup(&text, &image) };
            assert_eq!(trial.run(), vec![vec![expected as u32; 128]; 4], "{name}{before}{after}");
        }
    }
}

#[test]
fn hopper_keeps_thirteen_bits_of_fp8() {
    // An accumulator of 2^14 does not see what is below 2: 32 products of 1/32 each.
    let one = |code: u32| Matrix { columns: 32, elements: vec![(code, 0.0); 64 * 32] };
    let mut image = vec![];
    let (a_start, fields) = Layout::PLAIN.put(&one(0x38), 8, &mut image, SWIZZLES);
    let (b_start, _) = Layout::PLAIN.put(&one(0x10), 8, &mut image, SWIZZLES);
    let text = format!(
        "add.u32 %r5, %r1, {a_start}; shr.u32 %r5, %r5, 4; cvt.u64.u32 %rd4, %r5; or.b64 %rd4, %rd4, {fields};\n\
         add.u32 %r5, %r1, {b_start}; shr.u32 %r5, %r5, 4; cvt.u64.u32 %rd5, %r5; or.b64 %rd5, %rd5, {fields};\n\
         setp.eq.u32 %p1, %r0, %r0; wgmma.fence.sync.aligned;\n\
         wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 $1, %rd4, %rd5, %p1, 1, 1;\n\
         wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"
    );
    let run = |how| {
        let operands = [vec![vec![16384f32.to_bits(); 128]; 4]];
        let trial = Trial { operands: &operands, how, ..Trial::of_warpgroup(&text, &image) };
        f32::from_bits(trial.run()[2][77])
    };
    assert_eq!(run(Accumulation::Once), 16385.0);
    assert_eq!(run(Accumulation::Hardware), 16384.0);
}
