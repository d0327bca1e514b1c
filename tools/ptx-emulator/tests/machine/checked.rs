//! What the checker reports of small programs, and what it does not.

use std::sync::Arc;

use ptx_emulator::checker::{Report, ReportKind};
use ptx_emulator::decode::Module;
use ptx_emulator::machine::fault::Fault;
use ptx_emulator::machine::grid::{Grid, Limits, Summary};
use ptx_emulator::memory::global::Memory;

/// What is reported of a kernel of two warps, or of a cluster of two such CTAs: the kinds and the texts of the instructions. Its
/// buffer, at `%rd0`, has 64 words that are written, and 64 that are not.
fn reports(ctas: u32, body: &str) -> Vec<(ReportKind, String)> {
    check(ctas, body).1.into_iter().map(|report| (report.kind, report.place.text)).collect()
}

/// The same, with how the launch ended.
fn check(ctas: u32, body: &str) -> (Result<Summary, Box<Fault>>, Vec<Report>) {
    check_threads(64, ctas, body)
}

/// The same, with other than two warps.
fn check_threads(threads: u32, ctas: u32, body: &str) -> (Result<Summary, Box<Fault>>, Vec<Report>) {
    check_shape([ctas, threads, ctas], 0, body)
}

/// What is reported of CTAs that are no cluster, for several orders of the warps. One thread of the host runs them, as two of them
/// may miss what they do to a word in the same instant.
fn among_ctas(body: &str) -> Vec<ReportKind> {
    let found = |seed| check_shape([2, 64, 1], seed, body).1.into_iter().map(|report| report.kind).collect::<Vec<_>>();
    rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(|| {
        let first = found(0);
        assert!((1..4).all(|seed| found(seed) == first));
        first
    })
}

/// What is reported of a launch of so many CTAs, threads of each, and CTAs of a cluster.
fn check_shape(
    [ctas, threads, cluster]: [u32; 3],
    seed: u64,
    body: &str,
) -> (Result<Summary, Box<Fault>>, Vec<Report>) {
    let target = if body.contains("tcgen05") { "sm_100a" } else { "sm_90a" };
    let source = format!(
        ".version 9.0\n.target {target}\n.address_size 64\n.visible .entry k(.param .u64 buffer) {{\n\
         .shared .align 128 .b8 tile[4096]; .shared .align 8 .b64 bar; .local .align 8 .b8 own[64];\n\
         .reg .pred %p<8>; .reg .b32 %r<32>; .reg .b64 %rd<8>; .reg .f32 %f<8>; .reg .f64 %fd<4>; .reg .b16 %rs<4>;\n\
         ld.param.u64 %rd0, [buffer]; mov.u32 %r0, %tid.x; shl.b32 %r1, %r0, 2; mov.u32 %r2, tile; add.u32 %r3, %r2, %r1;\n\
         setp.eq.u32 %p0, %r0, 0; mov.u32 %r4, bar;\n{body}\nret; }}"
    );
    let memory = Arc::new(Memory::followed());
    let module = Module::load("test.ptx", &source, &memory, 0).unwrap_or_else(|error| panic!("{error}"));
    let address = memory.allocate(512, Some(0)).unwrap();
    memory.view().copy_in(address, &[1; 256]).unwrap();
    let grid = Grid {
        kernel: module.kernel("k").unwrap(),
        extent: [ctas, 1, 1],
        block: [threads, 1, 1],
        cluster: [cluster, 1, 1],
        dynamic_shared: 0,
        parameters: address.to_le_bytes().to_vec(),
        memory: memory.view(),
        multiprocessors: 32,
        seed,
        accumulation: Default::default(),
        limits: Limits::NONE,
    };
    grid.run_checked(8)
}

fn kinds(ctas: u32, body: &str) -> Vec<ReportKind> {
    reports(ctas, body).into_iter().map(|(kind, _)| kind).collect()
}

use ReportKind::{Divergence, Mbarrier, NotAwaited, ProxyFence, Race, TensorFence, Uninitialized};

#[test]
fn threads_of_a_warp_do_not_run_in_step() {
    let exchange =
        |sync: &str| format!("st.shared.u32 [%r3], %r0; {sync} xor.b32 %r5, %r3, 4; ld.shared.u32 %r6, [%r5];");
    assert_eq!(kinds(1, &exchange("")), [Race]);
    assert_eq!(kinds(1, &exchange("bar.warp.sync -1;")), []);
    assert_eq!(kinds(1, &exchange("bar.sync 0;")), []);
}

#[test]
fn a_flag_orders_with_release_and_acquire() {
    let flag = |store: &str, load: &str| {
        format!(
            "@%p0 st.shared.u32 [tile], 7; @%p0 st.volatile.shared.u32 [tile+512], 0; bar.sync 0; @%p0 st.shared.u32 [tile+4], 9;\n\
             @%p0 {store}; setp.ne.u32 %p1, %r0, 32; @%p1 bra DONE;\n\
             POLL: {load}; setp.ne.u32 %p2, %r5, 1; @%p2 bra POLL; ld.shared.u32 %r6, [tile+4]; DONE:"
        )
    };
    let (release, relaxed) = ("st.release.cta.shared.u32 [tile+512], 1", "st.relaxed.cta.shared.u32 [tile+512], 1");
    let (acquire, weak) = ("ld.acquire.cta.shared.u32 %r5, [tile+512]", "ld.relaxed.cta.shared.u32 %r5, [tile+512]");
    assert_eq!(kinds(1, &flag(release, acquire)), []);
    assert_eq!(kinds(1, &flag(relaxed, acquire)), [Race]);
    assert_eq!(kinds(1, &flag(release, weak)), [Race]);
    let fenced = format!("fence.acq_rel.cta; @%p0 {relaxed}");
    assert_eq!(kinds(1, &flag(&fenced, acquire)), []);
}

#[test]
fn atomics_do_not_race_with_each_other() {
    let count = "@%p0 st.shared.u32 [tile], 0; bar.sync 0; atom.shared.add.u32 %r5, [tile], 1;";
    assert_eq!(kinds(1, count), []);
    assert_eq!(kinds(1, &format!("{count} ld.shared.u32 %r6, [tile];")), [Race]);
    assert_eq!(kinds(1, &format!("{count} bar.sync 0; ld.shared.u32 %r6, [tile];")), []);
    // One lane reads, and another one counts.
    for (space, place) in [("shared", "[tile]"), ("global", "[%rd0]")] {
        let after = |sync: &str| {
            format!(
                "@%p0 st.{space}.u32 {place}, 0; bar.sync 0; setp.eq.u32 %p1, %r0, 1; @%p1 ld.{space}.u32 %r5, {place};\n\
                 {sync} @%p0 atom.{space}.add.u32 %r6, {place}, 1;"
            )
        };
        assert_eq!(kinds(1, &after("bar.warp.sync -1;")), [], "{space}");
        assert_eq!(kinds(1, &after("")), [Race], "{space}");
    }
}

#[test]
fn ctas_of_a_cluster_share_memory() {
    let exchange = |sync: &str| {
        format!(
            "st.shared.u32 [%r3], %r0; {sync} mov.u32 %r5, %cluster_ctarank; xor.b32 %r5, %r5, 1;\n\
             mapa.shared::cluster.u32 %r6, %r3, %r5; ld.shared::cluster.u32 %r7, [%r6];\n\
             barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"
        )
    };
    let sync = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";
    assert_eq!(kinds(2, &exchange(sync)), []);
    let relaxed = "barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;";
    assert_eq!(kinds(2, &exchange(relaxed)), [Race]);
}

#[test]
fn an_mbarrier_orders_those_that_arrive_and_those_that_wait() {
    let handover = |sync: &str, arrive: &str| {
        format!(
            "@%p0 mbarrier.init.shared.b64 [%r4], 32; {sync} setp.lt.u32 %p1, %r0, 32; @!%p1 bra WAIT;\n\
             st.shared.u32 [%r3], %r0; {arrive} bra DONE;\n\
             WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [%r4], 0; @!%p2 bra WAIT; ld.shared.u32 %r5, [%r3+-128]; DONE:"
        )
    };
    let arrive = "mbarrier.arrive.shared.b64 _, [%r4];";
    assert_eq!(kinds(1, &handover("bar.sync 0;", arrive)), []);
    let relaxed = "mbarrier.arrive.relaxed.cta.shared.b64 _, [%r4];";
    assert_eq!(kinds(1, &handover("bar.sync 0;", relaxed)), [Race]);
    // The first warp initializes it, and the second one waits, before anything orders the two.
    assert!(kinds(1, &handover("", arrive)).contains(&Mbarrier));
    // A store into an mbarrier that is still one.
    let overwritten = "@%p0 mbarrier.init.shared.b64 [%r4], 1; bar.sync 0; @%p0 st.shared.u32 [%r4], 0;";
    assert_eq!(kinds(1, overwritten), [Mbarrier]);
    let given_back = "@%p0 mbarrier.init.shared.b64 [%r4], 1; bar.sync 0; @%p0 mbarrier.inval.shared.b64 [%r4];\n\
                      @%p0 st.shared.u32 [%r4], 0;";
    assert_eq!(kinds(1, given_back), []);
}

#[test]
fn memory_that_nobody_has_written() {
    assert_eq!(kinds(1, "ld.global.u32 %r5, [%rd0+252];"), []);
    assert_eq!(kinds(1, "ld.global.u32 %r5, [%rd0+256];"), [Uninitialized]);
    assert_eq!(kinds(1, "st.global.u32 [%rd0+256], 1; ld.global.u32 %r5, [%rd0+256];"), []);
    assert_eq!(kinds(1, "ld.shared.u32 %r5, [tile];"), [Uninitialized]);
    assert_eq!(kinds(1, "@%p0 st.shared.u16 [tile], %r0; bar.sync 0; ld.shared.u32 %r5, [tile];"), [Uninitialized]);
}

#[test]
fn registers_that_nothing_has_written_matter_where_they_decide() {
    assert_eq!(kinds(1, "add.u32 %r6, %r5, 1;"), []);
    assert_eq!(kinds(1, "add.u32 %r6, %r5, 1; st.global.u32 [%rd0], %r6;"), [Uninitialized]);
    assert_eq!(kinds(1, "and.b32 %r6, %r5, %r0; st.global.u32 [%rd0], %r6;"), []);
    let found = reports(1, "setp.eq.u32 %p1, %r5, 0; @%p1 bra NEXT; NEXT:");
    assert_eq!(found, [(Uninitialized, "@%p1 bra NEXT;".into())]);
    assert_eq!(kinds(1, "@%p0 mov.u32 %r5, 1; @%p0 st.global.u32 [%rd0], %r5;"), []);
}

#[test]
fn a_transaction_that_never_ends() {
    let expect = "@%p0 mbarrier.init.shared.b64 [%r4], 1; bar.sync 0;\n\
                  @%p0 mbarrier.arrive.expect_tx.shared.b64 _, [%r4], 64;";
    assert_eq!(kinds(1, expect), [Mbarrier]);
    let wait = "WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [%r4], 0; @!%p2 bra WAIT;";
    let message = check(1, &format!("{expect} {wait}")).0.expect_err("a deadlock").message;
    assert!(
        message.contains("initialized at line 9, is in a phase of parity 0: 0 arrivals and 64 bytes are missing"),
        "{message}"
    );
}

#[test]
fn a_deadlock_says_who_waits_for_what() {
    let message = check(1, "setp.lt.u32 %p1, %r0, 32; @%p1 bar.sync 1, 64;").0.expect_err("a deadlock").message;
    assert!(
        message.contains("warp 0 lanes ffffffff at line 9: @%p1 bar.sync 1, 64; (barrier 1: 32 of 64"),
        "{message}"
    );
    let divergent =
        "and.b32 %r5, %r0, 1; setp.eq.u32 %p1, %r5, 0; @%p1 bra ODD; bar.sync 0; bra DONE; ODD: bar.sync 1; DONE:";
    let message = check(1, divergent).0.expect_err("a deadlock").message;
    assert!(message.contains("waits for the other lanes of its warp"), "{message}");
}

/// An instruction that wants all threads, on one side of a branch that parts lane 0 from the others.
#[test]
fn instructions_that_want_all_threads_of_a_warp() {
    let parted = |body: &str| {
        format!(
            "setp.eq.u32 %p1, %r0, 0; @%p1 bra MEET;\nINSIDE: {body}\nMEET: mov.u32 %r7, 0; mov.u32 %r8, 1; @%p1 bra END; mov.u32 %r9, 2; END:"
        )
    };
    for instruction in [
        "bar.sync 0;",
        "barrier.sync.aligned 0;",
        "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;",
        "movmatrix.sync.aligned.m8n8.trans.b16 %r5, %r0;",
    ] {
        let (_, found) = check(1, &parted(instruction));
        assert_eq!(found.first().map(|report| report.kind), Some(Divergence), "{instruction}: {found:?}");
        let line = (found[0].place.line, found[0].earlier.as_ref().map(|place| place.line));
        assert_eq!(line, (10, Some(9)), "{instruction}");
        assert!(
            found[0].message.starts_with("lanes 1-31 of the warp execute this, and lane 0 took another way"),
            "{found:?}"
        );
    }
    assert_eq!(kinds(1, &parted("barrier.sync 1, 64;").replace("%r0, 0; @%p1", "%r0, 99; @%p1")), []);
    // Those that come late come all the same: where the paths meet, and by another path.
    assert_eq!(kinds(1, &parted("mov.u32 %r5, 1;").replace("MEET: ", "MEET: bar.sync 0; ")), []);
    let either = "and.b32 %r5, %r0, 1; setp.eq.u32 %p1, %r5, 0; setp.eq.u32 %p2, %r5, 1; @%p1 bra THEN; @!%p2 bra ELSE;\n\
                  THEN: bar.sync 0; ELSE:";
    assert_eq!(kinds(1, either), []);
    // The threads leave a loop one after the other.
    let counting =
        "and.b32 %r5, %r0, 31; mov.u32 %r6, 0; LOOP: add.u32 %r6, %r6, 1; setp.le.u32 %p1, %r6, %r5; @%p1 bra LOOP;";
    assert_eq!(kinds(1, &format!("{counting} bar.sync 0;")), []);
    let inside = counting.replace("LOOP: ", "LOOP: movmatrix.sync.aligned.m8n8.trans.b16 %r7, %r0; ");
    assert_eq!(kinds(1, &inside), [Divergence]);
    // In each turn of the loop another half of the warp is there.
    let in_turns = "mov.u32 %r6, 0; LOOP: add.u32 %r7, %r6, %r0; and.b32 %r7, %r7, 1; setp.eq.u32 %p1, %r7, 0; @%p1 bra SKIP;\n\
                    movmatrix.sync.aligned.m8n8.trans.b16 %r8, %r0;\n\
                    SKIP: add.u32 %r6, %r6, 1; setp.lt.u32 %p2, %r6, 4; @%p2 bra LOOP;";
    assert_eq!(kinds(1, in_turns), [Divergence]);
    // A guard leaves some out, and some have exited.
    assert_eq!(kinds(1, "@%p0 bar.sync 0;"), [Divergence]);
    assert_eq!(kinds(1, "@%p0 ret; bar.sync 0;"), []);
    assert_eq!(kinds(1, "@%p0 ret; movmatrix.sync.aligned.m8n8.trans.b16 %r5, %r0;"), [Divergence]);
}

#[test]
fn member_masks_of_threads_that_exchange_values() {
    let masks = |low: &str, high: &str| {
        format!(
            "and.b32 %r5, %r0, 16; setp.eq.u32 %p1, %r5, 0; selp.b32 %r6, {low}, {high}, %p1;\n\
             shfl.sync.bfly.b32 %r7, %r0, 1, 31, %r6;\n\
             bar.warp.sync %r6;\n\
             redux.sync.add.u32 %r8, %r0, %r6;"
        )
    };
    assert_eq!(kinds(1, &masks("-1", "-1")), []);
    // Two groups at the same instruction.
    assert_eq!(kinds(1, &masks("0xffff", "0xffff0000")), []);
    assert_eq!(kinds(1, &masks("-1", "0xffff0000")), [Divergence; 3]);
    let left_out = check(1, &masks("0xffff", "0xffff")).0.expect_err("a fault").message;
    assert!(left_out.contains("leaves it out"), "{left_out}");
}

/// The first warp of a warpgroup tells another warp, which overwrites what the product has read: it may once it has waited.
#[test]
fn a_product_is_over_for_all_warps_of_the_warpgroup() {
    let product = |wait: &str| {
        format!(
            "setp.eq.u32 %p0, %r0, 0; @%p0 mbarrier.init.shared.b64 [%r4], 1; st.shared.u32 [%r3], 0; st.shared.u32 [%r3+640], 0;\n\
             fence.proxy.async; bar.sync 0; setp.ge.u32 %p1, %r0, 128; @%p1 bra OTHER;\n\
             mov.b32 %f0, 0f00000000; mov.f32 %f1, %f0; mov.f32 %f2, %f0; mov.f32 %f3, %f0; mov.b64 %rd1, 0; mov.pred %p2, 0;\n\
             wgmma.fence.sync.aligned;\n\
             wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{%f0, %f1, %f2, %f3}}, %rd1, %rd1, %p2, 1, 1, 0, 0;\n\
             wgmma.commit_group.sync.aligned; {wait}\n\
             @%p0 mbarrier.arrive.shared.b64 _, [%r4]; bra DONE;\n\
             OTHER: mbarrier.try_wait.parity.shared.b64 %p3, [%r4], 0; @!%p3 bra OTHER; st.shared.u32 [tile], 1;\n\
             DONE: wgmma.wait_group.sync.aligned 0;"
        )
    };
    let found = |wait: &str| {
        let (outcome, reports) = check_threads(160, 1, &product(wait));
        outcome.unwrap_or_else(|fault| panic!("{fault}"));
        reports.into_iter().map(|report| report.kind).collect::<Vec<_>>()
    };
    assert_eq!(found("wgmma.wait_group.sync.aligned 0;"), []);
    assert_eq!(found(""), [NotAwaited]);
}

#[test]
fn other_ctas_learn_of_an_mbarrier_by_a_fence_for_it() {
    let arrival = |fence: &str, arrive: &str| {
        format!(
            "@%p0 mbarrier.init.shared.b64 [%r4], 2; {fence}\n\
             barrier.cluster.arrive{arrive}.aligned; barrier.cluster.wait.aligned;\n\
             mov.u32 %r5, %cluster_ctarank; xor.b32 %r5, %r5, 1; mapa.shared::cluster.u32 %r6, %r4, %r5;\n\
             setp.eq.u32 %p1, %r0, 32; @%p1 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r6];\n\
             barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"
        )
    };
    assert_eq!(kinds(2, &arrival("fence.mbarrier_init.release.cluster;", ".relaxed")), []);
    assert_eq!(kinds(2, &arrival("", "")), []);
    assert_eq!(kinds(2, &arrival("", ".relaxed")), [Mbarrier]);
    // The fence is for nothing else.
    let other = "st.shared.u32 [%r3], %r0; fence.mbarrier_init.release.cluster;\n\
                 barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;\n\
                 mov.u32 %r5, %cluster_ctarank; xor.b32 %r5, %r5, 1; mapa.shared::cluster.u32 %r6, %r3, %r5;\n\
                 ld.shared::cluster.u32 %r7, [%r6]; barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";
    assert_eq!(kinds(2, other), [Race]);
}

#[test]
fn threads_that_leave_an_mbarrier() {
    let drop = |after: &str| {
        format!(
            "@%p0 mbarrier.init.shared.b64 [%r4], 64; bar.sync 0; setp.lt.u32 %p1, %r0, 32; st.shared.u32 [%r3], %r0;\n\
             @%p1 mbarrier.arrive_drop.shared.b64 _, [%r4]; @%p1 ret;\n\
             mbarrier.arrive.shared.b64 _, [%r4]; WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [%r4], 0; @!%p2 bra WAIT;\n\
             ld.shared.u32 %r5, [%r3+-128];\n\
             {after}"
        )
    };
    // The next phase wants those that are left alone.
    let again =
        "mbarrier.arrive.shared.b64 _, [%r4]; MORE: mbarrier.try_wait.parity.shared.b64 %p2, [%r4], 1; @!%p2 bra MORE;";
    let (outcome, found) = check(1, &drop(again));
    outcome.unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(found, []);
    let stays = drop(again).replace("arrive_drop", "arrive");
    let fault = check(1, &stays).0.expect_err("a deadlock").message;
    assert!(fault.contains("32 arrivals and 0 bytes are missing"), "{fault}");
    assert_eq!(kinds(1, &drop("").replace("arrive_drop", "arrive_drop.relaxed.cta")), [Race]);
}

#[test]
fn local_memory_that_nothing_has_written() {
    let load = "ld.local.u32 %r5, [own+4];";
    assert_eq!(kinds(1, load), []);
    assert_eq!(kinds(1, &format!("{load} st.global.u32 [%rd0], %r5;")), [Uninitialized]);
    assert_eq!(kinds(1, &format!("st.local.u32 [own+4], 7; {load} st.global.u32 [%rd0], %r5;")), []);
    assert_eq!(kinds(1, &format!("st.local.u16 [own+4], 7; {load} st.global.u32 [%rd0], %r5;")), [Uninitialized]);
    assert_eq!(kinds(1, &format!("st.local.u32 [own+4], %r9; {load} st.global.u32 [%rd0], %r5;")), [Uninitialized]);
    let generic = "cvta.local.u64 %rd1, own; st.u32 [%rd1], 7; ld.v2.u32 {%r5, %r6}, [%rd1];";
    assert_eq!(kinds(1, &format!("{generic} st.global.u32 [%rd0], %r5;")), []);
    let found = reports(1, &format!("{generic} st.global.u32 [%rd0], %r6;"));
    assert_eq!(found, [(Uninitialized, "st.global.u32 [%rd0], %r6;".into())]);
    // What is allocated again holds nothing, though it is where something was.
    let allocated = "stacksave.u64 %rd1; alloca.u64 %rd2, 16; st.local.u32 [%rd2], 7;";
    let read = "ld.local.u32 %r5, [%rd2]; st.global.u32 [%rd0], %r5;";
    assert_eq!(kinds(1, &format!("{allocated} {read}")), []);
    let again = "stackrestore.u64 %rd1; alloca.u64 %rd2, 16;";
    assert_eq!(kinds(1, &format!("{allocated} {again} {read}")), [Uninitialized]);
}

/// Instructions that work on after their thread has gone on, and complete on an mbarrier.
#[test]
fn what_completes_on_an_mbarrier_is_waited_for() {
    let after = |work: &str, bytes: u32, wait: &str| {
        format!(
            "@%p0 mbarrier.init.shared.b64 [%r4], 1; st.shared.u32 [%r3], 0; bar.sync 0; @!%p0 bra WAIT;\n\
             mbarrier.arrive.expect_tx.shared.b64 _, [%r4], {bytes}; {work}\n\
             WAIT: {wait} ld.shared.u32 %r5, [tile];"
        )
    };
    let wait = "mbarrier.try_wait.parity.shared.b64 %p2, [%r4], 0; @!%p2 bra WAIT;";
    for (work, bytes) in [
        ("red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r2], 1, [%r4];", 4),
        ("st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r2], 1, [%r4];", 4),
        ("clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.b128 [%r2], [%r4];", 16),
    ] {
        assert_eq!(kinds(1, &after(work, bytes, wait)), [], "{work}");
        assert!(kinds(1, &after(work, bytes, "")).contains(&NotAwaited), "{work}");
    }
}

/// A reduction in bulk reads what it changes, through the async proxy, and races with what is plain.
#[test]
fn bulk_reductions_race_with_plain_accesses() {
    let reduce = |fence: &str, before: &str, target: &str, after: &str| {
        format!(
            "@%p0 mbarrier.init.shared.b64 [%r4], 1; st.shared.u32 [%r3], 0; {fence} bar.sync 0; {before} @!%p0 bra WAIT;\n\
             mbarrier.arrive.expect_tx.shared.b64 _, [%r4], 16;\n\
             cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.u32 {target}, [%r2+64], 16, [%r4];\n\
             WAIT: {after} ld.shared.u32 %r5, [tile];"
        )
    };
    let fence = "fence.proxy.async;";
    let wait = "mbarrier.try_wait.parity.shared.b64 %p2, [%r4], 0; @!%p2 bra WAIT;";
    assert_eq!(kinds(1, &reduce(fence, "", "[%r2]", wait)), []);
    // One warp reads before the reduction, the other one after it.
    assert_eq!(kinds(1, &reduce(fence, "", "[%r2]", "")), [Race, NotAwaited]);
    assert_eq!(kinds(1, &reduce("", "", "[%r2]", wait)), [ProxyFence]);
    assert_eq!(kinds(1, &reduce(fence, "", "[%r2+1024]", wait)), [Uninitialized]);
    let read = "setp.eq.u32 %p1, %r0, 1; @%p1 ld.shared.u32 %r5, [tile];";
    assert_eq!(kinds(1, &reduce(fence, read, "[%r2]", wait)), [Race]);
    assert_eq!(kinds(1, &reduce(fence, &format!("{read} bar.warp.sync -1;"), "[%r2]", wait)), []);
}

#[test]
fn bulk_work_of_ctas_races_on_global_memory() {
    let store = |work: &str, place: &str, after: &str| {
        format!(
            "mov.u32 %r5, %ctaid.x; st.shared.u32 [%r3], %r5; fence.proxy.async; bar.sync 0; @!%p0 ret;\n\
             {work} {place}, [%r2], 16; cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; {after}"
        )
    };
    for several in ["", "multimem."] {
        let reduce = format!("{several}cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32");
        assert_eq!(among_ctas(&store(&reduce, "[%rd0]", "")), [], "{reduce}");
        assert_eq!(among_ctas(&store(&reduce, "[%rd0]", "ld.global.u32 %r6, [%rd0];")), [Race], "{reduce}");
        assert!(among_ctas(&store(&reduce, "[%rd0+256]", "")).contains(&Uninitialized), "{reduce}");
        let copy = format!("{several}cp.async.bulk.global.shared::cta.bulk_group");
        assert_eq!(among_ctas(&store(&copy, "[%rd0]", "")), [Race], "{copy}");
    }
}

/// What `.ignore_oob` leaves out is neither read nor written.
#[test]
fn ignored_ends_of_bulk_copies_are_not_accessed() {
    let load = |place: &str, left: u32| {
        format!(
            "@%p0 mbarrier.init.shared.b64 [%r4], 1; fence.mbarrier_init.release.cluster; bar.sync 0; @!%p0 bra WAIT;\n\
             mbarrier.arrive.expect_tx.shared.b64 _, [%r4], 16;\n\
             cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes.ignore_oob [%r2], [{place}], 16, 0, {left}, [%r4];\n\
             WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [%r4], 0; @!%p2 bra WAIT; ld.shared.u32 %r5, [tile+12];"
        )
    };
    assert_eq!(kinds(1, &load("%rd0", 0)), []);
    assert_eq!(kinds(1, &load("%rd0", 4)), [Uninitialized]);
    assert_eq!(kinds(1, &load("%rd0+256", 0)), [Uninitialized]);
}

#[test]
fn stretches_and_matrices_race_as_words_do() {
    let clear = |sync: &str| format!("@%p0 st.bulk.shared::cta [%r2], 256, 0; {sync} ld.shared.u32 %r5, [%r3];");
    assert_eq!(kinds(1, &clear("bar.sync 0;")), []);
    assert!(kinds(1, &clear("")).contains(&Race));
    let matrix = |sync: &str| {
        format!(
            "setp.lt.u32 %p1, %r0, 32; @!%p1 bra READ; mov.f64 %fd0, 0d0000000000000000; mov.f64 %fd1, %fd0;\n\
             wmma.store.d.sync.aligned.row.m8n8k4.shared.f64 [%r2], {{%fd0, %fd1}}, 8; READ: {sync} ld.shared.u32 %r5, [tile];"
        )
    };
    assert_eq!(kinds(1, &matrix("bar.sync 0;")), []);
    assert_eq!(kinds(1, &matrix("")), [Race]);
    let loaded = "wmma.load.c.sync.aligned.row.m8n8k4.shared.f64 {%fd0, %fd1}, [%r2], 8;";
    assert_eq!(kinds(1, loaded), [Uninitialized]);
    let reduced = "red.global.add.noftz.v2.f16 [%rd0], {%rs0, %rs0};";
    let once = format!("mov.b16 %rs0, 0; {reduced}");
    assert_eq!(among_ctas(&once), []);
    assert_eq!(among_ctas(&format!("{once} ld.global.u32 %r5, [%rd0];")), [Race]);
}

#[test]
fn ctas_race_on_global_memory() {
    // Each CTA writes its own words, or all the same.
    let own = "setp.ge.u32 %p1, %r0, 32; @%p1 ret; mov.u32 %r5, %ctaid.x; mad.lo.u32 %r6, %r5, 128, %r1; cvt.u64.u32 %rd1, %r6; add.u64 %rd1, %rd1, %rd0;\n\
               mov.u32 %r7, %ctaid.x; add.u32 %r7, %r7, 5;";
    assert_eq!(among_ctas(&format!("{own} st.global.u32 [%rd1], %r7;")), []);
    assert_eq!(among_ctas(&format!("{own} @%p0 st.global.u32 [%rd0], %r7;")), [Race]);
    // All leave the same value.
    assert_eq!(among_ctas("@%p0 st.global.u32 [%rd0], 3;"), []);
    // What the other writes is read, before or after.
    let other = "xor.b32 %r8, %r6, 128; cvt.u64.u32 %rd2, %r8; add.u64 %rd2, %rd2, %rd0; st.global.u32 [%rd1], %r7;";
    assert_eq!(among_ctas(&format!("{own} {other} ld.global.u32 %r9, [%rd2];")), [Race]);
    let first_reads = "setp.eq.u32 %p1, %r5, 0; @%p1 ld.global.u32 %r9, [%rd0]; @!%p1 st.global.u32 [%rd0], %r7;";
    assert_eq!(among_ctas(&format!("{own} @%p0 bra ONE; ret; ONE: {first_reads}")), [Race]);
    assert_eq!(among_ctas("@%p0 atom.global.add.u32 %r5, [%rd0], 1; @%p0 red.global.add.u32 [%rd0], 1;"), []);
    assert_eq!(among_ctas("@%p0 atom.global.add.u32 %r5, [%rd0], 1; @%p0 ld.global.u32 %r9, [%rd0];"), [Race]);
    let bytes =
        "mov.u32 %r5, %ctaid.x; cvt.u64.u32 %rd1, %r5; add.u64 %rd1, %rd1, %rd0; @%p0 st.global.u8 [%rd1], %r5;";
    assert_eq!(among_ctas(bytes), []);
}

#[test]
fn the_last_cta_may_read_what_the_others_have_left() {
    // The first word counts, the others hold what the CTAs leave.
    let last = |fence: &str, count: &str| {
        format!(
            "mov.u32 %r5, %ctaid.x; mad.lo.u32 %r6, %r5, 4, 4; cvt.u64.u32 %rd1, %r6; add.u64 %rd1, %rd1, %rd0;\n\
             @%p0 st.global.u32 [%rd1], %r6; {fence} {count} setp.ne.u32 %p1, %r7, 0x01010102; @%p1 ret;\n\
             ld.global.u32 %r8, [%rd0+4]; ld.global.u32 %r9, [%rd0+8];"
        )
    };
    let count = "@!%p0 ret; atom.global.add.u32 %r7, [%rd0], 1;";
    assert_eq!(among_ctas(&last("fence.acq_rel.gpu;", count)), []);
    assert_eq!(among_ctas(&last("", "@!%p0 ret; atom.acq_rel.gpu.global.add.u32 %r7, [%rd0], 1;")), []);
    // Nobody counts: the second CTA just goes on.
    assert_eq!(among_ctas(&last("", "@!%p0 ret; add.u32 %r7, %r5, 0x01010101;")), [Race]);
}

#[test]
fn a_flag_in_global_memory_orders_ctas() {
    let flag = |store: &str, load: &str| {
        format!(
            "@!%p0 ret; mov.u32 %r5, %ctaid.x; setp.ne.u32 %p1, %r5, 0; @%p1 bra WAIT;\n\
             st.global.u32 [%rd0+8], 9; {store} [%rd0], 1; ret;\n\
             WAIT: {load} %r6, [%rd0]; setp.ne.u32 %p2, %r6, 1; @%p2 bra WAIT; ld.global.u32 %r7, [%rd0+8];"
        )
    };
    assert_eq!(among_ctas(&flag("st.release.gpu.global.u32", "ld.acquire.gpu.global.u32")), []);
    assert_eq!(among_ctas(&flag("fence.acq_rel.gpu; st.volatile.global.u32", "ld.volatile.global.u32")), []);
}

#[test]
fn threads_of_a_cta_race_on_global_memory() {
    let exchange = |sync: &str| {
        format!(
            "cvt.u64.u32 %rd1, %r1; add.u64 %rd1, %rd1, %rd0; st.global.u32 [%rd1], %r0; {sync}\n\
             xor.b32 %r5, %r1, 128; cvt.u64.u32 %rd2, %r5; add.u64 %rd2, %rd2, %rd0; ld.global.u32 %r6, [%rd2];"
        )
    };
    assert_eq!(kinds(1, &exchange("bar.sync 0;")), []);
    assert_eq!(kinds(1, &exchange("")), [Race]);
}

/// Warp 4 reads what warp 0 has stored. Kernels that have none of the fences, or not of that side, are not held to them.
#[test]
fn tensor_memory_of_other_threads_wants_fences() {
    let pass = |before: &str, after: &str, last: &str| {
        let body = format!(
            "setp.lt.u32 %p1, %r0, 32; @!%p1 bra THERE; tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r4], 32;\n\
             THERE: bar.sync 0; ld.shared.u32 %r5, [%r4]; @!%p1 bra MEET;\n\
             tcgen05.st.sync.aligned.32x32b.x1.b32 [%r5], {{%r0}}; tcgen05.wait::st.sync.aligned; {before}\n\
             MEET: bar.sync 0; setp.lt.u32 %p2, %r0, 128; @%p2 bra DONE;\n\
             {after} tcgen05.ld.sync.aligned.32x32b.x1.b32 {{%r6}}, [%r5]; tcgen05.wait::ld.sync.aligned;\n\
             DONE: bar.sync 0; @!%p1 bra END; tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r5, 32; END: {last}"
        );
        let (outcome, found) = check_threads(160, 1, &body);
        outcome.unwrap_or_else(|fault| panic!("{fault}"));
        found.into_iter().map(|report| (report.kind, report.message)).collect::<Vec<_>>()
    };
    let (before, after) = ("tcgen05.fence::before_thread_sync;", "tcgen05.fence::after_thread_sync;");
    for (before, after) in [("", ""), (before, ""), ("", after), (before, after)] {
        assert_eq!(pass(before, after, ""), []);
    }
    for (first, second, last, missing) in [
        ("", "", before, "before_thread_sync is missing there"),
        ("", "", after, "after_thread_sync is missing here"),
        (before, "", after, "after_thread_sync is missing here"),
        ("", after, before, "before_thread_sync is missing there"),
    ] {
        let found = pass(first, second, last);
        assert!(matches!(&found[..], [(TensorFence, message)] if message.contains(missing)), "{found:?}");
    }
}
