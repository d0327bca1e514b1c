//! Reads instructions.

use smallvec::SmallVec;

use super::super::program::{
    BinaryOperation, Block, Coordinate, Element, Instruction, Literal, Operation, Predicate, Reduction, TileType,
    UnaryOperation, Value,
};
use super::token::{Kind, Token};
use super::{DEEPEST_LOOP, Parsed, Parser};

impl<'a> Parser<'a> {
    pub(super) fn instruction(&mut self) -> Parsed<Instruction> {
        self.skip_comments();
        let start = self.tokens[self.position].span.clone();
        self.kernel.instructions.push(start.clone());
        let mut results = Vec::new();
        while matches!(self.peek(), Kind::Value(_)) {
            results.push(self.next());
            if !self.at_punctuation(",") {
                self.punctuation("=")?;
                break;
            }
        }
        if self.at_keyword("for") {
            return self.for_loop(&results);
        }
        if self.at_keyword("store") {
            if let Some(result) = results.first() {
                return Err(self.error(result.span.clone(), "a store has no result"));
            }
            return self.store();
        }
        let mut operation = self.operation()?;
        self.punctuation(":")?;
        let tile = self.tile_type()?;
        if let Operation::Constant(literal) | Operation::Load { other: literal, .. } = &mut operation
            && let (Literal::Integer(value), true) = (*literal, tile.element.is_float())
        {
            *literal = Literal::Float(value as f64);
        }
        match results.as_slice() {
            [result] => Ok(Instruction { results: [self.define(result, tile)?].into(), operation }),
            results => Err(self.error(start, format!("this operation has one result, not {}", results.len()))),
        }
    }

    fn for_loop(&mut self, results: &[Token<'a>]) -> Parsed<Instruction> {
        let induction = self.next();
        self.keyword("in")?;
        let lower = self.value()?;
        self.punctuation("..")?;
        let upper = self.value()?;
        self.keyword("step")?;
        let step = self.number("step")?;
        let carried = if self.at_keyword("with") {
            self.list(["(", ")"], |parser| {
                let carried = parser.next();
                parser.punctuation("=")?;
                let initial = parser.value()?;
                parser.punctuation(":")?;
                Ok((carried, initial, parser.tile_type()?))
            })?
        } else {
            Vec::new()
        };
        if results.len() != carried.len() {
            let message = format!("the loop carries {} values and has {} results", carried.len(), results.len());
            return Err(self.error(induction.span, message));
        }
        if self.kernel.depth == DEEPEST_LOOP {
            return Err(self.error(induction.span, format!("loops are nested more than {DEEPEST_LOOP} deep")));
        }
        let mut parameters = vec![self.define(&induction, TileType::scalar(Element::I32))?];
        for (token, _, tile) in &carried {
            parameters.push(self.define(token, tile.clone())?);
        }
        self.kernel.depth += 1;
        let (instructions, yields) = self.block()?;
        self.kernel.depth -= 1;
        let initial = carried.iter().map(|(_, initial, _)| *initial).collect();
        let tiles = carried.into_iter().map(|(_, _, tile)| tile);
        let results = results.iter().zip(tiles).map(|(token, tile)| self.define(token, tile)).collect::<Parsed<_>>()?;
        let body = Block { parameters, instructions, yields };
        Ok(Instruction { results, operation: Operation::For { lower, upper, step, initial, body } })
    }

    fn coordinates(&mut self) -> Parsed<SmallVec<[Coordinate; 4]>> {
        let coordinates = self.list(["[", "]"], |parser| {
            if parser.at_keyword("gather") {
                return Ok(Coordinate::Gather(parser.value()?));
            }
            let start = parser.value()?;
            match parser.at_punctuation(":") {
                true => Ok(Coordinate::Block { start, length: parser.number("length")? }),
                false => Ok(Coordinate::At(start)),
            }
        })?;
        Ok(coordinates.into())
    }

    fn mask(&mut self) -> Parsed<Option<Value>> {
        if self.at_keyword("mask") { self.value().map(Some) } else { Ok(None) }
    }

    fn store(&mut self) -> Parsed<Instruction> {
        let tensor = self.argument_index()?;
        let coordinates = self.coordinates()?;
        self.punctuation(",")?;
        let value = self.value()?;
        let mask = self.mask()?;
        let operation = Operation::Store { tensor, coordinates, mask, value };
        Ok(Instruction { results: SmallVec::new(), operation })
    }

    /// An operation with one result, up to the colon.
    fn operation(&mut self) -> Parsed<Operation> {
        let token = self.next();
        let Kind::Word(word) = token.kind else {
            return self.expected(&token, "an operation");
        };
        if let Some(operation) = UnaryOperation::ALL.iter().find(|operation| operation.name() == word) {
            return Ok(Operation::Unary(*operation, self.value()?));
        }
        if let Some(operation) = BinaryOperation::ALL.iter().find(|operation| operation.name() == word) {
            let [a, b] = self.values()?;
            return Ok(Operation::Binary(*operation, a, b));
        }
        Ok(match word {
            "program_id" => Operation::ProgramId(self.number("axis of the grid")?),
            "argument" => Operation::Argument(self.argument_index()?),
            "constant" => Operation::Constant(self.literal()?),
            "iota" => Operation::Iota,
            "compare" => {
                let predicate = self.named("predicate", Predicate::ALL, Predicate::name)?;
                let [a, b] = self.values()?;
                Operation::Compare(predicate, a, b)
            }
            "select" => {
                let [condition, a, b] = self.values()?;
                Operation::Select(condition, a, b)
            }
            "cast" => Operation::Cast(self.value()?),
            "bitcast" => Operation::Bitcast(self.value()?),
            "broadcast" => {
                let value = self.value()?;
                let axes = self.list(["[", "]"], |parser| parser.number("axis"))?;
                Operation::Broadcast { value, axes: axes.into() }
            }
            "transpose" => Operation::Transpose(self.value()?),
            "rearrange" => {
                let value = self.value()?;
                let extents = self.list(["[", "]"], |parser| parser.number("extent"))?;
                self.keyword("permuted")?;
                let permutation = self.list(["[", "]"], |parser| parser.number("dimension"))?;
                Operation::Rearrange { value, extents: extents.into(), permutation: permutation.into() }
            }
            "reduce" => {
                let reduction = self.named("reduction", Reduction::ALL, Reduction::name)?;
                let value = self.value()?;
                self.keyword("axis")?;
                Operation::Reduce { reduction, value, axis: self.number("axis")? }
            }
            "dequantize" => {
                let [elements, scales] = self.values()?;
                Operation::Dequantize { elements, scales }
            }
            "dot" => {
                let [lhs, rhs, accumulator] = self.values()?;
                Operation::Dot { lhs, rhs, accumulator }
            }
            "load" => {
                let tensor = self.argument_index()?;
                let coordinates = self.coordinates()?;
                let mask = self.mask()?;
                let other = if self.at_keyword("other") { self.literal()? } else { Literal::Integer(0) };
                Operation::Load { tensor, coordinates, mask, other }
            }
            _ => return Err(self.error(token.span, format!("there is no operation `{word}`{}", suggestion(word)))),
        })
    }

    /// Values with commas between them.
    fn values<const N: usize>(&mut self) -> Parsed<[Value; N]> {
        let mut values = [Value(0); N];
        for (position, value) in values.iter_mut().enumerate() {
            if position > 0 {
                self.punctuation(",")?;
            }
            *value = self.value()?;
        }
        Ok(values)
    }
}

/// Operations besides the elementwise ones.
pub(super) const OTHER_OPERATIONS: [&str; 18] = [
    "program_id",
    "argument",
    "constant",
    "iota",
    "compare",
    "select",
    "cast",
    "bitcast",
    "broadcast",
    "transpose",
    "rearrange",
    "reduce",
    "dequantize",
    "dot",
    "load",
    "store",
    "for",
    "yield",
];

/// The operation with the nearest name, where one is near.
fn suggestion(word: &str) -> String {
    let unary = UnaryOperation::ALL.iter().map(|operation| operation.name());
    let binary = BinaryOperation::ALL.iter().map(|operation| operation.name());
    let names = unary.chain(binary).chain(OTHER_OPERATIONS);
    let nearest = names.map(|name| (strsim::damerau_levenshtein(name, word), name)).min();
    nearest
        .filter(|(distance, _)| *distance <= 3)
        .map_or_else(String::new, |(_, name)| format!("; did you mean `{name}`?"))
}
