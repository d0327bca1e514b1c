//! Launches on a GPU, and the CUDA graph that replays them.

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaGraph, result, sys};

use super::module::LoadedKernel;
use super::{Cuda, CudaError};
use crate::device::{DeviceError, PreparedLaunch, Recording};

/// Prepared launches of a CUDA module.
///
/// They are launched one by one at first. When the same launches with the same arguments run a second time, as a decode step's
/// do, they are captured as a graph, and from then on one call launches them all.
pub(super) struct CudaRecording {
    launches: Vec<PreparedLaunch>,
    replay: Replay,
    kernels: Arc<Vec<LoadedKernel>>,
    device: Arc<Cuda>,
}

/// How the next run goes.
enum Replay {
    /// Nothing with these arguments has run.
    Changed,
    /// They have run once.
    Ran,
    /// They are captured.
    Captured(Graph),
    /// The driver has no graphs.
    Unsupported,
}

struct Graph(CudaGraph);

// SAFETY: a graph may be used from any thread, by one at a time; a recording is borrowed exclusively to run.
unsafe impl Send for Graph {}

impl fmt::Debug for CudaRecording {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CudaRecording").field("launches", &self.launches).finish_non_exhaustive()
    }
}

impl CudaRecording {
    pub fn new(device: Arc<Cuda>, kernels: Arc<Vec<LoadedKernel>>, launches: Vec<PreparedLaunch>) -> CudaRecording {
        CudaRecording { launches, replay: Replay::Changed, kernels, device }
    }

    /// Launches one kernel.
    ///
    /// # Safety
    ///
    /// As for [`Recording::run`].
    unsafe fn launch(&self, index: usize) -> Result<(), CudaError> {
        let launch = &self.launches[index];
        let kernel = &self.kernels[launch.kernel];
        let specification = &kernel.specification;
        let mut parameters = parameters(&launch.arguments);
        // SAFETY: the function is loaded, the parameters match it (the plan was validated, and each slot is as large as any
        // parameter), and the addresses among them are the caller's business.
        let launched = unsafe {
            result::launch_kernel(
                kernel.function(),
                launch.grid.into(),
                (specification.block_threads, 1, 1),
                specification.dynamic_shared_bytes,
                self.device.stream().cu_stream(),
                &mut parameters,
            )
        };
        launched.map_err(|error| CudaError::call(format!("launching kernel `{}`", specification.name), error))
    }

    /// Launches all kernels, one by one.
    ///
    /// # Safety
    ///
    /// As for [`Recording::run`].
    unsafe fn launch_all(&self) -> Result<(), CudaError> {
        // SAFETY: the caller's.
        (0..self.launches.len()).try_for_each(|index| unsafe { self.launch(index) })
    }

    /// Captures the launches as a graph; `None` where the driver cannot.
    ///
    /// # Safety
    ///
    /// As for [`Recording::run`], for as long as the graph is launched.
    unsafe fn capture(&self) -> Result<Option<Graph>, CudaError> {
        let stream = self.device.stream();
        let failed = |error| CudaError::call("capturing the launches as a graph", error);
        match stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) {
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NOT_SUPPORTED => return Ok(None),
            begun => begun.map_err(failed)?,
        }
        // SAFETY: the caller's.
        let launched = unsafe { self.launch_all() };
        // The capture is ended whatever happened, or the stream would stay in it.
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
        launched?;
        match graph {
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NOT_SUPPORTED => Ok(None),
            graph => Ok(graph.map_err(failed)?.map(Graph)),
        }
    }
}

/// A pointer to each argument's slot, as the driver wants them. It reads 8, 4 and 4 bytes of a buffer's, an integer's and a float's;
/// the machine is little-endian, so the low half of a slot comes first.
fn parameters(arguments: &[u64]) -> Vec<*mut c_void> {
    arguments.iter().map(|slot| std::ptr::from_ref(slot).cast_mut().cast()).collect()
}

impl Recording for CudaRecording {
    fn set_argument(&mut self, launch: usize, argument: usize, value: u64) {
        let slot = &mut self.launches[launch].arguments[argument];
        if *slot != value {
            *slot = value;
            if !matches!(self.replay, Replay::Unsupported) {
                self.replay = Replay::Changed;
            }
        }
    }

    unsafe fn run(&mut self) -> Result<(), DeviceError> {
        if self.launches.is_empty() {
            return Ok(());
        }
        let device = self.device.clone();
        let _stream = device.lock_stream()?;
        if let Replay::Ran = self.replay {
            // SAFETY: the caller's; a changed argument drops the graph.
            self.replay = match unsafe { self.capture() }? {
                Some(graph) => Replay::Captured(graph),
                None => Replay::Unsupported,
            };
        }
        match &self.replay {
            Replay::Captured(graph) => {
                graph.0.launch().map_err(|error| CudaError::call("launching the captured graph", error))?;
            }
            Replay::Changed => {
                // SAFETY: the caller's.
                unsafe { self.launch_all() }?;
                self.replay = Replay::Ran;
            }
            // SAFETY: the caller's.
            Replay::Ran | Replay::Unsupported => unsafe { self.launch_all() }?,
        }
        Ok(())
    }

    unsafe fn profile(&mut self) -> Result<Vec<Duration>, DeviceError> {
        let _stream = self.device.lock_stream()?;
        let failed = |error| CudaError::call("timing the launches", error);
        let mark = || {
            let event = self.device.stream().record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT));
            event.map_err(failed)
        };
        let mut marks = vec![mark()?];
        for index in 0..self.launches.len() {
            // SAFETY: the caller's.
            unsafe { self.launch(index) }?;
            marks.push(mark()?);
        }
        let between = |pair: &[cudarc::driver::CudaEvent]| {
            let milliseconds = pair[0].elapsed_ms(&pair[1]).map_err(failed)?;
            Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1000.0))
        };
        marks.windows(2).map(between).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_finds_each_argument_where_its_type_begins() {
        let arguments = [0x1122_3344_5566_7788u64, (-5i64) as u64, u64::from(1.5f32.to_bits())];
        let pointers = parameters(&arguments);
        // SAFETY: each pointer is to a live slot of 8 bytes.
        unsafe {
            assert_eq!(*pointers[0].cast::<u64>(), 0x1122_3344_5566_7788);
            assert_eq!(*pointers[1].cast::<i32>(), -5);
            assert_eq!(*pointers[2].cast::<f32>(), 1.5);
        }
    }
}
