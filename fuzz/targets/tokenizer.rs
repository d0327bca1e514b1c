//! `tokenizer.json` files, and text through those that load.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tessera_models::Tokenizer;

fuzz_target!(|bytes: &[u8]| {
    let Ok(folder) = tempfile::tempdir() else { return };
    let path = folder.path().join("tokenizer.json");
    if std::fs::write(&path, bytes).is_err() {
        return;
    }
    if let Ok(tokenizer) = Tokenizer::open_file(&path)
        && let Ok(ids) = tokenizer.encode("And God said, Let there be light")
    {
        let _ = tokenizer.decode(&ids);
    }
});
