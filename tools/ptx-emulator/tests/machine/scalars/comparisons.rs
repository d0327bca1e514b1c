//! Comparisons, selections and moves of every type.

use super::super::evaluate;
use super::{INTEGER, ORDERED, Test, UNORDERED, cut, d, f};

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[comparisons_of_every_type, selections, moves];

#[test]
fn comparisons_of_every_type() {
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
            Some('b') if !float => ORDERED[..2].to_vec(),
            Some('u') => ORDERED.into_iter().chain(INTEGER).collect(),
            Some('s') => ORDERED.to_vec(),
            _ => ORDERED.into_iter().chain(UNORDERED).collect(),
        };
        let mut values = vec![(1.0, 2.0), (2.0, 1.0), (3.0, 3.0)];
        if float {
            values.push((f64::NAN, 1.0));
        }
        for ((name, test), (x, y)) in tests.iter().flat_map(|test| values.iter().map(move |values| (test, *values))) {
            let sources = [(width, code(x)), (width, code(y))];
            let holds = u64::from(test(x, y));
            // The comparison, and with a second destination what it is not; halves have only one.
            let half = width == 16 && float;
            let (both, not) = if half { ("q", "") } else { ("q|r", "@r add.u32 d, d, 2;") };
            let text = format!("{{ .reg .pred q, r; setp.{name}.{kind} {both}, a, b; selp.b32 d, 1, 0, q; {not} }}");
            let expected = holds + if half { 0 } else { 2 * (1 - holds) };
            assert_eq!(evaluate(&text, 32, &sources), expected, "setp.{name}.{kind} {x} {y}");
            for (to, yes) in [("u32", 0xffff_ffffu64), ("s32", 0xffff_ffff), ("f32", f(1.0))] {
                if half && to == "f32" {
                    continue;
                }
                let found = evaluate(&format!("set.{name}.{to}.{kind} d, a, b"), 32, &sources);
                assert_eq!(found, holds * yes, "set.{name}.{to}.{kind} {x} {y}");
            }
        }
    }
    // Joined with a predicate, which is true or its negation: 1 < 2, but not if what is subnormal counts as zero.
    let cases: [(&str, &str, u32, [u64; 2], bool); 12] = [
        ("", "s32", 32, [1, 2], true),
        ("", "u16", 16, [1, 2], true),
        ("", "s64", 64, [2, 1], false),
        ("", "f32", 32, [f(1.0), f(2.0)], true),
        (".ftz", "f32", 32, [f(1.0), f(2.0)], true),
        ("", "f32", 32, [f(1e-40), f(2e-40)], true),
        (".ftz", "f32", 32, [f(1e-40), f(2e-40)], false),
        ("", "f64", 64, [d(1e-310), d(2e-310)], true),
        ("", "f16", 16, [1, 2], true),
        (".ftz", "f16", 16, [1, 2], false),
        (".ftz", "f16", 16, [0x3c00, 0x4000], true),
        ("", "bf16", 16, [1, 2], true),
    ];
    type Join = fn(bool, bool) -> bool;
    let joins: [(&str, Join); 3] = [(".and", |x, y| x && y), (".or", |x, y| x || y), (".xor", |x, y| x != y)];
    for (flush, kind, width, [a, b], holds) in cases {
        let sources = [(width, a), (width, b)];
        let yes = |holds: bool| if holds { 0xffff_ffff } else { 0 };
        assert_eq!(evaluate(&format!("set.lt{flush}.u32.{kind} d, a, b"), 32, &sources), yes(holds), "{flush}.{kind}");
        for ((name, join), with) in joins.iter().flat_map(|join| [true, false].map(|with| (join, with))) {
            let predicate = if with { "p" } else { "!p" };
            let text = format!("set.lt{name}{flush}.u32.{kind} d, a, b, {predicate}");
            assert_eq!(evaluate(&text, 32, &sources), yes(join(holds, with)), "{text}");
            let half = kind.ends_with("f16");
            let (both, not) = if half { ("q", "") } else { ("q|r", "@r add.u32 d, d, 2;") };
            let text = format!(
                "{{ .reg .pred q, r; setp.lt{name}{flush}.{kind} {both}, a, b, {predicate}; selp.b32 d, 1, 0, q; {not} }}"
            );
            let expected = u64::from(join(holds, with)) + if half { 0 } else { 2 * u64::from(join(!holds, with)) };
            assert_eq!(evaluate(&text, 32, &sources), expected, "{text}");
        }
    }
    for (kind, one, two) in [("f16x2", 0x3c00u64, 0x4000u64), ("bf16x2", 0x3f80, 0x4000)] {
        for (name, test) in ORDERED.into_iter().chain(UNORDERED) {
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
