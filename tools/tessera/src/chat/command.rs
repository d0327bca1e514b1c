//! What a line of input asks for.

use tessera_models::chat::Effort;

use crate::arguments::Visibility;

/// A line of input.
#[derive(Debug, PartialEq)]
pub enum Command {
    Nothing,
    /// A message to the model.
    Say(String),
    Help,
    Reset,
    Quit,
    Effort(Effort),
    System(Option<String>),
    Developer(Option<String>),
    Reasoning(Visibility),
    /// What a function that the model called returned.
    Tool {
        name: String,
        content: String,
    },
}

pub const HELP: &str = "\
/reset                      forget what was said
/effort low|medium|high     how much the model thinks
/reasoning show|hide        whether that is shown
/system [TEXT]              tell the model who it is
/developer [TEXT]           give it instructions
/tool NAME RESULT           answer its call of a function
/help                       this
/quit                       end, as Ctrl-D does
A message that begins with / is typed with two of them. A line that ends with \\ goes on in the next.";

impl Command {
    /// Reads a line, or says what is wrong with it.
    pub fn parse(line: &str) -> Result<Self, String> {
        let line = line.trim();
        let Some(command) = line.strip_prefix('/') else {
            return Ok(if line.is_empty() { Self::Nothing } else { Self::Say(line.to_owned()) });
        };
        if command.starts_with('/') {
            return Ok(Self::Say(command.to_owned()));
        }
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        let text = || (!rest.is_empty()).then(|| rest.to_owned());
        Ok(match (name, rest) {
            ("help", "") => Self::Help,
            ("reset", "") => Self::Reset,
            ("quit" | "exit", "") => Self::Quit,
            ("effort", "low") => Self::Effort(Effort::Low),
            ("effort", "medium") => Self::Effort(Effort::Medium),
            ("effort", "high") => Self::Effort(Effort::High),
            ("effort", _) => return Err("/effort is low, medium or high".to_owned()),
            ("reasoning", "show") => Self::Reasoning(Visibility::Show),
            ("reasoning", "hide") => Self::Reasoning(Visibility::Hide),
            ("reasoning", _) => return Err("/reasoning is show or hide".to_owned()),
            ("system", _) => Self::System(text()),
            ("developer", _) => Self::Developer(text()),
            ("tool", _) => match rest.split_once(char::is_whitespace) {
                Some((name, content)) => Self::Tool { name: name.to_owned(), content: content.trim().to_owned() },
                None => return Err("/tool is given a function's name and what it returned".to_owned()),
            },
            _ => return Err(format!("there is no /{command}; /help lists what there is")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        let say = |text: &str| Ok(Command::Say(text.into()));
        let cases = [
            ("", Ok(Command::Nothing)),
            ("  hello \n", say("hello")),
            ("//etc/passwd?", say("/etc/passwd?")),
            ("/help", Ok(Command::Help)),
            ("/exit", Ok(Command::Quit)),
            ("/effort high", Ok(Command::Effort(Effort::High))),
            ("/effort", Err("/effort is low, medium or high".into())),
            ("/reasoning hide", Ok(Command::Reasoning(Visibility::Hide))),
            ("/system  You are brief. ", Ok(Command::System(Some("You are brief.".into())))),
            ("/developer", Ok(Command::Developer(None))),
            ("/tool f {\"a\": 1}", Ok(Command::Tool { name: "f".into(), content: "{\"a\": 1}".into() })),
            ("/tool f", Err("/tool is given a function's name and what it returned".into())),
            ("/reset now", Err("there is no /reset now; /help lists what there is".into())),
            ("/", Err("there is no /; /help lists what there is".into())),
        ];
        for (line, wanted) in cases {
            assert_eq!(Command::parse(line), wanted, "{line:?}");
        }
    }

    #[test]
    fn help_lists_every_command() {
        for name in ["reset", "effort", "reasoning", "system", "developer", "tool", "help", "quit"] {
            assert!(HELP.contains(&format!("/{name}")));
            assert!(!matches!(Command::parse(&format!("/{name}")), Err(problem) if problem.starts_with("there is no")));
        }
    }
}
