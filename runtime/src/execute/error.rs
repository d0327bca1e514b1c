//! What can go wrong when a function is called.

use crate::artifact::ArtifactError;
use crate::device::DeviceError;
use crate::plan::{ElementType, ExtentError};
use crate::weights::WeightsError;

/// Why a model cannot be loaded or a function cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The artifact has no such function.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The weights do not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// An input or cache was not passed.
    #[error("{what} `{name}` is missing")]
    Missing {
        /// `input` or `cache`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Something was passed that the function does not take.
    #[error("the function has no {what} `{name}`; it takes {}", list(known))]
    Unknown {
        /// `input`, `cache` or `output`.
        what: &'static str,
        /// The name that was passed.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Something was passed twice.
    #[error("{what} `{name}` is passed twice")]
    Twice {
        /// `input` or `cache`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// An input has another type or rank.
    #[error("input `{name}` is {found}, the function takes {expected}")]
    Input {
        /// The input.
        name: String,
        /// Its type and shape.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// Shapes contradict each other.
    #[error("dimension {axis} of input `{name}` is {found}, but {expected}")]
    Dimension {
        /// The input.
        name: String,
        /// The dimension, counted from 0.
        axis: usize,
        /// Its size.
        found: u64,
        /// What it has to be, and why.
        expected: String,
    },
    /// An element of an input is an index of nothing.
    #[error("element {at} of input `{name}` is {found}, which must be at least 0 and below {limit}")]
    Index {
        /// The input.
        name: String,
        /// Which element, counted from 0 in row-major order.
        at: usize,
        /// The element.
        found: i64,
        /// What it must be below.
        limit: u64,
    },
    /// A cache was made for something else.
    #[error("cache `{0}` was made for another model or another device")]
    Cache(String),
    /// An extent has no value for these shapes.
    #[error("{place}: {error}")]
    Extent {
        /// What it was to be the size of.
        place: String,
        /// Why it has none.
        error: ExtentError,
    },
    /// An address lies beyond its buffer: a mistake of the compiler's.
    #[error("{place}: byte {offset} of a buffer of {bytes} bytes; the plan is wrong, compile the model again")]
    OutOfBounds {
        /// The launch.
        place: String,
        /// The offset.
        offset: u64,
        /// The buffer's size.
        bytes: u64,
    },
    /// Bytes do not match type and shape.
    #[error("{bytes} bytes are not a tensor {element}{shape:?}")]
    Size {
        /// The element type.
        element: ElementType,
        /// The shape.
        shape: Vec<u64>,
        /// How many bytes there are.
        bytes: usize,
    },
    /// A tensor was read as another type.
    #[error("the tensor's elements are {found}, not aligned {asked}")]
    ElementType {
        /// The type that was asked for.
        asked: ElementType,
        /// The type it has.
        found: ElementType,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
