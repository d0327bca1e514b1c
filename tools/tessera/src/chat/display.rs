//! Answers, as they come.

use std::io::{IsTerminal, stdout};

use miette::Result;
use tessera_models::chat::Delta;
use tessera_models::generation::Timings;
use tessera_terminal::output;

use crate::arguments::Visibility;

/// Shows answers on standard output, and notes on standard error.
pub struct Display {
    /// Whether a person looks, and not a program.
    terminal: bool,
    colors: bool,
    reasoning: bool,
    timings: bool,
    /// Whether notes are kept back.
    quiet: bool,
    /// What the last piece was of.
    part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Nothing,
    Reasoning,
    Commentary,
    Text,
    Call,
}

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

impl Display {
    pub fn new(reasoning: Option<Visibility>, timings: bool, quiet: bool) -> Self {
        let terminal = stdout().is_terminal();
        let colors = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let reasoning = reasoning.map_or(terminal, |visibility| visibility == Visibility::Show);
        Self { terminal, colors, reasoning, timings, quiet, part: Part::Nothing }
    }

    pub fn show_reasoning(&mut self, visibility: Visibility) {
        self.reasoning = visibility == Visibility::Show;
    }

    /// Shows pieces of an answer.
    pub fn show(&mut self, deltas: &[Delta]) -> Result<()> {
        let mut shown = String::new();
        for delta in deltas {
            self.add(delta, &mut shown);
        }
        if shown.is_empty() { Ok(()) } else { output::write(shown.as_bytes()) }
    }

    fn add(&mut self, delta: &Delta, shown: &mut String) {
        let part = match delta {
            Delta::Reasoning(_) if !self.reasoning => return,
            Delta::Reasoning(_) => Part::Reasoning,
            Delta::Commentary(_) => Part::Commentary,
            Delta::Text(_) => Part::Text,
            Delta::Call(_) | Delta::Arguments(_) => Part::Call,
        };
        match delta {
            Delta::Call(name) => {
                // Another call is another part.
                self.leave(shown);
                self.enter(part, shown);
                *shown += &format!("→ {name} ");
            }
            Delta::Reasoning(text) | Delta::Commentary(text) | Delta::Text(text) | Delta::Arguments(text) => {
                self.enter(part, shown);
                *shown += text;
            }
        }
    }

    /// Ends an answer.
    pub fn end(&mut self, before: &Timings, after: &Timings) -> Result<()> {
        let mut shown = String::new();
        if self.part == Part::Nothing {
            // An empty answer is a line too: programs count them.
            shown.push('\n');
        }
        self.leave(&mut shown);
        output::write(shown.as_bytes())?;
        if self.timings {
            let decoded = (after.decoded_tokens - before.decoded_tokens) as f64;
            let (prefill, decode) = (after.prefill - before.prefill, after.decode - before.decode);
            self.note(&format!(
                "({} prompt tokens and {} from the cache in {:.2} s, {decoded} more at {:.1} tokens/s)",
                after.prompt_tokens - before.prompt_tokens,
                after.reused_tokens - before.reused_tokens,
                prefill.as_secs_f64(),
                decoded / decode.as_secs_f64().max(f64::MIN_POSITIVE),
            ));
        }
        Ok(())
    }

    /// Tells the user something that is none of the answer.
    pub fn note(&self, text: &str) {
        if self.quiet {
            return;
        }
        if self.colors { eprintln!("{DIM}{text}{PLAIN}") } else { eprintln!("{text}") }
    }

    fn enter(&mut self, part: Part, shown: &mut String) {
        if self.part == part {
            return;
        }
        self.leave(shown);
        if part == Part::Reasoning && self.colors {
            *shown += DIM;
        }
        self.part = part;
    }

    fn leave(&mut self, shown: &mut String) {
        if self.part == Part::Reasoning && self.colors {
            *shown += PLAIN;
        }
        if self.part != Part::Nothing {
            shown.push('\n');
            if self.part == Part::Reasoning && self.terminal {
                shown.push('\n');
            }
        }
        self.part = Part::Nothing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a display shows of an answer.
    fn shown(mut display: Display, deltas: &[Delta]) -> String {
        let mut shown = String::new();
        for delta in deltas {
            display.add(delta, &mut shown);
        }
        display.leave(&mut shown);
        shown
    }

    #[test]
    fn parts_are_lines_and_thoughts_are_dim() {
        let deltas = [
            Delta::Reasoning("Hm".into()),
            Delta::Reasoning(".".into()),
            Delta::Commentary("I look.".into()),
            Delta::Call("now".into()),
            Delta::Arguments("{}".into()),
            Delta::Call("then".into()),
            Delta::Arguments("{\"a\":".into()),
            Delta::Arguments("1}".into()),
            Delta::Text("Noon.".into()),
        ];
        let display = |terminal, reasoning| Display {
            terminal,
            colors: terminal,
            reasoning,
            timings: false,
            quiet: true,
            part: Part::Nothing,
        };
        let rest = "I look.\n→ now {}\n→ then {\"a\":1}\nNoon.\n";
        assert_eq!(shown(display(true, true), &deltas), format!("{DIM}Hm.{PLAIN}\n\n{rest}"));
        assert_eq!(shown(display(false, true), &deltas), format!("Hm.\n{rest}"));
        assert_eq!(shown(display(true, false), &deltas), rest);
    }
}
