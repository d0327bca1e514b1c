//! Matrix instructions against plain sums.

use super::Run;

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[
    mma_of_small_integers_is_exact,
    matrices_go_through_shared_memory,
    bytes_are_stored_as_an_accumulator_holds_them,
    columns_of_bytes_are_loaded,
    numbers_of_four_and_six_bits_are_unpacked,
    tensor_memory_keeps_what_is_stored,
    tensor_memory_has_to_be_given_back,
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

#[test]
fn tensor_memory_keeps_what_is_stored() {
    let body = "mov.u32 %r1, cell; tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], 32; ld.shared.u32 %r2, [cell];\n\
        add.u32 %r3, %r0, 100; tcgen05.st.sync.aligned.32x32b.x2.b32 [%r2], {%r0, %r3}; tcgen05.wait::st.sync.aligned;\n\
        tcgen05.ld.sync.aligned.32x32b.x2.b32 {%r4, %r5}, [%r2]; tcgen05.wait::ld.sync.aligned; sub.u32 %r5, %r5, %r4;\n\
        tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r2, 32;\n\
        mad.wide.u32 %rd1, %r0, 8, %rd0; cvt.u64.u32 %rd2, %r5; st.global.u64 [%rd1], %rd2;";
    assert_eq!(Run::new(body).declare(".shared .b32 cell;").words(32), [100; 32]);
    let used = "mov.u32 %r2, 0; tcgen05.ld.sync.aligned.32x32b.x1.b32 {%r4}, [%r2];";
    assert!(Run::new(used).fault().contains("are not all allocated"));
}

#[test]
fn tensor_memory_has_to_be_given_back() {
    let body = "mov.u32 %r1, cell; tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], 64;";
    let message = Run::new(body).declare(".shared .b32 cell;").fault();
    assert!(message.contains("64 columns of tensor memory are allocated when the CTA ends"), "{message}");
    let twice = format!("{body} ld.shared.u32 %r2, [cell]; tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r2, 32;");
    assert!(Run::new(&twice).declare(".shared .b32 cell;").fault().contains("were not allocated so"));
}
