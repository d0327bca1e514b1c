//! Moves to and from tensor memory that change what they move: reductions, and unpacking of narrow numbers.

use super::Run;

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[loads_are_reduced, narrow_numbers_are_unpacked_into_tensor_memory];

/// Of the first two registers, what each thread's reduction is (ISA 9.7.16.8.3).
#[test]
fn loads_are_reduced() {
    let f = f32::to_bits;
    let (low, high, nan) = (f(1.5), f(-2.5), f32::NAN.to_bits());
    let minus = (-7i32).cast_unsigned();
    let cases: [(&str, &str, u32, u32, u32); 14] = [
        ("min", ".f32", low, high, high),
        ("max", ".f32", low, high, low),
        ("min", ".abs.f32", low, high, low),
        ("max", ".abs.f32", low, high, f(2.5)),
        ("min", ".NaN.f32", low, nan, 0x7fff_ffff),
        ("max", ".NaN.f32", low, high, low),
        ("max", ".f32", nan, high, high),
        ("max", ".abs.NaN.f32", high, nan, 0x7fff_ffff),
        ("min", ".u32", 5, minus, 5),
        ("max", ".u32", 5, minus, minus),
        ("min", ".s32", 5, minus, minus),
        ("max", ".s32", 5, minus, 5),
        ("min", ".u32", minus, 5, 5),
        ("max", ".s32", minus, 5, 5),
    ];
    for (at, (operation, kind, first, second, expected)) in cases.into_iter().enumerate() {
        for (shape, lanes, further) in [("32x32b", 32, ""), ("16x32bx2", 16, ", 64")] {
            let count = [2, 4, 8, 16, 32, 64, 128][if shape == "32x32b" { at % 7 } else { at % 6 }];
            // The type may also stand before the operation.
            for order in [format!("{operation}{kind}"), format!("{}.{operation}", &kind[1..])] {
                let list = vec!["%r10"; count - 1].join(", ");
                let registers: Vec<String> = (0..count).map(|register| format!("v{register}")).collect();
                let registers = registers.join(", ");
                // All lanes and columns hold the first value but the last column, which is reached through the second half too.
                let body = format!(
                    ".reg .b32 v<{count}>; .reg .b32 all; mov.u32 %r1, cell; mov.b32 %r10, {first}; mov.b32 %r11, {second};\n\
                     tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], 256; ld.shared.u32 %r2, [cell];\n\
                     tcgen05.st.sync.aligned.{shape}.x{count}.b32 [%r2]{further}, {{{list}, %r11}}; tcgen05.wait::st.sync.aligned;\n\
                     tcgen05.ld.red.sync.aligned.{shape}.x{count}.{order} {{{registers}}}, all, [%r2]{further}; tcgen05.wait::ld.sync.aligned;\n\
                     tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r2, 256;\n\
                     mad.wide.u32 %rd1, %r0, 8, %rd0; st.global.v2.b32 [%rd1], {{all, v{}}};",
                    count - 1
                );
                let words = Run::new(&body).target("sm_103a").declare(".shared .b32 cell;").words(32);
                let word = u64::from(expected) | u64::from(second) << 32;
                assert_eq!(words, [word; 32], "{shape}.x{count}.{order} of {lanes} lanes");
            }
        }
    }
}

/// Sixteen numbers of 16 bytes with padding become a byte each, fp4 in the middle of it (ISA 9.7.16.9.1).
#[test]
fn narrow_numbers_are_unpacked_into_tensor_memory() {
    for (format, bits, shift) in [("b6x16_p32", 6, 0), ("b4x16_p64", 4, 2)] {
        // Rows of 16 bytes, one after the other: 128 bytes from eight rows to the next.
        let body = format!(
            "mov.u32 %r1, cell; mov.u32 %r2, tile; mov.u32 %r3, bar; mad.lo.u32 %r4, %r0, 16, %r2; shr.u32 %r5, %r0, 5;\n\
             setp.eq.u32 %p1, %r0, 0; setp.eq.u32 %p2, %r5, 0;\n\
             mul.lo.u32 %r6, %r0, 0x9e3779b9; xor.b32 %r7, %r6, 0x5bd1e995; not.b32 %r8, %r6; not.b32 %r9, %r7;\n\
             st.shared.v4.b32 [%r4], {{%r6, %r7, %r8, %r9}}; fence.proxy.async;\n\
             @%p1 mbarrier.init.shared::cta.b64 [%r3], 1;\n\
             @%p2 tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], 32; bar.sync 0; ld.shared.u32 %r10, [cell];\n\
             shr.u32 %r11, %r2, 4; cvt.u64.u32 %rd2, %r11; or.b64 %rd2, %rd2, 0x400800080000;\n\
             @%p1 tcgen05.cp.cta_group::1.128x128b.b8x16.{format} [%r10], %rd2;\n\
             cvt.u64.u32 %rd3, %r3; cvta.shared.u64 %rd4, %rd3; @%p1 tcgen05.commit.cta_group::1.mbarrier::arrive::one.b64 [%rd4];\n\
             POLL: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r3], 0; @!%p3 bra POLL;\n\
             tcgen05.fence::after_thread_sync; shl.b32 %r12, %r5, 21; add.u32 %r12, %r12, %r10;\n\
             tcgen05.ld.sync.aligned.32x32b.x4.b32 {{%r14, %r15, %r16, %r17}}, [%r12]; tcgen05.wait::ld.sync.aligned; bar.sync 0;\n\
             @%p2 tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r10, 32;\n\
             mad.wide.u32 %rd1, %r0, 16, %rd0; st.global.v4.b32 [%rd1], {{%r14, %r15, %r16, %r17}};"
        );
        let words = Run::new(&body)
            .declare(".shared .align 1024 .b8 tile[2048]; .shared .align 8 .b64 bar; .shared .b32 cell;")
            .shape(1, 128, 1)
            .words(256);
        for row in 0..128u32 {
            let first = row.wrapping_mul(0x9e37_79b9);
            let second = first ^ 0x5bd1_e995;
            let all = [first, second, !first, !second].iter().rev().fold(0, |all, word| all << 32 | u128::from(*word));
            let found = u128::from(words[2 * row as usize]) | u128::from(words[2 * row as usize + 1]) << 64;
            let expected: [u8; 16] =
                std::array::from_fn(|at| ((all >> (bits * at)) as u8 & ((1 << bits) - 1)) << shift);
            assert_eq!(found.to_le_bytes(), expected, "{format}, row {row}");
        }
    }
}
