//! Rewrite rules as data: a pattern over operations, a condition, and what takes the place of the match.
//!
//! A rule reads as the equation it stands for:
//!
//! ```text
//! rule!("−(−x) = x": NEG(NEG(x)) => x)
//! rule!("transpose(transpose(x, p), q) = transpose(x, p∘q)":
//!     q @ TRANSPOSE(p @ TRANSPOSE(x)) => [|m| Some(ops::Transpose { … }.into())](x))
//! rule!("max(x, 0) = relu(x)": MAXIMUM(x, 0.0) if |m| m.is_float("x") => [ops::Relu {}](x))
//! ```
//!
//! In a pattern, a lower-case name stands for any value and, where it occurs twice, for the same value; a number stands for a `constant` whose
//! every element is that number, rounded to the constant's storage; `OP(…)` stands for an operation, and `name @ OP(…)` also names its result.
//! Operands of commutative ops match in both orders. In a replacement, brackets hold the attributes of the new operation, or a
//! function that makes the operation of the match and may give `None`, for no rewrite at all.
//!
//! A rewrite never changes the type of the value that it replaces: the replacement of the root is built with the type of the root, and where the
//! replacement is a value of the match with another type, the rule does not apply. Nor does a rewrite remove a rounding that somebody asked for:
//! a rule applies only if every operation of the match has a result at least as wide as the root's.

use smallvec::SmallVec;
use tessera_ir::{Graph, NodeId, Op, OpAttributes, Operation, Storage, TensorType, Type, ValueId, ops};

/// What a rule looks for.
#[derive(Debug)]
pub enum Pattern {
    /// Any value; the same one wherever the name occurs.
    Value(&'static str),
    /// A constant that is this number throughout.
    Number(f64),
    /// The only result of an operation.
    Operation {
        /// Name of the result; empty for none.
        name: &'static str,
        /// The op.
        op: Op,
        /// Patterns of the operands.
        operands: &'static [Pattern],
    },
}

/// What takes the place of a match.
pub enum Replacement {
    /// A value of the match.
    Value(&'static str),
    /// A new operation.
    Operation {
        /// The operation and, unless inference gives it, the type of the result. The root's is always that of the match.
        build: fn(&Match<'_>) -> Option<New>,
        /// Its operands.
        operands: &'static [Replacement],
    },
}

/// An operation to be added.
pub struct New {
    operation: Operation,
    written: Option<Type>,
}

impl New {
    /// An operation whose result has the type `written`.
    pub fn typed(attributes: impl OpAttributes, written: impl Into<Type>) -> New {
        New { operation: attributes.into(), written: Some(written.into()) }
    }
}

impl<A: OpAttributes> From<A> for New {
    fn from(attributes: A) -> Self {
        New { operation: attributes.into(), written: None }
    }
}

/// An equation that rewrites from left to right.
pub struct Rule {
    /// The equation, for people.
    pub equation: &'static str,
    /// The left-hand side.
    pub pattern: Pattern,
    /// What else must hold.
    pub condition: fn(&Match<'_>) -> bool,
    /// The right-hand side.
    pub replacement: Replacement,
}

/// Values that a pattern has bound.
type Bindings = SmallVec<[(&'static str, ValueId); 8]>;

/// A pattern found in a graph.
pub struct Match<'g> {
    graph: &'g Graph,
    root: ValueId,
    bindings: Bindings,
}

impl<'g> Match<'g> {
    /// The graph.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// The value that the pattern calls `name`.
    pub fn value(&self, name: &str) -> Option<ValueId> {
        self.bindings.iter().find(|(bound, _)| *bound == name).map(|(_, value)| *value)
    }

    /// The tensor type of the value `name`.
    pub fn tensor(&self, name: &str) -> Option<&'g TensorType> {
        self.graph.value_type(self.value(name)?).as_tensor()
    }

    /// The tensor type of the root.
    pub fn root(&self) -> Option<&'g TensorType> {
        self.graph.value_type(self.root).as_tensor()
    }

    /// The attributes of the operation that defines the value `name`.
    pub fn attributes<A: OpAttributes>(&self, name: &str) -> Option<A> {
        self.graph.defining(self.value(name)?)?.downcast()
    }

    /// The number that the value `name` is throughout.
    pub fn splat(&self, name: &str) -> Option<f64> {
        splat(self.graph, self.value(name)?)
    }

    /// Whether operand `index` of the root is the value `name`.
    pub fn operand_is(&self, index: usize, name: &str) -> bool {
        self.value(name).is_some_and(|value| self.graph.operands(self.root.node).get(index) == Some(&value))
    }

    /// Whether the value `name` is the result of an operation of `op`.
    pub fn is(&self, name: &str, op: Op) -> bool {
        let defining = self.value(name).and_then(|value| self.graph.defining(value));
        defining.is_some_and(|operation| operation.is(op))
    }

    /// Whether the value `name` has the type of the root.
    pub fn has_root_type(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| self.graph.value_type(value) == self.graph.value_type(self.root))
    }

    /// Whether the value `name` is a tensor of floats.
    pub fn is_float(&self, name: &str) -> bool {
        self.tensor(name).is_some_and(|tensor| tensor.storage().is_float())
    }

    /// Whether the value `name` is a tensor of integers.
    pub fn is_integer(&self, name: &str) -> bool {
        self.tensor(name).is_some_and(|tensor| tensor.storage().is_integer())
    }
}

/// The number that a value is throughout, if it is a constant of one number.
pub fn splat(graph: &Graph, value: ValueId) -> Option<f64> {
    let constant: ops::Constant = graph.defining(value)?.downcast()?;
    constant.value.splat()
}

/// Whether operands of `op` may change places.
pub fn is_commutative(op: Op) -> bool {
    [ops::ADD, ops::MUL, ops::MAXIMUM, ops::MINIMUM, ops::AND, ops::OR, ops::XOR].contains(&op)
}

/// Matches every pair of a pattern and a value; on success `bindings` holds the values of all names. `root` is the type of the whole.
fn match_all(graph: &Graph, root: &Type, pending: &[(&Pattern, ValueId)], bindings: &mut Bindings) -> bool {
    let Some(((pattern, value), rest)) = pending.split_first() else { return true };
    match pattern {
        Pattern::Value(name) => bind(name, *value, bindings) && match_all(graph, root, rest, bindings),
        Pattern::Number(number) => {
            let storage = graph.value_type(*value).as_tensor().map(TensorType::storage);
            let round = |number: f64| storage.unwrap_or(Storage::F64).round(number);
            splat(graph, *value).is_some_and(|found| round(found) == round(*number))
                && match_all(graph, root, rest, bindings)
        }
        Pattern::Operation { name, op, operands: patterns } => {
            let node = graph.node(value.node);
            let operands = graph.operands(value.node);
            let fits = node.operation().is_some_and(|operation| operation.is(*op))
                && node.results().len() == 1
                && operands.len() == patterns.len()
                && (name.is_empty() || bind(name, *value, bindings))
                && !narrows(graph.value_type(*value), root);
            if !fits {
                return false;
            }
            let bound = bindings.clone();
            let mut attempt = |operands: &[ValueId]| {
                bindings.clone_from(&bound);
                let mut pending: Vec<(&Pattern, ValueId)> = patterns.iter().zip(operands.iter().copied()).collect();
                pending.extend(rest);
                match_all(graph, root, &pending, bindings)
            };
            attempt(&operands) || (is_commutative(*op) && operands.len() == 2 && attempt(&[operands[1], operands[0]]))
        }
    }
}

/// Whether a value of type `inner` keeps less of a number than one of type `outer`, both floats or both integers.
fn narrows(inner: &Type, outer: &Type) -> bool {
    match (inner, outer) {
        (Type::Tensor(inner), Type::Tensor(outer)) => {
            let (inner, outer) = (inner.storage(), outer.storage());
            inner.is_float() == outer.is_float() && inner.is_integer() == outer.is_integer() && !holds(inner, outer)
        }
        _ => false,
    }
}

/// Whether every number of the storage `narrow` is also one of `wide`.
pub fn holds(wide: Storage, narrow: Storage) -> bool {
    let bits = |storage: Storage| match storage {
        Storage::F64 => Some((11, 52)),
        Storage::F32 => Some((8, 23)),
        _ => storage.minifloat().map(|format| (format.exponent_bits, format.mantissa_bits)),
    };
    if wide == narrow {
        return true;
    }
    match (bits(wide), bits(narrow), wide.integer_range(), narrow.integer_range()) {
        (Some(wide), Some(narrow), _, _) => wide.0 >= narrow.0 && wide.1 >= narrow.1,
        (_, _, Some(wide), Some(narrow)) => wide.0 <= narrow.0 && narrow.1 <= wide.1,
        _ => false,
    }
}

/// Binds a name, or checks that it is bound to this value.
fn bind(name: &'static str, value: ValueId, bindings: &mut Bindings) -> bool {
    match bindings.iter().find(|(bound, _)| *bound == name) {
        Some((_, bound)) => *bound == value,
        None => {
            bindings.push((name, value));
            true
        }
    }
}

impl Rule {
    /// The op of the pattern's root.
    pub fn root_op(&self) -> Option<Op> {
        match self.pattern {
            Pattern::Operation { op, .. } => Some(op),
            _ => None,
        }
    }

    /// Applies the rule at `root`: the value that now stands for the root's result, or `None` where the rule does not apply. Operations that
    /// were added in vain are left without users.
    pub fn apply(&self, graph: &mut Graph, root: NodeId) -> Option<ValueId> {
        let root = ValueId::first(root);
        let mut bindings = Bindings::new();
        if !match_all(graph, graph.value_type(root), &[(&self.pattern, root)], &mut bindings) {
            return None;
        }
        let found = Match { graph, root, bindings };
        if !(self.condition)(&found) {
            return None;
        }
        match &self.replacement {
            Replacement::Value(name) => found.has_root_type(name).then(|| found.value(name))?,
            Replacement::Operation { .. } => {
                let mut plan = Vec::new();
                let at = plan_replacement(&self.replacement, &found, &mut plan)?;
                let written = graph.value_type(root).clone();
                build(graph, plan, at, written)
            }
        }
    }
}

/// An operand in a plan: a value of the graph, or the result of a planned operation.
#[derive(Clone, Copy)]
enum Planned {
    Value(ValueId),
    Step(usize),
}

/// Makes all new operations while the match still borrows the graph.
fn plan_replacement(
    replacement: &Replacement,
    found: &Match<'_>,
    plan: &mut Vec<(New, Vec<Planned>)>,
) -> Option<Planned> {
    match replacement {
        Replacement::Value(name) => found.value(name).map(Planned::Value),
        Replacement::Operation { build, operands } => {
            let operands =
                operands.iter().map(|operand| plan_replacement(operand, found, plan)).collect::<Option<Vec<_>>>()?;
            plan.push((build(found)?, operands));
            Some(Planned::Step(plan.len() - 1))
        }
    }
}

/// Adds the planned operations; the one at `root` gets the type `written`.
fn build(graph: &mut Graph, plan: Vec<(New, Vec<Planned>)>, root: Planned, written: Type) -> Option<ValueId> {
    let last = plan.len().checked_sub(1)?;
    let mut built: Vec<ValueId> = Vec::with_capacity(plan.len());
    for (index, (new, operands)) in plan.into_iter().enumerate() {
        let operands: Vec<ValueId> = operands
            .into_iter()
            .map(|operand| match operand {
                Planned::Value(value) => value,
                Planned::Step(step) => built[step],
            })
            .collect();
        let written = if index == last { Some(written.clone()) } else { new.written };
        let node = graph.add(new.operation, &operands, written.as_slice()).ok()?;
        built.push(ValueId::first(node));
    }
    match root {
        Planned::Value(value) => Some(value),
        Planned::Step(step) => built.get(step).copied(),
    }
}

/// Declares a rule; see the documentation of the module.
macro_rules! rule {
    ($equation:literal: $name:ident @ $op:ident ($($operands:tt)*) $($rest:tt)*) => {
        $crate::graph::rewrite::rule!(@rest $equation, [$name @ $op ($($operands)*)], $($rest)*)
    };
    ($equation:literal: $op:ident ($($operands:tt)*) $($rest:tt)*) => {
        $crate::graph::rewrite::rule!(@rest $equation, [$op ($($operands)*)], $($rest)*)
    };
    (@rest $equation:literal, [$($pattern:tt)*], if $condition:expr => $($replacement:tt)*) => {
        $crate::graph::rewrite::Rule {
            equation: $equation,
            pattern: $crate::graph::rewrite::pattern!($($pattern)*),
            condition: $condition,
            replacement: $crate::graph::rewrite::replacement!($($replacement)*),
        }
    };
    (@rest $equation:literal, [$($pattern:tt)*], => $($replacement:tt)*) => {
        $crate::graph::rewrite::rule!(@rest $equation, [$($pattern)*], if |_| true => $($replacement)*)
    };
}
pub(super) use rule;

/// One pattern, or with `@list` the patterns of operands.
macro_rules! pattern {
    (@list [$($done:expr,)*]) => { &[$($done),*] };
    (@list [$($done:expr,)*] $name:ident @ $op:ident ($($operands:tt)*) $(, $($rest:tt)*)?) => {
        $crate::graph::rewrite::pattern!(@list
            [$($done,)* $crate::graph::rewrite::pattern!($name @ $op ($($operands)*)),] $($($rest)*)?)
    };
    (@list [$($done:expr,)*] $op:ident ($($operands:tt)*) $(, $($rest:tt)*)?) => {
        $crate::graph::rewrite::pattern!(@list
            [$($done,)* $crate::graph::rewrite::pattern!($op ($($operands)*)),] $($($rest)*)?)
    };
    (@list [$($done:expr,)*] $value:ident $(, $($rest:tt)*)?) => {
        $crate::graph::rewrite::pattern!(@list [$($done,)* $crate::graph::rewrite::pattern!($value),] $($($rest)*)?)
    };
    (@list [$($done:expr,)*] $number:literal $(, $($rest:tt)*)?) => {
        $crate::graph::rewrite::pattern!(@list [$($done,)* $crate::graph::rewrite::pattern!($number),] $($($rest)*)?)
    };
    ($name:ident @ $op:ident ($($operands:tt)*)) => {
        $crate::graph::rewrite::Pattern::Operation {
            name: stringify!($name),
            op: tessera_ir::ops::$op,
            operands: $crate::graph::rewrite::pattern!(@list [] $($operands)*),
        }
    };
    ($op:ident ($($operands:tt)*)) => {
        $crate::graph::rewrite::Pattern::Operation {
            name: "",
            op: tessera_ir::ops::$op,
            operands: $crate::graph::rewrite::pattern!(@list [] $($operands)*),
        }
    };
    ($value:ident) => { $crate::graph::rewrite::Pattern::Value(stringify!($value)) };
    ($number:literal) => { $crate::graph::rewrite::Pattern::Number($number) };
}
pub(super) use pattern;

/// One replacement, or with `@list` those of operands.
macro_rules! replacement {
    (@list [$($done:expr,)*]) => { &[$($done),*] };
    (@list [$($done:expr,)*] [$($build:tt)*] ($($operands:tt)*) $(, $($rest:tt)*)?) => {
        $crate::graph::rewrite::replacement!(@list
            [$($done,)* $crate::graph::rewrite::replacement!([$($build)*] ($($operands)*)),] $($($rest)*)?)
    };
    (@list [$($done:expr,)*] $value:ident $(, $($rest:tt)*)?) => {
        $crate::graph::rewrite::replacement!(@list
            [$($done,)* $crate::graph::rewrite::replacement!($value),] $($($rest)*)?)
    };
    ($value:ident) => { $crate::graph::rewrite::Replacement::Value(stringify!($value)) };
    ([|$found:ident| $build:expr] ($($operands:tt)*)) => {
        $crate::graph::rewrite::Replacement::Operation {
            build: |$found| $build,
            operands: $crate::graph::rewrite::replacement!(@list [] $($operands)*),
        }
    };
    ([$attributes:expr] ($($operands:tt)*)) => {
        $crate::graph::rewrite::Replacement::Operation {
            build: |_| Some($crate::graph::rewrite::New::from($attributes)),
            operands: $crate::graph::rewrite::replacement!(@list [] $($operands)*),
        }
    };
}
pub(super) use replacement;
