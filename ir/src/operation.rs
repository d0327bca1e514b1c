//! Operations: an op together with its attributes and, for some ops, a nested graph.

use smallvec::SmallVec;

use crate::attribute::Attribute;
use crate::definition::{Op, OpDefinition, OpError};
use crate::graph::Graph;

/// An op with values for its attributes.
#[derive(Clone, Debug)]
pub struct Operation {
    definition: &'static OpDefinition,
    /// One for each declared attribute; `None` for an optional one that is absent.
    attributes: SmallVec<[Option<Attribute>; 2]>,
    region: Option<Box<Graph>>,
}

/// The typed form of an op's attributes: one struct for each op.
pub trait OpAttributes: Sized {
    /// The op's declaration.
    const DEFINITION: &'static OpDefinition;
    /// The attributes in the order of the declaration.
    fn to_attributes(&self) -> SmallVec<[Option<Attribute>; 2]>;
    /// The typed form of attributes in the order of the declaration.
    fn from_attributes(attributes: &[Option<Attribute>]) -> Option<Self>;
}

impl Operation {
    /// An operation of `definition` with these attributes by name; defaults fill in for the rest.
    ///
    /// # Errors
    /// An attribute is unknown, of the wrong kind, or missing.
    pub fn from_named_attributes(
        definition: &'static OpDefinition,
        named: impl IntoIterator<Item = (impl AsRef<str>, Attribute)>,
    ) -> Result<Operation, OpError> {
        let mut attributes: SmallVec<[Option<Attribute>; 2]> = smallvec::smallvec![None; definition.attributes.len()];
        for (name, attribute) in named {
            let name = name.as_ref();
            let Some((index, declared)) = definition.attribute(name) else {
                return Err(OpError::operation(format!("there is no attribute `{name}`")).of(definition.op));
            };
            if !declared.kind.admits(&attribute) {
                let message = format!("`{name}` must be {}", declared.kind);
                return Err(OpError::attribute(declared.name, message).of(definition.op));
            }
            attributes[index] = Some(attribute);
        }
        for (slot, declared) in attributes.iter_mut().zip(definition.attributes) {
            if slot.is_none() {
                if let Some(default) = declared.default {
                    *slot = default();
                } else if !declared.optional {
                    let message = format!("attribute `{}` is missing", declared.name);
                    return Err(OpError::operation(message)
                        .help(format!("{} is {}", declared.name, declared.kind))
                        .of(definition.op));
                }
            }
        }
        Ok(Operation { definition, attributes, region: None })
    }

    /// The op.
    pub fn op(&self) -> Op {
        self.definition.op
    }

    /// Whether this is an operation of `op`.
    pub fn is(&self, op: Op) -> bool {
        self.op() == op
    }

    /// The op's declaration.
    pub fn definition(&self) -> &'static OpDefinition {
        self.definition
    }

    /// The typed attributes, if this is an operation of the op they belong to.
    pub fn downcast<A: OpAttributes>(&self) -> Option<A> {
        if self.op() == A::DEFINITION.op { A::from_attributes(&self.attributes) } else { None }
    }

    /// The attribute `name`; `None` if there is none or it is absent.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        let (index, _) = self.definition.attribute(name)?;
        self.attributes[index].as_ref()
    }

    /// Names and values of the attributes that are present, in the order of the declaration.
    pub fn attributes(&self) -> impl Iterator<Item = (&'static str, &Attribute)> {
        self.definition
            .attributes
            .iter()
            .zip(&self.attributes)
            .filter_map(|(declared, value)| Some((declared.name, value.as_ref()?)))
    }

    /// As [`attributes`](Self::attributes), less those that have their default.
    pub fn written_attributes(&self) -> impl Iterator<Item = (&'static str, &Attribute)> {
        self.attributes().filter(|(name, value)| {
            let default = self.definition.attribute(name).and_then(|(_, declared)| declared.default);
            default.and_then(|default| default()).as_ref() != Some(*value)
        })
    }

    /// The nested graph.
    pub fn region(&self) -> Option<&Graph> {
        self.region.as_deref()
    }

    /// The nested graph, for changing it.
    pub fn region_mut(&mut self) -> Option<&mut Graph> {
        self.region.as_deref_mut()
    }

    /// The operation with `region` as its nested graph.
    pub fn with_region(mut self, region: Graph) -> Operation {
        self.region = Some(Box::new(region));
        self
    }

    /// Whether op and attributes are equal; nested graphs count as different.
    pub fn is_same_computation(&self, other: &Operation) -> bool {
        self.op() == other.op()
            && self.attributes == other.attributes
            && self.region.is_none()
            && other.region.is_none()
    }
}

impl<A: OpAttributes> From<A> for Operation {
    fn from(attributes: A) -> Self {
        Operation { definition: A::DEFINITION, attributes: attributes.to_attributes(), region: None }
    }
}

impl PartialEq for Operation {
    fn eq(&self, other: &Self) -> bool {
        self.op() == other.op() && self.attributes == other.attributes && self.region == other.region
    }
}

/// Declares an op: its typed attributes, its [`OpDefinition`], its name as a constant, and its
/// method of [`Builder`](crate::builder::Builder).
///
/// ```text
/// operation! {
///     /// What it computes.
///     CONSTANT_NAME = text_name(
///         /// What the operand is.
///         operand: Class,           // last also `operand: [Class?]`, one or none, or `operand: [Class]`, any number
///     ) -> result, Attributes {     // `-> result` where the result's type must be written
///         /// What the attribute means.
///         attribute: Type = default,
///     }
///     infer: …, sharding: …, adjoint: …, evaluate: …,
/// }
/// ```
///
/// `infer` is a `fn(&Attributes, &Inference) -> Result<ResultTypes, OpError>`, `sharding` a
/// `fn(&Attributes, &[&Type], &[&Type]) -> ShardingRule`, `adjoint` (which may be left out) a
/// `fn(&Attributes, &mut Adjoint) -> Result<Vec<Option<ValueId>>, OpError>`, and `evaluate` a
/// `fn(&Attributes, &mut Evaluation) -> Result<Vec<Value>, EvaluationError>`.
macro_rules! operation {
    (
        $(#[doc = $doc:literal])*
        $CONSTANT:ident = $name:ident (
            $( $(#[doc = $operand_doc:literal])* $operand:ident : $class:tt ),* $(,)?
        ) $( -> $written:ident )?, $Attributes:ident {
            $( $(#[doc = $attribute_doc:literal])* $attribute:ident : $type:ty $(= $default:expr)? ),* $(,)?
        }
        $( region: $region:ident, )?
        infer: $infer:expr,
        sharding: $sharding:expr,
        $( adjoint: $adjoint:expr, )?
        evaluate: $evaluate:expr $(,)?
    ) => {
        #[doc = concat!("The op `", stringify!($name), "`; its attributes are [`", stringify!($Attributes), "`].")]
        pub const $CONSTANT: $crate::definition::Op = $crate::definition::Op(stringify!($name));

        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $Attributes {
            $( $(#[doc = $attribute_doc])* pub $attribute: $type, )*
        }

        $crate::operation::operation!(@default $Attributes { $( $attribute $(= $default)? ),* });

        impl $crate::operation::OpAttributes for $Attributes {
            const DEFINITION: &'static $crate::definition::OpDefinition =
                &$crate::definition::OpDefinition {
                    op: $CONSTANT,
                    doc: concat!($($doc, "\n"),*),
                    operands: &[$(
                        $crate::definition::OperandDefinition {
                            name: stringify!($operand),
                            doc: concat!($($operand_doc),*),
                            class: $crate::operation::operation!(@class $class),
                            arity: $crate::operation::operation!(@arity $class),
                        },
                    )*],
                    attributes: &[$(
                        $crate::definition::AttributeDefinition {
                            name: stringify!($attribute),
                            doc: concat!($($attribute_doc),*),
                            kind: <$type as $crate::attribute::AttributeValue>::KIND,
                            default: $crate::operation::operation!(@default_attribute $type $(, $default)?),
                            optional: <$type as $crate::attribute::AttributeValue>::OPTIONAL,
                        },
                    )*],
                    result_written: $crate::operation::operation!(@flag $(result $written)?),
                    has_region: $crate::operation::operation!(@flag $(region $region)?),
                    infer: |operation, inference| {
                        const RULE: fn(
                            &$Attributes,
                            &$crate::definition::Inference<'_>,
                        ) -> Result<$crate::definition::ResultTypes, $crate::definition::OpError> = $infer;
                        match operation.downcast::<$Attributes>() {
                            Some(attributes) => RULE(&attributes, inference),
                            None => Err($crate::definition::OpError::operation("an attribute is out of range")),
                        }
                    },
                    sharding: |operation, operands, results| {
                        const RULE: fn(
                            &$Attributes,
                            &[&$crate::types::Type],
                            &[&$crate::types::Type],
                        ) -> $crate::sharding::ShardingRule = $sharding;
                        match operation.downcast::<$Attributes>() {
                            Some(attributes) => RULE(&attributes, operands, results),
                            None => $crate::sharding::ShardingRule::new(),
                        }
                    },
                    adjoint: $crate::operation::operation!(@adjoint $Attributes $($adjoint)?),
                    evaluate: |operation, evaluation| {
                        const RULE: fn(
                            &$Attributes,
                            &mut $crate::evaluate::Evaluation<'_>,
                        ) -> Result<Vec<$crate::evaluate::Value>, $crate::evaluate::EvaluationError> = $evaluate;
                        match operation.downcast::<$Attributes>() {
                            Some(attributes) => RULE(&attributes, evaluation),
                            None => Err($crate::evaluate::EvaluationError::operation("an attribute is out of range")),
                        }
                    },
                };

            fn to_attributes(&self) -> smallvec::SmallVec<[Option<$crate::attribute::Attribute>; 2]> {
                smallvec::smallvec![$( $crate::attribute::AttributeValue::to_attribute(&self.$attribute) ),*]
            }

            #[allow(unused_variables, unused_mut, reason = "ops without attributes read none")]
            fn from_attributes(attributes: &[Option<$crate::attribute::Attribute>]) -> Option<Self> {
                let mut attributes = attributes.iter();
                Some($Attributes {
                    $( $attribute: $crate::attribute::AttributeValue::from_attribute(attributes.next()?.as_ref())?, )*
                })
            }
        }

        $crate::operation::operation!(@builder
            [$(#[doc = $doc])*] $name $Attributes [$($attribute)*] [$( $operand: $class, )*] [$($written)?] [$($region)?]
        );
    };

    (@default $Attributes:ident { $( $attribute:ident = $default:expr ),* }) => {
        #[allow(clippy::derivable_impls, reason = "the declaration states the defaults")]
        impl Default for $Attributes {
            fn default() -> Self {
                $Attributes { $( $attribute: $default ),* }
            }
        }
    };
    (@default $Attributes:ident { $($rest:tt)* }) => {};

    (@default_attribute $type:ty) => { None };
    (@default_attribute $type:ty, $default:expr) => {
        Some(|| {
            let default: $type = $default;
            $crate::attribute::AttributeValue::to_attribute(&default)
        })
    };

    (@flag) => { false };
    (@flag result result) => { true };
    (@flag region true) => { true };

    (@class [$class:ident ?]) => { $crate::definition::OperandClass::$class };
    (@class [$class:ident]) => { $crate::definition::OperandClass::$class };
    (@class $class:ident) => { $crate::definition::OperandClass::$class };
    (@arity [$class:ident ?]) => { $crate::definition::Arity::Optional };
    (@arity [$class:ident]) => { $crate::definition::Arity::Any };
    (@arity $class:ident) => { $crate::definition::Arity::One };
    (@operand [$class:ident ?]) => { Option<$crate::graph::ValueId> };
    (@operand [$class:ident]) => { &[$crate::graph::ValueId] };
    (@operand $class:ident) => { $crate::graph::ValueId };

    (@adjoint $Attributes:ident) => { None };
    (@adjoint $Attributes:ident $adjoint:expr) => {
        Some(|operation, context| {
            const RULE: fn(
                &$Attributes,
                &mut $crate::definition::Adjoint<'_>,
            ) -> Result<Vec<Option<$crate::graph::ValueId>>, $crate::definition::OpError> = $adjoint;
            match operation.downcast::<$Attributes>() {
                Some(attributes) => RULE(&attributes, context),
                None => Err($crate::definition::OpError::operation("an attribute is out of range")),
            }
        })
    };

    // Ops with a region are built through `Graph::add`, with the region in the operation.
    (@builder [$($doc:tt)*] $name:ident $Attributes:ident [$($attribute:ident)*] [$($operands:tt)*] [$($written:ident)?] [true]) => {};
    (@builder [$($doc:tt)*] $name:ident $Attributes:ident [] [$( $operand:ident: $class:tt, )*] [$($written:ident)?] []) => {
        impl $crate::builder::Builder<'_> {
            $($doc)*
            #[allow(clippy::too_many_arguments, reason = "one for each operand")]
            pub fn $name(
                &mut self,
                $( $operand: $crate::operation::operation!(@operand $class), )*
                $( $written: impl Into<$crate::types::Type>, )?
            ) -> Result<$crate::graph::ValueId, $crate::definition::OpError> {
                $( self.returning($written); )?
                let operands = $crate::builder::operand_list(&[$( &$operand as &dyn $crate::builder::Operands ),*]);
                self.append($Attributes {}, &operands)
            }
        }
    };
    (@builder [$($doc:tt)*] $name:ident $Attributes:ident [$($attribute:ident)+] [$( $operand:ident: $class:tt, )*] [$($written:ident)?] []) => {
        impl $crate::builder::Builder<'_> {
            $($doc)*
            #[allow(clippy::too_many_arguments, reason = "one for each operand")]
            pub fn $name(
                &mut self,
                $( $operand: $crate::operation::operation!(@operand $class), )*
                attributes: $Attributes,
                $( $written: impl Into<$crate::types::Type>, )?
            ) -> Result<$crate::graph::ValueId, $crate::definition::OpError> {
                $( self.returning($written); )?
                let operands = $crate::builder::operand_list(&[$( &$operand as &dyn $crate::builder::Operands ),*]);
                self.append(attributes, &operands)
            }
        }
    };
}
pub(crate) use operation;
