//! File tests. A file under `files/` holds a module and what passes make of it:
//!
//! ```text
//! // What the test shows.
//! // passes: canonicalize,cse
//! // target: sm_80                  (host where it is not given)
//! // remarks                        (if the remarks are of interest)
//! module @name { … }
//! // ----
//! module @name { … }                (what is printed afterwards)
//! // remark: …
//! ```
//!
//! A pass that must refuse the module has `// error: …` in place of the second module, with line and column where they are known.
//! `TESSERA_BLESS=1` writes what was found into the files. Whatever a file is about, it is also checked that the passes leave
//! the results of every function as they were, and that running them again changes nothing.

use std::fs;
use std::path::{Path, PathBuf};

use tessera_compiler::graph::PipelineError;
use tessera_ir::parse_module;

use super::{Agreement, assert_same_results, run};

const SEPARATOR: &str = "// ----\n";

/// The header of a test file.
struct Header {
    passes: String,
    target: String,
    remarks: bool,
}

impl Header {
    fn of(text: &str) -> Header {
        let lines: Vec<&str> =
            text.lines().take_while(|line| line.starts_with("//")).map(|line| line[2..].trim()).collect();
        let field =
            |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
        Header {
            passes: field("passes:").expect("the header has a line `// passes: …`"),
            target: field("target:").unwrap_or_else(|| "host".to_owned()),
            remarks: lines.contains(&"remarks"),
        }
    }
}

/// What the passes of a file make of its module.
fn result_of(text: &str) -> String {
    let header = Header::of(text);
    let before = parse_module(text).unwrap_or_else(|errors| panic!("the module does not parse:\n{errors}"));
    let mut after = before.clone();
    match run(&mut after, &header.passes, &header.target) {
        Ok(remarks) => {
            // Constants and composites round less often than what they stand for.
            let exact = ["canonicalize", "fold"].iter().all(|pass| !header.passes.contains(pass));
            assert_same_results(&before, &after, if exact { Agreement::Exact } else { Agreement::Rounding }, 7);
            let mut again = after.clone();
            run(&mut again, &header.passes, &header.target).expect("the passes run on their own result");
            assert_eq!(again.to_string(), after.to_string(), "running the passes again changes something");
            let mut result = after.to_string();
            for remark in remarks.iter().filter(|_| header.remarks) {
                result.push_str(&format!("// remark: {remark}\n"));
            }
            result
        }
        Err(PipelineError::Pass { error, .. }) => {
            let place = error.span.as_ref().map(|span| {
                let line = text[..span.start].matches('\n').count() + 1;
                let column = span.start - text[..span.start].rfind('\n').map_or(0, |newline| newline + 1) + 1;
                format!("{line}:{column}: ")
            });
            let help = error.help.as_ref().map(|help| format!("// help: {help}\n")).unwrap_or_default();
            format!("// error: {}{error}\n{help}", place.unwrap_or_default())
        }
        Err(other) => panic!("{other}"),
    }
}

/// The test files of one folder, sorted.
fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/graph/files").join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} holds no tests", folder.display());
    files
}

fn check(folder: &str) {
    let mut wrong = Vec::new();
    for path in files(folder) {
        let text = fs::read_to_string(&path).expect("the file can be read");
        let (input, expected) = text.split_once(SEPARATOR).unwrap_or((&text, ""));
        let found = std::panic::catch_unwind(|| result_of(input))
            .unwrap_or_else(|_| panic!("the test {} failed, see above", path.display()));
        if found == expected {
            continue;
        }
        if std::env::var_os("TESSERA_BLESS").is_some() {
            fs::write(&path, format!("{}\n{SEPARATOR}{found}", input.trim_end())).expect("the file can be written");
        } else {
            wrong.push(format!("{}\nfound:\n{found}\nexpected:\n{expected}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}\n(TESSERA_BLESS=1 writes what was found)", wrong.join("\n"));
}

#[test]
fn canonicalize() {
    check("canonicalize");
}

#[test]
fn cse() {
    check("cse");
}

#[test]
fn dce() {
    check("dce");
}

#[test]
fn fold() {
    check("fold");
}

#[test]
fn infer() {
    check("infer");
}

#[test]
fn legalize() {
    check("legalize");
}

#[test]
fn fuse() {
    check("fuse");
}

#[test]
fn unpack() {
    check("unpack");
}

#[test]
fn windows() {
    check("windows");
}
