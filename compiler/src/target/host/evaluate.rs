//! Tiles as expressions: what the element (or the vector of elements) at given indices is, computed where it is needed.

use std::{cell::RefCell, collections::HashMap};

use smallvec::SmallVec;

use super::{
    conversion::{arithmetic_machine, machine_of},
    emitter::{Comparison, Machine, Ssa},
    lower::Lowering,
};
use crate::tile::{BinaryOperation, Element, Literal, Operation, Predicate, UnaryOperation, Value};

/// A position along one dimension of a tile.
#[derive(Clone, Copy, Debug)]
pub(super) enum Index<'a> {
    /// One index (I64).
    At(Ssa<'a>),
    /// A vector's worth of consecutive indices from this one (I64).
    Lanes(Ssa<'a>),
}

impl<'a> Index<'a> {
    /// The first or only index.
    pub(super) fn first(self) -> Ssa<'a> {
        match self {
            Self::At(index) | Self::Lanes(index) => index,
        }
    }
}

/// Whether blocks are known to lie inside their tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Guard {
    /// Every index is compared with its extent.
    Checked,
    /// Blocks lie inside; gathered indices and masks are still looked at.
    Unchecked,
}

/// What identifies an evaluation: value, indices (vector or not, SSA value), guard.
type Key = (Value, SmallVec<[(bool, usize); 3]>, Guard);

/// Expressions already evaluated, by scope.
pub(super) struct Memo<'a> {
    scopes: RefCell<Vec<HashMap<Key, Ssa<'a>>>>,
}

impl Default for Memo<'_> {
    fn default() -> Self {
        Self { scopes: RefCell::new(vec![HashMap::new()]) }
    }
}

impl<'a> Memo<'a> {
    /// Forgets after `body` what was evaluated while it ran: code after it is not dominated by its code.
    pub(super) fn scope<T>(&self, body: impl FnOnce() -> T) -> T {
        self.scopes.borrow_mut().push(HashMap::new());
        let result = body();
        self.scopes.borrow_mut().pop();
        result
    }

    fn get(&self, key: &Key) -> Option<Ssa<'a>> {
        self.scopes.borrow().iter().rev().find_map(|scope| scope.get(key).copied())
    }

    fn insert(&self, key: Key, value: Ssa<'a>) {
        if let Some(scope) = self.scopes.borrow_mut().last_mut() {
            scope.insert(key, value);
        }
    }
}

impl<'a> Lowering<'_, 'a> {
    /// The elements of a value at the indices, one for each dimension: a vector if an index is [`Index::Lanes`] and the elements differ
    /// along it, else a scalar.
    pub(super) fn evaluate(&self, value: Value, indices: &[Index<'a>], guard: Guard) -> Ssa<'a> {
        if indices.is_empty() {
            return self.scalar(value);
        }
        let identities = indices.iter().map(|index| (matches!(index, Index::Lanes(_)), index.first().identity()));
        let key = (value, identities.collect(), guard);
        if let Some(known) = self.memo.get(&key) {
            return known;
        }
        let buffer = self.buffers.borrow().get(&value).cloned();
        let result = match (buffer, self.analysis.definition(value)) {
            (Some(buffer), _) => self.read_buffer(&buffer, indices),
            (None, Some(operation)) => self.compute(value, operation, indices, guard),
            (None, None) => unreachable!("verified: values are defined before use, and carried tiles have buffers"),
        };
        self.memo.insert(key, result);
        result
    }

    /// As [`Lowering::evaluate`], from the definition, even of a value that has a buffer.
    pub(super) fn compute(&self, value: Value, operation: &Operation, indices: &[Index<'a>], guard: Guard) -> Ssa<'a> {
        let e = self.emitter;
        let element = self.program.type_of(value).element;
        let operand = |value: Value| self.evaluate(value, indices, guard);
        match operation {
            Operation::Constant(literal) => self.literal(*literal, element, 1),
            Operation::Iota => match indices[0] {
                Index::At(index) => e.resize_signed(index, Machine::I32),
                Index::Lanes(first) => e.add(e.resize_signed(first, Machine::I32), e.iota(Machine::I32, self.lanes)),
            },
            Operation::Unary(kind, a) => self.unary(*kind, operand(*a), element),
            Operation::Binary(kind, a, b) => {
                let constant = matches!(self.analysis.definition(*b), Some(Operation::Constant(_)))
                    || self.analysis.constant(*b).is_some();
                self.binary(*kind, operand(*a), operand(*b), element, constant)
            }
            Operation::Compare(predicate, a, b) => {
                self.compare(*predicate, operand(*a), operand(*b), self.program.type_of(*a).element)
            }
            Operation::Select(condition, a, b) => {
                let (a, b) = (operand(*a), operand(*b));
                e.select(operand(*condition), a, b)
            }
            Operation::Cast(a) => self.converter().cast(operand(*a), self.program.type_of(*a).element, element),
            Operation::Bitcast(a) => {
                let from = operand(*a);
                e.bitcast(from, machine_of(element), from.lanes)
            }
            Operation::Broadcast { value, axes } => {
                let picked: SmallVec<[Index<'a>; 3]> = axes.iter().map(|&axis| indices[usize::from(axis)]).collect();
                self.evaluate(*value, &picked, guard)
            }
            Operation::Transpose(value) => self.evaluate(*value, &[indices[1], indices[0]], guard),
            Operation::Dequantize { .. } => {
                let blocks = self.blocks_of(value).unwrap_or_else(|| unreachable!("the operation defines the value"));
                self.dequantize(&blocks, indices, guard)
            }
            Operation::Load { tensor, coordinates, mask, other } => {
                self.load(*tensor, coordinates, *mask, *other, indices, guard)
            }
            Operation::Rearrange { .. } => unreachable!("refused before anything is lowered"),
            Operation::ProgramId(_)
            | Operation::Argument(_)
            | Operation::Reduce { .. }
            | Operation::Dot { .. }
            | Operation::Store { .. }
            | Operation::For { .. } => unreachable!("defined before use as a scalar or a buffer"),
        }
    }

    /// A literal in the lane of its element.
    pub(super) fn literal(&self, literal: Literal, element: Element, lanes: u32) -> Ssa<'a> {
        let e = self.emitter;
        match literal {
            Literal::Integer(value) => e.integer(machine_of(element), lanes, value),
            Literal::Float(value) => {
                let float = e.float(arithmetic_machine(element), lanes, value);
                self.converter().narrow_arithmetic(float, element)
            }
        }
    }

    fn unary(&self, kind: UnaryOperation, a: Ssa<'a>, element: Element) -> Ssa<'a> {
        let e = self.emitter;
        if !element.is_float() {
            let zero = e.integer(a.machine, a.lanes, 0);
            return match kind {
                UnaryOperation::Not => e.xor(a, e.integer(a.machine, a.lanes, 1)),
                UnaryOperation::Absolute if !is_unsigned(element) => e.integer_maximum(a, e.subtract(zero, a)),
                UnaryOperation::Negate => e.subtract(zero, a),
                _ => a,
            };
        }
        let math = self.math();
        let x = self.converter().widen_arithmetic(a, element);
        let y = match kind {
            UnaryOperation::Negate => e.negate(x),
            UnaryOperation::Absolute => math.absolute(x),
            UnaryOperation::Exp => math.exp(x),
            UnaryOperation::Exp2 => math.exp2(x),
            UnaryOperation::Log => math.log(x),
            UnaryOperation::Log2 => math.log2(x),
            UnaryOperation::Sqrt => math.sqrt(x),
            UnaryOperation::Rsqrt => math.rsqrt(x),
            UnaryOperation::Tanh => math.tanh(x),
            UnaryOperation::Erf => math.erf(x),
            UnaryOperation::Sin => math.sin(x),
            UnaryOperation::Cos => math.cos(x),
            UnaryOperation::Floor => math.floor(x),
            UnaryOperation::Not => x,
        };
        self.converter().narrow_arithmetic(y, element)
    }

    /// `constant_divisor`: the second operand is the same known number everywhere, so that LLVM divides by multiplication.
    pub(super) fn binary(
        &self,
        kind: BinaryOperation,
        a: Ssa<'a>,
        b: Ssa<'a>,
        element: Element,
        constant_divisor: bool,
    ) -> Ssa<'a> {
        let (a, b) = self.emitter.level(a, b);
        if !element.is_float() {
            return self.integer_binary(kind, a, b, element, constant_divisor);
        }
        let converter = self.converter();
        let x = converter.widen_arithmetic(a, element);
        let y = converter.widen_arithmetic(b, element);
        converter.narrow_arithmetic(self.float_binary(kind, x, y), element)
    }

    /// On f32 or f64 lanes.
    pub(super) fn float_binary(&self, kind: BinaryOperation, x: Ssa<'a>, y: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        match kind {
            BinaryOperation::Add => e.add(x, y),
            BinaryOperation::Subtract => e.subtract(x, y),
            BinaryOperation::Multiply => e.multiply(x, y),
            BinaryOperation::Divide => e.divide(x, y),
            BinaryOperation::Remainder => self.math().remainder(x, y),
            // max(x, y) where neither is NaN, else their sum, which is NaN.
            BinaryOperation::Maximum => self.ordered(Comparison::Greater, x, y),
            BinaryOperation::Minimum => self.ordered(Comparison::Less, x, y),
            BinaryOperation::Power => self.math().power(x, y),
            BinaryOperation::And
            | BinaryOperation::Or
            | BinaryOperation::Xor
            | BinaryOperation::ShiftLeft
            | BinaryOperation::ShiftRightLogical
            | BinaryOperation::MultiplyHighUnsigned => unreachable!("verified: bit operations take integers"),
        }
    }

    /// The one of two floats that compares so with the other; NaN if either is. The select becomes one vmaxps or vminps, which hands back
    /// its second operand if either is NaN.
    fn ordered(&self, comparison: Comparison, x: Ssa<'a>, y: Ssa<'a>) -> Ssa<'a> {
        let e = self.emitter;
        let (x, y) = e.level(x, y);
        let chosen = e.select(e.compare(comparison, x, y), x, y);
        e.select(e.compare(Comparison::Unordered, x, x), x, chosen)
    }

    fn integer_binary(
        &self,
        kind: BinaryOperation,
        a: Ssa<'a>,
        b: Ssa<'a>,
        element: Element,
        constant_divisor: bool,
    ) -> Ssa<'a> {
        let e = self.emitter;
        let unsigned = is_unsigned(element);
        match kind {
            BinaryOperation::Add => e.add(a, b),
            BinaryOperation::Subtract => e.subtract(a, b),
            BinaryOperation::Multiply => e.multiply(a, b),
            BinaryOperation::Divide => self.integer_divide(a, b, unsigned, constant_divisor),
            BinaryOperation::Remainder => {
                let quotient = self.integer_divide(a, b, unsigned, constant_divisor);
                let zero = e.integer(b.machine, b.lanes, 0);
                let rest = e.subtract(a, e.multiply(quotient, b));
                e.select(e.compare(Comparison::Equal, b, zero), zero, rest)
            }
            BinaryOperation::Maximum if unsigned => e.intrinsic("llvm.umax", &[a, b], (a.machine, a.lanes)),
            BinaryOperation::Minimum if unsigned => e.intrinsic("llvm.umin", &[a, b], (a.machine, a.lanes)),
            BinaryOperation::Maximum => e.integer_maximum(a, b),
            BinaryOperation::Minimum => e.integer_minimum(a, b),
            BinaryOperation::And => e.and(a, b),
            BinaryOperation::Or => e.or(a, b),
            BinaryOperation::Xor => e.xor(a, b),
            BinaryOperation::ShiftLeft => e.shift_left(a, b),
            BinaryOperation::ShiftRightLogical => e.shift_right_logical(a, b),
            BinaryOperation::MultiplyHighUnsigned => {
                let wide = |x: Ssa<'a>| e.convert("zext", x, Machine::I64);
                let product = e.multiply(wide(a), wide(b));
                let high = e.shift_right_logical(product, e.integer(Machine::I64, product.lanes, 32));
                e.convert("trunc", high, Machine::I32)
            }
            BinaryOperation::Power => unreachable!("verified: powers take floats"),
        }
    }

    /// Quotient towards zero; zero for a zero divisor; wraps for the least integer by −1.
    fn integer_divide(&self, a: Ssa<'a>, b: Ssa<'a>, unsigned: bool, constant_divisor: bool) -> Ssa<'a> {
        let e = self.emitter;
        let machine = a.machine;
        let zero = e.integer(machine, a.lanes, 0);
        let one = e.integer(machine, a.lanes, 1);
        let by_zero = e.compare(Comparison::Equal, b, zero);
        if a.lanes > 1 && !constant_divisor && machine != Machine::I64 {
            // No vector unit divides integers; in f64 quotients of 32-bit integers are exact after truncation.
            let extend = if unsigned { "uitofp" } else { "sitofp" };
            let divisor = e.select(by_zero, one, b);
            let quotient = e.divide(e.convert(extend, a, Machine::F64), e.convert(extend, divisor, Machine::F64));
            let integer = e.convert("fptosi", quotient, Machine::I64);
            let integer = e.resize_signed(integer, machine);
            return e.select(by_zero, zero, integer);
        }
        if unsigned {
            let divisor = e.select(by_zero, one, b);
            return e.select(by_zero, zero, e.unsigned_divide(a, divisor));
        }
        let minus_one = e.compare(Comparison::Equal, b, e.integer(machine, a.lanes, -1));
        let divisor = e.select(e.or(by_zero, minus_one), one, b);
        let quotient = e.divide(a, divisor);
        let quotient = e.select(minus_one, e.subtract(zero, a), quotient);
        e.select(by_zero, zero, quotient)
    }

    fn compare(&self, predicate: Predicate, a: Ssa<'a>, b: Ssa<'a>, element: Element) -> Ssa<'a> {
        let e = self.emitter;
        let comparison = match predicate {
            Predicate::Equal => Comparison::Equal,
            Predicate::NotEqual => Comparison::NotEqual,
            Predicate::Less => Comparison::Less,
            Predicate::LessEqual => Comparison::LessEqual,
            Predicate::Greater => Comparison::Greater,
            Predicate::GreaterEqual => Comparison::GreaterEqual,
        };
        if element.is_float() {
            let converter = self.converter();
            return e.compare(
                comparison,
                converter.widen_arithmetic(a, element),
                converter.widen_arithmetic(b, element),
            );
        }
        if !is_unsigned(element) {
            return e.compare(comparison, a, b);
        }
        let not = |x: Ssa<'a>| e.xor(x, e.integer(Machine::I1, x.lanes, 1));
        match comparison {
            Comparison::Less => e.compare(Comparison::Below, a, b),
            Comparison::Greater => e.compare(Comparison::Below, b, a),
            Comparison::LessEqual => not(e.compare(Comparison::Below, b, a)),
            Comparison::GreaterEqual => not(e.compare(Comparison::Below, a, b)),
            _ => e.compare(comparison, a, b),
        }
    }
}

fn is_unsigned(element: Element) -> bool {
    matches!(element, Element::U32 | Element::U8 | Element::Bool)
}
