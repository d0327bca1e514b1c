//! Conversions to and from narrow formats: by stochastic rounding, with scale factors, in fixed point, and of less than a byte.

use super::evaluate;

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[
    random_bits_carry_into_the_kept_ones,
    stochastic_rounding_saturates_and_rectifies,
    fixed_point_with_and_without_scale_factors,
    narrow_numbers_widen_to_bf16,
    scale_factors_of_f32_and_bf16,
    relu_stands_on_both_sides_of_satfinite,
    integers_of_less_than_a_byte_are_packed,
    nan_becomes_an_integer,
];

fn f(value: f32) -> u64 {
    u64::from(value.to_bits())
}

/// The formats that stochastic rounding makes: exponent bias, bits of mantissa, of exponent and mantissa, and random bits of a number.
const FORMATS: [(&str, u32, u32, u32, u32); 7] = [
    ("f16x2", 15, 10, 15, 13),
    ("bf16x2", 127, 7, 15, 16),
    ("e4m3x4", 7, 3, 7, 16),
    ("e5m2x4", 15, 2, 7, 16),
    ("e2m3x4", 1, 3, 5, 16),
    ("e3m2x4", 3, 2, 5, 16),
    ("e2m1x4", 1, 1, 3, 8),
];

/// Four numbers by an instruction, of which two are for packed halves.
fn four(text: &str, width: u32, numbers: [f32; 4], random: u32) -> u64 {
    let [x, y, z, w] = numbers.map(|value| format!("0f{:08X}", value.to_bits()));
    evaluate(
        &format!(
            "{{ .reg .f32 x, y, z, w; mov.f32 x, {x}; mov.f32 y, {y}; mov.f32 z, {z}; mov.f32 w, {w}; {text} d, {}, a; }}",
            if text.contains("x4") { "{x, y, z, w}" } else { "x, y" }
        ),
        width,
        &[(32, random.into())],
    )
}

/// The sum of the bits that are cut off and of the random bits carries into the ones that are kept: in integers, on the f32's own bits.
#[test]
fn random_bits_carry_into_the_kept_ones() {
    for (kind, bias, mantissa, sign_at, bits) in FORMATS {
        for numbers in [[1.0f32, 1.3, 1.7, 1.99], [-1.1, 1.45, -1.5, 1.0001]] {
            for random in [0u32, 0xffff_ffff, 0x1234_abcd, 0x8000_7fff] {
                // Where each number's random bits start, as the ISA lays them out.
                let starts = match bits {
                    13 => vec![16, 0],
                    8 => vec![24, 8, 16, 0],
                    _ if kind == "bf16x2" => vec![16, 0],
                    _ => vec![16, 16, 0, 0],
                };
                let width = if sign_at == 3 { 4 } else { (sign_at + 1).next_multiple_of(8) };
                let expected = starts.iter().zip(numbers).fold(0u64, |packed, (start, number)| {
                    let random = random >> start & ((1 << bits) - 1);
                    let cut = 23 - mantissa;
                    let sum = (number.abs().to_bits() + (random << (cut - bits))) >> cut;
                    let code = (sum - ((127 - bias) << mantissa)) | u32::from(number < 0.0) << sign_at;
                    packed << width | u64::from(code)
                });
                let finite = if starts.len() == 4 { ".satfinite" } else { "" };
                let register = width * starts.len() as u32;
                let found = four(&format!("cvt.rs{finite}.{kind}.f32"), register, numbers, random);
                assert_eq!(found, expected, "{kind} of {numbers:?} with 0x{random:x}");
            }
        }
    }
}

#[test]
fn stochastic_rounding_saturates_and_rectifies() {
    for (kind, _, mantissa, sign_at, _) in FORMATS {
        let packed = kind.ends_with("x4");
        let width = if sign_at == 3 { 4 } else { (sign_at + 1).next_multiple_of(8) };
        let top = (1u64 << sign_at) - 1;
        let largest = match kind {
            "f16x2" | "bf16x2" | "e5m2x4" => top - (1 << mantissa),
            "e4m3x4" => top - 1,
            _ => top,
        };
        for relu in ["", ".relu"] {
            let mut spellings = vec![format!(".satfinite{relu}")];
            if !relu.is_empty() {
                spellings.push(".relu.satfinite".into());
            }
            for modifiers in spellings {
                let text = format!("cvt.rs{modifiers}.{kind}.f32");
                let found = four(&text, width * if packed { 4 } else { 2 }, [1e38, -1e38, f32::INFINITY, 0.0], 0);
                let negative = if relu.is_empty() { largest | 1 << sign_at } else { 0 };
                // A bf16 holds 1e38, cut off.
                let (first, second) = match (kind, relu) {
                    ("bf16x2", "") => (0x7e96, 0xfe96),
                    ("bf16x2", _) => (0x7e96, 0),
                    _ => (largest, negative),
                };
                let pair = first << width | second;
                let expected = if packed { pair << (2 * width) | largest << width } else { pair };
                assert_eq!(found, expected, "{text}");
            }
        }
    }
    for kind in ["f16x2", "bf16x2"] {
        let found = four(&format!("cvt.rs.relu.{kind}.f32"), 32, [1.0, -1.0, 0.0, 0.0], 0);
        assert_eq!(found, if kind == "f16x2" { 0x3c00_0000 } else { 0x3f80_0000 });
    }
}

/// Six bits of fraction, two of whole numbers with the sign: to nearest, ties to even, without infinities and NaN (ISA 5.2.4).
#[test]
fn fixed_point_with_and_without_scale_factors() {
    let narrow = |modifiers: &str, high: f32, low: f32| {
        evaluate(&format!("cvt.rn{modifiers}.s2f6x2.f32 d, a, b"), 16, &[(32, f(high)), (32, f(low))])
    };
    for (value, code) in [
        (0.0, 0u64),
        (1.0, 0x40),
        (-2.0, 0x80),
        (-1.0, 0xc0),
        (127.0 / 64.0, 0x7f),
        (5.0, 0x7f),
        (-5.0, 0x80),
        (f32::NAN, 0x7f),
        (f32::NEG_INFINITY, 0x80),
        (1.0 / 128.0, 0),
        (3.0 / 128.0, 2),
    ] {
        assert_eq!(narrow(".satfinite", value, 0.25), code << 8 | 0x10, "{value}");
        let rectified = if value < 0.0 { 0 } else { code };
        assert_eq!(narrow(".satfinite.relu", value, -0.25), rectified << 8, "{value}");
        assert_eq!(narrow(".relu.satfinite", -0.25, value), rectified, "{value}");
    }
    // Divided by 2 and by a half on the way down, multiplied on the way up.
    for relu in ["", ".relu"] {
        let text = format!("cvt.rn.satfinite{relu}.scaled::n2::ue8m0.s2f6x2");
        let low = if relu.is_empty() { 0xe0 } else { 0 };
        let found = evaluate(&format!("{text}.f32 d, a, b, c"), 16, &[(32, f(3.0)), (32, f(-0.25)), (16, 0x807e)]);
        assert_eq!(found, 0x60 << 8 | low, "{text}");
        let found = evaluate(&format!("{text}.bf16x2 d, a, b"), 16, &[(32, 0x4040_be80), (16, 0x807e)]);
        assert_eq!(found, 0x60 << 8 | low, "{text} of bf16");
        let found = evaluate(&format!("cvt.rn.satfinite{relu}.s2f6x2.bf16x2 d, a"), 16, &[(32, 0x3f80_be80)]);
        assert_eq!(found, 0x40 << 8 | if relu.is_empty() { 0xf0 } else { 0 });
    }
}

#[test]
fn narrow_numbers_widen_to_bf16() {
    // 1.5 above, -1 below.
    for (kind, bits) in [
        ("e4m3x2", 0x3cb8u64),
        ("e5m2x2", 0x3ebc),
        ("e2m3x2", 0x0c28),
        ("e3m2x2", 0x0e2c),
        ("e2m1x2", 0x3a),
        ("s2f6x2", 0x60c0),
    ] {
        for modifiers in ["", ".satfinite", ".relu", ".satfinite.relu", ".relu.satfinite"] {
            for scaled in ["", ".scaled::n2::ue8m0"] {
                let text = format!("cvt.rn{modifiers}{scaled}.bf16x2.{kind}");
                let factors = if scaled.is_empty() { "" } else { ", b" };
                let text = match kind {
                    "e2m1x2" => format!("{{ .reg .b8 t; cvt.u8.u16 t, a; {text} d, t{factors}; }}"),
                    _ => format!("{text} d, a{factors}"),
                };
                // Four times above, and half below.
                let (high, low) = if scaled.is_empty() { (0x3fc0, 0xbf80) } else { (0x40c0, 0xbf00) };
                let low = if modifiers.contains("relu") { 0 } else { low };
                assert_eq!(evaluate(&text, 32, &[(16, bits), (16, 0x817e)]), high << 16 | low, "{text}");
            }
        }
    }
    // What is too large for a bf16 is infinite, or the largest number.
    let scaled = |modifiers: &str| {
        let text = format!("cvt.rn{modifiers}.scaled::n2::ue8m0.bf16x2.e5m2x2 d, a, b");
        evaluate(&text, 32, &[(16, 0x7b01), (16, 0xfe7f)])
    };
    assert_eq!(scaled("") >> 16, 0x7f80);
    assert_eq!(scaled(".satfinite") >> 16, 0x7f7f);
}

#[test]
fn scale_factors_of_f32_and_bf16() {
    for (rounding, finite, three, large) in [
        ("rz", "", 0x80u64, 0xfeu64),
        ("rz", ".satfinite", 0x80, 0xfe),
        ("rp", "", 0x81, 0xff),
        ("rp", ".satfinite", 0x81, 0xfe),
    ] {
        let text = format!("cvt.{rounding}{finite}.ue8m0x2");
        let found = evaluate(&format!("{text}.f32 d, a, b"), 16, &[(32, f(3.0)), (32, f(f32::MAX))]);
        assert_eq!(found, three << 8 | large, "{text}.f32");
        assert_eq!(evaluate(&format!("{text}.bf16x2 d, a"), 16, &[(32, 0x4040_7f7f)]), three << 8 | large, "{text}");
        let infinite = if finite.is_empty() { 0xff } else { 0xfe };
        assert_eq!(evaluate(&format!("{text}.bf16x2 d, a"), 16, &[(32, 0x7fc0_7f80)]), 0xff << 8 | infinite, "{text}");
    }
}

#[test]
fn relu_stands_on_both_sides_of_satfinite() {
    for (kind, two) in [("e4m3x2", 0x40u64), ("e5m2x2", 0x40), ("e2m3x2", 0x10), ("e3m2x2", 0x10), ("e2m1x2", 4)] {
        for modifiers in ["relu.satfinite", "satfinite.relu"] {
            for (from, sources) in [("f32", "a, b"), ("f16x2", "c"), ("bf16x2", "c")] {
                let text = format!("cvt.rn.{modifiers}.{kind}.{from}");
                let third = if from == "f16x2" { 0x4000_bc00 } else { 0x4000_bf80 };
                let given = [(32, f(2.0)), (32, f(-1.0)), (32, third)];
                let found = match kind {
                    "e2m1x2" => {
                        evaluate(&format!("{{ .reg .b8 t; {text} t, {sources}; cvt.u32.u8 d, t; }}"), 32, &given)
                    }
                    _ => evaluate(&format!("{text} d, {sources}"), 16, &given),
                };
                assert_eq!(found, two << if kind == "e2m1x2" { 4 } else { 8 }, "{text}");
            }
        }
    }
}

#[test]
fn integers_of_less_than_a_byte_are_packed() {
    let minus = u64::from((-9i32).cast_unsigned());
    for (kind, expected) in
        [("u8", 0x0003_0064u64), ("s8", 0x0003_f764), ("u4", 0x30f), ("s4", 0x387), ("u2", 0x33), ("s2", 0x39)]
    {
        let text = format!("cvt.pack.sat.{kind}.s32.b32 d, a, b, c");
        assert_eq!(evaluate(&text, 32, &[(32, minus), (32, 100), (32, 3)]), expected, "{text}");
    }
}

/// Zero, but the sign bit alone where one of the types has 64 bits (ISA 9.7.9.21, integer notes).
#[test]
fn nan_becomes_an_integer() {
    let (single, double) = ((32, f(f32::NAN)), (64, f64::NAN.to_bits()));
    for (text, width, source, expected) in [
        ("cvt.rzi.s32.f32", 32, single, 0),
        ("cvt.rni.u32.f32", 32, single, 0),
        ("cvt.rni.s64.f32", 64, single, 1 << 63),
        ("cvt.rpi.u64.f32", 64, single, 1 << 63),
        ("cvt.rmi.s32.f64", 32, double, 0x8000_0000),
        ("cvt.rzi.u32.f64", 32, double, 0x8000_0000),
        ("cvt.rzi.s64.f64", 64, double, 1u64 << 63),
    ] {
        assert_eq!(evaluate(&format!("{text} d, a"), width, &[source]), expected, "{text}");
    }
}
