//! Reads the text form of tile programs, the inverse of their `Display`.
//!
//! ```text
//! // Sums of the rows of a matrix.
//! kernel @row_sums(
//!   @rows: integer divisor 1,
//!   @x: tensor bf16[@rows, 64] strides [64, 1] read align 16,
//!   @y: tensor f32[@rows] strides [1] write align 16,
//! ) grid [@rows / 4, 1 / 1, 1 / 1] warps 4 stages 1 {
//!   %program = program_id 0 : i32
//!   %four = constant 4 : i32
//!   %row = multiply %program, %four : i32
//!   %zero = constant 0 : i32
//!   %end = constant 64 : i32
//!   %none = constant 0 : 4xf32
//!   %sums = for %column in %zero..%end step 16 with (%sum = %none : 4xf32) {
//!     %block = load @x[%row:4, %column:16] : 4x16xbf16
//!     %wide = cast %block : 4x16xf32
//!     %part = reduce sum %wide axis 1 : 4xf32
//!     %next = add %sum, %part : 4xf32
//!     yield %next
//!   }
//!   store @y[%row:4], %sums
//! }
//! ```
//!
//! The grid is `what is cut into blocks / elements of a block` for each axis. A coordinate of an access is `%index`, `%start:length` or
//! `gather %indices`; after the coordinates of a load may stand `mask %bool` and `other NUMBER`, after a store `mask %bool`.
//!
//! A text holds any number of kernels. Comments are dropped, but those right above a kernel are its summary. Values may have any name of
//! letters, digits and underscores; where it is a number it is kept.

mod instruction;
#[cfg(test)]
mod tests;
mod token;

use std::collections::HashMap;
use std::ops::Range;

use thiserror::Error;

use super::program::{
    Access, Argument, ArgumentIndex, Block, Dimension, Element, GridExtent, Instruction, Literal, Program, Schedule,
    TensorArgument, TileType, Value,
};
use super::verify::verify;
use token::{Kind, Token};

/// What is wrong with a text, and where.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("line {line}, column {column}: {message}")]
pub struct ParseError {
    /// What is wrong, and what would be right.
    pub message: String,
    /// The bytes of the text that are wrong.
    pub span: Range<usize>,
    /// Line of the first of them, from 1.
    pub line: usize,
    /// Column of the first of them in characters, from 1.
    pub column: usize,
}

impl ParseError {
    fn new(text: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        let before = &text[..span.start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        let column = before[line_start..].chars().count() + 1;
        Self { message: message.into(), span, line, column }
    }
}

/// Loops within loops beyond this are refused, for the sake of the stack.
const DEEPEST_LOOP: usize = 64;

/// Numbers of values from here on are not kept, lest a short text ask for a long table.
const NUMBERS_KEPT: u32 = 1 << 20;

/// Reads kernels and verifies them.
///
/// # Errors
/// The first place where the text is not of the text form, or breaks a rule of the IR.
pub fn parse(text: &str) -> Result<Vec<Program>, ParseError> {
    let mut parser = Parser { text, tokens: token::tokens(text)?, position: 0, kernel: Kernel::default() };
    let mut programs: Vec<Program> = Vec::new();
    loop {
        let summary = parser.summary();
        if parser.peek() == Kind::End {
            return Ok(programs);
        }
        let program = parser.program(summary)?;
        if programs.iter().any(|other| other.name == program.name) {
            return Err(parser.error(parser.kernel.name.clone(), format!("there is another kernel @{}", program.name)));
        }
        programs.push(program);
    }
}

type Parsed<T> = Result<T, ParseError>;

/// What is known of the kernel that is being read.
#[derive(Default)]
struct Kernel<'a> {
    /// Span of its name.
    name: Range<usize>,
    arguments: Vec<Argument>,
    argument_by_name: HashMap<&'a str, ArgumentIndex>,
    values: HashMap<&'a str, Value>,
    types: Vec<TileType>,
    /// The number of the next value whose name is not its number.
    next_value: u32,
    /// Span of each instruction, in the order of the text.
    instructions: Vec<Range<usize>>,
    /// Loops around the current instruction.
    depth: usize,
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token<'a>>,
    position: usize,
    kernel: Kernel<'a>,
}

impl<'a> Parser<'a> {
    fn error(&self, span: Range<usize>, message: impl Into<String>) -> ParseError {
        ParseError::new(self.text, span, message)
    }

    fn skip_comments(&mut self) {
        while matches!(self.tokens[self.position].kind, Kind::Comment(_)) {
            self.position += 1;
        }
    }

    /// The next token; comments are passed over.
    fn peek(&mut self) -> Kind<'a> {
        self.skip_comments();
        self.tokens[self.position].kind
    }

    fn next(&mut self) -> Token<'a> {
        self.skip_comments();
        let token = self.tokens[self.position].clone();
        if token.kind != Kind::End {
            self.position += 1;
        }
        token
    }

    fn expected<T>(&self, token: &Token<'_>, what: impl std::fmt::Display) -> Parsed<T> {
        Err(self.error(token.span.clone(), format!("{what} is needed here, not {}", token.kind)))
    }

    fn punctuation(&mut self, text: &'static str) -> Parsed<()> {
        let token = self.next();
        if token.kind == Kind::Punctuation(text) { Ok(()) } else { self.expected(&token, format!("`{text}`")) }
    }

    fn at_punctuation(&mut self, text: &'static str) -> bool {
        let found = self.peek() == Kind::Punctuation(text);
        if found {
            self.position += 1;
        }
        found
    }

    fn keyword(&mut self, text: &'static str) -> Parsed<()> {
        let token = self.next();
        if token.kind == Kind::Word(text) { Ok(()) } else { self.expected(&token, format!("`{text}`")) }
    }

    fn at_keyword(&mut self, text: &'static str) -> bool {
        let found = self.peek() == Kind::Word(text);
        if found {
            self.position += 1;
        }
        found
    }

    /// One of a table of names.
    fn named<T: Copy>(&mut self, what: &str, table: &[T], name: impl Fn(T) -> &'static str) -> Parsed<T> {
        let token = self.next();
        let Kind::Word(word) = token.kind else {
            return self.expected(&token, what);
        };
        table.iter().copied().find(|&item| name(item) == word).ok_or_else(|| {
            let names: Vec<&str> = table.iter().map(|&item| name(item)).collect();
            self.error(token.span, format!("`{word}` is no {what}: these are {}", names.join(", ")))
        })
    }

    /// Items between brackets, with commas between them and perhaps after the last.
    fn list<T>(
        &mut self,
        [open, close]: [&'static str; 2],
        mut item: impl FnMut(&mut Self) -> Parsed<T>,
    ) -> Parsed<Vec<T>> {
        self.punctuation(open)?;
        let mut items = Vec::new();
        while !self.at_punctuation(close) {
            items.push(item(self)?);
            if !self.at_punctuation(",") {
                self.punctuation(close)?;
                break;
            }
        }
        Ok(items)
    }

    fn number<T: std::str::FromStr>(&mut self, what: &str) -> Parsed<T> {
        let token = self.next();
        match token.kind {
            Kind::Number(text) => match text.parse() {
                Ok(number) => Ok(number),
                Err(_) => Err(self.error(token.span, format!("{text} is no {what}"))),
            },
            _ => self.expected(&token, what),
        }
    }

    /// The comments right above what comes next: with no empty line in between.
    fn summary(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Kind::Comment(line) = self.tokens[self.position].kind {
            lines.push(line.strip_prefix(' ').unwrap_or(line).to_string());
            let gap = self.tokens[self.position].span.end..self.tokens[self.position + 1].span.start;
            if self.text[gap].matches('\n').count() > 1 {
                lines.clear();
            }
            self.position += 1;
        }
        lines
    }

    fn program(&mut self, summary: Vec<String>) -> Parsed<Program> {
        self.keyword("kernel")?;
        let token = self.next();
        let Kind::Name(name) = token.kind else {
            return self.expected(&token, "the kernel's name, as `@name`,");
        };
        self.kernel = Kernel { name: token.span, next_value: self.first_unnumbered(), ..Kernel::default() };
        self.list(["(", ")"], Self::argument)?;
        self.keyword("grid")?;
        let span = self.tokens[self.position].span.clone();
        let grid = self.list(["[", "]"], |parser| {
            let dimension = parser.dimension()?;
            parser.punctuation("/")?;
            Ok(GridExtent::Tiles { dimension, block: parser.number("number of elements")? })
        })?;
        let grid = grid.try_into().map_err(|_| self.error(span, "a grid has three extents"))?;
        self.keyword("warps")?;
        let warps = self.number("number of warps")?;
        self.keyword("stages")?;
        let stages = self.number("number of stages")?;
        let (instructions, yields) = self.block()?;
        if !yields.is_empty() {
            return Err(self.error(self.kernel.name.clone(), "a kernel yields nothing"));
        }
        let kernel = &mut self.kernel;
        let program = Program {
            name: name.to_string(),
            summary,
            arguments: std::mem::take(&mut kernel.arguments),
            grid,
            schedule: Schedule { warps, stages },
            types: std::mem::take(&mut kernel.types),
            body: Block { parameters: Vec::new(), instructions, yields },
        };
        verify(&program).map_err(|error| {
            let span = error.position.and_then(|position| self.kernel.instructions.get(position));
            self.error(span.unwrap_or(&self.kernel.name).clone(), error.problem)
        })?;
        Ok(program)
    }

    /// The number after the largest that is the name of a value of the kernel that begins here.
    fn first_unnumbered(&self) -> u32 {
        let tokens = self.tokens[self.position..].iter();
        let of_kernel = tokens.take_while(|token| token.kind != Kind::Word("kernel"));
        let numbers = of_kernel.filter_map(|token| match token.kind {
            Kind::Value(name) => number_of(name),
            _ => None,
        });
        numbers.max().map_or(0, |largest| largest + 1)
    }

    fn argument(&mut self) -> Parsed<()> {
        let token = self.next();
        let Kind::Name(name) = token.kind else {
            return self.expected(&token, "an argument, as `@name: …`,");
        };
        let index = ArgumentIndex(self.kernel.arguments.len() as u32);
        if self.kernel.argument_by_name.insert(name, index).is_some() {
            return Err(self.error(token.span, format!("there is another argument @{name}")));
        }
        self.punctuation(":")?;
        let argument = if self.at_keyword("tensor") {
            let element = self.element()?;
            let extents = self.list(["[", "]"], Self::dimension)?.into();
            self.keyword("strides")?;
            let strides = self.list(["[", "]"], Self::dimension)?.into();
            let access = self.named("kind of access", Access::ALL, Access::name)?;
            self.keyword("align")?;
            let alignment = self.number("alignment")?;
            Argument::Tensor(TensorArgument { name: name.into(), element, extents, strides, access, alignment })
        } else if self.at_keyword("integer") {
            self.keyword("divisor")?;
            Argument::Integer { name: name.into(), divisor: self.number("divisor")? }
        } else if self.at_keyword("float") {
            Argument::Float { name: name.into() }
        } else {
            let token = self.next();
            return self.expected(&token, "`tensor`, `integer` or `float`");
        };
        self.kernel.arguments.push(argument);
        Ok(())
    }

    fn element(&mut self) -> Parsed<Element> {
        self.named("element type", Element::ALL, Element::name)
    }

    fn argument_index(&mut self) -> Parsed<ArgumentIndex> {
        let token = self.next();
        let Kind::Name(name) = token.kind else {
            return self.expected(&token, "an argument, as `@name`,");
        };
        let index = self.kernel.argument_by_name.get(name).copied();
        index.ok_or_else(|| self.error(token.span, format!("the kernel has no argument @{name} above this")))
    }

    fn dimension(&mut self) -> Parsed<Dimension> {
        match self.peek() {
            Kind::Name(_) => Ok(Dimension::Argument(self.argument_index()?)),
            _ => Ok(Dimension::Constant(self.number("extent")?)),
        }
    }

    /// `{ instructions }`, perhaps with a `yield` at the end.
    fn block(&mut self) -> Parsed<(Vec<Instruction>, Vec<Value>)> {
        self.punctuation("{")?;
        let mut instructions = Vec::new();
        loop {
            if self.at_punctuation("}") {
                return Ok((instructions, Vec::new()));
            }
            if self.at_keyword("yield") {
                let mut yields = vec![self.value()?];
                while self.at_punctuation(",") {
                    yields.push(self.value()?);
                }
                self.punctuation("}")?;
                return Ok((instructions, yields));
            }
            instructions.push(self.instruction()?);
        }
    }

    fn value(&mut self) -> Parsed<Value> {
        let token = self.next();
        let Kind::Value(name) = token.kind else {
            return self.expected(&token, "a value, as `%name`,");
        };
        let value = self.kernel.values.get(name).copied();
        value.ok_or_else(|| self.error(token.span, format!("%{name} is not defined above this")))
    }

    fn define(&mut self, token: &Token<'a>, tile: TileType) -> Parsed<Value> {
        let Kind::Value(name) = token.kind else {
            return self.expected(token, "a value, as `%name`,");
        };
        let kernel = &mut self.kernel;
        let value = Value(number_of(name).unwrap_or(kernel.next_value));
        kernel.next_value += u32::from(value.0 == kernel.next_value);
        if kernel.values.insert(name, value).is_some() {
            return Err(self.error(token.span.clone(), format!("%{name} is defined above this already")));
        }
        let position = value.0 as usize;
        if kernel.types.len() <= position {
            // Numbers that the text leaves out.
            kernel.types.resize(position + 1, TileType::scalar(Element::I32));
        }
        kernel.types[position] = tile;
        Ok(value)
    }

    fn tile_type(&mut self) -> Parsed<TileType> {
        let token = self.next();
        let (Kind::Word(text) | Kind::Number(text)) = token.kind else {
            return self.expected(&token, "a type, as `4x8xf32`,");
        };
        let (extents, element) = text.rsplit_once('x').map_or(("", text), |(extents, element)| (extents, element));
        let shape = extents.split('x').filter(|_| !extents.is_empty()).map(str::parse).collect();
        let element = Element::ALL.iter().copied().find(|known| known.name() == element);
        match (shape, element) {
            (Ok(shape), Some(element)) => Ok(TileType { shape, element }),
            _ => Err(self.error(token.span, format!("`{text}` is no type; types look like `f32` and `4x8xf32`"))),
        }
    }

    /// A number of either kind: those of float elements may be written without a point.
    fn literal(&mut self) -> Parsed<Literal> {
        let token = self.next();
        let literal = match token.kind {
            Kind::Number(text) => text.parse().map(Literal::Integer).or_else(|_| text.parse().map(Literal::Float)).ok(),
            Kind::Word("inf") => Some(Literal::Float(f64::INFINITY)),
            Kind::Word("NaN") => Some(Literal::Float(f64::NAN)),
            _ => None,
        };
        literal.map_or_else(|| self.expected(&token, "a number"), Ok)
    }
}

/// The number that a value's name is, if it is kept.
fn number_of(name: &str) -> Option<u32> {
    let canonical = name == "0" || !name.starts_with('0');
    name.parse().ok().filter(|number| canonical && *number < NUMBERS_KEPT)
}
