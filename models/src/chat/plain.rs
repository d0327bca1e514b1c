//! A conversation as text, for models without a format of their own.
//!
//! What the model is told comes first, each part a paragraph; then the turns, each on a line of its own after `User:`,
//! `Assistant:` or the name of the function that returned it:
//!
//! ```text
//! SYSTEM
//!
//! DEVELOPER
//!
//! User: Who made the light?
//! Assistant: God made it.
//! User: When?
//! Assistant:
//! ```
//!
//! The model goes on from there, until it ends the text or begins the user's next turn ([`STOP`]). Effort, date and functions are not
//! rendered: such models know nothing of them.

use super::{Conversation, Turn};

/// Where the user's next turn would begin: the model's answer ends before it.
pub const STOP: &str = "\nUser:";

/// The text of a conversation, up to where the model's answer begins.
pub fn render(conversation: &Conversation) -> String {
    let mut text = String::new();
    for part in [&conversation.setting.system, &conversation.setting.developer].into_iter().flatten() {
        text += part;
        text += "\n\n";
    }
    for turn in &conversation.turns {
        let (speaker, said) = match turn {
            Turn::User(said) => ("User", said),
            Turn::Assistant(answer) => ("Assistant", &answer.text),
            Turn::Tool { name, content } => (name.as_str(), content),
        };
        text += &format!("{speaker}: {}\n", said.trim());
    }
    text + "Assistant:"
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, Setting};
    use super::*;

    #[test]
    fn a_conversation_is_a_play() {
        let turns = vec![
            Turn::User("Who made the light?".into()),
            Turn::Assistant(Answer::of_text(" God made it.")),
            Turn::Tool { name: "clock".into(), content: "12".into() },
            Turn::User("When?\n".into()),
        ];
        let conversation =
            Conversation { setting: Setting { system: Some("Be brief.".into()), ..Setting::default() }, turns };
        let wanted =
            "Be brief.\n\nUser: Who made the light?\nAssistant: God made it.\nclock: 12\nUser: When?\nAssistant:";
        assert_eq!(render(&conversation), wanted);
        assert_eq!(render(&Conversation::default()), "Assistant:");
    }
}
