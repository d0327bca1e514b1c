//! Constants and constant expressions.

use super::ast::Operand;
use super::lexer::Token;
use super::{Parsed, Parser};
use crate::diagnostic::Problem;

/// The value of an integer literal: decimal, `0x`, `0b`, or octal with a leading 0; a `U` at its end says that it is unsigned.
pub fn integer(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches('U');
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, &digits[2..]),
        Some("0b" | "0B") => (2, &digits[2..]),
        Some(two) if two.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    u64::from_str_radix(digits, radix).ok()
}

impl<'a> Parser<'a> {
    /// Whether the parenthesis here opens a constant expression, not a call's operands.
    pub(super) fn constant_in_parentheses(&self) -> bool {
        matches!(self.peek_second(), Some(Token::Integer | Token::Minus | Token::Tilde))
    }

    /// A literal or an expression of integers.
    pub(super) fn constant(&mut self) -> Parsed<Operand<'a>> {
        let negative = self.peek() == Some(Token::Minus);
        let literal = if negative { self.peek_second() } else { self.peek() };
        if matches!(literal, Some(Token::SingleBits | Token::DoubleBits | Token::Decimal)) {
            self.at += usize::from(negative);
            let (span, text) = (self.span(), self.text());
            self.advance();
            let wrong = || Problem::new(span, format!("`{text}` is not a number"));
            return Ok(match literal {
                Some(Token::SingleBits) => {
                    let bits = u32::from_str_radix(&text[2..], 16).map_err(|_| wrong())?;
                    Operand::Single(if negative { bits ^ 1 << 31 } else { bits })
                }
                Some(Token::DoubleBits) => {
                    let value = f64::from_bits(u64::from_str_radix(&text[2..], 16).map_err(|_| wrong())?);
                    Operand::Double(if negative { -value } else { value })
                }
                _ => {
                    let value: f64 = text.parse().map_err(|_| wrong())?;
                    Operand::Double(if negative { -value } else { value })
                }
            });
        }
        self.sum().map(Operand::Integer)
    }

    fn sum(&mut self) -> Parsed<i128> {
        let first = self.product()?;
        let rest = self.sum_tail()?;
        self.in_range(first.checked_add(rest))
    }

    /// `+4`, `-8+2`, or nothing.
    pub(super) fn sum_tail(&mut self) -> Parsed<i128> {
        let mut value = 0i128;
        loop {
            let next = if self.eat(Token::Plus) {
                let term = self.product()?;
                value.checked_add(term)
            } else if self.eat(Token::Minus) {
                let term = self.product()?;
                value.checked_sub(term)
            } else {
                return Ok(value);
            };
            value = self.in_range(next)?;
        }
    }

    fn product(&mut self) -> Parsed<i128> {
        let mut value = self.factor()?;
        loop {
            let next = if self.eat(Token::Star) {
                let factor = self.factor()?;
                value.checked_mul(factor)
            } else if self.eat(Token::Slash) {
                let factor = self.factor()?;
                value.checked_div(factor)
            } else {
                return Ok(value);
            };
            value = self.in_range(next)?;
        }
    }

    fn factor(&mut self) -> Parsed<i128> {
        self.nested(|parser| match parser.peek() {
            Some(Token::Minus) => {
                parser.advance();
                let value = parser.factor()?;
                parser.in_range(value.checked_neg())
            }
            Some(Token::Plus) => {
                parser.advance();
                parser.factor()
            }
            Some(Token::Tilde) => {
                parser.advance();
                Ok(!parser.factor()?)
            }
            Some(Token::OpenParenthesis) => {
                parser.advance();
                // A cast, `(.s64)`, changes nothing in 128 bits.
                if parser.peek() == Some(Token::Dotted) {
                    parser.advance();
                    parser.expect(Token::CloseParenthesis, "`)`")?;
                    return parser.factor();
                }
                let value = parser.sum()?;
                parser.expect(Token::CloseParenthesis, "`)`")?;
                Ok(value)
            }
            Some(Token::Integer) => Ok(i128::from(parser.integer()?)),
            _ => parser.expected("an operand"),
        })
    }

    fn in_range(&self, value: Option<i128>) -> Parsed<i128> {
        let fits = |value: &i128| (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(value);
        value
            .filter(fits)
            .ok_or_else(|| Problem::new(self.span(), "the value of this expression does not fit in 64 bits"))
    }
}
