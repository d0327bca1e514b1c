//! What stops a kernel, and what a module is refused for.

use ptx_emulator::machine::grid::Limits;

use super::Run;

#[test]
fn out_of_bounds_and_misaligned() {
    let message = Run::new("ld.global.u32 %r1, [%rd0+512];").fault();
    assert!(message.contains("read of 4 bytes out of bounds"), "{message}");
    assert!(message.contains("0 bytes past the end of an allocation of 512 bytes"), "{message}");
    assert!(message.contains("at test.ptx:9: ld.global.u32 %r1, [%rd0+512];"), "{message}");
    assert!(message.contains("thread (0, 0, 0)"), "{message}");
    let message = Run::new("st.global.u32 [%rd0+2], %r0;").fault();
    assert!(message.contains("misaligned write of 4 bytes"), "{message}");
    let message = Run::new("shl.b32 %r1, %r0, 2; st.shared.u32 [%r1], %r0;").shared(64).fault();
    assert!(
        message.contains("the CTA has 64 bytes of shared memory") && message.contains("thread (16, 0, 0)"),
        "{message}"
    );
    let message = Run::new("ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd0+8];").fault();
    assert!(message.contains("misaligned vector of 16 bytes"), "{message}");
}

#[test]
fn waits_without_end() {
    let declarations = ".shared .align 8 .b64 bar;";
    let message = Run::new(
        "mov.u32 %r1, bar; setp.eq.u32 %p1, %r0, 0; @%p1 mbarrier.init.shared.b64 [%r1], 1; bar.sync 0;\n\
         POLL: mbarrier.try_wait.parity.shared.b64 %p2, [%r1], 0; @!%p2 bra POLL;",
    )
    .declare(declarations)
    .fault();
    assert!(message.contains("deadlock: no thread can go on"), "{message}");
    assert!(message.contains("warp 0 lanes ffffffff"), "{message}");
    let message = Run::new("mov.u32 %r1, bar; mbarrier.arrive.shared.b64 %rd1, [%r1];").declare(declarations).fault();
    assert!(message.contains("is not initialized"), "{message}");
    let message =
        Run::new("mov.u32 %r1, bar; mbarrier.init.shared.b64 [%r1], 8; mbarrier.arrive.shared.b64 %rd1, [%r1], 9;")
            .declare(declarations)
            .fault();
    assert!(message.contains("9 arrivals where 8 are pending"), "{message}");
}

#[test]
fn loops_that_poll_without_a_rest() {
    let spin = "SPIN: ld.volatile.global.u32 %r2, [%rd0]; setp.eq.u32 %p2, %r2, 0; @%p2 bra SPIN; st.global.u32 [%rd0+8], %r2;";
    assert!(Run::new(spin).fault().contains("deadlock: no thread can go on"));
    let shared = "setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [cell], 0; bar.sync 0; @%p1 bra DONE;\n\
                  SPIN: ld.volatile.shared.u32 %r2, [cell]; setp.eq.u32 %p2, %r2, 0; @%p2 bra SPIN; DONE: barrier.sync 0;";
    let message = Run::new(shared).declare(".shared .b32 cell;").shape(1, 64, 1).fault();
    assert!(message.contains("barrier 0: 1 of 64 threads have arrived"), "{message}");
    // A loop that counts ends by itself, and so does one that waits for what another CTA does after long.
    let count = "mov.u32 %r3, 0; COUNT: add.u32 %r3, %r3, 1; setp.lt.u32 %p3, %r3, 3000000; @%p3 bra COUNT;";
    for waits in [0, 1] {
        let other = format!(
            "mov.u32 %r1, %ctaid.x; setp.eq.u32 %p1, %r1, {waits}; @%p1 bra SPIN; {count} st.volatile.global.u32 [%rd0], 7; bra END;\n\
             {spin} END:"
        );
        assert_eq!(Run::new(&other).shape(2, 32, 1).words(2), [7, 7]);
    }
}

#[test]
fn traps_and_bad_operands() {
    assert!(Run::new("trap;").fault().contains("`trap` was reached"));
    assert!(Run::new("bar.sync 16;").fault().contains("barrier 16: a CTA has 16"));
    assert!(Run::new("shfl.sync.idx.b32 %r1, %r0, 0, 31, 1;").fault().contains("leaves it out"));
}

fn refused(body: &str) -> String {
    Run::new(body).load().expect_err("a refusal")
}

#[test]
fn modules_are_refused_with_the_instruction() {
    let message = refused("frobnicate.u32 %r1, %r2;");
    assert!(message.starts_with("test.ptx:9: unknown instruction `frobnicate.u32`"), "{message}");
    let message = refused("add.u33 %r1, %r1, %r1;");
    assert!(message.contains("unknown instruction `add.u33`") && message.contains("add.INTEGER"), "{message}");
    assert!(refused("add.u32 %r1, %r1, %rr;").contains("`%rr` is not declared"));
    assert!(refused("add.u32 %r1, %r1;").contains("wants more"));
    assert!(refused("add.u32 %r1, %r1, %r1, %r1;").contains("and wants 3"));
    assert!(refused("add.u64 %rd1, %rd1, %r1;").contains("`%r1` has 32 bits, the instruction wants 64"));
    assert!(refused("bra NOWHERE;").contains("`NOWHERE` is not declared"));
    assert!(refused("add.f32 %f1, %f2, 1;").contains("an integer stands where a floating-point number is wanted"));
    assert!(refused("cvt.s32.f32 %r1, %f1;").contains("needs a rounding modifier"));
    assert!(refused("X: X: ret;").contains("`X` is here twice"));
}

#[test]
fn launches_are_checked() {
    let run = Run::new("").shape(1, 2048, 1);
    assert!(run.fault().contains("it can have 1 to 1024"));
    assert!(Run::new("").shape(3, 32, 2).fault().contains("do not divide"));
    // What the kernel says of itself.
    let declared = |directives: &'static str, threads| Run::new("").directives(directives).shape(1, threads, 1);
    assert!(declared(".reqntid 64", 32).fault().contains("declares .reqntid [64, 1, 1]"));
    assert!(declared(".maxntid 64", 96).fault().contains("launched with 96 threads, but declares .maxntid of 64"));
    declared(".maxntid 64", 64).words(64);
    let message = declared(".maxnreg 168", 416).fault();
    assert!(message.contains("each may have 168 registers by .maxnreg: a multiprocessor has 65536"), "{message}");
    declared(".maxnreg 168", 384).words(64);
    // What the chip has.
    let limits = Limits { shared_bytes: 232_448, ..Limits::NONE };
    let shared =
        |bytes| Run::new("mov.u32 %r1, tile;").declare(".shared .align 4 .b8 tile[448];").shared(bytes).limits(limits);
    let message = shared(232_001).fault();
    assert!(
        message.contains("448 bytes of shared memory that it declares and 232001 that the launch adds"),
        "{message}"
    );
    shared(232_000).words(64);
}

#[test]
fn loops_that_do_not_end() {
    let limits = Limits { instructions: 100_000, ..Limits::NONE };
    let message = Run::new("LOOP: add.u32 %r1, %r1, 1; bra LOOP;").limits(limits).fault();
    assert!(message.contains("instructions, and may run 100000: a loop that does not end"), "{message}");
    assert!(message.contains("at test.ptx:9"), "{message}");
    Run::new("LOOP: add.u32 %r1, %r1, 1; setp.lt.u32 %p1, %r1, 1000; @%p1 bra LOOP;").limits(limits).words(64);
}

/// The second warp can have what the first one gives back, and no more.
#[test]
fn registers_go_from_warp_to_warp() {
    let registers = |fewer: u32, more: u32| {
        Run::new(&format!(
            "setp.ge.u32 %p1, %r0, 32; @%p1 bra MORE; setmaxnreg.dec.sync.aligned.u32 {fewer}; bra DONE;\n\
             MORE: setmaxnreg.inc.sync.aligned.u32 {more}; DONE: bar.sync 0;"
        ))
        .directives(".maxnreg 128")
        .shape(1, 64, 1)
    };
    registers(24, 232).words(64);
    let message = registers(32, 232).fault();
    assert!(message.contains("setmaxnreg.inc.sync.aligned.u32 232; (the CTA has 3072 free registers)"), "{message}");
}

#[test]
fn textures_and_surfaces_are_refused() {
    let message = Run::new("tex.2d.v4.f32.f32 {%f0, %f1, %f2, %f3}, [%rd0, {%f0, %f1}];").load().unwrap_err();
    assert!(
        message.contains("test.ptx:9") && message.contains("`tex.2d.v4.f32.f32`: textures and surfaces"),
        "{message}"
    );
    let message = Run::new("").declare(".global .texref image;").load().unwrap_err();
    assert!(message.contains("test.ptx:4") && message.contains("`.texref`: textures and surfaces"), "{message}");
}
