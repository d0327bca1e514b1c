//! Matrix instructions against plain sums.

use super::Run;

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[
    mma_of_small_integers_is_exact,
    matrices_go_through_shared_memory,
    matrices_are_loaded,
    matrices_are_stored,
    bytes_are_stored_as_an_accumulator_holds_them,
    columns_of_bytes_are_loaded,
    numbers_of_four_and_six_bits_are_unpacked,
];

/// Runs `mma` on fragments that lanes make of their number, and compares with a product of the matrices that the fragments are of.
#[test]
fn mma_of_small_integers_is_exact() {
    // A[i][k] = i + k, B[k][j] = k - j, both bf16; the fragments follow the layout of the ISA.
    let mut body = String::from("shr.u32 %r1, %r0, 2; and.b32 %r2, %r0, 3;\n");
    let element = |body: &mut String, register: &str, row: &str, column: &str, sign: &str| {
        for half in 0..2 {
            body.push_str(&format!(
                "add.u32 %r20, {column}, {half}; {sign}.s32 %r21, %r20, {row}; cvt.rn.f32.s32 %f1, %r21; cvt.rn.bf16.f32 %rs{half}, %f1;\n"
            ));
        }
        body.push_str(&format!("mov.b32 {register}, {{%rs0, %rs1}};\n"));
    };
    body.push_str("shl.b32 %r3, %r2, 1; add.u32 %r4, %r3, 8; add.u32 %r5, %r1, 8;\n");
    for (register, row, column) in
        [("%r10", "%r1", "%r3"), ("%r11", "%r5", "%r3"), ("%r12", "%r1", "%r4"), ("%r13", "%r5", "%r4")]
    {
        element(&mut body, register, row, column, "add");
    }
    for (register, column) in [("%r14", "%r3"), ("%r15", "%r4")] {
        element(&mut body, register, "%r1", column, "sub");
    }
    body.push_str(
        "mov.f32 %f2, 0f3F800000;\n\
         mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f4, %f5, %f6, %f7}, {%r10, %r11, %r12, %r13}, {%r14, %r15}, {%f2, %f2, %f2, %f2};\n\
         mad.wide.u32 %rd1, %r0, 16, %rd0; st.global.v4.f32 [%rd1], {%f4, %f5, %f6, %f7};",
    );
    let words = Run::new(&body).words(64);
    for lane in 0..32usize {
        let values: Vec<f32> =
            (0..4).map(|at| f32::from_bits((words[2 * lane + at / 2] >> (32 * (at % 2))) as u32)).collect();
        for (at, value) in values.iter().enumerate() {
            let (row, column) = ((lane / 4 + 8 * (at / 2)) as i32, (2 * (lane % 4) + at % 2) as i32);
            let sum: i32 = (0..16).map(|k| (row + k) * (k - column)).sum();
            assert_eq!(*value, (sum + 1) as f32, "row {row}, column {column}");
        }
    }
}

#[test]
fn matrices_go_through_shared_memory() {
    // Each lane stores its number's row, loads it back transposed, and transposes it again in registers.
    let body = "shl.b32 %r1, %r0, 4; mov.u32 %r2, tile; add.u32 %r1, %r1, %r2; mad.lo.u32 %r3, %r0, 65537, 65536;\n\
        stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r1], {%r3, %r3, %r3, %r3}; bar.sync 0;\n\
        ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r4}, [%r1]; movmatrix.sync.aligned.m8n8.trans.b16 %r5, %r4;\n\
        sub.u32 %r5, %r5, %r3; mad.wide.u32 %rd1, %r0, 8, %rd0; cvt.u64.u32 %rd2, %r5; st.global.u64 [%rd1], %rd2;";
    assert_eq!(Run::new(body).declare(".shared .align 16 .b8 tile[512];").words(32), [0; 32]);
}

/// Lane `4 h + g` holds rows `h` and `h + 8` of columns `2 g` and `2 g + 1`, each column in the 16 bytes of an address.
#[test]
fn bytes_are_stored_as_an_accumulator_holds_them() {
    for (count, space, list) in [(1, "", "%r10"), (2, "::cta", "%r10, %r11"), (4, "", "%r10, %r11, %r12, %r13")] {
        // Each byte says its matrix, its lane's number and its place: column `2 g + (place & 1)`, row `h + 8 (place >> 1)`.
        let body = format!(
            "shl.b32 %r1, %r0, 4; mov.u32 %r2, tile; add.u32 %r1, %r1, %r2; mul.lo.u32 %r10, %r0, 0x04040404; add.u32 %r10, %r10, 0x03020100;\n\
             xor.b32 %r11, %r10, 0x80808080; not.b32 %r12, %r10; not.b32 %r13, %r11;\n\
             stmatrix.sync.aligned.m16n8.x{count}.trans.shared{space}.b8 [%r1], {{{list}}}; bar.sync 0;\n\
             ld.shared.v2.u64 {{%rd2, %rd3}}, [%r1]; mad.wide.u32 %rd1, %r0, 16, %rd0; st.global.v2.u64 [%rd1], {{%rd2, %rd3}};"
        );
        let words = Run::new(&body).declare(".shared .align 16 .b8 tile[512];").words(64);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        for (matrix, column, row) in
            (0..count).flat_map(|matrix| (0..8).flat_map(move |column| (0..16).map(move |row| (matrix, column, row))))
        {
            let (lane, place) = (4 * (row % 8) + column / 2, column % 2 + 2 * (row / 8));
            let own = (4 * lane + place) as u8;
            let expected = [own, own ^ 0x80, !own, !own ^ 0x80][matrix];
            assert_eq!(
                bytes[128 * matrix + 16 * column + row],
                expected,
                "matrix {matrix}, column {column}, row {row}"
            );
        }
    }
}

/// Sixteen addresses of 16 bytes `16 address + place` each, in two matrices of opposite bits.
const COLUMNS: &str = "shl.b32 %r1, %r0, 4; mov.u32 %r2, tile; add.u32 %r1, %r1, %r2; and.b32 %r3, %r0, 15; mul.lo.u32 %r3, %r3, 0x10101010;\n\
    add.u32 %r4, %r3, 0x03020100; add.u32 %r5, %r3, 0x07060504; add.u32 %r6, %r3, 0x0b0a0908; add.u32 %r7, %r3, 0x0f0e0d0c;\n\
    setp.ge.u32 %p1, %r0, 16; @%p1 not.b32 %r4, %r4; @%p1 not.b32 %r5, %r5; @%p1 not.b32 %r6, %r6; @%p1 not.b32 %r7, %r7;\n\
    st.shared.v4.u32 [%r1], {%r4, %r5, %r6, %r7}; bar.sync 0;\n";

/// Lane `4 h + g` gets columns `4 g` to `4 g + 3`, of row `h` in a matrix's first register and of row `h + 8` in its second. CuTe's
/// SM100_U8x8_LDSM_T, which puts the registers' bytes in order afterwards, agrees.
#[test]
fn columns_of_bytes_are_loaded() {
    for (count, space, list) in [(1, "", "%r10, %r11"), (2, "::cta", "%r10, %r11, %r12, %r13")] {
        let body = format!(
            "{COLUMNS} ldmatrix.sync.aligned.m16n16.x{count}.trans.shared{space}.b8 {{{list}}}, [%r1];\n\
             mad.wide.u32 %rd1, %r0, 16, %rd0; st.global.v2.u32 [%rd1], {{%r10, %r11}}; @{} st.global.v2.u32 [%rd1+8], {{%r12, %r13}};",
            if count == 1 { "!%p0" } else { "%p0" }
        );
        let words = Run::new(&format!("setp.eq.u32 %p0, %r0, %r0; mov.u32 %r12, 0; mov.u32 %r13, 0; {body}"))
            .declare(".shared .align 16 .b8 tile[512];")
            .words(64);
        for (lane, matrix) in (0..32).flat_map(|lane| (0..count).map(move |matrix| (lane, matrix))) {
            let expected = [0, 1].map(|half| {
                let row = lane / 4 + 8 * half;
                let bytes = std::array::from_fn(|at| (16 * (4 * (lane % 4) + at) + row) as u8);
                u32::from_le_bytes(if matrix == 0 { bytes } else { bytes.map(|byte: u8| !byte) })
            });
            let word = u64::from(expected[0]) | u64::from(expected[1]) << 32;
            assert_eq!(words[2 * lane + matrix], word, "lane {lane}, matrix {matrix}");
        }
    }
}

#[test]
fn numbers_of_four_and_six_bits_are_unpacked() {
    // The bits of an address' 16 bytes, as `COLUMNS` writes them.
    let numbers = |address: usize, bits: usize| -> [u8; 16] {
        let row: [u8; 16] = std::array::from_fn(|at| (16 * (address % 16) + at) as u8);
        let row = if address < 16 { row } else { row.map(|byte| !byte) };
        let all = u128::from_le_bytes(row);
        std::array::from_fn(|at| (all >> (bits * at)) as u8 & ((1 << bits) - 1))
    };
    for (kind, bits) in [("b6x16_p32", 6), ("b4x16_p64", 4)] {
        for (space, address) in [(".shared", "%r1"), (".shared::cta", "%r1"), ("", "%rd2")] {
            for (count, list) in [(1, "%r10"), (2, "%r10, %r11"), (4, "%r10, %r11, %r12, %r13")] {
                let body = format!(
                    "{COLUMNS} cvt.u64.u32 %rd3, %r1; cvta.shared.u64 %rd2, %rd3; mov.u32 %r11, 0; mov.u32 %r12, 0; mov.u32 %r13, 0;\n\
                     ldmatrix.sync.aligned.m8n16.x{count}{space}.b8x16.{kind} {{{list}}}, [{address}];\n\
                     mad.wide.u32 %rd1, %r0, 16, %rd0; st.global.v4.u32 [%rd1], {{%r10, %r11, %r12, %r13}};"
                );
                let words = Run::new(&body).declare(".shared .align 16 .b8 tile[512];").words(64);
                for (lane, matrix) in (0..32).flat_map(|lane| (0..count).map(move |matrix| (lane, matrix))) {
                    let row = numbers(8 * matrix + lane / 4, bits);
                    let expected = u32::from_le_bytes(std::array::from_fn(|at| row[4 * (lane % 4) + at]));
                    let found = (words[2 * lane + matrix / 2] >> (32 * (matrix % 2))) as u32;
                    assert_eq!(found, expected, "m8n16.x{count}.{kind}, lane {lane}, matrix {matrix}");
                }
            }
            for (count, list) in [(1, "%r10, %r11"), (2, "%r10, %r11, %r12, %r13")] {
                let body = format!(
                    "{COLUMNS} cvt.u64.u32 %rd3, %r1; cvta.shared.u64 %rd2, %rd3; mov.u32 %r12, 0; mov.u32 %r13, 0;\n\
                     ldmatrix.sync.aligned.m16n16.x{count}.trans{space}.b8x16.{kind} {{{list}}}, [{address}];\n\
                     mad.wide.u32 %rd1, %r0, 16, %rd0; st.global.v4.u32 [%rd1], {{%r10, %r11, %r12, %r13}};"
                );
                let words = Run::new(&body).declare(".shared .align 16 .b8 tile[512];").words(64);
                for (lane, register) in (0..32).flat_map(|lane| (0..2 * count).map(move |register| (lane, register))) {
                    let row = lane / 4 + 8 * (register % 2);
                    let expected = u32::from_le_bytes(std::array::from_fn(|at| {
                        numbers(16 * (register / 2) + 4 * (lane % 4) + at, bits)[row]
                    }));
                    let found = (words[2 * lane + register / 2] >> (32 * (register % 2))) as u32;
                    assert_eq!(found, expected, "m16n16.x{count}.{kind}, lane {lane}, register {register}");
                }
            }
        }
    }
}

/// What an element of the matrices of 32 rows of 8 is.
fn element(row: usize, column: usize) -> u16 {
    (row * 257 + column * 31 + 1) as u16
}

/// The row whose address a lane gives, so that rows do not lie in order.
fn row_of(lane: usize) -> usize {
    lane * 5 % 32
}

/// The elements of a lane's register of a matrix: its number's two columns of its row, or with `.trans` rows of its column.
fn held(matrix: usize, lane: usize, transposed: bool) -> [u16; 2] {
    [0, 1].map(|half| {
        let (row, column) = (lane / 4, 2 * (lane % 4) + half);
        let (row, column) = if transposed { (column, row) } else { (row, column) };
        element(row_of(8 * matrix + row), column)
    })
}

/// Lanes whose rows are not used give addresses that do not exist. `%r1` is the address, `%rd1` the same as a generic one, `%rd2` the
/// lane's 16 bytes of the buffer, `%r3` those of shared memory.
const ROWS: &str = "mov.u32 %r2, tile; mad.lo.u32 %r3, %r0, 16, %r2; mul.lo.u32 %r1, %r0, 80; and.b32 %r1, %r1, 511; add.u32 %r1, %r1, %r2;\n\
    setp.ge.u32 %p1, %r0, ROWS; @%p1 mov.u32 %r1, 0xfffff0; cvt.u64.u32 %rd1, %r1; cvta.shared.u64 %rd1, %rd1; mad.wide.u32 %rd2, %r0, 16, %rd0;\n";

/// The spellings of a move of matrices: with the shape before or after what is moved, and each way to give the address.
fn spellings(name: &str, count: usize, trans: &str) -> Vec<(String, &'static str)> {
    let spaces = [("", "%rd1"), (".shared", "%r1"), (".shared::cta", "%r1")];
    let both = |(space, address)| {
        [
            format!("{name}.sync.aligned.m8n8.x{count}{trans}{space}.b16"),
            format!("{name}.sync.aligned.x{count}{trans}.m8n8{space}.b16"),
        ]
        .map(|text| (text, address))
    };
    spaces.into_iter().flat_map(both).collect()
}

#[test]
fn matrices_are_loaded() {
    let tile: Vec<u64> = (0..64)
        .map(|word| (0..4).fold(0, |all, at| all | u64::from(element(word / 2, word % 2 * 4 + at)) << (16 * at)))
        .collect();
    for (count, trans) in [1, 2, 4].into_iter().flat_map(|count| ["", ".trans"].map(|trans| (count, trans))) {
        let list: Vec<String> = (0..count).map(|at| format!("%r{}", 8 + at)).collect();
        for (text, address) in spellings("ldmatrix", count, trans) {
            let mut body = format!(
                "{}ld.global.v2.b64 {{%rd3, %rd4}}, [%rd2]; st.shared.v2.b64 [%r3], {{%rd3, %rd4}}; bar.sync 0;\n\
                 {text} {{{}}}, [{address}];\n",
                ROWS.replace("ROWS", &(8 * count).to_string()),
                list.join(", ")
            );
            list.iter()
                .enumerate()
                .for_each(|(at, register)| body.push_str(&format!("st.global.b32 [%rd2+{}], {register};\n", 4 * at)));
            let mut buffer = tile.clone();
            Run::new(&body)
                .declare(".shared .align 16 .b8 tile[512];")
                .try_on(&mut buffer)
                .unwrap_or_else(|fault| panic!("{text}: {fault}"));
            for (lane, matrix) in (0..32).flat_map(|lane| (0..count).map(move |matrix| (lane, matrix))) {
                let [low, high] = held(matrix, lane, !trans.is_empty());
                let word = (buffer[2 * lane + matrix / 2] >> (32 * (matrix % 2))) as u32;
                assert_eq!(word, u32::from(low) | u32::from(high) << 16, "{text}: matrix {matrix}, lane {lane}");
            }
        }
    }
}

#[test]
fn matrices_are_stored() {
    for (count, trans) in [1, 2, 4].into_iter().flat_map(|count| ["", ".trans"].map(|trans| (count, trans))) {
        let list: Vec<String> = (0..count).map(|at| format!("%r{}", 8 + at)).collect();
        for (text, address) in spellings("stmatrix", count, trans) {
            let mut body = format!(
                "{}st.shared.v2.b64 [%r3], {{0, 0}}; bar.sync 0;\n",
                ROWS.replace("ROWS", &(8 * count).to_string())
            );
            list.iter()
                .enumerate()
                .for_each(|(at, register)| body.push_str(&format!("ld.global.b32 {register}, [%rd2+{}];\n", 4 * at)));
            body.push_str(&format!(
                "{text} [{address}], {{{}}}; bar.sync 0; ld.shared.v2.b64 {{%rd3, %rd4}}, [%r3]; st.global.v2.b64 [%rd2], {{%rd3, %rd4}};",
                list.join(", ")
            ));
            let mut buffer = vec![0; 64];
            for (lane, matrix) in (0..32).flat_map(|lane| (0..count).map(move |matrix| (lane, matrix))) {
                let [low, high] = held(matrix, lane, !trans.is_empty());
                buffer[2 * lane + matrix / 2] |= (u64::from(low) | u64::from(high) << 16) << (32 * (matrix % 2));
            }
            Run::new(&body)
                .declare(".shared .align 16 .b8 tile[512];")
                .try_on(&mut buffer)
                .unwrap_or_else(|fault| panic!("{text}: {fault}"));
            let stored: Vec<usize> = (0..8 * count).map(row_of).collect();
            for (row, column) in (0..32).flat_map(|row| (0..8).map(move |column| (row, column))) {
                let found = (buffer[2 * row + column / 4] >> (16 * (column % 4))) as u16;
                assert_eq!(
                    found,
                    if stored.contains(&row) { element(row, column) } else { 0 },
                    "{text}: row {row}, column {column}"
                );
            }
        }
    }
}
