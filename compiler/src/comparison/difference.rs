//! How far apart two results are.

use std::fmt;

use tessera_ir::evaluate::Value;
use tessera_ir::{Function, Storage, Type};

/// How far apart two tensors are, element by element. Two NaNs are equal, and so are two equal infinities.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Difference {
    /// Elements compared.
    pub count: usize,
    /// Largest absolute difference; infinite where one element is NaN or infinite and the other is not.
    pub maximum_absolute: f64,
    /// Largest difference relative to the expected element, of those that are not tiny beside the root mean square of all.
    pub maximum_relative: f64,
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

/// What difference is still as good as none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Largest absolute difference, as a part of the root mean square of the expected elements (or of 1, if that is larger).
    pub relative_to_scale: f64,
}

impl Tolerance {
    /// The tolerance for results that were computed and stored in `storage`: a few hundred of its roundings, and none for integers.
    pub fn of(storage: Storage) -> Tolerance {
        let relative_to_scale = match storage {
            storage if !storage.is_float() => 0.0,
            Storage::F64 => 1e-10,
            Storage::F32 => 2e-4,
            Storage::F16 => 1e-2,
            Storage::Bf16 => 4e-2,
            _ => 2.5e-1,
        };
        Tolerance { relative_to_scale }
    }

    /// The tolerance for results of a function in `result`: results are no better than the narrowest storage that they came through. Inputs
    /// and parameters do not count, for they are exact.
    pub fn of_function(function: &Function, result: Storage) -> Tolerance {
        if !result.is_float() {
            return Tolerance::of(result);
        }
        let graph = &function.graph;
        let types = graph.operations().flat_map(|(node, _)| graph.node(node).results());
        let storages = types.map(|ty| match ty {
            Type::Tensor(tensor) => tensor.storage(),
            Type::KvCache(cache) => cache.storage,
        });
        let narrowest =
            storages.filter(|storage| storage.is_float()).chain([result]).min_by_key(|storage| storage.bits());
        Tolerance::of(narrowest.unwrap_or(result))
    }

    /// Whether a difference is within the tolerance.
    pub fn admits(self, difference: &Difference) -> bool {
        difference.maximum_absolute <= self.relative_to_scale * difference.scale.max(1.0)
    }
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
        assert!(Tolerance::of(Storage::I32).admits(&found));
    }

    #[test]
    fn a_nan_on_one_side_is_an_infinite_difference() {
        let found = compare(&[1.0], &[f64::NAN]);
        assert_eq!(found.maximum_absolute, f64::INFINITY);
        assert!(!Tolerance::of(Storage::Fp8E4m3).admits(&found));
    }

    #[test]
    fn figures_are_what_they_say() {
        let found = compare(&[3.0, -4.0], &[3.0, -3.0]);
        assert_eq!(found.worst, Some((1, -4.0, -3.0)));
        assert_eq!((found.maximum_absolute, found.maximum_relative), (1.0, 0.25));
        assert!((found.root_mean_square - 0.5f64.sqrt()).abs() < 1e-12);
        assert!((found.scale - 12.5f64.sqrt()).abs() < 1e-12);
    }
}
