//! Device memory.

use std::sync::Arc;

use cudarc::driver::{CudaStream, result, sys};

use super::CudaError;
use crate::device::Memory;

/// Device memory from the driver's pool. It is freed in stream order, after the launches that use it.
#[derive(Debug)]
pub(super) struct CudaMemory {
    address: sys::CUdeviceptr,
    bytes: u64,
    stream: Arc<CudaStream>,
}

impl CudaMemory {
    /// Memory of `bytes` bytes, all zero.
    pub fn zeroed(stream: &Arc<CudaStream>, bytes: u64) -> Result<CudaMemory, CudaError> {
        let failed = |error| CudaError::call(format!("allocating {bytes} bytes of GPU memory"), error);
        let context = stream.context();
        context.bind_to_thread().map_err(failed)?;
        let size = bytes.max(1) as usize;
        // SAFETY: the stream is live. The memory is owned by the value made here, and set before anything reads it.
        unsafe {
            let address = if context.has_async_alloc() {
                result::malloc_async(stream.cu_stream(), size).map_err(failed)?
            } else {
                result::malloc_sync(size).map_err(failed)?
            };
            let memory = CudaMemory { address, bytes, stream: stream.clone() };
            result::memset_d8_async(address, 0, size, stream.cu_stream()).map_err(failed)?;
            Ok(memory)
        }
    }

    /// Memory that holds a copy of `bytes`.
    pub fn holding(stream: &Arc<CudaStream>, bytes: &[u8]) -> Result<CudaMemory, CudaError> {
        let mut memory = CudaMemory::zeroed(stream, bytes.len() as u64)?;
        upload(stream, bytes, &mut memory, 0)?;
        Ok(memory)
    }
}

impl Memory for CudaMemory {
    fn address(&self) -> u64 {
        self.address
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for CudaMemory {
    fn drop(&mut self) {
        let context = self.stream.context();
        if context.bind_to_thread().is_err() {
            return;
        }
        // SAFETY: the memory came from this stream's pool, or from `malloc_sync`, and is freed once. What frees it waits for the
        // stream, or is ordered after it.
        let freed = unsafe {
            if context.has_async_alloc() {
                result::free_async(self.address, self.stream.cu_stream())
            } else {
                self.stream.synchronize().and_then(|()| result::free_sync(self.address))
            }
        };
        if let Err(error) = freed {
            tracing::warn!(?error, bytes = self.bytes, "GPU memory was not freed");
        }
    }
}

/// Copies `bytes` into `memory`, which has room for them from the offset on, in stream order.
pub(super) fn upload(stream: &CudaStream, bytes: &[u8], memory: &mut dyn Memory, offset: u64) -> Result<(), CudaError> {
    let failed = |error| CudaError::call(format!("copying {} bytes to the GPU", bytes.len()), error);
    if bytes.is_empty() {
        return Ok(());
    }
    stream.context().bind_to_thread().map_err(failed)?;
    // SAFETY: the destination is live and, as the caller has checked, large enough. The driver has copied pageable memory when it returns ("API
    // synchronization behavior" in its manual); page-locked memory it reads on, until the stream is waited for, which
    // loading a model and running it both end with.
    unsafe { result::memcpy_htod_async(memory.address() + offset, bytes, stream.cu_stream()) }.map_err(failed)
}

/// Copies from the start of `memory`, which has as many bytes, after all launches made so far.
pub(super) fn download(stream: &CudaStream, memory: &dyn Memory, bytes: &mut [u8]) -> Result<(), CudaError> {
    let failed = |error| CudaError::call(format!("copying {} bytes from the GPU", bytes.len()), error);
    if bytes.is_empty() {
        return Ok(());
    }
    stream.context().bind_to_thread().map_err(failed)?;
    // SAFETY: the source is live and, as the caller has checked, large enough, and the destination is not read before the wait.
    unsafe { result::memcpy_dtoh_async(bytes, memory.address(), stream.cu_stream()) }
        .and_then(|()| stream.synchronize())
        .map_err(|error| CudaError::call("copying from the GPU", error))
}
