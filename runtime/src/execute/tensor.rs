//! Tensors in the caller's memory.

use bytemuck::Pod;
use half::{bf16, f16};

use super::RunError;
use crate::plan::ElementType;

/// A Rust type whose values are elements of a tensor.
pub trait Element: Pod + private::Sealed {
    /// The element type.
    const TYPE: ElementType;
}

mod private {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($rust:ty => $element:ident),* $(,)?) => { $(
        impl private::Sealed for $rust {}
        impl Element for $rust {
            const TYPE: ElementType = ElementType::$element;
        }
    )* };
}

elements! {
    f64 => F64, f32 => F32, f16 => F16, bf16 => Bf16,
    i8 => I8, i16 => I16, i32 => I32, i64 => I64, u8 => U8, u32 => U32,
}

/// A dense row-major tensor that the caller owns.
#[derive(Clone, Debug)]
pub struct TensorView<'a> {
    element: ElementType,
    shape: Vec<u64>,
    bytes: &'a [u8],
}

impl<'a> TensorView<'a> {
    /// The tensor of this shape with these elements.
    pub fn new<T: Element>(shape: &[u64], elements: &'a [T]) -> Result<TensorView<'a>, RunError> {
        TensorView::from_bytes(T::TYPE, shape, bytemuck::cast_slice(elements))
    }

    /// A vector: the tensor of rank 1 with these elements.
    pub fn vector<T: Element>(elements: &'a [T]) -> TensorView<'a> {
        TensorView { element: T::TYPE, shape: vec![elements.len() as u64], bytes: bytemuck::cast_slice(elements) }
    }

    /// The tensor of this type and shape with these bytes.
    pub fn from_bytes(element: ElementType, shape: &[u64], bytes: &'a [u8]) -> Result<TensorView<'a>, RunError> {
        let elements = shape.iter().try_fold(1u64, |product, dimension| product.checked_mul(*dimension));
        if elements.and_then(|elements| element.bytes(elements)) != Some(bytes.len() as u64) {
            return Err(RunError::Size { element, shape: shape.into(), bytes: bytes.len() });
        }
        Ok(TensorView { element, shape: shape.into(), bytes })
    }

    /// The element type.
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// The contents.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether the contents start at a multiple of the element's size, as kernels expect.
    pub(super) fn is_aligned(&self) -> bool {
        let (count, bytes) = self.element.group();
        count != 1 || (self.bytes.as_ptr() as u64).is_multiple_of(bytes)
    }

    /// The elements, where they are of this type.
    pub fn elements<T: Element>(&self) -> Result<&'a [T], RunError> {
        let mismatch = || RunError::ElementType { asked: T::TYPE, found: self.element };
        if self.element != T::TYPE {
            return Err(mismatch());
        }
        // Outputs are aligned for every type; a view of the caller's own bytes may not be.
        bytemuck::try_cast_slice(self.bytes).map_err(|_| mismatch())
    }
}
