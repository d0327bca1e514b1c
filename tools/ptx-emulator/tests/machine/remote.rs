//! Work that completes by itself, work that clusters take over, and accesses of multicast objects.

use super::Run;

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[
    reductions_in_other_ctas,
    stores_and_reductions_in_global_memory,
    clusters_take_over,
    shared_memory_is_cleared,
    multicast,
];

/// The second CTA's threads reduce into a word of the first, which waits for all bytes.
#[test]
fn reductions_in_other_ctas() {
    for (operation, kind, start, value, expected) in [
        ("inc", "u32", 5u64, 100u64, 37u64),
        ("dec", "u32", 50, 100, 18),
        ("min", "u32", 50, 7, 7),
        ("max", "s32", 0xffff_fff0, 0xffff_fff8, 0xffff_fff8),
        ("min", "s32", 3, 0xffff_fff8, 0xffff_fff8),
        ("max", "u32", 3, 9, 9),
        ("and", "b32", 0xff, 0x0f, 0x0f),
        ("or", "b32", 0xf0, 0x0f, 0xff),
        ("xor", "b32", 0xf0, 0x0f, 0xf0),
        ("add", "u32", 1, 2, 65),
        ("add", "s32", 1, 0xffff_ffff, 0xffff_ffe1),
        ("add", "u64", 1, 1 << 33, 1 + (32 << 33)),
    ] {
        let (bits, bytes) = if kind.ends_with("64") { ("b64", 8) } else { ("b32", 4) };
        let register = if bytes == 8 { "%rd5" } else { "%r5" };
        for space in ["", ".shared::cluster"] {
            let cast = if space.is_empty() {
                "cvta.shared::cluster.u64 %rd2, %rd2; cvta.shared::cluster.u64 %rd3, %rd3;"
            } else {
                ""
            };
            let body = format!(
                "mov.u32 %r1, cell; mov.u32 %r2, %cluster_ctarank; mov.{bits} {register}, {start}; setp.eq.u32 %p1, %r0, 0;\n\
                 @%p1 st.shared.{bits} [%r1], {register}; @%p1 mbarrier.init.shared::cta.b64 [%r1+8], 1;\n\
                 @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1+8], {};\n\
                 barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; setp.eq.u32 %p2, %r2, 0; @%p2 bra wait;\n\
                 mov.u32 %r3, 0; mapa.shared::cluster.u32 %r4, %r1, %r3; cvt.u64.u32 %rd2, %r4; add.u64 %rd3, %rd2, 8; {cast}\n\
                 mov.{bits} {register}, {value};\n\
                 red.async.relaxed.cluster{space}.mbarrier::complete_tx::bytes.{operation}.{kind} [%rd2], {register}, [%rd3];\n\
                 bra done; wait: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r1+8], 0; @!%p3 bra wait;\n\
                 ld.shared.{bits} {register}, [%r1]; st.global.{bits} [%rd0], {register};\n\
                 done: barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;",
                32 * bytes
            );
            let run = Run::new(&body).declare(".shared .align 16 .b8 cell[16];").shape(2, 32, 2);
            assert_eq!(run.words(1)[0], expected, "{operation}.{kind}");
        }
    }
}

#[test]
fn stores_and_reductions_in_global_memory() {
    for (mmio, scope) in [("", "gpu"), (".mmio", "sys")] {
        for kind in ["u32", "s32", "u64", "s64"] {
            let register = if kind.ends_with("64") { "%rd5" } else { "%r5" };
            let bits = &kind[1..];
            for space in ["", ".global"] {
                let body = format!(
                    "mov.b{bits} {register}, 3; red.async{mmio}.release.{scope}{space}.add.{kind} [%rd0], {register};"
                );
                assert_eq!(Run::new(&body).words(1), [96]);
            }
        }
    }
    for (mmio, scope) in [("", "gpu"), (".mmio", "sys")] {
        for kind in ["b8", "u8", "s8", "b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"] {
            let bits: u32 = kind[1..].parse().unwrap();
            let register = match bits {
                64 => "%rd5",
                32 => "%r5",
                16 => "%rs5",
                _ => "%rc5",
            };
            let set = match bits {
                8 => String::from("mov.b16 %rs6, 77; cvt.u8.u16 %rc5, %rs6;"),
                _ => format!("mov.b{bits} {register}, 77;"),
            };
            let body = format!(
                "{set} mad.wide.u32 %rd2, %r0, 8, %rd0; st.async{mmio}.release.{scope}.global.{kind} [%rd2], {register};\n\
                 add.u64 %rd2, %rd2, 256; st.async{mmio}.release.{scope}.{kind} [%rd2], {register};"
            );
            assert_eq!(Run::new(&body).words(64), [77; 64]);
        }
    }
}

/// One cluster takes over others that have not started: each is worked on once.
#[test]
fn clusters_take_over() {
    for (cluster, multicast, space) in
        [(1, "", ""), (1, "", ".shared::cta"), (2, ".multicast::cluster::all", ".shared::cta")]
    {
        let cast = if space.is_empty() { "cvta.shared.u64 %rd2, %rd2; cvta.shared.u64 %rd3, %rd3;" } else { "" };
        let body = format!(
            "mov.u32 %r1, cell; mov.u32 %r2, %ctaid.x; mov.u32 %r3, 0; setp.eq.u32 %p1, %r0, 0; @%p1 mbarrier.init.shared::cta.b64 [%r1+16], 1;\n\
             mov.u32 %r5, %cluster_ctarank; cvt.u64.u32 %rd2, %r1; add.u64 %rd3, %rd2, 16; {cast}\n\
             fence.mbarrier_init.release.cluster; barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n\
             again: mad.wide.u32 %rd4, %r2, 8, %rd0; mov.b64 %rd5, 1; @%p1 red.global.add.u64 [%rd4], %rd5;\n\
             @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1+16], 16;\n\
             barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; setp.eq.and.u32 %p2, %r5, 0, %p1;\n\
             @%p2 clusterlaunchcontrol.try_cancel.async{space}.mbarrier::complete_tx::bytes{multicast}.b128 [{}], [{}];\n\
             wait: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r1+16], %r3; @!%p3 bra wait; xor.b32 %r3, %r3, 1;\n\
             ld.shared.b128 %rq1, [%r1]; clusterlaunchcontrol.query_cancel.is_canceled.pred.b128 %p4, %rq1;\n\
             barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; @!%p4 bra done;\n\
             clusterlaunchcontrol.query_cancel.get_first_ctaid.v4.b32.b128 {{%r6, %r7, %r8, _}}, %rq1;\n\
             clusterlaunchcontrol.query_cancel.get_first_ctaid::x.b32.b128 %r9, %rq1;\n\
             clusterlaunchcontrol.query_cancel.get_first_ctaid::y.b32.b128 %r10, %rq1;\n\
             clusterlaunchcontrol.query_cancel.get_first_ctaid::z.b32.b128 %r11, %rq1;\n\
             sub.u32 %r6, %r6, %r9; or.b32 %r6, %r6, %r7; or.b32 %r6, %r6, %r8; or.b32 %r6, %r6, %r10; or.b32 %r6, %r6, %r11;\n\
             add.u32 %r2, %r9, %r5; add.u32 %r2, %r2, %r6; bra again; done:",
            if space.is_empty() { "%rd2" } else { "%r1" },
            if space.is_empty() { "%rd3" } else { "%r1+16" }
        );
        let run = Run::new(&body).declare(".shared .align 16 .b8 cell[32];").shape(64, 32, cluster);
        assert_eq!(run.words(64), [1; 64]);
    }
}

#[test]
fn shared_memory_is_cleared() {
    for (weak, space) in [("", ".shared::cta"), (".weak", ".shared::cta"), ("", ""), (".weak", "")] {
        let address = if space.is_empty() { "%rd2" } else { "%r1" };
        for size in ["%r2", "%rd3"] {
            let body = format!(
                "mov.u32 %r1, cell; mad.lo.u32 %r3, %r0, 4, %r1; st.shared.b32 [%r3], -1; bar.sync 0; setp.ne.u32 %p1, %r0, 0;\n\
                 cvt.u64.u32 %rd2, %r1; cvta.shared.u64 %rd2, %rd2; mov.u32 %r2, 120; mov.u64 %rd3, 120; @%p1 bra done;\n\
                 st.bulk{weak}{space} [{address}], {size}, 0; done: bar.sync 0; ld.shared.u32 %r4, [%r3];\n\
                 mad.wide.u32 %rd1, %r0, 8, %rd0; cvt.u64.u32 %rd4, %r4; st.global.u64 [%rd1], %rd4;"
            );
            let words = Run::new(&body).declare(".shared .align 16 .b8 cell[128];").words(32);
            assert!(words[..30].iter().all(|word| *word == 0) && words[30..].iter().all(|word| *word == 0xffff_ffff));
        }
    }
    let odd = Run::new("mov.u32 %r1, cell; mov.u32 %r2, 12; st.bulk.shared::cta [%r1], %r2, 0;");
    assert!(odd.declare(".shared .align 16 .b8 cell[128];").fault().contains("a multiple of 8"));
}

#[test]
fn multicast() {
    let run = |body: &str| {
        let mut buffer = vec![0x0005_0006_0007_0008u64; 4];
        Run::new(body).shape(1, 1, 1).target("sm_100a").try_on(&mut buffer).unwrap_or_else(|fault| panic!("{fault}"));
        buffer
    };
    for (order, scope) in [
        ("", ""),
        (".weak", ""),
        (".relaxed", ".cta"),
        (".acquire", ".gpu"),
        (".relaxed", ".sys"),
        (".acquire", ".cluster"),
    ] {
        for space in ["", ".global"] {
            for (operation, kind) in
                [("add", "u32"), ("min", "s32"), ("max", "u32"), ("and", "b32"), ("or", "b32"), ("xor", "b32")]
            {
                let body = format!(
                    "multimem.ld_reduce{order}{scope}{space}.{operation}.{kind} %r1, [%rd0]; st.global.b32 [%rd0+8], %r1;"
                );
                assert_eq!(run(&body)[1], 0x0005_0006_0007_0008);
            }
            let store = order.replace("acquire", "release");
            let body = format!("mov.b32 %r1, 9; multimem.st{store}{scope}{space}.b32 [%rd0], %r1;");
            assert_eq!(run(&body)[0], 0x0005_0006_0000_0009);
            if order != ".weak" {
                let body = format!("mov.b32 %r1, 3; multimem.red{store}{scope}{space}.add.u32 [%rd0], %r1;");
                assert_eq!(run(&body)[0], 0x0005_0006_0007_000b);
            }
        }
    }
    for (operation, kind) in
        [("add", "u64"), ("min", "s64"), ("max", "u64"), ("and", "b64"), ("or", "b64"), ("xor", "b64"), ("add", "f64")]
    {
        let body = format!("multimem.ld_reduce.global.{operation}.{kind} %rd1, [%rd0]; st.global.b64 [%rd0+8], %rd1;");
        assert_eq!(run(&body)[1], 0x0005_0006_0007_0008);
    }
    for (operation, kind, value) in [
        ("min", "s32", 0x0007_0002u64),
        ("max", "u32", 0x0007_0009),
        ("and", "b32", 0x0007_0008),
        ("or", "b32", 0x0007_0008),
        ("xor", "b32", 0),
        ("add", "f32", 0),
        ("add", "f16x2", 0),
        ("add", "bf16x2", 0),
    ] {
        let body = format!("mov.b32 %r1, {value}; multimem.red.global.{operation}.{kind} [%rd0], %r1;");
        let expected = match (operation, kind) {
            ("min", _) | ("max", _) => value,
            _ => 0x0007_0008,
        };
        assert_eq!(run(&body)[0] & 0xffff_ffff, expected, "{operation}.{kind}");
    }
    for (kind, value) in [("u64", 1u64), ("s64", 0), ("b64", 0), ("f64", 0)] {
        let operation = match kind {
            "b64" => "or",
            "s64" => "max",
            _ => "add",
        };
        let body = format!("mov.b64 %rd1, {value}; multimem.red.relaxed.sys.global.{operation}.{kind} [%rd0], %rd1;");
        assert_eq!(run(&body)[0], 0x0005_0006_0007_0008 + if kind.starts_with('f') { 0 } else { value });
    }
    // Vectors, and types narrower than a register.
    let (four, eight) = ("{%r1, %r2, %r3, %r4}", "{%rs1, %rs2, %rs3, %rs4, %rs5, %rs6, %rs7, %rs8}");
    for (vector, kind, registers, copied) in [
        (".v4", "f16x2", four, 2),
        (".v2", "bf16x2", "{%r1, %r2}", 1),
        (".v4", "f32", four, 2),
        (".v8", "f16", eight, 2),
        (".v4", "bf16", "{%rs1, %rs2, %rs3, %rs4}", 1),
        (".v4", "e4m3x4", four, 2),
        (".v2", "e5m2x4", "{%r1, %r2}", 1),
        (".v8", "e5m2x2", eight, 2),
        (".v4", "e4m3x2", "{%rs1, %rs2, %rs3, %rs4}", 1),
    ] {
        let precision = match kind {
            "f16" | "f16x2" | "bf16" | "bf16x2" => ".acc::f32",
            "f32" => "",
            _ => ".acc::f16",
        };
        let body = format!(
            "multimem.ld_reduce.relaxed.gpu.global.add{precision}{vector}.{kind} {registers}, [%rd0];\n\
             multimem.st.relaxed.gpu.global{vector}.{kind} [%rd0+16], {registers};"
        );
        let words = run(&body);
        assert_eq!(words[2..2 + copied], vec![0x0005_0006_0007_0008u64; copied], "{kind}");
        if kind.starts_with(['f', 'b']) {
            let body = format!(
                "multimem.ld_reduce.relaxed.gpu.global.min{vector}.{kind} {registers}, [%rd0+16];\n\
                 multimem.red.release.gpu.global.add{vector}.{kind} [%rd0], {registers};"
            );
            if kind != "f32" {
                // Subnormal numbers: each doubles.
                assert_eq!(run(&body)[0], 0x000a_000c_000e_0010, "{kind}");
            }
        }
    }
    for (kind, register) in [("e4m3", "%rc1"), ("e5m2", "%rc1")] {
        let vector = if kind == "e4m3" { ".v8" } else { ".v4" };
        let count = if kind == "e4m3" { 8 } else { 4 };
        let names: Vec<String> = (0..count).map(|at| format!("%rc{at}")).collect();
        let body = format!(
            "multimem.ld_reduce.relaxed.gpu.global.add.acc::f16{vector}.{kind} {{{0}}}, [%rd0];\n\
             multimem.st.relaxed.gpu.global{vector}.{kind} [%rd0+16], {{{0}}};",
            names.join(", ")
        );
        assert_eq!(run(&body)[2] & 0xffff_ffff, 0x0007_0008, "{register}");
    }
}
