//! What a malformed header was meant to be.

/// The channels that gpt-oss knows.
pub const CHANNELS: [&str; 3] = ["analysis", "commentary", "final"];

/// The parts of a message's header that matter to who reads the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guess {
    /// One of [`CHANNELS`].
    pub channel: &'static str,
    /// The function that is called.
    pub recipient: Option<String>,
    /// Words of the header that are none of it: text, as it seems.
    pub text: String,
}

/// Reads a header's text leniently, special tokens written out.
pub fn guess(header: &str) -> Guess {
    let mut named = None;
    let mut recipient = None;
    let mut text = Vec::new();
    // `<|channel|>` and `<|constrain|>` part words, as white space does.
    let spaced = header.replace("<|", " <|").replace("|>", "|> ");
    let mut words = spaced.split_whitespace().peekable();
    let mut after_channel = false;
    while let Some(word) = words.next() {
        if word == "<|constrain|>" {
            // A format follows.
            words.next();
        } else if word.starts_with("<|") && word.ends_with("|>") {
            after_channel = word == "<|channel|>";
            continue;
        } else if let Some(name) = word.strip_prefix("to=") {
            recipient = Some(name.to_owned()).filter(|name| !name.is_empty());
        } else if let Some(channel) = CHANNELS.into_iter().find(|channel| *channel == word)
            && (after_channel || named.is_none())
        {
            named = Some(channel);
        } else if !(text.is_empty() && matches!(word, "assistant" | "user" | "system" | "developer" | "tool")) {
            text.push(word);
        }
        after_channel = false;
    }
    // A header that says where it goes is one, and the rest of it no text.
    let is_header = named.is_some() || recipient.is_some();
    let channel = named.unwrap_or(if recipient.is_some() { "commentary" } else { "final" });
    Guess { channel, recipient, text: if is_header { String::new() } else { text.join(" ") } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_taken_for_what_they_most_likely_are() {
        let cases = [
            ("<|channel|>analysis", "analysis", None, ""),
            ("assistant<|channel|>final <|constrain|>json", "final", None, ""),
            (
                "<|channel|>commentary to=functions.f extra words <|constrain|>json",
                "commentary",
                Some("functions.f"),
                "",
            ),
            ("<|channel|>commentary to=functions.f<|constrain|>json", "commentary", Some("functions.f"), ""),
            (" to=functions.f", "commentary", Some("functions.f"), ""),
            ("<|channel|><|channel|>final", "final", None, ""),
            ("<|channel|>", "final", None, ""),
            ("<|channel|>thoughts", "final", None, "thoughts"),
            ("assistant", "final", None, ""),
            ("assistant Hello there", "final", None, "Hello there"),
            ("Hello, the assistant said", "final", None, "Hello, the assistant said"),
            ("to=", "final", None, ""),
            ("", "final", None, ""),
        ];
        for (header, channel, recipient, text) in cases {
            let wanted = Guess { channel, recipient: recipient.map(str::to_owned), text: text.to_owned() };
            assert_eq!(guess(header), wanted, "{header:?}");
        }
    }
}
