//! Integers, packed and by bits, with every type and modifier: against arithmetic in wider integers.

use super::super::evaluate;
use super::{INTEGERS, cut, edges, number};

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[integers_of_every_type, packed_integers, bits_and_fields, carries_of_every_type, logic];

#[test]
fn integers_of_every_type() {
    type Pair = fn(i128, i128, u32) -> i128;
    let pairs: [(&str, Pair); 7] = [
        ("add", |x, y, _| x + y),
        ("sub", |x, y, _| x - y),
        ("mul.lo", |x, y, _| x.wrapping_mul(y)),
        ("mul.hi", |x, y, width| {
            if width == 64 && x > 1 << 62 && y > 1 << 62 {
                ((x as u128 * y as u128) >> 64) as i128
            } else {
                x.wrapping_mul(y) >> width
            }
        }),
        ("min", |x, y, _| x.min(y)),
        ("max", |x, y, _| x.max(y)),
        ("div", |x, y, _| if y == 0 { 0 } else { x / y }),
    ];
    for (name, width, signed) in INTEGERS {
        for (x, y) in edges(width).into_iter().flat_map(|x| edges(width).map(|y| (x, y))) {
            let (a, b) = (number(x, width, signed), number(y, width, signed));
            for (operation, value) in pairs {
                if operation == "div" && b == 0 {
                    continue;
                }
                let found = evaluate(&format!("{operation}.{name} d, a, b"), width, &[(width, x), (width, y)]);
                assert_eq!(found, cut(value(a, b, width), width), "{operation}.{name} {a} {b}");
            }
            if b != 0 {
                let found = evaluate(&format!("rem.{name} d, a, b"), width, &[(width, x), (width, y)]);
                assert_eq!(found, cut(a % b, width), "rem.{name} {a} {b}");
            }
            let sources = [(width, x), (width, y), (width, 5)];
            for (operation, value) in [("mad.lo", a.wrapping_mul(b) + 5), ("sad", (a - b).abs() + 5)] {
                let found = evaluate(&format!("{operation}.{name} d, a, b, c"), width, &sources);
                assert_eq!(found, cut(value, width), "{operation}.{name} {a} {b}");
            }
        }
        let high = evaluate(
            &format!("mad.hi.{name} d, a, b, c"),
            width,
            &[(width, 1 << (width - 2)), (width, 12), (width, 5)],
        );
        assert_eq!(high, 8);
        if signed {
            for x in edges(width) {
                let a = number(x, width, true);
                assert_eq!(evaluate(&format!("abs.{name} d, a"), width, &[(width, x)]), cut(a.abs(), width));
                assert_eq!(evaluate(&format!("neg.{name} d, a"), width, &[(width, x)]), cut(-a, width));
            }
        }
        if width < 64 {
            let (wide, sources) = (2 * width, [(width, cut(-3, width)), (width, 5)]);
            let product = number(cut(-3, width), width, signed) * 5;
            assert_eq!(evaluate(&format!("mul.wide.{name} d, a, b"), wide, &sources), cut(product, wide));
            let sources = [sources[0], sources[1], (wide, 9)];
            assert_eq!(evaluate(&format!("mad.wide.{name} d, a, b, c"), wide, &sources), cut(product + 9, wide));
        }
    }
    let three = |text: &str, a: i32, b: i32, c: i32| {
        evaluate(text, 32, &[(32, cut(a.into(), 32)), (32, cut(b.into(), 32)), (32, cut(c.into(), 32))]) as u32 as i32
    };
    assert_eq!(three("mad.hi.sat.s32 d, a, b, c", i32::MAX, i32::MAX, i32::MAX), i32::MAX);
    assert_eq!(three("min.relu.s32 d, a, b", -5, 3, 0), 0);
    assert_eq!(three("max.relu.s32 d, a, b", -5, -3, 0), 0);
    assert_eq!(three("max.relu.s32 d, a, b", -5, 3, 0), 3);
    for (name, product) in [("u32", 0xff_ffffu64 * 0x100), ("s32", (-256i64) as u64)] {
        let (a, b) = (0xff_ffff, 0x100);
        assert_eq!(three(&format!("mul24.lo.{name} d, a, b"), a, b, 0) as u32, product as u32);
        assert_eq!(three(&format!("mul24.hi.{name} d, a, b"), a, b, 0) as u32, (product >> 16) as u32);
        assert_eq!(three(&format!("mad24.lo.{name} d, a, b, c"), a, b, 3) as u32, product as u32 + 3);
        assert_eq!(
            three(&format!("mad24.hi.{name} d, a, b, c"), a, b, 3) as u32,
            ((product >> 16) as u32).wrapping_add(3)
        );
    }
    assert_eq!(three("mad24.hi.sat.s32 d, a, b, c", 0x7f_ffff, 0x7f_ffff, i32::MAX), i32::MAX);
}

#[test]
fn packed_integers() {
    let two = |text: &str, a: u64, b: u64| evaluate(text, 32, &[(32, a), (32, b)]);
    for (operation, kind, expected) in [
        ("add", "u16x2", 0x0000_fffe),
        ("add", "s16x2", 0x0000_fffe),
        ("min", "u16x2", 0x0001_ffff),
        ("max", "u16x2", 0xffff_ffff),
        ("min", "s16x2", 0xffff_ffff),
        ("max", "s16x2", 0x0001_ffff),
        ("min.relu", "s16x2", 0),
        ("max.relu", "s16x2", 0x0001_0000),
    ] {
        assert_eq!(
            two(&format!("{operation}.{kind} d, a, b"), 0xffff_ffff, 0x0001_ffff),
            expected,
            "{operation}.{kind}"
        );
    }
    for (a, b) in [("u32", "u32"), ("u32", "s32"), ("s32", "u32"), ("s32", "s32")] {
        let value = |byte: u64, kind: &str| number(byte, 8, kind == "s32");
        let bytes = |word: u64| [word & 255, word >> 8 & 255, word >> 16 & 255, word >> 24];
        let (x, y) = (0xff01_0280u64, 0x01ff_fe02u64);
        let sum: i128 = bytes(x).into_iter().zip(bytes(y)).map(|(x, y)| value(x, a) * value(y, b)).sum();
        assert_eq!(
            evaluate(&format!("dp4a.{a}.{b} d, a, b, c"), 32, &[(32, x), (32, y), (32, 7)]),
            cut(sum + 7, 32),
            "dp4a.{a}.{b}"
        );
        for (half, first) in [("lo", 0), ("hi", 2)] {
            let halves = [x & 0xffff, x >> 16].map(|half| number(half, 16, a == "s32"));
            let sum: i128 = (0..2).map(|at| halves[at] * value(bytes(y)[first + at], b)).sum();
            let text = format!("dp2a.{half}.{a}.{b} d, a, b, c");
            assert_eq!(evaluate(&text, 32, &[(32, x), (32, y), (32, 7)]), cut(sum + 7, 32), "{text}");
        }
    }
    assert_eq!(two("cvt.pack.sat.u16.s32 d, a, b", 70_000, cut(-5, 32)), 0xffff_0000);
    let three = |text: &str| evaluate(text, 32, &[(32, 300), (32, cut(-300, 32)), (32, 0x1234)]);
    assert_eq!(three("cvt.pack.sat.u8.s32.b32 d, a, b, c"), 0x1234_ff00);
    assert_eq!(three("cvt.pack.sat.s8.s32.b32 d, a, b, c"), 0x1234_7f80);
}

#[test]
fn bits_and_fields() {
    for width in [32, 64] {
        let one = |name: &str, bits: u64| evaluate(&format!("{name}.b{width} d, a"), 32, &[(width, bits)]);
        assert_eq!(one("popc", 0xf00f), 8);
        assert_eq!(one("clz", 0x10), u64::from(width) - 5);
        assert_eq!(one("clz", 0), u64::from(width));
        let reversed = evaluate(&format!("brev.b{width} d, a"), width, &[(width, 2)]);
        assert_eq!(reversed, 1 << (width - 2));
        let inserted =
            evaluate(&format!("bfi.b{width} d, a, b, 4, 8"), width, &[(width, 0xabcd), (width, 0xffff_ffff)]);
        assert_eq!(inserted, 0xffff_fcdf);
        for signed in [false, true] {
            let kind = format!("{}{width}", if signed { 's' } else { 'u' });
            let field = evaluate(&format!("bfe.{kind} d, a, 4, 8"), width, &[(width, 0xabcd)]);
            assert_eq!(field, if signed { cut(0xbc - 256, width) } else { 0xbc });
            let found = |text: String, bits: u64| evaluate(&text, 32, &[(width, bits)]);
            assert_eq!(found(format!("bfind.{kind} d, a"), 0x800), 11);
            assert_eq!(found(format!("bfind.shiftamt.{kind} d, a"), 0x800), u64::from(width) - 12);
            assert_eq!(found(format!("bfind.{kind} d, a"), 0), 0xffff_ffff);
        }
    }
    for (mode, kind, b, expected) in [
        ("", "u32", 4, 0xb),
        (".clamp", "u32", 40, 0xab),
        (".wrap", "u32", 36, 0xb),
        ("", "s32", 4, 0xffff_fffb),
        (".clamp", "s32", 40, 0xab),
        (".wrap", "s32", 36, 0xffff_fffb),
    ] {
        let mode = if mode.is_empty() { ".wrap" } else { mode };
        assert_eq!(
            evaluate(&format!("szext{mode}.{kind} d, a, b"), 32, &[(32, 0xab), (32, b)]),
            expected,
            "{mode}.{kind}"
        );
    }
    assert_eq!(evaluate("bmsk.clamp.b32 d, a, b", 32, &[(32, 4), (32, 40)]), 0xffff_fff0);
    assert_eq!(evaluate("bmsk.wrap.b32 d, a, b", 32, &[(32, 36), (32, 8)]), 0xff0);
    assert_eq!(evaluate("fns.b32 d, a, b, c", 32, &[(32, 0b1010), (32, 0), (32, 2)]), 3);
    let permuted = |mode: &str, selector: u64| {
        evaluate(&format!("prmt.b32{mode} d, a, b, c"), 32, &[(32, 0x0302_0100), (32, 0x0706_0504), (32, selector)])
    };
    assert_eq!(permuted("", 0x7531), 0x0705_0301);
    assert_eq!(permuted(".f4e", 2), 0x0504_0302);
    assert_eq!(permuted(".b4e", 2), 0x0700_0102);
    assert_eq!(permuted(".rc8", 3), 0x0303_0303);
    assert_eq!(permuted(".ecl", 2), 0x0302_0202);
    assert_eq!(permuted(".ecr", 2), 0x0202_0100);
    assert_eq!(permuted(".rc16", 1), 0x0302_0302);
}

#[test]
fn carries_of_every_type() {
    for (width, kind) in [(32, "u32"), (32, "s32"), (64, "u64"), (64, "s64")] {
        let all = cut(-1, width);
        let run = |text: &str, a: u64, b: u64| {
            let text = format!("{{ .reg .b{width} t; {} }}", text.replace('@', kind));
            evaluate(&text, width, &[(width, a), (width, b)])
        };
        assert_eq!(run("add.cc.@ t, a, b; addc.cc.@ t, a, 0; addc.@ d, b, 0;", all, 1), 2);
        assert_eq!(run("sub.cc.@ t, a, b; subc.cc.@ t, a, 0; subc.@ d, b, 0;", 0, 1), 0);
        assert_eq!(run("mad.lo.cc.@ t, a, b, a; madc.lo.cc.@ t, a, b, a; madc.lo.@ d, b, b, 0;", all, 1), 2);
        assert_eq!(run("mad.hi.cc.@ t, a, b, a; madc.hi.cc.@ t, a, b, b; madc.hi.@ d, b, b, 5;", 1, 2), 5);
    }
}

#[test]
fn logic() {
    for width in [16, 32, 64] {
        let two =
            |name: &str| evaluate(&format!("{name}.b{width} d, a, b"), width, &[(width, 0b1100), (width, 0b1010)]);
        assert_eq!((two("and"), two("or"), two("xor")), (0b1000, 0b1110, 0b0110));
        let one = |name: &str, bits: u64| evaluate(&format!("{name}.b{width} d, a"), width, &[(width, bits)]);
        assert_eq!((one("not", 5), one("cnot", 5), one("cnot", 0)), (cut(!5, width), 0, 1));
        let shifted = |text: &str, bits: u64| evaluate(&format!("{text} d, a, b"), width, &[(width, bits), (32, 3)]);
        assert_eq!(shifted(&format!("shl.b{width}"), 5), 40);
        for kind in ["b", "u"] {
            assert_eq!(shifted(&format!("shr.{kind}{width}"), cut(-8, width)), cut(-8, width) >> 3);
        }
        assert_eq!(shifted(&format!("shr.s{width}"), cut(-8, width)), cut(-1, width));
    }
    for (name, expected) in [("and", 0), ("or", 1), ("xor", 1)] {
        let text = format!("{{ .reg .pred q, r; setp.ne.u32 q, a, a; {name}.pred r, p, q; selp.b32 d, 1, 0, r; }}");
        assert_eq!(evaluate(&text, 32, &[(32, 0)]), expected);
    }
    assert_eq!(evaluate("{ .reg .pred q; not.pred q, p; selp.b32 d, 1, 0, q; }", 32, &[(32, 0)]), 0);
    assert_eq!(evaluate("{ .reg .pred q; mov.pred q, p; selp.b32 d, 1, 0, q; }", 32, &[(32, 0)]), 1);
    for (name, expected) in [("and", 0), ("or", 1)] {
        let text = format!(
            "{{ .reg .pred q, r; setp.ne.u32 r, a, a; lop3.{name}.b32 d|q, a, b, 0, 0xfc, r; selp.b32 d, 1, 0, q; }}"
        );
        assert_eq!(evaluate(&text, 32, &[(32, 4), (32, 2)]), expected);
    }
    for (text, shift, expected) in
        [("l.clamp", 36, 0xf000_0000u64), ("l.wrap", 4, 0x1f), ("r.clamp", 36, 1), ("r.wrap", 4, 0x1f00_0000)]
    {
        let found = evaluate(&format!("shf.{text}.b32 d, a, b, c"), 32, &[(32, 0xf000_0000), (32, 1), (32, shift)]);
        assert_eq!(found, expected, "{text}");
    }
}
