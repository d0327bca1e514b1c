//! The grammar of modules and functions.

use std::collections::HashMap;

use crate::diagnostic::{Diagnostic, DiagnosticKind};
use crate::graph::{Graph, Span};
use crate::module::{Function, SymbolRange};
use crate::name::Name;
use crate::sharding::MeshAxis;
use crate::text::lexer::TokenKind;
use crate::text::operations::Scope;
use crate::text::parser::{Parsed, Parser, Reported};
use crate::types::{Dim, Type};

/// The words that begin an item of a module.
const ITEMS: [&str; 4] = ["mesh", "symbol", "param", "func"];

impl Parser<'_> {
    /// `module @name { … }`
    pub(super) fn module(&mut self) -> Parsed<()> {
        self.expect("module")?;
        self.module.name = self.global("the module's name, as in `@gpt2`,")?.0;
        self.expect("{")?;
        while !self.accept("}") {
            if self.peek() == TokenKind::End || self.has_had_enough() {
                return Err(self.unexpected("`}` at the end of the module"));
            }
            let start = self.position();
            if self.item().is_err() {
                self.recover(start, &ITEMS);
                // A line that begins with a value name is the rest of a broken function.
                while matches!(self.peek(), TokenKind::Value(_)) {
                    self.recover(self.position(), &ITEMS);
                }
            }
        }
        match self.peek() {
            TokenKind::End => Ok(()),
            _ => Err(self.unexpected("the end of the text")),
        }
    }

    fn item(&mut self) -> Parsed<()> {
        match self.peek() {
            TokenKind::Word("mesh") => self.mesh(),
            TokenKind::Word("symbol") => self.symbol(),
            TokenKind::Word("param") => self.parameter(),
            TokenKind::Word("func") => self.function(),
            TokenKind::Word(word) => {
                let error = Diagnostic::new(
                    DiagnosticKind::Syntax,
                    format!("a module holds mesh, symbol, param and func, not `{word}`"),
                    self.span(),
                );
                Err(self.report(error.suggest(word, ITEMS)))
            }
            _ => Err(self.unexpected("mesh, symbol, param or func")),
        }
    }

    /// `mesh [tp=2, dp=1]`
    fn mesh(&mut self) -> Parsed<()> {
        let start = self.span();
        self.advance();
        let axes = self.list("[", "]", |parser| {
            let (name, span) = parser.word("the name of a mesh axis")?;
            parser.expect("=")?;
            let size = parser.natural("the size of the axis")?;
            Ok((MeshAxis { name: name.into(), size }, span))
        })?;
        if !self.module.mesh.axes.is_empty() {
            let error = Diagnostic::new(DiagnosticKind::DuplicateName, "the module has a mesh already", start);
            return Err(self.report(error));
        }
        if !self.module.parameters.is_empty() || !self.module.functions.is_empty() {
            let message = "the mesh comes before the parameters and functions";
            self.report(Diagnostic::new(DiagnosticKind::Structure, message, start));
        }
        for (axis, span) in axes {
            if self.module.mesh.size(&axis.name).is_some() {
                let message = format!("mesh axis `{}` is declared twice", axis.name);
                self.report(Diagnostic::new(DiagnosticKind::DuplicateName, message, span));
            } else if axis.size == 0 {
                let message = format!("mesh axis `{}` needs at least one device", axis.name);
                self.report(Diagnostic::new(DiagnosticKind::Number, message, span));
            } else {
                self.module.mesh.axes.push(axis);
            }
        }
        Ok(())
    }

    /// `symbol T in 1..=4096`
    fn symbol(&mut self) -> Parsed<()> {
        self.advance();
        let (word, span) = self.word("a symbol, such as T,")?;
        if !Dim::is_symbol_name(word) {
            let error = Diagnostic::new(DiagnosticKind::Syntax, format!("`{word}` is no symbol"), span);
            return Err(self.report(error.help("symbols are upper-case: letters, digits and `_`")));
        }
        self.expect("in")?;
        let minimum = self.natural("the least value")?;
        self.expect("..=")?;
        let maximum = self.natural("the largest value")?;
        if minimum > maximum {
            let message = format!("no number lies in {minimum}..={maximum}");
            return Err(self.report(Diagnostic::new(DiagnosticKind::Number, message, self.span_since(span.start))));
        }
        let range = SymbolRange { minimum, maximum };
        if self.module.symbols.insert(word.into(), range).is_some() {
            let message = format!("symbol {word} is declared twice");
            return Err(self.report(Diagnostic::new(DiagnosticKind::DuplicateName, message, span)));
        }
        Ok(())
    }

    /// `param @name : tensor<…>`
    fn parameter(&mut self) -> Parsed<()> {
        self.advance();
        let (name, span) = self.global("the parameter's name, as in `@wte`,")?;
        self.expect(":")?;
        let start = self.span().start;
        match self.parse_type()? {
            Type::Tensor(ty) => match self.module.add_parameter(name, ty) {
                Ok(()) => Ok(()),
                Err(error) => Err(self.report(Diagnostic::new(DiagnosticKind::DuplicateName, error.to_string(), span))),
            },
            Type::KvCache(_) => {
                let message = "a parameter is a tensor; a cache comes in as an input of a function";
                Err(self.report(Diagnostic::new(DiagnosticKind::Type, message, self.span_since(start))))
            }
        }
    }

    /// `func @name(%x: tensor<…>, …) -> (tensor<…>, …) { … }`
    fn function(&mut self) -> Parsed<()> {
        self.advance();
        let (name, name_span) = self.global("the function's name, as in `@step`,")?;
        let mut graph = Graph::new();
        let mut scope = Scope::default();
        let mut seen: HashMap<Name, Span> = HashMap::new();
        let inputs = self.list("(", ")", |parser| {
            let (name, span) = parser.value_name("an input, as in `%tokens: tensor<Txi32>`,")?;
            parser.expect(":")?;
            Ok((name, parser.parse_type()?, span))
        })?;
        for (name, ty, span) in inputs {
            let input = graph.input(name.clone(), ty);
            graph.set_span(input.node, span.clone());
            scope.define(name.clone(), Some(input));
            if seen.insert(name.clone(), span.clone()).is_some() {
                let message = format!("input `%{name}` is declared twice");
                self.report(Diagnostic::new(DiagnosticKind::DuplicateName, message, span));
            }
        }
        let declared = match self.accept("->") {
            true => Some(self.list("(", ")", |parser| {
                let start = parser.span().start;
                let ty = parser.parse_type()?;
                Ok((ty, parser.span_since(start)))
            })?),
            false => None,
        };
        self.expect("{")?;
        let Ok(returned) = self.body(&mut graph, &mut scope) else {
            self.skip_block();
            return Err(Reported);
        };
        self.check_outputs(&graph, declared, returned);
        if let Err(error) = self.module.add_function(Function { name, graph }) {
            return Err(self.report(Diagnostic::new(DiagnosticKind::DuplicateName, error.to_string(), name_span)));
        }
        Ok(())
    }

    /// Compares the declared output types with those of the values returned. `returned` is the place of
    /// the return, if every value in it is known.
    fn check_outputs(&mut self, graph: &Graph, declared: Option<Vec<(Type, Span)>>, returned: Option<Span>) {
        let (Some(declared), Some(returned)) = (declared, returned) else { return };
        if declared.len() != graph.outputs().len() {
            let (expected, found) = (declared.len(), graph.outputs().len());
            let message = format!("the function declares {expected} outputs and returns {found}");
            self.report(Diagnostic::new(DiagnosticKind::Structure, message, returned));
            return;
        }
        for ((declared, span), output) in declared.into_iter().zip(graph.outputs()) {
            let found = graph.value_type(*output);
            if !declared.agrees_with(found) || !adds_nothing(&declared, found) {
                let message = format!("the value returned here is {found}, not {declared}");
                self.report(Diagnostic::new(DiagnosticKind::Type, message, span));
            }
        }
    }
}

/// Whether sharding and accumulator of `declared`, where it has them, are those of `found`.
fn adds_nothing(declared: &Type, found: &Type) -> bool {
    match (declared, found) {
        (Type::Tensor(declared), Type::Tensor(found)) => {
            (declared.sharding.is_none() || declared.sharding == found.sharding)
                && (declared.policy.accumulator.is_none() || declared.policy == found.policy)
        }
        _ => true,
    }
}
