//! Text to token ids and back.

use std::ops::Deref;
use std::path::Path;

use serde::de::IgnoredAny;
use tiktoken_rs::CoreBPE;

use crate::contain::contained;
use crate::error::{ModelError, Result};

/// The vocabulary size of GPT-2's own tokenizer, end of text included.
pub const GPT2_VOCABULARY: u64 = 50257;

/// The vocabulary size of gpt-oss, tokens that are reserved included.
pub const GPT_OSS_VOCABULARY: u64 = 201_088;

/// A tokenizer: a folder's own `tokenizer.json`, or the byte-pair encoding of GPT-2 or gpt-oss, which this crate carries.
pub struct Tokenizer {
    kind: Kind,
}

enum Kind {
    HuggingFace(Box<tokenizers::Tokenizer>),
    BuiltIn(&'static BuiltIn),
}

/// An encoding that is compiled into the program: no network, no file.
struct BuiltIn {
    name: &'static str,
    encoding: fn() -> &'static CoreBPE,
    /// The first special token; all before it are text.
    first_special: u32,
}

static GPT2: BuiltIn = BuiltIn { name: "r50k_base", encoding: tiktoken_rs::r50k_base_singleton, first_special: 50_256 };

static GPT_OSS: BuiltIn =
    BuiltIn { name: "o200k_harmony", encoding: tiktoken_rs::o200k_harmony_singleton, first_special: 199_998 };

impl BuiltIn {
    fn bytes(&self, token: u32) -> Vec<u8> {
        // Numbers that no token has are no text.
        (self.encoding)().decode_bytes(&[token]).unwrap_or_default()
    }

    /// One more than the last token's id.
    fn end(&self) -> u32 {
        let encoding = (self.encoding)();
        let ids = encoding.special_tokens().into_iter().flat_map(|name| encoding.encode_with_special_tokens(name));
        ids.max().map_or(self.first_special, |last| last + 1)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.kind {
            Kind::HuggingFace(_) => "tokenizer.json",
            Kind::BuiltIn(encoding) => encoding.name,
        };
        write!(formatter, "Tokenizer({name})")
    }
}

impl Tokenizer {
    /// The tokenizer of a model folder: its `tokenizer.json`, or GPT-2's or gpt-oss's own where the vocabulary has its size.
    pub fn open_folder(folder: &Path, vocabulary: u64) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        if path.is_file() {
            return Self::open_file(&path);
        }
        match vocabulary {
            GPT2_VOCABULARY => return Ok(Self::gpt2()),
            GPT_OSS_VOCABULARY => return Ok(Self::gpt_oss()),
            _ => {}
        }
        Err(ModelError::MissingFile {
            folder: folder.to_path_buf(),
            file: "tokenizer.json".to_owned(),
            help: format!(
                "tokenizers are built in for GPT-2's vocabulary of {GPT2_VOCABULARY} and gpt-oss's of {GPT_OSS_VOCABULARY}, \
                 and this model has {vocabulary}"
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
        Self { kind: Kind::BuiltIn(&GPT2) }
    }

    /// gpt-oss's own tokenizer, o200k_harmony.
    pub fn gpt_oss() -> Self {
        Self { kind: Kind::BuiltIn(&GPT_OSS) }
    }

    /// The id of a special token, if there is one of this name.
    pub fn special_token(&self, name: &str) -> Option<u32> {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => {
                let id = tokenizer.token_to_id(name)?;
                tokenizer.get_added_tokens_decoder().get(&id).filter(|token| token.special).map(|_| id)
            }
            Kind::BuiltIn(built_in) => {
                let encoding = (built_in.encoding)();
                let known = encoding.special_tokens().contains(name);
                known.then(|| encoding.encode_with_special_tokens(name)).and_then(|ids| ids.first().copied())
            }
        }
    }

    /// The bytes that each token stands for, by id; none for ids that no text has. Those of special tokens begin with 0xFF, which no
    /// text has.
    pub fn token_bytes(&self) -> Result<Vec<Vec<u8>>> {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => {
                let failed = |error: String| ModelError::Tokenizer(format!("cannot list the tokens: {error}"));
                let text = tokenizer.to_string(false).map_err(|error| failed(error.to_string()))?;
                let json = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
                llguidance::token_bytes_from_tokenizer_json(&json).map_err(|error| failed(error.to_string()))
            }
            Kind::BuiltIn(built_in) => {
                let text = (0..built_in.first_special).map(|token| built_in.bytes(token));
                let last = built_in.end();
                let special = (built_in.first_special..last).map(|token| match built_in.bytes(token) {
                    name if name.is_empty() => name,
                    name => [&[0xff], &name[..]].concat(),
                });
                Ok(text.chain(special).collect())
            }
        }
    }

    /// The token ids of a text in which special tokens are but text: of what a user wrote.
    pub fn encode_ordinary(&self, text: &str) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => {
                let failed = |error: String| ModelError::Tokenizer(format!("cannot encode the text: {error}"));
                // What looks like a special token is cut after its first character, so that it is none any more.
                let names = self.special_tokens();
                let mut ids = Vec::new();
                let mut rest = text;
                while !rest.is_empty() {
                    let cut = names.iter().filter_map(|name| rest.find(name.as_str())).min();
                    let cut = cut.map_or(rest.len(), |at| at + rest[at..].chars().next().map_or(1, char::len_utf8));
                    let (piece, after) = rest.split_at(cut);
                    let encoding = contained(|| tokenizer.encode(piece, false)).map_err(failed)?;
                    ids.extend_from_slice(encoding.map_err(|error| failed(error.to_string()))?.get_ids());
                    rest = after;
                }
                Ok(ids)
            }
            Kind::BuiltIn(built_in) => Ok((built_in.encoding)().encode_ordinary(text)),
        }
    }

    /// The special tokens, as they are written.
    pub fn special_tokens(&self) -> Vec<String> {
        let mut names: Vec<String> = match &self.kind {
            Kind::HuggingFace(tokenizer) => {
                let tokens = tokenizer.get_added_tokens_decoder().into_values();
                tokens.filter(|token| token.special).map(|token| token.content).collect()
            }
            Kind::BuiltIn(built_in) => (built_in.encoding)().special_tokens().into_iter().map(str::to_owned).collect(),
        };
        names.retain(|name| !name.is_empty());
        // Those that begin with another come before it.
        names.sort_unstable_by(|left, right| right.cmp(left));
        names
    }

    /// The token ids of a text that is written out to the last special token: none is added.
    pub fn encode_written(&self, text: &str) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => {
                let failed = |error: String| ModelError::Tokenizer(format!("cannot encode the text: {error}"));
                let encoding = contained(|| tokenizer.encode(text, false)).map_err(failed)?;
                encoding.map(|encoding| encoding.get_ids().to_vec()).map_err(|error| failed(error.to_string()))
            }
            Kind::BuiltIn(_) => self.encode(text),
        }
    }

    /// The token ids of a text; special tokens written out in it (`<|endoftext|>`) become their ids.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::HuggingFace(tokenizer) => {
                let failed = |error: String| ModelError::Tokenizer(format!("cannot encode the text: {error}"));
                let encoding = contained(|| tokenizer.encode(text, true)).map_err(failed)?;
                encoding.map(|encoding| encoding.get_ids().to_vec()).map_err(|error| failed(error.to_string()))
            }
            Kind::BuiltIn(built_in) => Ok((built_in.encoding)().encode_with_special_tokens(text)),
        }
    }

    /// The text of token ids, without special tokens. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let failed = |error: String| ModelError::Tokenizer(format!("cannot decode the ids: {error}"));
        match &self.kind {
            Kind::HuggingFace(tokenizer) => {
                contained(|| tokenizer.decode(ids, true)).map_err(failed)?.map_err(|error| failed(error.to_string()))
            }
            Kind::BuiltIn(built_in) => {
                let text = ids.iter().filter(|id| **id < built_in.first_special);
                let bytes: Vec<u8> = text.flat_map(|id| built_in.bytes(*id)).collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
        }
    }

    /// Starts decoding ids that arrive one by one.
    pub fn stream(&self) -> TextStream<&Tokenizer> {
        TextStream::new(self)
    }
}

/// Turns ids that arrive one by one into text, holding back characters whose bytes are not all there yet.
#[derive(Debug)]
pub struct TextStream<T> {
    tokenizer: T,
    ids: Vec<u32>,
    /// Decoding starts here: everything before has been printed whole.
    settled: usize,
    /// How many bytes of the text of `ids[settled..]` have been handed out.
    printed: usize,
}

impl<T: Deref<Target = Tokenizer>> TextStream<T> {
    /// A stream that owns or borrows its tokenizer.
    pub fn new(tokenizer: T) -> Self {
        Self { tokenizer, ids: Vec::new(), settled: 0, printed: 0 }
    }

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
