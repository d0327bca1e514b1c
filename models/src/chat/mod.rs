//! Conversations: rendered as the tokens that a model expects, and its answers parsed as they come.
//!
//! A model with gpt-oss's special tokens speaks [harmony](https://github.com/openai/harmony): messages with roles, channels and
//! recipients, rendered and parsed by the openai-harmony crate. A model whose folder carries a chat template is given what that makes of
//! the conversation, see [`template`]; any other one plain text, see [`plain`].
//!
//! Answers never fail to parse. Where a model's stream is malformed (a header that never ends, a channel that does not exist, a message
//! that begins inside of another), the [`AnswerParser`] takes it for what it most likely is, and text that is nothing else for
//! the answer's text.

pub mod harmony;
mod headers;
pub mod plain;
pub mod template;
mod vocabulary;

use std::sync::Arc;

use crate::error::Result;
use crate::folder::ModelFolder;
use crate::generation::{Begin, Grammar, Structure};
use crate::tokenizer::Tokenizer;

/// How much a model thinks before it answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Effort {
    /// Briefly.
    Low,
    /// As the models do by themselves.
    #[default]
    Medium,
    /// At length.
    High,
}

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// A JSON schema of its arguments, an object; none if it has none.
    pub parameters: Option<serde_json::Value>,
}

/// What a model is told before the conversation begins.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Setting {
    /// Who the model is. Without one, a harmony model is told what it was trained with.
    pub system: Option<String>,
    /// What the developer of the application wants of it.
    pub developer: Option<String>,
    /// How much it thinks.
    pub effort: Effort,
    /// The date, as 2025-06-28; none leaves the model to guess.
    pub date: Option<String>,
    /// Functions it may call.
    pub tools: Vec<Tool>,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub enum Turn {
    /// The user said this.
    User(String),
    /// The model answered this.
    Assistant(Answer),
    /// A function that the model called returned this.
    Tool {
        /// The function.
        name: String,
        /// What it returned.
        content: String,
    },
}

/// What a model is told, and what has been said since.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    /// What it is told first.
    pub setting: Setting,
    /// The turns, in order.
    pub turns: Vec<Turn>,
}

/// A model's answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// What it thought.
    pub reasoning: String,
    /// What it said on the way, before it called functions.
    pub commentary: String,
    /// What it said in the end.
    pub text: String,
    /// The functions it wants called.
    pub calls: Vec<ToolCall>,
    /// The messages it is made of, for the history; none for a model without messages.
    pub messages: Vec<openai_harmony::chat::Message>,
}

impl Answer {
    /// An answer of text alone, as it is known from elsewhere.
    pub fn of_text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}

/// A call of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// The function; one of the conversation's [`Tool`]s by its name, others (`browser.search`, `python`) as the model calls them.
    pub name: String,
    /// Its arguments as the model wrote them: for one of the conversation's tools JSON, if the model did well.
    pub arguments: String,
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// More of [`Answer::reasoning`].
    Reasoning(String),
    /// More of [`Answer::commentary`].
    Commentary(String),
    /// More of [`Answer::text`].
    Text(String),
    /// A call of this function begins: another of [`Answer::calls`].
    Call(String),
    /// More of the last call's arguments.
    Arguments(String),
}

/// How a model is talked to.
#[derive(Debug, Clone)]
pub enum ChatFormat {
    /// As gpt-oss was trained.
    Harmony(harmony::Harmony),
    /// As its folder's chat template says.
    Template {
        /// The template.
        template: template::ChatTemplate,
        /// What makes tokens of its text.
        tokenizer: Arc<Tokenizer>,
    },
    /// As text, see [`plain`].
    Plain(Arc<Tokenizer>),
}

impl ChatFormat {
    /// The format of a folder's model. A tokenizer with harmony's special tokens is taken for harmony's.
    pub fn of(folder: &ModelFolder, tokenizer: &Arc<Tokenizer>) -> Result<Self> {
        let spoken = |(name, id): &(&str, u32)| tokenizer.special_token(name) == Some(*id);
        if folder.config.vocabulary() >= u64::from(harmony::FIRST_UNKNOWN - 1)
            && harmony::SPECIAL_TOKENS.iter().all(spoken)
        {
            return Ok(Self::Harmony(harmony::Harmony::load()?));
        }
        let tokenizer = tokenizer.clone();
        Ok(match template::ChatTemplate::of_folder(&folder.path)? {
            Some(template) => Self::Template { template, tokenizer },
            None => Self::Plain(tokenizer),
        })
    }

    /// The tokens of a conversation, up to where the model's answer begins.
    pub fn render(&self, conversation: &Conversation) -> Result<Vec<u32>> {
        match self {
            Self::Harmony(harmony) => harmony.render(conversation),
            Self::Template { template, tokenizer } => template.render(conversation, tokenizer),
            Self::Plain(tokenizer) => tokenizer.encode_ordinary(&plain::render(conversation)),
        }
    }

    /// The tokens that end an answer, besides those that end a text.
    pub fn stop_tokens(&self) -> Vec<u32> {
        match self {
            Self::Harmony(_) => vec![harmony::RETURN, harmony::CALL],
            Self::Template { template, tokenizer } => {
                template.end_of_text().and_then(|end| tokenizer.special_token(end)).into_iter().collect()
            }
            Self::Plain(_) => Vec::new(),
        }
    }

    /// The texts that end an answer.
    pub fn stop_strings(&self) -> Vec<String> {
        match self {
            Self::Harmony(_) | Self::Template { .. } => Vec::new(),
            Self::Plain(_) => vec![plain::STOP.to_owned()],
        }
    }

    /// A form for the answer's text; what the model thinks before is free.
    pub fn structure(&self, grammar: Grammar) -> Result<Structure> {
        let begins = match self {
            Self::Harmony(harmony) => harmony.begin_of_text()?,
            Self::Template { .. } | Self::Plain(_) => Begin::AtOnce,
        };
        Ok(Structure { grammar, begins })
    }

    /// Starts parsing an answer.
    pub fn parser(&self) -> Result<AnswerParser> {
        Ok(AnswerParser {
            answer: Answer::default(),
            kind: match self {
                Self::Harmony(harmony) => ParserKind::Harmony(Box::new(harmony::Parser::new(harmony)?)),
                Self::Template { .. } | Self::Plain(_) => ParserKind::Plain { begun: false },
            },
        })
    }
}

/// Parses an answer, token by token.
pub struct AnswerParser {
    answer: Answer,
    kind: ParserKind,
}

enum ParserKind {
    Harmony(Box<harmony::Parser>),
    Plain {
        /// Whether there was anything but white space.
        begun: bool,
    },
}

impl AnswerParser {
    /// Takes the next token, and the text that came with it (see [`crate::generation::NewToken`]), and says what it brings.
    pub fn push(&mut self, token: u32, text: &str) -> Vec<Delta> {
        let mut deltas = Vec::new();
        match &mut self.kind {
            ParserKind::Harmony(parser) => parser.push(token, &mut deltas),
            ParserKind::Plain { begun } => {
                // The space after `Assistant:`.
                let text = if *begun { text } else { text.trim_start() };
                *begun |= !text.is_empty();
                if !text.is_empty() {
                    deltas.push(Delta::Text(text.to_owned()));
                }
            }
        }
        self.note(&deltas);
        deltas
    }

    /// Takes the end: the stop token, if the answer ended with one, and the text that had been held back. Says what that brings,
    /// and gives the whole answer.
    pub fn finish(mut self, stop_token: Option<u32>, text: &str) -> (Vec<Delta>, Answer) {
        let mut deltas = Vec::new();
        match &mut self.kind {
            ParserKind::Harmony(parser) => {
                if let Some(token) = stop_token {
                    parser.push(token, &mut deltas);
                }
                parser.finish(&mut deltas);
                self.answer.messages = parser.take_messages();
            }
            ParserKind::Plain { .. } => {
                deltas = self.push(0, text);
                return (deltas, self.answer);
            }
        }
        self.note(&deltas);
        (deltas, self.answer)
    }

    /// What there is of the answer so far.
    pub fn answer(&self) -> &Answer {
        &self.answer
    }

    fn note(&mut self, deltas: &[Delta]) {
        let answer = &mut self.answer;
        for delta in deltas {
            match delta {
                Delta::Reasoning(text) => answer.reasoning += text,
                Delta::Commentary(text) => answer.commentary += text,
                Delta::Text(text) => answer.text += text,
                Delta::Call(name) => answer.calls.push(ToolCall { name: name.clone(), arguments: String::new() }),
                Delta::Arguments(text) => {
                    if let Some(call) = answer.calls.last_mut() {
                        call.arguments += text;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
