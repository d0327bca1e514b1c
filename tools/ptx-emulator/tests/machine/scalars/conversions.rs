//! Conversions between every two types.

use super::super::evaluate;
use super::{cut, d, f};

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[conversions_of_every_type];

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
    // A scalar: 1 and a bit below the last digit, what is negative, and what is too large.
    for (kind, one, next, minus_two, largest, infinity) in [
        ("f16", 0x3c00u64, 0x3c01u64, 0xc000u64, 0x7bffu64, 0x7c00u64),
        ("bf16", 0x3f80, 0x3f81, 0xc000, 0x7f7f, 0x7f80),
    ] {
        // Three quarters of the way from 1 to the next number.
        let between = f(if kind == "f16" { 1.0 + 0.75 / 1024.0 } else { 1.0 + 0.75 / 128.0 });
        for rounding in ["rn", "rz"] {
            for modifiers in ["", ".relu", ".satfinite", ".relu.satfinite", ".satfinite.relu"] {
                let run =
                    |value: u64| evaluate(&format!("cvt.{rounding}{modifiers}.{kind}.f32 d, a"), 16, &[(32, value)]);
                let (relu, finite) = (modifiers.contains("relu"), modifiers.contains("satfinite"));
                assert_eq!(run(between), if rounding == "rn" { next } else { one }, "{rounding}{modifiers}.{kind}");
                assert_eq!(run(f(-2.0)), if relu { 0 } else { minus_two }, "{rounding}{modifiers}.{kind}");
                assert_eq!(
                    run(f(f32::INFINITY)),
                    if finite { largest } else { infinity },
                    "{rounding}{modifiers}.{kind}"
                );
                assert_eq!(run(f(f32::NAN)), 0x7fff, "{rounding}{modifiers}.{kind}");
            }
        }
    }
    // Between two numbers of tf32, at half of the way and beyond.
    let step = 2f32.powi(-10);
    for (rounding, half, beyond) in [("rn", 1.0, 1.0 + step), ("rz", 1.0, 1.0), ("rna", 1.0 + step, 1.0 + step)] {
        for modifiers in ["", ".relu", ".satfinite", ".satfinite.relu", ".relu.satfinite"] {
            if rounding == "rna" && modifiers.contains("relu") {
                continue;
            }
            let run = |value: f32| evaluate(&format!("cvt.{rounding}{modifiers}.tf32.f32 d, a"), 32, &[(32, f(value))]);
            assert_eq!(run(1.0 + step / 2.0), f(half), "{rounding}{modifiers}");
            assert_eq!(run(1.0 + 0.75 * step), f(beyond), "{rounding}{modifiers}");
            assert_eq!(run(-2.0), if modifiers.contains("relu") { 0 } else { f(-2.0) }, "{rounding}{modifiers}");
            let largest = f32::from_bits(0x7f7f_e000);
            let infinite = if modifiers.contains("satfinite") { largest } else { f32::INFINITY };
            assert_eq!(run(f32::INFINITY), f(infinite), "{rounding}{modifiers}");
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
