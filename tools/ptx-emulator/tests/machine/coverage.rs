//! The table of instructions in the README: that it is current, that tests run all of it, and that it is PTX.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ptx_emulator::decode::form::{coverage, unused};

use super::{
    PROLOGUE, Ran, arithmetic, atomics, barriers, control, copies, halves, matrices, memory, narrow, not_run, products,
    recorded, remote, scalars, spaces, spellings, tensor_copies, tensor_memory, tensor_memory_moves, tensor_moves,
    video, warpgroup, warps, wmma,
};

#[test]
fn the_table_of_instructions_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (start, end) = ("<!-- instructions -->\n", "<!-- end of instructions -->");
    let (before, rest) = readme.split_once(start).unwrap();
    let (table, after) = rest.split_once(end).unwrap();
    let current = format!("\n{}\n", coverage());
    if std::env::var_os("TESSERA_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{start}{current}{end}{after}")).unwrap();
    } else {
        assert!(table == current, "the table is out of date: TESSERA_BLESS=1 cargo test -p ptx-emulator current");
    }
}

/// What the tests that run instructions ran, which they do once more for this.
fn instructions() -> &'static [Ran] {
    static RAN: OnceLock<Vec<Ran>> = OnceLock::new();
    RAN.get_or_init(|| {
        let tests = [
            arithmetic::TESTS,
            atomics::TESTS,
            barriers::TESTS,
            control::TESTS,
            copies::TESTS,
            halves::TESTS,
            matrices::TESTS,
            memory::TESTS,
            narrow::TESTS,
            products::TESTS,
            remote::TESTS,
            spaces::TESTS,
            spellings::TESTS,
            tensor_copies::TESTS,
            tensor_memory::TESTS,
            tensor_memory_moves::TESTS,
            tensor_moves::TESTS,
            video::TESTS,
            warpgroup::TESTS,
            warps::TESTS,
            wmma::TESTS,
        ];
        recorded(|| tests.into_iter().chain(scalars::TESTS).flatten().for_each(|test| test()))
    })
}

#[test]
fn every_instruction_is_run_with_each_of_its_modifiers() {
    let missing = unused(instructions().iter().flat_map(|program| &program.instructions).map(String::as_str));
    assert!(missing.is_empty(), "no test runs\n{}", missing.join("\n"));
}

/// NVIDIA's assembler: where `TESSERA_PTXAS` says, on the path, or where `make test` installs it.
pub fn assembler() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let installed = || {
        let packages = std::fs::read_dir(root.join(".venv/lib")).ok()?;
        packages
            .flatten()
            .map(|python| python.path().join("site-packages/nvidia/cu13/bin/ptxas"))
            .find(|at| at.exists())
    };
    let on_path = || {
        let paths = std::env::var_os("PATH")?;
        std::env::split_paths(&paths).map(|folder| folder.join("ptxas")).find(|at| at.exists())
    };
    std::env::var_os("TESSERA_PTXAS").map(PathBuf::from).or_else(on_path).or_else(installed)
}

#[test]
fn the_tests_programs_are_legal() {
    let Some(assembler) = assembler() else {
        return not_run("ptxas is not installed, which assembles the programs");
    };
    // All kernels of a chip in one module, as the assembler takes long to start, and only those with an instruction that no other has.
    let mut modules: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    let mut seen = HashSet::new();
    for program in instructions() {
        let names =
            program.instructions.iter().filter_map(|text| text.split_whitespace().find(|word| !word.starts_with('@')));
        let new = names.filter(|name| seen.insert(format!("{} {name}", program.target))).count();
        if new == 0 {
            continue;
        }
        modules.entry((&program.target, &program.declarations)).or_default().push(&program.body);
    }
    let folder = std::env::temp_dir().join(format!("ptx-emulator-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut wrong = vec![];
    for (number, ((target, declarations), bodies)) in modules.iter().enumerate() {
        let mut text = format!(".version 9.2\n.target {target}\n.address_size 64\n{declarations}\n");
        for (at, body) in bodies.iter().enumerate() {
            text.push_str(&format!(".visible .entry k{at}(.param .u64 buffer) {{\n{PROLOGUE}\n{body}\nret; }}\n"));
        }
        let file = folder.join(format!("{number}.ptx"));
        std::fs::write(&file, &text).unwrap();
        let output = Command::new(&assembler)
            .args(["-O0", "-arch", target.trim(), "-o", "/dev/null"])
            .arg(&file)
            .output()
            .expect("the assembler runs");
        let lines: Vec<&str> = text.lines().collect();
        let known = wrong.len();
        for message in String::from_utf8_lossy(&output.stderr).lines().filter(|line| line.contains("error")) {
            let line = message.split("line ").nth(1).and_then(|rest| rest.split(';').next()?.trim().parse().ok());
            let line: usize = line.unwrap_or(1);
            wrong.push(format!("{target}: {message}\n    {}", lines.get(line - 1).unwrap_or(&"")));
        }
        if !output.status.success() && wrong.len() == known {
            wrong.push(format!("{target}: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
