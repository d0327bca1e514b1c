//! Loads, stores, atomic operations and reductions with every type, space and order; fences and hints, which change no value.

use super::Run;

/// What `coverage` runs again.
pub const TESTS: &[fn()] =
    &[loads_and_stores, atomics_of_every_type, hints_and_fences_change_no_value, tensor_memory_is_moved_in_every_shape];

/// Runs one thread on a buffer whose first word is given.
fn one(body: &str, first: u64) -> Vec<u64> {
    let mut buffer = vec![first, 0, 0, 0, 0, 0, 0, 0];
    let run = Run::new(body).shape(1, 1, 1).declare(".shared .align 16 .b8 cell[64];");
    run.try_on(&mut buffer).unwrap_or_else(|fault| panic!("{body}\n{fault}"));
    buffer
}

#[test]
fn loads_and_stores() {
    let spaces = [
        ("", "%rd0"),
        (".global", "%rd0"),
        (".shared", "%r1"),
        (".shared::cta", "%r1"),
        (".shared::cluster", "%r1"),
        (".local", "own"),
    ];
    for (space, address) in spaces {
        for kind in ["b8", "u8", "s8", "b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"] {
            let bits: u32 = kind[1..].parse().unwrap();
            let (register, other) = match bits {
                64 => ("%rd5", "%rd6"),
                32 => ("%r5", "%r6"),
                _ => ("%rs5", "%rs6"),
            };
            // A byte of 0xf5 is extended by its sign in a register of 16 bits.
            let extended = if bits == 8 { 16 } else { bits };
            let body = format!(
                ".local .align 16 .b8 own[16]; mov.u32 %r1, cell; mov.b{extended} {register}, 0xf5;\n\
                 st{space}.{kind} [{address}], {register}; ld{space}.{kind} {other}, [{address}]; st.global.b{extended} [%rd0+8], {other};"
            );
            let expected = if kind == "s8" { 0xfff5 } else { 0xf5 };
            assert_eq!(one(&body, 0)[1], expected, "{space}.{kind}");
        }
    }
    for (load, store) in [
        (".weak", ".weak"),
        (".volatile", ".volatile"),
        (".relaxed.cta", ".relaxed.cta"),
        (".relaxed.cluster", ".relaxed.cluster"),
        (".relaxed.sys", ".relaxed.sys"),
        (".acquire.gpu", ".release.gpu"),
        (".mmio.relaxed.sys", ".mmio.relaxed.sys"),
    ] {
        let body = format!(
            "mov.b32 %r5, 77; st{store}.global.b32 [%rd0], %r5; ld{load}.global.b32 %r6, [%rd0]; st.global.b32 [%rd0+8], %r6;"
        );
        assert_eq!(one(&body, 0)[1], 77, "{load}");
    }
    for cache in [
        ".ca",
        ".cg",
        ".cs",
        ".lu",
        ".cv",
        ".L1::evict_normal",
        ".L1::evict_unchanged",
        ".L1::evict_first",
        ".L1::evict_last",
        ".L1::no_allocate",
        ".L2::64B",
        ".L2::128B",
        ".L2::256B",
    ] {
        let body = format!("ld.global{cache}.b32 %r6, [%rd0]; st.global.b32 [%rd0+8], %r6;");
        assert_eq!(one(&body, 77)[1], 77, "{cache}");
    }
    for cache in [
        ".wb",
        ".cg",
        ".cs",
        ".wt",
        ".L1::evict_normal",
        ".L1::evict_unchanged",
        ".L1::evict_first",
        ".L1::evict_last",
        ".L1::no_allocate",
    ] {
        assert_eq!(one(&format!("mov.b32 %r6, 77; st.global{cache}.b32 [%rd0+8], %r6;"), 0)[1], 77, "{cache}");
    }
    for modifiers in ["", ".ca", ".cg", ".cs"] {
        let body =
            format!("ld.global{modifiers}.nc.v2.b32 {{%r5, %r6}}, [%rd0]; st.global.v2.b32 [%rd0+8], {{%r6, %r5}};");
        assert_eq!(one(&body, 5 << 32 | 6)[1], 6 << 32 | 5);
    }
    let body = "ldu.global.b32 %r6, [%rd0]; st.global.b32 [%rd0+8], %r6;";
    assert_eq!(one(body, 77)[1], 77);
}

#[test]
fn atomics_of_every_type() {
    type Operation = fn(u64, u64) -> u64;
    let narrow = |value: u64| value & 0xffff_ffff;
    let integers: [(&str, &str, u64, u64, Operation); 24] = [
        ("add", "u32", 0xffff_ffff, 2, |x, y| (x + y) & 0xffff_ffff),
        ("add", "s32", 5, 2, |x, y| x + y),
        ("add", "u64", 5, 2, |x, y| x + y),
        ("min", "u32", 5, 2, u64::min),
        ("min", "s32", 5, 0xffff_fffe, |_, y| y),
        ("min", "u64", 5, 2, u64::min),
        ("min", "s64", 5, u64::MAX, |_, y| y),
        ("max", "u32", 5, 2, u64::max),
        ("max", "s32", 5, 0xffff_fffe, |x, _| x),
        ("max", "u64", 5, 2, u64::max),
        ("max", "s64", 5, u64::MAX, |x, _| x),
        ("inc", "u32", 5, 5, |_, _| 0),
        ("dec", "u32", 0, 5, |_, y| y),
        ("and", "b32", 12, 10, |x, y| x & y),
        ("or", "b32", 12, 10, |x, y| x | y),
        ("xor", "b32", 12, 10, |x, y| x ^ y),
        ("and", "b64", 12, 10, |x, y| x & y),
        ("or", "b64", 12, 10, |x, y| x | y),
        ("xor", "b64", 12, 10, |x, y| x ^ y),
        ("add", "f32", 0x3f80_0000, 0x4000_0000, |_, _| 0x4040_0000),
        ("add", "f64", 0x3ff0_0000_0000_0000, 0x4000_0000_0000_0000, |_, _| 0x4008_0000_0000_0000),
        ("add.noftz", "f16x2", 0x3c00_4000, 0x3c00_4000, |_, _| 0x4000_4400),
        ("add.noftz", "bf16x2", 0x3f80_4000, 0x3f80_4000, |_, _| 0x4000_4080),
        ("exch", "b64", 5, 6, |_, y| y),
    ];
    let orders =
        ["", ".relaxed.cta", ".relaxed.cluster", ".relaxed.gpu", ".release.sys", ".acquire.gpu", ".acq_rel.sys"];
    for (at, (operation, kind, before, value, after)) in integers.into_iter().enumerate() {
        let wide = kind.ends_with("64");
        let (register, old, bits) = if wide { ("%rd5", "%rd6", "b64") } else { ("%r5", "%r6", "b32") };
        let expected = if wide { after(before, value) } else { narrow(after(before, value)) };
        for (space, address) in [
            ("", "%rd0"),
            (".global", "%rd0"),
            (".shared", "%r1"),
            (".shared::cta", "%r1"),
            (".shared::cluster", "%r1"),
        ] {
            if space.starts_with(".shared") && operation.contains("noftz") {
                continue;
            }
            let order = orders[at % orders.len()];
            let prepare = format!(
                "mov.u32 %r1, cell; mov.{bits} {register}, {}; st{space}.{bits} [{address}], {register}; mov.{bits} {register}, {};\n",
                before as i64, value as i64
            );
            let finish = format!("ld{space}.{bits} {register}, [{address}]; st.global.{bits} [%rd0+8], {register};");
            let body = format!(
                "{prepare} atom{order}{space}.{operation}.{kind} {old}, [{address}], {register}; {finish} st.global.{bits} [%rd0+16], {old};"
            );
            let words = one(&body, 0);
            assert_eq!((words[1], words[2]), (expected, before), "atom{order}{space}.{operation}.{kind}");
            if operation != "exch" {
                let order = if order.starts_with(".acq") { ".release.cta" } else { order };
                let body = format!("{prepare} red{order}{space}.{operation}.{kind} [{address}], {register}; {finish}");
                assert_eq!(one(&body, 0)[1], expected, "red{order}{space}.{operation}.{kind}");
            }
        }
    }
    for (kind, four, six) in [("f16", 0x4400u64, 0x4600u64), ("bf16", 0x4080, 0x40c0)] {
        let body = format!(
            "mov.b16 %rs1, 0x4000; atom.global.add.noftz.{kind} %rs2, [%rd0], %rs1; red.global.add.noftz.{kind} [%rd0], %rs1;\n\
             st.global.b16 [%rd0+8], %rs2;"
        );
        let words = one(&body, 0x4000);
        assert_eq!((words[0], words[1]), (six, 0x4000), "{kind} {four}");
    }
    for (kind, register, old) in [("b32", "%r5", "%r6"), ("b64", "%rd5", "%rd6"), ("b16", "%rs5", "%rs6")] {
        let body = format!(
            "mov.{kind} {register}, 9; atom.global.cas.{kind} {old}, [%rd0], 5, {register}; st.global.{kind} [%rd0+8], {old};"
        );
        assert_eq!(one(&body, 5)[..2], [9, 5]);
    }
    // Spaces and orders as PTX before 6.0 has them, and as compilers write them.
    assert_eq!(one("mov.b32 %r5, 2; atom.global.gpu.relaxed.add.u32 %r6, [%rd0], %r5;", 5)[0], 7);
    assert_eq!(one("mov.b32 %r5, 2; red.global.gpu.relaxed.add.u32 [%rd0], %r5;", 5)[0], 7);
}

#[test]
fn hints_and_fences_change_no_value() {
    for text in [
        "fence.cta;",
        "fence.sc.cluster;",
        "fence.acq_rel.gpu;",
        "fence.acquire.sys;",
        "fence.release.sys;",
        "membar.cta;",
        "membar.gl;",
        "membar.sys;",
        "membar.proxy.alias;",
        "membar.proxy.async;",
        "fence.proxy.alias;",
        "fence.proxy.async;",
        "fence.proxy.async.global;",
        "fence.proxy.async.shared::cluster;",
        "fence.proxy.tensormap::generic.release.cta;",
        "fence.proxy.tensormap::generic.release.cluster;",
        "fence.proxy.tensormap::generic.release.gpu;",
        "fence.proxy.tensormap::generic.release.sys;",
        "fence.proxy.tensormap::generic.acquire.cta [%rd0], 128;",
        "fence.proxy.tensormap::generic.acquire.cluster [%rd0], 128;",
        "fence.proxy.tensormap::generic.acquire.gpu [%rd0], 128;",
        "fence.proxy.tensormap::generic.acquire.sys [%rd0], 128;",
        "griddepcontrol.launch_dependents;",
        "griddepcontrol.wait;",
        "nanosleep.u32 20;",
        "pmevent 3;",
        "pmevent.mask 5;",
        "prefetch.global.L1 [%rd0];",
        "prefetch.global.L2 [%rd0];",
        "prefetch.L1 [%rd0];",
        "prefetch.global.L2::evict_last [%rd0];",
        "prefetch.global.L2::evict_normal [%rd0];",
        "prefetchu.L1 [%rd0];",
        "createpolicy.fractional.L2::evict_last.b64 %rd5;",
        "createpolicy.fractional.L2::evict_first.L2::evict_unchanged.b64 %rd5, 0.5;",
    ] {
        assert_eq!(one(text, 77), [77, 0, 0, 0, 0, 0, 0, 0], "{text}");
    }
}

/// What goes into tensor memory in a shape and number comes back, and shape 32x32b sees where it is.
#[test]
fn tensor_memory_is_moved_in_every_shape() {
    for (shape, each) in [("32x32b", 1), ("16x64b", 1), ("16x128b", 2), ("16x256b", 4), ("16x32bx2", 1)] {
        for number in [1usize, 2, 4, 8, 16, 32, 64, 128] {
            let count = number * each;
            if count > 128 {
                continue;
            }
            for packed in [false, true] {
                let (pack, unpack) = if packed { (".pack::16b", ".unpack::16b") } else { ("", "") };
                let names: Vec<String> = (0..count).map(|at| format!("v{at}")).collect();
                let split = if shape == "16x32bx2" { ", 256" } else { "" };
                let mut body = format!(
                    ".reg .b32 v<{count}>; mov.u32 %r1, cell; tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], 512;\n\
                     ld.shared.u32 %r2, [cell]; mov.u32 %r3, 0;\n"
                );
                for (at, name) in names.iter().enumerate() {
                    body.push_str(&format!("mad.lo.u32 {name}, %r0, 1000, {at};\n"));
                }
                body.push_str(&format!(
                    "tcgen05.st.sync.aligned.{shape}.x{number}{unpack}.b32 [%r2]{split}, {{{0}}}; tcgen05.wait::st.sync.aligned;\n",
                    names.join(", ")
                ));
                names.iter().for_each(|name| body.push_str(&format!("mov.b32 {name}, 0;\n")));
                body.push_str(&format!(
                    "tcgen05.ld.sync.aligned.{shape}.x{number}{pack}.b32 {{{0}}}, [%r2]{split}; tcgen05.wait::ld.sync.aligned;\n",
                    names.join(", ")
                ));
                for (at, name) in names.iter().enumerate() {
                    body.push_str(&format!(
                        "mad.lo.u32 %r4, %r0, 1000, {at}; xor.b32 {name}, {name}, %r4; or.b32 %r3, %r3, {name};\n"
                    ));
                }
                body.push_str(
                    "tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r2, 512; mad.wide.u32 %rd1, %r0, 8, %rd0;\n\
                     cvt.u64.u32 %rd2, %r3; st.global.u64 [%rd1], %rd2;",
                );
                let words = Run::new(&body).declare(".shared .b32 cell;").words(32);
                assert_eq!(words, [0; 32], "{shape}.x{number}{pack}");
            }
        }
    }
}
