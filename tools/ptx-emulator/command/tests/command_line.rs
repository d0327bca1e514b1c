//! The command line, as a user meets it: what it writes, what it shows, what each kind of mistake says.

use std::path::PathBuf;
use std::process::Output;

use assert_cmd::Command;
use npyz::{NpyFile, WriterBuilder};
use tempfile::TempDir;

const COLUMNS: &str = include_str!("columns.ptx");
const RACE: &str = include_str!("race.ptx");

/// A folder with the modules and an array of 32 rows of four floats in it.
struct Workplace {
    folder: TempDir,
}

impl Workplace {
    fn new() -> Workplace {
        let workplace = Workplace { folder: tempfile::tempdir().unwrap() };
        workplace.write("columns.ptx", COLUMNS);
        workplace.write("race.ptx", RACE);
        let file = std::fs::File::create(workplace.path("rows.npy")).unwrap();
        let mut writer = npyz::WriteOptions::new().default_dtype().shape(&[32, 4]).writer(file).begin_nd().unwrap();
        writer.extend((0..128).map(|at| at as f32)).unwrap();
        writer.finish().unwrap();
        workplace
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let bytes = std::fs::read(self.path(name)).unwrap();
        NpyFile::new(&bytes[..]).unwrap().into_vec().unwrap()
    }

    fn run(&self, line: &str) -> Output {
        let mut command = Command::cargo_bin("ptx-emulator").unwrap();
        command.current_dir(self.folder.path()).env("NO_COLOR", "1").args(line.split_whitespace()).output().unwrap()
    }

    /// What a line that must succeed writes to standard output.
    fn succeeds(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a line that must fail writes to standard error, as one line of words.
    fn fails(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(!output.status.success(), "{line}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!error.contains("panicked"), "{error}");
        error.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ")
    }
}

const ARGUMENTS: &str = "--arg rows.npy --arg f32[32]:sums.npy --arg f32=0.5";

#[test]
fn arrays_come_from_files_and_go_to_files() {
    let workplace = Workplace::new();
    assert_eq!(workplace.succeeds(&format!("run columns.ptx {ARGUMENTS}")), "");
    let sums = workplace.floats("sums.npy");
    let expected = |at: usize| if at.is_multiple_of(2) { (8 * at + 1) as f32 / 2.0 } else { 0.0 };
    assert!((0..32).all(|at| sums[at] == expected(at)), "{sums:?}");
    // In place, and of another type on the way.
    workplace.succeeds("run columns.ptx --arg rows.npy --arg f32=sums.npy:sums.npy --arg f32=1");
    assert_eq!(workplace.floats("sums.npy")[2], 17.0);
    workplace.succeeds("run columns.ptx --arg rows.npy --arg bf16[64]:bits.npy --arg f32=1 --chip sm_90a --seed 3");
    assert_eq!(workplace.floats("bits.npy").len(), 64);
}

#[test]
fn nothing_is_written_by_a_kernel_that_fails() {
    let workplace = Workplace::new();
    let error = workplace.fails("run columns.ptx --arg rows.npy --arg f32[16]:sums.npy --arg f32=1");
    assert!(
        error.contains("write of 4 bytes out of bounds") && error.contains("st.global.f32 [%rd5], %f7;"),
        "{error}"
    );
    assert!(error.contains("columns.ptx:36") && error.contains("thread (16, 0, 0)"), "{error}");
    let files = std::fs::read_dir(workplace.folder.path()).unwrap().count();
    assert_eq!(files, 3, "sums.npy, or a part of it, is there");
}

#[test]
fn the_checker_reports_races() {
    let workplace = Workplace::new();
    let clean = workplace.succeeds(&format!("check columns.ptx {ARGUMENTS}"));
    assert_eq!(clean, "no mistakes found\n");
    let line = "check race.ptx --kernel neighbours --arg u32[64]:out.npy";
    let output = workplace.run(line);
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success() && report.contains("race.ptx:20"), "{report}");
    assert!(!workplace.path("out.npy").exists());
    workplace.succeeds("run race.ptx --kernel neighbours --arg u32[64]:out.npy");
}

#[test]
fn a_trace_shows_what_a_warp_does() {
    let workplace = Workplace::new();
    insta::assert_snapshot!("trace", workplace.succeeds(&format!("trace columns.ptx {ARGUMENTS}")));
    let short = workplace.succeeds(&format!("trace columns.ptx {ARGUMENTS} --limit 1"));
    assert!(short.ends_with("and 22 more instructions\n"), "{short}");
    let error = workplace.fails(&format!("trace columns.ptx {ARGUMENTS} --warp 1"));
    assert!(error.contains("has warps 0 to 0"), "{error}");
    let error = workplace.fails(&format!("trace columns.ptx {ARGUMENTS} --cta 0,1"));
    assert!(error.contains("there is none at [0, 1, 0]"), "{error}");
}

#[test]
fn a_profile_counts() {
    let workplace = Workplace::new();
    insta::assert_snapshot!("profile", workplace.succeeds(&format!("profile columns.ptx {ARGUMENTS}")));
    let json = workplace.succeeds(&format!("profile columns.ptx {ARGUMENTS} --json"));
    let profile: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(profile["memory"]["shared write"]["passes"], 4);
    assert_eq!(profile["memory"]["shared read"]["conflicts"], 6);
    assert_eq!(profile["memory"]["global read"]["sectors"], 16);
    assert_eq!(profile["instructions"]["warps"], 23);
}

#[test]
fn a_profile_counts_tensor_memory() {
    let workplace = Workplace::new();
    workplace.write(
        "tensor.ptx",
        ".version 8.7\n.target sm_100a\n.address_size 64\n.visible .entry k() .reqntid 32 {\n\
         .shared .align 4 .b32 place; .reg .b32 %r<4>;\n\
         tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [place], 32; ld.shared.u32 %r0, [place]; mov.u32 %r1, %tid.x;\n\
         tcgen05.st.sync.aligned.32x32b.x2.b32 [%r0], {%r1, %r1}; tcgen05.wait::st.sync.aligned;\n\
         tcgen05.ld.sync.aligned.32x32b.x1.b32 {%r2}, [%r0]; tcgen05.wait::ld.sync.aligned;\n\
         tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r0, 32; ret; }",
    );
    let json = workplace.succeeds("profile tensor.ptx --json");
    let profile: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(profile["memory"]["tensor write"]["bytes"], 256);
    assert_eq!(profile["memory"]["tensor read"]["bytes"], 128);
}

#[test]
fn mistakes_say_what_to_do() {
    let workplace = Workplace::new();
    workplace.write("wrong.ptx", &COLUMNS.replace("mul.f32 %f7, %f7, %f8", "mul.f33 %f7, %f7, %f8"));
    std::fs::write(workplace.path("short.npy"), &std::fs::read(workplace.path("rows.npy")).unwrap()[..200]).unwrap();
    for (line, messages) in [
        ("run missing.ptx", &["cannot read missing.ptx"] as &[_]),
        ("run wrong.ptx", &["unknown instruction `mul.f33`", "wrong.ptx:33"]),
        ("run race.ptx", &["which kernel?", "it has neighbours, nothing"]),
        ("run race.ptx --kernel x", &["no kernel `x`"]),
        ("run race.ptx --kernel nothing", &["say --block"]),
        ("run columns.ptx --arg rows.npy", &["has 3 parameters, and 1 are given", "8, 8, 4 bytes"]),
        ("run columns.ptx --arg i32=1 --arg u64=0 --arg f32=0", &["argument 1 has 4 bytes"]),
        ("run columns.ptx --arg short.npy --arg u64=0 --arg f32=0", &["argument 1", "shorter than its shape"]),
        ("run columns.ptx --arg i32=rows.npy --arg u64=0 --arg f32=0", &["integers are wanted"]),
        ("run columns.ptx --arg f16[99999999999999999] --arg u64=0 --arg f32=0", &["argument 1", "is too large"]),
        ("run columns.ptx --arg q=1", &["`q` is not a type"]),
        ("run columns.ptx --chip sm_70", &["there is no chip `sm_70`", "sm_90a"]),
        (&format!("run columns.ptx --shared 999999 {ARGUMENTS}"), &["bytes of shared memory"]),
        (&format!("run columns.ptx --block 64 {ARGUMENTS}"), &["declares .reqntid"]),
        (&format!("run columns.ptx --grid 3 --cluster 2 {ARGUMENTS}"), &["do not divide"]),
        (&format!("run columns.ptx --instruction-limit 5 {ARGUMENTS}"), &["may run 5"]),
        ("run columns.ptx --grid 1,2,3,4", &["three dimensions at most"]),
    ] {
        let error = workplace.fails(line);
        for message in messages {
            assert!(error.contains(message), "{line}: {error}");
        }
    }
    assert!(!workplace.path("sums.npy").exists());
}
