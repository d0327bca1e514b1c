//! Tests of the models crate against files: folders, weights and the checked-in IR.

mod folder;
mod gpt;
mod gpt_oss;
mod ir_files;
mod malformed;
mod reference;

use std::path::PathBuf;

/// The small trained gpt-oss that the repository carries.
fn gpt_oss_kjv() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/gpt-oss-kjv")
}

/// The small trained GPT-2 that the repository carries.
fn gpt2_kjv() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/gpt2-kjv")
}
