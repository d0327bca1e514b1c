//! How far apart two results are.

use std::collections::HashMap;
use std::fmt;

use tessera_ir::evaluate::Value;
use tessera_ir::{Function, Graph, Op, Storage, Type, ValueId, ops};

/// How far apart two tensors are, element by element. Two NaNs are equal, and so are two equal infinities.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Difference {
    /// Elements compared.
    pub count: usize,
    /// Largest absolute difference; infinite where one element is NaN or infinite and the other is not.
    pub maximum_absolute: f64,
    /// Largest difference relative to the expected element, of those that are not tiny beside the root mean square of all.
    pub maximum_relative: f64,
    /// Largest difference relative to the expected element or to the scale, whichever is larger.
    pub maximum_scaled: f64,
    /// Root of the mean squared difference.
    pub root_mean_square: f64,
    /// Root of the mean square of the expected elements: the scale to read the others by.
    pub scale: f64,
    /// Position of the element with the largest absolute difference, row-major, with its expected and its found value.
    pub worst: Option<(usize, f64, f64)>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "max abs {:.3e}, max rel {:.3e}, rms {:.3e} (scale {:.3e}, {} elements)",
            self.maximum_absolute, self.maximum_relative, self.root_mean_square, self.scale, self.count
        )
    }
}

/// What difference is still as good as none, relative to the root mean square of the expected elements.
///
/// # Where it comes from
///
/// An op's result is off by what its own rounding adds to what its operands were off by. Roundings are independent of each other, so it is
/// their squares that add up: after a chain of ops whose results are stored with unit roundoffs u₁ … uₙ the error to expect is
/// σ = √Σ(uᵢ/√3 + c)², relative to the size of the numbers (a rounding error is anywhere between −u and u). c is what computing costs beside
/// storing, 16 roundings of f32: sums of hundreds of terms, and functions that are good to a few units in the last place. A function's σ
/// is that of its longest chain. Inputs and weights are exact, and so are ops that only move or pick elements.
///
/// The root mean square error of a correct result is below σ. An element that falls to another side of a rounding than the expected one is off
/// by twice the roundoff, at each such place on its way; 8 σ, relative to the element where it is larger than the others, bounds that.
/// Integers are exact.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Bound of the largest difference, relative to the element or to the scale, whichever is larger.
    pub maximum: f64,
    /// Bound of the root of the mean squared difference, relative to the scale.
    pub root_mean_square: f64,
}

/// Roundings of the type that is computed in, for each op.
const ROUNDINGS: f64 = 16.0;

/// How far the error of one element may be beyond that of all.
const OUTLIER: f64 = 8.0;

/// Results of a smaller scale than this are differences of larger numbers, for inputs are of scale 1.
const LEAST_SCALE: f64 = 0.125;

/// Ops that give elements of their operands, or exact functions of them.
const EXACT: &[Op] = &[
    ops::NEG,
    ops::ABS,
    ops::RELU,
    ops::CAST,
    ops::MAXIMUM,
    ops::MINIMUM,
    ops::SELECT,
    ops::CONSTANT,
    ops::BROADCAST,
    ops::RESHAPE,
    ops::TRANSPOSE,
    ops::SLICE,
    ops::CONCAT,
    ops::GATHER,
    ops::EMBEDDING,
    ops::REDUCE_MAX,
    ops::REDUCE_MIN,
    ops::KV_APPEND,
];

impl Tolerance {
    /// A bound of the largest difference alone.
    pub fn of_largest(maximum: f64) -> Tolerance {
        Tolerance { maximum, root_mean_square: maximum }
    }

    /// For results in `result` of a function.
    pub fn of_function(function: &Function, result: Storage) -> Tolerance {
        if !result.is_float() {
            return Tolerance::of_largest(0.0);
        }
        let inputs = vec![0.0; function.graph.inputs().len()];
        let outputs = variances(&function.graph, &inputs);
        let expected = outputs.into_iter().fold(variance_of(result), f64::max).sqrt();
        Tolerance { maximum: OUTLIER * expected, root_mean_square: expected }
    }

    /// Whether a difference is within the tolerance.
    pub fn admits(self, difference: &Difference) -> bool {
        let rms = self.root_mean_square * difference.scale.max(LEAST_SCALE);
        difference.maximum_scaled <= self.maximum && difference.root_mean_square <= rms
    }
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1e}, {:.1e} rms", self.maximum, self.root_mean_square)
    }
}

/// The square of the error that one op adds whose result is stored in `storage`.
fn variance_of(storage: Storage) -> f64 {
    let computing = if storage == Storage::F64 { Storage::F64 } else { Storage::F32 };
    let error = unit_roundoff(storage) / f64::sqrt(3.0) + ROUNDINGS * unit_roundoff(computing);
    error * error
}

/// The largest relative error of rounding to a type: half of the distance from 1 to the next number.
fn unit_roundoff(storage: Storage) -> f64 {
    let digits = match storage {
        Storage::F64 => 53,
        Storage::F32 => 24,
        Storage::F16 => 11,
        Storage::Bf16 => 8,
        Storage::Fp8E4m3 | Storage::Fp6E2m3 | Storage::Fp8Block128 => 4,
        Storage::Fp8E5m2 | Storage::Fp6E3m2 => 3,
        Storage::Fp4E2m1 | Storage::Mxfp4 | Storage::Nvfp4 => 2,
        _ => return 0.0,
    };
    f64::powi(2.0, -digits)
}

fn storage_of(ty: &Type) -> Storage {
    match ty {
        Type::Tensor(tensor) => tensor.storage(),
        Type::KvCache(cache) => cache.storage,
    }
}

/// The squares of the errors of a graph's outputs, from those of its inputs.
fn variances(graph: &Graph, inputs: &[f64]) -> Vec<f64> {
    let mut known: HashMap<ValueId, f64> = graph.inputs().zip(inputs.iter().copied()).collect();
    let of = |known: &HashMap<ValueId, f64>, value: &ValueId| known.get(value).copied().unwrap_or(0.0);
    for (node, operation) in graph.operations() {
        let operands: Vec<f64> = graph.operands(node).iter().map(|operand| of(&known, operand)).collect();
        let inner = operation.region().map(|region| variances(region, &operands));
        let before = operands.iter().copied().fold(0.0, f64::max);
        // What is appended to a cache is rounded to its storage, whatever was there before.
        let values = graph.operands(node);
        let tensors = values.iter().filter_map(|operand| graph.value_type(*operand).as_tensor());
        let roundoffs = tensors.map(|ty| unit_roundoff(ty.storage()));
        let coarsest = roundoffs.fold(0.0, f64::max);
        for (result, ty) in (0..).zip(graph.node(node).results()) {
            let storage = storage_of(ty);
            let after = match &inner {
                Some(inner) => inner.get(result as usize).copied().unwrap_or(before),
                None if EXACT.contains(&operation.op()) && unit_roundoff(storage) <= coarsest => before,
                None if storage.is_float() => before + variance_of(storage),
                None => before,
            };
            known.insert(ValueId { node, result }, after);
        }
    }
    graph.outputs().iter().map(|output| of(&known, output)).collect()
}

/// How far `found` lies from `expected`; `None` if they are not of one shape and kind.
pub fn difference(expected: &Value, found: &Value) -> Option<Difference> {
    match (expected, found) {
        (Value::Tensor(expected), Value::Tensor(found)) => {
            (expected.shape() == found.shape()).then(|| compare(&expected.to_floats(), &found.to_floats()))
        }
        (Value::Cache(expected), Value::Cache(found)) => (expected.ty() == found.ty()
            && expected.pages() == found.pages())
        .then(|| compare(expected.elements(), found.elements())),
        _ => None,
    }
}

fn compare(expected: &[f64], found: &[f64]) -> Difference {
    let count = expected.len();
    let mean = |sum: f64| if count == 0 { 0.0 } else { (sum / count as f64).sqrt() };
    let scale = mean(expected.iter().filter(|element| element.is_finite()).map(|element| element * element).sum());
    let mut difference = Difference { count, scale, ..Difference::default() };
    let mut squares = 0.0;
    for (position, (expected, found)) in expected.iter().zip(found).enumerate() {
        let same = expected == found || (expected.is_nan() && found.is_nan());
        let absolute = match (expected - found).abs() {
            _ if same => 0.0,
            absolute if absolute.is_nan() => f64::INFINITY,
            absolute => absolute,
        };
        if absolute > difference.maximum_absolute {
            difference.maximum_absolute = absolute;
            difference.worst = Some((position, *expected, *found));
        }
        if expected.abs() > 1e-3 * scale {
            difference.maximum_relative = difference.maximum_relative.max(absolute / expected.abs());
        }
        let size = if expected.is_finite() { expected.abs() } else { 0.0 };
        difference.maximum_scaled = difference.maximum_scaled.max(absolute / size.max(scale).max(LEAST_SCALE));
        squares += absolute * absolute;
    }
    difference.root_mean_square = mean(squares);
    difference
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_specials_do_not_differ() {
        let values = [f64::NAN, f64::INFINITY, -0.0];
        let found = compare(&values, &[f64::NAN, f64::INFINITY, 0.0]);
        assert_eq!(found.maximum_absolute, 0.0);
        assert!(Tolerance::of_largest(0.0).admits(&found));
    }

    #[test]
    fn a_nan_on_one_side_is_an_infinite_difference() {
        let found = compare(&[1.0], &[f64::NAN]);
        assert_eq!(found.maximum_absolute, f64::INFINITY);
        assert!(!Tolerance::of_largest(1e9).admits(&found));
    }

    #[test]
    fn figures_are_what_they_say() {
        let found = compare(&[3.0, -4.0], &[3.0, -3.0]);
        assert_eq!(found.worst, Some((1, -4.0, -3.0)));
        assert_eq!((found.maximum_absolute, found.maximum_relative), (1.0, 0.25));
        assert!((found.root_mean_square - 0.5f64.sqrt()).abs() < 1e-12);
        assert!((found.scale - 12.5f64.sqrt()).abs() < 1e-12);
    }

    fn tolerance(storage: &str, body: &str) -> Tolerance {
        let text = format!(
            "module @m {{ func @f(%x: tensor<Tx8x{storage}>) -> (tensor<Tx8x{storage}>) {{ {body} return %y }} }}"
        );
        let module = tessera_ir::parse_module(&text).unwrap();
        let result = module.functions[0].outputs().next().unwrap().as_tensor().unwrap().storage();
        Tolerance::of_function(&module.functions[0], result)
    }

    #[test]
    fn tolerances_follow_storages_and_chains() {
        let one = tolerance("bf16", "%y = exp(%x)");
        assert!((one.root_mean_square / 2f64.powi(-8) * f64::sqrt(3.0) - 1.0).abs() < 1e-3, "{one}");
        let four = tolerance("bf16", "%a = exp(%x) %b = tanh(%a) %c = sin(%b) %d = abs(%c) %y = exp(%d)");
        assert!((four.root_mean_square / one.root_mean_square - 2.0).abs() < 1e-6, "{four}");
        let exact = tolerance("f32", "%y = exp(%x)");
        assert!(exact.maximum < 4e-5, "{exact}");
        assert_eq!(tolerance("i32", "%y = neg(%x)"), Tolerance::of_largest(0.0));
        // A difference that only one element has may be larger than one that all have.
        let admits = |found: [f64; 4]| one.admits(&compare(&[1.0; 4], &found));
        assert!(admits([1.004, 1.0, 1.0, 1.0]) && !admits([1.004; 4]));
    }
}
