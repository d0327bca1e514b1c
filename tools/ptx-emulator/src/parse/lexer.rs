//! Text to tokens.

use std::ops::Range;

use logos::Logos;

use crate::diagnostic::Problem;

/// A token's kind; its text is the span's.
#[derive(Logos, Clone, Copy, Debug, PartialEq, Eq)]
#[logos(skip r"[ \t\r\n\f]+")]
#[logos(skip(r"//[^\n]*", allow_greedy = true))]
#[logos(skip r"/\*([^*]|\*+[^*/])*\*+/")]
pub enum Token {
    /// `.s32`, `.shared::cta`, `.2d`, `.reg`: a directive or a modifier, with its point.
    #[regex(r"\.[a-zA-Z0-9_$]+(::[a-zA-Z0-9_]+)*", priority = 5)]
    Dotted,
    /// `add`, `%r1`, `$L__BB0_2`, `_`.
    #[regex(r"[a-zA-Z_$%][a-zA-Z0-9_$]*")]
    Word,
    /// `0f3F800000`: the bits of an f32.
    #[regex(r"0[fF][0-9a-fA-F]{8}", priority = 8)]
    SingleBits,
    /// `0d3FF0000000000000`: the bits of an f64.
    #[regex(r"0[dD][0-9a-fA-F]{16}", priority = 8)]
    DoubleBits,
    /// `12`, `0x1F`, `017`, `0b101`, with an optional `U`.
    #[regex(r"0[xX][0-9a-fA-F]+U?", priority = 7)]
    #[regex(r"0[bB][01]+U?", priority = 7)]
    #[regex(r"[0-9]+U?", priority = 6)]
    Integer,
    /// `1.5e-3`, `.5`; also the number of `.version`.
    #[regex(r"[0-9]+\.[0-9]*([eE][+-]?[0-9]+)?", priority = 7)]
    #[regex(r"[0-9]+[eE][+-]?[0-9]+", priority = 6)]
    #[regex(r"\.[0-9]+([eE][+-]?[0-9]+)?", priority = 6)]
    Decimal,
    /// `"nounroll"`.
    #[regex(r#""[^"\n]*""#)]
    Text,
    /// `{`
    #[token("{")]
    OpenBrace,
    /// `}`
    #[token("}")]
    CloseBrace,
    /// `[`
    #[token("[")]
    OpenBracket,
    /// `]`
    #[token("]")]
    CloseBracket,
    /// `(`
    #[token("(")]
    OpenParenthesis,
    /// `)`
    #[token(")")]
    CloseParenthesis,
    /// `<`
    #[token("<")]
    Less,
    /// `>`
    #[token(">")]
    Greater,
    /// `,`
    #[token(",")]
    Comma,
    /// `;`
    #[token(";")]
    Semicolon,
    /// `:`
    #[token(":")]
    Colon,
    /// `=`
    #[token("=")]
    Equals,
    /// `@`
    #[token("@")]
    At,
    /// `!`
    #[token("!")]
    Exclamation,
    /// `|`
    #[token("|")]
    Bar,
    /// `+`
    #[token("+")]
    Plus,
    /// `-`
    #[token("-")]
    Minus,
    /// `*`
    #[token("*")]
    Star,
    /// `/`
    #[token("/")]
    Slash,
    /// `~`
    #[token("~")]
    Tilde,
    /// `&`
    #[token("&")]
    Ampersand,
    /// `^`
    #[token("^")]
    Caret,
}

/// A stretch of the source, in bytes.
pub type Span = Range<usize>;

/// Splits a source into tokens.
pub fn tokens(source: &str) -> Result<Vec<(Token, Span)>, Problem> {
    let mut tokens = Vec::with_capacity(source.len() / 4);
    for (token, span) in Token::lexer(source).spanned() {
        match token {
            Ok(token) => tokens.push((token, span)),
            Err(()) => {
                let text: String = source[span.clone()].chars().take(20).collect();
                return Err(Problem::new(span, format!("`{}` is not PTX", text.escape_debug())));
            }
        }
    }
    Ok(tokens)
}
