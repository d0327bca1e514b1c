//! Lines of input: from a terminal with editing and history, or from a pipe.

use std::io::{BufRead, IsTerminal, stdin, stdout};

use miette::{IntoDiagnostic, Result, WrapErr};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

/// Where lines come from.
pub enum Input {
    Terminal(Box<DefaultEditor>),
    Pipe,
}

/// A line, or why there is none.
pub enum Line {
    Text(String),
    Interrupted,
    End,
}

impl Input {
    pub fn open() -> Result<Self> {
        if stdin().is_terminal() && stdout().is_terminal() {
            let editor = DefaultEditor::new().into_diagnostic().wrap_err("cannot read from the terminal")?;
            return Ok(Self::Terminal(Box::new(editor)));
        }
        Ok(Self::Pipe)
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// The next line; what ends with a backslash goes on in the one after it.
    pub fn read(&mut self) -> Result<Line> {
        let mut text = String::new();
        loop {
            let prompt = if text.is_empty() { "> " } else { "… " };
            match self.read_one(prompt)? {
                Line::Text(line) => match line.strip_suffix('\\') {
                    Some(begun) => {
                        text += begun;
                        text.push('\n');
                    }
                    None => {
                        text += &line;
                        if let Self::Terminal(editor) = self {
                            // A history that does not take a line has none.
                            let _ = editor.add_history_entry(&text);
                        }
                        return Ok(Line::Text(text));
                    }
                },
                Line::End if !text.is_empty() => return Ok(Line::Text(text)),
                other => return Ok(other),
            }
        }
    }

    fn read_one(&mut self, prompt: &str) -> Result<Line> {
        match self {
            Self::Terminal(editor) => match editor.readline(prompt) {
                Ok(line) => Ok(Line::Text(line)),
                Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(error) => Err(error).into_diagnostic().wrap_err("cannot read from the terminal"),
            },
            Self::Pipe => {
                let mut bytes = Vec::new();
                let count = stdin().lock().read_until(b'\n', &mut bytes);
                if count.into_diagnostic().wrap_err("cannot read standard input")? == 0 {
                    return Ok(Line::End);
                }
                // What is no UTF-8 is no reason to end the conversation.
                let line = String::from_utf8_lossy(&bytes);
                Ok(Line::Text(line.trim_end_matches(['\n', '\r']).to_owned()))
            }
        }
    }
}
