//! Tokens of the text form.

use std::fmt;

use winnow::combinator::{alt, not, opt, preceded, repeat, separated};
use winnow::prelude::*;
use winnow::stream::{LocatingSlice, Location, Stream};
use winnow::token::{any, none_of, one_of, take_while};

use crate::diagnostic::{Diagnostic, DiagnosticKind};
use crate::graph::Span;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind<'s> {
    /// A keyword, number, symbol, element type or shape: letters, digits and `_`, or a number.
    Word(&'s str),
    /// `@name`, without the `@`; perhaps in quotation marks.
    Global(&'s str),
    /// `%name`, without the `%`; perhaps in quotation marks.
    Value(&'s str),
    /// Text in quotation marks, with them.
    Text(&'s str),
    /// One of `{ } ( ) [ ] < > : , = -> ..=`.
    Mark(&'s str),
    /// The end of the text.
    End,
}

impl fmt::Display for TokenKind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenKind::Word(text) | TokenKind::Mark(text) => write!(f, "`{text}`"),
            TokenKind::Global(name) => write!(f, "`@{name}`"),
            TokenKind::Value(name) => write!(f, "`%{name}`"),
            TokenKind::Text(text) => f.write_str(text),
            TokenKind::End => f.write_str("the end of the text"),
        }
    }
}

/// A token and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Token<'s> {
    pub(super) kind: TokenKind<'s>,
    pub(super) span: Span,
    /// Whether it is the first of its line.
    pub(super) starts_line: bool,
}

type Input<'s> = LocatingSlice<&'s str>;

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Blanks and comments; gives whether a line ended.
fn blank(input: &mut Input<'_>) -> winnow::Result<bool> {
    let space = take_while(1.., char::is_whitespace).map(|text: &str| text.contains('\n'));
    let comment = preceded("//", take_while(0.., |c| c != '\n')).map(|_: &str| false);
    repeat(0.., alt((space, comment))).fold(|| false, |ended, here| ended | here).parse_next(input)
}

fn digits<'s>(input: &mut Input<'s>) -> winnow::Result<&'s str> {
    take_while(1.., |c: char| c.is_ascii_digit()).parse_next(input)
}

fn number<'s>(input: &mut Input<'s>) -> winnow::Result<&'s str> {
    let exponent = (one_of(['e', 'E']), opt(one_of(['+', '-'])), digits);
    (opt('-'), digits, opt(('.', digits)), opt(exponent), not(one_of(is_word))).take().parse_next(input)
}

fn word<'s>(input: &mut Input<'s>) -> winnow::Result<&'s str> {
    (opt('-'), take_while(1.., is_word)).take().parse_next(input)
}

fn quoted<'s>(input: &mut Input<'s>) -> winnow::Result<&'s str> {
    let escaped = ('\\', none_of(['\n'])).void();
    let plain = none_of(['"', '\\', '\n']).void();
    ('"', repeat::<_, (), (), _, _>(0.., alt((plain, escaped))), '"').take().parse_next(input)
}

fn name<'s>(input: &mut Input<'s>) -> winnow::Result<&'s str> {
    let dotted = separated::<_, _, (), _, _, _, _>(1.., take_while(1.., is_word), '.').take();
    alt((quoted, dotted)).parse_next(input)
}

fn mark<'s>(input: &mut Input<'s>) -> winnow::Result<&'s str> {
    alt(("->", "..=", one_of(['{', '}', '(', ')', '[', ']', '<', '>', ':', ',', '=']).take())).parse_next(input)
}

fn token<'s>(input: &mut Input<'s>) -> winnow::Result<TokenKind<'s>> {
    alt((
        mark.map(TokenKind::Mark),
        number.map(TokenKind::Word),
        word.map(TokenKind::Word),
        preceded('@', name).map(TokenKind::Global),
        preceded('%', name).map(TokenKind::Value),
        quoted.map(TokenKind::Text),
    ))
    .parse_next(input)
}

/// Cuts `source` into tokens, the last of which is [`TokenKind::End`]. Characters that begin no token
/// are reported and passed over.
pub(super) fn tokens<'s>(source: &'s str, diagnostics: &mut Vec<Diagnostic>) -> Vec<Token<'s>> {
    let mut input = LocatingSlice::new(source);
    let mut tokens = Vec::new();
    let mut starts_line = true;
    loop {
        starts_line |= blank(&mut input).unwrap_or(false);
        let (start, checkpoint) = (input.current_token_start(), input.checkpoint());
        match token(&mut input) {
            Ok(kind) => {
                let span = start..input.previous_token_end();
                tokens.push(Token { kind, span, starts_line });
                starts_line = false;
            }
            Err(_) => {
                input.reset(&checkpoint);
                let next: winnow::Result<char> = any.parse_next(&mut input);
                let Ok(c) = next else { break };
                let span = start..start + c.len_utf8();
                let error = Diagnostic::new(DiagnosticKind::Character, format!("{c:?} has no place here"), span);
                diagnostics.push(match c {
                    '"' => error.help("text in quotation marks ends on the line where it begins"),
                    '@' | '%' => {
                        error.help("a name follows here: letters, digits, `_` and `.`, or text in quotation marks")
                    }
                    '/' | '#' | ';' => error.help("comments begin with //"),
                    _ => error,
                });
            }
        }
    }
    tokens.push(Token { kind: TokenKind::End, span: source.len()..source.len(), starts_line: true });
    tokens
}

/// The text that a name or text token stands for: the characters between quotation marks, with
/// escapes replaced, or the token itself.
pub(super) fn unquoted(token: &str) -> Result<String, String> {
    let Some(inner) = token.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return Ok(token.to_owned());
    };
    let mut text = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(c) = characters.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match characters.next() {
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('t') => text.push('\t'),
            Some(c @ ('"' | '\\')) => text.push(c),
            Some('u') => {
                let rest = characters.as_str();
                let code = rest
                    .strip_prefix('{')
                    .and_then(|rest| rest.split_once('}'))
                    .and_then(|(code, rest)| Some((char::from_u32(u32::from_str_radix(code, 16).ok()?)?, rest)));
                let Some((c, rest)) = code else {
                    return Err("`\\u` is followed by a code in braces, as in \\u{e9}".to_owned());
                };
                text.push(c);
                characters = rest.chars();
            }
            other => {
                let shown = other.map(String::from).unwrap_or_default();
                return Err(format!("`\\{shown}` is no escape; there are \\n \\r \\t \\\" \\\\ \\u{{…}}"));
            }
        }
    }
    Ok(text)
}
