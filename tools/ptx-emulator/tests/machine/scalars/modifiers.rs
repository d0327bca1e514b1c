//! What modifiers of floating-point instructions do to values that show it: `.ftz`, `.sat`, `.relu`, `.NaN`.

use super::super::evaluate;
use super::{d, f};

/// What `coverage` runs again.
pub const TESTS: &[fn()] =
    &[subnormal_numbers_are_flushed, subnormal_halves_are_flushed, results_are_clipped, nan_is_handed_on];

const NAN: u64 = 0x7fff_ffff;

/// Without `.ftz`, subnormal operands count and results stay; with it, both are zeros of their sign.
#[test]
fn subnormal_numbers_are_flushed() {
    let (tiny, minus) = (f(3e-40), 1 << 31);
    // An instruction, what its `.ftz` stands before, its operands, and its result without and with that.
    let cases: [(&str, &[u64], u64, u64); 24] = [
        ("add.rn*.f32 d, a, b", &[tiny, tiny], 2 * tiny, 0),
        ("add.rz*.f32 d, a, b", &[minus | tiny, minus | tiny], minus | (2 * tiny), minus),
        ("sub.rn*.f32 d, a, b", &[f(f32::MIN_POSITIVE), tiny], f(f32::MIN_POSITIVE) - tiny, f(f32::MIN_POSITIVE)),
        ("mul.rn*.f32 d, a, b", &[f(2f32.powi(-70)), f(-(2f32.powi(-70)))], minus | 1 << 9, minus),
        ("fma.rn*.f32 d, a, b, c", &[f(1.0), 0, tiny], tiny, 0),
        ("fma.rp*.f32 d, a, b, c", &[f(2f32.powi(-70)), f(2f32.powi(-70)), 0], 1 << 9, 0),
        ("mad.rn*.f32 d, a, b, c", &[tiny, f(4.0), 0], 4 * tiny, 0),
        ("div.rn*.f32 d, a, b", &[tiny, f(0.5)], 2 * tiny, 0),
        ("div.rz*.f32 d, a, b", &[f(1.0), f(2f32.powi(127))], 1 << 22, 0),
        ("rcp.rn*.f32 d, a", &[f(2f32.powi(127))], 1 << 22, 0),
        ("rcp.approx*.f32 d, a", &[f(2f32.powi(127))], 1 << 22, 0),
        ("sqrt.rn*.f32 d, a", &[1 << 9], f(2f32.powi(-70)), 0),
        ("sqrt.approx*.f32 d, a", &[1 << 9], f(2f32.powi(-70)), 0),
        ("rsqrt.approx*.f32 d, a", &[1 << 9], f(2f32.powi(70)), f(f32::INFINITY)),
        ("lg2.approx*.f32 d, a", &[1 << 9], f(-140.0), f(f32::NEG_INFINITY)),
        ("ex2.approx*.f32 d, a", &[f(-140.0)], 1 << 9, 0),
        ("ex2.approx*.f32 d, a", &[minus | tiny], f(1.0), f(1.0)),
        ("min*.f32 d, a, b", &[tiny, f(1.0)], tiny, 0),
        ("max*.f32 d, a, b", &[minus | tiny, f(-1.0)], minus | tiny, minus),
        ("min*.NaN.f32 d, a, b", &[tiny, f(1.0)], tiny, 0),
        ("max*.xorsign.abs.f32 d, a, b", &[tiny, 0], tiny, 0),
        ("abs*.f32 d, a", &[minus | tiny], tiny, 0),
        ("neg*.f32 d, a", &[tiny], minus | tiny, minus),
        ("slct*.b32.f32 d, a, b, c", &[5, 6, minus | tiny], 6, 5),
    ];
    for (text, operands, kept, flushed) in cases {
        let operands: Vec<(u32, u64)> = operands.iter().map(|bits| (32, *bits)).collect();
        assert_eq!(evaluate(&text.replace('*', ""), 32, &operands), kept, "{text}");
        assert_eq!(evaluate(&text.replace('*', ".ftz"), 32, &operands), flushed, "{text} with .ftz");
    }
    // Both floats of a pair.
    let pair = |bits: u64| bits | bits << 32;
    for (text, operands, kept) in [
        ("add.rn*.f32x2 d, a, b", vec![(64, pair(tiny)), (64, pair(tiny))], 2 * tiny),
        ("mul.rn*.f32x2 d, a, b", vec![(64, pair(tiny)), (64, pair(f(2.0)))], 2 * tiny),
        ("fma.rn*.f32x2 d, a, b, c", vec![(64, 0), (64, 0), (64, pair(tiny))], tiny),
    ] {
        assert_eq!(evaluate(&text.replace('*', ""), 64, &operands), pair(kept), "{text}");
        assert_eq!(evaluate(&text.replace('*', ".ftz"), 64, &operands), 0, "{text} with .ftz");
    }
    // Conversions: of what is subnormal, and to what would be.
    for (text, to, from, kept, flushed) in [
        ("cvt.rpi*.s32.f32 d, a", 32, (32, tiny), 1, 0),
        ("cvt.rpi*.f32.f32 d, a", 32, (32, tiny), f(1.0), 0),
        ("cvt*.f64.f32 d, a", 64, (32, tiny), d(f64::from(f32::from_bits(tiny as u32))), 0),
        ("cvt.rn*.f32.f64 d, a", 32, (64, d(2f64.powi(-140))), 1 << 9, 0),
    ] {
        assert_eq!(evaluate(&text.replace('*', ""), to, &[from]), kept, "{text}");
        assert_eq!(evaluate(&text.replace('*', ".ftz"), to, &[from]), flushed, "{text} with .ftz");
    }
}

#[test]
fn subnormal_halves_are_flushed() {
    for (kind, width, each) in [("f16", 16, 1u64), ("f16x2", 32, 0x1_0001)] {
        for (text, operands, kept, flushed) in [
            ("add*.# d, a, b", vec![3, 3], 6, 0),
            ("sub*.# d, a, b", vec![0x8003, 3], 0x8006, 0x8000),
            ("mul*.# d, a, b", vec![3, 0x4000], 6, 0),
            ("fma.rn*.# d, a, b, c", vec![0x3c00, 0, 3], 3, 0),
            ("min*.# d, a, b", vec![3, 0x3c00], 3, 0),
            ("max*.NaN.# d, a, b", vec![0x8003, 0xbc00], 0x8003, 0x8000),
            ("neg*.# d, a", vec![3], 0x8003, 0x8000),
            ("abs*.# d, a", vec![0x8003], 3, 0),
        ] {
            let text = text.replace('#', kind);
            let operands: Vec<(u32, u64)> = operands.into_iter().map(|bits: u64| (width, bits * each)).collect();
            assert_eq!(evaluate(&text.replace('*', ""), width, &operands), kept * each, "{text}");
            assert_eq!(evaluate(&text.replace('*', ".ftz"), width, &operands), flushed * each, "{text} with .ftz");
        }
    }
}

/// `.sat` clips to what is from 0 to 1, and NaN to 0; `.relu` what is negative to 0, and leaves NaN.
#[test]
fn results_are_clipped() {
    let (nan, infinity) = (f(f32::NAN), f(f32::INFINITY));
    for (addend, plain, clipped) in [
        (f(0.25), f(0.75), f(0.75)),
        (f(2.0), f(2.5), f(1.0)),
        (f(-1.0), f(-0.5), 0),
        (infinity, infinity, f(1.0)),
        (nan, NAN, 0),
    ] {
        for text in ["add*.f32 d, a, b", "add.rz*.f32 d, a, b", "fma.rn*.f32 d, b, c, a", "mad.rz*.f32 d, b, c, a"] {
            let sources = [(32, f(0.5)), (32, addend), (32, f(1.0))];
            let sources = if text.contains('c') { &sources[..] } else { &sources[..2] };
            assert_eq!(evaluate(&text.replace('*', ""), 32, sources), plain, "{text}");
            assert_eq!(evaluate(&text.replace('*', ".sat"), 32, sources), clipped, "{text} with .sat");
        }
    }
    for (kind, one) in [("f16", 0x3c00u64), ("bf16", 0x3f80)] {
        for (packed, width, each) in [("", 16, 1u64), ("x2", 32, 0x1_0001)] {
            // 1 · 1 + 1 = 2, 1 · -2 + 1 = -1, and NaN.
            let (two, minus_two, minus_one) = (0x4000u64, 0xc000u64, one | 0x8000);
            for (factor, plain, saturated, clipped) in
                [(one, two, one, two), (minus_two, minus_one, 0, 0), (0x7fff, 0x7fff, 0, 0x7fff)]
            {
                let sources = [(width, one * each), (width, factor * each), (width, one * each)];
                let run = |name: &str| evaluate(&format!("fma.rn{name}.{kind}{packed} d, a, b, c"), width, &sources);
                assert_eq!(run(""), plain * each, "{kind}{packed} of {factor:#x}");
                assert_eq!(run(".relu"), clipped * each, "{kind}{packed} of {factor:#x}");
                if kind == "f16" {
                    assert_eq!(run(".sat"), saturated * each, "{kind}{packed} of {factor:#x}");
                    let add = evaluate(&format!("add.sat.{kind}{packed} d, a, b"), width, &sources[..2]);
                    assert_eq!(add, saturated * each, "add.sat.{kind}{packed} of {factor:#x}");
                }
            }
        }
    }
}

/// An extremum of a number and NaN is the number, or NaN where `.NaN` is written; of two NaNs it is NaN, and -0 is less than 0.
#[test]
fn nan_is_handed_on() {
    for name in ["min", "max"] {
        for (kind, width, one, nan, each) in [
            ("f32", 32, f(1.0), NAN, 1u64),
            ("f16", 16, 0x3c00, 0x7fff, 1),
            ("bf16", 16, 0x3f80, 0x7fff, 1),
            ("f16x2", 32, 0x3c00, 0x7fff, 0x1_0001),
            ("bf16x2", 32, 0x3f80, 0x7fff, 0x1_0001),
        ] {
            let bits = if each == 1 { width } else { 16 };
            let (zero, minus) = (0, 1u64 << (bits - 1));
            for (modifier, with_nan) in [("", one), (".NaN", nan)] {
                let run = |a: u64, b: u64| {
                    evaluate(
                        &format!("{name}{modifier}.{kind} d, a, b"),
                        width,
                        &[(width, a * each), (width, b * each)],
                    )
                };
                assert_eq!(
                    (run(nan, one), run(one, nan)),
                    (with_nan * each, with_nan * each),
                    "{name}{modifier}.{kind}"
                );
                assert_eq!(run(nan, nan), nan * each, "{name}{modifier}.{kind}");
                let least = if name == "min" { minus } else { zero };
                assert_eq!(
                    (run(zero, minus), run(minus, zero)),
                    (least * each, least * each),
                    "{name}{modifier}.{kind}"
                );
            }
        }
        let two = |a: f64, b: f64| evaluate(&format!("{name}.f64 d, a, b"), 64, &[(64, d(a)), (64, d(b))]);
        assert_eq!((two(f64::NAN, 1.0), two(1.0, f64::NAN)), (d(1.0), d(1.0)), "{name}.f64");
    }
}
