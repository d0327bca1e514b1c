//! Video instructions, with every type, part and second operation, against the steps that the ISA gives for them.

use super::Run;

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[
    single_results,
    parts_are_merged,
    products_are_negated_and_scaled,
    pairs_and_quads,
    parts_of_both_sources_are_picked,
];

const A: u32 = 0x80f0_7f12;
const B: u32 = 0x0301_8ff5;
const C: u32 = 0x1234_8765;
const TYPES: [&str; 2] = ["u32", "s32"];
const COMPARISONS: [&str; 6] = ["eq", "ne", "lt", "le", "gt", "ge"];

/// What instructions make of `A`, `B` and `C` in `%r1`, `%r2` and `%r3`, each in `%r4`.
fn results(instructions: &[String]) -> Vec<u32> {
    let mut body = format!("mov.b32 %r1, {A}; mov.b32 %r2, {B}; mov.b32 %r3, {C};\n");
    for (at, text) in instructions.iter().enumerate() {
        body.push_str(&format!("{text};\nst.global.b32 [%rd0+{}], %r4;\n", 4 * at));
    }
    let words = Run::new(&body).shape(1, 1, 1).words(instructions.len().div_ceil(2));
    words.iter().flat_map(|word| [*word as u32, (*word >> 32) as u32]).take(instructions.len()).collect()
}

fn check(cases: Vec<(String, i128)>) {
    let texts: Vec<String> = cases.iter().map(|(text, _)| text.clone()).collect();
    for ((text, expected), found) in cases.iter().zip(results(&texts)) {
        assert_eq!(found, *expected as u32, "{text}: 0x{found:x}, not 0x{:x}", *expected as u32);
    }
}

/// A part of a word as a number: `b0`, `h1`, or all of it.
fn part(word: u32, name: &str, kind: &str) -> i128 {
    let (letter, digit) = name.split_at(usize::from(!name.is_empty()));
    let width = match letter {
        "b" => 8,
        "h" => 16,
        _ => 32,
    };
    let bits = u64::from(word) >> (width * digit.parse::<u32>().unwrap_or(0));
    number(bits, width, kind)
}

fn number(bits: u64, width: u32, kind: &str) -> i128 {
    let bits = bits & ((1 << width) - 1);
    let negative = kind == "s32" && bits >> (width - 1) != 0;
    i128::from(bits) - if negative { 1 << width } else { 0 }
}

fn operation(name: &str, x: i128, y: i128) -> i128 {
    match name {
        "vadd" => x + y,
        "vsub" => x - y,
        "vavrg" => (x + y + i128::from(x + y >= 0)).div_euclid(2),
        "vabsdiff" => (x - y).abs(),
        "vmin" | "min" => x.min(y),
        "vmax" | "max" => x.max(y),
        "eq" => (x == y).into(),
        "ne" => (x != y).into(),
        "lt" => (x < y).into(),
        "le" => (x <= y).into(),
        "gt" => (x > y).into(),
        _ => (x >= y).into(),
    }
}

fn saturated(value: i128, width: u32, kind: &str) -> i128 {
    let low = if kind == "s32" { -(1 << (width - 1)) } else { 0 };
    value.clamp(low, low + (1 << width) - 1)
}

fn second(name: &str, value: i128, kind: &str) -> i128 {
    let third = number(C.into(), 32, kind);
    match name {
        "" => value,
        "add" => value + third,
        name => operation(name, value, third),
    }
}

/// A second operation's modifier, and the operand for it.
const SECONDS: [(&str, &str, &str); 4] =
    [("", "", ""), (".add", "add", ", %r3"), (".min", "min", ", %r3"), (".max", "max", ", %r3")];

#[test]
fn single_results() {
    let mut cases = vec![];
    let parts = [("", ""), ("b0", "h1"), ("b3", "b1"), ("h1", "b2"), ("h0", "h0")];
    let dotted = |name: &str| if name.is_empty() { String::new() } else { format!(".{name}") };
    for (to, from_a, from_b) in TYPES.into_iter().flat_map(|to| TYPES.map(|a| TYPES.map(|b| (to, a, b)))).flatten() {
        for (modifier, after, operand) in SECONDS {
            for sat in ["", ".sat"] {
                for (at, name) in ["vadd", "vsub", "vabsdiff", "vmin", "vmax"].into_iter().enumerate() {
                    let (pa, pb) = parts[(at + cases.len()) % parts.len()];
                    let value = operation(name, part(A, pa, from_a), part(B, pb, from_b));
                    let value = if sat.is_empty() { value } else { saturated(value, 32, to) };
                    let text = format!(
                        "{name}.{to}.{from_a}.{from_b}{sat}{modifier} %r4, %r1{}, %r2{}{operand}",
                        dotted(pa),
                        dotted(pb)
                    );
                    cases.push((text, second(after, value, to)));
                }
                if from_b == "s32" {
                    continue;
                }
                for (name, mode) in [("vshl", "clamp"), ("vshl", "wrap"), ("vshr", "clamp"), ("vshr", "wrap")] {
                    for (pa, pb) in [("", "b2"), ("h1", "b0"), ("", "b3")] {
                        let by = part(B, pb, "u32");
                        let by = if mode == "wrap" { by % 32 } else { by.min(32) };
                        let value = part(A, pa, from_a);
                        let value = if name == "vshl" { value << by } else { value >> by };
                        let value = if sat.is_empty() { value } else { saturated(value, 32, to) };
                        let text = format!(
                            "{name}.{to}.{from_a}.u32{sat}.{mode}{modifier} %r4, %r1{}, %r2{}{operand}",
                            dotted(pa),
                            dotted(pb)
                        );
                        cases.push((text, second(after, value, to)));
                    }
                }
            }
            for (at, comparison) in COMPARISONS.into_iter().enumerate() {
                let (pa, pb) = parts[at % parts.len()];
                let value = operation(comparison, part(A, pa, from_a), part(B, pb, from_b));
                let text = format!(
                    "vset.{from_a}.{from_b}.{comparison}{modifier} %r4, %r1{}, %r2{}{operand}",
                    dotted(pa),
                    dotted(pb)
                );
                cases.push((text, second(after, value, "u32")));
            }
        }
    }
    check(cases);
}

#[test]
fn parts_are_merged() {
    let mut cases = vec![];
    for (name, shift, width) in
        [("b0", 0, 8), ("b1", 8, 8), ("b2", 16, 8), ("b3", 24, 8), ("h0", 0, 16), ("h1", 16, 16)]
    {
        for to in TYPES {
            let mask = ((1u32 << width) - 1) << shift;
            let merged = |value: i128| i128::from(C & !mask | (value as u32) << shift & mask);
            let sum = part(A, "", to) + part(B, "h0", to);
            cases.push((format!("vadd.{to}.{to}.{to} %r4.{name}, %r1, %r2.h0, %r3"), merged(sum)));
            cases.push((
                format!("vadd.{to}.{to}.{to}.sat %r4.{name}, %r1, %r2.h0, %r3"),
                merged(saturated(sum, width, to)),
            ));
        }
    }
    check(cases);
}

#[test]
fn products_are_negated_and_scaled() {
    let mut cases = vec![];
    for (from_a, from_b) in TYPES.into_iter().flat_map(|a| TYPES.map(|b| (a, b))) {
        for (shift, scale) in [(0, ""), (7, ".shr7"), (15, ".shr15")] {
            for sat in ["", ".sat"] {
                for (plus, minus_a, minus_b, minus_c) in [
                    ("", "", "", ""),
                    (".po", "", "", ""),
                    ("", "-", "", ""),
                    ("", "", "-", ""),
                    ("", "-", "-", ""),
                    ("", "", "", "-"),
                ] {
                    let signed = from_a == "s32" || from_b == "s32" || (minus_a != minus_b) || minus_c == "-";
                    let kind = if signed { "s32" } else { "u32" };
                    let product = part(A, "h1", from_a) * part(B, "", from_b);
                    let product = if minus_a == minus_b { product } else { -product };
                    let added = number(C.into(), 32, kind);
                    let added = if minus_c.is_empty() { added } else { -added };
                    let value = (product + added + i128::from(plus == ".po")) >> shift;
                    let value = if sat.is_empty() { value } else { saturated(value, 32, kind) };
                    let text = format!(
                        "vmad.{kind}.{from_a}.{from_b}{plus}{sat}{scale} %r4, {minus_a}%r1.h1, {minus_b}%r2, {minus_c}%r3"
                    );
                    cases.push((text, value));
                }
            }
        }
    }
    check(cases);
}

/// Each part of the result, from a part of each source.
fn simd(name: &str, width: u32, to: &str, from: [&str; 2], after: &str, mask: u32, picked: [&[u32]; 2]) -> i128 {
    let both = u64::from(B) << 32 | u64::from(A);
    let mut result = C;
    for place in (0..32 / width).filter(|place| mask >> place & 1 != 0) {
        let [x, y] = [0, 1].map(|source| number(both >> (picked[source][place as usize] * width), width, from[source]));
        let value = operation(name, x, y);
        if after == ".add" {
            result = result.wrapping_add(value as u32);
            continue;
        }
        let value = if after == ".sat" { saturated(value, width, to) } else { value } as u32;
        let all = (1u32 << width) - 1;
        result = result & !(all << (place * width)) | (value & all) << (place * width);
    }
    result.into()
}

#[test]
fn pairs_and_quads() {
    let mut cases = vec![];
    for (parts, width, first, second) in [(2, 16, &[0, 1][..], &[2, 3][..]), (4, 8, &[0, 1, 2, 3], &[4, 5, 6, 7])] {
        for (from_a, from_b) in TYPES.into_iter().flat_map(|a| TYPES.map(|b| (a, b))) {
            let mask = (1 << parts) - 1;
            for to in TYPES {
                for name in ["vadd", "vsub", "vavrg", "vabsdiff", "vmin", "vmax"] {
                    for after in ["", ".sat", ".add"] {
                        let text = format!("{name}{parts}.{to}.{from_a}.{from_b}{after} %r4, %r1, %r2, %r3");
                        cases.push((text, simd(name, width, to, [from_a, from_b], after, mask, [first, second])));
                    }
                }
            }
            for name in COMPARISONS {
                for after in ["", ".add"] {
                    let text = format!("vset{parts}.{from_a}.{from_b}.{name}{after} %r4, %r1, %r2, %r3");
                    cases.push((text, simd(name, width, "u32", [from_a, from_b], after, mask, [first, second])));
                }
            }
        }
    }
    check(cases);
}

#[test]
fn parts_of_both_sources_are_picked() {
    let types = ["s32", "u32"];
    check(vec![
        (
            "vsub2.s32.s32.u32 %r4.h1, %r1.h30, %r2.h12, %r3".into(),
            simd("vsub", 16, "s32", types, "", 0b10, [&[0, 3], &[2, 1]]),
        ),
        (
            "vadd4.s32.s32.u32.sat %r4.b310, %r1.b0725, %r2.b1111, %r3".into(),
            simd("vadd", 8, "s32", types, ".sat", 0b1011, [&[5, 2, 7, 0], &[1; 4]]),
        ),
        (
            "vmax4.s32.s32.u32.add %r4.b2, %r1.b3210, %r2.b7654, %r3".into(),
            simd("vmax", 8, "s32", types, ".add", 0b100, [&[0, 1, 2, 3], &[4, 5, 6, 7]]),
        ),
    ]);
}
