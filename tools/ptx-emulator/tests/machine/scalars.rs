//! Instructions of single lanes, with every type and modifier: against arithmetic in wider integers, or with known answers.

use super::evaluate;

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[
    integers_of_every_type,
    packed_integers,
    bits_and_fields,
    carries_of_every_type,
    roundings_of_floats,
    unary_floats,
    minima_and_maxima,
    half_precision,
    mixed_precision,
    comparisons_of_every_type,
    logic,
    selections,
    moves,
    conversions_of_every_type,
];

const INTEGERS: [(&str, u32, bool); 6] = [
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

/// A type's bits as a number.
fn number(bits: u64, width: u32, signed: bool) -> i128 {
    let shift = 64 - width;
    if signed { i128::from((bits << shift) as i64 >> shift) } else { i128::from(bits << shift >> shift) }
}

/// A number's bits.
fn cut(value: i128, width: u32) -> u64 {
    value as u64 & (u64::MAX >> (64 - width))
}

fn edges(width: u32) -> [u64; 6] {
    let all = u64::MAX >> (64 - width);
    [0, 1, 7, all, all >> 1, (all >> 1) + 1]
}

fn f(value: f32) -> u64 {
    u64::from(value.to_bits())
}

fn d(value: f64) -> u64 {
    value.to_bits()
}

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
    }
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
fn roundings_of_floats() {
    // The first three round 1 + a bit to 1, the last away from it.
    let (tiny, tiny_double) = (2f32.powi(-30), 2f64.powi(-60));
    for rounding in ["rn", "rz", "rm", "rp"] {
        let up = rounding == "rp";
        let single = |value: f32| f(if up { value.next_up() } else { value });
        let double = |value: f64| d(if up { value.next_up() } else { value });
        let (third, third_double) = (1f32 / 3.0, 1f64 / 3.0);
        // One third in f32 is too large, in f64 too small.
        let third = if matches!(rounding, "rz" | "rm") { third.next_down() } else { third };
        let third_double = if up { third_double.next_up() } else { third_double };
        // The root of two in f32 is too small, in f64 too large.
        let root = if up { 2f32.sqrt().next_up() } else { 2f32.sqrt() };
        let root_double = if up || rounding == "rn" { 2f64.sqrt() } else { 2f64.sqrt().next_down() };
        for flush in ["", ".ftz"] {
            let two = |text: &str, a: f32, b: f32| evaluate(text, 32, &[(32, f(a)), (32, f(b))]);
            let name = format!("{rounding}{flush}");
            assert_eq!(two(&format!("add.{name}.f32 d, a, b"), 1.0, tiny), single(1.0));
            assert_eq!(two(&format!("sub.{name}.f32 d, a, b"), 1.0, -tiny), single(1.0));
            let near = 1f32.next_up();
            assert_eq!(two(&format!("mul.{name}.f32 d, a, b"), near, near), single(near.next_up()));
            assert_eq!(two(&format!("div.{name}.f32 d, a, b"), 1.0, 3.0), f(third));
            assert_eq!(two(&format!("rcp.{name}.f32 d, a"), 3.0, 0.0), f(third));
            assert_eq!(two(&format!("sqrt.{name}.f32 d, a"), 2.0, 0.0), f(root));
            let three = [(32, f(1.0)), (32, f(tiny)), (32, f(1.0))];
            for operation in ["fma", "mad"] {
                assert_eq!(evaluate(&format!("{operation}.{name}.f32 d, a, b, c"), 32, &three), single(1.0));
                let saturated = evaluate(
                    &format!("{operation}.{name}.sat.f32 d, a, b, c"),
                    32,
                    &[(32, f(2.0)), three[0], three[0]],
                );
                assert_eq!(saturated, f(1.0));
            }
            for operation in ["add", "sub", "mul"] {
                assert_eq!(
                    two(&format!("{operation}.{name}.sat.f32 d, a, b"), 7.0, -1.0),
                    if operation == "sub" || operation == "add" { f(1.0) } else { 0 }
                );
                let pair = |value: f32| f(value) | f(value) << 32;
                let (a, b) = if operation == "mul" {
                    (near, near)
                } else {
                    (1.0, if operation == "sub" { -tiny } else { tiny })
                };
                let both = evaluate(&format!("{operation}.{name}.f32x2 d, a, b"), 64, &[(64, pair(a)), (64, pair(b))]);
                let expected = single(if operation == "mul" { near.next_up() } else { 1.0 });
                assert_eq!(both, expected | expected << 32);
            }
            let pair = |value: f32| f(value) | f(value) << 32;
            let both = evaluate(
                &format!("fma.{name}.f32x2 d, a, b, c"),
                64,
                &[(64, pair(1.0)), (64, pair(tiny)), (64, pair(1.0))],
            );
            assert_eq!(both, single(1.0) | single(1.0) << 32);
        }
        let two = |text: String, a: f64, b: f64| evaluate(&text, 64, &[(64, d(a)), (64, d(b))]);
        assert_eq!(two(format!("add.{rounding}.f64 d, a, b"), 1.0, tiny_double), double(1.0));
        assert_eq!(two(format!("sub.{rounding}.f64 d, a, b"), 1.0, -tiny_double), double(1.0));
        let near = 1f64.next_up();
        assert_eq!(two(format!("mul.{rounding}.f64 d, a, b"), near, near), double(near.next_up()));
        assert_eq!(two(format!("div.{rounding}.f64 d, a, b"), 1.0, 3.0), d(third_double));
        assert_eq!(two(format!("rcp.{rounding}.f64 d, a"), 3.0, 0.0), d(third_double));
        assert_eq!(two(format!("sqrt.{rounding}.f64 d, a"), 2.0, 0.0), d(root_double));
        for operation in ["fma", "mad"] {
            let text = format!("{operation}.{rounding}.f64 d, a, b, c");
            assert_eq!(evaluate(&text, 64, &[(64, d(1.0)), (64, d(tiny_double)), (64, d(1.0))]), double(1.0));
        }
    }
    for text in ["div.approx.f32", "div.full.f32", "div.approx.ftz.f32", "div.full.ftz.f32"] {
        assert_eq!(evaluate(&format!("{text} d, a, b"), 32, &[(32, f(3.0)), (32, f(4.0))]), f(0.75));
    }
}

#[test]
fn unary_floats() {
    let small = f(1e-40);
    for (name, value, expected) in [
        ("abs", -2.0, 2.0),
        ("neg", -2.0, 2.0),
        ("rcp.approx", 4.0, 0.25),
        ("sqrt.approx", 4.0, 2.0),
        ("rsqrt.approx", 4.0, 0.5),
        ("sin.approx", 0.0, 0.0),
        ("cos.approx", 0.0, 1.0),
        ("lg2.approx", 8.0, 3.0),
        ("ex2.approx", 3.0, 8.0),
    ] {
        for flush in ["", ".ftz"] {
            assert_eq!(
                evaluate(&format!("{name}{flush}.f32 d, a"), 32, &[(32, f(value))]),
                f(expected),
                "{name}{flush}"
            );
        }
    }
    assert_eq!(evaluate("abs.ftz.f32 d, a", 32, &[(32, small | 1 << 31)]), 0);
    assert_eq!(evaluate("neg.ftz.f32 d, a", 32, &[(32, small)]), 1 << 31);
    assert_eq!(evaluate("tanh.approx.f32 d, a", 32, &[(32, f(0.0))]), 0);
    assert_eq!(evaluate("abs.f64 d, a", 64, &[(64, d(-2.0))]), d(2.0));
    assert_eq!(evaluate("neg.f64 d, a", 64, &[(64, d(-2.0))]), d(2.0));
    assert_eq!(evaluate("rcp.approx.ftz.f64 d, a", 64, &[(64, d(4.0))]), d(0.25));
    assert_eq!(evaluate("rsqrt.approx.ftz.f64 d, a", 64, &[(64, d(4.0))]), d(0.5));
    assert_eq!(evaluate("rsqrt.approx.f64 d, a", 64, &[(64, d(4.0))]), d(0.5));
    assert_eq!(evaluate("copysign.f32 d, a, b", 32, &[(32, f(-1.0)), (32, f(3.0))]), f(-3.0));
    assert_eq!(evaluate("copysign.f64 d, a, b", 64, &[(64, d(-1.0)), (64, d(3.0))]), d(-3.0));
    for (class, value, holds) in [
        ("finite", 1.0, true),
        ("infinite", 1.0, false),
        ("infinite", f32::INFINITY, true),
        ("number", f32::NAN, false),
        ("notanumber", f32::NAN, true),
        ("normal", 1e-40, false),
        ("subnormal", 1e-40, true),
    ] {
        let text = format!("{{ .reg .pred q; testp.{class}.f32 q, a; selp.b32 d, 1, 0, q; }}");
        assert_eq!(evaluate(&text, 32, &[(32, f(value))]), u64::from(holds), "{class} {value}");
        let value = if class.ends_with("normal") { f64::MIN_POSITIVE / 2.0 } else { f64::from(value) };
        let text = format!("{{ .reg .pred q; testp.{class}.f64 q, a; selp.b32 d, 1, 0, q; }}");
        assert_eq!(evaluate(&text, 32, &[(64, d(value))]), u64::from(holds), "{class} {value}");
    }
}

#[test]
fn minima_and_maxima() {
    for (name, expected) in [("min", -3.0f32), ("max", 2.0)] {
        for flush in ["", ".ftz"] {
            for nan in ["", ".NaN"] {
                let two = |text: String, a: f32, b: f32| evaluate(&text, 32, &[(32, f(a)), (32, f(b))]);
                assert_eq!(two(format!("{name}{flush}{nan}.f32 d, a, b"), 2.0, -3.0), f(expected));
                let found = two(format!("{name}{flush}{nan}.f32 d, a, b"), f32::NAN, -3.0);
                assert_eq!(found, if nan.is_empty() { f(-3.0) } else { 0x7fff_ffff });
                let found = two(format!("{name}{flush}{nan}.xorsign.abs.f32 d, a, b"), 2.0, -3.0);
                assert_eq!(found, f(if name == "min" { -2.0 } else { -3.0 }));
            }
        }
        assert_eq!(evaluate(&format!("{name}.f64 d, a, b"), 64, &[(64, d(2.0)), (64, d(-3.0))]), d(expected.into()));
        for (kind, width, two, three, mask) in [
            ("f16", 16, 0x4000u64, 0xc200u64, 0xffff),
            ("f16x2", 32, 0x4000_4000, 0xc200_c200, 0xffff),
            ("bf16", 16, 0x4000, 0xc040, 0xffff),
            ("bf16x2", 32, 0x4000_4000, 0xc040_c040, 0xffff),
        ] {
            for modifiers in ["", ".NaN", ".xorsign.abs", ".NaN.xorsign.abs"] {
                for flush in if kind.starts_with('f') { &["", ".ftz"][..] } else { &[""] } {
                    let text = format!("{name}{flush}{modifiers}.{kind} d, a, b");
                    let found = evaluate(&text, width, &[(width, two), (width, three)]) & mask;
                    let expected = match (name, modifiers.contains("abs")) {
                        ("min", false) => three & mask,
                        (_, false) => two & mask,
                        ("min", true) => 0xc000,
                        (_, true) => three & mask,
                    };
                    assert_eq!(found, expected, "{text}");
                }
            }
        }
    }
}

#[test]
fn half_precision() {
    // 3 and 1.5, in both halves where there are two.
    for (kind, width, three, half, four_and_half, one_and_half_neg) in [
        ("f16", 16, 0x4200u64, 0x3e00u64, 0x4480u64, 0xbe00u64),
        ("f16x2", 32, 0x4200_4200, 0x3e00_3e00, 0x4480_4480, 0xbe00_be00),
        ("bf16", 16, 0x4040, 0x3fc0, 0x4090, 0xbfc0),
        ("bf16x2", 32, 0x4040_4040, 0x3fc0_3fc0, 0x4090_4090, 0xbfc0_bfc0),
    ] {
        let plain = kind.starts_with('f');
        let one = if plain { 0x3c00_3c00u64 } else { 0x3f80_3f80 } & (u64::MAX >> (64 - width));
        let sources = [(width, three), (width, half)];
        let variants: &[&str] = if plain { &["", ".rn", ".ftz", ".sat", ".rn.ftz.sat"] } else { &["", ".rn"] };
        for modifiers in variants {
            let clamp = |value: u64| if modifiers.contains("sat") { one } else { value };
            let run = |name: &str| evaluate(&format!("{name}{modifiers}.{kind} d, a, b"), width, &sources);
            assert_eq!(run("add"), clamp(four_and_half), "add{modifiers}.{kind}");
            assert_eq!(run("sub"), clamp(half), "sub{modifiers}.{kind}");
            assert_eq!(run("mul"), clamp(four_and_half), "mul{modifiers}.{kind}");
        }
        let zero = (width, 0);
        let fused: &[&str] =
            if plain { &["", ".ftz", ".sat", ".ftz.sat", ".relu", ".ftz.relu"] } else { &["", ".relu"] };
        for modifiers in fused {
            let expected = if modifiers.contains("sat") { one } else { four_and_half };
            let text = format!("fma.rn{modifiers}.{kind} d, a, b, c");
            assert_eq!(evaluate(&text, width, &[sources[0], sources[1], zero]), expected, "{text}");
        }
        for modifiers in ["", ".relu"] {
            let text = format!("fma.rn.oob{modifiers}.{kind} d, a, b, c");
            assert_eq!(evaluate(&text, width, &[sources[0], sources[1], zero]), four_and_half, "{text}");
        }
        for flush in if plain { &["", ".ftz"][..] } else { &[""] } {
            assert_eq!(evaluate(&format!("neg{flush}.{kind} d, a"), width, &[(width, half)]), one_and_half_neg);
            assert_eq!(evaluate(&format!("abs{flush}.{kind} d, a"), width, &[(width, one_and_half_neg)]), half);
        }
        assert_eq!(evaluate(&format!("tanh.approx.{kind} d, a"), width, &[(width, 0)]), 0);
        let flush = if plain { "" } else { ".ftz" };
        assert_eq!(evaluate(&format!("ex2.approx{flush}.{kind} d, a"), width, &[(width, 0)]), one);
    }
}

#[test]
fn mixed_precision() {
    // 1 and 1 + 2^-30, or a product of 2^-15 and 2^-15.
    let tiny = 2f32.powi(-30);
    for (kind, one, small) in [("f16", 0x3c00, 0x0200), ("bf16", 0x3f80, 0x3800)] {
        for rounding in ["rn", "rz", "rm", "rp"] {
            let expected = f(if rounding == "rp" { 1f32.next_up() } else { 1.0 });
            for (name, addend) in [("add", tiny), ("sub", -tiny)] {
                let text = format!("{name}.{rounding}.f32.{kind} d, a, b");
                assert_eq!(evaluate(&text, 32, &[(16, one), (32, f(addend))]), expected, "{text}");
                let text = format!("{name}.{rounding}.sat.f32.{kind} d, a, b");
                assert_eq!(evaluate(&text, 32, &[(16, one), (32, f(if name == "add" { 3.0 } else { -3.0 }))]), f(1.0));
            }
            let text = format!("fma.{rounding}.f32.{kind} d, a, b, c");
            assert_eq!(evaluate(&text, 32, &[(16, small), (16, small), (32, f(1.0))]), expected, "{text}");
            let text = format!("fma.{rounding}.sat.f32.{kind} d, a, b, c");
            assert_eq!(evaluate(&text, 32, &[(16, one), (16, one), (32, f(f32::NAN))]), 0, "{text}");
        }
    }
}

#[test]
fn comparisons_of_every_type() {
    type Test = fn(f64, f64) -> bool;
    let ordered: [(&str, Test); 6] = [
        ("eq", |x, y| x == y),
        ("ne", |x, y| x.partial_cmp(&y).is_some_and(|order| order.is_ne())),
        ("lt", |x, y| x < y),
        ("le", |x, y| x <= y),
        ("gt", |x, y| x > y),
        ("ge", |x, y| x >= y),
    ];
    let unordered: [(&str, Test); 8] = [
        ("equ", |x, y| x.partial_cmp(&y).is_none_or(|order| order.is_eq())),
        ("neu", |x, y| x != y),
        ("ltu", |x, y| x.partial_cmp(&y).is_none_or(|order| order.is_lt())),
        ("leu", |x, y| x.partial_cmp(&y).is_none_or(|order| order.is_le())),
        ("gtu", |x, y| x.partial_cmp(&y).is_none_or(|order| order.is_gt())),
        ("geu", |x, y| x.partial_cmp(&y).is_none_or(|order| order.is_ge())),
        ("num", |x, y| !x.is_nan() && !y.is_nan()),
        ("nan", |x, y| x.is_nan() || y.is_nan()),
    ];
    let below: [(&str, Test); 4] =
        [("lo", |x, y| x < y), ("ls", |x, y| x <= y), ("hi", |x, y| x > y), ("hs", |x, y| x >= y)];
    let half = |value: f64| u64::from(half::f16::from_f64(value).to_bits());
    let brain = |value: f64| u64::from(half::bf16::from_f64(value).to_bits());
    for kind in ["b16", "b32", "b64", "u16", "s16", "u32", "s32", "u64", "s64", "f16", "bf16", "f32", "f64"] {
        let width: u32 = kind.trim_start_matches(|letter: char| letter.is_alphabetic()).parse().unwrap();
        let float = kind.contains('f');
        let code = |value: f64| match kind {
            "f16" => half(value),
            "bf16" => brain(value),
            "f32" => f(value as f32),
            "f64" => d(value),
            _ => cut(value as i128, width),
        };
        let tests: Vec<(&str, Test)> = match kind.chars().next() {
            Some('b') if !float => ordered[..2].to_vec(),
            Some('u') => ordered.into_iter().chain(below).collect(),
            Some('s') => ordered.to_vec(),
            _ => ordered.into_iter().chain(unordered).collect(),
        };
        let mut values = vec![(1.0, 2.0), (2.0, 1.0), (3.0, 3.0)];
        if float {
            values.push((f64::NAN, 1.0));
        }
        for ((name, test), (x, y)) in tests.iter().flat_map(|test| values.iter().map(move |values| (test, *values))) {
            let sources = [(width, code(x)), (width, code(y))];
            let holds = u64::from(test(x, y));
            if width == 16 && float {
                let text = format!("{{ .reg .pred q; setp.{name}.{kind} q, a, b; selp.b32 d, 1, 0, q; }}");
                assert_eq!(evaluate(&text, 32, &sources), holds, "{text} {x} {y}");
                continue;
            }
            let text = format!(
                "{{ .reg .pred q, r; setp.{name}.{kind} q|r, a, b; selp.b32 d, 1, 0, q; @r add.u32 d, d, 2; }}"
            );
            assert_eq!(evaluate(&text, 32, &sources), holds + 2 * (1 - holds), "setp.{name}.{kind} {x} {y}");
            for (to, yes) in [("u32", 0xffff_ffffu64), ("s32", 0xffff_ffff), ("f32", f(1.0))] {
                let found = evaluate(&format!("set.{name}.{to}.{kind} d, a, b"), 32, &sources);
                assert_eq!(found, holds * yes, "set.{name}.{to}.{kind} {x} {y}");
            }
        }
    }
    for (operation, with_true, with_false) in [("and", 1u64, 0u64), ("or", 1, 1), ("xor", 0, 1)] {
        for (flush, kind) in [("", "s32"), (".ftz", "f32")] {
            for (predicate, expected) in [("p", with_true), ("!p", with_false)] {
                let text = format!("set.lt.{operation}{flush}.u32.{kind} d, a, b, {predicate}");
                let sources = if kind == "s32" { [(32, 1), (32, 2)] } else { [(32, f(1.0)), (32, f(2.0))] };
                assert_eq!(evaluate(&text, 32, &sources), expected * 0xffff_ffff, "{text}");
                let text = format!(
                    "{{ .reg .pred q; setp.lt.{operation}{flush}.{kind} q, a, b, {predicate}; selp.b32 d, 1, 0, q; }}"
                );
                assert_eq!(evaluate(&text, 32, &sources), expected, "{text}");
            }
        }
    }
    for (kind, one, two) in [("f16x2", 0x3c00u64, 0x4000u64), ("bf16x2", 0x3f80, 0x4000)] {
        for (name, test) in ordered.into_iter().chain(unordered) {
            let text = format!(
                "{{ .reg .pred q, r; setp.{name}.{kind} q|r, a, b; selp.b32 d, 1, 0, q; @r add.u32 d, d, 2; }}"
            );
            let found = evaluate(&text, 32, &[(32, one | two << 16), (32, two | one << 16)]);
            assert_eq!(found, u64::from(test(1.0, 2.0)) + 2 * u64::from(test(2.0, 1.0)), "{text}");
        }
        for operation in ["and", "or", "xor"] {
            let text = format!("{{ .reg .pred q, r; setp.lt.{operation}.{kind} q|r, a, b, p; selp.b32 d, 1, 0, q; }}");
            let found = evaluate(&text, 32, &[(32, one | two << 16), (32, two | one << 16)]);
            assert_eq!(found, u64::from(operation != "xor"), "{text}");
        }
    }
    let text = "{ .reg .pred q, r; setp.lt.ftz.f16x2 q|r, a, b; selp.b32 d, 1, 0, q; }";
    assert_eq!(evaluate(text, 32, &[(32, 1), (32, 2)]), 0);
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

#[test]
fn selections() {
    for kind in ["b16", "b32", "b64", "u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64"] {
        let width = kind[1..].parse().unwrap();
        let sources = [(width, 5), (width, 6)];
        assert_eq!(evaluate(&format!("selp.{kind} d, a, b, p"), width, &sources), 5, "{kind}");
        assert_eq!(evaluate(&format!("selp.{kind} d, a, b, !p"), width, &sources), 6, "{kind}");
        for (condition, below, above) in [("s32", cut(-1, 32), 0), ("f32", f(-1.0), f(0.0))] {
            for flush in if condition == "f32" { &["", ".ftz"][..] } else { &[""] } {
                let run = |value| {
                    let text = format!("slct{flush}.{kind}.{condition} d, a, b, c");
                    evaluate(&text, width, &[sources[0], sources[1], (32, value)])
                };
                assert_eq!((run(above), run(below)), (5, 6), "slct{flush}.{kind}.{condition}");
            }
        }
    }
}

#[test]
fn moves() {
    for kind in ["b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64"] {
        let width: u32 = kind[1..].parse().unwrap();
        assert_eq!(evaluate(&format!("mov.{kind} d, a"), width, &[(width, 0x1234)]), 0x1234, "{kind}");
    }
    let text = "{ .reg .b128 t, u; mov.b128 t, {a, b}; mov.b128 u, t; mov.b128 {a, d}, u; }";
    assert_eq!(evaluate(text, 64, &[(64, 5), (64, 6)]), 6);
}

#[test]
fn conversions_of_every_type() {
    let types = ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64", "f16", "bf16", "f32", "f64"];
    let code = |kind: &str, value: f64| match kind {
        "f16" => u64::from(half::f16::from_f64(value).to_bits()),
        "bf16" => u64::from(half::bf16::from_f64(value).to_bits()),
        "f32" => f(value as f32),
        "f64" => d(value),
        _ => cut(value as i128, kind[1..].parse().unwrap()),
    };
    let width = |kind: &str| kind.trim_start_matches(|letter: char| letter.is_alphabetic()).parse::<u32>().unwrap();
    let float = |kind: &str| kind.contains('f');
    for (to, from) in types.into_iter().flat_map(|to| types.map(|from| (to, from))) {
        // bf16 is not converted to itself, nor from or to bytes.
        if to == "bf16" && (from == to || width(from) == 8) || from == "bf16" && width(to) == 8 {
            continue;
        }
        // Registers hold at least 16 bits.
        let (to_width, from_width) = (width(to).max(16), width(from).max(16));
        let rounding = match (float(to), float(from)) {
            (false, true) => ".rzi",
            (true, false) => ".rn",
            (true, true) if width(from) > width(to) || (to != from && width(to) == 16 && width(from) == 16) => ".rn",
            _ => "",
        };
        let text = format!("cvt{rounding}.{to}.{from} d, a");
        assert_eq!(evaluate(&text, to_width, &[(from_width, code(from, 77.0))]), code(to, 77.0), "{text}");
    }
    for (rounding, down, up) in [("rni", 2.0, 3.0), ("rzi", 2.0, 2.0), ("rmi", 2.0, 2.0), ("rpi", 3.0, 3.0)] {
        for (value, expected) in [(2.25f32, down), (2.75, up)] {
            for flush in ["", ".ftz"] {
                let found = evaluate(&format!("cvt.{rounding}{flush}.s32.f32 d, a"), 32, &[(32, f(value))]);
                assert_eq!(found as i32, expected as i32, "{rounding} {value}");
                let found = evaluate(&format!("cvt.{rounding}{flush}.f32.f32 d, a"), 32, &[(32, f(value))]);
                assert_eq!(found, f(expected), "{rounding} {value}");
            }
        }
    }
    let third = 1f64 / 3.0;
    for (rounding, expected) in [
        ("rn", third as f32),
        ("rz", (third as f32).next_down()),
        ("rm", (third as f32).next_down()),
        ("rp", third as f32),
    ] {
        assert_eq!(evaluate(&format!("cvt.{rounding}.f32.f64 d, a"), 32, &[(64, d(third))]), f(expected), "{rounding}");
        assert_eq!(evaluate(&format!("cvt.{rounding}.sat.f32.f64 d, a"), 32, &[(64, d(3.0))]), f(1.0));
    }
    assert_eq!(evaluate("cvt.sat.u8.s32 d, a", 16, &[(32, cut(-7, 32))]), 0);
    for (kind, high, low) in [("f16x2", 0x3c00u64, 0xc000u64), ("bf16x2", 0x3f80, 0xc000)] {
        for rounding in ["rn", "rz"] {
            for modifiers in ["", ".relu", ".satfinite", ".relu.satfinite"] {
                let text = format!("cvt.{rounding}{modifiers}.{kind}.f32 d, a, b");
                let low = if modifiers.contains("relu") { 0 } else { low };
                assert_eq!(evaluate(&text, 32, &[(32, f(1.0)), (32, f(-2.0))]), high << 16 | low, "{text}");
            }
        }
    }
    for (text, expected) in [
        ("cvt.rn.tf32.f32", 1.0f32),
        ("cvt.rz.tf32.f32", 1.0),
        ("cvt.rna.tf32.f32", 1.0),
        ("cvt.rn.relu.tf32.f32", 1.0),
        ("cvt.rz.relu.tf32.f32", 1.0),
        ("cvt.rn.satfinite.tf32.f32", 1.0),
        ("cvt.rna.satfinite.tf32.f32", 1.0),
        ("cvt.rn.satfinite.relu.tf32.f32", 1.0),
    ] {
        assert_eq!(evaluate(&format!("{text} d, a"), 32, &[(32, f(1.0f32.next_up()))]), f(expected), "{text}");
    }
    // 2 and -1 in each of the narrow formats, and back.
    for (kind, two, negative, width) in [
        ("e4m3x2", 0x40u64, 0xb8u64, 8),
        ("e5m2x2", 0x40, 0xbc, 8),
        ("e2m3x2", 0x10, 0x28, 8),
        ("e3m2x2", 0x10, 0x2c, 8),
        ("e2m1x2", 4, 10, 4),
    ] {
        for relu in ["", ".relu"] {
            let low = if relu.is_empty() { negative } else { 0 };
            let packed = two << width | low;
            let narrow = format!("cvt.rn.satfinite{relu}.{kind}.f32");
            let back = format!("cvt.rn{relu}.f16x2.{kind}");
            let (found, source) = if width == 4 {
                let found = evaluate(
                    &format!("{{ .reg .b8 t; {narrow} t, a, b; cvt.u32.u8 d, t; }}"),
                    32,
                    &[(32, f(2.0)), (32, f(-1.0))],
                );
                (found, format!("{{ .reg .b8 t; {narrow} t, a, b; {back} d, t; }}"))
            } else {
                let found = evaluate(&format!("{narrow} d, a, b"), 16, &[(32, f(2.0)), (32, f(-1.0))]);
                (found, format!("{{ .reg .b16 t; {narrow} t, a, b; {back} d, t; }}"))
            };
            assert_eq!(found, packed, "{narrow}");
            let halves = 0x4000_0000 | if relu.is_empty() { 0xbc00 } else { 0 };
            assert_eq!(evaluate(&source, 32, &[(32, f(2.0)), (32, f(-1.0))]), halves, "{back}");
            for (from, source) in [("f16x2", 0x4000_bc00u64), ("bf16x2", 0x4000_bf80)] {
                let text = format!("cvt.rn.satfinite{relu}.{kind}.{from}");
                let found = match width {
                    4 => evaluate(&format!("{{ .reg .b8 t; {text} t, a; cvt.u32.u8 d, t; }}"), 32, &[(32, source)]),
                    _ => evaluate(&format!("{text} d, a"), 16, &[(32, source)]),
                };
                assert_eq!(found, packed, "{text}");
            }
        }
    }
    assert_eq!(evaluate("cvt.rn.bf16x2.ue8m0x2 d, a", 32, &[(16, 0x8081)]), 0x4000_4080);
    for (text, expected) in
        [("cvt.rz.ue8m0x2.f32", 0x807fu64), ("cvt.rp.ue8m0x2.f32", 0x817f), ("cvt.rz.satfinite.ue8m0x2.f32", 0x807f)]
    {
        assert_eq!(evaluate(&format!("{text} d, a, b"), 16, &[(32, f(3.0)), (32, f(1.0))]), expected, "{text}");
    }
}
