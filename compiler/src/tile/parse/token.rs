//! The words of the text form.

use std::ops::Range;

use winnow::ascii::digit1;
use winnow::combinator::{alt, dispatch, fail, opt, peek, preceded};
use winnow::error::ContextError;
use winnow::stream::{LocatingSlice, Location};
use winnow::token::{any, take_while};
use winnow::{ModalResult, Parser};

use super::ParseError;

/// What a token is; the text is what its kind does not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind<'a> {
    /// `%name`
    Value(&'a str),
    /// `@name`
    Name(&'a str),
    /// A keyword or the name of an operation or element.
    Word(&'a str),
    /// Digits and what may belong to them: a number, or the type of a tile (`4x8xf32`).
    Number(&'a str),
    /// One of `( ) [ ] { } , : = / ..`
    Punctuation(&'a str),
    /// `// text`
    Comment(&'a str),
    /// The end of the text.
    End,
}

impl std::fmt::Display for Kind<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::Value(text) => write!(f, "`%{text}`"),
            Kind::Name(text) => write!(f, "`@{text}`"),
            Kind::Word(text) | Kind::Number(text) | Kind::Punctuation(text) => write!(f, "`{text}`"),
            Kind::Comment(_) => f.write_str("a comment"),
            Kind::End => f.write_str("the end"),
        }
    }
}

/// A token and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind<'a>,
    /// Bytes of the source.
    pub(super) span: Range<usize>,
}

type Input<'a> = LocatingSlice<&'a str>;

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Words joined by dots; `..` is not part of a name.
fn name<'a>(input: &mut Input<'a>) -> ModalResult<&'a str, ContextError> {
    let words = take_while(1.., is_word);
    (words, winnow::combinator::repeat::<_, _, (), _, _>(0.., ('.', take_while(1.., is_word)))).take().parse_next(input)
}

fn number<'a>(input: &mut Input<'a>) -> ModalResult<&'a str, ContextError> {
    let exponent = (alt(('e', 'E')), opt(alt(('+', '-'))), digit1);
    let digits = (digit1, opt(('.', digit1)), opt(exponent), take_while(0.., is_word)).void();
    (opt('-'), alt((digits, "inf".void()))).take().parse_next(input)
}

fn kind<'a>(input: &mut Input<'a>) -> ModalResult<Kind<'a>, ContextError> {
    dispatch! {peek(any);
        '%' => preceded('%', take_while(1.., is_word)).map(Kind::Value),
        '@' => preceded('@', name).map(Kind::Name),
        '/' => alt((
            preceded("//", take_while(0.., |c| c != '\n')).map(|text: &str| Kind::Comment(text.trim_end())),
            "/".map(Kind::Punctuation),
        )),
        '0'..='9' | '-' => number.map(Kind::Number),
        '.' => "..".map(Kind::Punctuation),
        '(' | ')' | '[' | ']' | '{' | '}' | ',' | ':' | '=' => any.take().map(Kind::Punctuation),
        c if is_word(c) => take_while(1.., is_word).map(Kind::Word),
        _ => fail,
    }
    .parse_next(input)
}

/// All tokens of a text, with [`Kind::End`] at the end.
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let mut input = LocatingSlice::new(text);
    let mut tokens = Vec::new();
    loop {
        let blank: ModalResult<&str, ContextError> = take_while(0.., char::is_whitespace).parse_next(&mut input);
        let start = input.current_token_start();
        if blank.is_err() || start == text.len() {
            tokens.push(Token { kind: Kind::End, span: start..start });
            return Ok(tokens);
        }
        match kind(&mut input) {
            Ok(kind) => tokens.push(Token { kind, span: start..input.previous_token_end() }),
            Err(_) => {
                let length = text[start..].chars().next().map_or(0, char::len_utf8);
                let shown = &text[start..start + length];
                return Err(ParseError::new(text, start..start + length, format!("`{shown}` begins no word here")));
            }
        }
    }
}
