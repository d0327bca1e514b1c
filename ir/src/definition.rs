//! The declaration of an op, from which everything else about it derives.

use std::fmt;

use smallvec::SmallVec;
use thiserror::Error;

use crate::attribute::{Attribute, AttributeKind};
use crate::evaluate::{Evaluation, EvaluationError, Value};
use crate::graph::{Graph, ValueId};
use crate::operation::Operation;
use crate::sharding::ShardingRule;
use crate::types::{KvCacheType, TensorType, Type};

/// Which op an operation is: compares, hashes, and can be matched on, as in
/// `match operation.op() { ops::MATMUL => …, _ => … }`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Op(pub(crate) &'static str);

impl Op {
    /// The op's name in the text form.
    pub const fn name(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// What an operand may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperandClass {
    /// A tensor of anything.
    Tensor,
    /// A tensor of floating-point numbers or integers.
    Number,
    /// A tensor of floating-point numbers.
    Float,
    /// A tensor of integers.
    Integer,
    /// A tensor of truth values.
    Boolean,
    /// A tensor of integers or truth values.
    Bits,
    /// A KV cache.
    Cache,
    /// Any value.
    Any,
}

impl OperandClass {
    /// Whether a value of type `ty` can be such an operand.
    pub fn admits(self, ty: &Type) -> bool {
        match (self, ty) {
            (OperandClass::Any, _) | (OperandClass::Cache, Type::KvCache(_)) => true,
            (OperandClass::Cache, Type::Tensor(_)) | (_, Type::KvCache(_)) => false,
            (class, Type::Tensor(tensor)) => {
                let storage = tensor.storage();
                match class {
                    OperandClass::Number => storage.is_float() || storage.is_integer(),
                    OperandClass::Float => storage.is_float(),
                    OperandClass::Integer => storage.is_integer(),
                    OperandClass::Boolean => !storage.is_float() && !storage.is_integer(),
                    OperandClass::Bits => !storage.is_float(),
                    _ => true,
                }
            }
        }
    }
}

impl fmt::Display for OperandClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OperandClass::Tensor => "a tensor",
            OperandClass::Number => "a tensor of numbers",
            OperandClass::Float => "a tensor of floats",
            OperandClass::Integer => "a tensor of integers",
            OperandClass::Boolean => "a tensor of bool",
            OperandClass::Bits => "a tensor of integers or bool",
            OperandClass::Cache => "a KV cache",
            OperandClass::Any => "any value",
        })
    }
}

/// The declaration of one operand.
#[derive(Debug)]
pub struct OperandDefinition {
    /// The name that documentation and errors use.
    pub name: &'static str,
    /// What it is.
    pub doc: &'static str,
    /// What it may be.
    pub class: OperandClass,
    /// How many operands may stand here.
    pub arity: Arity,
}

/// How many operands stand for one declared operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// Exactly one.
    One,
    /// One or none; the last operand alone can be so.
    Optional,
    /// Any number; the last operand alone can be so.
    Any,
}

/// The declaration of one attribute.
#[derive(Debug)]
pub struct AttributeDefinition {
    /// The name in the text form.
    pub name: &'static str,
    /// What it means.
    pub doc: &'static str,
    /// What it may hold.
    pub kind: AttributeKind,
    /// The value where none is written.
    pub default: Option<fn() -> Option<Attribute>>,
    /// Whether it may be absent with no default.
    pub optional: bool,
}

impl AttributeDefinition {
    /// Whether the attribute must be written.
    pub fn is_required(&self) -> bool {
        self.default.is_none() && !self.optional
    }
}

/// The types of an operation's results.
pub type ResultTypes = SmallVec<[Type; 1]>;

/// The rule that gives the gradients of an operation's operands.
///
/// It adds operations to the graph and returns, for each operand, the gradient, or `None` where the
/// operand has none (integers, for example).
pub type AdjointRule = fn(&Operation, &mut Adjoint<'_>) -> Result<Vec<Option<ValueId>>, OpError>;

/// What an [`AdjointRule`] works on.
pub struct Adjoint<'a> {
    /// The graph that holds the operation and receives the gradient's operations.
    pub graph: &'a mut Graph,
    /// The operation's operands.
    pub operands: &'a [ValueId],
    /// The operation's results.
    pub results: &'a [ValueId],
    /// The gradients of the results.
    pub gradients: &'a [ValueId],
}

/// Everything known about an op, declared once.
pub struct OpDefinition {
    /// The op's identity.
    pub op: Op,
    /// What it computes, in Markdown; the first paragraph is a summary.
    pub doc: &'static str,
    /// The operands, in order.
    pub operands: &'static [OperandDefinition],
    /// The attributes, in the order of the text form.
    pub attributes: &'static [AttributeDefinition],
    /// Whether the result's type must be written, because operands and attributes do not give it.
    pub result_written: bool,
    /// Whether operations of this op hold a nested graph.
    pub has_region: bool,
    /// Checks operands and attributes and gives the types of the results.
    pub infer: fn(&Operation, &Inference<'_>) -> Result<ResultTypes, OpError>,
    /// Relates the shardings of operands and results; the types are the inferred ones.
    pub sharding: fn(&Operation, operands: &[&Type], results: &[&Type]) -> ShardingRule,
    /// The gradients of the operands, where the op has them.
    pub adjoint: Option<AdjointRule>,
    /// Computes the results in f64 or exactly; the caller rounds them to their storage.
    pub evaluate: fn(&Operation, &mut Evaluation<'_>) -> Result<Vec<Value>, EvaluationError>,
}

impl OpDefinition {
    /// The position and declaration of the attribute `name`.
    pub fn attribute(&self, name: &str) -> Option<(usize, &'static AttributeDefinition)> {
        self.attributes.iter().enumerate().find(|(_, attribute)| attribute.name == name)
    }

    /// The declaration of the operand at `index`, counting the operands of a variadic one.
    pub fn operand(&self, index: usize) -> Option<&'static OperandDefinition> {
        self.operands.get(index).or_else(|| self.operands.last().filter(|last| last.arity == Arity::Any))
    }

    /// The least number of operands, and the largest if there is one.
    pub fn operand_counts(&self) -> (usize, Option<usize>) {
        let least = self.operands.iter().filter(|operand| operand.arity == Arity::One).count();
        let is_bounded = self.operands.iter().all(|operand| operand.arity != Arity::Any);
        (least, is_bounded.then_some(self.operands.len()))
    }

    /// The first paragraph of the documentation, as one line.
    pub fn summary(&self) -> String {
        let lines = self.doc.trim().lines().map(str::trim);
        lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Debug for OpDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpDefinition").field("op", &self.op).finish_non_exhaustive()
    }
}

/// What the inference of an operation's result types sees. The operands have been counted and are of
/// the declared classes.
pub struct Inference<'a> {
    /// Types of the operands.
    pub operands: &'a [&'a Type],
    /// The result types that were written; none where they are left to inference.
    pub written: &'a [Type],
    /// The nested graph, for ops that have one.
    pub region: Option<&'a Graph>,
}

impl<'a> Inference<'a> {
    /// The type of the tensor operand `index`.
    pub fn tensor(&self, index: usize) -> Result<&'a TensorType, OpError> {
        self.operands
            .get(index)
            .and_then(|ty| ty.as_tensor())
            .ok_or_else(|| OpError::operand(index, "a tensor is needed here"))
    }

    /// The type of the optional tensor operand `index`, if it is there.
    pub fn optional_tensor(&self, index: usize) -> Result<Option<&'a TensorType>, OpError> {
        if index < self.operands.len() { self.tensor(index).map(Some) } else { Ok(None) }
    }

    /// The type of the cache operand `index`.
    pub fn cache(&self, index: usize) -> Result<&'a KvCacheType, OpError> {
        self.operands
            .get(index)
            .and_then(|ty| ty.as_cache())
            .ok_or_else(|| OpError::operand(index, "a KV cache is needed here"))
    }

    /// The type of the tensor operand `index`, which must have `rank` dimensions.
    pub fn tensor_of_rank(&self, index: usize, rank: usize) -> Result<&'a TensorType, OpError> {
        let tensor = self.tensor(index)?;
        if tensor.rank() != rank {
            let found = tensor.rank();
            return Err(OpError::operand(index, format!("rank {rank} is needed here; {tensor} has rank {found}")));
        }
        Ok(tensor)
    }

    /// The written type of the only result, which must be a tensor.
    pub fn written_tensor(&self) -> Result<&'a TensorType, OpError> {
        match self.written {
            [] => Err(OpError::operation("the result's type cannot be inferred")
                .help("write it after the operation, as in `… : tensor<4x8xf32>`")),
            [Type::Tensor(tensor)] => Ok(tensor),
            _ => Err(OpError::result(0, "the result is one tensor")),
        }
    }

    /// `inferred`, with the storage that is written if that is another float: ops that compute in
    /// f32 anyway can round to whichever storage is asked for.
    pub fn in_written_storage(&self, inferred: TensorType) -> TensorType {
        match self.written {
            [Type::Tensor(written)] if written.storage().is_float() && inferred.storage().is_float() => {
                inferred.with_policy(written.policy)
            }
            _ => inferred,
        }
    }
}

/// Wraps the type of an op's only result.
pub fn one_result(ty: impl Into<Type>) -> Result<ResultTypes, OpError> {
    Ok(smallvec::smallvec![ty.into()])
}

/// The part of an operation that an [`OpError`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// The whole operation.
    Operation,
    /// The operand at this index.
    Operand(usize),
    /// The attribute of this name.
    Attribute(&'static str),
    /// The result at this index.
    Result(usize),
}

/// An operation that breaks the rules of its op.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}{message}", .op.map(|op| format!("{op}: ")).unwrap_or_default())]
pub struct OpError {
    /// The op; filled in by the graph.
    pub op: Option<Op>,
    /// The part at fault.
    pub site: Site,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl OpError {
    fn new(site: Site, message: impl Into<String>) -> OpError {
        OpError { op: None, site, message: message.into(), help: None }
    }

    /// An error about the whole operation.
    pub fn operation(message: impl Into<String>) -> OpError {
        OpError::new(Site::Operation, message)
    }

    /// An error about the operand `index`.
    pub fn operand(index: usize, message: impl Into<String>) -> OpError {
        OpError::new(Site::Operand(index), message)
    }

    /// An error about the attribute `name`.
    pub fn attribute(name: &'static str, message: impl Into<String>) -> OpError {
        OpError::new(Site::Attribute(name), message)
    }

    /// An error about the result `index`.
    pub fn result(index: usize, message: impl Into<String>) -> OpError {
        OpError::new(Site::Result(index), message)
    }

    /// The error with advice.
    pub fn help(mut self, help: impl Into<String>) -> OpError {
        self.help = Some(help.into());
        self
    }

    /// The error as one of `op`, unless it already names an op of a nested graph.
    pub fn of(mut self, op: Op) -> OpError {
        self.op.get_or_insert(op);
        self
    }
}
