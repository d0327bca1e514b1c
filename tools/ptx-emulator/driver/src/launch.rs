//! Launches, and the graphs that hold them.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use ptx_emulator::decode::Module;
use ptx_emulator::machine::fault::Fault;
use ptx_emulator::machine::grid::Grid;
use ptx_emulator::machine::kernel::Kernel;
use ptx_emulator::tensor_core::accumulation::Accumulation;

use crate::error::{Answer, CUresult};
use crate::state::{Object, SEED_VARIABLE, driver};

/// A piece of work that can be done again.
pub type Work = Arc<dyn Fn() -> Answer<()> + Send + Sync>;

/// What a stream recorded, in order.
#[derive(Clone, Default)]
pub struct Recording {
    /// The work.
    pub work: Vec<Work>,
}

/// Does a piece of work now, or records it if its stream is captured.
pub fn issue(stream: u64, work: impl Fn() -> Answer<()> + Send + Sync + 'static) -> Answer<()> {
    if let Some(recording) = driver().tables().captures.get_mut(&stream) {
        recording.work.push(Arc::new(work));
        return Ok(());
    }
    work()
}

/// A kernel with everything a launch says.
struct Launch {
    kernel: Arc<Kernel>,
    /// Keeps the kernel's variables.
    _module: Arc<Module>,
    extent: [u32; 3],
    block: [u32; 3],
    cluster: [u32; 3],
    shared: u32,
    parameters: Vec<u8>,
}

impl Launch {
    fn run(&self) -> Answer<()> {
        driver().check()?;
        let chip = driver().chip();
        let seed = std::env::var(SEED_VARIABLE).ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
        let grid = Grid {
            kernel: &self.kernel,
            extent: self.extent,
            block: self.block,
            cluster: self.cluster,
            dynamic_shared: self.shared,
            parameters: self.parameters.clone(),
            memory: driver().memory.view(),
            multiprocessors: chip.multiprocessors,
            seed,
            accumulation: Accumulation::from_environment(),
        };
        if grid.shared_bytes() > chip.shared_per_block.max(227 << 10) {
            eprintln!(
                "ptx-emulator: kernel {} is launched with {} bytes of shared memory; {} has {}",
                self.kernel.name,
                grid.shared_bytes(),
                chip.name,
                chip.shared_per_block
            );
            return Err(CUresult::INVALID_VALUE);
        }
        grid.run().map(drop).map_err(|fault| report(&fault))
    }
}

/// Says what went wrong; errors of threads stop the context.
fn report(fault: &Fault) -> CUresult {
    use ptx_emulator::machine::fault::FaultKind;
    eprintln!("ptx-emulator: {fault}");
    let error = CUresult::from(fault.kind);
    if fault.kind != FaultKind::InvalidLaunch {
        driver().tables().sticky = Some(error);
    }
    error
}

/// Gathers the parameters' bytes.
///
/// # Safety
/// `parameters` is null, or has a pointer for each parameter of the kernel to as many bytes as it has; or `extra` is as the driver
/// API says.
unsafe fn gather(kernel: &Kernel, parameters: *const *const c_void, extra: *const *const c_void) -> Answer<Vec<u8>> {
    let mut bytes = vec![0; kernel.parameter_bytes as usize];
    if !parameters.is_null() {
        for (at, (offset, length)) in kernel.parameters.iter().enumerate() {
            // SAFETY: the caller's.
            let from = unsafe { *parameters.add(at) };
            if from.is_null() {
                return Err(CUresult::INVALID_VALUE);
            }
            let into = &mut bytes[*offset as usize..(*offset + *length) as usize];
            // SAFETY: the caller's.
            unsafe { std::ptr::copy_nonoverlapping(from.cast(), into.as_mut_ptr(), into.len()) };
        }
        return Ok(bytes);
    }
    if extra.is_null() {
        return if kernel.parameters.is_empty() { Ok(bytes) } else { Err(CUresult::INVALID_VALUE) };
    }
    // A list of keys and values: 1 is the buffer, 2 its size, 0 ends it.
    let (mut buffer, mut size, mut at) = (std::ptr::null(), 0, 0);
    loop {
        // SAFETY: the caller's.
        let (key, value) = unsafe { (*extra.add(at) as usize, *extra.add(at + 1)) };
        match key {
            0 => break,
            1 => buffer = value.cast::<u8>(),
            // SAFETY: the caller's.
            2 => size = unsafe { *value.cast::<usize>() },
            _ => return Err(CUresult::INVALID_VALUE),
        }
        at += 2;
    }
    if buffer.is_null() || size < bytes.len() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's.
    unsafe { std::ptr::copy_nonoverlapping(buffer, bytes.as_mut_ptr(), bytes.len()) };
    Ok(bytes)
}

/// What all launches have in common.
struct Shape {
    extent: [u32; 3],
    block: [u32; 3],
    cluster: Option<[u32; 3]>,
    shared: u32,
    stream: u64,
}

/// # Safety
/// As [`gather`].
unsafe fn launch(
    function: u64,
    shape: Shape,
    parameters: *const *const c_void,
    extra: *const *const c_void,
) -> Answer<()> {
    driver().device()?;
    let Object::Function(kernel, module) = driver().find(function)? else { return Err(CUresult::INVALID_HANDLE) };
    // SAFETY: the caller's.
    let parameters = unsafe { gather(&kernel, parameters, extra)? };
    let cluster = shape.cluster.or(kernel.requirements.cluster).unwrap_or([1; 3]);
    let Shape { extent, block, shared, .. } = shape;
    let launch = Launch { kernel, _module: module, extent, block, cluster, shared, parameters };
    issue(shape.stream, move || launch.run())
}

/// `CUlaunchConfig`.
#[repr(C)]
pub struct Config {
    extent: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    stream: u64,
    attributes: *const Attribute,
    count: c_uint,
}

/// `CUlaunchAttribute`.
#[repr(C, align(8))]
pub struct Attribute {
    id: c_uint,
    _padding: [u8; 4],
    value: [u32; 16],
}

/// The attribute that says how large clusters are.
const CLUSTER_DIMENSION: c_uint = 4;

calls! {
    /// Launches a kernel.
    fn cuLaunchKernel(
        function: u64, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint, block_z: c_uint,
        shared: c_uint, stream: u64, parameters: *const *const c_void, extra: *const *const c_void
    ) {
        let (extent, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        launch(function, Shape { extent, block, cluster: None, shared, stream }, parameters, extra)
    }

    /// Launches a kernel with attributes.
    fn cuLaunchKernelEx(config: *const Config, function: u64, parameters: *const *const c_void, extra: *const *const c_void) {
        let config = config.as_ref().ok_or(CUresult::INVALID_VALUE)?;
        let attributes = if config.attributes.is_null() {
            &[]
        } else {
            // SAFETY: the program says that there are as many.
            std::slice::from_raw_parts(config.attributes, config.count as usize)
        };
        let cluster = attributes.iter().find(|attribute| attribute.id == CLUSTER_DIMENSION);
        let cluster = cluster.map(|attribute| [attribute.value[0], attribute.value[1], attribute.value[2]]);
        let Config { extent, block, shared, stream, .. } = *config;
        launch(function, Shape { extent, block, cluster, shared, stream }, parameters, extra)
    }

    /// Launches a kernel whose CTAs may wait for each other: all may.
    fn cuLaunchCooperativeKernel(
        function: u64, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint, block_z: c_uint,
        shared: c_uint, stream: u64, parameters: *const *const c_void
    ) {
        let (extent, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        launch(function, Shape { extent, block, cluster: None, shared, stream }, parameters, std::ptr::null())
    }

    /// Runs a function of the program's, in a stream.
    fn cuLaunchHostFunc(stream: u64, function: Option<unsafe extern "C" fn(*mut c_void)>, data: *mut c_void) {
        let function = function.ok_or(CUresult::INVALID_VALUE)?;
        let data = data as usize;
        issue(stream, move || {
            // SAFETY: the program's function with the program's data.
            unsafe { function(data as *mut c_void) };
            Ok(())
        })
    }
}

/// Modes of capture change nothing.
pub type CaptureMode = c_int;
