//! Elementwise arithmetic on tiles, exact in f64 and i64 and rounded once to the element.

use tessera_ir::minifloat;

use super::Problem;
use crate::tile::{BinaryOperation, Element, Predicate, Reduction, TileType, UnaryOperation, e2m1_of_word};

/// Elements of a tile, row-major.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Elements {
    /// Each a number of the tile's float format.
    Float(Vec<f64>),
    /// Each in the range of the tile's integer type; 0 or 1 for Bool.
    Integer(Vec<i64>),
}

/// The value of an SSA value in one program.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tile {
    /// The elements.
    pub(super) elements: Elements,
    /// Whether integer arithmetic wrapped on the way here. Random numbers want that; an index never does.
    pub(super) wrapped: bool,
}

impl Tile {
    pub(super) fn floats(values: Vec<f64>) -> Self {
        Self { elements: Elements::Float(values), wrapped: false }
    }

    pub(super) fn integers(values: Vec<i64>) -> Self {
        Self { elements: Elements::Integer(values), wrapped: false }
    }

    fn is_float(&self) -> bool {
        matches!(self.elements, Elements::Float(_))
    }

    /// The elements of a float tile. The verifier has seen that it is one.
    pub(super) fn as_floats(&self) -> &[f64] {
        match &self.elements {
            Elements::Float(values) => values,
            Elements::Integer(_) => &[],
        }
    }

    /// The elements of an integer tile. The verifier has seen that it is one.
    pub(super) fn as_integers(&self) -> &[i64] {
        match &self.elements {
            Elements::Integer(values) => values,
            Elements::Float(_) => &[],
        }
    }

    /// The tile made of the elements at these positions.
    pub(super) fn pick(&self, positions: impl Iterator<Item = usize>) -> Self {
        let elements = match &self.elements {
            Elements::Float(values) => Elements::Float(positions.map(|position| values[position]).collect()),
            Elements::Integer(values) => Elements::Integer(positions.map(|position| values[position]).collect()),
        };
        Self { elements, wrapped: self.wrapped }
    }
}

/// The number of a float format nearest to `value`.
pub(super) fn round(element: Element, value: f64) -> f64 {
    match element {
        Element::F32 => f64::from(value as f32),
        Element::F16 => minifloat::F16.round(value),
        Element::BF16 => minifloat::BF16.round(value),
        Element::Fp8E4M3 => minifloat::FP8_E4M3.round(value),
        Element::Fp8E5M2 => minifloat::FP8_E5M2.round(value),
        _ => value,
    }
}

/// Keeps the low bits that an integer element has.
fn wrap(element: Element, value: i128) -> i64 {
    match element {
        Element::I32 => (value as i32).into(),
        Element::U32 => (value as u32).into(),
        Element::I16 => (value as i16).into(),
        Element::I8 => (value as i8).into(),
        Element::U8 => (value as u8).into(),
        Element::Bool => (value & 1) as i64,
        _ => value as i64,
    }
}

/// Wraps a whole tile, and notes whether anything changed.
fn wrap_all(element: Element, values: impl Iterator<Item = i128>) -> Tile {
    let mut wrapped = false;
    let values = values
        .map(|exact| {
            let value = wrap(element, exact);
            wrapped |= i128::from(value) != exact;
            value
        })
        .collect();
    Tile { elements: Elements::Integer(values), wrapped }
}

/// The bits of one element, in the low end.
pub(super) fn encode(element: Element, float: f64, integer: i64) -> u64 {
    match element {
        Element::F64 => float.to_bits(),
        Element::F32 => u64::from((float as f32).to_bits()),
        Element::F16 => minifloat::F16.encode(float).into(),
        Element::BF16 => minifloat::BF16.encode(float).into(),
        Element::Fp8E4M3 => minifloat::FP8_E4M3.encode(float).into(),
        Element::Fp8E5M2 => minifloat::FP8_E5M2.encode(float).into(),
        _ => integer as u64,
    }
}

/// The number that the bits of a float element stand for.
pub(super) fn decode_float(element: Element, bits: u64) -> f64 {
    match element {
        Element::F64 => f64::from_bits(bits),
        Element::F32 => f32::from_bits(bits as u32).into(),
        Element::F16 => minifloat::F16.decode(bits as u16),
        Element::BF16 => minifloat::BF16.decode(bits as u16),
        Element::Fp8E4M3 => minifloat::FP8_E4M3.decode(bits as u16),
        _ => minifloat::FP8_E5M2.decode(bits as u16),
    }
}

/// The number that the bits of an integer element stand for. A Bool is true where any bit is set.
pub(super) fn decode_integer(element: Element, bits: u64) -> i64 {
    match element {
        Element::Bool => i64::from(bits & 0xff != 0),
        _ => wrap(element, bits.into()),
    }
}

/// Error function, by the series erf x = 2/√π · e^(−x²) · Σ 2ⁿ x²ⁿ⁺¹ / (2n+1)!!, whose terms are all of one sign.
fn erf(x: f64) -> f64 {
    if x.is_nan() || x.abs() > 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    let (mut term, mut sum, mut divisor) = (x, x, 1.0);
    while term.abs() > sum.abs() * f64::EPSILON / 4.0 {
        divisor += 2.0;
        term *= 2.0 * x * x / divisor;
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

pub(super) fn unary(operation: UnaryOperation, value: &Tile, element: Element) -> Tile {
    if let Elements::Integer(values) = &value.elements {
        let exact = |&value: &i64| match operation {
            UnaryOperation::Negate => -i128::from(value),
            UnaryOperation::Absolute => i128::from(value).abs(),
            _ => i128::from(value == 0),
        };
        let mut result = wrap_all(element, values.iter().map(exact));
        result.wrapped |= value.wrapped;
        return result;
    }
    let function = |x: f64| match operation {
        UnaryOperation::Negate => -x,
        UnaryOperation::Absolute => x.abs(),
        UnaryOperation::Exp => x.exp(),
        UnaryOperation::Exp2 => x.exp2(),
        UnaryOperation::Log => x.ln(),
        UnaryOperation::Log2 => x.log2(),
        UnaryOperation::Sqrt => x.sqrt(),
        UnaryOperation::Rsqrt => 1.0 / x.sqrt(),
        UnaryOperation::Tanh => x.tanh(),
        UnaryOperation::Erf => erf(x),
        UnaryOperation::Sin => x.sin(),
        UnaryOperation::Cos => x.cos(),
        UnaryOperation::Floor => x.floor(),
        UnaryOperation::Not => f64::NAN,
    };
    Tile::floats(value.as_floats().iter().map(|&x| round(element, function(x))).collect())
}

/// The larger, NaN if either is.
fn maximum(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// The smaller, NaN if either is.
fn minimum(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }
}

pub(super) fn binary(operation: BinaryOperation, a: &Tile, b: &Tile, element: Element) -> Result<Tile, Problem> {
    use BinaryOperation as B;
    if a.is_float() {
        let function = |x: f64, y: f64| match operation {
            B::Add => x + y,
            B::Subtract => x - y,
            B::Multiply => x * y,
            B::Divide => x / y,
            B::Remainder => x % y,
            B::Maximum => maximum(x, y),
            B::Minimum => minimum(x, y),
            B::Power => x.powf(y),
            // Bitwise operations take integers: the verifier has seen to it.
            B::And | B::Or | B::Xor | B::ShiftLeft | B::ShiftRightLogical | B::MultiplyHighUnsigned => f64::NAN,
        };
        let pairs = a.as_floats().iter().zip(b.as_floats());
        return Ok(Tile::floats(pairs.map(|(&x, &y)| round(element, function(x, y))).collect()));
    }
    let pairs = || a.as_integers().iter().zip(b.as_integers()).map(|(&x, &y)| (i128::from(x), i128::from(y)));
    let width = 8 * element.bytes() as i128;
    if matches!(operation, B::ShiftLeft | B::ShiftRightLogical)
        && let Some((_, amount)) = pairs().find(|(_, amount)| !(0..width).contains(amount))
    {
        return Err(Problem::Shift { amount: amount as i64, width: width as u32 });
    }
    let unsigned = |x: i128| x & ((1 << width) - 1);
    let exact = |(x, y): (i128, i128)| match operation {
        B::Add => x + y,
        B::Subtract => x - y,
        B::Multiply => x * y,
        B::Divide => x.checked_div(y).unwrap_or(0),
        B::Remainder => x.checked_rem(y).unwrap_or(0),
        B::Maximum => x.max(y),
        B::Minimum => x.min(y),
        B::And => x & y,
        B::Or => x | y,
        B::Xor => x ^ y,
        B::ShiftLeft => x << y,
        B::ShiftRightLogical => unsigned(x) >> y,
        B::MultiplyHighUnsigned => (unsigned(x) * unsigned(y)) >> 32,
        // Of floats alone.
        B::Power => 0,
    };
    let mut result = wrap_all(element, pairs().map(exact));
    result.wrapped |= a.wrapped || b.wrapped;
    Ok(result)
}

pub(super) fn compare(predicate: Predicate, a: &Tile, b: &Tile) -> Tile {
    fn holds<T: PartialOrd>(predicate: Predicate, a: T, b: T) -> i64 {
        i64::from(match predicate {
            Predicate::Equal => a == b,
            Predicate::NotEqual => a != b,
            Predicate::Less => a < b,
            Predicate::LessEqual => a <= b,
            Predicate::Greater => a > b,
            Predicate::GreaterEqual => a >= b,
        })
    }
    Tile::integers(match (&a.elements, &b.elements) {
        (Elements::Float(a), Elements::Float(b)) => a.iter().zip(b).map(|(&a, &b)| holds(predicate, a, b)).collect(),
        _ => a.as_integers().iter().zip(b.as_integers()).map(|(&a, &b)| holds(predicate, a, b)).collect(),
    })
}

pub(super) fn select(condition: &Tile, a: &Tile, b: &Tile) -> Tile {
    fn choose<T: Copy>(condition: &[i64], a: &[T], b: &[T]) -> Vec<T> {
        condition.iter().zip(a.iter().zip(b)).map(|(&first, (&a, &b))| if first != 0 { a } else { b }).collect()
    }
    let condition = condition.as_integers();
    let elements = if a.is_float() {
        Elements::Float(choose(condition, a.as_floats(), b.as_floats()))
    } else {
        Elements::Integer(choose(condition, a.as_integers(), b.as_integers()))
    };
    Tile { elements, wrapped: a.wrapped || b.wrapped }
}

pub(super) fn cast(value: &Tile, to: Element) -> Tile {
    match &value.elements {
        Elements::Float(values) if to.is_float() => {
            Tile::floats(values.iter().map(|&value| round(to, value)).collect())
        }
        Elements::Float(values) if to == Element::Bool => {
            Tile::integers(values.iter().map(|&value| i64::from(value != 0.0)).collect())
        }
        Elements::Float(values) => {
            let (least, largest) = to.integer_range().unwrap_or((i64::MIN, i64::MAX));
            // `as` rounds towards zero, saturates, and makes zero of NaN.
            Tile::integers(values.iter().map(|&value| (value as i64).clamp(least, largest)).collect())
        }
        // Through f64, an i64 would be rounded twice.
        Elements::Integer(values) if to == Element::F32 => {
            Tile::floats(values.iter().map(|&value| f64::from(value as f32)).collect())
        }
        Elements::Integer(values) if to.is_float() => {
            Tile::floats(values.iter().map(|&value| round(to, value as f64)).collect())
        }
        Elements::Integer(values) if to == Element::Bool => {
            Tile::integers(values.iter().map(|&value| i64::from(value != 0)).collect())
        }
        Elements::Integer(values) => {
            let mut result = wrap_all(to, values.iter().map(|&value| value.into()));
            result.wrapped |= value.wrapped;
            result
        }
    }
}

pub(super) fn bitcast(value: &Tile, from: Element, to: Element) -> Tile {
    let bits: Vec<u64> = match &value.elements {
        Elements::Float(values) => values.iter().map(|&value| encode(from, value, 0)).collect(),
        Elements::Integer(values) => values.iter().map(|&value| encode(from, 0.0, value)).collect(),
    };
    if to.is_float() {
        Tile::floats(bits.into_iter().map(|bits| decode_float(to, bits)).collect())
    } else {
        Tile::integers(bits.into_iter().map(|bits| decode_integer(to, bits)).collect())
    }
}

/// Sums are taken in f64 and rounded once, whatever order a target chooses.
pub(super) fn reduce(reduction: Reduction, value: &Tile, from: &TileType, axis: usize) -> Tile {
    let extent = from.shape[axis] as usize;
    let inner: usize = from.shape[axis + 1..].iter().map(|&extent| extent as usize).product();
    let count = from.len() / extent;
    let lane = |position: usize| {
        let (outer, inner_position) = (position / inner, position % inner);
        (0..extent).map(move |along| (outer * extent + along) * inner + inner_position)
    };
    if value.is_float() {
        let values = value.as_floats();
        let combine = |position| {
            let lane = lane(position).map(|index| values[index]);
            round(
                from.element,
                match reduction {
                    Reduction::Sum => lane.sum(),
                    Reduction::Maximum => lane.fold(f64::NEG_INFINITY, maximum),
                    Reduction::Minimum => lane.fold(f64::INFINITY, minimum),
                },
            )
        };
        return Tile::floats((0..count).map(combine).collect());
    }
    let values = value.as_integers();
    let combine = |position| {
        let lane = lane(position).map(|index| i128::from(values[index]));
        match reduction {
            Reduction::Sum => lane.sum(),
            Reduction::Maximum => lane.max().unwrap_or_default(),
            Reduction::Minimum => lane.min().unwrap_or_default(),
        }
    };
    let mut result = wrap_all(from.element, (0..count).map(combine));
    result.wrapped |= value.wrapped;
    result
}

/// Sums of products are taken in f64 and rounded once to the accumulator.
pub(super) fn dot(lhs: &Tile, rhs: &Tile, accumulator: &Tile, [m, n, k]: [usize; 3], sum: Element) -> Tile {
    let (lhs, rhs, accumulator) = (lhs.as_floats(), rhs.as_floats(), accumulator.as_floats());
    let mut result = accumulator.to_vec();
    for row in 0..m {
        let sums = &mut result[row * n..(row + 1) * n];
        for along in 0..k {
            let factor = lhs[row * k + along];
            for (sum, &value) in sums.iter_mut().zip(&rhs[along * n..(along + 1) * n]) {
                *sum += factor * value;
            }
        }
    }
    Tile::floats(result.into_iter().map(|value| round(sum, value)).collect())
}

/// Elements and scales with their types.
pub(super) fn dequantize(
    (elements, stored): (&Tile, &TileType),
    (scales, factors): (&Tile, &TileType),
    result: &TileType,
) -> Tile {
    let numbers: Vec<f64> = match (&elements.elements, stored.element) {
        (Elements::Float(values), _) => values.clone(),
        (Elements::Integer(bytes), Element::U8) => {
            let halves = bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]);
            halves.map(|bits| minifloat::FP4_E2M1.decode(bits as u16)).collect()
        }
        (Elements::Integer(words), Element::U32) => {
            let codes = words.iter().flat_map(|&word| e2m1_of_word(word as u32));
            codes.map(|bits| minifloat::FP4_E2M1.decode(bits.into())).collect()
        }
        (Elements::Integer(values), _) => values.iter().map(|&value| value as f64).collect(),
    };
    let scales: Vec<f64> = match &scales.elements {
        Elements::Float(values) => values.clone(),
        Elements::Integer(bytes) => bytes.iter().map(|&byte| e8m0(byte)).collect(),
    };
    let (columns, blocks) = (result.shape.last().copied().unwrap_or(1), factors.shape.last().copied().unwrap_or(1));
    let block = (columns / blocks).max(1) as usize;
    // Blocks follow one another, also from row to row.
    Tile::floats(
        numbers
            .chunks(block)
            .zip(scales)
            .flat_map(|(block, scale)| block.iter().map(move |number| round(result.element, number * scale)))
            .collect(),
    )
}

/// The scale that a byte of E8M0 stands for.
fn e8m0(byte: i64) -> f64 {
    if byte == 255 { f64::NAN } else { 2f64.powi(byte as i32 - 127) }
}
