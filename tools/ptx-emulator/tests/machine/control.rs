//! Branches, calls, warps, barriers, spaces.

use super::Run;

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[
    threads_part_and_meet,
    a_thread_may_wait_for_another_of_its_warp,
    tables_of_branches,
    functions_are_called_with_their_own_registers,
    functions_are_called_through_registers,
    functions_call_themselves,
    functions_call_each_other,
    functions_have_aliases,
    memory_is_allocated_on_the_stack,
    clusters_reach_each_other,
    grids_may_synchronize_through_memory,
];

const STORE: &str = "mad.wide.u32 %rd1, %r0, 8, %rd0; cvt.u64.u32 %rd2, %r1; st.global.u64 [%rd1], %rd2;";

#[test]
fn threads_part_and_meet() {
    let body = format!(
        "and.b32 %r2, %r0, 3; setp.eq.u32 %p1, %r2, 0; @%p1 bra A;\n\
         activemask.b32 %r1; bra.uni B;\nA: activemask.b32 %r1;\nB: bar.warp.sync -1; activemask.b32 %r3; xor.b32 %r1, %r1, %r3;\n{STORE}"
    );
    let words = Run::new(&body).words(32);
    assert_eq!(words[0], 0xeeee_eeee);
    assert_eq!(words[1], 0x1111_1111);
}

#[test]
fn a_thread_may_wait_for_another_of_its_warp() {
    // Lane 0 waits, in a loop that comes first in the program, for what lane 1 stores after it.
    let body = "setp.ne.u32 %p1, %r0, 0; @%p1 bra OTHERS;\n\
        WAIT: ld.relaxed.gpu.global.u32 %r1, [%rd0+8]; setp.eq.u32 %p2, %r1, 0; @%p2 bra WAIT; st.global.u32 [%rd0], %r1; bra DONE;\n\
        OTHERS: setp.eq.u32 %p3, %r0, 1; mov.u32 %r2, 7; @%p3 st.relaxed.gpu.global.u32 [%rd0+8], %r2;\nDONE:";
    assert_eq!(Run::new(body).words(2), [7, 7]);
}

#[test]
fn tables_of_branches() {
    let body = format!(
        "T: .branchtargets A, B, C;\nrem.u32 %r2, %r0, 3; brx.idx %r2, T;\n\
         A: mov.u32 %r1, 10; bra E;\nB: mov.u32 %r1, 11; bra E;\nC: mov.u32 %r1, 12;\nE: {STORE}"
    );
    let words = Run::new(&body).words(32);
    assert_eq!(words[..4], [10, 11, 12, 10]);
}

#[test]
fn functions_are_called_with_their_own_registers() {
    let declarations = ".visible .func (.param .b32 result) twice(.param .b32 x) {\n\
        .reg .b32 %r<4>; ld.param.b32 %r1, [x]; setp_free: add.u32 %r2, %r1, %r1; st.param.b32 [result], %r2; ret; }\n\
        .func (.param .b32 result) four(.param .b32 x) { .reg .b32 %r<4>; ld.param.b32 %r1, [x];\n\
        { .param .b32 a; .param .b32 b; st.param.b32 [a], %r1; call.uni (b), twice, (a); ld.param.b32 %r2, [b]; }\n\
        { .param .b32 a; .param .b32 b; st.param.b32 [a], %r2; call.uni (b), twice, (a); ld.param.b32 %r3, [b]; }\n\
        st.param.b32 [result], %r3; ret; }";
    let body = format!(
        "setp.lt.u32 %p1, %r0, 8; mov.u32 %r1, 99;\n\
         {{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r0; @%p1 call.uni (b), four, (a); ld.param.b32 %r2, [b]; @%p1 mov.b32 %r1, %r2; }}\n{STORE}"
    );
    let words = Run::new(&body).declare(declarations).words(32);
    assert_eq!(words[..9], [0, 4, 8, 12, 16, 20, 24, 28, 99]);
}

#[test]
fn clusters_reach_each_other() {
    let body = "mov.u32 %r1, %cluster_ctarank; mov.u32 %r2, cell; add.u32 %r3, %r1, 7; setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [%r2], %r3;\n\
        barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; xor.b32 %r4, %r1, 1; mapa.shared::cluster.u32 %r5, %r2, %r4;\n\
        ld.shared::cluster.u32 %r6, [%r5]; mad.wide.u32 %rd1, %r1, 8, %rd0; cvt.u64.u32 %rd2, %r6; @%p1 st.global.u64 [%rd1], %rd2;\n\
        barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";
    assert_eq!(Run::new(body).declare(".shared .b32 cell;").shape(2, 64, 2).words(2), [8, 7]);
}

#[test]
fn grids_may_synchronize_through_memory() {
    // Every CTA waits for all of them: more than there are host threads.
    let body = "setp.ne.u32 %p1, %r0, 0; @%p1 bra DONE; atom.acq_rel.gpu.global.add.u32 %r1, [%rd0], 1;\n\
        WAIT: ld.acquire.gpu.global.u32 %r2, [%rd0]; setp.lt.u32 %p2, %r2, 40; @%p2 bra WAIT; atom.global.add.u32 %r3, [%rd0+8], 1; DONE:";
    assert_eq!(Run::new(body).shape(40, 32, 1).words(2), [40, 40]);
}

const THREE: &str = ".func (.param .b32 result) twice(.param .b32 x) {\n\
    .reg .b32 %r<4>; ld.param.b32 %r1, [x]; add.u32 %r2, %r1, %r1; st.param.b32 [result], %r2; ret; }\n\
    .func (.param .b32 result) square(.param .b32 x) {\n\
    .reg .b32 %r<4>; ld.param.b32 %r1, [x]; mul.lo.u32 %r2, %r1, %r1; st.param.b32 [result], %r2; ret; }\n\
    .global .u64 table[2] = {twice, square};";

#[test]
fn functions_are_called_through_registers() {
    // Even lanes double, odd ones square: the address comes from a table, or from a `mov`.
    for select in [
        "mov.u64 %rd3, twice; mov.u64 %rd4, square; selp.u64 %rd5, %rd4, %rd3, %p1;",
        "mov.u64 %rd3, table; and.b32 %r2, %r0, 1; mad.wide.u32 %rd4, %r2, 8, %rd3; ld.global.u64 %rd5, [%rd4];",
    ] {
        for prototype in [".callprototype (.param .b32 _) _ (.param .b32 _);", ".calltargets twice, square;"] {
            let body = format!(
                "and.b32 %r2, %r0, 1; setp.eq.u32 %p1, %r2, 1; {select}\n\
                 {{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r0; P: {prototype}\n\
                 call (b), %rd5, (a), P; ld.param.b32 %r1, [b]; }}\n{STORE}"
            );
            let words = Run::new(&body).declare(THREE).words(32);
            let expected: Vec<u64> = (0..32).map(|lane| if lane % 2 == 1 { lane * lane } else { 2 * lane }).collect();
            assert_eq!(words, expected);
        }
    }
    let body = "{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r0; P: .callprototype (.param .b32 _) _ (.param .b32 _);\n\
        mov.u64 %rd5, 12345; call (b), %rd5, (a), P; }";
    let message = Run::new(body).declare(THREE).fault();
    assert!(message.contains("0x3039, which is not the address of a function"), "{message}");
}

#[test]
fn functions_call_themselves() {
    // Fibonacci: each call keeps what it computed before the second call, in registers of all widths and in its local memory, which
    // the callee reaches by its address.
    let declarations = ".func (.param .b64 result) fibonacci(.param .b32 x, .param .b64 up) {\n\
        .reg .b32 %r<4>; .reg .b64 %rd<8>; .reg .pred %p<3>; .local .align 8 .b64 own;\n\
        ld.param.b32 %r1, [x]; ld.param.b64 %rd5, [up]; setp.lt.u32 %p1, %r1, 2; setp.gt.u32 %p2, %r1, 5;\n\
        ld.local.u64 %rd6, [%rd5]; add.u64 %rd6, %rd6, 1; st.local.u64 [%rd5], %rd6;\n\
        @%p1 bra SMALL; mov.u64 %rd7, own; st.local.u64 [own], 0;\n\
        { .param .b32 a; .param .b64 u; .param .b64 b; sub.u32 %r2, %r1, 1; st.param.b32 [a], %r2; st.param.b64 [u], %rd7;\n\
        call.uni (b), fibonacci, (a, u); ld.param.b64 %rd1, [b]; }\n\
        { .param .b32 a; .param .b64 u; .param .b64 b; sub.u32 %r2, %r1, 2; st.param.b32 [a], %r2; st.param.b64 [u], %rd7;\n\
        call.uni (b), fibonacci, (a, u); ld.param.b64 %rd2, [b]; }\n\
        add.u64 %rd1, %rd1, %rd2; ld.local.u64 %rd3, [own]; setp.ne.u64 %p1, %rd3, 2; @%p1 trap;\n\
        setp.gt.u32 %p1, %r1, 5; xor.pred %p1, %p1, %p2; @%p1 trap;\n\
        st.param.b64 [result], %rd1; ret;\n\
        SMALL: cvt.u64.u32 %rd1, %r1; st.param.b64 [result], %rd1; ret; }";
    let body = ".local .align 8 .b64 mine; st.local.u64 [mine], 0; mov.u64 %rd7, mine;\n\
        { .param .b32 a; .param .b64 u; .param .b64 b; st.param.b32 [a], %r0; st.param.b64 [u], %rd7;\n\
        call.uni (b), fibonacci, (a, u); ld.param.b64 %rd2, [b]; }\n\
        mad.wide.u32 %rd1, %r0, 8, %rd0; st.global.u64 [%rd1], %rd2;";
    let words = Run::new(body).declare(declarations).shape(1, 16, 1).words(16);
    assert_eq!(words, [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610]);
}

#[test]
fn functions_call_each_other() {
    let declarations = ".func (.param .b32 result) odd(.param .b32 x);\n\
        .func (.param .b32 result) even(.param .b32 x) { .reg .b32 %r<4>; .reg .pred %p; ld.param.b32 %r1, [x]; setp.eq.u32 %p, %r1, 0;\n\
        mov.b32 %r2, 1; @%p bra END; { .param .b32 a; .param .b32 b; sub.u32 %r1, %r1, 1; st.param.b32 [a], %r1; call.uni (b), odd, (a); ld.param.b32 %r2, [b]; }\n\
        END: st.param.b32 [result], %r2; ret; }\n\
        .func (.param .b32 result) odd(.param .b32 x) { .reg .b32 %r<4>; .reg .pred %p; ld.param.b32 %r1, [x]; setp.eq.u32 %p, %r1, 0;\n\
        mov.b32 %r2, 0; @%p bra END; { .param .b32 a; .param .b32 b; sub.u32 %r1, %r1, 1; st.param.b32 [a], %r1; call.uni (b), even, (a); ld.param.b32 %r2, [b]; }\n\
        END: st.param.b32 [result], %r2; ret; }";
    let body = format!(
        "{{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r0; call.uni (b), even, (a); ld.param.b32 %r1, [b]; }}\n{STORE}"
    );
    let words = Run::new(&body).declare(declarations).words(32);
    assert_eq!(words, (0..32).map(|lane| u64::from(lane % 2 == 0)).collect::<Vec<_>>());
    let body = "{ .param .b32 a; .param .b32 b; st.param.b32 [a], 1000000; call.uni (b), even, (a); }";
    let message = Run::new(body).declare(declarations).fault();
    assert!(message.contains("the stack is full"), "{message}");
}

const INCREMENT: &str = ".visible .func (.param .b32 result) increment(.param .b32 x) {\n\
    .reg .b32 %r<4>; ld.param.b32 %r1, [x]; add.u32 %r2, %r1, 1; st.param.b32 [result], %r2; ret; }\n\
    .visible .func (.param .b32 result) next(.param .b32 x);\n.visible .func (.param .b32 result) after(.param .b32 x);\n";

#[test]
fn functions_have_aliases() {
    let declarations =
        format!("{INCREMENT}.alias next, increment;\n.alias after, increment;\n.global .u64 pointer = after;\n");
    let body = format!(
        "P: .callprototype (.param .b32 _) _ (.param .b32 _);\n\
         {{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r0; call.uni (b), next, (a); ld.param.b32 %r1, [b]; }}\n\
         ld.global.u64 %rd2, [pointer]; mov.u64 %rd3, next; setp.ne.u64 %p1, %rd2, %rd3; @%p1 trap;\n\
         {{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r1; call (b), %rd2, (a), P; ld.param.b32 %r1, [b]; }}\n{STORE}"
    );
    let words = Run::new(&body).declare(&declarations).words(32);
    assert_eq!(words, (0..32).map(|lane| lane + 2).collect::<Vec<_>>());
}

/// Each thread allocates as much as it likes; what a function allocates is given back when it returns.
#[test]
fn memory_is_allocated_on_the_stack() {
    // The sum of the numbers below `x`, from an array of them.
    let declarations = ".func (.param .b32 result) sum(.param .b32 x) {\n\
        .reg .b32 %r<8>; .reg .b64 %rd<6>; .reg .pred %p; .local .b32 count;\n\
        ld.param.b32 %r1, [x]; st.local.b32 [count], %r1; mul.wide.u32 %rd1, %r1, 4; alloca.u64 %rd2, %rd1, 64;\n\
        and.b64 %rd3, %rd2, 63; setp.ne.u64 %p, %rd3, 0; @%p trap;\n\
        mov.b32 %r2, 0; mov.b64 %rd4, %rd2;\n\
        FILL: setp.ge.u32 %p, %r2, %r1; @%p bra FILLED; st.local.b32 [%rd4], %r2; add.u64 %rd4, %rd4, 4; add.u32 %r2, %r2, 1; bra FILL;\n\
        FILLED: ld.local.b32 %r1, [count]; mov.b32 %r3, 0;\n\
        ADD: setp.eq.u32 %p, %r2, 0; @%p bra DONE; sub.u32 %r2, %r2, 1; sub.u64 %rd4, %rd4, 4; ld.local.b32 %r4, [%rd4]; add.u32 %r3, %r3, %r4; bra ADD;\n\
        DONE: st.param.b32 [result], %r3; ret; }";
    let body = format!(
        "stacksave.u64 %rd2; add.u32 %r2, %r0, 1; alloca.u32 %r3, %r2; st.local.b8 [%r3], %rs0; alloca.u32 %r4, 8;\n\
         cvt.u64.u32 %rd4, %r4; cvta.local.u64 %rd4, %rd4; add.u32 %r6, %r0, 100; st.u32 [%rd4], %r6;\n\
         mov.b32 %r9, 0;\n\
         AGAIN: {{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r0; call.uni (b), sum, (a); ld.param.b32 %r1, [b]; }}\n\
         add.u32 %r9, %r9, 1; setp.lt.u32 %p1, %r9, 2000; @%p1 bra AGAIN;\n\
         ld.local.u32 %r5, [%r4]; stackrestore.u64 %rd2; stacksave.u32 %r7; cvt.u32.u64 %r8, %rd2; setp.ne.u32 %p1, %r7, %r8; @%p1 trap;\n\
         stackrestore.u32 %r7; alloca.u64 %rd3, 16, 8; cvt.u32.u64 %r8, %rd3; setp.ne.u32 %p1, %r3, %r8; @%p1 trap;\n\
         add.u32 %r1, %r1, %r5;\n{STORE}"
    );
    let words = Run::new(&body).declare(declarations).words(32);
    assert_eq!(words, (0..32u64).map(|lane| lane * lane.saturating_sub(1) / 2 + 100 + lane).collect::<Vec<_>>());
    let message = Run::new("AGAIN: alloca.u64 %rd1, 4096; bra AGAIN;").fault();
    assert!(message.contains("the stack is full") && message.contains("65536 are in use"), "{message}");
    let message =
        Run::new("stacksave.u64 %rd1; add.u64 %rd1, %rd1, 16; stackrestore.u64 %rd1; alloca.u64 %rd1, 16;").fault();
    assert!(message.contains("it is not what stacksave gave"), "{message}");
}

#[test]
fn aliases_that_are_refused() {
    let message = |aliases: &str| {
        let declarations =
            format!("{INCREMENT}.func undefined(.param .b32 x);\n.func other(.param .b64 x);\n{aliases}");
        Run::new("").declare(&declarations).load().map(drop).expect_err("an error")
    };
    for (aliases, what) in [
        (".alias next, undefined;", "`next` is an alias of `undefined`, which is not defined here"),
        (".alias next, missing;", "`next` is an alias of `missing`, which is not defined here"),
        (".alias missing, increment;", "the alias `missing` is not declared"),
        (
            ".alias increment, next;\n.alias next, increment;",
            "`increment` is an alias of `next`, which is not defined here",
        ),
        (".func own(.param .b32 x) { ret; }\n.alias own, increment;", "`own` has a body"),
        (".alias other, increment;", "`other` and `increment` have other parameters or results"),
        (".func kernel();\n.entry e() { ret; }\n.alias kernel, e;", "not kernels"),
    ] {
        let found = message(aliases);
        assert!(found.contains(what) && found.contains("test.ptx:"), "{aliases}: {found}");
    }
}
