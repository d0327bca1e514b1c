//! Floating-point arithmetic with every type, rounding and modifier: known answers, and neighbours of what Rust rounds to nearest.

use super::super::evaluate;
use super::{d, f};

/// What `coverage` runs again.
pub const TESTS: &[fn()] =
    &[roundings_of_floats, unary_floats, minima_and_maxima, half_precision, directed_bf16, mixed_precision];

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

/// `fma` of bf16 rounds in every direction: 1 + 2^-20 is between 1 and the number after it, the largest number's sum too large.
#[test]
fn directed_bf16() {
    let h = |value: f32| u64::from(half::bf16::from_f32(value).to_bits());
    let (one, tiny, largest) = (h(1.0), h(2f32.powi(-20)), 0x7f7f);
    for (rounding, above, below, too_large, too_small, zero) in [
        ("rn", one, one, 0x7f80, 0xff80, 0),
        ("rz", one, one - 1, 0x7f7f, 0xff7f, 0),
        ("rm", one, one - 1, 0x7f7f, 0xff80, 0x8000),
        ("rp", one + 1, one, 0x7f80, 0xff7f, 0),
    ] {
        for oob in ["", ".oob"] {
            let three = |relu: &str, a: u64, b: u64, c: u64| {
                let scalar =
                    evaluate(&format!("fma.{rounding}{oob}{relu}.bf16 d, a, b, c"), 16, &[(16, a), (16, b), (16, c)]);
                let two = |value: u64| (32, value | value << 16);
                let name = format!("fma.{rounding}{oob}{relu}.bf16x2 d, a, b, c");
                assert_eq!(evaluate(&name, 32, &[two(a), two(b), two(c)]), scalar | scalar << 16, "{name}");
                scalar
            };
            assert_eq!(three("", one, tiny, one), above, "{rounding}");
            assert_eq!(three("", one, tiny | 0x8000, one), below, "{rounding}");
            assert_eq!(three("", largest, h(2.0), one), too_large, "{rounding}");
            assert_eq!(three("", largest, h(-2.0), one), too_small, "{rounding}");
            assert_eq!(three("", one, one, one | 0x8000), zero, "{rounding}");
            assert_eq!(three(".relu", one, tiny, one), above, "{rounding}");
            assert_eq!(three(".relu", one, tiny, one | 0x8000), 0, "{rounding}");
        }
    }
}
