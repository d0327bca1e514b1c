//! The tensors that a program is interpreted on, and who touched which element.

use super::Problem;
use super::arithmetic::{Elements, Tile, decode_float, decode_integer, encode, round};
use crate::tile::{Access, Coordinate, Element, Literal, Value};

/// A tensor in memory: elements one after another, as the targets see them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorData {
    element: Element,
    bytes: Vec<u8>,
}

impl TensorData {
    /// Float elements, each rounded to the format.
    pub fn from_floats(element: Element, values: &[f64]) -> Self {
        Self::from_bits(element, values.iter().map(|&value| encode(element, value, value as i64)))
    }

    /// Integer elements; bits that the element lacks are dropped.
    pub fn from_integers(element: Element, values: &[i64]) -> Self {
        Self::from_bits(element, values.iter().map(|&value| encode(element, value as f64, value)))
    }

    /// `count` elements that no program should read before it writes them: NaN where there is such a thing, else the largest
    /// pattern.
    pub fn unwritten(element: Element, count: usize) -> Self {
        Self::from_bits(element, (0..count).map(|_| u64::MAX))
    }

    fn from_bits(element: Element, bits: impl Iterator<Item = u64>) -> Self {
        let bytes = bits.flat_map(|bits| bits.to_le_bytes().into_iter().take(element.bytes())).collect();
        Self { element, bytes }
    }

    /// The element type.
    pub fn element(&self) -> Element {
        self.element
    }

    /// The memory, little-endian.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The memory, for a kernel to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.element.bytes()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The elements as numbers.
    pub fn floats(&self) -> Vec<f64> {
        (0..self.len()).map(|index| self.float(index)).collect()
    }

    /// The elements as integers; those of float formats are cut off.
    pub fn integers(&self) -> Vec<i64> {
        (0..self.len()).map(|index| self.integer(index)).collect()
    }

    fn bits(&self, index: usize) -> u64 {
        let width = self.element.bytes();
        let mut bits = [0; 8];
        bits[..width].copy_from_slice(&self.bytes[index * width..(index + 1) * width]);
        u64::from_le_bytes(bits)
    }

    fn float(&self, index: usize) -> f64 {
        match self.element.is_float() {
            true => decode_float(self.element, self.bits(index)),
            false => decode_integer(self.element, self.bits(index)) as f64,
        }
    }

    fn integer(&self, index: usize) -> i64 {
        match self.element.is_float() {
            true => decode_float(self.element, self.bits(index)) as i64,
            false => decode_integer(self.element, self.bits(index)),
        }
    }

    fn set(&mut self, index: usize, bits: u64) {
        let width = self.element.bytes();
        self.bytes[index * width..(index + 1) * width].copy_from_slice(&bits.to_le_bytes()[..width]);
    }
}

/// Which programs touched an element. Programs are numbered from 1.
#[derive(Clone, Copy, Default)]
struct Touched {
    writer: u32,
    reader: u32,
}

/// More than one program read the element.
const MANY: u32 = u32::MAX;

/// A tensor argument with its extents at hand.
pub(super) struct Memory<'a> {
    data: &'a mut TensorData,
    name: &'a str,
    extents: Vec<i64>,
    strides: Vec<u64>,
    /// One for each element of a tensor that is written; empty otherwise.
    touched: Vec<Touched>,
}

/// A coordinate with the indices that it stands for.
pub(super) struct Indices {
    indices: Vec<i64>,
    is_scalar: bool,
    wrapped: bool,
}

impl Indices {
    pub(super) fn new(coordinate: Coordinate, tile: impl Fn(Value) -> Tile) -> Self {
        let (value, is_scalar) = match coordinate {
            Coordinate::At(value) => (tile(value), true),
            Coordinate::Block { start, .. } => (tile(start), false),
            Coordinate::Gather(value) => (tile(value), false),
        };
        let mut indices = value.as_integers().to_vec();
        if let Coordinate::Block { length, .. } = coordinate {
            indices = (0..i64::from(length)).map(|position| indices[0] + position).collect();
        }
        Self { indices, is_scalar, wrapped: value.wrapped }
    }
}

impl<'a> Memory<'a> {
    /// # Errors
    /// Where the extents and strides reach beyond the memory.
    pub(super) fn new(
        name: &'a str,
        data: &'a mut TensorData,
        extents: Vec<u64>,
        strides: Vec<u64>,
        access: Access,
    ) -> Result<Self, Problem> {
        if extents.iter().all(|&extent| extent > 0) {
            let last: u128 = extents.iter().zip(&strides).map(|(&e, &s)| u128::from(e - 1) * u128::from(s)).sum();
            if last >= data.len() as u128 {
                let (argument, elements) = (name.to_string(), data.len());
                let needed = u64::try_from(last).map_or(u64::MAX, |last| last.saturating_add(1));
                return Err(Problem::Memory { argument, elements, needed });
            }
        }
        let touched = if access == Access::Read { Vec::new() } else { vec![Touched::default(); data.len()] };
        let extents = extents.into_iter().map(|extent| i64::try_from(extent).unwrap_or(i64::MAX)).collect();
        Ok(Self { data, name, extents, strides, touched })
    }

    /// Calls `visit` with the position in the tile and the offset in memory of every element that an access touches.
    fn visit(
        &mut self,
        coordinates: &[Indices],
        mask: Option<&Tile>,
        mut visit: impl FnMut(&mut Self, usize, usize) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let lanes: usize = coordinates.iter().map(|coordinate| coordinate.indices.len()).product();
        for lane in 0..lanes {
            if mask.is_some_and(|mask| mask.as_integers()[lane] == 0) {
                continue;
            }
            let (mut rest, mut offset, mut inside) = (lane, 0, true);
            let mut outside_at = None;
            for (dimension, coordinate) in coordinates.iter().enumerate().rev() {
                let index = coordinate.indices[rest % coordinate.indices.len()];
                rest /= coordinate.indices.len();
                if (0..self.extents[dimension]).contains(&index) {
                    offset += index as u64 * self.strides[dimension];
                } else if coordinate.is_scalar {
                    outside_at = Some((dimension, index));
                } else {
                    inside = false;
                }
            }
            let argument = || self.name.to_string();
            match outside_at {
                _ if !inside => continue,
                Some((dimension, index)) => {
                    let extent = self.extents[dimension];
                    return Err(Problem::OutOfBounds { argument: argument(), dimension, index, extent });
                }
                None if coordinates.iter().any(|coordinate| coordinate.wrapped) => {
                    return Err(Problem::WrappedIndex { argument: argument() });
                }
                None => visit(self, lane, offset as usize)?,
            }
        }
        Ok(())
    }

    pub(super) fn load(
        &mut self,
        program: u32,
        coordinates: &[Indices],
        mask: Option<&Tile>,
        other: Literal,
    ) -> Result<Tile, Problem> {
        let lanes: usize = coordinates.iter().map(|coordinate| coordinate.indices.len()).product();
        let element = self.data.element;
        let mut elements = match other {
            Literal::Float(other) => Elements::Float(vec![round(element, other); lanes]),
            Literal::Integer(other) => Elements::Integer(vec![other; lanes]),
        };
        self.visit(coordinates, mask, |memory, lane, offset| {
            if let Some(touched) = memory.touched.get_mut(offset) {
                if touched.writer != 0 {
                    return Err(Problem::ReadAfterWrite { argument: memory.name.to_string(), offset });
                }
                touched.reader = if [0, program].contains(&touched.reader) { program } else { MANY };
            }
            match &mut elements {
                Elements::Float(values) => values[lane] = memory.data.float(offset),
                Elements::Integer(values) => values[lane] = memory.data.integer(offset),
            }
            Ok(())
        })?;
        Ok(Tile { elements, wrapped: false })
    }

    pub(super) fn store(
        &mut self,
        program: u32,
        coordinates: &[Indices],
        mask: Option<&Tile>,
        value: &Tile,
    ) -> Result<(), Problem> {
        let element = self.data.element;
        self.visit(coordinates, mask, |memory, lane, offset| {
            let touched = &mut memory.touched[offset];
            if touched.writer != 0 {
                return Err(Problem::WrittenTwice { argument: memory.name.to_string(), offset });
            }
            if ![0, program].contains(&touched.reader) {
                return Err(Problem::WrittenAfterRead { argument: memory.name.to_string(), offset });
            }
            touched.writer = program;
            let bits = match &value.elements {
                Elements::Float(values) => encode(element, values[lane], 0),
                Elements::Integer(values) => encode(element, 0.0, values[lane]),
            };
            memory.data.set(offset, bits);
            Ok(())
        })
    }
}
