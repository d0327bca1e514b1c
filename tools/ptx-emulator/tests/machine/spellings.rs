//! Other ways to write what the table of instructions has.

use super::Run;

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[
    modifiers_stand_in_other_orders,
    numbers_may_begin_with_a_point,
    vectors_are_moved,
    special_registers_that_say_nothing,
];

/// The types of a conversion, and the spaces of a copy, keep their order; all else may stand anywhere, as ptxas has it.
#[test]
fn modifiers_stand_in_other_orders() {
    let body = "mov.u32 %r1, cell; setp.eq.u32 %p1, %r0, 0; mov.f32 %f1, 0f40200000;\n\
        @!%p1 bra DONE; ld.relaxed.sys.mmio.global.u32 %r2, [%rd0]; atom.global.v4.f32.add {%f2, %f3, %f4, %f5}, [%rd0+16], {%f1, %f1, %f1, %f1};\n\
        mbarrier.init.b64.shared [%r1], 3; mbarrier.arrive.noComplete.shared.b64 %rd1, [%r1], 1; mbarrier.pending_count.b64 %r3, %rd1;\n\
        add.f32.rz.ftz %f6, %f1, %f1; cvt.f16.rn.f32 %rs1, %f1; cvt.f32.f16 %f7, %rs1; setp.and.f32.lt %p2, %f1, %f6, %p1;\n\
        prmt.f4e.b32 %r4, 0x44332211, 0x88776655, 2; selp.b32 %r5, 7, 0, %p2;";
    let store = "st.v4.b32.global [%rd0+32], {%r2, %r3, %r4, %r5}; st.global.v2.f32 [%rd0+48], {%f6, %f7}; DONE:";
    let mut words = vec![77, 0, 0, 0, 0, 0, 0];
    let run = Run::new(&format!("{body}\n{store}")).declare(".shared .align 8 .b64 cell;");
    run.try_on(&mut words).unwrap_or_else(|fault| panic!("{fault}"));
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let (single, double) = (2.5f32.to_bits(), 5.0f32.to_bits());
    let both = pair(single, single);
    // Four bytes from the third on; before the arrival, three are pending.
    assert_eq!(words, [77, 0, both, both, pair(77, 3), pair(0x6655_4433, 7), pair(double, single)]);
    // A word of the name in another place is not the name.
    let message = Run::new("mbarrier.shared.arrive.b64 %rd1, [cell];").declare(".shared .b64 cell;").load().err();
    assert!(message.is_some_and(|message| message.contains("unknown instruction `mbarrier.shared.arrive.b64`")));
}

#[test]
fn numbers_may_begin_with_a_point() {
    let body = "mov.f32 %f1, .5; add.f32 %f1, %f1, -.25; mov.f64 %fd1, .5e-1; st.global.f32 [%rd0], %f1; st.global.f64 [%rd0+8], %fd1;";
    assert_eq!(Run::new(body).words(2), [u64::from(0.25f32.to_bits()), 0.05f64.to_bits()]);
}

/// Vectors, also those of special registers, whose fourth component is zero.
#[test]
fn vectors_are_moved() {
    for (kind, width) in [("b32", 32), ("u32", 32), ("s32", 32), ("f32", 32), ("b16", 16), ("u16", 16), ("s16", 16)] {
        let body = format!(
            ".reg .v4 .b{width} v; .reg .b{width} x<4>; mov.v4.u{width} v, %ntid; mov.v4.{kind} {{x0, x1, x2, x3}}, v;\n\
             mov.v2.{kind} {{x1, x0}}, {{x0, x1}}; st.global.v4.b{width} [%rd0], {{x0, x1, x2, x3}};"
        );
        let words = Run::new(&body).words(2);
        let expected = if width == 32 { [1 | 32 << 32, 1] } else { [1 | 32 << 16 | 1 << 32, 0] };
        assert_eq!(words, expected, "{kind}");
    }
    for kind in ["b64", "u64", "s64", "f64"] {
        let body = format!(
            "mov.b64 %rd1, 5; mov.b64 %rd2, 6; mov.v2.{kind} {{%rd1, %rd2}}, {{%rd2, %rd1}}; st.global.v2.b64 [%rd0], {{%rd1, %rd2}};"
        );
        assert_eq!(Run::new(&body).words(2), [6, 5], "{kind}");
    }
    let body = "mov.v4.u32 {%r1, %r2, %r3, %r4}, %tid; mov.u32 %r5, %tid.w; add.u32 %r4, %r4, %r5; mad.wide.u32 %rd1, %r0, 16, %rd0;\n\
        st.global.v4.u32 [%rd1], {%r1, %r2, %r3, %r4};";
    let expected: Vec<u64> = (0..32).flat_map(|thread| [thread, 0]).collect();
    assert_eq!(Run::new(body).words(64), expected);
}

/// Counters that nobody set up, the graph that a launch does not come from, whether there are clusters.
#[test]
fn special_registers_that_say_nothing() {
    let body = "mov.u64 %rd1, %current_graph_exec; mov.u32 %r1, %pm0; mov.u64 %rd2, %pm3_64; cvt.u64.u32 %rd3, %r1;\n\
        or.b64 %rd1, %rd1, %rd2; or.b64 %rd1, %rd1, %rd3; mov.pred %p1, %is_explicit_cluster; selp.u64 %rd4, 1, 0, %p1;\n\
        st.global.v2.b64 [%rd0], {%rd1, %rd4};";
    assert_eq!(Run::new(body).words(2), [0, 0]);
    let clusters = Run::new(body).shape(2, 32, 2).words(2);
    assert_eq!(clusters, [0, 1]);
}
