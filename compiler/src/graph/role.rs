//! What each op can be in a kernel.

use tessera_ir::{Graph, NodeId, Op, ops};

/// What an operation can be in a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Each element of the result from elements at one place of the operands.
    Elementwise {
        /// Whether it costs so little that computing it again is cheaper than storing it.
        light: bool,
    },
    /// Rotates pairs of elements of a row: elementwise, but for looking at the partner.
    Rope,
    /// Writes rows into a KV cache.
    Append,
    /// Rows picked by an index from memory.
    Lookup,
    /// Rearranges elements or repeats them; costs nothing where it is read.
    View,
    /// A number throughout, or a count: costs nothing.
    Source,
    /// Normalizes rows.
    Norm,
    /// Combines the elements along some dimensions.
    Reduction,
    /// A matrix product.
    Matmul,
    /// A product of each row with a matrix of its own.
    Grouped,
    /// Attention.
    Attention,
    /// Stands alone.
    Alone,
}

/// The ops with their roles. Those not listed stand alone.
const ROLES: &[(Role, &[Op])] = &[
    (
        Role::Elementwise { light: true },
        &[
            ops::NEG,
            ops::ABS,
            ops::RELU,
            ops::NOT,
            ops::CAST,
            ops::ADD,
            ops::SUB,
            ops::MUL,
            ops::MAXIMUM,
            ops::MINIMUM,
            ops::AND,
            ops::OR,
            ops::XOR,
            ops::COMPARE,
            ops::SELECT,
            ops::DEQUANTIZE,
        ],
    ),
    (
        Role::Elementwise { light: false },
        &[
            ops::EXP,
            ops::LOG,
            ops::SQRT,
            ops::RSQRT,
            ops::SIN,
            ops::COS,
            ops::TANH,
            ops::ERF,
            ops::SIGMOID,
            ops::GELU,
            ops::SILU,
            ops::DIV,
            ops::POWER,
            ops::REMAINDER,
            ops::SWIGLU,
            ops::COMBINE,
        ],
    ),
    (Role::Rope, &[ops::ROPE]),
    (Role::Append, &[ops::KV_APPEND]),
    (Role::Lookup, &[ops::EMBEDDING, ops::GATHER]),
    (Role::View, &[ops::BROADCAST, ops::RESHAPE, ops::TRANSPOSE, ops::SLICE]),
    (Role::Source, &[ops::IOTA]),
    (Role::Norm, &[ops::LAYER_NORM, ops::RMS_NORM]),
    (Role::Reduction, &[ops::REDUCE_SUM, ops::REDUCE_MAX, ops::REDUCE_MIN, ops::REDUCE_MEAN, ops::SOFTMAX]),
    (Role::Matmul, &[ops::MATMUL]),
    (Role::Grouped, &[ops::GROUPED_MATMUL]),
    (Role::Attention, &[ops::ATTENTION, ops::PAGED_ATTENTION]),
];

/// The role of a node; `None` for inputs and parameters.
pub fn role(graph: &Graph, node: NodeId) -> Option<Role> {
    let operation = graph.operation(node)?;
    if let Some(constant) = operation.downcast::<ops::Constant>() {
        // A list of numbers lies in memory like a parameter.
        return (constant.value.len() == 1).then_some(Role::Source);
    }
    let listed = ROLES.iter().find(|(_, ops)| ops.contains(&operation.op()));
    Some(listed.map_or(Role::Alone, |(role, _)| *role))
}
