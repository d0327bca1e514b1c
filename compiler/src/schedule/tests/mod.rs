//! Every op and whole graphs: scheduled, followed with the tile interpreter, run on this machine and on the emulated GPU, and compared
//! with the reference evaluation.

mod attention;
mod dumps;
mod emulated;
mod experts;
mod machine;
mod mixture;
mod models;
mod ops;
mod packing;
mod random;

use std::collections::BTreeMap;

use tessera_ir::evaluate::{KvCache, Parameters, Tensor, Value, evaluate};
use tessera_ir::{Dim, Function, Module, Name, Storage, Type, parse_module};

use super::{Library, Lowered, Machine, Overrides, form, lower, symbols_of};
use crate::target::Target;

/// A generator of numbers that repeats itself from run to run.
pub struct Numbers(u64);

impl Numbers {
    /// Begins at a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    /// The next number, all bits alike.
    pub fn next(&mut self) -> u64 {
        // SplitMix64, Steele et al. 2014.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from −2 to 2.
    pub fn float(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64 * 4.0 - 2.0
    }
}

/// A tensor of random elements: floats from −2 to 2, integers below `limit`.
pub fn random(storage: Storage, shape: &[usize], limit: u64, numbers: &mut Numbers) -> Tensor {
    let count = shape.iter().product();
    if storage.is_float() {
        Tensor::from_floats(storage, shape, (0..count).map(|_| numbers.float()).collect()).unwrap()
    } else {
        let limit = if storage == Storage::Bool { 2 } else { limit };
        Tensor::from_integers(storage, shape, (0..count).map(|_| (numbers.next() % limit) as i64).collect()).unwrap()
    }
}

/// Forms and lowers the only function of a module.
pub fn lowered(module: &Module, target: Target, overrides: &str) -> (Lowered, Vec<String>) {
    let function = &module.functions[0];
    let symbols = symbols_of(function);
    let mut library = Library::new(Machine { target, threads: 2 }, Overrides::parse(overrides).unwrap());
    let formed = form(function, &symbols, &mut library).unwrap_or_else(|error| panic!("{error}\n{module}"));
    let mut formed_module = module.clone();
    formed_module.functions = vec![formed.function];
    let lowered = lower(&formed_module, &mut library).unwrap_or_else(|error| panic!("{error}\n{module}"));
    (lowered, formed.cuts)
}

/// Compares outputs.
pub fn assert_close(found: &[Value], expected: &[Value], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let (found, expected) = match (found, expected) {
            (Value::Tensor(found), Value::Tensor(expected)) => {
                assert_eq!(found.shape(), expected.shape(), "{what}");
                (found.to_floats().to_vec(), expected.to_floats().to_vec())
            }
            (Value::Cache(found), Value::Cache(expected)) => (found.elements().to_vec(), expected.elements().to_vec()),
            _ => panic!("{what}: output {index} is of another kind"),
        };
        for (position, (a, b)) in found.iter().zip(&expected).enumerate() {
            let same = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * b.abs().max(1.0);
            assert!(same, "{what}: output {index} at {position} is {a}, not {b}");
        }
    }
}

/// The targets whose tile shapes are tried.
pub fn targets() -> [Target; 3] {
    [Target::Host, "sm_80".parse().unwrap(), "sm_90a".parse().unwrap()]
}

/// Follows a lowered function with the tile interpreter, then runs its code: on this machine, or on the emulated GPU. What the
/// interpreter gives is compared with what is expected, and so is what the GPU's code gives; the host's is compared kernel by kernel.
pub fn check_lowered(
    lowered: Lowered,
    target: Target,
    function: &Function,
    (inputs, parameters): (&[Value], &Parameters),
    (expected, tolerance): (&[Value], f64),
    what: &str,
) {
    // One GPU's tile programs are enough to follow; they hardly differ.
    if target.chip().is_none_or(|chip| !chip.specific) {
        let found = machine::execute(&lowered, function, inputs, parameters, target == Target::Host);
        assert_close(&found, expected, tolerance, what);
    }
    if let Some(chip) = target.chip() {
        let found = emulated::execute(lowered, chip, function, inputs, parameters);
        assert_close(&found, expected, tolerance, &format!("emulated {what}"));
    }
}

/// Runs the only function of a module on random inputs with symbols bound, on both targets' schedules, and compares.
/// Integers are below `limit`. Names of inputs that begin with `positions` etc. are no special case here.
pub fn check_module(module: &Module, bound: &[(&str, usize)], limit: u64, tolerance: f64) {
    let function = &module.functions[0];
    let mut numbers = Numbers::new(7);
    let extent = |dim: &Dim| match dim {
        Dim::Static(extent) => *extent as usize,
        Dim::Symbol(name) => bound.iter().find(|(symbol, _)| **name == **symbol).map(|(_, extent)| *extent).unwrap(),
    };
    let inputs: Vec<Value> = function
        .inputs()
        .map(|(_, ty)| match ty {
            Type::Tensor(ty) => {
                let shape: Vec<usize> = ty.shape.iter().map(extent).collect();
                Value::Tensor(random(ty.storage(), &shape, limit, &mut numbers))
            }
            Type::KvCache(ty) => Value::Cache(KvCache::new(ty.clone(), 8).unwrap()),
        })
        .collect();
    check_with(module, &inputs, tolerance);
}

/// As [`check_module`], with these inputs.
pub fn check_with(module: &Module, inputs: &[Value], tolerance: f64) {
    check_overridden(module, inputs, tolerance, "");
}

/// As [`check_with`], with these knobs.
pub fn check_overridden(module: &Module, inputs: &[Value], tolerance: f64, overrides: &str) {
    let mut numbers = Numbers::new(11);
    let parameters: Parameters = module
        .parameters
        .iter()
        .map(|(name, ty)| {
            let shape: Vec<usize> = ty.shape.iter().map(|dim| dim.as_static().unwrap() as usize).collect();
            (name.clone(), random(ty.storage(), &shape, 4, &mut numbers))
        })
        .collect::<BTreeMap<Name, Tensor>>();
    check_given(module, inputs, &parameters, tolerance, overrides);
}

/// As [`check_overridden`], with these parameters.
pub fn check_given(module: &Module, inputs: &[Value], parameters: &Parameters, tolerance: f64, overrides: &str) {
    let function = &module.functions[0];
    let expected = evaluate(module, &function.name, inputs, parameters).unwrap();
    for target in targets() {
        let (lowered, _) = lowered(module, target, overrides);
        let what = format!("{target} {overrides}: {module}");
        check_lowered(lowered, target, function, (inputs, parameters), (&expected, tolerance), &what);
    }
}

/// A module of one function: its text, with symbols bound.
pub fn check(text: &str, bound: &[(&str, usize)], tolerance: f64) {
    let module = parse_module(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    check_module(&module, bound, 5, tolerance);
}

/// A function body of one module: parameters of the function, its operations.
pub fn check_body(inputs: &str, body: &str, bound: &[(&str, usize)], tolerance: f64) {
    let text = format!("module @m {{\n func @f({inputs}) {{\n{body}\n }}\n}}");
    check(&text, bound, tolerance);
}
