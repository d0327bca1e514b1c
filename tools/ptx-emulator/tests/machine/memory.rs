//! Loads and stores with every type, vector, space and order; fences and hints, which change no value.

use super::Run;

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[
    loads_and_stores,
    vectors_are_loaded,
    vectors_are_stored,
    policies_of_caches_change_no_value,
    discarded_memory_is_written_again,
    hints_and_fences_change_no_value,
];

/// Runs one thread on a buffer whose first word is given.
fn one(body: &str, first: u64) -> Vec<u64> {
    let mut buffer = vec![first, 0, 0, 0, 0, 0, 0, 0];
    let run = Run::new(body).shape(1, 1, 1).declare(".shared .align 16 .b8 cell[64]; .const .align 64 .b8 map[128];");
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
    for modifiers in [".ca", ".cg", ".cs"] {
        let body = format!("ld.global{modifiers}.nc.b32 %r6, [%rd0]; st.global.b32 [%rd0+8], %r6;");
        assert_eq!(one(&body, 77)[1], 77, "{modifiers}");
    }
}

/// The bytes of a type's elements, and the numbers of elements that a vector can have.
fn vectors(kind: &str) -> (usize, &'static [usize]) {
    match kind[1..].parse::<usize>().unwrap() / 8 {
        4 => (4, &[1, 2, 4, 8]),
        8 => (8, &[1, 2, 4]),
        16 => (16, &[1]),
        size => (size, &[1, 2, 4]),
    }
}

const KINDS: [&str; 15] =
    ["b8", "u8", "s8", "b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64", "b128"];

/// Registers of a type, the narrowest of which have 16 bits: their names, and the bytes of one.
fn registers(size: usize, count: usize) -> (Vec<String>, usize) {
    let set = match size {
        16 => "q",
        8 => "d",
        4 => "",
        _ => "s",
    };
    let first = if size == 16 { 0 } else { 8 };
    ((first..first + count).map(|at| format!("%r{set}{at}")).collect(), size.max(2))
}

fn list(names: &[String]) -> String {
    if let [one] = names { one.clone() } else { format!("{{{}}}", names.join(", ")) }
}

/// 256 bytes of which all differ, and half are negative.
fn bytes() -> Vec<u8> {
    (0..=255u8).map(|at| at.wrapping_mul(101).wrapping_add(77)).collect()
}

fn on_bytes(body: &str, bytes: &[u8]) -> Vec<u8> {
    let mut words: Vec<u64> = bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
    Run::new(body).shape(1, 1, 1).try_on(&mut words).unwrap_or_else(|fault| panic!("{body}\n{fault}"));
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Elements are extended to their registers, by their sign if they have one.
#[test]
fn vectors_are_loaded() {
    for load in ["ld.global", "ld", "ld.global.nc", "ldu.global", "ldu", "ld.volatile.global", "ld.relaxed.gpu.global"]
    {
        for (kind, count) in KINDS.into_iter().flat_map(|kind| vectors(kind).1.iter().map(move |count| (kind, *count)))
        {
            let (size, (names, width)) = (vectors(kind).0, registers(vectors(kind).0, count));
            // Vectors of 32 bytes are for loads of global memory that are not ordered.
            if size * count > 16 && !matches!(load, "ld.global" | "ld.global.nc") {
                continue;
            }
            let vector = if count == 1 { String::new() } else { format!(".v{count}") };
            let mut body = format!("{load}{vector}.{kind} {}, [%rd0+32];\n", list(&names));
            for (at, name) in names.iter().enumerate() {
                body.push_str(&format!("st.global.b{} [%rd0+{}], {name};\n", 8 * width, 128 + width * at));
            }
            let (before, after) = (bytes(), on_bytes(&body, &bytes()));
            for at in 0..count {
                let element = &before[32 + size * at..][..size];
                let fill = if kind == "s8" && element[0] > 127 { 0xff } else { 0 };
                let expected: Vec<u8> = element.iter().copied().chain(std::iter::repeat(fill)).take(width).collect();
                assert_eq!(after[128 + width * at..][..width], expected, "{load}{vector}.{kind}, element {at}");
            }
        }
    }
}

#[test]
fn vectors_are_stored() {
    for store in ["st.global", "st", "st.volatile.global", "st.relaxed.gpu.global"] {
        for (kind, count) in KINDS.into_iter().flat_map(|kind| vectors(kind).1.iter().map(move |count| (kind, *count)))
        {
            let (size, (names, width)) = (vectors(kind).0, registers(vectors(kind).0, count));
            if size * count > 16 && store != "st.global" {
                continue;
            }
            let vector = if count == 1 { String::new() } else { format!(".v{count}") };
            let mut body = String::new();
            for (at, name) in names.iter().enumerate() {
                body.push_str(&format!("ld.global.b{} {name}, [%rd0+{}];\n", 8 * width, 128 + width * at));
            }
            body.push_str(&format!("{store}{vector}.{kind} [%rd0+32], {};", list(&names)));
            let (before, after) = (bytes(), on_bytes(&body, &bytes()));
            let mut expected = before.clone();
            (0..count)
                .for_each(|at| expected[32 + size * at..][..size].copy_from_slice(&before[128 + width * at..][..size]));
            assert_eq!(after, expected, "{store}{vector}.{kind}");
        }
    }
}

/// What caches are told to keep changes no value.
#[test]
fn policies_of_caches_change_no_value() {
    let first =
        ["", ".L1::evict_normal", ".L1::evict_unchanged", ".L1::evict_first", ".L1::evict_last", ".L1::no_allocate"];
    let second = [".L2::evict_normal", ".L2::evict_first", ".L2::evict_last"];
    let (eight, policy) =
        ("{%r8, %r9, %r10, %r11, %r12, %r13, %r14, %r15}", "createpolicy.fractional.L2::evict_last.b64 %rd6;");
    let copied = |body: &str, count: usize| {
        let (before, after) = (bytes(), on_bytes(body, &bytes()));
        let mut expected = before.clone();
        expected.copy_within(32..32 + count, 128);
        assert_eq!(after, expected, "{body}");
    };
    for near in first {
        for far in second {
            for (load, plain) in [("ld.global", "st.global"), ("ld.global.nc", "st.global")] {
                copied(
                    &format!(
                        "{load}{near}{far}.v8.b32 {eight}, [%rd0+32]; {plain}{near}{far}.v8.b32 [%rd0+128], {eight};"
                    ),
                    32,
                );
            }
        }
        for load in ["ld.global", "ld.global.nc"] {
            for size in [".L2::64B", ".L2::128B", ".L2::256B"] {
                copied(&format!("{load}{near}{size}.b32 %r1, [%rd0+32]; st.global{near}.b32 [%rd0+128], %r1;"), 4);
                copied(
                    &format!(
                        "{policy} {load}{near}.L2::cache_hint{size}.v2.b64 {{%rd1, %rd2}}, [%rd0+32], %rd6;\n\
                         st.global{near}.L2::cache_hint.v2.b64 [%rd0+128], {{%rd1, %rd2}}, %rd6;"
                    ),
                    16,
                );
            }
        }
    }
}

/// What is thrown away can be written again.
#[test]
fn discarded_memory_is_written_again() {
    for text in ["discard.global.L2 [%rd0+128], 128;", "discard.L2 [%rd0+128], 128;"] {
        let (before, after) =
            (bytes(), on_bytes(&format!("{text} mov.b64 %rd1, 0; st.global.u64 [%rd0+136], %rd1;"), &bytes()));
        assert_eq!((&after[..128], &after[136..144]), (&before[..128], &[0u8; 8][..]), "{text}");
    }
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
        "createpolicy.fractional.L2::evict_normal.b64 %rd5;",
        "createpolicy.fractional.L2::evict_unchanged.L2::evict_first.b64 %rd5, 0.25;",
        "createpolicy.cvt.L2.b64 %rd5, 0x14f0000000000000;",
        "createpolicy.range.L2::evict_first.b64 %rd5, [%rd0], 64, 128;",
        "createpolicy.range.global.L2::evict_last.L2::evict_unchanged.b64 %rd5, [%rd0], 64, 128;",
        "createpolicy.range.L2::evict_normal.L2::evict_first.b64 %rd5, [%rd0], 64, 128;",
        "createpolicy.range.L2::evict_unchanged.L2::evict_first.b64 %rd5, [%rd0], 64, 128;",
        "applypriority.L2::evict_normal [%rd0], 128;",
        "applypriority.global.L2::evict_normal [%rd0], 128;",
        "mov.u64 %rd5, own; cvta.local.u64 %rd6, %rd5; prefetch.local.L1 [%rd5]; prefetch.local.L2 [%rd5]; prefetch.L2 [%rd6];",
        "prefetch.tensormap [%rd0];",
        "prefetch.const.tensormap [map];",
        "prefetch.param.tensormap [buffer];",
        "fence.acquire.sync_restrict::shared::cluster.cluster;",
        "fence.release.sync_restrict::shared::cta.cluster;",
        "fence.proxy.async::generic.acquire.sync_restrict::shared::cluster.cluster;",
        "fence.proxy.async::generic.release.sync_restrict::shared::cta.cluster;",
    ] {
        let text = format!(".local .align 8 .b64 own; {text}");
        assert_eq!(one(&text, 77), [77, 0, 0, 0, 0, 0, 0, 0], "{text}");
    }
}
