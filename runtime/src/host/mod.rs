//! The host device: native kernels on this machine's CPU.
//!
//! A kernel is a function of a range of programs; a launch shares its grid out among the threads of a pool. See
//! [`crate::plan::Partition`] for how.

mod library;
mod memory;
mod pool;
mod recording;
mod relocations;
mod signal;

use std::sync::{Arc, OnceLock};

use crate::artifact::{Artifact, Code, Target, TargetError};
use crate::device::{Device, DeviceError, Memory, Module, PreparedLaunch, Recording, check_copy};
use crate::plan::{Kernel, Plan};
use crate::weights::WeightBytes;
pub use library::CLEARED_SCRATCH_BYTES;
use library::{Entry, Library};
pub(crate) use memory::HUGE_PAGE;
use memory::{BoundWeight, HostMemory};
use pool::Pool;
use recording::HostRecording;
use relocations::Relocations;

/// The environment variable that sets how many threads [`Host::shared`] uses.
pub const THREADS_VARIABLE: &str = "TESSERA_THREADS";

/// Why the host cannot do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The system gives no thread.
    #[error("cannot start {threads} threads: {problem}")]
    Threads {
        /// How many were wanted.
        threads: usize,
        /// What the system says.
        problem: String,
    },
    /// The environment variable is not a number of threads.
    #[error("{THREADS_VARIABLE}={0} is not a number of threads: expected 1 to 1024")]
    ThreadsVariable(String),
    /// The system gives no memory.
    #[error("the system has no {0} bytes of memory left")]
    OutOfMemory(u64),
    /// The kernels cannot be loaded.
    #[error("cannot load the artifact's kernels: {0}")]
    Load(String),
    /// A kernel is missing.
    #[error("the artifact's kernels/host.so has no symbol `{0}`, which its plan names; compile the model again")]
    MissingKernel(String),
}

/// This machine's CPU.
#[derive(Debug)]
pub struct Host {
    pool: Arc<Pool>,
    relocations: Arc<Relocations>,
}

impl Host {
    /// The host with its usual threads: as many as [`THREADS_VARIABLE`] says, else one for each CPU this process may use. All
    /// callers share one pool.
    pub fn shared() -> Result<Arc<Host>, HostError> {
        static SHARED: OnceLock<Arc<Host>> = OnceLock::new();
        if let Some(host) = SHARED.get() {
            return Ok(host.clone());
        }
        let threads = match std::env::var(THREADS_VARIABLE) {
            Ok(text) => match text.parse() {
                Ok(threads @ 1..=1024) => threads,
                _ => return Err(HostError::ThreadsVariable(text)),
            },
            Err(_) => std::thread::available_parallelism().map_or(1, |threads| threads.get()),
        };
        let host = Host::with_threads(threads)?;
        Ok(SHARED.get_or_init(|| host).clone())
    }

    /// The host with a pool of its own, of `threads` threads, the caller among them.
    pub fn with_threads(threads: usize) -> Result<Arc<Host>, HostError> {
        let failed = |error: std::io::Error| HostError::Threads { threads, problem: error.to_string() };
        let pool = Arc::new(Pool::new(threads).map_err(failed)?);
        Ok(Arc::new(Host { pool, relocations: Arc::default() }))
    }

    /// How many threads run a launch.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Whether runs still spend some of their time on moving weights into huge pages, where they are read fastest. Runs take a little longer until
    /// that is done, and then as long as ever after.
    pub fn is_moving_weights(&self) -> bool {
        self.relocations.are_pending()
    }
}

impl Device for Host {
    fn name(&self) -> String {
        "host".into()
    }

    fn description(&self) -> String {
        format!("{} CPU, {} threads", std::env::consts::ARCH, self.threads())
    }

    fn check(&self, target: &Target) -> Result<(), TargetError> {
        target.check_host()
    }

    fn allocate(&self, bytes: u64) -> Result<Box<dyn Memory>, DeviceError> {
        Ok(Box::new(HostMemory::allocate(bytes)?))
    }

    fn bind_weight(&self, weight: &WeightBytes) -> Result<Box<dyn Memory>, DeviceError> {
        if let Some(file) = weight.file() {
            // Now rather than in the first step.
            file.settle();
            self.relocations.add(file);
        }
        Ok(Box::new(BoundWeight(weight.clone())))
    }

    fn upload_at(&self, bytes: &[u8], memory: &mut dyn Memory, offset: u64) -> Result<(), DeviceError> {
        check_copy(bytes.len(), memory, offset)?;
        if let Some(destination) = memory.host_bytes_mut() {
            destination[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn download(&self, memory: &dyn Memory, bytes: &mut [u8]) -> Result<(), DeviceError> {
        check_copy(bytes.len(), memory, 0)?;
        if let Some(source) = memory.host_bytes() {
            bytes.copy_from_slice(&source[..bytes.len()]);
        }
        Ok(())
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn reads_host_memory(&self) -> bool {
        true
    }

    fn load(self: Arc<Self>, artifact: &Artifact, function: &Plan) -> Result<Box<dyn Module>, DeviceError> {
        let Code::Host(object) = artifact.code() else {
            return Err(self
                .check(artifact.target())
                .err()
                .map_or_else(|| HostError::Load("it has none".into()).into(), Into::into));
        };
        let kernels = &function.kernels;
        // A plan that only passes things on has no kernels, and no object to load.
        let library = if kernels.is_empty() { None } else { Some(Library::load(object)?) };
        let entries = library.iter().flat_map(|library| kernels.iter().map(|kernel| library.entry(&kernel.name)));
        let entries = entries.collect::<Result<_, _>>()?;
        Ok(Box::new(HostModule {
            kernels: Arc::new(Kernels { entries, _library: library }),
            specifications: kernels.clone(),
            pool: self.pool.clone(),
            relocations: self.relocations.clone(),
        }))
    }
}

/// Entry points, and the library that keeps them loaded.
#[derive(Debug)]
struct Kernels {
    entries: Vec<Entry>,
    _library: Option<Library>,
}

#[derive(Debug)]
struct HostModule {
    kernels: Arc<Kernels>,
    specifications: Vec<Kernel>,
    pool: Arc<Pool>,
    relocations: Arc<Relocations>,
}

impl Module for HostModule {
    fn prepare(&self, launches: Vec<PreparedLaunch>) -> Result<Box<dyn Recording>, DeviceError> {
        let (kernels, pool, relocations) = (self.kernels.clone(), self.pool.clone(), self.relocations.clone());
        Ok(Box::new(HostRecording::new(kernels, &self.specifications, pool, relocations, launches)))
    }
}
