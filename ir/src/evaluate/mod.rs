//! The reference evaluation: every op computed plainly in f64 (integers exactly), every result
//! rounded once to its storage. It is the oracle of all tests, so clarity comes before speed.
//!
//! Nested graphs are evaluated like any other, with rounding at each of their results: a fused graph
//! evaluates to exactly what it was fused from.

mod tensor;

use std::collections::{BTreeMap, HashMap};

use thiserror::Error;

use crate::definition::Op;
use crate::graph::{Graph, NodeKind, ValueId, infer_results};
use crate::module::Module;
use crate::name::Name;
use crate::operation::Operation;
use crate::types::{Dim, Shape, Type};

pub use tensor::{Elements, KvCache, Tensor, TensorError, Value};

/// The weights of a module, by name.
pub type Parameters = BTreeMap<Name, Tensor>;

/// The extents that symbols stand for.
pub type Symbols = BTreeMap<Name, u64>;

/// Why an evaluation failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EvaluationError {
    /// The module has no such function.
    #[error("there is no function `@{0}`")]
    UnknownFunction(Name),
    /// The number of inputs is not the function's.
    #[error("{expected} inputs expected, {found} given")]
    InputCount {
        /// Inputs of the function.
        expected: usize,
        /// Inputs given.
        found: usize,
    },
    /// A value is not of the type declared for it.
    #[error("{what}: {found} given, {expected} expected{}", note(.symbols))]
    Mismatch {
        /// Which value.
        what: String,
        /// The declared type.
        expected: String,
        /// The type given.
        found: String,
        /// The symbols bound so far.
        symbols: Symbols,
    },
    /// A parameter has no value.
    #[error("parameter `@{0}` is missing")]
    MissingParameter(Name),
    /// A symbol stands outside the range that the module declares.
    #[error("{symbol} is {value}, outside {minimum}..={maximum}")]
    SymbolRange {
        /// The symbol.
        symbol: Name,
        /// Its value.
        value: u64,
        /// The least value declared.
        minimum: u64,
        /// The largest value declared.
        maximum: u64,
    },
    /// An operation could not be computed.
    #[error("{}{message}", .op.map(|op| format!("{op}: ")).unwrap_or_default())]
    Operation {
        /// The op; filled in by the evaluation.
        op: Option<Op>,
        /// What is wrong.
        message: String,
    },
    /// The graph breaks the rules that the verifier checks.
    #[error("the graph is not well formed: {0}")]
    Malformed(String),
}

fn note(symbols: &Symbols) -> String {
    if symbols.is_empty() {
        return String::new();
    }
    let bound: Vec<String> = symbols.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!(" (with {})", bound.join(", "))
}

impl EvaluationError {
    /// An error in the computation of an operation.
    pub fn operation(message: impl Into<String>) -> EvaluationError {
        EvaluationError::Operation { op: None, message: message.into() }
    }

    fn of(self, op: Op) -> EvaluationError {
        match self {
            EvaluationError::Operation { op: None, message } => EvaluationError::Operation { op: Some(op), message },
            other => other,
        }
    }
}

impl From<TensorError> for EvaluationError {
    fn from(error: TensorError) -> Self {
        EvaluationError::operation(error.to_string())
    }
}

/// What the evaluation of one operation works on.
pub struct Evaluation<'a> {
    operands: Vec<Option<Value>>,
    results: &'a [Type],
    region: Option<&'a Graph>,
    symbols: &'a mut Symbols,
}

impl Evaluation<'_> {
    /// The tensor operand `index`.
    pub fn tensor(&self, index: usize) -> Result<&Tensor, EvaluationError> {
        self.operands
            .get(index)
            .and_then(|value| value.as_ref()?.as_tensor())
            .ok_or_else(|| EvaluationError::operation(format!("operand {index} is no tensor")))
    }

    /// Number of operands.
    pub fn operand_count(&self) -> usize {
        self.operands.len()
    }

    /// The cache operand `index`.
    pub fn cache(&self, index: usize) -> Result<&KvCache, EvaluationError> {
        self.operands
            .get(index)
            .and_then(|value| value.as_ref()?.as_cache())
            .ok_or_else(|| EvaluationError::operation(format!("operand {index} is no cache")))
    }

    /// Takes the cache operand `index` out, so that it is not copied when it is changed.
    pub fn take_cache(&mut self, index: usize) -> Result<KvCache, EvaluationError> {
        match self.operands.get_mut(index).and_then(Option::take) {
            Some(Value::Cache(cache)) => Ok(cache),
            _ => Err(EvaluationError::operation(format!("operand {index} is no cache"))),
        }
    }

    /// The declared type of the result `index`.
    pub fn result_type(&self, index: usize) -> &Type {
        &self.results[index]
    }

    /// The extents of the tensor result `index`, if every symbol in it is bound.
    pub fn result_shape(&self, index: usize) -> Result<Vec<usize>, EvaluationError> {
        match &self.results[index] {
            Type::Tensor(tensor) => self.extents(&tensor.shape),
            Type::KvCache(_) => Err(EvaluationError::operation("the result is no tensor")),
        }
    }

    /// The extents that `dims` stand for.
    pub fn extents(&self, dims: &[Dim]) -> Result<Vec<usize>, EvaluationError> {
        let extent = |dim: &Dim| match dim {
            Dim::Static(extent) => Ok(*extent as usize),
            Dim::Symbol(name) => match self.symbols.get(name) {
                Some(extent) => Ok(*extent as usize),
                None => Err(EvaluationError::operation(format!("symbol {name} is not bound"))),
            },
        };
        dims.iter().map(extent).collect()
    }

    /// Evaluates the operation's nested graph on the operands.
    pub fn region(&mut self) -> Result<Vec<Value>, EvaluationError> {
        let region = self.region.ok_or_else(|| EvaluationError::operation("the operation has no nested graph"))?;
        let operands: Option<Vec<Value>> = self.operands.iter_mut().map(Option::take).collect();
        let operands = operands.ok_or_else(|| EvaluationError::operation("an operand is missing"))?;
        evaluate_graph(region, operands, &Parameters::new(), self.symbols)
    }
}

/// Computes the function `name` of `module`.
///
/// Symbols are bound by the shapes of inputs and parameters. Inputs must have the declared storage.
///
/// # Errors
/// The function, an input or a parameter is missing or of another type than declared; an operation
/// meets values it is not defined for, such as a token outside the vocabulary.
pub fn evaluate(
    module: &Module,
    name: &str,
    inputs: &[Value],
    parameters: &Parameters,
) -> Result<Vec<Value>, EvaluationError> {
    let function = module.function(name).ok_or_else(|| EvaluationError::UnknownFunction(name.into()))?;
    let mut symbols = Symbols::new();
    let declared: Vec<(String, &Type)> = function.inputs().map(|(name, ty)| (format!("input %{name}"), ty)).collect();
    if declared.len() != inputs.len() {
        let (expected, found) = (declared.len(), inputs.len());
        return Err(EvaluationError::InputCount { expected, found });
    }
    for ((what, ty), value) in declared.iter().zip(inputs) {
        bind(what, ty, value, &mut symbols)?;
    }
    let outputs = evaluate_graph(&function.graph, inputs.to_vec(), parameters, &mut symbols)?;
    for (symbol, range) in &module.symbols {
        if let Some(value) = symbols.get(symbol)
            && !(range.minimum..=range.maximum).contains(value)
        {
            return Err(EvaluationError::SymbolRange {
                symbol: symbol.clone(),
                value: *value,
                minimum: range.minimum,
                maximum: range.maximum,
            });
        }
    }
    Ok(outputs)
}

/// Computes a graph outside a module.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_graph(
    graph: &Graph,
    inputs: Vec<Value>,
    parameters: &Parameters,
    symbols: &mut Symbols,
) -> Result<Vec<Value>, EvaluationError> {
    if graph.inputs().len() != inputs.len() {
        let (expected, found) = (graph.inputs().len(), inputs.len());
        return Err(EvaluationError::InputCount { expected, found });
    }
    let order = graph.topological_order();
    if order.len() != graph.node_count() {
        return Err(EvaluationError::Malformed("it has a cycle".to_owned()));
    }
    let missing = || EvaluationError::Malformed("it refers to a value that is not there".to_owned());
    let mut inputs: Vec<Option<Value>> = inputs.into_iter().map(Some).collect();
    let mut values = Values::default();
    for id in order {
        let node = graph.node(id);
        let first = ValueId::first(id);
        match node.kind() {
            NodeKind::Input(position) => {
                let value = inputs.get_mut(*position).and_then(Option::take).ok_or_else(missing)?;
                bind(&format!("input {position}"), graph.value_type(first), &value, symbols)?;
                values.define(graph, first, value);
            }
            NodeKind::Parameter(name) => {
                let tensor = parameters.get(name).ok_or_else(|| EvaluationError::MissingParameter(name.clone()))?;
                let value = Value::Tensor(tensor.clone());
                bind(&format!("parameter @{name}"), graph.value_type(first), &value, symbols)?;
                values.define(graph, first, value);
            }
            NodeKind::Operation(operation) => {
                let operands = graph.operands(id);
                let types: Vec<&Type> = operands.iter().map(|operand| graph.value_type(*operand)).collect();
                infer_results(operation, &types, node.results())
                    .map_err(|error| EvaluationError::Malformed(error.to_string()))?;
                let operands = operands.iter().map(|operand| values.take(*operand)).collect();
                let results = evaluate_operation(operation, operands, node.results(), symbols)?;
                for (index, value) in results.into_iter().enumerate() {
                    values.define(graph, ValueId { node: id, result: index as u32 }, value);
                }
            }
        }
    }
    graph.outputs().iter().map(|output| values.take(*output).ok_or_else(missing)).collect()
}

/// Values that will still be used, each with the number of uses left: the last use takes the value,
/// which frees memory and lets a cache be changed in place.
#[derive(Default)]
struct Values(HashMap<ValueId, (Value, usize)>);

impl Values {
    fn define(&mut self, graph: &Graph, id: ValueId, value: Value) {
        let uses = graph.use_count(id);
        if uses > 0 {
            self.0.insert(id, (value, uses));
        }
    }

    fn take(&mut self, id: ValueId) -> Option<Value> {
        let (value, uses) = self.0.get_mut(&id)?;
        *uses -= 1;
        if *uses > 0 {
            return Some(value.clone());
        }
        self.0.remove(&id).map(|(value, _)| value)
    }
}

/// Computes one operation and rounds its results to their declared types.
///
/// # Errors
/// The operation is not defined for these values, or its results are not of the declared shapes.
pub fn evaluate_operation(
    operation: &Operation,
    operands: Vec<Option<Value>>,
    results: &[Type],
    symbols: &mut Symbols,
) -> Result<Vec<Value>, EvaluationError> {
    for ty in results {
        check_size(ty, symbols).map_err(|error| error.of(operation.op()))?;
    }
    let mut evaluation = Evaluation { operands, results, region: operation.region(), symbols: &mut *symbols };
    let values =
        (operation.definition().evaluate)(operation, &mut evaluation).map_err(|error| error.of(operation.op()))?;
    let mut rounded = Vec::with_capacity(values.len());
    for (index, (value, ty)) in values.into_iter().zip(results).enumerate() {
        let value = match (value, ty) {
            (Value::Tensor(tensor), Type::Tensor(ty)) => Value::Tensor(tensor.converted(ty.storage())),
            (value, _) => value,
        };
        bind(&format!("result {index} of {}", operation.op()), ty, &value, symbols)?;
        rounded.push(value);
    }
    Ok(rounded)
}

/// Refuses results that are larger than memory.
fn check_size(ty: &Type, symbols: &Symbols) -> Result<(), EvaluationError> {
    let Type::Tensor(tensor) = ty else { return Ok(()) };
    let extent = |dim: &Dim| match dim {
        Dim::Static(extent) => usize::try_from(*extent).unwrap_or(usize::MAX),
        Dim::Symbol(name) => symbols.get(name).map_or(1, |extent| *extent as usize),
    };
    let shape: Vec<usize> = tensor.shape.iter().map(extent).collect();
    match tensor::element_count(&shape) {
        Some(_) => Ok(()),
        None => Err(EvaluationError::operation(format!("a result of type {ty} is larger than memory"))),
    }
}

/// Checks a value against its declared type, and binds the symbols that are not bound yet.
fn bind(what: &str, ty: &Type, value: &Value, symbols: &mut Symbols) -> Result<(), EvaluationError> {
    let fits = match (ty, value) {
        (Type::Tensor(ty), Value::Tensor(tensor)) => {
            ty.storage() == tensor.storage() && bind_shape(&ty.shape, tensor.shape(), symbols)
        }
        (Type::KvCache(ty), Value::Cache(cache)) => ty == cache.ty(),
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let found = match value {
        Value::Tensor(tensor) => {
            let extents: String = tensor.shape().iter().map(|extent| format!("{extent}x")).collect();
            format!("tensor<{extents}{}>", tensor.storage())
        }
        Value::Cache(cache) => cache.ty().to_string(),
    };
    Err(EvaluationError::Mismatch { what: what.to_owned(), expected: ty.to_string(), found, symbols: symbols.clone() })
}

fn bind_shape(shape: &Shape, extents: &[usize], symbols: &mut Symbols) -> bool {
    shape.rank() == extents.len()
        && shape.iter().zip(extents).all(|(dim, extent)| match dim {
            Dim::Static(declared) => *declared == *extent as u64,
            Dim::Symbol(name) => *symbols.entry(name.clone()).or_insert(*extent as u64) == *extent as u64,
        })
}
