//! Where kernels run: what the executor asks of a device.
//!
//! [`Device`] makes memory and modules; a [`Module`] is an artifact's kernels on a device; a [`Recording`] is a list of launches
//! with all their arguments, run again and again. The executor is written against these alone, once for every device.

mod name;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

pub use name::{DeviceName, DeviceNameError};

use crate::artifact::{Artifact, Target, TargetError};
use crate::cuda::{Cuda, CudaError};
use crate::host::{Host, HostError};
use crate::plan::Plan;
use crate::weights::WeightBytes;

/// A CPU or GPU.
pub trait Device: Debug + Send + Sync {
    /// The device's name, as [`open`] takes it.
    fn name(&self) -> String;

    /// What it is, for people: the processor's name, how many threads.
    fn description(&self) -> String;

    /// Checks that code for this target runs here.
    fn check(&self, target: &Target) -> Result<(), TargetError>;

    /// Memory of at least `bytes` bytes, all zero, aligned to [`crate::plan::BUFFER_ALIGNMENT`].
    fn allocate(&self, bytes: u64) -> Result<Box<dyn Memory>, DeviceError>;

    /// Makes a weight readable by kernels: in place where the device reads host memory, else by one copy.
    fn bind_weight(&self, weight: &WeightBytes) -> Result<Box<dyn Memory>, DeviceError>;

    /// Copies `bytes` to the start of `memory`, before any launch that is made later.
    fn upload(&self, bytes: &[u8], memory: &mut dyn Memory) -> Result<(), DeviceError> {
        self.upload_at(bytes, memory, 0)
    }

    /// Copies `bytes` into `memory`, from a byte of it on, before any launch that is made later.
    fn upload_at(&self, bytes: &[u8], memory: &mut dyn Memory, offset: u64) -> Result<(), DeviceError>;

    /// Waits for the launches made so far, then copies from the start of `memory`.
    fn download(&self, memory: &dyn Memory, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Waits for the launches made so far.
    fn synchronize(&self) -> Result<(), DeviceError>;

    /// Whether kernels read and write ordinary host memory, so that inputs need no copy.
    fn reads_host_memory(&self) -> bool;

    /// Loads the kernels of one of an artifact's functions. The artifact's target has been checked.
    fn load(self: Arc<Self>, artifact: &Artifact, function: &Plan) -> Result<Box<dyn Module>, DeviceError>;
}

/// A block of a device's memory. It is released when this is dropped.
pub trait Memory: Debug + Send + Sync {
    /// Its address, in the device's address space.
    fn address(&self) -> u64;

    /// Its size in bytes.
    fn bytes(&self) -> u64;

    /// Its contents, where the host can read them in place.
    fn host_bytes(&self) -> Option<&[u8]> {
        None
    }

    /// Its contents, where the host can change them in place.
    fn host_bytes_mut(&mut self) -> Option<&mut [u8]> {
        None
    }
}

/// The kernels of an artifact, loaded.
pub trait Module: Debug + Send + Sync {
    /// Prepares launches, to be run in order. `Launch::kernel` indexes the plan's kernels, and the arguments match the kernel's
    /// parameters: the caller has validated the plan.
    fn prepare(&self, launches: Vec<PreparedLaunch>) -> Result<Box<dyn Recording>, DeviceError>;
}

/// A launch whose every extent has been evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedLaunch {
    /// The kernel, by its index in the plan.
    pub kernel: usize,
    /// Programs along x, y and z; none is 0.
    pub grid: [u32; 3],
    /// One 8-byte slot for each argument: an address, an `i64`, or an `f32`'s bits in the low half.
    pub arguments: Vec<u64>,
}

/// Launches that are run again and again.
pub trait Recording: Debug + Send {
    /// Changes an argument of a launch.
    fn set_argument(&mut self, launch: usize, argument: usize, value: u64);

    /// Runs the launches in order. The device may still be at it when this returns.
    ///
    /// # Safety
    ///
    /// Every address among the arguments is that of live memory as large as the plan says, which nothing else writes, and
    /// nothing reads that a launch writes, until the device has been synchronized.
    unsafe fn run(&mut self) -> Result<(), DeviceError>;

    /// Runs the launches one at a time, waits for each, and says how long each took.
    ///
    /// # Safety
    ///
    /// As for [`Recording::run`].
    unsafe fn profile(&mut self) -> Result<Vec<Duration>, DeviceError>;
}

/// Why a device cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The name is not a device's.
    #[error(transparent)]
    Name(#[from] DeviceNameError),
    /// The artifact is for something else.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The host failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// CUDA failed.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// A copy is larger than the buffer it goes to or comes from.
    #[error("a copy of {bytes} bytes, where the buffer has {buffer}")]
    Copy {
        /// Bytes to be copied.
        bytes: usize,
        /// The buffer's size.
        buffer: u64,
    },
    /// An integer argument does not fit the kernel's parameter.
    #[error("kernel `{kernel}`: the integer argument {value} does not fit 32 bits, which is what PTX kernels take")]
    IntegerRange {
        /// The kernel.
        kernel: String,
        /// The argument.
        value: i64,
    },
    /// A grid is larger than the device allows.
    #[error(
        "kernel `{kernel}`: a grid of {grid:?} programs is more than the device allows; process fewer tokens at a time"
    )]
    Grid {
        /// The kernel.
        kernel: String,
        /// The grid.
        grid: [u32; 3],
    },
}

/// Checks that a copy of `bytes` bytes from an offset on stays within a buffer.
pub(crate) fn check_copy(bytes: usize, memory: &dyn Memory, offset: u64) -> Result<(), DeviceError> {
    let buffer = memory.bytes().saturating_sub(offset);
    if bytes as u64 <= buffer { Ok(()) } else { Err(DeviceError::Copy { bytes, buffer }) }
}

/// Opens a device by name: `host`, `cuda:0`, `emulated` or `emulated:sm_90a`.
pub fn open(name: &str) -> Result<Arc<dyn Device>, DeviceError> {
    Ok(match name.parse::<DeviceName>()? {
        DeviceName::Host => Host::shared()?,
        DeviceName::Cuda(ordinal) => Cuda::open(ordinal)?,
        DeviceName::Emulated(chip) => Cuda::emulated(chip.as_deref())?,
    })
}
