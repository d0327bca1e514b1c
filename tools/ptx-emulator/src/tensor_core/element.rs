//! The elements of matrices.

use std::sync::OnceLock;

use crate::numeric::format::{self, Format};

/// The type of a matrix's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Element {
    /// IEEE binary16.
    F16,
    /// bfloat16.
    BF16,
    /// f32 of which the low 13 bits do not count.
    TF32,
    /// fp8.
    E4M3,
    /// fp8 with more range.
    E5M2,
    /// fp6.
    E2M3,
    /// fp6 with more range.
    E3M2,
    /// fp4.
    E2M1,
    /// Signed bytes.
    S8,
    /// Unsigned bytes.
    U8,
    /// Signed half bytes.
    S4,
    /// Unsigned half bytes.
    U4,
    /// Bits.
    B1,
    /// IEEE binary64.
    F64,
}

/// All of them, by number.
const ALL: [Element; 14] = [
    Element::F16,
    Element::BF16,
    Element::TF32,
    Element::E4M3,
    Element::E5M2,
    Element::E2M3,
    Element::E3M2,
    Element::E2M1,
    Element::S8,
    Element::U8,
    Element::S4,
    Element::U4,
    Element::B1,
    Element::F64,
];

impl Element {
    /// By a type's name.
    pub fn named(name: &str) -> Option<Element> {
        Some(match name {
            "f16" => Element::F16,
            "bf16" => Element::BF16,
            "tf32" => Element::TF32,
            "e4m3" => Element::E4M3,
            "e5m2" => Element::E5M2,
            "e2m3" => Element::E2M3,
            "e3m2" => Element::E3M2,
            "e2m1" => Element::E2M1,
            "s8" => Element::S8,
            "u8" => Element::U8,
            "s4" => Element::S4,
            "u4" => Element::U4,
            "b1" => Element::B1,
            "f64" => Element::F64,
            _ => return None,
        })
    }

    /// From a number that an instruction keeps.
    pub fn from_code(code: u32) -> Element {
        ALL[code as usize % ALL.len()]
    }

    /// How many bits one has.
    pub fn width(self) -> usize {
        match self {
            Element::E2M3 | Element::E3M2 => 6,
            _ => self.bits(),
        }
    }

    /// How many bits one takes where they are packed into words.
    pub fn bits(self) -> usize {
        match self {
            Element::F64 => 64,
            Element::TF32 => 32,
            Element::F16 | Element::BF16 => 16,
            Element::E2M1 | Element::S4 | Element::U4 => 4,
            Element::B1 => 1,
            _ => 8,
        }
    }

    /// Whether products are of integers.
    pub fn is_integer(self) -> bool {
        matches!(self, Element::S8 | Element::U8 | Element::S4 | Element::U4 | Element::B1)
    }

    /// The value of an element's bits.
    #[inline(always)]
    pub fn decode(self, bits: u32) -> f32 {
        match self {
            Element::BF16 => f32::from_bits(bits << 16),
            Element::TF32 => f32::from_bits(bits & !0x1fff),
            Element::F16 => half::f16::from_bits(bits as u16).to_f32(),
            Element::S8 => f32::from(bits as i8),
            Element::U8 => f32::from(bits as u8),
            Element::S4 => f32::from((bits << 4) as i8 >> 4),
            Element::U4 => f32::from(bits as u8 & 15),
            Element::B1 => (bits & 1) as f32,
            _ => self.table()[bits as usize & 0xff],
        }
    }

    /// The values of a narrow format's bits; bits above its width do not count.
    fn table(self) -> &'static [f32; 256] {
        static TABLES: OnceLock<[[f32; 256]; 5]> = OnceLock::new();
        let tables = TABLES.get_or_init(|| {
            [format::E4M3, format::E5M2, format::E2M3, format::E3M2, format::E2M1].map(|format: Format| {
                std::array::from_fn(|bits| format.decode(bits as u32 & ((1 << format.bits()) - 1)))
            })
        });
        &tables[(self as usize).saturating_sub(Element::E4M3 as usize).min(4)]
    }

    /// Decodes packed elements of a 32-bit word, the lowest first.
    #[inline(always)]
    pub fn unpack(self, word: u32, into: &mut [f32]) {
        // The types of most products, without a choice for each value.
        match (self, &mut *into) {
            (Element::BF16, [low, high]) => {
                (*low, *high) = (f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000));
                return;
            }
            (Element::TF32, [value]) => {
                *value = f32::from_bits(word & !0x1fff);
                return;
            }
            _ => {}
        }
        let bits = self.bits();
        for (at, value) in into.iter_mut().enumerate() {
            *value = self.decode(if bits == 32 { word } else { word >> (at * bits) & ((1 << bits) - 1) });
        }
    }
}
