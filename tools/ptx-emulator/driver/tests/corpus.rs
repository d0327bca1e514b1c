//! Every kernel of the corpus, through the driver API, against numpy.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Python with numpy and ml_dtypes: what `TESSERA_PYTHON` names, or the `.venv` that `make setup` makes.
fn python(root: &Path) -> Option<PathBuf> {
    let named = std::env::var_os("TESSERA_PYTHON").map(PathBuf::from);
    named.or_else(|| Some(root.join(".venv/bin/python3")).filter(|python| python.exists()))
}

/// The library, which cargo has built beside this test.
fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().join("libcuda.so")
}

#[test]
fn every_kernel_of_the_corpus_passes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let Some(python) = python(&root) else {
        eprintln!("not run: `make setup` installs Python with numpy into .venv, or TESSERA_PYTHON names one");
        return;
    };
    let corpus = root.join("tools/ptx-emulator/tests/corpus");
    let checked = Command::new(python)
        .arg(corpus.join("check.py"))
        .arg("--driver")
        .arg(library())
        .arg("--corpus")
        .arg(&corpus)
        .args(["--jobs", "2"])
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{report}{}", String::from_utf8_lossy(&checked.stderr));
    assert!(report.contains("50 passed, 0 failed"), "{report}");
}
