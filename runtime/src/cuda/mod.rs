//! NVIDIA GPUs, through the CUDA driver API.
//!
//! The driver library is found when a device is opened, never linked: [`LIBRARY_VARIABLE`] names one, else the loader finds
//! `libcuda.so.1`. An emulated driver serves as well as NVIDIA's.

mod driver;
mod memory;
mod module;
mod recording;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

pub use driver::{CudaError, LIBRARY_VARIABLE, SELECT_CHIP_SYMBOL};

use crate::artifact::{Artifact, Target, TargetError};
use crate::device::{Device, DeviceError, Memory, Module, check_copy};
use crate::plan::Plan;
use crate::weights::WeightBytes;
use driver::Wanted;
use memory::CudaMemory;
use module::CudaModule;

/// A GPU.
#[derive(Debug)]
pub struct Cuda {
    name: String,
    model: String,
    capability: (u32, u32),
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// Held while launches are made, so that those of one thread are not captured into the graph of another.
    launching: Mutex<()>,
}

impl Cuda {
    /// The GPU of that ordinal.
    pub fn open(ordinal: usize) -> Result<Arc<Cuda>, CudaError> {
        driver::load(&Wanted::System)?;
        Cuda::on_loaded_driver(ordinal, format!("cuda:{ordinal}"))
    }

    /// The GPU of that ordinal, on the driver library at `path`.
    pub fn open_on(path: &Path, ordinal: usize) -> Result<Arc<Cuda>, CudaError> {
        driver::load(&Wanted::Library(path))?;
        Cuda::on_loaded_driver(ordinal, format!("cuda:{ordinal}"))
    }

    /// The first GPU of the emulated driver, which is to be of the given chip.
    pub fn emulated(chip: Option<&str>) -> Result<Arc<Cuda>, CudaError> {
        driver::load(&Wanted::Emulated(chip))?;
        Cuda::on_loaded_driver(0, chip.map_or("emulated".into(), |chip| format!("emulated:{chip}")))
    }

    fn on_loaded_driver(ordinal: usize, name: String) -> Result<Arc<Cuda>, CudaError> {
        let failed = |error| CudaError::call("starting CUDA", error);
        let count = match CudaContext::device_count() {
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => 0,
            count => count.map_err(failed)? as usize,
        };
        if ordinal >= count {
            return Err(CudaError::NoDevice { ordinal, count });
        }
        let failed = |error| CudaError::call(format!("opening GPU {ordinal}"), error);
        let context = CudaContext::new(ordinal).map_err(failed)?;
        // SAFETY: every launch and copy goes to the one stream below, so there is nothing to be tracked between streams.
        unsafe { context.disable_event_tracking() };
        keep_freed_memory(&context).map_err(failed)?;
        let (major, minor) = context.compute_capability().map_err(failed)?;
        let stream = context.new_stream().map_err(failed)?;
        let model = context.name().map_err(failed)?;
        let capability = (major as u32, minor as u32);
        let launching = Mutex::new(());
        Ok(Arc::new(Cuda { name, model, capability, context, stream, launching }))
    }

    /// The compute capability, major and minor.
    pub fn compute_capability(&self) -> (u32, u32) {
        self.capability
    }

    fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The right to launch, with the context current on this thread.
    fn lock_stream(&self) -> Result<MutexGuard<'_, ()>, CudaError> {
        let guard = self.launching.lock().unwrap_or_else(PoisonError::into_inner);
        self.context.bind_to_thread().map_err(|error| CudaError::call("using the GPU on this thread", error))?;
        Ok(guard)
    }
}

/// Has the driver's memory pool keep what is freed, so that allocating again costs no system call.
fn keep_freed_memory(context: &CudaContext) -> Result<(), DriverError> {
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device and its pool exist, and the attribute is a `u64`.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast())
    }
}

impl Device for Cuda {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn description(&self) -> String {
        format!("{}, compute capability {}.{}", self.model, self.capability.0, self.capability.1)
    }

    fn check(&self, target: &Target) -> Result<(), TargetError> {
        target.check_cuda(self.capability.0, self.capability.1)
    }

    fn allocate(&self, bytes: u64) -> Result<Box<dyn Memory>, DeviceError> {
        let _stream = self.lock_stream()?;
        Ok(Box::new(CudaMemory::zeroed(&self.stream, bytes)?))
    }

    fn bind_weight(&self, weight: &WeightBytes) -> Result<Box<dyn Memory>, DeviceError> {
        let _stream = self.lock_stream()?;
        Ok(Box::new(CudaMemory::holding(&self.stream, weight.as_slice())?))
    }

    fn upload_at(&self, bytes: &[u8], memory: &mut dyn Memory, offset: u64) -> Result<(), DeviceError> {
        check_copy(bytes.len(), memory, offset)?;
        let _stream = self.lock_stream()?;
        Ok(memory::upload(&self.stream, bytes, memory, offset)?)
    }

    fn download(&self, memory: &dyn Memory, bytes: &mut [u8]) -> Result<(), DeviceError> {
        check_copy(bytes.len(), memory, 0)?;
        let _stream = self.lock_stream()?;
        Ok(memory::download(&self.stream, memory, bytes)?)
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        let waited = self.stream.synchronize();
        Ok(waited.map_err(|error| CudaError::call("waiting for the GPU", error))?)
    }

    fn reads_host_memory(&self) -> bool {
        false
    }

    fn load(self: Arc<Self>, artifact: &Artifact, function: &Plan) -> Result<Box<dyn Module>, DeviceError> {
        Ok(Box::new(CudaModule::load(self, artifact, function)?))
    }
}

#[cfg(test)]
mod tests;
