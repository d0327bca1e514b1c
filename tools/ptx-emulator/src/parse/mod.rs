//! The text of a module, to its syntax.
//!
//! The parser knows directives and the shapes of statements and operands. What an instruction means, which modifiers and operands
//! it takes, is the decoder's.

pub mod ast;
mod lexer;
mod operand;
mod statement;

use crate::diagnostic::Problem;
use ast::{Alias, Function, Initializer, Linkage, Module, Requirements, Space, Variable, Width};
pub use lexer::Span;
use lexer::Token;

/// How deep scopes, vectors and expressions may nest: no more than fits on a thread's stack.
const DEEPEST: usize = 64;

/// Reads a module.
pub fn module(source: &str) -> Result<Module<'_>, Problem> {
    // The driver API passes text with a terminating NUL, and ptxas ignores what follows one.
    let source = source.split('\0').next().unwrap_or_default();
    Parser { source, tokens: lexer::tokens(source)?, at: 0, depth: 0 }.module()
}

struct Parser<'a> {
    source: &'a str,
    tokens: Vec<(Token, Span)>,
    at: usize,
    depth: usize,
}

type Parsed<T> = Result<T, Problem>;

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token> {
        self.tokens.get(self.at).map(|(token, _)| *token)
    }

    fn peek_second(&self) -> Option<Token> {
        self.tokens.get(self.at + 1).map(|(token, _)| *token)
    }

    fn span(&self) -> Span {
        self.tokens.get(self.at).map_or(self.source.len()..self.source.len(), |(_, span)| span.clone())
    }

    fn text(&self) -> &'a str {
        &self.source[self.span()]
    }

    fn advance(&mut self) {
        self.at += 1;
    }

    fn eat(&mut self, token: Token) -> bool {
        let here = self.peek() == Some(token);
        self.at += usize::from(here);
        here
    }

    fn eat_dotted(&mut self, name: &str) -> bool {
        let here = self.peek() == Some(Token::Dotted) && self.text() == name;
        self.at += usize::from(here);
        here
    }

    fn expected<T>(&self, what: &str) -> Parsed<T> {
        let found = if self.at < self.tokens.len() { format!("`{}`", self.text()) } else { "the end".into() };
        Err(Problem::new(self.span(), format!("expected {what}, found {found}")))
    }

    fn expect(&mut self, token: Token, what: &str) -> Parsed<&'a str> {
        if self.peek() == Some(token) {
            let text = self.text();
            self.advance();
            Ok(text)
        } else {
            self.expected(what)
        }
    }

    fn word(&mut self, what: &str) -> Parsed<&'a str> {
        self.expect(Token::Word, what)
    }

    fn integer(&mut self) -> Parsed<u64> {
        let span = self.span();
        let text = self.expect(Token::Integer, "a number")?;
        operand::integer(text).ok_or_else(|| Problem::new(span, format!("`{text}` does not fit in 64 bits")))
    }

    fn small(&mut self) -> Parsed<u32> {
        let span = self.span();
        let value = self.integer()?;
        u32::try_from(value).map_err(|_| Problem::new(span, format!("{value} is too large")))
    }

    /// Runs a part that may nest, as deep as the stack allows.
    fn nested<T>(&mut self, part: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= DEEPEST {
            return Err(Problem::new(self.span(), format!("nested more than {DEEPEST} deep")));
        }
        self.depth += 1;
        let result = part(self);
        self.depth -= 1;
        result
    }

    fn module(mut self) -> Parsed<Module<'a>> {
        let mut module = Module { version: (0, 0), target: "", variables: vec![], functions: vec![], aliases: vec![] };
        while let Some(token) = self.peek() {
            if token != Token::Dotted {
                return self.expected("a directive");
            }
            let (span, directive) = (self.span(), self.text());
            match directive {
                ".version" => {
                    self.advance();
                    module.version = self.version()?;
                }
                ".target" => {
                    self.advance();
                    module.target = self.word("a target such as sm_80")?;
                    while self.eat(Token::Comma) {
                        self.word("a target option")?;
                    }
                }
                ".address_size" => {
                    self.advance();
                    if self.integer()? != 64 {
                        return Err(Problem::new(span, "only 64-bit addresses exist"));
                    }
                }
                ".file" | ".loc" => self.skip_line(),
                ".section" => self.skip_section()?,
                ".alias" => {
                    self.advance();
                    let name = self.word("the alias's name")?;
                    self.expect(Token::Comma, "`,`")?;
                    let function = self.word("a function's name")?;
                    let end = self.span().start;
                    self.expect(Token::Semicolon, "`;`")?;
                    module.aliases.push(Alias { name, function, span: span.start..end });
                }
                ".pragma" => {
                    while !self.eat(Token::Semicolon) {
                        if self.peek().is_none() {
                            return self.expected("`;`");
                        }
                        self.advance();
                    }
                }
                _ => self.item(&mut module)?,
            }
        }
        if module.version == (0, 0) {
            return Err(Problem::new(0..0, "the module has no .version")
                .help("every PTX module starts with .version and .target"));
        }
        if module.target.is_empty() {
            return Err(Problem::new(0..0, "the module has no .target")
                .help("every PTX module starts with .version and .target"));
        }
        Ok(module)
    }

    fn version(&mut self) -> Parsed<(u32, u32)> {
        let span = self.span();
        let text = self.expect(Token::Decimal, "a version such as 8.7")?;
        let parts = text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        match parts {
            Some((major, minor)) if (1..=9).contains(&major) => Ok((major, minor)),
            _ => Err(Problem::new(span, format!("PTX ISA {text} is not known; the emulator follows ISA 9"))),
        }
    }

    /// `.loc 1 20 3` and `.file 1 "x.cu"` have no terminator but the end of the line.
    fn skip_line(&mut self) {
        let start = self.span().start;
        let end = self.source[start..].find('\n').map_or(self.source.len(), |length| start + length);
        while self.at < self.tokens.len() && self.span().start < end {
            self.advance();
        }
    }

    fn skip_section(&mut self) -> Parsed<()> {
        while !matches!(self.peek(), Some(Token::OpenBrace) | None) {
            self.advance();
        }
        self.expect(Token::OpenBrace, "`{`")?;
        while !self.eat(Token::CloseBrace) {
            if self.peek().is_none() {
                return self.expected("`}`");
            }
            self.advance();
        }
        Ok(())
    }

    /// A variable or a function.
    fn item(&mut self, module: &mut Module<'a>) -> Parsed<()> {
        let mut linkage = Linkage::Internal;
        loop {
            let seen = match self.text() {
                ".visible" | ".weak" | ".common" => Linkage::Visible,
                ".extern" => Linkage::External,
                _ => break,
            };
            self.advance();
            linkage = seen;
        }
        if self.eat_dotted(".entry") {
            let function = self.function(true, linkage)?;
            module.functions.push(function);
        } else if self.eat_dotted(".func") {
            let function = self.function(false, linkage)?;
            module.functions.push(function);
        } else {
            self.variables(linkage, &mut |variable| module.variables.push(variable))?;
        }
        Ok(())
    }

    /// One declaration: a space, attributes, a type, and names. `;` ends it.
    fn variables(&mut self, linkage: Linkage, push: &mut dyn FnMut(Variable<'a>)) -> Parsed<()> {
        let first = self.declaration(linkage)?;
        let mut pattern = first.clone();
        push(first);
        while self.eat(Token::Comma) {
            pattern.initializer = None;
            let next = self.declared(pattern.clone())?;
            push(next);
        }
        self.expect(Token::Semicolon, "`;`")?;
        Ok(())
    }

    fn declaration(&mut self, linkage: Linkage) -> Parsed<Variable<'a>> {
        let space = match self.text() {
            ".reg" => Space::Register,
            ".global" => Space::Global,
            ".const" => Space::Constant,
            ".shared" | ".shared::cta" => Space::Shared,
            ".local" => Space::Local,
            ".param" => Space::Parameter,
            _ => return self.expected("a directive of PTX"),
        };
        self.advance();
        let mut variable = Variable {
            linkage,
            space,
            alignment: None,
            width: Width::Bytes(0),
            components: 1,
            name: "",
            numbered: None,
            dimensions: vec![],
            initializer: None,
            span: self.span(),
        };
        while self.peek() == Some(Token::Dotted) {
            let span = self.span();
            let text = self.text();
            self.advance();
            match text {
                ".align" => {
                    let alignment = self.small()?;
                    if !alignment.is_power_of_two() || alignment > 1 << 20 {
                        return Err(Problem::new(span, format!("{alignment} is not an alignment")));
                    }
                    variable.alignment = Some(alignment);
                }
                ".v2" => variable.components = 2,
                ".v4" => variable.components = 4,
                ".v8" => variable.components = 8,
                ".ptr" => {
                    // `.ptr .global .align 16` describes what a pointer parameter points to.
                    while matches!(self.text(), ".const" | ".global" | ".local" | ".shared") {
                        self.advance();
                    }
                    if self.eat_dotted(".align") {
                        self.small()?;
                    }
                }
                ".attribute" => {
                    self.expect(Token::OpenParenthesis, "`(`")?;
                    while !self.eat(Token::CloseParenthesis) {
                        if self.peek().is_none() {
                            return self.expected("`)`");
                        }
                        self.advance();
                    }
                }
                _ => match Width::of_type(&text[1..]) {
                    Some(width) => variable.width = width,
                    None if matches!(text, ".texref" | ".samplerref" | ".surfref") => {
                        return Err(Problem::new(span, format!("`{text}`: textures and surfaces are not emulated"))
                            .help("read and write global memory instead"));
                    }
                    None => return Err(Problem::new(span, format!("`{text}` is not a type of a variable"))),
                },
            }
        }
        if variable.width == Width::Bytes(0) {
            return self.expected("a type such as .b32");
        }
        self.declared(variable)
    }

    /// A name with what follows it, of the kind that `pattern` has.
    fn declared(&mut self, mut pattern: Variable<'a>) -> Parsed<Variable<'a>> {
        pattern.span = self.span();
        pattern.name = self.word("a name")?;
        pattern.numbered = None;
        pattern.dimensions.clear();
        if self.eat(Token::Less) {
            pattern.numbered = Some(self.small()?);
            self.expect(Token::Greater, "`>`")?;
        }
        while self.eat(Token::OpenBracket) {
            let dimension = if self.peek() == Some(Token::Integer) { self.integer()? } else { 0 };
            pattern.dimensions.push(dimension);
            self.expect(Token::CloseBracket, "`]`")?;
        }
        if self.eat(Token::Equals) {
            pattern.initializer = Some(self.initializer()?);
            // `x[] = {1, 2}` is as long as its value.
            if let (Some(0), Some(Initializer::List(list))) = (pattern.dimensions.first(), &pattern.initializer) {
                pattern.dimensions[0] = list.len() as u64;
            }
        }
        Ok(pattern)
    }

    fn initializer(&mut self) -> Parsed<Initializer<'a>> {
        if !self.eat(Token::OpenBrace) {
            return Ok(Initializer::Value(self.operand()?));
        }
        self.nested(|parser| {
            let mut list = vec![];
            while !parser.eat(Token::CloseBrace) {
                list.push(parser.initializer()?);
                if !parser.eat(Token::Comma) && parser.peek() != Some(Token::CloseBrace) {
                    return parser.expected("`,` or `}`");
                }
            }
            Ok(Initializer::List(list))
        })
    }

    fn parameters(&mut self) -> Parsed<Vec<Variable<'a>>> {
        let mut parameters = vec![];
        if !self.eat(Token::OpenParenthesis) {
            return Ok(parameters);
        }
        while !self.eat(Token::CloseParenthesis) {
            parameters.push(self.declaration(Linkage::Internal)?);
            if !self.eat(Token::Comma) && self.peek() != Some(Token::CloseParenthesis) {
                return self.expected("`,` or `)`");
            }
        }
        Ok(parameters)
    }

    fn function(&mut self, entry: bool, linkage: Linkage) -> Parsed<Function<'a>> {
        if self.eat_dotted(".attribute") {
            self.parameters_text()?;
        }
        let results = self.parameters()?;
        let span = self.span();
        let name = self.word("a function's name")?;
        let parameters = self.parameters()?;
        let requirements = self.requirements()?;
        let body = if self.eat(Token::Semicolon) { None } else { Some(self.body()?) };
        Ok(Function { entry, linkage, name, results, parameters, requirements, body, span })
    }

    fn parameters_text(&mut self) -> Parsed<()> {
        self.expect(Token::OpenParenthesis, "`(`")?;
        while !self.eat(Token::CloseParenthesis) {
            if self.peek().is_none() {
                return self.expected("`)`");
            }
            self.advance();
        }
        Ok(())
    }

    fn requirements(&mut self) -> Parsed<Requirements> {
        let mut found = Requirements::default();
        while self.peek() == Some(Token::Dotted) {
            let span = self.span();
            let text = self.text();
            self.advance();
            match text {
                ".reqntid" => found.block = Some(self.extents()?),
                ".maxntid" => {
                    found.maximum_threads = Some(self.extents()?.iter().fold(1, |all, one| all.saturating_mul(*one)))
                }
                ".maxnreg" => found.maximum_registers = Some(self.small()?),
                ".reqnctapercluster" => found.cluster = Some(self.extents()?),
                ".maxclusterrank" => found.maximum_cluster = Some(self.small()?),
                ".explicitcluster" => found.explicit_cluster = true,
                ".minnctapersm" | ".maxnctapersm" => {
                    self.small()?;
                }
                ".noreturn" | ".blocksareclusters" | ".unique" => {}
                ".abi_preserve" | ".abi_preserve_control" => {
                    self.small()?;
                }
                ".pragma" => {
                    self.expect(Token::Text, "a text")?;
                    self.expect(Token::Semicolon, "`;`")?;
                }
                _ => return Err(Problem::new(span, format!("`{text}` is not a directive of a function"))),
            }
        }
        Ok(found)
    }

    fn extents(&mut self) -> Parsed<[u32; 3]> {
        let mut extents = [1; 3];
        extents[0] = self.small()?;
        for extent in &mut extents[1..] {
            if self.eat(Token::Comma) {
                *extent = self.small()?;
            }
        }
        Ok(extents)
    }
}

#[cfg(test)]
mod tests;
