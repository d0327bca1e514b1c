//! `atom` and `red`: every operation on every type, in every space, with every order, scope and spelling, against Rust's arithmetic.

use super::Run;

/// What `coverage` runs again.
pub const TESTS: &[fn()] = &[
    integers,
    floats,
    sums_of_singles_flush_subnormal_numbers_in_global_memory,
    swaps,
    swaps_of_128_bits,
    vectors,
    atomics_from_all_threads,
];

/// What an operation makes of the value in memory and its operand.
type Operation<T> = fn(T, T) -> T;

/// The spaces that an instruction can name, and a register with the address of this thread's cell in it.
const SPACES: [(&str, &str); 5] =
    [("", "%rd1"), (".global", "%rd1"), (".shared", "%r1"), (".shared::cta", "%r1"), (".shared::cluster", "%r1")];
/// How an instruction is put together of its order, its scope and its space: as the ISA says, and as older compilers write it.
const SPELLINGS: [[usize; 3]; 3] = [[0, 1, 2], [2, 0, 1], [2, 1, 0]];
const ORDERS: [&str; 5] = [".relaxed", ".acquire", ".release", ".acq_rel", ""];
const SCOPES: [&str; 4] = [".cta", ".cluster", ".gpu", ".sys"];

/// 64-bit words of what a thread has: its cell in global memory, the two operands, and for each space what `atom` returns and leaves
/// and what `red` leaves. Each is 16 bytes.
const CELL: usize = 0;
const OPERANDS: [usize; 2] = [2, 4];
const RESULTS: usize = 6;
const WORDS: usize = RESULTS + 6 * SPACES.len();

/// A value in memory and the operands, as bits.
type Sources = [u128; 3];
/// What is in memory after `atom`, what that returns, and what is in memory after `red`, as bits.
type Found = [u128; 3];

/// Runs `atom`, and `red` where there is one, in every space: a thread for each of the sources.
fn run(operation: &str, kind: &str, spelling: usize, turn: usize, sources: &[Sources]) -> Vec<[Found; 5]> {
    let bits: u32 =
        kind.trim_end_matches("x2").trim_start_matches(|letter: char| letter.is_alphabetic()).parse().unwrap();
    let bits = if kind.ends_with("x2") { 2 * bits } else { bits };
    let register = |number: u32| match bits {
        16 => format!("%rs{number}"),
        32 => format!("%r{}", number + 8),
        64 => format!("%rd{}", number + 8),
        _ => format!("%rq{number}"),
    };
    let (value, returned, operands) = (register(0), register(1), [register(2), register(3)]);
    let names = operation.split('.').next().unwrap_or_default();
    let mut body = format!(
        "mov.b64 %rd5, 0; createpolicy.fractional.L2::evict_last.b64 %rd6;\n\
         mad.wide.u32 %rd1, %r0, {}, %rd0; mov.u32 %r1, cells; mad.lo.u32 %r1, %r0, 16, %r1;\n",
        8 * WORDS
    );
    for (at, operand) in operands.iter().enumerate() {
        body.push_str(&format!("ld.global.b{bits} {operand}, [%rd1+{}];\n", 8 * OPERANDS[at]));
    }
    body.push_str(&format!("ld.global.b{bits} {value}, [%rd1];\n"));
    for (at, (space, address)) in SPACES.into_iter().enumerate() {
        let turn = turn + at;
        let (order, scope) = (ORDERS[turn % 5], if turn % 5 == 4 { "" } else { SCOPES[turn % 4] });
        let spell = |order: &str| SPELLINGS[spelling].map(|part| [order, scope, space][part]).concat();
        // A hint says where in a cache something is kept: shared memory has none, and `cas` takes none.
        let hinted = (turn + turn / 3) % 3 == 1 && address == "%rd1" && names != "cas";
        let (hint, policy) = if hinted { (".L2::cache_hint", ", %rd6") } else { ("", "") };
        let arguments = if names == "cas" { operands.join(", ") } else { operands[0].clone() };
        let out = 8 * (RESULTS + 6 * at);
        body.push_str(&format!(
            "st{space}.b{bits} [{address}], {value};\n\
             atom{}.{operation}{hint}.{kind} {returned}, [{address}], {arguments}{policy};\n\
             st.global.b{bits} [%rd1+{}], {returned}; ld{space}.b{bits} {returned}, [{address}];\n\
             st.global.b{bits} [%rd1+{out}], {returned};\n",
            spell(order),
            out + 16
        ));
        if !matches!(names, "cas" | "exch") {
            let order = if order.starts_with(".acq") { ".release" } else { order };
            body.push_str(&format!(
                "st{space}.b{bits} [{address}], {value}; red{}.{operation}{hint}.{kind} [{address}], {arguments}{policy};\n\
                 ld{space}.b{bits} {returned}, [{address}]; st.global.b{bits} [%rd1+{}], {returned};\n",
                spell(order),
                out + 32
            ));
        }
    }
    let mut buffer = vec![0; WORDS * sources.len()];
    for (words, sources) in buffer.chunks_mut(WORDS).zip(sources) {
        for (at, source) in [CELL, OPERANDS[0], OPERANDS[1]].into_iter().zip(sources) {
            (words[at], words[at + 1]) = (*source as u64, (*source >> 64) as u64);
        }
    }
    let run = Run::new(&body).declare(".shared .align 16 .b8 cells[4096];").shape(1, sources.len() as u32, 1);
    run.try_on(&mut buffer).unwrap_or_else(|fault| panic!("{body}\n{fault}"));
    let result = |words: &[u64], at: usize| u128::from(words[at]) | u128::from(words[at + 1]) << 64;
    let each = |words: &[u64], at: usize| std::array::from_fn(|part| result(words, RESULTS + 6 * at + 2 * part));
    buffer.chunks(WORDS).map(|words| std::array::from_fn(|at| each(words, at))).collect()
}

/// All pairs of some values.
fn pairs<T: Copy>(values: &[T]) -> Vec<(T, T)> {
    values.iter().flat_map(|x| values.iter().map(move |y| (*x, *y))).collect()
}

#[test]
fn integers() {
    let operations: [(&str, &[&str], Operation<i128>); 9] = [
        ("add", &["u32", "s32", "u64"], |x, y| x + y),
        ("min", &["u32", "s32", "u64", "s64"], |x, y| x.min(y)),
        ("max", &["u32", "s32", "u64", "s64"], |x, y| x.max(y)),
        ("inc", &["u32"], |x, y| if x >= y { 0 } else { x + 1 }),
        ("dec", &["u32"], |x, y| if x == 0 || x > y { y } else { x - 1 }),
        ("and", &["b32", "b64"], |x, y| x & y),
        ("or", &["b32", "b64"], |x, y| x | y),
        ("xor", &["b32", "b64"], |x, y| x ^ y),
        ("exch", &["b32", "b64"], |_, y| y),
    ];
    let mut turn = 0;
    for (operation, kinds, after) in operations {
        for kind in kinds {
            let width: u32 = kind[1..].parse().unwrap();
            let all = u64::MAX >> (64 - width);
            let number = |bits: u64| match kind.starts_with('s') {
                true => i128::from((bits << (64 - width)) as i64 >> (64 - width)),
                false => i128::from(bits),
            };
            let values = pairs(&[0, 1, 5, all - 6, all, all >> 1, (all >> 1) + 1]);
            let sources: Vec<Sources> = values.iter().map(|(x, y)| [(*x).into(), (*y).into(), 0]).collect();
            for spelling in 0..SPELLINGS.len() {
                turn += 1;
                for ((x, y), found) in values.iter().zip(run(operation, kind, spelling, turn, &sources)) {
                    let after = u128::from(after(number(*x), number(*y)) as u64 & all);
                    let reduced = if operation == "exch" { 0 } else { after };
                    for found in found {
                        assert_eq!(found, [after, (*x).into(), reduced], "{operation}.{kind} of {x:#x} and {y:#x}");
                    }
                }
            }
        }
    }
}

/// Values of a floating-point format whose sums are rounded, exact, subnormal, infinite and not a number.
fn numbers(smallest: f64, epsilon: f64) -> Vec<f64> {
    vec![0.0, -0.0, 1.0, -1.5, 1.0 + epsilon, epsilon / 2.0, smallest, -3.0 * smallest, f64::INFINITY, f64::NAN]
}

/// A float's bits, and those of a sum: rounded once, from sums that are exact in f64 or already of its precision.
struct Format {
    kind: &'static str,
    smallest: f64,
    epsilon: f64,
    bits: fn(f64) -> u64,
    is_nan: fn(u64) -> bool,
}

const HALVES: [Format; 2] = [
    Format {
        kind: "f16",
        smallest: 5.960464477539063e-8,
        epsilon: 9.765625e-4,
        bits: |value| half::f16::from_f64(value).to_bits().into(),
        is_nan: |bits| half::f16::from_bits(bits as u16).is_nan(),
    },
    Format {
        kind: "bf16",
        smallest: 9.183549615799121e-41,
        epsilon: 7.8125e-3,
        bits: |value| half::bf16::from_f64(value).to_bits().into(),
        is_nan: |bits| half::bf16::from_bits(bits as u16).is_nan(),
    },
];
const DOUBLE: Format = Format {
    kind: "f64",
    smallest: 5e-324,
    epsilon: f64::EPSILON,
    bits: f64::to_bits,
    is_nan: |bits| f64::from_bits(bits).is_nan(),
};

#[test]
fn floats() {
    let mut turn = 0;
    let mut check = |format: &Format, packed: bool| {
        let values = pairs(&numbers(format.smallest, format.epsilon));
        let width = if format.kind == "f64" { 64 } else { 16 };
        // Of two packed values the upper has the operands exchanged.
        let pack = |low: u64, high: u64| u128::from(if packed { low | high << width } else { low });
        let code = |(x, y): (f64, f64)| {
            [pack((format.bits)(x), (format.bits)(y)), pack((format.bits)(y), (format.bits)(x)), 0]
        };
        let sources: Vec<Sources> = values.iter().copied().map(code).collect();
        let (kind, name) = (
            format!("{}{}", format.kind, if packed { "x2" } else { "" }),
            if width == 64 { "add" } else { "add.noftz" },
        );
        for spelling in 0..SPELLINGS.len() {
            turn += 1;
            for (((x, y), source), found) in values.iter().zip(&sources).zip(run(name, &kind, spelling, turn, &sources))
            {
                for (found, half) in found.into_iter().flat_map(|found| [(found, 0), (found, usize::from(packed))]) {
                    let [after, before, reduced] =
                        found.map(|bits| (bits >> (half as u32 * width)) as u64 & (u64::MAX >> (64 - width)));
                    assert_eq!(u128::from(before), source[0] >> (half as u32 * width) & (u128::MAX >> (128 - width)));
                    for after in [after, reduced] {
                        match (x + y).is_nan() {
                            true => assert!((format.is_nan)(after), "{name}.{kind} of {x:e} and {y:e}: {after:#x}"),
                            false => assert_eq!(after, (format.bits)(x + y), "{name}.{kind} of {x:e} and {y:e}"),
                        }
                    }
                }
            }
        }
    };
    for format in &HALVES {
        check(format, false);
        check(format, true);
    }
    check(&DOUBLE, false);
}

/// "Current implementation of `atom.add.f32` on global memory flushes subnormal inputs and results to sign-preserving zero; whereas
/// `atom.add.f32` on shared memory supports subnormal inputs and results."
#[test]
fn sums_of_singles_flush_subnormal_numbers_in_global_memory() {
    let flush = |value: f32| if value.is_subnormal() { 0f32.copysign(value) } else { value };
    let values = pairs(&[
        0.0,
        -0.0,
        1.0,
        -1.5,
        1f32.next_up(),
        1e-40,
        -1e-39,
        f32::MIN_POSITIVE,
        -f32::MIN_POSITIVE.next_up(),
        f32::INFINITY,
        f32::NAN,
    ]);
    let sources: Vec<Sources> = values.iter().map(|(x, y)| [x.to_bits().into(), y.to_bits().into(), 0]).collect();
    for spelling in 0..SPELLINGS.len() {
        for ((x, y), found) in values.iter().zip(run("add", "f32", spelling, spelling, &sources)) {
            for (at, [after, before, reduced]) in found.into_iter().enumerate() {
                let sum = if SPACES[at].1 == "%rd1" { flush(flush(*x) + flush(*y)) } else { x + y };
                assert_eq!(before, x.to_bits().into());
                for after in [after, reduced] {
                    let after = f32::from_bits(after as u32);
                    let same = after.to_bits() == sum.to_bits() || after.is_nan() && sum.is_nan();
                    assert!(same, "add{}.f32 of {x:e} and {y:e}: {after:e}", SPACES[at].0);
                }
            }
        }
    }
}

#[test]
fn swaps() {
    for (kind, width) in [("b16", 16), ("b32", 32), ("b64", 64), ("b128", 128)] {
        let all = u128::MAX >> (128 - width);
        let values =
            [(5, 5, 9), (5, 6, 9), (all, all, 0), (all >> 1, all, 7), (1 << (width - 1), 1 << (width - 1), all)];
        let sources: Vec<Sources> = values.iter().map(|(before, expected, new)| [*before, *expected, *new]).collect();
        for spelling in 0..SPELLINGS.len() {
            for turn in 0..if width == 128 { 1 } else { 2 } {
                for ((before, expected, new), found) in values.iter().zip(run("cas", kind, spelling, turn, &sources)) {
                    let after = if before == expected { *new } else { *before };
                    assert_eq!(found, [[after, *before, 0]; 5], "cas.{kind} of {before:#x}, {expected:#x}, {new:#x}");
                }
            }
        }
    }
}

#[test]
fn swaps_of_128_bits() {
    let sources = [[u128::MAX / 3, u128::MAX / 5, 0]];
    for spelling in 0..SPELLINGS.len() {
        for found in run("exch", "b128", spelling, 1, &sources) {
            assert_eq!(found, [[sources[0][1], sources[0][0], 0]; 5]);
        }
    }
}

/// Each element of a vector is updated by itself: of the first 32 bytes of the buffer by `atom`, with operands in the next 32, which
/// returns into the third; of the last 32 by `red`.
#[test]
fn vectors() {
    let operations: [(&str, Operation<f64>); 3] = [("add", |x, y| x + y), ("min", f64::min), ("max", f64::max)];
    let mut turn = 0;
    for (kind, most) in [("f16", 8), ("bf16", 8), ("f16x2", 4), ("bf16x2", 4), ("f32", 4)] {
        let code = |value: f64| match kind.trim_end_matches("x2") {
            "f16" => half::f16::from_f64(value).to_le_bytes().to_vec(),
            "bf16" => half::bf16::from_f64(value).to_le_bytes().to_vec(),
            _ => (value as f32).to_le_bytes().to_vec(),
        };
        let image = |values: &[f64]| values.iter().flat_map(|value| code(*value)).collect::<Vec<u8>>();
        let bytes = if kind.ends_with("16") { 2 } else { 4 };
        let (set, flush) = (if bytes == 2 { "s" } else { "" }, if kind == "f32" { "" } else { ".noftz" });
        for count in [2, 4, 8].into_iter().filter(|count| *count <= most) {
            for (operation, combine) in operations.iter().filter(|(name, _)| kind != "f32" || *name == "add") {
                turn += 1;
                let names = |first: usize| (first..first + count).map(|at| format!("%r{set}{at}")).collect::<Vec<_>>();
                let (operands, returned) = (names(8), names(0));
                let mut body = String::from("createpolicy.fractional.L2::evict_last.b64 %rd6;\n");
                for (at, name) in operands.iter().enumerate() {
                    body.push_str(&format!("ld.global.b{} {name}, [%rd0+{}];\n", 8 * bytes, 32 + bytes * at));
                }
                let (order, scope) = (ORDERS[turn % 4], SCOPES[turn / 4 % 4]);
                let release = [".relaxed", ".release"][turn % 2];
                let (hint, policy) = if turn % 2 == 1 { (".L2::cache_hint", ", %rd6") } else { ("", "") };
                let (name, operands) = (format!("{operation}{flush}{hint}.v{count}.{kind}"), operands.join(", "));
                body.push_str(&format!(
                    "atom{order}{scope}.global.{name} {{{}}}, [%rd0], {{{operands}}}{policy};\n\
                     red{release}{scope}.global.{name} [%rd0+96], {{{operands}}}{policy};\n",
                    returned.join(", ")
                ));
                for (at, name) in returned.iter().enumerate() {
                    body.push_str(&format!("st.global.b{} [%rd0+{}], {name};\n", 8 * bytes, 64 + bytes * at));
                }
                let elements = count * bytes / code(0.0).len();
                let (old, new): (Vec<f64>, Vec<f64>) =
                    (0..elements).map(|at| (at as f64 - 2.5, 1.5 - 0.5 * at as f64)).unzip();
                let after: Vec<f64> = old.iter().zip(&new).map(|(x, y)| combine(*x, *y)).collect();
                let buffer = |parts: [&[f64]; 4]| -> Vec<u64> {
                    let padded = |part: &[f64]| {
                        image(part).into_iter().chain(std::iter::repeat(0)).take(32).collect::<Vec<u8>>()
                    };
                    let bytes: Vec<u8> = parts.into_iter().flat_map(padded).collect();
                    bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
                };
                let mut found = buffer([&old, &new, &[], &old]);
                Run::new(&body).shape(1, 1, 1).try_on(&mut found).unwrap_or_else(|fault| panic!("{body}\n{fault}"));
                assert_eq!(found, buffer([&after, &new, &old, &after]), "{name}");
            }
        }
    }
}

#[test]
fn atomics_from_all_threads() {
    let body = "atom.global.add.u64 %rd1, [%rd0], 1; red.global.max.s32 [%rd0+8], %r0; atom.shared.add.u32 %r1, [cell], 2; bar.sync 0;\n\
        ld.shared.u32 %r2, [cell]; setp.eq.u32 %p1, %r0, 0; @%p1 atom.global.add.u32 %r3, [%rd0+16], %r2;\n\
        atom.global.cas.b32 %r4, [%rd0+24], 0, %r0;";
    let words = Run::new(body).declare(".shared .b32 cell;").shape(50, 64, 1).words(4);
    assert_eq!(words[..3], [3200, 63, 50 * 128]);
}
