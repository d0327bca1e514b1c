//! The grammar of operations.

use std::collections::HashMap;

use crate::attribute::{Attribute, AttributeKind, ConstantValue};
use crate::definition::{AttributeDefinition, OpDefinition, OpError, Site};
use crate::diagnostic::{Diagnostic, DiagnosticKind};
use crate::graph::{Graph, NodeId, Span, ValueId};
use crate::name::Name;
use crate::operation::Operation;
use crate::ops;
use crate::text::lexer::TokenKind;
use crate::text::parser::{Parsed, Parser, Reported};
use crate::types::{Dim, Type};

/// Regions inside regions that are read.
const DEEPEST_NESTING: usize = 16;

/// The values of a graph by name. A name whose definition was in error stands for nothing, so that its
/// uses are not reported as well.
#[derive(Default)]
pub(super) struct Scope(HashMap<Name, Option<ValueId>>);

impl Scope {
    /// Gives `name` a value, or none if its definition was in error; says whether it had one already.
    pub(super) fn define(&mut self, name: Name, value: Option<ValueId>) -> bool {
        self.0.insert(name, value).is_some()
    }
}

/// An operand, the name it has inside a region, and its place.
struct Operand {
    inner: Option<(Name, Span)>,
    value: Option<ValueId>,
    span: Span,
}

/// The places of the parts of an operation, for errors about them.
struct Places {
    op: Span,
    operands: Vec<Span>,
    attributes: Vec<(&'static str, Span)>,
    results: Vec<Span>,
}

impl Places {
    fn of(&self, site: Site) -> Span {
        let found = match site {
            Site::Operation => None,
            Site::Operand(index) => self.operands.get(index),
            Site::Attribute(name) => self.attributes.iter().find(|(given, _)| *given == name).map(|(_, span)| span),
            Site::Result(index) => self.results.get(index),
        };
        found.unwrap_or(&self.op).clone()
    }
}

impl<'s> Parser<'s> {
    /// Operations up to `return …` and `}`. Gives the place of the return if its values are all known.
    pub(super) fn body(&mut self, graph: &mut Graph, scope: &mut Scope) -> Parsed<Option<Span>> {
        loop {
            match self.peek() {
                TokenKind::Value(_) => {
                    let start = self.position();
                    if self.statement(graph, scope).is_err() {
                        self.recover(start, &["return", "func", "param"]);
                    }
                }
                TokenKind::Word("return") => break,
                _ => return Err(self.unexpected("an operation, as in `%y = exp(%x)`, or return")),
            }
            if self.has_had_enough() {
                return Err(Reported);
            }
        }
        let start = self.span().start;
        self.advance();
        let mut outputs = Vec::new();
        while self.peek() != TokenKind::Mark("}") {
            if !outputs.is_empty() {
                self.expect(",")?;
            }
            outputs.push(self.operand(graph, scope)?.value);
        }
        let span = self.span_since(start);
        self.expect("}")?;
        let values: Option<Vec<ValueId>> = outputs.into_iter().collect();
        Ok(values.map(|values| {
            graph.set_outputs(values);
            span
        }))
    }

    /// `%a, %b = op(…) {…} : types {…}`
    fn statement(&mut self, graph: &mut Graph, scope: &mut Scope) -> Parsed<()> {
        let start = self.span().start;
        let mut names = vec![self.value_name("the name of a result")?];
        while self.accept(",") {
            names.push(self.value_name("the name of a result")?);
        }
        let node = self.expect("=").and_then(|()| self.operation(graph, scope, names.len()));
        let span = self.span_since(start);
        let node = match node {
            Ok(Some(node)) => Some(node),
            Ok(None) => None,
            Err(Reported) => {
                names.into_iter().for_each(|(name, _)| {
                    scope.define(name, None);
                });
                return Err(Reported);
            }
        };
        if let Some(node) = node {
            graph.set_span(node, span);
        }
        for (index, (name, span)) in names.into_iter().enumerate() {
            let value = node.map(|node| ValueId { node, result: index as u32 });
            if let Some(value) = value
                && !name.bytes().all(|byte| byte.is_ascii_digit())
            {
                graph.set_name(value, name.clone());
            }
            if scope.define(name.clone(), value) {
                let error = Diagnostic::new(DiagnosticKind::DuplicateName, format!("`%{name}` is defined twice"), span);
                self.report(error.help("every name stands for one value; choose another"));
            }
        }
        Ok(())
    }

    /// The right side of a statement. `None` if it reads well but makes no operation: an operand's
    /// definition was in error, or the op's rules are broken.
    fn operation(&mut self, graph: &mut Graph, scope: &Scope, results: usize) -> Parsed<Option<NodeId>> {
        let (op, op_span) = self.word("an op, as in `matmul`,")?;
        let Some(definition) = ops::find(op) else {
            let error = Diagnostic::new(DiagnosticKind::UnknownName, format!("there is no op `{op}`"), op_span);
            return Err(self.report(error.suggest(op, ops::all().map(|definition| definition.op.name()))));
        };
        let operands = self.list("(", ")", |parser| parser.region_operand(definition, graph, scope))?;
        // A region begins with a value name or `return`; attributes with `name =`.
        let is_attributes = match (self.peek_after(1), self.peek_after(2)) {
            (TokenKind::Mark("}"), _) | (TokenKind::Word(_), TokenKind::Mark("=")) => true,
            _ => !definition.has_region,
        };
        let written = match self.peek() {
            TokenKind::Mark("{") if is_attributes => {
                let Ok(attributes) = self.list("{", "}", |parser| parser.attribute(definition)) else {
                    self.skip_block();
                    return Err(Reported);
                };
                attributes
            }
            _ => Vec::new(),
        };
        let mut types = Vec::new();
        let mut places = Places {
            op: op_span.clone(),
            operands: operands.iter().map(|operand| operand.span.clone()).collect(),
            attributes: written.iter().map(|(name, _, span)| (*name, span.clone())).collect(),
            results: Vec::new(),
        };
        if self.accept(":") {
            loop {
                let start = self.span().start;
                types.push(self.parse_type()?);
                places.results.push(self.span_since(start));
                if !self.accept(",") {
                    break;
                }
            }
        }
        let values: Option<Vec<ValueId>> = operands.iter().map(|operand| operand.value).collect();
        let region = match definition.has_region {
            true => Some(self.region(&operands, graph)?),
            false => None,
        };
        let (Some(values), true) = (values, region.as_ref().is_none_or(Option::is_some)) else { return Ok(None) };
        let attributes = written.into_iter().map(|(name, attribute, _)| (name, attribute));
        let operation = Operation::from_named_attributes(definition, attributes);
        let added = operation.and_then(|operation| {
            let operation = match region.flatten() {
                Some(region) => operation.with_region(region),
                None => operation,
            };
            graph.add(operation, &values, &types)
        });
        let node = match added {
            Ok(node) => node,
            Err(error) => {
                self.operation_error(error, &places);
                return Ok(None);
            }
        };
        let found = graph.node(node).results().len();
        if found != results {
            let message = format!("{op} has {found} results, {results} names are given");
            self.report(Diagnostic::new(DiagnosticKind::Operation, message, op_span));
            return Ok(None);
        }
        Ok(Some(node))
    }

    fn operation_error(&mut self, error: OpError, places: &Places) {
        let diagnostic = Diagnostic::new(DiagnosticKind::Operation, error.to_string(), places.of(error.site));
        self.report(match error.help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        });
    }

    /// `%x`, `@w`, or `%inner = %x` for an op with a region.
    fn region_operand(&mut self, definition: &OpDefinition, graph: &mut Graph, scope: &Scope) -> Parsed<Operand> {
        if !definition.has_region || self.peek_after(1) != TokenKind::Mark("=") {
            return self.operand(graph, scope);
        }
        let inner = self.value_name("the operand's name inside the region")?;
        self.expect("=")?;
        let operand = self.operand(graph, scope)?;
        Ok(Operand { inner: Some(inner), ..operand })
    }

    /// `%x` or `@w`
    fn operand(&mut self, graph: &mut Graph, scope: &Scope) -> Parsed<Operand> {
        let span = self.span();
        let value = match self.peek() {
            TokenKind::Value(_) => {
                let (name, span) = self.value_name("a value")?;
                match scope.0.get(&name) {
                    Some(value) => *value,
                    None => {
                        let message = format!("there is no value `%{name}` here");
                        let error = Diagnostic::new(DiagnosticKind::UnknownName, message, span);
                        let error = match self.module.parameters.contains_key(&name) {
                            true => error.help(format!("parameters are written `@{name}`")),
                            false => error.suggest_with("%", &name, scope.0.keys().map(Name::as_str)),
                        };
                        self.report(error);
                        None
                    }
                }
            }
            TokenKind::Global(_) => self.parameter_operand(graph)?,
            _ => return Err(self.unexpected("a value, `%name`, or a parameter, `@name`,")),
        };
        Ok(Operand { inner: None, value, span })
    }

    fn parameter_operand(&mut self, graph: &mut Graph) -> Parsed<Option<ValueId>> {
        let (name, span) = self.global("a parameter")?;
        if self.depth > 0 {
            let message = format!("a region refers to no parameter such as `@{name}`");
            let error = Diagnostic::new(DiagnosticKind::Structure, message, span);
            self.report(error.help("pass it as an operand, `%name = @parameter`"));
            return Ok(None);
        }
        match self.module.parameters.get(&name) {
            Some(ty) => {
                let ty = ty.clone();
                Ok(Some(graph.parameter(name, ty)))
            }
            None => {
                let message = format!("there is no parameter `@{name}`");
                let error = Diagnostic::new(DiagnosticKind::UnknownName, message, span);
                let error = error.suggest_with("@", &name, self.module.parameters.keys().map(Name::as_str));
                self.report(error);
                Ok(None)
            }
        }
    }

    /// `{ … return … }`; `None` if something in it was in error.
    fn region(&mut self, operands: &[Operand], outer: &Graph) -> Parsed<Option<Graph>> {
        if self.depth == DEEPEST_NESTING {
            let message = format!("regions nest more than {DEEPEST_NESTING} deep");
            return Err(self.report(Diagnostic::new(DiagnosticKind::Limit, message, self.span())));
        }
        self.expect("{")?;
        let (mut graph, mut scope) = (Graph::new(), Scope::default());
        for operand in operands {
            let Some((name, span)) = &operand.inner else {
                let message = "an operand of a region needs a name inside it";
                let error = Diagnostic::new(DiagnosticKind::Syntax, message, operand.span.clone());
                return Err(self.report(error.help("write `%inside = %outside`")));
            };
            let value = operand.value.map(|value| graph.input(name.clone(), outer.value_type(value).clone()));
            if scope.define(name.clone(), value) {
                let message = format!("`%{name}` is defined twice");
                self.report(Diagnostic::new(DiagnosticKind::DuplicateName, message, span.clone()));
            }
        }
        self.depth += 1;
        let errors = self.diagnostics.len();
        let returned = self.body(&mut graph, &mut scope);
        self.depth -= 1;
        if returned.is_err() {
            self.skip_block();
            return Err(Reported);
        }
        let is_sound = self.diagnostics.len() == errors && operands.iter().all(|operand| operand.value.is_some());
        Ok(is_sound.then_some(graph))
    }

    /// `name = value`
    fn attribute(&mut self, definition: &'static OpDefinition) -> Parsed<(&'static str, Attribute, Span)> {
        let (name, span) = self.word("the name of an attribute")?;
        self.expect("=")?;
        let Some((_, declared)) = definition.attribute(name) else {
            let message = format!("{} has no attribute `{name}`", definition.op);
            let error = Diagnostic::new(DiagnosticKind::UnknownName, message, span);
            let names: Vec<&str> = definition.attributes.iter().map(|attribute| attribute.name).collect();
            let error = match names.as_slice() {
                [] => error.help(format!("{} has no attributes", definition.op)),
                names => error.help(format!("its attributes are {}", names.join(", "))),
            };
            return Err(self.report(error.suggest(name, names.iter().copied())));
        };
        let start = self.span().start;
        let value = self.attribute_value(declared)?;
        Ok((declared.name, value, self.span_since(start)))
    }

    fn attribute_value(&mut self, declared: &AttributeDefinition) -> Parsed<Attribute> {
        let expected = format!("{} for `{}`", declared.kind, declared.name);
        Ok(match declared.kind {
            AttributeKind::Bool => match self.word(&expected)? {
                ("true", _) => Attribute::Bool(true),
                ("false", _) => Attribute::Bool(false),
                (word, span) => return Err(self.wrong_value(&expected, word, span)),
            },
            AttributeKind::Natural => Attribute::Natural(self.natural(&expected)?),
            AttributeKind::Float => {
                let (word, span) = self.word(&expected)?;
                match float(word) {
                    Some(value) => Attribute::Float(value),
                    None => return Err(self.wrong_value(&expected, word, span)),
                }
            }
            AttributeKind::Keyword(keywords) => {
                let (word, span) = self.word(&expected)?;
                if !keywords.contains(&word) {
                    let error = Diagnostic::new(
                        DiagnosticKind::UnknownName,
                        format!("`{}` is {}, not `{word}`", declared.name, declared.kind),
                        span,
                    );
                    return Err(self.report(error.suggest(word, keywords.iter().copied())));
                }
                Attribute::Keyword(word.into())
            }
            AttributeKind::Text => match self.peek() {
                TokenKind::Text(token) => {
                    let span = self.span();
                    self.advance();
                    Attribute::Text(self.text(token, span)?.into())
                }
                _ => return Err(self.unexpected(&expected)),
            },
            AttributeKind::Storage => {
                let (word, span) = self.word(&expected)?;
                Attribute::Storage(self.storage_named(word, span)?)
            }
            AttributeKind::Naturals => {
                Attribute::Naturals(self.list("[", "]", |parser| parser.natural("a natural number"))?)
            }
            AttributeKind::Dims => Attribute::Dims(self.list("[", "]", |parser| match parser.peek() {
                TokenKind::Word(word) if Dim::is_symbol_name(word) => {
                    parser.advance();
                    Ok(Dim::symbol(word))
                }
                _ => parser.natural("a number or symbol").map(Dim::Static),
            })?),
            AttributeKind::Constant => {
                let words = match self.peek() {
                    TokenKind::Mark("[") => self.list("[", "]", |parser| parser.word("an element"))?,
                    _ => vec![self.word(&expected)?],
                };
                Attribute::Constant(self.constant(&words)?)
            }
        })
    }

    fn wrong_value(&mut self, expected: &str, word: &str, span: Span) -> Reported {
        let message = format!("{expected} is expected here, not `{word}`");
        self.report(Diagnostic::new(DiagnosticKind::Syntax, message, span))
    }

    /// Truth values, integers, or floats: floats if one is written as such.
    fn constant(&mut self, words: &[(&str, Span)]) -> Parsed<ConstantValue> {
        let is_truth = |word: &str| word == "true" || word == "false";
        if words.iter().any(|(word, _)| is_truth(word)) {
            return match words.iter().find(|(word, _)| !is_truth(word)) {
                Some((word, span)) => Err(self.wrong_value("true or false", word, span.clone())),
                None => {
                    Ok(ConstantValue::Boolean(words.iter().map(|(word, _)| *word == "true").collect::<Vec<_>>().into()))
                }
            };
        }
        if let Some((word, span)) = words.iter().find(|(word, _)| float(word).is_none()) {
            return Err(self.wrong_value("a number", word, span.clone()));
        }
        let is_whole = |word: &str| word.strip_prefix('-').unwrap_or(word).bytes().all(|byte| byte.is_ascii_digit());
        if !words.iter().all(|(word, _)| is_whole(word)) {
            return Ok(words.iter().filter_map(|(word, _)| float(word)).collect::<Vec<f64>>().into());
        }
        let mut integers = Vec::with_capacity(words.len());
        for (word, span) in words {
            integers.push(word.parse::<i64>().map_err(|_| self.too_large(word, span.clone()))?);
        }
        Ok(integers.into())
    }
}

/// The number that a word stands for: digits with an optional sign, fraction and exponent, or `inf`,
/// `-inf`, `nan`.
fn float(word: &str) -> Option<f64> {
    match word {
        "inf" => Some(f64::INFINITY),
        "-inf" => Some(f64::NEG_INFINITY),
        "nan" => Some(f64::NAN),
        _ if word.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit()) => word.parse().ok(),
        _ => None,
    }
}

/// A type written on its own.
pub(super) fn parse_lone_type(parser: &mut Parser<'_>) -> Parsed<Type> {
    let ty = parser.parse_type()?;
    match parser.peek() {
        TokenKind::End => Ok(ty),
        _ => Err(parser.unexpected("the end of the text")),
    }
}
