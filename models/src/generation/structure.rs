//! Forms that new text must have: JSON of a schema, or a regular expression, kept by forbidding tokens that would break it.

use std::sync::{Arc, OnceLock};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::contain::contained;
use crate::error::{ModelError, Result};
use crate::tokenizer::Tokenizer;

/// A form that new text must have.
#[derive(Debug, Clone, PartialEq)]
pub struct Structure {
    /// The form.
    pub grammar: Grammar,
    /// Where the text begins that must have it.
    pub begins: Begin,
}

/// A form of text.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// JSON that a JSON schema describes. Unless the schema says otherwise (in `x-guidance`, see llguidance), it is written on one
    /// line.
    JsonSchema(Value),
    /// Text that matches a regular expression (of the `regex` crate, without look-around) from its beginning to its end.
    Regex(String),
}

/// Where in a sequence the structured text begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// With the first new token.
    AtOnce,
    /// With the token after the first `then` that follows the tokens `marker`: what comes before, such as reasoning, is free.
    After {
        /// These tokens, one after the other, among the new ones.
        marker: Vec<u32>,
        /// The token that ends what the marker begins.
        then: u32,
    },
}

impl Structure {
    /// The whole new text has this form.
    pub fn at_once(grammar: Grammar) -> Self {
        Self { grammar, begins: Begin::AtOnce }
    }
}

/// Makes grammars into what is asked for each token. The vocabulary's prefix tree is built for the first one, and shared.
pub(super) struct Structures {
    vocabulary: usize,
    factory: OnceLock<std::result::Result<ParserFactory, String>>,
}

impl Structures {
    pub fn new(vocabulary: usize) -> Self {
        Self { vocabulary, factory: OnceLock::new() }
    }

    pub fn compile(&self, structure: &Structure, tokenizer: Option<&Arc<Tokenizer>>) -> Result<StructureState> {
        let (value, grammar) = match &structure.grammar {
            Grammar::JsonSchema(schema) => {
                (schema.to_string(), TopLevelGrammar::from_json_schema(on_one_line(schema.clone())))
            }
            Grammar::Regex(expression) => (format!("/{expression}/"), TopLevelGrammar::from_regex(expression)),
        };
        let refused = |expected: String| ModelError::Parameter { field: "structure", value: value.clone(), expected };
        let Some(tokenizer) = tokenizer else {
            return Err(refused("needs a tokenizer, and there is none".to_owned()));
        };
        if let Begin::After { marker, then } = &structure.begins {
            let outside = marker.iter().chain([then]).find(|token| **token as usize >= self.vocabulary);
            if let Some(token) = outside {
                return Err(refused(format!("begins after token {token}, which is outside the vocabulary")));
            }
        }
        let factory = self.factory.get_or_init(|| factory(tokenizer, self.vocabulary));
        let factory = factory.as_ref().map_err(|error| refused(error.clone()))?;
        let unusable = |error: String| refused(format!("is not usable: {error}"));
        // The schema is the user's, and the compiler of grammars not ours.
        let parser = contained(|| factory.create_parser(grammar)).map_err(unusable)?;
        let mut matcher = Matcher::new(parser);
        if let Some(error) = matcher.get_error() {
            return Err(unusable(error));
        }
        let mask = matcher.compute_mask().map_err(|error| unusable(error.to_string()))?;
        let phase = match &structure.begins {
            Begin::AtOnce => Phase::Inside,
            Begin::After { marker, .. } if marker.is_empty() => Phase::Marked,
            Begin::After { .. } => Phase::Before,
        };
        let end = self.vocabulary as u32;
        Ok(StructureState { begins: structure.begins.clone(), seen: Vec::new(), phase, matcher, mask, end })
    }
}

/// JSON on one line, with or without a space after commas and colons: free white space would let a model write nothing else.
fn on_one_line(mut schema: Value) -> Value {
    if let Some(fields) = schema.as_object_mut() {
        let compact = json!({ "whitespace_flexible": false, "item_separator": ", ?", "key_separator": ": ?" });
        fields.entry("x-guidance").or_insert(compact);
    }
    schema
}

fn factory(tokenizer: &Arc<Tokenizer>, vocabulary: usize) -> std::result::Result<ParserFactory, String> {
    let mut words = tokenizer.token_bytes().map_err(|error| error.to_string())?;
    words.resize(vocabulary, Vec::new());
    // The end of the text is a token of its own, after all others: which tokens stop a sequence is each request's business.
    words.push([&[TokTrie::SPECIAL_TOKEN_MARKER], &b"<|end of text|>"[..]].concat());
    let info = TokRxInfo::new(words.len() as u32, vocabulary as u32);
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words)));
    let slices = llguidance::earley::SlicedBiasComputer::general_slices();
    let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
        .map_err(|error| error.to_string())?;
    factory.quiet();
    Ok(factory)
}

/// How far a sequence is in its structure.
pub(super) struct StructureState {
    begins: Begin,
    /// The last tokens before the marker is complete.
    seen: Vec<u32>,
    phase: Phase,
    matcher: Matcher,
    /// The tokens that may come next inside the structure.
    mask: SimpleVob,
    /// The token that ends the text, which the mask knows and the model does not.
    end: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The marker has not been seen.
    Before,
    /// It has, and what ends it has not.
    Marked,
    Inside,
    Complete,
}

impl std::fmt::Debug for StructureState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("StructureState").field("phase", &self.phase).finish_non_exhaustive()
    }
}

impl StructureState {
    /// Forbids the tokens that may not come next. Where the text may end, `stop` tokens are free.
    pub fn allow(&self, row: &mut [f32], stop: &[u32]) {
        if self.phase != Phase::Inside {
            return;
        }
        let may_end = self.mask.is_allowed(self.end);
        for (token, logit) in row.iter_mut().enumerate() {
            let token = token as u32;
            let allowed = self.mask.is_allowed(token) || (may_end && stop.contains(&token));
            if !allowed {
                *logit = f32::NEG_INFINITY;
            }
        }
    }

    /// Takes the next token of the sequence; false if the structure cannot go on with it.
    pub fn push(&mut self, token: u32) -> bool {
        match (self.phase, &self.begins) {
            (Phase::Before, Begin::After { marker, .. }) => {
                self.seen.push(token);
                let extra = self.seen.len().saturating_sub(marker.len());
                self.seen.drain(..extra);
                if self.seen == *marker {
                    self.phase = Phase::Marked;
                }
            }
            (Phase::Marked, Begin::After { then, .. }) if *then == token => self.phase = Phase::Inside,
            (Phase::Inside, _) => {
                if self.matcher.consume_token(token).is_err() {
                    return false;
                }
                if self.matcher.is_stopped() {
                    self.phase = Phase::Complete;
                } else {
                    match self.matcher.compute_mask() {
                        Ok(mask) => self.mask = mask,
                        Err(_) => return false,
                    }
                }
            }
            _ => {}
        }
        if self.phase == Phase::Inside && self.mask.num_set() == usize::from(self.mask.is_allowed(self.end)) {
            self.phase = Phase::Complete;
        }
        true
    }

    /// Whether nothing can follow but the end.
    pub fn is_complete(&self) -> bool {
        self.phase == Phase::Complete
    }
}

#[cfg(test)]
mod tests;
