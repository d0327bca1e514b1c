//! The grammar of types.

use crate::diagnostic::{Diagnostic, DiagnosticKind};
use crate::graph::Span;
use crate::name::Name;
use crate::sharding::Sharding;
use crate::storage::Storage;
use crate::text::lexer::TokenKind;
use crate::text::parser::{Parsed, Parser};
use crate::types::{Dim, KvCacheType, NumericPolicy, Shape, TensorType, Type};

impl<'s> Parser<'s> {
    /// `tensor<…>` or `kv_cache<…>`
    pub(super) fn parse_type(&mut self) -> Parsed<Type> {
        match self.peek() {
            TokenKind::Word("tensor") => self.tensor_type().map(Type::Tensor),
            TokenKind::Word("kv_cache") => self.cache_type().map(Type::KvCache),
            TokenKind::Word(word) => {
                let message = format!("`{word}` is no type; types are tensor<…> and kv_cache<…>");
                let error = Diagnostic::new(DiagnosticKind::Type, message, self.span());
                Err(self.report(error.suggest(word, ["tensor", "kv_cache"])))
            }
            _ => Err(self.unexpected("a type")),
        }
    }

    /// `tensor<2048x192xf32 @accum(f32) @shard([tp],[]) @partial(dp)>`
    fn tensor_type(&mut self) -> Parsed<TensorType> {
        let start = self.span().start;
        self.advance();
        self.expect("<")?;
        let (word, span) = self.word("a shape and element type, as in `4x8xf32`,")?;
        let (shape, storage) = self.shape_and_storage(word, span)?;
        let mut policy = NumericPolicy::from(storage);
        let (mut dimensions, mut partial) = (None, None);
        while let TokenKind::Global(annotation) = self.peek() {
            let span = self.span();
            self.advance();
            let is_repeated = match annotation {
                "accum" => {
                    self.expect("(")?;
                    let accumulator = self.storage()?;
                    self.expect(")")?;
                    policy.accumulator.replace(accumulator).is_some()
                }
                "shard" => {
                    let axes = self.list("(", ")", |parser| parser.list("[", "]", Self::axis))?;
                    dimensions.replace(axes).is_some()
                }
                "partial" => {
                    let axes = self.list("(", ")", Self::axis)?;
                    partial.replace(axes).is_some()
                }
                _ => {
                    let message = format!("there is no annotation `@{annotation}`");
                    let error = Diagnostic::new(DiagnosticKind::UnknownName, message, span);
                    return Err(self.report(error.suggest(annotation, ["accum", "shard", "partial"])));
                }
            };
            if is_repeated {
                let message = format!("`@{annotation}` is given twice");
                return Err(self.report(Diagnostic::new(DiagnosticKind::DuplicateName, message, span)));
            }
        }
        self.expect(">")?;
        let sharding = match (dimensions, partial) {
            (None, None) => None,
            // Partial sums alone: every dimension is replicated.
            (dimensions, partial) => Some(Sharding {
                dimensions: dimensions.unwrap_or_else(|| vec![Vec::new(); shape.rank()]),
                partial: partial.unwrap_or_default(),
            }),
        };
        let objection = policy.objection().or_else(|| sharding.as_ref()?.objection(shape.rank(), &self.module.mesh));
        if let Some(objection) = objection {
            return Err(self.report(Diagnostic::new(DiagnosticKind::Type, objection, self.span_since(start))));
        }
        Ok(TensorType { shape, policy, sharding })
    }

    fn axis(&mut self) -> Parsed<Name> {
        let (word, _) = self.word("the name of a mesh axis")?;
        Ok(word.into())
    }

    fn storage(&mut self) -> Parsed<Storage> {
        let (word, span) = self.word("an element type, such as f32,")?;
        self.storage_named(word, span)
    }

    pub(super) fn storage_named(&mut self, word: &str, span: Span) -> Parsed<Storage> {
        word.parse::<Storage>().map_err(|error| {
            let error = Diagnostic::new(DiagnosticKind::UnknownName, error.to_string(), span);
            self.report(error.suggest(word, Storage::ALL.iter().map(|storage| storage.name())))
        })
    }

    /// Takes `2048xTxf32` apart.
    fn shape_and_storage(&mut self, word: &'s str, span: Span) -> Parsed<(Shape, Storage)> {
        let mut shape = Shape::scalar();
        let mut rest = word;
        let mut start = span.start;
        loop {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let is_number = end > 0;
            let end = match is_number {
                true => end,
                false => rest
                    .find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
                    .unwrap_or(rest.len()),
            };
            let (dim, after) = rest.split_at(end);
            let dim_span = start..start + end;
            let is_dim = is_number || Dim::is_symbol_name(dim);
            match after.strip_prefix('x') {
                Some(next) if is_dim => {
                    shape.push(match is_number {
                        true => Dim::Static(dim.parse().map_err(|_| self.too_large(dim, dim_span))?),
                        false => Dim::symbol(dim),
                    });
                    start += end + 1;
                    rest = next;
                }
                _ if is_dim => {
                    let message = format!("`x` and the element type are expected after `{dim}`");
                    let error = Diagnostic::new(DiagnosticKind::Type, message, dim_span);
                    return Err(self.report(error.help("write shapes as in tensor<4xTxf32>; symbols are upper-case")));
                }
                _ => return Ok((shape, self.storage_named(rest, start..span.end)?)),
            }
        }
    }

    /// `kv_cache<layers=4, heads=6, dim=32, page=16, f32>`, with `window=128, ` before the storage where it is bounded
    fn cache_type(&mut self) -> Parsed<KvCacheType> {
        let start = self.span().start;
        self.advance();
        self.expect("<")?;
        let mut numbers = [0; 4];
        for (name, number) in ["layers", "heads", "dim", "page"].into_iter().zip(&mut numbers) {
            self.expect(name)?;
            self.expect("=")?;
            *number = self.natural("a number")?;
            self.expect(",")?;
        }
        let mut window = None;
        if self.peek() == TokenKind::Word("window") {
            self.advance();
            self.expect("=")?;
            window = Some(self.natural("a number")?);
            self.expect(",")?;
        }
        let storage = self.storage()?;
        self.expect(">")?;
        let [layers, heads, dim, page_size] = numbers;
        let cache = KvCacheType { layers, heads, dim, page_size, window, storage };
        match cache.objection() {
            Some(objection) => {
                Err(self.report(Diagnostic::new(DiagnosticKind::Type, objection, self.span_since(start))))
            }
            None => Ok(cache),
        }
    }
}
