//! Text to token ids and back.

use std::path::Path;

use serde::de::IgnoredAny;

use crate::contain::contained;
use crate::error::{ModelError, Result};

/// The vocabulary size of GPT-2's own tokenizer, end of text included.
pub const GPT2_VOCABULARY: u64 = 50257;

/// A tokenizer: a folder's own `tokenizer.json`, or GPT-2's byte-pair encoding, which this crate carries.
pub struct Tokenizer {
    kind: Kind,
}

enum Kind {
    HuggingFace(Box<tokenizers::Tokenizer>),
    /// OpenAI's `r50k_base`, compiled into the program: no network, no file.
    Gpt2(&'static tiktoken_rs::CoreBPE),
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self.kind {
            Kind::HuggingFace(_) => "Tokenizer(tokenizer.json)",
            Kind::Gpt2(_) => "Tokenizer(GPT-2)",
        })
    }
}

impl Tokenizer {
    /// The tokenizer of a model folder: its `tokenizer.json`, or GPT-2's own where the vocabulary has its size.
    pub fn open_folder(folder: &Path, vocabulary: u64) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        if path.is_file() {
            return Self::open_file(&path);
        }
        if vocabulary == GPT2_VOCABULARY {
            return Ok(Self::gpt2());
        }
        Err(ModelError::MissingFile {
            folder: folder.to_path_buf(),
            file: "tokenizer.json".to_owned(),
            help: format!(
                "a tokenizer is built in only for GPT-2's vocabulary of {GPT2_VOCABULARY}, and this model has {vocabulary}"
            ),
        })
    }

    /// Reads a `tokenizer.json`.
    pub fn open_file(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(ModelError::file("read", path))?;
        // Syntax first: this error has a line and a column.
        let _: IgnoredAny = serde_json::from_slice(&bytes).map_err(ModelError::json(path))?;
        let malformed = |error: String| ModelError::Tokenizer(format!("{} is malformed: {error}", path.display()));
        let tokenizer = contained(|| tokenizers::Tokenizer::from_bytes(&bytes))
            .map_err(malformed)?
            .map_err(|error| malformed(error.to_string()))?;
        Ok(Self { kind: Kind::HuggingFace(Box::new(tokenizer)) })
    }

    /// GPT-2's own tokenizer.
    pub fn gpt2() -> Self {
        Self { kind: Kind::Gpt2(tiktoken_rs::r50k_base_singleton()) }
    }

    /// The token ids of a text; special tokens written out in it (`<|endoftext|>`) become their ids.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => {
                let failed = |error: String| ModelError::Tokenizer(format!("cannot encode the text: {error}"));
                let encoding = contained(|| tokenizer.encode(text, true)).map_err(failed)?;
                encoding.map(|encoding| encoding.get_ids().to_vec()).map_err(|error| failed(error.to_string()))
            }
            Kind::Gpt2(bpe) => Ok(bpe.encode_with_special_tokens(text)),
        }
    }

    /// The text of token ids, without special tokens. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let failed = |error: String| ModelError::Tokenizer(format!("cannot decode the ids: {error}"));
        match &self.kind {
            Kind::HuggingFace(tokenizer) => {
                contained(|| tokenizer.decode(ids, true)).map_err(failed)?.map_err(|error| failed(error.to_string()))
            }
            Kind::Gpt2(bpe) => {
                let ordinary: Vec<u32> =
                    ids.iter().copied().filter(|&id| u64::from(id) < GPT2_VOCABULARY - 1).collect();
                let bytes = bpe.decode_bytes(&ordinary).map_err(|error| failed(error.to_string()))?;
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
        }
    }

    /// Starts decoding ids that arrive one by one.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self, ids: Vec::new(), settled: 0, printed: 0 }
    }
}

/// Turns ids that arrive one by one into text, holding back characters whose bytes are not all there yet.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    /// Decoding starts here: everything before has been printed whole.
    settled: usize,
    /// How many bytes of the text of `ids[settled..]` have been handed out.
    printed: usize,
}

impl TextStream<'_> {
    /// Takes the next id and returns the text that is now complete; it may be empty.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids[self.settled..])?;
        // A trailing replacement character is a character in the making.
        if text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        Ok(self.emit(text))
    }

    /// Returns what was held back: bytes that never became a character, as U+FFFD.
    pub fn finish(mut self) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids[self.settled..])?;
        Ok(self.emit(text))
    }

    fn emit(&mut self, text: String) -> String {
        let new = text.get(self.printed..).unwrap_or_default().to_owned();
        // The last id stays as context for the next: decoders treat the first id of a text specially (a leading space).
        let context = self.ids.len().saturating_sub(1);
        self.settled = context;
        self.printed = self.tokenizer.decode(&self.ids[context..]).map_or(0, |text| text.len());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpt2_needs_no_file() {
        let tokenizer = Tokenizer::gpt2();
        let ids = tokenizer.encode("Hello world<|endoftext|>").unwrap();
        assert_eq!(ids, [15496, 995, 50256]);
        assert_eq!(tokenizer.decode(&ids).unwrap(), "Hello world");
    }

    #[test]
    fn a_stream_holds_back_split_characters() {
        let tokenizer = Tokenizer::gpt2();
        let text = "naïve 日本語 🦀 text";
        let ids = tokenizer.encode(text).unwrap();
        let mut stream = tokenizer.stream();
        let mut streamed = String::new();
        for &id in &ids {
            let piece = stream.push(id).unwrap();
            assert!(!piece.contains(char::REPLACEMENT_CHARACTER));
            streamed += &piece;
        }
        streamed += &stream.finish().unwrap();
        assert_eq!(streamed, text);
    }

    #[test]
    fn an_unfinished_character_is_replaced_at_the_end() {
        let tokenizer = Tokenizer::gpt2();
        let ids = tokenizer.encode("🦀").unwrap();
        let mut stream = tokenizer.stream();
        assert_eq!(stream.push(ids[0]).unwrap(), "");
        assert_eq!(stream.finish().unwrap(), "\u{fffd}");
    }
}
