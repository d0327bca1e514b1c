//! Integer expressions over the symbols of a plan.

use std::fmt::{self, Display};
use std::ops::{Add, Mul};

use serde::{Deserialize, Serialize};

/// Deepest nesting of an extent that [`Extent::check`] accepts; it bounds the recursion of everything that walks one.
pub const MAXIMUM_DEPTH: usize = 48;

/// A non-negative integer that depends on the symbols of a plan: a dimension, a byte count, a number of programs.
///
/// Build extents with [`Extent::from`], [`Extent::symbol`], `+`, `*` and the methods: they fold constants, so that an
/// extent without symbols is always a [`Extent::Constant`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// A number.
    Constant(u64),
    /// The value of a symbol, by its index in `Plan::symbols`.
    Symbol(usize),
    /// The sum of all operands; 0 where there are none.
    Sum(Vec<Extent>),
    /// The product of all operands; 1 where there are none.
    Product(Vec<Extent>),
    /// The first operand divided by the second, rounded up.
    CeilDiv(Box<Extent>, Box<Extent>),
    /// The largest operand; there is at least one.
    Max(Vec<Extent>),
    /// The smallest operand; there is at least one.
    Min(Vec<Extent>),
}

/// Why an extent has no value, or is malformed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtentError {
    /// The value does not fit 64 bits.
    #[error("the value of `{0}` does not fit 64 bits")]
    Overflow(String),
    /// A divisor is 0.
    #[error("division by zero in `{0}`")]
    DivisionByZero(String),
    /// A symbol index is out of range.
    #[error("symbol {index} of {count}")]
    UnknownSymbol {
        /// The index that was asked for.
        index: usize,
        /// How many symbols there are.
        count: usize,
    },
    /// `Max` or `Min` of nothing.
    #[error("a maximum or minimum of no operands")]
    NoOperands,
    /// Nested deeper than [`MAXIMUM_DEPTH`].
    #[error("nested deeper than {MAXIMUM_DEPTH}")]
    TooDeep,
}

impl Extent {
    /// The symbol at `index` of the plan's symbols.
    pub fn symbol(index: usize) -> Extent {
        Extent::Symbol(index)
    }

    /// The sum of `operands`.
    pub fn sum(operands: impl IntoIterator<Item = Extent>) -> Extent {
        let mut constant: u64 = 0;
        let mut rest = Vec::new();
        for operand in operands {
            let terms = match operand {
                Extent::Sum(terms) => terms,
                other => vec![other],
            };
            for term in terms {
                match term {
                    // A sum of constants that overflows stays unfolded, and evaluates to the error it is.
                    Extent::Constant(value) if constant.checked_add(value).is_some() => constant += value,
                    other => rest.push(other),
                }
            }
        }
        if constant != 0 || rest.is_empty() {
            rest.push(Extent::Constant(constant));
        }
        single_or(rest, Extent::Sum)
    }

    /// The product of `operands`.
    pub fn product(operands: impl IntoIterator<Item = Extent>) -> Extent {
        let mut constant: u64 = 1;
        let mut rest = Vec::new();
        for operand in operands {
            let factors = match operand {
                Extent::Product(factors) => factors,
                other => vec![other],
            };
            for factor in factors {
                match factor {
                    Extent::Constant(value) if constant.checked_mul(value).is_some() => constant *= value,
                    other => rest.push(other),
                }
            }
        }
        if constant == 0 {
            return Extent::Constant(0);
        }
        if constant != 1 || rest.is_empty() {
            rest.push(Extent::Constant(constant));
        }
        single_or(rest, Extent::Product)
    }

    /// This extent divided by `divisor`, rounded up.
    pub fn ceil_div(self, divisor: impl Into<Extent>) -> Extent {
        match (self, divisor.into()) {
            (value, Extent::Constant(1)) => value,
            (Extent::Constant(value), Extent::Constant(divisor)) if divisor != 0 => {
                Extent::Constant(value.div_ceil(divisor))
            }
            (value, divisor) => Extent::CeilDiv(Box::new(value), Box::new(divisor)),
        }
    }

    /// The least multiple of `alignment` that is no smaller than this extent.
    pub fn round_up(self, alignment: u64) -> Extent {
        self.ceil_div(alignment) * Extent::Constant(alignment)
    }

    /// The larger of two extents.
    pub fn max(self, other: impl Into<Extent>) -> Extent {
        match (self, other.into()) {
            (Extent::Constant(left), Extent::Constant(right)) => Extent::Constant(left.max(right)),
            (left, right) if left == right => left,
            (Extent::Max(mut operands), right) => {
                if !operands.contains(&right) {
                    operands.push(right);
                }
                Extent::Max(operands)
            }
            (left, right) => Extent::Max(vec![left, right]),
        }
    }

    /// The smaller of two extents.
    pub fn min(self, other: impl Into<Extent>) -> Extent {
        match (self, other.into()) {
            (Extent::Constant(left), Extent::Constant(right)) => Extent::Constant(left.min(right)),
            (left, right) if left == right => left,
            (Extent::Min(mut operands), right) => {
                if !operands.contains(&right) {
                    operands.push(right);
                }
                Extent::Min(operands)
            }
            (left, right) => Extent::Min(vec![left, right]),
        }
    }

    /// The value, where no symbol is involved.
    pub fn constant(&self) -> Option<u64> {
        match self {
            Extent::Constant(value) => Some(*value),
            _ => None,
        }
    }

    /// The value with `symbols[i]` for symbol `i`.
    pub fn evaluate(&self, symbols: &[u64]) -> Result<u64, ExtentError> {
        let overflow = || ExtentError::Overflow(self.to_string());
        match self {
            Extent::Constant(value) => Ok(*value),
            Extent::Symbol(index) => {
                let unknown = ExtentError::UnknownSymbol { index: *index, count: symbols.len() };
                symbols.get(*index).copied().ok_or(unknown)
            }
            Extent::Sum(operands) => operands
                .iter()
                .try_fold(0u64, |sum, operand| sum.checked_add(operand.evaluate(symbols)?).ok_or_else(overflow)),
            Extent::Product(operands) => operands.iter().try_fold(1u64, |product, operand| {
                product.checked_mul(operand.evaluate(symbols)?).ok_or_else(overflow)
            }),
            Extent::CeilDiv(value, divisor) => match divisor.evaluate(symbols)? {
                0 => Err(ExtentError::DivisionByZero(self.to_string())),
                divisor => Ok(value.evaluate(symbols)?.div_ceil(divisor)),
            },
            Extent::Max(operands) => reduce(operands, symbols, u64::max),
            Extent::Min(operands) => reduce(operands, symbols, u64::min),
        }
    }

    /// Checks that every symbol index is below `symbol_count`, that `Max` and `Min` have operands, that no constant
    /// divisor is 0, and that the nesting is at most [`MAXIMUM_DEPTH`].
    pub fn check(&self, symbol_count: usize) -> Result<(), ExtentError> {
        self.check_within(symbol_count, MAXIMUM_DEPTH)
    }

    fn check_within(&self, symbol_count: usize, depth: usize) -> Result<(), ExtentError> {
        let depth = depth.checked_sub(1).ok_or(ExtentError::TooDeep)?;
        match self {
            Extent::Constant(_) => Ok(()),
            Extent::Symbol(index) if *index < symbol_count => Ok(()),
            Extent::Symbol(index) => Err(ExtentError::UnknownSymbol { index: *index, count: symbol_count }),
            Extent::Max(operands) | Extent::Min(operands) if operands.is_empty() => Err(ExtentError::NoOperands),
            Extent::Sum(operands) | Extent::Product(operands) | Extent::Max(operands) | Extent::Min(operands) => {
                operands.iter().try_for_each(|operand| operand.check_within(symbol_count, depth))
            }
            Extent::CeilDiv(value, divisor) => {
                value.check_within(symbol_count, depth)?;
                divisor.check_within(symbol_count, depth)?;
                match **divisor {
                    Extent::Constant(0) => Err(ExtentError::DivisionByZero(self.to_string())),
                    _ => Ok(()),
                }
            }
        }
    }

    /// The extent as text, with `names[i]` for symbol `i` (`$i` where there is no such name).
    pub fn display<'a>(&'a self, names: &'a [String]) -> impl fmt::Display + 'a {
        Named { extent: self, names }
    }
}

fn single_or(mut operands: Vec<Extent>, otherwise: impl FnOnce(Vec<Extent>) -> Extent) -> Extent {
    match operands.pop() {
        Some(only) if operands.is_empty() => only,
        Some(last) => {
            operands.push(last);
            otherwise(operands)
        }
        None => otherwise(operands),
    }
}

fn reduce(operands: &[Extent], symbols: &[u64], choose: impl Fn(u64, u64) -> u64) -> Result<u64, ExtentError> {
    let (first, rest) = operands.split_first().ok_or(ExtentError::NoOperands)?;
    let first = first.evaluate(symbols)?;
    rest.iter().try_fold(first, |chosen, operand| Ok(choose(chosen, operand.evaluate(symbols)?)))
}

impl From<u64> for Extent {
    fn from(value: u64) -> Extent {
        Extent::Constant(value)
    }
}

impl<T: Into<Extent>> Add<T> for Extent {
    type Output = Extent;

    fn add(self, other: T) -> Extent {
        Extent::sum([self, other.into()])
    }
}

impl<T: Into<Extent>> Mul<T> for Extent {
    type Output = Extent;

    fn mul(self, other: T) -> Extent {
        Extent::product([self, other.into()])
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Named { extent: self, names: &[] }.fmt(formatter)
    }
}

/// An extent with the names of its symbols, for printing.
struct Named<'a> {
    extent: &'a Extent,
    names: &'a [String],
}

impl Named<'_> {
    fn list(&self, operands: &[Extent], separator: &str, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(")?;
        for (index, extent) in operands.iter().enumerate() {
            if index > 0 {
                formatter.write_str(separator)?;
            }
            Named { extent, names: self.names }.fmt(formatter)?;
        }
        formatter.write_str(")")
    }
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |extent| Named { extent, names: self.names };
        match self.extent {
            Extent::Constant(value) => write!(formatter, "{value}"),
            Extent::Symbol(index) => match self.names.get(*index) {
                Some(name) => formatter.write_str(name),
                None => write!(formatter, "${index}"),
            },
            Extent::Sum(operands) => self.list(operands, " + ", formatter),
            Extent::Product(operands) => self.list(operands, " * ", formatter),
            Extent::CeilDiv(value, divisor) => {
                write!(formatter, "ceil({} / {})", named(value), named(divisor))
            }
            Extent::Max(operands) => {
                formatter.write_str("max")?;
                self.list(operands, ", ", formatter)
            }
            Extent::Min(operands) => {
                formatter.write_str("min")?;
                self.list(operands, ", ", formatter)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An expression, and the same one as it is written, unfolded.
    fn expression() -> impl Strategy<Value = (Extent, Extent)> {
        let leaf = prop_oneof![(0..9u64).prop_map(Extent::from), (0..3usize).prop_map(Extent::symbol)];
        leaf.prop_map(|leaf| (leaf.clone(), leaf)).prop_recursive(4, 24, 2, |inner| {
            (inner.clone(), inner, 0..5).prop_map(|((a, plain_a), (b, plain_b), operation)| match operation {
                0 => (a + b, Extent::Sum(vec![plain_a, plain_b])),
                1 => (a * b, Extent::Product(vec![plain_a, plain_b])),
                2 => (a.ceil_div(b), Extent::CeilDiv(Box::new(plain_a), Box::new(plain_b))),
                3 => (a.max(b), Extent::Max(vec![plain_a, plain_b])),
                _ => (a.min(b), Extent::Min(vec![plain_a, plain_b])),
            })
        })
    }

    proptest! {
        /// Folding changes no value. It may do away with an error: zero times what has no value is zero.
        #[test]
        fn folding_changes_no_value((folded, plain) in expression(), symbols in prop::array::uniform3(0..7u64)) {
            if let Ok(value) = plain.evaluate(&symbols) {
                prop_assert_eq!(folded.evaluate(&symbols), Ok(value));
            }
        }
    }

    fn tokens() -> Extent {
        Extent::symbol(0)
    }

    #[test]
    fn constants_fold_as_extents_are_built() {
        assert_eq!(Extent::from(3) * 4 + 5, Extent::Constant(17));
        assert_eq!(Extent::from(100).round_up(64), Extent::Constant(128));
        assert_eq!(Extent::product([tokens(), 0.into()]), Extent::Constant(0));
        assert_eq!(Extent::sum([tokens(), 0.into()]), tokens());
        assert_eq!(Extent::product([tokens(), 1.into()]), tokens());
        assert_eq!((tokens() * 3 * 4).to_string(), "($0 * 12)");
        assert_eq!(tokens().max(tokens()), tokens());
    }

    #[test]
    fn evaluation_follows_the_symbols() {
        let bytes = (tokens() * 192 * 4).round_up(256);
        assert_eq!(bytes.evaluate(&[1]), Ok(768));
        assert_eq!(bytes.evaluate(&[7]), Ok(5376));
        assert_eq!(tokens().max(8).evaluate(&[5]), Ok(8));
        assert_eq!(tokens().min(8).evaluate(&[5]), Ok(5));
        let named = tokens().ceil_div(16);
        assert_eq!(named.display(&["T".into()]).to_string(), "ceil(T / 16)");
    }

    #[test]
    fn what_has_no_value_is_an_error() {
        assert!(matches!((tokens() * 2).evaluate(&[u64::MAX]), Err(ExtentError::Overflow(_))));
        assert!(matches!((tokens() + 1).evaluate(&[u64::MAX]), Err(ExtentError::Overflow(_))));
        assert!(matches!(Extent::from(1).ceil_div(tokens()).evaluate(&[0]), Err(ExtentError::DivisionByZero(_))));
        assert_eq!(Extent::symbol(2).evaluate(&[1, 2]), Err(ExtentError::UnknownSymbol { index: 2, count: 2 }));
        assert_eq!(Extent::Max(vec![]).evaluate(&[]), Err(ExtentError::NoOperands));
    }

    #[test]
    fn check_refuses_what_could_not_be_evaluated() {
        assert_eq!(tokens().check(1), Ok(()));
        assert!(tokens().check(0).is_err());
        assert!(Extent::Min(vec![]).check(0).is_err());
        assert!(tokens().ceil_div(0).check(1).is_err());
        let deep = (0..200).fold(tokens(), |inner, _| Extent::Sum(vec![inner]));
        assert_eq!(deep.check(1), Err(ExtentError::TooDeep));
    }
}
