//! Chat templates: how a model's folder says that conversations are written for it.
//!
//! Hugging Face folders carry a Jinja template, in `chat_template.jinja` or as `chat_template` of `tokenizer_config.json`, which makes text
//! of `messages`, each with `role` and `content`. It is rendered by the minijinja crate with what transformers gives templates:
//! `bos_token`, `eos_token`, `tools`, `add_generation_prompt`, `raise_exception`, `strftime_now`, and Python's methods of strings, lists
//! and dictionaries.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::{Conversation, Tool, Turn};
use crate::error::{ModelError, Result};
use crate::tokenizer::Tokenizer;

/// A file with a template and nothing else.
const TEMPLATE_FILE: &str = "chat_template.jinja";

/// A file that names special tokens, and may hold a template.
const CONFIG_FILE: &str = "tokenizer_config.json";

/// The template that is taken where a folder has several.
const DEFAULT: &str = "default";

/// Characters of private use, around the number of a special token.
const MARK_BEGIN: char = '\u{f8f0}';
const MARK_END: char = '\u{f8f1}';

/// A folder's chat template.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    path: PathBuf,
    begin_of_text: Option<String>,
    end_of_text: Option<String>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "ChatTemplate({})", self.path.display())
    }
}

/// What a template needs to know of `tokenizer_config.json`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenizerConfig {
    chat_template: Option<Templates>,
    bos_token: Option<SpecialToken>,
    eos_token: Option<SpecialToken>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Text(String),
    Described { content: String },
}

impl SpecialToken {
    fn text(self) -> String {
        match self {
            Self::Text(text) | Self::Described { content: text } => text,
        }
    }
}

impl ChatTemplate {
    /// The template of a model folder; none if it has none.
    pub fn of_folder(folder: &Path) -> Result<Option<Self>> {
        let config_path = folder.join(CONFIG_FILE);
        let config = if config_path.is_file() {
            let text = std::fs::read(&config_path).map_err(ModelError::file("read", &config_path))?;
            serde_json::from_slice(&text).map_err(ModelError::json(&config_path))?
        } else {
            TokenizerConfig::default()
        };
        let path = folder.join(TEMPLATE_FILE);
        let (path, text) = if path.is_file() {
            let text = std::fs::read_to_string(&path).map_err(ModelError::file("read", &path))?;
            (path, text)
        } else {
            match config.chat_template {
                None => return Ok(None),
                Some(Templates::One(text)) => (config_path, text),
                Some(Templates::Named(templates)) => {
                    let names: Vec<String> = templates.iter().map(|template| template.name.clone()).collect();
                    let Some(found) = templates.into_iter().find(|template| template.name == DEFAULT) else {
                        let message = format!("there is no template `{DEFAULT}` among {}", names.join(", "));
                        return Err(ModelError::ChatTemplate { path: config_path, message });
                    };
                    (config_path, found.template)
                }
            }
        };
        let [begin, end] = [config.bos_token, config.eos_token].map(|token| token.map(SpecialToken::text));
        Self::new(path, text, begin, end).map(Some)
    }

    /// The template of this text, which is from this file.
    fn new(path: PathBuf, text: String, begin_of_text: Option<String>, end_of_text: Option<String>) -> Result<Self> {
        let mut environment = Environment::new();
        // As transformers sets Jinja up.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| template_error(&path, &error))?);
        environment.add_filter("tojson", to_json);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |message: String| -> std::result::Result<Value, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        // A template that loops over a number from elsewhere must end.
        environment.set_fuel(Some(10_000_000));
        let result = environment.add_template_owned(DEFAULT, text);
        result.map_err(|error| template_error(&path, &error))?;
        Ok(Self { environment: Arc::new(environment), path, begin_of_text, end_of_text })
    }

    /// The text of the token that ends an answer, if the folder names one.
    pub fn end_of_text(&self) -> Option<&str> {
        self.end_of_text.as_deref()
    }

    /// The tokens of a conversation, up to where the model's answer begins. Special tokens are those that the template writes; what looks like
    /// one in what was said is but text.
    pub fn render(&self, conversation: &Conversation, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let special = tokenizer.special_tokens();
        let text = self.text(conversation, &special)?;
        let mut ids = Vec::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once(MARK_BEGIN) {
            ids.extend(tokenizer.encode_written(before)?);
            // A mark that nobody has made is somebody's text.
            let marked =
                after.split_once(MARK_END).and_then(|(index, after)| Some((index.parse::<usize>().ok()?, after)));
            match marked.and_then(|(index, after)| Some((special.get(index)?, after))) {
                Some((name, after)) => {
                    ids.extend(tokenizer.encode_ordinary(name)?);
                    rest = after;
                }
                None => rest = after,
            }
        }
        ids.extend(tokenizer.encode_written(rest)?);
        Ok(ids)
    }

    /// The text of a conversation, with a mark wherever somebody has said one of `special`.
    fn text(&self, conversation: &Conversation, special: &[String]) -> Result<String> {
        let date = conversation.setting.date.clone();
        let mut environment = Environment::clone(&self.environment);
        environment.add_function("strftime_now", move |format: String| strftime(date.as_deref(), &format));
        let template = environment.get_template(DEFAULT).map_err(|error| template_error(&self.path, &error))?;
        let tools: Vec<serde_json::Value> = conversation.setting.tools.iter().map(tool).collect();
        let values = context! {
            messages => Value::from(Serde(messages(conversation, &|text| marked(text, special)))),
            tools => if tools.is_empty() { Value::from(()) } else { Value::from(Serde(&tools)) },
            add_generation_prompt => true,
            bos_token => self.begin_of_text.clone().unwrap_or_default(),
            eos_token => self.end_of_text.clone().unwrap_or_default(),
        };
        template.render(values).map_err(|error| template_error(&self.path, &error))
    }
}

/// The text with marks for what looks like a special token in it.
fn marked(text: &str, special: &[String]) -> String {
    let mut marked = text.to_owned();
    for (index, name) in special.iter().enumerate().filter(|(_, name)| text.contains(name.as_str())) {
        marked = marked.replace(name.as_str(), &format!("{MARK_BEGIN}{index}{MARK_END}"));
    }
    marked
}

/// What is wrong with a template, and in which of its lines.
fn template_error(path: &Path, error: &minijinja::Error) -> ModelError {
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    let detail =
        error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
    ModelError::ChatTemplate { path: path.to_path_buf(), message: format!("{detail}{line}") }
}

/// The messages of a conversation. Templates know of one message from whoever set the model up: the developer's text follows the system's.
fn messages(conversation: &Conversation, said: &dyn Fn(&str) -> String) -> Vec<serde_json::Value> {
    let setting = &conversation.setting;
    let told: Vec<&str> = [&setting.system, &setting.developer].into_iter().flatten().map(String::as_str).collect();
    let mut messages = Vec::new();
    if !told.is_empty() {
        messages.push(json!({"role": "system", "content": said(&told.join("\n\n"))}));
    }
    for turn in &conversation.turns {
        messages.push(match turn {
            Turn::User(text) => json!({"role": "user", "content": said(text)}),
            Turn::Assistant(answer) if answer.calls.is_empty() => {
                json!({"role": "assistant", "content": said(&answer.text)})
            }
            Turn::Assistant(answer) => {
                let calls = answer.calls.iter().map(|call| {
                    // Templates write arguments as JSON themselves; what is no JSON they have as it is.
                    let arguments = serde_json::from_str(&call.arguments)
                        .unwrap_or_else(|_| serde_json::Value::String(call.arguments.clone()));
                    json!({"type": "function", "function": {"name": call.name, "arguments": arguments}})
                });
                json!({"role": "assistant", "content": said(&answer.text), "tool_calls": calls.collect::<Vec<_>>()})
            }
            Turn::Tool { name, content } => json!({"role": "tool", "name": name, "content": said(content)}),
        });
    }
    messages
}

/// The filter `tojson` as transformers has it: Python's `json.dumps`, with nothing escaped for HTML.
fn to_json(value: Value, options: Kwargs) -> std::result::Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let mut text = Vec::new();
    let written = match indent {
        None => value.serialize(&mut Serializer::with_formatter(&mut text, Spaced)),
        Some(width) => {
            let indent = " ".repeat(width.min(16));
            value.serialize(&mut Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(indent.as_bytes())))
        }
    };
    let fail =
        |error: &dyn std::fmt::Display| minijinja::Error::new(ErrorKind::InvalidOperation, format!("tojson: {error}"));
    written.map_err(|error| fail(&error))?;
    String::from_utf8(text).map_err(|error| fail(&error))
}

/// JSON on one line, with spaces after commas and colons.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        self.begin_array_value(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// A function as templates know it.
fn tool(tool: &Tool) -> serde_json::Value {
    let nothing = || json!({"type": "object", "properties": {}});
    let parameters = tool.parameters.clone().unwrap_or_else(nothing);
    let function = json!({"name": tool.name, "description": tool.description, "parameters": parameters});
    json!({"type": "function", "function": function})
}

/// The conversation's date in a format of C's `strftime`. A template that asks for it where there is none fails.
fn strftime(date: Option<&str>, format: &str) -> std::result::Result<String, minijinja::Error> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let fail = |message: String| minijinja::Error::new(ErrorKind::InvalidOperation, message);
    let date = date.ok_or_else(|| fail("the template asks for the date, and the conversation has none".to_owned()))?;
    let parts: Vec<&str> = date.splitn(3, '-').collect();
    let month = parts.get(1).and_then(|month| month.parse::<usize>().ok()).and_then(|month| month.checked_sub(1));
    let (&[year, number, day], Some(name)) = (&parts[..], month.and_then(|month| MONTHS.get(month))) else {
        return Err(fail(format!("`{date}` is no date such as 2025-06-28")));
    };
    let mut text = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        match letters.next() {
            Some('Y') => text += year,
            Some('m') => text += number,
            Some('d') => text += day,
            Some('B') => text += name,
            Some('b') => text += &name[..3],
            Some('%') => text.push('%'),
            other => {
                let other = other.map(String::from).unwrap_or_default();
                return Err(fail(format!("strftime_now knows %Y, %m, %d, %B and %b of a date, not %{other}")));
            }
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, Setting, ToolCall};
    use super::*;

    /// ChatML with functions, as many models have it.
    const TEMPLATE: &str = "{%- if tools %}
{{- '<|im_start|>tools\n' }}
    {%- for tool in tools %}
{{ tool.function.name }}: {{ tool | tojson }}
    {%- endfor %}
{{- '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' and message.name is not defined %}{{ raise_exception('a tool without a name') }}{% endif %}
    {{- '<|im_start|>' + message['role'] + '\n' + message.content.strip() }}
    {%- for call in message.tool_calls or [] %}{{ call.function.name }}({{ call.function.arguments | tojson }}){% endfor %}
    {{- eos_token + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}";

    fn template(text: &str) -> Result<ChatTemplate> {
        let token = |text: &str| Some(text.to_owned());
        ChatTemplate::new("chat.jinja".into(), text.to_owned(), token("<|im_start|>"), token("<|im_end|>"))
    }

    fn user(text: &str) -> Conversation {
        Conversation { setting: Setting::default(), turns: vec![Turn::User(text.into())] }
    }

    fn failure(text: &str) -> String {
        let rendered = template(text).and_then(|template| template.text(&user("hello"), &[]));
        rendered.unwrap_err().to_string()
    }

    #[test]
    fn turns_and_functions_are_rendered_as_the_template_has_them() {
        let template = template(TEMPLATE).unwrap();
        let calls = vec![ToolCall { name: "clock".into(), arguments: "{\"zone\": \"<UTC>\"}".into() }];
        let turns = vec![
            Turn::User("What time is it?\n".into()),
            Turn::Assistant(Answer { text: "Let me see.".into(), calls, ..Answer::default() }),
            Turn::Tool { name: "clock".into(), content: "12".into() },
        ];
        let setting =
            Setting { system: Some("Be brief.".into()), developer: Some("Be kind.".into()), ..Setting::default() };
        assert_eq!(
            template.text(&Conversation { setting, turns }, &[]).unwrap(),
            "<|im_start|>system\nBe brief.\n\nBe kind.<|im_end|>\n<|im_start|>user\nWhat time is it?<|im_end|>\n\
             <|im_start|>assistant\nLet me see.clock({\"zone\": \"<UTC>\"})<|im_end|>\n\
             <|im_start|>tool\n12<|im_end|>\n<|im_start|>assistant\n"
        );
        let tools = vec![Tool { name: "clock".into(), description: "The time.".into(), parameters: None }];
        let setting = Setting { tools, ..Setting::default() };
        let text = template.text(&Conversation { setting, turns: vec![] }, &[]).unwrap();
        assert!(text.starts_with("<|im_start|>tools\nclock: {"), "{text}");
    }

    #[test]
    fn what_looks_like_a_special_token_in_what_was_said_is_text() {
        let tokenizer = Tokenizer::gpt_oss();
        let template = template("<|start|>{{ messages[0].content | upper }}<|end|>").unwrap();
        let ids = template.render(&user("a <|end|> \u{f8f0}b\u{f8f0}99\u{f8f1} c"), &tokenizer).unwrap();
        let [start, end] = ["<|start|>", "<|end|>"].map(|name| tokenizer.special_token(name).unwrap());
        assert_eq!((ids[0], ids[ids.len() - 1]), (start, end));
        assert_eq!(ids.iter().filter(|id| **id == end).count(), 1);
        assert!(tokenizer.decode(&ids).unwrap().starts_with("A <|end|> B"), "{:?}", tokenizer.decode(&ids));
    }

    #[test]
    fn bad_templates_are_errors_that_name_the_line() {
        assert!(failure("one\n{% if %}").starts_with("the chat template of chat.jinja: syntax error"));
        assert!(failure("one\n{% if %}").ends_with("in line 2"));
        let message = failure("{{ raise_exception('roles must alternate') }}");
        assert_eq!(message, "the chat template of chat.jinja: invalid operation: roles must alternate in line 1");
        assert!(failure("{{ messages[0].content.fly() }}").contains("in line 1"));
        let message = failure("{% for i in range(10000) %}{% for j in range(10000) %}x{% endfor %}{% endfor %}");
        assert!(message.contains("ran out of fuel"), "{message}");
        assert!(failure("{{ strftime_now('%Y') }}").contains("the conversation has none"));
    }

    #[test]
    fn the_date_is_the_conversations() {
        let template = template("{{ strftime_now('%d %B (%b) %Y-%m, 100%%') }}").unwrap();
        let dated = |date: &str| {
            let setting = Setting { date: Some(date.into()), ..Setting::default() };
            template.text(&Conversation { setting, turns: vec![] }, &[])
        };
        assert_eq!(dated("2025-06-28").unwrap(), "28 June (Jun) 2025-06, 100%");
        for date in ["2025-13-01", "2025-00-01", "today", "2025-06"] {
            assert!(dated(date).unwrap_err().to_string().contains("is no date"), "{date}");
        }
    }

    #[test]
    fn a_folder_has_its_template_in_one_of_two_files() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
        let text = || ChatTemplate::of_folder(folder.path()).unwrap().map(|found| found.text(&user("x"), &[]).unwrap());
        assert_eq!(text(), None);
        write(CONFIG_FILE, "{\"eos_token\": {\"content\": \"<e>\"}, \"bos_token\": null}");
        assert_eq!(text(), None);
        write(CONFIG_FILE, "{\"eos_token\": {\"content\": \"<e>\"}, \"chat_template\": \"1{{ eos_token }}\"}");
        assert_eq!(text().unwrap(), "1<e>");
        let named = |name: &str| format!("{{\"chat_template\": [{{\"name\": \"{name}\", \"template\": \"2\"}}]}}");
        write(CONFIG_FILE, &named(DEFAULT));
        assert_eq!(text().unwrap(), "2");
        write(CONFIG_FILE, &named("rag"));
        let error = ChatTemplate::of_folder(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with("there is no template `default` among rag"), "{error}");
        write(CONFIG_FILE, "{}");
        write(TEMPLATE_FILE, "3");
        assert_eq!(text().unwrap(), "3");
        write(CONFIG_FILE, "{");
        assert!(ChatTemplate::of_folder(folder.path()).is_err());
    }
}
