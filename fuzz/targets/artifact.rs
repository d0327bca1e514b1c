//! Bytes that are an artifact, or not.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = tessera_runtime::Artifact::from_bytes(bytes);
});
