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
    // What is in memory, the operand, and what is in memory then.
    for (operation, kind, before, value, after) in [
        ("min", "s32", 0x0007_0008u64, 0xffff_fff0u64, 0xffff_fff0u64),
        ("max", "u32", 0x0007_0008, 0x0007_0009, 0x0007_0009),
        ("and", "b32", 0x0007_0008, 0x0003_0018, 0x0003_0008),
        ("or", "b32", 0x0007_0008, 0x0010_0001, 0x0017_0009),
        ("xor", "b32", 0x0007_0008, 0x0001_0008, 0x0006_0000),
        ("add", "s32", 5, 0xffff_fffe, 3),
        ("add", "f32", 0x3fc0_0000, 0x4010_0000, 0x4070_0000),
        ("add", "f16x2", 0x3c00_4000, 0x3c00_4000, 0x4000_4400),
        ("add", "bf16x2", 0x3f80_4000, 0x3f80_4000, 0x4000_4080),
        ("add", "u64", u64::MAX, 3, 2),
        ("min", "s64", 5, u64::MAX, u64::MAX),
        ("max", "u64", 5, u64::MAX, u64::MAX),
        ("or", "b64", 5 << 40, 2 << 40, 7 << 40),
        ("add", "f64", 0x3ff8_0000_0000_0000, 0x4002_0000_0000_0000, 0x400e_0000_0000_0000),
    ] {
        for (scope, space) in [(".relaxed.sys", ".global"), (".release.cluster", "")] {
            let (register, bits) = if kind.ends_with("64") { ("%rd1", 64) } else { ("%r1", 32) };
            let body = format!(
                "mov.b{bits} {register}, {}; multimem.red{scope}{space}.{operation}.{kind} [%rd0], {register};",
                value as i64
            );
            let mut buffer = [before, 7];
            Run::new(&body).shape(1, 1, 1).try_on(&mut buffer).unwrap_or_else(|fault| panic!("{body}: {fault}"));
            assert_eq!(buffer, [after, 7], "{operation}.{kind}");
        }
    }
    // A store of each type to all copies.
    for kind in ["b32", "u32", "s32", "f32", "f16x2", "bf16x2", "e4m3x4", "b64", "u64", "s64", "f64"] {
        let (register, bits) = if kind.ends_with("64") { ("%rd1", 64) } else { ("%r1", 32) };
        for weak in ["", ".weak", ".relaxed.gpu", ".release.sys"] {
            let body = format!(
                "mov.b{bits} {register}, 0x123456789abcdef0; multimem.st{weak}.global.{kind} [%rd0], {register};"
            );
            let body = if bits == 32 { body.replace("0x123456789abcdef0", "0x9abcdef0") } else { body };
            let stored = if bits == 64 { 0x1234_5678_9abc_def0 } else { 0x0005_0006_9abc_def0 };
            assert_eq!(run(&body)[0], stored, "{kind}");
        }
    }
    // Sums of the elements of vectors: 1 + 2 and 3 + 4 in turn.
    for (count, kind, element) in
        [(2, "f32", 32), (4, "f32", 32), (2, "f16x2", 32), (4, "bf16x2", 32), (8, "f16", 16), (4, "bf16", 16)]
    {
        let code = |value: f32| match kind.trim_end_matches("x2") {
            "f16" => u64::from(half::f16::from_f32(value).to_bits()),
            "bf16" => u64::from(half::bf16::from_f32(value).to_bits()),
            _ => u64::from(value.to_bits()),
        };
        let width = if kind == "f32" { 32 } else { 16 };
        let image = |values: [f32; 2]| (0..64 / width).fold(0, |all, at| all | code(values[at % 2]) << (width * at));
        let words = count * element / 64;
        let (first, second, sum) = (image([1.0, 3.0]), image([2.0, 4.0]), image([3.0, 7.0]));
        let names: Vec<String> =
            (0..count).map(|at| if element == 16 { format!("%rs{at}") } else { format!("%r{at}") }).collect();
        for (at, scope) in ["cta", "cluster", "gpu", "sys"].into_iter().enumerate() {
            let order = [".relaxed", ".release"][at % 2];
            let space = if at < 2 { ".global" } else { "" };
            let mut body = String::new();
            for (at, name) in names.iter().enumerate() {
                body.push_str(&format!("ld.global.b{element} {name}, [%rd0+{}];\n", 16 + at * element / 8));
            }
            body.push_str(&format!(
                "multimem.red{order}.{scope}{space}.add.v{count}.{kind} [%rd0], {{{}}};",
                names.join(", ")
            ));
            let mut buffer = [first, first, second, second];
            Run::new(&body).shape(1, 1, 1).try_on(&mut buffer).unwrap_or_else(|fault| panic!("{body}: {fault}"));
            assert_eq!(buffer[..words], [sum, sum][..words], "v{count}.{kind}");
        }
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
