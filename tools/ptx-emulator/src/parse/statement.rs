//! The statements of a body.

use super::ast::{Instruction, Linkage, Operand, Statement};
use super::lexer::Token;
use super::{Parsed, Parser};
use crate::diagnostic::Problem;

impl<'a> Parser<'a> {
    /// `{ … }`
    pub(super) fn body(&mut self) -> Parsed<Vec<Statement<'a>>> {
        self.expect(Token::OpenBrace, "`{`")?;
        self.nested(|parser| {
            let mut body = vec![];
            while !parser.eat(Token::CloseBrace) {
                parser.statement(&mut body)?;
            }
            Ok(body)
        })
    }

    fn statement(&mut self, body: &mut Vec<Statement<'a>>) -> Parsed<()> {
        match self.peek() {
            Some(Token::OpenBrace) => {
                let scope = self.body()?;
                body.push(Statement::Scope(scope));
            }
            Some(Token::Semicolon) => self.advance(),
            Some(Token::Dotted) => self.directive(body)?,
            Some(Token::Word) if self.peek_second() == Some(Token::Colon) => {
                let span = self.span();
                let name = self.word("a label")?;
                self.advance();
                match self.text() {
                    ".branchtargets" => {
                        self.advance();
                        let targets = self.names()?;
                        body.push(Statement::BranchTargets(name, targets));
                    }
                    ".callprototype" | ".calltargets" => {
                        while !self.eat(Token::Semicolon) {
                            if self.peek().is_none() {
                                return self.expected("`;`");
                            }
                            self.advance();
                        }
                        body.push(Statement::CallPrototype(name));
                    }
                    _ => body.push(Statement::Label(name, span)),
                }
            }
            Some(Token::Word | Token::At) => {
                let instruction = self.instruction()?;
                body.push(Statement::Instruction(instruction));
            }
            _ => return self.expected("a statement"),
        }
        Ok(())
    }

    fn names(&mut self) -> Parsed<Vec<&'a str>> {
        let mut names = vec![self.word("a label")?];
        while self.eat(Token::Comma) {
            names.push(self.word("a label")?);
        }
        self.expect(Token::Semicolon, "`;`")?;
        Ok(names)
    }

    fn directive(&mut self, body: &mut Vec<Statement<'a>>) -> Parsed<()> {
        match self.text() {
            ".loc" | ".file" => self.skip_line(),
            ".pragma" => {
                self.advance();
                self.expect(Token::Text, "a text")?;
                while self.eat(Token::Comma) {
                    self.expect(Token::Text, "a text")?;
                }
                self.expect(Token::Semicolon, "`;`")?;
            }
            _ => {
                let linkage = if self.eat_dotted(".extern") { Linkage::External } else { Linkage::Internal };
                self.variables(linkage, &mut |variable| body.push(Statement::Variable(variable)))?;
            }
        }
        Ok(())
    }

    fn instruction(&mut self) -> Parsed<Instruction<'a>> {
        let start = self.span().start;
        let guard = if self.eat(Token::At) {
            let negated = self.eat(Token::Exclamation);
            Some((self.word("a predicate")?, negated))
        } else {
            None
        };
        let name = self.word("an instruction")?;
        let mut modifiers = vec![];
        while self.peek() == Some(Token::Dotted) {
            modifiers.push(&self.text()[1..]);
            self.advance();
        }
        let mut operands = vec![];
        while self.peek() != Some(Token::Semicolon) {
            operands.push(self.operand()?);
            if !self.eat(Token::Comma) && self.peek() != Some(Token::Semicolon) {
                let end = self.span().start;
                let problem = self.expected::<()>("`,` or `;`").err();
                let text: String = self.source[start..end].chars().take(80).collect();
                return Err(problem
                    .unwrap_or_else(|| Problem::new(start..end, "unfinished instruction"))
                    .help(format!("after `{}`", text.trim())));
            }
        }
        let end = self.span().end;
        self.advance();
        Ok(Instruction { guard, name, modifiers, operands, span: start..end })
    }

    /// What stands between commas.
    pub(super) fn operand(&mut self) -> Parsed<Operand<'a>> {
        self.nested(|parser| {
            let first = parser.single_operand()?;
            if parser.eat(Token::Bar) {
                let second = parser.single_operand()?;
                return Ok(Operand::Pair(Box::new(first), Box::new(second)));
            }
            Ok(first)
        })
    }

    fn list(&mut self, close: Token, what: &str) -> Parsed<Vec<Operand<'a>>> {
        let mut list = vec![];
        while !self.eat(close) {
            list.push(self.operand()?);
            if !self.eat(Token::Comma) && self.peek() != Some(close) {
                return self.expected(what);
            }
        }
        Ok(list)
    }

    fn single_operand(&mut self) -> Parsed<Operand<'a>> {
        match self.peek() {
            Some(Token::OpenBrace) => {
                self.advance();
                Ok(Operand::Vector(self.list(Token::CloseBrace, "`,` or `}`")?))
            }
            Some(Token::OpenBracket) => {
                self.advance();
                Ok(Operand::Address(self.list(Token::CloseBracket, "`,` or `]`")?))
            }
            Some(Token::OpenParenthesis) if !self.constant_in_parentheses() => {
                self.advance();
                Ok(Operand::Group(self.list(Token::CloseParenthesis, "`,` or `)`")?))
            }
            Some(Token::Exclamation) => {
                self.advance();
                Ok(Operand::Not(Box::new(self.single_operand()?)))
            }
            Some(Token::Minus) if self.peek_second() == Some(Token::Word) => {
                self.advance();
                Ok(Operand::Negated(Box::new(self.single_operand()?)))
            }
            Some(Token::Word) => {
                let name = self.word("an operand")?;
                if name == "_" {
                    return Ok(Operand::Sink);
                }
                if name == "generic" && self.eat(Token::OpenParenthesis) {
                    let name = self.word("a variable")?;
                    self.expect(Token::CloseParenthesis, "`)`")?;
                    return Ok(Operand::Generic(name));
                }
                if self.peek() == Some(Token::Dotted) {
                    let component = &self.text()[1..];
                    self.advance();
                    return Ok(Operand::Component(name, component));
                }
                // A name as a bare operand of PTX's own: `WARP_SZ`.
                if name == "WARP_SZ" {
                    return Ok(Operand::Integer(32));
                }
                if matches!(self.peek(), Some(Token::Plus | Token::Minus)) {
                    let span = self.span();
                    let offset = self.sum_tail()?;
                    let offset =
                        i64::try_from(offset).map_err(|_| Problem::new(span, "the offset does not fit in 64 bits"))?;
                    return Ok(Operand::Offset(name, offset));
                }
                Ok(Operand::Name(name))
            }
            _ => self.constant(),
        }
    }
}
