//! Kernels and their launches.

use serde::{Deserialize, Serialize};

use super::{Extent, ExtentError};

/// A compiled kernel: a symbol of `kernels/host.so`, or the entry of `kernels/NAME.ptx`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// The entry's name: letters, digits and underscores.
    pub name: String,
    /// Content hash of the tile program it was compiled from, in hexadecimal.
    pub hash: String,
    /// The kinds of its parameters, in order.
    pub parameters: Vec<ParameterKind>,
    /// How the programs of a grid are shared out; this concerns the host only.
    #[serde(default)]
    pub partition: Partition,
    /// Threads in a block; 1 on the host.
    pub block_threads: u32,
    /// Dynamic shared memory of a block in bytes; 0 on the host.
    #[serde(default)]
    pub dynamic_shared_bytes: u32,
    /// Scratch memory of each thread in bytes; 0 on a GPU.
    #[serde(default)]
    pub scratch_bytes: u64,
}

/// What a kernel takes as one parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParameterKind {
    /// A pointer: 64 bits.
    Buffer,
    /// An integer: `i64` on the host, `.s32` in PTX.
    Integer,
    /// An `f32`.
    Float,
}

/// How the host shares the programs of a grid among its threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// The fewest programs worth a thread of their own; a grid of no more runs on the calling thread.
    pub grain: u64,
    /// Contiguous equal shares, or chunks taken as threads get free.
    pub balance: Balance,
}

impl Default for Partition {
    fn default() -> Partition {
        Partition { grain: 1, balance: Balance::Static }
    }
}

/// Whether the programs of a grid are shared out beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// One contiguous share for each thread: for programs of equal cost.
    Static,
    /// Chunks of at least [`Partition::grain`] programs, the first ones long and the last ones short, taken in order by whichever thread is free: for programs of
    /// unequal cost, such as attention over sequences of many lengths, and for those that wait for memory, which threads get unequally.
    Dynamic,
}

/// One launch of a kernel. The launches of a plan run in order, each seeing all that those before it wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// The kernel, by its index in `Plan::kernels`.
    pub kernel: usize,
    /// Programs along x, y and z. A grid of no programs launches nothing.
    pub grid: [Extent; 3],
    /// One argument for each of the kernel's parameters.
    pub arguments: Vec<Argument>,
    /// Where present, the launch takes place only when the guard holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// The graph ops it computes, for people: `matmul + bias + gelu (transformer.h.0.mlp.c_fc)`.
    pub label: String,
}

/// A condition on the symbols that picks between variants of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// The value that decides.
    pub extent: Extent,
    /// The guard holds from this value on,
    pub minimum: u64,
    /// up to and including this one.
    pub maximum: u64,
}

impl Guard {
    /// Whether the guard holds for these symbol values.
    pub fn holds(&self, symbols: &[u64]) -> Result<bool, ExtentError> {
        let value = self.extent.evaluate(symbols)?;
        Ok((self.minimum..=self.maximum).contains(&value))
    }
}

/// The value of one kernel parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Argument {
    /// The address `byte_offset` bytes into a buffer.
    Buffer {
        /// The buffer.
        reference: BufferReference,
        /// Where in it, in bytes; never beyond its end.
        byte_offset: Extent,
    },
    /// An integer.
    Integer(Extent),
    /// A number; its bits decide whether two plans are equal, and it must be finite.
    Float(f32),
}

// A float argument is finite in every valid plan (`Plan::validate`), so equality is reflexive there.
impl Eq for Argument {}

impl Argument {
    /// A whole buffer.
    pub fn buffer(reference: BufferReference) -> Argument {
        Argument::Buffer { reference, byte_offset: Extent::Constant(0) }
    }

    /// The kind of parameter this is an argument for.
    pub fn kind(&self) -> ParameterKind {
        match self {
            Argument::Buffer { .. } => ParameterKind::Buffer,
            Argument::Integer(_) => ParameterKind::Integer,
            Argument::Float(_) => ParameterKind::Float,
        }
    }
}

/// A buffer of a plan, by its index in the list of its sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BufferReference {
    /// One of `Plan::inputs`; kernels only read it.
    Input(usize),
    /// One of `Plan::outputs`.
    Output(usize),
    /// One of `Plan::parameters`; kernels only read it (on the host it is a read-only mapping of the file).
    Parameter(usize),
    /// One of `Plan::caches`.
    Cache(usize),
    /// One of `Plan::slots`.
    Slot(usize),
    /// One of `Plan::constants`; kernels only read it.
    Constant(usize),
}
