//! Programs of others on the driver: what they do, they do unchanged.

mod c_program;
mod corpus;
mod cudarc_program;
mod random_calls;
mod tensor_maps;
mod triton;

use std::path::{Path, PathBuf};

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

/// The library, which cargo has built beside this test.
fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().join("libcuda.so")
}

/// Python with the packages of `requirements.txt`: what `TESSERA_PYTHON` names, or the `.venv` that `make setup` makes.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("TESSERA_PYTHON").map(PathBuf::from);
    let found = named.or_else(|| Some(root().join(".venv/bin/python3")).filter(|python| python.exists()));
    if found.is_none() {
        not_run("`make setup` installs Python's packages into .venv, or TESSERA_PYTHON names a Python that has them");
    }
    found
}

/// Says that a test is not run, for what is missing. It fails where the environment names what tests need, as `make test` does.
fn not_run(missing: &str) {
    let named = ["TESSERA_PYTHON", "TESSERA_PTXAS"].into_iter().any(|name| std::env::var_os(name).is_some());
    assert!(!named, "cannot run: {missing}");
    eprintln!("not run: {missing}");
}

/// A folder with the library under the names that programs look for.
fn library_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["libcuda.so.1", "libcuda.so"] {
        std::os::unix::fs::symlink(library(), folder.path().join(name)).unwrap();
    }
    folder
}
