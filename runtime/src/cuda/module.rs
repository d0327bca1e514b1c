//! PTX kernels, loaded.

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::{CudaContext, result, sys};

use super::recording::CudaRecording;
use super::{Cuda, CudaError};
use crate::artifact::{Artifact, Code};
use crate::device::{DeviceError, Module, PreparedLaunch, Recording};
use crate::plan::{Kernel, ParameterKind, Plan};

/// Room for what the driver's compiler has to say.
const LOG_BYTES: usize = 16 << 10;

/// Dynamic shared memory that a kernel may use without asking (CUDA C++ Programming Guide, compute capabilities).
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;

/// The kernels of an artifact on a GPU.
#[derive(Debug)]
pub(super) struct CudaModule {
    kernels: Arc<Vec<LoadedKernel>>,
    device: Arc<Cuda>,
}

/// A kernel, and what a launch of it needs.
#[derive(Debug)]
pub(super) struct LoadedKernel {
    function: sys::CUfunction,
    module: sys::CUmodule,
    context: Arc<CudaContext>,
    pub specification: Kernel,
}

// SAFETY: the handles belong to the context, and the driver's functions on them may be called from any thread.
unsafe impl Send for LoadedKernel {}
// SAFETY: as above.
unsafe impl Sync for LoadedKernel {}

impl LoadedKernel {
    /// The function. It may be launched while this kernel lives.
    pub fn function(&self) -> sys::CUfunction {
        self.function
    }

    fn load(context: &Arc<CudaContext>, specification: &Kernel, ptx: &str) -> Result<LoadedKernel, CudaError> {
        let failed = |error| CudaError::call(format!("loading kernel `{}`", specification.name), error);
        let invalid = || CudaError::Ptx { kernel: specification.name.clone(), log: "it has a zero byte".into() };
        let image = CString::new(ptx).map_err(|_| invalid())?;
        let name = CString::new(specification.name.as_str()).map_err(|_| invalid())?;
        context.bind_to_thread().map_err(failed)?;
        let module = load_image(&image, &specification.name)?;
        // From here on the value unloads the module, whatever fails.
        let mut kernel = LoadedKernel {
            function: std::ptr::null_mut(),
            module,
            context: context.clone(),
            specification: specification.clone(),
        };
        // SAFETY: the module was just loaded.
        kernel.function = unsafe { result::module::get_function(module, name) }.map_err(failed)?;
        kernel.allow_shared_memory()?;
        Ok(kernel)
    }

    /// Asks for the dynamic shared memory that is more than every kernel has.
    fn allow_shared_memory(&self) -> Result<(), CudaError> {
        let bytes = self.specification.dynamic_shared_bytes;
        if bytes <= SHARED_WITHOUT_ASKING {
            return Ok(());
        }
        let kernel = self.specification.name.clone();
        let failed = |error| CudaError::call(format!("asking for shared memory for kernel `{kernel}`"), error);
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let limit = self.context.attribute(attribute).map_err(failed)? as u32;
        if bytes > limit {
            return Err(CudaError::SharedMemory { kernel: kernel.clone(), bytes, limit });
        }
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function belongs to the module that this value keeps loaded.
        unsafe { result::function::set_function_attribute(self.function, attribute, bytes as i32) }.map_err(failed)
    }
}

impl Drop for LoadedKernel {
    fn drop(&mut self) {
        // SAFETY: the module was loaded by `load` and is unloaded once. Launches of its function have ended: whoever runs a
        // recording waits for it (`Recording::run`).
        let unloaded = self.context.bind_to_thread().and_then(|()| unsafe { result::module::unload(self.module) });
        if let Err(error) = unloaded {
            tracing::warn!(?error, kernel = self.specification.name, "a kernel was not unloaded");
        }
    }
}

/// Has the driver compile PTX, and keeps what it says where it will not.
fn load_image(image: &CString, kernel: &str) -> Result<sys::CUmodule, CudaError> {
    let mut module = std::ptr::null_mut();
    let mut log = vec![0u8; LOG_BYTES];
    let mut options =
        [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    // The driver takes numbers in place of pointers here.
    let mut values = [log.as_mut_ptr().cast::<c_void>(), LOG_BYTES as *mut c_void];
    // SAFETY: the image ends with a zero byte, and the log has as many bytes as the options say.
    let status = unsafe {
        sys::cuModuleLoadDataEx(
            &mut module,
            image.as_ptr().cast(),
            options.len() as u32,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    match status.result() {
        Ok(()) => Ok(module),
        Err(error) => {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            let log = String::from_utf8_lossy(&log[..end]).trim().to_string();
            let CudaError::Call { error, .. } = CudaError::call("", error) else { unreachable!("it was just made") };
            let log = if log.is_empty() { error } else { format!("{error}\n{log}") };
            Err(CudaError::Ptx { kernel: kernel.into(), log })
        }
    }
}

impl CudaModule {
    /// Loads every kernel of a function.
    pub fn load(device: Arc<Cuda>, artifact: &Artifact, function: &Plan) -> Result<CudaModule, CudaError> {
        let mut kernels = Vec::new();
        for kernel in &function.kernels {
            let ptx = match artifact.code() {
                Code::Ptx(texts) => texts.get(&kernel.name),
                Code::Host(_) => None,
            };
            let missing = || CudaError::Ptx { kernel: kernel.name.clone(), log: "the artifact has none".into() };
            kernels.push(LoadedKernel::load(device.context(), kernel, ptx.ok_or_else(missing)?)?);
        }
        Ok(CudaModule { kernels: Arc::new(kernels), device })
    }
}

impl Module for CudaModule {
    fn prepare(&self, launches: Vec<PreparedLaunch>) -> Result<Box<dyn Recording>, DeviceError> {
        for launch in &launches {
            check(&self.kernels[launch.kernel].specification, launch)?;
        }
        Ok(Box::new(CudaRecording::new(self.device.clone(), self.kernels.clone(), launches)))
    }
}

/// Checks what only GPUs limit: grids, and integers, which PTX kernels take as 32 bits.
fn check(kernel: &Kernel, launch: &PreparedLaunch) -> Result<(), DeviceError> {
    // CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
    let limits = [i32::MAX as u32, u16::MAX.into(), u16::MAX.into()];
    if launch.grid.iter().zip(limits).any(|(size, limit)| *size > limit) {
        return Err(DeviceError::Grid { kernel: kernel.name.clone(), grid: launch.grid });
    }
    for (kind, value) in kernel.parameters.iter().zip(&launch.arguments) {
        let value = *value as i64;
        if *kind == ParameterKind::Integer && i32::try_from(value).is_err() {
            return Err(DeviceError::IntegerRange { kernel: kernel.name.clone(), value });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Partition;

    fn kernel() -> Kernel {
        Kernel {
            name: "k".into(),
            hash: String::new(),
            parameters: vec![ParameterKind::Buffer, ParameterKind::Integer, ParameterKind::Float],
            partition: Partition::default(),
            block_threads: 128,
            dynamic_shared_bytes: 0,
            scratch_bytes: 0,
        }
    }

    fn refusal(grid: [u32; 3], integer: i64) -> Option<String> {
        let launch =
            PreparedLaunch { kernel: 0, grid, arguments: vec![u64::MAX, integer as u64, u64::from(1f32.to_bits())] };
        check(&kernel(), &launch).err().map(|error| error.to_string())
    }

    #[test]
    fn integers_fit_32_bits_and_grids_the_hardware() {
        assert_eq!(refusal([i32::MAX as u32, 65535, 65535], i32::MAX.into()), None);
        assert_eq!(refusal([1, 1, 1], i32::MIN.into()), None);
        let message = refusal([1, 1, 1], 1 << 31).unwrap();
        assert!(message.starts_with("kernel `k`: the integer argument 2147483648 does not fit 32 bits"), "{message}");
        for grid in [[1 << 31, 1, 1], [1, 65536, 1], [1, 1, 65536]] {
            let message = refusal(grid, 0).unwrap();
            assert!(message.contains("more than the device allows; process fewer tokens at a time"), "{message}");
        }
    }
}
