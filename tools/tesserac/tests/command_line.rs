//! The command line, as a user meets it: what succeeds, what each kind of error says, and that no error leaves half a file.

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use tempfile::TempDir;

const BLOCK: &str = "\
module @block {
  param @weight : tensor<64x48xf32>
  param @bias : tensor<48xf32>
  func @main(%x: tensor<Tx64xf32>) -> (tensor<Tx48xf32>) {
    %product = matmul(%x, @weight) : tensor<Tx48xf32>
    %wide = broadcast(@bias) {axes = [1]} : tensor<Tx48xf32>
    %sum = add(%product, %wide) : tensor<Tx48xf32>
    %out = gelu(%sum) {approximate = tanh} : tensor<Tx48xf32>
    return %out
  }
}
";

/// A folder with a module in it.
struct Workplace {
    folder: TempDir,
}

impl Workplace {
    fn new() -> Workplace {
        let workplace = Workplace { folder: tempfile::tempdir().unwrap() };
        workplace.write("block.ir", BLOCK);
        workplace
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The names of the files, sorted, less the compile cache.
    fn files(&self) -> Vec<String> {
        names(self.folder.path()).into_iter().filter(|name| name != "cache").collect()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::cargo_bin("tesserac").unwrap();
        command.current_dir(self.folder.path()).env("TESSERA_CACHE", self.path("cache")).env("NO_COLOR", "1");
        command.args(arguments).output().unwrap()
    }

    /// Runs what must succeed, and gives standard output.
    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?} failed: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs what must fail cleanly, and gives standard error as one line. Nothing new may lie in the folder.
    fn fails(&self, arguments: &[&str]) -> String {
        let before = self.files();
        let output = self.run(arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{arguments:?} succeeded");
        assert!(!errors.contains("panicked"), "{errors}");
        assert!(output.status.code().is_some(), "{arguments:?} was killed");
        assert_eq!(self.files(), before, "{arguments:?} left files behind");
        errors.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ")
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[track_caller]
fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}

#[test]
fn help_teaches() {
    let workplace = Workplace::new();
    assert_contains(&workplace.succeeds(&["--help"]), &["Examples:", "tesserac compile gpt2.ir", "tile programs"]);
    for command in ["compile", "opt", "run", "inspect", "ops", "completions"] {
        assert_contains(&workplace.succeeds(&[command, "--help"]), &["Examples:"]);
    }
}

#[test]
fn completions_are_written_for_bash() {
    assert_contains(&Workplace::new().succeeds(&["completions", "bash"]), &["_tesserac", "--print-schedule"]);
}

#[test]
fn ops_are_described() {
    let workplace = Workplace::new();
    assert_contains(&workplace.succeeds(&["ops", "rope"]), &["rope(", "positions"]);
    assert_contains(&workplace.succeeds(&["ops", "--list"]), &["matmul", "kv_append"]);
    assert_contains(&workplace.succeeds(&["ops"]), &["# Ops of the graph IR"]);
    assert_contains(&workplace.fails(&["ops", "matmull"]), &["no op `matmull`", "did you mean `matmul`?"]);
}

#[test]
fn passes_are_listed_and_run() {
    let workplace = Workplace::new();
    assert_contains(&workplace.succeeds(&["opt", "--list-passes"]), &["canonicalize", "fuse"]);
    let fused = workplace.succeeds(&["opt", "block.ir", "--passes", "canonicalize,cse,dce,fuse"]);
    assert_contains(&fused, &["label = \"matmul_bias_gelu\""]);
    workplace.succeeds(&["opt", "block.ir", "--passes", "", "-o", "same.ir"]);
    assert_eq!(workplace.succeeds(&["opt", "same.ir", "--passes", ""]), workplace.read("same.ir"));
    let output = workplace.run(&[
        "opt",
        "block.ir",
        "--passes",
        "cse,fuse",
        "--dump-after",
        "cse",
        "--remarks",
        "--time-passes",
    ]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_contains(&said, &["// after cse", "fuse: applied: @main: %product = matmul", "ms  pass fuse"]);
}

#[test]
fn unknown_passes_are_refused() {
    let workplace = Workplace::new();
    let said = workplace.fails(&["opt", "block.ir", "--passes", "canonicalise"]);
    assert_contains(&said, &["no pass `canonicalise`", "did you mean `canonicalize`?"]);
    let said = workplace.fails(&["opt", "block.ir", "--passes", "cse", "--dump-after", "fuse"]);
    assert_contains(&said, &["nothing to dump after `fuse`"]);
}

#[test]
fn errors_point_into_the_text() {
    let workplace = Workplace::new();
    workplace.write("wrong.ir", BLOCK.replace("gelu(%sum)", "gelou(%sun)"));
    let said = workplace.fails(&["compile", "wrong.ir", "-o", "out.tsr"]);
    assert_contains(&said, &["wrong.ir:8:", "gelou", "did you mean `gelu`?"]);
    workplace.write(
        "narrow.ir",
        BLOCK.replace("param @weight : tensor<64x48xf32>", "param @weight : tensor<64x48xfp6_e2m3>"),
    );
    let said = workplace.fails(&["compile", "narrow.ir", "-o", "out.tsr"]);
    assert_contains(&said, &["no kernels that read or write fp6_e2m3", "the pass `legalize`", "bf16 or a wider type"]);
}

#[test]
fn files_that_are_no_modules_are_refused() {
    let workplace = Workplace::new();
    assert_contains(&workplace.fails(&["compile", "missing.ir", "-o", "out.tsr"]), &["cannot read missing.ir"]);
    workplace.write("binary.ir", [0xff, 0xfe, 0x00]);
    assert_contains(&workplace.fails(&["compile", "binary.ir", "-o", "out.tsr"]), &["binary.ir is no text"]);
    workplace.write("empty.ir", "");
    workplace.fails(&["compile", "empty.ir", "-o", "out.tsr"]);
    workplace.write("damaged.tsr", "PK no artifact");
    assert_contains(&workplace.fails(&["inspect", "damaged.tsr"]), &["artifact"]);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let workplace = Workplace::new();
    let refused = |arguments: &[&str], parts: &[&str]| {
        let all: Vec<&str> = ["compile", "block.ir", "-o", "out"].iter().chain(arguments).copied().collect();
        assert_contains(&workplace.fails(&all), parts);
    };
    refused(&["--target", "sm_75"], &["unknown target `sm_75`", "sm_80"]);
    refused(&["--emit", "ptx"], &["no ptx for host", "--target sm_90a"]);
    refused(&["--emit", "assembly", "--target", "sm_80"], &["--emit ptx"]);
    refused(&["--knob", "matmul.colums=64"], &["colums"]);
    refused(&["--knob", "columns"], &["strategy.knob=value"]);
    refused(&["--mesh", "tp=2"], &["the module has no mesh"]);
    let said = workplace.fails(&["compile", "block.ir", "-o", "-", "--emit", "tile"]);
    assert_contains(&said, &["one file for each kernel", "name a folder with -o"]);
    let said = workplace.fails(&["compile", "block.ir", "-o", "no/such/folder/out.tsr"]);
    assert_contains(&said, &["cannot write no/such/folder/out.tsr"]);
}

#[test]
fn a_mesh_of_several_devices_is_refused() {
    let workplace = Workplace::new();
    workplace.write("mesh.ir", BLOCK.replace("  param @weight", "  mesh [tp=1]\n  param @weight"));
    workplace.succeeds(&["opt", "mesh.ir", "--passes", ""]);
    let said = workplace.fails(&["compile", "mesh.ir", "-o", "out.tsr", "--mesh", "tp=2"]);
    assert_contains(&said, &["2 devices along `tp`", "one device only"]);
    assert_contains(
        &workplace.fails(&["compile", "mesh.ir", "-o", "out.tsr", "--mesh", "dp=1"]),
        &["no axis `dp`", "tp"],
    );
}

#[test]
fn a_module_is_compiled_inspected_and_run() {
    let workplace = Workplace::new();
    workplace.succeeds(&["compile", "block.ir", "-o", "block.tsr"]);
    assert_eq!(workplace.files(), ["block.ir", "block.tsr"]);
    let described = workplace.succeeds(&["inspect", "block.tsr", "--launches"]);
    assert_contains(&described, &["target     host", "function @main", "matmul_bias_gelu", "x: f32[T, 64]"]);
    let described: serde_json::Value =
        serde_json::from_str(&workplace.succeeds(&["inspect", "block.tsr", "--json"])).unwrap();
    assert_eq!(described["functions"][0]["function"], "main");

    // Inputs and weights come from files, and the output goes to one.
    let said = workplace.fails(&["run", "block.tsr"]);
    assert_contains(&said, &["input x: f32[T, 64] of @main is missing", "--input x=FILE.npy"]);
    workplace.write("x.npy", npy("<f4", &[2, 64], &[0u8; 2 * 64 * 4]));
    assert_contains(&workplace.fails(&["run", "block.tsr", "-i", "x=x.npy"]), &["needs 2 weights", "--weights"]);
    let bias: Vec<u8> = (0..48).flat_map(|index| (index as f32 - 24.0).to_le_bytes()).collect();
    workplace
        .write("weights.safetensors", safetensors(&[("weight", &[64, 48], &[0; 64 * 48 * 4]), ("bias", &[48], &bias)]));
    let arguments = ["run", "block.tsr", "-w", "weights.safetensors", "-i", "x=x.npy", "-o", "out=out.npy"];
    assert_contains(&workplace.succeeds(&arguments), &["out", "2x48xf32"]);
    let found = std::fs::read(workplace.path("out.npy")).unwrap();
    let found: Vec<f32> = found[found.len() - 2 * 48 * 4..]
        .chunks_exact(4)
        .map(|word| f32::from_le_bytes(word.try_into().unwrap()))
        .collect();
    // gelu of the bias alone: 0 far below, the bias itself far above.
    assert!(found[0].abs() < 1e-5 && (found[47] - 23.0).abs() < 1e-3, "{found:?}");

    let said = workplace.fails(&["run", "block.tsr", "-i", "y=x.npy", "-i", "x=x.npy", "-w", "weights.safetensors"]);
    assert_contains(&said, &["no input `y`"]);
    assert_contains(&workplace.fails(&["run", "block.tsr", "--compare", "reference"]), &["holds no graph"]);
    assert_contains(&workplace.fails(&["run", "block.tsr", "--device", "gpu"]), &["`gpu` is not a device"]);
}

#[test]
fn a_module_is_compared_with_the_reference() {
    let workplace = Workplace::new();
    let said = workplace.succeeds(&["run", "block.ir", "--compare", "reference", "--dim", "T=7", "--profile"]);
    assert_contains(&said, &["out  7x48xf32", "max abs", "rms", "within the tolerance", "launches"]);
    let said = workplace.succeeds(&["run", "block.ir", "--compare", "reference", "--json", "--seed", "3"]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["outputs"][0]["comparison"]["within"], true);
    // No computation in f32 agrees with f64 to the last bit everywhere.
    let said = workplace.fails(&["run", "block.ir", "--compare", "reference", "--dim", "T=129", "--tolerance", "0"]);
    assert_contains(&said, &["1 of 1 results differ"]);
    assert_contains(&workplace.fails(&["run", "block.ir", "--dim", "U=7"]), &["dimension U"]);
    workplace.write("wide.npy", npy("<f4", &[2, 65], &[0u8; 2 * 65 * 4]));
    assert_contains(&workplace.fails(&["run", "block.ir", "-i", "x=wide.npy"]), &["wide.npy", "[2, 65]"]);
    workplace.write("text.npy", "no array");
    assert_contains(&workplace.fails(&["run", "block.ir", "-i", "x=text.npy"]), &["cannot read text.npy"]);
}

/// A product that fills no tile, with heads rotated in its epilogue and a cache: nothing may be written beyond the last head.
const ROTATED: &str = "\
module @rotated {
  param @q : tensor<8x8xf32>
  param @kv : tensor<8x8xf32>
  func @step(%x: tensor<Tx8xf32>, %positions: tensor<Txi32>, %sequences: tensor<Txi32>, %page_table: tensor<BxPxi32>, \
             %cache: kv_cache<layers=1, heads=1, dim=4, page=4, f32>) \
             -> (tensor<Tx2x4xf32>, kv_cache<layers=1, heads=1, dim=4, page=4, f32>) {
    %product = matmul(%x, @q) : tensor<Tx8xf32>
    %heads = reshape(%product) : tensor<Tx2x4xf32>
    %q = rope(%heads, %positions) : tensor<Tx2x4xf32>
    %both = matmul(%x, @kv) : tensor<Tx8xf32>
    %left = slice(%both) {starts = [0, 0], limits = [T, 4]} : tensor<Tx4xf32>
    %right = slice(%both) {starts = [0, 4], limits = [T, 8]} : tensor<Tx4xf32>
    %k = reshape(%left) : tensor<Tx1x4xf32>
    %v = reshape(%right) : tensor<Tx1x4xf32>
    %rotated = rope(%k, %positions) : tensor<Tx1x4xf32>
    %new = kv_append(%cache, %rotated, %v, %positions, %sequences, %page_table) {layer = 0} \
      : kv_cache<layers=1, heads=1, dim=4, page=4, f32>
    %attention = paged_attention(%q, %new, %positions, %sequences, %page_table) {layer = 0, scale = 0.5} : tensor<Tx2x4xf32>
    return %attention, %new
  }
}
";

#[test]
fn a_step_with_a_cache_is_compared_with_the_reference() {
    let workplace = Workplace::new();
    workplace.write("rotated.ir", ROTATED);
    for tokens in ["T=1", "T=5", "T=33"] {
        let said = workplace.succeeds(&["run", "rotated.ir", "--compare", "reference", "--dim", tokens]);
        assert_contains(&said, &["attention", "cache ", "within the tolerance"]);
        assert!(!said.contains("OUTSIDE"), "{said}");
    }
    // The cache is compared too: with no difference admitted at all, both it and the output are counted.
    let arguments = ["run", "rotated.ir", "--compare", "reference", "--dim", "T=33", "--tolerance", "0"];
    assert_contains(&workplace.fails(&arguments), &["2 of 2 results differ"]);
    let said = workplace.fails(&["run", "rotated.ir", "--dim", "T=33", "--dim", "P=1"]);
    assert_contains(&said, &["33 tokens of 2 sequences do not fit 1 pages of 4"]);
}

#[test]
fn every_stage_is_dumped_and_resumed_from() {
    let workplace = Workplace::new();
    workplace.succeeds(&["compile", "block.ir", "-o", "block.tsr", "--dump-dir", "stages", "--dump-after", "cse"]);
    let stages = names(&workplace.path("stages"));
    for stage in ["input.ir", "cse.ir", "fused.ir", "schedule.ir", "tile", "mlir", "llvm"] {
        assert!(stages.iter().any(|name| name.ends_with(stage)), "no {stage} among {stages:?}");
    }
    let schedule = stages.iter().find(|name| name.ends_with("schedule.ir")).unwrap();
    workplace.succeeds(&["compile", &format!("stages/{schedule}"), "-o", "resumed.tsr"]);
    let tiles = stages.iter().find(|name| name.ends_with("tile")).unwrap();
    let arguments =
        ["compile", &format!("stages/{schedule}"), "--tiles", &format!("stages/{tiles}"), "-o", "tiles.tsr"];
    workplace.succeeds(&arguments);
    assert_contains(&workplace.succeeds(&["inspect", "tiles.tsr"]), &["matmul_bias_gelu"]);
}

#[test]
fn stages_are_written_instead_of_an_artifact() {
    let workplace = Workplace::new();
    let graph = workplace.succeeds(&["compile", "block.ir", "-o", "-", "--emit", "graph"]);
    assert_contains(&graph, &["fusion(", "matmul_bias_gelu"]);
    let schedule = workplace.succeeds(&["compile", "block.ir", "-o", "-", "--emit", "schedule", "--target", "sm_80"]);
    assert_contains(&schedule, &["schedule = "]);
    workplace.succeeds(&["compile", "block.ir", "-o", "ptx", "--emit", "ptx", "--target", "sm_80"]);
    let files = names(&workplace.path("ptx"));
    assert!(!files.is_empty() && files.iter().all(|name| name.ends_with(".ptx")), "{files:?}");
    assert_contains(&workplace.read(&format!("ptx/{}", files[0])), &[".target sm_80", "matmul_bias_gelu"]);
    let again = ["compile", "block.ir", "-o", "ptx", "--emit", "ptx", "--target", "sm_80"];
    assert_eq!(String::from_utf8(workplace.run(&again).stderr).unwrap(), "");
    std::fs::write(workplace.path("ptx").join("older.ptx"), "").unwrap();
    let warning = String::from_utf8(workplace.run(&again).stderr).unwrap();
    assert_contains(&warning, &["ptx also holds 1 files that something else wrote"]);
    workplace.succeeds(&["compile", "block.ir", "-o", "tile", "--emit", "tile", "--knob", "matmul.columns=16"]);
    assert!(!names(&workplace.path("tile")).is_empty());
    assert_eq!(workplace.files(), ["block.ir", "ptx", "tile"]);
}

#[test]
fn a_page_shows_a_module_and_an_artifact() {
    let workplace = Workplace::new();
    workplace.succeeds(&["inspect", "block.ir", "--html", "module.html"]);
    assert_contains(
        &workplace.read("module.html"),
        &["<!doctype html>", "<svg", "matmul_bias_gelu", "%product = matmul", "@weight", "12.0 KiB"],
    );
    assert_contains(&workplace.succeeds(&["inspect", "block.ir"]), &["matmul_bias_gelu"]);
    workplace.succeeds(&["compile", "block.ir", "-o", "block.tsr"]);
    workplace.succeeds(&["inspect", "block.tsr", "--html", "artifact.html"]);
    assert_contains(&workplace.read("artifact.html"), &["<!doctype html>", "matmul_bias_gelu", "weight"]);
}

/// A NumPy file of version 1.
fn npy(kind: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let shape: String = shape.iter().map(|extent| format!("{extent}, ")).collect();
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((padded as u16).to_le_bytes());
    file.extend(format!("{header:<width$}\n", width = padded - 1).bytes());
    file.extend(data);
    file
}

/// A safetensors file of f32 tensors.
fn safetensors(tensors: &[(&str, &[usize], &[u8])]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for (name, shape, bytes) in tensors {
        let start = data.len();
        data.extend(*bytes);
        header.insert(
            (*name).to_owned(),
            serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] }),
        );
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend(data);
    file
}
