//! Types of numbers and of arrays' elements.

use ptx_emulator::numeric::format::{BF16, E4M3, E5M2, F16, Format};
use ptx_emulator::numeric::rounding::Rounding;

/// A type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// A float that the host has: 4 or 8 bytes.
    Float(usize),
    /// A narrower float.
    Narrow(Format),
    /// An integer of so many bytes.
    Signed(usize),
    /// The same without a sign.
    Unsigned(usize),
    /// A byte that is 0 or 1.
    Bool,
}

/// An element's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Of all floats.
    Float(f64),
    /// Of all integers.
    Integer(i128),
}

impl Element {
    /// By name.
    pub fn named(name: &str) -> Option<Element> {
        Some(match name {
            "f64" => Element::Float(8),
            "f32" => Element::Float(4),
            "f16" => Element::Narrow(F16),
            "bf16" => Element::Narrow(BF16),
            "e4m3" => Element::Narrow(E4M3),
            "e5m2" => Element::Narrow(E5M2),
            "i8" => Element::Signed(1),
            "i16" => Element::Signed(2),
            "i32" => Element::Signed(4),
            "i64" => Element::Signed(8),
            "u8" => Element::Unsigned(1),
            "u16" => Element::Unsigned(2),
            "u32" => Element::Unsigned(4),
            "u64" => Element::Unsigned(8),
            "bool" => Element::Bool,
            _ => return None,
        })
    }

    /// The bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Element::Float(bytes) | Element::Signed(bytes) | Element::Unsigned(bytes) => bytes,
            Element::Narrow(format) => format.bits() as usize / 8,
            Element::Bool => 1,
        }
    }

    /// Whether it holds floats.
    pub fn is_float(self) -> bool {
        matches!(self, Element::Float(_) | Element::Narrow(_))
    }

    /// A value from text.
    pub fn parse(self, text: &str) -> Option<Value> {
        if self.is_float() {
            return text.parse().ok().map(Value::Float);
        }
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        let magnitude = match digits.strip_prefix("0x") {
            Some(digits) => i128::from_str_radix(digits, 16),
            None => digits.parse(),
        };
        magnitude.ok().map(|value| Value::Integer(if negative { -value } else { value }))
    }

    /// Appends a value's bytes: floats are rounded to nearest; `None` for an integer that does not fit, or a float where an integer is wanted.
    pub fn encode(self, value: Value, into: &mut Vec<u8>) -> Option<()> {
        let float = match value {
            Value::Float(value) => value,
            Value::Integer(value) => value as f64,
        };
        match (self, value) {
            (Element::Float(8), _) => into.extend(float.to_le_bytes()),
            (Element::Float(_), _) => into.extend((float as f32).to_le_bytes()),
            (Element::Narrow(format), _) => {
                let bits = format.encode(float, Rounding::Nearest, false);
                into.extend(&bits.to_le_bytes()[..self.bytes()]);
            }
            (_, Value::Float(_)) => return None,
            (_, Value::Integer(value)) => {
                let bits = 8 * self.bytes() as u32;
                let range = match self {
                    Element::Signed(_) => -(1i128 << (bits - 1))..=(1i128 << (bits - 1)) - 1,
                    Element::Bool => 0..=1,
                    _ => 0..=(1i128 << bits) - 1,
                };
                if !range.contains(&value) {
                    return None;
                }
                into.extend(&value.to_le_bytes()[..self.bytes()]);
            }
        }
        Some(())
    }

    /// The value of one's bytes.
    pub fn decode(self, bytes: &[u8]) -> Value {
        let mut word = [0; 8];
        word[..bytes.len().min(8)].copy_from_slice(&bytes[..bytes.len().min(8)]);
        let bits = u64::from_le_bytes(word);
        match self {
            Element::Float(8) => Value::Float(f64::from_bits(bits)),
            Element::Float(_) => Value::Float(f32::from_bits(bits as u32).into()),
            Element::Narrow(format) => Value::Float(format.decode(bits as u32).into()),
            Element::Signed(bytes) => {
                let unused = 64 - 8 * bytes as u32;
                Value::Integer(((bits << unused) as i64 >> unused).into())
            }
            Element::Unsigned(_) | Element::Bool => Value::Integer(bits.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_and_decoded() {
        for (name, text) in
            [("i8", "-128"), ("u64", "18446744073709551615"), ("f32", "0.5"), ("e4m3", "-448"), ("bool", "1")]
        {
            let element = Element::named(name).unwrap();
            let (value, mut bytes) = (element.parse(text).unwrap(), vec![]);
            element.encode(value, &mut bytes).unwrap();
            assert_eq!(bytes.len(), element.bytes());
            assert_eq!(element.decode(&bytes), value, "{name}");
        }
        assert_eq!(Element::Unsigned(4).parse("0xff"), Some(Value::Integer(255)));
        for (name, text) in [("i8", "128"), ("u8", "-1"), ("bool", "2")] {
            let element = Element::named(name).unwrap();
            assert_eq!(element.encode(element.parse(text).unwrap(), &mut vec![]), None, "{name}");
        }
    }
}
