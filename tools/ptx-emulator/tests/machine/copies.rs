//! Copies that complete by themselves and need no tensor map: `cp.async`, copies and reductions in bulk, `st.async`.

use super::Run;

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[
    copies_of_threads,
    groups_of_copies,
    copies_arrive_at_mbarriers,
    copies_complete_their_barriers,
    bulk_copies_into_shared_memory,
    bulk_copies_to_several_ctas,
    bulk_copies_between_ctas,
    bulk_copies_into_global_memory,
    bulk_reductions,
    bulk_reductions_into_the_shared_memory_of_another_cta,
    ends_of_bulk_copies_may_be_out_of_bounds,
    bulk_copies_and_reductions_of_several_gpus,
    bulk_sums_of_floats,
    stores_into_other_ctas,
];

/// Bytes that are all different for a while.
fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 7 + at / 256 + 1) as u8).collect()
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Each thread copies from its 16 bytes of the buffer's first 512 to its own in shared memory, which were all ones, and from there to
/// the next 512 bytes.
#[test]
fn copies_of_threads() {
    let hints = ["", ".L2::64B", ".L2::128B", ".L2::256B"];
    let mut turn = 0;
    for (cache, size) in [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)] {
        for space in ["shared", "shared::cta"] {
            for policy in [false, true] {
                // All of it; five bytes and zeros; as many bytes as a register says; all or zeros as a predicate says.
                for (operand, taken) in [("", size), (", %r7", 3), (", 2", 2), (", %p2", 0), (", !%p2", size)] {
                    let hint = hints[turn % 4];
                    turn += 1;
                    let (name, last) = if policy { (".L2::cache_hint", ", %rd6") } else { ("", "") };
                    let body = format!(
                        "createpolicy.fractional.L2::evict_first.b64 %rd6; mad.wide.u32 %rd1, %r0, 16, %rd0; mov.u32 %r1, tile;\n\
                         mad.lo.u32 %r1, %r0, 16, %r1; mov.b64 %rd2, -1; st.shared.v2.b64 [%r1], {{%rd2, %rd2}}; mov.b32 %r7, 3;\n\
                         setp.eq.u32 %p2, %r7, 3; cp.async.{cache}.{space}.global{name}{hint} [%r1], [%rd1], {size}{operand}{last};\n\
                         cp.async.wait_all; ld.shared.v2.b64 {{%rd3, %rd4}}, [%r1]; st.global.v2.b64 [%rd1+512], {{%rd3, %rd4}};"
                    );
                    let source = pattern(512);
                    let mut buffer = words(&[source.clone(), vec![0; 512]].concat());
                    let run = Run::new(&body).checked().declare(".shared .align 16 .b8 tile[512];");
                    run.try_on(&mut buffer).unwrap_or_else(|fault| panic!("{fault}"));
                    for (at, byte) in bytes(&buffer[64..]).into_iter().enumerate() {
                        let expected = match at % 16 {
                            within if within < taken => source[at],
                            within if within < size => 0,
                            _ => 0xff,
                        };
                        assert_eq!(byte, expected, "cp.async.{cache} of {size} bytes{operand}, byte {at}");
                    }
                }
            }
        }
    }
}

/// Two groups of copies; what is waited for is there.
#[test]
fn groups_of_copies() {
    let body = "mad.wide.u32 %rd1, %r0, 8, %rd0; mov.u32 %r1, tile; mad.lo.u32 %r1, %r0, 8, %r1;\n\
        cp.async.ca.shared.global [%r1], [%rd1], 8; cp.async.commit_group; cp.async.ca.shared.global [%r1+256], [%rd1+256], 8;\n\
        cp.async.commit_group; cp.async.wait_group 1; ld.shared.u64 %rd3, [%r1]; cp.async.wait_group 0; ld.shared.u64 %rd4, [%r1+256];\n\
        add.u64 %rd3, %rd3, %rd4; st.global.u64 [%rd1], %rd3;";
    let mut buffer: Vec<u64> = (0..64).map(|at| at * at).collect();
    Run::new(body).checked().declare(".shared .align 16 .b8 tile[512];").try_on(&mut buffer).unwrap();
    let expected: Vec<u64> = (0..32).map(|at| at * at + (at + 32) * (at + 32)).collect();
    assert_eq!(buffer[..32], expected);
}

/// The barrier waits for 32 threads and the copies of 32: without `.noinc` those are not counted when it is initialized.
#[test]
fn copies_arrive_at_mbarriers() {
    for (space, address) in [("", "%rd2"), (".shared", "%r2"), (".shared::cta", "%r2")] {
        for (variant, count) in [("", 32), (".noinc", 64)] {
            let body = format!(
                "mad.wide.u32 %rd1, %r0, 8, %rd0; mov.u32 %r1, tile; mad.lo.u32 %r1, %r0, 8, %r1; mov.u32 %r2, cell;\n\
                 mov.u64 %rd2, cell; cvta.shared.u64 %rd2, %rd2; setp.eq.u32 %p1, %r0, 0;\n\
                 @%p1 mbarrier.init.shared::cta.b64 [%r2], {count}; bar.sync 0;\n\
                 cp.async.ca.shared.global [%r1], [%rd1], 8; cp.async.mbarrier.arrive{variant}{space}.b64 [{address}];\n\
                 mbarrier.test_wait.parity.shared::cta.b64 %p3, [%r2], 0; mbarrier.arrive.shared::cta.b64 _, [%r2];\n\
                 wait: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0; @!%p2 bra wait;\n\
                 mov.u32 %r3, tile; mad.lo.u32 %r4, %r0, -8, 248; add.u32 %r3, %r3, %r4; ld.shared.u64 %rd3, [%r3];\n\
                 selp.u64 %rd4, 1000, 0, %p3; add.u64 %rd3, %rd3, %rd4; st.global.u64 [%rd1], %rd3;"
            );
            let mut buffer: Vec<u64> = (0..32).collect();
            let run = Run::new(&body).checked().declare(".shared .align 16 .b8 tile[256]; .shared .align 8 .b64 cell;");
            run.try_on(&mut buffer).unwrap_or_else(|fault| panic!("{fault}"));
            assert_eq!(buffer, (0..32).rev().collect::<Vec<u64>>(), "{variant}{space}");
        }
    }
}

#[test]
fn copies_complete_their_barriers() {
    let body = "mov.u32 %r1, bar; mov.u32 %r2, tile; setp.eq.u32 %p1, %r0, 0; @!%p1 bra WAIT;\n\
        mbarrier.init.shared::cta.b64 [%r1], 1; mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 64;\n\
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd0], 64, [%r1];\n\
        WAIT: bar.sync 0;\nPOLL: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r1], 0; @!%p2 bra POLL;\n\
        ld.shared.u64 %rd1, [tile+56]; st.global.u64 [%rd0], %rd1;";
    let run =
        Run::new(body).checked().declare(".shared .align 16 .b8 tile[64]; .shared .align 8 .b64 bar;").shape(1, 64, 1);
    let mut words: Vec<u64> = (10..18).collect();
    run.try_on(&mut words).unwrap();
    assert_eq!(words[0], 17);
}

/// What one thread of each CTA runs before it copies: `%r1` is shared memory of 256 bytes, `%r2` an mbarrier that expects 96 of them,
/// `%r3` the CTA's rank.
const PREPARE: &str = "mov.u32 %r1, tile; mov.u32 %r2, cell; mov.u32 %r3, %cluster_ctarank; setp.eq.u32 %p1, %r0, 0;\n\
    createpolicy.fractional.L2::evict_last.b64 %rd6; mad.lo.u32 %r4, %r0, 8, %r1; st.shared.u64 [%r4], 0;\n\
    @%p1 mbarrier.init.shared::cta.b64 [%r2], 1; @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 96;\n\
    fence.mbarrier_init.release.cluster; fence.proxy.async; barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n";

/// Waits for the barrier, and puts the CTA's 256 bytes behind the first 512 of the buffer.
const FINISH: &str = "\nwait: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0; @!%p2 bra wait; ld.shared.u64 %rd7, [%r4];\n\
    mad.lo.u32 %r5, %r3, 32, %r0; mad.wide.u32 %rd1, %r5, 8, %rd0; st.global.u64 [%rd1+512], %rd7;\n\
    barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";

fn bulk(text: &str, ctas: u32) -> Vec<u8> {
    let mut buffer = words(&[pattern(512), vec![0; 1024]].concat());
    let body = format!("{PREPARE}{text}{FINISH}");
    let run = Run::new(&body)
        .checked()
        .declare(".shared .align 16 .b8 tile[256]; .shared .align 8 .b64 cell;")
        .shape(ctas, 32, ctas);
    run.try_on(&mut buffer).unwrap_or_else(|fault| panic!("{text}\n{fault}"));
    bytes(&buffer[64..])[..256 * ctas as usize].to_vec()
}

/// 256 bytes of zeros, of which some are others.
fn image(at: usize, part: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 256];
    image[at..at + part.len()].copy_from_slice(part);
    image
}

#[test]
fn bulk_copies_into_shared_memory() {
    for space in ["shared::cta", "shared::cluster"] {
        for (hint, policy) in [("", ""), (".L2::cache_hint", ", %rd6")] {
            for prefetch in [
                "",
                "@%p1 cp.async.bulk.prefetch.L2.global [%rd0+32], 96;",
                "@%p1 cp.async.bulk.prefetch.L2.global.L2::cache_hint [%rd0], 16, %rd6;",
            ] {
                let text = format!(
                    "{prefetch} @%p1 cp.async.bulk.{space}.global.mbarrier::complete_tx::bytes{hint} [%r1+64], [%rd0+32], 96, [%r2]{policy};"
                );
                assert_eq!(bulk(&text, 1), image(64, &pattern(512)[32..128]), "{text}");
            }
        }
    }
}

/// The first CTA copies for itself and the fourth, at the same place in each, and each one's barrier is told; the others copy for
/// themselves.
#[test]
fn bulk_copies_to_several_ctas() {
    for (hint, policy) in [("", ""), (".L2::cache_hint", ", %rd6")] {
        let text = format!(
            "mov.b16 %rs1, 9; setp.eq.and.u32 %p3, %r3, 0, %p1; setp.eq.u32 %p4, %r3, 1; setp.eq.or.u32 %p4, %r3, 2, %p4; and.pred %p4, %p4, %p1;\n\
             @%p3 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster{hint} [%r1+32], [%rd0+128], 96, [%r2], %rs1{policy};\n\
             @%p4 cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r1], [%rd0+16], 96, [%r2];"
        );
        let source = pattern(512);
        let (several, own) = (image(32, &source[128..224]), image(0, &source[16..112]));
        assert_eq!(bulk(&text, 4), [several.clone(), own.clone(), own, several].concat());
    }
}

/// Each CTA gives the other what it has got itself.
#[test]
fn bulk_copies_between_ctas() {
    let text = "@!%p1 bra wait; mbarrier.init.shared::cta.b64 [%r2+8], 1; mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2+8], 48;\n\
        mul.wide.u32 %rd2, %r3, 64; add.u64 %rd2, %rd2, %rd0;\n\
        cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r1], [%rd2], 48, [%r2+8];\n\
        own: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2+8], 0; @!%p2 bra own; xor.b32 %r6, %r3, 1;\n\
        mapa.shared::cluster.u32 %r7, %r1, %r6; mapa.shared::cluster.u32 %r8, %r2, %r6;\n\
        cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r7+128], [%r1], 48, [%r8];\n\
        cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r7+192], [%r1], 48, [%r8];";
    let mut buffer = words(&[pattern(512), vec![0; 1024]].concat());
    let body = format!("{PREPARE}{text}{FINISH}");
    let run = Run::new(&body)
        .checked()
        .declare(".shared .align 16 .b8 tile[256]; .shared .align 8 .b64 cell[2];")
        .shape(2, 32, 2);
    run.try_on(&mut buffer).unwrap_or_else(|fault| panic!("{fault}"));
    let found = bytes(&buffer[64..]);
    for cta in 0..2 {
        let (own, other) = (&pattern(512)[64 * cta..][..48], &pattern(512)[64 * (1 - cta)..][..48]);
        for (at, part) in [(0, own), (128, other), (192, other)] {
            assert_eq!(&found[256 * cta + at..][..48], part, "CTA {cta}, byte {at}");
        }
    }
}

/// What one thread runs after it has filled shared memory, at `%r1`, from the buffer's second 512 bytes.
fn from_shared(text: &str, target: &[u8], source: &[u8]) -> Vec<u8> {
    let mut buffer = words(&[target, source].concat());
    let half = target.len();
    let body = format!(
        "mov.u32 %r1, tile; mad.wide.u32 %rd1, %r0, 16, %rd0; mad.lo.u32 %r2, %r0, 16, %r1; createpolicy.fractional.L2::evict_last.b64 %rd6;\n\
         ld.global.v2.b64 {{%rd2, %rd3}}, [%rd1+{half}]; st.shared.v2.b64 [%r2], {{%rd2, %rd3}}; fence.proxy.async.shared::cta; bar.sync 0;\n\
         setp.ne.u32 %p1, %r0, 0; @%p1 bra done; {text} cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; done:"
    );
    let run =
        Run::new(&body).checked().declare(".shared .align 16 .b8 tile[512];").shape(1, source.len() as u32 / 16, 1);
    run.try_on(&mut buffer).unwrap_or_else(|fault| panic!("{text}\n{fault}"));
    bytes(&buffer[..half / 8])
}

#[test]
fn bulk_copies_into_global_memory() {
    let (source, start) = (pattern(512), vec![0; 512]);
    for (hint, policy) in [("", ""), (".L2::cache_hint", ", %rd6")] {
        for (masked, mask, bits) in [("", "", 0xffff), (".cp_mask", ", %rs1", 0x8421u32)] {
            let text = format!(
                "mov.b16 %rs1, {bits}; cp.async.bulk.global.shared::cta.bulk_group{hint}{masked} [%rd0+48], [%r1+16], 320{policy}{mask};"
            );
            let found = from_shared(&text, &start, &source);
            for (at, byte) in found.into_iter().enumerate() {
                // A bit of the mask is for a byte of each 16.
                let copied = (48..368).contains(&at) && bits >> (at % 16) & 1 != 0;
                assert_eq!(byte, if copied { source[at - 32] } else { 0 }, "{text} byte {at}");
            }
        }
    }
}

#[test]
fn bulk_reductions() {
    type Operation = fn(i128, i128) -> i128;
    let operations: [(&str, &[&str], Operation); 8] = [
        ("add", &["u32", "s32", "u64"], |x, y| x + y),
        ("min", &["u32", "s32", "u64", "s64"], i128::min),
        ("max", &["u32", "s32", "u64", "s64"], i128::max),
        ("inc", &["u32"], |x, y| if x >= y { 0 } else { x + 1 }),
        ("dec", &["u32"], |x, y| if x == 0 || x > y { y } else { x - 1 }),
        ("and", &["b32", "b64"], |x, y| x & y),
        ("or", &["b32", "b64"], |x, y| x | y),
        ("xor", &["b32", "b64"], |x, y| x ^ y),
    ];
    let (target, source) = (pattern(512), pattern(1024)[300..812].to_vec());
    for (operation, kind, combine) in
        operations.iter().flat_map(|(name, kinds, combine)| kinds.iter().map(move |kind| (name, *kind, combine)))
    {
        for (hint, policy) in [("", ""), (".L2::cache_hint", ", %rd6")] {
            let text = format!(
                "cp.reduce.async.bulk.global.shared::cta.bulk_group{hint}.{operation}.{kind} [%rd0+16], [%r1], 480{policy};"
            );
            let size = kind[1..].parse::<usize>().unwrap() / 8;
            let number = |bytes: &[u8]| {
                let mut wide = [if kind.starts_with('s') && bytes[size - 1] > 127 { 255 } else { 0 }; 16];
                wide[..size].copy_from_slice(bytes);
                i128::from_le_bytes(wide)
            };
            let mut expected = target.clone();
            for at in (0..480).step_by(size) {
                let value = combine(number(&target[at + 16..][..size]), number(&source[at..][..size]));
                expected[at + 16..][..size].copy_from_slice(&value.to_le_bytes()[..size]);
            }
            assert_eq!(from_shared(&text, &target, &source), expected, "{text}");
        }
    }
}

/// Each CTA combines 96 bytes of its own with 96 of the other.
#[test]
fn bulk_reductions_into_the_shared_memory_of_another_cta() {
    type Operation = fn(u32, u32) -> u32;
    let cases: [(&str, &str, Operation); 11] = [
        ("and", "b32", |x, y| x & y),
        ("or", "b32", |x, y| x | y),
        ("xor", "b32", |x, y| x ^ y),
        ("add", "u32", u32::wrapping_add),
        ("add", "s32", u32::wrapping_add),
        ("inc", "u32", |x, y| if x >= y { 0 } else { x + 1 }),
        ("dec", "u32", |x, y| if x == 0 || x > y { y } else { x - 1 }),
        ("min", "u32", u32::min),
        ("max", "u32", u32::max),
        ("min", "s32", |x, y| x.cast_signed().min(y.cast_signed()).cast_unsigned()),
        ("max", "s32", |x, y| x.cast_signed().max(y.cast_signed()).cast_unsigned()),
    ];
    let (source, target) = (|at: u32| (3 * at).wrapping_sub(30), |at: u32| 10u32.wrapping_sub(at));
    let result = |operation: &str, kind: &str| {
        let text = format!(
            "mad.lo.u32 %r6, %r0, 4, %r1; setp.lt.u32 %p3, %r0, 24; mad.lo.u32 %r7, %r0, 3, -30; sub.u32 %r8, 10, %r0;\n\
             @%p3 st.shared.u32 [%r6], %r7; @%p3 st.shared.u32 [%r6+112], %r8; fence.proxy.async; xor.b32 %r9, %r3, 1;\n\
             mapa.shared::cluster.u32 %r10, %r1, %r9; mapa.shared::cluster.u32 %r11, %r2, %r9;\n\
             barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n\
             @%p1 cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.{operation}.{kind} [%r10+112], [%r1], 96, [%r11];"
        );
        bulk(&text, 2)
    };
    let both = |result: Vec<u8>| {
        let sources: Vec<u8> = (0..24).flat_map(|at| source(at).to_le_bytes()).collect();
        let mut one = image(112, &result);
        one[..96].copy_from_slice(&sources);
        [one.clone(), one].concat()
    };
    for (operation, kind, combine) in cases {
        let expected = (0..24).flat_map(|at| combine(target(at), source(at)).to_le_bytes()).collect();
        assert_eq!(result(operation, kind), both(expected), "{operation}.{kind}");
    }
    let wide = |number: fn(u32) -> u32, at: u32| u64::from(number(2 * at)) | u64::from(number(2 * at + 1)) << 32;
    let sums = (0..12).flat_map(|at| wide(target, at).wrapping_add(wide(source, at)).to_le_bytes()).collect();
    assert_eq!(result("add", "u64"), both(sums));
    let load = Run::new("cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.min.u64 [%r1], [%r2], 16, [%r3];").load();
    assert!(load.err().is_some_and(|message| message.contains("takes only `.add` of .u64")));
}

/// What is said to be out of bounds at both ends is not copied, but counted.
#[test]
fn ends_of_bulk_copies_may_be_out_of_bounds() {
    for (hint, policy) in [("", ""), (".L2::cache_hint", ", %rd6")] {
        let text = |left: u32| {
            format!(
                "mov.u32 %r6, {left}; @%p1 cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes.ignore_oob{hint} [%r1+64], [%rd0+32], 96, %r6, 9, [%r2]{policy};"
            )
        };
        assert_eq!(bulk(&text(5), 1), image(69, &pattern(512)[37..119]));
        let body = format!("{PREPARE}{}{FINISH}", text(16));
        let run = Run::new(&body).checked().declare(".shared .align 16 .b8 tile[256]; .shared .align 8 .b64 cell;");
        assert!(run.fault().contains("16 and 9 bytes of 96 are ignored: 15 can be at each end"));
    }
}

/// Behind an address of several GPUs there is the memory of one.
#[test]
fn bulk_copies_and_reductions_of_several_gpus() {
    let (source, start) = (pattern(512), vec![0; 512]);
    for (masked, mask, bits) in [("", "", 0xffff), (".cp_mask", ", %rs1", 0x8421u32)] {
        let text = format!(
            "mov.b16 %rs1, {bits}; multimem.cp.async.bulk.global.shared::cta.bulk_group{masked} [%rd0+48], [%r1+16], 320{mask};"
        );
        for (at, byte) in from_shared(&text, &start, &source).into_iter().enumerate() {
            let copied = (48..368).contains(&at) && bits >> (at % 16) & 1 != 0;
            assert_eq!(byte, if copied { source[at - 32] } else { 0 }, "{text} byte {at}");
        }
    }
    // The same as of one GPU, whose results other tests know.
    let (target, source) = (pattern(512), pattern(1024)[300..812].to_vec());
    let kinds: [(&str, &[&str]); 9] = [
        ("add", &["u32", "s32", "u64", "f32", "f64"]),
        ("add.noftz", &["f16", "bf16"]),
        ("min", &["u32", "s32", "u64", "s64", "f16", "bf16"]),
        ("max", &["u32", "s32", "u64", "s64", "f16", "bf16"]),
        ("inc", &["u32"]),
        ("dec", &["u32"]),
        ("and", &["b32", "b64"]),
        ("or", &["b32", "b64"]),
        ("xor", &["b32", "b64"]),
    ];
    for (operation, kind) in kinds.iter().flat_map(|(operation, kinds)| kinds.iter().map(move |kind| (operation, kind)))
    {
        let text =
            |name: &str| format!("{name}.global.shared::cta.bulk_group.{operation}.{kind} [%rd0+16], [%r1], 480;");
        let [several, one] = ["multimem.cp.reduce.async.bulk", "cp.reduce.async.bulk"]
            .map(|name| from_shared(&text(name), &target, &source));
        assert_eq!(several, one, "{operation}.{kind}");
        assert_ne!(several, target, "{operation}.{kind}");
    }
}

#[test]
fn bulk_sums_of_floats() {
    let values = [0.0, 1.0, -1.5, 100.25, 1e-40, -3e-6, 65504.0, -0.0];
    let flush = |value: f32| if value.is_subnormal() { 0f32.copysign(value) } else { value };
    let code = |kind: &str, value: f64| match kind {
        "f16" => half::f16::from_f64(value).to_le_bytes().to_vec(),
        "bf16" => half::bf16::from_f64(value).to_le_bytes().to_vec(),
        "f32" => (value as f32).to_le_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    };
    // What a format makes of a value.
    let rounded = |kind: &str, value: f64| match kind {
        "f16" => half::f16::from_f64(value).to_f64(),
        "bf16" => half::bf16::from_f64(value).to_f64(),
        "f32" => f64::from(value as f32),
        _ => value,
    };
    for (kind, name) in [("f16", "add.noftz.f16"), ("bf16", "add.noftz.bf16"), ("f32", "add.f32"), ("f64", "add.f64")] {
        let (target, source): (Vec<f64>, Vec<f64>) = values.iter().flat_map(|x| values.map(|y| (*x, y))).unzip();
        let image = |values: &[f64]| values.iter().flat_map(|value| code(kind, *value)).collect::<Vec<u8>>();
        let sums: Vec<f64> = target
            .iter()
            .zip(&source)
            .map(|(x, y)| match kind {
                // "The current implementation of cp.reduce.async.bulk.add.f32 flushes subnormal inputs and results".
                "f32" => f64::from(flush(flush(*x as f32) + flush(*y as f32))),
                _ => rounded(kind, *x) + rounded(kind, *y),
            })
            .collect();
        let text = format!(
            "cp.reduce.async.bulk.global.shared::cta.bulk_group.{name} [%rd0], [%r1], {};",
            image(&target).len()
        );
        assert_eq!(from_shared(&text, &image(&target), &image(&source)), image(&sums), "{name}");
    }
    for (operation, combine) in [("min", f64::min as fn(f64, f64) -> f64), ("max", f64::max)] {
        for kind in ["f16", "bf16"] {
            let (target, source) =
                ([1.0, -2.0, 0.5, 7.0, -8.0, 1e-6, 3.0, 4.0], [2.0, -3.0, 0.25, 7.5, 1.0, 2e-6, -3.0, 4.0]);
            let image = |values: &[f64]| values.iter().flat_map(|value| code(kind, *value)).collect::<Vec<u8>>();
            let expected: Vec<f64> = target.iter().zip(source).map(|(x, y)| combine(*x, y)).collect();
            let text =
                format!("cp.reduce.async.bulk.global.shared::cta.bulk_group.{operation}.{kind} [%rd0], [%r1], 16;");
            assert_eq!(from_shared(&text, &image(&target), &image(&source)), image(&expected), "{operation}.{kind}");
        }
    }
}

/// The threads of each CTA store into the other one, whose barrier waits for all the bytes.
#[test]
fn stores_into_other_ctas() {
    for kind in ["b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"] {
        let size: usize = kind[1..].parse::<usize>().unwrap() / 8;
        for count in [1, 2, 4] {
            if count * size > 16 {
                continue;
            }
            for (weak, space) in [
                ("", ".shared::cluster"),
                (".weak", ".shared::cluster"),
                (".cluster", ".shared::cluster"),
                ("", ""),
                (".weak", ""),
            ] {
                let cast = if space.is_empty() {
                    "cvta.shared::cluster.u64 %rd2, %rd2; cvta.shared::cluster.u64 %rd3, %rd3;"
                } else {
                    ""
                };
                let register = |at: usize| if size == 8 { format!("%rd{}", at + 8) } else { format!("%r{}", at + 8) };
                let names: Vec<String> = (0..count).map(register).collect();
                let values = if count == 1 { names[0].clone() } else { format!("{{{}}}", names.join(", ")) };
                let vector = if count == 1 { String::new() } else { format!(".v{count}") };
                let mut body = format!(
                    "mov.u32 %r1, tile; mov.u32 %r2, cell; mov.u32 %r3, %cluster_ctarank; setp.eq.u32 %p1, %r0, 0;\n\
                     @%p1 mbarrier.init.shared::cta.b64 [%r2], 1; @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], {};\n\
                     fence.mbarrier_init.release.cluster; barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n\
                     xor.b32 %r4, %r3, 1; mad.lo.u32 %r5, %r0, {}, %r1; mapa.shared::cluster.u32 %r6, %r5, %r4; cvt.u64.u32 %rd2, %r6;\n\
                     mapa.shared::cluster.u32 %r7, %r2, %r4; cvt.u64.u32 %rd3, %r7; {cast} mad.lo.u32 %r12, %r3, 100, %r0;\n",
                    32 * size * count,
                    size * count
                );
                for (at, name) in names.iter().enumerate() {
                    let text = format!("mad.lo.u32 %r13, %r12, 4, {at};");
                    body.push_str(&match size {
                        8 => format!("{text} mul.wide.u32 {name}, %r13, 0x10000001;\n"),
                        _ => format!("{text} mov.b32 {name}, %r13;\n"),
                    });
                }
                body.push_str(&format!(
                    "st.async{weak}{space}.mbarrier::complete_tx::bytes{vector}.{kind} [%rd2], {values}, [%rd3];\n\
                     wait: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p2, [%r2], 0; @!%p2 bra wait;\n\
                     mad.lo.u32 %r14, %r3, 32, %r0; mad.wide.u32 %rd1, %r14, 32, %rd0;\n"
                ));
                for at in 0..count {
                    body.push_str(&format!(
                        "ld.shared.b{0} %rd4, [%r5+{1}]; st.global.b64 [%rd1+{2}], %rd4;\n",
                        8 * size,
                        size * at,
                        8 * at
                    ));
                }
                body.push_str("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;");
                let run = Run::new(&body)
                    .checked()
                    .declare(".shared .align 16 .b8 tile[512]; .shared .align 8 .b64 cell;")
                    .shape(2, 32, 2);
                for (at, word) in run.words(4 * 64).into_iter().enumerate().filter(|(at, _)| at % 4 < count) {
                    let (cta, thread) = (at as u64 / 128, at as u64 / 4 % 32);
                    let number = ((1 - cta) * 100 + thread) * 4 + at as u64 % 4;
                    let expected = if size == 8 { number * 0x1000_0001 } else { number };
                    assert_eq!(word, expected, "st.async{weak}{space}{vector}.{kind}");
                }
            }
        }
    }
}
