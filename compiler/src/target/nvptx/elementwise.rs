//! Elementwise operations on one register at a time.
//!
//! Floats narrower than f32 are computed in f32 and rounded once.

use super::emit::{FloatPredicate, IntegerPredicate, Scalar, Val};
use super::error::Error;
use super::lower::Lowering;
use super::math;
use crate::tile::{BinaryOperation, Element, Literal, Operation, Predicate, UnaryOperation, Value};

impl<'a> Lowering<'_, 'a> {
    /// A literal as a register of an element.
    pub fn literal_of(&mut self, literal: Literal, element: Element) -> Val<'a> {
        let scalar = Scalar::of(element);
        match (literal, element) {
            (Literal::Float(value), Element::Fp8E4M3 | Element::Fp8E5M2) => {
                let bits = super::float8::encode(value, element);
                self.emitter.integer(Scalar::I8, i64::from(bits as i8))
            }
            (Literal::Float(value), _) if scalar.is_float() => self.emitter.float(scalar, value),
            (Literal::Integer(value), _) if scalar.is_float() => self.emitter.float(scalar, value as f64),
            (Literal::Float(value), _) => self.emitter.integer(scalar, value as i64),
            (Literal::Integer(value), _) => {
                // Wrapped into the element's bits as a signed number, as MLIR wants it.
                let unused = 64 - scalar.bits();
                let value = if scalar == Scalar::I1 { i64::from(value != 0) } else { value << unused >> unused };
                self.emitter.integer(scalar, value)
            }
        }
    }

    /// One element of an elementwise operation other than a cast; `operand` is its first operand.
    pub fn scalar_operation(
        &mut self,
        value: Value,
        operation: &Operation,
        operand: Value,
        arguments: &[Val<'a>],
    ) -> Result<Val<'a>, Error> {
        let element = self.program.type_of(operand).element;
        match operation {
            Operation::Unary(operation, _) => self.unary(value, *operation, element, arguments[0]),
            Operation::Binary(operation, ..) => self.binary(value, *operation, element, arguments[0], arguments[1]),
            Operation::Compare(predicate, ..) => Ok(self.compare(*predicate, element, arguments[0], arguments[1])),
            Operation::Select(..) => {
                let scalar = self.scalar_of(value);
                Ok(self.emitter.select(scalar, arguments[0], arguments[1], arguments[2]))
            }
            Operation::Bitcast(_) => {
                let (from, to) = (Scalar::of(element), self.scalar_of(value));
                Ok(match (from, to) {
                    _ if from == to => arguments[0],
                    // A Bool is a register bit, and a byte to everything else.
                    (Scalar::I1, _) => {
                        let byte = self.emitter.scalar_type(Scalar::I8);
                        self.emitter.convert("llvm.zext", arguments[0], byte)
                    }
                    (_, Scalar::I1) => {
                        let zero = self.emitter.integer(Scalar::I8, 0);
                        self.emitter.compare_integers(IntegerPredicate::NotEqual, arguments[0], zero)
                    }
                    _ => self.emitter.bitcast(arguments[0], to),
                })
            }
            _ => Err(Error::Internal { value, what: "the operation is not elementwise" }),
        }
    }

    /// A float register as the one that arithmetic is done in, and its scalar.
    fn widen(&mut self, register: Val<'a>, element: Element) -> (Val<'a>, Scalar) {
        match element {
            Element::F64 => (register, Scalar::F64),
            Element::F32 => (register, Scalar::F32),
            _ => (self.widened(register, element), Scalar::F32),
        }
    }

    /// The inverse of [`Self::widen`].
    fn narrow(&mut self, register: Val<'a>, element: Element) -> Val<'a> {
        match element {
            Element::F64 | Element::F32 => register,
            _ => self.pair_from_f32(&[register], element)[0],
        }
    }

    fn unary(
        &mut self,
        value: Value,
        operation: UnaryOperation,
        element: Element,
        argument: Val<'a>,
    ) -> Result<Val<'a>, Error> {
        let unsupported =
            || Err(Error::Unsupported { value, what: format!("{} of {}", operation.name(), element.name()) });
        let scalar = Scalar::of(element);
        if operation == UnaryOperation::Not {
            let one = self.emitter.boolean(true);
            return Ok(self.emitter.binary("llvm.xor", Scalar::I1, argument, one));
        }
        if !element.is_float() {
            let zero = self.emitter.integer(scalar, 0);
            let negated = self.emitter.binary("llvm.sub", scalar, zero, argument);
            return match operation {
                UnaryOperation::Negate => Ok(negated),
                UnaryOperation::Absolute => {
                    let negative = self.emitter.compare_integers(IntegerPredicate::SignedLess, argument, zero);
                    Ok(self.emitter.select(scalar, negative, negated, argument))
                }
                _ => unsupported(),
            };
        }
        let (x, wide) = self.widen(argument, element);
        let e = &mut self.emitter;
        let result = match operation {
            UnaryOperation::Negate => e.unary("llvm.fneg", wide, x),
            UnaryOperation::Absolute => e.unary("llvm.intr.fabs", wide, x),
            UnaryOperation::Sqrt => e.unary("llvm.intr.sqrt", wide, x),
            UnaryOperation::Floor => e.unary("llvm.intr.floor", wide, x),
            _ if wide == Scalar::F64 => return unsupported(),
            UnaryOperation::Exp => math::exp(e, x),
            UnaryOperation::Exp2 => math::exp2(e, x),
            UnaryOperation::Log => math::log(e, x),
            UnaryOperation::Log2 => math::log2(e, x),
            UnaryOperation::Rsqrt => math::rsqrt(e, x),
            UnaryOperation::Tanh => math::tanh(e, x),
            UnaryOperation::Erf => math::erf(e, x),
            UnaryOperation::Sin => math::sin(e, x),
            UnaryOperation::Cos => math::cos(e, x),
            UnaryOperation::Not => return unsupported(),
        };
        Ok(self.narrow(result, element))
    }

    fn binary(
        &mut self,
        value: Value,
        operation: BinaryOperation,
        element: Element,
        a: Val<'a>,
        b: Val<'a>,
    ) -> Result<Val<'a>, Error> {
        let unsupported =
            || Err(Error::Unsupported { value, what: format!("{} of {}", operation.name(), element.name()) });
        if element.is_float() {
            let (x, wide) = self.widen(a, element);
            let (y, _) = self.widen(b, element);
            let e = &mut self.emitter;
            let result = match operation {
                BinaryOperation::Add => e.binary("llvm.fadd", wide, x, y),
                BinaryOperation::Subtract => e.binary("llvm.fsub", wide, x, y),
                BinaryOperation::Multiply => e.binary("llvm.fmul", wide, x, y),
                BinaryOperation::Divide if wide == Scalar::F64 => e.binary("llvm.fdiv", wide, x, y),
                BinaryOperation::Divide => math::divide(e, x, y),
                BinaryOperation::Maximum if wide == Scalar::F32 => e.binary("llvm.intr.maximum", wide, x, y),
                BinaryOperation::Minimum if wide == Scalar::F32 => e.binary("llvm.intr.minimum", wide, x, y),
                BinaryOperation::Maximum => math::extremum64(e, FloatPredicate::OrderedGreater, x, y),
                BinaryOperation::Minimum => math::extremum64(e, FloatPredicate::OrderedLess, x, y),
                BinaryOperation::Remainder if wide == Scalar::F32 => math::remainder(e, x, y),
                BinaryOperation::Power if wide == Scalar::F32 => math::power(e, x, y),
                _ => return unsupported(),
            };
            return Ok(self.narrow(result, element));
        }
        let scalar = Scalar::of(element);
        let unsigned = matches!(element, Element::U8 | Element::U32);
        let e = &mut self.emitter;
        let extremum = |less: bool| match (unsigned, less) {
            (true, true) => "llvm.intr.umin",
            (true, false) => "llvm.intr.umax",
            (false, true) => "llvm.intr.smin",
            (false, false) => "llvm.intr.smax",
        };
        Ok(match operation {
            BinaryOperation::Add => e.binary("llvm.add", scalar, a, b),
            BinaryOperation::Subtract => e.binary("llvm.sub", scalar, a, b),
            BinaryOperation::Multiply => e.binary("llvm.mul", scalar, a, b),
            BinaryOperation::And => e.binary("llvm.and", scalar, a, b),
            BinaryOperation::Or => e.binary("llvm.or", scalar, a, b),
            BinaryOperation::Xor => e.binary("llvm.xor", scalar, a, b),
            _ if scalar == Scalar::I1 => return unsupported(),
            BinaryOperation::Maximum => e.binary(extremum(false), scalar, a, b),
            BinaryOperation::Minimum => e.binary(extremum(true), scalar, a, b),
            BinaryOperation::ShiftLeft => e.binary("llvm.shl", scalar, a, b),
            BinaryOperation::ShiftRightLogical => e.binary("llvm.lshr", scalar, a, b),
            BinaryOperation::MultiplyHighUnsigned if scalar == Scalar::I32 => {
                let wide = e.scalar_type(Scalar::I64);
                let (x, y) = (e.convert("llvm.zext", a, wide), e.convert("llvm.zext", b, wide));
                let product = e.binary("llvm.mul", Scalar::I64, x, y);
                let bits = e.i64(32);
                let high = e.binary("llvm.lshr", Scalar::I64, product, bits);
                let word = e.scalar_type(Scalar::I32);
                e.convert("llvm.trunc", high, word)
            }
            BinaryOperation::Divide | BinaryOperation::Remainder => {
                // A zero divisor yields zero; the one overflow, of the least number by -1, wraps.
                let (zero, one) = (e.integer(scalar, 0), e.integer(scalar, 1));
                let no_divisor = e.compare_integers(IntegerPredicate::Equal, b, zero);
                let name = match (operation, unsigned) {
                    (BinaryOperation::Divide, true) => "llvm.udiv",
                    (BinaryOperation::Divide, false) => "llvm.sdiv",
                    (_, true) => "llvm.urem",
                    (_, false) => "llvm.srem",
                };
                let constant = matches!(self.analysis.definition(value), super::analysis::Definition::Operation(
                    Operation::Binary(_, _, divisor)) if self.analysis.range(*divisor).value().is_some_and(|d| d > 0));
                let e = &mut self.emitter;
                if constant {
                    return Ok(e.binary(name, scalar, a, b));
                }
                let mut safe = e.select(scalar, no_divisor, one, b);
                let minus_one = e.integer(scalar, -1);
                let negation = (!unsigned).then(|| e.compare_integers(IntegerPredicate::Equal, b, minus_one));
                if let Some(negation) = negation {
                    safe = e.select(scalar, negation, one, safe);
                }
                let mut result = e.binary(name, scalar, a, safe);
                if let (Some(negation), BinaryOperation::Divide) = (negation, operation) {
                    let negated = e.binary("llvm.sub", scalar, zero, a);
                    result = e.select(scalar, negation, negated, result);
                }
                e.select(scalar, no_divisor, zero, result)
            }
            BinaryOperation::MultiplyHighUnsigned | BinaryOperation::Power => return unsupported(),
        })
    }

    fn compare(&mut self, predicate: Predicate, element: Element, a: Val<'a>, b: Val<'a>) -> Val<'a> {
        if element.is_float() {
            let (x, _) = self.widen(a, element);
            let (y, _) = self.widen(b, element);
            let predicate = match predicate {
                Predicate::Equal => FloatPredicate::OrderedEqual,
                Predicate::NotEqual => FloatPredicate::UnorderedNotEqual,
                Predicate::Less => FloatPredicate::OrderedLess,
                Predicate::LessEqual => FloatPredicate::OrderedLessEqual,
                Predicate::Greater => FloatPredicate::OrderedGreater,
                Predicate::GreaterEqual => FloatPredicate::OrderedGreaterEqual,
            };
            return self.emitter.compare_floats(predicate, x, y);
        }
        let unsigned = matches!(element, Element::U8 | Element::U32 | Element::Bool);
        let predicate = match (predicate, unsigned) {
            (Predicate::Equal, _) => IntegerPredicate::Equal,
            (Predicate::NotEqual, _) => IntegerPredicate::NotEqual,
            (Predicate::Less, false) => IntegerPredicate::SignedLess,
            (Predicate::LessEqual, false) => IntegerPredicate::SignedLessEqual,
            (Predicate::Greater, false) => IntegerPredicate::SignedGreater,
            (Predicate::GreaterEqual, false) => IntegerPredicate::SignedGreaterEqual,
            (Predicate::Less, true) => IntegerPredicate::UnsignedLess,
            (Predicate::LessEqual, true) => IntegerPredicate::UnsignedLessEqual,
            (Predicate::Greater, true) => IntegerPredicate::UnsignedGreater,
            (Predicate::GreaterEqual, true) => IntegerPredicate::UnsignedGreaterEqual,
        };
        self.emitter.compare_integers(predicate, a, b)
    }
}
