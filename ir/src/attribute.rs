//! Attributes of operations: the compile-time values written between braces.
//!
//! An op declares its attributes as fields of Rust types; [`AttributeValue`] is the bridge between
//! those and the uniform [`Attribute`] that parser, printer and serde form handle.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::storage::Storage;
use crate::types::Dim;

/// The elements of a `constant`: one element stands for all, otherwise all are listed, row-major.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConstantValue {
    /// Floating-point elements.
    #[serde(with = "exact_floats")]
    Float(Arc<Vec<f64>>),
    /// Integer elements.
    #[serde(with = "shared")]
    Integer(Arc<Vec<i64>>),
    /// Truth values.
    #[serde(with = "shared")]
    Boolean(Arc<Vec<bool>>),
}

impl ConstantValue {
    /// Number of elements listed.
    pub fn len(&self) -> usize {
        match self {
            ConstantValue::Float(elements) => elements.len(),
            ConstantValue::Integer(elements) => elements.len(),
            ConstantValue::Boolean(elements) => elements.len(),
        }
    }

    /// Whether no element is listed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one number that fills the tensor, if the constant is such and numeric.
    pub fn splat(&self) -> Option<f64> {
        match self {
            ConstantValue::Float(elements) if elements.len() == 1 => Some(elements[0]),
            ConstantValue::Integer(elements) if elements.len() == 1 => Some(elements[0] as f64),
            _ => None,
        }
    }
}

impl From<f64> for ConstantValue {
    fn from(element: f64) -> Self {
        ConstantValue::Float(Arc::new(vec![element]))
    }
}

impl From<i64> for ConstantValue {
    fn from(element: i64) -> Self {
        ConstantValue::Integer(Arc::new(vec![element]))
    }
}

impl From<bool> for ConstantValue {
    fn from(element: bool) -> Self {
        ConstantValue::Boolean(Arc::new(vec![element]))
    }
}

impl From<Vec<f64>> for ConstantValue {
    fn from(elements: Vec<f64>) -> Self {
        ConstantValue::Float(Arc::new(elements))
    }
}

impl From<Vec<i64>> for ConstantValue {
    fn from(elements: Vec<i64>) -> Self {
        ConstantValue::Integer(Arc::new(elements))
    }
}

impl PartialEq for ConstantValue {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (ConstantValue::Float(left), ConstantValue::Float(right)) => {
                left.len() == right.len() && left.iter().zip(right.iter()).all(|(l, r)| l.to_bits() == r.to_bits())
            }
            (ConstantValue::Integer(left), ConstantValue::Integer(right)) => left == right,
            (ConstantValue::Boolean(left), ConstantValue::Boolean(right)) => left == right,
            _ => false,
        }
    }
}

impl Eq for ConstantValue {}

impl Hash for ConstantValue {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            ConstantValue::Float(elements) => {
                elements.iter().for_each(|element| element.to_bits().hash(state));
            }
            ConstantValue::Integer(elements) => elements.hash(state),
            ConstantValue::Boolean(elements) => elements.hash(state),
        }
    }
}

mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer, T: Serialize>(elements: &Arc<Vec<T>>, serializer: S) -> Result<S::Ok, S::Error> {
        elements.as_slice().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
        deserializer: D,
    ) -> Result<Arc<Vec<T>>, D::Error> {
        Vec::deserialize(deserializer).map(Arc::new)
    }
}

/// Floats as numbers where JSON has them, as text (`"inf"`, `"-inf"`, `"nan"`) where it has not.
mod exact_floats {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::float_form::FloatForm;

    pub fn serialize<S: Serializer>(elements: &Arc<Vec<f64>>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(elements.iter().map(|element| FloatForm(*element)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Vec<f64>>, D::Error> {
        let elements: Vec<FloatForm> = Vec::deserialize(deserializer)?;
        Ok(Arc::new(elements.into_iter().map(|element| element.0).collect()))
    }
}

mod float_form {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub struct FloatForm(pub f64);

    impl Serialize for FloatForm {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            if self.0.is_finite() {
                serializer.serialize_f64(self.0)
            } else {
                serializer.serialize_str(&super::float_text(self.0))
            }
        }
    }

    impl<'de> Deserialize<'de> for FloatForm {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            #[derive(Deserialize)]
            #[serde(untagged)]
            enum Form {
                Number(f64),
                Text(String),
            }
            match Form::deserialize(deserializer)? {
                Form::Number(number) => Ok(FloatForm(number)),
                Form::Text(text) => text.parse().map(FloatForm).map_err(serde::de::Error::custom),
            }
        }
    }

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        FloatForm(*value).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        FloatForm::deserialize(deserializer).map(|form| form.0)
    }
}

/// The shortest text that reads back as `value`, always recognizable as a float.
pub(crate) fn float_text(value: f64) -> String {
    if value.is_nan() { "nan".to_owned() } else { format!("{value:?}") }
}

/// The value of an attribute.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attribute {
    /// A truth value.
    Bool(bool),
    /// A number that counts or indexes.
    Natural(u64),
    /// A real number.
    #[serde(with = "float_form")]
    Float(f64),
    /// One of the keywords that the attribute's kind lists.
    Keyword(Name),
    /// Free text.
    Text(Name),
    /// An element format.
    Storage(Storage),
    /// Several counts or indices.
    Naturals(Vec<u64>),
    /// Extents, each a number or a symbol.
    Dims(Vec<Dim>),
    /// Elements of a tensor.
    Constant(ConstantValue),
}

impl PartialEq for Attribute {
    /// Floats are equal when their bits are: common subexpressions must not merge `0.0` and `-0.0`.
    fn eq(&self, other: &Self) -> bool {
        use Attribute::*;
        match (self, other) {
            (Bool(left), Bool(right)) => left == right,
            (Natural(left), Natural(right)) => left == right,
            (Float(left), Float(right)) => left.to_bits() == right.to_bits(),
            (Keyword(left), Keyword(right)) | (Text(left), Text(right)) => left == right,
            (Storage(left), Storage(right)) => left == right,
            (Naturals(left), Naturals(right)) => left == right,
            (Dims(left), Dims(right)) => left == right,
            (Constant(left), Constant(right)) => left == right,
            _ => false,
        }
    }
}

impl Eq for Attribute {}

impl Hash for Attribute {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Attribute::Bool(value) => value.hash(state),
            Attribute::Natural(value) => value.hash(state),
            Attribute::Float(value) => value.to_bits().hash(state),
            Attribute::Keyword(value) | Attribute::Text(value) => value.hash(state),
            Attribute::Storage(value) => value.hash(state),
            Attribute::Naturals(values) => values.hash(state),
            Attribute::Dims(values) => values.hash(state),
            Attribute::Constant(value) => value.hash(state),
        }
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T>(f: &mut fmt::Formatter<'_>, items: &[T], text: impl Fn(&T) -> String) -> fmt::Result {
            write!(f, "[{}]", items.iter().map(text).collect::<Vec<_>>().join(", "))
        }
        match self {
            Attribute::Bool(value) => value.fmt(f),
            Attribute::Natural(value) => value.fmt(f),
            Attribute::Float(value) => f.write_str(&float_text(*value)),
            Attribute::Keyword(value) => value.fmt(f),
            Attribute::Text(value) => f.write_str(&crate::text::quote(value)),
            Attribute::Storage(value) => value.fmt(f),
            Attribute::Naturals(values) => list(f, values, u64::to_string),
            Attribute::Dims(values) => list(f, values, Dim::to_string),
            Attribute::Constant(ConstantValue::Float(values)) => match values.as_slice() {
                [value] => f.write_str(&float_text(*value)),
                values => list(f, values, |value| float_text(*value)),
            },
            Attribute::Constant(ConstantValue::Integer(values)) => match values.as_slice() {
                [value] => value.fmt(f),
                values => list(f, values, i64::to_string),
            },
            Attribute::Constant(ConstantValue::Boolean(values)) => match values.as_slice() {
                [value] => value.fmt(f),
                values => list(f, values, bool::to_string),
            },
        }
    }
}

/// What an attribute may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttributeKind {
    /// `true` or `false`.
    Bool,
    /// A number that counts or indexes.
    Natural,
    /// A real number.
    Float,
    /// One of these keywords.
    Keyword(&'static [&'static str]),
    /// Quoted text.
    Text,
    /// An element format.
    Storage,
    /// A list of numbers that count or index.
    Naturals,
    /// A list of extents.
    Dims,
    /// A number or truth value, or a list of them.
    Constant,
}

impl AttributeKind {
    /// Whether `attribute` is of this kind.
    pub fn admits(self, attribute: &Attribute) -> bool {
        match (self, attribute) {
            (AttributeKind::Keyword(keywords), Attribute::Keyword(keyword)) => keywords.contains(&keyword.as_str()),
            (AttributeKind::Bool, Attribute::Bool(_))
            | (AttributeKind::Natural, Attribute::Natural(_))
            | (AttributeKind::Float, Attribute::Float(_))
            | (AttributeKind::Text, Attribute::Text(_))
            | (AttributeKind::Storage, Attribute::Storage(_))
            | (AttributeKind::Naturals, Attribute::Naturals(_))
            | (AttributeKind::Dims, Attribute::Dims(_))
            | (AttributeKind::Constant, Attribute::Constant(_)) => true,
            _ => false,
        }
    }
}

impl fmt::Display for AttributeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttributeKind::Bool => f.write_str("true or false"),
            AttributeKind::Natural => f.write_str("a natural number"),
            AttributeKind::Float => f.write_str("a real number"),
            AttributeKind::Keyword(keywords) => f.write_str(&keywords.join(" or ")),
            AttributeKind::Text => f.write_str("quoted text"),
            AttributeKind::Storage => f.write_str("an element type"),
            AttributeKind::Naturals => f.write_str("a list of natural numbers"),
            AttributeKind::Dims => f.write_str("a list of extents"),
            AttributeKind::Constant => f.write_str("a number, a truth value, or a list of them"),
        }
    }
}

/// A Rust type that an op can have as the type of an attribute.
pub trait AttributeValue: Sized {
    /// What such an attribute may hold.
    const KIND: AttributeKind;
    /// Whether the attribute may be absent with no default.
    const OPTIONAL: bool = false;
    /// The uniform form; `None` stands for an absent optional attribute.
    fn to_attribute(&self) -> Option<Attribute>;
    /// The typed form, if the attribute is of the right kind and in range.
    fn from_attribute(attribute: Option<&Attribute>) -> Option<Self>;
}

/// Implements [`AttributeValue`] for a type that one variant of [`Attribute`] holds.
macro_rules! attribute_value {
    ($($type:ty => $variant:ident),* $(,)?) => {$(
        impl AttributeValue for $type {
            const KIND: AttributeKind = AttributeKind::$variant;
            fn to_attribute(&self) -> Option<Attribute> {
                Some(Attribute::$variant(self.clone()))
            }
            fn from_attribute(attribute: Option<&Attribute>) -> Option<Self> {
                match attribute {
                    Some(Attribute::$variant(value)) => Some(value.clone()),
                    _ => None,
                }
            }
        }
    )*};
}

attribute_value! {
    bool => Bool,
    u64 => Natural,
    f64 => Float,
    Name => Text,
    Storage => Storage,
    Vec<u64> => Naturals,
    Vec<Dim> => Dims,
    ConstantValue => Constant,
}

impl AttributeValue for usize {
    const KIND: AttributeKind = AttributeKind::Natural;
    fn to_attribute(&self) -> Option<Attribute> {
        Some(Attribute::Natural(*self as u64))
    }
    fn from_attribute(attribute: Option<&Attribute>) -> Option<Self> {
        u64::from_attribute(attribute).and_then(|value| value.try_into().ok())
    }
}

impl AttributeValue for Vec<usize> {
    const KIND: AttributeKind = AttributeKind::Naturals;
    fn to_attribute(&self) -> Option<Attribute> {
        Some(Attribute::Naturals(self.iter().map(|value| *value as u64).collect()))
    }
    fn from_attribute(attribute: Option<&Attribute>) -> Option<Self> {
        let values = Vec::<u64>::from_attribute(attribute)?;
        values.into_iter().map(|value| value.try_into().ok()).collect()
    }
}

impl<T: AttributeValue> AttributeValue for Option<T> {
    const KIND: AttributeKind = T::KIND;
    const OPTIONAL: bool = true;
    fn to_attribute(&self) -> Option<Attribute> {
        self.as_ref().and_then(T::to_attribute)
    }
    fn from_attribute(attribute: Option<&Attribute>) -> Option<Self> {
        match attribute {
            None => Some(None),
            Some(_) => T::from_attribute(attribute).map(Some),
        }
    }
}

/// Declares an enum whose variants are the keywords of an attribute.
macro_rules! keyword {
    (
        $(#[$meta:meta])*
        $type:ident { $( $(#[$variant_meta:meta])* $variant:ident = $text:literal ),+ $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type { $( $(#[$variant_meta])* $variant ),+ }

        impl $type {
            /// The keyword in the text form.
            pub const fn keyword(self) -> &'static str {
                match self { $( $type::$variant => $text ),+ }
            }
        }

        impl $crate::attribute::AttributeValue for $type {
            const KIND: $crate::attribute::AttributeKind =
                $crate::attribute::AttributeKind::Keyword(&[$($text),+]);
            fn to_attribute(&self) -> Option<$crate::attribute::Attribute> {
                Some($crate::attribute::Attribute::Keyword(self.keyword().into()))
            }
            fn from_attribute(attribute: Option<&$crate::attribute::Attribute>) -> Option<Self> {
                let Some($crate::attribute::Attribute::Keyword(keyword)) = attribute else {
                    return None;
                };
                match keyword.as_str() { $( $text => Some($type::$variant), )+ _ => None }
            }
        }
    };
}
pub(crate) use keyword;
