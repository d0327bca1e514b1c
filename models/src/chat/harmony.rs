//! gpt-oss's own format, by the openai-harmony crate.

use std::sync::{Arc, OnceLock};

use openai_harmony::chat::{
    Author, ChannelConfig, Content, DeveloperContent, Message, ReasoningEffort, Role, SystemContent, ToolDescription,
};
use openai_harmony::{HarmonyEncoding, HarmonyEncodingName, StreamableParser, load_harmony_encoding};

use super::headers::{CHANNELS, guess};
use super::{Answer, Conversation, Delta, Effort, Turn, vocabulary};
use crate::contain::contained;
use crate::error::{ModelError, Result};
use crate::generation::Begin;

/// Ends an answer that is complete.
pub const RETURN: u32 = 200_002;
/// Begins the name of a message's format.
pub const CONSTRAIN: u32 = 200_003;
/// Begins the name of a message's channel.
pub const CHANNEL: u32 = 200_005;
/// Begins a message: its role follows.
pub const START: u32 = 200_006;
/// Ends a message.
pub const END: u32 = 200_007;
/// Ends a message's header: its content follows.
pub const MESSAGE: u32 = 200_008;
/// Ends a message that calls a function.
pub const CALL: u32 = 200_012;

/// The special tokens by name.
pub const SPECIAL_TOKENS: [(&str, u32); 7] = [
    ("<|return|>", RETURN),
    ("<|constrain|>", CONSTRAIN),
    ("<|channel|>", CHANNEL),
    ("<|start|>", START),
    ("<|end|>", END),
    ("<|message|>", MESSAGE),
    ("<|call|>", CALL),
];

/// The first token that is no text.
const FIRST_SPECIAL: u32 = 199_998;
/// The first number that no token has.
pub const FIRST_UNKNOWN: u32 = 201_089;

/// Names of functions are in this namespace.
const FUNCTIONS: &str = "functions.";

/// The longest header that is waited for. Real ones have a role, a channel, a recipient and a format.
const LONGEST_HEADER: usize = 64;

/// Renders conversations for gpt-oss.
#[derive(Debug, Clone)]
pub struct Harmony {
    encoding: Arc<HarmonyEncoding>,
}

impl Harmony {
    /// Loads the vocabulary, once in a process, and with no network.
    pub fn load() -> Result<Self> {
        static LOADED: OnceLock<std::result::Result<Arc<HarmonyEncoding>, String>> = OnceLock::new();
        let load = || {
            vocabulary::provide().map_err(|error| error.to_string())?;
            contained(|| load_harmony_encoding(HarmonyEncodingName::HarmonyGptOss))?
                .map(Arc::new)
                .map_err(|error| format!("openai-harmony cannot load its vocabulary: {error:#}"))
        };
        let encoding = LOADED.get_or_init(load).clone().map_err(ModelError::Tokenizer)?;
        Ok(Self { encoding })
    }

    /// The openai-harmony encoding.
    pub fn encoding(&self) -> &HarmonyEncoding {
        &self.encoding
    }

    /// The tokens of a conversation, up to where the model's answer begins. What the model thought before its last final answer is
    /// left out, as it was in its training.
    pub fn render(&self, conversation: &Conversation) -> Result<Vec<u32>> {
        let messages = messages(conversation);
        let last_final = messages.iter().rposition(|message| message.channel.as_deref() == Some("final"));
        let forgotten = |index: usize, message: &Message| {
            last_final.is_some_and(|last| index < last) && message.channel.as_deref() == Some("analysis")
        };
        let kept = messages.iter().enumerate().filter(|(index, message)| !forgotten(*index, message));
        let kept: Vec<&Message> = kept.map(|(_, message)| message).collect();
        contained(|| self.encoding.render_conversation_for_completion(kept, Role::Assistant, None))
            .map_err(ModelError::Tokenizer)?
            .map_err(|error| ModelError::Tokenizer(format!("cannot render the conversation: {error:#}")))
    }

    /// Where the text of a final answer begins.
    pub fn begin_of_text(&self) -> Result<Begin> {
        let mut marker = vec![CHANNEL];
        marker.extend(self.encoding.tokenizer().encode_ordinary("final"));
        Ok(Begin::After { marker, then: MESSAGE })
    }

    /// The text of tokens, special ones written out.
    fn decode(&self, tokens: &[u32]) -> String {
        let known = tokens.iter().copied().filter(|token| *token < FIRST_UNKNOWN);
        let bytes = self.encoding.tokenizer().decode_bytes(known.collect::<Vec<_>>()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A conversation as harmony's messages.
pub fn messages(conversation: &Conversation) -> Vec<Message> {
    let setting = &conversation.setting;
    let mut system = SystemContent::new()
        .with_reasoning_effort(match setting.effort {
            Effort::Low => ReasoningEffort::Low,
            Effort::Medium => ReasoningEffort::Medium,
            Effort::High => ReasoningEffort::High,
        })
        .with_channel_config(ChannelConfig::require_channels(CHANNELS));
    if let Some(identity) = &setting.system {
        system = system.with_model_identity(identity);
    }
    if let Some(date) = &setting.date {
        system = system.with_conversation_start_date(date);
    }
    let mut messages = vec![Message::from_role_and_content(Role::System, system)];
    if setting.developer.is_some() || !setting.tools.is_empty() {
        let mut developer = DeveloperContent::new();
        if let Some(instructions) = &setting.developer {
            developer = developer.with_instructions(instructions);
        }
        if !setting.tools.is_empty() {
            let describe =
                |tool: &super::Tool| ToolDescription::new(&tool.name, &tool.description, tool.parameters.clone());
            developer = developer.with_function_tools(setting.tools.iter().map(describe).collect());
        }
        messages.push(Message::from_role_and_content(Role::Developer, developer));
    }
    for turn in &conversation.turns {
        match turn {
            Turn::User(text) => messages.push(Message::from_role_and_content(Role::User, text)),
            Turn::Assistant(answer) if answer.messages.is_empty() => messages.extend(messages_of(answer)),
            Turn::Assistant(answer) => messages.extend(answer.messages.iter().cloned()),
            Turn::Tool { name, content } => {
                let author = Author::new(Role::Tool, qualified(name, setting));
                let message = Message::from_author_and_content(author, content);
                messages.push(message.with_recipient("assistant").with_channel("commentary"));
            }
        }
    }
    messages
}

/// The messages of an answer of which only the parts are known.
fn messages_of(answer: &Answer) -> Vec<Message> {
    let said = |text: &str, channel: &str| {
        let message = Message::from_role_and_content(Role::Assistant, text).with_channel(channel);
        (!text.is_empty()).then_some(message)
    };
    let calls = answer.calls.iter().map(|call| {
        let recipient = if call.name.contains('.') { call.name.clone() } else { format!("{FUNCTIONS}{}", call.name) };
        Message::from_role_and_content(Role::Assistant, &call.arguments)
            .with_channel("commentary")
            .with_recipient(recipient)
            .with_content_type("<|constrain|>json")
    });
    said(&answer.reasoning, "analysis")
        .into_iter()
        .chain(said(&answer.commentary, "commentary"))
        .chain(calls)
        .chain(said(&answer.text, "final"))
        .collect()
}

/// A function's name as the model knows it.
fn qualified(name: &str, setting: &super::Setting) -> String {
    if setting.tools.iter().any(|tool| tool.name == name) { format!("{FUNCTIONS}{name}") } else { name.to_owned() }
}

/// Parses an answer of gpt-oss. openai-harmony's parser is given only what it takes; the rest is mended first.
pub struct Parser {
    harmony: Harmony,
    inner: StreamableParser,
    /// How many of the inner parser's messages are in `messages`.
    taken: usize,
    messages: Vec<Message>,
    state: State,
    /// Bytes of the message's content that have been handed out.
    sent: usize,
}

enum State {
    /// Between messages.
    Between,
    /// In a header, of which these tokens have come since the role.
    Header(Vec<u32>),
    /// In a message's content.
    Content(Kind),
}

/// What a message is to its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Commentary,
    Text,
    Call,
}

impl Parser {
    /// A parser of what follows `<|start|>assistant`.
    pub fn new(harmony: &Harmony) -> Result<Self> {
        let inner = fresh(harmony).map_err(ModelError::Tokenizer)?;
        let state = State::Header(Vec::new());
        Ok(Self { harmony: harmony.clone(), inner, taken: 0, messages: Vec::new(), state, sent: 0 })
    }

    /// The messages that are complete.
    pub fn take_messages(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.messages)
    }

    /// Takes the next token.
    pub fn push(&mut self, token: u32, deltas: &mut Vec<Delta>) {
        if token >= FIRST_UNKNOWN {
            return;
        }
        match (&mut self.state, token) {
            (State::Between, END | RETURN | CALL) => {}
            (State::Between, START) => self.state = State::Header(Vec::new()),
            // A message that begins without saying so.
            (State::Between, _) => {
                self.state = State::Header(Vec::new());
                self.push(token, deltas);
            }
            (State::Header(header), MESSAGE) => {
                let header = std::mem::take(header);
                self.begin(&header, deltas);
            }
            (State::Header(header), END | RETURN | CALL) => {
                // A message without content, or content without a header.
                let header = std::mem::take(header);
                self.state = State::Between;
                if header.iter().any(|token| *token < FIRST_SPECIAL) {
                    self.mend(&header, deltas);
                    self.push(token, deltas);
                }
            }
            (State::Header(header), START) => {
                let header = std::mem::take(header);
                if !guess(&self.harmony.decode(&header)).text.is_empty() {
                    self.mend(&header, deltas);
                    self.push(END, deltas);
                }
                self.state = State::Header(Vec::new());
            }
            (State::Header(header), _) => {
                header.push(token);
                if header.len() > LONGEST_HEADER {
                    let header = std::mem::take(header);
                    self.mend(&header, deltas);
                }
            }
            (State::Content(kind), END | RETURN | CALL) => {
                let kind = *kind;
                self.feed(token, kind, deltas);
                self.state = State::Between;
                self.collect();
            }
            // The next message begins, and this one did not say that it ends.
            (State::Content(_), START | CHANNEL) => {
                self.push(END, deltas);
                self.push(token, deltas);
            }
            // Of special tokens, no other makes sense here, and none is text.
            (State::Content(_), FIRST_SPECIAL..) => {}
            (State::Content(kind), _) => {
                let kind = *kind;
                self.feed(token, kind, deltas);
            }
        }
    }

    /// Takes the end of the stream.
    pub fn finish(&mut self, deltas: &mut Vec<Delta>) {
        match &mut self.state {
            State::Between => {}
            State::Header(header) => {
                let header = std::mem::take(header);
                self.state = State::Between;
                if !guess(&self.harmony.decode(&header)).text.is_empty() {
                    self.mend(&header, deltas);
                    self.push(END, deltas);
                }
            }
            State::Content(_) => self.push(END, deltas),
        }
    }

    /// A header is complete: has openai-harmony read it, or mends it.
    fn begin(&mut self, header: &[u32], deltas: &mut Vec<Delta>) {
        if self.restart().and_then(|()| self.feed_header(header)).is_err() {
            return self.mend(header, deltas);
        }
        let text = self.harmony.decode(header);
        let channel = self.inner.current_channel();
        let known = channel.as_deref().and_then(|channel| CHANNELS.into_iter().find(|known| *known == channel));
        // A word alone is a recipient to openai-harmony. One that is not addressed calls nothing.
        let recipient = self.inner.current_recipient().filter(|name| text.contains(&format!("to={name}")));
        if known.is_none() && recipient.is_none() && !guess(&text).text.is_empty() {
            return self.mend(header, deltas);
        }
        self.enter(known.unwrap_or("final"), recipient, deltas);
    }

    /// Takes a header that is none for what it most likely is.
    fn mend(&mut self, header: &[u32], deltas: &mut Vec<Delta>) {
        let guess = guess(&self.harmony.decode(header));
        let mut mended = format!("<|channel|>{}", guess.channel);
        if let Some(recipient) = &guess.recipient {
            mended += &format!(" to={recipient}");
        }
        let tokens = self.harmony.encoding.tokenizer().encode_with_special_tokens(&mended);
        if let Err(error) = self.restart().and_then(|()| self.feed_header(&tokens)) {
            tracing::warn!(error, mended, "openai-harmony refuses a header that was made for it");
            self.state = State::Between;
            deltas.push(Delta::Text(guess.text));
            return;
        }
        self.enter(guess.channel, guess.recipient, deltas);
        for token in self.harmony.encoding.tokenizer().encode_ordinary(&guess.text) {
            self.push(token, deltas);
        }
    }

    fn feed_header(&mut self, header: &[u32]) -> std::result::Result<(), String> {
        header.iter().chain([&MESSAGE]).try_for_each(|token| process(&mut self.inner, *token))
    }

    fn enter(&mut self, channel: &str, recipient: Option<String>, deltas: &mut Vec<Delta>) {
        let called = recipient.filter(|name| !matches!(name.as_str(), "assistant" | "user" | "all"));
        let kind = match (called, channel) {
            (Some(name), _) => {
                deltas.push(Delta::Call(name.strip_prefix(FUNCTIONS).unwrap_or(&name).to_owned()));
                Kind::Call
            }
            (None, "analysis") => Kind::Reasoning,
            (None, "commentary") => Kind::Commentary,
            (None, _) => Kind::Text,
        };
        self.state = State::Content(kind);
    }

    /// Feeds a token of a message's content, or its end.
    fn feed(&mut self, token: u32, kind: Kind, deltas: &mut Vec<Delta>) {
        let is_end = token >= FIRST_SPECIAL;
        let text = match process(&mut self.inner, token) {
            // With the end come bytes that never became a character.
            Ok(()) if is_end => self.inner.messages().last().and_then(|message| match &message.content[..] {
                [Content::Text(content)] => content.text.get(self.sent..).map(str::to_owned),
                _ => None,
            }),
            Ok(()) => self.inner.last_content_delta().ok().flatten(),
            Err(error) => {
                tracing::warn!(error, token, "openai-harmony refuses a token");
                Some(self.harmony.decode(&[token])).filter(|_| !is_end)
            }
        };
        let Some(text) = text.filter(|text| !text.is_empty()) else { return };
        self.sent += text.len();
        deltas.push(match kind {
            Kind::Reasoning => Delta::Reasoning(text),
            Kind::Commentary => Delta::Commentary(text),
            Kind::Text => Delta::Text(text),
            Kind::Call => Delta::Arguments(text),
        });
    }

    /// Begins anew at a header.
    fn restart(&mut self) -> std::result::Result<(), String> {
        self.collect();
        self.inner = fresh(&self.harmony)?;
        (self.taken, self.sent) = (0, 0);
        Ok(())
    }

    fn collect(&mut self) {
        self.messages.extend(self.inner.messages().iter().skip(self.taken).cloned());
        self.taken = self.inner.messages().len();
    }
}

fn fresh(harmony: &Harmony) -> std::result::Result<StreamableParser, String> {
    StreamableParser::new((*harmony.encoding).clone(), Some(Role::Assistant)).map_err(|error| format!("{error:#}"))
}

fn process(parser: &mut StreamableParser, token: u32) -> std::result::Result<(), String> {
    contained(|| parser.process(token).map(|_| ()))?.map_err(|error| format!("{error:#}"))
}
