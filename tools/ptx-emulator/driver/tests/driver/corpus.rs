//! Every kernel of the corpus, through the driver API, against numpy.

use std::process::Command;

use crate::{library, python, root};

#[test]
fn every_kernel_of_the_corpus_passes() {
    let Some(python) = python() else { return };
    let corpus = root().join("tools/ptx-emulator/tests/corpus");
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
