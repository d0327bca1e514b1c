//! Safetensors files.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(folder) = tempfile::tempdir() else { return };
    let path = folder.path().join("model.safetensors");
    if std::fs::write(&path, bytes).is_err() {
        return;
    }
    if let Ok(weights) = tessera_runtime::Weights::open(&path) {
        for (_, weight) in weights.iter() {
            assert!(weight.bytes.as_slice().len() <= bytes.len());
        }
    }
});
