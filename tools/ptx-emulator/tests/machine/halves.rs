//! Comparisons in half precision that write numbers, comparisons that write f16 and bf16, and extrema of three.

use super::evaluate;
use super::scalars::{INTEGER, ORDERED, Test, UNORDERED};

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[
    comparisons_write_every_half_type,
    comparisons_write_into_both_halves,
    comparisons_join_a_predicate_and_flush,
    extrema_of_three,
];

/// A number in a type, and the type's width.
fn code(kind: &str, value: f64) -> (u32, u64) {
    match kind {
        "f16" | "f16x2" => (16, half::f16::from_f64(value).to_bits().into()),
        "bf16" | "bf16x2" => (16, half::bf16::from_f64(value).to_bits().into()),
        "f32" => (32, (value as f32).to_bits().into()),
        "f64" => (64, value.to_bits()),
        _ => (kind[1..].parse().unwrap(), value as u64),
    }
}

/// What is written where a comparison holds.
fn truth(kind: &str) -> (u32, u64) {
    match kind {
        "u16" | "s16" => (16, 0xffff),
        "u32" | "s32" => (32, 0xffff_ffff),
        kind => code(kind, 1.0),
    }
}

#[test]
fn comparisons_write_every_half_type() {
    let integers = ["u16", "s16", "u32", "s32"];
    let mut pairs: Vec<(&str, &str)> = integers.into_iter().flat_map(|to| [(to, "f16"), (to, "bf16")]).collect();
    for from in ["b16", "b32", "b64", "u16", "s16", "u32", "s32", "u64", "s64", "f16", "bf16", "f32", "f64"] {
        pairs.push(("bf16", from));
        if from != "bf16" {
            pairs.push(("f16", from));
        }
    }
    for (to, from) in pairs {
        let float = from.contains('f');
        let tests: Vec<(&str, Test)> = match from.chars().next() {
            _ if float => ORDERED.into_iter().chain(UNORDERED).collect(),
            Some('b') => ORDERED[..2].to_vec(),
            Some('u') => ORDERED[..2].iter().copied().chain(INTEGER).collect(),
            _ => ORDERED.to_vec(),
        };
        let (width, yes) = truth(to);
        for (name, test) in tests {
            for (x, y) in [(1.0, 2.0), (2.0, 1.0), (3.0, 3.0), (f64::NAN, 1.0)] {
                if x.is_nan() && !float {
                    continue;
                }
                let text = format!("set.{name}.{to}.{from} d, a, b");
                let expected = if test(x, y) { yes } else { 0 };
                assert_eq!(evaluate(&text, width, &[code(from, x), code(from, y)]), expected, "{text} {x} {y}");
            }
        }
    }
}

#[test]
fn comparisons_write_into_both_halves() {
    for kind in ["f16x2", "bf16x2"] {
        let [one, two, nan] = [1.0, 2.0, f64::NAN].map(|value| code(kind, value).1);
        for to in [kind, "u32", "s32"] {
            let yes = truth(to).1 & 0xffff;
            for (name, test) in ORDERED.into_iter().chain(UNORDERED) {
                let text = format!("set.{name}.{to}.{kind} d, a, b");
                let half = |x, y| if test(x, y) { yes } else { 0 };
                let found = evaluate(&text, 32, &[(32, one | two << 16), (32, two | one << 16)]);
                assert_eq!(found, half(1.0, 2.0) | half(2.0, 1.0) << 16, "{text}");
                let found = evaluate(&text, 32, &[(32, one | nan << 16), (32, one | one << 16)]);
                assert_eq!(found, half(1.0, 1.0) | half(f64::NAN, 1.0) << 16, "{text}");
            }
        }
    }
}

#[test]
fn comparisons_join_a_predicate_and_flush() {
    for (operation, with_true, with_false) in [("and", 1u64, 0u64), ("or", 1, 1), ("xor", 0, 1)] {
        for (to, from) in [
            ("f16", "u32"),
            ("f16", "f32"),
            ("f16", "f64"),
            ("bf16", "f32"),
            ("u16", "f16"),
            ("s16", "bf16"),
            ("f16x2", "f16x2"),
            ("bf16x2", "bf16x2"),
        ] {
            for (predicate, expected) in [("p", with_true), ("!p", with_false)] {
                let text = format!("set.lt.{operation}.{to}.{from} d, a, b, {predicate}");
                let (width, yes) = truth(to);
                let [(bits, one), (_, two)] = [code(from, 1.0), code(from, 2.0)];
                let found = if from.ends_with("x2") {
                    evaluate(&text, 32, &[(32, one * 0x1_0001), (32, two * 0x1_0001)])
                } else {
                    evaluate(&text, width, &[(bits, one), (bits, two)])
                };
                let yes = if from.ends_with("x2") { yes * 0x1_0001 } else { yes };
                assert_eq!(found, expected * yes, "{text}");
            }
        }
    }
    // Subnormal numbers are different from each other, unless they are flushed.
    for (to, from, width, yes) in [
        ("f16", "f16", 16, 0x3c00),
        ("f16", "f32", 16, 0x3c00),
        ("u16", "f16", 16, 0xffff),
        ("f16x2", "f16x2", 32, 0x3c00_3c00u64),
    ] {
        let bits = if from.ends_with("16") { 16 } else { 32 };
        for (flush, expected) in [("", if from.ends_with("x2") { 0x3c00_0000 } else { 0 }), (".ftz", yes)] {
            let text = format!("set.eq{flush}.{to}.{from} d, a, b");
            assert_eq!(evaluate(&text, width, &[(bits, 1), (bits, 2)]), expected, "{text}");
        }
    }
}

/// Of three numbers; `.abs` compares magnitudes; without `.NaN` a NaN counts as missing (ISA 9.7.3.11, 9.7.3.12).
#[test]
fn extrema_of_three() {
    let f = |value: f32| (32, u64::from(value.to_bits()));
    for (name, plain, magnitude) in [("min", -3.0f32, 1.0f32), ("max", 2.0, 3.0)] {
        for flush in ["", ".ftz"] {
            for nan in ["", ".NaN"] {
                let three = |abs: &str, z| {
                    evaluate(&format!("{name}{flush}{nan}{abs}.f32 d, a, b, c"), 32, &[f(2.0), f(-3.0), f(z)])
                };
                assert_eq!(three("", 1.0), f(plain).1);
                assert_eq!(three(".abs", -1.0), f(magnitude).1);
                let without = if name == "min" { 2.0 } else { 3.0 };
                assert_eq!(three(".abs", f32::NAN), if nan.is_empty() { f(without).1 } else { 0x7fff_ffff });
            }
        }
    }
}
