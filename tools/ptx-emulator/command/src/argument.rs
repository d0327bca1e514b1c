//! Arguments of kernels, as they are written.

use std::path::PathBuf;
use std::str::FromStr;

use crate::element::Element;

/// An argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A number's bytes.
    Number(Vec<u8>),
    /// The bytes of a file, as a parameter by value.
    Bytes(PathBuf),
    /// The address of an array.
    Array {
        /// What it holds at the start.
        source: Source,
        /// Where it is written at the end.
        output: Option<PathBuf>,
    },
}

/// What an array holds at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file's elements, converted if a type is given.
    File(PathBuf, Option<Element>),
    /// Zeros, in this shape.
    Zeros(Element, Vec<u64>),
}

const FORMS: &str =
    "it is TYPE=NUMBER, FILE.npy, TYPE=FILE.npy, TYPE[SHAPE] or bytes=FILE.npy; after an array may stand :OUTPUT.npy";

impl FromStr for Argument {
    type Err = String;

    fn from_str(text: &str) -> Result<Argument, String> {
        let element =
            |name: &str| Element::named(name).ok_or_else(|| format!("`{name}` is not a type of numbers; {FORMS}"));
        let (start, output) = match text.split_once(':') {
            Some((_, "")) => return Err(format!("no file is named after the colon; {FORMS}")),
            Some((start, output)) => (start, Some(PathBuf::from(output))),
            None => (text, None),
        };
        if let Some((name, value)) = start.split_once('=') {
            if name == "bytes" && output.is_none() {
                return Ok(Argument::Bytes(value.into()));
            }
            let element = element(name)?;
            if value.ends_with(".npy") {
                return Ok(Argument::Array { source: Source::File(value.into(), Some(element)), output });
            }
            if output.is_some() {
                return Err(format!("a number is not written anywhere; {FORMS}"));
            }
            let mut bytes = vec![];
            let encoded = element.parse(value).and_then(|value| element.encode(value, &mut bytes));
            return encoded
                .map(|()| Argument::Number(bytes))
                .ok_or_else(|| format!("`{value}` is not a number of type {name}"));
        }
        if let Some((name, rest)) = start.split_once('[') {
            let extents = rest.strip_suffix(']').ok_or_else(|| format!("the shape is not closed; {FORMS}"))?;
            let extent = |text: &str| text.trim().parse().map_err(|_| format!("`{text}` is not an extent; {FORMS}"));
            let shape: Vec<u64> = extents.split(',').map(extent).collect::<Result<_, _>>()?;
            return Ok(Argument::Array { source: Source::Zeros(element(name)?, shape), output });
        }
        if start.ends_with(".npy") {
            return Ok(Argument::Array { source: Source::File(start.into(), None), output });
        }
        Err(format!("`{text}` is not an argument: {FORMS}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        assert_eq!("i32=-2".parse(), Ok(Argument::Number(vec![254, 255, 255, 255])));
        assert_eq!("bf16=1".parse(), Ok(Argument::Number(vec![0x80, 0x3f])));
        let file = |output: Option<&str>, element| Argument::Array {
            source: Source::File("x.npy".into(), element),
            output: output.map(PathBuf::from),
        };
        assert_eq!("x.npy".parse(), Ok(file(None, None)));
        assert_eq!("f16=x.npy:y.npy".parse(), Ok(file(Some("y.npy"), Element::named("f16"))));
        let zeros = Source::Zeros(Element::Float(4), vec![3, 4]);
        assert_eq!("f32[3,4]:o.npy".parse(), Ok(Argument::Array { source: zeros, output: Some("o.npy".into()) }));
        for wrong in ["x", "i32=a", "i33=1", "u8=256", "f32[3", "f32[a]", "x.npy:", "i32=1:y.npy"] {
            assert!(wrong.parse::<Argument>().is_err(), "{wrong}");
        }
    }
}
