//! State spaces: generic addresses and the windows they are in, addresses in other CTAs, and parameters.

use super::Run;

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[
    generic_addresses_of_every_space,
    an_address_is_in_one_window,
    addresses_go_to_their_space_and_back,
    addresses_in_other_ctas,
    parameters_of_kernels_and_functions,
];

#[test]
fn generic_addresses_of_every_space() {
    let body = ".local .align 8 .b64 mine; mov.u64 %rd1, mine; cvta.local.u64 %rd2, %rd1; cvt.u64.u32 %rd3, %r0; st.u64 [%rd2], %rd3;\n\
        mov.u64 %rd4, cell; cvta.shared.u64 %rd5, %rd4; isspacep.shared %p1, %rd5; setp.eq.u32 %p2, %r0, 3; @%p2 st.u64 [%rd5], 5;\n\
        bar.sync 0; ld.u64 %rd6, [%rd2]; ld.u64 %rd7, [%rd5]; add.u64 %rd6, %rd6, %rd7; selp.u64 %rd8, 100, 0, %p1; add.u64 %rd6, %rd6, %rd8;\n\
        ld.const.u64 %rd9, [table+8]; add.u64 %rd6, %rd6, %rd9; mad.wide.u32 %rd1, %r0, 8, %rd0; st.u64 [%rd1], %rd6;";
    let words = Run::new(body).declare(".shared .b64 cell; .const .b64 table[2] = {1, 1000};").words(32);
    assert_eq!((words[0], words[31]), (1105, 1136));
}

/// Each CTA of a pair asks of addresses of all kinds which spaces they are in.
#[test]
fn an_address_is_in_one_window() {
    let spaces = ["global", "const", "shared", "shared::cta", "shared::cluster", "local", "param", "param::entry"];
    let addresses: [(&str, &str, &[&str]); 7] = [
        ("the buffer", "mov.u64 %rd1, %rd0;", &["global"]),
        ("a global variable", "mov.u64 %rd1, number; cvta.global.u64 %rd1, %rd1;", &["global"]),
        ("a constant", "mov.u64 %rd1, table; cvta.const.u64 %rd1, %rd1;", &["const"]),
        ("a local variable", "mov.u64 %rd1, own; cvta.local.u64 %rd1, %rd1;", &["local"]),
        ("a parameter", "mov.b64 %rd1, buffer; cvta.param::entry.u64 %rd1, %rd1;", &["param", "param::entry"]),
        (
            "shared memory",
            "mov.u64 %rd1, cell; cvta.shared::cta.u64 %rd1, %rd1;",
            &["shared", "shared::cta", "shared::cluster"],
        ),
        (
            "shared memory of the other CTA",
            "mov.u32 %r1, %cluster_ctarank; xor.b32 %r1, %r1, 1; mov.u64 %rd1, cell; mapa.shared::cluster.u64 %rd1, %rd1, %r1;\n\
             cvta.shared::cluster.u64 %rd1, %rd1;",
            &["shared::cluster"],
        ),
    ];
    for (what, address, inside) in addresses {
        let mut body = format!(".local .align 8 .b64 own; mov.b64 %rd3, 0; {address}\n");
        for (at, space) in spaces.iter().enumerate() {
            body.push_str(&format!(
                "isspacep.{space} %p1, %rd1; selp.b64 %rd2, {}, 0, %p1; or.b64 %rd3, %rd3, %rd2;\n",
                1 << at
            ));
        }
        body.push_str("mov.u32 %r1, %ctaid.x; mad.wide.u32 %rd4, %r1, 8, %rd0; st.global.u64 [%rd4], %rd3;\n");
        let expected = (0..spaces.len()).filter(|at| inside.contains(&spaces[*at])).fold(0, |all, at| all | 1 << at);
        let declarations = ".shared .b64 cell; .const .b64 table = 1; .global .b64 number;";
        let run = Run::new(&body).declare(declarations).shape(2, 1, 2);
        assert_eq!(run.words(2), [expected; 2], "{what}");
    }
}

#[test]
fn addresses_go_to_their_space_and_back() {
    for (space, load, address, value) in [
        ("global", "ld.global", "mov.u64 %rd1, number;", 11),
        ("const", "ld.const", "mov.u64 %rd1, table;", 22),
        ("shared", "ld.shared", "mov.u64 %rd1, cell; st.shared.u64 [%rd1], 33;", 33),
        ("shared::cta", "ld.shared::cta", "mov.u64 %rd1, cell; st.shared.u64 [%rd1], 33;", 33),
        ("shared::cluster", "ld.shared::cluster", "mov.u64 %rd1, cell; st.shared.u64 [%rd1], 33;", 33),
        ("local", "ld.local", "mov.u64 %rd1, own; st.local.u64 [%rd1], 44;", 44),
        ("param", "ld.param", "mov.b64 %rd1, buffer;", 0),
        ("param::entry", "ld.param::entry", "mov.b64 %rd1, buffer;", 0),
    ] {
        let body = format!(
            ".local .align 8 .b64 own; {address} cvta.{space}.u64 %rd2, %rd1; ld.u64 %rd3, [%rd2]; st.global.u64 [%rd0], %rd3;\n\
             cvta.to.{space}.u64 %rd4, %rd2; {load}.u64 %rd5, [%rd4]; st.global.u64 [%rd0+8], %rd5; st.global.u64 [%rd0+16], %rd0;"
        );
        let declarations = ".shared .b64 cell; .const .b64 table = 22; .global .b64 number = 11;";
        let words = Run::new(&body).declare(declarations).shape(1, 1, 1).words(3);
        // The kernel's parameter is the buffer's address.
        let expected = if space.starts_with("param") { words[2] } else { value };
        assert_eq!(words[..2], [expected; 2], "{space}");
    }
}

/// Each CTA of four stores where the next one will find it, through addresses of 32 and of 64 bits, in the window and generic.
#[test]
fn addresses_in_other_ctas() {
    for (map, rank, store) in [
        (
            "mapa.shared::cluster.u32 %r3, %r1, %r2",
            "getctarank.shared::cluster.u32 %r4, %r3",
            "st.shared::cluster.u32 [%r3], %r2",
        ),
        (
            "mapa.shared::cluster.u64 %rd3, %rd1, %r2",
            "getctarank.shared::cluster.u64 %r4, %rd3",
            "st.shared::cluster.u32 [%rd3], %r2",
        ),
        ("mapa.u64 %rd3, %rd2, %r2", "getctarank.u64 %r4, %rd3", "st.u32 [%rd3], %r2"),
    ] {
        let body = format!(
            "mov.u32 %r1, cell; mov.u64 %rd1, cell; cvta.shared.u64 %rd2, %rd1; mov.u32 %r5, %cluster_ctarank;\n\
             add.u32 %r2, %r5, 1; and.b32 %r2, %r2, 3; {map}; {rank}; {store};\n\
             barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n\
             ld.shared.u32 %r6, [%r1]; mad.lo.u32 %r6, %r4, 100, %r6; cvt.u64.u32 %rd4, %r6;\n\
             mad.wide.u32 %rd5, %r5, 8, %rd0; st.global.u64 [%rd5], %rd4;"
        );
        let words = Run::new(&body).declare(".shared .b32 cell;").shape(4, 1, 4).words(4);
        assert_eq!(words, [100, 201, 302, 3], "{map}");
    }
}

#[test]
fn parameters_of_kernels_and_functions() {
    let declarations = ".func (.param .align 8 .b8 result[16]) swap(.param .align 8 .b8 pair[16]) { .reg .b64 %rd<4>;\n\
        ld.param::func.u64 %rd1, [pair]; ld.param.u64 %rd2, [pair+8]; st.param::func.u64 [result], %rd2; st.param.u64 [result+8], %rd1; ret; }";
    let body = "ld.param::entry.u64 %rd5, [buffer]; sub.u64 %rd5, %rd5, %rd0;\n\
        { .param .align 8 .b8 a[16]; .param .align 8 .b8 b[16]; st.param::func.v2.b64 [a], {5, 6}; call.uni (b), swap, (a);\n\
        ld.param::func.v2.b64 {%rd1, %rd2}, [b]; }\n\
        st.global.v2.b64 [%rd0], {%rd1, %rd2}; st.global.u64 [%rd0+16], %rd5;";
    assert_eq!(Run::new(body).declare(declarations).shape(1, 1, 1).words(3), [6, 5, 0]);
}
