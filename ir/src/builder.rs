//! Building graphs by typed methods, one for each op; the op declarations generate them.

use crate::definition::OpError;
use crate::graph::{Graph, ValueId};
use crate::name::Name;
use crate::operation::Operation;
use crate::types::Type;

/// Appends operations to a graph.
///
/// ```
/// use tessera_ir::{Graph, Storage, TensorType, ops, shape};
///
/// let mut graph = Graph::new();
/// let x = graph.input("x", TensorType::new(shape!["T", 192], Storage::F32));
/// let w = graph.parameter("w", TensorType::new(shape![192, 768], Storage::F32));
/// let mut build = graph.builder();
/// let y = build.matmul(x, w, ops::Matmul::default())?;
/// let y = build.gelu(y, ops::Gelu { approximate: ops::Approximation::Tanh })?;
/// graph.set_outputs([y]);
/// assert_eq!(graph.value_type(y).to_string(), "tensor<Tx768xf32>");
/// # Ok::<(), tessera_ir::OpError>(())
/// ```
pub struct Builder<'a> {
    graph: &'a mut Graph,
    written: Option<Type>,
}

impl<'a> Builder<'a> {
    /// A builder that appends to `graph`.
    pub fn new(graph: &'a mut Graph) -> Self {
        Builder { graph, written: None }
    }

    /// The graph being built.
    pub fn graph(&mut self) -> &mut Graph {
        self.graph
    }

    /// States the result type of the next operation, where it is not the one that inference would
    /// choose: another float storage, a sharding, an accumulator.
    pub fn returning(&mut self, result: impl Into<Type>) -> &mut Self {
        self.written = Some(result.into());
        self
    }

    /// Appends an operation that has one result.
    ///
    /// # Errors
    /// The operands do not fit the op, or it does not have exactly one result.
    pub fn append(&mut self, operation: impl Into<Operation>, operands: &[ValueId]) -> Result<ValueId, OpError> {
        let written = self.written.take();
        let operation = operation.into();
        let op = operation.op();
        let node = self.graph.add(operation, operands, written.as_slice())?;
        match self.graph.node(node).results() {
            [_] => Ok(ValueId::first(node)),
            _ => {
                let message = "the operation has several results; add it with `Graph::add`";
                Err(OpError::operation(message).of(op))
            }
        }
    }

    /// Names a value for the text form.
    pub fn name(&mut self, value: ValueId, name: impl Into<Name>) -> ValueId {
        self.graph.set_name(value, name);
        value
    }
}

/// One operand, an optional one, or the operands of a variadic one.
#[doc(hidden)]
pub trait Operands {
    /// Appends the operands to a list.
    fn append_to(&self, list: &mut Vec<ValueId>);
}

impl Operands for ValueId {
    fn append_to(&self, list: &mut Vec<ValueId>) {
        list.push(*self);
    }
}

impl Operands for Option<ValueId> {
    fn append_to(&self, list: &mut Vec<ValueId>) {
        list.extend(self);
    }
}

impl Operands for &[ValueId] {
    fn append_to(&self, list: &mut Vec<ValueId>) {
        list.extend_from_slice(self);
    }
}

/// Concatenates operands.
pub(crate) fn operand_list(operands: &[&dyn Operands]) -> Vec<ValueId> {
    let mut list = Vec::new();
    for operand in operands {
        operand.append_to(&mut list);
    }
    list
}
