//! Giving openai-harmony its vocabulary without a network.
//!
//! That crate reads the vocabulary from the folder that TIKTOKEN_ENCODINGS_BASE names; else it looks in a cache folder
//! (TIKTOKEN_RS_CACHE_DIR, by default `tiktoken-rs-cache` among the temporary files), and downloads what it does not find there. The tiktoken-rs crate carries
//! the same vocabulary, so it is put there first. openai-harmony checks its SHA-256.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::error::{ModelError, Result};

/// What openai-harmony calls the vocabulary in its cache: the SHA-1 of where it would download it from.
const CACHED_NAME: &str = "fb374d419588a4632f3f557e76b4b70aebbca790";

/// Tokens that are text.
const TEXT_TOKENS: u32 = 199_998;

/// Sees to it that openai-harmony finds its vocabulary.
pub fn provide() -> Result<()> {
    if std::env::var_os("TIKTOKEN_ENCODINGS_BASE").is_some() {
        // The user has one.
        return Ok(());
    }
    let folder = std::env::var_os("TIKTOKEN_RS_CACHE_DIR")
        .map_or_else(|| std::env::temp_dir().join("tiktoken-rs-cache"), PathBuf::from);
    provide_in(&folder)
}

fn provide_in(folder: &Path) -> Result<()> {
    let path = folder.join(CACHED_NAME);
    let vocabulary = vocabulary()?;
    if fs::read(&path).is_ok_and(|found| found == vocabulary.as_bytes()) {
        return Ok(());
    }
    // Whole or not at all, for others may read it at this moment.
    let unfinished = folder.join(format!(".{CACHED_NAME}.{}", std::process::id()));
    let written = fs::create_dir_all(folder)
        .and_then(|()| fs::write(&unfinished, vocabulary))
        .and_then(|()| fs::rename(&unfinished, &path));
    written.map_err(|error| {
        let _ = fs::remove_file(&unfinished);
        ModelError::Tokenizer(format!(
            "cannot write the vocabulary for openai-harmony to {}: {error}; set TIKTOKEN_RS_CACHE_DIR to a folder that can be written, or \
             TIKTOKEN_ENCODINGS_BASE to one with o200k_base.tiktoken",
            path.display()
        ))
    })
}

/// `o200k_base.tiktoken`: a line for each token, its bytes in base 64 and its rank.
fn vocabulary() -> Result<String> {
    let encoding = tiktoken_rs::o200k_harmony_singleton();
    let mut text = String::with_capacity(4 << 20);
    for rank in 0..TEXT_TOKENS {
        let bytes = encoding
            .decode_bytes(&[rank])
            .map_err(|error| ModelError::Tokenizer(format!("tiktoken-rs lacks token {rank}: {error}")))?;
        BASE64_STANDARD.encode_string(bytes, &mut text);
        text += &format!(" {rank}\n");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_vocabulary_is_replaced_and_a_folder_that_cannot_be_written_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache").join(CACHED_NAME);
        provide_in(&folder.path().join("cache")).unwrap();
        let whole = fs::read(&path).unwrap();
        assert_eq!(whole.iter().filter(|byte| **byte == b'\n').count(), TEXT_TOKENS as usize);
        fs::write(&path, "damaged").unwrap();
        provide_in(&folder.path().join("cache")).unwrap();
        assert!(fs::read(&path).unwrap() == whole);
        let error = provide_in(&path).unwrap_err().to_string();
        assert!(error.contains("set TIKTOKEN_RS_CACHE_DIR"), "{error}");
    }
}
