//! Barriers among threads: of a CTA, of a cluster, and in shared memory; and the fences beside them.

use super::Run;
use super::trial::Draw;

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[
    barriers_order_warps,
    barriers_reduce_predicates,
    an_arrival_does_not_wait,
    clusters_meet,
    exited_threads_are_not_waited_for,
    registers_pass_from_warp_to_warp,
    mbarriers_count,
    mbarriers_of_other_ctas_count,
    an_invalidated_mbarrier_is_memory,
    an_arrival_that_must_not_complete,
];

const STORE: &str = "mad.wide.u32 %rd1, %r0, 8, %rd0; cvt.u64.u32 %rd2, %r1; st.global.u64 [%rd1], %rd2;";

#[test]
fn barriers_order_warps() {
    let body = format!(
        "shl.b32 %r2, %r0, 2; mov.u32 %r3, cells; add.u32 %r2, %r2, %r3; st.shared.u32 [%r2], %r0; bar.sync 0;\n\
         sub.u32 %r4, 127, %r0; shl.b32 %r4, %r4, 2; add.u32 %r4, %r4, %r3; ld.shared.u32 %r1, [%r4];\n\
         setp.lt.u32 %p1, %r0, 40; bar.red.popc.u32 %r5, 1, %p1; mad.lo.u32 %r1, %r5, 1000, %r1;\n{STORE}"
    );
    let words = Run::new(&body).declare(".shared .align 4 .b32 cells[128];").shape(1, 128, 1).words(128);
    assert_eq!((words[0], words[127]), (40_127, 40_000));
}

#[test]
fn barriers_reduce_predicates() {
    // Forty of 64 threads hold the predicate.
    for barrier in ["bar", "bar.cta", "barrier", "barrier.cta"] {
        let aligned = if barrier.starts_with("barrier") { ".aligned" } else { "" };
        let body = format!(
            "setp.lt.u32 %p1, %r0, 40; {barrier}.red.popc{aligned}.u32 %r1, 1, %p1; {barrier}.red.and{aligned}.pred %p2, 1, %p1;\n\
             {barrier}.red.or{aligned}.pred %p3, 1, %p1; selp.u32 %r2, 100, 0, %p2; selp.u32 %r3, 1000, 0, %p3; add.u32 %r1, %r1, %r2;\n\
             add.u32 %r1, %r1, %r3; {barrier}.sync{aligned} 2, 64;\n{STORE}"
        );
        assert_eq!(Run::new(&body).shape(1, 64, 1).words(64), [1040; 64], "{barrier}");
    }
}

/// The second warp arrives, and goes on to set the flag without which the first would never come to the barrier.
#[test]
fn an_arrival_does_not_wait() {
    for barrier in ["bar", "bar.cta", "barrier", "barrier.cta"] {
        for aligned in if barrier.starts_with("barrier") { &["", ".aligned"][..] } else { &[""] } {
            let body = format!(
                "mov.u32 %r2, cells; shl.b32 %r3, %r0, 2; add.u32 %r3, %r3, %r2; setp.lt.u32 %p1, %r0, 32; @%p1 bra first;\n\
                 add.u32 %r4, %r0, 100; st.shared.u32 [%r3], %r4; {barrier}.arrive{aligned} 3, 64;\n\
                 st.volatile.shared.u32 [%r2], 1; bra done;\n\
                 first: ld.volatile.shared.u32 %r5, [%r2]; setp.eq.u32 %p2, %r5, 0; @%p2 bra first;\n\
                 {barrier}.sync{aligned} 3, 64; ld.shared.u32 %r1, [%r3+128];\n{STORE}\ndone:"
            );
            let words = Run::new(&body).declare(".shared .b32 cells[64];").shape(1, 64, 1).words(32);
            assert_eq!(words, (132..164).collect::<Vec<u64>>(), "{barrier}{aligned}");
        }
    }
}

/// Each CTA reads what the other wrote before the barrier. With `.relaxed` a fence has to make it visible.
#[test]
fn clusters_meet() {
    for (arrive, wait) in [("", ""), (".release", ".acquire"), (".relaxed", ".acquire"), (".relaxed", "")] {
        for aligned in ["", ".aligned"] {
            let fence = if arrive == ".relaxed" { "fence.acq_rel.cluster;" } else { "" };
            let body = format!(
                "mov.u32 %r2, cells; mad.lo.u32 %r3, %r0, 4, %r2; mov.u32 %r4, %cluster_ctarank; mad.lo.u32 %r5, %r4, 100, %r0;\n\
                 st.shared.u32 [%r3], %r5; {fence} barrier.cluster.arrive{arrive}{aligned}; barrier.cluster.wait{wait}{aligned}; {fence}\n\
                 xor.b32 %r6, %r4, 1; mapa.shared::cluster.u32 %r7, %r3, %r6; ld.shared::cluster.u32 %r1, [%r7];\n\
                 barrier.cluster.arrive{aligned}; barrier.cluster.wait{aligned};\n\
                 mad.lo.u32 %r8, %r4, 64, %r0; mad.wide.u32 %rd1, %r8, 8, %rd0; cvt.u64.u32 %rd2, %r1; st.global.u64 [%rd1], %rd2;"
            );
            let words = Run::new(&body).declare(".shared .b32 cells[64];").shape(2, 64, 2).words(128);
            let expected: Vec<u64> = (100..164).chain(0..64).collect();
            assert_eq!(words, expected, "{arrive}{wait}{aligned}");
        }
    }
}

/// Threads leave by `exit`, by `ret.uni` and by a uniform table; those that stay meet at a barrier for all.
#[test]
fn exited_threads_are_not_waited_for() {
    let body = format!(
        "setp.ge.u32 %p1, %r0, 96; @%p1 exit; T: .branchtargets stay, leave; setp.ge.u32 %p2, %r0, 64; selp.u32 %r2, 1, 0, %p2;\n\
         brx.idx.uni %r2, T; leave: ret.uni; stay: brkpt; barrier.sync 0; mov.u32 %r1, 7;\n{STORE}"
    );
    let words = Run::new(&body).shape(1, 128, 1).words(128);
    assert!(words[..64].iter().all(|word| *word == 7) && words[64..].iter().all(|word| *word == 0));
}

/// The second warp gets more registers only once the first has given some back, which it does after it has set a flag.
#[test]
fn registers_pass_from_warp_to_warp() {
    let body = format!(
        "mov.u32 %r2, cell; setp.ge.u32 %p1, %r0, 128; @%p1 bra second; mov.u32 %r1, 1; mov.u32 %r3, 0;\n\
         spin: add.u32 %r3, %r3, 1; setp.lt.u32 %p2, %r3, 200; @%p2 bra spin;\n\
         st.volatile.shared.u32 [%r2], 1; setmaxnreg.dec.sync.aligned.u32 40; bra done;\n\
         second: setmaxnreg.inc.sync.aligned.u32 160; ld.volatile.shared.u32 %r1, [%r2];\ndone: {STORE}"
    );
    let run = Run::new(&body).declare(".shared .b32 cell;").directives(".maxnreg 104 .reqntid 256").shape(1, 256, 1);
    assert_eq!(run.target("sm_90a").words(256), [1; 256]);
}

/// What an mbarrier counts, as section 9.7.13.15 says.
#[derive(Clone, Copy)]
struct Counts {
    expected: i64,
    pending: i64,
    bytes: i64,
    phase: u64,
}

impl Counts {
    /// A phase is over when nothing is pending, neither arrivals nor bytes; the next one expects as many arrivals as are left.
    fn after(mut self, arrivals: i64, dropped: i64, bytes: i64) -> Counts {
        (self.expected, self.pending, self.bytes) =
            (self.expected - dropped, self.pending - arrivals, self.bytes + bytes);
        if self.pending == 0 && self.bytes == 0 {
            (self.phase, self.pending) = (self.phase + 1, self.expected);
        }
        self
    }
}

/// Instructions of all spellings in an order that is drawn, by one thread, each followed by questions whose answers are counted here.
#[test]
fn mbarriers_count() {
    let spaces = [("", "%rd2"), (".shared", "%r1"), (".shared::cta", "%r1")];
    for seed in 0..6 {
        let mut draw = Draw(seed);
        let mut counts = Counts { expected: 30, pending: 30, bytes: 0, phase: 0 };
        let (space, address) = spaces[seed as usize % 3];
        let mut body = format!(
            "mov.u32 %r1, cell; mov.u64 %rd2, cell; cvta.shared.u64 %rd2, %rd2; mbarrier.init{space}.b64 [{address}], 30;\n"
        );
        let mut expected = vec![];
        while expected.len() < 40 {
            let (space, address) = spaces[draw.below(3) as usize];
            let release =
                ["", ".release.cta", ".release.cluster", ".relaxed.cta", ".relaxed.cluster"][draw.below(5) as usize];
            let relaxed = ["", ".relaxed.cta", ".relaxed.cluster"][draw.below(3) as usize];
            let acquire =
                ["", ".acquire.cta", ".acquire.cluster", ".relaxed.cta", ".relaxed.cluster"][draw.below(5) as usize];
            let times = i64::from(draw.below(3) + 1);
            let (arrives, completes) = (counts.pending >= times, counts.pending == times && counts.bytes == 0);
            let drops = counts.expected > 8;
            let (text, after, returns) = match draw.below(9) {
                0 if arrives => {
                    (format!("arrive{release}{space}.b64 %rd3, [{address}], {times}"), counts.after(times, 0, 0), true)
                }
                1 if counts.pending > 0 => {
                    (format!("arrive{release}{space}.b64 _, [{address}]"), counts.after(1, 0, 0), false)
                }
                2 if drops && counts.pending > 0 => {
                    (format!("arrive_drop{release}{space}.b64 %rd3, [{address}]"), counts.after(1, 1, 0), true)
                }
                3 if drops && arrives && !completes => {
                    let text = format!("arrive_drop.release.cta{space}.noComplete.b64 %rd3, [{address}], {times}");
                    (text, counts.after(times, times, 0), true)
                }
                4 if arrives && !completes => (
                    format!("arrive{space}.noComplete.b64 %rd3, [{address}], {times}"),
                    counts.after(times, 0, 0),
                    true,
                ),
                5 => (format!("expect_tx{relaxed}{space}.b64 [{address}], 48"), counts.after(0, 0, 48), false),
                6 if counts.pending > 0 => (
                    format!("arrive.expect_tx{release}{space}.b64 %rd3, [{address}], 32"),
                    counts.after(1, 0, 32),
                    true,
                ),
                7 if drops && counts.pending > 0 => (
                    format!("arrive_drop.expect_tx{release}{space}.b64 _, [{address}], 32"),
                    counts.after(1, 1, 32),
                    false,
                ),
                _ if counts.bytes > 0 => (
                    format!("complete_tx{relaxed}{space}.b64 [{address}], {}", counts.bytes),
                    counts.after(0, 0, -counts.bytes),
                    false,
                ),
                _ => continue,
            };
            // Whether the phase is over that the barrier was in before: by parity, and by what an arrival returned.
            let (question, limit) = [("test_wait", ""), ("try_wait", ""), ("try_wait", ", 20")][draw.below(3) as usize];
            body.push_str(&format!(
                "mbarrier.{text}; mbarrier.{question}.parity{acquire}{space}.b64 %p1, [{address}], {}{limit}; selp.u64 %rd5, 1, 0, %p1;\n",
                counts.phase & 1
            ));
            let over = u64::from(after.phase != counts.phase);
            let mut answer = over;
            if returns {
                body.push_str(&format!(
                    "mbarrier.{question}{acquire}{space}.b64 %p2, [{address}], %rd3{limit}; selp.u64 %rd6, 2, 0, %p2; or.b64 %rd5, %rd5, %rd6;\n\
                     mbarrier.pending_count.b64 %r5, %rd3; mul.wide.u32 %rd7, %r5, 256; or.b64 %rd5, %rd5, %rd7;\n"
                ));
                answer |= over << 1 | (counts.pending as u64) << 8;
            }
            body.push_str(&format!("st.global.u64 [%rd0+{}], %rd5;\n", 8 * expected.len()));
            expected.push((text, answer));
            counts = after;
        }
        let words = Run::new(&body).declare(".shared .align 8 .b64 cell;").shape(1, 1, 1).words(expected.len());
        for (at, (word, (text, answer))) in words.iter().zip(&expected).enumerate() {
            assert_eq!(word, answer, "step {at} of {seed}: {text}");
        }
        assert!(counts.phase > 0, "no phase was ever over");
    }
}

/// The threads of the second CTA arrive at the barrier of the first, which waits for them and for the bytes that they promise.
#[test]
fn mbarriers_of_other_ctas_count() {
    for (arrivals, text) in [
        (32, "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r4]"),
        (64, "mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%r4], 2"),
        (32, "mbarrier.arrive_drop.release.cluster.shared::cluster.b64 _, [%r4]"),
        (32, "mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [%r4], 16"),
        (32, "mbarrier.arrive_drop.expect_tx.relaxed.cluster.shared::cluster.b64 _, [%r4], 16"),
        (
            32,
            "mbarrier.expect_tx.relaxed.cluster.shared::cluster.b64 [%r4], 16; mbarrier.arrive.shared::cluster.b64 _, [%r4]",
        ),
    ] {
        let complete = if text.contains("expect_tx") {
            "mbarrier.complete_tx.relaxed.cluster.shared::cluster.b64 [%r4], 16;"
        } else {
            ""
        };
        let body = format!(
            "mov.u32 %r1, cell; mov.u32 %r2, %cluster_ctarank; mov.u32 %r3, 0; mapa.shared::cluster.u32 %r4, %r1, %r3;\n\
             setp.eq.u32 %p1, %r0, 0; @%p1 mbarrier.init.shared::cta.b64 [%r1], {arrivals}; fence.mbarrier_init.release.cluster;\n\
             barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; setp.eq.u32 %p2, %r2, 0; @%p2 bra first;\n\
             mapa.shared::cluster.u32 %r5, %r1, %r3; mad.lo.u32 %r6, %r0, 4, %r5; st.shared::cluster.u32 [%r6+16], %r0;\n\
             fence.acq_rel.cluster; {text}; {complete} bra done;\n\
             first: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p3, [%r1], 0; @!%p3 bra first;\n\
             mad.lo.u32 %r6, %r0, 4, %r1; ld.shared.u32 %r7, [%r6+16]; ld.shared.u64 %rd5, [%r1];\n\
             mad.wide.u32 %rd1, %r0, 8, %rd0; cvt.u64.u32 %rd2, %r7; st.global.u64 [%rd1], %rd2;\n\
             done: barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"
        );
        let words = Run::new(&body).declare(".shared .align 16 .b8 cell[144];").shape(2, 32, 2).words(32);
        assert_eq!(words, (0..32).collect::<Vec<u64>>(), "{text}");
    }
}

#[test]
fn an_invalidated_mbarrier_is_memory() {
    for (space, address) in [("", "%rd2"), (".shared", "%r1"), (".shared::cta", "%r1")] {
        let body = format!(
            "mov.u32 %r1, cell; mov.u64 %rd2, cell; cvta.shared.u64 %rd2, %rd2;\n\
             mbarrier.init{space}.b64 [{address}], 2; mbarrier.arrive{space}.b64 _, [{address}]; mbarrier.inval{space}.b64 [{address}];\n"
        );
        let run = |more: &str| Run::new(&format!("{body}{more}")).declare(".shared .align 8 .b64 cell;").shape(1, 1, 1);
        let again = format!(
            "st.shared.u64 [%r1], 77; ld.shared.u64 %rd3, [%r1]; st.global.u64 [%rd0], %rd3; mbarrier.init{space}.b64 [{address}], 1;\n\
             mbarrier.arrive{space}.b64 %rd4, [{address}]; mbarrier.test_wait{space}.b64 %p1, [{address}], %rd4;\n\
             selp.u64 %rd5, 1, 0, %p1; st.global.u64 [%rd0+8], %rd5;"
        );
        assert_eq!(run(&again).words(2), [77, 1], "{space}");
        assert!(run(&format!("mbarrier.arrive{space}.b64 _, [{address}];")).fault().contains("is not initialized"));
    }
}

#[test]
fn an_arrival_that_must_not_complete() {
    let body = "mov.u32 %r1, cell; mbarrier.init.shared::cta.b64 [%r1], 2; mbarrier.arrive.shared::cta.noComplete.b64 %rd3, [%r1], 1;";
    let run = |more: &str| Run::new(&format!("{body}{more}")).declare(".shared .align 8 .b64 cell;").shape(1, 1, 1);
    run("").words(1);
    let message = run("mbarrier.arrive.shared::cta.noComplete.b64 %rd3, [%r1], 1;").fault();
    assert!(message.contains("an arrival with .noComplete completes the phase"), "{message}");
}
