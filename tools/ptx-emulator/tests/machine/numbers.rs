//! Conversions and arithmetic of narrow formats against CUDA's own headers, compiled for the host: exhaustive over f16, bf16, fp8, fp6,
//! fp4 and scale factors, and over random f32.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::coverage::assembler;
use super::trial::Draw;
use super::{Run, not_run};

/// The results of `oracle.cpp`, in its order: a name, and instructions that make it, of the record's words `%r1`, `%r2` and `%r3` (the
/// first also as `%f1`, their low halves as `%rs1`, `%rs2` and `%rs3`), in `%r4`.
const RESULTS: [(&str, &str); 31] = [
    ("f32 to e4m3", "cvt.rn.satfinite.e4m3x2.f32 %rs4, %f1, %f1; cvt.u32.u8 %r4, %rs4;"),
    ("f32 to e5m2", "cvt.rn.satfinite.e5m2x2.f32 %rs4, %f1, %f1; cvt.u32.u16 %r4, %rs4; shr.u32 %r4, %r4, 8;"),
    ("f32 to e2m3", "cvt.rn.satfinite.e2m3x2.f32 %rs4, %f1, %f1; cvt.u32.u8 %r4, %rs4;"),
    ("f32 to e3m2", "cvt.rn.satfinite.e3m2x2.f32 %rs4, %f1, %f1; cvt.u32.u16 %r4, %rs4; shr.u32 %r4, %r4, 8;"),
    ("f32 to e2m1", "cvt.rn.satfinite.e2m1x2.f32 %rc1, %f1, %f1; cvt.u32.u8 %r4, %rc1; and.b32 %r4, %r4, 15;"),
    ("f32 to ue8m0, down", "cvt.rz.satfinite.ue8m0x2.f32 %rs4, %f1, %f1; cvt.u32.u8 %r4, %rs4;"),
    ("f32 to ue8m0, up", "cvt.rp.satfinite.ue8m0x2.f32 %rs4, %f1, %f1; cvt.u32.u8 %r4, %rs4;"),
    ("f32 to f16", "cvt.rn.f16.f32 %rs4, %f1; cvt.u32.u16 %r4, %rs4;"),
    ("f32 to f16, cut off", "cvt.rz.f16.f32 %rs4, %f1; cvt.u32.u16 %r4, %rs4;"),
    ("f32 to bf16", "cvt.rn.bf16.f32 %rs4, %f1; cvt.u32.u16 %r4, %rs4;"),
    ("f32 to bf16, cut off", "cvt.rz.bf16x2.f32 %r4, %f1, %f1; and.b32 %r4, %r4, 65535;"),
    (
        "e4m3 to f16",
        "cvt.rn.f16x2.e4m3x2 %r4, %rs5; mov.b32 {%rs4, %rs6}, %r4; cvt.f32.f16 %f2, %rs4; mov.b32 %r4, %f2;",
    ),
    (
        "e5m2 to f16",
        "cvt.rn.f16x2.e5m2x2 %r4, %rs5; mov.b32 {%rs4, %rs6}, %r4; cvt.f32.f16 %f2, %rs6; mov.b32 %r4, %f2;",
    ),
    (
        "e2m3 to f16",
        "cvt.rn.f16x2.e2m3x2 %r4, %rs7; mov.b32 {%rs4, %rs6}, %r4; cvt.f32.f16 %f2, %rs4; mov.b32 %r4, %f2;",
    ),
    (
        "e3m2 to f16",
        "cvt.rn.f16x2.e3m2x2 %r4, %rs7; mov.b32 {%rs4, %rs6}, %r4; cvt.f32.f16 %f2, %rs6; mov.b32 %r4, %f2;",
    ),
    (
        "e2m1 to f16",
        "cvt.rn.f16x2.e2m1x2 %r4, %rc0; mov.b32 {%rs4, %rs6}, %r4; cvt.f32.f16 %f2, %rs4; mov.b32 %r4, %f2;",
    ),
    ("ue8m0 to bf16", "cvt.rn.bf16x2.ue8m0x2 %r4, %rs5; and.b32 %r4, %r4, 0xffff0000;"),
    ("f16 to f32", "cvt.f32.f16 %f2, %rs1; mov.b32 %r4, %f2;"),
    ("bf16 to f32", "cvt.f32.bf16 %f2, %rs1; mov.b32 %r4, %f2;"),
    ("f16 to e4m3", "mov.b32 %r5, {%rs1, %rs1}; cvt.rn.satfinite.e4m3x2.f16x2 %rs4, %r5; cvt.u32.u8 %r4, %rs4;"),
    ("f16 to e5m2", "mov.b32 %r5, {%rs1, %rs1}; cvt.rn.satfinite.e5m2x2.f16x2 %rs4, %r5; cvt.u32.u8 %r4, %rs4;"),
    ("add.f16", "add.f16 %rs4, %rs1, %rs2; cvt.u32.u16 %r4, %rs4;"),
    ("sub.f16", "sub.f16 %rs4, %rs1, %rs2; cvt.u32.u16 %r4, %rs4;"),
    ("mul.f16", "mul.f16 %rs4, %rs1, %rs2; cvt.u32.u16 %r4, %rs4;"),
    ("min.f16", "min.f16 %rs4, %rs1, %rs2; cvt.u32.u16 %r4, %rs4;"),
    ("max.f16", "max.f16 %rs4, %rs1, %rs2; cvt.u32.u16 %r4, %rs4;"),
    ("add.bf16", "add.bf16 %rs4, %rs1, %rs2; cvt.u32.u16 %r4, %rs4;"),
    ("sub.bf16", "sub.bf16 %rs4, %rs1, %rs2; cvt.u32.u16 %r4, %rs4;"),
    ("mul.bf16", "mul.bf16 %rs4, %rs1, %rs2; cvt.u32.u16 %r4, %rs4;"),
    ("min.bf16", "min.bf16 %rs4, %rs1, %rs2; cvt.u32.u16 %r4, %rs4;"),
    ("max.bf16", "max.bf16 %rs4, %rs1, %rs2; cvt.u32.u16 %r4, %rs4;"),
];

/// Reads a record into the registers that [`RESULTS`] names.
const READ: &str = "mov.u32 %r10, %ctaid.x; mad.lo.u32 %r10, %r10, 256, %r0; mad.wide.u32 %rd1, %r10, 16, %rd0;\n\
    ld.global.v2.b32 {%r1, %r2}, [%rd1]; ld.global.b32 %r3, [%rd1+8]; mov.b32 %f1, %r1;\n\
    cvt.u16.u32 %rs1, %r1; cvt.u16.u32 %rs2, %r2; cvt.u16.u32 %rs3, %r3;\n\
    and.b32 %r11, %r1, 255; mul.lo.u32 %r11, %r11, 257; cvt.u16.u32 %rs5, %r11; and.b32 %r12, %r11, 0x3f3f; cvt.u16.u32 %rs7, %r12;\n\
    and.b32 %r13, %r1, 15; mul.lo.u32 %r13, %r13, 17; cvt.u16.u32 %rs8, %r13; cvt.u8.u16 %rc0, %rs8;\n";

/// The headers that belong to the assembler.
fn headers() -> Option<PathBuf> {
    let include = assembler()?.parent()?.parent()?.join("include");
    include.join("nv/target").exists().then_some(include)
}

/// What CUDA's headers make of records.
fn oracle(records: &[[u32; 3]]) -> Option<Vec<u32>> {
    let include = headers()?;
    let folder = std::env::temp_dir().join(format!("ptx-emulator-oracle-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let program = folder.join("oracle");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machine/oracle.cpp");
    let mut compiler = Command::new("g++");
    let compiler = compiler.args(["-O1", "-std=c++17", "-I"]).arg(&include).arg("-o").arg(&program).arg(&source);
    let compiled = match compiler.output() {
        Ok(compiled) => compiled,
        Err(_) => return None,
    };
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let mut running = Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let bytes: Vec<u8> = records.iter().flatten().flat_map(|word| word.to_le_bytes()).collect();
    let mut input = running.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(&bytes));
    let output = running.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    Some(output.stdout.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect())
}

/// The third word of each record after instructions ran on it.
fn emulate(records: &[[u32; 3]], instructions: &str) -> Vec<u32> {
    let body = format!("{READ}{instructions}\nst.global.b32 [%rd1+12], %r4;");
    let mut buffer: Vec<u64> =
        records.iter().flat_map(|[a, b, c]| [u64::from(*a) | u64::from(*b) << 32, u64::from(*c)]).collect();
    let run = Run::new(&body).shape((records.len() / 256) as u32, 256, 1);
    run.try_on(&mut buffer).unwrap_or_else(|fault| panic!("{instructions}: {fault}"));
    buffer.chunks_exact(2).map(|record| (record[1] >> 32) as u32).collect()
}

#[test]
fn conversions_and_arithmetic_are_those_of_cudas_headers() {
    let mut draw = Draw(9);
    let mut random = || draw.below(1 << 16) << 16 | draw.below(1 << 16);
    let mut records = vec![];
    for code in 0..1 << 16 {
        // Each bf16 and each f16 as an f32, each as it is, and any f32; beside random second operands.
        let half = half::f16::from_bits(code as u16).to_f32();
        for first in [code << 16, half.to_bits(), code, random()] {
            records.push([first, random(), random()]);
        }
    }
    let Some(expected) = oracle(&records) else {
        return not_run("there is no g++, or the headers of nvidia-cuda-runtime are not beside ptxas");
    };
    for (at, (name, instructions)) in RESULTS.iter().enumerate() {
        let found = emulate(&records, instructions);
        for (record, (word, expected)) in
            records.iter().zip(found.iter().zip(expected.iter().skip(at).step_by(RESULTS.len())))
        {
            let nan = |bits: u32| f32::from_bits(bits).is_nan();
            let same = word == expected
                || name.ends_with("to f32") && nan(*word) && nan(*expected)
                || name.ends_with("to f16") && !name.starts_with("f32") && nan(*word) && nan(*expected);
            assert!(same, "{name} of {record:08x?}: {word:08x}, and CUDA's headers say {expected:08x}");
        }
    }
}

/// `relu` and `satfinite` follow from what is converted without them.
#[test]
fn relu_and_satfinite() {
    let mut draw = Draw(11);
    let records: Vec<[u32; 3]> =
        (0..1 << 16).map(|code| [code << 16 | draw.below(1 << 16), draw.below(1 << 16), 0]).collect();
    for (kind, infinity) in [("f16", 0x7c00), ("bf16", 0x7f80)] {
        for rounding in ["rn", "rz"] {
            let run = |modifiers: &str| {
                let text = format!("cvt.{rounding}{modifiers}.{kind}.f32 %rs4, %f1; cvt.u32.u16 %r4, %rs4;");
                emulate(&records, &text)
            };
            let (plain, relu, finite, both) = (run(""), run(".relu"), run(".satfinite"), run(".relu.satfinite"));
            for at in 0..records.len() {
                let (word, negative) = (plain[at], plain[at] & 0x8000 != 0);
                let nan = word & 0x7fff > infinity;
                assert_eq!(relu[at], if negative && !nan { 0 } else { word });
                let clamped = if word & 0x7fff == infinity { word - 1 } else { word };
                assert_eq!(finite[at], clamped, "{:08x}", records[at][0]);
                assert_eq!(both[at], if negative && !nan { 0 } else { clamped });
            }
        }
    }
}

/// Approximations stay within the errors that the ISA states, and have its values at the ends.
#[test]
fn approximations_are_within_their_bounds() {
    let mut draw = Draw(13);
    let records: Vec<[u32; 3]> =
        (0..1 << 16).map(|_| [draw.below(1 << 16) << 16 | draw.below(1 << 16), 0, 0]).collect();
    let check = |text: &str, exact: fn(f64) -> f64, within: fn(f64) -> bool, relative: f64, absolute: f64| {
        let found = emulate(&records, &format!("{text} %f2, %f1; mov.b32 %r4, %f2;"));
        for (record, word) in records.iter().zip(found) {
            let x = f64::from(f32::from_bits(record[0]));
            if x.is_nan() || !within(x) {
                continue;
            }
            let (found, exact) = (f64::from(f32::from_bits(word)), exact(x));
            let bound = (exact.abs() * relative).max(absolute).max(2f64.powi(-149));
            let beyond = exact.abs() > f64::from(f32::MAX) && found.is_infinite();
            assert!(
                beyond || found == exact || (found - exact).abs() <= bound,
                "{text} of {x:e}: {found:e}, not {exact:e}"
            );
        }
    };
    let any = |_| true;
    check("rcp.approx.f32", |x| 1.0 / x, any, 2f64.powi(-23), 0.0);
    check("sqrt.approx.f32", f64::sqrt, |x| x >= 0.0, 2f64.powi(-23), 0.0);
    check("rsqrt.approx.f32", |x| 1.0 / x.sqrt(), |x| x > 0.0, 2f64.powf(-22.9), 0.0);
    check("sin.approx.f32", f64::sin, |x| x.abs() <= std::f64::consts::PI, 0.0, 2f64.powf(-20.5));
    check("cos.approx.f32", f64::cos, |x| x.abs() <= std::f64::consts::PI, 0.0, 2f64.powf(-20.5));
    check("lg2.approx.f32", f64::log2, |x| x > 0.0, 2f64.powi(-22), 2f64.powi(-22));
    check("ex2.approx.f32", f64::exp2, |x| x.abs() < 200.0, 2f64.powi(-22), 0.0);
    check("tanh.approx.f32", f64::tanh, any, 2f64.powi(-11), 0.0);
}
