//! Matrix instructions against plain sums.

use super::Run;

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[
    mma_of_small_integers_is_exact,
    matrices_go_through_shared_memory,
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
